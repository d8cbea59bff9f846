//! Shots: basis states drawn with the frequencies of their probabilities.
//!
//! Probabilities become integers on a scale of 2⁶² a sample, whose sums do not depend on the order of addition; shot i of
//! sample s multiplies the 64-bit word of block `s·shots + i` of the stream by the total and looks up where the sums before
//! an outcome pass it. The shots are thus the same on every backend, except where a probability's own rounding moves a
//! threshold across a word, and are in logical order whatever labels a program used inside.

use super::{States, outcome_weights};
use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::random::Stream;
use crate::statevec::problem::{Batch, host, host_rows};
use crate::statevec::program::Program;
use crate::tensor::{Tensor, TensorRef};
use crate::validate;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Log₂ of the probabilities whose sum is stored.
const RUN_BITS: usize = 6;
/// Outcomes of one task.
const TASK: usize = 1 << 14;

impl Program {
    /// Runs the circuit and draws basis states: `[samples, shots]` u32, qubit 0 the least significant bit.
    ///
    /// The same seed gives the same shots on every backend and in every batch position that has the same sample number.
    /// Where the state's norm is not 1 (given initial states, matrices that are not unitary) the distribution is the
    /// normalised one.
    ///
    /// # Errors
    /// As [`Program::probabilities`]; [`Error::InvalidArgument`] on the CPU for a state that cannot be normalised. On a GPU such
    /// a sample's shots are `u32::MAX` and the next synchronising call returns [`Error::DeviceValue`].
    pub fn sample<'s>(
        &self,
        batch: &Batch<'_>,
        shots: usize,
        stream: impl Into<Stream<'s>>,
    ) -> Result<Tensor> {
        let probabilities = self.probabilities(batch)?;
        draw("statevec_sample", &probabilities.view(), shots, &stream.into())
    }
}

/// Shots of states in memory: `[batch, shots]` u32 from `states [batch, 2^n]` c64, as [`Program::sample`].
///
/// # Errors
/// As [`probabilities`](super::probabilities) and [`Program::sample`].
pub fn sample_states<'s>(
    states: &TensorRef<'_>,
    shots: usize,
    stream: impl Into<Stream<'s>>,
) -> Result<Tensor> {
    let op = "statevec_sample_states";
    let states = States::new(op, "states", states)?;
    let all: Vec<usize> = (0..states.qubits).collect();
    draw(op, &outcome_weights(op, &states, &all)?.view(), shots, &stream.into())
}

/// Shots of given distributions: `[batch, shots]` u32 from `probabilities [batch, 2^n]` f32, contiguous, not negative, each row
/// of any positive sum.
///
/// # Errors
/// [`Error::Shape`], [`Error::DType`], [`Error::InvalidArgument`]; for rows without a positive, finite sum as
/// [`Program::sample`].
pub fn sample_probabilities<'s>(
    probabilities: &TensorRef<'_>,
    shots: usize,
    stream: impl Into<Stream<'s>>,
) -> Result<Tensor> {
    let op = "statevec_sample_probabilities";
    let outcomes = probabilities.shape().last().copied().unwrap_or(0);
    if probabilities.shape().len() != 2 || !outcomes.is_power_of_two() || outcomes > 1 << 30 {
        return Err(Error::shape(op, "probabilities", "[batch, 2^n], n ≤ 30", probabilities.shape()));
    }
    validate::tensor(op, "probabilities", probabilities, DType::F32, probabilities.device())?;
    validate::contiguous(op, "probabilities", probabilities)?;
    draw(op, probabilities, shots, &stream.into())
}

