// task_heads_delta: δ of every masked (sample, head): Σ a·b over its rows and columns, or Σ a over its rows.
// Shapes    a, b [batch, heads, rows, columns] f32, f16 or bf16, strided, last = 1, or a [batch, heads, rows] f32 strided;
//           mask [batch, heads] u32; gates, delta [batch, heads] f32. With tasks that share a head's b: a [batch, tasks, heads, rows,
//           columns], gates and delta [batch, tasks, heads]. Packed: a, b [1, heads, all rows, …], starts [batch + 1] i32, u32 or i64
// Mapping   persistent, block 256, one pair at a time; products: a warp takes every 8th row, its lanes the columns
// Shared    8 warp sums
// Traffic   a and b of the masked pairs once; those of the others are not read
// Numerics  f32; lanes, then a butterfly, then warps in order: an order that depends on rows and columns alone
// Host      batch · tasks · heads < 2^31
// Twin      src/task_heads/cpu.rs        Source  our own
#include "task_heads/rows.cuh"

namespace task_heads {

struct DeltaParams {
    i64 a_stride_b, a_stride_t, a_stride_h, a_stride_r;
    i64 b_stride_b, b_stride_h, b_stride_r, start_stride;
    u32 pairs, tasks, heads, rows, columns;  // pairs: of gates
    u32 products;     // 0: the sum of a alone
    u32 keep_others;  // pairs that are not summed are left; otherwise 0, or NaN where the gate is NaN
    u32 select;       // summed is what the mask says (0), of that the gates neither 0 nor NaN (1), or not NaN (2)
    u32 times_gate;   // b is not yet multiplied by the gate
    u32 kind;
    Starts starts;
};

constexpr u32 THREADS = 256;
constexpr u32 WARPS = THREADS / 32;

GW_DEVICE float thread_sum(const void* a, const void* b, i64 a_first, i64 b_first, u32 rows, const DeltaParams& p) {
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float sum = 0.0f;
    if (p.products == 0) {
        for (u32 row = threadIdx.x; row < rows; row += THREADS) sum += load_element(a, a_first + row * p.a_stride_r, p.kind);
        return sum;
    }
    for (u32 row = warp; row < rows; row += WARPS) {
        const i64 a_row = a_first + row * p.a_stride_r, b_row = b_first + row * p.b_stride_r;
        for (u32 column = lane; column < p.columns; column += 32)
            sum = gw::fma(load_element(a, a_row + column, p.kind), load_element(b, b_row + column, p.kind), sum);
    }
    return sum;
}

}  // namespace task_heads

GW_KERNEL(256, 1)
task_heads_delta(const void* a, const void* b, const gw::u32* mask, const float* gates, float* delta, const gw::u32* starts,
                 task_heads::DeltaParams p) {
    using namespace task_heads;
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
        const Rows own = rows_of(starts, p.start_stride, p.starts, sample, p.rows);
        const i64 place = p.starts.is_packed ? 0 : sample;
        const i64 a_first = place * p.a_stride_b + task * p.a_stride_t + head * p.a_stride_h + own.first * p.a_stride_r;
        const i64 b_first = place * p.b_stride_b + head * p.b_stride_h + own.first * p.b_stride_r;
        float sum = thread_sum(a, b, a_first, b_first, own.count, p);
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
GW_EXPORT(task_heads_delta)
