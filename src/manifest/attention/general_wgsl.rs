//! Shaders for every score, mask, layout and element type; what the plain product in f32 needs is in the parent module.

use crate::manifest::Access::{self, Read, ReadWrite};
use crate::manifest::WgslKernel;

macro_rules! kernels {
    ($($file:literal),*) => { concat!($(include_str!(concat!("../../../kernels/", $file))),*) };
}

/// Bytes of `Params` in general_common.wgsl.
const PARAMS: usize = 384;
/// Bytes of a tile of 2 × 16 lines of nine vec4; a tile of weights has the same size.
const TILE: u32 = 2 * 16 * 9 * 16;
/// Bytes of a vec4 for each invocation.
const REDUCTION: u32 = 64 * 16;

const fn row(
    entry: &'static str,
    file: &'static str,
    source: &'static str,
    bindings: &'static [(&'static str, Access)],
    params: usize,
    workgroup_bytes: u32,
) -> WgslKernel {
    WgslKernel {
        entry,
        file,
        source,
        constants: &[],
        workgroup: [64, 1, 1],
        bindings,
        params,
        workgroup_bytes,
        uses_subgroups: false,
    }
}

pub(crate) static PACK: WgslKernel = row(
    "attention_general_pack",
    "attention/general_pack.wgsl",
    kernels!("attention/general_pack.wgsl"),
    &[("source", Read), ("plan", ReadWrite)],
    48,
    0,
);

pub(crate) static PACK_MASK: WgslKernel = row(
    "attention_general_pack_mask",
    "attention/general_pack_mask.wgsl",
    kernels!("attention/general_pack_mask.wgsl"),
    &[("mask", Read), ("plan", ReadWrite)],
    64,
    256,
);

pub(crate) static PLAN: WgslKernel = row(
    "attention_general_plan",
    "attention/general_plan.wgsl",
    kernels!("attention/general_plan.wgsl"),
    &[
        ("kv_len", Read),
        ("query_offset", Read),
        ("counts", Read),
        ("order", Read),
        ("kv_order", Read),
        ("active_flags", Read),
        ("plan", ReadWrite),
        ("status", ReadWrite),
    ],
    112,
    0,
);

pub(crate) static FORWARD: WgslKernel = row(
    "attention_general_forward",
    "attention/general_forward.wgsl",
    kernels!(
        "random/philox.wgsl",
        "attention/general_common.wgsl",
        "attention/general_score.wgsl",
        "attention/general_product.wgsl",
        "attention/general_output.wgsl",
        "attention/general_forward.wgsl"
    ),
    &[
        ("q", Read),
        ("k", Read),
        ("v", Read),
        ("bias", Read),
        ("plan", Read),
        ("out", ReadWrite),
        ("lse", ReadWrite),
    ],
    PARAMS,
    2 * TILE + 2 * REDUCTION,
);

pub(crate) static COMBINE: WgslKernel = row(
    "attention_general_combine",
    "attention/general_combine.wgsl",
    kernels!(
        "attention/general_common.wgsl",
        "attention/general_output.wgsl",
        "attention/general_combine.wgsl"
    ),
    &[("parts", Read), ("stats", Read), ("plan", Read), ("out", ReadWrite), ("lse", ReadWrite)],
    PARAMS,
    0,
);

pub(crate) static ROWS: WgslKernel = row(
    "attention_general_rows",
    "attention/general_rows.wgsl",
    kernels!("attention/general_common.wgsl", "attention/general_rows.wgsl"),
    &[
        ("o", Read),
        ("grad_o", Read),
        ("lse", Read),
        ("grad_lse", Read),
        ("row_scale", Read),
        ("plan", ReadWrite),
    ],
    PARAMS,
    0,
);

