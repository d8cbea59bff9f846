//! Validation shared by losses and metrics: from values, labels and tasks to rows.

use super::TaskAxis;
use crate::device::{Backend, Device};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ids::{Ids, host_values};
use crate::tensor::{Tensor, TensorMut, TensorRef};
use crate::validate;

/// Words of `workspace` that a call over so many rows needs: `batch` of a mixed batch, `batch · tasks` otherwise.
pub fn rows_workspace(rows: usize) -> usize {
    rows.saturating_mul(2).saturating_add(1)
}

/// What a row is labelled with.
pub(super) enum Labels<'a> {
    /// Classes, and which value leaves a row out.
    Classes { labels: Ids<'a>, ignore: i64 },
    /// Values to come close to; a NaN among them leaves the row out if so wished.
    Targets { targets: TensorRef<'a>, ignore_nan: bool },
}

/// Rows of a call: sample-major, `batch · columns` of them.
pub(super) struct Rows<'a> {
    /// Public name of the operation, for errors.
    pub(super) op: &'static str,
    pub(super) device: Device,
    pub(super) batch: usize,
    /// 1 in a mixed batch, otherwise the tasks.
    pub(super) columns: usize,
    pub(super) tasks: usize,
    /// Classes, or elements of a target.
    pub(super) width: usize,
    pub(super) ids: Option<Ids<'a>>,
    pub(super) labels: Labels<'a>,
    /// Classes of each task, or elements of its targets: on the host, and on a GPU.
    pub(super) widths: Option<(&'a [usize], Option<Tensor>)>,
}

/// A row on the host. `task` is `None` where the row is left out.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) task: Option<usize>,
    pub(super) label: usize,
}

/// What the caller gives beside the values.
pub(super) enum Given<'a, 'b> {
    Classes { labels: &'b TensorRef<'a>, ignore: i64 },
    Targets { targets: &'b TensorRef<'a>, ignore_nan: bool },
}

impl<'a> Rows<'a> {
    /// `values` is `[batch, width]` or `[batch, tasks, width]`.
    pub(super) fn new(
        op: &'static str,
        arg: &'static str,
        values: &TensorRef<'a>,
        axis: &TaskAxis<'a>,
        widths: Option<&'a [usize]>,
        given: &Given<'a, '_>,
    ) -> Result<Self> {
        let device = values.device();
        let (batch, columns, tasks, width) = match (axis, values.shape()) {
            (TaskAxis::Mixed { count, .. }, &[batch, width]) => (batch, 1, *count, width),
            (TaskAxis::All, &[batch, tasks, width]) => (batch, tasks, tasks, width),
            (TaskAxis::Mixed { .. }, _) => {
                return Err(Error::shape(op, arg, "[batch, width]", values.shape()));
            }
            (TaskAxis::All, _) => return Err(Error::shape(op, arg, "[batch, tasks, width]", values.shape())),
        };
        validate::tensor(op, arg, values, DType::F32, device)?;
        validate::last_contiguous(op, arg, values)?;
        for (what, got) in [
            ("rows", batch.saturating_mul(columns)),
            ("number of tasks", tasks),
            ("width", width),
            ("classes of all tasks", tasks.saturating_mul(width).saturating_mul(3)),
        ] {
            // Row words, and tasks, are 32-bit, and two values of them are marks.
            if got > i32::MAX as usize / 2 {
                let (limit, got) = ((i32::MAX / 2).to_string(), got.to_string());
                return Err(Error::Unsupported { op, backend: device.backend(), what, limit, got });
            }
        }
        if let Some(widths) = widths {
            let fits = widths.len() == tasks && widths.iter().all(|&w| (1..=width).contains(&w));
            if !fits {
                let reason = format!("are {widths:?}, expected {tasks} numbers in 1..={width}");
                return Err(Error::argument(op, "widths", reason));
            }
        }
        let ids = match axis {
            TaskAxis::Mixed { tasks, count } => {
                Some(Ids::of_tasks(op, "tasks", tasks, *count, &[batch], device)?)
            }
            TaskAxis::All => None,
        };
        let labels_shape: &[usize] = if ids.is_some() { &[batch] } else { &[batch, columns] };
        let labels = match *given {
            Given::Classes { labels, ignore } => {
                check_host_labels(op, labels, labels_shape, axis, ignore, |task| {
                    widths.map_or(width, |widths| widths[task])
                })?;
                // A GPU gets 32-bit copies of labels in host memory, the ignored value as one no label has.
                let narrow = |label: i64| {
                    if label == ignore { i32::MIN } else { label.clamp(-1, i32::MAX.into()) as i32 }
                };
                let labels =
                    Ids::narrowed(op, "labels", labels, labels_shape, device, |label| Ok(narrow(label)))?;
                let ignore = if matches!(labels, Ids::Uploaded(..)) { i32::MIN.into() } else { ignore };
                Labels::Classes { labels, ignore }
            }
            Given::Targets { targets, ignore_nan } => {
                validate::shape(op, "targets", targets, values.shape())?;
                validate::tensor(op, "targets", targets, DType::F32, device)?;
                validate::last_contiguous(op, "targets", targets)?;
                Labels::Targets { targets: targets.clone(), ignore_nan }
            }
        };
        let widths = match widths {
            Some(widths) if device.backend() != Backend::Cpu => {
                let words: Vec<u32> = widths.iter().map(|&w| w as u32).collect();
                Some((widths, Some(Tensor::from_slice(device, &words, &[tasks])?)))
            }
            widths => widths.map(|widths| (widths, None)),
        };
        Ok(Self { op, device: device.clone(), batch, columns, tasks, width, ids, labels, widths })
    }

