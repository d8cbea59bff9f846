// qubit.cuh: one step of ρ → S(ρ, x) on the Bloch vector (x, y, z) and trace w, forward and backward.
//
// An operation is 20 words: code, source of its parameter (0 constant, 1 theta, 2 x), index, scale, offset, 3 unused, then for
// AFFINE three rows of four numbers. Twins: src/statevec/density/qubit_run.rs, qubit.wgsl.
#pragma once
#include "device.cuh"

namespace qubit {

using gw::i64;
using gw::u32;

constexpr u32 WORDS = 20;
enum Code : u32 {
    ROTATE_X = 0, ROTATE_Y = 1, ROTATE_Z = 2, DEPOLARIZE = 3, KEEP_X = 4, KEEP_Y = 5, KEEP_Z = 6, AMPLITUDE = 7, PHASE = 8,
    AFFINE = 9
};

GW_DEVICE float number(const u32* program, u32 op, u32 word) {
    return gw::float_from_bits(gw::load_global_cached(program + op * WORDS + word));
}

/// The parameter of an operation; NaN if it is outside the operation's domain.
GW_DEVICE float parameter(const u32* program, u32 op, const float* theta, const float* x, i64 x_step) {
    const u32 source = gw::load_global_cached(program + op * WORDS + 1u);
    const i64 index = gw::load_global_cached(program + op * WORDS + 2u);
    float value = 0.0f;
    if (source == 1u) value = gw::load_global_cached(theta + index);
    if (source == 2u) value = gw::load_global_cached(x + index * x_step);
    const float p = source == 0u ? number(program, op, 4u) : gw::fma(number(program, op, 3u), value, number(program, op, 4u));
    const u32 code = gw::load_global_cached(program + op * WORDS);
    if (code == AFFINE) return 0.0f;
    const bool valid = code <= ROTATE_Z ? gw::is_finite(p) : p >= 0.0f && p <= 1.0f;
    return valid ? p : NAN;
}

GW_DEVICE float4 apply(const u32* program, u32 op, float p, float4 r) {
    const u32 code = gw::load_global_cached(program + op * WORDS);
    if (code <= ROTATE_Z) {
        const gw::SinCos turn = gw::sincos(p);
        const float c = turn.cos, s = turn.sin;
        if (code == ROTATE_X) return make_float4(r.x, gw::fma(c, r.y, -s * r.z), gw::fma(s, r.y, c * r.z), r.w);
        if (code == ROTATE_Y) return make_float4(gw::fma(c, r.x, s * r.z), r.y, gw::fma(c, r.z, -s * r.x), r.w);
        return make_float4(gw::fma(c, r.x, -s * r.y), gw::fma(s, r.x, c * r.y), r.z, r.w);
    }
    if (code == AFFINE) {
        float out[3];
#pragma unroll
        for (u32 i = 0; i < 3; ++i) {
            const u32 at = 8u + 4u * i;
            out[i] = gw::fma(number(program, op, at), r.x, gw::fma(number(program, op, at + 1u), r.y,
                     gw::fma(number(program, op, at + 2u), r.z, number(program, op, at + 3u) * r.w)));
        }
        return make_float4(out[0], out[1], out[2], r.w);
    }
    if (code == AMPLITUDE || code == PHASE) {
        const float root = ::sqrtf(1.0f - p);
        const float z = code == AMPLITUDE ? gw::fma(p, r.w - r.z, r.z) : r.z;
        return make_float4(root * r.x, root * r.y, z, r.w);
    }
    const float f = code == DEPOLARIZE ? 1.0f - p : gw::fma(-2.0f, p, 1.0f);
    return make_float4(code == KEEP_X ? r.x : f * r.x, code == KEEP_Y ? r.y : f * r.y, code == KEEP_Z ? r.z : f * r.z, r.w);
}

/// The gradient before an operation from the one after it; `slope` gains the gradient of its parameter.
GW_DEVICE float4 pull_back(const u32* program, u32 op, float p, float4 before, float4 g, float* slope) {
    const u32 code = gw::load_global_cached(program + op * WORDS);
    if (code <= ROTATE_Z) {
        const gw::SinCos turn = gw::sincos(p);
        const float c = turn.cos, s = turn.sin;
        const float4 r = apply(program, op, p, before);
        if (code == ROTATE_X) {
            *slope = gw::fma(g.z, r.y, -g.y * r.z);
            return make_float4(g.x, gw::fma(c, g.y, s * g.z), gw::fma(c, g.z, -s * g.y), g.w);
        }
        if (code == ROTATE_Y) {
            *slope = gw::fma(g.x, r.z, -g.z * r.x);
            return make_float4(gw::fma(c, g.x, -s * g.z), g.y, gw::fma(s, g.x, c * g.z), g.w);
        }
        *slope = gw::fma(g.y, r.x, -g.x * r.y);
        return make_float4(gw::fma(c, g.x, s * g.y), gw::fma(c, g.y, -s * g.x), g.z, g.w);
    }
    if (code == AFFINE) {
        float out[4] = {0.0f, 0.0f, 0.0f, g.w};
#pragma unroll
        for (u32 j = 0; j < 4; ++j) {
            out[j] = gw::fma(number(program, op, 8u + j), g.x, gw::fma(number(program, op, 12u + j), g.y,
                     gw::fma(number(program, op, 16u + j), g.z, out[j])));
        }
        return make_float4(out[0], out[1], out[2], out[3]);
    }
    if (code == AMPLITUDE || code == PHASE) {
        const float root = ::sqrtf(1.0f - p);
        // Vertical at 1: there the root's part counts as 0.
        const float steep = root > 0.0f ? -0.5f / root : 0.0f;
        *slope = steep * gw::fma(g.x, before.x, g.y * before.y);
        if (code == PHASE) return make_float4(root * g.x, root * g.y, g.z, g.w);
        *slope = gw::fma(g.z, before.w - before.z, *slope);
        return make_float4(root * g.x, root * g.y, (1.0f - p) * g.z, gw::fma(p, g.z, g.w));
    }
    const float f = code == DEPOLARIZE ? 1.0f - p : gw::fma(-2.0f, p, 1.0f);
    const float rate = code == DEPOLARIZE ? -1.0f : -2.0f;
    const bool x = code != KEEP_X, y = code != KEEP_Y, z = code != KEEP_Z;
    *slope = rate * ((x ? g.x * before.x : 0.0f) + (y ? g.y * before.y : 0.0f) + (z ? g.z * before.z : 0.0f));
    return make_float4(x ? f * g.x : g.x, y ? f * g.y : g.y, z ? f * g.z : g.z, g.w);
}

/// The Bloch vector and trace of the Hermitian part of the matrix at `rho`.
GW_DEVICE float4 load_matrix(const float2* rho) {
    const float2 a = gw::load_global_cached(rho), b = gw::load_global_cached(rho + 1);
    const float2 c = gw::load_global_cached(rho + 2), d = gw::load_global_cached(rho + 3);
    return make_float4(b.x + c.x, c.y - b.y, a.x - d.x, a.x + d.x);
}

}  // namespace qubit
