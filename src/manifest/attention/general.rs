//! The general CUDA kernels of `attention`: every score, mask, layout and dimension, for two accumulators.

use crate::manifest::CudaKernel;

/// Size of `attention::Call` in kernels/attention/call.cuh.
pub(crate) const CALL: usize = 456;
/// Size of `attention::PlanParams` in kernels/attention/plan.cu.
pub(crate) const PLAN_PARAMS: usize = 104;
/// Size of `attention::GeneralForwardParams` in kernels/attention/forward_general.cu.
pub(crate) const GENERAL_FORWARD_PARAMS: usize = CALL + 8;
/// Size of `attention::CombineParams` in kernels/attention/combine.cu.
pub(crate) const COMBINE_PARAMS: usize = CALL + 8;
/// Size of `attention::GeneralBackwardParams` in kernels/attention/differentiate.cuh.
pub(crate) const GENERAL_BACKWARD_PARAMS: usize = CALL + 240;
/// Size of `attention::SumsParams` in kernels/attention/backward_sums.cu.
pub(crate) const SUMS_PARAMS: usize = 80;
/// Size of `attention::InspectParams` in kernels/attention/inspect.cu.
pub(crate) const INSPECT_PARAMS: usize = CALL + 32;
/// Size of `attention::AppendParams` in kernels/attention/append.cu.
pub(crate) const APPEND_PARAMS: usize = 168;

/// Threads of a block in every kernel here: 8 × 16.
const BLOCK: u32 = 128;
/// Bytes of a chunk, the unit of shared memory: four f32 or two f64.
const CHUNK: u32 = 16;
/// Chunks of a row of values, and of a row of weights.
const VALUE_CHUNKS: u32 = 32;
const WEIGHT_CHUNKS: u32 = 16;

/// The kernels for one accumulator.
#[derive(Debug)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) struct General {
    pub(crate) forward: CudaKernel,
    pub(crate) decode: CudaKernel,
    pub(crate) combine: CudaKernel,
    pub(crate) delta: CudaKernel,
    pub(crate) dq: CudaKernel,
    pub(crate) dkv: CudaKernel,
    pub(crate) bias: CudaKernel,
    pub(crate) sums: CudaKernel,
    pub(crate) weights: CudaKernel,
    pub(crate) entropy: CudaKernel,
    /// Rows of a tile of `forward`.
    pub(crate) forward_rows: usize,
    /// Columns of a tile of scores.
    pub(crate) columns: usize,
    /// Columns of a result that a work item computes.
    pub(crate) out: usize,
}

/// Rows of a tile of `decode`.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) const DECODE_ROWS: usize = 16;
/// Rows of a tile of every backward kernel.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) const BACKWARD_ROWS: usize = 32;

/// Bytes of a tile of `rows` × 16 chunks.
const fn tile_bytes(rows: u32, element: u32) -> u32 {
    let columns = 16 * (CHUNK / element);
    CHUNK * (columns * VALUE_CHUNKS + rows * WEIGHT_CHUNKS)
}

macro_rules! kernel {
    ($entry:expr, $file:literal, $pointers:expr, $params:expr, $shared:expr) => {
        CudaKernel {
            entry: $entry,
            file: concat!("attention/", $file),
            source: include_str!(concat!("../../../kernels/attention/", $file)),
            block: BLOCK,
            pointers: $pointers,
            params: $params,
            shared_bytes: $shared,
        }
    };
}

const FORWARD: &[&str] = &["q", "k", "v", "o", "lse", "spans", "partial"];
const DQ: &[&str] =
    &["q", "k", "v", "grad_o", "lse", "delta", "spans", "dq", "drow_scale", "terms", "dw_terms"];
const DKV: &[&str] = &["q", "k", "v", "grad_o", "lse", "delta", "spans", "dk", "dv"];
const BIAS: &[&str] = &["q", "k", "v", "grad_o", "lse", "delta", "spans", "dbias"];

