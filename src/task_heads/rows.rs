//! Which rows of a tensor are a sample's: all in its place in the batch, or a run of packed rows.

use super::problem::{Problem, Sizes, repeat_over_rows};
use crate::device::Backend;
use crate::dtype::DType;
use crate::error::Result;
use crate::ids::Ids;
use crate::tensor::{Tensor, TensorRef};
use std::ops::Range;

/// First rows of packed sequences.
pub(super) struct Starts<'a> {
    /// `[batch + 1]`, validated where the host sees them.
    pub(super) ids: Ids<'a>,
    /// Rows of the tensor.
    pub(super) rows: usize,
    /// Of the longest sample.
    pub(super) most: usize,
}

impl Starts<'_> {
    /// Rows of each sample, where the starts are in host memory.
    pub(super) fn host_ranges(&self) -> Result<Vec<Range<usize>>> {
        let at = |start: i64| usize::try_from(start).map_or(0, |start| start.min(self.rows));
        let starts = self.ids.host()?;
        Ok(starts.windows(2).map(|pair| at(pair[0])..at(pair[1]).max(at(pair[0]))).collect())
    }
}

/// Gates as the scale of attention's rows: repeated by a stride of 0, or written out for packed rows.
pub(super) enum RowScale<'a> {
    Repeated(TensorRef<'a>),
    Written(Tensor),
}

impl<'a> RowScale<'a> {
    /// `gates [batch, heads]` of the sizes given.
    pub(super) fn new(problem: &Problem<'_>, sizes: &Sizes, gates: &TensorRef<'a>) -> Result<Self> {
        let shape = problem.lse_shape();
        let Some([starts, _]) = &problem.packed else {
            return Ok(Self::Repeated(repeat_over_rows(gates, &shape)?));
        };
        // Zeroed: rows of no sample are scaled by 0, if by anything.
        let mut written = Tensor::zeros(problem.device(), DType::F32, &shape)?;
        if problem.device().backend() == Backend::Cpu {
            super::cpu::expand(sizes, starts, gates, &mut written.view_mut())?;
        } else {
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            super::gpu::expand(sizes, starts, gates, &mut written.view_mut())?;
        }
        Ok(Self::Written(written))
    }

    pub(super) fn view(&self) -> TensorRef<'_> {
        match self {
            Self::Repeated(view) => view.clone(),
            Self::Written(tensor) => tensor.view(),
        }
    }
}
