//! Rows of a batch of trajectories: copying, measuring, projecting.

use crate::device::Backend;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
#[cfg(any(feature = "wgpu", feature = "cuda"))]
use crate::launch::{Operand, launch, wide};
#[cfg(any(feature = "wgpu", feature = "cuda"))]
use crate::manifest::readout as kernels;
use crate::statevec::problem::{host, host_rows};
use crate::statevec::readout::sample::{exponent_of, fixed_point, upper_product};
use crate::tensor::{Layout, Tensor, TensorRef};
use num_complex::Complex32;
use rayon::prelude::*;

/// Which row each row comes from or goes to.
#[derive(Clone, Copy)]
enum Mapping<'a> {
    /// From row (first + i) / repeat.
    Repeat { first: usize, repeat: usize },
    /// From row index\[i\].
    Pick(&'a TensorRef<'a>),
    /// To row index\[i\].
    Put(&'a TensorRef<'a>),
}

/// Row (first + i) / repeat of `source [samples, …]` for i below `rows`.
pub(super) fn repeat(
    op: &'static str,
    source: &TensorRef<'_>,
    first: usize,
    rows: usize,
    repeat: usize,
) -> Result<Tensor> {
    let mut shape = source.shape().to_vec();
    shape[0] = rows;
    let mut out = Tensor::zeros(source.device(), source.dtype(), &shape)?;
    // The kernel divides 64-bit numbers on CUDA only; shaders start at the first row that is wanted.
    let skipped = first / repeat;
    let source = source.narrow(0, skipped, source.shape()[0] - skipped)?;
    copy(op, &source, Mapping::Repeat { first: first - skipped * repeat, repeat }, rows, &mut out)?;
    Ok(out)
}

/// The listed rows of `source [rows, …]`.
pub(super) fn pick(op: &'static str, source: &TensorRef<'_>, index: &TensorRef<'_>) -> Result<Tensor> {
    let rows = index.shape()[0];
    let mut shape = source.shape().to_vec();
    shape[0] = rows;
    let mut out = Tensor::zeros(source.device(), source.dtype(), &shape)?;
    copy(op, source, Mapping::Pick(index), rows, &mut out)?;
    Ok(out)
}

/// Writes the rows of `source` to the listed rows of `out`.
pub(super) fn put(
    op: &'static str,
    source: &TensorRef<'_>,
    index: &TensorRef<'_>,
    out: &mut Tensor,
) -> Result<()> {
    copy(op, source, Mapping::Put(index), index.shape()[0], out)
}

fn copy(
    op: &'static str,
    source: &TensorRef<'_>,
    mapping: Mapping<'_>,
    rows: usize,
    out: &mut Tensor,
) -> Result<()> {
    // Ids are rows of one element; matrices are contiguous.
    let as_rows = |view: &TensorRef<'_>| -> Result<Layout> {
        let layout = view.layout();
        match *layout.shape() {
            [rows, columns] => {
                Layout::new(&[rows, columns], &[layout.step(0), layout.step(1)], layout.offset())
            }
            [rows, a, b] => Layout::new(&[rows, a * b], &[layout.step(0), 1], layout.offset()),
            _ => Layout::new(&[layout.shape()[0], 1], &[layout.step(0), 1], layout.offset()),
        }
    };
    let source = source.with_layout(as_rows(source)?)?;
    if rows == 0 || source.shape()[1] == 0 {
        return Ok(());
    }
    if source.device().backend() == Backend::Cpu {
        return match source.dtype() {
            DType::C64 => copy_cpu::<Complex32>(&source, mapping, rows, out),
            DType::F32 => copy_cpu::<f32>(&source, mapping, rows, out),
            DType::I64 => copy_cpu::<i64>(&source, mapping, rows, out),
            DType::I32 => copy_cpu::<i32>(&source, mapping, rows, out),
            DType::U32 => copy_cpu::<u32>(&source, mapping, rows, out),
            got => Err(Error::DType { op, arg: "source", expected: "f32, c64 or integers".into(), got }),
        };
    }
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    {
        let (words, width) = (source.dtype().size() / 4, source.shape()[1]);
        let result = out.view();
        let elements = rows as u64 * width as u64;
        let [source_low, source_high] = wide((source.layout().step(0) * words) as u64);
        let [out_low, out_high] = wide((width * words) as u64);
        let [count_low, count_high] = wide(elements);
        let (mode, index, first, repeat) = match mapping {
            Mapping::Repeat { first, repeat } => (0, Operand::Absent, first, repeat),
            Mapping::Pick(index) => (1, Operand::Tensor(index), 0, 1),
            Mapping::Put(index) => (2, Operand::Tensor(index), 0, 1),
        };
        let [first_low, first_high] = wide(first as u64);
        let column_step = source.layout().step(1) as u32;
        let params = [
            source_low,
            source_high,
            out_low,
            out_high,
            column_step,
            words as u32,
            count_low,
            count_high,
            width as u32,
            mode,
            first_low,
            first_high,
            repeat as u32,
        ];
        let operands = [Operand::Tensor(&source), index, Operand::Tensor(&result)];
        launch(source.device(), op, &kernels::ROWS, &operands, &params, elements.div_ceil(256))
    }
    #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
    Err(crate::statevec::readout::no_gpu(op, source.device()))
}

