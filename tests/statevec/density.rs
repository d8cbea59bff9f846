//! Density matrices and channels, against dense matrices in f64.

use crate::case::{self, Item, PARAMETERS, all_kinds, unitary, wide};
use crate::readout::{Strings, random_sums, weight};
use crate::states::{pairs, say};
use crate::support::compare::{close, close_norm};
use crate::support::devices::TestDevice;
use crate::support::oracle_statevec::{self as oracle, Operation, Pauli};
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use crate::support::tolerance::statevec_c64;
use gatewarp::statevec::{Batch, DensityBatch, DensityCircuit, KrausChannel, PauliSum, readout as shots};
use gatewarp::{Backend, Complex32, Complex64 as C, Error, Tensor, TensorRef};
use proptest::prelude::*;

/// Row-major, `side × side`.
pub type Matrix = Vec<C>;

/// K·ρ: each column is a state.
fn on_rows(k: &Operation, rho: &[C]) -> Matrix {
    let side = rho.len().isqrt();
    let mut out = vec![C::ZERO; rho.len()];
    for column in 0..side {
        let state: Vec<C> = (0..side).map(|row| rho[row * side + column]).collect();
        k.apply(&state).into_iter().enumerate().for_each(|(row, a)| out[row * side + column] = a);
    }
    out
}

fn dagger(rho: &[C]) -> Matrix {
    let side = rho.len().isqrt();
    (0..rho.len()).map(|at| rho[at % side * side + at / side].conj()).collect()
}

/// K·ρ·K†.
fn between(k: &Operation, rho: &[C]) -> Matrix {
    dagger(&on_rows(k, &dagger(&on_rows(k, rho))))
}

