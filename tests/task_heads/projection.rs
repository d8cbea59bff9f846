//! The output projection on active heads, and its gradients, against loops in f64.

use crate::launch::{task_ids, tensor};
use crate::support::compare::{close, same_bits};
use crate::support::devices::TestDevice;
use crate::support::guarded::{Guarded, Inner, Strided, random_layout};
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use crate::support::tolerance::{TINY, U};
use gatewarp::task_heads::{OutProjection, task_heads_project_backward, task_heads_project_into};
use gatewarp::{Device, Error, Tensor};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Case {
    batch: usize,
    heads: usize,
    rows: usize,
    depth: usize,
    width: usize,
    /// `None`: one task, no ids.
    tasks: Option<usize>,
    seed: u64,
}

/// Values of a case; what must not be read is NaN.
struct Data {
    y: Vec<f32>,
    weights: Vec<f32>,
    grad: Vec<f32>,
    gates: Vec<f32>,
    ids: Vec<i64>,
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (0usize..=4, 1usize..=4, prop::sample::select(vec![1usize, 3, 31, 33, 65, 70]));
    let dims = (
        prop::sample::select(vec![1usize, 5, 16, 17, 33, 66]),
        prop::sample::select(vec![1usize, 7, 32, 33, 65]),
    );
    let tasks = prop_oneof![1 => Just(None), 2 => (1usize..=3).prop_map(Some)];
    (sizes, dims, tasks, any::<u64>().no_shrink()).prop_map(
        |((batch, heads, rows), (depth, width), tasks, seed)| Case {
            batch,
            heads,
            rows,
            depth,
            width,
            tasks,
            seed,
        },
    )
}

impl Case {
    fn inputs(&self) -> usize {
        self.heads * self.depth
    }

    fn task(&self, data: &Data, b: usize) -> Option<usize> {
        if self.tasks.is_none() { Some(0) } else { usize::try_from(data.ids[b]).ok() }
    }

    fn data(&self) -> Data {
        let mut random = Random::new(self.seed, 61);
        let tasks = self.tasks.unwrap_or(1);
        let pairs = self.batch * self.heads;
        let gates: Vec<f32> = (0..pairs).map(|_| [0.0, -0.0, 0.5, -2.0, 1.0][random.below(5)]).collect();
        let ids =
            (0..self.batch).map(|_| if random.one_in(6) { -1 } else { random.below(tasks) as i64 }).collect();
        let mut data = Data {
            y: random.values(pairs * self.rows * self.depth, 1.0),
            weights: random.values(tasks * self.inputs() * self.width, 1.0),
            grad: random.values(self.batch * self.rows * self.width, 1.0),
            gates,
            ids,
        };
        for pair in (0..pairs).filter(|&pair| data.gates[pair] == 0.0) {
            data.y[pair * self.rows * self.depth..][..self.rows * self.depth].fill(f32::NAN);
        }
        for (task, head) in (0..tasks).flat_map(|t| (0..self.heads).map(move |h| (t, h))) {
            let reads =
                |b: usize| self.task(&data, b) == Some(task) && data.gates[b * self.heads + head] != 0.0;
            if !(0..self.batch).any(reads) {
                let per_head = self.depth * self.width;
                data.weights[(task * self.heads + head) * per_head..][..per_head].fill(f32::NAN);
            }
        }
        data
    }
}

/// Value and terms of each element.
struct Sums(Vec<f64>, Vec<f64>);

impl Sums {
    fn zeros(count: usize) -> Self {
        Self(vec![0.0; count], vec![0.0; count])
    }

    fn add(&mut self, at: usize, x: f32, y: f32) {
        let product = f64::from(x) * f64::from(y);
        self.0[at] += product;
        self.1[at] += product.abs();
    }

    fn check(&self, name: &str, got: &[f32], length: usize) -> Result<(), String> {
        let bound = |terms: &f64| (4.0 + length as f64) * U * terms + TINY;
        close(name, got, &self.0, &self.1.iter().map(bound).collect::<Vec<_>>()).map(drop)
    }
}

struct Run {
    out: Vec<f32>,
    dy: Vec<f32>,
    dweights: Vec<f32>,
}

