//! The backward pass, tile by tile.
//!
//! With p = exp(z − lse), r the row scale and δ_i = ⟨do_i, o_i⟩ − dlse_i:
//!
//! ```text
//! dS_ij = p_ij·(r_i·⟨do_i, v_j⟩ − δ_i)·scale       dq_i = Σ_j dS_ij·k_j       dk_j = Σ_i dS_ij·q_i
//! dr_i  = Σ_j p_ij·⟨do_i, v_j⟩                                                 dv_j = Σ_i p_ij·r_i·do_i
//! ```
//!
//! [`QueryTile`] streams keys past a tile of queries and gives dq, dr; with `dk` or `dv` it adds the tile's share to those as
//! well: 5 products, but the query tiles of a key head must run in order. [`KeyTile`] streams queries past a tile of keys and
//! gives dk, dv: 7 products in all, every tile on its own. Both form every sum over the same tiles in the same order from the
//! same factors, so they agree to the bit and the caller may choose by the number of threads.

use super::lanes::{Scratch, exp2, vectors, vectors_mut};
use super::pack::{pack_columns, pad_rows, unpack_columns};
use super::product::{Left, Product, Write, product};
use super::sight::{Sight, Streamed, Tile};
use super::views::{Rows, RowsMut};
use pulp::{Simd, WithSimd};
use std::f32::consts::LOG2_E;

/// Queries in a tile. Part of the result's definition: gradients of keys are summed tile by tile.
pub(super) const QUERY_TILE: usize = 64;
/// Keys in a tile. Part of the result's definition: gradients of queries are summed tile by tile.
pub(super) const KEY_TILE: usize = 64;

/// What a row of queries needs beside its vectors, one number a row.
#[derive(Clone, Copy)]
pub(super) struct Terms<'a> {
    /// lse in base 2.
    pub(super) shift: &'a [f32],
    /// δ
    pub(super) delta: &'a [f32],
    /// r, if there is a row scale.
    pub(super) factor: Option<&'a [f32]>,
}

impl<'a> Terms<'a> {
    #[inline(always)]
    pub(super) fn range(&self, start: usize, len: usize) -> Self {
        let part = |x: &'a [f32]| &x[start..start + len];
        Self { shift: part(self.shift), delta: part(self.delta), factor: self.factor.map(part) }
    }
}

/// Rows `query..` of one (sample, head) pair.
pub(super) struct QueryTile<'a> {
    /// The tile's queries, output gradients and terms.
    pub(super) q: Rows<'a>,
    pub(super) grad: Rows<'a>,
    pub(super) terms: Terms<'a>,
    /// All keys and values of the head.
    pub(super) k: Rows<'a>,
    pub(super) v: Rows<'a>,
    pub(super) query: usize,
    pub(super) sight: Sight,
    pub(super) scale: f32,
    /// The tile's own outputs.
    pub(super) dq: Option<RowsMut<'a>>,
    pub(super) drow_scale: Option<RowsMut<'a>>,
    /// Gradients of all keys and values, to which this tile adds its share.
    pub(super) dk: Option<RowsMut<'a>>,
    pub(super) dv: Option<RowsMut<'a>>,
    pub(super) scratch: &'a mut Scratch,
}

/// Keys `key..` of one (sample, key head) pair.
pub(super) struct KeyTile<'a> {
    /// The tile's keys and values that exist.
    pub(super) k: Rows<'a>,
    pub(super) v: Rows<'a>,
    pub(super) key: usize,
    pub(super) sight: Sight,
    pub(super) scale: f32,
    /// Queries, output gradients and terms of each query head that reads these keys.
    pub(super) heads: &'a [(Rows<'a>, Rows<'a>, Terms<'a>)],
    pub(super) dk: Option<RowsMut<'a>>,
    pub(super) dv: Option<RowsMut<'a>>,
    pub(super) scratch: &'a mut Scratch,
}

