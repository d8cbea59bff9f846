//! Expectations and probabilities.

use crate::case::{self, Item, PARAMETERS, all_kinds};
use crate::states::{pairs, run, say};
use crate::support::compare::{close, same_bits};
use crate::support::devices::TestDevice;
use crate::support::guarded::{Guarded, Inner, Strided, random_layout};
use crate::support::oracle_statevec::{self as oracle, Pauli};
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use crate::support::tolerance::{LARGE_STATE_EXPECTATION, statevec_c64, statevec_expectation_c64};
use gatewarp::statevec::{Batch, Circuit, Control, Gate, Parameter, PauliSum};
use gatewarp::{Backend, Complex64, TensorRef};
use proptest::prelude::*;

/// Random sums with the coefficients and strings the oracle needs.
pub type Strings = Vec<(f64, Vec<(usize, Pauli)>)>;

pub fn random_sums(n: usize, random: &mut Random) -> (Vec<PauliSum>, Vec<Strings>) {
    let count = random.below(2 * n + 2);
    let one = |observable: usize, random: &mut Random| -> (PauliSum, Strings) {
        // ⟨Z⟩ of every qubit is what most circuits end in.
        if observable < n && random.one_in(2) {
            return (PauliSum::z(observable).expect("a qubit"), vec![(1.0, vec![(observable, Pauli::Z)])]);
        }
        let (mut sum, mut strings) = (PauliSum::new(), Vec::new());
        for _ in 0..random.below(5) {
            let coefficient = f64::from(random.signed());
            let mut string = Vec::new();
            for q in 0..n {
                match random.below(5) {
                    0 => string.push((q, Pauli::X)),
                    1 => string.push((q, Pauli::Y)),
                    2 => string.push((q, Pauli::Z)),
                    _ => {}
                }
            }
            let letter = |pauli| match pauli {
                Pauli::X => 'X',
                Pauli::Y => 'Y',
                Pauli::Z => 'Z',
            };
            let factors: Vec<(char, usize)> = string.iter().map(|&(q, pauli)| (letter(pauli), q)).collect();
            sum = sum.plus(coefficient, &factors).expect("a legal string");
            strings.push((coefficient, string));
        }
        (sum, strings)
    };
    (0..count).map(|observable| one(observable, random)).unzip()
}

pub fn expected(state: &[Complex64], strings: &Strings) -> f64 {
    strings.iter().map(|(c, string)| c * oracle::pauli_expectation(state, string)).sum()
}

pub fn weight(strings: &Strings) -> f64 {
    strings.iter().map(|(c, _)| c.abs()).sum()
}

pub fn pauli_sums_are_dense_observables(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=7, 1usize..=40, 1usize..=3);
    check(
        "pauli_sums_are_dense_observables",
        device,
        CASES,
        &strategy,
        |device, &(seed, n, gates, samples)| {
            let random = &mut Random::new(seed, 10);
            let items = case::random_items(n, gates, &all_kinds(), random);
            let program = case::circuit(n, &items).compile().map_err(say)?;
            let (theta, inputs) = (random.values(PARAMETERS, 7.0), random.values(samples * PARAMETERS, 7.0));
            let (sums, strings) = random_sums(n, random);
            let batch = Batch::new(device, samples)
                .theta(TensorRef::from_slice(&theta, &[PARAMETERS]).map_err(say)?)
                .inputs(TensorRef::from_slice(&inputs, &[samples, PARAMETERS]).map_err(say)?);
            let got = program.expectations(&batch, &sums).map_err(say)?.to_vec::<f32>().map_err(say)?;
            let mut want = Vec::new();
            for sample in 0..samples {
                let state = case::reference(n, &items, &theta, &inputs[sample * PARAMETERS..][..PARAMETERS]);
                want.extend(strings.iter().map(|strings| expected(&state, strings)));
            }
            let bound = |strings: &Strings| statevec_expectation_c64(gates, weight(strings).max(1e-3));
            let tolerance: Vec<f64> = (0..samples).flat_map(|_| strings.iter().map(bound)).collect();
            close("expectation", &got, &want, &tolerance).map(drop)
        },
    )
}

pub fn probabilities_are_squared_amplitudes(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=7, 1usize..=40, 1usize..=3);
    check(
        "probabilities_are_squared_amplitudes",
        device,
        CASES,
        &strategy,
        |device, &(seed, n, gates, samples)| {
            let random = &mut Random::new(seed, 11);
            let items = case::random_items(n, gates, &all_kinds(), random);
            let program = case::circuit(n, &items).compile().map_err(say)?;
            let (theta, inputs) = (random.values(PARAMETERS, 7.0), random.values(samples * PARAMETERS, 7.0));
            let batch = Batch::new(device, samples)
                .theta(TensorRef::from_slice(&theta, &[PARAMETERS]).map_err(say)?)
                .inputs(TensorRef::from_slice(&inputs, &[samples, PARAMETERS]).map_err(say)?);
            let got = program.probabilities(&batch).map_err(say)?.to_vec::<f32>().map_err(say)?;
            let mut want = Vec::new();
            for sample in 0..samples {
                let state = case::reference(n, &items, &theta, &inputs[sample * PARAMETERS..][..PARAMETERS]);
                want.extend(oracle::probabilities(&state));
            }
            close("probability", &got, &want, &vec![2.0 * statevec_c64(gates); want.len()]).map(drop)
        },
    )
}

