//! Readout of states that lie in memory: `[batch, 2^n]` c64 on any device, whatever made them.
//!
//! Qubit 0 is the least significant bit of an amplitude's index, and the first listed qubit that of an outcome's. States are
//! taken as they are: nothing is normalised, except that shots follow the distribution proportional to |amplitude|². Sums run
//! pairwise in an order that depends on the sizes alone: a sample's bits are the same in every batch.
//!
//! | call | result |
//! |---|---|
//! | [`probabilities`], [`marginals`] | squared amplitudes of every basis state, or summed over other qubits |
//! | [`sample_states`], [`sample_probabilities`], [`Program::sample`](super::Program::sample) | shots |
//! | [`expectations`] | Pauli sums |
//! | [`reduced_density_matrix`] | partial trace over the other qubits |
//! | [`overlaps`], [`fidelity`], [`gram`] | ⟨a\|b⟩, its squared norm, all pairs of two batches |
//! | [`overlaps_backward`], [`fidelity_backward`] | gradients by both states |

mod cpu;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod gpu;
pub(crate) mod sample;

pub use sample::{bitstring, counts, sample_probabilities, sample_states};

use super::circuit::{Circuit, MAX_QUBITS};
use super::pauli::PauliSum;
use super::problem::Batch;
use crate::device::{Backend, Device};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, TensorRef};
use crate::validate;

/// Most qubits of a [`reduced_density_matrix`].
pub const MAX_REDUCED_QUBITS: usize = 6;

/// What a sum of products is turned into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Part {
    Complex = 0,
    Real = 1,
    SquaredNorm = 2,
}

impl Part {
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    fn dtype(self) -> DType {
        if self == Self::Complex { DType::C64 } else { DType::F32 }
    }
}

/// Validated states.
#[derive(Clone)]
pub(crate) struct States<'a> {
    pub(crate) view: TensorRef<'a>,
    pub(crate) samples: usize,
    pub(crate) qubits: usize,
}

impl<'a> States<'a> {
    pub(crate) fn new(op: &'static str, arg: &'static str, view: &TensorRef<'a>) -> Result<Self> {
        let wrong = || Error::shape(op, arg, "[batch, 2^n] with n from 1 to 30", view.shape());
        let &[samples, amplitudes] = view.shape() else { return Err(wrong()) };
        let qubits = amplitudes.trailing_zeros() as usize;
        if !amplitudes.is_power_of_two() || qubits == 0 || qubits > MAX_QUBITS {
            return Err(wrong());
        }
        validate::tensor(op, arg, view, DType::C64, view.device())?;
        validate::last_contiguous(op, arg, view)?;
        Ok(Self { view: view.clone(), samples, qubits })
    }

    fn device(&self) -> &Device {
        self.view.device()
    }

    fn is_on_cpu(&self) -> bool {
        self.device().backend() == Backend::Cpu
    }
}

/// Distinct qubits of a state, at most `most` of them.
fn check_qubits(op: &'static str, qubits: &[usize], of: usize, most: usize) -> Result<()> {
    if qubits.len() > most {
        let reason = format!("names {} qubits, at most {most} are possible", qubits.len());
        return Err(Error::argument(op, "qubits", reason));
    }
    for (i, &qubit) in qubits.iter().enumerate() {
        if qubit >= of {
            return Err(Error::argument(op, "qubits", format!("names qubit {qubit}, the states have {of}")));
        }
        if qubits[..i].contains(&qubit) {
            return Err(Error::argument(op, "qubits", format!("names qubit {qubit} twice")));
        }
    }
    Ok(())
}

/// |amplitude|² of every basis state of `states [batch, 2^n]` c64: `[batch, 2^n]` f32.
///
/// # Errors
/// [`Error::Shape`], [`Error::DType`], [`Error::InvalidArgument`] (a last dimension that is not contiguous);
/// [`Error::OutOfMemory`], [`Error::Unsupported`] if the result does not fit.
pub fn probabilities(states: &TensorRef<'_>) -> Result<Tensor> {
    let states = States::new("statevec_probabilities", "states", states)?;
    let all: Vec<usize> = (0..states.qubits).collect();
    outcome_weights("statevec_probabilities", &states, &all)
}

/// Probabilities of the joint outcomes of some qubits, the others summed over: `[batch, 2^qubits]` f32.
///
/// `states [batch, 2^n]` c64; the first listed qubit is the least significant bit of the outcome. No qubits: the squared norm.
///
/// # Errors
/// As [`probabilities`]; [`Error::InvalidArgument`] for a qubit out of range or listed twice.
pub fn marginals(states: &TensorRef<'_>, qubits: &[usize]) -> Result<Tensor> {
    let op = "statevec_marginals";
    let states = States::new(op, "states", states)?;
    check_qubits(op, qubits, states.qubits, states.qubits)?;
    outcome_weights(op, &states, qubits)
}

