//! Readout on the CPU.

use super::{Part, States};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::statevec::problem::{host, host_rows};
use crate::tensor::{Tensor, TensorMut, TensorRef};
use num_complex::{Complex32, Complex64};
use rayon::prelude::*;

/// Amplitudes of one task.
const TASK: usize = 1 << 14;
/// Products that are added up in f32, sixteen sums side by side, before they join the f64 sum.
const BLOCK: usize = 256;
const LANES: usize = 16;

/// Σ conj(a)·b of two rows of equal length.
struct Inner<'a> {
    a: &'a [Complex32],
    b: &'a [Complex32],
}

impl pulp::NullaryFnOnce for Inner<'_> {
    type Output = Complex64;

    #[inline(always)]
    fn call(self) -> Complex64 {
        let mut total = Complex64::ZERO;
        for (a, b) in self.a.chunks(BLOCK).zip(self.b.chunks(BLOCK)) {
            let (mut re, mut im) = ([0.0f32; LANES], [0.0f32; LANES]);
            let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
            for (a, b) in a.iter().zip(b) {
                for lane in 0..LANES {
                    re[lane] += a[lane].re * b[lane].re + a[lane].im * b[lane].im;
                    im[lane] += a[lane].re * b[lane].im - a[lane].im * b[lane].re;
                }
            }
            for (a, b) in a_rest.iter().zip(b_rest) {
                re[0] += a.re * b.re + a.im * b.im;
                im[0] += a.re * b.im - a.im * b.re;
            }
            let sum = |lanes: [f32; LANES]| lanes.into_iter().map(f64::from).sum::<f64>();
            total += Complex64::new(sum(re), sum(im));
        }
        total
    }
}

fn inner(a: &[Complex32], b: &[Complex32]) -> Complex64 {
    pulp::Arch::new().dispatch(Inner { a, b })
}

/// The same of long rows, in parallel tasks whose sums are added in order.
fn long_inner(a: &[Complex32], b: &[Complex32]) -> Complex64 {
    if a.len() <= TASK {
        return inner(a, b);
    }
    let tasks: Vec<Complex64> =
        a.par_chunks(TASK).zip(b.par_chunks(TASK)).map(|(a, b)| inner(a, b)).collect();
    tasks.into_iter().sum()
}

fn single(value: Complex64) -> Complex32 {
    Complex32::new(value.re as f32, value.im as f32)
}

pub(super) fn overlaps(a: &States<'_>, b: &States<'_>, samples: usize, part: Part) -> Result<Tensor> {
    let amplitudes = 1usize << a.qubits;
    let ((a, a_steps), (b, b_steps)) = (host::<Complex32>(&a.view), host::<Complex32>(&b.view));
    let row = |values: &'_ [Complex32], step: usize, sample: usize| {
        sample * step..sample * step + amplitudes.min(values.len())
    };
    let of = |sample: usize| long_inner(&a[row(a, a_steps[0], sample)], &b[row(b, b_steps[0], sample)]);
    let all: Vec<Complex64> = (0..samples).into_par_iter().map(of).collect();
    let cpu = Device::cpu();
    match part {
        Part::Complex => {
            Tensor::from_slice(&cpu, &all.into_iter().map(single).collect::<Vec<_>>(), &[samples])
        }
        _ => {
            let real = |value: Complex64| if part == Part::Real { value.re } else { value.norm_sqr() };
            let values: Vec<f32> = all.into_iter().map(|value| real(value) as f32).collect();
            Tensor::from_slice(&cpu, &values, &[samples])
        }
    }
}

/// Log₂ of the amplitudes that lie together in a marginal's task.
const LOW_BITS: usize = 10;
/// Log₂ of the runs of 2^LOW_BITS amplitudes that a task adds up.
const TASK_RUNS: usize = 6;

/// Value whose bit `places[i]` is bit i of `value`.
fn spread(places: &[usize], value: usize) -> usize {
    places.iter().enumerate().map(|(i, place)| (value >> i & 1) << place).sum()
}

