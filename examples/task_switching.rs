//! Switching tasks at inference: the task is a number in device memory, so nothing is recompiled, planned or allocated anew.
//!
//! The first call compiles the kernels (on a GPU); every later one only reads other gates. A mixed batch gives each sample what it would
//! get if all were of its task.
//!
//! `cargo run --release --example task_switching [DEVICE]`

use gatewarp::task_heads::{Activation, GateSource, TaskHeadsOptions, task_heads_forward};
use gatewarp::{Device, Result, Tensor};
use std::time::Instant;

const BATCH: usize = 4;
const HEADS: usize = 8;
const LENGTH: usize = 64;
const DIM: usize = 32;
const TASKS: usize = 4;

/// One model: shared projections (here, their results) and a row of gate logits per task.
pub struct Model {
    device: Device,
    x: Tensor,
    logits: Tensor,
}

impl Model {
    /// The model on a device.
    pub fn new(device: &Device) -> Result<Self> {
        let wave =
            |count: usize, step: f32| -> Vec<f32> { (0..count).map(|i| (i as f32 * step).sin()).collect() };
        let shape = [BATCH, HEADS, LENGTH, DIM];
        let x = Tensor::from_slice(device, &wave(shape.iter().product(), 0.37), &shape)?;
        let logits = Tensor::from_slice(device, &wave(TASKS * HEADS, 1.7), &[TASKS, HEADS])?;
        Ok(Self { device: device.clone(), x, logits })
    }

    /// The outputs `[batch, heads, length, dim]` for a task per sample, and the heads computed.
    pub fn forward(&self, tasks: [i32; BATCH]) -> Result<(Vec<f32>, u32)> {
        let tasks = Tensor::from_slice(&self.device, &tasks, &[BATCH])?;
        let gate = GateSource::Static { logits: self.logits.view(), tasks: tasks.view() };
        let options = TaskHeadsOptions::new(gate, Activation::top_k(2, true));
        let out = task_heads_forward(&self.x.view(), &self.x.view(), &self.x.view(), &options)?;
        Ok((out.y.to_vec()?, out.counts.to_vec::<u32>()?[0]))
    }
}

#[allow(dead_code, reason = "tests call `Model`")]
fn main() -> Result<()> {
    let device: Device = std::env::args().nth(1).map_or_else(Device::best, |spec| spec.parse())?;
    println!("{TASKS} tasks, {HEADS} heads, on {device:?}");
    let model = Model::new(&device)?;
    for tasks in [[0; BATCH], [1; BATCH], [2; BATCH], [3; BATCH], [0, 1, 2, 3], [3, 2, 1, 0]] {
        let start = Instant::now();
        let (_, active) = model.forward(tasks)?;
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        println!("tasks {tasks:?}: {active} of {} heads computed in {milliseconds:.2} ms", BATCH * HEADS);
    }
    Ok(())
}
