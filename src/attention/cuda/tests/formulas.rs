//! Attention with every score, mask and option in f64, written as the formulas stand: what the general kernels are compared
//! with. Beside each value stand its terms: the magnitudes that were added up, grown by the rounding of the scores.

use crate::random;

/// How a query and a key are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Dot,
    ComplexDot,
    Cosine,
    Fidelity,
    Gaussian,
    Additive,
}

/// A tensor that broadcasts: sizes of 1 repeat.
#[derive(Clone, Debug)]
pub(super) struct Broadcast {
    pub(super) shape: [usize; 4],
    pub(super) values: Vec<f64>,
}

impl Broadcast {
    pub(super) fn at(&self, index: [usize; 4]) -> usize {
        let wrapped = index.iter().zip(self.shape).map(|(&i, size)| if size == 1 { 0 } else { i });
        wrapped.zip(self.shape).fold(0, |at, (i, size)| at * size + i)
    }
}

/// One call. Tensors are row-major `[batch, head, row, dim]`; rows at and beyond a sample's `q_lens` do not exist.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) batch: usize,
    pub(super) q_heads: usize,
    pub(super) kv_heads: usize,
    pub(super) q_len: usize,
    pub(super) kv_slots: usize,
    pub(super) head_dim: usize,
    pub(super) value_dim: usize,
    pub(super) kind: Kind,
    /// Scale, or γ.
    pub(super) coefficient: f64,
    pub(super) softcap: Option<f64>,
    pub(super) causal: bool,
    pub(super) window: Option<[i64; 2]>,
    pub(super) q_lens: Vec<usize>,
    pub(super) kv_lens: Vec<usize>,
    /// Position of query 0 of each sample.
    pub(super) offsets: Vec<i64>,
    /// 0 hides.
    pub(super) mask: Option<Broadcast>,
    pub(super) bias: Option<Broadcast>,
    pub(super) alibi: Option<Vec<f64>>,
    pub(super) sinks: Option<Vec<f64>>,
    /// `[head_dim]` or `[q_heads, head_dim]`.
    pub(super) w: Vec<f64>,
    /// Probability, seed, offset.
    pub(super) dropout: Option<(f64, u64, u64)>,
    pub(super) active: Option<Vec<bool>>,
    pub(super) row_scale: Option<Vec<f64>>,
    pub(super) q: Vec<f64>,
    pub(super) k: Vec<f64>,
    pub(super) v: Vec<f64>,
    pub(super) grad_o: Vec<f64>,
    pub(super) grad_lse: Option<Vec<f64>>,
    /// Nothing is differentiated.
    pub(super) forward_only: bool,
}

/// Values and their terms.
#[derive(Clone, Debug, Default)]
pub(super) struct Bounded {
    pub(super) value: Vec<f64>,
    pub(super) terms: Vec<f64>,
}

impl Bounded {
    fn zeros(len: usize) -> Self {
        Self { value: vec![0.0; len], terms: vec![0.0; len] }
    }

    fn add(&mut self, at: usize, value: f64, terms: f64) {
        self.value[at] += value;
        self.terms[at] += terms.abs();
    }
}

/// Everything a call computes.
#[derive(Clone, Debug)]
pub(super) struct Results {
    pub(super) o: Bounded,
    pub(super) lse: Bounded,
    pub(super) dq: Bounded,
    pub(super) dk: Bounded,
    pub(super) dv: Bounded,
    pub(super) dbias: Bounded,
    pub(super) dsinks: Bounded,
    pub(super) dalibi: Bounded,
    pub(super) dw: Bounded,
    pub(super) dscale: Bounded,
    pub(super) drow_scale: Bounded,
}

/// A comparison, its magnitude, and its derivatives by query, key and weights with their magnitudes.
struct Compared {
    u: f64,
    size: f64,
    dq: Vec<(f64, f64)>,
    dk: Vec<(f64, f64)>,
    dw: Vec<f64>,
}

fn plain(values: &[f64]) -> Vec<(f64, f64)> {
    values.iter().map(|&x| (x, x.abs())).collect()
}