pub(super) fn marginals(states: &States<'_>, qubits: &[usize], out: &mut TensorMut<'_>) {
    let (values, steps) = host::<Complex32>(&states.view);
    let (out, _) = host_rows::<f32>(out);
    if out.is_empty() {
        return;
    }
    let (n, outcomes) = (states.qubits, 1usize << qubits.len());
    if qubits.len() == n && qubits.iter().enumerate().all(|(i, &q)| i == q) {
        out.par_chunks_mut(outcomes.min(TASK)).enumerate().for_each(|(task, out)| {
            let first = task * out.len();
            let from = first / outcomes * steps[0] + first % outcomes;
            out.iter_mut().zip(&values[from..]).for_each(|(out, a)| *out = a.re * a.re + a.im * a.im);
        });
        return;
    }
    let low = n.min(LOW_BITS);
    let is_low = |qubit: &usize| *qubit < low;
    // (place in the state, place in the outcome) of the listed qubits in the low and in the high bits of the index.
    let listed = |want_low: bool| -> (Vec<usize>, Vec<usize>) {
        qubits.iter().enumerate().filter(|(_, q)| is_low(q) == want_low).map(|(i, &q)| (q, i)).unzip()
    };
    let ((low_places, low_outcomes), (high_places, high_outcomes)) = (listed(true), listed(false));
    let rest: Vec<usize> = (low..n).filter(|q| !qubits.contains(q)).collect();
    let (inner, outer) = rest.split_at(rest.len().min(TASK_RUNS));
    let fold: Vec<u32> = (0..1usize << low)
        .map(|x| low_places.iter().enumerate().map(|(i, &place)| ((x >> place & 1) << i) as u32).sum())
        .collect();
    let kept = 1usize << low_places.len();
    let splits = 1usize << outer.len();
    let groups = states.samples << high_places.len();
    let task = |item: usize| -> Vec<f64> {
        let (group, split) = (item / splits, item % splits);
        let sample = group >> high_places.len();
        let high = spread(&high_places, group & ((1 << high_places.len()) - 1)) | spread(outer, split);
        let row = &values[sample * steps[0]..];
        let mut sums = vec![0.0f64; 1 << low];
        for run in 0..1usize << inner.len() {
            let first = high | spread(inner, run);
            for (sum, a) in sums.iter_mut().zip(&row[first..first + (1 << low)]) {
                *sum += f64::from(a.re * a.re + a.im * a.im);
            }
        }
        let mut folded = vec![0.0; kept];
        for (sum, &to) in sums.iter().zip(&fold) {
            folded[to as usize] += sum;
        }
        folded
    };
    // A group's splits one after another, groups at a time so that their parts need little memory.
    let batch = (1usize << 16).div_ceil(splits).max(1);
    for first in (0..groups).step_by(batch) {
        let count = batch.min(groups - first);
        let parts: Vec<Vec<f64>> =
            (first * splits..(first + count) * splits).into_par_iter().map(task).collect();
        for (i, parts) in parts.chunks(splits).enumerate() {
            let group = first + i;
            let sample = group >> high_places.len();
            let high = spread(&high_outcomes, group & ((1 << high_places.len()) - 1));
            for low in 0..kept {
                let sum: f64 = parts.iter().map(|part| part[low]).sum();
                out[sample * outcomes + (high | spread(&low_outcomes, low))] = sum as f32;
            }
        }
    }
}

pub(super) fn gram(a: &TensorRef<'_>, b: &TensorRef<'_>, shape: &[usize]) -> Result<Tensor> {
    let mut out = Tensor::zeros(a.device(), DType::C64, shape)?;
    let rank = shape.len();
    let (rows, columns, amplitudes) = (a.shape()[rank - 2], b.shape()[rank - 2], a.shape()[rank - 1]);
    let ((a, a_steps), (b, b_steps)) = (host::<Complex32>(a), host::<Complex32>(b));
    let mut view = out.view_mut();
    let flat = crate::Layout::contiguous(&[1, shape.iter().product()])?;
    let mut view = view.reborrow().with_layout(flat)?;
    let (values, _) = host_rows::<Complex32>(&mut view);
    if values.is_empty() {
        return Ok(out);
    }
    // Tiles of pairs whose rows stay in the first cache levels.
    const SIDE: usize = 8;
    let sample_step = |steps: &[usize]| if rank == 3 { steps[0] } else { 0 };
    let row_step = |steps: &[usize]| steps[rank - 2];
    values.par_chunks_mut(columns).enumerate().for_each(|(at, out)| {
        let (sample, i) = (at / rows, at % rows);
        let from = sample * sample_step(&a_steps) + i * row_step(&a_steps);
        let row = &a[from..from + amplitudes];
        let mut sums = vec![Complex64::ZERO; columns.min(SIDE)];
        for first in (0..columns).step_by(SIDE) {
            let count = SIDE.min(columns - first);
            sums.fill(Complex64::ZERO);
            for block in (0..amplitudes).step_by(TASK) {
                let end = (block + TASK).min(amplitudes);
                for j in 0..count {
                    let from = sample * sample_step(&b_steps) + (first + j) * row_step(&b_steps);
                    sums[j] += inner(&row[block..end], &b[from + block..from + end]);
                }
            }
            out[first..first + count].iter_mut().zip(&sums).for_each(|(out, &sum)| *out = single(sum));
        }
    });
    Ok(out)
}

