//! The shaders against the formulas in f64, over shapes that break tiles. The public property suites go further; these run
//! with `cargo test --lib`.

use crate::attention::*;
use crate::device::wgpu::tests;
use crate::device::{Device, Kind};
use crate::error::Error;
use crate::tensor::{Layout, Tensor, TensorMut, TensorRef};

fn device() -> Option<Device> {
    tests::device().map(|device| Device(Kind::Wgpu(device)))
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.word() % n as u64) as usize
    }
    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
    fn value(&mut self) -> f32 {
        (self.word() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

/// A device tensor that holds values under random strides; NaN between them, or everywhere the guard value in an output.
struct Strided {
    layout: Layout,
    tensor: Tensor,
}

const GUARD: f32 = 12345.0;

impl Strided {
    /// The dimensions before `fixed` lie in random order with random gaps.
    fn new(device: &Device, random: &mut Random, shape: &[usize], fixed: usize, values: Vec<f32>) -> Self {
        let rank = shape.len();
        let mut order: Vec<usize> = (0..rank).collect();
        for i in (1..fixed).rev() {
            order.swap(i, random.below(i + 1));
        }
        let mut strides = vec![0; rank];
        let mut step = 1;
        for &i in order.iter().rev() {
            strides[i] = step;
            step = step * shape[i].max(1) + if i + 1 == rank && fixed < rank { random.below(4) } else { 0 };
            if shape[i] == 1 && i < fixed {
                strides[i] = 123_456_789;
            }
        }
        let layout = Layout::new(shape, &strides, random.below(5)).unwrap();
        let mut memory = vec![if values.is_empty() { GUARD } else { f32::NAN }; layout.end() + 3];
        for (index, value) in layout.indices().zip(&values) {
            memory[index] = *value;
        }
        let tensor = Tensor::from_slice(device, &memory, &[memory.len()]).unwrap();
        Self { layout, tensor }
    }

    fn view(&self) -> TensorRef<'_> {
        self.tensor.view().with_layout(self.layout).unwrap()
    }

    fn view_mut(&mut self) -> TensorMut<'_> {
        self.tensor.view_mut().with_layout(self.layout).unwrap()
    }

    /// The elements, after checking that nothing between them was written.
    fn read(&self) -> Vec<f32> {
        let memory = self.tensor.to_vec::<f32>().unwrap();
        let mut gap = vec![true; memory.len()];
        self.layout.indices().for_each(|i| gap[i] = false);
        for (i, &value) in memory.iter().enumerate() {
            assert!(!gap[i] || value == GUARD, "element {i} outside the view was overwritten with {value}");
        }
        self.layout.indices().map(|i| memory[i]).collect()
    }
}

struct Case {
    sizes: [usize; 7],
    scale: f32,
    causal: bool,
    /// Per sample.
    length: Vec<usize>,
    /// Per sample.
    first: Vec<i64>,
    /// Per (sample, query head), and per row.
    active: Vec<bool>,
    row_scale: Vec<f32>,
}

/// (value, sum of magnitudes that rounding is relative to).
#[derive(Clone, Copy, Default)]
struct Sum(f64, f64);

impl Sum {
    fn add(&mut self, term: f64, size: f64) {
        self.0 += term;
        self.1 += size.abs();
    }
}

struct Expected {
    o: Vec<Sum>,
    lse: Vec<Sum>,
    dq: Vec<Sum>,
    dk: Vec<Sum>,
    dv: Vec<Sum>,
    drow_scale: Vec<Sum>,
    /// 1 + the largest Σ|q·k|·scale.
    condition: f64,
}

