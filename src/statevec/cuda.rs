//! State vectors on CUDA: argument packing for `kernels/statevec/*.cu`.

use super::gpu::{GpuPlan, Launch};
use super::gpu_adjoint::{AdjointLaunch, AdjointPlan};
use super::gpu_gradient::{self, Rounds};
use super::gpu_tables::{Opening, StartKind, Tables, theta_steps};
use super::gradient::StatevecGradients;
use super::problem::Problem;
use super::program::Readout;
use super::records::Arriving;
use crate::device::Backend;
use crate::device::cuda::CudaDevice;
use crate::error::{Error, Result};
use crate::manifest::statevec::{ADJOINT_CUDA, CIRCUIT_CUDA, COMBINE_CUDA};
use crate::tensor::{Memory, Tensor, TensorMut, TensorRef};
use bytemuck::{Pod, Zeroable};

/// `Params` in circuit.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    theta_step: i64,
    task_step: i64,
    sample_step: i64,
    input_step: i64,
    initial_step: i64,
    out_step: i64,
    samples: u32,
    bits: u32,
    qubits: u32,
    first: u32,
    length: u32,
    segments: u32,
    source: u32,
    sink: u32,
    strings: u32,
    rows: u32,
    start: u32,
    width: u32,
    starts: u32,
    start_step: u32,
}

/// `CombineParams` in combine.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct CombineParams {
    out_step: i64,
    samples: u32,
    strings: u32,
    blocks: u32,
    unused: u32,
}

/// `Params` in adjoint.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct AdjointParams {
    theta_step: i64,
    task_step: i64,
    sample_step: i64,
    input_step: i64,
    initial_step: i64,
    weight_step: i64,
    samples: u32,
    bits: u32,
    qubits: u32,
    first: u32,
    length: u32,
    segments: u32,
    source: u32,
    sink: u32,
    rows: u32,
    start: u32,
    width: u32,
    starts: u32,
    start_step: u32,
    unused: u32,
}

fn step(view: Option<&TensorRef<'_>>, dim: usize) -> i64 {
    view.map_or(0, |view| if dim < view.shape().len() { view.layout().step(dim) as i64 } else { 0 })
}

pub(super) fn forward(
    device: &CudaDevice,
    problem: &Problem<'_>,
    readout: Readout<'_>,
    out: &mut TensorMut<'_>,
) -> Result<()> {
    let plan = GpuPlan::new(problem.program, problem.samples, Opening::of(problem), readout);
    check_blocks(problem.op, plan.blocks)?;
    let upload = |words: &[u32]| Tensor::from_slice(&problem.device, words, &[words.len()]);
    let zeros = |dtype, shape: &[usize]| Tensor::zeros(&problem.device, dtype, shape);
    let tables = Tables::new(problem, &plan.program)?;
    let table = upload(&plan.program.strings)?;
    let states = if plan.needs_state() { problem.samples } else { 0 };
    let state = zeros(crate::DType::C64, &[states, 1 << plan.program.bits])?;
    let strings = plan.partial_strings as usize;
    let partials = [problem.samples, strings, plan.blocks_per_state as usize];
    let partials = zeros(crate::DType::F32, &partials)?;

    let out_step = step(Some(out.as_ref()), 0);
    let out_address = address(Some(out.as_ref()))?;
    let call = Call { device, problem, tables: &tables, first: 0, samples: problem.samples };
    for launch in &plan.launches {
        let partial = launch.sink == super::gpu::Sink::Partials;
        let result = if partial { address(Some(&partials.view()))? } else { out_address };
        let bits = plan.program.bits;
        call.circuit(launch, bits, plan.blocks, strings, address(Some(&state.view()))?, (result, out_step))?;
    }
    if strings > 0 {
        let params = CombineParams {
            out_step,
            samples: problem.samples as u32,
            strings: strings as u32,
            blocks: plan.blocks_per_state as u32,
            unused: 0,
        };
        let pointers = [address(Some(&table.view()))?, address(Some(&partials.view()))?, out_address];
        let grid = [problem.samples.div_ceil(64) as u32, 1, 1];
        device.launch(&COMBINE_CUDA, grid, &pointers, bytemuck::bytes_of(&params))?;
    }
    Ok(())
}

/// Samples of a run, from one on.
struct Call<'a> {
    device: &'a CudaDevice,
    problem: &'a Problem<'a>,
    tables: &'a Tables,
    first: usize,
    samples: usize,
}

