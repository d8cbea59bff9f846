// From a tile's scores to the derivatives by them, for the general backward kernels. Uses their bindings v and grad_o.

fn v_word(i: u32) -> f32 { return bitcast<f32>(widen(params.kind, v[word_of(params.kind, i)], i)); }
fn grad_word(i: u32) -> f32 { return bitcast<f32>(widen(params.kind, grad_o[word_of(params.kind, i)], i)); }
fn v_at(it: Item, key: u32, d: u32) -> f32 {
    if (key < it.end && d < params.value_dim) { return v_word(it.v + key * params.v.w + d); }
    return 0.0;
}
fn grad_at(it: Item, start: u32, row: u32, d: u32) -> f32 {
    if (row < it.rows && d < params.value_dim) { return grad_word(start + row * params.grad_o.w + d); }
    return 0.0;
}
fn grad_start(it: Item, s: Sample) -> u32 { return base(params.grad_o, it.b, it.h) + s.q_start * params.grad_o.w; }

// Column i is ⟨grad_o, v⟩ of key 4·tx + i with the thread's four queries.
fn gradient_tile(it: Item, start: u32, row0: u32, key0: u32, thread: u32) -> mat4x4f {
    let ty = thread / 8u;
    let tx = thread % 8u;
    var g = mat4x4f();
    for (var d0 = 0u; d0 < params.value_dim; d0 += DEPTH) {
        // Sync: slow threads still read the tile of the step before.
        workgroupBarrier();
        for (var i = thread; i < DEPTH * 8u; i += 64u) {
            let d = d0 + i % DEPTH;
            let row = row0 + 4u * (i / DEPTH);
            let key = key0 + 4u * (i / DEPTH);
            let to = (i % DEPTH) * PITCH + i / DEPTH;
            tile[to] = vec4f(grad_at(it, start, row, d), grad_at(it, start, row + 1u, d), grad_at(it, start, row + 2u, d),
                grad_at(it, start, row + 3u, d));
            tile[HALF + to] = vec4f(v_at(it, key, d), v_at(it, key + 1u, d), v_at(it, key + 2u, d), v_at(it, key + 3u, d));
        }
        workgroupBarrier();
        let depth = min(DEPTH, params.value_dim - d0);
        for (var d = 0u; d < depth; d += 1u) { add_outer(&g, tile[HALF + d * PITCH + tx], tile[d * PITCH + ty]); }
    }
    return g;
}

// lse, delta and row scale of the queries row .. row + 3, as attention_general_rows left them.
struct Lines { lse: vec4f, delta: vec4f, factor: vec4f }
fn lines_of(it: Item, row: u32) -> Lines {
    var lines = Lines(vec4f(0.0), vec4f(0.0), vec4f(0.0));
    for (var r = 0u; r < params.four; r += 1u) {
        let at = params.at_rows + 4u * (it.line + min(row + r, max(it.rows, 1u) - 1u));
        lines.lse = vec4f(lines.lse.yzw, bitcast<f32>(plan[at]));
        lines.delta = vec4f(lines.delta.yzw, bitcast<f32>(plan[at + 1u]));
        lines.factor = vec4f(lines.factor.yzw, bitcast<f32>(plan[at + 2u]));
    }
    return lines;
}

struct Slopes {
    p: mat4x4f,   // weights, with dropout
    pg: mat4x4f,  // weight · ⟨grad_o, v⟩
    dz: mat4x4f,  // derivative by the capped and biased score
    ds: mat4x4f,  // by the score
    bits: vec4u,  // which of the thread's pairs are seen, and which are kept
    kept: vec4u,
}

fn slopes(it: Item, s: mat4x4f, t: mat4x4f, g: mat4x4f, row: u32, key0: u32, tx: u32, lines: Lines) -> Slopes {
    let bit = 4u * tx;
    let zero = vec4f(0.0);
    var z = params.scale * raw_scores(s, t);
    var g_left = g;
    var all = Slopes(mat4x4f(), mat4x4f(), mat4x4f(), mat4x4f(), vec4u(0u), vec4u(0u));
    var bits = sight(it, row, key0) & vec4u(0xfu << bit);
    for (var i = 0u; i < params.four; i += 1u) {
        let key = key0 + bit + i;
        var score = z[0];
        var slope = vec4f(1.0);
        if (has(HAS_SOFTCAP)) {
            score = cap4(score);
            let share = score / params.softcap;
            slope = 1.0 - share * share;
        }
        score = biased(it, row, key, bit + i, score, &bits);
        let sees = bits_at(bits, bit + i);
        let p = select(zero, exp4(score - lines.lse), sees);
        var keeps = sees;
        if (has(HAS_DROPOUT)) { keeps = keeps & kept4(it, row, key); }
        let g_kept = select(zero, params.keep * g_left[0], keeps);
        let dz = select(zero, p * (lines.factor * g_kept - lines.delta), sees);
        all.p = push(all.p, select(zero, params.keep * p, keeps));
        all.pg = push(all.pg, select(zero, p * g_kept, keeps));
        all.dz = push(all.dz, dz);
        all.ds = push(all.ds, select(zero, dz * slope, sees));
        all.kept |= as_bits(keeps, bit + i);
        z = turn(z);
        g_left = turn(g_left);
    }
    all.bits = bits;
    return all;
}

