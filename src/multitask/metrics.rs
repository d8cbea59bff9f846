//! Metrics: validation, and the calls.

use super::rows::{Given, Rows, rows_workspace};
use super::{TaskAxis, cpu, gpu};
use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Layout, Tensor, TensorMut, TensorRef};
use crate::validate;

/// What precision, recall and F1 of a task are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Average {
    /// The mean over the classes that were predicted or labelled at least once.
    #[default]
    Macro,
    /// Those of one class: 1 for tasks that ask yes or no.
    OneClass(usize),
}

/// How [`class_metrics`] is computed.
#[derive(Clone, Debug)]
pub struct ClassMetricsOptions<'a> {
    /// Which task each row belongs to.
    pub axis: TaskAxis<'a>,
    /// Classes of each task; all of them where not given.
    pub classes: Option<&'a [usize]>,
    /// Rows with this label are left out.
    pub ignore_index: i64,
    /// What a task's precision, recall and F1 are.
    pub average: Average,
}

impl<'a> ClassMetricsOptions<'a> {
    /// Label −100 ignored, macro means.
    pub fn new(axis: TaskAxis<'a>) -> Self {
        Self { axis, classes: None, ignore_index: -100, average: Average::Macro }
    }
}

/// What [`class_metrics`] returns.
#[derive(Debug)]
pub struct ClassMetrics {
    /// `[tasks]` u32: rows of each task.
    pub counts: Tensor,
    /// `[tasks, classes, 3]` u32: how often each class was right, predicted, labelled.
    pub class_counts: Tensor,
    /// `[tasks, classes, 3]`: precision, recall, F1.
    pub per_class: Tensor,
    /// `[tasks, 4]`: accuracy, precision, recall, F1.
    pub per_task: Tensor,
    /// `[2, 4]`: the same as the mean over the tasks that have rows (macro), then with the rows of all tasks pooled (micro).
    pub overall: Tensor,
}

/// Where [`class_metrics_into`] writes, all contiguous; shapes as in [`ClassMetrics`].
#[derive(Debug)]
pub struct ClassMetricsViews<'a> {
    /// `[tasks]` u32.
    pub counts: TensorMut<'a>,
    /// `[tasks, classes, 3]` u32.
    pub class_counts: TensorMut<'a>,
    /// `[tasks, classes, 3]` f32.
    pub per_class: TensorMut<'a>,
    /// `[tasks, 4]` f32.
    pub per_task: TensorMut<'a>,
    /// `[2, 4]` f32.
    pub overall: TensorMut<'a>,
    /// `[rows_workspace(rows)]` u32.
    pub workspace: TensorMut<'a>,
}

/// How [`regression_metrics`] is computed.
#[derive(Clone, Debug)]
pub struct RegressionMetricsOptions<'a> {
    /// Which task each row belongs to.
    pub axis: TaskAxis<'a>,
    /// Rows with a NaN target are left out.
    pub ignore_nan: bool,
}

/// What [`regression_metrics`] returns.
#[derive(Debug)]
pub struct RegressionMetrics {
    /// `[tasks]` u32: rows of each task.
    pub counts: Tensor,
    /// `[tasks, 3]`: mean absolute error, mean squared error, R².
    pub per_task: Tensor,
}

/// Where [`regression_metrics_into`] writes, all contiguous; shapes as in [`RegressionMetrics`].
#[derive(Debug)]
pub struct RegressionMetricsViews<'a> {
    /// `[tasks]` u32.
    pub counts: TensorMut<'a>,
    /// `[tasks, 3]` f32.
    pub per_task: TensorMut<'a>,
    /// `[rows_workspace(rows)]` u32.
    pub workspace: TensorMut<'a>,
}

type Output<'v, 's> = (&'static str, &'v TensorRef<'v>, DType, &'s [usize]);

