//! The general kernels: what their launches get. kernels/attention/{plan,forward_general,combine,backward_general,
//! backward_bias,backward_sums}.cu. Gradients that the matrix units take (mma_backward.rs) are launched here in their place.

use super::mma_backward;
use super::scratch::Scratch;
use super::sums::{self, TERMS, term_entries};
use super::{
    LENGTH_LIMIT, Strides, address, grid, ids_argument, optional_address, output_address, output_strides,
    strides,
};
use crate::attention::options::{Dropout, Score, Seed};
use crate::attention::problem::{Backward, Forward, Offset, Problem, Storage};
use crate::device::Backend;
use crate::device::cuda::CudaDevice;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ids::Ids;
use crate::manifest::attention::general::{
    BACKWARD_ROWS, CALL, COMBINE_PARAMS, DECODE_ROWS, GENERAL_BACKWARD_PARAMS, GENERAL_F32, GENERAL_F64,
    GENERAL_FORWARD_PARAMS, General, PLAN, PLAN_PARAMS,
};
use crate::tensor::TensorRef;
use bytemuck::{Pod, Zeroable};

/// Most splits of a sample's keys, `MOST` in forward_general.cu.
const MOST_SPLITS: usize = 128;
/// Keys of a split of any but the longest samples: 128 blocks of a single sample with 8 key heads at 4,096 keys.
const SPLIT_KEYS: usize = 256;
/// Most rows of a group that take the decode kernel: four of its tiles.
const DECODE_LIMIT: usize = 64;

/// Bytes of `attention::Span` in call.cuh.
pub(super) const SPAN: usize = 32;
/// `attention::Strides4` in call.cuh.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
struct Strides4 {
    batch: i64,
    head: i64,
    row: i64,
    column: i64,
}

/// `attention::Call` in call.cuh.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Call {
    q: Strides,
    k: Strides,
    v: Strides,
    o: Strides,
    lse: Strides,
    row_scale_at: Strides,
    mask_at: Strides4,
    bias_at: Strides4,
    alibi_step: i64,
    sinks_step: i64,
    w_head: i64,
    table_batch: i64,
    table_step: i64,
    mask: u64,
    bias: u64,
    alibi: u64,
    sinks: u64,
    w: u64,
    row_scale: u64,
    order: u64,
    kv_order: u64,
    counts: u64,
    active: u64,
    table: u64,
    seed: u64,
    stream: [u32; 4],
    coefficient: f64,
    softcap: f64,
    keep_scale: f64,
    batch: i32,
    q_heads: i32,
    kv_heads: i32,
    pack: i32,
    q_len: i32,
    kv_len: i32,
    head_dim: i32,
    value_dim: i32,
    score: i32,
    dtype: i32,
    bias_dtype: i32,
    left: i32,
    right: i32,
    table_kind: u32,
    page_rows: i32,
    drop_below: u32,
    dropout: i32,
    vectors: u32,
}

/// `attention::PlanParams` in plan.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct PlanParams {
    kv_len_step: i64,
    offset_step: i64,
    cu_q_step: i64,
    cu_k_step: i64,
    table_batch: i64,
    table_step: i64,
    kv_len_kind: u32,
    offset_kind: u32,
    cu_q_kind: u32,
    cu_k_kind: u32,
    table_kind: u32,
    offset_mode: i32,
    offset: i32,
    q_len: i32,
    kv_len: i32,
    q_rows: i32,
    k_rows: i32,
    page_rows: i32,
    pages: i32,
    unused: i32,
}

/// `attention::GeneralForwardParams` in forward_general.cu and, with `split_keys` unused, `CombineParams` in combine.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ForwardParams {
    call: Call,
    splits: i32,
    split_keys: i32,
}

/// `attention::GeneralBackwardParams` in differentiate.cuh.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct BackwardParams {
    call: Call,
    grad_o: Strides,
    grad_lse: Strides,
    delta: Strides,
    dq: Strides,
    dk: Strides,
    dv: Strides,
    drow_scale: Strides,
    dbias_at: Strides4,
    dbias_shape: [i64; 4],
    dbias_dtype: i32,
    unused: i32,
}

