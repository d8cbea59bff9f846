//! Predictions of a saved model, one JSON object for each record.

use super::data::{Batch, Codec, Sample};
use super::metrics::Confusion;
use super::records::each_record;
use super::train::Run;
use anyhow::Result;
use serde_json::json;
use std::io::Write;
use std::path::Path;

/// Writes a line `{"line":…,"task":…,"prediction":…,"probability":…}` for each record, with `"right"` where it has a label; returns the
/// labelled records' results by task.
///
/// # Errors
/// The file and line of a record that is malformed or that holds a task or token the model has not seen, before anything is written.
pub fn predict(run: &Run, path: &Path, output: &mut impl Write) -> Result<Vec<Confusion>> {
    let codec = Codec::new(run.info.clone());
    let mut lines: Vec<(usize, Option<u32>, Sample)> = Vec::new();
    each_record(path, |line, record| {
        lines.push((line, record.label, codec.known(&record)?));
        Ok(())
    })?;
    // A label beyond the model's classes is a prediction that cannot be right.
    let classes = lines.iter().filter_map(|line| line.1).map(|label| label as usize + 1).max().unwrap_or(0);
    let mut confusions = vec![Confusion::new(classes.max(run.info.classes)); run.info.tasks.len()];
    for part in lines.chunks(256) {
        let probabilities = run.probabilities(&Batch::new(part.iter().map(|(.., sample)| sample)))?;
        for ((line, label, sample), row) in part.iter().zip(probabilities) {
            let (prediction, probability) = largest(&row);
            let task = &run.info.tasks[sample.task as usize];
            let mut object = json!({
                "line": line, "task": task, "prediction": prediction, "probability": probability,
            });
            if let Some(label) = label {
                object["right"] = json!(*label as usize == prediction);
                confusions[sample.task as usize].add(*label as usize, prediction);
            }
            writeln!(output, "{object}")?;
        }
    }
    Ok(confusions)
}

/// Index and value of the largest element, the first of equal ones.
fn largest(row: &[f32]) -> (usize, f32) {
    let better = |best: (usize, f32), (i, &p): (usize, &f32)| if p > best.1 { (i, p) } else { best };
    row.iter().enumerate().fold((0, f32::NEG_INFINITY), better)
}
