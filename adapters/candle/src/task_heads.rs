//! Task-gated heads as a candle operation.

use crate::attention::{Attention, with_saved};
use crate::bridge::{Input, part, rows, storage, tensor, with_inputs, wrap};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use gatewarp::TensorRef;
use gatewarp::task_heads::{
    Activation, GateSource, NO_TASK, TaskHeadsGradients, TaskHeadsOptions, TaskHeadsOutput,
    WantTaskHeadsGradients, task_heads_backward, task_heads_forward,
};
use std::sync::{Arc, Mutex};

/// How a mixed-task batch is gated, and where it is computed.
#[derive(Clone, Debug)]
pub struct TaskHeads {
    /// What may attend to what, and the device.
    pub attention: Attention,
    /// Task of each sample, `[batch]`; `None` leaves every head of the sample at gate 1.
    pub tasks: Arc<[Option<u32>]>,
    /// From a task's logits to its gates.
    pub activation: Activation,
}

/// How much of a call was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskHeadsReport {
    /// (sample, head) pairs that were computed; the others have gate 0.
    pub computed: usize,
    /// All pairs.
    pub pairs: usize,
}

struct Op {
    options: TaskHeads,
    /// Shapes of the keys and values that travel in one tensor.
    k: [usize; 4],
    v: [usize; 4],
    forward: Arc<Mutex<Option<TaskHeadsOutput>>>,
}

/// Attention of `q [B, Hq, Sq, D]` over `k [B, Hk, Sk, D]`, `v [B, Hk, Sk, Dv]`, each head scaled by the gate that
/// `logits [T, Hq]` give it for the sample's task. Heads whose gate is 0 are not computed, forward or backward.
///
/// Returns `[B, Hq, Sq, Dv]`, with gradients for q, k, v and logits, and what was computed.
///
/// # Errors
/// gatewarp's typed error, wrapped, naming the argument.
pub fn task_heads(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    logits: &Tensor,
    options: &TaskHeads,
) -> Result<(Tensor, TaskHeadsReport)> {
    // A candle operation takes three tensors: keys and values travel end to end in one.
    let kv = Tensor::cat(&[k.flatten_all()?, v.flatten_all()?], 0)?;
    let forward = Arc::new(Mutex::new(None));
    let op =
        Op { options: options.clone(), k: k.dims4()?.into(), v: v.dims4()?.into(), forward: forward.clone() };
    let y = rows(q)?.apply_op3(&kv, &logits.contiguous()?, op)?;
    let counts = with_saved(&forward, |out: &TaskHeadsOutput| out.counts.to_vec::<u32>().map_err(wrap))?;
    let report = TaskHeadsReport { computed: counts[0] as usize, pairs: q.dim(0)? * q.dim(1)? };
    Ok((y, report))
}

impl Op {
    /// Calls `f` with key and value views of `kv` and the options in gatewarp's form.
    fn with_parts<R>(
        &self,
        kv: &TensorRef<'_>,
        logits: &TensorRef<'_>,
        f: impl FnOnce(&TensorRef<'_>, &TensorRef<'_>, &TaskHeadsOptions<'_>) -> gatewarp::Result<R>,
    ) -> Result<R> {
        let keys = self.k.iter().product();
        let (k, v) = (part(kv, &self.k, 0)?, part(kv, &self.v, keys)?);
        let ids: Vec<i64> =
            self.options.tasks.iter().map(|task| task.map_or(i64::from(NO_TASK), i64::from)).collect();
        let tasks = TensorRef::from_slice(&ids, &[ids.len()]).map_err(wrap)?;
        self.options.attention.with_options(|attention| {
            let gate = GateSource::Static { logits: logits.clone(), tasks };
            let mut options = TaskHeadsOptions::new(gate, self.options.activation);
            options.attention = attention.clone();
            f(&k, &v, &options).map_err(wrap)
        })
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "gatewarp-task-heads"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        kv: &CpuStorage,
        kv_layout: &Layout,
        logits: &CpuStorage,
        logits_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let device = &self.options.attention.device;
        let q = Input::new(device, q, q_layout)?;
        let kv = Input::new(device, kv, kv_layout)?;
        let logits = Input::new(device, logits, logits_layout)?;
        let out = self.with_parts(&kv.view(), &logits.view(), |k, v, options| {
            task_heads_forward(&q.view(), k, v, options)
        })?;
        let result = storage(&out.y)?;
        if let Ok(mut slot) = self.forward.lock() {
            *slot = Some(out);
        }
        Ok(result)
    }

    fn bwd(
        &self,
        q: &Tensor,
        kv: &Tensor,
        logits: &Tensor,
        _y: &Tensor,
        grad_y: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad_y = rows(grad_y)?;
        let grads = with_saved(&self.forward, |out| {
            with_inputs(
                &self.options.attention.device,
                [q, kv, logits, &grad_y],
                |[q, kv, logits, grad_y]| {
                    self.with_parts(&kv, &logits, |k, v, options| {
                        let want = WantTaskHeadsGradients::default();
                        task_heads_backward(&q, k, v, &out.saved(), &grad_y, options, want)
                    })
                },
            )
        })?;
        let TaskHeadsGradients { dq, dk, dv, dgate, .. } = grads;
        let candle = |grad: Option<gatewarp::Tensor>| grad.as_ref().map(tensor).transpose();
        let dkv = match (candle(dk)?, candle(dv)?) {
            (Some(dk), Some(dv)) => Some(Tensor::cat(&[dk.flatten_all()?, dv.flatten_all()?], 0)?),
            _ => None,
        };
        Ok((candle(dq)?, dkv, candle(dgate)?))
    }
}
