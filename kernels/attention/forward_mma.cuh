// forward_mma.cuh: attention of 16-bit tensors on tensor cores, what forward_mma.cu and forward_mma_options.cu share.
//
// A warp holds scores, weights and sums of its rows in registers: as C blocks of two products, the weights packed to A blocks of the
// second (fragments.cuh). Keys and values come in two stages: while one is multiplied, the next is copied; one barrier a tile.
#pragma once
#include "attention/compare.cuh"
#include "attention/fragments.cuh"

namespace attention {

/// Threads of a block of every kernel here: four warps.
constexpr int MMA_THREADS = 128;

/// What a kernel is made for.
///
/// PLAIN: logits are the scores times a positive number, so that the largest score is the largest logit, and keys are hidden by length
/// and position alone. A warp owns BLOCKS blocks of 16 rows of a tile of rows; KEYS keys are a tile of keys.
template <bool BF16_, bool PLAIN_, int D_, int KEYS_, int BLOCKS_, bool KEEP_Q_>
struct Sizes {
    static constexpr bool BF16 = BF16_, PLAIN = PLAIN_;
    static constexpr int D = D_, KEYS = KEYS_, BLOCKS = BLOCKS_;
    static constexpr bool KEEP_Q = KEEP_Q_;  // fragments of q stay in registers
    static constexpr int THREADS = MMA_THREADS, WARPS = THREADS / 32, WARP_ROWS = 16 * BLOCKS, ROWS = WARPS * WARP_ROWS;
    static constexpr int COLUMN_BLOCKS = KEYS / 8;
    static_assert(COLUMN_BLOCKS <= 8, "a bit for each of a lane's weights in a block of rows");
};

/// What a warp holds: rows g + 8·half of block m.
template <typename S>
struct Rows {
    float sum[S::BLOCKS][S::D / 8][4];
    float top[S::BLOCKS][2];    // largest logit, in units that `unit` takes to base 2
    float total[S::BLOCKS][2];  // the lane's part of the sum of weights
    u32 seen;                   // bit 2m + half, unless PLAIN: the lane has seen a key
};

/// How much of a tile of scores takes part.
enum class Sight { None, Some, All };

/// What queries first..=last see of keys from..=to, by length and position. The differences fit, as in `logit`.
GW_DEVICE Sight sight_of(const Call& c, const Span& s, int first, int last, int from, int to) {
    const i32 nearest = from - (s.offset + last), farthest = to - (s.offset + first);
    if (first > last || from >= s.kv || nearest > c.right || farthest < -c.left) return Sight::None;
    return to < s.kv && nearest >= -c.left && farthest <= c.right ? Sight::All : Sight::Some;
}

/// scores = q · kᵀ of the warp's rows.
template <typename S>
GW_DEVICE void multiply_keys(float (&scores)[S::BLOCKS][S::COLUMN_BLOCKS][4], const Panels<S::D, S::ROWS>& queries,
                             const u32 (&kept)[S::KEEP_Q ? S::D / 16 : 1][S::BLOCKS][4], const Panels<S::D, S::KEYS>& keys, int warp_row,
                             int dims) {
#pragma unroll
    for (int m = 0; m < S::BLOCKS; ++m)
#pragma unroll
        for (int n = 0; n < S::COLUMN_BLOCKS; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) scores[m][n][e] = 0.0f;
#pragma unroll
    for (int panel = 0; panel < S::D / PANEL; ++panel) {
        if (!has_panel(panel, dims)) break;
#pragma unroll
        for (int column = PANEL * panel; column < PANEL * panel + PANEL; column += 16) {
            u32 a[S::BLOCKS][4];
#pragma unroll
            for (int m = 0; m < S::BLOCKS; ++m) {
                if constexpr (S::KEEP_Q) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) a[m][i] = kept[column / 16][m][i];
                } else {
                    queries.load_a(a[m], warp_row + 16 * m, column);
                }
            }
#pragma unroll
            for (int n = 0; n < S::COLUMN_BLOCKS; n += 2) {
                u32 b[4];
                keys.load_b(b, 8 * n, column);
#pragma unroll
                for (int m = 0; m < S::BLOCKS; ++m) {
                    gw::mma_m16n8k16<S::BF16>(scores[m][n], a[m], b[0], b[1]);
                    gw::mma_m16n8k16<S::BF16>(scores[m][n + 1], a[m], b[2], b[3]);
                }
            }
        }
    }
}

