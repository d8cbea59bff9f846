//! The two types the engine computes in, their vector arithmetic beyond `pulp`'s, and the aligned scratch memory it works on.

use crate::dtype::Element;
use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use pulp::{Arch, Simd, WithSimd};
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub};

/// A type the engine computes in, and its vectors on an instruction set.
pub(super) trait Real:
    Element
    + PartialOrd
    + Default
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + MulAssign
    + Sum
{
    /// One register of values.
    type Vector<S: Simd>: Pod;
    const ZERO: Self;
    const ONE: Self;
    /// The least finite value. A softmax starts from it: from −∞ a first tile of −∞ scores would make the shift ∞ − ∞.
    const LOWEST: Self;
    const NEG_INFINITY: Self;
    /// The least positive normal value.
    const TINY: Self;

    fn lanes<S: Simd>() -> usize;
    fn of(x: f64) -> Self;
    fn wide(self) -> f64;
    fn finite(self) -> bool;
    fn is_nan(self) -> bool;
    fn log(self) -> Self;
    /// 2^x of one value.
    fn power(self) -> Self;
    /// Converts stored halves. Only f32 is computed from them.
    fn from_f16(from: &[f16], to: &mut [Self]);
    fn from_bf16(from: &[bf16], to: &mut [Self]);

    fn splat<S: Simd>(simd: S, x: Self) -> Self::Vector<S>;
    fn vadd<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    fn vsub<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    fn vmul<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    fn vdiv<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// a·b + c
    fn mul_add<S: Simd>(
        simd: S,
        a: Self::Vector<S>,
        b: Self::Vector<S>,
        c: Self::Vector<S>,
    ) -> Self::Vector<S>;
    fn max<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    fn negative<S: Simd>(simd: S, a: Self::Vector<S>) -> Self::Vector<S>;
    fn abs<S: Simd>(simd: S, a: Self::Vector<S>) -> Self::Vector<S>;
    /// `yes` where a < b, `no` elsewhere and where either is NaN.
    fn select_less<S: Simd>(
        simd: S,
        a: Self::Vector<S>,
        b: Self::Vector<S>,
        yes: Self::Vector<S>,
        no: Self::Vector<S>,
    ) -> Self::Vector<S>;
    /// 2^x for x ≤ 127; exactly 0 below the normal range, NaN for NaN, unspecified above 127.
    fn exp2<S: Simd>(simd: S, x: Self::Vector<S>) -> Self::Vector<S>;
    /// Runs `work` with the best instruction set for the type that `arch` has.
    fn dispatch<W: WithSimd<Output = ()>>(arch: Arch, work: W);
    /// How many terms of [`TANH`] bring |x| < 1/2 to the type's precision.
    const TANH_TERMS: usize;
}

