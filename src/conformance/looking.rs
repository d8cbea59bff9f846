//! Cases of what surrounds `attention`: weights, entropies, appending to a cache.

use super::attention::{Case, FLUSHED, Placed, U, launch_forward, softmax};
use super::compare::{Comparison, Expected};
use super::random::Random;
use super::{Checked, Failure, Operation};
use crate::attention::{AttentionRow, Sequences, attention_append, attention_entropy, attention_weights};
use crate::device::Device;
use crate::tensor::Tensor;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation { name: "attention_weights", check: weights },
    Operation { name: "attention_entropy", check: entropy },
    Operation { name: "attention_append", check: append },
];

/// Weights of a query row, its entropy, and how much one rounding of a score changes each term. Nothing for an inactive pair.
fn expected(case: &Case, [b, h, i]: [usize; 3]) -> (Vec<Expected>, Expected) {
    let tiny = f64::from(f32::MIN_POSITIVE);
    let none = Expected { value: 0.0, tolerance: 0.0 };
    let (mut weights, mut entropy) = (vec![none; case.kv_slots], none);
    let pair = b * case.q_heads + h;
    if !case.active(pair) {
        return (weights, entropy);
    }
    let keys = (b * case.kv_heads + h / (case.q_heads / case.kv_heads)) * case.kv_slots;
    let row = softmax(case, b, pair * case.q_len + i, keys, i);
    for (j, slot) in weights.iter_mut().enumerate().filter(|(j, _)| case.visible(b, i, *j)) {
        let (p, unit) = (row.p[j], 32.0 * U * row.growth);
        let log = if p > 0.0 { p.ln() } else { 0.0 };
        let tolerance = unit * (p + FLUSHED) + tiny;
        *slot = Expected { value: p, tolerance };
        entropy.value -= p * log;
        // p·ln p changes by (1 + ln p)·dp.
        entropy.tolerance += tolerance * (1.0 + log.abs());
    }
    (weights, entropy)
}

fn weights(device: &Device, number: usize, seed: u64) -> Checked {
    let case = Case::new(number, seed);
    let run = || -> Result<f64, Failure> {
        let placed = Placed::new(device, &case)?;
        let (_, lse) = launch_forward(device, &case, &placed)?;
        let (q, k) = (placed.view(&placed.q)?, placed.view(&placed.k)?);
        let mut random = Random::new(seed ^ 1);
        let place = |random: &mut Random| {
            [case.batch, case.q_heads, case.q_len].map(|size| random.between(0, size - 1))
        };
        let places: Vec<[usize; 3]> = (0..random.between(1, 40)).map(|_| place(&mut random)).collect();
        let rows: Vec<AttentionRow> =
            places.iter().map(|&[sample, head, query]| AttentionRow { sample, head, query }).collect();
        let got = attention_weights(&q, &k, &lse.view()?, &placed.options(), &rows)?;
        let want: Vec<_> = places.iter().flat_map(|&at| expected(&case, at).0).map(Some).collect();
        let mut comparison = Comparison::default();
        comparison.check("weights", &got.to_vec::<f32>()?, &want)?;
        Ok(comparison.worst)
    };
    Checked { problem: case.describe(), worst: run() }
}

fn entropy(device: &Device, number: usize, seed: u64) -> Checked {
    let case = Case::new(number, seed);
    let run = || -> Result<f64, Failure> {
        let placed = Placed::new(device, &case)?;
        let (_, lse) = launch_forward(device, &case, &placed)?;
        let (q, k) = (placed.view(&placed.q)?, placed.view(&placed.k)?);
        let got = attention_entropy(&q, &k, &lse.view()?, &placed.options())?;
        let rows = case.batch * case.q_heads * case.q_len;
        let place =
            |row: usize| [row / case.q_len / case.q_heads, row / case.q_len % case.q_heads, row % case.q_len];
        let want: Vec<_> = (0..rows).map(|row| Some(expected(&case, place(row)).1)).collect();
        let mut comparison = Comparison::default();
        comparison.check("entropy", &got.to_vec::<f32>()?, &want)?;
        Ok(comparison.worst)
    };
    Checked { problem: case.describe(), worst: run() }
}

/// The problem's keys and values, in order, behind what caches hold already, in slots or in pages; every element of the caches.
fn append(device: &Device, number: usize, seed: u64) -> Checked {
    let case = Case::new(number, seed);
    let mut random = Random::new(seed ^ 2);
    let (batch, heads, new) = (case.batch, case.kv_heads, case.kv_slots);
    let paged = random.one_in(2);
    let (page, before) = (random.choose(&[16usize, 32]), random.between(0, 40));
    let pages = (before + new).div_ceil(page);
    let (entries, rows) = if paged { (batch * pages, page) } else { (batch, before + new + 2) };
    let lengths: Vec<i32> = (0..batch).map(|_| random.between(0, before) as i32).collect();
    // From the last page to the first.
    let table: Vec<i32> = (0..batch * pages).rev().map(|page| page as i32).collect();
    let run = || -> Result<f64, Failure> {
        let placed = Placed::new(device, &case)?;
        let lens = Tensor::from_slice(device, &lengths, &[batch])?;
        let table_on_device = Tensor::from_slice(device, &table, &[batch, pages])?;
        let sequences =
            if paged { Sequences::Paged { table: table_on_device.view() } } else { Sequences::Dense };
        let old = |width: usize| {
            let count = entries * heads * rows * width;
            Random::new(seed ^ width as u64).values(count, 1.0)
        };
        let cache = |width: usize| Tensor::from_slice(device, &old(width), &[entries, heads, rows, width]);
        let (mut k_cache, mut v_cache) = (cache(case.head_dim)?, cache(case.value_dim)?);
        attention_append(
            &mut k_cache.view_mut(),
            &mut v_cache.view_mut(),
            &placed.view(&placed.k)?,
            &placed.view(&placed.v)?,
            &lens.view(),
            &sequences,
        )?;
        device.synchronize()?;
        let both =
            [("k_cache", &k_cache, &case.k, case.head_dim), ("v_cache", &v_cache, &case.v, case.value_dim)];
        for (name, cache, from, width) in both {
            let mut want = old(width);
            for (row, values) in from.chunks(width).enumerate() {
                let (b, h, key) =
                    (row / new / heads, row / new % heads, lengths[row / new / heads] as usize + row % new);
                let (entry, at) =
                    if paged { (table[b * pages + key / page] as usize, key % page) } else { (b, key) };
                want[((entry * heads + h) * rows + at) * width..][..width].copy_from_slice(values);
            }
            let got = cache.to_vec::<f32>()?;
            let differs = |at: &usize| got[*at].to_bits() != want[*at].to_bits();
            if let Some(at) = (0..want.len()).find(differs) {
                return Err(Failure::Wrong(format!(
                    "{name}[{at}] is {:e}, expected {:e}",
                    got[at], want[at]
                )));
            }
        }
        Ok(0.0)
    };
    Checked {
        problem: format!("{}, {} behind {lengths:?}", case.describe(), if paged { "pages" } else { "slots" }),
        worst: run(),
    }
}
