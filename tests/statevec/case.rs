//! Random circuits, as the library builds them and as the oracle multiplies them.

use crate::support::devices::TestDevice;
use crate::support::oracle_statevec::{self as oracle, Operation};
use crate::support::random::Random;
use gatewarp::statevec::{Circuit, Control, Gate, Parameter, PauliString, PauliSum, Variable};
use gatewarp::{Backend, Complex64 as C};

/// Most shared and per-sample parameters of a random circuit.
pub const PARAMETERS: usize = 5;

/// One gate, in both languages.
#[derive(Clone, Debug)]
pub struct Item {
    pub gate: Gate,
    pub targets: Vec<usize>,
    pub controls: Vec<Control>,
}

/// Kinds of gate, by number, with the number of qubits each acts on.
pub const KINDS: [(usize, &str); 41] = [
    (1, "x"),
    (1, "y"),
    (1, "z"),
    (1, "h"),
    (1, "s"),
    (1, "sdg"),
    (1, "t"),
    (1, "tdg"),
    (1, "sx"),
    (1, "sxdg"),
    (1, "rx"),
    (1, "ry"),
    (1, "rz"),
    (1, "phase"),
    (1, "u3"),
    (1, "matrix1"),
    (1, "diagonal1"),
    (2, "swap"),
    (2, "iswap"),
    (2, "iswapdg"),
    (2, "rxx"),
    (2, "ryy"),
    (2, "rzz"),
    (2, "matrix2"),
    (2, "diagonal2"),
    (2, "pauli2"),
    (3, "pauli3"),
    (3, "matrix3"),
    (3, "diagonal3"),
    (4, "diagonal4"),
    (1, "permutation1"),
    (2, "permutation2"),
    (3, "permutation3"),
    (3, "linear3"),
    (6, "diagonal6"),
    (4, "linear4"),
    (4, "permutation4"),
    (6, "permutation6"),
    (4, "matrix4"),
    (5, "matrix5"),
    (6, "matrix6"),
];

/// Kinds from this one on are the CPU's alone.
const FIRST_WIDE: usize = 35;

/// A random unitary of the given side: Gram–Schmidt on random columns.
pub fn unitary(side: usize, random: &mut Random) -> Vec<C> {
    let mut rows: Vec<Vec<C>> = Vec::new();
    while rows.len() < side {
        let mut row: Vec<C> =
            (0..side).map(|_| C::new(random.signed().into(), random.signed().into())).collect();
        for _ in 0..2 {
            for other in &rows {
                let overlap: C = other.iter().zip(&row).map(|(a, b)| a.conj() * b).sum();
                row.iter_mut().zip(other).for_each(|(x, a)| *x -= overlap * a);
            }
        }
        let norm = row.iter().map(C::norm_sqr).sum::<f64>().sqrt();
        if norm > 1e-3 {
            rows.push(row.into_iter().map(|x| x / norm).collect());
        }
    }
    rows.concat()
}

/// A gate of a kind on given qubits. `angle` makes its parameters.
pub fn gate(
    kind: usize,
    qubits: &[usize],
    random: &mut Random,
    angle: &mut dyn FnMut(&mut Random) -> Parameter,
) -> Gate {
    let phases = |random: &mut Random, n: usize| -> Vec<C> {
        (0..1 << n).map(|_| C::from_polar(1.0, f64::from(random.signed()) * 3.2)).collect()
    };
    match KINDS[kind].1 {
        "x" => Gate::X,
        "y" => Gate::Y,
        "z" => Gate::Z,
        "h" => Gate::H,
        "s" => Gate::S,
        "sdg" => Gate::Sdg,
        "t" => Gate::T,
        "tdg" => Gate::Tdg,
        "sx" => Gate::Sx,
        "sxdg" => Gate::Sxdg,
        "rx" => Gate::Rx(angle(random)),
        "ry" => Gate::Ry(angle(random)),
        "rz" => Gate::Rz(angle(random)),
        "phase" => Gate::Phase(angle(random)),
        "u3" => Gate::U3(angle(random), angle(random), angle(random)),
        "swap" => Gate::Swap,
        "iswap" => Gate::ISwap,
        "iswapdg" => Gate::ISwapDg,
        "rxx" => Gate::Rxx(angle(random)),
        "ryy" => Gate::Ryy(angle(random)),
        "rzz" => Gate::Rzz(angle(random)),
        "pauli2" | "pauli3" => {
            let letters = ['X', 'Y', 'Z', 'I'];
            let factors: Vec<(char, usize)> = qubits.iter().map(|&q| (letters[random.below(4)], q)).collect();
            Gate::PauliRotation(PauliString::new(&factors).expect("distinct qubits"), angle(random))
        }
        name if name.starts_with("matrix") => Gate::Matrix(unitary(1 << qubits.len(), random)),
        name if name.starts_with("permutation") => {
            Gate::Permutation(random.permutation(1 << qubits.len()).into_iter().map(|to| to as u32).collect())
        }
        name if name.starts_with("linear") => Gate::Permutation(linear(qubits.len(), random)),
        _ => Gate::Diagonal(phases(random, qubits.len())),
    }
}

