//! `quantum_attention` on every device: against a dense f64 oracle, and against itself.

#[path = "support/mod.rs"]
mod support;

use gatewarp::quantum_attention::{
    Mix, QuantumAttention, QuantumAttentionGradients, QuantumAttentionOutput, StateScore, Thetas,
};
use gatewarp::statevec::{Axis, Circuit, Parameter, PauliSum};
use gatewarp::{Device, Error, Tensor};
use num_complex::Complex64 as C;
use std::process::ExitCode;
use support::devices::{Test, TestDevice, run};
use support::oracle_statevec::{self as dense, Operation, Pauli};
use support::property::check;
use support::random::Random;

use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Case {
    qubits: usize,
    batch: usize,
    length: usize,
    tasks: usize,
    score: StateScore,
    mix: Mix,
    causal: bool,
    tau: f64,
    seed: u64,
}

impl Case {
    fn features(&self) -> usize {
        self.qubits + 1
    }

    /// Angles of a circuit: an RZ and an RY a qubit.
    fn thetas(&self) -> usize {
        2 * self.qubits
    }
}

fn any_case() -> impl Strategy<Value = Case> {
    let scores = [StateScore::ComplexDot, StateScore::Fidelity, StateScore::Gaussian, StateScore::Features];
    let sizes = (1usize..=4, 1usize..=3, 1usize..=5, 1usize..=3);
    let kinds = (prop::sample::select(scores.to_vec()), any::<bool>(), any::<bool>());
    let tau = prop::sample::select(vec![0.5, 1.0, 4.0, -2.0, 10.0]);
    (sizes, kinds, tau, any::<u64>().no_shrink()).prop_map(
        |((qubits, batch, length, tasks), (score, amplitudes, causal), tau, seed)| {
            let mix = if amplitudes { Mix::Amplitudes } else { Mix::Values };
            Case { qubits, batch, length, tasks, score, mix, causal, tau, seed }
        },
    )
}

/// Rotations by the first features, an RZ and an RY a qubit by the angles, and a ring of CNOTs between.
fn circuit(qubits: usize) -> gatewarp::Result<Circuit> {
    let mut circuit = Circuit::new(qubits)?;
    circuit.angle_encoding(Axis::Y)?;
    for q in 0..qubits {
        circuit.rz(q, Parameter::Theta(q))?;
    }
    for q in 0..qubits.saturating_sub(1) {
        circuit.cx(q, q + 1)?;
    }
    for q in 0..qubits {
        circuit.ry(q, Parameter::Theta(qubits + q))?;
    }
    Ok(circuit)
}

fn state(qubits: usize, x: &[f64], theta: &[f64]) -> Vec<C> {
    let mut operations: Vec<Operation> = (0..qubits).map(|q| Operation::new(dense::ry(x[q]), &[q])).collect();
    operations.extend((0..qubits).map(|q| Operation::new(dense::rz(theta[q]), &[q])));
    operations.extend((1..qubits).map(|q| Operation::new(dense::x(), &[q]).controlled(q - 1, true)));
    operations.extend((0..qubits).map(|q| Operation::new(dense::ry(theta[qubits + q]), &[q])));
    dense::run(&operations, &dense::zero_state(qubits))
}

/// Z of qubit 0, and half an X of the last one.
fn observables(qubits: usize) -> gatewarp::Result<Vec<PauliSum>> {
    Ok(vec![PauliSum::z(0)?, PauliSum::new().plus(0.5, &[('X', qubits - 1)])?.plus(1.0, &[('Z', 0)])?])
}

fn measured(qubits: usize, state: &[C]) -> [f64; 2] {
    let z = dense::pauli_expectation(state, &[(0, Pauli::Z)]);
    [z, z + 0.5 * dense::pauli_expectation(state, &[(qubits - 1, Pauli::X)])]
}

/// Everything trainable and the data, in f64.
#[derive(Clone)]
struct Values {
    x: Vec<f64>,
    /// Of query, key and value.
    thetas: [Vec<f64>; 3],
    tau: f64,
    tasks: Vec<usize>,
}

fn values(case: &Case) -> Values {
    let mut random = Random::new(case.seed, 1);
    let mut numbers = |n: usize| -> Vec<f64> { random.values(n, 3.0).into_iter().map(f64::from).collect() };
    let x = numbers(case.batch * case.length * case.features());
    let thetas = [(); 3].map(|()| numbers(case.tasks * case.thetas()));
    let tasks = (0..case.batch).map(|_| random.below(case.tasks)).collect();
    Values { x, thetas, tau: case.tau, tasks }
}

