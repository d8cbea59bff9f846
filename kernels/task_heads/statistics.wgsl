// task_heads_statistics_f32: of each task and head, the fraction of samples whose gate is not 0 and the mean probability.
// Shapes    gates, probabilities [batch, heads] f32 contiguous; ids [batch] i32, u32 or i64 strided, or none: all samples are of task 0;
//           selected, mean_probability [tasks, heads] f32; counts [tasks] u32
// Mapping   persistent, workgroup 128; an invocation owns a (task, head) and walks the batch in ascending order: no atomics
// Traffic   ids once an invocation, from cache; gates and probabilities once
// Numerics  f32; 0 for a task without samples; a gate is 0 by its bits
// Bad id    equals no task, so it is not counted; neither is NO_TASK
// Host      batch · heads < 2^31; every element index < 2^32
// Twin      src/task_heads/cpu_statistics.rs        Source  Fedus et al., arXiv:2101.03961, §2.2
struct Params {
    gates_offset: u32, probabilities_offset: u32, ids_offset: u32, selected_offset: u32, mean_probability_offset: u32,
    counts_offset: u32,
    id_stride: u32,
    batch: u32, heads: u32, tasks: u32,
    has_ids: u32, id_kind: u32,
}
@group(0) @binding(0) var<storage, read> gates: array<u32>;
@group(0) @binding(1) var<storage, read> probabilities: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> selected_share: array<f32>;
@group(0) @binding(4) var<storage, read_write> mean_probability: array<f32>;
@group(0) @binding(5) var<storage, read_write> counts: array<u32>;
@group(0) @binding(6) var<uniform> params: Params;

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
    for (var index = id.x; index < params.tasks * params.heads; index += workgroups.x * WORKGROUP) {
        let task = index / params.heads;
        let head = index % params.heads;
        var samples = 0u;
        var on = 0u;
        var sum = 0.0;
        for (var sample = 0u; sample < params.batch; sample += 1u) {
            if (is_of_task(sample, task)) {
                let pair = sample * params.heads + head;
                samples += 1u;
                on += select(0u, 1u, (gates[params.gates_offset + pair] & 0x7fffffffu) != 0u);
                sum += probabilities[params.probabilities_offset + pair];
            }
        }
        let count = f32(max(samples, 1u));
        selected_share[params.selected_offset + index] = f32(on) / count;
        mean_probability[params.mean_probability_offset + index] = sum / count;
        if (head == 0u) { counts[params.counts_offset + task] = samples; }
    }
}
