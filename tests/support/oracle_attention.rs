//! Attention with every option, in f64, written as the formulas say and in no other way. Shares nothing with `src/`.
//!
//! Sums run over the visible keys alone. Beside each value stand its *terms*, the magnitudes that were added up times the growth
//! of the rounding error of the scores they come from; `tolerance.rs` makes bounds of them.

use super::philox::philox_word;

/// How a query and a key are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    Dot,
    Cosine,
    ComplexDot,
    Fidelity,
    Gaussian,
    Additive,
}

/// Every score.
pub const SCORES: [Score; 6] =
    [Score::Dot, Score::Cosine, Score::ComplexDot, Score::Fidelity, Score::Gaussian, Score::Additive];

/// A table `[batch|1, heads|1, queries|1, keys|1]`.
#[derive(Clone, Debug)]
pub struct Table<T> {
    pub shape: [usize; 4],
    pub values: Vec<T>,
}

impl<T: Copy> Table<T> {
    /// Place of the element that (b, h, i, j) reads.
    pub fn at(&self, place: [usize; 4]) -> usize {
        place.iter().zip(self.shape).fold(0, |at, (&i, n)| at * n + if n == 1 { 0 } else { i })
    }
}

/// Dropout of weights.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    pub p: f64,
    pub seed: u64,
    pub offset: u64,
}

/// One problem: tensors dense and row-major, samples shorter than their slots where `q_len` and `kv_len` say so.
#[derive(Clone, Debug)]
pub struct General {
    pub batch: usize,
    pub q_heads: usize,
    pub kv_heads: usize,
    pub q_slots: usize,
    pub kv_slots: usize,
    pub head_dim: usize,
    pub value_dim: usize,
    pub score: Score,
    /// Factor of the score; gamma of a Gaussian.
    pub scale: f64,
    pub softcap: Option<f64>,
    pub causal: bool,
    /// Keys before and after the position that are seen.
    pub window: Option<(i64, i64)>,
    /// `[batch]`: where query 0 stands.
    pub offset: Vec<i64>,
    /// `[batch]`.
    pub q_len: Vec<usize>,
    /// `[batch]`.
    pub kv_len: Vec<usize>,
    pub mask: Option<Table<bool>>,
    pub bias: Option<Table<f64>>,
    /// `[q_heads]`.
    pub alibi: Option<Vec<f64>>,
    /// `[q_heads]`.
    pub sinks: Option<Vec<f64>>,
    /// `[q_heads, head_dim]`.
    pub w: Vec<f64>,
    pub dropout: Option<Dropout>,
    pub q: Vec<f64>,
    pub k: Vec<f64>,
    pub v: Vec<f64>,
    /// Rounds whatever the unfused algorithm would store: the identity, or to f16 or bf16.
    pub store: fn(f64) -> f64,
}

/// Values with the terms they are made of.
#[derive(Clone, Debug, Default)]
pub struct Summed {
    pub values: Vec<f64>,
    pub terms: Vec<f64>,
}

impl Summed {
    fn zeros(n: usize) -> Self {
        Self { values: vec![0.0; n], terms: vec![0.0; n] }
    }

    fn add(&mut self, at: usize, value: f64, terms: f64) {
        self.values[at] += value;
        self.terms[at] += terms.abs();
    }
}

/// Result of [`General::forward`].
#[derive(Clone, Debug)]
pub struct Output {
    /// `[batch, q_heads, q_slots, value_dim]`.
    pub o: Summed,
    /// `[batch, q_heads, q_slots]`.
    pub lse: Vec<f64>,
    /// Like `lse`: 1 + the largest sum of magnitudes a score is made of.
    pub growth: Vec<f64>,
}

/// Result of [`General::backward`], each like its input.
#[derive(Clone, Debug)]
pub struct Gradients {
    pub dq: Summed,
    pub dk: Summed,
    pub dv: Summed,
    pub dbias: Summed,
    pub dsinks: Summed,
    pub dalibi: Summed,
    pub dw: Summed,
    pub dscale: Summed,
}

/// A probability below 2⁻¹²⁵ may be flushed: an absolute error that tolerances of 16u per term turn into this.
const FLUSHED: f64 = 1.0 / (1u128 << 105) as f64;

