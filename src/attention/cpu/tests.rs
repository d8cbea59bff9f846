//! Against the formulas in f64, at the sizes and values that break tiles.

use super::super::*;
use crate::device::Device;
use crate::tensor::{Layout, TensorMut, TensorRef};

/// One call: sizes, options, layout of memory, and what to poison.
#[derive(Clone, Debug)]
struct Case {
    batch: usize,
    q_heads: usize,
    kv_heads: usize,
    q_len: usize,
    slots: usize,
    dim: usize,
    value_dim: usize,
    causal: bool,
    offset: Option<i64>,
    lengths: Option<Vec<i64>>,
    scale: Option<f32>,
    magnitude: f32,
    /// `[batch, rows, heads, dim]` in memory with gaps, instead of `[batch, heads, rows, dim]`.
    strided: bool,
    active: Option<Vec<bool>>,
    grad_lse: bool,
}

impl Case {
    fn new(batch: usize, q_heads: usize, kv_heads: usize, q_len: usize, slots: usize, dim: usize) -> Self {
        Self {
            batch,
            q_heads,
            kv_heads,
            q_len,
            slots,
            dim,
            value_dim: dim,
            causal: false,
            offset: None,
            lengths: None,
            scale: None,
            magnitude: 1.0,
            strided: false,
            active: None,
            grad_lse: false,
        }
    }

    fn length(&self, b: usize) -> usize {
        self.lengths.as_ref().map_or(self.slots, |l| l[b] as usize)
    }

    fn sees(&self, b: usize, i: usize, j: usize) -> bool {
        let first = self.offset.unwrap_or(self.length(b) as i64 - self.q_len as i64);
        let position = first.saturating_add(i as i64);
        j < self.length(b) && (!self.causal || j as i64 <= position)
    }

    fn layout(&self, heads: usize, rows: usize, dim: usize) -> Layout {
        let shape = [self.batch, heads, rows, dim];
        if !self.strided {
            return Layout::contiguous(&shape).unwrap();
        }
        let row = heads * (dim + 3);
        Layout::new(&shape, &[rows * row + 5, dim + 3, row, 1], 7).unwrap()
    }

    fn row_layout(&self) -> Layout {
        let shape = [self.batch, self.q_heads, self.q_len];
        if !self.strided {
            return Layout::contiguous(&shape).unwrap();
        }
        Layout::new(&shape, &[self.q_len * self.q_heads * 2, 2, self.q_heads * 2], 1).unwrap()
    }

    fn is_active(&self, b: usize, h: usize) -> bool {
        self.active.as_ref().is_none_or(|a| a[b * self.q_heads + h])
    }
}

/// Uniform in −1..1 times `magnitude`.
fn random(n: usize, seed: u64, magnitude: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * magnitude
        })
        .collect()
}

/// A tensor in memory that is NaN outside the view.
#[derive(Clone)]
struct Data {
    memory: Vec<f32>,
    layout: Layout,
}

impl Data {
    fn nan(layout: Layout) -> Self {
        Self { memory: vec![f32::NAN; layout.end() + 9], layout }
    }

    fn random(layout: Layout, seed: u64, magnitude: f32) -> Self {
        let mut data = Self::nan(layout);
        for (i, x) in layout.indices().zip(random(layout.len(), seed, magnitude)) {
            data.memory[i] = x;
        }
        data
    }

    fn view(&self) -> TensorRef<'_> {
        TensorRef::strided(&self.memory, self.layout).unwrap()
    }

    fn view_mut(&mut self) -> TensorMut<'_> {
        TensorMut::strided(&mut self.memory, self.layout).unwrap()
    }

    fn index(&self, at: &[usize]) -> usize {
        self.layout.offset() + at.iter().zip(self.layout.strides()).map(|(i, s)| i * s).sum::<usize>()
    }

    fn get(&self, at: &[usize]) -> f64 {
        f64::from(self.memory[self.index(at)])
    }

    fn set(&mut self, at: &[usize], x: f32) {
        let i = self.index(at);
        self.memory[i] = x;
    }

    /// What lies outside the view is still NaN.
    fn assert_guards(&self, name: &str) {
        let inside: std::collections::HashSet<usize> = self.layout.indices().collect();
        for (i, x) in self.memory.iter().enumerate().filter(|(i, _)| !inside.contains(i)) {
            assert!(x.is_nan(), "{name}: element {i} outside the view was written");
        }
    }

    fn bits(&self) -> Vec<u32> {
        self.layout.indices().map(|i| self.memory[i].to_bits()).collect()
    }
}

