// task_heads_scores_f32: z of every (sample, head) where it is computed: a linear function of the sample, and noise on top.
// Shapes    values [tasks, heads] or [batch, heads] strided, or weights [tasks, heads, features] strided, last = 1; x [batch, features]
//           strided, last = 1, of batch / repeat samples if so many share one; bias [tasks, heads] strided; ids [batch] i32, u32 or i64 strided; stream [4] u32; z [batch, heads]
// Mapping   persistent, block 128; a warp owns a (sample, head), its lanes the features
// Traffic   x once a head, weights once a sample, mostly from cache; FLOPs 2·batch·heads·features
// Numerics  f32; lanes, then a butterfly. Noise is the sum of a block's four words, centred and scaled to deviation 1: the same bits on
//           every backend, within ±3.47
// Bad id    NaN, never used as an index; the gate's launch reports it. Without a task: 0, and x is not read
// Host      batch · heads < 2^31, features < 2^31, tasks < 2^31
// Twin      src/task_heads/cpu_scores.rs        Source  Shazeer et al., arXiv:1701.06538, §2.1 (noisy top-k)
#include "random/philox.cuh"

namespace {

using gw::i64;
using gw::u32;

struct ScoresParams {
    i64 task_stride, head_stride;  // of values or weights
    i64 x_stride, bias_stride_t, bias_stride_h, id_stride;
    u32 batch, heads, tasks, features;
    u32 source;  // 0 values by sample, 1 values by task, 2 weights
    u32 has_ids, id_kind, has_bias;
    float noise;
    u32 repeat;  // samples in a row that share x and noise
};

constexpr i64 NO_TASK = -1;
constexpr i64 BAD_TASK = -2;
constexpr u32 WARPS = 4;

GW_DEVICE i64 row_of(const u32* ids, i64 sample, const ScoresParams& p) {
    if (!p.has_ids) return p.source == 2 ? 0 : sample;
    const bool wide = p.id_kind == 2;
    const i64 word = sample * p.id_stride * (wide ? 2 : 1);
    const u32 low = gw::load_global(ids + word);
    const u32 sign = p.id_kind == 0 && low >> 31 != 0 ? 0xffffffffu : 0u;
    const u32 high = wide ? gw::load_global(ids + word + 1) : sign;
    if (low == 0xffffffffu && (p.id_kind == 1 || high == 0xffffffffu)) return NO_TASK;
    return high == 0 && low < p.tasks ? static_cast<i64>(low) : BAD_TASK;
}

// Deviation 1: four uniform words have 4/12.
GW_DEVICE float noise_of(const u32* stream, i64 pair) {
    const philox::Block words = philox::block(philox::load_stream(stream), static_cast<gw::u64>(pair));
    const u32 sum = (words.x >> 8) + (words.y >> 8) + (words.z >> 8) + (words.w >> 8);
    return (static_cast<float>(sum) * 5.9604644775390625e-08f - 2.0f) * 1.7320508f;
}

}  // namespace

GW_KERNEL(128, 1)
task_heads_scores_f32(const float* values, const float* x, const float* bias, const u32* ids, const u32* stream, float* z,
                      ScoresParams p) {
    const u32 lane = threadIdx.x % 32;
    const i64 pairs = static_cast<i64>(p.batch) * p.heads;
    for (i64 pair = static_cast<i64>(blockIdx.x) * WARPS + threadIdx.x / 32; pair < pairs;
         pair += static_cast<i64>(gridDim.x) * WARPS) {
        const i64 sample = pair / p.heads, head = pair % p.heads;
        const i64 row = row_of(ids, sample, p);
        float score = 0.0f;
        if (row == BAD_TASK) {
            score = NAN;
        } else if (row != NO_TASK) {
            const float* of_head = values + row * p.task_stride + head * p.head_stride;
            if (p.source == 2) {
                for (u32 f = lane; f < p.features; f += 32)
                    score = gw::fma(gw::load_global_cached(of_head + f), gw::load_global_cached(x + sample / p.repeat * p.x_stride + f), score);
                for (int distance = 16; distance > 0; distance /= 2) score += gw::shuffle_xor(score, distance);
                if (p.has_bias) score += gw::load_global_cached(bias + row * p.bias_stride_t + head * p.bias_stride_h);
            } else {
                score = gw::load_global_cached(of_head);
            }
            if (p.noise != 0.0f) score = gw::fma(p.noise, noise_of(stream, sample / p.repeat * p.heads + head), score);
        }
        if (lane == 0) gw::store_global(z + pair, score);
    }
}
GW_EXPORT(task_heads_scores_f32)
