//! A thousand circuits at once, each with its own angles: ⟨Z⟩ of every qubit and its gradient.
//!
//! `cargo run --release --example circuits [DEVICE]`

use gatewarp::statevec::{Batch, Circuit, Parameter, PauliSum};
use gatewarp::{Device, Result, Tensor};
use std::time::Instant;

const QUBITS: usize = 8;
const SAMPLES: usize = 1000;

fn main() -> Result<()> {
    let device: Device = std::env::args().nth(1).map_or_else(Device::best, |spec| spec.parse())?;
    let mut circuit = Circuit::new(QUBITS)?;
    for layer in 0..4 {
        for qubit in 0..QUBITS {
            let angle = 2 * (layer * QUBITS + qubit);
            circuit.ry(qubit, Parameter::Input(angle))?.rz(qubit, Parameter::Input(angle + 1))?;
        }
        for qubit in 0..QUBITS {
            circuit.cx(qubit, (qubit + 1) % QUBITS)?;
        }
    }
    let program = circuit.compile()?;
    println!("{}", program.explain());

    let angles: Vec<f32> = (0..SAMPLES * program.inputs()).map(|i| (i as f32 * 0.618).sin() * 3.0).collect();
    let inputs = Tensor::from_slice(&device, &angles, &[SAMPLES, program.inputs()])?;
    let batch = Batch::new(&device, SAMPLES).inputs(&inputs);
    let observables = (0..QUBITS).map(PauliSum::z).collect::<Result<Vec<_>>>()?;

    program.expectations(&batch, &observables)?.to_vec::<f32>()?; // the first run compiles kernels
    let start = Instant::now();
    let values = program.expectations(&batch, &observables)?.to_vec::<f32>()?;
    println!("{SAMPLES} circuits on {device:?}: {:.3} ms", start.elapsed().as_secs_f64() * 1e3);
    for (sample, row) in values.chunks(QUBITS).take(3).enumerate() {
        let row: Vec<String> = row.iter().map(|z| format!("{z:+.4}")).collect();
        println!("  sample {sample}: ⟨Z⟩ = {}", row.join(" "));
    }

    let cpu = Device::cpu();
    let inputs = inputs.to_device(&cpu)?;
    let weights = Tensor::from_slice(&cpu, &[1.0f32; QUBITS], &[QUBITS])?;
    let start = Instant::now();
    let batch = Batch::new(&cpu, SAMPLES).inputs(&inputs);
    program.gradient(&batch, &observables, &weights.view())?;
    println!(
        "{} gradients by the adjoint method on the CPU: {:.3} ms",
        SAMPLES * program.inputs(),
        start.elapsed().as_secs_f64() * 1e3
    );
    Ok(())
}
