//! All metrics as one JSON object.

use super::add_task::Added;
use super::compare::{Finished, Row, verdict};
use super::inspect::Look;
use super::metrics::{Confusion, Summary};
use super::phase::{self, Recalled};
use serde_json::{Map, Value, json};

/// What a comparison found; parts that were not asked for are empty.
#[derive(Clone, Copy, Default)]
pub struct Found<'a> {
    pub tasks: &'a [String],
    pub rows: &'a [Row],
    pub runs: &'a [Finished],
    /// Of the run at the same place.
    pub looks: &'a [Vec<Look>],
    pub phase: &'a [Recalled],
    pub added: &'a [Added],
    pub seconds: f64,
}

fn by_task<T: serde::Serialize>(tasks: &[String], values: impl IntoIterator<Item = T>) -> Value {
    let pairs = tasks.iter().zip(values).map(|(task, value)| (task.clone(), json!(value)));
    Value::Object(pairs.collect::<Map<_, _>>())
}

/// The object that `--json` prints.
pub fn object(found: &Found<'_>) -> Value {
    let Found { tasks, .. } = found;
    let variants = found.rows.iter().map(|row| {
        json!({
            "variant": row.variant, "name": row.name,
            "accuracy": by_task(tasks, &row.accuracy), "mean_accuracy": row.mean_accuracy,
            "macro_f1": row.macro_f1, "heads": row.heads, "heads_computed": row.computed,
            "milliseconds_a_step": row.milliseconds,
        })
    });
    let runs = found.runs.iter().enumerate().map(|(index, finished)| {
        let run = &finished.run;
        json!({
            "variant": run.options.variant, "seed": run.options.seed, "steps": run.step(), "options": run.options,
            "accuracy": by_task(tasks, finished.confusions.iter().map(Confusion::accuracy)),
            "macro_f1": by_task(tasks, finished.confusions.iter().map(Confusion::macro_f1)),
            "heads_computed_share": finished.computed,
            "loss": run.history.losses.last(), "curve": run.history.curve,
            "gates": run.history.gates.last().map(|(_, gates)| by_task(tasks, gates)),
            "loss_weights": run.history.weights.last().map(|(_, weights)| by_task(tasks, weights)),
            "attention": found.looks.get(index).into_iter().flatten().map(|look| json!({
                "task": tasks[look.task], "entropy": look.entropy, "most_entropy": look.most_entropy,
                "share_on_answer": look.on_answer.map(|of| of.0), "answer_share_of_tokens": look.on_answer.map(|of| of.1),
                "heads": look.heads,
            })).collect::<Vec<_>>(),
        })
    });
    let phase = (!found.phase.is_empty()).then(|| {
        let rows = phase::rows(found.phase);
        let rows = rows.iter().map(|row| {
            json!({
                "score": row.score, "accuracy": by_task(&phase::states::TASKS.map(String::from), &row.exact),
                "mean": row.mean, "shots_1024": row.shots, "unknown_signs": row.signs, "tau": row.tau,
            })
        });
        json!({ "chance": 1.0 / phase::states::CLASSES as f64, "scores": rows.collect::<Vec<_>>() })
    });
    let added = found.added.iter().map(|of| {
        json!({
            "variant": of.variant, "task": of.tasks.last(), "before": by_task(&of.tasks, &of.before),
            "after": by_task(&of.tasks, &of.after), "parameters_trained": of.trained, "parameters": of.parameters,
            "gates": of.gates,
        })
    });
    json!({
        "tasks": tasks, "variants": variants.collect::<Vec<_>>(), "verdict": verdict(found.rows),
        "runs": runs.collect::<Vec<_>>(), "phase_recall": phase, "added": added.collect::<Vec<_>>(),
        "seconds": found.seconds,
    })
}

/// Results by task: accuracy and macro F1.
pub fn results(tasks: &[String], confusions: &[Confusion]) -> Value {
    let entry =
        |of: &Confusion| json!({"records": of.total(), "accuracy": of.accuracy(), "macro_f1": of.macro_f1()});
    json!({
        "tasks": by_task(tasks, confusions.iter().map(entry)),
        "mean_accuracy": Summary::of(confusions.iter().filter_map(Confusion::accuracy)).mean,
    })
}
