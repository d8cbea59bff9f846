//! A new task for a trained model. What the model has is frozen; the task gets its own readout, its own gate and, in a gated model, heads
//! that no other task uses.

use super::arguments::Source;
use super::data::{Codec, Data, Sample};
use super::metrics::{Confusion, Summary};
use super::model::Variant;
use super::records;
use super::train::{History, Run};
use anyhow::{Context, Result, bail, ensure};

/// What adding a task did.
pub struct Added {
    /// The model's tasks before, and the new one.
    pub tasks: Vec<String>,
    pub variant: Variant,
    /// Held-out accuracy of each task before and after; the new task has none before.
    pub before: Vec<Option<f64>>,
    pub after: Vec<Option<f64>>,
    /// Parameters that were trained, of all the model has now.
    pub trained: usize,
    pub parameters: usize,
    /// Gates of the new task, where there are any.
    pub gates: Option<Vec<f32>>,
}

/// The samples of the task `name` from `source`, for the tasks and tokens of `codec`, which gets to know the task.
///
/// # Errors
/// A task the model has; as [`records::one_task`] and [`Synthetic::one_task`](super::synthetic::Synthetic::one_task).
pub fn samples(name: &str, source: &Source, codec: &mut Codec) -> Result<(Vec<Sample>, Vec<Sample>)> {
    let task = match codec.task(name) {
        // Going on with a task that was added.
        Some(task) if task as usize + 1 == codec.info.tasks.len() => task as usize,
        Some(_) => bail!("the model has a task `{name}`"),
        None => codec.info.tasks.len(),
    };
    match source {
        Source::Synthetic(synthetic) => {
            let samples = synthetic.one_task(name, task)?;
            ensure!(
                codec.info.tokens == super::synthetic::codec(&[]).info.tokens,
                "the model was not trained on the synthetic tasks; give --data FILE.jsonl"
            );
            let mut info = codec.info.clone();
            if task == info.tasks.len() {
                info.tasks.push(name.to_owned());
            }
            *codec = Codec::new(info);
            Ok(samples)
        }
        Source::File { path, seed } => records::one_task(path, name, codec, *seed),
        Source::Added { from, .. } => samples(name, from, codec),
        Source::Stream => bail!("a stream is gone; give --data FILE.jsonl"),
    }
}

/// Adds the task `name` to a model, and trains what is new. `old` is held-out data of the model's tasks.
///
/// # Errors
/// As [`samples`], and the training's.
pub fn add(
    run: &mut Run,
    name: &str,
    source: &Source,
    old: &[Sample],
    steps: usize,
    mut progress: impl FnMut(&Run) -> Result<()>,
) -> Result<Added> {
    ensure!(
        !run.info.tasks.iter().any(|task| task == name),
        "the model has a task `{name}`: {}",
        run.info.tasks.join(", ")
    );
    let mut codec = Codec::new(run.info.clone());
    let (train, held_out) = samples(name, source, &mut codec).context("--add-task")?;
    let before = accuracies(&run.evaluate(old)?.0);
    let gated = run.options.variant == Variant::Gated;
    run.grow(&codec.info, if gated { run.model.config.active } else { 0 }, true)?;
    // A training of its own, with moments that begin at zero where anything is trained.
    run.optimiser.step = 0;
    run.options.steps = steps;
    run.options.evaluate_every = (steps / 15).max(1);
    run.history = History::default();
    let data = Data { train, held_out, codec };
    run.train(&data, steps, &mut progress)?;
    let (mut confusions, new) = (run.evaluate(old)?.0, run.evaluate(&data.held_out)?.0);
    let at = confusions.len() - 1;
    confusions[at] = new[at].clone();
    let (mut trained, mut parameters) = (0, 0);
    for moments in &run.optimiser.moments {
        // The loss weights are not part of the model.
        if moments.parameter.name != "log_variance" {
            parameters += moments.first.len();
            trained += moments.frozen.iter().filter(|&&frozen| !frozen).count();
        }
    }
    Ok(Added {
        tasks: run.info.tasks.clone(),
        variant: run.options.variant,
        before: before.into_iter().chain([None]).collect(),
        after: accuracies(&confusions),
        trained,
        parameters,
        gates: run.model.gates()?.and_then(|gates| gates.last().cloned()),
    })
}

fn accuracies(confusions: &[Confusion]) -> Vec<Option<f64>> {
    confusions.iter().map(Confusion::accuracy).collect()
}

/// The runs of one variant.
pub struct Group<'a> {
    pub variant: Variant,
    pub first: &'a Added,
    /// Of each task; what a new task had before is a summary of nothing.
    pub before: Vec<Summary>,
    pub after: Vec<Summary>,
}

/// Means over the runs of each variant.
pub fn groups(added: &[Added]) -> Vec<Group<'_>> {
    let group = |variant: Variant| {
        let of: Vec<&Added> = added.iter().filter(|of| of.variant == variant).collect();
        let first = *of.first()?;
        let over = |values: &dyn Fn(&Added) -> &Vec<Option<f64>>| {
            let task = |task: usize| Summary::of(of.iter().filter_map(|of| values(of)[task]));
            (0..first.tasks.len()).map(task).collect()
        };
        Some(Group { variant, first, before: over(&|of| &of.before), after: over(&|of| &of.after) })
    };
    Variant::ALL.into_iter().filter_map(group).collect()
}

/// The table of an added task: accuracies before and after.
pub fn print(added: &[Added]) {
    for Group { variant, first, before, after } in groups(added) {
        println!(
            "\nTask `{}` added to {}: {} of {} parameters trained",
            first.tasks.last().map_or("", String::as_str),
            variant.what(),
            first.trained,
            first.parameters
        );
        super::compare::print_row("held-out accuracy", &["before", "after"]);
        for ((task, before), after) in first.tasks.iter().zip(before).zip(after) {
            super::compare::print_row(task, &[format!("{before:.4}"), format!("{after:.4}")]);
        }
    }
}
