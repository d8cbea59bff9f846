// statevec_collapse: projects every trajectory on the outcome of a qubit, in place; a reset then moves it to |0⟩.
// Shapes    states [rows, 2^n] c64 contiguous; decisions [rows, 2] u32 from statevec_measure
// Mapping   persistent, workgroup 256; an invocation owns a pair of amplitudes
// Traffic   16 bytes read and 32 written a pair
// Host      every element index < 2^32
// Twin      src/statevec/dynamic/rows.rs        Source  our own
struct Params {
    states_first: u32, decisions_first: u32,
    rows: u32, qubits: u32, qubit: u32, reset: u32,
}
@group(0) @binding(0) var<storage, read_write> states: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> decisions: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let pair_bits = params.qubits - 1u;
    for (var at = id.x; at < (params.rows << pair_bits); at += workgroups.x * 256u) {
        let row = at >> pair_bits;
        let pair = at & ((1u << pair_bits) - 1u);
        let i0 = ((pair >> params.qubit) << (params.qubit + 1u)) | (pair & ((1u << params.qubit) - 1u));
        let outcome = decisions[params.decisions_first + 2u * row];
        let factor = bitcast<f32>(decisions[params.decisions_first + 2u * row + 1u]);
        let first = params.states_first + (row << params.qubits);
        let kept = i0 | (outcome << params.qubit);
        let goal = select(kept, i0, params.reset != 0u);
        states[first + goal] = states[first + kept] * factor;
        states[first + (goal ^ (1u << params.qubit))] = vec2<f32>(0.0);
    }
}
