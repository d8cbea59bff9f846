//! Which query sees which key, and what that means for tiles of scores.

use super::lanes::{Real, outlined, vectors, vectors_mut};
use super::product::{Left, Product, Write, product};
use super::views::{Rows, RowsMut};
use pulp::Simd;
use std::ops::Range;

/// Columns of a tile with bad values that are cleaned at a time.
pub(super) const CLEAN: usize = 256;

/// What the queries of one sample see: keys `first..keys`, and of those a band around each query's position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sight {
    /// The first key anybody sees.
    pub(super) first: usize,
    /// Keys that exist.
    pub(super) keys: usize,
    /// Position of query 0.
    pub(super) from: i64,
    /// How many keys before and after its position a query sees. Far below the range of i64; `None` is all.
    pub(super) left: Option<i64>,
    pub(super) right: Option<i64>,
}

impl Sight {
    /// The keys that `query` sees.
    #[inline(always)]
    pub(super) fn visible(self, query: usize) -> Range<usize> {
        let position = self.from + query as i64;
        let (first, keys) = (self.first as i64, self.keys as i64);
        let end = self.right.map_or(keys, |right| (position + right + 1).min(keys));
        let start = self.left.map_or(first, |left| (position - left).max(first));
        // An empty range, and anything outside, collapses within `first..=keys`.
        let end = end.max(first);
        start.min(end) as usize..end as usize
    }

    /// The queries that see `key`.
    #[inline(always)]
    pub(super) fn viewers(self, key: usize) -> Range<usize> {
        if key < self.first || key >= self.keys {
            return 0..0;
        }
        let relative = key as i64 - self.from;
        let start = self.right.map_or(0, |right| (relative - right).max(0) as usize);
        let end = self.left.map_or(usize::MAX, |left| (relative + left + 1).max(0) as usize);
        start.min(end)..end
    }

    /// The keys that some of the queries sees.
    #[inline(always)]
    pub(super) fn visible_to(self, queries: Range<usize>) -> Range<usize> {
        let (start, end) = (self.visible(queries.start).start, self.visible(queries.end.max(1) - 1).end);
        start.min(end)..end
    }

    /// The queries that see some of the keys, of which there are some.
    #[inline(always)]
    pub(super) fn viewers_of(self, keys: Range<usize>) -> Range<usize> {
        let (start, end) = (keys.start.max(self.first), keys.end.min(self.keys));
        if start >= end {
            return 0..0;
        }
        self.viewers(start).start..self.viewers(end - 1).end
    }
}

/// What runs down the rows of a score tile; the other one runs across its columns, the lanes of the vectors.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Streamed {
    Keys,
    Queries,
}

/// A tile of scores: `rows` streamed against `cols` packed, from key `key` and query `query` on.
#[derive(Clone, Copy)]
pub(super) struct Tile<'t, T> {
    pub(super) sight: Sight,
    pub(super) streamed: Streamed,
    pub(super) key: usize,
    pub(super) query: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// What is added to the scores, laid out as they are, if any of it is −∞: those are hidden too.
    pub(super) hidden: Option<&'t [T]>,
}

