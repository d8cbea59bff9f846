//! What the program does: one function for each way to call it.

use super::add_task::{self, Added};
use super::arguments::{Arguments, Source};
use super::checkpoint;
use super::compare::{self, Finished, in_parallel};
use super::data::{Codec, Data, Info};
use super::inspect::looks;
use super::json;
use super::model::Variant;
use super::phase::{self, Recalled, Score};
use super::predict as predictions;
use super::report::{self, Page};
use super::stream as streaming;
use super::train::Run;
use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

/// Held-out sequences of phase recall.
const PHASE_HELD_OUT: usize = 600;
/// Example sequences of each task in the report.
const EXAMPLES: usize = 3;

/// Writes records of the synthetic tasks.
///
/// # Errors
/// What cannot be written.
pub fn emit(arguments: &Arguments, count: usize, output: &mut impl Write) -> Result<()> {
    let Source::Synthetic(mut synthetic) = arguments.source() else {
        anyhow::bail!("--emit writes the synthetic tasks, without --data");
    };
    synthetic.train = count;
    let data = synthetic.data()?;
    for sample in &data.train {
        writeln!(output, "{}", serde_json::to_string(&data.codec.record(sample))?)?;
    }
    Ok(())
}

/// Learns from records on standard input, with a new model or one that is resumed.
///
/// # Errors
/// As [`streaming::learn`]; a checkpoint that cannot be read.
pub fn stream(arguments: &Arguments, input: impl BufRead, output: &mut impl Write) -> Result<()> {
    let config = arguments.config()?;
    let mut run = match &arguments.resume {
        Some(path) => checkpoint::load(path, &config.device)?.0,
        None => {
            let variant = arguments.variant.first().copied().unwrap_or(Variant::Gated);
            Run::new(arguments.options(variant, 1, 0), &config, &Info::default())?
        }
    };
    let options = streaming::Options {
        batch: arguments.batch.unwrap_or(16),
        rate: arguments.rate,
        every: arguments.every,
        strict: arguments.strict,
        json: arguments.json,
        save: arguments.save.clone(),
    };
    streaming::learn(&mut run, input, &options, output, &mut std::io::stderr())?;
    Ok(())
}

/// Predicts the records of a file.
///
/// # Errors
/// As [`predictions::predict`]; a checkpoint that cannot be read.
pub fn predict(arguments: &Arguments, path: &Path, output: &mut impl Write) -> Result<()> {
    let device = arguments.config()?.device;
    let checkpoint = arguments.resume.as_deref().context("--predict needs --resume")?;
    let (run, _) = checkpoint::load(checkpoint, &device)?;
    let confusions = predictions::predict(&run, path, output)?;
    if confusions.iter().any(|of| of.total() > 0) {
        eprintln!("{}", json::results(&run.info.tasks, &confusions));
    }
    Ok(())
}

/// Goes on with a checkpoint: to the end of its schedule, or with a new task.
///
/// # Errors
/// A checkpoint or data that cannot be read or do not go together; the training's.
pub fn resume(arguments: &Arguments, path: &Path) -> Result<()> {
    let start = Instant::now();
    let config = arguments.config()?;
    let (mut run, mut source) = checkpoint::load(path, &config.device)?;
    if let Some(name) = &arguments.add_task {
        let old = source.data().map(|data| data.held_out).unwrap_or_default();
        let from = if arguments.data.is_some() { arguments.source() } else { source };
        let steps = arguments.steps(0).unwrap_or(750);
        let added = add_task::add(&mut run, name, &from, &old, steps, |_| Ok(()))?;
        if let Some(path) = &arguments.save {
            checkpoint::save(path, &run, &Source::Added { task: name.clone(), from: Box::new(from) })?;
        }
        let tasks = run.info.tasks.clone();
        let found =
            json::Found { tasks: &tasks, seconds: start.elapsed().as_secs_f64(), ..Default::default() };
        if arguments.json {
            println!("{}", json::object(&json::Found { added: &[added], ..found }));
        } else {
            add_task::print(&[added]);
        }
        return Ok(());
    }
    if arguments.data.is_some() {
        source = arguments.source();
    }
    let data = match &source {
        Source::Added { task, from } => {
            let mut codec = Codec::new(run.info.clone());
            let (train, held_out) = add_task::samples(task, from, &mut codec)?;
            Data { train, held_out, codec }
        }
        other => other.data()?,
    };
    ensure!(
        data.codec.info == run.info,
        "these are not the data that {} was trained on: other tasks, tokens or labels",
        path.display()
    );
    if let Some(steps) = arguments.steps(data.train.len()) {
        run.options.steps = steps;
    }
    let until = arguments.stop_at.unwrap_or(run.options.steps).min(run.options.steps);
    let bar = bar(until.saturating_sub(run.step()), "resumed")?;
    run.train(&data, until, |run| keep(arguments, run, &source, &bar))?;
    bar.finish_and_clear();
    if let Some(path) = &arguments.save {
        checkpoint::save(path, &run, &source)?;
    }
    let finished = [Finished::new(run, &data.held_out)?];
    tell(arguments, &data, &finished, &[], &[], start)
}

