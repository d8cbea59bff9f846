//! Attention heads under a gate per task: `y[b,h,s,:] = g[b,h] · o[b,h,s,:]`, where a gate of 0 costs nothing.
//!
//! One model serves many tasks; the gate of a sample's task decides how much each head counts. Gates are computed on the
//! device, the active (sample, head) pairs are compacted there into a stable list, and attention is launched over that list
//! without a host round trip: the rows of a skipped head are not read, whatever they hold.
//!
//! - [`task_heads_forward`] allocates its outputs; [`task_heads_forward_into`] writes into views of the caller's.
//! - [`task_heads_backward`] computes the gradients asked for, down to the logits of each task.
//! - [`task_heads_forward_every_task`] asks every sample every task, with the attention of a head computed once.
//! - [`task_heads_project`] multiplies the active heads' rows by a task's output weights.
//! - [`gate_statistics`] says how the gates were used; [`TaskHeadsOptions::balance`] trains them to be used evenly, and [`prune`] keeps
//!   the heads that matter.
//!
//! ```
//! use gatewarp::task_heads::{Activation, GateSource, TaskHeadsOptions, task_heads_forward};
//! use gatewarp::{DType, Device, Tensor};
//! # fn main() -> gatewarp::Result<()> {
//! let device = Device::cpu();
//! let x = Tensor::zeros(&device, DType::F32, &[2, 4, 16, 8])?; // [batch, heads, length, dim]
//! let logits = Tensor::from_slice(&device, &[9.0f32, 8.0, 0.0, 0.0, 0.0, 0.0, 8.0, 9.0], &[2, 4])?; // [tasks, heads]
//! let tasks = Tensor::from_slice(&device, &[1i32, 0], &[2])?;
//! let gate = GateSource::Static { logits: logits.view(), tasks: tasks.view() };
//! let options = TaskHeadsOptions::new(gate, Activation::top_k(2, true));
//! let out = task_heads_forward(&x.view(), &x.view(), &x.view(), &options)?;
//! assert_eq!(out.active.to_vec::<u32>()?, [0, 0, 1, 1, 1, 1, 0, 0]); // task 1 works with heads 2 and 3
//! # Ok(())
//! # }
//! ```

mod backward;
mod cpu;
mod cpu_project;
mod cpu_scores;
mod cpu_statistics;
#[cfg(feature = "cuda")]
mod cuda;
mod every_task;
mod forward;
mod gate;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod gpu;
mod problem;
mod project;
mod rows;
mod scores;
mod statistics;
mod steps;
#[cfg(feature = "wgpu")]
mod wgpu;

pub use every_task::{
    EveryTaskGate, EveryTaskOptions, EveryTaskOutput, EveryTaskSaved, EveryTaskViews, every_task_statistics,
    task_heads_backward_every_task, task_heads_forward_every_task, task_heads_forward_every_task_into,
};
pub use gate::{Activation, GateSource, NO_TASK, NoTask, SoftmaxScale, TaskHeadsOptions, ZeroGateGrad};
pub use project::{
    OutProjection, OutProjectionGradients, task_heads_project, task_heads_project_backward,
    task_heads_project_into,
};
pub use statistics::{GateStatistics, gate_statistics, prune};

use crate::attention::ActiveHeads;
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::{Tensor, TensorMut, TensorRef};
use problem::Problem;

/// What a forward pass returns: the output, and what backward and statistics need.
#[derive(Debug)]
pub struct TaskHeadsOutput {
    /// `[batch, heads, q_len, value_dim]` of the type of q: gated rows, 0 where the gate is 0.
    pub y: Tensor,
    /// `[batch, heads, q_len]`: log-sum-exp of the scores, −∞ where the gate is 0.
    pub lse: Tensor,
    /// `[batch, heads]`: g.
    pub gates: Tensor,
    /// `[batch, heads]`: the softmax over all heads under softmax and top-k (0 for samples without a task); g otherwise.
    pub probabilities: Tensor,
    /// `[batch · heads]` u32: pairs `b·heads + h` whose gate is not 0, ascending, then the others, ascending.
    pub order: Tensor,
    /// `[batch · kv_heads]` u32: pairs whose keys and values some active head reads, ascending, then the others.
    pub kv_order: Tensor,
    /// `[2]` u32: active pairs in `order` and in `kv_order`.
    pub counts: Tensor,
    /// `[batch, heads]` u32: 1 where the gate is neither 0 nor NaN.
    pub active: Tensor,
    /// `[batch, heads]`: z with its noise, where the gate is dynamic or noisy.
    pub z: Option<Tensor>,
}

