// density_qubit_forward: ρ(t+1) = S(ρ(t), x(t)) of one qubit for whole sequences.
// Shapes    program words (qubit.cuh); theta [thetas] f32; inputs [batch, steps, inputs] f32 strided; initial [batch|1, 2, 2] c64;
//           result [batch, steps + 1, 2, 2] c64 contiguous
// Mapping   persistent, workgroup 64; an invocation owns a sequence, its state in registers
// Traffic   inputs once, 32 bytes a step;  FLOPs 9 to 21 an operation
// Numerics  Bloch vector and trace in f32
// Bad value a parameter that is NaN, infinite or no probability: NaN from that step on, status word set
// Host      every index in the program is in range; batch < 2^31; every element index < 2^32
// Twin      src/statevec/density/qubit_run.rs        Source  our own
struct Params {
    program_first: u32, theta_first: u32, inputs_first: u32, initial_first: u32, result_first: u32,
    // Elements; the high words are 0.
    sequence_step: u32, sequence_high: u32, time_step: u32, time_high: u32, input_step: u32,
    initial_step: u32,
    batch: u32, steps: u32, operations: u32, has_initial: u32,
}
@group(0) @binding(0) var<storage, read> program: array<u32>;
@group(0) @binding(1) var<storage, read> theta: array<f32>;
@group(0) @binding(2) var<storage, read> inputs: array<f32>;
@group(0) @binding(3) var<storage, read> initial: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> result: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read_write> status: array<atomic<u32>>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    for (var sequence = id.x; sequence < params.batch; sequence += workgroups.x * 64u) {
        var r = vec4<f32>(0.0, 0.0, 1.0, 1.0);
        if (params.has_initial != 0u) {
            let at = params.initial_first + sequence * params.initial_step;
            let a = initial[at];
            let b = initial[at + 1u];
            let c = initial[at + 2u];
            let d = initial[at + 3u];
            r = vec4<f32>(b.x + c.x, c.y - b.y, a.x - d.x, a.x + d.x);
        }
        var bad = false;
        for (var step = 0u; step <= params.steps; step += 1u) {
            let to = params.result_first + (sequence * (params.steps + 1u) + step) * 4u;
            let half = 0.5 * r;
            // Stored as bits, so that NaN is one whatever the compiler assumes of numbers.
            let spoiled = vec2<u32>(NAN_BITS);
            result[to] = select(bitcast<vec2<u32>>(vec2<f32>(half.w + half.z, 0.0)), spoiled, bad);
            result[to + 1u] = select(bitcast<vec2<u32>>(vec2<f32>(half.x, -half.y)), spoiled, bad);
            result[to + 2u] = select(bitcast<vec2<u32>>(vec2<f32>(half.x, half.y)), spoiled, bad);
            result[to + 3u] = select(bitcast<vec2<u32>>(vec2<f32>(half.w - half.z, 0.0)), spoiled, bad);
            if (step < params.steps) {
                let at = params.inputs_first + sequence * params.sequence_step + step * params.time_step;
                for (var op = 0u; op < params.operations; op += 1u) {
                    let value = parameter(op, at);
                    if (!value.valid) {
                        atomicOr(&status[STATUS_PARAMETER], 1u);
                        bad = true;
                    } else {
                        r = apply(op, value.p, r);
                    }
                }
            }
        }
    }
}
