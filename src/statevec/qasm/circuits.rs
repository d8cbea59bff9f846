//! Programs as circuits: unitary ones, and those that measure in between.

use super::{Operation, Qasm, program};
use crate::error::{Error, Result};
use crate::statevec::circuit::{Circuit, Control};
use crate::statevec::dynamic::DynamicCircuit;
use crate::statevec::gate::Gate;

impl Qasm {
    /// The program as a circuit: its gates, up to measurements at the end, which are left out.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there are no qubits, or if what happens depends on a measurement: a gate after one,
    /// a reset, a condition on measured bits.
    pub fn circuit(&self) -> Result<Circuit> {
        Ok(self.unitary()?.0)
    }

    /// For every classical bit, the qubit whose final measurement it takes; as [`Qasm::circuit`], which it belongs to.
    ///
    /// # Errors
    /// As [`Qasm::circuit`].
    pub fn final_measurements(&self) -> Result<Vec<Option<usize>>> {
        Ok(self.unitary()?.1)
    }

    fn unitary(&self) -> Result<(Circuit, Vec<Option<usize>>)> {
        let qubits = program::total(&self.qubits);
        if qubits == 0 {
            return Err(refused("declares no qubits; declare a register, `qubit[n] q;`".into()));
        }
        let mut state = Unitary {
            names: self,
            circuit: Circuit::with_parameters(qubits, 0, program::total(&self.inputs))?,
            touched: vec![false; qubits],
            measured: vec![false; qubits],
            taken: vec![None; program::total(&self.bits)],
        };
        state.run(&self.operations)?;
        Ok((state.circuit, state.taken))
    }

    /// The program as a circuit that may measure, reset and decide wherever it likes. Where a measurement's result is not
    /// kept, it goes into a bit after those of the program.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there are no qubits, or conditions are nested too deep.
    pub fn dynamic(&self) -> Result<DynamicCircuit> {
        let qubits = program::total(&self.qubits);
        if qubits == 0 {
            return Err(refused("declares no qubits; declare a register, `qubit[n] q;`".into()));
        }
        let bits = program::total(&self.bits);
        if let Ok((circuit, taken)) = self.unitary() {
            // Every measurement moves to the end, and one state gives all the shots.
            let mut all = DynamicCircuit::new(qubits, bits)?;
            all.circuit(&circuit)?;
            for (bit, qubit) in taken.into_iter().enumerate() {
                if let Some(qubit) = qubit {
                    all.measure(qubit, bit)?;
                }
            }
            return Ok(all);
        }
        let lowering = Dynamic { qubits, bits: bits + 1, inputs: program::total(&self.inputs) };
        lowering.run(&self.operations, &mut vec![false; qubits])
    }
}

fn refused(reason: String) -> Error {
    Error::argument("Qasm::circuit", "program", reason)
}

/// Collects a circuit while nothing in the program depends on a measurement.
struct Unitary<'a> {
    names: &'a Qasm,
    circuit: Circuit,
    touched: Vec<bool>,
    measured: Vec<bool>,
    taken: Vec<Option<usize>>,
}

impl Unitary<'_> {
    fn run(&mut self, operations: &[Operation]) -> Result<()> {
        for operation in operations {
            match operation {
                Operation::Gate { gate, targets, controls } => {
                    for qubit in qubits_of(gate, targets, controls) {
                        if self.measured[qubit] {
                            let name = self.names.qubit_name(qubit);
                            return Err(refused(format!("has a gate on {name} after its measurement")));
                        }
                        self.touched[qubit] = true;
                    }
                    self.circuit.controlled(controls, gate.clone(), targets)?;
                }
                &Operation::Measure { qubit, bit } => {
                    self.measured[qubit] = true;
                    if let Some(bit) = bit {
                        self.taken[bit] = Some(qubit);
                    }
                }
                Operation::Barrier { .. } => {}
                &Operation::Reset { qubit } => {
                    // A qubit nothing has happened to is |0⟩.
                    if self.touched[qubit] || self.measured[qubit] {
                        let name = self.names.qubit_name(qubit);
                        return Err(refused(format!("resets {name} after using it")));
                    }
                }
                Operation::If { condition, then, otherwise } => {
                    let mut bad = None;
                    condition.for_each_bit(&mut |bit| {
                        if self.taken[bit].is_some() {
                            bad = Some(bit);
                        }
                    });
                    if let Some(bit) = bad {
                        return Err(refused(format!(
                            "has a condition on {}, which was measured",
                            self.names.bit_name(bit)
                        )));
                    }
                    // Bits that nothing was measured into are 0.
                    let branch = if condition.holds(&[]) { then } else { otherwise };
                    self.run(branch)?;
                }
            }
        }
        Ok(())
    }
}

/// Lowers a program that depends on measurements.
struct Dynamic {
    qubits: usize,
    /// Those of the program, and one for results that are not kept.
    bits: usize,
    inputs: usize,
}

impl Dynamic {
    /// `touched`: qubits that may be something else than |0⟩.
    fn run(&self, operations: &[Operation], touched: &mut [bool]) -> Result<DynamicCircuit> {
        let mut out = DynamicCircuit::new(self.qubits, self.bits)?;
        let mut gates = Circuit::with_parameters(self.qubits, 0, self.inputs)?;
        let flush = |gates: &mut Circuit, out: &mut DynamicCircuit| -> Result<()> {
            if !gates.is_empty() {
                out.circuit(gates)?;
                *gates = Circuit::with_parameters(self.qubits, 0, self.inputs)?;
            }
            Ok(())
        };
        for operation in operations {
            match operation {
                Operation::Gate { gate, targets, controls } => {
                    qubits_of(gate, targets, controls).for_each(|qubit| touched[qubit] = true);
                    gates.controlled(controls, gate.clone(), targets)?;
                }
                &Operation::Measure { qubit, bit } => {
                    flush(&mut gates, &mut out)?;
                    out.measure(qubit, bit.unwrap_or(self.bits - 1))?;
                }
                &Operation::Reset { qubit } => {
                    if touched[qubit] {
                        flush(&mut gates, &mut out)?;
                        out.reset(qubit)?;
                    }
                }
                Operation::Barrier { .. } => {}
                Operation::If { condition, then, otherwise } => {
                    flush(&mut gates, &mut out)?;
                    let mut other = touched.to_vec();
                    let then = self.run(then, touched)?;
                    let otherwise = self.run(otherwise, &mut other)?;
                    touched.iter_mut().zip(other).for_each(|(one, other)| *one |= other);
                    out.choice(condition, &then, &otherwise)?;
                }
            }
        }
        flush(&mut gates, &mut out)?;
        Ok(out)
    }
}

/// Every qubit a gate acts on or reads.
fn qubits_of(gate: &Gate, targets: &[usize], controls: &[Control]) -> impl Iterator<Item = usize> {
    let string = match gate {
        Gate::PauliRotation(string, _) => string.x | string.z,
        _ => 0,
    };
    let controls: Vec<usize> = controls.iter().map(|control| control.qubit).collect();
    let of_string = (0..32).filter(move |q| string >> q & 1 == 1);
    targets.iter().copied().chain(controls).chain(of_string)
}
