//! Attention between quantum states as a candle operation.

use crate::attention::with_saved;
use crate::bridge::{Input, part, tensor, with_inputs, wrap};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use gatewarp::quantum_attention::{QuantumAttention as Layer, QuantumAttentionOutput, Thetas};
use gatewarp::{Device, TensorRef};
use std::sync::{Arc, Mutex, MutexGuard};

/// A layer's circuits, score and observables, and where they run. Clones share the compiled circuits.
#[derive(Clone, Debug)]
pub struct QuantumAttention {
    /// Where the kernels run.
    pub device: Device,
    layer: Arc<Mutex<Layer>>,
}

impl QuantumAttention {
    /// Runs `layer` on `device`. The layer's own τ is not used: each call brings one.
    pub fn new(layer: Layer, device: Device) -> Self {
        Self { device, layer: Arc::new(Mutex::new(layer)) }
    }

    /// The layer, with the factor of this call.
    fn at(&self, tau: f32) -> Result<MutexGuard<'_, Layer>> {
        let poisoned = |_| candle_core::Error::msg("another thread panicked inside this operation");
        let mut layer = self.layer.lock().map_err(poisoned)?;
        layer.set_tau(f64::from(tau)).map_err(wrap)?;
        Ok(layer)
    }
}

/// How the output is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QuantumReadout {
    /// Expectations.
    #[default]
    Exact,
    /// Means over so many shots of each token's outcome distribution. The gradient is that of the exact expectation.
    ShotsWithExactGradient {
        /// Shots a token, at least 1.
        shots: usize,
        /// Key of the random words: the same shots for the same seed.
        seed: u64,
    },
}

/// What the three circuits of a layer read, and how strongly scores count.
#[derive(Clone, Copy, Debug)]
pub struct QuantumParameters<'a> {
    /// Angles of the circuits for query, key and value, each `[thetas]` or `[tasks, thetas]`.
    pub thetas: [&'a Tensor; 3],
    /// One element: the factor τ of the scores.
    pub tau: &'a Tensor,
}

struct Op {
    layer: QuantumAttention,
    tasks: Arc<[u32]>,
    readout: QuantumReadout,
    /// Shapes of the angles that travel in one tensor.
    shapes: [Vec<usize>; 3],
    forward: Mutex<Option<QuantumAttentionOutput>>,
}

/// Quantum attention of a batch that mixes tasks: `x [batch, length, features]`, `tasks [batch]`; returns
/// `[batch, length, observables]`, with gradients for x, the angles and τ.
///
/// # Errors
/// gatewarp's typed error, wrapped, naming the argument.
pub fn quantum_attention(
    x: &Tensor,
    parameters: QuantumParameters<'_>,
    layer: &QuantumAttention,
    tasks: &[u32],
    readout: QuantumReadout,
) -> Result<Tensor> {
    let (thetas, op) = op(parameters, layer, tasks, readout)?;
    x.contiguous()?.apply_op3(&thetas, parameters.tau, op)
}

/// Shots of every token's outcome distribution, `[batch · length, shots]` u32, qubit 0 the least significant bit. No gradients.
///
/// # Errors
/// As [`quantum_attention`].
pub fn quantum_outcomes(
    x: &Tensor,
    parameters: QuantumParameters<'_>,
    layer: &QuantumAttention,
    tasks: &[u32],
    shots: usize,
    seed: u64,
) -> Result<Tensor> {
    let (thetas, op) = op(parameters, layer, tasks, QuantumReadout::Exact)?;
    let tau = one(&parameters.tau.flatten_all()?.to_vec1()?)?;
    with_inputs(&layer.device, [&x.contiguous()?, &thetas], |[x, thetas]| {
        op.with_parts(&thetas, |tasks, thetas| {
            let layer = layer.at(tau)?;
            let out = layer.forward(&x, tasks, thetas).map_err(wrap)?;
            let outcomes = layer.sample(&x, tasks, thetas, &out, shots, seed).map_err(wrap)?;
            let data = outcomes.to_vec::<u32>().map_err(wrap)?;
            Tensor::from_vec(data, outcomes.shape(), &candle_core::Device::Cpu)
        })
    })
}

