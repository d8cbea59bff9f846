//! Every sample asked every task: the attention of a head is computed once, and scaled by the gate of each task.
//!
//! Gates are those of a batch of (sample, task), so sources, activations and their derivatives are the ones of a mixed batch.
//! Attention is launched over the heads that some task uses; the others are not read.

mod cpu;
mod problem;
mod run;
mod share;

use super::{Activation, GateStatistics, TaskHeadsGradients, WantTaskHeadsGradients, ZeroGateGrad};
use crate::attention::AttentionOptions;
use crate::error::Result;
use crate::random::Stream;
use crate::tensor::{Tensor, TensorMut, TensorRef};
use problem::EveryTask;

/// Where the value `z[b,t,h]` under the activation comes from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EveryTaskGate<'a> {
    /// One trainable row per task: `z[b,t,h] = logits[t,h]`.
    Static {
        /// `[tasks, heads]` f32, any strides.
        logits: TensorRef<'a>,
    },
    /// A linear function of the sample for each task: `z[b,t,h] = Σ_f weights[t,h,f]·x[b,f] + bias[t,h]`.
    Dynamic {
        /// `[batch, features]` f32, the last dimension contiguous.
        x: TensorRef<'a>,
        /// `[tasks, heads, features]` f32, the last dimension contiguous.
        weights: TensorRef<'a>,
        /// `[tasks, heads]` f32, any strides.
        bias: Option<TensorRef<'a>>,
    },
    /// `z` is given.
    Provided {
        /// `[batch, tasks, heads]` f32; batch and tasks together must be one dimension with one stride.
        values: TensorRef<'a>,
    },
}

/// Gates of every task, and the attention under them.
#[derive(Clone, Debug)]
pub struct EveryTaskOptions<'a> {
    /// Where the gates come from.
    pub gate: EveryTaskGate<'a>,
    /// How they are bounded or made sparse, for each task on its own.
    pub activation: Activation,
    /// Derivative by a zero gate.
    pub zero_gate_grad: ZeroGateGrad,
    /// `[tasks]` f32, contiguous (`[1]` for provided values): as
    /// [`TaskHeadsOptions::balance`](super::TaskHeadsOptions::balance), over the batch of each task.
    pub balance: Option<TensorRef<'a>>,
    /// Where a noisy gate's random words come from: element `b·heads + h` for every task.
    pub noise: Stream<'a>,
    /// Scale, masks and lengths of the attention. Its `heads` must be `None`: they are what is computed here.
    pub attention: AttentionOptions<'a>,
}

impl<'a> EveryTaskOptions<'a> {
    /// Gates over default attention (`scale = 1/√head_dim`, no mask), default policies.
    pub fn new(gate: EveryTaskGate<'a>, activation: Activation) -> Self {
        Self {
            gate,
            activation,
            zero_gate_grad: ZeroGateGrad::default(),
            balance: None,
            noise: Stream::new(0),
            attention: AttentionOptions::default(),
        }
    }
}

/// What a forward pass over every task returns.
#[derive(Debug)]
pub struct EveryTaskOutput {
    /// `[batch, tasks, heads, q_len, value_dim]`: o times the gate of each task, 0 where that is 0.
    pub y: Tensor,
    /// `[batch, heads, q_len, value_dim]`: attention's output, 0 for a head that no task uses.
    pub o: Tensor,
    /// `[batch, heads, q_len]`: log-sum-exp of the scores, −∞ for a head that no task uses.
    pub lse: Tensor,
    /// `[batch, tasks, heads]`: g.
    pub gates: Tensor,
    /// `[batch, tasks, heads]`: as in [`TaskHeadsOutput::probabilities`](super::TaskHeadsOutput::probabilities).
    pub probabilities: Tensor,
    /// `[batch, heads]` f32: 1 where the gate of some task is neither 0 nor NaN; elsewhere 0, or NaN if one is NaN.
    pub used: Tensor,
    /// `[batch · heads]` u32: pairs `b·heads + h` that some task uses, ascending, then the others, ascending.
    pub order: Tensor,
    /// `[batch · kv_heads]` u32: pairs whose keys and values some used head reads, ascending, then the others.
    pub kv_order: Tensor,
    /// `[2]` u32: used pairs in `order` and in `kv_order`.
    pub counts: Tensor,
    /// `[batch, heads]` u32: 1 where `used` is 1.
    pub active: Tensor,
    /// `[batch, tasks, heads]`: z with its noise, where the gate is dynamic or noisy.
    pub z: Option<Tensor>,
}

/// Where a forward pass over every task writes; shapes as in [`EveryTaskOutput`]. All but `y`, `o` and `lse` are contiguous.
#[derive(Debug)]
pub struct EveryTaskViews<'a> {
    /// `[batch, tasks, heads, q_len, value_dim]` f32.
    pub y: TensorMut<'a>,
    /// `[batch, heads, q_len, value_dim]` f32.
    pub o: TensorMut<'a>,
    /// `[batch, heads, q_len]` f32.
    pub lse: TensorMut<'a>,
    /// `[batch, tasks, heads]` f32.
    pub gates: TensorMut<'a>,
    /// `[batch, tasks, heads]` f32.
    pub probabilities: TensorMut<'a>,
    /// `[batch, heads]` f32.
    pub used: TensorMut<'a>,
    /// `[batch · heads]` u32.
    pub order: TensorMut<'a>,
    /// `[batch · kv_heads]` u32.
    pub kv_order: TensorMut<'a>,
    /// `[2]` u32.
    pub counts: TensorMut<'a>,
    /// `[batch, heads]` u32.
    pub active: TensorMut<'a>,
    /// `[batch, tasks, heads]` f32; needed by a dynamic or noisy gate, not touched by others.
    pub z: Option<TensorMut<'a>>,
}

