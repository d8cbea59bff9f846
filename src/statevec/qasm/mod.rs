//! OpenQASM: [`parse`] reads version 2.0 and the matching subset of 3.0, [`Circuit::to_qasm3`](super::Circuit::to_qasm3)
//! writes 3.0.
//!
//! ```
//! # fn main() -> gatewarp::Result<()> {
//! use gatewarp::statevec::{Batch, PauliSum, qasm};
//! use gatewarp::{Device, Tensor};
//!
//! let program = qasm::parse(
//!     r#"OPENQASM 3.0;
//!        include "stdgates.inc";
//!        input float[64] x;
//!        qubit[2] q;
//!        ry(2*x + pi) q[0];
//!        cx q[0], q[1];"#,
//!     "example.qasm",
//! )?;
//! let compiled = program.circuit()?.compile()?;
//! let device = Device::cpu();
//! let x = Tensor::from_slice(&device, &[0.0f32, 0.5], &[2, 1])?;
//! let z = compiled.expectations(&Batch::new(&device, 2).inputs(&x), &[PauliSum::z(1)?])?.to_vec::<f32>()?;
//! assert!((z[0] + 1.0).abs() < 1e-6 && (z[1] + 1.0f32.cos()).abs() < 1e-6);
//! # Ok(())
//! # }
//! ```
//!
//! # What is read
//!
//! *2.0*: all of it, with the gates of `qelib1.inc` built in (the include is still required).
//!
//! *3.0*: `qubit`, `bit`, `qreg`, `creg`; `gate`, with `ctrl(n) @`, `negctrl(n) @`, `inv @`, `pow(k) @` and `gphase`; the
//! gates of `stdgates.inc`; `measure`, `reset`, `barrier`, `if`/`else` on bits; `const`; `let`; `for` over constant ranges;
//! indices, slices and sets. `input float x;` and `input array[float, n] xs;` are values per sample, numbered in order of
//! declaration. Angles may be any affine expression of them; one that is not (`x*y`, `sin(x)`) is an error.
//!
//! # Meaning
//!
//! Qubits are numbered over registers in order of declaration, the first is the least significant bit of an amplitude's
//! index; the same for bits. `U`, `u2`, `u3` have cos(θ/2) as their upper left entry, which matters where they are controlled. `pow(k) @ g` is
//! the principal power: eigenvalues e^{iφ}, −π < φ ≤ π, become e^{iφk}. An integer division in 3.0 that leaves a remainder
//! is truncated where an integer is wanted, counts in full in `pow(1/2)`, and is an error as an angle.
//!
//! Every fault is an [`Error::Parse`](crate::Error::Parse) with file, line, column (in characters) and what to do. Nesting, sizes and the length
//! of what a program expands to are bounded, so that no text overflows the stack or the memory.

mod ast;
mod circuits;
mod condition;
mod dense;
mod export;
mod expression;
mod gates;
mod lexer;
mod library;
mod parser;
mod program;
mod symbols;
mod synthesis;
mod value;

pub use condition::Condition;

use super::circuit::Control;
use super::gate::Gate;
use crate::error::Result;

/// A named run of qubits, bits or inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// As declared.
    pub name: String,
    /// Number of its first element, over all registers of its kind.
    pub start: usize,
    /// Number of elements.
    pub len: usize,
}

/// One step of a program: definitions are expanded, loops unrolled, expressions computed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Operation {
    /// A gate, as [`Circuit::controlled`](super::Circuit::controlled) takes it.
    Gate {
        /// What it does.
        gate: Gate,
        /// The qubits it does it to.
        targets: Vec<usize>,
        /// When.
        controls: Vec<Control>,
    },
    /// A measurement in the computational basis.
    Measure {
        /// The qubit measured.
        qubit: usize,
        /// The bit that takes the result, if it is kept.
        bit: Option<usize>,
    },
    /// Back to |0⟩.
    Reset {
        /// The qubit.
        qubit: usize,
    },
    /// Nothing: it keeps gates apart on hardware.
    Barrier {
        /// The qubits it spans, ascending.
        qubits: Vec<usize>,
    },
    /// Operations that depend on measured bits.
    If {
        /// When `then` runs; it is decided before anything in the block runs.
        condition: Condition,
        /// Runs where the condition holds.
        then: Vec<Operation>,
        /// Runs where it does not.
        otherwise: Vec<Operation>,
    },
}

/// A program as [`parse`] reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Qasm {
    version: u8,
    qubits: Vec<Register>,
    bits: Vec<Register>,
    inputs: Vec<Register>,
    operations: Vec<Operation>,
}

/// Reads a program. `file` is the name that errors show.
///
/// # Errors
/// [`Error::Parse`](crate::Error::Parse) with the place and what to do about it.
pub fn parse(source: &str, file: &str) -> Result<Qasm> {
    program::build(source, file)
}

/// `q[2]` of a register with several elements, `q` of one with a single element.
fn element_name(registers: &[Register], index: usize) -> String {
    match registers.iter().find(|register| (register.start..register.start + register.len).contains(&index)) {
        Some(register) if register.len == 1 => register.name.clone(),
        Some(register) => format!("{}[{}]", register.name, index - register.start),
        None => index.to_string(),
    }
}

impl Qasm {
    /// 2 or 3.
    pub fn version(&self) -> u8 {
        self.version
    }

    /// Quantum registers in order of declaration.
    pub fn qubits(&self) -> &[Register] {
        &self.qubits
    }

    /// Classical registers in order of declaration.
    pub fn bits(&self) -> &[Register] {
        &self.bits
    }

    /// Inputs in order of declaration.
    pub fn inputs(&self) -> &[Register] {
        &self.inputs
    }

    /// What the program does, in order.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// How the program calls a qubit.
    pub fn qubit_name(&self, qubit: usize) -> String {
        element_name(&self.qubits, qubit)
    }

    /// How the program calls a classical bit.
    pub fn bit_name(&self, bit: usize) -> String {
        element_name(&self.bits, bit)
    }

    /// How the program calls an input.
    pub fn input_name(&self, input: usize) -> String {
        element_name(&self.inputs, input)
    }
}
