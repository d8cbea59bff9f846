//! CUDA: which family runs, and what a launch of the fast f32 kernels gets (kernels/attention/{forward,backward}.cu). Forward, dot
//! products of f16 and bf16 take tensor cores: mma.rs. All other calls take the general kernels: general.rs.

mod general;
pub(super) mod inspect;
mod mma;
mod mma_backward;
mod scratch;
mod sm90;
mod sums;

use super::plan::Tiles;
use super::{Backward, Forward, Problem};
use crate::attention::options::Score;
use crate::attention::problem::{Offset, Storage};
use crate::device::Backend;
use crate::device::cuda::CudaDevice;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ids::Ids;
use crate::manifest::attention::cuda::{
    BACKWARD_PARAMS, DELTA, FORWARD_PARAMS, FORWARD_ROWS, VARIANTS, Variant,
};
use crate::manifest::attention::general::DECODE_ROWS;
use crate::tensor::{Memory, TensorMut, TensorRef};
use bytemuck::{Pod, Zeroable};

/// Longest sequence: positions, even of the rows that pad a tile, then fit 32 bits.
const LENGTH_LIMIT: usize = (1 << 30) - 64;

/// Blocks launched for each multiprocessor where the number of work items is known to the device alone.
const BLOCKS_PER_MULTIPROCESSOR: u32 = 16;

/// Threads in a warp: `DELTA` gives each row one.
const WARP: u32 = 32;

/// `attention::Strides` in tile.cuh.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
struct Strides {
    batch: i64,
    head: i64,
    row: i64,
}

/// `attention::Problem` in tile.cuh.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ProblemParams {
    q: Strides,
    k: Strides,
    v: Strides,
    row_scale: Strides,
    kv_len_stride: i64,
    offset_stride: i64,
    batch: i32,
    q_heads: i32,
    kv_heads: i32,
    q_len: i32,
    kv_slots: i32,
    head_dim: i32,
    value_dim: i32,
    causal: i32,
    offset_mode: i32,
    offset: i32,
    kv_len_kind: u32,
    offset_kind: u32,
    scale: f32,
    vectors: u32,
}

/// `attention::ForwardParams` in forward.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ForwardParams {
    problem: ProblemParams,
    o: Strides,
    lse: Strides,
}

/// `attention::BackwardParams` in backward.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct BackwardParams {
    problem: ProblemParams,
    o: Strides,
    grad_o: Strides,
    lse: Strides,
    grad_lse: Strides,
    dq: Strides,
    dk: Strides,
    dv: Strides,
    drow_scale: Strides,
}

const _: () = assert!(size_of::<ForwardParams>() == FORWARD_PARAMS);
const _: () = assert!(size_of::<BackwardParams>() == BACKWARD_PARAMS);

/// Tensors whose rows can be moved 16 bytes at a time: `attention::Vectors` in tile.cuh.
mod vectors {
    pub(super) const Q: u32 = 1;
    pub(super) const K: u32 = 2;
    pub(super) const V: u32 = 4;
    pub(super) const O: u32 = 8;
    pub(super) const GRAD_O: u32 = 16;
    pub(super) const DQ: u32 = 32;
    pub(super) const DK: u32 = 64;
    pub(super) const DV: u32 = 128;
}

/// Device address of a view's first element.
fn address(view: &TensorRef<'_>) -> u64 {
    match view.memory() {
        Memory::Cuda { address, .. } => address + (view.layout().offset() * view.dtype().size()) as u64,
        _ => 0, // validation has put every tensor on this device
    }
}

fn output_address(view: Option<&TensorMut<'_>>) -> u64 {
    view.map_or(0, |view| address(view.as_ref()))
}

fn optional_address(view: Option<&TensorRef<'_>>) -> u64 {
    view.map_or(0, address)
}

/// Strides of `[batch, head, row]` or `[batch, head, row, dim]`.
fn strides(view: &TensorRef<'_>) -> Strides {
    let step = |i| view.layout().step(i) as i64; // layouts end below isize::MAX
    Strides { batch: step(0), head: step(1), row: step(2) }
}

