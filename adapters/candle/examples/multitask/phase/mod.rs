//! Attention between quantum states on a task where the score matters: recall over keys that differ only in phase.

pub mod states;

use super::data::random;
use super::metrics::Summary;
use super::optimiser::AdamW;
use super::parameters::{Init, Parameter};
use super::train::rate;
use anyhow::Result;
use candle_core::{D, Device, Tensor, Var};
use gatewarp::quantum_attention::StateScore;
use gatewarp_candle::{
    QuantumAttention, QuantumParameters, QuantumReadout, TaskLosses, quantum_attention, quantum_outcomes,
    task_losses,
};
use serde::Serialize;
use states::{CLASSES, LENGTH, QUBITS, Sequences, TASKS, layer, sequences};

pub const SHOTS: usize = 1024;
const BATCH: usize = 32;
const RATE: f64 = 0.03;

/// A way to compare states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Score {
    Fidelity,
    ComplexDot,
    /// Gaussian on ⟨Z⟩ of every qubit, which no phase changes.
    Z,
    /// The same after a rotation that is learned: it can turn phases into what Z shows.
    LearnedBasis,
}

impl Score {
    pub const ALL: [Self; 4] = [Self::Fidelity, Self::ComplexDot, Self::Z, Self::LearnedBasis];

    pub fn name(self) -> &'static str {
        match self {
            Self::Fidelity => "fidelity |⟨q|k⟩|²",
            Self::ComplexDot => "complex dot Re⟨q|k⟩",
            Self::Z => "Gaussian on ⟨Z⟩",
            Self::LearnedBasis => "Gaussian on ⟨Z⟩, learned basis",
        }
    }

    fn of_states(self) -> StateScore {
        match self {
            Self::Fidelity => StateScore::Fidelity,
            Self::ComplexDot => StateScore::ComplexDot,
            Self::Z | Self::LearnedBasis => StateScore::Gaussian,
        }
    }
}

/// Accuracies of one trained layer on held-out sequences.
#[derive(Clone, Debug, Serialize)]
pub struct Recalled {
    pub score: Score,
    /// Of each task, from exact expectations.
    pub exact: Vec<f64>,
    /// Of all, from [`SHOTS`] shots.
    pub shots: f64,
    /// Of all, exact, where every state has an arbitrary sign.
    pub signs: f64,
    pub tau: f64,
    /// Outcomes of the shots of one sequence of each task: the answer's bits, and how often each basis state was seen.
    pub histograms: Vec<Histogram>,
}

/// Shots of one query.
#[derive(Clone, Debug, Serialize)]
pub struct Histogram {
    pub task: usize,
    pub label: u32,
    pub counts: Vec<usize>,
}

/// One layer with its parameters.
struct Recall {
    layer: QuantumAttention,
    thetas: [Var; 3],
    tau: Var,
    readout: Var,
    bias: Var,
    parameters: Vec<Parameter>,
}

impl Recall {
    fn new(score: Score, seed: u64) -> Result<Self> {
        let (layer, [query, key, value]) = layer(score.of_states(), score == Score::LearnedBasis)?;
        let mut init = Init { seed, given: None, parameters: Vec::new() };
        let tasks = TASKS.len();
        let thetas = [
            init.normal("query", &[tasks, query], 0.3)?,
            init.normal("key", &[tasks, key], 0.3)?,
            init.normal("value", &[tasks, value], 0.1)?,
        ];
        let readout = init.linear("readout", QUBITS, &[QUBITS, CLASSES])?;
        let bias = init.normal("bias", &[CLASSES], 0.0)?;
        let tau = Var::new(&[4f32], &Device::Cpu)?;
        let mut parameters = init.parameters;
        parameters.push(Parameter { name: "tau", var: tau.clone() });
        Ok(Self { layer, thetas, tau, readout, bias, parameters })
    }

