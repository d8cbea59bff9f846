//! State vectors: the circuits every peer is timed on, and random circuits of dense matrices.
//!
//! Hardware-efficient circuit: four layers of RY·RZ on every qubit and a ring of CNOTs, an angle for every sample, gate and
//! qubit; ⟨Z⟩ of every qubit. Each output is checked before it is timed: rotations by 0 and π give known signs.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gatewarp::statevec::{Batch, Circuit, Parameter, PauliSum, Program};
use gatewarp::{Complex64, Device, Tensor};
use std::hint::black_box;

const LAYERS: usize = 4;

fn hardware_efficient(qubits: usize) -> gatewarp::Result<Program> {
    let mut circuit = Circuit::new(qubits)?;
    for layer in 0..LAYERS {
        for q in 0..qubits {
            circuit.ry(q, Parameter::Input(layer * qubits + q))?;
            circuit.rz(q, Parameter::Input((LAYERS + layer) * qubits + q))?;
        }
        for q in 0..qubits {
            circuit.cx(q, (q + 1) % qubits)?;
        }
    }
    circuit.compile()
}

/// Numbers in (−π, π) from a fixed sequence.
fn angles(count: usize) -> Vec<f32> {
    let mut word = 1u64;
    let mut next = || {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((word >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * std::f32::consts::TAU
    };
    (0..count).map(|_| next()).collect()
}

fn every_z(qubits: usize) -> gatewarp::Result<Vec<PauliSum>> {
    (0..qubits).map(PauliSum::z).collect()
}

/// With all angles 0 except RY(π) on qubit 0 in the first layer, the CNOT rings permute one basis state.
fn check(program: &Program, device: &Device) -> gatewarp::Result<()> {
    let qubits = program.qubits();
    let mut inputs = vec![0.0f32; program.inputs()];
    inputs[0] = std::f32::consts::PI;
    let inputs = Tensor::from_slice(device, &inputs, &[1, program.inputs()])?;
    let got =
        program.expectations(&Batch::new(device, 1).inputs(&inputs), &every_z(qubits)?)?.to_vec::<f32>()?;
    let mut bits = 1usize;
    for _ in 0..LAYERS {
        for q in 0..qubits {
            bits ^= (bits >> q & 1) << ((q + 1) % qubits);
        }
    }
    for (q, &z) in got.iter().enumerate() {
        let want = if bits >> q & 1 == 1 { -1.0 } else { 1.0 };
        assert!((z - want).abs() < 1e-5, "⟨Z{q}⟩ is {z}, expected {want}");
    }
    Ok(())
}

fn forward(c: &mut Criterion) -> gatewarp::Result<()> {
    let device = Device::best()?;
    let mut group = c.benchmark_group("statevec_expectations");
    for (qubits, samples) in [(4, 256), (8, 256), (12, 256), (22, 1)] {
        let program = hardware_efficient(qubits)?;
        check(&program, &device)?;
        let inputs =
            Tensor::from_slice(&device, &angles(samples * program.inputs()), &[samples, program.inputs()])?;
        let (batch, sums) = (Batch::new(&device, samples).inputs(&inputs), every_z(qubits)?);
        // A rotation and a phase on every qubit of every layer: ten operations of two per pair.
        group.throughput(Throughput::Elements(((LAYERS * qubits * samples) << qubits) as u64 * 10));
        group.bench_function(format!("n{qubits}_b{samples}"), |b| {
            b.iter(|| black_box(program.expectations(&batch, &sums)));
        });
    }
    group.finish();
    Ok(())
}

fn gradient(c: &mut Criterion) -> gatewarp::Result<()> {
    let (device, qubits, samples) = (Device::cpu(), 8, 64);
    let program = hardware_efficient(qubits)?;
    let inputs =
        Tensor::from_slice(&device, &angles(samples * program.inputs()), &[samples, program.inputs()])?;
    let weights: Vec<f32> = (0..qubits).map(|q| 0.5 + 0.1 * q as f32).collect();
    let weights = Tensor::from_slice(&device, &weights, &[qubits])?;
    let (batch, sums) = (Batch::new(&device, samples).inputs(&inputs), every_z(qubits)?);
    c.bench_function("statevec_gradient/n8_b64", |b| {
        b.iter(|| black_box(program.gradient(&batch, &sums, &weights.view())));
    });
    Ok(())
}

/// Dense one- and two-qubit matrices, the same for all samples.
fn dense(c: &mut Criterion) -> gatewarp::Result<()> {
    let device = Device::best()?;
    let mut group = c.benchmark_group("statevec_dense");
    for qubits in [8usize, 12] {
        let mut circuit = Circuit::new(qubits)?;
        for layer in 0..4 {
            for q in 0..qubits {
                let angle = 0.3 + 0.7 * (layer * qubits + q) as f64;
                let (s, c) = angle.sin_cos();
                let phase = Complex64::from_polar(1.0, 1.7 * angle);
                circuit.unitary(&[q], &[c.into(), -phase * s, phase * s, phase * phase * c])?;
            }
            for q in (layer % 2..qubits - 1).step_by(2) {
                // iSWAP as a matrix, which the compiler does not look into.
                let (o, l, i) = (Complex64::ZERO, Complex64::ONE, Complex64::I);
                circuit.unitary(&[q, q + 1], &[l, o, o, o, o, o, i, o, o, i, o, o, o, o, o, l])?;
            }
        }
        let (program, sums) = (circuit.compile()?, every_z(qubits)?);
        let batch = Batch::new(&device, 256);
        group.bench_function(format!("n{qubits}_b256"), |b| {
            b.iter(|| black_box(program.expectations(&batch, &sums)));
        });
    }
    group.finish();
    Ok(())
}

fn all(c: &mut Criterion) {
    for bench in [forward, gradient, dense] {
        bench(c).expect("the benched circuits are legal and their device is there");
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
