//! What a skipped head costs: forward and backward with 12.5, 25, 50 and 100% of the heads active, against plain attention.
//!
//! Not criterion: the figure is a ratio, and on a shared machine only measurements taken in turns can be divided. Each round
//! times plain attention and every fraction once; a line is the median of its rounds' ratios.
//! `cargo bench --no-default-features --bench task_heads` prints CSV for `benches/record/`. `GATEWARP_DEVICE` chooses the
//! device, `GATEWARP_BENCH_ROUNDS` how often.

use gatewarp::attention::{
    AttentionGradientViews, AttentionOptions, AttentionSaved, WantGradients, Workspace, attention_backward,
    attention_backward_into, attention_forward, attention_forward_into,
};
use gatewarp::task_heads::{
    Activation, GateSource, TaskHeadsOptions, TaskHeadsOutput, TaskHeadsViews, WantTaskHeadsGradients,
    task_heads_backward, task_heads_forward, task_heads_forward_into,
};
use gatewarp::{DType, Device, Result, Tensor};
use std::time::Instant;

const BATCH: usize = 4;
const HEADS: usize = 8;
const DIM: usize = 64;
/// Active heads of eight.
const ACTIVE: [usize; 4] = [1, 2, 4, 8];

struct Problem {
    device: Device,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grad_y: Tensor,
    length: usize,
}

fn values(count: usize, seed: u32) -> Vec<f32> {
    let word = |i: u32| (i ^ seed).wrapping_mul(0x9e37_79b9).rotate_left(13).wrapping_mul(0x85eb_ca6b);
    (0..count as u32).map(|i| (word(i) >> 8) as f32 / (1u32 << 23) as f32 - 1.0).collect()
}

/// Gate 1 for the first `active` heads, rotated by sample so that tasks differ; 0 for the others.
fn gates(device: &Device, active: usize) -> Result<Tensor> {
    let on = |pair: usize| (pair % HEADS + pair / HEADS) % HEADS < active;
    let gates: Vec<f32> = (0..BATCH * HEADS).map(|pair| if on(pair) { 1.0 } else { 0.0 }).collect();
    Tensor::from_slice(device, &gates, &[BATCH, HEADS])
}

impl Problem {
    fn new(device: &Device, length: usize) -> Result<Self> {
        let shape = [BATCH, HEADS, length, DIM];
        let make = |seed| Tensor::from_slice(device, &values(shape.iter().product(), seed), &shape);
        Ok(Self { device: device.clone(), q: make(1)?, k: make(2)?, v: make(3)?, grad_y: make(4)?, length })
    }

    fn zeros(&self) -> Result<Tensor> {
        Tensor::zeros(&self.device, DType::F32, self.q.shape())
    }

