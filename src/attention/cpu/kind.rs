//! How each score is made of products, and its gradients from those of the score.
//!
//! With x streamed and y packed (keys and queries, either way round), a tile holds raw scores r; the score is scale·r:
//!
//! ```text
//! dot       r = ⟨x, y⟩                       dy = Σ g·x
//! cosine    r = ⟨x, y⟩·x'·y',  x' = 1/‖x‖    dy = y'·(Σ g·x'·x − y·y'·Σ g·r)
//! Gaussian  r = ‖x‖² + ‖y‖² − 2⟨x, y⟩        dy = 2·(y·Σ g − Σ g·x)
//! fidelity  r = re² + im²,  ⟨q|k⟩ = re + i·im   dy = Σ 2g·re·x ± J·Σ 2g·im·x,  J(a, b) = (b, −a)
//! additive  r = Σ_d w_d·tanh(x_d + y_d)       dy_d = w_d·Σ g·(1 − tanh²)
//! ```
//!
//! where g is the gradient of the loss by the raw score and sums run over the streamed rows.

use super::lanes::{Real, outlined, tanh, vectors, vectors_mut};
use super::product::{Left, Product, Write, product};
use super::sight::Streamed;
use super::source::Head;
use super::views::{Rows, RowsMut};
use pulp::Simd;

/// Dimensions of one product: the packed operand of a chunk stays in the second-level cache.
const DIMS: usize = 1024;

#[derive(Clone, Copy)]
pub(super) enum Kind<'a, T> {
    /// Of real vectors, or the real part of the product of complex ones.
    Dot,
    Cosine,
    Gaussian,
    Fidelity,
    /// Bahdanau's, with a head's weights.
    Additive(&'a [T]),
}

/// The packed operand: `[dim][step]`, and for complex products its multiple by ±i.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a, T> {
    pub(super) plain: &'a [T],
    pub(super) turned: &'a [T],
    /// A norm term a column, see [`Kind::norm`].
    pub(super) terms: &'a [T],
}

