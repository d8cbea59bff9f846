//! Losses: validation, and the calls.

use super::rows::{Given, Rows, rows_workspace};
use super::{Reduction, TaskAxis, cpu, gpu};
use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, TensorMut, TensorRef};
use crate::validate;

/// How [`cross_entropy`] is computed.
#[derive(Clone, Debug)]
pub struct CrossEntropyOptions<'a> {
    /// Which task each row belongs to.
    pub axis: TaskAxis<'a>,
    /// `[tasks]` f32, contiguous: w_t, 1 where not given. A task of weight 0 has no gradient and no part in the total.
    pub weights: Option<TensorRef<'a>>,
    /// Classes of each task; what lies beyond them in a row of logits is not read. All of them where not given.
    pub classes: Option<&'a [usize]>,
    /// Mean or sum over a task's rows.
    pub reduction: Reduction,
    /// Rows with this label are left out: their logits are not read.
    pub ignore_index: i64,
    /// In `0..1`: this share of the target is spread evenly over the task's classes.
    pub label_smoothing: f32,
}

impl<'a> CrossEntropyOptions<'a> {
    /// Weights 1, the mean over rows, label −100 ignored, no smoothing.
    pub fn new(axis: TaskAxis<'a>) -> Self {
        Self {
            axis,
            weights: None,
            classes: None,
            reduction: Reduction::Mean,
            ignore_index: -100,
            label_smoothing: 0.0,
        }
    }
}

/// How [`squared_error`] is computed.
#[derive(Clone, Debug)]
pub struct SquaredErrorOptions<'a> {
    /// Which task each row belongs to.
    pub axis: TaskAxis<'a>,
    /// `[tasks]` f32, contiguous: w_t, 1 where not given. A task of weight 0 has no gradient and no part in the total.
    pub weights: Option<TensorRef<'a>>,
    /// Elements of each task's rows; what lies beyond them is not read. All of them where not given.
    pub widths: Option<&'a [usize]>,
    /// Mean or sum over a task's rows.
    pub reduction: Reduction,
    /// Rows with a NaN among their targets are left out.
    pub ignore_nan: bool,
}

impl<'a> SquaredErrorOptions<'a> {
    /// Weights 1, the mean over rows, no row left out.
    pub fn new(axis: TaskAxis<'a>) -> Self {
        Self { axis, weights: None, widths: None, reduction: Reduction::Mean, ignore_nan: false }
    }
}

/// What a loss returns.
#[derive(Debug)]
pub struct LossOutput {
    /// `[1]`: Σ_t w_t L_t.
    pub total: Tensor,
    /// `[tasks]`: L_t, 0 for a task without rows.
    pub losses: Tensor,
    /// `[tasks]` u32: rows of each task that were not left out.
    pub counts: Tensor,
    /// `[batch]` or `[batch, tasks]`: loss of each row, 0 where it is left out.
    pub row_losses: Tensor,
    /// Gradient of the total by the values, in their shape, if asked for.
    pub gradient: Option<Tensor>,
}

/// Where a loss writes; shapes as in [`LossOutput`]. All but `gradient` are contiguous; `gradient` is in its last dimension.
#[derive(Debug)]
pub struct LossViews<'a> {
    /// `[1]` f32.
    pub total: TensorMut<'a>,
    /// `[tasks]` f32.
    pub losses: TensorMut<'a>,
    /// `[tasks]` u32.
    pub counts: TensorMut<'a>,
    /// `[batch]` or `[batch, tasks]` f32.
    pub row_losses: TensorMut<'a>,
    /// The values' shape, f32; not computed if `None`.
    pub gradient: Option<TensorMut<'a>>,
    /// `[rows_workspace(rows)]` u32.
    pub workspace: TensorMut<'a>,
}

/// A validated loss.
pub(super) struct Loss<'a> {
    pub(super) rows: Rows<'a>,
    pub(super) values: TensorRef<'a>,
    pub(super) weights: Option<TensorRef<'a>>,
    pub(super) reduction: Reduction,
    /// Label smoothing; `None` is the squared error.
    pub(super) smoothing: Option<f32>,
}

