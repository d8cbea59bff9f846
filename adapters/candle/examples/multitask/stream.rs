//! Learning from records as they arrive: each is predicted first, and only then learned from.

use super::arguments::Source;
use super::checkpoint;
use super::data::{Batch, Codec, Record, Sample};
use super::train::Run;
use anyhow::{Context, Result, ensure};
use candle_core::D;
use serde_json::json;
use std::collections::VecDeque;
use std::io::{BufRead, Write};
use std::path::PathBuf;

/// Losses of a stream's last steps that are kept, at least.
const KEPT_LOSSES: usize = 10_000;

/// How a stream is learned.
pub struct Options {
    /// Records a training step.
    pub batch: usize,
    /// Highest learning rate; it rises over the first 20 steps of a new model.
    pub rate: f64,
    /// Records between lines of metrics, and the window that accuracies are taken over.
    pub every: usize,
    /// Stop at the first line that is no record.
    pub strict: bool,
    /// Metrics as JSON objects.
    pub json: bool,
    /// Where the run is kept, at each line of metrics and at the end.
    pub save: Option<PathBuf>,
}

/// What a stream left behind, besides the run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    pub records: usize,
    pub skipped: usize,
    /// Predictions that were right before their record was learned from, and all predictions, by task.
    pub by_task: Vec<(usize, usize)>,
}

/// The last predictions of each task: whether they were right.
struct Window {
    last: VecDeque<(u32, bool)>,
    size: usize,
}

impl Window {
    fn push(&mut self, task: u32, right: bool) {
        if self.last.len() == self.size {
            self.last.pop_front();
        }
        self.last.push_back((task, right));
    }

    /// Accuracy of one task, or of all; `None` without predictions.
    fn accuracy(&self, task: Option<u32>) -> Option<f64> {
        let of_task = self.last.iter().filter(|(t, _)| task.is_none_or(|task| task == *t));
        let (count, right) =
            of_task.fold((0usize, 0usize), |(n, right), (_, ok)| (n + 1, right + usize::from(*ok)));
        (count > 0).then(|| right as f64 / count as f64)
    }
}

/// A stream being learned.
struct Stream<'a, W> {
    run: &'a mut Run,
    codec: Codec,
    options: &'a Options,
    output: &'a mut W,
    tally: Tally,
    window: Window,
    waiting: Vec<Sample>,
}

/// Learns every record of `input`. The run grows with what it meets: new tasks, tokens, labels and lengths.
///
/// A line that is no record is reported with its number on `errors` and skipped, or, if the options are strict, ends the stream with an
/// error; either way all records before it have been learned from and the run is as good as before.
///
/// # Errors
/// The number of a malformed line, when strict; what cannot be read, written or saved.
pub fn learn(
    run: &mut Run,
    input: impl BufRead,
    options: &Options,
    output: &mut impl Write,
    errors: &mut impl Write,
) -> Result<Tally> {
    let codec = Codec::new(run.info.clone());
    let window = Window { last: VecDeque::new(), size: options.every };
    let mut stream =
        Stream { run, codec, options, output, tally: Tally::default(), window, waiting: Vec::new() };
    for (number, line) in (1..).zip(input.split(b'\n')) {
        let line = line.with_context(|| format!("line {number}"))?;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match stream.sample(&line) {
            Ok(sample) => stream.take(sample)?,
            Err(error) if options.strict => {
                stream.finish()?;
                return Err(error.context(format!("line {number}")));
            }
            Err(error) => {
                stream.tally.skipped += 1;
                writeln!(errors, "line {number} skipped: {error:#}")?;
            }
        }
    }
    stream.finish()?;
    Ok(stream.tally)
}

