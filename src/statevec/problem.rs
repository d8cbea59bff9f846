//! Validation: from a caller's tensors to a batch every backend can trust.

use super::fuse::is_unitary;
use super::gate::MAX_SLOTS;
use super::pauli::PauliSum;
use super::program::Program;
use crate::device::{Backend, Device};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::ids::Ids;
use crate::tensor::{Tensor, TensorMut, TensorRef};
use crate::validate;
use num_complex::{Complex32, Complex64};

/// What one run of a program needs beside the program: the device, the number of samples, parameter values, initial states.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    /// Where the program runs and its output lives.
    pub device: Device,
    /// Number of samples.
    pub samples: usize,
    /// `[thetas]` f32, shared by all samples, or `[tasks, thetas]` f32, a row for each task. On `device` or on the host.
    pub theta: Option<TensorRef<'a>>,
    /// `[samples]` i32, u32 or i64: the task of each sample, where something is given per task. On `device` or on the host.
    pub tasks: Option<TensorRef<'a>>,
    /// `[samples, inputs]` f32. On `device` or on the host.
    pub inputs: Option<TensorRef<'a>>,
    /// `[samples | 1, 2^qubits]` c64 on `device`; |0…0⟩ if absent. Not normalised for the caller.
    pub initial: Option<TensorRef<'a>>,
    /// By slot: `[samples, 2^k, 2^k]` c64 on `device`, the matrices of [`Gate::SampleMatrix`](super::Gate::SampleMatrix).
    pub matrices: Vec<Option<TensorRef<'a>>>,
}

impl<'a> Batch<'a> {
    /// `samples` samples on `device`, without parameters, starting from |0…0⟩.
    pub fn new(device: &Device, samples: usize) -> Self {
        let (theta, tasks, inputs, initial) = (None, None, None, None);
        Self { device: device.clone(), samples, theta, tasks, inputs, initial, matrices: Vec::new() }
    }

    /// Sets the trainable parameters, shared (`[thetas]`) or by task (`[tasks, thetas]`).
    pub fn theta(self, theta: impl Into<TensorRef<'a>>) -> Self {
        Self { theta: Some(theta.into()), ..self }
    }

    /// Sets the task of each sample.
    pub fn tasks(self, ids: impl Into<TensorRef<'a>>) -> Self {
        Self { tasks: Some(ids.into()), ..self }
    }

    /// Sets the samples' matrices of one slot. A slot beyond what any circuit may name is ignored.
    pub fn matrix(mut self, slot: usize, matrices: impl Into<TensorRef<'a>>) -> Self {
        if slot < MAX_SLOTS {
            self.matrices.resize(self.matrices.len().max(slot + 1), None);
            self.matrices[slot] = Some(matrices.into());
        }
        self
    }

    /// Sets the values per sample.
    pub fn inputs(self, inputs: impl Into<TensorRef<'a>>) -> Self {
        Self { inputs: Some(inputs.into()), ..self }
    }

    /// Sets the initial states.
    pub fn initial(self, initial: impl Into<TensorRef<'a>>) -> Self {
        Self { initial: Some(initial.into()), ..self }
    }
}

/// A parameter tensor on the run's device: the caller's, or a checked copy of a host tensor.
pub(crate) enum Values<'a> {
    None,
    Borrowed(TensorRef<'a>),
    Uploaded(Tensor),
}

impl<'a> Values<'a> {
    fn new(
        op: &'static str,
        arg: &'static str,
        given: Option<&TensorRef<'a>>,
        expected: &[usize],
        device: &Device,
    ) -> Result<Self> {
        let Some(tensor) = given else {
            if expected.contains(&0) {
                return Ok(Self::None);
            }
            return Err(Error::argument(op, arg, format!("is missing: the circuit needs {expected:?}")));
        };
        validate::shape(op, arg, tensor, expected)?;
        let on_host = tensor.device().backend() == Backend::Cpu;
        let home = if on_host { tensor.device() } else { device };
        validate::tensor(op, arg, tensor, DType::F32, home)?;
        if tensor.layout().is_empty() {
            return Ok(Self::None);
        }
        if !on_host {
            return Ok(Self::Borrowed(tensor.clone()));
        }
        let (values, _) = host::<f32>(tensor);
        let bad = if tensor.layout().is_contiguous() {
            values.iter().copied().find(|value| !value.is_finite())
        } else {
            let first = tensor.layout().offset();
            tensor.layout().indices().map(|i| values[i - first]).find(|value| !value.is_finite())
        };
        if let Some(bad) = bad {
            return Err(Error::argument(op, arg, format!("holds {bad}, which is not finite")));
        }
        if device.backend() == Backend::Cpu {
            return Ok(Self::Borrowed(tensor.clone()));
        }
        Ok(Self::Uploaded(Tensor::from_slice(device, &tensor.to_vec::<f32>()?, expected)?))
    }