impl Case {
    fn expected(&self, q: &[f32], k: &[f32], v: &[f32], grad_o: &[f32], grad_lse: &[f32]) -> Expected {
        let [batch, hq, hk, sq, sk, d, dv] = self.sizes;
        let mut want = Expected {
            o: vec![Sum::default(); batch * hq * sq * dv],
            lse: vec![Sum(f64::NEG_INFINITY, 1.0); batch * hq * sq],
            dq: vec![Sum::default(); q.len()],
            dk: vec![Sum::default(); k.len()],
            dv: vec![Sum::default(); v.len()],
            drow_scale: vec![Sum::default(); batch * hq * sq],
            condition: 1.0,
        };
        let f = |x: f32| f64::from(x);
        for pair in (0..batch * hq).filter(|&pair| self.active[pair]) {
            let (b, h) = (pair / hq, pair % hq);
            let kv = b * hk + h / (hq / hk);
            for i in 0..sq {
                let row = pair * sq + i;
                let position = self.first[b] + i as i64;
                let seen = (0..self.length[b]).filter(|&j| !self.causal || j as i64 <= position);
                let seen: Vec<usize> = seen.collect();
                let dot = |a: &[f32], at: usize, b: &[f32], bt: usize, n: usize| {
                    (0..n).fold(Sum::default(), |mut sum, x| {
                        let term = f(a[at + x]) * f(b[bt + x]);
                        sum.add(term, term);
                        sum
                    })
                };
                let scores: Vec<f64> = (seen.iter())
                    .map(|&j| {
                        let s = dot(q, row * d, k, (kv * sk + j) * d, d);
                        want.condition = want.condition.max(1.0 + s.1 * f(self.scale).abs());
                        s.0 * f(self.scale)
                    })
                    .collect();
                if seen.is_empty() {
                    continue;
                }
                let peak = scores.iter().fold(f64::MIN, |a, &b| a.max(b));
                let lse = peak + scores.iter().map(|z| (z - peak).exp()).sum::<f64>().ln();
                want.lse[row] = Sum(lse, 1.0);
                let scale_row = f(self.row_scale[row]);
                let p: Vec<f64> = scores.iter().map(|z| (z - lse).exp()).collect();
                let g: Vec<Sum> =
                    (seen.iter()).map(|&j| dot(grad_o, row * dv, v, (kv * sk + j) * dv, dv)).collect();
                let delta: f64 =
                    p.iter().zip(&g).map(|(p, g)| p * g.0 * scale_row).sum::<f64>() - f(grad_lse[row]);
                let delta_size: f64 = p.iter().zip(&g).map(|(p, g)| p * g.1 * scale_row.abs()).sum::<f64>()
                    + f(grad_lse[row]).abs();
                for (n, &j) in seen.iter().enumerate() {
                    let (k_at, v_at) = ((kv * sk + j) * d, (kv * sk + j) * dv);
                    let ds = p[n] * (scale_row * g[n].0 - delta) * f(self.scale);
                    let ds_size = p[n] * ((scale_row * g[n].1).abs() + delta_size) * f(self.scale).abs();
                    want.drow_scale[row].add(p[n] * g[n].0, p[n] * g[n].1);
                    for x in 0..dv {
                        let term = scale_row * p[n] * f(v[v_at + x]);
                        want.o[row * dv + x].add(term, term);
                        let term = scale_row * p[n] * f(grad_o[row * dv + x]);
                        want.dv[v_at + x].add(term, term);
                    }
                    for x in 0..d {
                        want.dq[row * d + x].add(ds * f(k[k_at + x]), ds_size * f(k[k_at + x]));
                        want.dk[k_at + x].add(ds * f(q[row * d + x]), ds_size * f(q[row * d + x]));
                    }
                }
            }
        }
        want
    }
}

/// Lengths, then NaN and ∞ class, then the difference, which is at most `factor`·2⁻²⁴ of the element's own magnitudes.
fn check(name: &str, seed: u64, got: &[f32], want: &[Sum], factor: f64) {
    assert_eq!(got.len(), want.len(), "{name}, seed {seed}");
    let unit = 2f64.powi(-24);
    for (i, (&got, want)) in got.iter().zip(want).enumerate() {
        let got = f64::from(got);
        let fits = if want.0.is_finite() {
            (got - want.0).abs() <= factor * unit * want.1 + 1e-37
        } else {
            got.is_nan() == want.0.is_nan() && (got.is_nan() || got == want.0)
        };
        assert!(fits, "{name}[{i}] = {got}, want {} ± {}, seed {seed}", want.0, factor * unit * want.1);
    }
}

const SIZES: [usize; 12] = [1, 2, 3, 7, 16, 31, 32, 33, 47, 64, 65, 100];
const DIMS: [usize; 12] = [1, 3, 8, 16, 17, 31, 32, 33, 64, 65, 96, 128];

