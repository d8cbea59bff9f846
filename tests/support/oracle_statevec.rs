//! State vectors in f64: a gate is a matrix on the whole register, built entry by entry from the Kronecker rule. Shares
//! nothing with `src/`.
//!
//! Qubit 0 is the least significant bit of the amplitude index; the first target is the least significant bit of the matrix
//! index. Gate phases are OpenQASM's: the upper left entry of U3 is cos(θ/2).

use num_complex::Complex64 as C;

/// A matrix on some qubits, applied where every control has its value.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Row-major, 2^k × 2^k.
    pub matrix: Vec<C>,
    /// k distinct qubits.
    pub targets: Vec<usize>,
    /// (qubit, value it must have).
    pub controls: Vec<(usize, bool)>,
}

/// One factor of a Pauli string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pauli {
    X,
    Y,
    Z,
}

/// |0…0⟩ on `n` qubits.
pub fn zero_state(n: usize) -> Vec<C> {
    let mut state = vec![C::ZERO; 1 << n];
    state[0] = C::ONE;
    state
}

fn bit(index: usize, qubit: usize) -> usize {
    index >> qubit & 1
}

impl Operation {
    /// An operation without controls.
    pub fn new(matrix: Vec<C>, targets: &[usize]) -> Self {
        Self { matrix, targets: targets.to_vec(), controls: Vec::new() }
    }

    /// The same, where `qubit` has `value`.
    pub fn controlled(mut self, qubit: usize, value: bool) -> Self {
        self.controls.push((qubit, value));
        self
    }

    fn matrix_index(&self, index: usize) -> usize {
        self.targets.iter().enumerate().map(|(place, &qubit)| bit(index, qubit) << place).sum()
    }

    /// ⟨row|U|column⟩ of the operator on the whole register.
    pub fn entry(&self, row: usize, column: usize) -> C {
        let targets: usize = self.targets.iter().map(|&qubit| 1 << qubit).sum();
        if (row & !targets) != (column & !targets) {
            return C::ZERO;
        }
        if self.controls.iter().any(|&(qubit, value)| bit(row, qubit) != usize::from(value)) {
            return if row == column { C::ONE } else { C::ZERO };
        }
        let size = 1 << self.targets.len();
        self.matrix[self.matrix_index(row) * size + self.matrix_index(column)]
    }

    /// U|state⟩. Each row's sum runs over the columns whose entry can differ from 0.
    pub fn apply(&self, state: &[C]) -> Vec<C> {
        let row_sum = |row: usize| -> C {
            let columns = (0..1usize << self.targets.len()).map(|pattern| {
                let places = self.targets.iter().enumerate();
                places.fold(row, |index, (place, &qubit)| {
                    (index & !(1 << qubit)) | (bit(pattern, place) << qubit)
                })
            });
            columns.map(|column| self.entry(row, column) * state[column]).sum()
        };
        (0..state.len()).map(row_sum).collect()
    }
}

/// The circuit's final state, starting from `state`.
pub fn run(circuit: &[Operation], state: &[C]) -> Vec<C> {
    circuit.iter().fold(state.to_vec(), |state, operation| operation.apply(&state))
}

/// |amplitude|² of every basis state.
pub fn probabilities(state: &[C]) -> Vec<f64> {
    state.iter().map(C::norm_sqr).collect()
}

/// Re⟨ψ|P|ψ⟩ of a Pauli string, given as (qubit, factor); qubits not listed carry the identity. Not divided by the norm.
pub fn pauli_expectation(state: &[C], string: &[(usize, Pauli)]) -> f64 {
    let image = string.iter().fold(state.to_vec(), |state, &(qubit, pauli)| {
        let matrix = match pauli {
            Pauli::X => x(),
            Pauli::Y => y(),
            Pauli::Z => z(),
        };
        Operation::new(matrix, &[qubit]).apply(&state)
    });
    state.iter().zip(&image).map(|(a, b)| (a.conj() * b).re).sum()
}

