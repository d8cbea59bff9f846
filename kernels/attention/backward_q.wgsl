// attention_backward_q: dq_i = Σ_j ds_ij·k_j and drow_scale_i = Σ_j p_ij·⟨grad_o_i, v_j⟩, with p recomputed from lse and
//                       ds_ij = p_ij·(row_scale_i·⟨grad_o_i, v_j⟩ − delta_i)·scale.
// Shapes    q, dq [b,hq,sq,D]  k [b,hk,sk,D]  v [b,hk,sk,Dv]  grad_o [b,hq,sq,Dv]  rows [b·hq·sq][3] (backward_rows.wgsl)
//           drow_scale [b,hq,sq];  D ≤ 32·OUT (variants OUT = 1, 2, 4)
// Mapping   as attention_forward: persistent workgroups of 8 × 8 over (pair, 32 queries), 4 queries × 4 keys a thread; pairs
//           beyond the active ones only get dq = 0
// Shared    tile 4.5 KiB + ds 4.5 KiB + reductions 1 KiB = 10 KiB
// Traffic   q, grad_o, k (twice), v once per query tile of 32, dq once;  FLOPs 2·b·hq·sq·sk·(2·D + Dv)
// Numerics  f32, fixed order, no atomics; masked entries are selected away before their product, as in the forward pass
// Host      as attention_forward
// Twin      src/attention/cpu.rs        Source  arXiv:2307.08691, algorithm 2

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> grad_o: array<f32>;
@group(0) @binding(4) var<storage, read> rows: array<f32>;
@group(0) @binding(5) var<storage, read> plan: array<u32>;
@group(0) @binding(6) var<storage, read_write> dq: array<u32>;
@group(0) @binding(7) var<storage, read_write> drow_scale: array<u32>;
@group(0) @binding(8) var<uniform> params: Params;

const WANT_DQ: u32 = 1u;
const WANT_DROW_SCALE: u32 = 2u;
const K_KEYS: u32 = LINES / OUT;  // keys of k staged at a time for dq
const HALF: u32 = DEPTH * PITCH;

