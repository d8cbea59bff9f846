//! wgpu and CUDA: the sequence of launches, the same for both.

use super::Reduction;
use super::gradients::{CHUNK, GradientSimilarityViews};
use super::loss::{Loss, LossViews};
use super::metrics::{Average, ClassMetricsViews, RegressionMetricsViews};
use super::rows::{Labels, Rows};
use crate::call::{Call, Operand};
use crate::error::Result;
use crate::manifest::Twin;
use crate::manifest::multitask as kernels;
use crate::tensor::{TensorMut, TensorRef};

/// Code of f32 targets, after the integer types'.
const TARGETS: u32 = 3;
/// Rows a block takes at a time where a warp owns a row.
const ROWS_OF_WARPS: usize = 4;

/// Strides of sample and task of `[batch, …]` or `[batch, tasks, …]`, whose own dimensions are `own`.
fn strides(view: &TensorRef<'_>, own: usize) -> [usize; 2] {
    let layout = view.layout();
    if layout.shape().len() > own + 1 { [layout.step(0), layout.step(1)] } else { [layout.step(0), 0] }
}

fn optional<'a>(view: Option<&'a TensorRef<'a>>) -> Operand<'a> {
    view.map_or(Operand::Absent, Operand::View)
}

struct Launcher<'r, 'a> {
    rows: &'r Rows<'a>,
}

