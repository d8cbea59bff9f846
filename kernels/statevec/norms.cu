// statevec_norms_f32: what the amplitudes of rows are multiplied by to be normalised, where a state spans several blocks.
// Shapes    rows [count, length] f32, strided (complex amplitudes as two numbers); out [count, 2] u32: bits of a power of two and
//           of a factor near 1; the factor is 0 for a row without a norm
// Mapping   persistent, block 256; a block makes one row
// Shared    512 words
// Traffic   each number once, 8 bytes a row out
// Numerics  norm.cuh; sums of 64 of sums of 64, then pairwise
// Bad norm  zero, infinite or NaN: factor 0, status word set
// Host      length < 2^32
// Twin      Problem::inverse_norm in src/statevec/problem.rs        Source  our own
#include "device.cuh"
#include "statevec/norm.cuh"

namespace {

using namespace statevec;
using gw::u64;

struct NormsParams {
    u32 rows_first, out_first;  // for shaders
    u32 step_low, step_high;    // numbers from row to row
    u32 count, length, components;
};

}  // namespace

GW_KERNEL(256, 4) statevec_norms_f32(const float* rows, u32* out, u32* status, NormsParams p) {
    GW_SHARED(float, plane);
    const u64 step = static_cast<u64>(p.step_high) << 32 | p.step_low;
    for (u32 row = blockIdx.x; row < p.count; row += gridDim.x) {
        RunningNorm own = {};
        for (u64 i = threadIdx.x; i < p.length; i += 256) own.add(gw::load_global_cached(rows + row * step + i), 0.0f);
        const Norm norm = over_block(own, plane);
        if (threadIdx.x != 0) continue;
        if (norm.factor == 0.0f) gw::atomic_or_global(status + STATUS_NORM, 1u);
        gw::store_global(out + 2 * static_cast<u64>(row), gw::float_bits(norm.power));
        gw::store_global(out + 2 * static_cast<u64>(row) + 1, gw::float_bits(norm.factor));
    }
}
GW_EXPORT(statevec_norms_f32)
