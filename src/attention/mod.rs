//! Fused scaled-dot-product attention, forward and backward.
//!
//! `o_i = Σ_j softmax_j(scale·⟨q_i, k_j⟩) v_j` with grouped-query heads, causal masks, per-sample key lengths and any strides.
//! The softmax runs over tiles of keys (online), so memory is O(S), never O(S²).
//!
//! - [`attention_forward`] allocates its outputs; [`attention_forward_into`] writes into views of the caller's.
//! - [`attention_backward`] computes the gradients asked for, from `o` and `lse` of the forward pass.
//!
//! # Source
//! Dao, FlashAttention-2, arXiv:2307.08691; Milakov & Gimelshein, online softmax, arXiv:1805.02867.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod problem;
#[cfg(feature = "wgpu")]
mod wgpu;

pub(crate) use problem::{Backward, Forward, Problem};

use crate::device::{Device, Kind};
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::{Tensor, TensorMut, TensorRef};

/// Where query row 0 stands among the keys. Query `i` is at `position = offset + i`; a causal mask lets it see keys up to there.
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

/// What may attend to what, and how scores are scaled.
#[derive(Clone, Debug, Default)]
pub struct AttentionOptions<'a> {
    /// Multiplies every score. Default `1/√head_dim`.
    pub scale: Option<f32>,
    /// Query `i` sees only keys `j ≤ position_i`.
    pub causal: bool,
    /// Position of the first query. Has no effect without `causal`.
    pub query_offset: QueryOffset<'a>,
    /// Keys at and beyond this index do not exist, per sample: `[batch]` integers in `0..=key length`.
    pub kv_len: Option<TensorRef<'a>>,
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
    /// `[batch, q_heads, q_len]` f32 (strides of 0 repeat): each output row is multiplied by this.
    pub row_scale: TensorRef<'a>,
}

/// What a forward pass returns.
#[derive(Debug)]
pub struct AttentionOutput {
    /// `[batch, q_heads, q_len, value_dim]`.
    pub o: Tensor,
    /// `[batch, q_heads, q_len]` f32: natural logarithm of Σ_j e^{z_ij}; −∞ where there is nothing to attend to.
    pub lse: Tensor,
}

/// Which gradients to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantGradients {
    /// Gradient of the queries.
    pub dq: bool,
    /// Gradient of the keys.
    pub dk: bool,
    /// Gradient of the values.
    pub dv: bool,
}

impl Default for WantGradients {
    fn default() -> Self {
        Self { dq: true, dk: true, dv: true }
    }
}

/// What a backward pass returns: the gradients asked for, each with its input's shape.
#[derive(Debug)]
pub struct AttentionGradients {
    /// `[batch, q_heads, q_len, head_dim]`.
    pub dq: Option<Tensor>,
    /// `[batch, kv_heads, kv_len, head_dim]`.
    pub dk: Option<Tensor>,
    /// `[batch, kv_heads, kv_len, value_dim]`.
    pub dv: Option<Tensor>,
}

/// Where a backward pass writes. A `None` is not computed.
#[derive(Debug, Default)]
pub struct AttentionGradientViews<'a> {
    /// `[batch, q_heads, q_len, head_dim]`.
    pub dq: Option<TensorMut<'a>>,
    /// `[batch, kv_heads, kv_len, head_dim]`.
    pub dk: Option<TensorMut<'a>>,
    /// `[batch, kv_heads, kv_len, value_dim]`.
    pub dv: Option<TensorMut<'a>>,
    /// `[batch, q_heads, q_len]` f32: derivative by [`ActiveHeads::row_scale`], Σ_j p_ij⟨do_i, v_j⟩. Needs `heads`; rows of
    /// inactive pairs are not written.
    pub drow_scale: Option<TensorMut<'a>>,
}

/// Inputs of a backward pass beside q, k and v.
#[derive(Clone, Debug)]
pub struct AttentionSaved<'a> {
    /// Output of the forward pass (after the row scale, if there was one).
    pub o: TensorRef<'a>,
    /// Log-sum-exp of the forward pass.
    pub lse: TensorRef<'a>,
    /// Gradient of `o`.
    pub grad_o: TensorRef<'a>,
    /// Gradient of `lse`, if it was used.
    pub grad_lse: Option<TensorRef<'a>>,
}

