// gradients.cuh: gradients of attention over 16-bit tensors on the matrix units, what dq and dk, dv have in common.
//
// Rows of a tile stay with the block, 16 · TILES to a warp, columns are streamed through two buffers of STAGE. Of rows and
// columns there are two matrices each: q and grad_o, k and v. With x, y the rows' and u, w the columns', a step is
//   s = x·uᵀ   dp = y·wᵀ   p, dz from s, dp and the queries' terms   sum of u by dz, sum of w by p (keys as rows alone)
// A warp's products hold its rows, so p and dz become the left operands of the sums where they are, in registers.
#pragma once
#include "attention/differentiate.cuh"
#include "attention/fragments.cuh"

namespace attention {

constexpr int WARPS = THREADS / 32;

/// Products of a warp's rows and 8 · BLOCKS columns, or what becomes of them: fragments as mma_m16n8k16 has them.
template <int TILES, int BLOCKS>
using Products = float[TILES][BLOCKS][4];
/// Sums of a warp's rows.
template <int TILES, int D>
using RowSums = float[TILES][D / 8][4];

/// lse in the exponent's base, for a row with keys. Without: +∞, which makes every weight 0.
GW_DEVICE float lse_log2(float lse) { return lse == -INFINITY ? INFINITY : lse * gw::LOG2_E; }

/// A valid sample, and a head: of queries, or of keys. Lies in shared memory, for in registers through the loops it would be spilt.
struct Item {
    Span s;
    int b, head;
    Range steps;  // stages of columns in sight
};

/// The block's shared memory: both matrices of its rows, two stages of both matrices of columns, the queries' terms (of each
/// stage where KEYS_ARE_ROWS), what the work item is, and with options a thread's products.
template <bool KEYS_ARE_ROWS, int D, int TILES, int STAGE, int BLOCKS>
struct GradientTiles {
    static constexpr int ROWS = 16 * TILES * WARPS;
    static constexpr int QUERIES = KEYS_ARE_ROWS ? STAGE : ROWS;
    static constexpr int TERMS = (2 * ROWS + 4 * STAGE) * D;  // where they begin, in elements of 16 bits
    static constexpr int ITEM = TERMS + (KEYS_ARE_ROWS ? 2 : 1) * 3 * QUERIES * 2;
    static constexpr int PRODUCTS = ITEM + 12 * 2;
    Shared<u16> shared;

    /// 0: q or k. 1: grad_o or v.
    GW_DEVICE Panels<D, ROWS> rows(int which) const { return Panels<D, ROWS>(shared.slice(which * ROWS * D)); }
    GW_DEVICE Panels<D, STAGE> columns(int which, int buffer) const {
        return Panels<D, STAGE>(shared.slice((2 * ROWS + (2 * buffer + which) * STAGE) * D));
    }
    /// lse, delta and row scale of the queries.
    GW_DEVICE Shared<float> terms(int which, int buffer) const {
        return shared.slice(TERMS).template cast<float>().slice((3 * buffer + which) * QUERIES, QUERIES);
    }
    GW_DEVICE Shared<i32> item_words() const { return shared.slice(ITEM).template cast<i32>().slice(0, 10); }
    GW_DEVICE Item item() const {
        const Shared<i32> words = item_words();
        return {{words[0], words[1], words[2], words[3], words[4], words[5], true}, words[6], words[7], {words[8], words[9]}};
    }
    /// Begins a work item: every thread may overwrite the tiles, and `item` gives it.
    GW_DEVICE void begin(const Span& s, int b, int head, Range steps) const {
        gw::sync_threads();  // nobody reads what the item before left
        if (threadIdx.x == 0) {
            const Shared<i32> words = item_words();
            words[0] = s.q_first, words[1] = s.q_len, words[2] = s.k_first, words[3] = s.kv;
            words[4] = s.offset, words[5] = s.slots, words[6] = b, words[7] = head;
            words[8] = steps.begin, words[9] = steps.end;
        }
        gw::sync_threads();
    }
    GW_DEVICE Shared<float2> products() const {
        return shared.slice(PRODUCTS).template cast<float2>().slice(0, TILES * BLOCKS * 4 * THREADS);
    }

