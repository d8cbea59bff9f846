//! What a caller can ask of attention: the score, the masks, and how sequences are stored.

use crate::tensor::{TensorMut, TensorRef};

/// How a query and a key are compared. `scale` is [`AttentionOptions::scale`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Score<'a> {
    /// `scale·⟨q, k⟩`; the scale defaults to `1/√head_dim`.
    #[default]
    Dot,
    /// `scale·⟨q, k⟩ / (‖q‖·‖k‖)`, 0 where a norm is 0; the scale defaults to 1.
    Cosine,
    /// `scale·Re⟨q|k⟩` of interleaved complex vectors of `head_dim/2` components; the scale defaults to `1/√(head_dim/2)`.
    ComplexDot,
    /// `scale·|⟨q|k⟩|²` of interleaved complex vectors; the scale defaults to 1.
    Fidelity,
    /// `−gamma·‖q − k‖²`. Takes no scale.
    Gaussian {
        /// Inverse squared width, finite.
        gamma: f64,
    },
    /// `scale·Σ_d w_d·tanh(q_d + k_d)` (Bahdanau, q and k already projected); the scale defaults to 1.
    Additive {
        /// `[head_dim]` or `[q_heads, head_dim]`, f32 (f64 with f64 queries).
        w: TensorRef<'a>,
    },
}

/// Where query row 0 stands among the keys: query `i` is at `position = offset + i`, which causal masks, windows and ALiBi use.
#[derive(Clone, Debug, Default)]
pub enum QueryOffset<'a> {
    /// `kv_len − q_len`, per sample: the last query sees the last key.
    #[default]
    BottomRight,
    /// The same offset for every sample. 0 is PyTorch's `is_causal`.
    At(i64),
    /// One offset per sample, `[batch]` integers.
    PerSample(TensorRef<'a>),
}

/// A sliding window: query at `position` sees keys `position − left ..= position + right`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Keys before the position, at least 0; [`Window::UNLIMITED`] for all.
    pub left: i64,
    /// Keys after the position, at least 0; [`Window::UNLIMITED`] for all.
    pub right: i64,
}

impl Window {
    /// A side without a limit.
    pub const UNLIMITED: i64 = i64::MAX;
}

/// Where the key of the random words comes from.
#[derive(Clone, Debug)]
pub enum Seed<'a> {
    /// Given by the host.
    Host {
        /// Key of the generator.
        seed: u64,
        /// Counter of the first word.
        offset: u64,
    },
    /// `[2]` i64 in device memory: seed and offset, read when the kernel runs, so that a replayed graph draws anew.
    Device(TensorRef<'a>),
}

/// Dropout of attention weights: element (b, h, i, j) is kept iff its Philox word is at least `⌊p·2³²⌋`, and scaled by `1/(1−p)`.
///
/// The word is the one of logical element `((b·q_heads + h)·q_len + i)·kv_slots + j` under (seed, offset), on every backend; with
/// packed sequences `q_len` and `kv_slots` are `max_q` and `max_k`. Nothing is stored: backward draws the same words again.
#[derive(Clone, Debug)]
pub struct Dropout<'a> {
    /// Probability of dropping, in `[0, 1)`.
    pub p: f64,
    /// Key of the words.
    pub seed: Seed<'a>,
}

/// How the sequences of a batch are stored.
#[derive(Clone, Debug, Default)]
pub enum Sequences<'a> {
    /// `[batch, heads, length, dim]`, one slot of the same size for each sample.
    #[default]
    Dense,
    /// Sequences end to end: `q [1, q_heads, Σ q_len, head_dim]`, `k`, `v [1, kv_heads, Σ kv_len, ·]`, and so `o`, `lse` and the
    /// gradients. Sample b has rows `cu_q[b]..cu_q[b+1]` and keys `cu_k[b]..cu_k[b+1]`; masks and bias are indexed
    /// `[batch|1, heads|1, max_q|1, max_k|1]` by positions within the sequences.
    Packed {
        /// `[batch + 1]` integers, ascending from 0 to at most the number of query rows.
        cu_q: TensorRef<'a>,
        /// `[batch + 1]` integers, ascending from 0 to at most the number of key rows.
        cu_k: TensorRef<'a>,
        /// No sequence has more queries: a launch covers so many.
        max_q: usize,
        /// No sequence has more keys.
        max_k: usize,
    },
    /// Keys and values in pages: `k [pages, kv_heads, page_size, head_dim]`, `v [pages, kv_heads, page_size, value_dim]`. Key j of
    /// sample b is row `j % page_size` of page `table[b, j / page_size]`. Needs `kv_len`. Forward only.
    Paged {
        /// `[batch, pages a sample]` integers; entries at and beyond a sample's length are not read.
        table: TensorRef<'a>,
    },
}

