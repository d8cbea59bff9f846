//! Cases of `task_heads`: every source and activation over the attention problems, samples without a task among them.

use super::attention::{Case, Placed, reference};
use super::compare::{Comparison, Expected};
use super::random::Random;
use super::{Checked, Failure, Operation};
use crate::device::Device;
use crate::error::Result;
use crate::task_heads::{
    Activation, GateSource, NO_TASK, NoTask, SoftmaxScale, TaskHeadsOptions, TaskHeadsOutput,
    WantTaskHeadsGradients, task_heads_backward, task_heads_forward,
};
use crate::tensor::{Tensor, TensorRef};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation { name: "task_heads_forward", check: forward },
    Operation { name: "task_heads_backward", check: backward },
];

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1u32 << 24) as f64;
const TINY: f64 = f32::MIN_POSITIVE as f64;
/// Rows of static logits.
const TASKS: usize = 3;
/// Largest |logit|.
const REACH: f32 = 3.0;

/// An attention problem under a gate. Its `active` and `row_scale` are the gate's.
struct Gated {
    attention: Case,
    /// `[TASKS, heads]`, or `[batch, heads]` without tasks.
    logits: Vec<f32>,
    tasks: Option<Vec<i32>>,
    activation: Activation,
    no_task: NoTask,
    /// Of every pair, in f64.
    gates: Vec<Gate>,
}

/// A pair's gate, and the weights of the derivative `dz = a·u − b·Σ c·u` by its logit, where u is the derivative by a gate.
#[derive(Clone, Copy)]
struct Gate {
    value: f64,
    a: f64,
    b: f64,
    c: f64,
}

impl Gated {
    fn new(number: usize, seed: u64) -> Self {
        let mut attention = Case::new(number, seed);
        let mut random = Random::new(!seed);
        let (batch, heads) = (attention.batch, attention.q_heads);
        let kept = random.between(1, heads);
        let activation = match number % 10 {
            0 | 1 => Activation::Identity,
            2 => Activation::Sigmoid,
            3 => Activation::Softmax { scale: SoftmaxScale::One },
            4 => Activation::Softmax { scale: SoftmaxScale::Heads },
            5 => Activation::top_k(kept, false),
            // A renormalised top-1 is the constant 1.
            6 => Activation::top_k(kept, kept > 1),
            7 => Activation::TopP { p: 0.37 },
            8 => Activation::Threshold { t: 0.43 },
            _ => Activation::TopK {
                k: kept,
                renormalise: true,
                straight_through: true,
                shared_heads: 0,
                noise: 0.0,
            },
        };
        let tasks = random.one_in(2).then(|| {
            let one = |random: &mut Random| {
                if random.one_in(6) { NO_TASK } else { random.between(0, TASKS - 1) as i32 }
            };
            (0..batch).map(|_| one(&mut random)).collect::<Vec<_>>()
        });
        let rows = if tasks.is_some() { TASKS } else { batch };
        let mut logits = random.values(rows * heads, REACH);
        logits.iter_mut().for_each(|z| *z = if random.one_in(4) { 0.0 } else { *z });
        let no_task = if random.one_in(2) { NoTask::Full } else { NoTask::Skip };

        let mut gates = Vec::with_capacity(batch * heads);
        for b in 0..batch {
            match tasks.as_ref().map_or(b as i32, |tasks| tasks[b]) {
                NO_TASK => {
                    let value = if no_task == NoTask::Full { 1.0 } else { 0.0 };
                    gates.extend(vec![Gate { value, a: 0.0, b: 0.0, c: 0.0 }; heads]);
                }
                row => gates.extend(activate(activation, &logits[row as usize * heads..][..heads])),
            }
        }
        attention.active = Some(gates.iter().map(|gate| gate.value != 0.0).collect());
        attention.row_scale =
            gates.iter().flat_map(|gate| std::iter::repeat_n(gate.value as f32, attention.q_len)).collect();
        attention.grad_lse.fill(0.0);
        Self { attention, logits, tasks, activation, no_task, gates }
    }

    fn describe(&self) -> String {
        let source = if self.tasks.is_some() { "static" } else { "provided" };
        format!("{} {source} {:?}", self.attention.describe(), self.activation)
    }

    /// The gate's own rounding, relative: an exponential's error grows with its argument.
    fn gate_error(&self) -> f64 {
        match self.activation {
            Activation::Identity => U,
            _ => 16.0 * U * (1.0 + f64::from(REACH)),
        }
    }

