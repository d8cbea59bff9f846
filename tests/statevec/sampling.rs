//! Shots, and circuits with measurements in their middle.

use crate::case::{self, Item, PARAMETERS, all_kinds};
use crate::states::say;
use crate::support::devices::TestDevice;
use crate::support::oracle_statevec::{self as oracle, Operation};
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use gatewarp::random::Stream;
use gatewarp::statevec::{Batch, Circuit, DynamicCircuit, readout};
use gatewarp::{Backend, Complex32, Complex64 as C, Device, Error, Tensor, TensorRef};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// χ² of counts against probabilities. Cells that expect fewer than 5 are put together. An upper limit that a right sampler
/// passes once in some 10^9 cases: six standard deviations above the mean and room for the tail of few degrees of freedom.
fn follows(what: &str, counts: &BTreeMap<usize, u64>, probabilities: &[f64]) -> Result<(), String> {
    let shots: u64 = counts.values().sum();
    let total: f64 = probabilities.iter().sum();
    let (mut statistic, mut cells, mut rest) = (0.0, 0usize, (0.0, 0.0));
    for (outcome, p) in probabilities.iter().enumerate() {
        let seen = counts.get(&outcome).copied().unwrap_or(0) as f64;
        let expected = p / total * shots as f64;
        if expected < 1e-6 && seen > 0.0 {
            return Err(format!("{what}: outcome {outcome} of probability {p:e} came up {seen} times"));
        }
        if expected < 5.0 {
            rest = (rest.0 + seen, rest.1 + expected);
        } else {
            statistic += (seen - expected).powi(2) / expected;
            cells += 1;
        }
    }
    if rest.1 > 0.5 {
        statistic += (rest.0 - rest.1).powi(2) / rest.1;
        cells += 1;
    } else if rest.0 > 12.0 {
        return Err(format!("{what}: {} shots where {} are expected", rest.0, rest.1));
    }
    let freedom = cells.saturating_sub(1) as f64;
    let limit = freedom + 6.0 * (2.0 * freedom).sqrt() + 40.0;
    if statistic <= limit {
        Ok(())
    } else {
        Err(format!("{what}: χ² = {statistic:.1} over {cells} cells, limit {limit:.1}"))
    }
}

fn tally(outcomes: impl IntoIterator<Item = usize>) -> BTreeMap<usize, u64> {
    let mut counts = BTreeMap::new();
    outcomes.into_iter().for_each(|outcome| *counts.entry(outcome).or_insert(0) += 1);
    counts
}

pub fn shots_follow_their_probabilities(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=7, 1usize..=30, 1usize..=3);
    check(
        "shots_follow_their_probabilities",
        device,
        CASES,
        &strategy,
        |device, &(seed, n, gates, samples)| {
            let random = &mut Random::new(seed, 40);
            let items = case::random_items(n, gates, &all_kinds(), random);
            let program = case::circuit(n, &items).compile().map_err(say)?;
            let (theta, inputs) = (random.values(PARAMETERS, 7.0), random.values(samples * PARAMETERS, 7.0));
            let batch = Batch::new(device, samples)
                .theta(TensorRef::from_slice(&theta, &[PARAMETERS]).map_err(say)?)
                .inputs(TensorRef::from_slice(&inputs, &[samples, PARAMETERS]).map_err(say)?);
            let shots = 2000 + random.below(500);
            let got = program.sample(&batch, shots, seed).map_err(say)?;
            let counts = readout::counts(&got.view()).map_err(say)?;
            if got.shape() != [samples, shots] || counts.len() != samples {
                return Err(format!("shape {:?}", got.shape()));
            }
            for (sample, counts) in counts.iter().enumerate() {
                let state = case::reference(n, &items, &theta, &inputs[sample * PARAMETERS..][..PARAMETERS]);
                let counts = counts.iter().map(|(&outcome, &count)| (outcome as usize, count)).collect();
                // What rounding makes of a probability of 0 may be drawn.
                let p: Vec<f64> = oracle::probabilities(&state).iter().map(|p| p + 1e-13).collect();
                follows(&format!("sample {sample}"), &counts, &p)?;
            }
            let states = program.run(&batch).map_err(say)?;
            let again = readout::sample_states(&states.view(), shots, seed)
                .map_err(say)?
                .to_vec::<u32>()
                .map_err(say)?;
            let got = got.to_vec::<u32>().map_err(say)?;
            // The two squares may round differently, which moves a shot in 10^5.
            let differ = got.iter().zip(&again).filter(|(a, b)| a != b).count();
            if differ > 4 {
                Err(format!("{differ} of {} shots of the states differ", got.len()))
            } else {
                Ok(())
            }
        },
    )
}

