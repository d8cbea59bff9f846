//! Fused scaled-dot-product attention, forward and backward.
//!
//! `o_i = Σ_j softmax_j(z_ij) v_j`, where `z` is a [`Score`] of query and key with masks, bias and caps as [`AttentionOptions`]
//! says, for grouped-query heads and any strides. The softmax runs over tiles of keys (online), so memory is O(S), never O(S²).
//!
//! - [`attention_forward`] allocates its outputs; [`attention_forward_into`] writes into views of the caller's.
//! - [`attention_backward`] computes the gradients asked for, from `o` and `lse` of the forward pass.
//! - [`attention_plan`] says what a call will do: tiles visited, work, bytes, workspace.
//! - [`attention_append`] writes new keys and values into a cache.
//! - [`attention_weights`] and [`attention_entropy`] show what a head looks at.
//!
//! # Which kernel runs on CUDA
//!
//! | call | kernels |
//! |---|---|
//! | forward, dot products of f16 or bf16, dimensions to 256 | tensor cores (`mma.sync`, from sm_80): `forward_mma.cu`; with mask, bias, softcap, slopes, dropout or a scale ≤ 0 `forward_mma_options.cu` |
//! | dot products of f32, dimensions to 128, causal mask and lengths | tiles in FMA: `forward.cu`, `backward.cu` |
//! | few queries over many keys | keys split between blocks: `attention_decode_*`, then `combine.cu` |
//! | everything else | the general kernels: `forward_general.cu`, `backward_general.cu` |
//!
//! [`AttentionPlan::explain`] names the forward kernel of a call.
//!
//! # Source
//! Dao, FlashAttention-2, arXiv:2307.08691; Milakov & Gimelshein, online softmax, arXiv:1805.02867.

mod append;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod inspect;
mod options;
mod plan;
mod problem;
#[cfg(feature = "wgpu")]
mod wgpu;

pub use append::attention_append;
pub use inspect::{AttentionRow, attention_entropy, attention_weights};
pub use options::{
    ActiveHeads, AttentionOptions, Dropout, QueryOffset, Score, Seed, Sequences, Window, Workspace,
};
pub use plan::{AttentionPlan, attention_plan};
pub(crate) use problem::{Backward, Forward, Problem};

use crate::device::{Device, Kind};
use crate::error::Result;
use crate::tensor::{Tensor, TensorMut, TensorRef};

/// What a forward pass returns.
#[derive(Debug)]
pub struct AttentionOutput {
    /// `[batch, q_heads, q_len, value_dim]`, of the queries' type.
    pub o: Tensor,
    /// `[batch, q_heads, q_len]` f32 (f64 with f64 queries): natural logarithm of Σ_j e^{z_ij}; −∞ where there is nothing to attend to.
    pub lse: Tensor,
}

/// Which gradients to compute. The default is those of q, k and v.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantGradients {
    /// Gradient of the queries.
    pub dq: bool,
    /// Gradient of the keys.
    pub dk: bool,
    /// Gradient of the values.
    pub dv: bool,
    /// Gradient of [`AttentionOptions::bias`].
    pub dbias: bool,
    /// Gradient of [`AttentionOptions::sinks`].
    pub dsinks: bool,
    /// Gradient of [`AttentionOptions::alibi`].
    pub dalibi: bool,
    /// Gradient of the weights of [`Score::Additive`].
    pub dw: bool,
    /// Gradient of the scale, or of `gamma` under [`Score::Gaussian`].
    pub dscale: bool,
}

impl WantGradients {
    /// No gradient.
    pub const NONE: Self = Self {
        dq: false,
        dk: false,
        dv: false,
        dbias: false,
        dsinks: false,
        dalibi: false,
        dw: false,
        dscale: false,
    };
}

impl Default for WantGradients {
    fn default() -> Self {
        Self { dq: true, dk: true, dv: true, ..Self::NONE }
    }
}

/// What a backward pass returns: the gradients asked for, each with its input's shape and element type.
#[derive(Debug, Default)]
pub struct AttentionGradients {
    /// As q.
    pub dq: Option<Tensor>,
    /// As k.
    pub dk: Option<Tensor>,
    /// As v.
    pub dv: Option<Tensor>,
    /// As the bias, summed over the dimensions along which it is repeated.
    pub dbias: Option<Tensor>,
    /// `[q_heads]`.
    pub dsinks: Option<Tensor>,
    /// `[q_heads]`.
    pub dalibi: Option<Tensor>,
    /// As the additive weights.
    pub dw: Option<Tensor>,
    /// `[1]`, of lse's type: derivative by the scale, by `gamma` under [`Score::Gaussian`].
    pub dscale: Option<Tensor>,
}

