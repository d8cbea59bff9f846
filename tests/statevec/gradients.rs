//! The adjoint gradient, against differences of the oracle and against the library's own shifted expectations.

use crate::case::{self, Item, KINDS, PARAMETERS, all_kinds};
use crate::readout::{Strings, expected, random_sums, weight};
use crate::states::say;
use crate::support::compare::{close, same_bits};
use crate::support::devices::TestDevice;
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use crate::support::tolerance::{
    CENTRAL_DIFFERENCE, CENTRAL_DIFFERENCE_STEP, statevec_expectation_c64, statevec_gradient_c64,
};
use gatewarp::statevec::{Batch, Parameter, PauliSum, Program};
use gatewarp::{Complex32, Device, Tensor, TensorRef};
use proptest::prelude::*;

type Gradients = (Vec<f32>, Vec<f32>);

fn gradient(
    program: &Program,
    device: &Device,
    theta: &[f32],
    inputs: &[f32],
    sums: &[PauliSum],
    weights: &[f32],
) -> Result<Gradients, String> {
    let samples = inputs.len() / PARAMETERS;
    let batch = Batch::new(device, samples)
        .theta(TensorRef::from_slice(theta, &[PARAMETERS]).map_err(say)?)
        .inputs(TensorRef::from_slice(inputs, &[samples, PARAMETERS]).map_err(say)?);
    let weights = Tensor::from_slice(device, weights, &[samples, sums.len()]).map_err(say)?;
    let out = program.gradient(&batch, sums, &weights.view()).map_err(say)?;
    Ok((out.theta.to_vec::<f32>().map_err(say)?, out.inputs.to_vec::<f32>().map_err(say)?))
}

/// Weighted sum of all samples' expectations in f64.
fn loss(
    n: usize,
    items: &[Item],
    theta: &[f64],
    inputs: &[f64],
    strings: &[Strings],
    weights: &[f32],
) -> f64 {
    inputs
        .chunks(PARAMETERS)
        .zip(weights.chunks(strings.len()))
        .map(|(input, weights)| {
            let state = case::reference_f64(n, items, theta, input);
            strings.iter().zip(weights).map(|(s, &w)| f64::from(w) * expected(&state, s)).sum::<f64>()
        })
        .sum()
}

pub fn the_adjoint_is_the_central_difference(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=4, 1usize..=25, 1usize..=3);
    check(
        "the_adjoint_is_the_central_difference",
        device,
        CASES,
        &strategy,
        |device, &(seed, n, gates, samples)| {
            let random = &mut Random::new(seed, 20);
            let items = case::random_items(n, gates, &all_kinds(), random);
            let program = case::circuit(n, &items).compile().map_err(say)?;
            let (theta, inputs) = (random.values(PARAMETERS, 4.0), random.values(samples * PARAMETERS, 4.0));
            let (sums, strings) = random_sums(n, random);
            if sums.is_empty() {
                return Ok(());
            }
            let weights = random.values(samples * sums.len(), 1.0);
            let (got_theta, got_inputs) = gradient(&program, device, &theta, &inputs, &sums, &weights)?;
            let (theta, inputs) = (case::wide(&theta), case::wide(&inputs));
            let h = CENTRAL_DIFFERENCE_STEP;
            let difference = |of_theta: bool, i: usize| {
                let at = |step: f64| {
                    let (mut theta, mut inputs) = (theta.clone(), inputs.clone());
                    if of_theta {
                        theta[i] += step
                    } else {
                        inputs[i] += step
                    }
                    loss(n, &items, &theta, &inputs, &strings, &weights)
                };
                (at(h) - at(-h)) / (2.0 * h)
            };
            let coefficients: f64 = strings.iter().map(weight).sum::<f64>().max(1e-3);
            // A parameter may be used by every gate, with a factor of up to 2, three times in a U3.
            let uses = 6.0 * gates as f64;
            let bound = statevec_gradient_c64(gates, coefficients, 1.0) * uses.sqrt()
                + CENTRAL_DIFFERENCE * uses * coefficients;
            let want: Vec<f64> = (0..PARAMETERS).map(|i| difference(true, i)).collect();
            close("dtheta", &got_theta, &want, &[bound * samples as f64; PARAMETERS])?;
            let want: Vec<f64> = (0..inputs.len()).map(|i| difference(false, i)).collect();
            close("dinputs", &got_inputs, &want, &vec![bound; want.len()]).map(drop)
        },
    )
}

