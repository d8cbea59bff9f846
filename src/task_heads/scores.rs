//! z where it is computed: a linear function of the sample, and noise. On a GPU one launch for each tensor written.

use super::DynamicGradients;
use super::cpu_scores as cpu;
use super::problem::Problem;
use crate::call::{Call, Operand};
use crate::device::Backend;
use crate::error::Result;
use crate::manifest::task_heads as kernels;
use crate::tensor::{TensorMut, TensorRef};

/// Pairs a block of `scores.cu` takes at a time.
const PAIRS: usize = 4;

fn optional<'a>(view: Option<&'a TensorRef<'a>>) -> Operand<'a> {
    view.map_or(Operand::Absent, Operand::View)
}

/// Writes z of every pair: 0 for a sample without a task, NaN for one with a bad id.
pub(super) fn scores(problem: &Problem<'_>, z: &mut TensorMut<'_>) -> Result<()> {
    if problem.device().backend() == Backend::Cpu {
        return cpu::scores(problem, z);
    }
    let (sizes, source) = (&problem.sizes, &problem.source);
    let ids = source.ids.as_ref().map(|ids| (ids.view(), ids.kind()));
    let stream = match problem.activation.noise() {
        0.0 => None,
        _ => Some(problem.noise.on(problem.op, problem.device())?),
    };
    let stream = stream.as_ref().map(|stream| stream.view());
    let (x, bias) = match &source.linear {
        Some(linear) => (Some(&linear.x), linear.bias.as_ref()),
        None => (None, None),
    };
    let step = |view: Option<&TensorRef<'_>>, i: usize| view.map_or(0, |view| view.layout().step(i));
    let ids_view = ids.as_ref().map(|(view, _)| view);
    let operands = [
        Operand::View(&source.values),
        optional(x),
        optional(bias),
        optional(ids_view),
        optional(stream.as_ref()),
        Operand::View(z.as_ref()),
    ];
    let strides = [
        source.values.layout().step(0),
        source.values.layout().step(1),
        step(x, 0),
        step(bias, 0),
        step(bias, 1),
        step(ids_view, 0),
    ];
    let kind = match (&source.linear, &ids) {
        (Some(_), _) => 2,
        (None, Some(_)) => 1,
        (None, None) => 0,
    };
    let words = [
        sizes.batch as u32,
        sizes.heads as u32,
        source.tasks() as u32,
        x.map_or(0, |x| x.shape()[1] as u32),
        kind,
        ids.is_some().into(),
        ids.as_ref().map_or(0, |&(_, kind)| kind),
        bias.is_some().into(),
        problem.activation.noise().to_bits(),
        problem.repeat as u32,
    ];
    let work = (sizes.batch * sizes.heads).div_ceil(PAIRS);
    Call { op: problem.op, kernel: &kernels::SCORES, operands: &operands, sizes: &strides, words: &words }
        .run(problem.device(), work)
}

/// Gradients of a linear source from those of z.
pub(super) fn backward(problem: &Problem<'_>, dz: &TensorRef<'_>, out: &mut DynamicGradients) -> Result<()> {
    if problem.device().backend() == Backend::Cpu {
        return cpu::backward(problem, dz, out);
    }
    let Some(linear) = &problem.source.linear else { return Ok(()) };
    let (op, sizes, weights) = (problem.op, &problem.sizes, &problem.source.values);
    let ids = problem.source.ids.as_ref().map(|ids| (ids.view(), ids.kind()));
    let id_stride = ids.as_ref().map_or(0, |(view, _)| view.layout().step(0));
    let ids_operand = ids.as_ref().map_or(Operand::Absent, |(view, _)| Operand::View(view));
    let id_words = [ids.is_some().into(), ids.as_ref().map_or(0, |&(_, kind)| kind)];
    let (batch, heads, tasks) = (sizes.batch as u32, sizes.heads as u32, problem.source.tasks() as u32);
    let features = linear.x.shape()[1];

    let sums = [(Some(&linear.x), features, Some(&mut out.dweights)), (None, 1, out.dbias.as_mut())];
    for (x, features, target) in sums {
        let Some(target) = target else { continue };
        let target = target.view_mut();
        let x_operand = x.map_or(Operand::Absent, Operand::View);
        let operands = [Operand::View(dz), x_operand, ids_operand, Operand::View(target.as_ref())];
        let strides = [x.map_or(0, |x| x.layout().step(0)), id_stride];
        let words = [
            batch,
            heads,
            tasks,
            features as u32,
            id_words[0],
            id_words[1],
            x.is_some().into(),
            problem.repeat as u32,
        ];
        let work = target.as_ref().layout().len().div_ceil(kernels::DYNAMIC_WEIGHTS.cuda.block as usize);
        Call { op, kernel: &kernels::DYNAMIC_WEIGHTS, operands: &operands, sizes: &strides, words: &words }
            .run(problem.device(), work)?;
    }

    let dx = out.dx.view_mut();
    let operands = [Operand::View(dz), Operand::View(weights), ids_operand, Operand::View(dx.as_ref())];
    let strides = [weights.layout().step(0), weights.layout().step(1), id_stride];
    let words = [batch, heads, tasks, features as u32, id_words[0], id_words[1], problem.repeat as u32];
    let work = dx.as_ref().layout().len().div_ceil(kernels::DYNAMIC_INPUTS.cuda.block as usize);
    Call { op, kernel: &kernels::DYNAMIC_INPUTS, operands: &operands, sizes: &strides, words: &words }
        .run(problem.device(), work)
}
