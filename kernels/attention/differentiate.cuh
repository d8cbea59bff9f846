// differentiate.cuh: the backward pass of one query and one key, which dq, dk, dv and the bias's gradient share.
#pragma once
#include "attention/compare.cuh"

namespace attention {

/// The validated backward call, as src/attention/cuda/general.rs fills it in. No rows are packed: Call::pack is 1.
struct GeneralBackwardParams {
    Call call;
    Strides grad_o, grad_lse, delta, dq, dk, dv, drow_scale;
    Strides4 dbias_at;
    i64 dbias_shape[4];  // [b|1, h|1, i|1, j|1]
    i32 dbias_type, unused;
};

/// What a query row brings besides q and grad_o. A row without keys has lse = −∞, and no weight of it is looked at.
template <typename A>
struct QueryTerms {
    A lse_log2, delta, gate;
};

template <typename A>
GW_DEVICE QueryTerms<A> query_terms(const GeneralBackwardParams& params, const Span& s, const void* lse, const A* delta, int b, int h, int i) {
    const Call& c = params.call;
    if (i >= s.q_len) return {0, 0, 0};
    const i64 row = s.q_first + i;
    const auto at = [&](const Strides& steps) { return b * steps.batch + h * steps.head + row * steps.row; };
    return {load_term<A>(lse, at(c.lse)) * log2_e<A>(), delta ? load_term<A>(delta, at(params.delta)) : A(0),
            c.row_scale ? load_term<A>(c.row_scale, at(c.row_scale_at)) : A(1)};
}

/// One query and one key.
template <typename A>
struct Element {
    bool seen;
    bool kept;      // by dropout
    A weight;       // of the softmax
    A by_logit;     // derivative of the loss by the logit
    A by_score;     // … by the score
    A gate;         // … by the row scale
    A distance;     // |position − key|
};

/// `dp` is ⟨grad_o_i, v_j⟩. Behind a mask nothing that may be NaN is used.
template <typename A>
GW_DEVICE Element<A> differentiate(const Call& c, const Span& s, const philox::Stream& stream, int b, int h, int i, int j,
                                   A score, A alibi, const QueryTerms<A>& terms, A dp) {
    const Logit<A> at = logit(c, s, b, h, i, j, score, alibi);
    Element<A> e = {at.seen, true, 0, 0, 0, 0, at.distance};
    if (!at.seen) return e;
    e.weight = exp2_of(gw::fma(at.z, log2_e<A>(), -terms.lse_log2));
    if (c.dropout) {
        e.kept = is_kept(c, stream, b, h, i, j);
        dp = e.kept ? dp * static_cast<A>(c.keep_scale) : 0;
    }
    e.gate = e.weight * dp;
    e.by_logit = e.weight * gw::fma(terms.gate, dp, -terms.delta);
    e.by_score = e.by_logit * at.slope;
    return e;
}

/// Sums that a tile of queries gives besides dq: per row for the row scale, and over all rows.
template <typename A, int PER_Y>
struct Sums {
    A gate[PER_Y];
    A alibi, coefficient;
};

/// From products to the weights of the other side's vectors in the gradient of the rows: `raw.dot`, and of FIDELITY
/// `raw.cross` for the turned vectors. `rest[i]` is the weight of row i's own vector; −0 as long as it has none.
template <bool KEYS_ARE_ROWS, typename A, int ROWS>
GW_DEVICE void to_weights(const Tile<A, ROWS>&, Raw<A, Tile<A, ROWS>::PER_Y, Tile<A, ROWS>::W>& raw, const A (&dp)[Tile<A, ROWS>::PER_Y][Tile<A, ROWS>::W],
                          const GeneralBackwardParams& params, const Span& s, const philox::Stream& stream, const void* lse,
                          const A* delta, int b, int h, int first_row, int first_column, A (&rest)[Tile<A, ROWS>::PER_Y],
                          Sums<A, Tile<A, ROWS>::PER_Y>* sums) {
    constexpr int PER_Y = Tile<A, ROWS>::PER_Y, W = Tile<A, ROWS>::W;
    const Call& c = params.call;
    const int tx = threadIdx.x % LANES_X, ty = threadIdx.x / LANES_X;
    // Addresses of masks and row terms, kept for every row through the loop over tiles, would spill.
    b = gw::opaque(b), h = gw::opaque(h), first_row = gw::opaque(first_row);
    const A alibi = alibi_of<A>(c, h), coefficient = static_cast<A>(c.coefficient);
    QueryTerms<A> terms = {0, 0, 0};
    // Along a query first, so that one query's terms are held at a time.
    constexpr int ALONG = KEYS_ARE_ROWS ? PER_Y : W;
#pragma unroll
    for (int outer = 0; outer < PER_Y * W / ALONG; ++outer) {
#pragma unroll
        for (int inner = 0; inner < ALONG; ++inner) {
            const int i = KEYS_ARE_ROWS ? inner : outer, j = KEYS_ARE_ROWS ? outer : inner;
            const int row = first_row + ty + LANES_Y * i, column = first_column + W * tx + j;
            const int query = KEYS_ARE_ROWS ? column : row, key = KEYS_ARE_ROWS ? row : column;
            if (inner == 0) terms = query_terms(params, s, lse, delta, b, h, query);
            const A u = compared(raw, c.score, i, j);
            const Element<A> e = differentiate(c, s, stream, b, h, query, key, coefficient * u, alibi,
                                               terms, dp[i][j]);
            if (!e.seen) {
                raw.dot[i][j] = raw.cross[i][j] = static_cast<A>(-0.0);
                continue;
            }
            if constexpr (!KEYS_ARE_ROWS) {
                sums->gate[i] += e.gate;
                sums->alibi -= e.by_logit * e.distance;
                sums->coefficient += e.by_score * u;
            }
            const A g = coefficient * e.by_score;
            A weight = g;
            if (c.score == COSINE) {
                weight = g * raw.row_norm[i] * raw.column_norm[j];
                rest[i] += A(0) - g * u * raw.row_norm[i] * raw.row_norm[i];
            } else if (c.score == GAUSSIAN) {
                weight = 2 * g;
                rest[i] += A(0) - 2 * g;
            } else if (c.score == FIDELITY) {
                weight = 2 * g * raw.dot[i][j];
                raw.cross[i][j] = 2 * g * raw.cross[i][j] + A(0);
            }
            raw.dot[i][j] = weight + A(0);  // never −0, which would leave it out
        }
    }
}

/// The additive score's part of add_weighted: sum[i][·] += Σ_j weight·w·(1 − tanh²(row + value)); and, where `dw` is wanted,
/// dw[·] += Σ_ij weight·tanh(row + value). Vectors of the rows are read again: tanh costs more than that.
template <typename A, int ROWS>
GW_DEVICE void add_additive(A (&sum)[Tile<A, ROWS>::PER_Y][Tile<A, ROWS>::COUNT], A (&dw)[Tile<A, ROWS>::COUNT],
                            const Tile<A, ROWS>& tile, const Call& c, const Matrix& rows, int first_row, int row_count,
                            int count, int from, int dims, const void* w) {
    typedef Tile<A, ROWS> T;
    constexpr int W = T::W;
    const int tx = threadIdx.x % LANES_X, ty = threadIdx.x / LANES_X;
    first_row = gw::opaque(first_row);
#pragma unroll
    for (int group = 0; group < GROUPS; ++group) {
        const int column = from + result_column<W>(group);
        if (column >= dims) continue;
        const int width = min(dims - column, W);
        A factor[W];
        load_chunk(factor, w, column, width, sizeof(A) == 8 ? F64 : F32, false);
#pragma unroll
        for (int i = 0; i < T::PER_Y; ++i) {
            const int row = ty + LANES_Y * i;
            if (row >= row_count) continue;
            A own[W];
            load_chunk(own, rows.base, row_at(c, rows, first_row + row) + column, width, c.type, rows.vectors);
#pragma unroll 1
            for (int j = 0; j < count; ++j) {
                const A weight = tile.weight[(row * WEIGHT_CHUNKS + ((j / W) ^ (row & 7))) * W + j % W];
                if (left_out(weight)) continue;
                A value[W];
                Chunk<A>::unpack(tile.values[j * VALUE_CHUNKS + ((tx + LANES_X * group) ^ (j & 7))], value);
#pragma unroll
                for (int x = 0; x < W; ++x) {
                    const A t = tanh_of(own[x] + value[x]);
                    sum[i][group * W + x] = gw::fma(weight * factor[x], 1 - t * t, sum[i][group * W + x]);
                    dw[group * W + x] = gw::fma(weight, t, dw[group * W + x]);
                }
            }
        }
    }
}

/// Adds a tile's weighted values by the score's rule. The values are brought here; two barriers before they are read.
template <typename A, int ROWS>
GW_DEVICE void add_by_score(A (&sum)[Tile<A, ROWS>::PER_Y][Tile<A, ROWS>::COUNT], A (&dw)[Tile<A, ROWS>::COUNT],
                            const Tile<A, ROWS>& tile, Raw<A, Tile<A, ROWS>::PER_Y, Tile<A, ROWS>::W>& weights, const Call& c,
                            const Matrix& rows, int first_row, int row_count, const Matrix& columns, int first_column,
                            int column_count, int from, int dims, const void* w) {
    put_weights(tile, weights.dot);
    gw::sync_threads();  // nobody reads the slices any more
    bring<A, Tile<A, ROWS>::COLUMNS, VALUE_CHUNKS, 1>(tile.values, c, columns, first_column, column_count, from, dims);
    gw::sync_threads();  // the values are there
    if (c.score == ADDITIVE) {
        add_additive(sum, dw, tile, c, rows, first_row, row_count, column_count, from, dims, w);
        return;
    }
    add_weighted(sum, tile, column_count, dims - from, false);
    if (c.score != FIDELITY) return;
    gw::sync_warp();  // a row of weights is read and written by one half-warp
    put_weights(tile, weights.cross);
    gw::sync_warp();
    add_weighted(sum, tile, column_count, dims - from, true);
}

/// Adds `rest` times the row's own vector, and writes the gradient of the tile's rows.
template <typename A, int ROWS>
GW_DEVICE void put_gradient(void* to, const Call& c, const Matrix& at, A (&sum)[Tile<A, ROWS>::PER_Y][Tile<A, ROWS>::COUNT],
                            const A (&rest)[Tile<A, ROWS>::PER_Y], const Matrix& rows, int first_row, int row_count, int from,
                            int dims) {
    typedef Tile<A, ROWS> T;
    constexpr int W = T::W;
#pragma unroll
    for (int i = 0; i < T::PER_Y; ++i) {
        const int row = static_cast<int>(threadIdx.x) / LANES_X + LANES_Y * i;
        const A own_weight = row_sum(rest[i]);
        if (row >= row_count) continue;
        if (!left_out(own_weight)) {
#pragma unroll
            for (int group = 0; group < GROUPS; ++group) {
                const int column = from + result_column<W>(group);
                if (column >= dims) continue;
                A own[W];
                load_chunk(own, rows.base, row_at(c, rows, first_row + row) + column, min(dims - column, W), c.type, rows.vectors);
#pragma unroll
                for (int x = 0; x < W; ++x) sum[i][group * W + x] = gw::fma(own_weight, own[x], sum[i][group * W + x]);
            }
        }
        put_row(to, row_at(c, at, first_row + row), c.type, sum[i], from, dims);
    }
}

}  // namespace attention
