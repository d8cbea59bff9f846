// attention_plan: where each sample lies, how long it is, and whether what only the device knows about it is in range.
// Shapes    kv_len, query_offset [b], cu_q, cu_k [b+1], table [b, pages] integers of any type and stride; null: not used
//           spans [b] of 32 bytes: attention::Span in call.cuh
// Mapping   grid (b), block 128: thread 0 reads the lengths, all look through the sample's pages
// Shared    16 bytes
// Traffic   a few words a sample, and its pages
// Numerics  integers saturated to i32; a sample with a length, boundary or page out of range is marked, and reported in the
//           status words; none of its values is used as an index
// Host      rejects lengths > 2^30 − 64
// Twin      src/attention/cpu/sight.rs        Source  our own
#include "device.cuh"
#include "attention/call.cuh"

namespace attention {

struct PlanParams {
    i64 kv_len_step, offset_step, cu_q_step, cu_k_step, table_batch, table_step;
    i32 kv_len_kind, offset_kind, cu_q_kind, cu_k_kind, table_kind;
    i32 offset_mode, offset;
    i32 q_len, kv_len;    // longest of any sample
    i32 q_rows, k_rows;   // of packed tensors
    i32 page_rows, pages;
    i32 unused;
};

/// Sets a status word and returns false.
GW_DEVICE bool report(u32* status, int word) {
    gw::atomic_or_global(status + word, 1u);
    return false;
}

/// A packed sequence: rows `first` to `first + length`, or false.
GW_DEVICE bool boundaries(const u32* cu, i64 step, i32 kind, int b, i32 longest, i32 rows, i32& first, i32& length) {
    const i32 begin = read_id(cu, b * step, kind), end = read_id(cu, (b + 1) * step, kind);
    if (begin < 0 || end < begin || end > rows || end - begin > longest) return false;
    first = begin, length = end - begin;
    return true;
}

GW_DEVICE void plan(Shared<u32> shared, const u32* kv_len, const u32* query_offset, const u32* cu_q, const u32* cu_k,
                    const u32* table, uint4* spans, u32* status, const PlanParams& p) {
    constexpr int LENGTH = 0, PAGE = 5;  // Status in src/device/status.rs
    constexpr i32 FAR = 1 << 30;
    const int b = blockIdx.x;
    if (threadIdx.x == 0) {
        Span s = {0, p.q_len, 0, p.kv_len, 0, p.kv_len, true};
        if (cu_q && !boundaries(cu_q, p.cu_q_step, p.cu_q_kind, b, p.q_len, p.q_rows, s.q_first, s.q_len)) {
            s.q_first = s.q_len = 0;
            s.valid = report(status, LENGTH);
        }
        if (cu_k && !boundaries(cu_k, p.cu_k_step, p.cu_k_kind, b, p.kv_len, p.k_rows, s.k_first, s.slots)) {
            s.k_first = s.slots = 0;
            s.valid = report(status, LENGTH);
        }
        s.kv = kv_len ? read_id(kv_len, b * p.kv_len_step, p.kv_len_kind) : s.slots;
        if (s.kv < 0 || s.kv > s.slots) s.valid = report(status, LENGTH);
        s.offset = p.offset_mode == BOTTOM_RIGHT ? s.kv - s.q_len
                   : p.offset_mode == PER_SAMPLE ? read_id(query_offset, b * p.offset_step, p.offset_kind)
                                                 : p.offset;
        s.offset = min(max(s.offset, -FAR), FAR - 1);
        if (!s.valid) s.kv = 0;
        gw::store_global(spans + 2 * b, make_uint4(s.q_first, s.q_len, s.k_first, s.kv));
        gw::store_global(spans + 2 * b + 1, make_uint4(s.offset, s.slots, s.valid, 0));
        shared[0] = s.kv;
        shared[1] = s.offset;
        shared[2] = s.slots;
    }
    if (!table) return;
    gw::sync_threads();
    const int pages = (static_cast<int>(shared[0]) + p.page_rows - 1) / p.page_rows;
    bool wrong = false;
    for (int i = threadIdx.x; i < pages; i += THREADS) {
        const i32 page = read_id(table, b * p.table_batch + i * p.table_step, p.table_kind);
        wrong |= page < 0 || page >= p.pages;
    }
    if (wrong) {
        report(status, PAGE);
        // Every thread that finds one writes the same words; thread 0 wrote before the barrier.
        gw::store_global(spans + 2 * b, make_uint4(0, p.q_len, 0, 0));
        gw::store_global(spans + 2 * b + 1, make_uint4(shared[1], shared[2], 0, 0));
    }
}

}  // namespace attention

GW_KERNEL(attention::THREADS, 8)
attention_plan(const gw::u32* kv_len, const gw::u32* query_offset, const gw::u32* cu_q, const gw::u32* cu_k,
               const gw::u32* table, uint4* spans, gw::u32* status,
               const __grid_constant__ attention::PlanParams params) {
    GW_SHARED(gw::u32, shared);
    attention::plan(shared, kv_len, query_offset, cu_q, cu_k, table, spans, status, params);
}
GW_EXPORT(attention_plan)
