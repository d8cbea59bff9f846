// task_heads_compact_f32: the stable list of selected (sample, head) pairs, and of the key heads they read.
// Shapes    gates [batch, heads] f32; order [batch·heads], kv_order [batch·kv_heads], counts [2], active [batch, heads] u32
// Mapping   grid 2, block 256: block 0 lists heads, block 1 key heads; a thread owns a run of neighbouring pairs, counts them, and
//           after one scan of the 256 counts writes them: selected pairs ascending, then the others ascending
// Shared    256 counts = 1 KiB
// Traffic   gates twice, every list once. One block is enough: 10^5 pairs are 400 KB
// Numerics  select 0: gate neither 0 nor NaN; 1: gate 0. A key head is listed if one of its group is selected and none is NaN
// Host      batch · heads < 2^31, heads a multiple of kv_heads
// Twin      src/task_heads/cpu.rs        Source  our own
#include "device.cuh"

namespace {

using gw::u32;

struct CompactParams {
    u32 pairs, key_pairs, group;
    u32 select;  // 0 active, 1 zero
};

constexpr u32 THREADS = 256;

GW_DEVICE bool is_selected(float gate, u32 select) {
    return select == 0 ? gate != 0.0f && !gw::is_nan(gate) : gate == 0.0f;
}

GW_DEVICE bool is_listed(const float* gates, u32 list, u32 index, const CompactParams& p) {
    if (list == 0) return is_selected(gw::load_global_cached(gates + index), p.select);
    bool any_selected = false, any_nan = false;
    for (u32 member = index * p.group; member < (index + 1) * p.group; ++member) {
        const float gate = gw::load_global_cached(gates + member);
        any_selected = any_selected || is_selected(gate, p.select);
        any_nan = any_nan || gw::is_nan(gate);
    }
    return any_selected && !any_nan;
}

}  // namespace

GW_KERNEL(256, 1)
task_heads_compact_f32(const float* gates, u32* order, u32* kv_order, u32* counts, u32* active, CompactParams p) {
    GW_SHARED(u32, before);
    const u32 list = blockIdx.x, thread = threadIdx.x;
    const u32 total = list == 0 ? p.pairs : p.key_pairs;
    const u32 run = total / THREADS + (total % THREADS != 0 ? 1 : 0);
    const u32 begin = min(thread * run, total), end = min(begin + run, total);
    u32 listed = 0;
    for (u32 i = begin; i < end; ++i) {
        const bool is = is_listed(gates, list, i, p);
        listed += is ? 1 : 0;
        if (list == 0) gw::store_global(active + i, is ? 1u : 0u);
    }

    // Inclusive scan; each step reads what the previous one wrote, then overwrites it.
    before[thread] = listed;
    gw::sync_threads();
    for (u32 distance = 1; distance < THREADS; distance *= 2) {
        const u32 earlier = thread >= distance ? before[thread - distance] : 0;
        gw::sync_threads();
        before[thread] += earlier;
        gw::sync_threads();
    }
    const u32 count = before[THREADS - 1];
    u32 front = before[thread] - listed;
    u32 back = count + begin - front;  // the others before `begin` follow the selected ones
    u32* out = list == 0 ? order : kv_order;
    for (u32 i = begin; i < end; ++i) {
        const u32 slot = is_listed(gates, list, i, p) ? front++ : back++;
        gw::store_global(out + slot, i);
    }
    if (thread == 0) gw::store_global(counts + list, count);
}
GW_EXPORT(task_heads_compact_f32)
