//! Readout of density matrices in memory.

use super::circuit::{MAX_DENSITY_QUBITS, as_vectors};
use crate::device::{Backend, Device};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::random::Stream;
use crate::statevec::lower::odd_bits;
use crate::statevec::pauli::PauliSum;
use crate::statevec::problem::host;
use crate::statevec::readout;
use crate::tensor::{Tensor, TensorRef};
use crate::validate;
use num_complex::Complex32;
use rayon::prelude::*;

/// Density matrices in memory: `[batch, 2^n, 2^n]` c64, each matrix contiguous, on any device.
///
/// They are taken as Hermitian; nothing is normalised.
#[derive(Clone, Debug)]
pub struct DensityBatch<'a> {
    /// `[batch, 4^n]`.
    vectors: TensorRef<'a>,
    samples: usize,
    qubits: usize,
}

/// One Pauli string of an observable.
struct Term {
    x: u32,
    z: u32,
    y: u32,
    coefficient: f64,
}

impl<'a> DensityBatch<'a> {
    /// The matrices of `rho [batch, 2^n, 2^n]` c64.
    ///
    /// # Errors
    /// [`Error::Shape`] if the matrices are not square powers of two of 1 to [`MAX_DENSITY_QUBITS`] qubits, [`Error::DType`],
    /// [`Error::InvalidArgument`] if a matrix is not contiguous.
    pub fn new(rho: &TensorRef<'a>) -> Result<Self> {
        let op = "DensityBatch";
        let wrong = || {
            Error::shape(
                op,
                "rho",
                format!("[batch, 2^n, 2^n], n from 1 to {MAX_DENSITY_QUBITS}"),
                rho.shape(),
            )
        };
        let &[samples, side, _] = rho.shape() else { return Err(wrong()) };
        let qubits = side.trailing_zeros() as usize;
        if !side.is_power_of_two() || qubits == 0 || qubits > MAX_DENSITY_QUBITS {
            return Err(wrong());
        }
        validate::tensor(op, "rho", rho, DType::C64, rho.device())?;
        Ok(Self { vectors: as_vectors(op, "rho", rho, qubits)?, samples, qubits })
    }

    /// Number of qubits.
    pub fn qubits(&self) -> usize {
        self.qubits
    }

    /// Number of matrices.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Tr ρ of every sample, `[batch]` f32.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Unsupported`] if the result does not fit.
    pub fn trace(&self) -> Result<Tensor> {
        let identity = PauliSum::new().plus(1.0, &[])?;
        self.measure("density_trace", &[identity], &[self.samples])
    }

    /// Tr ρ² of every sample, `[batch]` f32: 1 for a pure state, 2⁻ⁿ for the maximally mixed one.
    ///
    /// # Errors
    /// As [`DensityBatch::trace`].
    pub fn purity(&self) -> Result<Tensor> {
        readout::squared_norms("density_purity", &self.vectors)
    }

    /// Tr(ρ·observable), `[batch, observables]` f32.
    ///
    /// # Errors
    /// As [`DensityBatch::trace`]; [`Error::InvalidArgument`] if an observable acts on a qubit there is not.
    pub fn expectations(&self, observables: &[PauliSum]) -> Result<Tensor> {
        let op = "density_expectations";
        check_observables(op, observables, self.qubits)?;
        self.measure(op, observables, &[self.samples, observables.len()])
    }

    /// ρ's diagonal, `[batch, 2^n]` f32.
    ///
    /// # Errors
    /// As [`DensityBatch::trace`].
    pub fn probabilities(&self) -> Result<Tensor> {
        let (device, side) = (self.vectors.device(), 1usize << self.qubits);
        let shape = [self.samples, side];
        if device.backend() == Backend::Cpu {
            let (values, steps) = host::<Complex32>(&self.vectors);
            let element = |at: usize| values[at / side * steps[0] + at % side * (side + 1)].re;
            let diagonal: Vec<f32> = (0..self.samples * side).into_par_iter().map(element).collect();
            return Tensor::from_slice(device, &diagonal, &shape);
        }
        self.read_on_gpu("density_probabilities", &[], &shape, true)
    }