#[derive(Clone)]
struct Inputs {
    q: Data,
    k: Data,
    v: Data,
    grad: Data,
    grad_lse: Data,
    row_scale: Data,
}

#[derive(Clone)]
struct Outputs {
    o: Data,
    lse: Data,
    dq: Data,
    dk: Data,
    dv: Data,
    dr: Data,
}

fn inputs(case: &Case) -> Inputs {
    let (q, kv) = (case.q_heads, case.kv_heads);
    Inputs {
        q: Data::random(case.layout(q, case.q_len, case.dim), 1, case.magnitude),
        k: Data::random(case.layout(kv, case.slots, case.dim), 2, 1.0),
        v: Data::random(case.layout(kv, case.slots, case.value_dim), 3, 1.0),
        grad: Data::random(case.layout(q, case.q_len, case.value_dim), 4, 1.0),
        grad_lse: Data::random(case.row_layout(), 5, 1.0),
        row_scale: Data::random(case.row_layout(), 6, 2.0),
    }
}

fn run(case: &Case, inputs: &Inputs) -> Outputs {
    let device = Device::cpu();
    let (pairs, group) = (case.batch * case.q_heads, case.q_heads / case.kv_heads);
    let active: Vec<u32> =
        (0..pairs).map(|p| case.is_active(p / case.q_heads, p % case.q_heads).into()).collect();
    let by_activity = |active: &[u32]| {
        let n = active.len() as u32;
        let (yes, no): (Vec<u32>, Vec<u32>) = (0..n).partition(|&i| active[i as usize] == 1);
        (yes.len() as u32, [yes, no].concat())
    };
    let kv_active: Vec<u32> = active.chunks(group).map(|c| c.iter().copied().max().unwrap()).collect();
    let ((count, order), (kv_count, kv_order)) = (by_activity(&active), by_activity(&kv_active));
    let tensor = |data: &[u32], shape: &[usize]| Tensor::from_slice(&device, data, shape).unwrap();
    let order = tensor(&order, &[pairs]);
    let kv_order = tensor(&kv_order, &[case.batch * case.kv_heads]);
    let counts = tensor(&[count, kv_count], &[2]);
    let active = tensor(&active, &[case.batch, case.q_heads]);
    let heads = case.active.as_ref().map(|_| ActiveHeads {
        order: order.view(),
        kv_order: kv_order.view(),
        counts: counts.view(),
        active: active.view(),
        row_scale: inputs.row_scale.view(),
    });
    let options = AttentionOptions {
        scale: case.scale,
        causal: case.causal,
        query_offset: case.offset.map_or(QueryOffset::BottomRight, QueryOffset::At),
        kv_len: case.lengths.as_ref().map(|l| TensorRef::from_slice(l, &[case.batch]).unwrap()),
        heads,
    };
    let mut out = Outputs {
        o: Data::nan(inputs.grad.layout),
        lse: Data::nan(inputs.grad_lse.layout),
        dq: Data::nan(inputs.q.layout),
        dk: Data::nan(inputs.k.layout),
        dv: Data::nan(inputs.v.layout),
        dr: Data::nan(inputs.grad_lse.layout),
    };
    let (q, k, v) = (inputs.q.view(), inputs.k.view(), inputs.v.view());
    attention_forward_into(&q, &k, &v, &options, &mut out.o.view_mut(), &mut out.lse.view_mut()).unwrap();
    let saved = AttentionSaved {
        o: out.o.view(),
        lse: out.lse.view(),
        grad_o: inputs.grad.view(),
        grad_lse: case.grad_lse.then(|| inputs.grad_lse.view()),
    };
    let views = AttentionGradientViews {
        dq: Some(out.dq.view_mut()),
        dk: Some(out.dk.view_mut()),
        dv: Some(out.dv.view_mut()),
        drow_scale: case.active.as_ref().map(|_| out.dr.view_mut()),
    };
    attention_backward_into(&q, &k, &v, &saved, &options, views).unwrap();
    out
}