/// Where a forward pass writes; shapes as in [`TaskHeadsOutput`]. All but `y` and `lse` are contiguous.
#[derive(Debug)]
pub struct TaskHeadsViews<'a> {
    /// `[batch, heads, q_len, value_dim]` of the type of q.
    pub y: TensorMut<'a>,
    /// `[batch, heads, q_len]` f32.
    pub lse: TensorMut<'a>,
    /// `[batch, heads]` f32.
    pub gates: TensorMut<'a>,
    /// `[batch, heads]` f32.
    pub probabilities: TensorMut<'a>,
    /// `[batch · heads]` u32.
    pub order: TensorMut<'a>,
    /// `[batch · kv_heads]` u32.
    pub kv_order: TensorMut<'a>,
    /// `[2]` u32.
    pub counts: TensorMut<'a>,
    /// `[batch, heads]` u32.
    pub active: TensorMut<'a>,
    /// `[batch, heads]` f32, contiguous; needed by a dynamic or noisy gate, not touched by others.
    pub z: Option<TensorMut<'a>>,
}

/// What backward takes from the forward pass; fields as in [`TaskHeadsOutput`].
#[derive(Clone, Debug)]
pub struct TaskHeadsSaved<'a> {
    /// `[batch, heads, q_len, value_dim]` of the type of q.
    pub y: TensorRef<'a>,
    /// `[batch, heads, q_len]` f32.
    pub lse: TensorRef<'a>,
    /// `[batch, heads]` f32.
    pub gates: TensorRef<'a>,
    /// `[batch, heads]` f32.
    pub probabilities: TensorRef<'a>,
    /// `[batch · heads]` u32.
    pub order: TensorRef<'a>,
    /// `[batch · kv_heads]` u32.
    pub kv_order: TensorRef<'a>,
    /// `[2]` u32.
    pub counts: TensorRef<'a>,
    /// `[batch, heads]` u32.
    pub active: TensorRef<'a>,
}

/// Which gradients to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantTaskHeadsGradients {
    /// Gradient of the queries.
    pub dq: bool,
    /// Gradient of the keys.
    pub dk: bool,
    /// Gradient of the values.
    pub dv: bool,
    /// Gradient of what the gate was made from: static logits, provided values, or a dynamic gate's inputs, weights and bias.
    pub dgate: bool,
}

impl Default for WantTaskHeadsGradients {
    fn default() -> Self {
        Self { dq: true, dk: true, dv: true, dgate: true }
    }
}

/// What a backward pass returns: the gradients asked for, each with its input's shape.
#[derive(Debug)]
pub struct TaskHeadsGradients {
    /// `[batch, heads, q_len, head_dim]`, 0 where the gate is 0.
    pub dq: Option<Tensor>,
    /// `[batch, kv_heads, kv_len, head_dim]`, 0 where every head of the group has gate 0.
    pub dk: Option<Tensor>,
    /// `[batch, kv_heads, kv_len, value_dim]`, 0 where every head of the group has gate 0.
    pub dv: Option<Tensor>,
    /// Of static logits `[tasks, heads]`, summed over the samples of each task; of provided values `[batch, heads]`.
    pub dgate: Option<Tensor>,
    /// Of a dynamic gate.
    pub dynamic: Option<DynamicGradients>,
}

