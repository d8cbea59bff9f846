// task_heads_statistics_f32: of each task and head, the fraction of samples whose gate is not 0 and the mean probability.
// Shapes    gates, probabilities [batch, heads] f32 contiguous; ids [batch] i32, u32 or i64 strided, or none: all samples are of task 0;
//           selected, mean_probability [tasks, heads] f32; counts [tasks] u32
// Mapping   persistent, block 128; a thread owns a (task, head) and walks the batch in ascending order: no atomics
// Traffic   ids once a thread, from cache; gates and probabilities once
// Numerics  f32; 0 for a task without samples
// Bad id    equals no task, so it is not counted; neither is NO_TASK
// Host      batch · heads < 2^31
// Twin      src/task_heads/cpu_statistics.rs        Source  Fedus et al., arXiv:2101.03961, §2.2
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;

struct StatisticsParams {
    i64 id_stride;
    u32 batch, heads, tasks;
    u32 has_ids, id_kind;
};

// Tasks are below 2^31, so an id equals one if its low word does and its upper bits are 0.
GW_DEVICE bool is_of_task(const u32* ids, i64 sample, u32 task, const StatisticsParams& p) {
    if (!p.has_ids) return true;
    const i64 word = sample * p.id_stride * (p.id_kind == 2 ? 2 : 1);
    if (gw::load_global_cached(ids + word) != task) return false;
    return p.id_kind != 2 || gw::load_global_cached(ids + word + 1) == 0;
}

}  // namespace

GW_KERNEL(128, 1)
task_heads_statistics_f32(const float* gates, const float* probabilities, const u32* ids, float* selected,
                          float* mean_probability, u32* counts, StatisticsParams p) {
    const i64 pairs = static_cast<i64>(p.tasks) * p.heads;
    for (i64 index = static_cast<i64>(blockIdx.x) * 128 + threadIdx.x; index < pairs;
         index += static_cast<i64>(gridDim.x) * 128) {
        const u32 task = static_cast<u32>(index / p.heads);
        const i64 head = index % p.heads;
        u32 samples = 0, on = 0;
        float sum = 0.0f;
        for (i64 sample = 0; sample < p.batch; ++sample) {
            if (!is_of_task(ids, sample, task, p)) continue;
            samples += 1;
            on += gw::load_global_cached(gates + sample * p.heads + head) != 0.0f ? 1 : 0;
            sum += gw::load_global_cached(probabilities + sample * p.heads + head);
        }
        const float count = samples > 0 ? static_cast<float>(samples) : 1.0f;
        gw::store_global(selected + index, static_cast<float>(on) / count);
        gw::store_global(mean_probability + index, sum / count);
        if (head == 0) gw::store_global(counts + task, samples);
    }
}
GW_EXPORT(task_heads_statistics_f32)
