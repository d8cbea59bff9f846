//! `cargo xtask`: everything that is done to the repository rather than by it.
//!
//! | command | does |
//! |---|---|
//! | `test [--quick]` | the one test command: setup, formatting, lints, docs, kernels, shaders, suites, doctests, validation |
//! | `setup` | makes the machine ready for `test`, or says exactly what to install |
//! | `kernels [--ptx]` | compiles every CUDA source; registers, spills, shared memory, notices |
//! | `shaders` | validates every WGSL variant with naga and with Tint |
//! | `gpu-bundle` | a folder to carry to a machine with a GPU |
//! | `bench-report` | `benches/record/*.csv` as a Markdown table |

mod bench_report;
mod bundle;
mod kernels;
mod libtest;
mod nvrtc;
mod occupancy;
mod process;
mod ptxas;
mod setup;
mod shaders;
mod suites;
mod test;
mod workspace;

use std::process::ExitCode;

/// What a command returns: `Err` is the sentence a person reads.
type Outcome<T = ()> = Result<T, String>;

const USAGE: &str = "usage: cargo xtask <command>

  test [--quick]    everything a change must pass; --quick leaves out documentation, doctests and validation
  setup             make this machine ready for `test`; installs when root or CI=true, else says what is lacking
  kernels [--ptx]   compile every CUDA kernel for every architecture; --ptx also writes target/ptx/
  shaders           validate every WGSL variant with naga and with Tint
  gpu-bundle        make target/gpu-bundle/, to be run on a machine with a GPU
  bench-report      print benches/record/*.csv as a Markdown table
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        // The summary of the tests says it all; nothing is printed after its last line.
        ["test"] => return exit_code(test::run(test::Extent::Full)),
        ["test", "--quick"] => return exit_code(test::run(test::Extent::Quick)),
        ["setup"] => setup::prepare().map(|_| ()),
        ["kernels"] => {
            setup::nvrtc::obtain().and_then(|library| kernels::run(&library, kernels::Ptx::Discard))
        }
        ["kernels", "--ptx"] => {
            setup::nvrtc::obtain().and_then(|library| kernels::run(&library, kernels::Ptx::Write))
        }
        ["shaders"] => setup::tint::obtain().and_then(|tint| shaders::run(&tint)),
        ["gpu-bundle"] => bundle::make(),
        // Called by the bundle's run.sh, on a machine that has neither this repository nor cargo.
        ["run-bundle", folder] => bundle::runner::run(folder.as_ref(), false),
        ["run-bundle", folder, "--bench"] => bundle::runner::run(folder.as_ref(), true),
        ["bench-report"] => bench_report::run(),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => Err(format!("unknown arguments {words:?}\n\n{USAGE}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn exit_code(success: bool) -> ExitCode {
    if success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