/// Gradients of what a dynamic gate is made from.
#[derive(Debug)]
pub struct DynamicGradients {
    /// `[batch, features]`, 0 for a sample without a task.
    pub dx: Tensor,
    /// `[tasks, heads, features]`, summed over the samples of each task.
    pub dweights: Tensor,
    /// `[tasks, heads]`, if there is a bias.
    pub dbias: Option<Tensor>,
}

impl TaskHeadsOutput {
    /// Zeroed outputs of the problem's shapes.
    fn zeros(problem: &Problem<'_>) -> Result<Self> {
        let sizes = &problem.sizes;
        let (pairs, kv_pairs) = (sizes.batch * sizes.heads, sizes.batch * sizes.kv_heads);
        let per_head = [sizes.batch, sizes.heads];
        let make = |dtype, shape: &[usize]| Tensor::zeros(problem.device(), dtype, shape);
        Ok(Self {
            y: make(problem.dtype, &problem.y_shape())?,
            lse: make(DType::F32, &problem.lse_shape())?,
            gates: make(DType::F32, &per_head)?,
            probabilities: make(DType::F32, &per_head)?,
            order: make(DType::U32, &[pairs])?,
            kv_order: make(DType::U32, &[kv_pairs])?,
            counts: make(DType::U32, &[2])?,
            active: make(DType::U32, &per_head)?,
            z: problem.computes_scores().then(|| make(DType::F32, &per_head)).transpose()?,
        })
    }

    fn views(&mut self) -> TaskHeadsViews<'_> {
        TaskHeadsViews {
            y: self.y.view_mut(),
            lse: self.lse.view_mut(),
            gates: self.gates.view_mut(),
            probabilities: self.probabilities.view_mut(),
            order: self.order.view_mut(),
            kv_order: self.kv_order.view_mut(),
            counts: self.counts.view_mut(),
            active: self.active.view_mut(),
            z: self.z.as_mut().map(Tensor::view_mut),
        }
    }

    /// Everything backward needs.
    pub fn saved(&self) -> TaskHeadsSaved<'_> {
        TaskHeadsSaved {
            y: self.y.view(),
            lse: self.lse.view(),
            gates: self.gates.view(),
            probabilities: self.probabilities.view(),
            order: self.order.view(),
            kv_order: self.kv_order.view(),
            counts: self.counts.view(),
            active: self.active.view(),
        }
    }
}

