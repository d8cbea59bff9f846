//! Every score, mask, layout and element type: from a validated problem to the launches of the general kernels.
//!
//! Everything small (lengths, slopes, sinks, weights, page tables, masks as bits, row scales, what backward needs of each row)
//! is packed into one buffer, the plan, by kernels of its own, because a shader may bind eight buffers.

mod inspect;
mod places;
mod records;
mod sums;

use super::scratch;
use super::{INVOCATIONS, KIND_CONSTANT, KIND_NONE, TILE, buffer, buffers, limited};
use crate::attention::problem::{Offset, Storage};
use crate::attention::{Backward, Forward, Problem, Score, Seed, Window};
use crate::device::wgpu::{Binding, WgpuDevice, Workspace};
use crate::dtype::DType;
use crate::error::Result;
use crate::ids::Ids;
use crate::manifest::WgslKernel;
use crate::manifest::attention::general_wgsl as kernels;
use crate::tensor::TensorRef;
use bytemuck::Zeroable;
pub(in crate::attention) use inspect::{append, entropy, weights};
#[cfg(test)]
pub(super) use places::plan_bytes;
use places::{MaskShape, Places, forward_row_words, lines, partials, parts};
pub(super) use places::{forward_parts, is_split, sum_bytes};
use records::{MaskParams, PackParams, Params, PlanParams, WORDS, ZEROS, flag, want};

/// Columns of an output that one workgroup computes: of the additive score's gradients, and of every other.
const ADDITIVE_COLUMNS: usize = 32;
const COLUMNS: usize = 128;
/// Words of the plan for each sample, and in front of them.
const SAMPLE_WORDS: usize = 8;
const COUNTS: usize = 2;
/// Words of the plan for each query row in a backward pass, and of the sums.
const ROW_WORDS: usize = 4;
const SUMS: usize = 3;
/// A cache longer than two chunks of keys is split when there are few queries, or else few workgroups would read it.
const CHUNK: usize = 512;
const DECODE_QUERIES: usize = 16;
/// Words of each part of a row: peak, sum, whether it saw a key.
const PART_WORDS: usize = 3;
/// A place that is not there.
const NOWHERE: u32 = u32::MAX;
/// Sides of a window are cut to this: positions and keys are below 2³⁰.
const FAR: i64 = (1 << 30) - 2;

/// A call on its device.
struct Call<'a> {
    device: &'a WgpuDevice,
    problem: &'a Problem<'a>,
    params: Params,
    places: Places,
    pairs: usize,
    kv_pairs: usize,
    /// Query rows in lists over all rows: `[batch, heads, q_len]`, or `[heads, rows]` when packed.
    lines: usize,
}

pub(super) fn forward(device: &WgpuDevice, problem: &Problem<'_>, call: &mut Forward<'_>) -> Result<()> {
    let mut this = Call::new(device, problem, forward_row_words(problem))?;
    let (o, lse) = (call.o.as_ref(), call.lse.as_ref());
    this.params.o = this.view(o)?;
    this.params.lse = this.view(lse)?;
    let work = this.work(this.pairs, problem.q_len, problem.value_dim, COLUMNS)?;
    let [q, k, v, bias] =
        buffers([Some(&problem.q), Some(&problem.k), Some(&problem.v), problem.bias.as_ref()])?;
    let [o, lse] = buffers([Some(o), Some(lse)])?;
    let (splits, rows) = parts(problem);
    if is_split(problem) {
        this.limited("tiles of one call", work.saturating_mul(splits), 1 << 31)?;
        this.limited("words of parts", rows.saturating_mul(problem.value_dim), 1 << 30)?;
    }
    let [memory, stats] = scratch::parts(device, problem.op, &call.workspace, forward_parts(problem))?;
    let plan = this.plan()?;
    if let Some(heads) = &problem.heads {
        let [b, h, rows] = problem.lse_shape();
        this.pack(&plan, &heads.row_scale, [b, h, rows], WORDS, this.places.rows)?;
        this.params.flags |= flag::ROW_SCALE;
    }
    if !is_split(problem) {
        return this.launch(&kernels::FORWARD, &[q, k, v, bias, plan.binding(), o, lse], work);
    }
    (this.params.chunk, this.params.splits) = (CHUNK as u32, splits as u32);
    let out_kind = std::mem::take(&mut this.params.out_kind);
    let bindings = [q, k, v, bias, plan.binding(), memory.binding(), stats.binding()];
    this.launch(&kernels::FORWARD, &bindings, work * splits)?;
    this.params.out_kind = out_kind;
    let bindings = [memory.binding(), stats.binding(), plan.binding(), o, lse];
    this.launch(&kernels::COMBINE, &bindings, this.pairs * problem.q_len)
}