fn run(device: &Device, seed: u64) {
    let mut random = Random(seed);
    let r = &mut random;
    let (batch, hk) = (1 + r.below(3), 1 + r.below(2));
    let hq = hk * (1 + r.below(3));
    let (sq, sk) =
        (SIZES[r.below(SIZES.len())], if r.below(9) == 0 { 0 } else { SIZES[r.below(SIZES.len())] });
    let (d, dv) = (DIMS[r.below(DIMS.len())], DIMS[r.below(DIMS.len())]);
    let causal = r.coin();
    let with_length = r.coin();
    let with_heads = r.coin();
    let with_grad_lse = r.coin();
    let length: Vec<usize> = (0..batch).map(|_| if with_length { r.below(sk + 1) } else { sk }).collect();
    let offset_kind = r.below(3);
    let common = r.below(sk + sq + 2) as i64 - sq as i64 - 1;
    let first: Vec<i64> = (0..batch)
        .map(|b| match offset_kind {
            0 => length[b] as i64 - sq as i64,
            1 => common,
            _ => [i64::MIN, -3, 0, 5, sk as i64, i64::MAX / 2][r.below(6)],
        })
        .collect();
    let active: Vec<bool> = (0..batch * hq).map(|_| !with_heads || r.coin()).collect();
    let row_scale = if with_heads { r.values(batch * hq * sq) } else { vec![1.0; batch * hq * sq] };
    let scale = if r.coin() { r.value() * 2.0 } else { 1.0 / (d as f32).sqrt() };
    let case =
        Case { sizes: [batch, hq, hk, sq, sk, d, dv], scale, causal, length, first, active, row_scale };

    let mut q = r.values(batch * hq * sq * d);
    let mut k = r.values(batch * hk * sk * d);
    let mut v = r.values(batch * hk * sk * dv);
    let grad_o = r.values(batch * hq * sq * dv);
    let grad_lse = if with_grad_lse { r.values(batch * hq * sq) } else { vec![0.0; batch * hq * sq] };
    let want = case.expected(&q, &k, &v, &grad_o, &grad_lse);
    // What nobody may see is NaN.
    for kv in 0..batch * hk {
        let b = kv / hk;
        let group = hq / hk;
        let heads = (0..group).map(|g| b * hq + (kv % hk) * group + g);
        let seen_by_none = !heads.clone().any(|pair| case.active[pair]);
        let last =
            if causal { case.first[b].saturating_add(sq as i64).clamp(0, sk as i64) as usize } else { sk };
        let end = if seen_by_none { 0 } else { case.length[b].min(last) };
        k[(kv * sk + end) * d..(kv + 1) * sk * d].fill(f32::NAN);
        v[(kv * sk + end) * dv..(kv + 1) * sk * dv].fill(f32::INFINITY);
    }
    for pair in (0..batch * hq).filter(|&pair| !case.active[pair]) {
        q[pair * sq * d..(pair + 1) * sq * d].fill(f32::NAN);
    }

    let q = Strided::new(device, r, &[batch, hq, sq, d], 3, q);
    let k = Strided::new(device, r, &[batch, hk, sk, d], 3, k);
    let v = Strided::new(device, r, &[batch, hk, sk, dv], 3, v);
    let scale_rows = Strided::new(device, r, &[batch, hq, sq], 3, case.row_scale.clone());
    let grad_o = Strided::new(device, r, &[batch, hq, sq, dv], 3, grad_o);
    let grad_lse = Strided::new(device, r, &[batch, hq, sq], 3, grad_lse);
    let output = |r: &mut Random, shape: &[usize]| Strided::new(device, r, shape, 3, Vec::new());
    let lengths: Vec<i64> = case.length.iter().map(|&n| n as i64).collect();
    let lengths = Tensor::from_slice(device, &lengths, &[batch]).unwrap();
    let offsets = Tensor::from_slice(device, &case.first, &[batch]).unwrap();

    // The lists: active pairs ascending, then the others.
    let list = |flags: &[bool]| {
        let mut order: Vec<u32> = (0..flags.len() as u32).collect();
        order.sort_by_key(|&i| !flags[i as usize]);
        (
            Tensor::from_slice(device, &order, &[flags.len()]).unwrap(),
            flags.iter().filter(|&&f| f).count() as u32,
        )
    };
    let kv_active: Vec<bool> = (0..batch * hk)
        .map(|kv| (0..hq / hk).any(|g| case.active[kv / hk * hq + kv % hk * (hq / hk) + g]))
        .collect();
    let ((order, count), (kv_order, kv_count)) = (list(&case.active), list(&kv_active));
    let counts = Tensor::from_slice(device, &[count, kv_count], &[2]).unwrap();
    let flags: Vec<u32> = case.active.iter().map(|&f| f.into()).collect();
    let flags = Tensor::from_slice(device, &flags, &[batch, hq]).unwrap();
    let options = AttentionOptions {
        scale: Some(scale.into()),
        causal,
        query_offset: match offset_kind {
            0 => QueryOffset::BottomRight,
            1 => QueryOffset::At(common),
            _ => QueryOffset::PerSample(offsets.view()),
        },
        kv_len: with_length.then(|| lengths.view()),
        heads: with_heads.then(|| ActiveHeads {
            order: order.view(),
            kv_order: kv_order.view(),
            counts: counts.view(),
            active: flags.view(),
            row_scale: scale_rows.view(),
        }),
        ..Default::default()
    };

    let mut o = output(r, &[batch, hq, sq, dv]);
    let mut lse = output(r, &[batch, hq, sq]);
    let (mut o_view, mut lse_view) = (o.view_mut(), lse.view_mut());
    attention_forward_into(
        &q.view(),
        &k.view(),
        &v.view(),
        &options,
        &mut o_view,
        &mut lse_view,
        Workspace::Allocate,
    )
    .unwrap();
    // Rows of inactive pairs are not written: they still hold the guard.
    let unwritten = |want: &[Sum], width: usize| -> Vec<Sum> {
        let inactive = |i: usize| !case.active[i / (sq * width)];
        let guard = Sum(GUARD.into(), 0.0);
        want.iter().enumerate().map(|(i, &w)| if inactive(i) { guard } else { w }).collect()
    };
    let bound = 16.0 * want.condition;
    check("o", seed, &o.read(), &unwritten(&want.o, dv), bound);
    check("lse", seed, &lse.read(), &unwritten(&want.lse, 1), bound);

    let mut dq = output(r, &[batch, hq, sq, d]);
    let mut dk = output(r, &[batch, hk, sk, d]);
    let mut d_v = output(r, &[batch, hk, sk, dv]);
    let mut drow = output(r, &[batch, hq, sq]);
    let wanted: Vec<bool> = (0..4).map(|_| r.below(4) > 0).collect();
    let saved = AttentionSaved {
        o: o.view(),
        lse: lse.view(),
        grad_o: grad_o.view(),
        grad_lse: with_grad_lse.then(|| grad_lse.view()),
    };
    let gradients = AttentionGradientViews {
        dq: wanted[0].then(|| dq.view_mut()),
        dk: wanted[1].then(|| dk.view_mut()),
        dv: wanted[2].then(|| d_v.view_mut()),
        drow_scale: (with_heads && wanted[3]).then(|| drow.view_mut()),
        ..Default::default()
    };
    attention_backward_into(
        &q.view(),
        &k.view(),
        &v.view(),
        &saved,
        &options,
        gradients,
        Workspace::Allocate,
    )
    .unwrap();
    let guard = |n: usize| vec![Sum(GUARD.into(), 0.0); n];
    let expect = |wanted: bool, want: Vec<Sum>| if wanted { want } else { guard(want.len()) };
    check("dq", seed, &dq.read(), &expect(wanted[0], want.dq), 4.0 * bound);
    check("dk", seed, &dk.read(), &expect(wanted[1], want.dk), 4.0 * bound);
    check("dv", seed, &d_v.read(), &expect(wanted[2], want.dv), 4.0 * bound);
    let drow_want = expect(with_heads && wanted[3], unwritten(&want.drow_scale, 1));
    check("drow_scale", seed, &drow.read(), &drow_want, 4.0 * bound);
}