/// The integers and the words, in u128: every backend must draw exactly these.
pub fn shots_are_those_of_the_definition(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), prop_oneof![8 => 0usize..=8, 1 => 9usize..=16], 0usize..=4, 0usize..=200);
    check(
        "shots_are_those_of_the_definition",
        device,
        CASES,
        &strategy,
        |device, &(seed, n, samples, shots)| {
            let random = &mut Random::new(seed, 41);
            let samples = if n > 8 { samples.min(2) } else { samples };
            let scale = (random.signed() * 60.0).exp2();
            let mut values = random.values(samples << n, scale);
            for value in &mut values {
                // Distributions with holes, and with outcomes far less likely than others.
                *value = match random.below(4) {
                    0 => 0.0,
                    1 => value.abs() * 1e-9,
                    _ => value.abs(),
                };
            }
            for row in values.chunks_mut(1 << n) {
                let at = random.below(row.len());
                row[at] = scale;
            }
            let probabilities = Tensor::from_slice(device, &values, &[samples, 1 << n]).map_err(say)?;
            let offset = random.word();
            let got =
                readout::sample_probabilities(&probabilities.view(), shots, Stream::Value { seed, offset });
            let got = got.map_err(say)?.to_vec::<u32>().map_err(say)?;
            let mut want = Vec::new();
            for (sample, row) in values.chunks(1 << n).enumerate() {
                let sum: f64 = row.iter().map(|&p| f64::from(p)).sum();
                let exponent = (0.75 * sum).log2().floor() as i32 + 2;
                let integer = |p: f32| (f64::from(p) * f64::from(62 - exponent).exp2()).floor() as u128;
                let total: u128 = row.iter().map(|&p| integer(p)).sum();
                for shot in 0..shots {
                    let words = gatewarp::random::block(seed, offset, (sample * shots + shot) as u64);
                    let mut target = ((u128::from(words[1]) << 32 | u128::from(words[0])) * total) >> 64;
                    let outcome = row.iter().position(|&p| {
                        let mass = integer(p);
                        let found = target < mass;
                        target = target.wrapping_sub(if found { 0 } else { mass });
                        found
                    });
                    want.push(outcome.expect("the target is below the total") as u32);
                }
            }
            match got.iter().zip(&want).position(|(a, b)| a != b) {
                None if got.len() == want.len() => Ok(()),
                at => Err(format!(
                    "shot {at:?} of {}: {:?}, expected {:?}",
                    want.len(),
                    at.map(|i| got[i]),
                    at.map(|i| want[i])
                )),
            }
        },
    )
}

/// Circuits that only relabel: one outcome, whatever the labels are inside.
pub fn shots_are_in_logical_order(device: &TestDevice) -> Result<(), String> {
    let most = if device.backend() == Backend::Cpu { 16usize } else { 14 };
    check("shots_are_in_logical_order", device, CASES / 2, &(any::<u64>(), 2..=most), |device, &(seed, n)| {
        let random = &mut Random::new(seed, 42);
        let mut circuit = Circuit::new(n).map_err(say)?;
        let mut want = 0u32;
        for _ in 0..3 * n {
            let order = random.permutation(n);
            let (a, b) = (order[0], order[1]);
            match random.below(3) {
                0 => {
                    circuit.x(a).map_err(say)?;
                    want ^= 1 << a;
                }
                1 => {
                    circuit.cx(a, b).map_err(say)?;
                    want ^= (want >> a & 1) << b;
                }
                _ => {
                    circuit.swap(a, b).map_err(say)?;
                    let differ = (want >> a ^ want >> b) & 1;
                    want ^= differ << a | differ << b;
                }
            }
        }
        let got = circuit.compile().map_err(say)?.sample(&Batch::new(device, 2), 5, seed).map_err(say)?;
        let got = got.to_vec::<u32>().map_err(say)?;
        if got == [want; 10] { Ok(()) } else { Err(format!("{got:?}, expected {want}")) }
    })
}

/// One element of a random dynamic circuit.
enum Element {
    Gates(Vec<Item>),
    Measure(usize, usize),
    Reset(usize),
    Conditional(Vec<usize>, u64, Vec<Element>),
}

