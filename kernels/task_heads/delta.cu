// task_heads_delta_f32: δ of every masked (sample, head): Σ a·b over its rows and columns, or Σ a over its rows.
// Shapes    a, b [batch, heads, rows, columns] strided, last = 1, or a [batch, heads, rows] contiguous; mask [batch, heads] u32;
//           gates, delta [batch, heads] f32. With tasks that share a head's b: a [batch, tasks, heads, rows, columns], gates and
//           delta [batch, tasks, heads]
// Mapping   persistent, block 256, one pair at a time; products: a warp takes every 8th row, its lanes the columns
// Shared    8 warp sums
// Traffic   a and b of the masked pairs once; those of the others are not read
// Numerics  f32; lanes, then a butterfly, then warps in order: an order that depends on rows and columns alone
// Host      batch · tasks · heads < 2^31
// Twin      src/task_heads/cpu.rs        Source  our own
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;

struct DeltaParams {
    i64 a_stride_b, a_stride_t, a_stride_h, a_stride_r;
    i64 b_stride_b, b_stride_h, b_stride_r;
    u32 pairs, tasks, heads, rows, columns;  // pairs: of gates
    u32 products;     // 0: the sum of a alone
    u32 keep_others;  // pairs that are not summed are left; otherwise 0, or NaN where the gate is NaN
    u32 select;       // summed is what the mask says (0), of that the gates neither 0 nor NaN (1), or not NaN (2)
    u32 times_gate;   // b is not yet multiplied by the gate
    u32 unused;
};

constexpr u32 THREADS = 256;
constexpr u32 WARPS = THREADS / 32;

GW_DEVICE float thread_sum(const float* a, const float* b, i64 sample, i64 task, i64 head, i64 pair, const DeltaParams& p) {
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float sum = 0.0f;
    if (p.products == 0) {
        const float* rows = a + pair * p.rows;
        for (u32 row = threadIdx.x; row < p.rows; row += THREADS) sum += gw::load_global_cached(rows + row);
        return sum;
    }
    const float* a_rows = a + sample * p.a_stride_b + task * p.a_stride_t + head * p.a_stride_h;
    const float* b_rows = b + sample * p.b_stride_b + head * p.b_stride_h;
    for (u32 row = warp; row < p.rows; row += WARPS) {
        const float* a_row = a_rows + row * p.a_stride_r;
        const float* b_row = b_rows + row * p.b_stride_r;
        for (u32 column = lane; column < p.columns; column += 32)
            sum = gw::fma(gw::load_global_cached(a_row + column), gw::load_global_cached(b_row + column), sum);
    }
    return sum;
}

}  // namespace

GW_KERNEL(256, 1)
task_heads_delta_f32(const float* a, const float* b, const u32* mask, const float* gates, float* delta, DeltaParams p) {
    GW_SHARED(float, warp_sums);
    for (u32 pair = blockIdx.x; pair < p.pairs; pair += gridDim.x) {
        const u32 head = pair % p.heads, sample = pair / p.heads / p.tasks, task = pair / p.heads % p.tasks;
        const float gate = gw::load_global_cached(gates + pair);
        const bool is_left_out = (p.select == 1 && gate == 0.0f) || (p.select != 0 && gw::is_nan(gate));
        // Uniform over the block, so the barriers below are reached by all threads or by none.
        if (is_left_out || gw::load_global_cached(mask + static_cast<i64>(sample) * p.heads + head) == 0) {
            if (threadIdx.x == 0 && !p.keep_others) gw::store_global(delta + pair, gw::is_nan(gate) ? NAN : 0.0f);
            continue;
        }
        float sum = thread_sum(a, b, sample, task, head, pair, p);
        for (int distance = 16; distance > 0; distance /= 2) sum += gw::shuffle_xor(sum, distance);
        if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
        gw::sync_threads();
        if (threadIdx.x == 0) {
            float total = 0.0f;
            for (u32 warp = 0; warp < WARPS; ++warp) total += warp_sums[warp];
            gw::store_global(delta + pair, p.times_gate ? total * gate : total);
        }
        // The next pair's sums overwrite what thread 0 reads.
        gw::sync_threads();
    }
}
GW_EXPORT(task_heads_delta_f32)