var<workgroup> tile: array<vec4f, 2u * DEPTH * PITCH>;
var<workgroup> ds: array<vec4f, LINES * PITCH>;
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
fn grad_at(at: u32, row: u32, d: u32) -> f32 {
    if (row < params.q_len && d < params.value_dim) { return grad_o[at + row * params.grad_o.w + d]; }
    return 0.0;
}
fn row_values(pair: u32, row: u32, which: u32) -> vec4f {
    let last = params.q_len - 1u;
    let at = vec4u(min(row, last), min(row + 1u, last), min(row + 2u, last), min(row + 3u, last));
    let i = 3u * (vec4u(pair * params.q_len) + at) + vec4u(which);
    return vec4f(rows[i.x], rows[i.y], rows[i.z], rows[i.w]);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let ty = thread / 8u;  // queries 4·ty ..
    let tx = thread % 8u;  // keys 4·tx .., columns 4·(tx + 8·c) ..
    let work = params.batch * params.q_heads * params.tiles;
    for (var w = group.x; w < work; w += groups.x) {
        let listed = w / params.tiles < plan[0];
        let pair = plan[plan_order() + w / params.tiles];
        if (pair == INVALID) { continue; }
        let b = pair / params.q_heads;
        let h = pair % params.q_heads;
        let kv_head = h / (params.q_heads / params.kv_heads);
        let row0 = (params.tiles - 1u - w % params.tiles) * LINES;
        let length = bitcast<i32>(plan[plan_sample(b)]);
        let first = bitcast<i32>(plan[plan_sample(b) + 1u]);
        // An inactive pair sees nothing: its rows are zero and nothing of it is read.
        let seen_length = select(0, max(length, 0), listed);
        let limits = visible4(row0 + 4u * ty, first, seen_length);
        let all_see = u32(visible(row0, first, seen_length));
        let end = u32(visible(min(row0 + LINES, params.q_len) - 1u, first, seen_length));
        let q_base = base(params.q, b, h);
        let grad_base = base(params.grad_o, b, h);
        let k_base = base(params.k, b, kv_head);
        let v_base = base(params.v, b, kv_head);

        var row_lse = vec4f(0.0);
        var delta = vec4f(0.0);
        var row_factor = vec4f(0.0);
        if (listed) {
            row_lse = row_values(pair, row0 + 4u * ty, 0u);
            delta = row_values(pair, row0 + 4u * ty, 1u);
            row_factor = row_values(pair, row0 + 4u * ty, 2u);
        }
        var drow = vec4f(0.0);
        var acc: array<vec4f, 4u * OUT>;
        for (var i = 0u; i < 4u * OUT; i += 1u) { acc[i] = vec4f(0.0); }

        for (var key0 = 0u; key0 < end; key0 += LINES) {
            // Scores s and g = ⟨grad_o, v⟩: index i is key 4·tx + i, the components are the thread's four queries.
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
                    let queries = tile[d * PITCH + ty];
                    let keys = tile[HALF + d * PITCH + tx];
                    s0 += queries * keys.x;
                    s1 += queries * keys.y;
                    s2 += queries * keys.z;
                    s3 += queries * keys.w;
                }
            }
            var g0 = vec4f(0.0);
            var g1 = vec4f(0.0);
            var g2 = vec4f(0.0);
            var g3 = vec4f(0.0);
            for (var d0 = 0u; d0 < params.value_dim; d0 += DEPTH) {
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
                    let grads = tile[d * PITCH + ty];
                    let values = tile[HALF + d * PITCH + tx];
                    g0 += grads * values.x;
                    g1 += grads * values.y;
                    g2 += grads * values.z;
                    g3 += grads * values.w;
                }
            }
            let key = vec4i(i32(key0 + 4u * tx));
            let sees0 = key < limits;
            let sees1 = key + vec4i(1) < limits;
            let sees2 = key + vec4i(2) < limits;
            let sees3 = key + vec4i(3) < limits;
            let p0 = exp4(s0 * params.scale - row_lse);
            let p1 = exp4(s1 * params.scale - row_lse);
            let p2 = exp4(s2 * params.scale - row_lse);
            let p3 = exp4(s3 * params.scale - row_lse);
            let zero = vec4f(0.0);
            drow += (select(zero, p0 * g0, sees0) + select(zero, p1 * g1, sees1))
                + (select(zero, p2 * g2, sees2) + select(zero, p3 * g3, sees3));
            let line = 4u * tx * PITCH + ty;
            ds[line] = select(zero, p0 * (row_factor * g0 - delta) * params.scale, sees0);
            ds[line + PITCH] = select(zero, p1 * (row_factor * g1 - delta) * params.scale, sees1);
            ds[line + 2u * PITCH] = select(zero, p2 * (row_factor * g2 - delta) * params.scale, sees2);
            ds[line + 3u * PITCH] = select(zero, p3 * (row_factor * g3 - delta) * params.scale, sees3);

            if ((params.want & WANT_DQ) == 0u) { continue; }
            let count = min(LINES, end - key0);
            for (var j0 = 0u; j0 < count; j0 += K_KEYS) {
                workgroupBarrier();
                for (var i = thread; i < K_KEYS * 8u * OUT; i += 64u) {
                    let key = key0 + j0 + i / (8u * OUT);
                    let d = 4u * (i % (8u * OUT));
                    tile[i] = vec4f(k_at(k_base, key, end, d), k_at(k_base, key, end, d + 1u),
                        k_at(k_base, key, end, d + 2u), k_at(k_base, key, end, d + 3u));
                }
                workgroupBarrier();
                let stop = min(count - j0, K_KEYS);
                let seen = min(stop, max(all_see, key0 + j0) - (key0 + j0));
                var j = 0u;
                for (; j < seen; j += 1u) {
                    let weight = ds[(j0 + j) * PITCH + ty];
                    for (var c = 0u; c < OUT; c += 1u) {
                        let value = tile[j * 8u * OUT + 8u * c + tx];
                        acc[c] += weight.x * value;
                        acc[OUT + c] += weight.y * value;
                        acc[2u * OUT + c] += weight.z * value;
                        acc[3u * OUT + c] += weight.w * value;
                    }
                }
                // 0·NaN is NaN: where some query does not see the key, k is selected.
                for (; j < stop; j += 1u) {
                    let weight = ds[(j0 + j) * PITCH + ty];
                    let sees = vec4i(i32(key0 + j0 + j)) < limits;
                    for (var c = 0u; c < OUT; c += 1u) {
                        let value = tile[j * 8u * OUT + 8u * c + tx];
                        acc[c] += weight.x * select(vec4f(0.0), value, sees.x);
                        acc[OUT + c] += weight.y * select(vec4f(0.0), value, sees.y);
                        acc[2u * OUT + c] += weight.z * select(vec4f(0.0), value, sees.z);
                        acc[3u * OUT + c] += weight.w * select(vec4f(0.0), value, sees.w);
                    }
                }
            }
        }

        // A length that was refused: NaN, except where the pair is not active.
        let poisoned = length < 0 && listed;
        if ((params.want & WANT_DROW_SCALE) != 0u) {
            workgroupBarrier();
            partial[thread] = drow;
            workgroupBarrier();
            drow = vec4f(0.0);
            for (var i = 0u; i < 8u; i += 1u) { drow += partial[ty * 8u + i]; }
        }
        for (var r = 0u; r < 4u; r += 1u) {
            let row = row0 + 4u * ty + r;
            if (row >= params.q_len) { continue; }
            if (listed && tx == 0u && (params.want & WANT_DROW_SCALE) != 0u) {
                let to = base(params.drow_scale, b, h) + row * params.drow_scale.w;
                drow_scale[to] = select(bitcast<u32>(drow[r]), NAN_BITS, poisoned);
            }
            if ((params.want & WANT_DQ) == 0u) { continue; }
            let to = base(params.dq, b, h) + row * params.dq.w;
            for (var c = 0u; c < OUT; c += 1u) {
                let values = acc[r * OUT + c];
                let d = 4u * (8u * c + tx);
                for (var i = 0u; i < 4u; i += 1u) {
                    if (d + i < params.head_dim) {
                        dq[to + d + i] = select(bitcast<u32>(values[i]), NAN_BITS, poisoned);
                    }
                }
            }
        }
    }
}