const BITS: usize = 3;

fn random_elements(n: usize, depth: usize, budget: &mut usize, random: &mut Random) -> Vec<Element> {
    let mut elements = Vec::new();
    for _ in 0..1 + random.below(5) {
        let qubit = random.below(n);
        elements.push(match random.below(6) {
            0 | 1 if *budget > 0 => {
                *budget -= 1;
                Element::Measure(qubit, random.below(BITS))
            }
            2 if *budget > 0 => {
                *budget -= 1;
                Element::Reset(qubit)
            }
            3 if depth < 2 => {
                let bits = random.permutation(BITS)[..random.below(3)].to_vec();
                let value = random.word() & ((1 << bits.len()) - 1);
                Element::Conditional(bits, value, random_elements(n, depth + 1, budget, random))
            }
            _ => {
                let gates = 1 + random.below(6);
                Element::Gates(case::random_items(n, gates, &all_kinds(), random))
            }
        });
    }
    elements
}

fn build(n: usize, elements: &[Element]) -> Result<DynamicCircuit, String> {
    let mut circuit = DynamicCircuit::new(n, BITS).map_err(say)?;
    for element in elements {
        match element {
            Element::Gates(items) => circuit.circuit(&case::circuit(n, items)).map_err(say)?,
            Element::Measure(qubit, bit) => circuit.measure(*qubit, *bit).map_err(say)?,
            Element::Reset(qubit) => circuit.reset(*qubit).map_err(say)?,
            Element::Conditional(bits, value, body) => {
                circuit.conditional(bits, *value, &build(n, body)?).map_err(say)?
            }
        };
    }
    Ok(circuit)
}

/// A branch: a state whose squared norm is the branch's probability, and the classical bits.
type Branch = (Vec<C>, usize);

/// Every branch, in f64.
fn branches(elements: &[Element], from: Vec<Branch>, theta: &[f64], input: &[f64]) -> Vec<Branch> {
    let split = |state: &[C], qubit: usize, one: usize| -> Vec<C> {
        state.iter().enumerate().map(|(x, &a)| if x >> qubit & 1 == one { a } else { C::ZERO }).collect()
    };
    elements.iter().fold(from, |from, element| {
        let mut to = Vec::new();
        for (state, bits) in from {
            match element {
                Element::Gates(items) => {
                    let operations: Vec<Operation> =
                        items.iter().map(|item| case::operation(item, theta, input)).collect();
                    to.push((oracle::run(&operations, &state), bits));
                }
                Element::Measure(qubit, bit) => {
                    to.extend(
                        [0, 1].map(|one| (split(&state, *qubit, one), bits & !(1 << bit) | one << bit)),
                    );
                }
                Element::Reset(qubit) => {
                    to.push((split(&state, *qubit, 0), bits));
                    let flip = Operation::new(oracle::x(), &[*qubit]);
                    to.push((flip.apply(&split(&state, *qubit, 1)), bits));
                }
                Element::Conditional(which, value, body) => {
                    let read: usize = which.iter().enumerate().map(|(i, bit)| (bits >> bit & 1) << i).sum();
                    if read as u64 == *value {
                        to.extend(branches(body, vec![(state, bits)], theta, input));
                    } else {
                        to.push((state, bits));
                    }
                }
            }
        }
        to
    })
}

fn values(shots: &gatewarp::statevec::Shots, sample: usize) -> impl Iterator<Item = usize> {
    let words = &shots.words()[sample * shots.shots()..][..shots.shots()];
    words.iter().map(|&word| word as usize).collect::<Vec<_>>().into_iter()
}

pub fn trajectories_follow_their_branches(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=4, 1usize..=3);
    check(
        "trajectories_follow_their_branches",
        device,
        CASES / 2,
        &strategy,
        |device, &(seed, n, samples)| {
            let random = &mut Random::new(seed, 43);
            let elements = random_elements(n, 0, &mut 5, random);
            let program = build(n, &elements)?.compile().map_err(say)?;
            let (theta, inputs) = (random.values(PARAMETERS, 7.0), random.values(samples * PARAMETERS, 7.0));
            let mut batch = Batch::new(device, samples);
            if program.thetas() > 0 {
                batch = batch.theta(TensorRef::from_slice(&theta, &[PARAMETERS]).map_err(say)?);
            }
            if program.inputs() > 0 {
                batch = batch.inputs(TensorRef::from_slice(&inputs, &[samples, PARAMETERS]).map_err(say)?);
            }
            let shots = program.sample(&batch, 700, seed).map_err(say)?;
            for sample in 0..samples {
                let input = case::wide(&inputs[sample * PARAMETERS..][..PARAMETERS]);
                let all = branches(&elements, vec![(oracle::zero_state(n), 0)], &case::wide(&theta), &input);
                let mut p = vec![1e-13; 1 << BITS];
                for (state, bits) in all {
                    p[bits] += state.iter().map(C::norm_sqr).sum::<f64>();
                }
                follows(&format!("sample {sample}"), &tally(values(&shots, sample)), &p)?;
            }
            if program.sample(&batch, 700, seed).map_err(say)? != shots {
                return Err("the same seed gave other shots".into());
            }
            Ok(())
        },
    )
}

