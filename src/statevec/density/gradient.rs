//! Gradients of Tr(ρ·observable): ρ is kept at every channel, and λ = Σ weight·observable goes back through λ → U†λU and
//! λ → ΣK†λK.
//!
//! The derivative of a unitary part is that of Re⟨λ|U|ρ⟩. As an expectation of the adjoint engine: an ancilla above the doubled
//! register holds ρ where it is 0 and λ where it is 1, the part acts where it is 0, and X on the ancilla reads 2·Re⟨λ|U|ρ⟩.

use super::batch::{check_observables, weighted};
use super::circuit::{DensityProgram, Element, push_channel, push_doubled};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::statevec::circuit::{Circuit, Control};
use crate::statevec::dynamic::rows;
use crate::statevec::pauli::PauliSum;
use crate::statevec::problem::{Batch, Problem};
use crate::statevec::program::Program;
use crate::tensor::{Layout, Tensor, TensorRef};
use crate::validate;

const OP: &str = "density_gradient";

/// A stretch between two checkpoints.
#[derive(Debug)]
pub(super) struct Segment {
    forward: Program,
    /// λ backwards.
    adjoint: Program,
    /// The part under an ancilla, if it has parameters.
    joint: Option<Program>,
}

/// Gradients of `Σ weights[sample, o]·Tr(ρ·observable o)`.
#[derive(Debug)]
pub struct DensityGradients {
    /// As `theta` was given, `[thetas]` or `[tasks, thetas]` f32, summed over the samples (of each task).
    pub theta: Tensor,
    /// `[samples, inputs]` f32.
    pub inputs: Tensor,
    /// By ρ(0), `[samples, 2^n, 2^n]` c64, ∂/∂Re + i·∂/∂Im of each entry.
    pub initial: Tensor,
}

impl DensityProgram {
    /// Gradients of `Σ weights[sample, o]·Tr(ρ·observable o)` with respect to `theta`, `inputs` and ρ(0).
    ///
    /// `weights`: `[samples, observables]` f32 on the batch's device. Memory: one ρ for each channel between gates, and a λ.
    ///
    /// # Errors
    /// As [`DensityProgram::run`] and [`Program::gradient`]; [`Error::InvalidArgument`] if the circuit has 15 qubits (an ancilla
    /// does not fit) or an observable acts on a qubit there is not.
    pub fn gradient(
        &self,
        batch: &Batch<'_>,
        observables: &[PauliSum],
        weights: &TensorRef<'_>,
    ) -> Result<DensityGradients> {
        let (n, samples, device) = (self.qubits(), batch.samples, &batch.device);
        let flat = self.flat(batch)?;
        let problem = Problem::new(OP, &self.program, &flat)?;
        check_observables(OP, observables, n)?;
        validate::shape(OP, "weights", weights, &[samples, observables.len()])?;
        validate::tensor(OP, "weights", weights, DType::F32, device)?;
        validate::last_contiguous(OP, "weights", weights)?;
        let segments = self.segments()?;
        let start = {
            let (thetas, inputs) = self.source.parameters();
            Circuit::with_parameters(2 * n, thetas, inputs)?.compile()?.run(&flat)?
        };
        let mut states = vec![start];
        for segment in segments {
            let mut own = flat.clone();
            own.initial = states.last().map(Tensor::view);
            let next = segment.forward.run(&own)?;
            states.push(next);
        }
        // The last ρ is not needed again.
        states.pop();
        let mut lambda = weighted(OP, device, observables, weights, n)?;
        let theta_len = problem.theta_tasks.unwrap_or(1) * self.thetas();
        let (mut theta, mut inputs) = (vec![0.0f64; theta_len], vec![0.0f64; samples * self.inputs()]);
        let x = PauliSum::new().plus(1.0, &[('X', 2 * n)])?;
        let half = Tensor::from_slice(device, &[0.5f32], &[1])?;
        for segment in segments.iter().rev() {
            let state = states.pop().ok_or_else(|| Error::argument(OP, "batch", "has lost a checkpoint"))?;
            if let Some(joint) = &segment.joint {
                let both = join(device, &state, &lambda, samples, 2 * n)?;
                let mut own = flat.clone();
                own.initial = Some(both.view().with_layout(Layout::contiguous(&[samples, 2 << (2 * n)])?)?);
                let part = joint.gradient(&own, std::slice::from_ref(&x), &half.view())?;
                let add = |sum: &mut [f64], part: &Tensor| -> Result<()> {
                    sum.iter_mut().zip(part.to_vec::<f32>()?).for_each(|(sum, part)| *sum += f64::from(part));
                    Ok(())
                };
                add(&mut theta, &part.theta)?;
                add(&mut inputs, &part.inputs)?;
            }
            let mut own = flat.clone();
            own.initial = Some(lambda.view());
            let before = segment.adjoint.run(&own)?;
            lambda = before;
        }
        let single = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect::<Vec<f32>>();
        let theta_shape: Vec<usize> = problem.theta_tasks.into_iter().chain([self.thetas()]).collect();
        let mut initial = Tensor::zeros(device, DType::C64, &[samples, 1 << n, 1 << n])?;
        {
            // λ at the start, as matrices.
            let own = Batch { initial: Some(lambda.view()), ..Batch::new(device, samples) };
            let layout = Layout::contiguous(&[samples, 1 << (2 * n)])?;
            let copy = Circuit::new(2 * n)?.compile()?;
            copy.run_into(&own, &mut initial.view_mut().with_layout(layout)?)?;
        }
        Ok(DensityGradients {
            theta: Tensor::from_slice(device, &single(theta), &theta_shape)?,
            inputs: Tensor::from_slice(device, &single(inputs), &[samples, self.inputs()])?,
            initial,
        })
    }

