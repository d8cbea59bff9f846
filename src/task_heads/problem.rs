//! Validation: from a caller's tensors to a problem every backend can trust.

use super::rows::Starts;
use super::steps::Owner;
use super::{
    Activation, GateSource, NoTask, SoftmaxScale, TaskHeadsOptions, TaskHeadsSaved, TaskHeadsViews,
    WantTaskHeadsGradients, ZeroGateGrad,
};
use crate::attention::{self, AttentionOptions};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ids::Ids;
use crate::random::Stream;
use crate::tensor::{Layout, TensorRef};
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
    /// `[tasks, heads]` with `ids`, otherwise `[batch, heads]`; `[tasks, heads, features]` weights of a linear function.
    pub(super) values: TensorRef<'a>,
    /// Rows of `values`, by sample.
    pub(super) ids: Option<Ids<'a>>,
    /// What `values` are weights of.
    pub(super) linear: Option<Linear<'a>>,
}

/// Inputs of a gate that is a linear function of the sample.
pub(super) struct Linear<'a> {
    /// `[batch, features]`.
    pub(super) x: TensorRef<'a>,
    /// `[tasks, heads]`.
    pub(super) bias: Option<TensorRef<'a>>,
}

/// Which function of δ, the gates and the probabilities the derivative by z is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum GateDerivative {
    /// `δ`, which is then ⟨dy, o⟩.
    Identity = 0,
    /// `δ·(1 − g)`: sigmoid, and threshold, whose skipped heads have δ = 0.
    Sigmoid = 1,
    /// `δ − p·Σδ`: softmax, and top-k and top-p that keep p.
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
    /// Samples in a row that share a row of x and their noise: the tasks, where every sample is asked every task.
    pub(super) repeat: usize,
    /// Of q, k, v, y and their gradients. Gates are f32.
    pub(super) dtype: DType,
    /// `[batch, heads, q_len]`, or `[1, heads, all rows]` when packed.
    pub(super) lse_shape: [usize; 3],
    /// First rows of queries and keys, where sequences are packed.
    pub(super) packed: Option<[Starts<'a>; 2]>,
    pub(super) value_dim: usize,
    pub(super) source: Source<'a>,
    pub(super) activation: Activation,
    pub(super) no_task: NoTask,
    pub(super) zero_gate_grad: ZeroGateGrad,
    pub(super) balance: Option<TensorRef<'a>>,
    pub(super) noise: Stream<'a>,
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

    /// Whether the gradient by the values is summed by task.
    pub(super) fn is_static(&self) -> bool {
        self.ids.is_some() && self.linear.is_none()
    }

    /// How many tasks `ids` number.
    pub(super) fn tasks(&self) -> usize {
        self.values.shape()[0]
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
        check_count(op, "batch · heads", sizes.batch.saturating_mul(sizes.heads), q.device())?;
        check_activation(op, options.activation, sizes.heads)?;
        if inner.dtype == DType::F64 {
            return Err(Error::DType { op, arg: "q", expected: "f32, f16 or bf16".into(), got: inner.dtype });
        }
        let (dtype, value_dim, lse_shape) = (inner.dtype, inner.value_dim, inner.lse_shape());
        let most = [inner.q_len, inner.kv_slots];
        let rows = [q.shape()[2], k.shape()[2]];
        let packed = inner.into_starts().map(|[queries, keys]| {
            [(queries, 0), (keys, 1)].map(|(ids, i)| Starts { ids, rows: rows[i], most: most[i] })
        });
        let problem = Self {
            op,
            sizes,
            repeat: 1,
            dtype,
            lse_shape,
            packed,
            value_dim,
            source: source(op, &options.gate, sizes, q.device())?,
            activation: options.activation,
            no_task: options.no_task,
            zero_gate_grad: options.zero_gate_grad,
            balance: options.balance.clone(),
            noise: options.noise.clone(),
            attention: options.attention.clone(),
            q: q.clone(),
            k: k.clone(),
            v: v.clone(),
        };
        problem.check_balance()?;
        Ok(problem)
    }

    pub(super) fn check_balance(&self) -> Result<()> {
        let Some(balance) = &self.balance else { return Ok(()) };
        validate::shape(self.op, "balance", balance, &[self.balance_tasks()])?;
        validate::tensor(self.op, "balance", balance, DType::F32, self.device())?;
        validate::contiguous(self.op, "balance", balance)
    }

    /// Tasks whose gates are balanced: one where samples have no task.
    pub(super) fn balance_tasks(&self) -> usize {
        if self.source.ids.is_some() { self.source.tasks() } else { 1 }
    }

    pub(super) fn device(&self) -> &Device {
        self.q.device()
    }

    pub(super) fn y_shape(&self) -> [usize; 4] {
        let [batch, heads, rows] = self.lse_shape;
        [batch, heads, rows, self.value_dim]
    }

    pub(super) fn lse_shape(&self) -> [usize; 3] {
        self.lse_shape
    }

    /// Where an owner's rows are, if they are packed.
    pub(super) fn starts(&self, owner: Owner) -> Option<&Starts<'a>> {
        self.packed.as_ref().map(|starts| &starts[owner as usize])
    }

    pub(super) fn derivative(&self) -> GateDerivative {
        match self.activation {
            Activation::Identity => GateDerivative::Identity,
            Activation::Sigmoid | Activation::Threshold { .. } => GateDerivative::Sigmoid,
            Activation::Softmax { .. }
            | Activation::TopP { .. }
            | Activation::TopK { renormalise: false, .. } => GateDerivative::Probabilities,
            Activation::TopK { straight_through: false, .. } => GateDerivative::Gates,
            Activation::TopK { .. } => GateDerivative::StraightThrough,
        }
    }

    /// The code kernels use for the row of z a sample reads: its own, its task's, or its own while it has a task.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(super) fn rows_of_gate(&self) -> u32 {
        match (&self.source.ids, self.computes_scores()) {
            (None, _) => 0,
            (Some(_), false) => 1,
            (Some(_), true) => 2,
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
        let mut outputs = outputs.to_vec();
        if self.computes_scores() {
            let Some(z) = &out.z else {
                return Err(Error::argument(self.op, "z", "is needed by a dynamic or noisy gate"));
            };
            outputs.push(("z", z.as_ref()));
            validate::shape(self.op, "z", z.as_ref(), &[self.sizes.batch, self.sizes.heads])?;
            validate::tensor(self.op, "z", z.as_ref(), DType::F32, self.device())?;
            validate::contiguous(self.op, "z", z.as_ref())?;
        }
        let values = match &self.source {
            Source { linear: Some(_), .. } => "weights",
            source if source.is_static() => "logits",
            _ => "values",
        };
        let mut inputs = vec![("q", &self.q), ("k", &self.k), ("v", &self.v), (values, &self.source.values)];
        if let Some(linear) = &self.source.linear {
            inputs.push(("x", &linear.x));
            inputs.extend(linear.bias.as_ref().map(|bias| ("bias", bias)));
        }
        validate::disjoint(self.op, &outputs, &inputs)
    }

    /// Whether z is computed before the gate, rather than read from the source.
    pub(super) fn computes_scores(&self) -> bool {
        self.source.linear.is_some() || self.activation.noise() != 0.0
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
        validate::tensor(self.op, "grad_y", grad_y, self.dtype, self.device())?;
        validate::last_contiguous(self.op, "grad_y", grad_y)
    }

    /// Shape, type, device and contiguity of what forward writes and backward reads.
    fn check_results(&self, results: &[(&'static str, &TensorRef<'_>); 8]) -> Result<()> {
        let (batch, heads) = (self.sizes.batch, self.sizes.heads);
        for &(arg, tensor) in results {
            let (dtype, shape): (DType, &[usize]) = match arg {
                "y" => (self.dtype, &self.y_shape()),
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
        let is_constant = matches!(
            self.activation,
            Activation::TopK { k: 1, renormalise: true, straight_through: false, .. }
        );
        if !want.dgate || !is_constant {
            return Ok(());
        }
        let reason = "of a renormalised top-1 gate is the constant 1 and has no routing gradient: \
                      set straight_through, or do not renormalise";
        Err(Error::argument(self.op, "activation", reason))
    }
}

/// k, p and t within their ranges.
pub(super) fn check_activation(op: &'static str, activation: Activation, heads: usize) -> Result<()> {
    let unit = |arg, x: f32| {
        if (0.0..=1.0).contains(&x) {
            Ok(())
        } else {
            Err(Error::argument(op, arg, format!("is {x}, outside 0..=1")))
        }
    };
    match activation {
        Activation::TopP { p: 0.0 } => Err(Error::argument(op, "p", "is 0, which keeps nothing")),
        Activation::TopP { p } => unit("p", p),
        Activation::Threshold { t } => unit("t", t),
        Activation::TopK { k, shared_heads, noise, .. } => {
            let routed = heads.saturating_sub(shared_heads);
            if shared_heads > heads {
                return Err(Error::argument(
                    op,
                    "shared_heads",
                    format!("is {shared_heads}, of {heads} heads"),
                ));
            }
            if k == 0 || k > routed {
                return Err(Error::argument(op, "k", format!("is {k}, outside 1..={routed}")));
            }
            if !(noise >= 0.0 && noise.is_finite()) {
                return Err(Error::argument(
                    op,
                    "noise",
                    format!("is {noise}, neither 0 nor a positive number"),
                ));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn source<'a>(op: &'static str, gate: &GateSource<'a>, sizes: Sizes, device: &Device) -> Result<Source<'a>> {
    match gate {
        GateSource::Provided { values } => {
            validate::shape(op, "values", values, &[sizes.batch, sizes.heads])?;
            validate::tensor(op, "values", values, DType::F32, device)?;
            Ok(Source { values: values.clone(), ids: None, linear: None })
        }
        GateSource::Static { logits, tasks } => {
            let count = check_logits(op, logits, sizes.heads, device)?;
            let ids = Ids::of_tasks(op, "tasks", tasks, count, &[sizes.batch], device)?;
            Ok(Source { values: logits.clone(), ids: Some(ids), linear: None })
        }
        GateSource::Dynamic { x, weights, bias, tasks } => {
            let linear = Linear { x: x.clone(), bias: bias.clone() };
            let count = check_linear(op, &linear, weights, sizes, device)?;
            let ids = match tasks {
                Some(tasks) => Some(Ids::of_tasks(op, "tasks", tasks, count, &[sizes.batch], device)?),
                None if count == 1 => None,
                None => {
                    return Err(Error::argument(
                        op,
                        "tasks",
                        format!("must say which of {count} tasks' weights"),
                    ));
                }
            };
            Ok(Source { values: weights.clone(), ids, linear: Some(linear) })
        }
    }
}

/// Of how many tasks these are the logits.
pub(super) fn check_logits(
    op: &'static str,
    logits: &TensorRef<'_>,
    heads: usize,
    device: &Device,
) -> Result<usize> {
    let count = logits.shape().first().copied().unwrap_or(0);
    if logits.shape() != [count, heads] {
        return Err(Error::shape(op, "logits", format!("[tasks, {heads}]"), logits.shape()));
    }
    validate::tensor(op, "logits", logits, DType::F32, device)?;
    check_count(op, "number of tasks", count, device)?;
    Ok(count)
}

/// Of how many tasks these are the weights.
pub(super) fn check_linear(
    op: &'static str,
    linear: &Linear<'_>,
    weights: &TensorRef<'_>,
    sizes: Sizes,
    device: &Device,
) -> Result<usize> {
    let &[count, heads, features] = weights.shape() else {
        return Err(Error::shape(op, "weights", "[tasks, heads, features]", weights.shape()));
    };
    if heads != sizes.heads {
        let expected = format!("[tasks, {}, features]", sizes.heads);
        return Err(Error::shape(op, "weights", expected, weights.shape()));
    }
    check_count(op, "number of tasks", count, device)?;
    validate::shape(op, "x", &linear.x, &[sizes.batch, features])?;
    for (arg, tensor) in [("x", &linear.x), ("weights", weights)] {
        validate::tensor(op, arg, tensor, DType::F32, device)?;
        validate::last_contiguous(op, arg, tensor)?;
    }
    if let Some(bias) = &linear.bias {
        validate::shape(op, "bias", bias, &[count, heads])?;
        validate::tensor(op, "bias", bias, DType::F32, device)?;
    }
    check_count(op, "features", features, device)?;
    Ok(count)
}

/// What kernels compare and count in 32 bits.
pub(super) fn check_count(op: &'static str, what: &'static str, count: usize, device: &Device) -> Result<()> {
    if count <= i32::MAX as usize {
        return Ok(());
    }
    let (backend, limit, got) = (device.backend(), i32::MAX.to_string(), count.to_string());
    Err(Error::Unsupported { op, backend, what, limit, got })
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
