//! Compiled circuits.

use super::batch::Batch;
use super::circuit::Circuit;
use super::cpu::{self, Exec, Float};
use super::lower::{Action, Lowered};
use super::observables::{self, StringGroup};
use super::parameter::Variable;
use super::pauli::PauliSum;
use super::plan::{Pass, Shape};
use super::problem::{Problem, host, host_rows};
use crate::device::Kind;
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::{Tensor, TensorMut, TensorRef};
use num_complex::{Complex32, Complex64};
use std::sync::OnceLock;

/// A compiled circuit: run it on any batch, on any device, with any parameters, as often as wanted.
#[derive(Debug)]
pub struct Program {
    pub(super) qubits: usize,
    pub(super) thetas: usize,
    pub(super) inputs: usize,
    matrices: Vec<usize>,
    gates: usize,
    pub(crate) lowered: Lowered,
    cpu_forward: OnceLock<CpuPlan>,
    cpu_adjoint: OnceLock<CpuPlan>,
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    gpu_passes: OnceLock<Vec<Pass>>,
}

#[derive(Debug)]
pub(super) struct CpuPlan {
    shape: Shape,
    passes: Vec<Pass>,
    pub(super) exec: Exec,
}

impl Program {
    pub(crate) fn new(circuit: &Circuit) -> Result<Self> {
        Ok(Self {
            qubits: circuit.qubits(),
            thetas: circuit.thetas(),
            inputs: circuit.inputs(),
            matrices: circuit.matrices().to_vec(),
            gates: circuit.len(),
            lowered: Lowered::new(circuit),
            cpu_forward: OnceLock::new(),
            cpu_adjoint: OnceLock::new(),
            #[cfg(any(feature = "wgpu", feature = "cuda"))]
            gpu_passes: OnceLock::new(),
        })
    }

    /// Number of qubits.
    pub fn qubits(&self) -> usize {
        self.qubits
    }

    /// Length of `theta`.
    pub fn thetas(&self) -> usize {
        self.thetas
    }

    /// Width of `inputs`.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Qubits of each slot of per-sample matrices; 0 for a slot that no gate names.
    pub fn matrices(&self) -> &[usize] {
        &self.matrices
    }

