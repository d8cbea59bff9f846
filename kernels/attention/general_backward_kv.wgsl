// attention_general_backward_kv: dk or dv, summed over the query heads that share the key head; for every score, mask, layout
//                                and type (not for pages, which samples may share).
// Shapes    as attention_general_backward_q; out = dk as k or dv as v, by params.want
// Mapping   persistent workgroups of 8 × 8 over (key pair, 32 keys, block of columns); a thread has 4 queries × 4 keys of the
//           scores and 4 keys × 16 columns of the output; key pairs beyond the active ones only get zeros
// Shared    tile 4.5 KiB + factors 2 × 4.5 KiB + reductions 2 KiB = 15.5 KiB
// Traffic   k, v, and per key tile and block: q, grad_o of every head of the group;  FLOPs 2·b·hq·sq·sk·⌈width/128⌉·(D + Dv)
//           and the product. One output a launch: both at once need 128 accumulators a thread, and spill
// Numerics  f32, fixed order (heads, then query tiles, ascending), no float atomics; hidden pairs are selected away
// Host      as attention_general_forward
// Twin      src/attention/cpu        Source  arXiv:2307.08691, algorithm 2

@group(0) @binding(0) var<storage, read> q: array<u32>;
@group(0) @binding(1) var<storage, read> k: array<u32>;
@group(0) @binding(2) var<storage, read> v: array<u32>;
@group(0) @binding(3) var<storage, read> bias: array<u32>;
@group(0) @binding(4) var<storage, read> plan: array<u32>;
@group(0) @binding(5) var<storage, read> grad_o: array<u32>;
@group(0) @binding(6) var<storage, read_write> out: array<atomic<u32>>;
@group(0) @binding(7) var<uniform> params: Params;

const WANT_DK: u32 = 1u;  // else dv

