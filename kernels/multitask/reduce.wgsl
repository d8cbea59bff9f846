// multitask_reduce_f32: L_t, the sum or mean of the losses of each task's rows; 0 for a task without rows.
// Shapes    rows as multitask_rows leaves them; row_losses [count] f32; counts [tasks] u32; losses [tasks] f32
// Mapping   persistent, workgroup 256; a workgroup takes one task at a time, an invocation every 256th of its rows
// Shared    256 partial sums = 1 KiB
// Traffic   mixed tasks: rows once a task, from cache; columns: once
// Numerics  f32; invocations, then a halving tree: the same bits on every run. A NaN loss is told by its bits
// Host      count < 2^31; columns is 1 (mixed) or tasks
// Twin      src/multitask/cpu.rs        Source  our own
struct Params {
    rows_offset: u32, row_losses_offset: u32, counts_offset: u32, losses_offset: u32,
    count: u32, columns: u32, tasks: u32,
    mean: u32,
}
@group(0) @binding(0) var<storage, read> rows: array<u32>;
@group(0) @binding(1) var<storage, read> row_losses: array<u32>;
@group(0) @binding(2) var<storage, read> counts: array<u32>;
@group(0) @binding(3) var<storage, read_write> losses: array<u32>;
@group(0) @binding(4) var<uniform> params: Params;

const WORKGROUP: u32 = 256u;
const PLUS_INFINITY_BITS: u32 = 0x7f800000u;
var<workgroup> sums: array<f32, WORKGROUP>;
// Whether a loss of the task is NaN (1), infinite (2).
var<workgroup> special: atomic<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    for (var task = workgroup.x; task < params.tasks; task += workgroups.x) {
        if (local == 0u) { atomicStore(&special, 0u); }
        workgroupBarrier();
        let by_column = params.columns > 1u;
        let step = select(1u, params.columns, by_column);
        var sum = 0.0;
        for (var row = select(0u, task, by_column) + local * step; row < params.count; row += WORKGROUP * step) {
            if (rows[params.rows_offset + row] == task) {
                let bits = row_losses[params.row_losses_offset + row];
                if (is_nan_bits(bits)) {
                    atomicOr(&special, 1u);
                } else if (bits == PLUS_INFINITY_BITS) {
                    atomicOr(&special, 2u);
                } else {
                    sum += bitcast<f32>(bits);
                }
            }
        }
        sums[local] = sum;
        workgroupBarrier();
        for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
            if (local < half) { sums[local] += sums[local + half]; }
            workgroupBarrier();
        }
        if (local == 0u) {
            let count = counts[params.counts_offset + task];
            var loss = sums[0];
            if (params.mean != 0u && count > 0u) { loss /= f32(count); }
            var bits = bitcast<u32>(loss);
            let kinds = atomicLoad(&special);
            if (kinds >= 2u) { bits = PLUS_INFINITY_BITS; }
            if ((kinds & 1u) != 0u) { bits = NAN_BITS; }
            losses[params.losses_offset + task] = bits;
        }
        // The next task's sums overwrite what invocation 0 reads.
        workgroupBarrier();
    }
}