impl Call<'_> {
    /// Address of the first sample's row.
    fn row(&self, view: Option<&TensorRef<'_>>, step: i64) -> Result<u64> {
        let bytes = view.map_or(0, |view| view.dtype().size() as u64);
        Ok(address(view)? + self.first as u64 * step as u64 * bytes)
    }

    /// Program, theta, inputs, initial states.
    fn pointers(&self) -> Result<[u64; 4]> {
        let (theta, inputs) = (self.problem.theta.view(), self.problem.inputs.view());
        let initial = self.problem.initial.as_ref().filter(|_| self.tables.opening.has_rows());
        // Rows by task are counted from the first.
        let by_task = self.tables.opening.kind == StartKind::TaskRows;
        Ok([
            address(Some(&self.tables.program.view()))?,
            address(theta.as_ref())?,
            self.row(inputs.as_ref(), step(inputs.as_ref(), 0))?,
            self.row(initial, if by_task { 0 } else { self.initial_step() })?,
        ])
    }

    /// From row to row.
    fn initial_step(&self) -> i64 {
        step(self.problem.initial.as_ref(), 0)
    }

    fn circuit(
        &self,
        launch: &Launch,
        bits: usize,
        blocks: u64,
        strings: usize,
        state: u64,
        (result, out_step): (u64, i64),
    ) -> Result<()> {
        let (problem, tables) = (self.problem, self.tables);
        let (theta, inputs) = (problem.theta.view(), problem.inputs.view());
        let [theta_step, task_step] = theta_steps(theta.as_ref()).map(|step| step as i64);
        let params = Params {
            theta_step,
            task_step,
            sample_step: step(inputs.as_ref(), 0),
            input_step: step(inputs.as_ref(), 1),
            initial_step: self.initial_step(),
            out_step,
            samples: self.samples as u32,
            bits: bits as u32,
            qubits: problem.program.qubits() as u32,
            first: launch.first,
            length: launch.words,
            segments: launch.segments,
            source: launch.source as u32,
            sink: launch.sink as u32,
            strings: strings as u32,
            rows: tables.rows_from(self.first),
            start: tables.opening.kind as u32,
            width: tables.opening.width as u32,
            starts: tables.starts_from(self.first),
            start_step: tables.start_step,
        };
        let [program, theta, inputs, initial] = self.pointers()?;
        let pointers = [program, theta, inputs, initial, state, result, self.device.status()];
        self.device.launch(&CIRCUIT_CUDA, [blocks as u32, 1, 1], &pointers, bytemuck::bytes_of(&params))
    }
}

/// Gradients from weights of observables, or from a gradient of the states.
pub(super) fn gradient(
    device: &CudaDevice,
    problem: &Problem<'_>,
    kind: Arriving<'_>,
    arriving: &TensorRef<'_>,
) -> Result<StatevecGradients> {
    observed_gradient(device, problem, kind, arriving, &mut |_| {})
}

/// [`gradient`], telling of each launch of the adjoint kernel after it.
fn observed_gradient(
    device: &CudaDevice,
    problem: &Problem<'_>,
    kind: Arriving<'_>,
    arriving: &TensorRef<'_>,
    launched: &mut dyn FnMut(&AdjointLaunch),
) -> Result<StatevecGradients> {
    let mut round = |rounds: &Rounds<'_>, first: usize, samples: usize| {
        let Rounds { problem, plan, tables, .. } = *rounds;
        let call = Call { device, problem, tables, first, samples };
        adjoint(&call, rounds, plan, launched)
    };
    gpu_gradient::run(problem, kind, arriving, check_blocks, &mut round)
}

fn adjoint(
    call: &Call<'_>,
    rounds: &Rounds<'_>,
    plan: &AdjointPlan,
    launched: &mut dyn FnMut(&AdjointLaunch),
) -> Result<()> {
    let (device, problem, tables) = (call.device, call.problem, call.tables);
    let (bits, blocks) = (plan.program.bits, plan.blocks(call.samples));
    let state = address(Some(&rounds.state.view()))?;
    for launch in &plan.forward {
        call.circuit(launch, bits, blocks, 0, state, (0, 0))?;
    }
    let lambda = if plan.forward.is_empty() {
        let row = if rounds.has_all_starts { call.first << problem.program.qubits() } else { 0 };
        address(Some(&rounds.starts))? + 8 * row as u64
    } else {
        state + ((8 * plan.samples as u64) << bits)
    };
    let (theta, inputs) = (problem.theta.view(), problem.inputs.view());
    let [theta_step, task_step] = theta_steps(theta.as_ref()).map(|step| step as i64);
    let weight_step = rounds.arriving_step() as i64;
    let [program, theta, inputs_address, initial] = call.pointers()?;
    let weights = call.row(Some(rounds.arriving), weight_step)?;
    for launch in &plan.launches {
        let params = AdjointParams {
            theta_step,
            task_step,
            sample_step: step(inputs.as_ref(), 0),
            input_step: step(inputs.as_ref(), 1),
            initial_step: call.initial_step(),
            weight_step,
            samples: call.samples as u32,
            bits: bits as u32,
            qubits: problem.program.qubits() as u32,
            first: launch.first,
            length: launch.words,
            segments: launch.segments,
            source: launch.source as u32,
            sink: launch.sink as u32,
            rows: tables.rows_from(call.first),
            start: tables.opening.kind as u32,
            width: tables.opening.width as u32,
            starts: tables.starts_from(call.first),
            start_step: tables.start_step,
            unused: 0,
        };
        let slots = address(Some(&rounds.slots.view()))?;
        let pointers =
            [program, theta, inputs_address, initial, weights, state, lambda, slots, device.status()];
        device.launch(&ADJOINT_CUDA, [blocks as u32, 1, 1], &pointers, bytemuck::bytes_of(&params))?;
        launched(launch);
    }
    Ok(())
}

fn check_blocks(op: &'static str, blocks: u64) -> Result<()> {
    if blocks <= i32::MAX as u64 {
        return Ok(());
    }
    let (what, limit) = ("blocks of 4096 amplitudes", i32::MAX.to_string());
    Err(Error::Unsupported { op, backend: Backend::Cuda, what, limit, got: blocks.to_string() })
}

/// Device address of a view's first element, 0 for none.
fn address(view: Option<&TensorRef<'_>>) -> Result<u64> {
    let Some(view) = view.filter(|view| !view.layout().is_empty()) else { return Ok(0) };
    match view.memory() {
        Memory::Cuda { address, .. } => Ok(address + (view.layout().offset() * view.dtype().size()) as u64),
        // Validation has compared the devices.
        _ => Err(Error::Device {
            op: "statevec",
            arg: "memory",
            expected: "cuda".into(),
            got: view.device().name(),
        }),
    }
}

#[cfg(all(test, feature = "emulator"))]
#[path = "traffic.rs"]
mod tests;
