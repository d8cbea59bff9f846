//! Trajectories in batches.

use super::rows;
use super::{DynamicProgram, Shots, Step};
use crate::device::{Backend, Device};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ids::Ids;
use crate::random::{Placed, Stream};
use crate::statevec::problem::{Batch, Problem};
use crate::statevec::readout::{States, outcome_weights};
use crate::tensor::{Tensor, TensorRef};
use crate::validate;

const OP: &str = "statevec_dynamic_sample";

/// Amplitudes of the trajectories that run side by side: 128 MiB on a GPU, 32 MiB on the CPU.
fn amplitudes_at_once(device: &Device) -> usize {
    if device.backend() == Backend::Cpu { 1 << 22 } else { 1 << 24 }
}

/// Some trajectories under way.
struct Trajectories {
    /// `[rows, 2^n]` c64.
    states: Tensor,
    /// `[rows, inputs]` f32, if the program takes any.
    inputs: Option<Tensor>,
    /// `[rows]` task ids, if there are any.
    tasks: Option<Tensor>,
    /// By slot: `[rows, 2^k, 2^k]` c64.
    matrices: Vec<Option<Tensor>>,
    /// `[rows]` i64: sample · shots + shot.
    ids: Tensor,
    /// The same on the host.
    numbers: Vec<usize>,
    /// Measurements whose outcomes have not been fetched.
    pending: Vec<(usize, Tensor)>,
}

/// What all trajectories share.
struct Run<'a> {
    program: &'a DynamicProgram,
    device: Device,
    theta: Option<TensorRef<'a>>,
    stream: TensorRef<'a>,
}

impl DynamicProgram {
    /// Runs `shots` trajectories of every sample and returns their classical bits.
    ///
    /// Random words are keyed by the stream, the number `sample · shots + shot` of the trajectory and the number of the
    /// measurement in the circuit: the same on every backend, whatever else is in the batch.
    ///
    /// # Errors
    /// As [`Program::run`](crate::statevec::Program::run); [`Error::InvalidArgument`] or [`Error::DeviceValue`] if a state cannot
    /// be normalised.
    pub fn sample<'s>(
        &self,
        batch: &Batch<'_>,
        shots: usize,
        stream: impl Into<Stream<'s>>,
    ) -> Result<Shots> {
        let (samples, stream) = (batch.samples, stream.into());
        let mut out = Shots::new(samples, 0, self.bits);
        let problem = Problem::new(OP, &self.prefix, batch)?;
        if samples.checked_mul(shots).is_none_or(|all| all > isize::MAX as usize / 64) {
            let reason = format!("{shots} of {samples} samples are more than memory holds");
            return Err(Error::argument(OP, "shots", reason));
        }
        if samples == 0 || shots == 0 {
            return Ok(out);
        }
        if let Some(qubits) = &self.terminal {
            let indices = self.prefix.sample(batch, shots, stream)?.to_vec::<u32>()?;
            out = Shots::new(samples, shots, self.bits);
            for (trajectory, index) in indices.into_iter().enumerate() {
                for (bit, qubit) in qubits.iter().enumerate() {
                    let Some(qubit) = qubit else { continue };
                    out.set(trajectory, bit, index >> qubit & 1 == 1);
                }
            }
            return Ok(out);
        }
        out = Shots::new(samples, shots, self.bits);
        let start = self.prefix.run(batch)?;
        let (theta, inputs) = (problem.theta.view(), problem.inputs.view());
        let tasks = problem.tasks.as_ref().map(Ids::view);
        for matrix in batch.matrices.iter().flatten() {
            let &[given, side, _] = matrix.shape() else {
                return Err(Error::shape(OP, "matrix", "[samples, 2^k, 2^k]", matrix.shape()));
            };
            validate::shape(OP, "matrix", matrix, &[samples, side, side])?;
            validate::tensor(OP, "matrix", matrix, DType::C64, &batch.device)?;
            if given > 0 && (matrix.layout().step(1) != side || !matrix.layout().last_is_contiguous()) {
                let reason = format!("must be contiguous, has strides {:?}", matrix.layout().strides());
                return Err(Error::argument(OP, "matrix", reason));
            }
        }
        let placed: Placed<'_> = stream.on(OP, &batch.device)?;
        let run = Run { program: self, device: batch.device.clone(), theta, stream: placed.view() };
        let at_once = (amplitudes_at_once(&batch.device) >> self.qubits).max(1);
        for first in (0..samples * shots).step_by(at_once) {
            let rows = at_once.min(samples * shots - first);
            let numbers: Vec<usize> = (first..first + rows).collect();
            let ids: Vec<i64> = numbers.iter().map(|&number| number as i64).collect();
            let repeat = |view: &TensorRef<'_>| rows::repeat(OP, view, first, rows, shots);
            let mut trajectories = Trajectories {
                states: repeat(&start.view())?,
                inputs: inputs.as_ref().map(repeat).transpose()?,
                tasks: tasks.as_ref().map(repeat).transpose()?,
                matrices: batch
                    .matrices
                    .iter()
                    .map(|matrix| matrix.as_ref().map(repeat).transpose())
                    .collect::<Result<_>>()?,
                ids: Tensor::from_slice(&batch.device, &ids, &[rows])?,
                numbers,
                pending: Vec::new(),
            };
            run.steps(&self.steps, &mut trajectories, &mut out)?;
            trajectories.fetch(&mut out)?;
        }
        // A norm that only the device saw is reported here at the latest.
        batch.device.synchronize()?;
        Ok(out)
    }
}

