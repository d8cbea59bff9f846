//! Statistics and the balance loss's gradient on the CPU.

use super::GateStatistics;
use crate::error::Result;
use crate::host::{elements, elements_mut};
use crate::tensor::{Tensor, TensorRef};

pub(super) fn statistics(
    [gates, probabilities]: [&TensorRef<'_>; 2],
    task_of: &[Option<usize>],
    shared: usize,
    out: &mut GateStatistics,
) -> Result<()> {
    let &[tasks, heads] = out.selected.shape() else { return Ok(()) };
    let (gates, probabilities) = (elements::<f32>(gates)?, elements::<f32>(probabilities)?);
    let (mut selected, mut probability) = (out.selected.view_mut(), out.probability.view_mut());
    let (selected, probability) =
        (elements_mut::<f32>(&mut selected)?, elements_mut::<f32>(&mut probability)?);
    let (mut counts, mut summary) = (out.counts.view_mut(), out.summary.view_mut());
    let (counts, summary) = (elements_mut::<u32>(&mut counts)?, elements_mut::<f32>(&mut summary)?);
    for (sample, task) in task_of.iter().enumerate() {
        let Some(task) = *task else { continue };
        counts[task] += 1;
        for head in 0..heads {
            let (pair, at) = (sample * heads + head, task * heads + head);
            selected[at] += if gates[pair] == 0.0 { 0.0 } else { 1.0 };
            probability[at] += probabilities[pair];
        }
    }
    for task in 0..tasks {
        let own = task * heads..(task + 1) * heads;
        let count = counts[task].max(1) as f32;
        let (f, p) = (&mut selected[own.clone()], &mut probability[own]);
        f.iter_mut().chain(p.iter_mut()).for_each(|x| *x /= count);
        let (f, p) = (&*f, &*p);
        let product: f32 = f[shared..].iter().zip(&p[shared..]).map(|(f, p)| f * p).sum();
        let total: f32 = p[shared..].iter().sum();
        let share = |p: f32| if total == 0.0 { 0.0 } else { p / total };
        // A NaN comes in.
        let terms = p[shared..].iter().map(|&p| share(p)).filter(|q| !(*q <= 0.0));
        let entropy = -terms.map(|q| q * q.ln()).sum::<f32>();
        let active = if heads == 0 { 0.0 } else { f.iter().sum::<f32>() / heads as f32 };
        // No terms add up to −0.
        summary[3 * task..3 * task + 3].copy_from_slice(&[
            (heads - shared) as f32 * product,
            entropy + 0.0,
            active,
        ]);
    }
    Ok(())
}

/// `shape`: heads that are not routed, and what the probabilities are of z: itself (0), its sigmoid (1) or softmax (2).
pub(super) fn add_balance_gradient(
    probabilities: &TensorRef<'_>,
    statistics: &GateStatistics,
    task_of: &[Option<usize>],
    weights: &TensorRef<'_>,
    (shared, family): (usize, u32),
    dz: &mut Tensor,
) -> Result<()> {
    let heads = statistics.selected.shape()[1];
    let (selected, counts) = (statistics.selected.view(), statistics.counts.view());
    let (selected, counts) = (elements::<f32>(&selected)?, elements::<u32>(&counts)?);
    let (probabilities, weights) = (elements::<f32>(probabilities)?, elements::<f32>(weights)?);
    let mut dz = dz.view_mut();
    let dz = elements_mut::<f32>(&mut dz)?;
    for (sample, task) in task_of.iter().enumerate() {
        let Some(task) = *task else { continue };
        let own = sample * heads + shared..(sample + 1) * heads;
        let (p, f) = (&probabilities[own.clone()], &selected[task * heads + shared..(task + 1) * heads]);
        let mean: f32 = p.iter().zip(f).map(|(p, f)| p * f).sum();
        let factor = (heads - shared) as f32 * weights[task] / counts[task] as f32;
        for ((dz, p), f) in dz[own].iter_mut().zip(p).zip(f) {
            *dz += factor
                * match family {
                    0 => *f,
                    1 => f * p * (1.0 - p),
                    _ => p * (f - mean),
                };
        }
    }
    Ok(())
}
