//! What samples differ in, as GPU kernels read it: words behind a program's own.

use super::batch::Start;
use super::problem::Problem;
use super::records::{DeviceProgram, ON_CHIP_BITS};
use crate::device::Status;
use crate::dtype::DType;
use crate::error::Result;
use crate::ids::Ids;
use crate::launch::{Operand, launch, wide};
use crate::manifest::statevec::{NORMS, TASKS};
use crate::tensor::{Tensor, TensorRef};

/// `StartKind` in registers.{cuh,wgsl}.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum StartKind {
    Zero = 0,
    Rows = 1,
    TaskRows = 2,
    ComplexRows = 3,
    RealRows = 4,
    Numbers = 5,
}

/// What states start from, and how many numbers of each row of a caller's are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    pub(crate) kind: StartKind,
    /// Amplitudes.
    pub(crate) width: usize,
}

impl Opening {
    /// |0…0⟩.
    pub(crate) const ZERO: Self = Self { kind: StartKind::Zero, width: 0 };

    pub(crate) fn of(problem: &Problem<'_>) -> Self {
        let Some(given) = &problem.initial else { return Self::ZERO };
        let kind = match problem.start {
            Start::States => StartKind::Rows,
            Start::TaskStates => StartKind::TaskRows,
            Start::Amplitudes if given.dtype() == DType::F32 => StartKind::RealRows,
            Start::Amplitudes => StartKind::ComplexRows,
            Start::Basis => StartKind::Numbers,
        };
        Self { kind, width: given.shape().get(1).copied().unwrap_or(0) }
    }

    pub(crate) fn is_normalised(self) -> bool {
        matches!(self.kind, StartKind::ComplexRows | StartKind::RealRows)
    }

    /// Whether amplitudes are read.
    pub(crate) fn has_rows(self) -> bool {
        !matches!(self.kind, StartKind::Zero | StartKind::Numbers)
    }

    /// Numbers an amplitude is given as.
    pub(crate) fn components(self) -> usize {
        if self.kind == StartKind::RealRows { 1 } else { 2 }
    }

    /// Bytes that a launch loads to begin `samples` states of `bits` stored bits, the words behind the program among them.
    pub(crate) fn loads(self, samples: u64, bits: usize) -> u64 {
        let threads = samples << (bits - 4);
        let rows = 4 * samples * self.width as u64;
        match self.kind {
            StartKind::Zero => 0,
            StartKind::Rows => 2 * rows,
            StartKind::TaskRows => 2 * rows + 4 * threads,
            StartKind::Numbers => 4 * threads,
            StartKind::ComplexRows | StartKind::RealRows => {
                let norms = if bits > ON_CHIP_BITS { 8 * threads } else { 0 };
                self.components() as u64 * rows + norms
            }
        }
    }
}

/// `rows` in the kernels' parameters where no sample has a task.
const NO_ROWS: u32 = u32::MAX;

/// A program on the device, and behind its words each sample's task and what it starts from.
pub(crate) struct Tables {
    pub(crate) program: Tensor,
    pub(crate) opening: Opening,
    /// Word of the first sample's task, or all ones.
    rows: u32,
    /// Word of the first sample's start, and words from sample to sample.
    starts: u32,
    pub(crate) start_step: u32,
}

impl Tables {
    /// Uploads the program; checks on the device what only it can see.
    pub(crate) fn new(problem: &Problem<'_>, program: &DeviceProgram) -> Result<Self> {
        let (device, samples) = (&problem.device, problem.samples);
        let opening = Opening::of(problem);
        let own = program.words.len();
        let by_task = problem.tasks.as_ref().zip(problem.task_count());
        let starts = own + if by_task.is_some() { samples } else { 0 };
        // Where a block holds all of a state it finds the norm itself.
        let normed = match &problem.initial {
            Some(given) if opening.is_normalised() && program.bits > ON_CHIP_BITS => given.shape()[0],
            _ => 0,
        };
        let numbers = if opening.kind == StartKind::Numbers { samples } else { 0 };
        let mut words = program.words.clone();
        words.resize(starts + numbers + 2 * normed, 0);
        let uploaded = Tensor::from_slice(device, &words, &[words.len()])?;
        let tables = Self {
            opening,
            rows: if by_task.is_some() { own as u32 } else { NO_ROWS },
            starts: starts as u32,
            start_step: if numbers > 0 { 1 } else { 2 * u32::from(normed > 1) },
            program: uploaded,
        };
        if let Some((ids, tasks)) = by_task {
            tables.check(problem, ids, tasks, own, Status::TaskId)?;
        }
        if let Some(ids) = &problem.basis {
            tables.check(problem, ids, 1 << problem.program.qubits(), starts, Status::Basis)?;
        }
        if let (Some(given), true) = (&problem.initial, normed > 0) {
            let words = tables.program.view().narrow(0, starts, 2 * normed)?;
            let components = opening.components();
            let [low, high] = wide((given.layout().step(0) * components) as u64);
            let length = (opening.width * components) as u32;
            let params = [low, high, normed as u32, length, components as u32];
            let operands = [Operand::Tensor(given), Operand::Tensor(&words), Operand::Status];
            launch(device, problem.op, &NORMS, &operands, &params, normed as u64)?;
        }
        Ok(tables)
    }

    /// Writes the ids from word `at` on, all ones for one that is not below `limit`.
    fn check(
        &self,
        problem: &Problem<'_>,
        ids: &Ids<'_>,
        limit: usize,
        at: usize,
        status: Status,
    ) -> Result<()> {
        let (view, samples) = (ids.view(), problem.samples);
        let rows = self.program.view().narrow(0, at, samples)?;
        let [low, high] = wide(view.layout().step(0) as u64);
        let limit = limit.min(i32::MAX as usize) as u32;
        let params = [low, high, samples as u32, limit, ids.kind(), status as u32];
        let operands = [Operand::Tensor(&view), Operand::Tensor(&rows), Operand::Status];
        launch(&problem.device, problem.op, &TASKS, &operands, &params, (samples as u64).div_ceil(256))
    }

    /// Word of the task of sample `first`, all ones if there are no tasks.
    pub(crate) fn rows_from(&self, first: usize) -> u32 {
        if self.rows == NO_ROWS { NO_ROWS } else { self.rows + first as u32 }
    }

    /// Word of the start of sample `first`.
    pub(crate) fn starts_from(&self, first: usize) -> u32 {
        self.starts + self.start_step * first as u32
    }

    /// The tasks of the samples, if there are.
    pub(crate) fn tasks(&self, samples: usize) -> Result<Option<TensorRef<'_>>> {
        if self.rows == NO_ROWS {
            return Ok(None);
        }
        self.program.view().narrow(0, self.rows as usize, samples).map(Some)
    }
}

/// Steps of theta: from parameter to parameter, and from task to task.
pub(crate) fn theta_steps(theta: Option<&TensorRef<'_>>) -> [usize; 2] {
    match theta {
        Some(theta) if theta.shape().len() == 2 => [theta.layout().step(1), theta.layout().step(0)],
        Some(theta) => [theta.layout().step(0), 0],
        None => [0, 0],
    }
}
