// multitask_cross_entropy_f32: loss of each row and, in the same launch, the gradient of Σ_t w_t L_t by its logits.
// Shapes    logits, dlogits [batch, columns, width] f32 strided, last = 1; rows as multitask_rows leaves them; counts, widths
//           [tasks] u32; weights [tasks] f32; row_losses [batch·columns] f32
// Mapping   persistent, block 128; a warp owns a row, its lanes the classes
// Traffic   logits once from memory, twice more from cache; dlogits once. Rows that are left out: 4 bytes a dlogit
// FLOPs     2 exponentials a logit
// Numerics  f32; maximum subtracted; log Σe^(z−m) − (z_y − m), so that nothing cancels; lanes, then a butterfly. A NaN or +∞, or no
//           logit above −∞, makes the row NaN. The logits of a row that is left out, and those beyond its task's width, are
//           not read, and their gradient is 0; so is that of a task with weight 0
// Host      batch · columns < 2^31, width < 2^31
// Twin      src/multitask/cpu.rs        Source  Szegedy et al., arXiv:1512.00567, §7 (label smoothing)
#include "multitask/common.cuh"

namespace {

using namespace multitask;

struct CrossEntropyParams {
    i64 logit_stride_b, logit_stride_t, grad_stride_b, grad_stride_t;
    u32 count, columns, width;
    u32 has_widths, has_weights, has_grad;
    u32 mean;  // divide by the task's count
    float smoothing;
};

constexpr u32 WARPS = 4;

struct Target {
    u32 width, label;
    float smoothing, factor;
};

// The row's loss; writes its gradient.
GW_DEVICE float of_row(const float* z, float* dz, const Target& target, u32 lane) {
    float maximum = -INFINITY;
    for (u32 c = lane; c < target.width; c += WARP) {
        const float x = gw::load_global_cached(z + c);
        maximum = x > maximum ? x : maximum;  // a NaN comes in by the sum
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        const float other = gw::shuffle_xor(maximum, distance);
        maximum = other > maximum ? other : maximum;
    }
    float total = 0.0f, shifted = 0.0f;
    for (u32 c = lane; c < target.width; c += WARP) {
        const float x = gw::load_global_cached(z + c) - maximum;
        total += ::expf(x);
        shifted += x;
    }
    total = warp_sum(total);
    shifted = warp_sum(shifted);
    if (dz != nullptr) {
        const float even = target.smoothing / static_cast<float>(target.width);
        for (u32 c = lane; c < target.width; c += WARP) {
            const float p = ::expf(gw::load_global_cached(z + c) - maximum) / total;
            const float want = c == target.label ? 1.0f - target.smoothing + even : even;
            gw::store_global(dz + c, target.factor == 0.0f ? 0.0f : target.factor * (p - want));
        }
    }
    float loss = ::logf(total) - (1.0f - target.smoothing) * (gw::load_global_cached(z + target.label) - maximum);
    // −∞ logits make the even part infinite; without smoothing it is not there at all.
    if (target.smoothing > 0.0f) loss -= target.smoothing * shifted / static_cast<float>(target.width);
    return loss;
}

}  // namespace

GW_KERNEL(128, 1)
multitask_cross_entropy_f32(const float* logits, const u32* rows, const u32* counts, const float* weights, const u32* widths,
                            float* dlogits, float* row_losses, CrossEntropyParams p) {
    const u32 lane = threadIdx.x % WARP;
    for (i64 row = static_cast<i64>(blockIdx.x) * WARPS + threadIdx.x / WARP; row < p.count;
         row += static_cast<i64>(gridDim.x) * WARPS) {
        const i64 sample = row / p.columns, column = row % p.columns;
        float* dz = p.has_grad ? dlogits + sample * p.grad_stride_b + column * p.grad_stride_t : nullptr;
        const u32 task = gw::load_global_cached(rows + row);
        const u32 label = gw::load_global_cached(rows + p.count + row);
        float loss = 0.0f, rest = 0.0f;
        u32 written = 0;
        if (task == BAD_TASK || (task != NO_TASK && label == BAD_LABEL)) {
            loss = rest = NAN;
        } else if (task != NO_TASK) {
            Target target;
            written = target.width = p.has_widths ? gw::load_global_cached(widths + task) : p.width;
            target.label = label;
            target.smoothing = p.smoothing;
            target.factor = p.has_weights ? gw::load_global_cached(weights + task) : 1.0f;
            if (p.mean) target.factor /= static_cast<float>(gw::load_global_cached(counts + task));
            loss = of_row(logits + sample * p.logit_stride_b + column * p.logit_stride_t, dz, target, lane);
        }
        if (dz != nullptr) {
            for (u32 c = written + lane; c < p.width; c += WARP) gw::store_global(dz + c, rest);
        }
        if (lane == 0) gw::store_global(row_losses + row, loss);
    }
}
GW_EXPORT(multitask_cross_entropy_f32)
