// statevec_combine_f32: adds up the partial sums of expectations when a state spans several blocks.
// Shapes    table [strings] {coefficient, observable | last << 31}; partials [samples, strings, blocks]; out [samples,
//           observables], rows strided
// Mapping   block 64; a thread adds up one sample, in order
// Traffic   partials once, the table once a thread, 4 bytes an observable out
// Host      every observable in the table is in range
// Twin      src/statevec/cpu/sweep.rs        Source  our own
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;

struct CombineParams {
    i64 out_step;
    u32 samples, strings, blocks;
};

}  // namespace

GW_KERNEL(64, 8)
statevec_combine_f32(const u32* table, const float* partials, float* out, CombineParams p) {
    const u32 sample = blockIdx.x * 64u + threadIdx.x;
    if (sample >= p.samples) return;
    float running = 0.0f;
    for (u32 string = 0; string < p.strings; ++string) {
        const float* from = partials + (static_cast<i64>(sample) * p.strings + string) * p.blocks;
        // Sums of 32 blocks are added to each other: the error grows with 32 + blocks / 32, not with blocks.
        float total = 0.0f;
        for (u32 block = 0; block < p.blocks; block += 32u) {
            float sum = 0.0f;
            for (u32 i = block; i < p.blocks && i < block + 32u; ++i) sum += gw::load_global_cached(from + i);
            total += sum;
        }
        running = gw::fma(gw::float_from_bits(gw::load_global_cached(table + 2u * string)), total, running);
        const u32 target = gw::load_global_cached(table + 2u * string + 1u);
        if ((target >> 31) != 0) {
            gw::store_global(out + sample * p.out_step + (target & 0x7fffffffu), running);
            running = 0.0f;
        }
    }
}
GW_EXPORT(statevec_combine_f32)
