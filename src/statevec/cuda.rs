//! State vectors on CUDA: argument packing for `kernels/statevec/*.cu`.

use super::gpu::GpuPlan;
use super::gpu_adjoint::{AdjointLaunch, AdjointPlan, CHUNK, SumTable};
use super::observables::StringGroup;
use super::problem::Problem;
use super::program::Readout;
use crate::device::Backend;
use crate::device::cuda::CudaDevice;
use crate::error::{Error, Result};
use crate::manifest::statevec::{ADJOINT_CUDA, CIRCUIT_CUDA, COMBINE_CUDA, GRADIENT_SUM_CUDA, TASKS_CUDA};
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
}

/// `TasksParams` in tasks.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct TasksParams {
    id_step: i64,
    samples: u32,
    tasks: u32,
    id_kind: u32,
    unused: u32,
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
    unused: u32,
}

/// `GradientSumParams` in gradient_sum.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GradientSumParams {
    slot_step: i64,
    sample_step: i64,
    out_step: i64,
    samples: u32,
    parameters: u32,
    rows: u32,
    chunk: u32,
    blocks: u32,
    task_first: u32,
}

/// A program on the device, and behind its words each sample's row of theta, if there are several.
struct Uploaded {
    program: Tensor,
    /// Word of the first sample's row, or all ones.
    rows: u32,
    theta_step: i64,
    task_step: i64,
}

impl Uploaded {
    fn new(device: &CudaDevice, problem: &Problem<'_>, words: &[u32]) -> Result<Self> {
        let theta = problem.theta.view();
        let step = |dim: usize| theta.as_ref().map_or(0, |view| view.layout().step(dim) as i64);
        let upload = |words: &[u32]| Tensor::from_slice(&problem.device, words, &[words.len()]);
        let (Some(ids), Some(tasks)) = (&problem.tasks, problem.theta_tasks) else {
            return Ok(Self { program: upload(words)?, rows: NO_ROWS, theta_step: step(0), task_step: 0 });
        };
        let mut longer = words.to_vec();
        longer.resize(words.len() + problem.samples, 0);
        let program = upload(&longer)?;
        let view = ids.view();
        let params = TasksParams {
            id_step: view.layout().step(0) as i64,
            samples: problem.samples as u32,
            tasks: tasks.min(i32::MAX as usize) as u32,
            id_kind: ids.kind(),
            unused: 0,
        };
        let rows = address(Some(&program.view()))? + 4 * words.len() as u64;
        let pointers = [address(Some(&view))?, rows, device.status()];
        let grid = [problem.samples.div_ceil(256) as u32, 1, 1];
        device.launch(&TASKS_CUDA, grid, &pointers, bytemuck::bytes_of(&params))?;
        let theta_step = if theta.is_some() { step(1) } else { 0 };
        Ok(Self { program, rows: words.len() as u32, theta_step, task_step: step(0) })
    }
}

/// `Params::rows` where all samples share theta.
const NO_ROWS: u32 = u32::MAX;

