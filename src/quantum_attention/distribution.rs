//! Outcome distributions: what measuring a layer's output in the computational basis gives.

use super::roles::{Role, Roles, as_heads};
use super::{Mix, QuantumAttention, QuantumAttentionOutput, Thetas};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::random::Stream;
use crate::statevec::PauliSum;
use crate::statevec::readout::sample_probabilities;
use crate::tensor::{Tensor, TensorRef};

impl QuantumAttention {
    /// Probabilities of the basis states a token's output is found in, `[batch · length, 2^qubits]` f32: the mixture
    /// `Σ_j a_ij |⟨b|ψ_V,j⟩|²` of the values', or that of the mixed and renormalised amplitudes.
    ///
    /// `out` is the forward pass of the same `x`, `tasks` and `thetas`.
    ///
    /// # Errors
    /// As [`QuantumAttention::forward`].
    pub fn distribution(
        &self,
        x: &TensorRef<'_>,
        tasks: &TensorRef<'_>,
        thetas: &Thetas<'_>,
        out: &QuantumAttentionOutput,
    ) -> Result<Tensor> {
        let roles = Roles::new("quantum_attention_distribution", self, x, tasks, thetas)?;
        let sizes = roles.sizes;
        if let (Mix::Amplitudes, Some(mixed)) = (self.mix, &out.amplitudes) {
            return self.identity.probabilities(&self.mixed_batch(mixed, sizes)?);
        }
        let values = self.value.probabilities(&roles.batch(Role::Value)?)?;
        let v = as_heads(&values, sizes)?;
        let mut mixture = Tensor::zeros(&roles.device, DType::F32, &[sizes.samples(), 1 << self.qubits()])?;
        let mut lse = Tensor::zeros(&roles.device, DType::F32, out.lse.shape())?;
        let (q, k) = (as_heads(&out.queries, sizes)?, as_heads(&out.keys, sizes)?);
        self.attend([&q, &k, &v], &mut mixture.view_mut().with_layout(*v.layout())?, &mut lse)?;
        Ok(mixture)
    }

    /// Shots of [`QuantumAttention::distribution`]: `[batch · length, shots]` u32, qubit 0 the least significant bit.
    ///
    /// # Errors
    /// As [`QuantumAttention::distribution`] and [`sample_probabilities`].
    pub fn sample<'s>(
        &self,
        x: &TensorRef<'_>,
        tasks: &TensorRef<'_>,
        thetas: &Thetas<'_>,
        out: &QuantumAttentionOutput,
        shots: usize,
        stream: impl Into<Stream<'s>>,
    ) -> Result<Tensor> {
        let distribution = self.distribution(x, tasks, thetas, out)?;
        sample_probabilities(&distribution.view(), shots, stream)
    }

    /// The layer's observables estimated from shots: `[rows, observables]` f32 means. Their gradient, where one is wanted, is
    /// that of the exact expectation ([`QuantumAttention::backward`]).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an observable with X or Y in it, which shots of basis states do not show;
    /// [`Error::Shape`], [`Error::DType`] for `shots` that are not `[rows, shots]` u32 of one shot or more.
    pub fn estimate(&self, shots: &TensorRef<'_>) -> Result<Tensor> {
        let op = "quantum_attention_estimate";
        let &[rows, count] = shots.shape() else {
            return Err(Error::shape(op, "shots", "[rows, shots]", shots.shape()));
        };
        if count == 0 {
            return Err(Error::shape(op, "shots", "one shot or more", shots.shape()));
        }
        let outcomes = shots.to_vec::<u32>()?;
        let parity = |observable: &PauliSum| -> Result<Vec<(f64, u32)>> {
            let terms = observable.terms().iter();
            terms
                .map(|(coefficient, string)| match string.diagonal() {
                    Some(qubits) => Ok((*coefficient, qubits)),
                    None => Err(Error::argument(
                        op,
                        "observables",
                        "hold X or Y, which shots of basis states do not show",
                    )),
                })
                .collect()
        };
        let observables: Vec<Vec<(f64, u32)>> = self.observables.iter().map(parity).collect::<Result<_>>()?;
        let mut means = Vec::with_capacity(rows * observables.len());
        for row in outcomes.chunks_exact(count) {
            for terms in &observables {
                let value = |outcome: u32| -> f64 {
                    let signed = |&(c, qubits): &(f64, u32)| {
                        if (outcome & qubits).count_ones() % 2 == 1 { -c } else { c }
                    };
                    terms.iter().map(signed).sum()
                };
                means.push((row.iter().map(|&outcome| value(outcome)).sum::<f64>() / count as f64) as f32);
            }
        }
        Tensor::from_slice(shots.device(), &means, &[rows, observables.len()])
    }
}