// Factors of k_j in dq_i and of q_i in dk_j; a fidelity has a second one, of the vector turned by i.
fn first_factors(s: mat4x4f, t: mat4x4f, ds: mat4x4f) -> mat4x4f {
    if (params.score == COSINE) {
        let rows = params.scale * inverse_norm(t[0]);
        let keys = inverse_norm(t[1]);
        return mat4x4f(ds[0] * rows * keys.x, ds[1] * rows * keys.y, ds[2] * rows * keys.z, ds[3] * rows * keys.w);
    }
    if (params.score == FIDELITY) {
        let twice = 2.0 * params.scale;
        return mat4x4f(twice * ds[0] * s[0], twice * ds[1] * s[1], twice * ds[2] * s[2], twice * ds[3] * s[3]);
    }
    return select(params.scale, -2.0 * params.scale, params.score == GAUSSIAN) * ds;
}
fn second_factors(t: mat4x4f, ds: mat4x4f) -> mat4x4f {
    let twice = 2.0 * params.scale;
    return mat4x4f(twice * ds[0] * t[0], twice * ds[1] * t[1], twice * ds[2] * t[2], twice * ds[3] * t[3]);
}
// Derivative by the scale (by gamma: its negative), the part of each pair.
fn scale_terms(s: mat4x4f, t: mat4x4f, ds: mat4x4f) -> mat4x4f {
    let raw = raw_scores(s, t);
    return mat4x4f(ds[0] * raw[0], ds[1] * raw[1], ds[2] * raw[2], ds[3] * raw[3]);
}

var<workgroup> turned: array<vec4f, LINES * PITCH>;  // the second factors

fn store_turned(at: u32, step: u32, m: mat4x4f) {
    turned[at] = m[0];
    turned[at + step] = m[1];
    turned[at + 2u * step] = m[2];
    turned[at + 3u * step] = m[3];
}
fn scale_columns(m: mat4x4f, by: vec4f) -> mat4x4f { return mat4x4f(m[0] * by, m[1] * by, m[2] * by, m[3] * by); }
fn column_sums(m: mat4x4f) -> vec4f {
    let one = vec4f(1.0);
    return vec4f(dot(m[0], one), dot(m[1], one), dot(m[2], one), dot(m[3], one));
}

// Adds turned[first ..] · staged rows of complex numbers, each multiplied by ∓i: (re, im) → sign·(im, −re).
fn accumulate_turned(
    acc0: ptr<function, mat4x4f>, acc1: ptr<function, mat4x4f>, acc2: ptr<function, mat4x4f>, acc3: ptr<function, mat4x4f>,
    sign: f32, widths: u32, first: u32, stop: u32, sees: vec4u, ty: u32, tx: u32,
) {
    let signs = sign * vec4f(1.0, -1.0, 1.0, -1.0);
    for (var j = 0u; j < stop; j += 1u) {
        let p = turned[(first + j) * PITCH + ty];
        let at = j * 8u * widths + tx;
        let lines = bits_at(sees, first + j);
        add_outer_where(acc0, p, tile[at].yxwz * signs, lines);
        if (widths > 1u) { add_outer_where(acc1, p, tile[at + 8u].yxwz * signs, lines); }
        if (widths > 2u) {
            add_outer_where(acc2, p, tile[at + 16u].yxwz * signs, lines);
            add_outer_where(acc3, p, tile[at + 24u].yxwz * signs, lines);
        }
    }
}

// The additive score's product, of 32 columns: Σ weight·(1 − tanh²(own + other)) and Σ weight·tanh(own + other).
fn accumulate_additive(
    slope: ptr<function, mat4x4f>, value: ptr<function, mat4x4f>, own: mat4x4f, first: u32, stop: u32, sees: vec4u, ty: u32, tx: u32,
) {
    for (var j = 0u; j < stop; j += 1u) {
        var p = weights[(first + j) * PITCH + ty];
        let other = tile[j * 8u + tx];
        var lines = bits_at(sees, first + j);
        var own_left = own;
        for (var r = 0u; r < params.four; r += 1u) {
            let bent = select(vec4f(0.0), tanh4(own_left[0] + other), lines.x);
            *slope = push(*slope, (*slope)[0] + p.x * (1.0 - bent * bent));
            *value = push(*value, (*value)[0] + p.x * bent);
            own_left = turn(own_left);
            p = p.yzww;
            lines = lines.yzww;
        }
    }
}
