//! `gatewarp simulate` as a user runs it.

use serde_json::Value;
use std::f64::consts::PI;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder of one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("gatewarp-simulate-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder for the test");
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").into()
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.0.join(name), content).expect("writable");
        self.path(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in a temporary folder hurts nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn simulate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewarp"));
    command.arg("simulate").args(arguments).env("GATEWARP_DEVICE", "cpu").env("COLUMNS", "80");
    command.output().expect("the command runs")
}

fn done(arguments: &[&str]) -> String {
    let output = simulate(arguments);
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {errors}");
    text.into_owned()
}

fn report(arguments: &[&str]) -> Value {
    serde_json::from_str(&done(&[arguments, &["--json"]].concat())).expect("JSON")
}

/// Exit code 2, a reason on stderr, nothing on stdout.
fn refused(arguments: &[&str], reason: &str) {
    let output = simulate(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
    assert!(errors.contains(reason), "{arguments:?}: {errors:?} does not say {reason:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
}

/// A `.npy` file of version 1.0.
fn npy(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
    let order = if fortran { "True" } else { "False" };
    let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn doubles(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Header and f32 numbers of a file.
fn floats(path: &str) -> (String, Vec<f32>) {
    let bytes = std::fs::read(Path::new(path)).expect("the file was written");
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!(end % 64, 0);
    let header = String::from_utf8_lossy(&bytes[10..end]).into_owned();
    let numbers = bytes[end..].chunks(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes")));
    (header, numbers.collect())
}

fn near(got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*a) - b).abs() < 1e-5, "{i}: {a}, expected {b}\n{got:?}");
    }
}

const TWO_INPUTS: &str = "OPENQASM 3.0; include \"stdgates.inc\"; input angle a; input array[float[64], 1] w;\n\
                          qubit[2] q; ry(2*a) q[0]; rx(w[0] + pi/2) q[1];\n";

#[test]
fn states_and_probabilities_are_written() {
    let folder = Folder::new("states");
    let program = folder.file(
        "p.qasm",
        "OPENQASM 2.0; include \"qelib1.inc\"; qreg a[1]; qreg b[2]; creg c[2]; h a[0]; cx a[0],b[1]; s b[1]; measure b->c;",
    );
    let (states, probabilities) = (folder.path("s.npy"), folder.path("p.npy"));
    done(&[&program, "--statevector", &states, "--probabilities", &probabilities]);
    let (header, values) = floats(&states);
    assert!(header.contains("'<c8'") && header.contains("'shape': (8,)"), "{header}");
    let half = 0.5f64.sqrt();
    let mut want = [0.0; 16];
    // Registers one after the other, the first the lowest: |000⟩ and i·|101⟩.
    (want[0], want[2 * 0b101 + 1]) = (half, half);
    near(&values, &want);
    let (header, values) = floats(&probabilities);
    assert!(header.contains("'<f4'") && header.contains("'shape': (8,)"), "{header}");
    near(&values, &[0.5, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0]);
}

#[test]
fn a_batch_of_inputs_in_any_layout() {
    let folder = Folder::new("batch");
    let program = folder.file("p.qasm", TWO_INPUTS);
    let observables = folder.file("o.txt", "# three\nZ0\n0.5*Z0 + 2*Z1*Z0\nI\n");
    let rows = [[0.1, 0.7], [-0.4, 1.1], [2.0, -0.3]];
    let flat: Vec<f64> = rows.concat();
    let columns: Vec<f64> = (0..2).flat_map(|j| rows.map(|row| row[j])).collect();
    let single: Vec<u8> = flat.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect();
    let files = [
        npy("<f8", false, "(3, 2)", &doubles(&flat)),
        npy("<f8", true, "(3, 2)", &doubles(&columns)),
        npy("<f4", false, "(3, 2)", &single),
    ];
    for (number, bytes) in files.iter().enumerate() {
        let inputs = folder.file(&format!("in{number}.npy"), bytes);
        let [e, g, s] = ["e.npy", "g.npy", "s.npy"].map(|name| folder.path(name));
        done(&[
            &program,
            "--inputs",
            &inputs,
            "--observables",
            &observables,
            "--expectations",
            &e,
            "--gradients",
            &g,
            "--statevector",
            &s,
        ]);
        let (header, values) = floats(&e);
        assert!(header.contains("'shape': (3,3,)"), "{header}");
        let z0 = |row: &[f64; 2]| (2.0 * row[0]).cos();
        let z1 = |row: &[f64; 2]| (row[1] + PI / 2.0).cos();
        let want: Vec<f64> =
            rows.iter().flat_map(|row| [z0(row), 0.5 * z0(row) + 2.0 * z0(row) * z1(row), 1.0]).collect();
        near(&values, &want);
        let (header, values) = floats(&g);
        assert!(header.contains("'shape': (3,2,)"), "{header}");
        // Of 1.5·z0 + 2·z0·z1 + 1.
        let want: Vec<f64> = rows
            .iter()
            .flat_map(|row| {
                let (dz0, dz1) = (-2.0 * (2.0 * row[0]).sin(), -(row[1] + PI / 2.0).sin());
                [dz0 * (1.5 + 2.0 * z1(row)), 2.0 * z0(row) * dz1]
            })
            .collect();
        near(&values, &want);
        assert!(floats(&s).0.contains("'shape': (3,4,)"));
    }
}

#[test]
fn expectations_and_timings_as_json() {
    let folder = Folder::new("json");
    let program = folder.file("p.qasm", TWO_INPUTS);
    let observables = folder.file("o.txt", "Z0\n-X1\n");
    let inputs = folder.file("in.npy", npy("<f8", false, "(2, 2)", &doubles(&[0.1, 0.2, 0.3, 0.4])));
    let found = report(&[&program, "--inputs", &inputs, "--observables", &observables]);
    assert_eq!(found["samples"], 2);
    assert_eq!(found["inputs"], serde_json::json!(["a", "w"]));
    assert_eq!(found["observables"], serde_json::json!(["1*Z0", "-1*X1"]));
    let z = found["expectations"][1][0].as_f64().expect("a number");
    assert!((z - 0.6f64.cos()).abs() < 1e-6);
    assert!(found["run_s"].is_null());
    let found = report(&[&program, "--inputs", &inputs, "--observables", &observables, "--repeat", "3"]);
    for key in ["run_s", "expectation_s", "gradient_s"] {
        assert!(found[key].as_f64().is_some_and(|seconds| seconds > 0.0 && seconds < 60.0), "{key}: {found}");
    }
    // Without observables there is nothing else to time.
    let found = report(&[&program, "--inputs", &inputs, "--repeat", "2"]);
    assert!(found["run_s"].is_number() && found["expectation_s"].is_null() && found["gradient_s"].is_null());
}

#[test]
fn what_is_shown_without_options() {
    let folder = Folder::new("plain");
    let program =
        folder.file("p.qasm", "OPENQASM 3.0; include \"stdgates.inc\"; qubit[2] q; h q[0]; cx q[0], q[1];");
    let text = done(&[&program]);
    assert!(text.starts_with("2 qubits, 0 bits, 2 operations, 1 sample on "), "{text}");
    assert!(text.contains("   00      0.707107+0.000000i  0.500000"), "{text}");
    assert!(text.contains("   11      0.707107+0.000000i  0.500000") && !text.contains("   01"), "{text}");
    let text = done(&[&program, "--draw", "--explain"]);
    assert!(
        text.contains("┤H├") && text.contains('⊕') && text.contains("floating-point operations"),
        "{text}"
    );
    assert!(!text.contains("amplitude  "), "a diagram alone runs nothing: {text}");
    let found = report(&[&program, "--draw"]);
    assert!(found["diagram"].as_str().is_some_and(|diagram| diagram.contains("┤H├")));
}

#[test]
fn mistakes_name_the_file_and_the_argument() {
    let folder = Folder::new("mistakes");
    let good = folder.file("good.qasm", TWO_INPUTS);
    let observables = folder.file("o.txt", "Z0\n");
    refused(&[&folder.path("missing.qasm")], "missing.qasm: ");
    let bad = folder.file("bad.qasm", "OPENQASM 2.0;\nqreg q[2];\n  h q[0];\n");
    refused(&[&bad], "bad.qasm:3:3: gate `h` is not defined; write `include \"qelib1.inc\";`");
    let bytes = folder.file("bytes.qasm", [b'\n', 0xff, 0xfe]);
    refused(&[&bytes], "bytes.qasm:2: not UTF-8");
    refused(&[&good], "give their values with --inputs");
    refused(&[&good, "--inputs", &folder.path("none.npy")], "none.npy: ");
    let text = folder.file("text.npy", "0.1 0.2\n");
    refused(&[&good, "--inputs", &text], "text.npy: this is not a .npy file");
    let three = folder.file("three.npy", npy("<f8", false, "(1, 3)", &doubles(&[0.0; 3])));
    refused(&[&good, "--inputs", &three], "three.npy: 3 columns, the program declares 2 inputs (a, w)");
    let nan = folder.file("nan.npy", npy("<f8", false, "(1, 2)", &doubles(&[0.0, f64::NAN])));
    refused(&[&good, "--inputs", &nan], "nan.npy: row 0, column 1 is NaN");
    let two = folder.file("two.npy", npy("<f8", false, "(1, 2)", &doubles(&[0.0; 2])));
    let wrong = folder.file("wrong.txt", "Z0\nZ7\n");
    refused(&[&good, "--inputs", &two, "--observables", &wrong], "wrong.txt:2: `Z7` acts on qubit 7");
    refused(&[&good, "--inputs", &two, "--expectations", "x.npy"], "--observables");
    refused(&[&good, "--inputs", &two, "--gradients", "x.npy"], "--observables");
    refused(&[&good, "--inputs", &two, "--device", "abacus"], "`abacus`");
    refused(&[&good, "--inputs", &two, "--precision", "c32"], "c32");
    refused(&[&good, "--inputs", &two, "--repeat", "0"], "--repeat");
    let nowhere = folder.path("no/such/folder/out.npy");
    refused(&[&good, "--inputs", &two, "--statevector", &nowhere], "out.npy: ");
    refused(
        &[&good, "--inputs", &two, "--observables", &observables, "--expectations", &nowhere],
        "out.npy: ",
    );
    let dynamic =
        folder.file("d.qasm", "OPENQASM 3.0; include \"stdgates.inc\"; qubit q; bit c; c = measure q; x q;");
    refused(&[&dynamic, "--statevector", &folder.path("s.npy")], "--shots");
    let empty = folder.file("empty.qasm", "");
    refused(&[&empty], "declares no qubits");
}

/// c128 keeps what c64 rounds away: an angle of 10⁻¹² leaves an amplitude of half of it beside 1.
#[test]
fn double_precision_is_written_as_such() {
    let folder = Folder::new("double");
    let file = folder.file("tiny.qasm", "OPENQASM 3.0; include \"stdgates.inc\"; qubit q; ry(1.0e-12) q;");
    let out = folder.path("state.npy");
    done(&[&file, "--device", "cpu", "--precision", "c128", "--statevector", &out]);
    let bytes = std::fs::read(&out).expect("the states");
    assert!(bytes.windows(5).any(|text| text == b"<c16'"));
    let numbers: Vec<f64> =
        bytes[bytes.len() - 32..].as_chunks::<8>().0.iter().map(|&chunk| f64::from_le_bytes(chunk)).collect();
    assert!((numbers[2] - 0.5e-12).abs() < 1e-26 && numbers[0] == 1.0, "{numbers:?}");
}

fn counts(found: &Value) -> Vec<(String, u64)> {
    let map = found["counts"].as_object().unwrap_or_else(|| panic!("no counts in {found}"));
    map.iter().map(|(bits, count)| (bits.clone(), count.as_u64().expect("a count"))).collect()
}

#[test]
fn counts_are_named_as_qiskit_names_them() {
    let folder = Folder::new("counts");
    let program = folder.file(
        "p.qasm",
        "OPENQASM 2.0; include \"qelib1.inc\"; qreg q[3]; creg a[2]; creg b[3]; x q[0]; h q[2]; \
         measure q[0]->a[1]; measure q[1]->b[0]; measure q[2]->b[2];",
    );
    let found = report(&[&program, "--shots", "1000", "--seed", "5"]);
    let got = counts(&found);
    // The last register first, the highest bit of each left.
    assert_eq!(got.iter().map(|(bits, _)| bits.as_str()).collect::<Vec<_>>(), ["000 10", "100 10"]);
    assert_eq!(got.iter().map(|(_, count)| count).sum::<u64>(), 1000);
    // Five standard deviations of a fair coin.
    assert!(got.iter().all(|(_, count)| count.abs_diff(500) < 80), "{got:?}");
    assert_eq!(counts(&report(&[&program, "--shots", "1000", "--seed", "5"])), got);
    assert_ne!(counts(&report(&[&program, "--shots", "1000", "--seed", "6"])), got);
    let text = done(&[&program, "--shots", "1000", "--seed", "5"]);
    assert!(text.contains("000 10  ") && text.contains('█') && text.contains('%'), "{text}");
    assert_eq!(counts(&report(&[&program, "--shots", "0"])), []);
    // Without a measurement all qubits are measured.
    let all = folder.file("all.qasm", "OPENQASM 2.0; include \"qelib1.inc\"; qreg q[2]; qreg r[1]; x q[1];");
    assert_eq!(counts(&report(&[&all, "--shots", "7"])), [("010".to_string(), 7)]);
}

#[test]
fn shots_of_programs_that_measure_in_between() {
    let folder = Folder::new("dynamic");
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/qasm/");
    let shots = 4000.0;
    let close = |file: &str, want: &[(&str, f64)]| {
        let got = counts(&report(&[&format!("{corpus}{file}"), "--shots", "4000", "--seed", "3"]));
        let names: Vec<&str> = got.iter().map(|(bits, _)| bits.as_str()).collect();
        assert_eq!(names, want.iter().map(|(bits, _)| *bits).collect::<Vec<_>>(), "{file}");
        for ((bits, count), (_, p)) in got.iter().zip(want) {
            let spread = 5.0 * (shots * p * (1.0 - p)).sqrt() + 1.0;
            assert!(
                (*count as f64 - shots * p).abs() < spread,
                "{file}: {bits} came {count} times, expected {}",
                shots * p
            );
        }
    };
    let (one, zero) = (0.25 * 0.4f64.sin().powi(2), 0.25 * 0.4f64.cos().powi(2));
    close(
        "teleport.qasm",
        &[
            ("0 0 0", zero),
            ("0 0 1", zero),
            ("0 1 0", zero),
            ("0 1 1", zero),
            ("1 0 0", one),
            ("1 0 1", one),
            ("1 1 0", one),
            ("1 1 1", one),
        ],
    );
    close("reset.qasm", &[("0 00", 0.5), ("1 11", 0.5)]);
    let p = 0.55f64.sin().powi(2);
    close("measurements.qasm", &[("0 1 11", p / 2.0), ("1 0 00", 1.0 - p), ("1 1 11", p / 2.0)]);
    close("nested.qasm", &[("0 11", 0.5), ("1 00", 0.5)]);
    // A condition is decided before its branches change the bits it reads.
    let swap = folder.file(
        "swap.qasm",
        "OPENQASM 3.0; include \"stdgates.inc\"; qubit[2] q; bit c; h q[0]; c = measure q[0]; \
         if (c) { reset q[0]; c = measure q[0]; } else { x q[1]; x q[0]; c = measure q[0]; } bit d = measure q[1];",
    );
    let got = counts(&report(&[&swap, "--shots", "400"]));
    assert_eq!(got.iter().map(|(bits, _)| bits.as_str()).collect::<Vec<_>>(), ["0 0", "1 1"]);
    // Each sample has its own counts.
    let inputs = folder.file("in.npy", npy("<f8", false, "(3, 1)", &doubles(&[0.0, PI, 0.0])));
    let turned = folder.file(
        "turned.qasm",
        "OPENQASM 3.0; include \"stdgates.inc\"; input float x; qubit q; bit c; rx(x) q; c = measure q; rx(x) q; measure q;",
    );
    let found = report(&[&turned, "--inputs", &inputs, "--shots", "10"]);
    assert_eq!(found["counts"], serde_json::json!([{"0": 10}, {"1": 10}, {"0": 10}]));
}
