//! A random call, what it gives, and the formulas in f64.

use super::super::{backward_on, forward_on};
use crate::attention::problem::{Backward, Forward, Problem};
use crate::attention::*;
use crate::device::Device;
use crate::tensor::{Layout, TensorMut, TensorRef};

/// One call: sizes, options, layout of memory, and what to poison.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) batch: usize,
    pub(super) q_heads: usize,
    pub(super) kv_heads: usize,
    pub(super) q_len: usize,
    pub(super) slots: usize,
    pub(super) dim: usize,
    pub(super) value_dim: usize,
    pub(super) causal: bool,
    pub(super) offset: Option<i64>,
    pub(super) lengths: Option<Vec<i64>>,
    pub(super) scale: Option<f32>,
    pub(super) magnitude: f32,
    /// `[batch, rows, heads, dim]` in memory with gaps, instead of `[batch, heads, rows, dim]`.
    pub(super) strided: bool,
    pub(super) active: Option<Vec<bool>>,
    pub(super) grad_lse: bool,
}

impl Case {
    pub(super) fn new(
        batch: usize,
        q_heads: usize,
        kv_heads: usize,
        q_len: usize,
        slots: usize,
        dim: usize,
    ) -> Self {
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

    pub(super) fn length(&self, b: usize) -> usize {
        self.lengths.as_ref().map_or(self.slots, |l| l[b] as usize)
    }

    pub(super) fn sees(&self, b: usize, i: usize, j: usize) -> bool {
        let first = self.offset.unwrap_or(self.length(b) as i64 - self.q_len as i64);
        let position = first.saturating_add(i as i64);
        j < self.length(b) && (!self.causal || j as i64 <= position)
    }

    pub(super) fn layout(&self, heads: usize, rows: usize, dim: usize) -> Layout {
        let shape = [self.batch, heads, rows, dim];
        if !self.strided {
            return Layout::contiguous(&shape).unwrap();
        }
        let row = heads * (dim + 3);
        Layout::new(&shape, &[rows * row + 5, dim + 3, row, 1], 7).unwrap()
    }

    pub(super) fn row_layout(&self) -> Layout {
        let shape = [self.batch, self.q_heads, self.q_len];
        if !self.strided {
            return Layout::contiguous(&shape).unwrap();
        }
        Layout::new(&shape, &[self.q_len * self.q_heads * 2, 2, self.q_heads * 2], 1).unwrap()
    }

    pub(super) fn is_active(&self, b: usize, h: usize) -> bool {
        self.active.as_ref().is_none_or(|a| a[b * self.q_heads + h])
    }
}

/// Uniform in −1..1 times `magnitude`.
pub(super) fn random(n: usize, seed: u64, magnitude: f32) -> Vec<f32> {
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
pub(super) struct Data {
    pub(super) memory: Vec<f32>,
    pub(super) layout: Layout,
}

impl Data {
    pub(super) fn nan(layout: Layout) -> Self {
        Self { memory: vec![f32::NAN; layout.end() + 9], layout }
    }

    pub(super) fn random(layout: Layout, seed: u64, magnitude: f32) -> Self {
        let mut data = Self::nan(layout);
        for (i, x) in layout.indices().zip(random(layout.len(), seed, magnitude)) {
            data.memory[i] = x;
        }
        data
    }

    pub(super) fn view(&self) -> TensorRef<'_> {
        TensorRef::strided(&self.memory, self.layout).unwrap()
    }

    pub(super) fn view_mut(&mut self) -> TensorMut<'_> {
        TensorMut::strided(&mut self.memory, self.layout).unwrap()
    }

    pub(super) fn index(&self, at: &[usize]) -> usize {
        self.layout.offset() + at.iter().zip(self.layout.strides()).map(|(i, s)| i * s).sum::<usize>()
    }

    pub(super) fn get(&self, at: &[usize]) -> f64 {
        f64::from(self.memory[self.index(at)])
    }

    pub(super) fn set(&mut self, at: &[usize], x: f32) {
        let i = self.index(at);
        self.memory[i] = x;
    }

    /// What lies outside the view is still NaN.
    pub(super) fn assert_guards(&self, name: &str) {
        let inside: std::collections::HashSet<usize> = self.layout.indices().collect();
        for (i, x) in self.memory.iter().enumerate().filter(|(i, _)| !inside.contains(i)) {
            assert!(x.is_nan(), "{name}: element {i} outside the view was written");
        }
    }

