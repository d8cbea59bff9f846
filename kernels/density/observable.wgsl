// density_observable_c64: λ = Σ weight·observable as a matrix: what the adjoint of a density matrix starts from.
// Shapes    weights [samples, observables] f32, rows strided; table as read.wgsl; result [samples, 2^n, 2^n] c64 contiguous
// Mapping   persistent, workgroup 128; an invocation owns an entry
// Traffic   8 bytes an entry; the table from cache
// Host      n ≤ 15; every element index < 2^32
// Twin      src/statevec/density/batch.rs        Source  our own
struct Params {
    weights_first: u32, table_first: u32, result_first: u32,
    // Elements from sample to sample; the high word is 0.
    step: u32, step_high: u32,
    samples: u32, qubits: u32, observables: u32,
}
@group(0) @binding(0) var<storage, read> weights: array<f32>;
@group(0) @binding(1) var<storage, read> table: array<u32>;
@group(0) @binding(2) var<storage, read_write> result: array<vec2<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(128)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let mask = (1u << params.qubits) - 1u;
    for (var at = id.x; at < (params.samples << (2u * params.qubits)); at += workgroups.x * 128u) {
        let column = at & mask;
        let row = (at >> params.qubits) & mask;
        let own = params.weights_first + (at >> (2u * params.qubits)) * params.step;
        var sum = vec2<f32>(0.0);
        for (var observable = 0u; observable < params.observables; observable += 1u) {
            let end = table[params.table_first + observable + 1u];
            for (var term = table[params.table_first + observable]; term < end; term += 4u) {
                let word = params.table_first + term;
                if (table[word] != (row ^ column)) { continue; }
                let y = table[word + 2u] & 3u;
                // i^y (−1)^parity: the sign of y = 2, 3 joins the parity.
                let sign = (countOneBits(column & table[word + 1u]) + (y >> 1u)) & 1u;
                let weight = bitcast<f32>(table[word + 3u]) * weights[own + observable];
                let value = select(weight, -weight, sign != 0u);
                sum += select(vec2<f32>(value, 0.0), vec2<f32>(0.0, value), (y & 1u) != 0u);
            }
        }
        result[params.result_first + at] = sum;
    }
}
