//! Metrics against per-task loops and hand-computed tables.

use crate::case::{Case, Data, IGNORE, Inputs, case};
use crate::support::compare::{close, same_bits};
use crate::support::devices::TestDevice;
use crate::support::oracle_multitask::{class_scores, prediction};
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use crate::support::tolerance::{U, inner_product, score};
use gatewarp::multitask::{
    Average, ClassMetrics, ClassMetricsOptions, RegressionMetricsOptions, TaskAxis, class_metrics,
    composite_score, gradient_similarity, regression_metrics,
};
use gatewarp::{Device, Layout, Tensor};
use proptest::prelude::*;

fn say(error: gatewarp::Error) -> String {
    error.to_string()
}

fn metrics(device: &Device, case: &Case, data: &Data, average: Average) -> Result<ClassMetrics, String> {
    let inputs = Inputs::new(device, case, data);
    let mut options = ClassMetricsOptions::new(inputs.axis(case));
    options.classes = case.has_widths.then_some(&*data.widths);
    options.ignore_index = IGNORE;
    options.average = average;
    class_metrics(&inputs.values.view(), &inputs.labels.view(), &options).map_err(say)
}

fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

pub fn class_metrics_are_per_task_loops(device: &TestDevice) -> Result<(), String> {
    check("class_metrics_are_per_task_loops", device, CASES, &case(), |handle, case| {
        let data = case.data();
        let positive = case.random(4).below(case.width);
        let average = if case.mean { Average::Macro } else { Average::OneClass(positive) };
        let got = metrics(handle, case, &data, average)?;
        let counts = data.counts(case);
        if got.counts.to_vec::<u32>().map_err(say)? != counts {
            return Err(format!("counts of {counts:?}"));
        }
        let (mut per_class, mut per_task, mut pooled) = (Vec::new(), Vec::new(), (Vec::new(), Vec::new()));
        for task in 0..case.tasks {
            let rows = (0..case.rows()).filter_map(|at| data.row(case, at)).filter(|row| row.task == task);
            let (predicted, labels): (Vec<usize>, Vec<usize>) =
                rows.map(|row| (prediction(row.values), row.label)).unzip();
            let of_class = |class| class_scores(&predicted, &labels, class);
            (0..case.width).for_each(|class| per_class.extend(of_class(class)));
            let right = predicted.iter().zip(&labels).filter(|(p, l)| p == l).count() as f64;
            per_task.push(if labels.is_empty() { 0.0 } else { right / labels.len() as f64 });
            let occurring = |class: &usize| predicted.contains(class) || labels.contains(class);
            let classes: Vec<usize> = match average {
                Average::OneClass(class) => vec![class],
                _ => (0..case.width).filter(occurring).collect(),
            };
            for i in 0..3 {
                per_task.push(mean(&classes.iter().map(|&class| of_class(class)[i]).collect::<Vec<_>>()));
            }
            pooled.0.extend(predicted);
            pooled.1.extend(labels);
        }
        let with_rows: Vec<usize> = (0..case.tasks).filter(|&task| counts[task] > 0).collect();
        let mut overall: Vec<f64> = (0..4)
            .map(|i| mean(&with_rows.iter().map(|&t| per_task[4 * t + i]).collect::<Vec<_>>()))
            .collect();
        let right = pooled.0.iter().zip(&pooled.1).filter(|(p, l)| p == l).count() as f64;
        let accuracy = if pooled.1.is_empty() { 0.0 } else { right / pooled.1.len() as f64 };
        overall.push(accuracy);
        match average {
            Average::OneClass(class) => overall.extend(class_scores(&pooled.0, &pooled.1, class)),
            // Every row has one prediction and one label, so the pooled quotients are one number.
            _ => overall.extend([accuracy; 3]),
        }
        let read = |tensor: &Tensor| tensor.to_vec::<f32>().map_err(say);
        let bounds = |count: usize| vec![score(case.width + case.tasks); count];
        close("per_class", &read(&got.per_class)?, &per_class, &bounds(per_class.len()))?;
        close("per_task", &read(&got.per_task)?, &per_task, &bounds(per_task.len()))?;
        close("overall", &read(&got.overall)?, &overall, &bounds(8)).map(drop)
    })
}

