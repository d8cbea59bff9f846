//! States in double precision.

use crate::case::{self, PARAMETERS};
use crate::readout::{expected, random_sums, weight};
use crate::states::say;
use crate::support::compare::{close, close_norm};
use crate::support::devices::TestDevice;
use crate::support::oracle_statevec as oracle;
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use crate::support::tolerance::{
    CENTRAL_DIFFERENCE, CENTRAL_DIFFERENCE_STEP, statevec_c128, statevec_gradient_c128,
};
use gatewarp::statevec::{Batch, PauliSum, Program};
use gatewarp::{Backend, Complex64, DType, Device, Error, Tensor, TensorRef};
use proptest::prelude::*;

fn values(count: usize, scale: f64, random: &mut Random) -> Vec<f64> {
    // Numbers that f32 cannot hold.
    let mut one = || f64::from(random.signed()) + f64::from(random.signed()) * 1e-8;
    (0..count).map(|_| scale * one()).collect()
}

fn batch<'a>(device: &Device, theta: &'a [f64], inputs: &'a [f64]) -> Result<Batch<'a>, String> {
    let samples = inputs.len() / PARAMETERS;
    Ok(Batch::new(device, samples)
        .dtype(DType::C128)
        .theta(TensorRef::from_slice(theta, &[PARAMETERS]).map_err(say)?)
        .inputs(TensorRef::from_slice(inputs, &[samples, PARAMETERS]).map_err(say)?))
}

fn states(program: &Program, batch: &Batch<'_>) -> Result<Vec<f64>, String> {
    let states = program.run(batch).map_err(say)?.to_vec::<Complex64>().map_err(say)?;
    Ok(oracle::interleaved(&states))
}

/// States, probabilities, expectations and gradients in c128, to its own bounds.
pub fn double_precision_is_double(device: &TestDevice) -> Result<(), String> {
    let cpu = device.backend() == Backend::Cpu;
    let kinds = case::kinds_of(device);
    let strategy = (any::<u64>(), 1usize..=6, 1usize..=60, 1usize..=18);
    check("double_precision_is_double", device, CASES, &strategy, |device, &(seed, n, gates, samples)| {
        let random = &mut Random::new(seed, 60);
        let items = case::random_items(n, gates, &kinds, random);
        let program = case::circuit(n, &items).compile().map_err(say)?;
        let (theta, inputs) = (values(PARAMETERS, 4.0, random), values(samples * PARAMETERS, 4.0, random));
        let batch = batch(device, &theta, &inputs)?;
        if !cpu {
            return match program.run(&batch) {
                Err(Error::Unsupported { .. }) => Ok(()),
                // CUDA may have it.
                Ok(_) if device.backend() == Backend::Cuda => Ok(()),
                other => Err(format!("expected Unsupported, got {other:?}")),
            };
        }
        let got = states(&program, &batch)?;
        let (sums, strings) = random_sums(n, random);
        let expectations = program.expectations(&batch, &sums).map_err(say)?.to_vec::<f64>().map_err(say)?;
        let probabilities = program.probabilities(&batch).map_err(say)?.to_vec::<f64>().map_err(say)?;
        // The oracle's own rounding, and angles of up to 15 with a relative error of 2⁻⁵³ in the affine parameters.
        let bound = 2.0 * statevec_c128(gates);
        for sample in 0..samples {
            let input = &inputs[sample * PARAMETERS..][..PARAMETERS];
            let want = case::reference_f64(n, &items, &theta, input);
            let got = &got[sample << (n + 1)..][..2 << n];
            close_norm(&format!("sample {sample}"), got, &oracle::interleaved(&want), bound)?;
            let probabilities = &probabilities[sample << n..][..1 << n];
            close("probabilities", probabilities, &oracle::probabilities(&want), &vec![2.0 * bound; 1 << n])?;
            for (o, strings) in strings.iter().enumerate() {
                let got = &expectations[sample * sums.len() + o..][..1];
                let bound = 2.0 * bound * weight(strings).max(1e-3);
                close("expectation", got, &[expected(&want, strings)], &[bound])?;
            }
        }
        if sums.is_empty() {
            return Ok(());
        }
        let weights = values(samples * sums.len(), 1.0, random);
        let weight_rows = TensorRef::from_slice(&weights, &[samples, sums.len()]).map_err(say)?;
        let out = program.gradient(&batch, &sums, &weight_rows).map_err(say)?;
        let loss = |theta: &[f64]| -> f64 {
            (0..samples)
                .map(|sample| {
                    let input = &inputs[sample * PARAMETERS..][..PARAMETERS];
                    let state = case::reference_f64(n, &items, theta, input);
                    let weights = &weights[sample * sums.len()..];
                    strings.iter().zip(weights).map(|(s, w)| w * expected(&state, s)).sum::<f64>()
                })
                .sum()
        };
        let i = random.below(PARAMETERS);
        let at = |step: f64| {
            let mut theta = theta.clone();
            theta[i] += step;
            loss(&theta)
        };
        let want =
            (at(CENTRAL_DIFFERENCE_STEP) - at(-CENTRAL_DIFFERENCE_STEP)) / (2.0 * CENTRAL_DIFFERENCE_STEP);
        let coefficients: f64 = samples as f64 * strings.iter().map(weight).sum::<f64>().max(1e-3);
        let uses = 6.0 * gates as f64;
        let bound = statevec_gradient_c128(gates, coefficients, 1.0) * uses.sqrt()
            + CENTRAL_DIFFERENCE * uses * coefficients;
        let got = out.theta.to_vec::<f64>().map_err(say)?;
        close("dtheta", &got[i..=i], &[want], &[bound]).map(drop)
    })
}

