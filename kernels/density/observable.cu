// density_observable_c64: λ = Σ weight·observable as a matrix: what the adjoint of a density matrix starts from.
// Shapes    weights [samples, observables] f32, rows strided; table as read.cu; out [samples, 2^n, 2^n] c64 contiguous
// Mapping   persistent, block 128; a thread owns an entry
// Traffic   8 bytes an entry; the table from cache
// Host      n ≤ 15; sizes in 64 bits
// Twin      src/statevec/density/batch.rs        Source  our own
#include "device.cuh"

namespace {

using gw::u32;
using gw::u64;

struct ObservableParams {
    u32 weights_first, table_first, out_first;  // for shaders
    u32 step_low, step_high;                    // elements from sample to sample
    u32 samples, qubits, observables;
};

GW_DEVICE u32 odd(u32 x) {
    x ^= x >> 16;
    x ^= x >> 8;
    x ^= x >> 4;
    return (0x6996u >> (x & 15u)) & 1u;
}

}  // namespace

GW_KERNEL(128, 8)
density_observable_c64(const float* weights, const u32* table, float2* out, ObservableParams p) {
    const u64 count = static_cast<u64>(p.samples) << (2u * p.qubits);
    const u64 step = static_cast<u64>(p.step_high) << 32 | p.step_low;
    for (u64 at = blockIdx.x * 128u + threadIdx.x; at < count; at += gridDim.x * 128u) {
        const u32 column = static_cast<u32>(at) & ((1u << p.qubits) - 1u);
        const u32 row = static_cast<u32>(at >> p.qubits) & ((1u << p.qubits) - 1u);
        const float* own = weights + (at >> (2u * p.qubits)) * step;
        float2 sum = make_float2(0.0f, 0.0f);
        for (u32 observable = 0; observable < p.observables; ++observable) {
            const u32 end = gw::load_global_cached(table + observable + 1u);
            for (u32 term = gw::load_global_cached(table + observable); term < end; term += 4u) {
                if (gw::load_global_cached(table + term) != (row ^ column)) continue;
                const u32 y = gw::load_global_cached(table + term + 2u) & 3u;
                // i^y (−1)^parity: the sign of y = 2, 3 joins the parity.
                const u32 sign = odd(column & gw::load_global_cached(table + term + 1u)) ^ (y >> 1);
                const float weight = gw::float_from_bits(gw::load_global_cached(table + term + 3u)) *
                                     gw::load_global_cached(own + observable);
                const float value = sign != 0 ? -weight : weight;
                if ((y & 1u) != 0) {
                    sum.y += value;
                } else {
                    sum.x += value;
                }
            }
        }
        gw::store_global(out + at, sum);
    }
}
GW_EXPORT(density_observable_c64)
