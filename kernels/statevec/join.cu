// statevec_join_c64: adds up the splits of complex sums.
// Shapes    parts [sums, splits] c64; out [sums] complex, real parts or squared norms
// Mapping   persistent, block 128; a thread adds up one sum
// Traffic   8 bytes a part
// Numerics  sums of 32 parts are added to each other, in order
// Host      sums · splits < 2^31
// Twin      src/statevec/readout/cpu.rs        Source  our own
#include "device.cuh"

namespace {

struct JoinParams {
    gw::u32 parts_first, out_first;  // for shaders
    gw::u32 sums, splits;
    gw::u32 mode;  // 0 complex, 1 real part, 2 squared norm
};

}  // namespace

GW_KERNEL(128, 8) statevec_join_c64(const float2* parts, float* out, JoinParams p) {
    for (gw::u32 i = blockIdx.x * 128u + threadIdx.x; i < p.sums; i += gridDim.x * 128u) {
        const float2* from = parts + static_cast<gw::i64>(i) * p.splits;
        float2 total = make_float2(0.0f, 0.0f);
        for (gw::u32 first = 0; first < p.splits; first += 32u) {
            float2 sum = make_float2(0.0f, 0.0f);
            for (gw::u32 part = first; part < p.splits && part < first + 32u; ++part) {
                const float2 value = gw::load_global_cached(from + part);
                sum = make_float2(sum.x + value.x, sum.y + value.y);
            }
            total = make_float2(total.x + sum.x, total.y + sum.y);
        }
        if (p.mode == 0) {
            gw::store_global(out + 2 * static_cast<gw::i64>(i), total.x);
            gw::store_global(out + 2 * static_cast<gw::i64>(i) + 1, total.y);
        } else {
            gw::store_global(out + i, p.mode == 1 ? total.x : gw::fma(total.x, total.x, total.y * total.y));
        }
    }
}
GW_EXPORT(statevec_join_c64)
