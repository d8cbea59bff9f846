//! Forward: gates → list of active pairs → attention over the list → the rows it left out.

use super::TaskHeadsViews;
use super::problem::{Problem, one_column};
use super::rows::RowScale;
use super::steps::{Fill, ListViews, Owner, Select, steps};
use crate::attention::{ActiveHeads, AttentionOptions, Workspace, attention_forward_into};
use crate::error::Result;

/// `fresh`: `y` is known to hold zeros.
pub(super) fn run(problem: &Problem<'_>, out: &mut TaskHeadsViews<'_>, fresh: bool) -> Result<()> {
    problem.check_outputs(out)?;
    let (sizes, steps) = (&problem.sizes, steps(problem.device()));
    let scores = match &mut out.z {
        Some(z) if problem.computes_scores() => {
            super::scores::scores(problem, z)?;
            Some(z.as_ref())
        }
        _ => None,
    };
    steps.gate(problem, scores, &mut out.gates, &mut out.probabilities)?;
    let gates = out.gates.as_ref();
    let mut list = ListViews {
        order: out.order.reborrow(),
        kv_order: out.kv_order.reborrow(),
        counts: out.counts.reborrow(),
        active: out.active.reborrow(),
    };
    steps.compact(sizes, Select::Active, gates, &mut list)?;

    let row_scale = RowScale::new(problem, sizes, gates)?;
    let heads = ActiveHeads {
        order: out.order.as_ref().clone(),
        kv_order: out.kv_order.as_ref().clone(),
        counts: out.counts.as_ref().clone(),
        active: out.active.as_ref().clone(),
        row_scale: row_scale.view(),
    };
    let options = AttentionOptions { heads: Some(heads), ..problem.attention.clone() };
    attention_forward_into(
        &problem.q,
        &problem.k,
        &problem.v,
        &options,
        &mut out.y,
        &mut out.lse,
        Workspace::Allocate,
    )?;

    let mut fill = Fill {
        owner: Owner::Head,
        order: out.order.as_ref().clone(),
        counts: out.counts.as_ref().clone(),
        gates: gates.clone(),
        value: 0.0,
        zeroed: fresh,
        starts: problem.starts(Owner::Head),
    };
    steps.fill(sizes, &fill, &mut out.y)?;
    fill.value = f32::NEG_INFINITY;
    let layout = one_column(out.lse.as_ref().layout())?;
    steps.fill(sizes, &fill, &mut out.lse.reborrow().with_layout(layout)?)
}
