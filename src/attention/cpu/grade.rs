//! Weights and score gradients of one tile: what both directions of the backward pass are made of.
//!
//! With p = exp(z − lse), m what dropout multiplies by, r the row scale and δ_i = ⟨do_i, o_i⟩ − dlse_i, the gradient by the logit
//! is `p_ij·(r_i·m_ij·⟨do_i, v_j⟩ − δ_i)`; soft cap and scale lead from there to the raw score.

use super::kind::{Kind, Packed};
use super::lanes::{Real, outlined, vectors, vectors_mut};
use super::sight::Tile;
use super::stage::{Addend, Stage, TILE};
use super::views::Rows;
use pulp::Simd;

/// What a row of queries needs beside its vectors, one number a row.
#[derive(Clone, Copy)]
pub(super) struct Terms<'a, T> {
    /// lse in base 2; 0 for a row without keys.
    pub(super) shift: &'a [T],
    /// δ
    pub(super) delta: &'a [T],
    /// r, if there is a row scale.
    pub(super) factor: Option<&'a [T]>,
    /// Norm terms, if the score has them.
    pub(super) norms: &'a [T],
}

impl<'a, T: Real> Terms<'a, T> {
    #[inline(always)]
    pub(super) fn range(&self, start: usize, len: usize) -> Self {
        let part = |x: &'a [T]| &x[start..start + len];
        Self {
            shift: part(self.shift),
            delta: part(self.delta),
            factor: self.factor.map(part),
            norms: self.norms.get(start..start + len).unwrap_or(&[]),
        }
    }
}

/// Sums over a tile of queries for the gradients of options.
#[derive(Default)]
pub(super) struct Sums {
    /// Σ g·r over everything the tile sees, g by the raw score times the scale: d by the scale.
    pub(super) scale: f64,
    /// −Σ g·|position − key|
    pub(super) slope: f64,
    /// Σ g·tanh, one a dimension.
    pub(super) weights: Vec<f64>,
}

/// Which of them to make.
#[derive(Clone, Copy, Default)]
pub(super) struct WantSums {
    pub(super) scale: bool,
    pub(super) slope: bool,
    pub(super) weights: bool,
}

/// Scratch tiles; those that are not needed are empty.
pub(super) struct Buffers<'s, T> {
    /// Raw scores.
    pub(super) raw: &'s mut [T],
    /// Derivative of the soft cap.
    pub(super) slope: &'s mut [T],
    pub(super) keep: &'s mut [T],
    /// Real and imaginary parts.
    pub(super) re: &'s mut [T],
    pub(super) im: &'s mut [T],
    /// `TILE · TILE`
    pub(super) grid: &'s mut [T],
}

/// A pair's score and what comes after it.
#[derive(Clone, Copy)]
pub(super) struct Grade<'a, T> {
    pub(super) kind: Kind<'a, T>,
    pub(super) scale: T,
    /// The scale in base 2.
    pub(super) scale2: T,
    pub(super) stage: Stage<'a, T>,
}

