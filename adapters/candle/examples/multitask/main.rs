//! Trains one transformer layer on a mix of tasks in four variants, and compares them on held-out data; and what a model is used for
//! afterwards: checkpoints, predictions, new tasks, learning from a stream.
//!
//! `cargo run --release -p gatewarp-candle --example multitask` learns the five synthetic tasks; `--data FILE.jsonl` learns
//! from records `{"tokens":[…],"task":"name","label":k}`. Writes `report.html`. `--help` has the rest.

#[path = "app.rs"]
mod app;

use anyhow::Result;
use app::arguments::Arguments;
use app::modes;
use clap::Parser;

/// The layer is small: a thread for each run beats several threads inside one, and candle's pool of spinning threads is ten times
/// slower still when the cores are busy. A user's own setting stands.
fn one_thread_a_run() {
    for name in ["CANDLE_NUM_THREADS", "RAYON_NUM_THREADS"] {
        if std::env::var_os(name).is_none() {
            // SAFETY: called first in `main`, so no other thread reads the environment.
            unsafe { std::env::set_var(name, "1") };
        }
    }
}

fn main() -> Result<()> {
    one_thread_a_run();
    match run(&Arguments::parse()) {
        // Whoever reads what is written has enough.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        result => result,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn run(arguments: &Arguments) -> Result<()> {
    arguments.check()?;
    if let Some(count) = arguments.emit {
        return modes::emit(arguments, count, &mut std::io::stdout().lock());
    }
    if arguments.stream {
        return modes::stream(arguments, std::io::stdin().lock(), &mut std::io::stdout().lock());
    }
    if let Some(path) = &arguments.predict {
        return modes::predict(arguments, path, &mut std::io::stdout().lock());
    }
    match &arguments.resume {
        Some(checkpoint) => modes::resume(arguments, checkpoint),
        None => modes::compare(arguments),
    }
}
