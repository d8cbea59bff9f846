//! `gatewarp simulate`.

use crate::draw::draw;
use crate::histogram::histogram;
use crate::npy;
use crate::simulate_run::{Job, Results, Samples, Timing};
use crate::{Outcome, json};
use gatewarp::Device;
use gatewarp::statevec::PauliSum;
use gatewarp::statevec::qasm::{self, Qasm};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// An OpenQASM 2.0 or 3.0 program
    #[arg(value_name = "FILE.qasm")]
    file: PathBuf,
    /// Measure so often, for each sample
    #[arg(long, value_name = "N")]
    shots: Option<u64>,
    /// Seed of the shots
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// Device to run on: cpu, wgpu:N, cuda:N, cuda-emulated [default: GATEWARP_DEVICE, else the best there is]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Width of the amplitudes
    #[arg(long, value_enum, default_value_t = Precision::C64)]
    precision: Precision,
    /// Values of the program's inputs: a .npy file [samples, inputs], f32 or f64, in order of declaration
    #[arg(long, value_name = "ANGLES.npy")]
    inputs: Option<PathBuf>,
    /// Observables, one Pauli sum a line: 0.5*Z0 + 0.25*X1*Z3
    #[arg(long, value_name = "FILE")]
    observables: Option<PathBuf>,
    /// Write the final states here, [2^n] or [samples, 2^n] complex
    #[arg(long, value_name = "OUT.npy")]
    statevector: Option<PathBuf>,
    /// Write the probabilities of the basis states here, [2^n] or [samples, 2^n]
    #[arg(long, value_name = "OUT.npy")]
    probabilities: Option<PathBuf>,
    /// Write the observables' expectations here, [samples, observables]
    #[arg(long, value_name = "OUT.npy", requires = "observables")]
    expectations: Option<PathBuf>,
    /// Write the derivative of the sum of the expectations by the inputs here, [samples, inputs]
    #[arg(long, value_name = "OUT.npy", requires = "observables")]
    gradients: Option<PathBuf>,
    /// Time so many runs and report medians
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    repeat: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the circuit as a diagram
    #[arg(long)]
    draw: bool,
    /// Print what the compiler made of the circuit
    #[arg(long)]
    explain: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Precision {
    /// Two f32
    C64,
    /// Two f64
    C128,
}

impl Precision {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::C64 => "c64",
            Self::C128 => "c128",
        }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    file: String,
    device: String,
    precision: &'static str,
    qubits: usize,
    bits: usize,
    operations: usize,
    inputs: Vec<String>,
    samples: usize,
    observables: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shots: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    /// One map, or one a sample if inputs were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<Counts<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expectations: Option<Vec<Vec<f64>>>,
    written: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repeat: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expectation_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gradient_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    diagram: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Counts<'a> {
    One(&'a BTreeMap<String, u64>),
    Many(&'a [BTreeMap<String, u64>]),
}

fn read_text(path: &Path) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..good].iter().filter(|&&byte| byte == b'\n').count();
        format!("{}:{line}: not UTF-8 text", path.display())
    })
}

/// Observables of a file, one a line; `#` starts a comment.
fn read_observables(path: &Path, qubits: usize) -> Result<Vec<PauliSum>, String> {
    let shown = path.display();
    let mut list = Vec::new();
    for (number, line) in read_text(path)?.lines().enumerate() {
        let text = line.split('#').next().unwrap_or("").trim();
        if text.is_empty() {
            continue;
        }
        let place = format!("{shown}:{}", number + 1);
        let sum: PauliSum = text.parse().map_err(|error| format!("{place}: {error}"))?;
        for (_, string) in sum.terms() {
            // A string that fits is one that a circuit of this size takes.
            if let Some(qubit) = highest_qubit(&string.to_string()).filter(|&qubit| qubit >= qubits) {
                return Err(format!("{place}: `{text}` acts on qubit {qubit}, the program has {qubits}"));
            }
        }
        list.push(sum);
    }
    if list.is_empty() {
        return Err(format!("{shown}: no observable; write one a line, as in `0.5*Z0 + 0.25*X1*Z3`"));
    }
    Ok(list)
}

/// From the text of a string, `X1*Z3`; the identity is `1`.
fn highest_qubit(string: &str) -> Option<usize> {
    string.split('*').filter_map(|factor| factor.strip_prefix(['X', 'Y', 'Z'])?.parse().ok()).max()
}

fn total(registers: &[qasm::Register]) -> usize {
    registers.last().map_or(0, |last| last.start + last.len)
}

