//! Many runs at once, and what came out of them.

use super::metrics::{Confusion, Summary};
use super::model::{Config, Variant};
use super::phase::{self, Recalled};
use super::train::{Run, mean_accuracy};
use anyhow::Result;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// A run and its results on all held-out data.
pub struct Finished {
    pub run: Run,
    /// Held-out predictions of each task.
    pub confusions: Vec<Confusion>,
    /// Share of (sample, head) pairs computed on held-out data.
    pub computed: f64,
}

impl Finished {
    /// # Errors
    /// candle's.
    pub fn new(run: Run, held_out: &[super::data::Sample]) -> Result<Self> {
        let (confusions, computed) = run.evaluate(held_out)?;
        Ok(Self { run, confusions, computed })
    }
}

/// `work` on every item, on `workers` threads; the results in the items' order, or the first error in it.
///
/// # Errors
/// The first error of `work`.
pub fn in_parallel<T: Sync, R: Send>(
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

/// One variant over all seeds.
pub struct Row {
    pub variant: Variant,
    pub name: String,
    /// Accuracy of each task.
    pub accuracy: Vec<Summary>,
    pub mean_accuracy: Summary,
    pub macro_f1: Summary,
    /// Heads computed for a sample, of those the layer has.
    pub computed: f64,
    pub heads: usize,
    pub milliseconds: Summary,
}

impl Row {
    fn new(variant: Variant, config: &Config, runs: &[&Finished]) -> Self {
        let tasks = runs.first().map_or(0, |finished| finished.run.info.tasks.len());
        let accuracy = (0..tasks)
            .map(|task| Summary::of(runs.iter().filter_map(|finished| finished.confusions[task].accuracy())));
        let f1 = |finished: &&Finished| {
            Summary::of(finished.confusions.iter().filter_map(Confusion::macro_f1)).mean
        };
        let heads = runs.first().map_or(0, |finished| finished.run.model.heads());
        let step = |finished: &&Finished| {
            finished.run.history.seconds * 1e3 / finished.run.history.losses.len().max(1) as f64
        };
        Self {
            variant,
            name: variant.name(config),
            accuracy: accuracy.collect(),
            mean_accuracy: Summary::of(runs.iter().map(|finished| mean_accuracy(&finished.confusions))),
            macro_f1: Summary::of(runs.iter().map(f1)),
            computed: Summary::of(runs.iter().map(|finished| finished.computed * heads as f64)).mean,
            heads,
            milliseconds: Summary::of(runs.iter().map(step)),
        }
    }

    pub fn heads_text(&self) -> String {
        format!("{:.1} of {}", self.computed, self.heads)
    }
}

/// A row for each variant that was run.
pub fn rows(runs: &[Finished], config: &Config) -> Vec<Row> {
    let of = |variant| -> Vec<&Finished> {
        runs.iter().filter(|finished| finished.run.options.variant == variant).collect()
    };
    let present = Variant::ALL.into_iter().filter(|&variant| !of(variant).is_empty());
    present.map(|variant| Row::new(variant, config, &of(variant))).collect()
}

/// What can be said of the gated model against the others, from the table alone. One seed shows no noise, so nothing is said of it.
pub fn verdict(rows: &[Row]) -> Option<String> {
    let gated = rows.iter().find(|row| row.variant == Variant::Gated)?;
    if rows.iter().any(|row| row.mean_accuracy.count < 2) {
        return None;
    }
    let others = rows.iter().filter(|row| row.variant != Variant::Gated);
    let said = others.map(|other| {
        let difference = gated.mean_accuracy.mean - other.mean_accuracy.mean;
        // Two deviations of the difference of the seeds' means.
        let noise = 2.0 * gated.mean_accuracy.error().hypot(other.mean_accuracy.error());
        let how = if difference.abs() <= noise.max(1e-3) {
            "no different from".to_owned()
        } else {
            let way = if difference > 0.0 { "above" } else { "below" };
            format!("{:.1} points {way}", 100.0 * difference.abs())
        };
        format!("{how} {} ({:.1} of {} heads computed)", other.name, other.computed, other.heads)
    });
    let said: Vec<String> = said.collect();
    (!said.is_empty()).then(|| {
        let heads = gated.heads_text();
        format!("The gated model, computing {heads} heads, is in mean accuracy {}.", said.join("; "))
    })
}

/// The table of all variants, for a terminal.
pub fn print_table(rows: &[Row], tasks: &[String]) {
    println!("\nHeld-out data, mean ± deviation over seeds");
    let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    print_row("", &names);
    for (task, name) in tasks.iter().enumerate() {
        let cells: Vec<String> = rows.iter().map(|row| row.accuracy[task].to_string()).collect();
        print_row(&format!("accuracy, {name}"), &cells);
    }
    let line = |label: &str, cell: &dyn Fn(&Row) -> String| {
        print_row(label, &rows.iter().map(cell).collect::<Vec<_>>());
    };
    line("accuracy, mean of tasks", &|row| row.mean_accuracy.to_string());
    line("macro F1, mean of tasks", &|row| row.macro_f1.to_string());
    line("heads computed", &|row| row.heads_text());
    line("milliseconds a step", &|row| format!("{:.1}", row.milliseconds));
    if let Some(verdict) = verdict(rows) {
        println!("{verdict}");
    }
}

/// The table of phase recall.
pub fn print_phase(results: &[Recalled]) {
    println!(
        "\nPhase recall: {} noisy key states of {} qubits that differ in phase alone, chance {:.3}",
        phase::states::LENGTH - 1,
        phase::states::QUBITS,
        1.0 / phase::states::CLASSES as f64
    );
    let [same, turned] = phase::states::TASKS;
    print_row("", &[same, turned, "both, 1024 shots", "both, unknown signs", "τ learned"]);
    for row in phase::rows(results) {
        let cells = [row.exact[0], row.exact[1], row.shots, row.signs].map(|of| of.to_string());
        print_row(row.score.name(), &[&cells[..], &[format!("{:.1}", row.tau)]].concat());
    }
}

pub fn print_row(label: &str, cells: &[impl AsRef<str>]) {
    print!("{label:<32}");
    for cell in cells {
        print!("{:>25}", cell.as_ref());
    }
    println!();
}
