//! What a trained model looks at, for each task.

use super::data::{Batch, Sample};
use super::train::Run;
use anyhow::Result;
use candle_core::D;
use gatewarp_candle::{Attention, AttentionRow, attention_entropy, attention_weights};
use serde::Serialize;

/// Held-out sequences of a task that means are taken over.
const SEQUENCES: usize = 200;

/// What one task looks at.
#[derive(Clone, Debug, Serialize)]
pub struct Look {
    pub task: usize,
    /// The heads that work for the task, the one with the largest gate first.
    pub heads: Vec<HeadLook>,
    /// Entropy of the attention of the last token in nats: mean over sequences, and over heads by their gates.
    pub entropy: f64,
    /// Entropy of looking at all tokens alike.
    pub most_entropy: f64,
    /// Share of the attention that lies on tokens which hold the answer, by gates; and their share of all tokens. The token after one holds
    /// it too: the layer shows every token with its predecessor.
    pub on_answer: Option<(f64, f64)>,
    /// Some sequences and the attention on each of their tokens, by gates.
    pub examples: Vec<Example>,
}

/// One head as one task uses it.
#[derive(Clone, Debug, Serialize)]
pub struct HeadLook {
    pub head: usize,
    pub gate: f64,
    pub entropy: f64,
    /// Mean attention on each position.
    pub by_position: Vec<f64>,
}

/// A sequence with what was made of it.
#[derive(Clone, Debug, Serialize)]
pub struct Example {
    /// The user's tokens.
    pub tokens: Vec<u32>,
    pub attention: Vec<f64>,
    pub evidence: Vec<usize>,
    pub label: u32,
    pub prediction: u32,
}

/// Looks at every task that has held-out sequences. A variant without gates uses all its heads alike.
///
/// # Errors
/// candle's.
pub fn looks(run: &Run, held_out: &[Sample], examples: usize) -> Result<Vec<Look>> {
    let tasks = 0..run.info.tasks.len();
    let of_task = |task: usize| -> Vec<&Sample> {
        held_out.iter().filter(|sample| sample.task as usize == task).take(SEQUENCES).collect()
    };
    let gates = run.model.gates()?;
    let mut looks = Vec::new();
    for task in tasks {
        let samples = of_task(task);
        if !samples.is_empty() {
            let heads = run.model.heads();
            let gates =
                gates.as_ref().map_or_else(|| vec![1.0 / heads as f32; heads], |all| all[task].clone());
            looks.push(look(run, task, &samples, &gates, examples)?);
        }
    }
    Ok(looks)
}

fn look(run: &Run, task: usize, samples: &[&Sample], gates: &[f32], examples: usize) -> Result<Look> {
    let batch = Batch::new(samples.iter().copied());
    let attended = run.model.attended(&batch)?;
    // On the CPU, whatever the device: this is done once, and not every backend can.
    let options = Attention { device: gatewarp::Device::cpu(), ..attended.options };
    let mut active: Vec<usize> = (0..gates.len()).filter(|&head| gates[head] > 0.0).collect();
    active.sort_by(|&a, &b| gates[b].total_cmp(&gates[a]));
    let entropies = attention_entropy(&attended.q, &attended.k, &options)?;
    let entropies: Vec<Vec<f32>> = entropies.squeeze(D::Minus1)?.to_vec2()?;
    let total: f64 = gates.iter().copied().map(f64::from).sum();
    let count = samples.len() as f64;
    let mut mixed = vec![vec![0.0; batch.longest]; samples.len()];
    let mut heads = Vec::new();
    for head in active {
        let rows: Vec<AttentionRow> =
            (0..samples.len()).map(|sample| AttentionRow { sample, head, query: 0 }).collect();
        let weights: Vec<Vec<f32>> =
            attention_weights(&attended.q, &attended.k, &options, &rows)?.to_vec2()?;
        let gate = f64::from(gates[head]);
        let mut by_position = vec![0.0; batch.longest];
        for (row, mixed) in weights.iter().zip(&mut mixed) {
            for ((&p, mixed), mean) in row.iter().zip(mixed).zip(&mut by_position) {
                *mixed += f64::from(p) * gate / total;
                *mean += f64::from(p) / count;
            }
        }
        let entropy = entropies.iter().map(|of| f64::from(of[head])).sum::<f64>() / count;
        heads.push(HeadLook { head, gate, entropy, by_position });
    }
    let known = samples.iter().all(|sample| !sample.evidence.is_empty());
    let on_answer = known.then(|| {
        let shares = samples.iter().zip(&mixed).map(|(sample, row)| {
            let mut holds: Vec<usize> = sample.evidence.iter().flat_map(|&at| [at, at + 1]).collect();
            holds.retain(|&at| at < sample.tokens.len());
            holds.dedup();
            let on: f64 = holds.iter().map(|&at| row[at]).sum();
            (on, holds.len() as f64 / sample.tokens.len() as f64)
        });
        shares.fold((0.0, 0.0), |sum, of| (sum.0 + of.0 / count, sum.1 + of.1 / count))
    });
    let predictions: Vec<u32> = run.model.forward(&batch)?.logits.argmax(D::Minus1)?.to_vec1()?;
    let examples = samples.iter().zip(&mixed).zip(predictions).take(examples);
    let examples = examples.map(|((sample, row), prediction)| Example {
        tokens: sample.tokens.iter().map(|&id| run.info.tokens[id as usize - 1]).collect(),
        attention: row[..sample.tokens.len()].to_vec(),
        evidence: sample.evidence.clone(),
        label: sample.label,
        prediction,
    });
    Ok(Look {
        task,
        entropy: heads.iter().map(|head| head.entropy * head.gate / total).sum(),
        most_entropy: samples.iter().map(|sample| (sample.tokens.len() as f64).ln()).sum::<f64>() / count,
        heads,
        on_answer,
        examples: examples.collect(),
    })
}
