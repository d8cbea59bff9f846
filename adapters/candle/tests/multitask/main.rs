//! The training example: the same losses whatever backend attends, the same bits whether a run stops or not, and errors that say what
//! is wrong with a user's file.

// The example's own main uses what these tests do not.
#[allow(dead_code)]
#[path = "../../examples/multitask/app.rs"]
mod app;
mod checkpoint;
mod learning;
mod parts;
mod report;
mod stream;

use app::data::Data;
use app::model::{Config, Variant};
use app::sampler::Sampling;
use app::synthetic::Synthetic;
use app::train::{Options, Run};
use app::weighting::Weighting;

/// A small set of the synthetic tasks.
fn data() -> Data {
    small().data().unwrap()
}

fn small() -> Synthetic {
    Synthetic { train: 400, held_out: 60, seed: 3, skew: 1 }
}

fn options(variant: Variant, steps: usize) -> Options {
    Options {
        variant,
        seed: 1,
        steps,
        batch: 16,
        learning_rate: 4e-3,
        sampling: Sampling::Proportional,
        weighting: Weighting::Uniform,
        evaluate_every: (steps / 2).max(1),
    }
}

/// A run trained to its end.
fn trained(options: Options, device: gatewarp::Device, data: &Data) -> Run {
    let config = Config { device, ..Config::default() };
    let steps = options.steps;
    let mut run = Run::new(options, &config, &data.codec.info).unwrap();
    run.train(data, steps, |_| Ok(())).unwrap();
    run
}

fn file(lines: &[&str]) -> tempfile::NamedTempFile {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for line in lines {
        writeln!(file, "{line}").unwrap();
    }
    file
}

/// The bits of every parameter, by name.
fn bits(run: &Run) -> Vec<(&'static str, Vec<u32>)> {
    let of = |p: &app::parameters::Parameter| {
        let values: Vec<f32> = p.var.flatten_all().unwrap().to_vec1().unwrap();
        (p.name, values.into_iter().map(f32::to_bits).collect())
    };
    run.model.parameters.iter().map(of).collect()
}
