// Scores of a tile of 32 queries × 32 keys, for every general attention kernel: 8 × 8 threads, four queries × four keys each.
// Uses the bindings q, k, bias and plan and the workgroup memory `tile` of the kernel it is put in front of.

var<workgroup> tile: array<vec4f, 2u * DEPTH * PITCH>;

// What a work item is about. `end` is the number of keys, 0 where nothing may be seen.
struct Item {
    b: u32,
    h: u32,
    kv_head: u32,
    rows: u32,
    end: u32,
    first: i32,
    q: u32,  // element of query 0, key 0, value 0
    k: u32,
    v: u32,
    line: u32,   // number of query 0 in lists over all rows
    table: u32,  // the sample's page table, in the plan
}

fn sample(b: u32) -> Sample {
    let at = 2u + 8u * b;
    return Sample(bitcast<i32>(plan[at]), bitcast<i32>(plan[at + 1u]), plan[at + 2u], plan[at + 3u], plan[at + 4u], plan[at + 5u]);
}
// Rows of keys the sample has, whether or not they are keys.
fn key_rows(b: u32) -> u32 { return plan[2u + 8u * b + 6u]; }

fn item(s: Sample, b: u32, h: u32, sees: bool) -> Item {
    let kv_head = h / (params.q_heads / params.kv_heads);
    return Item(b, h, kv_head, s.rows, u32(select(0, max(s.length, 0), sees)), s.first,
        base(params.q, b, h) + s.q_start * params.q.w,
        base(params.k, b, kv_head) + s.k_start * params.k.w,
        base(params.v, b, kv_head) + s.k_start * params.v.w,
        s.line + h * params.row_stride, params.at_table + b * params.pages);
}

fn q_word(i: u32) -> f32 { return bitcast<f32>(widen(params.kind, q[word_of(params.kind, i)], i)); }
fn k_word(i: u32) -> f32 { return bitcast<f32>(widen(params.kind, k[word_of(params.kind, i)], i)); }
fn q_at(it: Item, row: u32, d: u32) -> f32 {
    if (row < it.rows && d < params.head_dim) { return q_word(it.q + row * params.q.w + d); }
    return 0.0;
}
// The element a key's row begins at; only of keys below `end`, whose pages were checked.
fn key_row(it: Item, start: u32, view: vec4u, key: u32) -> u32 {
    if (has(HAS_PAGES)) {
        let page = plan[it.table + key / params.page_size];
        return base(view, page, it.kv_head) + key % params.page_size * view.w;
    }
    return start + key * view.w;
}
fn k_at(it: Item, key: u32, d: u32) -> f32 {
    if (key < it.end && d < params.head_dim) { return k_word(key_row(it, it.k, params.k, key) + d); }
    return 0.0;
}
fn w_at(h: u32, d: u32) -> f32 { return bitcast<f32>(plan[params.at_w + h * params.w_stride + min(d, params.head_dim - 1u)]); }

// One past the last key, and the first, that some query of the tile may see by position, rounded outwards to tiles.
fn key_range(it: Item, row0: u32) -> vec2u {
    if (row0 >= it.rows) { return vec2u(0u); }
    let last = min(row0 + LINES, it.rows) - 1u;
    let lowest = first_seen(vec4i(it.first + i32(row0))).x;
    let to = seen_until(vec4i(it.first + i32(last)), i32(it.end)).x;
    return vec2u(u32(max(lowest, 0)) / LINES * LINES, u32(max(to, 0)));
}
// The same for the queries that may see some key of the tile.
fn query_range(it: Item, key0: u32) -> vec2u {
    if (key0 >= it.end) { return vec2u(0u); }
    let last = i32(min(key0 + LINES, it.end)) - 1;
    var lowest = 0;
    var to = i32(it.rows);
    if (has(HAS_RIGHT)) { lowest = clamp(i32(key0) - params.right - it.first, 0, to); }
    if (has(HAS_LEFT)) {
        // In −2³⁰..2³¹; from 2³⁰ on beyond every query, and below, the sum does not wrap.
        let reach = last - it.first;
        to = select(clamp(reach + params.left + 1, 0, to), to, reach >= 0x3fffffff);
    }
    return vec2u(u32(lowest) / LINES * LINES, u32(to));
}
fn tile_has_keys(it: Item, row0: u32, key0: u32) -> bool {
    if (!has(HAS_MASK)) { return true; }
    return plan[params.at_any + dot(params.any, vec4u(it.b, it.h, row0 / LINES, key0 / LINES))] != 0u;
}

