// task_heads_project_grad_y_f32: dy[b,h,s,d] = Σ_e dout[b,s,e]·w[t_b, h·Dv+d, e] where the gate is not 0, otherwise 0.
// Shapes    y, dy [batch, heads, rows, Dv] strided, last = 1; w [tasks, heads·Dv, E] strided, last = 1; out, dout [batch, rows, E] strided,
//           last = 1; dw [tasks, heads·Dv, E] contiguous; gates [batch, heads] f32; ids [batch] i32, u32 or i64 strided, or none: all
//           samples are of task 0
// Mapping   persistent, block 256; a block owns a 64 × 64 tile of the result, a thread 4 × 4 of it; the depth in steps of 16. A tile of a pair whose gate is 0 is only cleared
// Shared    2 × 16 × 65 floats = 8320 bytes
// Traffic   dout once an active head and tile of Dv, w once a tile of rows
// FLOPs     2·rows·Dv·E an active (sample, head)
// Numerics  f32, depth ascending: the same bits whatever the grid. A NaN gate counts as active, so its rows come in
// Bad id    dy NaN where the gate is not 0; without a task 0; never used as an index
// Host      batch · heads < 2^31, heads · Dv < 2^31, tasks < 2^31
// Twin      src/task_heads/cpu_project.rs        Source  our own
#include "task_heads/project.cuh"

using namespace project;

GW_KERNEL(256, 1)
task_heads_project_grad_y_f32(const float* dout, const float* w, const float* gates, const u32* ids, float* dy, ProjectParams p) {
    GW_SHARED(float, shared);
    const u32 row_tiles = tiles(p.rows), column_tiles = tiles(p.depth);
    const i64 work = static_cast<i64>(p.batch) * p.heads * row_tiles * column_tiles;
    for (i64 item = blockIdx.x; item < work; item += gridDim.x) {
        const u32 first_column = static_cast<u32>(item % column_tiles) * TILE;
        const u32 first_row = static_cast<u32>(item / column_tiles % row_tiles) * TILE;
        const i64 pair = item / column_tiles / row_tiles, sample = pair / p.heads, head = pair % p.heads;
        const i64 task = task_of(ids, sample, p);
        const bool is_active = gw::load_global_cached(gates + pair) != 0.0f;
        Accumulator sum;
        if (is_active && task >= 0) {  // uniform over the block
            const Matrix a = {dout + sample * p.out_stride_b, p.out_stride_s, 1, p.rows, p.width};
            const Matrix b = {w + task * p.w_stride_t + head * p.depth * p.w_stride_k, 1, p.w_stride_k, p.width, p.depth};
            sum.add(shared, a, b, first_row, first_column);
        }
        float* of_pair = dy + sample * p.y_stride_b + head * p.y_stride_h;
        sum.store(of_pair, p.y_stride_s, first_row, first_column, p.rows, p.depth, is_active && task == BAD_TASK);
    }
}
GW_EXPORT(task_heads_project_grad_y_f32)
