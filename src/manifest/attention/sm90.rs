//! CUDA kernels of `attention` for compute capability 9.0: f16 and bf16, dot products, dimensions to 128.

use super::general::CALL;
use crate::manifest::CudaKernel;

/// Size of `attention::ForwardSm90Params` in kernels/attention/forward_sm90.cu: three maps, the call, whole lines of 64 bytes.
pub(crate) const FORWARD_SM90_PARAMS: usize = 3 * 128 + CALL + 56;

/// Queries and keys of a tile of the forward kernel.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) const TILE: [usize; 2] = [128, 128];

/// The kernels for dimensions up to `dim`.
#[derive(Debug)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) struct Variant {
    pub(crate) dim: usize,
    pub(crate) f16: CudaKernel,
    pub(crate) bf16: CudaKernel,
}

const fn forward(entry: &'static str, dim: u32) -> CudaKernel {
    CudaKernel {
        entry,
        file: "attention/forward_sm90.cu",
        source: include_str!("../../../kernels/attention/forward_sm90.cu"),
        block: 384,
        pointers: &["q", "k", "v", "o", "lse", "spans"],
        params: FORWARD_SM90_PARAMS,
        // A tile of queries, two of keys and two of values, ten barriers.
        shared_bytes: 2 * 128 * dim * 5 + 10 * 8,
    }
}

/// By dimension, ascending.
pub(crate) static VARIANTS: [Variant; 2] = [
    Variant {
        dim: 64,
        f16: forward("attention_forward_sm90_f16_d64", 64),
        bf16: forward("attention_forward_sm90_bf16_d64", 64),
    },
    Variant {
        dim: 128,
        f16: forward("attention_forward_sm90_f16_d128", 128),
        bf16: forward("attention_forward_sm90_bf16_d128", 128),
    },
];

/// Every row.
pub(in crate::manifest) const CUDA: &[&CudaKernel] =
    &[&VARIANTS[0].f16, &VARIANTS[0].bf16, &VARIANTS[1].f16, &VARIANTS[1].bf16];
