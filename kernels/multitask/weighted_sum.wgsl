// multitask_weighted_sum_f32: Σ_t w_t x_t, or the mean Σ w_t x_t / Σ w_t over the tasks that have rows.
// Shapes    values [tasks] f32 strided; weights [tasks] f32; counts [tasks] u32; rows as multitask_rows leaves them, or none; total [1] f32
// Mapping   1 workgroup of 32; one invocation adds the tasks in order
// Traffic   12 bytes a task
// Numerics  as weighted_sum.cu; NaN and ∞ are told by their bits
// Host      tasks < 2^31
// Twin      src/multitask/cpu.rs        Source  our own
struct Params {
    values_offset: u32, weights_offset: u32, counts_offset: u32, rows_offset: u32, total_offset: u32,
    value_stride: u32,
    tasks: u32, has_weights: u32,
    mean: u32,
    // Where in rows the number of bad rows stands.
    has_rows: u32, bad: u32,
}
@group(0) @binding(0) var<storage, read> values: array<u32>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> counts: array<u32>;
@group(0) @binding(3) var<storage, read> rows: array<u32>;
@group(0) @binding(4) var<storage, read_write> total: array<u32>;
@group(0) @binding(5) var<uniform> params: Params;

const WORKGROUP: u32 = 32u;
const INFINITY_BITS: u32 = 0x7f800000u;
const SIGN: u32 = 0x80000000u;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x != 0u) { return; }
    var sum = 0.0;
    var weight_sum = 0.0;
    // Signs of the infinities met: bit 0 positive, bit 1 negative.
    var infinities = 0u;
    var is_nan = false;
    for (var task = 0u; task < params.tasks; task += 1u) {
        var weight = 1.0;
        if (params.has_weights != 0u) { weight = weights[params.weights_offset + task]; }
        var counted = weight != 0.0;
        if (params.mean != 0u) { counted = counted && counts[params.counts_offset + task] != 0u; }
        if (counted) {
            let bits = values[params.values_offset + task * params.value_stride];
            if (is_nan_bits(bits)) {
                is_nan = true;
            } else if ((bits & 0x7fffffffu) == INFINITY_BITS) {
                infinities |= select(1u, 2u, ((bits ^ bitcast<u32>(weight)) & SIGN) != 0u);
            } else {
                sum += weight * bitcast<f32>(bits);
            }
            weight_sum += weight;
        }
    }
    if (params.mean != 0u) {
        if (weight_sum == 0.0) { sum = 0.0; } else { sum /= weight_sum; }
    }
    if (params.has_rows != 0u) { is_nan = is_nan || rows[params.rows_offset + params.bad] != 0u; }
    var bits = bitcast<u32>(sum);
    if (infinities == 1u) { bits = INFINITY_BITS; }
    if (infinities == 2u) { bits = INFINITY_BITS | SIGN; }
    if (is_nan || infinities == 3u) { bits = NAN_BITS; }
    total[params.total_offset] = bits;
}
