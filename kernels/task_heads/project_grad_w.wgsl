// task_heads_project_grad_w_f32: dw[t, h·Dv+d, e] = Σ_b Σ_s y[b,h,s,d]·dout[b,s,e] over the samples of task t whose gate is not 0.
// Shapes    y, dy [batch, heads, rows, Dv] strided, last = 1; w [tasks, heads·Dv, E] strided, last = 1; out, dout [batch, rows, E] strided,
//           last = 1; dw [tasks, heads·Dv, E] contiguous; gates [batch, heads] f32; ids [batch] i32, u32 or i64 strided, or none: all
//           samples are of task 0
// Mapping   persistent, workgroup 256; a workgroup owns a 32 × 32 tile of the result, an invocation 2 × 2 of it; the depth in steps of 16. Samples are taken in ascending order, those of other tasks and with gate 0 not at all: no atomics
// Shared    2 × 16 × 33 floats = 4224 bytes
// Traffic   y of active pairs once a tile of E, dout once an active head and tile of Dv
// FLOPs     2·rows·Dv·E an active (sample, head)
// Numerics  f32, depth ascending: the same bits whatever the grid. A NaN gate counts as active, so its rows come in
// Bad id    equals no task, so it is not summed; never used as an index
// Host      every element index < 2^32, batch · heads < 2^31, heads · Dv < 2^31, tasks < 2^31
// Twin      src/task_heads/cpu_project.rs        Source  our own
@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row_tiles = tiles(params.depth);
    let column_tiles = tiles(params.width);
    for (var item = workgroup.x; item < params.tasks * params.heads * row_tiles * column_tiles; item += workgroups.x) {
        let first_column = item % column_tiles * TILE;
        let first_row = item / column_tiles % row_tiles * TILE;
        let of_head = item / column_tiles / row_tiles;
        let task = of_head / params.heads;
        let head = of_head % params.heads;
        sums = array<f32, 4>();
        for (var sample = 0u; sample < params.batch; sample += 1u) {
            let is_taken = task_of(sample) == i32(task) && is_active(sample * params.heads + head);
            let depth = select(0u, params.rows, is_taken);
            let y = params.left_offset + sample * params.y_stride_b + head * params.y_stride_h;
            let dout = params.right_offset + sample * params.out_stride_b;
            let a = Matrix(y, 1u, params.y_stride_s, params.depth, depth);
            let b = Matrix(dout, params.out_stride_s, 1u, depth, params.width);
            add(a, b, first_row, first_column, is_taken, local);
        }
        let dw = params.result_offset + of_head * params.depth * params.width;
        store(dw, params.width, first_row, first_column, params.depth, params.width, false, local);
    }
}
