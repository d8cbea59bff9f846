// attention_forward: o = row_scale · softmax(scale·q·kᵀ)·v and its log-sum-exp, online softmax over key tiles.
// Shapes    q [b,hq,sq,D]  k [b,hk,sk,D]  v [b,hk,sk,Dv]  o [b,hq,sq,Dv]  lse, row_scale [b,hq,sq]; strides in params;
//           Dv ≤ 32·OUT (variants OUT = 1, 2, 4)
// Mapping   persistent workgroups of 8 × 8 over (active pair, 32 queries); a thread has 4 queries × 4 keys of the scores and
//           4 queries × 4·OUT columns of o, so each vec4 read from workgroup memory feeds 8 (scores) or 13 (o) FMAs
// Shared    tile 4.5 KiB (q and k by 16 components, then v by 32/OUT keys) + weights 4.5 KiB + reductions 1 KiB = 10 KiB
// Traffic   q, k, v once per query tile of 32, o once;  FLOPs 2·b·hq·sq·sk·(D + Dv)
// Numerics  f32; masks are integer comparisons, and a masked key is selected away before its product, so NaN behind a mask
//           never enters; key tiles that no query sees are skipped; empty row → o = 0, lse = −∞
// Host      rejects D, Dv > 128, views beyond 2³² elements
// Twin      src/attention/cpu.rs        Source  arXiv:2307.08691 (tiling), arXiv:1805.02867 (online softmax)

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> row_scale: array<f32>;
@group(0) @binding(4) var<storage, read> plan: array<u32>;
// Bits, so that NaN and −∞ are stored as such whatever a compiler assumes about f32.
@group(0) @binding(5) var<storage, read_write> o: array<u32>;
@group(0) @binding(6) var<storage, read_write> lse: array<u32>;
@group(0) @binding(7) var<uniform> params: Params;

const WANT_ROW_SCALE: u32 = 1u;
const V_KEYS: u32 = LINES / OUT;  // keys of v staged at a time
const K_TILE: u32 = DEPTH * PITCH;
const SENTINEL: f32 = -3.0e38;    // below every score; −∞ would make NaN of m_old − m_new

var<workgroup> tile: array<vec4f, 2u * DEPTH * PITCH>;
var<workgroup> weights: array<vec4f, LINES * PITCH>;
var<workgroup> partial: array<vec4f, 64>;

