//! Any bytes as an OpenQASM program: a program or a typed error, and a program that is a circuit survives being written and
//! read again.
#![no_main]

use gatewarp::Error;
use gatewarp::statevec::qasm;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    match qasm::parse(&text, "fuzz") {
        Ok(program) => {
            let Ok(circuit) = program.circuit() else { return };
            if circuit.len() > 1000 {
                return;
            }
            let written = circuit.to_qasm3().expect("gates of a program can be written");
            let again = qasm::parse(&written, "again").expect("what is written can be read");
            assert_eq!(again.circuit().expect("gates only").qubits(), circuit.qubits());
        }
        Err(Error::Parse { line, column, message, .. }) => {
            assert!(line >= 1 && column >= 1 && line <= 1 + text.matches('\n').count() && !message.is_empty());
        }
        Err(other) => panic!("not a parse error: {other}"),
    }
});
