//! What a gate is made from: its source, its activation, and the policies for samples and heads that stand aside.

use crate::attention::AttentionOptions;
pub use crate::ids::NO_TASK;
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
/// A NaN in `z` makes its head's gate NaN (with softmax and top-k, all gates of its sample): those rows of `y` and `lse` are NaN.
/// With softmax and top-k, a row of −∞ only has all gates 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    },
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
            attention: AttentionOptions::default(),
        }
    }
}
