// task_heads_fill_f32: writes the rows of the pairs attention was not launched over: 0 (or −∞ in lse), NaN where the gate is NaN.
// Shapes    target [batch, owners, rows, columns] strided, last = 1; order [batch·owners], counts [2] u32; gates [batch, heads]
// Mapping   persistent, workgroup 256; a workgroup takes 64 rows of one pair at a time, from the list's inactive part only
// Traffic   4 bytes an element of the inactive pairs; nothing but the gates where the target is known to hold zeros
// Host      heads = owners · group; columns ≥ 1; every element index < 2^32
// Twin      src/task_heads/cpu.rs        Source  our own
struct Params {
    target_offset: u32, stride_b: u32, stride_o: u32, stride_r: u32,
    order_offset: u32, counts_offset: u32, gates_offset: u32,
    pairs: u32, owners: u32, rows: u32, columns: u32,
    // Gates an owner has.
    group: u32,
    // Which of counts.
    list: u32,
    // Zeros need not be written.
    zeroed: u32,
    // As bits: −∞ is not a WGSL constant.
    value: u32,
}
@group(0) @binding(0) var<storage, read_write> target_rows: array<u32>;
@group(0) @binding(1) var<storage, read> order: array<u32>;
@group(0) @binding(2) var<storage, read> counts: array<u32>;
@group(0) @binding(3) var<storage, read> gates: array<u32>;
@group(0) @binding(4) var<uniform> params: Params;

const WORKGROUP: u32 = 256u;
const ROWS: u32 = 64u;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    // The lists are the caller's to keep: a count or a pair that cannot be is not used as an index.
    let active_count = min(counts[params.counts_offset + params.list], params.pairs);
    let tiles = params.rows / ROWS + select(0u, 1u, params.rows % ROWS != 0u);
    let work = (params.pairs - active_count) * tiles;
    for (var item = workgroup.x; item < work; item += workgroups.x) {
        let pair = order[params.order_offset + active_count + item / tiles];
        if (pair >= params.pairs) { continue; }
        let row0 = item % tiles * ROWS;
        var is_nan = false;
        for (var member = 0u; member < params.group; member += 1u) {
            let bits = gates[params.gates_offset + pair * params.group + member];
            is_nan = is_nan || (bits & 0x7fffffffu) > 0x7f800000u;
        }
        if (params.zeroed != 0u && params.value == 0u && !is_nan) { continue; }
        let value = select(params.value, NAN_BITS, is_nan);
        let rows = params.target_offset + pair / params.owners * params.stride_b
            + pair % params.owners * params.stride_o + row0 * params.stride_r;
        let elements = min(ROWS, params.rows - row0) * params.columns;
        for (var e = local; e < elements; e += WORKGROUP) {
            target_rows[rows + e / params.columns * params.stride_r + e % params.columns] = value;
        }
    }
}
