// task_heads_gate_backward_f32: derivative by z of every (sample, head), from δ, the gates and the probabilities.
// Shapes    delta, gates, probabilities, dz [batch, heads] f32, contiguous
// Mapping   persistent, workgroup 128; an invocation owns one (sample, head) and sums its sample's heads in ascending order
// Traffic   3·heads reads a pair, from cache
// Numerics  sigmoid δ(1 − g); softmax δ − pΣδ; renormalised top-k δ − gΣδ; straight-through P(δ − pΣδ), P = Σp of the kept heads.
//           No division by g
// Host      batch · heads < 2^31; every element index < 2^32
// Twin      src/task_heads/cpu.rs        Source  arXiv:1308.3432 (straight-through)
struct Params {
    delta_offset: u32, gates_offset: u32, probabilities_offset: u32, dz_offset: u32,
    pairs: u32, heads: u32,
    // 0 identity, 1 sigmoid, 2 probabilities, 3 gates, 4 straight-through.
    derivative: u32,
    // The first of each sample have the constant gate 1.
    shared_heads: u32,
}
@group(0) @binding(0) var<storage, read> delta: array<f32>;
@group(0) @binding(1) var<storage, read> gates: array<f32>;
@group(0) @binding(2) var<storage, read> probabilities: array<f32>;
@group(0) @binding(3) var<storage, read_write> dz: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

const WORKGROUP: u32 = 128u;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    for (var pair = id.x; pair < params.pairs; pair += workgroups.x * WORKGROUP) {
        let own = delta[params.delta_offset + pair];
        let gate = gates[params.gates_offset + pair];
        let probability = probabilities[params.probabilities_offset + pair];
        var result = own;
        if (pair % params.heads < params.shared_heads) {
            result = 0.0;
        } else if (params.derivative == 1u) {
            result = own * (1.0 - gate);
        } else if (params.derivative != 0u) {
            let first = pair - pair % params.heads + params.shared_heads;
            let end = first + params.heads - params.shared_heads;
            var total = 0.0;
            var kept = 0.0;
            for (var other = first; other < end; other += 1u) {
                total += delta[params.delta_offset + other];
                let is_kept = gates[params.gates_offset + other] != 0.0;
                if (is_kept) { kept += probabilities[params.probabilities_offset + other]; }
            }
            result = own - select(probability, gate, params.derivative == 3u) * total;
            if (params.derivative == 4u) { result *= kept; }
        }
        dz[params.dz_offset + pair] = result;
    }
}