const _: () = assert!(size_of::<Call>() == CALL);
const _: () = assert!(size_of::<PlanParams>() == PLAN_PARAMS);
const _: () =
    assert!(size_of::<ForwardParams>() == GENERAL_FORWARD_PARAMS && COMBINE_PARAMS == GENERAL_FORWARD_PARAMS);
const _: () = assert!(size_of::<BackwardParams>() == GENERAL_BACKWARD_PARAMS);

/// The kernels of a problem's accumulator.
pub(super) fn kernels(problem: &Problem<'_>) -> &'static General {
    if problem.accumulator == DType::F64 { &GENERAL_F64 } else { &GENERAL_F32 }
}

/// `attention::Type` in call.cuh.
fn type_code(dtype: DType) -> i32 {
    match dtype {
        DType::F16 => 1,
        DType::BF16 => 2,
        DType::F64 => 3,
        _ => 0,
    }
}

fn strides4(view: &TensorRef<'_>) -> Strides4 {
    let step = |i| view.layout().step(i) as i64; // layouts end below isize::MAX
    Strides4 { batch: step(0), head: step(1), row: step(2), column: step(3) }
}

/// `bit` if every row of `view` starts at a multiple of a chunk: four elements, or two of f64.
fn chunk_bit(bit: u32, view: &TensorRef<'_>) -> u32 {
    let (layout, size) = (view.layout(), view.dtype().size());
    let width = if size == 8 { 2 } else { 4 };
    let aligned = address(view).is_multiple_of((width * size) as u64)
        && (0..3).all(|i| layout.step(i).is_multiple_of(width));
    if aligned { bit } else { 0 }
}

/// How a call's rows become work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decode {
    /// Query heads of a key head that share a tile.
    pub(super) pack: usize,
    /// Splits of the longest sample.
    pub(super) splits: usize,
}

/// Few queries over many keys, in which case keys are split between blocks. Depends on the shape of a sample alone.
pub(super) fn decode(problem: &Problem<'_>) -> Option<Decode> {
    let of_head = matches!(&problem.score, Score::Additive { w } if w.shape().len() == 2);
    let pack = if of_head { 1 } else { problem.group() };
    let few = problem.q_len * pack <= DECODE_LIMIT && problem.heads.is_none();
    let splits = problem.kv_slots.div_ceil(SPLIT_KEYS).min(MOST_SPLITS);
    (few && splits > 1).then_some(Decode { pack, splits })
}

/// Bytes of the parts of a forward call's workspace: spans, partial results.
pub(super) fn forward_parts(problem: &Problem<'_>) -> [usize; 2] {
    let splits = decode(problem).map_or(0, |decode| decode.splits);
    let rows = problem.batch * problem.q_heads * problem.q_len;
    [problem.batch * SPAN, rows * splits * (problem.value_dim + 2) * problem.accumulator.size()]
}

/// Tiles of queries of every sample and head.
fn query_tiles(problem: &Problem<'_>) -> usize {
    problem.batch * problem.q_heads * problem.q_len.div_ceil(BACKWARD_ROWS)
}

/// Bytes of the parts of a backward call's workspace: spans, δ of every row, sums of queries, sums for additive weights.
pub(super) fn backward_parts(problem: &Problem<'_>) -> [usize; 4] {
    let (rows, size) = (problem.lse_shape().iter().product::<usize>(), problem.accumulator.size());
    let additive = matches!(problem.score, Score::Additive { .. });
    let weights = if additive { query_tiles(problem) * problem.head_dim * size } else { 0 };
    let terms = problem.batch * problem.q_heads * term_entries(problem) * TERMS * size;
    [problem.batch * SPAN, rows * size, terms, weights]
}