/// Checks contiguous outputs, and that they share nothing with each other or with an input.
fn check_outputs(
    rows: &Rows<'_>,
    outputs: &[Output<'_, '_>],
    inputs: &[(&'static str, &TensorRef<'_>)],
) -> Result<()> {
    let op = rows.op;
    for &(arg, tensor, dtype, shape) in outputs {
        validate::shape(op, arg, tensor, shape)?;
        validate::tensor(op, arg, tensor, dtype, &rows.device)?;
        validate::contiguous(op, arg, tensor)?;
    }
    let outputs: Vec<_> = outputs.iter().map(|&(arg, tensor, ..)| (arg, tensor)).collect();
    validate::disjoint(op, &outputs, inputs)
}

fn class_rows<'a>(
    logits: &TensorRef<'a>,
    labels: &TensorRef<'a>,
    options: &ClassMetricsOptions<'a>,
) -> Result<Rows<'a>> {
    const OP: &str = "class_metrics";
    let given = Given::Classes { labels, ignore: options.ignore_index };
    let rows = Rows::new(OP, "logits", logits, &options.axis, options.classes, &given)?;
    match options.average {
        Average::OneClass(class) if class >= rows.width => {
            let reason = format!("is class {class}, outside 0..{}", rows.width);
            Err(Error::argument(OP, "average", reason))
        }
        _ => Ok(rows),
    }
}

/// Accuracy, precision, recall and F1 of predictions, the largest logit of each row (the first of equal ones; a NaN counts as the
/// largest), per class, per task and over all tasks.
///
/// `logits` and `labels` as in [`cross_entropy`](super::cross_entropy). Of one class, with `right` rows both predicted and labelled:
/// precision `right/predicted`, recall `right/labelled`, F1 `2·right/(predicted + labelled)`; a quotient whose divisor is 0 is 0, so
/// a task without rows has 0 everywhere. Pooled over the classes of single-label tasks, micro precision, recall and F1 all equal accuracy;
/// with [`Average::OneClass`] the pool is that class of every task.
///
/// # Errors
/// As [`cross_entropy`](super::cross_entropy). Rows with a bad task or label in device memory count nowhere, and the next synchronising
/// call returns [`Error::DeviceValue`].
///
/// # Source
/// Sokolova & Lapalme, Information Processing & Management 45 (2009) 427.
pub fn class_metrics(
    logits: &TensorRef<'_>,
    labels: &TensorRef<'_>,
    options: &ClassMetricsOptions<'_>,
) -> Result<ClassMetrics> {
    let rows = class_rows(logits, labels, options)?;
    let make = |dtype, shape: &[usize]| Tensor::zeros(&rows.device, dtype, shape);
    let per_class = [rows.tasks, rows.width, 3];
    let mut out = ClassMetrics {
        counts: make(DType::U32, &[rows.tasks])?,
        class_counts: make(DType::U32, &per_class)?,
        per_class: make(DType::F32, &per_class)?,
        per_task: make(DType::F32, &[rows.tasks, 4])?,
        overall: make(DType::F32, &[2, 4])?,
    };
    let mut workspace = make(DType::U32, &[rows_workspace(rows.count())])?;
    let views = ClassMetricsViews {
        counts: out.counts.view_mut(),
        class_counts: out.class_counts.view_mut(),
        per_class: out.per_class.view_mut(),
        per_task: out.per_task.view_mut(),
        overall: out.overall.view_mut(),
        workspace: workspace.view_mut(),
    };
    run_class_metrics(&rows, logits, options.average, views)?;
    Ok(out)
}

/// [`class_metrics`] into views of the caller's.
///
/// # Errors
/// As [`class_metrics`]; [`Error::InvalidArgument`] if an output overlaps an input or another output.
pub fn class_metrics_into(
    logits: &TensorRef<'_>,
    labels: &TensorRef<'_>,
    options: &ClassMetricsOptions<'_>,
    out: ClassMetricsViews<'_>,
) -> Result<()> {
    run_class_metrics(&class_rows(logits, labels, options)?, logits, options.average, out)
}

