// task_heads_gate_f32: gates and probabilities of every (sample, head), from logits by task or values by sample.
// Shapes    values [tasks|batch, heads] strided; ids [batch] i32, u32 or i64 strided; gates, probabilities [batch, heads] contiguous
// Mapping   persistent, workgroup 128; an invocation owns one (sample, head) and walks that sample's row of z alone: heads are
//           few, and without cooperation there is nothing to order, so the bits depend on the row only
// Traffic   values heads² reads a sample, from cache; FLOPs: one exp a (head, head)
// Numerics  as gate.cu; NaN and ∞ are told by their bits, and exp sees finite differences only
// Bad id    gates NaN, status word set, never used as an index
// Host      batch · heads < 2^31, 1 ≤ k ≤ heads, tasks < 2^31
// Twin      src/task_heads/cpu.rs        Source  arXiv:1701.06538 (top-k gates)
struct Params {
    values_offset: u32, row_stride: u32, head_stride: u32,
    id_offset: u32, id_stride: u32,
    gates_offset: u32, probabilities_offset: u32,
    batch: u32, heads: u32, tasks: u32,
    // 0 row b is sample b's; 1 rows are picked by task id; 2 row b, but the sample has a task id.
    rows: u32,
    // 0 i32, 1 u32, 2 i64 (low word first).
    id_kind: u32,
    // 0 identity, 1 sigmoid, 2 softmax, 3 top-k, 4 top-p, 5 threshold.
    activation: u32,
    k: u32, renormalise: u32,
    softmax_scale: f32,
    no_task_gate: f32,
    // The first ones have gate 1; the others are routed.
    shared_heads: u32,
    // Of top-p and threshold.
    limit: f32,
}
@group(0) @binding(0) var<storage, read> values: array<f32>;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> gates: array<u32>;
@group(0) @binding(3) var<storage, read_write> probabilities: array<u32>;
@group(0) @binding(4) var<storage, read_write> status: array<atomic<u32>>;
@group(0) @binding(5) var<uniform> params: Params;

const WORKGROUP: u32 = 128u;
const NO_TASK: i32 = -1;
const BAD_TASK: i32 = -2;
const KEY_OF_INFINITY: u32 = 0xff800000u;
const KEY_OF_MINUS_INFINITY: u32 = 0x007fffffu;

// The task of a sample: below params.tasks, NO_TASK or BAD_TASK.
fn task_of(sample: u32) -> i32 {
    let index = params.id_offset + sample * params.id_stride;
    let low = ids[id_low(params.id_kind, index)];
    let sign = select(0u, 0xffffffffu, params.id_kind == 0u && (low >> 31u) != 0u);
    let high = select(sign, ids[id_high(params.id_kind, index)], params.id_kind == 2u);
    if (low == 0xffffffffu && (params.id_kind == 1u || high == 0xffffffffu)) { return NO_TASK; }
    return select(BAD_TASK, i32(low), high == 0u && low < params.tasks);
}

// Monotone in z; −0 equals +0, and every NaN is above +∞.
fn sort_key(z: f32) -> u32 {
    let bits = bitcast<u32>(z);
    let magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) { return 0xffffffffu; }
    if (magnitude == 0u) { return 0x80000000u; }
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) != 0u);
}

// Heads of a row of z: the routed ones.
fn routed() -> u32 { return params.heads - params.shared_heads; }

fn z_at(row: u32, head: u32) -> f32 { return values[row + head * params.head_stride]; }

// e^(z − max), 0 for −∞ even when that is the maximum.
fn exponential(row: u32, head: u32, maximum: f32) -> f32 {
    let x = z_at(row, head);
    if (sort_key(x) == KEY_OF_MINUS_INFINITY) { return 0.0; }
    return exp(x - maximum);
}

fn sigmoid(z: f32) -> f32 {
    // Beyond 104 the exponential is below half the smallest f32; ∞ ends here too.
    let size = abs(z);
    let e = select(exp(-min(size, 104.0)), 0.0, size >= 104.0);
    return select(e / (1.0 + e), 1.0 / (1.0 + e), z >= 0.0);
}

// x / total, 0 where nothing was summed, and 1 exactly for the only summand: WGSL's division may round.
fn ratio(x: f32, total: f32) -> f32 {
    if (total == 0.0) { return 0.0; }
    if (x == total) { return 1.0; }
    return x / total;
}

