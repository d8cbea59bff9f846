// attention_backward_kv: dk_j = Σ_i ds_ij·q_i or dv_j = Σ_i p_ij·row_scale_i·grad_o_i, summed over the query heads that share
//                        the key head; p and ds as in attention_backward_q.
// Shapes    as attention_backward_q; out = dk [b,hk,sk,D] or dv [b,hk,sk,Dv], by params.want; D, Dv ≤ 32·OUT (OUT = 1, 2, 4)
// Mapping   persistent workgroups of 8 × 8 over (key pair, 32 keys); a thread has 4 keys × 4 queries of the scores and 4 keys ×
//           4·OUT columns of the output; key pairs beyond the active ones only get zeros; inactive heads are skipped
// Shared    tile 4.5 KiB + weights 4.5 KiB = 9 KiB
// Traffic   k, v, and per key tile of 32: q, grad_o of every head of the group;  FLOPs 2·b·hq·sq·sk·(2·D) for dv,
//           ·(2·D + Dv) for dk. One output a launch: both at once need 128 accumulators a thread at D = 128, and spill
// Numerics  f32, fixed order (heads, then query tiles, ascending), no atomics; masked entries are selected away
// Host      as attention_forward
// Twin      src/attention/cpu.rs        Source  arXiv:2307.08691, algorithm 2

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> grad_o: array<f32>;
@group(0) @binding(4) var<storage, read> rows: array<f32>;
@group(0) @binding(5) var<storage, read> plan: array<u32>;
@group(0) @binding(6) var<storage, read_write> out: array<u32>;
@group(0) @binding(7) var<uniform> params: Params;

const WANT_DK: u32 = 1u;          // else dv
const STAGED: u32 = LINES / OUT;  // queries staged at a time for the output
const HALF: u32 = DEPTH * PITCH;

var<workgroup> tile: array<vec4f, 2u * DEPTH * PITCH>;
var<workgroup> weights: array<vec4f, LINES * PITCH>;

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
fn grad_at(at: u32, row: u32, d: u32) -> f32 {
    if (row < params.q_len && d < params.value_dim) { return grad_o[at + row * params.grad_o.w + d]; }
    return 0.0;
}

