//! The training loop and its evaluation.

use crate::data::{Batch, Data, Sample, draw};
use crate::metrics::Confusion;
use crate::model::{Config, Model, Variant};
use anyhow::Result;
use candle_core::{D, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::time::{Duration, Instant};

/// How long and how fast to learn.
#[derive(Clone, Debug)]
pub struct Schedule {
    pub steps: usize,
    pub batch: usize,
    pub learning_rate: f64,
    /// Steps between points of the learning curve.
    pub evaluate_every: usize,
}

/// What one run leaves behind.
pub struct Run {
    pub variant: Variant,
    /// Loss of every step.
    pub losses: Vec<f32>,
    /// (step, mean held-out accuracy over tasks).
    pub curve: Vec<(usize, f64)>,
    /// Held-out predictions of each task.
    pub confusions: Vec<Confusion>,
    /// Share of (sample, head) pairs computed on held-out data.
    pub computed: f64,
    /// Time of a training step, evaluation excluded.
    pub step: Duration,
    pub gates: Option<Vec<Vec<f32>>>,
}

/// Trains one model. `progress` is called after every step.
pub fn train(
    variant: Variant,
    config: &Config,
    data: &Data,
    schedule: &Schedule,
    seed: u64,
    progress: impl Fn(),
) -> Result<Run> {
    let model = Model::new(variant, config, &data.info, seed)?;
    let mut optimiser =
        AdamW::new(model.vars(), ParamsAdamW { lr: schedule.learning_rate, ..ParamsAdamW::default() })?;
    let mut random = StdRng::seed_from_u64(seed ^ 0x5eed);
    let (mut losses, mut curve) = (Vec::with_capacity(schedule.steps), Vec::new());
    let mut spent = Duration::ZERO;
    for step in 0..schedule.steps {
        let start = Instant::now();
        optimiser.set_learning_rate(schedule.learning_rate * rate(step, schedule.steps));
        let batch = Batch::new(draw(&data.train, schedule.batch, &mut random), &data.info);
        let output = model.forward(&batch)?;
        let labels = Tensor::from_slice(&batch.labels, batch.len(), &candle_core::Device::Cpu)?;
        let loss = candle_nn::loss::cross_entropy(&output.logits, &labels)?;
        optimiser.backward_step(&loss)?;
        losses.push(loss.to_scalar::<f32>()?);
        spent += start.elapsed();
        if (step + 1) % schedule.evaluate_every == 0 || step + 1 == schedule.steps {
            // The curve is drawn from part of the held-out data; the table uses all of it.
            let part = &data.held_out[..data.held_out.len().min(500)];
            curve.push((step + 1, mean_accuracy(&evaluate(&model, part, data)?.0)));
        }
        progress();
    }
    let (confusions, computed) = evaluate(&model, &data.held_out, data)?;
    let step = spent / schedule.steps.max(1) as u32;
    Ok(Run { variant: model.variant(), losses, curve, confusions, computed, step, gates: model.gates()? })
}

/// Warm-up over the first 5%, then half a cosine down to 2% of the rate.
fn rate(step: usize, steps: usize) -> f64 {
    let warm = (steps / 20).max(1);
    if step < warm {
        return (step + 1) as f64 / warm as f64;
    }
    let done = (step - warm) as f64 / (steps - warm).max(1) as f64;
    0.02 + 0.98 * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
}

/// Each task's predictions on `samples`, and the share of heads computed.
fn evaluate(model: &Model, samples: &[Sample], data: &Data) -> Result<(Vec<Confusion>, f64)> {
    let mut confusions = vec![Confusion::new(data.info.classes); data.info.tasks.len()];
    let mut computed = 0.0;
    for part in samples.chunks(512) {
        let batch = Batch::new(part, &data.info);
        let output = model.forward(&batch)?;
        computed += output.computed * part.len() as f64;
        let predictions: Vec<u32> = output.logits.argmax(D::Minus1)?.to_vec1()?;
        for ((task, label), prediction) in batch.tasks.iter().zip(&batch.labels).zip(predictions) {
            confusions[*task as usize].add(*label as usize, prediction as usize);
        }
    }
    Ok((confusions, computed / samples.len().max(1) as f64))
}

/// Mean over the tasks that have samples.
pub fn mean_accuracy(confusions: &[Confusion]) -> f64 {
    let scores: Vec<f64> = confusions.iter().filter_map(Confusion::accuracy).collect();
    scores.iter().sum::<f64>() / scores.len().max(1) as f64
}
