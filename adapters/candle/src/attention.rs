//! Attention as a candle operation.

use crate::bridge::{Input, rows, storage, tensor, with_inputs, wrap};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use gatewarp::attention::{
    AttentionOptions, AttentionSaved, QueryOffset, WantGradients, attention_backward, attention_forward,
};
use gatewarp::{Device, TensorRef};
use std::sync::{Arc, Mutex};

/// What may attend to what, and where it is computed.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Where the kernels run.
    pub device: Device,
    /// Multiplies every score. Default `1/√head_dim`.
    pub scale: Option<f32>,
    /// Query `i` sees only keys up to its own position.
    pub causal: bool,
    /// Position of the first query; `None` aligns the last query with the last key.
    pub query_offset: Option<i64>,
    /// Number of keys of each sample, `[batch]`.
    pub kv_len: Option<Arc<[u32]>>,
}

impl Default for Attention {
    fn default() -> Self {
        Self { device: Device::cpu(), scale: None, causal: false, query_offset: None, kv_len: None }
    }
}

impl Attention {
    /// Calls `f` with the options in gatewarp's form.
    pub(crate) fn with_options<R>(&self, f: impl FnOnce(&AttentionOptions<'_>) -> Result<R>) -> Result<R> {
        let kv_len = self.kv_len.as_ref().map(|len| TensorRef::from_slice(len, &[len.len()])).transpose();
        f(&AttentionOptions {
            scale: self.scale.map(f64::from),
            causal: self.causal,
            query_offset: self.query_offset.map_or(QueryOffset::BottomRight, QueryOffset::At),
            kv_len: kv_len.map_err(wrap)?,
            heads: None,
            ..Default::default()
        })
    }
}

/// The operation and what its backward pass needs of the forward pass.
struct Op {
    options: Attention,
    /// Log-sum-exp of the forward pass: candle hands `bwd` the inputs and the output, nothing else.
    lse: Mutex<Option<gatewarp::Tensor>>,
}

/// Attention of `q [B, Hq, Sq, D]` over `k [B, Hk, Sk, D]`, `v [B, Hk, Sk, Dv]`, with gradients for all three.
///
/// Returns `[B, Hq, Sq, Dv]`. Transposed views such as `[B, S, H, D].transpose(1, 2)` are read in place.
///
/// # Errors
/// gatewarp's typed error, wrapped, naming the argument.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, options: &Attention) -> Result<Tensor> {
    rows(q)?.apply_op3(&rows(k)?, &rows(v)?, Op { options: options.clone(), lse: Mutex::new(None) })
}

/// Calls `f` with the value the forward pass left. It stays, so that a graph can be walked backward again.
pub(crate) fn with_saved<T, R>(slot: &Mutex<Option<T>>, f: impl FnOnce(&T) -> Result<R>) -> Result<R> {
    let slot =
        slot.lock().map_err(|_| candle_core::Error::msg("another thread panicked inside this operation"))?;
    f(slot.as_ref().ok_or_else(|| candle_core::Error::msg("backward before forward"))?)
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "gatewarp-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let device = &self.options.device;
        let (q, k, v) = (
            Input::new(device, q, q_layout)?,
            Input::new(device, k, k_layout)?,
            Input::new(device, v, v_layout)?,
        );
        let out = self.options.with_options(|options| {
            attention_forward(&q.view(), &k.view(), &v.view(), options).map_err(wrap)
        })?;
        if let Ok(mut slot) = self.lse.lock() {
            *slot = Some(out.lse);
        }
        storage(&out.o)
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        o: &Tensor,
        grad_o: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad_o = rows(grad_o)?;
        with_saved(&self.lse, |lse| {
            with_inputs(&self.options.device, [q, k, v, o, &grad_o], |[q, k, v, o, grad_o]| {
                let saved = AttentionSaved { o, lse: lse.view(), grad_o, grad_lse: None };
                let grads = self.options.with_options(|options| {
                    attention_backward(&q, &k, &v, &saved, options, WantGradients::default()).map_err(wrap)
                })?;
                let candle = |grad: Option<gatewarp::Tensor>| grad.as_ref().map(tensor).transpose();
                Ok((candle(grads.dq)?, candle(grads.dk)?, candle(grads.dv)?))
            })
        })
    }
}