/// What backward takes from the forward pass; fields as in [`EveryTaskOutput`]. The gated `y` is not among them.
#[derive(Clone, Debug)]
pub struct EveryTaskSaved<'a> {
    /// `[batch, heads, q_len, value_dim]` f32.
    pub o: TensorRef<'a>,
    /// `[batch, heads, q_len]` f32.
    pub lse: TensorRef<'a>,
    /// `[batch, tasks, heads]` f32.
    pub gates: TensorRef<'a>,
    /// `[batch, tasks, heads]` f32.
    pub probabilities: TensorRef<'a>,
    /// `[batch, heads]` f32.
    pub used: TensorRef<'a>,
    /// `[batch · heads]` u32.
    pub order: TensorRef<'a>,
    /// `[batch · kv_heads]` u32.
    pub kv_order: TensorRef<'a>,
    /// `[2]` u32.
    pub counts: TensorRef<'a>,
    /// `[batch, heads]` u32.
    pub active: TensorRef<'a>,
}

impl EveryTaskOutput {
    fn views(&mut self) -> EveryTaskViews<'_> {
        EveryTaskViews {
            y: self.y.view_mut(),
            o: self.o.view_mut(),
            lse: self.lse.view_mut(),
            gates: self.gates.view_mut(),
            probabilities: self.probabilities.view_mut(),
            used: self.used.view_mut(),
            order: self.order.view_mut(),
            kv_order: self.kv_order.view_mut(),
            counts: self.counts.view_mut(),
            active: self.active.view_mut(),
            z: self.z.as_mut().map(Tensor::view_mut),
        }
    }

    /// Everything backward needs.
    pub fn saved(&self) -> EveryTaskSaved<'_> {
        EveryTaskSaved {
            o: self.o.view(),
            lse: self.lse.view(),
            gates: self.gates.view(),
            probabilities: self.probabilities.view(),
            used: self.used.view(),
            order: self.order.view(),
            kv_order: self.kv_order.view(),
            counts: self.counts.view(),
            active: self.active.view(),
        }
    }
}

/// Attention asked for every task: `y[b,t,h,s,:] = g[b,t,h] · o[b,h,s,:]`, with the o of a head computed once for all tasks.
///
/// Inputs as in [`task_heads_forward`](super::task_heads_forward), but a sample has no task: it gets an output for each. What task t
/// gets is what a separate call for a batch of samples of task t returns, bit for bit (where a row sees nothing but a sink, up to the
/// sign of its zeros), at the cost of one attention over the heads
/// that some task uses, and a write of y. Heads that none uses are not read. Attention over the task axis is
/// [`attention_forward`](crate::attention::attention_forward) of y under other strides; to
/// [`task_heads_project`](super::task_heads_project) y and the gates are a batch of `batch · tasks` samples.
///
/// # Errors
/// As [`task_heads_forward`](super::task_heads_forward).
pub fn task_heads_forward_every_task(
    q: &TensorRef<'_>,
    k: &TensorRef<'_>,
    v: &TensorRef<'_>,
    options: &EveryTaskOptions<'_>,
) -> Result<EveryTaskOutput> {
    let problem = EveryTask::new("task_heads_forward_every_task", q, k, v, options)?;
    let mut out = problem.zeros()?;
    run::forward(&problem, &mut out.views(), true)?;
    Ok(out)
}

/// [`task_heads_forward_every_task`] into views of the caller's. Allocates nothing but a list of `batch · tasks` ids.
///
/// # Errors
/// As [`task_heads_forward_every_task`]; [`Error::InvalidArgument`](crate::Error::InvalidArgument) if an output overlaps an input or
/// another output.
pub fn task_heads_forward_every_task_into(
    q: &TensorRef<'_>,
    k: &TensorRef<'_>,
    v: &TensorRef<'_>,
    options: &EveryTaskOptions<'_>,
    mut out: EveryTaskViews<'_>,
) -> Result<()> {
    let problem = EveryTask::new("task_heads_forward_every_task", q, k, v, options)?;
    run::forward(&problem, &mut out, false)
}

/// Gradients of [`task_heads_forward_every_task`].
///
/// `grad_y [batch, tasks, heads, q_len, value_dim]`, with any strides but a contiguous last dimension; `options` are the forward
/// pass's. Attention's backward runs once, on `Σ_t g[b,t,h]·grad_y[b,t,h]`; with o at hand the gates get `⟨grad_y, o⟩` without
/// another pass over the keys. Rows of grad_y under a gate of 0 are not read. `dgate` is of static logits `[tasks, heads]`, of
/// provided values `[batch, tasks, heads]`; sums run over tasks and samples in order.
///
/// # Errors
/// As [`task_heads_backward`](super::task_heads_backward).
pub fn task_heads_backward_every_task(
    q: &TensorRef<'_>,
    k: &TensorRef<'_>,
    v: &TensorRef<'_>,
    saved: &EveryTaskSaved<'_>,
    grad_y: &TensorRef<'_>,
    options: &EveryTaskOptions<'_>,
    want: WantTaskHeadsGradients,
) -> Result<TaskHeadsGradients> {
    let problem = EveryTask::new("task_heads_backward_every_task", q, k, v, options)?;
    run::backward(&problem, saved, grad_y, want)
}

/// [`gate_statistics`](super::gate_statistics) of a pass over every task: each task's over the whole batch.
///
/// # Errors
/// As [`gate_statistics`](super::gate_statistics).
pub fn every_task_statistics(saved: &EveryTaskSaved<'_>, activation: Activation) -> Result<GateStatistics> {
    run::statistics(saved, activation)
}
