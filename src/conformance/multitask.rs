//! Cases of `multitask`: losses with their gradient, metrics, and the comparison of gradients.

use super::compare::{Comparison, Expected, Output};
use super::random::Random;
use super::{Checked, Failure, Operation};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::multitask::{
    ClassMetricsOptions, CrossEntropyOptions, LossViews, SquaredErrorOptions, TaskAxis, class_metrics,
    cross_entropy_into, gradient_similarity, rows_workspace, squared_error_into,
};
use crate::tensor::Tensor;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation { name: "multitask_losses", check: losses },
    Operation { name: "multitask_metrics", check: metrics },
    Operation { name: "multitask_gradients", check: gradients },
];

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1u32 << 24) as f64;
const TINY: f64 = f32::MIN_POSITIVE as f64;

/// A batch of tasks: `[batch, columns, width]` values, a label or targets a row, a task a sample where tasks are mixed.
struct Batch {
    is_mixed: bool,
    batch: usize,
    tasks: usize,
    width: usize,
    values: Vec<f32>,
    targets: Vec<f32>,
    labels: Vec<i32>,
    ids: Vec<i32>,
    smoothing: f32,
}

impl Batch {
    fn new(number: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let is_mixed = number.is_multiple_of(2);
        let (batch, tasks) = (random.between(1, 70), random.between(1, 4));
        let width = random.choose(&[1, 2, 5, 31, 32, 33, 70]);
        let rows = batch * if is_mixed { 1 } else { tasks };
        let label =
            |random: &mut Random| if random.one_in(5) { -100 } else { random.between(0, width - 1) as i32 };
        let id =
            |random: &mut Random| if random.one_in(6) { -1 } else { random.between(0, tasks - 1) as i32 };
        Self {
            is_mixed,
            batch,
            tasks,
            width,
            values: random.values(rows * width, 4.0),
            targets: random.values(rows * width, 4.0),
            labels: (0..rows).map(|_| label(&mut random)).collect(),
            ids: (0..if is_mixed { batch } else { 0 }).map(|_| id(&mut random)).collect(),
            smoothing: if random.one_in(2) { 0.0 } else { 0.2 },
        }
    }

    fn describe(&self) -> String {
        let axis = if self.is_mixed { "mixed" } else { "all" };
        format!("{axis} B{} T{} C{} smoothing {}", self.batch, self.tasks, self.width, self.smoothing)
    }

    fn shape(&self, last: Option<usize>) -> Vec<usize> {
        let mut shape = if self.is_mixed { vec![self.batch] } else { vec![self.batch, self.tasks] };
        shape.extend(last);
        shape
    }

    fn rows(&self) -> usize {
        self.labels.len()
    }

    /// Task of a row.
    fn task(&self, row: usize) -> Option<usize> {
        if self.is_mixed { usize::try_from(self.ids[row]).ok() } else { Some(row % self.tasks) }
    }

    fn axis<'a>(&self, ids: &'a Tensor) -> TaskAxis<'a> {
        if self.is_mixed { TaskAxis::Mixed { tasks: ids.view(), count: self.tasks } } else { TaskAxis::All }
    }

    /// Outputs of a loss with the mean as reduction: total, losses, row losses, gradient.
    fn launch(&self, device: &Device, is_entropy: bool) -> std::result::Result<[Vec<f32>; 4], Failure> {
        let values = Tensor::from_slice(device, &self.values, &self.shape(Some(self.width)))?;
        let targets = Tensor::from_slice(device, &self.targets, &self.shape(Some(self.width)))?;
        let labels = Tensor::from_slice(device, &self.labels, &self.shape(None))?;
        let ids = Tensor::from_slice(device, &self.ids, &[self.ids.len()])?;
        let (mut total, mut losses) = (Output::new(device, &[1])?, Output::new(device, &[self.tasks])?);
        let mut row_losses = Output::new(device, &self.shape(None))?;
        let mut gradient = Output::new(device, &self.shape(Some(self.width)))?;
        let words = |count: usize| Tensor::zeros(device, DType::U32, &[count]);
        let (mut counts, mut workspace) = (words(self.tasks)?, words(rows_workspace(self.rows()))?);
        let views = LossViews {
            total: total.view_mut()?,
            losses: losses.view_mut()?,
            counts: counts.view_mut(),
            row_losses: row_losses.view_mut()?,
            gradient: Some(gradient.view_mut()?),
            workspace: workspace.view_mut(),
        };
        if is_entropy {
            let mut options = CrossEntropyOptions::new(self.axis(&ids));
            options.label_smoothing = self.smoothing;
            cross_entropy_into(&values.view(), &labels.view(), &options, views)?;
        } else {
            squared_error_into(
                &values.view(),
                &targets.view(),
                &SquaredErrorOptions::new(self.axis(&ids)),
                views,
            )?;
        }
        device.synchronize()?;
        Ok([
            total.read("total")?,
            losses.read("losses")?,
            row_losses.read("row_losses")?,
            gradient.read("gradient")?,
        ])
    }
}

