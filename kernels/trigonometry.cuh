// trigonometry.cuh: sine and cosine, included by device.cuh.
//
// One source for both sides, built from fma alone, so that device and emulator agree to the bit.
#pragma once

namespace gw {

struct SinCos {
    float sin, cos;
};

namespace trigonometry {

/// x = quadrant · π/2 + remainder, |remainder| ≤ π/4 up to rounding.
struct Reduced {
    float remainder;
    u32 quadrant;
};

/// Cody–Waite, for |x| ≤ 2^17: π/2 in three floats. The first step is exact, because x and q·PI_2_HIGH are multiples of
/// 2^-24 closer than 1; each later one rounds its result once.
GW_DEVICE Reduced reduce_moderate(float x) {
    constexpr float TWO_OVER_PI = 0.63661977f;
    constexpr float PI_2_HIGH = 1.5707963705062866f;
    constexpr float PI_2_MIDDLE = -4.371138828673793e-08f;
    constexpr float PI_2_LOW = -1.7151245100058819e-15f;
    const float q = ::rintf(x * TWO_OVER_PI);
    float r = gw::fma(q, -PI_2_HIGH, x);
    r = gw::fma(q, -PI_2_MIDDLE, r);
    r = gw::fma(q, -PI_2_LOW, r);
    return {r, static_cast<u32>(static_cast<i32>(q))};
}

/// Payne–Hanek, for finite |x| > 2^17: multiplies the integer mantissa by the 96 bits of 2/π that matter at x's exponent;
/// all higher ones contribute multiples of 4 quadrants.
GW_DEVICE Reduced reduce_huge(float x) {
    const u32 bits = float_bits(x);
    const u32 mantissa = ((bits & 0x007fffffu) | 0x00800000u) << 8;  // |x| = mantissa · 2^(exponent - 158)
    // Where to read in the digits below: 18 at 2^17, 128 at the largest exponent.
    const u32 position = ((bits >> 23) & 0xffu) - 158u + 32u;
    const u32 shift = position % 32u;
    // The binary digits of 2/π after 32 zeros, 32 a word. A switch, not a table: a table would live in slow local memory.
    u32 w0, w1, w2, w3;
    switch (position / 32u) {
        case 0u: w0 = 0x00000000u; w1 = 0xa2f9836eu; w2 = 0x4e441529u; w3 = 0xfc2757d1u; break;
        case 1u: w0 = 0xa2f9836eu; w1 = 0x4e441529u; w2 = 0xfc2757d1u; w3 = 0xf534ddc0u; break;
        case 2u: w0 = 0x4e441529u; w1 = 0xfc2757d1u; w2 = 0xf534ddc0u; w3 = 0xdb629599u; break;
        case 3u: w0 = 0xfc2757d1u; w1 = 0xf534ddc0u; w2 = 0xdb629599u; w3 = 0x3c439041u; break;
        default: w0 = 0xf534ddc0u; w1 = 0xdb629599u; w2 = 0x3c439041u; w3 = 0xfe5163abu; break;
    }
    if (shift != 0u) {
        w0 = (w0 << shift) | (w1 >> (32u - shift));
        w1 = (w1 << shift) | (w2 >> (32u - shift));
        w2 = (w2 << shift) | (w3 >> (32u - shift));
    }
    const u64 low = static_cast<u64>(mantissa) * w2;
    const u64 middle = static_cast<u64>(mantissa) * w1 + (low >> 32);
    const u64 high = static_cast<u64>(mantissa) * w0 + (middle >> 32);
    u32 quadrant = static_cast<u32>(high >> 32);
    const u64 fraction = (high << 32) | (middle & 0xffffffffu);
    // As a signed number the fraction lies in [-1/2, 1/2): the nearest quadrant, as in reduce_moderate.
    quadrant += static_cast<u32>(fraction >> 63);
    constexpr double PI_2_SCALED = 1.5707963267948966 * 5.421010862427522e-20;  // π/2 · 2^-64
    const float r = static_cast<float>(static_cast<double>(static_cast<i64>(fraction)) * PI_2_SCALED);
    return bits >> 31 ? Reduced{-r, 0u - quadrant} : Reduced{r, quadrant};
}

}  // namespace trigonometry

/// Sine and cosine of x radians, within 2 ulp for every finite x; NaN for an infinite or NaN x. sin(-0) is +0.
///
/// Minimax polynomials on |r| ≤ π/4 (Remez, relative error 2^-27 and 2^-31); the device's own fast sine is off by 2^-21
/// absolute, which a circuit of many rotations would accumulate.
GW_DEVICE SinCos sincos(float x) {
    const u32 magnitude = float_bits(x) & 0x7fffffffu;
    if (magnitude >= 0x7f800000u) return {float_from_bits(0x7fc00000u), float_from_bits(0x7fc00000u)};
    const trigonometry::Reduced reduced =
        magnitude <= 0x48000000u ? trigonometry::reduce_moderate(x) : trigonometry::reduce_huge(x);
    const float r = reduced.remainder;
    const float t = r * r;
    float s = gw::fma(t, -0.000195019533081f, 0.00833208618373f);
    s = gw::fma(t, s, -0.166666544577f);
    s = gw::fma(r * t, s, r);
    float c = gw::fma(t, 2.44617940875e-05f, -0.00138876392938f);
    c = gw::fma(t, c, 0.041666654428f);
    c = gw::fma(t * t, c, gw::fma(t, -0.5f, 1.0f));
    const bool swapped = (reduced.quadrant & 1u) != 0u;
    const float sine = swapped ? c : s;
    const float cosine = swapped ? s : c;
    return {(reduced.quadrant & 2u) != 0u ? -sine : sine, ((reduced.quadrant + 1u) & 2u) != 0u ? -cosine : cosine};
}

}  // namespace gw