    fn parameters(&self) -> QuantumParameters<'_> {
        QuantumParameters { thetas: self.thetas.each_ref().map(Var::as_tensor), tau: &self.tau }
    }

    /// `[count, classes]`, read from the query's output.
    fn logits(&self, of: &Sequences, readout: QuantumReadout) -> Result<Tensor> {
        let y = quantum_attention(&of.x, self.parameters(), &self.layer, &of.tasks, readout)?;
        let last = y.narrow(1, LENGTH - 1, 1)?.squeeze(1)?;
        Ok(last.contiguous()?.matmul(&self.readout)?.broadcast_add(&self.bias)?)
    }

    /// Right answers and sequences of each task.
    fn right(&self, of: &Sequences, readout: QuantumReadout) -> Result<Vec<(usize, usize)>> {
        let predictions: Vec<u32> = self.logits(of, readout)?.argmax(D::Minus1)?.to_vec1()?;
        let mut right = vec![(0, 0); TASKS.len()];
        for ((&task, label), prediction) in of.tasks.iter().zip(&of.labels).zip(predictions) {
            let (hits, all) = &mut right[task as usize];
            (*hits, *all) = (*hits + usize::from(*label == prediction), *all + 1);
        }
        Ok(right)
    }
}

fn all(right: &[(usize, usize)]) -> f64 {
    let (hits, all) = right.iter().fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
    hits as f64 / all.max(1) as f64
}

/// Trains a layer with one score, and measures it.
///
/// # Errors
/// candle's and gatewarp's.
pub fn run(score: Score, seed: u64, steps: usize, held_out: usize, progress: impl Fn()) -> Result<Recalled> {
    let recall = Recall::new(score, seed)?;
    let mut optimiser = AdamW::new(Vec::new(), recall.parameters.clone());
    for step in 0..steps {
        let batch = sequences(BATCH, false, &mut random(seed ^ 0x9a5e, step))?;
        let losses = task_losses(
            &recall.logits(&batch, QuantumReadout::Exact)?,
            &TaskLosses {
                device: gatewarp::Device::cpu(),
                labels: batch.labels.into(),
                tasks: batch.tasks.into(),
                count: TASKS.len(),
            },
        )?;
        optimiser.update(&losses.sum_all()?.backward()?, RATE * rate(step, steps))?;
        progress();
    }
    let test = sequences(held_out, false, &mut random(1, usize::MAX))?;
    let signs = sequences(held_out, true, &mut random(2, usize::MAX))?;
    let by_shots = QuantumReadout::ShotsWithExactGradient { shots: SHOTS, seed };
    let exact = recall.right(&test, QuantumReadout::Exact)?;
    Ok(Recalled {
        score,
        exact: exact.iter().map(|&of| all(&[of])).collect(),
        shots: all(&recall.right(&test, by_shots)?),
        signs: all(&recall.right(&signs, QuantumReadout::Exact)?),
        tau: f64::from(recall.tau.to_vec1::<f32>()?[0]),
        histograms: histograms(&recall, &test, seed)?,
    })
}

/// Shots of the first sequence of each task.
fn histograms(recall: &Recall, test: &Sequences, seed: u64) -> Result<Vec<Histogram>> {
    let mut histograms = Vec::new();
    for task in 0..TASKS.len() {
        let Some(at) = test.tasks.iter().position(|&of| of as usize == task) else { continue };
        let x = test.x.narrow(0, at, 1)?;
        let outcomes = quantum_outcomes(&x, recall.parameters(), &recall.layer, &[task as u32], SHOTS, seed)?;
        let mut counts = vec![0; 1 << QUBITS];
        for outcome in outcomes.get(LENGTH - 1)?.to_vec1::<u32>()? {
            counts[outcome as usize] += 1;
        }
        histograms.push(Histogram { task, label: test.labels[at], counts });
    }
    Ok(histograms)
}

/// One score over all seeds.
pub struct Row {
    pub score: Score,
    /// Of each task, exact.
    pub exact: Vec<Summary>,
    /// The mean of the tasks.
    pub mean: Summary,
    pub shots: Summary,
    pub signs: Summary,
    pub tau: Summary,
}

/// Means over the seeds, in the order of [`Score::ALL`].
pub fn rows(results: &[Recalled]) -> Vec<Row> {
    let row = |score| {
        let of: Vec<&Recalled> = results.iter().filter(|result| result.score == score).collect();
        let over = |value: &dyn Fn(&Recalled) -> f64| Summary::of(of.iter().map(|result| value(result)));
        Row {
            score,
            exact: (0..TASKS.len()).map(|task| over(&|result| result.exact[task])).collect(),
            mean: over(&|result| result.exact.iter().sum::<f64>() / TASKS.len() as f64),
            shots: over(&|result| result.shots),
            signs: over(&|result| result.signs),
            tau: over(&|result| result.tau),
        }
    };
    Score::ALL.into_iter().map(row).collect()
}