#[test]
fn forward_and_backward_follow_the_formulas() {
    let Some(device) = device() else { return };
    let first: u64 = std::env::var("GATEWARP_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let cases: u64 = std::env::var("GATEWARP_CASES").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    for seed in first..first + cases {
        run(&device, seed);
    }
}

/// All outputs of one call: o, lse, dq, dk, dv.
fn all(
    device: &Device,
    sizes: [usize; 7],
    inputs: [&[f32]; 4],
    options: &AttentionOptions<'_>,
) -> [Vec<f32>; 5] {
    let [batch, hq, hk, sq, sk, d, dv] = sizes;
    let tensor = |data: &[f32], shape: &[usize]| Tensor::from_slice(device, data, shape).unwrap();
    let (q, k) = (tensor(inputs[0], &[batch, hq, sq, d]), tensor(inputs[1], &[batch, hk, sk, d]));
    let (v, grad_o) = (tensor(inputs[2], &[batch, hk, sk, dv]), tensor(inputs[3], &[batch, hq, sq, dv]));
    let (q, k, v) = (q.view(), k.view(), v.view());
    let out = attention_forward(&q, &k, &v, options).unwrap();
    let saved =
        AttentionSaved { o: out.o.view(), lse: out.lse.view(), grad_o: grad_o.view(), grad_lse: None };
    let gradients = attention_backward(&q, &k, &v, &saved, options, WantGradients::default()).unwrap();
    let [dq, dk, dv] = [gradients.dq, gradients.dk, gradients.dv].map(Option::unwrap);
    // The first read may meet the error of a bad value, which clears it.
    let _ = device.synchronize();
    [&out.o, &out.lse, &dq, &dk, &dv].map(|tensor| tensor.to_vec().unwrap())
}

