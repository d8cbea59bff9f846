//! What the examples of multi-task attention show, on every device.

mod support;

#[path = "../examples/attention_pooling.rs"]
mod attention_pooling;
#[path = "../examples/cross_attention.rs"]
mod cross_attention;
#[path = "../examples/inter_task_attention.rs"]
mod inter_task_attention;
#[path = "../examples/task_switching.rs"]
mod task_switching;

use std::process::ExitCode;
use support::compare::{close, same_bits};
use support::devices::{Test, TestDevice, run};
use support::tolerance::U;

static TESTS: &[Test] = &[
    Test::new("pooling_queries_learn_their_token", pooling_queries_learn_their_token),
    Test::new("a_task_without_the_image_never_reads_it", a_task_without_the_image_never_reads_it),
    Test::new("switching_tasks_is_reversible", switching_tasks_is_reversible),
    Test::new("tasks_attend_to_each_other", tasks_attend_to_each_other),
];

fn main() -> ExitCode {
    run(TESTS).exit_code()
}

fn say(error: gatewarp::Error) -> String {
    error.to_string()
}

fn pooling_queries_learn_their_token(device: &TestDevice) -> Result<(), String> {
    let (first, last, share) = attention_pooling::train(device.handle(0)).map_err(say)?;
    // A uniform query has an eighth of the weight on each token.
    if last < 0.1 * first && share > 0.6 {
        Ok(())
    } else {
        Err(format!("error {first} to {last}, weight {share}"))
    }
}

fn a_task_without_the_image_never_reads_it(device: &TestDevice) -> Result<(), String> {
    let (fused, text, active) = cross_attention::fuse(device.handle(0)).map_err(say)?;
    if active != [0, 0, 0, 0, 1, 0, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0] {
        return Err(format!("active heads {active:?}"));
    }
    let per_head = text.len() / active.len();
    for (pair, (fused, text)) in fused.chunks(per_head).zip(text.chunks(per_head)).enumerate() {
        let is_same = fused.iter().zip(text).all(|(y, x)| y.to_bits() == x.to_bits());
        if is_same != (active[pair] == 0) || fused.iter().any(|y| !y.is_finite()) {
            return Err(format!("head {pair} is {fused:?}, was {text:?}"));
        }
    }
    Ok(())
}

fn switching_tasks_is_reversible(device: &TestDevice) -> Result<(), String> {
    let model = task_switching::Model::new(device.handle(0)).map_err(say)?;
    let alone: Vec<_> =
        (0..4).map(|task| model.forward([task; 4]).map_err(say)).collect::<Result<_, String>>()?;
    let (mixed, active) = model.forward([3, 0, 2, 1]).map_err(say)?;
    if active != 8 || alone.iter().any(|(_, active)| *active != 8) {
        return Err("two heads a sample are active".into());
    }
    let per_sample = mixed.len() / 4;
    for (b, task) in [3, 0, 2, 1].into_iter().enumerate() {
        let own = b * per_sample..(b + 1) * per_sample;
        same_bits("mixed batch", &mixed[own.clone()], &alone[task].0[own])?;
    }
    if alone[0].0 == alone[1].0 {
        return Err("tasks 0 and 1 give the same".into());
    }
    same_bits("back at task 0", &model.forward([0; 4]).map_err(say)?.0, &alone[0].0)
}

/// Against softmax over the tasks written out.
fn tasks_attend_to_each_other(device: &TestDevice) -> Result<(), String> {
    let (own, mixed) = inter_task_attention::mix(device.handle(0)).map_err(say)?;
    let (batch, tasks, rows, dim) = (2, 3, 4 * 6, 8);
    let at = |b: usize, t: usize, r: usize| -> Vec<f64> {
        let first = ((b * tasks + t) * rows + r) * dim;
        own[first..first + dim].iter().map(|&x| x.into()).collect()
    };
    let mut want = Vec::new();
    for (b, t, r) in (0..batch).flat_map(|b| (0..tasks).flat_map(move |t| (0..rows).map(move |r| (b, t, r))))
    {
        let dot = |x: &[f64], y: &[f64]| -> f64 { x.iter().zip(y).map(|(x, y)| x * y).sum() };
        let scores: Vec<f64> =
            (0..tasks).map(|j| (dot(&at(b, t, r), &at(b, j, r)) / (dim as f64).sqrt()).exp()).collect();
        let total: f64 = scores.iter().sum();
        want.extend((0..dim).map(|d| (0..tasks).map(|j| scores[j] / total * at(b, j, r)[d]).sum::<f64>()));
    }
    close("mixed", &mixed, &want, &vec![64.0 * U; want.len()]).map(drop)
}
