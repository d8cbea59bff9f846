//! Circuits as bytes.
//!
//! The circuit is stored, not the plan made of it: compiling is deterministic and takes less than reading a plan would, a plan
//! is bound to one release's kernels, and what is read back passes the same checks as a circuit built by hand.
//!
//! ```text
//! "GWQC" version:1
//! qubits  flags (1: parameters declared)  thetas  inputs  gates
//! gate:      opcode:1  targets  target…  controls  {qubit << 1 | value}…  operands
//! parameter: kind (0 constant, 1 theta, 2 inputs; + 4: affine)  index unless constant  scale offset if affine, value if constant
//! matrix, diagonal: entries  {re im}…        permutation: entries  value…
//! string: x-mask z-mask        sample matrix: slot << 1 | adjoint
//! ```
//!
//! Counts, indices and masks are LEB128, numbers are f64 in little-endian order.

use super::circuit::{Circuit, Control};
use super::gate::Gate;
use super::parameter::{Parameter, Variable};
use super::pauli::PauliString;
use crate::error::{Error, Result};
use num_complex::Complex64;

const MAGIC: &[u8; 4] = b"GWQC";
const VERSION: u8 = 1;

impl Circuit {
    /// The circuit in a compact form that [`Circuit::from_bytes`] reads on any machine; compiling it again gives the same
    /// program.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer(MAGIC.to_vec());
        out.0.push(VERSION);
        out.count(self.qubits());
        out.count(usize::from(self.is_declared()));
        out.count(self.thetas());
        out.count(self.inputs());
        out.count(self.len());
        for instruction in &self.instructions {
            out.0.push(opcode(&instruction.gate));
            out.count(instruction.targets.len());
            instruction.targets.iter().for_each(|&target| out.count(target));
            out.count(instruction.controls.len());
            for control in &instruction.controls {
                out.count(control.qubit << 1 | usize::from(control.value));
            }
            out.operands(&instruction.gate);
        }
        out.0
    }

    /// Reads what [`Circuit::to_bytes`] has written.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] naming the byte where the text is cut short, of another version, or not a legal circuit.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.take(4)? != MAGIC {
            return Err(reader.bad("are not a circuit"));
        }
        match reader.byte()? {
            VERSION => {}
            other => return Err(reader.bad(&format!("are of version {other}, this release reads {VERSION}"))),
        }
        let (qubits, declared) = (reader.count()?, reader.count()? != 0);
        let (thetas, inputs, gates) = (reader.count()?, reader.count()?, reader.count()?);
        let mut circuit =
            if declared { Self::with_parameters(qubits, thetas, inputs)? } else { Self::new(qubits)? };
        for _ in 0..gates {
            let opcode = reader.byte()?;
            let targets = reader.list(Reader::count)?;
            let control = |reader: &mut Reader<'_>| {
                let word = reader.count()?;
                Ok(Control { qubit: word >> 1, value: word & 1 == 1 })
            };
            let controls = reader.list(control)?;
            let gate = reader.gate(opcode)?;
            circuit.controlled(&controls, gate, &targets)?;
        }
        if reader.at != bytes.len() {
            return Err(reader.bad("go on after the last gate"));
        }
        if (circuit.thetas(), circuit.inputs()) != (thetas, inputs) {
            return Err(reader.bad("name other parameters than they declare"));
        }
        Ok(circuit)
    }
}

