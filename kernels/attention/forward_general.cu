// attention_forward_general_{f32,f64}, attention_decode_{f32,f64}: attention with every score, mask, layout and dimension.
//   o = row_scale · softmax(z)·v, z = logit of coefficient · comparison(q, k): SPEC §2; online softmax over key tiles
// Shapes    as forward.cu, of f32, f16 or bf16 (accumulated in f32), or of f64; options: attention::Call in call.cuh
//           partial [row, split, dv + 2], null without splits: unnormalised sums, then largest logit (base 2) and sum of weights
// Mapping   grid of work items (columns of o, split, tile of rows, pair), the block walks them with the grid's step. Block
//           128 = 8 × 16; tiles 64 × 64 (f64: 32 × 32), decode 16 × 64 (16 × 32); 128 (f64: 64) columns of o an item: a wider
//           value is split over items that compute the scores again. Rows of several heads of a group may share a tile
//           decode: a sample of n keys is cut into splits whose length depends on n alone; attention_combine adds them up
// Shared    slices of q and k, or values: 32 KiB (f64: 16), and weights 16 KiB (8); decode 4 KiB of weights. No bank conflicts
// Traffic   q and k once per tile of rows and columns of o; v once per tile of rows. FLOPs 2·rows·keys·(dk·⌈dv/128⌉ + dv)
// Numerics  base-2 exponent; masked: by select, and left out of the sums; a row without keys gives o = 0, lse = −∞ or its sink
// Host      spans of attention_plan; rejects lengths > 2^30 − 64
// Twin      src/attention/cpu/forward.rs        Source  arXiv:2307.08691, arXiv:1805.02867
#include "device.cuh"
#include "attention/compare.cuh"
#include "attention/tile.cuh"

