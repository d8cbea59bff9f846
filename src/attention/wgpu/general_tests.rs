//! The general kernels: every score and option against the formula in f64 and its central differences, and layouts, types and
//! parts of a cache against each other, bit by bit. The public suites go further.

use super::tests::Random;
use crate::attention::*;
use crate::device::wgpu::tests;
use crate::device::{Device, Kind};
use crate::dtype::Element;
use crate::random;
use crate::tensor::Tensor;
use half::{bf16, f16};

fn device() -> Option<Device> {
    tests::device().map(|device| Device(Kind::Wgpu(device)))
}

fn tensor<T: Element>(device: &Device, data: &[T], shape: &[usize]) -> Tensor {
    Tensor::from_slice(device, data, shape).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kinds {
    Dot,
    Cosine,
    ComplexDot,
    Fidelity,
    Gaussian,
    Additive,
}
const KINDS: [Kinds; 6] =
    [Kinds::Dot, Kinds::Cosine, Kinds::ComplexDot, Kinds::Fidelity, Kinds::Gaussian, Kinds::Additive];

/// A small problem and everything that has a derivative, in one list of parameters each.
#[derive(Clone)]
struct Small {
    kind: Kinds,
    batch: usize,
    heads: usize,
    group: usize,
    rows: usize,
    keys: usize,
    dim: usize,
    width: usize,
    softcap: Option<f64>,
    window: Option<(i64, i64)>,
    offset: i64,
    mask: Option<Vec<u8>>,
    bias_shape: [usize; 4],
    has: [bool; 4], // bias, alibi, sinks, dropout
    /// q, k, v, bias, sinks, alibi, w, scale (gamma).
    inputs: [Vec<f64>; 8],
}

const P: f64 = 0.4;
const SEED: u64 = 0x1234_5678_9abc_def0;
const OFFSET: u64 = 3;

impl Small {
    fn random(r: &mut Random, kind: Kinds) -> Self {
        let (batch, kv_heads, group) = (1 + r.below(2), 1 + r.below(2), 1 + r.below(2));
        let (heads, rows, keys) = (kv_heads * group, 1 + r.below(4), 1 + r.below(6));
        let (dim, width) = (2 * (1 + r.below(3)), 1 + r.below(4));
        let mut bias_shape = [batch, heads, rows, keys];
        bias_shape.iter_mut().for_each(|size| *size = if r.coin() { *size } else { 1 });
        let has: [bool; 4] = std::array::from_fn(|_| r.coin());
        let per_head = if kind == Kinds::Additive { dim } else { 0 };
        let sizes = [
            batch * heads * rows * dim,
            batch * kv_heads * keys * dim,
            batch * kv_heads * keys * width,
            if has[0] { bias_shape.iter().product() } else { 0 },
            if has[2] { heads } else { 0 },
            if has[1] { heads } else { 0 },
            heads * per_head,
            0,
        ];
        let mut inputs = sizes.map(|n| r.values(n).into_iter().map(f64::from).collect::<Vec<_>>());
        inputs[7] = vec![f64::from(r.value())];
        let softcap = r.coin().then_some(0.75);
        let window = r.coin().then(|| (r.below(4) as i64, r.below(3) as i64));
        let (offset, masked) = (r.below(5) as i64 - 1, r.coin());
        let mask = masked.then(|| (0..batch * rows * keys).map(|_| u8::from(r.below(4) > 0) * 7).collect());
        Self {
            kind,
            batch,
            heads,
            group,
            rows,
            keys,
            dim,
            width,
            softcap,
            window,
            offset,
            mask,
            bias_shape,
            has,
            inputs,
        }
    }

    fn score(&self, q: &[f64], k: &[f64], w: &[f64]) -> f64 {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let scale = self.inputs[7][0];
        scale
            * match self.kind {
                Kinds::Dot | Kinds::ComplexDot => dot(q, k),
                Kinds::Cosine => dot(q, k) / (dot(q, q) * dot(k, k)).sqrt(),
                Kinds::Fidelity => {
                    let turned: Vec<f64> = k.chunks(2).flat_map(|c| [c[1], -c[0]]).collect();
                    dot(q, k).powi(2) + dot(q, &turned).powi(2)
                }
                Kinds::Gaussian => -q.iter().zip(k).map(|(q, k)| (q - k).powi(2)).sum::<f64>(),
                Kinds::Additive => q.iter().zip(k).zip(w).map(|((q, k), w)| w * (q + k).tanh()).sum(),
            }
    }

    fn sees(&self, b: usize, i: usize, j: usize) -> bool {
        let (position, key) = (self.offset + i as i64, j as i64);
        let near = self.window.is_none_or(|(left, right)| key >= position - left && key <= position + right);
        near && self.mask.as_ref().is_none_or(|mask| mask[(b * self.rows + i) * self.keys + j] != 0)
    }

    /// o and lse.
    fn forward(&self) -> (Vec<f64>, Vec<f64>) {
        let (mut o, mut lse) = (Vec::new(), Vec::new());
        let [q, k, v, bias, sinks, alibi, w, _] = &self.inputs;
        for (pair, i) in (0..self.batch * self.heads).flat_map(|pair| (0..self.rows).map(move |i| (pair, i)))
        {
            let (b, h) = (pair / self.heads, pair % self.heads);
            let kv = pair / self.group;
            let row = pair * self.rows + i;
            let w = if w.is_empty() { &w[..] } else { &w[h * self.dim..][..self.dim] };
            let mut terms = Vec::new();
            for j in (0..self.keys).filter(|&j| self.sees(b, i, j)) {
                let key = kv * self.keys + j;
                let mut z = self.score(&q[row * self.dim..][..self.dim], &k[key * self.dim..][..self.dim], w);
                if let Some(cap) = self.softcap {
                    z = cap * (z / cap).tanh();
                }
                if self.has[0] {
                    let at = self
                        .bias_shape
                        .iter()
                        .zip([b, h, i, j])
                        .fold(0, |at, (&size, index)| at * size + if size > 1 { index } else { 0 });
                    z += bias[at];
                }
                if self.has[1] {
                    z -= alibi[h] * (self.offset + i as i64 - j as i64).abs() as f64;
                }
                terms.push((key, j, z));
            }
            let sum: f64 = terms.iter().map(|term| term.2.exp()).sum::<f64>()
                + if self.has[2] { sinks[h].exp() } else { 0.0 };
            lse.push(sum.ln());
            for x in 0..self.width {
                let part = |&(key, j, z): &(usize, usize, f64)| {
                    let word = random::word(SEED, OFFSET, (row * self.keys + j) as u64);
                    let kept = !self.has[3] || f64::from(word) >= (P * 4_294_967_296.0).floor();
                    let keep = if self.has[3] { 1.0 / (1.0 - P) } else { 1.0 };
                    if kept { keep * z.exp() / sum * v[key * self.width + x] } else { 0.0 }
                };
                o.push(terms.iter().map(part).sum());
            }
        }
        (o, lse)
    }
}

/// |got − want| within `units` of f32 rounding, relative to the sizes of the terms, which are of order 1.
fn near(what: &str, got: &[f32], want: &[f64], units: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let fits = if want.is_finite() {
            (f64::from(got) - want).abs() <= units * 2f64.powi(-24) * (1.0 + want.abs())
        } else {
            f64::from(got) == want
        };
        assert!(fits, "{what}[{i}] is {got}, want {want}");
    }
}

