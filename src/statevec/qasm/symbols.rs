//! What the names of a program stand for.

use super::ast::{Expression, Operand, Range, Selector};
use super::lexer::Position;
use super::value::{Fault, Linear, Names, Value, integer};
use std::collections::HashMap;

#[derive(Clone, Debug)]
pub(super) enum Symbol {
    /// The qubits, and whether it is one qubit rather than a register.
    Qubits(Vec<usize>, bool),
    /// The bits, and whether it is one bit rather than a register.
    Bits(Vec<usize>, bool),
    Constant(Value),
    /// First index among the inputs; the length of an array.
    Input(usize, Option<usize>),
}

impl Symbol {
    fn kind(&self) -> &'static str {
        match self {
            Self::Qubits(..) => "a quantum register",
            Self::Bits(..) => "a classical register",
            Self::Constant(_) => "a constant",
            Self::Input(..) => "an input",
        }
    }
}

/// Symbols of the program and of the blocks being executed, the innermost last.
#[derive(Debug)]
pub(super) struct Scopes(Vec<HashMap<String, Symbol>>);

/// Qubits or bits an operand names.
#[derive(Debug)]
pub(super) struct Selected {
    pub(super) list: Vec<usize>,
    /// One element, which goes with registers of any length.
    pub(super) single: bool,
}

impl Scopes {
    pub(super) fn new() -> Self {
        Self(vec![HashMap::new()])
    }

    pub(super) fn enter(&mut self) {
        self.0.push(HashMap::new());
    }

    pub(super) fn leave(&mut self) {
        self.0.pop();
    }

    /// Whether no block is open.
    pub(super) fn global(&self) -> bool {
        self.0.len() == 1
    }

    pub(super) fn get(&self, name: &str) -> Option<&Symbol> {
        self.0.iter().rev().find_map(|scope| scope.get(name))
    }

    pub(super) fn declare(&mut self, name: &str, symbol: Symbol, at: Position) -> Result<(), Fault> {
        let innermost = self.0.len() - 1;
        if let Some(other) = self.0[innermost].get(name) {
            return Err((at, format!("`{name}` is already {}; choose another name", other.kind())));
        }
        self.0[innermost].insert(name.into(), symbol);
        Ok(())
    }

    /// Sets the variable of a loop.
    pub(super) fn set(&mut self, name: &str, value: i128) {
        let innermost = self.0.len() - 1;
        self.0[innermost].insert(name.into(), Symbol::Constant(Value::Integer(value)));
    }

    /// The qubits (or bits) of an operand.
    pub(super) fn select(&self, operand: &Operand, quantum: bool, version: u8) -> Result<Selected, Fault> {
        let Operand { at, name, selector } = operand;
        let wanted = if quantum { "quantum" } else { "classical" };
        let (all, scalar) = match self.get(name) {
            Some(Symbol::Qubits(list, scalar)) if quantum => (list, *scalar),
            Some(Symbol::Bits(list, scalar)) if !quantum => (list, *scalar),
            Some(other) => {
                return Err((*at, format!("`{name}` is {}, expected a {wanted} register", other.kind())));
            }
            None => {
                let hint = match (quantum, version) {
                    (true, 2) => format!("`qreg {name}[n];`"),
                    (true, _) => format!("`qubit[n] {name};`"),
                    (false, 2) => format!("`creg {name}[n];`"),
                    (false, _) => format!("`bit[n] {name};`"),
                };
                return Err((*at, format!("there is no {wanted} register `{name}`; declare it with {hint}")));
            }
        };
        let Some(selector) = selector else { return Ok(Selected { list: all.clone(), single: scalar }) };
        if scalar {
            return Err((
                *at,
                format!("`{name}` is a single {}; remove the index", if quantum { "qubit" } else { "bit" }),
            ));
        }
        let one = |expression: &Expression| -> Result<usize, Fault> {
            let index = integer(expression, self, version)?;
            position(index, all.len(), version)
                .map_err(|why| (expression.start(), format!("{why} in `{name}`")))
        };
        Ok(match selector {
            Selector::One(expression) => Selected { list: vec![all[one(expression)?]], single: true },
            Selector::Set(set) => {
                let list = set.iter().map(|e| one(e).map(|i| all[i])).collect::<Result<_, _>>()?;
                Selected { list, single: false }
            }
            Selector::Range(range) => {
                Selected { list: self.slice(range, all, name, version)?, single: false }
            }
        })
    }

