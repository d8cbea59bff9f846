//! Every tolerance of the test suites, each with its reason. There is no other place for one.
//!
//! A bound is built from the terms the oracle gives with each value: what rounding may do to a sum is proportional to the
//! magnitudes added up, not to the result.

use super::oracle::{Forward, Gradients};
use gatewarp::DType;

/// Unit roundoff of f32.
pub const U: f64 = 1.0 / (1u64 << 24) as f64;

/// Smallest normal f32: a device may flush anything below it to zero.
pub const TINY: f64 = f32::MIN_POSITIVE as f64;

/// Attention's output: |o − want| ≤ 16u·(1 + max_j scale·Σ_d |q_d k_d|)·Σ_j p_j |v_j|.
///
/// A score's rounding error is u·Σ|q_d k_d| times a small factor; the exponential turns it into a relative error of p; the 16
/// covers the accumulation of the dot product, the base-2 exponential, and the running sums over keys.
pub fn attention_o(want: &Forward) -> Vec<f64> {
    let width = want.o.len() / want.lse.len().max(1);
    want.o_terms
        .iter()
        .enumerate()
        .map(|(at, terms)| 16.0 * U * want.growth[at / width] * terms + TINY)
        .collect()
}

/// Log-sum-exp: the score's error as in [`attention_o`], absolute since lse is a sum of a score and a logarithm, and the
/// rounding of the result itself.
pub fn attention_lse(want: &Forward) -> Vec<f64> {
    let bound =
        |(growth, lse): (&f64, &f64)| 16.0 * U * (growth + if lse.is_finite() { lse.abs() } else { 0.0 });
    want.growth.iter().zip(&want.lse).map(bound).collect()
}

/// Attention's gradients: 4 times the forward form on their own terms, because p is recomputed from a rounded lse, the row
/// mean comes from a rounded o, and their difference is multiplied and summed once more.
pub fn attention_gradient(terms: &[f64]) -> Vec<f64> {
    terms.iter().map(|terms| 4.0 * 16.0 * U * terms + TINY).collect()
}

/// Bounds of dq, dk, dv and of the derivative by the row scale.
pub struct GradientTolerance {
    pub dq: Vec<f64>,
    pub dk: Vec<f64>,
    pub dv: Vec<f64>,
    pub drow_scale: Vec<f64>,
}

/// [`attention_gradient`] of each gradient.
pub fn attention_gradients(want: &Gradients) -> GradientTolerance {
    GradientTolerance {
        dq: attention_gradient(&want.dq_terms),
        dk: attention_gradient(&want.dk_terms),
        dv: attention_gradient(&want.dv_terms),
        drow_scale: attention_gradient(&want.drow_scale_terms),
    }
}

/// A gate (sigmoid, softmax, top-k): the exponential's relative error grows with its argument, as in [`attention_o`], and the
/// normalising sum runs over the heads. `logit_size`: the largest |logit| of the sample.
pub fn gate(want: f64, logit_size: f64) -> f64 {
    16.0 * U * (1.0 + logit_size) * want.abs() + TINY
}

/// ‖got − want‖₂ of a state after `gates` gates in c64: rounding errors of unitary steps add up like a random walk.
pub fn statevec_c64(gates: usize) -> f64 {
    2e-7 * (gates.max(1) as f64).sqrt()
}

/// The same in c128.
pub fn statevec_c128(gates: usize) -> f64 {
    1e-15 * (gates.max(1) as f64).sqrt()
}

/// An expectation Σ c·⟨P⟩ of a state within ε = [`statevec_c64`] of the right one differs by at most 2ε·Σ|c| (each Pauli string
/// has norm 1, and ⟨ψ|P|ψ⟩ is quadratic); the 8u is the final, compensated reduction.
pub fn statevec_expectation_c64(gates: usize, coefficients: f64) -> f64 {
    (2.0 * statevec_c64(gates) + 8.0 * U) * coefficients
}

/// ⟨Z⟩ of a large state: no rounding of the sums may show beside the gates'. Plain running sums over 2^22 terms are off by 1e-4.
pub const LARGE_STATE_EXPECTATION: f64 = 1e-6;

/// Derivative of such an expectation by an angle: 2·Re⟨λ|∂U|ψ⟩, two states with the error of the whole sweep (circuit and back,
/// 2·gates) each, and |∂U| ≤ `speed` (1/2 for a Pauli rotation, 1 for a phase, times the affine factor).
pub fn statevec_gradient_c64(gates: usize, coefficients: f64, speed: f64) -> f64 {
    4.0 * statevec_c64(2 * gates) * coefficients * speed.max(1.0)
}

/// The same in c128.
pub fn statevec_gradient_c128(gates: usize, coefficients: f64, speed: f64) -> f64 {
    4.0 * statevec_c128(2 * gates) * coefficients * speed.max(1.0)
}

/// Central differences of an f64 function at step 1e-5: truncation is of order step², cancellation of order 1e-16/step.
pub const CENTRAL_DIFFERENCE_STEP: f64 = 1e-5;

/// What the two leave, relative to the size of the derivative (or 1).
pub const CENTRAL_DIFFERENCE: f64 = 2e-8;

/// Loss of a row: a few roundings of logits, exponentials and their sum; an exponential's relative error grows with its argument.
/// `terms`: the magnitudes added up.
pub fn row_loss(terms: f64) -> f64 {
    16.0 * U * terms + TINY
}

/// Sum of `rows` numbers with those terms: runs of 1/256 of them, then a tree of 8 levels, on top of the rows' own errors.
pub fn sum_of_rows(terms: f64, rows: usize) -> f64 {
    (16.0 + 8.0 + rows.div_ceil(256) as f64) * U * terms + TINY
}

/// A score made of quotients of counts: two roundings each and one a summand of a mean; wgpu's division is good to 2.5 ulp.
pub fn score(summands: usize) -> f64 {
    (8 + 2 * summands) as f64 * U
}

/// Inner product over `length` numbers with those terms: chunks of 4096 in 32 runs and a tree, then the chunks in order.
pub fn inner_product(terms: f64, length: usize) -> f64 {
    (64.0 + length.div_ceil(4096) as f64) * U * terms + TINY
}

/// Attention's 16u for one more growth of rounding errors, and the smallest number a device must tell from 0.
pub fn attention_unit(dtype: DType) -> (f64, f64) {
    match dtype {
        // u = 2⁻⁵³; exponents of f64 are not flushed in the range tests reach.
        DType::F64 => (16.0 / (1u64 << 53) as f64, f64::MIN_POSITIVE),
        _ => (16.0 * U, TINY),
    }
}

/// f16 and bf16: twice the error of the unfused algorithm done in that type (FlashAttention 3's rule), and the rounding of the
/// result itself, which that algorithm also has but not at the same elements.
pub fn attention_16_bits(dtype: DType) -> (f64, f64) {
    (2.0, if dtype == DType::F16 { 1.0 / 2048.0 } else { 1.0 / 256.0 })
}
