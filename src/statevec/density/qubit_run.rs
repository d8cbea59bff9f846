//! Sequences of one qubit: the CPU's loops, and the launches of a GPU.

use super::qubit::{Call, Code, Operation, QubitGradients};
use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::statevec::parameter::Variable;
use crate::statevec::problem::{host, host_rows};
use crate::tensor::{Layout, Tensor, TensorRef};
use num_complex::Complex32;
use rayon::prelude::*;

/// Bloch vector and trace.
type Bloch = [f32; 4];

/// A call's arguments in host memory.
struct Host<'a> {
    call: &'a Call<'a>,
    theta: &'a [f32],
    x: &'a [f32],
    x_steps: [usize; 3],
    initial: Option<(&'a [Complex32], usize)>,
}

impl<'a> Host<'a> {
    fn new(call: &'a Call<'a>) -> Self {
        let (x, steps) = host::<f32>(&call.given.x);
        let theta = call.given.theta.as_ref().map_or(&[][..], |theta| host::<f32>(theta).0);
        let initial = call.given.initial.as_ref().map(|initial| {
            let (values, steps) = host::<Complex32>(initial);
            (values, steps[0])
        });
        Self { call, theta, x, x_steps: [steps[0], steps[1], steps[2]], initial }
    }

    fn start(&self, sequence: usize) -> Bloch {
        self.initial.map_or([0.0, 0.0, 1.0, 1.0], |(values, step)| bloch(&values[sequence * step..]))
    }

    /// The parameters of a step's operations.
    fn parameters(&self, sequence: usize, step: usize, out: &mut [f32]) -> Result<()> {
        let [sequence_step, time_step, input_step] = self.x_steps;
        for (out, operation) in out.iter_mut().zip(&self.call.channel.operations) {
            let angle = operation.angle;
            let value = match angle.of {
                None => 0.0,
                Some(Variable::Theta(i)) => self.theta[i],
                Some(Variable::Input(i)) => {
                    self.x[sequence * sequence_step + step * time_step + i * input_step]
                }
            };
            let p = if angle.of.is_some() {
                angle.scale as f32 * value + angle.offset as f32
            } else {
                angle.offset as f32
            };
            let is_valid = match operation.code {
                Code::RotateX | Code::RotateY | Code::RotateZ | Code::Affine => p.is_finite(),
                _ => (0.0..=1.0).contains(&p),
            };
            if !is_valid {
                let (arg, what) = match angle.of {
                    Some(Variable::Theta(i)) => ("theta", format!("{i}")),
                    _ => ("x", format!("of sequence {sequence} at step {step}")),
                };
                return Err(Error::argument(self.call.op, arg, format!("{what} makes a parameter {p}")));
            }
            *out = p;
        }
        Ok(())
    }
}

/// Of the Hermitian part of a matrix.
fn bloch(rho: &[Complex32]) -> Bloch {
    [rho[1].re + rho[2].re, rho[2].im - rho[1].im, rho[0].re - rho[3].re, rho[0].re + rho[3].re]
}

fn matrix([x, y, z, w]: Bloch) -> [Complex32; 4] {
    let entry = |re: f32, im: f32| Complex32::new(0.5 * re, 0.5 * im);
    [entry(w + z, 0.0), entry(x, -y), entry(x, y), entry(w - z, 0.0)]
}

/// The two axes a rotation mixes, in the order in which it turns them.
fn plane(code: Code) -> (usize, usize) {
    match code {
        Code::RotateX => (1, 2),
        Code::RotateY => (2, 0),
        _ => (0, 1),
    }
}

/// What a flip or depolarisation multiplies each component by, and the factors' derivative.
fn factors(code: Code, p: f32) -> ([f32; 3], [f32; 3]) {
    if code == Code::Depolarize {
        return ([1.0 - p; 3], [-1.0; 3]);
    }
    let (mut factors, mut rates) = ([1.0 - 2.0 * p; 3], [-2.0; 3]);
    let kept = code as usize - Code::KeepX as usize;
    (factors[kept], rates[kept]) = (1.0, 0.0);
    (factors, rates)
}

