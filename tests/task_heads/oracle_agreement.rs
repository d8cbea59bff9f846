//! Outputs, lists and gradients are what the formulas say.

use crate::case::{GateCase, GateData, gated, has_no_gradient, noisy};
use crate::launch::{Launch, Run, tensor};
use crate::support::attention_case::{any_case, non_empty_case, widen};
use crate::support::compare::close;
use crate::support::devices::TestDevice;
use crate::support::oracle::central_difference;
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use crate::support::tolerance::{CENTRAL_DIFFERENCE, CENTRAL_DIFFERENCE_STEP, U};
use crate::want;
use gatewarp::task_heads::{Activation, GateSource, TaskHeadsOptions, ZeroGateGrad, task_heads_forward};
use proptest::prelude::*;

fn check_run(run: &Run, want: &want::WantForward) -> Result<(), String> {
    close("gates", &run.gates, &want.gates, &want.gate_tolerance)?;
    close("y", &run.y, &want.forward.o, &want.y_tolerance)?;
    close("lse", &run.lse, &want.forward.lse, &crate::support::tolerance::attention_lse(&want.forward))?;
    Ok(())
}

pub fn forward_is_the_formula(device: &TestDevice) -> Result<(), String> {
    check("task_heads_forward_is_the_formula", device, CASES, &noisy(gated(any_case())), |handle, case| {
        let data = case.data();
        let run = Launch::new(handle, case, &data).forward()?;
        if let Some(z) = &run.z {
            let zeros = || vec![0.0; case.heads()];
            let want: Vec<f64> =
                (0..case.attention.batch).flat_map(|b| data.z(b).unwrap_or_else(zeros)).collect();
            // The words' sum, up to 4, is rounded once, then scaled twice.
            let allowed: Vec<f64> = want.iter().map(|z| 16.0 * U * (4.0 + z.abs())).collect();
            close("z", z, &want, &allowed)?;
        }
        check_run(&run, &want::forward(case, &data))
    })
}

pub fn backward_is_the_formula(device: &TestDevice) -> Result<(), String> {
    check("task_heads_backward_is_the_formula", device, CASES, &noisy(gated(any_case())), |handle, case| {
        let data = case.data();
        let launch = Launch::new(handle, case, &data);
        let run = launch.forward()?;
        let got = launch.backward(&run)?;
        let want = want::backward(case, &data, &want::forward(case, &data));
        let attention = [
            ("dq", &got.dq, &want.gradients.dq, &want.dq_tolerance),
            ("dk", &got.dk, &want.gradients.dk, &want.dk_tolerance),
            ("dv", &got.dv, &want.gradients.dv, &want.dv_tolerance),
        ];
        for (name, got, want, allowed) in attention {
            close(name, got.as_ref().ok_or("asked for")?, want, allowed)?;
        }
        match (got.dynamic, want.dynamic) {
            (Some(got), Some(want)) => {
                for ((name, got), (want, allowed)) in ["dx", "dweights", "dbias"].iter().zip(&got).zip(&want)
                {
                    close(name, got, want, allowed)?;
                }
                return Ok(());
            }
            (None, Some(_)) if has_no_gradient(case.activation) => return Ok(()),
            (None, None) => {}
            (got, _) => return Err(format!("gradients of a dynamic gate: {}", got.is_some())),
        }
        match got.dgate {
            Some(dgate) => close("dgate", &dgate, &want.dgate, &want.dgate_tolerance).map(drop),
            None if has_no_gradient(case.activation) => Ok(()),
            None => Err("dgate was asked for".into()),
        }
    })
}

/// A case whose loss is differentiable: no ties for top-k to break, no straight-through, which is no derivative of anything.
pub fn differentiable() -> impl Strategy<Value = GateCase> {
    gated(non_empty_case()).prop_map(|mut case| {
        case.ties = false;
        case.zero_gate_grad = ZeroGateGrad::Exact;
        if let Activation::TopK { k, renormalise, straight_through, .. } = &mut case.activation {
            *straight_through = false;
            *renormalise = *renormalise && *k > 1;
        }
        case
    })
}

