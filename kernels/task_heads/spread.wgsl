// task_heads_spread_f32: y[b,t,h] = g[b,t,h]·o[b,h], the output of a head once for every task.
// Shapes    o [batch, heads, rows, columns] strided, last = 1; gates [batch, tasks, heads] f32 contiguous; used [batch, heads] f32;
//           lse [batch, heads, rows] strided; y [batch, tasks, heads, rows, columns] strided, last = 1
// Mapping   persistent, workgroup 256; a workgroup takes 64 rows of one (sample, head), an invocation an element of o for all tasks
// Traffic   o and lse of the used heads once, y once; where y is known to hold zeros, nothing is written for a gate of 0
// Numerics  one rounding; 0 where the gate is 0, whatever o holds, NaN where it is NaN, and +0 in rows that see no key, as attention
//           scales them; o of a head that no task uses is not read
// Host      batch · tasks · heads < 2^31, columns ≥ 1; every element index < 2^32
// Twin      src/task_heads/every_task/cpu.rs        Source  our own
struct Params {
    o_offset: u32, gates_offset: u32, used_offset: u32, lse_offset: u32, y_offset: u32,
    o_stride_b: u32, o_stride_h: u32, o_stride_r: u32,
    y_stride_b: u32, y_stride_t: u32, y_stride_h: u32, y_stride_r: u32,
    lse_stride_b: u32, lse_stride_h: u32, lse_stride_r: u32,
    batch: u32, tasks: u32, heads: u32, rows: u32, columns: u32,
    // Zeros need not be written.
    zeroed: u32,
}
@group(0) @binding(0) var<storage, read> o: array<f32>;
@group(0) @binding(1) var<storage, read> gates: array<u32>;
@group(0) @binding(2) var<storage, read> used: array<u32>;
@group(0) @binding(3) var<storage, read> lse: array<u32>;
// Bits: a compiler may assume that an f32 is no NaN.
@group(0) @binding(4) var<storage, read_write> y: array<u32>;
@group(0) @binding(5) var<uniform> params: Params;

const WORKGROUP: u32 = 256u;
const ROWS: u32 = 64u;
const ONE_BITS: u32 = 0x3f800000u;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let tiles = params.rows / ROWS + select(0u, 1u, params.rows % ROWS != 0u);
    let work = params.batch * params.heads * tiles;
    for (var item = workgroup.x; item < work; item += workgroups.x) {
        let pair = item / tiles;
        let sample = pair / params.heads;
        let head = pair % params.heads;
        let row0 = item % tiles * ROWS;
        let use_bits = used[params.used_offset + pair];
        if (params.zeroed != 0u && use_bits == 0u) { continue; }
        let is_computed = use_bits == ONE_BITS;
        let rows_from = params.o_offset + sample * params.o_stride_b + head * params.o_stride_h + row0 * params.o_stride_r;
        let sums = params.lse_offset + sample * params.lse_stride_b + head * params.lse_stride_h + row0 * params.lse_stride_r;
        let rows_to = params.y_offset + sample * params.y_stride_b + head * params.y_stride_h + row0 * params.y_stride_r;
        let of_pair = params.gates_offset + sample * params.tasks * params.heads + head;
        let elements = min(ROWS, params.rows - row0) * params.columns;
        for (var e = local; e < elements; e += WORKGROUP) {
            let row = e / params.columns;
            let column = e % params.columns;
            var value = 0.0;
            var is_empty = false;
            if (is_computed) {
                value = o[rows_from + row * params.o_stride_r + column];
                is_empty = lse[sums + row * params.lse_stride_r] == NEGATIVE_INFINITY_BITS;
            }
            for (var task = 0u; task < params.tasks; task += 1u) {
                let gate = gates[of_pair + task * params.heads];
                let magnitude = gate & 0x7fffffffu;
                if (params.zeroed != 0u && magnitude == 0u) { continue; }
                let scaled = select(bitcast<u32>(value * bitcast<f32>(gate)), NAN_BITS, magnitude > 0x7f800000u);
                let is_zero = magnitude == 0u || (is_empty && magnitude <= 0x7f800000u);
                y[rows_to + task * params.y_stride_t + row * params.y_stride_r + column] = select(scaled, 0u, is_zero);
            }
        }
    }
}