impl Launcher<'_, '_> {
    fn launch(
        &self,
        kernel: &'static Twin,
        work: usize,
        operands: &[Operand<'_>],
        sizes: &[usize],
        words: &[u32],
    ) -> Result<()> {
        Call { op: self.rows.op, kernel, operands, sizes, words }.run(&self.rows.device, work)
    }

    /// Number of rows, their columns, and the width of a row.
    fn words(&self) -> [u32; 3] {
        [self.rows.count() as u32, self.rows.columns as u32, self.rows.width as u32]
    }

    /// Tasks and labels of rows, checked; clears `zeroed`.
    fn mark(&self, workspace: &TensorRef<'_>, zeroed: Option<&TensorRef<'_>>) -> Result<()> {
        let rows = self.rows;
        let ids = rows.ids.as_ref().map(|ids| (ids.view(), ids.kind()));
        let (labels, own, kind, ignore, ignore_nan) = match &rows.labels {
            Labels::Classes { labels, ignore } => (labels.view(), 0, labels.kind(), *ignore, false),
            Labels::Targets { targets, ignore_nan } => (targets.clone(), 1, TARGETS, 0, *ignore_nan),
        };
        let widths = rows.widths.as_ref().and_then(|(_, words)| words.as_ref()).map(|words| words.view());
        let zero_count = zeroed.map_or(0, |view| view.layout().len());
        let operands = [
            optional(ids.as_ref().map(|(view, _)| view)),
            Operand::View(&labels),
            optional(widths.as_ref()),
            Operand::View(workspace),
            optional(zeroed),
            Operand::Status,
        ];
        let id_stride = ids.as_ref().map_or(0, |(view, _)| view.layout().step(0));
        let [label_b, label_t] = strides(&labels, own);
        let words = [
            rows.batch as u32,
            rows.columns as u32,
            rows.tasks as u32,
            ids.is_some().into(),
            ids.as_ref().map_or(0, |&(_, kind)| kind),
            kind,
            ignore as u32,
            (ignore >> 32) as u32,
            rows.width as u32,
            widths.is_some().into(),
            ignore_nan.into(),
            zero_count as u32,
        ];
        let work = rows.count().max(zero_count).div_ceil(kernels::ROWS.cuda.block as usize);
        self.launch(&kernels::ROWS, work, &operands, &[id_stride, label_b, label_t], &words)
    }

    fn count(&self, workspace: &TensorRef<'_>, counts: &TensorRef<'_>) -> Result<()> {
        let [count, columns, _] = self.words();
        let operands = [Operand::View(workspace), Operand::View(counts)];
        self.launch(
            &kernels::COUNT,
            self.rows.tasks + 1,
            &operands,
            &[],
            &[count, columns, self.rows.tasks as u32],
        )
    }
}

pub(super) fn loss(loss: &Loss<'_>, out: &mut LossViews<'_>) -> Result<()> {
    let rows = &loss.rows;
    let launcher = Launcher { rows };
    let (workspace, counts) = (out.workspace.as_ref(), out.counts.as_ref());
    launcher.mark(workspace, None)?;
    launcher.count(workspace, counts)?;

    let widths = rows.widths.as_ref().and_then(|(_, words)| words.as_ref()).map(|words| words.view());
    let [count, columns, width] = launcher.words();
    let gradient = out.gradient.as_ref().map(TensorMut::as_ref);
    let mean = u32::from(loss.reduction == Reduction::Mean);
    let flags = [widths.is_some().into(), loss.weights.is_some().into(), gradient.is_some().into(), mean];
    let [value_b, value_t] = strides(&loss.values, 1);
    let [grad_b, grad_t] = gradient.map_or([0; 2], |gradient| strides(gradient, 1));
    let common = [
        Operand::View(workspace),
        Operand::View(counts),
        optional(loss.weights.as_ref()),
        optional(widths.as_ref()),
        optional(gradient),
        Operand::View(out.row_losses.as_ref()),
    ];
    let mut operands = vec![Operand::View(&loss.values)];
    let mut words = vec![count, columns, width];
    words.extend(flags);
    let work = rows.count().div_ceil(ROWS_OF_WARPS);
    match &rows.labels {
        Labels::Targets { targets, .. } => {
            operands.push(Operand::View(targets));
            operands.extend(common);
            let [target_b, target_t] = strides(targets, 1);
            let sizes = [value_b, value_t, target_b, target_t, grad_b, grad_t];
            launcher.launch(&kernels::SQUARED_ERROR, work, &operands, &sizes, &words)?;
        }
        Labels::Classes { .. } => {
            operands.extend(common);
            words.push(loss.smoothing.unwrap_or(0.0).to_bits());
            launcher.launch(
                &kernels::CROSS_ENTROPY,
                work,
                &operands,
                &[value_b, value_t, grad_b, grad_t],
                &words,
            )?;
        }
    }

    let tasks = rows.tasks as u32;
    let losses = out.losses.as_ref();
    let operands = [
        Operand::View(workspace),
        Operand::View(out.row_losses.as_ref()),
        Operand::View(counts),
        Operand::View(losses),
    ];
    launcher.launch(&kernels::REDUCE, rows.tasks, &operands, &[], &[count, columns, tasks, mean])?;
    let operands = [
        Operand::View(losses),
        optional(loss.weights.as_ref()),
        Operand::View(counts),
        Operand::View(workspace),
        Operand::View(out.total.as_ref()),
    ];
    let words = [tasks, loss.weights.is_some().into(), 0, 1, 2 * count];
    launcher.launch(&kernels::WEIGHTED_SUM, 1, &operands, &[1], &words)
}

pub(super) fn class_metrics(
    rows: &Rows<'_>,
    logits: &TensorRef<'_>,
    average: Average,
    out: &mut ClassMetricsViews<'_>,
) -> Result<()> {
    let launcher = Launcher { rows };
    let (workspace, class_counts) = (out.workspace.as_ref(), out.class_counts.as_ref());
    launcher.mark(workspace, Some(class_counts))?;
    launcher.count(workspace, out.counts.as_ref())?;
    let widths = rows.widths.as_ref().and_then(|(_, words)| words.as_ref()).map(|words| words.view());
    let operands = [
        Operand::View(logits),
        Operand::View(workspace),
        optional(widths.as_ref()),
        Operand::View(class_counts),
    ];
    let [count, columns, width] = launcher.words();
    let words = [count, columns, width, widths.is_some().into()];
    let work = rows.count().div_ceil(ROWS_OF_WARPS);
    launcher.launch(&kernels::CLASS_COUNTS, work, &operands, &strides(logits, 1), &words)?;
    let operands = [
        Operand::View(class_counts),
        Operand::View(out.per_class.as_ref()),
        Operand::View(out.per_task.as_ref()),
        Operand::View(out.overall.as_ref()),
    ];
    let (one_class, positive) = match average {
        Average::Macro => (0, 0),
        Average::OneClass(class) => (1, class as u32),
    };
    launcher.launch(
        &kernels::CLASS_METRICS,
        1,
        &operands,
        &[],
        &[rows.tasks as u32, width, one_class, positive],
    )
}

pub(super) fn regression_metrics(
    rows: &Rows<'_>,
    values: &TensorRef<'_>,
    out: &mut RegressionMetricsViews<'_>,
) -> Result<()> {
    let launcher = Launcher { rows };
    let (workspace, counts) = (out.workspace.as_ref(), out.counts.as_ref());
    launcher.mark(workspace, None)?;
    launcher.count(workspace, counts)?;
    let Labels::Targets { targets, .. } = &rows.labels else { return Ok(()) };
    let operands = [
        Operand::View(values),
        Operand::View(targets),
        Operand::View(workspace),
        Operand::View(counts),
        Operand::View(out.per_task.as_ref()),
    ];
    let ([value_b, value_t], [target_b, target_t]) = (strides(values, 1), strides(targets, 1));
    let [count, columns, _] = launcher.words();
    let words = [count, columns, rows.tasks as u32];
    let sizes = [value_b, value_t, target_b, target_t];
    launcher.launch(&kernels::REGRESSION_METRICS, rows.tasks, &operands, &sizes, &words)
}

pub(super) fn composite_score(
    op: &'static str,
    scores: &TensorRef<'_>,
    counts: &TensorRef<'_>,
    weights: Option<&TensorRef<'_>>,
    out: &mut TensorMut<'_>,
) -> Result<()> {
    let operands = [
        Operand::View(scores),
        optional(weights),
        Operand::View(counts),
        Operand::Absent,
        Operand::View(out.as_ref()),
    ];
    let words = [scores.shape()[0] as u32, weights.is_some().into(), 1, 0, 0];
    let sizes = [scores.layout().step(0)];
    Call { op, kernel: &kernels::WEIGHTED_SUM, operands: &operands, sizes: &sizes, words: &words }
        .run(scores.device(), 1)
}

pub(super) fn gradient_similarity(
    op: &'static str,
    gradients: &TensorRef<'_>,
    out: &mut GradientSimilarityViews<'_>,
) -> Result<()> {
    let (device, tasks, parameters) = (gradients.device(), gradients.shape()[0], gradients.shape()[1]);
    let chunks = parameters.div_ceil(CHUNK);
    let partial = out.workspace.as_ref();
    // Enough for the smaller tiles of the two twins; surplus blocks find nothing to do.
    let tiles = tasks.div_ceil(2);
    let operands = [Operand::View(gradients), Operand::View(partial)];
    let sizes = [gradients.layout().step(0), parameters];
    let words = [tasks as u32, chunks as u32];
    Call { op, kernel: &kernels::GRADIENT_GRAM, operands: &operands, sizes: &sizes, words: &words }
        .run(device, chunks.saturating_mul(tiles * tiles))?;
    let operands =
        [Operand::View(partial), Operand::View(out.norms.as_ref()), Operand::View(out.cosines.as_ref())];
    let work = (tasks * tasks).div_ceil(kernels::GRADIENT_COSINES.cuda.block as usize);
    Call { op, kernel: &kernels::GRADIENT_COSINES, operands: &operands, sizes: &[], words: &words }
        .run(device, work)
}
