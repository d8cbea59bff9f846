//! Faulty programs: where the fault is, and what the message says.

use gatewarp::Error;
use gatewarp::statevec::qasm;

/// The place of `§` in the text is where the error must be reported; the mark itself is removed.
fn refused(marked: &str, says: &str) {
    if let Some(problem) = problem(marked, says) {
        panic!("{problem}");
    }
}

fn problem(marked: &str, says: &str) -> Option<String> {
    let at = marked.find('§').unwrap_or_else(|| panic!("no mark in {marked:?}"));
    let line = 1 + marked[..at].matches('\n').count();
    let column = 1 + marked[..at].chars().rev().take_while(|&c| c != '\n').count();
    let text = marked.replace('§', "");
    match qasm::parse(&text, "dir/bad.qasm") {
        Err(Error::Parse { file, line: l, column: c, message }) => {
            let right = (l, c) == (line, column) && message.contains(says) && file == "dir/bad.qasm";
            (!right).then(|| {
                format!("{file}:{l}:{c}: {message}\n  expected {line}:{column}: …{says}…\n  in {text:?}")
            })
        }
        other => Some(format!("{text:?}: {other:?}")),
    }
}

const TWO: &str = "OPENQASM 2.0;\ninclude \"qelib1.inc\";\nqreg q[3]; creg c[2];\n";
const THREE: &str = "OPENQASM 3.0;\ninclude \"stdgates.inc\";\nqubit[3] q; bit[2] c; input float x; input array[float[64], 2] w;\n";

