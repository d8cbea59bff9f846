//! Fused attention, task-gated heads and batched quantum state vectors: hand-written CUDA and WGSL kernels, and a fast CPU
//! backend, behind one safe API.
#![deny(unsafe_code)]

pub mod attention;
pub mod conformance;
pub mod device;
mod dtype;
mod error;
mod ids;
mod layout;
pub mod manifest;
pub mod statevec;
pub mod task_heads;
pub mod tensor;
mod validate;

pub use device::{Backend, Device, Schedule};
pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub use num_complex::{Complex32, Complex64};
pub use tensor::{Layout, Tensor, TensorMut, TensorRef};