struct Kept {
    sum: f32,
    has_head: bool,
}

// Sum of the exponentials of the k first heads by (z descending, head ascending), and whether `head` is among them.
fn sum_of_kept(row: u32, maximum: f32, head: u32) -> Kept {
    var kept = Kept(0.0, false);
    var last_key = 0u;
    var last_head = 0u;
    for (var round = 0u; round < params.k; round += 1u) {
        // No key is 0.
        var best_key = 0u;
        var best_head = 0u;
        for (var j = 0u; j < routed(); j += 1u) {
            let key = sort_key(z_at(row, j));
            let follows = round == 0u || key < last_key || (key == last_key && j > last_head);
            if (follows && key > best_key) {
                best_key = key;
                best_head = j;
            }
        }
        kept.sum += exponential(row, best_head, maximum);
        kept.has_head = kept.has_head || best_head == head;
        last_key = best_key;
        last_head = best_head;
    }
    return kept;
}

// Sum of the exponentials of the heads before `head` by (z descending, head ascending).
fn sum_before(row: u32, maximum: f32, head: u32) -> f32 {
    let own = sort_key(z_at(row, head));
    var sum = 0.0;
    for (var j = 0u; j < routed(); j += 1u) {
        let key = sort_key(z_at(row, j));
        if (key > own || (key == own && j < head)) { sum += exponential(row, j, maximum); }
    }
    return sum;
}

// Bits of the gate and of the probability.
fn activate(row: u32, head: u32) -> vec2<u32> {
    let z = z_at(row, head);
    let z_bits = bitcast<u32>(z);
    if (params.activation == 0u) { return vec2<u32>(z_bits); }
    if (params.activation == 1u || params.activation == 5u) {
        if (sort_key(z) > KEY_OF_INFINITY) { return vec2<u32>(NAN_BITS); }
        let g = sigmoid(z);
        let is_out = params.activation == 5u && g < params.limit;
        return vec2<u32>(select(bitcast<u32>(g), 0u, is_out), bitcast<u32>(g));
    }
    var maximum = 0.0;
    var largest = KEY_OF_MINUS_INFINITY;
    for (var j = 0u; j < routed(); j += 1u) {
        let x = z_at(row, j);
        let key = sort_key(x);
        if (key > largest) {
            largest = key;
            maximum = x;
        }
    }
    if (largest >= KEY_OF_INFINITY) { return vec2<u32>(NAN_BITS); }
    var total = 0.0;
    for (var j = 0u; j < routed(); j += 1u) { total += exponential(row, j, maximum); }
    let e = exponential(row, head, maximum);
    let probability = ratio(e, total);
    if (params.activation == 2u) {
        return vec2<u32>(bitcast<u32>(probability * params.softmax_scale), bitcast<u32>(probability));
    }
    if (params.activation == 4u) {
        let is_in = params.limit >= 1.0 || sum_before(row, maximum, head) < params.limit * total;
        return vec2<u32>(select(0u, bitcast<u32>(probability), is_in), bitcast<u32>(probability));
    }
    let kept = sum_of_kept(row, maximum, head);
    let kept_gate = select(probability, ratio(e, kept.sum), params.renormalise != 0u);
    return vec2<u32>(select(0u, bitcast<u32>(kept_gate), kept.has_head), bitcast<u32>(probability));
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    for (var pair = id.x; pair < params.batch * params.heads; pair += workgroups.x * WORKGROUP) {
        let sample = pair / params.heads;
        let head = pair % params.heads;
        var row = i32(sample);
        if (params.rows != 0u) { row = task_of(sample); }
        if (params.rows == 2u && row >= 0) { row = i32(sample); }
        var gate = vec2<u32>(NAN_BITS);
        if (row == BAD_TASK) {
            if (head == 0u) { atomicOr(&status[STATUS_TASK_ID], 1u); }
        } else if (row == NO_TASK) {
            gate = vec2<u32>(bitcast<u32>(params.no_task_gate), 0u);
        } else if (head < params.shared_heads) {
            gate = vec2<u32>(0x3f800000u);
        } else {
            let first = params.values_offset + u32(row) * params.row_stride + params.shared_heads * params.head_stride;
            gate = activate(first, head - params.shared_heads);
        }
        gates[params.gates_offset + pair] = gate.x;
        probabilities[params.probabilities_offset + pair] = gate.y;
    }
}
