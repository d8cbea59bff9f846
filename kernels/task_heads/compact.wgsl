// task_heads_compact_f32: the stable list of selected (sample, head) pairs, and of the key heads they read.
// Shapes    gates [batch, heads] f32; order [batch·heads], kv_order [batch·kv_heads], counts [2], active [batch, heads] u32
// Mapping   2 workgroups of 256: the first lists heads, the second key heads; an invocation owns a run of neighbouring pairs,
//           counts them, and after one scan of the 256 counts writes them: selected pairs ascending, then the others ascending
// Shared    256 counts = 1 KiB
// Traffic   gates twice, every list once. One workgroup is enough: 10^5 pairs are 400 KB
// Numerics  select 0: gate neither 0 nor NaN; 1: gate 0; by bits. A key head is listed if one of its group is selected and none
//           is NaN
// Host      batch · heads < 2^31, heads a multiple of kv_heads
// Twin      src/task_heads/cpu.rs        Source  our own
struct Params {
    gates_offset: u32, order_offset: u32, kv_order_offset: u32, counts_offset: u32, active_offset: u32,
    pairs: u32, key_pairs: u32, group: u32,
    // 0 active, 1 zero.
    select_zero: u32,
}
@group(0) @binding(0) var<storage, read> gates: array<u32>;
@group(0) @binding(1) var<storage, read_write> order: array<u32>;
@group(0) @binding(2) var<storage, read_write> kv_order: array<u32>;
@group(0) @binding(3) var<storage, read_write> counts: array<u32>;
@group(0) @binding(4) var<storage, read_write> active_pairs: array<u32>;
@group(0) @binding(5) var<uniform> params: Params;

const WORKGROUP: u32 = 256u;
var<workgroup> before: array<u32, WORKGROUP>;

fn gate_magnitude(pair: u32) -> u32 { return gates[params.gates_offset + pair] & 0x7fffffffu; }

fn is_selected(magnitude: u32) -> bool {
    return (magnitude == 0u) == (params.select_zero != 0u) && magnitude <= 0x7f800000u;
}

fn is_listed(list: u32, index: u32) -> bool {
    if (list == 0u) { return is_selected(gate_magnitude(index)); }
    var any_selected = false;
    var any_nan = false;
    for (var member = index * params.group; member < (index + 1u) * params.group; member += 1u) {
        let magnitude = gate_magnitude(member);
        any_selected = any_selected || is_selected(magnitude);
        any_nan = any_nan || magnitude > 0x7f800000u;
    }
    return any_selected && !any_nan;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let list = workgroup.x;
    let total = select(params.key_pairs, params.pairs, list == 0u);
    let run = total / WORKGROUP + select(0u, 1u, total % WORKGROUP != 0u);
    let begin = min(local * run, total);
    let end = min(begin + run, total);
    var listed = 0u;
    for (var i = begin; i < end; i += 1u) {
        let selected = select(0u, 1u, is_listed(list, i));
        listed += selected;
        if (list == 0u) { active_pairs[params.active_offset + i] = selected; }
    }

    // Inclusive scan; each step reads what the previous one wrote, then overwrites it.
    before[local] = listed;
    workgroupBarrier();
    for (var distance = 1u; distance < WORKGROUP; distance *= 2u) {
        var earlier = 0u;
        if (local >= distance) { earlier = before[local - distance]; }
        workgroupBarrier();
        before[local] += earlier;
        workgroupBarrier();
    }
    let count = before[WORKGROUP - 1u];
    var front = before[local] - listed;
    // The others before `begin` follow the selected ones.
    var back = count + begin - front;
    for (var i = begin; i < end; i += 1u) {
        var slot = back;
        if (is_listed(list, i)) {
            slot = front;
            front += 1u;
        } else {
            back += 1u;
        }
        if (list == 0u) {
            order[params.order_offset + slot] = i;
        } else {
            kv_order[params.kv_order_offset + slot] = i;
        }
    }
    if (local == 0u) { counts[params.counts_offset + list] = count; }
}
