// density_qubit_backward: gradients of whole sequences of ρ(t+1) = S(ρ(t), x(t)).
// Shapes    program, theta, inputs as qubit_forward.wgsl; states, grads [batch, steps + 1, 2, 2] c64 contiguous; work [4·operations,
//           batch] f32: the Bloch vector before each operation, then each operation's gradient summed over the steps; dx [batch,
//           steps, inputs] f32 contiguous, zeroed; dinitial [batch, 2, 2] c64
// Mapping   persistent, workgroup 64; an invocation owns a sequence and walks it backwards, recomputing each step from its saved state
// Traffic   64 bytes a step, and 32 an operation and step in work
// Numerics  f32
// Host      every index in the program is in range; batch < 2^31; every element index < 2^32
// Twin      src/statevec/density/qubit_run.rs        Source  our own
struct Params {
    program_first: u32, theta_first: u32, inputs_first: u32, states_first: u32, grads_first: u32, work_first: u32, dx_first: u32,
    dinitial_first: u32,
    // Elements; the high words are 0.
    sequence_step: u32, sequence_high: u32, time_step: u32, time_high: u32, input_step: u32,
    batch: u32, steps: u32, operations: u32, width: u32,
}
@group(0) @binding(0) var<storage, read> program: array<u32>;
@group(0) @binding(1) var<storage, read> theta: array<f32>;
@group(0) @binding(2) var<storage, read> inputs: array<f32>;
@group(0) @binding(3) var<storage, read> states: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> grads: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> work: array<f32>;
@group(0) @binding(6) var<storage, read_write> dx: array<f32>;
@group(0) @binding(7) var<storage, read_write> dinitial: array<vec2<f32>>;
@group(0) @binding(8) var<uniform> params: Params;

// The gradient by (x, y, z, trace) from that by the entries.
fn load_gradient(at: u32) -> vec4<f32> {
    let a = grads[at];
    let b = grads[at + 1u];
    let c = grads[at + 2u];
    let d = grads[at + 3u];
    return 0.5 * vec4<f32>(b.x + c.x, c.y - b.y, a.x - d.x, a.x + d.x);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    for (var sequence = id.x; sequence < params.batch; sequence += workgroups.x * 64u) {
        let first = sequence * (params.steps + 1u) * 4u;
        var g = load_gradient(params.grads_first + first + params.steps * 4u);
        let own = params.work_first + sequence;
        let slopes = own + 3u * params.operations * params.batch;
        for (var op = 0u; op < params.operations; op += 1u) { work[slopes + op * params.batch] = 0.0; }
        for (var left = params.steps; left > 0u; left -= 1u) {
            let step = left - 1u;
            let at = params.inputs_first + sequence * params.sequence_step + step * params.time_step;
            let state = params.states_first + first + step * 4u;
            let a = states[state];
            let b = states[state + 1u];
            let c = states[state + 2u];
            let d = states[state + 3u];
            var r = vec4<f32>(b.x + c.x, c.y - b.y, a.x - d.x, a.x + d.x);
            for (var op = 0u; op < params.operations; op += 1u) {
                let saved = own + 3u * op * params.batch;
                work[saved] = r.x;
                work[saved + params.batch] = r.y;
                work[saved + 2u * params.batch] = r.z;
                r = apply(op, parameter(op, at).p, r);
            }
            let step_dx = params.dx_first + (sequence * params.steps + step) * params.width;
            for (var remaining = params.operations; remaining > 0u; remaining -= 1u) {
                let op = remaining - 1u;
                let saved = own + 3u * op * params.batch;
                let before = vec4<f32>(work[saved], work[saved + params.batch], work[saved + 2u * params.batch], r.w);
                let pulled = pull_back(op, parameter(op, at).p, before, g);
                g = pulled.g;
                let source = word(op, 1u);
                let scaled = number(op, 3u) * pulled.slope;
                if (source == 1u) { work[slopes + op * params.batch] += scaled; }
                if (source == 2u) { dx[step_dx + word(op, 2u)] += scaled; }
            }
            g += load_gradient(params.grads_first + first + step * 4u);
        }
        let to = params.dinitial_first + sequence * 4u;
        dinitial[to] = vec2<f32>(g.w + g.z, 0.0);
        dinitial[to + 1u] = vec2<f32>(g.x, -g.y);
        dinitial[to + 2u] = vec2<f32>(g.x, g.y);
        dinitial[to + 3u] = vec2<f32>(g.w - g.z, 0.0);
    }
}
