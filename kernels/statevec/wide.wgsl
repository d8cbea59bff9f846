// wide.wgsl: 64-bit integers as (low, high), and probabilities as such integers; as mass.cuh. Put in front of the sampling
// shaders, after philox.wgsl.
const RUN_BITS: u32 = 6u;
const INVALID: u32 = 0x7fffffffu;

fn add_wide(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn is_below(a: vec2<u32>, b: vec2<u32>) -> bool { return a.y < b.y || (a.y == b.y && a.x < b.x); }

// The upper 64 bits of the product of two 64-bit integers.
fn upper_product(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = product_words(a.x, b.x);
    let cross_0 = product_words(a.x, b.y);
    let cross_1 = product_words(a.y, b.x);
    let middle = add_wide(add_wide(vec2<u32>(low.y, 0u), vec2<u32>(cross_0.x, 0u)), vec2<u32>(cross_1.x, 0u));
    let upper = add_wide(product_words(a.y, b.y), vec2<u32>(middle.y, 0u));
    return add_wide(add_wide(upper, vec2<u32>(cross_0.y, 0u)), vec2<u32>(cross_1.y, 0u));
}

// ⌊p·2^(62 − exponent)⌋ for the bits of a p ≥ 0 below 2^exponent; 0 for an invalid sample.
fn fixed_point(bits: u32, exponent: u32) -> vec2<u32> {
    let biased = (bits >> 23u) & 0xffu;
    let mantissa = (bits & 0x007fffffu) | select(0u, 0x00800000u, biased != 0u);
    let shift = i32(max(biased, 1u)) - 150 + 62 - bitcast<i32>(exponent);
    if (exponent == INVALID || shift <= -24) { return vec2<u32>(0u); }
    if (shift < 0) { return vec2<u32>(mantissa >> u32(-shift), 0u); }
    let s = u32(shift);
    if (s >= 32u) { return vec2<u32>(0u, mantissa << (s - 32u)); }
    if (s == 0u) { return vec2<u32>(mantissa, 0u); }
    return vec2<u32>(mantissa << s, mantissa >> (32u - s));
}

// As exponent_of in mass.cuh. On the bits: the comparison with 0 may assume that there is no NaN.
fn exponent_of(sum: f32) -> u32 {
    let bits = bitcast<u32>(sum);
    if (!is_finite(sum) || (bits >> 31u) != 0u || bits == 0u) { return INVALID; }
    return ((bitcast<u32>(sum * 0.75) >> 23u) & 0xffu) - 127u + 2u;
}
