// What the shaders over rows of samples share: elements of 32 and 16 bits, and places in packed sequences.

const F32: u32 = 0u;
const F16: u32 = 1u;

fn word_of(kind: u32, index: u32) -> u32 { return select(index >> 1u, index, kind == F32); }

// The f32 in element `index`, which lies in `word`.
fn element_of(kind: u32, word: u32, index: u32) -> f32 {
    if (kind == F32) { return bitcast<f32>(word); }
    let half = (word >> (16u * (index & 1u))) & 0xffffu;
    if (kind != F16) { return bitcast<f32>(half << 16u); }
    let sign = (half & 0x8000u) << 16u;
    let magnitude = half & 0x7fffu;
    // Subnormals by a product, because a device may flush f32 subnormals.
    let tiny = bitcast<u32>(f32(magnitude) * 5.9604644775390625e-8);
    let normal = (magnitude << 13u) + 0x38000000u;
    let special = (magnitude << 13u) | 0x7f800000u;
    return bitcast<f32>(sign | select(select(normal, tiny, magnitude < 0x400u), special, magnitude >= 0x7c00u));
}

// Rows from .x on, .y of them, of a sample whose first row and the next sample's are `begin` and `end`: none where these are no
// partition of `rows` rows, which attention has reported.
fn rows_between(begin: i32, end: i32, rows: u32, most: u32) -> vec2<u32> {
    if (begin < 0 || end < begin || u32(end) > rows) { return vec2<u32>(0u, 0u); }
    return vec2<u32>(u32(begin), min(u32(end - begin), most));
}
