//! Attention over the task axis: every sample is asked every task, then its tasks look at each other.
//!
//! A head that several tasks use is computed once. The outputs `y [batch, tasks, heads, length, dim]` are viewed as a sequence of
//! tasks, one for each (head, position): other strides of the same memory, so nothing is copied or transposed.
//!
//! `cargo run --release --example inter_task_attention [DEVICE]`

use gatewarp::attention::{AttentionOptions, attention_forward};
use gatewarp::task_heads::{Activation, EveryTaskGate, EveryTaskOptions, task_heads_forward_every_task};
use gatewarp::{Device, Layout, Result, Tensor};

const BATCH: usize = 2;
const TASKS: usize = 3;
const HEADS: usize = 4;
const LENGTH: usize = 6;
const DIM: usize = 8;

/// `[batch, tasks, heads, length, dim]`: before the tasks look at each other, and after.
pub fn mix(device: &Device) -> Result<(Vec<f32>, Vec<f32>)> {
    let wave =
        |count: usize, step: f32| -> Vec<f32> { (0..count).map(|i| (i as f32 * step).sin()).collect() };
    let shape = [BATCH, HEADS, LENGTH, DIM];
    let x = Tensor::from_slice(device, &wave(shape.iter().product(), 0.37), &shape)?;
    let logits = Tensor::from_slice(device, &wave(TASKS * HEADS, 1.7), &[TASKS, HEADS])?;
    let per_sample = HEADS * LENGTH * DIM;
    let gate = EveryTaskGate::Static { logits: logits.view() };
    let options = EveryTaskOptions::new(gate, Activation::top_k(2, true));
    let own = task_heads_forward_every_task(&x.view(), &x.view(), &x.view(), &options)?.y;
    // Each (head, position) is a head of the call, each task a row of its sequence.
    let by_task =
        Layout::new(&[BATCH, HEADS * LENGTH, TASKS, DIM], &[TASKS * per_sample, DIM, per_sample, 1], 0)?;
    let tasks = own.view().with_layout(by_task)?;
    let mixed = attention_forward(&tasks, &tasks, &tasks, &AttentionOptions::default())?;
    // Back to the order of y.
    let order = Layout::new(
        &[BATCH, TASKS, HEADS * LENGTH, DIM],
        &[HEADS * LENGTH * TASKS * DIM, DIM, TASKS * DIM, 1],
        0,
    )?;
    Ok((own.to_vec()?, mixed.o.view().with_layout(order)?.to_vec()?))
}

#[allow(dead_code, reason = "tests call `mix`")]
fn main() -> Result<()> {
    let device: Device = std::env::args().nth(1).map_or_else(Device::best, |spec| spec.parse())?;
    let (own, mixed) = mix(&device)?;
    println!("{BATCH} samples, {TASKS} tasks, {HEADS} heads, on {device:?}");
    let per_task = HEADS * LENGTH * DIM;
    for at in 0..BATCH * TASKS {
        let norm =
            |values: &[f32]| values[at * per_task..][..per_task].iter().map(|x| x * x).sum::<f32>().sqrt();
        let (sample, task) = (at / TASKS, at % TASKS);
        println!(
            "sample {sample}, task {task}: norm {:.3} alone, {:.3} with the others",
            norm(&own),
            norm(&mixed)
        );
    }
    Ok(())
}
