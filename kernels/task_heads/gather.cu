// task_heads_gather_f32: grad_o[b,h] = Σ_t g[b,t,h]·dy[b,t,h], what every task asks of a head's one output.
// Shapes    dy [batch, tasks, heads, rows, columns] strided, last = 1; gates [batch, tasks, heads] f32 contiguous;
//           order [batch·heads], counts [2] u32; grad_o [batch, heads, rows, columns] f32 contiguous
// Mapping   persistent, block 256; a block takes 64 rows of one listed (sample, head), a thread an element for all tasks
// Shared    none
// Traffic   dy of the gates that are not 0 once, grad_o of the listed pairs once
// Numerics  f32; tasks in ascending order, a gate of 0 left out
// Host      batch · tasks · heads < 2^31, columns ≥ 1
// Twin      src/task_heads/every_task/cpu.rs        Source  our own
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;

struct GatherParams {
    i64 dy_stride_b, dy_stride_t, dy_stride_h, dy_stride_r;
    u32 batch, tasks, heads, rows, columns;
};

constexpr u32 THREADS = 256;
constexpr u32 ROWS = 64;

}  // namespace

GW_KERNEL(256, 1)
task_heads_gather_f32(const float* dy, const float* gates, const u32* order, const u32* counts, float* grad_o, GatherParams p) {
    const u32 pairs = p.batch * p.heads;
    // The list is the caller's to keep: a count or a pair that cannot be is not used as an index.
    const u32 listed = min(gw::load_global_cached(counts), pairs);
    const u32 tiles = p.rows / ROWS + (p.rows % ROWS != 0 ? 1 : 0);
    const i64 work = static_cast<i64>(listed) * tiles;
    for (i64 item = blockIdx.x; item < work; item += gridDim.x) {
        const u32 pair = gw::load_global_cached(order + item / tiles);
        if (pair >= pairs) continue;
        const i64 sample = pair / p.heads, head = pair % p.heads;
        const u32 row0 = static_cast<u32>(item % tiles) * ROWS;
        const float* from = dy + sample * p.dy_stride_b + head * p.dy_stride_h + row0 * p.dy_stride_r;
        float* to = grad_o + (static_cast<i64>(pair) * p.rows + row0) * p.columns;
        const float* of_pair = gates + sample * p.tasks * p.heads + head;
        const i64 elements = static_cast<i64>(min(ROWS, p.rows - row0)) * p.columns;
        for (i64 e = threadIdx.x; e < elements; e += THREADS) {
            const float* element = from + e / p.columns * p.dy_stride_r + e % p.columns;
            float sum = 0.0f;
            for (u32 task = 0; task < p.tasks; ++task) {
                const float gate = gw::load_global_cached(of_pair + static_cast<i64>(task) * p.heads);
                if (gate != 0.0f) sum = gw::fma(gate, gw::load_global_cached(element + task * p.dy_stride_t), sum);
            }
            gw::store_global(to + e, sum);
        }
    }
}
GW_EXPORT(task_heads_gather_f32)
