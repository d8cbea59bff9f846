// attention_forward_f32_d{32,64,128}: o = row_scale · softmax(scale·q·kᵀ)·v by an online softmax over key tiles, f32 FMA.
// Shapes    q [b,hq,sq,dk]  k [b,hk,sk,dk]  v [b,hk,sk,dv]  o [b,hq,sq,dv]  lse, row_scale [b,hq,sq]; any strides, last = 1
//           dk, dv ≤ the D in the name; kv_len, query_offset [b] as 32-bit words; order [b·hq], counts [2] u32; null: not used
// Mapping   grid of work items (pair, tile of 64 queries), the block walks them with the grid's step; block 128 = 8 × 16,
//           a thread owns 8 queries × 4 keys of a score tile (2 keys at D = 128) and 8 queries × D/16 output columns
// Shared    q 64·D, k and v 64·D each, weights 64·64 floats: 40 KiB at D = 32, 64 KiB at D = 64 (two blocks an SM on sm_80);
//           32 keys at D = 128: 72 KiB, two blocks. Swizzled, no bank conflicts: tile.cuh
// Traffic   q, o, lse once; k, v once per query tile.  FLOPs 2·b·hq·sq·sk·(dk + dv), about half when causal.
//           Per 16-byte shared load 10.7 FMAs in the scores (6.4 at D = 128), 10.7 (16) in the weighted sum
// Order     v of a tile is copied while its scores are computed, the next k while the values are summed
// Numerics  f32 accumulate, base-2 exponent; no visible key → o = 0, lse = −∞; a masked NaN never enters: scores by select,
//           values by leaving the term out in tiles that the causal diagonal crosses, keys ≥ kv_len as zeros
// Host      rejects dk, dv > 128 and lengths > 2^30 − 64
// Twin      src/attention/cpu.rs        Source  arXiv:2307.08691 (tiling), arXiv:1805.02867 (online softmax)
#include "device.cuh"
#include "attention/tile.cuh"