/// The given inputs, checked against the program.
fn read_inputs(arguments: &Arguments, program: &Qasm) -> Result<Samples, String> {
    let count = total(program.inputs());
    let Some(path) = &arguments.inputs else {
        return Ok(Samples { count: 1, given: false, values: npy::Reals::Single(Vec::new()) });
    };
    let matrix = npy::read(path)?;
    if matrix.columns != count {
        return Err(format!(
            "{}: {} columns, the program declares {count} inputs{}",
            path.display(),
            matrix.columns,
            listed(program)
        ));
    }
    if let Some((at, value)) = matrix.values.first_not_finite() {
        let (row, column) = (at / count.max(1), at % count.max(1));
        return Err(format!("{}: row {row}, column {column} is {value}; inputs are finite", path.display()));
    }
    Ok(Samples { count: matrix.rows, given: true, values: matrix.values })
}

/// ` (x, w[3])` for the inputs of the program.
fn listed(program: &Qasm) -> String {
    let name = |register: &qasm::Register| match register.len {
        1 => register.name.clone(),
        len => format!("{}[{len}]", register.name),
    };
    let names: Vec<String> = program.inputs().iter().map(name).collect();
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}

fn device(spec: Option<&str>) -> Result<Device, String> {
    let found = match spec {
        Some(spec) => spec.parse(),
        None => Device::best(),
    };
    found.map_err(|error| format!("--device: {error}\nsee `gatewarp devices` for what this machine has"))
}

/// Columns of the terminal: `COLUMNS`, what the terminal says, or 100.
fn width() -> usize {
    let asked = std::env::var("COLUMNS").ok().and_then(|text| text.trim().parse().ok());
    #[cfg(unix)]
    let asked = asked.or_else(|| {
        let stdout = std::io::stdout();
        let size = stdout.is_terminal().then(|| rustix::termios::tcgetwinsize(&stdout).ok()).flatten()?;
        Some(usize::from(size.ws_col))
    });
    asked.filter(|&columns| columns > 0).unwrap_or(100).clamp(20, 1000)
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let shown = arguments.file.display().to_string();
    let program = qasm::parse(&read_text(&arguments.file)?, &shown).map_err(|error| error.to_string())?;
    if total(program.qubits()) == 0 {
        return Err(format!("{shown}: the program declares no qubits; declare a register, `qubit[n] q;`"));
    }
    let observables = match &arguments.observables {
        Some(path) => read_observables(path, total(program.qubits()))?,
        None => Vec::new(),
    };
    let samples = read_inputs(arguments, &program)?;
    let diagram = arguments.draw.then(|| draw(&program, width()));
    // A diagram needs no values.
    let wanted = arguments.shots.is_some()
        || arguments.statevector.is_some()
        || arguments.probabilities.is_some()
        || !observables.is_empty()
        || arguments.repeat.is_some();
    let runs = wanted || !(arguments.draw || arguments.explain);
    if runs && !samples.given && total(program.inputs()) > 0 {
        let count = total(program.inputs());
        return Err(format!(
            "{shown}: the program declares {count} inputs{}; give their values with --inputs ANGLES.npy, an array [samples, {count}]",
            listed(&program)
        ));
    }
    let device = device(arguments.device.as_deref())?;
    let job = Job {
        program: &program,
        device: &device,
        precision: arguments.precision,
        samples: &samples,
        observables: &observables,
        shots: arguments.shots,
        seed: arguments.seed,
        states: arguments.statevector.as_deref(),
        probabilities: arguments.probabilities.as_deref(),
        expectations: arguments.expectations.as_deref(),
        gradients: arguments.gradients.as_deref(),
        repeat: arguments.repeat,
        explain: arguments.explain,
        runs,
        shows_state: runs && !wanted && !arguments.json,
    };
    let results = job.run().map_err(|message| format!("{shown}: {message}"))?;
    let text = if arguments.json {
        json(&report(arguments, &job, &results, diagram.as_deref()))?
    } else {
        plain(&job, &results, diagram.as_deref())
    };
    Ok((text, ExitCode::SUCCESS))
}