/// Trains every variant with every seed, and quantum attention on phase recall.
///
/// # Errors
/// Data that cannot be read; the training's; a report that cannot be written.
pub fn compare(arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    let source = arguments.source();
    let data = source.data()?;
    let config = arguments.config()?;
    if !arguments.json {
        println!(
            "{} training and {} held-out sequences, {} tasks; attention on {:?}",
            data.train.len(),
            data.held_out.len(),
            data.codec.info.tasks.len(),
            config.device
        );
    }
    let variants =
        if arguments.variant.is_empty() { Variant::ALL.to_vec() } else { arguments.variant.clone() };
    // Seeds outside, variants inside: a machine that slows down slows all variants alike.
    let plan: Vec<(u64, Variant)> =
        (1..=arguments.seeds).flat_map(|seed| variants.iter().map(move |&variant| (seed, variant))).collect();
    let saved = plan.iter().position(|&(_, variant)| variant == Variant::Gated).unwrap_or(0);
    let steps = arguments.steps(data.train.len()).unwrap_or(1500);
    let phases: Vec<(u64, Score)> = match arguments.no_phase || arguments.data.is_some() {
        true => Vec::new(),
        false => (1..=arguments.seeds).flat_map(|seed| Score::ALL.map(move |score| (seed, score))).collect(),
    };
    let phase_steps = (steps / 5).clamp(1, 300);
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let bar = bar(plan.len() * steps + phases.len() * phase_steps, "training")?;
    let numbered: Vec<(usize, (u64, Variant))> = plan.into_iter().enumerate().collect();
    let runs = in_parallel(&numbered, workers, |&(index, (seed, variant))| {
        let options = arguments.options(variant, seed, data.train.len());
        let until = arguments.stop_at.unwrap_or(steps).min(steps);
        let mut run = Run::new(options, &config, &data.codec.info)?;
        run.train(&data, until, |run| match index == saved {
            true => keep(arguments, run, &source, &bar),
            false => {
                bar.inc(1);
                Ok(())
            }
        })?;
        if let (true, Some(path)) = (index == saved, &arguments.save) {
            checkpoint::save(path, &run, &source)?;
        }
        Finished::new(run, &data.held_out)
    })?;
    let recalled = in_parallel(&phases, workers, |&(seed, score)| {
        phase::run(score, seed, phase_steps, PHASE_HELD_OUT, || bar.inc(1))
    })?;
    let added = match &arguments.add_task {
        Some(name) => add_to_each(name, arguments, &source, &data, &runs, workers)?,
        None => Vec::new(),
    };
    bar.finish_and_clear();
    tell(arguments, &data, &runs, &recalled, &added, start)
}

/// Adds a task to every gated model, and to every one of hard sharing for comparison. The runs stay as they are.
fn add_to_each(
    name: &str,
    arguments: &Arguments,
    source: &Source,
    data: &Data,
    runs: &[Finished],
    workers: usize,
) -> Result<Vec<Added>> {
    let of =
        |finished: &&Finished| matches!(finished.run.options.variant, Variant::Gated | Variant::HardSharing);
    let runs: Vec<&Finished> = runs.iter().filter(of).collect();
    let steps = arguments.steps(data.train.len()).map_or(750, |steps| steps.div_ceil(2));
    in_parallel(&runs, workers, |finished| {
        let device = &finished.run.model.config.device;
        let (mut run, _) = checkpoint::decode(&checkpoint::encode(&finished.run, source)?, device)?;
        add_task::add(&mut run, name, source, &data.held_out, steps, |_| Ok(()))
    })
}

/// Writes the checkpoint wherever the run is evaluated.
fn keep(arguments: &Arguments, run: &Run, source: &Source, bar: &ProgressBar) -> Result<()> {
    bar.inc(1);
    match &arguments.save {
        Some(path) if run.step().is_multiple_of(run.options.evaluate_every) => {
            checkpoint::save(path, run, source)
        }
        _ => Ok(()),
    }
}

fn bar(steps: usize, message: &'static str) -> Result<ProgressBar> {
    let bar = ProgressBar::new(steps as u64).with_message(message);
    bar.set_style(ProgressStyle::with_template("{msg:10} {bar:40} {percent:>3}%  {elapsed} (left {eta})")?);
    Ok(bar)
}

/// Prints and reports what was found.
fn tell(
    arguments: &Arguments,
    data: &Data,
    runs: &[Finished],
    phase: &[Recalled],
    added: &[Added],
    start: Instant,
) -> Result<()> {
    let config = &runs[0].run.model.config;
    let rows = compare::rows(runs, config);
    let looks = runs
        .iter()
        .map(|finished| looks(&finished.run, &data.held_out, EXAMPLES))
        .collect::<Result<Vec<_>>>()?;
    let tasks = &data.codec.info.tasks;
    let found = json::Found {
        tasks,
        rows: &rows,
        runs,
        looks: &looks,
        phase,
        added,
        seconds: start.elapsed().as_secs_f64(),
    };
    let html = report::html(&Page { found: &found, data, synthetic: arguments.data.is_none() });
    std::fs::write(&arguments.report, html)
        .with_context(|| format!("cannot write {}", arguments.report.display()))?;
    if arguments.json {
        println!("{}", json::object(&found));
        return Ok(());
    }
    compare::print_table(&rows, tasks);
    if !phase.is_empty() {
        compare::print_phase(phase);
    }
    add_task::print(added);
    println!(
        "\n{} runs in {:.0} s; report in {}",
        runs.len() + phase.len() + added.len(),
        start.elapsed().as_secs_f64(),
        arguments.report.display()
    );
    Ok(())
}
