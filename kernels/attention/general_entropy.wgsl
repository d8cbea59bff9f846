// attention_general_entropy: −Σ p·ln p of every query row, p = exp(z − lse), for every score, mask, layout and type.
// Shapes    q, k, bias, plan as attention_general_forward; lse [b,hq,sq] f32 → out [b,hq,sq] f32
// Mapping   persistent workgroups of 8 × 8 over (active pair, 32 queries), as attention_general_forward without its values
// Shared    tile 4.5 KiB + reductions 2 KiB + weights of general_product.wgsl 4.5 KiB, not used
// Traffic   q, k once per query tile of 32;  FLOPs 2·b·hq·sq·sk·D
// Numerics  f32; ln p is z − lse; a term of weight 0 is 0; hidden keys are selected away; a row without keys gives 0; rows of
//           inactive pairs are not written; a sample with a bad length is NaN; dropout is not applied, a sink's share not counted
// Host      as attention_general_forward; out holds zeros
// Twin      src/attention/cpu/inspect.rs        Source  our own

@group(0) @binding(0) var<storage, read> q: array<u32>;
@group(0) @binding(1) var<storage, read> k: array<u32>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<u32>;
@group(0) @binding(4) var<storage, read> plan: array<u32>;
// Bits, so that NaN is stored as such whatever a compiler assumes about f32.
@group(0) @binding(5) var<storage, read_write> out: array<u32>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let ty = thread / 8u;  // queries 4·ty ..
    let tx = thread % 8u;  // keys 4·tx ..
    let work = plan[0] * params.tiles;
    for (var w = group.x; w < work; w += groups.x) {
        let pair = plan[params.at_order + w / params.tiles];
        if (pair == INVALID) { continue; }
        let b = pair / params.q_heads;
        let h = pair % params.q_heads;
        // Last tile first: under a causal mask it is the longest.
        let row0 = (params.tiles - 1u - w % params.tiles) * LINES;
        let sequence = sample(b);
        let it = item(sequence, b, h, true);
        if (row0 >= it.rows) { continue; }
        let row = row0 + 4u * ty;
        let line = sequence.q_start + row;
        let count = min(it.rows - min(row, it.rows), params.four);
        var sums = vec4f(0.0);
        for (var r = 0u; r < params.four; r += 1u) {
            var one = 0.0;
            if (r < count) { one = lse[base(params.lse, b, h) + (line + r) * params.lse.w]; }
            sums = vec4f(sums.yzw, one);
        }
        var entropy = vec4f(0.0);
        let range = key_range(it, row0);
        for (var key0 = range.x; key0 < range.y; key0 += LINES) {
            if (!tile_has_keys(it, row0, key0)) { continue; }
            var s = mat4x4f();
            var t = mat4x4f();
            score_tile(it, row0, key0, thread, &s, &t);
            var z = params.scale * raw_scores(s, t);
            let bit = 4u * tx;
            var bits = sight(it, row, key0) & vec4u(0xfu << bit);
            for (var i = 0u; i < params.four; i += 1u) {
                var column = z[0];
                if (has(HAS_SOFTCAP)) { column = cap4(column); }
                column = biased(it, row, key0 + bit + i, bit + i, column, &bits) - sums;
                let p = exp4(column);
                let term = select(p * column, vec4f(0.0), p == vec4f(0.0));
                entropy -= select(vec4f(0.0), term, bits_at(bits, bit + i));
                z = turn(z);
            }
        }
        // Sync: the sums of the item before are still read.
        workgroupBarrier();
        partial[thread] = entropy;
        workgroupBarrier();
        if (tx == 0u) {
            var four = bitcast<vec4u>(line_sum(ty));
            for (var r = 0u; r < count; r += 1u) {
                out[base(params.out, b, h) + (line + r) * params.out.w] = select(four.x, NAN_BITS, sequence.length < 0);
                four = four.yzww;
            }
        }
    }
}
