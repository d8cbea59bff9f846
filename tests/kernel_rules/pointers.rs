//! Global memory is reached through `gw::load_global` and its kin only: no pointer that a kernel was given, or that was
//! derived from one, is followed by hand. On a device that would be right; in the emulator it is neither checked nor counted.
//!
//! A pointer is followed through assignments, through the parameters of every function of that name, and through members of
//! structures. Pointers to a function's own variables (`bool* is_kept`, given `&kept`) are free.

use super::syntax::{Function, Pointer, Token, closing, functions, pointers, split_at_commas, tokens};
use std::collections::BTreeSet;
use std::ops::Range;

struct Unit<'a> {
    path: &'a str,
    tokens: Vec<Token<'a>>,
    functions: Vec<Function<'a>>,
    pointers: Vec<Pointer<'a>>,
}

/// A pointer in a structure, which only ever holds global memory.
struct Member<'a> {
    unit: usize,
    name: &'a str,
    /// Tokens of the structure: functions in there use the bare name.
    scope: Range<usize>,
}

/// Names of global pointers in one function of one unit: (unit, function, name).
type Global<'a> = BTreeSet<(usize, usize, &'a str)>;

/// `path:line: …` for every place in the files, as (path, text), where a global pointer is followed by hand.
pub fn violations(files: &[(&str, &str)]) -> Vec<String> {
    let units: Vec<Unit<'_>> = files
        .iter()
        .map(|&(path, text)| {
            let tokens = tokens(text);
            let (functions, pointers) = (functions(&tokens), pointers(&tokens));
            Unit { path, tokens, functions, pointers }
        })
        .collect();
    let members = members(&units);
    let global = global_pointers(&units, &members);
    let mut found = BTreeSet::new();
    for (u, unit) in units.iter().enumerate() {
        for (f, function) in unit.functions.iter().enumerate() {
            for index in function.body.clone() {
                let token = unit.tokens[index];
                let is_global = token.is_name() && names_global(&units, &global, &members, (u, f), index);
                if (is_global && is_followed(&unit.tokens, index))
                    || is_cast_and_followed(&unit.tokens, index)
                {
                    let (path, line) = (unit.path, token.line);
                    found.insert((
                        u,
                        line,
                        format!("{path}:{line}: `{}` is a raw access to memory", token.text),
                    ));
                }
            }
        }
    }
    found.into_iter().map(|(_, _, message)| message).collect()
}

/// Pointers declared outside functions.
fn members<'a>(units: &[Unit<'a>]) -> Vec<Member<'a>> {
    let mut found = Vec::new();
    for (u, unit) in units.iter().enumerate() {
        let is_outside = |pointer: &&Pointer<'a>| {
            !pointer.is_auto && !unit.functions.iter().any(|function| function.body.contains(&pointer.at))
        };
        for pointer in unit.pointers.iter().filter(is_outside) {
            let opens = (0..pointer.at).rev().filter(|&i| unit.tokens[i].text == "{");
            let mut scopes = opens.map(|open| open..closing(&unit.tokens, open));
            let scope = scopes.find(|scope| scope.contains(&pointer.at)).unwrap_or(0..unit.tokens.len());
            found.push(Member { unit: u, name: pointer.name, scope });
        }
    }
    found
}

/// Starts from the kernels' parameters and follows assignments and calls until nothing new is found.
fn global_pointers<'a>(units: &[Unit<'a>], members: &[Member<'a>]) -> Global<'a> {
    let mut global = Global::new();
    for (u, unit) in units.iter().enumerate() {
        for (f, function) in unit.functions.iter().enumerate().filter(|(_, function)| function.is_kernel) {
            let given = function.parameters.iter().filter(|parameter| parameter.is_pointer);
            global.extend(given.map(|parameter| (u, f, parameter.name)));
        }
    }
    loop {
        let before = global.len();
        for (u, unit) in units.iter().enumerate() {
            for (f, function) in unit.functions.iter().enumerate() {
                let here = |global: &Global<'a>, range: Range<usize>| {
                    range.into_iter().any(|i| names_global(units, global, members, (u, f), i))
                };
                for pointer in unit.pointers.iter().filter(|pointer| function.body.contains(&pointer.at)) {
                    // `auto` is a pointer where it begins with one: `auto row = q + i`, not `auto x = load_global(q)`.
                    let range = &pointer.initial;
                    let looked_at = if pointer.is_auto {
                        range.start..range.end.min(range.start + 1)
                    } else {
                        range.clone()
                    };
                    if here(&global, looked_at) {
                        global.insert((u, f, pointer.name));
                    }
                }
                for index in function.body.clone() {
                    for (callee, position, argument) in arguments(unit, index) {
                        if here(&global, argument) {
                            pass(units, &mut global, callee, position);
                        }
                    }
                }
            }
        }
        if global.len() == before {
            return global;
        }
    }
}

