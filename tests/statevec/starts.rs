//! What a run starts from, and the gradients of amplitudes.

use crate::case::{self, Item, PARAMETERS, all_kinds};
use crate::states::{pairs, say};
use crate::support::compare::{close, close_norm};
use crate::support::devices::TestDevice;
use crate::support::oracle_statevec::{self as oracle, Operation};
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use crate::support::tolerance::{
    CENTRAL_DIFFERENCE, CENTRAL_DIFFERENCE_STEP, statevec_c64, statevec_gradient_c64,
};
use gatewarp::statevec::{Axis, Batch, Circuit, Gate, Parameter};
use gatewarp::{Backend, Complex32, Complex64 as C, Device, Error, Tensor, TensorRef};
use proptest::prelude::*;

/// How the states of a case begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Zero,
    Rows,
    Shared,
    ByTask,
    RealAmplitudes,
    ComplexAmplitudes,
    Basis,
}

pub const KINDS: [Kind; 7] = [
    Kind::Zero,
    Kind::Rows,
    Kind::Shared,
    Kind::ByTask,
    Kind::RealAmplitudes,
    Kind::ComplexAmplitudes,
    Kind::Basis,
];

/// A start in host memory: rows of amplitudes, which row each sample takes, and the numbers of basis states.
pub struct Start {
    pub kind: Kind,
    pub width: usize,
    pub rows: Vec<C>,
    pub row_of: Vec<usize>,
}

pub const TASKS: usize = 3;

impl Start {
    pub fn new(kind: Kind, n: usize, samples: usize, random: &mut Random) -> Self {
        let states = 1 << n;
        let encodes = matches!(kind, Kind::RealAmplitudes | Kind::ComplexAmplitudes);
        let width = if encodes { 1 + random.below(states) } else { states };
        let count = match kind {
            Kind::Zero | Kind::Shared => 1,
            Kind::ByTask => TASKS,
            _ => samples,
        };
        let mut number = || f64::from(random.signed());
        let mut rows: Vec<C> = (0..count * width).map(|_| C::new(number(), number())).collect();
        match kind {
            Kind::Zero => rows = oracle::zero_state(n),
            Kind::RealAmplitudes => rows.iter_mut().for_each(|x| x.im = 0.0),
            Kind::Basis => {
                rows.fill(C::ZERO);
                rows.chunks_mut(states).for_each(|row| row[random.below(states)] = C::ONE);
            }
            _ => {}
        }
        let row_of = (0..samples).map(|sample| match kind {
            Kind::Zero | Kind::Shared => 0,
            Kind::ByTask => random.below(TASKS),
            _ => sample,
        });
        let row_of = row_of.collect();
        Self { kind, width, rows, row_of }
    }

    /// The first state of a sample, from rows that may have been changed.
    pub fn state(&self, rows: &[C], sample: usize, n: usize) -> Vec<C> {
        let row = &rows[self.row_of[sample] * self.width..][..self.width];
        let mut state = vec![C::ZERO; 1 << n];
        state[..self.width].copy_from_slice(row);
        if matches!(self.kind, Kind::RealAmplitudes | Kind::ComplexAmplitudes) {
            let norm = row.iter().map(C::norm_sqr).sum::<f64>().sqrt();
            state.iter_mut().for_each(|x| *x /= norm);
        }
        state
    }

    /// The batch's tensor, and the task ids.
    pub fn tensors(&self, device: &Device) -> gatewarp::Result<(Tensor, Tensor)> {
        let shape = [self.rows.len() / self.width, self.width];
        let complex: Vec<Complex32> =
            self.rows.iter().map(|x| Complex32::new(x.re as f32, x.im as f32)).collect();
        let real: Vec<f32> = complex.iter().map(|x| x.re).collect();
        let tensor = match self.kind {
            Kind::RealAmplitudes => Tensor::from_slice(device, &real, &shape),
            Kind::Basis => {
                let numbers = real.chunks(self.width).map(|row| row.iter().position(|&x| x == 1.0));
                let numbers: Vec<i32> = numbers.map(|at| at.map_or(-1, |at| at as i32)).collect();
                Tensor::from_slice(device, &numbers, &[numbers.len()])
            }
            _ => Tensor::from_slice(device, &complex, &shape),
        }?;
        let ids: Vec<i32> = self.row_of.iter().map(|&row| row as i32).collect();
        Ok((tensor, Tensor::from_slice(device, &ids, &[ids.len()])?))
    }

