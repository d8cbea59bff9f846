// statevec_scale_rows_c64: out[s,·] = f_s·state[s,·]: the gradient of overlaps and fidelities by one of the states.
// Shapes    states [samples, 2^n] c64, rows strided; grads [samples] c64, or f32 with overlaps [samples] c64; out [samples, 2^n]
// Mapping   persistent, block 256; a thread owns an amplitude
// Traffic   16 bytes an amplitude
// Numerics  f is the gradient (times twice the overlap for a fidelity), conjugated for the first state
// Host      nothing: sizes in 64 bits
// Twin      src/statevec/readout/cpu.rs        Source  our own
#include "device.cuh"

namespace {

using gw::u32;
using gw::u64;

struct ScaleParams {
    u32 states_first, grads_first, overlaps_first, out_first;  // for shaders
    u32 step_low, step_high;                                   // elements from sample to sample
    u32 samples, qubits, conjugate, fidelity;
};

}  // namespace

GW_KERNEL(256, 8)
statevec_scale_rows_c64(const float2* states, const float* grads, const float2* overlaps, float2* out, ScaleParams p) {
    const u64 count = static_cast<u64>(p.samples) << p.qubits;
    const u64 step = static_cast<u64>(p.step_high) << 32 | p.step_low;
    for (u64 at = blockIdx.x * 256u + threadIdx.x; at < count; at += gridDim.x * 256u) {
        const u64 sample = at >> p.qubits;
        float2 f;
        if (p.fidelity != 0) {
            const float twice = 2.0f * gw::load_global_cached(grads + sample);
            const float2 overlap = gw::load_global_cached(overlaps + sample);
            f = make_float2(twice * overlap.x, twice * overlap.y);
        } else {
            f = make_float2(gw::load_global_cached(grads + 2 * sample), gw::load_global_cached(grads + 2 * sample + 1));
        }
        if (p.conjugate != 0) f.y = -f.y;
        const float2 a = gw::load_global_cached(states + sample * step + (at & ((1ull << p.qubits) - 1ull)));
        gw::store_global(out + at, make_float2(gw::fma(-f.y, a.y, f.x * a.x), gw::fma(f.y, a.x, f.x * a.y)));
    }
}
GW_EXPORT(statevec_scale_rows_c64)