impl<'a> Loss<'a> {
    fn cross_entropy(
        logits: &TensorRef<'a>,
        labels: &TensorRef<'a>,
        options: &CrossEntropyOptions<'a>,
    ) -> Result<Self> {
        const OP: &str = "cross_entropy";
        let smoothing = options.label_smoothing;
        if !(0.0..1.0).contains(&smoothing) {
            return Err(Error::argument(OP, "label_smoothing", format!("is {smoothing}, outside 0..1")));
        }
        let given = Given::Classes { labels, ignore: options.ignore_index };
        let rows = Rows::new(OP, "logits", logits, &options.axis, options.classes, &given)?;
        Self {
            rows,
            values: logits.clone(),
            weights: options.weights.clone(),
            reduction: options.reduction,
            smoothing: Some(smoothing),
        }
        .checked()
    }

    fn squared_error(
        values: &TensorRef<'a>,
        targets: &TensorRef<'a>,
        options: &SquaredErrorOptions<'a>,
    ) -> Result<Self> {
        let given = Given::Targets { targets, ignore_nan: options.ignore_nan };
        let rows = Rows::new("squared_error", "values", values, &options.axis, options.widths, &given)?;
        Self {
            rows,
            values: values.clone(),
            weights: options.weights.clone(),
            reduction: options.reduction,
            smoothing: None,
        }
        .checked()
    }

    fn checked(self) -> Result<Self> {
        if let Some(weights) = &self.weights {
            check_weights(self.rows.op, weights, &self.rows)?;
        }
        Ok(self)
    }

    fn zeros(&self, want_gradient: bool) -> Result<(LossOutput, Tensor)> {
        let rows = &self.rows;
        let make = |dtype, shape: &[usize]| Tensor::zeros(&rows.device, dtype, shape);
        let out = LossOutput {
            total: make(DType::F32, &[1])?,
            losses: make(DType::F32, &[rows.tasks])?,
            counts: make(DType::U32, &[rows.tasks])?,
            row_losses: make(DType::F32, &rows.row_shape())?,
            gradient: want_gradient.then(|| make(DType::F32, self.values.shape())).transpose()?,
        };
        Ok((out, make(DType::U32, &[rows_workspace(rows.count())])?))
    }

    fn run(&self, want_gradient: bool) -> Result<LossOutput> {
        let (mut out, mut workspace) = self.zeros(want_gradient)?;
        self.run_into(LossViews {
            total: out.total.view_mut(),
            losses: out.losses.view_mut(),
            counts: out.counts.view_mut(),
            row_losses: out.row_losses.view_mut(),
            gradient: out.gradient.as_mut().map(Tensor::view_mut),
            workspace: workspace.view_mut(),
        })?;
        Ok(out)
    }

    fn run_into(&self, mut out: LossViews<'_>) -> Result<()> {
        let (op, rows) = (self.rows.op, &self.rows);
        let row_shape = rows.row_shape();
        let results: [(&'static str, &TensorRef<'_>, DType, &[usize]); 4] = [
            ("total", out.total.as_ref(), DType::F32, &[1]),
            ("losses", out.losses.as_ref(), DType::F32, &[rows.tasks]),
            ("counts", out.counts.as_ref(), DType::U32, &[rows.tasks]),
            ("row_losses", out.row_losses.as_ref(), DType::F32, &row_shape),
        ];
        let mut outputs = Vec::new();
        for (arg, tensor, dtype, shape) in results {
            validate::shape(op, arg, tensor, shape)?;
            validate::tensor(op, arg, tensor, dtype, &rows.device)?;
            validate::contiguous(op, arg, tensor)?;
            outputs.push((arg, tensor));
        }
        if let Some(gradient) = &out.gradient {
            validate::shape(op, "gradient", gradient.as_ref(), self.values.shape())?;
            validate::tensor(op, "gradient", gradient.as_ref(), DType::F32, &rows.device)?;
            validate::last_contiguous(op, "gradient", gradient.as_ref())?;
            outputs.push(("gradient", gradient.as_ref()));
        }
        rows.check_workspace(&out.workspace)?;
        outputs.push(("workspace", out.workspace.as_ref()));
        let mut inputs = vec![("values", &self.values)];
        inputs.extend(self.weights.as_ref().map(|weights| ("weights", weights)));
        if let super::rows::Labels::Targets { targets, .. } = &rows.labels {
            inputs.push(("targets", targets));
        }
        validate::disjoint(op, &outputs, &inputs)?;
        match rows.device.backend() {
            Backend::Cpu => cpu::loss(self, &mut out),
            _ => gpu::loss(self, &mut out),
        }
    }
}

