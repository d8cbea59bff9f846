//! The gates a circuit may hold.

use super::parameter::Parameter;
use super::pauli::PauliString;
use crate::error::{Error, Result};
use num_complex::Complex64;

const OP: &str = "Circuit";

/// Most qubits a dense matrix may act on.
pub const MAX_MATRIX_QUBITS: usize = 6;
/// Most qubits a diagonal or a permutation may act on.
pub const MAX_DIAGONAL_QUBITS: usize = 6;
/// Most slots of per-sample matrices.
pub(crate) const MAX_SLOTS: usize = 1 << 12;

/// What a gate does to its target qubits, with OpenQASM's phases. Rotations are `exp(−i·angle/2·P)`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Gate {
    /// Pauli X.
    X,
    /// Pauli Y.
    Y,
    /// Pauli Z.
    Z,
    /// Hadamard.
    H,
    /// `diag(1, i)`.
    S,
    /// `diag(1, −i)`.
    Sdg,
    /// `diag(1, e^{iπ/4})`.
    T,
    /// `diag(1, e^{−iπ/4})`.
    Tdg,
    /// √X.
    Sx,
    /// √X†.
    Sxdg,
    /// `exp(−iθX/2)`.
    Rx(Parameter),
    /// `exp(−iθY/2)`.
    Ry(Parameter),
    /// `exp(−iθZ/2)`.
    Rz(Parameter),
    /// `diag(1, e^{iφ})`.
    Phase(Parameter),
    /// `U3(θ, φ, λ) = [[cos θ/2, −e^{iλ} sin θ/2], [e^{iφ} sin θ/2, e^{i(φ+λ)} cos θ/2]]`.
    U3(Parameter, Parameter, Parameter),
    /// Exchanges two qubits.
    Swap,
    /// Exchanges two qubits, and multiplies by i where they differ.
    ISwap,
    /// Inverse of [`Gate::ISwap`].
    ISwapDg,
    /// `exp(−iθ X⊗X/2)`.
    Rxx(Parameter),
    /// `exp(−iθ Y⊗Y/2)`.
    Ryy(Parameter),
    /// `exp(−iθ Z⊗Z/2)`.
    Rzz(Parameter),
    /// `exp(−iθP/2)` for a Pauli string on the circuit's qubits; takes no targets.
    PauliRotation(PauliString, Parameter),
    /// Row-major `2^k × 2^k` matrix; the first target is the least significant bit of its index. Need not be unitary.
    Matrix(Vec<Complex64>),
    /// The `2^k` entries of a diagonal matrix; the first target is the least significant bit.
    Diagonal(Vec<Complex64>),
    /// |i⟩ → |table(i)⟩ for each of the `2^k` basis states of the targets; the first target is the least significant bit.
    Permutation(Vec<u32>),
    /// A matrix of each sample's own, [`Batch::matrix`](super::Batch::matrix) of this slot; as [`Gate::Matrix`] otherwise.
    SampleMatrix {
        /// Which of the batch's matrices. Every use of a slot has the same number of targets.
        slot: usize,
        /// Whether its conjugate transpose is meant.
        adjoint: bool,
    },
}

