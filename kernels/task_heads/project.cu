// task_heads_project_f32: out[b,s,e] = Σ_h Σ_d y[b,h,s,d]·w[t_b, h·Dv+d, e] over the heads whose gate is not 0.
// Shapes    y, dy [batch, heads, rows, Dv] strided, last = 1; w [tasks, heads·Dv, E] strided, last = 1; out, dout [batch, rows, E] strided,
//           last = 1; dw [tasks, heads·Dv, E] contiguous; gates [batch, heads] f32; ids [batch] i32, u32 or i64 strided, or none: all
//           samples are of task 0
// Mapping   persistent, block 256; a block owns a 64 × 64 tile of the result, a thread 4 × 4 of it; the depth in steps of 16. Heads whose gate is 0 are not taken
// Shared    2 × 16 × 65 floats = 8320 bytes
// Traffic   y of active pairs once a tile of E, w of their heads once a tile of rows; nothing of y where the gate is 0
// FLOPs     2·rows·Dv·E an active (sample, head)
// Numerics  f32, depth ascending: the same bits whatever the grid. A NaN gate counts as active, so its rows come in
// Bad id    out NaN; without a task 0; never used as an index
// Host      batch · heads < 2^31, heads · Dv < 2^31, tasks < 2^31
// Twin      src/task_heads/cpu_project.rs        Source  our own
#include "task_heads/project.cuh"

using namespace project;

GW_KERNEL(256, 1)
task_heads_project_f32(const float* y, const float* w, const float* gates, const u32* ids, float* out, ProjectParams p) {
    GW_SHARED(float, shared);
    const u32 row_tiles = tiles(p.rows), column_tiles = tiles(p.width);
    const i64 work = static_cast<i64>(p.batch) * row_tiles * column_tiles;
    for (i64 item = blockIdx.x; item < work; item += gridDim.x) {
        const u32 first_column = static_cast<u32>(item % column_tiles) * TILE;
        const u32 first_row = static_cast<u32>(item / column_tiles % row_tiles) * TILE;
        const i64 sample = item / column_tiles / row_tiles, task = task_of(ids, sample, p);
        Accumulator sum;
        for (u32 head = 0; head < p.heads && task >= 0; ++head) {
            if (gw::load_global_cached(gates + sample * p.heads + head) == 0.0f) continue;  // uniform over the block
            const Matrix a = {y + sample * p.y_stride_b + head * p.y_stride_h, p.y_stride_s, 1, p.rows, p.depth};
            const Matrix b = {w + task * p.w_stride_t + head * p.depth * p.w_stride_k, p.w_stride_k, 1, p.depth, p.width};
            sum.add(shared, a, b, first_row, first_column);
        }
        sum.store(out + sample * p.out_stride_b, p.out_stride_s, first_row, first_column, p.rows, p.width, task == BAD_TASK);
    }
}
GW_EXPORT(task_heads_project_f32)
