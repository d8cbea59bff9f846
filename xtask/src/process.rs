//! Runs child programs: plainly, for their output, or line by line with a deadline.

use crate::Outcome;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A command line as a person would type it: the program without its folder.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Runs `command` with this program's own output streams; its line is printed first.
pub fn run(command: &mut Command) -> Outcome {
    let line = shown(command);
    println!("$ {line}");
    let status =
        command.stdin(Stdio::null()).status().map_err(|error| format!("cannot start `{line}`: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{line}` failed: {status}")) }
}

/// Standard output of `command`, which must succeed; its standard error is passed through.
pub fn output(command: &mut Command) -> Outcome<String> {
    let line = shown(command);
    let result = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start `{line}`: {error}"))?;
    if !result.status.success() {
        return Err(format!("`{line}` failed: {}", result.status));
    }
    String::from_utf8(result.stdout).map_err(|error| format!("`{line}` printed no UTF-8: {error}"))
}

/// Standard output of `command`, or `None` where it cannot be started or fails. Says nothing.
pub fn probe(command: &mut Command) -> Option<String> {
    let result = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    result.status.success().then(|| String::from_utf8_lossy(&result.stdout).trim().to_owned())
}

/// How a child that was followed line by line came to its end.
pub enum Ending {
    /// It exited; `true` if with status 0.
    Exited(bool, String),
    /// It outlived its deadline and was killed.
    TimedOut,
}

/// Runs `command`, hands every line of its output (both streams) to `line` as it comes, and kills it after `limit`.
pub fn follow(command: &mut Command, limit: Duration, mut line: impl FnMut(&str)) -> Outcome<Ending> {
    let name = shown(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start `{name}`: {error}"))?;
    let (sender, lines) = mpsc::channel();
    for stream in [stdout_of(&mut child), stderr_of(&mut child)].into_iter().flatten() {
        let sender = sender.clone();
        std::thread::spawn(move || forward(stream, &sender));
    }
    drop(sender);
    let deadline = Instant::now() + limit;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(text) => line(&text),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                // A failure to kill means that the child has just ended by itself.
                let _ = child.kill();
                child.wait().map_err(|error| format!("cannot wait for `{name}`: {error}"))?;
                return Ok(Ending::TimedOut);
            }
        }
    }
    let status = child.wait().map_err(|error| format!("cannot wait for `{name}`: {error}"))?;
    Ok(Ending::Exited(status.success(), status.to_string()))
}

fn stdout_of(child: &mut Child) -> Option<Box<dyn Read + Send>> {
    child.stdout.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>)
}

fn stderr_of(child: &mut Child) -> Option<Box<dyn Read + Send>> {
    child.stderr.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>)
}

/// Sends each line of `stream` on; ends with the stream, or when nobody listens any more.
fn forward(stream: Box<dyn Read + Send>, sender: &mpsc::Sender<String>) {
    let mut reader = BufReader::new(stream);
    let mut bytes = Vec::new();
    while matches!(reader.read_until(b'\n', &mut bytes), Ok(count) if count > 0) {
        let text = String::from_utf8_lossy(&bytes);
        if sender.send(text.trim_end_matches(['\n', '\r']).to_owned()).is_err() {
            return;
        }
        bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follow_hands_over_lines_of_both_streams() {
        let mut lines = Vec::new();
        let ending =
            follow(Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"]), SECONDS_10, |line| {
                lines.push(line.to_owned());
            });
        lines.sort();
        assert_eq!(lines, ["one", "two"]);
        assert!(matches!(ending, Ok(Ending::Exited(false, _))));
    }

    #[test]
    fn follow_kills_what_outlives_its_limit() {
        let start = Instant::now();
        let ending = follow(Command::new("sleep").arg("30"), Duration::from_millis(50), |_| ());
        assert!(matches!(ending, Ok(Ending::TimedOut)));
        assert!(start.elapsed() < SECONDS_10);
    }

    #[test]
    fn a_program_that_does_not_exist_is_an_error() {
        assert!(run(&mut Command::new("gatewarp-no-such-program")).is_err());
        assert_eq!(probe(&mut Command::new("gatewarp-no-such-program")), None);
    }

    const SECONDS_10: Duration = Duration::from_secs(10);
}