pub(super) fn forward(
    device: &CudaDevice,
    problem: &Problem<'_>,
    readout: Readout<'_>,
    out: &mut TensorMut<'_>,
) -> Result<()> {
    let plan = GpuPlan::new(problem.program, problem.samples, problem.initial.is_some(), readout);
    check_blocks(problem.op, plan.blocks)?;
    let upload = |words: &[u32]| Tensor::from_slice(&problem.device, words, &[words.len()]);
    let zeros = |dtype, shape: &[usize]| Tensor::zeros(&problem.device, dtype, shape);
    let uploaded = Uploaded::new(device, problem, &plan.program.words)?;
    let (program, table) = (&uploaded.program, upload(&plan.program.strings)?);
    let states = if plan.needs_state() { problem.samples } else { 0 };
    let state = zeros(crate::DType::C64, &[states, 1 << plan.program.bits])?;
    let strings = plan.partial_strings as usize;
    let partials = [problem.samples, strings, plan.blocks_per_state as usize];
    let partials = zeros(crate::DType::F32, &partials)?;

    let (theta, inputs) = (problem.theta.view(), problem.inputs.view());
    let step = |view: &Option<TensorRef<'_>>, dim: usize| {
        view.as_ref().map_or(0, |view| view.layout().step(dim) as i64)
    };
    let out_step = out.as_ref().layout().step(0) as i64;
    let out_address = address(Some(out.as_ref()))?;
    for launch in &plan.launches {
        let params = Params {
            theta_step: uploaded.theta_step,
            task_step: uploaded.task_step,
            sample_step: step(&inputs, 0),
            input_step: step(&inputs, 1),
            initial_step: step(&problem.initial, 0),
            out_step,
            samples: problem.samples as u32,
            bits: plan.program.bits as u32,
            qubits: problem.program.qubits() as u32,
            first: launch.first,
            length: launch.words,
            segments: launch.segments,
            source: launch.source as u32,
            sink: launch.sink as u32,
            strings: strings as u32,
            rows: uploaded.rows,
        };
        let result = if launch.sink == super::gpu::Sink::Partials {
            address(Some(&partials.view()))?
        } else {
            out_address
        };
        let pointers = [
            address(Some(&program.view()))?,
            address(theta.as_ref())?,
            address(inputs.as_ref())?,
            address(problem.initial.as_ref())?,
            address(Some(&state.view()))?,
            result,
            device.status(),
        ];
        device.launch(&CIRCUIT_CUDA, [plan.blocks as u32, 1, 1], &pointers, bytemuck::bytes_of(&params))?;
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

/// Gradients of a weighted sum of observables: `theta` `[thetas]`, `inputs` `[samples, inputs]`, both contiguous and zeroed.
pub(super) fn gradient(
    device: &CudaDevice,
    problem: &Problem<'_>,
    groups: &[StringGroup],
    weights: &TensorRef<'_>,
    out: [&mut Tensor; 2],
) -> Result<()> {
    observed_gradient(device, problem, groups, weights, out, &mut |_| {})
}

/// [`gradient`], telling of each launch of the adjoint kernel after it.
fn observed_gradient(
    device: &CudaDevice,
    problem: &Problem<'_>,
    groups: &[StringGroup],
    weights: &TensorRef<'_>,
    out: [&mut Tensor; 2],
    launched: &mut dyn FnMut(&AdjointLaunch),
) -> Result<()> {
    let Some(plan) = AdjointPlan::new(problem, groups) else { return Ok(()) };
    check_blocks(problem.op, plan.blocks(plan.samples))?;
    let zeros = |dtype, shape: &[usize]| Tensor::zeros(&problem.device, dtype, shape);
    let upload = |words: &[u32]| Tensor::from_slice(&problem.device, words, &[words.len()]);
    let uploaded = Uploaded::new(device, problem, &plan.program.words)?;
    let program = &uploaded.program;
    // The rows of a round of launches.
    let rows = |begin: usize| if uploaded.rows == NO_ROWS { NO_ROWS } else { uploaded.rows + begin as u32 };
    let bits = plan.program.bits;
    let large = if plan.forward.is_empty() { 0 } else { plan.samples };
    let states = [0, 1].map(|_| zeros(crate::DType::C64, &[large, 1 << bits]));
    let [state, lambda] = states;
    let (state, lambda) = (state?, lambda?);
    let blocks = plan.blocks_per_state as usize;
    let slots = zeros(crate::DType::F32, &[plan.program.gradients.len(), plan.samples, blocks])?;
    let thetas = plan.theta.parameters;
    let sums = zeros(crate::DType::F32, &[problem.samples.div_ceil(CHUNK), thetas])?;
    let [theta_table, inputs_table] = [&plan.theta, &plan.inputs].map(|table| upload(&table.words));
    let (theta_table, inputs_table) = (theta_table?, inputs_table?);

    let (theta, inputs) = (problem.theta.view(), problem.inputs.view());
    let step = |view: Option<&TensorRef<'_>>, dim: usize| {
        view.map_or(0, |view| if dim < view.shape().len() { view.layout().step(dim) as i64 } else { 0 })
    };
    let weight_step = if weights.shape().len() == 2 { step(Some(weights), 0) } else { 0 };
    let (sample_step, initial_step) = (step(inputs.as_ref(), 0), step(problem.initial.as_ref(), 0));
    let of_row = |view: Option<&TensorRef<'_>>, row: i64, step: i64| -> Result<u64> {
        let bytes = view.map_or(0, |view| view.dtype().size() as u64);
        Ok(address(view)? + row as u64 * step as u64 * bytes)
    };
    for begin in (0..problem.samples).step_by(plan.samples) {
        let samples = plan.samples.min(problem.samples - begin);
        let row = begin as i64;
        let grid = [plan.blocks(samples) as u32, 1, 1];
        let inputs_address = of_row(inputs.as_ref(), row, sample_step)?;
        let initial_address = of_row(problem.initial.as_ref(), row, initial_step)?;
        let weights_address = of_row(Some(weights), row, weight_step)?;
        let (program, theta_address) = (address(Some(&program.view()))?, address(theta.as_ref())?);
        let (state, lambda) = (address(Some(&state.view()))?, address(Some(&lambda.view()))?);
        let slots_address = address(Some(&slots.view()))?;
        for launch in &plan.forward {
            let params = Params {
                theta_step: uploaded.theta_step,
                task_step: uploaded.task_step,
                sample_step,
                input_step: step(inputs.as_ref(), 1),
                initial_step,
                out_step: 0,
                samples: samples as u32,
                bits: bits as u32,
                qubits: problem.program.qubits() as u32,
                first: launch.first,
                length: launch.words,
                segments: launch.segments,
                source: launch.source as u32,
                sink: launch.sink as u32,
                strings: 0,
                rows: rows(begin),
            };
            let pointers =
                [program, theta_address, inputs_address, initial_address, state, 0, device.status()];
            device.launch(&CIRCUIT_CUDA, grid, &pointers, bytemuck::bytes_of(&params))?;
        }
        for launch in &plan.launches {
            let params = AdjointParams {
                theta_step: uploaded.theta_step,
                task_step: uploaded.task_step,
                sample_step,
                input_step: step(inputs.as_ref(), 1),
                initial_step,
                weight_step,
                samples: samples as u32,
                bits: bits as u32,
                qubits: problem.program.qubits() as u32,
                first: launch.first,
                length: launch.words,
                segments: launch.segments,
                source: launch.source as u32,
                sink: launch.sink as u32,
                rows: rows(begin),
                unused: 0,
            };
            let pointers = [
                program,
                theta_address,
                inputs_address,
                initial_address,
                weights_address,
                state,
                lambda,
                slots_address,
                device.status(),
            ];
            device.launch(&ADJOINT_CUDA, grid, &pointers, bytemuck::bytes_of(&params))?;
            launched(launch);
        }
        let per_sample = GradientSumParams {
            slot_step: samples as i64 * blocks as i64,
            sample_step: blocks as i64,
            out_step: plan.inputs.parameters as i64,
            samples: samples as u32,
            parameters: plan.inputs.parameters as u32,
            rows: samples as u32,
            chunk: 1,
            blocks: blocks as u32,
            task_first: 0,
        };
        let inputs_out = address(Some(&out[1].view()))? + 4 * (begin * plan.inputs.parameters) as u64;
        sum(device, &inputs_table, [slots_address, 0, inputs_out], per_sample)?;
        if let Some(tasks) = problem.theta_tasks {
            // All samples are in this round.
            let per_task = GradientSumParams {
                out_step: thetas as i64,
                parameters: thetas as u32,
                rows: tasks as u32,
                chunk: CHUNK as u32,
                task_first: uploaded.rows,
                ..per_sample
            };
            let out = address(Some(&out[0].view()))?;
            return sum(device, &theta_table, [slots_address, program, out], per_task);
        }
        let per_chunk = GradientSumParams {
            out_step: thetas as i64,
            parameters: thetas as u32,
            rows: samples.div_ceil(CHUNK) as u32,
            chunk: CHUNK as u32,
            ..per_sample
        };
        let sums = address(Some(&sums.view()))? + 4 * (begin / CHUNK * thetas) as u64;
        sum(device, &theta_table, [slots_address, 0, sums], per_chunk)?;
    }
    let rows = problem.samples.div_ceil(CHUNK) as u32;
    let total = GradientSumParams {
        slot_step: 1,
        sample_step: thetas as i64,
        out_step: thetas as i64,
        samples: rows,
        parameters: thetas as u32,
        rows: 1,
        chunk: rows,
        blocks: 1,
        task_first: 0,
    };
    let columns = upload(&SumTable::columns(thetas).words)?;
    let sums = address(Some(&sums.view()))?;
    sum(device, &columns, [sums, 0, address(Some(&out[0].view()))?], total)
}

