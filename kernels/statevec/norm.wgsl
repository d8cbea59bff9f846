// norm.wgsl: dividing by norms whose squares may leave f32, as norm.cuh. Put in front of the shaders that do.

// 255 for what is not finite, 0 for 0.
fn biased_exponent(x: f32) -> u32 { return (bitcast<u32>(x) >> 23u) & 255u; }

// What numbers of that largest biased exponent are multiplied by; never denormal.
fn power_against(exponent: u32) -> f32 { return bitcast<f32>((254u - clamp(exponent, 1u, 253u)) << 23u); }

// 1/√square of numbers of that largest biased exponent; 0 where there is none.
fn factor_of(exponent: u32, square: f32) -> f32 {
    if (exponent >= 255u || square <= 0.0) {
        return 0.0;
    }
    let near = inverseSqrt(square);
    // One step of Newton's: what WGSL promises of roots is not enough.
    return fma(near, fma(-0.5 * square * near, near, 0.5), near);
}
