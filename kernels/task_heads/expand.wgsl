// task_heads_expand_f32: the gate of a sample's head, for every row of packed sequences.
// Shapes    gates [batch, heads] f32; starts [batch + 1] i32, u32 or i64; out [1, heads, all rows] f32 contiguous
// Mapping   persistent, workgroup 256; a workgroup takes one (sample, head), its invocations the rows
// Traffic   out once; rows of no sample are not written
// Host      batch · heads < 2^31; every element index < 2^32
// Twin      src/task_heads/cpu.rs        Source  our own
struct Params {
    gates_offset: u32, starts_offset: u32, out_offset: u32,
    start_stride: u32,
    // rows: of the longest sample.
    batch: u32, heads: u32, rows: u32,
    is_packed: u32, start_kind: u32, all_rows: u32,
}
@group(0) @binding(0) var<storage, read> gates: array<u32>;
@group(0) @binding(1) var<storage, read> starts: array<u32>;
@group(0) @binding(2) var<storage, read_write> expanded: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

const WORKGROUP: u32 = 256u;

fn start_at(entry: u32) -> i32 {
    let index = params.starts_offset + entry * params.start_stride;
    let kind = params.start_kind;
    return id_value(kind, starts[id_low(kind, index)], starts[id_high(kind, index)]);
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    for (var pair = workgroup.x; pair < params.batch * params.heads; pair += workgroups.x) {
        let sample = pair / params.heads;
        let own = rows_between(start_at(sample), start_at(sample + 1u), params.all_rows, params.rows);
        let gate = gates[params.gates_offset + pair];
        let first = params.out_offset + pair % params.heads * params.all_rows + own.x;
        for (var row = local; row < own.y; row += WORKGROUP) { expanded[first + row] = gate; }
    }
}
