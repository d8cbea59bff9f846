//! Attention between quantum states, as each task sees it: eight qubits a state, 1024 shots a token.
//!
//! `cargo run --release --example quantum_attention`

use gatewarp::quantum_attention::{Mix, QuantumAttention, StateScore, Thetas};
use gatewarp::statevec::{Axis, Circuit, Parameter, PauliSum, readout};
use gatewarp::{Device, Result, Tensor};

const QUBITS: usize = 8;
const TOKENS: usize = 6;
const TASKS: usize = 3;
const SHOTS: usize = 1024;

/// Rotations by the data, then two layers of RY·RZ on every qubit and a ring of CNOTs.
fn circuit() -> Result<Circuit> {
    let mut circuit = Circuit::new(QUBITS)?;
    circuit.angle_encoding(Axis::Y)?;
    for layer in 0..2 {
        for q in 0..QUBITS {
            let angle = 2 * (layer * QUBITS + q);
            circuit.ry(q, Parameter::Theta(angle))?.rz(q, Parameter::Theta(angle + 1))?;
        }
        for q in 0..QUBITS {
            circuit.cx(q, (q + 1) % QUBITS)?;
        }
    }
    Ok(circuit)
}

/// Numbers that look random, the same in every run.
fn wave(n: usize, step: f32, reach: f32) -> Vec<f32> {
    (0..n).map(|i| reach * ((i + 1) as f32 * step).sin()).collect()
}

fn main() -> Result<()> {
    let device = Device::best()?;
    let circuit = circuit()?;
    let observables = (0..QUBITS).map(PauliSum::z).collect::<Result<Vec<_>>>()?;
    let layer = QuantumAttention::new([&circuit; 3], StateScore::Fidelity, Mix::Values, observables)?
        .with_tau(12.0)?;

    let angles = circuit.thetas();
    let theta = |step| Tensor::from_slice(&device, &wave(TASKS * angles, step, 1.2), &[TASKS, angles]);
    let (query, key, value) = (theta(0.71)?, theta(1.13)?, theta(2.39)?);
    let thetas = Thetas { query: query.view(), key: key.view(), value: value.view() };
    let x = Tensor::from_slice(&device, &wave(TOKENS * QUBITS, 0.37, 1.5), &[1, TOKENS, QUBITS])?;
    println!("{}: {TOKENS} tokens as states of {QUBITS} qubits, {TASKS} tasks, {SHOTS} shots", device.name());

    for task in 0..TASKS {
        let out = layer.forward_task(&x.view(), task, &thetas)?;
        let ids = Tensor::from_slice(&Device::cpu(), &[task as i64], &[1])?;
        let shots = layer.sample(&x.view(), &ids.view(), &thetas, &out, SHOTS, task as u64)?;
        let exact = out.y.to_vec::<f32>()?;
        let estimated = layer.estimate(&shots.view())?.to_vec::<f32>()?;
        println!("\ntask {task}: ⟨Z⟩ of the first token, exact and from the shots");
        for (q, (exact, estimate)) in exact.iter().zip(&estimated).take(QUBITS).enumerate() {
            println!("  qubit {q}  {exact:+.3}  {estimate:+.3}");
        }
        let mut counts: Vec<(u32, u64)> = readout::counts(&shots.view())?[0].clone().into_iter().collect();
        counts.sort_by_key(|&(outcome, count)| (std::cmp::Reverse(count), outcome));
        println!("  most frequent outcomes of that token, of {} seen:", counts.len());
        for (outcome, count) in counts.into_iter().take(5) {
            println!("  {}  {count}", readout::bitstring(outcome, QUBITS));
        }
    }
    Ok(())
}
