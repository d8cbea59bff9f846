//! The steps on CUDA: argument packing for `kernels/task_heads/*.cu`.

use super::problem::{Problem, Sizes};
use super::steps::{Delta, Fill, ListViews, Select, Steps};
use crate::device::cuda::CudaDevice;
use crate::error::{Error, Result};
use crate::manifest::CudaKernel;
use crate::manifest::task_heads as kernels;
use crate::tensor::{Memory, TensorMut, TensorRef};
use bytemuck::{Pod, Zeroable};

/// Launches on one device.
pub(super) struct CudaSteps<'a>(pub(super) &'a CudaDevice);

/// Blocks a multiprocessor gets in a persistent grid.
const BLOCKS_PER_MULTIPROCESSOR: u64 = 8;
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GateParams {
    row_stride: i64,
    head_stride: i64,
    id_stride: i64,
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
    pairs: u32,
    key_pairs: u32,
    group: u32,
    select: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GateBackwardParams {
    pairs: u32,
    heads: u32,
    derivative: u32,
    shared_heads: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SumByTaskParams {
    id_stride: i64,
    batch: u32,
    heads: u32,
    tasks: u32,
    id_kind: u32,
}

impl CudaSteps<'_> {
    /// A persistent grid: a block for every `work`, up to what fills the device. No work is no launch.
    fn launch<P: Pod>(
        &self,
        kernel: &'static CudaKernel,
        work: u64,
        pointers: &[u64],
        params: P,
    ) -> Result<()> {
        let most = u64::from(self.0.multiprocessors()) * BLOCKS_PER_MULTIPROCESSOR;
        let blocks = work.min(most.max(1)) as u32;
        if blocks == 0 {
            return Ok(());
        }
        self.0.launch(kernel, [blocks, 1, 1], pointers, bytemuck::bytes_of(&params))
    }
}

impl Steps for CudaSteps<'_> {
    fn gate(
        &self,
        problem: &Problem<'_>,
        scores: Option<&TensorRef<'_>>,
        gates: &mut TensorMut<'_>,
        probabilities: &mut TensorMut<'_>,
    ) -> Result<()> {
        let sizes = &problem.sizes;
        let values = scores.unwrap_or(&problem.source.values);
        let (ids, id_stride, id_kind) = match &problem.source.ids {
            Some(ids) => {
                let view = ids.view();
                (address(&view)?, view.layout().step(0) as i64, ids.kind())
            }
            None => (0, 0, 0),
        };
        let (activation, k, renormalise) = problem.activation.words();
        let params = GateParams {
            row_stride: values.layout().step(0) as i64,
            head_stride: values.layout().step(1) as i64,
            id_stride,
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
        let outputs = [address(gates.as_ref())?, address(probabilities.as_ref())?];
        let pointers = [address(values)?, ids, outputs[0], outputs[1], self.0.status()];
        let work = threads_to_blocks(sizes.batch * sizes.heads, &kernels::GATE_CUDA);
        self.launch(&kernels::GATE_CUDA, work, &pointers, params)
    }

    fn compact(
        &self,
        sizes: &Sizes,
        select: Select,
        gates: &TensorRef<'_>,
        list: &mut ListViews<'_>,
    ) -> Result<()> {
        let params = CompactParams {
            pairs: (sizes.batch * sizes.heads) as u32,
            key_pairs: (sizes.batch * sizes.kv_heads) as u32,
            group: (sizes.heads / sizes.kv_heads.max(1)) as u32,
            select: select as u32,
        };
        let pointers = [
            address(gates)?,
            address(list.order.as_ref())?,
            address(list.kv_order.as_ref())?,
            address(list.counts.as_ref())?,
            address(list.active.as_ref())?,
        ];
        self.0.launch(&kernels::COMPACT_CUDA, [2, 1, 1], &pointers, bytemuck::bytes_of(&params))
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
        let params = GateBackwardParams {
            pairs: pairs as u32,
            heads: problem.sizes.heads as u32,
            derivative: problem.derivative() as u32,
            shared_heads: problem.activation.shared_heads() as u32,
        };
        let pointers = [address(delta)?, address(gates)?, address(probabilities)?, address(dz.as_ref())?];
        let work = threads_to_blocks(pairs, &kernels::GATE_BACKWARD_CUDA);
        self.launch(&kernels::GATE_BACKWARD_CUDA, work, &pointers, params)
    }

    fn sum_by_task(&self, problem: &Problem<'_>, dz: &TensorRef<'_>, out: &mut TensorMut<'_>) -> Result<()> {
        let Some(ids) = &problem.source.ids else { return Ok(()) };
        let view = ids.view();
        let params = SumByTaskParams {
            id_stride: view.layout().step(0) as i64,
            batch: problem.sizes.batch as u32,
            heads: problem.sizes.heads as u32,
            tasks: problem.source.shape()[0] as u32,
            id_kind: ids.kind(),
        };
        let pointers = [address(dz)?, address(&view)?, address(out.as_ref())?];
        let work = threads_to_blocks(out.as_ref().layout().len(), &kernels::SUM_BY_TASK_CUDA);
        self.launch(&kernels::SUM_BY_TASK_CUDA, work, &pointers, params)
    }
}

fn threads_to_blocks(threads: usize, kernel: &CudaKernel) -> u64 {
    (threads as u64).div_ceil(kernel.block.into())
}

/// Address of a view's first element, 0 if it has none.
fn address(view: &TensorRef<'_>) -> Result<u64> {
    if view.layout().is_empty() {
        return Ok(0);
    }
    match view.memory() {
        Memory::Cuda { address, .. } => Ok(address + (view.layout().offset() * view.dtype().size()) as u64),
        // Validation has compared the devices.
        _ => Err(Error::Device {
            op: "task_heads",
            arg: "memory",
            expected: "cuda".into(),
            got: format!("{view:?}"),
        }),
    }
}