/// Large and batched states in c128, from amplitudes and back: the same circuit on few qubits and spread over many.
pub fn large_doubles_agree_with_batched_ones(device: &TestDevice) -> Result<(), String> {
    if device.backend() != Backend::Cpu {
        return Ok(());
    }
    let kinds = case::kinds_of(device);
    let strategy = (any::<u64>(), 14usize..=16, 1usize..=6, 1usize..=40);
    let name = "large_doubles_agree_with_batched_ones";
    check(name, device, CASES / 8, &strategy, |device, &(seed, m, n, gates)| {
        let random = &mut Random::new(seed, 61);
        let small = case::random_items(n, gates, &kinds, random);
        let place: Vec<usize> = random.permutation(m)[..n].to_vec();
        let (theta, inputs) = (values(PARAMETERS, 4.0, random), values(PARAMETERS, 4.0, random));
        let (sums, strings) = random_sums(n, random);
        let weights = values(sums.len(), 1.0, random);
        let weights = TensorRef::from_slice(&weights, &[sums.len()]).map_err(say)?;
        let moved: Vec<PauliSum> = sums.iter().map(|sum| case::moved_sum(sum, &place)).collect();
        let one = case::circuit(n, &small).compile().map_err(say)?;
        let other = case::circuit(m, &case::moved(&small, &place)).compile().map_err(say)?;
        let batch = batch(device, &theta, &inputs)?;
        let spread = |index: usize| (0..n).map(|q| (index >> q & 1) << place[q]).sum::<usize>();
        let (few, many) = (states(&one, &batch)?, states(&other, &batch)?);
        let kept: Vec<f64> =
            (0..1 << n).flat_map(|i| [many[2 * spread(i)], many[2 * spread(i) + 1]]).collect();
        close_norm("states", &kept, &few, 2.0 * statevec_c128(gates))?;
        let coefficients: f64 = strings.iter().map(weight).sum::<f64>().max(1e-3);
        let bound = 2.0 * statevec_gradient_c128(gates, coefficients, 1.0) * (6.0 * gates as f64).sqrt();
        let want = one.gradient(&batch, &sums, &weights).map_err(say)?.theta.to_vec::<f64>().map_err(say)?;
        let got =
            other.gradient(&batch, &moved, &weights).map_err(say)?.theta.to_vec::<f64>().map_err(say)?;
        close("dtheta", &got, &want, &[bound; PARAMETERS])?;
        // Parameters in f32 are as good as the same numbers in f64.
        let single: Vec<f32> = theta.iter().map(|&x| x as f32).collect();
        let again = case::wide(&single);
        let batch_single = batch.clone().theta(TensorRef::from_slice(&single, &[PARAMETERS]).map_err(say)?);
        let batch_double = batch.theta(TensorRef::from_slice(&again, &[PARAMETERS]).map_err(say)?);
        if states(&one, &batch_single)? != states(&one, &batch_double)? {
            return Err("f32 and f64 parameters of the same values differ".into());
        }
        let initial = Tensor::zeros(device, DType::F64, &[1, 3]).map_err(say)?;
        match one.run(&batch_double.amplitudes(&initial)) {
            Err(Error::InvalidArgument { .. }) => Ok(()),
            // Three amplitudes do not fit one qubit.
            Err(Error::Shape { .. }) if n == 1 => Ok(()),
            other => Err(format!("a zero row: {other:?}")),
        }
    })
}