impl<T: Real> Grade<'_, T> {
    /// The same, every weight kept.
    pub(super) fn without_dropout(self) -> Self {
        Self { stage: Stage { dropout: None, ..self.stage }, ..self }
    }

    /// The same from a later query on.
    pub(super) fn at_query(self, query: usize) -> Self {
        Self { stage: self.stage.at_query(query), ..self }
    }

    /// Sizes of [`Buffers`] in the order of its fields, and of the addend, for tiles of `tile` numbers.
    pub(super) fn sizes(&self, tile: usize, want: WantSums) -> [usize; 7] {
        let stage = &self.stage;
        let size = |needed: bool| if needed { tile } else { 0 };
        let adds = stage.bias.is_some() || stage.mask.is_some();
        [
            size(want.scale || matches!(self.kind, Kind::Cosine)),
            size(stage.softcap.is_some()),
            size(stage.dropout.is_some()),
            size(self.kind.is_complex()),
            size(self.kind.is_complex()),
            if adds || stage.dropout.is_some() { TILE * TILE } else { 0 },
            size(adds),
        ]
    }

    /// Fills `p` with the tile's weights; false if a mask hides all of it.
    ///
    /// `BY_ROW`: queries are streamed, their terms belong to rows. `norms`: those of the streamed rows.
    #[inline(always)]
    pub(super) fn weights<'t, S: Simd, const BY_ROW: bool>(
        &self,
        simd: S,
        tile: &mut Tile<'t, T>,
        streamed: Rows<'_, T>,
        norms: &[T],
        packed: Packed<'_, T>,
        shift: &[T],
        p: &mut [T],
        extra: &'t mut [T],
        buffers: &mut Buffers<'_, T>,
        step: usize,
    ) -> bool {
        let (stage, size) = (&self.stage, tile.rows * step);
        let (mut addend, mut added) = (None, Addend::Nothing);
        if !extra.is_empty() {
            let extra = &mut extra[..size];
            added = stage.addend(simd, tile, extra, step, buffers.grid);
            addend = Some(&*extra);
        }
        if added == Addend::HidesAll {
            return false;
        }
        let addend = addend.filter(|_| added != Addend::Nothing);
        tile.hidden = addend.filter(|_| added == Addend::Hides);
        let part = |buffer: &mut [T]| size.min(buffer.len());
        let (re, im) = (part(buffers.re), part(buffers.im));
        let parts = [&mut buffers.re[..re], &mut buffers.im[..im]];
        self.kind.raw(simd, streamed, norms, packed, p, step, parts);
        if !buffers.raw.is_empty() {
            let raw = &mut buffers.raw[..size];
            raw.copy_from_slice(p);
            tile.hide(simd, raw, step, T::ZERO);
        }
        if stage.keeps_scores() {
            weigh::<S, T, BY_ROW>(simd, p, step, self.scale2, shift);
        } else {
            let slope = part(buffers.slope);
            let slope = (slope > 0).then(|| &mut buffers.slope[..slope]);
            stage.apply(simd, tile, p, self.scale2, addend, step, slope);
            weigh::<S, T, BY_ROW>(simd, p, step, T::ONE, shift);
        }
        tile.hide(simd, p, step, T::ZERO);
        if stage.dropout.is_some() {
            stage.keep(simd, tile, &mut buffers.keep[..size], step, buffers.grid);
        }
        true
    }

    /// Multiplies a tile by what dropout multiplies weights by.
    #[inline(always)]
    pub(super) fn drop<S: Simd>(&self, simd: S, tile: &mut [T], buffers: &Buffers<'_, T>) {
        if self.stage.dropout.is_some() {
            let keep = &buffers.keep[..tile.len()];
            for (x, keep) in vectors_mut::<S, T>(tile).iter_mut().zip(vectors::<S, T>(keep)) {
                *x = T::vmul(simd, *x, *keep);
            }
        }
    }

    /// Turns `ds` = m·⟨do, v⟩ into the gradient by the logit, `p·(r·ds − δ)`, hidden where it has to be.
    #[inline(always)]
    pub(super) fn by_logit<S: Simd, const BY_ROW: bool>(
        &self,
        simd: S,
        tile: &Tile<'_, T>,
        p: &[T],
        ds: &mut [T],
        terms: Terms<'_, T>,
        step: usize,
    ) {
        score_gradient::<S, T, BY_ROW>(simd, p, ds, step, T::ONE, terms);
        tile.hide(simd, ds, step, T::ZERO);
    }

    /// Turns `ds` = m·⟨do, v⟩ into the gradient by the raw score.
    #[inline(always)]
    pub(super) fn by_raw<S: Simd, const BY_ROW: bool>(
        &self,
        simd: S,
        tile: &Tile<'_, T>,
        p: &[T],
        ds: &mut [T],
        terms: Terms<'_, T>,
        buffers: &Buffers<'_, T>,
        step: usize,
        want: WantSums,
        sums: &mut Sums,
    ) {
        let capped = self.stage.softcap.is_some();
        if !capped && !want.scale && !want.slope {
            score_gradient::<S, T, BY_ROW>(simd, p, ds, step, self.scale, terms);
            tile.hide(simd, ds, step, T::ZERO);
            return;
        }
        self.by_logit::<S, BY_ROW>(simd, tile, p, ds, terms, step);
        let (slope, raw): (&[T], &[T]) = (buffers.slope, buffers.raw);
        simd.vectorize(Chain { grade: *self, tile: *tile, ds, slope, raw, step, want, sums });
    }
}

outlined! {
    /// From the gradient by the logit to that by the raw score.
    Chain {
        grade: Grade<'a, T>,
        tile: Tile<'a, T>,
        ds: &'a mut [T],
        slope: &'a [T],
        raw: &'a [T],
        step: usize,
        want: WantSums,
        sums: &'a mut Sums,
    }
    |simd| {
        let capped = grade.stage.softcap.is_some();
        if want.slope {
            for (row, ds) in ds.chunks_exact(step).enumerate() {
                let mut distances = [T::ZERO; TILE];
                grade.stage.distances(&tile, row, &mut distances[..step], false);
                let sum: T = ds[..tile.cols].iter().zip(&distances).map(|(&ds, &x)| ds * x).sum();
                sums.slope -= sum.wide();
            }
        }
        if capped {
            for (ds, slope) in vectors_mut::<S, T>(ds).iter_mut().zip(vectors::<S, T>(slope)) {
                *ds = T::vmul(simd, *ds, *slope);
            }
            // The cap of a hidden NaN is NaN.
            tile.hide(simd, ds, step, T::ZERO);
        }
        if want.scale {
            let mut columns = [T::ZERO; TILE];
            add_products::<S, T>(simd, ds, raw, step, &mut columns[..step]);
            sums.scale += columns[..tile.cols].iter().map(|x| x.wide()).sum::<f64>();
        }
        if grade.scale != T::ONE {
            let scale = T::splat(simd, grade.scale);
            vectors_mut::<S, T>(ds).iter_mut().for_each(|ds| *ds = T::vmul(simd, *ds, scale));
        }
    }
}

