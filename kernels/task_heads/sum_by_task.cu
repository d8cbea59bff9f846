// task_heads_sum_by_task_f32: out[t,h] = Σ dz[b,h] over the samples of task t.
// Shapes    dz [batch, heads] f32 contiguous; ids [batch] i32, u32 or i64 strided; out [tasks, heads] f32 contiguous
// Mapping   persistent, block 128; a thread owns one (task, head) and walks the batch in ascending order: no atomics, so the sum
//           is the same on every run
// Traffic   ids once a thread, from cache; dz once
// Bad id    equals no task, so it is not summed; neither is NO_TASK
// Host      batch · heads < 2^31
// Twin      src/task_heads/cpu.rs        Source  our own
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;

struct SumByTaskParams {
    i64 id_stride;
    u32 batch, heads, tasks;
    u32 id_kind;  // 0 i32, 1 u32, 2 i64 (low word first)
};

// Tasks are below 2^31, so an id equals one if its low word does and its upper bits are 0.
GW_DEVICE bool is_of_task(const u32* ids, i64 sample, u32 task, const SumByTaskParams& p) {
    const i64 word = sample * p.id_stride * (p.id_kind == 2 ? 2 : 1);
    if (gw::load_global_cached(ids + word) != task) return false;
    return p.id_kind != 2 || gw::load_global_cached(ids + word + 1) == 0;
}

}  // namespace

GW_KERNEL(128, 1) task_heads_sum_by_task_f32(const float* dz, const u32* ids, float* out, SumByTaskParams p) {
    const i64 sums = static_cast<i64>(p.tasks) * p.heads;
    for (i64 index = static_cast<i64>(blockIdx.x) * 128 + threadIdx.x; index < sums;
         index += static_cast<i64>(gridDim.x) * 128) {
        const u32 task = static_cast<u32>(index / p.heads);
        const i64 head = index % p.heads;
        float sum = 0.0f;
        for (i64 sample = 0; sample < p.batch; ++sample) {
            if (is_of_task(ids, sample, task, p)) sum += gw::load_global_cached(dz + sample * p.heads + head);
        }
        gw::store_global(out + index, sum);
    }
}
GW_EXPORT(task_heads_sum_by_task_f32)
