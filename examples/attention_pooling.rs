//! Attention pooling with one learned query per task: each task learns which token of a sample answers it.
//!
//! x̃_t = Σ_j α_tj x_j. Every sample has a tagged token for each task; a task's target is its token's payload. The queries of all tasks
//! are rows of one call, repeated over the batch by a stride of 0.
//!
//! `cargo run --release --example attention_pooling [DEVICE]`

use gatewarp::attention::{
    AttentionOptions, AttentionSaved, WantGradients, attention_backward, attention_forward,
};
use gatewarp::{Device, Layout, Result, Tensor};

const BATCH: usize = 32;
const TASKS: usize = 3;
const TOKENS: usize = 8;
const STEPS: usize = 120;
const RATE: f32 = 4.0;

/// Numbers in 0..1 from a counter.
fn noise(i: usize) -> f32 {
    ((i as u32).wrapping_mul(0x9e37_79b9).rotate_left(15).wrapping_mul(0x85eb_ca6b) >> 8) as f32
        / (1u32 << 24) as f32
}

/// Mean squared error before and after training, and the mean attention on the right token after it.
pub fn train(device: &Device) -> Result<(f32, f32, f32)> {
    // Token j of sample b carries tag (j + b) mod TOKENS as a one-hot key; its payload is noise.
    let tag = |b: usize, j: usize| (j + b) % TOKENS;
    let (mut rows, mut payloads, mut targets) = (Vec::new(), Vec::new(), vec![0.0; BATCH * TASKS]);
    for (b, j) in (0..BATCH).flat_map(|b| (0..TOKENS).map(move |j| (b, j))) {
        rows.extend(
            (0..TOKENS).map(|d| if d == tag(b, j) { 1.0f32 } else { 0.2 * noise(7 * (b * TOKENS + j) + d) }),
        );
        payloads.push(noise(1000 + b * TOKENS + j));
        if tag(b, j) < TASKS {
            targets[b * TASKS + tag(b, j)] = payloads[b * TOKENS + j];
        }
    }
    let keys = Tensor::from_slice(device, &rows, &[BATCH, 1, TOKENS, TOKENS])?;
    let values = Tensor::from_slice(device, &payloads, &[BATCH, 1, TOKENS, 1])?;
    let options = AttentionOptions { scale: Some(1.0), ..Default::default() };
    let repeated = Layout::new(&[BATCH, 1, TASKS, TOKENS], &[0, 0, TOKENS, 1], 0)?;

    let mut queries = vec![0.0f32; TASKS * TOKENS];
    let (mut first, mut last, mut share) = (None, 0.0, 0.0);
    for _ in 0..=STEPS {
        let query = Tensor::from_slice(device, &queries, &[TASKS, TOKENS])?;
        let q = query.view().with_layout(repeated)?;
        let out = attention_forward(&q, &keys.view(), &values.view(), &options)?;
        let errors: Vec<f32> = out.o.to_vec::<f32>()?.iter().zip(&targets).map(|(x, y)| x - y).collect();
        last = errors.iter().map(|e| e * e).sum::<f32>() / errors.len() as f32;
        first.get_or_insert(last);
        let grad: Vec<f32> = errors.iter().map(|e| 2.0 * e / BATCH as f32).collect();
        let grad = Tensor::from_slice(device, &grad, &[BATCH, 1, TASKS, 1])?;
        let saved =
            AttentionSaved { o: out.o.view(), lse: out.lse.view(), grad_o: grad.view(), grad_lse: None };
        let want = WantGradients { dq: true, dk: false, dv: false, ..Default::default() };
        let gradients = attention_backward(&q, &keys.view(), &values.view(), &saved, &options, want)?;
        // The weight of a task's own token, which is number (t − b) mod TOKENS: e^(q·k − lse).
        let lse = out.lse.to_vec::<f32>()?;
        let own = |b: usize, t: usize| {
            let key = &rows[(b * TOKENS + (t + BATCH * TOKENS - b) % TOKENS) * TOKENS..][..TOKENS];
            let score: f32 = queries[t * TOKENS..][..TOKENS].iter().zip(key).map(|(q, k)| q * k).sum();
            (score - lse[b * TASKS + t]).exp()
        };
        let pairs = (0..BATCH).flat_map(|b| (0..TASKS).map(move |t| (b, t)));
        share = pairs.map(|(b, t)| own(b, t)).sum::<f32>() / (BATCH * TASKS) as f32;
        let Some(dq) = gradients.dq else { break };
        for (at, dq) in dq.to_vec::<f32>()?.into_iter().enumerate() {
            queries[at % (TASKS * TOKENS)] -= RATE * dq; // samples share their queries
        }
    }
    Ok((first.unwrap_or(last), last, share))
}

#[allow(dead_code, reason = "tests call `train`")]
fn main() -> Result<()> {
    let device: Device = std::env::args().nth(1).map_or_else(Device::best, |spec| spec.parse())?;
    let (first, last, share) = train(&device)?;
    println!("{TASKS} tasks, {TOKENS} tokens, on {device:?}");
    println!(
        "squared error {first:.4} before, {last:.4} after {STEPS} steps; weight of the right token about {share:.2}"
    );
    Ok(())
}