fn draw(
    op: &'static str,
    probabilities: &TensorRef<'_>,
    shots: usize,
    stream: &Stream<'_>,
) -> Result<Tensor> {
    let device = probabilities.device();
    let (samples, outcomes) = (probabilities.shape()[0], probabilities.shape()[1]);
    if device.backend() != Backend::Cpu {
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        return gpu::draw(op, probabilities, shots, stream);
        #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
        return Err(super::no_gpu(op, device));
    }
    let (seed, offset) = stream.values(op)?;
    let mut out = Tensor::zeros(device, DType::U32, &[samples, shots])?;
    if samples == 0 || shots == 0 {
        return Ok(out);
    }
    let (values, _) = host::<f32>(probabilities);
    let mut view = out.view_mut();
    let (rows, _) = host_rows::<u32>(&mut view);
    let row = |(sample, out): (usize, &mut [u32])| {
        let table = Table::new(&values[sample * outcomes..][..outcomes]).ok_or(sample)?;
        let first = (sample * shots) as u64;
        out.par_iter_mut().enumerate().for_each(|(shot, out)| {
            let words = crate::random::block(seed, offset, first + shot as u64);
            *out = table.outcome(u64::from(words[1]) << 32 | u64::from(words[0]));
        });
        Ok(())
    };
    rows.par_chunks_mut(shots).enumerate().map(row).collect::<std::result::Result<(), usize>>().map_err(
        |sample| {
            let reason =
                format!("of sample {sample} have no positive, finite sum: the state cannot be normalised");
            Error::argument(op, "probabilities", reason)
        },
    )?;
    Ok(out)
}

/// An exponent that the sum of a sample's probabilities is below; as `exponent_of` in mass.cuh.
pub(crate) fn exponent_of(sum: f32) -> Option<i32> {
    // The factor keeps sums near 1 away from the change of exponent, so that all backends agree there.
    (sum.is_finite() && sum > 0.0).then(|| ((sum * 0.75).to_bits() >> 23 & 0xff) as i32 - 127 + 2)
}

/// ⌊p·2^(62 − exponent)⌋.
pub(crate) fn fixed_point(p: f32, exponent: i32) -> u64 {
    let bits = p.to_bits();
    let biased = bits >> 23 & 0xff;
    let mantissa = u64::from(bits & 0x007f_ffff | if biased > 0 { 0x0080_0000 } else { 0 });
    match biased.max(1) as i32 - 150 + 62 - exponent {
        shift @ 0.. => mantissa << shift,
        shift @ -23..=-1 => mantissa >> -shift,
        _ => 0,
    }
}

/// ⌊w·total / 2⁶⁴⌋.
pub(crate) fn upper_product(word: u64, total: u64) -> u64 {
    ((u128::from(word) * u128::from(total)) >> 64) as u64
}

/// A distribution as integers, with the sum before each run of 2^[`RUN_BITS`].
struct Table<'a> {
    probabilities: &'a [f32],
    exponent: i32,
    before: Vec<u64>,
    total: u64,
}

impl<'a> Table<'a> {
    /// `None` if the probabilities have no positive, finite sum.
    fn new(probabilities: &'a [f32]) -> Option<Self> {
        let sums: Vec<f64> =
            probabilities.par_chunks(TASK).map(|task| task.iter().map(|&p| f64::from(p)).sum()).collect();
        let exponent = exponent_of(sums.into_iter().sum::<f64>() as f32)?;
        let mut before: Vec<u64> = probabilities
            .par_chunks(1 << RUN_BITS)
            .with_min_len(TASK >> RUN_BITS)
            .map(|run| run.iter().map(|&p| fixed_point(p, exponent)).sum())
            .collect();
        let mut total = 0;
        for run in &mut before {
            (*run, total) = (total, total + *run);
        }
        (total > 0).then_some(Self { probabilities, exponent, before, total })
    }

    fn outcome(&self, word: u64) -> u32 {
        let mut target = upper_product(word, self.total);
        // The last run whose sum before it is at most the target; run 0's is 0.
        let run = self.before.partition_point(|&before| before <= target) - 1;
        target -= self.before[run];
        let first = run << RUN_BITS;
        let end = (first + (1 << RUN_BITS)).min(self.probabilities.len());
        for outcome in first..end {
            let mass = fixed_point(self.probabilities[outcome], self.exponent);
            if target < mass {
                return outcome as u32;
            }
            target -= mass;
        }
        // Not reached: the run's integers exceed the target.
        (end - 1) as u32
    }
}

