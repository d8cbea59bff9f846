//! Validation of a call for every task.

use super::{EveryTaskGate, EveryTaskOptions, EveryTaskOutput, EveryTaskSaved, EveryTaskViews};
use crate::attention;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ids::Ids;
use crate::task_heads::NoTask;
use crate::task_heads::problem::{
    Linear, Problem, Sizes, Source, check_activation, check_count, check_linear, check_logits,
};
use crate::tensor::{Layout, Tensor, TensorRef};
use crate::validate;

/// A validated call.
pub(super) struct EveryTask<'a> {
    /// The gates, as those of a batch of `batch · tasks` samples: sample `b·tasks + t` is of task t.
    pub(super) gates: Problem<'a>,
    /// Of the attention.
    pub(super) sizes: Sizes,
    pub(super) tasks: usize,
}

impl<'a> EveryTask<'a> {
    pub(super) fn new(
        op: &'static str,
        q: &TensorRef<'a>,
        k: &TensorRef<'a>,
        v: &TensorRef<'a>,
        options: &EveryTaskOptions<'a>,
    ) -> Result<Self> {
        if options.attention.heads.is_some() {
            return Err(Error::argument(op, "attention.heads", "is what the gates decide; it must be None"));
        }
        let inner = attention::Problem::new(op, q, k, v, &options.attention)?;
        validate::tensor(op, "q", q, DType::F32, q.device())?;
        if inner.is_packed() {
            return Err(Error::argument(
                op,
                "attention.sequences",
                "are packed, which a pass over every task does not take",
            ));
        }
        let sizes = Sizes { batch: inner.batch, heads: inner.q_heads, kv_heads: inner.kv_heads };
        check_activation(op, options.activation, sizes.heads)?;
        let device = q.device();
        let (values, linear, tasks) = source(op, &options.gate, sizes, device)?;
        let samples = sizes.batch.saturating_mul(tasks);
        check_count(op, "batch · tasks · heads", samples.saturating_mul(sizes.heads), device)?;
        // Provided values are a sample's own, whatever its task.
        let ids = match options.gate {
            EveryTaskGate::Provided { .. } => None,
            _ => Some(task_ids(sizes.batch, tasks, device)?),
        };
        let gates = Problem {
            op,
            sizes: Sizes { batch: samples, ..sizes },
            repeat: tasks.max(1),
            dtype: inner.dtype,
            lse_shape: inner.lse_shape(),
            packed: None,
            value_dim: inner.value_dim,
            source: Source { values, ids, linear },
            activation: options.activation,
            no_task: NoTask::Full,
            zero_gate_grad: options.zero_gate_grad,
            balance: options.balance.clone(),
            noise: options.noise.clone(),
            attention: options.attention.clone(),
            q: q.clone(),
            k: k.clone(),
            v: v.clone(),
        };
        gates.check_balance()?;
        Ok(Self { gates, sizes, tasks })
    }

    pub(super) fn device(&self) -> &Device {
        self.gates.device()
    }

    pub(super) fn y_shape(&self) -> [usize; 5] {
        let [batch, heads, rows, columns] = self.o_shape();
        [batch, self.tasks, heads, rows, columns]
    }

    pub(super) fn o_shape(&self) -> [usize; 4] {
        self.gates.y_shape()
    }

    pub(super) fn lse_shape(&self) -> [usize; 3] {
        self.gates.lse_shape()
    }

    pub(super) fn gates_shape(&self) -> [usize; 3] {
        [self.sizes.batch, self.tasks, self.sizes.heads]
    }

    /// Zeroed outputs.
    pub(super) fn zeros(&self) -> Result<EveryTaskOutput> {
        let Sizes { batch, heads, kv_heads } = self.sizes;
        let make = |dtype, shape: &[usize]| Tensor::zeros(self.device(), dtype, shape);
        Ok(EveryTaskOutput {
            y: make(DType::F32, &self.y_shape())?,
            o: make(DType::F32, &self.o_shape())?,
            lse: make(DType::F32, &self.lse_shape())?,
            gates: make(DType::F32, &self.gates_shape())?,
            probabilities: make(DType::F32, &self.gates_shape())?,
            used: make(DType::F32, &[batch, heads])?,
            order: make(DType::U32, &[batch * heads])?,
            kv_order: make(DType::U32, &[batch * kv_heads])?,
            counts: make(DType::U32, &[2])?,
            active: make(DType::U32, &[batch, heads])?,
            z: self.gates.computes_scores().then(|| make(DType::F32, &self.gates_shape())).transpose()?,
        })
    }

