//! One transformer layer read at the last token, in four variants that differ only in how tasks share its heads.

use crate::data::{Batch, Info};
use candle_core::{D, Device, Result, Tensor, Var};
use gatewarp::task_heads::Activation;
use gatewarp_candle::{Attention, TaskHeads, attention, task_heads};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, StandardNormal};

/// How the tasks share the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Every head works for every task; only the readout knows the task.
    HardSharing,
    /// As hard sharing, and a learned embedding of the task is added to the last token.
    TaskEmbedding,
    /// As hard sharing with as many heads as the gated model computes per sample.
    EqualActiveHeads,
    /// Each task's gate picks its heads; the others are not computed.
    Gated,
}

impl Variant {
    pub const ALL: [Self; 4] = [Self::HardSharing, Self::TaskEmbedding, Self::EqualActiveHeads, Self::Gated];

    pub fn name(self, config: &Config) -> String {
        match self {
            Self::HardSharing => format!("hard sharing, {} heads", config.heads),
            Self::TaskEmbedding => format!("task embedding, {} heads", config.heads),
            Self::EqualActiveHeads => format!("hard sharing, {} heads", config.active),
            Self::Gated => format!("gated, top-{} of {}", config.active, config.heads),
        }
    }
}

/// Sizes of the layer and where its attention runs.
#[derive(Clone, Debug)]
pub struct Config {
    pub width: usize,
    pub heads: usize,
    pub head_dim: usize,
    /// Heads a gated sample computes.
    pub active: usize,
    pub hidden: usize,
    pub device: gatewarp::Device,
}

impl Default for Config {
    fn default() -> Self {
        Self { width: 64, heads: 8, head_dim: 16, active: 2, hidden: 128, device: gatewarp::Device::cpu() }
    }
}

/// The layer's parameters.
pub struct Model {
    variant: Variant,
    config: Config,
    heads: usize,
    tasks: usize,
    classes: usize,
    vars: Vec<Var>,
    token: Var,
    shifted: Var,
    position: Var,
    query: Var,
    key_value: Var,
    out: Var,
    up: Var,
    down: Var,
    readout: Var,
    task: Option<Var>,
    gate: Option<Var>,
    norm_in: Norm,
    norm_mid: Norm,
    norm_out: Norm,
}

struct Norm {
    weight: Var,
    bias: Var,
}

impl Norm {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        candle_nn::ops::layer_norm_slow(x, &self.weight, &self.bias, 1e-5)
    }
}

/// Makes and remembers parameters, the same for the same seed on every machine.
struct Init {
    random: StdRng,
    vars: Vec<Var>,
}

impl Init {
    fn normal(&mut self, shape: &[usize], deviation: f32) -> Result<Var> {
        let count = shape.iter().product();
        let sample = |random: &mut StdRng| -> f32 { StandardNormal.sample(random) };
        let data: Vec<f32> = (0..count).map(|_| deviation * sample(&mut self.random)).collect();
        let var = Var::from_vec(data, shape, &Device::Cpu)?;
        self.vars.push(var.clone());
        Ok(var)
    }

    fn linear(&mut self, inputs: usize, outputs: usize) -> Result<Var> {
        self.normal(&[inputs, outputs], (inputs as f32).sqrt().recip())
    }

    fn norm(&mut self, width: usize) -> Result<Norm> {
        let weight = Var::ones(width, candle_core::DType::F32, &Device::Cpu)?;
        let bias = Var::zeros(width, candle_core::DType::F32, &Device::Cpu)?;
        self.vars.extend([weight.clone(), bias.clone()]);
        Ok(Norm { weight, bias })
    }
}

/// What a forward pass returns.
pub struct Output {
    /// `[size, classes]`, by each sample's own task's readout.
    pub logits: Tensor,
    /// Share of (sample, head) pairs that were computed, of the model's own heads.
    pub computed: f64,
}

impl Model {
    pub fn new(variant: Variant, config: &Config, info: &Info, seed: u64) -> Result<Self> {
        let mut init = Init { random: StdRng::seed_from_u64(seed), vars: Vec::new() };
        let heads = if variant == Variant::EqualActiveHeads { config.active } else { config.heads };
        let (width, inner, tasks) = (config.width, heads * config.head_dim, info.tasks.len());
        let tokens = info.vocabulary + 1;
        Ok(Self {
            variant,
            config: config.clone(),
            heads,
            tasks,
            classes: info.classes,
            token: init.normal(&[tokens, width], 0.5)?,
            shifted: init.normal(&[tokens, width], 0.5)?,
            position: init.normal(&[info.longest, width], 0.3)?,
            query: init.linear(width, inner)?,
            key_value: init.linear(width, 2 * inner)?,
            out: init.linear(inner, width)?,
            up: init.linear(width, config.hidden)?,
            down: init.linear(config.hidden, width)?,
            readout: init.linear(width, tasks * info.classes)?,
            task: (variant == Variant::TaskEmbedding)
                .then(|| init.normal(&[tasks, width], 0.5))
                .transpose()?,
            gate: (variant == Variant::Gated).then(|| init.normal(&[tasks, heads], 0.5)).transpose()?,
            norm_in: init.norm(width)?,
            norm_mid: init.norm(width)?,
            norm_out: init.norm(width)?,
            vars: init.vars,
        })
    }

