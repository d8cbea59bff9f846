// Writes four adjacent columns of a row. The buffer is of atomics because two 16-bit elements that share a word may belong to
// two rows, and so to two threads: each replaces its half.

fn write_element(index: u32, bits: u32) {
    if (params.kind == F32) {
        atomicStore(&out[index], bits);
        return;
    }
    let shift = 16u * (index & 1u);
    atomicAnd(&out[index >> 1u], ~(0xffffu << shift));
    atomicOr(&out[index >> 1u], narrow(params.kind, bits) << shift);
}
// Columns d .. d + 3 of a row that begins at element `to` and has `columns` of them.
fn write4(to: u32, d: u32, columns: u32, bits: vec4u) {
    if (d >= columns) { return; }
    if (params.kind != F32 && d + 3u < columns && ((to + d) & 1u) == 0u) {
        let word = (to + d) >> 1u;
        atomicStore(&out[word], narrow(params.kind, bits.x) | (narrow(params.kind, bits.y) << 16u));
        atomicStore(&out[word + 1u], narrow(params.kind, bits.z) | (narrow(params.kind, bits.w) << 16u));
        return;
    }
    write_element(to + d, bits.x);
    if (d + 1u < columns) { write_element(to + d + 1u, bits.y); }
    if (d + 2u < columns) { write_element(to + d + 2u, bits.z); }
    if (d + 3u < columns) { write_element(to + d + 3u, bits.w); }
}
// The thread's columns of one row, from column `column0` on.
fn write_row(
    to: u32, column0: u32, columns: u32, tx: u32, empty: bool, poisoned: bool, acc0: vec4f, acc1: vec4f, acc2: vec4f, acc3: vec4f,
) {
    let d = column0 + 4u * tx;
    write4(to, d, columns, defined4(acc0, empty, poisoned));
    if (params.width < 128u) { return; }
    write4(to, d + 32u, columns, defined4(acc1, empty, poisoned));
    write4(to, d + 64u, columns, defined4(acc2, empty, poisoned));
    write4(to, d + 96u, columns, defined4(acc3, empty, poisoned));
}
fn defined4(values: vec4f, empty: bool, poisoned: bool) -> vec4u {
    return select(select(bitcast<vec4u>(values), vec4u(0u), empty), vec4u(NAN_BITS), poisoned);
}
// Four rows, of which `rows` exist.
fn write_rows(
    to: u32, stride: u32, rows: u32, column0: u32, columns: u32, tx: u32, empty: vec4<bool>, poisoned: bool,
    acc0: mat4x4f, acc1: mat4x4f, acc2: mat4x4f, acc3: mat4x4f,
) {
    if (rows > 0u) { write_row(to, column0, columns, tx, empty.x, poisoned, acc0[0], acc1[0], acc2[0], acc3[0]); }
    if (rows > 1u) { write_row(to + stride, column0, columns, tx, empty.y, poisoned, acc0[1], acc1[1], acc2[1], acc3[1]); }
    if (rows > 2u) { write_row(to + 2u * stride, column0, columns, tx, empty.z, poisoned, acc0[2], acc1[2], acc2[2], acc3[2]); }
    if (rows > 3u) { write_row(to + 3u * stride, column0, columns, tx, empty.w, poisoned, acc0[3], acc1[3], acc2[3], acc3[3]); }
}
