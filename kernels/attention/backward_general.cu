// attention_backward_{delta,dq,dkv}_general_{f32,f64}: gradients of attention_forward_general, recomputing the weights from lse.
//   delta_i = Σ grad_o_i·o_i − grad_lse_i   p = dropout(exp(z − lse))   dp = grad_o·vᵀ   dz = p·(row_scale·dp − delta)
//   dv = (row_scale·p)ᵀ·grad_o; dq, dk: dz times the derivative of the score, a weighted sum of the other side's vectors (of
//   the turned ones too for a fidelity; plus the row's own for cosine and Gaussian; through 1 − tanh² for additive)
// Shapes    as forward_general.cu; grad_o as o; grad_lse, drow_scale as lse; delta [b,hq,rows] contiguous in the accumulator's
//           type; terms [pair, tile of queries, 4] and dw_terms [pair, tile, dk]: sums for attention_backward_sums
// Mapping   delta: a warp a row. dq: work items (128 columns (f64: 64), query tile, pair); dkv: (columns of dv or of dk, key
//           tile, key pair), heads of the group and their query tiles in ascending order: no atomics, the same bits every run
// Shared    as forward_general.cu
// Traffic   per item and tile: dq q, k, grad_o, v; dv q, k, grad_o; dk the same as dq.
//           FLOPs 2·rows·keys·((2·dk + 2·dv)·⌈dk/128⌉ + dk·⌈dv/128⌉ + 2·dk + dv)
// Numerics  base-2 exponent; what is masked is left out of every sum; a query without keys and a key without queries get 0
// Host      spans of attention_plan; no packed rows
// Twin      src/attention/cpu/backward.rs        Source  arXiv:2307.08691, algorithm 2, split in two passes
#include "device.cuh"
#include "attention/differentiate.cuh"

