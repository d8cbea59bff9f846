// task_heads_dynamic_weights_f32: dw[t,h,f] = Σ_b dz[b,h]·x[b,f] and dbias[t,h] = Σ_b dz[b,h] over the samples of task t.
// Shapes    dz [batch, heads] f32 contiguous; x [batch / repeat, features] strided, last = 1; ids [batch] i32, u32 or i64 strided, or none: all
//           samples are of task 0; out [tasks, heads, features] contiguous
// Mapping   persistent, workgroup 128; an invocation owns a weight and walks the batch in ascending order: no atomics
// Traffic   ids and dz once an invocation, from cache; x once a head, neighbouring invocations neighbouring features
// Numerics  f32; for the bias features is 1 and x, which is not there, counts as 1
// Bad id    equals no task, so it is not summed; neither is NO_TASK
// Host      batch · heads < 2^31, tasks · heads · features < 2^32; every element index < 2^32
// Twin      src/task_heads/cpu_scores.rs        Source  our own
struct Params {
    dz_offset: u32, x_offset: u32, ids_offset: u32, out_offset: u32,
    x_stride: u32, id_stride: u32,
    batch: u32, heads: u32, tasks: u32, features: u32,
    has_ids: u32, id_kind: u32, has_x: u32,
    // Samples in a row that share x.
    repeat: u32,
}
@group(0) @binding(0) var<storage, read> dz: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> sums: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

const WORKGROUP: u32 = 128u;

// Tasks are below 2^31, so an id equals one if its low word does and its upper bits are 0.
fn is_of_task(sample: u32, task: u32) -> bool {
    if (params.has_ids == 0u) { return true; }
    let index = params.ids_offset + sample * params.id_stride;
    if (ids[id_low(params.id_kind, index)] != task) { return false; }
    return params.id_kind != 2u || ids[id_high(params.id_kind, index)] == 0u;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    for (var index = id.x; index < params.tasks * params.heads * params.features; index += workgroups.x * WORKGROUP) {
        let feature = index % params.features;
        let head = index / params.features % params.heads;
        let task = index / params.features / params.heads;
        var sum = 0.0;
        for (var sample = 0u; sample < params.batch; sample += 1u) {
            if (is_of_task(sample, task)) {
                var value = 1.0;
                if (params.has_x != 0u) { value = x[params.x_offset + sample / params.repeat * params.x_stride + feature]; }
                sum += dz[params.dz_offset + sample * params.heads + head] * value;
            }
        }
        sums[params.out_offset + index] = sum;
    }
}
