//! Circuits with measurements, resets and classical conditions in their middle.
//!
//! A [`DynamicCircuit`] is a sequence of unitary [`Circuit`]s, measurements into classical bits, resets, and parts that run
//! only where some bits have a value. Each shot is a trajectory of its own: what comes before the first measurement runs once a
//! sample, then trajectories run side by side as one batch. A conditional part runs on the trajectories that meet its
//! condition and on no others. If all that follows the unitary part is measurements, one state gives all the shots.

pub(super) mod rows;
mod run;
mod shots;

pub use shots::Shots;

use super::circuit::{Circuit, MAX_QUBITS};
use super::program::Program;
use super::qasm::Condition;
use crate::error::{Error, Result};

const OP: &str = "DynamicCircuit";

/// Most classical bits of a [`DynamicCircuit`].
pub const MAX_BITS: usize = 65_536;
/// Conditions may be nested this deep.
const MAX_DEPTH: usize = 64;

/// One element of a dynamic circuit.
#[derive(Clone, Debug, PartialEq)]
enum Element {
    Unitary(Circuit),
    Measure { qubit: usize, bit: usize },
    Reset { qubit: usize },
    Conditional { bits: Vec<usize>, value: u64, body: DynamicCircuit },
    Choice { condition: Condition, then: DynamicCircuit, otherwise: DynamicCircuit },
}

/// A circuit with measurements, resets and classical conditions, under construction.
///
/// Classical bits start as 0. Every method checks its arguments; a refused element leaves the circuit as it was.
///
/// ```
/// # fn main() -> gatewarp::Result<()> {
/// use gatewarp::Device;
/// use gatewarp::statevec::{Batch, Circuit, DynamicCircuit};
/// // A fair coin is tossed; heads are turned back to tails.
/// let (mut toss, mut turn) = (Circuit::new(1)?, Circuit::new(1)?);
/// toss.h(0)?;
/// turn.x(0)?;
/// let mut circuit = DynamicCircuit::new(1, 2)?;
/// circuit.circuit(&toss)?.measure(0, 0)?.conditional(&[0], 1, &turn.into())?.measure(0, 1)?;
/// let shots = circuit.compile()?.sample(&Batch::new(&Device::cpu(), 1), 100, 7)?;
/// assert!((0..100).all(|shot| !shots.bit(0, shot, 1)));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicCircuit {
    qubits: usize,
    bits: usize,
    thetas: usize,
    inputs: usize,
    depth: usize,
    elements: Vec<Element>,
}

impl DynamicCircuit {
    /// An empty circuit on `qubits` qubits and `bits` classical bits.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `qubits` is 0 or above [`MAX_QUBITS`], or `bits` is above [`MAX_BITS`].
    pub fn new(qubits: usize, bits: usize) -> Result<Self> {
        if qubits == 0 || qubits > MAX_QUBITS {
            return Err(Error::argument(OP, "qubits", format!("is {qubits}, outside 1..={MAX_QUBITS}")));
        }
        if bits > MAX_BITS {
            return Err(Error::argument(OP, "bits", format!("is {bits}, above {MAX_BITS}")));
        }
        Ok(Self { qubits, bits, thetas: 0, inputs: 0, depth: 0, elements: Vec::new() })
    }

    /// Number of qubits.
    pub fn qubits(&self) -> usize {
        self.qubits
    }

    /// Number of classical bits.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Number of shared parameters: the length of `theta`.
    pub fn thetas(&self) -> usize {
        self.thetas
    }

    /// Number of values per sample: the width of `inputs`.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// Appends the gates of a circuit on as many qubits. Adjacent circuits are compiled as one.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the qubit counts differ.
    pub fn circuit(&mut self, circuit: &Circuit) -> Result<&mut Self> {
        self.check_width(circuit.qubits())?;
        let (thetas, inputs) = (self.thetas.max(circuit.thetas()), self.inputs.max(circuit.inputs()));
        match self.elements.last_mut() {
            Some(Element::Unitary(last)) => {
                let mut both = Circuit::with_parameters(self.qubits, thetas, inputs)?;
                both.append(last)?.append(circuit)?;
                *last = both;
            }
            _ => self.elements.push(Element::Unitary(circuit.clone())),
        }
        (self.thetas, self.inputs) = (thetas, inputs);
        Ok(self)
    }

