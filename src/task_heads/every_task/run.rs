//! Forward: gates of every task → heads that some task uses → attention over their list → o times each gate. Backward: what the tasks
//! ask of each o → attention's gradients → δ per (sample, task, head), and from there as in a mixed batch.

use super::problem::{EveryTask, task_ids};
use super::{EveryTaskSaved, EveryTaskViews, share};
use crate::attention::{
    ActiveHeads, AttentionGradientViews, AttentionOptions, AttentionSaved, Workspace,
    attention_backward_into, attention_forward_into,
};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::task_heads::backward::zero_gate_delta;
use crate::task_heads::problem::{GateDerivative, check_count, one_column, repeat_over_rows};
use crate::task_heads::steps::{Among, Delta, Fill, ListViews, Owner, RowSum, Select, steps};
use crate::task_heads::{
    Activation, DynamicGradients, GateStatistics, TaskHeadsGradients, WantTaskHeadsGradients, ZeroGateGrad,
    scores, statistics,
};
use crate::tensor::{Layout, Tensor, TensorMut, TensorRef};
use crate::validate;

/// `[batch, tasks, heads]` as the gates of `batch · tasks` samples. Contiguous.
fn flat<'a>(view: &TensorRef<'a>) -> Result<TensorRef<'a>> {
    view.with_layout(flat_layout(view)?)
}

fn flat_layout(view: &TensorRef<'_>) -> Result<Layout> {
    let shape = view.shape();
    Layout::new(&[shape[0] * shape[1], shape[2]], &[shape[2], 1], view.layout().offset())
}

fn flat_mut<'a>(view: &'a mut TensorMut<'_>) -> Result<TensorMut<'a>> {
    let layout = flat_layout(view.as_ref())?;
    view.reborrow().with_layout(layout)
}

/// `fresh`: `y`, `o` and `lse` are known to hold zeros.
pub(super) fn forward(problem: &EveryTask<'_>, out: &mut EveryTaskViews<'_>, fresh: bool) -> Result<()> {
    problem.check_outputs(out)?;
    let (gate_problem, sizes) = (&problem.gates, &problem.sizes);
    let steps = steps(problem.device());
    let z = match &mut out.z {
        Some(z) if gate_problem.computes_scores() => {
            scores::scores(gate_problem, &mut flat_mut(z)?)?;
            Some(flat(z.as_ref())?)
        }
        _ => None,
    };
    let (mut gates, mut probabilities) = (flat_mut(&mut out.gates)?, flat_mut(&mut out.probabilities)?);
    steps.gate(gate_problem, z.as_ref(), &mut gates, &mut probabilities)?;

    let gates = out.gates.as_ref();
    share::used(problem, gates, &mut out.used)?;
    let used = out.used.as_ref();
    let mut list = ListViews {
        order: out.order.reborrow(),
        kv_order: out.kv_order.reborrow(),
        counts: out.counts.reborrow(),
        active: out.active.reborrow(),
    };
    steps.compact(sizes, Select::Active, used, &mut list)?;

    let heads = ActiveHeads {
        order: out.order.as_ref().clone(),
        kv_order: out.kv_order.as_ref().clone(),
        counts: out.counts.as_ref().clone(),
        active: out.active.as_ref().clone(),
        // 1 for every listed pair.
        row_scale: repeat_over_rows(used, &problem.lse_shape())?,
    };
    let options = AttentionOptions { heads: Some(heads), ..gate_problem.attention.clone() };
    let (q, k, v) = (&gate_problem.q, &gate_problem.k, &gate_problem.v);
    attention_forward_into(q, k, v, &options, &mut out.o, &mut out.lse, Workspace::Allocate)?;

    let mut fill = Fill {
        owner: Owner::Head,
        order: out.order.as_ref().clone(),
        counts: out.counts.as_ref().clone(),
        gates: used.clone(),
        value: 0.0,
        zeroed: fresh,
        starts: None,
    };
    steps.fill(sizes, &fill, &mut out.o)?;
    fill.value = f32::NEG_INFINITY;
    let layout = one_column(out.lse.as_ref().layout())?;
    steps.fill(sizes, &fill, &mut out.lse.reborrow().with_layout(layout)?)?;

    share::spread(problem, [out.o.as_ref(), out.lse.as_ref()], gates, used, &mut out.y, fresh)
}

pub(super) fn backward(
    problem: &EveryTask<'_>,
    saved: &EveryTaskSaved<'_>,
    grad_y: &TensorRef<'_>,
    want: WantTaskHeadsGradients,
) -> Result<TaskHeadsGradients> {
    problem.check_saved(saved, grad_y)?;
    problem.gates.check_routing_gradient(want)?;
    let mut out = TaskHeadsGradients { dq: None, dk: None, dv: None, dgate: None, dynamic: None };
    if want.dq || want.dk || want.dv {
        attention_gradients(problem, saved, grad_y, want, &mut out)?;
    }
    if want.dgate {
        gate_gradients(problem, saved, grad_y, &mut out)?;
    }
    Ok(out)
}

