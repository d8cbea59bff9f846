//! Validation: from a caller's tensors to a problem every backend can trust.

use super::{ActiveHeads, AttentionGradientViews, AttentionOptions, AttentionSaved, QueryOffset};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ids::Ids;
use crate::tensor::{TensorMut, TensorRef};
use crate::validate;

/// Largest head dimension the f32 kernels take.
pub(crate) const MAX_HEAD_DIM: usize = 128;

/// Where the first query of each sample stands.
pub(crate) enum Offset<'a> {
    /// `kv_len − q_len` of the sample.
    BottomRight,
    /// The same for all, saturated to i32.
    At(i32),
    /// One per sample.
    PerSample(Ids<'a>),
}

/// A validated call: sizes, options, and inputs whose shapes, types and devices agree.
pub(crate) struct Problem<'a> {
    /// Public name of the operation, for errors.
    pub(crate) op: &'static str,
    pub(crate) batch: usize,
    pub(crate) q_heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) q_len: usize,
    /// Key slots in the tensor; a sample's own length is in `kv_len`.
    pub(crate) kv_slots: usize,
    pub(crate) head_dim: usize,
    pub(crate) value_dim: usize,
    pub(crate) scale: f32,
    pub(crate) causal: bool,
    pub(crate) q: TensorRef<'a>,
    pub(crate) k: TensorRef<'a>,
    pub(crate) v: TensorRef<'a>,
    pub(crate) kv_len: Option<Ids<'a>>,
    pub(crate) offset: Offset<'a>,
    pub(crate) heads: Option<ActiveHeads<'a>>,
}

/// Outputs of a forward call.
pub(crate) struct Forward<'a> {
    pub(crate) o: TensorMut<'a>,
    pub(crate) lse: TensorMut<'a>,
}

/// Saved tensors and outputs of a backward call.
pub(crate) struct Backward<'a> {
    pub(crate) saved: AttentionSaved<'a>,
    pub(crate) gradients: AttentionGradientViews<'a>,
}

impl<'a> Problem<'a> {
    pub(crate) fn new(
        op: &'static str,
        q: &TensorRef<'a>,
        k: &TensorRef<'a>,
        v: &TensorRef<'a>,
        options: &AttentionOptions<'a>,
    ) -> Result<Self> {
        let [batch, q_heads, q_len, head_dim] = validate::rank4(op, "q", q)?;
        let [_, kv_heads, kv_slots, _] = validate::rank4(op, "k", k)?;
        let [_, _, _, value_dim] = validate::rank4(op, "v", v)?;
        validate::shape(op, "k", k, &[batch, kv_heads, kv_slots, head_dim])?;
        validate::shape(op, "v", v, &[batch, kv_heads, kv_slots, value_dim])?;
        for (arg, tensor) in [("q", q), ("k", k), ("v", v)] {
            validate::tensor(op, arg, tensor, DType::F32, q.device())?;
            validate::last_contiguous(op, arg, tensor)?;
        }
        let groups =
            q_heads.checked_rem(kv_heads).is_some_and(|rest| rest == 0) || (q_heads == 0 && kv_heads == 0);
        if !groups {
            let reason = format!("has {q_heads} heads, not a multiple of the {kv_heads} key heads");
            return Err(Error::argument(op, "q", reason));
        }
        for (what, dim) in [("head dimension", head_dim), ("value dimension", value_dim)] {
            if dim == 0 || dim > MAX_HEAD_DIM {
                let (limit, got) = (format!("1..={MAX_HEAD_DIM}"), dim.to_string());
                return Err(Error::Unsupported { op, backend: q.device().backend(), what, limit, got });
            }
        }
        for (what, len) in
            [("query length", q_len), ("key length", kv_slots), ("batch", batch), ("heads", q_heads)]
        {
            if len > (1 << 30) {
                let (limit, got) = ((1u64 << 30).to_string(), len.to_string());
                return Err(Error::Unsupported { op, backend: q.device().backend(), what, limit, got });
            }
        }
        let scale = options.scale.unwrap_or(1.0 / (head_dim as f32).sqrt());
        if !scale.is_finite() {
            return Err(Error::argument(op, "scale", format!("is {scale}, which is not finite")));
        }
        let kv_len = options.kv_len.as_ref().map(|ids| {
            Ids::new(op, "kv_len", ids, batch, q.device(), |len| {
                if (0..=kv_slots as i64).contains(&len) {
                    return Ok(());
                }
                Err(Error::argument(op, "kv_len", format!("holds {len}, outside 0..={kv_slots}")))
            })
        });
        let offset = match &options.query_offset {
            QueryOffset::BottomRight => Offset::BottomRight,
            QueryOffset::At(at) => Offset::At((*at).clamp(i32::MIN.into(), i32::MAX.into()) as i32),
            QueryOffset::PerSample(ids) => {
                Offset::PerSample(Ids::new(op, "query_offset", ids, batch, q.device(), |_| Ok(()))?)
            }
        };
        let problem = Self {
            op,
            batch,
            q_heads,
            kv_heads,
            q_len,
            kv_slots,
            head_dim,
            value_dim,
            scale,
            causal: options.causal,
            q: q.clone(),
            k: k.clone(),
            v: v.clone(),
            kv_len: kv_len.transpose()?,
            offset,
            heads: options.heads.clone(),
        };
        problem.check_heads()?;
        Ok(problem)
    }

