//! Forward: gates → list of active pairs → attention over the list → the rows it left out.

use super::TaskHeadsViews;
use super::problem::{Problem, one_column, repeat_over_rows};
use super::steps::{Fill, ListViews, Owner, Select, steps};
use crate::attention::{ActiveHeads, AttentionOptions, Workspace, attention_forward_into};
use crate::error::Result;

/// `fresh`: `y` is known to hold zeros.
pub(super) fn run(problem: &Problem<'_>, out: &mut TaskHeadsViews<'_>, fresh: bool) -> Result<()> {
    problem.check_outputs(out)?;
    let (sizes, steps) = (&problem.sizes, steps(problem.device()));
    steps.gate(problem, &mut out.gates, &mut out.probabilities)?;
    let gates = out.gates.as_ref();
    let mut list = ListViews {
        order: out.order.reborrow(),
        kv_order: out.kv_order.reborrow(),
        counts: out.counts.reborrow(),
        active: out.active.reborrow(),
    };
    steps.compact(sizes, Select::Active, gates, &mut list)?;

    let heads = ActiveHeads {
        order: out.order.as_ref().clone(),
        kv_order: out.kv_order.as_ref().clone(),
        counts: out.counts.as_ref().clone(),
        active: out.active.as_ref().clone(),
        row_scale: repeat_over_rows(gates, &problem.lse_shape())?,
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
    };
    steps.fill(sizes, &fill, &mut out.y)?;
    fill.value = f32::NEG_INFINITY;
    let layout = one_column(out.lse.as_ref().layout())?;
    steps.fill(sizes, &fill, &mut out.lse.reborrow().with_layout(layout)?)
}
