// multitask_count: how many rows each task has, and how many rows have a bad task.
// Shapes    rows as multitask_rows leaves them, [2·count + 1] u32; counts [tasks] u32
// Mapping   persistent, block 256; a block takes one task at a time, the last one the bad rows
// Shared    256 counts = 1 KiB
// Traffic   mixed tasks: rows once a task, from cache; columns: once
// Host      count < 2^31; columns is 1 (mixed) or tasks
// Twin      src/multitask/cpu.rs        Source  our own
#include "multitask/common.cuh"

namespace {

using namespace multitask;

struct CountParams {
    u32 count, columns, tasks;
};

constexpr u32 THREADS = 256;

}  // namespace

GW_KERNEL(256, 1) multitask_count(u32* rows, u32* counts, CountParams p) {
    GW_SHARED(u32, sums);
    for (u32 task = blockIdx.x; task <= p.tasks; task += gridDim.x) {
        const bool is_bad = task == p.tasks;
        const RowsOfTask of = is_bad ? RowsOfTask{0, 1} : rows_of_task(task, p.columns);
        u32 found = 0;
        for (i64 row = of.first + static_cast<i64>(threadIdx.x) * of.step; row < p.count; row += THREADS * of.step) {
            found += gw::load_global(rows + row) == (is_bad ? BAD_TASK : task) ? 1u : 0u;
        }
        sums[threadIdx.x] = found;
        gw::sync_threads();
        for (u32 half = THREADS / 2; half > 0; half /= 2) {
            if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
            gw::sync_threads();
        }
        if (threadIdx.x == 0) gw::store_global(is_bad ? rows + 2 * static_cast<i64>(p.count) : counts + task, sums[0]);
        // The next task's counts overwrite what thread 0 reads.
        gw::sync_threads();
    }
}
GW_EXPORT(multitask_count)
