//! A run that stops and goes on has the bits of one that does not; predictions and new tasks of a saved model.

use super::app::arguments::Source;
use super::app::data::Batch;
use super::app::model::{Config, Variant};
use super::app::sampler::Sampling;
use super::app::train::{Options, Run};
use super::app::weighting::Weighting;
use super::app::{add_task, checkpoint, predict};
use super::{bits, data, file, options, small, trained};
use gatewarp::Device;

#[test]
fn resuming_gives_the_same_bits_as_not_stopping() {
    let data = data();
    let source = Source::Synthetic(small());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run.safetensors");
    for (variant, weighting) in [
        (Variant::Gated, Weighting::Uncertainty),
        (Variant::TaskEmbedding, Weighting::Dwa),
        (Variant::EqualActiveHeads, Weighting::Uniform),
    ] {
        // 110 steps: DWA's windows of 50 steps are closed twice, and its weights matter to the end.
        let steps = if weighting == Weighting::Dwa { 110 } else { 12 };
        let options = Options {
            weighting,
            sampling: Sampling::Balanced,
            // Not a short decimal: it has to come back exactly.
            learning_rate: 4e-3 / 3.0,
            batch: 8,
            ..options(variant, steps)
        };
        let whole = trained(options.clone(), Device::cpu(), &data);
        let mut first = Run::new(options, &Config::default(), &data.codec.info).unwrap();
        first.train(&data, steps / 2 + 1, |_| Ok(())).unwrap();
        checkpoint::save(&path, &first, &source).unwrap();
        let (mut second, from) = checkpoint::load(&path, &Device::cpu()).unwrap();
        assert_eq!((&from, second.step()), (&source, steps / 2 + 1));
        assert_eq!(bits(&first), bits(&second));
        second.train(&data, steps, |_| Ok(())).unwrap();
        assert_eq!(bits(&whole), bits(&second), "{variant:?}");
        let losses = |run: &Run| run.history.losses.iter().map(|loss| loss.to_bits()).collect::<Vec<_>>();
        assert_eq!(losses(&whole), losses(&second));
        assert_eq!((&whole.options, &whole.info), (&second.options, &second.info));
        let moments = |run: &Run| -> Vec<(Vec<f32>, Vec<f32>)> {
            run.optimiser.moments.iter().map(|m| (m.first.clone(), m.second.clone())).collect()
        };
        assert_eq!(moments(&whole), moments(&second));
        assert_eq!(whole.weights.now().unwrap(), second.weights.now().unwrap());
    }
    assert!(!directory.path().join("run.part").exists());
}

