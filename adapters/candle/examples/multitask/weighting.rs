//! How the losses of the tasks make one loss.

use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A weighting scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weighting {
    /// The mean of the tasks' losses.
    Uniform,
    /// `e^(−s_t)·L_t + s_t/2` with a learned s_t = ln σ_t²: Kendall, Gal & Cipolla, arXiv:1705.07115.
    Uncertainty,
    /// Dynamic weight average: a task whose loss falls slowly weighs more. Liu, Johns & Davison, arXiv:1803.10704.
    Dwa,
}

/// Steps over which [`Weighting::Dwa`] averages a loss.
const WINDOW: usize = 50;
/// Its temperature: larger is closer to equal weights.
const TEMPERATURE: f64 = 2.0;

/// A scheme with its state.
pub struct Weights {
    pub scheme: Weighting,
    /// `[tasks]`: s_t of the uncertainty scheme.
    pub log_variance: Var,
    /// What DWA has seen: `[tasks, 4]`, sum and count of the window that is open, mean of the last one and of the one before;
    /// NaN where a task had no sample.
    pub windows: Vec<[f64; 4]>,
}

impl Weights {
    /// # Errors
    /// candle's.
    pub fn new(scheme: Weighting, tasks: usize) -> Result<Self> {
        let log_variance = Var::zeros(tasks, DType::F32, &Device::Cpu)?;
        Ok(Self { scheme, log_variance, windows: vec![[0.0, 0.0, f64::NAN, f64::NAN]; tasks] })
    }

    /// The weights of the tasks now; they sum to the number of tasks, except for learned ones.
    ///
    /// # Errors
    /// candle's.
    pub fn now(&self) -> Result<Vec<f64>> {
        Ok(match self.scheme {
            Weighting::Uniform => vec![1.0; self.windows.len()],
            Weighting::Uncertainty => {
                self.log_variance.to_vec1::<f32>()?.into_iter().map(|s| f64::from(-s).exp()).collect()
            }
            Weighting::Dwa => dwa(&self.windows.iter().map(|w| (w[2], w[3])).collect::<Vec<_>>()),
        })
    }

    /// The loss of a batch, from the losses `[tasks]`: a mean over the tasks that are `present` in it.
    ///
    /// # Errors
    /// candle's.
    pub fn loss(&self, losses: &Tensor, present: &[bool]) -> Result<Tensor> {
        let count = present.iter().filter(|&&here| here).count().max(1) as f64;
        let mask: Vec<f32> = present.iter().map(|&here| f32::from(here)).collect();
        let mask = Tensor::new(mask, &Device::Cpu)?;
        let weighted = match self.scheme {
            Weighting::Uncertainty => {
                let s = self.log_variance.as_tensor();
                ((s.neg()?.exp()? * losses)? + (s * 0.5)?)?
            }
            _ => {
                let weights: Vec<f32> = self.now()?.into_iter().map(|w| w as f32).collect();
                (losses * Tensor::new(weights, &Device::Cpu)?)?
            }
        };
        Ok(((weighted * mask)?.sum_all()? / count)?)
    }

    /// Takes note of the losses of step `step`.
    pub fn record(&mut self, step: usize, losses: &[f32], present: &[bool]) {
        for ((window, &loss), &here) in self.windows.iter_mut().zip(losses).zip(present) {
            if here {
                window[0] += f64::from(loss);
                window[1] += 1.0;
            }
        }
        if (step + 1).is_multiple_of(WINDOW) {
            for window in &mut self.windows {
                // 0/0 is NaN: no sample, no mean.
                *window = [0.0, 0.0, window[0] / window[1], window[2]];
            }
        }
    }

    /// Room for more tasks.
    ///
    /// # Errors
    /// candle's.
    pub fn grow(&mut self, tasks: usize) -> Result<()> {
        let mut s: Vec<f32> = self.log_variance.to_vec1()?;
        s.resize(tasks.max(s.len()), 0.0);
        self.windows.resize(s.len(), [0.0, 0.0, f64::NAN, f64::NAN]);
        self.log_variance = Var::new(s, &Device::Cpu)?;
        Ok(())
    }
}

/// Weights `T·softmax_t(r_t / temperature)` from each task's mean loss in the last window and in the one before it:
/// `r_t = last/before`, 1 where either is missing.
pub fn dwa(means: &[(f64, f64)]) -> Vec<f64> {
    let ratio = |&(last, before): &(f64, f64)| {
        let ratio = last / before;
        let ratio = if ratio.is_finite() { ratio } else { 1.0 };
        (ratio / TEMPERATURE).exp()
    };
    let shares: Vec<f64> = means.iter().map(ratio).collect();
    let sum: f64 = shares.iter().sum();
    shares.into_iter().map(|share| share * means.len() as f64 / sum).collect()
}
