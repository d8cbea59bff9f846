//! The backward kernels of `attention` on the matrix units, for plain products of 16-bit tensors.

use super::general::GENERAL_BACKWARD_PARAMS;
use crate::manifest::CudaKernel;

/// Threads of a block in every kernel here.
const BLOCK: u32 = 128;
pub(crate) const WARPS: u32 = BLOCK / 32;
/// Bytes of what the work item is.
const ITEM: u32 = 48;
/// Columns whose products a warp holds at a time in the kernels with options.
const STEP: u32 = 32;

/// Kernels for one type, with or without options, and dimensions up to `dim`.
#[derive(Debug)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) struct Variant {
    /// Largest dimension of a head and of a value.
    pub(crate) dim: usize,
    /// Whether softcap, mask, bias, slopes and dropout are obeyed.
    pub(crate) options: bool,
    /// Whether `dkv` computes dk or dv, not both.
    pub(crate) alone: bool,
    pub(crate) dq: CudaKernel,
    pub(crate) dkv: CudaKernel,
    /// Rows of a tile of `dq`, and keys of one of `dkv`.
    pub(crate) dq_rows: usize,
    pub(crate) dkv_rows: usize,
}

/// Bytes of `attention::GradientTiles` in kernels/attention/gradients.cuh.
const fn shared_bytes(keys_are_rows: bool, options: bool, dim: u32, tiles: u32, stage: u32) -> u32 {
    let (kept, streamed) = (2 * 16 * tiles * WARPS * dim * 2, 2 * 2 * stage * dim * 2);
    let terms = if keys_are_rows { 2 * 3 * stage * 4 } else { 3 * 16 * tiles * WARPS * 4 };
    let products = if options { tiles * STEP / 2 * BLOCK * 8 } else { 0 };
    kept + streamed + terms + ITEM + products
}

/// What the rows of a file have in common.
macro_rules! row {
    ($file:literal) => {
        CudaKernel {
            entry: "",
            file: concat!("attention/backward_", $file, ".cu"),
            source: include_str!(concat!("../../../kernels/attention/backward_", $file, ".cu")),
            block: BLOCK,
            pointers: &[],
            params: GENERAL_BACKWARD_PARAMS,
            shared_bytes: 0,
        }
    };
}

const DQ: &[&str] = &["q", "k", "v", "grad_o", "lse", "delta", "spans", "dq", "drow_scale", "terms"];
const DKV: &[&str] = &["q", "k", "v", "grad_o", "lse", "delta", "spans", "dk", "dv"];

/// `$tiles` of 16 rows a warp, for queries and for keys; columns of a stage.
macro_rules! variant {
    ([$file:literal, $name:literal], $dim:literal, $options:literal, $tiles:expr, $stage:literal) => {
        Variant {
            dim: $dim,
            options: $options,
            alone: $dim > 128,
            dq: CudaKernel {
                entry: concat!("attention_backward_dq_", $name, "_", $dim),
                pointers: DQ,
                shared_bytes: shared_bytes(false, $options, $dim, $tiles[0], $stage),
                ..row!($file)
            },
            dkv: CudaKernel {
                entry: concat!("attention_backward_dkv_", $name, "_", $dim),
                pointers: DKV,
                shared_bytes: shared_bytes(true, $options, $dim, $tiles[1], $stage),
                ..row!($file)
            },
            dq_rows: (16 * $tiles[0] * WARPS) as usize,
            dkv_rows: (16 * $tiles[1] * WARPS) as usize,
        }
    };
}

macro_rules! variants {
    ($plain:literal, $options:literal) => {
        [
            variant!([$plain, $plain], 64, false, [2, 2], 64),
            variant!([$plain, $plain], 128, false, [2, 1], 32),
            variant!(["mma_256", $plain], 256, false, [1, 1], 16),
            variant!([$options, $options], 64, true, [1, 1], 64),
            variant!([$options, $options], 128, true, [1, 1], 32),
        ]
    };
}

/// Kernels for f16, the smallest dimension first.
pub(crate) static MMA_BACKWARD_F16: [Variant; 5] = variants!("mma_f16", "mma_options_f16");
/// Kernels for bf16.
pub(crate) static MMA_BACKWARD_BF16: [Variant; 5] = variants!("mma_bf16", "mma_options_bf16");

/// Every row.
pub(in crate::manifest) const CUDA: &[&CudaKernel] = &[
    &MMA_BACKWARD_F16[0].dq,
    &MMA_BACKWARD_F16[0].dkv,
    &MMA_BACKWARD_F16[1].dq,
    &MMA_BACKWARD_F16[1].dkv,
    &MMA_BACKWARD_F16[2].dq,
    &MMA_BACKWARD_F16[2].dkv,
    &MMA_BACKWARD_F16[3].dq,
    &MMA_BACKWARD_F16[3].dkv,
    &MMA_BACKWARD_F16[4].dq,
    &MMA_BACKWARD_F16[4].dkv,
    &MMA_BACKWARD_BF16[0].dq,
    &MMA_BACKWARD_BF16[0].dkv,
    &MMA_BACKWARD_BF16[1].dq,
    &MMA_BACKWARD_BF16[1].dkv,
    &MMA_BACKWARD_BF16[2].dq,
    &MMA_BACKWARD_BF16[2].dkv,
    &MMA_BACKWARD_BF16[3].dq,
    &MMA_BACKWARD_BF16[3].dkv,
    &MMA_BACKWARD_BF16[4].dq,
    &MMA_BACKWARD_BF16[4].dkv,
];