#[test]
fn a_broken_checkpoint_is_refused_by_name() {
    let data = data();
    let run = trained(options(Variant::Gated, 1), Device::cpu(), &data);
    let bytes = checkpoint::encode(&run, &Source::Stream).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broken.safetensors");
    for wrong in [&bytes[..bytes.len() - 4], &bytes[..100], b"nothing of the kind", b""] {
        std::fs::write(&path, wrong).unwrap();
        let message = format!("{:#}", checkpoint::load(&path, &Device::cpu()).err().unwrap());
        assert!(message.contains("broken.safetensors"), "{message}");
    }
    let other = directory.path().join("other.safetensors");
    let tensor = candle_core::Tensor::zeros(3, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    candle_core::safetensors::save(&std::collections::HashMap::from([("x", tensor)]), &other).unwrap();
    assert!(format!("{:#}", checkpoint::load(&other, &Device::cpu()).err().unwrap()).contains("metadata"));
    assert!(checkpoint::load(&directory.path().join("none"), &Device::cpu()).is_err());
    let error = checkpoint::save(&directory.path().join("no/such/place"), &run, &Source::Stream);
    assert!(format!("{:#}", error.unwrap_err()).contains("no/such/place"));
}

#[test]
fn predictions_are_those_of_the_model() {
    let data = data();
    let run = trained(options(Variant::Gated, 8), Device::cpu(), &data);
    let lines: Vec<String> = data.held_out[..10]
        .iter()
        .enumerate()
        .map(|(i, sample)| {
            let mut record = data.codec.record(sample);
            // The last has no label.
            record.label = record.label.filter(|_| i < 9);
            serde_json::to_string(&record).unwrap()
        })
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut output = Vec::new();
    let confusions = predict::predict(&run, file(&lines).path(), &mut output).unwrap();
    let objects: Vec<serde_json::Value> = output
        .split(|&b| b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect();
    assert_eq!(objects.len(), 10);
    let rows = run.probabilities(&Batch::new(&data.held_out[..10])).unwrap();
    let mut hits = 0;
    for (i, (object, row)) in objects.iter().zip(&rows).enumerate() {
        let prediction = object["prediction"].as_u64().unwrap() as usize;
        let probability = object["probability"].as_f64().unwrap();
        assert_eq!(object["line"], i + 1);
        assert!(
            row.iter().all(|&p| p <= row[prediction])
                && (probability - f64::from(row[prediction])).abs() < 1e-6
        );
        let right = prediction == data.held_out[i].label as usize;
        assert_eq!(object.get("right").map(|right| right.as_bool().unwrap()), (i < 9).then_some(right));
        hits += usize::from(right && i < 9);
    }
    assert_eq!(confusions.iter().map(|of| of.total()).sum::<usize>(), 9);
    let right = confusions.iter().map(|of| of.accuracy().unwrap_or(0.0) * of.total() as f64).sum::<f64>();
    assert!((right - hits as f64).abs() < 1e-9);

    // Nothing is written when a line cannot be predicted.
    for (line, what) in [
        (r#"{"tokens":[1],"task":"sum","label":1}"#, "`sum`"),
        (r#"{"tokens":[99],"task":"max"}"#, "99"),
        (r#"{"tokens":[1],"task":"max","label":1"#, "EOF"),
    ] {
        let mut output = Vec::new();
        let file = file(&[lines[0], line]);
        let message = format!("{:#}", predict::predict(&run, file.path(), &mut output).unwrap_err());
        assert!(message.contains(":2") && message.contains(what) && output.is_empty(), "{message}");
    }
    // A label the model has no class for is wrong, and counted.
    let beyond = file(&[r#"{"tokens":[1,17],"task":"max","label":40}"#]);
    let confusions = predict::predict(&run, beyond.path(), &mut Vec::new()).unwrap();
    assert_eq!(confusions[1].accuracy(), Some(0.0));
}

#[test]
fn adding_a_task_keeps_the_others() {
    let data = data();
    let source = Source::Synthetic(small());
    for variant in [Variant::Gated, Variant::TaskEmbedding] {
        let mut run = trained(options(variant, 10), Device::cpu(), &data);
        let batch = Batch::new(&data.held_out);
        let (before, parameters) = (run.probabilities(&batch).unwrap(), bits(&run));
        let shapes: Vec<Vec<usize>> = run.model.parameters.iter().map(|p| p.var.dims().to_vec()).collect();
        let losses = |run: &Run| run.history.losses.clone();
        let added = add_task::add(&mut run, "last", &source, &data.held_out, 12, |_| Ok(())).unwrap();
        let new_losses = losses(&run);
        assert_eq!(new_losses.len(), 12);
        assert!(new_losses[11] < new_losses[0], "{variant:?}: {new_losses:?}");
        assert_eq!(added.tasks.last().unwrap(), "last");
        assert_eq!((added.before.len(), added.before[5]), (6, None));
        assert_eq!(added.before[..5], added.after[..5], "{variant:?}");
        assert!(added.after[5].is_some() && added.trained > 0 && added.trained < added.parameters);
        // candle's matrix products round differently for other sizes.
        for (row, old) in run.probabilities(&batch).unwrap().iter().zip(&before) {
            assert!(row.iter().zip(old).all(|(a, b)| (a - b).abs() < 1e-5), "{variant:?}: {row:?} {old:?}");
        }
        // The block of every parameter that was there has the bits it had.
        for ((parameter, (name, old)), shape) in run.model.parameters.iter().zip(&parameters).zip(&shapes) {
            let mut block = parameter.var.as_tensor().clone();
            for (dimension, &size) in shape.iter().enumerate() {
                block = block.narrow(dimension, 0, size).unwrap();
            }
            let block: Vec<f32> = block.flatten_all().unwrap().to_vec1().unwrap();
            let block: Vec<u32> = block.into_iter().map(f32::to_bits).collect();
            assert_eq!(&block, old, "{variant:?}: `{name}` has changed");
        }
        if let Some(gates) = run.model.gates().unwrap() {
            assert_eq!((run.model.heads(), gates.len()), (10, 6));
            assert!(gates[..5].iter().all(|row| row[8..] == [0.0, 0.0]), "{gates:?}");
            let (_, computed) = run.evaluate(&data.held_out).unwrap();
            assert!((computed - 0.2).abs() < 1e-12);
        }
        // It can be saved and goes on: what is frozen stays frozen.
        let bytes = checkpoint::encode(&run, &source).unwrap();
        let (again, _) = checkpoint::decode(&bytes, &Device::cpu()).unwrap();
        assert_eq!(bits(&again), bits(&run));
        let frozen = |run: &Run| run.optimiser.moments.iter().map(|m| m.frozen.clone()).collect::<Vec<_>>();
        assert_eq!(frozen(&again), frozen(&run));
        let message =
            format!("{:#}", add_task::add(&mut run, "max", &source, &[], 1, |_| Ok(())).err().unwrap());
        assert!(message.contains("`max`"), "{message}");
        let message =
            format!("{:#}", add_task::add(&mut run, "sum", &source, &[], 1, |_| Ok(())).err().unwrap());
        assert!(message.contains("value-of-min-key"), "{message}");
    }
}

#[test]
fn a_task_of_a_users_file_is_added_by_name() {
    let data = data();
    let mut run = trained(options(Variant::Gated, 2), Device::cpu(), &data);
    let line = |task: &str, label: u32| {
        format!(r#"{{"tokens":[3,{},99],"task":"{task}","label":{label}}}"#, 16 + label)
    };
    let lines: Vec<String> =
        (0..40).map(|i| line(if i % 2 == 0 { "mine" } else { "other" }, i % 5)).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let good = file(&lines);
    let source = |file: &tempfile::NamedTempFile| Source::File { path: file.path().into(), seed: 7 };
    let added = add_task::add(&mut run, "mine", &source(&good), &data.held_out, 3, |_| Ok(())).unwrap();
    assert_eq!(added.tasks.len(), 6);
    assert_eq!(added.before[..5], added.after[..5]);
    // Token 99 is new; the other task of the file is not there.
    assert_eq!((run.info.tokens.last(), run.info.tokens.len()), (Some(&99), 27));
    let beyond = line("more", 10);
    let wrong = file(&[lines.as_slice(), &[beyond.as_str()]].concat());
    let message =
        format!("{:#}", add_task::add(&mut run, "more", &source(&wrong), &[], 3, |_| Ok(())).err().unwrap());
    assert!(message.contains(":41") && message.contains("10 classes"), "{message}");
    let message =
        format!("{:#}", add_task::add(&mut run, "none", &source(&good), &[], 3, |_| Ok(())).err().unwrap());
    assert!(message.contains("`none`") && message.contains("at least 10"), "{message}");
}
