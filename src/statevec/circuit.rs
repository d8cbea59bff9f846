//! Circuits: a list of gates on n qubits, checked as they are added.

use super::gate::{Gate, check_size, inverse, parameters};
use super::parameter::{Angle, Parameter, Variable};
use super::pauli::PauliString;
use super::program::Program;
use crate::error::{Error, Result};
use num_complex::Complex64;

const OP: &str = "Circuit";

/// Most qubits a circuit may have: amplitude indices are 32-bit words in every kernel.
pub const MAX_QUBITS: usize = 30;
/// A control qubit and the value at which the gate acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// The qubit.
    pub qubit: usize,
    /// Acts where the qubit is 1 (`true`) or 0.
    pub value: bool,
}

/// Controls on 1.
pub fn on<const N: usize>(qubits: [usize; N]) -> [Control; N] {
    qubits.map(|qubit| Control { qubit, value: true })
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Instruction {
    pub(crate) gate: Gate,
    pub(crate) targets: Vec<usize>,
    pub(crate) controls: Vec<Control>,
}

/// A circuit under construction.
///
/// Qubit 0 is the least significant bit of the amplitude index. Every method checks its arguments and returns the circuit,
/// so calls chain with `?`; a refused gate leaves the circuit as it was.
///
/// ```
/// # fn main() -> gatewarp::Result<()> {
/// use gatewarp::statevec::{Circuit, Parameter};
/// let mut circuit = Circuit::new(2)?;
/// circuit.ry(0, Parameter::Input(0))?.cx(0, 1)?.rz(1, Parameter::Theta(0))?;
/// assert_eq!((circuit.thetas(), circuit.inputs()), (1, 1));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Circuit {
    qubits: usize,
    pub(crate) instructions: Vec<Instruction>,
    thetas: usize,
    inputs: usize,
    /// Qubits of each slot of per-sample matrices, 0 for one that no gate names.
    matrices: Vec<usize>,
    declared: bool,
}

impl Circuit {
    /// An empty circuit on `qubits` qubits. It has as many parameters as its gates turn out to name.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `qubits` is 0 or above [`MAX_QUBITS`].
    pub fn new(qubits: usize) -> Result<Self> {
        if qubits == 0 || qubits > MAX_QUBITS {
            return Err(Error::argument(OP, "qubits", format!("is {qubits}, outside 1..={MAX_QUBITS}")));
        }
        Ok(Self {
            qubits,
            instructions: Vec::new(),
            thetas: 0,
            inputs: 0,
            matrices: Vec::new(),
            declared: false,
        })
    }

    /// An empty circuit with exactly `thetas` shared parameters and `inputs` values per sample; naming any other is an error.
    ///
    /// # Errors
    /// As [`Circuit::new`].
    pub fn with_parameters(qubits: usize, thetas: usize, inputs: usize) -> Result<Self> {
        Ok(Self { thetas, inputs, declared: true, ..Self::new(qubits)? })
    }

    /// Number of qubits.
    pub fn qubits(&self) -> usize {
        self.qubits
    }

    /// Number of shared parameters: the length of `theta`.
    pub fn thetas(&self) -> usize {
        self.thetas
    }

    /// Number of values per sample: the width of `inputs`.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Whether the numbers of parameters were given when the circuit was made.
    pub(crate) fn is_declared(&self) -> bool {
        self.declared
    }

    /// Qubits of each slot of per-sample matrices; 0 for a slot that no gate names.
    pub fn matrices(&self) -> &[usize] {
        &self.matrices
    }

    /// Number of gates.
    pub fn len(&self) -> usize {
        self.instructions.len()
    }

    /// Whether there are no gates.
    pub fn is_empty(&self) -> bool {
        self.instructions.is_empty()
    }

