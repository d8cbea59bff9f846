//! Queries, keys, values and outputs where the caller has them: any strides, any element type, whole or in pages.
//!
//! The engine computes in f32 or f64. Tiles stored in that type are used in place; halves and tiles that cross pages are
//! copied to scratch when they are needed, which costs a few percent of the products made from them.

use super::lanes::Real;
use super::pack::unpack_columns;
use super::views::{Rows, RowsMut};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Memory, TensorMut, TensorRef};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use pulp::Simd;
use std::marker::PhantomData;

/// How elements are stored, beside the type computed in.
#[derive(Clone, Copy, PartialEq)]
enum Format {
    Same,
    F16,
    Bf16,
}

impl Format {
    fn of<T: Real>(dtype: DType) -> Option<Self> {
        match dtype {
            same if same == T::DTYPE => Some(Self::Same),
            DType::F16 if T::DTYPE == DType::F32 => Some(Self::F16),
            DType::BF16 if T::DTYPE == DType::F32 => Some(Self::Bf16),
            _ => None,
        }
    }

    fn size<T>(self) -> usize {
        if self == Self::Same { size_of::<T>() } else { 2 }
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

/// Where a CPU tensor's first element is, and how it is stored.
fn memory<T: Real>(op: &'static str, arg: &'static str, tensor: &TensorRef<'_>) -> Result<(*mut u8, Format)> {
    let format = Format::of::<T>(tensor.dtype());
    let wrong = || Error::DType { op, arg, expected: T::DTYPE.to_string(), got: tensor.dtype() };
    match tensor.memory() {
        Memory::Cpu { base, .. } => {
            let base = base.wrapping_add(tensor.layout().offset() * tensor.dtype().size());
            Ok((base, format.ok_or_else(wrong)?))
        }
        // Validation lets only tensors of one device through, so this is not seen by callers.
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        _ => Err(Error::argument(op, arg, "is not in host memory")),
    }
}

/// The pages of one sample.
#[derive(Clone, Copy)]
pub(super) struct Pages<'a> {
    /// Pages in the order of their keys.
    pub(super) numbers: &'a [usize],
    /// Rows of a page.
    pub(super) size: usize,
}

/// A rank-4 tensor, or a rank-3 tensor seen with a last dimension of 1, by heads.
#[derive(Clone, Copy)]
pub(super) struct Source<'a, T> {
    base: *const u8,
    format: Format,
    heads: Heads,
    borrow: PhantomData<&'a [T]>,
}

/// As [`Source`], to write from several threads.
#[derive(Clone, Copy)]
pub(super) struct Sink<'a, T> {
    base: *mut u8,
    format: Format,
    heads: Heads,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: stands for a slice that is only read.
unsafe impl<T: Sync> Send for Source<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Source<'_, T> {}
// SAFETY: stands for a mutable slice whose parts are handed out under the contract of `Sink::head`.
unsafe impl<T: Send> Send for Sink<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Sink<'_, T> {}

/// Rows of one (sample, head) pair, to read.
#[derive(Clone, Copy)]
pub(super) struct Head<'a, T> {
    base: *const u8,
    format: Format,
    /// Elements from a row to the next.
    step: usize,
    rows: usize,
    dim: usize,
    /// The sample's pages, and elements from a page to the next.
    pages: Option<(Pages<'a>, usize)>,
    borrow: PhantomData<&'a [T]>,
}

/// Rows of one (sample, head) pair, to write.
pub(super) struct HeadMut<'a, T> {
    base: *mut u8,
    format: Format,
    step: usize,
    rows: usize,
    dim: usize,
    borrow: PhantomData<&'a mut [T]>,
}

impl<'a, T: Real> Source<'a, T> {
    /// `tensor`: rank 3, or rank 4 with its last dimension contiguous; in host memory.
    pub(super) fn new(op: &'static str, arg: &'static str, tensor: &TensorRef<'a>) -> Result<Self> {
        let (base, format) = memory::<T>(op, arg, tensor)?;
        Ok(Self { base, format, heads: Heads::of(tensor), borrow: PhantomData })
    }