    pub fn set<'a>(&self, batch: Batch<'a>, tensor: &'a Tensor, ids: &'a Tensor) -> Batch<'a> {
        match self.kind {
            Kind::Zero => batch,
            Kind::Rows | Kind::Shared => batch.initial(tensor),
            Kind::ByTask => batch.task_initial(tensor).tasks(ids),
            Kind::RealAmplitudes | Kind::ComplexAmplitudes => batch.amplitudes(tensor),
            Kind::Basis => batch.basis_states(tensor),
        }
    }
}

/// States from every start, and the gradients of L = Σ Re⟨g|ψ⟩ for a random g by parameters, inputs and amplitudes.
pub fn states_go_back_to_what_they_came_from(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=4, 1usize..=20, 1usize..=19, 0usize..KINDS.len());
    let name = "states_go_back_to_what_they_came_from";
    check(name, device, CASES, &strategy, |device, &(seed, n, gates, samples, kind)| {
        let random = &mut Random::new(seed, 50);
        let items = case::random_items(n, gates, &all_kinds(), random);
        let program = case::circuit(n, &items).compile().map_err(say)?;
        let start = Start::new(KINDS[kind], n, samples, random);
        let theta = random.values(PARAMETERS, 4.0);
        let inputs = random.values(samples * PARAMETERS, 4.0);
        let (tensor, ids) = start.tensors(device).map_err(say)?;
        let batch = Batch::new(device, samples)
            .theta(TensorRef::from_slice(&theta, &[PARAMETERS]).map_err(say)?)
            .inputs(TensorRef::from_slice(&inputs, &[samples, PARAMETERS]).map_err(say)?);
        let batch = start.set(batch, &tensor, &ids);
        let got = pairs(&program.run(&batch).map_err(say)?.to_vec().map_err(say)?);
        let (wide_theta, wide_inputs) = (case::wide(&theta), case::wide(&inputs));
        let operations = |theta: &[f64], inputs: &[f64], sample: usize| -> Vec<Operation> {
            let input = &inputs[sample * PARAMETERS..][..PARAMETERS];
            items.iter().map(|item| case::operation(item, theta, input)).collect()
        };
        let final_state = |rows: &[C], theta: &[f64], inputs: &[f64], sample: usize| {
            oracle::run(&operations(theta, inputs, sample), &start.state(rows, sample, n))
        };
        let size = (0..samples)
            .map(|s| start.state(&start.rows, s, n).iter().map(C::norm_sqr).sum::<f64>().sqrt())
            .fold(1.0, f64::max);
        for sample in 0..samples {
            let want = final_state(&start.rows, &wide_theta, &wide_inputs, sample);
            let got = &got[sample << (n + 1)..][..2 << n];
            let bound = 2.0 * size * statevec_c64(gates);
            close_norm(&format!("sample {sample}"), got, &oracle::interleaved(&want), bound)?;
        }
        let cotangent: Vec<Complex32> =
            (0..samples << n).map(|_| Complex32::new(random.signed(), random.signed())).collect();
        let g = Tensor::from_slice(device, &cotangent, &[samples, 1 << n]).map_err(say)?;
        let out = program.backward_states(&batch, &g.view()).map_err(say)?;
        let loss = |rows: &[C], theta: &[f64], inputs: &[f64]| -> f64 {
            (0..samples)
                .flat_map(|sample| {
                    let state = final_state(rows, theta, inputs, sample);
                    let g = &cotangent[sample << n..][..1 << n];
                    let parts =
                        g.iter().zip(state).map(|(g, x)| f64::from(g.re) * x.re + f64::from(g.im) * x.im);
                    parts.collect::<Vec<_>>()
                })
                .sum()
        };
        let h = CENTRAL_DIFFERENCE_STEP;
        let slope = |at: &dyn Fn(f64) -> f64| (at(h) - at(-h)) / (2.0 * h);
        let strength = size * f64::from(2u32 << n).sqrt();
        let uses = 6.0 * gates as f64;
        let bound =
            statevec_gradient_c64(gates, strength, 1.0) * uses.sqrt() + CENTRAL_DIFFERENCE * uses * strength;
        let moved = |values: &[f64], i: usize, step: f64| {
            let mut values = values.to_vec();
            values[i] += step;
            values
        };
        let all = samples as f64;
        let want: Vec<f64> = (0..PARAMETERS)
            .map(|i| slope(&|step| loss(&start.rows, &moved(&wide_theta, i, step), &wide_inputs)))
            .collect();
        close("dtheta", &out.theta.to_vec::<f32>().map_err(say)?, &want, &[all * bound; PARAMETERS])?;
        let some = random.below(samples) * PARAMETERS;
        let want: Vec<f64> = (some..some + PARAMETERS)
            .map(|i| slope(&|step| loss(&start.rows, &wide_theta, &moved(&wide_inputs, i, step))))
            .collect();
        let got = out.inputs.to_vec::<f32>().map_err(say)?;
        // The loss of all samples is what is differenced.
        let noise = 1e-9 * all * strength;
        close("dinputs", &got[some..some + PARAMETERS], &want, &[bound + noise; PARAMETERS])?;
        let Some(initial) = &out.initial else {
            return if matches!(start.kind, Kind::Zero | Kind::Basis) {
                Ok(())
            } else {
                Err("no gradient".into())
            };
        };
        if initial.shape() != tensor.shape() || initial.dtype() != tensor.dtype() {
            return Err(format!("the gradient of {tensor:?} is {initial:?}"));
        }
        let real = start.kind == Kind::RealAmplitudes;
        let got: Vec<f32> = if real {
            initial.to_vec().map_err(say)?
        } else {
            pairs(&initial.to_vec::<Complex32>().map_err(say)?)
        };
        let along = |i: usize, direction: C| {
            slope(&|step| {
                let mut rows = start.rows.clone();
                rows[i] += direction * step;
                loss(&rows, &wide_theta, &wide_inputs)
            })
        };
        let smallest = start
            .rows
            .chunks(start.width)
            .map(|row| row.iter().map(C::norm_sqr).sum::<f64>().sqrt())
            .fold(f64::INFINITY, f64::min);
        let encodes = matches!(start.kind, Kind::RealAmplitudes | Kind::ComplexAmplitudes);
        // Dividing by a norm multiplies its gradient by as much, and the difference's error by its cube.
        let steep = if encodes { 1.0 / smallest.min(1.0) } else { 1.0 };
        let bound = bound * all * steep + 1e-9 * all * strength * steep.powi(3);
        for _ in 0..4 {
            let i = random.below(start.rows.len());
            if real {
                close("dinitial", &got[i..=i], &[along(i, C::ONE)], &[bound])?;
            } else {
                let want = [along(i, C::ONE), along(i, C::I)];
                close("dinitial", &got[2 * i..2 * i + 2], &want, &[bound; 2])?;
            }
        }
        Ok(())
    })
}

