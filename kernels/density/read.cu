// density_read_c64: Tr(ρ·observable) of every sample and observable, or the diagonals of ρ.
// Shapes    rho [samples, 2^n, 2^n] c64, matrices contiguous; table: first term of each observable and the end, then terms {x, z,
//           number of Y, coefficient}; out [samples, observables] f32, or [samples, 2^n]
// Mapping   persistent, block 128; a block owns a sample and observable, a thread strides over the rows; for diagonals a thread
//           owns an element
// Shared    128 partial sums
// Traffic   8 bytes a row and term
// Numerics  sums of 16 rows are added to each other, then a tree over threads: the order depends on n only
// Host      samples · max(observables, 2^n) < 2^31, n ≤ 15
// Twin      src/statevec/density/batch.rs        Source  our own
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;
using gw::u64;

struct ReadParams {
    u32 rho_first, table_first, out_first;  // for shaders
    u32 step_low, step_high;                // elements from sample to sample
    u32 samples, qubits, observables;
    u32 diagonal;
};

constexpr u32 BLOCK = 128;

GW_DEVICE u32 odd(u32 x) {
    x ^= x >> 16;
    x ^= x >> 8;
    x ^= x >> 4;
    return (0x6996u >> (x & 15u)) & 1u;
}

}  // namespace

GW_KERNEL(128, 8) density_read_c64(const float2* rho, const u32* table, float* out, ReadParams p) {
    GW_SHARED(float, sums);
    const u32 thread = threadIdx.x;
    const u32 side = 1u << p.qubits;
    const i64 step = static_cast<i64>(static_cast<u64>(p.step_high) << 32 | p.step_low);
    if (p.diagonal != 0) {
        const u32 count = p.samples << p.qubits;
        for (u32 at = blockIdx.x * BLOCK + thread; at < count; at += gridDim.x * BLOCK) {
            const u32 row = at & (side - 1u);
            gw::store_global(out + at, gw::load_global_cached(rho + (at >> p.qubits) * step + row * (side + 1u)).x);
        }
        return;
    }
    for (u32 item = blockIdx.x; item < p.samples * p.observables; item += gridDim.x) {
        const u32 observable = item % p.observables;
        const float2* matrix = rho + item / p.observables * step;
        float total = 0.0f;
        const u32 end = gw::load_global_cached(table + observable + 1u);
        for (u32 term = gw::load_global_cached(table + observable); term < end; term += 4u) {
            const u32 x = gw::load_global_cached(table + term), z = gw::load_global_cached(table + term + 1u);
            const u32 y = gw::load_global_cached(table + term + 2u);
            const float coefficient = gw::float_from_bits(gw::load_global_cached(table + term + 3u));
            float outer = 0.0f, inner = 0.0f;
            u32 count = 0;
            for (u32 row = thread; row < side; row += BLOCK) {
                const float2 entry = gw::load_global_cached(matrix + (row << p.qubits | (row ^ x)));
                // Re(i^y·(u + iv)) is u, −v, −u, v.
                const float part = (y & 1u) != 0 ? entry.y : entry.x;
                inner += (odd(row & z) ^ static_cast<u32>((y & 3u) == 1u) ^ static_cast<u32>((y & 3u) == 2u)) != 0 ? -part : part;
                if ((++count & 15u) == 0) {
                    outer += inner;
                    inner = 0.0f;
                }
            }
            total = gw::fma(coefficient, outer + inner, total);
        }
        // Sync: the sums of the last item are still being read.
        gw::sync_threads();
        sums[thread] = total;
        for (u32 half = BLOCK / 2u; half > 0; half >>= 1) {
            // Sync: a thread adds what another wrote in the round before.
            gw::sync_threads();
            if (thread < half) sums[thread] += sums[thread + half];
        }
        if (thread == 0) gw::store_global(out + item, sums[0]);
    }
}
GW_EXPORT(density_read_c64)