    /// Starts to bring terms of queries first..first + count; zeros beyond. `delta` may be null.
    GW_DEVICE void bring_terms(int buffer, const GeneralBackwardParams& params, const Item& x, int h, const float* lse,
                               const float* delta, int first, int count) const {
        const Call& c = params.call;
        const int i = threadIdx.x;
        if (i >= QUERIES) return;
        const auto bring = [&](int which, const float* from, const Strides& steps) {
            const i64 at = x.b * steps.batch + h * steps.head + static_cast<i64>(x.s.q_first + first + i) * steps.row;
            gw::cp_async4(terms(which, buffer).slice(i, 1), from + at, i < count);
        };
        bring(0, lse, c.lse);
        if (delta) bring(1, delta, params.delta);
        if (c.row_scale) bring(2, static_cast<const float*>(c.row_scale), c.row_scale_at);
    }

    /// Terms of query `i` of the stage or of the rows.
    GW_DEVICE QueryTerms<float> terms_of(const Call& c, int buffer, int i, bool has_delta) const {
        return {lse_log2(terms(0, buffer)[i]), has_delta ? terms(1, buffer)[i] : 0.0f,
                c.row_scale ? terms(2, buffer)[i] : 1.0f};
    }
};

/// sum += rows · columnsᵀ, of the warp's rows from `first_row` and the products' columns from `first` on, over `dims` elements.
template <bool BF16, int D, int ROWS, int STAGE, int TILES, int BLOCKS>
GW_DEVICE void add_products(Products<TILES, BLOCKS>& sum, const Panels<D, ROWS>& rows, int first_row, const Panels<D, STAGE>& columns,
                            int first, int dims) {
#pragma unroll
    for (int panel = 0; panel < D / PANEL; ++panel) {
        if (!has_panel(panel, dims)) break;
#pragma unroll
        for (int k = PANEL * panel; k < PANEL * (panel + 1); k += 16) {
            u32 a[TILES][4];
#pragma unroll
            for (int t = 0; t < TILES; ++t) rows.load_a(a[t], first_row + 16 * t, k);
#pragma unroll
            for (int pair = 0; pair < BLOCKS / 2; ++pair) {
                u32 b[4];
                columns.load_b(b, first + 16 * pair, k);
#pragma unroll
                for (int t = 0; t < TILES; ++t) {
                    gw::mma_m16n8k16<BF16>(sum[t][2 * pair], a[t], b[0], b[1]);
                    gw::mma_m16n8k16<BF16>(sum[t][2 * pair + 1], a[t], b[2], b[3]);
                }
            }
        }
    }
}

/// sum += weights · columns, rounding the weights; `dims` elements of each column.
template <bool BF16, int D, int STAGE, int TILES, int BLOCKS>
GW_DEVICE void add_columns(RowSums<TILES, D>& sum, const Products<TILES, BLOCKS>& weights, const Panels<D, STAGE>& columns, int first,
                           int dims) {
    u32 a[TILES][BLOCKS / 2][4];
#pragma unroll
    for (int t = 0; t < TILES; ++t)
#pragma unroll
        for (int k = 0; k < BLOCKS / 2; ++k) pack_a<BF16>(a[t][k], weights[t][2 * k], weights[t][2 * k + 1]);
#pragma unroll
    for (int panel = 0; panel < D / PANEL; ++panel) {
        if (!has_panel(panel, dims)) break;
#pragma unroll
        for (int x = PANEL * panel; x < PANEL * (panel + 1); x += 16)
#pragma unroll
            for (int k = 0; k < BLOCKS / 2; ++k) {
                u32 b[4];
                columns.load_b_turned(b, first + 16 * k, x);
#pragma unroll
                for (int t = 0; t < TILES; ++t) {
                    gw::mma_m16n8k16<BF16>(sum[t][x / 8], a[t][k], b[0], b[1]);
                    gw::mma_m16n8k16<BF16>(sum[t][x / 8 + 1], a[t][k], b[2], b[3]);
                }
            }
    }
}

/// Which elements of a rectangle of queries and keys take part, by position and length.
enum class Seen { None, Some, All };

GW_DEVICE Seen seen_of(const Call& c, const Span& s, int query, int queries, int key, int keys) {
    const int last_query = query + queries - 1, last_key = key + keys - 1;
    const int least = key - (s.offset + last_query), most = last_key - (s.offset + query);
    if (query >= s.q_len || key >= s.kv || least > c.right || most < -c.left) return Seen::None;
    const bool all = last_query < s.q_len && last_key < s.kv && least >= -c.left && most <= c.right;
    return all ? Seen::All : Seen::Some;
}

/// Where to_weights is: the sample, its heads and the first row and column of the warp's products.
struct Corner {
    int b, h, query, key;
    Seen seen;
};

/// What a thread's elements of a warp's queries add up to besides dq: of each row, for its scale, and of all.
template <int TILES>
struct ElementSums {
    float gate[2 * TILES];
    float alibi, coefficient;
};

/// What one element adds to them. What is not seen adds 0, whatever it is.
struct ElementParts {
    float gate, alibi, coefficient;
};

/// One element of a call without options: `p` becomes the weight of grad_o, `dp` that of the other side.
GW_DEVICE ElementParts to_weight(float& p, float& dp, const Call& c, const Span& s, const Corner& at, int query, int key,
                                 const QueryTerms<float>& terms) {
    const float factor = static_cast<float>(c.coefficient) * gw::LOG2_E;
    const float weight = gw::exp2_approx(gw::fma(p, factor, -terms.lse_log2));
    const float by_gate = weight * dp, by_score = weight * gw::fma(terms.gate, dp, -terms.delta), by_coefficient = by_score * p;
    const int ahead = key - (s.offset + query);
    const bool seen =
        at.seen == Seen::All || (query < s.q_len && key < s.kv && ahead >= -c.left && ahead <= c.right);
    p = seen ? weight * terms.gate : 0.0f;
    dp = seen ? by_score : 0.0f;
    return {seen ? by_gate : 0.0f, 0.0f, seen ? by_coefficient : 0.0f};
}

/// The same with options, of which `x` holds both products.
GW_DEVICE ElementParts to_weight(float2& x, const Call& c, const Span& s, const philox::Stream& stream, const Corner& at,
                                 int query, int key, float alibi, const QueryTerms<float>& terms) {
    const float u = x.x, score = static_cast<float>(c.coefficient) * u;
    const Element<float> e = differentiate(c, s, stream, at.b, at.h, query, key, score, alibi, terms, x.y);
    const float kept = c.dropout ? static_cast<float>(c.keep_scale) : 1.0f;
    x.x = e.seen && e.kept ? e.weight * terms.gate * kept : 0.0f;
    x.y = e.seen ? e.by_score : 0.0f;
    if (!e.seen) return {0.0f, 0.0f, 0.0f};
    return {e.gate, -e.by_logit * e.distance, e.by_score * u};
}

/// A thread's products go to shared memory and back, so that the long code of the options is there once and not for each of them.
/// Slot 2·BLOCKS·r + 2n + x holds element x of row r (of two a tile) of block n.
template <int TILES, int BLOCKS>
GW_DEVICE void put_products(Shared<float2> slots, const Products<TILES, BLOCKS>& p, const Products<TILES, BLOCKS>& dp) {
#pragma unroll
    for (int e = 0; e < TILES * BLOCKS * 4; ++e) {
        const int t = e / (4 * BLOCKS), i = 2 * (e / (2 * BLOCKS) % 2) + e % 2, n = e / 2 % BLOCKS;
        slots[e * THREADS + threadIdx.x] = make_float2(p[t][n][i], dp[t][n][i]);
    }
}
template <int TILES, int BLOCKS>
GW_DEVICE void take_products(Products<TILES, BLOCKS>& p, Products<TILES, BLOCKS>& dp, Shared<float2> slots) {
#pragma unroll
    for (int e = 0; e < TILES * BLOCKS * 4; ++e) {
        const int t = e / (4 * BLOCKS), i = 2 * (e / (2 * BLOCKS) % 2) + e % 2, n = e / 2 % BLOCKS;
        const float2 x = slots[e * THREADS + threadIdx.x];
        p[t][n][i] = x.x, dp[t][n][i] = x.y;
    }
}

/// From products to weights, where rows are keys; the terms are those of column `first` on of the stage.
template <bool OPTIONS, int TILES, int BLOCKS, typename Tiles>
GW_DEVICE void to_weights_of_queries(Products<TILES, BLOCKS>& p, Products<TILES, BLOCKS>& dp, const Call& c, const Span& s,
                                     const philox::Stream& stream, const Corner& at, const Tiles& tiles, int buffer, int first,
                                     bool has_delta) {
    const int g = fragment_row(), t2 = fragment_column();
    if constexpr (OPTIONS) {
        const float alibi = alibi_of<float>(c, at.h);
        const Shared<float2> slots = tiles.products();
        put_products(slots, p, dp);
#pragma unroll 1
        for (int e = 0; e < TILES * BLOCKS * 4; ++e) {
            const int column = 8 * (e / 2 % BLOCKS) + t2 + e % 2;
            float2 x = slots[e * THREADS + threadIdx.x];
            to_weight(x, c, s, stream, at, at.query + column, at.key + 8 * (e / (2 * BLOCKS)) + g, alibi,
                      tiles.terms_of(c, buffer, first + column, has_delta));
            slots[e * THREADS + threadIdx.x] = x;
        }
        take_products(p, dp, slots);
    } else {
#pragma unroll
        for (int n = 0; n < BLOCKS; ++n)
#pragma unroll
            for (int x = 0; x < 2; ++x) {
                const int column = 8 * n + t2 + x;
                const QueryTerms<float> terms = tiles.terms_of(c, buffer, first + column, has_delta);
#pragma unroll
                for (int r = 0; r < 2 * TILES; ++r)
                    to_weight(p[r / 2][n][2 * (r % 2) + x], dp[r / 2][n][2 * (r % 2) + x], c, s, at, at.query + column,
                              at.key + 8 * r + g, terms);
            }
    }
}

/// The same where rows are queries, the warp's from `first` on; `sums` gets what else the elements are good for.
template <bool OPTIONS, int TILES, int BLOCKS, typename Tiles>
GW_DEVICE void to_weights_of_keys(Products<TILES, BLOCKS>& p, Products<TILES, BLOCKS>& dp, const Call& c, const Span& s,
                                  const philox::Stream& stream, const Corner& at, const Tiles& tiles, int first,
                                  ElementSums<TILES>& sums) {
    const int g = fragment_row(), t2 = fragment_column();
    if constexpr (OPTIONS) {
        const float alibi = alibi_of<float>(c, at.h);
        const Shared<float2> slots = tiles.products();
        put_products(slots, p, dp);
#pragma unroll 1
        for (int e = 0; e < TILES * BLOCKS * 4; ++e) {
            const int row = 8 * (e / (2 * BLOCKS)) + g;
            float2 x = slots[e * THREADS + threadIdx.x];
            const ElementParts parts = to_weight(x, c, s, stream, at, at.query + row, at.key + 8 * (e / 2 % BLOCKS) + t2 + e % 2,
                                                 alibi, tiles.terms_of(c, 0, first + row, true));
            slots[e * THREADS + threadIdx.x] = x;
#pragma unroll
            for (int r = 0; r < 2 * TILES; ++r)
                if (e / (2 * BLOCKS) == r) sums.gate[r] += parts.gate;
            sums.alibi += parts.alibi;
            sums.coefficient += parts.coefficient;
        }
        take_products(p, dp, slots);
    } else {
#pragma unroll
        for (int r = 0; r < 2 * TILES; ++r) {
            const QueryTerms<float> terms = tiles.terms_of(c, 0, first + 8 * r + g, true);
#pragma unroll
            for (int n = 0; n < BLOCKS; ++n)
#pragma unroll
                for (int x = 0; x < 2; ++x) {
                    const ElementParts parts = to_weight(p[r / 2][n][2 * (r % 2) + x], dp[r / 2][n][2 * (r % 2) + x], c, s, at,
                                                         at.query + 8 * r + g, at.key + 8 * n + t2 + x, terms);
                    sums.gate[r] += parts.gate;
                    sums.coefficient += parts.coefficient;
                }
        }
    }
}

/// Writes `factor` times the warp's sums to rows first.. of which `count` exist. A row that is not finite is not written but
/// named in the result, bit r for the warp's row r: 0 · ∞ of what is masked may have got into it.
template <int TILES, int D>
GW_DEVICE u32 put_sums(void* base, const Call& c, const Matrix& m, int first, int count, int dims, const RowSums<TILES, D>& sum,
                       float factor) {
    const int lane = threadIdx.x % 32;
    u32 left = 0;
#pragma unroll
    for (int t = 0; t < TILES; ++t)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = 16 * t + 8 * half + lane / 4;
            bool finite = true;
#pragma unroll
            for (int n = 0; n < D / 8; ++n)
                finite = finite && gw::is_finite(sum[t][n][2 * half]) && gw::is_finite(sum[t][n][2 * half + 1]);
            const u32 poisoned = gw::ballot(!finite && row < count);
            if (poisoned != 0)
                for (int g = 0; g < 8; ++g)
                    if ((poisoned >> (4 * g) & 15u) != 0) left |= 1u << (16 * t + 8 * half + g);
            if (row >= count || (left >> row & 1u) != 0) continue;
            const i64 to = row_at(c, m, first + row);
#pragma unroll
            for (int n = 0; n < D / 8; ++n) {
                const int column = 8 * n + 2 * (lane % 4);
                const float x = sum[t][n][2 * half] * factor, y = sum[t][n][2 * half + 1] * factor;
                if (m.vectors && column + 1 < dims) {
                    const u32 pair = c.type == BF16 ? gw::pack16<true>(x, y) : gw::pack16<false>(x, y);
                    gw::store_global(reinterpret_cast<u32*>(static_cast<u16*>(base) + to + column), pair);
                } else {
                    if (column < dims) store_number(base, to + column, c.type, x);
                    if (column + 1 < dims) store_number(base, to + column + 1, c.type, y);
                }
            }
        }
    return left;
}