fn output_strides(view: Option<&TensorMut<'_>>) -> Strides {
    view.map_or_else(Strides::default, |view| strides(view.as_ref()))
}

/// `bit` if every row of `view` starts at a multiple of 16 bytes and is a whole number of them.
fn vector_bit(bit: u32, view: &TensorRef<'_>) -> u32 {
    let layout = view.layout();
    let aligned = address(view).is_multiple_of(16)
        && (0..3).all(|i| layout.step(i).is_multiple_of(4))
        && layout.shape()[3].is_multiple_of(4);
    if aligned { bit } else { 0 }
}

fn output_vector_bit(bit: u32, view: Option<&TensorMut<'_>>) -> u32 {
    view.map_or(0, |view| vector_bit(bit, view.as_ref()))
}

/// Everything of a problem that kernels share: parameters, and the addresses of what is optional.
struct Arguments {
    params: ProblemParams,
    kv_len: u64,
    offset: u64,
    order: u64,
    kv_order: u64,
    counts: u64,
    active: u64,
    row_scale: u64,
}

impl Arguments {
    /// # Errors
    /// [`Error::Unsupported`] for a length or a number of heads whose indices exceed 32 bits.
    fn new(problem: &Problem<'_>, vectors: u32) -> Result<Self> {
        let within = |what: &'static str, size: usize, limit: usize| {
            i32::try_from(size).ok().filter(|_| size <= limit).ok_or_else(|| Error::Unsupported {
                op: problem.op,
                backend: Backend::Cuda,
                what,
                limit: limit.to_string(),
                got: size.to_string(),
            })
        };
        let any = i32::MAX as usize;
        let (offset_mode, offset) = match &problem.offset {
            Offset::BottomRight => (0, 0),
            Offset::At(offset) => (1, *offset),
            Offset::PerSample(_) => (2, 0),
        };
        let offsets = match &problem.offset {
            Offset::PerSample(ids) => Some(ids),
            _ => None,
        };
        let (kv_len, kv_len_stride, kv_len_kind) = ids_argument(problem.kv_len.as_ref());
        let (offset_address, offset_stride, offset_kind) = ids_argument(offsets);
        let heads = problem.heads.as_ref();
        let params = ProblemParams {
            q: strides(&problem.q),
            k: strides(&problem.k),
            v: strides(&problem.v),
            row_scale: heads.map_or_else(Strides::default, |heads| strides(&heads.row_scale)),
            kv_len_stride,
            offset_stride,
            batch: within("batch", problem.batch, any)?,
            q_heads: within("heads", problem.q_heads, any)?,
            kv_heads: within("heads", problem.kv_heads, any)?,
            q_len: within("query length", problem.q_len, LENGTH_LIMIT)?,
            kv_slots: within("key length", problem.kv_slots, LENGTH_LIMIT)?,
            head_dim: within("head dimension", problem.head_dim, any)?,
            value_dim: within("value dimension", problem.value_dim, any)?,
            causal: problem.causal.into(),
            offset_mode,
            offset,
            kv_len_kind,
            offset_kind,
            scale: problem.scale as f32,
            vectors: vectors
                | vector_bit(vectors::Q, &problem.q)
                | vector_bit(vectors::K, &problem.k)
                | vector_bit(vectors::V, &problem.v),
        };
        Ok(Self {
            params,
            kv_len,
            offset: offset_address,
            order: optional_address(heads.map(|heads| &heads.order)),
            kv_order: optional_address(heads.map(|heads| &heads.kv_order)),
            counts: optional_address(heads.map(|heads| &heads.counts)),
            active: optional_address(heads.map(|heads| &heads.active)),
            row_scale: optional_address(heads.map(|heads| &heads.row_scale)),
        })
    }
}

/// Address, stride and integer type of per-sample integers.
fn ids_argument(ids: Option<&Ids<'_>>) -> (u64, i64, u32) {
    ids.map_or((0, 0, 0), |ids| (address(&ids.view()), ids.view().layout().step(0) as i64, ids.kind()))
}

