//! State vectors in WGSL: argument packing for `kernels/statevec/*.wgsl`.

use super::gpu::{GpuPlan, Sink};
use super::gpu_adjoint::{AdjointPlan, CHUNK, SumTable};
use super::observables::StringGroup;
use super::problem::Problem;
use super::program::Readout;
use crate::device::Backend;
use crate::device::wgpu::{WgpuBuffer, WgpuDevice};
use crate::error::{Error, Result};
use crate::manifest::statevec::{ADJOINT_WGSL, CIRCUIT_WGSL, COMBINE_WGSL, GRADIENT_SUM_WGSL, TASKS_WGSL};
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
    unused: [u32; 3],
}

/// `Params` in tasks.wgsl.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct TasksParams {
    ids_first: u32,
    id_step: u32,
    id_kind: u32,
    rows_first: u32,
    samples: u32,
    tasks: u32,
    unused: [u32; 2],
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
}

/// `Params` in gradient_sum.wgsl.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GradientSumParams {
    slot_step: u32,
    sample_step: u32,
    result_first: u32,
    result_step: u32,
    samples: u32,
    parameters: u32,
    rows: u32,
    chunk: u32,
    groups: u32,
    row_workgroups: u32,
    by_task: u32,
    task_first: u32,
}

/// A program on the device, and behind its words each sample's row of theta, if there are several.
struct Uploaded {
    program: Tensor,
    /// Word of the first sample's row, or all ones.
    rows: u32,
    /// Between parameters, and between tasks.
    steps: [u32; 2],
}

impl Uploaded {
    fn new(device: &WgpuDevice, problem: &Problem<'_>, words: &[u32]) -> Result<Self> {
        let theta = problem.theta.view();
        let theta = Bound::new(problem.op, theta.as_ref())?;
        let upload = |words: &[u32]| Tensor::from_slice(&problem.device, words, &[words.len()]);
        let (Some(ids), Some(tasks)) = (&problem.tasks, problem.theta_tasks) else {
            return Ok(Self { program: upload(words)?, rows: NO_ROWS, steps: [theta.steps[0], 0] });
        };
        let mut longer = words.to_vec();
        longer.resize(words.len() + problem.samples, 0);
        let program = upload(&longer)?;
        let view = ids.view();
        let bound = Bound::new(problem.op, Some(&view))?;
        let params = TasksParams {
            ids_first: bound.first,
            id_step: bound.steps[0],
            id_kind: ids.kind(),
            rows_first: words.len() as u32,
            samples: problem.samples as u32,
            tasks: tasks.min(i32::MAX as usize) as u32,
            unused: [0; 2],
        };
        let rows = program.view();
        let bindings = [bound.buffer, Bound::new(problem.op, Some(&rows))?.buffer, Some(device.status())];
        let workgroups = [problem.samples.div_ceil(256) as u32, 1, 1];
        device.launch(&TASKS_WGSL, &bindings, bytemuck::bytes_of(&params), workgroups)?;
        Ok(Self { program, rows: words.len() as u32, steps: [theta.steps[1], theta.steps[0]] })
    }
}

/// `Params::rows` where all samples share theta.
const NO_ROWS: u32 = u32::MAX;