    pub(crate) fn view(&self) -> Option<TensorRef<'_>> {
        match self {
            Self::None => None,
            Self::Borrowed(view) => Some(view.clone()),
            Self::Uploaded(tensor) => Some(tensor.view()),
        }
    }
}

/// A validated batch.
pub(crate) struct Problem<'a> {
    pub(crate) op: &'static str,
    pub(crate) program: &'a Program,
    pub(crate) device: Device,
    pub(crate) samples: usize,
    pub(crate) theta: Values<'a>,
    /// Rows of theta, if it has one for each task.
    pub(crate) theta_tasks: Option<usize>,
    /// On the program's device.
    pub(crate) tasks: Option<Ids<'a>>,
    /// By slot; all that the circuit names are there.
    pub(crate) matrices: Vec<Option<TensorRef<'a>>>,
    pub(crate) inputs: Values<'a>,
    pub(crate) initial: Option<TensorRef<'a>>,
}

impl<'a> Problem<'a> {
    pub(crate) fn new(op: &'static str, program: &'a Program, batch: &Batch<'a>) -> Result<Self> {
        let device = &batch.device;
        let states = 1usize << program.qubits();
        if let Some(initial) = &batch.initial {
            if initial.shape() != [batch.samples, states] && initial.shape() != [1, states] {
                let expected = format!("[{} or 1, {states}]", batch.samples);
                return Err(Error::shape(op, "initial", expected, initial.shape()));
            }
            validate::tensor(op, "initial", initial, DType::C64, device)?;
            validate::last_contiguous(op, "initial", initial)?;
        }
        let theta_tasks = match &batch.theta {
            Some(theta) if theta.shape().len() == 2 => Some(theta.shape()[0]),
            _ => None,
        };
        let rows = theta_tasks.into_iter().chain([program.thetas()]).collect::<Vec<_>>();
        let theta = Values::new(op, "theta", batch.theta.as_ref(), &rows, device)?;
        let tasks = match (&batch.tasks, theta_tasks) {
            (None, Some(rows)) => {
                let reason = format!("are missing: `theta` has a row for each of {rows} tasks");
                return Err(Error::argument(op, "tasks", reason));
            }
            (None, None) => None,
            (Some(ids), rows) => {
                // Where nothing is given per task any task will do.
                let limit = rows.map_or(i64::MAX, |rows| rows as i64);
                let valid = |id: i64| {
                    if (0..limit).contains(&id) {
                        return Ok(());
                    }
                    Err(Error::TaskId { op, got: id, tasks: limit as usize })
                };
                Some(Ids::new(op, "tasks", ids, &[batch.samples], device, valid)?)
            }
        };
        let matrices = sample_matrices(op, program, batch)?;
        let inputs = [batch.samples, program.inputs()];
        let inputs = Values::new(op, "inputs", batch.inputs.as_ref(), &inputs, device)?;
        let (device, samples) = (device.clone(), batch.samples);
        let initial = batch.initial.clone();
        Ok(Self { op, program, device, samples, theta, theta_tasks, tasks, matrices, inputs, initial })
    }