/// A score before the soft cap, without its scale, and the sum of the magnitudes it is made of.
struct Raw {
    value: f64,
    size: f64,
}

/// What a query row sees.
struct Row {
    keys: Vec<Seen>,
    lse: f64,
    growth: f64,
    /// Weight of the sink.
    sink: f64,
}

struct Seen {
    key: usize,
    p: f64,
    raw: f64,
    /// Derivative of the soft cap.
    slope: f64,
    /// Weight after dropout over weight: 0, or 1/(1−p).
    kept: f64,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn size(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum()
}

/// Re and Im of ⟨a|b⟩ of interleaved complex vectors.
fn inner(a: &[f64], b: &[f64]) -> (f64, f64) {
    let pairs = || a.chunks(2).zip(b.chunks(2));
    (
        pairs().map(|(a, b)| a[0] * b[0] + a[1] * b[1]).sum(),
        pairs().map(|(a, b)| a[0] * b[1] - a[1] * b[0]).sum(),
    )
}

impl General {
    pub fn row(&self, b: usize, h: usize, i: usize) -> usize {
        (b * self.q_heads + h) * self.q_slots + i
    }

    pub fn key_row(&self, b: usize, h: usize, j: usize) -> usize {
        (b * self.kv_heads + h / (self.q_heads / self.kv_heads)) * self.kv_slots + j
    }

    /// Whether query `i` of head `h` sees key `j`.
    pub fn visible(&self, b: usize, h: usize, i: usize, j: usize) -> bool {
        let (position, key) = (self.offset[b] + i as i64, j as i64);
        let near = |(left, right): (i64, i64)| {
            position.saturating_sub(left) <= key && key <= position.saturating_add(right)
        };
        let place = [b, h, i, j];
        j < self.kv_len[b]
            && (!self.causal || key <= position)
            && self.window.is_none_or(near)
            && self.mask.as_ref().is_none_or(|mask| mask.values[mask.at(place)])
            && self.bias.as_ref().is_none_or(|bias| bias.values[bias.at(place)] != f64::NEG_INFINITY)
    }

    /// The sign-carrying factor of the raw score.
    fn factor(&self) -> f64 {
        if self.score == Score::Gaussian { -self.scale } else { self.scale }
    }

    fn raw(&self, h: usize, q: &[f64], k: &[f64]) -> Raw {
        let (qq, kk) = (dot(q, q), dot(k, k));
        match self.score {
            Score::Dot | Score::ComplexDot => Raw { value: dot(q, k), size: size(q, k) },
            Score::Cosine if qq == 0.0 || kk == 0.0 => Raw { value: 0.0, size: 0.0 },
            Score::Cosine => {
                let norms = (qq * kk).sqrt();
                Raw { value: dot(q, k) / norms, size: 1.0 + size(q, k) / norms }
            }
            Score::Fidelity => {
                let (re, im) = inner(q, k);
                let reach: f64 = size(q, k)
                    + q.chunks(2)
                        .zip(k.chunks(2))
                        .map(|(a, b)| (a[0] * b[1]).abs() + (a[1] * b[0]).abs())
                        .sum::<f64>();
                Raw { value: re * re + im * im, size: 2.0 * (re.abs() + im.abs()) * reach }
            }
            Score::Gaussian => {
                let value = q.iter().zip(k).map(|(a, b)| (a - b).powi(2)).sum();
                Raw { value, size: qq + kk + 2.0 * size(q, k) }
            }
            Score::Additive => {
                let w = &self.w[h * self.head_dim..][..self.head_dim];
                let terms = q.iter().zip(k).zip(w).map(|((a, b), w)| w * (a + b).tanh());
                Raw { value: terms.sum(), size: w.iter().map(|w| w.abs()).sum() }
            }
        }
    }

