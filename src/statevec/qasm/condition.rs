//! Conditions on measured bits.

use super::ast::{Expression, Node, Operand, Selector};
use super::program::Builder;
use super::symbols::Symbol;
use super::value::{Fault, Value, evaluate, truth};

/// When a block of operations runs.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Condition {
    /// The bits, the first least significant, are this number. At most 64 bits.
    Equals {
        /// Classical bits.
        bits: Vec<usize>,
        /// What they must be.
        value: u64,
    },
    /// The other way round.
    Not(Box<Condition>),
    /// Every one of them.
    All(Vec<Condition>),
    /// At least one of them.
    Any(Vec<Condition>),
}

impl Condition {
    /// Whether the condition holds; a bit outside of the slice counts as 0.
    pub fn holds(&self, bits: &[bool]) -> bool {
        self.reads(&|bit| bits.get(bit).copied().unwrap_or(false))
    }

    /// Whether the condition holds for the bits that `bit` tells.
    pub(crate) fn reads(&self, bit: &dyn Fn(usize) -> bool) -> bool {
        match self {
            Self::Equals { bits, value } => bits
                .iter()
                .enumerate()
                .all(|(place, &at)| bit(at) == (value.checked_shr(place as u32).unwrap_or(0) & 1 == 1)),
            Self::Not(inner) => !inner.reads(bit),
            Self::All(list) => list.iter().all(|one| one.reads(bit)),
            Self::Any(list) => list.iter().any(|one| one.reads(bit)),
        }
    }

    /// Calls `each` with every bit that is read.
    pub fn for_each_bit(&self, each: &mut dyn FnMut(usize)) {
        match self {
            Self::Equals { bits, .. } => bits.iter().for_each(|&bit| each(bit)),
            Self::Not(inner) => inner.for_each_bit(each),
            Self::All(list) | Self::Any(list) => list.iter().for_each(|one| one.for_each_bit(each)),
        }
    }
}

/// A condition that is decided when the program is read, or depends on bits.
type Decided = Result<bool, Condition>;

fn not(condition: Decided) -> Decided {
    match condition {
        Ok(known) => Ok(!known),
        Err(Condition::Not(inner)) => Err(*inner),
        Err(other) => Err(Condition::Not(Box::new(other))),
    }
}

fn equals(bits: &[usize], value: u128) -> Decided {
    if bits.len() < 128 && value >> bits.len() != 0 {
        return Ok(false);
    }
    let low = |word: u128| (word & u128::from(u64::MAX)) as u64;
    let words = bits.chunks(64).enumerate().map(|(i, chunk)| Condition::Equals {
        bits: chunk.to_vec(),
        value: low(value.checked_shr(64 * i as u32).unwrap_or(0)),
    });
    let mut words: Vec<Condition> = words.collect();
    Err(if words.len() == 1 { words.remove(0) } else { Condition::All(words) })
}

