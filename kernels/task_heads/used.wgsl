// task_heads_used_f32: which heads some task uses, where every sample is asked every task.
// Shapes    gates [batch, tasks, heads] f32 contiguous; used [batch, heads] f32: 1, 0, or NaN
// Mapping   persistent, workgroup 128; an invocation owns a (sample, head) and walks the tasks
// Traffic   gates and used once
// Numerics  by bits; 1 if a task's gate is neither 0 nor NaN; of the others NaN if one is NaN, otherwise 0
// Host      batch · tasks · heads < 2^31; every element index < 2^32
// Twin      src/task_heads/every_task/cpu.rs        Source  our own
struct Params {
    gates_offset: u32, used_offset: u32,
    batch: u32, tasks: u32, heads: u32,
}
@group(0) @binding(0) var<storage, read> gates: array<u32>;
@group(0) @binding(1) var<storage, read_write> used: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

const WORKGROUP: u32 = 128u;
const ONE_BITS: u32 = 0x3f800000u;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    for (var pair = id.x; pair < params.batch * params.heads; pair += workgroups.x * WORKGROUP) {
        let of_pair = params.gates_offset + pair / params.heads * params.tasks * params.heads + pair % params.heads;
        var any_active = false;
        var any_nan = false;
        for (var task = 0u; task < params.tasks; task += 1u) {
            let magnitude = gates[of_pair + task * params.heads] & 0x7fffffffu;
            any_active = any_active || (magnitude != 0u && magnitude <= 0x7f800000u);
            any_nan = any_nan || magnitude > 0x7f800000u;
        }
        used[params.used_offset + pair] = select(select(0u, NAN_BITS, any_nan), ONE_BITS, any_active);
    }
}