/// What may attend to what, and how scores are made.
///
/// `z = score(q_i, k_j)`; `z = softcap·tanh(z/softcap)` if set; `z += bias − alibi_h·|position_i − j|`; masked keys are left out;
/// the softmax runs over the rest and, if there is one, a sink that takes weight and has no value.
#[derive(Clone, Debug, Default)]
pub struct AttentionOptions<'a> {
    /// How a query and a key are compared.
    pub score: Score<'a>,
    /// Multiplies every score. The default depends on the score.
    pub scale: Option<f64>,
    /// Bounds scores smoothly to `±softcap`, greater than 0.
    pub softcap: Option<f64>,
    /// Query `i` sees only keys `j ≤ position_i`.
    pub causal: bool,
    /// Query `i` sees only keys within the window around `position_i`.
    pub window: Option<Window>,
    /// Position of the first query.
    pub query_offset: QueryOffset<'a>,
    /// Keys at and beyond this index do not exist, per sample: `[batch]` integers in `0..=key length`.
    pub kv_len: Option<TensorRef<'a>>,
    /// `[batch|1, q_heads|1, q_len|1, kv_len|1]` u8, any strides: 0 hides the key from the query.
    pub mask: Option<TensorRef<'a>>,
    /// `[batch|1, q_heads|1, q_len|1, kv_len|1]`, of the queries' type or f32, any strides: added to the scores; −∞ hides.
    pub bias: Option<TensorRef<'a>>,
    /// `[q_heads]` f32 (f64 with f64 queries): ALiBi slopes.
    pub alibi: Option<TensorRef<'a>>,
    /// `[q_heads]` f32 (f64 with f64 queries): score of a column that takes weight and has no value.
    pub sinks: Option<TensorRef<'a>>,
    /// Dropout of the weights.
    pub dropout: Option<Dropout<'a>>,
    /// How the sequences are stored.
    pub sequences: Sequences<'a>,
    /// Restricts the launch to some (sample, head) pairs and scales their output rows.
    pub heads: Option<ActiveHeads<'a>>,
}

/// The (sample, head) pairs a launch covers, all in device memory: nothing here is read by the host.
///
/// A pair is numbered `b·heads + h`. Of other pairs q, k and v are not read, `o`, `lse` and `drow_scale` are not written, and
/// their share of dq, dk and dv is 0.
#[derive(Clone, Debug)]
pub struct ActiveHeads<'a> {
    /// `[batch · q_heads]` u32: the active pairs, ascending, then the others.
    pub order: TensorRef<'a>,
    /// `[batch · kv_heads]` u32: the (sample, key head) pairs some active query head reads, ascending, then the others.
    pub kv_order: TensorRef<'a>,
    /// `[2]` u32: how many of `order` and of `kv_order` are active.
    pub counts: TensorRef<'a>,
    /// `[batch, q_heads]` u32: 1 where the pair is active.
    pub active: TensorRef<'a>,
    /// `[batch, q_heads, q_len]` f32 (f64 with f64 queries; strides of 0 repeat): each output row is multiplied by this.
    pub row_scale: TensorRef<'a>,
}

/// Device memory a call may scribble in.
#[derive(Debug, Default)]
pub enum Workspace<'a> {
    /// The call allocates what it needs.
    #[default]
    Allocate,
    /// Contiguous u8 memory of at least as many bytes as the operation's `_workspace` function says: the call allocates nothing. On
    /// wgpu what the call's kernels read beside it is in the device's pool, which the first call of a size fills.
    Given(TensorMut<'a>),
}
