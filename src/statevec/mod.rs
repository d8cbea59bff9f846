//! Batched state vectors: circuits compiled once, run on any batch.
//!
//! [`Circuit`] lists gates; [`Circuit::compile`] gives a [`Program`], which [runs](Program::run) on a [`Batch`] of samples
//! with shared or per-task (`theta`) and per-sample (`inputs`) parameters, and returns states,
//! [probabilities](Program::probabilities), [expectations](Program::expectations) of [`PauliSum`]s, gradients of
//! [expectations](Program::gradient) or of [anything that is computed from the states](Program::backward_states).
//! [`Circuit::to_bytes`] keeps a circuit for another run.
//!
//! States in memory are read out by [`readout`]; [`DynamicCircuit`] has measurements, resets and conditions in its middle;
//! [`DensityCircuit`] has channels, on density matrices.
//!
//! # How a circuit is compiled
//!
//! 1. *Lowering* (`lower.rs`). Every gate becomes steps of six kinds: real and imaginary rotations of amplitude pairs,
//!    phases under parities, dense matrices, diagonals, permutations. CNOT, SWAP, X and every permutation that is linear over
//!    GF(2) become nothing: they change which stored index means which basis state, a linear map kept beside the state.
//!    Rotations about the same axis add up, and matrices multiply where one holds the other's qubits (`fuse.rs`).
//! 2. *Scheduling* (`schedule.rs`). A step needs the directions it flips at hand; parities it only reads cost nothing. Steps
//!    that commute may overtake each other. Greedily, each sweep takes the few directions that let most steps run.
//! 3. *Placing* (`plan.rs`). A sweep holds 2^k amplitudes in registers, one for each combination of its k directions, and
//!    applies its steps to them before they are stored again.
//!
//! One plan serves every backend; what differs is how many directions fit in registers, and how sweeps exchange amplitudes.

mod batch;
mod bytes;
mod circuit;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod density;
mod dynamic;
mod encoding;
mod fuse;
mod gate;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod gpu;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod gpu_adjoint;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod gpu_gradient;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod gpu_tables;
mod gradient;
mod lower;
mod observables;
mod parameter;
mod pauli;
mod plan;
mod problem;
mod program;
pub mod qasm;
pub mod readout;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod records;
mod schedule;
#[cfg(all(test, any(feature = "wgpu", feature = "cuda")))]
mod structure;
mod subspace;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod swizzle;
#[cfg(feature = "wgpu")]
mod wgpu;

pub use batch::{Batch, Start};
pub use circuit::{Circuit, Control, MAX_QUBITS, on};
pub use density::{
    DensityBatch, DensityCircuit, DensityGradients, DensityProgram, KrausChannel, MAX_CHANNEL_QUBITS,
    MAX_DENSITY_QUBITS, QubitChannel, QubitGradients, QubitSequences,
};
pub use dynamic::{DynamicCircuit, DynamicProgram, MAX_BITS, Shots};
pub use encoding::Axis;
pub use gate::{Gate, MAX_DIAGONAL_QUBITS, MAX_MATRIX_QUBITS};
pub use gradient::StatevecGradients;
pub use parameter::{Parameter, Variable};
pub use pauli::{PauliString, PauliSum};
pub use program::Program;
