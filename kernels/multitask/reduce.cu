// multitask_reduce_f32: L_t, the sum or mean of the losses of each task's rows; 0 for a task without rows.
// Shapes    rows as multitask_rows leaves them; row_losses [count] f32; counts [tasks] u32; losses [tasks] f32
// Mapping   persistent, block 256; a block takes one task at a time, a thread every 256th of its rows
// Shared    8 warp sums
// Traffic   mixed tasks: rows once a task, from cache; columns: once
// Numerics  f32; threads, a butterfly, warps in order: the same bits on every run
// Host      count < 2^31; columns is 1 (mixed) or tasks
// Twin      src/multitask/cpu.rs        Source  our own
#include "multitask/common.cuh"

namespace {

using namespace multitask;

struct ReduceParams {
    u32 count, columns, tasks;
    u32 mean;
};

constexpr u32 THREADS = 256;

}  // namespace

GW_KERNEL(256, 1)
multitask_reduce_f32(const u32* rows, const float* row_losses, const u32* counts, float* losses, ReduceParams p) {
    GW_SHARED(float, sums);
    for (u32 task = blockIdx.x; task < p.tasks; task += gridDim.x) {
        const RowsOfTask of = rows_of_task(task, p.columns);
        float sum = 0.0f;
        for (i64 row = of.first + static_cast<i64>(threadIdx.x) * of.step; row < p.count; row += THREADS * of.step) {
            if (gw::load_global_cached(rows + row) == task) sum += gw::load_global_cached(row_losses + row);
        }
        sum = block_sum<THREADS / WARP>(sums, sum);
        if (threadIdx.x == 0) {
            const u32 count = gw::load_global_cached(counts + task);
            gw::store_global(losses + task, p.mean && count > 0 ? sum / static_cast<float>(count) : sum);
        }
    }
}
GW_EXPORT(multitask_reduce_f32)