pub(super) fn reduced(states: &States<'_>, qubits: &[usize], shape: &[usize]) -> Result<Tensor> {
    let side = 1usize << qubits.len();
    let (values, steps) = host::<Complex32>(&states.view);
    let rest: Vec<usize> = (0..states.qubits).filter(|q| !qubits.contains(q)).collect();
    let length = 1usize << rest.len();
    let chunk = length.min(BLOCK);
    let offsets: Vec<usize> = (0..chunk).map(|r| spread(&rest, r)).collect();
    let chunks = length / chunk;
    // Rows of the state gathered side by side, and the products of all pairs of them.
    let task = |item: usize| -> Vec<Complex64> {
        let (sample, part) = (item / chunks, item % chunks);
        let state = &values[sample * steps[0]..];
        let first = spread(&rest, part * chunk);
        let mut rows = vec![Complex32::ZERO; side * chunk];
        for (i, row) in rows.chunks_mut(chunk).enumerate() {
            let from = first | spread(qubits, i);
            row.iter_mut().zip(&offsets).for_each(|(out, offset)| *out = state[from | offset]);
        }
        let row = |i: usize| &rows[i * chunk..(i + 1) * chunk];
        let mut sums = vec![Complex64::ZERO; side * side];
        for i in 0..side {
            for j in 0..=i {
                sums[i * side + j] = inner(row(j), row(i));
            }
        }
        sums
    };
    let mut out = vec![Complex32::ZERO; states.samples * side * side];
    let batch = (1usize << 10).div_ceil(chunks).max(1);
    for first in (0..states.samples).step_by(batch) {
        let count = batch.min(states.samples - first);
        // Sixteen chunks at a time in order, so that a long sum keeps few parts.
        let parts: Vec<Vec<Complex64>> = (first * chunks..(first + count) * chunks)
            .into_par_iter()
            .chunks(chunks.min(16))
            .map(|items| {
                let mut total = vec![Complex64::ZERO; side * side];
                for item in items {
                    total.iter_mut().zip(task(item)).for_each(|(total, sum)| *total += sum);
                }
                total
            })
            .collect();
        for (s, parts) in parts.chunks(chunks.div_ceil(16)).enumerate() {
            let out = &mut out[(first + s) * side * side..][..side * side];
            for i in 0..side {
                for j in 0..=i {
                    let sum = single(parts.iter().map(|part| part[i * side + j]).sum());
                    out[i * side + j] = sum;
                    out[j * side + i] = sum.conj();
                }
            }
        }
    }
    Tensor::from_slice(&Device::cpu(), &out, shape)
}

pub(super) fn scale_rows(
    states: &States<'_>,
    grads: &TensorRef<'_>,
    overlaps: Option<&TensorRef<'_>>,
    conjugate: bool,
) -> Result<Tensor> {
    let factors: Vec<Complex32> = match overlaps {
        None => host::<Complex32>(grads).0.to_vec(),
        Some(overlaps) => {
            let both = host::<f32>(grads).0.iter().zip(host::<Complex32>(overlaps).0);
            both.map(|(grad, overlap)| overlap * (2.0 * grad)).collect()
        }
    };
    let amplitudes = 1usize << states.qubits;
    let (values, steps) = host::<Complex32>(&states.view);
    let mut out = Tensor::zeros(states.device(), DType::C64, &[states.samples, amplitudes])?;
    let mut view = out.view_mut();
    let (rows, _) = host_rows::<Complex32>(&mut view);
    rows.par_chunks_mut(amplitudes).enumerate().for_each(|(sample, out)| {
        let f = if conjugate { factors[sample].conj() } else { factors[sample] };
        out.iter_mut().zip(&values[sample * steps[0]..]).for_each(|(out, a)| *out = f * a);
    });
    Ok(out)
}
