//! Readout of states in memory, against loops in f64.

use crate::readout::{expected, random_sums, weight};
use crate::states::{pairs, say};
use crate::support::compare::{close, close_norm, same_bits};
use crate::support::devices::TestDevice;
use crate::support::oracle_statevec as oracle;
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use gatewarp::statevec::readout;
use gatewarp::{Complex32, Complex64 as C, Device, Error, Layout, Tensor};
use proptest::prelude::*;

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1u64 << 24) as f64;

/// A sum of products |terms| adds up to `terms`: pairwise sums of at most 2^16 terms a level, each rounding once.
fn bound(terms: f64) -> f64 {
    24.0 * U * terms + f64::from(f32::MIN_POSITIVE)
}

/// Random states, normalised on average, as the device and as the oracle have them.
fn random_states(rows: usize, n: usize, random: &mut Random) -> (Vec<Complex32>, Vec<Vec<C>>) {
    let scale = (0.5 * (1u64 << n) as f64).sqrt().recip() as f32;
    let values: Vec<Complex32> =
        (0..rows << n).map(|_| Complex32::new(random.signed() * scale, random.signed() * scale)).collect();
    let wide =
        values.chunks(1 << n).map(|row| row.iter().map(|a| C::new(a.re.into(), a.im.into())).collect());
    let wide: Vec<Vec<C>> = wide.collect();
    (values, wide)
}

/// The values in rows with NaN between them, behind a view that starts anywhere.
struct Padded {
    memory: Tensor,
    layout: Layout,
}

impl Padded {
    fn new(
        device: &Device,
        values: &[Complex32],
        shape: [usize; 2],
        random: &mut Random,
    ) -> Result<Self, String> {
        let (first, step) = (random.below(5), shape[1] + random.below(4));
        let mut memory = vec![Complex32::new(f32::NAN, f32::NAN); first + shape[0] * step + 3];
        for (row, values) in values.chunks(shape[1]).enumerate() {
            memory[first + row * step..][..shape[1]].copy_from_slice(values);
        }
        let layout = Layout::new(&shape, &[step, 1], first).map_err(say)?;
        Ok(Self { memory: Tensor::from_slice(device, &memory, &[memory.len()]).map_err(say)?, layout })
    }

    fn view(&self) -> gatewarp::TensorRef<'_> {
        self.memory.view().with_layout(self.layout).expect("inside its memory")
    }
}

fn inner(a: &[C], b: &[C]) -> C {
    a.iter().zip(b).map(|(a, b)| a.conj() * b).sum()
}

fn sizes(a: &[C], b: &[C]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a.norm() * b.norm()).sum()
}

/// The outcome that basis state `x` gives on the listed qubits.
fn outcome(x: usize, qubits: &[usize]) -> usize {
    qubits.iter().enumerate().map(|(i, q)| (x >> q & 1) << i).sum()
}

fn singles(values: &[C]) -> Vec<f64> {
    oracle::interleaved(values)
}

pub fn marginals_are_sums_of_probabilities(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), prop_oneof![4 => 1usize..=9, 1 => 10usize..=15], 0usize..=5);
    check("marginals_are_sums_of_probabilities", device, CASES, &strategy, |device, &(seed, n, samples)| {
        let random = &mut Random::new(seed, 30);
        let samples = if n > 9 { samples.min(2) } else { samples };
        let (values, wide) = random_states(samples, n, random);
        let states = Padded::new(device, &values, [samples, 1 << n], random)?;
        let order = random.permutation(n);
        for qubits in [&order[..random.below(n + 1)], &order[..], &(0..n).collect::<Vec<_>>()[..]] {
            let got = readout::marginals(&states.view(), qubits).map_err(say)?;
            if got.shape() != [samples, 1 << qubits.len()] {
                return Err(format!("shape {:?}", got.shape()));
            }
            let mut want = vec![0.0; samples << qubits.len()];
            for (sample, state) in wide.iter().enumerate() {
                for (x, a) in state.iter().enumerate() {
                    want[(sample << qubits.len()) + outcome(x, qubits)] += a.norm_sqr();
                }
            }
            let tolerance: Vec<f64> = want.iter().map(|&p| bound(p)).collect();
            close(&format!("{qubits:?} of {n}"), &got.to_vec::<f32>().map_err(say)?, &want, &tolerance)?;
        }
        let all = readout::probabilities(&states.view()).map_err(say)?.to_vec::<f32>().map_err(say)?;
        let want: Vec<f64> = wide.iter().flatten().map(|a| a.norm_sqr()).collect();
        close("probabilities", &all, &want, &want.iter().map(|&p| bound(p)).collect::<Vec<_>>()).map(drop)
    })
}

