//! Sixteen numbers in the lanes of one vector: plain arrays, compiled for each instruction set by `pulp`'s dispatch.

use super::vector::Routine;
use crate::dtype::Element;
use bytemuck::Zeroable;
use std::cell::RefCell;
use std::fmt::Debug;
use std::ops::{Add, Div, Mul, Neg, Sub};
use std::thread::LocalKey;

/// Lanes of a [`Lanes`].
pub(crate) const WIDTH: usize = 16;

/// The precision of a run: f32 for c64 states, f64 for c128.
pub(crate) trait Float:
    Element
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    /// The matching complex element type.
    type Complex: Element;
    const ZERO: Self;
    const ONE: Self;
    fn of(x: f64) -> Self;
    fn wide(self) -> f64;
    /// `self·b + c`
    fn fused(self, b: Self, c: Self) -> Self;
    /// Sine and cosine of angles in radians.
    fn sin_cos(angles: &[f64; WIDTH]) -> (Lanes<Self>, Lanes<Self>);
    /// Runs a routine on the best instruction set of this machine.
    fn dispatch<R: Routine<F = Self>>(routine: R);
    /// A thread's memory for a block of states or a tile, kept from call to call.
    fn scratch() -> &'static LocalKey<RefCell<Vec<Chunk<Self>>>>;
}

thread_local! {
    static SINGLE: RefCell<Vec<Chunk<f32>>> = const { RefCell::new(Vec::new()) };
    static DOUBLE: RefCell<Vec<Chunk<f64>>> = const { RefCell::new(Vec::new()) };
}

impl Float for f32 {
    type Complex = num_complex::Complex32;
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;

    #[inline(always)]
    fn of(x: f64) -> Self {
        x as Self
    }

    #[inline(always)]
    fn wide(self) -> f64 {
        self.into()
    }

    #[inline(always)]
    fn fused(self, b: Self, c: Self) -> Self {
        self.mul_add(b, c)
    }

    #[inline(always)]
    fn sin_cos(angles: &[f64; WIDTH]) -> (Lanes<Self>, Lanes<Self>) {
        sin_cos(angles)
    }

    fn dispatch<R: Routine<F = Self>>(routine: R) {
        super::vector::dispatch_f32(routine);
    }

    fn scratch() -> &'static LocalKey<RefCell<Vec<Chunk<Self>>>> {
        &SINGLE
    }
}

impl Float for f64 {
    type Complex = num_complex::Complex64;
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;

    #[inline(always)]
    fn of(x: f64) -> Self {
        x
    }

    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }

    #[inline(always)]
    fn fused(self, b: Self, c: Self) -> Self {
        self.mul_add(b, c)
    }

    #[inline(always)]
    fn sin_cos(angles: &[f64; WIDTH]) -> (Lanes<Self>, Lanes<Self>) {
        (Lanes(angles.map(f64::sin)), Lanes(angles.map(f64::cos)))
    }

    fn dispatch<R: Routine<F = Self>>(routine: R) {
        super::vector::dispatch_f64(routine);
    }

    fn scratch() -> &'static LocalKey<RefCell<Vec<Chunk<Self>>>> {
        &DOUBLE
    }
}

/// Sixteen numbers.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Lanes<F>(pub(crate) [F; WIDTH]);

/// Sixteen complex amplitudes.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Chunk<F> {
    pub(crate) re: Lanes<F>,
    pub(crate) im: Lanes<F>,
}

// SAFETY: an array of floats, for which all bits 0 is a value; padding, if there were any, may hold anything.
#[allow(unsafe_code)]
unsafe impl<F: Float> Zeroable for Lanes<F> {}
// SAFETY: two of the above.
#[allow(unsafe_code)]
unsafe impl<F: Float> Zeroable for Chunk<F> {}

impl<F: Float> Lanes<F> {
    pub(crate) const ZERO: Self = Self([F::ZERO; WIDTH]);
    pub(crate) const ONE: Self = Self([F::ONE; WIDTH]);

    #[inline(always)]
    pub(crate) fn splat(x: F) -> Self {
        Self([x; WIDTH])
    }

    #[inline(always)]
    fn zip(self, b: Self, f: impl Fn(F, F) -> F) -> Self {
        let mut out = [F::ZERO; WIDTH];
        for i in 0..WIDTH {
            out[i] = f(self.0[i], b.0[i]);
        }
        Self(out)
    }

    #[inline(always)]
    pub(crate) fn add(self, b: Self) -> Self {
        self.zip(b, |x, y| x + y)
    }

    #[inline(always)]
    pub(crate) fn sub(self, b: Self) -> Self {
        self.zip(b, |x, y| x - y)
    }

    #[inline(always)]
    pub(crate) fn mul(self, b: Self) -> Self {
        self.zip(b, |x, y| x * y)
    }

