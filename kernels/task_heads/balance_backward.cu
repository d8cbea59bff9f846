// task_heads_balance_backward_f32: adds w_t·∂balance_t/∂z to dz; the fractions f are constants.
// Shapes    probabilities, dz [batch, heads] f32 contiguous; selected [tasks, heads] f32; counts [tasks] u32; weights [tasks] f32; ids
//           [batch] i32, u32 or i64 strided, or none: all samples are of task 0
// Mapping   persistent, block 128; a thread owns a (sample, head) and sums its sample's heads in ascending order
// Traffic   2·heads reads a pair, from cache; dz once
// Numerics  f32; H·w/n times p·(f − Σ p·f) where p is a softmax, p·(1 − p)·f where it is a sigmoid, f where p is z
// Bad id    dz is left as it is, and for NO_TASK; never used as an index
// Host      batch · heads < 2^31, tasks < 2^31
// Twin      src/task_heads/cpu_statistics.rs        Source  Fedus et al., arXiv:2101.03961, §2.2
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;

struct BalanceBackwardParams {
    i64 id_stride;
    u32 batch, heads, tasks, shared_heads;
    u32 has_ids, id_kind;
    u32 family;  // 0 p = z, 1 sigmoid, 2 softmax
};

GW_DEVICE i64 task_of(const u32* ids, i64 sample, const BalanceBackwardParams& p) {
    if (!p.has_ids) return 0;
    const i64 word = sample * p.id_stride * (p.id_kind == 2 ? 2 : 1);
    const u32 low = gw::load_global_cached(ids + word);
    const u32 high = p.id_kind == 2 ? gw::load_global_cached(ids + word + 1) : 0u;
    return high == 0 && low < p.tasks ? static_cast<i64>(low) : -1;
}

}  // namespace

GW_KERNEL(128, 1)
task_heads_balance_backward_f32(const float* probabilities, const float* selected, const u32* counts, const float* weights,
                                const u32* ids, float* dz, BalanceBackwardParams p) {
    const i64 pairs = static_cast<i64>(p.batch) * p.heads;
    for (i64 pair = static_cast<i64>(blockIdx.x) * 128 + threadIdx.x; pair < pairs;
         pair += static_cast<i64>(gridDim.x) * 128) {
        const i64 sample = pair / p.heads, head = pair % p.heads;
        const i64 task = task_of(ids, sample, p);
        if (task < 0 || head < p.shared_heads) continue;
        const float* of_sample = probabilities + sample * p.heads;
        const float* f = selected + task * p.heads;
        const float own = gw::load_global_cached(of_sample + head);
        float slope = gw::load_global_cached(f + head);
        if (p.family == 1) slope *= own * (1.0f - own);
        if (p.family == 2) {
            float mean = 0.0f;
            for (i64 other = p.shared_heads; other < p.heads; ++other)
                mean = gw::fma(gw::load_global_cached(of_sample + other), gw::load_global_cached(f + other), mean);
            slope = own * (slope - mean);
        }
        const float factor = static_cast<float>(p.heads - p.shared_heads) * gw::load_global_cached(weights + task) /
                             static_cast<float>(gw::load_global_cached(counts + task));
        gw::store_global(dz + pair, gw::fma(factor, slope, gw::load_global(dz + pair)));
    }
}
GW_EXPORT(task_heads_balance_backward_f32)
