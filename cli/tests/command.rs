//! The command as a user runs it: what it prints, where, and its exit codes.

use gatewarp::conformance;
use serde_json::Value;
use std::process::{Command, Output};

fn gatewarp(arguments: &[&str], device: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewarp"));
    command.args(arguments).env_remove("GATEWARP_DEVICE");
    if let Some(device) = device {
        command.env("GATEWARP_DEVICE", device);
    }
    command.output().expect("the command runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// Exit code 2, a reason on stderr, and nothing on stdout that a script could take for a result.
fn refused(arguments: &[&str], device: Option<&str>, reason: &str) {
    let output = gatewarp(arguments, device);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
    assert!(stderr(&output).contains(reason), "{arguments:?}: {}", stderr(&output));
    assert_eq!(stdout(&output), "", "{arguments:?}");
}

#[test]
fn devices_lists_the_cpu_and_marks_what_is_taken() {
    let output = gatewarp(&["devices"], None);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text.lines().filter(|line| line.starts_with('*')).count(), 1, "{text}");
    for backend in ["cpu", "wgpu", "cuda"] {
        assert!(text.lines().any(|line| line[2..].starts_with(backend)), "no word on {backend}: {text}");
    }
}

#[test]
fn devices_as_json_says_why_one_is_not_there() {
    let output = gatewarp(&["devices", "--json"], None);
    let list: Vec<Value> = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(list.iter().filter(|device| device["taken"] == true).count(), 1);
    let cpu = list.iter().find(|device| device["device"] == "cpu").expect("the CPU is always there");
    assert!(cpu["unavailable"].is_null() && cpu["software"] == false);
    for device in &list {
        let usable = device["unavailable"].is_null();
        assert!(
            usable || device["unavailable"].as_str().is_some_and(|reason| !reason.is_empty()),
            "{device}"
        );
        assert!(usable || device["taken"] == false, "{device}");
    }
}

#[test]
fn validate_prints_a_row_for_each_operation() {
    let output = gatewarp(&["validate", "--device", "cpu", "--cases", "3"], None);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    for operation in conformance::operations() {
        let row = text.lines().find(|line| line.split_whitespace().next() == Some(operation));
        let cells: Vec<&str> =
            row.unwrap_or_else(|| panic!("no row for {operation}: {text}")).split_whitespace().collect();
        assert_eq!(cells[1..3], ["3", "0"], "{text}");
        assert!(stderr(&output).contains(operation), "no progress on stderr");
    }
    assert!(text.ends_with("passed\n"), "{text}");
}

#[test]
fn validate_as_json_is_complete_and_repeatable() {
    let run = |seed: &str| -> Value {
        let output =
            gatewarp(&["validate", "--device", "cpu", "--cases", "2", "--json", "--seed", seed], None);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_str(&stdout(&output)).expect("JSON")
    };
    let (first, again, other) = (run("1"), run("1"), run("2"));
    assert_eq!(first["passed"], true);
    assert_eq!(first["failures"].as_array().map(Vec::len), Some(0));
    let rows = first["operations"].as_array().expect("a list");
    let names: Vec<&str> = rows.iter().filter_map(|row| row["operation"].as_str()).collect();
    assert_eq!(names, conformance::operations().collect::<Vec<_>>());
    let worst = |value: &Value| -> Vec<f64> {
        value["operations"].as_array().into_iter().flatten().filter_map(|row| row["worst"].as_f64()).collect()
    };
    assert!(
        worst(&first).iter().any(|&worst| worst > 0.0) && worst(&first).iter().all(|&worst| worst <= 1.0)
    );
    assert_eq!(worst(&first), worst(&again));
    assert_ne!(worst(&first), worst(&other));
}

#[test]
fn the_device_comes_from_the_environment_unless_it_is_given() {
    let few = ["validate", "--cases", "1", "--filter", "attention_forward"];
    assert_eq!(gatewarp(&few, Some("cpu")).status.code(), Some(0));
    refused(&few, Some("abacus"), "`abacus`");
    let given = [&few[..], &["--device", "cpu"]].concat();
    assert_eq!(gatewarp(&given, Some("abacus")).status.code(), Some(0));
}

#[test]
fn what_cannot_be_done_is_said_on_stderr() {
    refused(&["validate", "--device", "abacus"], None, "`abacus` is not one of cpu, wgpu:N, cuda:N");
    refused(&["validate", "--device", "cuda:4096"], None, "cuda is not available");
    refused(&["validate", "--filter", "levitate"], None, "attention_forward");
    refused(&["validate", "--cases", "0"], None, "--cases");
    refused(&["validate", "--cases", "many"], None, "--cases");
    refused(&["levitate"], None, "levitate");
}
