// multitask_regression_metrics_f32: mean absolute error, mean squared error and R² of each task.
// Shapes    values, targets [batch, columns] f32 strided; rows as multitask_rows leaves them; counts [tasks] u32; per_task [tasks, 3]
// Mapping   persistent, block 256; a block takes one task at a time, a thread every 256th of its rows
// Shared    8 warp sums
// Traffic   mixed tasks: rows once a task, from cache; columns: values once, targets twice
// Numerics  f32; the targets' mean as a distance from their first, so that equal targets have no spread, then the squares about it;
//           threads, a butterfly, warps in order. R² of equal targets is 1 where every error is 0, otherwise 0; a task without
//           rows has 0 everywhere
// Bad id    such rows count nowhere
// Host      count < 2^31; columns is 1 (mixed) or tasks
// Twin      src/multitask/cpu.rs        Source  our own
#include "multitask/common.cuh"

namespace {

using namespace multitask;

struct RegressionMetricsParams {
    i64 value_stride_b, value_stride_t, target_stride_b, target_stride_t;
    u32 count, columns, tasks;
};

constexpr u32 THREADS = 256;
constexpr u32 WARPS = THREADS / WARP;

GW_DEVICE float target(const float* targets, i64 row, const RegressionMetricsParams& p) {
    return gw::load_global_cached(targets + row / p.columns * p.target_stride_b + row % p.columns * p.target_stride_t);
}

// The task's first row, p.count if it has none. Every thread gets it.
GW_DEVICE i64 first_row(gw::Shared<u32> firsts, const u32* rows, u32 task, i64 first, i64 step, u32 count) {
    i64 row = first;
    while (row < count && gw::load_global_cached(rows + row) != task) row += step;
    u32 found = row < count ? static_cast<u32>(row) : count;
    for (int distance = 16; distance > 0; distance /= 2) found = min(found, gw::shuffle_xor(found, distance));
    if (threadIdx.x % WARP == 0) firsts[threadIdx.x / WARP] = found;
    gw::sync_threads();
    for (u32 warp = 0; warp < WARPS; ++warp) found = min(found, firsts[warp]);
    // The sums that follow overwrite what slow threads still read.
    gw::sync_threads();
    return found;
}

}  // namespace

GW_KERNEL(256, 1)
multitask_regression_metrics_f32(const float* values, const float* targets, const u32* rows, const u32* counts, float* per_task,
                                 RegressionMetricsParams p) {
    GW_SHARED(float, sums);
    for (u32 task = blockIdx.x; task < p.tasks; task += gridDim.x) {
        const RowsOfTask of = rows_of_task(task, p.columns);
        const i64 first = of.first + static_cast<i64>(threadIdx.x) * of.step, step = static_cast<i64>(THREADS) * of.step;
        const u32 found = gw::load_global_cached(counts + task);
        const float count = static_cast<float>(found > 0 ? found : 1);
        const i64 pivot_row = first_row(sums.cast<u32>(), rows, task, first, step, p.count);
        const float pivot = pivot_row < p.count ? target(targets, pivot_row, p) : 0.0f;
        float sum = 0.0f;
        for (i64 row = pivot_row < p.count ? first : p.count; row < p.count; row += step) {
            if (gw::load_global_cached(rows + row) == task) sum += target(targets, row, p) - pivot;
        }
        const float mean = pivot + block_sum<WARPS>(sums, sum) / count;
        float absolute = 0.0f, squared = 0.0f, spread = 0.0f;
        for (i64 row = first; row < p.count; row += step) {
            if (gw::load_global_cached(rows + row) != task) continue;
            const i64 sample = row / p.columns, column = row % p.columns;
            const float y = target(targets, row, p);
            const float error = gw::load_global_cached(values + sample * p.value_stride_b + column * p.value_stride_t) - y;
            absolute += ::fabsf(error);
            squared = gw::fma(error, error, squared);
            spread = gw::fma(y - mean, y - mean, spread);
        }
        absolute = block_sum<WARPS>(sums, absolute);
        squared = block_sum<WARPS>(sums, squared);
        spread = block_sum<WARPS>(sums, spread);
        if (threadIdx.x == 0) {
            float r2 = 1.0f - squared / spread;
            if (spread == 0.0f) r2 = squared == 0.0f && found > 0 ? 1.0f : 0.0f;
            const i64 at = static_cast<i64>(task) * 3;
            gw::store_global(per_task + at, absolute / count);
            gw::store_global(per_task + at + 1, squared / count);
            gw::store_global(per_task + at + 2, r2);
        }
    }
}
GW_EXPORT(multitask_regression_metrics_f32)