fn report<'a>(
    arguments: &Arguments,
    job: &Job<'_>,
    results: &'a Results,
    diagram: Option<&'a str>,
) -> Report<'a> {
    let outputs = [
        ("statevector", &arguments.statevector),
        ("probabilities", &arguments.probabilities),
        ("expectations", &arguments.expectations),
        ("gradients", &arguments.gradients),
    ];
    let written =
        outputs.into_iter().filter_map(|(name, path)| Some((name, path.as_ref()?.display().to_string())));
    let counts = results.counts.as_deref().map(|counts| match counts {
        [one] if !job.samples.given => Counts::One(one),
        many => Counts::Many(many),
    });
    let inputs = total(job.program.inputs());
    let seconds = |timing: Option<Timing>| timing.map(|timing| timing.median);
    Report {
        file: arguments.file.display().to_string(),
        device: job.device.name(),
        precision: job.precision.name(),
        qubits: total(job.program.qubits()),
        bits: total(job.program.bits()),
        operations: job.program.operations().len(),
        inputs: (0..inputs).map(|input| job.program.input_name(input)).collect(),
        samples: job.samples.count,
        observables: job.observables.iter().map(ToString::to_string).collect(),
        shots: arguments.shots,
        seed: arguments.shots.map(|_| arguments.seed),
        counts,
        expectations: results.expectations.clone(),
        written: written.collect(),
        repeat: arguments.repeat,
        run_s: seconds(results.run),
        expectation_s: seconds(results.expectation),
        gradient_s: seconds(results.gradient),
        diagram,
        plan: results.plan.as_deref(),
    }
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Samples whose counts or expectations are printed; files and JSON have them all.
const SHOWN: usize = 8;

fn plain(job: &Job<'_>, results: &Results, diagram: Option<&str>) -> String {
    let mut text = String::new();
    let program = job.program;
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{}, {}, {}, {} on {} in {}",
        plural(total(program.qubits()), "qubit"),
        plural(total(program.bits()), "bit"),
        plural(program.operations().len(), "operation"),
        plural(job.samples.count, "sample"),
        job.device.name(),
        job.precision.name(),
    );
    for part in [diagram, results.plan.as_deref()].into_iter().flatten() {
        let _ = writeln!(text, "\n{part}");
    }
    if let Some(state) = &results.state {
        let _ = writeln!(text, "\n{state}");
    }
    let several = job.samples.given;
    let heading = |sample: usize| if several { format!("sample {sample}\n") } else { String::new() };
    if let Some(rows) = &results.expectations {
        for (sample, row) in rows.iter().enumerate().take(SHOWN) {
            let _ = write!(text, "\n{}", heading(sample));
            for (observable, value) in job.observables.iter().zip(row) {
                let _ = writeln!(text, "{value:>12.8}  {observable}");
            }
        }
        if rows.len() > SHOWN {
            let _ = writeln!(
                text,
                "\nand {} more samples; --expectations OUT.npy writes all",
                rows.len() - SHOWN
            );
        }
    }
    if let Some(counts) = &results.counts {
        for (sample, counts) in counts.iter().enumerate().take(SHOWN) {
            let counts: Vec<(String, u64)> =
                counts.iter().map(|(bits, count)| (bits.clone(), *count)).collect();
            let _ = write!(text, "\n{}{}", heading(sample), histogram(&counts, width()));
        }
        if counts.len() > SHOWN {
            let _ = writeln!(text, "\nand {} more samples; --json prints all", counts.len() - SHOWN);
        }
    }
    let timings =
        [("run", results.run), ("expectations", results.expectation), ("gradient", results.gradient)];
    for (name, timing) in timings {
        if let Some(Timing { median, least }) = timing {
            let _ =
                writeln!(text, "{name:<13} {:>12.6} ms median, {:.6} ms least", median * 1e3, least * 1e3);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observables_are_read_line_by_line() -> Result<(), String> {
        let path = std::env::temp_dir().join(format!("gatewarp-observables-{}", std::process::id()));
        let check = |text: &str| -> Result<Vec<PauliSum>, String> {
            std::fs::write(&path, text).map_err(|error| error.to_string())?;
            read_observables(&path, 4)
        };
        let list = check("# two\n0.5*Z0 + 0.25*X1*Z3 # mixed\n\n-X1\nI\n  Z0\n2\n")?;
        let shown: Vec<String> = list.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["0.5*Z0 + 0.25*X1*Z3", "-1*X1", "1*1", "1*Z0", "2*1"]);
        for (text, line, says) in [
            ("Z0\nQ1\n", 2, "not a Pauli"),
            ("Z9", 1, "qubit 9"),
            ("Z0*X0", 1, "twice"),
            ("1e999", 1, "inf"),
            ("Z4", 1, "has 4"),
        ] {
            let error = check(text).err().ok_or(format!("{text} was read"))?;
            assert!(error.contains(&format!(":{line}: ")) && error.contains(says), "{error}");
        }
        assert!(check("# nothing\n").is_err());
        std::fs::write(&path, [b'Z', b'0', b'\n', 0xff]).map_err(|error| error.to_string())?;
        assert!(read_observables(&path, 4).err().is_some_and(|error| error.contains(":2: not UTF-8")));
        std::fs::remove_file(&path).map_err(|error| error.to_string())
    }
}
