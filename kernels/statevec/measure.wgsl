// statevec_measure: draws the outcome of one qubit for every trajectory.
// Shapes    stream [4] u32; weights [rows, 2] f32 (|·|² where the qubit is 0, and 1); ids [rows] u64; decisions [rows, 2] u32:
//           outcome, bits of the factor that restores the norm
// Mapping   persistent, workgroup 128; an invocation owns a trajectory
// Traffic   24 bytes a row
// Numerics  as measure.cu: the same integers, so the same outcomes
// Bad norm  outcome 0, factor NaN, status word set
// Host      rows < 2^31; every element index < 2^32
// Twin      src/statevec/dynamic/rows.rs        Source  our own
struct Params {
    stream_first: u32, weights_first: u32, ids_first: u32, decisions_first: u32,
    rows: u32, event: u32,
}
@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> decisions: array<u32>;
@group(0) @binding(4) var<storage, read_write> status: array<atomic<u32>>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(128)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let at = params.stream_first;
    let offset = add_wide(vec2<u32>(source[at + 2u], source[at + 3u]), vec2<u32>(params.event, 0u));
    let stream = vec4<u32>(source[at], source[at + 1u], offset);
    for (var row = id.x; row < params.rows; row += workgroups.x * 128u) {
        let zero = weights[params.weights_first + 2u * row];
        let one = weights[params.weights_first + 2u * row + 1u];
        let exponent = exponent_of(zero + one);
        let below = fixed_point(bitcast<u32>(zero), exponent);
        let total = add_wide(below, fixed_point(bitcast<u32>(one), exponent));
        var outcome = 0u;
        var factor = NAN_BITS;
        if (total.x == 0u && total.y == 0u) {
            atomicOr(&status[STATUS_NORM], 1u);
        } else {
            let words = random_block(stream, ids[params.ids_first + row]);
            outcome = select(1u, 0u, is_below(upper_product(words.xy, total), below));
            factor = bitcast<u32>(1.0 / sqrt(select(zero, one, outcome != 0u)));
        }
        decisions[params.decisions_first + 2u * row] = outcome;
        decisions[params.decisions_first + 2u * row + 1u] = factor;
    }
}
