//! Finds the workspace's test programs and runs them one by one.

use crate::libtest::{Output, Tally, Verdict};
use crate::process::{self, Ending};
use crate::{Outcome, workspace};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A test program, built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suite {
    /// `package` for unit tests, `package/file` for the others.
    pub name: String,
    /// The program.
    pub executable: PathBuf,
    /// The package's folder, which cargo makes a test's working directory.
    pub folder: PathBuf,
}

/// What cargo has built.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Programs {
    /// Test programs.
    pub suites: Vec<Suite>,
    /// Ordinary programs as (name, path).
    pub binaries: Vec<(String, PathBuf)>,
    /// Benches as (name, path).
    pub benches: Vec<(String, PathBuf)>,
}

/// Reads the programs out of the messages of `cargo build --message-format=json`.
pub fn programs(messages: &str) -> Programs {
    let mut programs = Programs::default();
    for message in messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let Some(executable) = text(&message["executable"]).map(PathBuf::from) else { continue };
        let Some(target) = text(&message["target"]["name"]) else { continue };
        let manifest = text(&message["manifest_path"]).map(PathBuf::from).unwrap_or_default();
        let folder = manifest.parent().map(Path::to_path_buf).unwrap_or_default();
        let kind = message["target"]["kind"][0].as_str().unwrap_or_default();
        match (kind, message["profile"]["test"] == true) {
            ("bench", _) => programs.benches.push((target, executable)),
            ("bin", false) => programs.binaries.push((target, executable)),
            (kind, true) => {
                let package = package_of(message["package_id"].as_str().unwrap_or_default());
                let name = if kind == "test" { format!("{package}/{target}") } else { package };
                programs.suites.push(Suite { name, executable, folder });
            }
            _ => (),
        }
    }
    programs.suites.sort_by(|a, b| a.name.cmp(&b.name));
    programs
}

/// `path+file:///…/cli#gatewarp-cli@0.1.0` and `path+file:///…/xtask#0.0.0` (folder and package named alike).
fn package_of(id: &str) -> String {
    let (path, fragment) = id.split_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => path.rsplit('/').next().unwrap_or_default().to_owned(),
    }
}

/// How a suite went.
pub struct Outing {
    /// The suite's name.
    pub name: String,
    /// What it printed of its tests.
    pub output: Output,
    /// Wall-clock time.
    pub time: Duration,
    /// Why the program as such failed, where no single test did.
    pub fault: Option<String>,
}

impl Outing {
    /// The tests, and one failure more where the program itself failed.
    pub fn tally(&self) -> Tally {
        let mut tally = self.output.tally;
        tally.failed += u64::from(self.fault.is_some());
        tally
    }

    /// Names of the failed tests, and the fault.
    pub fn failures(&self) -> impl Iterator<Item = String> {
        let failed = self.output.cases.iter().filter(|case| case.verdict == Verdict::Failed);
        failed
            .map(|case| format!("{}: {}", self.name, case.name))
            .chain(self.fault.iter().map(|fault| format!("{}: {fault}", self.name)))
    }

    /// Lines that name the skipped tests with their reasons; those of one device or module share a line.
    pub fn skips(&self) -> impl Iterator<Item = String> {
        let mut groups: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for (name, reason) in self.output.skips() {
            let group = name.rsplit_once("::").map_or(name, |(group, _)| group);
            groups.entry((group, reason)).or_default().push(name);
        }
        groups.into_iter().map(|((group, reason), names)| {
            let what = match names[..] {
                [name] => name.to_owned(),
                _ => format!("{} tests of {group}", names.len()),
            };
            format!("{}: {what}: {}", self.name, if reason.is_empty() { "no reason given" } else { reason })
        })
    }
}

/// Runs a test program (or `cargo test`), handing each line it prints to `echo`.
pub fn run(name: &str, command: &mut Command, limit: Duration, mut echo: impl FnMut(&str)) -> Outing {
    let start = Instant::now();
    let mut output = Output::default();
    let ending = process::follow(command, limit, |line| {
        echo(line);
        output.take(line);
    });
    let fault = match ending {
        Err(message) => Some(message),
        Ok(Ending::TimedOut) => Some(format!("killed after {} s", limit.as_secs())),
        Ok(Ending::Exited(_, status)) if output.closings == 0 => {
            Some(format!("ended without a result, {status}"))
        }
        Ok(Ending::Exited(false, status)) if output.tally.failed == 0 => {
            Some(format!("no test failed, and yet {status}"))
        }
        Ok(Ending::Exited(..)) => None,
    };
    Outing { name: name.to_owned(), output, time: start.elapsed(), fault }
}

