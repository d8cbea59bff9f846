//! Random gates over random attention problems.

use crate::support::attention_case::{Case, Data, widen};
use crate::support::oracle_task_heads as oracle;
use crate::support::random::Random;
use gatewarp::task_heads::{Activation, NoTask, SoftmaxScale, ZeroGateGrad};
use proptest::prelude::*;

/// Seeds of the gate's own streams, apart from those of the attention problem.
#[derive(Clone, Copy)]
pub enum GateStream {
    Logits = 101,
    Tasks,
    Places,
    Layouts,
    Order,
    Dynamic,
    /// Of task 0, and from there on, where every sample is asked every task.
    EveryTask,
}

/// A gate and the attention under it; the data follow from the attention's seed.
#[derive(Clone, Debug)]
pub struct GateCase {
    pub attention: Case,
    /// Static logits of so many tasks; `None` is values given per sample.
    pub tasks: Option<usize>,
    /// A linear function of so many features instead, whose weights are a task's.
    pub features: Option<usize>,
    pub activation: Activation,
    pub no_task: NoTask,
    pub zero_gate_grad: ZeroGateGrad,
    /// Reach of the logits.
    pub logit_size: f32,
    /// Whether some logits are equal, and some 0.
    pub ties: bool,
}

/// The values of a case.
#[derive(Clone, Debug)]
pub struct GateData {
    /// Queries, keys, values and the gradient of y (`grad_o`).
    pub attention: Data,
    /// `[tasks|batch, heads]`.
    pub logits: Vec<f32>,
    /// Per sample; −1 is no task. Empty for values given per sample.
    pub tasks: Vec<i64>,
    /// What the logits, then `[batch, heads]`, are computed from.
    pub dynamic: Option<Dynamic>,
    /// Added to z: `[batch, heads]`, or nothing.
    pub noise: Vec<f64>,
}

/// Multiples of 1/8 so small that every sum of products is exact in f32: ties stay ties, and z is what the oracle says.
#[derive(Clone, Debug)]
pub struct Dynamic {
    pub features: usize,
    /// `[batch, features]`.
    pub x: Vec<f32>,
    /// `[tasks, heads, features]`.
    pub weights: Vec<f32>,
    /// `[tasks, heads]`, or nothing.
    pub bias: Vec<f32>,
}

/// Where the noise of a case comes from.
pub const NOISE: (u64, u64) = (0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210);

impl GateCase {
    pub fn random(&self, stream: GateStream) -> Random {
        Random::new(self.attention.seed, stream as u64)
    }

    pub fn heads(&self) -> usize {
        self.attention.q_heads()
    }

    /// Rows of the logits.
    pub fn rows(&self) -> usize {
        self.tasks.unwrap_or(self.attention.batch)
    }

    fn noise(&self) -> f32 {
        if let Activation::TopK { noise, .. } = self.activation { noise } else { 0.0 }
    }

    fn dynamic(&self, features: usize, tasks: &[i64], logits: &mut Vec<f32>) -> Dynamic {
        let (heads, batch) = (self.heads(), self.attention.batch);
        let mut random = self.random(GateStream::Dynamic);
        let mut eighths = |count: usize, reach: i64| -> Vec<f32> {
            (0..count).map(|_| random.between(-reach, reach) as f32 / 8.0).collect()
        };
        let x = eighths(batch * features, 8);
        let weights = eighths(self.rows() * heads * features, 4);
        let bias = if self.ties { Vec::new() } else { eighths(self.rows() * heads, 16) };
        logits.clear();
        for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
            let Ok(task) = usize::try_from(tasks[b]) else {
                logits.push(0.0);
                continue;
            };
            let row = task * heads + h;
            let products = (0..features)
                .map(|f| f64::from(weights[row * features + f]) * f64::from(x[b * features + f]));
            let z = products.sum::<f64>() + bias.get(row).map_or(0.0, |&bias| bias.into());
            logits.push(z as f32);
        }
        Dynamic { features, x, weights, bias }
    }

    pub fn data(&self) -> GateData {
        let mut random = self.random(GateStream::Tasks);
        let tasks = match self.tasks {
            Some(tasks) => (0..self.attention.batch)
                .map(|_| if random.one_in(5) { -1 } else { random.below(tasks) as i64 })
                .collect(),
            None => Vec::new(),
        };
        self.data_of(tasks)
    }

    /// The same problem with these tasks.
    pub fn data_of(&self, tasks: Vec<i64>) -> GateData {
        let mut random = self.random(GateStream::Logits);
        let mut logits = random.values(self.rows() * self.heads(), self.logit_size);
        if self.ties {
            for at in 0..logits.len() {
                match random.below(4) {
                    0 => logits[at] = 0.0,
                    1 => logits[at] = logits[random.below(at + 1)],
                    _ => {}
                }
            }
        }
        let dynamic = self.features.map(|features| self.dynamic(features, &tasks, &mut logits));
        let pairs = if self.noise() == 0.0 { 0 } else { self.attention.batch * self.heads() };
        let one = |pair| f64::from(self.noise()) * oracle::noise(NOISE.0, NOISE.1, pair);
        let noise = (0..pairs as u64).map(one).collect();
        GateData { attention: self.attention.data(), logits, tasks, dynamic, noise }
    }
}