    /// What only the CPU can do yet, as the error of another backend.
    pub(crate) fn check_backend(&self) -> Result<()> {
        let backend = self.device.backend();
        if backend == Backend::Cpu {
            return Ok(());
        }
        let refuse = |what: &'static str, limit: &str, got: String| {
            Err(Error::Unsupported { op: self.op, backend, what, limit: limit.into(), got })
        };
        if let Some(tasks) = self.theta_tasks {
            return refuse("rows of theta", "one, shared by all samples", tasks.to_string());
        }
        match self.program.beyond_gpu() {
            Some((what, limit, got)) => refuse(what, limit, got),
            None => Ok(()),
        }
    }

    /// The task of each sample, if theta has a row for each task. Only where ids are in host memory.
    pub(crate) fn task_of_samples(&self) -> Result<Option<Vec<usize>>> {
        match (&self.tasks, self.theta_tasks) {
            // Validation has checked that none is negative.
            (Some(ids), Some(_)) => Ok(Some(ids.host()?.into_iter().map(|id| id as usize).collect())),
            _ => Ok(None),
        }
    }

    /// The adjoint undoes gates by their conjugate transpose.
    pub(crate) fn check_unitary_matrices(&self) -> Result<()> {
        for (slot, matrix) in self.matrices.iter().enumerate() {
            let Some(matrix) = matrix else { continue };
            let size = matrix.shape()[1] * matrix.shape()[2];
            let entries = matrix.to_vec::<Complex32>()?;
            let wide = |entry: &Complex32| Complex64::new(entry.re.into(), entry.im.into());
            for (sample, entries) in entries.chunks(size.max(1)).enumerate() {
                if !is_unitary(&entries.iter().map(wide).collect::<Vec<_>>(), 1e-5) {
                    let reason = format!("of slot {slot} and sample {sample} is not unitary");
                    return Err(Error::argument(self.op, "matrix", reason));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn check_output(&self, out: &TensorMut<'_>, width: usize, dtype: DType) -> Result<()> {
        validate::shape(self.op, "out", out.as_ref(), &[self.samples, width])?;
        validate::tensor(self.op, "out", out.as_ref(), dtype, &self.device)?;
        validate::last_contiguous(self.op, "out", out.as_ref())?;
        let (theta, inputs) = (self.theta.view(), self.inputs.view());
        let given =
            [("theta", theta.as_ref()), ("inputs", inputs.as_ref()), ("initial", self.initial.as_ref())];
        let matrices = self.matrices.iter().map(|matrix| ("matrix", matrix.as_ref()));
        let tasks = self.tasks.as_ref().map(Ids::view);
        let given = given.into_iter().chain(matrices).chain([("tasks", tasks.as_ref())]);
        let given: Vec<_> = given.filter_map(|(arg, tensor)| Some((arg, tensor?))).collect();
        validate::disjoint(self.op, &[("out", out.as_ref())], &given)
    }

    pub(crate) fn check_observables(&self, observables: &[PauliSum]) -> Result<()> {
        let qubits = self.program.qubits();
        match observables.iter().map(PauliSum::qubits).find(|&acts_on| acts_on > qubits) {
            None => Ok(()),
            Some(acts_on) => {
                let reason = format!("act on qubit {}, the circuit has {qubits}", acts_on - 1);
                Err(Error::argument(self.op, "observables", reason))
            }
        }
    }
}

/// The batch's matrices of every slot the circuit names.
fn sample_matrices<'a>(
    op: &'static str,
    program: &Program,
    batch: &Batch<'a>,
) -> Result<Vec<Option<TensorRef<'a>>>> {
    let slot = |(slot, &qubits): (usize, &usize)| {
        if qubits == 0 {
            return Ok(None);
        }
        let side = 1usize << qubits;
        let given = batch.matrices.get(slot).and_then(Option::as_ref);
        let matrix = given.ok_or_else(|| {
            let reason = format!("of slot {slot} is missing: [{}, {side}, {side}]", batch.samples);
            Error::argument(op, "matrix", reason)
        })?;
        validate::shape(op, "matrix", matrix, &[batch.samples, side, side])?;
        validate::tensor(op, "matrix", matrix, DType::C64, &batch.device)?;
        validate::last_contiguous(op, "matrix", matrix)?;
        Ok(Some(matrix.clone()))
    };
    program.matrices().iter().enumerate().map(slot).collect()
}

/// The elements of a CPU view from its first on, and the strides of its dimensions (0 where there is one element).
#[allow(unsafe_code)]
pub(crate) fn host<'a, T: Element>(tensor: &TensorRef<'a>) -> (&'a [T], Vec<usize>) {
    let layout = tensor.layout();
    let steps = (0..layout.shape().len()).map(|i| layout.step(i)).collect();
    let len = if layout.is_empty() { 0 } else { layout.end() - layout.offset() };
    match tensor.cpu_ptr::<T>() {
        // SAFETY: construction has checked that the layout lies inside memory borrowed for 'a; T matches the element type,
        // or `cpu_ptr` had returned none.
        Some(first) if len > 0 => (unsafe { std::slice::from_raw_parts(first, len) }, steps),
        _ => (&[], steps),
    }
}

/// The rows of a CPU view that can be written, gaps between them included, and the step from row to row.
#[allow(unsafe_code)]
pub(crate) fn host_rows<'a, T: Element>(out: &'a mut TensorMut<'_>) -> (&'a mut [T], usize) {
    let layout = *out.as_ref().layout();
    let len = if layout.is_empty() { 0 } else { layout.end() - layout.offset() };
    // One row is a block of its own width whatever its stride says.
    let step = if layout.shape()[0] > 1 { layout.strides()[0] } else { len.max(1) };
    match out.cpu_ptr::<T>() {
        // SAFETY: as in `host`, and a TensorMut borrows its memory exclusively. The gaps are never written.
        Some(first) if len > 0 => (unsafe { std::slice::from_raw_parts_mut(first, len) }, step),
        _ => (&mut [], 1),
    }
}
