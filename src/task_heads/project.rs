//! The output projection on active heads: a grouped product, each sample with its task's weights.

use super::cpu_project as cpu;
use crate::call::{Call, Operand};
use crate::device::{Backend, Device};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ids::Ids;
use crate::manifest::Twin;
use crate::manifest::task_heads as kernels;
use crate::tensor::{Tensor, TensorMut, TensorRef};
use crate::validate;

/// An output projection.
#[derive(Clone, Debug)]
pub struct OutProjection<'a> {
    /// `[tasks, heads · value_dim, width]` f32, the last dimension contiguous; `[1, …]` is shared by all samples.
    pub weights: TensorRef<'a>,
    /// `[batch]` i32, u32 or i64, in device or host memory: a task, or [`NO_TASK`](super::NO_TASK), whose output is 0. May be left out where
    /// `weights` has one task.
    pub tasks: Option<TensorRef<'a>>,
}

/// What [`task_heads_project_backward`] returns.
#[derive(Debug)]
pub struct OutProjectionGradients {
    /// `[batch, heads, q_len, value_dim]`, 0 where the gate is 0: the `grad_y` of [`task_heads_backward`](super::task_heads_backward).
    pub dy: Option<Tensor>,
    /// `[tasks, heads · value_dim, width]`, summed over the samples of each task.
    pub dweights: Option<Tensor>,
}

/// A validated projection.
pub(super) struct Project<'a> {
    op: &'static str,
    device: Device,
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) rows: usize,
    /// Of a head's rows.
    pub(super) depth: usize,
    pub(super) width: usize,
    pub(super) tasks: usize,
    pub(super) y: TensorRef<'a>,
    pub(super) weights: TensorRef<'a>,
    pub(super) gates: TensorRef<'a>,
    ids: Option<Ids<'a>>,
}

impl<'a> Project<'a> {
    fn new(
        op: &'static str,
        y: &TensorRef<'a>,
        gates: &TensorRef<'a>,
        projection: &OutProjection<'a>,
    ) -> Result<Self> {
        let [batch, heads, rows, depth] = validate::rank4(op, "y", y)?;
        let device = y.device();
        validate::tensor(op, "y", y, DType::F32, device)?;
        validate::last_contiguous(op, "y", y)?;
        validate::shape(op, "gates", gates, &[batch, heads])?;
        validate::tensor(op, "gates", gates, DType::F32, device)?;
        validate::contiguous(op, "gates", gates)?;
        let weights = &projection.weights;
        let &[tasks, inputs, width] = weights.shape() else {
            return Err(Error::shape(op, "weights", "[tasks, heads · value_dim, width]", weights.shape()));
        };
        validate::tensor(op, "weights", weights, DType::F32, device)?;
        validate::last_contiguous(op, "weights", weights)?;
        if inputs != heads * depth {
            return Err(Error::shape(
                op,
                "weights",
                format!("[tasks, {heads} · {depth}, width]"),
                weights.shape(),
            ));
        }
        for (what, got) in [
            ("batch · heads", batch.saturating_mul(heads)),
            ("number of tasks", tasks),
            ("width", width),
            ("rows", rows),
        ] {
            if got > i32::MAX as usize {
                let (limit, got) = (i32::MAX.to_string(), got.to_string());
                return Err(Error::Unsupported { op, backend: device.backend(), what, limit, got });
            }
        }
        let ids = match &projection.tasks {
            Some(ids) => Some(Ids::of_tasks(op, "tasks", ids, tasks, &[batch], device)?),
            None if tasks == 1 => None,
            None => {
                return Err(Error::argument(
                    op,
                    "tasks",
                    format!("must say which of {tasks} tasks' weights"),
                ));
            }
        };
        let (y, weights, gates) = (y.clone(), weights.clone(), gates.clone());
        Ok(Self {
            op,
            device: device.clone(),
            batch,
            heads,
            rows,
            depth,
            width,
            tasks,
            y,
            weights,
            gates,
            ids,
        })
    }

    fn out_shape(&self) -> [usize; 3] {
        [self.batch, self.rows, self.width]
    }

    fn check_out(&self, arg: &'static str, out: &TensorRef<'_>) -> Result<()> {
        validate::shape(self.op, arg, out, &self.out_shape())?;
        validate::tensor(self.op, arg, out, DType::F32, &self.device)?;
        validate::last_contiguous(self.op, arg, out)
    }

    /// Task of each sample, where ids are in host memory.
    pub(super) fn host_tasks(&self) -> Result<Vec<Option<usize>>> {
        self.ids.as_ref().map_or_else(|| Ok(vec![Some(0); self.batch]), Ids::host_tasks)
    }

