//! `cargo xtask test`: the one test command.
//!
//! Each step is reported and timed; a failing one does not keep the others from running, except those that need what it
//! makes. All steps share one target directory and one set of features, so that no step rebuilds what another has built.

use crate::libtest::Tally;
use crate::setup::{self, Environment};
use crate::suites::{self, Outing, Programs, Suite};
use crate::{Outcome, kernels, process, shaders, workspace};
use std::process::Command;
use std::time::{Duration, Instant};

/// How much of it to run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Everything.
    Full,
    /// Without documentation, doctests, the CPU-only check and validation.
    Quick,
}

/// Cargo's selection in every step that compiles the workspace.
const SELECTION: [&str; 3] = ["--workspace", "--features", "emulator"];

/// Backends whose absence is a failure here: setup has provided for both.
const REQUIRED: &str = "wgpu,cuda-emulated";

/// Devices that `gatewarp validate` is run on.
const VALIDATED: [&str; 3] = ["cpu", "wgpu:0", "cuda-emulated"];

/// A suite that takes longer hangs: all of them together are to take less.
const SUITE_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Runs all steps and prints the summary; `true` if every step and test passed.
pub fn run(extent: Extent) -> bool {
    let full = extent == Extent::Full;
    let mut session = Session { total: if full { 11 } else { 7 }, steps: Vec::new(), outings: Vec::new() };
    let environment = session.step("setup", setup::prepare);
    session.step("formatting", || cargo(&["fmt", "--all", "--check"]));
    session.step("lints", || {
        cargo(&[&["clippy"][..], &SELECTION, &["--all-targets", "--", "-D", "warnings"]].concat())
    });
    if full {
        session.step("documentation", documentation);
        session.step("CPU only", || cargo(&["check", "-p", "gatewarp", "--no-default-features"]));
    }
    session.step("CUDA kernels", || kernels::run(&ready(&environment)?.nvrtc, kernels::Ptx::Discard));
    session.step("shaders", || shaders::run(&ready(&environment)?.tint));
    let programs = session.step("build", || suites::build(&SELECTION));
    session.suites("suites", || run_suites(ready(&environment)?, programs.as_ref()));
    if full {
        session.suites("doctests", || Ok(vec![doctests(ready(&environment)?)]));
        session.step("validation", || validate(ready(&environment)?, programs.as_ref()));
    }
    session.conclude()
}

fn cargo(arguments: &[&str]) -> Outcome {
    process::run(Command::new(workspace::cargo()).current_dir(workspace::root()).args(arguments))
}

/// Libraries only: the program `gatewarp` would overwrite the pages of the library of that name.
fn documentation() -> Outcome {
    let arguments = [&["doc", "--no-deps", "--lib"][..], &SELECTION].concat();
    let mut command = Command::new(workspace::cargo());
    process::run(command.current_dir(workspace::root()).env("RUSTDOCFLAGS", "-D warnings").args(arguments))
}

/// The environment, or why a step that needs it cannot run.
fn ready(environment: &Option<Environment>) -> Outcome<&Environment> {
    environment.as_ref().ok_or_else(|| "not run: setup failed".to_owned())
}

fn run_suites(environment: &Environment, programs: Option<&Programs>) -> Outcome<Vec<Outing>> {
    let suites = &programs.ok_or("not run: the build failed")?.suites;
    Ok(suites.iter().map(|suite| run_suite(suite, environment)).collect())
}

fn run_suite(suite: &Suite, environment: &Environment) -> Outing {
    println!("\n--> {}", suite.name);
    let mut command = Command::new(&suite.executable);
    command
        .current_dir(&suite.folder)
        .env("CARGO_MANIFEST_DIR", &suite.folder)
        .env("GATEWARP_REQUIRE", REQUIRED);
    // Unit tests are ignored only for want of NVRTC, which setup has provided. What other suites ignore is a device.
    if !suite.name.contains('/') {
        command.arg("--include-ignored");
    }
    suites::run(&suite.name, environment.apply(&mut command), SUITE_LIMIT, |line| println!("{line}"))
}