fn q_at(at: u32, row: u32, d: u32) -> f32 {
    if (row < params.q_len && d < params.head_dim) { return q[at + row * params.q.w + d]; }
    return 0.0;
}
fn k_at(at: u32, key: u32, end: u32, d: u32) -> f32 {
    if (key < end && d < params.head_dim) { return k[at + key * params.k.w + d]; }
    return 0.0;
}
fn v_at(at: u32, key: u32, end: u32, d: u32) -> f32 {
    if (key < end && d < params.value_dim) { return v[at + key * params.v.w + d]; }
    return 0.0;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let ty = thread / 8u;  // queries 4·ty ..
    let tx = thread % 8u;  // keys 4·tx .., columns 4·(tx + 8·c) ..
    let work = plan[0] * params.tiles;
    for (var w = group.x; w < work; w += groups.x) {
        let pair = plan[plan_order() + w / params.tiles];
        if (pair == INVALID) { continue; }
        let b = pair / params.q_heads;
        let h = pair % params.q_heads;
        let kv_head = h / (params.q_heads / params.kv_heads);
        // Last tile first: under a causal mask it is the longest.
        let row0 = (params.tiles - 1u - w % params.tiles) * LINES;
        let length = bitcast<i32>(plan[plan_sample(b)]);
        let first = bitcast<i32>(plan[plan_sample(b) + 1u]);
        let limits = visible4(row0 + 4u * ty, first, max(length, 0));
        let all_see = u32(visible(row0, first, max(length, 0)));
        let end = u32(visible(min(row0 + LINES, params.q_len) - 1u, first, max(length, 0)));
        let q_base = base(params.q, b, h);
        let k_base = base(params.k, b, kv_head);
        let v_base = base(params.v, b, kv_head);

        var peak = vec4f(SENTINEL);
        var total = vec4f(0.0);
        var acc: array<vec4f, 4u * OUT>;
        for (var i = 0u; i < 4u * OUT; i += 1u) { acc[i] = vec4f(0.0); }

        for (var key0 = 0u; key0 < end; key0 += LINES) {
            // s[i] holds the scores of key 4·tx + i with the thread's four queries.
            var s0 = vec4f(0.0);
            var s1 = vec4f(0.0);
            var s2 = vec4f(0.0);
            var s3 = vec4f(0.0);
            for (var d0 = 0u; d0 < params.head_dim; d0 += DEPTH) {
                // Sync: slow threads still read the tile of the step before.
                workgroupBarrier();
                for (var i = thread; i < DEPTH * 8u; i += 64u) {
                    let d = d0 + i % DEPTH;
                    let line = i / DEPTH;
                    let row = row0 + 4u * line;
                    let key = key0 + 4u * line;
                    let to = (i % DEPTH) * PITCH + line;
                    tile[to] = vec4f(q_at(q_base, row, d), q_at(q_base, row + 1u, d), q_at(q_base, row + 2u, d),
                        q_at(q_base, row + 3u, d));
                    tile[K_TILE + to] = vec4f(k_at(k_base, key, end, d), k_at(k_base, key + 1u, end, d),
                        k_at(k_base, key + 2u, end, d), k_at(k_base, key + 3u, end, d));
                }
                workgroupBarrier();
                let depth = min(DEPTH, params.head_dim - d0);
                for (var d = 0u; d < depth; d += 1u) {
                    let queries = tile[d * PITCH + ty];
                    let keys = tile[K_TILE + d * PITCH + tx];
                    s0 += queries * keys.x;
                    s1 += queries * keys.y;
                    s2 += queries * keys.z;
                    s3 += queries * keys.w;
                }
            }
            let key = vec4i(i32(key0 + 4u * tx));
            let sees0 = key < limits;
            let sees1 = key + vec4i(1) < limits;
            let sees2 = key + vec4i(2) < limits;
            let sees3 = key + vec4i(3) < limits;
            s0 = select(vec4f(SENTINEL), s0 * params.scale, sees0);
            s1 = select(vec4f(SENTINEL), s1 * params.scale, sees1);
            s2 = select(vec4f(SENTINEL), s2 * params.scale, sees2);
            s3 = select(vec4f(SENTINEL), s3 * params.scale, sees3);
            partial[thread] = max(max(s0, s1), max(s2, s3));
            workgroupBarrier();
            var new_peak = peak;
            for (var i = 0u; i < 8u; i += 1u) { new_peak = max(new_peak, partial[ty * 8u + i]); }
            let shrink = exp4(peak - new_peak);
            peak = new_peak;
            let p0 = select(vec4f(0.0), exp4(s0 - peak), sees0);
            let p1 = select(vec4f(0.0), exp4(s1 - peak), sees1);
            let p2 = select(vec4f(0.0), exp4(s2 - peak), sees2);
            let p3 = select(vec4f(0.0), exp4(s3 - peak), sees3);
            total = total * shrink + ((p0 + p1) + (p2 + p3));
            for (var c = 0u; c < OUT; c += 1u) {
                acc[c] *= shrink.x;
                acc[OUT + c] *= shrink.y;
                acc[2u * OUT + c] *= shrink.z;
                acc[3u * OUT + c] *= shrink.w;
            }
            let line = 4u * tx * PITCH + ty;
            weights[line] = p0;
            weights[line + PITCH] = p1;
            weights[line + 2u * PITCH] = p2;
            weights[line + 3u * PITCH] = p3;

            let count = min(LINES, end - key0);
            for (var j0 = 0u; j0 < count; j0 += V_KEYS) {
                // Sync: the scores, or the v before, are still read from the tile.
                workgroupBarrier();
                for (var i = thread; i < V_KEYS * 8u * OUT; i += 64u) {
                    let key = key0 + j0 + i / (8u * OUT);
                    let d = 4u * (i % (8u * OUT));
                    tile[i] = vec4f(v_at(v_base, key, end, d), v_at(v_base, key, end, d + 1u),
                        v_at(v_base, key, end, d + 2u), v_at(v_base, key, end, d + 3u));
                }
                workgroupBarrier();
                // Keys below `all_see` need no mask; beyond, 0·NaN is NaN, so v is selected.
                let stop = min(count - j0, V_KEYS);
                let seen = min(stop, max(all_see, key0 + j0) - (key0 + j0));
                var j = 0u;
                for (; j < seen; j += 1u) {
                    let p = weights[(j0 + j) * PITCH + ty];
                    for (var c = 0u; c < OUT; c += 1u) {
                        let value = tile[j * 8u * OUT + 8u * c + tx];
                        acc[c] += p.x * value;
                        acc[OUT + c] += p.y * value;
                        acc[2u * OUT + c] += p.z * value;
                        acc[3u * OUT + c] += p.w * value;
                    }
                }
                for (; j < stop; j += 1u) {
                    let p = weights[(j0 + j) * PITCH + ty];
                    let sees = vec4i(i32(key0 + j0 + j)) < limits;
                    for (var c = 0u; c < OUT; c += 1u) {
                        let value = tile[j * 8u * OUT + 8u * c + tx];
                        acc[c] += p.x * select(vec4f(0.0), value, sees.x);
                        acc[OUT + c] += p.y * select(vec4f(0.0), value, sees.y);
                        acc[2u * OUT + c] += p.z * select(vec4f(0.0), value, sees.z);
                        acc[3u * OUT + c] += p.w * select(vec4f(0.0), value, sees.w);
                    }
                }
            }
        }

        // Sync: `partial` may still be read for the last peak.
        workgroupBarrier();
        partial[thread] = total;
        workgroupBarrier();
        total = vec4f(0.0);
        for (var i = 0u; i < 8u; i += 1u) { total += partial[ty * 8u + i]; }
        // One Newton step: WGSL promises log only to 2⁻²¹.
        let rough = log(total);
        let log_total = rough + (total * exp4(-rough) - 1.0);

        for (var r = 0u; r < 4u; r += 1u) {
            let row = row0 + 4u * ty + r;
            if (row >= params.q_len) { continue; }
            let empty = limits[r] <= 0;
            if (tx == 0u) {
                var bits = bitcast<u32>(peak[r] + log_total[r]);
                bits = select(bits, NEGATIVE_INFINITY_BITS, empty);
                lse[base(params.lse, b, h) + row * params.lse.w] = select(bits, NAN_BITS, length < 0);
            }
            var factor = 1.0 / total[r];
            if (params.want == WANT_ROW_SCALE) {
                factor *= row_scale[base(params.row_scale, b, h) + row * params.row_scale.w];
            }
            let to = base(params.o, b, h) + row * params.o.w;
            for (var c = 0u; c < OUT; c += 1u) {
                let values = acc[r * OUT + c] * factor;
                let d = 4u * (8u * c + tx);
                for (var i = 0u; i < 4u; i += 1u) {
                    if (d + i < params.value_dim) {
                        let bits = select(bitcast<u32>(values[i]), 0u, empty);
                        o[to + d + i] = select(bits, NAN_BITS, length < 0);
                    }
                }
            }
        }
    }
}