/// Each θ in one Pauli rotation, so that the derivative is half the difference at ±π/2, from the library's own expectations.
pub fn the_adjoint_is_the_parameter_shift(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=9, 1usize..=30);
    let kinds = case::kinds_of(device);
    check("the_adjoint_is_the_parameter_shift", device, CASES, &strategy, |device, &(seed, n, gates)| {
        let random = &mut Random::new(seed, 21);
        let rotations: Vec<usize> = (0..KINDS.len())
            .filter(|&k| ["rx", "ry", "rz", "rxx", "ryy", "rzz", "pauli2", "pauli3"].contains(&KINDS[k].1))
            .collect();
        let mut items = case::random_items(n, gates, &kinds, random);
        let fixed = &mut |random: &mut Random| Parameter::Constant(f64::from(random.signed()) * 7.0);
        items.iter_mut().for_each(|item| {
            if item.gate != case::without_parameters(&item.gate) {
                *item = case::random_item(n, &rotations, random, fixed);
            }
        });
        let places = random.permutation(items.len());
        for (parameter, &at) in places.iter().take(PARAMETERS).enumerate() {
            let mut item = case::random_item(n, &rotations, random, &mut |_| Parameter::Theta(parameter));
            // Under a control the spectrum has a zero and two terms do not suffice.
            item.controls.clear();
            items[at] = item;
        }
        let program = case::circuit(n, &items).compile().map_err(say)?;
        let theta = random.values(PARAMETERS, 4.0);
        let inputs = vec![0.0; PARAMETERS];
        let (sums, strings) = random_sums(n, random);
        if sums.is_empty() {
            return Ok(());
        }
        let weights = random.values(sums.len(), 1.0);
        let (got, _) = gradient(&program, device, &theta, &inputs, &sums, &weights)?;
        let value = |theta: &[f32]| -> Result<f64, String> {
            let batch = Batch::new(device, 1)
                .theta(TensorRef::from_slice(theta, &[PARAMETERS]).map_err(say)?)
                .inputs(TensorRef::from_slice(&inputs, &[1, PARAMETERS]).map_err(say)?);
            let all = program.expectations(&batch, &sums).map_err(say)?.to_vec::<f32>().map_err(say)?;
            Ok(all.iter().zip(&weights).map(|(&e, &w)| f64::from(e) * f64::from(w)).sum())
        };
        let mut want = Vec::new();
        for i in 0..PARAMETERS {
            let shifted = |by: f32| {
                let mut theta = theta.clone();
                theta[i] += by;
                value(&theta)
            };
            let quarter = std::f32::consts::FRAC_PI_2;
            want.push((shifted(quarter)? - shifted(-quarter)?) / 2.0);
        }
        let coefficients: f64 = strings.iter().map(weight).sum::<f64>().max(1e-3);
        // The shifted angle itself is rounded to f32.
        let bound = statevec_gradient_c64(gates, coefficients, 1.0)
            + statevec_expectation_c64(gates, coefficients)
            + 1e-6 * coefficients;
        close("dtheta", &got, &want, &[bound; PARAMETERS]).map(drop)
    })
}

