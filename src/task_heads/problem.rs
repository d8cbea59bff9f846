//! Validation: from a caller's tensors to a problem every backend can trust.

use super::{
    Activation, GateSource, NO_TASK, NoTask, SoftmaxScale, TaskHeadsOptions, TaskHeadsSaved, TaskHeadsViews,
    WantTaskHeadsGradients, ZeroGateGrad,
};
use crate::attention::{self, AttentionOptions};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ids::Ids;
use crate::tensor::{Layout, Tensor, TensorRef};
use crate::validate;

/// Sizes every step needs. `heads` is a multiple of `kv_heads`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
}

/// Where the gate comes from, validated.
pub(super) struct Source<'a> {
    /// `[tasks, heads]` with `ids`, otherwise `[batch, heads]`.
    pub(super) values: TensorRef<'a>,
    /// Rows of `values`, by sample.
    pub(super) ids: Option<Ids<'a>>,
}

/// Which function of δ, the gates and the probabilities the derivative by z is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum GateDerivative {
    /// `δ`, which is then ⟨dy, o⟩.
    Identity = 0,
    /// `δ·(1 − g)`.
    Sigmoid = 1,
    /// `δ − p·Σδ`: softmax, and top-k that keeps p.
    Probabilities = 2,
    /// `δ − g·Σδ`: renormalised top-k, whose p over its heads is g.
    Gates = 3,
    /// `P·(δ − p·Σδ)` with P = Σp over the kept heads: the dense softmax's derivative from renormalised gates g = p/P,
    /// where ∂L/∂g = δ/g and so p·∂L/∂g = P·δ.
    StraightThrough = 4,
}

/// A validated call.
pub(super) struct Problem<'a> {
    /// Public name of the operation, for errors.
    pub(super) op: &'static str,
    pub(super) sizes: Sizes,
    pub(super) q_len: usize,
    pub(super) value_dim: usize,
    pub(super) source: Source<'a>,
    pub(super) activation: Activation,
    pub(super) no_task: NoTask,
    pub(super) zero_gate_grad: ZeroGateGrad,
    pub(super) attention: AttentionOptions<'a>,
    pub(super) q: TensorRef<'a>,
    pub(super) k: TensorRef<'a>,
    pub(super) v: TensorRef<'a>,
}

impl Source<'_> {
    /// Shape of the tensor that receives the gradient.
    pub(super) fn shape(&self) -> &[usize] {
        self.values.shape()
    }

    pub(super) fn is_static(&self) -> bool {
        self.ids.is_some()
    }
}

impl<'a> Problem<'a> {
    pub(super) fn new(
        op: &'static str,
        q: &TensorRef<'a>,
        k: &TensorRef<'a>,
        v: &TensorRef<'a>,
        options: &TaskHeadsOptions<'a>,
    ) -> Result<Self> {
        if options.attention.heads.is_some() {
            return Err(Error::argument(op, "attention.heads", "is what the gates decide; it must be None"));
        }
        // Everything attention would refuse, before the gates are launched.
        let inner = attention::Problem::new(op, q, k, v, &options.attention)?;
        let sizes = Sizes { batch: inner.batch, heads: inner.q_heads, kv_heads: inner.kv_heads };
        let pairs = sizes.batch.saturating_mul(sizes.heads);
        if pairs > i32::MAX as usize {
            let (backend, limit) = (q.device().backend(), i32::MAX.to_string());
            return Err(Error::Unsupported {
                op,
                backend,
                what: "batch · heads",
                limit,
                got: pairs.to_string(),
            });
        }
        if let Activation::TopK { k, .. } = options.activation
            && (k == 0 || k > sizes.heads)
        {
            return Err(Error::argument(op, "k", format!("is {k}, outside 1..={}", sizes.heads)));
        }
        let (q_len, value_dim) = (inner.q_len, inner.value_dim);
        Ok(Self {
            op,
            sizes,
            q_len,
            value_dim,
            source: source(op, &options.gate, sizes, q.device())?,
            activation: options.activation,
            no_task: options.no_task,
            zero_gate_grad: options.zero_gate_grad,
            attention: options.attention.clone(),
            q: q.clone(),
            k: k.clone(),
            v: v.clone(),
        })
    }