pub fn expectations_do_not_see_their_batch(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=6, 1usize..=30);
    check("expectations_do_not_see_their_batch", device, CASES, &strategy, |device, &(seed, n, gates)| {
        let random = &mut Random::new(seed, 12);
        let items = case::random_items(n, gates, &all_kinds(), random);
        let program = case::circuit(n, &items).compile().map_err(say)?;
        let (theta, own) = (random.values(PARAMETERS, 7.0), random.values(PARAMETERS, 7.0));
        let (sums, _) = random_sums(n, random);
        let measure = |samples: usize, inputs: &[f32]| -> Result<Vec<f32>, String> {
            let batch = Batch::new(device, samples)
                .theta(TensorRef::from_slice(&theta, &[PARAMETERS]).map_err(say)?)
                .inputs(TensorRef::from_slice(inputs, &[samples, PARAMETERS]).map_err(say)?);
            program.expectations(&batch, &sums).map_err(say)?.to_vec::<f32>().map_err(say)
        };
        let alone = measure(1, &own)?;
        for samples in [31, 33] {
            let mut inputs = random.values(samples * PARAMETERS, 1e4);
            let at = random.below(samples);
            inputs[at * PARAMETERS..][..PARAMETERS].copy_from_slice(&own);
            let all = measure(samples, &inputs)?;
            same_bits(&format!("sample {at} of {samples}"), &all[at * sums.len()..][..sums.len()], &alone)?;
        }
        Ok(())
    })
}

/// The engine for large states, against the oracle through a smaller circuit: qubits the gates never join factor out.
///
/// A circuit on `n` of `m` qubits, spread over random places, must give the n-qubit oracle's expectations on those places.
pub fn large_states_agree_with_batched_ones(device: &TestDevice) -> Result<(), String> {
    let sizes = if device.backend() == Backend::Cpu { 14usize..=18 } else { 13usize..=15 };
    let strategy = (any::<u64>(), sizes, 1usize..=7, 1usize..=60);
    check(
        "large_states_agree_with_batched_ones",
        device,
        CASES / 4,
        &strategy,
        |device, &(seed, m, n, gates)| {
            let random = &mut Random::new(seed, 13);
            let small = case::random_items(n, gates, &all_kinds(), random);
            let place: Vec<usize> = random.permutation(m)[..n].to_vec();
            let large = case::moved(&small, &place);
            let program = case::circuit(m, &large).compile().map_err(say)?;
            let (theta, inputs) = (random.values(PARAMETERS, 7.0), random.values(PARAMETERS, 7.0));
            let (sums, strings) = loop {
                let (sums, strings) = random_sums(n, random);
                if !sums.is_empty() {
                    break (sums, strings);
                }
            };
            let moved = |sum: &PauliSum| case::moved_sum(sum, &place);
            let moved: Vec<PauliSum> = sums.iter().map(moved).collect();
            let batch = Batch::new(device, 1)
                .theta(TensorRef::from_slice(&theta, &[PARAMETERS]).map_err(say)?)
                .inputs(TensorRef::from_slice(&inputs, &[1, PARAMETERS]).map_err(say)?);
            let got = program.expectations(&batch, &moved).map_err(say)?.to_vec::<f32>().map_err(say)?;
            let state = case::reference(n, &small, &theta, &inputs);
            let want: Vec<f64> = strings.iter().map(|strings| expected(&state, strings)).collect();
            let bound = |strings: &Strings| statevec_expectation_c64(gates, weight(strings).max(1e-3));
            close("expectation", &got, &want, &strings.iter().map(bound).collect::<Vec<f64>>())?;
            // Every amplitude too: those with another qubit set are exactly 0.
            let got = run(&program, device, 1, &theta, &inputs)?;
            let mut error = 0.0;
            let mut seen = 0usize;
            for (index, amplitude) in got.chunks(2).enumerate() {
                let inside = place.iter().enumerate().fold(0, |at, (bit, &q)| at | (index >> q & 1) << bit);
                let outside = place.iter().fold(index, |rest, &q| rest & !(1 << q));
                let want = if outside == 0 { state[inside] } else { Complex64::ZERO };
                seen += usize::from(outside == 0);
                error +=
                    (f64::from(amplitude[0]) - want.re).powi(2) + (f64::from(amplitude[1]) - want.im).powi(2);
            }
            let error = f64::sqrt(error);
            if seen != 1 << n || !(error <= statevec_c64(gates)) {
                return Err(format!("the state is off by {error:e}, allowed {:e}", statevec_c64(gates)));
            }
            Ok(())
        },
    )
}

