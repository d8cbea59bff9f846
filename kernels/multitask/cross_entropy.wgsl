// multitask_cross_entropy_f32: loss of each row and, in the same launch, the gradient of Σ_t w_t L_t by its logits.
// Shapes    logits, dlogits [batch, columns, width] f32 strided, last = 1; rows as multitask_rows leaves them; counts, widths
//           [tasks] u32; weights [tasks] f32; row_losses [batch·columns] f32
// Mapping   persistent, workgroup 128; a team of 32 owns a row, its members the classes
// Shared    128 × (maximum, sum, shifted sum) = 1.5 KiB
// Traffic   logits once from memory, twice more from cache; dlogits once. Rows that are left out: 4 bytes a dlogit
// FLOPs     2 exponentials a logit
// Numerics  as cross_entropy.cu; NaN and ∞ are told by their bits, and exp sees finite differences only
// Host      batch · columns < 2^31, width < 2^31; every element index < 2^32
// Twin      src/multitask/cpu.rs        Source  Szegedy et al., arXiv:1512.00567, §7 (label smoothing)
struct Params {
    logits_offset: u32, rows_offset: u32, counts_offset: u32, weights_offset: u32, widths_offset: u32,
    dlogits_offset: u32, row_losses_offset: u32,
    logit_stride_b: u32, logit_stride_t: u32, grad_stride_b: u32, grad_stride_t: u32,
    count: u32, columns: u32, width: u32,
    has_widths: u32, has_weights: u32, has_grad: u32,
    // Divide by the task's count.
    mean: u32,
    smoothing: f32,
}
@group(0) @binding(0) var<storage, read> logits: array<u32>;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read> counts: array<u32>;
@group(0) @binding(3) var<storage, read> weights: array<f32>;
@group(0) @binding(4) var<storage, read> widths: array<u32>;
@group(0) @binding(5) var<storage, read_write> dlogits: array<u32>;
@group(0) @binding(6) var<storage, read_write> row_losses: array<u32>;
@group(0) @binding(7) var<uniform> params: Params;

const WORKGROUP: u32 = 128u;
const TEAM: u32 = 32u;
const MINUS_INFINITE: u32 = 0xff800000u;
const PLUS_INFINITY_BITS: u32 = 0x7f800000u;
// Below every finite f32 that matters here, and itself finite.
const LOWEST: f32 = -3.4028234e38;

var<workgroup> maxima: array<f32, WORKGROUP>;
var<workgroup> sums: array<f32, WORKGROUP>;
var<workgroup> shifts: array<f32, WORKGROUP>;
// Whether a team's row holds a NaN or +∞; a −∞.
var<workgroup> spoilt: array<atomic<u32>, WORKGROUP / TEAM>;
var<workgroup> infinite: array<atomic<u32>, WORKGROUP / TEAM>;

