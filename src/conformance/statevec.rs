//! Cases of `statevec`: random circuits with shared and per-sample parameters, and everything that is read out of them.

use super::compare::{Comparison, Expected, Output};
use super::random::Random;
use super::{Checked, Failure, Operation};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::statevec::{Batch, Circuit, Control, Gate, Parameter, PauliString, PauliSum, Program, Variable};
use crate::tensor::Tensor;
use num_complex::{Complex32, Complex64 as C};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_PI_4};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation { name: "statevec_run", check: run },
    Operation { name: "statevec_probabilities", check: probabilities },
    Operation { name: "statevec_expectations", check: expectations },
    Operation { name: "statevec_gradient", check: gradient },
];

/// Values in `theta`, and in each sample's row of `inputs`.
const PARAMETERS: usize = 4;
/// Unit roundoff of f32.
const U: f64 = 1.0 / (1u32 << 24) as f64;

/// A matrix on some qubits, in f64; the first target is the least significant bit of its index.
struct Matrix {
    entries: Vec<C>,
    targets: Vec<usize>,
}

/// A gate as the library takes it.
struct Placed {
    gate: Gate,
    targets: Vec<usize>,
    controls: Vec<Control>,
    /// Factors of a Pauli rotation.
    factors: Vec<(char, usize)>,
}

/// Terms of an observable: a coefficient, and a Pauli matrix for each qubit it acts on.
type Terms = Vec<(f64, Vec<(char, usize)>)>;

/// A batch of runs of one circuit.
struct Case {
    qubits: usize,
    samples: usize,
    gates: Vec<Placed>,
    theta: Vec<f32>,
    inputs: Vec<f32>,
    /// Normalised, `[samples, 2^qubits]`; |0…0⟩ if absent.
    initial: Option<Vec<Complex32>>,
    observables: Vec<Terms>,
    weights: Vec<f32>,
}

fn letters(random: &mut Random, qubits: &[usize]) -> Vec<(char, usize)> {
    qubits.iter().map(|&qubit| (random.choose(&['X', 'Y', 'Z']), qubit)).collect()
}

fn signed(random: &mut Random, size: f32) -> f64 {
    random.values(1, size)[0].into()
}

fn parameter(random: &mut Random) -> Parameter {
    let index = random.between(0, PARAMETERS - 1);
    let of = if random.one_in(2) { Variable::Theta(index) } else { Variable::Input(index) };
    match random.between(0, 4) {
        0 => Parameter::Constant(signed(random, 7.0)),
        1 => Parameter::Theta(index),
        2 => Parameter::Input(index),
        _ => Parameter::Affine { scale: signed(random, 2.0), of, offset: signed(random, 3.0) },
    }
}

fn placed(random: &mut Random, qubits: usize) -> Placed {
    // A random order: the first ones are targets, the next ones controls.
    let mut order: Vec<usize> = (0..qubits).collect();
    (1..qubits).for_each(|i| order.swap(i, random.between(0, i)));
    let mut next = || parameter(random);
    let one = [
        Gate::X,
        Gate::Y,
        Gate::H,
        Gate::Sdg,
        Gate::T,
        Gate::Sx,
        Gate::Rx(next()),
        Gate::Ry(next()),
        Gate::Rz(next()),
        Gate::Phase(next()),
        Gate::U3(next(), next(), next()),
    ];
    let two = [Gate::Swap, Gate::ISwap, Gate::Rxx(next()), Gate::Ryy(next()), Gate::Rzz(next())];
    let kind = random.between(0, 9);
    let (gate, targets, factors) = match kind {
        0..=4 => (one[random.between(0, one.len() - 1)].clone(), order[..1].to_vec(), vec![]),
        5 | 6 if qubits > 1 => (two[random.between(0, two.len() - 1)].clone(), order[..2].to_vec(), vec![]),
        7 => {
            // Any unitary of one qubit: a U3 times a phase.
            let angles = [(); 4].map(|()| signed(random, 3.0));
            let phase = C::from_polar(1.0, angles[3]);
            let entries = u3(angles[0], angles[1], angles[2]).iter().map(|x| x * phase).collect();
            (Gate::Matrix(entries), order[..1].to_vec(), vec![])
        }
        8 => {
            let count = random.between(1, qubits.min(3));
            let entries = (0..1 << count).map(|_| C::from_polar(1.0, signed(random, 3.0))).collect();
            (Gate::Diagonal(entries), order[..count].to_vec(), vec![])
        }
        _ => {
            let count = random.between(1, qubits.min(3));
            let factors = letters(random, &order[..count]);
            let angle = parameter(random);
            // Distinct qubits and known letters: a string that cannot be refused stands for itself.
            match PauliString::new(&factors) {
                Ok(string) => (Gate::PauliRotation(string, angle), vec![], factors),
                Err(_) => (Gate::Rx(angle), order[..1].to_vec(), vec![]),
            }
        }
    };
    let used = targets.len().max(factors.len());
    let controls = if random.one_in(3) { random.between(0, 2).min(qubits - used) } else { 0 };
    let control = |&qubit: &usize| Control { qubit, value: qubit % 3 != 0 };
    Placed { gate, targets, controls: order[used..used + controls].iter().map(control).collect(), factors }
}

