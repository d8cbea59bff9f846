//! State vectors in WGSL: argument packing for `kernels/statevec/circuit.wgsl`.

use super::gpu::{GpuPlan, Sink};
use super::problem::Problem;
use super::program::Readout;
use crate::device::Backend;
use crate::device::wgpu::{WgpuBuffer, WgpuDevice};
use crate::error::{Error, Result};
use crate::manifest::statevec::{CIRCUIT_WGSL, COMBINE_WGSL};
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
    unused: u32,
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

pub(super) fn forward(
    device: &WgpuDevice,
    problem: &Problem<'_>,
    readout: Readout<'_>,
    out: &mut TensorMut<'_>,
) -> Result<()> {
    let plan = GpuPlan::new(problem.program, problem.samples, problem.initial.is_some(), readout);
    let row_workgroups = plan.blocks.min(DISPATCH_LIMIT);
    let rows = plan.blocks.div_ceil(row_workgroups);
    if rows > DISPATCH_LIMIT || problem.samples as u64 > DISPATCH_LIMIT * 64 {
        return Err(too_large(problem.op, "workgroups", plan.blocks, DISPATCH_LIMIT * DISPATCH_LIMIT));
    }
    let upload = |words: &[u32]| Tensor::from_slice(&problem.device, words, &[words.len()]);
    let (program, table) = (upload(&plan.program.words)?, upload(&plan.program.strings)?);
    let states = if plan.needs_state() { problem.samples } else { 0 };
    let state = Tensor::zeros(&problem.device, crate::DType::C64, &[states, 1 << plan.program.bits])?;
    let strings = plan.partial_strings as usize;
    let partials = [problem.samples, strings, plan.blocks_per_state as usize];
    let partials = Tensor::zeros(&problem.device, crate::DType::F32, &partials)?;
    let (theta, inputs) = (problem.theta.view(), problem.inputs.view());

    let op = problem.op;
    let (theta, inputs) = (Bound::new(op, theta.as_ref())?, Bound::new(op, inputs.as_ref())?);
    let initial = Bound::new(op, problem.initial.as_ref())?;
    let result = Bound::new(op, Some(out.as_ref()))?;
    let (program_view, table_view) = (program.view(), table.view());
    let (state_view, partials_view) = (state.view(), partials.view());
    let (program, table) = (Bound::new(op, Some(&program_view))?, Bound::new(op, Some(&table_view))?);
    let (state, partials) = (Bound::new(op, Some(&state_view))?, Bound::new(op, Some(&partials_view))?);
    for launch in &plan.launches {
        let partial = launch.sink == Sink::Partials;
        let target = if partial { &partials } else { &result };
        let params = Params {
            theta_first: theta.first,
            theta_step: theta.steps[0],
            inputs_first: inputs.first,
            sample_step: inputs.steps[0],
            input_step: inputs.steps[1],
            initial_first: initial.first,
            initial_step: initial.steps[0],
            result_first: result.first,
            result_step: result.steps[0],
            samples: problem.samples as u32,
            bits: plan.program.bits as u32,
            qubits: problem.program.qubits() as u32,
            first: launch.first,
            segments: launch.segments,
            source: launch.source as u32,
            sink: launch.sink as u32,
            strings: strings as u32,
            row_workgroups: row_workgroups as u32,
            workgroups: plan.blocks as u32,
            unused: 0,
        };
        let bindings = [
            program.buffer,
            theta.buffer,
            inputs.buffer,
            initial.buffer,
            state.buffer,
            target.buffer,
            Some(device.status()),
        ];
        let workgroups = [row_workgroups as u32, rows as u32, 1];
        device.launch(&CIRCUIT_WGSL, &bindings, bytemuck::bytes_of(&params), workgroups)?;
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
        let bindings = [table.buffer, partials.buffer, result.buffer];
        let workgroups = [problem.samples.div_ceil(64) as u32, 1, 1];
        device.launch(&COMBINE_WGSL, &bindings, bytemuck::bytes_of(&params), workgroups)?;
    }
    Ok(())
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
