//! State vectors on the CPU.
//!
//! Up to [`BATCHED_QUBITS`] qubits, sixteen samples lie across the lanes of every vector: each gate on each qubit is free of
//! shuffles, and per-sample angles are just vectors. Above, sixteen amplitudes of one sample do, and passes work on tiles
//! that stay in the second-level cache. Both run the same sweeps over the same [`lanes::Chunk`]s.

mod adjoint;
mod batched;
mod coefficients;
mod exec;
mod initial;
mod lanes;
mod lone;
mod readout;
mod single;
mod sweep;
mod vector;

pub(crate) use coefficients::{Matrices, Reals, Values};
pub(crate) use exec::Exec;
pub(crate) use initial::{Initial, Rows};
pub(crate) use lanes::Float;

use super::lower::Lowered;
use super::observables::StringGroup;
use super::plan::{self, Shape};
use crate::error::Result;

/// Most qubits of a state that shares its vectors with fifteen others: 16 · 2¹³ amplitudes are one megabyte.
pub(crate) const BATCHED_QUBITS: usize = 13;

/// Log₂ of the amplitudes in a vector of one state.
const LANE_BITS: usize = 4;

/// Log₂ of the vectors that lie together in every tile: 2 KiB keep the prefetcher going.
const RUN_BITS: usize = 4;

/// Log₂ of the registers an adjoint sweep has for each of ψ and λ.
const ADJOINT_REGISTER_BITS: usize = 2;

/// The plan of a circuit's forward pass (8 registers) or adjoint (4 registers, each of ψ and λ).
pub(crate) fn compile(lowered: &Lowered, qubits: usize, adjoint: bool) -> (Shape, Vec<plan::Pass>, Exec) {
    let register_bits = if adjoint { ADJOINT_REGISTER_BITS } else { 3 };
    let shape = if qubits <= BATCHED_QUBITS {
        let bits = stored_bits(qubits);
        Shape { bits, lane_bits: 0, run_bits: 0, tile_bits: bits, register_bits }
    } else {
        // 2¹² chunks of 128 bytes are 512 KiB; ψ and λ together keep to that.
        let tile_bits = if adjoint { 11 } else { 12 };
        Shape { bits: qubits, lane_bits: LANE_BITS, run_bits: RUN_BITS, tile_bits, register_bits }
    };
    let passes = plan::passes(&lowered.steps, shape);
    let exec = Exec::new(&lowered.steps, &passes);
    (shape, passes, exec)
}

/// Bits of the stored index of a batched state: every sweep has eight registers, so a smaller state has idle bits.
fn stored_bits(qubits: usize) -> usize {
    qubits.max(3)
}

/// A validated run. Slices start at the first element of the first sample.
pub(crate) struct Call<'a> {
    pub(crate) qubits: usize,
    pub(crate) batch: usize,
    pub(crate) lowered: &'a Lowered,
    pub(crate) forward: &'a Exec,
    pub(crate) values: Values<'a>,
    pub(crate) initial: Initial<'a>,
}

/// Where a forward run's result goes: rows of a caller's buffer, `row_step` elements apart.
pub(crate) enum Output<'a, F> {
    /// Real and imaginary parts in turn.
    States(&'a mut [[F; 2]], usize),
    Probabilities(&'a mut [F], usize),
    /// One value per observable and row.
    Expectations {
        out: &'a mut [F],
        row_step: usize,
        observables: usize,
        groups: &'a [StringGroup],
    },
}

/// An adjoint run: what the result's gradient is.
pub(crate) struct Gradient<'a, F> {
    pub(crate) exec: &'a Exec,
    pub(crate) cotangent: Cotangent<'a, F>,
    /// Whether the initial states' gradients are wanted.
    pub(crate) initial: bool,
    /// Whether the global phase's gradient is wanted: expectations do not have one.
    pub(crate) phase: bool,
}

/// The gradient that arrives from whatever uses the final states.
pub(crate) enum Cotangent<'a, F> {
    /// Of Σ weight·⟨observable⟩; `weights[sample · step + observable]`.
    Observables { groups: &'a [StringGroup], observables: usize, weights: &'a [F], step: usize },
    /// Of the amplitudes themselves, a row for each sample.
    States { rows: &'a [[F; 2]], step: usize },
}

/// What an adjoint run gives.
pub(crate) struct Gradients {
    /// ∂/∂angle of every gradient accumulator, for every sample: `[batch][accumulator]`.
    pub(crate) angles: Vec<f64>,
    /// `[batch][2^qubits]`, re and im, or nothing if it was not asked for.
    pub(crate) initial: Vec<[f64; 2]>,
    /// By the global phase: `[batch]`, or nothing.
    pub(crate) phase: Vec<f64>,
}

impl Gradients {
    /// Zeros of the sizes asked for.
    pub(crate) fn zeros(angles: usize, amplitudes: usize, phases: usize) -> Self {
        Self { angles: vec![0.0; angles], initial: vec![[0.0; 2]; amplitudes], phase: vec![0.0; phases] }
    }
}

pub(crate) fn forward<F: Float>(call: &Call<'_>, output: Output<'_, F>) -> Result<()> {
    if call.qubits > BATCHED_QUBITS {
        return single::forward(call, output);
    }
    batched::forward(call, output);
    Ok(())
}

pub(crate) fn gradient<F: Float>(call: &Call<'_>, gradient: &Gradient<'_, F>) -> Result<Gradients> {
    if call.qubits <= BATCHED_QUBITS {
        Ok(batched::gradient(call, gradient))
    } else {
        single::gradient(call, gradient)
    }
}