namespace attention {

struct GeneralForwardParams {
    Call call;
    i32 splits;      // of the longest sample; 0: no partials
    i32 split_keys;  // least keys of a split
};

/// Keys of a split of a sample with `kv` keys: a function of kv and constants, so that no neighbour changes a bit.
GW_DEVICE int split_length(int kv, int least) {
    constexpr int MOST = 128, STEP = 64;  // MOST_SPLITS in src/attention/cuda/general.rs
    return kv <= MOST * least ? least : ((kv + MOST - 1) / MOST + STEP - 1) / STEP * STEP;
}

template <typename A, int ROWS>
GW_DEVICE void forward_general(Shared<typename Chunk<A>::Vector> shared, const void* q, const void* k, const void* v, void* o,
                               void* lse, const uint4* spans, A* partial, const GeneralForwardParams& params) {
    typedef Tile<A, ROWS> T;
    constexpr int PER_Y = T::PER_Y, W = T::W;
    const Call& c = params.call;
    const T tile(shared);
    const int tx = threadIdx.x % LANES_X, ty = threadIdx.x / LANES_X;
    const philox::Stream stream = c.dropout ? stream_of(c) : c.stream;

    const i64 pairs = static_cast<i64>(c.batch) * (c.q_heads / c.pack);
    const int tiles = (c.q_len * c.pack + ROWS - 1) / ROWS;
    const int column_tiles = (c.value_dim + T::OUT - 1) / T::OUT;
    const int splits = max(params.splits, 1);
    const i64 per_pair = static_cast<i64>(tiles) * column_tiles * splits;
    const i64 items = active_count(c.counts, 0, pairs) * per_pair;
    for (i64 item = blockIdx.x; item < items; item += gridDim.x) {
        const i64 pair = pair_at(c.order, item / per_pair);
        if (pair >= pairs) continue;
        int rest = static_cast<int>(item % per_pair);
        const int first_column = rest % column_tiles * T::OUT;
        rest /= column_tiles;
        const int split = rest % splits;
        const int first_row = (tiles - 1 - rest / splits) * ROWS;  // last first: under a causal mask it sees the most
        const int heads = c.q_heads / c.pack;
        const int b = static_cast<int>(pair / heads), first_head = static_cast<int>(pair % heads) * c.pack;
        const int kv_head = first_head / (c.q_heads / c.kv_heads);
        const Span s = load_span(spans, b);
        const int rows = min(ROWS, s.q_len * c.pack - first_row);
        if (rows <= 0) continue;
        const bool writes_lse = first_column == 0;

        const Matrix out = query_matrix(c, o, c.o, b, first_head, s.q_first, false);
        const Matrix sums = query_matrix(c, lse, c.lse, b, first_head, s.q_first, false);
        const i32 lse_type = sizeof(A) == 8 ? F64 : F32;
        if (!s.valid && !partial) {
            fill<A>(o, c, out, first_row, rows, first_column, c.value_dim, NAN);
            if (writes_lse && static_cast<int>(threadIdx.x) < rows)
                store_number(lse, row_at(c, sums, first_row + threadIdx.x), lse_type, static_cast<A>(NAN));
            continue;
        }
        Range sight = keys_in_sight(c, s, first_row / c.pack, (first_row + rows - 1) / c.pack);
        if (partial) {
            const int length = split_length(s.kv, params.split_keys);  // whole tiles
            sight.begin = max(sight.begin, split * length);
            sight.end = min(sight.end, split * length + length);
        }
        const Range steps = tiles_of(sight, T::COLUMNS);
        const Matrix queries = query_matrix(c, q, c.q, b, first_head, s.q_first, c.vectors & Q);
        const Matrix keys = key_matrix(c, k, c.k, b, kv_head, s, c.vectors & K);
        const Matrix values = key_matrix(c, v, c.v, b, kv_head, s, c.vectors & V);
        const void* w = static_cast<const A*>(c.w) + first_head * c.w_head;  // rows are not packed where w differs by head

        A sum[PER_Y][T::COUNT] = {};
        A top[PER_Y], total[PER_Y];
        u32 seen_rows = 0;  // bit i: some key is seen
        for (int i = 0; i < PER_Y; ++i) top[i] = -INFINITY, total[i] = 0;
#pragma unroll 1
        for (int step = steps.begin; step < steps.end; ++step) {
            const int first_key = step * T::COLUMNS, key_count = min(T::COLUMNS, sight.end - first_key);
            Raw<A, PER_Y, W> raw;
            compare(raw, tile, c, queries, first_row, rows, keys, first_key, key_count, c.head_dim, c.score, w);
            A z[PER_Y][W];
            const int sample = gw::opaque(b), row_0 = gw::opaque(first_row);
#pragma unroll
            for (int i = 0; i < PER_Y; ++i) {
                const int row = row_0 + ty + LANES_Y * i;
                const int query = row / c.pack, h = first_head + row % c.pack;
                const A alibi = alibi_of<A>(c, min(h, c.q_heads - 1));
                A highest = top[i];
                u32 seen = 0;
#pragma unroll
                for (int j = 0; j < W; ++j) {
                    const int key = first_key + W * tx + j;
                    const A score = static_cast<A>(c.coefficient) * compared(raw, c.score, i, j);
                    const Logit<A> at = logit(c, s, sample, h, query, key, score, alibi);
                    seen |= static_cast<u32>(at.seen) << j;
                    z[i][j] = at.seen ? at.z * log2_e<A>() : -INFINITY;
                    highest = larger(highest, z[i][j]);
                }
                if (seen) seen_rows |= 1u << i;
                highest = row_max(highest);
                // No key so far: any finite shift keeps exp2(−∞ − shift) = 0, where −∞ − −∞ would be NaN.
                const A shift = highest == -INFINITY ? 0 : highest;
                const A rescale = exp2_of(top[i] - shift);
                top[i] = highest;
                total[i] *= rescale;
#pragma unroll
                for (int j = 0; j < W; ++j) {
                    A weight = exp2_of(z[i][j] - shift);
                    const bool taken = (seen >> j & 1u) != 0;
                    total[i] += taken ? weight : 0;
                    if (c.dropout && taken) {
                        const bool kept = is_kept(c, stream, sample, h, query, first_key + W * tx + j);
                        weight = kept ? weight * static_cast<A>(c.keep_scale) : static_cast<A>(-0.0);
                    }
                    z[i][j] = taken ? weight : static_cast<A>(-0.0);
                }
#pragma unroll
                for (int x = 0; x < T::COUNT; ++x) sum[i][x] *= rescale;
            }
            put_weights(tile, z);
            gw::sync_threads();  // nobody reads the slices any more
            bring<A, T::COLUMNS, VALUE_CHUNKS, 1>(tile.values, c, values, first_key, key_count, first_column, c.value_dim);
            gw::sync_threads();  // values and weights are there
            add_weighted(sum, tile, key_count, c.value_dim - first_column, false);
        }

        seen_rows = row_or(seen_rows);
#pragma unroll
        for (int i = 0; i < PER_Y; ++i) {
            const int local = ty + LANES_Y * i, row = first_row + local;
            A weight = row_sum(total[i]);
            const bool seen = (seen_rows >> i & 1u) != 0;
            if (local >= rows) continue;
            const int h = first_head + row % c.pack;
            if (seen && top[i] == -INFINITY) weight = NAN;  // scores of −∞ that are seen make NaN, as the formula does
            if (partial) {
                const i64 at = ((static_cast<i64>(b) * c.q_heads + h) * c.q_len + row / c.pack) * splits + split;
                A* to = partial + at * (c.value_dim + 2);
                if (seen) put_row(to, 0, lse_type, sum[i], first_column, c.value_dim);
                if (writes_lse && tx == 0) {
                    gw::store_global(to + c.value_dim, top[i]);
                    gw::store_global(to + c.value_dim + 1, weight);
                }
                continue;
            }
            A highest = top[i], scale = 1;
            if (c.sinks) {
                const A sink = load_term<A>(c.sinks, h * c.sinks_step) * log2_e<A>();
                highest = larger(highest, sink);
                const A shift = highest == -INFINITY ? 0 : highest;
                scale = exp2_of(top[i] - shift);
                weight = weight * scale + exp2_of(sink - shift);
            }
            const A gate = c.row_scale ? load_term<A>(c.row_scale, b * c.row_scale_at.batch + h * c.row_scale_at.head +
                                                                       (s.q_first + row / c.pack) * c.row_scale_at.row)
                                       : A(1);
            const A factor = scale * reciprocal(weight);
#pragma unroll
            for (int x = 0; x < T::COUNT; ++x) sum[i][x] = seen ? sum[i][x] * factor * gate : 0;
            put_row(o, row_at(c, out, row), c.type, sum[i], first_column, c.value_dim);
            // A row that sees nothing but its sink: the logarithm of its own exponential.
            const A log_sum = !seen && !c.sinks ? -INFINITY : gw::fma(highest, ln_2<A>(), log_of(weight));
            if (writes_lse && tx == 0) store_number(lse, row_at(c, sums, row), lse_type, log_sum);
        }
    }
}

}  // namespace attention

