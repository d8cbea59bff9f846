//! Backward: attention's gradients over the active pairs, then δ per pair, the activation's derivative, the sum by task.

use super::problem::{GateDerivative, Problem, Sizes};
use super::rows::RowScale;
use super::steps::{Among, Delta, Fill, ListViews, Owner, RowSum, Select, Steps, steps};
use super::{TaskHeadsGradients, TaskHeadsSaved, ZeroGateGrad};
use crate::attention::{
    ActiveHeads, AttentionGradientViews, AttentionOptions, AttentionSaved, Workspace,
    attention_backward_into, attention_forward_into,
};
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::{Layout, Tensor, TensorMut, TensorRef};

/// `gradients` hold zeros.
pub(super) fn run(
    problem: &Problem<'_>,
    saved: &TaskHeadsSaved<'_>,
    grad_y: &TensorRef<'_>,
    gradients: &mut TaskHeadsGradients,
) -> Result<()> {
    let steps = steps(problem.device());
    let TaskHeadsGradients { dq, dk, dv, dgate, dynamic } = gradients;
    let wants_gate = dgate.is_some() || dynamic.is_some();
    // Σ_j p_ij⟨dy_i, v_j⟩ per row: what an identity gate needs and y·dy cannot give without dividing by the gate.
    let identity = problem.derivative() == GateDerivative::Identity;
    let mut drow_scale = match wants_gate {
        true if identity => Some(Tensor::zeros(problem.device(), DType::F32, &problem.lse_shape())?),
        _ => None,
    };
    if dq.is_some() || dk.is_some() || dv.is_some() || drow_scale.is_some() {
        let row_scale = RowScale::new(problem, &problem.sizes, &saved.gates)?;
        let heads = saved.active_heads(row_scale.view());
        let options = AttentionOptions { heads: Some(heads), ..problem.attention.clone() };
        let from_forward = AttentionSaved {
            o: saved.y.clone(),
            lse: saved.lse.clone(),
            grad_o: grad_y.clone(),
            grad_lse: None,
        };
        let views = AttentionGradientViews {
            dq: dq.as_mut().map(Tensor::view_mut),
            dk: dk.as_mut().map(Tensor::view_mut),
            dv: dv.as_mut().map(Tensor::view_mut),
            drow_scale: drow_scale.as_mut().map(Tensor::view_mut),
            ..Default::default()
        };
        attention_backward_into(
            &problem.q,
            &problem.k,
            &problem.v,
            &from_forward,
            &options,
            views,
            Workspace::Allocate,
        )?;
    }

    let targets = [(Owner::Head, dq), (Owner::KeyHead, dk), (Owner::KeyHead, dv)];
    for (owner, target) in targets.into_iter().filter_map(|(owner, target)| Some((owner, target.as_mut()?))) {
        let order = if owner == Owner::Head { &saved.order } else { &saved.kv_order };
        let fill = Fill {
            owner,
            order: order.clone(),
            counts: saved.counts.clone(),
            gates: saved.gates.clone(),
            value: 0.0,
            zeroed: true,
            starts: problem.starts(owner),
        };
        steps.fill(&problem.sizes, &fill, &mut target.view_mut())?;
    }

    if !wants_gate {
        return Ok(());
    }
    let per_pair = || Tensor::zeros(problem.device(), DType::F32, saved.gates.shape());
    let mut delta = per_pair()?;
    let sum = match &drow_scale {
        Some(rows) => RowSum::Rows(rows.view()),
        None => RowSum::Products(grad_y.clone(), saved.y.clone()),
    };
    let mask = saved.active.clone();
    let step = Delta {
        sum,
        mask,
        among: Among::Masked,
        gates: saved.gates.clone(),
        times_gate: false,
        keep_others: false,
        starts: problem.starts(Owner::Head),
    };
    steps.delta(&problem.sizes, &step, &mut delta.view_mut())?;
    if identity && problem.zero_gate_grad == ZeroGateGrad::Exact {
        let gates = (&saved.gates, &saved.gates);
        zero_gate_delta(problem, &problem.sizes, &*steps, gates, grad_y, &mut delta.view_mut())?;
    }

    let mut dz = per_pair()?;
    let is_provided = !problem.source.is_static() && problem.source.linear.is_none();
    let out = match dgate {
        Some(dgate) if is_provided => dgate,
        _ => &mut dz,
    };
    steps.gate_backward(problem, &delta.view(), &saved.gates, &saved.probabilities, &mut out.view_mut())?;
    if let Some(balance) = &problem.balance {
        super::statistics::add_balance_gradient(problem, balance, [&saved.gates, &saved.probabilities], out)?;
    }
    if let Some(dynamic) = dynamic {
        return super::scores::backward(problem, &dz.view(), dynamic);
    }
    match dgate {
        Some(dgate) if problem.source.is_static() => {
            steps.sum_by_task(problem, &dz.view(), &mut dgate.view_mut())
        }
        _ => Ok(()),
    }
}

/// ⟨dy, o⟩ of the pairs whose gate is 0: their attention, which forward did not compute, with row scale 1.
///
/// `own_gates`: those of `sizes`; `gates`: of everything that shares a head's attention.
pub(super) fn zero_gate_delta(
    problem: &Problem<'_>,
    sizes: &Sizes,
    steps: &dyn Steps,
    (own_gates, gates): (&TensorRef<'_>, &TensorRef<'_>),
    grad_y: &TensorRef<'_>,
    delta: &mut TensorMut<'_>,
) -> Result<()> {
    let device = problem.device();
    let make = |dtype, shape: &[usize]| Tensor::zeros(device, dtype, shape);
    let mut order = make(DType::U32, &[sizes.batch * sizes.heads])?;
    let mut kv_order = make(DType::U32, &[sizes.batch * sizes.kv_heads])?;
    let mut counts = make(DType::U32, &[2])?;
    let mut zero = make(DType::U32, own_gates.shape())?;
    let mut list = ListViews {
        order: order.view_mut(),
        kv_order: kv_order.view_mut(),
        counts: counts.view_mut(),
        active: zero.view_mut(),
    };
    steps.compact(sizes, Select::Zero, own_gates, &mut list)?;

    let one = Tensor::from_slice(device, &[1.0f32], &[1])?;
    let heads = ActiveHeads {
        order: order.view(),
        kv_order: kv_order.view(),
        counts: counts.view(),
        active: zero.view(),
        row_scale: one.view().with_layout(Layout::new(&problem.lse_shape(), &[0; 3], 0)?)?,
    };
    let options = AttentionOptions { heads: Some(heads), ..problem.attention.clone() };
    let mut o = make(problem.dtype, &problem.y_shape())?;
    let mut lse = make(DType::F32, &problem.lse_shape())?;
    let (o_view, lse_view) = (&mut o.view_mut(), &mut lse.view_mut());
    attention_forward_into(
        &problem.q,
        &problem.k,
        &problem.v,
        &options,
        o_view,
        lse_view,
        Workspace::Allocate,
    )?;
    let step = Delta {
        sum: RowSum::Products(grad_y.clone(), o.view()),
        mask: zero.view(),
        among: Among::Masked,
        gates: gates.clone(),
        times_gate: false,
        keep_others: true,
        starts: problem.starts(Owner::Head),
    };
    steps.delta(sizes, &step, delta)
}
