//! Learning from a stream: predict, then learn; a malformed line is named and costs nothing.

use super::app::arguments::Arguments;
use super::app::data::{Batch, Info};
use super::app::model::{Config, Variant};
use super::app::stream::{Options, Tally, learn};
use super::app::train::Run;
use super::app::{checkpoint, modes};
use super::{bits, options};
use clap::Parser;
use gatewarp::Device;
use std::path::PathBuf;

fn new_run() -> Run {
    Run::new(options(Variant::Gated, 1), &Config::default(), &Info::default()).unwrap()
}

fn stream_options(strict: bool, save: Option<PathBuf>) -> Options {
    Options { batch: 4, rate: 4e-3, every: 8, strict, json: true, save }
}

/// Learns the text; the run, the tally or error, and the lines of both outputs.
fn stream(
    run: &mut Run,
    text: &[u8],
    options: &Options,
) -> (anyhow::Result<Tally>, Vec<String>, Vec<String>) {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let result = learn(run, text, options, &mut output, &mut errors);
    let lines = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().lines().map(String::from).collect();
    (result, lines(output), lines(errors))
}

/// What `--emit` writes.
fn emitted(count: usize) -> Vec<String> {
    let arguments = Arguments::parse_from(["multitask", "--emit", &count.to_string()]);
    let mut output = Vec::new();
    modes::emit(&arguments, count, &mut output).unwrap();
    let lines: Vec<String> = String::from_utf8(output).unwrap().lines().map(String::from).collect();
    assert_eq!(lines.len(), count);
    lines
}

#[test]
fn malformed_lines_are_named_and_lose_nothing() {
    let good = emitted(21);
    let mut lines = good.clone();
    lines.insert(3, r#"{"tokens":[1,2],"task":"max"}"#.into());
    lines.insert(9, "not a record".into());
    lines.insert(12, String::new());
    let mut text = lines.join("\n").into_bytes();
    // The last line has no newline, and one before it is not text.
    text.extend(b"\n\xff\xfe{}\n");
    text.extend(good[0].as_bytes());

    let mut run = new_run();
    let (tally, output, errors) = stream(&mut run, &text, &stream_options(false, None));
    let tally = tally.unwrap();
    assert_eq!((tally.records, tally.skipped), (22, 3));
    assert_eq!(tally.by_task.iter().map(|of| of.1).sum::<usize>(), 22, "every record is predicted once");
    assert!(errors[0].contains("line 4 ") && errors[0].contains("label"), "{errors:?}");
    assert!(
        errors[1].contains("line 10 ") && errors[2].contains("line 25 ") && errors.len() == 3,
        "{errors:?}"
    );
    // The bits of a run that never saw the malformed lines.
    let mut clean = new_run();
    let text = [good.as_slice(), &good[..1]].concat().join("\n").into_bytes();
    let (other, ..) = stream(&mut clean, &text, &stream_options(true, None));
    assert_eq!(other.unwrap(), Tally { skipped: 0, ..tally });
    assert_eq!(bits(&run), bits(&clean));
    assert_eq!(run.step(), 6);

    let last: serde_json::Value = serde_json::from_str(output.last().unwrap()).unwrap();
    assert_eq!((last["records"].as_u64(), last["skipped"].as_u64()), (Some(22), Some(3)));
    assert_eq!(last["tasks"].as_object().unwrap().len(), run.info.tasks.len());
}

#[test]
fn a_strict_stream_stops_and_keeps_what_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stream.safetensors");
    let good = emitted(10);
    let mut lines = good.clone();
    lines.insert(6, r#"{"tokens":[1],"task":"max","label":-1}"#.into());
    let mut run = new_run();
    let (result, ..) =
        stream(&mut run, lines.join("\n").as_bytes(), &stream_options(true, Some(path.clone())));
    let message = format!("{:#}", result.unwrap_err());
    assert!(message.contains("line 7") && message.contains("u32"), "{message}");
    let mut clean = new_run();
    stream(&mut clean, good[..6].join("\n").as_bytes(), &stream_options(true, None)).0.unwrap();
    assert_eq!(bits(&run), bits(&clean), "the six records before it are learned");
    // The checkpoint is the run, and a later stream goes on from it.
    let (mut kept, _) = checkpoint::load(&path, &Device::cpu()).unwrap();
    assert_eq!(bits(&kept), bits(&run));
    stream(&mut kept, good[6..].join("\n").as_bytes(), &stream_options(true, None)).0.unwrap();
    assert_eq!(kept.step(), run.step() + 1);
}

#[test]
fn a_record_is_predicted_before_it_is_learned() {
    let mut run = new_run();
    // Warmed up on other records of the same tasks, so that nothing grows.
    let lines = emitted(200);
    stream(&mut run, lines[..180].join("\n").as_bytes(), &stream_options(true, None)).0.unwrap();
    let codec = super::app::data::Codec::new(run.info.clone());
    let batch: Vec<_> = lines[180..184]
        .iter()
        .map(|line| codec.known(&super::app::data::Record::parse(line).unwrap()).unwrap())
        .collect();
    let right = |run: &Run| -> usize {
        let rows = run.probabilities(&Batch::new(&batch)).unwrap();
        let hit = |(row, sample): (&Vec<f32>, &super::app::data::Sample)| {
            row.iter().all(|&p| p <= row[sample.label as usize])
        };
        rows.iter().zip(&batch).filter(|&pair| hit(pair)).count()
    };
    let before = right(&run);
    let (tally, ..) = stream(&mut run, lines[180..184].join("\n").as_bytes(), &stream_options(true, None));
    assert_eq!(tally.unwrap().by_task.iter().map(|of| of.0).sum::<usize>(), before);
}

#[test]
fn a_model_grows_with_what_it_meets() {
    let mut run = new_run();
    let text = concat!(
        r#"{"tokens":[5],"task":"a","label":0}"#,
        "\n",
        r#"{"tokens":[5],"task":"a","label":0}"#,
        "\n",
        r#"{"tokens":[5],"task":"a","label":0}"#,
        "\n",
        r#"{"tokens":[5],"task":"a","label":0}"#,
        "\n",
        r#"{"tokens":[900,5,7,7],"task":"b","label":6}"#,
        "\n"
    );
    let (tally, output, _) = stream(&mut run, text.as_bytes(), &stream_options(true, None));
    assert_eq!(tally.unwrap().by_task, [(0, 4), (0, 1)], "a class cannot be predicted before it is met");
    assert_eq!((run.info.tokens.len(), run.info.classes, run.info.longest, run.step()), (3, 7, 4, 2));
    assert_eq!(output.len(), 1);
    assert!(run.history.losses.iter().all(|loss| loss.is_finite()));
    let (tally, ..) = stream(&mut new_run(), b"", &stream_options(true, None));
    assert_eq!(tally.unwrap(), Tally::default());
}
