// multitask_class_counts_f32: how often each class of each task was right, predicted, and asked for.
// Shapes    logits [batch, columns, width] f32 strided, last = 1; rows as multitask_rows leaves them; widths [tasks] u32 or none;
//           counts [tasks, width, 3] u32, cleared by multitask_rows: right, predicted, labelled
// Mapping   persistent, block 128; a warp owns a row, its lanes the classes
// Traffic   logits once
// Numerics  the first of the largest logits is the prediction, compared by bits: the same on every backend; a NaN is the largest.
//           Integer atomics: their order does not matter
// Bad id    such rows count nowhere
// Host      batch · columns < 2^31, 3 · tasks · width < 2^32
// Twin      src/multitask/cpu.rs        Source  our own
#include "multitask/common.cuh"

namespace {

using namespace multitask;

struct ClassCountsParams {
    i64 logit_stride_b, logit_stride_t;
    u32 count, columns, width;
    u32 has_widths;
};

constexpr u32 WARPS = 4;

}  // namespace

GW_KERNEL(128, 1)
multitask_class_counts_f32(const float* logits, const u32* rows, const u32* widths, u32* counts, ClassCountsParams p) {
    const u32 lane = threadIdx.x % WARP;
    for (i64 row = static_cast<i64>(blockIdx.x) * WARPS + threadIdx.x / WARP; row < p.count;
         row += static_cast<i64>(gridDim.x) * WARPS) {
        const u32 task = gw::load_global_cached(rows + row);
        const u32 label = gw::load_global_cached(rows + p.count + row);
        if (task == NO_TASK || task == BAD_TASK || label == BAD_LABEL) continue;  // uniform over the warp
        const u32 width = p.has_widths ? gw::load_global_cached(widths + task) : p.width;
        const float* z = logits + row / p.columns * p.logit_stride_b + row % p.columns * p.logit_stride_t;
        u32 best_key = 0, best = 0xffffffffu;  // no key is 0
        for (u32 c = lane; c < width; c += WARP) {
            const u32 key = sort_key(gw::load_global_cached(z + c));
            if (key > best_key) {
                best_key = key;
                best = c;
            }
        }
        for (int distance = 16; distance > 0; distance /= 2) {
            const u32 key = gw::shuffle_xor(best_key, distance), other = gw::shuffle_xor(best, distance);
            if (key > best_key || (key == best_key && other < best)) {
                best_key = key;
                best = other;
            }
        }
        if (lane == 0) {
            u32* of_task = counts + static_cast<i64>(task) * p.width * 3;
            if (best == label) gw::atomic_add_global(of_task + 3 * static_cast<i64>(label));
            gw::atomic_add_global(of_task + 3 * static_cast<i64>(best) + 1);
            gw::atomic_add_global(of_task + 3 * static_cast<i64>(label) + 2);
        }
    }
}
GW_EXPORT(multitask_class_counts_f32)
