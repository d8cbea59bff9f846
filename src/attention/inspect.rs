//! Looking inside: the weights of chosen rows, and how spread out every row's weights are.

use super::{AttentionOptions, Problem};
use crate::device::Kind;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, TensorRef};
use crate::validate;

/// One query row of one head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionRow {
    /// Sample in the batch.
    pub sample: usize,
    /// Query head.
    pub head: usize,
    /// Query within the sample.
    pub query: usize,
}

/// The weights `p_ij` of chosen rows, `[rows.len(), key length]` of lse's type: what a head looks at, without O(q_len·kv_len)
/// memory for all of them. With a sink a row sums to less than 1. Dropout is not applied. A row of an inactive pair
/// ([`ActiveHeads`](super::ActiveHeads)), or beyond a packed sequence, is 0.
///
/// `lse`: of the forward pass with the same options, `[batch, q_heads, q_len]`.
///
/// # Errors
/// As [`attention_forward`](super::attention_forward); [`Error::InvalidArgument`] for a row that does not exist.
pub fn attention_weights(
    q: &TensorRef<'_>,
    k: &TensorRef<'_>,
    lse: &TensorRef<'_>,
    options: &AttentionOptions<'_>,
    rows: &[AttentionRow],
) -> Result<Tensor> {
    let problem = problem("attention_weights", q, k, lse, options)?;
    for row in rows {
        let limits = [problem.batch, problem.q_heads, problem.q_len];
        if [row.sample, row.head, row.query].iter().zip(limits).any(|(&at, limit)| at >= limit) {
            let reason = format!("holds {row:?}, outside {limits:?}");
            return Err(Error::argument(problem.op, "rows", reason));
        }
    }
    match &q.device().0 {
        Kind::Cpu => super::cpu::weights(&problem, lse, rows),
        #[cfg(feature = "cuda")]
        Kind::Cuda(device) => {
            let rows: Vec<[usize; 3]> = rows.iter().map(|row| [row.sample, row.head, row.query]).collect();
            super::cuda::inspect::weights(device, &problem, lse, &rows)
        }
        #[cfg(feature = "wgpu")]
        Kind::Wgpu(device) => super::wgpu::weights(device, &problem, lse, rows),
    }
}

/// The entropy `−Σ_j p_ij·ln p_ij` of every row, in nats: `[batch, q_heads, q_len]` of lse's type. 0 for a row that sees no key
/// or only one, and for rows of inactive pairs; at most `ln(keys seen)`. The share of a sink is not counted, dropout is not applied.
///
/// # Errors
/// As [`attention_weights`].
pub fn attention_entropy(
    q: &TensorRef<'_>,
    k: &TensorRef<'_>,
    lse: &TensorRef<'_>,
    options: &AttentionOptions<'_>,
) -> Result<Tensor> {
    let problem = problem("attention_entropy", q, k, lse, options)?;
    match &q.device().0 {
        Kind::Cpu => super::cpu::entropy(&problem, lse),
        #[cfg(feature = "cuda")]
        Kind::Cuda(device) => super::cuda::inspect::entropy(device, &problem, lse),
        #[cfg(feature = "wgpu")]
        Kind::Wgpu(device) => super::wgpu::entropy(device, &problem, lse),
    }
}

/// The keys stand in for the values, which are not read.
fn problem<'a>(
    op: &'static str,
    q: &TensorRef<'a>,
    k: &TensorRef<'a>,
    lse: &TensorRef<'_>,
    options: &AttentionOptions<'a>,
) -> Result<Problem<'a>> {
    let problem = Problem::new(op, q, k, k, options)?;
    validate::shape(op, "lse", lse, &problem.lse_shape())?;
    validate::tensor(op, "lse", lse, problem.accumulator, q.device())?;
    Ok(problem)
}
