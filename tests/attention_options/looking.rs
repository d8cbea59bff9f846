//! What a head looks at: weights of chosen rows and entropies.

use crate::agreement::close;
use crate::case::{Case, any_case};
use crate::launch::Launch;
use crate::limits::lacking;
use crate::support::compare::same_bits;
use crate::support::devices::TestDevice;
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use crate::support::tolerance;
use gatewarp::attention::{
    ActiveHeads, AttentionOptions, AttentionRow, attention_entropy, attention_forward, attention_weights,
};
use gatewarp::{DType, Device, Result, Tensor};

/// Weights and entropies of one case against the oracle.
fn looked_at(device: &Device, case: &Case, dtype: DType) -> std::result::Result<(), String> {
    let data = case.data(dtype);
    let p = &data.problem;
    let launch = Launch::new(device, dtype, case, &data);
    let run = launch.forward()?;
    let mut random = Random::new(case.seed, 31);
    let there_are_rows = p.batch * p.q_heads * p.q_slots > 0;
    let count = if there_are_rows { random.below(25) } else { 0 };
    // Of packed sequences also rows beyond the sample's own: they weigh nothing.
    let rows: Vec<AttentionRow> = (0..count)
        .map(|_| AttentionRow {
            sample: random.below(p.batch),
            head: random.below(p.q_heads),
            query: random.below(p.q_slots),
        })
        .collect();
    let (weights, entropy) = launch.look(&run, &rows)?;
    let (unit, tiny) = tolerance::attention_unit(if dtype == DType::F64 { dtype } else { DType::F32 });
    for (row, at) in rows.iter().enumerate() {
        let (want, _) = p.looking(at.sample, at.head, at.query);
        let got = &weights[row * p.kv_slots..][..p.kv_slots];
        close(&format!("weights of {at:?}"), got, &want.values, |j| 2.0 * unit * want.terms[j] + tiny)?;
        // Exactly nothing where nothing is seen.
        let hidden =
            |j: &usize| !(at.query < p.q_len[at.sample] && p.visible(at.sample, at.head, at.query, *j));
        if let Some(j) = (0..p.kv_slots).filter(hidden).find(|&j| got[j].to_bits() != 0) {
            return Err(format!("{at:?} does not see key {j} and gives it {:e}", got[j]));
        }
    }
    let mut want = vec![(0.0, 0.0); p.batch * p.q_heads * p.q_slots];
    for (b, h, i) in p.rows() {
        let (_, one) = p.looking(b, h, i);
        want[p.row(b, h, i)] = (one.values[0], one.terms[0]);
    }
    let values: Vec<f64> = want.iter().map(|one| one.0).collect();
    close("entropy", &entropy, &values, |row| 2.0 * unit * want[row].1 + tiny)
}

pub fn weights_and_entropies_are_the_formula(device: &TestDevice) -> std::result::Result<(), String> {
    let types = [(DType::F32, 1), (DType::F16, 4), (DType::BF16, 4), (DType::F64, 4)];
    for (dtype, share) in types.into_iter().filter(|(dtype, _)| !lacking(device.backend(), *dtype)) {
        let name = format!("weights_and_entropies {dtype}");
        check(&name, device, CASES / share, &any_case(), |handle, case| looked_at(handle, case, dtype))?;
    }
    Ok(())
}

/// Numbers of the pairs that are on, then of the others, and how many are on.
fn active_first(on: &[bool]) -> (Vec<u32>, u32) {
    let part = |value: bool| (0..on.len() as u32).filter(move |&i| on[i as usize] == value);
    (part(true).chain(part(false)).collect(), part(true).count() as u32)
}

/// Rows of pairs that do not take part: weights 0, entropy 0, nothing of theirs read. The others as without a list.
pub fn inactive_pairs_weigh_nothing(device: &TestDevice) -> std::result::Result<(), String> {
    for seed in 0..48 {
        inactive(device.handle(seed as usize), seed)
            .map_err(|error| format!("seed {seed}: {error}"))?
            .map_err(|error| format!("seed {seed}: {error}"))?;
    }
    Ok(())
}

