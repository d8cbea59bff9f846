//! Losses against loops per task, in bits where bits are promised.

use crate::case::{Case, Data, IGNORE, Inputs, case};
use crate::support::compare::{close, same_bits};
use crate::support::devices::TestDevice;
use crate::support::guarded::{Guarded, Inner, random_layout};
use crate::support::oracle_multitask::{RowLoss, cross_entropy, squared_error};
use crate::support::property::{CASES, check};
use crate::support::tolerance::{
    CENTRAL_DIFFERENCE, CENTRAL_DIFFERENCE_STEP, TINY, U, row_loss, sum_of_rows,
};
use gatewarp::multitask::{
    CrossEntropyOptions, LossViews, SquaredErrorOptions, cross_entropy_into, rows_workspace,
    squared_error_into,
};
use gatewarp::{Device, Layout, Result, Tensor};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    CrossEntropy,
    SquaredError,
}

/// What a loss wrote.
pub struct Run {
    pub total: Vec<f32>,
    pub losses: Vec<f32>,
    pub counts: Vec<u32>,
    pub row_losses: Vec<f32>,
    pub gradient: Option<Vec<f32>>,
}

/// Row-major in the middle of guard words.
pub fn dense(device: &Device, shape: &[usize]) -> Guarded {
    let strides = Layout::contiguous(shape).expect("a layout");
    Guarded::new(device, Layout::new(shape, strides.strides(), 71).expect("a layout"))
}

pub fn run(
    device: &Device,
    case: &Case,
    inputs: &Inputs,
    data: &Data,
    kind: Kind,
    want: bool,
) -> std::result::Result<Run, String> {
    let (mut total, mut losses) = (dense(device, &[1]), dense(device, &[case.tasks]));
    let mut row_losses = dense(device, &case.row_shape());
    let mut random = case.random(2);
    let mut gradient =
        want.then(|| Guarded::new(device, random_layout(&case.shape(), Inner::Contiguous, &mut random)));
    let words =
        |count: usize| Tensor::from_slice(device, &vec![0xdead_beefu32; count], &[count]).expect("words");
    let (mut counts, mut workspace) = (words(case.tasks), words(rows_workspace(case.rows())));
    let views = LossViews {
        total: total.view_mut(),
        losses: losses.view_mut(),
        counts: counts.view_mut(),
        row_losses: row_losses.view_mut(),
        gradient: gradient.as_mut().map(Guarded::view_mut),
        workspace: workspace.view_mut(),
    };
    let widths = case.has_widths.then_some(&*data.widths);
    let weights = inputs.weights.as_ref().map(Tensor::view);
    let outcome: Result<()> = match kind {
        Kind::CrossEntropy => {
            let mut options = CrossEntropyOptions::new(inputs.axis(case));
            options.weights = weights;
            options.classes = widths;
            options.reduction = case.reduction();
            options.ignore_index = IGNORE;
            options.label_smoothing = case.smoothing;
            cross_entropy_into(&inputs.values.view(), &inputs.labels.view(), &options, views)
        }
        Kind::SquaredError => {
            let mut options = SquaredErrorOptions::new(inputs.axis(case));
            options.weights = weights;
            options.widths = widths;
            options.reduction = case.reduction();
            options.ignore_nan = true;
            squared_error_into(&inputs.values.view(), &inputs.targets.view(), &options, views)
        }
    };
    outcome.map_err(|error| error.to_string())?;
    inputs.values.check_untouched("values")?;
    inputs.targets.check_untouched("targets")?;
    Ok(Run {
        total: total.read("total")?,
        losses: losses.read("losses")?,
        counts: counts.to_vec().map_err(|error| error.to_string())?,
        row_losses: row_losses.read("row_losses")?,
        gradient: gradient.map(|gradient| gradient.read("gradient")).transpose()?,
    })
}

fn row_losses_of(case: &Case, data: &Data, kind: Kind) -> Vec<Option<(usize, RowLoss)>> {
    let one = |at| {
        let row = data.row(case, at)?;
        Some((
            row.task,
            match kind {
                Kind::CrossEntropy => cross_entropy(&row, case.smoothing.into()),
                Kind::SquaredError => squared_error(&row),
            },
        ))
    };
    (0..case.rows()).map(one).collect()
}

/// Total, loss per task, and the terms of each.
fn reduced(case: &Case, data: &Data, rows: &[Option<(usize, RowLoss)>]) -> (f64, f64, Vec<f64>, Vec<f64>) {
    let counts = data.counts(case);
    let (mut losses, mut terms) = (vec![0.0; case.tasks], vec![0.0; case.tasks]);
    for (task, row) in rows.iter().flatten() {
        let share = if case.mean { 1.0 / f64::from(counts[*task]) } else { 1.0 };
        losses[*task] += share * row.loss;
        terms[*task] += share * row.loss_terms;
    }
    let weighted = |values: &[f64], of: fn(f64) -> f64| {
        values.iter().zip(&data.weights).map(|(x, &w)| of(f64::from(w)) * x).sum::<f64>()
    };
    (weighted(&losses, |w| w), weighted(&terms, f64::abs), losses, terms)
}

