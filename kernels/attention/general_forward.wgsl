// attention_general_forward: o = row_scale · dropout(softmax(z))·v and its log-sum-exp, for every score, mask, layout and type.
// Shapes    q [b,hq,sq,D]  k [b,hk,sk,D]  v [b,hk,sk,Dv]  o [b,hq,sq,Dv], f32, f16 or bf16; bias f32, f16 or bf16, any strides;
//           lse [b,hq,sq] f32; packed: b = 1 and sq, sk all rows; paged: k, v [pages,hk,page,·]; everything else in the plan
// Mapping   persistent workgroups of 8 × 8 over (active pair, 32 queries, 128 columns of o); a thread has 4 queries × 4 keys of
//           the scores and 4 queries × 16 columns of o. Scores are summed over D in steps of 16, whatever D is, and computed
//           again for every 128 columns of o
// Shared    tile 4.5 KiB + weights 4.5 KiB + reductions 2 KiB = 11 KiB
// Traffic   q, k, v once per query tile of 32 and block of columns, o once;  FLOPs 2·b·hq·sq·sk·(D·⌈Dv/128⌉ + Dv)
// Numerics  f32; who sees what is a word of bits per query and key tile, and a hidden key is selected away before its product,
//           so NaN behind a mask never enters; tiles that no query sees by position, length or mask are skipped; empty row →
//           o = 0, lse = −∞ or the sink. A dropped weight takes part in the sum and is selected away from the product
// Host      rejects views beyond 2³² elements; softcap > 0
// Twin      src/attention/cpu        Source  arXiv:2307.08691 (tiling), arXiv:1805.02867 (online softmax)

@group(0) @binding(0) var<storage, read> q: array<u32>;
@group(0) @binding(1) var<storage, read> k: array<u32>;
@group(0) @binding(2) var<storage, read> v: array<u32>;
@group(0) @binding(3) var<storage, read> bias: array<u32>;
@group(0) @binding(4) var<storage, read> plan: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<atomic<u32>>;
// Bits, so that NaN and −∞ are stored as such whatever a compiler assumes about f32.
@group(0) @binding(6) var<storage, read_write> lse: array<u32>;
@group(0) @binding(7) var<uniform> params: Params;

fn v_word(i: u32) -> f32 { return bitcast<f32>(widen(params.kind, v[word_of(params.kind, i)], i)); }
fn v4(it: Item, key: u32, d: u32) -> vec4f {
    var four = vec4f(0.0);
    if (key >= it.end) { return four; }
    let at = key_row(it, it.v, params.v, key) + d;
    if (d < params.value_dim) { four.x = v_word(at); }
    if (d + 1u < params.value_dim) { four.y = v_word(at + 1u); }
    if (d + 2u < params.value_dim) { four.z = v_word(at + 2u); }
    if (d + 3u < params.value_dim) { four.w = v_word(at + 3u); }
    return four;
}
fn row_scales(it: Item, row: u32) -> vec4f {
    let last = max(it.rows, 1u) - 1u;
    let at = vec4u(params.at_rows + it.line) + min(vec4u(row) + vec4u(0u, 1u, 2u, 3u), vec4u(last));
    return bitcast<vec4f>(vec4u(plan[at.x], plan[at.y], plan[at.z], plan[at.w]));
}
fn write_lse(to: u32, rows: u32, bits: vec4u) {
    var four = bits;
    for (var r = 0u; r < min(rows, params.four); r += 1u) {
        lse[to + r * params.lse.w] = four.x;
        four = four.yzww;
    }
}