impl<T: Real> Kind<'_, T> {
    pub(super) fn is_dot(&self) -> bool {
        matches!(self, Self::Dot)
    }

    pub(super) fn is_complex(&self) -> bool {
        matches!(self, Self::Fidelity)
    }

    /// Whether every query and key has a norm term.
    pub(super) fn has_norms(&self) -> bool {
        matches!(self, Self::Cosine | Self::Gaussian)
    }

    /// 1/‖x‖ (0 where the norm is 0) for a cosine, ‖x‖² for a Gaussian.
    pub(super) fn norm(&self, x: &[T]) -> T {
        let square = square(x);
        match self {
            Self::Cosine if square == 0.0 => T::ZERO,
            Self::Cosine => T::of(1.0 / square.sqrt()),
            _ => T::of(square),
        }
    }

    /// [`Kind::norm`] of every row of `head`.
    pub(super) fn norms(&self, head: &Head<'_, T>, out: &mut [T]) {
        let mut row = vec![T::ZERO; head.dim()];
        for (i, out) in out.iter_mut().enumerate().take(head.rows()) {
            head.read(i, &mut row);
            *out = self.norm(&row);
        }
    }

    /// Packed complex vectors times ±i, so that ⟨streamed, turned⟩ is the imaginary part of ⟨q|k⟩.
    #[inline(always)]
    pub(super) fn turn(streamed: Streamed, plain: &[T], turned: &mut [T], step: usize) {
        // Im⟨q|k⟩ = Σ q_re·k_im − q_im·k_re
        let (re, im) = if streamed == Streamed::Keys { (-T::ONE, T::ONE) } else { (T::ONE, -T::ONE) };
        for (from, to) in plain.chunks_exact(2 * step).zip(turned.chunks_exact_mut(2 * step)) {
            let ((from_re, from_im), (to_re, to_im)) = (from.split_at(step), to.split_at_mut(step));
            to_re.iter_mut().zip(from_im).for_each(|(to, &x)| *to = re * x);
            to_im.iter_mut().zip(from_re).for_each(|(to, &x)| *to = im * x);
        }
    }

    /// Raw scores of a tile. `terms`: norm terms of the streamed rows. `parts`: real and imaginary parts, of the tile's size,
    /// for complex products.
    #[inline(always)]
    pub(super) fn raw<S: Simd>(
        &self,
        simd: S,
        streamed: Rows<'_, T>,
        terms: &[T],
        packed: Packed<'_, T>,
        scores: &mut [T],
        step: usize,
        parts: [&mut [T]; 2],
    ) {
        match self {
            Self::Dot => outer(simd, streamed, packed.plain, scores, step),
            kind => simd.vectorize(Raw { kind: *kind, streamed, terms, packed, scores, step, parts }),
        }
    }

    #[inline(always)]
    fn raw_inline<S: Simd>(
        &self,
        simd: S,
        streamed: Rows<'_, T>,
        terms: &[T],
        packed: Packed<'_, T>,
        scores: &mut [T],
        step: usize,
        parts: [&mut [T]; 2],
    ) {
        let width = step / T::lanes::<S>();
        match self {
            Self::Dot => {}
            Self::Cosine => {
                outer(simd, streamed, packed.plain, scores, step);
                for (row, &term) in vectors_mut::<S, T>(scores).chunks_exact_mut(width).zip(terms) {
                    let term = T::splat(simd, term);
                    for (x, &other) in row.iter_mut().zip(vectors::<S, T>(packed.terms)) {
                        *x = T::vmul(simd, T::vmul(simd, *x, term), other);
                    }
                }
            }
            Self::Gaussian => {
                outer(simd, streamed, packed.plain, scores, step);
                let minus_two = T::splat(simd, T::of(-2.0));
                for (row, &term) in vectors_mut::<S, T>(scores).chunks_exact_mut(width).zip(terms) {
                    let term = T::splat(simd, term);
                    for (x, &other) in row.iter_mut().zip(vectors::<S, T>(packed.terms)) {
                        *x = T::mul_add(simd, minus_two, *x, T::vadd(simd, term, other));
                    }
                }
            }
            Self::Fidelity => {
                let [re, im] = parts;
                outer(simd, streamed, packed.plain, re, step);
                outer(simd, streamed, packed.turned, im, step);
                let parts = vectors::<S, T>(re).iter().zip(vectors::<S, T>(im));
                for (x, (&re, &im)) in vectors_mut::<S, T>(scores).iter_mut().zip(parts) {
                    *x = T::mul_add(simd, re, re, T::vmul(simd, im, im));
                }
            }
            Self::Additive(weights) => {
                for (i, row) in vectors_mut::<S, T>(scores).chunks_exact_mut(width).enumerate() {
                    let x = streamed.row(i);
                    for (j, out) in row.iter_mut().enumerate() {
                        let mut sum = T::splat(simd, T::ZERO);
                        for (d, (&x, &w)) in x.iter().zip(*weights).enumerate() {
                            let y = vectors::<S, T>(&packed.plain[d * step..][..step])[j];
                            let t = tanh::<S, T>(simd, T::vadd(simd, y, T::splat(simd, x)));
                            sum = T::mul_add(simd, T::splat(simd, w), t, sum);
                        }
                        *out = sum;
                    }
                }
            }
        }
    }

    /// Turns the sums over streamed rows into the gradient of the packed vectors, in place.
    ///
    /// `sums`: Σ of the weighted streamed vectors, `[dim][step]`; `other`: the imaginary weights' for complex products;
    /// `total`: Σ g·r for a cosine, Σ g for a Gaussian.
    #[inline(always)]
    pub(super) fn finish<S: Simd>(
        &self,
        simd: S,
        streamed: Streamed,
        packed: Packed<'_, T>,
        sums: &mut [T],
        other: &[T],
        total: &[T],
        step: usize,
    ) {
        if !self.is_dot() {
            simd.vectorize(Finish { kind: *self, streamed, packed, sums, other, total, step });
        }
    }

    #[inline(always)]
    fn finish_inline<S: Simd>(
        &self,
        simd: S,
        streamed: Streamed,
        packed: Packed<'_, T>,
        sums: &mut [T],
        other: &[T],
        total: &[T],
        step: usize,
    ) {
        let width = step / T::lanes::<S>();
        let (total, terms) = (vectors::<S, T>(total), vectors::<S, T>(packed.terms));
        let rows = vectors_mut::<S, T>(sums).chunks_exact_mut(width);
        // A vector that nobody sees has a sum of 0 and may hold NaN; one that is seen then has a sum of NaN.
        let (zero, tiny) = (T::splat(simd, T::ZERO), T::splat(simd, T::TINY));
        let unless_none = |sum, x| T::select_less(simd, T::abs(simd, sum), tiny, zero, x);
        match self {
            Self::Dot | Self::Additive(_) => {}
            Self::Cosine => {
                for (row, y) in rows.zip(vectors::<S, T>(packed.plain).chunks_exact(width)) {
                    for (j, x) in row.iter_mut().enumerate() {
                        let along = T::vmul(simd, T::vmul(simd, y[j], terms[j]), total[j]);
                        let across = T::vsub(simd, *x, unless_none(total[j], along));
                        *x = unless_none(across, T::vmul(simd, terms[j], across));
                    }
                }
            }
            Self::Gaussian => {
                let two = T::splat(simd, T::of(2.0));
                for (row, y) in rows.zip(vectors::<S, T>(packed.plain).chunks_exact(width)) {
                    for (j, x) in row.iter_mut().enumerate() {
                        let own = unless_none(total[j], T::vmul(simd, y[j], total[j]));
                        *x = T::vmul(simd, two, T::vsub(simd, own, *x));
                    }
                }
            }
            Self::Fidelity => {
                let minus = streamed == Streamed::Queries;
                for (pair, other) in sums.chunks_exact_mut(2 * step).zip(other.chunks_exact(2 * step)) {
                    let ((re, im), (other_re, other_im)) = (pair.split_at_mut(step), other.split_at(step));
                    let sign = if minus { -T::ONE } else { T::ONE };
                    re.iter_mut().zip(other_im).for_each(|(x, &y)| *x += sign * y);
                    im.iter_mut().zip(other_re).for_each(|(x, &y)| *x += -sign * y);
                }
            }
        }
    }
}

