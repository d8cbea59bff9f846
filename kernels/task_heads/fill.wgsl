// task_heads_fill: writes the rows of the pairs attention was not launched over: 0 (or −∞ in lse), NaN where the gate is NaN.
// Shapes    target [batch, owners, rows, columns] f32, f16 or bf16, strided, last = 1; order [batch·owners], counts [2] u32;
//           gates [batch, heads] f32; packed: target [1, owners, all rows, columns], starts [batch + 1] i32, u32 or i64
// Mapping   persistent, workgroup 256; a workgroup takes 64 rows of one pair at a time, from the list's inactive part only
// Traffic   an element of the inactive pairs once; nothing but the gates where the target is known to hold zeros
// Host      heads = owners · group; columns ≥ 1; every element index < 2^32
// Twin      src/task_heads/cpu.rs        Source  our own
struct Params {
    target_offset: u32, order_offset: u32, counts_offset: u32, gates_offset: u32, starts_offset: u32,
    stride_b: u32, stride_o: u32, stride_r: u32, start_stride: u32,
    pairs: u32, owners: u32, rows: u32, columns: u32,
    // Gates an owner has.
    group: u32,
    // Which of counts.
    list: u32,
    // Zeros need not be written.
    zeroed: u32,
    // As bits: −∞ is not a WGSL constant.
    value: u32,
    kind: u32,
    is_packed: u32, start_kind: u32, all_rows: u32,
}
// Of atomics, because two 16-bit elements that share a word may belong to two pairs.
@group(0) @binding(0) var<storage, read_write> target_rows: array<atomic<u32>>;
@group(0) @binding(1) var<storage, read> order: array<u32>;
@group(0) @binding(2) var<storage, read> counts: array<u32>;
@group(0) @binding(3) var<storage, read> gates: array<u32>;
@group(0) @binding(4) var<storage, read> starts: array<u32>;
@group(0) @binding(5) var<uniform> params: Params;

const WORKGROUP: u32 = 256u;
const TILE: u32 = 64u;

fn start_at(entry: u32) -> i32 {
    let index = params.starts_offset + entry * params.start_stride;
    let kind = params.start_kind;
    return id_value(kind, starts[id_low(kind, index)], starts[id_high(kind, index)]);
}

fn write(index: u32, bits: u32) {
    if (params.kind == F32) {
        atomicStore(&target_rows[index], bits);
        return;
    }
    // Only 0 and NaN are written in 16 bits: a quiet NaN of the type, 0x7e00 or 0x7fc0.
    let half = select(0u, select(0x7fc0u, 0x7e00u, params.kind == F16), bits != 0u);
    let shift = 16u * (index & 1u);
    atomicAnd(&target_rows[index >> 1u], ~(0xffffu << shift));
    atomicOr(&target_rows[index >> 1u], half << shift);
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    // The lists are the caller's to keep: a count or a pair that cannot be is not used as an index.
    let active_count = min(counts[params.counts_offset + params.list], params.pairs);
    let tiles = params.rows / TILE + select(0u, 1u, params.rows % TILE != 0u);
    let work = (params.pairs - active_count) * tiles;
    for (var item = workgroup.x; item < work; item += workgroups.x) {
        let pair = order[params.order_offset + active_count + item / tiles];
        if (pair >= params.pairs) { continue; }
        let sample = pair / params.owners;
        let row0 = item % tiles * TILE;
        var own = vec2<u32>(0u, params.rows);
        if (params.is_packed != 0u) { own = rows_between(start_at(sample), start_at(sample + 1u), params.all_rows, params.rows); }
        if (row0 >= own.y) { continue; }
        var is_nan = false;
        for (var member = 0u; member < params.group; member += 1u) {
            let bits = gates[params.gates_offset + pair * params.group + member];
            is_nan = is_nan || (bits & 0x7fffffffu) > 0x7f800000u;
        }
        if (params.zeroed != 0u && params.value == 0u && !is_nan) { continue; }
        let value = select(params.value, NAN_BITS, is_nan);
        let first = params.target_offset + select(sample * params.stride_b, 0u, params.is_packed != 0u)
            + pair % params.owners * params.stride_o + (own.x + row0) * params.stride_r;
        let elements = min(TILE, own.y - row0) * params.columns;
        for (var e = local; e < elements; e += WORKGROUP) {
            write(first + e / params.columns * params.stride_r + e % params.columns, value);
        }
    }
}
