//! What `run.sh` calls on the machine with the GPU.

use super::devices::{self, Presence};
use super::junit;
use crate::libtest::{Case, Output, Tally, Verdict};
use crate::suites::{self, Outing};
use crate::{Outcome, process};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Backends that need hardware.
pub const BACKENDS: [&str; 2] = ["cuda", "wgpu"];
const SUITE_LIMIT: Duration = Duration::from_secs(20 * 60);

/// Runs conformance and every test program on each hardware backend of this machine, and the benches if asked to; writes
/// `results/` into `bundle`.
pub fn run(bundle: &Path, with_benches: bool) -> Outcome {
    let bundle =
        bundle.canonicalize().map_err(|error| format!("no bundle at {}: {error}", bundle.display()))?;
    let results = bundle.join("results");
    // Logs of an earlier run would be taken for this one's.
    if results.exists() {
        std::fs::remove_dir_all(&results)
            .map_err(|error| format!("cannot clear {}: {error}", results.display()))?;
    }
    std::fs::create_dir_all(&results)
        .map_err(|error| format!("cannot make {}: {error}", results.display()))?;
    let devices = process::output(Command::new(bundle.join("bin/gatewarp")).args(["devices", "--json"]))?;
    println!("{devices}");
    write(&results.join("devices.json"), &devices)?;

    let required = std::env::var("GATEWARP_REQUIRE").unwrap_or_default();
    let mut outings = Vec::new();
    for backend in BACKENDS {
        match devices::find(&devices, backend)? {
            Presence::Found(device) => outings.extend(run_backend(&bundle, &results, backend, &device)?),
            Presence::Missing(reason) => {
                let is_required = required.split(',').any(|name| name.trim() == backend);
                outings.push(absent(backend, &reason, is_required));
            }
        }
    }
    if with_benches {
        for program in programs(&bundle.join("benches"))? {
            let stem = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let mut command = Command::new(&program);
            outings.push(as_one_test(
                &format!("bench/{stem}"),
                command.current_dir(&bundle).arg("--bench"),
                &results,
            )?);
        }
    }
    write(&results.join("junit.xml"), &junit::document(&outings))?;
    let summary = summary(&bundle, &outings);
    print!("\n{summary}");
    write(&results.join("summary.txt"), &summary)?;
    if outings.iter().any(|outing| outing.tally().failed > 0) {
        Err("there were failures".to_owned())
    } else {
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Outcome {
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn run_backend(bundle: &Path, results: &Path, backend: &str, device: &str) -> Outcome<Vec<Outing>> {
    let mut outings = Vec::new();
    let mut command = Command::new(bundle.join("bin/gatewarp"));
    command.args(["validate", "--device", device, "--json"]);
    outings.push(as_one_test(&format!("{backend}/validate"), &mut command, results)?);
    for program in programs(&bundle.join("tests"))? {
        let stem = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = format!("{backend}/{stem}");
        let mut log = log_file(results, &name)?;
        println!("\n--> {name}");
        let mut command = Command::new(&program);
        command.current_dir(bundle).arg(filter(&stem, backend, device)).env("GATEWARP_REQUIRE", backend);
        let outing = suites::run(&name, &mut command, SUITE_LIMIT, |line| {
            println!("{line}");
            // A full disk loses lines of the log; the results stand in the summary.
            let _ = writeln!(log, "{line}");
        });
        // Most programs have no test for this backend.
        if outing.tally() != Tally::default() {
            outings.push(outing);
        }
    }
    Ok(outings)
}

/// The tests of a program that belong to the device: suites name theirs `device::property`, and the library's unit tests
/// (the program without a second word in its name) are in modules named after the backend.
fn filter(stem: &str, backend: &str, device: &str) -> String {
    if stem.contains('-') { format!("{device}::") } else { format!("{backend}::") }
}

/// Runs a program that is no test harness; it counts as one test, and its log says the rest.
fn as_one_test(name: &str, command: &mut Command, results: &Path) -> Outcome<Outing> {
    let mut log = log_file(results, name)?;
    println!("\n--> {name}");
    let start = Instant::now();
    let ending = process::follow(command, SUITE_LIMIT, |line| {
        println!("{line}");
        // As above.
        let _ = writeln!(log, "{line}");
    });
    let verdict = match ending {
        Ok(process::Ending::Exited(true, _)) => Verdict::Passed,
        _ => Verdict::Failed,
    };
    Ok(single(name, "exit status", verdict, start.elapsed()))
}

/// A backend without hardware: skipped visibly, or failed where it was required.
fn absent(backend: &str, reason: &str, is_required: bool) -> Outing {
    if is_required {
        println!("FAILED {backend}: {reason}");
        let fault = Some(format!("required by GATEWARP_REQUIRE, but: {reason}"));
        return Outing { name: backend.to_owned(), output: Output::default(), time: Duration::ZERO, fault };
    }
    println!("SKIPPED {backend}: {reason}");
    single(backend, "all tests", Verdict::Skipped(reason.to_owned()), Duration::ZERO)
}

fn single(suite: &str, test: &str, verdict: Verdict, time: Duration) -> Outing {
    let tally = match verdict {
        Verdict::Passed => Tally { passed: 1, ..Tally::default() },
        Verdict::Failed => Tally { failed: 1, ..Tally::default() },
        Verdict::Skipped(_) => Tally { skipped: 1, ..Tally::default() },
    };
    let mut output = Output { tally, closings: 1, ..Output::default() };
    output.cases.push(Case { name: test.to_owned(), verdict });
    Outing { name: suite.to_owned(), output, time, fault: None }
}

fn programs(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let cannot = |error: std::io::Error| format!("cannot list {}: {error}", folder.display());
    let items = std::fs::read_dir(folder).map_err(cannot)?;
    let mut programs =
        items.map(|item| item.map(|item| item.path()).map_err(cannot)).collect::<Outcome<Vec<_>>>()?;
    programs.sort();
    Ok(programs)
}

fn log_file(results: &Path, name: &str) -> Outcome<std::fs::File> {
    let path = results.join(format!("{}.log", name.replace('/', "-")));
    std::fs::File::create(&path).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn summary(bundle: &Path, outings: &[Outing]) -> String {
    let revision = std::fs::read_to_string(bundle.join("revision")).unwrap_or_else(|_| "unknown".to_owned());
    let mut text = format!("gatewarp {}\n", revision.trim());
    let mut sum = Tally::default();
    for outing in outings {
        let (name, time, tally) = (&outing.name, outing.time.as_secs_f64(), outing.tally());
        text.push_str(&format!("{name:<40} {time:>8.1} s  {tally}\n"));
        sum += tally;
    }
    for (title, lines) in [
        ("SKIPPED", outings.iter().flat_map(Outing::skips).collect::<Vec<_>>()),
        ("FAILED", outings.iter().flat_map(Outing::failures).collect()),
    ] {
        lines.iter().for_each(|line| text.push_str(&format!("{title} {line}\n")));
    }
    text.push_str(&format!("gatewarp: {sum}\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_chosen_by_device_and_unit_tests_by_backend() {
        assert_eq!(filter("gatewarp-attention", "cuda", "cuda:0"), "cuda:0::");
        assert_eq!(filter("gatewarp", "wgpu", "wgpu:1"), "wgpu::");
    }

    #[test]
    fn an_absent_backend_is_skipped_or_fails_but_is_never_silent() {
        let skipped = absent("cuda", "no driver", false);
        assert_eq!(skipped.tally(), Tally { skipped: 1, ..Tally::default() });
        assert!(summary(Path::new("."), &[skipped]).contains("SKIPPED cuda: all tests: no driver"));
        let failed = absent("cuda", "no driver", true);
        assert_eq!(failed.tally(), Tally { failed: 1, ..Tally::default() });
        assert!(failed.failures().next().is_some_and(|line| line.contains("no driver")));
    }
}
