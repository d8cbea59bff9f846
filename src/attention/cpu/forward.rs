//! One tile of queries over all keys it sees.
//!
//! Scores are kept transposed, `[key][query]` with queries across the lanes: the softmax needs no horizontal reduction, keys
//! and values are read where they are, and only the queries are packed.

use super::kind::{Kind, Packed};
use super::lanes::{Real, Scratch, vectors, vectors_mut};
use super::pack::pack_columns;
use super::product::Write;
use super::sight::{CLEAN, Sight, Streamed, Tile};
use super::source::{Head, HeadMut};
use super::stage::{Addend, Stage, TILE};
use pulp::{Simd, WithSimd};
use std::f64::consts::LN_2;

/// Queries of a work item: 4 AVX-512 vectors, so that one micro-kernel spans them.
pub(super) const QUERY_TILE: usize = 64;
/// Keys between two rescalings of the output. Tiles start at its multiples, whoever sees them.
pub(super) const KEY_TILE: usize = 128;

/// Where a tile of queries ends up.
pub(super) enum Output<'a, T> {
    Rows {
        o: HeadMut<'a, T>,
        lse: HeadMut<'a, T>,
    },
    /// Of part of the keys: `[rows][2 + value_dim]`, the maximum in base 2, the total and the sums of values.
    Part(&'a mut [T]),
}

/// Rows `query..query + q.rows()` of one (sample, head) pair, or row `query` of adjacent heads.
pub(super) struct ForwardTile<'a, T> {
    /// The tile's queries.
    pub(super) q: Head<'a, T>,
    /// All keys and values of the head.
    pub(super) k: Head<'a, T>,
    pub(super) v: Head<'a, T>,
    pub(super) query: usize,
    pub(super) sight: Sight,
    pub(super) kind: Kind<'a, T>,
    /// Factor of raw scores, in base 2.
    pub(super) scale: T,
    /// Norm terms of the keys, if the kind has them.
    pub(super) key_terms: &'a [T],
    pub(super) stage: Stage<'a, T>,
    /// In base 2: one, or one a row if rows are heads.
    pub(super) sinks: Option<&'a [T]>,
    /// A factor per row of the tile.
    pub(super) row_scale: Option<Head<'a, T>>,
    pub(super) output: Output<'a, T>,
    pub(super) scratch: &'a mut Scratch,
}