fn within(problem: &Problem<'_>, what: &'static str, size: usize, limit: usize) -> Result<i32> {
    i32::try_from(size).ok().filter(|_| size <= limit).ok_or_else(|| Error::Unsupported {
        op: problem.op,
        backend: Backend::Cuda,
        what,
        limit: limit.to_string(),
        got: size.to_string(),
    })
}

/// The dropout's threshold, the scale of what is kept, where the stream's words are, and the words.
fn dropout(dropout: Option<&Dropout<'_>>) -> (u32, f64, u64, [u32; 4]) {
    let Some(Dropout { p, seed }) = dropout else { return (0, 1.0, 0, [0; 4]) };
    let below = (p * 4_294_967_296.0) as u32; // rounded down; validation has p below 1
    let words = |x: u64| [x as u32, (x >> 32) as u32];
    let (place, stream) = match seed {
        Seed::Host { seed, offset } => {
            let ([a, b], [c, d]) = (words(*seed), words(*offset));
            (0, [a, b, c, d])
        }
        Seed::Device(view) => (address(view), [0; 4]),
    };
    (below, 1.0 / (1.0 - p), place, stream)
}

impl Call {
    pub(super) fn new(
        problem: &Problem<'_>,
        pack: usize,
        o: &TensorRef<'_>,
        lse: &TensorRef<'_>,
    ) -> Result<Self> {
        let any = i32::MAX as usize;
        let side = |size: i64| i32::try_from(size).unwrap_or(i32::MAX);
        let (left, right) = problem.window.map_or((i32::MAX, i32::MAX), |w| (side(w.left), side(w.right)));
        let heads = problem.heads.as_ref();
        let (score, sign, w) = match &problem.score {
            Score::Dot | Score::ComplexDot => (0, 1.0, None),
            Score::Cosine => (1, 1.0, None),
            Score::Fidelity => (2, 1.0, None),
            // The kernel compares by −‖q − k‖², so that its coefficient is γ and not −γ.
            Score::Gaussian { .. } => (3, -1.0, None),
            Score::Additive { w } => (4, 1.0, Some(w)),
        };
        let step = |view: Option<&TensorRef<'_>>| view.map_or(0, |view| view.layout().step(0) as i64);
        let at4 = |view: Option<&TensorRef<'_>>| view.map_or_else(Strides4::default, strides4);
        let (table, page_rows) = match &problem.storage {
            Storage::Paged { table, page_size, .. } => (Some(table), *page_size),
            _ => (None, 1),
        };
        let (table_address, table_batch, table_step, table_kind) = table_argument(table);
        let (drop_below, keep_scale, seed, stream) = dropout(problem.dropout.as_ref());
        Ok(Self {
            q: strides(&problem.q),
            k: strides(&problem.k),
            v: strides(&problem.v),
            o: strides(o),
            lse: strides(lse),
            row_scale_at: heads.map_or_else(Strides::default, |heads| strides(&heads.row_scale)),
            mask_at: at4(problem.mask.as_ref()),
            bias_at: at4(problem.bias.as_ref()),
            alibi_step: step(problem.alibi.as_ref()),
            sinks_step: step(problem.sinks.as_ref()),
            w_head: step(w.filter(|w| w.shape().len() == 2)),
            table_batch,
            table_step,
            mask: optional_address(problem.mask.as_ref()),
            bias: optional_address(problem.bias.as_ref()),
            alibi: optional_address(problem.alibi.as_ref()),
            sinks: optional_address(problem.sinks.as_ref()),
            w: optional_address(w),
            row_scale: optional_address(heads.map(|heads| &heads.row_scale)),
            order: optional_address(heads.map(|heads| &heads.order)),
            kv_order: optional_address(heads.map(|heads| &heads.kv_order)),
            counts: optional_address(heads.map(|heads| &heads.counts)),
            active: optional_address(heads.map(|heads| &heads.active)),
            table: table_address,
            seed,
            stream,
            coefficient: sign * problem.scale,
            softcap: problem.softcap.unwrap_or(0.0),
            keep_scale,
            batch: within(problem, "batch", problem.batch, any)?,
            q_heads: within(problem, "heads", problem.q_heads, any)?,
            kv_heads: within(problem, "heads", problem.kv_heads, any)?,
            pack: within(problem, "heads", pack, any)?,
            q_len: within(problem, "query length", problem.q_len, LENGTH_LIMIT)?,
            kv_len: within(problem, "key length", problem.kv_slots, LENGTH_LIMIT)?,
            head_dim: within(problem, "head dimension", problem.head_dim, any)?,
            value_dim: within(problem, "value dimension", problem.value_dim, any)?,
            score,
            dtype: type_code(problem.dtype),
            bias_dtype: problem.bias.as_ref().map_or(0, |bias| type_code(bias.dtype())),
            left,
            right: if problem.causal { 0 } else { right },
            table_kind,
            page_rows: within(problem, "page size", page_rows, LENGTH_LIMIT)?,
            drop_below,
            dropout: (drop_below > 0).into(),
            vectors: chunk_bit(super::vectors::Q, &problem.q)
                | chunk_bit(super::vectors::K, &problem.k)
                | chunk_bit(super::vectors::V, &problem.v),
        })
    }
}