/// The term that belongs to vector `j` of streamed row `i`: per row if `BY_ROW`, else per column.
#[inline(always)]
fn term<S: Simd, T: Real, const BY_ROW: bool>(simd: S, terms: &[T], i: usize, j: usize) -> T::Vector<S> {
    if BY_ROW { T::splat(simd, terms[i]) } else { vectors::<S, T>(terms)[j] }
}

/// Scores become weights: `p = 2^(c·p − shift)`.
#[inline(always)]
fn weigh<S: Simd, T: Real, const BY_ROW: bool>(simd: S, p: &mut [T], step: usize, c: T, shift: &[T]) {
    let c = T::splat(simd, c);
    for (i, row) in vectors_mut::<S, T>(p).chunks_exact_mut(step / T::lanes::<S>()).enumerate() {
        for (j, p) in row.iter_mut().enumerate() {
            let shift = term::<S, T, BY_ROW>(simd, shift, i, j);
            *p = T::exp2(simd, T::mul_add(simd, c, *p, T::negative(simd, shift)));
        }
    }
}

/// ⟨do, v⟩ becomes dS: `ds = p·(factor·ds − delta)·scale`.
#[inline(always)]
fn score_gradient<S: Simd, T: Real, const BY_ROW: bool>(
    simd: S,
    p: &[T],
    ds: &mut [T],
    step: usize,
    scale: T,
    terms: Terms<'_, T>,
) {
    let scale = T::splat(simd, scale);
    let width = step / T::lanes::<S>();
    let rows = vectors::<S, T>(p).chunks_exact(width).zip(vectors_mut::<S, T>(ds).chunks_exact_mut(width));
    for (i, (p, ds)) in rows.enumerate() {
        for (j, (p, ds)) in p.iter().zip(ds).enumerate() {
            let delta = term::<S, T, BY_ROW>(simd, terms.delta, i, j);
            let slope = match terms.factor {
                Some(factor) => {
                    let factor = term::<S, T, BY_ROW>(simd, factor, i, j);
                    T::mul_add(simd, factor, *ds, T::negative(simd, delta))
                }
                None => T::vsub(simd, *ds, delta),
            };
            *ds = T::vmul(simd, T::vmul(simd, *p, slope), scale);
        }
    }
}

/// `p *= factor`
#[inline(always)]
pub(super) fn apply_factor<S: Simd, T: Real, const BY_ROW: bool>(
    simd: S,
    p: &mut [T],
    step: usize,
    factor: &[T],
) {
    for (i, row) in vectors_mut::<S, T>(p).chunks_exact_mut(step / T::lanes::<S>()).enumerate() {
        for (j, p) in row.iter_mut().enumerate() {
            *p = T::vmul(simd, *p, term::<S, T, BY_ROW>(simd, factor, i, j));
        }
    }
}

/// `sums[col] += Σ_row p[row][col]·products[row][col]`
#[inline(always)]
pub(super) fn add_products<S: Simd, T: Real>(simd: S, p: &[T], products: &[T], step: usize, sums: &mut [T]) {
    let width = step / T::lanes::<S>();
    let (p, x) = (vectors::<S, T>(p), vectors::<S, T>(products));
    for (j, sum) in vectors_mut::<S, T>(sums).iter_mut().enumerate() {
        let mut tile = T::splat(simd, T::ZERO);
        for i in 0..p.len() / width {
            tile = T::mul_add(simd, p[i * width + j], x[i * width + j], tile);
        }
        *sum = T::vadd(simd, *sum, tile);
    }
}

/// `sums[col] += Σ_row g[row][col]`
#[inline(always)]
pub(super) fn add_rows<S: Simd, T: Real>(simd: S, g: &[T], step: usize, sums: &mut [T]) {
    let width = step / T::lanes::<S>();
    let g = vectors::<S, T>(g);
    for (j, sum) in vectors_mut::<S, T>(sums).iter_mut().enumerate() {
        let mut tile = T::splat(simd, T::ZERO);
        for i in 0..g.len() / width {
            tile = T::vadd(simd, tile, g[i * width + j]);
        }
        *sum = T::vadd(simd, *sum, tile);
    }
}
