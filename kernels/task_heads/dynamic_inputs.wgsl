// task_heads_dynamic_inputs_f32: dx[b,f] = Σ_h dz[b,h]·w[t_b,h,f], summed over the samples that share x.
// Shapes    dz [batch, heads] f32 contiguous; weights [tasks, heads, features] strided, last = 1; ids [batch] i32, u32 or i64 strided,
//           or none: all samples are of task 0; dx [batch / repeat, features] contiguous
// Mapping   persistent, workgroup 128; an invocation owns an element and walks its samples and heads in ascending order
// Traffic   weights once a sample, from cache; dx once
// Bad id    NaN, never used as an index; without a task 0
// Host      batch · heads < 2^31, batch · features < 2^32; every element index < 2^32
// Twin      src/task_heads/cpu_scores.rs        Source  our own
struct Params {
    dz_offset: u32, weights_offset: u32, ids_offset: u32, dx_offset: u32,
    task_stride: u32, head_stride: u32, id_stride: u32,
    batch: u32, heads: u32, tasks: u32, features: u32,
    has_ids: u32, id_kind: u32,
    // Samples in a row that share x.
    repeat: u32,
}
@group(0) @binding(0) var<storage, read> dz: array<f32>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> dx: array<u32>;
@group(0) @binding(4) var<uniform> params: Params;

const WORKGROUP: u32 = 128u;
const NO_TASK: i32 = -1;
const BAD_TASK: i32 = -2;

fn task_of(sample: u32) -> i32 {
    if (params.has_ids == 0u) { return 0; }
    let index = params.ids_offset + sample * params.id_stride;
    let low = ids[id_low(params.id_kind, index)];
    let sign = select(0u, 0xffffffffu, params.id_kind == 0u && (low >> 31u) != 0u);
    let high = select(sign, ids[id_high(params.id_kind, index)], params.id_kind == 2u);
    if (low == 0xffffffffu && (params.id_kind == 1u || high == 0xffffffffu)) { return NO_TASK; }
    return select(BAD_TASK, i32(low), high == 0u && low < params.tasks);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    for (var index = id.x; index < params.batch / params.repeat * params.features; index += workgroups.x * WORKGROUP) {
        let begin = index / params.features * params.repeat;
        let feature = index % params.features;
        var sum = 0.0;
        var is_bad = false;
        for (var sample = begin; sample < begin + params.repeat; sample += 1u) {
            let task = task_of(sample);
            is_bad = is_bad || task == BAD_TASK;
            if (task < 0) { continue; }
            let first = params.weights_offset + u32(task) * params.task_stride + feature;
            for (var head = 0u; head < params.heads; head += 1u) {
                sum += dz[params.dz_offset + sample * params.heads + head] * weights[first + head * params.head_stride];
            }
        }
        dx[params.dx_offset + index] = select(bitcast<u32>(sum), NAN_BITS, is_bad);
    }
}