/// sum += weights · v.
template <typename S>
GW_DEVICE void multiply_values(float (&sum)[S::BLOCKS][S::D / 8][4], const float (&weights)[S::BLOCKS][S::COLUMN_BLOCKS][4],
                               const Panels<S::D, S::KEYS>& values, int dims) {
#pragma unroll
    for (int key = 0; key < S::KEYS; key += 16) {
        u32 a[S::BLOCKS][4];
#pragma unroll
        for (int m = 0; m < S::BLOCKS; ++m) pack_a<S::BF16>(a[m], weights[m][key / 8], weights[m][key / 8 + 1]);
#pragma unroll
        for (int panel = 0; panel < S::D / PANEL; ++panel) {
            if (!has_panel(panel, dims)) break;
#pragma unroll
            for (int column = PANEL * panel; column < PANEL * panel + PANEL; column += 16) {
                u32 b[4];
                values.load_b_turned(b, key, column);
#pragma unroll
                for (int m = 0; m < S::BLOCKS; ++m) {
                    gw::mma_m16n8k16<S::BF16>(sum[m][column / 8], a[m], b[0], b[1]);
                    gw::mma_m16n8k16<S::BF16>(sum[m][column / 8 + 1], a[m], b[2], b[3]);
                }
            }
        }
    }
}

/// Hides the scores of keys out of sight by length and position.
template <typename S>
GW_DEVICE void hide(float (&scores)[S::BLOCKS][S::COLUMN_BLOCKS][4], const Call& c, const Span& s, int query, int first_key) {
#pragma unroll
    for (int m = 0; m < S::BLOCKS; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int i = query + 16 * m + 8 * half;
            const Range sight = keys_in_sight(c, s, i, i);
            const int begin = sight.begin - first_key - fragment_column(), end = sight.end - first_key - fragment_column();
#pragma unroll
            for (int n = 0; n < S::COLUMN_BLOCKS; ++n)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    const int key = 8 * n + e;
                    if (key < begin || key >= end) scores[m][n][2 * half + e] = -INFINITY;
                }
        }
}

/// Scores to logits in base 2, −∞ where hidden; and which of them dropout keeps, bit 4n + element of `kept`. Such logits are long,
/// and inlined for each element of a register array: the columns go round, so that the loop has one block of them.
template <typename S>
GW_DEVICE void to_logits(float (&scores)[S::BLOCKS][S::COLUMN_BLOCKS][4], u32 (&kept)[S::BLOCKS], u32& seen, const Call& c, const Span& s,
                         const philox::Stream& stream, int b, int h, int query, int first_key) {
    const float alibi = alibi_of<float>(c, h), coefficient = static_cast<float>(c.coefficient);
#pragma unroll
    for (int m = 0; m < S::BLOCKS; ++m) kept[m] = 0;
#pragma unroll 1
    for (int n = 0; n < S::COLUMN_BLOCKS; ++n) {
#pragma unroll
        for (int m = 0; m < S::BLOCKS; ++m) {
            float z[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int i = query + 16 * m + e / 2 * 8, j = first_key + 8 * n + fragment_column() + e % 2;
                const Logit<float> at = logit(c, s, b, h, i, j, coefficient * scores[m][0][e], alibi);
                z[e] = at.seen ? at.z * gw::LOG2_E : -INFINITY;
                seen |= static_cast<u32>(at.seen) << (2 * m + e / 2);
                if (c.dropout && at.seen) kept[m] |= static_cast<u32>(is_kept(c, stream, b, h, i, j)) << (4 * n + e);
            }
#pragma unroll
            for (int e = 0; e < 4; ++e) {
#pragma unroll
                for (int next = 1; next < S::COLUMN_BLOCKS; ++next) scores[m][next - 1][e] = scores[m][next][e];
                scores[m][S::COLUMN_BLOCKS - 1][e] = z[e];
            }
        }
    }
}

