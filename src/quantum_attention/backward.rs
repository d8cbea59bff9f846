//! Gradients of a layer: through the measurement, the mixture, the weights, and each circuit.

use super::roles::{Role, Roles, Sizes, as_heads};
use super::{Mix, QuantumAttention, QuantumAttentionOutput, Thetas};
use crate::attention::{AttentionGradientViews, AttentionSaved, Workspace, attention_backward_into};
use crate::dtype::DType;
use crate::error::Result;
use crate::statevec::{Program, StatevecGradients};
use crate::tensor::{Tensor, TensorRef};
use crate::validate;

/// Gradients of a layer's inputs; f32.
#[derive(Debug)]
pub struct QuantumAttentionGradients {
    /// `[batch, length, features]`, the sum over the three circuits; 0 for features no circuit reads.
    pub x: Tensor,
    /// As the query circuit's angles were given, summed over the tokens of each task.
    pub theta_query: Tensor,
    /// As the key circuit's angles.
    pub theta_key: Tensor,
    /// As the value circuit's angles.
    pub theta_value: Tensor,
    /// `[1]`: derivative by τ.
    pub tau: Tensor,
}

impl QuantumAttention {
    /// Gradients of `⟨grad_y, y⟩` of [`QuantumAttention::forward`] with the same `x`, `tasks` and `thetas`.
    ///
    /// `grad_y [batch, length, observables]` f32, contiguous. The weights are recomputed tile by tile, the circuits swept
    /// backwards: nothing of `length × length` and no state beside the output's is kept.
    ///
    /// # Errors
    /// As [`QuantumAttention::forward`]; as [`Program::gradient`](crate::statevec::Program::gradient) for circuits that are not
    /// unitary.
    ///
    /// # Source
    /// ∂|⟨q|k⟩|²/∂q = 2⟨k|q⟩k; the adjoint method, Jones & Gacon, arXiv:2009.02823.
    pub fn backward(
        &self,
        x: &TensorRef<'_>,
        tasks: &TensorRef<'_>,
        thetas: &Thetas<'_>,
        out: &QuantumAttentionOutput,
        grad_y: &TensorRef<'_>,
    ) -> Result<QuantumAttentionGradients> {
        let op = "quantum_attention_backward";
        let roles = Roles::new(op, self, x, tasks, thetas)?;
        validate::shape(op, "grad_y", grad_y, out.y.shape())?;
        validate::tensor(op, "grad_y", grad_y, DType::F32, &roles.device)?;
        validate::contiguous(op, "grad_y", grad_y)?;
        let sizes = roles.sizes;
        validate::shape(op, "x", x, &[out.sizes.batch, out.sizes.length, roles.features])?;

        let (q, k, v) =
            (as_heads(&out.queries, sizes)?, as_heads(&out.keys, sizes)?, as_heads(&out.values, sizes)?);
        // What arrives at the mixture: grad_y itself, or through the norm and the measurement of mixed amplitudes.
        let through_measurement = match &out.amplitudes {
            None => None,
            Some(mixed) => {
                let weights = grad_y.with_layout(sizes.flat(self.observables.len())?)?;
                let batch = self.mixed_batch(mixed, sizes)?;
                self.identity.gradient(&batch, &self.observables, &weights)?.initial
            }
        };
        let grad_o = match &through_measurement {
            None => grad_y.with_layout(*v.layout())?,
            Some(gradient) => as_heads(gradient, sizes)?,
        };
        let o = match &out.amplitudes {
            None => out.y.view().with_layout(*v.layout())?,
            Some(mixed) => mixed.view(),
        };
        let make = |like: &TensorRef<'_>| Tensor::zeros(&roles.device, DType::F32, like.shape());
        let (mut dq, mut dk, mut dv) = (make(&q)?, make(&k)?, make(&v)?);
        let mut tau = Tensor::zeros(&roles.device, DType::F32, &[1])?;
        let saved = AttentionSaved { o, lse: out.lse.view(), grad_o, grad_lse: None };
        let views = AttentionGradientViews {
            dq: Some(dq.view_mut()),
            dk: Some(dk.view_mut()),
            dv: Some(dv.view_mut()),
            dscale: Some(tau.view_mut()),
            ..Default::default()
        };
        attention_backward_into(&q, &k, &v, &saved, &self.options(), views, Workspace::Allocate)?;

        let seen = |program: &Program, role: Role, gradient: &Tensor| -> Result<StatevecGradients> {
            let batch = roles.batch(role)?;
            if self.attends_to_states() {
                return program.backward_states(&batch, &as_states(gradient, sizes, self.qubits())?);
            }
            let weights = gradient.view().with_layout(sizes.flat(self.features.len())?)?;
            program.gradient(&batch, &self.features, &weights)
        };
        let query = seen(&self.query, Role::Query, &dq)?;
        let key = seen(&self.key, Role::Key, &dk)?;
        let batch = roles.batch(Role::Value)?;
        let value = match self.mix {
            Mix::Values => {
                let weights = dv.view().with_layout(sizes.flat(self.observables.len())?)?;
                self.value.gradient(&batch, &self.observables, &weights)?
            }
            Mix::Amplitudes => self.value.backward_states(&batch, &as_states(&dv, sizes, self.qubits())?)?,
        };
        Ok(QuantumAttentionGradients {
            x: sum_of_inputs([&query, &key, &value], &roles)?,
            theta_query: query.theta,
            theta_key: key.theta,
            theta_value: value.theta,
            tau,
        })
    }
}

/// `[batch, 1, length, 2^(qubits+1)]` f32 as the complex `[batch · length, 2^qubits]` it stands for.
fn as_states(gradient: &Tensor, sizes: Sizes, qubits: usize) -> Result<TensorRef<'_>> {
    gradient.view().as_complex()?.with_layout(sizes.flat(1 << qubits)?)
}

/// The three circuits' gradients by x, added up in this order, in host memory and back: they are as small as x.
fn sum_of_inputs(gradients: [&StatevecGradients; 3], roles: &Roles<'_>) -> Result<Tensor> {
    let (sizes, features) = (roles.sizes, roles.features);
    let mut sum = vec![0.0f32; sizes.samples() * features];
    for gradient in gradients {
        let width = gradient.inputs.shape()[1];
        if width == 0 {
            continue;
        }
        let rows = gradient.inputs.to_vec::<f32>()?;
        for (sum, row) in sum.chunks_exact_mut(features).zip(rows.chunks_exact(width)) {
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
    }
    Tensor::from_slice(&roles.device, &sum, &[sizes.batch, sizes.length, features])
}
