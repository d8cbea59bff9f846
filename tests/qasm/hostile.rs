//! Any text at all: an answer, never a panic, and places of errors inside of the text.

use crate::corpus::files;
use crate::support::random::Random;
use gatewarp::Error;
use gatewarp::statevec::qasm;
use proptest::prelude::*;

/// Parses, and looks at whatever comes out.
fn digest(text: &str) -> Result<(), String> {
    match qasm::parse(text, "t") {
        Ok(program) => {
            if let Ok(circuit) = program.circuit() {
                // Gates that passed can be written and read again, unless that is a matrix of a non-unitary power.
                let text = circuit.to_qasm3().map_err(|error| error.to_string())?;
                if text.len() < 1 << 20 {
                    qasm::parse(&text, "again").map_err(|error| format!("{error}\n{text}"))?;
                }
            }
            Ok(())
        }
        Err(Error::Parse { line, column, message, .. }) => {
            let lines = 1 + text.matches('\n').count();
            let inside = (1..=lines).contains(&line) && column >= 1 && column <= text.chars().count() + 2;
            if inside && !message.is_empty() {
                Ok(())
            } else {
                Err(format!("{line}:{column} of {lines}: {message}"))
            }
        }
        Err(other) => Err(format!("not a parse error: {other}")),
    }
}

/// Pieces that keep a text close to the language.
const PIECES: [&str; 40] = [
    "q",
    "c",
    "[0]",
    "[",
    "]",
    "(",
    ")",
    "{",
    "}",
    ";",
    ",",
    "->",
    "==",
    "@",
    "ctrl @ ",
    "inv @ ",
    "pow(2) @ ",
    "pow(0.5) @ ",
    "gate g a { h a; } ",
    "if (c == 1) ",
    "for int i in [0:3] ",
    "measure ",
    "reset ",
    "barrier ",
    "qubit[2] r; ",
    "bit d; ",
    "input float y; ",
    "const int k = 3; ",
    "pi",
    "-",
    "*",
    "/",
    "1e9",
    "99999999999",
    "\"",
    "/*",
    "//",
    "\n",
    "é",
    ":",
];

fn mutated(text: &str, random: &mut Random) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..1 + random.below(4) {
        let at = random.below(chars.len() + 1);
        let end = (at + 1 + random.below(12)).min(chars.len());
        match random.below(6) {
            0 => drop(chars.drain(at.min(end)..end)),
            1 => {
                let copy: Vec<char> = chars[at.min(end)..end].to_vec();
                let to = random.below(chars.len() + 1);
                chars.splice(to..to, copy);
            }
            2 if at < chars.len() => chars[at] = char::from(32 + random.below(95) as u8),
            3 => chars.truncate(at),
            _ => {
                let piece = PIECES[random.below(PIECES.len())];
                chars.splice(at..at, piece.chars());
            }
        }
    }
    chars.into_iter().collect()
}

fn cases() -> u32 {
    std::env::var("GATEWARP_TEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(256)
}

#[test]
fn mutations_of_the_corpus() {
    let files = files();
    // Cheap cases: sixteen for each that other properties run.
    for seed in 0..u64::from(cases()) * 16 {
        let mut random = Random::new(seed, 2);
        let (name, text) = &files[random.below(files.len())];
        let text = mutated(text, &mut random);
        digest(&text).unwrap_or_else(|message| panic!("{name}, seed {seed}: {message}\n{text}"));
    }
}

#[test]
fn every_prefix_of_the_corpus() {
    for (name, text) in files() {
        for (end, _) in text.char_indices() {
            digest(&text[..end]).unwrap_or_else(|message| panic!("{name}, {end} bytes: {message}"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let text = String::from_utf8_lossy(&bytes);
        prop_assert_eq!(digest(&text), Ok(()));
        let headed = format!("OPENQASM 3.0;\ninclude \"stdgates.inc\";\nqubit[3] q;\n{text}");
        prop_assert_eq!(digest(&headed), Ok(()));
    }

    #[test]
    fn random_pieces(choice in proptest::collection::vec(0..PIECES.len(), 0..60)) {
        let text: String = choice.iter().map(|&i| PIECES[i]).collect();
        for version in ["2.0;\ninclude \"qelib1.inc\";\nqreg q[3]; creg c[3];", "3.0;\ninclude \"stdgates.inc\";\nqubit[3] q; bit[3] c;"] {
            prop_assert_eq!(digest(&format!("OPENQASM {version}\n{text}")), Ok(()));
        }
    }
}