pub fn reduced_density_matrices_are_partial_traces(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), prop_oneof![6 => 1usize..=9, 1 => 10usize..=15], 0usize..=6, 1usize..=3);
    check("reduced_density_matrices_are_partial_traces", device, CASES, &strategy, |device, case| {
        let &(seed, n, kept, samples) = case;
        let random = &mut Random::new(seed, 31);
        let (kept, samples) = if n > 9 { (kept.min(3), 1) } else { (kept.min(n), samples) };
        let (values, wide) = random_states(samples, n, random);
        let states = Padded::new(device, &values, [samples, 1 << n], random)?;
        let qubits = &random.permutation(n)[..kept];
        let got = readout::reduced_density_matrix(&states.view(), qubits).map_err(say)?;
        let side = 1usize << kept;
        if got.shape() != [samples, side, side] {
            return Err(format!("shape {:?}", got.shape()));
        }
        let got = pairs(&got.to_vec().map_err(say)?);
        let mask: usize = qubits.iter().map(|q| 1usize << q).sum();
        let (mut want, mut terms) = (vec![C::ZERO; samples * side * side], vec![0.0; samples * side * side]);
        for (sample, state) in wide.iter().enumerate() {
            for (x, a) in state.iter().enumerate() {
                // Column states differ from x in the kept qubits only.
                for j in 0..side {
                    let y =
                        x & !mask | qubits.iter().enumerate().map(|(i, q)| (j >> i & 1) << q).sum::<usize>();
                    let at = (sample * side + outcome(x, qubits)) * side + j;
                    want[at] += a * state[y].conj();
                    terms[at] += a.norm() * state[y].norm();
                }
            }
        }
        let tolerance: Vec<f64> = terms.iter().flat_map(|&terms| [bound(terms); 2]).collect();
        close(&format!("{qubits:?} of {n}"), &got, &singles(&want), &tolerance).map(drop)
    })
}

pub fn overlaps_and_fidelities_are_inner_products(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), prop_oneof![6 => 1usize..=9, 1 => 10usize..=16], 0usize..=6, 0u8..3);
    check("overlaps_and_fidelities_are_inner_products", device, CASES, &strategy, |device, case| {
        let &(seed, n, samples, broadcast) = case;
        let random = &mut Random::new(seed, 32);
        let samples = if n > 9 { samples.min(2) } else { samples };
        let (a_rows, b_rows) =
            (if broadcast == 1 { 1 } else { samples }, if broadcast == 2 { 1 } else { samples });
        let ((a_values, a), (b_values, b)) =
            (random_states(a_rows, n, random), random_states(b_rows, n, random));
        let a_states = Padded::new(device, &a_values, [a_rows, 1 << n], random)?;
        let b_states = Padded::new(device, &b_values, [b_rows, 1 << n], random)?;
        let row =
            |states: &[Vec<C>], sample: usize| states[if states.len() == 1 { 0 } else { sample }].clone();
        let want: Vec<C> = (0..samples).map(|s| inner(&row(&a, s), &row(&b, s))).collect();
        let terms: Vec<f64> = (0..samples).map(|s| sizes(&row(&a, s), &row(&b, s))).collect();
        let got = readout::overlaps(&a_states.view(), &b_states.view()).map_err(say)?;
        let tolerance: Vec<f64> = terms.iter().flat_map(|&terms| [bound(terms); 2]).collect();
        close("overlap", &pairs(&got.to_vec().map_err(say)?), &singles(&want), &tolerance)?;
        let got = readout::fidelity(&a_states.view(), &b_states.view()).map_err(say)?;
        let fidelities: Vec<f64> = want.iter().map(C::norm_sqr).collect();
        // |o|² moves by 2|o| times what o does.
        let tolerance: Vec<f64> = want
            .iter()
            .zip(&terms)
            .map(|(o, &terms)| (3.0 * o.norm() + bound(terms)) * bound(terms))
            .collect();
        close("fidelity", &got.to_vec::<f32>().map_err(say)?, &fidelities, &tolerance).map(drop)
    })
}

