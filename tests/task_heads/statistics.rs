//! Statistics of gates, the balance loss and pruning.

use crate::case::{GateCase, GateData, gated, has_no_gradient};
use crate::launch::{Launch, tensor};
use crate::support::attention_case::non_empty_case;
use crate::support::compare::close;
use crate::support::devices::TestDevice;
use crate::support::oracle::central_difference;
use crate::support::oracle_task_heads as oracle;
use crate::support::property::{CASES, check};
use crate::support::tolerance::{CENTRAL_DIFFERENCE, CENTRAL_DIFFERENCE_STEP, TINY, U};
use crate::want;
use gatewarp::Tensor;
use gatewarp::task_heads::{
    Activation, NoTask, WantTaskHeadsGradients, gate_statistics, prune, task_heads_backward,
    task_heads_forward,
};
use proptest::prelude::*;

fn say(error: gatewarp::Error) -> String {
    error.to_string()
}

fn small() -> impl Strategy<Value = GateCase> {
    gated(non_empty_case()).prop_map(|mut case| {
        // Rows are not looked at here.
        (case.attention.q_len, case.attention.kv_slots) =
            (case.attention.q_len.min(3), case.attention.kv_slots.min(3));
        case
    })
}

fn shared(activation: Activation) -> usize {
    if let Activation::TopK { shared_heads, .. } = activation { shared_heads } else { 0 }
}

/// Probabilities of a sample's heads.
fn probabilities(activation: Activation, z: &[f64]) -> Vec<f64> {
    match activation {
        Activation::Identity => z.to_vec(),
        Activation::Sigmoid | Activation::Threshold { .. } => oracle::gates(z, oracle::Activation::Sigmoid),
        _ => {
            let shared = shared(activation);
            [vec![1.0; shared], oracle::gates(&z[shared..], oracle::Activation::SoftmaxOne)].concat()
        }
    }
}

fn task_of(data: &GateData, sample: usize) -> Option<usize> {
    data.tasks.get(sample).map_or(Some(0), |&task| usize::try_from(task).ok())
}

struct Want {
    counts: Vec<u32>,
    selected: Vec<f64>,
    probability: Vec<f64>,
    summary: Vec<f64>,
}

fn statistics(case: &GateCase, data: &GateData, tasks: usize) -> Want {
    let (heads, shared) = (case.heads(), shared(case.activation));
    let mut want =
        Want { counts: vec![0; tasks], selected: Vec::new(), probability: Vec::new(), summary: Vec::new() };
    for task in 0..tasks {
        let samples: Vec<usize> =
            (0..case.attention.batch).filter(|&b| task_of(data, b) == Some(task)).collect();
        want.counts[task] = samples.len() as u32;
        let mean = |of: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
            let n = samples.len().max(1) as f64;
            (0..heads).map(|h| samples.iter().map(|&b| of(b, h)).sum::<f64>() / n).collect()
        };
        let f = mean(&|b, h| if want::gates_of(case, data, b)[h] == 0.0 { 0.0 } else { 1.0 });
        let p = mean(&|b, h| data.z(b).map_or(0.0, |z| probabilities(case.activation, &z)[h]));
        let total: f64 = p[shared..].iter().sum();
        let q = p[shared..].iter().map(|p| if total == 0.0 { 0.0 } else { p / total });
        let entropy: f64 = q.filter(|&q| q > 0.0).map(|q| -q * q.ln()).sum();
        let balance: f64 = f[shared..].iter().zip(&p[shared..]).map(|(f, p)| f * p).sum();
        want.summary.extend([
            (heads - shared) as f64 * balance,
            entropy,
            f.iter().sum::<f64>() / heads as f64,
        ]);
        want.selected.extend(f);
        want.probability.extend(p);
    }
    want
}

pub fn statistics_are_the_formulas(device: &TestDevice) -> Result<(), String> {
    check("gate_statistics_are_the_formulas", device, CASES, &small(), |handle, case| {
        let data = case.data();
        let launch = Launch::new(handle, case, &data);
        let [q, k, v] = launch.inputs().map(|input| input.view());
        let out = task_heads_forward(&q, &k, &v, &launch.options()).map_err(say)?;
        let tasks = case.tasks.unwrap_or(1);
        let ids = launch.tasks();
        let ids = ids.as_ref().map(|ids| (ids, tasks));
        let got = gate_statistics(&out.saved(), ids, case.activation).map_err(say)?;
        let want = statistics(case, &data, tasks);
        if got.counts.to_vec::<u32>().map_err(say)? != want.counts {
            return Err(format!("counts, expected {:?}", want.counts));
        }
        let read = |tensor: &Tensor| tensor.to_vec::<f32>().map_err(say);
        let n = case.attention.batch as f64;
        close("selected", &read(&got.selected)?, &want.selected, &vec![4.0 * U; want.selected.len()])?;
        let reach =
            (0..case.attention.batch).filter_map(|b| data.z(b)).flatten().fold(0.0f64, |r, z| r.max(z.abs()));
        let growth = (16.0 * (1.0 + reach) + n) * U;
        let size = if case.activation == Activation::Identity { reach } else { 1.0 };
        let bounds = vec![growth * size; want.probability.len()];
        close("probability", &read(&got.probability)?, &want.probability, &bounds)?;
        let heads = case.heads() as f64;
        // Identity's P may have any sign: its shares, and their entropy, are whatever the quotient of sums gives.
        let summary = read(&got.summary)?;
        for (task, summary) in summary.chunks(3).enumerate() {
            let want = &want.summary[3 * task..3 * task + 3];
            let close_to = |i: usize, bound: f64| close("summary", &summary[i..=i], &want[i..=i], &[bound]);
            close_to(0, heads * heads * growth * size)?;
            if case.activation != Activation::Identity {
                close_to(1, heads * 8.0 * growth)?;
            }
            close_to(2, (8.0 + heads) * U)?;
        }
        Ok(())
    })
}

