//! Words, numbers and signs of an OpenQASM text, with their positions.

use crate::error::{Error, Result};

/// 1-based line and column (in characters) of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind<'s> {
    /// Identifier or keyword.
    Name(&'s str),
    /// Integer literal.
    Integer(u64),
    /// Literal with a point or an exponent.
    Real(f64),
    /// Text between quotes.
    Text(&'s str),
    /// Operator or punctuation.
    Sign(&'static str),
    /// End of the text.
    End,
}

/// A token and where it starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'s> {
    pub(super) kind: Kind<'s>,
    pub(super) at: Position,
}

impl Kind<'_> {
    /// As an error message shows it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Name(name) => format!("`{name}`"),
            Self::Integer(value) => format!("`{value}`"),
            Self::Real(value) => format!("`{value}`"),
            Self::Text(text) => format!("\"{}\"", shorten(text)),
            Self::Sign(sign) => format!("`{sign}`"),
            Self::End => "the end of the file".into(),
        }
    }
}

fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// Longest first, so that `==` is not read as two `=`.
const SIGNS: [&str; 36] = [
    "->", "==", "!=", "<=", ">=", "&&", "||", "**", "++", "<<", ">>", "+=", "-=", "*=", "/=", ";", ",", "(",
    ")", "[", "]", "{", "}", "=", "<", ">", "+", "-", "*", "/", "%", "^", "@", ":", "!", "~",
];

/// Reads tokens one by one.
#[derive(Clone)]
pub(super) struct Lexer<'s> {
    rest: &'s str,
    at: Position,
    file: &'s str,
}

impl<'s> Lexer<'s> {
    pub(super) fn new(source: &'s str, file: &'s str) -> Self {
        // A byte-order mark is no part of the text.
        let rest = source.strip_prefix('\u{feff}').unwrap_or(source);
        Self { rest, at: Position { line: 1, column: 1 }, file }
    }

    pub(super) fn error(&self, at: Position, message: impl Into<String>) -> Error {
        let Position { line, column } = at;
        Error::Parse { file: self.file.into(), line, column, message: message.into() }
    }

