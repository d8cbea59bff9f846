//! Validation: from a caller's tensors to a batch every backend can trust.

pub(crate) use super::batch::{Batch, Start};
use super::cpu;
use super::fuse::is_unitary;
use super::pauli::PauliSum;
use super::program::Program;
use crate::device::{Backend, Device};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::ids::Ids;
use crate::tensor::{Tensor, TensorMut, TensorRef};
use crate::validate;
use num_complex::{Complex32, Complex64};

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
        batch: &Batch<'_>,
    ) -> Result<Self> {
        let device = &batch.device;
        let Some(tensor) = given else {
            if expected.contains(&0) {
                return Ok(Self::None);
            }
            return Err(Error::argument(op, arg, format!("is missing: the circuit needs {expected:?}")));
        };
        validate::shape(op, arg, tensor, expected)?;
        let on_host = tensor.device().backend() == Backend::Cpu;
        let home = if on_host { tensor.device() } else { device };
        // Parameters in f64 are for states that can tell.
        let dtype = if tensor.dtype() == batch.real() { batch.real() } else { DType::F32 };
        validate::tensor(op, arg, tensor, dtype, home)?;
        if tensor.layout().is_empty() {
            return Ok(Self::None);
        }
        if !on_host {
            return Ok(Self::Borrowed(tensor.clone()));
        }
        if dtype == DType::F64 {
            check_finite::<f64>(op, arg, tensor)?;
        } else {
            check_finite::<f32>(op, arg, tensor)?;
        }
        if device.backend() == Backend::Cpu {
            return Ok(Self::Borrowed(tensor.clone()));
        }
        let copy = if dtype == DType::F64 {
            Tensor::from_slice(device, &tensor.to_vec::<f64>()?, expected)?
        } else {
            Tensor::from_slice(device, &tensor.to_vec::<f32>()?, expected)?
        };
        Ok(Self::Uploaded(copy))
    }

    pub(crate) fn view(&self) -> Option<TensorRef<'_>> {
        match self {
            Self::None => None,
            Self::Borrowed(view) => Some(view.clone()),
            Self::Uploaded(tensor) => Some(tensor.view()),
        }
    }
}