/// The same circuit on few qubits and spread over many.
pub fn large_adjoints_agree_with_batched_ones(device: &TestDevice) -> Result<(), String> {
    let kinds = case::kinds_of(device);
    let strategy = (any::<u64>(), 14usize..=17, 1usize..=7, 1usize..=60);
    check(
        "large_adjoints_agree_with_batched_ones",
        device,
        CASES / 4,
        &strategy,
        |device, &(seed, m, n, gates)| {
            let random = &mut Random::new(seed, 22);
            let small = case::random_items(n, gates, &kinds, random);
            let place: Vec<usize> = random.permutation(m)[..n].to_vec();
            let (theta, inputs) = (random.values(PARAMETERS, 4.0), random.values(PARAMETERS, 4.0));
            let (sums, strings) = random_sums(n, random);
            let weights = random.values(sums.len(), 1.0);
            let moved: Vec<PauliSum> = sums.iter().map(|sum| case::moved_sum(sum, &place)).collect();
            let one = case::circuit(n, &small).compile().map_err(say)?;
            let other = case::circuit(m, &case::moved(&small, &place)).compile().map_err(say)?;
            let (want_theta, want_inputs) = gradient(&one, device, &theta, &inputs, &sums, &weights)?;
            let (theta_again, inputs_again) = gradient(&other, device, &theta, &inputs, &moved, &weights)?;
            let coefficients: f64 = strings.iter().map(weight).sum::<f64>().max(1e-3);
            let bound = 2.0 * statevec_gradient_c64(gates, coefficients, 1.0) * (6.0 * gates as f64).sqrt();
            close("dtheta", &theta_again, &case::wide(&want_theta), &[bound; PARAMETERS])?;
            close("dinputs", &inputs_again, &case::wide(&want_inputs), &[bound; PARAMETERS])?;
            let again = gradient(&other, device, &theta, &inputs, &moved, &weights)?;
            same_bits("a second run", &again.0, &theta_again)
        },
    )
}

/// A sample's gradient alone and among others, from states of its own, with strided weights; gradients by theta are their sum.
pub fn gradients_do_not_see_their_batch(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=7, 1usize..=30, 2usize..=140);
    check(
        "gradients_do_not_see_their_batch",
        device,
        CASES / 4,
        &strategy,
        |device, &(seed, n, gates, samples)| {
            let random = &mut Random::new(seed, 23);
            let items = case::random_items(n, gates, &all_kinds(), random);
            let program = case::circuit(n, &items).compile().map_err(say)?;
            let (sums, strings) = random_sums(n, random);
            let (theta, inputs) = (random.values(PARAMETERS, 4.0), random.values(samples * PARAMETERS, 4.0));
            let width = sums.len() + 3;
            let weights = random.values(samples * width, 1.0);
            let scale = (0.5f32 / (1 << n) as f32).sqrt();
            let values = random.values((2 * samples) << n, scale);
            let amplitudes: Vec<Complex32> = values.chunks(2).map(|v| Complex32::new(v[0], v[1])).collect();
            let run = |range: std::ops::Range<usize>| -> Result<Gradients, String> {
                let count = range.len();
                let rows = &inputs[range.start * PARAMETERS..range.end * PARAMETERS];
                let initial = &amplitudes[range.start << n..range.end << n];
                let initial = Tensor::from_slice(device, initial, &[count, 1 << n]).map_err(say)?;
                let weights = &weights[range.start * width..range.end * width];
                let weights = Tensor::from_slice(device, weights, &[count, width]).map_err(say)?;
                let weights = weights.view().narrow(1, 2, sums.len()).map_err(say)?;
                let batch = Batch::new(device, count)
                    .theta(TensorRef::from_slice(&theta, &[PARAMETERS]).map_err(say)?)
                    .inputs(TensorRef::from_slice(rows, &[count, PARAMETERS]).map_err(say)?);
                let batch = batch.initial(&initial);
                let out = program.gradient(&batch, &sums, &weights).map_err(say)?;
                Ok((out.theta.to_vec::<f32>().map_err(say)?, out.inputs.to_vec::<f32>().map_err(say)?))
            };
            let (all_theta, all_inputs) = run(0..samples)?;
            let mut total = vec![0.0; PARAMETERS];
            let picked = [0, samples / 2, samples - 1];
            for sample in 0..samples {
                if samples > 8 && !picked.contains(&sample) {
                    continue;
                }
                let (own_theta, own_inputs) = run(sample..sample + 1)?;
                let row = &all_inputs[sample * PARAMETERS..][..PARAMETERS];
                same_bits(&format!("dinputs of sample {sample} of {samples}"), row, &own_inputs)?;
                total.iter_mut().zip(&own_theta).for_each(|(sum, &x)| *sum += f64::from(x));
            }
            if samples <= 8 {
                let coefficients: f64 = strings.iter().map(weight).sum::<f64>().max(1e-3);
                let bound = statevec_gradient_c64(gates, coefficients, 1.0) * (6.0 * gates as f64).sqrt();
                close("dtheta", &all_theta, &total, &[bound * samples as f64; PARAMETERS])?;
            }
            Ok(())
        },
    )
}