/// A value wanted and the rounding error allowed: 16u·(1 + size of the scores)·(sum of the terms' sizes), ×4 for gradients.
#[derive(Clone, Copy, Default)]
struct Want {
    value: f64,
    terms: f64,
    logits: f64,
}

impl Want {
    fn add(&mut self, x: f64, size: f64, logits: f64) {
        self.value += x;
        self.terms += size;
        self.logits = self.logits.max(logits);
    }

    fn check(self, got: f64, factor: f64, name: &str, at: [usize; 4], case: &Case) {
        let bound = factor * 16.0 * 2f64.powi(-24) * (1.0 + self.logits) * self.terms
            // A weight below the normal range is 0, whatever it would have been multiplied with.
            + 256.0 * f64::from(f32::MIN_POSITIVE) * f64::from(case.magnitude.max(1.0));
        let fine = if self.value.is_nan() { got.is_nan() } else { (got - self.value).abs() <= bound };
        assert!(fine || got == self.value, "{name}{at:?} = {got}, want {} ± {bound:e}\n{case:?}", self.value);
    }
}

/// Compares a whole run with the formulas. Sums run over what is visible only, so a NaN elsewhere must not be seen.
fn compare(case: &Case, x: &Inputs, got: &Outputs) {
    let scale = case.scale.map_or(1.0 / (case.dim as f64).sqrt(), f64::from);
    let group = case.q_heads / case.kv_heads;
    let kv = [case.batch, case.kv_heads, case.slots];
    let at = |b: usize, h: usize, i: usize, n: usize| ((b * case.kv_heads + h) * case.slots + i) * n;
    let mut dk = vec![Want::default(); kv.iter().product::<usize>() * case.dim];
    let mut dv = vec![Want::default(); kv.iter().product::<usize>() * case.value_dim];
    for b in 0..case.batch {
        for h in 0..case.q_heads {
            for i in 0..case.q_len {
                if !case.is_active(b, h) {
                    assert!(
                        (0..case.value_dim).all(|e| got.o.get(&[b, h, i, e]).is_nan()),
                        "inactive o was written"
                    );
                    assert!(got.lse.get(&[b, h, i]).is_nan() && got.dr.get(&[b, h, i]).is_nan());
                    assert!((0..case.dim).all(|d| got.dq.get(&[b, h, i, d]) == 0.0));
                    continue;
                }
                let keys: Vec<usize> = (0..case.slots).filter(|&j| case.sees(b, i, j)).collect();
                let term =
                    |j: usize, d: usize| scale * x.q.get(&[b, h, i, d]) * x.k.get(&[b, h / group, j, d]);
                let z: Vec<f64> = keys.iter().map(|&j| (0..case.dim).map(|d| term(j, d)).sum()).collect();
                let size = |j: &usize| (0..case.dim).map(|d| term(*j, d).abs()).sum::<f64>();
                let logits = keys.iter().map(size).fold(0.0, f64::max);
                let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = z.iter().map(|z| (z - top).exp()).sum();
                let lse = if keys.is_empty() { f64::NEG_INFINITY } else { top + total.ln() };
                Want { value: lse, terms: 1.0 + lse.abs(), logits }.check(
                    got.lse.get(&[b, h, i]),
                    1.0,
                    "lse",
                    [b, h, i, 0],
                    case,
                );
                let p: Vec<f64> = z.iter().map(|z| (z - lse).exp()).collect();
                let r = if case.active.is_some() { x.row_scale.get(&[b, h, i]) } else { 1.0 };
                let value = |j: usize, e: usize| x.v.get(&[b, h / group, j, e]);
                let grad = |e: usize| x.grad.get(&[b, h, i, e]);
                let (mut delta, mut delta_size) = (0.0, 0.0);
                for e in 0..case.value_dim {
                    let mut o = Want::default();
                    for (&j, p) in keys.iter().zip(&p) {
                        o.add(r * p * value(j, e), (r * p * value(j, e)).abs(), logits);
                    }
                    o.check(got.o.get(&[b, h, i, e]), 1.0, "o", [b, h, i, e], case);
                    delta += if keys.is_empty() { 0.0 } else { o.value * grad(e) };
                    delta_size += (o.terms * grad(e)).abs();
                }
                if case.grad_lse {
                    delta -= x.grad_lse.get(&[b, h, i]);
                    delta_size += x.grad_lse.get(&[b, h, i]).abs();
                }
                let (mut dq, mut dr) = (vec![Want::default(); case.dim], Want::default());
                for (&j, p) in keys.iter().zip(&p) {
                    let products = || (0..case.value_dim).map(|e| grad(e) * value(j, e));
                    let (dp, dp_size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
                    dr.add(p * dp, p * dp_size, logits);
                    let ds = p * (r * dp - delta) * scale;
                    let ds_size = (p * scale).abs() * ((r * dp_size).abs() + delta_size);
                    for d in 0..case.dim {
                        let (q, k) = (x.q.get(&[b, h, i, d]), x.k.get(&[b, h / group, j, d]));
                        dq[d].add(ds * k, (ds_size * k).abs(), logits);
                        dk[at(b, h / group, j, case.dim) + d].add(ds * q, (ds_size * q).abs(), logits);
                    }
                    for e in 0..case.value_dim {
                        let share = p * r * grad(e);
                        dv[at(b, h / group, j, case.value_dim) + e].add(share, share.abs(), logits);
                    }
                }
                for d in 0..case.dim {
                    dq[d].check(got.dq.get(&[b, h, i, d]), 4.0, "dq", [b, h, i, d], case);
                }
                if case.active.is_some() {
                    dr.check(got.dr.get(&[b, h, i]), 4.0, "drow_scale", [b, h, i, 0], case);
                }
            }
        }
        for h in 0..case.kv_heads {
            for j in 0..case.slots {
                for d in 0..case.dim {
                    dk[at(b, h, j, case.dim) + d].check(
                        got.dk.get(&[b, h, j, d]),
                        4.0,
                        "dk",
                        [b, h, j, d],
                        case,
                    );
                }
                for e in 0..case.value_dim {
                    dv[at(b, h, j, case.value_dim) + e].check(
                        got.dv.get(&[b, h, j, e]),
                        4.0,
                        "dv",
                        [b, h, j, e],
                        case,
                    );
                }
            }
        }
    }
    for (name, data) in [("o", &got.o), ("lse", &got.lse), ("dq", &got.dq), ("dk", &got.dk), ("dv", &got.dv)]
    {
        data.assert_guards(name);
    }
}

fn check(case: Case) -> (Inputs, Outputs) {
    let x = inputs(&case);
    let got = run(&case, &x);
    compare(&case, &x, &got);
    (x, got)
}

fn same_bits(a: &Outputs, b: &Outputs) -> bool {
    let all = |o: &Outputs| [&o.o, &o.lse, &o.dq, &o.dk, &o.dv, &o.dr].map(Data::bits);
    all(a) == all(b)
}

fn with_threads<T: Send>(threads: usize, f: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

#[test]
fn lengths_around_tile_edges_match_the_formulas() {
    for q_len in [1, 2, 15, 16, 17, 63, 64, 65, 130] {
        for slots in [0, 1, 5, 63, 64, 65, 129, 200] {
            for (causal, strided) in [(false, false), (true, true)] {
                check(Case { causal, strided, ..Case::new(1, 1, 1, q_len, slots, 8) });
            }
        }
    }
}

#[test]
fn every_head_dimension_matches_the_formulas() {
    for dim in 1..=128 {
        let value_dim = (dim * 37) % 128 + 1;
        check(Case { value_dim, causal: true, strided: dim % 2 == 0, ..Case::new(1, 2, 1, 19, 70, dim) });
    }
}

#[test]
fn options_match_the_formulas() {
    let base = Case { strided: true, ..Case::new(3, 6, 2, 70, 131, 12) };
    for offset in [None, Some(0), Some(-3), Some(-69), Some(-1000), Some(64), Some(i64::MAX), Some(i64::MIN)]
    {
        for lengths in [None, Some(vec![0, 64, 131])] {
            for active in [None, Some((0..18).map(|i| i % 3 == 1 || i > 14).collect())] {
                check(Case {
                    causal: true,
                    offset,
                    lengths: lengths.clone(),
                    active,
                    grad_lse: true,
                    value_dim: 20,
                    ..base.clone()
                });
            }
        }
    }
    check(Case { lengths: Some(vec![1, 65, 130]), ..base.clone() });
    check(Case { active: Some(vec![false; 18]), ..base.clone() });
    for scale in [0.0, -0.7, 3.0] {
        check(Case { scale: Some(scale), ..base.clone() });
    }
}

#[test]
fn extreme_scores_match_the_formulas() {
    for magnitude in [1e-30, 1e2, 1e4] {
        check(Case { magnitude, scale: Some(1.0), causal: true, ..Case::new(1, 2, 2, 66, 133, 16) });
    }
}

#[test]
fn a_query_that_sees_nothing_is_zero_whatever_keys_and_values_hold() {
    let case = Case { causal: true, offset: Some(-70), grad_lse: true, ..Case::new(1, 1, 1, 80, 66, 9) };
    let mut x = inputs(&case);
    x.k.memory.fill(f32::NAN);
    x.v.memory.fill(f32::INFINITY);
    let got = run(&case, &x);
    for i in 0..70 {
        assert_eq!(got.lse.get(&[0, 0, i]), f64::NEG_INFINITY);
        assert!(
            (0..9).all(|d| got.o.get(&[0, 0, i, d]) == 0.0 && got.dq.get(&[0, 0, i, d]) == 0.0),
            "row {i}"
        );
    }
    assert!((70..80).all(|i| got.o.get(&[0, 0, i, 0]).is_nan()));
    for j in 10..66 {
        assert!(
            (0..9).all(|d| got.dk.get(&[0, 0, j, d]) == 0.0 && got.dv.get(&[0, 0, j, d]) == 0.0),
            "key {j}"
        );
    }
}

/// Which elements of each output are NaN or infinite, and the bits of the others.
fn finite_bits(data: &Data) -> Vec<Option<u32>> {
    data.layout.indices().map(|i| data.memory[i]).map(|x| x.is_finite().then_some(x.to_bits())).collect()
}

#[test]
fn a_bad_value_reaches_exactly_the_rows_that_see_it() {
    // The split and the sequential schedule take different paths through the tiles.
    for threads in [1, 3] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 5, 63, 64, 70, 129] {
                let case = Case {
                    causal: true,
                    offset: Some(0),
                    active: (at == 70).then(|| vec![true; 2]),
                    ..Case::new(1, 2, 1, 130, 150, 33)
                };
                let clean = inputs(&case);
                let want = run(&case, &clean);
                let bits = |out: &Outputs, name: &str| {
                    finite_bits(match name {
                        "o" => &out.o,
                        "dq" => &out.dq,
                        "dk" => &out.dk,
                        _ => &out.dv,
                    })
                };
                for input in ["q", "k", "v", "grad"] {
                    let mut x = clean.clone();
                    match input {
                        "q" => x.q.set(&[0, 1, at, 3], bad),
                        "k" => x.k.set(&[0, 0, at, 3], bad),
                        "v" => x.v.set(&[0, 0, at, 3], bad),
                        _ => x.grad.set(&[0, 1, at, 3], bad),
                    }
                    let got = with_threads(threads, || run(&case, &x));
                    let by_key = matches!(input, "k" | "v");
                    // Rows that may differ: queries that see the key; or the one query, and the keys it sees.
                    for (name, heads, rows) in [("o", 2, 130), ("dq", 2, 130), ("dk", 1, 150), ("dv", 1, 150)]
                    {
                        let (got, want) = (bits(&got, name), bits(&want, name));
                        for (index, (got, want)) in got.iter().zip(&want).enumerate() {
                            let (h, row) = (index / 33 / rows % heads, index / 33 % rows);
                            let touched = match (name, by_key) {
                                ("o" | "dq", true) => row >= at,
                                ("o" | "dq", false) => h == 1 && row == at,
                                // A bad key or value spoils every row that sees it, and with them the keys those rows see.
                                (_, true) => row < 130,
                                (_, false) => row <= at,
                            };
                            assert!(
                                touched || got == want,
                                "{bad} in {input}[{at}] leaks to {name} head {h} row {row}"
                            );
                        }
                    }
                    let spoiled =
                        |name: &str, row: usize| bits(&got, name)[(130 + row) * 33..][..33].contains(&None);
                    let seen = match input {
                        // A score of −∞ is a weight of 0, which is a fine thing to be.
                        "k" if bad.is_infinite() => true,
                        "k" | "v" => (at..130).all(|row| spoiled("o", row) && spoiled("dq", row)),
                        "q" => spoiled("o", at) && spoiled("dq", at),
                        _ => spoiled("dq", at) && bits(&got, "dv")[..33].contains(&None),
                    };
                    assert!(seen, "{bad} in {input}[{at}] was lost");
                }
            }
        }
    }
}

