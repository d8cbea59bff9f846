//! Readout on GPUs: which launches a call needs. One source for CUDA and WGSL.

use super::{Part, States};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::launch::{Operand, launch, wide};
use crate::manifest::readout as kernels;
use crate::tensor::{Tensor, TensorRef};

/// Log₂ of the threads of a block.
const BLOCK_BITS: usize = 8;

fn check_count(op: &'static str, device: &Device, what: &'static str, count: u64) -> Result<()> {
    if count < 1 << 31 {
        return Ok(());
    }
    let (limit, got) = ((1u64 << 31).to_string(), count.to_string());
    Err(Error::Unsupported { op, backend: device.backend(), what, limit, got })
}

/// Σ conj(a)·b of every sample of `a` and outcome of `kept`, over the other qubits.
pub(super) fn inner(
    op: &'static str,
    a: &States<'_>,
    b: &States<'_>,
    kept: &[usize],
    part: Part,
    shape: &[usize],
) -> Result<Tensor> {
    let device = a.view.device();
    let length = a.qubits - kept.len();
    let lanes = length.min(BLOCK_BITS);
    let left = length - lanes;
    // 64 amplitudes a thread; more only where that would make more than 4096 splits.
    let steps = left.min(6).max(left.saturating_sub(12));
    let splits = left - steps;
    let groups = (a.samples as u64) << kept.len();
    check_count(op, device, "sums", groups.saturating_mul(1 << splits))?;
    let rest = (0..a.qubits).filter(|q| !kept.contains(q));
    let places: Vec<u32> = rest.chain(kept.iter().copied()).map(|q| q as u32).collect();
    let places = Tensor::from_slice(device, &places, &[places.len()])?;
    let out = Tensor::zeros(device, part.dtype(), shape)?;
    let whole = splits == 0;
    let parts = Tensor::zeros(device, DType::C64, &[if whole { 0 } else { (groups as usize) << splits }])?;
    let (places, result) = (places.view(), if whole { out.view() } else { parts.view() });
    let ([a_low, a_high], [b_low, b_high]) =
        (wide(a.view.layout().step(0) as u64), wide(b.view.layout().step(0) as u64));
    let mode = if whole { part } else { Part::Complex };
    let params = [
        a_low,
        a_high,
        b_low,
        b_high,
        groups as u32,
        kept.len() as u32,
        lanes as u32,
        steps as u32,
        splits as u32,
        mode as u32,
    ];
    let operands = [&a.view, &b.view, &places, &result].map(Operand::Tensor);
    let blocks = groups.div_ceil(1 << (BLOCK_BITS - lanes)) << splits;
    launch(device, op, &kernels::INNER, &operands, &params, blocks)?;
    if !whole {
        join(op, device, &parts, &out, 1 << splits, part)?;
    }
    Ok(out)
}

/// Adds up the splits.
fn join(
    op: &'static str,
    device: &Device,
    parts: &Tensor,
    out: &Tensor,
    splits: usize,
    part: Part,
) -> Result<()> {
    let sums = parts.shape().iter().product::<usize>() / splits;
    let (from, to) = (parts.view(), out.view());
    let operands = [&from, &to].map(Operand::Tensor);
    let params = [sums as u32, splits as u32, part as u32];
    launch(device, op, &kernels::JOIN, &operands, &params, (sums as u64).div_ceil(128))
}

/// What the Gram kernel is given beside its operands.
struct GramCall<'a> {
    /// `[samples, rows, 2^length]`, or states whose `kept` qubits number the rows.
    a: &'a TensorRef<'a>,
    b: &'a TensorRef<'a>,
    kept: &'a [usize],
    samples: usize,
    rows: usize,
    columns: usize,
    length: usize,
    transposed: bool,
    /// Elements from sample to sample and from row to row.
    a_steps: [usize; 2],
    b_steps: [usize; 2],
}

