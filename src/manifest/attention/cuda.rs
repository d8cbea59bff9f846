//! CUDA kernels of `attention`.

use crate::manifest::CudaKernel;

/// Size of `attention::ForwardParams` in kernels/attention/forward.cu.
pub(crate) const FORWARD_PARAMS: usize = 216;
/// Size of `attention::BackwardParams` in kernels/attention/backward.cu.
pub(crate) const BACKWARD_PARAMS: usize = 360;

/// Threads of a block in every kernel here: 8 × 16.
const BLOCK: u32 = 128;

/// Bytes of tiles of `dim` floats a row, some kept and some streamed, and of one float for each pair of their rows.
const fn tiles_bytes(dim: u32, kept_tiles: u32, rows: u32, streamed_tiles: u32, columns: u32) -> u32 {
    4 * ((kept_tiles * rows + streamed_tiles * columns) * dim + rows * columns)
}

const fn forward(entry: &'static str, dim: u32, keys: u32) -> CudaKernel {
    CudaKernel {
        entry,
        file: "attention/forward.cu",
        source: include_str!("../../../kernels/attention/forward.cu"),
        block: BLOCK,
        pointers: &[
            "q",
            "k",
            "v",
            "o",
            "lse",
            "kv_len",
            "query_offset",
            "order",
            "counts",
            "row_scale",
            "status",
        ],
        params: FORWARD_PARAMS,
        shared_bytes: tiles_bytes(dim, 1, 64, 2, keys),
    }
}

const fn backward(entry: &'static str, pointers: &'static [&'static str], shared_bytes: u32) -> CudaKernel {
    CudaKernel {
        entry,
        file: "attention/backward.cu",
        source: include_str!("../../../kernels/attention/backward.cu"),
        block: BLOCK,
        pointers,
        params: BACKWARD_PARAMS,
        shared_bytes,
    }
}

const DQ: &[&str] = &[
    "q",
    "k",
    "v",
    "grad_o",
    "lse",
    "delta",
    "row_scale",
    "kv_len",
    "query_offset",
    "order",
    "counts",
    "dq",
    "drow_scale",
    "status",
];
const DKV: &[&str] = &[
    "q",
    "k",
    "v",
    "grad_o",
    "lse",
    "delta",
    "row_scale",
    "kv_len",
    "query_offset",
    "kv_order",
    "counts",
    "active",
    "dk",
    "dv",
    "status",
];

/// The kernels that take head and value dimensions up to `dim`.
#[derive(Debug)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) struct Variant {
    /// Largest dimension.
    pub(crate) dim: usize,
    /// Keys in a tile of `forward`.
    pub(crate) forward_columns: usize,
    pub(crate) forward: CudaKernel,
    pub(crate) dq: CudaKernel,
    pub(crate) dkv: CudaKernel,
    /// Keys in a tile of `dkv`; a tile of queries has as many in `dq`.
    pub(crate) backward_rows: usize,
}

/// Queries in a tile of every forward kernel.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) const FORWARD_ROWS: usize = 64;

/// By dimension, ascending.
pub(crate) static VARIANTS: [Variant; 3] = [
    Variant {
        dim: 32,
        forward_columns: 64,
        forward: forward("attention_forward_f32_d32", 32, 64),
        dq: backward("attention_backward_dq_f32_d32", DQ, tiles_bytes(32, 2, 64, 2, 64)),
        dkv: backward("attention_backward_dkv_f32_d32", DKV, tiles_bytes(32, 2, 64, 2, 64)),
        backward_rows: 64,
    },
    Variant {
        dim: 64,
        forward_columns: 64,
        forward: forward("attention_forward_f32_d64", 64, 64),
        dq: backward("attention_backward_dq_f32_d64", DQ, tiles_bytes(64, 2, 64, 2, 64)),
        dkv: backward("attention_backward_dkv_f32_d64", DKV, tiles_bytes(64, 2, 64, 2, 64)),
        backward_rows: 64,
    },
    Variant {
        dim: 128,
        forward_columns: 32,
        forward: forward("attention_forward_f32_d128", 128, 32),
        dq: backward("attention_backward_dq_f32_d128", DQ, tiles_bytes(128, 2, 32, 2, 32)),
        dkv: backward("attention_backward_dkv_f32_d128", DKV, tiles_bytes(128, 2, 32, 2, 32)),
        backward_rows: 32,
    },
];

/// Σ grad_o·o − grad_lse of every row, which both backward kernels read.
pub(crate) static DELTA: CudaKernel =
    backward("attention_backward_delta_f32", &["o", "grad_o", "grad_lse", "order", "counts", "delta"], 0);

/// Every row.
pub(in crate::manifest) const CUDA: &[&CudaKernel] = &[
    &VARIANTS[0].forward,
    &VARIANTS[0].dq,
    &VARIANTS[0].dkv,
    &VARIANTS[1].forward,
    &VARIANTS[1].dq,
    &VARIANTS[1].dkv,
    &VARIANTS[2].forward,
    &VARIANTS[2].dq,
    &VARIANTS[2].dkv,
    &DELTA,
];