/// How often each outcome was drawn, per sample, from `[batch, shots]` u32. Waits for the device.
///
/// # Errors
/// [`Error::Shape`], [`Error::DType`]; device errors of work submitted earlier.
pub fn counts(shots: &TensorRef<'_>) -> Result<Vec<BTreeMap<u32, u64>>> {
    let &[samples, width] = shots.shape() else {
        return Err(Error::shape("statevec_counts", "shots", "[batch, shots]", shots.shape()));
    };
    let values = shots.to_vec::<u32>()?;
    let mut all = vec![BTreeMap::new(); samples];
    for (counts, row) in all.iter_mut().zip(values.chunks(width.max(1))) {
        for &outcome in row {
            *counts.entry(outcome).or_insert(0) += 1;
        }
    }
    Ok(all)
}

/// An outcome as text, the highest qubit first.
pub fn bitstring(outcome: u32, qubits: usize) -> String {
    (0..qubits).rev().map(|q| if outcome >> q & 1 == 1 { '1' } else { '0' }).collect()
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod gpu {
    use super::{RUN_BITS, Stream};
    use crate::dtype::DType;
    use crate::error::{Error, Result};
    use crate::launch::{Operand, launch};
    use crate::manifest::readout as kernels;
    use crate::tensor::{Tensor, TensorRef};

    /// Runs a block of the kernel that sums them takes.
    const RUNS_A_BLOCK: u64 = 16;

    pub(super) fn draw(
        op: &'static str,
        probabilities: &TensorRef<'_>,
        shots: usize,
        stream: &Stream<'_>,
    ) -> Result<Tensor> {
        let device = probabilities.device();
        let (samples, outcomes) = (probabilities.shape()[0], probabilities.shape()[1]);
        let qubits = outcomes.trailing_zeros();
        let runs = 1usize << (qubits as usize).saturating_sub(RUN_BITS);
        let most = (samples as u64 * runs as u64).max(samples as u64 * shots as u64);
        if most >= 1 << 31 {
            let (what, limit, got) =
                ("shots, or runs of 64 outcomes", (1u64 << 31).to_string(), most.to_string());
            return Err(Error::Unsupported { op, backend: device.backend(), what, limit, got });
        }
        let out = Tensor::zeros(device, DType::U32, &[samples, shots])?;
        if samples == 0 || shots == 0 {
            return Ok(out);
        }
        let placed = stream.on(op, device)?;
        let masses = Tensor::zeros(device, DType::I64, &[samples, runs])?;
        let totals = Tensor::zeros(device, DType::I64, &[samples])?;
        let exponents = Tensor::zeros(device, DType::U32, &[samples])?;
        let (stream, masses, totals, exponents, result) =
            (placed.view(), masses.view(), totals.view(), exponents.view(), out.view());
        // First the scale, from sums in f32; then the integers.
        for integers in [0, 1] {
            let operands = [probabilities, &exponents, &masses].map(Operand::Tensor);
            let blocks = (samples as u64 * runs as u64).div_ceil(RUNS_A_BLOCK);
            launch(device, op, &kernels::MASS, &operands, &[samples as u32, qubits, integers], blocks)?;
            let [masses, totals, exponents] = [&masses, &totals, &exponents].map(Operand::Tensor);
            let operands = [masses, totals, exponents, Operand::Status];
            let params = [samples as u32, runs as u32, integers];
            launch(device, op, &kernels::SCAN, &operands, &params, samples as u64)?;
        }
        let operands = [&stream, probabilities, &masses, &totals, &exponents, &result].map(Operand::Tensor);
        let params = [samples as u32, shots as u32, qubits];
        let blocks = (samples as u64 * shots as u64).div_ceil(128);
        launch(device, op, &kernels::DRAW, &operands, &params, blocks)?;
        drop(result);
        Ok(out)
    }
}