    fn check_heads(&self) -> Result<()> {
        let Some(heads) = &self.heads else { return Ok(()) };
        let (op, device) = (self.op, self.q.device());
        let (pairs, kv_pairs) = (self.batch * self.q_heads, self.batch * self.kv_heads);
        let lists: [(&'static str, &TensorRef<'_>, &[usize]); 4] = [
            ("heads.order", &heads.order, &[pairs]),
            ("heads.kv_order", &heads.kv_order, &[kv_pairs]),
            ("heads.counts", &heads.counts, &[2]),
            ("heads.active", &heads.active, &[self.batch, self.q_heads]),
        ];
        for (arg, tensor, shape) in lists {
            validate::shape(op, arg, tensor, shape)?;
            validate::tensor(op, arg, tensor, DType::U32, device)?;
            validate::contiguous(op, arg, tensor)?;
        }
        validate::shape(op, "heads.row_scale", &heads.row_scale, &self.lse_shape())?;
        validate::tensor(op, "heads.row_scale", &heads.row_scale, DType::F32, device)
    }

    pub(crate) fn o_shape(&self) -> [usize; 4] {
        [self.batch, self.q_heads, self.q_len, self.value_dim]
    }

    pub(crate) fn lse_shape(&self) -> [usize; 3] {
        [self.batch, self.q_heads, self.q_len]
    }

    /// Query heads that share one key head.
    pub(crate) fn group(&self) -> usize {
        self.q_heads / self.kv_heads.max(1)
    }

    pub(crate) fn check_forward(&self, call: &Forward<'_>) -> Result<()> {
        self.check_output("o", &call.o, &self.o_shape())?;
        validate::last_contiguous(self.op, "o", call.o.as_ref())?;
        self.check_output("lse", &call.lse, &self.lse_shape())?;
        let inputs = [("q", &self.q), ("k", &self.k), ("v", &self.v)];
        validate::disjoint(self.op, &[("o", call.o.as_ref()), ("lse", call.lse.as_ref())], &inputs)
    }

    pub(crate) fn check_backward(&self, call: &Backward<'_>) -> Result<()> {
        let (op, device) = (self.op, self.q.device());
        let saved = &call.saved;
        let mut inputs = vec![("q", &self.q), ("k", &self.k), ("v", &self.v)];
        let vectors = [("o", Some(&saved.o)), ("grad_o", Some(&saved.grad_o))];
        for (arg, tensor) in vectors.into_iter().filter_map(|(arg, t)| Some((arg, t?))) {
            validate::shape(op, arg, tensor, &self.o_shape())?;
            validate::tensor(op, arg, tensor, DType::F32, device)?;
            validate::last_contiguous(op, arg, tensor)?;
            inputs.push((arg, tensor));
        }
        let rows = [("lse", Some(&saved.lse)), ("grad_lse", saved.grad_lse.as_ref())];
        for (arg, tensor) in rows.into_iter().filter_map(|(arg, t)| Some((arg, t?))) {
            validate::shape(op, arg, tensor, &self.lse_shape())?;
            validate::tensor(op, arg, tensor, DType::F32, device)?;
            inputs.push((arg, tensor));
        }
        let grads = &call.gradients;
        let mut outputs = Vec::new();
        let wanted = [
            ("dq", &grads.dq, self.q.shape()),
            ("dk", &grads.dk, self.k.shape()),
            ("dv", &grads.dv, self.v.shape()),
            ("drow_scale", &grads.drow_scale, &self.lse_shape()),
        ];
        for (arg, view, shape) in wanted {
            let Some(view) = view else { continue };
            self.check_output(arg, view, shape)?;
            if arg != "drow_scale" {
                validate::last_contiguous(op, arg, view.as_ref())?;
            } else if self.heads.is_none() {
                return Err(Error::argument(
                    op,
                    arg,
                    "is asked for without `heads`, which holds the row scale",
                ));
            }
            outputs.push((arg, view.as_ref()));
        }
        validate::disjoint(op, &outputs, &inputs)
    }

    fn check_output(&self, arg: &'static str, view: &TensorMut<'_>, shape: &[usize]) -> Result<()> {
        validate::shape(self.op, arg, view.as_ref(), shape)?;
        validate::tensor(self.op, arg, view.as_ref(), DType::F32, self.q.device())
    }
}