fn opcode(gate: &Gate) -> u8 {
    match gate {
        Gate::X => 0,
        Gate::Y => 1,
        Gate::Z => 2,
        Gate::H => 3,
        Gate::S => 4,
        Gate::Sdg => 5,
        Gate::T => 6,
        Gate::Tdg => 7,
        Gate::Sx => 8,
        Gate::Sxdg => 9,
        Gate::Swap => 10,
        Gate::ISwap => 11,
        Gate::ISwapDg => 12,
        Gate::Rx(_) => 13,
        Gate::Ry(_) => 14,
        Gate::Rz(_) => 15,
        Gate::Phase(_) => 16,
        Gate::U3(..) => 17,
        Gate::Rxx(_) => 18,
        Gate::Ryy(_) => 19,
        Gate::Rzz(_) => 20,
        Gate::PauliRotation(..) => 21,
        Gate::Matrix(_) => 22,
        Gate::Diagonal(_) => 23,
        Gate::Permutation(_) => 24,
        Gate::SampleMatrix { .. } => 25,
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn count(&mut self, count: usize) {
        let mut rest = count as u64;
        while rest >= 128 {
            self.0.push(rest as u8 | 128);
            rest >>= 7;
        }
        self.0.push(rest as u8);
    }

    fn number(&mut self, number: f64) {
        self.0.extend(number.to_le_bytes());
    }

    fn entries(&mut self, entries: &[Complex64]) {
        self.count(entries.len());
        entries.iter().flat_map(|entry| [entry.re, entry.im]).for_each(|part| self.number(part));
    }

    fn variable(&mut self, variable: Variable, affine: usize) {
        match variable {
            Variable::Theta(index) => [1 + affine, index].into_iter().for_each(|word| self.count(word)),
            Variable::Input(index) => [2 + affine, index].into_iter().for_each(|word| self.count(word)),
        }
    }

    fn parameter(&mut self, parameter: Parameter) {
        match parameter {
            Parameter::Constant(value) => {
                self.count(0);
                self.number(value);
            }
            Parameter::Theta(index) => self.variable(Variable::Theta(index), 0),
            Parameter::Input(index) => self.variable(Variable::Input(index), 0),
            Parameter::Affine { scale, of, offset } => {
                self.variable(of, 4);
                self.number(scale);
                self.number(offset);
            }
        }
    }

    fn operands(&mut self, gate: &Gate) {
        match gate {
            Gate::Matrix(entries) | Gate::Diagonal(entries) => self.entries(entries),
            Gate::Permutation(table) => {
                self.count(table.len());
                table.iter().for_each(|&to| self.count(to as usize));
            }
            Gate::SampleMatrix { slot, adjoint } => self.count(slot << 1 | usize::from(*adjoint)),
            Gate::PauliRotation(string, angle) => {
                self.count(string.x as usize);
                self.count(string.z as usize);
                self.parameter(*angle);
            }
            other => super::gate::parameters(other).for_each(|parameter| self.parameter(parameter)),
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn bad(&self, reason: &str) -> Error {
        Error::argument("Circuit::from_bytes", "bytes", format!("{reason} (at byte {})", self.at))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| self.bad("are cut short"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn count(&mut self) -> Result<usize> {
        let mut value = 0u64;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 127) << shift;
            if byte & 128 == 0 {
                return usize::try_from(value).map_err(|_| self.bad("hold a number that is too large"));
            }
        }
        Err(self.bad("hold a number that is too large"))
    }

    fn word(&mut self) -> Result<u32> {
        let word = self.count()?;
        u32::try_from(word).map_err(|_| self.bad("hold a number that is too large"))
    }

    fn number(&mut self) -> Result<f64> {
        let mut eight = [0; 8];
        eight.copy_from_slice(self.take(8)?);
        Ok(f64::from_le_bytes(eight))
    }

    /// A list of at most as many items as there are bytes left: a wrong count allocates nothing.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let count = self.count()?;
        if count > self.bytes.len() - self.at {
            return Err(self.bad("are cut short"));
        }
        (0..count).map(|_| item(self)).collect()
    }

    fn entries(&mut self) -> Result<Vec<Complex64>> {
        self.list(|reader| Ok(Complex64::new(reader.number()?, reader.number()?)))
    }

    fn parameter(&mut self) -> Result<Parameter> {
        let kind = self.count()?;
        if kind == 0 {
            return Ok(Parameter::Constant(self.number()?));
        }
        let index = self.count()?;
        Ok(match kind {
            1 => Parameter::Theta(index),
            2 => Parameter::Input(index),
            5 | 6 => {
                let of = if kind == 5 { Variable::Theta(index) } else { Variable::Input(index) };
                Parameter::Affine { scale: self.number()?, of, offset: self.number()? }
            }
            _ => return Err(self.bad("hold an unknown kind of parameter")),
        })
    }

    fn gate(&mut self, opcode: u8) -> Result<Gate> {
        Ok(match opcode {
            0 => Gate::X,
            1 => Gate::Y,
            2 => Gate::Z,
            3 => Gate::H,
            4 => Gate::S,
            5 => Gate::Sdg,
            6 => Gate::T,
            7 => Gate::Tdg,
            8 => Gate::Sx,
            9 => Gate::Sxdg,
            10 => Gate::Swap,
            11 => Gate::ISwap,
            12 => Gate::ISwapDg,
            13 => Gate::Rx(self.parameter()?),
            14 => Gate::Ry(self.parameter()?),
            15 => Gate::Rz(self.parameter()?),
            16 => Gate::Phase(self.parameter()?),
            17 => Gate::U3(self.parameter()?, self.parameter()?, self.parameter()?),
            18 => Gate::Rxx(self.parameter()?),
            19 => Gate::Ryy(self.parameter()?),
            20 => Gate::Rzz(self.parameter()?),
            21 => {
                let (x, z) = (self.word()?, self.word()?);
                Gate::PauliRotation(PauliString { x, z }, self.parameter()?)
            }
            22 => Gate::Matrix(self.entries()?),
            23 => Gate::Diagonal(self.entries()?),
            24 => Gate::Permutation(self.list(Self::word)?),
            25 => {
                let word = self.count()?;
                Gate::SampleMatrix { slot: word >> 1, adjoint: word & 1 == 1 }
            }
            _ => return Err(self.bad(&format!("hold gate {opcode}, which this release does not know"))),
        })
    }
}