    /// Measures a qubit into a classical bit. The state collapses and keeps norm 1.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the qubit or the bit is out of range.
    pub fn measure(&mut self, qubit: usize, bit: usize) -> Result<&mut Self> {
        self.check_qubit(qubit)?;
        self.check_bit(bit)?;
        self.elements.push(Element::Measure { qubit, bit });
        Ok(self)
    }

    /// Brings a qubit to |0⟩, whatever it was entangled with.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the qubit is out of range.
    pub fn reset(&mut self, qubit: usize) -> Result<&mut Self> {
        self.check_qubit(qubit)?;
        self.elements.push(Element::Reset { qubit });
        Ok(self)
    }

    /// Runs `body` in the shots where the listed bits, the first the least significant, read `value`. No bits read 0.
    ///
    /// The body has this circuit's qubits and bits; a [`Circuit`] converts into one.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a bit is out of range or listed twice, there are more than 64, `value` does not fit them,
    /// the body has other qubits or more bits, or conditions nest deeper than 64.
    pub fn conditional(&mut self, bits: &[usize], value: u64, body: &Self) -> Result<&mut Self> {
        if bits.len() > 64 {
            return Err(Error::argument(
                OP,
                "bits",
                format!("are {}, at most 64 can be compared", bits.len()),
            ));
        }
        for (i, &bit) in bits.iter().enumerate() {
            self.check_bit(bit)?;
            if bits[..i].contains(&bit) {
                return Err(Error::argument(OP, "bits", format!("name bit {bit} twice")));
            }
        }
        if bits.len() < 64 && value >> bits.len() != 0 {
            return Err(Error::argument(OP, "value", format!("{value} does not fit {} bits", bits.len())));
        }
        self.check_body(body)?;
        self.depth = self.depth.max(body.depth + 1);
        (self.thetas, self.inputs) = (self.thetas.max(body.thetas), self.inputs.max(body.inputs));
        self.elements.push(Element::Conditional { bits: bits.to_vec(), value, body: body.clone() });
        Ok(self)
    }

    /// Runs `then` in the shots where the condition holds and `otherwise` in the others, both decided before either runs.
    ///
    /// # Errors
    /// As [`DynamicCircuit::conditional`].
    pub fn choice(&mut self, condition: &Condition, then: &Self, otherwise: &Self) -> Result<&mut Self> {
        let mut bad = Ok(());
        condition.for_each_bit(&mut |bit| {
            if let Err(error) = self.check_bit(bit) {
                bad = Err(error);
            }
        });
        bad?;
        for body in [then, otherwise] {
            self.check_body(body)?;
        }
        for body in [then, otherwise] {
            self.depth = self.depth.max(body.depth + 1);
            (self.thetas, self.inputs) = (self.thetas.max(body.thetas), self.inputs.max(body.inputs));
        }
        let (condition, then, otherwise) = (condition.clone(), then.clone(), otherwise.clone());
        self.elements.push(Element::Choice { condition, then, otherwise });
        Ok(self)
    }

    /// Compiles the circuit.
    ///
    /// # Errors
    /// As [`Circuit::compile`].
    pub fn compile(&self) -> Result<DynamicProgram> {
        let mut events = 0;
        let mut steps = self.steps(self.thetas, self.inputs, &mut events)?;
        let prefix = match steps.first() {
            Some(Step::Unitary(_)) => match steps.remove(0) {
                Step::Unitary(program) => program,
                _ => self.nothing()?,
            },
            _ => self.nothing()?,
        };
        // The bits' last measurements, if there is nothing else.
        let mut last = vec![None; self.bits];
        let mut is_terminal = true;
        for step in &steps {
            match step {
                Step::Measure { qubit, bit, .. } => last[*bit] = Some(*qubit),
                _ => is_terminal = false,
            }
        }
        let terminal = is_terminal.then_some(last);
        let (qubits, bits, thetas, inputs) = (self.qubits, self.bits, self.thetas, self.inputs);
        Ok(DynamicProgram { qubits, bits, thetas, inputs, prefix, steps, terminal })
    }

    fn nothing(&self) -> Result<Program> {
        Circuit::with_parameters(self.qubits, self.thetas, self.inputs)?.compile()
    }

