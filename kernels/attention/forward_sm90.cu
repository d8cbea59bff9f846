// attention_forward_sm90_{f16,bf16}_d{64,128}: o = row_scale · softmax(scale·q·kᵀ)·v by warpgroups that multiply while tiles load.
// Shapes    as forward.cu, of f16 or bf16, dk, dv ≤ the D in the name; options: attention::Call in call.cuh. Tiles come through
//           maps of q, k and v: strides are multiples of 16 bytes
// Mapping   grid of work items (pair, tile of 128 queries), the block walks them with the grid's step. Block 384: the first
//           warpgroup's first thread loads, two others own 64 queries each; 24 and 240 registers a thread
// Shared    q 128·D, k and v two tiles of 128·D each, 16-bit: 80 KiB at D = 64, 160 KiB at D = 128; ten barriers. The hardware
//           exchanges chunks within rows of 128 bytes, no bank conflicts
// Traffic   q, o, lse once; k, v once per query tile.  FLOPs 2·b·hq·sq·sk·(dk + dv), about half when causal
// Order     the next tile's scores and this tile's weighted sum are issued together; the softmax runs under the latter
// Numerics  f32 sums, base-2 exponent with the scale folded in (scale > 0), weights rounded to 16 bits for the second product; no
//           visible key → o = 0, lse = −∞; hidden scores by select. Values of keys ≥ kv_len are cleared; a hidden value that is
//           not finite within makes its rows so, and they are computed again, key by key
// Host      spans of attention_plan; rejects other scores, soft cap, bias, mask, slopes, sinks, dropout, pages, scale ≤ 0
// Twin      src/attention/cpu/forward.rs        Source  arXiv:2407.08608, arXiv:2307.08691
#include "device.cuh"
#include "attention/fragments.cuh"

namespace attention {

struct ForwardSm90Params {
    gw::TensorMap q, k, v;
    Call call;
    i32 sample_step;  // 0: the samples' rows are packed into one tensor, 1: each is a sample of the maps
    i32 unused[13];
};

constexpr int GROUP = 128;           // threads of a warpgroup
constexpr int GROUP_QUERIES = 64;    // rows of a product
constexpr int TILE_QUERIES = 2 * GROUP_QUERIES;
constexpr int TILE_KEYS = 128;
constexpr int STAGES = 2;
constexpr int CONSUMER_WARPS = 8;
constexpr int PRODUCER_REGISTERS = 24, CONSUMER_REGISTERS = 240;

/// The block's barriers: a phase of `full` ends when a tile is there, of `empty` when every warp has done with it.
struct Ring {
    Shared<gw::u64> words;

    GW_DEVICE Shared<gw::u64> q_full() const { return words.slice(0, 1); }
    GW_DEVICE Shared<gw::u64> q_empty() const { return words.slice(1, 1); }
    GW_DEVICE Shared<gw::u64> k_full(int stage) const { return words.slice(2 + stage, 1); }
    GW_DEVICE Shared<gw::u64> k_empty(int stage) const { return words.slice(4 + stage, 1); }
    GW_DEVICE Shared<gw::u64> v_full(int stage) const { return words.slice(6 + stage, 1); }
    GW_DEVICE Shared<gw::u64> v_empty(int stage) const { return words.slice(8 + stage, 1); }