    /// Shots of ρ's diagonal, `[batch, shots]` u32, as [`Program::sample`](crate::statevec::Program::sample).
    ///
    /// Negative elements, which only rounding makes, count by their size.
    ///
    /// # Errors
    /// As [`readout::sample_probabilities`].
    pub fn sample<'s>(&self, shots: usize, stream: impl Into<Stream<'s>>) -> Result<Tensor> {
        readout::sample_probabilities(&self.probabilities()?.view(), shots, stream)
    }

    fn measure(&self, op: &'static str, observables: &[PauliSum], shape: &[usize]) -> Result<Tensor> {
        let device = self.vectors.device();
        if device.backend() != Backend::Cpu {
            return self.read_on_gpu(op, observables, shape, false);
        }
        let side = 1usize << self.qubits;
        let (values, steps) = host::<Complex32>(&self.vectors);
        let terms: Vec<Vec<Term>> = observables.iter().map(terms_of).collect();
        let value = |at: usize| -> f32 {
            let rho = &values[at / terms.len() * steps[0]..];
            let of_term = |term: &Term| -> f64 {
                let part = |row: usize| {
                    let entry = rho[row * side + (row ^ term.x as usize)];
                    // Re(i^y·(u + iv)) is u, −v, −u, v.
                    let part = f64::from(if term.y & 1 == 1 { entry.im } else { entry.re });
                    let negative = odd_bits(row as u32 & term.z) ^ matches!(term.y & 3, 1 | 2);
                    if negative { -part } else { part }
                };
                term.coefficient * (0..side).map(part).sum::<f64>()
            };
            terms[at % terms.len()].iter().map(of_term).sum::<f64>() as f32
        };
        let all: Vec<f32> = (0..self.samples * terms.len()).into_par_iter().map(value).collect();
        Tensor::from_slice(device, &all, shape)
    }

    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    fn read_on_gpu(
        &self,
        op: &'static str,
        observables: &[PauliSum],
        shape: &[usize],
        diagonal: bool,
    ) -> Result<Tensor> {
        use crate::launch::{Operand, launch, wide};
        let device = self.vectors.device();
        let out = Tensor::zeros(device, DType::F32, shape)?;
        let items: usize = shape.iter().product();
        if items >= 1 << 31 {
            let (what, limit, got) = ("numbers of one call", (1u64 << 31).to_string(), items.to_string());
            return Err(Error::Unsupported { op, backend: device.backend(), what, limit, got });
        }
        let table = table(observables);
        let table = Tensor::from_slice(device, &table, &[table.len()])?;
        let (table, result) = (table.view(), out.view());
        let [low, high] = wide(self.vectors.layout().step(0) as u64);
        let params =
            [low, high, self.samples as u32, self.qubits as u32, observables.len() as u32, diagonal.into()];
        let operands = [&self.vectors, &table, &result].map(Operand::Tensor);
        let blocks = if diagonal { (items as u64).div_ceil(128) } else { items as u64 };
        launch(device, op, &crate::manifest::density::READ, &operands, &params, blocks)?;
        drop(result);
        Ok(out)
    }

    #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
    fn read_on_gpu(&self, op: &'static str, _: &[PauliSum], _: &[usize], _: bool) -> Result<Tensor> {
        Err(readout::no_gpu(op, self.vectors.device()))
    }
}

pub(super) fn check_observables(op: &'static str, observables: &[PauliSum], qubits: usize) -> Result<()> {
    match observables.iter().map(PauliSum::qubits).find(|&acts_on| acts_on > qubits) {
        None => Ok(()),
        Some(acts_on) => {
            let reason = format!("act on qubit {}, there are {qubits}", acts_on - 1);
            Err(Error::argument(op, "observables", reason))
        }
    }
}

fn terms_of(sum: &PauliSum) -> Vec<Term> {
    let term = |&(coefficient, string): &(f64, crate::statevec::PauliString)| Term {
        x: string.x,
        z: string.z,
        y: string.y_count(),
        coefficient,
    };
    sum.terms().iter().map(term).collect()
}

/// Observables as the kernels read them: the first word of each one's terms and the end, then {x, z, y, coefficient}.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn table(observables: &[PauliSum]) -> Vec<u32> {
    let mut words = vec![0; observables.len() + 1];
    for (i, sum) in observables.iter().enumerate() {
        words[i] = words.len() as u32;
        for term in terms_of(sum) {
            words.extend([term.x, term.z, term.y, (term.coefficient as f32).to_bits()]);
        }
    }
    words[observables.len()] = words.len() as u32;
    words
}

/// λ = Σ weight·observable as vectors, `[samples, 4^n]` c64. `weights [samples, observables]` f32, rows strided.
pub(super) fn weighted(
    op: &'static str,
    device: &Device,
    observables: &[PauliSum],
    weights: &TensorRef<'_>,
    qubits: usize,
) -> Result<Tensor> {
    let (samples, side) = (weights.shape()[0], 1usize << qubits);
    if device.backend() == Backend::Cpu {
        let (values, steps) = host::<f32>(weights);
        let mut out = vec![Complex32::ZERO; samples * side * side];
        out.par_chunks_mut(side * side).enumerate().for_each(|(sample, matrix)| {
            for (o, sum) in observables.iter().enumerate() {
                for term in terms_of(sum) {
                    let weight = (term.coefficient * f64::from(values[sample * steps[0] + o])) as f32;
                    for column in 0..side {
                        let negative = odd_bits(column as u32 & term.z) ^ (term.y & 2 != 0);
                        let value = if negative { -weight } else { weight };
                        let entry = &mut matrix[(column ^ term.x as usize) * side + column];
                        *entry += if term.y & 1 == 1 {
                            Complex32::new(0.0, value)
                        } else {
                            Complex32::new(value, 0.0)
                        };
                    }
                }
            }
        });
        return Tensor::from_slice(device, &out, &[samples, side * side]);
    }
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    {
        use crate::launch::{Operand, launch, wide};
        let out = Tensor::zeros(device, DType::C64, &[samples, side * side])?;
        let table = table(observables);
        let table = Tensor::from_slice(device, &table, &[table.len()])?;
        let (table, result) = (table.view(), out.view());
        let [low, high] = wide(weights.layout().step(0) as u64);
        let params = [low, high, samples as u32, qubits as u32, observables.len() as u32];
        let operands = [weights, &table, &result].map(Operand::Tensor);
        let blocks = ((samples as u64) << (2 * qubits)).div_ceil(128);
        launch(device, op, &crate::manifest::density::OBSERVABLE, &operands, &params, blocks)?;
        drop(result);
        Ok(out)
    }
    #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
    Err(readout::no_gpu(op, device))
}
