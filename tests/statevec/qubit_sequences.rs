//! ρ(t+1) = S(ρ(t), x(t)) of one qubit, against Kraus operators in f64.

use crate::density::{Matrix, random_channel, random_rho, through};
use crate::states::{pairs, say};
use crate::support::compare::{close, same_bits};
use crate::support::devices::TestDevice;
use crate::support::oracle_statevec as oracle;
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use gatewarp::statevec::{KrausChannel, Parameter, QubitChannel, QubitSequences, Variable};
use gatewarp::{Backend, Complex32, Complex64 as C, Error, Layout, Tensor};
use proptest::prelude::*;

const PARAMETERS: usize = 3;

/// An operation by number, and its parameter.
enum Operation {
    Parametrised(usize, Parameter),
    Constant(KrausChannel),
}

/// A parameter whose value is a probability where the variables are in 0 to 1.
fn parameter(random: &mut Random, is_probability: bool) -> Parameter {
    let index = random.below(PARAMETERS);
    let of = if random.one_in(2) { Variable::Theta(index) } else { Variable::Input(index) };
    match random.below(4) {
        0 => Parameter::Constant(random.unit() * 0.9),
        1 if is_probability => Parameter::Affine { scale: -0.5, of, offset: 0.8 },
        1 => Parameter::Affine {
            scale: f64::from(random.signed()) * 5.0,
            of,
            offset: f64::from(random.signed()) * 7.0,
        },
        _ => match of {
            Variable::Theta(i) => Parameter::Theta(i),
            _ => Parameter::Input(index),
        },
    }
}

fn random_operations(random: &mut Random) -> Vec<Operation> {
    let one = |random: &mut Random| {
        let kind = random.below(10);
        if kind == 9 {
            Operation::Constant(random_channel(1, random))
        } else {
            Operation::Parametrised(kind, parameter(random, kind > 2))
        }
    };
    (0..random.below(8)).map(|_| one(random)).collect()
}

fn build(operations: &[Operation]) -> gatewarp::Result<QubitChannel> {
    let mut channel = QubitChannel::new();
    for operation in operations {
        match operation {
            Operation::Constant(kraus) => channel.kraus(kraus)?,
            Operation::Parametrised(0, p) => channel.rx(*p)?,
            Operation::Parametrised(1, p) => channel.ry(*p)?,
            Operation::Parametrised(2, p) => channel.rz(*p)?,
            Operation::Parametrised(3, p) => channel.depolarizing(*p)?,
            Operation::Parametrised(4, p) => channel.bit_flip(*p)?,
            Operation::Parametrised(5, p) => channel.bit_phase_flip(*p)?,
            Operation::Parametrised(6, p) => channel.phase_flip(*p)?,
            Operation::Parametrised(7, p) => channel.amplitude_damping(*p)?,
            Operation::Parametrised(_, p) => channel.phase_damping(*p)?,
        };
    }
    Ok(channel)
}

fn value(parameter: Parameter, theta: &[f64], x: &[f64]) -> f64 {
    match parameter {
        Parameter::Constant(value) => value,
        Parameter::Theta(i) => theta[i],
        Parameter::Input(i) => x[i],
        Parameter::Affine { scale, of: Variable::Theta(i), offset } => scale * theta[i] + offset,
        Parameter::Affine { scale, of: Variable::Input(i), offset } => scale * x[i] + offset,
        other => panic!("the oracle does not know {other:?}"),
    }
}

