//! Every way to start, at every size: on one chip and spread over blocks, against the CPU, and against itself.

use crate::case::{self, PARAMETERS, all_kinds};
use crate::starts::{KINDS, Kind, Start};
use crate::states::{pairs, say};
use crate::support::compare::{close, close_norm, same_bits};
use crate::support::devices::TestDevice;
use crate::support::oracle_statevec as oracle;
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use crate::support::tolerance::{statevec_c64, statevec_gradient_c64};
use gatewarp::statevec::{Batch, Circuit, Parameter, PauliSum, Program, StatevecGradients};
use gatewarp::{Backend, Complex32, Complex64 as C, DType, Device, Error, Tensor, TensorRef};
use proptest::prelude::*;

/// Angles by sample, by theta and affine; entangled; with a global phase that depends on theta.
fn circuit(n: usize) -> gatewarp::Result<Circuit> {
    let mut circuit = Circuit::with_parameters(n, 3, 2)?;
    for q in 0..n {
        circuit.ry(q, Parameter::Input(q % 2))?.rz(q, Parameter::Theta(q % 3))?;
    }
    for q in 1..n {
        circuit.cx(q - 1, q)?;
    }
    circuit.rx(n - 1, Parameter::Theta(2))?.phase(0, Parameter::Theta(1))?.h(n / 2)?;
    Ok(circuit)
}

/// What a run gives, as f64.
struct Results {
    states: Vec<f64>,
    from_states: Gradients,
    from_observables: Gradients,
}

