// attention_backward_bias_{f32,f64}: gradient of the bias, dz summed over the dimensions that the bias broadcasts.
// Shapes    as backward_general.cu; dbias [b|1, hq|1, q|1, k|1] of the bias's type, any strides
// Mapping   grid of work items, tiles of dbias; the block walks them with the grid's step and sums over what broadcasts in
//           ascending order of sample, head, query tile, key tile: no atomics, the same bits every run. Block 128 = 8 × 16
// Shared    as forward_general.cu
// Traffic   q, k, grad_o, v once per tile of scores; dbias once. FLOPs 2·rows·keys·(dk + dv)
// Numerics  as backward_general.cu; dz of what is masked is 0
// Host      spans of attention_plan
// Twin      src/attention/cpu/backward.rs        Source  our own
#include "device.cuh"
#include "attention/differentiate.cuh"

namespace attention {

template <typename A, int ROWS>
GW_DEVICE void backward_bias(Shared<typename Chunk<A>::Vector> shared, const void* q, const void* k, const void* v,
                             const void* grad_o, const void* lse, const A* delta, const uint4* spans, void* dbias,
                             const GeneralBackwardParams& params) {
    typedef Tile<A, ROWS> T;
    constexpr int PER_Y = T::PER_Y, W = T::W;
    const Call& c = params.call;
    const T tile(shared);
    const int tx = threadIdx.x % LANES_X, ty = threadIdx.x / LANES_X;
    const philox::Stream stream = c.dropout ? stream_of(c) : c.stream;
    const bool all_b = params.dbias_shape[0] == c.batch, all_h = params.dbias_shape[1] == c.q_heads;
    const bool all_i = params.dbias_shape[2] == c.q_len, all_j = params.dbias_shape[3] == c.kv_len;
    const int q_tiles = (c.q_len + ROWS - 1) / ROWS, k_tiles = (c.kv_len + T::COLUMNS - 1) / T::COLUMNS;
    const i64 i_items = all_i ? q_tiles : 1, j_items = all_j ? k_tiles : 1;
    const i64 items = params.dbias_shape[0] * params.dbias_shape[1] * i_items * j_items;
    for (i64 item = blockIdx.x; item < items; item += gridDim.x) {
        const int j_item = static_cast<int>(item % j_items), i_item = static_cast<int>(item / j_items % i_items);
        const int h_item = static_cast<int>(item / (j_items * i_items) % params.dbias_shape[1]);
        const int b_item = static_cast<int>(item / (j_items * i_items * params.dbias_shape[1]));
        A sum[PER_Y][W] = {};
        for (int b = all_b ? b_item : 0; b < (all_b ? b_item + 1 : c.batch); ++b) {
            const Span s = load_span(spans, b);
            for (int h = all_h ? h_item : 0; h < (all_h ? h_item + 1 : c.q_heads); ++h) {
                if (c.active && gw::load_global_cached(c.active + static_cast<i64>(b) * c.q_heads + h) == 0) continue;
                if (!s.valid) {
#pragma unroll
                    for (int i = 0; i < PER_Y; ++i)
#pragma unroll
                        for (int j = 0; j < W; ++j) sum[i][j] = NAN;
                    continue;
                }
                const int kv_head = h / (c.q_heads / c.kv_heads);
                const Matrix queries = matrix(q, c.q, b, h, s.q_first, c.vectors & Q);
                const Matrix outputs = matrix(grad_o, params.grad_o, b, h, s.q_first, c.vectors & GRAD_O);
                const Matrix keys = key_matrix(c, k, c.k, b, kv_head, s, c.vectors & K);
                const Matrix values = key_matrix(c, v, c.v, b, kv_head, s, c.vectors & V);
                const void* w = c.w ? static_cast<const A*>(c.w) + h * c.w_head : nullptr;
                const A alibi = alibi_of<A>(c, h);
#pragma unroll 1
                for (int q_tile = all_i ? i_item : 0; q_tile < (all_i ? i_item + 1 : q_tiles); ++q_tile) {
                    const int first_row = q_tile * ROWS, rows = min(ROWS, s.q_len - first_row);
                    if (rows <= 0) break;
                    Range steps = tiles_of(keys_in_sight(c, s, first_row, first_row + rows - 1), T::COLUMNS);
                    if (all_j) steps = {max(steps.begin, j_item), min(steps.end, j_item + 1)};
#pragma unroll 1
                    for (int step = steps.begin; step < steps.end; ++step) {
                        const int first_key = step * T::COLUMNS, count = min(T::COLUMNS, s.kv - first_key);
                        Raw<A, PER_Y, W> dp, raw;
                        compare(dp, tile, c, outputs, first_row, rows, values, first_key, count, c.value_dim, DOT, nullptr);
                        compare(raw, tile, c, queries, first_row, rows, keys, first_key, count, c.head_dim, c.score, w);
                        const int sample = gw::opaque(b), head = gw::opaque(h), row_0 = gw::opaque(first_row);
#pragma unroll
                        for (int i = 0; i < PER_Y; ++i) {
                            const int query = row_0 + ty + LANES_Y * i;
                            const QueryTerms<A> terms = query_terms(params, s, lse, delta, sample, head, query);
#pragma unroll
                            for (int j = 0; j < W; ++j) {
                                const A score = static_cast<A>(c.coefficient) * compared(raw, c.score, i, j);
                                const Element<A> e = differentiate(c, s, stream, sample, head, query, first_key + W * tx + j, score,
                                                                   alibi, terms, dp.dot[i][j]);
                                sum[i][j] += e.by_logit;
                            }
                        }
                    }
                }
            }
        }
        if (!all_j) {
#pragma unroll
            for (int i = 0; i < PER_Y; ++i) {
                A over_columns = 0;
                for (int j = 0; j < W; ++j) over_columns += sum[i][j];
                sum[i][0] = row_sum(over_columns);
            }
        }
        if (!all_i) {
#pragma unroll
            for (int j = 0; j < W; ++j) {
                A over_rows = 0;
                for (int i = 0; i < PER_Y; ++i) over_rows += sum[i][j];
                gw::sync_threads();  // the weights' memory is free
                tile.weight[threadIdx.x] = over_rows;
                gw::sync_threads();
                A total = 0;
                for (int y = 0; y < LANES_Y; ++y) total += tile.weight[y * LANES_X + tx];
                sum[0][j] = total;
            }
        }
#pragma unroll
        for (int i = 0; i < PER_Y; ++i) {
            if (!all_i && i > 0) continue;
            const int row = all_i ? i_item * ROWS + ty + LANES_Y * i : 0;
#pragma unroll
            for (int j = 0; j < W; ++j) {
                if (!all_j && j > 0) continue;
                const int column = all_j ? j_item * T::COLUMNS + W * tx + j : 0;
                if (row >= params.dbias_shape[2] || column >= params.dbias_shape[3]) continue;
                if ((!all_i && ty != 0) || (!all_j && tx != 0)) continue;
                const Strides4& at = params.dbias_at;
                store_number(dbias, b_item * at.batch + h_item * at.head + row * at.row + column * at.column, params.dbias_type, sum[i][j]);
            }
        }
    }
}

}  // namespace attention

#define ATTENTION_BACKWARD_BIAS(SUFFIX, A)                                                                           \
    GW_KERNEL(attention::THREADS, 2)                                                                                 \
    attention_backward_bias_##SUFFIX(const void* q, const void* k, const void* v, const void* grad_o,                \
                                     const void* lse, const A* delta, const uint4* spans, void* dbias,               \
                                     const __grid_constant__ attention::GeneralBackwardParams params) {              \
        GW_SHARED(attention::Chunk<A>::Vector, shared);                                                              \
        attention::backward_bias<A, 32>(shared, q, k, v, grad_o, lse, delta, spans, dbias, params);                  \
    }                                                                                                                \
    GW_EXPORT(attention_backward_bias_##SUFFIX)

ATTENTION_BACKWARD_BIAS(f32, float)
ATTENTION_BACKWARD_BIAS(f64, double)