namespace attention {

struct ForwardParams {
    Problem problem;
    Strides o, lse;
};

constexpr int QUERIES = 64;

template <int D, int KEYS>
GW_DEVICE void forward(Shared<float> shared, const float* q, const float* k, const float* v, float* o, float* lse,
                       const u32* kv_len, const u32* query_offset, const u32* order, const u32* counts,
                       const float* row_scale, u32* status, const ForwardParams& params) {
    constexpr int PER_Y = QUERIES / LANES_Y, PER_X = KEYS / LANES_X;
    const Problem& p = params.problem;
    const int tx = threadIdx.x % LANES_X, ty = threadIdx.x / LANES_X;
    const Shared<float> q_tile = shared.slice(0, QUERIES * D);
    const Shared<float> k_tile = shared.slice(QUERIES * D, KEYS * D);
    const Shared<float> v_tile = shared.slice((QUERIES + KEYS) * D, KEYS * D);
    const Shared<float> weights = shared.slice((QUERIES + 2 * KEYS) * D, QUERIES * KEYS);
    const float scale_log2 = p.scale * gw::LOG2_E;

    const i64 pairs = static_cast<i64>(p.batch) * p.q_heads;
    const int tiles = (p.q_len + QUERIES - 1) / QUERIES;
    const i64 items = active_count(counts, 0, pairs) * tiles;
    for (i64 item = blockIdx.x; item < items; item += gridDim.x) {
        const i64 pair = pair_at(order, item / tiles);
        if (pair >= pairs) continue;
        const int b = static_cast<int>(pair / p.q_heads), h = static_cast<int>(pair % p.q_heads);
        const int kv_head = h / (p.q_heads / p.kv_heads);
        // Last tile first: under a causal mask it sees the most keys.
        const int first_row = (tiles - 1 - static_cast<int>(item % tiles)) * QUERIES;
        const int rows = min(QUERIES, p.q_len - first_row);
        const Sample sample = read_sample(p, b, kv_len, query_offset, status);
        if (!sample.valid) {
            fill_rows<D>(matrix_of(o, params.o, b, h, first_row), params.o.row, rows, p.value_dim, p.vectors & O, NAN);
            float* lse_rows = matrix_of(lse, params.lse, b, h, first_row);
            if (static_cast<int>(threadIdx.x) < rows) gw::store_global(lse_rows + threadIdx.x * params.lse.row, NAN);
            continue;
        }
        const i32 last = last_position(p, sample, first_row + ty);  // of row i: last + 8i
        const int steps = visible_tiles(p, sample, first_row + rows - 1, KEYS);

        const float* k_rows = matrix_of(k, p.k, b, kv_head, 0);
        const float* v_rows = matrix_of(v, p.v, b, kv_head, 0);
        float sum[PER_Y][Columns<D>::COUNT] = {};
        float top[PER_Y], total[PER_Y];
        for (int i = 0; i < PER_Y; ++i) top[i] = -INFINITY, total[i] = 0.0f;

        if (steps > 0) {
            // Free to overwrite: the last barrier of the item before came after every read of its q and k.
            stage<D, QUERIES, 1>(q_tile, matrix_of(q, p.q, b, h, first_row), p.q.row, rows, p.head_dim, p.vectors & Q);
            stage<D, KEYS, PER_X>(k_tile, k_rows, p.k.row, sample.kv, p.head_dim, p.vectors & K);
            gw::cp_async_commit();
        }
        for (int step = 0; step < steps; ++step) {
            const int first_key = step * KEYS;
            const int keys = min(KEYS, sample.kv - first_key);
            gw::cp_async_wait<0>();
            gw::sync_threads();  // k has landed, and nobody reads the weights and v of the tile before any more
            stage<D, KEYS, 1>(v_tile, v_rows + first_key * p.v.row, p.v.row, keys, p.value_dim, p.vectors & V);
            gw::cp_async_commit();

            float z[PER_Y][PER_X];
            scores<D>(z, q_tile, k_tile, chunks_of(p.head_dim));
#pragma unroll
            for (int i = 0; i < PER_Y; ++i) {
                float highest = top[i];
#pragma unroll
                for (int j = 0; j < PER_X; ++j) {
                    const int key = first_key + PER_X * tx + j;
                    const bool seen = key < sample.kv && key <= last + LANES_Y * i;
                    z[i][j] = seen ? z[i][j] * scale_log2 : -INFINITY;
                    highest = gw::max_nan_free(highest, z[i][j]);
                }
                highest = max_over_lanes(highest);
                // No key so far: any finite shift keeps exp2(−∞ − shift) = 0, where −∞ − −∞ would be NaN.
                const float shift = highest == -INFINITY ? 0.0f : highest;
                const float rescale = gw::exp2_approx(top[i] - shift);
                top[i] = highest;
                total[i] *= rescale;
#pragma unroll
                for (int j = 0; j < PER_X; ++j) {
                    z[i][j] = gw::exp2_approx(z[i][j] - shift);
                    total[i] += z[i][j];
                }
#pragma unroll
                for (int x = 0; x < Columns<D>::COUNT; ++x) sum[i][x] *= rescale;
            }
            store_weights<KEYS>(weights, z);
            gw::cp_async_wait<0>();
            gw::sync_threads();  // v has landed, the weights are written, and nobody reads k any more
            if (step + 1 < steps) {
                const int next = first_key + KEYS;
                stage<D, KEYS, PER_X>(k_tile, k_rows + next * p.k.row, p.k.row, sample.kv - next, p.head_dim,
                                      p.vectors & K);
            }
            gw::cp_async_commit();

            const bool crossed = first_key + keys - 1 > last_position(p, sample, first_row);
            accumulate_if<D, KEYS, 1, Mask::UpTo>(crossed, sum, weights, v_tile, keys, p.value_dim, last - first_key);
        }

        const float* scales = row_scale ? matrix_of(row_scale, p.row_scale, b, h, first_row) : nullptr;
        float* o_rows = matrix_of(o, params.o, b, h, first_row);
        float* lse_rows = matrix_of(lse, params.lse, b, h, first_row);
#pragma unroll
        for (int i = 0; i < PER_Y; ++i) {
            const int row = ty + LANES_Y * i;
            const float weight = sum_over_lanes(total[i]);
            if (row >= rows) continue;
            // By the mask, not by the weight: scores of −∞ that are seen make NaN, as the formula does.
            const bool empty = min(last + LANES_Y * i + 1, sample.kv) <= 0;
            const float gate = scales ? gw::load_global_cached(scales + row * p.row_scale.row) : 1.0f;
            const float inverse = gw::rcp(weight);
#pragma unroll
            for (int x = 0; x < Columns<D>::COUNT; ++x) sum[i][x] = empty ? 0.0f : sum[i][x] * inverse * gate;
            store_row<D>(o_rows + row * params.o.row, sum[i], p.value_dim, p.vectors & O);
            const float log_sum = empty ? -INFINITY : gw::fma(top[i], gw::LN_2, ::logf(weight));
            if (tx == 0) gw::store_global(lse_rows + row * params.lse.row, log_sum);
        }
    }
}

}  // namespace attention

#define ATTENTION_FORWARD(D, KEYS, BLOCKS)                                                                             \
    GW_KERNEL(attention::THREADS, BLOCKS)                                                                              \
    attention_forward_f32_d##D(const float* q, const float* k, const float* v, float* o, float* lse,                   \
                               const gw::u32* kv_len, const gw::u32* query_offset, const gw::u32* order,               \
                               const gw::u32* counts, const float* row_scale, gw::u32* status,                         \
                               const __grid_constant__ attention::ForwardParams params) {                              \
        GW_SHARED(float, shared);                                                                                      \
        attention::forward<D, KEYS>(shared, q, k, v, o, lse, kv_len, query_offset, order, counts, row_scale, status,   \
                                    params);                                                                           \
    }                                                                                                                  \
    GW_EXPORT(attention_forward_f32_d##D)

ATTENTION_FORWARD(32, 64, 3)
ATTENTION_FORWARD(64, 64, 3)
ATTENTION_FORWARD(128, 32, 3)
