//! z, and the gradients of what it is made from, on the CPU.

use super::DynamicGradients;
use super::cpu::tasks_of_samples;
use super::problem::Problem;
use crate::error::Result;
use crate::host::{elements, elements_mut};
use crate::random;
use crate::tensor::{TensorMut, TensorRef};

/// Partial sums of a dot product: wide enough for the vector units, and a fixed order whatever their width.
const LANES: usize = 16;

pub(super) fn scores(problem: &Problem<'_>, z: &mut TensorMut<'_>) -> Result<()> {
    let (heads, source) = (problem.sizes.heads, &problem.source);
    let tasks = tasks_of_samples(problem)?;
    let noise = problem.activation.noise();
    let stream = if noise == 0.0 { (0, 0) } else { problem.noise.values(problem.op)? };
    let values = source.values.to_vec::<f32>()?;
    let x = source.linear.as_ref().map(|linear| linear.x.to_vec::<f32>()).transpose()?;
    let bias = source.linear.as_ref().and_then(|linear| linear.bias.as_ref());
    let bias = bias.map(TensorRef::to_vec::<f32>).transpose()?;
    let features = source.linear.as_ref().map_or(0, |linear| linear.x.shape()[1]);
    for (pair, z) in elements_mut::<f32>(z)?.iter_mut().enumerate() {
        let (sample, head) = (pair / heads, pair % heads);
        let Some(task) = tasks[sample] else {
            *z = 0.0;
            continue;
        };
        *z = match &x {
            Some(x) => {
                let weights = &values[(task * heads + head) * features..][..features];
                let dot = dot(weights, &x[sample / problem.repeat * features..][..features]);
                dot + bias.as_ref().map_or(0.0, |bias| bias[task * heads + head])
            }
            None if source.ids.is_some() => values[task * heads + head],
            None => values[pair],
        };
        if noise != 0.0 {
            *z = noise.mul_add(noise_of(stream, sample / problem.repeat * heads + head), *z);
        }
    }
    Ok(())
}

/// The sum of a block's four words, centred and scaled to deviation 1 (four uniform numbers have variance 4/12): the same bits on
/// every backend.
fn noise_of((seed, offset): (u64, u64), pair: usize) -> f32 {
    let sum: u32 = random::block(seed, offset, pair as u64).iter().map(|word| word >> 8).sum();
    (sum as f32 * (1.0 / (1u32 << 24) as f32) - 2.0) * 1.732_050_8
}

fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for (x, y) in x.chunks(LANES).zip(y.chunks(LANES)) {
        for (lane, (x, y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane += x * y;
        }
    }
    lanes.iter().sum()
}

pub(super) fn backward(problem: &Problem<'_>, dz: &TensorRef<'_>, out: &mut DynamicGradients) -> Result<()> {
    let Some(linear) = &problem.source.linear else { return Ok(()) };
    let (heads, features) = (problem.sizes.heads, linear.x.shape()[1]);
    let (x, weights) = (linear.x.to_vec::<f32>()?, problem.source.values.to_vec::<f32>()?);
    let dz = elements::<f32>(dz)?;
    let (mut dx, mut dweights) = (out.dx.view_mut(), out.dweights.view_mut());
    let (dx, dweights) = (elements_mut::<f32>(&mut dx)?, elements_mut::<f32>(&mut dweights)?);
    let mut dbias = out.dbias.as_mut().map(|dbias| dbias.view_mut());
    let dbias = match &mut dbias {
        Some(dbias) => elements_mut::<f32>(dbias)?,
        None => &mut [],
    };
    for (sample, task) in tasks_of_samples(problem)?.into_iter().enumerate() {
        let Some(task) = task else { continue };
        let own = sample / problem.repeat * features..(sample / problem.repeat + 1) * features;
        for head in 0..heads {
            let row = task * heads + head;
            let d = dz[sample * heads + head];
            if let Some(dbias) = dbias.get_mut(row) {
                *dbias += d;
            }
            let of_row = row * features..(row + 1) * features;
            for (dw, x) in dweights[of_row.clone()].iter_mut().zip(&x[own.clone()]) {
                *dw += d * x;
            }
            for (dx, w) in dx[own.clone()].iter_mut().zip(&weights[of_row]) {
                *dx += d * w;
            }
        }
    }
    Ok(())
}
