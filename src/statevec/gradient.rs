//! Gradients by the adjoint method: from what uses a circuit's result back to its parameters, inputs and initial states.

use super::batch::{Batch, Start};
use super::cpu::{self, Cotangent, Float};
use super::observables;
use super::parameter::{Angle, Variable};
use super::pauli::PauliSum;
use super::problem::{Problem, host};
use super::program::Program;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
use super::records::Arriving;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
use crate::device::{Backend, Kind};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::tensor::{Tensor, TensorRef};
use crate::validate;

/// Gradients of a real number L that depends on a circuit's results. In f32 and c64, or f64 and c128 as the batch.
#[derive(Debug)]
pub struct StatevecGradients {
    /// `[thetas]` or `[tasks, thetas]`, as `theta` was given; summed over the samples (of each task) in their order.
    pub theta: Tensor,
    /// `[samples, inputs]`.
    pub inputs: Tensor,
    /// Of the shape and element type of `initial`, summed over the samples that share a row, in their order. A complex one is
    /// ∂L/∂re + i·∂L/∂im, what PyTorch uses: dL = Re Σ conj(g)·dz. `None` where no amplitudes were given.
    pub initial: Option<Tensor>,
}

impl Program {
    /// Gradients of `Σ weights[sample, o]·⟨observable o⟩` with respect to `theta`, `inputs` and the initial amplitudes, by the
    /// adjoint method: two states in memory however long the circuit is, about three forward runs of time.
    ///
    /// `weights`: `[samples, observables]` or `[observables]` f32 (f64 for c128) on the batch's device, the gradient that
    /// arrives from whatever uses the expectations.
    ///
    /// # Errors
    /// As [`Program::expectations`]; [`Error::Unsupported`] if the circuit has a non-unitary matrix.
    ///
    /// # Source
    /// Jones & Gacon, arXiv:2009.02823.
    pub fn gradient(
        &self,
        batch: &Batch<'_>,
        observables: &[PauliSum],
        weights: &TensorRef<'_>,
    ) -> Result<StatevecGradients> {
        let op = "statevec_gradient";
        let problem = Problem::new(op, self, batch)?;
        problem.check_observables(observables)?;
        if weights.shape() != [observables.len()] {
            let expected = [batch.samples, observables.len()];
            validate::shape(op, "weights", weights, &expected)?;
        }
        validate::tensor(op, "weights", weights, batch.real(), &batch.device)?;
        validate::last_contiguous(op, "weights", weights)?;
        self.check_adjoint(&problem)?;
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        if batch.device.backend() != Backend::Cpu {
            let groups = observables::groups(&self.lowered.frame, observables);
            return on_gpu(&problem, Arriving::Observables(&groups), weights);
        }
        let groups = observables::groups(&self.lowered.frame, observables);
        if batch.dtype == DType::C128 {
            self.observables_backward::<f64>(&problem, &groups, observables.len(), weights)
        } else {
            self.observables_backward::<f32>(&problem, &groups, observables.len(), weights)
        }
    }

