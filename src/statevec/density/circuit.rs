//! Circuits with channels, on the doubled register.

use super::batch::DensityBatch;
use super::gradient::Segment;
use super::kraus::KrausChannel;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::random::Stream;
use crate::statevec::circuit::{Circuit, Control, Instruction, MAX_QUBITS};
use crate::statevec::gate::Gate;
use crate::statevec::pauli::{PauliString, PauliSum};
use crate::statevec::problem::Batch;
use crate::statevec::program::Program;
use crate::tensor::{Layout, Tensor, TensorRef};
use crate::validate;
use num_complex::Complex64;
use std::sync::OnceLock;

const OP: &str = "DensityCircuit";

/// Most qubits of a density matrix: it is a vector of twice as many.
pub const MAX_DENSITY_QUBITS: usize = MAX_QUBITS / 2;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Element {
    Unitary(Circuit),
    Channel(KrausChannel, Vec<usize>),
}

/// A circuit with channels, under construction.
///
/// ```
/// # fn main() -> gatewarp::Result<()> {
/// use gatewarp::Device;
/// use gatewarp::statevec::{Batch, Circuit, DensityCircuit, KrausChannel, PauliSum};
/// let mut bell = Circuit::new(2)?;
/// bell.h(0)?.cx(0, 1)?;
/// let mut circuit = DensityCircuit::new(2)?;
/// circuit.circuit(&bell)?.channel(&KrausChannel::phase_damping(0.19)?, &[0])?;
/// let program = circuit.compile()?;
/// let xx = program.expectations(&Batch::new(&Device::cpu(), 1), &["X0*X1".parse::<PauliSum>()?])?;
/// assert!((xx.to_vec::<f32>()?[0] - 0.9).abs() < 1e-6); // √(1 − 0.19)
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DensityCircuit {
    qubits: usize,
    thetas: usize,
    inputs: usize,
    elements: Vec<Element>,
}

impl DensityCircuit {
    /// An empty circuit on `qubits` qubits.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `qubits` is 0 or above [`MAX_DENSITY_QUBITS`].
    pub fn new(qubits: usize) -> Result<Self> {
        if qubits == 0 || qubits > MAX_DENSITY_QUBITS {
            return Err(Error::argument(
                OP,
                "qubits",
                format!("is {qubits}, outside 1..={MAX_DENSITY_QUBITS}"),
            ));
        }
        Ok(Self { qubits, thetas: 0, inputs: 0, elements: Vec::new() })
    }

    /// Number of qubits.
    pub fn qubits(&self) -> usize {
        self.qubits
    }

    /// Appends a circuit: ρ → UρU†.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the qubit counts differ.
    pub fn circuit(&mut self, circuit: &Circuit) -> Result<&mut Self> {
        if circuit.qubits() != self.qubits {
            let reason = format!("has {} qubits, this circuit has {}", circuit.qubits(), self.qubits);
            return Err(Error::argument(OP, "circuit", reason));
        }
        // Gates that cannot be doubled are refused here, not when everything is compiled.
        let (thetas, inputs) = (self.thetas.max(circuit.thetas()), self.inputs.max(circuit.inputs()));
        let mut doubled = Circuit::with_parameters(2 * self.qubits, thetas, inputs)?;
        push_doubled(&mut doubled, circuit, &[])?;
        (self.thetas, self.inputs) = (thetas, inputs);
        self.elements.push(Element::Unitary(circuit.clone()));
        Ok(self)
    }

    /// Appends a channel on the listed qubits, the first the least significant bit of its operators' index.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a qubit is out of range or listed twice, or their number is not the channel's.
    pub fn channel(&mut self, channel: &KrausChannel, targets: &[usize]) -> Result<&mut Self> {
        if targets.len() != channel.qubits() {
            let reason = format!("are {} qubits, the channel takes {}", targets.len(), channel.qubits());
            return Err(Error::argument(OP, "targets", reason));
        }
        for (i, &target) in targets.iter().enumerate() {
            if target >= self.qubits {
                let reason = format!("name qubit {target}, the circuit has {}", self.qubits);
                return Err(Error::argument(OP, "targets", reason));
            }
            if targets[..i].contains(&target) {
                return Err(Error::argument(OP, "targets", format!("name qubit {target} twice")));
            }
        }
        self.elements.push(Element::Channel(channel.clone(), targets.to_vec()));
        Ok(self)
    }

