// multitask_class_metrics_f32: precision, recall and F1 of each class, their summary for each task, and over all tasks.
// Shapes    class_counts [tasks, width, 3] u32: right, predicted, labelled; per_class [tasks, width, 3]; per_task [tasks, 4]; overall
//           [2, 4] f32: accuracy, precision, recall, F1
// Mapping   grid 1, block 128; a thread takes every 128th task, thread 0 then the summary
// Shared    128 × (right, predicted, labelled, accurate, rows) = 2.5 KiB
// Traffic   24 bytes a class
// Numerics  a quotient whose divisor is 0 is 0; a task's macro mean is over the classes that were predicted or labelled, the overall
//           one over the tasks that have rows; both are 0 where there are none
// Host      tasks · width < 2^31
// Twin      src/multitask/cpu.rs        Source  Sokolova & Lapalme, Information Processing & Management 45 (2009) 427
#include "multitask/common.cuh"

namespace {

using namespace multitask;

struct ClassMetricsParams {
    u32 tasks, width;
    u32 one_class, positive;  // a task's precision, recall and F1 are this class's; otherwise the macro mean
};

constexpr u32 THREADS = 128;
constexpr u32 POOLED = 5;

struct Scores {
    float precision, recall, f1;
};

GW_DEVICE float quotient(u32 part, u32 whole) {
    return whole == 0 ? 0.0f : static_cast<float>(part) / static_cast<float>(whole);
}

GW_DEVICE Scores scores(u32 right, u32 predicted, u32 labelled) {
    return {quotient(right, predicted), quotient(right, labelled), quotient(2 * right, predicted + labelled)};
}

}  // namespace

GW_KERNEL(128, 1)
multitask_class_metrics_f32(const u32* class_counts, float* per_class, float* per_task, float* overall, ClassMetricsParams p) {
    GW_SHARED(u32, pooled);
    if (blockIdx.x != 0) return;
    u32 pool[POOLED] = {};
    for (u32 task = threadIdx.x; task < p.tasks; task += THREADS) {
        u32 all_right = 0, rows = 0, occurring = 0;
        Scores mean = {0.0f, 0.0f, 0.0f};
        for (u32 c = 0; c < p.width; ++c) {
            const i64 at = (static_cast<i64>(task) * p.width + c) * 3;
            const u32 right = gw::load_global_cached(class_counts + at);
            const u32 predicted = gw::load_global_cached(class_counts + at + 1);
            const u32 labelled = gw::load_global_cached(class_counts + at + 2);
            const Scores own = scores(right, predicted, labelled);
            gw::store_global(per_class + at, own.precision);
            gw::store_global(per_class + at + 1, own.recall);
            gw::store_global(per_class + at + 2, own.f1);
            all_right += right;
            rows += labelled;
            const bool counts = p.one_class ? c == p.positive : predicted + labelled > 0;
            if (!counts) continue;
            occurring += 1;
            mean = {mean.precision + own.precision, mean.recall + own.recall, mean.f1 + own.f1};
            pool[0] += right;
            pool[1] += predicted;
            pool[2] += labelled;
        }
        pool[3] += all_right;
        pool[4] += rows;
        const float share = occurring == 0 ? 0.0f : static_cast<float>(occurring);
        const i64 at = static_cast<i64>(task) * 4;
        gw::store_global(per_task + at, quotient(all_right, rows));
        gw::store_global(per_task + at + 1, share == 0.0f ? 0.0f : mean.precision / share);
        gw::store_global(per_task + at + 2, share == 0.0f ? 0.0f : mean.recall / share);
        gw::store_global(per_task + at + 3, share == 0.0f ? 0.0f : mean.f1 / share);
    }
    for (u32 i = 0; i < POOLED; ++i) pooled[threadIdx.x * POOLED + i] = pool[i];
    // The other threads' counts and per_task are read below.
    gw::sync_threads();
    if (threadIdx.x != 0) return;
    for (u32 thread = 1; thread < THREADS; ++thread) {
        for (u32 i = 0; i < POOLED; ++i) pool[i] += pooled[thread * POOLED + i];
    }
    float sums[4] = {};
    u32 with_rows = 0;
    for (u32 task = 0; task < p.tasks; ++task) {
        u32 rows = 0;
        for (u32 c = 0; c < p.width; ++c) rows += gw::load_global_cached(class_counts + (static_cast<i64>(task) * p.width + c) * 3 + 2);
        if (rows == 0) continue;
        with_rows += 1;
        for (u32 i = 0; i < 4; ++i) sums[i] += gw::load_global(per_task + static_cast<i64>(task) * 4 + i);
    }
    const Scores micro = scores(pool[0], pool[1], pool[2]);
    const float micros[4] = {quotient(pool[3], pool[4]), micro.precision, micro.recall, micro.f1};
    for (u32 i = 0; i < 4; ++i) {
        gw::store_global(overall + i, with_rows == 0 ? 0.0f : sums[i] / static_cast<float>(with_rows));
        gw::store_global(overall + 4 + i, micros[i]);
    }
}
GW_EXPORT(multitask_class_metrics_f32)