/// A state is sent from qubit 0 to qubit 2 with two classical bits: every trajectory ends in it.
pub fn teleportation_delivers_the_state(device: &TestDevice) -> Result<(), String> {
    let check_one = |device: &Device, seed: u64| -> Result<(), String> {
        let random = &mut Random::new(seed, 44);
        let angles: Vec<f64> = (0..3).map(|_| f64::from(random.signed()) * 3.0).collect();
        let (mut before, mut x, mut z, mut undo) = (
            Circuit::new(3).map_err(say)?,
            Circuit::new(3).map_err(say)?,
            Circuit::new(3).map_err(say)?,
            Circuit::new(3).map_err(say)?,
        );
        before
            .u3(0, angles[0], angles[1], angles[2])
            .map_err(say)?
            .h(1)
            .map_err(say)?
            .cx(1, 2)
            .map_err(say)?;
        before.cx(0, 1).map_err(say)?.h(0).map_err(say)?;
        x.x(2).map_err(say)?;
        z.z(2).map_err(say)?;
        undo.u3(2, -angles[0], -angles[2], -angles[1]).map_err(say)?;
        let mut circuit = DynamicCircuit::new(3, 70).map_err(say)?;
        circuit.circuit(&before).map_err(say)?.measure(0, 0).map_err(say)?.measure(1, 69).map_err(say)?;
        circuit
            .conditional(&[69], 1, &x.into())
            .map_err(say)?
            .conditional(&[0], 1, &z.into())
            .map_err(say)?;
        circuit.circuit(&undo).map_err(say)?.measure(2, 64).map_err(say)?;
        let shots = circuit.compile().map_err(say)?.sample(&Batch::new(device, 1), 400, seed).map_err(say)?;
        let bits = |bit| (0..400).filter(|&shot| shots.bit(0, shot, bit)).count();
        if bits(64) != 0 || !(120..280).contains(&bits(0)) || !(120..280).contains(&bits(69)) {
            return Err(format!("{} of 400 arrive changed; bits {} {}", bits(64), bits(0), bits(69)));
        }
        if shots.words_per_shot() != 2
            || shots.counts(0).values().sum::<u64>() != 400
            || shots.counts(0).len() != 4
        {
            return Err(format!("counts {:?}", shots.counts(0)));
        }
        Ok(())
    };
    check("teleportation_delivers_the_state", device, CASES / 8, &any::<u64>(), |device, &seed| {
        check_one(device, seed)
    })
}

/// Coins whose probabilities are exact: the trajectories are those of the CPU, bit for bit.
pub fn trajectories_are_the_same_everywhere(device: &TestDevice) -> Result<(), String> {
    check(
        "trajectories_are_the_same_everywhere",
        device,
        CASES / 4,
        &(any::<u64>(), 1usize..=6),
        |device, &(seed, n)| {
            let mut toss = Circuit::new(n).map_err(say)?;
            for q in 0..n {
                toss.h(q).map_err(say)?;
            }
            let mut circuit = DynamicCircuit::new(n, 2 * n).map_err(say)?;
            for round in 0..2 {
                circuit.circuit(&toss).map_err(say)?;
                for q in 0..n {
                    circuit.measure(q, round * n + q).map_err(say)?.reset(q).map_err(say)?;
                }
            }
            let program = circuit.compile().map_err(say)?;
            let here = program.sample(&Batch::new(device, 3), 50, seed).map_err(say)?;
            let there = program.sample(&Batch::new(&Device::cpu(), 3), 50, seed).map_err(say)?;
            if here == there { Ok(()) } else { Err("the trajectories differ from the CPU's".into()) }
        },
    )
}