/// The same circuit on few qubits and spread over many, back from states.
pub fn large_states_go_back_as_batched_ones(device: &TestDevice) -> Result<(), String> {
    let kinds = case::kinds_of(device);
    let strategy = (any::<u64>(), 14usize..=16, 1usize..=6, 1usize..=40);
    let name = "large_states_go_back_as_batched_ones";
    check(name, device, CASES / 8, &strategy, |device, &(seed, m, n, gates)| {
        let random = &mut Random::new(seed, 51);
        let small = case::random_items(n, gates, &kinds, random);
        let place: Vec<usize> = random.permutation(m)[..n].to_vec();
        let theta = random.values(PARAMETERS, 4.0);
        let inputs = random.values(PARAMETERS, 4.0);
        let spread = |index: usize| (0..n).map(|q| (index >> q & 1) << place[q]).sum::<usize>();
        let back = |items: &[Item], qubits: usize, rows: [&[Complex32]; 2]| {
            let program = case::circuit(qubits, items).compile().map_err(say)?;
            let initial = Tensor::from_slice(device, rows[0], &[1, 1 << qubits]).map_err(say)?;
            let g = Tensor::from_slice(device, rows[1], &[1, 1 << qubits]).map_err(say)?;
            let batch = Batch::new(device, 1)
                .theta(TensorRef::from_slice(&theta, &[PARAMETERS]).map_err(say)?)
                .inputs(TensorRef::from_slice(&inputs, &[1, PARAMETERS]).map_err(say)?)
                .initial(&initial);
            program.backward_states(&batch, &g.view()).map_err(say)
        };
        let rows = [0, 1].map(|_| -> Vec<Complex32> {
            (0..1 << n).map(|_| Complex32::new(random.signed(), random.signed())).collect()
        });
        let large = rows.each_ref().map(|row| {
            let mut wide = vec![Complex32::ZERO; 1 << m];
            row.iter().enumerate().for_each(|(i, &x)| wide[spread(i)] = x);
            wide
        });
        let want = back(&small, n, [&rows[0], &rows[1]])?;
        let got = back(&case::moved(&small, &place), m, [&large[0], &large[1]])?;
        let strength = f64::from(4u32 << n);
        let bound = 2.0 * statevec_gradient_c64(gates, strength, 1.0) * (6.0 * gates as f64).sqrt();
        let (theta, again) =
            (want.theta.to_vec::<f32>().map_err(say)?, got.theta.to_vec::<f32>().map_err(say)?);
        close("dtheta", &again, &case::wide(&theta), &[bound; PARAMETERS])?;
        let (Some(want), Some(got)) = (want.initial, got.initial) else { return Err("no gradient".into()) };
        let got = got.to_vec::<Complex32>().map_err(say)?;
        let got: Vec<Complex32> = (0..1 << n).map(|i| got[spread(i)]).collect();
        let want = case::wide(&pairs(&want.to_vec().map_err(say)?));
        close_norm("dinitial", &pairs(&got), &want, bound).map(drop)
    })
}