fn doctests(environment: &Environment) -> Outing {
    let mut command = Command::new(workspace::cargo());
    command.current_dir(workspace::root()).args(["test", "--doc"]).args(SELECTION);
    suites::run("doctests", environment.apply(&mut command), SUITE_LIMIT, |line| println!("{line}"))
}

/// The conformance suite through the command line, as a user runs it.
fn validate(environment: &Environment, programs: Option<&Programs>) -> Outcome {
    let binaries = &programs.ok_or("not run: the build failed")?.binaries;
    let (_, program) =
        binaries.iter().find(|(name, _)| name == "gatewarp").ok_or("cargo built no program gatewarp")?;
    let validated = VALIDATED.map(|device| {
        process::run(environment.apply(&mut Command::new(program)).args(["validate", "--device", device]))
    });
    let failed: Vec<String> = validated.into_iter().filter_map(Result::err).collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

/// One run: what has been done, how long it took, how it ended.
struct Session {
    total: usize,
    steps: Vec<Step>,
    outings: Vec<Outing>,
}

struct Step {
    name: &'static str,
    time: Duration,
    fault: Option<String>,
    /// The outcome is in the suites' tallies already.
    is_counted: bool,
}

impl Session {
    /// Runs `work` under a headline and remembers how it went.
    fn step<T>(&mut self, name: &'static str, work: impl FnOnce() -> Outcome<T>) -> Option<T> {
        println!("\n==> [{}/{}] {name}", self.steps.len() + 1, self.total);
        let start = Instant::now();
        let outcome = work();
        let (value, fault) = match outcome {
            Ok(value) => (Some(value), None),
            Err(fault) => (None, Some(fault)),
        };
        let time = start.elapsed();
        if let Some(fault) = &fault {
            println!("FAILED: {fault}");
        }
        println!("<== {name}: {:.1} s", time.as_secs_f64());
        self.steps.push(Step { name, time, fault, is_counted: false });
        value
    }

    /// As [`Self::step`], for a step whose outcome is that of its tests.
    fn suites(&mut self, name: &'static str, work: impl FnOnce() -> Outcome<Vec<Outing>>) {
        let outings = self.step(name, work).unwrap_or_default();
        let failed = outings.iter().map(|outing| outing.tally().failed).sum::<u64>();
        if let Some(step) = self.steps.last_mut()
            && failed > 0
        {
            step.fault = Some(format!("{failed} failed"));
            step.is_counted = true;
        }
        self.outings.extend(outings);
    }

    /// Prints the summary; its last line is the sum of all.
    fn conclude(self) -> bool {
        println!("\n==> summary");
        for step in &self.steps {
            let verdict =
                step.fault.as_deref().map_or("ok", |fault| fault.lines().next().unwrap_or("failed"));
            println!("{:<16} {:>8.1} s  {verdict}", step.name, step.time.as_secs_f64());
        }
        println!();
        let mut tally = Tally::default();
        for outing in &self.outings {
            println!("{:<36} {:>8.1} s  {}", outing.name, outing.time.as_secs_f64(), outing.tally());
            tally += outing.tally();
        }
        print_list("skipped", self.outings.iter().flat_map(Outing::skips));
        print_list("failed", self.outings.iter().flat_map(Outing::failures));
        // A step that is no suite counts as one failure, so that the last line never calls a red run green.
        tally.failed +=
            self.steps.iter().filter(|step| step.fault.is_some() && !step.is_counted).count() as u64;
        println!("\ngatewarp: {tally}");
        tally.failed == 0
    }
}

fn print_list(title: &str, lines: impl Iterator<Item = String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        println!("\n{title}");
        lines.for_each(|line| println!("  {line}"));
    }
}