impl WithSimd for QueryTile<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (count, head_dim, value_dim) = (self.q.rows(), self.q.dim(), self.v.dim());
        let step = count.next_multiple_of(S::F32_LANES);
        let end = self.sight.visible(self.query + count - 1);
        let (head_step, value_step) =
            (head_dim.next_multiple_of(S::F32_LANES), value_dim.next_multiple_of(S::F32_LANES));
        let wants_scores = self.dq.is_some() || self.dk.is_some();
        let wants_products = wants_scores || self.drow_scale.is_some();
        let longest = KEY_TILE.max(QUERY_TILE) * head_step.max(value_step);
        let [queries, grads, p, ds, dq, q_rows, grad_rows, clean, shift, delta, factor, dr] =
            self.scratch.parts([
                head_dim * step,
                value_dim * step,
                KEY_TILE * step,
                KEY_TILE * step,
                head_dim * step,
                if self.dk.is_some() { count * head_step } else { 0 },
                if self.dv.is_some() { count * value_step } else { 0 },
                longest,
                step,
                step,
                step,
                step,
            ]);
        // Unscaled, as `KeyTile` sees them.
        pack_columns(self.q, 1.0, queries, step);
        pack_columns(self.grad, 1.0, grads, step);
        let (mut q_finite, mut grad_finite) = (true, true);
        if self.dk.is_some() {
            pad_rows(self.q, q_rows, head_step);
            q_finite = self.q.all_finite();
        }
        if self.dv.is_some() {
            pad_rows(self.grad, grad_rows, value_step);
            grad_finite = self.grad.all_finite();
        }
        for (padded, values) in [(&mut *shift, self.terms.shift), (&mut *delta, self.terms.delta)]
            .into_iter()
            .chain(self.terms.factor.map(|f| (&mut *factor, f)))
        {
            padded[..count].copy_from_slice(values);
            padded[count..].fill(0.0);
        }
        let terms = Terms { shift, delta, factor: self.terms.factor.map(|_| &*factor) };
        dq.fill(0.0);
        dr.fill(0.0);
        for key in (0..end).step_by(KEY_TILE) {
            let rows = KEY_TILE.min(end - key);
            let tile = Tile {
                sight: self.sight,
                streamed: Streamed::Keys,
                key,
                query: self.query,
                rows,
                cols: count,
            };
            let (p, ds) = (&mut p[..rows * step], &mut ds[..rows * step]);
            let (k, v) = (self.k.range(key, rows), self.v.range(key, rows));
            outer(simd, k, queries, p, step);
            weigh::<S, false>(simd, p, step, self.scale * LOG2_E, terms.shift);
            tile.hide(p, step, 0.0);
            if wants_products {
                outer(simd, v, grads, ds, step);
            }
            if self.drow_scale.is_some() {
                tile.hide(ds, step, 0.0);
                add_products(simd, p, ds, step, dr);
            }
            if wants_scores {
                score_gradient::<S, false>(simd, p, ds, step, self.scale, terms);
                tile.hide(ds, step, 0.0);
            }
            if self.dq.is_some() {
                tile.accumulate_streamed(simd, k, ds, step, dq, Write::Add, clean);
            }
            if let Some(dv) = &mut self.dv {
                if let Some(factor) = terms.factor {
                    apply_factor::<S, false>(simd, p, step, factor);
                    tile.hide(p, step, 0.0);
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
            unpack_columns(dq, step, out);
        }
        if let Some(out) = &mut self.drow_scale {
            for i in 0..count {
                out.row(i)[0] = dr[i];
            }
        }
    }
}

impl WithSimd for KeyTile<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (count, head_dim, value_dim) = (self.k.rows(), self.k.dim(), self.v.dim());
        let step = count.next_multiple_of(S::F32_LANES);
        let [keys, values, p, ds, dk, dv, clean] = self.scratch.parts([
            head_dim * step,
            value_dim * step,
            QUERY_TILE * step,
            QUERY_TILE * step,
            head_dim * step,
            value_dim * step,
            QUERY_TILE * head_dim.max(value_dim),
        ]);
        pack_columns(self.k, 1.0, keys, step);
        if self.dk.is_some() {
            pack_columns(self.v, 1.0, values, step);
        }
        dk.fill(0.0);
        dv.fill(0.0);
        for (q, grad, terms) in self.heads {
            let first = self.sight.first_query(self.key).min(q.rows());
            // From the start of its tile, so that sums are cut where `QueryTile` cuts them.
            for query in (first / QUERY_TILE * QUERY_TILE..q.rows()).step_by(QUERY_TILE) {
                let rows = QUERY_TILE.min(q.rows() - query);
                let tile = Tile {
                    sight: self.sight,
                    streamed: Streamed::Queries,
                    key: self.key,
                    query,
                    rows,
                    cols: count,
                };
                let (q, grad, terms) =
                    (q.range(query, rows), grad.range(query, rows), terms.range(query, rows));
                let (p, ds) = (&mut p[..rows * step], &mut ds[..rows * step]);
                outer(simd, q, keys, p, step);
                weigh::<S, true>(simd, p, step, self.scale * LOG2_E, terms.shift);
                tile.hide(p, step, 0.0);
                if self.dk.is_some() {
                    outer(simd, grad, values, ds, step);
                    score_gradient::<S, true>(simd, p, ds, step, self.scale, terms);
                    tile.hide(ds, step, 0.0);
                    tile.accumulate_streamed(simd, q, ds, step, dk, Write::Add, clean);
                }
                if self.dv.is_some() {
                    if let Some(factor) = terms.factor {
                        apply_factor::<S, true>(simd, p, step, factor);
                        tile.hide(p, step, 0.0);
                    }
                    tile.accumulate_streamed(simd, grad, p, step, dv, Write::Add, clean);
                }
            }
        }
        for (out, sums) in [(&mut self.dk, dk), (&mut self.dv, dv)] {
            if let Some(out) = out {
                unpack_columns(sums, step, out);
            }
        }
    }
}

