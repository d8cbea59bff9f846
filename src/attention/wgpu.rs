//! Attention in WGSL: from a validated problem to launches.
//!
//! Here is the plain product in f32, to 128 columns, with causal masks, lengths and active heads; what asks for more goes to
//! [`general`]. A call is a chain on one queue: `attention_plan` (lengths, positions and lists, checked, in one buffer), then the forward
//! kernel; or `attention_backward_rows` and one kernel per gradient asked for.

mod general;
mod scratch;

use super::plan::Tiles;
use super::problem::{Offset, Storage};
use super::{AttentionGradientViews, Backward, Forward, Problem, Score};
use crate::device::Backend;
use crate::device::wgpu::{Binding, WgpuBuffer, WgpuDevice, Workspace};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ids::Ids;
use crate::manifest::WgslKernel;
use crate::manifest::attention::{
    WGSL_BACKWARD_KV, WGSL_BACKWARD_Q, WGSL_BACKWARD_ROWS, WGSL_FORWARD, WGSL_PLAN,
};
use crate::tensor::{Memory, TensorRef};
use bytemuck::{Pod, Zeroable};
pub(super) use general::{append, entropy, weights};

/// Columns the plain kernels accumulate at most.
const PLAIN_DIM: usize = 128;

/// Queries, or keys, of a tile; `LINES` in common.wgsl.
const TILE: usize = 32;
/// Invocations of every attention workgroup.
const INVOCATIONS: usize = 64;

/// `Params` in common.wgsl.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    batch: u32,
    q_heads: u32,
    kv_heads: u32,
    q_len: u32,
    kv_slots: u32,
    head_dim: u32,
    value_dim: u32,
    tiles: u32,
    scale: f32,
    want: u32,
    unused: [u32; 2],
    q: [u32; 4],
    k: [u32; 4],
    v: [u32; 4],
    o: [u32; 4],
    lse: [u32; 4],
    row_scale: [u32; 4],
    grad_o: [u32; 4],
    grad_lse: [u32; 4],
    dq: [u32; 4],
    dk: [u32; 4],
    dv: [u32; 4],
    drow_scale: [u32; 4],
}

/// Values of `Params::want`, per kernel.
mod want {
    pub(super) const FORWARD_ROW_SCALE: u32 = 1;
    pub(super) const ROWS_ROW_SCALE: u32 = 1;
    pub(super) const ROWS_GRAD_LSE: u32 = 2;
    pub(super) const Q_DQ: u32 = 1;
    pub(super) const Q_DROW_SCALE: u32 = 2;
    pub(super) const KV_DV: u32 = 0;
    pub(super) const KV_DK: u32 = 1;
}

/// `Params` in plan.wgsl.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct PlanParams {
    batch: u32,
    pairs: u32,
    kv_pairs: u32,
    q_len: u32,
    kv_slots: u32,
    causal: u32,
    has_heads: u32,
    length_kind: u32,
    length_first: u32,
    length_step: u32,
    offset_kind: u32,
    offset_first: u32,
    offset_step: u32,
    offset: i32,
    order: u32,
    kv_order: u32,
    counts: u32,
    active_flags: u32,
}

const KIND_NONE: u32 = 3;
const KIND_CONSTANT: u32 = 4;

/// A call on its device: sizes that fit the shaders' 32-bit arithmetic.
struct Call<'a> {
    device: &'a WgpuDevice,
    problem: &'a Problem<'a>,
    params: Params,
    pairs: usize,
    kv_pairs: usize,
}

/// Whether the plain kernels do all a call asks for.
fn is_plain(problem: &Problem<'_>, gradients: Option<&AttentionGradientViews<'_>>) -> bool {
    let options = [
        problem.softcap.is_some(),
        problem.window.is_some(),
        problem.mask.is_some(),
        problem.bias.is_some(),
        problem.alibi.is_some(),
        problem.sinks.is_some(),
        problem.dropout.is_some(),
        gradients.is_some_and(AttentionGradientViews::wants_options),
    ];
    problem.dtype == DType::F32
        && problem.head_dim.max(problem.value_dim) <= PLAIN_DIM
        && matches!(problem.score, Score::Dot | Score::ComplexDot)
        && matches!(problem.storage, Storage::Dense)
        && !options.contains(&true)
}

