//! Attention in f64, written as the formulas stand: what the emulated kernels are compared with.

/// One call: sizes, options and row-major inputs `[batch, head, row, dim]`.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) batch: usize,
    pub(super) q_heads: usize,
    pub(super) kv_heads: usize,
    pub(super) q_len: usize,
    pub(super) kv_slots: usize,
    pub(super) head_dim: usize,
    pub(super) value_dim: usize,
    pub(super) scale: f32,
    pub(super) causal: bool,
    /// Per sample; `None`: `kv_len − q_len`.
    pub(super) offsets: Option<Vec<i64>>,
    /// Per sample; `None`: all slots.
    pub(super) kv_len: Option<Vec<i64>>,
    /// Whether each (sample, head) pair is computed, and the scale of each row; `None`: all, 1.
    pub(super) heads: Option<(Vec<bool>, Vec<f32>)>,
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    pub(super) grad_o: Vec<f32>,
    pub(super) grad_lse: Option<Vec<f32>>,
}

/// A value and what its rounding error may be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bounded {
    pub(super) value: f64,
    pub(super) bound: f64,
}

/// Outputs; an element nothing is written to is `None`.
pub(super) struct Expected {
    pub(super) o: Vec<Option<Bounded>>,
    pub(super) lse: Vec<Option<Bounded>>,
    pub(super) dq: Vec<Option<Bounded>>,
    pub(super) dk: Vec<Option<Bounded>>,
    pub(super) dv: Vec<Option<Bounded>>,
    pub(super) drow_scale: Vec<Option<Bounded>>,
}

/// Numbers in −1..1 that repeat for a seed.
pub(super) fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

impl Case {
    /// Everything visible, everything computed.
    pub(super) fn new(heads: [usize; 3], lens: [usize; 2], dims: [usize; 2], seed: u64) -> Self {
        let ([batch, q_heads, kv_heads], [q_len, kv_slots], [head_dim, value_dim]) = (heads, lens, dims);
        let rows = batch * q_heads * q_len;
        Self {
            batch,
            q_heads,
            kv_heads,
            q_len,
            kv_slots,
            head_dim,
            value_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            causal: false,
            offsets: None,
            kv_len: None,
            heads: None,
            q: numbers(seed, rows * head_dim),
            k: numbers(seed + 1, batch * kv_heads * kv_slots * head_dim),
            v: numbers(seed + 2, batch * kv_heads * kv_slots * value_dim),
            grad_o: numbers(seed + 3, rows * value_dim),
            grad_lse: Some(numbers(seed + 4, rows)),
        }
    }

    pub(super) fn causal(mut self, offsets: Option<Vec<i64>>) -> Self {
        self.causal = true;
        self.offsets = offsets;
        self
    }

    pub(super) fn kv_len(mut self, lens: &[i64]) -> Self {
        self.kv_len = Some(lens.to_vec());
        self
    }

    /// Computes only pairs where `active` says so, with random row scales.
    pub(super) fn heads(mut self, active: impl Fn(usize) -> bool) -> Self {
        let pairs = self.batch * self.q_heads;
        self.heads = Some(((0..pairs).map(active).collect(), numbers(99, pairs * self.q_len)));
        self
    }

    pub(super) fn keys(&self, b: usize) -> usize {
        self.kv_len.as_ref().map_or(self.kv_slots, |lens| lens[b] as usize)
    }

    /// Whether query `i` of sample `b` sees key `j`.
    pub(super) fn sees(&self, b: usize, i: usize, j: usize) -> bool {
        let offset = self.offsets.as_ref().map_or(self.keys(b) as i64 - self.q_len as i64, |o| o[b]);
        j < self.keys(b) && (!self.causal || (j as i64) <= offset.saturating_add(i as i64))
    }

    pub(super) fn row(&self, b: usize, h: usize, i: usize) -> usize {
        (b * self.q_heads + h) * self.q_len + i
    }

    pub(super) fn key(&self, b: usize, h: usize, j: usize) -> usize {
        (b * self.kv_heads + h / (self.q_heads / self.kv_heads)) * self.kv_slots + j
    }

    fn gate(&self, row: usize) -> f64 {
        self.heads.as_ref().map_or(1.0, |(_, scale)| f64::from(scale[row]))
    }

    fn active(&self, b: usize, h: usize) -> bool {
        self.heads.as_ref().is_none_or(|(active, _)| active[b * self.q_heads + h])
    }

    /// The outputs and gradients by their definitions, with bounds of the form of SPEC §8.
    pub(super) fn expected(&self) -> Expected {
        let rows = self.batch * self.q_heads * self.q_len;
        let keys = self.batch * self.kv_heads * self.kv_slots;
        let (dim, value_dim) = (self.head_dim, self.value_dim);
        let zero = Some(Bounded::default());
        let mut out = Expected {
            o: vec![None; rows * value_dim],
            lse: vec![None; rows],
            dq: vec![zero; rows * dim],
            dk: vec![zero; keys * dim],
            dv: vec![zero; keys * value_dim],
            drow_scale: vec![None; rows],
        };
        for (b, h, i) in self.active_rows() {
            self.add_row(b, h, i, &mut out);
        }
        out
    }