/// Three tasks of two classes, the last without rows; counted by hand.
pub fn class_metrics_of_a_table(device: &TestDevice) -> Result<(), String> {
    let handle = device.handle(0);
    // task, prediction, label
    let rows = [(0, 1, 1), (0, 1, 0), (0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 0, 1), (1, 0, 0)];
    let logits: Vec<f32> =
        rows.iter().flat_map(|&(_, p, _)| if p == 1 { [-1.0, 2.0] } else { [0.5, 0.25] }).collect();
    let column = |f: fn(&(i32, i32, i32)) -> i32| {
        Tensor::from_slice(handle, &rows.iter().map(f).collect::<Vec<i32>>(), &[rows.len()]).map_err(say)
    };
    let (tasks, labels) = (column(|row| row.0)?, column(|row| row.2)?);
    let logits = Tensor::from_slice(handle, &logits, &[rows.len(), 2]).map_err(say)?;
    let mut options = ClassMetricsOptions::new(TaskAxis::Mixed { tasks: tasks.view(), count: 3 });
    options.average = Average::OneClass(1);
    let got = class_metrics(&logits.view(), &labels.view(), &options).map_err(say)?;
    let per_task = got.per_task.to_vec::<f32>().map_err(say)?;
    #[rustfmt::skip]
    let want = [
        // Task 0: 3 of 4 right; class 1 predicted 3 times, right twice, labelled twice.
        0.75, 2.0 / 3.0, 1.0, 0.8,
        // Task 1: 1 of 3 right; class 1 never predicted, labelled twice.
        1.0 / 3.0, 0.0, 0.0, 0.0,
        // Task 2: no rows.
        0.0, 0.0, 0.0, 0.0,
    ];
    close("per_task", &per_task, &want, &[4.0 * U; 12])?;
    #[rustfmt::skip]
    let want = [
        // Means over tasks 0 and 1.
        (0.75 + 1.0 / 3.0) / 2.0, 1.0 / 3.0, 0.5, 0.4,
        // 4 of 7 right; class 1: right 2, predicted 3, labelled 4.
        4.0 / 7.0, 2.0 / 3.0, 0.5, 4.0 / 7.0,
    ];
    close("overall", &got.overall.to_vec::<f32>().map_err(say)?, &want, &[4.0 * U; 8])?;

    // Accuracy, weighted 3 : 1 : 5; the task without rows has no part in it.
    let column = got.per_task.view().with_layout(Layout::new(&[3], &[4], 0).map_err(say)?).map_err(say)?;
    let weights = Tensor::from_slice(handle, &[3.0f32, 1.0, 5.0], &[3]).map_err(say)?;
    let composite = composite_score(&column, &got.counts.view(), Some(&weights.view())).map_err(say)?;
    let want = (3.0 * 0.75 + 1.0 / 3.0) / 4.0;
    close("composite", &composite.to_vec::<f32>().map_err(say)?, &[want], &[8.0 * U])?;
    let none = Tensor::from_slice(handle, &[0u32; 3], &[3]).map_err(say)?;
    let empty = composite_score(&column, &none.view(), None).map_err(say)?;
    same_bits("composite of nothing", &empty.to_vec::<f32>().map_err(say)?, &[0.0])
}

