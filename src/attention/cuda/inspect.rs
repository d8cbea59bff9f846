//! Weights of chosen rows, entropies, and appending to a cache. kernels/attention/{inspect,append}.cu.

use super::general::{Call, SPAN, kernels, plan, table_argument};
use super::scratch::Scratch;
use super::{LENGTH_LIMIT, Strides, address, grid, ids_argument, strides};
use crate::attention::append::Append;
use crate::attention::options::Workspace;
use crate::attention::problem::Problem;
use crate::device::Backend;
use crate::device::cuda::CudaDevice;
use crate::error::{Error, Result};
use crate::manifest::attention::general::{APPEND, APPEND_PARAMS, BACKWARD_ROWS, INSPECT_PARAMS};
use crate::tensor::{Tensor, TensorRef};
use bytemuck::{Pod, Zeroable};

/// `attention::InspectParams` in inspect.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct InspectParams {
    call: Call,
    out: Strides,
    chosen: i64,
}

/// `attention::AppendParams` in append.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct AppendParams {
    k_cache: Strides,
    v_cache: Strides,
    k: Strides,
    v: Strides,
    kv_len_step: i64,
    table_batch: i64,
    table_step: i64,
    batch: i32,
    heads: i32,
    fresh: i32,
    slots: i32,
    k_units: i32,
    v_units: i32,
    k_unit: i32,
    v_unit: i32,
    kv_len_kind: u32,
    table_kind: u32,
    page_rows: i32,
    pages: i32,
}

const _: () = assert!(size_of::<InspectParams>() == INSPECT_PARAMS);
const _: () = assert!(size_of::<AppendParams>() == APPEND_PARAMS);

/// Keys of a work item of attention_weights.
const KEYS_AN_ITEM: usize = 64;

/// Weights of rows (sample, head, query): `[rows.len(), kv_slots]`.
pub(in crate::attention) fn weights(
    device: &CudaDevice,
    problem: &Problem<'_>,
    lse: &TensorRef<'_>,
    rows: &[[usize; 3]],
) -> Result<Tensor> {
    let on = problem.q.device();
    let out = Tensor::zeros(on, problem.accumulator, &[rows.len(), problem.kv_slots])?;
    if rows.is_empty() || problem.kv_slots == 0 {
        return Ok(out);
    }
    // Validation has them within the shape, whose sizes fit 32 bits.
    let chosen: Vec<u32> = rows
        .iter()
        .flat_map(|&[sample, head, query]| [sample as u32, head as u32, query as u32, 0])
        .collect();
    let chosen = Tensor::from_slice(on, &chosen, &[rows.len(), 4])?;
    let scratch = Scratch::new(device, problem.op, &Workspace::Allocate, &[problem.batch * SPAN])?;
    let [spans] = scratch.parts();
    plan(device, problem, spans)?;
    let call = Call::new(problem, 1, &problem.q, lse)?;
    let params = InspectParams { call, out: Strides::default(), chosen: rows.len() as i64 };
    let pointers = [
        address(&problem.q),
        address(&problem.k),
        address(lse),
        spans,
        address(&chosen.view()),
        address(&out.view()),
    ];
    let items = rows.len() * problem.kv_slots.div_ceil(KEYS_AN_ITEM);
    let kernel = &kernels(problem).weights;
    device.launch(kernel, grid(device, items, false), &pointers, bytemuck::bytes_of(&params))?;
    Ok(out)
}

/// As lse.
pub(in crate::attention) fn entropy(
    device: &CudaDevice,
    problem: &Problem<'_>,
    lse: &TensorRef<'_>,
) -> Result<Tensor> {
    let out = Tensor::zeros(problem.q.device(), problem.accumulator, &problem.lse_shape())?;
    let items = problem.batch * problem.q_heads * problem.q_len.div_ceil(BACKWARD_ROWS);
    if items == 0 || problem.has_no_rows() {
        return Ok(out);
    }
    let scratch = Scratch::new(device, problem.op, &Workspace::Allocate, &[problem.batch * SPAN])?;
    let [spans] = scratch.parts();
    plan(device, problem, spans)?;
    let call = Call::new(problem, 1, &problem.q, lse)?;
    let params = InspectParams { call, out: strides(&out.view()), chosen: 0 };
    let pointers = [address(&problem.q), address(&problem.k), address(lse), spans, address(&out.view())];
    let kernel = &kernels(problem).entropy;
    device.launch(kernel, grid(device, items, false), &pointers, bytemuck::bytes_of(&params))?;
    Ok(out)
}

/// The widest unit that every row of both is a whole number of, in bytes.
fn unit(a: &TensorRef<'_>, b: &TensorRef<'_>) -> usize {
    let size = a.dtype().size();
    let fits = |view: &TensorRef<'_>, unit: usize| {
        let layout = view.layout();
        address(view).is_multiple_of(unit as u64)
            && (0..3).all(|i| (layout.step(i) * size).is_multiple_of(unit))
            && (layout.shape()[3] * size).is_multiple_of(unit)
    };
    [16, 8, 4].into_iter().find(|&unit| unit >= size && fits(a, unit) && fits(b, unit)).unwrap_or(size)
}

/// Row n of sample b becomes key `kv_len[b] + n`. The caches are borrowed exclusively by the caller.
pub(in crate::attention) fn append(device: &CudaDevice, call: &Append<'_>) -> Result<()> {
    let [batch, heads, fresh] = std::array::from_fn(|i| call.k.shape()[i]);
    if batch * heads * fresh == 0 {
        return Ok(());
    }
    let size = call.k.dtype().size();
    let (k_unit, v_unit) = (unit(call.k_cache, call.k), unit(call.v_cache, call.v));
    let in_units = |view: &TensorRef<'_>, unit: usize| {
        let step = |i| (view.layout().step(i) * size / unit) as i64;
        Strides { batch: step(0), head: step(1), row: step(2) }
    };
    let limited = |what: &'static str, got: usize| {
        i32::try_from(got).ok().filter(|_| got <= LENGTH_LIMIT).ok_or_else(|| Error::Unsupported {
            op: call.op,
            backend: Backend::Cuda,
            what,
            limit: LENGTH_LIMIT.to_string(),
            got: got.to_string(),
        })
    };
    let units = |view: &TensorRef<'_>, unit: usize| limited("row", view.shape()[3] * size / unit);
    let (kv_len, kv_len_step, kv_len_kind) = ids_argument(Some(call.kv_len));
    let (table, table_batch, table_step, table_kind) = table_argument(call.table);
    let params = AppendParams {
        k_cache: in_units(call.k_cache, k_unit),
        v_cache: in_units(call.v_cache, v_unit),
        k: in_units(call.k, k_unit),
        v: in_units(call.v, v_unit),
        kv_len_step,
        table_batch,
        table_step,
        batch: limited("batch", batch)?,
        heads: limited("heads", heads)?,
        fresh: limited("new keys", fresh)?,
        slots: limited("key length", call.slots)?,
        k_units: units(call.k, k_unit)?,
        v_units: units(call.v, v_unit)?,
        k_unit: k_unit as i32,
        v_unit: v_unit as i32,
        kv_len_kind,
        table_kind,
        page_rows: limited("page size", call.k_cache.shape()[2])?.max(1),
        pages: limited("pages", call.k_cache.shape()[0])?,
    };
    let pointers = [
        address(call.k_cache),
        address(call.v_cache),
        address(call.k),
        address(call.v),
        kv_len,
        table,
        device.status(),
    ];
    let items = batch * heads * fresh;
    device.launch(&APPEND, grid(device, items, false), &pointers, bytemuck::bytes_of(&params))
}