outlined! {
    Raw {
        kind: Kind<'a, T>,
        streamed: Rows<'a, T>,
        terms: &'a [T],
        packed: Packed<'a, T>,
        scores: &'a mut [T],
        step: usize,
        parts: [&'a mut [T]; 2],
    }
    |simd| kind.raw_inline(simd, streamed, terms, packed, scores, step, parts)
}

outlined! {
    Finish {
        kind: Kind<'a, T>,
        streamed: Streamed,
        packed: Packed<'a, T>,
        sums: &'a mut [T],
        other: &'a [T],
        total: &'a [T],
        step: usize,
    }
    |simd| kind.finish_inline(simd, streamed, packed, sums, other, total, step)
}

/// Σ x², in f64.
fn square<T: Real>(x: &[T]) -> f64 {
    let (chunks, rest) = x.as_chunks::<8>();
    let mut sums = [0.0f64; 8];
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += x.wide() * x.wide();
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|x| x.wide() * x.wide()).sum::<f64>()
}

/// `tile[i][j] = Σ_d streamed[i][d]·packed[d][j]`
#[inline(always)]
pub(super) fn outer<S: Simd, T: Real>(
    simd: S,
    streamed: Rows<'_, T>,
    packed: &[T],
    tile: &mut [T],
    step: usize,
) {
    let dim = streamed.dim();
    for first in (0..dim).step_by(DIMS) {
        let width = DIMS.min(dim - first);
        let a = Left::Rows(streamed.columns(first, width));
        let b = Rows::of(&packed[first * step..], width, step, step);
        let c = RowsMut::of(tile, streamed.rows(), step, step);
        let write = if first == 0 { Write::Set } else { Write::Add };
        product(simd, Product { a, b, c, cols: step, write });
    }
}

/// Gradient of an additive score: `sums[d][col] += w_d·Σ_row g·(1 − t²)`, and `weights[d][col] += Σ_row g·t` if asked for.
///
/// A weight of exactly 0 is hidden (a visible NaN would have made it NaN) and contributes nothing.
#[inline(always)]
pub(super) fn additive_gradient<S: Simd, T: Real>(
    simd: S,
    w: &[T],
    streamed: Rows<'_, T>,
    packed: &[T],
    g: &[T],
    step: usize,
    sums: &mut [T],
    mut weights: Option<&mut [T]>,
) {
    let (width, zero) = (step / T::lanes::<S>(), T::splat(simd, T::ZERO));
    // What lies below it is 0 or too small to matter.
    let tiny = T::splat(simd, T::TINY);
    let g = vectors::<S, T>(g);
    for (d, &w) in w.iter().enumerate() {
        for j in 0..width {
            let y = vectors::<S, T>(&packed[d * step..][..step])[j];
            let (mut sum, mut weight) = (zero, zero);
            for i in 0..streamed.rows() {
                let g = g[i * width + j];
                let t = tanh::<S, T>(simd, T::vadd(simd, y, T::splat(simd, streamed.row(i)[d])));
                let slope = T::mul_add(simd, T::negative(simd, t), t, T::splat(simd, T::ONE));
                let hidden = T::abs(simd, g);
                let seen = |x| T::select_less(simd, hidden, tiny, zero, x);
                sum = T::vadd(simd, sum, seen(T::vmul(simd, g, slope)));
                weight = T::vadd(simd, weight, seen(T::vmul(simd, g, t)));
            }
            let out = &mut vectors_mut::<S, T>(&mut sums[d * step..][..step])[j];
            *out = T::mul_add(simd, T::splat(simd, w), sum, *out);
            if let Some(weights) = &mut weights {
                let out = &mut vectors_mut::<S, T>(&mut weights[d * step..][..step])[j];
                *out = T::vadd(simd, *out, weight);
            }
        }
    }
}
