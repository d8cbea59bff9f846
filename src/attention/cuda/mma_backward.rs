//! Gradients on the matrix units, kernels/attention/backward_mma.cuh: which calls take them, and what they are told.

use super::{address, vectors};
use crate::attention::options::Score;
use crate::attention::problem::{Backward, Problem};
use crate::dtype::DType;
use crate::manifest::attention::mma_backward::{MMA_BACKWARD_BF16, MMA_BACKWARD_F16, Variant};
use crate::tensor::{TensorMut, TensorRef};

/// The kernels for the call: 16-bit tensors, plain products, dimensions up to the largest variant's.
///
/// Every device that CUDA runs on has the units: older ones than compute capability 8.0 are refused.
pub(super) fn variant(problem: &Problem<'_>) -> Option<&'static Variant> {
    let variants = match problem.dtype {
        DType::F16 => &MMA_BACKWARD_F16,
        DType::BF16 => &MMA_BACKWARD_BF16,
        _ => return None,
    };
    if !matches!(problem.score, Score::Dot | Score::ComplexDot) {
        return None;
    }
    let options = problem.softcap.is_some()
        || problem.mask.is_some()
        || problem.bias.is_some()
        || problem.alibi.is_some()
        || problem.dropout.as_ref().is_some_and(|dropout| dropout.p > 0.0);
    let dim = problem.head_dim.max(problem.value_dim);
    variants.iter().find(|variant| variant.options == options && dim <= variant.dim)
}

/// `Call::vectors` as these kernels read it: inputs whose rows start at multiples of 16 bytes, outputs of 4.
pub(super) fn rows_aligned(problem: &Problem<'_>, call: &Backward<'_>) -> u32 {
    let aligned = |bit: u32, view: &TensorRef<'_>, bytes: usize| {
        let (layout, size) = (view.layout(), view.dtype().size());
        let fits = address(view).is_multiple_of(bytes as u64)
            && (0..3).all(|i| (layout.step(i) * size).is_multiple_of(bytes));
        if fits { bit } else { 0 }
    };
    let output =
        |bit: u32, view: Option<&TensorMut<'_>>| view.map_or(0, |view| aligned(bit, view.as_ref(), 4));
    let gradients = &call.gradients;
    aligned(vectors::Q, &problem.q, 16)
        | aligned(vectors::K, &problem.k, 16)
        | aligned(vectors::V, &problem.v, 16)
        | aligned(vectors::GRAD_O, &call.saved.grad_o, 16)
        | output(vectors::DQ, gradients.dq.as_ref())
        | output(vectors::DK, gradients.dk.as_ref())
        | output(vectors::DV, gradients.dv.as_ref())
}
