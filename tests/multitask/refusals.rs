//! Bad values: refused before a launch where the host sees them, confined to their row where only the device does.

use crate::case::{Case, Inputs, case};
use crate::losses::{Kind, run};
use crate::support::compare::same_bits;
use crate::support::devices::TestDevice;
use crate::support::property::{CASES, check};
use gatewarp::multitask::{
    Average, ClassMetricsOptions, CrossEntropyOptions, RegressionMetricsOptions, SquaredErrorOptions,
    TaskAxis, class_metrics, composite_score, cross_entropy, gradient_similarity, regression_metrics,
    squared_error,
};
use gatewarp::{Backend, DType, Device, Error, Tensor};
use proptest::prelude::*;

fn mixed() -> impl Strategy<Value = Case> {
    case().prop_map(|case| Case { mixed: true, batch: case.batch.max(2), ..case })
}

pub fn bad_host_values_are_refused(device: &TestDevice) -> Result<(), String> {
    check("bad_multitask_host_values_are_refused", device, CASES / 2, &mixed(), |handle, case| {
        let mut data = case.data();
        let mut random = case.random(6);
        let bad = random.below(case.batch);
        data.ids[bad] = 0;
        let place = Device::cpu();
        let values = Tensor::from_slice(handle, &data.values, &[case.batch, case.width]).expect("values");
        let ids = |ids: &[i64]| Tensor::from_slice(&place, ids, &[ids.len()]).expect("ids");
        let widths = case.has_widths.then_some(&*data.widths);

        let wrong = [case.tasks as i64, -2, i64::MAX, 1 << 32][random.below(4)];
        let mut bad_ids = data.ids.clone();
        bad_ids[bad] = wrong;
        let (bad_ids, labels) = (ids(&bad_ids), ids(&data.labels));
        let mut options =
            CrossEntropyOptions::new(TaskAxis::Mixed { tasks: bad_ids.view(), count: case.tasks });
        options.classes = widths;
        match cross_entropy(&values.view(), &labels.view(), &options, true) {
            Err(Error::TaskId { got, tasks, .. }) if got == wrong && tasks == case.tasks => {}
            other => return Err(format!("task {wrong} gave {other:?}")),
        }

        let wrong = [data.widths[0] as i64, -1, i64::MIN, 1 << 32][random.below(4)];
        let mut bad_labels = data.labels.clone();
        bad_labels[bad] = wrong;
        let (good_ids, labels) = (ids(&data.ids), ids(&bad_labels));
        options.axis = TaskAxis::Mixed { tasks: good_ids.view(), count: case.tasks };
        match cross_entropy(&values.view(), &labels.view(), &options, true) {
            Err(Error::InvalidArgument { arg: "labels", .. }) => Ok(()),
            other => Err(format!("label {wrong} gave {other:?}")),
        }
    })
}

pub fn a_bad_device_value_spoils_its_row_alone(device: &TestDevice) -> Result<(), String> {
    if device.backend() == Backend::Cpu {
        // The host sees every value there.
        return bad_host_values_are_refused(device);
    }
    check("a_bad_multitask_value_spoils_its_row_alone", device, CASES / 2, &mixed(), |handle, case| {
        let case = Case { mean: false, ..case.clone() };
        let mut data = case.data();
        let mut random = case.random(7);
        let bad = random.below(case.batch);
        data.ids[bad] = -1;
        data.values[bad * case.width..][..case.width].fill(0.5);
        let want = run(handle, &case, &Inputs::new(handle, &case, &data), &data, Kind::CrossEntropy, true)?;
        let is_task = random.one_in(2);
        if is_task {
            data.ids[bad] = [case.tasks as i64, -2, i64::MAX, 1 << 32][random.below(4)];
        } else {
            data.ids[bad] = 0;
            data.labels[bad] = [data.widths[0] as i64, -1, i64::MIN, 1 << 32][random.below(4)];
        }
        let mut inputs = Inputs::new(handle, &case, &data);
        inputs.ids = Some(Tensor::from_slice(handle, &data.ids, &[case.batch]).expect("ids"));
        inputs.labels = Tensor::from_slice(handle, &data.labels, &[case.batch]).expect("labels");
        // The first wait reports the value; what was computed is read after it.
        let outcome = run(handle, &case, &inputs, &data, Kind::CrossEntropy, true);
        match &outcome {
            Err(message) if message.contains("in device memory") => {}
            _ => return Err("the bad value was not reported".into()),
        }
        let mut options = CrossEntropyOptions::new(inputs.axis(&case));
        options.weights = inputs.weights.as_ref().map(Tensor::view);
        options.classes = case.has_widths.then_some(&*data.widths);
        options.reduction = case.reduction();
        options.label_smoothing = case.smoothing;
        let got = cross_entropy(&inputs.values.view(), &inputs.labels.view(), &options, true)
            .map_err(|error| error.to_string())?;
        match handle.synchronize() {
            Err(Error::DeviceValue { .. }) => {}
            other => return Err(format!("a bad value was reported as {other:?}")),
        }
        let read = |tensor: &Tensor| tensor.to_vec::<f32>().map_err(|error| error.to_string());
        let mut row_losses = want.row_losses.clone();
        row_losses[bad] = f32::NAN;
        same_bits("row_losses", &read(&got.row_losses)?, &row_losses)?;
        let mut gradient = want.gradient.ok_or("asked for")?;
        gradient[bad * case.width..][..case.width].fill(f32::NAN);
        same_bits("gradient", &read(got.gradient.as_ref().ok_or("asked for")?)?, &gradient)?;
        let mut losses = want.losses.clone();
        if !is_task {
            losses[0] = f32::NAN;
        }
        same_bits("losses", &read(&got.losses)?, &losses)?;
        let spoils_total = is_task || data.weights[0] != 0.0;
        let total = if spoils_total { vec![f32::NAN] } else { want.total };
        same_bits("total", &read(&got.total)?, &total)
    })
}