fn compare(kind: Kind, q: &[f64], k: &[f64], w: &[f64]) -> Compared {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let size: f64 = q.iter().zip(k).map(|(x, y)| (x * y).abs()).sum();
    let pairs = || q.iter().zip(k);
    match kind {
        Kind::Dot | Kind::ComplexDot => {
            Compared { u: dot(q, k), size, dq: plain(k), dk: plain(q), dw: Vec::new() }
        }
        Kind::Cosine => {
            let (nq, nk) = (dot(q, q).sqrt(), dot(k, k).sqrt());
            if nq == 0.0 || nk == 0.0 {
                let none = vec![(0.0, 0.0); q.len()];
                return Compared { u: 0.0, size: 0.0, dq: none.clone(), dk: none, dw: Vec::new() };
            }
            let u = dot(q, k) / (nq * nk);
            let by = |own: &[f64], other: &[f64], n: f64| -> Vec<(f64, f64)> {
                let both = own.iter().zip(other);
                both.map(|(own, other)| {
                    let (a, b) = (other / (nq * nk), u * own / (n * n));
                    (a - b, a.abs() + b.abs())
                })
                .collect()
            };
            Compared { u, size: size / (nq * nk), dq: by(q, k, nq), dk: by(k, q, nk), dw: Vec::new() }
        }
        Kind::Fidelity => {
            let (mut re, mut im) = (0.0, 0.0);
            for (q, k) in q.chunks(2).zip(k.chunks(2)) {
                re += q[0] * k[0] + q[1] * k[1];
                im += q[0] * k[1] - q[1] * k[0];
            }
            let turn = |x: &[f64], sign: f64| -> Vec<(f64, f64)> {
                let pair = |x: &[f64]| {
                    [
                        (2.0 * (re * x[0] + sign * im * x[1]), 2.0 * size * (x[0].abs() + x[1].abs())),
                        (2.0 * (re * x[1] - sign * im * x[0]), 2.0 * size * (x[0].abs() + x[1].abs())),
                    ]
                };
                x.chunks(2).flat_map(pair).collect()
            };
            let u = re * re + im * im;
            Compared { u, size: 2.0 * size * size, dq: turn(k, 1.0), dk: turn(q, -1.0), dw: Vec::new() }
        }
        Kind::Gaussian => {
            let u = -pairs().map(|(q, k)| (q - k) * (q - k)).sum::<f64>();
            let by = |sign: f64| {
                pairs().map(|(q, k)| (sign * 2.0 * (k - q), 2.0 * (q.abs() + k.abs()))).collect::<Vec<_>>()
            };
            Compared { u, size: -u, dq: by(1.0), dk: by(-1.0), dw: Vec::new() }
        }
        Kind::Additive => {
            let t: Vec<f64> = pairs().map(|(q, k)| (q + k).tanh()).collect();
            let size = t.iter().zip(w).map(|(t, w)| (t * w).abs()).sum();
            let by: Vec<(f64, f64)> = t.iter().zip(w).map(|(t, w)| (w * (1.0 - t * t), w.abs())).collect();
            Compared { u: dot(&t, w), size, dq: by.clone(), dk: by, dw: t }
        }
    }
}

/// A visible key of a query.
struct Seen {
    key: usize,
    z: f64,
    slope: f64,
    /// The dropout's factor: 0 or 1/(1 − p).
    kept: f64,
    distance: f64,
    compared: Compared,
}

impl Call {
    pub(super) fn row(&self, b: usize, h: usize, i: usize) -> usize {
        (b * self.q_heads + h) * self.q_len + i
    }

    pub(super) fn key_row(&self, b: usize, h: usize, j: usize) -> usize {
        (b * self.kv_heads + h / (self.q_heads / self.kv_heads)) * self.kv_slots + j
    }

    pub(super) fn is_active(&self, b: usize, h: usize) -> bool {
        self.active.as_ref().is_none_or(|active| active[b * self.q_heads + h])
    }

    pub(super) fn sees(&self, b: usize, h: usize, i: usize, j: usize) -> bool {
        let ahead = j as i64 - (self.offsets[b] + i as i64);
        let [left, right] = self.window.unwrap_or([i64::MAX, i64::MAX]);
        j < self.kv_lens[b]
            && !(self.causal && ahead > 0)
            && -ahead <= left
            && ahead <= right
            && self.mask.as_ref().is_none_or(|mask| mask.values[mask.at([b, h, i, j])] != 0.0)
            && self.bias.as_ref().is_none_or(|bias| bias.values[bias.at([b, h, i, j])] != f64::NEG_INFINITY)
    }

    fn w(&self, h: usize) -> &[f64] {
        if self.w.len() <= self.head_dim { &self.w } else { &self.w[h * self.head_dim..][..self.head_dim] }
    }

    pub(super) fn keep(&self, b: usize, h: usize, i: usize, j: usize) -> f64 {
        let Some((p, seed, offset)) = self.dropout else { return 1.0 };
        let element = (self.row(b, h, i) * self.kv_slots + j) as u64;
        let threshold = (p * 4_294_967_296.0).floor();
        if f64::from(random::word(seed, offset, element)) >= threshold { 1.0 / (1.0 - p) } else { 0.0 }
    }

    fn seen(&self, b: usize, h: usize, i: usize) -> Vec<Seen> {
        let dim = self.head_dim;
        let q = &self.q[self.row(b, h, i) * dim..][..dim];
        let visible = (0..self.kv_lens[b]).filter(|&j| self.sees(b, h, i, j));
        visible
            .map(|j| {
                let compared =
                    compare(self.kind, q, &self.k[self.key_row(b, h, j) * dim..][..dim], self.w(h));
                let (mut z, mut slope) = (self.coefficient * compared.u, 1.0);
                if let Some(cap) = self.softcap {
                    let t = (z / cap).tanh();
                    (z, slope) = (cap * t, 1.0 - t * t);
                }
                let distance = (j as f64 - (self.offsets[b] + i as i64) as f64).abs();
                z += self.bias.as_ref().map_or(0.0, |bias| bias.values[bias.at([b, h, i, j])]);
                z -= self.alibi.as_ref().map_or(0.0, |slopes| slopes[h] * distance);
                Seen { key: j, z, slope, kept: self.keep(b, h, i, j), distance, compared }
            })
            .collect()
    }