fn run_class_metrics(
    rows: &Rows<'_>,
    logits: &TensorRef<'_>,
    average: Average,
    mut out: ClassMetricsViews<'_>,
) -> Result<()> {
    let per_class = [rows.tasks, rows.width, 3];
    rows.check_workspace(&out.workspace)?;
    let outputs: [Output<'_, '_>; 6] = [
        ("counts", out.counts.as_ref(), DType::U32, &[rows.tasks]),
        ("class_counts", out.class_counts.as_ref(), DType::U32, &per_class),
        ("per_class", out.per_class.as_ref(), DType::F32, &per_class),
        ("per_task", out.per_task.as_ref(), DType::F32, &[rows.tasks, 4]),
        ("overall", out.overall.as_ref(), DType::F32, &[2, 4]),
        ("workspace", out.workspace.as_ref(), DType::U32, &[rows_workspace(rows.count())]),
    ];
    check_outputs(rows, &outputs, &[("logits", logits)])?;
    match rows.device.backend() {
        Backend::Cpu => cpu::class_metrics(rows, logits, average, &mut out),
        _ => gpu::class_metrics(rows, logits, average, &mut out),
    }
}

/// `[batch]` as `[batch, 1]`, `[batch, tasks]` as `[batch, tasks, 1]`.
fn one_wide<'a>(view: &TensorRef<'a>) -> Result<TensorRef<'a>> {
    let layout = view.layout();
    let (mut shape, mut strides) = (layout.shape().to_vec(), layout.strides().to_vec());
    shape.push(1);
    strides.push(1);
    view.with_layout(Layout::new(&shape, &strides, layout.offset())?)
}

fn regression_rows<'a>(
    values: &TensorRef<'a>,
    targets: &TensorRef<'a>,
    options: &RegressionMetricsOptions<'a>,
) -> Result<(Rows<'a>, TensorRef<'a>)> {
    const OP: &str = "regression_metrics";
    validate::shape(OP, "targets", targets, values.shape())?;
    let rank = if matches!(options.axis, TaskAxis::All) { 2 } else { 1 };
    if values.shape().len() != rank {
        let expected = if rank == 2 { "[batch, tasks]" } else { "[batch]" };
        return Err(Error::shape(OP, "values", expected, values.shape()));
    }
    let (values, targets) = (one_wide(values)?, one_wide(targets)?);
    let given = Given::Targets { targets: &targets, ignore_nan: options.ignore_nan };
    Ok((Rows::new(OP, "values", &values, &options.axis, None, &given)?, values))
}

/// Mean absolute error, mean squared error and R² of each task.
///
/// `values` and `targets` are `[batch]` (mixed tasks) or `[batch, tasks]`, f32, any strides. `R² = 1 − Σ(x−y)²/Σ(y−ȳ)²`; where all targets
/// of a task are equal it is 1 if every error is 0, otherwise 0. A task without rows has 0 everywhere.
///
/// # Errors
/// As [`cross_entropy`](super::cross_entropy). Rows with a bad task in device memory count nowhere, and the next synchronising call
/// returns [`Error::DeviceValue`].
pub fn regression_metrics(
    values: &TensorRef<'_>,
    targets: &TensorRef<'_>,
    options: &RegressionMetricsOptions<'_>,
) -> Result<RegressionMetrics> {
    let (rows, values) = regression_rows(values, targets, options)?;
    let make = |dtype, shape: &[usize]| Tensor::zeros(&rows.device, dtype, shape);
    let mut out = RegressionMetrics {
        counts: make(DType::U32, &[rows.tasks])?,
        per_task: make(DType::F32, &[rows.tasks, 3])?,
    };
    let mut workspace = make(DType::U32, &[rows_workspace(rows.count())])?;
    let views = RegressionMetricsViews {
        counts: out.counts.view_mut(),
        per_task: out.per_task.view_mut(),
        workspace: workspace.view_mut(),
    };
    run_regression_metrics(&rows, &values, views)?;
    Ok(out)
}

