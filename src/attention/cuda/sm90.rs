//! The kernels for compute capability 9.0: which calls they take, and what their launches get. kernels/attention/forward_sm90.cu.

use super::general::{self, Call};
use super::scratch::Scratch;
use super::{address, grid};
use crate::attention::options::Score;
use crate::attention::problem::{Forward, Problem, Storage};
use crate::device::cuda::CudaDevice;
use crate::device::cuda::tensor_map::{TENSOR_MAP, Tiled};
use crate::dtype::DType;
use crate::error::Result;
use crate::manifest::CudaKernel;
pub(super) use crate::manifest::attention::sm90::TILE;
use crate::manifest::attention::sm90::{FORWARD_SM90_PARAMS, VARIANTS};
use crate::tensor::TensorRef;
use bytemuck::{Pod, Zeroable};

/// `attention::ForwardSm90Params` in forward_sm90.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ForwardParams {
    maps: [[u8; TENSOR_MAP]; 3],
    call: Call,
    sample_step: i32,
    unused: [i32; 13],
}

const _: () = assert!(size_of::<ForwardParams>() == FORWARD_SM90_PARAMS);

/// Bytes of an element.
const ELEMENT: u64 = 2;

/// How tiles of `rows` rows of a tensor are loaded, if they can be: rows, heads and samples at multiples of 16 bytes, none repeated.
fn tiled(view: &TensorRef<'_>, rows: usize) -> Option<Tiled> {
    let layout = view.layout();
    let size = |i: usize| layout.shape()[i] as u64;
    if !address(view).is_multiple_of(16) || layout.shape().contains(&0) {
        return None;
    }
    // Dimensions from the outermost in: batch, head, row, column.
    let mut strides = [0; 3];
    let mut extent = size(3) * ELEMENT;
    for (stride, i) in strides.iter_mut().zip([2, 1, 0]) {
        // A dimension of size 1 has no step of its own: as if it were the next one out.
        let step = layout.step(i) as u64 * ELEMENT;
        *stride = if size(i) == 1 { extent.next_multiple_of(16) } else { step };
        if *stride == 0 || !stride.is_multiple_of(16) || *stride >= 1 << 40 {
            return None;
        }
        extent = *stride * size(i);
    }
    Some(Tiled { sizes: [size(3), size(2), size(1), size(0)], strides, rows: rows as u32 })
}

/// The kernel for a forward call on this device, if one takes it: 16-bit tensors that tile loads reach, dot products with a positive
/// scale, keys hidden by length and position alone, not few queries over many keys.
pub(super) fn forward_kernel(device: &CudaDevice, problem: &Problem<'_>) -> Option<&'static CudaKernel> {
    let takes = device.has_asynchronous_units()
        && matches!(problem.score, Score::Dot | Score::ComplexDot)
        && matches!(problem.dtype, DType::F16 | DType::BF16)
        // As the kernel rounds it: what is too small for f32 is no positive number there.
        && (problem.scale * std::f64::consts::LOG2_E) as f32 > 0.0
        && problem.softcap.is_none()
        && problem.mask.is_none()
        && problem.bias.is_none()
        && problem.alibi.is_none()
        && problem.sinks.is_none()
        && problem.dropout.as_ref().is_none_or(|dropout| dropout.p == 0.0)
        && !matches!(problem.storage, Storage::Paged { .. })
        && general::decode(problem).is_none()
        && [&problem.q, &problem.k, &problem.v].into_iter().all(|view| tiled(view, 1).is_some());
    let dim = problem.head_dim.max(problem.value_dim);
    let variant = VARIANTS.iter().find(|variant| dim <= variant.dim).filter(|_| takes)?;
    Some(if problem.dtype == DType::BF16 { &variant.bf16 } else { &variant.f16 })
}

/// What a plan calls it.
pub(super) fn name(problem: &Problem<'_>, kernel: &CudaKernel) -> String {
    let (threads, shared) = (kernel.block, kernel.shared_bytes / 1024);
    format!(
        "{} scores of {}, warpgroups of sm_90, {} ({threads} threads and {shared} KiB a block)",
        problem.score_name(),
        problem.dtype,
        kernel.entry
    )
}

pub(super) fn forward(
    device: &CudaDevice,
    problem: &Problem<'_>,
    call: &mut Forward<'_>,
    kernel: &'static CudaKernel,
) -> Result<()> {
    if problem.batch * problem.q_len == 0 {
        return Ok(()); // packed rows of no sample
    }
    let (o, lse) = (call.o.as_ref(), call.lse.as_ref());
    let map = |view: &TensorRef<'_>, rows: usize| match tiled(view, rows) {
        Some(tiled) => device.tensor_map(address(view), &tiled),
        None => Ok([0; TENSOR_MAP]), // `forward_kernel` has seen to it
    };
    let params = ForwardParams {
        maps: [map(&problem.q, TILE[0])?, map(&problem.k, TILE[1])?, map(&problem.v, TILE[1])?],
        call: Call::new(problem, 1, o, lse)?,
        sample_step: (!matches!(problem.storage, Storage::Packed { .. })).into(),
        unused: [0; 13],
    };
    let scratch = Scratch::new(device, problem.op, &call.workspace, &general::forward_parts(problem))?;
    let [spans, _] = scratch.parts();
    general::plan(device, problem, spans)?;
    let pointers =
        [address(&problem.q), address(&problem.k), address(&problem.v), address(o), address(lse), spans];
    let items = problem.batch * problem.q_heads * problem.q_len.div_ceil(TILE[0]);
    let [blocks, ..] = grid(device, items, problem.heads.is_some());
    // One block fits a multiprocessor: each walks its items, so that loads run ahead of the end of the item before.
    let grid = [blocks.min(device.multiprocessors()), 1, 1];
    device.launch(kernel, grid, &pointers, bytemuck::bytes_of(&params))
}
