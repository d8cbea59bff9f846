//! Attention in f64, written as the formulas say and in no other way. Shares nothing with `src/`.
//!
//! Every sum runs over the visible keys alone, so that a masked position cannot contribute, whatever it holds. Beside each
//! value stand its *terms*: the sum of the magnitudes that were added up, which `tolerance.rs` turns into a bound.

/// One attention problem, dense and row-major.
#[derive(Clone, Debug)]
pub struct Attention {
    pub batch: usize,
    pub q_heads: usize,
    pub kv_heads: usize,
    pub q_len: usize,
    /// Key slots in `k` and `v`; a sample's own length is in `kv_len`.
    pub kv_slots: usize,
    pub head_dim: usize,
    pub value_dim: usize,
    pub scale: f64,
    pub causal: bool,
    /// `[batch]`: where query 0 stands.
    pub offset: Vec<i64>,
    /// `[batch]`: keys that exist.
    pub kv_len: Vec<usize>,
    /// `[batch, q_heads, q_len, head_dim]`.
    pub q: Vec<f64>,
    /// `[batch, kv_heads, kv_slots, head_dim]`.
    pub k: Vec<f64>,
    /// `[batch, kv_heads, kv_slots, value_dim]`.
    pub v: Vec<f64>,
    /// `[batch, q_heads, q_len]`: multiplies the rows of o. `None` is 1.
    pub row_scale: Option<Vec<f64>>,
    /// `[batch, q_heads]`: the (sample, head) pairs that take part; the others give and receive nothing. `None` is all.
    pub active: Option<Vec<bool>>,
}

/// Result of [`Attention::forward`].
#[derive(Clone, Debug)]
pub struct Forward {
    /// `[batch, q_heads, q_len, value_dim]`, row scale included.
    pub o: Vec<f64>,
    /// `[batch, q_heads, q_len]`, natural logarithm, without the row scale.
    pub lse: Vec<f64>,
    /// Like `o`: |row scale|·Σ_j p_ij |v_j|.
    pub o_terms: Vec<f64>,
    /// Like `lse`: 1 + max_j |scale|·Σ_d |q_d k_d|, the growth of a score's rounding error.
    pub growth: Vec<f64>,
}

/// Result of [`Attention::backward`]. The terms of a gradient carry the growth of the rows they come from.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// `[batch, q_heads, q_len, head_dim]`.
    pub dq: Vec<f64>,
    /// `[batch, kv_heads, kv_slots, head_dim]`.
    pub dk: Vec<f64>,
    /// `[batch, kv_heads, kv_slots, value_dim]`.
    pub dv: Vec<f64>,
    /// `[batch, q_heads, q_len]`: derivative by the row scale.
    pub drow_scale: Vec<f64>,
    pub dq_terms: Vec<f64>,
    pub dk_terms: Vec<f64>,
    pub dv_terms: Vec<f64>,
    pub drow_scale_terms: Vec<f64>,
}

/// What a probability's terms hold at least: an f32 exponential below 2⁻¹²⁵ may be flushed to zero, which is an absolute
/// error of 2⁻¹²⁵ = 16u·2⁻¹⁰⁵, and tolerances are 16u times the terms.
const FLUSHED: f64 = 1.0 / (1u128 << 105) as f64;

/// The softmax of one query row.
struct Row {
    /// (key, p_ij) of the visible keys.
    weights: Vec<(usize, f64)>,
    lse: f64,
    growth: f64,
}

impl Attention {
    /// Whether query `i` of sample `b` may look at key `j`.
    pub fn visible(&self, b: usize, i: usize, j: usize) -> bool {
        j < self.kv_len[b] && (!self.causal || j as i64 <= self.offset[b].saturating_add(i as i64))
    }

    /// Row number of query `i` of head `h` of sample `b`, in `lse`.
    pub fn row(&self, b: usize, h: usize, i: usize) -> usize {
        (b * self.q_heads + h) * self.q_len + i
    }

    /// Row number of key `j` that query head `h` of sample `b` reads.
    pub fn key_row(&self, b: usize, h: usize, j: usize) -> usize {
        let key_head = h / (self.q_heads / self.kv_heads);
        (b * self.kv_heads + key_head) * self.kv_slots + j
    }

    fn queries(&self, row: usize) -> &[f64] {
        &self.q[row * self.head_dim..][..self.head_dim]
    }

    fn keys(&self, row: usize) -> &[f64] {
        &self.k[row * self.head_dim..][..self.head_dim]
    }

    fn values(&self, row: usize) -> &[f64] {
        &self.v[row * self.value_dim..][..self.value_dim]
    }

    fn gate(&self, row: usize) -> f64 {
        self.row_scale.as_ref().map_or(1.0, |scales| scales[row])
    }