/// The arguments of the call whose name is at `index`, as (name, position, tokens).
fn arguments<'a>(unit: &Unit<'a>, index: usize) -> Vec<(&'a str, usize, Range<usize>)> {
    let tokens = &unit.tokens;
    if !tokens[index].is_name() {
        return Vec::new();
    }
    let mut open = index + 1;
    if tokens.get(open).is_some_and(|token| token.text == "<") {
        let close = closing(tokens, open);
        // A comparison has no partner, or one beyond the end of the statement.
        if tokens[open..close.min(tokens.len())].iter().any(|token| matches!(token.text, ";" | "{")) {
            return Vec::new();
        }
        open = close + 1;
    }
    if tokens.get(open).is_none_or(|token| token.text != "(") {
        return Vec::new();
    }
    let parts = split_at_commas(tokens, open + 1..closing(tokens, open), false);
    parts.into_iter().enumerate().map(|(position, range)| (tokens[index].text, position, range)).collect()
}

/// Parameter `position` of every function of that name, where it is a pointer, is a global one.
fn pass<'a>(units: &[Unit<'a>], global: &mut Global<'a>, callee: &str, position: usize) {
    for (u, unit) in units.iter().enumerate() {
        for (f, function) in unit.functions.iter().enumerate().filter(|(_, function)| function.name == callee)
        {
            if let Some(parameter) =
                function.parameters.get(position).filter(|parameter| parameter.is_pointer)
            {
                global.insert((u, f, parameter.name));
            }
        }
    }
}

/// Whether the name at `index` is a global pointer there.
fn names_global<'a>(
    units: &[Unit<'a>],
    global: &Global<'a>,
    members: &[Member<'a>],
    (u, f): (usize, usize),
    index: usize,
) -> bool {
    let (unit, name) = (&units[u], units[u].tokens[index].text);
    let is_member = index > 0 && matches!(unit.tokens[index - 1].text, "." | "->");
    if is_member {
        let is_seen = |member: &Member<'_>| member.unit == u || units[member.unit].path.ends_with(".cuh");
        return members.iter().any(|member| member.name == name && is_seen(member));
    }
    let function = &unit.functions[f];
    let is_own = function.parameters.iter().any(|parameter| parameter.name == name)
        || unit.pointers.iter().any(|pointer| pointer.name == name && function.body.contains(&pointer.at));
    let is_in_scope = |member: &Member<'_>| member.unit == u && member.scope.contains(&function.body.start);
    global.contains(&(u, f, name))
        || (!is_own && members.iter().any(|member| member.name == name && is_in_scope(member)))
}

/// Whether the pointer at `index` is indexed, dereferenced or reached through.
fn is_followed(tokens: &[Token<'_>], index: usize) -> bool {
    if tokens.get(index + 1).is_some_and(|next| matches!(next.text, "[" | "->")) {
        return true;
    }
    // Back over the object whose member this is, and over opening parentheses: `*(row.z + i)`.
    let mut first = index;
    while first >= 2 && matches!(tokens[first - 1].text, "." | "->") {
        first -= 2;
    }
    while first >= 1 && tokens[first - 1].text == "(" && !(first >= 2 && tokens[first - 2].is_name()) {
        first -= 1;
    }
    first >= 1 && is_dereference(tokens, first - 1)
}

/// Whether the token is a `*` with nothing to multiply before it.
fn is_dereference(tokens: &[Token<'_>], index: usize) -> bool {
    // After a `>` it makes a pointer of a template type.
    let before = index.checked_sub(1).map(|before| tokens[before]);
    tokens[index].text == "*" && before.is_none_or(|before| !before.ends_operand() && before.text != ">")
}

/// Whether a pointer is cast at `index` and the result is followed: `*reinterpret_cast<…>(…)`, `…(…)[i]`, `*(float4*)(…)`.
fn is_cast_and_followed(tokens: &[Token<'_>], index: usize) -> bool {
    let text = |i: usize| tokens.get(i).map_or("", |token| token.text);
    if matches!(text(index), "reinterpret_cast" | "static_cast" | "const_cast") && text(index + 1) == "<" {
        let is_pointer = tokens[index..closing(tokens, index + 1)].iter().any(|token| token.text == "*");
        let open = closing(tokens, index + 1) + 1;
        let is_indexed = text(open) == "(" && matches!(text(closing(tokens, open) + 1), "[" | "->");
        return is_pointer && (is_indexed || (index > 0 && is_dereference(tokens, index - 1)));
    }
    let close = if text(index) == "(" { closing(tokens, index) } else { return false };
    let is_cast = close < tokens.len() && close > index + 1 && text(close - 1) == "*";
    is_cast && index > 0 && is_dereference(tokens, index - 1)
}