    /// Runs the circuit: the states, `[samples, 2^qubits]` c64, or c128 if the batch says so.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape), [`Error::DType`](crate::Error::DType), [`Error::Device`](crate::Error::Device) or
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) naming the argument (a missing
    /// parameter tensor, a NaN angle in host memory, …), [`Error::OutOfMemory`](crate::Error::OutOfMemory) or
    /// [`Error::Unsupported`](crate::Error::Unsupported) if the states do
    /// not fit. All before anything is launched.
    pub fn run(&self, batch: &Batch<'_>) -> Result<Tensor> {
        Problem::new("statevec_run", self, batch)?;
        let mut out = Tensor::zeros(&batch.device, batch.dtype, &[batch.samples, 1 << self.qubits])?;
        self.run_into(batch, &mut out.view_mut())?;
        Ok(out)
    }

    /// [`Program::run`] into `[samples, 2^qubits]` of the caller's, of the batch's element type.
    ///
    /// # Errors
    /// As [`Program::run`]; [`Error::InvalidArgument`](crate::Error::InvalidArgument) if the output shares memory with an input.
    pub fn run_into(&self, batch: &Batch<'_>, out: &mut TensorMut<'_>) -> Result<()> {
        let problem = Problem::new("statevec_run", self, batch)?;
        problem.check_output(out, 1 << self.qubits, batch.dtype)?;
        self.launch(&problem, Readout::States, out)
    }

    /// Runs the circuit and returns |amplitude|² of every basis state, `[samples, 2^qubits]` f32 (f64 of c128 states).
    ///
    /// # Errors
    /// As [`Program::run`].
    pub fn probabilities(&self, batch: &Batch<'_>) -> Result<Tensor> {
        Problem::new("statevec_probabilities", self, batch)?;
        let mut out = Tensor::zeros(&batch.device, batch.real(), &[batch.samples, 1 << self.qubits])?;
        self.probabilities_into(batch, &mut out.view_mut())?;
        Ok(out)
    }

    /// [`Program::probabilities`] into `[samples, 2^qubits]` f32 of the caller's.
    ///
    /// # Errors
    /// As [`Program::run_into`].
    pub fn probabilities_into(&self, batch: &Batch<'_>, out: &mut TensorMut<'_>) -> Result<()> {
        let problem = Problem::new("statevec_probabilities", self, batch)?;
        problem.check_output(out, 1 << self.qubits, batch.real())?;
        self.launch(&problem, Readout::Probabilities, out)
    }

    /// Runs the circuit and returns ⟨ψ|observable|ψ⟩, `[samples, observables]` f32 (f64 of c128 states). The states are
    /// not stored.
    ///
    /// # Errors
    /// As [`Program::run`]; [`Error::InvalidArgument`](crate::Error::InvalidArgument) if an observable acts on a qubit the circuit
    /// does not have.
    pub fn expectations(&self, batch: &Batch<'_>, observables: &[PauliSum]) -> Result<Tensor> {
        Problem::new("statevec_expectations", self, batch)?.check_observables(observables)?;
        let mut out = Tensor::zeros(&batch.device, batch.real(), &[batch.samples, observables.len()])?;
        self.expectations_into(batch, observables, &mut out.view_mut())?;
        Ok(out)
    }

    /// [`Program::expectations`] into `[samples, observables]` f32 of the caller's.
    ///
    /// # Errors
    /// As [`Program::expectations`] and [`Program::run_into`].
    pub fn expectations_into(
        &self,
        batch: &Batch<'_>,
        observables: &[PauliSum],
        out: &mut TensorMut<'_>,
    ) -> Result<()> {
        let problem = Problem::new("statevec_expectations", self, batch)?;
        problem.check_observables(observables)?;
        problem.check_output(out, observables.len(), batch.real())?;
        let groups = observables::groups(&self.lowered.frame, observables);
        self.launch(&problem, Readout::Expectations { groups: &groups, observables: observables.len() }, out)
    }

    pub(super) fn cpu_plan(&self, adjoint: bool) -> &CpuPlan {
        let plan = if adjoint { &self.cpu_adjoint } else { &self.cpu_forward };
        plan.get_or_init(|| {
            let (shape, passes, exec) = cpu::compile(&self.lowered, self.qubits, adjoint);
            CpuPlan { shape, passes, exec }
        })
    }

    pub(super) fn cpu_call<'a>(&'a self, problem: &'a Problem<'_>) -> Result<cpu::Call<'a>> {
        let (theta, steps) = reals(problem.theta.view());
        let (task_step, theta_step) = match steps[..] {
            [tasks, within] => (tasks, within),
            _ => (0, steps.first().copied().unwrap_or(0)),
        };
        let tasks = problem.task_of_samples()?.map(|tasks| (tasks, task_step));
        let (inputs, steps) = reals(problem.inputs.view());
        let (sample_step, input_step) =
            if let [sample, input] = steps[..] { (sample, input) } else { (0, 0) };
        let matrices = problem.matrices.iter().map(|matrix| {
            let (values, steps) = reals(matrix.clone());
            let (sample_step, row_step) =
                if let [sample, row, _] = steps[..] { (sample, row) } else { (0, 0) };
            cpu::Matrices { values, sample_step, row_step }
        });
        let values = cpu::Values {
            theta,
            theta_step,
            tasks,
            inputs,
            sample_step,
            input_step,
            matrices: matrices.collect(),
        };
        Ok(cpu::Call {
            qubits: self.qubits,
            batch: problem.samples,
            lowered: &self.lowered,
            forward: &self.cpu_plan(false).exec,
            values,
            initial: problem.cpu_initial()?,
        })
    }

    fn launch_on_cpu<F: Float>(
        &self,
        problem: &Problem<'_>,
        readout: Readout<'_>,
        out: &mut TensorMut<'_>,
    ) -> Result<()> {
        let output = match readout {
            Readout::States => {
                let (rows, step) = host_rows::<F::Complex>(out);
                cpu::Output::States(bytemuck::cast_slice_mut::<F::Complex, [F; 2]>(rows), step)
            }
            Readout::Probabilities => {
                let (rows, step) = host_rows::<F>(out);
                cpu::Output::Probabilities(rows, step)
            }
            Readout::Expectations { groups, observables } => {
                let (rows, row_step) = host_rows::<F>(out);
                cpu::Output::Expectations { out: rows, row_step, observables, groups }
            }
        };
        cpu::forward(&self.cpu_call(problem)?, output)
    }

    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    pub(crate) fn gpu_passes(&self) -> &[Pass] {
        self.gpu_passes.get_or_init(|| super::records::schedule(&self.lowered, self.qubits))
    }

    /// What the GPU kernels lack for this circuit: the limited quantity, its limit, and what the circuit has.
    pub(crate) fn beyond_gpu(&self) -> Option<(&'static str, &'static str, String)> {
        let wide = |step: &super::lower::Step| match step.action {
            Action::Matrix(_) | Action::Permutation(_) if step.directions.len() > 3 => {
                Some(("qubits of a matrix or permutation", "3", step.directions.len().to_string()))
            }
            Action::SampleMatrix { .. } => {
                Some(("matrices", "those of the circuit", "a matrix of each sample's own".into()))
            }
            _ => None,
        };
        self.lowered.steps.iter().find_map(wide)
    }

    fn launch(&self, problem: &Problem<'_>, readout: Readout<'_>, out: &mut TensorMut<'_>) -> Result<()> {
        problem.check_backend()?;
        if out.as_ref().layout().is_empty() {
            return Ok(());
        }
        match &problem.device.0 {
            Kind::Cpu if problem.dtype == DType::C128 => self.launch_on_cpu::<f64>(problem, readout, out),
            Kind::Cpu => self.launch_on_cpu::<f32>(problem, readout, out),
            #[cfg(feature = "wgpu")]
            Kind::Wgpu(device) => super::wgpu::forward(device, problem, readout, out),
            #[cfg(feature = "cuda")]
            Kind::Cuda(device) => super::cuda::forward(device, problem, readout, out),
        }
    }

    /// What will run, in words: steps, passes, sweeps, floating-point operations and bytes a sample, launches on a GPU.
    pub fn explain(&self) -> String {
        use std::fmt::Write;
        let plan = self.cpu_plan(false);
        let lowered = &self.lowered;
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{} qubits, {} gates: {} steps, {} gates only relabel qubits, {} merged into others",
            self.qubits,
            self.gates,
            lowered.steps.len(),
            lowered.relabelled,
            lowered.merged,
        );
        let amplitudes = 1u64 << self.qubits;
        let lanes = if plan.shape.lane_bits == 0 { "16 samples" } else { "16 amplitudes" };
        let _ = writeln!(
            text,
            "cpu: {lanes} a vector, {} registers, {} pass(es) of 2^{} vectors",
            1 << plan.shape.register_bits,
            plan.passes.len(),
            plan.shape.tile_bits.min(self.qubits - plan.shape.lane_bits),
        );
        for (p, pass) in plan.passes.iter().enumerate() {
            for (s, sweep) in pass.sweeps.iter().enumerate() {
                let names: Vec<String> =
                    sweep.ops.iter().map(|op| describe(&lowered.steps[op.step].action)).collect();
                let _ = writeln!(text, "  pass {p} sweep {s}: {}", names.join(" "));
            }
        }
        if lowered.non_unitary > 0 {
            let _ =
                writeln!(text, "not unitary: {} of its matrices and diagonals are not", lowered.non_unitary);
        }
        let flops: u64 = lowered.steps.iter().map(|step| flops(step, amplitudes)).sum();
        let _ = writeln!(text, "{flops} floating-point operations a sample");
        let _ = writeln!(
            text,
            "{} bytes a sample through memory: {} passes, each amplitude read and written once in each",
            plan.passes.len() as u64 * 16 * amplitudes,
            plan.passes.len(),
        );
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        text.push_str(&self.explain_gpu());
        text
    }

    /// The part of [`Program::explain`] about CUDA and wgpu, for one block's worth of samples.
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    fn explain_gpu(&self) -> String {
        use super::gpu::GpuPlan;
        use super::gpu_adjoint::AdjointPlan;
        use super::gpu_tables::Opening;
        use super::records::{Arriving, ON_CHIP_BITS};
        use std::fmt::Write;
        if let Some((what, limit, got)) = self.beyond_gpu() {
            return format!("gpu: refused, {what} is limited to {limit}, got {got}\n");
        }
        let samples = 1usize << ON_CHIP_BITS.saturating_sub(self.qubits.max(4));
        let plan = GpuPlan::new(self, samples, Opening::ZERO, Readout::Probabilities);
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "gpu: {} launch(es) of {} segment(s) in all, 16 amplitudes a thread; for {samples} sample(s) in {} block(s), \
             probabilities returned:",
            plan.launches.len(),
            plan.program.segments.len(),
            plan.blocks,
        );
        for (number, launch) in plan.launches.iter().enumerate() {
            let (loads, stores) = plan.traffic(launch, samples as u64, self.qubits, 0);
            let (source, sink) = (launch.source, launch.sink);
            let _ = writeln!(
                text,
                "  launch {number}: {source:?} to {sink:?}, {loads} bytes loaded, {stores} stored"
            );
        }
        if !self.lowered.unitary {
            return text;
        }
        let adjoint = AdjointPlan::of(self, samples, Arriving::States, Opening::ZERO, false, false);
        let Some(plan) = adjoint else { return text };
        let _ = writeln!(
            text,
            "gpu: the gradient from one of the states is {} launch(es) of {} segment(s), {} derivative(s):",
            plan.forward.len() + plan.launches.len(),
            plan.program.segments.len(),
            plan.program.gradients.len(),
        );
        let forward = plan.forward.iter().map(|launch| {
            let moved = launch.traffic(&plan.program, plan.opening, samples as u64, self.qubits, 0);
            (format!("{:?} to {:?}", launch.source, launch.sink), moved)
        });
        let back = plan.launches.iter().map(|launch| {
            let moved = plan.traffic(launch, samples, self.qubits);
            (format!("adjoint of {:?} to {:?}", launch.source, launch.sink), moved)
        });
        for (number, (what, (loads, stores))) in forward.chain(back).enumerate() {
            let _ = writeln!(text, "  launch {number}: {what}, {loads} bytes loaded, {stores} stored");
        }
        text
    }
}