/// One tile of the online softmax: logits to weights; what was summed so far is scaled to the new maxima.
template <typename S>
GW_DEVICE void to_weights(float (&scores)[S::BLOCKS][S::COLUMN_BLOCKS][4], Rows<S>& rows, float unit) {
    float rescale[S::BLOCKS][2];
    bool changed = false;
#pragma unroll
    for (int m = 0; m < S::BLOCKS; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float highest = rows.top[m][half];
#pragma unroll
            for (int n = 0; n < S::COLUMN_BLOCKS; ++n) {
                highest = gw::max_nan_free(highest, scores[m][n][2 * half]);
                highest = gw::max_nan_free(highest, scores[m][n][2 * half + 1]);
            }
            highest = quad_max(highest);
            // No key so far: any finite shift keeps exp2(−∞ − shift) = 0, where −∞ − −∞ would be NaN.
            const float shift = highest == -INFINITY ? 0.0f : highest * unit;
            rescale[m][half] = gw::exp2_approx(gw::fma(rows.top[m][half], unit, -shift));
            changed |= rescale[m][half] != 1.0f;
            rows.top[m][half] = highest;
            float sum = 0.0f;
#pragma unroll
            for (int n = 0; n < S::COLUMN_BLOCKS; ++n)
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; ++e) {
                    scores[m][n][e] = gw::exp2_approx(gw::fma(scores[m][n][e], unit, -shift));
                    sum += scores[m][n][e];
                }
            rows.total[m][half] = gw::fma(rows.total[m][half], rescale[m][half], sum);
        }
    if (gw::ballot(changed) == 0) return;  // times 1: the same bits
#pragma unroll
    for (int m = 0; m < S::BLOCKS; ++m)
#pragma unroll
        for (int n = 0; n < S::D / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) rows.sum[m][n][e] *= rescale[m][e / 2];
}

/// Where a pair lies. Made again after the loop over keys, which needs the registers.
struct Pair {
    const Call& c;
    Span s;
    int b, h;
    Matrix queries, keys, values, out, sums;

    GW_DEVICE Pair(const Call& call, const uint4* spans, int sample, int head, const void* q, const void* k, const void* v, void* o, void* lse)
        : c(call), s(load_span(spans, sample)), b(sample), h(head),
          queries(matrix(q, c.q, b, h, s.q_first, c.vectors & Q)),
          keys(key_matrix(c, k, c.k, b, h / (c.q_heads / c.kv_heads), s, c.vectors & K)),
          values(key_matrix(c, v, c.v, b, h / (c.q_heads / c.kv_heads), s, c.vectors & V)),
          out(matrix(o, c.o, b, h, s.q_first, c.vectors & O)),
          sums(matrix(lse, c.lse, b, h, s.q_first, false)) {}
};

/// Computes row `query` of o from the keys it sees, and from nothing else: one warp, a key a lane, then columns a lane.
template <typename S>
GW_DEVICE void repair_row(const Pair& pair, void* o, int query, float shift, float factor, float gate) {
    const Call& c = pair.c;
    const int lane = gw::opaque(threadIdx.x) % 32;
    const Range sight = keys_in_sight(c, pair.s, query, query);
    const i64 q_row = row_at(c, pair.queries, query);
    const float coefficient = static_cast<float>(c.coefficient);
    float sum[S::D / 32] = {};
#pragma unroll 1
    for (int first = sight.begin; first < sight.end; first += 32) {
        const int key = first + lane;
        float weight = 0.0f;
        bool taken = key < sight.end;
        if (taken) {
            const i64 k_row = row_at(c, pair.keys, key);
            float z = 0.0f;
#pragma unroll 1
            for (int d = 0; d < c.head_dim; ++d)
                z = gw::fma(load_number(pair.queries.base, q_row + d, c.type, 0.0f), load_number(pair.keys.base, k_row + d, c.type, 0.0f), z);
            z *= coefficient;
            if constexpr (!S::PLAIN) {
                const Logit<float> at = logit(c, pair.s, pair.b, pair.h, query, key, z, alibi_of<float>(c, pair.h));
                taken = at.seen && (!c.dropout || is_kept(c, stream_of(c), pair.b, pair.h, query, key));
                z = at.z;
            }
            weight = gw::exp2_approx(gw::fma(z, gw::LOG2_E, -shift));
        }
        const u32 all = gw::ballot(taken);
#pragma unroll 1
        for (int j = 0; j < 32; ++j) {
            if ((all >> j & 1u) == 0) continue;
            const float of_key = gw::shuffle(weight, j);
            const i64 v_row = row_at(c, pair.values, first + j) + lane;
#pragma unroll
            for (int x = 0; x < S::D / 32; ++x)
                if (lane + 32 * x < c.value_dim)
                    sum[x] = gw::fma(of_key, load_number(pair.values.base, v_row + 32 * x, c.type, 0.0f), sum[x]);
        }
        bool open = false;
#pragma unroll
        for (int x = 0; x < S::D / 32; ++x) open |= lane + 32 * x < c.value_dim && !gw::is_nan(sum[x]);
        if (gw::ballot(open) == 0) break;  // the row sees NaN: no key changes that
    }
    const i64 out = row_at(c, pair.out, query) + lane;
#pragma unroll
    for (int x = 0; x < S::D / 32; ++x)
        if (lane + 32 * x < c.value_dim) store_number(o, out + 32 * x, c.type, sum[x] * factor * gate);
}