/// Σ KρK†.
pub fn through(channel: &KrausChannel, targets: &[usize], rho: &[C]) -> Matrix {
    let mut sum = vec![C::ZERO; rho.len()];
    for k in channel.operators() {
        let part = between(&Operation::new(k.clone(), targets), rho);
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    sum
}

fn trace(rho: &[C]) -> f64 {
    let side = rho.len().isqrt();
    (0..side).map(|i| rho[i * side + i].re).sum()
}

/// A mixed state of full rank.
pub fn random_rho(n: usize, random: &mut Random) -> Matrix {
    let side = 1usize << n;
    let a: Matrix =
        (0..side * side).map(|_| C::new(random.signed().into(), random.signed().into())).collect();
    let entry =
        |i: usize, j: usize| -> C { (0..side).map(|k| a[i * side + k] * a[j * side + k].conj()).sum() };
    let rho: Matrix = (0..side * side).map(|at| entry(at / side, at % side)).collect();
    let trace = trace(&rho);
    rho.into_iter().map(|x| x / trace).collect()
}

/// Columns of a random isometry, cut into Kraus operators.
fn random_kraus(qubits: usize, random: &mut Random) -> KrausChannel {
    let (side, count) = (1usize << qubits, 2usize);
    let rows = unitary(side * count, random);
    let entry = |i: usize, row: usize, column: usize| rows[column * side * count + i * side + row].conj();
    let operator = |i: usize| (0..side * side).map(|at| entry(i, at / side, at % side)).collect::<Vec<C>>();
    KrausChannel::new(qubits, &(0..count).map(operator).collect::<Vec<_>>()).expect("an isometry completes")
}

pub fn random_channel(qubits: usize, random: &mut Random) -> KrausChannel {
    let p = random.unit();
    let channel = match (qubits, random.below(8)) {
        (1, 0) => KrausChannel::bit_flip(p),
        (1, 1) => KrausChannel::phase_flip(p),
        (1, 2) => KrausChannel::amplitude_damping(p),
        (1, 3) => KrausChannel::phase_damping(p),
        (1, 4) => KrausChannel::readout_error(p, random.unit()),
        (1, 5) => KrausChannel::bit_phase_flip(p),
        (_, 6) => KrausChannel::depolarizing(qubits, p),
        _ => return random_kraus(qubits, random),
    };
    channel.expect("probabilities")
}

enum Element {
    Gates(Vec<Item>),
    Channel(KrausChannel, Vec<usize>),
}

fn random_elements(n: usize, most: usize, kinds: &[usize], random: &mut Random) -> Vec<Element> {
    let mut elements = Vec::new();
    for _ in 0..1 + random.below(5) {
        if random.one_in(2) {
            let count = 1 + random.below(8);
            elements.push(Element::Gates(case::random_items(n, count, kinds, random)));
        } else {
            let qubits = 1 + random.below(most.min(n));
            let targets = random.permutation(n)[..qubits].to_vec();
            elements.push(Element::Channel(random_channel(qubits, random), targets));
        }
    }
    elements
}

fn build(n: usize, elements: &[Element]) -> Result<DensityCircuit, String> {
    let mut circuit = DensityCircuit::new(n).map_err(say)?;
    for element in elements {
        match element {
            Element::Gates(items) => circuit.circuit(&case::circuit(n, items)).map_err(say)?,
            Element::Channel(channel, targets) => circuit.channel(channel, targets).map_err(say)?,
        };
    }
    Ok(circuit)
}

fn reference(elements: &[Element], rho: Matrix, theta: &[f64], input: &[f64]) -> Matrix {
    elements.iter().fold(rho, |rho, element| match element {
        Element::Gates(items) => {
            items.iter().fold(rho, |rho, item| between(&case::operation(item, theta, input), &rho))
        }
        Element::Channel(channel, targets) => through(channel, targets, &rho),
    })
}

/// Tr(ρ·observable).
fn expectation(rho: &[C], strings: &Strings) -> f64 {
    let side = rho.len().isqrt();
    let of_string = |string: &[(usize, Pauli)]| -> f64 {
        let image = string.iter().fold(rho.to_vec(), |rho, &(qubit, pauli)| {
            let matrix = match pauli {
                Pauli::X => oracle::x(),
                Pauli::Y => oracle::y(),
                Pauli::Z => oracle::z(),
            };
            on_rows(&Operation::new(matrix, &[qubit]), &rho)
        });
        (0..side).map(|i| image[i * side + i].re).sum()
    };
    strings.iter().map(|(coefficient, string)| coefficient * of_string(string)).sum()
}

fn singles(values: &[C]) -> Vec<Complex32> {
    values.iter().map(|a| Complex32::new(a.re as f32, a.im as f32)).collect()
}

fn ground(n: usize) -> Matrix {
    let mut rho = vec![C::ZERO; 1 << (2 * n)];
    rho[0] = C::ONE;
    rho
}

/// The most qubits of a channel that a device's kernels take today.
fn widest(device: &TestDevice) -> usize {
    if device.backend() == Backend::Cpu { 2 } else { 1 }
}

pub fn density_circuits_are_dense(device: &TestDevice) -> Result<(), String> {
    let most = widest(device);
    let strategy = (any::<u64>(), 1usize..=4, 1usize..=3, any::<bool>());
    check("density_circuits_are_dense", device, CASES / 2, &strategy, |device, &(seed, n, samples, given)| {
        let random = &mut Random::new(seed, 50);
        let elements = random_elements(n, most, &all_kinds(), random);
        let program = build(n, &elements)?.compile().map_err(say)?;
        let (theta, inputs) = (random.values(PARAMETERS, 7.0), random.values(samples * PARAMETERS, 7.0));
        let start: Vec<Matrix> = (0..samples).map(|_| random_rho(n, random)).collect();
        let initial =
            Tensor::from_slice(device, &singles(&start.concat()), &[samples, 1 << n, 1 << n]).map_err(say)?;
        let mut batch = Batch::new(device, samples);
        if program.thetas() > 0 {
            batch = batch.theta(TensorRef::from_slice(&theta, &[PARAMETERS]).map_err(say)?);
            batch = batch.inputs(TensorRef::from_slice(&inputs, &[samples, PARAMETERS]).map_err(say)?);
        }
        if given {
            batch = batch.initial(&initial);
        }
        let rho = program.run(&batch).map_err(say)?;
        if rho.shape() != [samples, 1 << n, 1 << n] {
            return Err(format!("shape {:?}", rho.shape()));
        }
        let (sums, strings) = random_sums(n, random);
        let got = program.expectations(&batch, &sums).map_err(say)?.to_vec::<f32>().map_err(say)?;
        let batch = DensityBatch::new(&rho.view()).map_err(say)?;
        let vector =
            |tensor: gatewarp::Result<Tensor>| tensor.and_then(|tensor| tensor.to_vec::<f32>()).map_err(say);
        let (traces, purities) = (vector(batch.trace())?, vector(batch.purity())?);
        let (diagonals, all) = (vector(batch.probabilities())?, pairs(&rho.to_vec().map_err(say)?));
        // Every element is a pass over both sides, with sums over the Kraus operators.
        let bound = statevec_c64(16 * elements.len() + 20);
        for sample in 0..samples {
            let from = if given { start[sample].clone() } else { ground(n) };
            let input = wide(&inputs[sample * PARAMETERS..][..PARAMETERS]);
            let want = reference(&elements, from, &wide(&theta), &input);
            let mine = &all[sample * 2 * want.len()..][..2 * want.len()];
            close_norm("ρ", mine, &oracle::interleaved(&want), bound)?;
            let side = 1usize << n;
            let purity: f64 = want.iter().map(C::norm_sqr).sum();
            close("trace", &traces[sample..=sample], &[1.0], &[side as f64 * bound])?;
            close("purity", &purities[sample..=sample], &[purity], &[2.0 * bound])?;
            let diagonal: Vec<f64> = (0..side).map(|i| want[i * side + i].re).collect();
            close("diagonal", &diagonals[sample * side..][..side], &diagonal, &vec![bound; side])?;
            let values: Vec<f64> = strings.iter().map(|strings| expectation(&want, strings)).collect();
            let tolerance: Vec<f64> =
                strings.iter().map(|strings| side as f64 * bound * weight(strings).max(1e-3)).collect();
            close("expectation", &got[sample * sums.len()..][..sums.len()], &values, &tolerance)?;
            // ⟨v|ρ|v⟩ ≥ 0 for random directions.
            for _ in 0..4 {
                let v: Vec<C> =
                    (0..side).map(|_| C::new(random.signed().into(), random.signed().into())).collect();
                let entry = |i: usize, j: usize| {
                    C::new(mine[2 * (i * side + j)].into(), mine[2 * (i * side + j) + 1].into())
                };
                let form: C = (0..side * side)
                    .map(|at| v[at / side].conj() * entry(at / side, at % side) * v[at % side])
                    .sum();
                let size: f64 = v.iter().map(C::norm_sqr).sum();
                if !(form.re >= -bound * size) || !(form.im.abs() <= bound * size) {
                    return Err(format!("⟨v|ρ|v⟩ = {form}"));
                }
            }
        }
        Ok(())
    })
}

/// A pure state through a circuit is |ψ⟩⟨ψ|, and its shots are those of ψ's distribution.
pub fn without_channels_a_density_matrix_is_pure(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=5, 1usize..=20);
    check(
        "without_channels_a_density_matrix_is_pure",
        device,
        CASES / 8,
        &strategy,
        |device, &(seed, n, gates)| {
            let random = &mut Random::new(seed, 51);
            let items = case::random_items(n, gates, &all_kinds(), random);
            let circuit = case::circuit(n, &items);
            let (theta, inputs) = (random.values(PARAMETERS, 7.0), random.values(PARAMETERS, 7.0));
            let batch = Batch::new(device, 1)
                .theta(TensorRef::from_slice(&theta, &[PARAMETERS]).map_err(say)?)
                .inputs(TensorRef::from_slice(&inputs, &[1, PARAMETERS]).map_err(say)?);
            let mut density = DensityCircuit::new(n).map_err(say)?;
            density.circuit(&circuit).map_err(say)?;
            let density = density.compile().map_err(say)?;
            let rho = density.run(&batch).map_err(say)?;
            let program = circuit.compile().map_err(say)?;
            let states = program.run(&batch).map_err(say)?;
            let pure =
                shots::reduced_density_matrix(&states.view(), &(0..n).collect::<Vec<_>>()).map_err(say)?;
            let want: Vec<f64> = pairs(&pure.to_vec().map_err(say)?).into_iter().map(f64::from).collect();
            close_norm("ρ", &pairs(&rho.to_vec().map_err(say)?), &want, 3.0 * statevec_c64(2 * gates))?;
            let drawn = density.sample(&batch, 400, seed).map_err(say)?.to_vec::<u32>().map_err(say)?;
            let expected = program.sample(&batch, 400, seed).map_err(say)?.to_vec::<u32>().map_err(say)?;
            let differ = drawn.iter().zip(&expected).filter(|(a, b)| a != b).count();
            if differ > 4 { Err(format!("{differ} of 400 shots differ")) } else { Ok(()) }
        },
    )
}