/// `tile[i][j] = Σ_d streamed[i][d]·packed[d][j]`
#[inline(always)]
fn outer<S: Simd>(simd: S, streamed: Rows<'_>, packed: &[f32], tile: &mut [f32], step: usize) {
    let b = Rows::of(packed, streamed.dim(), step, step);
    let c = RowsMut::of(tile, streamed.rows(), step, step);
    product(simd, Product { a: Left::Rows(streamed), b, c, cols: step, write: Write::Set });
}

/// The term that belongs to vector `j` of streamed row `i`: per row if `BY_ROW`, else per column.
#[inline(always)]
fn term<S: Simd, const BY_ROW: bool>(simd: S, terms: &[f32], i: usize, j: usize) -> S::f32s {
    if BY_ROW { simd.splat_f32s(terms[i]) } else { vectors::<S>(terms)[j] }
}

/// Scores become weights: `p = 2^(c·p − shift)`.
#[inline(always)]
fn weigh<S: Simd, const BY_ROW: bool>(simd: S, p: &mut [f32], step: usize, c: f32, shift: &[f32]) {
    let c = simd.splat_f32s(c);
    for (i, row) in vectors_mut::<S>(p).chunks_exact_mut(step / S::F32_LANES).enumerate() {
        for (j, p) in row.iter_mut().enumerate() {
            let shift = term::<S, BY_ROW>(simd, shift, i, j);
            *p = exp2(simd, simd.mul_add_e_f32s(c, *p, simd.neg_f32s(shift)));
        }
    }
}

/// ⟨do, v⟩ becomes dS: `ds = p·scale·(factor·ds − delta)`.
#[inline(always)]
fn score_gradient<S: Simd, const BY_ROW: bool>(
    simd: S,
    p: &[f32],
    ds: &mut [f32],
    step: usize,
    scale: f32,
    terms: Terms<'_>,
) {
    let scale = simd.splat_f32s(scale);
    let width = step / S::F32_LANES;
    let rows = vectors::<S>(p).chunks_exact(width).zip(vectors_mut::<S>(ds).chunks_exact_mut(width));
    for (i, (p, ds)) in rows.enumerate() {
        for (j, (p, ds)) in p.iter().zip(ds).enumerate() {
            let delta = term::<S, BY_ROW>(simd, terms.delta, i, j);
            let slope = match terms.factor {
                Some(factor) => {
                    simd.mul_add_e_f32s(term::<S, BY_ROW>(simd, factor, i, j), *ds, simd.neg_f32s(delta))
                }
                None => simd.sub_f32s(*ds, delta),
            };
            *ds = simd.mul_f32s(simd.mul_f32s(*p, scale), slope);
        }
    }
}

/// `p *= factor`
#[inline(always)]
fn apply_factor<S: Simd, const BY_ROW: bool>(simd: S, p: &mut [f32], step: usize, factor: &[f32]) {
    for (i, row) in vectors_mut::<S>(p).chunks_exact_mut(step / S::F32_LANES).enumerate() {
        for (j, p) in row.iter_mut().enumerate() {
            *p = simd.mul_f32s(*p, term::<S, BY_ROW>(simd, factor, i, j));
        }
    }
}

/// `sums[col] += Σ_row p[row][col]·products[row][col]`
#[inline(always)]
fn add_products<S: Simd>(simd: S, p: &[f32], products: &[f32], step: usize, sums: &mut [f32]) {
    let width = step / S::F32_LANES;
    for (p, x) in vectors::<S>(p).chunks_exact(width).zip(vectors::<S>(products).chunks_exact(width)) {
        for (sum, (p, x)) in vectors_mut::<S>(sums).iter_mut().zip(p.iter().zip(x)) {
            *sum = simd.mul_add_e_f32s(*p, *x, *sum);
        }
    }
}

/// Σ x·y in a fixed order that vectorises.
pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<16>(), y.as_chunks::<16>());
    let mut sums = [0.0f32; 16];
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..16 {
            sums[i] += x[i] * y[i];
        }
    }
    let rest: f32 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f32>() + rest
}