impl<T: Real> WithSimd for ForwardTile<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (count, head_dim, value_dim) = (self.q.rows(), self.q.dim(), self.v.dim());
        let step = count.next_multiple_of(T::lanes::<S>());
        let seen = self.sight.visible_to(self.query..self.query + count);
        let stage = &self.stage;
        let if_needed = |needed: bool, n: usize| if needed { n } else { 0 };
        let (complex, adds) = (self.kind.is_complex(), stage.bias.is_some() || stage.mask.is_some());
        let scores_size = KEY_TILE * step;
        let [
            queries,
            turned,
            terms,
            scores,
            sums,
            clean,
            max,
            total,
            shrink,
            room,
            v_room,
            extra,
            grid,
            keep,
            re,
            im,
        ] = self.scratch.parts([
            head_dim * step,
            if_needed(complex, head_dim * step),
            if_needed(self.kind.has_norms(), step),
            scores_size,
            value_dim * step,
            KEY_TILE * value_dim.min(CLEAN),
            step,
            step,
            step,
            self.q.room(count).max(self.k.room(KEY_TILE)),
            self.v.room(KEY_TILE),
            if_needed(adds, scores_size),
            if_needed(adds || stage.dropout.is_some(), TILE * TILE),
            if_needed(stage.dropout.is_some(), scores_size),
            if_needed(complex, scores_size),
            if_needed(complex, scores_size),
        ]);
        // Base-2 exponents from here on.
        let q = self.q.tile(0, count, room);
        let factor = if self.kind.is_dot() { T::ONE } else { self.scale };
        pack_columns(simd, q, if self.kind.is_dot() { self.scale } else { T::ONE }, queries, step);
        if complex {
            Kind::turn(Streamed::Keys, queries, turned, step);
        }
        for (i, term) in terms.iter_mut().enumerate() {
            *term = if i < count { self.kind.norm(q.row(i)) } else { T::ZERO };
        }
        sums.fill(T::ZERO);
        // A sink has been seen before the first key.
        for i in 0..step {
            let sink = self.sinks.map_or(T::NEG_INFINITY, |sinks| sinks[i.min(sinks.len() - 1)]);
            let none = sink == T::NEG_INFINITY;
            (max[i], total[i]) = if none { (T::LOWEST, T::ZERO) } else { (sink, T::ONE) };
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
            let size = rows * step;
            let addend = if adds {
                stage.addend(simd, &tile, &mut extra[..size], step, grid)
            } else {
                Addend::Nothing
            };
            if addend == Addend::HidesAll {
                continue;
            }
            let extra = (addend != Addend::Nothing).then(|| &extra[..size]);
            tile.hidden = extra.filter(|_| addend == Addend::Hides);
            let scores = &mut scores[..size];
            let packed = Packed { plain: queries, turned, terms };
            let key_terms = self.key_terms.get(key..key + rows).unwrap_or(&[]);
            let parts: [&mut [T]; 2] =
                if complex { [&mut re[..size], &mut im[..size]] } else { [&mut [], &mut []] };
            self.kind.raw(simd, self.k.tile(key, rows, room), key_terms, packed, scores, step, parts);
            if factor != T::ONE || !stage.keeps_scores() {
                stage.apply(simd, &tile, scores, factor, extra, step, None);
            }
            tile.hide(simd, scores, step, T::NEG_INFINITY);
            softmax(simd, scores, step, max, total, shrink);
            if stage.dropout.is_some() {
                stage.keep(simd, &tile, &mut keep[..size], step, grid);
                for (p, keep) in vectors_mut::<S, T>(scores).iter_mut().zip(vectors::<S, T>(&keep[..size])) {
                    *p = T::vmul(simd, *p, *keep);
                }
            }
            let v = self.v.tile(key, rows, v_room);
            tile.accumulate_streamed(simd, v, scores, step, sums, Write::Scale(shrink), clean);
        }
        let (mut o, mut lse) = match self.output {
            Output::Rows { o, lse } => (o, lse),
            Output::Part(out) => {
                for (i, out) in out.chunks_exact_mut(2 + value_dim).enumerate().take(count) {
                    (out[0], out[1]) = (max[i], total[i]);
                    for (d, out) in out[2..].iter_mut().enumerate() {
                        *out = sums[d * step + i];
                    }
                }
                return;
            }
        };
        // Divide by the softmax's denominators and write the rows out.
        let empty = |i: usize, total: T| {
            let keys = self.sight.visible(self.query + i);
            total == T::ZERO && (keys.is_empty() || (adds && keys.into_iter().all(|key| stage.hides(i, key))))
        };
        for i in 0..count {
            let nothing = empty(i, total[i]);
            lse.set(i, if nothing { T::NEG_INFINITY } else { natural_log(max[i], total[i]) });
            // A row without keys has sums of 0; its total of 0 must not make them NaN.
            total[i] = if nothing { T::ZERO } else { T::ONE / total[i] };
            shrink[i] = self.row_scale.filter(|_| !nothing).map_or(T::ONE, |rows| rows.number(i));
        }
        let (inverse, gate) = (vectors::<S, T>(total), vectors::<S, T>(shrink));
        for row in vectors_mut::<S, T>(sums).chunks_exact_mut(step / T::lanes::<S>()) {
            for (sum, inverse) in row.iter_mut().zip(inverse) {
                *sum = T::vmul(simd, *sum, *inverse);
            }
            // After the division, so that the bits are those of the unscaled row times its scale.
            if self.row_scale.is_some() {
                for (sum, gate) in row.iter_mut().zip(gate) {
                    *sum = T::vmul(simd, *sum, *gate);
                }
            }
        }
        o.write_columns(simd, sums, step);
    }
}

