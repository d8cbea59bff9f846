//! Parameters that differ from task to task.

use crate::case::{self, PARAMETERS, all_kinds};
use crate::readout::random_sums;
use crate::states::{pairs, say};
use crate::support::compare::same_bits;
use crate::support::devices::TestDevice;
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use gatewarp::statevec::{Batch, Gate, Parameter, PauliSum, Program};
use gatewarp::{Backend, Device, Error, Tensor, TensorRef};
use proptest::prelude::*;

fn shared<'a>(device: &Device, theta: &'a [f32], inputs: &'a [f32]) -> Result<Batch<'a>, String> {
    let samples = inputs.len() / PARAMETERS;
    Ok(Batch::new(device, samples)
        .theta(TensorRef::from_slice(theta, &[PARAMETERS]).map_err(say)?)
        .inputs(TensorRef::from_slice(inputs, &[samples, PARAMETERS]).map_err(say)?))
}

fn states(program: &Program, batch: &Batch<'_>) -> Result<Vec<f32>, String> {
    Ok(pairs(&program.run(batch).map_err(say)?.to_vec().map_err(say)?))
}

/// A sample of task t is the sample under theta[t], and each task's gradient is that of its samples alone, to the bit.
pub fn a_sample_has_the_parameters_of_its_task(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=5, 1usize..=30, 1usize..=150, 1usize..=4);
    let name = "a_sample_has_the_parameters_of_its_task";
    check(name, device, CASES, &strategy, |device, &(seed, n, gates, samples, tasks)| {
        let random = &mut Random::new(seed, 40);
        let items = case::random_items(n, gates, &all_kinds(), random);
        let program = case::circuit(n, &items).compile().map_err(say)?;
        let theta = random.values(tasks * PARAMETERS, 7.0);
        let inputs = random.values(samples * PARAMETERS, 7.0);
        let ids: Vec<i64> = (0..samples).map(|_| random.below(tasks) as i64).collect();
        let (as_i32, as_u32): (Vec<i32>, Vec<u32>) = ids.iter().map(|&id| (id as i32, id as u32)).unzip();
        let ids_tensor = match seed % 3 {
            0 => TensorRef::from_slice(&ids, &[samples]),
            1 => TensorRef::from_slice(&as_i32, &[samples]),
            _ => TensorRef::from_slice(&as_u32, &[samples]),
        };
        let batch = Batch::new(device, samples)
            .theta(TensorRef::from_slice(&theta, &[tasks, PARAMETERS]).map_err(say)?)
            .tasks(ids_tensor.map_err(say)?)
            .inputs(TensorRef::from_slice(&inputs, &[samples, PARAMETERS]).map_err(say)?);
        let got = states(&program, &batch)?;
        let (sums, _) = random_sums(n, random);
        let weights = random.values(samples * sums.len(), 1.0);
        let weight_rows = Tensor::from_slice(device, &weights, &[samples, sums.len()]).map_err(say)?;
        let gradients = program.gradient(&batch, &sums, &weight_rows.view()).map_err(say)?;
        let (all_theta, all_inputs) = (floats(&gradients.theta)?, floats(&gradients.inputs)?);
        if gradients.theta.shape() != [tasks, PARAMETERS] {
            return Err(format!("dtheta is {:?}", gradients.theta.shape()));
        }
        for task in 0..tasks {
            let of_task: Vec<usize> = (0..samples).filter(|&s| ids[s] == task as i64).collect();
            let rows = |values: &[f32], width: usize| -> Vec<f32> {
                of_task.iter().flat_map(|&s| values[s * width..][..width].to_vec()).collect()
            };
            let own_inputs = rows(&inputs, PARAMETERS);
            let own = shared(device, &theta[task * PARAMETERS..][..PARAMETERS], &own_inputs)?;
            let want = states(&program, &own)?;
            same_bits(&format!("states of task {task}"), &rows(&got, 2 << n), &want)?;
            let own_weights = rows(&weights, sums.len());
            let own_weights =
                Tensor::from_slice(device, &own_weights, &[of_task.len(), sums.len()]).map_err(say)?;
            let want = program.gradient(&own, &sums, &own_weights.view()).map_err(say)?;
            let got_theta = &all_theta[task * PARAMETERS..][..PARAMETERS];
            same_bits(&format!("dtheta of task {task}"), got_theta, &floats(&want.theta)?)?;
            same_bits("dinputs", &rows(&all_inputs, PARAMETERS), &floats(&want.inputs)?)?;
        }
        Ok(())
    })
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>, String> {
    tensor.to_vec::<f32>().map_err(say)
}

