//! The `gatewarp` command: which devices are here, whether they compute what they should, attention of tensors in a file, and what a
//! circuit does.
//!
//! Exit codes: 0 all is well, 1 a validation failed, 2 the command cannot be carried out as given.

mod attention;
mod devices;
mod draw;
mod histogram;
mod npy;
mod simulate;
mod simulate_run;
mod tensors;
mod validate;

use clap::{Parser, Subcommand};
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "gatewarp",
    version,
    about = "Computes attention, simulates quantum circuits; looks at and checks the devices gatewarp can run on"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compute attention of the tensors in a safetensors file, and its gradients
    Attention(Box<attention::Arguments>),
    /// List the devices of this machine, the one taken by default, and why others are not
    Devices(devices::Arguments),
    /// Run an OpenQASM program: states, probabilities, expectations, gradients, shots
    Simulate(Box<simulate::Arguments>),
    /// Check a device against plain f64 computations; exit code 1 if it fails
    Validate(validate::Arguments),
}

/// What a command prints and how it ends, or why it could not be carried out.
pub(crate) type Outcome = Result<(String, ExitCode), String>;

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Attention(arguments) => attention::run(&arguments),
        Command::Devices(arguments) => devices::run(&arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Validate(arguments) => validate::run(&arguments),
    };
    match outcome {
        Ok((text, code)) => match std::io::stdout().write_all(text.as_bytes()) {
            // Whoever reads the output may stop early, as in `gatewarp devices | head -1`.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => fail(&error.to_string()),
            _ => code,
        },
        Err(message) => fail(&message),
    }
}

fn fail(message: &str) -> ExitCode {
    // With stderr gone there is nobody left to tell; the exit code remains.
    let _ = writeln!(std::io::stderr(), "gatewarp: {message}");
    ExitCode::from(2)
}

/// A value as indented JSON with a final newline.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<String, String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    Ok(text + "\n")
}
