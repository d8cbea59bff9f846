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

fn shrink_rows(acc: ptr<function, mat4x4f>, by: vec4f) {
    *acc = mat4x4f((*acc)[0] * by.x, (*acc)[1] * by.y, (*acc)[2] * by.z, (*acc)[3] * by.w);
}
fn write4(to: u32, d: u32, values: vec4f, empty: bool, poisoned: bool) {
    let bits = select(select(bitcast<vec4u>(values), vec4u(0u), empty), vec4u(NAN_BITS), poisoned);
    if (d < params.value_dim) { o[to + d] = bits.x; }
    if (d + 1u < params.value_dim) { o[to + d + 1u] = bits.y; }
    if (d + 2u < params.value_dim) { o[to + d + 2u] = bits.z; }
    if (d + 3u < params.value_dim) { o[to + d + 3u] = bits.w; }
}
// The thread's columns of one row, and once a row its log-sum-exp.
fn write_row(
    b: u32, h: u32, row: u32, tx: u32, limit: i32, length: i32, log_sum: f32, total: f32,
    acc0: vec4f, acc1: vec4f, acc2: vec4f, acc3: vec4f,
) {
    if (row >= params.q_len) { return; }
    let empty = limit <= 0;
    let poisoned = length < 0;
    if (tx == 0u) {
        let bits = select(bitcast<u32>(log_sum), NEGATIVE_INFINITY_BITS, empty);
        lse[base(params.lse, b, h) + row * params.lse.w] = select(bits, NAN_BITS, poisoned);
    }
    let factor = 1.0 / total;
    var gate = 1.0;
    if (params.want == WANT_ROW_SCALE) { gate = row_scale[base(params.row_scale, b, h) + row * params.row_scale.w]; }
    let to = base(params.o, b, h) + row * params.o.w;
    write4(to, 4u * tx, acc0 * factor * gate, empty, poisoned);
    if (OUT > 1u) { write4(to, 4u * tx + 32u, acc1 * factor * gate, empty, poisoned); }
    if (OUT > 2u) {
        write4(to, 4u * tx + 64u, acc2 * factor * gate, empty, poisoned);
        write4(to, 4u * tx + 96u, acc3 * factor * gate, empty, poisoned);
    }
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
        // Row r, columns 4·(tx + 8·c) .. of the output are acc{c}[r].
        var acc0 = mat4x4f();
        var acc1 = mat4x4f();
        var acc2 = mat4x4f();
        var acc3 = mat4x4f();

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
            shrink_rows(&acc0, shrink);
            if (OUT > 1u) { shrink_rows(&acc1, shrink); }
            if (OUT > 2u) {
                shrink_rows(&acc2, shrink);
                shrink_rows(&acc3, shrink);
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
                    let at = j * 8u * OUT + tx;
                    add_outer(&acc0, p, tile[at]);
                    if (OUT > 1u) { add_outer(&acc1, p, tile[at + 8u]); }
                    if (OUT > 2u) {
                        add_outer(&acc2, p, tile[at + 16u]);
                        add_outer(&acc3, p, tile[at + 24u]);
                    }
                }
                for (; j < stop; j += 1u) {
                    let p = weights[(j0 + j) * PITCH + ty];
                    let sees = vec4i(i32(key0 + j0 + j)) < limits;
                    let at = j * 8u * OUT + tx;
                    add_outer_where(&acc0, p, tile[at], sees);
                    if (OUT > 1u) { add_outer_where(&acc1, p, tile[at + 8u], sees); }
                    if (OUT > 2u) {
                        add_outer_where(&acc2, p, tile[at + 16u], sees);
                        add_outer_where(&acc3, p, tile[at + 24u], sees);
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

        let log_sum = peak + log_total;
        let row = row0 + 4u * ty;
        write_row(b, h, row, tx, limits.x, length, log_sum.x, total.x, acc0[0], acc1[0], acc2[0], acc3[0]);
        write_row(b, h, row + 1u, tx, limits.y, length, log_sum.y, total.y, acc0[1], acc1[1], acc2[1], acc3[1]);
        write_row(b, h, row + 2u, tx, limits.z, length, log_sum.z, total.z, acc0[2], acc1[2], acc2[2], acc3[2]);
        write_row(b, h, row + 3u, tx, limits.w, length, log_sum.w, total.w, acc0[3], acc1[3], acc2[3], acc3[3]);
    }
}
