//! `cargo xtask shaders`: every WGSL variant through two validators, naga (what wgpu uses) and Tint (what Chromium uses).
//!
//! Each rejects what the other lets pass: naga accepts barriers in non-uniform control flow, Tint some constants that naga
//! refuses.

use crate::{Outcome, workspace};
use gatewarp::manifest;
use naga::valid::{Capabilities, ValidationFlags, Validator};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// One complete shader.
struct Shader {
    name: String,
    text: String,
    uses_subgroups: bool,
}

/// Validates every variant with both, and fails with all their messages.
pub fn run(tint: &Path) -> Outcome {
    let shaders: Vec<Shader> = manifest::wgsl()
        .map(|row| Shader {
            name: row.entry.to_owned(),
            text: row.text(),
            uses_subgroups: row.uses_subgroups,
        })
        .collect();
    if shaders.is_empty() {
        return Err("the manifest has no WGSL row".to_owned());
    }
    let mut faults: Vec<String> = shaders
        .iter()
        .filter_map(|shader| with_naga(shader).err().map(|why| format!("naga: {}: {why}", shader.name)))
        .collect();
    let (version, messages) = with_tint(tint, &shaders)?;
    faults.extend(messages.into_iter().map(|(name, why)| format!("Tint: {name}: {why}")));
    if faults.is_empty() {
        println!("{} shaders pass naga and Tint (webgpu {version})", shaders.len());
        return Ok(());
    }
    Err(format!("{} faults in shaders:\n{}", faults.len(), faults.join("\n")))
}

fn with_naga(shader: &Shader) -> Outcome {
    let module =
        naga::front::wgsl::parse_str(&shader.text).map_err(|error| error.emit_to_string(&shader.text))?;
    // What the library asks of a device, no more: a shader that needs another capability has to be noticed here.
    let mut capabilities = Capabilities::default() | Capabilities::SHADER_FLOAT16;
    if shader.uses_subgroups {
        capabilities |= Capabilities::SUBGROUP;
    }
    Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .map(|_| ())
        .map_err(|error| error.emit_to_string(&shader.text))
}

/// Texts that Tint must reject; if it lets one pass, what it says of the others is worth nothing.
const BROKEN: [(&str, &str); 2] = [
    ("a syntax error", "@compute @workgroup_size(64) fn main( {"),
    (
        "a barrier in non-uniform control flow",
        "@compute @workgroup_size(64) fn main(@builtin(local_invocation_index) i: u32) {\n\
         if i < 3u { workgroupBarrier(); }\n}",
    ),
];

/// Tint's package version, and its messages as (shader, message).
fn with_tint(package: &Path, shaders: &[Shader]) -> Outcome<(String, Vec<(String, String)>)> {
    let texts = shaders.iter().map(|shader| (shader.name.as_str(), for_tint(shader)));
    let broken = BROKEN.iter().map(|&(name, text)| (name, text.to_owned()));
    let input: Vec<_> =
        texts.chain(broken).map(|(name, text)| serde_json::json!({ "name": name, "text": text })).collect();
    let answer = ask_tint(package, &serde_json::Value::from(input).to_string())?;
    let (version, mut messages) = parse_answer(&answer)?;
    for (what, _) in BROKEN {
        if !messages.iter().any(|(name, _)| name == what) {
            return Err(format!("Tint (webgpu {version}) did not reject {what}"));
        }
    }
    messages.retain(|(name, _)| BROKEN.iter().all(|(what, _)| what != name));
    Ok((version, messages))
}

/// Tint insists on the directive that naga refuses.
fn for_tint(shader: &Shader) -> String {
    let directive = if shader.uses_subgroups { "enable subgroups;\n" } else { "" };
    format!("{directive}{}", shader.text)
}

fn ask_tint(package: &Path, input: &str) -> Outcome<String> {
    let script = workspace::root().join("xtask/tint/validate.mjs");
    let mut child = Command::new("node")
        .arg(script)
        .arg(package)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start node: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(|error| format!("cannot write to node: {error}"))?;
    }
    let output = child.wait_with_output().map_err(|error| format!("cannot read from node: {error}"))?;
    if !output.status.success() {
        return Err(format!("the Tint script failed: {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn parse_answer(answer: &str) -> Outcome<(String, Vec<(String, String)>)> {
    let unexpected = || format!("the Tint script answered: {answer}");
    let json: serde_json::Value = serde_json::from_str(answer).map_err(|_| unexpected())?;
    let word =
        |value: &serde_json::Value, key: &str| value[key].as_str().map(str::to_owned).ok_or_else(unexpected);
    let errors = json["errors"].as_array().ok_or_else(unexpected)?;
    let messages = errors.iter().map(|error| Ok((word(error, "name")?, word(error, "message")?)));
    Ok((word(&json, "tint")?, messages.collect::<Outcome<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shader(text: &str) -> Shader {
        Shader { name: "test".to_owned(), text: text.to_owned(), uses_subgroups: false }
    }

    #[test]
    fn naga_rejects_a_syntax_error_and_a_type_error() {
        assert!(with_naga(&shader("@compute @workgroup_size(1) fn main() {}")).is_ok());
        assert!(with_naga(&shader("fn main( {")).is_err());
        assert!(with_naga(&shader("fn f() -> u32 { return 1.0f; }")).is_err());
    }

    #[test]
    fn subgroups_need_to_be_declared() {
        let text = "@compute @workgroup_size(64) fn main() { let x = subgroupAdd(1u); }";
        assert!(with_naga(&shader(text)).is_err());
        let declared = Shader { uses_subgroups: true, ..shader(text) };
        assert_eq!(with_naga(&declared), Ok(()));
        assert!(for_tint(&declared).starts_with("enable subgroups;"));
    }

    #[test]
    fn answers_are_read_and_others_refused() {
        let answer = r#"{"tint":"1.2","errors":[{"name":"a","message":"1:2: bad"}]}"#;
        assert_eq!(parse_answer(answer), Ok(("1.2".into(), vec![("a".into(), "1:2: bad".into())])));
        assert!(parse_answer("Dawn says hello").is_err());
        assert!(parse_answer(r#"{"tint":"1.2"}"#).is_err());
    }
}
