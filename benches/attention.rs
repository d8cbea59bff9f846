//! Attention on the CPU, forward and backward. Each case's output is checked against the formula in f64 before it is timed.
//!
//! `cargo bench --no-default-features --bench attention`; criterion's "elements" are floating-point operations, so Gelem/s reads
//! GFLOP/s. A causal mask counts half.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gatewarp::attention::{
    AttentionGradientViews, AttentionOptions, AttentionSaved, Workspace, attention_backward_into,
    attention_forward_into,
};
use gatewarp::{TensorMut, TensorRef};
use std::hint::black_box;

struct Case {
    batch: usize,
    heads: usize,
    len: usize,
    dim: usize,
    causal: bool,
}

const CASES: [Case; 4] = [
    Case { batch: 1, heads: 8, len: 512, dim: 64, causal: false },
    Case { batch: 1, heads: 8, len: 1024, dim: 64, causal: true },
    Case { batch: 2, heads: 8, len: 1024, dim: 64, causal: false },
    Case { batch: 1, heads: 4, len: 2048, dim: 128, causal: false },
];

impl Case {
    fn name(&self) -> String {
        let Self { batch, heads, len, dim, causal } = self;
        format!("B{batch} H{heads} S{len} D{dim}{}", if *causal { " causal" } else { "" })
    }

    fn shape(&self) -> [usize; 4] {
        [self.batch, self.heads, self.len, self.dim]
    }

    /// Floating-point operations of `products` products of scores and vectors.
    fn flops(&self, products: u64) -> u64 {
        let all = 2 * products * (self.batch * self.heads * self.len * self.len * self.dim) as u64;
        if self.causal { all / 2 } else { all }
    }
}

/// Uniform numbers with variance 1.
fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 1.732
    };
    (0..n).map(|_| next()).collect()
}

/// The tensors of one case, all dense.
struct Tensors {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    grad: Vec<f32>,
    o: Vec<f32>,
    lse: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl Tensors {
    fn new(case: &Case) -> Self {
        let n = case.shape().iter().product();
        let nan = || vec![f32::NAN; n];
        let [q, k, v, grad] = [1, 2, 3, 4].map(|seed| random(n, seed));
        Self { q, k, v, grad, o: nan(), lse: vec![f32::NAN; n / case.dim], dq: nan(), dk: nan(), dv: nan() }
    }

    fn forward(&mut self, case: &Case) -> gatewarp::Result<()> {
        let options = AttentionOptions { causal: case.causal, ..Default::default() };
        let view = |data| TensorRef::from_slice(data, &case.shape());
        let mut o = TensorMut::from_slice(&mut self.o, &case.shape())?;
        let mut lse = TensorMut::from_slice(&mut self.lse, &case.shape()[..3])?;
        attention_forward_into(
            &view(&self.q)?,
            &view(&self.k)?,
            &view(&self.v)?,
            &options,
            &mut o,
            &mut lse,
            Workspace::Allocate,
        )
    }

    fn backward(&mut self, case: &Case) -> gatewarp::Result<()> {
        let options = AttentionOptions { causal: case.causal, ..Default::default() };
        let view = |data| TensorRef::from_slice(data, &case.shape());
        let saved = AttentionSaved {
            o: view(&self.o)?,
            lse: TensorRef::from_slice(&self.lse, &case.shape()[..3])?,
            grad_o: view(&self.grad)?,
            grad_lse: None,
        };
        let gradients = AttentionGradientViews {
            dq: Some(TensorMut::from_slice(&mut self.dq, &case.shape())?),
            dk: Some(TensorMut::from_slice(&mut self.dk, &case.shape())?),
            dv: Some(TensorMut::from_slice(&mut self.dv, &case.shape())?),
            drow_scale: None,
            ..Default::default()
        };
        attention_backward_into(
            &view(&self.q)?,
            &view(&self.k)?,
            &view(&self.v)?,
            &saved,
            &options,
            gradients,
            Workspace::Allocate,
        )
    }

    /// Compares one head with the formulas.
    fn check(&self, case: &Case) {
        let (len, dim) = (case.len, case.dim);
        let start = (case.batch * case.heads - 1) * len * dim;
        let wide =
            |x: &[f32]| -> Vec<f64> { x[start..start + len * dim].iter().map(|&x| x.into()).collect() };
        let [q, k, v, grad] = [&self.q, &self.k, &self.v, &self.grad].map(|x| wide(x));
        let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        let row = |x: &[f64], i: usize| -> Vec<f64> { x[i * dim..(i + 1) * dim].to_vec() };
        let (mut o, mut dq) = (vec![0.0; len * dim], vec![0.0; len * dim]);
        let (mut dk, mut dv) = (vec![0.0; len * dim], vec![0.0; len * dim]);
        let scale = 1.0 / (dim as f64).sqrt();
        for i in 0..len {
            let seen = if case.causal { i + 1 } else { len };
            let (q, grad) = (row(&q, i), row(&grad, i));
            let mut p: Vec<f64> = (0..seen).map(|j| scale * dot(&q, &k[j * dim..(j + 1) * dim])).collect();
            let top = p.iter().copied().fold(f64::MIN, f64::max);
            p.iter_mut().for_each(|p| *p = (*p - top).exp());
            let total: f64 = p.iter().sum();
            for (j, p) in p.iter_mut().enumerate() {
                *p /= total;
                (0..dim).for_each(|d| o[i * dim + d] += *p * v[j * dim + d]);
            }
            let delta = dot(&o[i * dim..(i + 1) * dim], &grad);
            for (j, p) in p.iter().enumerate() {
                let ds = p * (dot(&grad, &v[j * dim..(j + 1) * dim]) - delta) * scale;
                for d in 0..dim {
                    dq[i * dim + d] += ds * k[j * dim + d];
                    dk[j * dim + d] += ds * q[d];
                    dv[j * dim + d] += p * grad[d];
                }
            }
        }
        for (name, got, want) in
            [("o", &self.o, o), ("dq", &self.dq, dq), ("dk", &self.dk, dk), ("dv", &self.dv, dv)]
        {
            // Four times the errors seen, for inputs of variance 1.
            let worst = wide(got).iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
            let finite = wide(got).iter().all(|x| x.is_finite());
            assert!(finite && worst <= 1e-5, "{} {name}: off by {worst:e}", case.name());
        }
    }
}

fn attention(criterion: &mut Criterion) {
    for case in &CASES {
        let mut tensors = Tensors::new(case);
        tensors.forward(case).expect("forward");
        tensors.backward(case).expect("backward");
        tensors.check(case);
        let mut group = criterion.benchmark_group(format!("attention {}", case.name()));
        group.sample_size(20);
        group.throughput(Throughput::Elements(case.flops(2)));
        group.bench_function("forward", |b| b.iter(|| black_box(tensors.forward(case))));
        group.throughput(Throughput::Elements(case.flops(5)));
        group.bench_function("backward", |b| b.iter(|| black_box(tensors.backward(case))));
        group.finish();
    }
}

criterion_group!(benches, attention);
criterion_main!(benches);
