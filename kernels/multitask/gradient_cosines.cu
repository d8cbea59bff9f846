// multitask_gradient_cosines_f32: norms of the tasks' gradients and cosines between them, from partial inner products.
// Shapes    partial [chunks, tasks, tasks] f32, upper triangle; norms [tasks], cosines [tasks, tasks] f32
// Mapping   persistent, block 128; a thread owns a pair
// Traffic   12 bytes a chunk and pair, mostly from cache
// Numerics  f32, chunks in order. A task is at cosine 1 to itself; 0 to and from a zero gradient; within −1..=1
// Host      tasks < 2^15
// Twin      src/multitask/cpu.rs        Source  Chen et al., arXiv:1711.02257 (norms); Yu et al., arXiv:2001.06782 (cosines)
#include "multitask/common.cuh"

namespace {

using namespace multitask;

struct CosinesParams {
    u32 tasks, chunks;
};

GW_DEVICE float product(const float* partial, u32 i, u32 j, const CosinesParams& p) {
    const i64 step = static_cast<i64>(p.tasks) * p.tasks;
    const float* at = partial + static_cast<i64>(i < j ? i : j) * p.tasks + (i < j ? j : i);
    float sum = 0.0f;
    for (u32 chunk = 0; chunk < p.chunks; ++chunk) sum += gw::load_global_cached(at + chunk * step);
    return sum;
}

}  // namespace

GW_KERNEL(128, 1) multitask_gradient_cosines_f32(const float* partial, float* norms, float* cosines, CosinesParams p) {
    const i64 pairs = static_cast<i64>(p.tasks) * p.tasks;
    for (i64 pair = static_cast<i64>(blockIdx.x) * 128 + threadIdx.x; pair < pairs;
         pair += static_cast<i64>(gridDim.x) * 128) {
        const u32 i = static_cast<u32>(pair / p.tasks), j = static_cast<u32>(pair % p.tasks);
        const float norm = ::sqrtf(product(partial, i, i, p));
        float cosine = norm > 0.0f ? 1.0f : norm;  // 0 stays 0, NaN stays NaN
        if (i == j) {
            gw::store_global(norms + i, norm);
        } else {
            const float other = ::sqrtf(product(partial, j, j, p));
            cosine = product(partial, i, j, p) / norm / other;
            if (norm == 0.0f || other == 0.0f) cosine = 0.0f;
            if (cosine > 1.0f) cosine = 1.0f;
            if (cosine < -1.0f) cosine = -1.0f;
        }
        gw::store_global(cosines + pair, cosine);
    }
}
GW_EXPORT(multitask_gradient_cosines_f32)
