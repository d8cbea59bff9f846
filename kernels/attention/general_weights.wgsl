// attention_general_weights: p = exp(z − lse) of chosen query rows, for every score, mask, layout and type: what a head looks at.
// Shapes    q, k, bias, plan as attention_general_forward; lse [b,hq,sq] f32; chosen [n,3]: sample, head, query
//           → out [n, kv slots] f32, contiguous
// Mapping   persistent workgroups over (chosen row, 64 keys); a thread has one key, four components at a time
// Shared    tile 4.5 KiB of general_score.wgsl, not used
// Traffic   q once per 64 keys, k once;  FLOPs 2·n·sk·D
// Numerics  f32; a hidden key, an inactive pair and a query beyond its sample have weight 0, whatever q and k hold; a sample with a
//           bad length is NaN; dropout is not applied, the share of a sink not counted
// Host      chosen rows are within the shape; n·kv slots < 2³²
// Twin      src/attention/cpu/inspect.rs        Source  our own

@group(0) @binding(0) var<storage, read> q: array<u32>;
@group(0) @binding(1) var<storage, read> k: array<u32>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<u32>;
@group(0) @binding(4) var<storage, read> plan: array<u32>;
@group(0) @binding(5) var<storage, read> chosen_rows: array<u32>;
// Bits, so that NaN is stored as such whatever a compiler assumes about f32.
@group(0) @binding(6) var<storage, read_write> out: array<u32>;
@group(0) @binding(7) var<uniform> params: Params;

fn q_four(it: Item, row: u32, d: u32) -> vec4f {
    return vec4f(q_at(it, row, d), q_at(it, row, d + 1u), q_at(it, row, d + 2u), q_at(it, row, d + 3u));
}
fn k_four(it: Item, key: u32, d: u32) -> vec4f {
    return vec4f(k_at(it, key, d), k_at(it, key, d + 1u), k_at(it, key, d + 2u), k_at(it, key, d + 3u));
}
fn total(four: vec4f) -> f32 { return (four.x + four.y) + (four.z + four.w); }

// The score of one pair before its scale. Components beyond the head dimension are 0 in q and k, and so add 0 to every score.
fn compared(it: Item, row: u32, key: u32) -> f32 {
    var sum = vec4f(0.0);
    var second = vec4f(0.0);  // imaginary part of a fidelity, or the squared norms of a cosine
    var third = vec4f(0.0);
    for (var d = 0u; d < params.head_dim; d += 4u) {
        let a = q_four(it, row, d);
        let c = k_four(it, key, d);
        if (params.score == ADDITIVE) {
            let w = vec4f(w_at(it.h, d), w_at(it.h, d + 1u), w_at(it.h, d + 2u), w_at(it.h, d + 3u));
            sum += w * tanh4(a + c);
        } else if (params.score == GAUSSIAN) {
            sum += (a - c) * (a - c);
        } else {
            sum += a * c;
        }
        if (params.score == COSINE) {
            second += a * a;
            third += c * c;
        }
        if (params.score == FIDELITY) { second += a * vec4f(c.y, -c.x, c.w, -c.z); }
    }
    let value = total(sum);
    if (params.score == COSINE) { return value * inverse_norm(vec4f(total(second))).x * inverse_norm(vec4f(total(third))).x; }
    if (params.score == FIDELITY) { return value * value + total(second) * total(second); }
    return value;
}

fn weight_bits(b: u32, h: u32, row: u32, key: u32) -> u32 {
    if (plan[params.at_active + b * params.q_heads + h] == 0u) { return 0u; }
    let s = sample(b);
    if (s.length < 0) { return NAN_BITS; }
    let it = item(s, b, h, true);
    if (row >= it.rows || key >= it.end) { return 0u; }
    let bit = key % LINES;
    // The helpers take four queries; the first is the one.
    var bits = sight(it, row, key - bit) & vec4u(1u << bit, 0u, 0u, 0u);
    if (bits.x == 0u) { return 0u; }
    var z = vec4f(params.scale * compared(it, row, key));
    if (has(HAS_SOFTCAP)) { z = cap4(z); }
    z = biased(it, row, key, bit, z, &bits);
    if (bits.x == 0u) { return 0u; }
    let sum = lse[base(params.lse, b, h) + (s.q_start + row) * params.lse.w];
    return bitcast<u32>(exp4(z - vec4f(sum)).x);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    for (var w = group.x; w < params.tiles * params.blocks; w += groups.x) {
        let number = w / params.blocks;
        let key = w % params.blocks * 64u + thread;
        if (key < params.kv_slots) {
            let row = 3u * number;
            out[number * params.kv_slots + key] = weight_bits(chosen_rows[row], chosen_rows[row + 1u], chosen_rows[row + 2u], key);
        }
    }
}
