//! Labelled sequences, what a model must know of them, and mixed-task batches.

use anyhow::{Result, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The token id that fills sequences up.
pub const PAD: u32 = 0;

/// One labelled sequence; tokens are dense ids above [`PAD`].
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub tokens: Vec<u32>,
    pub task: u32,
    pub label: u32,
    /// Positions of the tokens that hold the answer, where the generator knows.
    pub evidence: Vec<usize>,
}

/// A training set, a held-out set, and what a model must know of both.
pub struct Data {
    pub train: Vec<Sample>,
    pub held_out: Vec<Sample>,
    pub codec: Codec,
}

/// Names and sizes of a data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Info {
    pub tasks: Vec<String>,
    /// The user's token behind dense id `i + 1`.
    pub tokens: Vec<u32>,
    pub classes: usize,
    pub longest: usize,
}

/// One line of a user's file: `{"tokens":[…],"task":"name","label":k}`. What is predicted needs no label.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub tokens: Vec<u32>,
    pub task: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<u32>,
}

impl Record {
    /// # Errors
    /// What is wrong with the line, without its number.
    pub fn parse(line: &str) -> Result<Self> {
        let record: Self = serde_json::from_str(line)?;
        ensure!(!record.tokens.is_empty(), "`tokens` is empty");
        ensure!(record.tokens.len() <= 4096, "`tokens` has {} tokens, above 4096", record.tokens.len());
        if let Some(label) = record.label {
            ensure!(label < 10_000, "label {label} is not below 10000");
        }
        Ok(record)
    }
}

/// From records to samples: tasks and tokens are numbered densely, so that a sparse vocabulary costs nothing.
#[derive(Clone, Debug, Default)]
pub struct Codec {
    pub info: Info,
    tokens: BTreeMap<u32, u32>,
    tasks: BTreeMap<String, u32>,
}

impl Codec {
    pub fn new(info: Info) -> Self {
        let tokens = info.tokens.iter().copied().zip(PAD + 1..).collect();
        let tasks = info.tasks.iter().cloned().zip(0..).collect();
        Self { info, tokens, tasks }
    }

    pub fn task(&self, name: &str) -> Option<u32> {
        self.tasks.get(name).copied()
    }

    /// A sample of a record, with whatever is new in it given a number.
    ///
    /// # Errors
    /// A record without a label.
    pub fn learn(&mut self, record: &Record) -> Result<Sample> {
        let Some(label) = record.label else { anyhow::bail!("missing field `label`") };
        let task = self.tasks.get(&record.task).copied().unwrap_or_else(|| {
            let next = self.info.tasks.len() as u32;
            self.info.tasks.push(record.task.clone());
            self.tasks.insert(record.task.clone(), next);
            next
        });
        let mut number = |&token: &u32| {
            *self.tokens.entry(token).or_insert_with(|| {
                self.info.tokens.push(token);
                PAD + self.info.tokens.len() as u32
            })
        };
        let tokens: Vec<u32> = record.tokens.iter().map(&mut number).collect();
        self.info.classes = self.info.classes.max(label as usize + 1);
        self.info.longest = self.info.longest.max(tokens.len());
        Ok(Sample { tokens, task, label, evidence: Vec::new() })
    }

    /// A sample of a record for a model that is not to change; a missing label is 0.
    ///
    /// # Errors
    /// A task or token the model has not seen, or a sequence longer than any it has.
    pub fn known(&self, record: &Record) -> Result<Sample> {
        let Some(task) = self.task(&record.task) else {
            let known = self.info.tasks.join(", ");
            anyhow::bail!("task `{}` is unknown; the model has {known}", record.task)
        };
        let longest = self.info.longest;
        ensure!(record.tokens.len() <= longest, "{} tokens, the model has {longest}", record.tokens.len());
        let number = |token: &u32| {
            let id = self.tokens.get(token).copied();
            id.ok_or_else(|| anyhow::anyhow!("token {token} is unknown to the model"))
        };
        let tokens = record.tokens.iter().map(number).collect::<Result<_>>()?;
        Ok(Sample { tokens, task, label: record.label.unwrap_or(0), evidence: Vec::new() })
    }

    /// The record behind a sample.
    pub fn record(&self, sample: &Sample) -> Record {
        let tokens = sample.tokens.iter().map(|&id| self.info.tokens[(id - PAD - 1) as usize]).collect();
        let task = self.info.tasks[sample.task as usize].clone();
        Record { tokens, task, label: Some(sample.label) }
    }
}

/// A mixed-task batch, padded on the right.
pub struct Batch {
    /// `[size, longest]`, row-major.
    pub tokens: Vec<u32>,
    /// The token before each token; [`PAD`] before the first.
    pub previous: Vec<u32>,
    /// Tokens of each sequence that are not padding.
    pub lengths: Vec<u32>,
    pub tasks: Vec<u32>,
    pub labels: Vec<u32>,
    pub longest: usize,
}

impl Batch {
    pub fn new<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Self {
        let samples: Vec<&Sample> = samples.into_iter().collect();
        let longest = samples.iter().map(|sample| sample.tokens.len()).max().unwrap_or(0);
        let (mut tokens, mut previous) = (Vec::new(), Vec::new());
        for sample in &samples {
            let padding = std::iter::repeat_n(PAD, longest - sample.tokens.len());
            let start = tokens.len();
            tokens.extend(sample.tokens.iter().copied().chain(padding));
            previous.push(PAD);
            previous.extend_from_slice(&tokens[start..start + longest - 1]);
        }
        Self {
            tokens,
            previous,
            lengths: samples.iter().map(|sample| sample.tokens.len() as u32).collect(),
            tasks: samples.iter().map(|sample| sample.task).collect(),
            labels: samples.iter().map(|sample| sample.label).collect(),
            longest,
        }
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }
}

/// The random numbers of one step of one run: they do not depend on the steps before, so a run can go on from any step.
pub fn random(seed: u64, step: usize) -> StdRng {
    let [low, high, ..] = gatewarp::random::block(seed, 0x6d75_6c74, step as u64);
    StdRng::seed_from_u64(u64::from(low) | u64::from(high) << 32)
}