#[test]
fn every_score_and_option_is_the_formula_and_its_derivative() {
    let Some(device) = device() else { return };
    let cases: u64 = std::env::var("GATEWARP_CASES").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    for seed in 0..cases {
        let mut r = Random(seed + 1000);
        let small = Small::random(&mut r, KINDS[seed as usize % KINDS.len()]);
        check_small(&device, &mut r, &small, seed);
    }
}

fn check_small(device: &Device, r: &mut Random, small: &Small, seed: u64) {
    let kv_heads = small.heads / small.group;
    let singles: Vec<Vec<f32>> =
        small.inputs.iter().map(|list| list.iter().map(|&x| x as f32).collect()).collect();
    let (queries, keys) =
        ([small.batch, small.heads, small.rows, small.dim], [small.batch, kv_heads, small.keys, small.dim]);
    let (q, k) = (tensor(device, &singles[0], &queries), tensor(device, &singles[1], &keys));
    let v = tensor(device, &singles[2], &[small.batch, kv_heads, small.keys, small.width]);
    let bias = small.has[0].then(|| tensor(device, &singles[3], &small.bias_shape));
    let sinks = small.has[2].then(|| tensor(device, &singles[4], &[small.heads]));
    let alibi = small.has[1].then(|| tensor(device, &singles[5], &[small.heads]));
    let w = tensor(device, &singles[6], &[small.heads, if singles[6].is_empty() { 0 } else { small.dim }]);
    let mask =
        small.mask.as_ref().map(|mask| tensor(device, mask, &[small.batch, 1, small.rows, small.keys]));
    let scale = small.inputs[7][0];
    let options = AttentionOptions {
        score: match small.kind {
            Kinds::Dot => Score::Dot,
            Kinds::Cosine => Score::Cosine,
            Kinds::ComplexDot => Score::ComplexDot,
            Kinds::Fidelity => Score::Fidelity,
            Kinds::Gaussian => Score::Gaussian { gamma: scale },
            Kinds::Additive => Score::Additive { w: w.view() },
        },
        scale: (small.kind != Kinds::Gaussian).then_some(scale),
        softcap: small.softcap,
        window: small.window.map(|(left, right)| Window { left, right }),
        query_offset: QueryOffset::At(small.offset),
        mask: mask.as_ref().map(Tensor::view),
        bias: bias.as_ref().map(Tensor::view),
        alibi: alibi.as_ref().map(Tensor::view),
        sinks: sinks.as_ref().map(Tensor::view),
        dropout: small.has[3].then_some(Dropout { p: P, seed: Seed::Host { seed: SEED, offset: OFFSET } }),
        ..Default::default()
    };
    let out = attention_forward(&q.view(), &k.view(), &v.view(), &options).unwrap();
    let (o, lse) = small.forward();
    let what = format!("seed {seed}, {:?}", small.kind);
    near(&format!("o, {what}"), &out.o.to_vec::<f32>().unwrap(), &o, 128.0);
    near(&format!("lse, {what}"), &out.lse.to_vec::<f32>().unwrap(), &lse, 64.0);

    let (do_, dlse) = (r.values(o.len()), r.values(lse.len()));
    let (grad_o, grad_lse) = (
        tensor(device, &do_, &[small.batch, small.heads, small.rows, small.width]),
        tensor(device, &dlse, &[small.batch, small.heads, small.rows]),
    );
    let saved = AttentionSaved {
        o: out.o.view(),
        lse: out.lse.view(),
        grad_o: grad_o.view(),
        grad_lse: Some(grad_lse.view()),
    };
    let want = WantGradients {
        dbias: small.has[0],
        dsinks: small.has[2],
        dalibi: small.has[1],
        dw: small.kind == Kinds::Additive,
        dscale: true,
        ..Default::default()
    };
    let got = attention_backward(&q.view(), &k.view(), &v.view(), &saved, &options, want).unwrap();
    let loss = |small: &Small| -> f64 {
        let (o, lse) = small.forward();
        let finite = lse.iter().zip(&dlse).filter(|(lse, _)| lse.is_finite());
        o.iter().zip(&do_).map(|(o, g)| o * f64::from(*g)).sum::<f64>()
            + finite.map(|(lse, g)| lse * f64::from(*g)).sum::<f64>()
    };
    let gradients = [got.dq, got.dk, got.dv, got.dbias, got.dsinks, got.dalibi, got.dw, got.dscale];
    for (n, name) in ["dq", "dk", "dv", "dbias", "dsinks", "dalibi", "dw", "dscale"].into_iter().enumerate() {
        if small.inputs[n].is_empty() {
            continue;
        }
        let step = 1e-5;
        let derivative = |i: usize| {
            let mut moved = small.clone();
            moved.inputs[n][i] += step;
            let up = loss(&moved);
            moved.inputs[n][i] -= 2.0 * step;
            (up - loss(&moved)) / (2.0 * step)
        };
        let differences: Vec<f64> = (0..small.inputs[n].len()).map(derivative).collect();
        let got = gradients[n].as_ref().unwrap().to_vec::<f32>().unwrap();
        near(&format!("{name}, {what}"), &got, &differences, 1024.0);
    }
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// A sample of a packed batch, and one in pages, has the bits it has alone.
#[test]
fn layouts_do_not_change_a_bit() {
    let Some(device) = device() else { return };
    let mut r = Random(5);
    let (hq, hk, d, dv) = (4, 2, 20, 36);
    let (rows, keys) = ([33usize, 0, 5, 64], [40usize, 7, 0, 65]);
    let sum = |list: &[usize]| -> Vec<i64> {
        let ends = list.iter().scan(0, |sum, &n| {
            *sum += n as i64;
            Some(*sum)
        });
        std::iter::once(0).chain(ends).collect()
    };
    let (cu_q, cu_k) = (sum(&rows), sum(&keys));
    let (all_q, all_k) = (rows.iter().sum::<usize>(), keys.iter().sum::<usize>());
    let data = [
        r.values(hq * all_q * d),
        r.values(hk * all_k * d),
        r.values(hk * all_k * dv),
        r.values(hq * all_q * dv),
    ];
    let shapes = [[1, hq, all_q, d], [1, hk, all_k, d], [1, hk, all_k, dv], [1, hq, all_q, dv]];
    let [q, k, v, grad_o] = std::array::from_fn(|i| tensor(&device, &data[i], &shapes[i]));
    let slopes = tensor(&device, &[0.1f32, 0.0, -0.2, 0.3], &[hq]);
    let base = AttentionOptions { causal: true, alibi: Some(slopes.view()), ..Default::default() };
    let packed = |cu_q: &[i64], cu_k: &[i64], parts: [&Tensor; 4]| {
        let (lists_q, lists_k) = (tensor(&device, cu_q, &[cu_q.len()]), tensor(&device, cu_k, &[cu_k.len()]));
        let sequences =
            Sequences::Packed { cu_q: lists_q.view(), cu_k: lists_k.view(), max_q: 64, max_k: 65 };
        let options = AttentionOptions { sequences, ..base.clone() };
        let [q, k, v, grad_o] = parts.map(Tensor::view);
        let out = attention_forward(&q, &k, &v, &options).unwrap();
        let saved = AttentionSaved { o: out.o.view(), lse: out.lse.view(), grad_o, grad_lse: None };
        let gradients = attention_backward(&q, &k, &v, &saved, &options, WantGradients::default()).unwrap();
        [out.o, gradients.dq.unwrap(), gradients.dk.unwrap(), gradients.dv.unwrap()].map(|x| bits(&x))
    };
    let whole = packed(&cu_q, &cu_k, [&q, &k, &v, &grad_o]);
    for b in 0..rows.len() {
        let part = |i: usize| {
            let (from, count) =
                if i == 1 || i == 2 { (cu_k[b] as usize, keys[b]) } else { (cu_q[b] as usize, rows[b]) };
            let [_, heads, all, width] = shapes[i];
            let of_head = |h: usize| data[i][(h * all + from) * width..][..count * width].to_vec();
            let values: Vec<f32> = (0..heads).flat_map(of_head).collect();
            tensor(&device, &values, &[1, heads, count, width])
        };
        let parts = [part(0), part(1), part(2), part(3)];
        let alone =
            packed(&[0, rows[b] as i64], &[0, keys[b] as i64], [&parts[0], &parts[1], &parts[2], &parts[3]]);
        let lines = [(0, hq, dv), (0, hq, d), (1, hk, d), (1, hk, dv)];
        for (n, (of_keys, heads, width)) in lines.into_iter().enumerate() {
            let (from, count, all) = if of_keys == 1 {
                (cu_k[b] as usize, keys[b], all_k)
            } else {
                (cu_q[b] as usize, rows[b], all_q)
            };
            for h in 0..heads {
                let inside = &whole[n][(h * all + from) * width..][..count * width];
                assert_eq!(
                    inside,
                    &alone[n][h * count * width..][..count * width],
                    "output {n}, sample {b}, head {h}"
                );
            }
        }
    }

    // Pages: out of order, shared, with an impossible number where no key is.
    let (size, slots) = (16, 5);
    let pool = [r.values(9 * hk * size * d), r.values(9 * hk * size * dv)];
    let table = [3i32, 0, 8, 2, 5, 3, 7, -1, 1000, 4];
    let lengths = [70i32, 30];
    let gather = |data: &[f32], width: usize| {
        let row = |b: usize, h: usize, j: usize| {
            let page = table[b * slots + j / size].clamp(0, 8) as usize;
            data[((page * hk + h) * size + j % size) * width..][..width].to_vec()
        };
        let all = (0..2).flat_map(|b| (0..hk).flat_map(move |h| (0..slots * size).map(move |j| (b, h, j))));
        let values: Vec<f32> = all.flat_map(|(b, h, j)| row(b, h, j)).collect();
        tensor(&device, &values, &[2, hk, slots * size, width])
    };
    let queries = tensor(&device, &r.values(2 * hq * 7 * d), &[2, hq, 7, d]);
    let lengths = tensor(&device, &lengths, &[2]);
    let table_tensor = tensor(&device, &table, &[2, slots]);
    let dense = AttentionOptions { kv_len: Some(lengths.view()), ..base.clone() };
    let pages =
        AttentionOptions { sequences: Sequences::Paged { table: table_tensor.view() }, ..dense.clone() };
    let (k_pool, v_pool) =
        (tensor(&device, &pool[0], &[9, hk, size, d]), tensor(&device, &pool[1], &[9, hk, size, dv]));
    let (k_dense, v_dense) = (gather(&pool[0], d), gather(&pool[1], dv));
    let paged = attention_forward(&queries.view(), &k_pool.view(), &v_pool.view(), &pages).unwrap();
    let want = attention_forward(&queries.view(), &k_dense.view(), &v_dense.view(), &dense).unwrap();
    assert_eq!(bits(&paged.o), bits(&want.o));
    assert_eq!(bits(&paged.lse), bits(&want.lse));
}

/// A pass in 16 bits is the pass in f32 on the same numbers, rounded once at the end; odd widths share words between rows.
#[test]
fn sixteen_bits_are_the_single_precision_pass_rounded() {
    let Some(device) = device() else { return };
    let mut r = Random(6);
    let (hq, hk, rows, keys, d, dv) = (2, 1, 35, 40, 23, 33);
    let slopes = tensor(&device, &[0.25f32, -0.125], &[hq]);
    let options = AttentionOptions { causal: true, alibi: Some(slopes.view()), ..Default::default() };
    let values = [r.values(hq * rows * d), r.values(hk * keys * d), r.values(hk * keys * dv)];
    let shapes = [[1, hq, rows, d], [1, hk, keys, d], [1, hk, keys, dv]];
    let run = |parts: [Tensor; 3]| {
        let [q, k, v] = parts.each_ref().map(Tensor::view);
        attention_forward(&q, &k, &v, &options).unwrap()
    };
    let halves = values.each_ref().map(|list| list.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>());
    let singles = halves.each_ref().map(|list| list.iter().map(|x| x.to_f32()).collect::<Vec<_>>());
    let got = run(std::array::from_fn(|i| tensor(&device, &halves[i], &shapes[i])));
    let want = run(std::array::from_fn(|i| tensor(&device, &singles[i], &shapes[i])));
    let rounded: Vec<u16> =
        want.o.to_vec::<f32>().unwrap().into_iter().map(|x| f16::from_f32(x).to_bits()).collect();
    assert_eq!(got.o.to_vec::<f16>().unwrap().into_iter().map(f16::to_bits).collect::<Vec<_>>(), rounded);
    assert_eq!(bits(&got.lse), bits(&want.lse));

    let halves = values.each_ref().map(|list| list.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>());
    let singles = halves.each_ref().map(|list| list.iter().map(|x| x.to_f32()).collect::<Vec<_>>());
    let got = run(std::array::from_fn(|i| tensor(&device, &halves[i], &shapes[i])));
    let want = run(std::array::from_fn(|i| tensor(&device, &singles[i], &shapes[i])));
    let rounded: Vec<u16> =
        want.o.to_vec::<f32>().unwrap().into_iter().map(|x| bf16::from_f32(x).to_bits()).collect();
    assert_eq!(got.o.to_vec::<bf16>().unwrap().into_iter().map(bf16::to_bits).collect::<Vec<_>>(), rounded);
}

/// Parts of a long cache depend on a sample's length alone: neither the batch nor the size of the cache changes a bit, and a
/// row of a split pass is the row of the whole pass.
#[test]
fn a_split_cache_gives_the_rows_of_the_whole() {
    let Some(device) = device() else { return };
    let mut r = Random(7);
    let (batch, hq, hk, rows, keys, d) = (3, 2, 1, 2, 1600, 16);
    let q = r.values(batch * hq * rows * d);
    let (k, v) = (r.values(batch * hk * keys * d), r.values(batch * hk * keys * d));
    let lengths = [1600i32, 1025, 900];
    let run = |from: usize, count: usize, slots: usize, q_rows: usize| {
        let part = |data: &[f32], lines: usize, kept: usize| -> Vec<f32> {
            let samples = data.chunks(lines * d).skip(from).take(count);
            samples.flat_map(|sample| sample[..kept * d].to_vec()).collect()
        };
        let queries: Vec<f32> = q[from * hq * rows * d..][..count * hq * rows * d]
            .chunks(rows * d)
            .flat_map(|head| head.iter().copied().cycle().take(q_rows * d).collect::<Vec<_>>())
            .collect();
        let q = tensor(&device, &queries, &[count, hq, q_rows, d]);
        let (k, v) = (part(&k, keys, slots), part(&v, keys, slots));
        let (k, v) =
            (tensor(&device, &k, &[count, hk, slots, d]), tensor(&device, &v, &[count, hk, slots, d]));
        let lengths = tensor(&device, &lengths[from..from + count], &[count]);
        let cap = Some(30.0);
        let options = AttentionOptions { kv_len: Some(lengths.view()), softcap: cap, ..Default::default() };
        attention_forward(&q.view(), &k.view(), &v.view(), &options).unwrap().o
    };
    let all = run(0, batch, keys, rows);
    let size = hq * rows * d;
    for b in 0..batch {
        let slots = lengths[b] as usize;
        assert_eq!(
            bits(&run(b, 1, slots, rows)),
            bits(&all)[b * size..][..size],
            "sample {b} alone, in a small cache"
        );
    }
    // Twenty queries are not split.
    let whole = run(0, batch, keys, 20).to_vec::<f32>().unwrap();
    let split = all.to_vec::<f32>().unwrap();
    for (n, head) in split.chunks(rows * d).enumerate() {
        let want: Vec<f64> = whole[n * 20 * d..][..rows * d].iter().map(|&x| f64::from(x)).collect();
        near(&format!("pair {n}"), head, &want, 64.0);
    }
}

#[test]
fn bad_pages_and_sequences_spoil_their_sample_alone() {
    let Some(gpu) = tests::private_device() else { return };
    let device = Device(Kind::Wgpu(std::sync::Arc::new(gpu)));
    let mut r = Random(8);
    let (heads, d, size) = (2, 9, 16);
    let q = tensor(&device, &r.values(2 * heads * 3 * d), &[2, heads, 3, d]);
    let pool = tensor(&device, &r.values(4 * heads * size * d), &[4, heads, size, d]);
    let lengths = tensor(&device, &[20i32, 32], &[2]);
    let run = |table: [i32; 4]| {
        let table = tensor(&device, &table, &[2, 2]);
        let options = AttentionOptions {
            kv_len: Some(lengths.view()),
            sequences: Sequences::Paged { table: table.view() },
            ..Default::default()
        };
        let out = attention_forward(&q.view(), &pool.view(), &pool.view(), &options).unwrap();
        (device.synchronize(), out.o.to_vec::<f32>().unwrap())
    };
    let (ok, clean) = run([1, 0, 3, 2]);
    ok.unwrap();
    for bad in [-1, 4, i32::MAX] {
        let (error, got) = run([1, 0, 3, bad]);
        assert!(matches!(error, Err(crate::error::Error::DeviceValue { .. })), "{error:?}");
        let half = got.len() / 2;
        assert!(got[half..].iter().all(|x| x.is_nan()) && got[..half] == clean[..half], "page {bad}");
    }
    let queries = tensor(&device, &r.values(heads * 10 * d), &[1, heads, 10, d]);
    let keys = tensor(&device, &r.values(heads * 12 * d), &[1, heads, 12, d]);
    let run = |cu_k: [i32; 4]| {
        let (cu_q, cu_k) = (tensor(&device, &[0i32, 4, 6, 10], &[4]), tensor(&device, &cu_k, &[4]));
        let sequences = Sequences::Packed { cu_q: cu_q.view(), cu_k: cu_k.view(), max_q: 4, max_k: 8 };
        let options = AttentionOptions { sequences, ..Default::default() };
        let out = attention_forward(&queries.view(), &keys.view(), &keys.view(), &options).unwrap();
        (device.synchronize(), out.o.to_vec::<f32>().unwrap())
    };
    let (ok, clean) = run([0, 5, 8, 12]);
    ok.unwrap();
    // The last sequence ends beyond the keys.
    let (error, got) = run([0, 5, 8, 13]);
    assert!(matches!(error, Err(crate::error::Error::DeviceValue { .. })), "{error:?}");
    for (i, (got, clean)) in got.iter().zip(&clean).enumerate() {
        let row = i / d % 10;
        assert!(if row >= 6 { got.is_nan() } else { got == clean }, "row {row}: {got}");
    }
}
