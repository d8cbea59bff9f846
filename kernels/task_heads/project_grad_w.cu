// task_heads_project_grad_w_f32: dw[t, h·Dv+d, e] = Σ_b Σ_s y[b,h,s,d]·dout[b,s,e] over the samples of task t whose gate is not 0.
// Shapes    y, dy [batch, heads, rows, Dv] strided, last = 1; w [tasks, heads·Dv, E] strided, last = 1; out, dout [batch, rows, E] strided,
//           last = 1; dw [tasks, heads·Dv, E] contiguous; gates [batch, heads] f32; ids [batch] i32, u32 or i64 strided, or none: all
//           samples are of task 0
// Mapping   persistent, block 256; a block owns a 64 × 64 tile of the result, a thread 4 × 4 of it; the depth in steps of 16. Samples are taken in ascending order, those of other tasks and with gate 0 not at all: no atomics
// Shared    2 × 16 × 65 floats = 8320 bytes
// Traffic   y of active pairs once a tile of E, dout once an active head and tile of Dv
// FLOPs     2·rows·Dv·E an active (sample, head)
// Numerics  f32, depth ascending: the same bits whatever the grid. A NaN gate counts as active, so its rows come in
// Bad id    equals no task, so it is not summed; never used as an index
// Host      batch · heads < 2^31, heads · Dv < 2^31, tasks < 2^31
// Twin      src/task_heads/cpu_project.rs        Source  our own
#include "task_heads/project.cuh"

using namespace project;

GW_KERNEL(256, 1)
task_heads_project_grad_w_f32(const float* y, const float* dout, const float* gates, const u32* ids, float* dw, ProjectParams p) {
    GW_SHARED(float, shared);
    const u32 row_tiles = tiles(p.depth), column_tiles = tiles(p.width);
    const i64 work = static_cast<i64>(p.tasks) * p.heads * row_tiles * column_tiles;
    for (i64 item = blockIdx.x; item < work; item += gridDim.x) {
        const u32 first_column = static_cast<u32>(item % column_tiles) * TILE;
        const u32 first_row = static_cast<u32>(item / column_tiles % row_tiles) * TILE;
        const i64 of_head = item / column_tiles / row_tiles, task = of_head / p.heads, head = of_head % p.heads;
        Accumulator sum;
        for (i64 sample = 0; sample < p.batch; ++sample) {
            // Uniform over the block.
            if (task_of(ids, sample, p) != task || gw::load_global_cached(gates + sample * p.heads + head) == 0.0f) continue;
            const Matrix a = {y + sample * p.y_stride_b + head * p.y_stride_h, 1, p.y_stride_s, p.depth, p.rows};
            const Matrix b = {dout + sample * p.out_stride_b, p.out_stride_s, 1, p.rows, p.width};
            sum.add(shared, a, b, first_row, first_column);
        }
        float* of_task = dw + of_head * p.depth * p.width;
        sum.store(of_task, p.width, first_row, first_column, p.depth, p.width, false);
    }
}
GW_EXPORT(task_heads_project_grad_w_f32)