pub fn regression_metrics_are_per_task_loops(device: &TestDevice) -> Result<(), String> {
    check("regression_metrics_are_per_task_loops", device, CASES, &case(), |handle, case| {
        let case = Case { width: 1, has_widths: false, ..case.clone() };
        let mut data = case.data();
        // Some tasks have one and the same target, others are predicted without error.
        let mut random = case.random(5);
        let kinds: Vec<usize> = (0..case.tasks).map(|_| random.below(3)).collect();
        let constant = case.size * 0.7;
        for at in 0..case.rows() {
            let Some(task) = data.row(&case, at).map(|row| row.task) else { continue };
            match kinds[task] {
                1 => data.targets[at] = constant,
                2 => data.values[at] = data.targets[at],
                _ => {}
            }
        }
        let inputs = Inputs::new(handle, &case, &data);
        let one_less = |view: gatewarp::TensorRef<'_>| -> Result<Layout, String> {
            let (shape, strides) = (view.layout().shape(), view.layout().strides());
            let rank = shape.len() - 1;
            Layout::new(&shape[..rank], &strides[..rank], view.layout().offset()).map_err(say)
        };
        let (values, targets) = (inputs.values.view(), inputs.targets.view());
        let values = values.with_layout(one_less(values.clone())?).map_err(say)?;
        let targets = targets.with_layout(one_less(targets.clone())?).map_err(say)?;
        let options = RegressionMetricsOptions { axis: inputs.axis(&case), ignore_nan: true };
        let got = regression_metrics(&values, &targets, &options).map_err(say)?;
        let counts = data.counts(&case);
        if got.counts.to_vec::<u32>().map_err(say)? != counts {
            return Err(format!("counts of {counts:?}"));
        }
        let (mut want, mut bounds) = (Vec::new(), Vec::new());
        for task in 0..case.tasks {
            let rows: Vec<(f64, f64)> = (0..case.rows())
                .filter_map(|at| data.row(&case, at))
                .filter(|row| row.task == task)
                .map(|row| (row.values[0].into(), row.targets[0].into()))
                .collect();
            let n = rows.len().max(1) as f64;
            let centre = rows.iter().map(|row| row.1).sum::<f64>() / n;
            let mae = rows.iter().map(|(x, y)| (x - y).abs()).sum::<f64>() / n;
            let squared = rows.iter().map(|(x, y)| (x - y).powi(2)).sum::<f64>();
            let is_constant = rows.iter().all(|row| row.1 == rows[0].1);
            let spread = rows.iter().map(|(_, y)| (y - centre).powi(2)).sum::<f64>();
            let r2 = match (rows.is_empty(), is_constant) {
                (true, _) => 0.0,
                (_, true) => f64::from(u8::from(squared == 0.0)),
                _ => 1.0 - squared / spread,
            };
            let size = f64::from(case.size);
            let u = (32.0 + n / 256.0) * U;
            want.extend([mae, squared / n, r2]);
            // Errors of the differences are absolute, in the values' size; those of R² relative to its quotient.
            let of_r2 = if spread > 0.0 {
                u * (1.0 + (squared + n * size * size) / spread * (1.0 + squared / spread))
            } else {
                0.0
            };
            bounds.extend([u * 2.0 * size, u * 4.0 * size * size, of_r2]);
        }
        close("per_task", &got.per_task.to_vec::<f32>().map_err(say)?, &want, &bounds).map(drop)
    })
}

pub fn gradient_similarity_is_the_formula(device: &TestDevice) -> Result<(), String> {
    let sizes = (
        1usize..=9,
        prop::sample::select(vec![0usize, 1, 127, 128, 1000, 4095, 4096, 4097, 9001]),
        any::<u64>(),
    );
    check(
        "gradient_similarity_is_the_formula",
        device,
        CASES / 4,
        &sizes,
        |handle, &(tasks, length, seed)| {
            let mut random = Random::new(seed, 77);
            let mut rows: Vec<Vec<f32>> = (0..tasks).map(|_| random.values(length, 2.0)).collect();
            for task in 1..tasks {
                match random.below(4) {
                    0 => rows[task].fill(0.0),
                    1 => rows[task] = rows[0].iter().map(|x| -3.0 * x).collect(),
                    _ => {}
                }
            }
            let layout = crate::support::guarded::random_layout(
                &[tasks, length],
                crate::support::guarded::Inner::Contiguous,
                &mut random,
            );
            let input = crate::support::guarded::Strided::new(handle, &rows.concat(), layout);
            let got = gradient_similarity(&input.view()).map_err(say)?;
            let product = |i: usize, j: usize| -> (f64, f64) {
                let terms = rows[i].iter().zip(&rows[j]).map(|(&x, &y)| f64::from(x) * f64::from(y));
                (terms.clone().sum(), terms.map(f64::abs).sum())
            };
            let norm = |i: usize| product(i, i).0.sqrt();
            let norms: Vec<f64> = (0..tasks).map(norm).collect();
            let bounds: Vec<f64> = norms
                .iter()
                .map(|&n| if n == 0.0 { 0.0 } else { inner_product(n * n, length) / n + 4.0 * U * n })
                .collect();
            close("norms", &got.norms.to_vec::<f32>().map_err(say)?, &norms, &bounds)?;
            let (mut want, mut bounds) = (Vec::new(), Vec::new());
            for i in 0..tasks {
                for j in 0..tasks {
                    let scale = norms[i] * norms[j];
                    let (dot, terms) = product(i, j);
                    want.push(if scale == 0.0 { 0.0 } else { dot / scale });
                    bounds.push(if scale == 0.0 {
                        0.0
                    } else {
                        inner_product(terms + scale, length) / scale + 16.0 * U
                    });
                }
            }
            close("cosines", &got.cosines.to_vec::<f32>().map_err(say)?, &want, &bounds).map(drop)
        },
    )
}
