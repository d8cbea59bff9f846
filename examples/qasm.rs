//! An OpenQASM 3 program with an input, run on a batch of its values: `cargo run --release --example qasm`.

use gatewarp::statevec::{Batch, PauliSum, qasm};
use gatewarp::{Device, Tensor};

const PROGRAM: &str = r#"
OPENQASM 3.0;
include "stdgates.inc";
input float[64] x;
qubit[3] q;
h q[0];
for int i in [0:1] { cx q[i], q[i+1]; }
pow(3) @ rz(x) q[2];              // a phase of 3·x between |000⟩ and |111⟩
for int i in [1:-1:0] { cx q[i], q[i+1]; }
h q[0];
"#;

fn main() -> gatewarp::Result<()> {
    let program = qasm::parse(PROGRAM, "fringes.qasm")?;
    let circuit = program.circuit()?;
    println!("{}", circuit.to_qasm3()?);

    let device = Device::best()?;
    let samples = 25;
    let x: Vec<f32> = (0..samples).map(|i| i as f32 / (samples - 1) as f32 * std::f32::consts::PI).collect();
    let inputs = Tensor::from_slice(&device, &x, &[samples, 1])?;
    let batch = Batch::new(&device, samples).inputs(&inputs);
    let z = circuit.compile()?.expectations(&batch, &[PauliSum::z(0)?])?.to_vec::<f32>()?;
    for (x, z) in x.iter().zip(&z) {
        assert!((z - (3.0 * x).cos()).abs() < 1e-5, "⟨Z⟩ = cos 3x");
        let column = ((z + 1.0) * 30.0).round() as usize;
        println!("x = {x:.2}  ⟨Z0⟩ = {z:+.3}  {:column$}*", "");
    }
    Ok(())
}