/// Attention of every query over the keys it may see.
///
/// `q [batch, q_heads, q_len, head_dim]`, `k [batch, kv_heads, kv_len, head_dim]`, `v [batch, kv_heads, kv_len, value_dim]`, f32;
/// `q_heads` is a multiple of `kv_heads` and query head h reads key head `h / (q_heads / kv_heads)`. The last dimension is
/// contiguous, other strides are free. A query that sees no key gets `o = 0`, `lse = −∞`, whatever k and v hold.
/// FLOPs: `2·batch·q_heads·q_len·kv_len·(head_dim + value_dim)`, about half when causal.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::DType`](crate::Error::DType), [`Error::Device`](crate::Error::Device)
/// or [`Error::InvalidArgument`](crate::Error::InvalidArgument) naming the argument; [`Error::Unsupported`](crate::Error::Unsupported)
/// beyond a backend's limits. All before anything is launched.
///
/// # Source
/// arXiv:2307.08691, algorithm 1.
pub fn attention_forward(
    q: &TensorRef<'_>,
    k: &TensorRef<'_>,
    v: &TensorRef<'_>,
    options: &AttentionOptions<'_>,
) -> Result<AttentionOutput> {
    let problem = Problem::new("attention_forward", q, k, v, options)?;
    let mut o = Tensor::zeros(q.device(), DType::F32, &problem.o_shape())?;
    let mut lse = Tensor::zeros(q.device(), DType::F32, &problem.lse_shape())?;
    run_forward(&problem, &mut o.view_mut(), &mut lse.view_mut())?;
    Ok(AttentionOutput { o, lse })
}

/// [`attention_forward`] into views of the caller's: `o [batch, q_heads, q_len, value_dim]`, `lse [batch, q_heads, q_len]`.
///
/// # Errors
/// As [`attention_forward`]; [`Error::InvalidArgument`](crate::Error::InvalidArgument) if an output overlaps an input.
pub fn attention_forward_into(
    q: &TensorRef<'_>,
    k: &TensorRef<'_>,
    v: &TensorRef<'_>,
    options: &AttentionOptions<'_>,
    o: &mut TensorMut<'_>,
    lse: &mut TensorMut<'_>,
) -> Result<()> {
    let problem = Problem::new("attention_forward", q, k, v, options)?;
    run_forward(&problem, o, lse)
}

fn run_forward(problem: &Problem<'_>, o: &mut TensorMut<'_>, lse: &mut TensorMut<'_>) -> Result<()> {
    let mut call = Forward { o: o.reborrow(), lse: lse.reborrow() };
    problem.check_forward(&call)?;
    if problem.batch * problem.q_heads * problem.q_len == 0 {
        return Ok(());
    }
    match &problem.q.device().0 {
        Kind::Cpu => cpu::forward(problem, &mut call),
        #[cfg(feature = "wgpu")]
        Kind::Wgpu(device) => wgpu::forward(device, problem, &mut call),
        #[cfg(feature = "cuda")]
        Kind::Cuda(device) => cuda::forward(device, problem, &mut call),
    }
}

/// Gradients of [`attention_forward`].
///
/// `saved` holds the forward pass's `o` and `lse` and the incoming gradients. A query that sees no key gives zero gradients;
/// a masked position contributes nothing, even where its k or v is NaN.
/// FLOPs: `2·batch·q_heads·q_len·kv_len·(3·head_dim + 2·value_dim)` when all gradients are asked for, about half when causal.
///
/// # Errors
/// As [`attention_forward`].
///
/// # Source
/// arXiv:2307.08691, algorithm 2; separate passes for dq and for dk, dv, so no atomics: the same bits on every run.
pub fn attention_backward(
    q: &TensorRef<'_>,
    k: &TensorRef<'_>,
    v: &TensorRef<'_>,
    saved: &AttentionSaved<'_>,
    options: &AttentionOptions<'_>,
    want: WantGradients,
) -> Result<AttentionGradients> {
    let device: &Device = q.device();
    let make = |wanted: bool, like: &TensorRef<'_>| {
        wanted.then(|| Tensor::zeros(device, DType::F32, like.shape())).transpose()
    };
    // Validated before anything is allocated.
    Problem::new("attention_backward", q, k, v, options)?;
    let (mut dq, mut dk, mut dv) = (make(want.dq, q)?, make(want.dk, k)?, make(want.dv, v)?);
    let views = AttentionGradientViews {
        dq: dq.as_mut().map(Tensor::view_mut),
        dk: dk.as_mut().map(Tensor::view_mut),
        dv: dv.as_mut().map(Tensor::view_mut),
        drow_scale: None,
    };
    attention_backward_into(q, k, v, saved, options, views)?;
    Ok(AttentionGradients { dq, dk, dv })
}

/// [`attention_backward`] into views of the caller's.
///
/// # Errors
/// As [`attention_backward`]; [`Error::InvalidArgument`](crate::Error::InvalidArgument) if an output overlaps an input.
pub fn attention_backward_into(
    q: &TensorRef<'_>,
    k: &TensorRef<'_>,
    v: &TensorRef<'_>,
    saved: &AttentionSaved<'_>,
    options: &AttentionOptions<'_>,
    gradients: AttentionGradientViews<'_>,
) -> Result<()> {
    let problem = Problem::new("attention_backward", q, k, v, options)?;
    let mut call = Backward { saved: saved.clone(), gradients };
    problem.check_backward(&call)?;
    match &q.device().0 {
        Kind::Cpu => cpu::backward(&problem, &mut call),
        #[cfg(feature = "wgpu")]
        Kind::Wgpu(device) => wgpu::backward(device, &problem, &mut call),
        #[cfg(feature = "cuda")]
        Kind::Cuda(device) => cuda::backward(device, &problem, &mut call),
    }
}
