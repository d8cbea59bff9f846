//! Kernels of `attention`.

pub(crate) mod cuda;

use super::WgslKernel;
pub(super) use cuda::CUDA;

pub(super) const WGSL: &[&WgslKernel] = &[];
