// multitask_regression_metrics_f32: mean absolute error, mean squared error and R² of each task.
// Shapes    values, targets [batch, columns] f32 strided; rows as multitask_rows leaves them; counts [tasks] u32; per_task [tasks, 3]
// Mapping   persistent, workgroup 256; a workgroup takes one task at a time, an invocation every 256th of its rows
// Shared    256 × vec4 and a word = 4 KiB
// Traffic   mixed tasks: rows once a task, from cache; columns: values once, targets twice
// Numerics  as regression_metrics.cu; invocations, then a halving tree
// Bad id    such rows count nowhere
// Host      count < 2^31; columns is 1 (mixed) or tasks
// Twin      src/multitask/cpu.rs        Source  our own
struct Params {
    values_offset: u32, targets_offset: u32, rows_offset: u32, counts_offset: u32, per_task_offset: u32,
    value_stride_b: u32, value_stride_t: u32, target_stride_b: u32, target_stride_t: u32,
    count: u32, columns: u32, tasks: u32,
}
@group(0) @binding(0) var<storage, read> values: array<f32>;
@group(0) @binding(1) var<storage, read> targets: array<f32>;
@group(0) @binding(2) var<storage, read> rows: array<u32>;
@group(0) @binding(3) var<storage, read> counts: array<u32>;
@group(0) @binding(4) var<storage, read_write> per_task: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

const WORKGROUP: u32 = 256u;
var<workgroup> sums: array<vec4<f32>, WORKGROUP>;
var<workgroup> first_row: atomic<u32>;

fn target_of(row: u32) -> f32 {
    return targets[params.targets_offset + row / params.columns * params.target_stride_b
        + row % params.columns * params.target_stride_t];
}

fn value_of(row: u32) -> f32 {
    return values[params.values_offset + row / params.columns * params.value_stride_b
        + row % params.columns * params.value_stride_t];
}

// Sum over the workgroup; every invocation gets it, and may start the next.
fn total(local: u32, own: vec4<f32>) -> vec4<f32> {
    sums[local] = own;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        if (local < half) { sums[local] += sums[local + half]; }
        workgroupBarrier();
    }
    let all = sums[0];
    workgroupBarrier();
    return all;
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    for (var task = workgroup.x; task < params.tasks; task += workgroups.x) {
        let by_column = params.columns > 1u;
        let step = select(1u, params.columns, by_column);
        let first = select(0u, task, by_column) + local * step;
        let found = counts[params.counts_offset + task];
        let count = f32(max(found, 1u));
        if (local == 0u) { atomicStore(&first_row, params.count); }
        workgroupBarrier();
        var own_first = first;
        loop {
            if (own_first >= params.count) { break; }
            if (rows[params.rows_offset + own_first] == task) { break; }
            own_first += WORKGROUP * step;
        }
        atomicMin(&first_row, own_first);
        workgroupBarrier();
        let pivot_row = atomicLoad(&first_row);
        var pivot = 0.0;
        if (pivot_row < params.count) { pivot = target_of(pivot_row); }
        var sum = 0.0;
        for (var row = own_first; row < params.count; row += WORKGROUP * step) {
            if (rows[params.rows_offset + row] == task) { sum += target_of(row) - pivot; }
        }
        let mean = pivot + total(local, vec4<f32>(sum, 0.0, 0.0, 0.0)).x / count;
        // |e|, e², squares about the mean.
        var own = vec4<f32>();
        for (var row = first; row < params.count; row += WORKGROUP * step) {
            if (rows[params.rows_offset + row] == task) {
                let y = target_of(row);
                let error = value_of(row) - y;
                own += vec4<f32>(abs(error), error * error, (y - mean) * (y - mean), 0.0);
            }
        }
        let all = total(local, own);
        if (local == 0u) {
            var r2 = 0.0;
            if (all.z != 0.0) {
                r2 = 1.0 - all.y / all.z;
            } else if (all.y == 0.0 && found > 0u) {
                r2 = 1.0;
            }
            let at = params.per_task_offset + task * 3u;
            per_task[at] = all.x / count;
            per_task[at + 1u] = all.y / count;
            per_task[at + 2u] = r2;
        }
    }
}