    /// ∂raw/∂q_d, ∂raw/∂k_d, and the magnitudes they are made of.
    fn raw_gradient(&self, h: usize, q: &[f64], k: &[f64], d: usize) -> [(f64, f64); 2] {
        let plain = |x: f64| (x, x.abs());
        match self.score {
            Score::Dot | Score::ComplexDot => [plain(k[d]), plain(q[d])],
            Score::Cosine => {
                let (qq, kk) = (dot(q, q), dot(k, k));
                if qq == 0.0 || kk == 0.0 {
                    return [(0.0, 0.0); 2];
                }
                let (norms, product) = ((qq * kk).sqrt(), dot(q, k));
                let cosine = product / norms;
                let reach = 1.0 + size(q, k) / norms;
                let side = |other: f64, own: f64, square: f64| {
                    (
                        other / norms - cosine * own / square,
                        reach * (other.abs() / norms + own.abs() / square),
                    )
                };
                [side(k[d], q[d], qq), side(q[d], k[d], kk)]
            }
            Score::Fidelity => {
                let (re, im) = inner(q, k);
                let reach: f64 = q
                    .chunks(2)
                    .zip(k.chunks(2))
                    .map(|(a, b)| (a[0].abs() + a[1].abs()) * (b[0].abs() + b[1].abs()))
                    .sum();
                // ⟨q|k⟩ has ∂re/∂q = k, ∂im/∂q_re = k_im, ∂im/∂q_im = −k_re; ∂re/∂k = q, ∂im/∂k_im = q_re, ∂im/∂k_re = −q_im.
                let (even, pair) = (d.is_multiple_of(2), d ^ 1);
                let dq =
                    if even { 2.0 * (re * k[d] + im * k[pair]) } else { 2.0 * (re * k[d] - im * k[pair]) };
                let dk =
                    if even { 2.0 * (re * q[d] - im * q[pair]) } else { 2.0 * (re * q[d] + im * q[pair]) };
                let terms = |x: f64, y: f64| 2.0 * reach * (x.abs() + y.abs());
                [(dq, terms(k[d], k[pair])), (dk, terms(q[d], q[pair]))]
            }
            Score::Gaussian => {
                let difference = 2.0 * (q[d] - k[d]);
                let terms = 2.0 * (q[d].abs() + k[d].abs());
                [(difference, terms), (-difference, terms)]
            }
            Score::Additive => {
                let w = self.w[h * self.head_dim + d];
                let tanh = (q[d] + k[d]).tanh();
                // 1 − tanh² loses what tanh gains: the error is absolute.
                let gradient = (w * (1.0 - tanh * tanh), w.abs());
                [gradient, gradient]
            }
        }
    }

    fn queries(&self, b: usize, h: usize, i: usize) -> &[f64] {
        &self.q[self.row(b, h, i) * self.head_dim..][..self.head_dim]
    }

    fn keys(&self, b: usize, h: usize, j: usize) -> &[f64] {
        &self.k[self.key_row(b, h, j) * self.head_dim..][..self.head_dim]
    }

    fn values(&self, b: usize, h: usize, j: usize) -> &[f64] {
        &self.v[self.key_row(b, h, j) * self.value_dim..][..self.value_dim]
    }

    fn kept(&self, b: usize, h: usize, i: usize, j: usize) -> f64 {
        let Some(dropout) = self.dropout else { return 1.0 };
        let element = self.row(b, h, i) as u64 * self.kv_slots as u64 + j as u64;
        let threshold = (dropout.p * 4_294_967_296.0).floor() as u64;
        let word = philox_word(dropout.seed, dropout.offset, element);
        if u64::from(word) >= threshold { 1.0 / (1.0 - dropout.p) } else { 0.0 }
    }

    fn distance(&self, b: usize, i: usize, j: usize) -> f64 {
        ((self.offset[b] + i as i64) - j as i64).unsigned_abs() as f64
    }