/// y as the formulas say.
fn oracle(case: &Case, at: &Values) -> Vec<f64> {
    let n = case.qubits;
    let mut y = Vec::new();
    for b in 0..case.batch {
        let states = |role: usize| -> Vec<Vec<C>> {
            let theta = &at.thetas[role][at.tasks[b] * case.thetas()..][..case.thetas()];
            let token = |s: usize| &at.x[(b * case.length + s) * case.features()..][..case.features()];
            (0..case.length).map(|s| state(n, token(s), theta)).collect()
        };
        let (queries, keys, values) = (states(0), states(1), states(2));
        let z = |state: &[C]| -> Vec<f64> {
            (0..n).map(|q| dense::pauli_expectation(state, &[(q, Pauli::Z)])).collect()
        };
        let score = |q: &[C], k: &[C]| {
            let overlap: C = q.iter().zip(k).map(|(q, k)| q.conj() * k).sum();
            let features = || z(q).into_iter().zip(z(k));
            match case.score {
                StateScore::ComplexDot => overlap.re,
                StateScore::Fidelity => overlap.norm_sqr(),
                StateScore::Gaussian => -features().map(|(a, b)| (a - b).powi(2)).sum::<f64>(),
                _ => features().map(|(a, b)| a * b).sum(),
            }
        };
        for i in 0..case.length {
            let seen = if case.causal { i + 1 } else { case.length };
            let weights: Vec<f64> =
                (0..seen).map(|j| (at.tau * score(&queries[i], &keys[j])).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut mixed = vec![C::ZERO; 1 << n];
            let mut means = [0.0; 2];
            for (j, weight) in weights.iter().enumerate() {
                mixed.iter_mut().zip(&values[j]).for_each(|(m, v)| *m += v * (weight / total));
                let one = measured(n, &values[j]);
                (0..2).for_each(|o| means[o] += weight / total * one[o]);
            }
            if case.mix == Mix::Amplitudes {
                let norm = mixed.iter().map(C::norm_sqr).sum::<f64>().sqrt();
                mixed.iter_mut().for_each(|m| *m /= norm);
                means = measured(n, &mixed);
            }
            y.extend(means);
        }
    }
    y
}

/// A layer and its inputs on a device.
struct Scene {
    layer: QuantumAttention,
    x: Tensor,
    tasks: Tensor,
    thetas: [Tensor; 3],
}

fn scene(device: &Device, case: &Case, at: &Values) -> gatewarp::Result<Scene> {
    let circuit = circuit(case.qubits)?;
    let layer = QuantumAttention::new([&circuit; 3], case.score, case.mix, observables(case.qubits)?)?;
    let single = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<_>>();
    let theta =
        |role: usize| Tensor::from_slice(device, &single(&at.thetas[role]), &[case.tasks, case.thetas()]);
    let ids: Vec<i32> = at.tasks.iter().map(|&task| task as i32).collect();
    Ok(Scene {
        layer: layer.with_tau(at.tau)?.causal(case.causal),
        x: Tensor::from_slice(device, &single(&at.x), &[case.batch, case.length, case.features()])?,
        tasks: Tensor::from_slice(&Device::cpu(), &ids, &[case.batch])?,
        thetas: [theta(0)?, theta(1)?, theta(2)?],
    })
}

impl Scene {
    fn thetas(&self) -> Thetas<'_> {
        let [query, key, value] = &self.thetas;
        Thetas { query: query.view(), key: key.view(), value: value.view() }
    }

    fn forward(&self) -> gatewarp::Result<QuantumAttentionOutput> {
        self.layer.forward(&self.x.view(), &self.tasks.view(), &self.thetas())
    }

    fn backward(
        &self,
        out: &QuantumAttentionOutput,
        grad: &Tensor,
    ) -> gatewarp::Result<QuantumAttentionGradients> {
        self.layer.backward(&self.x.view(), &self.tasks.view(), &self.thetas(), out, &grad.view())
    }
}

fn close(what: &str, got: &[f32], want: &[f64], allowed: f64) -> Result<(), String> {
    support::compare::close(what, got, want, &vec![allowed; want.len()]).map(|_| ())
}

/// States within 2e-7·√gates each, attention within 16u of scores of size τ; a mixture of small norm enlarges both.
const VALUE_TOLERANCE: f64 = 4e-5;

/// Mixtures whose norm is this small are ill-conditioned, and left out.
fn is_well_conditioned(case: &Case, at: &Values) -> bool {
    if case.mix != Mix::Amplitudes {
        return true;
    }
    // The output changes by less than a tenth of the step's size times 100 when an input moves.
    let before = oracle(case, at);
    let mut moved = at.clone();
    moved.x.iter_mut().for_each(|x| *x += 1e-4);
    oracle(case, &moved).iter().zip(&before).all(|(a, b)| (a - b).abs() < 3e-3)
}

