// backward_mma.cuh: the two kernels that attention/backward_mma_*.cu compile for their types and dimensions.
//
// Where keys are rows, p and dz are the left operands of dv and dk as they come out of the first products: nothing but the
// streamed tiles passes through shared memory. A warp of 16 rows reads a right operand for every two products, one of 32 rows
// for every four; at D = 128 the sums of dk and dv leave registers for 16 rows, and for 32 rows of dq, or of dk and dv at
// D = 64, for the products of 16 columns: 32 columns spilt. At D = 256 dk and dv are summed by a launch each.
#pragma once
#include "attention/gradients.cuh"

namespace attention {

/// Threads of a block.
constexpr int GRADIENT_THREADS = 128;
static_assert(GRADIENT_THREADS == THREADS, "tile.cuh lays rows out for this many");

/// Columns that `fill` fills.
constexpr int FILLED = VALUE_CHUNKS * Chunk<float>::WIDTH;

template <bool BF16_TYPE, bool OPTIONS, int D, int TILES, int STAGE, int BLOCKS>
GW_DEVICE void dq_mma(Shared<u16> shared, const void* q, const void* k, const void* v, const void* grad_o, const float* lse,
                      const float* delta, const uint4* spans, void* dq, float* drow_scale, float* terms,
                      const GeneralBackwardParams& params) {
    typedef GradientTiles<false, D, TILES, STAGE, BLOCKS> Tiles;
    constexpr int ROWS = Tiles::ROWS, OWN = 16 * TILES, STEP = 8 * BLOCKS;
    const Call& c = params.call;
    const Tiles tiles{shared};
    const int warp = threadIdx.x / 32;
    const philox::Stream stream = OPTIONS && c.dropout ? stream_of(c) : c.stream;
#pragma unroll 1
    for (i64 index = blockIdx.x;; index += gridDim.x) {
        // Opaque: what is the same for all items is not kept in registers.
        const i64 pairs = static_cast<i64>(gw::opaque(c.batch)) * c.q_heads;
        const int per_pair = (gw::opaque(c.q_len) + ROWS - 1) / ROWS;
        if (index >= pairs * per_pair) break;
        const i64 pair = pair_at(c.order, index / per_pair);
        if (pair >= pairs) continue;
        const int first_row = (per_pair - 1 - static_cast<int>(index % per_pair)) * ROWS;
        const Strides& scale_at = params.drow_scale;
        const auto scale_row = [&](const Item& x, int row) {
            return x.b * scale_at.batch + x.head * scale_at.head + static_cast<i64>(x.s.q_first + first_row + row) * scale_at.row;
        };
        // A warp's sums over its rows: of slopes, of the coefficient, of the sink.
        const auto put_terms = [&](float alibi, float coefficient, float sink) {
            const i64 tile = pair * per_pair + first_row / ROWS;
            if (threadIdx.x % 32 == 0)
                gw::store_global(reinterpret_cast<float4*>(terms) + tile * WARPS + warp, make_float4(alibi, coefficient, sink, 0.0f));
        };
        {
            const int b = static_cast<int>(pair / c.q_heads), h = static_cast<int>(pair % c.q_heads);
            const Item x = {load_span(spans, b), b, h, {0, 0}};
            const int rows = max(min(ROWS, x.s.q_len - first_row), 0);
            const bool active = index < active_count(c.counts, 0, pairs) * per_pair;
            if (!active || !x.s.valid || rows == 0) {
                const float nothing = active && !x.s.valid ? NAN : 0.0f;
                const Matrix gradients = matrix(dq, params.dq, b, h, x.s.q_first, false);
                for (int from = 0; dq && from < D; from += FILLED) fill<float>(dq, c, gradients, first_row, rows, from, c.head_dim, nothing);
                if (drow_scale && active)
                    for (int row = threadIdx.x; row < rows; row += THREADS)
                        gw::store_global(drow_scale + scale_row(x, row), nothing);
                if (terms) put_terms(nothing, nothing, nothing);
                continue;
            }
            tiles.begin(x.s, b, h, tiles_of(keys_in_sight(c, x.s, first_row, first_row + rows - 1), STAGE));
        }
        const auto bring = [&](int step, int buffer) {
            const Item x = tiles.item();
            const int first = step * STAGE, count = min(STAGE, x.s.kv - first), kv_head = x.head / (c.q_heads / c.kv_heads);
            stage_rows<THREADS>(tiles.columns(0, buffer), c, key_matrix(c, k, c.k, x.b, kv_head, x.s, c.vectors & K), first,
                                count, c.head_dim);
            stage_rows<THREADS>(tiles.columns(1, buffer), c, key_matrix(c, v, c.v, x.b, kv_head, x.s, c.vectors & V), first,
                                count, c.value_dim);
        };
        int step = tiles.item().steps.begin, buffer = 0;
        if (!tiles.item().steps.empty()) {
            const Item x = tiles.item();
            const int rows = min(ROWS, x.s.q_len - first_row);
            stage_rows<THREADS>(tiles.rows(0), c, matrix(q, c.q, x.b, x.head, x.s.q_first, c.vectors & Q), first_row, rows,
                                c.head_dim);
            stage_rows<THREADS>(tiles.rows(1), c, matrix(grad_o, params.grad_o, x.b, x.head, x.s.q_first, c.vectors & GRAD_O),
                                first_row, rows, c.value_dim);
            tiles.bring_terms(0, params, x, x.head, lse, delta, first_row, rows);
            bring(step, 0);
        }
        gw::cp_async_commit();

        const int query = first_row + OWN * warp;
        ElementSums<TILES> others = {};
        RowSums<TILES, D> sum = {};
#pragma unroll 1
        for (; step < tiles.item().steps.end; ++step, buffer ^= 1) {
            gw::cp_async_wait<0>();
            gw::sync_threads();  // the stage is there, and nobody reads the other buffer any more
            if (step + 1 < tiles.item().steps.end) bring(step + 1, buffer ^ 1);
            gw::cp_async_commit();
#pragma unroll 1
            for (int part = 0; part < STAGE / STEP; ++part) {
                const Item x = tiles.item();
                const int first = STEP * part, key = step * STAGE + first;
                const Corner corner = {x.b, x.head, query, key, seen_of(c, x.s, query, OWN, key, STEP)};
                if (corner.seen == Seen::None) continue;
                Products<TILES, BLOCKS> p = {}, dz = {};
                add_products<BF16_TYPE>(p, tiles.rows(0), OWN * warp, tiles.columns(0, buffer), first, c.head_dim);
                add_products<BF16_TYPE>(dz, tiles.rows(1), OWN * warp, tiles.columns(1, buffer), first, c.value_dim);
                to_weights_of_keys<OPTIONS>(p, dz, c, tiles.item().s, stream, corner, tiles, OWN * warp, others);
                if (dq) add_columns<BF16_TYPE>(sum, dz, tiles.columns(0, buffer), first, c.head_dim);
            }
        }
        gw::cp_async_wait<0>();
        const Item x = tiles.item();
        const int own_rows = x.s.q_len - query;
        if (drow_scale) {
#pragma unroll
            for (int r = 0; r < 2 * TILES; ++r) {
                const int row = 8 * r + fragment_row();
                const float total = quad_sum(others.gate[r]);
                if (row < own_rows && fragment_column() == 0)
                    gw::store_global(drow_scale + scale_row(x, OWN * warp + row), total);
            }
        }
        if (terms) {
            const float sink = c.sinks ? load_term<float>(c.sinks, x.head * c.sinks_step) * gw::LOG2_E : -INFINITY;
            float of_sink = 0.0f;
            const int lane = threadIdx.x % 32;
            if (lane < min(OWN, own_rows) && sink != -INFINITY) {  // −∞: no sink, and lse may be −∞ too
                const QueryTerms<float> row = query_terms<float>(params, x.s, lse, delta, x.b, x.head, query + lane);
                of_sink = -gw::exp2_approx(sink - row.lse_log2) * row.delta;
            }
            put_terms(warp_sum(others.alibi), warp_sum(others.coefficient), warp_sum(of_sink));
        }
        if (!dq) continue;
        const Matrix gradients = matrix(dq, params.dq, x.b, x.head, x.s.q_first, c.vectors & DQ);
        u32 left = put_sums<TILES, D>(dq, c, gradients, query, own_rows, c.head_dim, sum, static_cast<float>(c.coefficient));
        const RowByRow again = {params, x, stream, q, k, v, grad_o, lse, delta};
#pragma unroll 1
        for (int row = 0; left != 0; ++row, left >>= 1)
            if ((left & 1u) != 0) again.template query<D / 32>(query + row, dq);
    }
}

/// With ALONE either dk or dv is null, and registers hold the sums of one.
template <bool BF16_TYPE, bool OPTIONS, bool ALONE, int D, int TILES, int STAGE, int BLOCKS>
GW_DEVICE void dkv_mma(Shared<u16> shared, const void* q, const void* k, const void* v, const void* grad_o, const float* lse,
                       const float* delta, const uint4* spans, void* dk, void* dv, const GeneralBackwardParams& params) {
    typedef GradientTiles<true, D, TILES, STAGE, BLOCKS> Tiles;
    constexpr int ROWS = Tiles::ROWS, OWN = 16 * TILES, STEP = 8 * BLOCKS;
    const Call& c = params.call;
    const Tiles tiles{shared};
    const int warp = threadIdx.x / 32;
    const philox::Stream stream = OPTIONS && c.dropout ? stream_of(c) : c.stream;
#pragma unroll 1
    for (i64 index = blockIdx.x;; index += gridDim.x) {
        // Opaque: what is the same for all items is not kept in registers.
        const i64 pairs = static_cast<i64>(gw::opaque(c.batch)) * c.kv_heads;
        const int per_pair = (gw::opaque(c.kv_len) + ROWS - 1) / ROWS;
        if (index >= pairs * per_pair) break;
        const i64 pair = pair_at(c.kv_order, index / per_pair);
        if (pair >= pairs) continue;
        const int first_key = static_cast<int>(index % per_pair) * ROWS;
        {
            const int b = static_cast<int>(pair / c.kv_heads), kv_head = static_cast<int>(pair % c.kv_heads);
            const Span s = load_span(spans, b);
            const int slots = min(ROWS, s.slots - first_key), keys = max(min(ROWS, s.kv - first_key), 0);
            if (slots <= 0) continue;
            const bool active = index < active_count(c.counts, 1, pairs) * per_pair;
            if (!active || !s.valid || keys == 0) {
                const float nothing = active && !s.valid ? NAN : 0.0f;
                const auto at = [&](const Strides& steps) { return matrix(nullptr, steps, b, kv_head, s.k_first, false); };
                for (int from = 0; from < D; from += FILLED) {
                    if (dk) fill<float>(dk, c, at(params.dk), first_key, slots, from, c.head_dim, nothing);
                    if (dv) fill<float>(dv, c, at(params.dv), first_key, slots, from, c.value_dim, nothing);
                }
                continue;
            }
            tiles.begin(s, b, kv_head, tiles_of(queries_in_sight(c, s, first_key, first_key + keys - 1), STAGE));
        }
        const auto end_of = [&](const Item& x) { return x.steps.empty() ? 0 : (x.head + 1) * (c.q_heads / c.kv_heads); };
        // The first head of the group from `h` on that takes part.
        const auto next_head = [&](const Item& x, int h) {
            while (h < end_of(x) && c.active && gw::load_global_cached(c.active + static_cast<i64>(x.b) * c.q_heads + h) == 0) ++h;
            return h;
        };
        const auto bring = [&](const Item& x, int h, int step, int buffer) {
            const int first = step * STAGE, count = min(STAGE, x.s.q_len - first);
            stage_rows<THREADS>(tiles.columns(0, buffer), c, matrix(q, c.q, x.b, h, x.s.q_first, c.vectors & Q), first, count,
                                c.head_dim);
            stage_rows<THREADS>(tiles.columns(1, buffer), c, matrix(grad_o, params.grad_o, x.b, h, x.s.q_first, c.vectors & GRAD_O),
                                first, count, c.value_dim);
            tiles.bring_terms(buffer, params, x, h, lse, dk ? delta : nullptr, first, count);
        };
        int step = tiles.item().steps.begin, buffer = 0, h = 0;
        {
            const Item x = tiles.item();
            const int keys = min(ROWS, x.s.kv - first_key);
            h = next_head(x, x.head * (c.q_heads / c.kv_heads));
            if (h < end_of(x)) {
                stage_rows<THREADS>(tiles.rows(0), c, key_matrix(c, k, c.k, x.b, x.head, x.s, c.vectors & K), first_key, keys,
                                    c.head_dim);
                stage_rows<THREADS>(tiles.rows(1), c, key_matrix(c, v, c.v, x.b, x.head, x.s, c.vectors & V), first_key, keys,
                                    c.value_dim);
                bring(x, h, step, 0);
            }
        }
        gw::cp_async_commit();

        const int key = first_key + OWN * warp;
        RowSums<TILES, D> sums[ALONE ? 1 : 2] = {};
        RowSums<TILES, D>&dk_sum = sums[0], &dv_sum = sums[ALONE ? 0 : 1];
#pragma unroll 1
        while (h < end_of(tiles.item())) {
            gw::cp_async_wait<0>();
            gw::sync_threads();  // the stage is there, and nobody reads the other buffer any more
            int next = h, next_step = step + 1;
            {
                const Item x = tiles.item();
                if (next_step == x.steps.end) next = next_head(x, h + 1), next_step = x.steps.begin;
                if (next < end_of(x)) bring(x, next, next_step, buffer ^ 1);
            }
            gw::cp_async_commit();
#pragma unroll 1
            for (int part = 0; part < STAGE / STEP; ++part) {
                const Item x = tiles.item();
                const int first = STEP * part, query = step * STAGE + first;
                const Corner corner = {x.b, h, query, key, seen_of(c, x.s, query, STEP, key, OWN)};
                if (corner.seen == Seen::None) continue;
                Products<TILES, BLOCKS> p = {}, dz = {};
                add_products<BF16_TYPE>(p, tiles.rows(0), OWN * warp, tiles.columns(0, buffer), first, c.head_dim);
                if (dk) add_products<BF16_TYPE>(dz, tiles.rows(1), OWN * warp, tiles.columns(1, buffer), first, c.value_dim);
                to_weights_of_queries<OPTIONS>(p, dz, c, tiles.item().s, stream, corner, tiles, buffer, first, dk != nullptr);
                if (dv) add_columns<BF16_TYPE>(dv_sum, p, tiles.columns(1, buffer), first, c.value_dim);
                if (dk) add_columns<BF16_TYPE>(dk_sum, dz, tiles.columns(0, buffer), first, c.head_dim);
            }
            h = next, step = next_step, buffer ^= 1;
        }
        gw::cp_async_wait<0>();
        // Slots beyond the sample's keys saw nothing: their sums are 0.
        const Item x = tiles.item();
        const int own_slots = x.s.slots - key;
        u32 dk_left = 0, dv_left = 0;
        const auto at = [&](const Strides& steps, u32 bit) { return matrix(nullptr, steps, x.b, x.head, x.s.k_first, c.vectors & bit); };
        if (dk)
            dk_left = put_sums<TILES, D>(dk, c, at(params.dk, DK), key, own_slots, c.head_dim, dk_sum, static_cast<float>(c.coefficient));
        if (dv) dv_left = put_sums<TILES, D>(dv, c, at(params.dv, DV), key, own_slots, c.value_dim, dv_sum, 1.0f);
        const RowByRow again = {params, x, stream, q, k, v, grad_o, lse, dk ? delta : nullptr};
#pragma unroll 1
        for (int row = 0; (dk_left | dv_left) != 0; ++row, dk_left >>= 1, dv_left >>= 1)
            if (((dk_left | dv_left) & 1u) != 0)
                again.template key<D / 32>(key + row, (dk_left & 1u) != 0 ? dk : nullptr, (dv_left & 1u) != 0 ? dv : nullptr);
    }
}

}  // namespace attention