    fn softmax(&self, b: usize, h: usize, i: usize) -> Row {
        let query = self.queries(b, h, i);
        let mut growth = 1.0f64;
        let mut scores = Vec::new();
        for j in (0..self.kv_slots).filter(|&j| self.visible(b, h, i, j)) {
            let raw = self.raw(h, query, self.keys(b, h, j));
            let mut z = (self.store)(self.factor() * raw.value);
            let mut reach = self.factor().abs() * raw.size;
            let mut slope = 1.0;
            if let Some(cap) = self.softcap {
                let tanh = (z / cap).tanh();
                z = cap * tanh;
                slope = 1.0 - tanh * tanh;
                reach += z.abs();
            }
            if let Some(bias) = &self.bias {
                let value = bias.values[bias.at([b, h, i, j])];
                z += value;
                reach += value.abs();
            }
            if let Some(alibi) = &self.alibi {
                let value = alibi[h] * self.distance(b, i, j);
                z -= value;
                reach += value.abs();
            }
            growth = growth.max(1.0 + reach);
            scores.push((Seen { key: j, p: 0.0, raw: raw.value, slope, kept: self.kept(b, h, i, j) }, z));
        }
        let sink = self.sinks.as_ref().map(|sinks| sinks[h]);
        if let Some(sink) = sink {
            growth = growth.max(1.0 + sink.abs());
        }
        let largest = scores.iter().map(|&(_, z)| z).chain(sink).fold(f64::NEG_INFINITY, f64::max);
        let exponential = |z: f64| (z - largest).exp();
        let total: f64 = scores.iter().map(|&(_, z)| z).chain(sink).map(exponential).sum();
        let keys: Vec<Seen> = scores
            .into_iter()
            .map(|(seen, z)| Seen { p: (self.store)(exponential(z) / total), ..seen })
            .collect();
        let lse = if keys.is_empty() && sink.is_none() { f64::NEG_INFINITY } else { largest + total.ln() };
        Row { keys, lse, growth, sink: sink.map_or(0.0, |sink| exponential(sink) / total) }
    }

    /// The weight of every key slot in a row, and the row's entropy −Σ p·ln p; terms are what one rounding of a score changes.
    pub fn looking(&self, b: usize, h: usize, i: usize) -> (Summed, Summed) {
        let (mut weights, mut entropy) = (Summed::zeros(self.kv_slots), Summed::zeros(1));
        if i < self.q_len[b] {
            let row = self.softmax(b, h, i);
            for Seen { key, p, .. } in row.keys {
                let log = if p > 0.0 { p.ln() } else { 0.0 };
                weights.add(key, p, row.growth * (p + FLUSHED));
                entropy.add(0, -p * log, row.growth * (p + FLUSHED) * (1.0 + log.abs()));
            }
        }
        (weights, entropy)
    }

    /// Every (sample, head, query) there is.
    pub fn rows(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        let heads = move |b: usize| (0..self.q_heads).map(move |h| (b, h));
        (0..self.batch).flat_map(heads).flat_map(|(b, h)| (0..self.q_len[b]).map(move |i| (b, h, i)))
    }

    pub fn forward(&self) -> Output {
        let rows = self.batch * self.q_heads * self.q_slots;
        let mut out =
            Output { o: Summed::zeros(rows * self.value_dim), lse: vec![0.0; rows], growth: vec![0.0; rows] };
        for (b, h, i) in self.rows() {
            let at = self.row(b, h, i);
            let row = self.softmax(b, h, i);
            (out.lse[at], out.growth[at]) = (row.lse, row.growth);
            for d in 0..self.value_dim {
                for seen in row.keys.iter().filter(|seen| seen.kept != 0.0) {
                    let value = self.values(b, h, seen.key)[d];
                    let terms = row.growth * seen.kept * (seen.p + FLUSHED) * value;
                    out.o.add(at * self.value_dim + d, seen.kept * seen.p * value, terms);
                }
                let o = &mut out.o.values[at * self.value_dim + d];
                *o = (self.store)(*o);
            }
        }
        out
    }

