// multitask_class_counts_f32: how often each class of each task was right, predicted, and asked for.
// Shapes    logits [batch, columns, width] f32 strided, last = 1; rows as multitask_rows leaves them; widths [tasks] u32 or none;
//           counts [tasks, width, 3] u32, cleared by multitask_rows: right, predicted, labelled
// Mapping   persistent, workgroup 128; a team of 32 owns a row, its members the classes
// Shared    128 × (key, class) = 1 KiB
// Traffic   logits once
// Numerics  the first of the largest logits is the prediction, compared by bits: the same on every backend; a NaN is the largest.
//           Integer atomics: their order does not matter
// Bad id    such rows count nowhere
// Host      batch · columns < 2^31, 3 · tasks · width < 2^32
// Twin      src/multitask/cpu.rs        Source  our own
struct Params {
    logits_offset: u32, rows_offset: u32, widths_offset: u32, counts_offset: u32,
    logit_stride_b: u32, logit_stride_t: u32,
    count: u32, columns: u32, width: u32,
    has_widths: u32,
}
@group(0) @binding(0) var<storage, read> logits: array<u32>;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read> widths: array<u32>;
@group(0) @binding(3) var<storage, read_write> counts: array<atomic<u32>>;
@group(0) @binding(4) var<uniform> params: Params;

const WORKGROUP: u32 = 128u;
const TEAM: u32 = 32u;
var<workgroup> keys: array<u32, WORKGROUP>;
var<workgroup> classes: array<u32, WORKGROUP>;

// Monotone in x; −0 equals +0, and every NaN is above +∞.
fn sort_key(bits: u32) -> u32 {
    if (is_nan_bits(bits)) { return 0xffffffffu; }
    if ((bits & 0x7fffffffu) == 0u) { return 0x80000000u; }
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) != 0u);
}

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
        var task = NO_TASK;
        var label = 0u;
        if (row < params.count) {
            task = rows[params.rows_offset + row];
            label = rows[params.rows_offset + params.count + row];
        }
        let counted = task != NO_TASK && task != BAD_TASK && label != BAD_LABEL;
        var width = 0u;
        if (counted) {
            width = params.width;
            if (params.has_widths != 0u) { width = widths[params.widths_offset + task]; }
        }
        let z = params.logits_offset + row / params.columns * params.logit_stride_b
            + row % params.columns * params.logit_stride_t;
        // No key is 0.
        var best_key = 0u;
        var best = 0xffffffffu;
        for (var c = member; c < width; c += TEAM) {
            let key = sort_key(logits[z + c]);
            if (key > best_key) {
                best_key = key;
                best = c;
            }
        }
        keys[local] = best_key;
        classes[local] = best;
        workgroupBarrier();
        for (var half = TEAM / 2u; half > 0u; half /= 2u) {
            if (member < half) {
                let key = keys[local + half];
                let other = classes[local + half];
                if (key > keys[local] || (key == keys[local] && other < classes[local])) {
                    keys[local] = key;
                    classes[local] = other;
                }
            }
            workgroupBarrier();
        }
        if (counted && member == 0u) {
            let predicted = classes[local];
            let of_task = params.counts_offset + task * params.width * 3u;
            if (predicted == label) { atomicAdd(&counts[of_task + 3u * label], 1u); }
            atomicAdd(&counts[of_task + 3u * predicted + 1u], 1u);
            atomicAdd(&counts[of_task + 3u * label + 2u], 1u);
        }
        // The next row's keys overwrite what member 0 reads.
        workgroupBarrier();
    }
}
