//! A run: a model, its optimiser and weights, and what it has seen so far.

use super::data::{Batch, Data, Info, Sample, random};
use super::metrics::Confusion;
use super::model::{Config, Model, Variant};
use super::optimiser::{AdamW, Moments};
use super::parameters::{Parameter, grown};
use super::sampler::{Sampler, Sampling};
use super::weighting::{Weighting, Weights};
use anyhow::Result;
use candle_core::{D, Tensor};
use gatewarp_candle::{TaskLosses, task_losses};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// How long, how fast and from what a run learns; with the data, all that decides its bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    pub variant: Variant,
    pub seed: u64,
    pub steps: usize,
    pub batch: usize,
    /// Written as text, which comes back as the same number.
    #[serde(with = "as_text")]
    pub learning_rate: f64,
    pub sampling: Sampling,
    pub weighting: Weighting,
    /// Steps between points of the learning curve.
    pub evaluate_every: usize,
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// What a run has seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Loss of every step.
    pub losses: Vec<f32>,
    /// (step, mean held-out accuracy over tasks).
    pub curve: Vec<(usize, f64)>,
    /// Gates at the same steps, `[tasks][heads]`, where the variant has any.
    pub gates: Vec<(usize, Vec<Vec<f32>>)>,
    /// Weights of the tasks' losses at the same steps.
    pub weights: Vec<(usize, Vec<f64>)>,
    /// Time spent in training steps, evaluation excluded.
    pub seconds: f64,
}

/// A run, at any of its steps.
pub struct Run {
    pub options: Options,
    pub info: Info,
    pub model: Model,
    pub optimiser: AdamW,
    pub weights: Weights,
    pub history: History,
}

impl Run {
    /// # Errors
    /// candle's.
    pub fn new(options: Options, config: &Config, info: &Info) -> Result<Self> {
        let model = Model::new(options.variant, config, info, options.seed, None)?;
        let weights = Weights::new(options.weighting, info.tasks.len())?;
        let optimiser = AdamW::new(model.parameters.clone(), vec![log_variance(&weights)]);
        Ok(Self { options, info: info.clone(), model, optimiser, weights, history: History::default() })
    }

    /// Steps taken.
    pub fn step(&self) -> usize {
        self.optimiser.step
    }

    /// One step on a batch, at `rate`; returns its loss.
    ///
    /// # Errors
    /// candle's; a gradient that is not finite.
    pub fn learn(&mut self, batch: &Batch, rate: f64) -> Result<f32> {
        let start = Instant::now();
        let output = self.model.forward(batch)?;
        let count = self.info.tasks.len();
        let losses = task_losses(
            &output.logits,
            &TaskLosses {
                device: self.model.config.device.clone(),
                labels: batch.labels.clone().into(),
                tasks: batch.tasks.clone().into(),
                count,
            },
        )?;
        let present: Vec<bool> = (0..count as u32).map(|task| batch.tasks.contains(&task)).collect();
        let loss = self.weights.loss(&losses, &present)?;
        let step = self.step();
        self.optimiser.update(&loss.backward()?, rate)?;
        self.weights.record(step, &losses.to_vec1::<f32>()?, &present);
        let loss = loss.to_scalar::<f32>()?;
        self.history.losses.push(loss);
        self.history.seconds += start.elapsed().as_secs_f64();
        Ok(loss)
    }

    /// Trains until step `until`. `progress` is called after every step.
    ///
    /// # Errors
    /// As [`Run::learn`], and what `progress` returns.
    pub fn train(
        &mut self,
        data: &Data,
        until: usize,
        mut progress: impl FnMut(&Self) -> Result<()>,
    ) -> Result<()> {
        let sampler = Sampler::new(&data.train, self.options.sampling);
        while self.step() < until {
            let step = self.step();
            let rate = self.options.learning_rate * rate(step, self.options.steps);
            let drawn = sampler.draw(self.options.batch, &mut random(self.options.seed, step));
            self.learn(&Batch::new(drawn.into_iter().map(|i| &data.train[i])), rate)?;
            let step = step + 1;
            if step.is_multiple_of(self.options.evaluate_every) || step == self.options.steps {
                // The curve is drawn from part of the held-out data; the table uses all of it.
                let part = &data.held_out[..data.held_out.len().min(500)];
                self.history.curve.push((step, mean_accuracy(&self.evaluate(part)?.0)));
                self.history.weights.push((step, self.weights.now()?));
                if let Some(gates) = self.model.gates()? {
                    self.history.gates.push((step, gates));
                }
            }
            progress(self)?;
        }
        Ok(())
    }

