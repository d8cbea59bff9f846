//! Random gates over random attention problems.

use crate::support::attention_case::{Case, Data, widen};
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
}

/// A gate and the attention under it; the data follow from the attention's seed.
#[derive(Clone, Debug)]
pub struct GateCase {
    pub attention: Case,
    /// Static logits of so many tasks; `None` is values given per sample.
    pub tasks: Option<usize>,
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
}

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

    pub fn data(&self) -> GateData {
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
        let mut random = self.random(GateStream::Tasks);
        let tasks = match self.tasks {
            Some(tasks) => (0..self.attention.batch)
                .map(|_| if random.one_in(5) { -1 } else { random.below(tasks) as i64 })
                .collect(),
            None => Vec::new(),
        };
        GateData { attention: self.attention.data(), logits, tasks }
    }
}

impl GateData {
    /// z of a sample's heads, `None` without a task.
    pub fn z(&self, sample: usize) -> Option<Vec<f64>> {
        let heads = self.attention.problem.q_heads;
        let row = match self.tasks.get(sample) {
            Some(&task) => usize::try_from(task).ok()?,
            None => sample,
        };
        Some(widen(&self.logits[row * heads..][..heads]))
    }

    /// The problem made of these samples, in this order.
    pub fn samples(&self, order: &[usize]) -> Self {
        let heads = self.attention.problem.q_heads;
        let is_static = !self.tasks.is_empty();
        let row = |&b: &usize| self.logits[b * heads..][..heads].to_vec();
        Self {
            attention: self.attention.samples(order),
            logits: if is_static { self.logits.clone() } else { order.iter().flat_map(row).collect() },
            tasks: if is_static { order.iter().map(|&b| self.tasks[b]).collect() } else { Vec::new() },
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
        4 => (1..=heads, any::<bool>(), any::<bool>()).prop_map(|(k, renormalise, straight_through)| {
            Activation::TopK { k, renormalise, straight_through }
        }),
    ]
}

/// A gate over each of these attention problems.
pub fn gated(attention: impl Strategy<Value = Case>) -> impl Strategy<Value = GateCase> {
    attention.prop_flat_map(|attention| {
        let heads = attention.q_heads();
        let source = prop_oneof![2 => (1usize..=5).prop_map(Some), 1 => Just(None)];
        let policies = (any::<bool>(), any::<bool>(), any::<bool>());
        let size = prop::sample::select(vec![1.0f32, 1.0, 3.0, 20.0]);
        (Just(attention), source, activation(heads), policies, size).prop_map(
            |(attention, tasks, activation, (skip, exact, ties), logit_size)| GateCase {
                attention,
                tasks,
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
    activation == Activation::TopK { k: 1, renormalise: true, straight_through: false }
}