    pub(super) fn results(&self) -> Results {
        let rows = self.batch * self.q_heads * self.q_len;
        let bias = self.bias.as_ref().map_or(0, |bias| bias.values.len());
        let mut r = Results {
            o: Bounded::zeros(rows * self.value_dim),
            lse: Bounded::zeros(rows),
            dq: Bounded::zeros(self.q.len()),
            dk: Bounded::zeros(self.k.len()),
            dv: Bounded::zeros(self.v.len()),
            dbias: Bounded::zeros(bias),
            dsinks: Bounded::zeros(self.q_heads),
            dalibi: Bounded::zeros(self.q_heads),
            dw: Bounded::zeros(self.w.len()),
            dscale: Bounded::zeros(1),
            drow_scale: Bounded::zeros(rows),
        };
        for b in 0..self.batch {
            for h in (0..self.q_heads).filter(|&h| self.is_active(b, h)) {
                (0..self.q_lens[b]).for_each(|i| self.add_row(&mut r, b, h, i));
            }
        }
        r
    }

    fn add_row(&self, r: &mut Results, b: usize, h: usize, i: usize) {
        let (row, dim, width) = (self.row(b, h, i), self.head_dim, self.value_dim);
        let seen = self.seen(b, h, i);
        // A sink of −∞ is none.
        let sink = self.sinks.as_ref().map(|sinks| sinks[h]).filter(|&sink| sink != f64::NEG_INFINITY);
        let gate = self.row_scale.as_ref().map_or(1.0, |scales| scales[row]);
        let top = seen.iter().map(|s| s.z).chain(sink).fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = seen.iter().map(|s| s.z).chain(sink).map(|z| (z - top).exp()).sum();
        let size = |s: &Seen| 1.0 + self.coefficient.abs() * s.compared.size + s.z.abs();
        let growth = seen.iter().map(size).fold(1.0 + sink.map_or(0.0, f64::abs), f64::max);
        let nothing = seen.is_empty() && sink.is_none();
        r.lse.value[row] = if nothing { f64::NEG_INFINITY } else { top + total.ln() };
        r.lse.terms[row] = growth;
        let p: Vec<f64> = seen.iter().map(|s| (s.z - top).exp() / total).collect();
        let upstream = &self.grad_o[row * width..][..width];
        let dlse = self.grad_lse.as_ref().map_or(0.0, |g| g[row]);
        let value = |s: &Seen| &self.v[self.key_row(b, h, s.key) * width..][..width];
        let dp = |s: &Seen| -> (f64, f64) {
            let terms = upstream.iter().zip(value(s)).map(|(g, v)| g * v);
            (s.kept * terms.clone().sum::<f64>(), s.kept * terms.map(f64::abs).sum::<f64>())
        };
        let (mut mean, mut mean_terms) = (0.0, 0.0);
        for (s, p) in seen.iter().zip(&p) {
            let (dot, size) = dp(s);
            mean += p * dot;
            mean_terms += p * size;
            for d in 0..width {
                r.o.add(
                    row * width + d,
                    gate * p * s.kept * value(s)[d],
                    gate * growth * p * s.kept * value(s)[d],
                );
                let at = self.key_row(b, h, s.key) * width + d;
                r.dv.add(at, gate * p * s.kept * upstream[d], gate * growth * p * s.kept * upstream[d]);
            }
        }
        r.drow_scale.add(row, mean, growth * mean_terms);
        let (delta, delta_terms) = (gate * mean - dlse, gate.abs() * mean_terms + dlse.abs());
        if let Some(sink) = sink {
            let p = (sink - top).exp() / total;
            r.dsinks.add(h, -p * delta, growth * p * delta_terms);
        }
        for (s, p) in seen.iter().zip(&p) {
            let (dot, size) = dp(s);
            let dz = p * (gate * dot - delta);
            let terms = growth * p * (gate.abs() * size + delta_terms);
            if let Some(bias) = &self.bias {
                r.dbias.add(bias.at([b, h, i, s.key]), dz, terms);
            }
            r.dalibi.add(h, -dz * s.distance, terms * s.distance);
            r.dscale.add(0, dz * s.slope * s.compared.u, terms * s.compared.size);
            let by = dz * s.slope * self.coefficient;
            let by_terms = terms * self.coefficient.abs();
            for d in 0..dim {
                let (q, k) = (s.compared.dq[d], s.compared.dk[d]);
                r.dq.add(row * dim + d, by * q.0, by_terms * q.1);
                r.dk.add(self.key_row(b, h, s.key) * dim + d, by * k.0, by_terms * k.1);
            }
            for (d, t) in s.compared.dw.iter().enumerate() {
                let first = if self.w.len() == dim { 0 } else { h * dim };
                r.dw.add(first + d, by * t, by_terms);
            }
        }
    }
}
