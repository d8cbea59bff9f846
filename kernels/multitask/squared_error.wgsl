// multitask_squared_error_f32: mean squared error of each row and, in the same launch, the gradient of Σ_t w_t L_t.
// Shapes    values, targets, gradient [batch, columns, width] f32 strided, last = 1; rows as multitask_rows leaves them; counts,
//           widths [tasks] u32; weights [tasks] f32; row_losses [batch·columns] f32
// Mapping   persistent, workgroup 128; a team of 32 owns a row, its members the elements
// Shared    128 partial sums = 512 bytes
// Traffic   values, targets, gradient once. Rows that are left out: 4 bytes an element of the gradient
// Numerics  as squared_error.cu; members, then a halving tree
// Host      batch · columns < 2^31, width < 2^31; every element index < 2^32
// Twin      src/multitask/cpu.rs        Source  our own
struct Params {
    values_offset: u32, targets_offset: u32, rows_offset: u32, counts_offset: u32, weights_offset: u32, widths_offset: u32,
    gradient_offset: u32, row_losses_offset: u32,
    value_stride_b: u32, value_stride_t: u32, target_stride_b: u32, target_stride_t: u32, grad_stride_b: u32, grad_stride_t: u32,
    count: u32, columns: u32, width: u32,
    has_widths: u32, has_weights: u32, has_grad: u32,
    // Divide by the task's count.
    mean: u32,
}
@group(0) @binding(0) var<storage, read> values: array<f32>;
@group(0) @binding(1) var<storage, read> targets: array<f32>;
@group(0) @binding(2) var<storage, read> rows: array<u32>;
@group(0) @binding(3) var<storage, read> counts: array<u32>;
@group(0) @binding(4) var<storage, read> weights: array<f32>;
@group(0) @binding(5) var<storage, read> widths: array<u32>;
@group(0) @binding(6) var<storage, read_write> gradient: array<u32>;
@group(0) @binding(7) var<storage, read_write> row_losses: array<u32>;
@group(0) @binding(8) var<uniform> params: Params;

const WORKGROUP: u32 = 128u;
const TEAM: u32 = 32u;
var<workgroup> sums: array<f32, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let team = local / TEAM;
    let member = local % TEAM;
    let teams = WORKGROUP / TEAM;
    for (var first = workgroup.x * teams; first < params.count; first += workgroups.x * teams) {
        let row = first + team;
        let is_row = row < params.count;
        let sample = row / params.columns;
        let column = row % params.columns;
        var task = NO_TASK;
        if (is_row) { task = rows[params.rows_offset + row]; }
        let is_bad = task == BAD_TASK;
        let counted = task != NO_TASK && !is_bad;
        var width = 0u;
        var weight = 1.0;
        if (counted) {
            width = params.width;
            if (params.has_widths != 0u) { width = widths[params.widths_offset + task]; }
            if (params.has_weights != 0u) { weight = weights[params.weights_offset + task]; }
            if (params.mean != 0u) { weight /= f32(counts[params.counts_offset + task]); }
        }
        let x = params.values_offset + sample * params.value_stride_b + column * params.value_stride_t;
        let y = params.targets_offset + sample * params.target_stride_b + column * params.target_stride_t;
        let dx = params.gradient_offset + sample * params.grad_stride_b + column * params.grad_stride_t;
        let factor = 2.0 * weight / f32(max(width, 1u));
        var sum = 0.0;
        for (var i = member; i < width; i += TEAM) {
            let error = values[x + i] - targets[y + i];
            sum += error * error;
            if (params.has_grad != 0u) { gradient[dx + i] = select(bitcast<u32>(factor * error), 0u, weight == 0.0); }
        }
        if (is_row && params.has_grad != 0u) {
            for (var i = width + member; i < params.width; i += TEAM) { gradient[dx + i] = select(0u, NAN_BITS, is_bad); }
        }
        sums[local] = sum;
        workgroupBarrier();
        for (var half = TEAM / 2u; half > 0u; half /= 2u) {
            if (member < half) { sums[local] += sums[local + half]; }
            workgroupBarrier();
        }
        if (is_row && member == 0u) {
            let loss = sums[local] / f32(max(width, 1u));
            row_losses[params.row_losses_offset + row] = select(bitcast<u32>(loss), NAN_BITS, is_bad);
        }
        // The next row's sums overwrite what member 0 reads.
        workgroupBarrier();
    }
}
