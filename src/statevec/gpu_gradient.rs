//! Gradients on a GPU: rounds of the adjoint kernel, each backend's own, and the sums behind them.

use super::batch::Start;
use super::gpu_adjoint::{AdjointPlan, CHUNK};
use super::gpu_tables::Tables;
use super::gradient::StatevecGradients;
use super::problem::Problem;
use super::records::Arriving;
use crate::dtype::DType;
use crate::error::Result;
use crate::launch::{Operand, launch, wide};
use crate::manifest::statevec::{GRADIENT_SUM, NORM_GRADIENT};
use crate::tensor::{Layout, Tensor, TensorRef};

/// What a backend needs for a round of launches.
pub(crate) struct Rounds<'a> {
    pub(crate) problem: &'a Problem<'a>,
    pub(crate) plan: &'a AdjointPlan,
    pub(crate) tables: &'a Tables,
    /// Weights of observables, or the gradient of the states.
    pub(crate) arriving: &'a TensorRef<'a>,
    /// `[2, plan.samples, 2^bits]`: ψ and λ of large states, else empty.
    pub(crate) state: &'a Tensor,
    /// `[gradients, samples, blocks of a state]`
    pub(crate) slots: &'a Tensor,
    /// `[samples, 2^qubits]`, where no state is large: gradients of the starts, of this round, or
    pub(crate) starts: TensorRef<'a>,
    /// of all samples.
    pub(crate) has_all_starts: bool,
}

impl Rounds<'_> {
    /// Elements from sample to sample of what arrives; 0 where all samples share it.
    pub(crate) fn arriving_step(&self) -> usize {
        if self.arriving.shape().len() == 2 { self.arriving.layout().step(0) } else { 0 }
    }
}

/// Sums of the words of one kind of gradient.
#[derive(Clone)]
struct Sum<'a> {
    table: Option<&'a Tensor>,
    slots: &'a TensorRef<'a>,
    tasks: Option<&'a TensorRef<'a>>,
    /// `[rows, parameters]` contiguous.
    out: TensorRef<'a>,
    slot_step: usize,
    sample_step: usize,
    samples: usize,
    chunk: usize,
    blocks: usize,
}

impl Sum<'_> {
    fn run(&self, problem: &Problem<'_>) -> Result<()> {
        let (rows, parameters) = (self.out.shape()[0], self.out.shape()[1]);
        if self.out.layout().is_empty() {
            return Ok(());
        }
        let [slot_low, slot_high] = wide(self.slot_step as u64);
        let [sample_low, sample_high] = wide(self.sample_step as u64);
        let params = [
            slot_low,
            slot_high,
            sample_low,
            sample_high,
            parameters as u32,
            self.samples as u32,
            parameters as u32,
            rows as u32,
            self.chunk as u32,
            self.blocks as u32,
            u32::from(self.tasks.is_some()),
            u32::from(self.table.is_some()),
        ];
        let table = self.table.map(Tensor::view);
        let operands = [
            table.as_ref().map_or(Operand::Absent, Operand::Tensor),
            Operand::Tensor(self.slots),
            self.tasks.map_or(Operand::Absent, Operand::Tensor),
            Operand::Tensor(&self.out),
        ];
        let elements = rows as u64 * parameters as u64;
        launch(&problem.device, problem.op, &GRADIENT_SUM, &operands, &params, elements.div_ceil(64))
    }
}