/// Writes a warp's rows of o and lse. `tile`: where the rows go by, to leave as whole chunks.
template <typename S>
GW_DEVICE void finish(Rows<S>& rows, const Pair& pair, const Panels<S::D, S::ROWS>& tile, void* o, void* lse,
                      int first_row, float unit) {
    const Call& c = pair.c;
    const int thread = gw::opaque(threadIdx.x), lane = thread % 32, warp_row = thread / 32 * S::WARP_ROWS;
    const int count = min(S::ROWS, pair.s.q_len - first_row);
    float factor[S::BLOCKS][2], gate[S::BLOCKS][2], shift[S::BLOCKS][2];
    u32 poisoned = 0;  // bit 2m + half
    if (!S::PLAIN) rows.seen = quad_or(rows.seen);
#pragma unroll
    for (int m = 0; m < S::BLOCKS; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int local = warp_row + 16 * m + 8 * half + lane / 4, query = first_row + local;
            float weight = quad_sum(rows.total[m][half]);
            const bool seen = S::PLAIN ? !keys_in_sight(c, pair.s, query, query).empty() : (rows.seen >> (2 * m + half) & 1u) != 0;
            if (seen && rows.top[m][half] == -INFINITY) weight = NAN;  // scores of −∞ that are seen make NaN, as the formula does
            float highest = rows.top[m][half] * unit, scale = 1.0f;
            shift[m][half] = highest == -INFINITY ? 0.0f : highest;
            const bool sound = gw::is_finite(weight);
            if (c.sinks) {
                const float sink = load_term<float>(c.sinks, pair.h * c.sinks_step) * gw::LOG2_E;
                const float own = shift[m][half];
                highest = gw::max_nan_free(highest, sink);
                const float shared_shift = highest == -INFINITY ? 0.0f : highest;
                scale = rows.top[m][half] == -INFINITY ? 0.0f : gw::exp2_approx(own - shared_shift);
                weight = weight * scale + gw::exp2_approx(sink - shared_shift);
            }
            gate[m][half] = 1.0f;
            if (c.row_scale && local < count)
                gate[m][half] = load_term<float>(c.row_scale, pair.b * c.row_scale_at.batch + pair.h * c.row_scale_at.head +
                                                         (pair.s.q_first + query) * c.row_scale_at.row);
            // Dropout's scale here, not in the weights: 1/(1 − p) may exceed what 16 bits hold.
            factor[m][half] = scale * gw::rcp(weight) * static_cast<float>(c.keep_scale);
            float probe = 0.0f;
#pragma unroll
            for (int n = 0; n < S::D / 8; ++n)
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; ++e) {
                    probe = gw::fma(rows.sum[m][n][e], 0.0f, probe);
                    rows.sum[m][n][e] = seen ? rows.sum[m][n][e] * factor[m][half] * gate[m][half] : 0.0f;
                }
            poisoned |= static_cast<u32>(seen && sound && local < count && gw::is_nan(probe)) << (2 * m + half);
            if (local < count && lane % 4 == 0) {
                // A row that sees nothing but its sink: the logarithm of its own exponential.
                const float log_sum = !seen && !c.sinks ? -INFINITY : gw::fma(highest, gw::LN_2, ::logf(weight));
                store_number(lse, row_at(c, pair.sums, query), F32, log_sum);
            }
        }
    gw::sync_warp();  // a warp's rows of q are read by itself