#define ATTENTION_DQ_MMA(TYPE, BF16_TYPE, D, TILES, STAGE, BLOCKS)                                                               \
    GW_KERNEL(attention::GRADIENT_THREADS, 2)                                                                                    \
    attention_backward_dq_mma_##TYPE##_##D(const void* q, const void* k, const void* v, const void* grad_o,                      \
                                           const float* lse, const float* delta, const uint4* spans, void* dq,                   \
                                           float* drow_scale, float* terms,                                                      \
                                           const __grid_constant__ attention::GeneralBackwardParams params) {                    \
        GW_SHARED(gw::u16, shared);                                                                                              \
        attention::dq_mma<BF16_TYPE, false, D, TILES, STAGE, BLOCKS>(shared, q, k, v, grad_o, lse, delta, spans, dq, drow_scale, \
                                                                  terms, params);                                                \
    }                                                                                                                            \
    GW_EXPORT(attention_backward_dq_mma_##TYPE##_##D)

#define ATTENTION_DKV_MMA(TYPE, BF16_TYPE, ALONE, D, TILES, STAGE, BLOCKS)                                                       \
    GW_KERNEL(attention::GRADIENT_THREADS, 2)                                                                                    \
    attention_backward_dkv_mma_##TYPE##_##D(const void* q, const void* k, const void* v, const void* grad_o,                     \
                                            const float* lse, const float* delta, const uint4* spans, void* dk, void* dv,        \
                                            const __grid_constant__ attention::GeneralBackwardParams params) {                   \
        GW_SHARED(gw::u16, shared);                                                                                              \
        attention::dkv_mma<BF16_TYPE, false, ALONE, D, TILES, STAGE, BLOCKS>(shared, q, k, v, grad_o, lse, delta, spans, dk, dv, \
                                                                          params);                                               \
    }                                                                                                                            \
    GW_EXPORT(attention_backward_dkv_mma_##TYPE##_##D)

#define ATTENTION_DQ_MMA_OPTIONS(TYPE, BF16_TYPE, D, TILES, STAGE, BLOCKS)                                                      \
    GW_KERNEL(attention::GRADIENT_THREADS, 2)                                                                                   \
    attention_backward_dq_mma_options_##TYPE##_##D(const void* q, const void* k, const void* v, const void* grad_o,             \
                                                   const float* lse, const float* delta, const uint4* spans, void* dq,          \
                                                   float* drow_scale, float* terms,                                             \
                                                   const __grid_constant__ attention::GeneralBackwardParams params) {           \
        GW_SHARED(gw::u16, shared);                                                                                             \
        attention::dq_mma<BF16_TYPE, true, D, TILES, STAGE, BLOCKS>(shared, q, k, v, grad_o, lse, delta, spans, dq, drow_scale, \
                                                                 terms, params);                                                \
    }                                                                                                                           \
    GW_EXPORT(attention_backward_dq_mma_options_##TYPE##_##D)

#define ATTENTION_DKV_MMA_OPTIONS(TYPE, BF16_TYPE, ALONE, D, TILES, STAGE, BLOCKS)                                                \
    GW_KERNEL(attention::GRADIENT_THREADS, 2)                                                                                     \
    attention_backward_dkv_mma_options_##TYPE##_##D(const void* q, const void* k, const void* v, const void* grad_o,              \
                                                    const float* lse, const float* delta, const uint4* spans, void* dk, void* dv, \
                                                    const __grid_constant__ attention::GeneralBackwardParams params) {            \
        GW_SHARED(gw::u16, shared);                                                                                               \
        attention::dkv_mma<BF16_TYPE, true, ALONE, D, TILES, STAGE, BLOCKS>(shared, q, k, v, grad_o, lse, delta, spans, dk, dv,   \
                                                                          params);                                                \
    }                                                                                                                             \
    GW_EXPORT(attention_backward_dkv_mma_options_##TYPE##_##D)

// Rows of a tile: 64 · TILES. src/manifest/attention/mma_backward.rs has the same numbers.
#define ATTENTION_BACKWARD_MMA(TYPE, BF16_TYPE)              \
    ATTENTION_DQ_MMA(TYPE, BF16_TYPE, 64, 2, 64, 4)          \
    ATTENTION_DQ_MMA(TYPE, BF16_TYPE, 128, 2, 32, 2)         \
    ATTENTION_DKV_MMA(TYPE, BF16_TYPE, false, 64, 2, 64, 2)  \
    ATTENTION_DKV_MMA(TYPE, BF16_TYPE, false, 128, 1, 32, 4)

#define ATTENTION_BACKWARD_MMA_OPTIONS(TYPE, BF16_TYPE)              \
    ATTENTION_DQ_MMA_OPTIONS(TYPE, BF16_TYPE, 64, 1, 64, 4)          \
    ATTENTION_DQ_MMA_OPTIONS(TYPE, BF16_TYPE, 128, 1, 32, 4)         \
    ATTENTION_DKV_MMA_OPTIONS(TYPE, BF16_TYPE, false, 64, 1, 64, 4)  \
    ATTENTION_DKV_MMA_OPTIONS(TYPE, BF16_TYPE, false, 128, 1, 32, 4)

#define ATTENTION_BACKWARD_MMA_256(TYPE, BF16_TYPE)         \
    ATTENTION_DQ_MMA(TYPE, BF16_TYPE, 256, 1, 16, 2)        \
    ATTENTION_DKV_MMA(TYPE, BF16_TYPE, true, 256, 1, 16, 2)