#[test]
fn keys_beyond_the_length_are_never_looked_at() {
    let case = Case { lengths: Some(vec![70, 0]), strided: true, ..Case::new(2, 2, 2, 66, 140, 20) };
    let (x, want) = check(case.clone());
    let mut poisoned = x.clone();
    for b in 0..2 {
        for j in case.length(b)..140 {
            for (h, d) in (0..2).flat_map(|h| (0..20).map(move |d| (h, d))) {
                poisoned.k.set(&[b, h, j, d], f32::NAN);
                poisoned.v.set(&[b, h, j, d], f32::INFINITY);
            }
        }
    }
    assert!(same_bits(&run(&case, &poisoned), &want));
}

#[test]
fn inactive_heads_are_not_read() {
    let active = vec![true, false, false, false, false, true, false, false];
    let case = Case { active: Some(active), ..Case::new(2, 4, 2, 70, 90, 16) };
    let (x, want) = check(case.clone());
    let mut poisoned = x.clone();
    for (b, h) in [(0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)] {
        for (i, d) in (0..70).flat_map(|i| (0..16).map(move |d| (i, d))) {
            poisoned.q.set(&[b, h, i, d], f32::NAN);
            poisoned.grad.set(&[b, h, i, d], f32::NAN);
        }
    }
    for (j, d) in (0..90).flat_map(|j| (0..16).map(move |d| (j, d))) {
        for (b, h) in [(0, 1), (1, 1)] {
            poisoned.k.set(&[b, h, j, d], f32::NAN);
            poisoned.v.set(&[b, h, j, d], f32::NAN);
        }
    }
    assert!(same_bits(&run(&case, &poisoned), &want));
}

