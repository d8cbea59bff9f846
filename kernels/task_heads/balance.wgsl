// task_heads_balance_f32: balance H·Σ f·P, entropy and active fraction of each task, from its statistics.
// Shapes    selected, mean_probability [tasks, heads] f32; summary [tasks, 3] f32: balance, entropy, active fraction
// Mapping   persistent, workgroup 128; an invocation owns a task and walks its heads in ascending order
// Traffic   8 bytes a head, twice
// Numerics  as balance.cu
// Host      tasks · heads < 2^31; every element index < 2^32
// Twin      src/task_heads/cpu_statistics.rs        Source  Fedus et al., arXiv:2101.03961, §2.2
struct Params {
    selected_offset: u32, mean_probability_offset: u32, summary_offset: u32,
    tasks: u32, heads: u32, shared_heads: u32,
}
@group(0) @binding(0) var<storage, read> selected_share: array<f32>;
@group(0) @binding(1) var<storage, read> mean_probability: array<f32>;
@group(0) @binding(2) var<storage, read_write> summary: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

const WORKGROUP: u32 = 128u;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    for (var task = id.x; task < params.tasks; task += workgroups.x * WORKGROUP) {
        var product = 0.0;
        var total = 0.0;
        var all_on = 0.0;
        var entropy = 0.0;
        for (var head = 0u; head < params.heads; head += 1u) {
            let f = selected_share[params.selected_offset + task * params.heads + head];
            all_on += f;
            if (head >= params.shared_heads) {
                let probability = mean_probability[params.mean_probability_offset + task * params.heads + head];
                product += f * probability;
                total += probability;
            }
        }
        for (var head = params.shared_heads; head < params.heads; head += 1u) {
            let probability = mean_probability[params.mean_probability_offset + task * params.heads + head];
            var q = 0.0;
            if (total != 0.0) { q = probability / total; }
            if (!(q <= 0.0)) { entropy -= q * log(q); }
        }
        let at = params.summary_offset + 3u * task;
        summary[at] = f32(params.heads - params.shared_heads) * product;
        summary[at + 1u] = entropy;
        summary[at + 2u] = all_on / f32(max(params.heads, 1u));
    }
}
