// task_heads_project_grad_y_f32: dy[b,h,s,d] = Σ_e dout[b,s,e]·w[t_b, h·Dv+d, e] where the gate is not 0, otherwise 0.
// Shapes    y, dy [batch, heads, rows, Dv] strided, last = 1; w [tasks, heads·Dv, E] strided, last = 1; out, dout [batch, rows, E] strided,
//           last = 1; dw [tasks, heads·Dv, E] contiguous; gates [batch, heads] f32; ids [batch] i32, u32 or i64 strided, or none: all
//           samples are of task 0
// Mapping   persistent, workgroup 256; a workgroup owns a 32 × 32 tile of the result, an invocation 2 × 2 of it; the depth in steps of 16. A tile of a pair whose gate is 0 is only cleared
// Shared    2 × 16 × 33 floats = 4224 bytes
// Traffic   dout once an active head and tile of Dv, w once a tile of rows
// FLOPs     2·rows·Dv·E an active (sample, head)
// Numerics  f32, depth ascending: the same bits whatever the grid. A NaN gate counts as active, so its rows come in
// Bad id    dy NaN where the gate is not 0; without a task 0; never used as an index
// Host      every element index < 2^32, batch · heads < 2^31, heads · Dv < 2^31, tasks < 2^31
// Twin      src/task_heads/cpu_project.rs        Source  our own
@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row_tiles = tiles(params.rows);
    let column_tiles = tiles(params.depth);
    for (var item = workgroup.x; item < params.batch * params.heads * row_tiles * column_tiles; item += workgroups.x) {
        let first_column = item % column_tiles * TILE;
        let first_row = item / column_tiles % row_tiles * TILE;
        let pair = item / column_tiles / row_tiles;
        let sample = pair / params.heads;
        let head = pair % params.heads;
        let task = task_of(sample);
        let is_on = is_active(pair);
        let is_taken = is_on && task >= 0;
        let depth = select(0u, params.width, is_taken);
        sums = array<f32, 4>();
        let dout = params.left_offset + sample * params.out_stride_b;
        let w = params.right_offset + u32(max(task, 0)) * params.w_stride_t + head * params.depth * params.w_stride_k;
        let a = Matrix(dout, params.out_stride_s, 1u, params.rows, depth);
        let b = Matrix(w, 1u, params.w_stride_k, depth, params.depth);
        add(a, b, first_row, first_column, is_taken, local);
        let dy = params.result_offset + sample * params.y_stride_b + head * params.y_stride_h;
        store(dy, params.y_stride_s, first_row, first_column, params.rows, params.depth, is_on && task == BAD_TASK, local);
    }
}
