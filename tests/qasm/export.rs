//! Circuits written as OpenQASM 3 and read back.

use crate::case::{self, KINDS, PARAMETERS, random_items};
use crate::support::oracle_statevec::{Operation as Dense, run};
use crate::support::random::Random;
use gatewarp::statevec::qasm::{self, Operation};
use gatewarp::statevec::{Circuit, Gate};
use gatewarp::{Complex64 as C, Error};

fn cases() -> u64 {
    std::env::var("GATEWARP_TEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(256)
}

#[test]
fn a_circuit_written_and_read_is_the_same_unitary() {
    let kinds: Vec<usize> = (0..KINDS.len()).collect();
    for seed in 0..cases() {
        let mut random = Random::new(seed, 1);
        let n = 1 + random.below(6);
        let items = random_items(n, 1 + random.below(12), &kinds, &mut random);
        let circuit = case::circuit(n, &items);
        let text = circuit.to_qasm3().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let program =
            qasm::parse(&text, "exported").unwrap_or_else(|error| panic!("seed {seed}: {error}\n{text}"));
        let mut values =
            |count: usize| -> Vec<f64> { (0..count).map(|_| f64::from(random.signed()) * 3.0).collect() };
        let (theta, input) = (values(PARAMETERS), values(PARAMETERS));
        let both = [&theta[..], &input[..]].concat();
        // From a state without symmetries, so that every column of the unitary matters.
        let start: Vec<C> =
            (0..1 << n).map(|_| C::new(random.signed().into(), random.signed().into())).collect();
        let want: Vec<Dense> = items.iter().map(|item| case::operation(item, &theta, &input)).collect();
        let read: Vec<Dense> = program
            .operations()
            .iter()
            .map(|operation| match operation {
                Operation::Gate { gate, targets, controls } => {
                    let item = case::Item {
                        gate: gate.clone(),
                        targets: targets.clone(),
                        controls: controls.clone(),
                    };
                    case::operation(&item, &[], &both)
                }
                other => panic!("{other:?}"),
            })
            .collect();
        let (want, got) = (run(&want, &start), run(&read, &start));
        for (i, (a, b)) in want.iter().zip(&got).enumerate() {
            assert!((a - b).norm() < 1e-11, "seed {seed}, amplitude {i}: {b}, expected {a}\n{text}");
        }
    }
}

#[test]
fn the_text_is_readable() {
    use gatewarp::statevec::{Parameter, PauliString, Variable};
    let mut circuit = Circuit::with_parameters(3, 1, 2).expect("three qubits");
    let build = |circuit: &mut Circuit| -> gatewarp::Result<()> {
        circuit.h(0)?.cx(0, 1)?.ccx(0, 1, 2)?.rx(0, Parameter::Input(1))?.rz(1, Parameter::Theta(0))?;
        circuit.ry(2, Parameter::Affine { scale: -0.5, of: Variable::Input(0), offset: -1.0 })?;
        circuit.iswap(0, 2)?.rzz(0, 1, 0.25)?;
        circuit.pauli_rotation(PauliString::new(&[('X', 0), ('Z', 2)])?, 0.5)?;
        Ok(())
    };
    build(&mut circuit).expect("legal gates");
    let want = "OPENQASM 3.0;
include \"stdgates.inc\";
gate iswap a, b { cx a, b; s b; cx a, b; swap a, b; }
gate rzz(t) a, b { cx a, b; rz(t) b; cx a, b; }
input array[float[64], 1] theta;
input array[float[64], 2] x;
qubit[3] q;
h q[0];
cx q[0], q[1];
ccx q[0], q[1], q[2];
rx(x[1]) q[0];
rz(theta[0]) q[1];
ry(-0.5*x[0] - 1.0) q[2];
iswap q[0], q[2];
rzz(0.25) q[0], q[1];
h q[0];
cx q[0], q[2];
rz(0.5) q[2];
cx q[0], q[2];
h q[0];
";
    assert_eq!(circuit.to_qasm3().expect("exportable"), want);
}

#[test]
fn what_is_not_unitary_cannot_be_written() {
    let two = C::new(2.0, 0.0);
    for gate in [Gate::Diagonal(vec![C::ONE, two]), Gate::Matrix(vec![C::ONE, C::ONE, C::ZERO, C::ONE])] {
        let mut circuit = Circuit::new(1).expect("one qubit");
        circuit.push(gate, &[0]).expect("a legal gate");
        assert!(matches!(circuit.to_qasm3(), Err(Error::InvalidArgument { .. })));
    }
}
