//! What must be refused, and how.

use crate::states::say;
use crate::support::compare::same_bits;
use crate::support::devices::TestDevice;
use gatewarp::statevec::{Batch, Circuit, Gate, Parameter, PauliString, PauliSum, on};
use gatewarp::{Backend, Complex32, Complex64, Error, Tensor, TensorRef};

fn is_argument<T: std::fmt::Debug>(what: &str, result: gatewarp::Result<T>) -> Result<(), String> {
    match result {
        Err(Error::InvalidArgument { .. }) => Ok(()),
        other => Err(format!("{what}: expected InvalidArgument, got {other:?}")),
    }
}

pub fn bad_input_is_a_typed_error(device: &TestDevice) -> Result<(), String> {
    let device = device.handle(0);
    let mut c = Circuit::with_parameters(3, 2, 1).map_err(say)?;
    c.ry(0, Parameter::Theta(0)).map_err(say)?.rz(1, Parameter::Input(0)).map_err(say)?;
    let before = c.clone();
    is_argument("no qubits", Circuit::new(0))?;
    is_argument("too many qubits", Circuit::new(31))?;
    is_argument("qubit out of range", c.x(3).map(drop))?;
    is_argument("huge qubit", c.x(usize::MAX).map(drop))?;
    is_argument("repeated target", c.swap(1, 1).map(drop))?;
    is_argument("repeated control", c.controlled(&on([0, 0]), Gate::X, &[1]).map(drop))?;
    is_argument("control is target", c.cx(2, 2).map(drop))?;
    is_argument(
        "control in string",
        c.controlled(
            &on([1]),
            Gate::PauliRotation(PauliString::new(&[('X', 1)]).map_err(say)?, 0.1.into()),
            &[],
        )
        .map(drop),
    )?;
    is_argument(
        "string out of range",
        c.pauli_rotation(PauliString::new(&[('Z', 3)]).map_err(say)?, 0.1).map(drop),
    )?;
    is_argument("targets missing", c.push(Gate::Swap, &[0]).map(drop))?;
    is_argument("matrix size", c.unitary(&[0], &[Complex64::ONE; 3]).map(drop))?;
    is_argument("matrix qubits", c.unitary(&[0, 1, 2, 3, 4, 5, 6], &[Complex64::ONE; 1 << 14]).map(drop))?;
    is_argument("short table", c.permutation(&[0, 1], &[1, 0]).map(drop))?;
    is_argument("table with a value twice", c.permutation(&[0, 1], &[1, 0, 2, 2]).map(drop))?;
    is_argument("table out of range", c.permutation(&[0], &[0, 2]).map(drop))?;
    is_argument("huge slot", c.sample_matrix(&[0], usize::MAX).map(drop))?;
    is_argument("diagonal size", c.diagonal(&[0, 1], &[Complex64::ONE; 2]).map(drop))?;
    is_argument("NaN matrix", c.unitary(&[0], &[Complex64::new(f64::NAN, 0.0); 4]).map(drop))?;
    is_argument("NaN angle", c.rx(0, f64::NAN).map(drop))?;
    is_argument("infinite angle", c.u3(0, 0.0, f64::INFINITY, 0.0).map(drop))?;
    is_argument("theta out of range", c.rx(0, Parameter::Theta(2)).map(drop))?;
    is_argument("input out of range", c.rx(0, Parameter::Input(1)).map(drop))?;
    is_argument(
        "huge parameter",
        Circuit::new(1).map_err(say)?.rx(0, Parameter::Theta(usize::MAX)).map(drop),
    )?;
    is_argument("repeated factor", PauliString::new(&[('X', 1), ('Z', 1)]))?;
    is_argument("unknown letter", PauliString::new(&[('W', 1)]))?;
    is_argument("NaN coefficient", PauliSum::new().plus(f64::NAN, &[('Z', 0)]))?;
    for text in ["", "Z", "Zx", "0.5*", "*Z0", "0.5**Z0", "Z0*Z0", "1e400*Z0", "Q3", "0.5 + "] {
        is_argument(text, text.parse::<PauliSum>())?;
    }
    let sum: PauliSum = "0.5*Z0 + 0.25*X1*Z2 - 1e-1*Y2 + 2".parse().map_err(say)?;
    if sum.to_string() != "0.5*Z0 + 0.25*X1*Z2 + -0.1*Y2 + 2*1" {
        return Err(format!("parsed as {sum}"));
    }
    if c != before {
        return Err("a refused gate changed the circuit".into());
    }
    let program = c.compile().map_err(say)?;
    let tensor = |data: &[f32], shape: &[usize]| Tensor::from_slice(device, data, shape).map_err(say);
    let (theta, inputs) = (tensor(&[0.1, 0.2], &[2])?, tensor(&[0.3, 0.4], &[2, 1])?);
    let good = || Batch::new(device, 2).theta(&theta).inputs(&inputs);
    is_argument("missing theta", program.run(&Batch::new(device, 2).inputs(&inputs)))?;
    is_argument("missing inputs", program.run(&Batch::new(device, 2).theta(&theta)))?;
    let shape = |what: &str, result: gatewarp::Result<Tensor>| match result {
        Err(Error::Shape { .. }) => Ok(()),
        other => Err(format!("{what}: expected Shape, got {other:?}")),
    };
    shape("theta", program.run(&good().theta(&tensor(&[0.1], &[1])?)))?;
    shape("inputs", program.run(&good().inputs(&tensor(&[0.1], &[1, 1])?)))?;
    let states = Tensor::from_slice(device, &[Complex32::ONE; 24], &[3, 8]).map_err(say)?;
    shape("initial", program.run(&good().initial(&states)))?;
    match program.run(&good().theta(TensorRef::from_slice(&[1.0f64, 2.0], &[2]).map_err(say)?)) {
        Err(Error::DType { .. }) => {}
        other => return Err(format!("f64 theta: {other:?}")),
    }
    is_argument("observable out of range", program.expectations(&good(), &[PauliSum::z(3).map_err(say)?]))?;
    for bad in [f32::NAN, f32::INFINITY] {
        let host = [0.3, bad];
        let host = TensorRef::from_slice(&host, &[2, 1]).map_err(say)?;
        is_argument("NaN in host memory", program.run(&good().inputs(host)))?;
    }
    match program.run(&Batch::new(device, 1 << 61)) {
        Err(Error::InvalidArgument { .. } | Error::OutOfMemory { .. } | Error::Unsupported { .. }) => {}
        other => return Err(format!("overflowing batch: {other:?}")),
    }
    // An empty batch is legal, and the device is usable after all this.
    let nothing = Tensor::zeros(device, gatewarp::DType::F32, &[0, 1]).map_err(say)?;
    let empty = program.run(&Batch::new(device, 0).theta(&theta).inputs(&nothing)).map_err(say)?;
    if empty.shape() != [0, 8] || !empty.to_vec::<Complex32>().map_err(say)?.is_empty() {
        return Err("an empty batch gave amplitudes".into());
    }
    let out = program.run(&good()).map_err(say)?.to_vec::<Complex32>().map_err(say)?;
    let norm: f32 = out.iter().map(|a| a.norm_sqr()).sum();
    if (norm - 2.0).abs() > 1e-5 { Err(format!("norm {norm}")) } else { Ok(()) }
}

