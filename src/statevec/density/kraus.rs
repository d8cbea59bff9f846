//! Channels: ρ → Σ KρK†.

use crate::error::{Error, Result};
use num_complex::Complex64 as C;

const OP: &str = "KrausChannel";

/// Most qubits of a channel: its superoperator acts on twice as many of the doubled register.
pub const MAX_CHANNEL_QUBITS: usize = crate::statevec::MAX_MATRIX_QUBITS / 2;

/// How far Σ K†K may be from the identity in any entry.
const COMPLETENESS: f64 = 1e-6;

/// A trace-preserving channel on a few qubits, given by its Kraus operators.
///
/// ```
/// # fn main() -> gatewarp::Result<()> {
/// use gatewarp::statevec::KrausChannel;
/// assert_eq!(KrausChannel::amplitude_damping(0.1)?.operators().len(), 2);
/// assert!(KrausChannel::new(1, &[vec![1.0.into(), 0.0.into(), 0.0.into(), 0.5.into()]]).is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct KrausChannel {
    qubits: usize,
    operators: Vec<Vec<C>>,
}

impl KrausChannel {
    /// The channel of the given operators, row-major `2^qubits × 2^qubits`, first qubit the least significant bit of the index.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no qubits or more than [`MAX_CHANNEL_QUBITS`], an operator of the wrong size or with an
    /// entry that is not finite, or a set that does not complete: some entry of Σ K†K is more than 1e-6 from the identity's.
    pub fn new(qubits: usize, operators: &[Vec<C>]) -> Result<Self> {
        if qubits == 0 || qubits > MAX_CHANNEL_QUBITS {
            let reason = format!("are {qubits}, outside 1..={MAX_CHANNEL_QUBITS}");
            return Err(Error::argument(OP, "qubits", reason));
        }
        let side = 1usize << qubits;
        for (i, operator) in operators.iter().enumerate() {
            if operator.len() != side * side {
                let reason = format!(
                    "number {i} has {} entries, {qubits} qubits need {}",
                    operator.len(),
                    side * side
                );
                return Err(Error::argument(OP, "operators", reason));
            }
            if let Some(entry) = operator.iter().find(|entry| !entry.is_finite()) {
                return Err(Error::argument(OP, "operators", format!("hold {entry}, which is not finite")));
            }
        }
        for row in 0..side {
            for column in 0..side {
                let products = operators
                    .iter()
                    .flat_map(|k| (0..side).map(move |i| (k[i * side + row], k[i * side + column])));
                let sum: C = products.map(|(a, b)| a.conj() * b).sum();
                let identity = f64::from(u8::from(row == column));
                if (sum - identity).norm() > COMPLETENESS {
                    let reason =
                        format!("do not complete: Σ K†K has {sum} at ({row}, {column}), expected {identity}");
                    return Err(Error::argument(OP, "operators", reason));
                }
            }
        }
        Ok(Self { qubits, operators: operators.to_vec() })
    }

    /// With probability `p` the qubits become maximally mixed: ρ → (1−p)ρ + p·1/2^k.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `p` is outside 0 to 1, or as [`KrausChannel::new`].
    pub fn depolarizing(qubits: usize, p: f64) -> Result<Self> {
        let p = probability("p", p)?;
        if qubits == 0 || qubits > MAX_CHANNEL_QUBITS {
            return Self::new(qubits, &[]);
        }
        // The mixture is the average over all Pauli strings, the identity among them.
        let strings = 1usize << (2 * qubits);
        let operators: Vec<Vec<C>> = (0..strings)
            .map(|string| {
                let share = p / strings as f64;
                let weight = if string == 0 { 1.0 - p + share } else { share };
                pauli_string(string, qubits).into_iter().map(|entry| entry * weight.sqrt()).collect()
            })
            .collect();
        Self::new(qubits, &operators)
    }

    /// X with probability `p`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `p` is outside 0 to 1.
    pub fn bit_flip(p: f64) -> Result<Self> {
        Self::flip(p, 1)
    }

    /// Z with probability `p`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `p` is outside 0 to 1.
    pub fn phase_flip(p: f64) -> Result<Self> {
        Self::flip(p, 2)
    }

    /// Y with probability `p`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `p` is outside 0 to 1.
    pub fn bit_phase_flip(p: f64) -> Result<Self> {
        Self::flip(p, 3)
    }

    /// |1⟩ decays to |0⟩ with probability `gamma`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `gamma` is outside 0 to 1.
    pub fn amplitude_damping(gamma: f64) -> Result<Self> {
        let gamma = probability("gamma", gamma)?;
        let decay = real(&[0.0, gamma.sqrt(), 0.0, 0.0]);
        Self::new(1, &[real(&[1.0, 0.0, 0.0, (1.0 - gamma).sqrt()]), decay])
    }

    /// Coherence shrinks by √(1−λ); populations stay.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `lambda` is outside 0 to 1.
    pub fn phase_damping(lambda: f64) -> Result<Self> {
        let lambda = probability("lambda", lambda)?;
        let damped = real(&[0.0, 0.0, 0.0, lambda.sqrt()]);
        Self::new(1, &[real(&[1.0, 0.0, 0.0, (1.0 - lambda).sqrt()]), damped])
    }

