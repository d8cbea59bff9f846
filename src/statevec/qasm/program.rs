//! From statements to operations: names are looked up, expressions computed, loops unrolled, gates expanded.

use super::ast::{
    self, Call, Expression, GateDefinition, Node, Operand, Statement, StatementKind, Type, Values,
};
use super::gates::{
    BodyCall, BodyModifier, Definition, Expander, GateRef, MAX_NESTING, MAX_OPERATIONS, Modifier, Step,
    iterate,
};
use super::lexer::Position;
use super::library::{self, Included, RELATIVE_TOFFOLIS};
use super::parser::Parser;
use super::symbols::{Constants, Scopes, Symbol};
use super::value::{Fault, Linear, Names, Value, angle, evaluate, integer, real, truth};
use super::{Operation, Qasm, Register};
use crate::error::{Error, Result};
use crate::statevec::circuit::{Instruction, MAX_QUBITS};
use std::collections::HashMap;
use std::rc::Rc;

/// Classical bits of a program (one more takes measurements whose results are not kept), and its inputs.
const MAX_BITS: usize = crate::statevec::MAX_BITS - 1;
const MAX_INPUTS: usize = 1 << 20;

pub(super) struct Builder<'s> {
    file: &'s str,
    pub(super) version: u8,
    included: Included,
    pub(super) scopes: Scopes,
    gates: HashMap<String, Rc<Definition>>,
    expander: Expander,
    /// Operations so far, those in blocks included.
    count: usize,
    qubits: Vec<Register>,
    bits: Vec<Register>,
    inputs: Vec<Register>,
}

pub(super) fn total(registers: &[Register]) -> usize {
    registers.last().map_or(0, |last| last.start + last.len)
}

/// Reads and executes a program's statements.
pub(super) fn build(source: &str, file: &str) -> Result<Qasm> {
    let mut parser = Parser::new(source, file)?;
    let version = parser.version;
    let mut builder = Builder {
        file,
        version,
        included: Included { version, qelib1: false, stdgates: false },
        scopes: Scopes::new(),
        gates: HashMap::new(),
        expander: Expander::new(version),
        count: 0,
        qubits: Vec::new(),
        bits: Vec::new(),
        inputs: Vec::new(),
    };
    let mut operations = Vec::new();
    while let Some(statement) = parser.statement()? {
        builder.statement(&statement, &mut operations).map_err(|fault| builder.error(fault))?;
    }
    let Builder { qubits, bits, inputs, .. } = builder;
    Ok(Qasm { version, qubits, bits, inputs, operations })
}

