// task_heads_dynamic_weights_f32: dw[t,h,f] = Σ_b dz[b,h]·x[b,f] and dbias[t,h] = Σ_b dz[b,h] over the samples of task t.
// Shapes    dz [batch, heads] f32 contiguous; x [batch / repeat, features] strided, last = 1; ids [batch] i32, u32 or i64 strided, or none: all
//           samples are of task 0; out [tasks, heads, features] contiguous
// Mapping   persistent, block 128; a thread owns a weight and walks the batch in ascending order: no atomics
// Traffic   ids and dz once a thread, from cache; x once a head, neighbouring threads neighbouring features
// Numerics  f32; for the bias features is 1 and x, which is not there, counts as 1
// Bad id    equals no task, so it is not summed; neither is NO_TASK
// Host      batch · heads < 2^31, tasks · heads · features < 2^63
// Twin      src/task_heads/cpu_scores.rs        Source  our own
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;

struct DynamicWeightsParams {
    i64 x_stride, id_stride;
    u32 batch, heads, tasks, features;
    u32 has_ids, id_kind, has_x;
    u32 repeat;  // samples in a row that share x
};

// Tasks are below 2^31, so an id equals one if its low word does and its upper bits are 0.
GW_DEVICE bool is_of_task(const u32* ids, i64 sample, u32 task, const DynamicWeightsParams& p) {
    if (!p.has_ids) return true;
    const i64 word = sample * p.id_stride * (p.id_kind == 2 ? 2 : 1);
    if (gw::load_global_cached(ids + word) != task) return false;
    return p.id_kind != 2 || gw::load_global_cached(ids + word + 1) == 0;
}

}  // namespace

GW_KERNEL(128, 1)
task_heads_dynamic_weights_f32(const float* dz, const float* x, const u32* ids, float* out, DynamicWeightsParams p) {
    const i64 count = static_cast<i64>(p.tasks) * p.heads * p.features;
    for (i64 index = static_cast<i64>(blockIdx.x) * 128 + threadIdx.x; index < count;
         index += static_cast<i64>(gridDim.x) * 128) {
        const i64 feature = index % p.features, head = index / p.features % p.heads;
        const u32 task = static_cast<u32>(index / p.features / p.heads);
        float sum = 0.0f;
        for (i64 sample = 0; sample < p.batch; ++sample) {
            if (!is_of_task(ids, sample, task, p)) continue;
            const float own = gw::load_global_cached(dz + sample * p.heads + head);
            sum = gw::fma(own, p.has_x ? gw::load_global_cached(x + sample / p.repeat * p.x_stride + feature) : 1.0f, sum);
        }
        gw::store_global(out + index, sum);
    }
}
GW_EXPORT(task_heads_dynamic_weights_f32)