/// The matrices of every time, `ρ(0)` first.
fn reference(
    operations: &[Operation],
    start: &Matrix,
    theta: &[f64],
    xs: &[f64],
    inputs: usize,
) -> Vec<Matrix> {
    let mut all = vec![start.clone()];
    for x in xs.chunks(inputs) {
        let rho = operations.iter().fold(all[all.len() - 1].clone(), |rho, operation| {
            let channel = match operation {
                Operation::Constant(kraus) => kraus.clone(),
                Operation::Parametrised(kind, p) => {
                    let p = value(*p, theta, x);
                    match kind {
                        0 => KrausChannel::new(1, &[oracle::rx(p)]),
                        1 => KrausChannel::new(1, &[oracle::ry(p)]),
                        2 => KrausChannel::new(1, &[oracle::rz(p)]),
                        3 => KrausChannel::depolarizing(1, p),
                        4 => KrausChannel::bit_flip(p),
                        5 => KrausChannel::bit_phase_flip(p),
                        6 => KrausChannel::phase_flip(p),
                        7 => KrausChannel::amplitude_damping(p),
                        _ => KrausChannel::phase_damping(p),
                    }
                    .expect("a channel")
                }
            };
            through(&channel, &[0], &rho)
        });
        all.push(rho);
    }
    all
}

fn singles(values: &[C]) -> Vec<Complex32> {
    values.iter().map(|a| Complex32::new(a.re as f32, a.im as f32)).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// Values from 0.05 to 0.9: angles and probabilities alike, away from where a root is vertical.
fn unit_values(count: usize, random: &mut Random) -> Vec<f32> {
    (0..count).map(|_| (0.05 + 0.85 * random.unit()) as f32).collect()
}

pub fn sequences_are_their_kraus_operators(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), prop_oneof![4 => 0usize..=5, 1 => 60usize..=70], 0usize..=9, any::<bool>());
    check(
        "sequences_are_their_kraus_operators",
        device,
        CASES,
        &strategy,
        |device, &(seed, batch, steps, given)| {
            let random = &mut Random::new(seed, 60);
            let operations = random_operations(random);
            let channel = build(&operations).map_err(say)?;
            let (inputs, gap) = (PARAMETERS + random.below(3), random.below(3));
            let x = unit_values(batch * steps * inputs, random);
            // Rows of inputs with NaN between them.
            let mut memory = vec![f32::NAN; batch * steps * (inputs + gap) + 5];
            for (row, values) in x.chunks(inputs).enumerate() {
                memory[5 + row * (inputs + gap)..][..inputs].copy_from_slice(values);
            }
            let memory = Tensor::from_slice(device, &memory, &[memory.len()]).map_err(say)?;
            let strides = [steps * (inputs + gap), inputs + gap, 1];
            let layout = Layout::new(&[batch, steps, inputs], &strides, 5).map_err(say)?;
            let theta = unit_values(PARAMETERS, random);
            let theta_tensor = Tensor::from_slice(device, &theta, &[PARAMETERS]).map_err(say)?;
            let start: Vec<Matrix> = (0..batch.max(1)).map(|_| random_rho(1, random)).collect();
            let starts = if given && random.one_in(2) { 1 } else { batch };
            let initial = Tensor::from_slice(device, &singles(&start[..starts].concat()), &[starts, 2, 2])
                .map_err(say)?;
            let mut call =
                QubitSequences::new(memory.view().with_layout(layout).map_err(say)?).theta(&theta_tensor);
            if given {
                call = call.initial(&initial);
            }
            let got = channel.iterate(&call).map_err(say)?;
            if got.shape() != [batch, steps + 1, 2, 2] {
                return Err(format!("shape {:?}", got.shape()));
            }
            let ground = vec![C::ONE, C::ZERO, C::ZERO, C::ZERO];
            let mut want = Vec::new();
            for sequence in 0..batch {
                let from = if given { &start[if starts == 1 { 0 } else { sequence }] } else { &ground };
                let xs = wide(&x[sequence * steps * inputs..][..steps * inputs]);
                want.extend(reference(&operations, from, &wide(&theta), &xs, inputs).concat());
            }
            let want = oracle::interleaved(&want);
            // A few roundings an operation, of numbers up to 1; a rotation's angle is rounded at its size, up to 12.
            let tolerance = 2e-7 * (4.0 + 12.0 * (operations.len() * steps) as f64);
            let got = pairs(&got.to_vec().map_err(say)?);
            close("ρ(t)", &got, &want, &vec![tolerance; want.len()])?;
            if batch > 1 {
                // A sequence alone has the same bits.
                let at = random.below(batch);
                let mut alone =
                    QubitSequences::new(call.x.narrow(0, at, 1).map_err(say)?).theta(&theta_tensor);
                if given {
                    let own = if starts == 1 { 0 } else { at };
                    alone = alone.initial(initial.view().narrow(0, own, 1).map_err(say)?);
                }
                let alone = pairs(&channel.iterate(&alone).map_err(say)?.to_vec().map_err(say)?);
                same_bits("alone", &got[at * alone.len()..][..alone.len()], &alone)?;
            }
            Ok(())
        },
    )
}