/// The gradients are the derivatives: L(a + εd) − L(a − εd) for random directions, in f64.
pub fn overlap_gradients_are_derivatives(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=8, 1usize..=4);
    check("overlap_gradients_are_derivatives", device, CASES, &strategy, |device, &(seed, n, samples)| {
        let random = &mut Random::new(seed, 33);
        let ((a_values, a), (b_values, b)) =
            (random_states(samples, n, random), random_states(samples, n, random));
        let a_states = Padded::new(device, &a_values, [samples, 1 << n], random)?;
        let b_states = Padded::new(device, &b_values, [samples, 1 << n], random)?;
        let complex: Vec<Complex32> =
            (0..samples).map(|_| Complex32::new(random.signed(), random.signed())).collect();
        let real = random.values(samples, 1.0);
        let grads = Tensor::from_slice(device, &complex, &[samples]).map_err(say)?;
        let got =
            readout::overlaps_backward(&a_states.view(), &b_states.view(), &grads.view()).map_err(say)?;
        let grads = Tensor::from_slice(device, &real, &[samples]).map_err(say)?;
        let got_fidelity =
            readout::fidelity_backward(&a_states.view(), &b_states.view(), &grads.view()).map_err(say)?;
        let loss = |a: &[Vec<C>], b: &[Vec<C>], fidelity: bool| -> f64 {
            let one = |s: usize| {
                let o = inner(&a[s], &b[s]);
                let g = complex[s];
                if fidelity {
                    f64::from(real[s]) * o.norm_sqr()
                } else {
                    f64::from(g.re) * o.re + f64::from(g.im) * o.im
                }
            };
            (0..samples).map(one).sum()
        };
        for (fidelity, (da, db)) in [(false, got), (true, got_fidelity)] {
            for (which, gradient) in [(0, da), (1, db)] {
                let gradient = pairs(&gradient.to_vec().map_err(say)?);
                let direction: Vec<Vec<C>> = random_states(samples, n, random).1;
                let moved = |step: f64| {
                    let (mut a, mut b) = (a.clone(), b.clone());
                    let rows = if which == 0 { &mut a } else { &mut b };
                    for (row, d) in rows.iter_mut().zip(&direction) {
                        row.iter_mut().zip(d).for_each(|(x, d)| *x += d * step);
                    }
                    loss(&a, &b, fidelity)
                };
                // Both losses are at most quadratic: central differences are exact.
                let want = (moved(0.5) - moved(-0.5)) / 1.0;
                let flat = singles(&direction.concat());
                let got: f64 = flat.iter().zip(&gradient).map(|(d, &g)| d * f64::from(g)).sum();
                let size: f64 = flat.iter().zip(&gradient).map(|(d, &g)| (d * f64::from(g)).abs()).sum();
                if !((got - want).abs() <= 1e-5 * (size + 1e-3)) {
                    return Err(format!("fidelity {fidelity}, state {which}: {got:e}, expected {want:e}"));
                }
            }
        }
        Ok(())
    })
}

pub fn gram_matrices_are_loops_of_overlaps(device: &TestDevice) -> Result<(), String> {
    let side = prop_oneof![0usize..=3, 15usize..=18, Just(33usize)];
    let strategy =
        (any::<u64>(), prop_oneof![6 => 1usize..=8, 1 => 9usize..=14], 0usize..=2, side.clone(), side);
    check("gram_matrices_are_loops_of_overlaps", device, CASES, &strategy, |device, case| {
        let &(seed, n, samples, rows, columns) = case;
        let random = &mut Random::new(seed, 34);
        let (rows, columns) = if n > 8 { (rows.min(5), columns.min(18)) } else { (rows, columns) };
        // Zero samples stands for the form without that dimension.
        let count = samples.max(1);
        let ((a_values, a), (b_values, b)) =
            (random_states(count * rows, n, random), random_states(count * columns, n, random));
        let a_states = Padded::new(device, &a_values, [count * rows, 1 << n], random)?;
        let b_states = Padded::new(device, &b_values, [count * columns, 1 << n], random)?;
        let shaped = |states: &Padded, rows: usize| -> Result<Layout, String> {
            let step = states.layout.strides()[0];
            let layout = if samples == 0 {
                Layout::new(&[rows, 1 << n], &[step, 1], states.layout.offset())
            } else {
                Layout::new(&[count, rows, 1 << n], &[rows * step, step, 1], states.layout.offset())
            };
            layout.map_err(say)
        };
        let a_view = a_states.memory.view().with_layout(shaped(&a_states, rows)?).map_err(say)?;
        let b_view = b_states.memory.view().with_layout(shaped(&b_states, columns)?).map_err(say)?;
        let got = readout::gram(&a_view, &b_view).map_err(say)?;
        if got.shape()[got.shape().len() - 2..] != [rows, columns] {
            return Err(format!("shape {:?}", got.shape()));
        }
        let (mut want, mut tolerance) = (Vec::new(), Vec::new());
        for s in 0..count {
            for i in 0..rows {
                for j in 0..columns {
                    let (a, b) = (&a[s * rows + i], &b[s * columns + j]);
                    want.push(inner(a, b));
                    tolerance.extend([bound(sizes(a, b)); 2]);
                }
            }
        }
        close("gram", &pairs(&got.to_vec().map_err(say)?), &singles(&want), &tolerance).map(drop)
    })
}

