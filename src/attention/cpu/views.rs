//! Rows of floats in memory, any distance apart: what the products and the packing work on.

use super::lanes::Real;
use std::marker::PhantomData;

/// Rows to read: row `i` is the `dim` adjacent floats at `base + i·step`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, T> {
    base: *const T,
    step: usize,
    rows: usize,
    dim: usize,
    borrow: PhantomData<&'a [T]>,
}

/// Rows to write, each named once.
pub(super) struct RowsMut<'a, T> {
    base: *mut T,
    step: usize,
    rows: usize,
    dim: usize,
    borrow: PhantomData<&'a mut [T]>,
}

fn fits(len: usize, rows: usize, step: usize, dim: usize) -> bool {
    rows == 0 || (rows - 1).checked_mul(step).and_then(|n| n.checked_add(dim)).is_some_and(|end| end <= len)
}

impl<'a, T: Real> Rows<'a, T> {
    /// The first `rows` rows of `dim` floats, `step` apart, of a slice that holds them.
    #[inline(always)]
    pub(super) fn of(data: &'a [T], rows: usize, step: usize, dim: usize) -> Self {
        assert!(fits(data.len(), rows, step, dim));
        Self { base: data.as_ptr(), step, rows, dim, borrow: PhantomData }
    }

    /// # Safety
    /// For `'a`, each of the `rows` rows, `step` apart from `base` on, is `dim` readable floats that nobody writes.
    #[inline(always)]
    pub(super) unsafe fn from_raw(base: *const T, rows: usize, step: usize, dim: usize) -> Self {
        Self { base, step, rows, dim, borrow: PhantomData }
    }

    #[inline(always)]
    pub(super) fn row(&self, i: usize) -> &'a [T] {
        assert!(i < self.rows);
        // SAFETY: construction promises `dim` readable floats at every row, for `'a`.
        unsafe { std::slice::from_raw_parts(self.base.add(i * self.step), self.dim) }
    }

    /// Rows `start..start + rows`.
    #[inline(always)]
    pub(super) fn range(&self, start: usize, rows: usize) -> Self {
        assert!(rows <= self.rows && start <= self.rows - rows);
        // Wrapping, because an empty range may stand past the memory's end.
        Self { base: self.base.wrapping_add(start * self.step), rows, ..*self }
    }

    /// Elements `start..start + dim` of every row.
    #[inline(always)]
    pub(super) fn columns(&self, start: usize, dim: usize) -> Self {
        assert!(dim <= self.dim && start <= self.dim - dim);
        Self { base: self.base.wrapping_add(start), dim, ..*self }
    }

    #[inline(always)]
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    #[inline(always)]
    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// Elements from a row to the next.
    #[inline(always)]
    pub(super) fn step(&self) -> usize {
        self.step
    }

    #[inline(always)]
    pub(super) fn as_ptr(&self) -> *const T {
        self.base
    }

    /// Whether no element is NaN or infinite.
    #[inline(always)]
    pub(super) fn all_finite(&self) -> bool {
        // x·0 is 0 for a finite x and NaN otherwise; sixteen sums, so that the compiler vectorises.
        (0..self.rows).all(|i| {
            let (chunks, rest) = self.row(i).as_chunks::<16>();
            let mut sums = [T::ZERO; 16];
            for chunk in chunks {
                for (sum, x) in sums.iter_mut().zip(chunk) {
                    *sum += *x * T::ZERO;
                }
            }
            sums.iter().chain(rest).all(|x| x.finite())
        })
    }
}

impl<'a, T: Real> RowsMut<'a, T> {
    /// As [`Rows::of`], to write.
    #[inline(always)]
    pub(super) fn of(data: &'a mut [T], rows: usize, step: usize, dim: usize) -> Self {
        assert!(fits(data.len(), rows, step, dim) && (rows <= 1 || step >= dim));
        Self { base: data.as_mut_ptr(), step, rows, dim, borrow: PhantomData }
    }

    /// # Safety
    /// For `'a`, each of the `rows` rows, `step` apart from `base` on, is `dim` floats that nothing else uses.
    #[inline(always)]
    pub(super) unsafe fn from_raw(base: *mut T, rows: usize, step: usize, dim: usize) -> Self {
        Self { base, step, rows, dim, borrow: PhantomData }
    }

    #[inline(always)]
    pub(super) fn row(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows);
        // SAFETY: construction promises `dim` floats at every row that nothing else uses; rows do not overlap.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(i * self.step), self.dim) }
    }

    /// Elements `start..start + dim` of every row, for as long as `self` is left alone.
    #[inline(always)]
    pub(super) fn columns(&mut self, start: usize, dim: usize) -> RowsMut<'_, T> {
        assert!(dim <= self.dim && start <= self.dim - dim);
        RowsMut {
            base: self.base.wrapping_add(start),
            dim,
            step: self.step,
            rows: self.rows,
            borrow: PhantomData,
        }
    }

    /// Rows `start..start + rows`, for as long as `self` is left alone.
    #[inline(always)]
    pub(super) fn range(&mut self, start: usize, rows: usize) -> RowsMut<'_, T> {
        assert!(rows <= self.rows && start <= self.rows - rows);
        let base = self.base.wrapping_add(start * self.step);
        RowsMut { base, rows, step: self.step, dim: self.dim, borrow: PhantomData }
    }

    #[inline(always)]
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    #[inline(always)]
    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// Elements from a row to the next.
    #[inline(always)]
    pub(super) fn step(&self) -> usize {
        self.step
    }

    #[inline(always)]
    pub(super) fn as_mut_ptr(&mut self) -> *mut T {
        self.base
    }

    pub(super) fn zero(&mut self) {
        for i in 0..self.rows {
            self.row(i).fill(T::ZERO);
        }
    }
}
