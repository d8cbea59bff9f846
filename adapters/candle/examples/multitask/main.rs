//! Trains one transformer layer on a mix of tasks in four variants, and compares them on held-out data.
//!
//! `cargo run --release -p gatewarp-candle --example multitask` learns the five synthetic tasks; `--data FILE.jsonl` learns
//! from records `{"tokens":[…],"task":"name","label":k}`. Writes `report.html`.

mod data;
mod metrics;
mod model;
mod report;
mod train;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use metrics::Summary;
use model::{Config, Variant};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use train::{Run, Schedule, train};

#[derive(Parser)]
#[command(
    about = "Trains task-gated attention heads on a mix of tasks and compares them with other ways of sharing"
)]
struct Arguments {
    /// JSON Lines file to learn from instead of the synthetic tasks
    #[arg(long, value_name = "FILE.jsonl")]
    data: Option<PathBuf>,
    /// Where attention runs: cpu, wgpu:N, cuda:N
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Training steps of each run
    #[arg(long, default_value_t = 1500)]
    steps: usize,
    /// Samples in a batch
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Peak learning rate
    #[arg(long, default_value_t = 4e-3)]
    rate: f64,
    /// Runs of each variant, with seeds 1, 2, …
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Where to write the report
    #[arg(long, default_value = "report.html")]
    report: PathBuf,
}

/// The layer is small: a thread for each run beats several threads inside one, and candle's pool of spinning threads is ten times
/// slower still when the cores are busy. A user's own setting stands.
fn one_thread_a_run() {
    for name in ["CANDLE_NUM_THREADS", "RAYON_NUM_THREADS"] {
        if std::env::var_os(name).is_none() {
            // SAFETY: called first in `main`, so no other thread reads the environment.
            unsafe { std::env::set_var(name, "1") };
        }
    }
}

/// `work` on every item, on `workers` threads; the results in the items' order, or the first error in it.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    workers: usize,
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let take = || {
        let index = next.fetch_add(1, Ordering::Relaxed);
        items.get(index).map(|item| (index, item))
    };
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((index, item)) = take() {
                    let result = work(item);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn main() -> Result<()> {
    one_thread_a_run();
    let arguments = Arguments::parse();
    ensure!(
        arguments.steps > 0 && arguments.batch > 0 && arguments.seeds > 0,
        "steps, batch and seeds start at 1"
    );
    let data = match &arguments.data {
        Some(path) => data::from_file(path, 7)?,
        None => data::synthetic(20_000, 2_000, 7),
    };
    let device: gatewarp::Device = arguments.device.parse()?;
    println!(
        "{} training and {} held-out sequences, {} tasks; attention on {device:?}",
        data.train.len(),
        data.held_out.len(),
        data.info.tasks.len()
    );
    let config = Config { device, ..Config::default() };
    let schedule = Schedule {
        steps: arguments.steps,
        batch: arguments.batch,
        learning_rate: arguments.rate,
        evaluate_every: (arguments.steps / 15).max(1),
    };
    let start = Instant::now();
    let bar = ProgressBar::new(arguments.seeds * 4 * arguments.steps as u64);
    bar.set_style(ProgressStyle::with_template("{msg:28} {bar:40} {percent:>3}%  {elapsed} (left {eta})")?);
    // Seeds outside, variants inside: a machine that slows down slows all variants alike.
    let plan: Vec<(u64, Variant)> =
        (1..=arguments.seeds).flat_map(|seed| Variant::ALL.map(|variant| (seed, variant))).collect();
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(plan.len());
    bar.set_message(format!("{} runs, {workers} at a time", plan.len()));
    let runs = in_parallel(&plan, workers, |&(seed, variant)| {
        train(variant, &config, &data, &schedule, seed, || bar.inc(1))
    })?;
    bar.finish_and_clear();
    let rows: Vec<Row> = Variant::ALL.into_iter().map(|v| Row::new(v, &config, &runs, &data)).collect();
    print_table(&rows, &data);
    std::fs::write(&arguments.report, report::html(&rows, &runs, &data, &config, &schedule))
        .with_context(|| format!("cannot write {}", arguments.report.display()))?;
    println!(
        "\n{} runs in {:.0} s; report in {}",
        runs.len(),
        start.elapsed().as_secs_f64(),
        arguments.report.display()
    );
    Ok(())
}

/// One variant over all seeds.
struct Row {
    variant: Variant,
    name: String,
    /// Accuracy of each task.
    accuracy: Vec<Summary>,
    mean_accuracy: Summary,
    macro_f1: Summary,
    /// Heads computed for a sample, of those the layer has.
    heads: String,
    milliseconds: Summary,
}

impl Row {
    fn new(variant: Variant, config: &Config, runs: &[Run], data: &data::Data) -> Self {
        let runs: Vec<&Run> = runs.iter().filter(|run| run.variant == variant).collect();
        let accuracy = (0..data.info.tasks.len())
            .map(|task| Summary::of(runs.iter().filter_map(|run| run.confusions[task].accuracy())))
            .collect();
        let f1 = |run: &&Run| {
            let scores = run.confusions.iter().filter_map(metrics::Confusion::macro_f1);
            Summary::of(scores).mean
        };
        let own = if variant == Variant::EqualActiveHeads { config.active } else { config.heads };
        let computed = Summary::of(runs.iter().map(|run| run.computed * own as f64)).mean;
        Self {
            variant,
            name: variant.name(config),
            accuracy,
            mean_accuracy: Summary::of(runs.iter().map(|run| train::mean_accuracy(&run.confusions))),
            macro_f1: Summary::of(runs.iter().map(f1)),
            heads: format!("{computed:.1} of {own}"),
            milliseconds: Summary::of(runs.iter().map(|run| run.step.as_secs_f64() * 1e3)),
        }
    }
}

fn print_table(rows: &[Row], data: &data::Data) {
    println!("\nHeld-out data, mean ± deviation over seeds");
    let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    print_row("", &names);
    for (task, name) in data.info.tasks.iter().enumerate() {
        let cells: Vec<String> = rows.iter().map(|row| row.accuracy[task].to_string()).collect();
        print_row(&format!("accuracy, {name}"), &cells);
    }
    let line = |label: &str, cell: &dyn Fn(&Row) -> String| {
        print_row(label, &rows.iter().map(cell).collect::<Vec<_>>());
    };
    line("accuracy, mean of tasks", &|row| row.mean_accuracy.to_string());
    line("macro F1, mean of tasks", &|row| row.macro_f1.to_string());
    line("heads computed", &|row| row.heads.clone());
    line("milliseconds a step", &|row| format!("{:.1}", row.milliseconds));
}

fn print_row(label: &str, cells: &[impl AsRef<str>]) {
    print!("{label:<28}");
    for cell in cells {
        print!("{:>25}", cell.as_ref());
    }
    println!();
}