    fn options(gates: &Tensor) -> TaskHeadsOptions<'_> {
        TaskHeadsOptions::new(GateSource::Provided { values: gates.view() }, Activation::Identity)
    }

    /// A gated forward pass, after comparing it with plain attention: the active heads have its bits, the others are 0.
    fn checked_forward(&self, gates: &Tensor) -> Result<TaskHeadsOutput> {
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        let plain = attention_forward(&q, &k, &v, &AttentionOptions::default())?.o.to_vec::<f32>()?;
        let out = task_heads_forward(&q, &k, &v, &Self::options(gates))?;
        let (y, gates) = (out.y.to_vec::<f32>()?, gates.to_vec::<f32>()?);
        let pair = self.length * DIM;
        for (at, (&y, &plain)) in y.iter().zip(&plain).enumerate() {
            let want = if gates[at / pair] == 0.0 { 0.0 } else { plain };
            assert_eq!(y.to_bits(), want.to_bits(), "y[{at}] is {y:e}, expected {want:e}");
        }
        Ok(out)
    }

    /// Seconds of `work` and of the wait for it.
    fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let started = Instant::now();
        work()?;
        self.device.synchronize()?;
        Ok(started.elapsed().as_secs_f64())
    }

    fn dense_forward(&self, y: &mut Tensor, lse: &mut Tensor) -> Result<f64> {
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        let options = AttentionOptions::default();
        self.time(|| {
            attention_forward_into(
                &q,
                &k,
                &v,
                &options,
                &mut y.view_mut(),
                &mut lse.view_mut(),
                Workspace::Allocate,
            )
        })
    }

    fn gated_forward(&self, gates: &Tensor, out: &mut TaskHeadsOutput) -> Result<f64> {
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        let views = TaskHeadsViews {
            y: out.y.view_mut(),
            lse: out.lse.view_mut(),
            gates: out.gates.view_mut(),
            probabilities: out.probabilities.view_mut(),
            order: out.order.view_mut(),
            kv_order: out.kv_order.view_mut(),
            counts: out.counts.view_mut(),
            active: out.active.view_mut(),
        };
        self.time(|| task_heads_forward_into(&q, &k, &v, &Self::options(gates), views))
    }

    /// dq, dk, dv into zeroed tensors made within the measurement, as the gated pass makes its own.
    fn dense_backward(&self, y: &Tensor, lse: &Tensor) -> Result<f64> {
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        let saved =
            AttentionSaved { o: y.view(), lse: lse.view(), grad_o: self.grad_y.view(), grad_lse: None };
        let options = AttentionOptions::default();
        self.time(|| {
            let (mut dq, mut dk, mut dv) = (self.zeros()?, self.zeros()?, self.zeros()?);
            let views = AttentionGradientViews {
                dq: Some(dq.view_mut()),
                dk: Some(dk.view_mut()),
                dv: Some(dv.view_mut()),
                drow_scale: None,
                ..Default::default()
            };
            attention_backward_into(&q, &k, &v, &saved, &options, views, Workspace::Allocate)
        })
    }

    fn gated_backward(&self, gates: &Tensor, out: &TaskHeadsOutput) -> Result<f64> {
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        let (options, want) = (Self::options(gates), WantTaskHeadsGradients::default());
        let saved = out.saved();
        self.time(|| task_heads_backward(&q, &k, &v, &saved, &self.grad_y.view(), &options, want).map(drop))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn measure(device: &Device, length: usize, rounds: usize) -> Result<()> {
    let problem = Problem::new(device, length)?;
    let all_gates = ACTIVE.iter().map(|&active| gates(device, active)).collect::<Result<Vec<_>>>()?;
    let mut outputs =
        all_gates.iter().map(|gates| problem.checked_forward(gates)).collect::<Result<Vec<_>>>()?;
    let (q, k, v) = (problem.q.view(), problem.k.view(), problem.v.view());
    let mut plain = attention_forward(&q, &k, &v, &AttentionOptions::default())?;
    let saved = AttentionSaved {
        o: plain.o.view(),
        lse: plain.lse.view(),
        grad_o: problem.grad_y.view(),
        grad_lse: None,
    };
    attention_backward(&q, &k, &v, &saved, &AttentionOptions::default(), WantGradients::default())?;

    // [pass][fraction], of every round.
    let mut seconds = vec![vec![Vec::new(); ACTIVE.len()]; 2];
    let mut ratios = seconds.clone();
    for _ in 0..rounds {
        let forward = problem.dense_forward(&mut plain.o, &mut plain.lse)?;
        let backward = problem.dense_backward(&plain.o, &plain.lse)?;
        for (at, gates) in all_gates.iter().enumerate() {
            let times = [
                problem.gated_forward(gates, &mut outputs[at])?,
                problem.gated_backward(gates, &outputs[at])?,
            ];
            for (pass, dense) in [forward, backward].into_iter().enumerate() {
                seconds[pass][at].push(times[pass]);
                ratios[pass][at].push(times[pass] / dense);
            }
        }
    }
    // Products of a forward pass: q·k and p·v; of a backward pass: q·k and dy·v twice (once for dq, once for dk and dv), and
    // dq, dk, dv.
    let products = [2.0, 7.0];
    for (pass, name) in ["task_heads_forward", "task_heads_backward"].into_iter().enumerate() {
        for (at, &active) in ACTIVE.iter().enumerate() {
            let fraction = active as f64 / HEADS as f64;
            let ratio = median(ratios[pass][at].clone());
            let time = median(seconds[pass][at].clone());
            let flops = 2.0 * products[pass] * (BATCH * HEADS * length * length * DIM) as f64 * fraction;
            println!(
                "{name},{length},{fraction},{:.3},{ratio:.3},{:.3},{:.1}",
                time * 1e3,
                ratio / fraction,
                flops / time / 1e9
            );
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let device = match std::env::var("GATEWARP_DEVICE") {
        Ok(spec) => spec.parse()?,
        Err(_) => Device::cpu(),
    };
    let rounds = std::env::var("GATEWARP_BENCH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(31);
    println!("# {}, batch {BATCH}, heads {HEADS}, dim {DIM}, f32, medians of {rounds} rounds", device.name());
    println!("operation,length,active,milliseconds,share_of_dense,share_over_active,gflops");
    for length in [512, 1024] {
        measure(&device, length, rounds)?;
    }
    Ok(())
}