// Which keys of the tile (bits) the queries row .. row + 3 see, by position, length and mask.
fn sight(it: Item, row: u32, key0: u32) -> vec4u {
    let rows = vec4u(row) + vec4u(0u, 1u, 2u, 3u);
    let positions = vec4i(it.first) + vec4i(rows);
    let exists = rows < vec4u(it.rows);
    let tile_start = vec4i(i32(key0));
    var bits = span(first_seen(positions) - tile_start, seen_until(positions, i32(it.end)) - tile_start);
    bits = select(vec4u(0u), bits, exists);
    if (has(HAS_MASK)) {
        let line = min(rows, vec4u(max(it.rows, 1u) - 1u));
        let at = vec4u(params.at_mask + it.b * params.mask.x + it.h * params.mask.y + key0 / LINES * params.mask.w)
            + line * params.mask.z;
        bits &= vec4u(plan[at.x], plan[at.y], plan[at.z], plan[at.w]);
    }
    return bits;
}

fn stage_scores(it: Item, row0: u32, key0: u32, d0: u32, thread: u32) {
    for (var i = thread; i < DEPTH * 8u; i += 64u) {
        let d = d0 + i % DEPTH;
        let row = row0 + 4u * (i / DEPTH);
        let key = key0 + 4u * (i / DEPTH);
        let to = (i % DEPTH) * PITCH + i / DEPTH;
        tile[to] = vec4f(q_at(it, row, d), q_at(it, row + 1u, d), q_at(it, row + 2u, d), q_at(it, row + 3u, d));
        tile[HALF + to] = vec4f(k_at(it, key, d), k_at(it, key + 1u, d), k_at(it, key + 2u, d), k_at(it, key + 3u, d));
    }
}

// Column i of `s` belongs to key 4·tx + i, its components to the thread's four queries: ⟨q,k⟩; Σ(q−k)² of a Gaussian; Σ w·tanh(q+k).
// `t` is the imaginary part of a fidelity, or the squared norms of four queries and four keys of a cosine.
fn score_tile(it: Item, row0: u32, key0: u32, thread: u32, s: ptr<function, mat4x4f>, t: ptr<function, mat4x4f>) {
    let ty = thread / 8u;
    let tx = thread % 8u;
    *s = mat4x4f();
    *t = mat4x4f();
    for (var d0 = 0u; d0 < params.head_dim; d0 += DEPTH) {
        // Sync: slow threads still read the tile of the step before.
        workgroupBarrier();
        stage_scores(it, row0, key0, d0, thread);
        workgroupBarrier();
        let depth = min(DEPTH, params.head_dim - d0);
        if (params.score == DOT) {
            for (var d = 0u; d < depth; d += 1u) { add_outer(s, tile[HALF + d * PITCH + tx], tile[d * PITCH + ty]); }
        } else if (params.score == COSINE) {
            for (var d = 0u; d < depth; d += 1u) {
                let queries = tile[d * PITCH + ty];
                let keys = tile[HALF + d * PITCH + tx];
                add_outer(s, keys, queries);
                (*t)[0] += queries * queries;
                (*t)[1] += keys * keys;
            }
        } else if (params.score == FIDELITY) {
            for (var d = 0u; d < depth; d += 2u) {
                let q_re = tile[d * PITCH + ty];
                let q_im = tile[(d + 1u) * PITCH + ty];
                let k_re = tile[HALF + d * PITCH + tx];
                let k_im = tile[HALF + (d + 1u) * PITCH + tx];
                add_outer(s, k_re, q_re);
                add_outer(s, k_im, q_im);
                add_outer(t, k_im, q_re);
                add_outer(t, -k_re, q_im);
            }
        } else if (params.score == GAUSSIAN) {
            for (var d = 0u; d < depth; d += 1u) {
                let queries = tile[d * PITCH + ty];
                let keys = tile[HALF + d * PITCH + tx];
                let d_x = queries - vec4f(keys.x);
                let d_y = queries - vec4f(keys.y);
                let d_z = queries - vec4f(keys.z);
                let d_w = queries - vec4f(keys.w);
                *s += mat4x4f(d_x * d_x, d_y * d_y, d_z * d_z, d_w * d_w);
            }
        } else {
            for (var d = 0u; d < depth; d += 1u) {
                let queries = tile[d * PITCH + ty];
                let keys = tile[HALF + d * PITCH + tx];
                let w = w_at(it.h, d0 + d);
                var four_keys = keys;
                for (var i = 0u; i < params.four; i += 1u) {
                    *s = push(*s, (*s)[0] + w * tanh4(queries + vec4f(four_keys.x)));
                    four_keys = four_keys.yzww;
                }
            }
        }
    }
}

