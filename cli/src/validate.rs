//! `gatewarp validate`.

use crate::{Outcome, json};
use gatewarp::Device;
use gatewarp::conformance::{self, Options, Outcome as CaseOutcome, Progress, Report};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Device to check: cpu, wgpu:N, cuda:N [default: GATEWARP_DEVICE, else the best there is]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Cases of each operation
    #[arg(long, default_value_t = Options::default().cases as u64, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    cases: u64,
    /// Changes every case
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Check only operations whose name contains this
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Validation<'a> {
    device: &'a str,
    seed: u64,
    passed: bool,
    seconds: f64,
    operations: Vec<Operation>,
    failures: Vec<Failure<'a>>,
}

#[derive(Serialize)]
struct Operation {
    operation: &'static str,
    cases: usize,
    failed: usize,
    unsupported: usize,
    /// Worst error of the cases that passed, as a share of what is allowed.
    worst: f64,
    seconds: f64,
}

#[derive(Serialize)]
struct Failure<'a> {
    operation: &'static str,
    case: usize,
    problem: &'a str,
    message: &'a str,
}

fn validation(report: &Report, seed: u64) -> Validation<'_> {
    let rows = report.summary().into_iter().map(|row| Operation {
        operation: row.operation,
        cases: row.cases,
        failed: row.failed,
        unsupported: row.unsupported,
        worst: row.worst,
        seconds: row.seconds,
    });
    let failures = report.cases.iter().filter_map(|case| match &case.outcome {
        CaseOutcome::Failed { message } => {
            Some(Failure { operation: case.operation, case: case.number, problem: &case.problem, message })
        }
        _ => None,
    });
    Validation {
        device: &report.device,
        seed,
        passed: report.passed(),
        seconds: report.cases.iter().map(|case| case.seconds).sum(),
        operations: rows.collect(),
        failures: failures.collect(),
    }
}

/// Failures printed in full; of a broken driver the first ones say as much as all.
const SHOWN: usize = 5;

fn table(found: &Validation<'_>) -> String {
    let mut text = format!("{}\n\n", found.device);
    let name =
        found.operations.iter().map(|row| row.operation.len()).max().unwrap_or(0).max("operation".len());
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{:<name$}  cases  failed  error/allowed    time", "operation");
    for row in &found.operations {
        let worst =
            if row.unsupported == row.cases { "unsupported".into() } else { format!("{:.3}", row.worst) };
        let Operation { operation, cases, failed, seconds, .. } = row;
        let _ = writeln!(text, "{operation:<name$}  {cases:>5}  {failed:>6}  {worst:>13}  {seconds:>5.1}s");
    }
    text.push('\n');
    for failure in found.failures.iter().take(SHOWN) {
        let Failure { operation, case, problem, message } = failure;
        let _ = writeln!(text, "{operation} case {case}: {message}\n  {problem}");
    }
    if let Some(first) = found.failures.first() {
        let more = found.failures.len().saturating_sub(SHOWN);
        if more > 0 {
            let _ = writeln!(text, "and {more} more");
        }
        let (operation, cases, seed) = (first.operation, first.case + 1, found.seed);
        let _ = writeln!(text, "\nFAILED; again with --filter {operation} --cases {cases} --seed {seed}");
    } else {
        text.push_str(if found.passed { "passed\n" } else { "FAILED: nothing was checked\n" });
    }
    text
}

fn code(report: &Report) -> ExitCode {
    if report.passed() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn device(spec: Option<&str>) -> Result<Device, String> {
    let found = match spec {
        Some(spec) => spec.parse(),
        None => Device::best(),
    };
    found.map_err(|error| format!("{error}\nsee `gatewarp devices` for what this machine has"))
}

/// One line that is rewritten on a terminal, and a line an operation elsewhere.
fn show(progress: Progress, last: &mut &'static str) {
    let Progress { operation, done, total } = progress;
    let mut stderr = std::io::stderr();
    // Progress that cannot be shown is no reason to stop.
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[2K{done}/{total} {operation}");
        let _ = stderr.flush();
    } else if *last != operation {
        let _ = writeln!(stderr, "{done}/{total} {operation}");
    }
    *last = operation;
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let filter = arguments.filter.clone();
    if let Some(filter) =
        filter.as_ref().filter(|f| !conformance::operations().any(|name| name.contains(f.as_str())))
    {
        let names: Vec<_> = conformance::operations().collect();
        return Err(format!("no operation contains `{filter}`; there are {}", names.join(", ")));
    }
    let device = device(arguments.device.as_deref())?;
    let cases = usize::try_from(arguments.cases).map_err(|error| error.to_string())?;
    let options = Options { cases, seed: arguments.seed, filter };
    let mut last = "";
    let report = conformance::run_with_progress(&device, &options, |progress| show(progress, &mut last));
    if std::io::stderr().is_terminal() {
        let _ = write!(std::io::stderr(), "\r\x1b[2K");
    }
    let found = validation(&report, arguments.seed);
    Ok((if arguments.json { json(&found)? } else { table(&found) }, code(&report)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatewarp::conformance::CaseResult;

    fn report(outcomes: Vec<CaseOutcome>) -> Report {
        let case = |(number, outcome)| CaseResult {
            operation: "attention_forward",
            number,
            problem: format!("problem {number}"),
            outcome,
            seconds: 0.5,
        };
        Report { device: "a device".into(), cases: outcomes.into_iter().enumerate().map(case).collect() }
    }

    #[test]
    fn a_failure_is_shown_with_the_way_to_see_it_again() {
        let wrong = || CaseOutcome::Failed { message: "o[3] is NaN".into() };
        let report = report(vec![CaseOutcome::Passed { worst: 0.25 }, wrong(), wrong()]);
        let text = table(&validation(&report, 9));
        assert!(
            text.contains("attention_forward case 1: o[3] is NaN") && text.contains("problem 1"),
            "{text}"
        );
        assert!(text.contains("--filter attention_forward --cases 2 --seed 9"), "{text}");
        assert_eq!(format!("{:?}", code(&report)), format!("{:?}", ExitCode::from(1)));
        let json: serde_json::Value = serde_json::from_str(&json(&validation(&report, 9)).unwrap()).unwrap();
        assert_eq!(json["passed"], false);
        assert_eq!(json["operations"][0]["failed"], 2);
        assert_eq!(json["failures"][0]["message"], "o[3] is NaN");
    }

    #[test]
    fn many_failures_are_counted_not_printed() {
        let report = report(vec![CaseOutcome::Failed { message: "wrong".into() }; 30]);
        let text = table(&validation(&report, 0));
        assert_eq!(text.matches(": wrong").count(), SHOWN);
        assert!(text.contains("and 25 more"), "{text}");
    }

    #[test]
    fn an_operation_that_is_refused_is_no_failure_and_nothing_at_all_is() {
        let refused = report(vec![CaseOutcome::Unsupported { reason: "not on this backend".into() }]);
        assert!(table(&validation(&refused, 0)).contains("unsupported"));
        assert_eq!(format!("{:?}", code(&refused)), format!("{:?}", ExitCode::SUCCESS));
        let nothing = report(Vec::new());
        assert!(table(&validation(&nothing, 0)).contains("nothing was checked"));
        assert_eq!(format!("{:?}", code(&nothing)), format!("{:?}", ExitCode::from(1)));
    }
}
