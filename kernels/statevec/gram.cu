// statevec_gram_c64: G[s,i,j] = Σ_r conj(a[s,i,r])·b[s,j,r], the Gram matrix of two batches, or of a state's rows.
// Shapes    a [samples, rows, 2^length] c64, b [samples, columns, 2^length] c64, strided; qubits [kept] u32 ascending and
//           then [kept] as listed: if kept > 0 row i is the amplitudes whose listed qubits read i, within one state;
//           out [samples, rows, columns, splits] complex
// Mapping   persistent, block 256: a tile of 2^tile × 2^tile outputs, 2^(8 − 2·tile) threads an output share its sum
// Shared    two tiles of 512 amplitudes in padded rows, 8,448 bytes
// Traffic   a once a column tile, b once a row tile;  FLOPs 8·samples·rows·columns·2^length
// Numerics  sums of a tile's columns, then of tiles, then a tree over threads, then splits: the order depends on length only
// Host      samples · rows · columns · 2^splits < 2^31; tile ≤ 4
// Twin      src/statevec/readout/cpu.rs        Source  our own
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;
using gw::u64;

struct GramParams {
    u32 a_first, b_first, qubits_first, out_first;  // for shaders
    u32 a_sample_low, a_sample_high, a_row_low, a_row_high, b_sample_low, b_sample_high, b_row_low, b_row_high;  // elements
    u32 samples, rows, columns, length, kept, tile, splits;
    u32 transposed;  // out is G^T
};

constexpr u32 BLOCK = 256, AMPLITUDES = 512, PLANE = 528;

GW_DEVICE i64 wide(u32 low, u32 high) { return static_cast<i64>(static_cast<u64>(high) << 32 | low); }

// Element r of a row: zeros inserted at the kept qubits, ascending.
GW_DEVICE u32 element_of(const u32* qubits, u32 kept, u32 r) {
    for (u32 i = 0; i < kept; ++i) {
        const u32 q = gw::load_global_cached(qubits + i);
        r = (r >> q) << (q + 1u) | (r & ((1u << q) - 1u));
    }
    return r;
}

// Start of row i.
GW_DEVICE i64 row_of(const u32* qubits, u32 kept, u32 i, i64 row_step) {
    if (kept == 0) return i * row_step;
    u32 x = 0;
    for (u32 bit = 0; bit < kept; ++bit) {
        if ((i >> bit & 1u) != 0) x |= 1u << gw::load_global_cached(qubits + kept + bit);
    }
    return x;
}

GW_DEVICE void load_tile(gw::Shared<float2> tile, const float2* from, const u32* qubits, const GramParams& p, u32 first_row,
                         u32 rows, i64 row_step, u32 first) {
    const u32 width = AMPLITUDES >> p.tile;
    for (u32 i = threadIdx.x; i < AMPLITUDES; i += BLOCK) {
        const u32 row = i / width, column = i % width;
        const u32 r = first + column;
        const bool inside = first_row + row < rows && (r >> p.length) == 0;
        tile[row * (width + 1u) + column] =
            inside ? gw::load_global_cached(from + row_of(qubits, p.kept, first_row + row, row_step) +
                                            element_of(qubits, p.kept, r))
                   : make_float2(0.0f, 0.0f);
    }
}

}  // namespace

GW_KERNEL(256, 4)
statevec_gram_c64(const float2* a, const float2* b, const u32* qubits, float2* out, GramParams p) {
    GW_SHARED(float2, shared);
    const gw::Shared<float2> a_tile = shared.slice(0, PLANE), b_tile = shared.slice(PLANE, PLANE);
    const u32 thread = threadIdx.x;
    const u32 side = 1u << p.tile, sharers = BLOCK >> (2u * p.tile), width = AMPLITUDES >> p.tile;
    const u32 share = thread & (sharers - 1u);
    const u32 column = thread / sharers & (side - 1u), row = thread / sharers >> p.tile;
    const u32 row_tiles = (p.rows + side - 1u) >> p.tile, column_tiles = (p.columns + side - 1u) >> p.tile;
    const u32 chunk = 1u << (p.length - p.splits);
    const i64 work = static_cast<i64>(p.samples) * row_tiles * column_tiles << p.splits;
    for (i64 item = blockIdx.x; item < work; item += gridDim.x) {
        const u32 split = static_cast<u32>(item) & ((1u << p.splits) - 1u);
        i64 left = item >> p.splits;
        const u32 first_column = static_cast<u32>(left % column_tiles) << p.tile;
        left /= column_tiles;
        const u32 first_row = static_cast<u32>(left % row_tiles) << p.tile;
        const i64 sample = left / row_tiles;
        const float2* from_a = a + sample * wide(p.a_sample_low, p.a_sample_high);
        const float2* from_b = b + sample * wide(p.b_sample_low, p.b_sample_high);
        float2 total = make_float2(0.0f, 0.0f);
        for (u32 at = 0; at < chunk; at += width) {
            // Sync: slow warps still read the last tiles.
            gw::sync_threads();
            load_tile(a_tile, from_a, qubits, p, first_row, p.rows, wide(p.a_row_low, p.a_row_high), split * chunk + at);
            load_tile(b_tile, from_b, qubits, p, first_column, p.columns, wide(p.b_row_low, p.b_row_high), split * chunk + at);
            // Sync: the tiles are complete.
            gw::sync_threads();
            float2 sum = make_float2(0.0f, 0.0f);
            const u32 end = chunk < width ? chunk : width;
            for (u32 r = share; r < end; r += sharers) {
                const float2 u = a_tile[row * (width + 1u) + r], v = b_tile[column * (width + 1u) + r];
                sum = make_float2(gw::fma(u.y, v.y, gw::fma(u.x, v.x, sum.x)), gw::fma(-u.y, v.x, gw::fma(u.x, v.y, sum.y)));
            }
            total = make_float2(total.x + sum.x, total.y + sum.y);
        }
        // Sync: the tiles become the place where sharers add up.
        gw::sync_threads();
        shared[thread] = total;
        for (u32 half = sharers >> 1; half > 0; half >>= 1) {
            // Sync: a sharer adds what another wrote in the round before.
            gw::sync_threads();
            if (share < half) {
                const float2 other = shared[thread + half];
                shared[thread] = make_float2(shared[thread].x + other.x, shared[thread].y + other.y);
            }
        }
        const u32 i = first_row + row, j = first_column + column;
        if (share == 0 && i < p.rows && j < p.columns) {
            const i64 at = p.transposed != 0 ? (sample * p.columns + j) * p.rows + i : (sample * p.rows + i) * p.columns + j;
            gw::store_global(out + ((at << p.splits) + split), shared[thread]);
        }
    }
}
GW_EXPORT(statevec_gram_c64)
