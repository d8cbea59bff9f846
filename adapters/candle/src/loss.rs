//! The loss of every task of a mixed batch as a candle operation.

use crate::bridge::{Input, storage, tensor, with_inputs, wrap};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use gatewarp::multitask::{CrossEntropyOptions, TaskAxis, cross_entropy};
use gatewarp::{Device, TensorRef};
use std::sync::Arc;

/// Labels and tasks of a mixed batch, and where its losses are computed.
#[derive(Clone, Debug)]
pub struct TaskLosses {
    /// Where the kernels run.
    pub device: Device,
    /// Class of each sample, `[batch]`.
    pub labels: Arc<[u32]>,
    /// Task of each sample, `[batch]`.
    pub tasks: Arc<[u32]>,
    /// Number of tasks.
    pub count: usize,
}

/// Mean cross-entropy of each task's samples, `[count]`, from `logits [batch, classes]`; 0 for a task without samples.
///
/// The weighted sum of the result is the loss of a batch, so that weights, learned ones too, are ordinary candle tensors; backward takes
/// the gradient of all tasks in one pass.
///
/// # Errors
/// gatewarp's typed error, wrapped, naming the argument.
pub fn task_losses(logits: &Tensor, options: &TaskLosses) -> Result<Tensor> {
    logits.contiguous()?.apply_op1(Op(options.clone()))
}

struct Op(TaskLosses);

impl Op {
    /// Calls `f` with labels and options in gatewarp's form.
    fn with_options<R>(
        &self,
        f: impl FnOnce(&TensorRef<'_>, CrossEntropyOptions<'_>) -> gatewarp::Result<R>,
    ) -> Result<R> {
        let Self(TaskLosses { labels, tasks, count, .. }) = self;
        let tasks = TensorRef::from_slice(tasks, &[tasks.len()]).map_err(wrap)?;
        let labels = TensorRef::from_slice(labels, &[labels.len()]).map_err(wrap)?;
        f(&labels, CrossEntropyOptions::new(TaskAxis::Mixed { tasks, count: *count })).map_err(wrap)
    }
}

impl CustomOp1 for Op {
    fn name(&self) -> &'static str {
        "gatewarp-task-losses"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let logits = Input::new(&self.0.device, logits, layout)?;
        storage(
            &self
                .with_options(|labels, options| cross_entropy(&logits.view(), labels, &options, false))?
                .losses,
        )
    }

    fn bwd(&self, logits: &Tensor, _losses: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        with_inputs(&self.0.device, [logits, &grad], |[logits, weights]| {
            let out = self.with_options(|labels, options| {
                cross_entropy(
                    &logits,
                    labels,
                    &CrossEntropyOptions { weights: Some(weights), ..options },
                    true,
                )
            })?;
            out.gradient.as_ref().map(tensor).transpose()
        })
    }
}
