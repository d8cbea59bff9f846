//! AdamW whose state can be saved, and which can leave parts of a parameter as they are.

use super::parameters::Parameter;
use anyhow::{Result, ensure};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};

const BETA: [f32; 2] = [0.9, 0.999];
const EPSILON: f32 = 1e-8;
const DECAY: f32 = 0.01;

/// Moments of one parameter.
pub struct Moments {
    pub parameter: Parameter,
    pub first: Vec<f32>,
    pub second: Vec<f32>,
    /// Elements that stay as they are, with their moments; empty for none.
    pub frozen: Vec<bool>,
    /// Whether weights decay.
    decay: bool,
}

/// Loshchilov & Hutter, arXiv:1711.05101.
pub struct AdamW {
    pub moments: Vec<Moments>,
    pub step: usize,
}

impl AdamW {
    /// Of the model's parameters, which decay, and of others, which do not.
    pub fn new(decaying: Vec<Parameter>, others: Vec<Parameter>) -> Self {
        let moments = |decay| {
            move |parameter: Parameter| {
                let count = parameter.var.elem_count();
                Moments {
                    parameter,
                    first: vec![0.0; count],
                    second: vec![0.0; count],
                    frozen: Vec::new(),
                    decay,
                }
            }
        };
        let moments = decaying.into_iter().map(moments(true)).chain(others.into_iter().map(moments(false)));
        Self { moments: moments.collect(), step: 0 }
    }

    /// # Errors
    /// candle's; a gradient that is not finite, before anything has changed.
    pub fn update(&mut self, grads: &GradStore, rate: f64) -> Result<()> {
        let mut all = Vec::with_capacity(self.moments.len());
        for moments in &self.moments {
            let grad = grads.get(&moments.parameter.var);
            let grad = grad.map(|grad| grad.flatten_all()?.to_vec1::<f32>()).transpose()?;
            let finite = grad.iter().flatten().all(|g| g.is_finite());
            ensure!(finite, "the gradient of `{}` is not finite", moments.parameter.name);
            all.push(grad);
        }
        self.step += 1;
        let power = i32::try_from(self.step).unwrap_or(i32::MAX);
        let correction = BETA.map(|beta| 1.0 - beta.powi(power));
        let rate = rate as f32;
        for (moments, grad) in self.moments.iter_mut().zip(all) {
            let Some(grad) = grad else { continue };
            let var = &moments.parameter.var;
            let mut values: Vec<f32> = var.flatten_all()?.to_vec1()?;
            let shrink = if moments.decay { 1.0 - rate * DECAY } else { 1.0 };
            for (i, g) in grad.into_iter().enumerate() {
                if moments.frozen.get(i) == Some(&true) {
                    continue;
                }
                let (m, v) = (&mut moments.first[i], &mut moments.second[i]);
                *m = BETA[0] * *m + (1.0 - BETA[0]) * g;
                *v = BETA[1] * *v + (1.0 - BETA[1]) * g * g;
                let step = (*m / correction[0]) / ((*v / correction[1]).sqrt() + EPSILON);
                values[i] = values[i] * shrink - rate * step;
            }
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
        }
        Ok(())
    }
}