    /// Compiles the circuit. The program can be run on any batch with any parameters, as often as wanted.
    ///
    /// # Errors
    /// None today that building the circuit has not reported; the result type leaves room for compilation limits.
    pub fn compile(&self) -> Result<Program> {
        Program::new(self)
    }

    /// Adds a gate on `targets`, acting only where every control has its value.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] naming the qubit, parameter or matrix that is out of range, repeated, of the wrong size or
    /// not finite.
    pub fn controlled(&mut self, controls: &[Control], gate: Gate, targets: &[usize]) -> Result<&mut Self> {
        let mut used = 0u32;
        if let Gate::PauliRotation(string, _) = &gate {
            if string.qubits() > self.qubits {
                return Err(self.out_of_range("string", string.qubits() - 1));
            }
            used = string.x | string.z;
        }
        let controlled = controls.iter().map(|control| ("controls", control.qubit));
        for (arg, qubit) in targets.iter().map(|&qubit| ("targets", qubit)).chain(controlled) {
            if qubit >= self.qubits {
                return Err(self.out_of_range(arg, qubit));
            }
            if used >> qubit & 1 == 1 {
                return Err(Error::argument(OP, arg, format!("name qubit {qubit} twice")));
            }
            used |= 1 << qubit;
        }
        check_size(&gate, targets.len())?;
        let (mut thetas, mut inputs) = (self.thetas, self.inputs);
        for parameter in parameters(&gate) {
            let angle = Angle::from(parameter);
            if !angle.scale.is_finite() || !angle.offset.is_finite() {
                return Err(Error::argument(OP, "parameter", format!("{parameter:?} is not finite")));
            }
            let (count, index, what) = match angle.of {
                None => continue,
                Some(Variable::Theta(i)) => (&mut thetas, i, "theta"),
                Some(Variable::Input(i)) => (&mut inputs, i, "inputs"),
            };
            if index >= *count {
                // 2³⁰ parameters address any memory a kernel can.
                if self.declared || index >= 1 << 30 {
                    let reason = format!("{index} of `{what}` is out of range, there are {count}");
                    return Err(Error::argument(OP, "parameter", reason));
                }
                *count = index + 1;
            }
        }
        if let Gate::SampleMatrix { slot, .. } = gate {
            let qubits = self.matrices.get(slot).copied().unwrap_or(0);
            if qubits != 0 && qubits != targets.len() {
                let reason = format!("{slot} is a matrix on {qubits} qubits, not on {}", targets.len());
                return Err(Error::argument(OP, "slot", reason));
            }
            self.matrices.resize(self.matrices.len().max(slot + 1), 0);
            self.matrices[slot] = targets.len();
        }
        (self.thetas, self.inputs) = (thetas, inputs);
        self.instructions.push(Instruction { gate, targets: targets.to_vec(), controls: controls.to_vec() });
        Ok(self)
    }

    fn out_of_range(&self, arg: &'static str, qubit: usize) -> Error {
        Error::argument(OP, arg, format!("name qubit {qubit}, the circuit has {}", self.qubits))
    }

    /// Adds a gate without controls.
    ///
    /// # Errors
    /// As [`Circuit::controlled`].
    pub fn push(&mut self, gate: Gate, targets: &[usize]) -> Result<&mut Self> {
        self.controlled(&[], gate, targets)
    }

    /// Appends the gates of another circuit on the same number of qubits; both read the same parameters.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the qubit counts differ, or a parameter is out of this circuit's declared range.
    pub fn append(&mut self, other: &Self) -> Result<&mut Self> {
        if other.qubits != self.qubits {
            let reason = format!("has {} qubits, this circuit has {}", other.qubits, self.qubits);
            return Err(Error::argument(OP, "other", reason));
        }
        let before = self.clone();
        for gate in &other.instructions {
            if let Err(error) = self.controlled(&gate.controls, gate.gate.clone(), &gate.targets) {
                *self = before;
                return Err(error);
            }
        }
        Ok(self)
    }