/// The checked core of [`marginals`].
pub(crate) fn outcome_weights(op: &'static str, states: &States<'_>, qubits: &[usize]) -> Result<Tensor> {
    let shape = [states.samples, 1 << qubits.len()];
    if states.is_on_cpu() {
        let mut out = Tensor::zeros(states.device(), DType::F32, &shape)?;
        cpu::marginals(states, qubits, &mut out.view_mut());
        return Ok(out);
    }
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    return gpu::inner(op, states, states, qubits, Part::Real, &shape);
    #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
    Err(no_gpu(op, states.device()))
}

/// Two batches of states on one device with equally many qubits; one of them may be a single state, used for every sample.
fn pair<'a>(
    op: &'static str,
    a: &TensorRef<'a>,
    b: &TensorRef<'a>,
) -> Result<(States<'a>, States<'a>, usize)> {
    let (a, b) = (States::new(op, "a", a)?, States::new(op, "b", b)?);
    validate::tensor(op, "b", &b.view, DType::C64, a.device())?;
    let samples = if a.samples == 1 { b.samples } else { a.samples };
    if a.qubits != b.qubits || (b.samples != samples && b.samples != 1) {
        let expected = format!("[{} or 1, {}]", a.samples, 1usize << a.qubits);
        return Err(Error::shape(op, "b", expected, b.view.shape()));
    }
    Ok((a, b, samples))
}

fn products(op: &'static str, a: &TensorRef<'_>, b: &TensorRef<'_>, part: Part) -> Result<Tensor> {
    let (a, b, samples) = pair(op, a, b)?;
    if a.is_on_cpu() {
        return cpu::overlaps(&a, &b, samples, part);
    }
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    {
        // The kernel takes the number of groups from the first operand.
        let mut first = a.clone();
        first.samples = samples;
        gpu::inner(op, &first, &b, &[], part, &[samples])
    }
    #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
    Err(no_gpu(op, a.device()))
}

/// ⟨a|b⟩ of each sample: `[batch]` c64. `a`, `b`: `[batch | 1, 2^n]` c64 on one device.
///
/// # Errors
/// As [`probabilities`]; [`Error::Device`]; [`Error::Shape`] if the batches do not match.
pub fn overlaps(a: &TensorRef<'_>, b: &TensorRef<'_>) -> Result<Tensor> {
    products("statevec_overlaps", a, b, Part::Complex)
}

/// |⟨a|b⟩|² of each sample: `[batch]` f32. `a`, `b`: `[batch | 1, 2^n]` c64 on one device.
///
/// # Errors
/// As [`overlaps`].
pub fn fidelity(a: &TensorRef<'_>, b: &TensorRef<'_>) -> Result<Tensor> {
    products("statevec_fidelity", a, b, Part::SquaredNorm)
}

/// Gradients of a real L by both states of [`overlaps`]: `(da, db)`, each `[batch, 2^n]` c64.
///
/// `a`, `b`: `[batch, 2^n]` c64; `grads [batch]` c64, contiguous. Gradients of complex numbers are ∂L/∂Re + i·∂L/∂Im, so that
/// da = conj(g)·b and db = g·a.
///
/// # Errors
/// As [`overlaps`]; [`Error::Shape`] if a batch is broadcast, or `grads` is not one number a sample.
pub fn overlaps_backward(
    a: &TensorRef<'_>,
    b: &TensorRef<'_>,
    grads: &TensorRef<'_>,
) -> Result<(Tensor, Tensor)> {
    backward("statevec_overlaps_backward", a, b, grads, None)
}

/// Gradients by both states of [`fidelity`]: `(da, db)`, each `[batch, 2^n]` c64, with the convention of [`overlaps_backward`]:
/// da = 2g·conj(⟨a|b⟩)·b and db = 2g·⟨a|b⟩·a.
///
/// `a`, `b`: `[batch, 2^n]` c64; `grads [batch]` f32, contiguous.
///
/// # Errors
/// As [`overlaps_backward`].
pub fn fidelity_backward(
    a: &TensorRef<'_>,
    b: &TensorRef<'_>,
    grads: &TensorRef<'_>,
) -> Result<(Tensor, Tensor)> {
    let op = "statevec_fidelity_backward";
    let overlaps = products(op, a, b, Part::Complex)?;
    backward(op, a, b, grads, Some(&overlaps.view()))
}

