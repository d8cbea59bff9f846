//! Final states against the dense oracle, and against themselves.

use crate::case::{self, Item, KINDS, PARAMETERS, all_kinds};
use crate::support::compare::{close_norm, same_bits};
use crate::support::devices::TestDevice;
use crate::support::oracle_statevec as oracle;
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use crate::support::tolerance::statevec_c64;
use gatewarp::statevec::{Batch, Circuit, Control, Gate, Parameter, Program};
use gatewarp::{Backend, Complex32, Device, TensorRef};
use proptest::prelude::*;

/// Gates of a random circuit: what an interpreter on one core can be asked for.
fn most_gates(device: &TestDevice) -> usize {
    if device.backend() == Backend::Cpu { 200 } else { 60 }
}

pub fn say(error: gatewarp::Error) -> String {
    error.to_string()
}

pub fn pairs(states: &[Complex32]) -> Vec<f32> {
    states.iter().flat_map(|a| [a.re, a.im]).collect()
}

/// Runs a program on host parameters.
pub fn run(
    program: &Program,
    device: &Device,
    samples: usize,
    theta: &[f32],
    inputs: &[f32],
) -> Result<Vec<f32>, String> {
    let theta = TensorRef::from_slice(theta, &[program.thetas()]).map_err(say)?;
    let inputs = TensorRef::from_slice(inputs, &[samples, program.inputs()]).map_err(say)?;
    let out = program.run(&Batch::new(device, samples).theta(theta).inputs(inputs)).map_err(say)?;
    Ok(pairs(&out.to_vec::<Complex32>().map_err(say)?))
}

/// Compares every sample's state with the oracle's.
pub fn agrees(
    n: usize,
    items: &[Item],
    device: &Device,
    samples: usize,
    random: &mut Random,
) -> Result<(), String> {
    let theta = random.values(PARAMETERS, 7.0);
    let inputs = random.values(samples * PARAMETERS, 7.0);
    let program = case::circuit(n, items).compile().map_err(say)?;
    let got = run(&program, device, samples, &theta, &inputs)?;
    for sample in 0..samples {
        let want = case::reference(n, items, &theta, &inputs[sample * PARAMETERS..][..PARAMETERS]);
        let got = &got[sample << (n + 1)..][..2 << n];
        close_norm(&format!("sample {sample}"), got, &oracle::interleaved(&want), statevec_c64(items.len()))?;
    }
    Ok(())
}

pub fn random_circuits_are_their_matrices(device: &TestDevice) -> Result<(), String> {
    let kinds = case::kinds_of(device);
    let gates = most_gates(device);
    let strategy = (any::<u64>(), 1usize..=8, 1usize..=gates, 1usize..=3);
    check(
        "random_circuits_are_their_matrices",
        device,
        CASES,
        &strategy,
        |device, &(seed, n, gates, samples)| {
            let random = &mut Random::new(seed, 0);
            let items = case::random_items(n, gates, &kinds, random);
            agrees(n, &items, device, samples, random)
        },
    )
}

/// Many CNOTs between rotations: directions far from the axes, registers evicted and roles exchanged.
pub fn relabelled_circuits_are_their_matrices(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 2usize..=8, 1usize..=3);
    let gates = most_gates(device);
    check(
        "relabelled_circuits_are_their_matrices",
        device,
        CASES,
        &strategy,
        |device, &(seed, n, samples)| {
            let random = &mut Random::new(seed, 1);
            let kinds: Vec<usize> = (0..KINDS.len())
                .filter(|&k| ["rx", "ry", "phase", "matrix1"].contains(&KINDS[k].1))
                .collect();
            let items: Vec<Item> = (0..gates)
                .map(|_| {
                    if random.one_in(3) {
                        return case::random_item(n, &kinds, random, &mut case::any_parameter);
                    }
                    let order = random.permutation(n);
                    let control = Control { qubit: order[1], value: !random.one_in(4) };
                    Item { gate: Gate::X, targets: vec![order[0]], controls: vec![control] }
                })
                .collect();
            agrees(n, &items, device, samples, random)
        },
    )
}