impl Case {
    fn new(number: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        // Every eighth state does not fit on chip.
        let qubits = if number % 8 == 7 { random.between(11, 13) } else { random.between(1, 8) };
        let samples = if qubits > 8 { 2 } else { random.between(1, 5) };
        let count = random.between(1, if qubits > 8 { 16 } else { 40 });
        let gates = (0..count).map(|_| placed(&mut random, qubits)).collect();
        let initial = random.one_in(2).then(|| {
            let sample = |random: &mut Random| {
                let values = random.values(2 << qubits, 1.0);
                let norm = values.iter().map(|x| x * x).sum::<f32>().sqrt();
                values.chunks(2).map(|z| Complex32::new(z[0] / norm, z[1] / norm)).collect::<Vec<_>>()
            };
            (0..samples).flat_map(|_| sample(&mut random)).collect()
        });
        let term = |random: &mut Random| {
            let support: Vec<usize> = (0..qubits).filter(|_| random.one_in(2)).collect();
            (signed(random, 2.0), letters(random, &support))
        };
        let observables: Vec<Terms> = (0..random.between(1, 4))
            .map(|_| (0..random.between(1, 3)).map(|_| term(&mut random)).collect())
            .collect();
        Self {
            qubits,
            samples,
            gates,
            theta: random.values(PARAMETERS, 3.0),
            inputs: random.values(samples * PARAMETERS, 3.0),
            initial,
            weights: random.values(samples * observables.len(), 1.0),
            observables,
        }
    }

    fn describe(&self) -> String {
        let start = if self.initial.is_some() { "given states" } else { "|0…0⟩" };
        format!("{} qubits, {} gates, {} samples from {start}", self.qubits, self.gates.len(), self.samples)
    }

    fn program(&self) -> Result<Program> {
        let mut circuit = Circuit::with_parameters(self.qubits, PARAMETERS, PARAMETERS)?;
        for placed in &self.gates {
            circuit.controlled(&placed.controls, placed.gate.clone(), &placed.targets)?;
        }
        circuit.compile()
    }

    fn sums(&self) -> Result<Vec<PauliSum>> {
        let sum = |terms: &Terms| {
            terms
                .iter()
                .try_fold(PauliSum::new(), |sum, (coefficient, factors)| sum.plus(*coefficient, factors))
        };
        self.observables.iter().map(sum).collect()
    }

    /// ‖got − want‖₂ of a state that passed all gates.
    fn tolerance(&self) -> f64 {
        2e-7 * (self.gates.len() as f64).sqrt()
    }
}

fn u3(theta: f64, phi: f64, lambda: f64) -> [C; 4] {
    let (c, s) = ((theta / 2.0).cos(), (theta / 2.0).sin());
    let phase = |angle| C::from_polar(1.0, angle);
    [C::new(c, 0.0), -phase(lambda) * s, phase(phi) * s, phase(phi + lambda) * c]
}

/// exp(−i·angle/2·P) of a product P of Pauli matrices, the first factor least significant.
fn rotation(letters: &[char], angle: f64) -> Vec<C> {
    let size = 1 << letters.len();
    let (c, s) = ((angle / 2.0).cos(), C::new(0.0, -(angle / 2.0).sin()));
    let mut entries = vec![C::ZERO; size * size];
    for column in 0..size {
        // P maps a basis state to another one, with a phase.
        let (mut row, mut phase) = (column, C::ONE);
        for (place, letter) in letters.iter().enumerate() {
            let one = column >> place & 1 == 1;
            phase *= match letter {
                'X' => C::ONE,
                'Y' => {
                    if one {
                        -C::I
                    } else {
                        C::I
                    }
                }
                _ => {
                    if one {
                        -C::ONE
                    } else {
                        C::ONE
                    }
                }
            };
            row ^= usize::from(*letter != 'Z') << place;
        }
        entries[row * size + column] += s * phase;
        entries[column * size + column] += c;
    }
    entries
}

