//! CUDA kernels of `attention` on tensor cores: f16 and bf16, dot products, dimensions to 256.

use super::general::CALL;
use crate::manifest::CudaKernel;

/// Threads of a block.
const BLOCK: u32 = 128;
/// Bytes of an element.
const ELEMENT: u32 = 2;

/// A forward kernel for each of the two types, and its tile.
#[derive(Debug)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) struct Forward {
    pub(crate) f16: CudaKernel,
    pub(crate) bf16: CudaKernel,
    /// Queries and keys of a tile.
    pub(crate) tile: [usize; 2],
}

/// The forward kernels that take head and value dimensions up to `dim`.
#[derive(Debug)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) struct Variant {
    /// Largest dimension.
    pub(crate) dim: usize,
    /// Masks by length and position, positive scale.
    pub(crate) plain: Forward,
    /// Every mask and option.
    pub(crate) options: Forward,
}

macro_rules! forward {
    ($file:literal, [$f16:literal, $bf16:literal], $dim:expr, $rows:expr, $keys:expr) => {{
        const fn kernel(entry: &'static str) -> CudaKernel {
            CudaKernel {
                entry,
                file: concat!("attention/", $file),
                source: include_str!(concat!("../../../kernels/attention/", $file)),
                block: BLOCK,
                pointers: &["q", "k", "v", "o", "lse", "spans"],
                params: CALL,
                // A tile of queries, two stages of a tile of keys and one of values.
                shared_bytes: ELEMENT * $dim * ($rows + 2 * 2 * $keys),
            }
        }
        Forward { f16: kernel($f16), bf16: kernel($bf16), tile: [$rows, $keys] }
    }};
}

macro_rules! plain {
    ($entries:tt, $dim:expr, $rows:expr, $keys:expr) => {
        forward!("forward_mma.cu", $entries, $dim, $rows, $keys)
    };
}

macro_rules! options {
    ($entries:tt, $dim:expr, $rows:expr, $keys:expr) => {
        forward!("forward_mma_options.cu", $entries, $dim, $rows, $keys)
    };
}

/// By dimension, ascending.
pub(crate) static VARIANTS: [Variant; 3] = [
    Variant {
        dim: 64,
        plain: plain!(["attention_forward_mma_f16_d64", "attention_forward_mma_bf16_d64"], 64, 128, 64),
        options: options!(
            ["attention_forward_mma_options_f16_d64", "attention_forward_mma_options_bf16_d64"],
            64,
            64,
            64
        ),
    },
    Variant {
        dim: 128,
        plain: plain!(["attention_forward_mma_f16_d128", "attention_forward_mma_bf16_d128"], 128, 128, 32),
        options: options!(
            ["attention_forward_mma_options_f16_d128", "attention_forward_mma_options_bf16_d128"],
            128,
            64,
            32
        ),
    },
    Variant {
        dim: 256,
        plain: plain!(["attention_forward_mma_f16_d256", "attention_forward_mma_bf16_d256"], 256, 64, 32),
        options: options!(
            ["attention_forward_mma_options_f16_d256", "attention_forward_mma_options_bf16_d256"],
            256,
            64,
            32
        ),
    },
];

/// Every row.
pub(in crate::manifest) const CUDA: &[&CudaKernel] = &[
    &VARIANTS[0].plain.f16,
    &VARIANTS[0].plain.bf16,
    &VARIANTS[0].options.f16,
    &VARIANTS[0].options.bf16,
    &VARIANTS[1].plain.f16,
    &VARIANTS[1].plain.bf16,
    &VARIANTS[1].options.f16,
    &VARIANTS[1].options.bf16,
    &VARIANTS[2].plain.f16,
    &VARIANTS[2].plain.bf16,
    &VARIANTS[2].options.f16,
    &VARIANTS[2].options.bf16,
];