pub(super) fn backward(device: &WgpuDevice, problem: &Problem<'_>, call: &mut Backward<'_>) -> Result<()> {
    let mut this = Call::new(device, problem, ROW_WORDS)?;
    let (saved, gradients) = (&call.saved, &call.gradients);
    let row_scale = problem.heads.as_ref().map(|heads| &heads.row_scale);
    this.params.o = this.view(&saved.o)?;
    this.params.lse = this.view(&saved.lse)?;
    this.params.grad_o = this.view(&saved.grad_o)?;
    if let Some(grad_lse) = &saved.grad_lse {
        this.params.grad_lse = this.view(grad_lse)?;
        this.params.flags |= flag::GRAD_LSE;
    }
    if let Some(row_scale) = row_scale {
        this.params.row_scale = this.view(row_scale)?;
        this.params.flags |= flag::ROW_SCALE;
    }
    let inputs = [Some(&problem.q), Some(&problem.k), Some(&problem.v), problem.bias.as_ref()];
    let [q, k, v, bias] = buffers(inputs)?;
    let [o, lse, grad_o] = buffers([Some(&saved.o), Some(&saved.lse), Some(&saved.grad_o)])?;
    let [grad_lse, row_scale] = buffers([saved.grad_lse.as_ref(), row_scale])?;
    let additive = matches!(problem.score, Score::Additive { .. });
    let summed =
        [&gradients.dalibi, &gradients.dscale, &gradients.drow_scale].iter().any(|view| view.is_some());
    let dq = gradients.dq.as_ref().map(|view| view.as_ref());
    let of_q = dq.is_some() || summed || gradients.dw.is_some();
    let sizes = [if of_q { sum_bytes(problem) } else { 0 }];
    let [sums] = scratch::parts(device, problem.op, &call.workspace, sizes)?;
    let plan = this.plan()?;
    this.clear(plan.binding(), this.places.rows, ROW_WORDS * this.lines)?;
    let row_work = this.limited("query rows", this.pairs.saturating_mul(problem.q_len), 1 << 31)?;
    let bindings = [o, grad_o, lse, grad_lse, row_scale, plan.binding()];
    this.launch(&kernels::ROWS, &bindings, row_work.div_ceil(INVOCATIONS))?;

    let sum_words = SUMS * this.lines + partials(problem);
    if of_q {
        this.params.want = if dq.is_some() { want::DQ } else { 0 };
        this.params.want |= if summed { want::SUMS } else { 0 };
        this.params.want |= if gradients.dw.is_some() { want::DW } else { 0 };
        this.params.at_partials = (SUMS * this.lines) as u32;
        // Without an output in columns one block makes the sums.
        let columns = if dq.is_some() || gradients.dw.is_some() { problem.head_dim } else { 1 };
        let width = if additive { ADDITIVE_COLUMNS } else { COLUMNS };
        let work = this.work(this.pairs, problem.q_len, columns, width)?;
        if let Some(dq) = dq {
            this.params.out = this.view(dq)?;
        }
        if summed || gradients.dw.is_some() {
            this.clear(sums.binding(), 0, sum_words)?;
        }
        let [dq] = buffers([dq])?;
        let bindings = [q, k, v, bias, plan.binding(), grad_o, dq, sums.binding()];
        this.launch(&kernels::BACKWARD_Q, &bindings, work)?;
    }
    let by_keys = [(&gradients.dk, want::DK, problem.head_dim), (&gradients.dv, want::DV, problem.value_dim)];
    for (out, want, columns) in by_keys {
        let Some(out) = out.as_ref().map(|view| view.as_ref()) else { continue };
        this.params.want = want;
        let width = if additive && want == want::DK { ADDITIVE_COLUMNS } else { COLUMNS };
        let work = this.work(this.kv_pairs, problem.kv_slots, columns, width)?;
        this.params.out = this.view(out)?;
        let [out] = buffers([Some(out)])?;
        this.launch(&kernels::BACKWARD_KV, &[q, k, v, bias, plan.binding(), grad_o, out], work)?;
    }
    if let Some(dbias) = gradients.dbias.as_ref().map(|view| view.as_ref()) {
        this.bias_gradient(dbias, [q, k, v, bias, plan.binding(), grad_o])?;
    }
    if let Some(drow_scale) = gradients.drow_scale.as_ref().map(|view| view.as_ref()) {
        this.params.out = this.view(drow_scale)?;
        let [out] = buffers([Some(drow_scale)])?;
        let bindings = [sums.binding(), plan.binding(), out];
        this.launch(&kernels::SCATTER, &bindings, row_work.div_ceil(INVOCATIONS))?;
    }
    this.sums(call, &plan, &sums)
}