/// An id that only the device sees and that names no task: that sample is NaN, the others keep their bits, the next
/// synchronising call reports it. In gradients by theta it counts nowhere.
pub fn a_bad_task_spoils_its_sample_alone(device: &TestDevice) -> Result<(), String> {
    if device.backend() == Backend::Cpu {
        // Ids are host memory there: refused before anything runs, as `bad_tasks_are_typed_errors` checks.
        return Ok(());
    }
    for (n, bad) in [(1usize, -1i64), (4, 3), (6, i64::from(i32::MAX)), (9, i64::MIN), (13, 1 << 32)] {
        let device = device.handle(n);
        let random = &mut Random::new(n as u64, 42);
        // One parameter at least, so that the sample depends on its task.
        let mut items = case::random_items(n, 12, &all_kinds(), random);
        items.push(case::Item { gate: Gate::Ry(Parameter::Theta(0)), targets: vec![0], controls: vec![] });
        let program = case::circuit(n, &items).compile().map_err(say)?;
        let theta =
            Tensor::from_slice(device, &random.values(3 * PARAMETERS, 3.0), &[3, PARAMETERS]).map_err(say)?;
        let inputs =
            Tensor::from_slice(device, &random.values(5 * PARAMETERS, 3.0), &[5, PARAMETERS]).map_err(say)?;
        let sums = [PauliSum::z(0).map_err(say)?];
        let weights = Tensor::from_slice(device, &[1.0f32], &[1]).map_err(say)?;
        let run = |ids: [i64; 5]| -> Result<_, String> {
            let ids = Tensor::from_slice(device, &ids, &[5]).map_err(say)?;
            let batch = Batch::new(device, 5).theta(&theta).tasks(&ids).inputs(&inputs);
            let expectations = program.expectations(&batch, &sums).map_err(say)?;
            let gradients = program.gradient(&batch, &sums, &weights.view()).map_err(say)?;
            let reported = device.synchronize();
            Ok((floats(&expectations)?, floats(&gradients.theta)?, floats(&gradients.inputs)?, reported))
        };
        let (want, _, want_inputs, reported) = run([2, 1, 0, 1, 2])?;
        reported.map_err(say)?;
        let (got, theta_again, inputs_again, reported) = run([2, 1, bad, 1, 2])?;
        if !matches!(reported, Err(Error::DeviceValue { .. })) {
            return Err(format!("n={n}: the task {bad} was reported as {reported:?}"));
        }
        for sample in 0..5 {
            let row = sample * PARAMETERS..(sample + 1) * PARAMETERS;
            if sample == 2 {
                let used = inputs_again[row]
                    .iter()
                    .zip(&want_inputs[2 * PARAMETERS..])
                    .all(|(a, b)| a.is_nan() || *b == 0.0);
                if !got[sample].is_nan() || !used {
                    return Err(format!("n={n}: the bad sample is not NaN: {got:?}, {inputs_again:?}"));
                }
            } else {
                same_bits("expectation", &got[sample..=sample], &want[sample..=sample])?;
                same_bits("dinputs", &inputs_again[row.clone()], &want_inputs[row])?;
            }
        }
        if theta_again.iter().any(|value| value.is_nan()) {
            return Err(format!("n={n}: a sample of no task is in {theta_again:?}"));
        }
    }
    Ok(())
}

pub fn bad_tasks_are_typed_errors(device: &TestDevice) -> Result<(), String> {
    let device = device.handle(0);
    let items = case::random_items(2, 5, &all_kinds(), &mut Random::new(1, 41));
    let program = case::circuit(2, &items).compile().map_err(say)?;
    let theta = Tensor::zeros(device, gatewarp::DType::F32, &[3, PARAMETERS]).map_err(say)?;
    let inputs = Tensor::zeros(device, gatewarp::DType::F32, &[2, PARAMETERS]).map_err(say)?;
    let batch = || Batch::new(device, 2).theta(&theta).inputs(&inputs);
    match program.run(&batch()) {
        Err(Error::InvalidArgument { arg: "tasks", .. }) => {}
        other => return Err(format!("missing tasks: {other:?}")),
    }
    for bad in [3i32, -1, i32::MAX, i32::MIN] {
        match program.run(&batch().tasks(TensorRef::from_slice(&[0, bad], &[2]).map_err(say)?)) {
            Err(Error::TaskId { got, tasks: 3, .. }) if got == i64::from(bad) => {}
            other => return Err(format!("task {bad}: {other:?}")),
        }
    }
    match program.run(&batch().tasks(TensorRef::from_slice(&[0i32; 3], &[3]).map_err(say)?)) {
        Err(Error::Shape { arg: "tasks", .. }) => {}
        other => return Err(format!("three ids for two samples: {other:?}")),
    }
    match program.run(&batch().tasks(TensorRef::from_slice(&[0.0f32; 2], &[2]).map_err(say)?)) {
        Err(Error::DType { arg: "tasks", .. }) => Ok(()),
        other => Err(format!("ids in f32: {other:?}")),
    }
}