/// Encodings as their definitions: products of rotations, and H·diag·H·diag… of a sum of squares.
pub fn encodings_are_their_definitions(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=5, 0usize..=3);
    check("encodings_are_their_definitions", device, CASES / 4, &strategy, |device, &(seed, n, layers)| {
        let random = &mut Random::new(seed, 52);
        let x = random.values(n, 3.0);
        let run = |circuit: &Circuit, inputs: &[f32]| {
            let inputs = &inputs[..circuit.inputs()];
            crate::states::run(&circuit.compile().map_err(say)?, device, 1, &[], inputs)
        };
        for (axis, matrix) in
            [(Axis::X, oracle::rx as fn(f64) -> Vec<C>), (Axis::Y, oracle::ry), (Axis::Z, oracle::rz)]
        {
            let mut circuit = Circuit::new(n).map_err(say)?;
            circuit.angle_encoding(axis).map_err(say)?;
            let operations: Vec<Operation> = (0..n)
                .flat_map(|q| {
                    let hadamard = (axis == Axis::Z).then(|| Operation::new(oracle::h(), &[q]));
                    hadamard.into_iter().chain([Operation::new(matrix(x[q].into()), &[q])])
                })
                .collect();
            let want = oracle::interleaved(&oracle::run(&operations, &oracle::zero_state(n)));
            close_norm("angles", &run(&circuit, &x)?, &want, statevec_c64(2 * n))?;
        }
        let mut circuit = Circuit::new(n).map_err(say)?;
        circuit.iqp_encoding(layers).map_err(say)?;
        let mut state = oracle::zero_state(n);
        for _ in 0..layers {
            let hadamards: Vec<Operation> = (0..n).map(|q| Operation::new(oracle::h(), &[q])).collect();
            state = oracle::run(&hadamards, &state);
            for (index, amplitude) in state.iter_mut().enumerate() {
                let z = |q: usize| if index >> q & 1 == 1 { -f64::from(x[q]) } else { f64::from(x[q]) };
                let pairs = (0..n).flat_map(|p| (p + 1..n).map(move |q| (p, q)));
                let angle: f64 = (0..n).map(z).sum::<f64>() + pairs.map(|(p, q)| z(p) * z(q)).sum::<f64>();
                *amplitude *= C::from_polar(1.0, angle);
            }
        }
        let got = run(&circuit, &Circuit::iqp_inputs(&x))?;
        let gates = 1 + layers * n * (n + 3) / 2;
        // A product of two inputs is rounded to f32 once more, up to 9·2⁻²⁴.
        let bound = statevec_c64(gates) + 6e-7 * (layers * n * n) as f64;
        close_norm("IQP", &got, &oracle::interleaved(&state), bound).map(drop)
    })
}