impl GramCall<'_> {
    fn run(&self, op: &'static str, shape: &[usize]) -> Result<Tensor> {
        let device = self.a.device();
        let splits = self.length.saturating_sub(12).min(12);
        let sums = self.samples as u64 * self.rows as u64 * self.columns as u64;
        check_count(op, device, "sums", sums.saturating_mul(1 << splits))?;
        let out = Tensor::zeros(device, DType::C64, shape)?;
        if sums == 0 {
            return Ok(out);
        }
        let mut qubits: Vec<u32> = self.kept.iter().map(|&q| q as u32).collect();
        qubits.sort_unstable();
        qubits.extend(self.kept.iter().map(|&q| q as u32));
        let qubits = Tensor::from_slice(device, &qubits, &[qubits.len()])?;
        let parts =
            Tensor::zeros(device, DType::C64, &[if splits == 0 { 0 } else { (sums as usize) << splits }])?;
        let (table, result) = (qubits.view(), if splits == 0 { out.view() } else { parts.view() });
        let tile = self.rows.min(self.columns).next_power_of_two().trailing_zeros().min(4);
        let mut params: Vec<u32> =
            [self.a_steps, self.b_steps].concat().iter().flat_map(|&step| wide(step as u64)).collect();
        params
            .extend([self.samples, self.rows, self.columns, self.length, self.kept.len()].map(|x| x as u32));
        params.extend([tile, splits as u32, self.transposed.into()]);
        let operands = [self.a, self.b, &table, &result].map(Operand::Tensor);
        let tiles = |count: usize| count.div_ceil(1 << tile) as u64;
        let blocks = (self.samples as u64 * tiles(self.rows) * tiles(self.columns)) << splits;
        check_count(op, device, "tiles", blocks)?;
        launch(device, op, &kernels::GRAM, &operands, &params, blocks)?;
        if splits > 0 {
            join(op, device, &parts, &out, 1 << splits, Part::Complex)?;
        }
        Ok(out)
    }
}

pub(super) fn gram(
    op: &'static str,
    a: &TensorRef<'_>,
    b: &TensorRef<'_>,
    shape: &[usize],
) -> Result<Tensor> {
    let rank = shape.len();
    let steps = |view: &TensorRef<'_>| {
        let sample = if rank == 3 { view.layout().step(0) } else { 0 };
        [sample, view.layout().step(rank - 2)]
    };
    let call = GramCall {
        a,
        b,
        kept: &[],
        samples: if rank == 3 { a.shape()[0] } else { 1 },
        rows: a.shape()[rank - 2],
        columns: b.shape()[rank - 2],
        length: a.shape()[rank - 1].trailing_zeros() as usize,
        transposed: false,
        a_steps: steps(a),
        b_steps: steps(b),
    };
    call.run(op, shape)
}

pub(super) fn reduced(
    op: &'static str,
    states: &States<'_>,
    qubits: &[usize],
    shape: &[usize],
) -> Result<Tensor> {
    if qubits.is_empty() {
        let norms = inner(op, states, states, &[], Part::Complex, shape)?;
        return Ok(norms);
    }
    let side = 1usize << qubits.len();
    let steps = [states.view.layout().step(0), 0];
    let call = GramCall {
        a: &states.view,
        b: &states.view,
        kept: qubits,
        samples: states.samples,
        rows: side,
        columns: side,
        length: states.qubits - qubits.len(),
        // ρ_ij = Σ ψ_i conj(ψ_j) is the Gram matrix of (j, i).
        transposed: true,
        a_steps: steps,
        b_steps: steps,
    };
    call.run(op, shape)
}

pub(super) fn scale_rows(
    op: &'static str,
    states: &States<'_>,
    grads: &TensorRef<'_>,
    overlaps: Option<&TensorRef<'_>>,
    conjugate: bool,
) -> Result<Tensor> {
    let device = states.view.device();
    let out = Tensor::zeros(device, DType::C64, &[states.samples, 1 << states.qubits])?;
    let result = out.view();
    let [low, high] = wide(states.view.layout().step(0) as u64);
    let params =
        [low, high, states.samples as u32, states.qubits as u32, conjugate.into(), overlaps.is_some().into()];
    let overlaps = overlaps.map_or(Operand::Absent, Operand::Tensor);
    let operands =
        [Operand::Tensor(&states.view), Operand::Tensor(grads), overlaps, Operand::Tensor(&result)];
    let blocks = ((states.samples as u64) << states.qubits).div_ceil(256);
    launch(device, op, &kernels::SCALE_ROWS, &operands, &params, blocks)?;
    drop(result);
    Ok(out)
}