pub fn sequence_gradients_are_derivatives(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=4, 0usize..=5);
    check(
        "sequence_gradients_are_derivatives",
        device,
        CASES / 2,
        &strategy,
        |device, &(seed, batch, steps)| {
            let random = &mut Random::new(seed, 61);
            let operations = random_operations(random);
            let channel = build(&operations).map_err(say)?;
            let x = unit_values(batch * steps * PARAMETERS, random);
            let theta = unit_values(PARAMETERS, random);
            let start: Vec<Matrix> = (0..batch).map(|_| random_rho(1, random)).collect();
            let grads: Vec<Complex32> = (0..batch * (steps + 1) * 4)
                .map(|_| Complex32::new(random.signed(), random.signed()))
                .collect();
            let tensor =
                |values: &[f32], shape: &[usize]| Tensor::from_slice(device, values, shape).map_err(say);
            let (x_tensor, theta_tensor) =
                (tensor(&x, &[batch, steps, PARAMETERS])?, tensor(&theta, &[PARAMETERS])?);
            let initial =
                Tensor::from_slice(device, &singles(&start.concat()), &[batch, 2, 2]).map_err(say)?;
            let grads_tensor = Tensor::from_slice(device, &grads, &[batch, steps + 1, 2, 2]).map_err(say)?;
            let call = QubitSequences::new(&x_tensor).theta(&theta_tensor).initial(&initial);
            let states = channel.iterate(&call).map_err(say)?;
            let got = channel.iterate_backward(&call, &states.view(), &grads_tensor.view()).map_err(say)?;
            let loss = |theta: &[f64], x: &[f64], start: &[Matrix]| -> f64 {
                (0..batch)
                    .map(|s| {
                        let xs = &x[s * steps * PARAMETERS..][..steps * PARAMETERS];
                        let all = reference(&operations, &start[s], theta, xs, PARAMETERS).concat();
                        let own = &grads[s * (steps + 1) * 4..];
                        all.iter()
                            .zip(own)
                            .map(|(rho, g)| f64::from(g.re) * rho.re + f64::from(g.im) * rho.im)
                            .sum::<f64>()
                    })
                    .sum()
            };
            let (theta, x) = (wide(&theta), wide(&x));
            let step = 1e-5;
            let slope = |by: &dyn Fn(f64) -> f64| (by(step) - by(-step)) / (2.0 * step);
            let moved = |values: &[f64], at: usize, by: f64| {
                let mut values = values.to_vec();
                values[at] += by;
                values
            };
            let by_theta: Vec<f64> =
                (0..PARAMETERS).map(|i| slope(&|by| loss(&moved(&theta, i, by), &x, &start))).collect();
            let by_x: Vec<f64> =
                (0..x.len()).map(|i| slope(&|by| loss(&theta, &moved(&x, i, by), &start))).collect();
            // Every time's gradient reaches a parameter through at most `steps` steps, scaled by up to 5.
            let tolerance = 2e-5 * (1 + steps) as f64 * (1 + operations.len()) as f64;
            let many = tolerance * batch as f64;
            close("by theta", &got.theta.to_vec::<f32>().map_err(say)?, &by_theta, &[many; PARAMETERS])?;
            close("by x", &got.x.to_vec::<f32>().map_err(say)?, &by_x, &vec![tolerance; by_x.len()])?;
            let direction: Vec<Matrix> = (0..batch).map(|_| random_rho(1, random)).collect();
            let along = |by: f64| -> Vec<Matrix> {
                let add = |(rho, d): (&Matrix, &Matrix)| rho.iter().zip(d).map(|(x, d)| x + d * by).collect();
                start.iter().zip(&direction).map(add).collect()
            };
            let want = (loss(&theta, &x, &along(0.5)) - loss(&theta, &x, &along(-0.5))) / 1.0;
            let gradient = pairs(&got.initial.to_vec().map_err(say)?);
            let flat = oracle::interleaved(&direction.concat());
            let inner: f64 = flat.iter().zip(&gradient).map(|(d, &g)| d * f64::from(g)).sum();
            if (inner - want).abs() <= many {
                Ok(())
            } else {
                Err(format!("by ρ(0): {inner:e}, expected {want:e}"))
            }
        },
    )
}

