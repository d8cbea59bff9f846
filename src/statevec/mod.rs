//! Batched state vectors: circuits compiled once, run on any batch.
//!
//! [`Circuit`] lists gates; [`Circuit::compile`] gives a [`Program`], which [runs](Program::run) on a [`Batch`] of samples
//! with shared (`theta`) and per-sample (`inputs`) parameters, and returns states, [probabilities](Program::probabilities),
//! [expectations](Program::expectations) of [`PauliSum`]s, or [gradients](Program::gradient).
//!
//! # How a circuit is compiled
//!
//! 1. *Lowering* (`lower.rs`). Every gate becomes steps of five kinds: real and imaginary rotations of amplitude pairs,
//!    phases under parities, dense matrices, diagonals. CNOT, SWAP and X become nothing: they change which stored index
//!    means which basis state, a linear map over GF(2) kept beside the state. Equal neighbours merge.
//! 2. *Scheduling* (`schedule.rs`). A step needs the directions it flips at hand; parities it only reads cost nothing. Steps
//!    that commute may overtake each other. Greedily, each sweep takes the few directions that let most steps run.
//! 3. *Placing* (`plan.rs`). A sweep holds 2^k amplitudes in registers, one for each combination of its k directions, and
//!    applies its steps to them before they are stored again.
//!
//! One plan serves every backend; what differs is how many directions fit in registers, and how sweeps exchange amplitudes.

mod circuit;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod dynamic;
mod encoding;
mod fuse;
mod gate;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod gpu;
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
mod subspace;
#[cfg(feature = "wgpu")]
mod wgpu;

pub use circuit::{Circuit, Control, MAX_QUBITS, on};
pub use dynamic::{DynamicCircuit, DynamicProgram, MAX_BITS, Shots};
pub use encoding::Axis;
pub use gate::{Gate, MAX_DIAGONAL_QUBITS, MAX_MATRIX_QUBITS};
pub use parameter::{Parameter, Variable};
pub use pauli::{PauliString, PauliSum};
pub use problem::Batch;
pub use program::{Program, StatevecGradients};
