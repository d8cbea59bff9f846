// attention_plan: brings everything per sample and per head into one buffer, and checks it, for the kernels that follow.
// Shapes    kv_len, query_offset [b] i32, u32 or i64; order [b·hq], kv_order [b·hk], counts [2], active [b·hq]
//           plan [2 + 2·b + 2·b·hq + b·hk]: counts; (length, position of query 0) per sample; order; kv_order; active
// Mapping   one invocation per entry, striding over the largest list
// Traffic   every list once, 4 bytes an entry (8 where it is i64), and the plan once
// Why       WebGPU promises 8 storage buffers a shader; without this the attention kernels would need 13
// Numerics  a length outside 0..=kv_slots becomes −1 (the sample's outputs are NaN) and sets the status word; a position
//           saturates at ±2³⁰, which no length reaches; an entry that names no pair becomes INVALID and is skipped
// Host      rejects batch, heads, lengths ≥ 2³⁰
// Twin      src/attention/cpu.rs        Source  our own

const INVALID: u32 = 0xffffffffu;
const KIND_NONE: u32 = 3u;      // length: all slots; offset: bottom-right
const KIND_CONSTANT: u32 = 4u;  // offset: params.offset
const FAR: i32 = 0x40000000;

struct Params {
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
    active_flags: u32,  // `active` is a reserved word
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

fn length_of(b: u32) -> i32 {
    if (params.length_kind == KIND_NONE) { return i32(params.kv_slots); }
    let at = params.length_first + b * params.length_step;
    let kind = params.length_kind;
    let length = id_value(kind, kv_len[id_low(kind, at)], kv_len[id_high(kind, at)]);
    if (length < 0 || length > i32(params.kv_slots)) {
        atomicOr(&status[STATUS_LENGTH], 1u);
        return -1;
    }
    return length;
}

fn first_position(b: u32, length: i32) -> i32 {
    // Without a causal mask every query stands after the last key.
    if (params.causal == 0u) { return FAR - 1; }
    var first = params.offset;
    if (params.offset_kind == KIND_NONE) {
        first = length - i32(params.q_len);
    } else if (params.offset_kind != KIND_CONSTANT) {
        let at = params.offset_first + b * params.offset_step;
        let kind = params.offset_kind;
        first = id_value(kind, query_offset[id_low(kind, at)], query_offset[id_high(kind, at)]);
    }
    return clamp(first, -FAR, FAR - 1);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let order_at = 2u + 2u * params.batch;
    let kv_order_at = order_at + params.pairs;
    let active_at = kv_order_at + params.kv_pairs;
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
        if (i < params.batch) {
            let length = length_of(i);
            plan[2u + 2u * i] = bitcast<u32>(length);
            plan[3u + 2u * i] = bitcast<u32>(first_position(i, length));
        }
        if (i < params.pairs) {
            plan[order_at + i] = i;
            plan[active_at + i] = 1u;
            if (listed) {
                let pair = order[params.order + i];
                plan[order_at + i] = select(INVALID, pair, pair < params.pairs);
                plan[active_at + i] = active_flags[params.active_flags + i];
            }
        }
        if (i < params.kv_pairs) {
            plan[kv_order_at + i] = i;
            if (listed) {
                let pair = kv_order[params.kv_order + i];
                plan[kv_order_at + i] = select(INVALID, pair, pair < params.kv_pairs);
            }
        }
    }
}