    /// Each task's predictions on `samples`, and the share of heads computed.
    ///
    /// # Errors
    /// candle's.
    pub fn evaluate(&self, samples: &[Sample]) -> Result<(Vec<Confusion>, f64)> {
        let mut confusions = vec![Confusion::new(self.info.classes); self.info.tasks.len()];
        let mut computed = 0.0;
        for part in samples.chunks(512) {
            let batch = Batch::new(part);
            let output = self.model.forward(&batch)?;
            computed += output.computed * part.len() as f64;
            let predictions: Vec<u32> = output.logits.argmax(D::Minus1)?.to_vec1()?;
            for (sample, prediction) in part.iter().zip(predictions) {
                confusions[sample.task as usize].add(sample.label as usize, prediction as usize);
            }
        }
        Ok((confusions, computed / samples.len().max(1) as f64))
    }

    /// Probabilities `[size][classes]` by each sample's own task.
    ///
    /// # Errors
    /// candle's.
    pub fn probabilities(&self, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        let logits: Tensor = self.model.forward(batch)?.logits;
        Ok(candle_nn::ops::softmax(&logits, D::Minus1)?.to_vec2()?)
    }

    /// Room for all of `info`, and `more_heads`. What is there stays, with its moments; with `freeze` it is not trained any more.
    ///
    /// # Errors
    /// As [`Model::grow`].
    pub fn grow(&mut self, info: &Info, more_heads: usize, freeze: bool) -> Result<()> {
        if *info == self.info && more_heads == 0 {
            return Ok(());
        }
        let model = self.model.grow(info, more_heads)?;
        let kept = self.model.kept(&model);
        self.weights.grow(info.tasks.len())?;
        let mut optimiser = AdamW::new(model.parameters.clone(), vec![log_variance(&self.weights)]);
        optimiser.step = self.optimiser.step;
        for (new, old) in optimiser.moments.iter_mut().zip(&self.optimiser.moments) {
            let (shape, old_shape) = (new.parameter.var.dims(), old.parameter.var.dims());
            new.first = grown(&old.first, old_shape, shape, 0.0);
            new.second = grown(&old.second, old_shape, shape, 0.0);
            if !old.frozen.is_empty() {
                new.frozen = grown(&old.frozen, old_shape, shape, false);
            }
        }
        if freeze {
            for (Moments { frozen, .. }, kept) in optimiser.moments.iter_mut().zip(kept) {
                *frozen = kept;
            }
        }
        (self.model, self.optimiser, self.info) = (model, optimiser, info.clone());
        Ok(())
    }
}

/// The learned weights of the tasks' losses as a parameter.
pub fn log_variance(weights: &Weights) -> Parameter {
    Parameter { name: "log_variance", var: weights.log_variance.clone() }
}

/// Warm-up over the first 5%, then half a cosine down to 2% of the rate.
pub fn rate(step: usize, steps: usize) -> f64 {
    let warm = (steps / 20).max(1);
    if step < warm {
        return (step + 1) as f64 / warm as f64;
    }
    let done = (step - warm) as f64 / (steps - warm).max(1) as f64;
    0.02 + 0.98 * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
}

/// Mean over the tasks that have samples.
pub fn mean_accuracy(confusions: &[Confusion]) -> f64 {
    let scores: Vec<f64> = confusions.iter().filter_map(Confusion::accuracy).collect();
    scores.iter().sum::<f64>() / scores.len().max(1) as f64
}
