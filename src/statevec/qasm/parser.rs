//! Statements: from tokens to [`ast`](super::ast), one at a time.

use super::ast::{
    Call, Expression, GateDefinition, Modifier, Operand, Range, Selector, Statement, StatementKind, Type,
    Values,
};
use super::lexer::{Kind, Lexer, Position, Token};
use crate::error::{Error, Result};

/// Blocks, parentheses, signs and modifiers may be nested this deep. Everything recursive is bounded by it.
pub(super) const MAX_DEPTH: usize = 100;

/// OpenQASM 3 statements that describe something else than a circuit on this crate's terms.
const OUTSIDE: [(&str, &str); 26] = [
    ("def", "subroutines are not supported; use `gate`"),
    ("extern", "external functions are not supported"),
    ("while", "loops whose length is not known are not supported; use `for` over a constant range"),
    ("switch", "`switch` is not supported; use `if`"),
    ("defcal", "pulse-level calibration is not supported"),
    ("cal", "pulse-level calibration is not supported"),
    ("defcalgrammar", "pulse-level calibration is not supported"),
    ("box", "timing is not supported; remove the `box`"),
    ("delay", "timing is not supported; remove the `delay`"),
    ("duration", "timing is not supported"),
    ("stretch", "timing is not supported"),
    ("return", "`return` belongs to subroutines, which are not supported"),
    ("break", "`break` is not supported"),
    ("continue", "`continue` is not supported"),
    ("end", "`end` is not supported; the program ends with the file"),
    ("nop", "`nop` is not supported; remove it"),
    ("int", "classical variables are not supported; write `const int …` if it does not change"),
    ("uint", "classical variables are not supported; write `const uint …` if it does not change"),
    ("float", "classical variables are not supported; write `const float …` or `input float …`"),
    ("angle", "classical variables are not supported; write `const angle …` or `input angle …`"),
    ("bool", "classical variables are not supported; write `const bool …` if it does not change"),
    ("complex", "complex values are not supported"),
    ("array", "arrays are only supported as `input array[float[64], n] name;`"),
    ("readonly", "subroutines are not supported; use `gate`"),
    ("mutable", "subroutines are not supported; use `gate`"),
    ("else", "`else` without an `if` before it; an `if` body of several statements needs braces"),
];

pub(super) struct Parser<'s> {
    pub(super) lexer: Lexer<'s>,
    pub(super) token: Token<'s>,
    pub(super) depth: usize,
    /// 2 or 3.
    pub(super) version: u8,
}

impl<'s> Parser<'s> {
    /// Reads the version line, if there is one.
    pub(super) fn new(source: &'s str, file: &'s str) -> Result<Self> {
        let mut lexer = Lexer::new(source, file);
        let token = lexer.next()?;
        let mut parser = Self { lexer, token, depth: 0, version: 3 };
        if parser.token.kind == Kind::Name("OPENQASM") {
            parser.advance()?;
            parser.version = match parser.token.kind {
                Kind::Integer(2) => 2,
                Kind::Integer(3) => 3,
                Kind::Real(2.0) => 2,
                Kind::Real(v) if (3.0..4.0).contains(&v) => 3,
                other => {
                    let message = format!(
                        "version {} is not known; write `OPENQASM 2.0;` or `OPENQASM 3.0;`",
                        other.shown()
                    );
                    return Err(parser.error(message));
                }
            };
            parser.advance()?;
            parser.expect(";")?;
        }
        Ok(parser)
    }

