//! Values of expressions: constants, and angles that are affine in the inputs.

use super::ast::{Expression, Node};
use super::lexer::Position;
use crate::statevec::parameter::{Parameter, Variable};
use std::f64::consts::{E, PI, TAU};

/// `offset + Σ factor · inputs[index]`, sorted by index, no factor 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Linear {
    pub(super) terms: Vec<(usize, f64)>,
    pub(super) offset: f64,
}

impl Linear {
    pub(super) fn constant(offset: f64) -> Self {
        Self { terms: Vec::new(), offset }
    }

    pub(super) fn input(index: usize) -> Self {
        Self { terms: vec![(index, 1.0)], offset: 0.0 }
    }

    pub(super) fn scaled(&self, factor: f64) -> Self {
        let terms = self.terms.iter().map(|&(index, f)| (index, f * factor)).filter(|&(_, f)| f != 0.0);
        Self { terms: terms.collect(), offset: self.offset * factor }
    }

    pub(super) fn plus(&self, other: &Self) -> Self {
        let mut terms = self.terms.clone();
        for &(index, factor) in &other.terms {
            match terms.binary_search_by_key(&index, |&(i, _)| i) {
                Ok(at) => terms[at].1 += factor,
                Err(at) => terms.insert(at, (index, factor)),
            }
        }
        terms.retain(|&(_, factor)| factor != 0.0);
        Self { terms, offset: self.offset + other.offset }
    }

    fn finite(&self) -> bool {
        self.offset.is_finite() && self.terms.iter().all(|(_, factor)| factor.is_finite())
    }

    /// As one parameter, if at most one input occurs.
    pub(super) fn single(&self) -> Option<Parameter> {
        match self.terms[..] {
            [] => Some(Parameter::Constant(self.offset)),
            [(index, 1.0)] if self.offset == 0.0 => Some(Parameter::Input(index)),
            [(index, scale)] => {
                Some(Parameter::Affine { scale, of: Variable::Input(index), offset: self.offset })
            }
            _ => None,
        }
    }

    /// As parameters whose sum this is.
    pub(super) fn parts(&self) -> Vec<Parameter> {
        if let Some(one) = self.single() {
            return vec![one];
        }
        let offset = |i: usize| if i == 0 { self.offset } else { 0.0 };
        let part =
            |(i, &term): (usize, &(usize, f64))| Self { terms: vec![term], offset: offset(i) }.single();
        self.terms.iter().enumerate().filter_map(part).collect()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Integer(i128),
    /// An integer division that left a remainder: the truncated quotient counts where an integer is wanted. OpenQASM 3 has
    /// no other reading, but `1/2` as an angle is rarely meant to be 0, so there it is an error.
    Quotient(i128, f64),
    Real(f64),
    Boolean(bool),
    Linear(Linear),
}

/// An error's place and text; the file is added further out.
pub(super) type Fault = (Position, String);

/// What names stand for in an expression.
pub(super) trait Names {
    fn value(&self, name: &str) -> Option<Result<Value, String>>;
    fn element(&self, name: &str, index: i128) -> Option<Result<Value, String>>;
}

impl Value {
    fn linear(self, at: Position) -> Result<Linear, Fault> {
        Ok(match self {
            Self::Integer(value) => Linear::constant(value as f64),
            Self::Real(value) => Linear::constant(value),
            Self::Linear(linear) => linear,
            Self::Quotient(whole, _) => {
                let message = format!(
                    "dividing integers leaves a remainder, so this would be {whole}; write one of them with a point, as in `1.0/2`"
                );
                return Err((at, message));
            }
            Self::Boolean(_) => return Err((at, "expected a number, found a truth value".into())),
        })
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Integer(_) | Self::Quotient(..) => "an integer",
            Self::Real(_) => "a real number",
            Self::Boolean(_) => "a truth value",
            Self::Linear(_) => "an input",
        }
    }
}

/// The value as an angle.
pub(super) fn angle(expression: &Expression, names: &dyn Names, version: u8) -> Result<Linear, Fault> {
    evaluate(expression, names, version)?.linear(expression.at)
}

