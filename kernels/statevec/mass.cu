// statevec_mass: sums of runs of 64 probabilities, in f32 to learn the scale, then as integers that add up in any order.
// Shapes    probabilities [samples, 2^n] f32 contiguous; exponents [samples] i32; masses [samples, runs] u64, or f32 in the low
//           word; runs = ⌈2^n / 64⌉
// Mapping   persistent, block 256: 16 threads a run, 4 probabilities a thread
// Shared    256 u64, 2 KiB
// Traffic   4 bytes a probability, 8 a run
// Numerics  a probability p is the integer ⌊p·2^(62 − exponent)⌋, where 2^exponent exceeds the sample's sum
// Host      samples · runs < 2^31
// Twin      src/statevec/readout/sample.rs        Source  our own
#include "device.cuh"
#include "statevec/mass.cuh"

namespace {

using gw::i64;
using gw::u32;
using gw::u64;

struct MassParams {
    u32 probabilities_first, exponents_first, masses_first;  // for shaders
    u32 samples, qubits;
    u32 integers;  // 0: sums in f32
};

constexpr u32 BLOCK = 256, LANES = 16;

}  // namespace

GW_KERNEL(256, 4)
statevec_mass(const float* probabilities, const u32* exponents, u64* masses, MassParams p) {
    GW_SHARED(u64, sums);
    const u32 thread = threadIdx.x, lane = thread % LANES;
    const u32 run_bits = p.qubits < mass::RUN_BITS ? p.qubits : mass::RUN_BITS;
    const u32 runs = 1u << (p.qubits - run_bits);
    const u32 total = p.samples * runs;
    for (u32 item = blockIdx.x; item * (BLOCK / LANES) < total; item += gridDim.x) {
        const u32 run = item * (BLOCK / LANES) + thread / LANES;
        u64 integer = 0;
        float sum = 0.0f;
        if (run < total) {
            const u32 exponent = p.integers != 0 ? gw::load_global_cached(exponents + run / runs) : 0u;
            const float* from = probabilities + (static_cast<i64>(run) << run_bits);
            for (u32 i = lane * 4u; i < lane * 4u + 4u && i < 1u << run_bits; ++i) {
                const float probability = gw::load_global_cached(from + i);
                sum += probability;
                if (p.integers != 0) integer += mass::fixed_point(gw::float_bits(probability), exponent);
            }
        }
        // Sync: the sums of the last item are still being read.
        gw::sync_threads();
        sums[thread] = p.integers != 0 ? integer : gw::float_bits(sum);
        for (u32 half = LANES / 2u; half > 0; half >>= 1) {
            // Sync: a lane adds what another wrote in the round before.
            gw::sync_threads();
            if (lane < half) {
                if (p.integers != 0) {
                    sums[thread] += sums[thread + half];
                } else {
                    const float other = gw::float_from_bits(static_cast<u32>(sums[thread + half]));
                    sums[thread] = gw::float_bits(gw::float_from_bits(static_cast<u32>(sums[thread])) + other);
                }
            }
        }
        if (lane == 0 && run < total) gw::store_global(masses + run, sums[thread]);
    }
}
GW_EXPORT(statevec_mass)
