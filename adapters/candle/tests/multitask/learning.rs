//! Training on every backend, and what a run may learn from.

use super::app::compare::Finished;
use super::app::data::Batch;
use super::app::inspect::looks;
use super::app::model::Variant;
use super::app::phase::{self, Score};
use super::app::{compare, records};
use super::{data, file, options, trained};
use gatewarp::Device;

const STEPS: usize = 20;

/// The device, or `None` where it is missing and `GATEWARP_REQUIRE` does not name it.
fn device(spec: &str) -> Option<Device> {
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
    let data = data();
    for variant in [Variant::TaskEmbedding, Variant::Gated] {
        let cpu = trained(options(variant, STEPS), Device::cpu(), &data);
        let losses = &cpu.history.losses;
        assert!(losses[STEPS - 1] < losses[0], "{variant:?} does not learn: {losses:?}");
        let computed = cpu.evaluate(&data.held_out).unwrap().1;
        for spec in ["wgpu", "cuda-emulated"] {
            let Some(device) = device(spec) else { continue };
            let other = trained(options(variant, STEPS), device, &data);
            assert_eq!(losses.len(), other.history.losses.len());
            for (step, (a, b)) in losses.iter().zip(&other.history.losses).enumerate() {
                // Rounding differs by some 1e-7 a step and twenty AdamW steps amplify it; a wrong gradient shows at 1e-2.
                assert!((a - b).abs() <= 1e-3, "{variant:?} on {spec}, step {step}: {a} on the CPU, {b}");
            }
            assert!((computed - other.evaluate(&data.held_out).unwrap().1).abs() < 1e-12);
        }
    }
}