/// The value as a real constant; an integer quotient counts in full, as in `pow(1/2) @ x`.
pub(super) fn real(expression: &Expression, names: &dyn Names, version: u8) -> Result<f64, Fault> {
    let value = match evaluate(expression, names, version)? {
        Value::Quotient(_, value) => return Ok(value),
        value => value.linear(expression.start())?,
    };
    if value.terms.is_empty() {
        return Ok(value.offset);
    }
    Err((expression.start(), "this depends on an input; only angles of gates may".into()))
}

/// The value as an integer constant.
pub(super) fn integer(expression: &Expression, names: &dyn Names, version: u8) -> Result<i128, Fault> {
    match evaluate(expression, names, version)? {
        Value::Integer(value) | Value::Quotient(value, _) => Ok(value),
        other => Err((expression.start(), format!("expected an integer, found {}", other.kind()))),
    }
}

/// The value as a truth value; numbers are true unless 0.
pub(super) fn truth(expression: &Expression, names: &dyn Names, version: u8) -> Result<bool, Fault> {
    match evaluate(expression, names, version)? {
        Value::Boolean(value) => Ok(value),
        Value::Integer(value) => Ok(value != 0),
        other => Err((expression.start(), format!("expected a condition, found {}", other.kind()))),
    }
}

pub(super) fn evaluate(expression: &Expression, names: &dyn Names, version: u8) -> Result<Value, Fault> {
    let at = expression.at;
    let fault = |message: String| (at, message);
    match &expression.node {
        Node::Integer(value) => Ok(Value::Integer((*value).into())),
        Node::Real(value) => Ok(Value::Real(*value)),
        Node::Boolean(value) => Ok(Value::Boolean(*value)),
        Node::Bits(_) => Err(fault("a bit string can only be compared with bits".into())),
        Node::Name(name) => {
            if let Some(found) = names.value(name) {
                return found.map_err(fault);
            }
            let three = version == 3;
            match name.as_str() {
                "pi" => Ok(Value::Real(PI)),
                "π" if three => Ok(Value::Real(PI)),
                "tau" | "τ" if three => Ok(Value::Real(TAU)),
                "euler" | "ℇ" if three => Ok(Value::Real(E)),
                _ => Err(fault(format!("`{name}` is not defined here; declare it before its use"))),
            }
        }
        Node::Index(name, index) => {
            let index = integer(index, names, version)?;
            match names.element(name, index) {
                Some(found) => found.map_err(fault),
                None => Err(fault(format!("`{name}` is not defined here; declare it before its use"))),
            }
        }
        Node::Unary(sign, inner) => {
            let value = evaluate(inner, names, version)?;
            match (*sign, value) {
                ("-", Value::Integer(value)) => Ok(Value::Integer(-value)),
                ("-", Value::Quotient(whole, value)) => Ok(Value::Quotient(-whole, -value)),
                ("-", value) => Ok(simplest(value.linear(at)?.scaled(-1.0))),
                ("!", _) => Ok(Value::Boolean(!truth(inner, names, version)?)),
                (sign, _) => Err(fault(format!("`{sign}` is not supported"))),
            }
        }
        Node::Binary(sign, left, right) => {
            if matches!(*sign, "&&" | "||") {
                let (a, b) = (truth(left, names, version)?, truth(right, names, version)?);
                return Ok(Value::Boolean(if *sign == "&&" { a && b } else { a || b }));
            }
            let (a, b) = (evaluate(left, names, version)?, evaluate(right, names, version)?);
            binary(sign, a, b, at, version)
        }
        Node::Call(name, arguments) => call(name, arguments, at, names, version),
    }
}

fn simplest(linear: Linear) -> Value {
    if linear.terms.is_empty() { Value::Real(linear.offset) } else { Value::Linear(linear) }
}

fn checked(linear: Linear, at: Position) -> Result<Value, Fault> {
    if linear.finite() {
        return Ok(simplest(linear));
    }
    Err((at, format!("this is {}, which is not finite", linear.offset)))
}