/// ln(2^max · total)
fn natural_log<T: Real>(max: T, total: T) -> T {
    T::of(max.wide() * LN_2 + total.log().wide())
}

/// Joins the parts of one row, in order: `parts` are `[count][2 + value_dim]` as [`Output::Part`] has them, `stride` apart.
///
/// `sink`: in base 2. Returns lse, and leaves o (times `factor`) in `out`.
pub(super) fn combine<T: Real>(
    parts: &[T],
    stride: usize,
    count: usize,
    sink: Option<T>,
    factor: T,
    out: &mut [T],
) -> T {
    let part = |n: usize| &parts[n * stride..][..2 + out.len()];
    // A part that saw nothing has the lowest maximum and a total of 0.
    let sink = sink.filter(|&sink| sink != T::NEG_INFINITY);
    let largest = |a: T, b: T| if b > a || b.is_nan() { b } else { a };
    let max = (0..count).map(|n| part(n)[0]).fold(sink.unwrap_or(T::LOWEST), largest);
    let mut total = sink.map_or(T::ZERO, |sink| (sink - max).power());
    let weights: Vec<T> = (0..count).map(|n| (part(n)[0] - max).power()).collect();
    for (n, &weight) in weights.iter().enumerate() {
        total += part(n)[1] * weight;
    }
    for (d, o) in out.iter_mut().enumerate() {
        *o = T::ZERO;
        for (n, &weight) in weights.iter().enumerate() {
            *o += parts[n * stride + 2 + d] * weight;
        }
    }
    let nothing = total == T::ZERO;
    out.iter_mut().for_each(|o| *o = if nothing { T::ZERO } else { *o * (T::ONE / total) * factor });
    if nothing { T::NEG_INFINITY } else { natural_log(max, total) }
}

/// Turns a tile of scores into weights relative to the running maximum; `shrink` is what earlier sums are multiplied by.
#[inline(always)]
fn softmax<S: Simd, T: Real>(
    simd: S,
    scores: &mut [T],
    step: usize,
    max: &mut [T],
    total: &mut [T],
    shrink: &mut [T],
) {
    match step / T::lanes::<S>() {
        width if width % 4 == 0 => softmax_by::<S, T, 4>(simd, scores, width / 4, max, total, shrink),
        width if width % 2 == 0 => softmax_by::<S, T, 2>(simd, scores, width / 2, max, total, shrink),
        width => softmax_by::<S, T, 1>(simd, scores, width, max, total, shrink),
    }
}

/// [`softmax`] by slabs of `U` vectors, `slabs` to a row.
#[inline(always)]
fn softmax_by<S: Simd, T: Real, const U: usize>(
    simd: S,
    scores: &mut [T],
    slabs: usize,
    max: &mut [T],
    total: &mut [T],
    shrink: &mut [T],
) {
    let (scores, _) = vectors_mut::<S, T>(scores).as_chunks_mut::<U>();
    let (max, _) = vectors_mut::<S, T>(max).as_chunks_mut::<U>();
    let (total, _) = vectors_mut::<S, T>(total).as_chunks_mut::<U>();
    let (shrink, _) = vectors_mut::<S, T>(shrink).as_chunks_mut::<U>();
    for slab in 0..slabs {
        let old = max[slab];
        let mut new = old;
        for row in scores[slab..].iter().step_by(slabs) {
            for u in 0..U {
                new[u] = T::max(simd, new[u], row[u]);
            }
        }
        let mut sum = [T::splat(simd, T::ZERO); U];
        for row in scores[slab..].iter_mut().step_by(slabs) {
            for u in 0..U {
                row[u] = T::exp2(simd, T::vsub(simd, row[u], new[u]));
                sum[u] = T::vadd(simd, sum[u], row[u]);
            }
        }
        for u in 0..U {
            shrink[slab][u] = T::exp2(simd, T::vsub(simd, old[u], new[u]));
            total[slab][u] = T::mul_add(simd, total[slab][u], shrink[slab][u], sum[u]);
        }
        max[slab] = new;
    }
}
