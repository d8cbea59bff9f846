// fragments.cuh: tiles of 16-bit elements in shared memory, and the fragments that a warp's matrix products take from them.
//
// A tile is ROWS rows of D elements, D a multiple of 64, cut into panels of 64 columns: panel p holds [row][128 bytes], and chunk
// c (16 bytes, 8 elements) of a row lies at c ^ (row mod 8). No access here has a bank conflict:
//   staging   eight lanes write a panel's row: a permutation of its chunks
//   ldmatrix  eight lanes read one chunk of eight rows: eight distinct chunks
//   put       a quad writes a chunk's words, its eight rows distinct chunks
// Fragments are those of mma_m16n8k16 in device.cuh: g = lane / 4, t = lane mod 4. Element i of a C block of 16 × 8 is row
// g + 8·(i / 2), column 2t + i mod 2; a row's elements lie in the four lanes of a quad. Two C blocks side by side are, packed,
// one A block of 16 × 16: products are chained without a shuffle (arXiv:2307.08691).
#pragma once
#include "attention/call.cuh"

namespace attention {

constexpr int PANEL = 64;
constexpr int PANEL_CHUNKS = PANEL / 8;

/// Row and column of the lane's element 0 in a C block.
GW_DEVICE int fragment_row() { return static_cast<int>(threadIdx.x) % 32 / 4; }
GW_DEVICE int fragment_column() { return static_cast<int>(threadIdx.x) % 4 * 2; }

/// The largest, the sum and the union over the four lanes of a row.
GW_DEVICE float quad_max(float x) {
    x = gw::max_nan_free(x, gw::shuffle_xor(x, 1));
    return gw::max_nan_free(x, gw::shuffle_xor(x, 2));
}
GW_DEVICE float quad_sum(float x) {
    x += gw::shuffle_xor(x, 1);
    return x + gw::shuffle_xor(x, 2);
}
GW_DEVICE u32 quad_or(u32 x) {
    x |= gw::shuffle_xor(x, 1);
    return x | gw::shuffle_xor(x, 2);
}

/// Two neighbouring C blocks, 16 × 8 each, as one A block of 16 × 16, rounded to 16 bits.
template <bool BF16>
GW_DEVICE void pack_a(u32 (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = gw::pack16<BF16>(left[0], left[1]);
    a[1] = gw::pack16<BF16>(left[2], left[3]);
    a[2] = gw::pack16<BF16>(right[0], right[1]);
    a[3] = gw::pack16<BF16>(right[2], right[3]);
}

/// A tile. Its blocks of 16 × 16 begin at multiples of 16 (`row`, `column`) and are loaded by whole warps.
template <int D, int ROWS>
struct Panels {
    static constexpr int ELEMENTS = D * ROWS;
    static_assert(D % PANEL == 0 && ROWS % 16 == 0, "whole panels and blocks");

    Shared<u16> base;

    GW_DEVICE explicit Panels(Shared<u16> shared) : base(shared.slice(0, ELEMENTS)) {}

    /// Index of the first element of chunk `chunk` of row `row`.
    static GW_DEVICE int at(int row, int chunk) {
        return chunk / PANEL_CHUNKS * (ROWS * PANEL) + row * PANEL + ((chunk ^ row) & 7) * 8;
    }

    /// A block whose rows are the tile's: of tile · Y.
    GW_DEVICE void load_a(u32 (&a)[4], int row, int column) const { load<false>(a, row, column, down()); }

    /// A block whose rows are the tile's columns: of tileᵀ · Y.
    GW_DEVICE void load_a_turned(u32 (&a)[4], int row, int column) const { load<true>(a, row, column, across()); }

    /// B blocks whose columns are the tile's rows, of X · tileᵀ: b[0], b[1] for rows 0 to 7, b[2], b[3] for rows 8 to 15.
    GW_DEVICE void load_b(u32 (&b)[4], int row, int column) const { load<false>(b, row, column, across()); }

    /// B blocks whose columns are the tile's, of X · tile: b[0], b[1] for columns 0 to 7, b[2], b[3] for columns 8 to 15.
    GW_DEVICE void load_b_turned(u32 (&b)[4], int row, int column) const { load<true>(b, row, column, down()); }

    /// Writes the lane's part of a C block at (`row`, `column`), packed in pairs: rows g, and rows g + 8.
    GW_DEVICE void put(int row, int column, u32 upper, u32 lower) const {
        // Opaque: addresses for every block, kept through the loops before, would take a third of the registers.
        const int lane = gw::opaque(threadIdx.x) % 32, g = lane / 4, word = lane % 4;
        const Shared<u32> words = base.template cast<u32>();
        words[at(row + g, column / 8) / 2 + word] = upper;
        words[at(row + g + 8, column / 8) / 2 + word] = lower;
    }

    /// Reads a chunk, and writes one.
    GW_DEVICE uint4 chunk(int row, int chunk) const { return base.template cast<uint4>()[at(row, chunk) / 8]; }
    GW_DEVICE void set_chunk(int row, int chunk, uint4 value) const { base.template cast<uint4>()[at(row, chunk) / 8] = value; }

  private:
    // Where lane l's row of ldmatrix begins in the block at (0, 0): matrices one below the other, then to the right ...
    static GW_DEVICE int down() {
        const int lane = threadIdx.x % 32;
        return lane % 16 * PANEL + ((lane / 16 ^ lane) & 7) * 8;
    }
    // ... and side by side, then below.
    static GW_DEVICE int across() {
        const int lane = threadIdx.x % 32;
        return (lane % 8 + lane / 16 * 8) * PANEL + ((lane / 8 % 2 ^ lane) & 7) * 8;
    }
    // Steps of 16 columns flip bits 1 and 2 of the chunk: an exclusive or, whatever the lane.
    template <bool TURNED>
    GW_DEVICE void load(u32 (&out)[4], int row, int column, int lane) const {
        const int block = column / PANEL * (ROWS * PANEL) + row * PANEL;
        // Two steps: the lane's four addresses are found once, and blocks are constants added to them.
        gw::ldmatrix_x4<TURNED>(out, base.slice(lane ^ column % PANEL).slice(block, 8));
    }
};

/// Whether panel `panel` of a tile holds columns below `dims`: others are neither staged nor read.
GW_DEVICE bool has_panel(int panel, int dims) { return panel * PANEL < dims; }

/// The elements of a chunk, from `column` on; zeros at and beyond `dims`.
GW_DEVICE uint4 load_elements(const u16* row, int column, int dims) {
    u32 words[4] = {};
#pragma unroll
    for (int e = 0; e < 8; ++e)
        if (column + e < dims) words[e / 2] |= static_cast<u32>(gw::load_global_cached(row + column + e)) << 16 * (e % 2);
    return make_uint4(words[0], words[1], words[2], words[3]);
}

/// Brings rows first..first + count of a matrix of 16-bit elements into a tile; zeros in further rows, and in columns from `dims`
/// on. All THREADS of the block take part. The caller commits, waits and synchronises: whole chunks come by cp.async, where
/// Matrix::vectors says that each row begins at a multiple of 16 bytes.
template <int THREADS, int D, int ROWS>
GW_DEVICE void stage_rows(const Panels<D, ROWS>& tile, const Call& c, const Matrix& m, int first, int count, int dims) {
    const u16* base = static_cast<const u16*>(m.base);
    const int thread = gw::opaque(threadIdx.x), lane = thread % PANEL_CHUNKS;
#pragma unroll 1
    for (int row = thread / PANEL_CHUNKS; row < ROWS; row += THREADS / PANEL_CHUNKS) {
        const bool here = row < count;
        const u16* source = base + (here ? row_at(c, m, first + row) : 0);
#pragma unroll
        for (int panel = 0; panel < D / PANEL; ++panel) {
            if (!has_panel(panel, dims)) break;
            const int chunk = PANEL_CHUNKS * panel + lane;
            const bool any = here && 8 * chunk < dims;
            if (m.vectors && (!any || 8 * chunk + 8 <= dims)) {
                gw::cp_async16(tile.base.slice(Panels<D, ROWS>::at(row, chunk), 8), any ? source + 8 * chunk : base, any);
            } else {
                tile.set_chunk(row, chunk, any ? load_elements(source, 8 * chunk, dims) : make_uint4(0, 0, 0, 0));
            }
        }
    }
}

}  // namespace attention
