//! One suite that says whether a device computes what the definitions say: run by the tests, by `gatewarp validate`, and by
//! anybody who brings a new GPU or driver.
//!
//! Each case draws a problem from its seed, runs it on the device with poisoned, guarded outputs, and compares every element
//! with a plain f64 computation kept here, within the bound that the operation's rounding allows.

mod attention;
mod compare;
mod looking;
mod multitask;
mod random;
mod statevec;
mod task_heads;

use crate::device::Device;
use crate::error::Error;
use std::time::Instant;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Cases of each operation.
    pub cases: usize,
    /// Changes every case.
    pub seed: u64,
    /// Runs only operations whose name contains this.
    pub filter: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { cases: 48, seed: 0, filter: None }
    }
}

/// What came of one case.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Every element is within its bound.
    Passed {
        /// The worst error, as a share of what is allowed.
        worst: f64,
    },
    /// Something is wrong with the device, its driver or its kernels.
    Failed {
        /// What, and where.
        message: String,
    },
    /// The backend refuses this operation, as documented, before launching anything.
    Unsupported {
        /// The refusal.
        reason: String,
    },
}

/// One case and what came of it.
#[derive(Clone, Debug)]
pub struct CaseResult {
    /// Name of the operation.
    pub operation: &'static str,
    /// Number of the case; with [`Options::seed`] it gives the case again.
    pub number: usize,
    /// Sizes and options of the problem.
    pub problem: String,
    /// What came of it.
    pub outcome: Outcome,
    /// Wall-clock time, the reference computation included.
    pub seconds: f64,
}

/// Every case that was run on a device.
#[derive(Clone, Debug)]
pub struct Report {
    /// Name of the device.
    pub device: String,
    /// The cases, in order.
    pub cases: Vec<CaseResult>,
}

/// The cases of one operation, added up.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Name of the operation.
    pub operation: &'static str,
    /// Cases run.
    pub cases: usize,
    /// Cases that failed.
    pub failed: usize,
    /// Cases that the backend refused as unsupported.
    pub unsupported: usize,
    /// The worst error of the cases that passed, as a share of what is allowed.
    pub worst: f64,
    /// Wall-clock time.
    pub seconds: f64,
}

impl Report {
    /// Whether something was run and no case failed.
    pub fn passed(&self) -> bool {
        !self.cases.is_empty()
            && !self.cases.iter().any(|case| matches!(case.outcome, Outcome::Failed { .. }))
    }

    /// The cases of each operation, added up, in the order they were run.
    pub fn summary(&self) -> Vec<Summary> {
        let mut rows: Vec<Summary> = Vec::new();
        for case in &self.cases {
            if rows.last().is_none_or(|row| row.operation != case.operation) {
                let operation = case.operation;
                rows.push(Summary {
                    operation,
                    cases: 0,
                    failed: 0,
                    unsupported: 0,
                    worst: 0.0,
                    seconds: 0.0,
                });
            }
            let Some(row) = rows.last_mut() else { continue };
            row.cases += 1;
            row.seconds += case.seconds;
            match &case.outcome {
                Outcome::Passed { worst } => row.worst = row.worst.max(*worst),
                Outcome::Failed { .. } => row.failed += 1,
                Outcome::Unsupported { .. } => row.unsupported += 1,
            }
        }
        rows
    }
}

/// How far a run has come, given before each case.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Operation of the case about to run.
    pub operation: &'static str,
    /// Cases done.
    pub done: usize,
    /// Cases in all.
    pub total: usize,
}

/// An operation that can be checked: draws case `number` from `seed`, runs it, compares.
struct Operation {
    name: &'static str,
    check: fn(device: &Device, number: usize, seed: u64) -> Checked,
}

/// A case's problem in words, and what came of it.
struct Checked {
    problem: String,
    worst: Result<f64, Failure>,
}

/// Why a case did not pass.
#[derive(Debug)]
enum Failure {
    /// The device said so.
    Device(Error),
    /// The result says so.
    Wrong(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Device(error)
    }
}

/// Every operation, in the order they are run. Another operation's cases are another file and another row.
const OPERATIONS: &[&[Operation]] = &[
    attention::OPERATIONS,
    looking::OPERATIONS,
    task_heads::OPERATIONS,
    multitask::OPERATIONS,
    statevec::OPERATIONS,
];

fn all() -> impl Iterator<Item = &'static Operation> {
    OPERATIONS.iter().copied().flatten()
}

/// Names of the operations that can be checked.
pub fn operations() -> impl Iterator<Item = &'static str> {
    all().map(|operation| operation.name)
}

/// Runs the suite on a device. Never panics on what a device does: a failing call is a failed case.
pub fn run(device: &Device, options: &Options) -> Report {
    run_with_progress(device, options, |_| {})
}

/// [`run`], calling `progress` before each case.
pub fn run_with_progress(device: &Device, options: &Options, mut progress: impl FnMut(Progress)) -> Report {
    let wanted = |name: &str| options.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()));
    let chosen: Vec<&Operation> = all().filter(|operation| wanted(operation.name)).collect();
    let total = chosen.len() * options.cases;
    let mut cases = Vec::with_capacity(total);
    for operation in chosen {
        for number in 0..options.cases {
            progress(Progress { operation: operation.name, done: cases.len(), total });
            let started = Instant::now();
            // Neighbouring seeds and numbers give unrelated cases.
            let seed = random::Random::new(options.seed ^ (number as u64).rotate_left(32)).word();
            let Checked { problem, worst } = (operation.check)(device, number, seed);
            let outcome = match worst {
                Ok(worst) => Outcome::Passed { worst },
                Err(Failure::Device(error @ Error::Unsupported { .. })) => {
                    Outcome::Unsupported { reason: error.to_string() }
                }
                Err(Failure::Device(error)) => Outcome::Failed { message: error.to_string() },
                Err(Failure::Wrong(message)) => Outcome::Failed { message },
            };
            let (operation, seconds) = (operation.name, started.elapsed().as_secs_f64());
            cases.push(CaseResult { operation, number, problem, outcome, seconds });
        }
    }
    Report { device: device.name(), cases }
}