fn the_formula(device: &TestDevice) -> Result<(), String> {
    check("quantum_attention_is_the_formula", device, 256, &any_case(), |handle, case| {
        let at = values(case);
        if !is_well_conditioned(case, &at) {
            return Ok(());
        }
        let scene = scene(handle, case, &at).map_err(|error| error.to_string())?;
        let out = scene.forward().map_err(|error| error.to_string())?;
        let y = out.y.to_vec::<f32>().map_err(|error| error.to_string())?;
        close("y", &y, &oracle(case, &at), VALUE_TOLERANCE * (1.0 + case.tau.abs()))
    })
}

fn gradients_are_central_differences(device: &TestDevice) -> Result<(), String> {
    check("quantum_attention_gradients", device, 64, &any_case(), |handle, case| {
        let at = values(case);
        if !is_well_conditioned(case, &at) {
            return Ok(());
        }
        let mut random = Random::new(case.seed, 2);
        let grad_y = random.values(case.batch * case.length * 2, 1.0);
        let scene = scene(handle, case, &at).map_err(|error| error.to_string())?;
        let out = scene.forward().map_err(|error| error.to_string())?;
        let grad =
            Tensor::from_slice(handle, &grad_y, &[case.batch, case.length, 2]).map_err(|e| e.to_string())?;
        let got = scene.backward(&out, &grad).map_err(|error| error.to_string())?;
        let loss = |at: &Values| -> f64 {
            oracle(case, at).iter().zip(&grad_y).map(|(y, g)| y * f64::from(*g)).sum()
        };
        let step = 1e-5;
        let difference = |change: &dyn Fn(&mut Values, f64)| {
            let moved = |by: f64| {
                let mut moved = at.clone();
                change(&mut moved, by);
                loss(&moved)
            };
            (moved(step) - moved(-step)) / (2.0 * step)
        };
        let allowed = 40.0 * VALUE_TOLERANCE * (1.0 + case.tau.abs()) * case.length as f64;
        let compare = |what: &str, got: &Tensor, want: Vec<f64>| {
            let got = got.to_vec::<f32>().map_err(|error| error.to_string())?;
            close(what, &got, &want, allowed)
        };
        let x = (0..at.x.len()).map(|i| difference(&move |at, by| at.x[i] += by)).collect();
        compare("x", &got.x, x)?;
        for (role, got) in [&got.theta_query, &got.theta_key, &got.theta_value].into_iter().enumerate() {
            let want = (0..at.thetas[role].len())
                .map(|i| difference(&move |at: &mut Values, by| at.thetas[role][i] += by))
                .collect();
            compare(["theta_query", "theta_key", "theta_value"][role], got, want)?;
        }
        compare("tau", &got.tau, vec![difference(&|at, by| at.tau += by)])
    })
}

fn a_case(mix: Mix, score: StateScore) -> Case {
    Case { qubits: 3, batch: 3, length: 4, tasks: 3, score, mix, causal: false, tau: 3.0, seed: 17 }
}

/// A batch of mixed tasks is each sequence alone, and every task is a call of its own: bit for bit.
fn a_mixed_batch_is_its_sequences(device: &TestDevice) -> Result<(), String> {
    let handle = device.handle(0);
    let text = |error: Error| error.to_string();
    for (mix, score) in [(Mix::Values, StateScore::Fidelity), (Mix::Amplitudes, StateScore::ComplexDot)] {
        let case = a_case(mix, score);
        let at = values(&case);
        let all = scene(handle, &case, &at).map_err(text)?;
        let out = all.forward().map_err(text)?;
        let y = out.y.to_vec::<f32>().map_err(text)?;
        for b in 0..case.batch {
            let width = case.length * case.features();
            let one = Case { batch: 1, ..case.clone() };
            let part =
                Values { x: at.x[b * width..][..width].to_vec(), tasks: vec![at.tasks[b]], ..at.clone() };
            let alone = scene(handle, &one, &part).map_err(text)?;
            let thetas = alone.thetas();
            let got = alone.layer.forward_task(&alone.x.view(), at.tasks[b], &thetas).map_err(text)?;
            let want = &y[b * case.length * 2..][..case.length * 2];
            support::compare::same_bits("y", &got.y.to_vec::<f32>().map_err(text)?, want)?;
            let every = alone.layer.forward_all_tasks(&alone.x.view(), case.tasks, &thetas).map_err(text)?;
            support::compare::same_bits("y", &every[at.tasks[b]].y.to_vec::<f32>().map_err(text)?, want)?;
        }
    }
    Ok(())
}

