//! What the kernels of dq leave of the queries they had, one sum each, and the launches that add these up:
//! kernels/attention/backward_sums.cu.

use super::{address, grid, mma_backward};
use crate::attention::problem::{Backward, Problem};
use crate::device::cuda::CudaDevice;
use crate::error::Result;
use crate::manifest::attention::general::{BACKWARD_ROWS, General, SUMS_PARAMS};
use crate::manifest::attention::mma_backward::WARPS;
use crate::tensor::TensorMut;
use bytemuck::{Pod, Zeroable};

/// Sums of some queries of a head: slopes, coefficient, sink, and one to fill up.
pub(super) const TERMS: usize = 4;

/// `attention::SumsParams` in backward_sums.cu: counts and steps of result (u, x) and of terms (n, m).
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
struct SumsParams {
    counts: [i64; 4],
    steps: [i64; 4],
    out: [i64; 2],
}

const _: () = assert!(size_of::<SumsParams>() == SUMS_PARAMS);

/// Entries of TERMS sums that a head of a sample leaves: one a tile, or one a warp where the matrix units are at work.
pub(super) fn term_entries(problem: &Problem<'_>) -> usize {
    match mma_backward::variant(problem) {
        Some(mma) => problem.q_len.div_ceil(mma.dq_rows) * WARPS as usize,
        None => problem.q_len.div_ceil(BACKWARD_ROWS),
    }
}

/// Adds them up in order, at the addresses of the parts of scratch: gradients of slopes, sinks, coefficient and additive weights.
pub(super) fn add_up(
    device: &CudaDevice,
    problem: &Problem<'_>,
    call: &Backward<'_>,
    kernels: &'static General,
    [terms, dw_terms]: [u64; 2],
) -> Result<()> {
    // Without any query row nothing was summed, and the gradients are 0.
    let entries = if problem.has_no_rows() { 0 } else { term_entries(problem) as i64 };
    let (batch, heads) = (problem.batch as i64, problem.q_heads as i64);
    let per_head = |width: i64| SumsParams {
        counts: [heads, 1, batch, entries],
        steps: [entries * width, 1, heads * entries * width, width],
        out: [0, 0],
    };
    let of_all = |width: i64| SumsParams {
        counts: [1, 1, batch * heads, entries],
        steps: [0, 1, entries * width, width],
        out: [0, 0],
    };
    let sum = |out: &TensorMut<'_>, parts: u64, mut params: SumsParams, out_steps: [i64; 2]| {
        params.out = out_steps;
        let elements = out.as_ref().layout().len();
        if elements == 0 {
            return Ok(());
        }
        let pointers = [parts, address(out.as_ref())];
        device.launch(&kernels.sums, grid(device, elements, false), &pointers, bytemuck::bytes_of(&params))
    };
    let step = |out: &TensorMut<'_>| out.as_ref().layout().step(0) as i64;
    let width = TERMS as i64;
    let term = |which: usize| terms + (which * problem.accumulator.size()) as u64;
    if let Some(out) = &call.gradients.dalibi {
        sum(out, term(0), per_head(width), [step(out), 0])?;
    }
    if let Some(out) = &call.gradients.dscale {
        sum(out, term(1), of_all(width), [0, 0])?;
    }
    if let Some(out) = &call.gradients.dsinks {
        sum(out, term(2), per_head(width), [step(out), 0])?;
    }
    if let Some(out) = &call.gradients.dw {
        let dim = problem.head_dim as i64;
        let of_head = out.as_ref().shape().len() == 2;
        let mut params = if of_head { per_head(dim) } else { of_all(dim) };
        params.counts[1] = dim;
        sum(out, dw_terms, params, [if of_head { step(out) } else { 0 }, 1])?;
    }
    Ok(())
}