/// An angle that only the device sees: that sample is NaN, the others keep their bits, the next synchronising call reports it.
pub fn a_nan_angle_spoils_its_sample_alone(device: &TestDevice) -> Result<(), String> {
    if device.backend() == Backend::Cpu {
        // Everything is host memory there: refused before anything runs, as `bad_input_is_a_typed_error` checks.
        return Ok(());
    }
    for n in [1usize, 3, 5, 9, 13] {
        let mut circuit = Circuit::new(n).map_err(say)?;
        for q in 0..n {
            circuit.ry(q, Parameter::Input(q)).map_err(say)?.rz(q, Parameter::Theta(0)).map_err(say)?;
        }
        circuit.cx(0, n - 1).ok();
        let program = circuit.compile().map_err(say)?;
        let device = device.handle(n);
        let theta = Tensor::from_slice(device, &[0.7f32], &[1]).map_err(say)?;
        let mut values: Vec<f32> = (0..5 * n).map(|i| 0.1 * i as f32).collect();
        let clean = Tensor::from_slice(device, &values, &[5, n]).map_err(say)?;
        values[3 * n + n / 2] = if n % 2 == 0 { f32::NAN } else { f32::NEG_INFINITY };
        let spoiled = Tensor::from_slice(device, &values, &[5, n]).map_err(say)?;
        let sums: Vec<PauliSum> = (0..n).map(|q| PauliSum::z(q).expect("a qubit")).collect();
        let measure = |inputs: &Tensor| -> gatewarp::Result<Tensor> {
            program.expectations(&Batch::new(device, 5).theta(&theta).inputs(inputs), &sums)
        };
        let want = measure(&clean).map_err(say)?.to_vec::<f32>().map_err(say)?;
        let out = measure(&spoiled).map_err(say)?;
        match device.synchronize() {
            Err(Error::DeviceValue { .. }) => {
                device.synchronize().map_err(|error| format!("reported twice: {error}"))?
            }
            other => return Err(format!("n={n}: a NaN angle was reported as {other:?}")),
        }
        let got = out.to_vec::<f32>().map_err(say)?;
        for sample in 0..5 {
            let row = sample * n..(sample + 1) * n;
            if sample == 3 {
                if !got[row].iter().all(|x| x.is_nan()) {
                    return Err(format!("n={n}: the bad sample is not NaN throughout: {got:?}"));
                }
            } else {
                same_bits(&format!("n={n}, sample {sample}"), &got[row.clone()], &want[row])?;
            }
        }
    }
    Ok(())
}