macro_rules! real {
    ($t:ident, $vector:ident, $lanes:ident, $terms:literal, $splat:ident $add:ident $sub:ident $mul:ident $div:ident
     $mul_add:ident $max:ident $neg:ident $abs:ident $less:ident $select:ident, $exp2:ident, $dispatch:ident,
     |$from16:ident, $to16:ident| $f16:expr, |$frombf:ident, $tobf:ident| $bf16:expr) => {
        impl Real for $t {
            type Vector<S: Simd> = S::$vector;
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LOWEST: Self = $t::MIN;
            const NEG_INFINITY: Self = $t::NEG_INFINITY;
            const TINY: Self = $t::MIN_POSITIVE;
            const TANH_TERMS: usize = $terms;

            fn dispatch<W: WithSimd<Output = ()>>(arch: Arch, work: W) {
                $dispatch(arch, work);
            }
            #[inline(always)]
            fn lanes<S: Simd>() -> usize {
                S::$lanes
            }
            #[inline(always)]
            fn of(x: f64) -> Self {
                x as Self
            }
            #[inline(always)]
            fn wide(self) -> f64 {
                self.into()
            }
            #[inline(always)]
            fn finite(self) -> bool {
                self.is_finite()
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                self != self
            }
            #[inline(always)]
            fn log(self) -> Self {
                self.ln()
            }
            #[inline(always)]
            fn power(self) -> Self {
                $t::exp2(self)
            }
            #[inline(always)]
            fn from_f16($from16: &[f16], $to16: &mut [Self]) {
                $f16
            }
            #[inline(always)]
            fn from_bf16($frombf: &[bf16], $tobf: &mut [Self]) {
                $bf16
            }
            #[inline(always)]
            fn splat<S: Simd>(simd: S, x: Self) -> S::$vector {
                simd.$splat(x)
            }
            #[inline(always)]
            fn vadd<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$add(a, b)
            }
            #[inline(always)]
            fn vsub<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$sub(a, b)
            }
            #[inline(always)]
            fn vmul<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$mul(a, b)
            }
            #[inline(always)]
            fn vdiv<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$div(a, b)
            }
            #[inline(always)]
            fn mul_add<S: Simd>(simd: S, a: S::$vector, b: S::$vector, c: S::$vector) -> S::$vector {
                simd.$mul_add(a, b, c)
            }
            #[inline(always)]
            fn max<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$max(a, b)
            }
            #[inline(always)]
            fn negative<S: Simd>(simd: S, a: S::$vector) -> S::$vector {
                simd.$neg(a)
            }
            #[inline(always)]
            fn abs<S: Simd>(simd: S, a: S::$vector) -> S::$vector {
                simd.$abs(a)
            }
            #[inline(always)]
            fn select_less<S: Simd>(
                simd: S,
                a: S::$vector,
                b: S::$vector,
                yes: S::$vector,
                no: S::$vector,
            ) -> S::$vector {
                simd.$select(simd.$less(a, b), yes, no)
            }
            #[inline(always)]
            fn exp2<S: Simd>(simd: S, x: S::$vector) -> S::$vector {
                $exp2(simd, x)
            }
        }
    };
}

real!(f32, f32s, F32_LANES, 7, splat_f32s add_f32s sub_f32s mul_f32s div_f32s mul_add_e_f32s max_f32s neg_f32s abs_f32s
      less_than_f32s select_f32s, exp2_f32, dispatch_f32,
      |from, to| for (to, from) in to.iter_mut().zip(from) { *to = widened(from.to_bits()) },
      |from, to| for (to, from) in to.iter_mut().zip(from) { *to = f32::from_bits(u32::from(from.to_bits()) << 16) });
real!(f64, f64s, F64_LANES, 17, splat_f64s add_f64s sub_f64s mul_f64s div_f64s mul_add_e_f64s max_f64s neg_f64s abs_f64s
      less_than_f64s select_f64s, exp2_f64, dispatch_f64,
      |from, to| from.convert_to_f64_slice(to),
      |from, to| from.convert_to_f64_slice(to));

fn dispatch_f32<W: WithSimd<Output = ()>>(arch: Arch, work: W) {
    arch.dispatch(work);
}

/// Without AVX-512: compiling f64 for one instruction set more is not worth it.
#[cfg(target_arch = "x86_64")]
fn dispatch_f64<W: WithSimd<Output = ()>>(arch: Arch, work: W) {
    match pulp::x86::V3::try_new().filter(|_| !matches!(arch, Arch::Scalar)) {
        Some(v3) => Simd::vectorize(v3, work),
        None => Simd::vectorize(pulp::Scalar::new(), work),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn dispatch_f64<W: WithSimd<Output = ()>>(arch: Arch, work: W) {
    arch.dispatch(work);
}

/// The value of a binary16. Whole numbers and one product, so that loops over it become vectors of whatever instruction set they
/// are compiled for: `half`'s slices are converted eight elements a call.
#[inline(always)]
fn widened(bits: u16) -> f32 {
    const INFINITE: u32 = 0x7c00 << 13;
    let (sign, magnitude) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff) << 13);
    // As the significand of a float whose exponent is off by 112: the product is exact, subnormals included.
    let scaled = (f32::from_bits(magnitude) * f32::from_bits((112 + 127) << 23)).to_bits();
    f32::from_bits(sign | if magnitude >= INFINITE { magnitude | 0x7f80_0000 } else { scaled })
}