/// What backward adds for a balance loss is its gradient, f held constant.
pub fn balance_gradients_are_central_differences(device: &TestDevice) -> Result<(), String> {
    check("balance_gradients_are_central_differences", device, CASES, &small(), |handle, case| {
        if has_no_gradient(case.activation) {
            return Ok(());
        }
        let case = &GateCase {
            features: None,
            logit_size: case.logit_size.min(3.0),
            no_task: NoTask::Full,
            ..case.clone()
        };
        let data = case.data();
        let launch = Launch::new(handle, case, &data);
        let [q, k, v] = launch.inputs().map(|input| input.view());
        let out = task_heads_forward(&q, &k, &v, &launch.options()).map_err(say)?;
        let tasks = case.tasks.unwrap_or(1);
        let weights: Vec<f32> = (0..tasks).map(|task| task as f32 - 0.75).collect();
        let weight_tensor = tensor(handle, &weights, &[tasks]);
        // No gradient of y: what remains is the balance's.
        let p = &data.attention.problem;
        let shape = [p.batch, p.q_heads, p.q_len, p.value_dim];
        let zeros = tensor(handle, &vec![0.0; shape.iter().product()], &shape);
        let mut options = launch.options();
        options.balance = Some(weight_tensor.view());
        let want = WantTaskHeadsGradients { dq: false, dk: false, dv: false, dgate: true };
        let got =
            task_heads_backward(&q, &k, &v, &out.saved(), &zeros.view(), &options, want).map_err(say)?;
        let got = got.dgate.ok_or("asked for")?.to_vec::<f32>().map_err(say)?;

        let (heads, shared) = (case.heads(), shared(case.activation));
        let f = statistics(case, &data, tasks).selected;
        let counts = statistics(case, &data, tasks).counts;
        let logits: Vec<f64> = data.logits.iter().map(|&z| z.into()).collect();
        let loss = |logits: &[f64]| -> f64 {
            (0..case.attention.batch)
                .filter_map(|b| Some((b, task_of(&data, b)?)))
                .map(|(b, task)| {
                    let row = if data.tasks.is_empty() { b } else { task };
                    let p = probabilities(case.activation, &logits[row * heads..][..heads]);
                    let sum: f64 = (shared..heads).map(|h| p[h] * f[task * heads + h]).sum();
                    f64::from(weights[task]) * (heads - shared) as f64 * sum / f64::from(counts[task])
                })
                .sum()
        };
        let want: Vec<f64> = (0..logits.len())
            .map(|at| central_difference(&logits, at, CENTRAL_DIFFERENCE_STEP, loss))
            .collect();
        let size = heads as f64 * (1.0 + weights.iter().map(|w| f64::from(w.abs())).sum::<f64>());
        let bound = (64.0 * U + CENTRAL_DIFFERENCE) * size * (1.0 + f64::from(case.logit_size)) + TINY;
        close("dgate", &got, &want, &vec![bound; want.len()]).map(drop)
    })
}

pub fn pruning_keeps_the_heads_that_matter(device: &TestDevice) -> Result<(), String> {
    check("pruning_keeps_the_heads_that_matter", device, CASES / 4, &small(), |handle, case| {
        let data = case.data();
        let launch = Launch::new(handle, case, &data);
        let [q, k, v] = launch.inputs().map(|input| input.view());
        let out = task_heads_forward(&q, &k, &v, &launch.options()).map_err(say)?;
        let tasks = case.tasks.unwrap_or(1);
        let ids = launch.tasks();
        let ids = ids.as_ref().map(|ids| (ids, tasks));
        let statistics = gate_statistics(&out.saved(), ids, case.activation).map_err(say)?;
        let (f, p) = (
            statistics.selected.to_vec::<f32>().map_err(say)?,
            statistics.probability.to_vec::<f32>().map_err(say)?,
        );
        let heads = case.heads();
        for keep in [0, 1, heads / 2, heads] {
            let gate = prune(&statistics, keep.min(heads)).map_err(say)?.to_vec::<f32>().map_err(say)?;
            for (task, gate) in gate.chunks(heads).enumerate() {
                let key = |h: usize| (f[task * heads + h] > 0.0, p[task * heads + h]);
                let (kept, gone): (Vec<usize>, Vec<usize>) = (0..heads).partition(|&h| gate[h] == 1.0);
                let is_order = kept
                    .iter()
                    .all(|&a| gone.iter().all(|&b| key(a) > key(b) || (key(a) == key(b) && a < b)));
                if kept.len() != keep.min(heads) || gone.iter().any(|&h| gate[h] != 0.0) || !is_order {
                    return Err(format!("task {task} keeps {kept:?} of f {f:?} P {p:?}"));
                }
            }
        }
        match prune(&statistics, heads + 1) {
            Err(gatewarp::Error::InvalidArgument { arg: "keep", .. }) => Ok(()),
            other => Err(format!("too many heads gave {other:?}")),
        }
    })
}
