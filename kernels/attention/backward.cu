// attention_backward_{delta,dq,dkv}_f32: gradients of attention_forward, recomputing the weights from lse, f32 FMA.
//   g = row_scale·grad_o   delta_i = Σ grad_o_i·o_i − grad_lse_i   p = exp(scale·q·kᵀ − lse)   dp = grad_o·vᵀ
//   ds = p·(row_scale·dp − delta)·scale   dq = ds·k   dk = dsᵀ·q   dv = pᵀ·g   drow_scale_i = Σ_j p_ij·dp_ij
// Shapes    as forward.cu; grad_o as o; grad_lse, drow_scale as lse; delta [b,hq,sq] contiguous; kv_order [b·hk]; active [b,hq];
//           outputs and lists that are null are not computed, not used
// Mapping   delta: a warp a row. dq: work items (pair, query tile) as in forward.cu. dkv: work items (key pair, key tile), the
//           block sums over the group's query heads and their tiles in ascending order: no atomics, the same bits every run.
//           Block 128 = 8 × 16; tiles 64 × 64 (32 × 32 at D = 128); both kernels keep one side's two tiles, stream the other's
// Shared    2·ROWS·D + 2·COLUMNS·D + ROWS·COLUMNS floats: 48 KiB at D = 32, 80 KiB at 64, 68 KiB at 128 (two blocks an SM on
//           sm_80). Swizzled, no bank conflicts: tile.cuh
// Traffic   dq: q, grad_o, dq once, k and v once per query tile. dkv: k, v, dk, dv once, q and grad_o once per key tile
//           FLOPs per visible pair: dq 2·(2·dk + dv), dkv 4·(dk + dv)
// Numerics  f32 accumulate, base-2 exponent; a query without keys gives zeros; a masked NaN never enters: selects on the scores,
//           terms left out of the sums in tiles that the causal diagonal crosses; keys ≥ kv_len get zeros by select
// Host      rejects dk, dv > 128 and lengths > 2^30 − 64
// Twin      src/attention/cpu.rs        Source  arXiv:2307.08691, algorithm 2, split in two passes
#include "device.cuh"
#include "attention/tile.cuh"

namespace attention {

struct BackwardParams {
    Problem problem;
    Strides o, grad_o, lse, grad_lse, dq, dk, dv, drow_scale;
};

/// What the streaming side's shared memory is divided into.
template <int D, int ROWS, int COLUMNS>
struct Tiles {
    Shared<float> kept_a, kept_b;          // ROWS × D each
    Shared<float> streamed_a, streamed_b;  // COLUMNS × D each, by slots
    Shared<float> weights;                 // ROWS × COLUMNS

    GW_DEVICE explicit Tiles(Shared<float> shared)
        : kept_a(shared.slice(0, ROWS * D)),
          kept_b(shared.slice(ROWS * D, ROWS * D)),
          streamed_a(shared.slice(2 * ROWS * D, COLUMNS * D)),
          streamed_b(shared.slice((2 * ROWS + COLUMNS) * D, COLUMNS * D)),
          weights(shared.slice(2 * (ROWS + COLUMNS) * D, ROWS * COLUMNS)) {}
};

/// What a query row brings besides q and grad_o. A row without keys has lse = −∞, and no weight of it is looked at.
struct RowTerms {
    float lse_log2, delta, gate;

