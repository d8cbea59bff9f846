// attention_general_rows: what the general backward kernels need of each query row, in the plan.
// Shapes    o, grad_o [b,hq,sq,Dv] f32, f16 or bf16  lse, grad_lse, row_scale [b,hq,sq] f32
//           → plan rows [b·hq·sq][4]: lse, delta, row scale, derivative by the sink; delta_i = ⟨grad_o_i, o_i⟩ − grad_lse_i
// Mapping   one invocation per row of an active pair, striding; rows of other pairs are neither read nor written
// Traffic   o, grad_o once;  FLOPs 2·b·hq·sq·Dv
// Numerics  f32; derivative by the sink −e^(sink − lse)·delta
// Host      as attention_general_forward; clears the rows first
// Twin      src/attention/cpu        Source  arXiv:2307.08691, algorithm 2, line 4

@group(0) @binding(0) var<storage, read> o: array<u32>;
@group(0) @binding(1) var<storage, read> grad_o: array<u32>;
// lse, row scale: copied as bits, because lse may be −∞.
@group(0) @binding(2) var<storage, read> lse: array<u32>;
@group(0) @binding(3) var<storage, read> grad_lse: array<f32>;
@group(0) @binding(4) var<storage, read> row_scale: array<u32>;
@group(0) @binding(5) var<storage, read_write> plan: array<u32>;
@group(0) @binding(6) var<uniform> params: Params;

fn o_word(i: u32) -> f32 { return bitcast<f32>(widen(params.kind, o[word_of(params.kind, i)], i)); }
fn grad_word(i: u32) -> f32 { return bitcast<f32>(widen(params.kind, grad_o[word_of(params.kind, i)], i)); }

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
        let line = plan[at + 3u] + row;
        let o_at = base(params.o, b, h) + line * params.o.w;
        let grad_at = base(params.grad_o, b, h) + line * params.grad_o.w;
        var delta = 0.0;
        for (var d = 0u; d < params.value_dim; d += 1u) { delta += o_word(o_at + d) * grad_word(grad_at + d); }
        if (has(HAS_GRAD_LSE)) { delta -= grad_lse[base(params.grad_lse, b, h) + line * params.grad_lse.w]; }
        let to = params.at_rows + 4u * (plan[at + 5u] + h * params.row_stride + row);
        let lse_bits = lse[base(params.lse, b, h) + line * params.lse.w];
        plan[to] = lse_bits;
        plan[to + 1u] = bitcast<u32>(delta);
        plan[to + 2u] = 0x3f800000u;  // 1
        if (has(HAS_ROW_SCALE)) {
            plan[to + 2u] = row_scale[base(params.row_scale, b, h) + line * params.row_scale.w];
        }
        if (has(HAS_SINKS)) {
            let sink = bitcast<f32>(plan[params.at_sinks + h]);
            plan[to + 3u] = bitcast<u32>(-exp4(vec4f(sink - bitcast<f32>(lse_bits))).x * delta);
        }
    }
}