/// A random table x → A·x ⊕ b over GF(2): CNOTs and flips.
fn linear(qubits: usize, random: &mut Random) -> Vec<u32> {
    let mut table: Vec<u32> = (0..1 << qubits).collect();
    for _ in 0..3 * qubits {
        let (from, to) = (random.below(qubits), random.below(qubits));
        let flip = |x: u32| if from == to { 1 } else { x >> from & 1 };
        table.iter_mut().for_each(|x| *x ^= flip(*x) << to);
    }
    table
}

/// A random gate on `n` qubits, controlled half the time.
pub fn random_item(
    n: usize,
    kinds: &[usize],
    random: &mut Random,
    angle: &mut dyn FnMut(&mut Random) -> Parameter,
) -> Item {
    let fitting: Vec<usize> = kinds.iter().copied().filter(|&kind| KINDS[kind].0 <= n).collect();
    let kind = fitting[random.below(fitting.len())];
    let order = random.permutation(n);
    let (targets, rest) = order.split_at(KINDS[kind].0);
    let gate = gate(kind, targets, random, angle);
    // A rotation's string names its qubits; the others remain for controls.
    let targets = if matches!(gate, Gate::PauliRotation(..)) { vec![] } else { targets.to_vec() };
    let count = if random.one_in(2) { random.below(rest.len().min(3) + 1) } else { 0 };
    let controls = rest[..count].iter().map(|&qubit| Control { qubit, value: !random.one_in(3) }).collect();
    Item { gate, targets, controls }
}

/// A parameter of any kind.
pub fn any_parameter(random: &mut Random) -> Parameter {
    let value = f64::from(random.signed()) * 7.0;
    let index = random.below(PARAMETERS);
    match random.below(5) {
        0 => Parameter::Constant(value),
        1 => Parameter::Theta(index),
        2 => Parameter::Input(index),
        3 => Parameter::Affine {
            scale: f64::from(random.signed()) * 2.0,
            of: Variable::Theta(index),
            offset: value,
        },
        _ => Parameter::Affine {
            scale: f64::from(random.signed()) * 2.0,
            of: Variable::Input(index),
            offset: value,
        },
    }
}

/// `gates` random gates.
pub fn random_items(n: usize, gates: usize, kinds: &[usize], random: &mut Random) -> Vec<Item> {
    (0..gates).map(|_| random_item(n, kinds, random, &mut any_parameter)).collect()
}

/// Kinds that every backend has.
pub fn all_kinds() -> Vec<usize> {
    (0..FIRST_WIDE).collect()
}

/// Kinds that the device's backend has.
pub fn kinds_of(device: &TestDevice) -> Vec<usize> {
    if device.backend() == Backend::Cpu { (0..KINDS.len()).collect() } else { all_kinds() }
}

/// The library's circuit, with [`PARAMETERS`] of each kind declared.
pub fn circuit(n: usize, items: &[Item]) -> Circuit {
    let mut circuit = Circuit::with_parameters(n, PARAMETERS, PARAMETERS).expect("a legal number of qubits");
    for item in items {
        circuit.controlled(&item.controls, item.gate.clone(), &item.targets).expect("a legal gate");
    }
    circuit
}

fn value(parameter: Parameter, theta: &[f64], input: &[f64]) -> f64 {
    match parameter {
        Parameter::Constant(value) => value,
        Parameter::Theta(i) => theta[i],
        Parameter::Input(i) => input[i],
        Parameter::Affine { scale, of: Variable::Theta(i), offset } => scale * theta[i] + offset,
        Parameter::Affine { scale, of: Variable::Input(i), offset } => scale * input[i] + offset,
        other => panic!("the oracle does not know {other:?}"),
    }
}

fn dense_diagonal(entries: &[C]) -> Vec<C> {
    let side = entries.len();
    (0..side * side).map(|at| if at / side == at % side { entries[at / side] } else { C::ZERO }).collect()
}

/// exp(−iθP/2) of a string as a dense matrix on the listed qubits.
fn string_rotation(string: PauliString, angle: f64) -> (Vec<C>, Vec<usize>) {
    let factors = factors(string);
    let side = 1usize << factors.len();
    let (cos, sin) = ((angle / 2.0).cos(), C::new(0.0, -(angle / 2.0).sin()));
    let entry = |row: usize, column: usize| {
        let product: C = factors
            .iter()
            .enumerate()
            .map(|(place, (letter, _))| {
                let matrix = match letter {
                    'X' => oracle::x(),
                    'Y' => oracle::y(),
                    _ => oracle::z(),
                };
                matrix[(row >> place & 1) * 2 + (column >> place & 1)]
            })
            .product();
        sin * product + if row == column { cos } else { 0.0 }
    };
    ((0..side * side).map(|at| entry(at / side, at % side)).collect(), factors.iter().map(|f| f.1).collect())
}