pub(crate) static BACKWARD_Q: WgslKernel = row(
    "attention_general_backward_q",
    "attention/general_backward_q.wgsl",
    kernels!(
        "random/philox.wgsl",
        "attention/general_common.wgsl",
        "attention/general_score.wgsl",
        "attention/general_product.wgsl",
        "attention/general_gradient.wgsl",
        "attention/general_output.wgsl",
        "attention/general_backward_q.wgsl"
    ),
    &[
        ("q", Read),
        ("k", Read),
        ("v", Read),
        ("bias", Read),
        ("plan", Read),
        ("grad_o", Read),
        ("out", ReadWrite),
        ("sums", ReadWrite),
    ],
    PARAMS,
    3 * TILE + 2 * REDUCTION,
);

pub(crate) static BACKWARD_KV: WgslKernel = row(
    "attention_general_backward_kv",
    "attention/general_backward_kv.wgsl",
    kernels!(
        "random/philox.wgsl",
        "attention/general_common.wgsl",
        "attention/general_score.wgsl",
        "attention/general_product.wgsl",
        "attention/general_gradient.wgsl",
        "attention/general_output.wgsl",
        "attention/general_backward_kv.wgsl"
    ),
    &[
        ("q", Read),
        ("k", Read),
        ("v", Read),
        ("bias", Read),
        ("plan", Read),
        ("grad_o", Read),
        ("out", ReadWrite),
    ],
    PARAMS,
    3 * TILE + 2 * REDUCTION,
);

pub(crate) static BIAS: WgslKernel = row(
    "attention_general_bias",
    "attention/general_bias.wgsl",
    kernels!(
        "random/philox.wgsl",
        "attention/general_common.wgsl",
        "attention/general_score.wgsl",
        "attention/general_product.wgsl",
        "attention/general_gradient.wgsl",
        "attention/general_bias.wgsl"
    ),
    &[
        ("q", Read),
        ("k", Read),
        ("v", Read),
        ("bias", Read),
        ("plan", Read),
        ("grad_o", Read),
        ("out", ReadWrite),
    ],
    PARAMS,
    3 * TILE + 2 * REDUCTION,
);

pub(crate) static SUM: WgslKernel = row(
    "attention_general_sum",
    "attention/general_sum.wgsl",
    kernels!("attention/general_sum.wgsl"),
    &[("source", Read), ("out", ReadWrite)],
    80,
    256,
);

pub(crate) static SCATTER: WgslKernel = row(
    "attention_general_scatter",
    "attention/general_scatter.wgsl",
    kernels!("attention/general_common.wgsl", "attention/general_scatter.wgsl"),
    &[("sums", Read), ("plan", Read), ("out", ReadWrite)],
    PARAMS,
    0,
);

pub(crate) static WEIGHTS: WgslKernel = row(
    "attention_general_weights",
    "attention/general_weights.wgsl",
    kernels!(
        "random/philox.wgsl",
        "attention/general_common.wgsl",
        "attention/general_score.wgsl",
        "attention/general_weights.wgsl"
    ),
    &[
        ("q", Read),
        ("k", Read),
        ("lse", Read),
        ("bias", Read),
        ("plan", Read),
        ("chosen_rows", Read),
        ("out", ReadWrite),
    ],
    PARAMS,
    TILE,
);

pub(crate) static ENTROPY: WgslKernel = row(
    "attention_general_entropy",
    "attention/general_entropy.wgsl",
    kernels!(
        "random/philox.wgsl",
        "attention/general_common.wgsl",
        "attention/general_score.wgsl",
        "attention/general_product.wgsl",
        "attention/general_entropy.wgsl"
    ),
    &[("q", Read), ("k", Read), ("lse", Read), ("bias", Read), ("plan", Read), ("out", ReadWrite)],
    PARAMS,
    2 * TILE + 2 * REDUCTION,
);

pub(crate) static APPEND: WgslKernel = row(
    "attention_append",
    "attention/append.wgsl",
    kernels!("attention/append.wgsl"),
    &[("cache", ReadWrite), ("fresh", Read), ("kv_len", Read), ("page_table", Read), ("status", ReadWrite)],
    96,
    0,
);