    /// Compiles the circuit on the doubled register.
    ///
    /// # Errors
    /// As [`Circuit::compile`].
    pub fn compile(&self) -> Result<DensityProgram> {
        let mut doubled = Circuit::with_parameters(2 * self.qubits, self.thetas, self.inputs)?;
        for element in &self.elements {
            match element {
                Element::Unitary(circuit) => push_doubled(&mut doubled, circuit, &[])?,
                Element::Channel(channel, targets) => {
                    push_channel(&mut doubled, self.qubits, channel, targets, false)?
                }
            }
        }
        let (program, source) = (doubled.compile()?, self.clone());
        Ok(DensityProgram { program, source, segments: OnceLock::new() })
    }

    pub(super) fn elements(&self) -> &[Element] {
        &self.elements
    }

    pub(super) fn parameters(&self) -> (usize, usize) {
        (self.thetas, self.inputs)
    }
}

/// Appends U on the rows and U* on the columns, under extra controls.
pub(super) fn push_doubled(doubled: &mut Circuit, circuit: &Circuit, extra: &[Control]) -> Result<()> {
    let n = circuit.qubits();
    for Instruction { gate, targets, controls } in &circuit.instructions {
        let moved: Vec<usize> = targets.iter().map(|&q| q + n).collect();
        let moved_controls = controls.iter().map(|c| Control { qubit: c.qubit + n, ..*c });
        let moved_controls: Vec<Control> = moved_controls.chain(extra.iter().copied()).collect();
        doubled.controlled(&moved_controls, on_rows(gate, n), &moved)?;
        let controls: Vec<Control> = controls.iter().chain(extra).copied().collect();
        doubled.controlled(&controls, conjugate(gate)?, targets)?;
    }
    Ok(())
}

/// Appends a channel, or λ → ΣK†λK.
pub(super) fn push_channel(
    doubled: &mut Circuit,
    n: usize,
    channel: &KrausChannel,
    targets: &[usize],
    adjoint: bool,
) -> Result<()> {
    let both: Vec<usize> = targets.iter().copied().chain(targets.iter().map(|&q| q + n)).collect();
    let matrix = channel.superoperator(adjoint);
    let side = matrix.len().isqrt();
    // Dephasing moves nothing: it stays a diagonal.
    let is_diagonal = (0..matrix.len()).all(|at| at / side == at % side || matrix[at] == Complex64::ZERO);
    if is_diagonal && both.len() <= crate::statevec::MAX_DIAGONAL_QUBITS {
        let entries: Vec<Complex64> = (0..side).map(|i| matrix[i * side + i]).collect();
        doubled.diagonal(&both, &entries)?;
    } else {
        doubled.unitary(&both, &matrix)?;
    }
    Ok(())
}

/// The gate on qubits n higher. Targets and controls are moved by the caller; a string names its own.
fn on_rows(gate: &Gate, n: usize) -> Gate {
    match gate {
        Gate::PauliRotation(string, angle) => {
            Gate::PauliRotation(PauliString { x: string.x << n, z: string.z << n }, *angle)
        }
        other => other.clone(),
    }
}

/// The gate whose matrix is the complex conjugate.
fn conjugate(gate: &Gate) -> Result<Gate> {
    use std::f64::consts::{FRAC_PI_2, PI};
    let all = |entries: &[Complex64]| entries.iter().map(Complex64::conj).collect::<Vec<_>>();
    Ok(match gate {
        Gate::X | Gate::Z | Gate::H | Gate::Swap | Gate::Ry(_) => gate.clone(),
        // −Y, which is Y up to a phase that controls make visible.
        Gate::Y => Gate::U3(PI.into(), (-FRAC_PI_2).into(), (-FRAC_PI_2).into()),
        Gate::S => Gate::Sdg,
        Gate::Sdg => Gate::S,
        Gate::T => Gate::Tdg,
        Gate::Tdg => Gate::T,
        Gate::Sx => Gate::Sxdg,
        Gate::Sxdg => Gate::Sx,
        Gate::Rx(a) => Gate::Rx(a.scaled(-1.0)),
        Gate::Rz(a) => Gate::Rz(a.scaled(-1.0)),
        Gate::Phase(a) => Gate::Phase(a.scaled(-1.0)),
        Gate::U3(theta, phi, lambda) => Gate::U3(*theta, phi.scaled(-1.0), lambda.scaled(-1.0)),
        Gate::ISwap => Gate::ISwapDg,
        Gate::ISwapDg => Gate::ISwap,
        Gate::Rxx(a) => Gate::Rxx(a.scaled(-1.0)),
        Gate::Ryy(a) => Gate::Ryy(a.scaled(-1.0)),
        Gate::Rzz(a) => Gate::Rzz(a.scaled(-1.0)),
        // Each Y factor changes sign.
        Gate::PauliRotation(string, a) => {
            let sign = if string.y_count() & 1 == 1 { 1.0 } else { -1.0 };
            Gate::PauliRotation(*string, a.scaled(sign))
        }
        Gate::Matrix(entries) => Gate::Matrix(all(entries)),
        Gate::Diagonal(entries) => Gate::Diagonal(all(entries)),
        Gate::Permutation(table) => Gate::Permutation(table.clone()),
        other => {
            let reason = format!("holds {other:?}, whose conjugate a density matrix needs and no gate is");
            return Err(Error::argument(OP, "circuit", reason));
        }
    })
}

