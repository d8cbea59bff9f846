//! As much of C++ as the rules need: tokens, functions with their parameters, and declarations of pointers.

use std::ops::Range;

/// A word, a number or a mark, and the line it is on, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    pub text: &'a str,
    pub line: usize,
}

impl Token<'_> {
    pub fn is_name(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }

    /// Whether the token ends an operand, so that a `*` after it multiplies.
    pub fn ends_operand(&self) -> bool {
        let is_word = self.text.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        (is_word && self.text != "return") || matches!(self.text, ")" | "]")
    }
}

/// The tokens of C++, CUDA or WGSL text. Comments, quoted text and the line ends within macros are left out.
pub fn tokens(text: &str) -> Vec<Token<'_>> {
    const LONG_MARKS: [&str; 3] = ["::", "->", "##"];
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '"' || first == '\'' {
            quoted(rest, first)
        } else if first.is_alphanumeric() || first == '_' {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else {
            LONG_MARKS
                .iter()
                .find(|mark| rest.starts_with(**mark))
                .map_or(first.len_utf8(), |mark| mark.len())
        };
        let is_left_out = first.is_whitespace()
            || matches!(first, '"' | '\'' | '\\')
            || rest.starts_with("//")
            || rest.starts_with("/*");
        if !is_left_out {
            found.push(Token { text: &rest[..length], line });
        }
        line += rest[..length].matches('\n').count();
        at += length;
    }
    found
}

/// Length of the quoted text that `rest` begins with.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (index, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return index + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A parameter; one without a name has an empty one.
#[derive(Debug, PartialEq, Eq)]
pub struct Parameter<'a> {
    pub name: &'a str,
    pub is_pointer: bool,
}

/// A function with a body.
#[derive(Debug)]
pub struct Function<'a> {
    pub name: &'a str,
    /// Whether `GW_KERNEL(…)` heads it.
    pub is_kernel: bool,
    pub parameters: Vec<Parameter<'a>>,
    /// Tokens between its braces.
    pub body: Range<usize>,
}

/// Index of the mark that closes the one at `open`, or the end.
pub fn closing(tokens: &[Token<'_>], open: usize) -> usize {
    let (opener, closer) = match tokens[open].text {
        "(" => ("(", ")"),
        "[" => ("[", "]"),
        "<" => ("<", ">"),
        _ => ("{", "}"),
    };
    let mut depth = 0usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        if token.text == opener {
            depth += 1;
        } else if token.text == closer {
            depth -= 1;
            if depth == 0 {
                return index;
            }
        }
    }
    tokens.len()
}

/// Splits a range of tokens at its outermost commas.
pub fn split_at_commas(tokens: &[Token<'_>], range: Range<usize>, is_type_list: bool) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0i32, range.start);
    for index in range.clone() {
        match tokens[index].text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            "<" if is_type_list => depth += 1,
            ">" if is_type_list => depth -= 1,
            "," if depth == 0 => {
                parts.push(start..index);
                start = index + 1;
            }
            _ => {}
        }
    }
    if start < range.end {
        parts.push(start..range.end);
    }
    parts
}

/// Every function of the file, members and those inside macros too, in order.
pub fn functions<'a>(tokens: &[Token<'a>]) -> Vec<Function<'a>> {
    const NOT_FUNCTIONS: [&str; 6] = ["if", "for", "while", "switch", "constexpr", "GW_KERNEL"];
    let mut found = Vec::new();
    let mut kernel_parameters = None;
    for index in 0..tokens.len() {
        if tokens[index].text == "GW_KERNEL" && tokens.get(index + 1).is_some_and(|next| next.text == "(") {
            // The name may be pasted together: what comes next in parentheses are the parameters.
            let after = closing(tokens, index + 1);
            kernel_parameters = (after..tokens.len()).find(|&i| tokens[i].text == "(");
        }
        let is_head = tokens[index].text == "("
            && index > 0
            && tokens[index - 1].is_name()
            && !NOT_FUNCTIONS.contains(&tokens[index - 1].text);
        if !is_head {
            continue;
        }
        let mut open = closing(tokens, index) + 1;
        while tokens.get(open).is_some_and(|token| matches!(token.text, "const" | "noexcept")) {
            open += 1;
        }
        if tokens.get(open).is_none_or(|token| token.text != "{") {
            continue;
        }
        let parameters = split_at_commas(tokens, index + 1..closing(tokens, index), true);
        found.push(Function {
            name: tokens[index - 1].text,
            is_kernel: kernel_parameters == Some(index),
            parameters: parameters.into_iter().map(|range| parameter(&tokens[range])).collect(),
            body: open + 1..closing(tokens, open),
        });
    }
    found
}

fn parameter<'a>(tokens: &[Token<'a>]) -> Parameter<'a> {
    let declared = tokens.split(|token| token.text == "=").next().unwrap_or_default();
    let name = declared.iter().rev().find(|token| token.is_name()).map_or("", |token| token.text);
    Parameter { name, is_pointer: declared.iter().any(|token| token.text == "*") }
}

/// The declaration of a variable or member that is a pointer, or may be one because its type is `auto`.
#[derive(Debug)]
pub struct Pointer<'a> {
    pub name: &'a str,
    /// Where its name is.
    pub at: usize,
    pub is_auto: bool,
    /// The tokens after its `=`, if any.
    pub initial: Range<usize>,
}

/// Pointers declared at the beginning of a statement.
pub fn pointers<'a>(tokens: &[Token<'a>]) -> Vec<Pointer<'a>> {
    let mut found = Vec::new();
    for start in 0..tokens.len() {
        let begins =
            start == 0 || matches!(tokens[start - 1].text, ";" | "{" | "}" | ":") || in_for(tokens, start);
        if !begins {
            continue;
        }
        let text = |index: usize| tokens.get(index).map_or("", |token: &Token<'a>| token.text);
        let mut at = start;
        while matches!(text(at), "const" | "static" | "constexpr" | "unsigned" | "struct") {
            at += 1;
        }
        let is_auto = text(at) == "auto";
        while tokens.get(at).is_some_and(Token::is_name) && text(at + 1) == "::" {
            at += 2;
        }
        if !tokens.get(at).is_some_and(Token::is_name) {
            continue;
        }
        at += 1;
        if text(at) == "<" {
            at = closing(tokens, at) + 1;
        }
        let mut is_pointer = false;
        while matches!(text(at), "const" | "*" | "__restrict__") {
            is_pointer |= text(at) == "*";
            at += 1;
        }
        let is_declared =
            tokens.get(at).is_some_and(Token::is_name) && matches!(text(at + 1), "=" | ";" | ",");
        if (is_pointer || is_auto) && is_declared {
            let end = (at..tokens.len()).find(|&i| text(i) == ";").unwrap_or(tokens.len());
            found.push(Pointer { name: text(at), at, is_auto: !is_pointer, initial: (at + 2).min(end)..end });
        }
    }
    found
}

fn in_for(tokens: &[Token<'_>], start: usize) -> bool {
    start >= 2 && tokens[start - 1].text == "(" && tokens[start - 2].text == "for"
}
