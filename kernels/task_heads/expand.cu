// task_heads_expand_f32: the gate of a sample's head, for every row of packed sequences.
// Shapes    gates [batch, heads] f32; starts [batch + 1] i32, u32 or i64; out [1, heads, all rows] f32 contiguous
// Mapping   persistent, block 256; a block takes one (sample, head), its threads the rows
// Shared    none
// Traffic   out once; rows of no sample are not written
// Host      batch · heads < 2^31
// Twin      src/task_heads/cpu.rs        Source  our own
#include "task_heads/rows.cuh"

namespace task_heads {

struct ExpandParams {
    i64 start_stride;
    u32 batch, heads, rows;  // rows: of the longest sample
    Starts starts;
};

}  // namespace task_heads

GW_KERNEL(256, 1)
task_heads_expand_f32(const float* gates, const gw::u32* starts, float* out, task_heads::ExpandParams p) {
    using namespace task_heads;
    for (u32 pair = blockIdx.x; pair < p.batch * p.heads; pair += gridDim.x) {
        const Rows own = rows_of(starts, p.start_stride, p.starts, pair / p.heads, p.rows);
        const float gate = gw::load_global_cached(gates + pair);
        float* to = out + static_cast<i64>(pair % p.heads) * p.starts.rows + own.first;
        for (u32 row = threadIdx.x; row < own.count; row += 256) gw::store_global(to + row, gate);
    }
}
GW_EXPORT(task_heads_expand_f32)
