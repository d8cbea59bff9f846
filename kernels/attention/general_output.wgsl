// Writes four adjacent columns of a row. The buffer is of atomics because two 16-bit elements that share a word may belong to
// two rows, and so to two threads: each replaces its half.

fn write_element(index: u32, bits: u32) {
    if (params.out_kind == F32) {
        atomicStore(&out[index], bits);
        return;
    }
    let shift = 16u * (index & 1u);
    atomicAnd(&out[index >> 1u], ~(0xffffu << shift));
    atomicOr(&out[index >> 1u], narrow(params.out_kind, bits) << shift);
}
// Columns d .. d + 3 of a row that begins at element `to` and has `columns` of them.
fn write4(to: u32, d: u32, columns: u32, bits: vec4u) {
    if (d >= columns) { return; }
    if (params.out_kind != F32 && d + 3u < columns && ((to + d) & 1u) == 0u) {
        let word = (to + d) >> 1u;
        atomicStore(&out[word], narrow(params.out_kind, bits.x) | (narrow(params.out_kind, bits.y) << 16u));
        atomicStore(&out[word + 1u], narrow(params.out_kind, bits.z) | (narrow(params.out_kind, bits.w) << 16u));
        return;
    }
    var four = bits;
    for (var i = 0u; i < min(params.four, columns - d); i += 1u) {
        write_element(to + d + i, four.x);
        four = four.yzww;
    }
}
// The thread's columns of four rows, of which `rows` exist: 4·tx .. of every `widths` times 32 columns from `column0` on.
fn write_rows(
    to: u32, stride: u32, rows: u32, column0: u32, columns: u32, widths: u32, tx: u32, empty: vec4<bool>, poisoned: bool,
    acc0: mat4x4f, acc1: mat4x4f, acc2: mat4x4f, acc3: mat4x4f,
) {
    var a0 = acc0;
    var a1 = acc1;
    var a2 = acc2;
    var a3 = acc3;
    var none = empty;
    for (var r = 0u; r < min(rows, params.four); r += 1u) {
        var v0 = a0[0];
        var v1 = a1[0];
        var v2 = a2[0];
        for (var c = 0u; c < widths; c += 1u) {
            let bits = select(select(bitcast<vec4u>(v0), vec4u(0u), none.x), vec4u(NAN_BITS), poisoned);
            write4(to + r * stride, column0 + 32u * c + 4u * tx, columns, bits);
            v0 = v1;
            v1 = v2;
            v2 = a3[0];
        }
        a0 = turn(a0);
        a1 = turn(a1);
        a2 = turn(a2);
        a3 = turn(a3);
        none = none.yzww;
    }
}
