//! Reads what a Rust test program prints, whether its harness is libtest, libtest-mimic or rustdoc's.

use std::fmt;
use std::ops::AddAssign;

/// How many tests came to which end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ran and succeeded.
    pub passed: u64,
    /// Ran and failed.
    pub failed: u64,
    /// Did not run, and were listed as ignored.
    pub skipped: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// How one test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `ok`
    Passed,
    /// `FAILED`
    Failed,
    /// `ignored`, with the reason where one was printed.
    Skipped(String),
}

/// One test as its line tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Name, with the harness's kind in brackets where it prints one.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
}

/// Everything read from one program's output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// In the order printed.
    pub cases: Vec<Case>,
    /// Sum of the closing lines.
    pub tally: Tally,
    /// How many closing lines there were; 0 means that the program died before its end.
    pub closings: usize,
    /// Devices that the suite did not find, and why: `tests/support/devices.rs` prints a line for each, because
    /// libtest-mimic prints no reasons.
    pub absent: Vec<(String, String)>,
}

impl Output {
    /// Takes one line of output in.
    pub fn take(&mut self, line: &str) {
        if let Some(tally) = closing(line) {
            self.tally += tally;
            self.closings += 1;
        } else if let Some(case) = case(line) {
            self.cases.push(case);
        } else if let Some(absent) = absent(line) {
            self.absent.push(absent);
        }
    }

    /// The skipped tests with their reasons, where the harness or the suite gave one.
    pub fn skips(&self) -> impl Iterator<Item = (&str, &str)> {
        self.cases.iter().filter_map(|case| self.reason(case).map(|reason| (case.name.as_str(), reason)))
    }

    /// Why `case` was skipped, if it was; empty if nobody said.
    pub fn reason<'a>(&'a self, case: &'a Case) -> Option<&'a str> {
        let Verdict::Skipped(given) = &case.verdict else { return None };
        let device =
            case.name.split_once("::").map(|(before, _)| before.rsplit(' ').next().unwrap_or(before));
        let said = self.absent.iter().find(|(name, _)| Some(name.as_str()) == device);
        Some(if given.is_empty() { said.map_or("", |(_, reason)| reason) } else { given })
    }
}

/// `cuda: ignored, no NVIDIA driver`
fn absent(line: &str) -> Option<(String, String)> {
    let (device, reason) = line.split_once(": ignored, ")?;
    (!device.contains(' ')).then(|| (device.to_owned(), reason.to_owned()))
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`
fn closing(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |what: &str| {
        counts.split(';').find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<u64>().ok())
    };
    Some(Tally { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")? })
}

/// `test some::name ... ok`
fn case(line: &str) -> Option<Case> {
    // The last dots: what a test prints itself can stand between its name and its verdict.
    let (name, verdict) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let verdict = match verdict.trim() {
        "ok" => Verdict::Passed,
        "FAILED" => Verdict::Failed,
        other => {
            // libtest writes `ignored, reason`, libtest-mimic `ignored (reason)`.
            let reason = other.strip_prefix("ignored")?.trim_start_matches(',').trim();
            let inner = reason.strip_prefix('(').and_then(|reason| reason.strip_suffix(')'));
            Verdict::Skipped(inner.unwrap_or(reason).to_owned())
        }
    };
    Some(Case { name: name.trim().to_owned(), verdict })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Output {
        let mut output = Output::default();
        text.lines().for_each(|line| output.take(line));
        output
    }

    #[test]
    fn the_lines_of_libtest() {
        let output = read(
            "
running 4 tests
test tensor::tests::strides ... ok
test tensor::tests::panics - should panic ... ok
test device::tests::vulkan ... ignored, no adapter
test device::tests::broken ... FAILED

failures:
    device::tests::broken

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
",
        );
        assert_eq!(output.tally, Tally { passed: 2, failed: 1, skipped: 1 });
        assert_eq!(output.closings, 1);
        let verdicts: Vec<_> = output.cases.into_iter().map(|case| case.verdict).collect();
        let skipped = Verdict::Skipped("no adapter".into());
        assert_eq!(verdicts, [Verdict::Passed, Verdict::Passed, skipped, Verdict::Failed]);
    }

    #[test]
    fn the_lines_of_libtest_mimic() {
        let output = read(
            "
test [wgpu] permuting_keys   ... ok
test [cuda] permuting_keys   ... ignored (no NVIDIA driver)

test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.33s
",
        );
        assert_eq!(output.cases[0].name, "[wgpu] permuting_keys");
        assert_eq!(output.cases[1].verdict, Verdict::Skipped("no NVIDIA driver".into()));
        assert_eq!(output.tally, Tally { passed: 1, failed: 0, skipped: 1 });
    }

    #[test]
    fn a_missing_device_gives_its_tests_their_reason() {
        let output = read(
            "
cuda: ignored, no NVIDIA driver
test [missing] cuda::every_head_dim ... ignored
test           wgpu:0::every_head_dim ... ignored
",
        );
        let skips: Vec<_> = output.skips().collect();
        assert_eq!(
            skips,
            [("[missing] cuda::every_head_dim", "no NVIDIA driver"), ("wgpu:0::every_head_dim", "")]
        );
    }

    #[test]
    fn closing_lines_add_up() {
        let line =
            "test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured; 9 filtered out; finished in 1s";
        let output = read(&format!("{line}\n{line}\n"));
        assert_eq!(output.tally.to_string(), "10 passed, 0 failed, 4 skipped");
        assert_eq!(output.closings, 2);
    }

    #[test]
    fn other_lines_are_no_tests() {
        assert_eq!(read("test is what this does\ntest result: strange\nhello ... ok\n"), Output::default());
    }
}
