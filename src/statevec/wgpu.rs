//! State vectors in WGSL: argument packing for `kernels/statevec/*.wgsl`.

use super::gpu::{GpuPlan, Launch, Sink};
use super::gpu_adjoint::AdjointPlan;
use super::gpu_gradient::{self, Rounds};
use super::gpu_tables::{Opening, StartKind, Tables, theta_steps};
use super::gradient::StatevecGradients;
use super::problem::Problem;
use super::program::Readout;
use super::records::Arriving;
use crate::device::Backend;
use crate::device::wgpu::{WgpuBuffer, WgpuDevice};
use crate::error::{Error, Result};
use crate::manifest::statevec::{ADJOINT_WGSL, CIRCUIT_WGSL, COMBINE_WGSL};
use crate::tensor::{Memory, Tensor, TensorMut, TensorRef};
use bytemuck::{Pod, Zeroable};

/// Workgroups along one dimension of a dispatch: what every WebGPU device takes.
const DISPATCH_LIMIT: u64 = 65_535;

/// `Params` in circuit.wgsl.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    theta_first: u32,
    theta_step: u32,
    inputs_first: u32,
    sample_step: u32,
    input_step: u32,
    initial_first: u32,
    initial_step: u32,
    result_first: u32,
    result_step: u32,
    samples: u32,
    bits: u32,
    qubits: u32,
    first: u32,
    segments: u32,
    source: u32,
    sink: u32,
    strings: u32,
    row_workgroups: u32,
    workgroups: u32,
    task_step: u32,
    rows: u32,
    start: u32,
    width: u32,
    starts: u32,
    start_step: u32,
}

/// `Params` in combine.wgsl.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct CombineParams {
    result_first: u32,
    result_step: u32,
    samples: u32,
    strings: u32,
    groups: u32,
    unused: [u32; 3],
}

/// `Params` in adjoint.wgsl.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct AdjointParams {
    theta_first: u32,
    theta_step: u32,
    inputs_first: u32,
    sample_step: u32,
    input_step: u32,
    initial_first: u32,
    initial_step: u32,
    weights_first: u32,
    weight_step: u32,
    samples: u32,
    bits: u32,
    qubits: u32,
    first: u32,
    segments: u32,
    source: u32,
    sink: u32,
    row_workgroups: u32,
    workgroups: u32,
    task_step: u32,
    rows: u32,
    start: u32,
    width: u32,
    starts: u32,
    start_step: u32,
    lambda_first: u32,
}

pub(super) fn forward(
    device: &WgpuDevice,
    problem: &Problem<'_>,
    readout: Readout<'_>,
    out: &mut TensorMut<'_>,
) -> Result<()> {
    let plan = GpuPlan::new(problem.program, problem.samples, Opening::of(problem), readout);
    grid(problem.op, plan.blocks)?;
    if problem.samples as u64 > DISPATCH_LIMIT * 64 {
        return Err(too_large(problem.op, "samples", problem.samples as u64, DISPATCH_LIMIT * 64));
    }
    let upload = |words: &[u32]| Tensor::from_slice(&problem.device, words, &[words.len()]);
    let tables = Tables::new(problem, &plan.program)?;
    let table = upload(&plan.program.strings)?;
    let states = if plan.needs_state() { problem.samples } else { 0 };
    let state = Tensor::zeros(&problem.device, crate::DType::C64, &[states, 1 << plan.program.bits])?;
    let strings = plan.partial_strings as usize;
    let partials = [problem.samples, strings, plan.blocks_per_state as usize];
    let partials = Tensor::zeros(&problem.device, crate::DType::F32, &partials)?;

    let op = problem.op;
    let result = Bound::new(op, Some(out.as_ref()))?;
    let (state_view, partials_view, table_view) = (state.view(), partials.view(), table.view());
    let (state, partials) = (Bound::new(op, Some(&state_view))?, Bound::new(op, Some(&partials_view))?);
    let call = Call { device, problem, tables: &tables, first: 0, samples: problem.samples };
    for launch in &plan.launches {
        let target = if launch.sink == Sink::Partials { &partials } else { &result };
        call.circuit(launch, plan.program.bits, plan.blocks, strings, &state, target)?;
    }
    if strings > 0 {
        let params = CombineParams {
            result_first: result.first,
            result_step: result.steps[0],
            samples: problem.samples as u32,
            strings: strings as u32,
            groups: plan.blocks_per_state as u32,
            unused: [0; 3],
        };
        let bindings = [Bound::new(op, Some(&table_view))?.buffer, partials.buffer, result.buffer];
        let workgroups = [problem.samples.div_ceil(64) as u32, 1, 1];
        device.launch(&COMBINE_WGSL, &bindings, bytemuck::bytes_of(&params), workgroups)?;
    }
    Ok(())
}

