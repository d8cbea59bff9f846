// statevec_inner_c64: Σ_r conj(a[x(g, r)])·b[x(g, r)] for groups g of amplitudes: overlaps, fidelities, marginals.
// Shapes    a, b [samples, 2^n] c64, rows strided; places [rest + kept] u32: the qubit of each bit of r, then of each bit of o;
//           out [groups, splits] complex, real parts or squared norms; group g is sample g >> kept, outcome g mod 2^kept
// Mapping   persistent, block 256: 2^lanes threads a group, 2^steps amplitudes a thread, 2^splits blocks a group
// Shared    256 partial sums, 2 KiB
// Traffic   a and b once, 8 bytes a group and split;  FLOPs 8 an amplitude
// Numerics  sums of sums of 2^(steps/2) terms a thread, a tree over threads: the order depends on n and kept only
// Host      groups · splits < 2^31
// Twin      src/statevec/readout/cpu.rs        Source  our own
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;
using gw::u64;

struct InnerParams {
    u32 a_first, b_first, places_first, out_first;  // for shaders
    u32 a_low, a_high, b_low, b_high;               // elements from sample to sample
    u32 groups, kept, lanes, steps, splits;         // powers of two but groups
    u32 mode;                                       // 0 complex, 1 real part, 2 squared norm
};

constexpr u32 BLOCK = 256;

GW_DEVICE u32 spread(const u32* places, u32 first, u32 bits, u32 value) {
    u32 x = 0;
    for (u32 i = 0; i < bits; ++i) {
        if ((value >> i & 1u) != 0) x |= 1u << gw::load_global_cached(places + first + i);
    }
    return x;
}

}  // namespace

GW_KERNEL(256, 4)
statevec_inner_c64(const float2* a, const float2* b, const u32* places, float* out, InnerParams p) {
    GW_SHARED(float2, sums);
    const u32 thread = threadIdx.x;
    const u32 lane = thread & ((1u << p.lanes) - 1u);
    const u32 block_groups = BLOCK >> p.lanes;
    const u32 rest = p.lanes + p.steps + p.splits;
    const i64 a_step = static_cast<i64>(static_cast<u64>(p.a_high) << 32 | p.a_low);
    const i64 b_step = static_cast<i64>(static_cast<u64>(p.b_high) << 32 | p.b_low);
    const u32 work = (p.groups + block_groups - 1u) / block_groups << p.splits;
    for (u32 item = blockIdx.x; item < work; item += gridDim.x) {
        const u32 split = item & ((1u << p.splits) - 1u);
        const u32 group = (item >> p.splits) * block_groups + (thread >> p.lanes);
        float2 total = make_float2(0.0f, 0.0f);
        if (group < p.groups) {
            const i64 sample = group >> p.kept;
            const float2* from_a = a + sample * a_step;
            const float2* from_b = b + sample * b_step;
            u32 x = spread(places, rest, p.kept, group & ((1u << p.kept) - 1u)) | spread(places, 0, p.lanes, lane) |
                    spread(places, p.lanes + p.steps, p.splits, split);
            float2 sum = make_float2(0.0f, 0.0f);
            const u32 run = (1u << (p.steps / 2u)) - 1u;
            for (u32 step = 1;; ++step) {
                const float2 u = gw::load_global_cached(from_a + x);
                const float2 v = gw::load_global_cached(from_b + x);
                sum = make_float2(gw::fma(u.y, v.y, gw::fma(u.x, v.x, sum.x)), gw::fma(-u.y, v.x, gw::fma(u.x, v.y, sum.y)));
                if ((step & run) == 0) {
                    total = make_float2(total.x + sum.x, total.y + sum.y);
                    sum = make_float2(0.0f, 0.0f);
                }
                if (step >> p.steps != 0) break;
                // Gray code: one bit of r changes from step to step.
                u32 bit = 0;
                while ((step >> bit & 1u) == 0) ++bit;
                x ^= 1u << gw::load_global_cached(places + p.lanes + bit);
            }
        }
        // Sync: the sums of the last item are still being read.
        gw::sync_threads();
        sums[thread] = total;
        for (u32 half = 1u << p.lanes >> 1; half > 0; half >>= 1) {
            // Sync: a lane adds what another wrote in the round before.
            gw::sync_threads();
            if (lane < half) {
                const float2 other = sums[thread + half];
                sums[thread] = make_float2(sums[thread].x + other.x, sums[thread].y + other.y);
            }
        }
        if (lane == 0 && group < p.groups) {
            const float2 value = sums[thread];
            const i64 at = (static_cast<i64>(group) << p.splits) + split;
            if (p.mode == 0) {
                gw::store_global(out + 2 * at, value.x);
                gw::store_global(out + 2 * at + 1, value.y);
            } else {
                gw::store_global(out + at, p.mode == 1 ? value.x : gw::fma(value.x, value.x, value.y * value.y));
            }
        }
    }
}
GW_EXPORT(statevec_inner_c64)