impl<W: Write> Stream<'_, W> {
    fn sample(&mut self, line: &[u8]) -> Result<Sample> {
        let record = Record::parse(std::str::from_utf8(line)?)?;
        let info = &self.codec.info;
        // One record must not make the model enormous.
        ensure!(
            info.tasks.len() < 1000 || self.codec.task(&record.task).is_some(),
            "a task beyond the thousandth"
        );
        ensure!(info.tokens.len() < 1_000_000, "the vocabulary is full");
        self.codec.learn(&record)
    }

    fn take(&mut self, sample: Sample) -> Result<()> {
        self.waiting.push(sample);
        self.tally.records += 1;
        if self.waiting.len() == self.options.batch {
            self.predict_then_learn()?;
        }
        if self.tally.records.is_multiple_of(self.options.every) {
            self.report()?;
        }
        Ok(())
    }

    /// Predictions of all waiting records come from the run before any of them is learned from.
    fn predict_then_learn(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        // A class that was not there before its record cannot have been predicted.
        let known = self.run.info.classes;
        self.run.grow(&self.codec.info, 0, false)?;
        let batch = Batch::new(&self.waiting);
        let predictions: Vec<u32> = self.run.model.forward(&batch)?.logits.argmax(D::Minus1)?.to_vec1()?;
        self.tally.by_task.resize(self.codec.info.tasks.len(), (0, 0));
        for (sample, prediction) in self.waiting.drain(..).zip(predictions) {
            let right = sample.label == prediction && (sample.label as usize) < known;
            let (hits, all) = &mut self.tally.by_task[sample.task as usize];
            (*hits, *all) = (*hits + usize::from(right), *all + 1);
            self.window.push(sample.task, right);
        }
        let warm = ((self.run.step() + 1) as f64 / 20.0).min(1.0);
        self.run.learn(&batch, self.options.rate * warm)?;
        // A stream may have no end: a checkpoint holds the losses of its last steps.
        let losses = &mut self.run.history.losses;
        if losses.len() >= 2 * KEPT_LOSSES {
            losses.drain(..KEPT_LOSSES);
        }
        Ok(())
    }

    fn report(&mut self) -> Result<()> {
        let Tally { records, skipped, by_task } = &self.tally;
        let losses = &self.run.history.losses;
        let recent = &losses[losses.len().saturating_sub(self.options.every.div_ceil(self.options.batch))..];
        let loss = recent.iter().copied().map(f64::from).sum::<f64>() / recent.len().max(1) as f64;
        let tasks = || (0..).zip(&self.codec.info.tasks);
        if self.options.json {
            let tasks: serde_json::Map<_, _> = tasks()
                .map(|(task, name)| {
                    let (right, all) = by_task.get(task as usize).copied().unwrap_or((0, 0));
                    let recent = self.window.accuracy(Some(task));
                    (name.clone(), json!({"records": all, "right": right, "recent_accuracy": recent}))
                })
                .collect();
            let recent = self.window.accuracy(None);
            let line = json!({
                "records": records, "skipped": skipped, "steps": self.run.step(), "loss": loss,
                "recent_accuracy": recent, "tasks": tasks,
            });
            writeln!(self.output, "{line}")?;
        } else {
            let percent =
                |accuracy: Option<f64>| accuracy.map_or("–".into(), |a| format!("{:.0}%", 100.0 * a));
            let all = percent(self.window.accuracy(None));
            let tasks: Vec<String> = tasks()
                .map(|(task, name)| format!("{name} {}", percent(self.window.accuracy(Some(task)))))
                .collect();
            writeln!(
                self.output,
                "{records} records, {skipped} skipped; loss {loss:.3}; right of the last {}: {all} ({})",
                self.window.last.len(),
                tasks.join(", ")
            )?;
        }
        self.output.flush()?;
        self.save()
    }

    fn save(&self) -> Result<()> {
        self.options.save.as_ref().map_or(Ok(()), |path| checkpoint::save(path, self.run, &Source::Stream))
    }

    /// What is waiting is learned too.
    fn finish(&mut self) -> Result<()> {
        self.predict_then_learn()?;
        self.report()
    }
}