impl GateData {
    /// z of a sample's heads, `None` without a task.
    pub fn z(&self, sample: usize) -> Option<Vec<f64>> {
        let heads = self.attention.problem.q_heads;
        let row = match self.tasks.get(sample) {
            Some(&task) => {
                usize::try_from(task).ok().map(|task| if self.dynamic.is_some() { sample } else { task })?
            }
            None => sample,
        };
        let mut z = widen(&self.logits[row * heads..][..heads]);
        z.iter_mut()
            .enumerate()
            .for_each(|(h, z)| *z += self.noise.get(sample * heads + h).copied().unwrap_or(0.0));
        Some(z)
    }

    /// The problem made of these samples, in this order.
    pub fn samples(&self, order: &[usize]) -> Self {
        let heads = self.attention.problem.q_heads;
        let has_tasks = !self.tasks.is_empty();
        let row = |&b: &usize| self.logits[b * heads..][..heads].to_vec();
        let by_sample = !has_tasks || self.dynamic.is_some();
        let dynamic = self.dynamic.clone().map(|dynamic| {
            let row = |&b: &usize| dynamic.x[b * dynamic.features..][..dynamic.features].to_vec();
            Dynamic { x: order.iter().flat_map(row).collect(), ..dynamic.clone() }
        });
        Self {
            attention: self.attention.samples(order),
            logits: if by_sample { order.iter().flat_map(row).collect() } else { self.logits.clone() },
            tasks: if has_tasks { order.iter().map(|&b| self.tasks[b]).collect() } else { Vec::new() },
            dynamic,
            noise: Vec::new(),
        }
    }
}

/// Any activation that fits so many heads.
fn activation(heads: usize) -> impl Strategy<Value = Activation> {
    prop_oneof![
        2 => Just(Activation::Identity),
        2 => Just(Activation::Sigmoid),
        1 => Just(Activation::Softmax { scale: SoftmaxScale::One }),
        1 => Just(Activation::Softmax { scale: SoftmaxScale::Heads }),
        2 => (0.01f32..1.0).prop_map(|p| Activation::TopP { p }),
        1 => Just(Activation::TopP { p: 1.0 }),
        2 => (0.01f32..0.99).prop_map(|t| Activation::Threshold { t }),
        5 => (1..=heads, 0..=heads, any::<bool>(), any::<bool>()).prop_map(
            move |(k, shared, renormalise, straight_through)| {
                // A third of the gates share heads.
                let shared_heads = if shared % 3 == 0 { shared.min(heads - k) } else { 0 };
                Activation::TopK { k, renormalise, straight_through, shared_heads, noise: 0.0 }
            }
        ),
    ]
}

/// A gate over each of these attention problems.
pub fn gated(attention: impl Strategy<Value = Case>) -> impl Strategy<Value = GateCase> {
    attention.prop_flat_map(|attention| {
        let heads = attention.q_heads();
        let source = prop_oneof![
            2 => (1usize..=5).prop_map(|tasks| (Some(tasks), None)),
            1 => Just((None, None)),
            2 => (1usize..=4, prop::sample::select(vec![1usize, 2, 31, 32, 33])).prop_map(|(t, f)| (Some(t), Some(f))),
        ];
        let policies = (any::<bool>(), any::<bool>(), any::<bool>());
        let size = prop::sample::select(vec![1.0f32, 1.0, 3.0, 20.0]);
        (Just(attention), source, activation(heads), policies, size).prop_map(
            |(attention, (tasks, features), activation, (skip, exact, ties), logit_size)| GateCase {
                attention,
                tasks,
                features,
                activation,
                no_task: if skip { NoTask::Skip } else { NoTask::Full },
                zero_gate_grad: if exact { ZeroGateGrad::Exact } else { ZeroGateGrad::Zero },
                logit_size,
                ties,
            },
        )
    })
}

/// Whether the gate is the constant 1, whose gradient is refused.
pub fn has_no_gradient(activation: Activation) -> bool {
    matches!(activation, Activation::TopK { k: 1, renormalise: true, straight_through: false, .. })
}

/// The same cases with noise on the logits of every top-k gate.
pub fn noisy(cases: impl Strategy<Value = GateCase>) -> impl Strategy<Value = GateCase> {
    (cases, 0.1f32..2.0).prop_map(|(mut case, deviation)| {
        if let Activation::TopK { noise, .. } = &mut case.activation {
            *noise = deviation;
        }
        case
    })
}
