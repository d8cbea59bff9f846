//! Looking inside attention: plain functions, without gradients.

use crate::attention::Attention;
use crate::bridge::{rows, tensor, with_inputs, wrap};
use candle_core::{Result, Tensor};
use gatewarp::TensorRef;
use gatewarp::attention::{self, AttentionOptions, AttentionRow};

/// The weights of chosen query rows, `[rows.len(), Sk]`: what a head looks at. Keys that a query may not see have weight 0; a row
/// that sees any sums to 1.
///
/// `q [B, Hq, Sq, D]`, `k [B, Hk, Sk, D]` as in [`attention`](crate::attention()).
///
/// # Errors
/// gatewarp's typed error, wrapped, naming the argument; a row that does not exist; a device without this operation.
pub fn attention_weights(
    q: &Tensor,
    k: &Tensor,
    options: &Attention,
    rows_of: &[AttentionRow],
) -> Result<Tensor> {
    with_lse(q, k, options, |q, k, lse, options| {
        attention::attention_weights(q, k, lse, options, rows_of).map_err(wrap)
    })
}

/// The entropy of every query row's weights in nats, `[B, Hq, Sq]`: 0 for a row that sees one key or none, at most the logarithm
/// of the number of keys it sees.
///
/// # Errors
/// As [`attention_weights`].
pub fn attention_entropy(q: &Tensor, k: &Tensor, options: &Attention) -> Result<Tensor> {
    with_lse(q, k, options, |q, k, lse, options| {
        attention::attention_entropy(q, k, lse, options).map_err(wrap)
    })
}

/// Calls `f` with the views and the log-sum-exp of their scores; the keys stand in for the values.
fn with_lse(
    q: &Tensor,
    k: &Tensor,
    options: &Attention,
    f: impl FnOnce(
        &TensorRef<'_>,
        &TensorRef<'_>,
        &TensorRef<'_>,
        &AttentionOptions<'_>,
    ) -> Result<gatewarp::Tensor>,
) -> Result<Tensor> {
    let (q, k) = (rows(q)?, rows(k)?);
    with_inputs(&options.device, [&q, &k], |[q, k]| {
        options.with_options(|options| {
            let lse = attention::attention_forward(&q, &k, &k, options).map_err(wrap)?.lse;
            tensor(&f(&q, &k, &lse.view(), options)?)
        })
    })
}