    /// The inverse circuit: gates reversed, each replaced by its conjugate transpose. Matrices are assumed unitary.
    pub fn inverse(&self) -> Self {
        let undo = |it: &Instruction| Instruction { gate: inverse(&it.gate), ..it.clone() };
        Self { instructions: self.instructions.iter().rev().map(undo).collect(), ..self.clone() }
    }
}

/// Named gates. Each fails as [`Circuit::controlled`].
#[allow(clippy::missing_errors_doc)]
impl Circuit {
    /// Pauli X.
    pub fn x(&mut self, q: usize) -> Result<&mut Self> {
        self.push(Gate::X, &[q])
    }

    /// Pauli Y.
    pub fn y(&mut self, q: usize) -> Result<&mut Self> {
        self.push(Gate::Y, &[q])
    }

    /// Pauli Z.
    pub fn z(&mut self, q: usize) -> Result<&mut Self> {
        self.push(Gate::Z, &[q])
    }

    /// Hadamard.
    pub fn h(&mut self, q: usize) -> Result<&mut Self> {
        self.push(Gate::H, &[q])
    }

    /// `diag(1, i)`.
    pub fn s(&mut self, q: usize) -> Result<&mut Self> {
        self.push(Gate::S, &[q])
    }

    /// Inverse of S.
    pub fn sdg(&mut self, q: usize) -> Result<&mut Self> {
        self.push(Gate::Sdg, &[q])
    }

    /// `diag(1, e^{iπ/4})`.
    pub fn t(&mut self, q: usize) -> Result<&mut Self> {
        self.push(Gate::T, &[q])
    }

    /// Inverse of T.
    pub fn tdg(&mut self, q: usize) -> Result<&mut Self> {
        self.push(Gate::Tdg, &[q])
    }

    /// √X.
    pub fn sx(&mut self, q: usize) -> Result<&mut Self> {
        self.push(Gate::Sx, &[q])
    }

    /// Inverse of √X.
    pub fn sxdg(&mut self, q: usize) -> Result<&mut Self> {
        self.push(Gate::Sxdg, &[q])
    }

    /// `exp(−iθX/2)`.
    pub fn rx(&mut self, q: usize, angle: impl Into<Parameter>) -> Result<&mut Self> {
        self.push(Gate::Rx(angle.into()), &[q])
    }

    /// `exp(−iθY/2)`.
    pub fn ry(&mut self, q: usize, angle: impl Into<Parameter>) -> Result<&mut Self> {
        self.push(Gate::Ry(angle.into()), &[q])
    }

    /// `exp(−iθZ/2)`.
    pub fn rz(&mut self, q: usize, angle: impl Into<Parameter>) -> Result<&mut Self> {
        self.push(Gate::Rz(angle.into()), &[q])
    }

    /// `diag(1, e^{iφ})`.
    pub fn phase(&mut self, q: usize, angle: impl Into<Parameter>) -> Result<&mut Self> {
        self.push(Gate::Phase(angle.into()), &[q])
    }

    /// OpenQASM's `U(θ, φ, λ)`.
    pub fn u3(
        &mut self,
        q: usize,
        theta: impl Into<Parameter>,
        phi: impl Into<Parameter>,
        lambda: impl Into<Parameter>,
    ) -> Result<&mut Self> {
        self.push(Gate::U3(theta.into(), phi.into(), lambda.into()), &[q])
    }

    /// Exchanges two qubits.
    pub fn swap(&mut self, a: usize, b: usize) -> Result<&mut Self> {
        self.push(Gate::Swap, &[a, b])
    }

    /// iSWAP.
    pub fn iswap(&mut self, a: usize, b: usize) -> Result<&mut Self> {
        self.push(Gate::ISwap, &[a, b])
    }

    /// `exp(−iθ X⊗X/2)`.
    pub fn rxx(&mut self, a: usize, b: usize, angle: impl Into<Parameter>) -> Result<&mut Self> {
        self.push(Gate::Rxx(angle.into()), &[a, b])
    }