impl Trajectories {
    /// Writes the outcomes that are still on the device, in the order in which they were measured.
    fn fetch(&mut self, out: &mut Shots) -> Result<()> {
        for (bit, decisions) in self.pending.drain(..) {
            let decisions = decisions.to_vec::<u32>()?;
            for (decision, &number) in decisions.chunks(2).zip(&self.numbers) {
                out.set(number, bit, decision[0] == 1);
            }
        }
        Ok(())
    }

    /// Rows of the trajectories that meet a condition on their numbers.
    fn rows(&self, meets: impl Fn(usize) -> bool) -> Vec<u32> {
        (0..).zip(&self.numbers).filter(|&(_, &number)| meets(number)).map(|(row, _)| row).collect()
    }

    /// The listed rows on their own.
    fn pick(&self, device: &Device, rows: &[u32]) -> Result<(Self, Tensor)> {
        let index = Tensor::from_slice(device, rows, &[rows.len()])?;
        let pick = |tensor: &Tensor| rows::pick(OP, &tensor.view(), &index.view());
        let part = Self {
            states: pick(&self.states)?,
            inputs: self.inputs.as_ref().map(pick).transpose()?,
            tasks: self.tasks.as_ref().map(pick).transpose()?,
            matrices: self
                .matrices
                .iter()
                .map(|matrix| matrix.as_ref().map(pick).transpose())
                .collect::<Result<_>>()?,
            ids: pick(&self.ids)?,
            numbers: rows.iter().map(|&row| self.numbers[row as usize]).collect(),
            pending: Vec::new(),
        };
        Ok((part, index))
    }
}

impl Run<'_> {
    fn steps(&self, steps: &[Step], trajectories: &mut Trajectories, out: &mut Shots) -> Result<()> {
        for step in steps {
            match step {
                Step::Unitary(program) => {
                    let mut batch = Batch::new(&self.device, trajectories.numbers.len());
                    batch.theta.clone_from(&self.theta);
                    batch.inputs = trajectories.inputs.as_ref().map(Tensor::view);
                    batch.tasks = trajectories.tasks.as_ref().map(Tensor::view);
                    batch.matrices = trajectories
                        .matrices
                        .iter()
                        .map(|matrix| matrix.as_ref().map(Tensor::view))
                        .collect();
                    let states = program.run(&batch.initial(&trajectories.states))?;
                    trajectories.states = states;
                }
                Step::Measure { qubit, bit, event } => {
                    let decisions = self.collapse(trajectories, *qubit, *event, false)?;
                    trajectories.pending.push((*bit, decisions));
                }
                Step::Reset { qubit, event } => {
                    self.collapse(trajectories, *qubit, *event, true)?;
                }
                Step::Conditional { bits, value, body } => {
                    trajectories.fetch(out)?;
                    let rows = trajectories.rows(|number| out.value(number, bits) == *value);
                    self.some(&rows, body, trajectories, out)?;
                }
                Step::Choice { condition, then, otherwise } => {
                    trajectories.fetch(out)?;
                    let holds = |number: usize| condition.reads(&|bit| out.value(number, &[bit]) == 1);
                    let (yes, no) = (trajectories.rows(holds), trajectories.rows(|number| !holds(number)));
                    self.some(&yes, then, trajectories, out)?;
                    self.some(&no, otherwise, trajectories, out)?;
                }
            }
        }
        Ok(())
    }

    /// Runs a body on some of the trajectories.
    fn some(&self, rows: &[u32], body: &[Step], all: &mut Trajectories, out: &mut Shots) -> Result<()> {
        if rows.is_empty() || body.is_empty() {
            return Ok(());
        }
        if rows.len() == all.numbers.len() {
            return self.steps(body, all, out);
        }
        let (mut part, index) = all.pick(&self.device, rows)?;
        self.steps(body, &mut part, out)?;
        part.fetch(out)?;
        rows::put(OP, &part.states.view(), &index.view(), &mut all.states)
    }

    /// Draws the outcome of a qubit for every trajectory and projects the states: `[rows, 2]` u32, the outcomes first.
    fn collapse(
        &self,
        trajectories: &mut Trajectories,
        qubit: usize,
        event: u32,
        reset: bool,
    ) -> Result<Tensor> {
        debug_assert!(qubit < self.program.qubits);
        let states = States::new(OP, "states", &trajectories.states.view())?;
        let weights = outcome_weights(OP, &states, &[qubit])?;
        debug_assert_eq!(weights.dtype(), DType::F32);
        let decisions = rows::measure(OP, &weights.view(), &trajectories.ids.view(), &self.stream, event)?;
        rows::collapse(OP, &mut trajectories.states, &decisions.view(), qubit, reset)?;
        Ok(decisions)
    }
}