fn diagonal(entries: &[C]) -> Vec<C> {
    let size = entries.len();
    (0..size * size).map(|at| if at / size == at % size { entries[at / size] } else { C::ZERO }).collect()
}

/// The gate's matrix for one sample; `None` for a gate that no case draws.
fn matrix(placed: &Placed, value: impl Fn(Parameter) -> f64) -> Option<Matrix> {
    let (one, i, zero) = (C::ONE, C::I, C::ZERO);
    let half = C::new(0.5, 0.5);
    let entries = match &placed.gate {
        Gate::X => vec![zero, one, one, zero],
        Gate::Y => vec![zero, -i, i, zero],
        Gate::H => [1.0, 1.0, 1.0, -1.0].map(|x| C::new(x * FRAC_1_SQRT_2, 0.0)).to_vec(),
        Gate::Sdg => diagonal(&[one, -i]),
        Gate::T => diagonal(&[one, C::from_polar(1.0, FRAC_PI_4)]),
        Gate::Sx => vec![half, half.conj(), half.conj(), half],
        Gate::Rx(angle) => rotation(&['X'], value(*angle)),
        Gate::Ry(angle) => rotation(&['Y'], value(*angle)),
        Gate::Rz(angle) => rotation(&['Z'], value(*angle)),
        Gate::Phase(angle) => diagonal(&[one, C::from_polar(1.0, value(*angle))]),
        Gate::U3(a, b, c) => u3(value(*a), value(*b), value(*c)).to_vec(),
        Gate::Swap | Gate::ISwap => {
            let moved = if placed.gate == Gate::Swap { one } else { i };
            let mut entries = diagonal(&[one, zero, zero, one]);
            (entries[6], entries[9]) = (moved, moved);
            entries
        }
        Gate::Rxx(angle) => rotation(&['X', 'X'], value(*angle)),
        Gate::Ryy(angle) => rotation(&['Y', 'Y'], value(*angle)),
        Gate::Rzz(angle) => rotation(&['Z', 'Z'], value(*angle)),
        Gate::PauliRotation(_, angle) => {
            let letters: Vec<char> = placed.factors.iter().map(|factor| factor.0).collect();
            rotation(&letters, value(*angle))
        }
        Gate::Matrix(entries) => entries.clone(),
        Gate::Diagonal(entries) => diagonal(entries),
        _ => return None,
    };
    let string = placed.factors.iter().map(|factor| factor.1);
    Some(Matrix {
        entries,
        targets: if placed.factors.is_empty() { placed.targets.clone() } else { string.collect() },
    })
}

/// Applies a matrix where the controls hold: every row's sum over the columns that differ in the targets alone.
fn apply(matrix: &Matrix, controls: &[Control], state: &[C]) -> Vec<C> {
    let size = 1 << matrix.targets.len();
    let spread = |pattern: usize, index: usize| {
        let places = matrix.targets.iter().enumerate();
        places
            .fold(index, |index, (place, &qubit)| (index & !(1 << qubit)) | ((pattern >> place & 1) << qubit))
    };
    let gather = |index: usize| -> usize {
        matrix.targets.iter().enumerate().map(|(place, &qubit)| (index >> qubit & 1) << place).sum()
    };
    let held =
        |index: usize| controls.iter().all(|control| (index >> control.qubit & 1 == 1) == control.value);
    let row = |index: usize| {
        if !held(index) {
            return state[index];
        }
        let row = gather(index);
        (0..size).map(|column| matrix.entries[row * size + column] * state[spread(column, index)]).sum()
    };
    (0..state.len()).map(row).collect()
}