/// The warp's product of a row of one matrix and a row of another.
GW_DEVICE float warp_product(const void* a, i64 a_row, const void* b, i64 b_row, const Call& c, int dims) {
    float sum = 0.0f;
#pragma unroll 1
    for (int d = threadIdx.x % 32; d < dims; d += 32)
        sum = gw::fma(load_number(a, a_row + d, c.type, 0.0f), load_number(b, b_row + d, c.type, 0.0f), sum);
    return warp_sum(sum);
}

/// sum += weight · row; lane x has columns x, x + 32, …
template <int COUNT>
GW_DEVICE void add_row(float (&sum)[COUNT], float weight, const void* base, i64 row, const Call& c, int dims) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int x = 0; x < COUNT; ++x)
        if (lane + 32 * x < dims) sum[x] = gw::fma(weight, load_number(base, row + lane + 32 * x, c.type, 0.0f), sum[x]);
}

template <int COUNT>
GW_DEVICE void put_lanes(void* base, i64 row, const float (&sum)[COUNT], const Call& c, int dims, float factor) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int x = 0; x < COUNT; ++x)
        if (lane + 32 * x < dims) store_number(base, row + lane + 32 * x, c.type, sum[x] * factor);
}

/// Gradients of single rows of a work item, by a warp, from the inputs themselves and without what is masked.
struct RowByRow {
    const GeneralBackwardParams& params;
    const Item& item;
    const philox::Stream& stream;
    const void *q, *k, *v, *grad_o;
    const float *lse, *delta;

