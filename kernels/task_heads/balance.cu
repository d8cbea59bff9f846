// task_heads_balance_f32: balance H·Σ f·P, entropy and active fraction of each task, from its statistics.
// Shapes    selected, mean_probability [tasks, heads] f32; summary [tasks, 3] f32: balance, entropy, active fraction
// Mapping   persistent, block 128; a thread owns a task and walks its heads in ascending order
// Traffic   8 bytes a head, twice
// Numerics  f32; entropy −Σ q·ln q of q = P/ΣP, natural log, 0 where ΣP is 0. Balance and entropy are over the routed heads, the active
//           fraction over all
// Host      tasks · heads < 2^31
// Twin      src/task_heads/cpu_statistics.rs        Source  Fedus et al., arXiv:2101.03961, §2.2
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;

struct BalanceParams {
    u32 tasks, heads, shared_heads;
};

}  // namespace

GW_KERNEL(128, 1)
task_heads_balance_f32(const float* selected, const float* mean_probability, float* summary, BalanceParams p) {
    for (i64 task = static_cast<i64>(blockIdx.x) * 128 + threadIdx.x; task < p.tasks;
         task += static_cast<i64>(gridDim.x) * 128) {
        float product = 0.0f, total = 0.0f, active = 0.0f, entropy = 0.0f;
        for (u32 head = 0; head < p.heads; ++head) {
            const float f = gw::load_global_cached(selected + task * p.heads + head);
            active += f;
            if (head < p.shared_heads) continue;
            const float probability = gw::load_global_cached(mean_probability + task * p.heads + head);
            product = gw::fma(f, probability, product);
            total += probability;
        }
        for (u32 head = p.shared_heads; head < p.heads; ++head) {
            const float probability = gw::load_global_cached(mean_probability + task * p.heads + head);
            const float q = total == 0.0f ? 0.0f : probability / total;
            if (!(q <= 0.0f)) entropy -= q * ::logf(q);  // a NaN comes in
        }
        gw::store_global(summary + 3 * task, static_cast<float>(p.heads - p.shared_heads) * product);
        gw::store_global(summary + 3 * task + 1, entropy);
        gw::store_global(summary + 3 * task + 2, p.heads == 0 ? 0.0f : active / static_cast<float>(p.heads));
    }
}
GW_EXPORT(task_heads_balance_f32)