    pub(super) fn device(&self) -> &Device {
        self.q.device()
    }

    pub(super) fn y_shape(&self) -> [usize; 4] {
        [self.sizes.batch, self.sizes.heads, self.q_len, self.value_dim]
    }

    pub(super) fn lse_shape(&self) -> [usize; 3] {
        [self.sizes.batch, self.sizes.heads, self.q_len]
    }

    pub(super) fn derivative(&self) -> GateDerivative {
        match self.activation {
            Activation::Identity => GateDerivative::Identity,
            Activation::Sigmoid => GateDerivative::Sigmoid,
            Activation::Softmax { .. } | Activation::TopK { renormalise: false, .. } => {
                GateDerivative::Probabilities
            }
            Activation::TopK { straight_through: false, .. } => GateDerivative::Gates,
            Activation::TopK { .. } => GateDerivative::StraightThrough,
        }
    }

    /// What a softmax is multiplied by.
    pub(super) fn softmax_scale(&self) -> f32 {
        match self.activation {
            Activation::Softmax { scale: SoftmaxScale::Heads } => self.sizes.heads as f32,
            _ => 1.0,
        }
    }

    /// Gate of a sample without a task.
    pub(super) fn no_task_gate(&self) -> f32 {
        match self.no_task {
            NoTask::Full => 1.0,
            NoTask::Skip => 0.0,
        }
    }

    pub(super) fn check_outputs(&self, out: &TaskHeadsViews<'_>) -> Result<()> {
        let outputs = [
            ("y", out.y.as_ref()),
            ("lse", out.lse.as_ref()),
            ("gates", out.gates.as_ref()),
            ("probabilities", out.probabilities.as_ref()),
            ("order", out.order.as_ref()),
            ("kv_order", out.kv_order.as_ref()),
            ("counts", out.counts.as_ref()),
            ("active", out.active.as_ref()),
        ];
        self.check_results(&outputs)?;
        let values = if self.source.is_static() { "logits" } else { "values" };
        let inputs = [("q", &self.q), ("k", &self.k), ("v", &self.v), (values, &self.source.values)];
        validate::disjoint(self.op, &outputs, &inputs)
    }

    pub(super) fn check_saved(&self, saved: &TaskHeadsSaved<'_>, grad_y: &TensorRef<'_>) -> Result<()> {
        self.check_results(&[
            ("y", &saved.y),
            ("lse", &saved.lse),
            ("gates", &saved.gates),
            ("probabilities", &saved.probabilities),
            ("order", &saved.order),
            ("kv_order", &saved.kv_order),
            ("counts", &saved.counts),
            ("active", &saved.active),
        ])?;
        validate::shape(self.op, "grad_y", grad_y, &self.y_shape())?;
        validate::tensor(self.op, "grad_y", grad_y, DType::F32, self.device())?;
        validate::last_contiguous(self.op, "grad_y", grad_y)
    }

    /// Shape, type, device and contiguity of what forward writes and backward reads.
    fn check_results(&self, results: &[(&'static str, &TensorRef<'_>); 8]) -> Result<()> {
        let (batch, heads) = (self.sizes.batch, self.sizes.heads);
        for &(arg, tensor) in results {
            let (dtype, shape): (DType, &[usize]) = match arg {
                "y" => (DType::F32, &self.y_shape()),
                "lse" => (DType::F32, &self.lse_shape()),
                "gates" | "probabilities" => (DType::F32, &[batch, heads]),
                "active" => (DType::U32, &[batch, heads]),
                "order" => (DType::U32, &[batch * heads]),
                "kv_order" => (DType::U32, &[batch * self.sizes.kv_heads]),
                _ => (DType::U32, &[2]),
            };
            validate::shape(self.op, arg, tensor, shape)?;
            validate::tensor(self.op, arg, tensor, dtype, self.device())?;
            match arg {
                "y" => validate::last_contiguous(self.op, arg, tensor)?,
                "lse" => {}
                _ => validate::contiguous(self.op, arg, tensor)?,
            }
        }
        Ok(())
    }