fn k4(it: Item, key: u32, d: u32) -> vec4f {
    return vec4f(k_at(it, key, d), k_at(it, key, d + 1u), k_at(it, key, d + 2u), k_at(it, key, d + 3u));
}
// What four columns of the output sum: of the query for dk, of its gradient for dv.
fn query4(it: Item, start: u32, row: u32, d: u32) -> vec4f {
    if (params.want == WANT_DK) {
        return vec4f(q_at(it, row, d), q_at(it, row, d + 1u), q_at(it, row, d + 2u), q_at(it, row, d + 3u));
    }
    return vec4f(grad_at(it, start, row, d), grad_at(it, start, row, d + 1u), grad_at(it, start, row, d + 2u),
        grad_at(it, start, row, d + 3u));
}
// Bits of the thread's four keys over the queries of the tile, from those of its four queries over the keys.
fn turned_bits(bits: vec4u, ty: u32, tx: u32) -> vec4u {
    var turned_words = vec4u(0u);
    for (var r = 0u; r < params.four; r += 1u) {
        let four = (vec4u(bits[r]) >> (vec4u(4u * tx) + vec4u(0u, 1u, 2u, 3u))) & vec4u(1u);
        turned_words |= four << vec4u(4u * ty + r);
    }
    return turned_words;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let ty = thread / 8u;  // queries 4·ty .. of the scores, keys 4·ty .. of the output
    let tx = thread % 8u;  // keys 4·tx .. of the scores, columns 4·(tx + 8·c) ..
    let for_keys = params.want == WANT_DK;
    let additive = for_keys && params.score == ADDITIVE;
    let columns = select(params.value_dim, params.head_dim, for_keys);
    let sharing = params.q_heads / params.kv_heads;
    let parts = params.tiles * params.blocks;
    let work = params.batch * params.kv_heads * parts;
    for (var w = group.x; w < work; w += groups.x) {
        let listed = w / parts < plan[1];
        let kv_pair = plan[params.at_kv_order + w / parts];
        if (kv_pair == INVALID) { continue; }
        let b = kv_pair / params.kv_heads;
        let kv_head = kv_pair % params.kv_heads;
        let key0 = w % parts / params.blocks * LINES;
        let column0 = w % params.blocks * params.width;
        let sequence = sample(b);
        let slots = key_rows(b);
        if (key0 >= slots) { continue; }
        let widths = used_widths(min(columns - column0, params.width));
        let staged = LINES / widths;
        let d = column0 + 4u * tx;
        let first_item = item(sequence, b, kv_head * sharing, listed);

        var own = mat4x4f();
        if (additive) {
            // Sync: the item before may still be read.
            workgroupBarrier();
            for (var i = thread; i < 256u; i += 64u) { tile[i] = k4(first_item, key0 + i / 8u, column0 + 4u * (i % 8u)); }
            workgroupBarrier();
            let at = 32u * ty + tx;
            own = mat4x4f(tile[at], tile[at + 8u], tile[at + 16u], tile[at + 24u]);
        }
        var own_sum = vec4f(0.0);  // of the thread's keys 4·tx ..
        var norms = vec4f(0.0);
        var met = vec4u(0u);
        // Row r, columns 4·(tx + 8·c) .. of the output are acc{c}[r].
        var acc0 = mat4x4f();
        var acc1 = mat4x4f();
        var acc2 = mat4x4f();
        var acc3 = mat4x4f();

        // A cosine and a Gaussian have a term of k_j itself: after the heads a product of the tile's keys with a diagonal.
        let own_term = for_keys && (params.score == COSINE || params.score == GAUSSIAN);
        for (var shared_by = 0u; shared_by < sharing + select(0u, 1u, own_term); shared_by += 1u) {
            let own_pass = shared_by == sharing;
            let h = kv_head * sharing + min(shared_by, sharing - 1u);
            if (!own_pass && plan[params.at_active + b * params.q_heads + h] == 0u) { continue; }
            let it = item(sequence, b, h, listed);
            let start = grad_start(it, sequence);
            let range = select(query_range(it, key0), vec2u(0u, LINES), own_pass);
            var by_column = vec4f(1.0);
            if (additive) { by_column = vec4f(w_at(h, d), w_at(h, d + 1u), w_at(h, d + 2u), w_at(h, d + 3u)); }
            for (var row0 = range.x; row0 < range.y; row0 += LINES) {
                if (!own_pass && !tile_has_keys(it, row0, key0)) { continue; }
                var factors = mat4x4f();  // column i: key 4·tx + i
                var bits = vec4u(0u);     // of keys, over the lines of the product
                if (own_pass) {
                    workgroupBarrier();
                    partial[8u * tx + ty] = own_sum;
                    // The squared norms of four keys, from a thread that has them in its columns.
                    if (ty == 0u) { weights[tx] = norms; }
                    workgroupBarrier();
                    let inverse = inverse_norm(weights[tx]);
                    let total = line_sum(tx);
                    let by = -select(total, params.scale * total * inverse * inverse, vec4<bool>(params.score == COSINE));
                    // Sync: the norms lie where the factors go.
                    workgroupBarrier();
                    if (tx == ty) {
                        factors = mat4x4f(vec4f(by.x, 0.0, 0.0, 0.0), vec4f(0.0, by.y, 0.0, 0.0), vec4f(0.0, 0.0, by.z, 0.0),
                            vec4f(0.0, 0.0, 0.0, by.w));
                        bits = vec4u(1u, 2u, 4u, 8u) << vec4u(4u * ty);
                    }
                } else {
                    var s = mat4x4f();
                    var t = mat4x4f();
                    score_tile(it, row0, key0, thread, &s, &t);
                    var g = mat4x4f();
                    // dv does not need g.
                    if (for_keys) { g = gradient_tile(it, start, row0, key0, thread); }
                    let lines = lines_of(it, row0 + 4u * ty);
                    let slope = slopes(it, s, t, g, row0 + 4u * ty, key0, tx, lines);
                    let bit = 4u * tx;
                    if (for_keys) {
                        factors = chosen(first_factors(s, t, slope.ds), slope.bits, bit);
                        bits = turned_bits(slope.bits, ty, tx);
                        norms = t[1];
                        let terms = chosen(scale_terms(s, t, slope.ds), slope.bits, bit);
                        if (params.score == COSINE) { own_sum += column_sums(terms); } else { own_sum += column_sums(factors); }
                        if (params.score == FIDELITY) {
                            store_turned(4u * ty * PITCH + tx, PITCH,
                                transpose(chosen(second_factors(t, slope.ds), slope.bits, bit)));
                        }
                    } else {
                        factors = chosen(scale_columns(slope.p, lines.factor), slope.kept, bit);
                        bits = turned_bits(slope.kept, ty, tx);
                    }
                    met |= bits;
                }
                store_weights(4u * ty * PITCH + tx, PITCH, transpose(factors));
                words[8u * tx + ty] = bits;
                // Sync: factors and bits of the whole tile.
                workgroupBarrier();
                let sees = line_bits(ty);
                let count = min(LINES, range.y - row0);
                for (var j0 = 0u; j0 < count; j0 += staged) {
                    // Sync: the scores, or the queries before, are still read from the tile.
                    workgroupBarrier();
                    for (var i = thread; i < 256u; i += 64u) {
                        let line = j0 + i / (8u * widths);
                        let c = column0 + 4u * (i % (8u * widths));
                        if (own_pass) { tile[i] = k4(first_item, key0 + line, c); } else { tile[i] = query4(it, start, row0 + line, c); }
                    }
                    workgroupBarrier();
                    let stop = min(count - j0, staged);
                    if (additive) {
                        var slope_sum = mat4x4f();
                        accumulate_additive(&slope_sum, &acc1, own, j0, stop, sees, ty, tx);
                        acc0 += scale_columns(slope_sum, by_column);
                    } else {
                        accumulate(&acc0, &acc1, &acc2, &acc3, widths, j0, stop, sees, ty, tx);
                        if (for_keys && params.score == FIDELITY) {
                            accumulate_turned(&acc0, &acc1, &acc2, &acc3, -1.0, widths, j0, stop, sees, ty, tx);
                        }
                    }
                }
            }
        }

        workgroupBarrier();
        words[8u * tx + ty] = met;
        workgroupBarrier();
        let saw = line_bits(ty);
        let poisoned = sequence.length < 0 && listed;
        let key = key0 + 4u * ty;
        let to = base(params.out, b, kv_head) + (sequence.k_start + key) * params.out.w;
        // A key that nobody sees is zero by definition.
        write_rows(to, params.out.w, slots - min(key, slots), column0, columns, widths, tx, saw == vec4u(0u), poisoned, acc0, acc1, acc2, acc3);
    }
}
