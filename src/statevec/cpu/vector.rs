//! Sixteen numbers in registers: one AVX-512 register (two in f64), two or four AVX ones, or an array left to the compiler.
//!
//! The loops over gates are written once, for any [`Isa`]. Arrays alone do not do: the compiler vectorises across the
//! registers of a sweep instead of across their lanes.

use super::lanes::{Chunk, Float, Lanes};
use std::marker::PhantomData;

/// An instruction set, proven to be there by the value.
pub(crate) trait Isa: Copy {
    type F: Float;
    /// Sixteen of them.
    type Vector: Copy;
    fn load(self, lanes: &Lanes<Self::F>) -> Self::Vector;
    fn store(self, v: Self::Vector) -> Lanes<Self::F>;
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a·b + c`
    fn fma(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// `c − a·b`
    fn fnma(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// `a` in the lanes of `mask`, `b` elsewhere.
    fn select(self, mask: u32, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// Lane i takes lane `i ^ flip`.
    #[inline(always)]
    fn flip(self, flip: u32, v: Self::Vector) -> Self::Vector {
        self.load(&self.store(v).flipped(flip))
    }
}

/// Any machine.
#[derive(Clone, Copy)]
pub(crate) struct Portable<F>(PhantomData<F>);

impl<F: Float> Isa for Portable<F> {
    type F = F;
    type Vector = Lanes<F>;

    #[inline(always)]
    fn load(self, lanes: &Lanes<F>) -> Lanes<F> {
        *lanes
    }

    #[inline(always)]
    fn store(self, v: Lanes<F>) -> Lanes<F> {
        v
    }

    #[inline(always)]
    fn add(self, a: Lanes<F>, b: Lanes<F>) -> Lanes<F> {
        a.add(b)
    }

    #[inline(always)]
    fn sub(self, a: Lanes<F>, b: Lanes<F>) -> Lanes<F> {
        a.sub(b)
    }

    #[inline(always)]
    fn mul(self, a: Lanes<F>, b: Lanes<F>) -> Lanes<F> {
        a.mul(b)
    }

    #[inline(always)]
    fn fma(self, a: Lanes<F>, b: Lanes<F>, c: Lanes<F>) -> Lanes<F> {
        a.fma(b, c)
    }

    #[inline(always)]
    fn fnma(self, a: Lanes<F>, b: Lanes<F>, c: Lanes<F>) -> Lanes<F> {
        a.fnma(b, c)
    }

    #[inline(always)]
    fn select(self, mask: u32, a: Lanes<F>, b: Lanes<F>) -> Lanes<F> {
        a.select(mask, b)
    }
}

/// An instruction set in double precision.
#[derive(Clone, Copy)]
pub(crate) struct Double<S>(S);

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Double, Isa, Lanes};
    use pulp::x86::{V3, V4};
    use pulp::{Simd as _, b8, b16, cast, f32x8, f32x16, f64x4, f64x8, i32x16, i64x8};

    /// Row m: every lane number with the bits of m flipped.
    static FLIPS: [[i32; 16]; 16] = {
        let (mut table, mut m) = ([[0; 16]; 16], 0);
        while m < 16 {
            let mut lane = 0;
            while lane < 16 {
                table[m][lane] = (lane ^ m) as i32;
                lane += 1;
            }
            m += 1;
        }
        table
    };

    /// The same for halves of eight.
    static HALF_FLIPS: [[i64; 8]; 8] = {
        let (mut table, mut m) = ([[0; 8]; 8], 0);
        while m < 8 {
            let mut lane = 0;
            while lane < 8 {
                table[m][lane] = (lane ^ m) as i64;
                lane += 1;
            }
            m += 1;
        }
        table
    };

    impl Isa for V4 {
        type F = f32;
        type Vector = f32x16;

        #[inline(always)]
        fn load(self, lanes: &Lanes<f32>) -> f32x16 {
            cast(lanes.0)
        }

        #[inline(always)]
        fn store(self, v: f32x16) -> Lanes<f32> {
            Lanes(cast(v))
        }

        #[inline(always)]
        fn add(self, a: f32x16, b: f32x16) -> f32x16 {
            self.add_f32s(a, b)
        }

        #[inline(always)]
        fn sub(self, a: f32x16, b: f32x16) -> f32x16 {
            self.sub_f32s(a, b)
        }

        #[inline(always)]
        fn mul(self, a: f32x16, b: f32x16) -> f32x16 {
            self.mul_f32s(a, b)
        }

        #[inline(always)]
        fn fma(self, a: f32x16, b: f32x16, c: f32x16) -> f32x16 {
            self.mul_add_f32s(a, b, c)
        }

        #[inline(always)]
        fn fnma(self, a: f32x16, b: f32x16, c: f32x16) -> f32x16 {
            self.negate_mul_add_f32s(a, b, c)
        }

        #[inline(always)]
        fn select(self, mask: u32, a: f32x16, b: f32x16) -> f32x16 {
            self.select_f32s(b16(mask as u16), a, b)
        }

        #[inline(always)]
        fn flip(self, flip: u32, v: f32x16) -> f32x16 {
            let order: i32x16 = cast(FLIPS[flip as usize & 15]);
            cast(self.avx512f._mm512_permutexvar_ps(cast(order), cast(v)))
        }
    }

    impl Isa for V3 {
        type F = f32;
        type Vector = [f32x8; 2];

        #[inline(always)]
        fn load(self, lanes: &Lanes<f32>) -> [f32x8; 2] {
            cast(lanes.0)
        }

        #[inline(always)]
        fn store(self, v: [f32x8; 2]) -> Lanes<f32> {
            Lanes(cast(v))
        }

        #[inline(always)]
        fn add(self, a: [f32x8; 2], b: [f32x8; 2]) -> [f32x8; 2] {
            [self.add_f32s(a[0], b[0]), self.add_f32s(a[1], b[1])]
        }

        #[inline(always)]
        fn sub(self, a: [f32x8; 2], b: [f32x8; 2]) -> [f32x8; 2] {
            [self.sub_f32s(a[0], b[0]), self.sub_f32s(a[1], b[1])]
        }

        #[inline(always)]
        fn mul(self, a: [f32x8; 2], b: [f32x8; 2]) -> [f32x8; 2] {
            [self.mul_f32s(a[0], b[0]), self.mul_f32s(a[1], b[1])]
        }

        #[inline(always)]
        fn fma(self, a: [f32x8; 2], b: [f32x8; 2], c: [f32x8; 2]) -> [f32x8; 2] {
            [self.mul_add_f32s(a[0], b[0], c[0]), self.mul_add_f32s(a[1], b[1], c[1])]
        }

        #[inline(always)]
        fn fnma(self, a: [f32x8; 2], b: [f32x8; 2], c: [f32x8; 2]) -> [f32x8; 2] {
            [self.negate_mul_add_f32s(a[0], b[0], c[0]), self.negate_mul_add_f32s(a[1], b[1], c[1])]
        }

        #[inline(always)]
        fn select(self, mask: u32, a: [f32x8; 2], b: [f32x8; 2]) -> [f32x8; 2] {
            self.load(&self.store(a).select(mask, self.store(b)))
        }
    }

    impl Isa for Double<V4> {
        type F = f64;
        type Vector = [f64x8; 2];

        #[inline(always)]
        fn load(self, lanes: &Lanes<f64>) -> [f64x8; 2] {
            cast(lanes.0)
        }

        #[inline(always)]
        fn store(self, v: [f64x8; 2]) -> Lanes<f64> {
            Lanes(cast(v))
        }

        #[inline(always)]
        fn add(self, a: [f64x8; 2], b: [f64x8; 2]) -> [f64x8; 2] {
            [self.0.add_f64s(a[0], b[0]), self.0.add_f64s(a[1], b[1])]
        }

        #[inline(always)]
        fn sub(self, a: [f64x8; 2], b: [f64x8; 2]) -> [f64x8; 2] {
            [self.0.sub_f64s(a[0], b[0]), self.0.sub_f64s(a[1], b[1])]
        }

        #[inline(always)]
        fn mul(self, a: [f64x8; 2], b: [f64x8; 2]) -> [f64x8; 2] {
            [self.0.mul_f64s(a[0], b[0]), self.0.mul_f64s(a[1], b[1])]
        }

        #[inline(always)]
        fn fma(self, a: [f64x8; 2], b: [f64x8; 2], c: [f64x8; 2]) -> [f64x8; 2] {
            [self.0.mul_add_f64s(a[0], b[0], c[0]), self.0.mul_add_f64s(a[1], b[1], c[1])]
        }

        #[inline(always)]
        fn fnma(self, a: [f64x8; 2], b: [f64x8; 2], c: [f64x8; 2]) -> [f64x8; 2] {
            [self.0.negate_mul_add_f64s(a[0], b[0], c[0]), self.0.negate_mul_add_f64s(a[1], b[1], c[1])]
        }

        #[inline(always)]
        fn select(self, mask: u32, a: [f64x8; 2], b: [f64x8; 2]) -> [f64x8; 2] {
            [
                self.0.select_f64s(b8(mask as u8), a[0], b[0]),
                self.0.select_f64s(b8((mask >> 8) as u8), a[1], b[1]),
            ]
        }

        #[inline(always)]
        fn flip(self, flip: u32, v: [f64x8; 2]) -> [f64x8; 2] {
            let order: i64x8 = cast(HALF_FLIPS[flip as usize & 7]);
            let half =
                |v: f64x8| -> f64x8 { cast(self.0.avx512f._mm512_permutexvar_pd(cast(order), cast(v))) };
            if flip & 8 == 0 { [half(v[0]), half(v[1])] } else { [half(v[1]), half(v[0])] }
        }
    }

    impl Isa for Double<V3> {
        type F = f64;
        type Vector = [f64x4; 4];

        #[inline(always)]
        fn load(self, lanes: &Lanes<f64>) -> [f64x4; 4] {
            cast(lanes.0)
        }

        #[inline(always)]
        fn store(self, v: [f64x4; 4]) -> Lanes<f64> {
            Lanes(cast(v))
        }

        #[inline(always)]
        fn add(self, a: [f64x4; 4], b: [f64x4; 4]) -> [f64x4; 4] {
            [
                self.0.add_f64s(a[0], b[0]),
                self.0.add_f64s(a[1], b[1]),
                self.0.add_f64s(a[2], b[2]),
                self.0.add_f64s(a[3], b[3]),
            ]
        }

        #[inline(always)]
        fn sub(self, a: [f64x4; 4], b: [f64x4; 4]) -> [f64x4; 4] {
            [
                self.0.sub_f64s(a[0], b[0]),
                self.0.sub_f64s(a[1], b[1]),
                self.0.sub_f64s(a[2], b[2]),
                self.0.sub_f64s(a[3], b[3]),
            ]
        }

        #[inline(always)]
        fn mul(self, a: [f64x4; 4], b: [f64x4; 4]) -> [f64x4; 4] {
            [
                self.0.mul_f64s(a[0], b[0]),
                self.0.mul_f64s(a[1], b[1]),
                self.0.mul_f64s(a[2], b[2]),
                self.0.mul_f64s(a[3], b[3]),
            ]
        }

        #[inline(always)]
        fn fma(self, a: [f64x4; 4], b: [f64x4; 4], c: [f64x4; 4]) -> [f64x4; 4] {
            [
                self.0.mul_add_f64s(a[0], b[0], c[0]),
                self.0.mul_add_f64s(a[1], b[1], c[1]),
                self.0.mul_add_f64s(a[2], b[2], c[2]),
                self.0.mul_add_f64s(a[3], b[3], c[3]),
            ]
        }

        #[inline(always)]
        fn fnma(self, a: [f64x4; 4], b: [f64x4; 4], c: [f64x4; 4]) -> [f64x4; 4] {
            [
                self.0.negate_mul_add_f64s(a[0], b[0], c[0]),
                self.0.negate_mul_add_f64s(a[1], b[1], c[1]),
                self.0.negate_mul_add_f64s(a[2], b[2], c[2]),
                self.0.negate_mul_add_f64s(a[3], b[3], c[3]),
            ]
        }

        #[inline(always)]
        fn select(self, mask: u32, a: [f64x4; 4], b: [f64x4; 4]) -> [f64x4; 4] {
            self.load(&self.store(a).select(mask, self.store(b)))
        }
    }
}

/// Work written for any instruction set.
pub(crate) trait Routine {
    type F: Float;
    fn run<S: Isa<F = Self::F>>(self, isa: S);
}

/// Runs a routine on the best instruction set of this machine.
pub(crate) fn dispatch<R: Routine>(routine: R) {
    R::F::dispatch(routine);
}

/// [`dispatch`] in single precision.
pub(super) fn dispatch_f32(routine: impl Routine<F = f32>) {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(isa) = pulp::x86::V4::try_new() {
            return isa.vectorize(On(routine, isa));
        }
        if let Some(isa) = pulp::x86::V3::try_new() {
            return isa.vectorize(On(routine, isa));
        }
    }
    pulp::Arch::new().dispatch(On(routine, Portable(PhantomData)));
}

/// [`dispatch`] in double precision.
pub(super) fn dispatch_f64(routine: impl Routine<F = f64>) {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(isa) = pulp::x86::V4::try_new() {
            return isa.vectorize(On(routine, Double(isa)));
        }
        if let Some(isa) = pulp::x86::V3::try_new() {
            return isa.vectorize(On(routine, Double(isa)));
        }
    }
    pulp::Arch::new().dispatch(On(routine, Portable(PhantomData)));
}

struct On<R, S>(R, S);

impl<R: Routine, S: Isa<F = R::F>> pulp::NullaryFnOnce for On<R, S> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.0.run(self.1);
    }
}

/// Sixteen numbers in registers.
#[derive(Clone, Copy)]
pub(crate) struct Real<S: Isa> {
    isa: S,
    v: S::Vector,
}

/// Sixteen complex numbers in registers.
#[derive(Clone, Copy)]
pub(crate) struct Complex<S: Isa> {
    pub(crate) re: Real<S>,
    pub(crate) im: Real<S>,
}

impl<S: Isa> Real<S> {
    #[inline(always)]
    pub(crate) fn load(isa: S, lanes: &Lanes<S::F>) -> Self {
        Self { isa, v: isa.load(lanes) }
    }

    #[inline(always)]
    pub(crate) fn store(self) -> Lanes<S::F> {
        self.isa.store(self.v)
    }

    #[inline(always)]
    pub(crate) fn zero(isa: S) -> Self {
        Self::load(isa, &Lanes::ZERO)
    }

    #[inline(always)]
    pub(crate) fn add(self, b: Self) -> Self {
        Self { isa: self.isa, v: self.isa.add(self.v, b.v) }
    }

    #[inline(always)]
    pub(crate) fn sub(self, b: Self) -> Self {
        Self { isa: self.isa, v: self.isa.sub(self.v, b.v) }
    }

    #[inline(always)]
    pub(crate) fn negated(self) -> Self {
        Self::zero(self.isa).sub(self)
    }

    #[inline(always)]
    pub(crate) fn mul(self, b: Self) -> Self {
        Self { isa: self.isa, v: self.isa.mul(self.v, b.v) }
    }

    /// `self·b + c`
    #[inline(always)]
    pub(crate) fn fma(self, b: Self, c: Self) -> Self {
        Self { isa: self.isa, v: self.isa.fma(self.v, b.v, c.v) }
    }

    /// `c − self·b`
    #[inline(always)]
    pub(crate) fn fnma(self, b: Self, c: Self) -> Self {
        Self { isa: self.isa, v: self.isa.fnma(self.v, b.v, c.v) }
    }

    /// Lane i takes lane `i ^ flip`.
    #[inline(always)]
    pub(crate) fn flipped(self, flip: u32) -> Self {
        if flip == 0 { self } else { Self { isa: self.isa, v: self.isa.flip(flip, self.v) } }
    }

    /// `self` in the lanes of `mask`, `other` elsewhere.
    #[inline(always)]
    pub(crate) fn select(self, mask: u32, other: Self) -> Self {
        Self { isa: self.isa, v: self.isa.select(mask, self.v, other.v) }
    }
}

impl<S: Isa> Complex<S> {
    #[inline(always)]
    pub(crate) fn load(isa: S, chunk: &Chunk<S::F>) -> Self {
        Self { re: Real::load(isa, &chunk.re), im: Real::load(isa, &chunk.im) }
    }

    #[inline(always)]
    pub(crate) fn store(self) -> Chunk<S::F> {
        Chunk { re: self.re.store(), im: self.im.store() }
    }

    #[inline(always)]
    pub(crate) fn zero(isa: S) -> Self {
        Self { re: Real::zero(isa), im: Real::zero(isa) }
    }

    #[inline(always)]
    pub(crate) fn conj(self) -> Self {
        Self { re: self.re, im: self.im.negated() }
    }

    /// `c · self` for a complex factor per lane.
    #[inline(always)]
    pub(crate) fn times(self, c: Self) -> Self {
        Self { re: c.im.fnma(self.im, c.re.mul(self.re)), im: c.im.fma(self.re, c.re.mul(self.im)) }
    }

    /// `conj(c)·self`
    #[inline(always)]
    pub(crate) fn times_conj(self, c: Self) -> Self {
        Self { re: c.im.fma(self.im, c.re.mul(self.re)), im: c.im.fnma(self.re, c.re.mul(self.im)) }
    }

    /// `self + c·x`
    #[inline(always)]
    pub(crate) fn plus_times(self, c: Self, x: Self) -> Self {
        Self { re: c.im.fnma(x.im, c.re.fma(x.re, self.re)), im: c.im.fma(x.re, c.re.fma(x.im, self.im)) }
    }

    #[inline(always)]
    pub(crate) fn flipped(self, flip: u32) -> Self {
        Self { re: self.re.flipped(flip), im: self.im.flipped(flip) }
    }

    #[inline(always)]
    pub(crate) fn select(self, mask: u32, other: Self) -> Self {
        Self { re: self.re.select(mask, other.re), im: self.im.select(mask, other.im) }
    }
}

/// The coefficients of one operation.
#[derive(Clone, Copy)]
pub(crate) struct Coefficients<'a, S: Isa> {
    pub(crate) isa: S,
    pub(crate) lanes: &'a [Lanes<S::F>],
}

impl<S: Isa> Coefficients<'_, S> {
    #[inline(always)]
    pub(crate) fn real(&self, at: usize) -> Real<S> {
        Real::load(self.isa, &self.lanes[at])
    }

    /// The complex number in vectors `at` and `at + 1`.
    #[inline(always)]
    pub(crate) fn complex(&self, at: usize) -> Complex<S> {
        Complex { re: self.real(at), im: self.real(at + 1) }
    }
}