/// The gradients of a problem. `check` refuses a number of blocks; `round` runs the plan's launches for samples from one on.
pub(crate) fn run(
    problem: &Problem<'_>,
    kind: Arriving<'_>,
    arriving: &TensorRef<'_>,
    check: fn(&'static str, u64) -> Result<()>,
    round: &mut dyn FnMut(&Rounds<'_>, usize, usize) -> Result<()>,
) -> Result<StatevecGradients> {
    let (program, samples) = (problem.program, problem.samples);
    let zeros = |dtype, shape: &[usize]| Tensor::zeros(&problem.device, dtype, shape);
    let theta_shape: Vec<usize> = problem.theta_tasks.into_iter().chain([program.thetas()]).collect();
    let mut out = StatevecGradients {
        theta: zeros(DType::F32, &theta_shape)?,
        inputs: zeros(DType::F32, &[samples, program.inputs()])?,
        initial: None,
    };
    let given = problem.initial.as_ref().filter(|_| problem.differentiates_start());
    if let Some(given) = given {
        out.initial = Some(zeros(given.dtype(), given.shape())?);
    }
    let is_zero = samples == 0 || matches!(kind, Arriving::Observables(groups) if groups.is_empty());
    let Some(plan) = AdjointPlan::new(problem, kind).filter(|_| !is_zero) else { return Ok(out) };
    check(problem.op, plan.blocks(plan.samples))?;

    let upload = |words: &[u32]| Tensor::from_slice(&problem.device, words, &[words.len()]);
    let (tables, theta_table, inputs_table) =
        (Tables::new(problem, &plan.program)?, upload(&plan.theta.words)?, upload(&plan.inputs.words)?);
    let (thetas, amplitudes) = (plan.theta.parameters, 1usize << program.qubits());
    let is_large = !plan.forward.is_empty();
    let blocks = plan.blocks_per_state as usize;
    let state = zeros(DType::C64, &[2, if is_large { plan.samples } else { 0 }, 1 << plan.program.bits])?;
    let slots = zeros(DType::F32, &[plan.program.gradients.len(), plan.samples, blocks])?;
    let chunks = samples.div_ceil(CHUNK);
    let sums = zeros(DType::F32, &[if problem.theta_tasks.is_some() { 0 } else { chunks }, thetas])?;

    // The start's gradient: that of each row as it was read, before the norm is differentiated.
    let by_task = problem.start == Start::TaskStates;
    let rows = given.map_or(0, |given| given.shape()[0]);
    let is_own = !by_task && rows == samples;
    let normalised = zeros(DType::C64, &[if tables.opening.is_normalised() { rows } else { 0 }, amplitudes])?;
    let read = match &out.initial {
        Some(initial) if !tables.opening.is_normalised() => initial.view(),
        _ => normalised.view(),
    };
    let of_round = if given.is_some() && !is_large && !is_own { plan.samples } else { 0 };
    let of_round = zeros(DType::C64, &[of_round, amplitudes])?;
    let start_chunks = if given.is_some() && !by_task && !is_own { chunks } else { 0 };
    let start_sums = zeros(DType::F32, &[start_chunks, 2 * amplitudes])?;

    let has_all_starts = is_own && !is_large;
    let rounds = Rounds {
        problem,
        plan: &plan,
        tables: &tables,
        arriving,
        state: &state,
        slots: &slots,
        starts: if has_all_starts { read.clone() } else { of_round.view() },
        has_all_starts,
    };
    let tasks = tables.tasks(samples)?;
    let start_view = if is_large { state.view().narrow(0, 1, 1)? } else { of_round.view() };
    let (slots_view, start_view, read) = (slots.view(), start_view.as_real()?, read.as_real()?);
    for begin in (0..samples).step_by(plan.samples) {
        let count = plan.samples.min(samples - begin);
        round(&rounds, begin, count)?;
        let of_sample = Sum {
            table: Some(&inputs_table),
            slots: &slots_view,
            tasks: None,
            out: out.inputs.view().narrow(0, begin, count)?,
            slot_step: count * blocks,
            sample_step: blocks,
            samples: count,
            chunk: 1,
            blocks,
        };
        of_sample.run(problem)?;
        let theta = Sum { table: Some(&theta_table), chunk: CHUNK, ..of_sample.clone() };
        let (first_chunk, chunks) = (begin / CHUNK, count.div_ceil(CHUNK));
        match problem.theta_tasks {
            // All samples are in this round.
            Some(rows) => {
                Sum { tasks: tasks.as_ref(), out: flat(&out.theta, rows, thetas)?, ..theta }.run(problem)?
            }
            None => Sum { out: sums.view().narrow(0, first_chunk, chunks)?, ..theta }.run(problem)?,
        }
        if given.is_none() || has_all_starts {
            continue;
        }
        let start = Sum {
            table: None,
            slots: &start_view,
            slot_step: 1,
            sample_step: 2 * amplitudes,
            blocks: 1,
            ..of_sample
        };
        if is_own {
            Sum { out: read.narrow(0, begin, count)?, ..start }.run(problem)?;
        } else if by_task {
            Sum { tasks: tasks.as_ref(), out: read.clone(), chunk: CHUNK, ..start }.run(problem)?;
        } else {
            Sum { out: start_sums.view().narrow(0, first_chunk, chunks)?, chunk: CHUNK, ..start }
                .run(problem)?;
        }
    }
    let total = |sums: &Tensor, out: TensorRef<'_>| {
        let (slots, width) = (sums.view(), sums.shape()[1]);
        let (samples, chunk) = (chunks, chunks);
        let sum = Sum {
            table: None,
            slots: &slots,
            tasks: None,
            out,
            slot_step: 1,
            sample_step: width,
            samples,
            chunk,
            blocks: 1,
        };
        sum.run(problem)
    };
    if problem.theta_tasks.is_none() {
        total(&sums, flat(&out.theta, 1, thetas)?)?;
    }
    if start_chunks > 0 {
        total(&start_sums, read.clone())?;
    }
    if let (Some(given), Some(initial)) = (given, &out.initial)
        && tables.opening.is_normalised()
    {
        differentiate_norm(problem, &tables, given, &read, initial)?;
    }
    drop(rounds);
    Ok(out)
}

fn flat(tensor: &Tensor, rows: usize, columns: usize) -> Result<TensorRef<'_>> {
    tensor.view().with_layout(Layout::contiguous(&[rows, columns])?)
}

/// From the gradient of normalised rows to that of the rows.
fn differentiate_norm(
    problem: &Problem<'_>,
    tables: &Tables,
    given: &TensorRef<'_>,
    gradients: &TensorRef<'_>,
    out: &Tensor,
) -> Result<()> {
    let (components, rows) = (tables.opening.components(), given.shape()[0]);
    let [low, high] = wide((given.layout().step(0) * components) as u64);
    let [gradient_low, gradient_high] = wide(gradients.shape()[1] as u64);
    let length = (tables.opening.width * components) as u32;
    let params = [low, high, gradient_low, gradient_high, rows as u32, length, components as u32];
    let result = out.view();
    let operands = [given, gradients, &result].map(Operand::Tensor);
    launch(&problem.device, problem.op, &NORM_GRADIENT, &operands, &params, rows as u64)
}