#define ATTENTION_FORWARD_GENERAL(SUFFIX, A, ROWS)                                                                   \
    GW_KERNEL(attention::THREADS, 2)                                                                                 \
    attention_forward_general_##SUFFIX(const void* q, const void* k, const void* v, void* o, void* lse,              \
                                       const uint4* spans, A* partial,                                               \
                                       const __grid_constant__ attention::GeneralForwardParams params) {             \
        GW_SHARED(attention::Chunk<A>::Vector, shared);                                                              \
        attention::forward_general<A, ROWS>(shared, q, k, v, o, lse, spans, partial, params);                        \
    }                                                                                                                \
    GW_EXPORT(attention_forward_general_##SUFFIX)                                                                    \
    GW_KERNEL(attention::THREADS, 3)                                                                                 \
    attention_decode_##SUFFIX(const void* q, const void* k, const void* v, void* o, void* lse, const uint4* spans,   \
                              A* partial, const __grid_constant__ attention::GeneralForwardParams params) {          \
        GW_SHARED(attention::Chunk<A>::Vector, shared);                                                              \
        attention::forward_general<A, 16>(shared, q, k, v, o, lse, spans, partial, params);                          \
    }                                                                                                                \
    GW_EXPORT(attention_decode_##SUFFIX)

ATTENTION_FORWARD_GENERAL(f32, float, 64)
ATTENTION_FORWARD_GENERAL(f64, double, 32)
