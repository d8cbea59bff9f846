//! State vectors on the CPU.
//!
//! Up to [`BATCHED_QUBITS`] qubits, sixteen samples lie across the lanes of every vector: each gate on each qubit is free of
//! shuffles, and per-sample angles are just vectors. Above, sixteen amplitudes of one sample do, and passes work on tiles
//! that stay in the second-level cache. Both run the same sweeps over the same [`lanes::Chunk`]s.

mod adjoint;
mod batched;
mod coefficients;
mod exec;
mod lanes;
mod lone;
mod readout;
mod single;
mod sweep;
mod vector;

pub(crate) use coefficients::{Matrices, Values};
pub(crate) use exec::Exec;

use super::lower::Lowered;
use super::observables::StringGroup;
use super::plan::{self, Shape};
use crate::error::Result;
use num_complex::Complex32;

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
    /// Initial states and the step from one to the next; |0…0⟩ if there are none.
    pub(crate) initial: Option<(&'a [Complex32], usize)>,
}

/// Where a forward run's result goes: rows of a caller's buffer, `row_step` elements apart.
pub(crate) enum Output<'a> {
    States(&'a mut [Complex32], usize),
    Probabilities(&'a mut [f32], usize),
    /// One value per observable and row.
    Expectations {
        out: &'a mut [f32],
        row_step: usize,
        observables: usize,
        groups: &'a [StringGroup],
    },
}

/// An adjoint run: weights per sample and observable, and where the gradients go.
pub(crate) struct Gradient<'a> {
    pub(crate) exec: &'a Exec,
    pub(crate) groups: &'a [StringGroup],
    pub(crate) observables: usize,
    /// `weights[sample · step + observable]`.
    pub(crate) weights: &'a [f32],
    pub(crate) weight_step: usize,
}

/// ∂/∂angle of every gradient accumulator, for every sample: `[batch][accumulator]`.
pub(crate) type AngleGradients = Vec<f64>;

pub(crate) fn forward(call: &Call<'_>, output: Output<'_>) -> Result<()> {
    if call.qubits > BATCHED_QUBITS {
        return single::forward(call, output);
    }
    batched::forward(call, output);
    Ok(())
}

pub(crate) fn gradient(call: &Call<'_>, gradient: &Gradient<'_>) -> Result<AngleGradients> {
    if call.qubits <= BATCHED_QUBITS {
        Ok(batched::gradient(call, gradient))
    } else {
        single::gradient(call, gradient)
    }
}