/// Amplitudes as (re, im) pairs, for `compare::close_norm`.
pub fn interleaved(state: &[C]) -> Vec<f64> {
    state.iter().flat_map(|a| [a.re, a.im]).collect()
}

fn real(entries: &[f64]) -> Vec<C> {
    entries.iter().map(|&x| C::new(x, 0.0)).collect()
}

fn diagonal(entries: &[C]) -> Vec<C> {
    let size = entries.len();
    (0..size * size).map(|at| if at / size == at % size { entries[at / size] } else { C::ZERO }).collect()
}

fn phase_of(angle: f64) -> C {
    C::from_polar(1.0, angle)
}

pub fn x() -> Vec<C> {
    real(&[0.0, 1.0, 1.0, 0.0])
}

pub fn y() -> Vec<C> {
    vec![C::ZERO, -C::I, C::I, C::ZERO]
}

pub fn z() -> Vec<C> {
    real(&[1.0, 0.0, 0.0, -1.0])
}

pub fn h() -> Vec<C> {
    let r = std::f64::consts::FRAC_1_SQRT_2;
    real(&[r, r, r, -r])
}

pub fn s() -> Vec<C> {
    diagonal(&[C::ONE, C::I])
}

pub fn t() -> Vec<C> {
    phase(std::f64::consts::FRAC_PI_4)
}

/// √X, with the phase of Qiskit's `sx`.
pub fn sx() -> Vec<C> {
    let (p, m) = (C::new(0.5, 0.5), C::new(0.5, -0.5));
    vec![p, m, m, p]
}

/// The inverse of a unitary.
pub fn inverse(matrix: &[C]) -> Vec<C> {
    let size = matrix.len().isqrt();
    (0..matrix.len()).map(|at| matrix[at % size * size + at / size].conj()).collect()
}

pub fn phase(angle: f64) -> Vec<C> {
    diagonal(&[C::ONE, phase_of(angle)])
}

pub fn rx(angle: f64) -> Vec<C> {
    let (c, s) = (C::new((angle / 2.0).cos(), 0.0), C::new(0.0, -(angle / 2.0).sin()));
    vec![c, s, s, c]
}

pub fn ry(angle: f64) -> Vec<C> {
    let (c, s) = ((angle / 2.0).cos(), (angle / 2.0).sin());
    real(&[c, -s, s, c])
}

pub fn rz(angle: f64) -> Vec<C> {
    diagonal(&[phase_of(-angle / 2.0), phase_of(angle / 2.0)])
}

/// OpenQASM's U(θ, φ, λ).
pub fn u3(theta: f64, phi: f64, lambda: f64) -> Vec<C> {
    let (c, s) = ((theta / 2.0).cos(), (theta / 2.0).sin());
    vec![C::new(c, 0.0), -phase_of(lambda) * s, phase_of(phi) * s, phase_of(phi + lambda) * c]
}

pub fn swap() -> Vec<C> {
    real(&[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
}

pub fn iswap() -> Vec<C> {
    swap().iter().enumerate().map(|(at, &entry)| if at == 6 || at == 9 { C::I } else { entry }).collect()
}

/// cos(θ/2)·1 − i·sin(θ/2)·P ⊗ P.
fn pair_rotation(angle: f64, pauli: &[C]) -> Vec<C> {
    let (c, s) = ((angle / 2.0).cos(), C::new(0.0, -(angle / 2.0).sin()));
    let entry = |row: usize, column: usize| {
        let product = pauli[(row >> 1) * 2 + (column >> 1)] * pauli[(row & 1) * 2 + (column & 1)];
        s * product + if row == column { c } else { 0.0 }
    };
    (0..16).map(|at| entry(at / 4, at % 4)).collect()
}

pub fn rxx(angle: f64) -> Vec<C> {
    pair_rotation(angle, &x())
}

pub fn ryy(angle: f64) -> Vec<C> {
    pair_rotation(angle, &y())
}

pub fn rzz(angle: f64) -> Vec<C> {
    pair_rotation(angle, &z())
}