/// A row's loss with the magnitudes added up for it, and the same of its gradient.
fn row_loss(x: &[f32], y: &[f32], label: usize, smoothing: Option<f32>) -> ([f64; 2], Vec<[f64; 2]>) {
    let width = x.len() as f64;
    let Some(smoothing) = smoothing.map(f64::from) else {
        let errors =
            x.iter().zip(y).map(|(&x, &y)| (f64::from(x) - f64::from(y), f64::from(x.abs() + y.abs())));
        let sums = errors
            .clone()
            .fold([0.0; 2], |sum, (e, size)| [sum[0] + e * e / width, sum[1] + size * size / width]);
        return (sums, errors.map(|(e, size)| [2.0 * e / width, 2.0 * size / width]).collect());
    };
    let z: Vec<f64> = x.iter().map(|&z| z.into()).collect();
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
    let size = z.iter().fold(1.0f64, |size, z| size.max(1.0 + z.abs()));
    let (mut loss, mut gradient) = ([0.0, size], Vec::new());
    for (c, z) in z.iter().enumerate() {
        let want = smoothing / width + if c == label { 1.0 - smoothing } else { 0.0 };
        loss[0] += want * (log_sum - z);
        loss[1] += want * (log_sum - z).abs();
        let p = (z - log_sum).exp();
        gradient.push([p - want, p * size + want]);
    }
    (loss, gradient)
}

fn losses(device: &Device, number: usize, seed: u64) -> Checked {
    let batch = Batch::new(number, seed);
    let is_entropy = number % 4 < 2;
    let run = || -> std::result::Result<f64, Failure> {
        let [total, losses, row_losses, gradient] = batch.launch(device, is_entropy)?;
        let is_in = |row: usize| batch.task(row).filter(|_| !is_entropy || batch.labels[row] != -100);
        let mut counts = vec![0.0; batch.tasks];
        (0..batch.rows()).filter_map(is_in).for_each(|task| counts[task] += 1.0);
        let (mut want_rows, mut want_gradient) = (Vec::new(), Vec::new());
        let mut want_losses = vec![[0.0; 2]; batch.tasks];
        let expected = |[value, terms]: [f64; 2], factor: f64| {
            Some(Expected { value, tolerance: factor * U * terms + TINY })
        };
        for row in 0..batch.rows() {
            let own = row * batch.width..(row + 1) * batch.width;
            let Some(task) = is_in(row) else {
                want_rows.push(expected([0.0; 2], 0.0));
                want_gradient.extend(vec![expected([0.0; 2], 0.0); batch.width]);
                continue;
            };
            let smoothing = is_entropy.then_some(batch.smoothing);
            let (loss, gradient) = row_loss(
                &batch.values[own.clone()],
                &batch.targets[own],
                batch.labels[row].max(0) as usize,
                smoothing,
            );
            want_rows.push(expected(loss, 16.0));
            let share = |[value, terms]: [f64; 2]| [value / counts[task], terms / counts[task]];
            want_gradient.extend(gradient.into_iter().map(|g| expected(share(g), 16.0)));
            (0..2).for_each(|i| want_losses[task][i] += share(loss)[i]);
        }
        let sum = want_losses.iter().fold([0.0; 2], |sum, loss| [sum[0] + loss[0], sum[1] + loss[1]]);
        let want_losses: Vec<_> = want_losses.into_iter().map(|loss| expected(loss, 32.0)).collect();
        let mut comparison = Comparison::default();
        comparison.check("row_losses", &row_losses, &want_rows)?;
        comparison.check("gradient", &gradient, &want_gradient)?;
        comparison.check("losses", &losses, &want_losses)?;
        comparison.check("total", &total, &[expected(sum, 40.0)])?;
        Ok(comparison.worst)
    };
    let kind = if is_entropy { "cross-entropy" } else { "squared error" };
    Checked { problem: format!("{kind} {}", batch.describe()), worst: run() }
}