#pragma unroll
    for (int m = 0; m < S::BLOCKS; ++m)
#pragma unroll
        for (int n = 0; n < S::D / 8; ++n)
            if (has_panel(n / PANEL_CHUNKS, c.value_dim))
                tile.put(warp_row + 16 * m, 8 * n, gw::pack16<S::BF16>(rows.sum[m][n][0], rows.sum[m][n][1]),
                         gw::pack16<S::BF16>(rows.sum[m][n][2], rows.sum[m][n][3]));
    gw::sync_warp();
    u16* const rows_of_o = static_cast<u16*>(o);
#pragma unroll 1
    for (int local = warp_row + lane / PANEL_CHUNKS; local < min(warp_row + S::WARP_ROWS, count); local += 32 / PANEL_CHUNKS) {
        const i64 row = row_at(c, pair.out, first_row + local);
#pragma unroll 1
        for (int chunk = lane % PANEL_CHUNKS; 8 * chunk < c.value_dim; chunk += PANEL_CHUNKS) {
            const uint4 x = tile.chunk(local, chunk);
            if (pair.out.vectors && 8 * chunk + 8 <= c.value_dim) {
                gw::store_global(reinterpret_cast<uint4*>(rows_of_o + row + 8 * chunk), x);
                continue;
            }
            const u32 words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
            for (int e = 0; e < 8; ++e)
                if (8 * chunk + e < c.value_dim) gw::store_global(rows_of_o + row + 8 * chunk + e, static_cast<u16>(words[e / 2] >> 16 * (e % 2)));
        }
    }
    if (gw::ballot(poisoned != 0) == 0) return;
    gw::sync_warp();  // the rows are written again
#pragma unroll
    for (int m = 0; m < S::BLOCKS; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const u32 lanes = gw::ballot((poisoned >> (2 * m + half) & 1u) != 0);
#pragma unroll 1
            for (int g = 0; g < 8; ++g)
                if (lanes >> 4 * g & 0xfu)
                    repair_row<S>(pair, o, first_row + warp_row + 16 * m + 8 * half + g, gw::shuffle(shift[m][half], 4 * g),
                                           gw::shuffle(factor[m][half], 4 * g), gw::shuffle(gate[m][half], 4 * g));
        }
}

