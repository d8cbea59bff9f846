// multitask_count: how many rows each task has, and how many rows have a bad task.
// Shapes    rows as multitask_rows leaves them, [2·count + 1] u32; counts [tasks] u32
// Mapping   persistent, workgroup 256; a workgroup takes one task at a time, the last one the bad rows
// Shared    256 counts = 1 KiB
// Traffic   mixed tasks: rows once a task, from cache; columns: once
// Host      count < 2^31; columns is 1 (mixed) or tasks
// Twin      src/multitask/cpu.rs        Source  our own
struct Params {
    rows_offset: u32, counts_offset: u32,
    count: u32, columns: u32, tasks: u32,
}
@group(0) @binding(0) var<storage, read_write> rows: array<u32>;
@group(0) @binding(1) var<storage, read_write> counts: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

const WORKGROUP: u32 = 256u;
var<workgroup> sums: array<u32, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    for (var task = workgroup.x; task <= params.tasks; task += workgroups.x) {
        let is_bad = task == params.tasks;
        let wanted = select(task, BAD_TASK, is_bad);
        let by_column = params.columns > 1u && !is_bad;
        let step = select(1u, params.columns, by_column);
        var found = 0u;
        for (var row = select(0u, task, by_column) + local * step; row < params.count; row += WORKGROUP * step) {
            found += select(0u, 1u, rows[params.rows_offset + row] == wanted);
        }
        sums[local] = found;
        workgroupBarrier();
        for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
            if (local < half) { sums[local] += sums[local + half]; }
            workgroupBarrier();
        }
        if (local == 0u) {
            if (is_bad) {
                rows[params.rows_offset + 2u * params.count] = sums[0];
            } else {
                counts[params.counts_offset + task] = sums[0];
            }
        }
        // The next task's counts overwrite what invocation 0 reads.
        workgroupBarrier();
    }
}