/// The angles end to end, since a candle operation takes three tensors, and the operation that takes them apart.
fn op(
    parameters: QuantumParameters<'_>,
    layer: &QuantumAttention,
    tasks: &[u32],
    readout: QuantumReadout,
) -> Result<(Tensor, Op)> {
    let [query, key, value] = parameters.thetas;
    let thetas = Tensor::cat(&[query.flatten_all()?, key.flatten_all()?, value.flatten_all()?], 0)?;
    let shapes = parameters.thetas.map(|theta| theta.dims().to_vec());
    let op = Op { layer: layer.clone(), tasks: tasks.into(), readout, shapes, forward: Mutex::new(None) };
    Ok((thetas, op))
}

fn one(tau: &[f32]) -> Result<f32> {
    match tau {
        [tau] => Ok(*tau),
        _ => candle_core::bail!("`tau` has {} elements, not one", tau.len()),
    }
}

impl Op {
    /// Calls `f` with the tasks and the three circuits' angles in gatewarp's form.
    fn with_parts<R>(
        &self,
        thetas: &TensorRef<'_>,
        f: impl FnOnce(&TensorRef<'_>, &Thetas<'_>) -> Result<R>,
    ) -> Result<R> {
        let [query, key, value] = &self.shapes;
        let lengths = self.shapes.each_ref().map(|shape| shape.iter().product::<usize>());
        let thetas = Thetas {
            query: part(thetas, query, 0)?,
            key: part(thetas, key, lengths[0])?,
            value: part(thetas, value, lengths[0] + lengths[1])?,
        };
        f(&TensorRef::from_slice(&self.tasks, &[self.tasks.len()]).map_err(wrap)?, &thetas)
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "gatewarp-quantum-attention"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        thetas: &CpuStorage,
        thetas_layout: &Layout,
        tau: &CpuStorage,
        tau_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let device = &self.layer.device;
        let x = Input::new(device, x, x_layout)?;
        let thetas = Input::new(device, thetas, thetas_layout)?;
        let start = tau_layout.start_offset();
        let tau = one(&tau.as_slice::<f32>()?[start..start + tau_layout.shape().elem_count()])?;
        let (y, out) = self.with_parts(&thetas.view(), |tasks, thetas| {
            let layer = self.layer.at(tau)?;
            let out = layer.forward(&x.view(), tasks, thetas).map_err(wrap)?;
            let y = match self.readout {
                QuantumReadout::Exact => out.y.to_vec::<f32>(),
                QuantumReadout::ShotsWithExactGradient { shots, seed } => layer
                    .sample(&x.view(), tasks, thetas, &out, shots, seed)
                    .and_then(|outcomes| layer.estimate(&outcomes.view())?.to_vec()),
            };
            Ok((y.map_err(wrap)?, out))
        })?;
        let shape = Shape::from(out.y.shape());
        if let Ok(mut slot) = self.forward.lock() {
            *slot = Some(out);
        }
        Ok((CpuStorage::F32(y), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        thetas: &Tensor,
        tau: &Tensor,
        _y: &Tensor,
        grad_y: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad_y = grad_y.contiguous()?;
        let factor = one(&tau.flatten_all()?.to_vec1()?)?;
        let grads = with_saved(&self.forward, |out| {
            with_inputs(&self.layer.device, [x, thetas, &grad_y], |[x, thetas, grad_y]| {
                self.with_parts(&thetas, |tasks, thetas| {
                    self.layer.at(factor)?.backward(&x, tasks, thetas, out, &grad_y).map_err(wrap)
                })
            })
        })?;
        let flat = |grad: &gatewarp::Tensor| tensor(grad)?.flatten_all();
        let by_theta = [flat(&grads.theta_query)?, flat(&grads.theta_key)?, flat(&grads.theta_value)?];
        let by_tau = tensor(&grads.tau)?.reshape(tau.shape())?;
        Ok((Some(tensor(&grads.x)?), Some(Tensor::cat(&by_theta, 0)?), Some(by_tau)))
    }
}