#[test]
fn faults_of_version_two() {
    let mut problems = Vec::new();
    for (text, says) in [
        ("§frobnicate q[0];", "gate `frobnicate` is not defined"),
        ("cx q[0],§q[0];", "q[0] is used twice"),
        ("cx q,§q;", "used twice"),
        ("§cx q[0];", "takes 2 qubits, here are 1"),
        ("§h q[0],q[1];", "takes 1 qubit, here are 2"),
        ("§rx q[0];", "takes 1 parameter, here are 0"),
        ("§rx(1,2) q[0];", "takes 1 parameter, here are 2"),
        ("h q[§3];", "out of range"),
        ("h q[§0-1];", "out of range"),
        ("h §r[0];", "no quantum register `r`"),
        ("h §c[0];", "a classical register, expected a quantum"),
        ("measure q[0] -> §q[1];", "expected a classical"),
        ("measure q -> §c;", "3 qubits are measured into 2 bits"),
        ("measure q[0]§;", "-> c"),
        ("qreg r[§28];", "too many"),
        ("qreg r[§4294967296];", "too many"),
        ("qreg r[§99999999999999999999999];", "does not fit in 64 bits"),
        ("qreg r[§0];", "at least one"),
        ("creg d[§18446744073709551615];", "too many"),
        ("qreg r§;", "size of the register"),
        ("§qreg q[1];", "already"),
        ("gate g a { §g a; }", "calls itself"),
        ("gate g a { §k a; } gate k a { g a; }", "not defined here"),
        ("gate g a { h §b; }", "not a qubit of gate `g`"),
        ("gate g a { h a§[0]; }", "remove the index"),
        ("gate g(t) a { rx(§s) a; }", "`s` is not defined"),
        ("gate g(t,§t) a { }", "named twice"),
        ("gate g a,§a { }", "named twice"),
        ("gate g a,b { cx a,§a; }", "named twice"),
        ("gate g a { §measure a -> c; }", "gates, barriers"),
        ("gate g a { } §gate g a { }", "defined twice"),
        ("§gate U a { }", "part of the language"),
        ("gate g a §;", "`{`"),
        ("gate g a §{ h a; ", "not closed"),
        ("opaque g a; §g q[0];", "opaque"),
        ("rx(1§/0) q[0];", "division by zero"),
        ("rx(§ln(-1)) q[0];", "not defined"),
        ("rx(§foo(1)) q[0];", "no function `foo`"),
        ("rx(§y) q[0];", "`y` is not defined"),
        ("rx(1 §2) q[0];", "expected `)`"),
        ("rx(10§^400) q[0];", "not finite"),
        ("h q[0]§\nh q[1];", "`;`"),
        ("if(c§>1) x q[0];", "expected `)`"),
        ("if(§d==1) x q[0];", "`d` is not defined"),
        ("§ctrl @ x q[0],q[1];", "expected"),
        ("barrier §r;", "no quantum register"),
        ("§/* never closed", "does not end"),
        ("include §\"qelib1.inc;\n", "does not end"),
        ("§include \"mine.inc\";", "only \"qelib1.inc\""),
        ("§include \"stdgates.inc\";", "OpenQASM 3"),
        ("h q[§1.5];", "expected an integer"),
        ("§OPENQASM 2.0;", "first line"),
        ("h q[0]; §}", "expected a statement"),
        ("h q[0]; §?", "does not belong"),
    ] {
        let marked = if text.starts_with("§ctrl") {
            // In version 2 `ctrl` is a name like any other.
            format!("{TWO}ctrl §@ x q[0],q[1];")
        } else if text.contains("h q[0]§\n") {
            format!("{TWO}h q[0]\n§h q[1];")
        } else if text.contains("a§[0]") {
            format!("{TWO}gate g a {{ h §a[0]; }}")
        } else {
            format!("{TWO}{text}")
        };
        problems.extend(problem(&marked, says));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    refused("OPENQASM 2.0;\nqreg q[1];\n§h q[0];", "include \"qelib1.inc\"");
    refused("OPENQASM 2.0;\nqreg q[1];\n§rccx q[0];", "include \"qelib1.inc\"");
    refused("OPENQASM §4.0;", "OPENQASM 2.0;");
    refused("OPENQASM §two;", "OPENQASM 2.0;");
    refused("OPENQASM 2.0§", "`;`");
}

#[test]
fn faults_of_version_three() {
    let mut problems = Vec::new();
    for (text, says) in [
        ("rx(x§*x) q[0];", "affine"),
        ("rx(w[0]§*x) q[0];", "affine"),
        ("rx(1§/x) q[0];", "affine"),
        ("rx(§sin(x)) q[0];", "affine"),
        ("rx(x§**2) q[0];", "affine"),
        ("rx(§w) q[0];", "an array of inputs"),
        ("rx(§w[2]) q[0];", "out of range"),
        ("rx(w[§x]) q[0];", "expected an integer"),
        ("for int i in [0:§x] h q[0];", "expected an integer"),
        ("pow(§x) @ h q[0];", "depends on an input"),
        ("pow(§0.5) @ rx(x) q[0];", "an input"),
        ("rx(1§/2) q[0];", "1.0/2"),
        ("ctrl @ §x q[0];", "takes 2 qubits"),
        ("ctrl(§0) @ x q[0];", "1 to 32"),
        ("ctrl @ x q[0], §q[0];", "used twice"),
        ("§gphase(1) q[0];", "takes 0 qubits"),
        ("x q[§3];", "out of range"),
        ("x q[§-4];", "out of range"),
        ("x q[0:§3];", "out of range"),
        ("x q§[2:1];", "empty"),
        ("x q[0:§0:2];", "step of 0"),
        ("for int i in [0:§0:2] x q[i];", "step of 0"),
        ("for int i in [0:3] x q[§i];", "out of range"),
        ("for int i in §0 x q[0];", "expected `[start:end]`"),
        ("for float §i in [0:3] x q[0];", "integers"),
        ("§while (true) { }", "not supported"),
        ("§def f(qubit a) { }", "use `gate`"),
        ("§int i = 0;", "const int"),
        ("§delay[10] q[0];", "timing"),
        ("h §$0;", "hardware"),
        ("delay_ q[0], 10§ns;", "durations"),
        ("c = §x q;", "assigned a measurement"),
        ("§c[0] = measure q;", "3 qubits are measured into 1 bits"),
        ("bit d = §1;", "start as 0"),
        ("if (c §> 1) x q[0];", "only =="),
        ("if (c == §\"111\") x q[0];", "3 digits"),
        ("if (c == §-1) x q[0];", "never"),
        ("if (§x) x q[0];", "expected a condition"),
        ("rx(§c) q[0];", "only when the program runs"),
        ("if (true) { §qubit r; }", "outside of blocks"),
        ("if (true) { §gate g a { } }", "outside of blocks"),
        ("§else x q[0];", "without an `if`"),
        ("const uint §n = -1;", "negative"),
        ("const int n = §1.5;", "expected an integer"),
        ("const float n = §x;", "cannot depend"),
        ("const §bit n = 1;", "type of the constant"),
        ("input §int n;", "inputs are angles"),
        ("input array[float, 2§, 2] v;", "one dimension"),
        ("rx(1 §^ 2) q[0];", "`**`"),
        ("gate g a { rx(§x) a; }", "parameters and constants only"),
        ("gate g a { rx(§w[0]) a; }", "pass the value"),
        ("gate g a { §if (true) x a; }", "gates, barriers"),
        ("let a = §c;", "expected a quantum"),
        ("qubit§[30] r;", "too many"),
        ("x q[{0, §5}];", "out of range"),
        ("cx q, §q[0:1];", "equally long"),
        ("gate g(t) a { rx(§sqrt(t)) a; }\ng(-1.0) q[0];", "called in line 5"),
        ("for int i in [0:1000000000000] { §}", "more than"),
        ("§sxdg q[0];", "qelib1.inc"),
    ] {
        let marked = match text {
            "const uint §n = -1;" => format!("{THREE}const uint n = §-1;"),
            "qubit§[30] r;" => format!("{THREE}qubit[§30] r;"),
            "for int i in [0:1000000000000] { §}" => format!("{THREE}§for int i in [0:1000000000000] {{ }}"),
            "delay_ q[0], 10§ns;" => format!("{THREE}rx(§10ns) q[0];"),
            _ => format!("{THREE}{text}"),
        };
        problems.extend(problem(&marked, says));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    refused("OPENQASM 3.0;\nqubit q;\n§h q;", "include \"stdgates.inc\"");
    refused("OPENQASM 3.0;\nqubit q;\n§x q[0];", "not defined");
}

#[test]
fn programs_that_explode_are_stopped() {
    let mut doubling = String::from("OPENQASM 3.0; include \"stdgates.inc\"; qubit q; gate g0 a { h a; }\n");
    for i in 1..60 {
        doubling += &format!("gate g{i} a {{ g{0} a; g{0} a; }}\n", i - 1);
    }
    let error = qasm::parse(&format!("{doubling} g59 q;"), "t").expect_err("2^59 gates");
    assert!(error.to_string().contains("more than"), "{error}");
    // The same without a gate in it: nothing is produced, and still it ends.
    let empty = doubling.replace("{ h a; }", "{ }");
    let error = qasm::parse(&format!("{empty} g59 q;"), "t").expect_err("2^59 calls");
    assert!(error.to_string().contains("more than"), "{error}");
    let mut chain = String::from("OPENQASM 2.0; gate g0 a { }\n");
    for i in 1..100_000 {
        chain += &format!("gate g{i} a {{ g{} a; }}\n", i - 1);
    }
    let error = qasm::parse(&chain, "t").expect_err("a tower of definitions");
    assert!(error.to_string().contains("deep"), "{error}");
    for power in ["pow(1e18)", "pow(-1e300)"] {
        let text = format!(
            "OPENQASM 3.0; include \"stdgates.inc\"; input float x; qubit[2] q; gate g(t) a, b {{ rx(t) a; cx a, b; }} {power} @ g(x) q[0], q[1];"
        );
        let error = qasm::parse(&text, "t").expect_err("too often");
        assert!(error.to_string().contains("smaller exponent"), "{error}");
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_overflow() {
    let many = 200_000;
    let texts = [
        format!("OPENQASM 3.0; qubit q; U({}", "(".repeat(many)),
        format!("OPENQASM 3.0; qubit q; U({}", "-".repeat(many)),
        format!("OPENQASM 3.0; qubit q; U(0,0,{}1) q;", "1+".repeat(many)),
        format!("OPENQASM 3.0; qubit q; U(0,0,{}1) q;", "2**".repeat(many)),
        format!("OPENQASM 3.0; qubit q; U(0,0,{}", "sin(".repeat(many)),
        format!("OPENQASM 3.0; qubit q; {}", "if(true){".repeat(many)),
        format!("OPENQASM 3.0; bit c; {}", "if(c) ".repeat(many)),
        format!("OPENQASM 3.0; {}", "if(true){} else ".repeat(many)),
        format!("OPENQASM 3.0; qubit q; {} x q;", "ctrl @ ".repeat(many)),
        format!("OPENQASM 3.0; {}", "for int i in [0:1] ".repeat(many)),
        format!("OPENQASM 2.0; qreg q[1]; U({}", "(".repeat(many)),
        format!("OPENQASM 3.0; bit c; if ({}c) ;", "!".repeat(many)),
        format!("OPENQASM 3.0; qubit[2] q; let a = q{};", "++q".repeat(many)),
    ];
    for text in texts {
        let error = qasm::parse(&text, "t").expect_err("nested too deep");
        assert!(matches!(error, Error::Parse { .. }), "{error}");
    }
}

#[test]
fn what_is_no_circuit_says_why() {
    let refused = |text: &str, says: &str| {
        let program =
            qasm::parse(&format!("OPENQASM 3.0; include \"stdgates.inc\"; {text}"), "t").expect("a program");
        let error = program.circuit().expect_err("not a circuit").to_string();
        assert!(error.contains(says), "{text}: {error}");
    };
    refused("bit c;", "no qubits");
    refused("qubit[2] q; bit c; c = measure q[0]; x q[0];", "a gate on q[0] after its measurement");
    refused("qubit[2] q; x q[1]; reset q[1];", "resets q[1]");
    refused("qubit q; bit c; c = measure q; if (c) x q;", "condition on c");
}