/// The smallest variant that takes the dimensions; validation admits none beyond the largest.
fn variant(problem: &Problem<'_>) -> &'static Variant {
    let dim = problem.head_dim.max(problem.value_dim);
    VARIANTS.iter().find(|variant| dim <= variant.dim).unwrap_or(&VARIANTS[VARIANTS.len() - 1])
}

/// A grid for `items` work items that blocks walk with the grid's step.
///
/// With a list the device alone knows how many items are active: blocks for all of them would mostly find nothing.
fn grid(device: &CudaDevice, items: usize, listed: bool) -> [u32; 3] {
    let all = u32::try_from(items).unwrap_or(u32::MAX).min(i32::MAX as u32);
    let resident = device.multiprocessors().saturating_mul(BLOCKS_PER_MULTIPROCESSOR);
    [if listed { all.min(resident) } else { all }, 1, 1]
}

/// Whether the fast kernels take the call: f32, dimensions up to 128, plain products, masks by length and position.
fn is_fast(problem: &Problem<'_>) -> bool {
    problem.dtype == DType::F32
        && problem.head_dim.max(problem.value_dim) <= VARIANTS[VARIANTS.len() - 1].dim
        && matches!(problem.score, Score::Dot | Score::ComplexDot)
        && problem.softcap.is_none()
        && problem.window.is_none()
        && problem.mask.is_none()
        && problem.bias.is_none()
        && problem.alibi.is_none()
        && problem.sinks.is_none()
        && problem.dropout.as_ref().is_none_or(|dropout| dropout.p == 0.0)
        && matches!(problem.storage, Storage::Dense)
}

/// Whether the fast forward kernel takes it: few queries over many keys are faster split between blocks.
fn is_fast_forward(problem: &Problem<'_>) -> bool {
    is_fast(problem) && general::decode(problem).is_none()
}

/// What a forward call would visit.
pub(super) fn tiles(device: &CudaDevice, problem: &Problem<'_>) -> Result<Tiles> {
    if let Some(kernel) = sm90::forward_kernel(device, problem) {
        return problem.tiles_in_sight(sm90::name(problem, kernel), sm90::TILE);
    }
    let score = problem.score_name();
    if is_fast_forward(problem) {
        let variant = variant(problem);
        let name = format!("{score} scores of f32, fast kernels, dimensions to {}", variant.dim);
        return problem.tiles_in_sight(name, [FORWARD_ROWS, variant.forward_columns]);
    }
    if let Some(kernels) = mma::forward_kernels(problem) {
        return problem.tiles_in_sight(mma::name(problem, kernels), kernels.tile);
    }
    let (kernels, split) = (general::kernels(problem), general::decode(problem).is_some());
    let how = if split { "caches split between blocks" } else { "general kernels" };
    let rows = if split { DECODE_ROWS } else { kernels.forward_rows };
    problem.tiles_in_sight(format!("{score} scores of {}, {how}", problem.dtype), [rows, kernels.columns])
}

pub(super) fn forward_workspace(_: &CudaDevice, problem: &Problem<'_>) -> Result<usize> {
    Ok(if is_fast_forward(problem) { 0 } else { scratch::bytes(&general::forward_parts(problem)) })
}

/// δ of every row.
fn fast_backward_parts(problem: &Problem<'_>) -> [usize; 1] {
    [problem.batch * problem.q_heads * problem.q_len * size_of::<f32>()]
}

pub(super) fn backward_workspace(_: &CudaDevice, problem: &Problem<'_>) -> Result<usize> {
    // Which kernels run depends on the gradients too: enough for either.
    let general = scratch::bytes(&general::backward_parts(problem));
    Ok(scratch::bytes(&fast_backward_parts(problem)).max(general))
}

pub(super) fn forward(device: &CudaDevice, problem: &Problem<'_>, call: &mut Forward<'_>) -> Result<()> {
    if let Some(kernel) = sm90::forward_kernel(device, problem) {
        return sm90::forward(device, problem, call, kernel);
    }
    if let Some(kernels) = mma::forward_kernels(problem) {
        return mma::forward(device, problem, call, kernels);
    }
    if !is_fast_forward(problem) {
        return general::forward(device, problem, call);
    }
    let (o, lse) = (call.o.as_ref(), call.lse.as_ref());
    let arguments = Arguments::new(problem, vector_bit(vectors::O, o))?;
    let params = ForwardParams { problem: arguments.params, o: strides(o), lse: strides(lse) };
    let pointers = [
        address(&problem.q),
        address(&problem.k),
        address(&problem.v),
        address(o),
        address(lse),
        arguments.kv_len,
        arguments.offset,
        arguments.order,
        arguments.counts,
        arguments.row_scale,
        device.status(),
    ];
    let items = problem.batch * problem.q_heads * problem.q_len.div_ceil(FORWARD_ROWS);
    let grid = grid(device, items, problem.heads.is_some());
    device.launch(&variant(problem).forward, grid, &pointers, bytemuck::bytes_of(&params))
}

pub(super) fn backward(device: &CudaDevice, problem: &Problem<'_>, call: &mut Backward<'_>) -> Result<()> {
    if !is_fast(problem) || call.gradients.wants_options() {
        return general::backward(device, problem, call);
    }
    let (saved, gradients) = (&call.saved, &call.gradients);
    let (dq, dk, dv) = (gradients.dq.as_ref(), gradients.dk.as_ref(), gradients.dv.as_ref());
    let drow_scale = gradients.drow_scale.as_ref();
    let arguments = Arguments::new(
        problem,
        vector_bit(vectors::GRAD_O, &saved.grad_o)
            | output_vector_bit(vectors::DQ, dq)
            | output_vector_bit(vectors::DK, dk)
            | output_vector_bit(vectors::DV, dv),
    )?;
    let params = BackwardParams {
        problem: arguments.params,
        o: strides(&saved.o),
        grad_o: strides(&saved.grad_o),
        lse: strides(&saved.lse),
        grad_lse: saved.grad_lse.as_ref().map_or_else(Strides::default, strides),
        dq: output_strides(dq),
        dk: output_strides(dk),
        dv: output_strides(dv),
        drow_scale: output_strides(drow_scale),
    };
    let params = bytemuck::bytes_of(&params);
    let listed = problem.heads.is_some();
    let variant = variant(problem);
    let rows = problem.batch * problem.q_heads * problem.q_len;
    let keys = problem.batch * problem.kv_heads * problem.kv_slots;

    let needs_delta = rows > 0 && (dq.is_some() || dk.is_some());
    let parts = if needs_delta { fast_backward_parts(problem) } else { [0] };
    let scratch = scratch::Scratch::new(device, problem.op, &call.workspace, &parts)?;
    let [delta_address] = scratch.parts();
    if needs_delta {
        let pointers = [
            address(&saved.o),
            address(&saved.grad_o),
            optional_address(saved.grad_lse.as_ref()),
            arguments.order,
            arguments.counts,
            delta_address,
        ];
        let blocks = rows.div_ceil((DELTA.block / WARP) as usize);
        device.launch(&DELTA, grid(device, blocks, listed), &pointers, params)?;
    }
    let shared = [
        address(&problem.q),
        address(&problem.k),
        address(&problem.v),
        address(&saved.grad_o),
        address(&saved.lse),
        delta_address,
        arguments.row_scale,
        arguments.kv_len,
        arguments.offset,
    ];
    if rows > 0 && (dq.is_some() || drow_scale.is_some()) {
        let own = [
            arguments.order,
            arguments.counts,
            output_address(dq),
            output_address(drow_scale),
            device.status(),
        ];
        let items = problem.batch * problem.q_heads * problem.q_len.div_ceil(variant.backward_rows);
        device.launch(&variant.dq, grid(device, items, listed), &[&shared[..], &own].concat(), params)?;
    }
    if keys > 0 && (dk.is_some() || dv.is_some()) {
        let own = [
            arguments.kv_order,
            arguments.counts,
            arguments.active,
            output_address(dk),
            output_address(dv),
            device.status(),
        ];
        let items = problem.batch * problem.kv_heads * problem.kv_slots.div_ceil(variant.backward_rows);
        device.launch(&variant.dkv, grid(device, items, listed), &[&shared[..], &own].concat(), params)?;
    }
    Ok(())
}

#[cfg(all(test, feature = "emulator"))]
mod tests;