/// The final state of one sample, in f64.
fn final_state(
    case: &Case,
    sample: usize,
    theta: &[f64],
    inputs: &[f64],
) -> std::result::Result<Vec<C>, Failure> {
    let size = 1 << case.qubits;
    let mut state: Vec<C> = match &case.initial {
        Some(all) => all[sample * size..][..size].iter().map(|z| C::new(z.re.into(), z.im.into())).collect(),
        None => (0..size).map(|index| if index == 0 { C::ONE } else { C::ZERO }).collect(),
    };
    let variable = |of: Variable| match of {
        Variable::Theta(index) => theta[index],
        Variable::Input(index) => inputs[index],
    };
    let value = |parameter: Parameter| match parameter {
        Parameter::Constant(value) => value,
        Parameter::Theta(index) => theta[index],
        Parameter::Input(index) => inputs[index],
        Parameter::Affine { scale, of, offset } => scale * variable(of) + offset,
    };
    for placed in &case.gates {
        let Some(matrix) = matrix(placed, value) else {
            return Err(Failure::Wrong(format!("the reference does not know {:?}", placed.gate)));
        };
        state = apply(&matrix, &placed.controls, &state);
    }
    Ok(state)
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| x.into()).collect()
}

/// Final states of all samples.
fn states(case: &Case) -> std::result::Result<Vec<Vec<C>>, Failure> {
    let theta = widen(&case.theta);
    let rows = case.inputs.chunks(PARAMETERS).enumerate();
    rows.map(|(sample, inputs)| final_state(case, sample, &theta, &widen(inputs))).collect()
}

/// Σ c·⟨ψ|P|ψ⟩.
fn expectation(state: &[C], terms: &Terms) -> f64 {
    let term = |(coefficient, factors): &(f64, Vec<(char, usize)>)| {
        // −i·P is the rotation by π.
        let image = factors.iter().fold(state.to_vec(), |state, &(letter, qubit)| {
            let entries = rotation(&[letter], std::f64::consts::PI).iter().map(|x| x * C::I).collect();
            apply(&Matrix { entries, targets: vec![qubit] }, &[], &state)
        });
        coefficient * state.iter().zip(&image).map(|(a, b)| (a.conj() * b).re).sum::<f64>()
    };
    terms.iter().map(term).sum()
}

/// Σ |c| of an observable.
fn size(terms: &Terms) -> f64 {
    terms.iter().map(|term| term.0.abs()).sum()
}

/// Tensors that a batch refers to.
struct Tensors {
    theta: Tensor,
    inputs: Tensor,
    initial: Option<Tensor>,
}

impl Tensors {
    fn new(device: &Device, case: &Case) -> Result<Self> {
        let size = 1 << case.qubits;
        let initial = case.initial.as_ref();
        Ok(Self {
            theta: Tensor::from_slice(device, &case.theta, &[PARAMETERS])?,
            inputs: Tensor::from_slice(device, &case.inputs, &[case.samples, PARAMETERS])?,
            initial: initial.map(|all| Tensor::from_slice(device, all, &[case.samples, size])).transpose()?,
        })
    }

    fn batch(&self, device: &Device, case: &Case) -> Batch<'_> {
        let batch = Batch::new(device, case.samples).theta(&self.theta).inputs(&self.inputs);
        match &self.initial {
            Some(initial) => batch.initial(initial),
            None => batch,
        }
    }
}

type Verdict = std::result::Result<f64, Failure>;

fn checked(number: usize, seed: u64, check: impl Fn(&Case) -> Verdict) -> Checked {
    let case = Case::new(number, seed);
    Checked { problem: case.describe(), worst: check(&case) }
}

fn run(device: &Device, number: usize, seed: u64) -> Checked {
    checked(number, seed, |case| {
        let tensors = Tensors::new(device, case)?;
        let size = 1 << case.qubits;
        let mut out = Output::of(device, DType::C64, &[case.samples, size])?;
        case.program()?.run_into(&tensors.batch(device, case), &mut out.view_mut()?)?;
        let got = out.read("states")?;
        let mut comparison = Comparison::default();
        for (sample, want) in states(case)?.iter().enumerate() {
            let want: Vec<f64> = want.iter().flat_map(|z| [z.re, z.im]).collect();
            let name = format!("state {sample}");
            comparison.check_norm(&name, &got[sample * 2 * size..][..2 * size], &want, case.tolerance())?;
        }
        Ok(comparison.worst)
    })
}

fn probabilities(device: &Device, number: usize, seed: u64) -> Checked {
    checked(number, seed, |case| {
        let tensors = Tensors::new(device, case)?;
        let mut out = Output::new(device, &[case.samples, 1 << case.qubits])?;
        case.program()?.probabilities_into(&tensors.batch(device, case), &mut out.view_mut()?)?;
        // |a + e|² − |a|² is at most 2|a||e| + |e|², and one amplitude's error at most the state's.
        let error = case.tolerance();
        let expected = |z: &C| {
            let tolerance = 2.0 * z.norm() * error + error * error + 4.0 * U * z.norm_sqr();
            Some(Expected { value: z.norm_sqr(), tolerance: tolerance + f64::from(f32::MIN_POSITIVE) })
        };
        let want: Vec<_> = states(case)?.iter().flatten().map(expected).collect();
        let mut comparison = Comparison::default();
        comparison.check("probabilities", &out.read("probabilities")?, &want)?;
        Ok(comparison.worst)
    })
}