impl<'a> Call<'a> {
    fn new(device: &'a WgpuDevice, problem: &'a Problem<'a>, row_words: usize) -> Result<Self> {
        let (pairs, kv_pairs) = (problem.batch * problem.q_heads, problem.batch * problem.kv_heads);
        let places = Places::of(problem, row_words);
        let params = Params::zeroed();
        let lines = lines(problem);
        let mut this = Self { device, problem, params, places, pairs, kv_pairs, lines };
        this.limited("batch × heads", pairs, 1 << 28)?;
        this.limited("words of the plan", places.words, 1 << 30)?;
        this.limited("words of sums", SUMS * lines + partials(problem), 1 << 30)?;
        let [q, k, v] = [this.view(&problem.q)?, this.view(&problem.k)?, this.view(&problem.v)?];
        this.params = Params {
            // Problem::new has limited each of these to 2³⁰.
            batch: problem.batch as u32,
            q_heads: problem.q_heads as u32,
            kv_heads: problem.kv_heads as u32,
            q_len: problem.q_len as u32,
            kv_slots: problem.kv_slots as u32,
            head_dim: problem.head_dim as u32,
            value_dim: problem.value_dim as u32,
            scale: problem.scale as f32,
            score: match problem.score {
                Score::Dot | Score::ComplexDot => 0,
                Score::Cosine => 1,
                Score::Fidelity => 2,
                Score::Gaussian { .. } => 3,
                Score::Additive { .. } => 4,
            },
            kind: kind(problem.dtype),
            out_kind: kind(problem.dtype),
            splits: 1,
            keep: 1.0,
            softcap: 1.0,
            four: 4,
            row_stride: problem.lse_shape()[2] as u32,
            at_order: places.order as u32,
            at_kv_order: places.kv_order as u32,
            at_active: places.active as u32,
            at_rows: places.rows as u32,
            at_alibi: places.alibi as u32,
            at_sinks: places.sinks as u32,
            at_w: places.w as u32,
            at_table: places.table as u32,
            at_mask: places.mask as u32,
            at_any: places.any as u32,
            at_seed: NOWHERE,
            q,
            k,
            v,
            ..Params::zeroed()
        };
        this.numbers();
        this.tables()?;
        Ok(this)
    }

    /// Options that are plain numbers.
    fn numbers(&mut self) {
        let (problem, params) = (self.problem, &mut self.params);
        let Window { left, mut right } =
            problem.window.unwrap_or(Window { left: Window::UNLIMITED, right: Window::UNLIMITED });
        if problem.causal {
            right = 0;
        }
        if left < FAR {
            (params.left, params.flags) = (left as i32, params.flags | flag::LEFT);
        }
        if right < FAR {
            (params.right, params.flags) = (right as i32, params.flags | flag::RIGHT);
        }
        // A cap beyond f32 caps nothing.
        if let Some(softcap) = problem.softcap.map(|cap| cap as f32).filter(|cap| cap.is_finite()) {
            (params.softcap, params.flags) = (softcap.max(f32::MIN_POSITIVE), params.flags | flag::SOFTCAP);
        }
        if let Some(dropout) = problem.dropout.as_ref().filter(|dropout| dropout.p > 0.0) {
            params.flags |= flag::DROPOUT;
            params.threshold = (dropout.p * 4_294_967_296.0) as u32;
            params.keep = (1.0 / (1.0 - dropout.p)) as f32;
            match &dropout.seed {
                Seed::Host { seed, offset } => {
                    params.seed = [*seed as u32, (seed >> 32) as u32, *offset as u32, (offset >> 32) as u32];
                }
                Seed::Device(_) => params.at_seed = self.places.seed as u32,
            }
        }
    }