/// Below this 2^x is no longer a normal number and becomes 0: denormals take some processors a hundred cycles each, and hidden
/// scores (−∞) must give exactly 0.
const FLUSH_BELOW: f32 = -126.0;

/// Adding this rounds to an integer n and leaves n + 127, the exponent field of 2^n, in the low mantissa bits.
const ROUND_TO_EXPONENT: f32 = 12_582_912.0 + 127.0; // 1.5·2^23 + bias

/// Minimax polynomial of 2^f on [-1/2, 1/2], highest power first, exact at 0; relative error 2e-9.
const EXP2: [f32; 7] =
    [1.535_336_2e-4, 1.339_887_5e-3, 9.618_437e-3, 5.550_332_4e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0];

#[inline(always)]
fn exp2_f32<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
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

/// Powers of ln 2 over factorials, highest first: 2^f on [-1/2, 1/2] to 4e-18.
const EXP2_WIDE: [f64; 14] = [
    1.369_148_885_390_412_8e-12,
    2.567_843_599_348_820_5e-11,
    4.445_538_271_870_811_6e-10,
    7.054_911_620_801_123e-9,
    1.017_808_600_923_97e-7,
    1.321_548_679_014_431e-6,
    1.525_273_380_405_984e-5,
    1.540_353_039_338_161e-4,
    1.333_355_814_642_844_3e-3,
    9.618_129_107_628_477e-3,
    5.550_410_866_482_158e-2,
    2.402_265_069_591_007e-1,
    std::f64::consts::LN_2,
    1.0,
];

#[inline(always)]
fn exp2_f64<S: Simd>(simd: S, x: S::f64s) -> S::f64s {
    let magic = simd.splat_f64s(6_755_399_441_055_744.0); // 1.5·2^52: rounds to an integer
    let whole = simd.sub_f64s(simd.add_f64s(x, magic), magic);
    let fraction = simd.sub_f64s(x, whole);
    let mut power = simd.splat_f64s(EXP2_WIDE[0]);
    for i in 1..EXP2_WIDE.len() {
        power = simd.mul_add_e_f64s(power, fraction, simd.splat_f64s(EXP2_WIDE[i]));
    }
    // 1.5·2^20 + 1023 leaves n + 1023 in the low bits of the upper word and 0 in the lower one, so that a shift of both by 20
    // makes 2^n: there is no 64-bit shift.
    let field = simd.add_f64s(whole, simd.splat_f64s(1_572_864.0 + 1023.0));
    let exponent: S::f64s = if S::IS_SCALAR {
        let mut bits = [0u64];
        bytemuck::bytes_of_mut(&mut bits).copy_from_slice(bytemuck::bytes_of(&field));
        let bits = [bits[0] >> 32 << 52];
        bytemuck::pod_read_unaligned(bytemuck::bytes_of(&bits))
    } else {
        let words: S::u32s = bytemuck::cast(field);
        bytemuck::cast(simd.wrapping_dyn_shl_u32s(words, simd.splat_u32s(20)))
    };
    let scaled = simd.mul_f64s(power, exponent);
    simd.select_f64s(simd.less_than_f64s(x, simd.splat_f64s(-1022.0)), simd.splat_f64s(0.0), scaled)
}

