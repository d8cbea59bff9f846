//! Transposed copies between rows in memory and the lane layout, and dense copies padded to whole vectors.

use super::lanes::{Real, outlined};
use super::views::{Rows, RowsMut};
use pulp::Simd;

const BLOCK: usize = 8;

/// `packed[d][i] = rows[i][d] · scale`, `step` columns to a row of `packed`, zeros in those beyond the last row.
#[inline(always)]
fn pack_inline<T: Real>(rows: Rows<'_, T>, scale: T, packed: &mut [T], step: usize) {
    let (count, dim) = (rows.rows(), rows.dim());
    let (whole_rows, whole_dim) = (count / BLOCK * BLOCK, dim / BLOCK * BLOCK);
    for i in (0..whole_rows).step_by(BLOCK) {
        for d in (0..whole_dim).step_by(BLOCK) {
            let block: [[T; BLOCK]; BLOCK] = std::array::from_fn(|y| {
                let row = &rows.row(i + y)[d..d + BLOCK];
                std::array::from_fn(|x| row[x] * scale)
            });
            for (x, column) in transposed(block).iter().enumerate() {
                packed[(d + x) * step + i..][..BLOCK].copy_from_slice(column);
            }
        }
        for d in whole_dim..dim {
            for y in i..i + BLOCK {
                packed[d * step + y] = rows.row(y)[d] * scale;
            }
        }
    }
    for i in whole_rows..count {
        for (d, &x) in rows.row(i).iter().enumerate() {
            packed[d * step + i] = x * scale;
        }
    }
    if count < step {
        for d in 0..dim {
            packed[d * step + count..(d + 1) * step].fill(T::ZERO);
        }
    }
}

/// `rows[i][d] = packed[d][i]` for every row and all of its elements.
#[inline(always)]
fn unpack_inline<T: Real>(packed: &[T], step: usize, rows: &mut RowsMut<'_, T>) {
    let (count, dim) = (rows.rows(), rows.dim());
    let (whole_rows, whole_dim) = (count / BLOCK * BLOCK, dim / BLOCK * BLOCK);
    for i in (0..whole_rows).step_by(BLOCK) {
        for d in (0..whole_dim).step_by(BLOCK) {
            let block: [[T; BLOCK]; BLOCK] = std::array::from_fn(|x| {
                let column = &packed[(d + x) * step + i..][..BLOCK];
                std::array::from_fn(|y| column[y])
            });
            for (y, row) in transposed(block).iter().enumerate() {
                rows.row(i + y)[d..d + BLOCK].copy_from_slice(row);
            }
        }
        for y in i..i + BLOCK {
            for d in whole_dim..dim {
                rows.row(y)[d] = packed[d * step + y];
            }
        }
    }
    for i in whole_rows..count {
        for (d, x) in rows.row(i).iter_mut().enumerate() {
            *x = packed[d * step + i];
        }
    }
}

outlined! {
    Pack { rows: Rows<'a, T>, scale: T, packed: &'a mut [T], step: usize }
    |_simd| pack_inline(rows, scale, packed, step)
}

outlined! {
    Unpack { packed: &'a [T], step: usize, rows: RowsMut<'a, T> }
    |_simd| { let mut rows = rows; unpack_inline(packed, step, &mut rows) }
}

/// `packed[d][i] = rows[i][d] · scale`, `step` columns to a row of `packed`, zeros in those beyond the last row.
#[inline(always)]
pub(super) fn pack_columns<S: Simd, T: Real>(
    simd: S,
    rows: Rows<'_, T>,
    scale: T,
    packed: &mut [T],
    step: usize,
) {
    simd.vectorize(Pack { rows, scale, packed, step });
}

/// `rows[i][d] = packed[d][i]` for every row and all of its elements.
#[inline(always)]
pub(super) fn unpack_columns<S: Simd, T: Real>(simd: S, packed: &[T], step: usize, rows: RowsMut<'_, T>) {
    simd.vectorize(Unpack { packed, step, rows });
}

/// `padded[i] = rows[i]`, followed by zeros up to `step`.
#[inline(always)]
pub(super) fn pad_rows<T: Real>(rows: Rows<'_, T>, padded: &mut [T], step: usize) {
    for (i, out) in padded.chunks_exact_mut(step).take(rows.rows()).enumerate() {
        let (values, padding) = out.split_at_mut(rows.dim());
        values.copy_from_slice(rows.row(i));
        padding.fill(T::ZERO);
    }
}

/// In registers: the compiler turns whole arrays into shuffles.
#[inline(always)]
fn transposed<T: Real>(block: [[T; BLOCK]; BLOCK]) -> [[T; BLOCK]; BLOCK] {
    std::array::from_fn(|x| std::array::from_fn(|y| block[y][x]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_and_unpacking_are_inverse_and_pad_with_zeros() {
        for count in [1, 7, 8, 9, 16, 23] {
            for dim in [1, 7, 8, 9, 24, 31] {
                let (row_step, step) = (dim + 2, 32);
                let data: Vec<f32> = (0..count * row_step).map(|i| i as f32).collect();
                let mut packed = vec![f32::NAN; dim * step];
                pack_inline(Rows::of(&data, count, row_step, dim), 2.0, &mut packed, step);
                for d in 0..dim {
                    for i in 0..step {
                        let want = if i < count { 2.0 * data[i * row_step + d] } else { 0.0 };
                        assert_eq!(packed[d * step + i], want, "{count}×{dim} at [{d}][{i}]");
                    }
                }
                let mut back = vec![-1.0; count * row_step];
                unpack_inline(&packed, step, &mut RowsMut::of(&mut back, count, row_step, dim));
                for (i, &got) in back.iter().enumerate() {
                    let want = if i % row_step < dim { 2.0 * data[i] } else { -1.0 };
                    assert_eq!(got, want, "{count}×{dim} at {i}");
                }
            }
        }
    }
}
