//! A user's JSON Lines file: training data, or sequences to predict.

use super::data::{Codec, Data, Record, Sample};
use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// The share of a user's records that is kept for evaluation.
const HELD_OUT: f64 = 0.2;

/// Calls `each` with the number and record of every line that is not blank.
///
/// # Errors
/// The file and line of the first record that is malformed or that `each` refuses.
pub fn each_record(path: &Path, mut each: impl FnMut(usize, Record) -> Result<()>) -> Result<()> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let at = || format!("{}:{number}", path.display());
        let line = line.with_context(at)?;
        if !line.trim().is_empty() {
            Record::parse(&line).and_then(|record| each(number, record)).with_context(at)?;
        }
    }
    Ok(())
}

/// Reads labelled records and splits off the held-out share.
///
/// # Errors
/// As [`each_record`]; a file with fewer than ten records.
pub fn from_file(path: &Path, seed: u64) -> Result<Data> {
    let mut codec = Codec::default();
    let mut samples = Vec::new();
    each_record(path, |_, record| {
        samples.push(codec.learn(&record)?);
        Ok(())
    })?;
    let (train, held_out) = split(samples, seed).with_context(|| path.display().to_string())?;
    Ok(Data { train, held_out, codec })
}

/// The records of one task, for a model with `codec`, which gets to know the task and its tokens.
///
/// # Errors
/// As [`from_file`]; a label the model's readout has no class for.
pub fn one_task(path: &Path, name: &str, codec: &mut Codec, seed: u64) -> Result<(Vec<Sample>, Vec<Sample>)> {
    let classes = codec.info.classes;
    let mut samples = Vec::new();
    each_record(path, |_, record| {
        if record.task == name {
            let known = record.label.is_none_or(|label| (label as usize) < classes);
            ensure!(known, "label {:?}, the model has {classes} classes", record.label);
            samples.push(codec.learn(&record)?);
        }
        Ok(())
    })?;
    split(samples, seed).with_context(|| format!("task `{name}` of {}", path.display()))
}

fn split(mut samples: Vec<Sample>, seed: u64) -> Result<(Vec<Sample>, Vec<Sample>)> {
    ensure!(samples.len() >= 10, "{} records, at least 10 are needed", samples.len());
    samples.shuffle(&mut StdRng::seed_from_u64(seed));
    let held_out = samples.split_off(samples.len() - (samples.len() as f64 * HELD_OUT) as usize);
    Ok((samples, held_out))
}