/// Samples of a run, from one on.
struct Call<'a> {
    device: &'a WgpuDevice,
    problem: &'a Problem<'a>,
    tables: &'a Tables,
    first: usize,
    samples: usize,
}

impl Call<'_> {
    /// First number of the first sample's start, and numbers from row to row. Rows by task are counted from the first.
    fn initial(&self, initial: &Bound<'_>) -> [u32; 2] {
        let numbers = self.tables.opening.components() as u32;
        let step = numbers * initial.steps[0];
        let skipped = if self.tables.opening.kind == StartKind::TaskRows { 0 } else { self.first as u32 };
        [numbers * initial.first + skipped * step, step]
    }

    fn circuit(
        &self,
        launch: &Launch,
        bits: usize,
        blocks: u64,
        strings: usize,
        state: &Bound<'_>,
        result: &Bound<'_>,
    ) -> Result<()> {
        let (problem, tables, op) = (self.problem, self.tables, self.problem.op);
        let (theta, inputs, program) = (problem.theta.view(), problem.inputs.view(), tables.program.view());
        let [theta_step, task_step] = theta_steps(theta.as_ref()).map(|step| step as u32);
        let (theta, inputs) = (Bound::new(op, theta.as_ref())?, Bound::new(op, inputs.as_ref())?);
        let initial = Bound::new(op, problem.initial.as_ref().filter(|_| tables.opening.has_rows()))?;
        let [initial_first, initial_step] = self.initial(&initial);
        let workgroups = grid(op, blocks)?;
        let params = Params {
            theta_first: theta.first,
            theta_step,
            inputs_first: inputs.first + self.first as u32 * inputs.steps[0],
            sample_step: inputs.steps[0],
            input_step: inputs.steps[1],
            initial_first,
            initial_step,
            result_first: result.first,
            result_step: result.steps[0],
            samples: self.samples as u32,
            bits: bits as u32,
            qubits: problem.program.qubits() as u32,
            first: launch.first,
            segments: launch.segments,
            source: launch.source as u32,
            sink: launch.sink as u32,
            strings: strings as u32,
            row_workgroups: workgroups[0],
            workgroups: blocks as u32,
            task_step,
            rows: tables.rows_from(self.first),
            start: tables.opening.kind as u32,
            width: tables.opening.width as u32,
            starts: tables.starts_from(self.first),
            start_step: tables.start_step,
        };
        let bindings = [
            Bound::new(op, Some(&program))?.buffer,
            theta.buffer,
            inputs.buffer,
            initial.buffer,
            state.buffer,
            result.buffer,
            Some(self.device.status()),
        ];
        self.device.launch(&CIRCUIT_WGSL, &bindings, bytemuck::bytes_of(&params), workgroups)
    }
}

/// Gradients from weights of observables, or from a gradient of the states.
pub(super) fn gradient(
    device: &WgpuDevice,
    problem: &Problem<'_>,
    kind: Arriving<'_>,
    arriving: &TensorRef<'_>,
) -> Result<StatevecGradients> {
    let mut round = |rounds: &Rounds<'_>, first: usize, samples: usize| {
        let Rounds { problem, plan, tables, .. } = *rounds;
        adjoint(&Call { device, problem, tables, first, samples }, rounds, plan)
    };
    gpu_gradient::run(problem, kind, arriving, |op, blocks| grid(op, blocks).map(drop), &mut round)
}

