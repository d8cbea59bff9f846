// multitask_class_metrics_f32: precision, recall and F1 of each class, their summary for each task, and over all tasks.
// Shapes    class_counts [tasks, width, 3] u32: right, predicted, labelled; per_class [tasks, width, 3]; per_task [tasks, 4]; overall
//           [2, 4] f32: accuracy, precision, recall, F1
// Mapping   1 workgroup of 128; an invocation takes every 128th task, invocation 0 then the summary
// Shared    128 × (right, predicted, labelled, accurate, rows) = 2.5 KiB
// Traffic   24 bytes a class
// Numerics  as class_metrics.cu
// Host      tasks · width < 2^31
// Twin      src/multitask/cpu.rs        Source  Sokolova & Lapalme, Information Processing & Management 45 (2009) 427
struct Params {
    class_counts_offset: u32, per_class_offset: u32, per_task_offset: u32, overall_offset: u32,
    tasks: u32, width: u32,
    // A task's precision, recall and F1 are this class's; otherwise the macro mean.
    one_class: u32, positive: u32,
}
@group(0) @binding(0) var<storage, read> class_counts: array<u32>;
@group(0) @binding(1) var<storage, read_write> per_class: array<f32>;
@group(0) @binding(2) var<storage, read_write> per_task: array<f32>;
@group(0) @binding(3) var<storage, read_write> overall: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

const WORKGROUP: u32 = 128u;
const POOLED: u32 = 5u;
var<workgroup> pooled: array<u32, WORKGROUP * POOLED>;

fn quotient(part: u32, whole: u32) -> f32 {
    if (whole == 0u) { return 0.0; }
    // WGSL's division may round; a whole is 1 exactly.
    if (part == whole) { return 1.0; }
    return f32(part) / f32(whole);
}

fn scores(right: u32, predicted: u32, labelled: u32) -> vec3<f32> {
    return vec3<f32>(quotient(right, predicted), quotient(right, labelled), quotient(2u * right, predicted + labelled));
}

fn rows_of(task: u32) -> u32 {
    var rows = 0u;
    for (var c = 0u; c < params.width; c += 1u) {
        rows += class_counts[params.class_counts_offset + (task * params.width + c) * 3u + 2u];
    }
    return rows;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(local_invocation_index) local: u32) {
    var pool = array<u32, POOLED>();
    for (var task = local; task < params.tasks; task += WORKGROUP) {
        var all_right = 0u;
        var rows = 0u;
        var occurring = 0u;
        var mean = vec3<f32>();
        for (var c = 0u; c < params.width; c += 1u) {
            let at = (task * params.width + c) * 3u;
            let right = class_counts[params.class_counts_offset + at];
            let predicted = class_counts[params.class_counts_offset + at + 1u];
            let labelled = class_counts[params.class_counts_offset + at + 2u];
            let own = scores(right, predicted, labelled);
            per_class[params.per_class_offset + at] = own.x;
            per_class[params.per_class_offset + at + 1u] = own.y;
            per_class[params.per_class_offset + at + 2u] = own.z;
            all_right += right;
            rows += labelled;
            if (select(predicted + labelled > 0u, c == params.positive, params.one_class != 0u)) {
                occurring += 1u;
                mean += own;
                pool[0] += right;
                pool[1] += predicted;
                pool[2] += labelled;
            }
        }
        pool[3] += all_right;
        pool[4] += rows;
        if (occurring > 1u) { mean /= f32(occurring); }
        let at = params.per_task_offset + task * 4u;
        per_task[at] = quotient(all_right, rows);
        per_task[at + 1u] = mean.x;
        per_task[at + 2u] = mean.y;
        per_task[at + 3u] = mean.z;
    }
    for (var i = 0u; i < POOLED; i += 1u) { pooled[local * POOLED + i] = pool[i]; }
    // The other invocations' counts and per_task are read below.
    storageBarrier();
    workgroupBarrier();
    if (local != 0u) { return; }
    for (var other = 1u; other < WORKGROUP; other += 1u) {
        for (var i = 0u; i < POOLED; i += 1u) { pool[i] += pooled[other * POOLED + i]; }
    }
    var sums = vec4<f32>();
    var with_rows = 0u;
    for (var task = 0u; task < params.tasks; task += 1u) {
        if (rows_of(task) == 0u) { continue; }
        with_rows += 1u;
        let at = params.per_task_offset + task * 4u;
        sums += vec4<f32>(per_task[at], per_task[at + 1u], per_task[at + 2u], per_task[at + 3u]);
    }
    if (with_rows > 1u) { sums /= f32(with_rows); }
    var micro = vec4<f32>(quotient(pool[3], pool[4]), scores(pool[0], pool[1], pool[2]));
    for (var i = 0u; i < 4u; i += 1u) {
        overall[params.overall_offset + i] = sums[i];
        overall[params.overall_offset + 4u + i] = micro[i];
    }
}
