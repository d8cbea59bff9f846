// tile.cuh: what the attention kernels share: the problem's description, and products of tiles held in shared memory.
//
// A block of 128 threads is a grid of 8 × 16: thread (ty, tx) owns rows ty + 8i of a product and a few adjacent columns.
//
// Tiles are rows of D floats without padding. The 16-byte chunk c of row r lies at chunk c ^ (r mod 8), so that the eight
// lanes of a quarter-warp find distinct banks in each of the three access patterns:
//   rows     lanes of one ty read one chunk (broadcast); the warp's two ty differ in r mod 8
//   columns  lane tx reads chunk c of slot 16j + tx: eight neighbours differ in r mod 8
//   values   lane tx reads chunk tx of one row: a permutation of adjacent chunks
// A streamed tile is stored by slots: slot 16j + tx holds row PER·tx + j, so the PER columns of a thread are adjacent rows
// and its weights go to shared memory as one vector.
#pragma once
#include "device.cuh"

namespace attention {

using gw::i32;
using gw::i64;
using gw::Shared;
using gw::u32;

constexpr int LANES_X = 16;
constexpr int LANES_Y = 8;
constexpr int THREADS = LANES_X * LANES_Y;

/// Steps in elements; the last dimension is contiguous. 0 along a dimension of size 1.
struct Strides {
    i64 batch, head, row;
};

/// Where query 0 stands among the keys.
enum OffsetMode : i32 { BOTTOM_RIGHT = 0, FIXED = 1, PER_SAMPLE = 2 };

/// Tensors whose rows can be read and written 16 bytes at a time: bits of Problem::vectors.
enum Vectors : u32 { Q = 1, K = 2, V = 4, O = 8, GRAD_O = 16, DQ = 32, DK = 64, DV = 128 };

/// The validated call, as src/attention/cuda.rs fills it in.
struct Problem {
    Strides q, k, v, row_scale;
    i64 kv_len_stride, offset_stride;
    i32 batch, q_heads, kv_heads, q_len, kv_slots, head_dim, value_dim;
    i32 causal, offset_mode, offset;
    i32 kv_len_kind, offset_kind;  // 0 = i32, 1 = u32, 2 = i64
    float scale;
    u32 vectors;
};

/// One sample's keys: how many, and where query 0 stands among them. `valid` is false where kv_len is out of range.
struct Sample {
    i32 kv, offset;
    bool valid;
};

/// Element `index` of an integer tensor, saturated to i32.
GW_DEVICE i32 read_id(const u32* ids, i64 index, i32 kind) {
    if (kind != 2) {
        const u32 word = gw::load_global_cached(ids + index);
        return kind == 1 && word > 0x7fffffffu ? 0x7fffffff : static_cast<i32>(word);
    }
    const u32 low = gw::load_global_cached(ids + 2 * index);
    const i32 high = static_cast<i32>(gw::load_global_cached(ids + 2 * index + 1));
    const i32 sign = static_cast<i32>(low) >> 31;  // what `high` is if the number fits 32 bits
    if (high == sign) return static_cast<i32>(low);
    return high < 0 ? static_cast<i32>(0x80000000u) : 0x7fffffff;
}

/// Reads a sample's length and offset. A length outside 0..=kv_slots is reported in the status word and never used.
GW_DEVICE Sample read_sample(const Problem& p, int b, const u32* kv_len, const u32* query_offset, u32* status) {
    Sample sample = {p.kv_slots, p.offset, true};
    if (kv_len) {
        sample.kv = read_id(kv_len, b * p.kv_len_stride, p.kv_len_kind);
        if (sample.kv < 0 || sample.kv > p.kv_slots) {
            constexpr int LENGTH = 0;  // Status::Length in src/device/status.rs
            if (threadIdx.x == 0) gw::atomic_or_global(status + LENGTH, 1u);
            return {0, 0, false};
        }
    }
    if (p.offset_mode == BOTTOM_RIGHT) sample.offset = sample.kv - p.q_len;
    if (p.offset_mode == PER_SAMPLE) sample.offset = read_id(query_offset, b * p.offset_stride, p.offset_kind);
    // The host admits lengths up to 2^30 - 64: beyond ±2^30 all or nothing is visible, and positions fit 32 bits.
    constexpr i32 FAR = 1 << 30;
    sample.offset = min(max(sample.offset, -FAR), FAR - 1);
    return sample;
}

/// The last key position that query `row` may see; keys end at `sample.kv` besides.
GW_DEVICE i32 last_position(const Problem& p, const Sample& sample, int row) {
    return p.causal ? sample.offset + row : 0x7fffffff - LANES_Y * LANES_Y;
}

/// How many tiles of `tile` keys some query up to `row` sees.
GW_DEVICE int visible_tiles(const Problem& p, const Sample& sample, int row, int tile) {
    const i32 keys = p.causal ? min(sample.kv, sample.offset + row + 1) : sample.kv;
    return keys > 0 ? (keys + tile - 1) / tile : 0;
}

/// How many of `total` listed pairs are active; without a list, all.
GW_DEVICE i64 active_count(const u32* counts, int which, i64 total) {
    return counts ? min(static_cast<i64>(gw::load_global_cached(counts + which)), total) : total;
}

/// Entry `index` of a list of pairs; without a list, `index`. The caller skips what is not below `total`.
GW_DEVICE i64 pair_at(const u32* order, i64 index) {
    return order ? static_cast<i64>(gw::load_global_cached(order + index)) : index;
}

/// Row `row` of head `head` of sample `b`.
template <typename T>
GW_DEVICE T* matrix_of(T* base, const Strides& strides, int b, int head, int row) {
    return base + b * strides.batch + head * strides.head + row * strides.row;
}

GW_DEVICE int chunks_of(int dims) { return (dims + 3) / 4; }

/// Position of chunk `chunk` of row `row`, in floats.
template <int D>
GW_DEVICE int chunk_at(int row, int chunk) {
    return row * D + 4 * (chunk ^ (row & 7));
}

/// Slot of row `row` in a streamed tile whose threads own PER adjacent rows.
template <int PER>
GW_DEVICE int slot_of(int row) {
    return (row % PER) * LANES_X + row / PER;
}

/// Starts the copy of `rows` rows of a matrix into a tile. Rows beyond, and the end of the last chunk, become 0.
///
/// PER = 1 keeps the order of rows; otherwise they go to their slots. Chunks beyond `dims` are left as they are.
template <int D, int ROWS, int PER>
GW_DEVICE void stage(Shared<float> tile, const float* matrix, i64 stride, int rows, int dims, bool vectors) {
    constexpr int CHUNKS = D / 4;
    const int tid = threadIdx.x;
    const int chunk = tid % CHUNKS;
    if (chunk >= chunks_of(dims)) return;
#pragma unroll 1
    for (int slot = tid / CHUNKS; slot < ROWS; slot += THREADS / CHUNKS) {
        const int row = PER == 1 ? slot : (slot % LANES_X) * PER + slot / LANES_X;
        const float* source = matrix + row * stride + 4 * chunk;
        const int at = chunk_at<D>(slot, chunk);
        if (vectors) {
            gw::cp_async16(tile.slice(at, 4), source, row < rows);
        } else {
            for (int e = 0; e < 4; ++e)
                gw::cp_async4(tile.slice(at + e, 1), source + e, row < rows && 4 * chunk + e < dims);
        }
    }
}

/// product[i][j] = Σ_d rows[ty + 8i][d] · columns[slot 16j + tx][d], d over `chunks` chunks.
template <int D, int PER_Y, int PER_X>
GW_DEVICE void scores(float (&product)[PER_Y][PER_X], Shared<float> rows, Shared<float> columns, int chunks) {
    const int tx = threadIdx.x % LANES_X, ty = threadIdx.x / LANES_X;
    for (int i = 0; i < PER_Y; ++i)
        for (int j = 0; j < PER_X; ++j) product[i][j] = 0.0f;
#pragma unroll 1  // more in flight would spill
    for (int c = 0; c < chunks; ++c) {
        float4 b[PER_X];
#pragma unroll
        for (int j = 0; j < PER_X; ++j) b[j] = columns.load4(chunk_at<D>(LANES_X * j + tx, c));
#pragma unroll
        for (int i = 0; i < PER_Y; ++i) {
            const float4 a = rows.load4(chunk_at<D>(ty + LANES_Y * i, c));
#pragma unroll
            for (int j = 0; j < PER_X; ++j) {
                float sum = product[i][j];
                sum = gw::fma(a.x, b[j].x, sum);
                sum = gw::fma(a.y, b[j].y, sum);
                sum = gw::fma(a.z, b[j].z, sum);
                product[i][j] = gw::fma(a.w, b[j].w, sum);
            }
        }
    }
}

/// Writes a thread's weights, rows ty + 8i and PER_X adjacent columns, to a tile of COLUMNS floats a row.
template <int COLUMNS, int PER_Y, int PER_X>
GW_DEVICE void store_weights(Shared<float> weights, const float (&value)[PER_Y][PER_X]) {
    const int tx = threadIdx.x % LANES_X, ty = threadIdx.x / LANES_X;
#pragma unroll
    for (int i = 0; i < PER_Y; ++i) {
        const int row = ty + LANES_Y * i;
        if constexpr (PER_X == 4) {
            weights.store4(chunk_at<COLUMNS>(row, tx),
                       make_float4(value[i][0], value[i][1], value[i][2], value[i][3]));
        } else {
            static_assert(PER_X == 2, "a thread owns two or four columns");
            const int at = chunk_at<COLUMNS>(row, tx / 2) + 2 * (tx % 2);
            weights.template cast<float2>()[at / 2] = make_float2(value[i][0], value[i][1]);
        }
    }
}

/// Which positions of a tile take part. A masked one is left out of the sum altogether: 0 · NaN would be NaN.
enum class Mask { None, UpTo, From };

/// The columns of an output row that a thread owns: groups of WIDTH, WIDTH · 16 apart.
template <int D>
struct Columns {
    static constexpr int WIDTH = D >= 64 ? 4 : 2;
    static constexpr int GROUPS = D / (LANES_X * WIDTH);
    static constexpr int COUNT = WIDTH * GROUPS;
    static GW_DEVICE int first(int group) { return WIDTH * (static_cast<int>(threadIdx.x) % LANES_X + LANES_X * group); }
};

template <int D>
GW_DEVICE void load_columns(float (&out)[Columns<D>::WIDTH], Shared<float> tile, int slot, int column) {
    if constexpr (D >= 64) {
        const float4 x = tile.load4(chunk_at<D>(slot, column / 4));
        out[0] = x.x, out[1] = x.y, out[2] = x.z, out[3] = x.w;
    } else {
        const float2 x = tile.template cast<float2>()[(chunk_at<D>(slot, column / 4) + column % 4) / 2];
        out[0] = x.x, out[1] = x.y;
    }
}

/// sum[i][·] += Σ_j weights[ty + 8i][j] · values[j][·], j < count rounded up to 4 (weights there must be 0, values finite).
///
/// PER is the tile's slot order (1: none). With Mask::UpTo only j ≤ bound + 8i take part, with Mask::From only
/// j ≥ bound + 8i. Columns at and beyond `dims` are not touched.
template <int D, int COLUMNS, int PER, Mask MASK, int PER_Y>
GW_DEVICE void accumulate(float (&sum)[PER_Y][Columns<D>::COUNT], Shared<float> weights, Shared<float> values,
                          int count, int dims, int bound) {
    constexpr int WIDTH = Columns<D>::WIDTH, GROUPS = Columns<D>::GROUPS;
    const int ty = threadIdx.x / LANES_X;
#pragma unroll 1
    for (int quad = 0; quad < (count + 3) / 4; ++quad) {
        float w[PER_Y][4];
#pragma unroll
        for (int i = 0; i < PER_Y; ++i) {
            const float4 x = weights.load4(chunk_at<COLUMNS>(ty + LANES_Y * i, quad));
            w[i][0] = x.x, w[i][1] = x.y, w[i][2] = x.z, w[i][3] = x.w;
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const int j = 4 * quad + e;
            const int slot = slot_of<PER>(j);
#pragma unroll
            for (int group = 0; group < GROUPS; ++group) {
                const int column = Columns<D>::first(group);
                if (column >= dims) continue;
                float value[WIDTH];
                load_columns<D>(value, values, PER == 1 ? j : slot, column);
#pragma unroll
                for (int i = 0; i < PER_Y; ++i) {
                    const int limit = bound + LANES_Y * i;
                    const bool taken = MASK == Mask::None || (MASK == Mask::UpTo ? j <= limit : j >= limit);
#pragma unroll
                    for (int x = 0; x < WIDTH; ++x) {
                        float& target = sum[i][group * WIDTH + x];
                        if (taken) target = gw::fma(w[i][e], value[x], target);
                    }
                }
            }
        }
    }
}

/// `accumulate` with the mask where the tile has masked positions, without where it has none.
template <int D, int COLUMNS, int PER, Mask MASK, int PER_Y>
GW_DEVICE void accumulate_if(bool masked, float (&sum)[PER_Y][Columns<D>::COUNT], Shared<float> weights,
                             Shared<float> values, int count, int dims, int bound) {
    if (masked) {
        accumulate<D, COLUMNS, PER, MASK>(sum, weights, values, count, dims, bound);
    } else {
        accumulate<D, COLUMNS, PER, Mask::None>(sum, weights, values, count, dims, bound);
    }
}

/// Writes a thread's columns of one row.
template <int D>
GW_DEVICE void store_row(float* row, const float* value, int dims, bool vectors) {
    constexpr int WIDTH = Columns<D>::WIDTH;
#pragma unroll
    for (int group = 0; group < Columns<D>::GROUPS; ++group) {
        const int column = Columns<D>::first(group);
        const float* x = value + group * WIDTH;
        if (WIDTH == 4 && vectors) {
            if (column < dims)
                gw::store_global(reinterpret_cast<float4*>(row + column), make_float4(x[0], x[1], x[2], x[3]));
            continue;
        }
#pragma unroll
        for (int e = 0; e < WIDTH; ++e)
            if (column + e < dims) gw::store_global(row + column + e, x[e]);
    }
}

/// Fills rows first, first + 8, … below `rows` of a matrix with one value: gradients that are 0, outputs that are NaN.
template <int D>
GW_DEVICE void fill_rows(float* matrix, i64 stride, int rows, int dims, bool vectors, float value) {
    float filled[Columns<D>::COUNT];
    for (int x = 0; x < Columns<D>::COUNT; ++x) filled[x] = value;
    for (int row = threadIdx.x / LANES_X; row < rows; row += LANES_Y)
        store_row<D>(matrix + row * stride, filled, dims, vectors);
}

/// The sum over the 16 lanes that share rows.
GW_DEVICE float sum_over_lanes(float x) {
    for (int distance = LANES_X / 2; distance > 0; distance /= 2) x += gw::shuffle_xor(x, distance);
    return x;
}

GW_DEVICE float max_over_lanes(float x) {
    for (int distance = LANES_X / 2; distance > 0; distance /= 2)
        x = gw::max_nan_free(x, gw::shuffle_xor(x, distance));
    return x;
}

}  // namespace attention