fn inactive(handle: &Device, seed: u64) -> Result<std::result::Result<(), String>> {
    let mut random = Random::new(seed, 4);
    let (batch, kv_heads, group) = (1 + random.below(3), 1 + random.below(2), 1 + random.below(3));
    let (heads, q_len, kv_len, dim) =
        (kv_heads * group, 1 + random.below(40), 1 + random.below(70), 1 + random.below(20));
    let (queries, keys) = ([batch, heads, q_len, dim], [batch, kv_heads, kv_len, dim]);
    let mut q = random.values(queries.iter().product(), 1.0);
    let mut k = random.values(keys.iter().product(), 1.0);
    let lengths: Vec<i32> = (0..batch).map(|_| random.below(kv_len + 1) as i32).collect();
    let lengths = Tensor::from_slice(handle, &lengths, &[batch])?;
    let all = AttentionOptions { causal: true, kv_len: Some(lengths.view()), ..Default::default() };
    let rows: Vec<AttentionRow> = (0..batch * heads * q_len)
        .map(|row| AttentionRow {
            sample: row / (heads * q_len),
            head: row / q_len % heads,
            query: row % q_len,
        })
        .collect();
    let look = |q: &Tensor, k: &Tensor, lse: &Tensor, options: &AttentionOptions<'_>| {
        let weights = attention_weights(&q.view(), &k.view(), &lse.view(), options, &rows)?;
        let entropy = attention_entropy(&q.view(), &k.view(), &lse.view(), options)?;
        Ok((weights.to_vec::<f32>()?, entropy.to_vec::<f32>()?))
    };
    let (q_all, k_all) = (Tensor::from_slice(handle, &q, &queries)?, Tensor::from_slice(handle, &k, &keys)?);
    let lse = attention_forward(&q_all.view(), &k_all.view(), &k_all.view(), &all)?.lse;
    let (all_weights, all_entropy) = look(&q_all, &k_all, &lse, &all)?;

    // None, all, or about half of the pairs.
    let style = random.below(8);
    let active: Vec<bool> =
        (0..batch * heads).map(|_| style != 0 && (style == 1 || random.one_in(2))).collect();
    let kv_active: Vec<bool> = active.chunks(group).map(|heads| heads.contains(&true)).collect();
    let mut sums = lse.to_vec::<f32>()?;
    for (pair, _) in active.iter().enumerate().filter(|(_, on)| !**on) {
        q[pair * q_len * dim..][..q_len * dim].fill(f32::NAN);
        sums[pair * q_len..][..q_len].fill(f32::NAN);
    }
    for (pair, _) in kv_active.iter().enumerate().filter(|(_, on)| !**on) {
        k[pair * kv_len * dim..][..kv_len * dim].fill(f32::NAN);
    }
    let ((order, count), (kv_order, kv_count)) = (active_first(&active), active_first(&kv_active));
    let flags: Vec<u32> = active.iter().map(|&on| on.into()).collect();
    let order = Tensor::from_slice(handle, &order, &[batch * heads])?;
    let kv_order = Tensor::from_slice(handle, &kv_order, &[batch * kv_heads])?;
    let counts = Tensor::from_slice(handle, &[count, kv_count], &[2])?;
    let flags = Tensor::from_slice(handle, &flags, &[batch, heads])?;
    let scale = Tensor::from_slice(handle, &vec![2.0f32; rows.len()], &[batch, heads, q_len])?;
    let some = AttentionOptions {
        heads: Some(ActiveHeads {
            order: order.view(),
            kv_order: kv_order.view(),
            counts: counts.view(),
            active: flags.view(),
            row_scale: scale.view(),
        }),
        ..all.clone()
    };
    let (q, k) = (Tensor::from_slice(handle, &q, &queries)?, Tensor::from_slice(handle, &k, &keys)?);
    let sums = Tensor::from_slice(handle, &sums, &[batch, heads, q_len])?;
    let (weights, entropy) = look(&q, &k, &sums, &some)?;
    let taken = |values: &[f32], width: usize| -> Vec<f32> {
        let kept = |(at, x): (usize, &f32)| if active[at / (q_len * width)] { *x } else { 0.0 };
        values.iter().enumerate().map(kept).collect()
    };
    Ok(same_bits("weights", &weights, &taken(&all_weights, kv_len)).and(same_bits(
        "entropy",
        &entropy,
        &taken(&all_entropy, 1),
    )))
}
