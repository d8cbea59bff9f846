// statevec_inner_c64: Σ_r conj(a[x(g, r)])·b[x(g, r)] for groups g of amplitudes: overlaps, fidelities, marginals.
// Shapes    a, b [samples, 2^n] c64, rows strided; places [rest + kept] u32: the qubit of each bit of r, then of each bit of o;
//           result [groups, splits] complex, real parts or squared norms; group g is sample g >> kept, outcome g mod 2^kept
// Mapping   persistent, workgroup 256: 2^lanes invocations a group, 2^steps amplitudes an invocation, 2^splits workgroups a group
// Shared    256 partial sums, 2 KiB
// Traffic   a and b once, 8 bytes a group and split;  FLOPs 8 an amplitude
// Numerics  as inner.cu
// Host      groups · splits < 2^31; every element index < 2^32
// Twin      src/statevec/readout/cpu.rs        Source  our own
struct Params {
    a_first: u32, b_first: u32, places_first: u32, result_first: u32,
    // Elements from sample to sample; the high words are 0.
    a_step: u32, a_high: u32, b_step: u32, b_high: u32,
    // Powers of two but groups.
    groups: u32, kept: u32, lanes: u32, steps: u32, splits: u32,
    // 0 complex, 1 real part, 2 squared norm.
    mode: u32,
}
@group(0) @binding(0) var<storage, read> a: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> b: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> places: array<u32>;
@group(0) @binding(3) var<storage, read_write> result: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

const BLOCK: u32 = 256u;
var<workgroup> sums: array<vec2<f32>, 256>;

fn spread(first: u32, bits: u32, value: u32) -> u32 {
    var x = 0u;
    for (var i = 0u; i < bits; i += 1u) {
        if (((value >> i) & 1u) != 0u) { x |= 1u << places[params.places_first + first + i]; }
    }
    return x;
}

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let lane = thread & ((1u << params.lanes) - 1u);
    let block_groups = BLOCK >> params.lanes;
    let rest = params.lanes + params.steps + params.splits;
    let work = ((params.groups + block_groups - 1u) / block_groups) << params.splits;
    for (var item = workgroup.x; item < work; item += workgroups.x) {
        let split = item & ((1u << params.splits) - 1u);
        let group = (item >> params.splits) * block_groups + (thread >> params.lanes);
        var total = vec2<f32>(0.0);
        if (group < params.groups) {
            let sample = group >> params.kept;
            let from_a = params.a_first + sample * params.a_step;
            let from_b = params.b_first + sample * params.b_step;
            var x = spread(rest, params.kept, group & ((1u << params.kept) - 1u)) | spread(0u, params.lanes, lane)
                | spread(params.lanes + params.steps, params.splits, split);
            var sum = vec2<f32>(0.0);
            let run = (1u << (params.steps / 2u)) - 1u;
            for (var step = 1u; step <= (1u << params.steps); step += 1u) {
                let u = a[from_a + x];
                let v = b[from_b + x];
                sum = vec2<f32>(fma(u.y, v.y, fma(u.x, v.x, sum.x)), fma(-u.y, v.x, fma(u.x, v.y, sum.y)));
                if ((step & run) == 0u) {
                    total += sum;
                    sum = vec2<f32>(0.0);
                }
                // Gray code: one bit of r changes from step to step.
                if ((step >> params.steps) == 0u) {
                    x ^= 1u << places[params.places_first + params.lanes + firstTrailingBit(step)];
                }
            }
        }
        // Sync: the sums of the last item are still being read.
        workgroupBarrier();
        sums[thread] = total;
        for (var half = (1u << params.lanes) >> 1u; half > 0u; half >>= 1u) {
            // Sync: a lane adds what another wrote in the round before.
            workgroupBarrier();
            if (lane < half) { sums[thread] += sums[thread + half]; }
        }
        if (lane == 0u && group < params.groups) {
            let value = sums[thread];
            let at = (group << params.splits) + split;
            if (params.mode == 0u) {
                result[params.result_first + 2u * at] = value.x;
                result[params.result_first + 2u * at + 1u] = value.y;
            } else {
                result[params.result_first + at] = select(value.x * value.x + value.y * value.y, value.x, params.mode == 1u);
            }
        }
    }
}