    pub(super) fn bits(&self) -> Vec<u32> {
        self.layout.indices().map(|i| self.memory[i].to_bits()).collect()
    }
}

#[derive(Clone)]
pub(super) struct Inputs {
    pub(super) q: Data,
    pub(super) k: Data,
    pub(super) v: Data,
    pub(super) grad: Data,
    pub(super) grad_lse: Data,
    pub(super) row_scale: Data,
}

#[derive(Clone)]
pub(super) struct Outputs {
    pub(super) o: Data,
    pub(super) lse: Data,
    pub(super) dq: Data,
    pub(super) dk: Data,
    pub(super) dv: Data,
    pub(super) dr: Data,
}

pub(super) fn inputs(case: &Case) -> Inputs {
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

pub(super) fn run(case: &Case, inputs: &Inputs) -> Outputs {
    run_on(pulp::Arch::new(), case, inputs)
}

pub(super) fn run_on(arch: pulp::Arch, case: &Case, inputs: &Inputs) -> Outputs {
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
        scale: case.scale.map(f64::from),
        causal: case.causal,
        query_offset: case.offset.map_or(QueryOffset::BottomRight, QueryOffset::At),
        kv_len: case.lengths.as_ref().map(|l| TensorRef::from_slice(l, &[case.batch]).unwrap()),
        heads,
        ..Default::default()
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
    let problem = Problem::new("attention", &q, &k, &v, &options).unwrap();
    let mut call = Forward { o: out.o.view_mut(), lse: out.lse.view_mut(), workspace: Workspace::Allocate };
    problem.check_forward(&call).unwrap();
    forward_on(arch, &problem, &mut call).unwrap();
    let saved = AttentionSaved {
        o: out.o.view(),
        lse: out.lse.view(),
        grad_o: inputs.grad.view(),
        grad_lse: case.grad_lse.then(|| inputs.grad_lse.view()),
    };
    let gradients = AttentionGradientViews {
        dq: Some(out.dq.view_mut()),
        dk: Some(out.dk.view_mut()),
        dv: Some(out.dv.view_mut()),
        drow_scale: case.active.as_ref().map(|_| out.dr.view_mut()),
        ..Default::default()
    };
    let mut call = Backward { saved, gradients, workspace: Workspace::Allocate };
    problem.check_backward(&call).unwrap();
    backward_on(arch, &problem, &mut call).unwrap();
    out
}

/// A value wanted and the rounding error allowed: 16u·(1 + size of the scores)·(sum of the terms' sizes), ×4 for gradients.
#[derive(Clone, Copy, Default)]
pub(super) struct Want {
    pub(super) value: f64,
    pub(super) terms: f64,
    pub(super) logits: f64,
}

impl Want {
    pub(super) fn add(&mut self, x: f64, size: f64, logits: f64) {
        self.value += x;
        self.terms += size;
        self.logits = self.logits.max(logits);
    }

    pub(super) fn check(self, got: f64, factor: f64, name: &str, at: [usize; 4], case: &Case) {
        let bound = factor * 16.0 * 2f64.powi(-24) * (1.0 + self.logits) * self.terms
            // A weight below the normal range is 0, whatever it would have been multiplied with.
            + 256.0 * f64::from(f32::MIN_POSITIVE) * f64::from(case.magnitude.max(1.0));
        let fine = if self.value.is_nan() { got.is_nan() } else { (got - self.value).abs() <= bound };
        assert!(fine || got == self.value, "{name}{at:?} = {got}, want {} ± {bound:e}\n{case:?}", self.value);
    }
}

/// Compares a whole run with the formulas. Sums run over what is visible only, so a NaN elsewhere must not be seen.
pub(super) fn compare(case: &Case, x: &Inputs, got: &Outputs) {
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

pub(super) fn check(case: Case) -> (Inputs, Outputs) {
    let x = inputs(&case);
    let got = run(&case, &x);
    compare(&case, &x, &got);
    (x, got)
}

pub(super) fn same_bits(a: &Outputs, b: &Outputs) -> bool {
    let all = |o: &Outputs| [&o.o, &o.lse, &o.dq, &o.dk, &o.dv, &o.dr].map(Data::bits);
    all(a) == all(b)
}

pub(super) fn with_threads<T: Send>(threads: usize, f: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}