fn metrics(device: &Device, number: usize, seed: u64) -> Checked {
    let batch = Batch::new(number, seed);
    let run = || -> std::result::Result<f64, Failure> {
        let values = Tensor::from_slice(device, &batch.values, &batch.shape(Some(batch.width)))?;
        let labels = Tensor::from_slice(device, &batch.labels, &batch.shape(None))?;
        let ids = Tensor::from_slice(device, &batch.ids, &[batch.ids.len()])?;
        let out = class_metrics(&values.view(), &labels.view(), &ClassMetricsOptions::new(batch.axis(&ids)))?;
        let got: Result<_> = (|| Ok((out.per_task.to_vec::<f32>()?, out.class_counts.to_vec::<u32>()?)))();
        let (per_task, class_counts) = got?;
        let mut want_counts = vec![0u32; batch.tasks * batch.width * 3];
        for row in (0..batch.rows()).filter(|&row| batch.labels[row] != -100) {
            let Some(task) = batch.task(row) else { continue };
            let z = &batch.values[row * batch.width..][..batch.width];
            let predicted = (0..z.len()).rev().max_by(|&a, &b| z[a].total_cmp(&z[b])).unwrap_or(0);
            let label = batch.labels[row] as usize;
            let at = |class: usize, kind: usize| (task * batch.width + class) * 3 + kind;
            want_counts[at(label, 0)] += u32::from(predicted == label);
            want_counts[at(predicted, 1)] += 1;
            want_counts[at(label, 2)] += 1;
        }
        if class_counts != want_counts {
            return Err(Failure::Wrong(format!(
                "class_counts are {class_counts:?}, expected {want_counts:?}"
            )));
        }
        let over = |x: u32, y: u32| if y == 0 { 0.0 } else { f64::from(x) / f64::from(y) };
        let mut want = Vec::new();
        for counts in want_counts.chunks(3 * batch.width) {
            let classes: Vec<&[u32]> = counts.chunks(3).filter(|c| c[1] + c[2] > 0).collect();
            let sum = |kind: usize| counts.chunks(3).map(|c| c[kind]).sum::<u32>();
            let mean = |of: &dyn Fn(&[u32]) -> f64| {
                if classes.is_empty() {
                    0.0
                } else {
                    classes.iter().map(|c| of(c)).sum::<f64>() / classes.len() as f64
                }
            };
            let scores = [
                over(sum(0), sum(2)),
                mean(&|c| over(c[0], c[1])),
                mean(&|c| over(c[0], c[2])),
                mean(&|c| over(2 * c[0], c[1] + c[2])),
            ];
            let tolerance = (8 + 2 * batch.width) as f64 * U;
            want.extend(scores.map(|value| Some(Expected { value, tolerance })));
        }
        let mut comparison = Comparison::default();
        comparison.check("per_task", &per_task, &want)?;
        Ok(comparison.worst)
    };
    Checked { problem: batch.describe(), worst: run() }
}

fn gradients(device: &Device, number: usize, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    let (tasks, length) = (1 + number % 7, random.choose(&[1, 130, 4095, 4097, 9000]));
    let rows: Vec<Vec<f32>> = (0..tasks).map(|_| random.values(length, 2.0)).collect();
    let run = || -> std::result::Result<f64, Failure> {
        let out = gradient_similarity(&Tensor::from_slice(device, &rows.concat(), &[tasks, length])?.view())?;
        let (norms, cosines) = (out.norms.to_vec::<f32>()?, out.cosines.to_vec::<f32>()?);
        let product = |i: usize, j: usize, of: fn(f64) -> f64| -> f64 {
            rows[i].iter().zip(&rows[j]).map(|(&x, &y)| of(f64::from(x) * f64::from(y))).sum()
        };
        let norm = |i: usize| product(i, i, |x| x).sqrt();
        let of_norms = (0..tasks).map(|i| Some(Expected { value: norm(i), tolerance: 70.0 * U * norm(i) }));
        let of_cosines = (0..tasks * tasks).map(|at| {
            let (i, j) = (at / tasks, at % tasks);
            let scale = norm(i) * norm(j);
            let tolerance = 70.0 * U * (1.0 + product(i, j, f64::abs) / scale);
            Some(Expected { value: product(i, j, |x| x) / scale, tolerance })
        });
        let mut comparison = Comparison::default();
        comparison.check("norms", &norms, &of_norms.collect::<Vec<_>>())?;
        comparison.check("cosines", &cosines, &of_cosines.collect::<Vec<_>>())?;
        Ok(comparison.worst)
    };
    Checked { problem: format!("T{tasks} N{length}"), worst: run() }
}
