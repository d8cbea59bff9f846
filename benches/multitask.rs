//! How near the multi-task reductions come to the memory they move: cross-entropy with its gradient, and gradient cosines.
//!
//! Not criterion: each round times a plain copy of the same bytes and the operation in turn, so that a line is a share of the copy
//! bandwidth at that moment. `cargo bench --no-default-features --bench multitask` prints CSV for `benches/record/`.
//! `GATEWARP_DEVICE` chooses the device, `GATEWARP_BENCH_ROUNDS` how often.

use gatewarp::multitask::{CrossEntropyOptions, TaskAxis, cross_entropy, gradient_similarity};
use gatewarp::{Device, Result, Tensor};
use std::hint::black_box;
use std::time::Instant;

const TASKS: usize = 8;

fn values(count: usize, seed: u32) -> Vec<f32> {
    let word = |i: u32| (i ^ seed).wrapping_mul(0x9e37_79b9).rotate_left(13).wrapping_mul(0x85eb_ca6b);
    (0..count as u32).map(|i| (word(i) >> 8) as f32 / (1u32 << 23) as f32 - 1.0).collect()
}

fn seconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Times `work`, which moves `bytes`, against a copy of half as many (read once, written once).
fn measure(name: &str, bytes: usize, rounds: usize, mut work: impl FnMut() -> Result<()>) -> Result<()> {
    let source = vec![1.0f32; bytes / 8];
    let mut target = vec![0.0f32; bytes / 8];
    let (mut times, mut shares) = (Vec::new(), Vec::new());
    work()?;
    for _ in 0..rounds {
        let copy = seconds(|| {
            target.copy_from_slice(black_box(&source));
            black_box(&mut target);
            Ok(())
        })?;
        let time = seconds(&mut work)?;
        times.push(time);
        shares.push(copy / time);
    }
    let time = median(times);
    println!("{name},{:.3},{:.2},{:.3}", time * 1e3, bytes as f64 / time / 1e9, median(shares));
    Ok(())
}

fn main() -> Result<()> {
    let device = match std::env::var("GATEWARP_DEVICE") {
        Ok(spec) => spec.parse()?,
        Err(_) => Device::cpu(),
    };
    let rounds = std::env::var("GATEWARP_BENCH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(31);
    println!("# {}, {TASKS} tasks, f32, medians of {rounds} rounds; a copy is one thread's", device.name());
    println!("operation,milliseconds,gb_per_second,share_of_copy");
    for (batch, classes) in [(65_536, 10), (4096, 1000), (256, 32_000)] {
        let logits = Tensor::from_slice(&device, &values(batch * classes, 1), &[batch, classes])?;
        let labels: Vec<i32> = (0..batch).map(|b| (b * 7 % classes) as i32).collect();
        let tasks: Vec<i32> = (0..batch).map(|b| (b * 5 % TASKS) as i32).collect();
        let labels = Tensor::from_slice(&device, &labels, &[batch])?;
        let tasks = Tensor::from_slice(&device, &tasks, &[batch])?;
        let options = CrossEntropyOptions::new(TaskAxis::Mixed { tasks: tasks.view(), count: TASKS });
        let out = cross_entropy(&logits.view(), &labels.view(), &options, true)?;
        // Checked before it is timed: gradients of a row add up to 0.
        let gradient = out.gradient.map(|gradient| gradient.to_vec::<f32>()).transpose()?.unwrap_or_default();
        assert!(gradient.chunks(classes).all(|row| row.iter().sum::<f32>().abs() < 1e-5));
        // Logits read, their gradient written.
        measure(&format!("cross_entropy B{batch} C{classes}"), 8 * batch * classes, rounds, || {
            cross_entropy(&logits.view(), &labels.view(), &options, true)?;
            device.synchronize()
        })?;
    }
    let parameters = 1 << 20;
    let gradients = Tensor::from_slice(&device, &values(TASKS * parameters, 3), &[TASKS, parameters])?;
    measure(&format!("gradient_similarity N{parameters}"), 4 * TASKS * parameters, rounds, || {
        gradient_similarity(&gradients.view())?;
        device.synchronize()
    })
}