fn adjoint(call: &Call<'_>, rounds: &Rounds<'_>, plan: &AdjointPlan) -> Result<()> {
    let (device, problem, tables, op) = (call.device, call.problem, call.tables, call.problem.op);
    let (bits, blocks, row) = (plan.program.bits, plan.blocks(call.samples), call.first as u32);
    let (state_view, slots, program) = (rounds.state.view(), rounds.slots.view(), tables.program.view());
    let large = Bound::new(op, Some(&state_view))?;
    let nothing = Bound::new(op, None)?;
    for launch in &plan.forward {
        call.circuit(launch, bits, blocks, 0, &large, &nothing)?;
    }
    let (state, lambda_first) = if plan.forward.is_empty() {
        let starts = Bound::new(op, Some(&rounds.starts))?;
        let skipped = if rounds.has_all_starts { row << problem.program.qubits() } else { 0 };
        let first = starts.first + skipped;
        (starts, first)
    } else {
        (large, (plan.samples << bits) as u32)
    };
    let (theta, inputs) = (problem.theta.view(), problem.inputs.view());
    let [theta_step, task_step] = theta_steps(theta.as_ref()).map(|step| step as u32);
    let (theta, inputs) = (Bound::new(op, theta.as_ref())?, Bound::new(op, inputs.as_ref())?);
    let initial = Bound::new(op, problem.initial.as_ref().filter(|_| tables.opening.has_rows()))?;
    let [initial_first, initial_step] = call.initial(&initial);
    let weights = Bound::new(op, Some(rounds.arriving))?;
    let numbers = if rounds.arriving.dtype() == crate::DType::F32 { 1 } else { 2 };
    let weight_step = numbers * rounds.arriving_step() as u32;
    let workgroups = grid(op, blocks)?;
    for launch in &plan.launches {
        let params = AdjointParams {
            theta_first: theta.first,
            theta_step,
            inputs_first: inputs.first + row * inputs.steps[0],
            sample_step: inputs.steps[0],
            input_step: inputs.steps[1],
            initial_first,
            initial_step,
            weights_first: numbers * weights.first + row * weight_step,
            weight_step,
            samples: call.samples as u32,
            bits: bits as u32,
            qubits: problem.program.qubits() as u32,
            first: launch.first,
            segments: launch.segments,
            source: launch.source as u32,
            sink: launch.sink as u32,
            row_workgroups: workgroups[0],
            workgroups: blocks as u32,
            task_step,
            rows: tables.rows_from(call.first),
            start: tables.opening.kind as u32,
            width: tables.opening.width as u32,
            starts: tables.starts_from(call.first),
            start_step: tables.start_step,
            lambda_first,
        };
        let bindings = [
            Bound::new(op, Some(&program))?.buffer,
            theta.buffer,
            inputs.buffer,
            initial.buffer,
            weights.buffer,
            state.buffer,
            Bound::new(op, Some(&slots))?.buffer,
            Some(device.status()),
        ];
        device.launch(&ADJOINT_WGSL, &bindings, bytemuck::bytes_of(&params), workgroups)?;
    }
    Ok(())
}

/// `count` workgroups as rows of a dispatch.
fn grid(op: &'static str, count: u64) -> Result<[u32; 3]> {
    let width = count.clamp(1, DISPATCH_LIMIT);
    let rows = count.div_ceil(width);
    if rows > DISPATCH_LIMIT {
        return Err(too_large(op, "workgroups", count, DISPATCH_LIMIT * DISPATCH_LIMIT));
    }
    Ok([width as u32, rows as u32, 1])
}

/// A view as a shader sees it: the buffer, its first element, and the steps of its dimensions.
struct Bound<'a> {
    buffer: Option<&'a WgpuBuffer>,
    first: u32,
    steps: [u32; 2],
}

impl<'a> Bound<'a> {
    fn new(op: &'static str, view: Option<&TensorRef<'a>>) -> Result<Self> {
        let Some(view) = view.filter(|view| !view.layout().is_empty()) else {
            return Ok(Self { buffer: None, first: 0, steps: [0; 2] });
        };
        let layout = view.layout();
        // Shaders count words: the view's last word must have a 32-bit index.
        let words = layout.end() as u64 * (view.dtype().size() as u64).div_ceil(4);
        if words > u64::from(u32::MAX) {
            return Err(too_large(op, "words of a tensor", words, u64::from(u32::MAX)));
        }
        let step = |dim: usize| if dim < layout.shape().len() { layout.step(dim) as u32 } else { 0 };
        match view.memory() {
            Memory::Wgpu(buffer) => {
                Ok(Self { buffer: Some(buffer), first: layout.offset() as u32, steps: [step(0), step(1)] })
            }
            // Validation has compared the devices.
            _ => Err(Error::Device { op, arg: "memory", expected: "wgpu".into(), got: view.device().name() }),
        }
    }
}

fn too_large(op: &'static str, what: &'static str, got: u64, limit: u64) -> Error {
    let (limit, got) = (limit.to_string(), got.to_string());
    Error::Unsupported { op, backend: Backend::Wgpu, what, limit, got }
}