    pub(super) fn check_outputs(&self, out: &EveryTaskViews<'_>) -> Result<()> {
        let op = self.gates.op;
        let mut outputs = vec![
            ("y", out.y.as_ref()),
            ("o", out.o.as_ref()),
            ("lse", out.lse.as_ref()),
            ("gates", out.gates.as_ref()),
            ("probabilities", out.probabilities.as_ref()),
            ("used", out.used.as_ref()),
            ("order", out.order.as_ref()),
            ("kv_order", out.kv_order.as_ref()),
            ("counts", out.counts.as_ref()),
            ("active", out.active.as_ref()),
        ];
        if self.gates.computes_scores() {
            let missing = || Error::argument(op, "z", "is needed by a dynamic or noisy gate");
            outputs.push(("z", out.z.as_ref().ok_or_else(missing)?.as_ref()));
        }
        outputs.iter().try_for_each(|(arg, tensor)| self.check(arg, tensor))?;
        let source = &self.gates.source;
        let values = match (&source.linear, &source.ids) {
            (Some(_), _) => "weights",
            (None, Some(_)) => "logits",
            (None, None) => "values",
        };
        let gates = &self.gates;
        let mut inputs = vec![("q", &gates.q), ("k", &gates.k), ("v", &gates.v), (values, &source.values)];
        if let Some(linear) = &source.linear {
            inputs.push(("x", &linear.x));
            inputs.extend(linear.bias.as_ref().map(|bias| ("bias", bias)));
        }
        validate::disjoint(op, &outputs, &inputs)
    }

    pub(super) fn check_saved(&self, saved: &EveryTaskSaved<'_>, grad_y: &TensorRef<'_>) -> Result<()> {
        let inputs = [
            ("grad_y", grad_y),
            ("o", &saved.o),
            ("lse", &saved.lse),
            ("gates", &saved.gates),
            ("probabilities", &saved.probabilities),
            ("used", &saved.used),
            ("order", &saved.order),
            ("kv_order", &saved.kv_order),
            ("counts", &saved.counts),
            ("active", &saved.active),
        ];
        inputs.iter().try_for_each(|(arg, tensor)| self.check(arg, tensor))
    }

    /// Shape, type, device and contiguity of what forward writes and backward reads.
    fn check(&self, arg: &'static str, tensor: &TensorRef<'_>) -> Result<()> {
        let op = self.gates.op;
        let Sizes { batch, heads, kv_heads } = self.sizes;
        let (dtype, shape): (DType, &[usize]) = match arg {
            "y" | "grad_y" => (DType::F32, &self.y_shape()),
            "o" => (DType::F32, &self.o_shape()),
            "lse" => (DType::F32, &self.lse_shape()),
            "gates" | "probabilities" | "z" => (DType::F32, &self.gates_shape()),
            "used" => (DType::F32, &[batch, heads]),
            "active" => (DType::U32, &[batch, heads]),
            "order" => (DType::U32, &[batch * heads]),
            "kv_order" => (DType::U32, &[batch * kv_heads]),
            _ => (DType::U32, &[2]),
        };
        validate::shape(op, arg, tensor, shape)?;
        validate::tensor(op, arg, tensor, dtype, self.device())?;
        match arg {
            "y" | "grad_y" | "o" => validate::last_contiguous(op, arg, tensor),
            "lse" => Ok(()),
            _ => validate::contiguous(op, arg, tensor),
        }
    }
}

/// The values under the activation, what they are weights of, and how many tasks there are.
fn source<'a>(
    op: &'static str,
    gate: &EveryTaskGate<'a>,
    sizes: Sizes,
    device: &Device,
) -> Result<(TensorRef<'a>, Option<Linear<'a>>, usize)> {
    match gate {
        EveryTaskGate::Static { logits } => {
            Ok((logits.clone(), None, check_logits(op, logits, sizes.heads, device)?))
        }
        EveryTaskGate::Dynamic { x, weights, bias } => {
            let linear = Linear { x: x.clone(), bias: bias.clone() };
            let tasks = check_linear(op, &linear, weights, sizes, device)?;
            Ok((weights.clone(), Some(linear), tasks))
        }
        EveryTaskGate::Provided { values } => {
            let tasks = values.shape().get(1).copied().unwrap_or(0);
            validate::shape(op, "values", values, &[sizes.batch, tasks, sizes.heads])?;
            validate::tensor(op, "values", values, DType::F32, device)?;
            let layout = values.layout();
            let [by_sample, by_task, by_head] = [layout.step(0), layout.step(1), layout.step(2)];
            if sizes.batch > 1 && tasks > 1 && by_sample != tasks * by_task && !layout.is_empty() {
                let reason = format!(
                    "must have one stride over batch and tasks together, has strides {:?}",
                    layout.strides()
                );
                return Err(Error::argument(op, "values", reason));
            }
            let by_row = if tasks > 1 { by_task } else { by_sample };
            let shape = [sizes.batch * tasks, sizes.heads];
            let layout = Layout::new(&shape, &[by_row, by_head], layout.offset())?;
            Ok((values.with_layout(layout)?, None, tasks))
        }
    }
}

/// Task of each (sample, task).
pub(super) fn task_ids(batch: usize, tasks: usize, device: &Device) -> Result<Ids<'static>> {
    // `tasks` is below 2³¹.
    let ids: Vec<i32> = (0..batch).flat_map(|_| 0..tasks as i32).collect();
    let values = ids.iter().map(|&id| id.into()).collect();
    Ok(Ids::Uploaded(Tensor::from_slice(device, &ids, &[ids.len()])?, values))
}