fn backward(
    op: &'static str,
    a: &TensorRef<'_>,
    b: &TensorRef<'_>,
    grads: &TensorRef<'_>,
    overlaps: Option<&TensorRef<'_>>,
) -> Result<(Tensor, Tensor)> {
    let (a, b, samples) = pair(op, a, b)?;
    for (arg, states) in [("a", &a), ("b", &b)] {
        validate::shape(op, arg, &states.view, &[samples, 1 << a.qubits])?;
    }
    validate::shape(op, "grads", grads, &[samples])?;
    let dtype = if overlaps.is_some() { DType::F32 } else { DType::C64 };
    validate::tensor(op, "grads", grads, dtype, a.device())?;
    validate::contiguous(op, "grads", grads)?;
    let scaled = |states: &States<'_>, conjugate: bool| -> Result<Tensor> {
        if states.is_on_cpu() {
            return cpu::scale_rows(states, grads, overlaps, conjugate);
        }
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        return gpu::scale_rows(op, states, grads, overlaps, conjugate);
        #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
        Err(no_gpu(op, states.device()))
    };
    Ok((scaled(&b, true)?, scaled(&a, false)?))
}

/// Gram matrix ⟨a_i|b_j⟩ of two batches of states: `[A, B]` c64 from `a [A, N]`, `b [B, N]`, or `[batch, A, B]` from
/// `a [batch, A, N]`, `b [batch, B, N]` (N = 2^n).
///
/// # Errors
/// As [`overlaps`].
pub fn gram(a: &TensorRef<'_>, b: &TensorRef<'_>) -> Result<Tensor> {
    let op = "statevec_gram";
    let rank = a.shape().len();
    let amplitudes = a.shape().last().copied().unwrap_or(0);
    let states = |view: &TensorRef<'_>| {
        matches!(view.shape().len(), 2 | 3)
            && amplitudes.is_power_of_two()
            && (2..=1 << MAX_QUBITS).contains(&amplitudes)
    };
    if !states(a) {
        return Err(Error::shape(op, "a", "[batch, 2^n] or [samples, batch, 2^n]", a.shape()));
    }
    let fits = b.shape().len() == rank
        && b.shape()[rank - 1] == amplitudes
        && b.shape()[..rank - 2] == a.shape()[..rank - 2];
    if !fits {
        let mut expected = a.shape().iter().map(ToString::to_string).collect::<Vec<_>>();
        expected[rank - 2] = "any".into();
        return Err(Error::shape(op, "b", format!("[{}]", expected.join(", ")), b.shape()));
    }
    for (arg, view) in [("a", a), ("b", b)] {
        validate::tensor(op, arg, view, DType::C64, a.device())?;
        validate::last_contiguous(op, arg, view)?;
    }
    let mut shape = a.shape().to_vec();
    shape[rank - 1] = b.shape()[rank - 2];
    if a.device().backend() == Backend::Cpu {
        return cpu::gram(a, b, &shape);
    }
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    return gpu::gram(op, a, b, &shape);
    #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
    Err(no_gpu(op, a.device()))
}

/// Partial trace of |ψ⟩⟨ψ| over all but the listed qubits: `[batch, 2^k, 2^k]` c64, k ≤ [`MAX_REDUCED_QUBITS`].
///
/// `states [batch, 2^n]` c64. Row and column index have the first listed qubit as their least significant bit.
///
/// # Errors
/// As [`marginals`].
pub fn reduced_density_matrix(states: &TensorRef<'_>, qubits: &[usize]) -> Result<Tensor> {
    let op = "statevec_reduced_density_matrix";
    let states = States::new(op, "states", states)?;
    check_qubits(op, qubits, states.qubits, MAX_REDUCED_QUBITS)?;
    let shape = [states.samples, 1 << qubits.len(), 1 << qubits.len()];
    if states.is_on_cpu() {
        return cpu::reduced(&states, qubits, &shape);
    }
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    return gpu::reduced(op, &states, qubits, &shape);
    #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
    Err(no_gpu(op, states.device()))
}

/// ⟨ψ|observable|ψ⟩ of every state and observable: `[batch, observables]` f32, many observables in one pass.
///
/// # Errors
/// As [`probabilities`]; [`Error::InvalidArgument`] if an observable acts on a qubit the states do not have.
pub fn expectations(states: &TensorRef<'_>, observables: &[PauliSum]) -> Result<Tensor> {
    let given = States::new("statevec_expectations", "states", states)?;
    let program = Circuit::new(given.qubits)?.compile()?;
    let batch = Batch::new(given.device(), given.samples).initial(given.view.clone());
    program.expectations(&batch, observables)
}

/// No other device can be there in such a build; this is the error if one were.
#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
pub(crate) fn no_gpu(op: &'static str, device: &Device) -> Error {
    Error::Device { op, arg: "states", expected: "cpu".into(), got: device.name() }
}
