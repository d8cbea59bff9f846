//! Gates one by one, against their Kronecker products.

use crate::case::{self, Item, KINDS};
use crate::states::{agrees, pairs, say};
use crate::support::compare::close_norm;
use crate::support::devices::TestDevice;
use crate::support::oracle_statevec::{self as oracle, Operation};
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use crate::support::tolerance::statevec_c64;
use gatewarp::statevec::{Batch, Circuit, Control, Gate, Parameter};
use gatewarp::{Backend, Complex32, Complex64, Error, Tensor};
use proptest::prelude::*;

/// Every gate on every choice of targets, under every pattern of controls (up to two off the CPU), inside a spread-out state.
pub fn every_gate_everywhere(device: &TestDevice) -> Result<(), String> {
    let cpu = device.backend() == Backend::Cpu;
    let sizes: &[usize] = if cpu { &[1, 2, 3, 4, 5, 6] } else { &[2, 4, 5] };
    let most_controls = if cpu { 6 } else { 2 };
    for &n in sizes {
        for kind in case::kinds_of(device) {
            let (width, name) = &KINDS[kind];
            if *width > n {
                continue;
            }
            let random = &mut Random::new(17 * n as u64, kind as u64);
            for targets in arrangements(n, *width) {
                let rest: Vec<usize> = (0..n).filter(|q| !targets.contains(q)).collect();
                // 0: not a control, 1: on 1, 2: on 0.
                for pattern in 0..3usize.pow(rest.len().min(most_controls) as u32) {
                    let control = |i: usize| match pattern / 3usize.pow(i as u32) % 3 {
                        0 => None,
                        value => Some(Control { qubit: rest[i], value: value == 1 }),
                    };
                    let controls = (0..rest.len().min(most_controls)).filter_map(control).collect();
                    let mut items: Vec<Item> = (0..n)
                        .map(|q| Item {
                            gate: Gate::U3(
                                Parameter::Constant(0.4 + 0.3 * q as f64),
                                Parameter::Constant(0.9),
                                Parameter::Constant(-0.2),
                            ),
                            targets: vec![q],
                            controls: vec![],
                        })
                        .collect();
                    let gate = case::gate(kind, &targets, random, &mut case::any_parameter);
                    let targets =
                        if matches!(gate, Gate::PauliRotation(..)) { vec![] } else { targets.clone() };
                    items.push(Item { gate, targets, controls });
                    agrees(n, &items, device.handle(pattern), 1, random)
                        .map_err(|error| format!("{name} in {:?}: {error}", items.last()))?;
                }
            }
        }
    }
    Ok(())
}

/// Ordered choices of `k` of `n` qubits; for three only every seventh, for more every 43rd, which still puts each qubit in each place.
fn arrangements(n: usize, k: usize) -> Vec<Vec<usize>> {
    let mut all: Vec<Vec<usize>> = vec![vec![]];
    for _ in 0..k {
        all = all
            .into_iter()
            .flat_map(|chosen| {
                (0..n)
                    .filter(|q| !chosen.contains(q))
                    .map(|q| [chosen.as_slice(), &[q]].concat())
                    .collect::<Vec<_>>()
            })
            .collect();
    }
    let stride = [1, 1, 1, 7, 43, 43, 43][k];
    all.into_iter().step_by(stride).collect()
}