    GW_DEVICE void make() const {
        for (int i = 0; i < 10; ++i) {
            const bool is_empty = i == 1 || i / 2 == 2 || i / 2 == 4;
            gw::mbarrier_init(words.slice(i, 1), is_empty ? CONSUMER_WARPS : 1);
        }
        gw::mbarrier_fence();
    }
};

/// One work item as both roles see it.
struct Item {
    int b, h, kv_head, first_row, rows;
    Span span;
    Range steps;  // tiles of keys
    bool valid;   // false: nothing to do
};

GW_DEVICE Item find_item(const Call& c, const uint4* spans, i64 index, int tiles, i64 pairs) {
    Item item;
    const i64 pair = pair_at(c.order, index / tiles);
    item.b = static_cast<int>(pair / c.q_heads);
    item.h = static_cast<int>(pair % c.q_heads);
    item.kv_head = item.h / (c.q_heads / c.kv_heads);
    item.first_row = (tiles - 1 - static_cast<int>(index % tiles)) * TILE_QUERIES;  // the one that sees most comes first
    item.valid = pair < pairs;
    item.steps = {0, 0};
    if (!item.valid) return item;
    item.span = load_span(spans, item.b);
    item.rows = min(TILE_QUERIES, item.span.q_len - item.first_row);
    item.valid = item.rows > 0;
    if (item.valid && item.span.valid)
        item.steps = tiles_of(keys_in_sight(c, item.span, item.first_row, item.first_row + item.rows - 1), TILE_KEYS);
    return item;
}

/// Element where panel `panel` of 64 columns begins in a tile of `rows` rows.
GW_DEVICE int panel_at(int panel, int rows) { return panel * rows * 64; }

template <int D>
GW_DEVICE void produce(Shared<u16> q_tile, Shared<u16> k_tiles, Shared<u16> v_tiles, const Ring& ring, const uint4* spans,
                       const ForwardSm90Params& params, i64 items, int tiles, i64 pairs) {
    const Call& c = params.call;
    int loaded = 0, n = 0;  // tiles of queries and of keys so far
    for (i64 index = blockIdx.x; index < items; index += gridDim.x) {
        const Item item = find_item(c, spans, index, tiles, pairs);
        if (item.steps.empty()) continue;
        if (loaded > 0) gw::mbarrier_wait(ring.q_empty(), (loaded - 1) % 2);
        gw::mbarrier_arrive(ring.q_full(), 2 * TILE_QUERIES * D);
        const int batch = item.b * params.sample_step;
        for (int panel = 0; panel < D / 64; ++panel)
            gw::tensor_load(q_tile.slice(panel_at(panel, TILE_QUERIES), TILE_QUERIES * 64), params.q, ring.q_full(), 64 * panel,
                            item.span.q_first + item.first_row, item.h, batch);
        loaded += 1;
        for (int step = item.steps.begin; step < item.steps.end; ++step, ++n) {
            const int stage = n % STAGES, lap = n / STAGES, row = item.span.k_first + step * TILE_KEYS;
            const int at = stage * TILE_KEYS * D;
            if (lap > 0) gw::mbarrier_wait(ring.k_empty(stage), (lap - 1) % 2);
            gw::mbarrier_arrive(ring.k_full(stage), 2 * TILE_KEYS * D);
            for (int panel = 0; panel < D / 64; ++panel)
                gw::tensor_load(k_tiles.slice(at + panel_at(panel, TILE_KEYS), TILE_KEYS * 64), params.k, ring.k_full(stage),
                                64 * panel, row, item.kv_head, batch);
            if (lap > 0) gw::mbarrier_wait(ring.v_empty(stage), (lap - 1) % 2);
            gw::mbarrier_arrive(ring.v_full(stage), 2 * TILE_KEYS * D);
            for (int panel = 0; panel < D / 64; ++panel)
                gw::tensor_load(v_tiles.slice(at + panel_at(panel, TILE_KEYS), TILE_KEYS * 64), params.v, ring.v_full(stage),
                                64 * panel, row, item.kv_head, batch);
        }
    }
}

/// Issues the scores of a warpgroup's 64 queries with a tile of keys.
template <int D, bool BF16>
GW_DEVICE void issue_scores(float (&s)[TILE_KEYS / 2], Shared<u16> queries, Shared<u16> keys) {
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
        const gw::u64 left = gw::matrix_operand(queries.slice(panel_at(k / 4, TILE_QUERIES) + k % 4 * 16));
        const gw::u64 right = gw::matrix_operand(keys.slice(panel_at(k / 4, TILE_KEYS) + k % 4 * 16));
        gw::wgmma<TILE_KEYS, BF16, false>(s, left, right, k > 0);
    }
    gw::wgmma_commit();
}

