//! Sixteen f32 in the lanes of one vector: plain arrays, compiled for each instruction set by `pulp`'s dispatch.

use bytemuck::Zeroable;

/// Lanes of a [`Lanes`].
pub(crate) const WIDTH: usize = 16;

/// Sixteen f32.
#[derive(Clone, Copy, Debug, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Lanes(pub(crate) [f32; WIDTH]);

/// Sixteen complex amplitudes.
#[derive(Clone, Copy, Debug, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Chunk {
    pub(crate) re: Lanes,
    pub(crate) im: Lanes,
}

impl Lanes {
    pub(crate) const ZERO: Self = Self([0.0; WIDTH]);
    pub(crate) const ONE: Self = Self([1.0; WIDTH]);

    #[inline(always)]
    pub(crate) fn splat(x: f32) -> Self {
        Self([x; WIDTH])
    }

    #[inline(always)]
    fn zip(self, b: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut out = [0.0; WIDTH];
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
        let mut out = [0.0; WIDTH];
        for i in 0..WIDTH {
            out[i] = self.0[i].mul_add(b.0[i], c.0[i]);
        }
        Self(out)
    }

    /// `c − self·b`
    #[inline(always)]
    pub(crate) fn fnma(self, b: Self, c: Self) -> Self {
        let mut out = [0.0; WIDTH];
        for i in 0..WIDTH {
            out[i] = (-self.0[i]).mul_add(b.0[i], c.0[i]);
        }
        Self(out)
    }

    /// Lane i takes lane `i ^ FLIP`.
    #[inline(always)]
    fn xor<const FLIP: usize>(self) -> Self {
        let mut out = [0.0; WIDTH];
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
        let mut out = [0.0; WIDTH];
        for i in 0..WIDTH {
            out[i] = if mask >> i & 1 == 1 { self.0[i] } else { other.0[i] };
        }
        Self(out)
    }

    /// Sum of the lanes, pairwise.
    pub(crate) fn sum(self) -> f32 {
        let mut v = self.0;
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                v[i] += v[i + half];
            }
        }
        v[0]
    }
}

impl Chunk {
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
    pub(crate) fn norm(self) -> Lanes {
        self.re.fma(self.re, self.im.mul(self.im))
    }
}

/// Sine and cosine of sixteen angles in radians, reduced in f64 so that large angles lose nothing.
///
/// # Source
/// Degree 7 and 8 minimax polynomials on |x| ≤ π/4 as in Cephes `sinf`, `cosf`; error below 1 ulp.
#[inline(always)]
pub(crate) fn sin_cos(angles: &[f64; WIDTH]) -> (Lanes, Lanes) {
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
