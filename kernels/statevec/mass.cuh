// mass.cuh: probabilities as integers, shared by the sampling kernels.
#pragma once
#include "device.cuh"

namespace mass {

using gw::u32;
using gw::u64;

/// Log₂ of the probabilities whose sum is stored.
constexpr u32 RUN_BITS = 6;
/// The exponent of a sample that cannot be sampled: its norm is zero, infinite or NaN.
constexpr u32 INVALID = 0x7fffffffu;

/// ⌊p·2^(62 − exponent)⌋ for the bits of a p ≥ 0 below 2^exponent; 0 for an invalid sample.
GW_DEVICE u64 fixed_point(u32 bits, u32 exponent) {
    if (exponent == INVALID) return 0;
    const u32 biased = bits >> 23 & 0xffu;
    const u64 mantissa = (bits & 0x007fffffu) | (biased != 0 ? 0x00800000u : 0u);
    const int shift = static_cast<int>(biased != 0 ? biased : 1u) - 150 + 62 - static_cast<int>(exponent);
    if (shift >= 0) return mantissa << shift;
    return shift > -24 ? mantissa >> -shift : 0;
}

/// An exponent that the sample's sum of probabilities is below, roughly 1 to 2 bits above it. The factor keeps the sums near 1
/// away from the change of exponent, so that all backends agree there.
GW_DEVICE u32 exponent_of(float sum) {
    if (!gw::is_finite(sum) || !(sum > 0.0f)) return INVALID;
    return (gw::float_bits(sum * 0.75f) >> 23 & 0xffu) - 127u + 2u;
}

}  // namespace mass