/// Elements `i` for which `differs(i)` are NaN, the others are the same bits as in `clean`.
fn check_poison(name: &str, got: &[f32], clean: &[f32], poisoned: impl Fn(usize) -> bool) {
    assert_eq!(got.len(), clean.len());
    for (i, (got, clean)) in got.iter().zip(clean).enumerate() {
        let fits = if poisoned(i) { got.is_nan() } else { got.to_bits() == clean.to_bits() };
        assert!(fits, "{name}[{i}] is {got}, {clean} without the NaN");
    }
}

#[test]
fn nan_reaches_those_who_see_it_and_nobody_else() {
    let Some(device) = device() else { return };
    let (batch, h, s, d) = (2, 2, 75, 40);
    let sizes = [batch, h, h, s, s, d, d];
    let mut r = Random(7);
    let inputs: [Vec<f32>; 4] = std::array::from_fn(|_| r.values(batch * h * s * d));
    let options = AttentionOptions { causal: true, ..Default::default() };
    let views = |inputs: &'_ [Vec<f32>; 4]| -> [Vec<f32>; 5] {
        all(&device, sizes, [&inputs[0], &inputs[1], &inputs[2], &inputs[3]], &options)
    };
    let clean = views(&inputs);
    for (pair, at) in [(0, 0), (1, 31), (2, 32), (3, 50), (3, 74)] {
        // Of elements [pair, row, d] and of rows.
        let place = |i: usize, width: usize| (i / width / s, i / width % s);
        for (input, bad) in
            [(0, f32::NAN), (1, f32::NAN), (1, f32::INFINITY), (2, f32::NAN), (2, f32::NEG_INFINITY)]
        {
            let mut dirty = inputs.clone();
            dirty[input][(pair * s + at) * d + 3] = bad;
            let got = views(&dirty);
            // Queries that meet the bad key or value, or the bad query itself.
            let row_is_bad =
                |p: usize, row: usize| p == pair && if input == 0 { row == at } else { row >= at };
            if bad.is_nan() {
                let whole_row = |i: usize| {
                    let (p, row) = place(i, d);
                    row_is_bad(p, row) && (input != 2 || i % d == 3)
                };
                check_poison("o", &got[0], &clean[0], whole_row);
                let of_row = |i: usize| input != 2 && row_is_bad(i / s, i % s);
                check_poison("lse", &got[1], &clean[1], of_row);
            }
            // Rows and keys that have nothing to do with it keep their bits; the gradients of the others are not finite
            // at least where the bad value itself is a factor, which the formulas test covers.
            for (name, i) in [("dq", 2), ("dk", 3), ("dv", 4)] {
                let (got, clean) = (&got[i], &clean[i]);
                for e in 0..got.len() {
                    let (p, line) = place(e, d);
                    // A query that is bad reaches the keys it sees; a key that is bad reaches, through the rows that
                    // see it, every key those rows see: all of them. Earlier queries never meet it.
                    let may_differ = match (i, input) {
                        (2, _) => row_is_bad(p, line),
                        (_, 0) => p == pair && line <= at,
                        _ => p == pair,
                    };
                    let same = got[e].to_bits() == clean[e].to_bits();
                    assert!(
                        same || may_differ,
                        "{name}[{e}] is {}, {} without {bad} in {input}",
                        got[e],
                        clean[e]
                    );
                }
                if i == 2 && bad.is_nan() {
                    let (from, to) = ((pair * s + at) * d, (pair * s + at + 1) * d);
                    assert!(
                        got[from..to].iter().any(|x| x.is_nan()),
                        "NaN in input {input} did not reach its dq"
                    );
                }
            }
        }
    }
}

