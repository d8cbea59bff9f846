// task_heads_gather_f32: grad_o[b,h] = Σ_t g[b,t,h]·dy[b,t,h], what every task asks of a head's one output.
// Shapes    dy [batch, tasks, heads, rows, columns] strided, last = 1; gates [batch, tasks, heads] f32 contiguous;
//           order [batch·heads], counts [2] u32; grad_o [batch, heads, rows, columns] f32 contiguous
// Mapping   persistent, workgroup 256; a workgroup takes 64 rows of one listed (sample, head), an invocation an element for all tasks
// Traffic   dy of the gates that are not 0 once, grad_o of the listed pairs once
// Numerics  f32; tasks in ascending order, a gate of 0 left out; NaN where a gate is NaN
// Host      batch · tasks · heads < 2^31, columns ≥ 1; every element index < 2^32
// Twin      src/task_heads/every_task/cpu.rs        Source  our own
struct Params {
    dy_offset: u32, gates_offset: u32, order_offset: u32, counts_offset: u32, grad_o_offset: u32,
    dy_stride_b: u32, dy_stride_t: u32, dy_stride_h: u32, dy_stride_r: u32,
    batch: u32, tasks: u32, heads: u32, rows: u32, columns: u32,
}
@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> gates: array<u32>;
@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read> counts: array<u32>;
// Bits: a compiler may assume that an f32 is no NaN.
@group(0) @binding(4) var<storage, read_write> grad_o: array<u32>;
@group(0) @binding(5) var<uniform> params: Params;

const WORKGROUP: u32 = 256u;
const ROWS: u32 = 64u;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let pairs = params.batch * params.heads;
    // The list is the caller's to keep: a count or a pair that cannot be is not used as an index.
    let listed = min(counts[params.counts_offset], pairs);
    let tiles = params.rows / ROWS + select(0u, 1u, params.rows % ROWS != 0u);
    for (var item = workgroup.x; item < listed * tiles; item += workgroups.x) {
        let pair = order[params.order_offset + item / tiles];
        if (pair >= pairs) { continue; }
        let sample = pair / params.heads;
        let head = pair % params.heads;
        let row0 = item % tiles * ROWS;
        let rows_from = params.dy_offset + sample * params.dy_stride_b + head * params.dy_stride_h + row0 * params.dy_stride_r;
        let rows_to = params.grad_o_offset + (pair * params.rows + row0) * params.columns;
        let of_pair = params.gates_offset + sample * params.tasks * params.heads + head;
        let elements = min(ROWS, params.rows - row0) * params.columns;
        for (var e = local; e < elements; e += WORKGROUP) {
            let element = rows_from + e / params.columns * params.dy_stride_r + e % params.columns;
            var sum = 0.0;
            var is_nan = false;
            for (var task = 0u; task < params.tasks; task += 1u) {
                let gate = gates[of_pair + task * params.heads];
                let magnitude = gate & 0x7fffffffu;
                is_nan = is_nan || magnitude > 0x7f800000u;
                if (magnitude != 0u && magnitude <= 0x7f800000u) {
                    sum += bitcast<f32>(gate) * dy[element + task * params.dy_stride_t];
                }
            }
            grad_o[rows_to + e] = select(bitcast<u32>(sum), NAN_BITS, is_nan);
        }
    }
}
