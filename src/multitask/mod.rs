//! Losses, gradient comparison and metrics over batches that mix tasks.
//!
//! Every call takes its samples in one of two forms ([`TaskAxis`]): a *mixed* batch, in which each sample belongs to one task
//! (`logits [batch, classes]`, a task id per sample), or all tasks for every sample (`logits [batch, tasks, classes]`). A *row* is
//! one (sample, task) with its label. Sums run in a fixed order: the same bits on every run, whatever the number of threads.
//!
//! - [`cross_entropy`], [`squared_error`]: a loss per row, per task and in total, `Σ_t w_t L_t`, with its gradient in one pass.
//! - [`gradient_similarity`]: norms of the tasks' gradients and cosines between them.
//! - [`class_metrics`], [`regression_metrics`], [`composite_score`].
//!
//! A task without rows has loss 0, gradient 0 and metrics 0, and is left out of means over tasks.
//!
//! ```
//! use gatewarp::multitask::{CrossEntropyOptions, TaskAxis, cross_entropy};
//! use gatewarp::{Device, Tensor};
//! # fn main() -> gatewarp::Result<()> {
//! let device = Device::cpu();
//! let logits = Tensor::from_slice(&device, &[2.0f32, 0.0, 0.0, 0.0], &[2, 2])?; // two samples, two classes
//! let labels = Tensor::from_slice(&device, &[0i32, 1], &[2])?;
//! let tasks = Tensor::from_slice(&device, &[2i32, 0], &[2])?; // of three tasks
//! let options = CrossEntropyOptions::new(TaskAxis::Mixed { tasks: tasks.view(), count: 3 });
//! let out = cross_entropy(&logits.view(), &labels.view(), &options, true)?;
//! assert_eq!(out.counts.to_vec::<u32>()?, [1, 0, 1]);
//! assert_eq!(out.losses.to_vec::<f32>()?[1], 0.0); // nobody has task 1
//! # Ok(())
//! # }
//! ```

mod cpu;
mod gpu;
mod gradients;
mod loss;
mod metrics;
mod rows;

pub use crate::ids::NO_TASK;
pub use gradients::{
    GradientSimilarity, GradientSimilarityViews, gradient_similarity, gradient_similarity_into,
    gradient_similarity_workspace,
};
pub use loss::{
    CrossEntropyOptions, LossOutput, LossViews, SquaredErrorOptions, cross_entropy, cross_entropy_into,
    squared_error, squared_error_into,
};
pub use metrics::{
    Average, ClassMetrics, ClassMetricsOptions, ClassMetricsViews, RegressionMetrics,
    RegressionMetricsOptions, RegressionMetricsViews, class_metrics, class_metrics_into, composite_score,
    composite_score_into, regression_metrics, regression_metrics_into,
};
pub use rows::rows_workspace;

use crate::tensor::TensorRef;

/// How samples and tasks go together.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TaskAxis<'a> {
    /// Each sample belongs to one task: values are `[batch, …]`.
    Mixed {
        /// `[batch]` i32, u32 or i64, in device or host memory: a task, or [`NO_TASK`], which leaves the sample out.
        tasks: TensorRef<'a>,
        /// Number of tasks.
        count: usize,
    },
    /// Each sample has a row for every task: values are `[batch, tasks, …]`.
    All,
}

/// How the losses of a task's rows make the loss of the task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// Their mean; rows that are left out do not count.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}
