// multitask_squared_error_f32: mean squared error of each row and, in the same launch, the gradient of Σ_t w_t L_t.
// Shapes    values, targets, gradient [batch, columns, width] f32 strided, last = 1; rows as multitask_rows leaves them; counts,
//           widths [tasks] u32; weights [tasks] f32; row_losses [batch·columns] f32
// Mapping   persistent, block 128; a warp owns a row, its lanes the elements
// Traffic   values, targets, gradient once. Rows that are left out: 4 bytes an element of the gradient
// Numerics  f32; lanes, then a butterfly. A row that is left out is not read, and its gradient is 0; nor is what lies beyond its
//           task's width; the gradient of a task with weight 0 is 0
// Host      batch · columns < 2^31, width < 2^31
// Twin      src/multitask/cpu.rs        Source  our own
#include "multitask/common.cuh"

namespace {

using namespace multitask;

struct SquaredErrorParams {
    i64 value_stride_b, value_stride_t, target_stride_b, target_stride_t, grad_stride_b, grad_stride_t;
    u32 count, columns, width;
    u32 has_widths, has_weights, has_grad;
    u32 mean;  // divide by the task's count
};

constexpr u32 WARPS = 4;

}  // namespace

GW_KERNEL(128, 1)
multitask_squared_error_f32(const float* values, const float* targets, const u32* rows, const u32* counts, const float* weights,
                            const u32* widths, float* gradient, float* row_losses, SquaredErrorParams p) {
    const u32 lane = threadIdx.x % WARP;
    for (i64 row = static_cast<i64>(blockIdx.x) * WARPS + threadIdx.x / WARP; row < p.count;
         row += static_cast<i64>(gridDim.x) * WARPS) {
        const i64 sample = row / p.columns, column = row % p.columns;
        float* dx = p.has_grad ? gradient + sample * p.grad_stride_b + column * p.grad_stride_t : nullptr;
        const u32 task = gw::load_global_cached(rows + row);
        const bool is_bad = task == BAD_TASK;
        float loss = is_bad ? NAN : 0.0f;
        u32 written = 0;
        if (task != NO_TASK && !is_bad) {
            written = p.has_widths ? gw::load_global_cached(widths + task) : p.width;
            const float* x = values + sample * p.value_stride_b + column * p.value_stride_t;
            const float* y = targets + sample * p.target_stride_b + column * p.target_stride_t;
            float weight = p.has_weights ? gw::load_global_cached(weights + task) : 1.0f;
            if (p.mean) weight /= static_cast<float>(gw::load_global_cached(counts + task));
            const float factor = 2.0f * weight / static_cast<float>(written);
            float sum = 0.0f;
            for (u32 i = lane; i < written; i += WARP) {
                const float error = gw::load_global_cached(x + i) - gw::load_global_cached(y + i);
                sum = gw::fma(error, error, sum);
                if (dx != nullptr) gw::store_global(dx + i, weight == 0.0f ? 0.0f : factor * error);
            }
            sum = warp_sum(sum);
            loss = written == 0 ? 0.0f : sum / static_cast<float>(written);
        }
        if (dx != nullptr) {
            for (u32 i = written + lane; i < p.width; i += WARP) gw::store_global(dx + i, is_bad ? NAN : 0.0f);
        }
        if (lane == 0) gw::store_global(row_losses + row, loss);
    }
}
GW_EXPORT(multitask_squared_error_f32)