    fn launch(
        &self,
        kernel: &'static Twin,
        work: usize,
        [left, right, result]: [&TensorRef<'_>; 3],
        y: &TensorRef<'_>,
        out: &TensorRef<'_>,
    ) -> Result<()> {
        let ids = self.ids.as_ref().map(|ids| (ids.view(), ids.kind()));
        let operands = [
            Operand::View(left),
            Operand::View(right),
            Operand::View(&self.gates),
            ids.as_ref().map_or(Operand::Absent, |(view, _)| Operand::View(view)),
            Operand::View(result),
        ];
        let step = |view: &TensorRef<'_>, i: usize| view.layout().step(i);
        let sizes = [
            step(y, 0),
            step(y, 1),
            step(y, 2),
            step(&self.weights, 0),
            step(&self.weights, 1),
            step(out, 0),
            step(out, 1),
            ids.as_ref().map_or(0, |(view, _)| step(view, 0)),
        ];
        let words = [
            self.batch as u32,
            self.heads as u32,
            self.rows as u32,
            self.depth as u32,
            self.width as u32,
            self.tasks as u32,
            ids.is_some().into(),
            ids.as_ref().map_or(0, |&(_, kind)| kind),
        ];
        Call { op: self.op, kernel, operands: &operands, sizes: &sizes, words: &words }
            .run(&self.device, work)
    }
}

/// Tiles of the smaller of the two twins' sizes; surplus blocks find nothing to do.
fn tiles(size: usize) -> usize {
    size.div_ceil(32)
}

/// The output projection `out[b,s,:] = Σ_h y[b,h,s,:]·W[t_b, h]` over the heads whose gate is not 0: `[batch, q_len, width]`.
///
/// `y [batch, heads, q_len, value_dim]` and `gates [batch, heads]` are those of [`task_heads_forward`](super::task_heads_forward); rows of y
/// whose gate is 0 are not read, nor are their weights. Any strides but a contiguous last dimension.
/// FLOPs: `2·q_len·value_dim·width` an active (sample, head).
///
/// # Errors
/// [`Error::Shape`], [`Error::DType`], [`Error::Device`] or [`Error::InvalidArgument`] naming the argument; [`Error::TaskId`] for a bad id in
/// host memory. One in device memory makes that sample NaN; the gates' launch reports it.
pub fn task_heads_project(
    y: &TensorRef<'_>,
    gates: &TensorRef<'_>,
    projection: &OutProjection<'_>,
) -> Result<Tensor> {
    let project = Project::new("task_heads_project", y, gates, projection)?;
    let mut out = Tensor::zeros(&project.device, DType::F32, &project.out_shape())?;
    forward(&project, &mut out.view_mut())?;
    Ok(out)
}

/// [`task_heads_project`] into a view of the caller's, its last dimension contiguous.
///
/// # Errors
/// As [`task_heads_project`]; [`Error::InvalidArgument`] if the output overlaps an input.
pub fn task_heads_project_into(
    y: &TensorRef<'_>,
    gates: &TensorRef<'_>,
    projection: &OutProjection<'_>,
    out: &mut TensorMut<'_>,
) -> Result<()> {
    let project = Project::new("task_heads_project", y, gates, projection)?;
    project.check_out("out", out.as_ref())?;
    let inputs = [("y", y), ("gates", gates), ("weights", &projection.weights)];
    validate::disjoint(project.op, &[("out", out.as_ref())], &inputs)?;
    forward(&project, out)
}

fn forward(project: &Project<'_>, out: &mut TensorMut<'_>) -> Result<()> {
    if project.device.backend() == Backend::Cpu {
        return cpu::forward(project, out);
    }
    let work = project.batch.saturating_mul(tiles(project.rows)).saturating_mul(tiles(project.width));
    let out = out.as_ref();
    project.launch(&kernels::PROJECT, work, [&project.y, &project.weights, out], &project.y, out)
}

/// Gradients of [`task_heads_project`] from `grad_out [batch, q_len, width]`. Rows of y whose gate is 0 are not read; their gradient is 0.
/// `dweights` sums over the samples of each task in order.
///
/// # Errors
/// As [`task_heads_project`].
pub fn task_heads_project_backward(
    y: &TensorRef<'_>,
    gates: &TensorRef<'_>,
    projection: &OutProjection<'_>,
    grad_out: &TensorRef<'_>,
    want_dy: bool,
    want_dweights: bool,
) -> Result<OutProjectionGradients> {
    let project = Project::new("task_heads_project_backward", y, gates, projection)?;
    project.check_out("grad_out", grad_out)?;
    let make = |wanted: bool, shape: &[usize]| {
        wanted.then(|| Tensor::zeros(&project.device, DType::F32, shape)).transpose()
    };
    let mut out = OutProjectionGradients {
        dy: make(want_dy, y.shape())?,
        dweights: make(want_dweights, projection.weights.shape())?,
    };
    if project.device.backend() == Backend::Cpu {
        cpu::backward(&project, grad_out, &mut out)?;
        return Ok(out);
    }
    if let Some(dy) = &mut out.dy {
        let dy = dy.view_mut();
        let pairs = project.batch * project.heads;
        let work = pairs.saturating_mul(tiles(project.rows)).saturating_mul(tiles(project.depth));
        let operands = [grad_out, &project.weights, dy.as_ref()];
        project.launch(&kernels::PROJECT_GRAD_Y, work, operands, dy.as_ref(), grad_out)?;
    }
    if let Some(dweights) = &mut out.dweights {
        let dweights = dweights.view_mut();
        let blocks = project.tasks.saturating_mul(project.heads);
        let work = blocks.saturating_mul(tiles(project.depth)).saturating_mul(tiles(project.width));
        let operands = [&project.y, grad_out, dweights.as_ref()];
        project.launch(&kernels::PROJECT_GRAD_W, work, operands, &project.y, grad_out)?;
    }
    Ok(out)
}