    GW_DEVICE RowTerms() : lse_log2(0.0f), delta(0.0f), gate(0.0f) {}
    GW_DEVICE RowTerms(const BackwardParams& params, const float* lse, const float* delta_of, const float* row_scale,
                       int b, int h, int row) {
        const Problem& p = params.problem;
        lse_log2 = gw::load_global_cached(matrix_of(lse, params.lse, b, h, row)) * gw::LOG2_E;
        const i64 pair = static_cast<i64>(b) * p.q_heads + h;
        delta = delta_of ? gw::load_global_cached(delta_of + pair * p.q_len + row) : 0.0f;
        gate = row_scale ? gw::load_global_cached(matrix_of(row_scale, p.row_scale, b, h, row)) : 1.0f;
    }
};

// ------------------------------------------------------------------------------------------------------------ delta

GW_DEVICE void backward_delta(const float* o, const float* grad_o, const float* grad_lse, const u32* order, const u32* counts,
                     float* delta_of, const BackwardParams& params) {
    constexpr int WARP = 32;
    const Problem& p = params.problem;
    const int lane = threadIdx.x % WARP;
    const i64 pairs = static_cast<i64>(p.batch) * p.q_heads;
    const i64 rows = active_count(counts, 0, pairs) * p.q_len;
    const i64 warps = static_cast<i64>(gridDim.x) * (THREADS / WARP);
    for (i64 item = static_cast<i64>(blockIdx.x) * (THREADS / WARP) + threadIdx.x / WARP; item < rows; item += warps) {
        const i64 pair = pair_at(order, item / p.q_len);
        if (pair >= pairs) continue;
        const int b = static_cast<int>(pair / p.q_heads), h = static_cast<int>(pair % p.q_heads);
        const int row = static_cast<int>(item % p.q_len);
        const float* o_row = matrix_of(o, params.o, b, h, row);
        const float* grad_row = matrix_of(grad_o, params.grad_o, b, h, row);
        float sum = 0.0f;
        for (int d = lane; d < p.value_dim; d += WARP)
            sum = gw::fma(gw::load_global_cached(o_row + d), gw::load_global_cached(grad_row + d), sum);
        for (int distance = WARP / 2; distance > 0; distance /= 2) sum += gw::shuffle_xor(sum, distance);
        if (lane != 0) continue;
        if (grad_lse) sum -= gw::load_global_cached(matrix_of(grad_lse, params.grad_lse, b, h, row));
        gw::store_global(delta_of + pair * p.q_len + row, sum);
    }
}

// --------------------------------------------------------------------------------------------------------------- dq

template <int D, int ROWS, int COLUMNS>
GW_DEVICE void backward_dq(Shared<float> shared, const float* q, const float* k, const float* v, const float* grad_o,
                  const float* lse, const float* delta_of, const float* row_scale, const u32* kv_len,
                  const u32* query_offset, const u32* order, const u32* counts, float* dq, float* drow_scale,
                  u32* status, const BackwardParams& params) {
    constexpr int PER_Y = ROWS / LANES_Y, PER_X = COLUMNS / LANES_X;
    const Problem& p = params.problem;
    const int tx = threadIdx.x % LANES_X, ty = threadIdx.x / LANES_X;
    const Tiles<D, ROWS, COLUMNS> tiles(shared);
    const float scale_log2 = p.scale * gw::LOG2_E;

    const i64 pairs = static_cast<i64>(p.batch) * p.q_heads;
    const int row_tiles = (p.q_len + ROWS - 1) / ROWS;
    const i64 active_items = active_count(counts, 0, pairs) * row_tiles;
    for (i64 item = blockIdx.x; item < pairs * row_tiles; item += gridDim.x) {
        const i64 pair = pair_at(order, item / row_tiles);
        if (pair >= pairs) continue;
        const int b = static_cast<int>(pair / p.q_heads), h = static_cast<int>(pair % p.q_heads);
        const int kv_head = h / (p.q_heads / p.kv_heads);
        const int first_row = (row_tiles - 1 - static_cast<int>(item % row_tiles)) * ROWS;
        const int rows = min(ROWS, p.q_len - first_row);
        if (item >= active_items) {
            if (dq)
                fill_rows<D>(matrix_of(dq, params.dq, b, h, first_row), params.dq.row, rows, p.head_dim,
                             p.vectors & DQ, 0.0f);
            continue;
        }
        const Sample sample = read_sample(p, b, kv_len, query_offset, status);
        if (!sample.valid) {
            if (dq)
                fill_rows<D>(matrix_of(dq, params.dq, b, h, first_row), params.dq.row, rows, p.head_dim,
                             p.vectors & DQ, NAN);
            if (drow_scale && static_cast<int>(threadIdx.x) < rows)
                gw::store_global(matrix_of(drow_scale, params.drow_scale, b, h, first_row + threadIdx.x), NAN);
            continue;
        }
        const i32 last = last_position(p, sample, first_row + ty);  // of row i: last + 8i
        const int steps = visible_tiles(p, sample, first_row + rows - 1, COLUMNS);
        const float* k_rows = matrix_of(k, p.k, b, kv_head, 0);
        const float* v_rows = matrix_of(v, p.v, b, kv_head, 0);
        float sum[PER_Y][Columns<D>::COUNT] = {};
        float gate_sum[PER_Y] = {};
        RowTerms terms[PER_Y];
        for (int i = 0; i < PER_Y; ++i) {
            const int row = ty + LANES_Y * i;
            if (row < rows) terms[i] = RowTerms(params, lse, delta_of, row_scale, b, h, first_row + row);
        }
        if (steps > 0) {
            // Free to overwrite: the last barrier of the item before came after every read of these four tiles.
            stage<D, ROWS, 1>(tiles.kept_a, matrix_of(q, p.q, b, h, first_row), p.q.row, rows, p.head_dim,
                              p.vectors & Q);
            stage<D, ROWS, 1>(tiles.kept_b, matrix_of(grad_o, params.grad_o, b, h, first_row), params.grad_o.row, rows,
                              p.value_dim, p.vectors & GRAD_O);
            stage<D, COLUMNS, PER_X>(tiles.streamed_b, v_rows, p.v.row, sample.kv, p.value_dim, p.vectors & V);
            gw::cp_async_commit();
            stage<D, COLUMNS, PER_X>(tiles.streamed_a, k_rows, p.k.row, sample.kv, p.head_dim, p.vectors & K);
            gw::cp_async_commit();
        }
        for (int step = 0; step < steps; ++step) {
            const int first_key = step * COLUMNS, next = first_key + COLUMNS;
            const int keys = min(COLUMNS, sample.kv - first_key);
            gw::cp_async_wait<1>();
            gw::sync_threads();  // v has landed; of k, one group may be under way
            float dp[PER_Y][PER_X];
            scores<D>(dp, tiles.kept_b, tiles.streamed_b, chunks_of(p.value_dim));
            gw::cp_async_wait<0>();
            gw::sync_threads();  // k has landed, and nobody reads v any more
            if (step + 1 < steps)
                stage<D, COLUMNS, PER_X>(tiles.streamed_b, v_rows + next * p.v.row, p.v.row, sample.kv - next,
                                         p.value_dim, p.vectors & V);
            gw::cp_async_commit();
            float z[PER_Y][PER_X];
            scores<D>(z, tiles.kept_a, tiles.streamed_a, chunks_of(p.head_dim));
#pragma unroll
            for (int i = 0; i < PER_Y; ++i) {
#pragma unroll
                for (int j = 0; j < PER_X; ++j) {
                    const int key = first_key + PER_X * tx + j;
                    const bool seen = key < sample.kv && key <= last + LANES_Y * i;
                    const float weight = gw::exp2_approx(gw::fma(z[i][j], scale_log2, -terms[i].lse_log2));
                    const float ds = weight * gw::fma(terms[i].gate, dp[i][j], -terms[i].delta);
                    // Both by select: behind a mask z and dp may be NaN.
                    gate_sum[i] += seen ? weight * dp[i][j] : 0.0f;
                    z[i][j] = seen ? ds * p.scale : 0.0f;
                }
            }
            if (dq) {
                store_weights<COLUMNS>(tiles.weights, z);
                gw::sync_warp();  // a row of weights is written and read by one half-warp
                const bool crossed = first_key + keys - 1 > last_position(p, sample, first_row);
                accumulate_if<D, COLUMNS, PER_X, Mask::UpTo>(crossed, sum, tiles.weights, tiles.streamed_a, keys,
                                                             p.head_dim, last - first_key);
            }
            gw::sync_threads();  // nobody reads k any more
            if (step + 1 < steps)
                stage<D, COLUMNS, PER_X>(tiles.streamed_a, k_rows + next * p.k.row, p.k.row, sample.kv - next,
                                         p.head_dim, p.vectors & K);
            gw::cp_async_commit();
        }
#pragma unroll
        for (int i = 0; i < PER_Y; ++i) {
            const int row = ty + LANES_Y * i;
            const float gate_gradient = sum_over_lanes(gate_sum[i]);
            if (row >= rows) continue;
            if (dq)
                store_row<D>(matrix_of(dq, params.dq, b, h, first_row + row), sum[i], p.head_dim, p.vectors & DQ);
            if (drow_scale && tx == 0)
                gw::store_global(matrix_of(drow_scale, params.drow_scale, b, h, first_row + row), gate_gradient);
        }
    }
}

// ----------------------------------------------------------------------------------------------------------- dk, dv

/// The query tiles that a key tile meets: heads of the group in order, active ones only, each from its first tile.
struct Cursor {
    int head, tile, end_head, first_tile, end_tile;
    const u32* active;  // of the sample; null: all