#[test]
fn threads_and_schedules_change_no_bit() {
    for causal in [false, true] {
        for active in [None, Some(vec![true, true, false, true])] {
            let case = Case { causal, active, grad_lse: true, ..Case::new(1, 4, 2, 300, 333, 40) };
            let x = inputs(&case);
            let want = with_threads(1, || run(&case, &x));
            for threads in [2, 3, 5, 8] {
                assert!(
                    same_bits(&with_threads(threads, || run(&case, &x)), &want),
                    "{threads} threads, {case:?}"
                );
            }
        }
    }
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let case = Case { causal: true, ..Case::new(5, 2, 1, 130, 140, 24) };
    let x = inputs(&case);
    let all = run(&case, &x);
    let alone = Case { batch: 1, ..case.clone() };
    for b in 0..5 {
        let part = |data: &Data| {
            let size = data.layout.len() / 5;
            let layout = Layout::contiguous(&[&[1], &data.layout.shape()[1..]].concat()).unwrap();
            Data { memory: data.memory[b * size..(b + 1) * size].to_vec(), layout }
        };
        let one = Inputs {
            q: part(&x.q),
            k: part(&x.k),
            v: part(&x.v),
            grad: part(&x.grad),
            grad_lse: part(&x.grad_lse),
            row_scale: part(&x.row_scale),
        };
        let got = run(&alone, &one);
        for (all, one) in [(&all.o, &got.o), (&all.dq, &got.dq), (&all.dk, &got.dk), (&all.dv, &got.dv)] {
            assert_eq!(part(all).bits(), one.bits());
        }
    }
}