/// The gradient is the derivative of the oracle, by central differences.
pub fn density_gradients_are_derivatives(device: &TestDevice) -> Result<(), String> {
    let most = widest(device);
    // Gates that have parameters, and some to mix with.
    let kinds = [3usize, 9, 10, 11, 12, 13, 14, 17, 20, 21, 22, 25];
    let strategy = (any::<u64>(), 1usize..=3, 1usize..=2);
    check("density_gradients_are_derivatives", device, CASES / 4, &strategy, |device, &(seed, n, samples)| {
        let random = &mut Random::new(seed, 52);
        let elements = random_elements(n, most, &kinds, random);
        let program = build(n, &elements)?.compile().map_err(say)?;
        if program.thetas() == 0 {
            return Ok(());
        }
        let (theta, inputs) = (random.values(PARAMETERS, 3.0), random.values(samples * PARAMETERS, 3.0));
        let start: Vec<Matrix> = (0..samples).map(|_| random_rho(n, random)).collect();
        let initial =
            Tensor::from_slice(device, &singles(&start.concat()), &[samples, 1 << n, 1 << n]).map_err(say)?;
        let (sums, strings) = random_sums(n, random);
        let weights = random.values(samples * sums.len(), 1.0);
        let given = Tensor::from_slice(device, &weights, &[samples, sums.len()]).map_err(say)?;
        let batch = Batch::new(device, samples)
            .theta(TensorRef::from_slice(&theta, &[PARAMETERS]).map_err(say)?)
            .inputs(TensorRef::from_slice(&inputs, &[samples, PARAMETERS]).map_err(say)?)
            .initial(&initial);
        let got = match program.gradient(&batch, &sums, &given.view()) {
            // Where the adjoint engine does not run, that is said.
            Err(Error::Unsupported { .. }) if device.backend() != Backend::Cpu => return Ok(()),
            other => other.map_err(say)?,
        };
        let loss = |theta: &[f64], inputs: &[f64], start: &[Matrix]| -> f64 {
            (0..samples)
                .map(|s| {
                    let rho = reference(
                        &elements,
                        start[s].clone(),
                        theta,
                        &inputs[s * PARAMETERS..][..PARAMETERS],
                    );
                    let own = &weights[s * sums.len()..];
                    strings
                        .iter()
                        .zip(own)
                        .map(|(strings, &w)| f64::from(w) * expectation(&rho, strings))
                        .sum::<f64>()
                })
                .sum()
        };
        let (theta, inputs) = (wide(&theta), wide(&inputs));
        let size = 1.0 + strings.iter().map(weight).sum::<f64>();
        let tolerance = 3e-5 * size * samples as f64;
        let step = 1e-5;
        let moved = |values: &[f64], at: usize, by: f64| {
            let mut values = values.to_vec();
            values[at] += by;
            values
        };
        let by_theta: Vec<f64> = (0..PARAMETERS)
            .map(|i| {
                (loss(&moved(&theta, i, step), &inputs, &start)
                    - loss(&moved(&theta, i, -step), &inputs, &start))
                    / (2.0 * step)
            })
            .collect();
        let by_input: Vec<f64> = (0..samples * PARAMETERS)
            .map(|i| {
                (loss(&theta, &moved(&inputs, i, step), &start)
                    - loss(&theta, &moved(&inputs, i, -step), &start))
                    / (2.0 * step)
            })
            .collect();
        close("by theta", &got.theta.to_vec::<f32>().map_err(say)?, &by_theta, &[tolerance; PARAMETERS])?;
        close(
            "by input",
            &got.inputs.to_vec::<f32>().map_err(say)?,
            &by_input,
            &vec![tolerance; by_input.len()],
        )?;
        // Linear in ρ(0): the derivative along a random Hermitian direction.
        let direction: Vec<Matrix> = (0..samples).map(|_| random_rho(n, random)).collect();
        let along = |by: f64| -> Vec<Matrix> {
            let add = |(rho, d): (&Matrix, &Matrix)| rho.iter().zip(d).map(|(x, d)| x + d * by).collect();
            start.iter().zip(&direction).map(add).collect()
        };
        let want = (loss(&theta, &inputs, &along(0.5)) - loss(&theta, &inputs, &along(-0.5))) / 1.0;
        let gradient = pairs(&got.initial.to_vec().map_err(say)?);
        let flat = oracle::interleaved(&direction.concat());
        let inner: f64 = flat.iter().zip(&gradient).map(|(d, &g)| d * f64::from(g)).sum();
        if (inner - want).abs() <= tolerance {
            Ok(())
        } else {
            Err(format!("by ρ(0): {inner:e}, expected {want:e}"))
        }
    })
}