fn is_the_formula(name: &'static str, device: &TestDevice, kind: Kind) -> std::result::Result<(), String> {
    check(name, device, CASES, &case(), |handle, case| {
        let data = case.data();
        let got = run(handle, case, &Inputs::new(handle, case, &data), &data, kind, true)?;
        let counts = data.counts(case);
        if got.counts != counts {
            return Err(format!("counts {:?}, expected {counts:?}", got.counts));
        }
        let rows = row_losses_of(case, &data, kind);
        let of_rows = |of: fn(&RowLoss) -> f64| -> Vec<f64> {
            rows.iter().map(|row| row.as_ref().map_or(0.0, |(_, row)| of(row))).collect()
        };
        let bounds: Vec<f64> = of_rows(|row| row_loss(row.loss_terms));
        close("row_losses", &got.row_losses, &of_rows(|row| row.loss), &bounds)?;

        let (total, total_terms, losses, terms) = reduced(case, &data, &rows);
        let bounds: Vec<f64> =
            terms.iter().zip(&counts).map(|(&terms, &count)| sum_of_rows(terms, count as usize)).collect();
        close("losses", &got.losses, &losses, &bounds)?;
        let bound = sum_of_rows(total_terms, case.rows()) + case.tasks as f64 * U * total_terms;
        close("total", &got.total, &[total], &[bound])?;

        let (mut want, mut bounds) = (Vec::new(), Vec::new());
        for row in &rows {
            let mut own = vec![(0.0, 0.0); case.width];
            if let Some((task, row)) = row {
                let count = if case.mean { f64::from(counts[*task]) } else { 1.0 };
                let factor = f64::from(data.weights[*task]) / count;
                for (own, (gradient, terms)) in
                    own.iter_mut().zip(row.gradient.iter().zip(&row.gradient_terms))
                {
                    // A probability may be flushed to zero before it is scaled.
                    *own = (factor * gradient, row_loss(factor.abs() * terms) + factor.abs() * TINY);
                }
            }
            want.extend(own.iter().map(|own| own.0));
            bounds.extend(own.iter().map(|own| own.1));
        }
        close("gradient", &got.gradient.ok_or("asked for")?, &want, &bounds).map(drop)
    })
}

pub fn cross_entropy_is_the_formula(device: &TestDevice) -> std::result::Result<(), String> {
    is_the_formula("cross_entropy_is_the_formula", device, Kind::CrossEntropy)
}

pub fn squared_error_is_the_formula(device: &TestDevice) -> std::result::Result<(), String> {
    is_the_formula("squared_error_is_the_formula", device, Kind::SquaredError)
}