/// Issues o (+)= weights · values.
template <int D, bool BF16>
GW_DEVICE void issue_sums(float (&o)[D / 2], const u32 (&weights)[TILE_KEYS / 16][4], Shared<u16> values, bool adds_up) {
#pragma unroll
    for (int k = 0; k < TILE_KEYS / 16; ++k) {
        const gw::u64 right = gw::matrix_operand(values.slice(k * 16 * 64), TILE_KEYS * 128);
        gw::wgmma<D, BF16, true>(o, weights[k], right, adds_up || k > 0);
    }
    gw::wgmma_commit();
}

/// The two rows of a thread: elements whose index has bit 1 clear, and set.
struct Rows {
    float top[2], total[2];  // largest raw score; this thread's part of the sum of weights
    int from[2], to[2];      // keys in sight
};

/// Turns raw scores of the keys from `first_key` on into weights; `rescale` is what earlier sums are multiplied by.
GW_DEVICE void weigh(float (&s)[TILE_KEYS / 2], Rows& rows, float (&rescale)[2], int first_key, bool masked, float scale_log2) {
    const int column = first_key + 2 * static_cast<int>(threadIdx.x % 4);
    if (masked) {
#pragma unroll
        for (int i = 0; i < TILE_KEYS / 2; ++i) {
            const int key = column + 8 * (i / 4) + i % 2, r = i / 2 % 2;
            s[i] = key >= rows.from[r] && key < rows.to[r] ? s[i] : -INFINITY;
        }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        float highest = rows.top[r];
#pragma unroll
        for (int i = 2 * r; i < TILE_KEYS / 2; i += 4) highest = gw::max_nan_free(highest, gw::max_nan_free(s[i], s[i + 1]));
        highest = quad_max(highest);
        // No key so far: any finite shift keeps exp2(−∞ − shift) = 0, where −∞ − −∞ would be NaN.
        const float shift = highest == -INFINITY ? 0.0f : highest * scale_log2;
        rescale[r] = gw::exp2_approx(gw::fma(rows.top[r], scale_log2, -shift));
        rows.top[r] = highest;
        float sum = 0.0f;
#pragma unroll
        for (int i = 2 * r; i < TILE_KEYS / 2; i += 4) {
            s[i] = gw::exp2_approx(gw::fma(s[i], scale_log2, -shift));
            s[i + 1] = gw::exp2_approx(gw::fma(s[i + 1], scale_log2, -shift));
            sum += s[i] + s[i + 1];
        }
        rows.total[r] = gw::fma(rows.total[r], rescale[r], sum);
    }
}

