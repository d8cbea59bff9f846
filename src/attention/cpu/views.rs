//! Rows of floats in somebody's memory: how kernels see queries, keys, values and outputs of any strides.

use crate::error::{Error, Result};
use crate::tensor::{TensorMut, TensorRef};
use std::marker::PhantomData;

/// Rows to read: row `i` is the `dim` adjacent floats at `base + i·step`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    base: *const f32,
    step: usize,
    rows: usize,
    dim: usize,
    borrow: PhantomData<&'a [f32]>,
}

/// Rows to write, each named once.
pub(super) struct RowsMut<'a> {
    base: *mut f32,
    step: usize,
    rows: usize,
    dim: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

fn fits(len: usize, rows: usize, step: usize, dim: usize) -> bool {
    rows == 0 || (rows - 1).checked_mul(step).and_then(|n| n.checked_add(dim)).is_some_and(|end| end <= len)
}

impl<'a> Rows<'a> {
    /// The first `rows` rows of `dim` floats, `step` apart, of a slice that holds them.
    #[inline(always)]
    pub(super) fn of(data: &'a [f32], rows: usize, step: usize, dim: usize) -> Self {
        assert!(fits(data.len(), rows, step, dim));
        Self { base: data.as_ptr(), step, rows, dim, borrow: PhantomData }
    }

    #[inline(always)]
    pub(super) fn row(&self, i: usize) -> &'a [f32] {
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
    pub(super) fn as_ptr(&self) -> *const f32 {
        self.base
    }

    /// Whether no element is NaN or infinite.
    #[inline(always)]
    pub(super) fn all_finite(&self) -> bool {
        // x·0 is 0 for a finite x and NaN otherwise; sixteen sums, so that the compiler vectorises.
        (0..self.rows).all(|i| {
            let (chunks, rest) = self.row(i).as_chunks::<16>();
            let mut sums = [0.0f32; 16];
            for chunk in chunks {
                for (sum, x) in sums.iter_mut().zip(chunk) {
                    *sum += x * 0.0;
                }
            }
            sums.iter().chain(rest).all(|x| x.is_finite())
        })
    }
}

impl<'a> RowsMut<'a> {
    /// As [`Rows::of`], to write.
    #[inline(always)]
    pub(super) fn of(data: &'a mut [f32], rows: usize, step: usize, dim: usize) -> Self {
        assert!(fits(data.len(), rows, step, dim) && (rows <= 1 || step >= dim));
        Self { base: data.as_mut_ptr(), step, rows, dim, borrow: PhantomData }
    }

    #[inline(always)]
    pub(super) fn row(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows);
        // SAFETY: construction promises `dim` floats at every row that nothing else uses; rows do not overlap.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(i * self.step), self.dim) }
    }

    /// Rows `start..start + rows`, for as long as `self` is left alone.
    #[inline(always)]
    pub(super) fn range(&mut self, start: usize, rows: usize) -> RowsMut<'_> {
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
    pub(super) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.base
    }

    pub(super) fn zero(&mut self) {
        for i in 0..self.rows {
            self.row(i).fill(0.0);
        }
    }
}

/// Strides and sizes of `[batch, heads, rows, dim]`, or of `[batch, heads, rows]` with `dim = 1`.
#[derive(Clone, Copy)]
struct Heads {
    shape: [usize; 4],
    steps: [usize; 3],
}

impl Heads {
    fn of(tensor: &TensorRef<'_>) -> Self {
        let layout = tensor.layout();
        let size = |i: usize| layout.shape().get(i).copied().unwrap_or(1);
        Self {
            shape: [size(0), size(1), size(2), size(3)],
            steps: [layout.step(0), layout.step(1), layout.step(2)],
        }
    }

    /// Index of the first element of a head.
    fn start(&self, b: usize, h: usize) -> usize {
        assert!(b < self.shape[0] && h < self.shape[1]);
        b * self.steps[0] + h * self.steps[1]
    }
}

/// A rank-4 tensor, or a rank-3 tensor seen with a last dimension of 1, by heads.
#[derive(Clone, Copy)]
pub(super) struct HeadsRef<'a> {
    base: *const f32,
    heads: Heads,
    borrow: PhantomData<&'a [f32]>,
}

/// As [`HeadsRef`], to write from several threads.
#[derive(Clone, Copy)]
pub(super) struct HeadsMut<'a> {
    base: *mut f32,
    heads: Heads,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: stands for a `&[f32]`.
unsafe impl Send for HeadsRef<'_> {}
// SAFETY: as above.
unsafe impl Sync for HeadsRef<'_> {}
// SAFETY: stands for a `&mut [f32]` whose parts are handed out under the contract of `HeadsMut::head`.
unsafe impl Send for HeadsMut<'_> {}
// SAFETY: as above.
unsafe impl Sync for HeadsMut<'_> {}

/// Validation lets only f32 tensors of one device through, so this is not seen by callers.
fn not_on_cpu(op: &'static str, arg: &'static str) -> Error {
    Error::argument(op, arg, "is not an f32 tensor in host memory")
}

impl<'a> HeadsRef<'a> {
    /// `tensor`: rank 3, or rank 4 with its last dimension contiguous; f32, in host memory.
    pub(super) fn new(op: &'static str, arg: &'static str, tensor: &TensorRef<'a>) -> Result<Self> {
        let base = tensor.cpu_ptr::<f32>().ok_or_else(|| not_on_cpu(op, arg))?;
        Ok(Self { base, heads: Heads::of(tensor), borrow: PhantomData })
    }

    pub(super) fn head(&self, b: usize, h: usize) -> Rows<'a> {
        let Heads { shape: [_, _, rows, dim], steps: [_, _, step] } = self.heads;
        Rows { base: self.base.wrapping_add(self.heads.start(b, h)), step, rows, dim, borrow: PhantomData }
    }
}

impl<'a> HeadsMut<'a> {
    /// As [`HeadsRef::new`].
    pub(super) fn new(op: &'static str, arg: &'static str, tensor: &'a mut TensorMut<'_>) -> Result<Self> {
        let base = tensor.cpu_ptr::<f32>().ok_or_else(|| not_on_cpu(op, arg))?;
        Ok(Self { base, heads: Heads::of(tensor.as_ref()), borrow: PhantomData })
    }

    /// # Safety
    /// No row of this head may be used through two results of this function at the same time.
    pub(super) unsafe fn head(&self, b: usize, h: usize) -> RowsMut<'a> {
        let Heads { shape: [_, _, rows, dim], steps: [_, _, step] } = self.heads;
        RowsMut { base: self.base.wrapping_add(self.heads.start(b, h)), step, rows, dim, borrow: PhantomData }
    }
}