    /// Gradients of any L of the final states, from its gradient by them: the vector-Jacobian product of [`Program::run`].
    ///
    /// `cotangent`: `[samples, 2^qubits]` of the batch's complex type on its device; ∂L/∂re + i·∂L/∂im of every amplitude. Of
    /// an overlap s = ⟨φ|ψ⟩ it is φ for L = Re s, and 2·s·φ for L = |s|². Memory is that of two states a sample in flight,
    /// and `[samples, 2^qubits]` if initial amplitudes were given.
    ///
    /// ```
    /// # fn main() -> gatewarp::Result<()> {
    /// use gatewarp::statevec::{Batch, Circuit, Parameter};
    /// use gatewarp::{Complex32, Device, Tensor};
    /// let mut circuit = Circuit::new(1)?;
    /// circuit.ry(0, Parameter::Theta(0))?;
    /// let (device, program) = (Device::cpu(), circuit.compile()?);
    /// let theta = Tensor::from_slice(&device, &[0.6f32], &[1])?;
    /// let one = Tensor::from_slice(&device, &[Complex32::ZERO, Complex32::ONE], &[1, 2])?;
    /// let out = program.backward_states(&Batch::new(&device, 1).theta(&theta), &one.view())?;
    /// // Re⟨1|ψ⟩ = sin(θ/2).
    /// assert!((out.theta.to_vec::<f32>()?[0] - 0.5 * 0.3f32.cos()).abs() < 1e-6);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Program::gradient`].
    pub fn backward_states(&self, batch: &Batch<'_>, cotangent: &TensorRef<'_>) -> Result<StatevecGradients> {
        let op = "statevec_backward_states";
        let problem = Problem::new(op, self, batch)?;
        validate::shape(op, "cotangent", cotangent, &[batch.samples, 1 << self.qubits])?;
        validate::tensor(op, "cotangent", cotangent, batch.dtype, &batch.device)?;
        validate::last_contiguous(op, "cotangent", cotangent)?;
        self.check_adjoint(&problem)?;
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        if batch.device.backend() != Backend::Cpu {
            return on_gpu(&problem, Arriving::States, cotangent);
        }
        if batch.dtype == DType::C128 {
            self.states_backward::<f64>(&problem, cotangent)
        } else {
            self.states_backward::<f32>(&problem, cotangent)
        }
    }

    fn check_adjoint(&self, problem: &Problem<'_>) -> Result<()> {
        let (op, backend) = (problem.op, problem.device.backend());
        if !self.lowered.unitary {
            let (what, limit) = ("the adjoint gradient", "circuits of unitary gates".into());
            let got = "a matrix or diagonal that is not unitary".into();
            return Err(Error::Unsupported { op, backend, what, limit, got });
        }
        problem.check_unitary_matrices()
    }

    fn observables_backward<F: Float>(
        &self,
        problem: &Problem<'_>,
        groups: &[observables::StringGroup],
        observables: usize,
        weights: &TensorRef<'_>,
    ) -> Result<StatevecGradients> {
        let (weights, steps) = host::<F>(weights);
        let step = if steps.len() == 2 { steps[0] } else { 0 };
        let nothing = observables == 0;
        self.backward(problem, Cotangent::Observables { groups, observables, weights, step }, nothing)
    }

    fn states_backward<F: Float>(
        &self,
        problem: &Problem<'_>,
        cotangent: &TensorRef<'_>,
    ) -> Result<StatevecGradients> {
        let (rows, steps) = host::<F::Complex>(cotangent);
        let rows = bytemuck::cast_slice::<F::Complex, [F; 2]>(rows);
        self.backward(problem, Cotangent::States { rows, step: steps[0] }, false)
    }

    /// `nothing`: the cotangent is zero.
    fn backward<F: Float>(
        &self,
        problem: &Problem<'_>,
        cotangent: Cotangent<'_, F>,
        nothing: bool,
    ) -> Result<StatevecGradients> {
        let exec = &self.cpu_plan(true).exec;
        let initial = problem.differentiates_start();
        let turns = self.lowered.global_phase.iter().any(|angle| angle.of.is_some());
        let phase = turns && matches!(cotangent, Cotangent::States { .. });
        let gradients = if problem.samples == 0 || nothing {
            let amplitudes = if initial { problem.samples << self.qubits } else { 0 };
            cpu::Gradients::zeros(problem.samples * exec.gradients.len(), amplitudes, 0)
        } else {
            cpu::gradient(&self.cpu_call(problem)?, &cpu::Gradient { exec, cotangent, initial, phase })?
        };
        let (theta, inputs) = self.collect(problem, &exec.gradients, &gradients)?;
        let tensor = |values: Vec<f64>, shape: &[usize]| {
            let values: Vec<F> = values.into_iter().map(F::of).collect();
            Tensor::from_slice(&problem.device, &values, shape)
        };
        let theta_shape: Vec<usize> = problem.theta_tasks.into_iter().chain([self.thetas]).collect();
        Ok(StatevecGradients {
            theta: tensor(theta, &theta_shape)?,
            inputs: tensor(inputs, &[problem.samples, self.inputs])?,
            initial: if initial {
                Some(self.collect_initial::<F>(problem, gradients.initial)?)
            } else {
                None
            },
        })
    }

