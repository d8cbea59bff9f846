// The product of a tile of weights with staged rows: 4 lines × up to 128 columns a thread, in accumulators of its own.

var<workgroup> weights: array<vec4f, LINES * PITCH>;
var<workgroup> words: array<vec4u, 64>;
var<workgroup> partial: array<vec4f, 64>;

// The bits that the eight threads of a line have put into `words`.
fn line_bits(line: u32) -> vec4u {
    var bits = vec4u(0u);
    for (var i = 0u; i < 8u; i += 1u) { bits |= words[8u * line + i]; }
    return bits;
}
fn line_sum(line: u32) -> vec4f {
    var sum = vec4f(0.0);
    for (var i = 0u; i < 8u; i += 1u) { sum += partial[8u * line + i]; }
    return sum;
}

// Puts the four columns of a matrix into lines of weights. Written out: an index that a loop counts keeps a matrix in memory.
fn store_weights(at: u32, step: u32, m: mat4x4f) {
    weights[at] = m[0];
    weights[at + step] = m[1];
    weights[at + 2u * step] = m[2];
    weights[at + 3u * step] = m[3];
}

// Columns the accumulators cover, in units of 32: 1, 2 or 4.
fn used_widths(columns: u32) -> u32 { return select(select(4u, 2u, columns <= 64u), 1u, columns <= 32u); }

// Adds weights[first ..] · staged rows. `sees`: bit j of a component says whether that line sees row j of the tile of 32.
fn accumulate(
    acc0: ptr<function, mat4x4f>, acc1: ptr<function, mat4x4f>, acc2: ptr<function, mat4x4f>, acc3: ptr<function, mat4x4f>,
    widths: u32, first: u32, stop: u32, sees: vec4u, ty: u32, tx: u32,
) {
    let all = sees.x & sees.y & sees.z & sees.w;
    for (var j = 0u; j < stop; j += 1u) {
        let p = weights[(first + j) * PITCH + ty];
        let at = j * 8u * widths + tx;
        if (((all >> (first + j)) & 1u) != 0u) {
            add_outer(acc0, p, tile[at]);
            if (widths > 1u) { add_outer(acc1, p, tile[at + 8u]); }
            if (widths > 2u) {
                add_outer(acc2, p, tile[at + 16u]);
                add_outer(acc3, p, tile[at + 24u]);
            }
        } else {
            let lines = bits_at(sees, first + j);
            add_outer_where(acc0, p, tile[at], lines);
            if (widths > 1u) { add_outer_where(acc1, p, tile[at + 8u], lines); }
            if (widths > 2u) {
                add_outer_where(acc2, p, tile[at + 16u], lines);
                add_outer_where(acc3, p, tile[at + 24u], lines);
            }
        }
    }
}