struct Gradients {
    theta: Vec<f64>,
    inputs: Vec<f64>,
    initial: Vec<f64>,
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>, String> {
    Ok(match tensor.dtype() {
        DType::F32 => case::wide(&tensor.to_vec::<f32>().map_err(say)?),
        DType::F64 => tensor.to_vec::<f64>().map_err(say)?,
        DType::C64 => case::wide(&pairs(&tensor.to_vec::<Complex32>().map_err(say)?)),
        _ => oracle::interleaved(&tensor.to_vec::<C>().map_err(say)?),
    })
}

fn gradients(out: &StatevecGradients) -> Result<Gradients, String> {
    Ok(Gradients {
        theta: numbers(&out.theta)?,
        inputs: numbers(&out.inputs)?,
        initial: match &out.initial {
            Some(initial) => numbers(initial)?,
            None => Vec::new(),
        },
    })
}

/// Values that everything is computed from, in host memory.
struct Values {
    theta: Vec<f32>,
    inputs: Vec<f32>,
    cotangent: Vec<Complex32>,
    weights: Vec<f32>,
}

impl Values {
    fn new(n: usize, samples: usize, random: &mut Random) -> Self {
        Self {
            theta: random.values(3, 3.0),
            inputs: random.values(2 * samples, 3.0),
            cotangent: (0..samples << n).map(|_| Complex32::new(random.signed(), random.signed())).collect(),
            weights: random.values(2 * samples, 1.0),
        }
    }
}

/// In c64 on any device.
fn results(
    device: &Device,
    program: &Program,
    start: &Start,
    values: &Values,
    sums: &[PauliSum],
) -> Result<Results, String> {
    let samples = start.row_of.len();
    let (tensor, ids) = start.tensors(device).map_err(say)?;
    let batch = Batch::new(device, samples)
        .theta(TensorRef::from_slice(&values.theta, &[3]).map_err(say)?)
        .inputs(TensorRef::from_slice(&values.inputs, &[samples, 2]).map_err(say)?);
    let batch = start.set(batch, &tensor, &ids);
    let states = numbers(&program.run(&batch).map_err(say)?)?;
    let g = Tensor::from_slice(device, &values.cotangent, &[samples, 1 << program.qubits()]).map_err(say)?;
    let from_states = gradients(&program.backward_states(&batch, &g.view()).map_err(say)?)?;
    let weights = Tensor::from_slice(device, &values.weights, &[samples, 2]).map_err(say)?;
    let from_observables = gradients(&program.gradient(&batch, sums, &weights.view()).map_err(say)?)?;
    Ok(Results { states, from_states, from_observables })
}

/// In c128 on the CPU.
fn wanted(program: &Program, start: &Start, values: &Values, sums: &[PauliSum]) -> Result<Results, String> {
    let (device, samples) = (Device::cpu(), start.row_of.len());
    let shape = [start.rows.len() / start.width, start.width];
    let tensor = match start.kind {
        // A number has no precision.
        Kind::Basis => start.tensors(&device).map_err(say)?.0,
        Kind::RealAmplitudes => {
            let rows: Vec<f64> = start.rows.iter().map(|x| f64::from(x.re as f32)).collect();
            Tensor::from_slice(&device, &rows, &shape).map_err(say)?
        }
        _ => {
            let rounded = |x: &C| C::new(f64::from(x.re as f32), f64::from(x.im as f32));
            let rows: Vec<C> = start.rows.iter().map(rounded).collect();
            Tensor::from_slice(&device, &rows, &shape).map_err(say)?
        }
    };
    let ids = start.tensors(&device).map_err(say)?.1;
    let (theta, inputs) = (case::wide(&values.theta), case::wide(&values.inputs));
    let batch = Batch::new(&device, samples)
        .dtype(DType::C128)
        .theta(TensorRef::from_slice(&theta, &[3]).map_err(say)?)
        .inputs(TensorRef::from_slice(&inputs, &[samples, 2]).map_err(say)?);
    let batch = start.set(batch, &tensor, &ids);
    let states = numbers(&program.run(&batch).map_err(say)?)?;
    let cotangent: Vec<C> = values.cotangent.iter().map(|g| C::new(g.re.into(), g.im.into())).collect();
    let g = TensorRef::from_slice(&cotangent, &[samples, 1 << program.qubits()]).map_err(say)?;
    let from_states = gradients(&program.backward_states(&batch, &g).map_err(say)?)?;
    let weights = case::wide(&values.weights);
    let weights = TensorRef::from_slice(&weights, &[samples, 2]).map_err(say)?;
    let from_observables = gradients(&program.gradient(&batch, sums, &weights).map_err(say)?)?;
    Ok(Results { states, from_states, from_observables })
}

fn observables(n: usize) -> gatewarp::Result<[PauliSum; 2]> {
    Ok([PauliSum::z(0)?, PauliSum::new().plus(0.5, &[('X', n - 1)])?.plus(-0.25, &[('Y', 0)])?])
}

fn singles(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// States, and gradients by theta, inputs and what was given, from states and from observables, against c128 on the CPU.
pub fn every_start_at_every_size(device: &TestDevice) -> Result<(), String> {
    for n in 1..=14usize {
        let program = circuit(n).map_err(say)?.compile().map_err(say)?;
        let sums = observables(n).map_err(say)?;
        // One, primes, and more than one block and one chunk of samples.
        let counts: &[usize] = if n <= 3 { &[1, 7, 67] } else { &[1, 5] };
        for (&samples, kind) in counts.iter().flat_map(|samples| KINDS.map(|kind| (samples, kind))) {
            if n > 9 && samples > 1 && kind == Kind::Zero {
                continue;
            }
            let seed = (n * 1000 + samples * 10) as u64 + kind as u64;
            let random = &mut Random::new(seed, 55);
            let samples = if n > 9 { samples.min(2) } else { samples };
            let start = Start::new(kind, n, samples, random);
            let values = Values::new(n, samples, random);
            let want = wanted(&program, &start, &values, &sums)?;
            let got = results(device.handle(seed as usize), &program, &start, &values, &sums)?;
            let name = |what: &str| format!("{what}, {kind:?}, {n} qubits, {samples} samples");
            let size = norm(&want.states);
            let gates = 4 * n + 3;
            close_norm(
                &name("states"),
                &singles(&got.states),
                &want.states,
                2.0 * statevec_c64(gates) * size,
            )?;
            let cotangent = norm(&case::wide(&pairs(&values.cotangent)));
            let smallest =
                start.rows.chunks(start.width).map(|row| row.iter().map(C::norm_sqr).sum::<f64>().sqrt());
            let encodes = matches!(kind, Kind::RealAmplitudes | Kind::ComplexAmplitudes);
            let steep = if encodes { 1.0 / smallest.fold(1.0, f64::min) } else { 1.0 };
            for (from, got, want, strength) in [
                ("states", &got.from_states, &want.from_states, cotangent * size),
                (
                    "observables",
                    &got.from_observables,
                    &want.from_observables,
                    2.0 * size * size * samples as f64,
                ),
            ] {
                let bound = statevec_gradient_c64(gates, strength, 1.0) * (gates as f64).sqrt();
                let fields = [
                    ("dtheta", &got.theta, &want.theta, bound),
                    ("dinputs", &got.inputs, &want.inputs, bound),
                    ("dinitial", &got.initial, &want.initial, 2.0 * bound * steep),
                ];
                for (what, got, want, bound) in fields {
                    let what = name(&format!("{what} from {from}"));
                    close(&what, &singles(got), want, &vec![bound; want.len()])?;
                }
                let has_rows = !matches!(kind, Kind::Zero | Kind::Basis);
                if got.initial.is_empty() == has_rows {
                    return Err(name("a gradient of the start too many, or none"));
                }
            }
        }
    }
    Ok(())
}

/// U then U† is the identity, from a start of every kind.
pub fn there_and_back_from_every_start(device: &TestDevice) -> Result<(), String> {
    let most = if device.backend() == Backend::Cpu { 60 } else { 20 };
    let strategy = (any::<u64>(), 1usize..=6, 1usize..=most, 1usize..=5, 0usize..KINDS.len());
    let name = "there_and_back_from_every_start";
    check(name, device, CASES, &strategy, |device, &(seed, n, gates, samples, kind)| {
        let random = &mut Random::new(seed, 56);
        let items = case::random_items(n, gates, &all_kinds(), random);
        let mut circuit = case::circuit(n, &items);
        circuit.append(&circuit.inverse()).map_err(say)?;
        let start = Start::new(KINDS[kind], n, samples, random);
        let (tensor, ids) = start.tensors(device).map_err(say)?;
        let (theta, inputs) = (random.values(PARAMETERS, 4.0), random.values(samples * PARAMETERS, 4.0));
        let batch = Batch::new(device, samples)
            .theta(TensorRef::from_slice(&theta, &[PARAMETERS]).map_err(say)?)
            .inputs(TensorRef::from_slice(&inputs, &[samples, PARAMETERS]).map_err(say)?);
        let out = circuit.compile().map_err(say)?.run(&start.set(batch, &tensor, &ids)).map_err(say)?;
        let out = pairs(&out.to_vec().map_err(say)?);
        for (sample, got) in out.chunks(2 << n).enumerate() {
            let want = oracle::interleaved(&start.state(&start.rows, sample, n));
            let bound = 2.0 * statevec_c64(2 * gates) * norm(&want).max(1.0);
            close_norm(&format!("U†U of sample {sample}"), got, &want, bound)?;
        }
        Ok(())
    })
}

/// Bits of a sample's state and of the gradient of its row, alone and among others.
pub fn starts_do_not_see_their_batch(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=7, 2usize..=33, any::<bool>());
    check("starts_do_not_see_their_batch", device, CASES / 4, &strategy, |device, case| {
        let &(seed, n, samples, real) = case;
        let random = &mut Random::new(seed, 57);
        let kind = if real { Kind::RealAmplitudes } else { Kind::ComplexAmplitudes };
        let start = Start::new(kind, n, samples, random);
        let program = circuit(n).map_err(say)?.compile().map_err(say)?;
        let (values, sums) = (Values::new(n, samples, random), observables(n).map_err(say)?);
        let all = results(device, &program, &start, &values, &sums)?;
        for sample in [0, samples / 2, samples - 1] {
            let row = |width: usize| sample * width..(sample + 1) * width;
            let alone = Start {
                kind,
                width: start.width,
                rows: start.rows[row(start.width)].to_vec(),
                row_of: vec![0],
            };
            let own = Values {
                theta: values.theta.clone(),
                inputs: values.inputs[row(2)].to_vec(),
                cotangent: values.cotangent[row(1 << n)].to_vec(),
                weights: values.weights[row(2)].to_vec(),
            };
            let own = results(device, &program, &alone, &own, &sums)?;
            let same = |what: &str, all: &[f64], own: &[f64]| {
                let part = &all[row(own.len())];
                same_bits(&format!("{what} of sample {sample} of {samples}"), &singles(part), &singles(own))
            };
            same("state", &all.states, &own.states)?;
            same("dinputs", &all.from_states.inputs, &own.from_states.inputs)?;
            same("dinitial from states", &all.from_states.initial, &own.from_states.initial)?;
            same("dinitial from observables", &all.from_observables.initial, &own.from_observables.initial)?;
        }
        Ok(())
    })
}

/// A row without a norm, or a number that no basis state has, which only the device sees: that sample is NaN, and the gradient of
/// its row; the others keep their bits; the next synchronising call reports it.
pub fn a_bad_start_spoils_its_sample_alone(device: &TestDevice) -> Result<(), String> {
    if device.backend() == Backend::Cpu {
        // Everything is host memory there: refused before anything runs, as `bad_starts_are_typed_errors` checks.
        return Ok(());
    }
    for (n, bad) in [
        (1usize, 0.0f32),
        (3, f32::NAN),
        (5, f32::INFINITY),
        (9, 0.0),
        (12, f32::NAN),
        (13, 0.0),
        (13, f32::NAN),
    ] {
        let device = device.handle(n);
        let random = &mut Random::new(n as u64, 58);
        let program = circuit(n).map_err(say)?.compile().map_err(say)?;
        let (values, sums) = (Values::new(n, 3, random), observables(n).map_err(say)?);
        let mut start = Start::new(Kind::ComplexAmplitudes, n, 3, random);
        let want = results(device, &program, &start, &values, &sums)?;
        device.synchronize().map_err(say)?;
        let row = start.width..2 * start.width;
        start.rows[row.clone()].fill(C::ZERO);
        start.rows[row.end - 1] = C::new(0.0, bad.into());
        let run = |initial: &Tensor| -> Result<[Tensor; 2], String> {
            let batch = Batch::new(device, 3)
                .theta(TensorRef::from_slice(&values.theta, &[3]).map_err(say)?)
                .inputs(TensorRef::from_slice(&values.inputs, &[3, 2]).map_err(say)?)
                .amplitudes(initial);
            let states = program.run(&batch).map_err(say)?;
            let g = Tensor::from_slice(device, &values.cotangent, &[3, 1 << n]).map_err(say)?;
            let out = program.backward_states(&batch, &g.view()).map_err(say)?;
            Ok([states, out.initial.ok_or("no gradient")?])
        };
        let (tensor, _) = start.tensors(device).map_err(say)?;
        let [states, initial] = run(&tensor)?;
        reported(&format!("{bad}, {n} qubits"), device)?;
        for (what, got, want) in [
            ("states", numbers(&states)?, &want.states),
            ("dinitial", numbers(&initial)?, &want.from_states.initial),
        ] {
            let width = got.len() / 3;
            if !got[width..2 * width].iter().all(|x| x.is_nan()) {
                return Err(format!("{what} of the bad row are not NaN, {n} qubits"));
            }
            for sample in [0, 2] {
                let row = sample * width..(sample + 1) * width;
                same_bits(&format!("{what}, {n} qubits"), &singles(&got[row.clone()]), &singles(&want[row]))?;
            }
        }
    }
    for (n, bad) in [(1usize, 2i64), (3, -1), (6, 1 << 32), (13, 1 << 13)] {
        let device = device.handle(n);
        let program = circuit(n).map_err(say)?.compile().map_err(say)?;
        let theta = Tensor::from_slice(device, &[0.3f32, 0.1, -0.7], &[3]).map_err(say)?;
        let inputs = Tensor::from_slice(device, &[0.5f32; 6], &[3, 2]).map_err(say)?;
        let run = |numbers: [i64; 3]| -> Result<Tensor, String> {
            let numbers = Tensor::from_slice(device, &numbers, &[3]).map_err(say)?;
            let batch = Batch::new(device, 3).theta(&theta).inputs(&inputs).basis_states(&numbers);
            program.run(&batch).map_err(say)
        };
        let want = pairs(&run([1, 0, 1])?.to_vec().map_err(say)?);
        let got = run([1, bad, 1])?;
        reported(&format!("{n} qubits, the number {bad}"), device)?;
        let got = pairs(&got.to_vec().map_err(say)?);
        let width = 2 << n;
        if !got[width..2 * width].iter().all(|x| x.is_nan()) {
            return Err(format!("{n} qubits: the state of number {bad} is not NaN"));
        }
        same_bits("before the bad number", &got[..width], &want[..width])?;
        same_bits("behind the bad number", &got[2 * width..], &want[2 * width..])?;
    }
    Ok(())
}

fn reported(what: &str, device: &Device) -> Result<(), String> {
    match device.synchronize() {
        Err(Error::DeviceValue { .. }) => {
            device.synchronize().map_err(|error| format!("{what} was reported twice: {error}"))
        }
        other => Err(format!("{what} was reported as {other:?}")),
    }
}

/// The plan says how many launches a gradient takes, one while a state stays on the chip, and what each moves.
pub fn the_way_back_is_explained(device: &TestDevice) -> Result<(), String> {
    if device.backend() != Backend::Cpu {
        // Says the same wherever it is asked.
        return Ok(());
    }
    for n in [1usize, 7, 12, 13] {
        let text = circuit(n).map_err(say)?.compile().map_err(say)?.explain();
        let wrong = |what: &str| Err(format!("{n} qubits, {what}:\n{text}"));
        let mut lines = text.lines().skip_while(|line| !line.contains("the gradient from one of the states"));
        let Some(head) = lines.next() else { return wrong("no gradient") };
        let words: Vec<&str> = head.split_whitespace().collect();
        let count = words.iter().position(|&word| word == "launch(es)").map(|at| words[at - 1]);
        let Some(count) = count.and_then(|count| count.parse::<usize>().ok()) else {
            return wrong("no number of launches");
        };
        let launches: Vec<&str> = lines.take_while(|line| line.starts_with("  launch ")).collect();
        if launches.len() != count || (count == 1) != (n <= 12) {
            return wrong("a launch too many or too few");
        }
        if !launches.iter().all(|line| line.contains("bytes loaded") && line.contains("stored")) {
            return wrong("a launch without its bytes");
        }
    }
    let once = Circuit::new(1).map_err(say)?.unitary(&[0], &[C::new(2.0, 0.0); 4]).map_err(say)?.clone();
    let text = once.compile().map_err(say)?.explain();
    if text.contains("the gradient from") {
        return Err(format!("a way back over a matrix that is not unitary:\n{text}"));
    }
    Ok(())
}
