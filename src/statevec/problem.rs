//! Validation: from a caller's tensors to a batch every backend can trust.

use super::pauli::PauliSum;
use super::program::Program;
use crate::device::{Backend, Device};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::tensor::{Tensor, TensorMut, TensorRef};
use crate::validate;

/// What one run of a program needs beside the program: the device, the number of samples, parameter values, initial states.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    /// Where the program runs and its output lives.
    pub device: Device,
    /// Number of samples.
    pub samples: usize,
    /// `[thetas]` f32, shared by all samples. On `device` or on the host.
    pub theta: Option<TensorRef<'a>>,
    /// `[samples, inputs]` f32. On `device` or on the host.
    pub inputs: Option<TensorRef<'a>>,
    /// `[samples | 1, 2^qubits]` c64 on `device`; |0…0⟩ if absent. Not normalised for the caller.
    pub initial: Option<TensorRef<'a>>,
}

impl<'a> Batch<'a> {
    /// `samples` samples on `device`, without parameters, starting from |0…0⟩.
    pub fn new(device: &Device, samples: usize) -> Self {
        Self { device: device.clone(), samples, theta: None, inputs: None, initial: None }
    }

    /// Sets the shared parameters.
    pub fn theta(self, theta: impl Into<TensorRef<'a>>) -> Self {
        Self { theta: Some(theta.into()), ..self }
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
        let theta = Values::new(op, "theta", batch.theta.as_ref(), &[program.thetas()], device)?;
        let inputs = [batch.samples, program.inputs()];
        let inputs = Values::new(op, "inputs", batch.inputs.as_ref(), &inputs, device)?;
        let (device, samples) = (device.clone(), batch.samples);
        Ok(Self { op, program, device, samples, theta, inputs, initial: batch.initial.clone() })
    }

    pub(crate) fn check_output(&self, out: &TensorMut<'_>, width: usize, dtype: DType) -> Result<()> {
        validate::shape(self.op, "out", out.as_ref(), &[self.samples, width])?;
        validate::tensor(self.op, "out", out.as_ref(), dtype, &self.device)?;
        validate::last_contiguous(self.op, "out", out.as_ref())?;
        let (theta, inputs) = (self.theta.view(), self.inputs.view());
        let given =
            [("theta", theta.as_ref()), ("inputs", inputs.as_ref()), ("initial", self.initial.as_ref())];
        let given: Vec<_> = given.into_iter().filter_map(|(arg, tensor)| Some((arg, tensor?))).collect();
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