impl<T: Real> Tile<'_, T> {
    /// Columns that the band pairs with a row; columns from `cols` on are padding.
    #[inline(always)]
    fn columns(&self, row: usize) -> Range<usize> {
        let (range, start) = match self.streamed {
            Streamed::Keys => (self.sight.viewers(self.key + row), self.query),
            Streamed::Queries => (self.sight.visible(self.query + row), self.key),
        };
        let at = |x: usize| x.saturating_sub(start).min(self.cols);
        at(range.start)..at(range.end)
    }

    /// The rows without columns that the band hides.
    #[inline(always)]
    fn full(&self) -> Range<usize> {
        let (range, start) = match self.streamed {
            Streamed::Keys => {
                let last = self.sight.visible(self.query + self.cols.max(1) - 1);
                let first = self.sight.visible(self.query);
                // An empty range says nothing about where the band is.
                let nothing = first.is_empty() || last.is_empty();
                (if nothing { 0..0 } else { last.start..first.end }, self.key)
            }
            Streamed::Queries => {
                let last = self.sight.viewers(self.key + self.cols.max(1) - 1);
                let first = self.sight.viewers(self.key);
                let nothing = first.is_empty() || last.is_empty();
                (if nothing { 0..0 } else { last.start..first.end }, self.query)
            }
        };
        let at = |x: usize| x.saturating_sub(start).min(self.rows);
        at(range.start)..at(range.end).max(at(range.start))
    }

    /// The rows that may have hidden columns: before the first range's end, and from the second's start.
    #[inline(always)]
    fn partial(&self) -> [Range<usize>; 2] {
        if self.hidden.is_some() {
            return [0..self.rows, 0..0];
        }
        let full = self.full();
        [0..full.start, full.end..self.rows]
    }

    /// Whether row and column are paired.
    #[inline(always)]
    pub(super) fn sees(&self, row: usize, col: usize, step: usize) -> bool {
        self.columns(row).contains(&col)
            && self.hidden.is_none_or(|hidden| hidden[row * step + col] != T::NEG_INFINITY)
    }

    /// Overwrites hidden scores with `value`. `tile` has rows of `step ≥ cols`.
    #[inline(always)]
    pub(super) fn hide<S: Simd>(&self, simd: S, tile: &mut [T], step: usize, value: T) {
        if self.hidden.is_some() || self.full().len() < self.rows {
            simd.vectorize(Hide { of: *self, tile, step, value });
        }
    }

    /// `sums[e][col] (+)= Σ_row x[row][e] · weights[row][col]`, where hidden weights are 0 and hidden `x` contribute nothing,
    /// even if they are NaN.
    ///
    /// `x`: `rows` rows. `weights`: rows of `step`, a multiple of the vector width. `sums`: `x.dim()` rows of `step`.
    /// `clean`: room for `rows · min(x.dim(), CLEAN)`.
    #[inline(always)]
    pub(super) fn accumulate_streamed<S: Simd>(
        &self,
        simd: S,
        x: Rows<'_, T>,
        weights: &[T],
        step: usize,
        sums: &mut [T],
        write: Write<'_, T>,
        clean: &mut [T],
    ) {
        let partial = self.partial();
        let dim = x.dim();
        let b = Rows::of(weights, x.rows(), step, step);
        if partial.iter().all(|rows| rows.is_empty() || x.range(rows.start, rows.len()).all_finite()) {
            let c = RowsMut::of(sums, dim, step, step);
            product(simd, Product { a: Left::Columns(x), b, c, cols: step, write });
            return;
        }
        simd.vectorize(Streaming { of: *self, x, weights, step, sums, write, clean });
    }

    /// `sums[row] += Σ_col weights[row][col] · x[col]` for rows of `sums`, under the same promise.
    ///
    /// `x`: `cols` rows, padded with zeros from `sums.dim()` to a multiple of the vector width. `finite`: whether all of `x` is.
    #[inline(always)]
    pub(super) fn accumulate_packed<S: Simd>(
        &self,
        simd: S,
        weights: &[T],
        step: usize,
        x: Rows<'_, T>,
        finite: bool,
        mut sums: RowsMut<'_, T>,
        clean: &mut [T],
    ) {
        let cols = sums.dim();
        let a = Left::Rows(Rows::of(weights, self.rows, step, self.cols));
        if finite || self.partial().iter().all(Range::is_empty) {
            let c = sums.range(0, self.rows);
            product(simd, Product { a, b: x, c, cols, write: Write::Add });
            return;
        }
        simd.vectorize(Packing { of: *self, weights, step, x, sums, clean });
    }
}

outlined! {
    Hide { of: Tile<'a, T>, tile: &'a mut [T], step: usize, value: T }
    |simd| {
        let full = of.full();
        for row in (0..full.start).chain(full.end..of.rows) {
            let visible = of.columns(row);
            let scores = &mut tile[row * step..][..step];
            scores[..visible.start].fill(value);
            scores[visible.end..].fill(value);
        }
        if let Some(hidden) = of.hidden {
            let (value, lowest) = (T::splat(simd, value), T::splat(simd, T::LOWEST));
            for (x, hidden) in vectors_mut::<S, T>(tile).iter_mut().zip(vectors::<S, T>(hidden)) {
                *x = T::select_less(simd, *hidden, lowest, value, *x);
            }
        }
    }
}

