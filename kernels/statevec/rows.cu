// statevec_rows: copies rows of words: each trajectory its sample's, or some rows picked or put back.
// Shapes    source [rows, width] u32 strided; index [count] u32; out [rows, width] u32, rows strided
// Mapping   persistent, block 256; a thread owns a word
// Traffic   8 bytes a word
// Host      nothing: indices come from the host
// Twin      src/statevec/dynamic/rows.rs        Source  our own
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;
using gw::u64;

struct RowsParams {
    u32 source_first, index_first, out_first;  // for shaders
    u32 source_low, source_high, out_low, out_high;  // words from row to row
    u32 column_step;                                 // of the source, in words of `words`
    u32 words;                                       // of an element: 1, or 2 for complex numbers
    u32 count_low, count_high;                       // elements in all
    u32 width;                                       // elements of a row
    u32 mode;                                        // 0 row (first + i) / repeat, 1 from row index[i], 2 to row index[i]
    u32 first_low, first_high, repeat;
};

GW_DEVICE u64 wide(u32 low, u32 high) { return static_cast<u64>(high) << 32 | low; }

}  // namespace

GW_KERNEL(256, 8) statevec_rows(const u32* source, const u32* index, u32* out, RowsParams p) {
    const u64 count = wide(p.count_low, p.count_high);
    for (u64 at = blockIdx.x * 256u + threadIdx.x; at < count; at += gridDim.x * 256u) {
        const u64 row = at / p.width, column = at % p.width;
        u64 from = row, to = row;
        if (p.mode == 0) from = (wide(p.first_low, p.first_high) + row) / p.repeat;
        if (p.mode == 1) from = gw::load_global_cached(index + row);
        if (p.mode == 2) to = gw::load_global_cached(index + row);
        const u32* read = source + from * wide(p.source_low, p.source_high) + column * p.column_step * p.words;
        u32* write = out + to * wide(p.out_low, p.out_high) + column * p.words;
        for (u32 word = 0; word < p.words; ++word) gw::store_global(write + word, gw::load_global(read + word));
    }
}
GW_EXPORT(statevec_rows)