fn run(device: &Device, case: &Case, data: &Data) -> Result<Run, String> {
    let mut random = Random::new(case.seed, 62);
    let mut strided = |values: &[f32], shape: &[usize]| {
        Strided::new(device, values, random_layout(shape, Inner::Contiguous, &mut random))
    };
    let y = strided(&data.y, &[case.batch, case.heads, case.rows, case.depth]);
    let weights = strided(&data.weights, &[case.tasks.unwrap_or(1), case.inputs(), case.width]);
    let grad = strided(&data.grad, &[case.batch, case.rows, case.width]);
    let gates = tensor(device, &data.gates, &[case.batch, case.heads]);
    let ids = case.tasks.map(|_| task_ids(device, &data.ids, &mut random));
    let projection = OutProjection { weights: weights.view(), tasks: ids.as_ref().map(Tensor::view) };
    let say = |error: Error| error.to_string();
    let layout = random_layout(&[case.batch, case.rows, case.width], Inner::Contiguous, &mut random);
    let mut out = Guarded::new(device, layout);
    task_heads_project_into(&y.view(), &gates.view(), &projection, &mut out.view_mut()).map_err(say)?;
    let gradients =
        task_heads_project_backward(&y.view(), &gates.view(), &projection, &grad.view(), true, true)
            .map_err(say)?;
    let read = |tensor: Option<Tensor>| tensor.ok_or("asked for")?.to_vec::<f32>().map_err(say);
    let run = Run { out: out.read("out")?, dy: read(gradients.dy)?, dweights: read(gradients.dweights)? };
    y.check_untouched("y")?;
    weights.check_untouched("weights")?;
    grad.check_untouched("grad_out")?;
    Ok(run)
}

pub fn projection_is_the_formula(device: &TestDevice) -> Result<(), String> {
    check("projection_is_the_formula", device, CASES, &cases(), |handle, case| {
        let data = case.data();
        let got = run(handle, case, &data)?;
        let (heads, rows, depth, width) = (case.heads, case.rows, case.depth, case.width);
        let mut out = Sums::zeros(data.grad.len());
        let (mut dy, mut dweights) = (Sums::zeros(data.y.len()), Sums::zeros(data.weights.len()));
        for (b, h) in (0..case.batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
            let Some(task) = case.task(&data, b).filter(|_| data.gates[b * heads + h] != 0.0) else {
                continue;
            };
            for (s, d) in (0..rows).flat_map(|s| (0..depth).map(move |d| (s, d))) {
                let (y_at, k) = (((b * heads + h) * rows + s) * depth + d, (task * heads + h) * depth + d);
                for e in 0..width {
                    let (out_at, w_at) = ((b * rows + s) * width + e, k * width + e);
                    out.add(out_at, data.y[y_at], data.weights[w_at]);
                    dy.add(y_at, data.grad[out_at], data.weights[w_at]);
                    dweights.add(w_at, data.y[y_at], data.grad[out_at]);
                }
            }
        }
        out.check("out", &got.out, heads * depth)?;
        dy.check("dy", &got.dy, width)?;
        dweights.check("dweights", &got.dweights, case.batch * rows)
    })
}

/// A sample's bits depend on nothing but the sample.
pub fn a_projected_sample_does_not_see_its_batch(device: &TestDevice) -> Result<(), String> {
    let strategy = cases().prop_map(|case| Case { batch: case.batch.max(2), tasks: None, ..case });
    check("a_projected_sample_does_not_see_its_batch", device, CASES / 4, &strategy, |handle, case| {
        let data = case.data();
        let whole = run(handle, case, &data)?;
        let last = case.batch - 1;
        let take = |values: &[f32]| values[values.len() / case.batch * last..].to_vec();
        let weights = data.weights.iter().map(|w| if w.is_nan() { 0.25 } else { *w }).collect();
        let alone = Data {
            y: take(&data.y),
            weights,
            grad: take(&data.grad),
            gates: take(&data.gates),
            ids: Vec::new(),
        };
        let got = run(handle, &Case { batch: 1, ..case.clone() }, &alone)?;
        same_bits("out", &got.out, &take(&whole.out))?;
        same_bits("dy", &got.dy, &take(&whole.dy))
    })
}