/// What a forward call would visit.
pub(super) fn tiles(problem: &Problem<'_>) -> Result<Tiles> {
    let how = match (general::is_split(problem), is_plain(problem, None)) {
        (true, _) => "caches split between workgroups",
        (_, true) => "plain kernels",
        _ => "general kernels",
    };
    let variant = format!("{} scores of {}, {how}", problem.score_name(), problem.dtype);
    problem.tiles_in_sight(variant, [TILE, TILE])
}

/// The parts of a split pass. The plan is not in the caller's memory: a dispatch reads it and writes these, which WebGPU does not
/// allow of one buffer.
pub(super) fn forward_workspace(_: &WgpuDevice, problem: &Problem<'_>) -> Result<usize> {
    Ok(scratch::bytes(&general::forward_parts(problem)))
}

/// What the plain kernels need of each row, or the sums of the general ones, which are no smaller.
pub(super) fn backward_workspace(_: &WgpuDevice, problem: &Problem<'_>) -> Result<usize> {
    Ok(scratch::bytes(&[general::sum_bytes(problem)]))
}

pub(super) fn forward(device: &WgpuDevice, problem: &Problem<'_>, call: &mut Forward<'_>) -> Result<()> {
    if !is_plain(problem, None) || general::is_split(problem) {
        return general::forward(device, problem, call);
    }
    let mut this = Call::new(device, problem)?;
    let (o, lse) = (call.o.as_ref(), call.lse.as_ref());
    this.params.o = this.view(o)?;
    this.params.lse = this.view(lse)?;
    let row_scale = problem.heads.as_ref().map(|heads| &heads.row_scale);
    if let Some(row_scale) = row_scale {
        this.params.row_scale = this.view(row_scale)?;
        this.params.want = want::FORWARD_ROW_SCALE;
    }
    this.params.tiles = problem.q_len.div_ceil(TILE) as u32;
    let work = this.work(this.pairs, problem.q_len.div_ceil(TILE))?;
    let inputs = [Some(&problem.q), Some(&problem.k), Some(&problem.v), row_scale];
    let [q, k, v, row_scale] = buffers(inputs)?;
    let [o, lse] = buffers([Some(o), Some(lse)])?;

    let plan = this.plan()?;
    let kernel = &WGSL_FORWARD[variant(problem.value_dim)];
    this.launch(kernel, &[q, k, v, row_scale, plan.binding(), o, lse], work)
}

pub(super) fn backward(device: &WgpuDevice, problem: &Problem<'_>, call: &mut Backward<'_>) -> Result<()> {
    if !is_plain(problem, Some(&call.gradients)) {
        return general::backward(device, problem, call);
    }
    let mut this = Call::new(device, problem)?;
    let (saved, gradients) = (&call.saved, &call.gradients);
    let row_scale = problem.heads.as_ref().map(|heads| &heads.row_scale);
    let outputs = [&gradients.dq, &gradients.dk, &gradients.dv, &gradients.drow_scale];
    let outputs = outputs.map(|view| view.as_ref().map(|view| view.as_ref()));
    let inputs = [Some(&saved.o), Some(&saved.lse), Some(&saved.grad_o), saved.grad_lse.as_ref(), row_scale];
    this.params.o = this.view(&saved.o)?;
    this.params.lse = this.view(&saved.lse)?;
    this.params.grad_o = this.view(&saved.grad_o)?;
    this.params.grad_lse = this.optional_view(saved.grad_lse.as_ref())?;
    this.params.row_scale = this.optional_view(row_scale)?;
    this.params.dq = this.optional_view(outputs[0])?;
    this.params.dk = this.optional_view(outputs[1])?;
    this.params.dv = this.optional_view(outputs[2])?;
    this.params.drow_scale = this.optional_view(outputs[3])?;

    let [q, k, v] = buffers([Some(&problem.q), Some(&problem.k), Some(&problem.v)])?;
    let [o, lse, grad_o, grad_lse, row_scale] = buffers(inputs)?;
    let [dq, dk, dv, drow_scale] = buffers(outputs)?;
    let (q_tiles, kv_tiles) = (problem.q_len.div_ceil(TILE), problem.kv_slots.div_ceil(TILE));
    let q_work = this.work(this.pairs, q_tiles)?;
    let kv_work = this.work(this.kv_pairs, kv_tiles)?;
    let row_work = this.work(this.pairs, problem.q_len)?;
    // Three words a row, addressed in 32 bits.
    this.limited("query rows", row_work, 1 << 30)?;
    let [rows] = scratch::parts(device, problem.op, &call.workspace, [general::sum_bytes(problem)])?;
    let plan = this.plan()?;

    this.params.want = 0;
    this.params.want |= if row_scale.is_some() { want::ROWS_ROW_SCALE } else { 0 };
    this.params.want |= if grad_lse.is_some() { want::ROWS_GRAD_LSE } else { 0 };
    let bindings = [o, grad_o, lse, grad_lse, row_scale, plan.binding(), rows.binding()];
    this.launch(&WGSL_BACKWARD_ROWS, &bindings, row_work.div_ceil(INVOCATIONS))?;

    if dq.is_some() || drow_scale.is_some() {
        this.params.tiles = q_tiles as u32;
        this.params.want = if dq.is_some() { want::Q_DQ } else { 0 };
        this.params.want |= if drow_scale.is_some() { want::Q_DROW_SCALE } else { 0 };
        let kernel = &WGSL_BACKWARD_Q[variant(problem.head_dim)];
        this.launch(kernel, &[q, k, v, grad_o, rows.binding(), plan.binding(), dq, drow_scale], q_work)?;
    }
    this.params.tiles = kv_tiles as u32;
    for (out, want, width) in [(dk, want::KV_DK, problem.head_dim), (dv, want::KV_DV, problem.value_dim)] {
        if out.is_some() {
            this.params.want = want;
            let kernel = &WGSL_BACKWARD_KV[variant(width)];
            this.launch(kernel, &[q, k, v, grad_o, rows.binding(), plan.binding(), out], kv_work)?;
        }
    }
    Ok(())
}