#[test]
fn bad_lengths_in_device_memory_make_that_sample_nan() {
    // A device of its own: the status must not be taken by a test on another thread.
    let Some(device) = tests::private_device() else { return };
    let device = Device(Kind::Wgpu(std::sync::Arc::new(device)));
    let (batch, hq, hk, sq, sk, d) = (4, 2, 1, 5, 37, 9);
    let mut r = Random(9);
    let (q, k) = (r.values(batch * hq * sq * d), r.values(batch * hk * sk * d));
    let (v, grad_o) = (r.values(batch * hk * sk * d), r.values(batch * hq * sq * d));
    let run = |lengths: &[i32]| {
        let lengths = Tensor::from_slice(&device, lengths, &[batch]).unwrap();
        let options = AttentionOptions { kv_len: Some(lengths.view()), causal: true, ..Default::default() };
        let out = all(&device, [batch, hq, hk, sq, sk, d, d], [&q, &k, &v, &grad_o], &options);
        (out, lengths)
    };
    let (clean, _lengths) = run(&[37, 0, 4, 20]);
    let (got, _lengths) = run(&[37, -1, 38, 20]);
    for (i, name) in ["o", "lse", "dq", "dk", "dv"].into_iter().enumerate() {
        let sample = clean[i].len() / batch;
        check_poison(name, &got[i], &clean[i], |e| e / sample == 1 || e / sample == 2);
    }
    // And the error says so.
    let lengths = Tensor::from_slice(&device, &[1, 2, i32::MAX, 3], &[batch]).unwrap();
    let options = AttentionOptions { kv_len: Some(lengths.view()), ..Default::default() };
    let q = Tensor::from_slice(&device, &q, &[batch, hq, sq, d]).unwrap();
    let k = Tensor::from_slice(&device, &k, &[batch, hk, sk, d]).unwrap();
    attention_forward(&q.view(), &k.view(), &k.view(), &options).unwrap();
    assert!(matches!(device.synchronize(), Err(Error::DeviceValue { .. })));
    assert_eq!(device.synchronize(), Ok(()));
}

#[test]
fn a_sample_has_the_same_bits_alone_and_in_a_batch() {
    let Some(device) = device() else { return };
    let (batch, hq, hk, sq, sk, d) = (5, 4, 2, 70, 90, 24);
    let mut r = Random(11);
    let inputs = [
        r.values(batch * hq * sq * d),
        r.values(batch * hk * sk * d),
        r.values(batch * hk * sk * d),
        r.values(batch * hq * sq * d),
    ];
    let lengths = [90u32, 3, 64, 0, 31];
    let run = |from: usize, count: usize| {
        let part = |i: usize| {
            let sample = inputs[i].len() / batch;
            &inputs[i][from * sample..(from + count) * sample]
        };
        let lengths = TensorRef::from_slice(&lengths[from..from + count], &[count]).unwrap();
        let options = AttentionOptions { kv_len: Some(lengths), causal: true, ..Default::default() };
        all(&device, [count, hq, hk, sq, sk, d, d], [part(0), part(1), part(2), part(3)], &options)
    };
    let together = run(0, batch);
    for (from, count) in [(0, batch), (0, 1), (1, 1), (3, 2), (4, 1)] {
        for (whole, part) in together.iter().zip(run(from, count)) {
            let sample = whole.len() / batch;
            let whole = &whole[from * sample..(from + count) * sample];
            let same = whole.iter().zip(&part).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same && whole.len() == part.len(), "samples {from}..+{count} differ");
        }
    }
}

#[test]
fn empty_dimensions_give_empty_or_zero_results() {
    let Some(device) = device() else { return };
    for (batch, h, sq, sk) in [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0), (0, 0, 0, 0)] {
        let (q, kv) = (vec![1.0; batch * h * sq * 5], vec![1.0; batch * h * sk * 5]);
        let sizes = [batch, h, h, sq, sk, 5, 5];
        let out = all(&device, sizes, [&q, &kv, &kv, &q], &AttentionOptions::default());
        assert!(out[1].iter().all(|&lse| lse == f32::NEG_INFINITY));
        for i in [0, 2, 3, 4] {
            assert!(out[i].iter().all(|&x| x == 0.0), "output {i} of {sizes:?}");
        }
    }
}
