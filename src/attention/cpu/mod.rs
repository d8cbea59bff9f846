//! Attention on the CPU: SIMD over query or key tiles, rayon over (pair, tile) items.
//!
//! | file | what is in it |
//! |---|---|
//! | `schedule`, `gradients`, `bias` | the passes cut into work items: tiles of queries, of keys, of the bias; parts of long caches |
//! | `forward`, `backward`, `grade` | one work item: the online softmax, and gradients of a tile |
//! | `kind`, `stage` | scores from products; soft cap, bias, mask, ALiBi, dropout |
//! | `sight` | who sees whom, and what is skipped |
//! | `product`, `pack`, `lanes`, `views`, `source` | the micro-kernel and what feeds it |
//!
//! Numerics: f32 accumulation for f32 and halves, f64 for f64; base-2 exponents, weights below the normal range are 0. A
//! query's bits do not depend on its tile, its neighbours, the batch or the number of threads.
//! Memory: one scratch per thread, a few tiles of 64 rows, below 512 KiB up to 128 dimensions; the backward pass keeps four
//! numbers a query row, and for halves sums of key gradients in f32 where they are no larger than the inputs.
//!
//! What was slower: packing keys and values; the `gemm` (0.93–1.5 × the time) and `matrixmultiply` crates; 8 × 2 and 12 × 2
//! register tiles.
//!
//! # Source
//! Dao, FlashAttention-2, arXiv:2307.08691. Register blocking: Goto & van de Geijn, doi:10.1145/1356052.1356053.
#![allow(unsafe_code)] // Output rows are shared out between threads, and the micro-kernel reads without bounds checks.

mod append;
mod backward;
mod bias;
mod call;
mod forward;
mod grade;
mod gradients;
mod inspect;
mod kind;
mod lanes;
mod pack;
mod product;
mod schedule;
mod sight;
mod source;
mod stage;
mod views;

#[cfg(test)]
mod tests;

pub(super) use append::append;
pub(super) use inspect::{entropy, weights};
pub(super) use schedule::tiles;

use super::{Backward, Forward, Problem};
use crate::dtype::DType;
use crate::error::Result;
use pulp::Arch;

/// Scratch is a few hundred KiB a thread, on the host's heap: there is nothing to hand in.
pub(super) fn forward_workspace(_: &Problem<'_>) -> usize {
    0
}

/// As [`forward_workspace`].
pub(super) fn backward_workspace(_: &Problem<'_>) -> usize {
    0
}

pub(super) fn forward(problem: &Problem<'_>, call: &mut Forward<'_>) -> Result<()> {
    forward_on(Arch::new(), problem, call)
}

fn forward_on(arch: Arch, problem: &Problem<'_>, call: &mut Forward<'_>) -> Result<()> {
    match problem.accumulator {
        DType::F64 => schedule::run::<f64>(arch, problem, call),
        _ => schedule::run::<f32>(arch, problem, call),
    }
}

pub(super) fn backward(problem: &Problem<'_>, call: &mut Backward<'_>) -> Result<()> {
    backward_on(Arch::new(), problem, call)
}

fn backward_on(arch: Arch, problem: &Problem<'_>, call: &mut Backward<'_>) -> Result<()> {
    match problem.accumulator {
        DType::F64 => gradients::run::<f64>(arch, problem, call),
        _ => gradients::run::<f32>(arch, problem, call),
    }
}