impl Builder<'_> {
    fn error(&self, (at, message): Fault) -> Error {
        Error::Parse { file: self.file.into(), line: at.line, column: at.column, message }
    }

    fn only_global(&self, at: Position, what: &str) -> Result<(), Fault> {
        if self.scopes.global() {
            return Ok(());
        }
        Err((at, format!("{what} belongs outside of blocks; move it to the top")))
    }

    fn statement(&mut self, statement: &Statement, out: &mut Vec<Operation>) -> Result<(), Fault> {
        let at = statement.at;
        self.expander.step(at)?;
        match &statement.kind {
            StatementKind::Include(file) => self.include(file, at),
            StatementKind::Qubits { name, size } => {
                self.only_global(at, "a quantum register")?;
                let first = total(&self.qubits);
                let len = self.size(size.as_ref(), at, "qubits", MAX_QUBITS, first)?;
                self.qubits.push(Register { name: name.clone(), start: first, len });
                let single = size.is_none() && self.version == 3;
                self.scopes.declare(name, Symbol::Qubits((first..first + len).collect(), single), at)
            }
            StatementKind::Bits { name, size, measured } => {
                self.only_global(at, "a classical register")?;
                let first = total(&self.bits);
                let len = self.size(size.as_ref(), at, "bits", MAX_BITS, first)?;
                self.bits.push(Register { name: name.clone(), start: first, len });
                let single = size.is_none() && self.version == 3;
                self.scopes.declare(name, Symbol::Bits((first..first + len).collect(), single), at)?;
                let Some(source) = measured else { return Ok(()) };
                let target = Operand { at, name: name.clone(), selector: None };
                self.measure(at, source, Some(&target), out)
            }
            StatementKind::Constant { name, of, value } => {
                let value = self.constant(*of, value)?;
                self.scopes.declare(name, Symbol::Constant(value), at)
            }
            StatementKind::Input { name, length } => {
                self.only_global(at, "an input")?;
                let first = total(&self.inputs);
                let len = self.size(length.as_ref(), at, "inputs", MAX_INPUTS, first)?;
                self.inputs.push(Register { name: name.clone(), start: first, len });
                self.scopes.declare(name, Symbol::Input(first, length.as_ref().map(|_| len)), at)
            }
            StatementKind::Alias { name, parts } => {
                let mut list = Vec::new();
                for part in parts {
                    list.extend(self.scopes.select(part, true, self.version)?.list);
                    if list.len() > MAX_BITS {
                        return Err((at, "this alias is too long".into()));
                    }
                }
                self.scopes.declare(name, Symbol::Qubits(list, false), at)
            }
            StatementKind::Gate(definition) => {
                self.only_global(at, "a gate definition")?;
                self.define(definition, at, false)
            }
            StatementKind::Call(call) => self.call(call, out),
            StatementKind::Measure { source, target } => self.measure(at, source, target.as_ref(), out),
            StatementKind::Reset(operand) => {
                for qubit in self.scopes.select(operand, true, self.version)?.list {
                    self.push(Operation::Reset { qubit }, at, out)?;
                }
                Ok(())
            }
            StatementKind::Barrier(operands) => {
                let mut qubits = Vec::new();
                for operand in operands {
                    qubits.extend(self.scopes.select(operand, true, self.version)?.list);
                }
                if operands.is_empty() {
                    qubits = (0..total(&self.qubits)).collect();
                }
                qubits.sort_unstable();
                qubits.dedup();
                self.push(Operation::Barrier { qubits }, at, out)
            }
            StatementKind::If { condition, then, otherwise } => {
                if !self.mentions_bits(condition) {
                    let taken = if truth(condition, &self.scopes, self.version)? { then } else { otherwise };
                    return self.block(taken, out);
                }
                let condition = self.condition(condition)?;
                let (mut yes, mut no) = (Vec::new(), Vec::new());
                self.block(then, &mut yes)?;
                self.block(otherwise, &mut no)?;
                match condition {
                    Ok(true) => out.append(&mut yes),
                    Ok(false) => out.append(&mut no),
                    Err(condition) => {
                        self.push(Operation::If { condition, then: yes, otherwise: no }, at, out)?
                    }
                }
                Ok(())
            }
            StatementKind::For { variable, values, body } => self.repeat(at, variable, values, body, out),
        }
    }

    fn push(&mut self, operation: Operation, at: Position, out: &mut Vec<Operation>) -> Result<(), Fault> {
        self.count += 1;
        if self.count > MAX_OPERATIONS {
            return Err((at, format!("the program expands to more than {MAX_OPERATIONS} gates")));
        }
        out.push(operation);
        Ok(())
    }

    fn block(&mut self, body: &[Statement], out: &mut Vec<Operation>) -> Result<(), Fault> {
        self.scopes.enter();
        let done = body.iter().try_for_each(|statement| self.statement(statement, out));
        self.scopes.leave();
        done
    }

    fn repeat(
        &mut self,
        at: Position,
        variable: &str,
        values: &Values,
        body: &[Statement],
        out: &mut Vec<Operation>,
    ) -> Result<(), Fault> {
        let mut list = Vec::new();
        let expander = &mut self.expander;
        iterate(values, &self.scopes, self.version, &mut |value| {
            expander.step(at)?;
            list.push(value);
            Ok(())
        })?;
        for value in list {
            self.scopes.enter();
            self.scopes.set(variable, value);
            let done = self.block(body, out);
            self.scopes.leave();
            done?;
        }
        Ok(())
    }

    fn include(&mut self, file: &str, at: Position) -> Result<(), Fault> {
        self.only_global(at, "an include")?;
        match (file, self.version) {
            ("qelib1.inc", _) => {
                self.included.qelib1 = true;
                if self.gates.contains_key("rccx") {
                    return Ok(());
                }
                // The text is part of this crate and parses; if it did not, these gates would be reported as not defined.
                let mut parser =
                    Parser::new(RELATIVE_TOFFOLIS, "qelib1.inc").map_err(|e| (at, e.to_string()))?;
                while let Some(found) = parser.statement().map_err(|e| (at, e.to_string()))? {
                    if let StatementKind::Gate(definition) = &found.kind {
                        self.define(definition, at, true)?;
                    }
                }
                Ok(())
            }
            ("stdgates.inc", 3) => {
                self.included.stdgates = true;
                Ok(())
            }
            ("stdgates.inc", _) => Err((
                at,
                "`stdgates.inc` belongs to OpenQASM 3; include \"qelib1.inc\", or write `OPENQASM 3.0;`"
                    .into(),
            )),
            _ => {
                let message = "only \"qelib1.inc\" and \"stdgates.inc\" can be included; paste the definitions of other files";
                Err((at, message.into()))
            }
        }
    }

    /// A register's size, checked before anything is allocated.
    fn size(
        &self,
        size: Option<&Expression>,
        at: Position,
        what: &str,
        limit: usize,
        before: usize,
    ) -> Result<usize, Fault> {
        let (asked, at) = match size {
            None => (1, at),
            Some(size) => (integer(size, &self.scopes, self.version)?, size.start()),
        };
        if asked < 1 {
            return Err((at, format!("a size of {asked}; registers have at least one element")));
        }
        match usize::try_from(asked) {
            Ok(asked) if asked <= limit - before.min(limit) => Ok(asked),
            _ => {
                let so_far =
                    if before > 0 { format!(" besides the {before} before it") } else { String::new() };
                Err((at, format!("{asked} {what}{so_far} are too many; at most {limit} fit in one program")))
            }
        }
    }

    fn constant(&self, of: Type, value: &Expression) -> Result<Value, Fault> {
        let names: &dyn Names = &self.scopes;
        let found = evaluate(value, names, self.version)?;
        Ok(match of {
            Type::Integer => Value::Integer(integer(value, names, self.version)?),
            Type::Unsigned => match integer(value, names, self.version)? {
                negative @ ..0 => return Err((value.start(), format!("{negative} is negative; use `int`"))),
                whole => Value::Integer(whole),
            },
            Type::Boolean => Value::Boolean(truth(value, names, self.version)?),
            Type::Real => match found {
                Value::Boolean(truth) => Value::Real(truth.into()),
                _ => {
                    let linear = angle(value, names, self.version)?;
                    if !linear.terms.is_empty() {
                        return Err((value.start(), "a constant cannot depend on an input".into()));
                    }
                    Value::Real(linear.offset)
                }
            },
        })
    }

    /// The gate of that name as the program sees it here.
    fn find(&self, name: &str, at: Position) -> Result<GateRef, Fault> {
        if let Some(definition) = self.gates.get(name) {
            return Ok(GateRef::Defined(definition.clone()));
        }
        if let Some(native) = library::find(name, self.included) {
            return Ok(GateRef::Native(native));
        }
        let message = match library::missing_include(name, self.version) {
            Some(file) => format!("gate `{name}` is not defined; write `include \"{file}\";` before it"),
            None if self.scopes.get(name).is_some() => format!("`{name}` is not a gate"),
            None => {
                format!("gate `{name}` is not defined here; define it with `gate {name} …` before its use")
            }
        };
        Err((at, message))
    }

    fn define(&mut self, definition: &GateDefinition, at: Position, library: bool) -> Result<(), Fault> {
        let GateDefinition { name, parameters, qubits, body } = definition;
        if matches!((name.as_str(), self.version), ("U", _) | ("CX", 2) | ("gphase", 3)) {
            return Err((at, format!("gate `{name}` is part of the language; choose another name")));
        }
        if self.gates.get(name).is_some_and(|other| !other.library) {
            return Err((at, format!("gate `{name}` is defined twice; rename one of them")));
        }
        for list in [parameters, qubits] {
            for (i, (name, at)) in list.iter().enumerate() {
                if list[..i].iter().any(|(other, _)| other == name) {
                    return Err((*at, format!("`{name}` is named twice; rename one of them")));
                }
            }
        }
        let mut depth = 1;
        let body = match body {
            None => None,
            Some(statements) => {
                let names: Vec<&str> = parameters.iter().map(|(name, _)| name.as_str()).collect();
                Some(self.body(definition, statements, &names, 1, &mut depth)?)
            }
        };
        if depth > MAX_NESTING {
            return Err((at, format!("gate `{name}` consists of gates {depth} deep; at most {MAX_NESTING}")));
        }
        let parameters = parameters.iter().map(|(name, _)| name.clone()).collect();
        let definition =
            Definition { name: name.clone(), parameters, qubits: qubits.len(), body, depth, library };
        self.gates.insert(name.clone(), Rc::new(definition));
        Ok(())
    }

    /// The body of a gate, every name in it looked up once and for all.
    fn body(
        &self,
        gate: &GateDefinition,
        statements: &[Statement],
        names: &[&str],
        level: usize,
        depth: &mut usize,
    ) -> Result<Vec<Step>, Fault> {
        let mut steps = Vec::new();
        *depth = (*depth).max(level);
        for Statement { at, kind } in statements {
            match kind {
                StatementKind::Barrier(operands) => {
                    operands.iter().try_for_each(|operand| place(gate, operand).map(drop))?;
                }
                StatementKind::Call(call) => {
                    if call.name == gate.name {
                        let message = format!("gate `{}` calls itself; recursion is not allowed", gate.name);
                        return Err((call.at, message));
                    }
                    let target = self.find(&call.name, call.at)?;
                    call.arguments.iter().try_for_each(|argument| self.check_names(argument, names))?;
                    let mut modifiers = Vec::new();
                    let mut controls = 0;
                    for modifier in &call.modifiers {
                        modifiers.push(match modifier {
                            ast::Modifier::Inverse => BodyModifier::Inverse,
                            ast::Modifier::Power(exponent) => {
                                self.check_names(exponent, names)?;
                                BodyModifier::Power(exponent.clone())
                            }
                            ast::Modifier::Control(value, count) => {
                                let count =
                                    controls_of(count.as_ref(), &Constants(&self.scopes), self.version)?;
                                controls += count;
                                BodyModifier::Control(*value, count)
                            }
                        });
                    }
                    target.check(call.at, call.arguments.len(), call.operands.len(), controls)?;
                    let mut qubits = Vec::new();
                    for operand in &call.operands {
                        let found = place(gate, operand)?;
                        if qubits.contains(&found) {
                            return Err((operand.at, format!("qubit `{}` is named twice", operand.name)));
                        }
                        qubits.push(found);
                    }
                    *depth = (*depth).max(level + target.depth());
                    let arguments = call.arguments.clone();
                    steps.push(Step::Call(BodyCall {
                        at: call.at,
                        gate: target,
                        modifiers,
                        arguments,
                        qubits,
                    }));
                }
                StatementKind::For { variable, values, body } => {
                    let ends = match values {
                        Values::Set(list) => list.iter().collect::<Vec<_>>(),
                        Values::Range(range) => {
                            [&range.start, &range.step, &range.stop].into_iter().flatten().collect()
                        }
                    };
                    ends.into_iter().try_for_each(|end| self.check_names(end, names))?;
                    let inner = [names, &[variable.as_str()]].concat();
                    let body = self.body(gate, body, &inner, level + 1, depth)?;
                    steps.push(Step::For { variable: variable.clone(), values: values.clone(), body });
                }
                _ => {
                    let message =
                        "the body of a gate holds gates, barriers and loops over them only; move this out";
                    return Err((*at, message.into()));
                }
            }
        }
        Ok(steps)
    }

    /// Whether every name in an expression is one the body of a gate can see.
    fn check_names(&self, expression: &Expression, names: &[&str]) -> Result<(), Fault> {
        match &expression.node {
            Node::Name(name) if names.contains(&name.as_str()) => Ok(()),
            Node::Name(_) => evaluate(expression, &Constants(&self.scopes), self.version).map(drop),
            Node::Index(name, _) => {
                let message = format!("`{name}[…]` in the body of a gate; pass the value as a parameter");
                Err((expression.at, message))
            }
            Node::Unary(_, inner) => self.check_names(inner, names),
            Node::Binary(_, left, right) => {
                self.check_names(left, names)?;
                self.check_names(right, names)
            }
            Node::Call(_, arguments) => {
                arguments.iter().try_for_each(|argument| self.check_names(argument, names))
            }
            Node::Integer(_) | Node::Real(_) | Node::Boolean(_) | Node::Bits(_) => Ok(()),
        }
    }

    /// Applies a gate, once for each element of the registers it is given.
    fn call(&mut self, call: &Call, out: &mut Vec<Operation>) -> Result<(), Fault> {
        let version = self.version;
        let gate = self.find(&call.name, call.at)?;
        let mut modifiers = Vec::new();
        let mut controls = 0;
        for modifier in &call.modifiers {
            modifiers.push(match modifier {
                ast::Modifier::Inverse => Modifier::Inverse,
                ast::Modifier::Power(k) => Modifier::Power(real(k, &self.scopes, version)?, k.at),
                ast::Modifier::Control(value, count) => {
                    let count = controls_of(count.as_ref(), &self.scopes, version)?;
                    controls += count;
                    Modifier::Control(*value, count)
                }
            });
        }
        gate.check(call.at, call.arguments.len(), call.operands.len(), controls)?;
        let arguments: Vec<Linear> =
            call.arguments.iter().map(|a| angle(a, &self.scopes, version)).collect::<Result<_, _>>()?;
        let mut operands = Vec::with_capacity(call.operands.len());
        let mut length: Option<usize> = None;
        for operand in &call.operands {
            let selected = self.scopes.select(operand, true, version)?;
            if !selected.single && selected.list.len() > 1 {
                match length {
                    Some(other) if other != selected.list.len() => {
                        let message = format!(
                            "`{}` has {} qubits, an operand before it {other}; registers in one call are equally long",
                            operand.name,
                            selected.list.len()
                        );
                        return Err((operand.at, message));
                    }
                    _ => length = Some(selected.list.len()),
                }
            }
            operands.push(selected.list);
        }
        let mut expanded: Vec<Instruction> = Vec::new();
        for i in 0..length.unwrap_or(1) {
            let qubits: Vec<usize> =
                operands.iter().map(|list| list[if list.len() == 1 { 0 } else { i }]).collect();
            for (at, qubit) in qubits.iter().enumerate() {
                if qubits[..at].contains(qubit) {
                    let name = self.qubit_name(*qubit);
                    return Err((call.operands[at].at, format!("qubit {name} is used twice in one gate")));
                }
            }
            let constants = Constants(&self.scopes);
            let done = self.expander.apply(
                call.at,
                &gate,
                &modifiers,
                &arguments,
                &qubits,
                &constants,
                &mut expanded,
            );
            done.map_err(|(at, message)| match at == call.at {
                true => (at, message),
                // The fault is in the definition; say who asked for it.
                false => {
                    (at, format!("{message} (in gate `{}`, called in line {})", call.name, call.at.line))
                }
            })?;
        }
        for Instruction { gate, targets, controls } in expanded {
            self.push(Operation::Gate { gate, targets, controls }, call.at, out)?;
        }
        Ok(())
    }

    fn qubit_name(&self, qubit: usize) -> String {
        super::element_name(&self.qubits, qubit)
    }

    fn measure(
        &mut self,
        at: Position,
        source: &Operand,
        target: Option<&Operand>,
        out: &mut Vec<Operation>,
    ) -> Result<(), Fault> {
        let qubits = self.scopes.select(source, true, self.version)?.list;
        let bits = match target {
            None => vec![None; qubits.len()],
            Some(target) => {
                let bits = self.scopes.select(target, false, self.version)?.list;
                if bits.len() != qubits.len() {
                    let message = format!(
                        "{} qubits are measured into {} bits; both sides need the same number",
                        qubits.len(),
                        bits.len()
                    );
                    return Err((target.at, message));
                }
                bits.into_iter().map(Some).collect()
            }
        };
        for (qubit, bit) in qubits.into_iter().zip(bits) {
            self.push(Operation::Measure { qubit, bit }, at, out)?;
        }
        Ok(())
    }
}

fn controls_of(count: Option<&Expression>, names: &dyn Names, version: u8) -> Result<usize, Fault> {
    let Some(count) = count else { return Ok(1) };
    match integer(count, names, version)? {
        found @ 1..=32 => Ok(found as usize),
        found => Err((count.start(), format!("{found} controls; a modifier adds 1 to 32"))),
    }
}

/// Which of a gate's own qubits an operand in its body names.
fn place(gate: &GateDefinition, operand: &Operand) -> Result<usize, Fault> {
    if operand.selector.is_some() {
        return Err((
            operand.at,
            format!("`{}` is one qubit in the body of a gate; remove the index", operand.name),
        ));
    }
    gate.qubits.iter().position(|(name, _)| *name == operand.name).ok_or_else(|| {
        let message = format!(
            "`{}` is not a qubit of gate `{}`; add it to the gate's operands",
            operand.name, gate.name
        );
        (operand.at, message)
    })
}