    /// `exp(−iθ Y⊗Y/2)`.
    pub fn ryy(&mut self, a: usize, b: usize, angle: impl Into<Parameter>) -> Result<&mut Self> {
        self.push(Gate::Ryy(angle.into()), &[a, b])
    }

    /// `exp(−iθ Z⊗Z/2)`.
    pub fn rzz(&mut self, a: usize, b: usize, angle: impl Into<Parameter>) -> Result<&mut Self> {
        self.push(Gate::Rzz(angle.into()), &[a, b])
    }
}

/// Controlled gates, matrices and strings. Each fails as [`Circuit::controlled`].
#[allow(clippy::missing_errors_doc)]
impl Circuit {
    /// Controlled X.
    pub fn cx(&mut self, control: usize, target: usize) -> Result<&mut Self> {
        self.controlled(&on([control]), Gate::X, &[target])
    }

    /// Controlled Z.
    pub fn cz(&mut self, control: usize, target: usize) -> Result<&mut Self> {
        self.controlled(&on([control]), Gate::Z, &[target])
    }

    /// Toffoli.
    pub fn ccx(&mut self, a: usize, b: usize, target: usize) -> Result<&mut Self> {
        self.controlled(&on([a, b]), Gate::X, &[target])
    }

    /// Controlled phase.
    pub fn cphase(&mut self, a: usize, b: usize, angle: impl Into<Parameter>) -> Result<&mut Self> {
        self.controlled(&on([a]), Gate::Phase(angle.into()), &[b])
    }

    /// A dense matrix on up to [`MAX_MATRIX_QUBITS`](super::MAX_MATRIX_QUBITS) qubits, row-major, first target least significant.
    pub fn unitary(&mut self, targets: &[usize], matrix: &[Complex64]) -> Result<&mut Self> {
        self.push(Gate::Matrix(matrix.to_vec()), targets)
    }

    /// A diagonal matrix on up to [`MAX_DIAGONAL_QUBITS`](super::MAX_DIAGONAL_QUBITS) qubits, first target least significant.
    pub fn diagonal(&mut self, targets: &[usize], entries: &[Complex64]) -> Result<&mut Self> {
        self.push(Gate::Diagonal(entries.to_vec()), targets)
    }

    /// The permutation |i⟩ → |table(i)⟩ on up to [`MAX_DIAGONAL_QUBITS`](super::MAX_DIAGONAL_QUBITS) qubits, first target least
    /// significant. One that is
    /// linear over GF(2), up to flips, moves no data.
    pub fn permutation(&mut self, targets: &[usize], table: &[u32]) -> Result<&mut Self> {
        self.push(Gate::Permutation(table.to_vec()), targets)
    }

    /// A matrix of each sample's own: `matrix(slot, …)` of the batch.
    pub fn sample_matrix(&mut self, targets: &[usize], slot: usize) -> Result<&mut Self> {
        self.push(Gate::SampleMatrix { slot, adjoint: false }, targets)
    }

    /// Exchanges two qubits where the control is 1 (Fredkin).
    pub fn cswap(&mut self, control: usize, a: usize, b: usize) -> Result<&mut Self> {
        self.controlled(&on([control]), Gate::Swap, &[a, b])
    }

    /// X where every control is 1.
    pub fn mcx(&mut self, controls: &[usize], target: usize) -> Result<&mut Self> {
        let controls: Vec<Control> = controls.iter().map(|&qubit| Control { qubit, value: true }).collect();
        self.controlled(&controls, Gate::X, &[target])
    }

    /// `exp(−iθP/2)` for a Pauli string P.
    pub fn pauli_rotation(&mut self, string: PauliString, angle: impl Into<Parameter>) -> Result<&mut Self> {
        self.push(Gate::PauliRotation(string, angle.into()), &[])
    }
}
