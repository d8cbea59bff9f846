//! Every file of the corpus against its meaning.

use crate::case::{Item, operation};
use crate::expected;
use crate::support::compare::close_norm;
use crate::support::oracle_statevec::{Operation as Dense, interleaved, run, zero_state};
use crate::support::tolerance::statevec_c64;
use gatewarp::statevec::qasm::{self, Operation, Qasm};
use gatewarp::statevec::{Batch, Control};
use gatewarp::{Complex32, Complex64 as C, Device, Tensor};
use std::collections::BTreeMap;
use std::path::PathBuf;

pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/qasm")
}

/// Names and texts of the corpus.
pub fn files() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(folder()).expect("the corpus is there");
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let mut list: Vec<(String, String)> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "qasm"))
        .map(|path| {
            let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a UTF-8 name");
            (name.into(), std::fs::read_to_string(&path).expect("readable text"))
        })
        .collect();
    list.sort();
    list
}

pub fn parsed(name: &str, text: &str) -> Qasm {
    qasm::parse(text, name).unwrap_or_else(|error| panic!("{error}"))
}

/// Inputs of samples 0, 1, …: fixed numbers without a pattern.
fn inputs(count: usize, sample: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7 + sample * 13 + 3) as f32 * 0.7).sin() * 2.5).collect()
}

fn dense(operation: &Operation, input: &[f64]) -> Option<Dense> {
    match operation {
        Operation::Gate { gate, targets, controls } => {
            let item = Item { gate: gate.clone(), targets: targets.clone(), controls: controls.clone() };
            Some(self::operation(&item, &[], input))
        }
        _ => None,
    }
}

fn worst(got: &[C], want: &[C]) -> f64 {
    assert_eq!(got.len(), want.len());
    got.iter()
        .zip(want)
        .map(|(a, b)| (a - b).norm())
        .fold(0.0, |worst, error| if error > worst || error.is_nan() { error } else { worst })
}

#[test]
fn every_file_means_what_is_written_down() {
    let mut unitary = 0;
    for (name, text) in files() {
        let program = parsed(&name, &text);
        let count: usize = program.inputs().iter().map(|register| register.len).sum();
        let samples = if count == 0 { 1 } else { 3 };
        let values: Vec<f32> = (0..samples).flat_map(|sample| inputs(count, sample)).collect();
        if expected::gates(&name, &[0.0; 8]).is_none() {
            assert!(program.circuit().is_err(), "{name} depends on measurements");
            continue;
        }
        unitary += 1;
        let circuit = program.circuit().unwrap_or_else(|error| panic!("{name}: {error}"));
        let compiled = circuit.compile().expect("compiles");
        let device = Device::cpu();
        let tensor = Tensor::from_slice(&device, &values, &[samples, count]).expect("inputs");
        let states = compiled.run(&Batch::new(&device, samples).inputs(&tensor)).expect("runs");
        let states = states.to_vec::<Complex32>().expect("on the host");
        for sample in 0..samples {
            let input: Vec<f64> = inputs(count, sample).into_iter().map(f64::from).collect();
            let (qubits, gates) = expected::gates(&name, &input).expect("as before");
            assert_eq!(circuit.qubits(), qubits, "{name}");
            let want = run(&gates, &zero_state(qubits));
            // What was read, in f64.
            let read: Vec<Dense> = program.operations().iter().filter_map(|one| dense(one, &input)).collect();
            if !program.operations().iter().any(|one| matches!(one, Operation::If { .. })) {
                let error = worst(&run(&read, &zero_state(qubits)), &want);
                assert!(error < 1e-12, "{name}, sample {sample}: off by {error}");
            }
            // What runs, in f32.
            let got = &states[sample << qubits..(sample + 1) << qubits];
            let got: Vec<f32> = got.iter().flat_map(|a| [a.re, a.im]).collect();
            close_norm(&name, &got, &interleaved(&want), statevec_c64(gates.len().max(1)) + 1e-7)
                .unwrap_or_else(|message| panic!("sample {sample}: {message}"));
        }
    }
    assert!(unitary >= 14, "only {unitary} files were compared");
}

/// Follows every outcome of every measurement: values of the bits and their probabilities.
pub fn distribution(program: &Qasm) -> BTreeMap<Vec<bool>, f64> {
    let qubits: usize = program.qubits().iter().map(|register| register.len).sum();
    let bits: usize = program.bits().iter().map(|register| register.len).sum();
    let mut out = BTreeMap::new();
    for (state, bits) in follow(program.operations(), vec![(zero_state(qubits), vec![false; bits])]) {
        *out.entry(bits).or_insert(0.0) += state.iter().map(C::norm_sqr).sum::<f64>();
    }
    out
}

type Branch = (Vec<C>, Vec<bool>);

/// The state with `qubit` projected on `value`, not normalised.
fn projected(state: &[C], qubit: usize, value: bool) -> Vec<C> {
    let keep = |(index, &amplitude): (usize, &C)| {
        if (index >> qubit & 1 == 1) == value { amplitude } else { C::ZERO }
    };
    state.iter().enumerate().map(keep).collect()
}