#[test]
fn a_gated_model_computes_two_of_eight_heads() {
    let data = data();
    let run = trained(options(Variant::Gated, STEPS), Device::cpu(), &data);
    assert_eq!(run.evaluate(&data.held_out).unwrap().1, 0.25);
    assert_eq!(run.history.gates.len(), 2);
    for (_, gates) in &run.history.gates {
        for gates in gates {
            assert_eq!(gates.iter().filter(|&&gate| gate > 0.0).count(), 2);
            assert!((gates.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
    }
}

#[test]
fn a_sample_is_answered_alike_in_any_batch() {
    let data = data();
    let run = trained(options(Variant::Gated, 2), Device::cpu(), &data);
    let all = run.probabilities(&Batch::new(&data.held_out)).unwrap();
    for (sample, row) in data.held_out.iter().zip(&all).step_by(7) {
        let alone = run.probabilities(&Batch::new([sample])).unwrap();
        // candle's matrix products round differently for other sizes.
        assert!(alone[0].iter().zip(row).all(|(a, b)| (a - b).abs() < 1e-5), "{alone:?} {row:?}");
    }
}

#[test]
fn what_a_task_looks_at_adds_up() {
    let data = data();
    for variant in [Variant::Gated, Variant::EqualActiveHeads] {
        let run = trained(options(variant, 4), Device::cpu(), &data);
        let looks = looks(&run, &data.held_out, 2).unwrap();
        assert_eq!(looks.len(), 5);
        for look in &looks {
            assert_eq!((look.heads.len(), look.examples.len()), (2, 2));
            for head in &look.heads {
                assert_eq!(head.by_position.len(), 17);
                assert!((head.by_position.iter().sum::<f64>() - 1.0).abs() < 1e-4);
                assert!(head.entropy > 0.0 && head.entropy <= look.most_entropy + 1e-6);
            }
            for example in &look.examples {
                assert!((example.attention.iter().sum::<f64>() - 1.0).abs() < 1e-4);
                assert!(!example.evidence.is_empty() && example.tokens.len() == 17);
                // The generator's evidence is the answer: values are the tokens from 16 on.
                assert!(example.evidence.iter().all(|&at| example.tokens[at] == 16 + example.label));
            }
            let (on, tokens) = look.on_answer.unwrap();
            assert!(on > 0.0 && on < 1.0 && (1.0 / 17.0 - 1e-9..0.5).contains(&tokens));
        }
    }
}

#[test]
fn a_malformed_record_is_named_by_its_line() {
    let good = r#"{"tokens":[1,2],"task":"a","label":0}"#;
    let wrong = [
        (r#"{"tokens":[1,2],"task":"a"}"#, "label"),
        (r#"{"tokens":[],"task":"a","label":0}"#, "empty"),
        (r#"{"tokens":[1,-2],"task":"a","label":0}"#, "u32"),
        (r#"{"tokens":[1,2],"task":"a","label":0"#, "EOF"),
        (r#"{"tokens":[1,2],"task":"a","label":10000}"#, "10000"),
    ];
    for (line, what) in wrong {
        let file = file(&[good, good, line]);
        let message = format!("{:#}", records::from_file(file.path(), 1).err().unwrap());
        assert!(message.contains(":3") && message.contains(what), "{message}");
    }
    let few = file(&[good; 3]);
    assert!(format!("{:#}", records::from_file(few.path(), 1).err().unwrap()).contains("at least 10"));
    assert!(records::from_file(std::path::Path::new("no such file"), 1).is_err());
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
    let data = records::from_file(file.path(), 1).unwrap();
    assert_eq!((data.train.len(), data.held_out.len()), (48, 12));
    let info = &data.codec.info;
    assert_eq!((info.tokens.len(), info.classes, info.longest, info.tasks.len()), (9, 3, 5, 2));
    let run = trained(options(Variant::Gated, 4), Device::cpu(), &data);
    assert!(run.history.losses.iter().all(|loss| loss.is_finite()));
    assert_eq!(run.history.curve.len(), 2);
    // What a sample was made of can be had back.
    let record = data.codec.record(&data.train[0]);
    assert_eq!(data.codec.known(&record).unwrap(), data.train[0]);
}

#[test]
fn fidelity_recalls_by_phase_and_what_z_shows_does_not() {
    let of = |score| phase::run(score, 1, 100, 200, || ()).unwrap();
    let (fidelity, z) = (of(Score::Fidelity), of(Score::Z));
    assert!(fidelity.exact.iter().all(|&accuracy| accuracy >= 0.9), "{fidelity:?}");
    assert!(fidelity.shots >= 0.9 && fidelity.signs >= 0.9, "{fidelity:?}");
    // Chance is 1/8; 200 sequences give it a deviation of 0.023, and half of them, one task's, 0.033.
    assert!(z.exact.iter().all(|&accuracy| accuracy < 0.25) && z.shots < 0.22, "{z:?}");
    for result in [&fidelity, &z] {
        assert_eq!(result.histograms.len(), 2);
        for histogram in &result.histograms {
            assert_eq!(histogram.counts.iter().sum::<usize>(), phase::SHOTS);
        }
    }
    let most = |counts: &[usize]| (0..16).max_by_key(|&outcome| counts[outcome]).unwrap();
    let [same, turned] = &fidelity.histograms[..] else { panic!("{:?}", fidelity.histograms) };
    assert_eq!((most(&same.counts), most(&turned.counts)), (same.label as usize, turned.label as usize));
}

#[test]
fn a_gain_within_the_noise_of_the_seeds_is_not_claimed() {
    let data = data();
    let run = |variant, seed| {
        let run = trained(super::app::train::Options { seed, ..options(variant, 2) }, Device::cpu(), &data);
        Finished::new(run, &data.held_out).unwrap()
    };
    let mut runs = vec![run(Variant::HardSharing, 1), run(Variant::HardSharing, 2)];
    runs.extend([run(Variant::Gated, 1), run(Variant::Gated, 2)]);
    let set = |finished: &mut Finished, right: usize| {
        for confusion in &mut finished.confusions {
            *confusion = super::app::metrics::Confusion::new(2);
            (0..100).for_each(|i| confusion.add(0, usize::from(i >= right)));
        }
    };
    let config = runs[0].run.model.config.clone();
    let verdict = |runs: &mut [Finished], right: [usize; 4]| {
        runs.iter_mut().zip(right).for_each(|(finished, right)| set(finished, right));
        compare::verdict(&compare::rows(runs, &config)).unwrap()
    };
    assert!(verdict(&mut runs, [80, 90, 84, 92]).contains("no different from hard sharing"));
    assert!(verdict(&mut runs, [80, 81, 91, 92]).contains("11.0 points above hard sharing"));
    assert!(verdict(&mut runs, [91, 92, 80, 81]).contains("11.0 points below hard sharing"));
    runs.drain(1..3);
    assert_eq!(compare::verdict(&compare::rows(&runs, &config)), None, "one seed shows no noise");
}