// What the query contributes to the output of four keys: ds for dk, p·row_scale for dv.
fn weight_of(pair: u32, row: u32, keys: vec4i, first: i32, end: i32, scores: vec4f, g: vec4f) -> vec4f {
    let at = 3u * (pair * params.q_len + min(row, params.q_len - 1u));
    let limit = select(0, visible(row, first, end), row < params.q_len);
    let p = exp4(scores * params.scale - vec4f(rows[at]));
    var weight = p * rows[at + 2u];
    if (params.want == WANT_DK) { weight = p * (rows[at + 2u] * g - rows[at + 1u]) * params.scale; }
    return select(vec4f(0.0), weight, keys < vec4i(limit));
}
fn write4(to: u32, d: u32, out_dim: u32, values: vec4f, exists: bool, poisoned: bool) {
    let bits = select(select(vec4u(0u), bitcast<vec4u>(values), exists), vec4u(NAN_BITS), poisoned);
    if (d < out_dim) { out[to + d] = bits.x; }
    if (d + 1u < out_dim) { out[to + d + 1u] = bits.y; }
    if (d + 2u < out_dim) { out[to + d + 2u] = bits.z; }
    if (d + 3u < out_dim) { out[to + d + 3u] = bits.w; }
}
// The thread's columns of one key. A key beyond the sample's length got 0·NaN at most, and is zero by definition.
fn write_row(
    at: u32, stride: u32, key: u32, end: u32, tx: u32, out_dim: u32, poisoned: bool,
    acc0: vec4f, acc1: vec4f, acc2: vec4f, acc3: vec4f,
) {
    if (key >= params.kv_slots) { return; }
    let exists = key < end;
    let to = at + key * stride;
    write4(to, 4u * tx, out_dim, acc0, exists, poisoned);
    if (OUT > 1u) { write4(to, 4u * tx + 32u, out_dim, acc1, exists, poisoned); }
    if (OUT > 2u) {
        write4(to, 4u * tx + 64u, out_dim, acc2, exists, poisoned);
        write4(to, 4u * tx + 96u, out_dim, acc3, exists, poisoned);
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let ty = thread / 8u;  // keys 4·ty ..
    let tx = thread % 8u;  // queries 4·tx .., columns 4·(tx + 8·c) ..
    let for_keys = params.want == WANT_DK;
    let out_dim = select(params.value_dim, params.head_dim, for_keys);
    let sharing = params.q_heads / params.kv_heads;
    let work = params.batch * params.kv_heads * params.tiles;
    for (var w = group.x; w < work; w += groups.x) {
        let listed = w / params.tiles < plan[1];
        let kv_pair = plan[plan_kv_order() + w / params.tiles];
        if (kv_pair == INVALID) { continue; }
        let b = kv_pair / params.kv_heads;
        let kv_head = kv_pair % params.kv_heads;
        let key0 = (w % params.tiles) * LINES;
        let length = bitcast<i32>(plan[plan_sample(b)]);
        let first = bitcast<i32>(plan[plan_sample(b) + 1u]);
        let end = u32(select(0, max(length, 0), listed));
        let k_base = base(params.k, b, kv_head);
        let v_base = base(params.v, b, kv_head);
        // Queries below `start` see none of these keys; without any key of the sample here, none does.
        var start = u32(max(i32(key0) - first, 0)) / LINES * LINES;
        if (key0 >= end) { start = params.q_len; }

        // Row r, columns 4·(tx + 8·c) .. of the output are acc{c}[r].
        var acc0 = mat4x4f();
        var acc1 = mat4x4f();
        var acc2 = mat4x4f();
        var acc3 = mat4x4f();

        for (var shared_by = 0u; shared_by < sharing; shared_by += 1u) {
            let h = kv_head * sharing + shared_by;
            let pair = b * params.q_heads + h;
            if (plan[plan_active() + pair] == 0u) { continue; }
            let q_base = base(params.q, b, h);
            let grad_base = base(params.grad_o, b, h);
            for (var row0 = start; row0 < params.q_len; row0 += LINES) {
                // Scores s and g = ⟨grad_o, v⟩: index i is query 4·tx + i, the components are the thread's four keys.
                var s0 = vec4f(0.0);
                var s1 = vec4f(0.0);
                var s2 = vec4f(0.0);
                var s3 = vec4f(0.0);
                for (var d0 = 0u; d0 < params.head_dim; d0 += DEPTH) {
                    // Sync: slow threads still read the tile of the step before.
                    workgroupBarrier();
                    for (var i = thread; i < DEPTH * 8u; i += 64u) {
                        let d = d0 + i % DEPTH;
                        let row = row0 + 4u * (i / DEPTH);
                        let key = key0 + 4u * (i / DEPTH);
                        let to = (i % DEPTH) * PITCH + i / DEPTH;
                        tile[to] = vec4f(q_at(q_base, row, d), q_at(q_base, row + 1u, d), q_at(q_base, row + 2u, d),
                            q_at(q_base, row + 3u, d));
                        tile[HALF + to] = vec4f(k_at(k_base, key, end, d), k_at(k_base, key + 1u, end, d),
                            k_at(k_base, key + 2u, end, d), k_at(k_base, key + 3u, end, d));
                    }
                    workgroupBarrier();
                    let depth = min(DEPTH, params.head_dim - d0);
                    for (var d = 0u; d < depth; d += 1u) {
                        let queries = tile[d * PITCH + tx];
                        let keys = tile[HALF + d * PITCH + ty];
                        s0 += keys * queries.x;
                        s1 += keys * queries.y;
                        s2 += keys * queries.z;
                        s3 += keys * queries.w;
                    }
                }
                var g0 = vec4f(0.0);
                var g1 = vec4f(0.0);
                var g2 = vec4f(0.0);
                var g3 = vec4f(0.0);
                // dv does not need g.
                let g_dim = select(0u, params.value_dim, for_keys);
                for (var d0 = 0u; d0 < g_dim; d0 += DEPTH) {
                    workgroupBarrier();
                    for (var i = thread; i < DEPTH * 8u; i += 64u) {
                        let d = d0 + i % DEPTH;
                        let row = row0 + 4u * (i / DEPTH);
                        let key = key0 + 4u * (i / DEPTH);
                        let to = (i % DEPTH) * PITCH + i / DEPTH;
                        tile[to] = vec4f(grad_at(grad_base, row, d), grad_at(grad_base, row + 1u, d),
                            grad_at(grad_base, row + 2u, d), grad_at(grad_base, row + 3u, d));
                        tile[HALF + to] = vec4f(v_at(v_base, key, end, d), v_at(v_base, key + 1u, end, d),
                            v_at(v_base, key + 2u, end, d), v_at(v_base, key + 3u, end, d));
                    }
                    workgroupBarrier();
                    let depth = min(DEPTH, params.value_dim - d0);
                    for (var d = 0u; d < depth; d += 1u) {
                        let grads = tile[d * PITCH + tx];
                        let values = tile[HALF + d * PITCH + ty];
                        g0 += values * grads.x;
                        g1 += values * grads.y;
                        g2 += values * grads.z;
                        g3 += values * grads.w;
                    }
                }
                let keys = vec4i(i32(key0 + 4u * ty)) + vec4i(0, 1, 2, 3);
                let row = row0 + 4u * tx;
                let to = 4u * tx * PITCH + ty;
                weights[to] = weight_of(pair, row, keys, first, i32(end), s0, g0);
                weights[to + PITCH] = weight_of(pair, row + 1u, keys, first, i32(end), s1, g1);
                weights[to + 2u * PITCH] = weight_of(pair, row + 2u, keys, first, i32(end), s2, g2);
                weights[to + 3u * PITCH] = weight_of(pair, row + 3u, keys, first, i32(end), s3, g3);

                let count = min(LINES, params.q_len - row0);
                for (var j0 = 0u; j0 < count; j0 += STAGED) {
                    // Sync: the scores, or the queries before, are still read from the tile.
                    workgroupBarrier();
                    for (var i = thread; i < STAGED * 8u * OUT; i += 64u) {
                        let row = row0 + j0 + i / (8u * OUT);
                        let d = 4u * (i % (8u * OUT));
                        if (for_keys) {
                            tile[i] = vec4f(q_at(q_base, row, d), q_at(q_base, row, d + 1u), q_at(q_base, row, d + 2u),
                                q_at(q_base, row, d + 3u));
                        } else {
                            tile[i] = vec4f(grad_at(grad_base, row, d), grad_at(grad_base, row, d + 1u),
                                grad_at(grad_base, row, d + 2u), grad_at(grad_base, row, d + 3u));
                        }
                    }
                    workgroupBarrier();
                    for (var j = 0u; j < min(count - j0, STAGED); j += 1u) {
                        let weight = weights[(j0 + j) * PITCH + ty];
                        let limit = visible(row0 + j0 + j, first, i32(end));
                        if (limit >= min(i32(key0 + LINES), i32(end))) {
                            let at = j * 8u * OUT + tx;
                            add_outer(&acc0, weight, tile[at]);
                            if (OUT > 1u) { add_outer(&acc1, weight, tile[at + 8u]); }
                            if (OUT > 2u) {
                                add_outer(&acc2, weight, tile[at + 16u]);
                                add_outer(&acc3, weight, tile[at + 24u]);
                            }
                        } else {
                            let seen = keys < vec4i(limit);
                            let at = j * 8u * OUT + tx;
                            add_outer_where(&acc0, weight, tile[at], seen);
                            if (OUT > 1u) { add_outer_where(&acc1, weight, tile[at + 8u], seen); }
                            if (OUT > 2u) {
                                add_outer_where(&acc2, weight, tile[at + 16u], seen);
                                add_outer_where(&acc3, weight, tile[at + 24u], seen);
                            }
                        }
                    }
                }
            }
        }

        let poisoned = length < 0 && listed;
        let view = select(params.dv, params.dk, for_keys);
        let to = base(view, b, kv_head);
        let key = key0 + 4u * ty;
        write_row(to, view.w, key, end, tx, out_dim, poisoned, acc0[0], acc1[0], acc2[0], acc3[0]);
        write_row(to, view.w, key + 1u, end, tx, out_dim, poisoned, acc0[1], acc1[1], acc2[1], acc3[1]);
        write_row(to, view.w, key + 2u, end, tx, out_dim, poisoned, acc0[2], acc1[2], acc2[2], acc3[2]);
        write_row(to, view.w, key + 3u, end, tx, out_dim, poisoned, acc0[3], acc1[3], acc2[3], acc3[3]);
    }
}