    /// The parts between checkpoints, compiled on first use.
    fn segments(&self) -> Result<&[Segment]> {
        if let Some(segments) = self.segments.get() {
            return Ok(segments);
        }
        let n = self.qubits();
        let (thetas, inputs) = self.source.parameters();
        let empty = |qubits: usize| Circuit::with_parameters(qubits, thetas, inputs);
        let mut segments = Vec::new();
        let elements = self.source.elements();
        let mut at = 0;
        while at < elements.len() {
            // As many neighbours of one kind as there are.
            let is_channel = |element: &Element| matches!(element, Element::Channel(..));
            let kind = is_channel(&elements[at]);
            let end = at + elements[at..].iter().take_while(|element| is_channel(element) == kind).count();
            let mut forward = empty(2 * n)?;
            let mut joint = None;
            if kind {
                let mut adjoint = empty(2 * n)?;
                for element in &elements[at..end] {
                    let Element::Channel(channel, targets) = element else { continue };
                    push_channel(&mut forward, n, channel, targets, false)?;
                }
                for element in elements[at..end].iter().rev() {
                    let Element::Channel(channel, targets) = element else { continue };
                    push_channel(&mut adjoint, n, channel, targets, true)?;
                }
                segments.push(Segment { forward: forward.compile()?, adjoint: adjoint.compile()?, joint });
            } else {
                let mut under = empty(2 * n + 1)?;
                let control = [Control { qubit: 2 * n, value: false }];
                let mut has_parameters = false;
                for element in &elements[at..end] {
                    let Element::Unitary(circuit) = element else { continue };
                    push_doubled(&mut forward, circuit, &[])?;
                    push_doubled(&mut under, circuit, &control)?;
                    has_parameters |= circuit.thetas() + circuit.inputs() > 0;
                }
                if has_parameters {
                    joint = Some(under.compile()?);
                }
                let adjoint = forward.inverse().compile()?;
                segments.push(Segment { forward: forward.compile()?, adjoint, joint });
            }
            at = end;
        }
        Ok(self.segments.get_or_init(|| segments))
    }
}

/// `[2·samples, 4^n]`: each sample's ρ and λ one after the other.
fn join(device: &Device, state: &Tensor, lambda: &Tensor, samples: usize, bits: usize) -> Result<Tensor> {
    let mut both = Tensor::zeros(device, DType::C64, &[2 * samples, 1 << bits])?;
    for (which, part) in [(0, state), (1, lambda)] {
        let index: Vec<u32> = (0..samples as u32).map(|sample| 2 * sample + which).collect();
        let index = Tensor::from_slice(device, &index, &[samples])?;
        rows::put(OP, &part.view(), &index.view(), &mut both)?;
    }
    Ok(both)
}