pub fn bad_dynamic_circuits_are_typed_errors(device: &TestDevice) -> Result<(), String> {
    let argument = |what: &str, result: gatewarp::Result<()>| match result {
        Err(Error::InvalidArgument { .. }) => Ok(()),
        other => Err(format!("{what}: expected InvalidArgument, got {other:?}")),
    };
    let mut c = DynamicCircuit::new(2, 2).map_err(say)?;
    let before = c.clone();
    argument("no qubits", DynamicCircuit::new(0, 1).map(drop))?;
    argument("too many qubits", DynamicCircuit::new(31, 1).map(drop))?;
    argument("too many bits", DynamicCircuit::new(1, usize::MAX).map(drop))?;
    argument("measured qubit", c.measure(2, 0).map(drop))?;
    argument("measured bit", c.measure(0, 2).map(drop))?;
    argument("reset qubit", c.reset(usize::MAX).map(drop))?;
    argument("circuit width", c.circuit(&Circuit::new(3).map_err(say)?).map(drop))?;
    let body = DynamicCircuit::new(2, 0).map_err(say)?;
    argument("condition bit", c.conditional(&[2], 0, &body).map(drop))?;
    argument("condition twice", c.conditional(&[1, 1], 0, &body).map(drop))?;
    argument("condition value", c.conditional(&[0, 1], 4, &body).map(drop))?;
    argument("body width", c.conditional(&[0], 0, &DynamicCircuit::new(1, 0).map_err(say)?).map(drop))?;
    argument("body bits", c.conditional(&[0], 0, &DynamicCircuit::new(2, 3).map_err(say)?).map(drop))?;
    let mut nested = body;
    for _ in 0..64 {
        let mut outer = DynamicCircuit::new(2, 2).map_err(say)?;
        match outer.conditional(&[0], 0, &nested) {
            Ok(_) => nested = outer,
            Err(_) => break,
        }
    }
    argument("deep nesting", c.conditional(&[0], 0, &nested).map(drop))?;
    if c != before {
        return Err("a refused element changed the circuit".into());
    }
    c.measure(0, 0).map_err(say)?;
    let program = c.compile().map_err(say)?;
    let device = device.handle(0);
    argument("too many shots", program.sample(&Batch::new(device, 2), usize::MAX, 1).map(drop))?;
    let none = program.sample(&Batch::new(device, 0), 5, 1).map_err(say)?;
    if none.samples() != 0 || !none.words().is_empty() {
        return Err(format!("{none:?}"));
    }
    let shots = program.sample(&Batch::new(device, 3), 0, 1).map_err(say)?;
    if shots.samples() != 3 || shots.shots() != 0 { Err(format!("{shots:?}")) } else { Ok(()) }
}

/// A state without a norm cannot be sampled: an error on the CPU, a mark and a report elsewhere; its neighbours are untouched.
pub fn a_state_without_norm_is_reported(device: &TestDevice) -> Result<(), String> {
    for (n, bad) in [(1usize, 0.0f32), (3, f32::NAN), (7, f32::INFINITY), (8, 0.0)] {
        let device = device.handle(n);
        let mut values = vec![Complex32::new(0.5, 0.0); 3 << n];
        let clean = Tensor::from_slice(device, &values, &[3, 1 << n]).map_err(say)?;
        values[1 << n..2 << n].fill(Complex32::new(bad, 0.0));
        let spoiled = Tensor::from_slice(device, &values, &[3, 1 << n]).map_err(say)?;
        let want = readout::sample_states(&clean.view(), 9, 5).map_err(say)?.to_vec::<u32>().map_err(say)?;
        let shots = readout::sample_states(&spoiled.view(), 9, 5);
        if device.backend() == Backend::Cpu {
            match shots {
                Err(Error::InvalidArgument { .. }) => continue,
                other => return Err(format!("{bad}: {other:?}")),
            }
        }
        let shots = shots.map_err(say)?;
        match device.synchronize() {
            Err(Error::DeviceValue { .. }) => device.synchronize().map_err(say)?,
            other => return Err(format!("{bad} was reported as {other:?}")),
        }
        let got = shots.to_vec::<u32>().map_err(say)?;
        let wrong = (0..27).find(|&i| got[i] != if (9..18).contains(&i) { u32::MAX } else { want[i] });
        if let Some(i) = wrong {
            return Err(format!("n = {n}, {bad}: shot {i} is {}", got[i]));
        }
    }
    Ok(())
}
