// statevec_mass: sums of runs of 64 probabilities, in f32 to learn the scale, then as integers that add up in any order.
// Shapes    probabilities [samples, 2^n] f32 contiguous; exponents [samples] i32; masses [samples, runs] u64 as (low, high), or f32
//           in the low word; runs = ⌈2^n / 64⌉
// Mapping   persistent, workgroup 256: 16 invocations a run, 4 probabilities an invocation
// Shared    256 u64, 2 KiB
// Traffic   4 bytes a probability, 8 a run
// Numerics  as mass.cu
// Host      samples · runs < 2^31; every element index < 2^32
// Twin      src/statevec/readout/sample.rs        Source  our own
struct Params {
    probabilities_first: u32, exponents_first: u32, masses_first: u32,
    samples: u32, qubits: u32,
    // 0: sums in f32.
    integers: u32,
}
@group(0) @binding(0) var<storage, read> probabilities: array<u32>;
@group(0) @binding(1) var<storage, read> exponents: array<u32>;
@group(0) @binding(2) var<storage, read_write> masses: array<vec2<u32>>;
@group(0) @binding(3) var<uniform> params: Params;

const BLOCK: u32 = 256u;
const LANES: u32 = 16u;
var<workgroup> sums: array<vec2<u32>, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let lane = thread % LANES;
    let run_bits = min(params.qubits, RUN_BITS);
    let runs = 1u << (params.qubits - run_bits);
    let total = params.samples * runs;
    for (var item = workgroup.x; item * (BLOCK / LANES) < total; item += workgroups.x) {
        let run = item * (BLOCK / LANES) + thread / LANES;
        var integer = vec2<u32>(0u);
        var sum = 0.0;
        if (run < total) {
            var exponent = 0u;
            if (params.integers != 0u) { exponent = exponents[params.exponents_first + run / runs]; }
            let start = params.probabilities_first + (run << run_bits);
            for (var i = lane * 4u; i < lane * 4u + 4u && i < (1u << run_bits); i += 1u) {
                let bits = probabilities[start + i];
                sum += bitcast<f32>(bits);
                if (params.integers != 0u) { integer = add_wide(integer, fixed_point(bits, exponent)); }
            }
        }
        // Sync: the sums of the last item are still being read.
        workgroupBarrier();
        sums[thread] = select(vec2<u32>(bitcast<u32>(sum), 0u), integer, params.integers != 0u);
        for (var half = LANES / 2u; half > 0u; half >>= 1u) {
            // Sync: a lane adds what another wrote in the round before.
            workgroupBarrier();
            if (lane < half) {
                let mine = sums[thread];
                let other = sums[thread + half];
                let real = vec2<u32>(bitcast<u32>(bitcast<f32>(mine.x) + bitcast<f32>(other.x)), 0u);
                sums[thread] = select(real, add_wide(mine, other), params.integers != 0u);
            }
        }
        if (lane == 0u && run < total) { masses[params.masses_first + run] = sums[thread]; }
    }
}