impl Builder<'_> {
    pub(super) fn mentions_bits(&self, expression: &Expression) -> bool {
        match &expression.node {
            Node::Name(name) | Node::Index(name, _) => {
                matches!(self.scopes.get(name), Some(Symbol::Bits(..)))
            }
            Node::Unary(_, inner) => self.mentions_bits(inner),
            Node::Binary(_, left, right) => self.mentions_bits(left) || self.mentions_bits(right),
            Node::Call(_, arguments) => arguments.iter().any(|argument| self.mentions_bits(argument)),
            Node::Integer(_) | Node::Real(_) | Node::Boolean(_) | Node::Bits(_) => false,
        }
    }

    pub(super) fn condition(&self, expression: &Expression) -> Result<Decided, Fault> {
        let at = expression.at;
        if !self.mentions_bits(expression) {
            return truth(expression, &self.scopes, self.version).map(Ok);
        }
        match &expression.node {
            Node::Name(name) | Node::Index(name, _) => {
                let selector = match &expression.node {
                    Node::Index(_, index) => Some(Selector::One((**index).clone())),
                    _ => None,
                };
                let bits =
                    self.scopes.select(&Operand { at, name: name.clone(), selector }, false, self.version)?;
                // A register counts as true unless all its bits are 0.
                Ok(if bits.list.len() == 1 { equals(&bits.list, 1) } else { not(equals(&bits.list, 0)) })
            }
            Node::Unary("!", inner) => Ok(not(self.condition(inner)?)),
            Node::Unary("~", inner) => match self.condition(inner)? {
                one @ (Ok(_) | Err(Condition::Equals { .. })) => Ok(not(one)),
                Err(_) => Err((at, "`~` of a register; use `!` for conditions".into())),
            },
            Node::Binary(sign @ ("&&" | "||"), left, right) => {
                let both = *sign == "&&";
                let mut open = Vec::new();
                for side in [left, right] {
                    match self.condition(side)? {
                        Ok(known) if known == both => {}
                        Ok(known) => return Ok(Ok(known)),
                        Err(condition) => open.push(condition),
                    }
                }
                Ok(match open.len() {
                    0 => Ok(both),
                    1 => Err(open.remove(0)),
                    _ => Err(if both { Condition::All(open) } else { Condition::Any(open) }),
                })
            }
            Node::Binary(sign @ ("==" | "!="), left, right) => {
                let (of, value) = match (self.mentions_bits(left), self.mentions_bits(right)) {
                    (true, false) => (left, right),
                    (false, true) => (right, left),
                    _ => {
                        return Err((
                            at,
                            "compare bits with a constant, not with bits; nest two `if`s instead".into(),
                        ));
                    }
                };
                let found = self.compared(of, value)?;
                Ok(if *sign == "==" { found } else { not(found) })
            }
            Node::Binary(sign, ..) => {
                Err((at, format!("`{sign}` of measured bits; only ==, !=, &&, || and ! work on them")))
            }
            _ => Err((
                at,
                "this cannot be computed from measured bits; only ==, !=, &&, || and ! work on them".into(),
            )),
        }
    }

    fn compared(&self, of: &Expression, value: &Expression) -> Result<Decided, Fault> {
        let (name, selector) = match &of.node {
            Node::Name(name) => (name, None),
            Node::Index(name, index) => (name, Some(Selector::One((**index).clone()))),
            _ => {
                // A comparison of a condition: `(c[0] && c[1]) == true`.
                let wanted = truth(value, &self.scopes, self.version)?;
                let condition = self.condition(of)?;
                return Ok(if wanted { condition } else { not(condition) });
            }
        };
        let operand = Operand { at: of.at, name: name.clone(), selector };
        let bits = self.scopes.select(&operand, false, self.version)?.list;
        if let Node::Bits(digits) = &value.node {
            if digits.len() != bits.len() {
                let message =
                    format!("\"{digits}\" has {} digits, `{name}` has {} bits", digits.len(), bits.len());
                return Err((value.at, message));
            }
            let number = |digits: &str| u64::from_str_radix(digits, 2).unwrap_or(0);
            let words =
                digits.as_bytes().rchunks(64).map(|chunk| number(std::str::from_utf8(chunk).unwrap_or("")));
            let words = words.zip(bits.chunks(64));
            let mut all: Vec<Condition> =
                words.map(|(value, bits)| Condition::Equals { bits: bits.to_vec(), value }).collect();
            return Ok(Err(if all.len() == 1 { all.remove(0) } else { Condition::All(all) }));
        }
        match evaluate(value, &self.scopes, self.version)? {
            Value::Boolean(wanted) => Ok(equals(&bits, wanted.into())),
            Value::Integer(wanted) | Value::Quotient(wanted, _) => match u128::try_from(wanted) {
                Ok(wanted) => Ok(equals(&bits, wanted)),
                Err(_) => Err((value.at, format!("bits are never {wanted}; compare with 0 or more"))),
            },
            _ => Err((value.at, "bits can be compared with integers, truth values and bit strings".into())),
        }
    }
}