    fn slice(&self, range: &Range, all: &[usize], name: &str, version: u8) -> Result<Vec<usize>, Fault> {
        let Range { at, start, step, stop } = range;
        let step = step_of(step.as_ref(), self, version)?;
        let end = |expression: &Option<Expression>, otherwise: usize| match expression {
            None => Ok(otherwise),
            Some(e) => {
                let index = integer(e, self, version)?;
                position(index, all.len(), version).map_err(|why| (e.start(), format!("{why} in `{name}`")))
            }
        };
        let (first, last) = if step > 0 { (0, all.len() - 1) } else { (all.len() - 1, 0) };
        let (mut index, stop) = (end(start, first)? as i128, end(stop, last)? as i128);
        let mut list = Vec::new();
        while if step > 0 { index <= stop } else { index >= stop } {
            list.push(all[index as usize]);
            index += step;
        }
        if list.is_empty() {
            return Err((*at, format!("this slice of `{name}` is empty")));
        }
        Ok(list)
    }
}

/// The step of a range, 1 unless given.
pub(super) fn step_of(step: Option<&Expression>, names: &dyn Names, version: u8) -> Result<i128, Fault> {
    let Some(step) = step else { return Ok(1) };
    match integer(step, names, version)? {
        0 => Err((step.start(), "a step of 0 never ends; use another".into())),
        found => Ok(found),
    }
}

/// An index that may count from the end, as a place in a list.
fn position(index: i128, len: usize, version: u8) -> Result<usize, String> {
    let from_start = if index < 0 && version == 3 { index + len as i128 } else { index };
    match usize::try_from(from_start) {
        Ok(place) if place < len => Ok(place),
        _ => Err(format!("index {index} is out of range, there are {len} elements (0 to {})", len - 1)),
    }
}

impl Names for Scopes {
    fn value(&self, name: &str) -> Option<Result<Value, String>> {
        Some(match self.get(name)? {
            Symbol::Constant(value) => Ok(value.clone()),
            Symbol::Input(first, None) => Ok(Value::Linear(Linear::input(*first))),
            Symbol::Input(_, Some(_)) => {
                Err(format!("`{name}` is an array of inputs; name one, as in `{name}[0]`"))
            }
            Symbol::Bits(..) => Err(format!(
                "`{name}` is known only when the program runs; use it in the condition of an `if`"
            )),
            Symbol::Qubits(..) => Err(format!("`{name}` is a quantum register, expected a value")),
        })
    }

    fn element(&self, name: &str, index: i128) -> Option<Result<Value, String>> {
        Some(match self.get(name)? {
            Symbol::Input(first, Some(length)) => {
                let place = position(index, *length, 3).map_err(|why| format!("{why} in `{name}`"));
                place.map(|place| Value::Linear(Linear::input(first + place)))
            }
            Symbol::Bits(..) => Err(format!(
                "`{name}` is known only when the program runs; use it in the condition of an `if`"
            )),
            other => Err(format!("`{name}` is {}, which has no elements that are values", other.kind())),
        })
    }
}

/// Symbols a gate body can see besides its own: the program's constants.
pub(super) struct Constants<'a>(pub(super) &'a Scopes);

impl Names for Constants<'_> {
    fn value(&self, name: &str) -> Option<Result<Value, String>> {
        match self.0.0[0].get(name)? {
            Symbol::Constant(value) => Some(Ok(value.clone())),
            other => Some(Err(format!(
                "`{name}` is {}; the body of a gate sees its parameters and constants only",
                other.kind()
            ))),
        }
    }

    fn element(&self, name: &str, _: i128) -> Option<Result<Value, String>> {
        let kind = self.0.0[0].get(name)?.kind();
        Some(Err(format!("`{name}` is {kind}; the body of a gate sees its parameters and constants only")))
    }
}
