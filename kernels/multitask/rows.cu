// multitask_rows: which task each row counts for, and its label, ids and labels checked: what every other kernel reads.
// Shapes    ids [batch] i32, u32 or i64 strided (mixed); labels [batch, columns] integers strided, or targets [batch, columns, width]
//           f32, last = 1; widths [tasks] u32 or none; rows [2·batch·columns + 1] u32; zeroed [zero_count] u32
// Mapping   persistent, block 128; a thread owns a row; all threads clear `zeroed`
// Traffic   ids, labels once; 8 bytes a row written
// Numerics  NaN targets are told by their bits
// Bad id    row marked BAD_TASK or BAD_LABEL, status word set, never used as an index
// Host      batch · columns < 2^31, tasks < 2^31, widths ≤ width
// Twin      src/multitask/cpu.rs        Source  our own
#include "multitask/common.cuh"

namespace {

using namespace multitask;

struct RowsParams {
    i64 id_stride, label_stride_b, label_stride_t;
    u32 batch, columns, tasks;
    u32 mixed;       // tasks are ids; otherwise column t is task t
    u32 id_kind;     // 0 i32, 1 u32, 2 i64 (low word first)
    u32 label_kind;  // the same, 3 f32 targets
    u32 ignore_low, ignore_high;
    u32 width;       // classes, or elements of a target
    u32 has_widths;
    u32 ignore_nan;  // a row with a NaN target is left out
    u32 zero_count;
};

constexpr u32 STATUS_TASK_ID = 1;
constexpr u32 STATUS_LABEL = 3;

struct Wide {
    u32 low, high;
};

GW_DEVICE Wide integer(const u32* words, i64 index, u32 kind) {
    const u32 low = gw::load_global(words + (kind == 2 ? 2 * index : index));
    if (kind == 2) return {low, gw::load_global(words + 2 * index + 1)};
    return {low, kind == 0 && low >> 31 != 0 ? 0xffffffffu : 0u};
}

GW_DEVICE u32 task_of(const u32* ids, i64 sample, u32 column, const RowsParams& p) {
    if (!p.mixed) return column;
    const Wide id = integer(ids, sample * p.id_stride, p.id_kind);
    if (id.low == 0xffffffffu && (p.id_kind == 1 || id.high == 0xffffffffu)) return NO_TASK;
    return id.high == 0 && id.low < p.tasks ? id.low : BAD_TASK;
}

GW_DEVICE bool any_nan(const u32* targets, u32 width) {
    for (u32 i = 0; i < width; ++i) {
        if ((gw::load_global_cached(targets + i) & 0x7fffffffu) > 0x7f800000u) return true;
    }
    return false;
}

}  // namespace

GW_KERNEL(128, 1)
multitask_rows(const u32* ids, const u32* labels, const u32* widths, u32* rows, u32* zeroed, u32* status, RowsParams p) {
    const i64 count = static_cast<i64>(p.batch) * p.columns;
    const i64 first = static_cast<i64>(blockIdx.x) * 128 + threadIdx.x, step = static_cast<i64>(gridDim.x) * 128;
    for (i64 i = first; i < p.zero_count; i += step) gw::store_global(zeroed + i, 0u);
    for (i64 row = first; row < count; row += step) {
        const i64 sample = row / p.columns;
        const u32 column = static_cast<u32>(row % p.columns);
        u32 task = task_of(ids, sample, column, p), label = 0;
        if (task == BAD_TASK) {
            gw::atomic_or_global(status + STATUS_TASK_ID, 1);
        } else if (task != NO_TASK) {
            const u32 width = p.has_widths ? gw::load_global_cached(widths + task) : p.width;
            const i64 at = sample * p.label_stride_b + column * p.label_stride_t;
            if (p.label_kind == 3) {
                if (p.ignore_nan && any_nan(labels + at, width)) task = NO_TASK;
            } else {
                const Wide value = integer(labels, at, p.label_kind);
                if (value.low == p.ignore_low && value.high == p.ignore_high) {
                    task = NO_TASK;
                } else if (value.high == 0 && value.low < width) {
                    label = value.low;
                } else {
                    label = BAD_LABEL;
                    gw::atomic_or_global(status + STATUS_LABEL, 1);
                }
            }
        }
        gw::store_global(rows + row, task);
        gw::store_global(rows + count + row, label);
    }
}
GW_EXPORT(multitask_rows)