    /// An error at the current token.
    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        self.lexer.error(self.token.at, message)
    }

    pub(super) fn advance(&mut self) -> Result<Token<'s>> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.token, next))
    }

    pub(super) fn is(&self, sign: &str) -> bool {
        matches!(self.token.kind, Kind::Sign(found) if found == sign)
    }

    pub(super) fn accept(&mut self, sign: &str) -> Result<bool> {
        let found = self.is(sign);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    pub(super) fn expect(&mut self, sign: &str) -> Result<()> {
        if self.accept(sign)? {
            return Ok(());
        }
        Err(self.error(format!("expected `{sign}`, found {}", self.token.kind.shown())))
    }

    fn keyword(&mut self, word: &str) -> Result<bool> {
        let found = matches!(self.token.kind, Kind::Name(name) if name == word);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn name(&mut self, what: &str) -> Result<String> {
        match self.token.kind {
            Kind::Name(name) => {
                self.advance()?;
                Ok(name.into())
            }
            other => Err(self.error(format!("expected {what}, found {}", other.shown()))),
        }
    }

    pub(super) fn deeper(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error(format!("nested more than {MAX_DEPTH} deep; take it apart")));
        }
        Ok(())
    }

    /// The next statement, `None` at the end of the text.
    pub(super) fn statement(&mut self) -> Result<Option<Statement>> {
        loop {
            match self.token.kind {
                Kind::End => return Ok(None),
                Kind::Sign(";") => drop(self.advance()?),
                Kind::Sign("@") if self.version == 3 => {
                    // An annotation: its name has not been read yet, and the rest of its line is skipped with it.
                    self.lexer.skip_line();
                    self.advance()?;
                }
                _ => break,
            }
        }
        self.deeper()?;
        let at = self.token.at;
        let kind = self.statement_kind()?;
        self.depth -= 1;
        Ok(Some(Statement { at, kind }))
    }

    fn statement_kind(&mut self) -> Result<StatementKind> {
        let at = self.token.at;
        let Kind::Name(word) = self.token.kind else {
            return Err(self.error(format!("expected a statement, found {}", self.token.kind.shown())));
        };
        let three = self.version == 3;
        match word {
            "include" => {
                self.advance()?;
                let Kind::Text(file) = self.token.kind else {
                    return Err(self.error("expected a file name in quotes, as in `include \"qelib1.inc\";`"));
                };
                self.advance()?;
                self.expect(";")?;
                return Ok(StatementKind::Include(file.into()));
            }
            "OPENQASM" => return Err(self.error("the version belongs on the first line; remove this one")),
            "qreg" | "creg" => return self.register(word == "qreg"),
            "qubit" | "bit" if three => return self.typed_register(word == "qubit"),
            "const" if three => return self.constant(),
            "input" if three => return self.input(),
            "output" if three => {
                self.advance()?;
                if !matches!(self.token.kind, Kind::Name("bit")) {
                    return Err(self.error("only bits can be outputs; write `output bit[n] name;`"));
                }
                return self.typed_register(false);
            }
            "let" if three => {
                self.advance()?;
                let name = self.name("the name of the alias")?;
                self.expect("=")?;
                let mut parts = vec![self.operand()?];
                while self.accept("++")? {
                    parts.push(self.operand()?);
                }
                self.expect(";")?;
                return Ok(StatementKind::Alias { name, parts });
            }
            "gate" | "opaque" => return self.gate(word == "gate"),
            "measure" => {
                self.advance()?;
                let source = self.operand()?;
                let target = if self.accept("->")? { Some(self.operand()?) } else { None };
                if target.is_none() && !three {
                    return Err(self.error("expected `-> c` with the bits that receive the result"));
                }
                self.expect(";")?;
                return Ok(StatementKind::Measure { source, target });
            }
            "reset" => {
                self.advance()?;
                let operand = self.operand()?;
                self.expect(";")?;
                return Ok(StatementKind::Reset(operand));
            }
            "barrier" => {
                self.advance()?;
                let operands = if self.is(";") { Vec::new() } else { self.operands()? };
                self.expect(";")?;
                return Ok(StatementKind::Barrier(operands));
            }
            "if" => return self.conditional(),
            "for" if three => return self.repetition(),
            _ => {}
        }
        if let Some((_, message)) = OUTSIDE.iter().find(|(name, _)| three && *name == word) {
            return Err(self.lexer.error(at, *message));
        }
        self.call_or_assignment()
    }

    fn size(&mut self) -> Result<Option<Expression>> {
        if !self.accept("[")? {
            return Ok(None);
        }
        let size = self.expression()?;
        self.expect("]")?;
        Ok(Some(size))
    }

    /// `qreg q[n];` or `creg c[n];`.
    fn register(&mut self, quantum: bool) -> Result<StatementKind> {
        self.advance()?;
        let name = self.name("the name of the register")?;
        let size = self.size()?;
        if size.is_none() && self.version == 2 {
            return Err(self.error(format!("expected the size of the register, as in `{name}[2]`")));
        }
        self.expect(";")?;
        let measured = None;
        Ok(if quantum {
            StatementKind::Qubits { name, size }
        } else {
            StatementKind::Bits { name, size, measured }
        })
    }

    /// `qubit[n] q;` or `bit[n] c;`, the latter perhaps with a measurement.
    fn typed_register(&mut self, quantum: bool) -> Result<StatementKind> {
        self.advance()?;
        let size = self.size()?;
        let name = self.name("the name of the register")?;
        let mut measured = None;
        if !quantum && self.accept("=")? {
            if !self.keyword("measure")? {
                return Err(self.error(
                    "bits start as 0 and take measurement results only; write `= measure q;` or nothing",
                ));
            }
            measured = Some(self.operand()?);
        }
        self.expect(";")?;
        Ok(if quantum {
            StatementKind::Qubits { name, size }
        } else {
            StatementKind::Bits { name, size, measured }
        })
    }

    fn type_name(&mut self) -> Result<Option<Type>> {
        let of = match self.token.kind {
            Kind::Name("int") => Type::Integer,
            Kind::Name("uint") => Type::Unsigned,
            Kind::Name("float" | "angle") => Type::Real,
            Kind::Name("bool") => Type::Boolean,
            _ => return Ok(None),
        };
        self.advance()?;
        // The width is read and has no effect: everything is computed in 64 bits.
        self.size()?;
        Ok(Some(of))
    }

    fn constant(&mut self) -> Result<StatementKind> {
        self.advance()?;
        let Some(of) = self.type_name()? else {
            return Err(self.error("expected the type of the constant: int, uint, float, angle or bool"));
        };
        let name = self.name("the name of the constant")?;
        self.expect("=")?;
        let value = self.expression()?;
        self.expect(";")?;
        Ok(StatementKind::Constant { name, of, value })
    }

    fn input(&mut self) -> Result<StatementKind> {
        self.advance()?;
        let at = self.token.at;
        let array = self.keyword("array")?;
        if array {
            self.expect("[")?;
        }
        if self.type_name()? != Some(Type::Real) {
            let message = "inputs are angles; write `input float[64] x;`, `input angle x;` or `input array[float[64], n] x;`";
            return Err(self.lexer.error(at, message));
        }
        let mut length = None;
        if array {
            self.expect(",")?;
            length = Some(self.expression()?);
            if self.is(",") {
                return Err(self.error("arrays of inputs have one dimension; multiply the sizes"));
            }
            self.expect("]")?;
        }
        let name = self.name("the name of the input")?;
        self.expect(";")?;
        Ok(StatementKind::Input { name, length })
    }

    fn gate(&mut self, defined: bool) -> Result<StatementKind> {
        self.advance()?;
        let name = self.name("the name of the gate")?;
        let mut parameters = Vec::new();
        if self.accept("(")? && !self.accept(")")? {
            parameters = self.names("the name of a parameter")?;
            self.expect(")")?;
        }
        let qubits = self.names("the name of a qubit")?;
        let body = if defined {
            if !self.is("{") {
                return Err(self.error(format!(
                    "expected `{{` and the gates of `{name}`, found {}",
                    self.token.kind.shown()
                )));
            }
            Some(self.block()?)
        } else {
            self.expect(";")?;
            None
        };
        Ok(StatementKind::Gate(GateDefinition { name, parameters, qubits, body }))
    }

    fn names(&mut self, what: &str) -> Result<Vec<(String, Position)>> {
        let mut names = Vec::new();
        loop {
            let at = self.token.at;
            names.push((self.name(what)?, at));
            if !self.accept(",")? {
                return Ok(names);
            }
        }
    }

    /// Statements in braces, or one without.
    fn block(&mut self) -> Result<Vec<Statement>> {
        let at = self.token.at;
        if !self.accept("{")? {
            return match self.statement()? {
                Some(statement) => Ok(vec![statement]),
                None => Err(self.error("expected a statement, found the end of the file")),
            };
        }
        let mut body = Vec::new();
        loop {
            while self.is(";") {
                self.advance()?;
            }
            if self.accept("}")? {
                return Ok(body);
            }
            match self.statement()? {
                Some(statement) => body.push(statement),
                None => return Err(self.lexer.error(at, "this `{` is not closed; add `}`")),
            }
        }
    }

    fn conditional(&mut self) -> Result<StatementKind> {
        self.advance()?;
        self.expect("(")?;
        let condition = self.expression()?;
        self.expect(")")?;
        let then = self.block()?;
        let otherwise = if self.version == 3 && self.keyword("else")? { self.block()? } else { Vec::new() };
        Ok(StatementKind::If { condition, then, otherwise })
    }

    fn repetition(&mut self) -> Result<StatementKind> {
        self.advance()?;
        // The type of the variable may be left out, as in early drafts of the language.
        match self.type_name()? {
            None | Some(Type::Integer | Type::Unsigned) => {}
            Some(_) => return Err(self.error("loop over integers: `for int i in [0:n]`")),
        }
        let variable = self.name("the name of the loop's variable")?;
        if !self.keyword("in")? {
            return Err(self.error(format!("expected `in`, found {}", self.token.kind.shown())));
        }
        let at = self.token.at;
        let values = if self.accept("{")? {
            let set = self.expressions("}")?;
            self.expect("}")?;
            Values::Set(set)
        } else if self.accept("[")? {
            let start = self.expression()?;
            let range = self.range(at, Some(start))?;
            self.expect("]")?;
            Values::Range(range)
        } else {
            return Err(self.error("expected `[start:end]`, `[start:step:end]` or `{a, b, …}`"));
        };
        let body = self.block()?;
        Ok(StatementKind::For { variable, values, body })
    }

    /// What follows the first value of `start:step:stop`.
    fn range(&mut self, at: Position, start: Option<Expression>) -> Result<Range> {
        self.expect(":")?;
        let end = |this: &Self| this.is("]") || this.is(":");
        let second = if end(self) { None } else { Some(self.expression()?) };
        if !self.accept(":")? {
            return Ok(Range { at, start, step: None, stop: second });
        }
        let stop = if end(self) { None } else { Some(self.expression()?) };
        Ok(Range { at, start, step: second, stop })
    }

    pub(super) fn expressions(&mut self, end: &str) -> Result<Vec<Expression>> {
        let mut list = Vec::new();
        while !self.is(end) {
            list.push(self.expression()?);
            if !self.accept(",")? {
                break;
            }
        }
        Ok(list)
    }

    fn operands(&mut self) -> Result<Vec<Operand>> {
        let mut list = vec![self.operand()?];
        while self.accept(",")? {
            list.push(self.operand()?);
        }
        Ok(list)
    }

    fn operand(&mut self) -> Result<Operand> {
        let at = self.token.at;
        let name = self.name("a register")?;
        self.selected(name, at)
    }

    fn selected(&mut self, name: String, at: Position) -> Result<Operand> {
        let place = self.token.at;
        if !self.accept("[")? {
            return Ok(Operand { at, name, selector: None });
        }
        let selector = if self.accept("{")? {
            let set = self.expressions("}")?;
            self.expect("}")?;
            Selector::Set(set)
        } else if self.is(":") {
            Selector::Range(self.range(place, None)?)
        } else {
            let first = self.expression()?;
            if self.is(":") { Selector::Range(self.range(place, Some(first))?) } else { Selector::One(first) }
        };
        self.expect("]")?;
        Ok(Operand { at, name, selector: Some(selector) })
    }

    fn modifiers(&mut self) -> Result<Vec<Modifier>> {
        let mut modifiers = Vec::new();
        while self.version == 3 {
            let at = self.token.at;
            let modifier = match self.token.kind {
                Kind::Name("inv") => {
                    self.advance()?;
                    Modifier::Inverse
                }
                Kind::Name("pow") => {
                    self.advance()?;
                    self.expect("(")?;
                    let exponent = self.expression()?;
                    self.expect(")")?;
                    Modifier::Power(exponent)
                }
                Kind::Name(word @ ("ctrl" | "negctrl")) => {
                    self.advance()?;
                    let mut count = None;
                    if self.accept("(")? {
                        count = Some(self.expression()?);
                        self.expect(")")?;
                    }
                    Modifier::Control(word == "ctrl", count)
                }
                _ => break,
            };
            self.expect("@")?;
            if modifiers.len() == MAX_DEPTH {
                return Err(self
                    .lexer
                    .error(at, format!("more than {MAX_DEPTH} modifiers; define a gate in between")));
            }
            modifiers.push(modifier);
        }
        Ok(modifiers)
    }

    fn call_or_assignment(&mut self) -> Result<StatementKind> {
        let modifiers = self.modifiers()?;
        let at = self.token.at;
        let name = self.name("a gate")?;
        if modifiers.is_empty() && self.version == 3 && (self.is("=") || self.is("[")) {
            let target = self.selected(name, at)?;
            self.expect("=")?;
            if !self.keyword("measure")? {
                return Err(self.error("bits can only be assigned a measurement: `c = measure q;`"));
            }
            let source = self.operand()?;
            self.expect(";")?;
            return Ok(StatementKind::Measure { source, target: Some(target) });
        }
        let mut arguments = Vec::new();
        if self.accept("(")? {
            arguments = self.expressions(")")?;
            self.expect(")")?;
        }
        // Only the global phase acts on no qubit; for others the count of operands is checked with the gate at hand.
        let operands = if self.is(";") { Vec::new() } else { self.operands()? };
        self.expect(";")?;
        Ok(StatementKind::Call(Call { at, name, modifiers, arguments, operands }))
    }
}