    /// Refuses the gradient of a gate that is the constant 1: training it would silently learn nothing.
    pub(super) fn check_routing_gradient(&self, want: WantTaskHeadsGradients) -> Result<()> {
        let constant = Activation::TopK { k: 1, renormalise: true, straight_through: false };
        if !want.dgate || self.activation != constant {
            return Ok(());
        }
        let reason = "of a renormalised top-1 gate is the constant 1 and has no routing gradient: \
                      set straight_through, or do not renormalise";
        Err(Error::argument(self.op, "activation", reason))
    }
}

fn source<'a>(op: &'static str, gate: &GateSource<'a>, sizes: Sizes, device: &Device) -> Result<Source<'a>> {
    match gate {
        GateSource::Provided { values } => {
            validate::shape(op, "values", values, &[sizes.batch, sizes.heads])?;
            validate::tensor(op, "values", values, DType::F32, device)?;
            Ok(Source { values: values.clone(), ids: None })
        }
        GateSource::Static { logits, tasks } => {
            let count = logits.shape().first().copied().unwrap_or(0);
            if logits.shape() != [count, sizes.heads] {
                return Err(Error::shape(op, "logits", format!("[tasks, {}]", sizes.heads), logits.shape()));
            }
            validate::tensor(op, "logits", logits, DType::F32, device)?;
            if count > i32::MAX as usize {
                let (limit, got) = (i32::MAX.to_string(), count.to_string());
                let backend = device.backend();
                return Err(Error::Unsupported { op, backend, what: "number of tasks", limit, got });
            }
            let ids = task_ids(op, tasks, count, sizes.batch, device)?;
            Ok(Source { values: logits.clone(), ids: Some(ids) })
        }
    }
}

/// Task ids on the operation's device; those in host memory are checked.
fn task_ids<'a>(
    op: &'static str,
    tasks: &TensorRef<'a>,
    count: usize,
    batch: usize,
    device: &Device,
) -> Result<Ids<'a>> {
    let is_no_task = |id: i64| no_task_id(tasks.dtype(), id);
    let ids = Ids::new(op, "tasks", tasks, &[batch], device, |id| {
        if is_no_task(id) || usize::try_from(id).is_ok_and(|id| id < count) {
            return Ok(());
        }
        Err(Error::TaskId { op, got: id, tasks: count })
    })?;
    let saturated = matches!(ids, Ids::Uploaded(..)) && tasks.dtype() == DType::U32;
    if !saturated {
        return Ok(ids);
    }
    // The general upload clamps u32 to i32, which would hide u32's NO_TASK.
    let signed =
        tasks.to_vec::<u32>()?.into_iter().map(|id| if is_no_task(id.into()) { NO_TASK } else { id as i32 });
    let signed: Vec<i32> = signed.collect();
    let values = signed.iter().map(|&id| id.into()).collect();
    Ok(Ids::Uploaded(Tensor::from_slice(device, &signed, &[batch])?, values))
}

/// Whether `id`, read from a tensor of type `dtype`, is [`NO_TASK`].
pub(super) fn no_task_id(dtype: DType, id: i64) -> bool {
    id == if dtype == DType::U32 { u32::MAX.into() } else { NO_TASK.into() }
}

/// `[batch, heads]` seen as `[batch, heads, rows]`.
pub(super) fn repeat_over_rows<'a>(gates: &TensorRef<'a>, shape: &[usize; 3]) -> Result<TensorRef<'a>> {
    gates.with_layout(Layout::new(shape, &[shape[1], 1, 0], gates.layout().offset())?)
}

/// `[batch, heads, rows]` seen as `[batch, heads, rows, 1]`.
pub(super) fn one_column(layout: &Layout) -> Result<Layout> {
    let (shape, strides) = (layout.shape(), layout.strides());
    Layout::new(&[shape[0], shape[1], shape[2], 1], &[strides[0], strides[1], strides[2], 1], layout.offset())
}
