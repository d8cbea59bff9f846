// task_heads_used_f32: which heads some task uses, where every sample is asked every task.
// Shapes    gates [batch, tasks, heads] f32 contiguous; used [batch, heads] f32: 1, 0, or NaN
// Mapping   persistent, block 128; a thread owns a (sample, head) and walks the tasks
// Shared    none
// Traffic   gates and used once
// Numerics  1 if a task's gate is neither 0 nor NaN; of the others NaN if one is NaN, otherwise 0
// Host      batch · tasks · heads < 2^31
// Twin      src/task_heads/every_task/cpu.rs        Source  our own
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;

struct UsedParams {
    u32 batch, tasks, heads;
};

}  // namespace

GW_KERNEL(128, 1) task_heads_used_f32(const float* gates, float* used, UsedParams p) {
    const i64 pairs = static_cast<i64>(p.batch) * p.heads;
    for (i64 pair = static_cast<i64>(blockIdx.x) * 128 + threadIdx.x; pair < pairs;
         pair += static_cast<i64>(gridDim.x) * 128) {
        const float* of_pair = gates + pair / p.heads * p.tasks * p.heads + pair % p.heads;
        bool any_active = false, any_nan = false;
        for (u32 task = 0; task < p.tasks; ++task) {
            const float gate = gw::load_global_cached(of_pair + static_cast<i64>(task) * p.heads);
            any_active = any_active || (gate != 0.0f && !gw::is_nan(gate));
            any_nan = any_nan || gw::is_nan(gate);
        }
        gw::store_global(used + pair, any_active ? 1.0f : any_nan ? NAN : 0.0f);
    }
}
GW_EXPORT(task_heads_used_f32)