    GW_DEVICE bool done() const { return head >= end_head; }
    GW_DEVICE void skip_inactive() {
        while (active && head < end_head && gw::load_global_cached(active + head) == 0) ++head;
    }
    GW_DEVICE void advance() {
        if (++tile < end_tile) return;
        tile = first_tile;
        ++head;
        skip_inactive();
    }
};

template <int D, int ROWS, int COLUMNS>
GW_DEVICE void backward_dkv(Shared<float> shared, const float* q, const float* k, const float* v, const float* grad_o,
                   const float* lse, const float* delta_of, const float* row_scale, const u32* kv_len,
                   const u32* query_offset, const u32* kv_order, const u32* counts, const u32* active, float* dk,
                   float* dv, u32* status, const BackwardParams& params) {
    constexpr int PER_Y = ROWS / LANES_Y, PER_X = COLUMNS / LANES_X;
    const Problem& p = params.problem;
    const int tx = threadIdx.x % LANES_X, ty = threadIdx.x / LANES_X;
    const Tiles<D, ROWS, COLUMNS> tiles(shared);
    const float scale_log2 = p.scale * gw::LOG2_E;
    const int group = p.q_heads / p.kv_heads;

    const i64 pairs = static_cast<i64>(p.batch) * p.kv_heads;
    const int key_tiles = (p.kv_slots + ROWS - 1) / ROWS;
    const i64 active_items = active_count(counts, 1, pairs) * key_tiles;
    for (i64 item = blockIdx.x; item < pairs * key_tiles; item += gridDim.x) {
        const i64 pair = pair_at(kv_order, item / key_tiles);
        if (pair >= pairs) continue;
        const int b = static_cast<int>(pair / p.kv_heads), kv_head = static_cast<int>(pair % p.kv_heads);
        const int first_key = static_cast<int>(item % key_tiles) * ROWS;
        const int slots = min(ROWS, p.kv_slots - first_key);
        const bool used = item < active_items;
        const Sample sample = used ? read_sample(p, b, kv_len, query_offset, status) : Sample{0, 0, true};
        if (first_key >= sample.kv) {  // no such keys, or an invalid length
            const float value = sample.valid ? 0.0f : NAN;
            if (dk)
                fill_rows<D>(matrix_of(dk, params.dk, b, kv_head, first_key), params.dk.row, slots, p.head_dim,
                             p.vectors & DK, value);
            if (dv)
                fill_rows<D>(matrix_of(dv, params.dv, b, kv_head, first_key), params.dv.row, slots, p.value_dim,
                             p.vectors & DV, value);
            continue;
        }
        const int keys = min(ROWS, sample.kv - first_key);
        // The first query that sees the tile's first key; the diagonal crosses tiles until every query sees the last.
        const int first_row = p.causal ? max(0, first_key - sample.offset) : 0;
        const int row_tiles = (p.q_len + COLUMNS - 1) / COLUMNS;
        Cursor next = {kv_head * group, first_row / COLUMNS, (kv_head + 1) * group, first_row / COLUMNS, row_tiles,
                       active ? active + static_cast<i64>(b) * p.q_heads : nullptr};
        if (next.first_tile >= row_tiles) next.head = next.end_head;
        next.skip_inactive();

        float dk_sum[PER_Y][Columns<D>::COUNT] = {}, dv_sum[PER_Y][Columns<D>::COUNT] = {};
        const auto stage_grad_o = [&](const Cursor& at) {
            const int row = at.tile * COLUMNS;
            stage<D, COLUMNS, PER_X>(tiles.streamed_b, matrix_of(grad_o, params.grad_o, b, at.head, row),
                                     params.grad_o.row, p.q_len - row, p.value_dim, p.vectors & GRAD_O);
        };
        const auto stage_q = [&](const Cursor& at) {
            const int row = at.tile * COLUMNS;
            stage<D, COLUMNS, PER_X>(tiles.streamed_a, matrix_of(q, p.q, b, at.head, row), p.q.row, p.q_len - row,
                                     p.head_dim, p.vectors & Q);
        };
        if (!next.done()) {
            // Free to overwrite: the last barrier of the item before came after every read of these four tiles.
            if (dk)
                stage<D, ROWS, 1>(tiles.kept_b, matrix_of(v, p.v, b, kv_head, first_key), p.v.row, keys, p.value_dim,
                                  p.vectors & V);
            stage_grad_o(next);
            gw::cp_async_commit();
            stage<D, ROWS, 1>(tiles.kept_a, matrix_of(k, p.k, b, kv_head, first_key), p.k.row, keys, p.head_dim,
                              p.vectors & K);
            stage_q(next);
            gw::cp_async_commit();
        }
        while (!next.done()) {
            const Cursor at = next;
            next.advance();
            const int row = at.tile * COLUMNS;
            const int rows = min(COLUMNS, p.q_len - row);
            RowTerms terms[PER_X];
            for (int j = 0; j < PER_X; ++j) {
                const int mine = PER_X * tx + j;
                if (mine < rows) terms[j] = RowTerms(params, lse, delta_of, row_scale, b, at.head, row + mine);
            }
            gw::cp_async_wait<1>();
            gw::sync_threads();  // grad_o has landed; of q, one group may be under way
            float dp[PER_Y][PER_X] = {};
            if (dk) scores<D>(dp, tiles.kept_b, tiles.streamed_b, chunks_of(p.value_dim));
            gw::cp_async_wait<0>();
            gw::sync_threads();  // q has landed
            float z[PER_Y][PER_X];
            scores<D>(z, tiles.kept_a, tiles.streamed_a, chunks_of(p.head_dim));
#pragma unroll
            for (int j = 0; j < PER_X; ++j) {
                const int mine = PER_X * tx + j;
                const i32 last = mine < rows ? last_position(p, sample, row + mine) : -1;
#pragma unroll
                for (int i = 0; i < PER_Y; ++i) {
                    const int key = first_key + ty + LANES_Y * i;
                    const bool seen = key < sample.kv && key <= last;
                    const float weight = gw::exp2_approx(gw::fma(z[i][j], scale_log2, -terms[j].lse_log2));
                    const float ds = weight * gw::fma(terms[j].gate, dp[i][j], -terms[j].delta);
                    // Both by select: behind a mask z and dp may be NaN.
                    z[i][j] = seen ? weight * terms[j].gate : 0.0f;
                    dp[i][j] = seen ? ds * p.scale : 0.0f;
                }
            }
            const bool crossed = first_key + keys - 1 > last_position(p, sample, row);
            const int bound = first_key + ty - sample.offset - row;  // key i is seen from query bound + 8i on
            if (dv) {
                store_weights<COLUMNS>(tiles.weights, z);
                gw::sync_warp();  // a row of weights is written and read by one half-warp
                accumulate_if<D, COLUMNS, PER_X, Mask::From>(crossed, dv_sum, tiles.weights, tiles.streamed_b, rows,
                                                             p.value_dim, bound);
            }
            gw::sync_threads();  // nobody reads grad_o and the weights any more
            if (!next.done()) stage_grad_o(next);
            gw::cp_async_commit();
            if (dk) {
                store_weights<COLUMNS>(tiles.weights, dp);
                gw::sync_warp();
                accumulate_if<D, COLUMNS, PER_X, Mask::From>(crossed, dk_sum, tiles.weights, tiles.streamed_a, rows,
                                                             p.head_dim, bound);
            }
            gw::sync_threads();  // nobody reads q and the weights any more
            if (!next.done()) stage_q(next);
            gw::cp_async_commit();
        }
#pragma unroll
        for (int i = 0; i < PER_Y; ++i) {
            const int slot = ty + LANES_Y * i;
            if (slot >= slots) continue;
            // Beyond the sample's keys the sums hold 0 · grad_o, which may be NaN.
            if (slot >= keys)
                for (int x = 0; x < Columns<D>::COUNT; ++x) dk_sum[i][x] = dv_sum[i][x] = 0.0f;
            if (dk)
                store_row<D>(matrix_of(dk, params.dk, b, kv_head, first_key + slot), dk_sum[i], p.head_dim,
                             p.vectors & DK);
            if (dv)
                store_row<D>(matrix_of(dv, params.dv, b, kv_head, first_key + slot), dv_sum[i], p.value_dim,
                             p.vectors & DV);
        }
    }
}

}  // namespace attention

