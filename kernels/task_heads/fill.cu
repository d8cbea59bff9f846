// task_heads_fill_f32: writes the rows of the pairs attention was not launched over: 0 (or −∞ in lse), NaN where the gate is NaN.
// Shapes    target [batch, owners, rows, columns] strided, last = 1; order [batch·owners], counts [2] u32; gates [batch, heads]
// Mapping   persistent, block 256; a block takes 64 rows of one pair at a time, from the list's inactive part only
// Traffic   4 bytes an element of the inactive pairs; nothing but the gates where the target is known to hold zeros
// Host      heads = owners · group; columns ≥ 1
// Twin      src/task_heads/cpu.rs        Source  our own
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;

struct FillParams {
    i64 stride_b, stride_o, stride_r;
    u32 pairs, owners, rows, columns;
    u32 group;     // gates an owner has
    u32 list;      // which of counts
    u32 zeroed;    // zeros need not be written
    float value;
};

constexpr u32 THREADS = 256;
constexpr u32 ROWS = 64;

}  // namespace

GW_KERNEL(256, 1)
task_heads_fill_f32(float* target, const u32* order, const u32* counts, const float* gates, FillParams p) {
    // The lists are the caller's to keep: a count or a pair that cannot be is not used as an index.
    const u32 active = min(gw::load_global_cached(counts + p.list), p.pairs);
    const u32 tiles = p.rows / ROWS + (p.rows % ROWS != 0 ? 1 : 0);
    const i64 work = static_cast<i64>(p.pairs - active) * tiles;
    for (i64 item = blockIdx.x; item < work; item += gridDim.x) {
        const u32 pair = gw::load_global_cached(order + active + item / tiles);
        if (pair >= p.pairs) continue;
        const u32 row0 = static_cast<u32>(item % tiles) * ROWS;
        bool is_nan = false;
        for (u32 member = 0; member < p.group; ++member)
            is_nan = is_nan || gw::is_nan(gw::load_global_cached(gates + static_cast<i64>(pair) * p.group + member));
        if (p.zeroed && p.value == 0.0f && !is_nan) continue;
        const float value = is_nan ? NAN : p.value;
        float* rows = target + pair / p.owners * p.stride_b + pair % p.owners * p.stride_o + row0 * p.stride_r;
        const u32 elements = min(ROWS, p.rows - row0) * p.columns;
        for (u32 e = threadIdx.x; e < elements; e += THREADS)
            gw::store_global(rows + e / p.columns * p.stride_r + e % p.columns, value);
    }
}
GW_EXPORT(task_heads_fill_f32)