fn copy_cpu<T: Element>(
    source: &TensorRef<'_>,
    mapping: Mapping<'_>,
    rows: usize,
    out: &mut Tensor,
) -> Result<()> {
    let (values, steps) = host::<T>(source);
    let width = source.shape()[1];
    let read = |row: usize, out: &mut [T]| {
        let from = &values[row * steps[0]..];
        if steps[1] == 1 {
            out.copy_from_slice(&from[..width]);
        } else {
            out.iter_mut().enumerate().for_each(|(column, out)| *out = from[column * steps[1]]);
        }
    };
    let count: usize = out.shape().iter().product();
    let mut view = out.view_mut().with_layout(Layout::contiguous(&[1, count])?)?;
    let (out, _) = host_rows::<T>(&mut view);
    match mapping {
        Mapping::Repeat { first, repeat } => {
            let row = |(i, out): (usize, &mut [T])| read((first + i) / repeat, out);
            out.par_chunks_mut(width).take(rows).enumerate().for_each(row);
        }
        Mapping::Pick(index) => {
            let (index, _) = host::<u32>(index);
            out.par_chunks_mut(width).zip(index).for_each(|(out, &row)| read(row as usize, out));
        }
        Mapping::Put(index) => {
            let (index, _) = host::<u32>(index);
            for (i, &row) in index.iter().enumerate() {
                read(i, &mut out[row as usize * width..][..width]);
            }
        }
    }
    Ok(())
}

/// The outcome of every trajectory, `[rows, 2]` u32: 0 or 1, and the bits of the factor that restores the norm.
pub(super) fn measure(
    op: &'static str,
    weights: &TensorRef<'_>,
    ids: &TensorRef<'_>,
    stream: &TensorRef<'_>,
    event: u32,
) -> Result<Tensor> {
    let device = weights.device();
    let rows = weights.shape()[0];
    if device.backend() == Backend::Cpu {
        let (seed, offset) = crate::random::Stream::Device(stream.clone()).values(op)?;
        let ((weights, _), (ids, _)) = (host::<f32>(weights), host::<i64>(ids));
        let offset = offset.wrapping_add(event.into());
        let decide = |(row, weights): (usize, &[f32])| -> Result<[u32; 2]> {
            let exponent = exponent_of(weights[0] + weights[1]).ok_or_else(|| {
                let reason = format!("of trajectory {} have norm {}", ids[row], weights[0] + weights[1]);
                Error::argument(op, "states", reason)
            })?;
            let below = fixed_point(weights[0], exponent);
            let total = below + fixed_point(weights[1], exponent);
            let words = crate::random::block(seed, offset, ids[row] as u64);
            let one = upper_product(u64::from(words[1]) << 32 | u64::from(words[0]), total) >= below;
            let factor = 1.0 / weights[usize::from(one)].sqrt();
            Ok([one.into(), factor.to_bits()])
        };
        let decisions = weights.par_chunks(2).enumerate().map(decide).collect::<Result<Vec<_>>>()?;
        return Tensor::from_slice(device, bytemuck::cast_slice::<_, u32>(&decisions), &[rows, 2]);
    }
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    {
        let out = Tensor::zeros(device, DType::U32, &[rows, 2])?;
        let result = out.view();
        let [stream, weights, ids, decisions] = [stream, weights, ids, &result].map(Operand::Tensor);
        let operands = [stream, weights, ids, decisions, Operand::Status];
        let blocks = (rows as u64).div_ceil(128);
        launch(device, op, &kernels::MEASURE, &operands, &[rows as u32, event], blocks)?;
        drop(result);
        Ok(out)
    }
    #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
    Err(crate::statevec::readout::no_gpu(op, device))
}

/// Projects every state on its outcome, in place; a reset moves it to |0⟩.
pub(super) fn collapse(
    op: &'static str,
    states: &mut Tensor,
    decisions: &TensorRef<'_>,
    qubit: usize,
    reset: bool,
) -> Result<()> {
    let amplitudes = states.shape()[1];
    if states.device().backend() == Backend::Cpu {
        let (decisions, _) = host::<u32>(decisions);
        let mut view = states.view_mut();
        let (rows, _) = host_rows::<Complex32>(&mut view);
        let half = 1usize << qubit;
        rows.par_chunks_mut(amplitudes).zip(decisions.par_chunks(2)).for_each(|(state, decision)| {
            let (one, factor) = (decision[0] == 1, f32::from_bits(decision[1]));
            for pair in state.chunks_mut(2 * half) {
                let (zeros, ones) = pair.split_at_mut(half);
                for (a0, a1) in zeros.iter_mut().zip(ones) {
                    let kept = if one { *a1 } else { *a0 } * factor;
                    (*a0, *a1) =
                        if one && !reset { (Complex32::ZERO, kept) } else { (kept, Complex32::ZERO) };
                }
            }
        });
        return Ok(());
    }
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    {
        let (rows, qubits) = (states.shape()[0], amplitudes.trailing_zeros());
        let view = states.view();
        let operands = [&view, decisions].map(Operand::Tensor);
        let params = [rows as u32, qubits, qubit as u32, reset.into()];
        let blocks = (rows as u64 * amplitudes as u64 / 2).div_ceil(256);
        launch(states.device(), op, &kernels::COLLAPSE, &operands, &params, blocks)
    }
    #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
    Err(crate::statevec::readout::no_gpu(op, states.device()))
}
