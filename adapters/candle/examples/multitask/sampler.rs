//! Which samples a batch is made of.

use super::data::Sample;
use clap::ValueEnum;
use rand::Rng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

/// How tasks share the batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sampling {
    /// Every sample is equally likely: a task has the share it has of the data.
    Proportional,
    /// Every task is equally likely, and every sample of a task.
    Balanced,
}

/// Draws samples with replacement.
pub struct Sampler {
    sampling: Sampling,
    /// Indices of the samples of each task that has any.
    tasks: Vec<Vec<usize>>,
    count: usize,
}

impl Sampler {
    /// `samples` is not empty.
    pub fn new(samples: &[Sample], sampling: Sampling) -> Self {
        let mut tasks = Vec::new();
        for (index, sample) in samples.iter().enumerate() {
            let task = sample.task as usize;
            if tasks.len() <= task {
                tasks.resize_with(task + 1, Vec::new);
            }
            tasks[task].push(index);
        }
        tasks.retain(|indices| !indices.is_empty());
        Self { sampling, tasks, count: samples.len() }
    }

    /// Indices of `size` samples.
    pub fn draw(&self, size: usize, random: &mut StdRng) -> Vec<usize> {
        let mut one = || match self.sampling {
            Sampling::Proportional => random.random_range(0..self.count),
            Sampling::Balanced => {
                let task = &self.tasks[random.random_range(0..self.tasks.len())];
                task[random.random_range(0..task.len())]
            }
        };
        (0..size).map(|_| one()).collect()
    }
}