// Peak, sum and whether anything was seen, of four rows.
fn write_part(part: u32, rows: u32, peak: vec4f, total: vec4f, saw: vec4u) {
    var peaks = peak;
    var totals = total;
    var seen = saw;
    for (var r = 0u; r < min(rows, params.four); r += 1u) {
        let to = 3u * (part + r);
        lse[to] = bitcast<u32>(peaks.x);
        lse[to + 1u] = bitcast<u32>(totals.x);
        lse[to + 2u] = seen.x;
        peaks = peaks.yzww;
        totals = totals.yzww;
        seen = seen.yzww;
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
    let parts = params.tiles * params.blocks * params.splits;
    let work = plan[0] * parts;
    for (var w = group.x; w < work; w += groups.x) {
        let pair = plan[params.at_order + w / parts];
        if (pair == INVALID) { continue; }
        let b = pair / params.q_heads;
        let h = pair % params.q_heads;
        // Last tile first: under a causal mask it is the longest.
        let row0 = (params.tiles - 1u - w % parts / (params.blocks * params.splits)) * LINES;
        let column0 = w / params.splits % params.blocks * params.width;
        let split = w % params.splits;
        let sequence = sample(b);
        let it = item(sequence, b, h, true);
        if (row0 >= it.rows) { continue; }
        let row = row0 + 4u * ty;
        let widths = used_widths(params.value_dim - column0);
        let staged = LINES / widths;
        var range = key_range(it, row0);
        let own_parts = parts_of(sequence.length);
        if (split >= own_parts) { continue; }
        if (own_parts > 1u) {
            range = vec2u(max(range.x, split * params.chunk), min(range.y, (split + 1u) * params.chunk));
        }

        var peak = vec4f(SENTINEL);
        var total = vec4f(0.0);
        if (has(HAS_SINKS) && split == 0u) {
            // The sink weighs e^0 until a score is higher; one thread of the row counts it.
            peak = max(peak, vec4f(bitcast<f32>(plan[params.at_sinks + h])));
            total = vec4f(select(0.0, 1.0, tx == 0u));
        }
        var met = vec4u(0u);  // whether the thread's queries saw any of its keys
        // Row r, columns 4·(tx + 8·c) .. of the output are acc{c}[r].
        var acc0 = mat4x4f();
        var acc1 = mat4x4f();
        var acc2 = mat4x4f();
        var acc3 = mat4x4f();

        for (var key0 = range.x; key0 < range.y; key0 += LINES) {
            if (!tile_has_keys(it, row0, key0)) { continue; }
            var s = mat4x4f();
            var t = mat4x4f();
            score_tile(it, row0, key0, thread, &s, &t);
            var z = params.scale * raw_scores(s, t);
            let bit = 4u * tx;
            var bits = sight(it, row, key0) & vec4u(0xfu << bit);
            var kept = vec4u(0u);
            for (var i = 0u; i < params.four; i += 1u) {
                var column = z[0];
                if (has(HAS_SOFTCAP)) { column = cap4(column); }
                column = biased(it, row, key0 + bit + i, bit + i, column, &bits);
                // A hidden score lies below every other.
                z = push(z, select(vec4f(SENTINEL), column, bits_at(bits, bit + i)));
                var keeps = vec4<bool>(true);
                if (has(HAS_DROPOUT)) { keeps = kept4(it, row, key0 + bit + i); }
                kept |= as_bits(keeps, bit + i);
            }
            kept &= bits;
            met |= bits;
            partial[thread] = max(max(z[0], z[1]), max(z[2], z[3]));
            words[thread] = kept;
            workgroupBarrier();
            var new_peak = peak;
            for (var i = 0u; i < 8u; i += 1u) { new_peak = max(new_peak, partial[ty * 8u + i]); }
            let sees = line_bits(ty);
            let shrink = exp4(peak - new_peak);
            peak = new_peak;
            var p = mat4x4f();
            for (var i = 0u; i < params.four; i += 1u) {
                p = push(p, select(vec4f(0.0), exp4(z[0] - peak), bits_at(bits, bit + i)));
                z = turn(z);
            }
            // In the order of attention_forward, so that a call has its bits whichever kernel runs.
            total = total * shrink + ((p[0] + p[1]) + (p[2] + p[3]));
            if (has(HAS_DROPOUT)) { p = chosen(p, kept, bit); }
            store_weights(bit * PITCH + ty, PITCH, p);
            acc0 = scale_rows(acc0, shrink);
            if (widths > 1u) { acc1 = scale_rows(acc1, shrink); }
            if (widths > 2u) {
                acc2 = scale_rows(acc2, shrink);
                acc3 = scale_rows(acc3, shrink);
            }
            let count = min(LINES, range.y - key0);
            for (var j0 = 0u; j0 < count; j0 += staged) {
                // Sync: the scores, or the v before, are still read from the tile.
                workgroupBarrier();
                for (var i = thread; i < 256u; i += 64u) {
                    tile[i] = v4(it, key0 + j0 + i / (8u * widths), column0 + 4u * (i % (8u * widths)));
                }
                workgroupBarrier();
                accumulate(&acc0, &acc1, &acc2, &acc3, widths, j0, min(count - j0, staged), sees, ty, tx);
            }
        }

        // Sync: both may still be read for the last tile.
        workgroupBarrier();
        partial[thread] = total;
        words[thread] = met;
        workgroupBarrier();
        total = line_sum(ty);
        let saw = line_bits(ty);
        let rows = it.rows - min(row, it.rows);
        if (params.chunk != 0u) {
            // Left as they are for attention_general_combine: sums of this part, and what they are relative to.
            let part = (pair * params.splits + split) * params.q_len + row;
            if (tx == 0u && column0 == 0u) { write_part(part, rows, peak, total, saw); }
            write_rows(part * params.value_dim, params.value_dim, rows, column0, params.value_dim, widths, tx, vec4<bool>(false),
                false, acc0, acc1, acc2, acc3);
            continue;
        }
        // One Newton step: WGSL promises log only to 2⁻²¹.
        let rough = log(total);
        let log_total = rough + (total * exp4(-rough) - 1.0);
        let log_sum = peak + log_total;
        let poisoned = sequence.length < 0;
        let empty = saw == vec4u(0u);
        let line_number = sequence.q_start + row;
        let factor = params.keep / total;
        var gate = vec4f(1.0);
        if (has(HAS_ROW_SCALE)) { gate = row_scales(it, row); }
        if (tx == 0u && column0 == 0u) {
            let nothing = empty & vec4<bool>(!has(HAS_SINKS));
            let bits = select(bitcast<vec4u>(log_sum), vec4u(NEGATIVE_INFINITY_BITS), nothing);
            write_lse(base(params.lse, b, h) + line_number * params.lse.w, rows,
                select(bits, vec4u(NAN_BITS), vec4<bool>(poisoned)));
        }
        let to = base(params.o, b, h) + line_number * params.o.w;
        write_rows(to, params.o.w, rows, column0, params.value_dim, widths, tx, empty, poisoned,
            scale_rows(scale_rows(acc0, factor), gate), scale_rows(scale_rows(acc1, factor), gate),
            scale_rows(scale_rows(acc2, factor), gate), scale_rows(scale_rows(acc3, factor), gate));
    }
}
