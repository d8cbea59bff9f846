// attention_backward_rows: what the backward kernels need of each query row, in one place.
// Shapes    o, grad_o [b,hq,sq,Dv]  lse, grad_lse, row_scale [b,hq,sq]  →  rows [b·hq·sq][3]: lse, delta, row scale
//           delta_i = ⟨grad_o_i, o_i⟩ − grad_lse_i
// Mapping   one invocation per row of an active pair, striding; rows of other pairs are neither read nor written
// Traffic   o, grad_o once;  FLOPs 2·b·hq·sq·Dv
// Host      as attention_forward
// Twin      src/attention/cpu.rs        Source  arXiv:2307.08691, algorithm 2, line 4

@group(0) @binding(0) var<storage, read> o: array<f32>;
@group(0) @binding(1) var<storage, read> grad_o: array<f32>;
// lse, row scale: copied as bits, because lse may be −∞.
@group(0) @binding(2) var<storage, read> lse: array<u32>;
@group(0) @binding(3) var<storage, read> grad_lse: array<f32>;
@group(0) @binding(4) var<storage, read> row_scale: array<u32>;
@group(0) @binding(5) var<storage, read> plan: array<u32>;
@group(0) @binding(6) var<storage, read_write> rows: array<u32>;
@group(0) @binding(7) var<uniform> params: Params;

const HAVE_ROW_SCALE: u32 = 1u;
const HAVE_GRAD_LSE: u32 = 2u;

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) id: vec3u,
    @builtin(num_workgroups) groups: vec3u,
) {
    let work = plan[0] * params.q_len;
    for (var i = id.x; i < work; i += 64u * groups.x) {
        let pair = plan[plan_order() + i / params.q_len];
        if (pair == INVALID) { continue; }
        let b = pair / params.q_heads;
        let h = pair % params.q_heads;
        let row = i % params.q_len;
        let o_at = base(params.o, b, h) + row * params.o.w;
        let grad_at = base(params.grad_o, b, h) + row * params.grad_o.w;
        var delta = 0.0;
        for (var d = 0u; d < params.value_dim; d += 1u) { delta += o[o_at + d] * grad_o[grad_at + d]; }
        if ((params.want & HAVE_GRAD_LSE) != 0u) {
            delta -= grad_lse[base(params.grad_lse, b, h) + row * params.grad_lse.w];
        }
        let to = 3u * (pair * params.q_len + row);
        rows[to] = lse[base(params.lse, b, h) + row * params.lse.w];
        rows[to + 1u] = bitcast<u32>(delta);
        rows[to + 2u] = 0x3f800000u;  // 1
        if ((params.want & HAVE_ROW_SCALE) != 0u) {
            rows[to + 2u] = row_scale[base(params.row_scale, b, h) + row * params.row_scale.w];
        }
    }
}