    pub fn vars(&self) -> Vec<Var> {
        self.vars.clone()
    }

    /// The gates of each task, `[tasks][heads]`, where the variant has any.
    pub fn gates(&self) -> Result<Option<Vec<Vec<f32>>>> {
        let Some(gate) = &self.gate else { return Ok(None) };
        let logits: Vec<Vec<f32>> = gate.to_vec2()?;
        Ok(Some(logits.into_iter().map(|row| top(&row, self.config.active)).collect()))
    }

    /// Only the last token of a sequence is read, so only its query, residual and feed-forward rows are computed: the same
    /// numbers as the whole layer followed by a selection.
    pub fn forward(&self, batch: &Batch) -> Result<Output> {
        let (size, longest) = (batch.len(), batch.longest);
        let index = |ids: &[u32]| Tensor::from_slice(ids, ids.len(), &Device::Cpu);
        // A token sees its predecessor through a second table, so one layer can match a key and read the value behind it.
        let tokens = self.token.index_select(&index(&batch.tokens)?, 0)?;
        let previous = self.shifted.index_select(&index(&batch.previous)?, 0)?;
        let x = (tokens + previous)?.reshape((size, longest, ()))?.broadcast_add(&self.position)?;
        let last: Vec<u32> = (0..).zip(&batch.lengths).map(|(i, len)| i * longest as u32 + len - 1).collect();
        let mut residual = x.reshape((size * longest, ()))?.index_select(&index(&last)?, 0)?;
        let tasks = index(&batch.tasks)?;
        if let Some(task) = &self.task {
            residual = (residual + task.index_select(&tasks, 0)?)?;
        }

        let (heads, dim) = (self.heads, self.config.head_dim);
        let q = self.norm_in.apply(&residual)?.matmul(&self.query)?.reshape((size, 1, heads, dim))?;
        let normed = self.norm_in.apply(&x)?.reshape((size * longest, ()))?;
        let kv = normed.matmul(&self.key_value)?.reshape((size, longest, heads, 2 * dim))?;
        let (q, kv) = (q.transpose(1, 2)?, kv.transpose(1, 2)?);
        let options = Attention {
            device: self.config.device.clone(),
            kv_len: Some(batch.lengths.clone().into()),
            ..Attention::default()
        };
        let (k, v) = (kv.narrow(D::Minus1, 0, dim)?, kv.narrow(D::Minus1, dim, dim)?);
        let (mixed, computed) = match &self.gate {
            Some(gate) => {
                let activation = Activation::top_k(self.config.active, true);
                let tasks = batch.tasks.iter().copied().map(Some).collect();
                let gating = TaskHeads { attention: options, tasks, activation };
                let (mixed, report) = task_heads(&q, &k, &v, gate, &gating)?;
                (mixed, report.computed as f64 / report.pairs as f64)
            }
            None => (attention(&q, &k, &v, &options)?, 1.0),
        };
        let mixed = mixed.transpose(1, 2)?.reshape((size, heads * dim))?;
        residual = (residual + mixed.matmul(&self.out)?)?;
        let hidden = self.norm_mid.apply(&residual)?.matmul(&self.up)?.gelu()?;
        residual = (residual + hidden.matmul(&self.down)?)?;

        let all = self
            .norm_out
            .apply(&residual)?
            .matmul(&self.readout)?
            .reshape((size * self.tasks, self.classes))?;
        let own: Vec<u32> = (0..).zip(&batch.tasks).map(|(i, task)| i * self.tasks as u32 + task).collect();
        Ok(Output { logits: all.index_select(&index(&own)?, 0)?, computed })
    }

    pub fn variant(&self) -> Variant {
        self.variant
    }
}

/// The gate a row of logits gives: softmax over the `count` largest, zero elsewhere; ties to the lower head.
fn top(logits: &[f32], count: usize) -> Vec<f32> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let largest = logits[order[0]];
    let mut gates = vec![0.0; logits.len()];
    for &head in &order[..count] {
        gates[head] = (logits[head] - largest).exp();
    }
    let sum: f32 = gates.iter().sum();
    gates.iter_mut().for_each(|gate| *gate /= sum);
    gates
}