/// Strided outputs and parameters: the values of contiguous ones, and no word outside written.
pub fn outputs_are_written_inside_their_views(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=7, 1usize..=20, 1usize..=18);
    check(
        "outputs_are_written_inside_their_views",
        device,
        CASES,
        &strategy,
        |device, &(seed, n, gates, samples)| {
            let random = &mut Random::new(seed, 14);
            let items = case::random_items(n, gates, &all_kinds(), random);
            let program = case::circuit(n, &items).compile().map_err(say)?;
            let (theta, inputs) = (random.values(PARAMETERS, 7.0), random.values(samples * PARAMETERS, 7.0));
            let (sums, _) = random_sums(n, random);
            let theta_view = Strided::new(device, &theta, random_layout(&[PARAMETERS], Inner::Free, random));
            let inputs_view =
                Strided::new(device, &inputs, random_layout(&[samples, PARAMETERS], Inner::Free, random));
            let batch = Batch::new(device, samples).theta(theta_view.view()).inputs(inputs_view.view());
            let plain = Batch::new(device, samples)
                .theta(TensorRef::from_slice(&theta, &[PARAMETERS]).map_err(say)?)
                .inputs(TensorRef::from_slice(&inputs, &[samples, PARAMETERS]).map_err(say)?);
            let mut out =
                Guarded::new(device, random_layout(&[samples, sums.len()], Inner::Contiguous, random));
            program.expectations_into(&batch, &sums, &mut out.view_mut()).map_err(say)?;
            let want = program.expectations(&plain, &sums).map_err(say)?.to_vec::<f32>().map_err(say)?;
            same_bits("expectations", &out.read("expectations")?, &want)?;
            let mut out = Guarded::new(device, random_layout(&[samples, 1 << n], Inner::Contiguous, random));
            program.probabilities_into(&batch, &mut out.view_mut()).map_err(say)?;
            let got = out.read("probabilities")?;
            let states = pairs(&program.run(&plain).map_err(say)?.to_vec().map_err(say)?);
            let want: Vec<f64> =
                states.chunks(2).map(|a| f64::from(a[0]).powi(2) + f64::from(a[1]).powi(2)).collect();
            close("probabilities", &got, &want, &vec![1e-6; want.len()])?;
            theta_view.check_untouched("theta")?;
            inputs_view.check_untouched("inputs")
        },
    )
}

/// ⟨Z⟩ of every qubit of a large hardware-efficient circuit, whose sums run over all amplitudes. `GATEWARP_TEST_QUBITS` sets
/// the size; 22 takes minutes, most of them in the oracle.
pub fn expectations_of_a_large_state_are_accurate(device: &TestDevice) -> Result<(), String> {
    let default = if device.backend() == Backend::Cpu { 16 } else { 13 };
    let n = match std::env::var("GATEWARP_TEST_QUBITS") {
        Ok(text) => text.parse().map_err(|_| format!("GATEWARP_TEST_QUBITS={text} is not a number"))?,
        Err(_) => default,
    };
    let mut random = Random::new(5, 15);
    let mut items = Vec::new();
    for _ in 0..4 {
        for q in 0..n {
            let mut angle = || Parameter::Constant(f64::from(random.signed()) * std::f64::consts::PI);
            items.push(Item { gate: Gate::Ry(angle()), targets: vec![q], controls: vec![] });
            items.push(Item { gate: Gate::Rz(angle()), targets: vec![q], controls: vec![] });
        }
        for q in 0..n {
            let controls = vec![Control { qubit: q, value: true }];
            items.push(Item { gate: Gate::X, targets: vec![(q + 1) % n], controls });
        }
    }
    let mut circuit = Circuit::new(n).map_err(say)?;
    for item in &items {
        circuit.controlled(&item.controls, item.gate.clone(), &item.targets).map_err(say)?;
    }
    let sums: Vec<PauliSum> = (0..n).map(|q| PauliSum::z(q).map_err(say)).collect::<Result<_, _>>()?;
    let batch = Batch::new(device.handle(0), 1);
    let got = circuit.compile().map_err(say)?.expectations(&batch, &sums).map_err(say)?;
    let got = got.to_vec::<f32>().map_err(say)?;
    let p = oracle::probabilities(&case::reference_f64(n, &items, &[], &[]));
    let sign = |index: usize, q: usize| if index >> q & 1 == 1 { -1.0 } else { 1.0 };
    let want: Vec<f64> =
        (0..n).map(|q| p.iter().enumerate().map(|(index, p)| sign(index, q) * p).sum()).collect();
    let worst = close("⟨Z⟩", &got, &want, &vec![LARGE_STATE_EXPECTATION; n])?;
    if std::env::var_os("GATEWARP_TEST_QUBITS").is_some() {
        println!("{n} qubits: worst error {:e}", worst * LARGE_STATE_EXPECTATION);
    }
    Ok(())
}
