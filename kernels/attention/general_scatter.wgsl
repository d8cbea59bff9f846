// attention_general_scatter: derivatives by row scales, from the list over all rows to where the caller wants them.
// Shapes    sums [b·hq·sq][3] f32, the first of each → out [b,hq,sq] f32, any strides
// Mapping   one invocation per row of an active pair, striding; rows of other pairs are not written
// Traffic   4 bytes a row, twice
// Host      as attention_general_forward
// Twin      none        Source  our own

@group(0) @binding(0) var<storage, read> sums: array<u32>;
@group(0) @binding(1) var<storage, read> plan: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let work = plan[0] * params.q_len;
    for (var i = id.x; i < work; i += 64u * groups.x) {
        let pair = plan[params.at_order + i / params.q_len];
        if (pair == INVALID) { continue; }
        let b = pair / params.q_heads;
        let h = pair % params.q_heads;
        let row = i % params.q_len;
        let at = 2u + 8u * b;
        if (row >= plan[at + 2u]) { continue; }
        let to = base(params.out, b, h) + (plan[at + 3u] + row) * params.out.w;
        out[to] = sums[3u * (plan[at + 5u] + h * params.row_stride + row)];
    }
}
