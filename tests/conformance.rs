//! The library's own conformance suite passes on every device, and fails where it should.

mod support;

use gatewarp::conformance::{self, Options, Outcome};
use std::process::ExitCode;
use support::devices::{Test, TestDevice, run};

static TESTS: &[Test] = &[
    Test::new("conformance_passes", conformance_passes),
    Test::new("a_filter_chooses_operations", a_filter_chooses_operations),
    Test::new("a_seed_gives_the_same_cases", a_seed_gives_the_same_cases),
];

fn main() -> ExitCode {
    run(TESTS).exit_code()
}

/// What `gatewarp validate` runs, a part of it on each handle.
fn conformance_passes(device: &TestDevice) -> Result<(), String> {
    let share = Options::default().cases.div_ceil(device.handles.len());
    for (seed, handle) in (0..).zip(&device.handles) {
        let report = conformance::run(handle, &Options { cases: share, seed, filter: None });
        let failure = report.cases.iter().find_map(|case| match &case.outcome {
            Outcome::Failed { message } => {
                Some(format!("{} {} ({}): {message}", case.operation, case.number, case.problem))
            }
            _ => None,
        });
        if let Some(failure) = failure {
            return Err(format!("{}, seed {seed}: {failure}", report.device));
        }
        for row in report.summary() {
            eprintln!(
                "{}: {} {} cases, worst {:.3}, {:.1} s",
                report.device, row.operation, row.cases, row.worst, row.seconds
            );
        }
        if !report.passed() || report.cases.len() != share * conformance::operations().count() {
            return Err(format!("{} cases ran", report.cases.len()));
        }
    }
    Ok(())
}

fn a_filter_chooses_operations(device: &TestDevice) -> Result<(), String> {
    let one = Options { cases: 1, seed: 3, filter: Some("attention_forward".into()) };
    let report = conformance::run(&device.handles[0], &one);
    if report.cases.len() != 1 || report.cases[0].operation != "attention_forward" {
        return Err(format!("{:?}", report.cases));
    }
    let none =
        conformance::run(&device.handles[0], &Options { filter: Some("no such operation".into()), ..one });
    // Running nothing proves nothing.
    if none.passed() { Err("an empty run passed".into()) } else { Ok(()) }
}

fn a_seed_gives_the_same_cases(device: &TestDevice) -> Result<(), String> {
    let run = |seed: u64| {
        let options = Options { cases: 3, seed, filter: Some("attention_forward".into()) };
        let report = conformance::run(&device.handles[0], &options);
        report.cases.into_iter().map(|case| (case.problem, case.outcome)).collect::<Vec<_>>()
    };
    let (first, again, other) = (run(5), run(5), run(6));
    if first != again {
        return Err(format!("{first:?} and then {again:?}"));
    }
    if first.iter().zip(&other).all(|(a, b)| a.0 == b.0) {
        Err("the seed changes nothing".into())
    } else {
        Ok(())
    }
}
