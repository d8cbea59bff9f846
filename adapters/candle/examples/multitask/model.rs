//! One transformer layer read at the last token, in four variants that differ only in how tasks share its heads.

use super::data::{Batch, Info};
use super::parameters::{Init, Norm, Parameter, by_name, grown};
use anyhow::Result;
use candle_core::{D, Device, Tensor, Var};
use clap::ValueEnum;
use gatewarp::task_heads::Activation;
use gatewarp_candle::{Attention, TaskHeads, attention, task_heads};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// How the tasks share the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// Every head works for every task; only the readout knows the task
    HardSharing,
    /// As hard sharing, and a learned embedding of the task is added to the last token
    TaskEmbedding,
    /// As hard sharing with as many heads as the gated model computes per sample
    EqualActiveHeads,
    /// Each task's gate picks its heads; the others are not computed
    Gated,
}

impl Variant {
    pub const ALL: [Self; 4] = [Self::HardSharing, Self::TaskEmbedding, Self::EqualActiveHeads, Self::Gated];

    pub fn what(self) -> &'static str {
        match self {
            Self::HardSharing => "hard sharing",
            Self::TaskEmbedding => "a task embedding",
            Self::EqualActiveHeads => "hard sharing of few heads",
            Self::Gated => "gated heads",
        }
    }

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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    pub width: usize,
    pub heads: usize,
    pub head_dim: usize,
    /// Heads a gated sample computes.
    pub active: usize,
    pub hidden: usize,
    #[serde(skip, default = "gatewarp::Device::cpu")]
    pub device: gatewarp::Device,
}

impl Default for Config {
    fn default() -> Self {
        Self { width: 64, heads: 8, head_dim: 16, active: 2, hidden: 128, device: gatewarp::Device::cpu() }
    }
}

/// The layer's parameters.
pub struct Model {
    pub variant: Variant,
    pub config: Config,
    pub parameters: Vec<Parameter>,
    seed: u64,
    heads: usize,
    tasks: usize,
    classes: usize,
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

/// What a forward pass returns.
pub struct Output {
    /// `[size, classes]`, by each sample's own task's readout.
    pub logits: Tensor,
    /// Share of (sample, head) pairs that were computed, of the model's own heads.
    pub computed: f64,
}

/// What the layer's attention is given, and the row it adds to.
pub struct Attended {
    residual: Tensor,
    /// `[size, heads, 1, head_dim]`: the last token's.
    pub q: Tensor,
    /// `[size, heads, longest, head_dim]`.
    pub k: Tensor,
    v: Tensor,
    pub options: Attention,
}

impl Model {
    /// A new model, or one that begins with `given` tensors.
    ///
    /// # Errors
    /// A given tensor that is missing or too large, by name.
    pub fn new(
        variant: Variant,
        config: &Config,
        info: &Info,
        seed: u64,
        given: Option<&HashMap<String, Tensor>>,
    ) -> Result<Self> {
        let mut init = Init { seed, given, parameters: Vec::new() };
        let heads = if variant == Variant::EqualActiveHeads { config.active } else { config.heads };
        let (width, dim, tasks) = (config.width, config.head_dim, info.tasks.len());
        let tokens = info.tokens.len() + 1;
        Ok(Self {
            variant,
            config: config.clone(),
            seed,
            heads,
            tasks,
            classes: info.classes,
            // What grows with tasks, classes, tokens and heads grows in leading dimensions or keeps those it has.
            token: init.normal("token", &[tokens, width], 0.5)?,
            shifted: init.normal("shifted", &[tokens, width], 0.5)?,
            position: init.normal("position", &[info.longest, width], 0.3)?,
            query: init.linear("query", width, &[width, heads, dim])?,
            key_value: init.linear("key_value", width, &[width, heads, 2 * dim])?,
            out: init.linear("out", heads * dim, &[heads, dim, width])?,
            up: init.linear("up", width, &[width, config.hidden])?,
            down: init.linear("down", config.hidden, &[config.hidden, width])?,
            readout: init.linear("readout", width, &[tasks, info.classes, width])?,
            task: (variant == Variant::TaskEmbedding)
                .then(|| init.normal("task", &[tasks, width], 0.5))
                .transpose()?,
            gate: (variant == Variant::Gated)
                .then(|| init.normal("gate", &[tasks, heads], 0.5))
                .transpose()?,
            norm_in: init.norm(["norm_in.weight", "norm_in.bias"], width)?,
            norm_mid: init.norm(["norm_mid.weight", "norm_mid.bias"], width)?,
            norm_out: init.norm(["norm_out.weight", "norm_out.bias"], width)?,
            parameters: init.parameters,
        })
    }

