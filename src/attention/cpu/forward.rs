//! One tile of queries over all keys it sees.
//!
//! Scores are kept transposed, `[key][query]` with queries across the lanes: the softmax needs no horizontal reduction, keys
//! and values are read where they are, and only the queries are packed.

use super::lanes::{Scratch, exp2, vectors, vectors_mut};
use super::pack::{pack_columns, unpack_columns};
use super::product::{Left, Product, Write, product};
use super::sight::{Sight, Streamed, Tile};
use super::views::{Rows, RowsMut};
use pulp::{Simd, WithSimd};
use std::f32::consts::LOG2_E;
use std::f64::consts::LN_2;

/// Queries of a work item: 4 AVX-512 vectors, so that one micro-kernel spans them.
pub(super) const QUERY_TILE: usize = 64;
/// Keys between two rescalings of the output.
const KEY_TILE: usize = 128;

/// Output rows `query..query + q.rows()` of one (sample, head) pair.
pub(super) struct ForwardTile<'a> {
    /// The tile's queries.
    pub(super) q: Rows<'a>,
    /// All keys and values of the head.
    pub(super) k: Rows<'a>,
    pub(super) v: Rows<'a>,
    pub(super) query: usize,
    pub(super) sight: Sight,
    pub(super) scale: f32,
    /// A factor per row of the tile.
    pub(super) row_scale: Option<Rows<'a>>,
    /// The tile's outputs.
    pub(super) o: RowsMut<'a>,
    pub(super) lse: RowsMut<'a>,
    pub(super) scratch: &'a mut Scratch,
}

impl WithSimd for ForwardTile<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (count, head_dim, value_dim) = (self.q.rows(), self.q.dim(), self.v.dim());
        let step = count.next_multiple_of(S::F32_LANES);
        let end = self.sight.visible(self.query + count - 1);
        let [queries, scores, sums, clean, max, total, shrink] = self.scratch.parts([
            head_dim * step,
            KEY_TILE * step,
            value_dim * step,
            KEY_TILE * value_dim,
            step,
            step,
            step,
        ]);
        // Base-2 exponents from here on.
        pack_columns(self.q, self.scale * LOG2_E, queries, step);
        sums.fill(0.0);
        total.fill(0.0);
        // Finite, so that a first tile of −∞ scores does not make the shift ∞ − ∞.
        max.fill(f32::MIN);
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
            let scores = &mut scores[..rows * step];
            let a = Left::Rows(self.k.range(key, rows));
            let c = RowsMut::of(scores, rows, step, step);
            let b = Rows::of(queries, head_dim, step, step);
            product(simd, Product { a, b, c, cols: step, write: Write::Set });
            tile.hide(scores, step, f32::NEG_INFINITY);
            softmax(simd, scores, step, max, total, shrink);
            let v = self.v.range(key, rows);
            tile.accumulate_streamed(simd, v, scores, step, sums, Write::Scale(shrink), clean);
        }
        // Divide by the softmax's denominators and write the rows out.
        for i in 0..count {
            let empty = self.sight.visible(self.query + i) == 0;
            let log = (f64::from(max[i]) * LN_2 + f64::from(total[i].ln())) as f32;
            self.lse.row(i)[0] = if empty { f32::NEG_INFINITY } else { log };
            let factor = self.row_scale.map_or(1.0, |rows| rows.row(i)[0]);
            total[i] = factor / total[i];
        }
        for row in vectors_mut::<S>(sums).chunks_exact_mut(step / S::F32_LANES) {
            for (sum, weight) in row.iter_mut().zip(vectors::<S>(total)) {
                *sum = simd.mul_f32s(*sum, *weight);
            }
        }
        unpack_columns(sums, step, &mut self.o);
        // 0/0 above.
        for i in (0..count).take_while(|i| self.sight.visible(self.query + i) == 0) {
            self.o.row(i).fill(0.0);
        }
    }
}

/// Turns a tile of scores into weights relative to the running maximum; `shrink` is what earlier sums are multiplied by.
#[inline(always)]
fn softmax<S: Simd>(
    simd: S,
    scores: &mut [f32],
    step: usize,
    max: &mut [f32],
    total: &mut [f32],
    shrink: &mut [f32],
) {
    match step / S::F32_LANES {
        width if width % 4 == 0 => softmax_by::<S, 4>(simd, scores, width / 4, max, total, shrink),
        width if width % 2 == 0 => softmax_by::<S, 2>(simd, scores, width / 2, max, total, shrink),
        width => softmax_by::<S, 1>(simd, scores, width, max, total, shrink),
    }
}

/// [`softmax`] by slabs of `U` vectors, `slabs` to a row.
#[inline(always)]
fn softmax_by<S: Simd, const U: usize>(
    simd: S,
    scores: &mut [f32],
    slabs: usize,
    max: &mut [f32],
    total: &mut [f32],
    shrink: &mut [f32],
) {
    let (scores, _) = vectors_mut::<S>(scores).as_chunks_mut::<U>();
    let (max, _) = vectors_mut::<S>(max).as_chunks_mut::<U>();
    let (total, _) = vectors_mut::<S>(total).as_chunks_mut::<U>();
    let (shrink, _) = vectors_mut::<S>(shrink).as_chunks_mut::<U>();
    for slab in 0..slabs {
        let old = max[slab];
        let mut new = old;
        for row in scores[slab..].iter().step_by(slabs) {
            for u in 0..U {
                new[u] = simd.max_f32s(new[u], row[u]);
            }
        }
        let mut sum = [simd.splat_f32s(0.0); U];
        for row in scores[slab..].iter_mut().step_by(slabs) {
            for u in 0..U {
                row[u] = exp2(simd, simd.sub_f32s(row[u], new[u]));
                sum[u] = simd.add_f32s(sum[u], row[u]);
            }
        }
        for u in 0..U {
            shrink[slab][u] = exp2(simd, simd.sub_f32s(old[u], new[u]));
            total[slab][u] = simd.mul_add_e_f32s(total[slab][u], shrink[slab][u], sum[u]);
        }
        max[slab] = new;
    }
}