/// Where a backward pass writes; shapes as in [`AttentionGradients`]. A `None` is not computed.
#[derive(Debug, Default)]
pub struct AttentionGradientViews<'a> {
    /// As q.
    pub dq: Option<TensorMut<'a>>,
    /// As k.
    pub dk: Option<TensorMut<'a>>,
    /// As v.
    pub dv: Option<TensorMut<'a>>,
    /// As the bias.
    pub dbias: Option<TensorMut<'a>>,
    /// `[q_heads]`.
    pub dsinks: Option<TensorMut<'a>>,
    /// `[q_heads]`.
    pub dalibi: Option<TensorMut<'a>>,
    /// As the additive weights.
    pub dw: Option<TensorMut<'a>>,
    /// `[1]`.
    pub dscale: Option<TensorMut<'a>>,
    /// `[batch, q_heads, q_len]` of lse's type: derivative by [`ActiveHeads::row_scale`], Σ_j p_ij⟨do_i, v_j⟩. Needs `heads`; rows
    /// of inactive pairs are not written.
    pub drow_scale: Option<TensorMut<'a>>,
}

impl AttentionGradientViews<'_> {
    /// Whether a gradient of an option is asked for.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    fn wants_options(&self) -> bool {
        [&self.dbias, &self.dsinks, &self.dalibi, &self.dw, &self.dscale].into_iter().any(Option::is_some)
    }

    /// The views by argument name.
    fn named(&self) -> [(&'static str, Option<&TensorMut<'_>>); 9] {
        [
            ("dq", self.dq.as_ref()),
            ("dk", self.dk.as_ref()),
            ("dv", self.dv.as_ref()),
            ("dbias", self.dbias.as_ref()),
            ("dsinks", self.dsinks.as_ref()),
            ("dalibi", self.dalibi.as_ref()),
            ("dw", self.dw.as_ref()),
            ("dscale", self.dscale.as_ref()),
            ("drow_scale", self.drow_scale.as_ref()),
        ]
    }
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
/// `q [batch, q_heads, q_len, head_dim]`, `k [batch, kv_heads, kv_len, head_dim]`, `v [batch, kv_heads, kv_len, value_dim]`, all
/// f32, f16, bf16 or f64 ([`Sequences`] has the other ways to store them); `q_heads` is a multiple of `kv_heads` and query head h
/// reads key head `h / (q_heads / kv_heads)`. The last dimension is contiguous, other strides are free. A query that sees no key
/// gets `o = 0`, `lse = −∞` (its sink, if there is one), whatever k and v hold.
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
    let mut o = Tensor::zeros(q.device(), problem.dtype, &problem.o_shape())?;
    let mut lse = Tensor::zeros(q.device(), problem.accumulator, &problem.lse_shape())?;
    run_forward(&problem, &mut o.view_mut(), &mut lse.view_mut(), Workspace::Allocate)?;
    Ok(AttentionOutput { o, lse })
}

/// [`attention_forward`] into views of the caller's: `o` of q's type with v's last dimension, `lse` f32 (f64 with f64 queries).
/// With a workspace of [`attention_forward_workspace`] bytes, and lengths in device memory, nothing is allocated.
///
/// # Errors
/// As [`attention_forward`]; [`Error::InvalidArgument`](crate::Error::InvalidArgument) if an output overlaps an input or the
/// workspace is too small.
pub fn attention_forward_into(
    q: &TensorRef<'_>,
    k: &TensorRef<'_>,
    v: &TensorRef<'_>,
    options: &AttentionOptions<'_>,
    o: &mut TensorMut<'_>,
    lse: &mut TensorMut<'_>,
    workspace: Workspace<'_>,
) -> Result<()> {
    let problem = Problem::new("attention_forward", q, k, v, options)?;
    run_forward(&problem, o, lse, workspace)
}