    GW_DEVICE i64 at(const Strides& steps, int h, int row) const {
        return item.b * steps.batch + h * steps.head + row * steps.row;
    }

    GW_DEVICE Element<float> element(int h, int i, i64 q_row, i64 grad_row, int j, i64 k_row, i64 v_row) const {
        const Call& c = params.call;
        const float score = static_cast<float>(c.coefficient) * warp_product(q, q_row, k, k_row, c, c.head_dim);
        const float dp = warp_product(grad_o, grad_row, v, v_row, c, c.value_dim);
        const QueryTerms<float> terms = query_terms<float>(params, item.s, lse, delta, item.b, h, i);
        return differentiate(c, item.s, stream, item.b, h, i, j, score, alibi_of<float>(c, h), terms, dp);
    }

    /// dq of query `i`.
    template <int COUNT>
    GW_DEVICE void query(int i, void* dq) const {
        const Call& c = params.call;
        const int h = item.head, kv_head = h / (c.q_heads / c.kv_heads), row = item.s.q_first + i;
        const Range keys = keys_in_sight(c, item.s, i, i);
        float sum[COUNT] = {};
#pragma unroll 1
        for (int j = keys.begin; j < keys.end; ++j) {
            const i64 k_row = at(c.k, kv_head, item.s.k_first + j), v_row = at(c.v, kv_head, item.s.k_first + j);
            const Element<float> e = element(h, i, at(c.q, h, row), at(params.grad_o, h, row), j, k_row, v_row);
            if (e.seen) add_row(sum, e.by_score, k, k_row, c, c.head_dim);
        }
        put_lanes(dq, at(params.dq, h, row), sum, c, c.head_dim, static_cast<float>(c.coefficient));
    }