/// Shots follow the distribution, their means converge on the expectations as 1/√N, and a seed gives the same shots again.
fn shots_follow_the_distribution(device: &TestDevice) -> Result<(), String> {
    let handle = device.handle(0);
    let text = |error: Error| error.to_string();
    for mix in [Mix::Values, Mix::Amplitudes] {
        let case = a_case(mix, StateScore::Fidelity);
        let at = values(&case);
        let mut scene = scene(handle, &case, &at).map_err(text)?;
        let circuit = circuit(case.qubits).map_err(text)?;
        let z = vec![PauliSum::z(0).map_err(text)?];
        scene.layer = QuantumAttention::new([&circuit; 3], case.score, mix, z).map_err(text)?;
        let out = scene.forward().map_err(text)?;
        let (x, tasks, thetas) = (scene.x.view(), scene.tasks.view(), scene.thetas());
        let draw = |shots: usize, seed: u64| scene.layer.sample(&x, &tasks, &thetas, &out, shots, seed);
        let exact = out.y.to_vec::<f32>().map_err(text)?;
        for count in [1usize << 10, 1 << 14] {
            let shots = draw(count, 5).map_err(text)?;
            let estimates =
                scene.layer.estimate(&shots.view()).map_err(text)?.to_vec::<f32>().map_err(text)?;
            for (estimate, exact) in estimates.iter().zip(&exact) {
                // Five standard deviations of a mean of ±1.
                let allowed = 5.0 / (count as f32).sqrt();
                if !((estimate - exact).abs() <= allowed) {
                    return Err(format!("{count} shots give {estimate}, expected {exact}"));
                }
            }
            let again = draw(count, 5).map_err(text)?.to_vec::<u32>().map_err(text)?;
            if again != shots.to_vec::<u32>().map_err(text)? {
                return Err("the same seed gave other shots".into());
            }
        }
        let distribution = scene.layer.distribution(&x, &tasks, &thetas, &out).map_err(text)?;
        for row in distribution.to_vec::<f32>().map_err(text)?.chunks(1 << case.qubits) {
            let sum: f32 = row.iter().sum();
            if !((sum - 1.0).abs() <= 1e-5) {
                return Err(format!("a distribution sums to {sum}"));
            }
        }
    }
    Ok(())
}

/// Each mistake is named.
fn mistakes_are_named(device: &TestDevice) -> Result<(), String> {
    let handle = device.handle(0);
    let text = |error: Error| error.to_string();
    let case = a_case(Mix::Values, StateScore::Fidelity);
    let at = values(&case);
    let scene = scene(handle, &case, &at).map_err(text)?;
    let (x, thetas) = (scene.x.view(), scene.thetas());
    let refused = |what: &str, result: gatewarp::Result<QuantumAttentionOutput>, word: &str| match result {
        Err(error) if error.to_string().contains(word) => Ok(()),
        Err(error) => Err(format!("{what}: {error}")),
        Ok(_) => Err(format!("{what} was taken")),
    };
    let ids = |ids: &[i32]| Tensor::from_slice(&Device::cpu(), ids, &[ids.len()]);
    let bad = ids(&[0, 1, 3]).map_err(text)?;
    refused("a task too many", scene.layer.forward(&x, &bad.view(), &thetas), "task id 3")?;
    let short = ids(&[0, 1]).map_err(text)?;
    refused("two ids for three sequences", scene.layer.forward(&x, &short.view(), &thetas), "`tasks`")?;
    let narrow = Tensor::from_slice(handle, &[0.0f32; 24], &[3, 4, 2]).map_err(text)?;
    refused("two features", scene.layer.forward(&narrow.view(), &scene.tasks.view(), &thetas), "`x`")?;
    let wide = Tensor::from_slice(handle, &[0.0f32; 21], &[3, 7]).map_err(text)?;
    let wrong = Thetas { key: wide.view(), ..thetas.clone() };
    refused("an angle too many", scene.layer.forward(&x, &scene.tasks.view(), &wrong), "theta")?;
    let (two, three) = (circuit(2).map_err(text)?, circuit(3).map_err(text)?);
    let uneven = QuantumAttention::new([&two, &three, &two], case.score, case.mix, Vec::new());
    let far = QuantumAttention::new([&two; 3], case.score, case.mix, vec![PauliSum::z(2).map_err(text)?]);
    match (
        uneven,
        far,
        QuantumAttention::new([&two; 3], case.score, case.mix, Vec::new()).and_then(|l| l.with_tau(f64::NAN)),
    ) {
        (Err(_), Err(_), Err(_)) => Ok(()),
        _ => Err("a layer that cannot be was made".into()),
    }
}

static TESTS: &[Test] = &[
    Test::new("the_formula", the_formula),
    Test::new("gradients_are_central_differences", gradients_are_central_differences),
    Test::new("a_mixed_batch_is_its_sequences", a_mixed_batch_is_its_sequences),
    Test::new("shots_follow_the_distribution", shots_follow_the_distribution),
    Test::new("mistakes_are_named", mistakes_are_named),
];

fn main() -> ExitCode {
    run(TESTS).exit_code()
}
