//! Properties that need no right answer, only two runs.

use crate::launch::Launch;
use crate::support::attention_case::{Case, Data, Stream, non_empty_case, widen};
use crate::support::compare::close;
use crate::support::devices::TestDevice;
use crate::support::property::{CASES, check};
use crate::support::tolerance;
use gatewarp::attention::WantGradients;
use proptest::strategy::Strategy;

fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn without_mask() -> impl Strategy<Value = Case> {
    non_empty_case().prop_map(|mut case| {
        case.causal = false;
        case
    })
}

pub fn permuting_keys_with_values_changes_nothing(device: &TestDevice) -> Result<(), String> {
    check("permuting_keys_with_values_changes_nothing", device, CASES, &without_mask(), |handle, case| {
        let mut data = case.data();
        data.shared_keys = false;
        let mut permuted = data.clone();
        let mut random = case.random(Stream::Places);
        for b in 0..case.batch {
            let order = random.permutation(data.problem.kv_len[b]);
            for head in 0..case.kv_heads {
                let first = (b * case.kv_heads + head) * case.kv_slots;
                for (to, &from) in order.iter().enumerate() {
                    let (to, from) = (first + to, first + from);
                    permuted.k[to * case.head_dim..][..case.head_dim]
                        .copy_from_slice(&data.k[from * case.head_dim..][..case.head_dim]);
                    permuted.v[to * case.value_dim..][..case.value_dim]
                        .copy_from_slice(&data.v[from * case.value_dim..][..case.value_dim]);
                }
            }
        }
        permuted.refresh();
        let before = Launch::new(handle, &data, case.seed).forward()?;
        let after = Launch::new(handle, &permuted, case.seed).forward()?;
        // Both runs may be off by the bound, in opposite directions.
        let want = data.problem.forward();
        let (o, lse) = (tolerance::attention_o(&want), tolerance::attention_lse(&want));
        close("o of permuted keys", &after.o, &widen(&before.o), &add(&o, &o))?;
        close("lse of permuted keys", &after.lse, &widen(&before.lse), &add(&lse, &lse)).map(|_| ())
    })
}

/// Appends one column to rows of `width` values.
fn with_column(values: &[f32], width: usize, column: f32) -> Vec<f32> {
    values.chunks(width).flat_map(|row| row.iter().copied().chain([column])).collect()
}

pub fn adding_a_constant_to_scores_changes_only_lse(device: &TestDevice) -> Result<(), String> {
    let strategy = non_empty_case().prop_map(|mut case| {
        // One more dimension carries the constant: q has 1 there, k has constant/scale.
        case.head_dim = case.head_dim.min(127);
        case.scale = case.scale.filter(|&scale| scale != 0.0);
        case
    });
    check("adding_a_constant_to_scores_changes_only_lse", device, CASES, &strategy, |handle, case| {
        let mut data = case.data();
        data.scale = Some(case.scale_value());
        let constant = case.random(Stream::Places).signed() * 40.0;
        let column = constant / case.scale_value();
        let mut shifted = Data {
            q: with_column(&data.q, case.head_dim, 1.0),
            k: with_column(&data.k, case.head_dim, column),
            ..data.clone()
        };
        shifted.problem.head_dim += 1;
        shifted.refresh();
        let before = Launch::new(handle, &data, case.seed).forward()?;
        let after = Launch::new(handle, &shifted, case.seed).forward()?;
        let (want, want_shifted) = (data.problem.forward(), shifted.problem.forward());
        let o = add(&tolerance::attention_o(&want), &tolerance::attention_o(&want_shifted));
        let lse = add(&tolerance::attention_lse(&want), &tolerance::attention_lse(&want_shifted));
        close("o of shifted scores", &after.o, &widen(&before.o), &o)?;
        let shift = f64::from(case.scale_value()) * f64::from(column);
        let moved: Vec<f64> = before.lse.iter().map(|&x| f64::from(x) + shift).collect();
        close("lse of shifted scores", &after.lse, &moved, &lse).map(|_| ())
    })
}

/// o is linear in v: ⟨o(u), w⟩ = ⟨u, dV(w)⟩ for any u and w.
pub fn value_gradient_is_the_adjoint(device: &TestDevice) -> Result<(), String> {
    check("value_gradient_is_the_adjoint", device, CASES, &non_empty_case(), |handle, case| {
        let data = case.data();
        let mut other = data.clone();
        other.v = case.random(Stream::Heads).values(data.v.len(), 1.0);
        other.shared_keys = false;
        other.refresh();
        let u = &other.v;
        let o = Launch::new(handle, &other, case.seed).forward()?.o;
        let launch = Launch::new(handle, &data, case.seed);
        let only_dv = WantGradients { dv: true, ..WantGradients::NONE };
        let dv = launch.backward(&launch.forward()?, only_dv)?.dv.ok_or("dv was asked for")?;
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        let spread =
            |a: &[f32], b: &[f64]| -> f64 { a.iter().zip(b).map(|(&a, b)| f64::from(a.abs()) * b).sum() };
        let grads = data.problem.backward(&widen(&data.grad_o), Some(&widen(&data.grad_lse)));
        let allowed = spread(&data.grad_o, &tolerance::attention_o(&other.problem.forward()))
            + spread(u, &tolerance::attention_gradient(&grads.dv_terms));
        let (left, right) = (dot(&o, &data.grad_o), dot(u, &dv));
        let error = (left - right).abs();
        if error <= allowed {
            Ok(())
        } else {
            Err(format!("⟨o(u), w⟩ = {left}, ⟨u, dV⟩ = {right}, allowed {allowed:e}"))
        }
    })
}
