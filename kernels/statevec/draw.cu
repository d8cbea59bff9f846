// statevec_draw: basis states with the frequencies of their probabilities.
// Shapes    stream [4] u32; probabilities [samples, 2^n] f32 contiguous; before [samples, runs] u64, totals [samples] u64,
//           exponents [samples] i32 from statevec_scan; shots [samples, shots] u32
// Mapping   persistent, block 128; a thread owns a shot: a binary search among the runs, then a walk through one
// Traffic   4 bytes a shot; the rest from cache
// Numerics  shot s·shots + i draws a 64-bit word w; the outcome is where the integers before it pass ⌊w·total / 2^64⌋
// Bad norm  0xffffffff
// Host      samples · shots < 2^31
// Twin      src/statevec/readout/sample.rs        Source  our own
#include "device.cuh"
#include "random/philox.cuh"
#include "statevec/mass.cuh"

namespace {

using gw::i64;
using gw::u32;
using gw::u64;

struct DrawParams {
    u32 stream_first, probabilities_first, before_first, totals_first, exponents_first, shots_first;  // for shaders
    u32 samples, shots, qubits;
};

GW_DEVICE u64 upper_product(u64 a, u64 b) {
    const u64 a_low = a & 0xffffffffu, a_high = a >> 32, b_low = b & 0xffffffffu, b_high = b >> 32;
    const u64 cross_0 = a_low * b_high, cross_1 = a_high * b_low;
    const u64 middle = (a_low * b_low >> 32) + (cross_0 & 0xffffffffu) + (cross_1 & 0xffffffffu);
    return a_high * b_high + (cross_0 >> 32) + (cross_1 >> 32) + (middle >> 32);
}

}  // namespace

GW_KERNEL(128, 8)
statevec_draw(const u32* stream, const float* probabilities, const u64* before, const u64* totals, const u32* exponents,
              u32* shots, DrawParams p) {
    const philox::Stream named = philox::load_stream(stream);
    const u32 run_bits = p.qubits < mass::RUN_BITS ? p.qubits : mass::RUN_BITS;
    const u32 runs = 1u << (p.qubits - run_bits);
    for (u32 i = blockIdx.x * 128u + threadIdx.x; i < p.samples * p.shots; i += gridDim.x * 128u) {
        const u32 sample = i / p.shots;
        const u64 total = gw::load_global_cached(totals + sample);
        u32 outcome = 0xffffffffu;
        if (total != 0) {
            const philox::Block words = philox::block(named, i);
            u64 target = upper_product(static_cast<u64>(words.y) << 32 | words.x, total);
            // The last run whose sum before it is at most the target.
            const u64* row = before + static_cast<i64>(sample) * runs;
            u32 low = 0, high = runs;
            while (high - low > 1u) {
                const u32 middle = low + (high - low) / 2u;
                if (gw::load_global_cached(row + middle) <= target) {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            target -= gw::load_global_cached(row + low);
            const u32 exponent = gw::load_global_cached(exponents + sample);
            const float* from = probabilities + (static_cast<i64>(sample) << p.qubits);
            outcome = low << run_bits;
            // The run's integers exceed the target, so the walk ends inside it.
            for (;; ++outcome) {
                const u64 integer = mass::fixed_point(gw::float_bits(gw::load_global_cached(from + outcome)), exponent);
                if (target < integer || (outcome & ((1u << run_bits) - 1u)) == (1u << run_bits) - 1u) break;
                target -= integer;
            }
        }
        gw::store_global(shots + i, outcome);
    }
}
GW_EXPORT(statevec_draw)