/// The numbers of a CPU view and its steps; complex ones as their parts in turn.
pub(super) fn reals(view: Option<TensorRef<'_>>) -> (cpu::Reals<'_>, Vec<usize>) {
    let Some(view) = view else { return (cpu::Reals::Single(&[]), Vec::new()) };
    match view.dtype() {
        DType::F64 => {
            let (values, steps) = host::<f64>(&view);
            (cpu::Reals::Double(values), steps)
        }
        DType::C64 => {
            let (values, steps) = host::<Complex32>(&view);
            (cpu::Reals::Single(bytemuck::cast_slice(values)), steps)
        }
        DType::C128 => {
            let (values, steps) = host::<Complex64>(&view);
            (cpu::Reals::Double(bytemuck::cast_slice(values)), steps)
        }
        _ => {
            let (values, steps) = host::<f32>(&view);
            (cpu::Reals::Single(values), steps)
        }
    }
}

/// What a run returns.
#[derive(Clone, Copy)]
pub(crate) enum Readout<'a> {
    States,
    Probabilities,
    Expectations { groups: &'a [StringGroup], observables: usize },
}

fn describe(action: &Action) -> String {
    let angle = |angle: &super::parameter::Angle| match angle.of {
        None => format!("{:.4}", angle.offset),
        Some(Variable::Theta(i)) => format!("theta{i}"),
        Some(Variable::Input(i)) => format!("input{i}"),
    };
    match action {
        Action::RotateReal(a) => format!("real({})", angle(a)),
        Action::RotateImag(a) => format!("imag({})", angle(a)),
        Action::Phase(a) => format!("phase({})", angle(a)),
        Action::Matrix(m) => format!("matrix{0}x{0}", m.len().isqrt()),
        Action::Diagonal(d) => format!("diagonal{}", d.len()),
        Action::Permutation(table) if table.len() == 2 => "exchange".into(),
        Action::Permutation(table) => format!("permutation{}", table.len()),
        Action::SampleMatrix { slot, .. } => format!("sample-matrix{slot}"),
    }
}

/// Floating-point operations of a step on one state; an addition and a multiplication count one each.
fn flops(step: &super::lower::Step, amplitudes: u64) -> u64 {
    let touched = amplitudes >> step.controls.len().min(63);
    match &step.action {
        // Three shears of a complex pair: twelve operations for two amplitudes.
        Action::RotateReal(_) | Action::RotateImag(_) => touched * 6,
        Action::Phase(_) | Action::Diagonal(_) => touched * 6,
        Action::Matrix(_) | Action::SampleMatrix { .. } => touched * ((8 << step.roles.len()) - 2),
        Action::Permutation(_) => 0,
    }
}