/// Σ ⟨dy, y⟩ as a function of the logits, in f64. The rows' ⟨dy, o⟩ do not depend on them.
pub fn loss(case: &GateCase, data: &GateData, row_products: &[f64], logits: &[f64]) -> f64 {
    let heads = case.heads();
    (0..data.attention.problem.batch)
        .map(|b| {
            let row = match data.tasks.get(b) {
                Some(&task) if task < 0 => return 0.0,
                Some(&task) if data.dynamic.is_none() => task as usize,
                _ => b,
            };
            let z = &logits[row * heads..][..heads];
            let gates = crate::support::oracle_task_heads::gates(z, want::formula(case.activation));
            gates.iter().zip(&row_products[b * heads..]).map(|(g, product)| g * product).sum::<f64>()
        })
        .sum()
}

pub fn gradients_are_central_differences(device: &TestDevice) -> Result<(), String> {
    check("gradients_are_central_differences", device, CASES, &differentiable(), |handle, case| {
        let data = case.data();
        // Where heads tie, top-k and top-p jump.
        let ties = |z: Vec<f64>| (0..z.len()).any(|h| z[..h].contains(&z[h]));
        if (0..case.attention.batch).filter_map(|b| data.z(b)).any(ties) {
            return Ok(());
        }
        let launch = Launch::new(handle, case, &data);
        let got = launch.backward(&launch.forward()?)?;
        let want = want::backward(case, &data, &want::forward(case, &data));
        let mut plain = data.attention.problem.clone();
        (plain.row_scale, plain.active) = (None, None);
        let rows = plain.backward(&widen(&data.attention.grad_o), None).drow_scale;
        let products: Vec<f64> = rows.chunks(plain.q_len).map(|rows| rows.iter().sum()).collect();
        let logits = widen(&data.logits);
        let by_differences: Vec<f64> = (0..logits.len())
            .map(|at| {
                central_difference(&logits, at, CENTRAL_DIFFERENCE_STEP, |z| loss(case, &data, &products, z))
            })
            .collect();
        let size: f64 = 1.0 + products.iter().map(|x| x.abs()).sum::<f64>();
        let slack = CENTRAL_DIFFERENCE * size * case.heads() as f64;
        let widened = |bounds: &[f64]| -> Vec<f64> { bounds.iter().map(|bound| bound + slack).collect() };
        let Some(dynamic) = &data.dynamic else {
            let got = got.dgate.ok_or("asked for")?;
            return close("dgate", &got, &by_differences, &widened(&want.dgate_tolerance)).map(drop);
        };
        // By the weights: each moves the logits of its task's samples.
        let ([_, dweights, _], [_, (_, bounds), _]) =
            (got.dynamic.ok_or("asked for")?, want.dynamic.ok_or("asked for")?);
        let weights = widen(&dynamic.weights);
        let moved = |weights: &[f64]| -> Vec<f64> {
            let mut logits = logits.clone();
            for (pair, z) in logits.iter_mut().enumerate() {
                let (b, h) = (pair / case.heads(), pair % case.heads());
                let Ok(task) = usize::try_from(data.tasks[b]) else { continue };
                let row = (task * case.heads() + h) * dynamic.features;
                for f in 0..dynamic.features {
                    let change = weights[row + f] - f64::from(dynamic.weights[row + f]);
                    *z += change * f64::from(dynamic.x[b * dynamic.features + f]);
                }
            }
            logits
        };
        let by_differences: Vec<f64> = (0..weights.len())
            .map(|at| {
                central_difference(&weights, at, CENTRAL_DIFFERENCE_STEP, |w| {
                    loss(case, &data, &products, &moved(w))
                })
            })
            .collect();
        close("dweights", &dweights, &by_differences, &widened(&bounds)).map(drop)
    })
}

/// The indices where `listed` holds, ascending, then the others.
fn partition(listed: &[bool]) -> (Vec<u32>, u32) {
    let (on, off): (Vec<u32>, Vec<u32>) = (0..listed.len() as u32).partition(|&i| listed[i as usize]);
    let count = on.len() as u32;
    (on.into_iter().chain(off).collect(), count)
}

