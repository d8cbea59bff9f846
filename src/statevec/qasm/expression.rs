//! Expressions: precedence climbing, with the height of every tree bounded.

use super::ast::{Expression, Node};
use super::lexer::{Kind, Position};
use super::parser::{MAX_DEPTH, Parser};
use crate::error::Result;

/// Height a tree may have; a sum of n terms is n high.
const MAX_HEIGHT: usize = 400;

/// Binds tighter than a sign: −2**2 is −4.
const POWER: u8 = 8;

fn precedence(sign: &str, version: u8) -> Option<u8> {
    Some(match (sign, version) {
        ("||", 3) => 1,
        ("&&", 3) => 2,
        ("==", _) => 3,
        ("!=", 3) => 3,
        ("<" | "<=" | ">" | ">=", 3) => 4,
        ("+" | "-", _) => 5,
        ("*" | "/", _) => 6,
        ("%", 3) => 6,
        ("^", 2) => POWER,
        ("**", 3) => POWER,
        _ => return None,
    })
}

fn unary(at: Position, sign: &'static str, inner: Expression) -> Expression {
    Expression { at, height: inner.height + 1, node: Node::Unary(sign, Box::new(inner)) }
}

impl Parser<'_> {
    pub(super) fn expression(&mut self) -> Result<Expression> {
        self.binary(0)
    }

    fn binary(&mut self, least: u8) -> Result<Expression> {
        self.deeper()?;
        let found = self.operators(least);
        self.depth -= 1;
        found
    }

    fn operators(&mut self, least: u8) -> Result<Expression> {
        let mut left = self.prefix()?;
        loop {
            let Kind::Sign(sign) = self.token.kind else { return Ok(left) };
            if self.version == 3 && matches!(sign, "^" | "<<" | ">>") {
                let message =
                    format!("`{sign}` works on bits, which is not supported; a power is written `**`");
                return Err(self.error(message));
            }
            let Some(level) = precedence(sign, self.version).filter(|&level| level >= least) else {
                return Ok(left);
            };
            let at = self.advance()?.at;
            // Powers group to the right, everything else to the left.
            let right = self.binary(if level == POWER { level } else { level + 1 })?;
            let height = left.height.max(right.height) + 1;
            if height > MAX_HEIGHT {
                return Err(self
                    .lexer
                    .error(at, format!("more than {MAX_HEIGHT} operations in one expression; split it up")));
            }
            // The power operator has one name from here on.
            let sign = if level == POWER { "**" } else { sign };
            left = Expression { at, height, node: Node::Binary(sign, Box::new(left), Box::new(right)) };
        }
    }

    fn prefix(&mut self) -> Result<Expression> {
        let at = self.token.at;
        let leaf = |node| Expression { at, height: 1, node };
        let kind = self.token.kind;
        match kind {
            Kind::Sign("-") => {
                self.advance()?;
                Ok(unary(at, "-", self.binary(POWER)?))
            }
            Kind::Sign("+") => {
                self.advance()?;
                self.binary(POWER)
            }
            Kind::Sign(sign @ ("!" | "~")) if self.version == 3 => {
                self.advance()?;
                Ok(unary(at, sign, self.binary(POWER)?))
            }
            Kind::Sign("(") => {
                self.advance()?;
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            Kind::Integer(value) => {
                self.advance()?;
                Ok(leaf(Node::Integer(value)))
            }
            Kind::Real(value) => {
                self.advance()?;
                Ok(leaf(Node::Real(value)))
            }
            Kind::Text(text) if self.version == 3 => {
                let digits = text.replace('_', "");
                if digits.is_empty() || !digits.bytes().all(|digit| matches!(digit, b'0' | b'1')) {
                    return Err(self.error(format!("{} is not a bit string such as \"0101\"", kind.shown())));
                }
                self.advance()?;
                Ok(leaf(Node::Bits(digits)))
            }
            Kind::Name(name) => {
                self.advance()?;
                self.named(name, at)
            }
            other => Err(self.error(format!("expected a value, found {}", other.shown()))),
        }
    }

    fn named(&mut self, name: &str, at: Position) -> Result<Expression> {
        let of_height = |height, node| Expression { at, height, node };
        if self.version == 3 && matches!(name, "true" | "false") {
            return Ok(of_height(1, Node::Boolean(name == "true")));
        }
        // The width of a cast, as in `float[64](n)`, has no effect.
        let cast = self.version == 3 && matches!(name, "int" | "uint" | "float" | "angle" | "bool");
        if cast && self.accept("[")? {
            self.expression()?;
            self.expect("]")?;
        }
        if self.accept("(")? {
            let arguments = self.expressions(")")?;
            self.expect(")")?;
            let height = 1 + arguments.iter().map(|argument| argument.height).max().unwrap_or(0);
            return Ok(of_height(height, Node::Call(name.into(), arguments)));
        }
        if self.accept("[")? {
            let index = self.expression()?;
            if self.is(":") {
                return Err(self.error("a slice is not a value here; name one element"));
            }
            self.expect("]")?;
            return Ok(of_height(index.height + 1, Node::Index(name.into(), Box::new(index))));
        }
        Ok(of_height(1, Node::Name(name.into())))
    }
}

// Signs and calls add at most one for each level of nesting, so heights stay small enough to recurse over.
const _: () = assert!(MAX_HEIGHT + MAX_DEPTH * 2 < 1000);
