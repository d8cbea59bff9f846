//! Gate definitions, modifiers, and the expansion of a call to instructions.

use super::ast::{Expression, Range, Values};
use super::dense;
use super::lexer::Position;
use super::library::Native;
use super::symbols::step_of;
use super::value::{Fault, Linear, Names, Value, angle, integer, real};
use crate::statevec::circuit::{Control, Instruction};
use crate::statevec::gate::{Gate, MAX_MATRIX_QUBITS, inverse};
use crate::statevec::parameter::Parameter;
use crate::statevec::pauli::PauliString;
use std::rc::Rc;

/// Gates a program may expand to.
pub(super) const MAX_OPERATIONS: usize = 1 << 22;
/// Statements executed, in loops and gate bodies.
const MAX_STEPS: usize = 1 << 23;
/// Gates and loops inside each other.
pub(super) const MAX_NESTING: usize = 200;

/// A gate's name, looked up.
#[derive(Clone, Debug)]
pub(super) enum GateRef {
    Native(&'static Native),
    Defined(Rc<Definition>),
}

/// A gate defined by the program, or declared opaque.
#[derive(Debug)]
pub(super) struct Definition {
    pub(super) name: String,
    pub(super) parameters: Vec<String>,
    pub(super) qubits: usize,
    /// `None` for an opaque gate.
    pub(super) body: Option<Vec<Step>>,
    /// Gates and loops inside each other, this one included.
    pub(super) depth: usize,
    /// Comes with an include: a program may define its own instead.
    pub(super) library: bool,
}

#[derive(Debug)]
pub(super) enum Step {
    Call(BodyCall),
    For { variable: String, values: Values, body: Vec<Step> },
}

#[derive(Debug)]
pub(super) struct BodyCall {
    pub(super) at: Position,
    pub(super) gate: GateRef,
    pub(super) modifiers: Vec<BodyModifier>,
    pub(super) arguments: Vec<Expression>,
    /// Places among the qubits of the definition.
    pub(super) qubits: Vec<usize>,
}

/// A modifier whose number of controls is known.
#[derive(Clone, Debug)]
pub(super) enum BodyModifier {
    Control(bool, usize),
    Inverse,
    Power(Expression),
}

/// A modifier with everything known.
#[derive(Clone, Copy, Debug)]
pub(super) enum Modifier {
    Control(bool, usize),
    Inverse,
    Power(f64, Position),
}

impl GateRef {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Native(native) => native.name,
            Self::Defined(definition) => &definition.name,
        }
    }

    pub(super) fn parameters(&self) -> usize {
        match self {
            Self::Native(native) => native.parameters,
            Self::Defined(definition) => definition.parameters.len(),
        }
    }

    pub(super) fn qubits(&self) -> usize {
        match self {
            Self::Native(native) => native.controls + native.targets,
            Self::Defined(definition) => definition.qubits,
        }
    }

    pub(super) fn depth(&self) -> usize {
        match self {
            Self::Native(_) => 0,
            Self::Defined(definition) => definition.depth,
        }
    }

    /// Whether the counts of parameters and qubits fit; `controls` are those of the modifiers.
    pub(super) fn check(
        &self,
        at: Position,
        parameters: usize,
        qubits: usize,
        controls: usize,
    ) -> Result<(), Fault> {
        let name = self.name();
        let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        if parameters != self.parameters() {
            let takes = plural(self.parameters(), "parameter");
            return Err((at, format!("gate `{name}` takes {takes}, here are {parameters}")));
        }
        let wanted = self.qubits() + controls;
        if qubits != wanted {
            let with = if controls > 0 {
                format!(" with its {}", plural(controls, "control"))
            } else {
                String::new()
            };
            let message = format!("gate `{name}`{with} takes {}, here are {qubits}", plural(wanted, "qubit"));
            return Err((at, message));
        }
        Ok(())
    }
}

/// Values of a range or a set, one by one.
pub(super) fn iterate(
    values: &Values,
    names: &dyn Names,
    version: u8,
    each: &mut dyn FnMut(i128) -> Result<(), Fault>,
) -> Result<(), Fault> {
    match values {
        Values::Set(list) => list.iter().try_for_each(|value| each(integer(value, names, version)?)),
        Values::Range(range) => {
            let Range { start: Some(start), step, stop: Some(stop), .. } = range else {
                return Err((range_at(values), "a loop needs both ends: `[start:end]`".into()));
            };
            let start = integer(start, names, version)?;
            let stop = integer(stop, names, version)?;
            let step = step_of(step.as_ref(), names, version)?;
            let mut value = start;
            while if step > 0 { value <= stop } else { value >= stop } {
                each(value)?;
                value += step;
            }
            Ok(())
        }
    }
}

fn range_at(values: &Values) -> Position {
    match values {
        Values::Range(range) => range.at,
        Values::Set(list) => list.first().map_or(Position { line: 1, column: 1 }, |first| first.at),
    }
}

/// Parameters and loop variables of a gate body, then the constants of the program.
struct Locals<'a> {
    values: &'a [(&'a str, Value)],
    outer: &'a dyn Names,
}

