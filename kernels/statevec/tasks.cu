// statevec_tasks: which row of a table each sample uses: its task id, or the number of its basis state, checked once.
// Shapes    ids [samples] i32, u32 or i64 (low word first), strided; rows [samples] u32
// Mapping   persistent, block 256; a thread checks a sample
// Traffic   ids once, 4 bytes a sample out
// Bad id    all ones, which makes that sample's results NaN, and the status word is set
// Host      limit < 2^31
// Twin      Problem::task_of_samples in src/statevec/problem.rs        Source  our own
#include "device.cuh"

namespace {

using gw::u32;
using gw::u64;

struct TasksParams {
    u32 ids_first, rows_first;  // for shaders
    u32 step_low, step_high;    // ids
    u32 samples, limit, id_kind;  // 0 i32, 1 u32, 2 i64
    u32 status;                 // word to set
};

}  // namespace

GW_KERNEL(256, 8) statevec_tasks(const u32* ids, u32* rows, u32* status, TasksParams p) {
    const u64 step = static_cast<u64>(p.step_high) << 32 | p.step_low;
    for (u32 sample = blockIdx.x * 256u + threadIdx.x; sample < p.samples; sample += gridDim.x * 256u) {
        const u64 word = sample * step * (p.id_kind == 2 ? 2 : 1);
        // Limits are below 2^31, so a negative id is too large as a u32.
        u32 row = gw::load_global_cached(ids + word);
        if (p.id_kind == 2 && gw::load_global_cached(ids + word + 1) != 0) row = 0xffffffffu;
        if (row >= p.limit) {
            row = 0xffffffffu;
            gw::atomic_or_global(status + p.status, 1u);
        }
        gw::store_global(rows + sample, row);
    }
}
GW_EXPORT(statevec_tasks)