outlined! {
    /// 0·NaN would reach every column: multiplies a copy without the offenders, then adds them where they are seen.
    Streaming {
        of: Tile<'a, T>,
        x: Rows<'a, T>,
        weights: &'a [T],
        step: usize,
        sums: &'a mut [T],
        write: Write<'a, T>,
        clean: &'a mut [T],
    }
    |simd| {
        let partial = of.partial();
        let suspect = |row: usize| partial.iter().any(|rows| rows.contains(&row));
        let b = Rows::of(weights, x.rows(), step, step);
        for first in (0..x.dim()).step_by(CLEAN) {
            let width = CLEAN.min(x.dim() - first);
            let (x, sums) = (x.columns(first, width), &mut sums[first * step..][..width * step]);
            copy_finite(x, suspect, clean);
            let a = Left::Columns(Rows::of(clean, x.rows(), width, width));
            product(simd, Product { a, b, c: RowsMut::of(sums, width, step, step), cols: step, write });
            for row in (0..x.rows()).filter(|&row| suspect(row)) {
                for (e, &value) in x.row(row).iter().enumerate().filter(|(_, value)| !value.finite()) {
                    for col in of.columns(row).filter(|&col| of.sees(row, col, step)) {
                        sums[e * step + col] += value * weights[row * step + col];
                    }
                }
            }
        }
    }
}

outlined! {
    /// As [`Streaming`], the other way round.
    Packing {
        of: Tile<'a, T>,
        weights: &'a [T],
        step: usize,
        x: Rows<'a, T>,
        sums: RowsMut<'a, T>,
        clean: &'a mut [T],
    }
    |simd| {
        let mut sums = sums;
        let a = Left::Rows(Rows::of(weights, of.rows, step, of.cols));
        let cols = sums.dim();
        for first in (0..cols).step_by(CLEAN) {
            let width = CLEAN.min(cols - first);
            let x = x.columns(first, CLEAN.min(x.dim() - first));
            let mut sums = sums.columns(first, width);
            copy_finite(x, |_| true, clean);
            let b = Rows::of(clean, x.rows(), x.dim(), x.dim());
            product(simd, Product { a, b, c: sums.range(0, of.rows), cols: width, write: Write::Add });
            for row in 0..of.rows {
                let sums = sums.row(row);
                for col in of.columns(row).filter(|&col| of.sees(row, col, step)) {
                    let bad = sums.iter_mut().zip(x.row(col)).filter(|(_, value)| !value.finite());
                    for (sum, &value) in bad {
                        *sum += value * weights[row * step + col];
                    }
                }
            }
        }
    }
}

/// Copies `x` densely, with 0 for what is not finite in suspect rows.
#[inline(always)]
fn copy_finite<T: Real>(x: Rows<'_, T>, suspect: impl Fn(usize) -> bool, out: &mut [T]) {
    for (i, out) in out.chunks_exact_mut(x.dim()).take(x.rows()).enumerate() {
        out.copy_from_slice(x.row(i));
        if suspect(i) {
            out.iter_mut().filter(|value| !value.finite()).for_each(|value| *value = T::ZERO);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_are_the_formulas() {
        let sides = [None, Some(0), Some(1), Some(5), Some(1 << 40)];
        for (left, right) in sides.iter().flat_map(|l| sides.iter().map(move |r| (*l, *r))) {
            for (first, keys) in [(0, 9), (3, 7), (4, 4), (0, 0), (0, 1)] {
                for from in [-20, -3, 0, 2, 30] {
                    let sight = Sight { first, keys, from, left, right };
                    let sees = |i: usize, j: usize| {
                        let distance = j as i64 - (from + i as i64);
                        (first..keys).contains(&j)
                            && left.is_none_or(|l| distance >= -l)
                            && right.is_none_or(|r| distance <= r)
                    };
                    for i in 0..12 {
                        for j in 0..12 {
                            assert_eq!(sight.visible(i).contains(&j), sees(i, j), "{sight:?} {i} {j}");
                            assert_eq!(sight.viewers(j).contains(&i), sees(i, j), "{sight:?} {i} {j}");
                        }
                    }
                    for (streamed, key, query) in [(Streamed::Keys, 2, 1), (Streamed::Queries, 1, 3)] {
                        let tile: Tile<'_, f32> =
                            Tile { sight, streamed, key, query, rows: 5, cols: 4, hidden: None };
                        let pair = |row: usize, col: usize| match streamed {
                            Streamed::Keys => sees(query + col, key + row),
                            Streamed::Queries => sees(query + row, key + col),
                        };
                        for row in 0..5 {
                            let all = (0..4).all(|col| pair(row, col));
                            assert!(!tile.full().contains(&row) || all, "{sight:?} row {row}");
                            for col in 0..4 {
                                assert_eq!(
                                    tile.sees(row, col, 4),
                                    pair(row, col),
                                    "{sight:?} [{row}][{col}]"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}
