// attention_general_backward_q: dq, and sums over keys for the derivatives by row scales, ALiBi slopes, the scale and additive
//                               weights, with p recomputed from lse; for every score, mask, layout and type.
// Shapes    q, k, v, bias as attention_general_forward; dq as q; grad_o as o; rows in the plan (attention_general_rows)
//           sums [b·hq·sq][3] f32: derivatives by row scale, slope, scale; then dw partials [b·hq][⌈sq/32⌉][D]
// Mapping   persistent workgroups of 8 × 8 over (pair, 32 queries, block of columns of dq); blocks of 128 columns, or of 32 for
//           the additive score; pairs beyond the active ones only get dq = 0; the first block makes the sums
// Shared    tile 4.5 KiB + factors 2 × 4.5 KiB + reductions 2 KiB = 15.5 KiB
// Traffic   q, grad_o, k (twice), v once per query tile and block;  FLOPs 2·b·hq·sq·sk·(⌈D/128⌉·(D + Dv) + D)
// Numerics  f32, fixed order, no float atomics; hidden pairs are selected away before their product. A cosine's and a Gaussian's
//           own term, Σ_j of a scalar times q_i, is added at the end
// Host      as attention_general_forward; clears the sums first
// Twin      src/attention/cpu        Source  arXiv:2307.08691, algorithm 2

@group(0) @binding(0) var<storage, read> q: array<u32>;
@group(0) @binding(1) var<storage, read> k: array<u32>;
@group(0) @binding(2) var<storage, read> v: array<u32>;
@group(0) @binding(3) var<storage, read> bias: array<u32>;
@group(0) @binding(4) var<storage, read> plan: array<u32>;
@group(0) @binding(5) var<storage, read> grad_o: array<u32>;
@group(0) @binding(6) var<storage, read_write> out: array<atomic<u32>>;
@group(0) @binding(7) var<storage, read_write> sums: array<u32>;
@group(0) @binding(8) var<uniform> params: Params;

const WANT_DQ: u32 = 1u;
const WANT_SUMS: u32 = 2u;
const WANT_DW: u32 = 4u;

