//! Sampler, loss weights, optimiser and metrics against values worked out by hand.

use super::app::data::{Codec, Sample, random};
use super::app::metrics;
use super::app::optimiser::AdamW;
use super::app::parameters::{Parameter, embed};
use super::app::sampler::{Sampler, Sampling};
use super::app::synthetic::{Synthetic, TASKS};
use super::app::weighting::{Weighting, Weights, dwa};
use candle_core::{Device, Tensor, Var};

fn of_task(task: u32) -> Sample {
    Sample { tokens: vec![1], task, label: 0, evidence: Vec::new() }
}

#[test]
fn a_balanced_sampler_draws_tasks_of_unequal_sizes_evenly() {
    // Task 1 has no sample.
    let sizes = [600, 0, 60, 6];
    let samples: Vec<Sample> =
        (0..4).flat_map(|task| (0..sizes[task as usize]).map(move |_| of_task(task))).collect();
    const DRAWS: usize = 30_000;
    for (sampling, shares) in [
        (Sampling::Balanced, [1.0 / 3.0, 0.0, 1.0 / 3.0, 1.0 / 3.0]),
        (Sampling::Proportional, [600.0 / 666.0, 0.0, 60.0 / 666.0, 6.0 / 666.0]),
    ] {
        let sampler = Sampler::new(&samples, sampling);
        let mut counts = vec![0usize; samples.len()];
        for step in 0..DRAWS / 100 {
            sampler.draw(100, &mut random(5, step)).into_iter().for_each(|index| counts[index] += 1);
        }
        let mut start = 0;
        for (task, share) in shares.into_iter().enumerate() {
            let of_task = &counts[start..start + sizes[task]];
            start += sizes[task];
            let (drawn, expected) = (of_task.iter().sum::<usize>() as f64, share * DRAWS as f64);
            // Five deviations of a binomial count.
            let bound = 5.0 * (expected * (1.0 - share)).sqrt();
            assert!((drawn - expected).abs() <= bound, "{sampling:?}, task {task}: {drawn}, not {expected}");
            let each = expected / sizes[task].max(1) as f64;
            assert!(
                of_task.iter().all(|&n| (n as f64 - each).abs() <= 7.0 * each.sqrt() + 7.0),
                "{of_task:?}"
            );
        }
    }
}

#[test]
fn the_random_numbers_of_a_step_depend_on_nothing_before() {
    use rand::Rng;
    let numbers = |seed, step| -> Vec<u64> {
        let mut random = random(seed, step);
        (0..4).map(|_| random.random()).collect()
    };
    assert_eq!(numbers(1, 7), numbers(1, 7));
    assert_ne!(numbers(1, 7), numbers(1, 8));
    assert_ne!(numbers(1, 7), numbers(2, 7));
}

#[test]
fn skewed_tasks_shrink_by_their_factor() {
    let data = Synthetic { train: 31_000, held_out: 5_000, seed: 1, skew: 2 }.data().unwrap();
    for task in 0..TASKS.len() {
        let count =
            |samples: &[Sample]| samples.iter().filter(|sample| sample.task as usize == task).count() as f64;
        let expected = 16_000.0 / f64::from(1 << task);
        assert!((count(&data.train) - expected).abs() < 5.0 * expected.sqrt(), "task {task}");
        assert!((count(&data.held_out) - 1000.0).abs() < 5.0 * 1000f64.sqrt(), "task {task}");
    }
    assert!(Synthetic { train: 1, held_out: 1, seed: 1, skew: 1 }.one_task("recall", 5).is_err());
}

#[test]
fn dynamic_weights_match_values_worked_by_hand() {
    // r = 1/2, 1, and 1 where a mean is missing: shares e^0.25, e^0.5, e^0.5 at temperature 2.
    let weights = dwa(&[(0.5, 1.0), (2.0, 2.0), (1.0, f64::NAN)]);
    let (a, b) = (0.25f64.exp(), 0.5f64.exp());
    let want = [3.0 * a / (a + 2.0 * b), 3.0 * b / (a + 2.0 * b), 3.0 * b / (a + 2.0 * b)];
    assert!(weights.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-12), "{weights:?}");
    assert_eq!(dwa(&[(f64::NAN, f64::NAN); 4]), [1.0; 4]);

    // Windows of 50 steps: the means of the last two decide.
    let mut state = Weights::new(Weighting::Dwa, 2).unwrap();
    for step in 0..50 {
        state.record(step, &[4.0, 1.0], &[true, step % 2 == 0]);
    }
    assert_eq!(state.now().unwrap(), [1.0, 1.0]);
    for step in 50..100 {
        state.record(step, &[2.0, 1.0], &[true, true]);
    }
    let (got, want) = (state.now().unwrap(), dwa(&[(2.0, 4.0), (1.0, 1.0)]));
    assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-12), "{got:?}");
}