/// Taylor coefficients of tanh(x) from x³ on.
const TANH: [f64; 17] = [
    -1.0 / 3.0,
    1.333_333_333_333_333_3e-1,
    -5.396_825_396_825_397e-2,
    2.186_948_853_615_520_3e-2,
    -8.863_235_529_902_197e-3,
    3.592_128_036_572_481e-3,
    -1.455_834_387_051_318_3e-3,
    5.900_274_409_455_86e-4,
    -2.391_291_142_435_524_8e-4,
    9.691_537_956_929_451e-5,
    -3.927_832_388_331_683e-5,
    1.591_890_506_932_896_4e-5,
    -6.451_689_215_655_431e-6,
    2.614_771_151_290_754_6e-6,
    -1.059_726_832_010_465_4e-6,
    4.294_911_078_273_806e-7,
    -1.740_661_896_357_164_8e-7,
];

/// tanh(x), NaN for NaN: a series for |x| < 1/2, 1 − 2/(e^2|x| + 1) beyond.
#[inline(always)]
pub(super) fn tanh<S: Simd, T: Real>(simd: S, x: T::Vector<S>) -> T::Vector<S> {
    let splat = |x: f64| T::splat(simd, T::of(x));
    let size = T::abs(simd, x);
    let square = T::vmul(simd, x, x);
    let mut series = splat(TANH[T::TANH_TERMS - 1]);
    for i in (0..T::TANH_TERMS - 1).rev() {
        series = T::mul_add(simd, series, square, splat(TANH[i]));
    }
    let near = T::mul_add(simd, T::vmul(simd, series, square), x, x);
    // Beyond 20 the result is 1 in either type, and the exponent stays in range.
    let bounded = T::select_less(simd, splat(20.0), size, splat(20.0), size);
    let power = T::exp2(simd, T::vmul(simd, bounded, splat(2.0 * std::f64::consts::LOG2_E)));
    let far = T::vsub(simd, splat(1.0), T::vdiv(simd, splat(2.0), T::vadd(simd, power, splat(1.0))));
    let signed = T::select_less(simd, x, splat(0.0), T::negative(simd, far), far);
    T::select_less(simd, size, splat(0.5), near, signed)
}

/// A function of vectors that is compiled once for each instruction set and type, however often it is used: the passes share
/// most of their parts, and inlining them everywhere multiplies the time it takes to compile.
macro_rules! outlined {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? } |$simd:ident| $body:expr) => {
        $(#[$doc])*
        pub(super) struct $name<'a, T> {
            $(pub(super) $field: $type,)*
        }

        impl<'a, T: $crate::attention::cpu::lanes::Real> pulp::WithSimd for $name<'a, T> {
            type Output = ();

            #[inline(always)]
            fn with_simd<S: pulp::Simd>(self, $simd: S) {
                let Self { $($field),* } = self;
                $body
            }
        }
    };
}
pub(super) use outlined;

/// `values` as vectors; its length is a multiple of the vector width.
#[inline(always)]
pub(super) fn vectors<S: Simd, T: Real>(values: &[T]) -> &[T::Vector<S>] {
    bytemuck::cast_slice(values)
}

/// `values` as vectors to write; its length is a multiple of the vector width.
#[inline(always)]
pub(super) fn vectors_mut<S: Simd, T: Real>(values: &mut [T]) -> &mut [T::Vector<S>] {
    bytemuck::cast_slice_mut(values)
}

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

// SAFETY: floats whose alignment equals their size: no padding, all bits valid, zero among them.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above.
unsafe impl Pod for Line {}

/// Memory a work item computes in; grows on demand and is reused by the next item of the same thread.
#[derive(Default)]
pub(super) struct Scratch(Vec<Line>);