impl Call {
    /// With other bits of `attention::Vectors`: what they say is for each family to define.
    pub(super) fn with_vectors(self, vectors: u32) -> Self {
        Self { vectors, ..self }
    }
}

/// Address, steps and integer type of a table of pages.
pub(super) fn table_argument(table: Option<&Ids<'_>>) -> (u64, i64, i64, u32) {
    table.map_or((0, 0, 0, 0), |ids| {
        let view = ids.view();
        let step = |i| view.layout().step(i) as i64;
        (address(&view), step(0), step(1), ids.kind())
    })
}

/// Launches attention_plan, which writes the spans.
pub(super) fn plan(device: &CudaDevice, problem: &Problem<'_>, spans: u64) -> Result<()> {
    let (mode, offset, offsets) = match &problem.offset {
        Offset::BottomRight => (0, 0, None),
        Offset::At(offset) => (1, *offset, None),
        Offset::PerSample(ids) => (2, 0, Some(ids)),
    };
    let (cu_q, cu_k, rows) = match &problem.storage {
        Storage::Packed { cu_q, cu_k, q_rows, kv_rows } => (Some(cu_q), Some(cu_k), [*q_rows, *kv_rows]),
        _ => (None, None, [0, 0]),
    };
    let (table, pages, page_rows) = match &problem.storage {
        Storage::Paged { table, page_size, pages } => (Some(table), *pages, *page_size),
        _ => (None, 0, 1),
    };
    let (kv_len, kv_len_step, kv_len_kind) = ids_argument(problem.kv_len.as_ref());
    let (offset_address, offset_step, offset_kind) = ids_argument(offsets);
    let (cu_q, cu_q_step, cu_q_kind) = ids_argument(cu_q);
    let (cu_k, cu_k_step, cu_k_kind) = ids_argument(cu_k);
    let (table, table_batch, table_step, table_kind) = table_argument(table);
    let params = PlanParams {
        kv_len_step,
        offset_step,
        cu_q_step,
        cu_k_step,
        table_batch,
        table_step,
        kv_len_kind,
        offset_kind,
        cu_q_kind,
        cu_k_kind,
        table_kind,
        offset_mode: mode,
        offset,
        q_len: within(problem, "query length", problem.q_len, LENGTH_LIMIT)?,
        kv_len: within(problem, "key length", problem.kv_slots, LENGTH_LIMIT)?,
        q_rows: within(problem, "query rows", rows[0], LENGTH_LIMIT)?,
        k_rows: within(problem, "key rows", rows[1], LENGTH_LIMIT)?,
        page_rows: within(problem, "page size", page_rows, LENGTH_LIMIT)?,
        pages: within(problem, "pages", pages, LENGTH_LIMIT)?,
        unused: 0,
    };
    let pointers = [kv_len, offset_address, cu_q, cu_k, table, spans, device.status()];
    let blocks = within(problem, "batch", problem.batch, i32::MAX as usize)?;
    device.launch(&PLAN, [blocks.unsigned_abs(), 1, 1], &pointers, bytemuck::bytes_of(&params))
}

