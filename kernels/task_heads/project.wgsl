// task_heads_project_f32: out[b,s,e] = Σ_h Σ_d y[b,h,s,d]·w[t_b, h·Dv+d, e] over the heads whose gate is not 0.
// Shapes    y, dy [batch, heads, rows, Dv] strided, last = 1; w [tasks, heads·Dv, E] strided, last = 1; out, dout [batch, rows, E] strided,
//           last = 1; dw [tasks, heads·Dv, E] contiguous; gates [batch, heads] f32; ids [batch] i32, u32 or i64 strided, or none: all
//           samples are of task 0
// Mapping   persistent, workgroup 256; a workgroup owns a 32 × 32 tile of the result, an invocation 2 × 2 of it; the depth in steps of 16. Heads whose gate is 0 are not taken
// Shared    2 × 16 × 33 floats = 4224 bytes
// Traffic   y of active pairs once a tile of E, w of their heads once a tile of rows; nothing of y where the gate is 0
// FLOPs     2·rows·Dv·E an active (sample, head)
// Numerics  f32, depth ascending: the same bits whatever the grid. A NaN gate counts as active, so its rows come in
// Bad id    out NaN; without a task 0; never used as an index
// Host      every element index < 2^32, batch · heads < 2^31, heads · Dv < 2^31, tasks < 2^31
// Twin      src/task_heads/cpu_project.rs        Source  our own
@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row_tiles = tiles(params.rows);
    let column_tiles = tiles(params.width);
    for (var item = workgroup.x; item < params.batch * row_tiles * column_tiles; item += workgroups.x) {
        let first_column = item % column_tiles * TILE;
        let first_row = item / column_tiles % row_tiles * TILE;
        let sample = item / column_tiles / row_tiles;
        let task = task_of(sample);
        sums = array<f32, 4>();
        for (var head = 0u; head < params.heads; head += 1u) {
            // A head that is not taken has depth 0.
            let is_taken = task >= 0 && is_active(sample * params.heads + head);
            let depth = select(0u, params.depth, is_taken);
            let y = params.left_offset + sample * params.y_stride_b + head * params.y_stride_h;
            let w = params.right_offset + u32(max(task, 0)) * params.w_stride_t + head * params.depth * params.w_stride_k;
            let a = Matrix(y, params.y_stride_s, 1u, params.rows, depth);
            let b = Matrix(w, params.w_stride_k, 1u, depth, params.width);
            add(a, b, first_row, first_column, is_taken, local);
        }
        let out = params.result_offset + sample * params.out_stride_b;
        store(out, params.out_stride_s, first_row, first_column, params.rows, params.width, task == BAD_TASK, local);
    }
}