    fn active_rows(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        let all = move |b| (0..self.q_heads).flat_map(move |h| (0..self.q_len).map(move |i| (b, h, i)));
        (0..self.batch).flat_map(all).filter(|&(b, h, _)| self.active(b, h))
    }

    fn add_row(&self, b: usize, h: usize, i: usize, out: &mut Expected) {
        let row = self.row(b, h, i);
        let (scale, gate, dim, value_dim) =
            (f64::from(self.scale), self.gate(row), self.head_dim, self.value_dim);
        let q = &self.q[row * dim..][..dim];
        let grad = &self.grad_o[row * value_dim..][..value_dim];
        let seen: Vec<usize> = (0..self.keys(b)).filter(|&j| self.sees(b, i, j)).collect();
        let k = |j: usize| &self.k[self.key(b, h, j) * dim..][..dim];
        let v = |j: usize| &self.v[self.key(b, h, j) * value_dim..][..value_dim];
        let z: Vec<f64> = seen.iter().map(|&j| scale * dot(q, k(j), |x| x)).collect();
        let size = seen.iter().map(|&j| scale.abs() * dot(q, k(j), f64::abs)).fold(0.0, f64::max);
        let unit = 2f64.powi(-24) * (1.0 + size);
        let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = z.iter().map(|z| (z - top).exp()).sum();
        let p: Vec<f64> = z.iter().map(|z| (z - top).exp() / total).collect();
        let lse = if seen.is_empty() { f64::NEG_INFINITY } else { top + total.ln() };
        out.lse[row] = Some(Bounded { value: lse, bound: 16.0 * unit });
        let dp: Vec<f64> = seen.iter().map(|&j| dot(grad, v(j), |x| x)).collect();
        let dp_size: Vec<f64> = seen.iter().map(|&j| dot(grad, v(j), f64::abs)).collect();
        for x in 0..value_dim {
            let sum = |f: fn(f64) -> f64| -> f64 {
                seen.iter().zip(&p).map(|(&j, p)| p * f(f64::from(v(j)[x]))).sum::<f64>()
            };
            out.o[row * value_dim + x] =
                Some(Bounded { value: gate * sum(|v| v), bound: 16.0 * unit * gate.abs() * sum(f64::abs) });
        }
        let weighted: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
        let weighted_size: f64 = p.iter().zip(&dp_size).map(|(p, dp)| p * dp).sum();
        out.drow_scale[row] = Some(Bounded { value: weighted, bound: 64.0 * unit * weighted_size });
        let grad_lse = self.grad_lse.as_ref().map_or(0.0, |g| f64::from(g[row]));
        let delta = gate * weighted - grad_lse;
        let delta_size = gate.abs() * weighted_size + grad_lse.abs();
        for (at, &j) in seen.iter().enumerate() {
            let ds = p[at] * (gate * dp[at] - delta) * scale;
            let ds_size = p[at] * (gate.abs() * dp_size[at] + delta_size) * scale.abs();
            let key = self.key(b, h, j);
            for d in 0..dim {
                let (kd, qd) = (f64::from(k(j)[d]), f64::from(q[d]));
                add(&mut out.dq[row * dim + d], ds * kd, 64.0 * unit * ds_size * kd.abs());
                add(&mut out.dk[key * dim + d], ds * qd, 64.0 * unit * ds_size * qd.abs());
            }
            for x in 0..value_dim {
                let g = gate * f64::from(grad[x]);
                add(&mut out.dv[key * value_dim + x], p[at] * g, 64.0 * unit * p[at] * g.abs());
            }
        }
    }
}

fn dot(a: &[f32], b: &[f32], f: fn(f64) -> f64) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f(f64::from(a) * f64::from(b))).sum()
}

fn add(to: &mut Option<Bounded>, value: f64, bound: f64) {
    if let Some(to) = to {
        to.value += value;
        to.bound += bound;
    }
}

/// Weights below the smallest normal number are flushed to 0.
const FLUSHED: f64 = 1e-36;

/// Compares lengths, then the class of each element, then the difference. An element nothing is written to must still be
/// the NaN it was filled with.
pub(super) fn compare(name: &str, got: &[f32], want: &[Option<Bounded>]) {
    assert_eq!(got.len(), want.len(), "{name}: length");
    for (index, (&got, want)) in got.iter().zip(want).enumerate() {
        let right = match want {
            None => got.is_nan(),
            Some(want) if want.value.is_nan() => got.is_nan(),
            Some(want) if want.value.is_infinite() => f64::from(got) == want.value,
            Some(want) => (f64::from(got) - want.value).abs() <= want.bound + FLUSHED, // false for a NaN
        };
        assert!(right, "{name}[{index}] is {got}, expected {want:?}");
    }
}