/// Integers stay far inside i128, so that later sums cannot overflow unseen.
fn whole(value: Option<i128>, at: Position) -> Result<i128, Fault> {
    match value {
        Some(value) if value.unsigned_abs() <= u64::MAX.into() => Ok(value),
        _ => Err((at, "this integer does not fit in 64 bits; use smaller numbers".into())),
    }
}

fn binary(sign: &str, a: Value, b: Value, at: Position, version: u8) -> Result<Value, Fault> {
    use Value::{Boolean, Integer, Quotient};
    let parts = |value: &Value| match *value {
        Integer(whole) => Some((whole, whole as f64)),
        Quotient(whole, real) => Some((whole, real)),
        _ => None,
    };
    if let (Some((i, x)), Some((j, y)), true) = (parts(&a), parts(&b), version == 3) {
        return integers(sign, (i, x), (j, y), at);
    }
    if let (Boolean(a), Boolean(b)) = (&a, &b) {
        return match sign {
            "==" => Ok(Boolean(a == b)),
            "!=" => Ok(Boolean(a != b)),
            _ => Err((at, format!("`{sign}` does not combine truth values"))),
        };
    }
    // OpenQASM 2 computes in reals, except that sums and products of integers are integers and can be indices.
    if let (Integer(i), Integer(j), true) = (&a, &b, matches!(sign, "+" | "-" | "*" | "==")) {
        return integers(sign, (*i, *i as f64), (*j, *j as f64), at);
    }
    let (a, b) = (a.linear(at)?, b.linear(at)?);
    let constants = a.terms.is_empty() && b.terms.is_empty();
    if !constants && !matches!(sign, "+" | "-" | "*" | "/") {
        return Err((at, format!("`{sign}` of an input: angles must be affine in the inputs, a·x + b")));
    }
    let (x, y) = (a.offset, b.offset);
    let result = match sign {
        "+" => a.plus(&b),
        "-" => a.plus(&b.scaled(-1.0)),
        "*" if a.terms.is_empty() => b.scaled(x),
        "*" if b.terms.is_empty() => a.scaled(y),
        "*" => {
            let message = "a product of inputs: angles must be affine in the inputs, a·x + b; compute it before and pass it as an input";
            return Err((at, message.into()));
        }
        "/" if !b.terms.is_empty() => {
            return Err((at, "division by an input: angles must be affine in the inputs, a·x + b".into()));
        }
        "/" if y == 0.0 => return Err((at, "division by zero".into())),
        "/" => Linear { terms: a.terms.iter().map(|&(i, f)| (i, f / y)).collect(), offset: x / y },
        "%" => Linear::constant(x.rem_euclid(y)),
        "**" => Linear::constant(x.powf(y)),
        "==" => return Ok(Boolean(x == y)),
        "!=" => return Ok(Boolean(x != y)),
        "<" => return Ok(Boolean(x < y)),
        "<=" => return Ok(Boolean(x <= y)),
        ">" => return Ok(Boolean(x > y)),
        ">=" => return Ok(Boolean(x >= y)),
        _ => return Err((at, format!("`{sign}` is not supported"))),
    };
    checked(result, at)
}

fn integers(sign: &str, (i, x): (i128, f64), (j, y): (i128, f64), at: Position) -> Result<Value, Fault> {
    let exact = |i: i128, x: f64| i as f64 == x;
    let pair = |whole: i128, real: f64| {
        if exact(whole, real) { Value::Integer(whole) } else { Value::Quotient(whole, real) }
    };
    let inputs_exact = exact(i, x) && exact(j, y);
    let keep = |value: i128, real: f64| if inputs_exact { Value::Integer(value) } else { pair(value, real) };
    Ok(match sign {
        "+" => keep(whole(i.checked_add(j), at)?, x + y),
        "-" => keep(whole(i.checked_sub(j), at)?, x - y),
        "*" => keep(whole(i.checked_mul(j), at)?, x * y),
        "/" | "%" if j == 0 => return Err((at, "division by zero".into())),
        "/" if inputs_exact && i % j == 0 => Value::Integer(i / j),
        "/" => Value::Quotient(i / j, x / y),
        "%" => Value::Integer(i % j),
        "**" => match u32::try_from(j) {
            Ok(power) => Value::Integer(whole(i.checked_pow(power), at)?),
            Err(_) => return checked(Linear::constant(x.powf(y)), at),
        },
        "==" => Value::Boolean(i == j),
        "!=" => Value::Boolean(i != j),
        "<" => Value::Boolean(i < j),
        "<=" => Value::Boolean(i <= j),
        ">" => Value::Boolean(i > j),
        ">=" => Value::Boolean(i >= j),
        _ => return Err((at, format!("`{sign}` does not combine integers here"))),
    })
}

