// statevec_tasks: which row of theta each sample uses: its task id, checked once.
// Shapes    ids [samples] i32, u32 or i64 (low word first), strided; rows [samples] u32
// Mapping   block 256; a thread checks one sample
// Traffic   ids once, 4 bytes a sample out
// Bad id    all ones, which makes that sample's results NaN, and the status word is set
// Host      samples < 2^32, tasks < 2^31
// Twin      Problem::task_of_samples in src/statevec/problem.rs        Source  our own
#include "device.cuh"

namespace {

using gw::i64;
using gw::u32;

struct TasksParams {
    i64 id_step;
    u32 samples, tasks, id_kind;  // 0 i32, 1 u32, 2 i64
};

constexpr u32 STATUS_TASK_ID = 1;

}  // namespace

GW_KERNEL(256, 8) statevec_tasks(const u32* ids, u32* rows, u32* status, TasksParams p) {
    const i64 sample = static_cast<i64>(blockIdx.x) * 256 + threadIdx.x;
    if (sample >= p.samples) return;
    const i64 word = sample * p.id_step * (p.id_kind == 2 ? 2 : 1);
    // Tasks are below 2^31, so a negative id is too large as a u32.
    u32 row = gw::load_global_cached(ids + word);
    if (p.id_kind == 2 && gw::load_global_cached(ids + word + 1) != 0) row = 0xffffffffu;
    if (row >= p.tasks) {
        row = 0xffffffffu;
        gw::atomic_or_global(status + STATUS_TASK_ID, 1u);
    }
    gw::store_global(rows + sample, row);
}
GW_EXPORT(statevec_tasks)