fn sum(
    device: &CudaDevice,
    table: &Tensor,
    [slots, tasks, out]: [u64; 3],
    params: GradientSumParams,
) -> Result<()> {
    if params.parameters == 0 {
        return Ok(());
    }
    let elements = u64::from(params.rows) * u64::from(params.parameters);
    let pointers = [address(Some(&table.view()))?, slots, tasks, out];
    let grid = [elements.div_ceil(64) as u32, 1, 1];
    device.launch(&GRADIENT_SUM_CUDA, grid, &pointers, bytemuck::bytes_of(&params))
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
mod tests {
    use super::*;
    use crate::statevec::{Batch, Circuit, Parameter, PauliSum, Program, observables};
    use crate::{Complex32, Device, Schedule};

    /// Rotations, a relabelling ring, controlled and dense gates: every kind of record.
    fn circuit(n: usize) -> Result<Program> {
        let mut c = Circuit::with_parameters(n, 3, n)?;
        for layer in 0..2 {
            for q in 0..n {
                c.ry(q, Parameter::Input(q))?.rz(q, Parameter::Theta(layer))?.h(q)?;
            }
            for q in 1..n {
                c.cx(q - 1, q)?.rzz(q - 1, q, Parameter::Theta(2))?;
            }
            if n > 1 {
                c.iswap(0, n - 1)?.cphase(0, n - 1, 0.3)?;
            }
            if n > 2 {
                c.ccx(0, 1, n - 1)?;
            }
        }
        c.compile()
    }

    /// The emulator's counters against the plan, for every readout.
    #[test]
    fn a_launch_moves_the_bytes_of_its_plan() -> Result<()> {
        let device = Device::cuda_emulated(Schedule::Reversed)?;
        let crate::device::Kind::Cuda(cuda) = &device.0 else { panic!("not a CUDA device") };
        for (n, samples) in [(1usize, 1usize), (3, 33), (4, 300), (7, 31), (10, 5), (12, 2), (13, 1)] {
            let program = circuit(n)?;
            let theta = Tensor::from_slice(&device, &[0.1f32, 0.2, 0.3], &[3])?;
            let inputs = Tensor::from_slice(&device, &vec![0.4f32; samples * n], &[samples, n])?;
            let mut amplitudes = vec![Complex32::ZERO; samples << n];
            amplitudes.iter_mut().step_by(1 << n).for_each(|first| *first = Complex32::ONE);
            let initial = Tensor::from_slice(&device, &amplitudes, &[samples, 1 << n])?;
            let plain = Batch::new(&device, samples).theta(&theta).inputs(&inputs);
            for batch in [plain.clone(), plain.initial(&initial)] {
                let sums: Vec<PauliSum> = (0..n)
                    .map(|q| PauliSum::z(q)?.plus(0.5, &[('X', q), ('Y', (q + 1) % n.max(2))][..n.min(2)]))
                    .collect::<Result<_>>()?;
                let groups = observables::groups(&program.lowered.frame, &sums);
                for readout in [
                    Readout::States,
                    Readout::Probabilities,
                    Readout::Expectations { groups: &groups, observables: n },
                ] {
                    let plan = GpuPlan::new(&program, samples, batch.initial.is_some(), readout);
                    match readout {
                        Readout::States => drop(program.run(&batch)?),
                        Readout::Probabilities => drop(program.probabilities(&batch)?),
                        Readout::Expectations { .. } => drop(program.expectations(&batch, &sums)?),
                    }
                    if n > 12 && matches!(readout, Readout::Expectations { .. }) {
                        continue; // the last launch is the combining one
                    }
                    if n <= 12 {
                        assert_eq!(plan.launches.len(), 1, "n = {n} is one launch");
                    }
                    let (loads, stores) =
                        plan.traffic(&plan.launches[plan.launches.len() - 1], samples as u64, n, n as u64);
                    let moved = cuda.last_launch().expect("the emulator counts");
                    assert_eq!(
                        (moved.bytes_loaded, moved.bytes_stored),
                        (loads, stores),
                        "n = {n}, {samples} samples"
                    );
                }
            }
        }
        Ok(())
    }

    /// The same for every launch of the adjoint, and one launch while a state stays on the chip.
    #[test]
    fn an_adjoint_moves_the_bytes_of_its_plan() -> Result<()> {
        let device = Device::cuda_emulated(Schedule::Random(5))?;
        let crate::device::Kind::Cuda(cuda) = &device.0 else { panic!("not a CUDA device") };
        for (n, samples) in [(1usize, 1usize), (3, 33), (4, 300), (7, 31), (10, 5), (12, 2), (13, 1)] {
            let program = circuit(n)?;
            let theta = Tensor::from_slice(&device, &[0.1f32, 0.2, 0.3], &[3])?;
            let inputs = Tensor::from_slice(&device, &vec![0.4f32; samples * n], &[samples, n])?;
            let mut amplitudes = vec![Complex32::ZERO; samples << n];
            amplitudes.iter_mut().step_by(1 << n).for_each(|first| *first = Complex32::ONE);
            let initial = Tensor::from_slice(&device, &amplitudes, &[samples, 1 << n])?;
            let sums: Vec<PauliSum> = (0..n)
                .map(|q| PauliSum::z(q)?.plus(0.5, &[('X', q), ('Y', (q + 1) % n.max(2))][..n.min(2)]))
                .collect::<Result<_>>()?;
            let groups = observables::groups(&program.lowered.frame, &sums);
            let weights = Tensor::from_slice(&device, &vec![0.5f32; n], &[n])?;
            let plain = Batch::new(&device, samples).theta(&theta).inputs(&inputs);
            for batch in [plain.clone(), plain.initial(&initial)] {
                let problem = Problem::new("statevec_gradient", &program, &batch)?;
                let plan = AdjointPlan::new(&problem, &groups).expect("angles depend on parameters");
                if n <= 12 {
                    assert_eq!((plan.forward.len(), plan.launches.len()), (0, 1), "n = {n} is one launch");
                }
                let mut count = 0;
                let mut out = [
                    Tensor::zeros(&device, crate::DType::F32, &[3])?,
                    Tensor::zeros(&device, crate::DType::F32, &[samples, n])?,
                ];
                let [theta_out, inputs_out] = &mut out;
                let mut check = |launch: &AdjointLaunch| {
                    let moved = cuda.last_launch().expect("the emulator counts");
                    let planned = plan.traffic(launch, samples, n);
                    assert_eq!((moved.bytes_loaded, moved.bytes_stored), planned, "n = {n}, {launch:?}");
                    count += 1;
                };
                observed_gradient(
                    cuda,
                    &problem,
                    &groups,
                    &weights.view(),
                    [theta_out, inputs_out],
                    &mut check,
                )?;
                assert_eq!(count, plan.launches.len());
            }
        }
        Ok(())
    }
}