    /// All rows of a head.
    pub(super) fn head(&self, b: usize, h: usize) -> Head<'a, T> {
        let Heads { shape: [_, _, rows, dim], steps: [_, _, step] } = self.heads;
        let base = self.base.wrapping_add(self.heads.start(b, h) * self.format.size::<T>());
        Head { base, format: self.format, step, rows, dim, pages: None, borrow: PhantomData }
    }

    /// The first `rows` keys of a sample stored in pages, each a `b` of this tensor.
    pub(super) fn paged(&self, pages: Pages<'a>, h: usize, rows: usize) -> Head<'a, T> {
        assert!(rows <= pages.numbers.len() * pages.size && pages.size == self.heads.shape[2]);
        assert!(pages.numbers.iter().all(|&page| page < self.heads.shape[0]));
        if rows == 0 {
            return Head { rows, ..self.head_at(0, h) };
        }
        Head { rows, pages: Some((pages, self.heads.steps[0])), ..self.head_at(0, h) }
    }

    fn head_at(&self, b: usize, h: usize) -> Head<'a, T> {
        let Heads { shape: [_, _, rows, dim], steps: [_, _, step] } = self.heads;
        let at = b * self.heads.steps[0] + h * self.heads.steps[1];
        let base = self.base.wrapping_add(at * self.format.size::<T>());
        Head { base, format: self.format, step, rows, dim, pages: None, borrow: PhantomData }
    }

    /// Row `i` of `count` adjacent heads, as rows of one head.
    pub(super) fn across_heads(&self, b: usize, h: usize, count: usize, i: usize) -> Head<'a, T> {
        assert!(h + count <= self.heads.shape[1] && i < self.heads.shape[2]);
        let head = self.head(b, h);
        let base = head.base.wrapping_add(i * head.step * self.format.size::<T>());
        Head { base, step: self.heads.steps[1], rows: count, ..head }
    }
}

impl<'a, T: Real> Head<'a, T> {
    #[inline(always)]
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    #[inline(always)]
    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// Rows `start..start + rows`.
    pub(super) fn range(&self, start: usize, rows: usize) -> Self {
        assert!(rows <= self.rows && start <= self.rows - rows);
        assert!(self.pages.is_none() || start == 0, "pages are counted from a sample's first key");
        // Wrapping, because an empty range may stand past the memory's end.
        let base = self.base.wrapping_add(start * self.step * self.format.size::<T>());
        Self { base, rows, ..*self }
    }

    /// Room [`Head::tile`] needs for `rows` rows.
    #[inline(always)]
    pub(super) fn room(&self, rows: usize) -> usize {
        if self.format == Format::Same && self.pages.is_none() { 0 } else { rows * self.dim }
    }

    /// Rows `start..start + rows` in the engine's type: in place if they can be, else copied to `room`.
    #[inline(always)]
    pub(super) fn tile<'r>(&self, start: usize, rows: usize, room: &'r mut [T]) -> Rows<'r, T>
    where
        'a: 'r,
    {
        assert!(rows <= self.rows && start <= self.rows - rows);
        let in_place = self.format == Format::Same
            && self
                .pages
                .is_none_or(|(pages, _)| rows > 0 && start / pages.size == (start + rows - 1) / pages.size);
        if in_place {
            // SAFETY: construction and validation promise `rows` rows of `dim` readable elements for `'a`.
            return unsafe { Rows::from_raw(self.row(start).cast(), rows, self.step, self.dim) };
        }
        for (i, out) in room.chunks_exact_mut(self.dim).take(rows).enumerate() {
            self.read(start + i, out);
        }
        Rows::of(room, rows, self.dim, self.dim)
    }

    #[inline(always)]
    fn row(&self, i: usize) -> *const u8 {
        let at = match self.pages {
            None => i * self.step,
            Some((pages, step)) => pages.numbers[i / pages.size] * step + i % pages.size * self.step,
        };
        self.base.wrapping_add(at * self.format.size::<T>())
    }

    /// Copies row `i`.
    #[inline(always)]
    pub(super) fn read(&self, i: usize, out: &mut [T]) {
        assert!(i < self.rows && out.len() == self.dim);
        let row = self.row(i);
        // SAFETY: `dim` elements of the format stand at every row below `rows`, for `'a`.
        unsafe {
            match self.format {
                Format::Same => {
                    out.copy_from_slice(std::slice::from_raw_parts(row.cast::<T>(), self.dim));
                }
                Format::F16 => T::from_f16(std::slice::from_raw_parts(row.cast::<f16>(), self.dim), out),
                Format::Bf16 => T::from_bf16(std::slice::from_raw_parts(row.cast::<bf16>(), self.dim), out),
            }
        }
    }

    /// The only element of row `i` of a rank-3 tensor.
    #[inline(always)]
    pub(super) fn number(&self, i: usize) -> T {
        let mut out = [T::ZERO];
        self.read(i, &mut out);
        out[0]
    }
}

impl<'a, T: Real> Sink<'a, T> {
    /// As [`Source::new`].
    pub(super) fn new(op: &'static str, arg: &'static str, tensor: &'a mut TensorMut<'_>) -> Result<Self> {
        let tensor = tensor.as_ref();
        let (base, format) = memory::<T>(op, arg, tensor)?;
        Ok(Self { base, format, heads: Heads::of(tensor), borrow: PhantomData })
    }