#[test]
fn each_gradient_alone_has_the_same_bits() {
    let case = Case { causal: true, ..Case::new(1, 2, 1, 90, 100, 24) };
    let (x, got) = check(case);
    let options = AttentionOptions { causal: true, ..Default::default() };
    let saved =
        AttentionSaved { o: got.o.view(), lse: got.lse.view(), grad_o: x.grad.view(), grad_lse: None };
    for mask in 0..8 {
        let want = WantGradients { dq: mask & 1 != 0, dk: mask & 2 != 0, dv: mask & 4 != 0 };
        let gradients =
            attention_backward(&x.q.view(), &x.k.view(), &x.v.view(), &saved, &options, want).unwrap();
        for (wanted, gradient, all) in [
            (want.dq, gradients.dq, &got.dq),
            (want.dk, gradients.dk, &got.dk),
            (want.dv, gradients.dv, &got.dv),
        ] {
            assert_eq!(gradient.is_some(), wanted);
            if let Some(gradient) = gradient {
                let bits: Vec<u32> = gradient.to_vec::<f32>().unwrap().iter().map(|x| x.to_bits()).collect();
                assert_eq!(bits, all.bits(), "{want:?}");
            }
        }
    }
}

#[test]
fn repeated_inputs_need_no_copy() {
    // One key head and one row scale for the whole batch, by strides of 0.
    let (k, r) = (random(70 * 8, 2, 1.0), [0.5f32]);
    let q = random(2 * 3 * 20 * 8, 1, 1.0);
    let shape = [2, 3, 70, 8];
    let repeated = TensorRef::strided(&k, Layout::new(&shape, &[0, 0, 8, 1], 0).unwrap()).unwrap();
    let copied: Vec<f32> = k.iter().copied().cycle().take(6 * 70 * 8).collect();
    let dense = TensorRef::from_slice(&copied, &shape).unwrap();
    let q = TensorRef::from_slice(&q, &[2, 3, 20, 8]).unwrap();
    let options = AttentionOptions::default();
    let a = attention_forward(&q, &repeated, &repeated, &options).unwrap();
    let b = attention_forward(&q, &dense, &dense, &options).unwrap();
    assert_eq!(a.o.to_vec::<f32>().unwrap(), b.o.to_vec::<f32>().unwrap());
    let (order, kv_order, counts, active) =
        ([0u32, 1, 2, 3, 4, 5], [0u32, 1, 2, 3, 4, 5], [6u32, 6], [1u32; 6]);
    let heads = ActiveHeads {
        order: TensorRef::from_slice(&order, &[6]).unwrap(),
        kv_order: TensorRef::from_slice(&kv_order, &[6]).unwrap(),
        counts: TensorRef::from_slice(&counts, &[2]).unwrap(),
        active: TensorRef::from_slice(&active, &[2, 3]).unwrap(),
        row_scale: TensorRef::strided(&r, Layout::new(&[2, 3, 20], &[0, 0, 0], 0).unwrap()).unwrap(),
    };
    let halved =
        attention_forward(&q, &dense, &dense, &AttentionOptions { heads: Some(heads), ..options }).unwrap();
    let want: Vec<f32> = b.o.to_vec::<f32>().unwrap().iter().map(|x| x * 0.5).collect();
    assert_eq!(halved.o.to_vec::<f32>().unwrap(), want);
}

#[test]
fn a_broken_list_of_heads_is_an_error() {
    let data = vec![0.5f32; 4 * 8];
    let x = TensorRef::from_slice(&data, &[1, 4, 1, 8]).unwrap();
    let (kv_order, active, r) = ([0u32, 1, 2, 3], [1u32; 4], [1f32; 4]);
    for (order, count) in [([0u32, 0, 1, 2], 2), ([1, 0, 2, 3], 2), ([0, 1, 2, 4], 4), ([0, 1, 2, 3], 5)] {
        let counts = [count, 4u32];
        let heads = ActiveHeads {
            order: TensorRef::from_slice(&order, &[4]).unwrap(),
            kv_order: TensorRef::from_slice(&kv_order, &[4]).unwrap(),
            counts: TensorRef::from_slice(&counts, &[2]).unwrap(),
            active: TensorRef::from_slice(&active, &[1, 4]).unwrap(),
            row_scale: TensorRef::from_slice(&r, &[1, 4, 1]).unwrap(),
        };
        let options = AttentionOptions { heads: Some(heads), ..Default::default() };
        let error = attention_forward(&x, &x, &x, &options).unwrap_err();
        assert!(matches!(error, crate::Error::InvalidArgument { .. }), "{error}");
    }
}