    /// Options that are tensors.
    fn tables(&mut self) -> Result<()> {
        let problem = self.problem;
        if let Some(bias) = &problem.bias {
            self.params.bias = self.view(bias)?;
            self.params.bias_column = bias.layout().step(3) as u32;
            self.params.bias_kind = kind(bias.dtype());
            self.params.flags |= flag::BIAS;
        }
        if let Some(mask) = &problem.mask {
            let mask = MaskShape::of(mask);
            self.params.mask = mask.strides(mask.shape[2]);
            self.params.any = mask.strides(mask.lines);
            self.params.flags |= flag::MASK;
        }
        if let Storage::Paged { page_size, .. } = &problem.storage {
            self.params.page_size = *page_size as u32;
            self.params.pages = (problem.kv_slots / page_size) as u32;
            self.params.flags |= flag::PAGES;
        }
        if let Score::Additive { w } = &problem.score {
            self.params.w_stride = if w.shape().len() == 2 { self.params.head_dim } else { 0 };
        }
        self.params.flags |= if problem.alibi.is_some() { flag::ALIBI } else { 0 };
        self.params.flags |= if problem.sinks.is_some() { flag::SINKS } else { 0 };
        Ok(())
    }

    fn limited(&self, what: &'static str, got: usize, most: usize) -> Result<usize> {
        limited(self.problem.op, what, got, most)
    }

    /// Sets tiles and blocks of a launch over `pairs`, and returns its work items. Half of u32, so that striding does not wrap.
    fn work(&mut self, pairs: usize, lines: usize, columns: usize, width: usize) -> Result<usize> {
        let (tiles, blocks) = (lines.div_ceil(TILE), columns.div_ceil(width));
        let items = pairs.saturating_mul(tiles).saturating_mul(blocks);
        (self.params.tiles, self.params.blocks, self.params.width) =
            (tiles as u32, blocks as u32, width as u32);
        self.limited("tiles of one call", items, 1 << 31)
    }

    /// (offset, batch stride, head stride, row stride) of a view; a packed one has a single sample, and batch stride 0.
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

    fn workgroups(&self, work: usize) -> u32 {
        work.min(self.device.persistent_workgroups() as usize) as u32
    }

