// statevec_scale_rows_c64: out[s,·] = f_s·state[s,·]: the gradient of overlaps and fidelities by one of the states.
// Shapes    states [samples, 2^n] c64, rows strided; grads [samples] c64, or f32 with overlaps [samples] c64; result [samples, 2^n]
// Mapping   persistent, workgroup 256; an invocation owns an amplitude
// Traffic   16 bytes an amplitude
// Numerics  f is the gradient (times twice the overlap for a fidelity), conjugated for the first state
// Host      every element index < 2^32
// Twin      src/statevec/readout/cpu.rs        Source  our own
struct Params {
    states_first: u32, grads_first: u32, overlaps_first: u32, result_first: u32,
    // Elements from sample to sample; the high word is 0.
    step: u32, step_high: u32,
    samples: u32, qubits: u32, conjugate: u32, fidelity: u32,
}
@group(0) @binding(0) var<storage, read> states: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> grads: array<f32>;
@group(0) @binding(2) var<storage, read> overlaps: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> result: array<vec2<f32>>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    for (var at = id.x; at < (params.samples << params.qubits); at += workgroups.x * 256u) {
        let sample = at >> params.qubits;
        var f = vec2<f32>(0.0);
        if (params.fidelity != 0u) {
            f = 2.0 * grads[params.grads_first + sample] * overlaps[params.overlaps_first + sample];
        } else {
            // A complex tensor's offset counts complex numbers.
            let first = 2u * (params.grads_first + sample);
            f = vec2<f32>(grads[first], grads[first + 1u]);
        }
        if (params.conjugate != 0u) { f.y = -f.y; }
        let a = states[params.states_first + sample * params.step + (at & ((1u << params.qubits) - 1u))];
        result[params.result_first + at] = vec2<f32>(f.x * a.x - f.y * a.y, f.y * a.x + f.x * a.y);
    }
}