#[test]
fn learned_weights_match_values_worked_by_hand() {
    let state = Weights::new(Weighting::Uncertainty, 3).unwrap();
    state.log_variance.set(&Tensor::new(&[0.5f32, -1.0, 9.0], &Device::Cpu).unwrap()).unwrap();
    let losses = Var::new(&[2.0f32, 0.25, 0.0], &Device::Cpu).unwrap();
    let loss = state.loss(&losses, &[true, true, false]).unwrap();
    let want = ((-0.5f64).exp() * 2.0 + 0.25 + 1f64.exp() * 0.25 - 0.5) / 2.0;
    assert!((f64::from(loss.to_scalar::<f32>().unwrap()) - want).abs() < 1e-6);
    let grads = loss.backward().unwrap();
    let slopes: Vec<f32> = grads.get(&state.log_variance).unwrap().to_vec1().unwrap();
    let want = [(-(-0.5f32).exp() * 2.0 + 0.5) / 2.0, (-1f32.exp() * 0.25 + 0.5) / 2.0, 0.0];
    assert!(slopes.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-6), "{slopes:?} {want:?}");

    let uniform = Weights::new(Weighting::Uniform, 3).unwrap();
    let loss = uniform.loss(&losses, &[true, true, false]).unwrap();
    assert!((loss.to_scalar::<f32>().unwrap() - 1.125).abs() < 1e-6);
}

#[test]
fn the_optimiser_matches_two_steps_worked_by_hand() {
    let var = Var::new(&[1.0f32, -2.0, 3.0], &Device::Cpu).unwrap();
    let mut optimiser = AdamW::new(vec![Parameter { name: "x", var: var.clone() }], Vec::new());
    optimiser.moments[0].frozen = vec![false, true, false];
    let (mut want, mut m, mut v) = ([1.0f64, 3.0], [0.0f64; 2], [0.0f64; 2]);
    for step in 1..=2 {
        // The gradient of Σ x² is 2x.
        let loss = var.sqr().unwrap().sum_all().unwrap();
        optimiser.update(&loss.backward().unwrap(), 0.1).unwrap();
        for i in 0..2 {
            let g = 2.0 * want[i];
            m[i] = 0.9 * m[i] + 0.1 * g;
            v[i] = 0.999 * v[i] + 0.001 * g * g;
            let (m, v) = (m[i] / (1.0 - 0.9f64.powi(step)), v[i] / (1.0 - 0.999f64.powi(step)));
            want[i] = want[i] * (1.0 - 0.1 * 0.01) - 0.1 * m / (v.sqrt() + 1e-8);
        }
    }
    let got: Vec<f32> = var.to_vec1().unwrap();
    assert_eq!(got[1], -2.0, "a frozen element moved");
    assert!(
        (f64::from(got[0]) - want[0]).abs() < 1e-5 && (f64::from(got[2]) - want[1]).abs() < 1e-5,
        "{got:?}"
    );

    let nan = (var.as_tensor() * f64::NAN).unwrap().sum_all().unwrap();
    let error = optimiser.update(&nan.backward().unwrap(), 0.1).unwrap_err();
    assert!(error.to_string().contains("`x`") && optimiser.step == 2);
    assert_eq!(var.to_vec1::<f32>().unwrap(), got);
}

#[test]
fn a_smaller_tensor_fills_the_leading_block() {
    let mut into = vec![0; 2 * 3 * 4];
    let from: Vec<i32> = (1..=4).collect();
    embed(&mut into, &[2, 3, 4], &from, &[1, 2, 2]);
    let mut want = vec![0; 24];
    (want[0], want[1], want[4], want[5]) = (1, 2, 3, 4);
    assert_eq!(into, want);
    embed(&mut into, &[2, 3, 4], &[], &[0, 3, 4]);
    assert_eq!(into, want);
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
    assert_eq!((summary.mean, summary.deviation, summary.count), (2.0, 1.0, 3));
    assert_eq!(format!("{summary:.1}"), "2.0 ± 1.0");
    assert_eq!(metrics::Summary::of([]).to_string(), "–");
}

#[test]
fn a_codec_numbers_what_it_meets_in_order() {
    let mut codec = Codec::default();
    let record = |tokens: &[u32], task: &str| super::app::data::Record {
        tokens: tokens.to_vec(),
        task: task.to_owned(),
        label: Some(2),
    };
    assert_eq!(codec.learn(&record(&[70, 7, 70], "b")).unwrap().tokens, [1, 2, 1]);
    assert_eq!(
        codec.learn(&record(&[7, 9], "a")).unwrap(),
        Sample { tokens: vec![2, 3], task: 1, label: 2, evidence: vec![] }
    );
    assert_eq!(
        (codec.info.tokens.as_slice(), codec.info.classes, codec.info.longest),
        (&[70, 7, 9][..], 3, 3)
    );
    let again = Codec::new(codec.info.clone());
    assert_eq!(again.known(&record(&[9], "b")).unwrap().tokens, [3]);
    for (wrong, what) in
        [(record(&[9], "c"), "`c`"), (record(&[8], "b"), "token 8"), (record(&[9; 4], "b"), "4 tokens")]
    {
        let message = again.known(&wrong).unwrap_err().to_string();
        assert!(message.contains(what), "{message}");
    }
}