    fn launch(
        &self,
        kernel: &'static WgslKernel,
        bindings: &[Option<Binding<'_>>],
        work: usize,
    ) -> Result<()> {
        let params = bytemuck::bytes_of(&self.params);
        self.device.launch_parts(kernel, bindings, params, [self.workgroups(work), 1, 1])
    }

    /// Copies a tensor of up to three dimensions, seen as `shape`, to place `to` of the plan.
    fn pack(
        &self,
        plan: &Workspace<'_>,
        tensor: &TensorRef<'_>,
        shape: [usize; 3],
        kind: u32,
        to: usize,
    ) -> Result<()> {
        let layout = tensor.layout();
        self.limited("elements of one buffer", layout.end(), (u32::MAX / 2) as usize)?;
        let rank = tensor.shape().len();
        // Dimensions of the tensor are the last of the three.
        let step = |i: usize| (i + rank).checked_sub(3).map_or(0, |i| layout.step(i));
        let source = [layout.offset(), step(0), step(1), step(2)].map(|n| n as u32);
        let [source_buffer] = buffers([Some(tensor)])?;
        self.pack_words(plan.binding(), source_buffer, shape, kind, source, to)
    }

    fn pack_words(
        &self,
        memory: Option<Binding<'_>>,
        source_buffer: Option<Binding<'_>>,
        shape: [usize; 3],
        kind: u32,
        source: [u32; 4],
        to: usize,
    ) -> Result<()> {
        let count = self.limited("elements of one list", shape.iter().product(), 1 << 30)?;
        let shape = shape.map(|n| n as u32);
        let params = PackParams { shape, kind, source, to: to as u32, unused: [0; 3] };
        let groups = self.workgroups(count.div_ceil(INVOCATIONS));
        let bindings = [source_buffer, memory];
        self.device.launch_parts(&kernels::PACK, &bindings, bytemuck::bytes_of(&params), [groups, 1, 1])
    }

    fn clear(&self, memory: Option<Binding<'_>>, to: usize, words: usize) -> Result<()> {
        self.pack_words(memory, None, [1, 1, words], ZEROS, [0; 4], to)
    }

    fn pack_mask(&self, plan: &Workspace<'_>, mask: &TensorRef<'_>) -> Result<()> {
        let layout = mask.layout();
        let packed = MaskShape::of(mask);
        self.limited("elements of one buffer", layout.end(), u32::MAX as usize)?;
        let tiles = packed.tiles();
        let params = MaskParams {
            shape: packed.shape.map(|n| n as u32),
            strides: std::array::from_fn(|i| layout.step(i) as u32),
            offset: layout.offset() as u32,
            words: packed.words as u32,
            lines: packed.lines as u32,
            at_mask: self.places.mask as u32,
            at_any: self.places.any as u32,
            tiles: tiles as u32,
            unused: [0; 2],
        };
        let [mask] = buffers([Some(mask)])?;
        let groups = self.workgroups(tiles.div_ceil(2));
        let bindings = [mask, plan.binding()];
        self.device.launch_parts(&kernels::PACK_MASK, &bindings, bytemuck::bytes_of(&params), [groups, 1, 1])
    }

    /// Queues what fills the plan.
    fn plan(&self) -> Result<Workspace<'a>> {
        let (problem, places) = (self.problem, &self.places);
        let plan = self.device.workspace(4 * places.words)?;
        let heads = problem.q_heads;
        for (list, to) in [(&problem.alibi, places.alibi), (&problem.sinks, places.sinks)] {
            if let Some(list) = list {
                self.pack(&plan, list, [1, 1, heads], WORDS, to)?;
            }
        }
        if let Score::Additive { w } = &problem.score {
            let rows = if w.shape().len() == 2 { heads } else { 1 };
            self.pack(&plan, w, [1, rows, problem.head_dim], WORDS, places.w)?;
        }
        if let Some(Seed::Device(seed)) = problem.dropout.as_ref().map(|dropout| &dropout.seed) {
            let first = 2 * self.limited("elements of one buffer", seed.layout().offset(), 1 << 30)?;
            let [source] = buffers([Some(seed)])?;
            self.pack_words(plan.binding(), source, [1, 1, 4], WORDS, [first as u32, 0, 0, 1], places.seed)?;
        }
        if let Some(mask) = &problem.mask {
            self.pack_mask(&plan, mask)?;
        }
        let mut params = PlanParams {
            batch: self.params.batch,
            pairs: self.pairs as u32,
            kv_pairs: self.kv_pairs as u32,
            q_heads: self.params.q_heads,
            q_len: self.params.q_len,
            kv_slots: self.params.kv_slots,
            length_kind: KIND_NONE,
            offset_kind: KIND_NONE,
            at_order: self.params.at_order,
            at_kv_order: self.params.at_kv_order,
            at_active: self.params.at_active,
            at_cu: NOWHERE,
            at_table: NOWHERE,
            ..PlanParams::zeroed()
        };
        match &problem.storage {
            Storage::Dense => {}
            Storage::Packed { cu_q, cu_k, q_rows, kv_rows } => {
                let count = problem.batch + 1;
                for (ids, to) in [(cu_q, places.cu), (cu_k, places.cu + count)] {
                    self.pack(&plan, &ids.view(), [1, 1, count], ids.kind(), to)?;
                }
                (params.q_rows, params.kv_rows) = (*q_rows as u32, *kv_rows as u32);
                params.at_cu = places.cu as u32;
            }
            Storage::Paged { table, page_size, pages } => {
                let per_sample = problem.kv_slots / page_size;
                let shape = [1, problem.batch, per_sample];
                self.pack(&plan, &table.view(), shape, table.kind(), places.table)?;
                (params.pages, params.page_size) = (*pages as u32, *page_size as u32);
                params.pages_a_sample = per_sample as u32;
                params.at_table = places.table as u32;
            }
        }
        self.plan_samples(&plan, params)?;
        Ok(plan)
    }