fn apply(operation: &Operation, p: f32, r: Bloch) -> Bloch {
    let mut out = r;
    match operation.code {
        Code::RotateX | Code::RotateY | Code::RotateZ => {
            let ((a, b), (s, c)) = (plane(operation.code), p.sin_cos());
            (out[a], out[b]) = (c * r[a] - s * r[b], s * r[a] + c * r[b]);
        }
        Code::Affine => {
            for (out, row) in out.iter_mut().zip(&operation.affine) {
                *out = row.iter().zip(&r).map(|(m, r)| *m as f32 * r).sum();
            }
        }
        Code::Amplitude | Code::Phase => {
            let root = (1.0 - p).sqrt();
            (out[0], out[1]) = (root * r[0], root * r[1]);
            if operation.code == Code::Amplitude {
                out[2] = p * (r[3] - r[2]) + r[2];
            }
        }
        code => {
            let (factors, _) = factors(code, p);
            out.iter_mut().zip(factors).for_each(|(out, factor)| *out *= factor);
        }
    }
    out
}

/// The gradient before an operation from the one after it, and that of its parameter.
fn pull_back(operation: &Operation, p: f32, before: Bloch, g: Bloch) -> (Bloch, f32) {
    let mut out = g;
    match operation.code {
        Code::RotateX | Code::RotateY | Code::RotateZ => {
            let ((a, b), (s, c)) = (plane(operation.code), p.sin_cos());
            let r = apply(operation, p, before);
            (out[a], out[b]) = (c * g[a] + s * g[b], c * g[b] - s * g[a]);
            (out, g[b] * r[a] - g[a] * r[b])
        }
        Code::Affine => {
            for (j, out) in out.iter_mut().enumerate() {
                let sum: f32 = (0..3).map(|i| operation.affine[i][j] as f32 * g[i]).sum();
                *out = sum + if j == 3 { g[3] } else { 0.0 };
            }
            (out, 0.0)
        }
        Code::Amplitude | Code::Phase => {
            let root = (1.0 - p).sqrt();
            let steep = if root > 0.0 { -0.5 / root } else { 0.0 };
            let mut slope = steep * (g[0] * before[0] + g[1] * before[1]);
            (out[0], out[1]) = (root * g[0], root * g[1]);
            if operation.code == Code::Amplitude {
                slope += g[2] * (before[3] - before[2]);
                (out[2], out[3]) = ((1.0 - p) * g[2], p * g[2] + g[3]);
            }
            (out, slope)
        }
        code => {
            let (factors, rates) = factors(code, p);
            let slope = (0..3).map(|i| rates[i] * g[i] * before[i]).sum();
            out.iter_mut().zip(factors).for_each(|(out, factor)| *out *= factor);
            (out, slope)
        }
    }
}

pub(super) fn forward(call: &Call<'_>) -> Result<Tensor> {
    let shape = [call.batch, call.steps + 1, 2, 2];
    let mut out = Tensor::zeros(call.device, DType::C64, &shape)?;
    if call.batch == 0 {
        return Ok(out);
    }
    if call.device.backend() != Backend::Cpu {
        gpu_forward(call, &out)?;
        return Ok(out);
    }
    let given = Host::new(call);
    let width = 4 * (call.steps + 1);
    let mut view = out.view_mut().with_layout(Layout::contiguous(&[1, call.batch * width])?)?;
    let (rows, _) = host_rows::<Complex32>(&mut view);
    let sequence = |(sequence, row): (usize, &mut [Complex32])| -> Result<()> {
        let mut r = given.start(sequence);
        let mut values = vec![0.0; call.channel.operations.len()];
        for (step, rho) in row.chunks_mut(4).enumerate() {
            rho.copy_from_slice(&matrix(r));
            if step < call.steps {
                given.parameters(sequence, step, &mut values)?;
                for (operation, &p) in call.channel.operations.iter().zip(&values) {
                    r = apply(operation, p, r);
                }
            }
        }
        Ok(())
    };
    rows.par_chunks_mut(width).enumerate().try_for_each(sequence)?;
    Ok(out)
}

/// What one sequence contributes.
struct Contribution {
    dx: Vec<f32>,
    /// By operation, summed over the steps.
    slopes: Vec<f64>,
    initial: [Complex32; 4],
}