    /// dk, dv or both of key `j`, or of a slot beyond the keys.
    template <int COUNT>
    GW_DEVICE void key(int j, void* dk, void* dv) const {
        const Call& c = params.call;
        const int group = c.q_heads / c.kv_heads, row = item.s.k_first + j;
        const Range queries = j < item.s.kv ? queries_in_sight(c, item.s, j, j) : Range{0, 0};
        const i64 k_row = at(c.k, item.head, row), v_row = at(c.v, item.head, row);
        float of_key[COUNT] = {}, of_value[COUNT] = {};
#pragma unroll 1
        for (int h = item.head * group; h < (item.head + 1) * group; ++h) {
            if (c.active && gw::load_global_cached(c.active + static_cast<i64>(item.b) * c.q_heads + h) == 0) continue;
#pragma unroll 1
            for (int i = queries.begin; i < queries.end; ++i) {
                const i64 q_row = at(c.q, h, item.s.q_first + i), grad_row = at(params.grad_o, h, item.s.q_first + i);
                const Element<float> e = element(h, i, q_row, grad_row, j, k_row, v_row);
                if (!e.seen) continue;
                const float gate = c.row_scale ? load_term<float>(c.row_scale, at(c.row_scale_at, h, item.s.q_first + i)) : 1.0f;
                const float kept = c.dropout ? static_cast<float>(c.keep_scale) : 1.0f;
                if (dk) add_row(of_key, e.by_score, q, q_row, c, c.head_dim);
                if (dv && e.kept) add_row(of_value, e.weight * gate * kept, grad_o, grad_row, c, c.value_dim);
            }
        }
        if (dk) put_lanes(dk, at(params.dk, item.head, row), of_key, c, c.head_dim, static_cast<float>(c.coefficient));
        if (dv) put_lanes(dv, at(params.dv, item.head, row), of_value, c, c.value_dim, 1.0f);
    }
};

}  // namespace attention
