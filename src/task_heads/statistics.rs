//! Statistics of gates, and the balance loss.

use super::cpu_statistics as cpu;
use super::problem::{Problem, check_count};
use super::{Activation, TaskHeadsSaved};
use crate::call::{Call, Operand};
use crate::device::{Backend, Device};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ids::Ids;
use crate::manifest::task_heads as kernels;
use crate::tensor::{Tensor, TensorRef};
use crate::validate;

/// How the gates of a batch were used, per task.
#[derive(Debug)]
pub struct GateStatistics {
    /// `[tasks]` u32: samples of each task.
    pub counts: Tensor,
    /// `[tasks, heads]`: f, the fraction of a task's samples whose gate is not 0.
    pub selected: Tensor,
    /// `[tasks, heads]`: P, the mean probability (of [`TaskHeadsOutput::probabilities`](super::TaskHeadsOutput::probabilities)).
    pub probability: Tensor,
    /// `[tasks, 3]`: balance `H·Σ_h f·P` over the H routed heads, 1 where both are even and gates add up to 1; the entropy of `P/ΣP`, natural
    /// logarithm; the fraction of heads that are active. 0 for a task without samples.
    pub summary: Tensor,
}

/// Whose gates they are.
struct Counted<'a> {
    device: Device,
    batch: usize,
    heads: usize,
    tasks: usize,
    ids: Option<&'a Ids<'a>>,
    shared_heads: usize,
}

/// Of which variable the probabilities are a function, for kernels.
fn family(activation: Activation) -> u32 {
    match activation {
        Activation::Identity => 0,
        Activation::Sigmoid | Activation::Threshold { .. } => 1,
        _ => 2,
    }
}

