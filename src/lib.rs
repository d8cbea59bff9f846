//! Fused attention, task-gated heads and batched quantum state vectors: hand-written CUDA and WGSL kernels, and a fast CPU
//! backend, behind one safe API.
//!
//! | module | what is in it |
//! |---|---|
//! | [`attention`] | scaled-dot-product attention, forward and backward |
//! | [`task_heads`] | attention under a gate per task and head; a head with gate 0 is not computed |
//! | [`statevec`] | circuits compiled once, run on batches of states |
//! | [`random`] | counter-based random words, the same on every backend |
//! | [`tensor`] | tensors that own memory, and strided views of anybody's |
//! | [`device`] | the CPU, wgpu and CUDA devices of this machine |
//! | [`conformance`] | one suite that checks any device against plain f64 loops |
//! | [`manifest`] | one row per kernel: text, block, bindings |
//!
//! A call goes `<operation>/mod.rs` (validate) → `<operation>/{cpu,wgpu,cuda}.rs` (bind arguments) → `device/*` (launch) →
//! `kernels/<operation>/`. The same call gives the same result on each backend; what one cannot do is a typed
//! [`Error::Unsupported`] before anything is launched.
#![deny(unsafe_code)]

pub mod attention;
pub mod conformance;
pub mod device;
mod dtype;
mod error;
mod ids;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod launch;
mod layout;
pub mod manifest;
pub mod random;
pub mod statevec;
pub mod task_heads;
pub mod tensor;
mod validate;

pub use device::{Backend, Device, Schedule};
pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub use num_complex::{Complex32, Complex64};
pub use tensor::{Layout, Tensor, TensorMut, TensorRef};

// The README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
