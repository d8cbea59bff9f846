// multitask_weighted_sum_f32: Σ_t w_t x_t, or the mean Σ w_t x_t / Σ w_t over the tasks that have rows.
// Shapes    values [tasks] f32 strided; weights [tasks] f32; counts [tasks] u32; rows as multitask_rows leaves them, or none; total [1] f32
// Mapping   grid 1, block 32; one thread adds the tasks in order
// Traffic   12 bytes a task
// Numerics  f32; a task of weight 0 contributes nothing, not even a NaN; rows of a bad task make the sum NaN; a mean over nothing is 0
// Host      tasks < 2^31
// Twin      src/multitask/cpu.rs        Source  our own
#include "multitask/common.cuh"

namespace {

using namespace multitask;

struct WeightedSumParams {
    i64 value_stride;
    u32 tasks, has_weights;
    u32 mean;
    u32 has_rows, bad;  // where in rows the number of bad rows stands
};

}  // namespace

GW_KERNEL(32, 1)
multitask_weighted_sum_f32(const float* values, const float* weights, const u32* counts, const u32* rows, float* total,
                           WeightedSumParams p) {
    if (blockIdx.x != 0 || threadIdx.x != 0) return;
    float sum = 0.0f, weight_sum = 0.0f;
    for (u32 task = 0; task < p.tasks; ++task) {
        const float weight = p.has_weights ? gw::load_global_cached(weights + task) : 1.0f;
        if (weight == 0.0f || (p.mean && gw::load_global_cached(counts + task) == 0)) continue;
        sum = gw::fma(weight, gw::load_global_cached(values + task * p.value_stride), sum);
        weight_sum += weight;
    }
    if (p.mean) sum = weight_sum == 0.0f ? 0.0f : sum / weight_sum;
    if (p.has_rows && gw::load_global_cached(rows + p.bad) != 0) sum = NAN;
    gw::store_global(total, sum);
}
GW_EXPORT(multitask_weighted_sum_f32)