fn run_forward(
    problem: &Problem<'_>,
    o: &mut TensorMut<'_>,
    lse: &mut TensorMut<'_>,
    workspace: Workspace<'_>,
) -> Result<()> {
    let mut call = Forward { o: o.reborrow(), lse: lse.reborrow(), workspace };
    problem.check_forward(&call)?;
    problem.check_element_type()?;
    if problem.has_no_rows() {
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
/// As [`attention_forward`]; [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a gradient of an option that is not
/// given, or a paged cache.
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
    // Validated before anything is allocated.
    let problem = Problem::new("attention_backward", q, k, v, options)?;
    let make = |wanted: bool, arg: &'static str| {
        let like = wanted.then(|| problem.gradient_like(arg)).transpose()?;
        like.map(|(shape, dtype)| Tensor::zeros(device, dtype, &shape)).transpose()
    };
    let mut gradients = AttentionGradients {
        dq: make(want.dq, "dq")?,
        dk: make(want.dk, "dk")?,
        dv: make(want.dv, "dv")?,
        dbias: make(want.dbias, "dbias")?,
        dsinks: make(want.dsinks, "dsinks")?,
        dalibi: make(want.dalibi, "dalibi")?,
        dw: make(want.dw, "dw")?,
        dscale: make(want.dscale, "dscale")?,
    };
    let views = AttentionGradientViews {
        dq: gradients.dq.as_mut().map(Tensor::view_mut),
        dk: gradients.dk.as_mut().map(Tensor::view_mut),
        dv: gradients.dv.as_mut().map(Tensor::view_mut),
        dbias: gradients.dbias.as_mut().map(Tensor::view_mut),
        dsinks: gradients.dsinks.as_mut().map(Tensor::view_mut),
        dalibi: gradients.dalibi.as_mut().map(Tensor::view_mut),
        dw: gradients.dw.as_mut().map(Tensor::view_mut),
        dscale: gradients.dscale.as_mut().map(Tensor::view_mut),
        drow_scale: None,
    };
    run_backward(
        &problem,
        Backward { saved: saved.clone(), gradients: views, workspace: Workspace::Allocate },
    )?;
    Ok(gradients)
}

/// [`attention_backward`] into views of the caller's. With a workspace of [`attention_backward_workspace`] bytes, and lengths in
/// device memory, nothing is allocated.
///
/// # Errors
/// As [`attention_backward`]; [`Error::InvalidArgument`](crate::Error::InvalidArgument) if an output overlaps an input or the
/// workspace is too small.
pub fn attention_backward_into(
    q: &TensorRef<'_>,
    k: &TensorRef<'_>,
    v: &TensorRef<'_>,
    saved: &AttentionSaved<'_>,
    options: &AttentionOptions<'_>,
    gradients: AttentionGradientViews<'_>,
    workspace: Workspace<'_>,
) -> Result<()> {
    let problem = Problem::new("attention_backward", q, k, v, options)?;
    run_backward(&problem, Backward { saved: saved.clone(), gradients, workspace })
}

fn run_backward(problem: &Problem<'_>, mut call: Backward<'_>) -> Result<()> {
    problem.check_backward(&call)?;
    problem.check_element_type()?;
    match &problem.q.device().0 {
        Kind::Cpu => cpu::backward(problem, &mut call),
        #[cfg(feature = "wgpu")]
        Kind::Wgpu(device) => wgpu::backward(device, problem, &mut call),
        #[cfg(feature = "cuda")]
        Kind::Cuda(device) => cuda::backward(device, problem, &mut call),
    }
}

/// Bytes of workspace [`attention_forward_into`] needs for this call. O(inputs), never O(q_len · kv_len).
///
/// # Errors
/// As [`attention_forward`].
pub fn attention_forward_workspace(
    q: &TensorRef<'_>,
    k: &TensorRef<'_>,
    v: &TensorRef<'_>,
    options: &AttentionOptions<'_>,
) -> Result<usize> {
    let problem = Problem::new("attention_forward", q, k, v, options)?;
    match &q.device().0 {
        Kind::Cpu => Ok(cpu::forward_workspace(&problem)),
        #[cfg(feature = "wgpu")]
        Kind::Wgpu(device) => wgpu::forward_workspace(device, &problem),
        #[cfg(feature = "cuda")]
        Kind::Cuda(device) => cuda::forward_workspace(device, &problem),
    }
}

/// Bytes of workspace [`attention_backward_into`] needs for this call, whichever gradients are asked for.
///
/// # Errors
/// As [`attention_backward`].
pub fn attention_backward_workspace(
    q: &TensorRef<'_>,
    k: &TensorRef<'_>,
    v: &TensorRef<'_>,
    options: &AttentionOptions<'_>,
) -> Result<usize> {
    let problem = Problem::new("attention_backward", q, k, v, options)?;
    match &q.device().0 {
        Kind::Cpu => Ok(cpu::backward_workspace(&problem)),
        #[cfg(feature = "wgpu")]
        Kind::Wgpu(device) => wgpu::backward_workspace(device, &problem),
        #[cfg(feature = "cuda")]
        Kind::Cuda(device) => cuda::backward_workspace(device, &problem),
    }
}
