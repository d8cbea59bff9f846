//! Where sequences come from: the five synthetic tasks, or a user's JSON Lines file.

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;

/// Key-value pairs in a synthetic sequence.
const PAIRS: usize = 8;
const KEYS: u32 = 16;
const VALUES: u32 = 10;
/// The share of a user's records that is kept for evaluation.
const HELD_OUT: f64 = 0.2;

/// One labelled sequence.
#[derive(Clone, Debug)]
pub struct Sample {
    pub tokens: Vec<u32>,
    pub task: u32,
    pub label: u32,
}

/// A training set, a held-out set, and what a model must know of both.
pub struct Data {
    pub train: Vec<Sample>,
    pub held_out: Vec<Sample>,
    pub info: Info,
}

/// Sizes of a data set.
#[derive(Clone, Debug)]
pub struct Info {
    pub tasks: Vec<String>,
    /// Tokens are `0..vocabulary`; the model pads with `vocabulary` itself.
    pub vocabulary: usize,
    pub classes: usize,
    pub longest: usize,
}

/// The five tasks over 8 key-value pairs and a query key: `k₁ v₁ … k₈ v₈ q`. Keys are distinct and ordered, so are values; a
/// sequence says nothing of its task.
pub fn synthetic(train: usize, held_out: usize, seed: u64) -> Data {
    let tasks = ["recall", "max", "first", "value-of-max-key", "min"];
    let mut random = StdRng::seed_from_u64(seed);
    let mut draw = |count| (0..count).map(|_| synthetic_sample(&mut random, tasks.len() as u32)).collect();
    Data {
        train: draw(train),
        held_out: draw(held_out),
        info: Info {
            tasks: tasks.map(String::from).to_vec(),
            vocabulary: (KEYS + VALUES) as usize,
            classes: VALUES as usize,
            longest: 2 * PAIRS + 1,
        },
    }
}

fn synthetic_sample(random: &mut StdRng, tasks: u32) -> Sample {
    let mut keys: Vec<u32> = (0..KEYS).collect();
    keys.shuffle(random);
    keys.truncate(PAIRS);
    let values: [u32; PAIRS] = std::array::from_fn(|_| random.random_range(0..VALUES));
    let query = random.random_range(0..PAIRS);
    let task = random.random_range(0..tasks);
    let largest_key = (0..PAIRS).max_by_key(|&i| keys[i]).unwrap_or(0);
    let label = match task {
        0 => values[query],
        1 => values.into_iter().max().unwrap_or(0),
        2 => values[0],
        3 => values[largest_key],
        _ => values.into_iter().min().unwrap_or(0),
    };
    let mut tokens: Vec<u32> =
        keys.iter().zip(values).flat_map(|(&key, value)| [key, KEYS + value]).collect();
    tokens.push(keys[query]);
    Sample { tokens, task, label }
}

#[derive(Deserialize)]
struct Record {
    tokens: Vec<u32>,
    task: String,
    label: u32,
}

/// Reads one record a line, `{"tokens":[…],"task":"name","label":k}`, and splits off the held-out share.
///
/// # Errors
/// The file and line of the first record that is malformed or has no tokens; a file with fewer than ten records.
pub fn from_file(path: &Path, seed: u64) -> Result<Data> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut tasks = BTreeMap::new();
    let mut tokens = BTreeMap::new();
    let mut samples = Vec::new();
    let (mut classes, mut longest) = (0, 0);
    for (index, line) in std::io::BufReader::new(file).lines().enumerate() {
        let at = || format!("{}:{}", path.display(), index + 1);
        let line = line.with_context(at)?;
        if line.trim().is_empty() {
            continue;
        }
        let record: Record = serde_json::from_str(&line).with_context(at)?;
        ensure!(!record.tokens.is_empty(), "{}: `tokens` is empty", at());
        ensure!(record.label < 10_000, "{}: label {} is not below 10000", at(), record.label);
        let next = tasks.len() as u32;
        let task = *tasks.entry(record.task).or_insert(next);
        // Token ids are renumbered densely, so that a sparse vocabulary costs nothing.
        let mut dense = |token| {
            let next = tokens.len() as u32;
            *tokens.entry(token).or_insert(next)
        };
        let tokens = record.tokens.into_iter().map(&mut dense).collect::<Vec<u32>>();
        classes = classes.max(record.label as usize + 1);
        longest = longest.max(tokens.len());
        samples.push(Sample { tokens, task, label: record.label });
    }
    ensure!(samples.len() >= 10, "{}: {} records, at least 10 are needed", path.display(), samples.len());
    samples.shuffle(&mut StdRng::seed_from_u64(seed));
    let held_out = samples.split_off(samples.len() - (samples.len() as f64 * HELD_OUT) as usize);
    let mut names = vec![String::new(); tasks.len()];
    for (name, id) in tasks {
        names[id as usize] = name;
    }
    let info = Info { tasks: names, vocabulary: tokens.len(), classes, longest };
    Ok(Data { train: samples, held_out, info })
}

/// A mixed-task batch, padded on the right.
pub struct Batch {
    /// `[size, longest]`, row-major.
    pub tokens: Vec<u32>,
    /// The token before each token; the padding token before the first.
    pub previous: Vec<u32>,
    /// Tokens of each sequence that are not padding.
    pub lengths: Vec<u32>,
    pub tasks: Vec<u32>,
    pub labels: Vec<u32>,
    pub longest: usize,
}

impl Batch {
    pub fn new<'a>(samples: impl IntoIterator<Item = &'a Sample>, info: &Info) -> Self {
        let pad = info.vocabulary as u32;
        let mut batch = Self {
            tokens: Vec::new(),
            previous: Vec::new(),
            lengths: Vec::new(),
            tasks: Vec::new(),
            labels: Vec::new(),
            longest: info.longest,
        };
        for sample in samples {
            let padding = std::iter::repeat_n(pad, info.longest - sample.tokens.len());
            let start = batch.tokens.len();
            batch.tokens.extend(sample.tokens.iter().copied().chain(padding));
            batch.previous.push(pad);
            batch.previous.extend_from_slice(&batch.tokens[start..start + info.longest - 1]);
            batch.lengths.push(sample.tokens.len() as u32);
            batch.tasks.push(sample.task);
            batch.labels.push(sample.label);
        }
        batch
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }
}

/// `size` samples drawn with replacement.
pub fn draw<'a>(samples: &'a [Sample], size: usize, random: &mut StdRng) -> Vec<&'a Sample> {
    (0..size).map(|_| &samples[random.random_range(0..samples.len())]).collect()
}