pub(super) fn forward(device: &CudaDevice, problem: &Problem<'_>, call: &mut Forward<'_>) -> Result<()> {
    if problem.batch * problem.q_len == 0 {
        return Ok(()); // packed rows of no sample
    }
    let (o, lse) = (call.o.as_ref(), call.lse.as_ref());
    let (kernels, split) = (kernels(problem), decode(problem));
    let pack = split.map_or(1, |split| split.pack);
    let arguments = Call::new(problem, pack, o, lse)?;
    let scratch = Scratch::new(device, problem.op, &call.workspace, &forward_parts(problem))?;
    let [spans, partial] = scratch.parts();
    plan(device, problem, spans)?;
    let params = ForwardParams {
        call: arguments,
        splits: split.map_or(0, |split| split.splits as i32),
        split_keys: SPLIT_KEYS as i32,
    };
    let params = bytemuck::bytes_of(&params);
    let pointers = [
        address(&problem.q),
        address(&problem.k),
        address(&problem.v),
        address(o),
        address(lse),
        spans,
        partial,
    ];
    let (kernel, rows) = if split.is_some() {
        (&kernels.decode, DECODE_ROWS)
    } else {
        (&kernels.forward, kernels.forward_rows)
    };
    let pairs = problem.batch * (problem.q_heads / pack);
    let per_pair = (problem.q_len * pack).div_ceil(rows)
        * problem.value_dim.div_ceil(kernels.out)
        * split.map_or(1, |split| split.splits);
    device.launch(kernel, grid(device, pairs * per_pair, problem.heads.is_some()), &pointers, params)?;
    if split.is_some() {
        let rows = problem.batch * problem.q_heads * problem.q_len;
        let pointers = [partial, address(o), address(lse), spans];
        device.launch(&kernels.combine, grid(device, rows, false), &pointers, params)?;
    }
    Ok(())
}