/// Weights as the left operand of the second product: a k-step of 16 keys is two groups of four sums.
template <bool BF16>
GW_DEVICE void pack_weights(u32 (&weights)[TILE_KEYS / 16][4], const float (&s)[TILE_KEYS / 2]) {
#pragma unroll
    for (int k = 0; k < TILE_KEYS / 16; ++k) {
#pragma unroll
        for (int i = 0; i < 4; ++i) weights[k][i] = gw::pack16<BF16>(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
    }
}

/// Clears the values of keys that the sample does not have: 0 · NaN would be NaN. By both consumers.
template <int D>
GW_DEVICE void clear_values(Shared<u16> values, int keys) {
    if (keys >= TILE_KEYS) return;
    const Shared<float> chunks = values.cast<float>();
    const int panel_chunks = (TILE_KEYS - keys) * 8;
    for (int i = static_cast<int>(threadIdx.x) - GROUP; i < D / 64 * panel_chunks; i += 2 * GROUP) {
        const int element = panel_at(i / panel_chunks, TILE_KEYS) + keys * 64 + i % panel_chunks * 8;
        chunks.store4(element / 2, make_float4(0.0f, 0.0f, 0.0f, 0.0f));
    }
    gw::fence_async();
    gw::barrier_sync(1, 2 * GROUP);
}

/// One row again, key by key, by a warp: hidden values take no part. Its largest score and sum of weights are known.
template <int D>
GW_DEVICE void repair_row(const Call& c, const Item& item, const void* q, const void* k, const void* v, void* o, int row,
                          int from, int to, float top, float total, float factor) {
    const Matrix queries = query_matrix(c, q, c.q, item.b, item.h, item.span.q_first, false);
    const Matrix keys = key_matrix(c, k, c.k, item.b, item.kv_head, item.span, false);
    const Matrix values = key_matrix(c, v, c.v, item.b, item.kv_head, item.span, false);
    const Matrix out = query_matrix(c, o, c.o, item.b, item.h, item.span.q_first, false);
    const int lane = threadIdx.x % 32;
    const float scale_log2 = static_cast<float>(c.coefficient) * gw::LOG2_E;
    const float shift = top * scale_log2;
    float sum[D / 32] = {};
    for (int key = from; key < to; ++key) {
        float score = 0.0f;
        for (int d = lane; d < c.head_dim; d += 32)
            score = gw::fma(load_number(q, row_at(c, queries, row) + d, c.type, 0.0f),
                            load_number(k, row_at(c, keys, key) + d, c.type, 0.0f), score);
        for (int distance = 16; distance > 0; distance /= 2) score += gw::shuffle_xor(score, distance);
        const float weight = gw::exp2_approx(gw::fma(score, scale_log2, -shift));
#pragma unroll
        for (int x = 0; x < D / 32; ++x) {
            const int d = lane + 32 * x;
            if (d < c.value_dim) sum[x] = gw::fma(weight, load_number(v, row_at(c, values, key) + d, c.type, 0.0f), sum[x]);
        }
    }
#pragma unroll
    for (int x = 0; x < D / 32; ++x) {
        const int d = lane + 32 * x;
        if (d < c.value_dim) store_number(o, row_at(c, out, row) + d, c.type, sum[x] * gw::rcp(total) * factor);
    }
}

/// Stores elements (row, column) and (row, column + 1), those that exist.
template <bool BF16>
GW_DEVICE void store_pair(void* o, i64 row, int column, int columns, bool words, float low, float high) {
    u16* to = static_cast<u16*>(o) + row + column;
    const u32 pair = gw::pack16<BF16>(low, high);
    if (words && column + 1 < columns) {
        gw::store_global(reinterpret_cast<u32*>(to), pair);
        return;
    }
    if (column < columns) gw::store_global(to, static_cast<u16>(pair));
    if (column + 1 < columns) gw::store_global(to + 1, static_cast<u16>(pair >> 16));
}

template <int D, bool BF16>
GW_DEVICE void consume(Shared<u16> q_tile, Shared<u16> k_tiles, Shared<u16> v_tiles, const Ring& ring, const void* q,
                       const void* k, const void* v, void* o, float* lse, const uint4* spans, const ForwardSm90Params& params,
                       i64 items, int tiles, i64 pairs) {
    const Call& c = params.call;
    const int group = static_cast<int>(threadIdx.x) / GROUP - 1, warp = threadIdx.x % GROUP / 32, lane = threadIdx.x % 32;
    const int first = GROUP_QUERIES * group, own = first + 16 * warp + lane / 4;  // of the tile: the group's, this thread's
    const Shared<u16> queries = q_tile.slice(first * 64);
    const float scale_log2 = static_cast<float>(c.coefficient) * gw::LOG2_E;
    // A pair of elements is a word where rows are whole words.
    const bool words = (reinterpret_cast<size_t>(o) / 2 | c.o.batch | c.o.head | c.o.row) % 2 == 0;
    int taken = 0, n = 0;
    for (i64 index = blockIdx.x; index < items; index += gridDim.x) {
        const Item item = find_item(c, spans, index, tiles, pairs);
        if (!item.valid) continue;
        const Span& span = item.span;

        Rows rows;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int row = item.first_row + own + 8 * r;
            const Range sight = keys_in_sight(c, span, row, row);
            rows.top[r] = -INFINITY, rows.total[r] = 0.0f, rows.from[r] = sight.begin, rows.to[r] = sight.end;
        }
        float sums[D / 2];
#pragma unroll
        for (int i = 0; i < D / 2; ++i) sums[i] = 0.0f;

        if (!item.steps.empty()) {
            // Keys that every row of the group sees.
            const int last_row = item.first_row + min(first + GROUP_QUERIES, item.rows) - 1;
            const int from = keys_in_sight(c, span, last_row, last_row).begin;
            const int to = keys_in_sight(c, span, item.first_row + first, item.first_row + first).end;
            float s[TILE_KEYS / 2], rescale[2];
            u32 weights[TILE_KEYS / 16][4];

            gw::mbarrier_wait(ring.q_full(), taken % 2);
            gw::mbarrier_wait(ring.k_full(n % STAGES), n / STAGES % 2);
            gw::wgmma_fence();
            issue_scores<D, BF16>(s, queries, k_tiles.slice(n % STAGES * TILE_KEYS * D, TILE_KEYS * D));
            gw::wgmma_wait<0>();
            if (lane == 0) gw::mbarrier_arrive(ring.k_empty(n % STAGES));
            int first_key = item.steps.begin * TILE_KEYS;
            weigh(s, rows, rescale, first_key, first_key < from || first_key + TILE_KEYS > to, scale_log2);
            pack_weights<BF16>(weights, s);
#pragma unroll 1
            for (int step = item.steps.begin + 1; step < item.steps.end; ++step, ++n) {
                const int stage = n % STAGES, next = (n + 1) % STAGES;
                gw::mbarrier_wait(ring.k_full(next), (n + 1) / STAGES % 2);
                gw::wgmma_fence();
                issue_scores<D, BF16>(s, queries, k_tiles.slice(next * TILE_KEYS * D, TILE_KEYS * D));
                gw::mbarrier_wait(ring.v_full(stage), n / STAGES % 2);
                gw::wgmma_fence();
                issue_sums<D, BF16>(sums, weights, v_tiles.slice(stage * TILE_KEYS * D, TILE_KEYS * D), step > item.steps.begin + 1);
                gw::wgmma_wait<1>();
                if (lane == 0) gw::mbarrier_arrive(ring.k_empty(next));
                first_key = step * TILE_KEYS;
                weigh(s, rows, rescale, first_key, first_key < from || first_key + TILE_KEYS > to, scale_log2);
                gw::wgmma_wait<0>();
                if (lane == 0) gw::mbarrier_arrive(ring.v_empty(stage));
#pragma unroll
                for (int i = 0; i < D / 2; ++i) sums[i] *= rescale[i / 2 % 2];
                pack_weights<BF16>(weights, s);
            }
            const int stage = n % STAGES;
            const Shared<u16> values = v_tiles.slice(stage * TILE_KEYS * D, TILE_KEYS * D);
            gw::mbarrier_wait(ring.v_full(stage), n / STAGES % 2);
            clear_values<D>(values, span.kv - first_key);
            gw::wgmma_fence();
            issue_sums<D, BF16>(sums, weights, values, item.steps.end - item.steps.begin > 1);
            gw::wgmma_wait<0>();
            if (lane == 0) {
                gw::mbarrier_arrive(ring.v_empty(stage));
                gw::mbarrier_arrive(ring.q_empty());
            }
            n += 1;
            taken += 1;
        }

        const Matrix out = query_matrix(c, o, c.o, item.b, item.h, span.q_first, false);
        const Matrix logs = query_matrix(c, lse, c.lse, item.b, item.h, span.q_first, false);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int local = own + 8 * r, row = item.first_row + local;
            const bool exists = local < item.rows, seen = rows.from[r] < rows.to[r];
            float total = quad_sum(rows.total[r]);
            if (seen && rows.top[r] == -INFINITY) total = NAN;  // scores of −∞ that are seen make NaN, as the formula does
            if (!span.valid) total = NAN;
            const float gate = c.row_scale && exists
                                   ? load_term<float>(c.row_scale, item.b * c.row_scale_at.batch + item.h * c.row_scale_at.head +
                                                                       (span.q_first + row) * c.row_scale_at.row)
                                   : 1.0f;
            const float inverse = gw::rcp(total);
            bool poisoned = false;
#pragma unroll
            for (int i = 2 * r; i < D / 2; i += 4) {
                poisoned = poisoned || !gw::is_finite(sums[i]) || !gw::is_finite(sums[i + 1]);
                sums[i] = seen || !span.valid ? sums[i] * inverse * gate : 0.0f;
                sums[i + 1] = seen || !span.valid ? sums[i + 1] * inverse * gate : 0.0f;
            }
            if (exists) {
                const i64 at = row_at(c, out, row);
#pragma unroll
                for (int i = 2 * r; i < D / 2; i += 4)
                    store_pair<BF16>(o, at, 8 * (i / 4) + 2 * (lane % 4), c.value_dim, words, sums[i], sums[i + 1]);
                if (lane % 4 == 0) {
                    const float log_sum = gw::fma(rows.top[r] * scale_log2, gw::LN_2, ::logf(total));
                    gw::store_global(lse + row_at(c, logs, row), seen || !span.valid ? log_sum : -INFINITY);
                }
            }
            // Rows whose weights are sound and whose sums are not: a hidden value, or a visible one, is not finite.
            const u32 again = gw::ballot(poisoned && exists && seen && gw::is_finite(total));
            if (again == 0) continue;
            gw::sync_warp();  // after the rows' own stores
            for (int leader = 0; leader < 32; leader += 4) {
                if ((again >> leader & 0xfu) == 0) continue;
                const int bad = item.first_row + first + 16 * warp + leader / 4 + 8 * r;
                repair_row<D>(c, item, q, k, v, o, bad, gw::shuffle(rows.from[r], leader), gw::shuffle(rows.to[r], leader),
                              gw::shuffle(rows.top[r], leader), gw::shuffle(total, leader), gw::shuffle(gate, leader));
            }
        }
    }
}

