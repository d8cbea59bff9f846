// compare.cuh: tiles of queries against keys for the general kernels: staging, every score, masks, and weighted sums.
//
// A block of 128 threads is a grid of 8 × 16: thread (ty, tx) owns rows ty + 8i of a tile and W adjacent columns, where a
// chunk is 16 bytes: W = 4 floats or 2 doubles. Everything in shared memory is counted in chunks, so that both accumulators
// have the same maps. Chunk c of row r lies at c ^ (r mod 8): no bank conflicts, as in tile.cuh. A tile has
//   rows × columns   ROWS × 16W: scores and weights, 16 chunks a row
//   a slice          8 chunks (8W dimensions) of the rows' and of the columns' vectors, the latter by slots as in tile.cuh
//   values           32 chunks (32W columns of the result) of each column's vector; lies where the slices were
#pragma once
#include "attention/call.cuh"

namespace attention {

constexpr int SLICE_CHUNKS = 8;
constexpr int VALUE_CHUNKS = 32;
constexpr int WEIGHT_CHUNKS = 16;
constexpr int GROUPS = VALUE_CHUNKS / LANES_X;

/// Shared memory and sizes of a tile of ROWS rows.
template <typename A, int ROWS_>
struct Tile {
    typedef typename Chunk<A>::Vector Vector;
    static constexpr int ROWS = ROWS_;
    static constexpr int W = Chunk<A>::WIDTH;
    static constexpr int COLUMNS = LANES_X * W;
    static constexpr int PER_Y = ROWS / LANES_Y;
    static constexpr int SLICE = SLICE_CHUNKS * W;   // dimensions
    static constexpr int OUT = VALUE_CHUNKS * W;     // columns of the result
    static constexpr int COUNT = GROUPS * W;         // of them, a thread's
    static constexpr int SHARED_CHUNKS = COLUMNS * VALUE_CHUNKS + ROWS * WEIGHT_CHUNKS;

    Shared<Vector> rows, columns, values, weights;
    Shared<A> row, column, weight;  // the same as scalars

