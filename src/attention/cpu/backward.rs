//! The backward pass, tile by tile.
//!
//! ```text
//! dq_i = Σ_j g_ij·∂r_ij/∂q_i     dk_j = Σ_i g_ij·∂r_ij/∂k_j     g by the raw score, see [`super::grade`] and [`super::kind`]
//! dr_i = Σ_j p_ij·m_ij·⟨do_i, v_j⟩                                dv_j = Σ_i p_ij·m_ij·r_i·do_i
//! ```
//!
//! [`QueryTile`] streams keys past a tile of queries and gives dq, dr; with `dk` or `dv` (dot scores only) it adds the tile's
//! share to those as well: 5 products, but the query tiles of a key head must run in order. [`KeyTile`] streams queries past a
//! tile of keys and gives dk, dv: 7 products in all, every tile on its own. Both form every sum over the same tiles in the same
//! order from the same factors, so they agree to the bit and the caller may choose by the number of threads.

use super::grade::{Buffers, Grade, Sums, Terms, WantSums, add_products, add_rows, apply_factor};
use super::kind::{Kind, Packed, additive_gradient, outer};
use super::lanes::{Real, Scratch, outlined, vectors, vectors_mut};
use super::pack::{pack_columns, pad_rows};
use super::product::Write;
use super::sight::{CLEAN, Sight, Streamed, Tile};
use super::source::{Head, HeadMut};
use super::views::{Rows, RowsMut};
use pulp::{Simd, WithSimd};

/// Queries in a tile. Part of the result's definition: gradients of keys are summed tile by tile.
pub(super) const QUERY_TILE: usize = 64;
/// Keys in a tile. Part of the result's definition: gradients of queries are summed tile by tile.
pub(super) const KEY_TILE: usize = 64;

/// Rows `query..` of one (sample, head) pair.
pub(super) struct QueryTile<'a, T> {
    /// The tile's queries, output gradients and terms.
    pub(super) q: Head<'a, T>,
    pub(super) grad: Head<'a, T>,
    pub(super) terms: Terms<'a, T>,
    /// All keys and values of the head.
    pub(super) k: Head<'a, T>,
    pub(super) v: Head<'a, T>,
    /// Norm terms of all keys, if the score has them.
    pub(super) key_norms: &'a [T],
    pub(super) query: usize,
    pub(super) sight: Sight,
    /// Starts at the tile's first query.
    pub(super) grade: Grade<'a, T>,
    /// The tile's own outputs.
    pub(super) dq: Option<HeadMut<'a, T>>,
    pub(super) drow_scale: Option<HeadMut<'a, T>>,
    pub(super) want: WantSums,
    pub(super) sums: &'a mut Sums,
    /// Gradients of all keys and values, to which this tile adds its share.
    pub(super) dk: Option<RowsMut<'a, T>>,
    pub(super) dv: Option<RowsMut<'a, T>>,
    pub(super) scratch: &'a mut Scratch,
}

/// A query head that reads some keys: its queries, output gradients and terms.
pub(super) struct Reader<'a, T> {
    pub(super) q: Head<'a, T>,
    pub(super) grad: Head<'a, T>,
    pub(super) terms: Terms<'a, T>,
    /// Starts at query 0.
    pub(super) grade: Grade<'a, T>,
}

/// Keys `key..` of one (sample, key head) pair.
pub(super) struct KeyTile<'a, T> {
    /// The tile's keys and values that exist.
    pub(super) k: Head<'a, T>,
    pub(super) v: Head<'a, T>,
    /// Norm terms of the tile's keys, if the score has them.
    pub(super) key_norms: &'a [T],
    pub(super) key: usize,
    pub(super) sight: Sight,
    pub(super) readers: &'a [Reader<'a, T>],
    pub(super) dk: Option<HeadMut<'a, T>>,
    pub(super) dv: Option<HeadMut<'a, T>>,
    pub(super) scratch: &'a mut Scratch,
}

/// `values`, then zeros.
#[inline(always)]
fn pad<T: Real>(values: &[T], padded: &mut [T]) {
    let (head, tail) = padded.split_at_mut(values.len().min(padded.len()));
    head.copy_from_slice(&values[..head.len()]);
    tail.fill(T::ZERO);
}