pub fn bad_channels_are_typed_errors(device: &TestDevice) -> Result<(), String> {
    let argument = |what: &str, result: gatewarp::Result<()>| match result {
        Err(Error::InvalidArgument { .. }) => Ok(()),
        other => Err(format!("{what}: expected InvalidArgument, got {other:?}")),
    };
    let identity = vec![C::ONE, C::ZERO, C::ZERO, C::ONE];
    let half: Vec<C> = identity.iter().map(|x| x * 0.5).collect();
    for (what, operators) in [
        ("no operators", vec![]),
        ("too little", vec![half.clone()]),
        ("too much", vec![identity.clone(), half]),
        ("wrong size", vec![vec![C::ONE; 3]]),
        ("NaN", vec![vec![C::new(f64::NAN, 0.0); 4]]),
    ] {
        argument(what, KrausChannel::new(1, &operators).map(drop))?;
    }
    argument("no qubits", KrausChannel::new(0, &[]).map(drop))?;
    argument("too many qubits", KrausChannel::depolarizing(9, 0.1).map(drop))?;
    for p in [-0.1, 1.1, f64::NAN] {
        argument("p", KrausChannel::depolarizing(1, p).map(drop))?;
        argument("p", KrausChannel::readout_error(0.1, p).map(drop))?;
        argument("p", KrausChannel::amplitude_damping(p).map(drop))?;
    }
    for p in [0.0, 0.3, 1.0] {
        // Every named channel completes at its ends too.
        for channel in [
            KrausChannel::bit_flip(p),
            KrausChannel::phase_flip(p),
            KrausChannel::bit_phase_flip(p),
            KrausChannel::amplitude_damping(p),
            KrausChannel::phase_damping(p),
            KrausChannel::readout_error(p, 1.0 - p),
            KrausChannel::depolarizing(2, p),
        ] {
            channel.map_err(say)?;
        }
    }
    let mut c = DensityCircuit::new(2).map_err(say)?;
    let flip = KrausChannel::bit_flip(0.5).map_err(say)?;
    argument("no qubits", DensityCircuit::new(0).map(drop))?;
    argument("too many qubits", DensityCircuit::new(16).map(drop))?;
    argument("target", c.channel(&flip, &[2]).map(drop))?;
    argument("targets", c.channel(&flip, &[0, 1]).map(drop))?;
    argument("twice", c.channel(&KrausChannel::depolarizing(2, 0.1).map_err(say)?, &[1, 1]).map(drop))?;
    let device = device.handle(0);
    let program = c.compile().map_err(say)?;
    argument(
        "observable",
        program.expectations(&Batch::new(device, 1), &[PauliSum::z(2).map_err(say)?]).map(drop),
    )?;
    let wrong = Tensor::from_slice(device, &[Complex32::ONE; 16], &[1, 16]).map_err(say)?;
    match program.run(&Batch::new(device, 1).initial(&wrong)) {
        Err(Error::Shape { .. }) => {}
        other => return Err(format!("a vector for a matrix: {other:?}")),
    }
    let oblong = Tensor::from_slice(device, &[Complex32::ONE; 8], &[1, 2, 4]).map_err(say)?;
    match DensityBatch::new(&oblong.view()) {
        Err(Error::Shape { .. }) => {}
        other => return Err(format!("an oblong matrix: {other:?}")),
    }
    // A detector that reads 1 for 0 in 30 of 100 cases.
    let mut c = DensityCircuit::new(1).map_err(say)?;
    c.channel(&KrausChannel::readout_error(0.3, 0.1).map_err(say)?, &[0]).map_err(say)?;
    let p = c.compile().map_err(say)?.probabilities(&Batch::new(device, 1)).map_err(say)?;
    close("readout", &p.to_vec::<f32>().map_err(say)?, &[0.7, 0.3], &[1e-6, 1e-6])?;
    Ok(())
}
