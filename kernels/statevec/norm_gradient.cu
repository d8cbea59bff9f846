// statevec_norm_gradient_f32: from the gradient g of normalised amplitudes x/‖x‖ to that of x: (g − Re⟨x̂|g⟩·x̂)/‖x‖.
// Shapes    rows [count, length] f32, strided (complex amplitudes as two numbers); gradients [count, 2^n] c64 contiguous; out
//           [count, length] f32 contiguous
// Mapping   persistent, block 256; a block makes one row
// Shared    512 words
// Traffic   rows and their part of the gradients twice, out once
// Numerics  norm.cuh; sums of 64 of sums of 64, then pairwise. A row without a norm gives NaN
// Host      length < 2^32
// Twin      Program::collect_initial in src/statevec/gradient.rs        Source  our own
#include "device.cuh"
#include "statevec/norm.cuh"

namespace {

using namespace statevec;
using gw::u64;

struct NormGradientParams {
    u32 rows_first, gradients_first, out_first;  // for shaders
    u32 step_low, step_high;                     // numbers from row to row
    u32 gradient_low, gradient_high;             // the same of the gradients
    u32 count, length, components;               // 1 or 2 numbers an amplitude
};

}  // namespace

GW_KERNEL(256, 4)
statevec_norm_gradient_f32(const float* rows, const float* gradients, float* out, NormGradientParams p) {
    GW_SHARED(float, plane);
    const u64 step = static_cast<u64>(p.step_high) << 32 | p.step_low;
    const u64 gradient_step = static_cast<u64>(p.gradient_high) << 32 | p.gradient_low;
    // The imaginary parts of real rows' gradients are left out.
    const u64 apart = p.components == 1u ? 2 : 1;
    for (u32 row = blockIdx.x; row < p.count; row += gridDim.x) {
        const float* x = rows + row * step;
        const float* g = gradients + row * gradient_step;
        RunningNorm own = {};
        for (u64 i = threadIdx.x; i < p.length; i += 256) {
            own.add(gw::load_global_cached(x + i), gw::load_global_cached(g + i * apart));
        }
        const Norm norm = over_block(own, plane);
        const float along = norm.dot * norm.factor;
        for (u64 i = threadIdx.x; i < p.length; i += 256) {
            const float unit = gw::load_global_cached(x + i) * norm.power * norm.factor;
            const float across = gw::fma(-along, unit, gw::load_global_cached(g + i * apart));
            const float value = norm.factor == 0.0f ? NAN : across * norm.factor * norm.power;
            gw::store_global(out + static_cast<u64>(row) * p.length + i, value);
        }
    }
}
GW_EXPORT(statevec_norm_gradient_f32)
