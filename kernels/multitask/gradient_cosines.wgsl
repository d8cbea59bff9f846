// multitask_gradient_cosines_f32: norms of the tasks' gradients and cosines between them, from partial inner products.
// Shapes    partial [chunks, tasks, tasks] f32, upper triangle; norms [tasks], cosines [tasks, tasks] f32
// Mapping   persistent, workgroup 128; an invocation owns a pair
// Traffic   12 bytes a chunk and pair, mostly from cache
// Numerics  f32, chunks in order. A task is at cosine 1 to itself; 0 to and from a zero gradient; within −1..=1. A product that is
//           not finite gives NaN
// Host      tasks < 2^15
// Twin      src/multitask/cpu.rs        Source  Chen et al., arXiv:1711.02257 (norms); Yu et al., arXiv:2001.06782 (cosines)
struct Params {
    partial_offset: u32, norms_offset: u32, cosines_offset: u32,
    tasks: u32, chunks: u32,
}
@group(0) @binding(0) var<storage, read> partials: array<f32>;
@group(0) @binding(1) var<storage, read_write> norms: array<u32>;
@group(0) @binding(2) var<storage, read_write> cosines: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

const WORKGROUP: u32 = 128u;

fn product(i: u32, j: u32) -> f32 {
    let at = params.partial_offset + min(i, j) * params.tasks + max(i, j);
    var sum = 0.0;
    for (var chunk = 0u; chunk < params.chunks; chunk += 1u) { sum += partials[at + chunk * params.tasks * params.tasks]; }
    return sum;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    for (var pair = id.x; pair < params.tasks * params.tasks; pair += workgroups.x * WORKGROUP) {
        let i = pair / params.tasks;
        let j = pair % params.tasks;
        let square = product(i, i);
        let other_square = product(j, j);
        let dot = product(i, j);
        var cosine = 0.0;
        if (square > 0.0 && other_square > 0.0) { cosine = clamp(dot / sqrt(square) / sqrt(other_square), -1.0, 1.0); }
        if (i == j && square > 0.0) { cosine = 1.0; }
        let finite = is_finite(square) && is_finite(other_square) && is_finite(dot);
        cosines[params.cosines_offset + pair] = select(NAN_BITS, bitcast<u32>(cosine), finite);
        if (i == j) { norms[params.norms_offset + i] = select(bitcast<u32>(square), bitcast<u32>(sqrt(square)), finite); }
    }
}
