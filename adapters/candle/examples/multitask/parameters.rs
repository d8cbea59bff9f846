//! Named parameters, the same for the same seed on every machine, and their growth.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor, Var};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, StandardNormal};
use std::collections::HashMap;

/// A trained tensor and its name in checkpoints.
#[derive(Clone)]
pub struct Parameter {
    pub name: &'static str,
    pub var: Var,
}

/// Makes and remembers a model's parameters. A parameter's first values depend on the seed, its name and its shape alone.
pub struct Init<'a> {
    pub seed: u64,
    /// Values that parameters begin with: each fills the leading block of its parameter.
    pub given: Option<&'a HashMap<String, Tensor>>,
    pub parameters: Vec<Parameter>,
}

impl Init<'_> {
    fn make(&mut self, name: &'static str, shape: &[usize], mut data: Vec<f32>) -> Result<Var> {
        if let Some(given) = self.given {
            let old = given.get(name).ok_or_else(|| anyhow::anyhow!("`{name}` is missing"))?;
            let fits = old.dims().len() == shape.len() && old.dims().iter().zip(shape).all(|(a, b)| a <= b);
            ensure!(fits, "`{name}` has shape {:?}, the model {shape:?}", old.dims());
            embed(&mut data, shape, &old.flatten_all()?.to_vec1::<f32>()?, old.dims());
        }
        let var = Var::from_vec(data, shape, &Device::Cpu)?;
        self.parameters.push(Parameter { name, var: var.clone() });
        Ok(var)
    }

    pub fn normal(&mut self, name: &'static str, shape: &[usize], deviation: f32) -> Result<Var> {
        // FNV-1a: a stream of random words for each name.
        let stream = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        let [low, high, ..] = gatewarp::random::block(self.seed, stream, 0);
        let mut random = StdRng::seed_from_u64(u64::from(low) | u64::from(high) << 32);
        let sample = |_| -> f32 {
            let z: f32 = StandardNormal.sample(&mut random);
            deviation * z
        };
        let data = (0..shape.iter().product()).map(sample).collect();
        self.make(name, shape, data)
    }

    /// A linear map from `inputs` values, as a tensor of any shape.
    pub fn linear(&mut self, name: &'static str, inputs: usize, shape: &[usize]) -> Result<Var> {
        self.normal(name, shape, (inputs as f32).sqrt().recip())
    }

    pub fn norm(&mut self, names: [&'static str; 2], width: usize) -> Result<Norm> {
        Ok(Norm {
            weight: self.make(names[0], &[width], vec![1.0; width])?,
            bias: self.make(names[1], &[width], vec![0.0; width])?,
        })
    }
}

/// Layer normalisation.
pub struct Norm {
    weight: Var,
    bias: Var,
}

impl Norm {
    pub fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        candle_nn::ops::layer_norm_slow(x, &self.weight, &self.bias, 1e-5)
    }
}

/// Copies a row-major tensor into the leading block of a larger one of the same rank.
pub fn embed<T: Copy>(into: &mut [T], shape: &[usize], from: &[T], from_shape: &[usize]) {
    match (shape, from_shape) {
        ([_, inner @ ..], [rows, from_inner @ ..]) if !inner.is_empty() => {
            let (step, from_step) = (inner.iter().product::<usize>(), from_inner.iter().product::<usize>());
            for row in 0..*rows {
                embed(&mut into[row * step..], inner, &from[row * from_step..], from_inner);
            }
        }
        (_, [count]) => into[..*count].copy_from_slice(&from[..*count]),
        _ => into[..1].copy_from_slice(&from[..1]),
    }
}

/// The tensors by name, as [`Init::given`] takes them.
pub fn by_name(parameters: &[Parameter]) -> HashMap<String, Tensor> {
    parameters.iter().map(|p| (p.name.to_owned(), p.var.as_tensor().clone())).collect()
}

/// A tensor enlarged to `shape`, `fill` where it is new.
pub fn grown<T: Copy>(old: &[T], old_shape: &[usize], shape: &[usize], fill: T) -> Vec<T> {
    let mut data = vec![fill; shape.iter().product()];
    embed(&mut data, shape, old, old_shape);
    data
}