/// Statistics of a forward pass's gates: what a balance loss, pruning and plots need.
///
/// `tasks`: `[batch]` i32, u32 or i64 and the number of tasks; without it all samples are of one task. Samples without a task count nowhere.
/// Sums run over the batch in order.
///
/// # Errors
/// [`Error::Shape`], [`Error::DType`], [`Error::Device`]; [`Error::TaskId`] for a bad id in host memory. One in device memory counts
/// nowhere: the forward pass has reported it.
///
/// # Source
/// Fedus et al., Switch Transformers, arXiv:2101.03961, §2.2 (balance), with heads for experts.
pub fn gate_statistics(
    saved: &TaskHeadsSaved<'_>,
    tasks: Option<(&TensorRef<'_>, usize)>,
    activation: Activation,
) -> Result<GateStatistics> {
    const OP: &str = "gate_statistics";
    let device = saved.gates.device();
    let &[batch, heads] = saved.gates.shape() else {
        return Err(Error::shape(OP, "gates", "[batch, heads]", saved.gates.shape()));
    };
    for (arg, tensor) in [("gates", &saved.gates), ("probabilities", &saved.probabilities)] {
        validate::shape(OP, arg, tensor, &[batch, heads])?;
        validate::tensor(OP, arg, tensor, DType::F32, device)?;
        validate::contiguous(OP, arg, tensor)?;
    }
    let ids = match tasks {
        Some((ids, count)) => Some((Ids::of_tasks(OP, "tasks", ids, count, &[batch], device)?, count)),
        None => None,
    };
    let ids = ids.as_ref().map(|(ids, count)| (ids, *count));
    of_tasks(OP, [&saved.gates, &saved.probabilities], ids, activation)
}

/// Statistics of validated gates and probabilities.
pub(super) fn of_tasks(
    op: &'static str,
    [gates, probabilities]: [&TensorRef<'_>; 2],
    ids: Option<(&Ids<'_>, usize)>,
    activation: Activation,
) -> Result<GateStatistics> {
    let (device, shared_heads) = (gates.device().clone(), activation.shared_heads());
    let &[batch, heads] = gates.shape() else {
        return Err(Error::shape(op, "gates", "[batch, heads]", gates.shape()));
    };
    if shared_heads > heads {
        return Err(Error::argument(op, "shared_heads", format!("is {shared_heads}, of {heads} heads")));
    }
    let tasks = ids.map_or(1, |(_, count)| count);
    check_count(op, "tasks · heads", tasks.saturating_mul(heads.max(3)), &device)?;
    let counted = Counted { device, batch, heads, tasks, ids: ids.map(|(ids, _)| ids), shared_heads };
    counted.statistics(op, [gates, probabilities])
}

impl Counted<'_> {
    fn statistics(
        &self,
        op: &'static str,
        [gates, probabilities]: [&TensorRef<'_>; 2],
    ) -> Result<GateStatistics> {
        let make = |dtype, shape: &[usize]| Tensor::zeros(&self.device, dtype, shape);
        let per_head = [self.tasks, self.heads];
        let mut out = GateStatistics {
            counts: make(DType::U32, &[self.tasks])?,
            selected: make(DType::F32, &per_head)?,
            probability: make(DType::F32, &per_head)?,
            summary: make(DType::F32, &[self.tasks, 3])?,
        };
        if self.device.backend() == Backend::Cpu {
            let tasks = match self.ids {
                Some(ids) => ids.host_tasks()?,
                None => vec![Some(0); self.batch],
            };
            cpu::statistics([gates, probabilities], &tasks, self.shared_heads, &mut out)?;
            return Ok(out);
        }
        let ids = self.ids.map(|ids| (ids.view(), ids.kind()));
        let (selected, probability) = (out.selected.view(), out.probability.view());
        let (counts, summary) = (out.counts.view(), out.summary.view());
        let operands = [
            Operand::View(gates),
            Operand::View(probabilities),
            ids.as_ref().map_or(Operand::Absent, |(view, _)| Operand::View(view)),
            Operand::View(&selected),
            Operand::View(&probability),
            Operand::View(&counts),
        ];
        let sizes = [ids.as_ref().map_or(0, |(view, _)| view.layout().step(0))];
        let (batch, heads, tasks) = (self.batch as u32, self.heads as u32, self.tasks as u32);
        let words = [batch, heads, tasks, ids.is_some().into(), ids.as_ref().map_or(0, |&(_, kind)| kind)];
        let work = (self.tasks * self.heads).div_ceil(kernels::STATISTICS.cuda.block as usize);
        Call { op, kernel: &kernels::STATISTICS, operands: &operands, sizes: &sizes, words: &words }
            .run(&self.device, work)?;
        let operands = [Operand::View(&selected), Operand::View(&probability), Operand::View(&summary)];
        let words = [tasks, heads, self.shared_heads as u32];
        let work = self.tasks.div_ceil(kernels::BALANCE.cuda.block as usize);
        Call { op, kernel: &kernels::BALANCE, operands: &operands, sizes: &[], words: &words }
            .run(&self.device, work)?;
        Ok(out)
    }
}

/// Adds `Σ_t w_t·∂balance_t/∂z` to `dz`, f taken as constant.
pub(super) fn add_balance_gradient(
    problem: &Problem<'_>,
    weights: &TensorRef<'_>,
    [gates, probabilities]: [&TensorRef<'_>; 2],
    dz: &mut Tensor,
) -> Result<()> {
    let source = &problem.source;
    let counted = Counted {
        device: problem.device().clone(),
        batch: problem.sizes.batch,
        heads: problem.sizes.heads,
        tasks: problem.balance_tasks(),
        ids: source.ids.as_ref(),
        shared_heads: problem.activation.shared_heads(),
    };
    let statistics = counted.statistics(problem.op, [gates, probabilities])?;
    let family = family(problem.activation);
    if counted.device.backend() == Backend::Cpu {
        let tasks = super::cpu::tasks_of_samples(problem)?;
        return cpu::add_balance_gradient(
            probabilities,
            &statistics,
            &tasks,
            weights,
            (counted.shared_heads, family),
            dz,
        );
    }
    let ids = source.ids.as_ref().map(|ids| (ids.view(), ids.kind()));
    let (selected, counts, dz) = (statistics.selected.view(), statistics.counts.view(), dz.view_mut());
    let operands = [
        Operand::View(probabilities),
        Operand::View(&selected),
        Operand::View(&counts),
        Operand::View(weights),
        ids.as_ref().map_or(Operand::Absent, |(view, _)| Operand::View(view)),
        Operand::View(dz.as_ref()),
    ];
    let sizes = [ids.as_ref().map_or(0, |(view, _)| view.layout().step(0))];
    let words = [
        counted.batch as u32,
        counted.heads as u32,
        counted.tasks as u32,
        counted.shared_heads as u32,
        ids.is_some().into(),
        ids.as_ref().map_or(0, |&(_, kind)| kind),
        family,
    ];
    let work = (counted.batch * counted.heads).div_ceil(kernels::BALANCE_BACKWARD.cuda.block as usize);
    Call {
        op: problem.op,
        kernel: &kernels::BALANCE_BACKWARD,
        operands: &operands,
        sizes: &sizes,
        words: &words,
    }
    .run(&counted.device, work)
}

/// The gate `[tasks, heads]`, 1 or 0, that keeps each task's `keep` heads with the largest mean probability (of equal ones the lower): static
/// logits for [`Activation::Identity`]. Heads that were never selected are kept last. Waits for the device.
///
/// # Errors
/// [`Error::InvalidArgument`] if `keep` exceeds the heads; device errors of work submitted earlier.
pub fn prune(statistics: &GateStatistics, keep: usize) -> Result<Tensor> {
    let &[tasks, heads] = statistics.selected.shape() else {
        let got = statistics.selected.shape();
        return Err(Error::shape("prune", "statistics.selected", "[tasks, heads]", got));
    };
    if keep > heads {
        return Err(Error::argument("prune", "keep", format!("is {keep}, of {heads} heads")));
    }
    let (selected, probability) =
        (statistics.selected.to_vec::<f32>()?, statistics.probability.to_vec::<f32>()?);
    let mut gates = vec![0.0f32; tasks * heads];
    for task in 0..tasks {
        let at = |head: usize| task * heads + head;
        let mut order: Vec<usize> = (0..heads).collect();
        order.sort_by(|&a, &b| {
            let key = |head: usize| (selected[at(head)] > 0.0, probability[at(head)]);
            let ((on_a, p_a), (on_b, p_b)) = (key(a), key(b));
            on_b.cmp(&on_a).then(p_b.total_cmp(&p_a)).then(a.cmp(&b))
        });
        order[..keep].iter().for_each(|&head| gates[at(head)] = 1.0);
    }
    Tensor::from_slice(statistics.selected.device(), &gates, &[tasks, heads])
}
