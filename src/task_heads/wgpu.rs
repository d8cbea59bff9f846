//! The steps on wgpu: argument packing for `kernels/task_heads/*.wgsl`.

use super::problem::{Problem, Sizes};
use super::steps::{Delta, Fill, ListViews, Select, Steps};
use crate::device::Backend;
use crate::device::wgpu::{WgpuBuffer, WgpuDevice};
use crate::error::{Error, Result};
use crate::manifest::WgslKernel;
use crate::manifest::task_heads as kernels;
use crate::tensor::{Memory, TensorMut, TensorRef};
use bytemuck::{Pod, Zeroable};

/// Launches on one device.
pub(super) struct WgpuSteps<'a>(pub(super) &'a WgpuDevice);

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GateParams {
    values_offset: u32,
    row_stride: u32,
    head_stride: u32,
    id_offset: u32,
    id_stride: u32,
    gates_offset: u32,
    probabilities_offset: u32,
    batch: u32,
    heads: u32,
    tasks: u32,
    rows: u32,
    id_kind: u32,
    activation: u32,
    k: u32,
    renormalise: u32,
    softmax_scale: f32,
    no_task_gate: f32,
    shared_heads: u32,
    limit: f32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct CompactParams {
    gates_offset: u32,
    order_offset: u32,
    kv_order_offset: u32,
    counts_offset: u32,
    active_offset: u32,
    pairs: u32,
    key_pairs: u32,
    group: u32,
    select_zero: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GateBackwardParams {
    delta_offset: u32,
    gates_offset: u32,
    probabilities_offset: u32,
    dz_offset: u32,
    pairs: u32,
    heads: u32,
    derivative: u32,
    shared_heads: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SumByTaskParams {
    dz_offset: u32,
    id_offset: u32,
    id_stride: u32,
    out_offset: u32,
    batch: u32,
    heads: u32,
    tasks: u32,
    id_kind: u32,
}

/// A view as a shader sees it: the whole buffer, and the index of the view's first element.
#[derive(Clone, Copy)]
struct Bound<'a> {
    buffer: Option<&'a WgpuBuffer>,
    offset: u32,
}

impl WgpuSteps<'_> {
    /// A persistent grid: a workgroup for every `work`, up to what fills the device. No work is no launch.
    fn launch<P: Pod, const N: usize>(
        &self,
        kernel: &'static WgslKernel,
        work: usize,
        bound: [Bound<'_>; N],
        params: P,
    ) -> Result<()> {
        let workgroups = work.min(self.0.persistent_workgroups() as usize) as u32;
        let buffers = bound.map(|bound| bound.buffer);
        self.0.launch(kernel, &buffers, bytemuck::bytes_of(&params), [workgroups, 1, 1])
    }
}

impl Steps for WgpuSteps<'_> {
    fn gate(
        &self,
        problem: &Problem<'_>,
        scores: Option<&TensorRef<'_>>,
        gates: &mut TensorMut<'_>,
        probabilities: &mut TensorMut<'_>,
    ) -> Result<()> {
        let sizes = &problem.sizes;
        let unbound = Bound { buffer: None, offset: 0 };
        let values = scores.unwrap_or(&problem.source.values);
        let ids_view = problem.source.ids.as_ref().map(|ids| (ids.view(), ids.kind()));
        let (ids, id_stride, id_kind) = match &ids_view {
            Some((view, kind)) => (bind(view)?, step(view, 0)?, *kind),
            None => (unbound, 0, 0),
        };
        let (activation, k, renormalise) = problem.activation.words();
        let inputs = bind(values)?;
        let outputs = [bind(gates.as_ref())?, bind(probabilities.as_ref())?];
        let params = GateParams {
            values_offset: inputs.offset,
            row_stride: step(values, 0)?,
            head_stride: step(values, 1)?,
            id_offset: ids.offset,
            id_stride,
            gates_offset: outputs[0].offset,
            probabilities_offset: outputs[1].offset,
            batch: sizes.batch as u32,
            heads: sizes.heads as u32,
            tasks: problem.source.tasks() as u32,
            rows: problem.rows_of_gate(),
            id_kind,
            activation,
            k,
            renormalise: renormalise.into(),
            softmax_scale: problem.softmax_scale(),
            no_task_gate: problem.no_task_gate(),
            shared_heads: problem.activation.shared_heads() as u32,
            limit: problem.activation.limit(),
        };
        let status = Bound { buffer: Some(self.0.status()), offset: 0 };
        let bound = [inputs, ids, outputs[0], outputs[1], status];
        let work = invocations_to_workgroups(sizes.batch * sizes.heads, &kernels::GATE_WGSL);
        self.launch(&kernels::GATE_WGSL, work, bound, params)
    }

    fn compact(
        &self,
        sizes: &Sizes,
        select: Select,
        gates: &TensorRef<'_>,
        list: &mut ListViews<'_>,
    ) -> Result<()> {
        let bound = [
            bind(gates)?,
            bind(list.order.as_ref())?,
            bind(list.kv_order.as_ref())?,
            bind(list.counts.as_ref())?,
            bind(list.active.as_ref())?,
        ];
        let params = CompactParams {
            gates_offset: bound[0].offset,
            order_offset: bound[1].offset,
            kv_order_offset: bound[2].offset,
            counts_offset: bound[3].offset,
            active_offset: bound[4].offset,
            pairs: (sizes.batch * sizes.heads) as u32,
            key_pairs: (sizes.batch * sizes.kv_heads) as u32,
            group: (sizes.heads / sizes.kv_heads.max(1)) as u32,
            select_zero: select as u32,
        };
        self.launch(&kernels::COMPACT_WGSL, 2, bound, params)
    }

    fn fill(&self, sizes: &Sizes, fill: &Fill<'_>, target: &mut TensorMut<'_>) -> Result<()> {
        super::gpu::fill(sizes, fill, target)
    }

    fn delta(&self, sizes: &Sizes, delta: &Delta<'_>, out: &mut TensorMut<'_>) -> Result<()> {
        super::gpu::delta(sizes, delta, out)
    }

    fn gate_backward(
        &self,
        problem: &Problem<'_>,
        delta: &TensorRef<'_>,
        gates: &TensorRef<'_>,
        probabilities: &TensorRef<'_>,
        dz: &mut TensorMut<'_>,
    ) -> Result<()> {
        let pairs = problem.sizes.batch * problem.sizes.heads;
        let bound = [bind(delta)?, bind(gates)?, bind(probabilities)?, bind(dz.as_ref())?];
        let params = GateBackwardParams {
            delta_offset: bound[0].offset,
            gates_offset: bound[1].offset,
            probabilities_offset: bound[2].offset,
            dz_offset: bound[3].offset,
            pairs: pairs as u32,
            heads: problem.sizes.heads as u32,
            derivative: problem.derivative() as u32,
            shared_heads: problem.activation.shared_heads() as u32,
        };
        let work = invocations_to_workgroups(pairs, &kernels::GATE_BACKWARD_WGSL);
        self.launch(&kernels::GATE_BACKWARD_WGSL, work, bound, params)
    }

    fn sum_by_task(&self, problem: &Problem<'_>, dz: &TensorRef<'_>, out: &mut TensorMut<'_>) -> Result<()> {
        let Some(ids) = &problem.source.ids else { return Ok(()) };
        let view = ids.view();
        let bound = [bind(dz)?, bind(&view)?, bind(out.as_ref())?];
        let params = SumByTaskParams {
            dz_offset: bound[0].offset,
            id_offset: bound[1].offset,
            id_stride: step(&view, 0)?,
            out_offset: bound[2].offset,
            batch: problem.sizes.batch as u32,
            heads: problem.sizes.heads as u32,
            tasks: problem.source.shape()[0] as u32,
            id_kind: ids.kind(),
        };
        let work = invocations_to_workgroups(out.as_ref().layout().len(), &kernels::SUM_BY_TASK_WGSL);
        self.launch(&kernels::SUM_BY_TASK_WGSL, work, bound, params)
    }
}

fn invocations_to_workgroups(invocations: usize, kernel: &WgslKernel) -> usize {
    invocations.div_ceil(kernel.workgroup[0] as usize)
}

fn step(view: &TensorRef<'_>, dimension: usize) -> Result<u32> {
    index(view.layout().step(dimension))
}

/// An empty view binds nothing.
fn bind<'a>(view: &TensorRef<'a>) -> Result<Bound<'a>> {
    if view.layout().is_empty() {
        return Ok(Bound { buffer: None, offset: 0 });
    }
    match view.memory() {
        Memory::Wgpu(buffer) => {
            // Shaders count words: the view's last word must have a 32-bit index.
            index(view.layout().end().saturating_mul(view.dtype().size().div_ceil(4)))?;
            Ok(Bound { buffer: Some(buffer), offset: index(view.layout().offset())? })
        }
        // Validation has compared the devices.
        _ => Err(Error::Device {
            op: "task_heads",
            arg: "memory",
            expected: "wgpu".into(),
            got: format!("{view:?}"),
        }),
    }
}

fn index(value: usize) -> Result<u32> {
    u32::try_from(value).map_err(|_| Error::Unsupported {
        op: "task_heads",
        backend: Backend::Wgpu,
        what: "elements of a tensor",
        limit: u32::MAX.to_string(),
        got: value.to_string(),
    })
}