/// Index of the kernel variant whose accumulators hold `width` columns.
fn variant(width: usize) -> usize {
    match width {
        0..=32 => 0,
        33..=64 => 1,
        _ => 2,
    }
}

/// `got` if it is at most `most`.
fn limited(op: &'static str, what: &'static str, got: usize, most: usize) -> Result<usize> {
    if got <= most {
        return Ok(got);
    }
    let (limit, got) = (most.to_string(), got.to_string());
    Err(Error::Unsupported { op, backend: Backend::Wgpu, what, limit, got })
}

/// The buffers under some views.
fn buffers<'a, const N: usize>(views: [Option<&TensorRef<'a>>; N]) -> Result<[Option<Binding<'a>>; N]> {
    let mut found = [None; N];
    for (slot, view) in found.iter_mut().zip(views) {
        if let Some(view) = view {
            *slot = Some(buffer(view)?.into());
        }
    }
    Ok(found)
}

fn buffer<'a>(view: &TensorRef<'a>) -> Result<&'a WgpuBuffer> {
    match view.memory() {
        Memory::Wgpu(buffer) => Ok(buffer),
        _ => Err(Error::Device {
            op: "attention",
            arg: "memory",
            expected: "a wgpu buffer".into(),
            got: format!("{:?}", view.device()),
        }),
    }
}

impl<'a> Call<'a> {
    fn new(device: &'a WgpuDevice, problem: &'a Problem<'a>) -> Result<Self> {
        let mut params: Params = Params::zeroed();
        // Problem::new has limited each of these to 2³⁰.
        params.batch = problem.batch as u32;
        params.q_heads = problem.q_heads as u32;
        params.kv_heads = problem.kv_heads as u32;
        params.q_len = problem.q_len as u32;
        params.kv_slots = problem.kv_slots as u32;
        params.head_dim = problem.head_dim as u32;
        params.value_dim = problem.value_dim as u32;
        params.scale = problem.scale as f32;
        let (pairs, kv_pairs) = (problem.batch * problem.q_heads, problem.batch * problem.kv_heads);
        let mut this = Self { device, problem, params, pairs, kv_pairs };
        this.limited("batch × heads", pairs, 1 << 28)?;
        this.params.q = this.view(&problem.q)?;
        this.params.k = this.view(&problem.k)?;
        this.params.v = this.view(&problem.v)?;
        Ok(this)
    }

    fn limited(&self, what: &'static str, got: usize, most: usize) -> Result<usize> {
        limited(self.problem.op, what, got, most)
    }

    /// Work items of a launch: `each` for every pair. Half of u32, so that striding past the last does not wrap.
    fn work(&self, pairs: usize, each: usize) -> Result<usize> {
        self.limited("tiles or rows of one call", pairs.saturating_mul(each), 1 << 31)
    }

