// task_heads_sum_by_task_f32: out[t,h] = Σ dz[b,h] over the samples of task t.
// Shapes    dz [batch, heads] f32 contiguous; ids [batch] i32, u32 or i64 strided; out [tasks, heads] f32 contiguous
// Mapping   persistent, workgroup 128; an invocation owns one (task, head) and walks the batch in ascending order: no atomics, so
//           the sum is the same on every run
// Traffic   ids once an invocation, from cache; dz once
// Bad id    equals no task, so it is not summed; neither is NO_TASK
// Host      batch · heads < 2^31; every element index < 2^32
// Twin      src/task_heads/cpu.rs        Source  our own
struct Params {
    dz_offset: u32, id_offset: u32, id_stride: u32, out_offset: u32,
    batch: u32, heads: u32, tasks: u32,
    // 0 i32, 1 u32, 2 i64 (low word first).
    id_kind: u32,
}
@group(0) @binding(0) var<storage, read> dz: array<f32>;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

const WORKGROUP: u32 = 128u;

// Tasks are below 2^31, so an id equals one if its low word does and its upper bits are 0.
fn is_of_task(sample: u32, task: u32) -> bool {
    let index = params.id_offset + sample * params.id_stride;
    if (ids[id_low(params.id_kind, index)] != task) { return false; }
    return params.id_kind != 2u || ids[id_high(params.id_kind, index)] == 0u;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    for (var index = id.x; index < params.tasks * params.heads; index += workgroups.x * WORKGROUP) {
        let task = index / params.heads;
        let head = index % params.heads;
        var sum = 0.0;
        for (var sample = 0u; sample < params.batch; sample += 1u) {
            if (is_of_task(sample, task)) { sum += dz[params.dz_offset + sample * params.heads + head]; }
        }
        sums[params.out_offset + index] = sum;
    }
}