/// Whether the gate takes so many targets, and its numbers are as many as they need and finite.
pub(crate) fn check_size(gate: &Gate, targets: usize) -> Result<()> {
    let expected = match gate {
        Gate::PauliRotation(..) => 0,
        Gate::Swap | Gate::ISwap | Gate::ISwapDg | Gate::Rxx(_) | Gate::Ryy(_) | Gate::Rzz(_) => 2,
        Gate::Matrix(entries) | Gate::Diagonal(entries) => {
            let diagonal = matches!(gate, Gate::Diagonal(_));
            let (limit, power) = if diagonal { (MAX_DIAGONAL_QUBITS, 1) } else { (MAX_MATRIX_QUBITS, 2) };
            check_count(targets, limit)?;
            if entries.len() != 1 << (power * targets) {
                let reason = format!(
                    "has {} entries, {targets} qubits need {}",
                    entries.len(),
                    1usize << (power * targets)
                );
                return Err(Error::argument(OP, "matrix", reason));
            }
            if let Some(entry) = entries.iter().find(|entry| !entry.is_finite()) {
                return Err(Error::argument(OP, "matrix", format!("holds {entry}, which is not finite")));
            }
            targets
        }
        Gate::Permutation(table) => {
            check_count(targets, MAX_DIAGONAL_QUBITS)?;
            let mut seen = vec![false; 1 << targets];
            let fresh =
                |&to: &u32| seen.get_mut(to as usize).is_some_and(|seen| !std::mem::replace(seen, true));
            if table.len() != 1 << targets || !table.iter().all(fresh) {
                let reason = format!("does not name each of the {} basis states once", 1usize << targets);
                return Err(Error::argument(OP, "table", reason));
            }
            targets
        }
        Gate::SampleMatrix { slot, .. } => {
            check_count(targets, MAX_MATRIX_QUBITS)?;
            if *slot >= MAX_SLOTS {
                return Err(Error::argument(OP, "slot", format!("is {slot}, not below {MAX_SLOTS}")));
            }
            targets
        }
        _ => 1,
    };
    if targets == expected {
        return Ok(());
    }
    Err(Error::argument(OP, "targets", format!("are {targets} qubits, the gate takes {expected}")))
}

fn check_count(targets: usize, limit: usize) -> Result<()> {
    if (1..=limit).contains(&targets) {
        return Ok(());
    }
    Err(Error::argument(OP, "targets", format!("are {targets} qubits, outside 1..={limit}")))
}

/// The gate's parameters, in order.
pub(crate) fn parameters(gate: &Gate) -> impl Iterator<Item = Parameter> {
    let list = match *gate {
        Gate::Rx(a) | Gate::Ry(a) | Gate::Rz(a) | Gate::Phase(a) => [Some(a), None, None],
        Gate::Rxx(a) | Gate::Ryy(a) | Gate::Rzz(a) | Gate::PauliRotation(_, a) => [Some(a), None, None],
        Gate::U3(a, b, c) => [Some(a), Some(b), Some(c)],
        _ => [None; 3],
    };
    list.into_iter().flatten()
}

/// The conjugate transpose.
pub(crate) fn inverse(gate: &Gate) -> Gate {
    let minus = |parameter: Parameter| parameter.scaled(-1.0);
    match gate {
        Gate::S => Gate::Sdg,
        Gate::Sdg => Gate::S,
        Gate::T => Gate::Tdg,
        Gate::Tdg => Gate::T,
        Gate::Sx => Gate::Sxdg,
        Gate::Sxdg => Gate::Sx,
        Gate::Rx(a) => Gate::Rx(minus(*a)),
        Gate::Ry(a) => Gate::Ry(minus(*a)),
        Gate::Rz(a) => Gate::Rz(minus(*a)),
        Gate::Phase(a) => Gate::Phase(minus(*a)),
        Gate::U3(theta, phi, lambda) => Gate::U3(minus(*theta), minus(*lambda), minus(*phi)),
        Gate::ISwap => Gate::ISwapDg,
        Gate::ISwapDg => Gate::ISwap,
        Gate::Rxx(a) => Gate::Rxx(minus(*a)),
        Gate::Ryy(a) => Gate::Ryy(minus(*a)),
        Gate::Rzz(a) => Gate::Rzz(minus(*a)),
        Gate::PauliRotation(string, a) => Gate::PauliRotation(*string, minus(*a)),
        Gate::Matrix(entries) => {
            let side = entries.len().isqrt();
            Gate::Matrix((0..entries.len()).map(|i| entries[i % side * side + i / side].conj()).collect())
        }
        Gate::Diagonal(entries) => Gate::Diagonal(entries.iter().map(Complex64::conj).collect()),
        Gate::Permutation(table) => Gate::Permutation(inverse_table(table)),
        Gate::SampleMatrix { slot, adjoint } => Gate::SampleMatrix { slot: *slot, adjoint: !adjoint },
        Gate::X | Gate::Y | Gate::Z | Gate::H | Gate::Swap => gate.clone(),
    }
}

/// The table of the inverse permutation.
pub(crate) fn inverse_table(table: &[u32]) -> Vec<u32> {
    let mut back = vec![0; table.len()];
    (0..).zip(table).for_each(|(from, &to)| back[to as usize] = from);
    back
}
