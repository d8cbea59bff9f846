//! What one run of a program needs beside the program.

use super::gate::MAX_SLOTS;
use crate::device::Device;
use crate::dtype::DType;
use crate::tensor::TensorRef;

/// What one run of a program needs beside the program: the device, the number of samples, parameter values, initial states.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    /// Where the program runs and its output lives.
    pub device: Device,
    /// Number of samples.
    pub samples: usize,
    /// `[thetas]`, shared by all samples, or `[tasks, thetas]`, a row for each task; f32, or f64 too for c128 states. On `device`
    /// or on the host.
    pub theta: Option<TensorRef<'a>>,
    /// `[samples]` i32, u32 or i64: the task of each sample, where something is given per task. On `device` or on the host.
    pub tasks: Option<TensorRef<'a>>,
    /// `[samples, inputs]`, of the same types. On `device` or on the host.
    pub inputs: Option<TensorRef<'a>>,
    /// What the states start from, read as `start` says; |0…0⟩ if absent.
    pub initial: Option<TensorRef<'a>>,
    /// How `initial` is read.
    pub start: Start,
    /// Element type of the states: c64, or c128 where the backend has it.
    pub dtype: DType,
    /// By slot: `[samples, 2^k, 2^k]` of the states' type on `device`, the matrices of
    /// [`Gate::SampleMatrix`](super::Gate::SampleMatrix).
    pub matrices: Vec<Option<TensorRef<'a>>>,
}

impl<'a> Batch<'a> {
    /// `samples` samples on `device`, without parameters, starting from |0…0⟩.
    pub fn new(device: &Device, samples: usize) -> Self {
        let (theta, tasks, inputs, initial) = (None, None, None, None);
        let (start, dtype, matrices) = (Start::States, DType::C64, Vec::new());
        Self { device: device.clone(), samples, theta, tasks, inputs, initial, start, dtype, matrices }
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

    /// Sets the initial states, `[samples | 1, 2^qubits]` of the states' type. Not normalised for the caller.
    pub fn initial(self, initial: impl Into<TensorRef<'a>>) -> Self {
        Self { initial: Some(initial.into()), start: Start::States, ..self }
    }

    /// Sets an initial state for each task, `[tasks, 2^qubits]` of the states' type: a trainable vector, picked by task id.
    pub fn task_initial(self, initial: impl Into<TensorRef<'a>>) -> Self {
        Self { initial: Some(initial.into()), start: Start::TaskStates, ..self }
    }

    /// Encodes data in amplitudes: rows `[samples | 1, width]` with width ≤ 2^qubits, of the states' type or the matching real
    /// one, divided by their norm and filled up with zeros.
    pub fn amplitudes(self, data: impl Into<TensorRef<'a>>) -> Self {
        Self { initial: Some(data.into()), start: Start::Amplitudes, ..self }
    }

    /// Starts each sample from the basis state of its number, `[samples]` i32, u32 or i64.
    pub fn basis_states(self, numbers: impl Into<TensorRef<'a>>) -> Self {
        Self { initial: Some(numbers.into()), start: Start::Basis, ..self }
    }

    /// Sets the element type of the states: [`DType::C64`] or [`DType::C128`].
    pub fn dtype(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// Element type of real results.
    pub(crate) fn real(&self) -> DType {
        if self.dtype == DType::C128 { DType::F64 } else { DType::F32 }
    }
}

/// How a batch's `initial` is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// A state for each sample, or one for all.
    #[default]
    States,
    /// A state for each task.
    TaskStates,
    /// A row of amplitudes for each sample, or one for all, to be normalised.
    Amplitudes,
    /// The number of a basis state for each sample.
    Basis,
}
