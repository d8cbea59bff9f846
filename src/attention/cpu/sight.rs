//! Which query sees which key, and what that means for tiles of scores.

use super::product::{Left, Product, Write, product};
use super::views::{Rows, RowsMut};
use pulp::Simd;
use std::ops::Range;

/// What the queries of one sample see: always the first so many keys.
#[derive(Clone, Copy)]
pub(super) struct Sight {
    /// Keys that exist.
    pub(super) keys: usize,
    /// Position of query 0 under a causal mask.
    pub(super) causal_from: Option<i64>,
}

impl Sight {
    /// How many keys query `i` sees.
    #[inline(always)]
    pub(super) fn visible(self, query: usize) -> usize {
        match self.causal_from {
            None => self.keys,
            Some(from) => (from + query as i64 + 1).clamp(0, self.keys as i64) as usize,
        }
    }

    /// The first query that sees `key`, which exists.
    #[inline(always)]
    pub(super) fn first_query(self, key: usize) -> usize {
        self.causal_from.map_or(0, |from| (key as i64 - from).max(0) as usize)
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
pub(super) struct Tile {
    pub(super) sight: Sight,
    pub(super) streamed: Streamed,
    pub(super) key: usize,
    pub(super) query: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl Tile {
    /// Columns that a row pairs with. The others are hidden; columns from `cols` on are padding and count as either.
    #[inline(always)]
    fn columns(&self, row: usize) -> Range<usize> {
        match self.streamed {
            Streamed::Keys => {
                self.sight.first_query(self.key + row).saturating_sub(self.query).min(self.cols)..self.cols
            }
            Streamed::Queries => {
                0..self.sight.visible(self.query + row).saturating_sub(self.key).min(self.cols)
            }
        }
    }

    /// The rows that have hidden columns.
    #[inline(always)]
    fn partial(&self) -> Range<usize> {
        match self.streamed {
            Streamed::Keys => {
                self.sight.visible(self.query).saturating_sub(self.key).min(self.rows)..self.rows
            }
            Streamed::Queries => {
                let last_key = self.key + self.cols.max(1) - 1;
                0..self.sight.first_query(last_key).saturating_sub(self.query).min(self.rows)
            }
        }
    }

    /// Overwrites hidden scores with `value`. `tile` has rows of `step ≥ cols`.
    #[inline(always)]
    pub(super) fn hide(&self, tile: &mut [f32], step: usize, value: f32) {
        for row in self.partial() {
            let visible = self.columns(row);
            let scores = &mut tile[row * step..][..step];
            match self.streamed {
                Streamed::Keys => scores[..visible.start].fill(value),
                Streamed::Queries => scores[visible.end..].fill(value),
            }
        }
    }

    /// `sums[e][col] (+)= Σ_row x[row][e] · weights[row][col]`, where hidden weights are 0 and hidden `x` contribute nothing,
    /// even if they are NaN.
    ///
    /// `x`: `rows` rows. `weights`: rows of `step`, a multiple of the vector width. `sums`: `x.dim()` rows of `step`.
    /// `clean`: room for `rows · x.dim()`.
    #[inline(always)]
    pub(super) fn accumulate_streamed<S: Simd>(
        &self,
        simd: S,
        x: Rows<'_>,
        weights: &[f32],
        step: usize,
        sums: &mut [f32],
        write: Write<'_>,
        clean: &mut [f32],
    ) {
        let partial = self.partial();
        let dim = x.dim();
        let b = Rows::of(weights, x.rows(), step, step);
        if partial.is_empty() || x.range(partial.start, partial.len()).all_finite() {
            let c = RowsMut::of(sums, dim, step, step);
            product(simd, Product { a: Left::Columns(x), b, c, cols: step, write });
            return;
        }
        // 0·NaN would reach every column: multiply a copy without the offenders, then add them where they are seen.
        copy_finite(x, partial.clone(), clean);
        let a = Left::Columns(Rows::of(clean, x.rows(), dim, dim));
        product(simd, Product { a, b, c: RowsMut::of(sums, dim, step, step), cols: step, write });
        for row in partial {
            for (e, &value) in x.row(row).iter().enumerate().filter(|(_, value)| !value.is_finite()) {
                for col in self.columns(row) {
                    sums[e * step + col] += value * weights[row * step + col];
                }
            }
        }
    }

    /// `sums[row] += Σ_col weights[row][col] · x[col]` for rows of `sums`, under the same promise.
    ///
    /// `x`: `cols` rows, padded with zeros from `sums.dim()` to a multiple of the vector width. `finite`: whether all of `x` is.
    #[inline(always)]
    pub(super) fn accumulate_packed<S: Simd>(
        &self,
        simd: S,
        weights: &[f32],
        step: usize,
        x: Rows<'_>,
        finite: bool,
        mut sums: RowsMut<'_>,
        clean: &mut [f32],
    ) {
        let (dim, cols) = (x.dim(), sums.dim());
        let a = Left::Rows(Rows::of(weights, self.rows, step, self.cols));
        let partial = self.partial();
        if finite || partial.is_empty() {
            let c = sums.range(0, self.rows);
            product(simd, Product { a, b: x, c, cols, write: Write::Add });
            return;
        }
        copy_finite(x, 0..x.rows(), clean);
        let b = Rows::of(clean, x.rows(), dim, dim);
        product(simd, Product { a, b, c: sums.range(0, self.rows), cols, write: Write::Add });
        for row in 0..self.rows {
            let sums = sums.row(row);
            for col in self.columns(row) {
                for (sum, &value) in sums.iter_mut().zip(x.row(col)).filter(|(_, value)| !value.is_finite()) {
                    *sum += value * weights[row * step + col];
                }
            }
        }
    }
}

/// Copies `x` densely, with 0 for what is not finite in the rows `suspects`.
#[inline(always)]
fn copy_finite(x: Rows<'_>, suspects: Range<usize>, out: &mut [f32]) {
    for (i, out) in out.chunks_exact_mut(x.dim()).take(x.rows()).enumerate() {
        out.copy_from_slice(x.row(i));
        if suspects.contains(&i) {
            out.iter_mut().filter(|value| !value.is_finite()).for_each(|value| *value = 0.0);
        }
    }
}
