//! Looking inside, and appending to a cache.

use super::records::AppendParams;
use super::{Call, INVOCATIONS, TILE, buffer, buffers, kernels, limited};
use crate::attention::append::Append;
use crate::attention::{AttentionRow, Problem};
use crate::device::wgpu::WgpuDevice;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ids::Ids;
use crate::tensor::{Tensor, TensorRef};
use bytemuck::Zeroable;

/// Weights of chosen rows: `[rows.len(), kv_slots]`. Validation has checked that the rows exist.
pub(in crate::attention) fn weights(
    device: &WgpuDevice,
    problem: &Problem<'_>,
    lse: &TensorRef<'_>,
    rows: &[AttentionRow],
) -> Result<Tensor> {
    problem.check_element_type()?;
    let on = problem.q.device();
    let mut this = Call::new(device, problem, 0)?;
    this.params.lse = this.view(lse)?;
    let count = rows.len().saturating_mul(problem.kv_slots);
    this.limited("elements of one buffer", count, u32::MAX as usize)?;
    let out = Tensor::zeros(on, DType::F32, &[rows.len(), problem.kv_slots])?;
    if count == 0 {
        return Ok(out);
    }
    // Sizes of a call fit 32 bits, and so do places in them.
    let chosen: Vec<u32> =
        rows.iter().flat_map(|row| [row.sample as u32, row.head as u32, row.query as u32]).collect();
    let chosen = Tensor::from_slice(on, &chosen, &[rows.len(), 3])?;
    let (chosen, to) = (chosen.view(), out.view());
    let inputs = [Some(&problem.q), Some(&problem.k), Some(lse), problem.bias.as_ref()];
    let [q, k, lse, bias] = buffers(inputs)?;
    let [chosen, to] = buffers([Some(&chosen), Some(&to)])?;
    let blocks = problem.kv_slots.div_ceil(INVOCATIONS);
    let work = this.limited("tiles of one call", rows.len().saturating_mul(blocks), 1 << 31)?;
    (this.params.tiles, this.params.blocks) = (rows.len() as u32, blocks as u32);
    let plan = this.plan()?;
    this.launch(&kernels::WEIGHTS, &[q, k, lse, bias, plan.binding(), chosen, to], work)?;
    Ok(out)
}

/// Of lse's shape.
pub(in crate::attention) fn entropy(
    device: &WgpuDevice,
    problem: &Problem<'_>,
    lse: &TensorRef<'_>,
) -> Result<Tensor> {
    problem.check_element_type()?;
    let mut this = Call::new(device, problem, 0)?;
    this.params.lse = this.view(lse)?;
    let out = Tensor::zeros(problem.q.device(), DType::F32, &problem.lse_shape())?;
    if problem.has_no_rows() {
        return Ok(out);
    }
    let to = out.view();
    this.params.out = this.view(&to)?;
    let inputs = [Some(&problem.q), Some(&problem.k), Some(lse), problem.bias.as_ref(), Some(&to)];
    let [q, k, lse, bias, to] = buffers(inputs)?;
    let tiles = problem.q_len.div_ceil(TILE);
    let work = this.limited("tiles of one call", this.pairs.saturating_mul(tiles), 1 << 31)?;
    this.params.tiles = tiles as u32;
    let plan = this.plan()?;
    this.launch(&kernels::ENTROPY, &[q, k, lse, bias, plan.binding(), to], work)?;
    Ok(out)
}

/// (element type, first element, steps) of a list or table of integers; elements of eight bytes are two words.
fn integers(op: &'static str, ids: &Ids<'_>) -> Result<[u32; 4]> {
    let view = ids.view();
    let layout = view.layout();
    limited(op, "elements of one buffer", layout.end(), (u32::MAX / 2) as usize)?;
    let outer = layout.step(0) as u32;
    let inner = if layout.shape().len() > 1 { layout.step(1) as u32 } else { 0 };
    Ok([ids.kind(), layout.offset() as u32, outer, inner])
}

/// Row n of sample b becomes key `kv_len[b] + n`. The caches are borrowed exclusively by the caller.
pub(in crate::attention) fn append(device: &WgpuDevice, call: &Append<'_>) -> Result<()> {
    let op = call.op;
    let dtype = call.k.dtype();
    if !matches!(dtype.size(), 2 | 4) {
        let backend = call.k.device().backend();
        let (what, limit) = ("element type", "f32, f16, bf16".into());
        return Err(Error::Unsupported { op, backend, what, limit, got: dtype.to_string() });
    }
    let [batch, heads, fresh] = std::array::from_fn(|i| call.k.shape()[i]);
    let rows = batch.saturating_mul(heads).saturating_mul(fresh);
    limited(op, "new rows", rows, 1 << 31)?;
    limited(op, "key length", call.slots, 1 << 30)?;
    let (page_rows, table) = match call.table {
        Some(table) => (call.k_cache.shape()[2], integers(op, table)?),
        None => (0, [0; 4]),
    };
    let params = AppendParams {
        // Below the limits above, or sizes of views with as many elements.
        batch: batch as u32,
        heads: heads as u32,
        new_rows: fresh as u32,
        slots: call.slots as u32,
        page_rows: page_rows as u32,
        pages: call.k_cache.shape()[0] as u32,
        halves: (dtype.size() == 2).into(),
        length: integers(op, call.kv_len)?,
        table,
        ..AppendParams::zeroed()
    };
    let most_bytes = usize::try_from(device.max_binding_bytes()).unwrap_or(usize::MAX);
    let place = |view: &TensorRef<'_>| -> Result<[u32; 4]> {
        let layout = view.layout();
        limited(op, "elements of one buffer", layout.end(), u32::MAX as usize)?;
        limited(op, "bytes of one buffer", buffer(view)?.bytes(), most_bytes)?;
        Ok([layout.offset(), layout.step(0), layout.step(1), layout.step(2)].map(|n| n as u32))
    };
    let mut launches = Vec::with_capacity(2);
    for (cache, from) in [(call.k_cache, call.k), (call.v_cache, call.v)] {
        let dim = from.shape()[3] as u32;
        if rows > 0 && dim > 0 {
            launches.push((
                cache,
                from,
                AppendParams { dim, cache: place(cache)?, fresh: place(from)?, ..params },
            ));
        }
    }
    let (lengths, table) = (call.kv_len.view(), call.table.map(Ids::view));
    for (cache, from, params) in launches {
        let [cache, from, lengths, table] =
            buffers([Some(cache), Some(from), Some(&lengths), table.as_ref()])?;
        let bindings = [cache, from, lengths, table, Some(device.status().into())];
        let groups = rows.min(device.persistent_workgroups() as usize) as u32;
        device.launch_parts(&kernels::APPEND, &bindings, bytemuck::bytes_of(&params), [groups, 1, 1])?;
    }
    Ok(())
}