fn follow(operations: &[Operation], mut branches: Vec<Branch>) -> Vec<Branch> {
    for operation in operations {
        branches = branches.into_iter().flat_map(|branch| step(operation, branch)).collect();
        branches.retain(|(state, _)| state.iter().map(C::norm_sqr).sum::<f64>() > 1e-15);
    }
    branches
}

fn step(operation: &Operation, (state, bits): Branch) -> Vec<Branch> {
    match operation {
        Operation::Gate { .. } => {
            let dense = dense(operation, &[]).expect("a gate");
            vec![(dense.apply(&state), bits)]
        }
        &Operation::Measure { qubit, bit } => [false, true]
            .map(|value| {
                let mut bits = bits.clone();
                if let Some(bit) = bit {
                    bits[bit] = value;
                }
                (projected(&state, qubit, value), bits)
            })
            .to_vec(),
        &Operation::Reset { qubit } => {
            let flip = Dense::new(crate::support::oracle_statevec::x(), &[qubit]);
            let one = flip.apply(&projected(&state, qubit, true));
            vec![(projected(&state, qubit, false), bits.clone()), (one, bits)]
        }
        Operation::If { condition, then, otherwise } => {
            let branch = if condition.holds(&bits) { then } else { otherwise };
            follow(branch, vec![(state, bits)])
        }
        _ => vec![(state, bits)],
    }
}

#[test]
fn measured_programs_have_the_distribution_written_down() {
    let mut seen = 0;
    for (name, text) in files() {
        let Some(want) = expected::distribution(&name) else { continue };
        seen += 1;
        let got = distribution(&parsed(&name, &text));
        let number =
            |bits: &[bool]| bits.iter().enumerate().map(|(i, &bit)| usize::from(bit) << i).sum::<usize>();
        let got: BTreeMap<usize, f64> = got.iter().map(|(bits, &p)| (number(bits), p)).collect();
        let want: BTreeMap<usize, f64> = want.into_iter().collect();
        assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>(), "{name}: {got:?}");
        for (bits, p) in &want {
            assert!((got[bits] - p).abs() < 1e-12, "{name}: {got:?}, expected {want:?}");
        }
    }
    assert_eq!(seen, 4);
}

#[test]
fn the_relative_toffoli_of_four_qubits_moves_what_c3x_moves() {
    for index in 0..16 {
        let flips: String = (0..4).filter(|q| index >> q & 1 == 1).map(|q| format!("x q[{q}]; ")).collect();
        let text =
            format!("OPENQASM 2.0; include \"qelib1.inc\"; qreg q[4]; {flips} rc3x q[0],q[1],q[2],q[3];");
        let program = parsed("rc3x", &text);
        let gates: Vec<Dense> = program.operations().iter().filter_map(|one| dense(one, &[])).collect();
        let state = run(&gates, &zero_state(4));
        let to = if index & 7 == 7 { index ^ 8 } else { index };
        assert!((state[to].norm() - 1.0).abs() < 1e-12, "{index}");
    }
}

#[test]
fn registers_bits_and_inputs_are_numbered_in_order() {
    let text = "OPENQASM 3.0; input array[float[64], 2] w; qubit a; bit[2] m; qubit[2] b; input angle f; bit k; \
                m[1] = measure b[0]; k = measure a;";
    let program = parsed("order", text);
    let list = |registers: &[qasm::Register]| -> Vec<(String, usize, usize)> {
        registers.iter().map(|r| (r.name.clone(), r.start, r.len)).collect()
    };
    assert_eq!(list(program.qubits()), [("a".into(), 0, 1), ("b".into(), 1, 2)]);
    assert_eq!(list(program.bits()), [("m".into(), 0, 2), ("k".into(), 2, 1)]);
    assert_eq!(list(program.inputs()), [("w".into(), 0, 2), ("f".into(), 2, 1)]);
    assert_eq!(program.final_measurements().expect("at the end"), [None, Some(1), Some(0)]);
    assert_eq!(
        (program.qubit_name(2), program.bit_name(2), program.input_name(1)),
        ("b[1]".into(), "k".into(), "w[1]".into())
    );
    assert_eq!(program.version(), 3);
}

#[test]
fn affine_angles_stay_one_parameter() {
    use gatewarp::statevec::{Gate, Parameter, Variable};
    let text = "OPENQASM 3.0; include \"stdgates.inc\"; input float x; qubit q; rx(-(x - 1)*2 + pi) q; ctrl @ gphase(x) q;";
    let program = parsed("affine", text);
    let affine = |scale, offset| Parameter::Affine { scale, of: Variable::Input(0), offset };
    let gates: Vec<_> = program.operations().to_vec();
    let Operation::Gate { gate, .. } = &gates[0] else { panic!("{gates:?}") };
    assert_eq!(*gate, Gate::Rx(affine(-2.0, 2.0 + std::f64::consts::PI)));
    let controls = vec![Control { qubit: 0, value: true }];
    assert!(matches!(&gates[1], Operation::Gate { controls: c, .. } if *c == controls), "{gates:?}");
}