fn call(
    name: &str,
    arguments: &[Expression],
    at: Position,
    names: &dyn Names,
    version: u8,
) -> Result<Value, Fault> {
    let count = |expected: usize| {
        if arguments.len() == expected {
            return Ok(());
        }
        Err((at, format!("`{name}` takes {expected} argument(s), here are {}", arguments.len())))
    };
    let unary: Option<fn(f64) -> f64> = match (name, version) {
        ("sin", _) => Some(f64::sin),
        ("cos", _) => Some(f64::cos),
        ("tan", _) => Some(f64::tan),
        ("exp", _) => Some(f64::exp),
        ("ln", _) | ("log", 3) => Some(f64::ln),
        ("sqrt", _) => Some(f64::sqrt),
        ("arcsin", 3) | ("asin", 2) => Some(f64::asin),
        ("arccos", 3) | ("acos", 2) => Some(f64::acos),
        ("arctan", 3) | ("atan", 2) => Some(f64::atan),
        ("floor", 3) => Some(f64::floor),
        ("ceiling", 3) => Some(f64::ceil),
        _ => None,
    };
    if let Some(function) = unary {
        count(1)?;
        let value = angle(&arguments[0], names, version)?;
        if !value.terms.is_empty() {
            return Err((
                at,
                format!(
                    "`{name}` of an input: angles must be affine in the inputs, a·x + b; compute it before and pass it as an input"
                ),
            ));
        }
        let result = function(value.offset);
        if result.is_nan() {
            return Err((at, format!("`{name}({})` is not defined", value.offset)));
        }
        if matches!(name, "floor" | "ceiling") && result.abs() < 1e18 {
            return Ok(Value::Integer(result as i128));
        }
        return checked(Linear::constant(result), at);
    }
    if version == 3 {
        match name {
            "pow" | "mod" => {
                count(2)?;
                let sign = if name == "pow" { "**" } else { "%" };
                let (a, b) =
                    (evaluate(&arguments[0], names, version)?, evaluate(&arguments[1], names, version)?);
                return binary(sign, a, b, at, version);
            }
            "float" | "angle" => {
                count(1)?;
                return match evaluate(&arguments[0], names, version)? {
                    Value::Quotient(whole, _) => Ok(Value::Real(whole as f64)),
                    Value::Boolean(value) => Ok(Value::Real(value.into())),
                    value => Ok(simplest(value.linear(at)?)),
                };
            }
            "int" | "uint" => {
                count(1)?;
                return match evaluate(&arguments[0], names, version)? {
                    Value::Quotient(value, _) | Value::Integer(value) => Ok(Value::Integer(value)),
                    Value::Boolean(value) => Ok(Value::Integer(value.into())),
                    Value::Real(value) if value.abs() < 1e18 => Ok(Value::Integer(value as i128)),
                    other => Err((at, format!("cannot make an integer of {}", other.kind()))),
                };
            }
            "bool" => {
                count(1)?;
                return Ok(Value::Boolean(truth(&arguments[0], names, version)?));
            }
            _ => {}
        }
    }
    let known = if version == 3 {
        "sin, cos, tan, arcsin, arccos, arctan, exp, log, sqrt, floor, ceiling, mod, pow"
    } else {
        "sin, cos, tan, exp, ln, sqrt"
    };
    Err((at, format!("there is no function `{name}`; there are {known}")))
}