    fn launch<T>(
        &self,
        device: &Device,
        placed: &Placed,
        body: impl FnOnce([TensorRef<'_>; 3], &TaskHeadsOptions<'_>, TaskHeadsOutput) -> Result<T>,
    ) -> Result<T> {
        let heads = self.attention.q_heads;
        let logits = Tensor::from_slice(device, &self.logits, &[self.logits.len() / heads, heads])?;
        let tasks =
            self.tasks.as_ref().map(|ids| Tensor::from_slice(device, ids, &[ids.len()])).transpose()?;
        let gate = match &tasks {
            Some(tasks) => GateSource::Static { logits: logits.view(), tasks: tasks.view() },
            None => GateSource::Provided { values: logits.view() },
        };
        let mut options = TaskHeadsOptions::new(gate, self.activation);
        options.no_task = self.no_task;
        options.attention = placed.options();
        options.attention.heads = None;
        let inputs = [placed.view(&placed.q)?, placed.view(&placed.k)?, placed.view(&placed.v)?];
        let [q, k, v] = &inputs;
        let out = task_heads_forward(q, k, v, &options)?;
        device.synchronize()?;
        body(inputs.clone(), &options, out)
    }
}

/// Gates of one sample and the weights of their derivative, as the definitions say.
fn activate(activation: Activation, z: &[f32]) -> Vec<Gate> {
    let z: Vec<f64> = z.iter().map(|&z| z.into()).collect();
    let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = z.iter().map(|z| (z - top).exp()).sum();
    let p: Vec<f64> = z.iter().map(|z| (z - top).exp() / sum).collect();
    let rank = |h: usize| (0..z.len()).filter(|&j| z[j] > z[h] || (z[j] == z[h] && j < h)).count();
    let k = if let Activation::TopK { k, .. } = activation { k } else { z.len() };
    let kept: f64 = (0..z.len()).filter(|&h| rank(h) < k).map(|h| p[h]).sum();
    let one = |h: usize| -> Gate {
        let on = if rank(h) < k { 1.0 } else { 0.0 };
        match activation {
            Activation::Identity => Gate { value: z[h], a: 1.0, b: 0.0, c: 0.0 },
            Activation::Sigmoid => {
                let g = 1.0 / (1.0 + (-z[h]).exp());
                Gate { value: g, a: g * (1.0 - g), b: 0.0, c: 0.0 }
            }
            Activation::Threshold { t } => {
                let g = 1.0 / (1.0 + (-z[h]).exp());
                let g = if g < f64::from(t) { 0.0 } else { g };
                Gate { value: g, a: g * (1.0 - g), b: 0.0, c: 0.0 }
            }
            Activation::TopP { p: share } => {
                let before: f64 = (0..z.len()).filter(|&j| rank(j) < rank(h)).map(|j| p[j]).sum();
                let g = if before < f64::from(share) { p[h] } else { 0.0 };
                Gate { value: g, a: g, b: p[h], c: g }
            }
            Activation::Softmax { scale } => {
                let scale = if scale == SoftmaxScale::Heads { z.len() as f64 } else { 1.0 };
                Gate { value: scale * p[h], a: scale * p[h], b: p[h], c: scale * p[h] }
            }
            Activation::TopK { renormalise: true, straight_through: false, .. } => {
                let g = on * p[h] / kept;
                Gate { value: g, a: g, b: g, c: g }
            }
            // The dense softmax's derivative, skipped heads contributing 0.
            Activation::TopK { renormalise, .. } => {
                let value = if renormalise { on * p[h] / kept } else { on * p[h] };
                Gate { value, a: on * p[h], b: p[h], c: on * p[h] }
            }
        }
    };
    (0..z.len()).map(one).collect()
}

/// What a pair that takes no part must hold, in place of nothing.
fn with_default(want: Vec<Option<Expected>>, value: f64) -> Vec<Option<Expected>> {
    want.into_iter().map(|want| want.or(Some(Expected { value, tolerance: TINY }))).collect()
}

/// Adds the gate's error to a bound that is about attention alone: `size` is what the gate multiplies.
fn widened(want: &mut [Option<Expected>], factor: f64) {
    // Bounds are 16u or 64u times the magnitudes that were added up, so they scale with the gate's share of 16u.
    want.iter_mut().flatten().for_each(|want| want.tolerance = want.tolerance * factor + TINY);
}

fn forward(device: &Device, number: usize, seed: u64) -> Checked {
    let case = Gated::new(number, seed);
    let run = || -> std::result::Result<f64, Failure> {
        let placed = Placed::new(device, &case.attention)?;
        let (y, lse, gates) = case.launch(device, &placed, |_, _, out| {
            Ok((out.y.to_vec::<f32>()?, out.lse.to_vec::<f32>()?, out.gates.to_vec::<f32>()?))
        })?;
        let mut want = reference(&case.attention);
        widened(&mut want.o, 1.0 + case.gate_error() / (16.0 * U));
        let error = case.gate_error();
        let want_gates = case.gates.iter().map(|gate| {
            let tolerance = error * gate.value.abs() + TINY;
            Some(Expected { value: gate.value, tolerance })
        });
        let mut comparison = Comparison::default();
        comparison.check("gates", &gates, &want_gates.collect::<Vec<_>>())?;
        comparison.check("y", &y, &with_default(want.o, 0.0))?;
        comparison.check("lse", &lse, &with_default(want.lse, f64::NEG_INFINITY))?;
        Ok(comparison.worst)
    };
    Checked { problem: case.describe(), worst: run() }
}

fn backward(device: &Device, number: usize, seed: u64) -> Checked {
    let case = Gated::new(number, seed);
    let run = || -> std::result::Result<f64, Failure> {
        let placed = Placed::new(device, &case.attention)?;
        let gradients = case.launch(device, &placed, |[q, k, v], options, out| {
            let grad_y = placed.view(&placed.grad_o)?;
            // A top-1 of one head is constant too.
            let constant = Activation::top_k(1, true);
            let want = WantTaskHeadsGradients { dgate: case.activation != constant, ..Default::default() };
            let gradients = task_heads_backward(&q, &k, &v, &out.saved(), &grad_y, options, want)?;
            let read = |tensor: Option<Tensor>| tensor.map(|tensor| tensor.to_vec::<f32>()).transpose();
            Ok([read(gradients.dq)?, read(gradients.dk)?, read(gradients.dv)?, read(gradients.dgate)?])
        })?;
        let mut want = reference(&case.attention);
        let factor = 1.0 + case.gate_error() / (16.0 * U);
        [&mut want.dq, &mut want.dk, &mut want.dv].into_iter().for_each(|want| widened(want, factor));
        let dgate = logit_gradient(&case, &want.drow_scale, factor);
        let mut comparison = Comparison::default();
        let checks = [("dq", &want.dq), ("dk", &want.dk), ("dv", &want.dv), ("dgate", &dgate)];
        for ((name, want), got) in checks.into_iter().zip(&gradients) {
            let Some(got) = got else { continue };
            comparison.check(name, got, want)?;
        }
        Ok(comparison.worst)
    };
    Checked { problem: case.describe(), worst: run() }
}

/// Gradient of the logits from ⟨dy, o⟩ of every row.
fn logit_gradient(case: &Gated, rows: &[Option<Expected>], factor: f64) -> Vec<Option<Expected>> {
    let (heads, q_len) = (case.attention.q_heads, case.attention.q_len);
    let by_gate: Vec<Expected> = (0..case.gates.len())
        .map(|pair| {
            let rows = rows[pair * q_len..][..q_len].iter().flatten();
            rows.fold(Expected { value: 0.0, tolerance: 0.0 }, |sum, row| Expected {
                value: sum.value + row.value,
                tolerance: sum.tolerance + row.tolerance,
            })
        })
        .collect();
    let mut out = vec![Some(Expected { value: 0.0, tolerance: TINY }); case.logits.len()];
    for (b, gates) in case.gates.chunks(heads).enumerate() {
        let row = match case.tasks.as_ref().map_or(b as i32, |tasks| tasks[b]) {
            NO_TASK => continue,
            row => row as usize,
        };
        let u = &by_gate[b * heads..][..heads];
        let mean: f64 = gates.iter().zip(u).map(|(gate, u)| gate.c * u.value).sum();
        let mean_tolerance: f64 = gates.iter().zip(u).map(|(gate, u)| gate.c * u.tolerance).sum();
        for h in 0..heads {
            let Some(sum) = &mut out[row * heads + h] else { continue };
            sum.value += gates[h].a * u[h].value - gates[h].b * mean;
            // (1 − g) of the sigmoid rounds like 1, not like 1 − g.
            let is_sigmoid = matches!(case.activation, Activation::Sigmoid | Activation::Threshold { .. });
            let own = if is_sigmoid { gates[h].value } else { gates[h].a };
            sum.tolerance += factor * (own * u[h].tolerance + gates[h].b * mean_tolerance);
        }
    }
    out
}