/// Entries in the order of [`General`]'s kernels.
const fn general(entries: [&'static str; 10], element: u32, forward_rows: u32) -> General {
    let backward = tile_bytes(BACKWARD_ROWS as u32, element);
    General {
        forward: kernel!(
            entries[0],
            "forward_general.cu",
            FORWARD,
            GENERAL_FORWARD_PARAMS,
            tile_bytes(forward_rows, element)
        ),
        decode: kernel!(
            entries[1],
            "forward_general.cu",
            FORWARD,
            GENERAL_FORWARD_PARAMS,
            tile_bytes(DECODE_ROWS as u32, element)
        ),
        combine: kernel!(entries[2], "combine.cu", &["partial", "o", "lse", "spans"], COMBINE_PARAMS, 0),
        delta: kernel!(
            entries[3],
            "backward_general.cu",
            &["o", "grad_o", "grad_lse", "spans", "delta"],
            GENERAL_BACKWARD_PARAMS,
            0
        ),
        dq: kernel!(entries[4], "backward_general.cu", DQ, GENERAL_BACKWARD_PARAMS, backward),
        dkv: kernel!(entries[5], "backward_general.cu", DKV, GENERAL_BACKWARD_PARAMS, backward),
        bias: kernel!(entries[6], "backward_bias.cu", BIAS, GENERAL_BACKWARD_PARAMS, backward),
        sums: kernel!(entries[7], "backward_sums.cu", &["parts", "out"], SUMS_PARAMS, BLOCK * element),
        weights: kernel!(
            entries[8],
            "inspect.cu",
            &["q", "k", "lse", "spans", "chosen", "weights"],
            INSPECT_PARAMS,
            0
        ),
        entropy: kernel!(
            entries[9],
            "inspect.cu",
            &["q", "k", "lse", "spans", "entropy"],
            INSPECT_PARAMS,
            backward
        ),
        forward_rows: forward_rows as usize,
        columns: (16 * (CHUNK / element)) as usize,
        out: (VALUE_CHUNKS * (CHUNK / element)) as usize,
    }
}

/// Where each sample lies, which every other kernel here reads.
pub(crate) static PLAN: CudaKernel = kernel!(
    "attention_plan",
    "plan.cu",
    &["kv_len", "query_offset", "cu_q", "cu_k", "table", "spans", "status"],
    PLAN_PARAMS,
    16
);

/// New rows of a cache, of any type.
pub(crate) static APPEND: CudaKernel = kernel!(
    "attention_append",
    "append.cu",
    &["k_cache", "v_cache", "k", "v", "kv_len", "table", "status"],
    APPEND_PARAMS,
    0
);

/// Tensors of f32, f16 and bf16, accumulated in f32.
pub(crate) static GENERAL_F32: General = general(
    [
        "attention_forward_general_f32",
        "attention_decode_f32",
        "attention_combine_f32",
        "attention_backward_delta_general_f32",
        "attention_backward_dq_general_f32",
        "attention_backward_dkv_general_f32",
        "attention_backward_bias_f32",
        "attention_backward_sums_f32",
        "attention_weights_f32",
        "attention_entropy_f32",
    ],
    4,
    64,
);

/// Tensors of f64.
pub(crate) static GENERAL_F64: General = general(
    [
        "attention_forward_general_f64",
        "attention_decode_f64",
        "attention_combine_f64",
        "attention_backward_delta_general_f64",
        "attention_backward_dq_general_f64",
        "attention_backward_dkv_general_f64",
        "attention_backward_bias_f64",
        "attention_backward_sums_f64",
        "attention_weights_f64",
        "attention_entropy_f64",
    ],
    8,
    32,
);

/// Every row.
pub(in crate::manifest) const CUDA: &[&CudaKernel] = &[
    &PLAN,
    &APPEND,
    &GENERAL_F32.forward,
    &GENERAL_F32.decode,
    &GENERAL_F32.combine,
    &GENERAL_F32.delta,
    &GENERAL_F32.dq,
    &GENERAL_F32.dkv,
    &GENERAL_F32.bias,
    &GENERAL_F32.sums,
    &GENERAL_F32.weights,
    &GENERAL_F32.entropy,
    &GENERAL_F64.forward,
    &GENERAL_F64.decode,
    &GENERAL_F64.combine,
    &GENERAL_F64.delta,
    &GENERAL_F64.dq,
    &GENERAL_F64.dkv,
    &GENERAL_F64.bias,
    &GENERAL_F64.sums,
    &GENERAL_F64.weights,
    &GENERAL_F64.entropy,
];
