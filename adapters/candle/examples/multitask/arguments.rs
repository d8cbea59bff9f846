//! The command line.

use super::data::Data;
use super::model::{Config, Variant};
use super::records;
use super::sampler::Sampling;
use super::synthetic::Synthetic;
use super::train::Options;
use super::weighting::Weighting;
use anyhow::{Result, ensure};
use clap::Parser;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How task-gated attention heads learn a mix of tasks.
///
/// Without options: trains four ways of sharing a layer between five tasks, with three seeds each, and attention between quantum states;
/// prints what came out and writes report.html.
#[derive(Clone, Debug, Parser)]
pub struct Arguments {
    /// Learn from records {"tokens":[…],"task":"name","label":k}, one a line, instead of the synthetic tasks
    #[arg(long, value_name = "FILE.jsonl")]
    pub data: Option<PathBuf>,
    /// Where attention runs: cpu, wgpu:N, cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Training steps of each run [default: 1500; 750 for an added task]
    #[arg(long)]
    pub steps: Option<usize>,
    /// Training steps as passes over the training data
    #[arg(long, conflicts_with = "steps")]
    pub epochs: Option<usize>,
    /// Samples in a batch [default: 64; 16 from a stream]
    #[arg(long)]
    pub batch: Option<usize>,
    /// Peak learning rate
    #[arg(long, default_value_t = 4e-3)]
    pub rate: f64,
    /// Runs of each variant, with seeds 1, 2, …
    #[arg(long, default_value_t = 3)]
    pub seeds: u64,
    /// Train this variant only; may be given again
    #[arg(long, value_enum)]
    pub variant: Vec<Variant>,
    /// How tasks share the batches
    #[arg(long, value_enum, default_value = "proportional")]
    pub sampler: Sampling,
    /// How the tasks' losses make one loss
    #[arg(long, value_enum, default_value = "uniform")]
    pub weighting: Weighting,
    /// Each synthetic task has so many times fewer training sequences than the one before
    #[arg(long, default_value_t = 1, value_name = "TIMES")]
    pub skew: u32,
    /// Write the run to a checkpoint as it goes and at its end; of several runs, the first gated one
    #[arg(long, value_name = "FILE.safetensors")]
    pub save: Option<PathBuf>,
    /// Stop at this step, with the schedule unchanged, to be resumed
    #[arg(long, value_name = "STEP", requires = "save")]
    pub stop_at: Option<usize>,
    /// Go on from a checkpoint, with its variant, options and data
    #[arg(long, value_name = "FILE.safetensors")]
    pub resume: Option<PathBuf>,
    /// Predict the records of a file with the checkpoint of --resume: one JSON object a line
    #[arg(long, value_name = "FILE.jsonl", requires = "resume")]
    pub predict: Option<PathBuf>,
    /// Add a task to a trained model: one of --data, or last, value-of-min-key
    #[arg(long, value_name = "NAME")]
    pub add_task: Option<String>,
    /// Learn from records on standard input as they arrive
    #[arg(long)]
    pub stream: bool,
    /// Stop at the first malformed line of a stream instead of skipping it
    #[arg(long, requires = "stream")]
    pub strict: bool,
    /// Records of a stream between lines of metrics
    #[arg(long, default_value_t = 500, value_name = "RECORDS")]
    pub every: usize,
    /// Write so many records of the synthetic tasks to standard output
    #[arg(long, value_name = "RECORDS")]
    pub emit: Option<usize>,
    /// Leave out the comparison of quantum scores on phase recall
    #[arg(long)]
    pub no_phase: bool,
    /// Print all metrics as JSON instead of tables
    #[arg(long)]
    pub json: bool,
    /// Where to write the report
    #[arg(long, default_value = "report.html")]
    pub report: PathBuf,
}

/// Where a run's data come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    Synthetic(Synthetic),
    File {
        path: PathBuf,
        seed: u64,
    },
    /// The one task that is being added to a model, and where it comes from.
    Added {
        task: String,
        from: Box<Source>,
    },
    /// Standard input, which is gone.
    Stream,
}

impl Source {
    /// # Errors
    /// As [`records::from_file`]; nothing to read again.
    pub fn data(&self) -> Result<Data> {
        match self {
            Self::Synthetic(synthetic) => synthetic.data(),
            Self::File { path, seed } => records::from_file(path, *seed),
            Self::Added { .. } | Self::Stream => {
                anyhow::bail!("this checkpoint's records are not kept; give --data or --stream")
            }
        }
    }
}

impl Arguments {
    /// # Errors
    /// A count that starts at 1.
    pub fn check(&self) -> Result<()> {
        let counts = [
            ("steps", self.steps),
            ("epochs", self.epochs),
            ("batch", self.batch),
            ("seeds", Some(self.seeds as usize)),
            ("every", Some(self.every)),
            ("skew", Some(self.skew as usize)),
        ];
        for (name, count) in counts {
            ensure!(count != Some(0), "--{name} starts at 1");
        }
        ensure!(self.rate.is_finite() && self.rate > 0.0, "--rate {} is not above 0", self.rate);
        Ok(())
    }

    pub fn source(&self) -> Source {
        match &self.data {
            Some(path) => Source::File { path: path.clone(), seed: 7 },
            None => Source::Synthetic(Synthetic { train: 20_000, held_out: 2_000, seed: 7, skew: self.skew }),
        }
    }

    /// # Errors
    /// An unknown or missing device.
    pub fn config(&self) -> Result<Config> {
        Ok(Config { device: self.device.parse()?, ..Config::default() })
    }

    /// Steps asked for, of `samples` training samples.
    pub fn steps(&self, samples: usize) -> Option<usize> {
        let batch = self.batch.unwrap_or(64);
        self.steps.or_else(|| self.epochs.map(|epochs| epochs * samples.div_ceil(batch)))
    }

    pub fn options(&self, variant: Variant, seed: u64, samples: usize) -> Options {
        let steps = self.steps(samples).unwrap_or(1500);
        Options {
            variant,
            seed,
            steps,
            batch: self.batch.unwrap_or(64),
            learning_rate: self.rate,
            sampling: self.sampler,
            weighting: self.weighting,
            evaluate_every: (steps / 15).max(1),
        }
    }
}
