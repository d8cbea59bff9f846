// multitask_rows: which task each row counts for, and its label, ids and labels checked: what every other kernel reads.
// Shapes    ids [batch] i32, u32 or i64 strided (mixed); labels [batch, columns] integers strided, or targets [batch, columns, width]
//           f32, last = 1; widths [tasks] u32 or none; rows [2·batch·columns + 1] u32; zeroed [zero_count] u32
// Mapping   persistent, workgroup 128; an invocation owns a row; all invocations clear `zeroed`
// Traffic   ids, labels once; 8 bytes a row written
// Numerics  NaN targets are told by their bits
// Bad id    row marked BAD_TASK or BAD_LABEL, status word set, never used as an index
// Host      batch · columns < 2^31, tasks < 2^31, widths ≤ width
// Twin      src/multitask/cpu.rs        Source  our own
struct Params {
    ids_offset: u32, labels_offset: u32, widths_offset: u32, rows_offset: u32, zeroed_offset: u32,
    id_stride: u32, label_stride_b: u32, label_stride_t: u32,
    batch: u32, columns: u32, tasks: u32,
    // Tasks are ids; otherwise column t is task t.
    mixed: u32,
    // 0 i32, 1 u32, 2 i64 (low word first).
    id_kind: u32,
    // The same, 3 f32 targets.
    label_kind: u32,
    ignore_low: u32, ignore_high: u32,
    // Classes, or elements of a target.
    width: u32,
    has_widths: u32,
    // A row with a NaN target is left out.
    ignore_nan: u32,
    zero_count: u32,
}
@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read> widths: array<u32>;
@group(0) @binding(3) var<storage, read_write> rows: array<u32>;
@group(0) @binding(4) var<storage, read_write> zeroed: array<u32>;
@group(0) @binding(5) var<storage, read_write> status: array<atomic<u32>>;
@group(0) @binding(6) var<uniform> params: Params;

const WORKGROUP: u32 = 128u;

fn upper(kind: u32, low: u32, high: u32) -> u32 {
    return select(select(0u, 0xffffffffu, kind == 0u && (low >> 31u) != 0u), high, kind == 2u);
}

fn task_of(sample: u32, column: u32) -> u32 {
    if (params.mixed == 0u) { return column; }
    let index = params.ids_offset + sample * params.id_stride;
    let low = ids[id_low(params.id_kind, index)];
    let high = upper(params.id_kind, low, ids[id_high(params.id_kind, index)]);
    if (low == 0xffffffffu && (params.id_kind == 1u || high == 0xffffffffu)) { return NO_TASK; }
    return select(BAD_TASK, low, high == 0u && low < params.tasks);
}

fn any_nan(first: u32, width: u32) -> bool {
    for (var i = 0u; i < width; i += 1u) {
        if (is_nan_bits(labels[first + i])) { return true; }
    }
    return false;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let count = params.batch * params.columns;
    let step = workgroups.x * WORKGROUP;
    for (var i = id.x; i < params.zero_count; i += step) { zeroed[params.zeroed_offset + i] = 0u; }
    for (var row = id.x; row < count; row += step) {
        let sample = row / params.columns;
        let column = row % params.columns;
        var task = task_of(sample, column);
        var label = 0u;
        if (task == BAD_TASK) {
            atomicOr(&status[STATUS_TASK_ID], 1u);
        } else if (task != NO_TASK) {
            var width = params.width;
            if (params.has_widths != 0u) { width = widths[params.widths_offset + task]; }
            let at = params.labels_offset + sample * params.label_stride_b + column * params.label_stride_t;
            if (params.label_kind == 3u) {
                if (params.ignore_nan != 0u && any_nan(at, width)) { task = NO_TASK; }
            } else {
                let low = labels[id_low(params.label_kind, at)];
                let high = upper(params.label_kind, low, labels[id_high(params.label_kind, at)]);
                if (low == params.ignore_low && high == params.ignore_high) {
                    task = NO_TASK;
                } else if (high == 0u && low < width) {
                    label = low;
                } else {
                    label = BAD_LABEL;
                    atomicOr(&status[STATUS_LABEL], 1u);
                }
            }
        }
        rows[params.rows_offset + row] = task;
        rows[params.rows_offset + count + row] = label;
    }
}