// e^(z − m) of a logit that is −∞ or finite.
fn exponential(bits: u32, maximum: f32) -> f32 {
    if (bits == MINUS_INFINITE) { return 0.0; }
    // Two finite numbers may be further apart than any f32.
    return exp(max(bitcast<f32>(bits) - maximum, -200.0));
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let team = local / TEAM;
    let member = local % TEAM;
    let teams = WORKGROUP / TEAM;
    for (var first = workgroup.x * teams; first < params.count; first += workgroups.x * teams) {
        let row = first + team;
        let is_row = row < params.count;
        let sample = row / params.columns;
        let column = row % params.columns;
        var task = NO_TASK;
        var label = 0u;
        if (is_row) {
            task = rows[params.rows_offset + row];
            label = rows[params.rows_offset + params.count + row];
        }
        let is_bad = task == BAD_TASK || (task != NO_TASK && label == BAD_LABEL);
        let counted = task != NO_TASK && !is_bad;
        var width = 0u;
        if (counted) {
            width = params.width;
            if (params.has_widths != 0u) { width = widths[params.widths_offset + task]; }
        }
        let z = params.logits_offset + sample * params.logit_stride_b + column * params.logit_stride_t;

        var maximum = LOWEST;
        var has_nan = false;
        var has_minus = false;
        for (var c = member; c < width; c += TEAM) {
            let bits = logits[z + c];
            has_nan = has_nan || is_nan_bits(bits) || bits == PLUS_INFINITY_BITS;
            has_minus = has_minus || bits == MINUS_INFINITE;
            if (bits != MINUS_INFINITE) { maximum = max(maximum, bitcast<f32>(bits)); }
        }
        maxima[local] = maximum;
        if (member == 0u) {
            atomicStore(&spoilt[team], 0u);
            atomicStore(&infinite[team], 0u);
        }
        workgroupBarrier();
        if (has_nan) { atomicOr(&spoilt[team], 1u); }
        if (has_minus) { atomicOr(&infinite[team], 1u); }
        for (var half = TEAM / 2u; half > 0u; half /= 2u) {
            if (member < half) { maxima[local] = max(maxima[local], maxima[local + half]); }
            workgroupBarrier();
        }
        maximum = maxima[team * TEAM];

        var total = 0.0;
        var shifted = 0.0;
        for (var c = member; c < width; c += TEAM) {
            let bits = logits[z + c];
            total += exponential(bits, maximum);
            if (bits != MINUS_INFINITE) { shifted += bitcast<f32>(bits) - maximum; }
        }
        sums[local] = total;
        shifts[local] = shifted;
        workgroupBarrier();
        for (var half = TEAM / 2u; half > 0u; half /= 2u) {
            if (member < half) {
                sums[local] += sums[local + half];
                shifts[local] += shifts[local + half];
            }
            workgroupBarrier();
        }
        total = sums[team * TEAM];
        shifted = shifts[team * TEAM];
        // Nothing above −∞, or something that is no number.
        let is_nan_row = is_bad || (counted && (atomicLoad(&spoilt[team]) != 0u || total == 0.0));

        if (is_row && params.has_grad != 0u) {
            let dz = params.dlogits_offset + sample * params.grad_stride_b + column * params.grad_stride_t;
            var factor = 1.0;
            if (counted) {
                if (params.has_weights != 0u) { factor = weights[params.weights_offset + task]; }
                if (params.mean != 0u) { factor /= f32(counts[params.counts_offset + task]); }
            }
            let even = params.smoothing / f32(max(width, 1u));
            for (var c = member; c < params.width; c += TEAM) {
                var bits = 0u;
                if (c < width) {
                    if (is_nan_row) {
                        bits = NAN_BITS;
                    } else {
                        let p = exponential(logits[z + c], maximum) / total;
                        let want = select(even, 1.0 - params.smoothing + even, c == label);
                        bits = bitcast<u32>(factor * (p - want));
                    }
                    if (factor == 0.0) { bits = 0u; }
                } else if (is_bad) {
                    bits = NAN_BITS;
                }
                dlogits[dz + c] = bits;
            }
        }
        if (is_row && member == 0u) {
            var bits = 0u;
            if (is_nan_row) {
                bits = NAN_BITS;
            } else if (counted) {
                let own = logits[z + label];
                let is_smoothed = params.smoothing > 0.0;
                var loss = log(total);
                if (is_smoothed) { loss -= params.smoothing * shifted / f32(width); }
                if (own == MINUS_INFINITE || (is_smoothed && atomicLoad(&infinite[team]) != 0u)) {
                    bits = PLUS_INFINITY_BITS;
                } else {
                    bits = bitcast<u32>(loss - (1.0 - params.smoothing) * (bitcast<f32>(own) - maximum));
                }
            }
            row_losses[params.row_losses_offset + row] = bits;
        }
        // The next row's values overwrite what slow invocations still read.
        workgroupBarrier();
    }
}