pub fn check_lists(
    gates: &[f32],
    group: usize,
    order: &[u32],
    kv_order: &[u32],
    counts: &[u32],
    active: &[u32],
) -> Result<(), String> {
    let listed: Vec<bool> = gates.iter().map(|&gate| gate != 0.0 && !gate.is_nan()).collect();
    let key_listed: Vec<bool> = gates
        .chunks(group)
        .map(|gates| gates.iter().any(|&g| g != 0.0) && !gates.iter().any(|g| g.is_nan()))
        .collect();
    let ((want_order, count), (want_kv_order, kv_count)) = (partition(&listed), partition(&key_listed));
    let flags: Vec<u32> = listed.iter().map(|&on| on.into()).collect();
    let checks = [
        ("order", order, &want_order[..]),
        ("kv_order", kv_order, &want_kv_order),
        ("counts", counts, &[count, kv_count]),
        ("active", active, &flags),
    ];
    for (name, got, want) in checks {
        if got != want {
            return Err(format!("{name} is {got:?}, expected {want:?}"));
        }
    }
    Ok(())
}

pub fn lists_are_stable_partitions(device: &TestDevice) -> Result<(), String> {
    let strategy = gated(any_case()).prop_map(|mut case| {
        // Rows are not looked at here.
        (case.attention.q_len, case.attention.kv_slots) =
            (case.attention.q_len.min(2), case.attention.kv_slots.min(2));
        case
    });
    check("lists_are_stable_partitions", device, CASES, &strategy, |handle, case| {
        let run = Launch::new(handle, case, &case.data()).forward()?;
        let Run { gates, order, kv_order, counts, active, .. } = &run;
        check_lists(gates, case.attention.group, order, kv_order, counts, active)
    })
}

pub fn long_lists_are_stable_partitions(device: &TestDevice) -> Result<(), String> {
    // Around the 256 runs a list is cut into, and several pairs to a run.
    let sizes = (prop::sample::select(vec![1usize, 15, 16, 17, 31, 33, 64, 100]), 1usize..=4, 1usize..=5);
    let density = prop::sample::select(vec![0usize, 1, 2, 9, 100]);
    let strategy = (sizes, density, any::<u64>().no_shrink());
    check("long_lists_are_stable_partitions", device, CASES, &strategy, |handle, case| {
        let &((batch, kv_heads, group), density, seed) = case;
        let heads = kv_heads * group;
        let mut random = Random::new(seed, 0);
        let mut gate = |_| match density {
            0 => 0.0,
            100 => 1.0,
            _ if random.one_in(density + 1) => [0.5, -2.0, f32::INFINITY, f32::NAN][random.below(4)],
            _ => [0.0, -0.0][random.below(2)],
        };
        let gates: Vec<f32> = (0..batch * heads).map(&mut gate).collect();
        let (q, k) = (vec![1.0; batch * heads], vec![1.0; batch * kv_heads]);
        let q = tensor(handle, &q, &[batch, heads, 1, 1]);
        let k = tensor(handle, &k, &[batch, kv_heads, 1, 1]);
        let values = tensor(handle, &gates, &[batch, heads]);
        let options =
            TaskHeadsOptions::new(GateSource::Provided { values: values.view() }, Activation::Identity);
        let say = |error: gatewarp::Error| error.to_string();
        let out = task_heads_forward(&q.view(), &k.view(), &k.view(), &options).map_err(say)?;
        let list = |tensor: &gatewarp::Tensor| tensor.to_vec::<u32>().map_err(say);
        let lists = [list(&out.order)?, list(&out.kv_order)?, list(&out.counts)?, list(&out.active)?];
        check_lists(&gates, group, &lists[0], &lists[1], &lists[2], &lists[3])?;
        // With one key of value 1, a row is its gate.
        let y = out.y.to_vec::<f32>().map_err(say)?;
        let zero_is_plain: Vec<f32> = gates.iter().map(|&gate| gate + 0.0).collect();
        crate::support::compare::same_bits("y", &y, &zero_is_plain)
    })
}