    /// From angles to parameters: each angle is affine in one variable. Samples are summed in order, in f64.
    fn collect(
        &self,
        problem: &Problem<'_>,
        steps: &[usize],
        gradients: &cpu::Gradients,
    ) -> Result<(Vec<f64>, Vec<f64>)> {
        let tasks = problem.task_of_samples()?.filter(|_| problem.theta_tasks.is_some());
        let mut theta = vec![0.0f64; problem.theta_tasks.unwrap_or(1) * self.thetas];
        let mut inputs = vec![0.0f64; problem.samples * self.inputs];
        for sample in 0..problem.samples {
            let first = tasks.as_ref().map_or(0, |tasks| tasks[sample] * self.thetas);
            let mut add = |angle: Angle, gradient: f64| match angle.of {
                Some(Variable::Theta(i)) => theta[first + i] += angle.scale * gradient,
                Some(Variable::Input(i)) => inputs[sample * self.inputs + i] += angle.scale * gradient,
                None => {}
            };
            let row = &gradients.angles[sample * steps.len()..][..steps.len()];
            for (&step, &gradient) in steps.iter().zip(row) {
                if let Some(angle) = self.lowered.steps[step].angle() {
                    add(angle, gradient);
                }
            }
            if let Some(&gradient) = gradients.phase.get(sample) {
                self.lowered.global_phase.iter().for_each(|&angle| add(angle, gradient));
            }
        }
        Ok((theta, inputs))
    }

    /// Rows of the caller's `initial` from the amplitudes' gradients of every sample.
    fn collect_initial<F: Float>(&self, problem: &Problem<'_>, samples: Vec<[f64; 2]>) -> Result<Tensor> {
        let Some(given) = &problem.initial else { return Tensor::zeros(&problem.device, DType::F32, &[0]) };
        let cpu::Initial::Rows(rows) = problem.cpu_initial()? else {
            return Tensor::zeros(&problem.device, given.dtype(), given.shape());
        };
        let (count, width) = (given.shape()[0], given.shape()[1]);
        let mut sums = vec![[0.0f64; 2]; count * width];
        for (sample, gradient) in samples.chunks(1 << self.qubits).enumerate() {
            let sum = &mut sums[rows.row[sample] * width..][..width];
            sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum = [sum[0] + g[0], sum[1] + g[1]]);
        }
        if problem.start == Start::Amplitudes {
            // x/‖x‖: what points along x changes nothing.
            for (row, gradient) in
                sums.chunks_mut(width.max(1)).enumerate().filter(|(_, row)| !row.is_empty())
            {
                let unit = |i: usize| rows.amplitude(row, i);
                let along: f64 = gradient
                    .iter()
                    .enumerate()
                    .map(|(i, g)| {
                        let [re, im] = unit(i);
                        re * g[0] + im * g[1]
                    })
                    .sum();
                let scale = rows.scale.get(row).copied().unwrap_or(1.0);
                for (i, g) in gradient.iter_mut().enumerate() {
                    let [re, im] = unit(i);
                    *g = [scale * (g[0] - along * re), scale * (g[1] - along * im)];
                }
            }
        }
        if given.dtype() == F::Complex::DTYPE {
            let pairs: Vec<[F; 2]> = sums.iter().map(|g| [F::of(g[0]), F::of(g[1])]).collect();
            let values: &[F::Complex] = bytemuck::cast_slice(&pairs);
            return Tensor::from_slice(&problem.device, values, given.shape());
        }
        let values: Vec<F> = sums.iter().map(|g| F::of(g[0])).collect();
        Tensor::from_slice(&problem.device, &values, given.shape())
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn on_gpu(problem: &Problem<'_>, kind: Arriving<'_>, arriving: &TensorRef<'_>) -> Result<StatevecGradients> {
    problem.check_backend()?;
    match &problem.device.0 {
        // Has its own way.
        Kind::Cpu => Err(Error::argument(problem.op, "device", "is no GPU")),
        #[cfg(feature = "wgpu")]
        Kind::Wgpu(device) => super::wgpu::gradient(device, problem, kind, arriving),
        #[cfg(feature = "cuda")]
        Kind::Cuda(device) => super::cuda::gradient(device, problem, kind, arriving),
    }
}