pub fn expectations_of_given_states_are_dense(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=7, 0usize..=4);
    check(
        "expectations_of_given_states_are_dense",
        device,
        CASES / 2,
        &strategy,
        |device, &(seed, n, samples)| {
            let random = &mut Random::new(seed, 35);
            let (values, wide) = random_states(samples, n, random);
            let states = Padded::new(device, &values, [samples, 1 << n], random)?;
            let (sums, strings) = random_sums(n, random);
            let got =
                readout::expectations(&states.view(), &sums).map_err(say)?.to_vec::<f32>().map_err(say)?;
            let (mut want, mut tolerance) = (Vec::new(), Vec::new());
            for state in &wide {
                let norm: f64 = state.iter().map(C::norm_sqr).sum();
                want.extend(strings.iter().map(|strings| expected(state, strings)));
                tolerance.extend(strings.iter().map(|strings| bound(norm * weight(strings))));
            }
            close("expectation", &got, &want, &tolerance).map(drop)
        },
    )
}

/// A sample's bits do not depend on what else is in the batch.
pub fn readout_does_not_see_its_batch(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=14, 2usize..=6);
    check("readout_does_not_see_its_batch", device, CASES / 2, &strategy, |device, &(seed, n, samples)| {
        let random = &mut Random::new(seed, 36);
        let (values, _) = random_states(samples, n, random);
        let at = random.below(samples);
        let all = Tensor::from_slice(device, &values, &[samples, 1 << n]).map_err(say)?;
        let alone = all.view().narrow(0, at, 1).map_err(say)?;
        let qubits = &random.permutation(n)[..random.below(n.min(6) + 1)];
        let side = 1usize << qubits.len();
        let both = [
            (readout::marginals(&all.view(), qubits), readout::marginals(&alone, qubits), side),
            (readout::fidelity(&all.view(), &all.view()), readout::fidelity(&alone, &alone), 1),
        ];
        for (all, alone, width) in both {
            let (all, alone) = (all.map_err(say)?.to_vec::<f32>(), alone.map_err(say)?.to_vec::<f32>());
            same_bits("row", &all.map_err(say)?[at * width..][..width], &alone.map_err(say)?)?;
        }
        let all = readout::reduced_density_matrix(&all.view(), qubits).map_err(say)?;
        let alone = readout::reduced_density_matrix(&alone, qubits).map_err(say)?;
        let (all, alone) = (pairs(&all.to_vec().map_err(say)?), pairs(&alone.to_vec().map_err(say)?));
        let width = 2 * side * side;
        same_bits("ρ", &all[at * width..][..width], &alone)?;
        close_norm("trace", &[alone[0]], &[alone[0].into()], 1.0).map(drop)
    })
}

pub fn bad_readout_is_a_typed_error(device: &TestDevice) -> Result<(), String> {
    let device = device.handle(0);
    let states = Tensor::from_slice(device, &[Complex32::ONE; 8], &[2, 4]).map_err(say)?;
    let three = Tensor::from_slice(device, &[Complex32::ONE; 6], &[2, 3]).map_err(say)?;
    let real = Tensor::from_slice(device, &[1.0f32; 8], &[2, 4]).map_err(say)?;
    let argument = |what: &str, result: gatewarp::Result<Tensor>| match result {
        Err(Error::InvalidArgument { .. }) => Ok(()),
        other => Err(format!("{what}: expected InvalidArgument, got {other:?}")),
    };
    let shape = |what: &str, result: gatewarp::Result<Tensor>| match result {
        Err(Error::Shape { .. }) => Ok(()),
        other => Err(format!("{what}: expected Shape, got {other:?}")),
    };
    argument("qubit out of range", readout::marginals(&states.view(), &[2]))?;
    argument("qubit twice", readout::marginals(&states.view(), &[1, 1]))?;
    argument("qubit out of range", readout::reduced_density_matrix(&states.view(), &[usize::MAX]))?;
    let eight = Tensor::from_slice(device, &[Complex32::ONE; 256], &[1, 256]).map_err(say)?;
    argument("seven qubits", readout::reduced_density_matrix(&eight.view(), &[0, 1, 2, 3, 4, 5, 6]))?;
    shape("three amplitudes", readout::probabilities(&three.view()))?;
    shape("other width", readout::overlaps(&states.view(), &eight.view()))?;
    shape("gram of other widths", readout::gram(&states.view(), &eight.view()))?;
    shape(
        "shots of three outcomes",
        readout::sample_probabilities(&real.view().narrow(1, 0, 3).map_err(say)?, 1, 0),
    )?;
    argument("gaps", readout::sample_probabilities(&real.view().narrow(1, 0, 2).map_err(say)?, 1, 0))?;
    match readout::probabilities(&real.view()) {
        Err(Error::DType { .. }) => Ok(()),
        other => Err(format!("real states: {other:?}")),
    }
}