fn refused<T: std::fmt::Debug>(name: &str, outcome: gatewarp::Result<T>, arg: &str) -> Result<(), String> {
    match outcome {
        Err(
            Error::Shape { arg: got, .. }
            | Error::InvalidArgument { arg: got, .. }
            | Error::DType { arg: got, .. },
        ) if got == arg => Ok(()),
        other => Err(format!("{name}: expected a refusal of `{arg}`, got {other:?}")),
    }
}

pub fn bad_arguments_are_refused(device: &TestDevice) -> Result<(), String> {
    let handle = device.handle(0);
    let zeros = |dtype, shape: &[usize]| Tensor::zeros(handle, dtype, shape).expect("zeros");
    let (values, halves) = (zeros(DType::F32, &[4, 3]), zeros(DType::F16, &[4, 3]));
    let (labels, floats) = (zeros(DType::I32, &[4]), zeros(DType::F32, &[4]));
    let ids = zeros(DType::I32, &[4]);
    let axis = || TaskAxis::Mixed { tasks: ids.view(), count: 2 };
    let options = || CrossEntropyOptions::new(axis());
    let entropy =
        |options: &CrossEntropyOptions<'_>| cross_entropy(&values.view(), &labels.view(), options, true);
    refused("half logits", cross_entropy(&halves.view(), &labels.view(), &options(), true), "logits")?;
    refused("float labels", cross_entropy(&values.view(), &floats.view(), &options(), true), "labels")?;
    refused("rank of logits", cross_entropy(&floats.view(), &labels.view(), &options(), true), "logits")?;
    refused("all tasks", entropy(&CrossEntropyOptions::new(TaskAxis::All)), "logits")?;
    for smoothing in [-0.1, 1.0, f32::NAN] {
        let mut options = options();
        options.label_smoothing = smoothing;
        refused("smoothing", entropy(&options), "label_smoothing")?;
    }
    for widths in [&[3usize][..], &[3, 4], &[0, 3]] {
        let mut options = options();
        options.classes = Some(widths);
        refused("classes", entropy(&options), "widths")?;
    }
    let weights = zeros(DType::F32, &[3]);
    let mut with_weights = options();
    with_weights.weights = Some(weights.view());
    refused("weights", entropy(&with_weights), "weights")?;
    let mut strided = SquaredErrorOptions::new(axis());
    strided.ignore_nan = true;
    let transposed = zeros(DType::F32, &[3, 4]);
    let transposed = transposed.view().permute(&[1, 0]).expect("a permutation");
    refused("stride", squared_error(&transposed, &values.view(), &strided, true), "values")?;
    refused("targets", squared_error(&values.view(), &floats.view(), &strided, true), "targets")?;
    let mut metrics = ClassMetricsOptions::new(axis());
    metrics.average = Average::OneClass(3);
    refused("class", class_metrics(&values.view(), &labels.view(), &metrics), "average")?;
    let regression = RegressionMetricsOptions { axis: axis(), ignore_nan: false };
    refused("rank", regression_metrics(&values.view(), &values.view(), &regression), "values")?;
    refused("scores", composite_score(&values.view(), &labels.view(), None), "scores")?;
    refused("counts", composite_score(&floats.view(), &labels.view(), None), "counts")?;
    refused("gradients", gradient_similarity(&floats.view()), "gradients")
}
