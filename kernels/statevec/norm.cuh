// norm.cuh: dividing by norms whose squares may leave f32: numbers are first multiplied by a power of two that brings the largest
// one near 1.
#pragma once
#include "device.cuh"

namespace statevec {

using gw::Shared;
using gw::u32;

constexpr u32 STATUS_NORM = 4;

/// 255 for what is not finite, 0 for 0.
GW_DEVICE u32 biased_exponent(float x) { return gw::float_bits(x) >> 23 & 255u; }

/// What numbers of that largest biased exponent are multiplied by; never denormal.
GW_DEVICE float power_against(u32 exponent) {
    const u32 least = exponent < 1u ? 1u : exponent;
    return gw::float_from_bits((254u - (least > 253u ? 253u : least)) << 23);
}

/// 1/√square of numbers of that largest biased exponent; 0 where there is none.
GW_DEVICE float factor_of(u32 exponent, float square) {
    return exponent < 255u && square > 0.0f ? 1.0f / ::sqrtf(square) : 0.0f;
}

/// A running sum of sums of 64 sums of 64: the error grows with the cube root of the count.
struct LongSum {
    float total, middle, part;
    GW_DEVICE void add(float value, u32 count) {
        part += value;
        if ((count & 63u) != 0) return;
        middle += part;
        part = 0.0f;
        if ((count & 4095u) != 0) return;
        total += middle;
        middle = 0.0f;
    }
    GW_DEVICE void scale(float factor) {
        total *= factor;
        middle *= factor;
        part *= factor;
    }
    GW_DEVICE float value() const { return total + (middle + part); }
};

/// Σ (x·power)² and Σ x·power·g of the numbers seen so far, where power is that of the largest.
struct RunningNorm {
    u32 exponent, count;
    LongSum square, dot;

    GW_DEVICE void rise(u32 to) {
        const float ratio = power_against(to) / power_against(exponent);
        square.scale(ratio * ratio);
        dot.scale(ratio);
        exponent = to;
    }

    GW_DEVICE void add(float x, float g) {
        const u32 own = biased_exponent(x);
        if (own > exponent) rise(own);
        const float scaled = x * power_against(exponent);
        ++count;
        square.add(scaled * scaled, count);
        dot.add(scaled * g, count);
    }
};

/// The norm of what a block of 256 threads has seen.
struct Norm {
    float power, factor, dot;
};

GW_DEVICE Norm over_block(RunningNorm& own, Shared<float> plane) {
    const u32 thread = threadIdx.x;
    plane[thread] = static_cast<float>(own.exponent);
    gw::sync_threads();
    for (u32 half = 128; half > 0; half /= 2) {
        if (thread < half && plane[thread + half] > plane[thread]) plane[thread] = plane[thread + half];
        gw::sync_threads();
    }
    const u32 exponent = static_cast<u32>(plane[0]);
    gw::sync_threads();
    own.rise(exponent);
    plane[thread] = own.square.value();
    plane[256u + thread] = own.dot.value();
    gw::sync_threads();
    for (u32 half = 128; half > 0; half /= 2) {
        if (thread < half) {
            plane[thread] += plane[thread + half];
            plane[256u + thread] += plane[256u + thread + half];
        }
        gw::sync_threads();
    }
    const Norm norm = {power_against(exponent), factor_of(exponent, plane[0]), plane[256]};
    gw::sync_threads();
    return norm;
}

}  // namespace statevec