/// A parameter outside its domain: an error where the host can see it, else NaN from that step on, and a report.
pub fn a_bad_parameter_spoils_its_sequence(device: &TestDevice) -> Result<(), String> {
    let mut channel = QubitChannel::new();
    let argument = |what: &str, result: gatewarp::Result<()>| match result {
        Err(Error::InvalidArgument { .. }) => Ok(()),
        other => Err(format!("{what}: expected InvalidArgument, got {other:?}")),
    };
    argument("NaN", channel.rx(f64::NAN).map(drop))?;
    argument("no probability", channel.bit_flip(1.5).map(drop))?;
    argument("index", channel.ry(Parameter::Theta(usize::MAX)).map(drop))?;
    argument("two qubits", channel.kraus(&KrausChannel::depolarizing(2, 0.1).map_err(say)?).map(drop))?;
    channel.ry(Parameter::Input(0)).map_err(say)?.amplitude_damping(Parameter::Input(1)).map_err(say)?;
    for (case, bad) in [(0usize, f32::NAN), (0, f32::INFINITY), (1, 1.5), (1, -0.1), (1, f32::NAN)] {
        let device = device.handle(case);
        let mut x = vec![0.25f32; 3 * 4 * 2];
        let clean = Tensor::from_slice(device, &x, &[3, 4, 2]).map_err(say)?;
        // Sequence 1, step 2.
        x[8 + 4 + case] = bad;
        let spoiled = Tensor::from_slice(device, &x, &[3, 4, 2]).map_err(say)?;
        let want = pairs(&channel.iterate(&QubitSequences::new(&clean)).map_err(say)?.to_vec().map_err(say)?);
        let got = channel.iterate(&QubitSequences::new(&spoiled));
        if device.backend() == Backend::Cpu {
            argument("a bad input", got.map(drop))?;
            continue;
        }
        let got = got.map_err(say)?;
        match device.synchronize() {
            Err(Error::DeviceValue { .. }) => device.synchronize().map_err(say)?,
            other => return Err(format!("{bad} was reported as {other:?}")),
        }
        let got = pairs(&got.to_vec().map_err(say)?);
        for (i, (&got, &want)) in got.iter().zip(&want).enumerate() {
            // 40 numbers a sequence, 8 a time.
            let is_bad = (40 + 24..80).contains(&i);
            if is_bad != got.is_nan() || (!is_bad && got.to_bits() != want.to_bits()) {
                return Err(format!("{bad}: number {i} is {got}, was {want}"));
            }
        }
    }
    let device = device.handle(0);
    let short = Tensor::from_slice(device, &[0.5f32; 3], &[1, 3, 1]).map_err(say)?;
    match channel.iterate(&QubitSequences::new(&short)) {
        Err(Error::Shape { .. }) => Ok(()),
        other => Err(format!("too few inputs: {other:?}")),
    }
}