pub fn bad_starts_are_typed_errors(device: &TestDevice) -> Result<(), String> {
    let device = device.handle(0);
    let program = Circuit::new(2).map_err(say)?.h(0).map_err(say)?.compile().map_err(say)?;
    let batch = || Batch::new(device, 2);
    let tensor = |data: &[f32], shape: &[usize]| Tensor::from_slice(device, data, shape).map_err(say);
    let shape = |what: &str, result: gatewarp::Result<Tensor>| match result {
        Err(Error::Shape { arg: "initial", .. }) => Ok(()),
        other => Err(format!("{what}: {other:?}")),
    };
    shape("five amplitudes", program.run(&batch().amplitudes(&tensor(&[1.0; 10], &[2, 5])?)))?;
    shape("no amplitudes", program.run(&batch().amplitudes(&tensor(&[], &[2, 0])?)))?;
    shape("three rows", program.run(&batch().amplitudes(&tensor(&[1.0; 3], &[3, 1])?)))?;
    let numbers = |numbers: &[i32]| Tensor::from_slice(device, numbers, &[numbers.len()]).map_err(say);
    shape("three numbers", program.run(&batch().basis_states(&numbers(&[0, 1, 2])?)))?;
    let argument = |what: &str, result: gatewarp::Result<Tensor>| match result {
        Err(Error::InvalidArgument { .. }) => Ok(()),
        other => Err(format!("{what}: {other:?}")),
    };
    let states = Tensor::from_slice(device, &[Complex32::ONE; 12], &[3, 4]).map_err(say)?;
    argument("no tasks", program.run(&batch().task_initial(&states)))?;
    let ids = numbers(&[2, 3])?;
    if device.backend() == Backend::Cpu {
        for (what, row) in [("zero", [0.0, 0.0]), ("NaN", [0.0, f32::NAN]), ("∞", [f32::INFINITY, 1.0])] {
            let rows = [0.5, 0.5, row[0], row[1]];
            argument(what, program.run(&batch().amplitudes(&tensor(&rows, &[2, 2])?)))?;
        }
        argument("number", program.run(&batch().basis_states(&numbers(&[0, 4])?)))?;
        argument("negative number", program.run(&batch().basis_states(&numbers(&[-1, 0])?)))?;
        match program.run(&batch().task_initial(&states).tasks(&ids)) {
            Err(Error::TaskId { got: 3, tasks: 3, .. }) => {}
            other => return Err(format!("task 3 of 3: {other:?}")),
        }
    }
    // Numbers whose squares leave f32 are normalised all the same.
    let big = tensor(&[3e30, 4e30, 3e-30, -4e-30], &[2, 2])?;
    let got = pairs(&program.run(&batch().amplitudes(&big)).map_err(say)?.to_vec().map_err(say)?);
    let r = std::f64::consts::FRAC_1_SQRT_2;
    let want =
        [1.4 * r, 0.0, -0.2 * r, 0.0, 0.0, 0.0, 0.0, 0.0, -0.2 * r, 0.0, 1.4 * r, 0.0, 0.0, 0.0, 0.0, 0.0];
    close("normalised", &got, &want, &[1e-6; 16])?;
    let wide = Tensor::from_slice(device, &[C::ONE; 8], &[2, 4]).map_err(say)?;
    match program.run(&batch().initial(&wide)) {
        Err(Error::DType { arg: "initial", .. }) => Ok(()),
        other => Err(format!("c128 amplitudes of c64 states: {other:?}")),
    }
}

/// A circuit read back is the circuit; a byte cut off or changed is an error or another legal circuit, never a panic.
pub fn circuits_survive_as_bytes(device: &TestDevice) -> Result<(), String> {
    let strategy = (any::<u64>(), 1usize..=7, 0usize..=30, any::<bool>());
    check("circuits_survive_as_bytes", device, CASES, &strategy, |_, &(seed, n, gates, declared)| {
        let random = &mut Random::new(seed, 53);
        let items = case::random_items(n, gates, &all_kinds(), random);
        let mut circuit = if declared { case::circuit(n, &items) } else { Circuit::new(n).map_err(say)? };
        if !declared {
            for item in &items {
                circuit.controlled(&item.controls, item.gate.clone(), &item.targets).map_err(say)?;
            }
            circuit.push(Gate::SampleMatrix { slot: 3, adjoint: true }, &[0]).map_err(say)?;
            circuit.ry(n - 1, Parameter::Theta(200)).map_err(say)?;
        }
        let bytes = circuit.to_bytes();
        let again = Circuit::from_bytes(&bytes).map_err(say)?;
        if again != circuit || again.to_bytes() != bytes {
            return Err(format!("{circuit:?} came back as {again:?}"));
        }
        let (a, b) = (circuit.compile().map_err(say)?, again.compile().map_err(say)?);
        if a.explain() != b.explain() {
            return Err("compiles to something else".into());
        }
        for cut in [0, 3, 4, 5, bytes.len() / 2, bytes.len() - 1] {
            if Circuit::from_bytes(&bytes[..cut.min(bytes.len() - 1)]).is_ok() {
                return Err(format!("{cut} of {} bytes were a circuit", bytes.len()));
            }
        }
        for _ in 0..16 {
            let mut spoiled = bytes.clone();
            let at = random.below(bytes.len());
            spoiled[at] = random.below(256) as u8;
            match Circuit::from_bytes(&spoiled) {
                Ok(_) | Err(Error::InvalidArgument { .. }) => {}
                Err(other) => return Err(format!("byte {at}: {other:?}")),
            }
        }
        match Circuit::from_bytes(&[bytes, vec![0]].concat()) {
            Err(Error::InvalidArgument { .. }) => Ok(()),
            other => Err(format!("a byte too many: {other:?}")),
        }
    })
}