    fn plan_samples(&self, plan: &Workspace<'_>, mut params: PlanParams) -> Result<()> {
        let problem = self.problem;
        let lengths = problem.kv_len.as_ref().map(Ids::view);
        if let (Some(ids), Some(view)) = (&problem.kv_len, &lengths) {
            params.length_kind = ids.kind();
            [params.length_first, params.length_step] = self.list(view)?;
        }
        let offsets = match &problem.offset {
            Offset::PerSample(ids) => Some((ids.view(), ids.kind())),
            Offset::At(at) => {
                (params.offset_kind, params.offset) = (KIND_CONSTANT, *at);
                None
            }
            Offset::BottomRight => None,
        };
        if let Some((view, kind)) = &offsets {
            params.offset_kind = *kind;
            [params.offset_first, params.offset_step] = self.list(view)?;
        }
        let heads = problem.heads.as_ref();
        if let Some(heads) = heads {
            params.has_heads = 1;
            params.order = self.list(&heads.order)?[0];
            params.kv_order = self.list(&heads.kv_order)?[0];
            params.counts = self.list(&heads.counts)?[0];
            // Contiguous [batch, q_heads]: one list.
            params.active_flags = self.list(&heads.active)?[0];
        }
        let [lengths, offsets, counts, order, kv_order, active] = buffers([
            lengths.as_ref(),
            offsets.as_ref().map(|(view, _)| view),
            heads.map(|heads| &heads.counts),
            heads.map(|heads| &heads.order),
            heads.map(|heads| &heads.kv_order),
            heads.map(|heads| &heads.active),
        ])?;
        let status = Some(self.device.status().into());
        let bindings = [lengths, offsets, counts, order, kv_order, active, plan.binding(), status];
        let entries = problem.batch.max(self.pairs).max(self.kv_pairs).max(1);
        let groups = self.workgroups(entries.div_ceil(INVOCATIONS));
        self.device.launch_parts(&kernels::PLAN, &bindings, bytemuck::bytes_of(&params), [groups, 1, 1])
    }

    /// (first element, step) of a list of ids; elements of eight bytes are two words.
    fn list(&self, tensor: &TensorRef<'_>) -> Result<[u32; 2]> {
        let layout = tensor.layout();
        self.limited("elements of one buffer", layout.end(), (u32::MAX / 2) as usize)?;
        Ok([layout.offset() as u32, layout.step(0) as u32])
    }

    fn bias_gradient(&mut self, dbias: &TensorRef<'_>, inputs: [Option<Binding<'_>>; 6]) -> Result<()> {
        // Tiles of lines and columns; a dimension of 1 is one line, column, head or sample.
        let parts = [1, 1, TILE, TILE];
        let (mut whole, mut work) = (0, 1usize);
        for (i, (&size, part)) in dbias.shape().iter().zip(parts).enumerate() {
            whole |= if size > 1 { 1 << i } else { 0 };
            work = work.saturating_mul(size.div_ceil(part));
        }
        self.limited("tiles of one call", work, 1 << 31)?;
        self.params.want = whole;
        self.params.out = self.view(dbias)?;
        self.params.out_column = dbias.layout().step(3) as u32;
        let [out] = buffers([Some(dbias)])?;
        let [q, k, v, bias, plan, grad_o] = inputs;
        self.launch(&kernels::BIAS, &[q, k, v, bias, plan, grad_o, out], work)
    }
}

/// Values of `Params::kind`.
fn kind(dtype: DType) -> u32 {
    match dtype {
        DType::F16 => 1,
        DType::BF16 => 2,
        _ => 0,
    }
}
