// task_heads_spread_f32: y[b,t,h] = g[b,t,h]·o[b,h], the output of a head once for every task.
// Shapes    o [batch, heads, rows, columns] strided, last = 1; gates [batch, tasks, heads] f32 contiguous; used [batch, heads] f32;
//           lse [batch, heads, rows] strided; y [batch, tasks, heads, rows, columns] strided, last = 1
// Mapping   persistent, block 256; a block takes 64 rows of one (sample, head), a thread an element of o for all tasks
// Shared    none
// Traffic   o and lse of the used heads once, y once; where y is known to hold zeros, nothing is written for a gate of 0
// Numerics  one rounding; 0 where the gate is 0, whatever o holds, and +0 in rows that see no key, as attention scales them; o of a
//           head that no task uses is not read
// Host      batch · tasks · heads < 2^31, columns ≥ 1
// Twin      src/task_heads/every_task/cpu.rs        Source  our own
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;

struct SpreadParams {
    i64 o_stride_b, o_stride_h, o_stride_r;
    i64 y_stride_b, y_stride_t, y_stride_h, y_stride_r;
    i64 lse_stride_b, lse_stride_h, lse_stride_r;
    u32 batch, tasks, heads, rows, columns;
    u32 zeroed;  // zeros need not be written
};

constexpr u32 THREADS = 256;
constexpr u32 ROWS = 64;

}  // namespace

GW_KERNEL(256, 1)
task_heads_spread_f32(const float* o, const float* gates, const float* used, const float* lse, float* y,
                      SpreadParams p) {
    const u32 tiles = p.rows / ROWS + (p.rows % ROWS != 0 ? 1 : 0);
    const i64 work = static_cast<i64>(p.batch) * p.heads * tiles;
    for (i64 item = blockIdx.x; item < work; item += gridDim.x) {
        const i64 pair = item / tiles, sample = pair / p.heads, head = pair % p.heads;
        const u32 row0 = static_cast<u32>(item % tiles) * ROWS;
        // 1 or NaN: a NaN gate makes its rows NaN without a look at o.
        const float use = gw::load_global_cached(used + pair);
        if (p.zeroed && use == 0.0f) continue;
        const bool is_computed = use == 1.0f;
        const float* from = o + sample * p.o_stride_b + head * p.o_stride_h + row0 * p.o_stride_r;
        const float* sums = lse + sample * p.lse_stride_b + head * p.lse_stride_h + row0 * p.lse_stride_r;
        float* to = y + sample * p.y_stride_b + head * p.y_stride_h + row0 * p.y_stride_r;
        const float* of_pair = gates + sample * p.tasks * p.heads + head;
        const i64 elements = static_cast<i64>(min(ROWS, p.rows - row0)) * p.columns;
        for (i64 e = threadIdx.x; e < elements; e += THREADS) {
            const i64 row = e / p.columns, column = e % p.columns;
            const float value = is_computed ? gw::load_global_cached(from + row * p.o_stride_r + column) : 0.0f;
            const bool is_empty = is_computed && gw::load_global_cached(sums + row * p.lse_stride_r) == -INFINITY;
            for (u32 task = 0; task < p.tasks; ++task) {
                const float gate = gw::load_global_cached(of_pair + static_cast<i64>(task) * p.heads);
                if (p.zeroed && gate == 0.0f) continue;
                const bool is_zero = gate == 0.0f || (is_empty && !gw::is_nan(gate));
                gw::store_global(to + task * p.y_stride_t + row * p.y_stride_r + column, is_zero ? 0.0f : value * gate);
            }
        }
    }
}
GW_EXPORT(task_heads_spread_f32)
