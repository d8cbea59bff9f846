// statevec_scan: per sample, the exponent of the sum of its runs, or the sums of the runs before each run, and of all.
// Shapes    masses [samples, runs] u64 (or f32 in the low word), overwritten by exclusive sums; totals [samples] u64, 0 for a
//           sample that cannot be sampled; exponents [samples] i32
// Mapping   persistent, block 256; a block owns a sample, a thread consecutive runs
// Shared    256 u64, 2 KiB
// Traffic   8 bytes a run read, and read again and written for integers
// Bad norm  zero, infinite or NaN: total 0, status word set
// Host      samples · runs < 2^31
// Twin      src/statevec/readout/sample.rs        Source  our own
#include "device.cuh"
#include "statevec/mass.cuh"

namespace {

using gw::i64;
using gw::u32;
using gw::u64;

struct ScanParams {
    u32 masses_first, totals_first, exponents_first;  // for shaders
    u32 samples, runs;
    u32 integers;  // 0: f32 sums to exponents
};

constexpr u32 BLOCK = 256;
constexpr u32 STATUS_NORM = 4;

}  // namespace

GW_KERNEL(256, 4)
statevec_scan(u64* masses, u64* totals, u32* exponents, u32* status, ScanParams p) {
    GW_SHARED(u64, sums);
    const u32 thread = threadIdx.x;
    const u32 share = (p.runs + BLOCK - 1u) / BLOCK;
    const u32 begin = thread * share < p.runs ? thread * share : p.runs;
    const u32 end = begin + share < p.runs ? begin + share : p.runs;
    for (u32 sample = blockIdx.x; sample < p.samples; sample += gridDim.x) {
        u64* row = masses + static_cast<i64>(sample) * p.runs;
        u64 integer = 0;
        float sum = 0.0f;
        for (u32 i = begin; i < end; ++i) {
            const u64 value = gw::load_global(row + i);
            integer += value;
            sum += gw::float_from_bits(static_cast<u32>(value));
        }
        // Sync: the sums of the last sample are still being read.
        gw::sync_threads();
        sums[thread] = p.integers != 0 ? integer : gw::float_bits(sum);
        if (p.integers == 0) {
            for (u32 half = BLOCK / 2u; half > 0; half >>= 1) {
                // Sync: a thread adds what another wrote in the round before.
                gw::sync_threads();
                if (thread < half) {
                    const float other = gw::float_from_bits(static_cast<u32>(sums[thread + half]));
                    sums[thread] = gw::float_bits(gw::float_from_bits(static_cast<u32>(sums[thread])) + other);
                }
            }
            if (thread == 0) {
                const float whole = gw::float_from_bits(static_cast<u32>(sums[0]));
                gw::store_global(exponents + sample, mass::exponent_of(whole));
            }
            continue;
        }
        for (u32 reach = 1; reach < BLOCK; reach <<= 1) {
            // Sync: everybody has written, and then everybody has read, before anybody writes again.
            gw::sync_threads();
            const u64 before = thread >= reach ? sums[thread - reach] : 0;
            gw::sync_threads();
            sums[thread] += before;
        }
        u64 running = sums[thread] - integer;
        for (u32 i = begin; i < end; ++i) {
            const u64 value = gw::load_global(row + i);
            gw::store_global(row + i, running);
            running += value;
        }
        if (thread == BLOCK - 1u) {
            gw::store_global(totals + sample, sums[thread]);
            if (sums[thread] == 0) gw::atomic_or_global(status + STATUS_NORM, 1);
        }
    }
}
GW_EXPORT(statevec_scan)
