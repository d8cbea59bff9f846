//! Observables: weighted sums of Pauli strings.

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

const OP: &str = "PauliSum";

/// A product of Pauli matrices on distinct qubits, identity elsewhere.
///
/// Bit q of `x` and of `z` say whether qubit q carries X, Z, or (both) Y.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PauliString {
    pub(crate) x: u32,
    pub(crate) z: u32,
}

impl PauliString {
    /// The string of the given (`'X'`, `'Y'` or `'Z'`, qubit) factors; an `'I'` factor adds nothing.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] on another letter, a qubit above 31, or a qubit named twice.
    pub fn new(factors: &[(char, usize)]) -> Result<Self> {
        let mut string = Self::default();
        let mut seen = 0u32;
        for &(letter, qubit) in factors {
            let bit = u32::try_from(qubit)
                .ok()
                .and_then(|q| 1u32.checked_shl(q))
                .ok_or_else(|| Error::argument(OP, "qubit", format!("{qubit} is above 31")))?;
            if seen & bit != 0 {
                return Err(Error::argument(OP, "qubit", format!("{qubit} appears twice in one string")));
            }
            seen |= bit;
            match letter.to_ascii_uppercase() {
                'I' => {}
                'X' => string.x |= bit,
                'Z' => string.z |= bit,
                'Y' => {
                    string.x |= bit;
                    string.z |= bit;
                }
                _ => {
                    let reason = format!("`{letter}` is not one of I, X, Y, Z");
                    return Err(Error::argument(OP, "factors", reason));
                }
            }
        }
        Ok(string)
    }

    /// Number of qubits up to the highest one it acts on.
    pub(crate) fn qubits(self) -> usize {
        32 - (self.x | self.z).leading_zeros() as usize
    }

    /// The qubits that carry Z, if none carries X or Y.
    pub(crate) fn diagonal(self) -> Option<u32> {
        (self.x == 0).then_some(self.z)
    }

    /// Number of Y factors: P|x⟩ = i^y (−1)^{x·z} |x ⊕ x-mask⟩.
    pub(crate) fn y_count(self) -> u32 {
        (self.x & self.z).count_ones()
    }
}

/// A real linear combination of Pauli strings: an observable.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PauliSum {
    pub(crate) terms: Vec<(f64, PauliString)>,
}

impl PauliSum {
    /// The zero observable, to add terms to.
    pub fn new() -> Self {
        Self::default()
    }

    /// ⟨Z⟩ of one qubit.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the qubit is above 31.
    pub fn z(qubit: usize) -> Result<Self> {
        Self::new().plus(1.0, &[('Z', qubit)])
    }

    /// The sum with `coefficient ·` a string added.
    ///
    /// # Errors
    /// As [`PauliString::new`]; [`Error::InvalidArgument`] if the coefficient is not finite.
    pub fn plus(mut self, coefficient: f64, factors: &[(char, usize)]) -> Result<Self> {
        if !coefficient.is_finite() {
            return Err(Error::argument(OP, "coefficient", format!("is {coefficient}")));
        }
        self.terms.push((coefficient, PauliString::new(factors)?));
        Ok(self)
    }

    /// The terms, in the order they were added.
    pub fn terms(&self) -> &[(f64, PauliString)] {
        &self.terms
    }

    /// Number of qubits up to the highest one it acts on.
    pub(crate) fn qubits(&self) -> usize {
        self.terms.iter().map(|(_, string)| string.qubits()).max().unwrap_or(0)
    }
}

impl FromStr for PauliSum {
    type Err = Error;

    /// Parses `0.5*Z0 + 0.25*X1*Z3 - Y2`; a bare number is a multiple of the identity, which is also
    /// written `I`.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |at: &str| Error::argument(OP, "text", format!("`{at}` in `{text}` is not a Pauli term"));
        let mut sum = Self::new();
        // A sign starts a term unless it belongs to an exponent.
        let mut starts = vec![0];
        let bytes = text.as_bytes();
        for i in 1..bytes.len() {
            let exponent = matches!(bytes[i - 1], b'e' | b'E')
                && i >= 2
                && (bytes[i - 2].is_ascii_digit() || bytes[i - 2] == b'.');
            if matches!(bytes[i], b'+' | b'-') && !exponent && !text[..i].trim().is_empty() {
                starts.push(i);
            }
        }
        starts.push(text.len());
        for range in starts.windows(2) {
            let term = text[range[0]..range[1]].trim();
            let (sign, body) = match term.strip_prefix('-') {
                Some(rest) => (-1.0, rest),
                None => (1.0, term.strip_prefix('+').unwrap_or(term)),
            };
            let (mut coefficient, mut factors) = (sign, Vec::new());
            for factor in body.split('*').flat_map(|part| {
                // `0.5*X1 Z3`: spaces separate factors too, but an empty factor between stars is an error.
                let words: Vec<&str> = part.split_whitespace().collect();
                if words.is_empty() { vec![""] } else { words }
            }) {
                let mut letters = factor.chars();
                match letters.next() {
                    Some('I') if letters.as_str().is_empty() => {}
                    Some(letter @ ('X' | 'Y' | 'Z' | 'I')) => {
                        factors.push((letter, letters.as_str().parse().map_err(|_| bad(factor))?));
                    }
                    _ => coefficient *= factor.parse::<f64>().map_err(|_| bad(factor))?,
                }
            }
            sum = sum.plus(coefficient, &factors)?;
        }
        Ok(sum)
    }
}

impl fmt::Display for PauliString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for q in 0..self.qubits() {
            let letter = match (self.x >> q & 1, self.z >> q & 1) {
                (0, 0) => continue,
                (1, 0) => 'X',
                (1, _) => 'Y',
                _ => 'Z',
            };
            write!(f, "{}{letter}{q}", if first { "" } else { "*" })?;
            first = false;
        }
        if first { f.write_str("1") } else { Ok(()) }
    }
}

impl fmt::Display for PauliSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (coefficient, string)) in self.terms.iter().enumerate() {
            write!(f, "{}{coefficient}*{string}", if i == 0 { "" } else { " + " })?;
        }
        if self.terms.is_empty() { f.write_str("0") } else { Ok(()) }
    }
}
