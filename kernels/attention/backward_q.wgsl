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

fn write4(to: u32, d: u32, values: vec4f, poisoned: bool) {
    let bits = select(bitcast<vec4u>(values), vec4u(NAN_BITS), poisoned);
    if (d < params.head_dim) { dq[to + d] = bits.x; }
    if (d + 1u < params.head_dim) { dq[to + d + 1u] = bits.y; }
    if (d + 2u < params.head_dim) { dq[to + d + 2u] = bits.z; }
    if (d + 3u < params.head_dim) { dq[to + d + 3u] = bits.w; }
}
// The thread's columns of one row.
fn write_row(at: u32, row: u32, tx: u32, poisoned: bool, acc0: vec4f, acc1: vec4f, acc2: vec4f, acc3: vec4f) {
    if (row >= params.q_len) { return; }
    let to = at + row * params.dq.w;
    write4(to, 4u * tx, acc0, poisoned);
    if (OUT > 1u) { write4(to, 4u * tx + 32u, acc1, poisoned); }
    if (OUT > 2u) {
        write4(to, 4u * tx + 64u, acc2, poisoned);
        write4(to, 4u * tx + 96u, acc3, poisoned);
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
        // Row r, columns 4·(tx + 8·c) .. of the output are acc{c}[r].
        var acc0 = mat4x4f();
        var acc1 = mat4x4f();
        var acc2 = mat4x4f();
        var acc3 = mat4x4f();

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
                // Every query of the tile sees the keys below `all_see`.
                let stop = min(count - j0, K_KEYS);
                let seen = min(stop, max(all_see, key0 + j0) - (key0 + j0));
                var j = 0u;
                for (; j < seen; j += 1u) {
                    let weight = ds[(j0 + j) * PITCH + ty];
                    let at = j * 8u * OUT + tx;
                    add_outer(&acc0, weight, tile[at]);
                    if (OUT > 1u) { add_outer(&acc1, weight, tile[at + 8u]); }
                    if (OUT > 2u) {
                        add_outer(&acc2, weight, tile[at + 16u]);
                        add_outer(&acc3, weight, tile[at + 24u]);
                    }
                }
                for (; j < stop; j += 1u) {
                    let weight = ds[(j0 + j) * PITCH + ty];
                    let sees = vec4i(i32(key0 + j0 + j)) < limits;
                    let at = j * 8u * OUT + tx;
                    add_outer_where(&acc0, weight, tile[at], sees);
                    if (OUT > 1u) { add_outer_where(&acc1, weight, tile[at + 8u], sees); }
                    if (OUT > 2u) {
                        add_outer_where(&acc2, weight, tile[at + 16u], sees);
                        add_outer_where(&acc3, weight, tile[at + 24u], sees);
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
        let row = row0 + 4u * ty;
        if (listed && tx == 0u && (params.want & WANT_DROW_SCALE) != 0u) {
            let to = base(params.drow_scale, b, h) + row * params.drow_scale.w;
            let bits = select(bitcast<vec4u>(drow), vec4u(NAN_BITS), poisoned);
            if (row < params.q_len) { drow_scale[to] = bits.x; }
            if (row + 1u < params.q_len) { drow_scale[to + params.drow_scale.w] = bits.y; }
            if (row + 2u < params.q_len) { drow_scale[to + 2u * params.drow_scale.w] = bits.z; }
            if (row + 3u < params.q_len) { drow_scale[to + 3u * params.drow_scale.w] = bits.w; }
        }
        if ((params.want & WANT_DQ) != 0u) {
            let to = base(params.dq, b, h);
            write_row(to, row, tx, poisoned, acc0[0], acc1[0], acc2[0], acc3[0]);
            write_row(to, row + 1u, tx, poisoned, acc0[1], acc1[1], acc2[1], acc3[1]);
            write_row(to, row + 2u, tx, poisoned, acc0[2], acc1[2], acc2[2], acc3[2]);
            write_row(to, row + 3u, tx, poisoned, acc0[3], acc1[3], acc2[3], acc3[3]);
        }
    }
}