/// The oracle's own gradient, on the CPU device alone: the backends are compared with it above.
pub fn gradients_are_central_differences(device: &TestDevice) -> std::result::Result<(), String> {
    for kind in [Kind::CrossEntropy, Kind::SquaredError] {
        check("multitask_gradients_are_central_differences", device, CASES, &case(), |_, case| {
            let data = case.data();
            let rows = row_losses_of(case, &data, kind);
            let Some(at) = rows.iter().position(Option::is_some) else { return Ok(()) };
            let row = data.row(case, at).ok_or("counts")?;
            let one = |values: &[f32]| {
                let row = crate::support::oracle_multitask::Row { values, ..row.clone() };
                match kind {
                    Kind::CrossEntropy => cross_entropy(&row, case.smoothing.into()).loss,
                    Kind::SquaredError => squared_error(&row).loss,
                }
            };
            let Some((_, want)) = &rows[at] else { return Ok(()) };
            for i in 0..row.values.len() {
                // A step that f32 holds exactly where the values are.
                let (mut up, mut down) = (row.values.to_vec(), row.values.to_vec());
                let step = (CENTRAL_DIFFERENCE_STEP as f32 * 100.0).max(row.values[i].abs() * 1e-3);
                up[i] += step;
                down[i] -= step;
                let width = f64::from(up[i]) - f64::from(down[i]);
                let slope = (one(&up) - one(&down)) / width;
                // Truncation is a sixth of the third derivative (at most 1 for a softmax) times the step squared.
                let bound = width * width / 8.0 + CENTRAL_DIFFERENCE / CENTRAL_DIFFERENCE_STEP * 1e-6;
                if !((slope - want.gradient[i]).abs() <= bound) {
                    return Err(format!("{kind:?} slope {slope}, gradient {}", want.gradient[i]));
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

pub fn permuting_samples_permutes_rows(device: &TestDevice) -> std::result::Result<(), String> {
    for kind in [Kind::CrossEntropy, Kind::SquaredError] {
        check("permuting_samples_permutes_rows", device, CASES / 2, &case(), |handle, case| {
            let data = case.data();
            let order = case.random(3).permutation(case.batch);
            let (permuted_case, permuted) = data.samples(case, &order);
            let whole = run(handle, case, &Inputs::new(handle, case, &data), &data, kind, true)?;
            let inputs = Inputs::new(handle, &permuted_case, &permuted);
            let got = run(handle, &permuted_case, &inputs, &permuted, kind, true)?;
            let columns = case.columns();
            let take = |values: &[f32], width: usize| -> Vec<f32> {
                order.iter().flat_map(|&b| values[b * width..][..width].to_vec()).collect()
            };
            same_bits("row_losses", &got.row_losses, &take(&whole.row_losses, columns))?;
            let (got, want) = (got.gradient.ok_or("asked for")?, whole.gradient.ok_or("asked for")?);
            same_bits("gradient", &got, &take(&want, columns * case.width))
        })?;
    }
    Ok(())
}

pub fn the_same_bits_every_time(device: &TestDevice) -> std::result::Result<(), String> {
    for kind in [Kind::CrossEntropy, Kind::SquaredError] {
        check("multitask_bits_are_the_same_every_time", device, CASES / 2, &case(), |_, case| {
            let data = case.data();
            let once = |number: usize, want: bool| {
                let handle = device.handle(number);
                run(handle, case, &Inputs::new(handle, case, &data), &data, kind, want)
            };
            let first = once(0, true)?;
            for again in [1, 2] {
                let second = once(again, true)?;
                same_bits("total", &second.total, &first.total)?;
                same_bits("losses", &second.losses, &first.losses)?;
                same_bits(
                    "gradient",
                    &second.gradient.ok_or("wanted")?,
                    first.gradient.as_ref().ok_or("wanted")?,
                )?;
            }
            // And without the gradient.
            let alone = once(0, false)?;
            same_bits("total without gradient", &alone.total, &first.total)?;
            same_bits("rows without gradient", &alone.row_losses, &first.row_losses)
        })?;
    }
    Ok(())
}

/// Every task of `[batch, tasks]` labels gives the loss of a mixed batch of that task alone.
pub fn all_tasks_are_each_task_alone(device: &TestDevice) -> std::result::Result<(), String> {
    check("all_tasks_are_each_task_alone", device, CASES / 2, &case(), |handle, case| {
        let case = Case { mixed: false, ..case.clone() };
        let data = case.data();
        let all = run(handle, &case, &Inputs::new(handle, &case, &data), &data, Kind::CrossEntropy, true)?;
        let all_gradient = all.gradient.ok_or("asked for")?;
        for task in 0..case.tasks {
            let one = Case { mixed: true, ..case.clone() };
            let rows: Vec<usize> = (0..case.batch).map(|b| b * case.tasks + task).collect();
            let pick = |values: &[f32]| {
                rows.iter().flat_map(|&r| values[r * case.width..][..case.width].to_vec()).collect()
            };
            let own = Data {
                values: pick(&data.values),
                targets: pick(&data.targets),
                labels: rows.iter().map(|&row| data.labels[row]).collect(),
                ids: vec![task as i64; case.batch],
                ..data.clone()
            };
            let got = run(handle, &one, &Inputs::new(handle, &one, &own), &own, Kind::CrossEntropy, true)?;
            same_bits("loss of one task", &got.losses[task..=task], &all.losses[task..=task])?;
            same_bits("gradient of one task", &got.gradient.ok_or("asked for")?, &pick(&all_gradient))?;
        }
        Ok(())
    })
}

/// Logits of −∞, +∞ and NaN, and what they do to their own row.
pub fn infinite_logits_are_what_the_formula_gives(device: &TestDevice) -> std::result::Result<(), String> {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    // Logits, label, smoothing; loss and gradient with the sum as reduction.
    type Line = ([f32; 3], i64, f32, f32, [f32; 3]);
    let table: [Line; 6] = [
        ([0.0, -inf, 0.0], 0, 0.0, std::f32::consts::LN_2, [-0.5, 0.0, 0.5]),
        ([0.0, -inf, 0.0], 1, 0.0, inf, [0.5, -1.0, 0.5]),
        ([0.0, -inf, 0.0], 0, 0.75, inf, [0.0, -0.25, 0.25]),
        ([-inf, -inf, -inf], 0, 0.0, nan, [nan; 3]),
        ([0.0, inf, 0.0], 1, 0.0, nan, [nan; 3]),
        ([0.0, nan, 0.0], 0, 0.0, nan, [nan; 3]),
    ];
    let handle = device.handle(0);
    for (logits, label, smoothing, loss, gradient) in table {
        let case = Case {
            mixed: true,
            batch: 1,
            tasks: 1,
            width: 3,
            has_widths: false,
            has_weights: false,
            mean: false,
            smoothing,
            size: 1.0,
            seed: 5,
        };
        let data = Data {
            values: logits.to_vec(),
            targets: vec![0.0; 3],
            labels: vec![label],
            ids: vec![0],
            widths: vec![3],
            weights: vec![1.0],
        };
        let got = run(handle, &case, &Inputs::new(handle, &case, &data), &data, Kind::CrossEntropy, true)?;
        for (name, got) in [("row", &got.row_losses), ("task", &got.losses), ("total", &got.total)] {
            close(&format!("{name} of {logits:?}"), got, &[loss.into()], &[8.0 * U])?;
        }
        let want = gradient.map(f64::from);
        close(&format!("gradient of {logits:?}"), &got.gradient.ok_or("asked for")?, &want, &[8.0 * U; 3])?;
    }
    Ok(())
}