fn expectations(device: &Device, number: usize, seed: u64) -> Checked {
    checked(number, seed, |case| {
        let tensors = Tensors::new(device, case)?;
        let sums = case.sums()?;
        let mut out = Output::new(device, &[case.samples, sums.len()])?;
        case.program()?.expectations_into(&tensors.batch(device, case), &sums, &mut out.view_mut()?)?;
        // ⟨ψ|P|ψ⟩ is quadratic and |P| is 1: twice the state's error, and the rounding of the sum.
        let expected = |state: &Vec<C>, terms: &Terms| {
            let tolerance = (2.0 * case.tolerance() + 8.0 * U) * size(terms);
            Some(Expected { value: expectation(state, terms), tolerance })
        };
        let states = states(case)?;
        let rows =
            states.iter().flat_map(|state| case.observables.iter().map(move |terms| expected(state, terms)));
        let mut comparison = Comparison::default();
        comparison.check("expectations", &out.read("expectations")?, &rows.collect::<Vec<_>>())?;
        Ok(comparison.worst)
    })
}

/// Against central differences of the f64 computation.
fn gradient(device: &Device, number: usize, seed: u64) -> Checked {
    // Nine evaluations a sample: kept to states that take no time.
    checked(number % 8 % 7, seed, |case| {
        let tensors = Tensors::new(device, case)?;
        let weights = Tensor::from_slice(device, &case.weights, &[case.samples, case.observables.len()])?;
        let batch = tensors.batch(device, case);
        let got = case.program()?.gradient(&batch, &case.sums()?, &weights.view())?;

        let loss = |sample: usize, theta: &[f64], inputs: &[f64]| -> Verdict {
            let state = final_state(case, sample, theta, inputs)?;
            let weights = &case.weights[sample * case.observables.len()..];
            let terms = case.observables.iter().zip(weights);
            Ok(terms.map(|(terms, &weight)| f64::from(weight) * expectation(&state, terms)).sum())
        };
        const STEP: f64 = 1e-5;
        let theta = widen(&case.theta);
        let mut comparison = Comparison::default();
        let mut by_theta = vec![Expected { value: 0.0, tolerance: 0.0 }; PARAMETERS];
        let mut by_input = Vec::new();
        for sample in 0..case.samples {
            let inputs = widen(&case.inputs[sample * PARAMETERS..][..PARAMETERS]);
            let weights = &case.weights[sample * case.observables.len()..];
            let coefficients: f64 = case
                .observables
                .iter()
                .zip(weights)
                .map(|(terms, weight)| size(terms) * f64::from(weight.abs()))
                .sum();
            // A derivative adds 2·Re⟨λ|∂U|ψ⟩ over the gates: two states with the error of the circuit and back, |∂U| at most
            // the parameter's scale, independent roundings. The last term is what central differences leave.
            let allowed =
                4.0 * case.tolerance() * 2f64.sqrt() * coefficients * 2.0 * (case.gates.len() as f64).sqrt()
                    + 1e-7;
            for at in 0..PARAMETERS {
                let moved = |values: &[f64], by: f64| {
                    let mut values = values.to_vec();
                    values[at] += by;
                    values
                };
                let slope = |up: f64, down: f64| (up - down) / (2.0 * STEP);
                by_theta[at].value += slope(
                    loss(sample, &moved(&theta, STEP), &inputs)?,
                    loss(sample, &moved(&theta, -STEP), &inputs)?,
                );
                by_theta[at].tolerance += allowed;
                let value = slope(
                    loss(sample, &theta, &moved(&inputs, STEP))?,
                    loss(sample, &theta, &moved(&inputs, -STEP))?,
                );
                by_input.push(Some(Expected { value, tolerance: allowed }));
            }
        }
        comparison.check(
            "theta",
            &got.theta.to_vec()?,
            &by_theta.into_iter().map(Some).collect::<Vec<_>>(),
        )?;
        comparison.check("inputs", &got.inputs.to_vec()?, &by_input)?;
        Ok(comparison.worst)
    })
}
