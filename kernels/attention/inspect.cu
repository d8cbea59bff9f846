// attention_weights_{f32,f64}, attention_entropy_{f32,f64}: what a head looks at: p = exp(z − lse) of chosen rows, and −Σ p·ln p.
// Shapes    q, k, lse, options: attention::Call in call.cuh; chosen [n, 4] u32: sample, head, query, unused; weights
//           [n, kv slots] contiguous and entropy [b,hq,rows] of the accumulator's type
// Mapping   weights: work items (row, 64 keys), block 128, a warp a key: lanes share its dimensions. entropy: work items
//           (tile of 32 queries, active pair), tiles as in forward_general.cu
// Shared    weights none; entropy as backward_general.cu
// Traffic   weights: q once per 64 keys, k once. entropy: q and k once per tile. FLOPs 2·rows·keys·dk
// Numerics  masked: 0 by select; rows of inactive pairs: 0, nothing of theirs is read; an entropy's term of weight 0 is 0;
//           dropout is not applied, a sink's share not counted
// Host      spans of attention_plan; chosen rows are within the shape; the entropy holds zeros
// Twin      src/attention/cpu/inspect.rs        Source  our own
#include "device.cuh"
#include "attention/compare.cuh"
#include "attention/tile.cuh"

namespace attention {

struct InspectParams {
    Call call;
    Strides out;     // of the entropy
    i64 chosen;      // rows of weights
};

constexpr int KEYS_AN_ITEM = 64;

/// The comparison of one query and one key by a warp, before the coefficient.
template <typename A>
GW_DEVICE A compared_by_warp(const Call& c, const void* q, i64 q_row, const void* k, i64 k_row, const void* w) {
    const int lane = threadIdx.x % 32;
    A dot = 0, cross = 0, q_norm = 0, k_norm = 0;
    for (int d = lane; d < c.head_dim; d += 32) {
        const A a = load_number(q, q_row + d, c.type, A(0)), b = load_number(k, k_row + d, c.type, A(0));
        if (c.score == ADDITIVE) {
            dot = gw::fma(load_term<A>(w, d), tanh_of(a + b), dot);
        } else if (c.score == GAUSSIAN) {
            dot = gw::fma(b - a, a - b, dot);
        } else {
            dot = gw::fma(a, b, dot);
        }
        if (c.score == COSINE) {
            q_norm = gw::fma(a, a, q_norm);
            k_norm = gw::fma(b, b, k_norm);
        }
        if (c.score == FIDELITY) {
            const A partner = load_number(k, k_row + (d ^ 1), c.type, A(0));
            cross = gw::fma(d % 2 == 0 ? a : -a, partner, cross);
        }
    }
    dot = warp_sum(dot);
    if (c.score == FIDELITY) {
        cross = warp_sum(cross);
        return gw::fma(dot, dot, cross * cross);
    }
    if (c.score == COSINE) {
        const A norms = root(warp_sum(q_norm)) * root(warp_sum(k_norm));
        return norms == 0 ? 0 : dot / norms;
    }
    return dot;
}

template <typename A>
GW_DEVICE void weights_of_rows(const void* q, const void* k, const void* lse, const uint4* spans, const uint4* chosen,
                               A* weights, const InspectParams& params) {
    const Call& c = params.call;
    const int key_items = (c.kv_len + KEYS_AN_ITEM - 1) / KEYS_AN_ITEM, lane = threadIdx.x % 32;
    for (i64 item = blockIdx.x; item < params.chosen * key_items; item += gridDim.x) {
        const i64 row = item / key_items;
        const uint4 which = gw::load_global_cached(chosen + row);
        const int b = static_cast<int>(which.x), h = static_cast<int>(which.y), query = static_cast<int>(which.z);
        const Span s = load_span(spans, b);
        const Matrix queries = query_matrix(c, q, c.q, b, h, s.q_first, false);
        const Matrix keys = key_matrix(c, k, c.k, b, h / (c.q_heads / c.kv_heads), s, false);
        const void* w = c.w ? static_cast<const A*>(c.w) + h * c.w_head : nullptr;
        const A alibi = alibi_of<A>(c, h);
        const bool active = !c.active || gw::load_global_cached(c.active + static_cast<i64>(b) * c.q_heads + h) != 0;
        const bool exists = active && query < s.q_len;
        const A sum = exists ? load_term<A>(lse, b * c.lse.batch + h * c.lse.head + (s.q_first + query) * c.lse.row) : A(0);
        for (int local = threadIdx.x / 32; local < KEYS_AN_ITEM; local += THREADS / 32) {
            const int key = static_cast<int>(item % key_items) * KEYS_AN_ITEM + local;
            if (key >= c.kv_len) continue;
            A weight = 0;
            if (exists && key < s.kv) {
                const A u = compared_by_warp<A>(c, q, row_at(c, queries, query), k, row_at(c, keys, key), w);
                const Logit<A> at = logit(c, s, b, h, query, key, static_cast<A>(c.coefficient) * u, alibi);
                if (at.seen) weight = exp2_of((at.z - sum) * log2_e<A>());
            }
            if (lane == 0) gw::store_global(weights + row * c.kv_len + key, s.valid || !active ? weight : static_cast<A>(NAN));
        }
    }
}

template <typename A, int ROWS>
GW_DEVICE void entropy(Shared<typename Chunk<A>::Vector> shared, const void* q, const void* k, const void* lse,
                       const uint4* spans, A* out, const InspectParams& params) {
    typedef Tile<A, ROWS> T;
    constexpr int PER_Y = T::PER_Y, W = T::W;
    const Call& c = params.call;
    const T tile(shared);
    const int tx = threadIdx.x % LANES_X, ty = threadIdx.x / LANES_X;
    const int tiles = (c.q_len + ROWS - 1) / ROWS;
    const i64 pairs = static_cast<i64>(c.batch) * c.q_heads;
    const i64 items = active_count(c.counts, 0, pairs) * tiles;
    for (i64 item = blockIdx.x; item < items; item += gridDim.x) {
        const i64 pair = pair_at(c.order, item / tiles);
        if (pair >= pairs) continue;
        const int b = static_cast<int>(pair / c.q_heads), h = static_cast<int>(pair % c.q_heads);
        const int first_row = static_cast<int>(item % tiles) * ROWS;
        const Span s = load_span(spans, b);
        const int rows = min(ROWS, s.q_len - first_row);
        if (rows <= 0) continue;
        const Matrix queries = query_matrix(c, q, c.q, b, h, s.q_first, c.vectors & Q);
        const Matrix keys = key_matrix(c, k, c.k, b, h / (c.q_heads / c.kv_heads), s, c.vectors & K);
        const void* w = c.w ? static_cast<const A*>(c.w) + h * c.w_head : nullptr;
        const A alibi = alibi_of<A>(c, h);
        const Range steps = tiles_of(keys_in_sight(c, s, first_row, first_row + rows - 1), T::COLUMNS);
        A sum[PER_Y] = {}, of_row[PER_Y] = {};
        for (int i = 0; i < PER_Y; ++i) {
            const int row = first_row + ty + LANES_Y * i;
            if (row < s.q_len) of_row[i] = load_term<A>(lse, b * c.lse.batch + h * c.lse.head + (s.q_first + row) * c.lse.row);
        }
#pragma unroll 1
        for (int step = steps.begin; step < steps.end; ++step) {
            const int first_key = step * T::COLUMNS;
            Raw<A, PER_Y, W> raw;
            compare(raw, tile, c, queries, first_row, rows, keys, first_key, min(T::COLUMNS, s.kv - first_key), c.head_dim, c.score, w);
            const int row_0 = gw::opaque(first_row);
#pragma unroll
            for (int i = 0; i < PER_Y; ++i) {
#pragma unroll
                for (int j = 0; j < W; ++j) {
                    const A score = static_cast<A>(c.coefficient) * compared(raw, c.score, i, j);
                    const Logit<A> at = logit(c, s, b, h, row_0 + ty + LANES_Y * i, first_key + W * tx + j, score, alibi);
                    const A log_weight = at.z - of_row[i];
                    const A weight = exp2_of(log_weight * log2_e<A>());
                    if (at.seen && weight != 0) sum[i] -= weight * log_weight;
                }
            }
        }
#pragma unroll
        for (int i = 0; i < PER_Y; ++i) {
            const int row = ty + LANES_Y * i;
            const A total = row_sum(sum[i]);
            if (row >= rows || tx != 0) continue;
            const i64 at = b * params.out.batch + h * params.out.head + (s.q_first + first_row + row) * params.out.row;
            gw::store_global(out + at, s.valid ? total : static_cast<A>(NAN));
        }
    }
}

}  // namespace attention

#define ATTENTION_INSPECT(SUFFIX, A)                                                                                 \
    GW_KERNEL(attention::THREADS, 4)                                                                                 \
    attention_weights_##SUFFIX(const void* q, const void* k, const void* lse, const uint4* spans,                    \
                               const uint4* chosen, A* weights,                                                      \
                               const __grid_constant__ attention::InspectParams params) {                            \
        attention::weights_of_rows<A>(q, k, lse, spans, chosen, weights, params);                                    \
    }                                                                                                                \
    GW_EXPORT(attention_weights_##SUFFIX)                                                                            \
    GW_KERNEL(attention::THREADS, 2)                                                                                 \
    attention_entropy_##SUFFIX(const void* q, const void* k, const void* lse, const uint4* spans, A* entropy,        \
                               const __grid_constant__ attention::InspectParams params) {                            \
        GW_SHARED(attention::Chunk<A>::Vector, shared);                                                              \
        attention::entropy<A, 32>(shared, q, k, lse, spans, entropy, params);                                        \
    }                                                                                                                \
    GW_EXPORT(attention_entropy_##SUFFIX)

ATTENTION_INSPECT(f32, float)
ATTENTION_INSPECT(f64, double)
