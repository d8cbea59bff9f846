//! Density matrices: `[batch, 2^n, 2^n]` c64, row-major, on any device.
//!
//! A density matrix is a vector of 2n qubits: the column index is its low n qubits, the row index its high ones. A unitary U on
//! qubit q is U on qubit q + n and U* on qubit q; a channel is one matrix on both. A [`DensityCircuit`] is therefore compiled by
//! the state-vector engine, fusion and launches included, and n is at most 15.
//!
//! - [`KrausChannel`]: depolarising, flips, damping, readout error, any Kraus list that completes.
//! - [`DensityCircuit`] → [`DensityProgram`]: run, expectations, gradients (λ → ΣK†λK, checkpointed at channels).
//! - [`DensityBatch`]: trace, purity, probabilities, expectations and shots of matrices in memory.
//! - [`QubitChannel`]: ρ(t+1) = S(ρ(t), x(t)) of one qubit, a whole sequence in one launch, with its backward.

mod batch;
mod circuit;
mod gradient;
mod kraus;
mod qubit;
mod qubit_run;

pub use batch::DensityBatch;
pub use circuit::{DensityCircuit, DensityProgram, MAX_DENSITY_QUBITS};
pub use gradient::DensityGradients;
pub use kraus::{KrausChannel, MAX_CHANNEL_QUBITS};
pub use qubit::{QubitChannel, QubitGradients, QubitSequences};