pub(super) fn backward(device: &CudaDevice, problem: &Problem<'_>, call: &mut Backward<'_>) -> Result<()> {
    let (saved, gradients) = (&call.saved, &call.gradients);
    let (dq, dk, dv) = (gradients.dq.as_ref(), gradients.dk.as_ref(), gradients.dv.as_ref());
    let (dbias, dw) = (gradients.dbias.as_ref(), gradients.dw.as_ref());
    let drow_scale = gradients.drow_scale.as_ref();
    let wants_terms =
        [&gradients.dsinks, &gradients.dalibi, &gradients.dscale].into_iter().any(Option::is_some);
    let kernels = kernels(problem);
    let mut arguments = Call::new(problem, 1, &saved.o, &saved.lse)?;
    arguments.vectors |= chunk_bit(super::vectors::GRAD_O, &saved.grad_o);
    let [_, heads, rows] = problem.lse_shape().map(|size| size as i64);
    let params = BackwardParams {
        call: arguments,
        grad_o: strides(&saved.grad_o),
        grad_lse: saved.grad_lse.as_ref().map_or_else(Strides::default, strides),
        delta: Strides { batch: if problem.q.shape()[0] > 1 { heads * rows } else { 0 }, head: rows, row: 1 },
        dq: output_strides(dq),
        dk: output_strides(dk),
        dv: output_strides(dv),
        drow_scale: output_strides(drow_scale),
        dbias_at: dbias.map_or_else(Strides4::default, |view| strides4(view.as_ref())),
        dbias_shape: dbias.map_or([0; 4], |view| std::array::from_fn(|i| view.as_ref().shape()[i] as i64)),
        dbias_dtype: dbias.map_or(0, |view| type_code(view.as_ref().dtype())),
        unused: 0,
    };
    let mma = mma_backward::variant(problem);
    let vectors = mma_backward::rows_aligned(problem, call);
    let mma_params = BackwardParams { call: Call { vectors, ..params.call }, ..params };
    let (params, mma_params) = (bytemuck::bytes_of(&params), bytemuck::bytes_of(&mma_params));
    let scratch = Scratch::new(device, problem.op, &call.workspace, &backward_parts(problem))?;
    let [spans, delta, terms, dw_terms] = scratch.parts();
    let (terms, dw_terms) = (if wants_terms { terms } else { 0 }, if dw.is_some() { dw_terms } else { 0 });
    let has_rows = problem.batch > 0 && !problem.has_no_rows() && problem.q_len > 0;
    let listed = problem.heads.is_some();
    if problem.batch > 0 {
        plan(device, problem, spans)?;
    }
    let of_queries = dq.is_some() || drow_scale.is_some() || dw.is_some() || wants_terms;
    if has_rows && (of_queries || dk.is_some() || dbias.is_some()) {
        let pointers = [
            address(&saved.o),
            address(&saved.grad_o),
            optional_address(saved.grad_lse.as_ref()),
            spans,
            delta,
        ];
        let warps = (kernels.delta.block / super::WARP) as usize;
        let blocks = (problem.batch * problem.q_heads * problem.q_len).div_ceil(warps);
        device.launch(&kernels.delta, grid(device, blocks, listed), &pointers, params)?;
    }
    let shared = [
        address(&problem.q),
        address(&problem.k),
        address(&problem.v),
        address(&saved.grad_o),
        address(&saved.lse),
        delta,
        spans,
    ];
    if let Some(mma) = mma.filter(|_| has_rows && of_queries) {
        let own = [output_address(dq), output_address(drow_scale), terms];
        let items = problem.batch * problem.q_heads * problem.q_len.div_ceil(mma.dq_rows);
        device.launch(&mma.dq, grid(device, items, listed), &[&shared[..], &own].concat(), mma_params)?;
    } else if has_rows && of_queries {
        let own = [output_address(dq), output_address(drow_scale), terms, dw_terms];
        let items = query_tiles(problem) * problem.head_dim.div_ceil(kernels.out);
        device.launch(&kernels.dq, grid(device, items, listed), &[&shared[..], &own].concat(), params)?;
    }
    let keys = problem.batch * problem.kv_heads * problem.kv_slots;
    if keys > 0 && (dk.is_some() || dv.is_some()) {
        let own = [output_address(dk), output_address(dv)];
        let tiles = |wanted: bool, dim: usize| if wanted { dim.div_ceil(kernels.out) } else { 0 };
        let columns = tiles(dk.is_some(), problem.head_dim) + tiles(dv.is_some(), problem.value_dim);
        let (kernel, rows, columns, params) = match mma {
            Some(mma) => (&mma.dkv, mma.dkv_rows, 1, mma_params),
            None => (&kernels.dkv, BACKWARD_ROWS, columns, params),
        };
        let items = problem.batch * problem.kv_heads * problem.kv_slots.div_ceil(rows) * columns;
        let alone = mma.is_some_and(|mma| mma.alone);
        let each: &[[u64; 2]] = if alone { &[[own[0], 0], [0, own[1]]] } else { &[own] };
        for own in each.iter().filter(|own| **own != [0, 0]) {
            device.launch(kernel, grid(device, items, listed), &[&shared[..], own].concat(), params)?;
        }
    }
    if let Some(dbias) = dbias.filter(|view| !view.as_ref().layout().is_empty()) {
        let [b, h, i, j] = std::array::from_fn(|i| dbias.as_ref().shape()[i]);
        let tiles = |size: usize, all: usize, tile| if size == all { size.div_ceil(tile) } else { 1 };
        let items =
            b * h * tiles(i, problem.q_len, BACKWARD_ROWS) * tiles(j, problem.kv_slots, kernels.columns);
        let own = [output_address(Some(dbias))];
        device.launch(&kernels.bias, grid(device, items, false), &[&shared[..], &own].concat(), params)?;
    }
    sums::add_up(device, problem, call, kernels, [terms, dw_terms])
}
