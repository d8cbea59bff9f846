// multitask_gradient_gram_f32: partial inner products of every two tasks' gradients, over chunks of 4096 parameters.
// Shapes    gradients [tasks, parameters] f32 strided, last = 1; partial [chunks, tasks, tasks] f32, the upper triangle written
// Mapping   persistent, block 128; a block takes a chunk of a tile of 4 × 4 tasks, a thread every 128th parameter
// Shared    4 warps × 16 sums = 256 bytes
// Traffic   4·(tasks/4 + 1)/2 bytes a gradient element; up to four tasks: each element once
// FLOPs     2 a product and pair
// Numerics  f32; threads, a butterfly, warps in order; chunks are added in order by multitask_gradient_cosines_f32
// Host      tasks < 2^15
// Twin      src/multitask/cpu.rs        Source  our own
#include "multitask/common.cuh"

namespace {

using namespace multitask;

struct GramParams {
    i64 stride, parameters;
    u32 tasks, chunks;
};

constexpr u32 THREADS = 128;
constexpr u32 CHUNK = 4096;
constexpr u32 TILE = 4;

}  // namespace

GW_KERNEL(128, 2) multitask_gradient_gram_f32(const float* gradients, float* partial, GramParams p) {
    GW_SHARED(float, sums);
    const u32 tiles = (p.tasks + TILE - 1) / TILE;
    const i64 work = static_cast<i64>(p.chunks) * tiles * tiles;
    for (i64 item = blockIdx.x; item < work; item += gridDim.x) {
        const u32 chunk = static_cast<u32>(item / (tiles * tiles)), tile = static_cast<u32>(item % (tiles * tiles));
        const u32 first_i = tile / tiles * TILE, first_j = tile % tiles * TILE;
        if (first_j < first_i) continue;  // uniform over the block
        const i64 begin = static_cast<i64>(chunk) * CHUNK;
        const i64 end = begin + CHUNK < p.parameters ? begin + CHUNK : p.parameters;
        float products[TILE * TILE] = {};
        for (i64 at = begin + threadIdx.x; at < end; at += THREADS) {
            float a[TILE], b[TILE];
            for (u32 t = 0; t < TILE; ++t) {
                a[t] = first_i + t < p.tasks ? gw::load_global_cached(gradients + (first_i + t) * p.stride + at) : 0.0f;
                b[t] = a[t];
                if (first_i != first_j)
                    b[t] = first_j + t < p.tasks ? gw::load_global_cached(gradients + (first_j + t) * p.stride + at) : 0.0f;
            }
            for (u32 i = 0; i < TILE; ++i)
                for (u32 j = 0; j < TILE; ++j) products[TILE * i + j] = gw::fma(a[i], b[j], products[TILE * i + j]);
        }
        for (u32 pair = 0; pair < TILE * TILE; ++pair) {
            const float sum = warp_sum(products[pair]);
            if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP * TILE * TILE + pair] = sum;
        }
        gw::sync_threads();
        if (threadIdx.x < TILE * TILE) {
            const u32 i = first_i + threadIdx.x / TILE, j = first_j + threadIdx.x % TILE;
            float total = 0.0f;
            for (u32 warp = 0; warp < THREADS / WARP; ++warp) total += sums[warp * TILE * TILE + threadIdx.x];
            if (i <= j && j < p.tasks) gw::store_global(partial + (static_cast<i64>(chunk) * p.tasks + i) * p.tasks + j, total);
        }
        // The next tile's sums overwrite what is read here.
        gw::sync_threads();
    }
}
GW_EXPORT(multitask_gradient_gram_f32)
