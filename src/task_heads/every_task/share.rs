//! What one o of a head shares among tasks: which heads are used, o times each gate, and the sum of what the tasks ask of it.

use super::EveryTaskSaved;
use super::cpu;
use super::problem::EveryTask;
use crate::call::{Call, Operand};
use crate::device::Backend;
use crate::error::Result;
use crate::manifest::task_heads as kernels;
use crate::tensor::{TensorMut, TensorRef};

/// Rows a block of `spread.cu` and `gather.cu` takes at a time.
const ROWS: usize = 64;

/// 1 for each `[batch, heads]` that some gate of `[batch, tasks, heads]` uses; of the others NaN if one is NaN, otherwise 0.
pub(super) fn used(problem: &EveryTask<'_>, gates: &TensorRef<'_>, used: &mut TensorMut<'_>) -> Result<()> {
    let sizes = &problem.sizes;
    if problem.device().backend() == Backend::Cpu {
        return cpu::used(gates, used);
    }
    let operands = [Operand::View(gates), Operand::View(used.as_ref())];
    let words = [sizes.batch as u32, problem.tasks as u32, sizes.heads as u32];
    let work = (sizes.batch * sizes.heads).div_ceil(kernels::USED.cuda.block as usize);
    Call { op: problem.gates.op, kernel: &kernels::USED, operands: &operands, sizes: &[], words: &words }
        .run(problem.device(), work)
}

/// `y[b,t,h] = g[b,t,h]·o[b,h]`, 0 where the gate is 0, and +0 in rows whose lse is −∞. `zeroed`: y is known to hold zeros.
pub(super) fn spread(
    problem: &EveryTask<'_>,
    [o, lse]: [&TensorRef<'_>; 2],
    gates: &TensorRef<'_>,
    used: &TensorRef<'_>,
    y: &mut TensorMut<'_>,
    zeroed: bool,
) -> Result<()> {
    let [batch, tasks, heads, rows, columns] = problem.y_shape();
    if y.as_ref().layout().is_empty() {
        return Ok(());
    }
    if problem.device().backend() == Backend::Cpu {
        return cpu::spread([o, lse], gates, y, zeroed);
    }
    let y = y.as_ref();
    let operands = [o, gates, used, lse, y].map(Operand::View);
    let of_o = [(o, 0), (o, 1), (o, 2)];
    let [o_steps, lse_steps] = [steps(of_o), steps(of_o.map(|(_, i)| (lse, i)))];
    let y_steps = steps([(y, 0), (y, 1), (y, 2), (y, 3)]);
    let sizes = [&o_steps[..], &y_steps, &lse_steps].concat();
    let words = [batch as u32, tasks as u32, heads as u32, rows as u32, columns as u32, zeroed.into()];
    let work = (batch * heads).saturating_mul(rows.div_ceil(ROWS));
    Call { op: problem.gates.op, kernel: &kernels::SPREAD, operands: &operands, sizes: &sizes, words: &words }
        .run(problem.device(), work)
}

/// `grad_o[b,h] = Σ_t g[b,t,h]·grad_y[b,t,h]` of the listed pairs, gates of 0 left out. `grad_o` is contiguous.
pub(super) fn gather(
    problem: &EveryTask<'_>,
    saved: &EveryTaskSaved<'_>,
    grad_y: &TensorRef<'_>,
    grad_o: &mut TensorMut<'_>,
) -> Result<()> {
    let [batch, tasks, heads, rows, columns] = problem.y_shape();
    if grad_o.as_ref().layout().is_empty() {
        return Ok(());
    }
    if problem.device().backend() == Backend::Cpu {
        return cpu::gather(saved, grad_y, grad_o);
    }
    let operands = [
        Operand::View(grad_y),
        Operand::View(&saved.gates),
        Operand::View(&saved.order),
        Operand::View(&saved.counts),
        Operand::View(grad_o.as_ref()),
    ];
    let sizes = steps([(grad_y, 0), (grad_y, 1), (grad_y, 2), (grad_y, 3)]);
    let words = [batch as u32, tasks as u32, heads as u32, rows as u32, columns as u32];
    let work = (batch * heads).saturating_mul(rows.div_ceil(ROWS));
    Call { op: problem.gates.op, kernel: &kernels::GATHER, operands: &operands, sizes: &sizes, words: &words }
        .run(problem.device(), work)
}

fn steps<const N: usize>(of: [(&TensorRef<'_>, usize); N]) -> [usize; N] {
    of.map(|(view, dimension)| view.layout().step(dimension))
}
