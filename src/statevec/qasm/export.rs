//! Circuits as OpenQASM 3 text.

use super::synthesis::{Factor, euler, factors, flips};
use crate::error::{Error, Result};
use crate::statevec::circuit::{Circuit, Control, Instruction};
use crate::statevec::gate::Gate;
use crate::statevec::parameter::{Angle, Parameter, Variable};
use num_complex::Complex64 as C;
use std::collections::BTreeSet;
use std::fmt::Write as _;

const OP: &str = "Circuit::to_qasm3";

/// Gates `stdgates.inc` lacks, with what they are.
const EXTRA: [(&str, &str); 5] = [
    ("iswap", "gate iswap a, b { cx a, b; s b; cx a, b; swap a, b; }"),
    ("iswapdg", "gate iswapdg a, b { cx a, b; sdg b; cx a, b; swap a, b; }"),
    ("rxx", "gate rxx(t) a, b { h a; h b; cx a, b; rz(t) b; cx a, b; h a; h b; }"),
    (
        "ryy",
        "gate ryy(t) a, b { rx(pi/2) a; rx(pi/2) b; cx a, b; rz(t) b; cx a, b; rx(-pi/2) a; rx(-pi/2) b; }",
    ),
    ("rzz", "gate rzz(t) a, b { cx a, b; rz(t) b; cx a, b; }"),
];

impl Circuit {
    /// The circuit as an OpenQASM 3 program with one register `q`. Values per sample are `input array[float[64], F] x`;
    /// shared parameters are `input array[float[64], P] theta`, declared before it, so that reading the text back gives a
    /// circuit whose inputs are both, one after the other.
    ///
    /// Matrices are taken apart into controlled one-qubit gates, up to 4^k/2 of them for k qubits.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a matrix or diagonal is not unitary or each sample's own: OpenQASM cannot say it.
    pub fn to_qasm3(&self) -> Result<String> {
        let mut writer = Writer { body: String::new(), extra: BTreeSet::new() };
        for instruction in &self.instructions {
            writer.instruction(instruction)?;
        }
        let mut text = String::from("OPENQASM 3.0;\ninclude \"stdgates.inc\";\n");
        // Writing to a String cannot fail.
        for (name, definition) in EXTRA {
            if writer.extra.contains(name) {
                let _ = writeln!(text, "{definition}");
            }
        }
        for (name, count) in [("theta", self.thetas()), ("x", self.inputs())] {
            if count > 0 {
                let _ = writeln!(text, "input array[float[64], {count}] {name};");
            }
        }
        let _ = writeln!(text, "qubit[{}] q;", self.qubits());
        Ok(text + &writer.body)
    }
}

struct Writer {
    body: String,
    extra: BTreeSet<&'static str>,
}

/// An angle as an expression.
fn angle(parameter: Parameter) -> String {
    let Angle { of, scale, offset } = parameter.into();
    let name = match of {
        None => return format!("{offset:?}"),
        Some(Variable::Theta(i)) => format!("theta[{i}]"),
        Some(Variable::Input(i)) => format!("x[{i}]"),
    };
    let product = if scale == 1.0 { name } else { format!("{scale:?}*{name}") };
    match offset {
        0.0 => product,
        _ if offset < 0.0 => format!("{product} - {:?}", -offset),
        _ => format!("{product} + {offset:?}"),
    }
}

fn unit(z: C) -> bool {
    (z.norm_sqr() - 1.0).abs() < 1e-6
}

fn is_unitary(matrix: &[C]) -> bool {
    let side = matrix.len().isqrt();
    let product = |i: usize, j: usize| -> C {
        (0..side).map(|k| matrix[i * side + k] * matrix[j * side + k].conj()).sum()
    };
    (0..side).all(|i| (0..side).all(|j| (product(i, j) - C::from(f64::from(u8::from(i == j)))).norm() < 1e-6))
}

impl Writer {
    /// One line: modifiers for the controls, a gate, its operands.
    fn line(&mut self, controls: &[Control], gate: &str, targets: &[usize]) {
        let of = |value: bool| controls.iter().filter(move |c| c.value == value).map(|c| c.qubit);
        let mut text = String::new();
        for (word, value) in [("ctrl", true), ("negctrl", false)] {
            // Writing to a String cannot fail.
            let _ = match of(value).count() {
                0 => Ok(()),
                1 => write!(text, "{word} @ "),
                n => write!(text, "{word}({n}) @ "),
            };
        }
        let operands = of(true).chain(of(false)).chain(targets.iter().copied());
        let operands: Vec<String> = operands.map(|qubit| format!("q[{qubit}]")).collect();
        let blank = if operands.is_empty() { "" } else { " " };
        let _ = writeln!(self.body, "{text}{gate}{blank}{};", operands.join(", "));
    }

