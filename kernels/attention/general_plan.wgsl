// attention_general_plan: as attention_plan, for samples that may be packed or paged.
// Shapes    kv_len, query_offset [b] i32, u32 or i64; order [b·hq], kv_order [b·hk], counts [2], active [b·hq]; in the plan
//           already (attention_general_pack): cu_q, cu_k [b+1], page table [b][pages]
//           plan: counts [2]; per sample (length, position of query 0, queries, first query row, first key row, number of its
//           first query, key rows, 0); order; kv_order; active
// Mapping   one invocation per entry, striding over the largest list
// Traffic   every list once, and the plan once; the invocation of sample b of a packed batch reads cu_q, cu_k up to b
// Numerics  a sample's length becomes −1 (its outputs are NaN) and the status word of lengths is set by a length outside
//           0..=kv_slots, cu_q or cu_k that do not ascend from 0 within the rows or have a longer sequence than announced; that of
//           pages by a page of a key that exists outside 0..pages. Samples never share rows, whatever cu holds: a start below an earlier one is
//           moved up to it. A position saturates at ±2³⁰; an entry that names no pair becomes INVALID and is skipped
// Host      rejects batch, heads, lengths ≥ 2³⁰
// Twin      src/attention/cpu        Source  our own

const INVALID: u32 = 0xffffffffu;
const KIND_NONE: u32 = 3u;      // length: all slots; offset: bottom-right
const KIND_CONSTANT: u32 = 4u;  // offset: params.offset
const FAR: i32 = 0x40000000;

struct Params {
    batch: u32,
    pairs: u32,
    kv_pairs: u32,
    q_heads: u32,
    q_len: u32,
    kv_slots: u32,
    q_rows: u32,
    kv_rows: u32,
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
    active_flags: u32,  // `active` is a reserved word
    at_order: u32,
    at_kv_order: u32,
    at_active: u32,
    at_cu: u32,     // INVALID: not packed
    at_table: u32,  // INVALID: not paged
    pages_a_sample: u32,
    pages: u32,
    page_size: u32,
}
@group(0) @binding(0) var<storage, read> kv_len: array<u32>;
@group(0) @binding(1) var<storage, read> query_offset: array<u32>;
@group(0) @binding(2) var<storage, read> counts: array<u32>;
@group(0) @binding(3) var<storage, read> order: array<u32>;
@group(0) @binding(4) var<storage, read> kv_order: array<u32>;
@group(0) @binding(5) var<storage, read> active_flags: array<u32>;
@group(0) @binding(6) var<storage, read_write> plan: array<u32>;
@group(0) @binding(7) var<storage, read_write> status: array<atomic<u32>>;
@group(0) @binding(8) var<uniform> params: Params;

fn first_position(b: u32, length: i32, rows: u32) -> i32 {
    var first = params.offset;
    if (params.offset_kind == KIND_NONE) {
        first = length - i32(rows);
    } else if (params.offset_kind != KIND_CONSTANT) {
        let at = params.offset_first + b * params.offset_step;
        let kind = params.offset_kind;
        first = id_value(kind, query_offset[id_low(kind, at)], query_offset[id_high(kind, at)]);
    }
    return clamp(first, -FAR, FAR - 1);
}

struct Rows { start: u32, count: u32, valid: bool }

// Rows of sample b by the list at `at`: between the largest starts up to b and up to b + 1.
fn packed_rows(at: u32, b: u32, rows: u32, longest: u32) -> Rows {
    var start = 0;
    for (var i = 0u; i <= b; i += 1u) { start = max(start, bitcast<i32>(plan[at + i])); }
    let lowest = bitcast<i32>(plan[at + b]);
    let to = bitcast<i32>(plan[at + b + 1u]);
    let valid = plan[at] == 0u && lowest == start && to >= lowest && to <= i32(rows) && to - lowest <= i32(longest);
    start = min(start, i32(rows));
    let end = clamp(to, start, i32(rows));
    return Rows(u32(start), u32(end - start), valid);
}

fn plan_sample(b: u32) {
    var queries = Rows(0u, params.q_len, true);
    var keys = Rows(0u, params.kv_slots, true);
    var line = b * params.q_heads * params.q_len;
    var length = i32(params.kv_slots);
    var valid = true;
    var in_cache = true;  // whether every page is
    if (params.at_cu != INVALID) {
        queries = packed_rows(params.at_cu, b, params.q_rows, params.q_len);
        keys = packed_rows(params.at_cu + params.batch + 1u, b, params.kv_rows, params.kv_slots);
        line = queries.start;
        length = i32(keys.count);
        valid = queries.valid && keys.valid;
        queries.count = min(queries.count, params.q_len);
        keys.count = min(keys.count, params.kv_slots);
    }
    if (params.length_kind != KIND_NONE) {
        let at = params.length_first + b * params.length_step;
        let kind = params.length_kind;
        length = id_value(kind, kv_len[id_low(kind, at)], kv_len[id_high(kind, at)]);
        valid = length >= 0 && length <= i32(params.kv_slots);
    }
    if (params.at_table != INVALID && valid) {
        let used = (u32(length) + params.page_size - 1u) / params.page_size;
        for (var i = 0u; i < used; i += 1u) {
            // As unsigned, a negative page is too large.
            if (plan[params.at_table + b * params.pages_a_sample + i] >= params.pages) { in_cache = false; }
        }
    }
    if (!valid) { atomicOr(&status[STATUS_LENGTH], 1u); }
    if (!in_cache) { atomicOr(&status[STATUS_PAGE], 1u); }
    if (!valid || !in_cache) { length = -1; }
    let at = 2u + 8u * b;
    plan[at] = bitcast<u32>(length);
    plan[at + 1u] = bitcast<u32>(first_position(b, length, queries.count));
    plan[at + 2u] = queries.count;
    plan[at + 3u] = queries.start;
    plan[at + 4u] = keys.start;
    plan[at + 5u] = line;
    plan[at + 6u] = keys.count;
    plan[at + 7u] = 0u;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let listed = params.has_heads != 0u;
    for (var i = id.x; i < max(params.batch, max(params.pairs, params.kv_pairs)); i += 64u * groups.x) {
        if (i == 0u) {
            plan[0] = params.pairs;
            plan[1] = params.kv_pairs;
            if (listed) {
                plan[0] = min(counts[params.counts], params.pairs);
                plan[1] = min(counts[params.counts + 1u], params.kv_pairs);
            }
        }
        if (i < params.batch) { plan_sample(i); }
        if (i < params.pairs) {
            plan[params.at_order + i] = i;
            plan[params.at_active + i] = 1u;
            if (listed) {
                let pair = order[params.order + i];
                plan[params.at_order + i] = select(INVALID, pair, pair < params.pairs);
                plan[params.at_active + i] = active_flags[params.active_flags + i];
            }
        }
        if (i < params.kv_pairs) {
            plan[params.at_kv_order + i] = i;
            if (listed) {
                let pair = kv_order[params.kv_order + i];
                plan[params.at_kv_order + i] = select(INVALID, pair, pair < params.kv_pairs);
            }
        }
    }
}
