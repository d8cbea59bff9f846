//! Kernels of `task_heads`.

use super::{CudaKernel, WgslKernel};

pub(super) const CUDA: &[&CudaKernel] = &[];
pub(super) const WGSL: &[&WgslKernel] = &[];