impl Names for Locals<'_> {
    fn value(&self, name: &str) -> Option<Result<Value, String>> {
        let local = self.values.iter().rev().find(|(local, _)| *local == name);
        local.map(|(_, value)| Ok(value.clone())).or_else(|| self.outer.value(name))
    }

    fn element(&self, name: &str, index: i128) -> Option<Result<Value, String>> {
        self.outer.element(name, index)
    }
}

/// Expands calls; counts what it does, so that a small program cannot ask for an endless one.
#[derive(Debug)]
pub(super) struct Expander {
    pub(super) version: u8,
    steps: usize,
}

impl Expander {
    pub(super) fn new(version: u8) -> Self {
        Self { version, steps: 0 }
    }

    /// Counts one executed statement.
    pub(super) fn step(&mut self, at: Position) -> Result<(), Fault> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err((
                at,
                format!("the program executes more than {MAX_STEPS} statements; shorten its loops"),
            ));
        }
        Ok(())
    }

    /// Appends what a gate under modifiers does. Counts have been checked; `constants` are those of the program.
    pub(super) fn apply(
        &mut self,
        at: Position,
        gate: &GateRef,
        modifiers: &[Modifier],
        arguments: &[Linear],
        qubits: &[usize],
        constants: &dyn Names,
        out: &mut Vec<Instruction>,
    ) -> Result<(), Fault> {
        let count = |modifier: &Modifier| if let Modifier::Control(_, count) = modifier { *count } else { 0 };
        let mut place: usize = modifiers.iter().map(count).sum();
        let start = out.len();
        let own = &qubits[place.min(qubits.len())..];
        match gate {
            GateRef::Native(native) => native.emit(arguments, own, out),
            GateRef::Defined(definition) => {
                let Some(body) = &definition.body else {
                    let message = format!(
                        "gate `{0}` is opaque: nobody says what it does; define it with `gate {0} …`",
                        definition.name
                    );
                    return Err((at, message));
                };
                let named = definition.parameters.iter().map(String::as_str);
                let as_value = |argument: &Linear| match argument.terms[..] {
                    [] => Value::Real(argument.offset),
                    _ => Value::Linear(argument.clone()),
                };
                let mut locals: Vec<_> = named.zip(arguments.iter().map(as_value)).collect();
                self.body(body, &mut locals, own, constants, out)?;
            }
        }
        // The modifier next to the gate works first, and its controls are the last before the gate's own qubits.
        for modifier in modifiers.iter().rev() {
            match *modifier {
                Modifier::Inverse => {
                    out[start..].reverse();
                    out[start..]
                        .iter_mut()
                        .for_each(|instruction| instruction.gate = inverse(&instruction.gate));
                }
                Modifier::Control(value, count) => {
                    place -= count;
                    let added = qubits[place..place + count].iter().map(|&qubit| Control { qubit, value });
                    for instruction in &mut out[start..] {
                        instruction.controls.extend(added.clone());
                    }
                }
                Modifier::Power(exponent, power_at) => {
                    let gates = out.split_off(start);
                    self.steps += power(gates, exponent, out).map_err(|message| (power_at, message))?;
                }
            }
        }
        self.step(at)?;
        if out.len() > MAX_OPERATIONS {
            return Err((at, format!("the program expands to more than {MAX_OPERATIONS} gates")));
        }
        Ok(())
    }

    fn body<'d>(
        &mut self,
        steps: &'d [Step],
        locals: &mut Vec<(&'d str, Value)>,
        qubits: &[usize],
        constants: &dyn Names,
        out: &mut Vec<Instruction>,
    ) -> Result<(), Fault> {
        let version = self.version;
        for step in steps {
            match step {
                Step::Call(call) => {
                    let names = Locals { values: locals, outer: constants };
                    let arguments: Vec<Linear> =
                        call.arguments.iter().map(|a| angle(a, &names, version)).collect::<Result<_, _>>()?;
                    let known = |modifier: &BodyModifier| {
                        Ok(match modifier {
                            BodyModifier::Control(value, count) => Modifier::Control(*value, *count),
                            BodyModifier::Inverse => Modifier::Inverse,
                            BodyModifier::Power(k) => Modifier::Power(real(k, &names, version)?, k.at),
                        })
                    };
                    let modifiers = call.modifiers.iter().map(known).collect::<Result<Vec<_>, Fault>>()?;
                    let mapped: Vec<usize> = call.qubits.iter().map(|&place| qubits[place]).collect();
                    self.apply(call.at, &call.gate, &modifiers, &arguments, &mapped, constants, out)?;
                }
                Step::For { variable, values, body } => {
                    let at = range_at(values);
                    let depth = locals.len();
                    let mut list = Vec::new();
                    iterate(values, &Locals { values: locals, outer: constants }, version, &mut |value| {
                        self.step(at)?;
                        list.push(value);
                        Ok(())
                    })?;
                    for value in list {
                        locals.push((variable.as_str(), Value::Integer(value)));
                        self.body(body, locals, qubits, constants, out)?;
                        locals.truncate(depth);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Appends a power of a list of gates; returns how much work that was, in statements.
fn power(gates: Vec<Instruction>, exponent: f64, out: &mut Vec<Instruction>) -> Result<usize, String> {
    let whole = exponent == exponent.trunc();
    if exponent == 0.0 || gates.is_empty() {
        return Ok(1);
    }
    if let ([one], true) = (&gates[..], whole) {
        // exp(−iθP/2)^k turns by kθ. (For a broken k it would not be the principal power.)
        if let Some(gate) = scaled(&one.gate, exponent) {
            out.push(Instruction { gate, ..one.clone() });
            return Ok(1);
        }
    }
    let total = exponent.abs() * gates.len() as f64;
    /// Shorter repetitions are better left as gates, which may merge or only relabel.
    const REPEATED: f64 = 64.0;
    if !(whole && total <= REPEATED) {
        match dense_power(&gates, exponent) {
            Ok(instruction) => {
                out.push(instruction);
                return Ok(1);
            }
            Err(message) if !whole => return Err(message),
            Err(_) => {}
        }
    }
    if !(total <= MAX_OPERATIONS as f64) {
        return Err(format!(
            "this power repeats the gate more than {MAX_OPERATIONS} times; use a smaller exponent"
        ));
    }
    for _ in 0..exponent.abs() as usize {
        if exponent > 0.0 {
            out.extend(gates.iter().cloned());
        } else {
            let undo = |it: &Instruction| Instruction { gate: inverse(&it.gate), ..it.clone() };
            out.extend(gates.iter().rev().map(undo));
        }
    }
    Ok(total as usize)
}

fn scaled(gate: &Gate, factor: f64) -> Option<Gate> {
    Some(match gate {
        Gate::Rx(a) => Gate::Rx(a.scaled(factor)),
        Gate::Ry(a) => Gate::Ry(a.scaled(factor)),
        Gate::Rz(a) => Gate::Rz(a.scaled(factor)),
        Gate::Phase(a) => Gate::Phase(a.scaled(factor)),
        Gate::Rxx(a) => Gate::Rxx(a.scaled(factor)),
        Gate::Ryy(a) => Gate::Ryy(a.scaled(factor)),
        Gate::Rzz(a) => Gate::Rzz(a.scaled(factor)),
        Gate::PauliRotation(string, a) => Gate::PauliRotation(*string, a.scaled(factor)),
        _ => return None,
    })
}

/// The qubits a gate acts on, without its controls.
fn acted_on(instruction: &Instruction) -> Vec<usize> {
    match &instruction.gate {
        Gate::PauliRotation(string, _) => (0..32).filter(|&q| (string.x | string.z) >> q & 1 == 1).collect(),
        _ => instruction.targets.clone(),
    }
}

/// A power as one matrix, under the controls that all the gates share.
fn dense_power(gates: &[Instruction], exponent: f64) -> Result<Instruction, String> {
    let shared = |control: &Control| {
        gates.iter().all(|it| it.controls.contains(control) && !acted_on(it).contains(&control.qubit))
    };
    let controls: Vec<Control> = gates[0].controls.iter().copied().filter(shared).collect();
    let mut qubits: Vec<usize> = gates
        .iter()
        .flat_map(|it| it.controls.iter().map(|c| c.qubit).chain(acted_on(it)).collect::<Vec<_>>())
        .filter(|&q| controls.iter().all(|control| control.qubit != q))
        .collect();
    qubits.sort_unstable();
    qubits.dedup();
    if qubits.len() > MAX_MATRIX_QUBITS {
        return Err(format!(
            "a power that is not a whole number, of a gate on {} qubits; at most {MAX_MATRIX_QUBITS} besides common controls",
            qubits.len()
        ));
    }
    let place = |q: usize| qubits.binary_search(&q).unwrap_or(0);
    let moved = |it: &Instruction| {
        let gate = match &it.gate {
            Gate::PauliRotation(string, a) => {
                let bits =
                    |word: u32| (0..32).filter(|&q| word >> q & 1 == 1).fold(0, |w, q| w | 1u32 << place(q));
                Gate::PauliRotation(PauliString { x: bits(string.x), z: bits(string.z) }, *a)
            }
            gate => gate.clone(),
        };
        let rest = it.controls.iter().filter(|c| !controls.contains(c));
        Instruction {
            gate,
            targets: it.targets.iter().map(|&q| place(q)).collect(),
            controls: rest.map(|c| Control { qubit: place(c.qubit), value: c.value }).collect(),
        }
    };
    let small: Vec<Instruction> = gates.iter().map(moved).collect();
    let whole = dense::matrix(&small, qubits.len()).ok_or(
        "a power that is not a whole number, of a gate whose angle is an input; take it of a constant gate",
    )?;
    let entries =
        dense::power(&whole, exponent).ok_or("this power cannot be computed: the gate is not unitary")?;
    let gate = match entries[..] {
        [factor] => Gate::PauliRotation(PauliString::default(), Parameter::Constant(-2.0 * factor.arg())),
        _ => Gate::Matrix(entries),
    };
    let targets = if let Gate::Matrix(_) = gate { qubits } else { Vec::new() };
    Ok(Instruction { gate, targets, controls })
}