impl<T: Real> WithSimd for QueryTile<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (count, head_dim, value_dim) = (self.q.rows(), self.q.dim(), self.v.dim());
        let lanes = T::lanes::<S>();
        let step = count.next_multiple_of(lanes);
        let seen = self.sight.visible_to(self.query..self.query + count);
        let (head_step, value_step) = (head_dim.next_multiple_of(lanes), value_dim.next_multiple_of(lanes));
        let (grade, want) = (self.grade, self.want);
        let wants_sums = want.scale || want.slope || want.weights;
        let wants_scores = self.dq.is_some() || self.dk.is_some() || wants_sums;
        let wants_products = wants_scores || self.drow_scale.is_some();
        let complex = grade.kind.is_complex();
        let if_needed = |needed: bool, n: usize| if needed { n } else { 0 };
        let sizes = grade.sizes(KEY_TILE * step, want);
        let [
            queries,
            turned,
            norms,
            grads,
            p,
            ds,
            dq,
            other,
            total,
            dw,
            q_rows,
            grad_rows,
            clean,
            k_room,
            v_room,
            shift,
            delta,
            factor,
            dr,
            raw,
            slope,
            keep,
            re,
            im,
            grid,
            extra,
        ] = self.scratch.parts([
            head_dim * step,
            if_needed(complex, head_dim * step),
            step,
            value_dim * step,
            KEY_TILE * step,
            KEY_TILE * step,
            head_dim * step,
            if_needed(complex, head_dim * step),
            step,
            if_needed(want.weights, head_dim * step),
            if_needed(self.dk.is_some(), count * head_step),
            if_needed(self.dv.is_some(), count * value_step),
            KEY_TILE.max(QUERY_TILE) * head_step.max(value_step).min(CLEAN),
            self.q.room(count).max(self.k.room(KEY_TILE)),
            self.grad.room(count).max(self.v.room(KEY_TILE)),
            step,
            step,
            step,
            step,
            sizes[0],
            sizes[1],
            sizes[2],
            sizes[3],
            sizes[4],
            sizes[5],
            sizes[6],
        ]);
        let mut buffers = Buffers { raw, slope, keep, re, im, grid };
        let (mut q_finite, mut grad_finite) = (true, true);
        {
            // Unscaled, as `KeyTile` sees them.
            let (q, grad) = (self.q.tile(0, count, k_room), self.grad.tile(0, count, v_room));
            pack_columns(simd, q, T::ONE, queries, step);
            pack_columns(simd, grad, T::ONE, grads, step);
            if self.dk.is_some() {
                pad_rows(q, q_rows, head_step);
                q_finite = q.all_finite();
            }
            if self.dv.is_some() {
                pad_rows(grad, grad_rows, value_step);
                grad_finite = grad.all_finite();
            }
        }
        if complex {
            Kind::turn(Streamed::Keys, queries, turned, step);
        }
        for (padded, values) in [
            (&mut *shift, self.terms.shift),
            (&mut *delta, self.terms.delta),
            (&mut *norms, self.terms.norms),
            (&mut *factor, self.terms.factor.unwrap_or(&[])),
        ] {
            pad(values, padded);
        }
        let terms = Terms { shift, delta, factor: self.terms.factor.map(|_| &*factor), norms: &[] };
        let packed = Packed { plain: queries, turned, terms: norms };
        for zeroed in [&mut *dq, &mut *other, &mut *total, &mut *dw, &mut *dr] {
            zeroed.fill(T::ZERO);
        }
        for key in (seen.start / KEY_TILE * KEY_TILE..seen.end).step_by(KEY_TILE) {
            let rows = KEY_TILE.min(seen.end - key);
            let mut tile = Tile {
                sight: self.sight,
                streamed: Streamed::Keys,
                key,
                query: self.query,
                rows,
                cols: count,
                hidden: None,
            };
            let (p, ds) = (&mut p[..rows * step], &mut ds[..rows * step]);
            let (k, v) = (self.k.tile(key, rows, k_room), self.v.tile(key, rows, v_room));
            let key_norms = self.key_norms.get(key..key + rows).unwrap_or(&[]);
            let seen = grade.weights::<S, false>(
                simd,
                &mut tile,
                k,
                key_norms,
                packed,
                terms.shift,
                p,
                extra,
                &mut buffers,
                step,
            );
            if !seen {
                continue;
            }
            if wants_products {
                outer(simd, v, grads, ds, step);
                grade.drop(simd, ds, &buffers);
            }
            if self.drow_scale.is_some() {
                tile.hide(simd, ds, step, T::ZERO);
                add_products::<S, T>(simd, p, ds, step, dr);
            }
            if wants_scores {
                grade.by_raw::<S, false>(simd, &tile, p, ds, terms, &buffers, step, want, self.sums);
            }
            if self.dq.is_some() || want.weights {
                simd.vectorize(Gradient {
                    tile,
                    kind: grade.kind,
                    streamed: k,
                    norms: key_norms,
                    packed,
                    ds,
                    raw: buffers.raw,
                    parts: [buffers.re, buffers.im],
                    clean,
                    step,
                    sums: dq,
                    other,
                    total,
                    weights: dw,
                });
            }
            if let Some(dv) = &mut self.dv {
                grade.drop(simd, p, &buffers);
                if let Some(factor) = terms.factor {
                    apply_factor::<S, T, false>(simd, p, step, factor);
                    tile.hide(simd, p, step, T::ZERO);
                }
                let x = Rows::of(grad_rows, count, value_step, value_step);
                tile.accumulate_packed(simd, p, step, x, grad_finite, dv.range(key, rows), clean);
            }
            if let Some(dk) = &mut self.dk {
                let x = Rows::of(q_rows, count, head_step, head_step);
                tile.accumulate_packed(simd, ds, step, x, q_finite, dk.range(key, rows), clean);
            }
        }
        if let Some(out) = &mut self.dq {
            grade.kind.finish(simd, Streamed::Keys, packed, dq, other, total, step);
            out.write_columns(simd, dq, step);
        }
        if want.weights {
            self.sums.weights =
                dw.chunks_exact(step).map(|row| row[..count].iter().map(|x| x.wide()).sum()).collect();
        }
        if let Some(out) = &mut self.drow_scale {
            for i in 0..count {
                out.set(i, dr[i]);
            }
        }
    }
}