    fn softmax(&self, b: usize, h: usize, i: usize) -> Row {
        let query = self.queries(self.row(b, h, i));
        let mut scores = Vec::new();
        let mut growth = 1.0f64;
        for j in (0..self.kv_slots).filter(|&j| self.visible(b, i, j)) {
            let key = self.keys(self.key_row(b, h, j));
            let dot: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
            let size: f64 = query.iter().zip(key).map(|(q, k)| (q * k).abs()).sum();
            scores.push((j, self.scale * dot));
            growth = growth.max(1.0 + self.scale.abs() * size);
        }
        let largest = scores.iter().map(|&(_, z)| z).fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|&(_, z)| (z - largest).exp()).sum();
        let weights = scores.iter().map(|&(j, z)| (j, (z - largest).exp() / total)).collect();
        let lse = if scores.is_empty() { f64::NEG_INFINITY } else { largest + total.ln() };
        Row { weights, lse, growth }
    }

    /// Whether head `h` of sample `b` takes part.
    pub fn is_active(&self, b: usize, h: usize) -> bool {
        self.active.as_ref().is_none_or(|active| active[b * self.q_heads + h])
    }

    /// Every (sample, head, query) that takes part.
    fn rows(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        let heads = move |b| (0..self.q_heads).map(move |h| (b, h));
        let active = (0..self.batch).flat_map(heads).filter(|&(b, h)| self.is_active(b, h));
        active.flat_map(|(b, h)| (0..self.q_len).map(move |i| (b, h, i)))
    }

    /// o_i = g_i·Σ_j softmax_j(scale·⟨q_i, k_j⟩) v_j.
    pub fn forward(&self) -> Forward {
        let rows = self.batch * self.q_heads * self.q_len;
        let mut out = Forward {
            o: vec![0.0; rows * self.value_dim],
            lse: vec![0.0; rows],
            o_terms: vec![0.0; rows * self.value_dim],
            growth: vec![0.0; rows],
        };
        for (b, h, i) in self.rows() {
            let row = self.row(b, h, i);
            let Row { weights, lse, growth } = self.softmax(b, h, i);
            let gate = self.gate(row);
            out.lse[row] = lse;
            out.growth[row] = growth;
            for d in 0..self.value_dim {
                let value = |j| self.values(self.key_row(b, h, j))[d];
                out.o[row * self.value_dim + d] = if weights.is_empty() {
                    0.0
                } else {
                    gate * weights.iter().map(|&(j, p)| p * value(j)).sum::<f64>()
                };
                out.o_terms[row * self.value_dim + d] =
                    gate.abs() * weights.iter().map(|&(j, p)| (p + FLUSHED) * value(j).abs()).sum::<f64>();
            }
        }
        out
    }

    /// The vector-Jacobian product of [`Attention::forward`] with `grad_o` (and `grad_lse`):
    /// dp_ij = ⟨g_i·grad_o_i, v_j⟩, dz_ij = p_ij (dp_ij − Σ_j' p_ij' dp_ij' + grad_lse_i), dq_i = scale·Σ_j dz_ij k_j,
    /// dk_j = scale·Σ_i dz_ij q_i, dv_j = Σ_i p_ij g_i·grad_o_i, dg_i = Σ_j p_ij ⟨grad_o_i, v_j⟩.
    pub fn backward(&self, grad_o: &[f64], grad_lse: Option<&[f64]>) -> Gradients {
        let zeros = |like: &Vec<f64>| vec![0.0; like.len()];
        let rows = vec![0.0; self.batch * self.q_heads * self.q_len];
        let mut out = Gradients {
            dq: zeros(&self.q),
            dk: zeros(&self.k),
            dv: zeros(&self.v),
            drow_scale: rows.clone(),
            dq_terms: zeros(&self.q),
            dk_terms: zeros(&self.k),
            dv_terms: zeros(&self.v),
            drow_scale_terms: rows,
        };
        for (b, h, i) in self.rows() {
            let row = self.row(b, h, i);
            let Row { weights, growth, .. } = self.softmax(b, h, i);
            let gate = self.gate(row);
            let upstream = &grad_o[row * self.value_dim..][..self.value_dim];
            let dlse = grad_lse.map_or(0.0, |grad| grad[row]);
            // ⟨grad_o_i, v_j⟩ and the magnitudes that went into it.
            let product = |j: usize| -> (f64, f64) {
                let value = self.values(self.key_row(b, h, j));
                let terms = upstream.iter().zip(value).map(|(g, v)| g * v);
                (terms.clone().sum(), terms.map(f64::abs).sum())
            };
            let products: Vec<(f64, f64)> = weights.iter().map(|&(j, _)| product(j)).collect();
            let mean: f64 = weights.iter().zip(&products).map(|((_, p), (dot, _))| p * dot).sum();
            let mean_terms: f64 = weights.iter().zip(&products).map(|((_, p), (_, size))| p * size).sum();
            out.drow_scale[row] = mean;
            out.drow_scale_terms[row] = growth * mean_terms;
            for (&(j, p), &(dot, size)) in weights.iter().zip(&products) {
                let key_row = self.key_row(b, h, j);
                let dz = p * (gate * dot - gate * mean + dlse);
                let dz_terms =
                    growth * (p + FLUSHED) * (gate.abs() * size + gate.abs() * mean_terms + dlse.abs());
                for d in 0..self.head_dim {
                    let (q_at, k_at) = (row * self.head_dim + d, key_row * self.head_dim + d);
                    out.dq[q_at] += self.scale * dz * self.k[k_at];
                    out.dk[k_at] += self.scale * dz * self.q[q_at];
                    out.dq_terms[q_at] += (self.scale * dz_terms * self.k[k_at]).abs();
                    out.dk_terms[k_at] += (self.scale * dz_terms * self.q[q_at]).abs();
                }
                for d in 0..self.value_dim {
                    let v_at = key_row * self.value_dim + d;
                    out.dv[v_at] += p * gate * upstream[d];
                    out.dv_terms[v_at] += growth * (p + FLUSHED) * (gate * upstream[d]).abs();
                }
            }
        }
        out
    }
}

/// (f(x + step·e_index) − f(x − step·e_index)) / (2·step): the derivative, with an error of order step².
pub fn central_difference(x: &[f64], index: usize, step: f64, f: impl Fn(&[f64]) -> f64) -> f64 {
    let moved = |by: f64| {
        let mut x = x.to_vec();
        x[index] += by;
        f(&x)
    };
    (moved(step) - moved(-step)) / (2.0 * step)
}
