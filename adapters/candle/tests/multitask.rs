//! The training example gives the same losses whatever backend attends, and says what is wrong with a user's file.

// The example's own main uses what these tests do not.
#![allow(dead_code)]

#[path = "../examples/multitask/data.rs"]
mod data;
#[path = "../examples/multitask/metrics.rs"]
mod metrics;
#[path = "../examples/multitask/model.rs"]
mod model;
#[path = "../examples/multitask/train.rs"]
mod train;

use model::{Config, Variant};
use std::io::Write;
use train::{Run, Schedule};

const STEPS: usize = 20;

fn losses(variant: Variant, device: gatewarp::Device) -> Run {
    let data = data::synthetic(400, 50, 3);
    let config = Config { device, ..Config::default() };
    let schedule = Schedule { steps: STEPS, batch: 16, learning_rate: 4e-3, evaluate_every: STEPS };
    train::train(variant, &config, &data, &schedule, 1, || ()).unwrap()
}

/// The device, or `None` where it is missing and `GATEWARP_REQUIRE` does not name it.
fn device(spec: &str) -> Option<gatewarp::Device> {
    match spec.parse() {
        Ok(device) => Some(device),
        Err(error) => {
            let required = std::env::var("GATEWARP_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|name| name == spec), "{spec} is required: {error}");
            eprintln!("skipped on {spec}: {error}");
            None
        }
    }
}

#[test]
fn twenty_steps_give_the_same_losses_on_every_backend() {
    for variant in [Variant::TaskEmbedding, Variant::Gated] {
        let cpu = losses(variant, gatewarp::Device::cpu());
        assert!(cpu.losses[STEPS - 1] < cpu.losses[0], "{variant:?} does not learn: {:?}", cpu.losses);
        for spec in ["wgpu", "cuda-emulated"] {
            let Some(device) = device(spec) else { continue };
            let other = losses(variant, device);
            for (step, (a, b)) in cpu.losses.iter().zip(&other.losses).enumerate() {
                // Rounding differs by some 1e-7 a step and twenty AdamW steps amplify it; a wrong gradient shows at 1e-2.
                assert!((a - b).abs() <= 1e-3, "{variant:?} on {spec}, step {step}: {a} on the CPU, {b}");
            }
            assert!((cpu.computed - other.computed).abs() < 1e-12);
        }
    }
}

#[test]
fn a_gated_model_computes_two_of_eight_heads() {
    let run = losses(Variant::Gated, gatewarp::Device::cpu());
    assert_eq!(run.computed, 0.25);
    for gates in run.gates.unwrap() {
        assert_eq!(gates.iter().filter(|&&gate| gate > 0.0).count(), 2);
        assert!((gates.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
}

fn file(lines: &[&str]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for line in lines {
        writeln!(file, "{line}").unwrap();
    }
    file
}

#[test]
fn a_malformed_record_is_named_by_its_line() {
    let good = r#"{"tokens":[1,2],"task":"a","label":0}"#;
    let wrong = [
        (r#"{"tokens":[1,2],"task":"a"}"#, "label"),
        (r#"{"tokens":[],"task":"a","label":0}"#, "empty"),
        (r#"{"tokens":[1,-2],"task":"a","label":0}"#, "u32"),
        (r#"{"tokens":[1,2],"task":"a","label":0"#, "EOF"),
    ];
    for (line, what) in wrong {
        let file = file(&[good, good, line]);
        let message = format!("{:#}", data::from_file(file.path(), 1).err().unwrap());
        assert!(message.contains(":3") && message.contains(what), "{message}");
    }
    let few = file(&[good; 3]);
    assert!(format!("{:#}", data::from_file(few.path(), 1).err().unwrap()).contains("at least 10"));
    assert!(data::from_file(std::path::Path::new("no such file"), 1).is_err());
}

#[test]
fn a_users_file_trains_with_sequences_of_different_lengths() {
    let lines: Vec<String> = (0..60)
        .map(|i| {
            let tokens: Vec<u32> = (0..1 + i % 5).map(|t| 100 + (i * 7 + t) % 9).collect();
            format!(r#"{{"tokens":{tokens:?},"task":"t{}","label":{}}}"#, i % 2, i % 3)
        })
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let file = file(&lines);
    let data = data::from_file(file.path(), 1).unwrap();
    assert_eq!((data.train.len(), data.held_out.len()), (48, 12));
    assert_eq!(
        (data.info.vocabulary, data.info.classes, data.info.longest, data.info.tasks.len()),
        (9, 3, 5, 2)
    );
    let schedule = Schedule { steps: 3, batch: 8, learning_rate: 1e-3, evaluate_every: 1 };
    let run = train::train(Variant::Gated, &Config::default(), &data, &schedule, 1, || ()).unwrap();
    assert!(run.losses.iter().all(|loss| loss.is_finite()));
    assert_eq!(run.curve.len(), 3);
}

#[test]
fn metrics_match_a_table_worked_by_hand() {
    // truth 0: predicted 0, 0, 1; truth 1: predicted 1; class 2 never occurs.
    let mut confusion = metrics::Confusion::new(3);
    for (truth, prediction) in [(0, 0), (0, 0), (0, 1), (1, 1)] {
        confusion.add(truth, prediction);
    }
    assert_eq!(confusion.accuracy(), Some(0.75));
    // F1 of class 0 is 4/5, of class 1 is 2/3.
    assert!((confusion.macro_f1().unwrap() - (0.8 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
    assert_eq!(metrics::Confusion::new(3).accuracy(), None);
    let summary = metrics::Summary::of([1.0, 2.0, 3.0]);
    assert_eq!((summary.mean, summary.deviation), (2.0, 1.0));
    assert_eq!(format!("{summary:.1}"), "2.0 ± 1.0");
}