/// [`regression_metrics`] into views of the caller's.
///
/// # Errors
/// As [`regression_metrics`]; [`Error::InvalidArgument`] if an output overlaps an input or another output.
pub fn regression_metrics_into(
    values: &TensorRef<'_>,
    targets: &TensorRef<'_>,
    options: &RegressionMetricsOptions<'_>,
    out: RegressionMetricsViews<'_>,
) -> Result<()> {
    let (rows, values) = regression_rows(values, targets, options)?;
    run_regression_metrics(&rows, &values, out)
}

fn run_regression_metrics(
    rows: &Rows<'_>,
    values: &TensorRef<'_>,
    mut out: RegressionMetricsViews<'_>,
) -> Result<()> {
    rows.check_workspace(&out.workspace)?;
    let outputs: [Output<'_, '_>; 3] = [
        ("counts", out.counts.as_ref(), DType::U32, &[rows.tasks]),
        ("per_task", out.per_task.as_ref(), DType::F32, &[rows.tasks, 3]),
        ("workspace", out.workspace.as_ref(), DType::U32, &[rows_workspace(rows.count())]),
    ];
    let mut inputs = vec![("values", values)];
    if let super::rows::Labels::Targets { targets, .. } = &rows.labels {
        inputs.push(("targets", targets));
    }
    check_outputs(rows, &outputs, &inputs)?;
    match rows.device.backend() {
        Backend::Cpu => cpu::regression_metrics(rows, values, &mut out),
        _ => gpu::regression_metrics(rows, values, &mut out),
    }
}

/// `Σ w_t s_t / Σ w_t` over the tasks that have rows and a weight: `[1]`, 0 if there are none.
///
/// `scores [tasks]` f32, any stride (a column of [`ClassMetrics::per_task`]), `counts [tasks]` u32, `weights [tasks]` f32, 1 where not given.
///
/// # Errors
/// [`Error::Shape`], [`Error::DType`], [`Error::Device`], [`Error::InvalidArgument`].
pub fn composite_score(
    scores: &TensorRef<'_>,
    counts: &TensorRef<'_>,
    weights: Option<&TensorRef<'_>>,
) -> Result<Tensor> {
    let mut out = Tensor::zeros(scores.device(), DType::F32, &[1])?;
    composite_score_into(scores, counts, weights, &mut out.view_mut())?;
    Ok(out)
}

/// [`composite_score`] into a view of the caller's.
///
/// # Errors
/// As [`composite_score`]; [`Error::InvalidArgument`] if the output overlaps an input.
pub fn composite_score_into(
    scores: &TensorRef<'_>,
    counts: &TensorRef<'_>,
    weights: Option<&TensorRef<'_>>,
    out: &mut TensorMut<'_>,
) -> Result<()> {
    const OP: &str = "composite_score";
    let [tasks] = *scores.shape() else { return Err(Error::shape(OP, "scores", "[tasks]", scores.shape())) };
    let device = scores.device();
    validate::tensor(OP, "scores", scores, DType::F32, device)?;
    validate::shape(OP, "counts", counts, &[tasks])?;
    validate::tensor(OP, "counts", counts, DType::U32, device)?;
    validate::contiguous(OP, "counts", counts)?;
    let mut inputs = vec![("scores", scores), ("counts", counts)];
    if let Some(weights) = weights {
        validate::shape(OP, "weights", weights, &[tasks])?;
        validate::tensor(OP, "weights", weights, DType::F32, device)?;
        validate::contiguous(OP, "weights", weights)?;
        inputs.push(("weights", weights));
    }
    validate::shape(OP, "out", out.as_ref(), &[1])?;
    validate::tensor(OP, "out", out.as_ref(), DType::F32, device)?;
    validate::disjoint(OP, &[("out", out.as_ref())], &inputs)?;
    match device.backend() {
        Backend::Cpu => cpu::composite_score(scores, counts, weights, out),
        _ => gpu::composite_score(OP, scores, counts, weights, out),
    }
}