    /// The vector-Jacobian product: with dp_ij = kept·⟨do_i, v_j⟩ and Δ_i = Σ_j p_ij dp_ij, dz_ij = p_ij (dp_ij − Δ_i + dlse_i),
    /// which bias and slopes see as it is and the score through the soft cap; the sink's is p_sink (dlse_i − Δ_i).
    pub fn backward(&self, grad_o: &[f64], grad_lse: &[f64]) -> Gradients {
        let bias = self.bias.as_ref().map_or(0, |bias| bias.values.len());
        let mut out = Gradients {
            dq: Summed::zeros(self.q.len()),
            dk: Summed::zeros(self.k.len()),
            dv: Summed::zeros(self.v.len()),
            dbias: Summed::zeros(bias),
            dsinks: Summed::zeros(self.q_heads),
            dalibi: Summed::zeros(self.q_heads),
            dw: Summed::zeros(self.w.len()),
            dscale: Summed::zeros(1),
        };
        for (b, h, i) in self.rows() {
            let at = self.row(b, h, i);
            let row = self.softmax(b, h, i);
            let upstream = &grad_o[at * self.value_dim..][..self.value_dim];
            let products: Vec<(f64, f64)> = row
                .keys
                .iter()
                .map(|seen| {
                    if seen.kept == 0.0 {
                        return (0.0, 0.0);
                    }
                    let value = self.values(b, h, seen.key);
                    ((self.store)(seen.kept * dot(upstream, value)), seen.kept * size(upstream, value))
                })
                .collect();
            // Δ from the output as it was stored, which is what a backward pass is given.
            let output = |d: usize| {
                let seen = row.keys.iter().filter(|seen| seen.kept != 0.0);
                (self.store)(seen.map(|seen| seen.kept * seen.p * self.values(b, h, seen.key)[d]).sum())
            };
            let mean: f64 = (0..self.value_dim).map(|d| upstream[d] * output(d)).sum();
            let mean_terms: f64 =
                row.keys.iter().zip(&products).map(|(seen, (_, terms))| seen.p * terms).sum();
            let dlse = grad_lse[at];
            if self.sinks.is_some() {
                let terms = row.growth * (row.sink + FLUSHED) * (dlse.abs() + mean_terms);
                out.dsinks.add(h, row.sink * (dlse - mean), terms);
            }
            for (seen, &(dp, dp_terms)) in row.keys.iter().zip(&products) {
                let j = seen.key;
                let dz = (self.store)(seen.p * (dp - mean + dlse));
                let dz_terms = row.growth * (seen.p + FLUSHED) * (dp_terms + mean_terms + dlse.abs());
                for d in 0..self.value_dim {
                    let weight = seen.kept * upstream[d];
                    let place = self.key_row(b, h, j) * self.value_dim + d;
                    if seen.kept != 0.0 {
                        out.dv.add(place, seen.p * weight, row.growth * (seen.p + FLUSHED) * weight);
                    }
                }
                if let Some(bias) = &self.bias {
                    out.dbias.add(bias.at([b, h, i, j]), dz, dz_terms);
                }
                if self.alibi.is_some() {
                    let distance = self.distance(b, i, j);
                    out.dalibi.add(h, -distance * dz, distance * dz_terms);
                }
                // From here on, through the soft cap. Its slope 1 − tanh² has an absolute error, so the terms keep their size.
                let ds = dz * seen.slope;
                let raw = self.raw(h, self.queries(b, h, i), self.keys(b, h, j));
                let sign = if self.score == Score::Gaussian { -1.0 } else { 1.0 };
                out.dscale.add(0, sign * ds * seen.raw, dz_terms * (seen.raw.abs() + raw.size));
                for d in 0..self.head_dim {
                    let [(dq, dq_terms), (dk, dk_terms)] =
                        self.raw_gradient(h, self.queries(b, h, i), self.keys(b, h, j), d);
                    let (q_at, k_at) = (at * self.head_dim + d, self.key_row(b, h, j) * self.head_dim + d);
                    out.dq.add(q_at, self.factor() * ds * dq, self.factor() * dz_terms * dq_terms);
                    out.dk.add(k_at, self.factor() * ds * dk, self.factor() * dz_terms * dk_terms);
                    if self.score == Score::Additive {
                        let tanh = (self.queries(b, h, i)[d] + self.keys(b, h, j)[d]).tanh();
                        out.dw.add(
                            h * self.head_dim + d,
                            self.factor() * ds * tanh,
                            self.factor() * dz_terms,
                        );
                    }
                }
            }
        }
        for gradient in [&mut out.dq, &mut out.dk, &mut out.dv] {
            gradient.values.iter_mut().for_each(|value| *value = (self.store)(*value));
        }
        out
    }
}