// 1/√x, and 0 where x is 0: a cosine with a vector of norm 0 is 0.
fn inverse_norm(square: vec4f) -> vec4f {
    return select(1.0 / sqrt(square), vec4f(0.0), square == vec4f(0.0));
}

// The score before its scale.
fn raw_scores(s: mat4x4f, t: mat4x4f) -> mat4x4f {
    if (params.score == COSINE) {
        let rows = inverse_norm(t[0]);
        let keys = inverse_norm(t[1]);
        return mat4x4f(s[0] * rows * keys.x, s[1] * rows * keys.y, s[2] * rows * keys.z, s[3] * rows * keys.w);
    }
    if (params.score == FIDELITY) {
        return mat4x4f(s[0] * s[0] + t[0] * t[0], s[1] * s[1] + t[1] * t[1], s[2] * s[2] + t[2] * t[2], s[3] * s[3] + t[3] * t[3]);
    }
    return s;
}

fn cap4(z: vec4f) -> vec4f { return params.softcap * tanh4(z / params.softcap); }

fn bias_word(i: u32) -> u32 { return widen(params.bias_kind, bias[word_of(params.bias_kind, i)], i); }
// Bits of the bias of four queries and one key; 0 where it is not looked at.
fn bias4(it: Item, row: u32, key: u32, looked_at: vec4<bool>) -> vec4u {
    var at = base(params.bias, it.b, it.h) + row * params.bias.w + key * params.bias_column;
    var bits = vec4u(0u);
    var looks = looked_at;
    for (var i = 0u; i < params.four; i += 1u) {
        var word = 0u;
        if (looks.x) { word = bias_word(at); }
        bits = vec4u(bits.yzw, word);
        looks = looks.yzww;
        at += params.bias.w;
    }
    return bits;
}

// |position − key| of four queries and one key.
fn distance4(it: Item, row: u32, key: u32) -> vec4f {
    return vec4f(abs(vec4i(it.first + i32(row)) + vec4i(0, 1, 2, 3) - vec4i(i32(key))));
}

// Adds bias and ALiBi to the scores of four queries and one key, and takes from `bits` what a bias of −∞ hides.
fn biased(it: Item, row: u32, key: u32, bit: u32, z: vec4f, bits: ptr<function, vec4u>) -> vec4f {
    var sum = z;
    if (has(HAS_BIAS)) {
        let words = bias4(it, row, key, bits_at(*bits, bit));
        let hidden = words == vec4u(NEGATIVE_INFINITY_BITS);
        *bits &= ~as_bits(hidden, bit);
        sum += bitcast<vec4f>(select(words, vec4u(0u), hidden));
    }
    if (has(HAS_ALIBI)) { sum -= bitcast<f32>(plan[params.at_alibi + it.h]) * distance4(it, row, key); }
    return sum;
}

// Which of four queries keep one key under dropout.
fn kept4(it: Item, row: u32, key: u32) -> vec4<bool> {
    let at = params.at_seed;
    var stream = params.seed;
    if (at != INVALID) { stream = vec4u(plan[at], plan[at + 1u], plan[at + 2u], plan[at + 3u]); }
    let line = (it.b * params.q_heads + it.h) * params.q_len + row;
    var words = vec4u(0u);
    for (var i = 0u; i < params.four; i += 1u) {
        var index = product_words(line + i, params.kv_slots);
        let low = index.x + key;
        index = vec2u(low, index.y + select(0u, 1u, low < key));
        let word = random_word(stream, index);
        words = vec4u(words.yzw, word);
    }
    return words >= vec4u(params.threshold);
}