fn check_finite<T: Element + Into<f64>>(
    op: &'static str,
    arg: &'static str,
    tensor: &TensorRef<'_>,
) -> Result<()> {
    let (values, _) = host::<T>(tensor);
    let is_bad = |value: &f64| !value.is_finite();
    let bad = if tensor.layout().is_contiguous() {
        values.iter().map(|&value| value.into()).find(is_bad)
    } else {
        let first = tensor.layout().offset();
        tensor.layout().indices().map(|i| values[i - first].into()).find(is_bad)
    };
    match bad {
        Some(bad) => Err(Error::argument(op, arg, format!("holds {bad}, which is not finite"))),
        None => Ok(()),
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
    pub(crate) start: Start,
    pub(crate) dtype: DType,
    /// Numbers of basis states.
    pub(crate) basis: Option<Ids<'a>>,
}

impl<'a> Problem<'a> {
    pub(crate) fn new(op: &'static str, program: &'a Program, batch: &Batch<'a>) -> Result<Self> {
        let device = &batch.device;
        if !matches!(batch.dtype, DType::C64 | DType::C128) {
            return Err(Error::DType { op, arg: "dtype", expected: "c64 or c128".into(), got: batch.dtype });
        }
        let basis = check_initial(op, program, batch)?;
        let theta_tasks = match &batch.theta {
            Some(theta) if theta.shape().len() == 2 => Some(theta.shape()[0]),
            _ => None,
        };
        let rows = theta_tasks.into_iter().chain([program.thetas()]).collect::<Vec<_>>();
        let theta = Values::new(op, "theta", batch.theta.as_ref(), &rows, batch)?;
        let initial_tasks = match (&batch.initial, batch.start) {
            (Some(initial), Start::TaskStates) => Some(initial.shape()[0]),
            _ => None,
        };
        if let (Some(a), Some(b)) = (theta_tasks, initial_tasks)
            && a != b
        {
            let reason = format!("has rows for {b} tasks, `theta` for {a}");
            return Err(Error::argument(op, "initial", reason));
        }
        let tasks = match (&batch.tasks, theta_tasks.or(initial_tasks)) {
            (None, Some(rows)) => {
                let reason = format!("are missing: there is a row for each of {rows} tasks");
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
        let inputs = Values::new(op, "inputs", batch.inputs.as_ref(), &inputs, batch)?;
        let (device, samples) = (device.clone(), batch.samples);
        let initial = batch.initial.clone();
        let (start, dtype) = (batch.start, batch.dtype);
        Ok(Self {
            op,
            program,
            device,
            samples,
            theta,
            theta_tasks,
            tasks,
            matrices,
            inputs,
            initial,
            start,
            dtype,
            basis,
        })
    }

    /// Whether the amplitudes that the states start from have a gradient.
    pub(crate) fn differentiates_start(&self) -> bool {
        self.initial.is_some() && self.start != Start::Basis
    }

    /// Tasks, where something is given per task.
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    pub(crate) fn task_count(&self) -> Option<usize> {
        let of_starts = self.initial.as_ref().filter(|_| self.start == Start::TaskStates);
        self.theta_tasks.or(of_starts.map(|initial| initial.shape()[0]))
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
        if self.dtype != DType::C64 {
            return refuse("element type of states", "c64", self.dtype.to_string());
        }
        match self.program.beyond_gpu() {
            Some((what, limit, got)) => refuse(what, limit, got),
            None => Ok(()),
        }
    }

    /// The task of each sample, if theta has a row for each task. Only where ids are in host memory.
    pub(crate) fn task_of_samples(&self) -> Result<Option<Vec<usize>>> {
        match &self.tasks {
            // Validation has checked that none is negative.
            Some(ids) if self.theta_tasks.is_some() || self.start == Start::TaskStates => {
                Ok(Some(ids.host()?.into_iter().map(|id| id as usize).collect()))
            }
            _ => Ok(None),
        }
    }

    /// The initial states as the CPU reads them.
    pub(crate) fn cpu_initial(&self) -> Result<cpu::Initial<'_>> {
        if let Some(numbers) = &self.basis {
            // Validation has checked their range.
            let numbers = numbers.host()?.into_iter().map(|number| number as u32);
            return Ok(cpu::Initial::Basis(numbers.collect()));
        }
        let Some(given) = &self.initial else { return Ok(cpu::Initial::Zero) };
        let (count, width) = (given.shape()[0], given.shape()[1]);
        let row = match self.start {
            Start::TaskStates => self.task_of_samples()?.unwrap_or_default(),
            _ if count == 1 => vec![0; self.samples],
            _ => (0..self.samples).collect(),
        };
        let complex = matches!(given.dtype(), DType::C64 | DType::C128);
        let (values, steps) = super::program::reals(Some(given.clone()));
        let mut rows = cpu::Rows { values, complex, step: steps[0], width, row, scale: Vec::new() };
        if self.start == Start::Amplitudes {
            rows.scale = (0..count).map(|row| self.inverse_norm(&rows, row)).collect::<Result<_>>()?;
        }
        Ok(cpu::Initial::Rows(rows))
    }

    fn inverse_norm(&self, rows: &cpu::Rows<'_>, row: usize) -> Result<f64> {
        let parts = || (0..rows.width).flat_map(|i| rows.amplitude(row, i));
        // Of numbers whose squares may overflow or vanish.
        let largest = parts().fold(0.0f64, |most, part| if part.abs() <= most { most } else { part.abs() });
        if !(largest > 0.0 && largest.is_finite()) {
            let reason =
                format!("has a row {row} that cannot be normalised: its largest number is {largest}");
            return Err(Error::argument(self.op, "initial", reason));
        }
        let square: f64 = parts().map(|part| (part / largest).powi(2)).sum();
        Ok(1.0 / (largest * square.sqrt()))
    }

    /// The adjoint undoes gates by their conjugate transpose.
    pub(crate) fn check_unitary_matrices(&self) -> Result<()> {
        for (slot, matrix) in self.matrices.iter().enumerate() {
            let Some(matrix) = matrix else { continue };
            let size = matrix.shape()[1] * matrix.shape()[2];
            let wide = |entry: Complex32| Complex64::new(entry.re.into(), entry.im.into());
            let entries: Vec<Complex64> = match self.dtype {
                DType::C128 => matrix.to_vec()?,
                _ => matrix.to_vec()?.into_iter().map(wide).collect(),
            };
            for (sample, entries) in entries.chunks(size.max(1)).enumerate() {
                if !is_unitary(entries, 1e-5) {
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

/// Checks the initial states; gives the numbers of basis states, if there are.
fn check_initial<'a>(op: &'static str, program: &Program, batch: &Batch<'a>) -> Result<Option<Ids<'a>>> {
    let Some(initial) = &batch.initial else { return Ok(None) };
    let (samples, states) = (batch.samples, 1usize << program.qubits());
    let shape = initial.shape();
    if batch.start == Start::Basis {
        let valid = |number: i64| {
            if (0..states as i64).contains(&number) {
                return Ok(());
            }
            let reason = format!("holds {number}, which is not a basis state of {} qubits", program.qubits());
            Err(Error::argument(op, "initial", reason))
        };
        return Ids::new(op, "initial", initial, &[samples], &batch.device, valid).map(Some);
    }
    let fits = match (batch.start, shape) {
        (Start::States, &[rows, width]) => (rows == samples || rows == 1) && width == states,
        (Start::TaskStates, &[_, width]) => width == states,
        (_, &[rows, width]) => (rows == samples || rows == 1) && (1..=states).contains(&width),
        _ => false,
    };
    if !fits {
        let expected = match batch.start {
            Start::TaskStates => format!("[tasks, {states}]"),
            Start::Amplitudes => format!("[{samples} or 1, 1 to {states}]"),
            _ => format!("[{samples} or 1, {states}]"),
        };
        return Err(Error::shape(op, "initial", expected, shape));
    }
    let real = batch.start == Start::Amplitudes && initial.dtype() == batch.real();
    let dtype = if real { batch.real() } else { batch.dtype };
    validate::tensor(op, "initial", initial, dtype, &batch.device)?;
    validate::last_contiguous(op, "initial", initial)?;
    Ok(None)
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
        validate::tensor(op, "matrix", matrix, batch.dtype, &batch.device)?;
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