fn k4(it: Item, key: u32, d: u32) -> vec4f {
    return vec4f(k_at(it, key, d), k_at(it, key, d + 1u), k_at(it, key, d + 2u), k_at(it, key, d + 3u));
}
fn q4(it: Item, row: u32, d: u32) -> vec4f {
    return vec4f(q_at(it, row, d), q_at(it, row, d + 1u), q_at(it, row, d + 2u), q_at(it, row, d + 3u));
}
fn line_total(values: vec4f, thread: u32) -> vec4f {
    workgroupBarrier();
    partial[thread] = values;
    workgroupBarrier();
    return line_sum(thread / 8u);
}
fn write_sums(it: Item, row: u32, which: u32, values: vec4f, poisoned: bool) {
    let bits = select(bitcast<vec4u>(values), vec4u(NAN_BITS), poisoned);
    var four = bits;
    for (var r = 0u; r < min(params.four, it.rows - min(row, it.rows)); r += 1u) {
        sums[3u * (it.line + row + r) + which] = four.x;
        four = four.yzww;
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
    let parts = params.tiles * params.blocks;
    let work = params.batch * params.q_heads * parts;
    for (var w = group.x; w < work; w += groups.x) {
        let listed = w / parts < plan[0];
        let pair = plan[params.at_order + w / parts];
        if (pair == INVALID) { continue; }
        let b = pair / params.q_heads;
        let h = pair % params.q_heads;
        let tile_number = params.tiles - 1u - w % parts / params.blocks;
        let row0 = tile_number * LINES;
        let column0 = w % params.blocks * params.width;
        let sequence = sample(b);
        let it = item(sequence, b, h, listed);
        if (row0 >= it.rows) { continue; }
        let row = row0 + 4u * ty;
        let widths = used_widths(min(params.head_dim - column0, params.width));
        let staged = LINES / widths;
        let range = key_range(it, row0);
        let start = grad_start(it, sequence);
        let for_sums = (params.want & WANT_SUMS) != 0u && column0 == 0u && listed;
        let additive = params.score == ADDITIVE;
        let d = column0 + 4u * tx;

        var lines = Lines(vec4f(0.0), vec4f(0.0), vec4f(0.0));
        var own = mat4x4f();
        if (listed) { lines = lines_of(it, row); }
        if (additive) {
            // Sync: the item before may still be read.
            workgroupBarrier();
            for (var i = thread; i < 256u; i += 64u) { tile[i] = q4(it, row0 + i / 8u, column0 + 4u * (i % 8u)); }
            workgroupBarrier();
            let at = 32u * ty + tx;
            own = mat4x4f(tile[at], tile[at + 8u], tile[at + 16u], tile[at + 24u]);
        }
        var by_row_scale = vec4f(0.0);
        var by_slope = vec4f(0.0);
        var by_scale = vec4f(0.0);
        var factor_sum = vec4f(0.0);
        var norms = vec4f(0.0);
        var met = vec4u(0u);
        // Row r, columns 4·(tx + 8·c) .. of the output are acc{c}[r].
        var acc0 = mat4x4f();
        var acc1 = mat4x4f();
        var acc2 = mat4x4f();
        var acc3 = mat4x4f();

        // A cosine and a Gaussian have a term of q_i itself: a last product, of the tile's queries with a diagonal of factors.
        let own_term = params.score == COSINE || params.score == GAUSSIAN;
        let stop_keys = max((range.y + LINES - 1u) / LINES * LINES, range.x) + select(0u, LINES, own_term);
        for (var key0 = range.x; key0 < stop_keys; key0 += LINES) {
            let own_pass = key0 >= range.y;
            if (!own_pass && !tile_has_keys(it, row0, key0)) { continue; }
            let bit = 4u * tx;
            var factors = mat4x4f();
            var bits = vec4u(0u);
            if (own_pass) {
                let inverse = inverse_norm(norms);
                let of_cosine = params.scale * line_total(by_scale, thread) * inverse * inverse;
                let by = -select(line_total(factor_sum, thread), of_cosine, vec4<bool>(params.score == COSINE));
                if (tx == ty) {
                    factors = mat4x4f(vec4f(by.x, 0.0, 0.0, 0.0), vec4f(0.0, by.y, 0.0, 0.0), vec4f(0.0, 0.0, by.z, 0.0),
                        vec4f(0.0, 0.0, 0.0, by.w));
                    bits = vec4u(1u, 2u, 4u, 8u) << vec4u(4u * ty);
                }
            } else {
                var s = mat4x4f();
                var t = mat4x4f();
                score_tile(it, row0, key0, thread, &s, &t);
                let g = gradient_tile(it, start, row0, key0, thread);
                let slope = slopes(it, s, t, g, row, key0, tx, lines);
                bits = slope.bits;
                factors = chosen(first_factors(s, t, slope.ds), bits, bit);
                let terms = chosen(scale_terms(s, t, slope.ds), bits, bit);
                met |= bits;
                norms = t[0];
                factor_sum += (factors[0] + factors[1]) + (factors[2] + factors[3]);
                by_scale += (terms[0] + terms[1]) + (terms[2] + terms[3]);
                by_row_scale += (slope.pg[0] + slope.pg[1]) + (slope.pg[2] + slope.pg[3]);
                if (for_sums && has(HAS_ALIBI)) {
                    let key = key0 + bit;
                    by_slope -= (slope.dz[0] * distance4(it, row, key) + slope.dz[1] * distance4(it, row, key + 1u))
                        + (slope.dz[2] * distance4(it, row, key + 2u) + slope.dz[3] * distance4(it, row, key + 3u));
                }
                if (params.score == FIDELITY) {
                    store_turned(bit * PITCH + ty, PITCH, chosen(second_factors(t, slope.ds), bits, bit));
                }
            }
            if ((params.want & (WANT_DQ | WANT_DW)) == 0u) { continue; }

            store_weights(bit * PITCH + ty, PITCH, factors);
            words[thread] = bits;
            // Sync: factors and bits of the whole tile.
            workgroupBarrier();
            let sees = line_bits(ty);
            let count = select(min(LINES, range.y - key0), LINES, own_pass);
            for (var j0 = 0u; j0 < count; j0 += staged) {
                // Sync: the scores, or the keys before, are still read from the tile.
                workgroupBarrier();
                for (var i = thread; i < 256u; i += 64u) {
                    let line = j0 + i / (8u * widths);
                    let column = column0 + 4u * (i % (8u * widths));
                    if (own_pass) { tile[i] = q4(it, row0 + line, column); } else { tile[i] = k4(it, key0 + line, column); }
                }
                workgroupBarrier();
                let stop = min(count - j0, staged);
                if (additive) {
                    accumulate_additive(&acc0, &acc1, own, j0, stop, sees, ty, tx);
                } else {
                    accumulate(&acc0, &acc1, &acc2, &acc3, widths, j0, stop, sees, ty, tx);
                    if (params.score == FIDELITY) {
                        accumulate_turned(&acc0, &acc1, &acc2, &acc3, 1.0, widths, j0, stop, sees, ty, tx);
                    }
                }
            }
        }

        // A sample that was refused: NaN, except where the pair is not active.
        let poisoned = sequence.length < 0 && listed;
        workgroupBarrier();
        words[thread] = met;
        let scale_total = line_total(by_scale, thread);
        let saw = line_bits(ty);
        if ((params.want & WANT_SUMS) != 0u) {
            let row_scale_total = line_total(by_row_scale, thread);
            let slope_total = line_total(by_slope, thread);
            if (for_sums && tx == 0u) {
                write_sums(it, row, 0u, row_scale_total, poisoned);
                write_sums(it, row, 1u, slope_total, poisoned);
                write_sums(it, row, 2u, scale_total, poisoned);
            }
        }
        if ((params.want & WANT_DW) != 0u) {
            workgroupBarrier();
            partial[thread] = (acc1[0] + acc1[1]) + (acc1[2] + acc1[3]);
            workgroupBarrier();
            if (ty == 0u && listed) {
                var dw = vec4f(0.0);
                for (var i = 0u; i < 8u; i += 1u) { dw += partial[8u * i + tx]; }
                let bits = select(bitcast<vec4u>(dw), vec4u(NAN_BITS), poisoned);
                let to = params.at_partials + (pair * params.tiles + tile_number) * params.head_dim + d;
                if (d < params.head_dim) { sums[to] = bits.x; }
                if (d + 1u < params.head_dim) { sums[to + 1u] = bits.y; }
                if (d + 2u < params.head_dim) { sums[to + 2u] = bits.z; }
                if (d + 3u < params.head_dim) { sums[to + 3u] = bits.w; }
            }
        }
        if ((params.want & WANT_DQ) != 0u) {
            if (additive) { acc0 = scale_columns(acc0, vec4f(w_at(h, d), w_at(h, d + 1u), w_at(h, d + 2u), w_at(h, d + 3u))); }
            let to = base(params.out, b, h) + (sequence.q_start + row) * params.out.w;
            write_rows(to, params.out.w, it.rows - min(row, it.rows), column0, params.head_dim, widths, tx, saw == vec4u(0u), poisoned,
                acc0, acc1, acc2, acc3);
        }
    }
}