pub(super) fn backward(
    call: &Call<'_>,
    states: &TensorRef<'_>,
    grads: &TensorRef<'_>,
) -> Result<QubitGradients> {
    if call.device.backend() != Backend::Cpu {
        return gpu_backward(call, states, grads);
    }
    let given = Host::new(call);
    let ((states, _), (grads, _)) = (host::<Complex32>(states), host::<Complex32>(grads));
    let operations = &call.channel.operations;
    let width = 4 * (call.steps + 1);
    // ∂L/∂(x, y, z, trace): half of what `bloch` reads.
    let arriving =
        |sequence: usize, step: usize| bloch(&grads[sequence * width + 4 * step..]).map(|g| 0.5 * g);
    let sequence = |sequence: usize| -> Result<Contribution> {
        let mut dx = vec![0.0f32; call.steps * call.inputs];
        let mut slopes = vec![0.0f64; operations.len()];
        let mut values = vec![0.0; operations.len()];
        let mut before = vec![[0.0; 4]; operations.len()];
        let mut g = arriving(sequence, call.steps);
        for step in (0..call.steps).rev() {
            given.parameters(sequence, step, &mut values)?;
            let mut r = bloch(&states[sequence * width + 4 * step..]);
            for (i, operation) in operations.iter().enumerate() {
                before[i] = r;
                r = apply(operation, values[i], r);
            }
            for (i, operation) in operations.iter().enumerate().rev() {
                let (pulled, slope) = pull_back(operation, values[i], before[i], g);
                g = pulled;
                match operation.angle.of {
                    Some(Variable::Theta(_)) => slopes[i] += operation.angle.scale * f64::from(slope),
                    Some(Variable::Input(at)) => {
                        dx[step * call.inputs + at] += operation.angle.scale as f32 * slope
                    }
                    None => {}
                }
            }
            let more = arriving(sequence, step);
            g.iter_mut().zip(more).for_each(|(g, more)| *g += more);
        }
        let initial = matrix(g).map(|entry| entry * 2.0);
        Ok(Contribution { dx, slopes, initial })
    };
    let all = (0..call.batch).into_par_iter().map(sequence).collect::<Result<Vec<_>>>()?;
    let mut theta = vec![0.0f64; call.thetas];
    for contribution in &all {
        for (operation, slope) in operations.iter().zip(&contribution.slopes) {
            if let Some(Variable::Theta(i)) = operation.angle.of {
                theta[i] += slope;
            }
        }
    }
    let theta: Vec<f32> = theta.into_iter().map(|value| value as f32).collect();
    let dx: Vec<f32> = all.iter().flat_map(|contribution| contribution.dx.iter().copied()).collect();
    let initial: Vec<Complex32> = all.iter().flat_map(|contribution| contribution.initial).collect();
    Ok(QubitGradients {
        x: Tensor::from_slice(call.device, &dx, &[call.batch, call.steps, call.inputs])?,
        theta: Tensor::from_slice(call.device, &theta, &[call.thetas])?,
        initial: Tensor::from_slice(call.device, &initial, &[call.batch, 2, 2])?,
    })
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
use gpu::{backward as gpu_backward, forward as gpu_forward};

#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod gpu {
    use super::{Call, QubitGradients, Variable};
    use crate::dtype::DType;
    use crate::error::{Error, Result};
    use crate::launch::{Operand, launch, wide};
    use crate::manifest::density as kernels;
    use crate::tensor::{Tensor, TensorRef};

    /// Words of an operation; as qubit.cuh.
    const WORDS: usize = 20;

    fn program(call: &Call<'_>) -> Result<Tensor> {
        let mut words = Vec::with_capacity(call.channel.operations.len() * WORDS);
        for operation in &call.channel.operations {
            let angle = operation.angle;
            let (source, index) = match angle.of {
                None => (0, 0),
                Some(Variable::Theta(i)) => (1, i as u32),
                Some(Variable::Input(i)) => (2, i as u32),
            };
            let number = |value: f64| (value as f32).to_bits();
            words.extend([
                operation.code as u32,
                source,
                index,
                number(angle.scale),
                number(angle.offset),
                0,
                0,
                0,
            ]);
            words.extend(operation.affine.iter().flatten().map(|&entry| number(entry)));
        }
        Tensor::from_slice(call.device, &words, &[words.len()])
    }

    /// Element steps of x: from sequence to sequence, from step to step, from input to input.
    fn x_steps(call: &Call<'_>) -> [u32; 5] {
        let layout = call.given.x.layout();
        let step = |dim: usize| if layout.is_empty() { 0 } else { layout.step(dim) };
        let ([low, high], [time_low, time_high]) = (wide(step(0) as u64), wide(step(1) as u64));
        [low, high, time_low, time_high, step(2) as u32]
    }

    fn check_batch(call: &Call<'_>) -> Result<()> {
        let most = call.batch.max(call.steps);
        if most < 1 << 31 {
            return Ok(());
        }
        let (what, limit, got) = ("sequences, or steps", (1u64 << 31).to_string(), most.to_string());
        Err(Error::Unsupported { op: call.op, backend: call.device.backend(), what, limit, got })
    }

    pub(super) fn forward(call: &Call<'_>, out: &Tensor) -> Result<()> {
        check_batch(call)?;
        let program = program(call)?;
        let (program, result) = (program.view(), out.view());
        let (theta, initial) = (call.given.theta.as_ref(), call.given.initial.as_ref());
        let initial_step = initial.map_or(0, |initial| initial.layout().step(0) as u32);
        let operands = [
            Operand::Tensor(&program),
            theta.map_or(Operand::Absent, Operand::Tensor),
            Operand::Tensor(&call.given.x),
            initial.map_or(Operand::Absent, Operand::Tensor),
            Operand::Tensor(&result),
            Operand::Status,
        ];
        let mut params = x_steps(call).to_vec();
        let operations = call.channel.operations.len() as u32;
        params.extend([
            initial_step,
            call.batch as u32,
            call.steps as u32,
            operations,
            initial.is_some().into(),
        ]);
        launch(
            call.device,
            call.op,
            &kernels::QUBIT_FORWARD,
            &operands,
            &params,
            (call.batch as u64).div_ceil(64),
        )
    }

    pub(super) fn backward(
        call: &Call<'_>,
        states: &TensorRef<'_>,
        grads: &TensorRef<'_>,
    ) -> Result<QubitGradients> {
        check_batch(call)?;
        let operations = call.channel.operations.len();
        let zeros = |dtype, shape: &[usize]| Tensor::zeros(call.device, dtype, shape);
        let gradients = QubitGradients {
            x: zeros(DType::F32, &[call.batch, call.steps, call.inputs])?,
            theta: zeros(DType::F32, &[call.thetas])?,
            initial: zeros(DType::C64, &[call.batch, 2, 2])?,
        };
        if call.batch == 0 {
            return Ok(gradients);
        }
        let (program, work) = (program(call)?, zeros(DType::F32, &[4 * operations, call.batch])?);
        let (program, work) = (program.view(), work.view());
        let (dx, theta, initial) = (gradients.x.view(), gradients.theta.view(), gradients.initial.view());
        let operands = [
            Operand::Tensor(&program),
            call.given.theta.as_ref().map_or(Operand::Absent, Operand::Tensor),
            Operand::Tensor(&call.given.x),
            Operand::Tensor(states),
            Operand::Tensor(grads),
            Operand::Tensor(&work),
            Operand::Tensor(&dx),
            Operand::Tensor(&initial),
        ];
        let mut params = x_steps(call).to_vec();
        params.extend([call.batch as u32, call.steps as u32, operations as u32, call.inputs as u32]);
        let blocks = (call.batch as u64).div_ceil(64);
        launch(call.device, call.op, &kernels::QUBIT_BACKWARD, &operands, &params, blocks)?;
        let operands = [&program, &work, &theta].map(Operand::Tensor);
        let params = [call.batch as u32, operations as u32, call.thetas as u32];
        let blocks = (call.thetas as u64).div_ceil(64);
        launch(call.device, call.op, &kernels::QUBIT_THETA, &operands, &params, blocks)?;
        drop((dx, theta, initial));
        Ok(gradients)
    }
}

#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
fn gpu_forward(call: &Call<'_>, _: &Tensor) -> Result<()> {
    Err(crate::statevec::readout::no_gpu(call.op, call.device))
}

#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
fn gpu_backward(call: &Call<'_>, _: &TensorRef<'_>, _: &TensorRef<'_>) -> Result<QubitGradients> {
    Err(crate::statevec::readout::no_gpu(call.op, call.device))
}
