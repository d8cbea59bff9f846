//! Parameters that differ from task to task.

use crate::case::{self, PARAMETERS, all_kinds};
use crate::readout::random_sums;
use crate::states::{pairs, say};
use crate::support::compare::same_bits;
use crate::support::devices::TestDevice;
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use gatewarp::statevec::{Batch, Program};
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
    let cpu = device.backend() == Backend::Cpu;
    let strategy = (any::<u64>(), 1usize..=5, 1usize..=30, 1usize..=35, 1usize..=4);
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
        let got = match program.run(&batch) {
            Err(Error::Unsupported { .. }) if !cpu => return Ok(()),
            other => pairs(&other.map_err(say)?.to_vec().map_err(say)?),
        };
        let (sums, _) = random_sums(n, random);
        let weights = random.values(samples * sums.len(), 1.0);
        let weight_rows = TensorRef::from_slice(&weights, &[samples, sums.len()]).map_err(say)?;
        let gradients =
            cpu.then(|| program.gradient(&batch, &sums, &weight_rows)).transpose().map_err(say)?;
        for task in 0..tasks {
            let of_task: Vec<usize> = (0..samples).filter(|&s| ids[s] == task as i64).collect();
            let rows = |values: &[f32], width: usize| -> Vec<f32> {
                of_task.iter().flat_map(|&s| values[s * width..][..width].to_vec()).collect()
            };
            let own_inputs = rows(&inputs, PARAMETERS);
            let own = shared(device, &theta[task * PARAMETERS..][..PARAMETERS], &own_inputs)?;
            let want = states(&program, &own)?;
            same_bits(&format!("states of task {task}"), &rows(&got, 2 << n), &want)?;
            let Some(gradients) = &gradients else { continue };
            let own_weights = rows(&weights, sums.len());
            let own_weights =
                TensorRef::from_slice(&own_weights, &[of_task.len(), sums.len()]).map_err(say)?;
            let want = program.gradient(&own, &sums, &own_weights).map_err(say)?;
            let got_theta = gradients.theta.to_vec::<f32>().map_err(say)?;
            let want_theta = want.theta.to_vec::<f32>().map_err(say)?;
            let got_theta = &got_theta[task * PARAMETERS..][..PARAMETERS];
            same_bits(&format!("dtheta of task {task}"), got_theta, &want_theta)?;
            let got_inputs = rows(&gradients.inputs.to_vec::<f32>().map_err(say)?, PARAMETERS);
            same_bits("dinputs", &got_inputs, &want.inputs.to_vec::<f32>().map_err(say)?)?;
        }
        Ok(())
    })
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