namespace attention {

template <typename A>
GW_DEVICE void delta_general(const void* o, const void* grad_o, const A* grad_lse, const uint4* spans, A* delta,
                             const GeneralBackwardParams& params) {
    constexpr int WARP = 32;
    const Call& c = params.call;
    const int lane = threadIdx.x % WARP;
    const i64 pairs = static_cast<i64>(c.batch) * c.q_heads;
    const i64 rows = active_count(c.counts, 0, pairs) * c.q_len;
    const i64 warps = static_cast<i64>(gridDim.x) * (THREADS / WARP);
    for (i64 item = static_cast<i64>(blockIdx.x) * (THREADS / WARP) + threadIdx.x / WARP; item < rows; item += warps) {
        const i64 pair = pair_at(c.order, item / c.q_len);
        if (pair >= pairs) continue;
        const int b = static_cast<int>(pair / c.q_heads), h = static_cast<int>(pair % c.q_heads);
        const Span s = load_span(spans, b);
        const int query = static_cast<int>(item % c.q_len);
        if (query >= s.q_len) continue;
        const i64 row = s.q_first + query;
        const i64 o_row = b * c.o.batch + h * c.o.head + row * c.o.row;
        const i64 grad_row = b * params.grad_o.batch + h * params.grad_o.head + row * params.grad_o.row;
        A sum = 0;
        for (int d = lane; d < c.value_dim; d += WARP)
            sum = gw::fma(load_number(o, o_row + d, c.type, A(0)), load_number(grad_o, grad_row + d, c.type, A(0)), sum);
        for (int distance = WARP / 2; distance > 0; distance /= 2) sum += gw::shuffle_xor(sum, distance);
        if (lane != 0) continue;
        const Strides& g = params.grad_lse;
        if (grad_lse) sum -= load_term<A>(grad_lse, b * g.batch + h * g.head + row * g.row);
        gw::store_global(delta + b * params.delta.batch + h * params.delta.head + row * params.delta.row, sum);
    }
}

/// The sum over the block's rows of what each thread has, by thread 0. Ends with every thread free to overwrite.
template <typename A>
GW_DEVICE A block_sum(Shared<A> shared, A x) {
    x = row_sum(x);
    gw::sync_threads();
    if (threadIdx.x % LANES_X == 0) shared[threadIdx.x / LANES_X] = x;
    gw::sync_threads();
    A sum = 0;
    if (threadIdx.x == 0)
        for (int y = 0; y < LANES_Y; ++y) sum += shared[y];
    return sum;
}

template <typename A, int ROWS>
GW_DEVICE void dq_general(Shared<typename Chunk<A>::Vector> shared, const void* q, const void* k, const void* v,
                          const void* grad_o, const void* lse, const A* delta, const uint4* spans, void* dq, A* drow_scale,
                          A* terms, A* dw_terms, const GeneralBackwardParams& params) {
    typedef Tile<A, ROWS> T;
    constexpr int PER_Y = T::PER_Y, W = T::W;
    const Call& c = params.call;
    const T tile(shared);
    const int tx = threadIdx.x % LANES_X, ty = threadIdx.x / LANES_X;
    const philox::Stream stream = c.dropout ? stream_of(c) : c.stream;

    const i64 pairs = static_cast<i64>(c.batch) * c.q_heads;
    const int tiles = (c.q_len + ROWS - 1) / ROWS, column_tiles = (c.head_dim + T::OUT - 1) / T::OUT;
    const i64 per_pair = static_cast<i64>(tiles) * column_tiles;
    const i64 active_items = active_count(c.counts, 0, pairs) * per_pair;
    for (i64 item = blockIdx.x; item < pairs * per_pair; item += gridDim.x) {
        const i64 pair = pair_at(c.order, item / per_pair);
        if (pair >= pairs) continue;
        const int rest_of_item = static_cast<int>(item % per_pair);
        const int first_column = rest_of_item % column_tiles * T::OUT;
        const int tile_index = tiles - 1 - rest_of_item / column_tiles, first_row = tile_index * ROWS;
        const int b = static_cast<int>(pair / c.q_heads), h = static_cast<int>(pair % c.q_heads);
        const Span s = load_span(spans, b);
        const int rows = max(min(ROWS, s.q_len - first_row), 0);
        const bool first = first_column == 0, runs = item < active_items && s.valid;
        const A nothing = item < active_items && !s.valid ? static_cast<A>(NAN) : A(0);
        const Matrix gradients = matrix(dq, params.dq, b, h, s.q_first, false);
        A* tile_terms = terms ? terms + (pair * tiles + tile_index) * 4 : nullptr;
        A* tile_dw = dw_terms ? dw_terms + (pair * tiles + tile_index) * c.head_dim : nullptr;
        if (!runs || rows == 0) {
            if (dq) fill<A>(dq, c, gradients, first_row, rows, first_column, c.head_dim, nothing);
            if (drow_scale && first && item < active_items && static_cast<int>(threadIdx.x) < rows) {
                const Strides& at = params.drow_scale;
                gw::store_global(drow_scale + b * at.batch + h * at.head + (s.q_first + first_row + threadIdx.x) * at.row, nothing);
            }
            if (terms && first && threadIdx.x < 4) gw::store_global(tile_terms + threadIdx.x, nothing);
            if (dw_terms)
                for (int x = threadIdx.x; x < min(T::OUT, c.head_dim - first_column); x += THREADS)
                    gw::store_global(tile_dw + first_column + x, nothing);
            continue;
        }
        const int kv_head = h / (c.q_heads / c.kv_heads);
        const Range steps = tiles_of(keys_in_sight(c, s, first_row, first_row + rows - 1), T::COLUMNS);
        const Matrix queries = matrix(q, c.q, b, h, s.q_first, c.vectors & Q);
        const Matrix outputs = matrix(grad_o, params.grad_o, b, h, s.q_first, c.vectors & GRAD_O);
        const Matrix keys = key_matrix(c, k, c.k, b, kv_head, s, c.vectors & K);
        const Matrix values = key_matrix(c, v, c.v, b, kv_head, s, c.vectors & V);
        const void* w = c.w ? static_cast<const A*>(c.w) + h * c.w_head : nullptr;

        A sum[PER_Y][T::COUNT] = {}, dw[T::COUNT] = {}, rest[PER_Y];
        Sums<A, PER_Y> sums = {};
        for (int i = 0; i < PER_Y; ++i) rest[i] = static_cast<A>(-0.0);
#pragma unroll 1
        for (int step = steps.begin; step < steps.end; ++step) {
            const int first_key = step * T::COLUMNS, key_count = min(T::COLUMNS, s.kv - first_key);
            Raw<A, PER_Y, W> dp, raw;
            compare(dp, tile, c, outputs, first_row, rows, values, first_key, key_count, c.value_dim, DOT, nullptr);
            compare(raw, tile, c, queries, first_row, rows, keys, first_key, key_count, c.head_dim, c.score, w);
            to_weights<false>(tile, raw, dp.dot, params, s, stream, lse, delta, b, h, first_row, first_key, rest, &sums);
            if (dq || dw_terms)
                add_by_score(sum, dw, tile, raw, c, queries, first_row, rows, keys, first_key, key_count, first_column, c.head_dim, w);
        }
        if (dq) put_gradient<A, ROWS>(dq, c, gradients, sum, rest, queries, first_row, rows, first_column, c.head_dim);

        if (dw_terms) {
            // Over rows: first a thread's, which are in dw, then the 8 threads that share columns.
            gw::sync_threads();  // nobody reads the weights any more
            for (int x = 0; x < T::COUNT; ++x) tile.weight[ty * T::OUT + result_column<W>(x / W) + x % W] = dw[x];
            gw::sync_threads();
            for (int x = threadIdx.x; x < min(T::OUT, c.head_dim - first_column); x += THREADS) {
                A total = 0;
                for (int y = 0; y < LANES_Y; ++y) total += tile.weight[y * T::OUT + x];
                gw::store_global(tile_dw + first_column + x, total);
            }
        }
        if (!first) continue;
        A sink_sum = 0;
        const A sink = terms && c.sinks ? load_term<A>(c.sinks, h * c.sinks_step) * log2_e<A>() : static_cast<A>(-INFINITY);
#pragma unroll
        for (int i = 0; i < PER_Y; ++i) {
            const int row = ty + LANES_Y * i;
            const A gate = row_sum(sums.gate[i]);
            if (row >= rows || tx != 0) continue;
            const Strides& at = params.drow_scale;
            if (drow_scale) gw::store_global(drow_scale + b * at.batch + h * at.head + (s.q_first + first_row + row) * at.row, gate);
            if (sink != -INFINITY) {  // −∞: no sink, and lse may be −∞ too
                const QueryTerms<A> of_row = query_terms(params, s, lse, delta, b, h, first_row + row);
                sink_sum -= exp2_of(sink - of_row.lse_log2) * of_row.delta;
            }
        }
        if (!terms) continue;
        const A alibi = block_sum(tile.weight, sums.alibi), coefficient = block_sum(tile.weight, sums.coefficient);
        const A of_sink = block_sum(tile.weight, sink_sum);
        if (threadIdx.x == 0) {
            gw::store_global(tile_terms, alibi);
            gw::store_global(tile_terms + 1, coefficient);
            gw::store_global(tile_terms + 2, of_sink);
            gw::store_global(tile_terms + 3, A(0));
        }
    }
}

template <typename A, int ROWS>
GW_DEVICE void dkv_general(Shared<typename Chunk<A>::Vector> shared, const void* q, const void* k, const void* v,
                           const void* grad_o, const void* lse, const A* delta, const uint4* spans, void* dk, void* dv,
                           const GeneralBackwardParams& params) {
    typedef Tile<A, ROWS> T;
    constexpr int PER_Y = T::PER_Y, W = T::W;
    const Call& c = params.call;
    const T tile(shared);
    const int tx = threadIdx.x % LANES_X;
    const philox::Stream stream = c.dropout ? stream_of(c) : c.stream;

    const i64 pairs = static_cast<i64>(c.batch) * c.kv_heads;
    const int tiles = (c.kv_len + ROWS - 1) / ROWS;
    const int dk_tiles = dk ? (c.head_dim + T::OUT - 1) / T::OUT : 0, dv_tiles = dv ? (c.value_dim + T::OUT - 1) / T::OUT : 0;
    const i64 per_pair = static_cast<i64>(tiles) * (dk_tiles + dv_tiles);
    const i64 active_items = active_count(c.counts, 1, pairs) * per_pair;
    for (i64 item = blockIdx.x; item < pairs * per_pair; item += gridDim.x) {
        const i64 pair = pair_at(c.kv_order, item / per_pair);
        if (pair >= pairs) continue;
        const int rest_of_item = static_cast<int>(item % per_pair);
        const int column_tile = rest_of_item % (dk_tiles + dv_tiles);
        const bool of_keys = column_tile < dk_tiles;
        const int first_column = (of_keys ? column_tile : column_tile - dk_tiles) * T::OUT;
        const int first_key = rest_of_item / (dk_tiles + dv_tiles) * ROWS;
        const int b = static_cast<int>(pair / c.kv_heads), kv_head = static_cast<int>(pair % c.kv_heads);
        const Span s = load_span(spans, b);
        const int slots = min(ROWS, s.slots - first_key), keys = max(min(ROWS, s.kv - first_key), 0);
        if (slots <= 0) continue;
        const bool used = item < active_items;
        void* to = of_keys ? dk : dv;
        const int dims = of_keys ? c.head_dim : c.value_dim;
        const Matrix gradients = matrix(to, of_keys ? params.dk : params.dv, b, kv_head, s.k_first, false);
        if (!used || !s.valid || keys == 0) {
            fill<A>(to, c, gradients, first_key, slots, first_column, dims, used && !s.valid ? static_cast<A>(NAN) : A(0));
            continue;
        }
        const Range sight = queries_in_sight(c, s, first_key, first_key + keys - 1), steps = tiles_of(sight, T::COLUMNS);
        const Matrix key_rows = key_matrix(c, k, c.k, b, kv_head, s, c.vectors & K);
        const Matrix value_rows = key_matrix(c, v, c.v, b, kv_head, s, c.vectors & V);
        const int group = c.q_heads / c.kv_heads;

        A sum[PER_Y][T::COUNT] = {}, unused_dw[T::COUNT] = {}, rest[PER_Y];
        for (int i = 0; i < PER_Y; ++i) rest[i] = static_cast<A>(-0.0);
#pragma unroll 1
        for (int h = kv_head * group; h < (kv_head + 1) * group; ++h) {
            if (c.active && gw::load_global_cached(c.active + static_cast<i64>(b) * c.q_heads + h) == 0) continue;
            const Matrix queries = matrix(q, c.q, b, h, s.q_first, c.vectors & Q);
            const Matrix outputs = matrix(grad_o, params.grad_o, b, h, s.q_first, c.vectors & GRAD_O);
            const void* w = c.w ? static_cast<const A*>(c.w) + h * c.w_head : nullptr;
#pragma unroll 1
            for (int step = steps.begin; step < steps.end; ++step) {
                const int first_query = step * T::COLUMNS, count = min(T::COLUMNS, s.q_len - first_query);
                Raw<A, PER_Y, W> raw, dp;
                if (of_keys) {
                    compare(dp, tile, c, value_rows, first_key, keys, outputs, first_query, count, c.value_dim, DOT, nullptr);
                    compare(raw, tile, c, key_rows, first_key, keys, queries, first_query, count, c.head_dim, c.score, w);
                    to_weights<true>(tile, raw, dp.dot, params, s, stream, lse, delta, b, h, first_key, first_query, rest,
                                     static_cast<Sums<A, PER_Y>*>(nullptr));
                    add_by_score(sum, unused_dw, tile, raw, c, key_rows, first_key, keys, queries, first_query, count, first_column, dims, w);
                    continue;
                }
                compare(raw, tile, c, key_rows, first_key, keys, queries, first_query, count, c.head_dim, c.score, w);
                const A alibi = alibi_of<A>(c, h);
                const int sample = gw::opaque(b), head = gw::opaque(h), key_0 = gw::opaque(first_key);
#pragma unroll
                for (int j = 0; j < W; ++j) {
                    const int query = first_query + W * tx + j;
                    const QueryTerms<A> terms = query_terms<A>(params, s, lse, nullptr, sample, head, query);
#pragma unroll
                    for (int i = 0; i < PER_Y; ++i) {
                        const int key = key_0 + static_cast<int>(threadIdx.x) / LANES_X + LANES_Y * i;
                        const A score = static_cast<A>(c.coefficient) * compared(raw, c.score, i, j);
                        const Element<A> e = differentiate(c, s, stream, sample, head, query, key, score, alibi, terms, A(0));
                        const A kept = terms.gate * (c.dropout ? static_cast<A>(c.keep_scale) : A(1));
                        raw.dot[i][j] = e.seen && e.kept ? e.weight * kept + A(0) : static_cast<A>(-0.0);
                    }
                }
                put_weights(tile, raw.dot);
                gw::sync_threads();  // nobody reads the slices any more
                bring<A, T::COLUMNS, VALUE_CHUNKS, 1>(tile.values, c, outputs, first_query, count, first_column, dims);
                gw::sync_threads();  // the values are there
                add_weighted(sum, tile, count, dims - first_column, false);
            }
        }
        // Slots beyond the sample's keys saw nothing: their sums are 0.
        put_gradient<A, ROWS>(to, c, gradients, sum, rest, key_rows, first_key, slots, first_column, dims);
    }
}

}  // namespace attention