    fn steps(&self, thetas: usize, inputs: usize, events: &mut u32) -> Result<Vec<Step>> {
        let next = |events: &mut u32| {
            *events += 1;
            *events - 1
        };
        let mut steps = Vec::with_capacity(self.elements.len());
        for element in &self.elements {
            steps.push(match element {
                Element::Unitary(circuit) => {
                    // Every part takes the parameters of the whole.
                    let mut whole = Circuit::with_parameters(self.qubits, thetas, inputs)?;
                    whole.append(circuit)?;
                    Step::Unitary(whole.compile()?)
                }
                &Element::Measure { qubit, bit } => Step::Measure { qubit, bit, event: next(events) },
                &Element::Reset { qubit } => Step::Reset { qubit, event: next(events) },
                Element::Conditional { bits, value, body } => Step::Conditional {
                    bits: bits.clone(),
                    value: *value,
                    body: body.steps(thetas, inputs, events)?,
                },
                Element::Choice { condition, then, otherwise } => Step::Choice {
                    condition: condition.clone(),
                    then: then.steps(thetas, inputs, events)?,
                    otherwise: otherwise.steps(thetas, inputs, events)?,
                },
            });
        }
        Ok(steps)
    }

    fn check_body(&self, body: &Self) -> Result<()> {
        self.check_width(body.qubits)?;
        if body.bits > self.bits {
            let reason = format!("has {} classical bits, this circuit has {}", body.bits, self.bits);
            return Err(Error::argument(OP, "body", reason));
        }
        if body.depth + 1 > MAX_DEPTH {
            return Err(Error::argument(OP, "body", format!("nests conditions more than {MAX_DEPTH} deep")));
        }
        Ok(())
    }

    fn check_width(&self, qubits: usize) -> Result<()> {
        if qubits == self.qubits {
            return Ok(());
        }
        let reason = format!("has {qubits} qubits, this circuit has {}", self.qubits);
        Err(Error::argument(OP, "circuit", reason))
    }

    fn check_qubit(&self, qubit: usize) -> Result<()> {
        if qubit < self.qubits {
            return Ok(());
        }
        Err(Error::argument(OP, "qubit", format!("is {qubit}, the circuit has {}", self.qubits)))
    }

    fn check_bit(&self, bit: usize) -> Result<()> {
        if bit < self.bits {
            return Ok(());
        }
        Err(Error::argument(OP, "bit", format!("is {bit}, the circuit has {}", self.bits)))
    }
}

impl From<Circuit> for DynamicCircuit {
    /// The circuit as a dynamic one without classical bits.
    fn from(circuit: Circuit) -> Self {
        let (qubits, thetas, inputs) = (circuit.qubits(), circuit.thetas(), circuit.inputs());
        Self { qubits, bits: 0, thetas, inputs, depth: 0, elements: vec![Element::Unitary(circuit)] }
    }
}

/// One step of a compiled dynamic circuit. `event` numbers what draws a random word.
#[derive(Debug)]
enum Step {
    Unitary(Program),
    Measure { qubit: usize, bit: usize, event: u32 },
    Reset { qubit: usize, event: u32 },
    Conditional { bits: Vec<usize>, value: u64, body: Vec<Step> },
    Choice { condition: Condition, then: Vec<Step>, otherwise: Vec<Step> },
}

/// A compiled [`DynamicCircuit`]: sample it on any batch, on any device.
#[derive(Debug)]
pub struct DynamicProgram {
    qubits: usize,
    bits: usize,
    thetas: usize,
    inputs: usize,
    /// Everything before the first step that is not unitary.
    prefix: Program,
    steps: Vec<Step>,
    /// The qubit that each bit reads in the end, if every step is a measurement.
    terminal: Option<Vec<Option<usize>>>,
}

impl DynamicProgram {
    /// Number of qubits.
    pub fn qubits(&self) -> usize {
        self.qubits
    }

    /// Number of classical bits.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Length of `theta`.
    pub fn thetas(&self) -> usize {
        self.thetas
    }

    /// Width of `inputs`.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The unitary part before the first measurement, reset or condition.
    pub fn prefix(&self) -> &Program {
        &self.prefix
    }

    /// Whether every measurement comes last, so that one state gives all the shots.
    pub fn measures_last(&self) -> bool {
        self.terminal.is_some()
    }
}
