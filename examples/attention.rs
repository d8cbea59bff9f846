//! What causal attention costs and what it leaves out, on any device.
//!
//! `cargo run --release --example attention [DEVICE]`

use gatewarp::attention::{
    AttentionOptions, AttentionSaved, WantGradients, attention_backward, attention_forward,
};
use gatewarp::{Device, Result, Tensor};
use std::time::Instant;

const SHAPE: [usize; 4] = [1, 8, 512, 64];

fn main() -> Result<()> {
    let device: Device = std::env::args().nth(1).map_or_else(Device::best, |spec| spec.parse())?;
    let make = |seed: f32| {
        let count = SHAPE.iter().product::<usize>();
        let data: Vec<f32> = (0..count).map(|i| (i as f32 * seed).sin()).collect();
        Tensor::from_slice(&device, &data, &SHAPE)
    };
    let (q, k, v) = (make(0.37)?, make(0.53)?, make(0.71)?);
    println!("batch, heads, length, dimension {SHAPE:?} on {device:?}");
    for causal in [false, true] {
        let options = AttentionOptions { causal, ..Default::default() };
        let out = attention_forward(&q.view(), &k.view(), &v.view(), &options)?; // compiles kernels
        device.synchronize()?;
        let start = Instant::now();
        attention_forward(&q.view(), &k.view(), &v.view(), &options)?;
        device.synchronize()?;
        let forward = start.elapsed().as_secs_f64();

        let saved = AttentionSaved { o: out.o.view(), lse: out.lse.view(), grad_o: v.view(), grad_lse: None };
        let start = Instant::now();
        attention_backward(&q.view(), &k.view(), &v.view(), &saved, &options, WantGradients::default())?;
        device.synchronize()?;
        let backward = start.elapsed().as_secs_f64();

        let [batch, heads, length, dim] = SHAPE.map(|n| n as f64);
        let flops = 4.0 * batch * heads * length * length * dim / if causal { 2.0 } else { 1.0 };
        println!(
            "causal {causal:<5}  forward {:7.2} ms, {:6.1} GFLOP/s   backward {:7.2} ms, {:6.1} GFLOP/s",
            forward * 1e3,
            flops / forward / 1e9,
            backward * 1e3,
            2.5 * flops / backward / 1e9
        );
    }
    Ok(())
}