pub(super) fn forward(
    device: &WgpuDevice,
    problem: &Problem<'_>,
    readout: Readout<'_>,
    out: &mut TensorMut<'_>,
) -> Result<()> {
    let plan = GpuPlan::new(problem.program, problem.samples, problem.initial.is_some(), readout);
    let workgroups = grid(problem.op, plan.blocks)?;
    if problem.samples as u64 > DISPATCH_LIMIT * 64 {
        return Err(too_large(problem.op, "samples", problem.samples as u64, DISPATCH_LIMIT * 64));
    }
    let upload = |words: &[u32]| Tensor::from_slice(&problem.device, words, &[words.len()]);
    let uploaded = Uploaded::new(device, problem, &plan.program.words)?;
    let (program, table) = (&uploaded.program, upload(&plan.program.strings)?);
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
            theta_step: uploaded.steps[0],
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
            row_workgroups: workgroups[0],
            workgroups: plan.blocks as u32,
            task_step: uploaded.steps[1],
            rows: uploaded.rows,
            unused: [0; 3],
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

/// Gradients of a weighted sum of observables: `theta` `[thetas]`, `inputs` `[samples, inputs]`, both contiguous and zeroed.
pub(super) fn gradient(
    device: &WgpuDevice,
    problem: &Problem<'_>,
    groups: &[StringGroup],
    weights: &TensorRef<'_>,
    out: [&mut Tensor; 2],
) -> Result<()> {
    let op = problem.op;
    let Some(plan) = AdjointPlan::new(problem, groups) else { return Ok(()) };
    grid(op, plan.blocks(plan.samples))?;
    let upload = |words: &[u32]| Tensor::from_slice(&problem.device, words, &[words.len()]);
    let zeros = |dtype, shape: &[usize]| Tensor::zeros(&problem.device, dtype, shape);
    let bits = plan.program.bits;
    let large = if plan.forward.is_empty() { 0 } else { plan.samples };
    let groups = plan.blocks_per_state as usize;
    let thetas = plan.theta.parameters;
    let uploaded = Uploaded::new(device, problem, &plan.program.words)?;
    let state = zeros(crate::DType::C64, &[2 * large, 1 << bits])?;
    let slots = zeros(crate::DType::F32, &[plan.program.gradients.len(), plan.samples, groups])?;
    let sums = zeros(crate::DType::F32, &[problem.samples.div_ceil(CHUNK), thetas])?;
    let (theta_table, inputs_table) = (upload(&plan.theta.words)?, upload(&plan.inputs.words)?);
    let columns = upload(&SumTable::columns(thetas).words)?;

    let (theta, inputs) = (problem.theta.view(), problem.inputs.view());
    let (theta, inputs) = (Bound::new(op, theta.as_ref())?, Bound::new(op, inputs.as_ref())?);
    let initial = Bound::new(op, problem.initial.as_ref())?;
    let weight_step = if weights.shape().len() == 2 { weights.layout().step(0) as u32 } else { 0 };
    let weights = Bound::new(op, Some(weights))?;
    let views = [&uploaded.program, &state, &slots, &sums, &*out[0], &*out[1]].map(Tensor::view);
    let [program, state, slots, sums, theta_out, inputs_out] =
        views.each_ref().map(|view| Bound::new(op, Some(view)));
    let (program, state, slots, sums) = (program?, state?, slots?, sums?);
    let (theta_out, inputs_out) = (theta_out?, inputs_out?);
    for begin in (0..problem.samples).step_by(plan.samples) {
        let samples = plan.samples.min(problem.samples - begin);
        let blocks = plan.blocks(samples);
        let workgroups = grid(op, blocks)?;
        let row = begin as u32;
        let shared = AdjointParams {
            theta_first: theta.first,
            theta_step: uploaded.steps[0],
            inputs_first: inputs.first + row * inputs.steps[0],
            sample_step: inputs.steps[0],
            input_step: inputs.steps[1],
            initial_first: initial.first + row * initial.steps[0],
            initial_step: initial.steps[0],
            weights_first: weights.first + row * weight_step,
            weight_step,
            samples: samples as u32,
            bits: bits as u32,
            qubits: problem.program.qubits() as u32,
            first: 0,
            segments: 0,
            source: 0,
            sink: 0,
            row_workgroups: workgroups[0],
            workgroups: blocks as u32,
            task_step: uploaded.steps[1],
            rows: if uploaded.rows == NO_ROWS { NO_ROWS } else { uploaded.rows + row },
        };
        for launch in &plan.forward {
            let params = Params {
                theta_first: shared.theta_first,
                theta_step: shared.theta_step,
                inputs_first: shared.inputs_first,
                sample_step: shared.sample_step,
                input_step: shared.input_step,
                initial_first: shared.initial_first,
                initial_step: shared.initial_step,
                result_first: 0,
                result_step: 0,
                samples: shared.samples,
                bits: shared.bits,
                qubits: shared.qubits,
                first: launch.first,
                segments: launch.segments,
                source: launch.source as u32,
                sink: launch.sink as u32,
                strings: 0,
                row_workgroups: shared.row_workgroups,
                workgroups: shared.workgroups,
                task_step: shared.task_step,
                rows: shared.rows,
                unused: [0; 3],
            };
            let bindings = [
                program.buffer,
                theta.buffer,
                inputs.buffer,
                initial.buffer,
                state.buffer,
                None,
                Some(device.status()),
            ];
            device.launch(&CIRCUIT_WGSL, &bindings, bytemuck::bytes_of(&params), workgroups)?;
        }
        for launch in &plan.launches {
            let params = AdjointParams {
                first: launch.first,
                segments: launch.segments,
                source: launch.source as u32,
                sink: launch.sink as u32,
                ..shared
            };
            let bindings = [
                program.buffer,
                theta.buffer,
                inputs.buffer,
                initial.buffer,
                weights.buffer,
                state.buffer,
                slots.buffer,
                Some(device.status()),
            ];
            device.launch(&ADJOINT_WGSL, &bindings, bytemuck::bytes_of(&params), workgroups)?;
        }
        let of_inputs = plan.inputs.parameters as u32;
        let per_sample = GradientSumParams {
            slot_step: (samples * groups) as u32,
            sample_step: groups as u32,
            result_first: inputs_out.first + row * of_inputs,
            result_step: of_inputs,
            samples: samples as u32,
            parameters: of_inputs,
            rows: samples as u32,
            chunk: 1,
            groups: groups as u32,
            row_workgroups: 0,
            by_task: 0,
            task_first: 0,
        };
        sum(op, device, &inputs_table, [&slots, &program, &inputs_out], per_sample)?;
        if let Some(tasks) = problem.theta_tasks {
            // All samples are in this round.
            let per_task = GradientSumParams {
                result_first: theta_out.first,
                result_step: thetas as u32,
                parameters: thetas as u32,
                rows: tasks as u32,
                chunk: CHUNK as u32,
                by_task: 1,
                task_first: uploaded.rows,
                ..per_sample
            };
            return sum(op, device, &theta_table, [&slots, &program, &theta_out], per_task);
        }
        let per_chunk = GradientSumParams {
            result_first: sums.first + row / CHUNK as u32 * thetas as u32,
            result_step: thetas as u32,
            parameters: thetas as u32,
            rows: samples.div_ceil(CHUNK) as u32,
            chunk: CHUNK as u32,
            ..per_sample
        };
        sum(op, device, &theta_table, [&slots, &program, &sums], per_chunk)?;
    }
    let rows = problem.samples.div_ceil(CHUNK) as u32;
    let total = GradientSumParams {
        slot_step: 1,
        sample_step: thetas as u32,
        result_first: theta_out.first,
        result_step: thetas as u32,
        samples: rows,
        parameters: thetas as u32,
        rows: 1,
        chunk: rows,
        groups: 1,
        row_workgroups: 0,
        by_task: 0,
        task_first: 0,
    };
    sum(op, device, &columns, [&sums, &program, &theta_out], total)
}

fn sum(
    op: &'static str,
    device: &WgpuDevice,
    table: &Tensor,
    [slots, tasks, out]: [&Bound<'_>; 3],
    params: GradientSumParams,
) -> Result<()> {
    if params.parameters == 0 {
        return Ok(());
    }
    let elements = u64::from(params.rows) * u64::from(params.parameters);
    let workgroups = grid(op, elements.div_ceil(64))?;
    let params = GradientSumParams { row_workgroups: workgroups[0], ..params };
    let view = table.view();
    let bindings = [Bound::new(op, Some(&view))?.buffer, slots.buffer, tasks.buffer, out.buffer];
    device.launch(&GRADIENT_SUM_WGSL, &bindings, bytemuck::bytes_of(&params), workgroups)
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