    GW_DEVICE explicit Tile(Shared<Vector> shared)
        : rows(shared.slice(0, ROWS * SLICE_CHUNKS)),
          columns(shared.slice(ROWS * SLICE_CHUNKS, COLUMNS * SLICE_CHUNKS)),
          values(shared.slice(0, COLUMNS * VALUE_CHUNKS)),
          weights(shared.slice(COLUMNS * VALUE_CHUNKS, ROWS * WEIGHT_CHUNKS)),
          row(rows.template cast<A>()),
          column(columns.template cast<A>()),
          weight(weights.template cast<A>()) {
        static_assert((ROWS + COLUMNS) * SLICE_CHUNKS <= COLUMNS * VALUE_CHUNKS, "slices lie where values will");
    }
};

/// First column of group `group` of the thread's columns of a result.
template <int W>
GW_DEVICE int result_column(int group) {
    return W * (static_cast<int>(threadIdx.x) % LANES_X + LANES_X * group);
}

/// Brings dimensions from `from` on of rows first..first + count of a matrix into a tile of ROWS rows of CHUNKS chunks; zeros
/// beyond. PER = 1 keeps the order of rows; otherwise slot 16j + x holds row PER·x + j.
template <typename A, int ROWS, int CHUNKS, int PER>
GW_DEVICE void bring(Shared<typename Chunk<A>::Vector> tile, const Call& c, const Matrix& m, int first, int count, int from, int dims) {
    constexpr int W = Chunk<A>::WIDTH;
    const int chunk = threadIdx.x % CHUNKS;
    const int dim = from + W * chunk;
#pragma unroll 1
    for (int slot = threadIdx.x / CHUNKS; slot < ROWS; slot += THREADS / CHUNKS) {
        const int row = PER == 1 ? slot : (slot % LANES_X) * PER + slot / LANES_X;
        A x[W] = {};
        if (row < count && dim < dims) load_chunk(x, m.base, row_at(c, m, first + row) + dim, min(dims - dim, W), c.type, m.vectors);
        tile[slot * CHUNKS + (chunk ^ (slot & 7))] = Chunk<A>::pack(x);
    }
}

/// What the products of a tile's rows and columns give. `cross`: imaginary part, of FIDELITY; norms: squares, of COSINE.
template <typename A, int PER_Y, int W>
struct Raw {
    A dot[PER_Y][W], cross[PER_Y][W];
    A row_norm[PER_Y], column_norm[W];
};

/// Chunk `c` of the additive score. One dimension at a time: tanh is long, and inlined for each row and column.
template <typename A, int ROWS>
GW_DEVICE void add_additive_scores(Raw<A, Tile<A, ROWS>::PER_Y, Tile<A, ROWS>::W>& raw, const Tile<A, ROWS>& tile, int c,
                                   const void* w, int from, int dims) {
    constexpr int PER_Y = Tile<A, ROWS>::PER_Y, W = Tile<A, ROWS>::W;
    const int tx = threadIdx.x % LANES_X, ty = threadIdx.x / LANES_X;
#pragma unroll 1
    for (int e = 0; e < min(W, dims - from - W * c); ++e) {
        const A factor = load_term<A>(w, from + W * c + e);
        A b[W];
#pragma unroll
        for (int j = 0; j < W; ++j) {
            const int slot = LANES_X * j + tx;
            b[j] = tile.column[(slot * SLICE_CHUNKS + (c ^ (slot & 7))) * W + e];
        }
#pragma unroll
        for (int i = 0; i < PER_Y; ++i) {
            const int row = ty + LANES_Y * i;
            const A a = tile.row[(row * SLICE_CHUNKS + (c ^ (row & 7))) * W + e];
#pragma unroll
            for (int j = 0; j < W; ++j) raw.dot[i][j] = gw::fma(factor, tanh_of(a + b[j]), raw.dot[i][j]);
        }
    }
}

/// Adds the slice in shared memory. The plain product has a loop of its own (PLAIN); of the others, `kind` is uniform.
template <bool PLAIN, typename A, int ROWS>
GW_DEVICE void add_slice(Raw<A, Tile<A, ROWS>::PER_Y, Tile<A, ROWS>::W>& raw, const Tile<A, ROWS>& tile, int chunks, i32 score,
                         const void* w, int from, int dims) {
    const i32 kind = PLAIN ? static_cast<i32>(DOT) : score;
    typedef Tile<A, ROWS> T;
    constexpr int PER_Y = T::PER_Y, W = T::W;
    const int tx = threadIdx.x % LANES_X, ty = threadIdx.x / LANES_X;
#pragma unroll 1
    for (int c = 0; c < chunks; ++c) {
        A b[W][W];
#pragma unroll
        for (int j = 0; j < W; ++j) {
            const int slot = LANES_X * j + tx;
            Chunk<A>::unpack(tile.columns[slot * SLICE_CHUNKS + (c ^ (slot & 7))], b[j]);
        }
        if (kind == ADDITIVE) {
            add_additive_scores(raw, tile, c, w, from, dims);
            continue;
        }
        if (kind == COSINE) {
#pragma unroll
            for (int j = 0; j < W; ++j)
#pragma unroll
                for (int e = 0; e < W; ++e) raw.column_norm[j] = gw::fma(b[j][e], b[j][e], raw.column_norm[j]);
        }
#pragma unroll
        for (int i = 0; i < PER_Y; ++i) {
            A a[W];
            const int row = ty + LANES_Y * i;
            Chunk<A>::unpack(tile.rows[row * SLICE_CHUNKS + (c ^ (row & 7))], a);
            if (kind == DOT || kind == COSINE) {
#pragma unroll
                for (int j = 0; j < W; ++j)
#pragma unroll
                    for (int e = 0; e < W; ++e) raw.dot[i][j] = gw::fma(a[e], b[j][e], raw.dot[i][j]);
                if (kind == COSINE) {
#pragma unroll
                    for (int e = 0; e < W; ++e) raw.row_norm[i] = gw::fma(a[e], a[e], raw.row_norm[i]);
                }
            } else if (kind == FIDELITY) {
#pragma unroll
                for (int j = 0; j < W; ++j)
#pragma unroll
                    for (int e = 0; e < W; e += 2) {
                        raw.dot[i][j] = gw::fma(a[e], b[j][e], raw.dot[i][j]);
                        raw.dot[i][j] = gw::fma(a[e + 1], b[j][e + 1], raw.dot[i][j]);
                        raw.cross[i][j] = gw::fma(a[e], b[j][e + 1], raw.cross[i][j]);
                        raw.cross[i][j] = gw::fma(-a[e + 1], b[j][e], raw.cross[i][j]);
                    }
            } else {
#pragma unroll
                for (int j = 0; j < W; ++j)
#pragma unroll
                    for (int e = 0; e < W; ++e) {
                        const A x = a[e] - b[j][e];
                        raw.dot[i][j] = gw::fma(-x, x, raw.dot[i][j]);
                    }
            }
        }
    }
}

/// Products of all rows and columns, over slices of the dimensions. Begins and ends with a barrier's worth of freedom: other
/// threads may still read the tile before, and may not yet have read this one's last slice.
template <typename A, int ROWS>
GW_DEVICE void compare(Raw<A, Tile<A, ROWS>::PER_Y, Tile<A, ROWS>::W>& raw, const Tile<A, ROWS>& tile, const Call& c, const Matrix& rows,
                       int first_row, int row_count, const Matrix& columns, int first_column, int column_count, int dims,
                       i32 kind, const void* w) {
    typedef Tile<A, ROWS> T;
    raw = Raw<A, T::PER_Y, T::W>{};
#pragma unroll 1
    for (int from = 0; from < dims; from += T::SLICE) {
        gw::sync_threads();  // nobody reads what lay there any more
        bring<A, ROWS, SLICE_CHUNKS, 1>(tile.rows, c, rows, first_row, row_count, from, dims);
        bring<A, T::COLUMNS, SLICE_CHUNKS, T::W>(tile.columns, c, columns, first_column, column_count, from, dims);
        gw::sync_threads();  // the slice is there
        const int chunks = min(SLICE_CHUNKS, (dims - from + T::W - 1) / T::W);
        if (kind == DOT) {
            add_slice<true>(raw, tile, chunks, kind, w, from, dims);
        } else {
            add_slice<false>(raw, tile, chunks, kind, w, from, dims);
        }
    }
    if (kind == COSINE) {
        // To inverse norms; 0 where a norm is 0. A NaN stays one.
        for (int i = 0; i < T::PER_Y; ++i) raw.row_norm[i] = raw.row_norm[i] == 0 ? 0 : 1 / root(raw.row_norm[i]);
        for (int j = 0; j < T::W; ++j) raw.column_norm[j] = raw.column_norm[j] == 0 ? 0 : 1 / root(raw.column_norm[j]);
    }
}

/// The comparison of row i and column j, before the coefficient.
template <typename A, int PER_Y, int W>
GW_DEVICE A compared(const Raw<A, PER_Y, W>& raw, i32 kind, int i, int j) {
    const A dot = raw.dot[i][j];
    if (kind == FIDELITY) return gw::fma(dot, dot, raw.cross[i][j] * raw.cross[i][j]);
    if (kind == COSINE) return dot * raw.row_norm[i] * raw.column_norm[j];
    return dot;
}

/// A comparison as the softmax takes it.
template <typename A>
struct Logit {
    A z;         // what the softmax takes
    A slope;     // derivative of z by the score, through the softcap
    A distance;  // |position − key|
    bool seen;   // the key takes part
};

/// `score` = coefficient · comparison, of query i of head h and key j. Nothing of a key out of sight is read.
template <typename A>
GW_DEVICE Logit<A> logit(const Call& c, const Span& s, int b, int h, int i, int j, A score, A alibi) {
    Logit<A> out = {score, 1, 0, false};
    const i32 ahead = j - (s.offset + i);  // fits: lengths end at 2^30 − 64, offsets lie within ±2^30
    if (i >= s.q_len || j >= s.kv || ahead < -c.left || ahead > c.right) return out;
    if (c.mask) {
        const i64 at = b * c.mask_at.batch + h * c.mask_at.head + i * c.mask_at.row + j * c.mask_at.column;
        if (gw::load_global_cached(c.mask + at) == 0) return out;
    }
    if (c.softcap > 0.0) {
        const A cap = static_cast<A>(c.softcap);
        const A t = tanh_of(score / cap);
        out.z = cap * t;
        out.slope = 1 - t * t;
    }
    if (c.bias) {
        const i64 at = b * c.bias_at.batch + h * c.bias_at.head + i * c.bias_at.row + j * c.bias_at.column;
        const A bias = load_number(c.bias, at, c.bias_type, A(0));
        if (bias == -INFINITY) return out;
        out.z += bias;
    }
    out.distance = static_cast<A>(ahead < 0 ? -ahead : ahead);
    if (c.alibi) out.z -= alibi * out.distance;
    out.seen = true;
    return out;
}

/// Slope of head `h`.
template <typename A>
GW_DEVICE A alibi_of(const Call& c, int h) {
    return c.alibi ? load_term<A>(c.alibi, h * c.alibi_step) : A(0);
}

/// The words that dropout draws.
GW_DEVICE philox::Stream stream_of(const Call& c) { return c.seed ? philox::load_stream(c.seed) : c.stream; }

/// Whether dropout keeps the element.
GW_DEVICE bool is_kept(const Call& c, const philox::Stream& stream, int b, int h, int i, int j) {
    const u64 row = (static_cast<u64>(b) * c.q_heads + h) * c.q_len + i;
    return philox::word(stream, row * c.kv_len + j) >= c.drop_below;
}

/// sum[i][·] += Σ_j weights[ty + 8i][j] · values[j][·] for j < count, without weights that are left out.
///
/// With `turned`, values (x, y) of a complex vector enter as (y, −x). Columns at and beyond `dims` are not touched.
template <typename A, int ROWS>
GW_DEVICE void add_weighted(A (&sum)[Tile<A, ROWS>::PER_Y][Tile<A, ROWS>::COUNT], const Tile<A, ROWS>& tile, int count,
                            int dims, bool turned) {
    typedef Tile<A, ROWS> T;
    constexpr int PER_Y = T::PER_Y, W = T::W;
    const int tx = threadIdx.x % LANES_X, ty = threadIdx.x / LANES_X;
#pragma unroll 1
    for (int chunk = 0; chunk < (count + W - 1) / W; ++chunk) {
        A weights[PER_Y][W];
#pragma unroll
        for (int i = 0; i < PER_Y; ++i) {
            const int row = ty + LANES_Y * i;
            Chunk<A>::unpack(tile.weights[row * WEIGHT_CHUNKS + (chunk ^ (row & 7))], weights[i]);
        }
#pragma unroll
        for (int e = 0; e < W; ++e) {
            const int j = W * chunk + e;
#pragma unroll
            for (int group = 0; group < GROUPS; ++group) {
                if (result_column<W>(group) >= dims) continue;
                A value[W];
                Chunk<A>::unpack(tile.values[j * VALUE_CHUNKS + ((tx + LANES_X * group) ^ (j & 7))], value);
                if (turned) {
#pragma unroll
                    for (int x = 0; x < W; x += 2) {
                        const A real = value[x];
                        value[x] = value[x + 1];
                        value[x + 1] = -real;
                    }
                }
#pragma unroll
                for (int i = 0; i < PER_Y; ++i) {
                    if (left_out(weights[i][e])) continue;
#pragma unroll
                    for (int x = 0; x < W; ++x)
                        sum[i][group * W + x] = gw::fma(weights[i][e], value[x], sum[i][group * W + x]);
                }
            }
        }
    }
}

/// Writes a thread's weights. Of a row, written and read by its half-warp alone, sync_warp makes them visible.
template <typename A, int ROWS>
GW_DEVICE void put_weights(const Tile<A, ROWS>& tile, const A (&weights)[Tile<A, ROWS>::PER_Y][Tile<A, ROWS>::W]) {
    const int tx = threadIdx.x % LANES_X, ty = threadIdx.x / LANES_X;
#pragma unroll
    for (int i = 0; i < Tile<A, ROWS>::PER_Y; ++i) {
        const int row = ty + LANES_Y * i;
        tile.weights[row * WEIGHT_CHUNKS + (tx ^ (row & 7))] = Chunk<A>::pack(weights[i]);
    }
}

/// Writes a thread's columns of one row of a tensor; `first` is the result's first column in it.
template <typename A, int COUNT>
GW_DEVICE void put_row(void* base, i64 row, i32 type, const A (&value)[COUNT], int first, int dims) {
    constexpr int W = Chunk<A>::WIDTH;
#pragma unroll
    for (int group = 0; group < GROUPS; ++group) {
        const int column = first + result_column<W>(group);
#pragma unroll
        for (int e = 0; e < W; ++e)
            if (column + e < dims) store_number(base, row + column + e, type, value[group * W + e]);
    }
}

/// Fills the block's columns, from `first` on, of rows 0..count with one value.
template <typename A>
GW_DEVICE void fill(void* base, const Call& c, const Matrix& m, int row, int count, int first, int dims, A value) {
    A filled[GROUPS * Chunk<A>::WIDTH];
    for (A& x : filled) x = value;
    for (int r = threadIdx.x / LANES_X; r < count; r += LANES_Y) put_row(base, row_at(c, m, row + r), c.type, filled, first, dims);
}

}  // namespace attention