impl Scratch {
    /// `N` disjoint parts of the given sizes, each on a cache line of its own. Their contents are left from earlier use.
    pub(super) fn parts<T: Real, const N: usize>(&mut self, sizes: [usize; N]) -> [&mut [T]; N] {
        let line = size_of::<Line>() / size_of::<T>();
        let lines: usize = sizes.iter().map(|n| n.div_ceil(line)).sum();
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; 16]));
        }
        let mut rest: &mut [T] = bytemuck::cast_slice_mut(&mut self.0);
        sizes.map(|n| {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(n.next_multiple_of(line));
            rest = tail;
            &mut part[..n]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exp2<'a>(&'a mut [f32]);

    impl WithSimd for Exp2<'_> {
        type Output = ();
        fn with_simd<S: Simd>(self, simd: S) {
            for x in vectors_mut::<S, f32>(self.0) {
                *x = exp2_f32(simd, *x);
            }
        }
    }

    #[test]
    fn every_binary16_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (got, want) = (widened(bits), f16::from_bits(bits).to_f32());
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{bits:#06x}: {got} {want}"
            );
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
        for arch in [Arch::new(), Arch::Scalar] {
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
        for arch in [Arch::new(), Arch::Scalar] {
            let mut got: Vec<f32> = payloads.iter().copied().cycle().take(16).collect();
            arch.dispatch(Exp2(&mut got));
            assert!(got.iter().all(|x| x.is_nan()), "{got:?}");
            let mut got = [-126.01, -200.0, -1e6, -1e20, f32::MIN, f32::NEG_INFINITY, -5e6, -9e6].repeat(2);
            arch.dispatch(Exp2(&mut got));
            assert!(got.iter().all(|x| x.to_bits() == 0), "{got:?}");
        }
    }

    struct Wide<'a>(&'a mut [f64], bool);

    impl WithSimd for Wide<'_> {
        type Output = ();
        fn with_simd<S: Simd>(self, simd: S) {
            for x in vectors_mut::<S, f64>(self.0) {
                *x = if self.1 { tanh::<S, f64>(simd, *x) } else { exp2_f64(simd, *x) };
            }
        }
    }

    struct Tanh<'a>(&'a mut [f32]);

    impl WithSimd for Tanh<'_> {
        type Output = ();
        fn with_simd<S: Simd>(self, simd: S) {
            for x in vectors_mut::<S, f32>(self.0) {
                *x = tanh::<S, f32>(simd, *x);
            }
        }
    }

    #[test]
    fn wide_exp2_and_tanh_are_within_two_ulp() {
        let mut inputs: Vec<f64> = (0..40_000).map(|i| (f64::from(i) - 20_000.0) * 0.0509).collect();
        inputs.extend((0..4000).map(|i| (f64::from(i) - 2000.0) * 0.000_61));
        inputs.extend([0.0, -1021.9, -1023.0, f64::NEG_INFINITY, f64::NAN, 126.9, 0.5, -0.5]);
        inputs.resize(inputs.len().next_multiple_of(16), 0.25);
        for arch in [Arch::new(), Arch::Scalar] {
            let mut got = inputs.clone();
            arch.dispatch(Wide(&mut got, false));
            for (&x, &y) in inputs.iter().zip(&got).filter(|(x, _)| !(**x > 127.0)) {
                let want = if x < -1022.0 { 0.0 } else { x.exp2() };
                assert!((y - want).abs() <= 4.5e-16 * want || (x.is_nan() && y.is_nan()), "2^{x} = {y:e}");
            }
            let mut got = inputs.clone();
            arch.dispatch(Wide(&mut got, true));
            for (&x, &y) in inputs.iter().zip(&got) {
                let want = x.tanh();
                assert!(
                    (y - want).abs() <= 7e-16 * want.abs() || (x.is_nan() && y.is_nan()),
                    "tanh {x} = {y:e}"
                );
            }
            let mut got: Vec<f32> = inputs.iter().map(|&x| x as f32).collect();
            arch.dispatch(Tanh(&mut got));
            for (&x, &y) in inputs.iter().zip(&got) {
                let (want, y) = (f64::from(x as f32).tanh(), f64::from(y));
                assert!(
                    (y - want).abs() <= 2.5e-7 * want.abs() || (x.is_nan() && y.is_nan()),
                    "tanh {x} = {y:e}"
                );
            }
        }
    }
}