    /// (offset, batch stride, head stride, row stride) of a `[b,h,s,d]` or `[b,h,s]` view, which the device can address.
    fn view(&self, tensor: &TensorRef<'_>) -> Result<[u32; 4]> {
        let layout = tensor.layout();
        if layout.is_empty() {
            return Ok([0; 4]);
        }
        self.limited("elements of one buffer", layout.end(), u32::MAX as usize)?;
        let bytes = usize::try_from(self.device.max_binding_bytes()).unwrap_or(usize::MAX);
        self.limited("bytes of one buffer", buffer(tensor)?.bytes(), bytes)?;
        Ok([layout.offset(), layout.step(0), layout.step(1), layout.step(2)].map(|n| n as u32))
    }

    fn optional_view(&self, tensor: Option<&TensorRef<'_>>) -> Result<[u32; 4]> {
        tensor.map_or(Ok([0; 4]), |tensor| self.view(tensor))
    }

    fn launch(
        &self,
        kernel: &'static WgslKernel,
        bindings: &[Option<Binding<'_>>],
        work: usize,
    ) -> Result<()> {
        let workgroups = work.min(self.device.persistent_workgroups() as usize) as u32;
        self.device.launch_parts(kernel, bindings, bytemuck::bytes_of(&self.params), [workgroups, 1, 1])
    }

    /// Queues `attention_plan` and returns the plan.
    fn plan(&self) -> Result<Workspace<'a>> {
        let problem = self.problem;
        let lengths = problem.kv_len.as_ref().map(Ids::view);
        let offsets = match &problem.offset {
            Offset::PerSample(ids) => Some(ids.view()),
            _ => None,
        };
        let heads = problem.heads.as_ref();
        let words = 2 + 2 * problem.batch + 2 * self.pairs + self.kv_pairs;
        let plan = self.device.workspace(4 * words)?;

        let mut params = PlanParams {
            batch: self.params.batch,
            pairs: self.pairs as u32,
            kv_pairs: self.kv_pairs as u32,
            q_len: self.params.q_len,
            kv_slots: self.params.kv_slots,
            causal: problem.causal.into(),
            has_heads: heads.is_some().into(),
            length_kind: KIND_NONE,
            offset_kind: KIND_NONE,
            ..PlanParams::zeroed()
        };
        if let (Some(ids), Some(view)) = (&problem.kv_len, &lengths) {
            params.length_kind = ids.kind();
            [params.length_first, params.length_step] = self.list(view)?;
        }
        match (&problem.offset, &offsets) {
            (Offset::At(at), _) => {
                params.offset_kind = KIND_CONSTANT;
                params.offset = *at;
            }
            (Offset::PerSample(ids), Some(view)) => {
                params.offset_kind = ids.kind();
                [params.offset_first, params.offset_step] = self.list(view)?;
            }
            _ => {}
        }
        if let Some(heads) = heads {
            params.order = self.list(&heads.order)?[0];
            params.kv_order = self.list(&heads.kv_order)?[0];
            params.counts = self.list(&heads.counts)?[0];
            // Contiguous [batch, q_heads]: one list.
            params.active_flags = self.list(&heads.active)?[0];
        }
        let lists = [
            lengths.as_ref(),
            offsets.as_ref(),
            heads.map(|heads| &heads.counts),
            heads.map(|heads| &heads.order),
            heads.map(|heads| &heads.kv_order),
            heads.map(|heads| &heads.active),
        ];
        let [lengths, offsets, counts, order, kv_order, active] = buffers(lists)?;
        let status = Some(self.device.status().into());
        let bindings = [lengths, offsets, counts, order, kv_order, active, plan.binding(), status];
        let invocations = problem.batch.max(self.pairs).max(problem.batch * problem.kv_heads).max(1);
        let most = self.device.persistent_workgroups() as usize;
        let workgroups = invocations.div_ceil(INVOCATIONS).min(most) as u32;
        self.device.launch_parts(&WGSL_PLAN, &bindings, bytemuck::bytes_of(&params), [workgroups, 1, 1])?;
        Ok(plan)
    }

    /// (first element, step) of a list of ids; elements of eight bytes are two words.
    fn list(&self, tensor: &TensorRef<'_>) -> Result<[u32; 2]> {
        let layout = tensor.layout();
        self.limited("elements of one buffer", layout.end(), (u32::MAX / 2) as usize)?;
        Ok([layout.offset() as u32, layout.step(0) as u32])
    }
}

#[cfg(test)]
mod general_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unfused;
#[cfg(test)]
mod workspace_tests;