    /// Takes `bytes` bytes, which end at a character boundary, and counts lines and columns.
    fn take(&mut self, bytes: usize) -> &'s str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        match taken.rfind('\n') {
            None => self.at.column += taken.chars().count(),
            Some(last) => {
                self.at.line += taken.bytes().filter(|&byte| byte == b'\n').count();
                self.at.column = 1 + taken[last + 1..].chars().count();
            }
        }
        taken
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'s str {
        let end = self.rest.find(|c: char| !keep(c)).unwrap_or(self.rest.len());
        self.take(end)
    }

    fn skip_blanks(&mut self) -> Result<()> {
        loop {
            self.take_while(char::is_whitespace);
            if self.rest.starts_with("//") || self.rest.starts_with("#pragma") || self.at_pragma() {
                self.take_while(|c| c != '\n');
            } else if self.rest.starts_with("/*") {
                let Some(end) = self.rest[2..].find("*/") else {
                    return Err(self.error(self.at, "this comment does not end; close it with `*/`"));
                };
                self.take(end + 4);
            } else {
                return Ok(());
            }
        }
    }

    fn at_pragma(&self) -> bool {
        self.rest.strip_prefix("pragma").is_some_and(|rest| rest.starts_with([' ', '\t', '\n', '\r']))
    }

    /// The rest of the line, unread: what follows the name of an annotation is nobody's language.
    pub(super) fn skip_line(&mut self) {
        self.take_while(|c| c != '\n');
    }

    pub(super) fn next(&mut self) -> Result<Token<'s>> {
        self.skip_blanks()?;
        let at = self.at;
        let Some(first) = self.rest.chars().next() else { return Ok(Token { kind: Kind::End, at }) };
        let second = self.rest[first.len_utf8()..].chars().next();
        let kind = if first.is_alphabetic() || first == '_' {
            Kind::Name(self.take_while(|c| c.is_alphanumeric() || c == '_'))
        } else if first.is_ascii_digit() || (first == '.' && second.is_some_and(|c| c.is_ascii_digit())) {
            self.number(at)?
        } else if first == '"' || first == '\'' {
            self.text(at, first)?
        } else if let Some(sign) = SIGNS.iter().find(|sign| self.rest.starts_with(**sign)) {
            self.take(sign.len());
            Kind::Sign(sign)
        } else {
            let message = match first {
                '$' => {
                    "hardware qubits such as `$0` are not supported; declare a register, `qubit[n] q;`".into()
                }
                '&' | '|' => {
                    format!("`{first}` is not supported; write `{first}{first}` to combine conditions")
                }
                _ => format!("{first:?} does not belong to OpenQASM; remove it"),
            };
            return Err(self.error(at, message));
        };
        Ok(Token { kind, at })
    }

    fn text(&mut self, at: Position, quote: char) -> Result<Kind<'s>> {
        let body = &self.rest[1..];
        match body.find([quote, '\n']) {
            Some(end) if body[end..].starts_with(quote) => {
                self.take(end + 2);
                Ok(Kind::Text(&body[..end]))
            }
            _ => {
                Err(self
                    .error(at, format!("this text does not end; close it with `{quote}` on the same line")))
            }
        }
    }

    fn number(&mut self, at: Position) -> Result<Kind<'s>> {
        let lower = self.rest.get(..2).map(str::to_ascii_lowercase);
        let radix = match lower.as_deref() {
            Some("0x") => 16,
            Some("0b") => 2,
            Some("0o") => 8,
            _ => 10,
        };
        let too_large = |this: &Self, digits: &str| {
            this.error(
                at,
                format!("the integer {} does not fit in 64 bits; write a smaller one", shorten(digits)),
            )
        };
        if radix != 10 {
            self.take(2);
            let digits = self.take_while(|c| c.is_alphanumeric() || c == '_').replace('_', "");
            if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
                let message = format!("`{}` are not digits of base {radix}; correct them", shorten(&digits));
                return Err(self.error(at, message));
            }
            let value = u64::from_str_radix(&digits, radix).map_err(|_| too_large(self, &digits))?;
            return Ok(Kind::Integer(value));
        }
        let bytes = self.rest.as_bytes();
        let digits = |mut i: usize| {
            while bytes.get(i).is_some_and(|c| c.is_ascii_digit() || *c == b'_') {
                i += 1;
            }
            i
        };
        let mut end = digits(0);
        let mut real = false;
        if bytes.get(end) == Some(&b'.') {
            real = true;
            end = digits(end + 1);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
                real = true;
                end = digits(end + 1 + sign);
            }
        }
        let text = self.take(end).replace('_', "");
        // `10ns` and `3qubits` are not a number and a name.
        if let Some(next) = self.rest.chars().next().filter(|c| c.is_alphabetic() || *c == '_') {
            let message = format!(
                "`{next}` follows the number {text} directly; durations and suffixes are not supported"
            );
            return Err(self.error(at, message));
        }
        if !real {
            return text.parse().map(Kind::Integer).map_err(|_| too_large(self, &text));
        }
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Kind::Real(value)),
            _ => {
                Err(self
                    .error(at, format!("the number {} is too large; write a smaller one", shorten(&text))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Result<Vec<(Kind<'_>, usize, usize)>> {
        let mut lexer = Lexer::new(text, "t");
        let mut out = Vec::new();
        loop {
            let token = lexer.next()?;
            if token.kind == Kind::End {
                return Ok(out);
            }
            out.push((token.kind, token.at.line, token.at.column));
        }
    }

    #[test]
    fn positions_count_characters() -> Result<()> {
        use Kind::{Integer, Name, Real, Sign, Text};
        let got = tokens("θ = 1.5e-3; // c\n /* a\nb */ q[0x1F] -> \"é\" x")?;
        let want = [
            (Name("θ"), 1, 1),
            (Sign("="), 1, 3),
            (Real(1.5e-3), 1, 5),
            (Sign(";"), 1, 11),
            (Name("q"), 3, 6),
            (Sign("["), 3, 7),
            (Integer(31), 3, 8),
            (Sign("]"), 3, 12),
            (Sign("->"), 3, 14),
            (Text("é"), 3, 17),
            (Name("x"), 3, 21),
        ];
        assert_eq!(got, want);
        assert_eq!(tokens(".5 5. 1_000 0b101 2e3 1:2")?.len(), 8);
        Ok(())
    }

    #[test]
    fn what_is_not_a_token_is_an_error_with_its_position() {
        for (text, line, column) in [
            ("\n x /* y", 2, 4),
            ("\"abc\n\"", 1, 1),
            ("a 99999999999999999999999", 1, 3),
            ("1e999", 1, 1),
            ("0xfg", 1, 1),
            ("0b", 1, 1),
            ("10ns", 1, 1),
            ("q ? r", 1, 3),
            ("$0", 1, 1),
        ] {
            match tokens(text) {
                Err(Error::Parse { line: l, column: c, .. }) => assert_eq!((l, c), (line, column), "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