/// Builds every test program and ordinary program, and what else `arguments` name; returns where they are.
pub fn build(arguments: &[&str]) -> Outcome<Programs> {
    let mut command = Command::new(workspace::cargo());
    command.current_dir(workspace::root());
    command.args(["build", "--bins", "--tests", "--message-format=json-render-diagnostics"]).args(arguments);
    println!("$ cargo build --bins --tests {}", arguments.join(" "));
    let programs = programs(&process::output(&mut command)?);
    if programs.suites.is_empty() { Err("cargo built no test program".to_owned()) } else { Ok(programs) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &str = r#"
{"reason":"compiler-artifact","package_id":"path+file:///r#gatewarp@0.1.0","manifest_path":"/r/Cargo.toml","target":{"kind":["test"],"name":"attention"},"profile":{"test":true},"executable":"/r/target/debug/deps/attention-1"}
{"reason":"compiler-artifact","package_id":"path+file:///r/xtask#0.0.0","manifest_path":"/r/xtask/Cargo.toml","target":{"kind":["bin"],"name":"xtask"},"profile":{"test":true},"executable":"/r/target/debug/deps/xtask-1"}
{"reason":"compiler-artifact","package_id":"path+file:///r/cli#gatewarp-cli@0.1.0","manifest_path":"/r/cli/Cargo.toml","target":{"kind":["bin"],"name":"gatewarp"},"profile":{"test":false},"executable":"/r/target/debug/gatewarp"}
{"reason":"compiler-artifact","package_id":"path+file:///r#gatewarp@0.1.0","manifest_path":"/r/Cargo.toml","target":{"kind":["bench"],"name":"statevec"},"profile":{"test":true},"executable":"/r/target/release/deps/statevec-1"}
{"reason":"compiler-artifact","package_id":"x","manifest_path":"/x","target":{"kind":["lib"],"name":"half"},"profile":{"test":false},"executable":null}
{"reason":"build-finished","success":true}
no JSON at all
"#;

    #[test]
    fn programs_are_found_in_the_messages() {
        let found = programs(MESSAGES);
        let names: Vec<_> = found.suites.iter().map(|suite| suite.name.as_str()).collect();
        assert_eq!(names, ["gatewarp/attention", "xtask"]);
        assert_eq!(found.suites[0].folder, Path::new("/r"));
        assert_eq!(found.binaries, [("gatewarp".to_owned(), PathBuf::from("/r/target/debug/gatewarp"))]);
        assert_eq!(
            found.benches,
            [("statevec".to_owned(), PathBuf::from("/r/target/release/deps/statevec-1"))]
        );
    }

    fn shell(script: &str) -> Outing {
        run("suite", Command::new("sh").args(["-c", script]), Duration::from_secs(10), |_| ())
    }

    const CLOSING: &str = "echo 'test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured'";

    #[test]
    fn a_program_that_dies_early_counts_as_failed() {
        let outing = shell("echo 'test a ... ok'; kill -9 $$");
        assert_eq!(outing.tally().failed, 1);
        assert_eq!(outing.failures().count(), 1);
    }

    #[test]
    fn a_program_that_fails_after_its_closing_line_counts_as_failed() {
        assert_eq!(shell(CLOSING).tally(), Tally { passed: 1, failed: 0, skipped: 0 });
        assert_eq!(shell(&format!("{CLOSING}; exit 1")).tally(), Tally { passed: 1, failed: 1, skipped: 0 });
    }

    #[test]
    fn skips_carry_their_reason_and_are_grouped() {
        let closing = "echo 'test result: ok. 0 passed; 0 failed; 3 ignored'";
        let tests = ["a ... ignored, slow", "[missing] cuda::b ... ignored", "[missing] cuda::c ... ignored"];
        let tests: String = tests.iter().map(|test| format!("echo 'test {test}'; ")).collect();
        let outing = shell(&format!("echo 'cuda: ignored, no driver' >&2; {tests} {closing}"));
        let lines: Vec<_> = outing.skips().collect();
        assert_eq!(lines, ["suite: 2 tests of [missing] cuda: no driver", "suite: a: slow"]);
    }
}
