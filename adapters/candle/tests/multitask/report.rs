//! The whole program at a small size: its JSON and its report.

use super::app::arguments::{Arguments, Source};
use super::app::compare::{Finished, rows};
use super::app::data::Data;
use super::app::inspect::looks;
use super::app::json::{Found, object};
use super::app::model::Variant;
use super::app::phase::{self, Score};
use super::app::report::{Page, html};
use super::app::{add_task, checkpoint, modes};
use super::{data, options, small, trained};
use clap::Parser;
use gatewarp::Device;

/// Everything a comparison can find, small.
fn with_found<R>(data: &Data, f: impl FnOnce(&Found<'_>) -> R) -> R {
    let variants = [Variant::HardSharing, Variant::Gated];
    let runs = variants.map(|variant| {
        Finished::new(trained(options(variant, 4), Device::cpu(), data), &data.held_out).unwrap()
    });
    let looks: Vec<_> = runs.iter().map(|of| looks(&of.run, &data.held_out, 1).unwrap()).collect();
    let phase: Vec<_> = Score::ALL.map(|score| phase::run(score, 1, 1, 20, || ()).unwrap()).into();
    let source = Source::Synthetic(small());
    let bytes = checkpoint::encode(&runs[1].run, &source).unwrap();
    let (mut copy, _) = checkpoint::decode(&bytes, &Device::cpu()).unwrap();
    let added = [add_task::add(&mut copy, "last", &source, &data.held_out, 2, |_| Ok(())).unwrap()];
    let rows = rows(&runs, &runs[0].run.model.config);
    f(&Found {
        tasks: &data.codec.info.tasks,
        rows: &rows,
        runs: &runs,
        looks: &looks,
        phase: &phase,
        added: &added,
        seconds: 1.0,
    })
}

#[test]
fn the_report_has_its_sections_and_loads_nothing() {
    let mut data = data();
    // A name that a page must not take for markup.
    data.codec.info.tasks[2] = "<b>first & foremost".into();
    let page = with_found(&data, |found| html(&Page { found, data: &data, synthetic: true }));
    for section in [
        "What each task looks at",
        "Held-out results",
        "A task added afterwards: last",
        "Learning curves",
        "Which heads each task uses",
        "Gates over training",
        "Attention by position",
        "Attention entropy",
        "phase recall",
        "Shot histograms",
    ] {
        assert!(page.contains(section), "no section `{section}`");
    }
    assert!(page.contains("&lt;b&gt;first &amp; foremost") && !page.contains("<b>first"));
    for reference in ["http://", "https://", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(reference), "the page refers to `{reference}`");
    }
    assert!(!page.contains("NaN") && !page.contains(">inf"));
    let count = |what: &str| page.matches(what).count();
    // One strip of examples a task; two charts; one gate map and five timelines; positions, entropies, phase bars and histograms.
    assert_eq!(count("<svg "), count("</svg>"));
    assert_eq!(count("<svg "), 5 + 2 + 1 + 5 + 1 + 1 + 1 + 6);
    assert_eq!(count("attention on example sequences"), 5);
}

#[test]
fn the_json_has_all_metrics() {
    let data = data();
    let object = with_found(&data, object);
    assert_eq!(object["tasks"].as_array().unwrap().len(), 5);
    assert_eq!(object["variants"].as_array().unwrap().len(), 2);
    let gated = &object["runs"][1];
    assert_eq!(gated["variant"], "gated");
    for task in &data.codec.info.tasks {
        assert!(gated["accuracy"][task].is_f64() && gated["macro_f1"][task].is_f64());
        assert_eq!(gated["gates"][task].as_array().unwrap().len(), 8);
        assert!(object["variants"][1]["accuracy"][task]["mean"].is_f64());
    }
    assert_eq!(gated["heads_computed_share"], 0.25);
    assert!(gated["attention"][0]["entropy"].is_f64() && gated["attention"][0]["share_on_answer"].is_f64());
    assert_eq!(object["phase_recall"]["scores"].as_array().unwrap().len(), 4);
    assert!(object["added"][0]["after"]["last"].is_f64() && object["added"][0]["before"]["last"].is_null());
    assert!(object["verdict"].is_null(), "nothing is claimed of one seed");
}

#[test]
fn a_comparison_saves_resumes_and_reports() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let run = |more: &[&str]| {
        let report = at("report.html");
        let words = ["multitask", "--report", &report, "--json", "--batch", "8"];
        let arguments = Arguments::parse_from(words.iter().chain(more));
        arguments.check().unwrap();
        match arguments.resume.clone() {
            Some(path) => modes::resume(&arguments, &path).unwrap(),
            None => modes::compare(&arguments).unwrap(),
        }
    };
    let (half, whole, resumed) = (at("half.st"), at("whole.st"), at("resumed.st"));
    let common =
        ["--steps", "6", "--seeds", "1", "--variant", "gated", "--no-phase", "--sampler", "balanced"];
    run(&[&common[..], &["--save", &whole]].concat());
    run(&[&common[..], &["--save", &half, "--stop-at", "2"]].concat());
    run(&["--resume", &half, "--save", &resumed]);
    let load = |path: &str| checkpoint::load(path.as_ref(), &Device::cpu()).unwrap().0;
    assert_eq!(load(&half).step(), 2);
    assert_eq!(super::bits(&load(&whole)), super::bits(&load(&resumed)));
    assert!(std::fs::read_to_string(at("report.html")).unwrap().contains("What each task looks at"));
    // A task is added to the saved model, and what comes of it goes on from its own checkpoint.
    let added = at("added.st");
    run(&["--resume", &whole, "--add-task", "value-of-min-key", "--steps", "2", "--save", &added]);
    assert_eq!((load(&added).info.tasks.len(), load(&added).step()), (6, 2));
    run(&["--resume", &added, "--steps", "3", "--save", &added]);
    assert_eq!(load(&added).step(), 3);

    for wrong in [&["--steps", "0"][..], &["--rate", "nan"], &["--every", "0"]] {
        assert!(Arguments::parse_from([&["multitask"], wrong].concat()).check().is_err(), "{wrong:?}");
    }
    for wrong in
        [&["--predict", "x"][..], &["--strict"], &["--steps", "1", "--epochs", "1"], &["--stop-at", "1"]]
    {
        assert!(Arguments::try_parse_from([&["multitask"], wrong].concat()).is_err(), "{wrong:?}");
    }
}