impl<'a> TaskHeadsSaved<'a> {
    /// The launch restriction for attention, with the gates as row scale.
    fn active_heads(&self, row_scale: TensorRef<'a>) -> ActiveHeads<'a> {
        ActiveHeads {
            order: self.order.clone(),
            kv_order: self.kv_order.clone(),
            counts: self.counts.clone(),
            active: self.active.clone(),
            row_scale,
        }
    }
}

/// Attention with every head scaled by its gate; heads whose gate is 0 are not computed.
///
/// `q [batch, heads, q_len, head_dim]`, `k [batch, kv_heads, kv_len, head_dim]`, `v [batch, kv_heads, kv_len, value_dim]`, f32,
/// f16 or bf16, or packed end to end, as in [`attention_forward`](crate::attention::attention_forward); the gate as in [`TaskHeadsOptions`]. With all gates 1 the
/// output is plain attention, bit for bit; a sample's bits do not depend on the rest of the batch.
/// A gate is one of [`GateSource`] under one of [`Activation`]; a dynamic one is computed on the device, noise included.
/// Cost: the active fraction of plain attention, and O(batch · heads²) for the gates.
///
/// # Errors
/// As [`attention_forward`](crate::attention::attention_forward); [`Error::TaskId`](crate::Error::TaskId) for a bad id in host
/// memory and [`Error::InvalidArgument`](crate::Error::InvalidArgument) for `k`, `p`, `t` or `noise` outside its range or
/// `attention.heads` given.
/// A bad id in device memory makes that sample's `y`, `lse` and gates NaN, and the next synchronising call returns
/// [`Error::DeviceValue`](crate::Error::DeviceValue).
///
/// # Source
/// Shazeer et al., sparsely gated mixture of experts, arXiv:1701.06538 (top-k gates), with heads for experts.
pub fn task_heads_forward(
    q: &TensorRef<'_>,
    k: &TensorRef<'_>,
    v: &TensorRef<'_>,
    options: &TaskHeadsOptions<'_>,
) -> Result<TaskHeadsOutput> {
    let problem = Problem::new("task_heads_forward", q, k, v, options)?;
    let mut out = TaskHeadsOutput::zeros(&problem)?;
    forward::run(&problem, &mut out.views(), true)?;
    Ok(out)
}

/// [`task_heads_forward`] into views of the caller's. Allocates nothing, except a copy of host-side task ids on a GPU.
///
/// # Errors
/// As [`task_heads_forward`]; [`Error::InvalidArgument`](crate::Error::InvalidArgument) if an output overlaps an input or
/// another output.
pub fn task_heads_forward_into(
    q: &TensorRef<'_>,
    k: &TensorRef<'_>,
    v: &TensorRef<'_>,
    options: &TaskHeadsOptions<'_>,
    mut out: TaskHeadsViews<'_>,
) -> Result<()> {
    let problem = Problem::new("task_heads_forward", q, k, v, options)?;
    forward::run(&problem, &mut out, false)
}

/// Gradients of [`task_heads_forward`].
///
/// `saved` is the forward pass's output, `grad_y [batch, heads, q_len, value_dim]` the gradient of `y`, with any strides but a
/// contiguous last dimension; `options` are the forward pass's. With `δ_h = ⟨dy_h, y_h⟩` summed over a head's rows the logits get
/// `δ(1−g)` (sigmoid), `δ − p·Σδ` (softmax; top-k with p = g on its heads) or `⟨dy, o⟩` (identity): no division by g, and the
/// ungated o is not stored. Rows of a skipped head are not read; their gradients are 0. Sums run in a fixed order.
///
/// # Errors
/// As [`task_heads_forward`]; [`Error::InvalidArgument`](crate::Error::InvalidArgument) if `want.dgate` asks for the gradient of
/// a renormalised top-1 gate, which is constant, without `straight_through`.
///
/// # Source
/// Straight-through: Bengio et al., arXiv:1308.3432.
pub fn task_heads_backward(
    q: &TensorRef<'_>,
    k: &TensorRef<'_>,
    v: &TensorRef<'_>,
    saved: &TaskHeadsSaved<'_>,
    grad_y: &TensorRef<'_>,
    options: &TaskHeadsOptions<'_>,
    want: WantTaskHeadsGradients,
) -> Result<TaskHeadsGradients> {
    let problem = Problem::new("task_heads_backward", q, k, v, options)?;
    problem.check_saved(saved, grad_y)?;
    problem.check_routing_gradient(want)?;
    let make = |wanted: bool, dtype, shape: &[usize]| {
        wanted.then(|| Tensor::zeros(problem.device(), dtype, shape)).transpose()
    };
    let wants_values = want.dgate && problem.source.linear.is_none();
    let mut gradients = TaskHeadsGradients {
        dq: make(want.dq, problem.dtype, q.shape())?,
        dk: make(want.dk, problem.dtype, k.shape())?,
        dv: make(want.dv, problem.dtype, v.shape())?,
        dgate: make(wants_values, DType::F32, problem.source.shape())?,
        dynamic: match &problem.source.linear {
            Some(linear) if want.dgate => {
                let make = |shape: &[usize]| Tensor::zeros(problem.device(), DType::F32, shape);
                let bias = linear.bias.as_ref().map(|bias| make(bias.shape()));
                Some(DynamicGradients {
                    dx: make(linear.x.shape())?,
                    dweights: make(problem.source.shape())?,
                    dbias: bias.transpose()?,
                })
            }
            _ => None,
        },
    };
    backward::run(&problem, saved, grad_y, &mut gradients)?;
    Ok(gradients)
}