/// θ through ±2π, where shears lose everything if they are not reduced, and where controls show a lost sign.
pub fn angles_around_two_pi_under_controls(device: &TestDevice) -> Result<(), String> {
    let kinds: Vec<usize> = (0..KINDS.len())
        .filter(|&k| ["rx", "ry", "rz", "phase", "rxx", "ryy", "rzz", "u3"].contains(&KINDS[k].1))
        .collect();
    let mut case = 0;
    for kind in kinds {
        for turn in -4i32..=4 {
            for nudge in [-1e-3, -1e-7, 0.0, 1e-7, 1e-3] {
                let angle = f64::from(turn) * std::f64::consts::FRAC_PI_2 + nudge;
                let random = &mut Random::new(case, 2);
                let targets: Vec<usize> = (0..KINDS[kind].0).collect();
                let hadamards = (0..3).map(|q| Item { gate: Gate::H, targets: vec![q], controls: vec![] });
                let controls =
                    if case % 2 == 0 { vec![Control { qubit: 2, value: case % 4 == 0 }] } else { vec![] };
                let gate = case::gate(kind, &targets, random, &mut |_| Parameter::Constant(angle));
                let items: Vec<Item> = hadamards.chain([Item { gate, targets, controls }]).collect();
                agrees(3, &items, device.handle(case as usize), 1, random)
                    .map_err(|error| format!("{} at {angle}: {error}", KINDS[kind].1))?;
                case += 1;
            }
        }
    }
    Ok(())
}

pub fn a_circuit_and_its_inverse_are_the_identity(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=9, 1usize..=most_gates(device) / 2);
    check(
        "a_circuit_and_its_inverse_are_the_identity",
        device,
        CASES,
        &strategy,
        |device, &(seed, n, gates)| {
            let random = &mut Random::new(seed, 3);
            let items = case::random_items(n, gates, &all_kinds(), random);
            let mut circuit = case::circuit(n, &items);
            circuit.append(&circuit.inverse()).map_err(say)?;
            let (theta, inputs) = (random.values(PARAMETERS, 7.0), random.values(PARAMETERS, 7.0));
            let got = run(&circuit.compile().map_err(say)?, device, 1, &theta, &inputs)?;
            close_norm("U†U|0⟩", &got, &oracle::interleaved(&oracle::zero_state(n)), statevec_c64(2 * gates))
                .map(drop)
        },
    )
}

pub fn the_norm_is_conserved(device: &TestDevice) -> Result<(), String> {
    let largest = if device.backend() == Backend::Cpu { 17 } else { 12 };
    let strategy = (any::<u64>(), 1usize..=largest, 1usize..=40);
    check("the_norm_is_conserved", device, CASES / 4, &strategy, |device, &(seed, n, gates)| {
        let random = &mut Random::new(seed, 4);
        let items = case::random_items(n, gates, &all_kinds(), random);
        let (theta, inputs) = (random.values(PARAMETERS, 7.0), random.values(PARAMETERS, 7.0));
        let got = run(&case::circuit(n, &items).compile().map_err(say)?, device, 1, &theta, &inputs)?;
        let norm = got.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        if (norm - 1.0).abs() <= statevec_c64(gates) { Ok(()) } else { Err(format!("the norm is {norm}")) }
    })
}

/// A sample's bits, alone and among others, first and last of batches of 1, 31 and 33; its neighbours may be large.
pub fn a_sample_does_not_see_its_batch(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=6, 1usize..=30);
    check("a_sample_does_not_see_its_batch", device, CASES, &strategy, |device, &(seed, n, gates)| {
        let random = &mut Random::new(seed, 5);
        let items = case::random_items(n, gates, &all_kinds(), random);
        let program = case::circuit(n, &items).compile().map_err(say)?;
        let theta = random.values(PARAMETERS, 7.0);
        let own = random.values(PARAMETERS, 7.0);
        let alone = run(&program, device, 1, &theta, &own)?;
        for samples in [31, 33] {
            let mut inputs = random.values(samples * PARAMETERS, 1e4);
            let at = random.below(samples);
            inputs[at * PARAMETERS..][..PARAMETERS].copy_from_slice(&own);
            let all = run(&program, device, samples, &theta, &inputs)?;
            same_bits(&format!("sample {at} of {samples}"), &all[at << (n + 1)..][..2 << n], &alone)?;
        }
        Ok(())
    })
}