    fn instruction(&mut self, instruction: &Instruction) -> Result<()> {
        let Instruction { gate, targets, controls } = instruction;
        let word = match gate {
            Gate::X => "x".into(),
            Gate::Y => "y".into(),
            Gate::Z => "z".into(),
            Gate::H => "h".into(),
            Gate::S => "s".into(),
            Gate::Sdg => "sdg".into(),
            Gate::T => "t".into(),
            Gate::Tdg => "tdg".into(),
            Gate::Sx => "sx".into(),
            Gate::Sxdg => "inv @ sx".into(),
            Gate::Rx(a) => format!("rx({})", angle(*a)),
            Gate::Ry(a) => format!("ry({})", angle(*a)),
            Gate::Rz(a) => format!("rz({})", angle(*a)),
            Gate::Phase(a) => format!("p({})", angle(*a)),
            Gate::U3(a, b, c) => format!("U({}, {}, {})", angle(*a), angle(*b), angle(*c)),
            Gate::Swap => "swap".into(),
            Gate::ISwap => self.extra("iswap", None),
            Gate::ISwapDg => self.extra("iswapdg", None),
            Gate::Rxx(a) => self.extra("rxx", Some(*a)),
            Gate::Ryy(a) => self.extra("ryy", Some(*a)),
            Gate::Rzz(a) => self.extra("rzz", Some(*a)),
            Gate::PauliRotation(string, a) => {
                self.rotation((string.x, string.z), *a, controls);
                return Ok(());
            }
            Gate::Matrix(entries) if is_unitary(entries) => {
                for factor in factors(entries) {
                    self.factor(&factor, targets, controls);
                }
                return Ok(());
            }
            Gate::Diagonal(entries) if entries.iter().all(|&entry| unit(entry)) => {
                for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.arg() != 0.0) {
                    self.factor(&Factor::Phase { index, angle: entry.arg() }, targets, controls);
                }
                return Ok(());
            }
            Gate::Permutation(table) => {
                for (index, bit) in flips(table) {
                    self.line(&fixed(index, Some(bit), targets, controls), "x", &[targets[bit]]);
                }
                return Ok(());
            }
            Gate::Matrix(_) | Gate::Diagonal(_) => {
                let reason = "holds a matrix that is not unitary, which OpenQASM cannot express";
                return Err(Error::argument(OP, "self", reason));
            }
            Gate::SampleMatrix { .. } => {
                let reason = "holds a matrix of each sample's own, which OpenQASM cannot express";
                return Err(Error::argument(OP, "self", reason));
            }
        };
        // `cx` reads better than `ctrl @ x`.
        let named = match (gate, controls.len()) {
            (Gate::X | Gate::Y | Gate::Z | Gate::H | Gate::Swap, 1) => Some("c"),
            (Gate::Rx(_) | Gate::Ry(_) | Gate::Rz(_) | Gate::Phase(_), 1) => Some("c"),
            (Gate::X, 2) => Some("cc"),
            _ => None,
        };
        match named.filter(|_| controls.iter().all(|control| control.value)) {
            Some(prefix) => {
                let qubits: Vec<usize> =
                    controls.iter().map(|c| c.qubit).chain(targets.iter().copied()).collect();
                self.line(&[], &format!("{prefix}{word}"), &qubits);
            }
            None => self.line(controls, &word, targets),
        }
        Ok(())
    }

    fn extra(&mut self, name: &'static str, parameter: Option<Parameter>) -> String {
        self.extra.insert(name);
        parameter.map_or(name.into(), |parameter| format!("{name}({})", angle(parameter)))
    }

    /// exp(−iθP/2): turn every factor of P into Z, collect the parity on one qubit, turn that, and go back.
    fn rotation(&mut self, (x, z): (u32, u32), theta: Parameter, controls: &[Control]) {
        let qubits: Vec<usize> = (0..32).filter(|&q| (x | z) >> q & 1 == 1).collect();
        let Some((&last, rest)) = qubits.split_last() else {
            return self.line(controls, &format!("gphase({})", angle(theta.scaled(-0.5))), &[]);
        };
        let turn = |this: &mut Self, sign: &str| {
            for &qubit in &qubits {
                match (x >> qubit & 1, z >> qubit & 1) {
                    (1, 0) => this.line(&[], "h", &[qubit]),
                    (1, _) => this.line(&[], &format!("rx({sign}pi/2)"), &[qubit]),
                    _ => {}
                }
            }
        };
        turn(self, "");
        rest.iter().for_each(|&qubit| self.line(&[], "cx", &[qubit, last]));
        self.line(controls, &format!("rz({})", angle(theta)), &[last]);
        rest.iter().rev().for_each(|&qubit| self.line(&[], "cx", &[qubit, last]));
        turn(self, "-");
    }

    fn factor(&mut self, factor: &Factor, targets: &[usize], controls: &[Control]) {
        match *factor {
            Factor::Phase { index, angle } => {
                self.line(&fixed(index, None, targets, controls), &format!("gphase({angle:?})"), &[]);
            }
            Factor::Pair { index, bit, matrix } => {
                let held = fixed(index, Some(bit), targets, controls);
                let [alpha, theta, phi, lambda] = euler(matrix);
                if alpha != 0.0 {
                    self.line(&held, &format!("gphase({alpha:?})"), &[]);
                }
                self.line(&held, &format!("U({theta:?}, {phi:?}, {lambda:?})"), &[targets[bit]]);
            }
        }
    }
}

/// Controls that pick the basis states of the targets with these bits, all of them but one, besides those given.
fn fixed(index: usize, except: Option<usize>, targets: &[usize], controls: &[Control]) -> Vec<Control> {
    let others = targets.iter().enumerate().filter(|&(bit, _)| Some(bit) != except);
    let own = others.map(|(bit, &qubit)| Control { qubit, value: index >> bit & 1 == 1 });
    controls.iter().copied().chain(own).collect()
}
