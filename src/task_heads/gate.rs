//! What a gate is made from: its source, its activation, and the policies for samples and heads that stand aside.

use crate::attention::AttentionOptions;
pub use crate::ids::NO_TASK;
use crate::random::Stream;
use crate::tensor::TensorRef;

/// Where the value `z[b,h]` under the activation comes from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum GateSource<'a> {
    /// One trainable row per task: `z[b,h] = logits[tasks[b], h]`, so one batch mixes tasks.
    Static {
        /// `[tasks, heads]` f32, any strides.
        logits: TensorRef<'a>,
        /// `[batch]` i32, u32 or i64, in device or host memory: a task, or [`NO_TASK`].
        tasks: TensorRef<'a>,
    },
    /// `z` is a linear function of the sample: `z[b,h] = Σ_f weights[t,h,f]·x[b,f] + bias[t,h]`, t the sample's task.
    Dynamic {
        /// `[batch, features]` f32, the last dimension contiguous.
        x: TensorRef<'a>,
        /// `[tasks, heads, features]` f32, the last dimension contiguous; `[1, heads, features]` is shared by all samples.
        weights: TensorRef<'a>,
        /// `[tasks, heads]` f32, any strides.
        bias: Option<TensorRef<'a>>,
        /// `[batch]` i32, u32 or i64, in device or host memory: a task, or [`NO_TASK`]. May be left out where `weights` has one task.
        tasks: Option<TensorRef<'a>>,
    },
    /// `z` is given: `[batch, heads]` f32, any strides.
    Provided {
        /// `[batch, heads]` f32.
        values: TensorRef<'a>,
    },
}

/// Factor of a softmax gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SoftmaxScale {
    /// The gates of a sample sum to 1.
    #[default]
    One,
    /// The gates of a sample sum to the number of heads, so equal logits leave attention as it is.
    Heads,
}

/// How `z` becomes a gate.
///
/// A NaN in `z` makes its head's gate NaN (with softmax, top-k and top-p, all routed gates of its sample): those rows of `y` and
/// `lse` are NaN. With softmax, top-k and top-p, a row of −∞ only has all gates 0.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// `g = z`.
    Identity,
    /// `g = 1/(1 + e^−z)`; exactly 0 where that underflows.
    Sigmoid,
    /// `g = scale · softmax_h(z)`.
    Softmax {
        /// Sum of a sample's gates.
        scale: SoftmaxScale,
    },
    /// `p = softmax_h(z)`; the k heads with the largest z keep a gate, the others have 0. Ties go to the lower head.
    TopK {
        /// Heads kept, `1..=heads`.
        k: usize,
        /// Divide the kept `p` by their sum, so that the gates of a sample sum to 1. With `k = 1` the gate is then the
        /// constant 1, which has no routing gradient: backward refuses it unless `straight_through`.
        renormalise: bool,
        /// Differentiate as if the gate were the dense softmax, heads that were skipped contributing 0.
        straight_through: bool,
        /// The first so many heads always have gate 1 and no logits: `k` heads are chosen, and p is taken, among the others.
        shared_heads: usize,
        /// Standard deviation of the noise added to z, for exploration in training; 0 is none. Drawn from
        /// [`TaskHeadsOptions::noise`], element `b·heads + h`.
        noise: f32,
    },
    /// `p = softmax_h(z)`; the heads with the largest p whose sum reaches `p`, at least one, keep it, the others have gate 0.
    TopP {
        /// Share of the probability kept, above 0 and at most 1, which keeps every head.
        p: f32,
    },
    /// `g = σ(z)` where that is at least `t`, otherwise 0.
    Threshold {
        /// Smallest gate, in `0..=1`.
        t: f32,
    },
}

impl Activation {
    /// The k heads with the largest logits: no shared heads, no noise, the gradient that of the kept gates.
    pub const fn top_k(k: usize, renormalise: bool) -> Self {
        Self::TopK { k, renormalise, straight_through: false, shared_heads: 0, noise: 0.0 }
    }

    /// Heads that are not routed.
    pub(super) fn shared_heads(self) -> usize {
        if let Self::TopK { shared_heads, .. } = self { shared_heads } else { 0 }
    }

    /// Deviation of the noise on z.
    pub(super) fn noise(self) -> f32 {
        if let Self::TopK { noise, .. } = self { noise } else { 0.0 }
    }

    /// What gates, or their sum, are compared with.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(super) fn limit(self) -> f32 {
        match self {
            Self::TopP { p } => p,
            Self::Threshold { t } => t,
            _ => 0.0,
        }
    }

    /// The code kernels use; k; whether kept gates are divided by their sum.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(super) fn words(self) -> (u32, u32, bool) {
        match self {
            Self::Identity => (0, 0, false),
            Self::Sigmoid => (1, 0, false),
            Self::Softmax { .. } => (2, 0, false),
            Self::TopK { k, renormalise, .. } => (3, k as u32, renormalise),
            Self::TopP { .. } => (4, 0, false),
            Self::Threshold { .. } => (5, 0, false),
        }
    }
}

/// How the heads of a [`NO_TASK`] sample count. Such a gate is a constant: it sends no gradient to the logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoTask {
    /// Gate 1: plain attention.
    #[default]
    Full,
    /// Gate 0: nothing is computed, the output is 0.
    Skip,
}

/// Derivative by an [`Activation::Identity`] gate that is 0. The other activations need no such rule: their derivative carries
/// the gate as a factor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroGateGrad {
    /// Taken as 0: the head is not computed in backward either.
    #[default]
    Zero,
    /// The true `⟨dy, o⟩`: backward computes o for these heads, and nothing else.
    Exact,
}

/// Gate, and the attention under it.
#[derive(Clone, Debug)]
pub struct TaskHeadsOptions<'a> {
    /// Where the gate comes from.
    pub gate: GateSource<'a>,
    /// How it is bounded or made sparse.
    pub activation: Activation,
    /// Samples without a task.
    pub no_task: NoTask,
    /// Derivative by a zero gate.
    pub zero_gate_grad: ZeroGateGrad,
    /// `[tasks]` f32, contiguous (`[1]` for provided values): backward adds `Σ_t balance_t·balance(t)` to the loss, the balance of
    /// [`GateStatistics::summary`](super::GateStatistics::summary) with f taken as constant, so that its gradient joins the gate's.
    pub balance: Option<TensorRef<'a>>,
    /// Where a noisy gate's random words come from.
    pub noise: Stream<'a>,
    /// Scale, masks and lengths of the attention. Its `heads` must be `None`: they are what is computed here.
    pub attention: AttentionOptions<'a>,
}

impl<'a> TaskHeadsOptions<'a> {
    /// A gate over default attention (`scale = 1/√head_dim`, no mask), default policies.
    pub fn new(gate: GateSource<'a>, activation: Activation) -> Self {
        Self {
            gate,
            activation,
            no_task: NoTask::default(),
            zero_gate_grad: ZeroGateGrad::default(),
            balance: None,
            noise: Stream::new(0),
            attention: AttentionOptions::default(),
        }
    }
}