/// `[tasks]` f32, contiguous, on the values' device.
pub(super) fn check_weights(op: &'static str, weights: &TensorRef<'_>, rows: &Rows<'_>) -> Result<()> {
    validate::shape(op, "weights", weights, &[rows.tasks])?;
    validate::tensor(op, "weights", weights, DType::F32, &rows.device)?;
    validate::contiguous(op, "weights", weights)
}

/// Cross-entropy of each row, reduced to a loss per task and `Σ_t w_t L_t`, with the gradient by the logits in the same pass.
///
/// `logits [batch, classes]` with `labels [batch]` (mixed tasks), or `[batch, tasks, classes]` with `[batch, tasks]`; f32, the last
/// dimension contiguous, other strides free; labels i32, u32 or i64. With `ε = label_smoothing` and C classes a row's loss is
/// `−(1−ε)·log p_y − (ε/C)·Σ_c log p_c`, and `dlogits = (w_t/n_t)·(p − (1−ε)·[c = y] − ε/C)`, n_t the task's count (1 for a sum).
/// Logits of rows that are left out, and beyond their task's classes, are not read; their gradient is 0. A NaN, a +∞ or nothing
/// above −∞ among a row's logits makes the row NaN.
///
/// # Errors
/// [`Error::Shape`], [`Error::DType`], [`Error::Device`] or [`Error::InvalidArgument`] naming the argument; [`Error::TaskId`] for a bad
/// task in host memory, [`Error::InvalidArgument`] for a bad label there. In device memory either makes its row NaN, a bad task the
/// total as well, and the next synchronising call returns [`Error::DeviceValue`].
///
/// # Source
/// Label smoothing: Szegedy et al., arXiv:1512.00567, §7.
pub fn cross_entropy(
    logits: &TensorRef<'_>,
    labels: &TensorRef<'_>,
    options: &CrossEntropyOptions<'_>,
    want_gradient: bool,
) -> Result<LossOutput> {
    Loss::cross_entropy(logits, labels, options)?.run(want_gradient)
}

/// [`cross_entropy`] into views of the caller's. Allocates nothing on a GPU but copies of host-side ids, labels and class numbers.
///
/// # Errors
/// As [`cross_entropy`]; [`Error::InvalidArgument`] if an output overlaps an input or another output.
pub fn cross_entropy_into(
    logits: &TensorRef<'_>,
    labels: &TensorRef<'_>,
    options: &CrossEntropyOptions<'_>,
    out: LossViews<'_>,
) -> Result<()> {
    Loss::cross_entropy(logits, labels, options)?.run_into(out)
}

/// Squared error of each row, the mean over its elements, reduced as in [`cross_entropy`], with the gradient in the same pass.
///
/// `values` and `targets` are `[batch, width]` (mixed tasks) or `[batch, tasks, width]`, f32, the last dimension contiguous. A row's loss
/// is `(1/D)·Σ_d (x_d − y_d)²` over its task's D elements, its gradient `(w_t/n_t)·(2/D)·(x − y)`.
///
/// # Errors
/// As [`cross_entropy`].
pub fn squared_error(
    values: &TensorRef<'_>,
    targets: &TensorRef<'_>,
    options: &SquaredErrorOptions<'_>,
    want_gradient: bool,
) -> Result<LossOutput> {
    Loss::squared_error(values, targets, options)?.run(want_gradient)
}

/// [`squared_error`] into views of the caller's.
///
/// # Errors
/// As [`cross_entropy_into`].
pub fn squared_error_into(
    values: &TensorRef<'_>,
    targets: &TensorRef<'_>,
    options: &SquaredErrorOptions<'_>,
    out: LossViews<'_>,
) -> Result<()> {
    Loss::squared_error(values, targets, options)?.run_into(out)
}