/// A matrix of each sample's own, on 1 to 4 qubits under controls, its adjoint after other gates; and the inverse circuit.
pub fn sample_matrices_are_their_samples(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=6, 1usize..=19);
    check("sample_matrices_are_their_samples", device, CASES, &strategy, |device, &(seed, n, samples)| {
        let random = &mut Random::new(seed, 30);
        let mut circuit = Circuit::new(n).map_err(say)?;
        let mut items: Vec<Item> = Vec::new();
        let mut uses = Vec::new(); // (place among the items, slot)
        for slot in 0..2 {
            let k = 1 + random.below(n.min(4));
            let order = random.permutation(n);
            let controls: Vec<Control> = order[k..]
                .iter()
                .take(random.below(3))
                .map(|&qubit| Control { qubit, value: random.one_in(2) })
                .collect();
            for adjoint in [false, true] {
                items.extend(case::random_items(n, 3, &[10, 11, 13, 17, 30], random));
                uses.push((items.len(), slot));
                let gate = Gate::SampleMatrix { slot, adjoint };
                items.push(Item { gate, targets: order[..k].to_vec(), controls: controls.clone() });
            }
        }
        let fixed = |gate: &Gate| !matches!(gate, Gate::SampleMatrix { .. });
        for item in &mut items {
            if fixed(&item.gate) {
                item.gate = case::without_parameters(&item.gate);
            }
            circuit.controlled(&item.controls, item.gate.clone(), &item.targets).map_err(say)?;
        }
        let matrices: Vec<(usize, Vec<Complex32>)> = circuit
            .matrices()
            .iter()
            .map(|&k| {
                let each = (0..samples).flat_map(|_| case::unitary(1 << k, random));
                (k, each.map(|x| Complex32::new(x.re as f32, x.im as f32)).collect())
            })
            .collect();
        let tensors: Vec<Tensor> = matrices
            .iter()
            .map(|(k, entries)| Tensor::from_slice(device, entries, &[samples, 1 << k, 1 << k]))
            .collect::<gatewarp::Result<_>>()
            .map_err(say)?;
        let batch = Batch::new(device, samples).matrix(0, &tensors[0]).matrix(1, &tensors[1]);
        let result = circuit.compile().map_err(say)?.run(&batch);
        if device.backend() != Backend::Cpu {
            return match result {
                Err(Error::Unsupported { .. }) => Ok(()),
                other => Err(format!("expected Unsupported, got {other:?}")),
            };
        }
        let got = pairs(&result.map_err(say)?.to_vec::<Complex32>().map_err(say)?);
        for sample in 0..samples {
            let operations: Vec<Operation> = items
                .iter()
                .map(|item| {
                    let Gate::SampleMatrix { slot, adjoint } = item.gate else {
                        return case::operation(item, &[], &[]);
                    };
                    let (k, entries) = &matrices[slot];
                    let matrix: Vec<Complex64> = entries[sample << (2 * k)..][..1 << (2 * k)]
                        .iter()
                        .map(|x| Complex64::new(x.re.into(), x.im.into()))
                        .collect();
                    let matrix = if adjoint { oracle::inverse(&matrix) } else { matrix };
                    let gate = Operation::new(matrix, &item.targets);
                    item.controls.iter().fold(gate, |gate, c| gate.controlled(c.qubit, c.value))
                })
                .collect();
            let want = oracle::interleaved(&oracle::run(&operations, &oracle::zero_state(n)));
            let got = &got[sample << (n + 1)..][..2 << n];
            // The matrices are unitary to the f32 they are given in.
            close_norm(&format!("sample {sample}"), got, &want, 2.0 * statevec_c64(items.len()))?;
        }
        circuit.append(&circuit.inverse()).map_err(say)?;
        let got = pairs(&circuit.compile().map_err(say)?.run(&batch).map_err(say)?.to_vec().map_err(say)?);
        let want = oracle::interleaved(&oracle::zero_state(n));
        for (sample, got) in got.chunks(2 << n).enumerate() {
            close_norm(&format!("U†U, sample {sample}"), got, &want, 4.0 * statevec_c64(items.len()))?;
        }
        Ok(())
    })
}

/// A matrix that is not unitary is applied as it is, and explained; a matrix of 0s and 1s costs no multiplication.
pub fn matrices_are_seen_for_what_they_are(device: &TestDevice) -> Result<(), String> {
    let device = device.handle(0);
    let mut circuit = Circuit::new(2).map_err(say)?;
    let r = |x: f64| Complex64::new(x, 0.0);
    circuit.unitary(&[1], &[r(1.0), r(0.5), r(0.0), r(2.0)]).map_err(say)?;
    circuit.unitary(&[0, 1], &case::identity_with_rows_exchanged(4, 0, 2)).map_err(say)?;
    let program = circuit.compile().map_err(say)?;
    let got = pairs(&program.run(&Batch::new(device, 1)).map_err(say)?.to_vec().map_err(say)?);
    // (1, 0) → (1, 0) on qubit 1, which the exchange of 00 and 10 then flips.
    close_norm("state", &got, &[0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0], 1e-7)?;
    let text = program.explain();
    if !text.contains("not unitary: 1")
        || text.matches("matrix2x2").count() != 1
        || text.contains("matrix4x4")
    {
        return Err(format!("explained as\n{text}"));
    }
    Ok(())
}
