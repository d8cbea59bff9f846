// attention_append: new keys and values behind those a cache holds: row n of sample b becomes key kv_len[b] + n.
// Shapes    k_cache, v_cache [b,hk,slots,·] or pages [page,hk,row,·] with table [b, pages]; k, v [b,hk,new,·]; kv_len [b]; any
//           strides, last = 1, counted in units of 2 to 16 bytes, the widest that every row is a whole number of
// Mapping   grid of rows (b, hk, new), the block walks them with the grid's step; block 128: two warps copy k, two copy v
// Shared    none
// Traffic   k and v once in, once out
// Numerics  none: bytes are copied
// Host      rejects lengths > 2^30 − 64; a length without room, or a page outside the cache, is reported and not written
// Twin      src/attention/cpu/append.rs        Source  our own
#include "device.cuh"
#include "attention/call.cuh"

namespace attention {

struct AppendParams {
    Strides k_cache, v_cache, k, v;  // in units
    i64 kv_len_step, table_batch, table_step;
    i32 batch, heads, fresh, slots;
    i32 k_units, v_units;            // of a row
    i32 k_unit, v_unit;              // bytes: 2, 4, 8 or 16
    i32 kv_len_kind, table_kind, page_rows, pages;
};

template <typename T>
GW_DEVICE void copy_units(void* to, i64 to_row, const void* from, i64 from_row, int units) {
    constexpr int COPIERS = THREADS / 2;
    for (int i = threadIdx.x % COPIERS; i < units; i += COPIERS)
        gw::store_global(static_cast<T*>(to) + to_row + i, gw::load_global_cached(static_cast<const T*>(from) + from_row + i));
}

GW_DEVICE void append(void* k_cache, void* v_cache, const void* k, const void* v, const u32* kv_len, const u32* table,
                      u32* status, const AppendParams& p) {
    constexpr int LENGTH = 0, PAGE = 5;  // Status in src/device/status.rs
    const bool of_keys = threadIdx.x < THREADS / 2;
    const Strides& cache = of_keys ? p.k_cache : p.v_cache;
    const Strides& given = of_keys ? p.k : p.v;
    const i64 rows = static_cast<i64>(p.batch) * p.heads * p.fresh;
    for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const int n = static_cast<int>(row % p.fresh), h = static_cast<int>(row / p.fresh % p.heads);
        const int b = static_cast<int>(row / p.fresh / p.heads);
        const i32 length = read_id(kv_len, b * p.kv_len_step, p.kv_len_kind);
        if (length < 0 || length > p.slots - p.fresh) {
            if (threadIdx.x == 0) gw::atomic_or_global(status + LENGTH, 1u);
            continue;
        }
        const int key = length + n;
        i64 to = b * cache.batch + key * cache.row;
        if (table) {
            const i32 page = read_id(table, b * p.table_batch + key / p.page_rows * p.table_step, p.table_kind);
            if (page < 0 || page >= p.pages) {
                if (threadIdx.x == 0) gw::atomic_or_global(status + PAGE, 1u);
                continue;
            }
            to = page * cache.batch + key % p.page_rows * cache.row;
        }
        to += h * cache.head;
        const i64 from = b * given.batch + h * given.head + n * given.row;
        void* into = of_keys ? k_cache : v_cache;
        const void* source = of_keys ? k : v;
        const int units = of_keys ? p.k_units : p.v_units;
        switch (of_keys ? p.k_unit : p.v_unit) {
            case 2: copy_units<u16>(into, to, source, from, units); break;
            case 4: copy_units<u32>(into, to, source, from, units); break;
            case 8: copy_units<u64>(into, to, source, from, units); break;
            default: copy_units<uint4>(into, to, source, from, units); break;
        }
    }
}

}  // namespace attention

GW_KERNEL(attention::THREADS, 8)
attention_append(void* k_cache, void* v_cache, const void* k, const void* v, const gw::u32* kv_len, const gw::u32* table,
                 gw::u32* status, const __grid_constant__ attention::AppendParams params) {
    attention::append(k_cache, v_cache, k, v, kv_len, table, status, params);
}
GW_EXPORT(attention_append)