    pub(super) fn count(&self) -> usize {
        self.batch * self.columns
    }

    /// Shape of one number a row.
    pub(super) fn row_shape(&self) -> Vec<usize> {
        if self.ids.is_some() { vec![self.batch] } else { vec![self.batch, self.columns] }
    }

    /// Width of a task.
    pub(super) fn width_of(&self, task: usize) -> usize {
        self.widths.as_ref().map_or(self.width, |(widths, _)| widths[task])
    }

    /// The rows, where everything is in host memory.
    pub(super) fn host(&self) -> Result<Vec<Row>> {
        let tasks = self.ids.as_ref().map(Ids::host_tasks).transpose()?;
        let labels = match &self.labels {
            Labels::Classes { labels, .. } => labels.host()?,
            Labels::Targets { .. } => Vec::new(),
        };
        let row = |at: usize| {
            let task = tasks.as_ref().map_or(Some(at % self.columns), |tasks| tasks[at]);
            let Some(width) = task.map(|task| self.width_of(task)) else {
                return Row { task: None, label: 0 };
            };
            match &self.labels {
                Labels::Classes { ignore, .. } => {
                    let is_label = labels[at] != *ignore;
                    Row {
                        task: task.filter(|_| is_label),
                        label: if is_label { labels[at] as usize } else { 0 },
                    }
                }
                Labels::Targets { targets, ignore_nan } => {
                    let missing = *ignore_nan
                        && super::cpu::row(targets, at, self.columns)[..width].iter().any(|y| y.is_nan());
                    Row { task: task.filter(|_| !missing), label: 0 }
                }
            }
        };
        Ok((0..self.count()).map(row).collect())
    }

    /// `workspace`: contiguous u32 with room for the rows.
    pub(super) fn check_workspace(&self, workspace: &TensorMut<'_>) -> Result<()> {
        let view = workspace.as_ref();
        validate::shape(self.op, "workspace", view, &[rows_workspace(self.count())])?;
        validate::tensor(self.op, "workspace", view, DType::U32, &self.device)?;
        validate::contiguous(self.op, "workspace", view)
    }
}

/// Labels that the host can see together with their tasks: classes of the task, or the ignored value. Labels of samples without a
/// task are not looked at.
fn check_host_labels(
    op: &'static str,
    labels: &TensorRef<'_>,
    shape: &[usize],
    axis: &TaskAxis<'_>,
    ignore: i64,
    width: impl Fn(usize) -> usize,
) -> Result<()> {
    let is_host =
        |tensor: &TensorRef<'_>| tensor.device().backend() == Backend::Cpu && tensor.dtype().is_integer();
    if !is_host(labels) || labels.shape() != shape {
        return Ok(());
    }
    let ids = match axis {
        TaskAxis::Mixed { tasks, .. } if !is_host(tasks) => return Ok(()),
        TaskAxis::Mixed { tasks, count } => {
            Some(Ids::of_tasks(op, "tasks", tasks, *count, shape, &Device::cpu())?)
        }
        TaskAxis::All => None,
    };
    let ids = ids.as_ref().map(Ids::host_tasks).transpose()?;
    for (at, label) in host_values(labels)?.into_iter().enumerate() {
        let task = ids.as_ref().map_or_else(|| Some(at % shape[1]), |ids| ids[at]);
        let Some(task) = task.filter(|_| label != ignore) else { continue };
        if usize::try_from(label).is_ok_and(|label| label < width(task)) {
            continue;
        }
        let reason = format!("hold {label} at row {at}, outside 0..{} of task {task}", width(task));
        return Err(Error::argument(op, "labels", reason));
    }
    Ok(())
}
