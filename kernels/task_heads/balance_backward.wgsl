// task_heads_balance_backward_f32: adds w_t·∂balance_t/∂z to dz; the fractions f are constants.
// Shapes    probabilities, dz [batch, heads] f32 contiguous; selected [tasks, heads] f32; counts [tasks] u32; weights [tasks] f32; ids
//           [batch] i32, u32 or i64 strided, or none: all samples are of task 0
// Mapping   persistent, workgroup 128; an invocation owns a (sample, head) and sums its sample's heads in ascending order
// Traffic   2·heads reads a pair, from cache; dz once
// Numerics  f32; H·w/n times p·(f − Σ p·f) where p is a softmax, p·(1 − p)·f where it is a sigmoid, f where p is z
// Bad id    dz is left as it is, and for NO_TASK; never used as an index
// Host      batch · heads < 2^31, tasks < 2^31; every element index < 2^32
// Twin      src/task_heads/cpu_statistics.rs        Source  Fedus et al., arXiv:2101.03961, §2.2
struct Params {
    probabilities_offset: u32, selected_offset: u32, counts_offset: u32, weights_offset: u32, ids_offset: u32, dz_offset: u32,
    id_stride: u32,
    batch: u32, heads: u32, tasks: u32, shared_heads: u32,
    has_ids: u32, id_kind: u32,
    // 0 p = z, 1 sigmoid, 2 softmax.
    family: u32,
}
@group(0) @binding(0) var<storage, read> probabilities: array<f32>;
@group(0) @binding(1) var<storage, read> selected_share: array<f32>;
@group(0) @binding(2) var<storage, read> counts: array<u32>;
@group(0) @binding(3) var<storage, read> weights: array<f32>;
@group(0) @binding(4) var<storage, read> ids: array<u32>;
@group(0) @binding(5) var<storage, read_write> dz: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

const WORKGROUP: u32 = 128u;
const NONE: u32 = 0xffffffffu;

fn task_of(sample: u32) -> u32 {
    if (params.has_ids == 0u) { return 0u; }
    let index = params.ids_offset + sample * params.id_stride;
    let low = ids[id_low(params.id_kind, index)];
    var high = 0u;
    if (params.id_kind == 2u) { high = ids[id_high(params.id_kind, index)]; }
    return select(NONE, low, high == 0u && low < params.tasks);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    for (var pair = id.x; pair < params.batch * params.heads; pair += workgroups.x * WORKGROUP) {
        let sample = pair / params.heads;
        let head = pair % params.heads;
        let task = task_of(sample);
        if (task == NONE || head < params.shared_heads) { continue; }
        let of_sample = params.probabilities_offset + sample * params.heads;
        let f = params.selected_offset + task * params.heads;
        let own = probabilities[of_sample + head];
        var slope = selected_share[f + head];
        if (params.family == 1u) { slope *= own * (1.0 - own); }
        if (params.family == 2u) {
            var mean = 0.0;
            for (var other = params.shared_heads; other < params.heads; other += 1u) {
                mean += probabilities[of_sample + other] * selected_share[f + other];
            }
            slope = own * (slope - mean);
        }
        let factor = f32(params.heads - params.shared_heads) * weights[params.weights_offset + task]
            / f32(counts[params.counts_offset + task]);
        dz[params.dz_offset + pair] += factor * slope;
    }
}
