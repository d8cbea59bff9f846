//! The header over each kernel says what a reader must know, and a kernel's `.cu` and `.wgsl` share their stem.

/// Lines that every header has. Where there is nothing to say, the line says so: `Host  nothing`.
const KEYS: [&str; 6] = ["Shapes", "Mapping", "Traffic", "Host", "Twin", "Source"];

/// Parts of a name that are no part of the kernel's: element types, after which come variants.
const ELEMENT_TYPES: [&str; 6] = ["f16", "bf16", "f32", "f64", "c64", "c128"];

/// A comment that starts with `// name: …` and has lines of [`KEYS`].
pub struct Header<'a> {
    /// The entries it is for, or what their names begin with.
    pub names: Vec<String>,
    keys: Vec<&'a str>,
}

/// The headers of a kernel's text.
pub fn headers(text: &str) -> Vec<Header<'_>> {
    let mut found: Vec<Header<'_>> = Vec::new();
    let mut is_open = false;
    for line in text.lines() {
        let Some(comment) = line.strip_prefix("// ") else {
            is_open = false;
            continue;
        };
        if !is_open {
            let names = comment.split_once(": ").map(|(names, _)| expanded(names)).unwrap_or_default();
            if names.is_empty() {
                continue;
            }
            is_open = true;
            found.push(Header { names, keys: Vec::new() });
        } else if let Some(header) = found.last_mut() {
            // Two may share a line: `Twin  src/attention/cpu.rs        Source  arXiv:…`.
            let says = |key: &&str| {
                comment
                    .split("  ")
                    .map(str::trim)
                    .zip(comment.split("  ").skip(1))
                    .any(|(part, _)| part == *key)
            };
            header.keys.extend(KEYS.into_iter().filter(says));
        }
    }
    found.retain(|header| !header.keys.is_empty());
    found
}

/// `a_{b,c}_f32, d_e` is a_b_f32, a_c_f32 and d_e. Empty if these are not all names of kernels.
fn expanded(names: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut rest = names;
    let mut done = Vec::new();
    while !rest.is_empty() {
        let stop = rest.find(['{', ',']).unwrap_or(rest.len());
        all.iter_mut().for_each(|name| name.push_str(&rest[..stop]));
        rest = &rest[stop..];
        if let Some(braced) = rest.strip_prefix('{') {
            let (choices, after) = braced.split_once('}').unwrap_or((braced, ""));
            let both = |name: &String| choices.split(',').map(|c| format!("{name}{c}")).collect::<Vec<_>>();
            all = all.iter().flat_map(both).collect();
            rest = after;
        } else if let Some(after) = rest.strip_prefix(',') {
            done.append(&mut all);
            all = vec![String::new()];
            rest = after.trim_start();
        }
    }
    done.append(&mut all);
    let is_name = |name: &String| {
        name.contains('_') && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    if done.iter().all(is_name) { done } else { Vec::new() }
}

/// Entries that a `.cu` exports under a name written out.
pub fn exports(text: &str) -> Vec<&str> {
    let of_line = |line| str::strip_prefix(str::trim_start(line), "GW_EXPORT(")?.split_once(')');
    text.lines().filter_map(of_line).map(|(name, _)| name).filter(|name| !name.contains('#')).collect()
}

/// What is wrong with the headers of a file that holds `entries`.
pub fn violations(path: &str, text: &str, entries: &[&str]) -> Vec<String> {
    let headers = headers(text);
    if headers.is_empty() {
        return vec![format!("{path}: no header `// name: …` with lines {KEYS:?}")];
    }
    let mut found = Vec::new();
    for header in &headers {
        let missing: Vec<&str> = KEYS.into_iter().filter(|key| !header.keys.contains(key)).collect();
        if !missing.is_empty() {
            found.push(format!("{path}: the header of {} lacks {missing:?}", header.names.join(", ")));
        }
    }
    let is_named = |entry: &str| {
        let fits = |name: &String| {
            entry.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        };
        headers.iter().any(|header| header.names.iter().any(fits))
    };
    found.extend(
        entries
            .iter()
            .filter(|entry| !is_named(entry))
            .map(|entry| format!("{path}: no header names {entry}")),
    );
    found
}

/// A kernel's name without element type and variant.
fn core(name: &str) -> String {
    let parts = name.split('_').take_while(|part| !ELEMENT_TYPES.contains(part));
    parts.collect::<Vec<_>>().join("_")
}

/// Where a CUDA kernel and a shader of one name have different stems, or of one stem no name in common.
pub fn twins(files: &[(&str, &str)]) -> Vec<String> {
    let cores = |text| {
        headers(text).iter().flat_map(|header| header.names.iter().map(|name| core(name))).collect::<Vec<_>>()
    };
    let mut found = Vec::new();
    for (cu, cu_text) in files.iter().filter(|(path, _)| path.ends_with(".cu")) {
        for (wgsl, wgsl_text) in files.iter().filter(|(path, _)| path.ends_with(".wgsl")) {
            let (names, others) = (cores(cu_text), cores(wgsl_text));
            let is_same_stem = cu.strip_suffix(".cu") == wgsl.strip_suffix(".wgsl");
            let shared = names.iter().find(|name| others.contains(name));
            match shared {
                Some(name) if !is_same_stem => {
                    found.push(format!("{cu}, {wgsl}: both are {name}, under different stems"))
                }
                None if is_same_stem => {
                    found.push(format!("{cu}, {wgsl}: {names:?} and {others:?} have nothing in common"))
                }
                _ => {}
            }
        }
    }
    found
}