GW_KERNEL(attention::THREADS, 8)
attention_backward_delta_f32(const float* o, const float* grad_o, const float* grad_lse, const gw::u32* order,
                             const gw::u32* counts, float* delta,
                             const __grid_constant__ attention::BackwardParams params) {
    attention::backward_delta(o, grad_o, grad_lse, order, counts, delta, params);
}
GW_EXPORT(attention_backward_delta_f32)

#define ATTENTION_BACKWARD(D, ROWS, COLUMNS, BLOCKS)                                                                   \
    GW_KERNEL(attention::THREADS, BLOCKS)                                                                              \
    attention_backward_dq_f32_d##D(                                                                                    \
        const float* q, const float* k, const float* v, const float* grad_o, const float* lse, const float* delta,     \
        const float* row_scale, const gw::u32* kv_len, const gw::u32* query_offset, const gw::u32* order,              \
        const gw::u32* counts, float* dq, float* drow_scale, gw::u32* status,                                          \
        const __grid_constant__ attention::BackwardParams params) {                                                    \
        GW_SHARED(float, shared);                                                                                      \
        attention::backward_dq<D, ROWS, COLUMNS>(shared, q, k, v, grad_o, lse, delta, row_scale, kv_len, query_offset, order,   \
                                        counts, dq, drow_scale, status, params);                                       \
    }                                                                                                                  \
    GW_EXPORT(attention_backward_dq_f32_d##D)                                                                          \
    GW_KERNEL(attention::THREADS, BLOCKS)                                                                              \
    attention_backward_dkv_f32_d##D(                                                                                   \
        const float* q, const float* k, const float* v, const float* grad_o, const float* lse, const float* delta,     \
        const float* row_scale, const gw::u32* kv_len, const gw::u32* query_offset, const gw::u32* kv_order,           \
        const gw::u32* counts, const gw::u32* active, float* dk, float* dv, gw::u32* status,                           \
        const __grid_constant__ attention::BackwardParams params) {                                                    \
        GW_SHARED(float, shared);                                                                                      \
        attention::backward_dkv<D, ROWS, COLUMNS>(shared, q, k, v, grad_o, lse, delta, row_scale, kv_len, query_offset,         \
                                         kv_order, counts, active, dk, dv, status, params);                            \
    }                                                                                                                  \
    GW_EXPORT(attention_backward_dkv_f32_d##D)

ATTENTION_BACKWARD(32, 64, 64, 2)
ATTENTION_BACKWARD(64, 64, 64, 2)
ATTENTION_BACKWARD(128, 32, 32, 3)