    /// # Safety
    /// No row of this head may be used through two results of this function, or of [`Sink::across_heads`], at the same time.
    pub(super) unsafe fn head(&self, b: usize, h: usize) -> HeadMut<'a, T> {
        let Heads { shape: [_, _, rows, dim], steps: [_, _, step] } = self.heads;
        let base = self.base.wrapping_add(self.heads.start(b, h) * self.format.size::<T>());
        HeadMut { base, format: self.format, step, rows, dim, borrow: PhantomData }
    }

    /// Row `i` of `count` adjacent heads, as rows of one head.
    ///
    /// # Safety
    /// As [`Sink::head`].
    pub(super) unsafe fn across_heads(&self, b: usize, h: usize, count: usize, i: usize) -> HeadMut<'a, T> {
        assert!(h + count <= self.heads.shape[1] && i < self.heads.shape[2]);
        // SAFETY: the caller's promise.
        let head = unsafe { self.head(b, h) };
        let base = head.base.wrapping_add(i * head.step * self.format.size::<T>());
        HeadMut { base, step: self.heads.steps[1], rows: count, ..head }
    }

    /// Whether elements are stored in the engine's own type.
    pub(super) fn in_place(&self) -> bool {
        self.format == Format::Same
    }
}

impl<T: Real> HeadMut<'_, T> {
    #[inline(always)]
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    #[inline(always)]
    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// Only rows `start..start + rows`.
    pub(super) fn part(self, start: usize, rows: usize) -> Self {
        assert!(rows <= self.rows && start <= self.rows - rows);
        let base = self.base.wrapping_add(start * self.step * self.format.size::<T>());
        Self { base, rows, ..self }
    }

    /// Whether elements are stored in the engine's own type.
    pub(super) fn is_in_place(&self) -> bool {
        self.format == Format::Same
    }

    /// Rows `start..start + rows`, for as long as `self` is left alone.
    #[inline(always)]
    pub(super) fn range(&mut self, start: usize, rows: usize) -> HeadMut<'_, T> {
        assert!(rows <= self.rows && start <= self.rows - rows);
        let base = self.base.wrapping_add(start * self.step * self.format.size::<T>());
        HeadMut { base, rows, format: self.format, step: self.step, dim: self.dim, borrow: PhantomData }
    }

    /// The rows themselves, if they are stored in the engine's type.
    #[inline(always)]
    pub(super) fn in_place(&mut self) -> Option<RowsMut<'_, T>> {
        // SAFETY: construction promises `rows` rows of `dim` elements that nothing else uses while `self` is borrowed.
        (self.format == Format::Same)
            .then(|| unsafe { RowsMut::from_raw(self.base.cast(), self.rows, self.step, self.dim) })
    }

    #[inline(always)]
    pub(super) fn write(&mut self, i: usize, values: &[T]) {
        assert!(i < self.rows && values.len() == self.dim);
        let row = self.base.wrapping_add(i * self.step * self.format.size::<T>());
        // SAFETY: `dim` elements of the format stand at every row below `rows`, and nothing else uses them. Only f32 is
        // computed from halves, so the casts of `values` are from f32 to f32.
        unsafe {
            match self.format {
                Format::Same => {
                    std::slice::from_raw_parts_mut(row.cast::<T>(), self.dim).copy_from_slice(values);
                }
                Format::F16 => std::slice::from_raw_parts_mut(row.cast::<f16>(), self.dim)
                    .convert_from_f32_slice(bytemuck::cast_slice(values)),
                Format::Bf16 => std::slice::from_raw_parts_mut(row.cast::<bf16>(), self.dim)
                    .convert_from_f32_slice(bytemuck::cast_slice(values)),
            }
        }
    }

    /// Writes the only element of row `i`.
    #[inline(always)]
    pub(super) fn set(&mut self, i: usize, value: T) {
        self.write(i, &[value]);
    }

    /// `self[i][d] = packed[d][i]` for every row.
    #[inline(always)]
    pub(super) fn write_columns<S: Simd>(&mut self, simd: S, packed: &[T], step: usize) {
        if let Some(rows) = self.in_place() {
            unpack_columns(simd, packed, step, rows);
            return;
        }
        let mut values = vec![T::ZERO; self.dim];
        for i in 0..self.rows {
            for (d, value) in values.iter_mut().enumerate() {
                *value = packed[d * step + i];
            }
            self.write(i, &values);
        }
    }

    pub(super) fn fill(&mut self, value: T) {
        let values = vec![value; self.dim];
        for i in 0..self.rows {
            self.write(i, &values);
        }
    }
}
