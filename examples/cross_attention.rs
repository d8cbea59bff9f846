//! Cross-attention between two modalities under a gate per task: a task that needs no image never reads one.
//!
//! Text queries attend to image keys and values. Task 0 works on text alone, task 1 looks with two heads, task 2 with all four. The
//! first sample has no image: its memory is NaN, and its task must not touch it.
//!
//! `cargo run --release --example cross_attention [DEVICE]`

use gatewarp::task_heads::{Activation, GateSource, TaskHeadsOptions, task_heads_forward};
use gatewarp::{Device, Result, Tensor};

const HEADS: usize = 4;
const WORDS: usize = 5;
const PATCHES: usize = 9;
const DIM: usize = 8;
const TASKS: [i32; 4] = [0, 1, 2, 1];

/// Text after cross-attention `[batch, heads, words, dim]`, text before it, and the active pairs (sample, head).
pub fn fuse(device: &Device) -> Result<(Vec<f32>, Vec<f32>, Vec<u32>)> {
    let batch = TASKS.len();
    let wave =
        |count: usize, step: f32| -> Vec<f32> { (0..count).map(|i| (i as f32 * step).sin()).collect() };
    let text = wave(batch * HEADS * WORDS * DIM, 0.37);
    let mut image = wave(batch * HEADS * PATCHES * DIM, 0.53);
    image[..HEADS * PATCHES * DIM].fill(f32::NAN); // sample 0 has none
    let q = Tensor::from_slice(device, &text, &[batch, HEADS, WORDS, DIM])?;
    let image = Tensor::from_slice(device, &image, &[batch, HEADS, PATCHES, DIM])?;

    #[rustfmt::skip]
    let gates = [
        0.0f32, 0.0, 0.0, 0.0,
        1.0, 0.0, 0.5, 0.0,
        1.0, 1.0, 1.0, 1.0,
    ];
    let gates = Tensor::from_slice(device, &gates, &[3, HEADS])?;
    let tasks = Tensor::from_slice(device, &TASKS, &[batch])?;
    let gate = GateSource::Static { logits: gates.view(), tasks: tasks.view() };
    let options = TaskHeadsOptions::new(gate, Activation::Identity);
    let out = task_heads_forward(&q.view(), &image.view(), &image.view(), &options)?;
    let fused = out.y.to_vec::<f32>()?.iter().zip(&text).map(|(y, x)| x + y).collect();
    Ok((fused, text, out.active.to_vec()?))
}

#[allow(dead_code, reason = "tests call `fuse`")]
fn main() -> Result<()> {
    let device: Device = std::env::args().nth(1).map_or_else(Device::best, |spec| spec.parse())?;
    let (fused, text, active) = fuse(&device)?;
    println!("{} samples, {HEADS} heads, {WORDS} words, {PATCHES} patches, on {device:?}", TASKS.len());
    for (b, task) in TASKS.iter().enumerate() {
        let own = b * HEADS * WORDS * DIM..(b + 1) * HEADS * WORDS * DIM;
        let moved: f32 =
            fused[own.clone()].iter().zip(&text[own]).map(|(y, x)| (y - x).powi(2)).sum::<f32>().sqrt();
        let heads = &active[b * HEADS..(b + 1) * HEADS];
        println!(
            "sample {b}, task {task}: heads that looked at the image {heads:?}, text moved by {moved:.3}"
        );
    }
    Ok(())
}