template <typename S>
GW_DEVICE void forward_mma(Shared<u16> shared, const void* q, const void* k, const void* v, void* o, void* lse, const uint4* spans,
                           const Call& c) {
    typedef Panels<S::D, S::ROWS> Queries;
    typedef Panels<S::D, S::KEYS> Keys;
    const Queries queries(shared);
    const Shared<u16> stages = shared.slice(Queries::ELEMENTS, 4 * Keys::ELEMENTS);
    const auto keys_of = [&](int step) { return Keys(stages.slice(step % 2 * 2 * Keys::ELEMENTS)); };
    const auto values_of = [&](int step) { return Keys(stages.slice((step % 2 * 2 + 1) * Keys::ELEMENTS)); };
    const int warp_row = static_cast<int>(threadIdx.x) / 32 * S::WARP_ROWS;

    // What takes logits to base 2.
    const float unit = S::PLAIN ? static_cast<float>(c.coefficient * 1.4426950408889634074) : 1.0f;

    const i64 pairs = static_cast<i64>(c.batch) * c.q_heads;
    const int tiles = (c.q_len + S::ROWS - 1) / S::ROWS;
    const i64 items = active_count(c.counts, 0, pairs) * tiles;
    for (i64 item = blockIdx.x; item < items; item += gridDim.x) {
        const i64 at = pair_at(c.order, item / tiles);
        if (at >= pairs) continue;
        const int first_row = (tiles - 1 - static_cast<int>(item % tiles)) * S::ROWS;  // last first: under a causal mask it sees the most
        const int b = static_cast<int>(at / c.q_heads), h = static_cast<int>(at % c.q_heads);
        const Pair pair(c, spans, b, h, q, k, v, o, lse);
        const Span& s = pair.s;
        const int count = min(S::ROWS, s.q_len - first_row);
        if (count <= 0) continue;
        if (!s.valid) {
            for (int row = threadIdx.x / 32; row < count; row += S::WARPS)
                for (int column = threadIdx.x % 32; column < c.value_dim; column += 32)
                    store_number(o, row_at(c, pair.out, first_row + row) + column, c.type, NAN);
            for (int row = threadIdx.x; row < count; row += S::THREADS) store_number(lse, row_at(c, pair.sums, first_row + row), F32, NAN);
            continue;
        }
        const Range sight = keys_in_sight(c, s, first_row, first_row + count - 1);
        const Range steps = tiles_of(sight, S::KEYS);
        const auto stage = [&](int step) {
            const int first = step * S::KEYS, rows = min(S::KEYS, sight.end - first);
            stage_rows<S::THREADS>(keys_of(step), c, pair.keys, first, rows, c.head_dim);
            stage_rows<S::THREADS>(values_of(step), c, pair.values, first, rows, c.value_dim);
        };

        gw::sync_threads();  // nobody reads the tile before any more
        u32 kept_q[S::KEEP_Q ? S::D / 16 : 1][S::BLOCKS][4];
        stage_rows<S::THREADS>(queries, c, pair.queries, first_row, count, c.head_dim);
        if (!steps.empty()) stage(steps.begin);
        gw::cp_async_commit();
        if constexpr (S::KEEP_Q) {
            gw::cp_async_wait<0>();
            gw::sync_threads();  // q is there
#pragma unroll
            for (int column = 0; column < S::D; column += 16)
                if (has_panel(column / PANEL, c.head_dim))
#pragma unroll
                    for (int m = 0; m < S::BLOCKS; ++m) queries.load_a(kept_q[column / 16][m], warp_row + 16 * m, column);
        }

        Rows<S> rows;
        rows.seen = 0;
#pragma unroll
        for (int m = 0; m < S::BLOCKS; ++m) {
#pragma unroll
            for (int n = 0; n < S::D / 8; ++n)
#pragma unroll
                for (int e = 0; e < 4; ++e) rows.sum[m][n][e] = 0.0f;
#pragma unroll
            for (int half = 0; half < 2; ++half) rows.top[m][half] = -INFINITY, rows.total[m][half] = 0.0f;
        }
        const int first_query = first_row + warp_row, last_query = min(first_query + S::WARP_ROWS, s.q_len) - 1;
#pragma unroll 1
        for (int step = steps.begin; step < steps.end; ++step) {
            gw::cp_async_wait<0>();
            gw::sync_threads();  // this stage is there; nobody reads the other any more
            if (step + 1 < steps.end) stage(step + 1);
            gw::cp_async_commit();
            const int first_key = step * S::KEYS;
            const Sight here = sight_of(c, s, first_query, last_query, first_key, first_key + S::KEYS - 1);
            if (here == Sight::None) continue;
            float scores[S::BLOCKS][S::COLUMN_BLOCKS][4];
            multiply_keys<S>(scores, queries, kept_q, keys_of(step), warp_row, c.head_dim);
            u32 kept[S::BLOCKS];
            if constexpr (!S::PLAIN) {
                to_logits<S>(scores, kept, rows.seen, c, s, c.dropout ? stream_of(c) : c.stream, b, h, first_query + fragment_row(), first_key);
            } else if (here == Sight::Some) {
                hide<S>(scores, c, s, first_query + fragment_row(), first_key);
            }
            to_weights(scores, rows, unit);
            if (!S::PLAIN && c.dropout) {
#pragma unroll
                for (int m = 0; m < S::BLOCKS; ++m)
#pragma unroll
                    for (int n = 0; n < S::COLUMN_BLOCKS; ++n)
#pragma unroll
                        for (int e = 0; e < 4; ++e)
                            if ((kept[m] >> (4 * n + e) & 1u) == 0) scores[m][n][e] = 0.0f;
            }
            multiply_values<S>(rows.sum, scores, values_of(step), c.value_dim);
        }
        gw::cp_async_wait<0>();
        const Pair again(c, spans, gw::opaque(b), gw::opaque(h), q, k, v, o, lse);
        finish<S>(rows, again, queries, o, lse, first_row, unit);
    }
}

}  // namespace attention
