// task_heads_delta: δ of every masked (sample, head): Σ a·b over its rows and columns, or Σ a over its rows.
// Shapes    a, b [batch, heads, rows, columns] f32, f16 or bf16, strided, last = 1, or a [batch, heads, rows] f32 strided;
//           mask [batch, heads] u32; gates, delta [batch, heads] f32. With tasks that share a head's b: a [batch, tasks, heads, rows,
//           columns], gates and delta [batch, tasks, heads]. Packed: a, b [1, heads, all rows, …], starts [batch + 1] i32, u32 or i64
// Mapping   persistent, workgroup 256, one pair at a time; products: a team of 32 takes every 8th row, its members the columns
// Shared    256 partial sums = 1 KiB
// Traffic   a and b of the masked pairs once; those of the others are not read
// Numerics  f32; invocations, then a halving tree: an order that depends on rows and columns alone
// Host      batch · tasks · heads < 2^31; every element index < 2^32
// Twin      src/task_heads/cpu.rs        Source  our own
struct Params {
    a_offset: u32, b_offset: u32, mask_offset: u32, gates_offset: u32, delta_offset: u32, starts_offset: u32,
    a_stride_b: u32, a_stride_t: u32, a_stride_h: u32, a_stride_r: u32,
    b_stride_b: u32, b_stride_h: u32, b_stride_r: u32, start_stride: u32,
    // Pairs of gates.
    pairs: u32, tasks: u32, heads: u32, rows: u32, columns: u32,
    // 0: the sum of a alone.
    products: u32,
    // Pairs that are not summed are left; otherwise 0, or NaN where the gate is NaN.
    keep_others: u32,
    // Summed is what the mask says (0), of that the gates neither 0 nor NaN (1), or not NaN (2).
    chosen: u32,
    // b is not yet multiplied by the gate.
    times_gate: u32,
    kind: u32,
    is_packed: u32, start_kind: u32, all_rows: u32,
}
@group(0) @binding(0) var<storage, read> a: array<u32>;
@group(0) @binding(1) var<storage, read> b: array<u32>;
@group(0) @binding(2) var<storage, read> mask: array<u32>;
@group(0) @binding(3) var<storage, read> gates: array<u32>;
@group(0) @binding(4) var<storage, read_write> delta: array<u32>;
@group(0) @binding(5) var<storage, read> starts: array<u32>;
@group(0) @binding(6) var<uniform> params: Params;

const WORKGROUP: u32 = 256u;
const TEAM: u32 = 32u;
var<workgroup> sums: array<f32, WORKGROUP>;

fn start_at(entry: u32) -> i32 {
    let index = params.starts_offset + entry * params.start_stride;
    let kind = params.start_kind;
    return id_value(kind, starts[id_low(kind, index)], starts[id_high(kind, index)]);
}
fn a_at(index: u32) -> f32 { return element_of(params.kind, a[word_of(params.kind, index)], index); }
fn b_at(index: u32) -> f32 { return element_of(params.kind, b[word_of(params.kind, index)], index); }

fn invocation_sum(pair: u32, local: u32) -> f32 {
    let sample = pair / params.heads / params.tasks;
    let task = pair / params.heads % params.tasks;
    let head = pair % params.heads;
    var own = vec2<u32>(0u, params.rows);
    var place = sample;
    if (params.is_packed != 0u) {
        own = rows_between(start_at(sample), start_at(sample + 1u), params.all_rows, params.rows);
        place = 0u;
    }
    let a_first = params.a_offset + place * params.a_stride_b + task * params.a_stride_t + head * params.a_stride_h
        + own.x * params.a_stride_r;
    let b_first = params.b_offset + place * params.b_stride_b + head * params.b_stride_h + own.x * params.b_stride_r;
    var sum = 0.0;
    if (params.products == 0u) {
        for (var row = local; row < own.y; row += WORKGROUP) { sum += a_at(a_first + row * params.a_stride_r); }
        return sum;
    }
    for (var row = local / TEAM; row < own.y; row += WORKGROUP / TEAM) {
        let a_row = a_first + row * params.a_stride_r;
        let b_row = b_first + row * params.b_stride_r;
        for (var column = local % TEAM; column < params.columns; column += TEAM) {
            sum += a_at(a_row + column) * b_at(b_row + column);
        }
    }
    return sum;
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    for (var pair = workgroup.x; pair < params.pairs; pair += workgroups.x) {
        // The barriers are reached whatever the mask holds; only the reads and the result depend on it.
        let gate = gates[params.gates_offset + pair];
        let magnitude = gate & 0x7fffffffu;
        let is_nan = magnitude > 0x7f800000u;
        let left_out = (params.chosen == 1u && magnitude == 0u) || (params.chosen != 0u && is_nan);
        let owner = pair / params.heads / params.tasks * params.heads + pair % params.heads;
        let masked = !left_out && mask[params.mask_offset + owner] != 0u;
        var sum = 0.0;
        if (masked) { sum = invocation_sum(pair, local); }
        sums[local] = sum;
        workgroupBarrier();
        for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
            if (local < half) { sums[local] += sums[local + half]; }
            workgroupBarrier();
        }
        if (local == 0u) {
            if (masked) {
                let factor = select(1.0, bitcast<f32>(gate), params.times_gate != 0u);
                delta[params.delta_offset + pair] = bitcast<u32>(sums[0] * factor);
            } else if (params.keep_others == 0u) {
                delta[params.delta_offset + pair] = select(0u, NAN_BITS, is_nan);
            }
        }
        // The next pair's sums overwrite what invocation 0 reads.
        workgroupBarrier();
    }
}