fn attention_gradients(
    problem: &EveryTask<'_>,
    saved: &EveryTaskSaved<'_>,
    grad_y: &TensorRef<'_>,
    want: WantTaskHeadsGradients,
    out: &mut TaskHeadsGradients,
) -> Result<()> {
    let (device, steps) = (problem.device(), steps(problem.device()));
    let (q, k, v) = (&problem.gates.q, &problem.gates.k, &problem.gates.v);
    let make =
        |wanted: bool, shape: &[usize]| wanted.then(|| Tensor::zeros(device, DType::F32, shape)).transpose();
    (out.dq, out.dk, out.dv) =
        (make(want.dq, q.shape())?, make(want.dk, k.shape())?, make(want.dv, v.shape())?);
    let mut grad_o = Tensor::zeros(device, DType::F32, &problem.o_shape())?;
    share::gather(problem, saved, grad_y, &mut grad_o.view_mut())?;

    let heads = ActiveHeads {
        order: saved.order.clone(),
        kv_order: saved.kv_order.clone(),
        counts: saved.counts.clone(),
        active: saved.active.clone(),
        row_scale: repeat_over_rows(&saved.used, &problem.lse_shape())?,
    };
    let options = AttentionOptions { heads: Some(heads), ..problem.gates.attention.clone() };
    let from_forward =
        AttentionSaved { o: saved.o.clone(), lse: saved.lse.clone(), grad_o: grad_o.view(), grad_lse: None };
    let views = AttentionGradientViews {
        dq: out.dq.as_mut().map(Tensor::view_mut),
        dk: out.dk.as_mut().map(Tensor::view_mut),
        dv: out.dv.as_mut().map(Tensor::view_mut),
        ..Default::default()
    };
    attention_backward_into(q, k, v, &from_forward, &options, views, Workspace::Allocate)?;

    let targets = [(Owner::Head, &mut out.dq), (Owner::KeyHead, &mut out.dk), (Owner::KeyHead, &mut out.dv)];
    for (owner, target) in targets.into_iter().filter_map(|(owner, target)| Some((owner, target.as_mut()?))) {
        let fill = Fill {
            owner,
            order: if owner == Owner::Head { saved.order.clone() } else { saved.kv_order.clone() },
            counts: saved.counts.clone(),
            gates: saved.used.clone(),
            value: 0.0,
            zeroed: true,
            starts: None,
        };
        steps.fill(&problem.sizes, &fill, &mut target.view_mut())?;
    }
    Ok(())
}

fn gate_gradients(
    problem: &EveryTask<'_>,
    saved: &EveryTaskSaved<'_>,
    grad_y: &TensorRef<'_>,
    out: &mut TaskHeadsGradients,
) -> Result<()> {
    let (device, steps) = (problem.device(), steps(problem.device()));
    let (gate_problem, source) = (&problem.gates, &problem.gates.source);
    let make = |shape: &[usize]| Tensor::zeros(device, DType::F32, shape);
    let (gates, probabilities) = (flat(&saved.gates)?, flat(&saved.probabilities)?);
    let mut delta = make(gates.shape())?;
    let identity = gate_problem.derivative() == GateDerivative::Identity;
    let exact = identity && gate_problem.zero_gate_grad == ZeroGateGrad::Exact;
    // ⟨dy, o⟩ is what an identity gate needs; the others take δ = ⟨dy, y⟩.
    let step = Delta {
        sum: RowSum::Products(grad_y.clone(), saved.o.clone()),
        mask: saved.active.clone(),
        among: if exact { Among::Numbers } else { Among::Active },
        gates: gates.clone(),
        times_gate: !identity,
        keep_others: false,
        starts: None,
    };
    steps.delta(&problem.sizes, &step, &mut delta.view_mut())?;
    if exact {
        // The heads that no task uses, whose o was not computed.
        let own = (&saved.used, &gates);
        zero_gate_delta(gate_problem, &problem.sizes, &*steps, own, grad_y, &mut delta.view_mut())?;
    }

    let mut dz = make(saved.gates.shape())?;
    steps.gate_backward(gate_problem, &delta.view(), &gates, &probabilities, &mut dz.view_mut())?;
    if let Some(balance) = &gate_problem.balance {
        statistics::add_balance_gradient(gate_problem, balance, [&gates, &probabilities], &mut dz)?;
    }
    if let Some(linear) = &source.linear {
        let mut dynamic = DynamicGradients {
            dx: make(linear.x.shape())?,
            dweights: make(source.shape())?,
            dbias: linear.bias.as_ref().map(|bias| make(bias.shape())).transpose()?,
        };
        scores::backward(gate_problem, &dz.view(), &mut dynamic)?;
        out.dynamic = Some(dynamic);
    } else if source.is_static() {
        let mut dlogits = make(source.shape())?;
        steps.sum_by_task(gate_problem, &dz.view(), &mut dlogits.view_mut())?;
        out.dgate = Some(dlogits);
    } else {
        out.dgate = Some(dz);
    }
    Ok(())
}

/// `saved` is the caller's.
pub(super) fn statistics(saved: &EveryTaskSaved<'_>, activation: Activation) -> Result<GateStatistics> {
    const OP: &str = "every_task_statistics";
    let device = saved.gates.device();
    let &[batch, tasks, heads] = saved.gates.shape() else {
        return Err(Error::shape(OP, "gates", "[batch, tasks, heads]", saved.gates.shape()));
    };
    for (arg, tensor) in [("gates", &saved.gates), ("probabilities", &saved.probabilities)] {
        validate::shape(OP, arg, tensor, &[batch, tasks, heads])?;
        validate::tensor(OP, arg, tensor, DType::F32, device)?;
        validate::contiguous(OP, arg, tensor)?;
    }
    check_count(
        OP,
        "batch · tasks · heads",
        batch.saturating_mul(tasks).saturating_mul(heads.max(3)),
        device,
    )?;
    let ids = task_ids(batch, tasks, device)?;
    let flat_gates = [flat(&saved.gates)?, flat(&saved.probabilities)?];
    statistics::of_tasks(OP, [&flat_gates[0], &flat_gates[1]], Some((&ids, tasks)), activation)
}