/// The gate for the oracle, with the parameters' values.
pub fn operation(item: &Item, theta: &[f64], input: &[f64]) -> Operation {
    let v = |parameter: &Parameter| value(*parameter, theta, input);
    let mut targets = item.targets.clone();
    let matrix = match &item.gate {
        Gate::X => oracle::x(),
        Gate::Y => oracle::y(),
        Gate::Z => oracle::z(),
        Gate::H => oracle::h(),
        Gate::S => oracle::s(),
        Gate::Sdg => oracle::inverse(&oracle::s()),
        Gate::T => oracle::t(),
        Gate::Tdg => oracle::inverse(&oracle::t()),
        Gate::Sx => oracle::sx(),
        Gate::Sxdg => oracle::inverse(&oracle::sx()),
        Gate::Rx(a) => oracle::rx(v(a)),
        Gate::Ry(a) => oracle::ry(v(a)),
        Gate::Rz(a) => oracle::rz(v(a)),
        Gate::Phase(a) => oracle::phase(v(a)),
        Gate::U3(a, b, c) => oracle::u3(v(a), v(b), v(c)),
        Gate::Swap => oracle::swap(),
        Gate::ISwap => oracle::iswap(),
        Gate::ISwapDg => oracle::inverse(&oracle::iswap()),
        Gate::Rxx(a) => oracle::rxx(v(a)),
        Gate::Ryy(a) => oracle::ryy(v(a)),
        Gate::Rzz(a) => oracle::rzz(v(a)),
        Gate::PauliRotation(string, a) => {
            let (matrix, qubits) = string_rotation(*string, v(a));
            targets = qubits;
            matrix
        }
        Gate::Matrix(entries) => entries.clone(),
        Gate::Diagonal(entries) => dense_diagonal(entries),
        Gate::Permutation(table) => {
            let side = table.len();
            let moved = |at: usize| if table[at % side] as usize == at / side { C::ONE } else { C::ZERO };
            (0..side * side).map(moved).collect()
        }
        other => panic!("the oracle does not know {other:?}"),
    };
    let plain = Operation::new(matrix, &targets);
    item.controls.iter().fold(plain, |operation, control| operation.controlled(control.qubit, control.value))
}

/// The oracle's final state.
pub fn reference(n: usize, items: &[Item], theta: &[f32], input: &[f32]) -> Vec<C> {
    reference_f64(n, items, &wide(theta), &wide(input))
}

pub fn reference_f64(n: usize, items: &[Item], theta: &[f64], input: &[f64]) -> Vec<C> {
    let operations: Vec<Operation> = items.iter().map(|item| operation(item, theta, input)).collect();
    oracle::run(&operations, &oracle::zero_state(n))
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// The gate with every parameter 0: equal to the gate itself if it has none.
pub fn without_parameters(gate: &Gate) -> Gate {
    let zero = Parameter::Constant(0.0);
    match gate {
        Gate::Rx(_) => Gate::Rx(zero),
        Gate::Ry(_) => Gate::Ry(zero),
        Gate::Rz(_) => Gate::Rz(zero),
        Gate::Phase(_) => Gate::Phase(zero),
        Gate::U3(..) => Gate::U3(zero, zero, zero),
        Gate::Rxx(_) => Gate::Rxx(zero),
        Gate::Ryy(_) => Gate::Ryy(zero),
        Gate::Rzz(_) => Gate::Rzz(zero),
        Gate::PauliRotation(string, _) => Gate::PauliRotation(*string, zero),
        other => other.clone(),
    }
}

/// Factors of a string, from its text.
fn factors(string: PauliString) -> Vec<(char, usize)> {
    let text = string.to_string();
    let listed = text.split('*').filter(|factor| *factor != "1");
    listed.map(|factor| (factor.as_bytes()[0] as char, factor[1..].parse().expect("a qubit"))).collect()
}

fn moved_string(string: PauliString, place: &[usize]) -> PauliString {
    let moved: Vec<(char, usize)> =
        factors(string).into_iter().map(|(letter, q)| (letter, place[q])).collect();
    PauliString::new(&moved).expect("distinct qubits")
}

/// The gates with qubit q renamed `place[q]`.
pub fn moved(items: &[Item], place: &[usize]) -> Vec<Item> {
    let one = |item: &Item| Item {
        gate: match &item.gate {
            Gate::PauliRotation(string, angle) => Gate::PauliRotation(moved_string(*string, place), *angle),
            other => other.clone(),
        },
        targets: item.targets.iter().map(|&q| place[q]).collect(),
        controls: item.controls.iter().map(|c| Control { qubit: place[c.qubit], ..*c }).collect(),
    };
    items.iter().map(one).collect()
}

/// The observable with qubit q renamed `place[q]`.
pub fn moved_sum(sum: &PauliSum, place: &[usize]) -> PauliSum {
    sum.terms().iter().fold(PauliSum::new(), |moved, &(coefficient, string)| {
        moved.plus(coefficient, &factors(moved_string(string, place))).expect("a legal string")
    })
}

/// The identity with two rows exchanged.
pub fn identity_with_rows_exchanged(side: usize, a: usize, b: usize) -> Vec<C> {
    let row = |row: usize| {
        if row == a {
            b
        } else if row == b {
            a
        } else {
            row
        }
    };
    (0..side * side).map(|at| if row(at / side) == at % side { C::ONE } else { C::ZERO }).collect()
}
