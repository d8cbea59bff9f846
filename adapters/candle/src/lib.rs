//! gatewarp's operations inside candle's autograd: forward and backward, on any gatewarp device.
//!
//! The tensors are candle CPU tensors. With a CPU [`gatewarp::Device`] they are read and written in place, with any strides the
//! operation allows; with another device they are copied there and back on each call.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use gatewarp_candle::{Attention, attention};
//!
//! # fn main() -> candle_core::Result<()> {
//! let q = Var::randn(0f32, 1f32, (1, 8, 16, 32), &Device::Cpu)?;
//! let k = Tensor::randn(0f32, 1f32, (1, 2, 16, 32), &Device::Cpu)?;
//! let o = attention(&q, &k, &k, &Attention { causal: true, ..Attention::default() })?;
//! let grads = o.sum_all()?.backward()?;
//! assert_eq!(grads.get(&q).unwrap().dims(), q.dims());
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod attention;
mod bridge;
mod inspect;
mod loss;
mod quantum_attention;
mod task_heads;

pub use attention::{Attention, attention};
pub use gatewarp::attention::AttentionRow;
pub use inspect::{attention_entropy, attention_weights};
pub use loss::{TaskLosses, task_losses};
pub use quantum_attention::{
    QuantumAttention, QuantumParameters, QuantumReadout, quantum_attention, quantum_outcomes,
};
pub use task_heads::{TaskHeads, TaskHeadsReport, task_heads};
