//! The vector arithmetic beyond `pulp`'s, and the aligned scratch memory it works on.

use pulp::Simd;

/// Below this 2^x is no longer a normal number and becomes 0: denormals take some processors a hundred cycles each, and hidden
/// scores (−∞) must give exactly 0.
const FLUSH_BELOW: f32 = -126.0;

/// Adding this rounds to an integer n and leaves n + 127, the exponent field of 2^n, in the low mantissa bits.
const ROUND_TO_EXPONENT: f32 = 12_582_912.0 + 127.0; // 1.5·2^23 + bias

/// Minimax polynomial of 2^f on [-1/2, 1/2], highest power first, exact at 0; relative error 2e-9.
const EXP2: [f32; 7] =
    [1.535_336_2e-4, 1.339_887_5e-3, 9.618_437e-3, 5.550_332_4e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0];

/// 2^x for x ≤ 127; exactly 0 below [`FLUSH_BELOW`], NaN for NaN, unspecified above 127.
#[inline(always)]
pub(super) fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let magic = simd.splat_f32s(ROUND_TO_EXPONENT);
    let shifted = simd.add_f32s(x, magic);
    let fraction = simd.sub_f32s(x, simd.sub_f32s(shifted, magic));
    let mut power = simd.splat_f32s(EXP2[0]);
    for i in 1..EXP2.len() {
        power = simd.mul_add_e_f32s(power, fraction, simd.splat_f32s(EXP2[i]));
    }
    let exponent = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    // A product, not an integer addition to the exponent field, which could turn a NaN into a number.
    let scaled = simd.mul_f32s(power, simd.transmute_f32s_u32s(exponent));
    simd.select_f32s(simd.less_than_f32s(x, simd.splat_f32s(FLUSH_BELOW)), simd.splat_f32s(0.0), scaled)
}

/// `values` as vectors; its length is a multiple of the vector width.
#[inline(always)]
pub(super) fn vectors<S: Simd>(values: &[f32]) -> &[S::f32s] {
    bytemuck::cast_slice(values)
}

/// `values` as vectors to write; its length is a multiple of the vector width.
#[inline(always)]
pub(super) fn vectors_mut<S: Simd>(values: &mut [f32]) -> &mut [S::f32s] {
    bytemuck::cast_slice_mut(values)
}

const LINE: usize = 16;

/// One cache line of floats.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

// SAFETY: an array of floats whose alignment equals its size: no padding, all bits valid, zero among them.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Line {}

/// Memory a work item computes in; grows on demand and is reused by the next item of the same thread.
#[derive(Default)]
pub(super) struct Scratch(Vec<Line>);

impl Scratch {
    /// `N` disjoint parts of the given sizes, each on a cache line of its own. Their contents are left from earlier use.
    pub(super) fn parts<const N: usize>(&mut self, sizes: [usize; N]) -> [&mut [f32]; N] {
        let lines: usize = sizes.iter().map(|n| n.div_ceil(LINE)).sum();
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; LINE]));
        }
        let mut rest: &mut [f32] = bytemuck::cast_slice_mut(&mut self.0);
        sizes.map(|n| {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(n.next_multiple_of(LINE));
            rest = tail;
            &mut part[..n]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exp2<'a>(&'a mut [f32]);

    impl pulp::WithSimd for Exp2<'_> {
        type Output = ();
        fn with_simd<S: Simd>(self, simd: S) {
            for x in vectors_mut::<S>(self.0) {
                *x = exp2(simd, *x);
            }
        }
    }

    #[test]
    fn exp2_is_within_an_ulp_and_a_quarter() {
        // Every 97th float of magnitude 2^-30 to 126, of both signs.
        let mut inputs: Vec<f32> = (0x3080_0000..=126f32.to_bits())
            .step_by(97)
            .map(f32::from_bits)
            .flat_map(|x| [x, -x])
            .chain([0.0, -0.0])
            .collect();
        inputs.resize(inputs.len().next_multiple_of(16), -1.5);
        for arch in [pulp::Arch::new(), pulp::Arch::Scalar] {
            let mut got = inputs.clone();
            arch.dispatch(Exp2(&mut got));
            for (&x, &y) in inputs.iter().zip(&got) {
                let want = f64::from(x).exp2();
                let ulp = f64::from(f32::from_bits((want as f32).to_bits() + 1)) - f64::from(want as f32);
                let error = (f64::from(y) - want).abs() / ulp;
                assert!(error <= 1.25, "2^{x} = {want:e}, got {y:e}: {error} ulp");
            }
        }
    }

    #[test]
    fn exp2_keeps_nan_and_flushes_what_vanishes() {
        let payloads = [f32::NAN, -f32::NAN, f32::from_bits(0x7fc0_0001), f32::from_bits(0xffc0_01ff)];
        for arch in [pulp::Arch::new(), pulp::Arch::Scalar] {
            let mut got: Vec<f32> = payloads.iter().copied().cycle().take(16).collect();
            arch.dispatch(Exp2(&mut got));
            assert!(got.iter().all(|x| x.is_nan()), "{got:?}");
            let mut got = [-126.01, -200.0, -1e6, -1e20, f32::MIN, f32::NEG_INFINITY, -5e6, -9e6].repeat(2);
            arch.dispatch(Exp2(&mut got));
            assert!(got.iter().all(|x| x.to_bits() == 0), "{got:?}");
        }
    }
}