/// Initial states given by the caller, one per sample or one for all.
pub fn initial_states_are_evolved(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=7, 1usize..=30, 1usize..=4, any::<bool>());
    check(
        "initial_states_are_evolved",
        device,
        CASES,
        &strategy,
        |device, &(seed, n, gates, samples, shared)| {
            let random = &mut Random::new(seed, 6);
            let items = case::random_items(n, gates, &all_kinds(), random);
            let program = case::circuit(n, &items).compile().map_err(say)?;
            let (theta, inputs) = (random.values(PARAMETERS, 7.0), random.values(samples * PARAMETERS, 7.0));
            let rows = if shared { 1 } else { samples };
            let amplitudes: Vec<Complex32> =
                (0..rows << n).map(|_| Complex32::new(random.signed(), random.signed())).collect();
            let initial = gatewarp::Tensor::from_slice(device, &amplitudes, &[rows, 1 << n]).map_err(say)?;
            let batch = Batch::new(device, samples)
                .theta(TensorRef::from_slice(&theta, &[PARAMETERS]).map_err(say)?)
                .inputs(TensorRef::from_slice(&inputs, &[samples, PARAMETERS]).map_err(say)?)
                .initial(&initial);
            let got = pairs(&program.run(&batch).map_err(say)?.to_vec::<Complex32>().map_err(say)?);
            for sample in 0..samples {
                let row = if shared { 0 } else { sample };
                let start: Vec<gatewarp::Complex64> = amplitudes[row << n..][..1 << n]
                    .iter()
                    .map(|a| gatewarp::Complex64::new(a.re.into(), a.im.into()))
                    .collect();
                let size = start.iter().map(gatewarp::Complex64::norm_sqr).sum::<f64>().sqrt();
                let input = case::wide(&inputs[sample * PARAMETERS..][..PARAMETERS]);
                let operations: Vec<_> =
                    items.iter().map(|item| case::operation(item, &case::wide(&theta), &input)).collect();
                let want = oracle::interleaved(&oracle::run(&operations, &start));
                let got = &got[sample << (n + 1)..][..2 << n];
                close_norm(&format!("sample {sample}"), got, &want, size.max(1.0) * statevec_c64(gates))?;
            }
            Ok(())
        },
    )
}

/// Basis states through circuits that only relabel come out exactly.
pub fn relabelling_moves_basis_states_exactly(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=12, 0usize..=60);
    check("relabelling_moves_basis_states_exactly", device, CASES, &strategy, |device, &(seed, n, gates)| {
        let random = &mut Random::new(seed, 7);
        let mut circuit = Circuit::new(n).map_err(say)?;
        let mut index = 0usize;
        for _ in 0..gates {
            let order = random.permutation(n);
            match random.below(3) {
                0 => {
                    circuit.x(order[0]).map_err(say)?;
                    index ^= 1 << order[0];
                }
                1 if n > 1 => {
                    circuit.cx(order[0], order[1]).map_err(say)?;
                    index ^= (index >> order[0] & 1) << order[1];
                }
                _ if n > 1 => {
                    circuit.swap(order[0], order[1]).map_err(say)?;
                    let differ = (index >> order[0] ^ index >> order[1]) & 1;
                    index ^= differ << order[0] | differ << order[1];
                }
                _ => {}
            }
        }
        let got = run(&circuit.compile().map_err(say)?, device, 1, &[], &[])?;
        let mut want = vec![0.0; 2 << n];
        want[2 * index] = 1.0;
        same_bits("state", &got, &want)
    })
}