    /// What a faulty detector reads: |0⟩ as 1 with probability `p01`, |1⟩ as 0 with probability `p10`. Coherence is lost, as by
    /// any measurement.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a probability is outside 0 to 1.
    pub fn readout_error(p01: f64, p10: f64) -> Result<Self> {
        let (p01, p10) = (probability("p01", p01)?, probability("p10", p10)?);
        let weights = [(0, 1.0 - p01), (2, p01), (1, p10), (3, 1.0 - p10)];
        let operator = |(at, weight): (usize, f64)| {
            let mut entries = [0.0; 4];
            entries[at] = weight.sqrt();
            real(&entries)
        };
        Self::new(1, &weights.map(operator))
    }

    fn flip(p: f64, pauli: usize) -> Result<Self> {
        let p = probability("p", p)?;
        let scaled = |pauli: usize, weight: f64| -> Vec<C> {
            pauli_string(pauli, 1).into_iter().map(|entry| entry * weight.sqrt()).collect()
        };
        Self::new(1, &[scaled(0, 1.0 - p), scaled(pauli, p)])
    }

    /// Number of qubits.
    pub fn qubits(&self) -> usize {
        self.qubits
    }

    /// The Kraus operators.
    pub fn operators(&self) -> &[Vec<C>] {
        &self.operators
    }

    /// The matrix on the doubled register, row-major `4^k × 4^k`; the low k bits of an index number ρ's column, the high ones its
    /// row. With `adjoint` that of λ → ΣK†λK.
    pub(crate) fn superoperator(&self, adjoint: bool) -> Vec<C> {
        let side = 1usize << self.qubits;
        let mask = side - 1;
        let entry = |to: usize, from: usize| -> C {
            let ((row, column), (row_from, column_from)) =
                ((to >> self.qubits, to & mask), (from >> self.qubits, from & mask));
            let product = |k: &Vec<C>| {
                if adjoint {
                    k[row_from * side + row].conj() * k[column_from * side + column]
                } else {
                    k[row * side + row_from] * k[column * side + column_from].conj()
                }
            };
            self.operators.iter().map(product).sum()
        };
        (0..side * side)
            .flat_map(|to| (0..side * side).map(move |from| (to, from)))
            .map(|(to, from)| entry(to, from))
            .collect()
    }

    /// A one-qubit channel on Bloch vectors: r → M·r + t·c, three rows of (M, c), t the trace.
    pub(crate) fn bloch(&self) -> Option<[[f64; 4]; 3]> {
        if self.qubits != 1 {
            return None;
        }
        // Column j: the image of the j-th of X, Y, Z, 1, read along each of X, Y, Z.
        let order = [1, 3, 2, 0];
        let mut rows = [[0.0; 4]; 3];
        for (j, &from) in order.iter().enumerate() {
            let image = self.apply(&pauli_string(from, 1));
            for (i, row) in rows.iter_mut().enumerate() {
                let read = pauli_string(order[i], 1);
                let trace: C = (0..4).map(|at| read[at] * image[at % 2 * 2 + at / 2]).sum();
                row[j] = trace.re / 2.0;
            }
        }
        Some(rows)
    }

    fn apply(&self, rho: &[C]) -> Vec<C> {
        let side = 1usize << self.qubits;
        let entry = |row: usize, column: usize| -> C {
            let mut sum = C::ZERO;
            for k in &self.operators {
                for i in 0..side {
                    for j in 0..side {
                        sum += k[row * side + i] * rho[i * side + j] * k[column * side + j].conj();
                    }
                }
            }
            sum
        };
        (0..side * side).map(|at| entry(at / side, at % side)).collect()
    }
}

fn real(entries: &[f64]) -> Vec<C> {
    entries.iter().map(|&x| C::new(x, 0.0)).collect()
}

fn probability(arg: &'static str, p: f64) -> Result<f64> {
    if (0.0..=1.0).contains(&p) {
        Ok(p)
    } else {
        Err(Error::argument(OP, arg, format!("is {p}, outside 0 to 1")))
    }
}

/// A Pauli string as a matrix; two bits a qubit: 0 identity, 1 X, 2 Z, 3 Y.
fn pauli_string(string: usize, qubits: usize) -> Vec<C> {
    let side = 1usize << qubits;
    let entry = |row: usize, column: usize| -> C {
        (0..qubits)
            .map(|q| {
                let (i, j) = (row >> q & 1, column >> q & 1);
                match string >> (2 * q) & 3 {
                    0 => C::new(f64::from(u8::from(i == j)), 0.0),
                    1 => C::new(f64::from(u8::from(i != j)), 0.0),
                    2 if i == j => C::new(if i == 0 { 1.0 } else { -1.0 }, 0.0),
                    3 if i != j => C::new(0.0, if i == 0 { -1.0 } else { 1.0 }),
                    _ => C::ZERO,
                }
            })
            .product()
    };
    (0..side * side).map(|at| entry(at / side, at % side)).collect()
}