    /// `self·b + c`
    #[inline(always)]
    pub(crate) fn fma(self, b: Self, c: Self) -> Self {
        let mut out = [F::ZERO; WIDTH];
        for i in 0..WIDTH {
            out[i] = self.0[i].fused(b.0[i], c.0[i]);
        }
        Self(out)
    }

    /// `c − self·b`
    #[inline(always)]
    pub(crate) fn fnma(self, b: Self, c: Self) -> Self {
        let mut out = [F::ZERO; WIDTH];
        for i in 0..WIDTH {
            out[i] = (-self.0[i]).fused(b.0[i], c.0[i]);
        }
        Self(out)
    }

    /// Lane i takes lane `i ^ FLIP`.
    #[inline(always)]
    fn xor<const FLIP: usize>(self) -> Self {
        let mut out = [F::ZERO; WIDTH];
        for i in 0..WIDTH {
            out[i] = self.0[i ^ FLIP];
        }
        Self(out)
    }

    /// Lane i takes lane `i ^ flip`.
    #[inline(always)]
    pub(crate) fn flipped(mut self, flip: u32) -> Self {
        if flip & 1 != 0 {
            self = self.xor::<1>();
        }
        if flip & 2 != 0 {
            self = self.xor::<2>();
        }
        if flip & 4 != 0 {
            self = self.xor::<4>();
        }
        if flip & 8 != 0 {
            self = self.xor::<8>();
        }
        self
    }

    /// `self` in the lanes of `mask`, `other` elsewhere.
    #[inline(always)]
    pub(crate) fn select(self, mask: u32, other: Self) -> Self {
        let mut out = [F::ZERO; WIDTH];
        for i in 0..WIDTH {
            out[i] = if mask >> i & 1 == 1 { self.0[i] } else { other.0[i] };
        }
        Self(out)
    }

    /// Sum of the lanes, pairwise.
    pub(crate) fn sum(self) -> F {
        let mut v = self.0;
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                v[i] = v[i] + v[i + half];
            }
        }
        v[0]
    }
}

impl<F: Float> Chunk<F> {
    pub(crate) const ZERO: Self = Self { re: Lanes::ZERO, im: Lanes::ZERO };

    /// `c · self` with every product rounded: for code outside the dispatched loops, where a fused product may be a call.
    pub(crate) fn times_rounded(self, c: Self) -> Self {
        Self { re: c.re.mul(self.re).sub(c.im.mul(self.im)), im: c.re.mul(self.im).add(c.im.mul(self.re)) }
    }

    #[inline(always)]
    pub(crate) fn flipped(self, flip: u32) -> Self {
        Self { re: self.re.flipped(flip), im: self.im.flipped(flip) }
    }

    /// |amplitude|² per lane.
    #[inline(always)]
    pub(crate) fn norm(self) -> Lanes<F> {
        self.re.fma(self.re, self.im.mul(self.im))
    }
}

/// Sine and cosine of sixteen angles in radians, reduced in f64 so that large angles lose nothing.
///
/// # Source
/// Degree 7 and 8 minimax polynomials on |x| ≤ π/4 as in Cephes `sinf`, `cosf`; error below 1 ulp.
#[inline(always)]
fn sin_cos(angles: &[f64; WIDTH]) -> (Lanes<f32>, Lanes<f32>) {
    let (mut sine, mut cosine) = ([0.0f32; WIDTH], [0.0f32; WIDTH]);
    for i in 0..WIDTH {
        let turns = (angles[i] * std::f64::consts::FRAC_2_PI).round_ties_even();
        let rest = (-turns).mul_add(std::f64::consts::FRAC_PI_2, angles[i]);
        // π/2 − fl(π/2), so that the reduction is exact to f32 for any |angle| below 2⁴⁰.
        let x = (-turns).mul_add(6.123_233_995_736_766e-17, rest) as f32;
        let square = x * x;
        let s = (x * square)
            .mul_add(square.mul_add(square.mul_add(-1.951_529_6e-4, 8.332_161e-3), -1.666_665_5e-1), x);
        let tail = square.mul_add(square.mul_add(2.443_315_7e-5, -1.388_731_6e-3), 4.166_664_6e-2);
        let c = (square * square).mul_add(tail, square.mul_add(-0.5, 1.0));
        // The low bits of turns + 1.5·2⁵² are those of the integer.
        let quadrant = (turns + 6_755_399_441_055_744.0).to_bits() as u32;
        let (a, b) = if quadrant & 1 == 0 { (s, c) } else { (c, s) };
        sine[i] = if quadrant & 2 == 0 { a } else { -a };
        cosine[i] = if (quadrant.wrapping_add(1)) & 2 == 0 { b } else { -b };
    }
    (Lanes(sine), Lanes(cosine))
}