#define ATTENTION_BACKWARD_GENERAL(SUFFIX, A, ROWS)                                                                  \
    GW_KERNEL(attention::THREADS, 8)                                                                                 \
    attention_backward_delta_general_##SUFFIX(const void* o, const void* grad_o, const A* grad_lse,                  \
                                              const uint4* spans, A* delta,                                          \
                                              const __grid_constant__ attention::GeneralBackwardParams params) {     \
        attention::delta_general<A>(o, grad_o, grad_lse, spans, delta, params);                                      \
    }                                                                                                                \
    GW_EXPORT(attention_backward_delta_general_##SUFFIX)                                                             \
    GW_KERNEL(attention::THREADS, 2)                                                                                 \
    attention_backward_dq_general_##SUFFIX(const void* q, const void* k, const void* v, const void* grad_o,          \
                                           const void* lse, const A* delta, const uint4* spans, void* dq,            \
                                           A* drow_scale, A* terms, A* dw_terms,                                     \
                                           const __grid_constant__ attention::GeneralBackwardParams params) {        \
        GW_SHARED(attention::Chunk<A>::Vector, shared);                                                              \
        attention::dq_general<A, ROWS>(shared, q, k, v, grad_o, lse, delta, spans, dq, drow_scale, terms, dw_terms,  \
                                       params);                                                                      \
    }                                                                                                                \
    GW_EXPORT(attention_backward_dq_general_##SUFFIX)                                                                \
    GW_KERNEL(attention::THREADS, 2)                                                                                 \
    attention_backward_dkv_general_##SUFFIX(const void* q, const void* k, const void* v, const void* grad_o,         \
                                            const void* lse, const A* delta, const uint4* spans, void* dk, void* dv, \
                                            const __grid_constant__ attention::GeneralBackwardParams params) {       \
        GW_SHARED(attention::Chunk<A>::Vector, shared);                                                              \
        attention::dkv_general<A, ROWS>(shared, q, k, v, grad_o, lse, delta, spans, dk, dv, params);                 \
    }                                                                                                                \
    GW_EXPORT(attention_backward_dkv_general_##SUFFIX)

ATTENTION_BACKWARD_GENERAL(f32, float, 32)
ATTENTION_BACKWARD_GENERAL(f64, double, 32)
