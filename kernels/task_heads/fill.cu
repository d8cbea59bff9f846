// task_heads_fill: writes the rows of the pairs attention was not launched over: 0 (or −∞ in lse), NaN where the gate is NaN.
// Shapes    target [batch, owners, rows, columns] f32, f16 or bf16, strided, last = 1; order [batch·owners], counts [2] u32;
//           gates [batch, heads] f32; packed: target [1, owners, all rows, columns], starts [batch + 1] i32, u32 or i64
// Mapping   persistent, block 256; a block takes 64 rows of one pair at a time, from the list's inactive part only
// Shared    none
// Traffic   an element of the inactive pairs once; nothing but the gates where the target is known to hold zeros
// Host      heads = owners · group; columns ≥ 1
// Twin      src/task_heads/cpu.rs        Source  our own
#include "task_heads/rows.cuh"

namespace task_heads {

struct FillParams {
    i64 stride_b, stride_o, stride_r, start_stride;
    u32 pairs, owners, rows, columns;
    u32 group;   // gates an owner has
    u32 list;    // which of counts
    u32 zeroed;  // zeros need not be written
    float value;
    u32 kind;
    Starts starts;
};

constexpr u32 THREADS = 256;
constexpr u32 TILE = 64;

}  // namespace task_heads

GW_KERNEL(256, 1)
task_heads_fill(void* target, const gw::u32* order, const gw::u32* counts, const float* gates, const gw::u32* starts,
                task_heads::FillParams p) {
    using namespace task_heads;
    // The lists are the caller's to keep: a count or a pair that cannot be is not used as an index.
    const u32 active = min(gw::load_global_cached(counts + p.list), p.pairs);
    const u32 tiles = p.rows / TILE + (p.rows % TILE != 0 ? 1 : 0);
    const i64 work = static_cast<i64>(p.pairs - active) * tiles;
    for (i64 item = blockIdx.x; item < work; item += gridDim.x) {
        const u32 pair = gw::load_global_cached(order + active + item / tiles);
        if (pair >= p.pairs) continue;
        const u32 row0 = static_cast<u32>(item % tiles) * TILE;
        const Rows own = rows_of(starts, p.start_stride, p.starts, pair / p.owners, p.rows);
        if (row0 >= own.count) continue;
        bool is_nan = false;
        for (u32 member = 0; member < p.group; ++member)
            is_nan = is_nan || gw::is_nan(gw::load_global_cached(gates + static_cast<i64>(pair) * p.group + member));
        if (p.zeroed && p.value == 0.0f && !is_nan) continue;
        const float value = is_nan ? NAN : p.value;
        const i64 first = (p.starts.is_packed ? 0 : pair / p.owners * p.stride_b) + pair % p.owners * p.stride_o +
                          (own.first + row0) * p.stride_r;
        const i64 elements = static_cast<i64>(min(TILE, own.count - row0)) * p.columns;
        for (i64 e = threadIdx.x; e < elements; e += THREADS)
            store_element(target, first + e / p.columns * p.stride_r + e % p.columns, p.kind, value);
    }
}
GW_EXPORT(task_heads_fill)