/// A compiled [`DensityCircuit`].
#[derive(Debug)]
pub struct DensityProgram {
    pub(super) program: Program,
    pub(super) source: DensityCircuit,
    pub(super) segments: OnceLock<Vec<Segment>>,
}

impl DensityProgram {
    /// Number of qubits.
    pub fn qubits(&self) -> usize {
        self.source.qubits
    }

    /// Length of `theta`.
    pub fn thetas(&self) -> usize {
        self.source.thetas
    }

    /// Width of `inputs`.
    pub fn inputs(&self) -> usize {
        self.source.inputs
    }

    /// The circuit on the doubled register, as the state-vector engine runs it.
    pub fn doubled(&self) -> &Program {
        &self.program
    }

    /// Runs the circuit: ρ of every sample, `[samples, 2^n, 2^n]` c64.
    ///
    /// `batch.initial`: `[samples | 1, 2^n, 2^n]` c64 with contiguous matrices; |0…0⟩⟨0…0| if absent.
    ///
    /// # Errors
    /// As [`Program::run`].
    pub fn run(&self, batch: &Batch<'_>) -> Result<Tensor> {
        let flat = self.flat(batch)?;
        let side = 1usize << self.qubits();
        let mut out = Tensor::zeros(&batch.device, DType::C64, &[batch.samples, side, side])?;
        let layout = Layout::contiguous(&[batch.samples, side * side])?;
        self.program.run_into(&flat, &mut out.view_mut().with_layout(layout)?)?;
        Ok(out)
    }

    /// Tr(ρ·observable) of every sample and observable, `[samples, observables]` f32.
    ///
    /// # Errors
    /// As [`DensityProgram::run`] and [`DensityBatch::expectations`].
    pub fn expectations(&self, batch: &Batch<'_>, observables: &[PauliSum]) -> Result<Tensor> {
        DensityBatch::new(&self.run(batch)?.view())?.expectations(observables)
    }

    /// Probabilities of every basis state, `[samples, 2^n]` f32.
    ///
    /// # Errors
    /// As [`DensityProgram::run`].
    pub fn probabilities(&self, batch: &Batch<'_>) -> Result<Tensor> {
        DensityBatch::new(&self.run(batch)?.view())?.probabilities()
    }

    /// Shots, `[samples, shots]` u32, as [`Program::sample`].
    ///
    /// # Errors
    /// As [`DensityProgram::run`] and [`Program::sample`].
    pub fn sample<'s>(
        &self,
        batch: &Batch<'_>,
        shots: usize,
        stream: impl Into<Stream<'s>>,
    ) -> Result<Tensor> {
        DensityBatch::new(&self.run(batch)?.view())?.sample(shots, stream)
    }

    /// The batch with its initial matrices as vectors of the doubled register.
    pub(super) fn flat<'a>(&self, batch: &Batch<'a>) -> Result<Batch<'a>> {
        let mut flat = batch.clone();
        if let Some(initial) = &batch.initial {
            flat.initial = Some(as_vectors("density_run", "initial", initial, self.qubits())?);
        }
        Ok(flat)
    }
}

/// `[samples, 2^n, 2^n]` as `[samples, 4^n]`.
pub(super) fn as_vectors<'a>(
    op: &'static str,
    arg: &'static str,
    matrices: &TensorRef<'a>,
    qubits: usize,
) -> Result<TensorRef<'a>> {
    let side = 1usize << qubits;
    let layout = *matrices.layout();
    if layout.shape().len() != 3 || layout.shape()[1..] != [side, side] {
        return Err(Error::shape(op, arg, format!("[batch, {side}, {side}]"), matrices.shape()));
    }
    validate::last_contiguous(op, arg, matrices)?;
    if !layout.is_empty() && layout.step(1) != side {
        let reason = format!("must hold contiguous matrices, has strides {:?}", layout.strides());
        return Err(Error::argument(op, arg, reason));
    }
    matrices.with_layout(Layout::new(
        &[layout.shape()[0], side * side],
        &[layout.step(0), 1],
        layout.offset(),
    )?)
}
