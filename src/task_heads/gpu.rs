//! Steps over rows on a GPU, dense or packed, of any element type attention takes there: one launch each, written once for both twins.

use super::problem::Sizes;
use super::rows::Starts;
use super::steps::{Delta, Fill, Owner, RowSum};
use crate::call::{Call, Operand};
use crate::dtype::DType;
use crate::error::Result;
use crate::manifest::task_heads as kernels;
use crate::tensor::{TensorMut, TensorRef};

const OP: &str = "task_heads";
/// Rows a block of `fill` takes at a time.
const FILL_ROWS: usize = 64;

/// The code kernels use for an element type.
fn kind(dtype: DType) -> u32 {
    match dtype {
        DType::F16 => 1,
        DType::BF16 => 2,
        _ => 0,
    }
}

/// The first rows of packed sequences as kernels take them: view, stride, and whether, kind and rows of the tensor.
fn starts_of<'a>(starts: Option<&'a Starts<'_>>) -> (Option<TensorRef<'a>>, usize, [u32; 3]) {
    let Some(starts) = starts else { return (None, 0, [0; 3]) };
    let view = starts.ids.view();
    let stride = view.layout().step(0);
    (Some(view), stride, [1, starts.ids.kind(), starts.rows as u32])
}

fn optional<'a>(view: &'a Option<TensorRef<'a>>) -> Operand<'a> {
    view.as_ref().map_or(Operand::Absent, Operand::View)
}

pub(super) fn fill(sizes: &Sizes, fill: &Fill<'_>, target: &mut TensorMut<'_>) -> Result<()> {
    let target = target.as_ref();
    if target.layout().is_empty() {
        return Ok(());
    }
    let owners = if fill.owner == Owner::Head { sizes.heads } else { sizes.kv_heads };
    let pairs = sizes.batch * owners;
    let (starts, start_stride, packed) = starts_of(fill.starts);
    let rows = fill.starts.map_or(target.shape()[2], |starts| starts.most);
    let operands = [
        Operand::View(target),
        Operand::View(&fill.order),
        Operand::View(&fill.counts),
        Operand::View(&fill.gates),
        optional(&starts),
    ];
    let step = |i: usize| target.layout().step(i);
    let strides = [step(0), step(1), step(2), start_stride];
    let words = [
        pairs as u32,
        owners as u32,
        rows as u32,
        target.shape()[3] as u32,
        (sizes.heads / owners) as u32,
        fill.owner as u32,
        fill.zeroed.into(),
        fill.value.to_bits(),
        kind(target.dtype()),
        packed[0],
        packed[1],
        packed[2],
    ];
    let work = pairs.saturating_mul(rows.div_ceil(FILL_ROWS));
    Call { op: OP, kernel: &kernels::FILL, operands: &operands, sizes: &strides, words: &words }
        .run(target.device(), work)
}

pub(super) fn delta(sizes: &Sizes, delta: &Delta<'_>, out: &mut TensorMut<'_>) -> Result<()> {
    let (a, b) = match &delta.sum {
        RowSum::Products(a, b) => (a, Some(b)),
        RowSum::Rows(rows) => (rows, None),
    };
    let pairs = sizes.batch * delta.tasks() * sizes.heads;
    let (starts, start_stride, packed) = starts_of(delta.starts);
    let operands = [
        Operand::View(a),
        b.map_or(Operand::Absent, Operand::View),
        Operand::View(&delta.mask),
        Operand::View(&delta.gates),
        Operand::View(out.as_ref()),
        optional(&starts),
    ];
    let [a_batch, a_task, a_head, a_row] = delta.a_steps();
    let b_step = |i: usize| b.map_or(0, |b| b.layout().step(i));
    let strides = [a_batch, a_task, a_head, a_row, b_step(0), b_step(1), b_step(2), start_stride];
    let [rows, columns] = delta.shape();
    let words = [
        pairs as u32,
        delta.tasks() as u32,
        sizes.heads as u32,
        rows as u32,
        columns as u32,
        b.is_some().into(),
        delta.keep_others.into(),
        delta.among as u32,
        delta.times_gate.into(),
        kind(a.dtype()),
        packed[0],
        packed[1],
        packed[2],
    ];
    Call { op: OP, kernel: &kernels::DELTA, operands: &operands, sizes: &strides, words: &words }
        .run(out.as_ref().device(), pairs)
}

/// Writes `[1, heads, rows]`, contiguous, the gate of each row's sample.
pub(super) fn expand(
    sizes: &Sizes,
    starts: &Starts<'_>,
    gates: &TensorRef<'_>,
    out: &mut TensorMut<'_>,
) -> Result<()> {
    let (view, start_stride, packed) = starts_of(Some(starts));
    let operands = [Operand::View(gates), optional(&view), Operand::View(out.as_ref())];
    let words = [sizes.batch as u32, sizes.heads as u32, starts.most as u32, packed[0], packed[1], packed[2]];
    Call { op: OP, kernel: &kernels::EXPAND, operands: &operands, sizes: &[start_stride], words: &words }
        .run(gates.device(), sizes.batch * sizes.heads)
}
