//! Shape and strides of a view, and the checks that keep every element inside its memory.

use crate::error::{Error, Result};
use std::fmt;

/// Most dimensions a view may have.
pub const MAX_RANK: usize = 8;

/// Largest number of elements, and largest element index: the widest element type still has a byte offset.
const MAX_ELEMENTS: usize = isize::MAX as usize / 16;

/// Shape, strides and first element of a view, all in elements.
///
/// Strides are non-negative. A size-1 dimension may carry any stride; a stride of 0 repeats (inputs only).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    shape: [usize; MAX_RANK],
    strides: [usize; MAX_RANK],
    rank: usize,
    offset: usize,
}

impl Layout {
    /// Row-major layout of `shape`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there are more than [`MAX_RANK`] dimensions or the element count overflows.
    pub fn contiguous(shape: &[usize]) -> Result<Self> {
        let mut strides = [0; MAX_RANK];
        if shape.len() <= MAX_RANK {
            // A dimension of 0 makes the tensor empty; its strides still have to fit.
            let mut step = 1usize;
            for i in (0..shape.len()).rev() {
                strides[i] = step;
                step = step
                    .checked_mul(shape[i].max(1))
                    .ok_or_else(|| Error::argument("tensor", "shape", format!("{shape:?} overflows")))?;
            }
        }
        Self::new(shape, &strides[..shape.len().min(MAX_RANK)], 0)
    }

    /// Layout with explicit strides and offset, in elements.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] on a rank mismatch, too many dimensions, or an element count or index that overflows `isize`.
    pub fn new(shape: &[usize], strides: &[usize], offset: usize) -> Result<Self> {
        if shape.len() > MAX_RANK {
            let reason = format!("has {} dimensions, at most {MAX_RANK} are supported", shape.len());
            return Err(Error::argument("tensor", "shape", reason));
        }
        if shape.len() != strides.len() {
            let reason = format!("{strides:?} does not match the {} dimensions of the shape", shape.len());
            return Err(Error::argument("tensor", "strides", reason));
        }
        let mut layout = Self { shape: [1; MAX_RANK], strides: [0; MAX_RANK], rank: shape.len(), offset };
        layout.shape[..shape.len()].copy_from_slice(shape);
        layout.strides[..shape.len()].copy_from_slice(strides);
        // A view that repeats elements can have more of them than memory has bytes; their number must still be a number.
        let count = shape.iter().try_fold(1usize, |count, &n| count.checked_mul(n.max(1)));
        if count.is_none_or(|count| count > MAX_ELEMENTS) {
            return Err(Error::argument("tensor", "shape", format!("{shape:?} overflows")));
        }
        let overflow = || Error::argument("tensor", "strides", format!("{strides:?} of {shape:?} overflow"));
        layout.checked_end().filter(|&end| end <= MAX_ELEMENTS).ok_or_else(overflow)?;
        Ok(layout)
    }

    /// One past the largest element index a view touches; `offset` if it is empty.
    fn checked_end(&self) -> Option<usize> {
        if self.shape().contains(&0) {
            return Some(self.offset);
        }
        let mut last = self.offset;
        for (&n, &s) in self.shape().iter().zip(self.strides()) {
            // A size-1 dimension is never stepped along, so its stride is not looked at.
            last = last.checked_add(if n > 1 { (n - 1).checked_mul(s)? } else { 0 })?;
        }
        last.checked_add(1)
    }

    /// One past the largest element index the view touches.
    pub fn end(&self) -> usize {
        self.checked_end().unwrap_or(usize::MAX) // construction has checked it
    }

    /// Sizes of the dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape[..self.rank]
    }

    /// Steps between neighbours along each dimension, in elements.
    pub fn strides(&self) -> &[usize] {
        &self.strides[..self.rank]
    }

    /// Index of the first element in the underlying memory.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.shape().contains(&0)
    }

    /// Stride of dimension `i` as the kernels want it: 0 where the dimension is never stepped along.
    pub(crate) fn step(&self, i: usize) -> usize {
        if self.shape[i] > 1 { self.strides[i] } else { 0 }
    }

    /// Whether elements of the last dimension are adjacent.
    pub(crate) fn last_is_contiguous(&self) -> bool {
        self.rank == 0 || self.shape[self.rank - 1] <= 1 || self.strides[self.rank - 1] == 1
    }

    /// Whether the view is row-major without gaps.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for i in (0..self.rank).rev() {
            if self.shape[i] > 1 && self.strides[i] != expected {
                return self.is_empty();
            }
            expected *= self.shape[i];
        }
        true
    }

    /// Whether two indices may name the same element (a broadcast view, which cannot be written).
    pub(crate) fn overlaps_itself(&self) -> bool {
        if self.is_empty() {
            return false;
        }
        let mut dims: Vec<(usize, usize)> =
            (0..self.rank).filter(|&i| self.shape[i] > 1).map(|i| (self.strides[i], self.shape[i])).collect();
        dims.sort_unstable();
        // Sufficient and, for layouts made of permutes and slices, exact: each stride clears all smaller extents.
        let mut reach = 0;
        for (stride, size) in dims {
            if stride <= reach {
                return true;
            }
            reach += (size - 1) * stride;
        }
        false
    }

    /// The layout with dimensions reordered: dimension `i` of the result is dimension `order[i]`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `order` is not a permutation of the dimensions.
    pub fn permute(&self, order: &[usize]) -> Result<Self> {
        let mut seen = [false; MAX_RANK];
        let valid = order.len() == self.rank
            && order.iter().all(|&i| i < self.rank && !std::mem::replace(&mut seen[i], true));
        if !valid {
            let reason = format!("{order:?} is not a permutation of {} dimensions", self.rank);
            return Err(Error::argument("permute", "order", reason));
        }
        let mut out = *self;
        for (to, &from) in order.iter().enumerate() {
            out.shape[to] = self.shape[from];
            out.strides[to] = self.strides[from];
        }
        Ok(out)
    }

    /// The layout restricted to `start..start + len` of dimension `dim`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the range is outside the dimension.
    pub fn narrow(&self, dim: usize, start: usize, len: usize) -> Result<Self> {
        let fits = dim < self.rank && start.checked_add(len).is_some_and(|end| end <= self.shape[dim]);
        if !fits {
            let reason = format!("{start}..{start}+{len} of dimension {dim} is outside {:?}", self.shape());
            return Err(Error::argument("narrow", "range", reason));
        }
        let mut out = *self;
        out.shape[dim] = len;
        if !out.is_empty() {
            out.offset += start * self.strides[dim];
        }
        Ok(out)
    }

    /// Element index of every position in row-major order.
    pub(crate) fn indices(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len()).map(|mut linear| {
            let mut at = self.offset;
            for i in (0..self.rank).rev() {
                at += linear % self.shape[i] * self.step(i);
                linear /= self.shape[i];
            }
            at
        })
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} strides {:?} offset {}", self.shape(), self.strides(), self.offset)
    }
}