template <int D, bool BF16>
GW_DEVICE void forward_sm90(Shared<u16> shared, const void* q, const void* k, const void* v, void* o, float* lse,
                            const uint4* spans, const ForwardSm90Params& params) {
    const Call& c = params.call;
    const Shared<u16> q_tile = shared.slice(0, TILE_QUERIES * D);
    const Shared<u16> k_tiles = shared.slice(TILE_QUERIES * D, STAGES * TILE_KEYS * D);
    const Shared<u16> v_tiles = shared.slice((TILE_QUERIES + STAGES * TILE_KEYS) * D, STAGES * TILE_KEYS * D);
    const Ring ring{shared.slice((TILE_QUERIES + 2 * STAGES * TILE_KEYS) * D).cast<gw::u64>()};
    if (threadIdx.x == 0) ring.make();
    gw::sync_threads();

    const i64 pairs = static_cast<i64>(c.batch) * c.q_heads;
    const int tiles = (c.q_len + TILE_QUERIES - 1) / TILE_QUERIES;
    const i64 items = active_count(c.counts, 0, pairs) * tiles;
    if (threadIdx.x < GROUP) {
        gw::registers_down<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0) produce<D>(q_tile, k_tiles, v_tiles, ring, spans, params, items, tiles, pairs);
    } else {
        gw::registers_up<CONSUMER_REGISTERS>();
        consume<D, BF16>(q_tile, k_tiles, v_tiles, ring, q, k, v, o, lse, spans, params, items, tiles, pairs);
    }
}

}  // namespace attention

#define ATTENTION_FORWARD_SM90(TYPE, BF16, D)                                                                              \
    GW_KERNEL(384, 1)                                                                                                      \
    attention_forward_sm90_##TYPE##_d##D(const void* q, const void* k, const void* v, void* o, float* lse,               \
                                           const uint4* spans,                                                             \
                                           const __grid_constant__ attention::ForwardSm90Params params) {                  \
        GW_SHARED(gw::u16, shared);                                                                                        \
        attention::forward_sm90<D, BF16>(shared, q, k, v, o, lse, spans, params);                                          \
    }                                                                                                                      \
    GW_EXPORT(attention_forward_sm90_##TYPE##_d##D)

ATTENTION_FORWARD_SM90(f16, false, 64)
ATTENTION_FORWARD_SM90(bf16, true, 64)
ATTENTION_FORWARD_SM90(f16, false, 128)
ATTENTION_FORWARD_SM90(bf16, true, 128)