    /// This model with room for all of `info` and with `more_heads`, which no task of now uses: a gated model's answers to these
    /// tasks stay. New parameters have first values.
    ///
    /// # Errors
    /// `info` lacks what the model has.
    pub fn grow(&self, info: &Info, more_heads: usize) -> Result<Self> {
        let config = Config { heads: self.config.heads + more_heads, ..self.config.clone() };
        let model = Self::new(self.variant, &config, info, self.seed, Some(&by_name(&self.parameters)))?;
        if let Some(gate) = &model.gate {
            let mut logits: Vec<Vec<f32>> = gate.to_vec2()?;
            for (task, row) in logits.iter_mut().enumerate() {
                for logit in &mut row[self.heads..] {
                    // A new task starts from the new heads, and may leave them.
                    *logit = if task < self.tasks { -1e4 } else { *logit + 1.0 };
                }
            }
            gate.set(&Tensor::new(logits, &Device::Cpu)?)?;
        }
        Ok(model)
    }

    /// For every parameter of the grown model, which elements it had before: they stay while a task is added. What a gate says of a
    /// task that was there before stays whole.
    pub fn kept(&self, grown_model: &Self) -> Vec<Vec<bool>> {
        let pairs = self.parameters.iter().zip(&grown_model.parameters);
        let masks = pairs.map(|(old, new)| {
            let mut shape = old.var.dims().to_vec();
            if new.name == "gate" {
                shape[1] = new.var.dims()[1];
            }
            grown(&vec![true; shape.iter().product()], &shape, new.var.dims(), false)
        });
        masks.collect()
    }

    /// Number of heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// The gates of each task, `[tasks][heads]`, where the variant has any.
    ///
    /// # Errors
    /// candle's.
    pub fn gates(&self) -> Result<Option<Vec<Vec<f32>>>> {
        let Some(gate) = &self.gate else { return Ok(None) };
        let logits: Vec<Vec<f32>> = gate.to_vec2()?;
        Ok(Some(logits.into_iter().map(|row| top(&row, self.config.active)).collect()))
    }

    /// Queries, keys and values of the layer's attention. Only the last token of a sequence is read, so only its query and residual row
    /// are computed: the same numbers as the whole layer followed by a selection.
    ///
    /// # Errors
    /// candle's.
    pub fn attended(&self, batch: &Batch) -> Result<Attended> {
        let (size, longest) = (batch.len(), batch.longest);
        // A token sees its predecessor through a second table, so one layer can match a key and read the value behind it.
        let tokens = self.token.index_select(&index(&batch.tokens)?, 0)?;
        let previous = self.shifted.index_select(&index(&batch.previous)?, 0)?;
        let position = self.position.narrow(0, 0, longest)?;
        let x = (tokens + previous)?.reshape((size, longest, ()))?.broadcast_add(&position)?;
        let last: Vec<u32> = (0..).zip(&batch.lengths).map(|(i, len)| i * longest as u32 + len - 1).collect();
        let mut residual = x.reshape((size * longest, ()))?.index_select(&index(&last)?, 0)?;
        if let Some(task) = &self.task {
            residual = (residual + task.index_select(&index(&batch.tasks)?, 0)?)?;
        }
        let (heads, dim) = (self.heads, self.config.head_dim);
        let q = self.norm_in.apply(&residual)?.matmul(&self.query.flatten_from(1)?)?;
        let normed = self.norm_in.apply(&x)?.reshape((size * longest, ()))?;
        let kv = normed.matmul(&self.key_value.flatten_from(1)?)?;
        let kv = kv.reshape((size, longest, heads, 2 * dim))?.transpose(1, 2)?;
        Ok(Attended {
            residual,
            q: q.reshape((size, 1, heads, dim))?.transpose(1, 2)?,
            k: kv.narrow(D::Minus1, 0, dim)?,
            v: kv.narrow(D::Minus1, dim, dim)?,
            options: Attention {
                device: self.config.device.clone(),
                kv_len: Some(batch.lengths.clone().into()),
                ..Attention::default()
            },
        })
    }

    /// # Errors
    /// candle's.
    pub fn forward(&self, batch: &Batch) -> Result<Output> {
        let size = batch.len();
        let Attended { mut residual, q, k, v, options } = self.attended(batch)?;
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
        let mixed = mixed.transpose(1, 2)?.reshape((size, self.heads * self.config.head_dim))?;
        residual = (residual + mixed.matmul(&self.out.flatten_to(1)?)?)?;
        let hidden = self.norm_mid.apply(&residual)?.matmul(&self.up)?.gelu()?;
        residual = (residual + hidden.matmul(&self.down)?)?;

        let readout = self.readout.flatten_to(1)?.t()?;
        let all =
            self.norm_out.apply(&residual)?.matmul(&readout)?.reshape((size * self.tasks, self.classes))?;
        let own: Vec<u32> = (0..).zip(&batch.tasks).map(|(i, task)| i * self.tasks as u32 + task).collect();
        Ok(Output { logits: all.index_select(&index(&own)?, 0)?, computed })
    }
}

fn index(ids: &[u32]) -> candle_core::Result<Tensor> {
    Tensor::from_slice(ids, ids.len(), &Device::Cpu)
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