outlined! {
    /// Adds a tile's share to the gradients of packed vectors, see [`Kind::finish`]. `ds`, by the raw score, is used up.
    Gradient {
        tile: Tile<'a, T>,
        kind: Kind<'a, T>,
        streamed: Rows<'a, T>,
        norms: &'a [T],
        packed: Packed<'a, T>,
        ds: &'a mut [T],
        raw: &'a [T],
        parts: [&'a mut [T]; 2],
        clean: &'a mut [T],
        step: usize,
        sums: &'a mut [T],
        other: &'a mut [T],
        total: &'a mut [T],
        weights: &'a mut [T],
    }
    |simd| match kind {
        Kind::Dot => tile.accumulate_streamed(simd, streamed, ds, step, sums, Write::Add, clean),
        Kind::Cosine => {
            add_products::<S, T>(simd, ds, raw, step, total);
            let width = step / T::lanes::<S>();
            for (row, &norm) in vectors_mut::<S, T>(ds).chunks_exact_mut(width).zip(norms) {
                let norm = T::splat(simd, norm);
                row.iter_mut().for_each(|ds| *ds = T::vmul(simd, *ds, norm));
            }
            // The norm of a hidden NaN is NaN.
            tile.hide(simd, ds, step, T::ZERO);
            tile.accumulate_streamed(simd, streamed, ds, step, sums, Write::Add, clean);
        }
        Kind::Gaussian => {
            add_rows::<S, T>(simd, ds, step, total);
            tile.accumulate_streamed(simd, streamed, ds, step, sums, Write::Add, clean);
        }
        Kind::Fidelity => {
            let two = T::splat(simd, T::of(2.0));
            for (part, sums) in parts.into_iter().zip([sums, other]) {
                let part = &mut part[..ds.len()];
                for (x, ds) in vectors_mut::<S, T>(part).iter_mut().zip(vectors::<S, T>(ds)) {
                    *x = T::vmul(simd, T::vmul(simd, two, *ds), *x);
                }
                tile.hide(simd, part, step, T::ZERO);
                tile.accumulate_streamed(simd, streamed, part, step, sums, Write::Add, clean);
            }
        }
        Kind::Additive(w) => {
            let weights = (!weights.is_empty()).then_some(weights);
            additive_gradient(simd, w, streamed, packed.plain, ds, step, sums, weights);
        }
    }
}

impl<T: Real> WithSimd for KeyTile<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let Some(first) = self.readers.first() else { return };
        let (count, head_dim, value_dim) = (self.k.rows(), self.k.dim(), self.v.dim());
        let step = count.next_multiple_of(T::lanes::<S>());
        let complex = first.grade.kind.is_complex();
        let if_needed = |needed: bool, n: usize| if needed { n } else { 0 };
        let sizes = first.grade.sizes(QUERY_TILE * step, WantSums::default());
        let [
            keys,
            turned,
            norms,
            values,
            p,
            ds,
            dk,
            other,
            total,
            dv,
            clean,
            q_room,
            grad_room,
            raw,
            slope,
            keep,
            re,
            im,
            grid,
            extra,
        ] = self.scratch.parts([
            head_dim * step,
            if_needed(complex, head_dim * step),
            step,
            value_dim * step,
            QUERY_TILE * step,
            QUERY_TILE * step,
            head_dim * step,
            if_needed(complex, head_dim * step),
            step,
            value_dim * step,
            QUERY_TILE * head_dim.max(value_dim).min(CLEAN),
            self.k.room(count).max(first.q.room(QUERY_TILE)),
            self.v.room(count).max(first.grad.room(QUERY_TILE)),
            sizes[0],
            sizes[1],
            sizes[2],
            sizes[3],
            sizes[4],
            sizes[5],
            sizes[6],
        ]);
        let mut buffers = Buffers { raw, slope, keep, re, im, grid };
        pack_columns(simd, self.k.tile(0, count, q_room), T::ONE, keys, step);
        if complex {
            Kind::turn(Streamed::Queries, keys, turned, step);
        }
        pad(self.key_norms, norms);
        let packed = Packed { plain: keys, turned, terms: norms };
        if self.dk.is_some() {
            pack_columns(simd, self.v.tile(0, count, grad_room), T::ONE, values, step);
        }
        for zeroed in [&mut *dk, &mut *other, &mut *total, &mut *dv] {
            zeroed.fill(T::ZERO);
        }
        for Reader { q, grad, terms, grade } in self.readers {
            let seen = self.sight.viewers_of(self.key..self.key + count);
            let end = seen.end.min(q.rows());
            // From the start of its tile, so that sums are cut where `QueryTile` cuts them.
            for query in (seen.start / QUERY_TILE * QUERY_TILE..end).step_by(QUERY_TILE) {
                let rows = QUERY_TILE.min(q.rows() - query);
                let mut tile = Tile {
                    sight: self.sight,
                    streamed: Streamed::Queries,
                    key: self.key,
                    query,
                    rows,
                    cols: count,
                    hidden: None,
                };
                let (q, grad) = (q.tile(query, rows, q_room), grad.tile(query, rows, grad_room));
                let terms = terms.range(query, rows);
                let (p, ds) = (&mut p[..rows * step], &mut ds[..rows * step]);
                let seen = grade.weights::<S, true>(
                    simd,
                    &mut tile,
                    q,
                    terms.norms,
                    packed,
                    terms.shift,
                    p,
                    extra,
                    &mut buffers,
                    step,
                );
                if !seen {
                    continue;
                }
                if self.dk.is_some() {
                    outer(simd, grad, values, ds, step);
                    grade.drop(simd, ds, &buffers);
                    let (want, mut sums) = (WantSums::default(), Sums::default());
                    grade.by_raw::<S, true>(simd, &tile, p, ds, terms, &buffers, step, want, &mut sums);
                    simd.vectorize(Gradient {
                        tile,
                        kind: grade.kind,
                        streamed: q,
                        norms: terms.norms,
                        packed,
                        ds,
                        raw: buffers.raw,
                        parts: [buffers.re, buffers.im],
                        clean,
                        step,
                        sums: dk,
                        other,
                        total,
                        weights: &mut [],
                    });
                }
                if self.dv.is_some() {
                    grade.drop(simd, p, &buffers);
                    if let Some(factor) = terms.factor {
                        apply_factor::<S, T, true>(simd, p, step, factor);
                        tile.hide(simd, p, step, T::ZERO);
                    }
                    tile.accumulate_streamed(simd, grad, p, step, dv, Write::Add, clean);
                }
            }
        }
        if let Some(out) = &mut self.dk {
            first.grade.kind.finish(simd, Streamed::Queries, packed, dk, other, total, step);
            out.write_columns(simd, dk, step);
        }
        if let Some(out) = &mut self.dv {
            out.write_columns(simd, dv, step);
        }
    }
}
