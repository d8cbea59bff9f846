// task_heads_dynamic_inputs_f32: dx[b,f] = Σ_h dz[b,h]·w[t_b,h,f], summed over the samples that share x.
// Shapes    dz [batch, heads] f32 contiguous; weights [tasks, heads, features] strided, last = 1; ids [batch] i32, u32 or i64 strided,
//           or none: all samples are of task 0; dx [batch / repeat, features] contiguous
// Mapping   persistent, block 128; a thread owns an element and walks its samples and heads in ascending order
// Traffic   weights once a sample, from cache; dx once
// Bad id    NaN, never used as an index; without a task 0
// Host      batch · heads < 2^31, batch · features < 2^63
// Twin      src/task_heads/cpu_scores.rs        Source  our own
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;

struct DynamicInputsParams {
    i64 task_stride, head_stride, id_stride;
    u32 batch, heads, tasks, features;
    u32 has_ids, id_kind;
    u32 repeat;  // samples in a row that share x
};

constexpr i64 NO_TASK = -1;
constexpr i64 BAD_TASK = -2;

GW_DEVICE i64 task_of(const u32* ids, i64 sample, const DynamicInputsParams& p) {
    if (!p.has_ids) return 0;
    const bool wide = p.id_kind == 2;
    const i64 word = sample * p.id_stride * (wide ? 2 : 1);
    const u32 low = gw::load_global(ids + word);
    const u32 sign = p.id_kind == 0 && low >> 31 != 0 ? 0xffffffffu : 0u;
    const u32 high = wide ? gw::load_global(ids + word + 1) : sign;
    if (low == 0xffffffffu && (p.id_kind == 1 || high == 0xffffffffu)) return NO_TASK;
    return high == 0 && low < p.tasks ? static_cast<i64>(low) : BAD_TASK;
}

}  // namespace

GW_KERNEL(128, 1)
task_heads_dynamic_inputs_f32(const float* dz, const float* weights, const u32* ids, float* dx, DynamicInputsParams p) {
    const i64 count = static_cast<i64>(p.batch / p.repeat) * p.features;
    for (i64 index = static_cast<i64>(blockIdx.x) * 128 + threadIdx.x; index < count;
         index += static_cast<i64>(gridDim.x) * 128) {
        const i64 first = index / p.features * p.repeat, feature = index % p.features;
        float sum = 0.0f;
        for (i64 sample = first; sample < first + p.repeat; ++sample) {
            const i64 task = task_of(ids, sample, p);
            if (task == BAD_TASK) sum = NAN;
            if (task < 0) continue;
            for (i64 head = 0; head < p.heads; ++head) {
                const float weight = gw::load_global_cached(weights + task * p.task_stride + head * p.head_stride + feature);
                sum = gw::fma(gw::load_global_cached(dz + sample * p.heads + head), weight, sum);
            }
        }
        gw::store_global(dx + index, sum);
    }
}
GW_EXPORT(task_heads_dynamic_inputs_f32)
