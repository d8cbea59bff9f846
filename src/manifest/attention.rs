//! Kernels of `attention`.

pub(crate) mod cuda;
pub(crate) mod general;
pub(crate) mod general_wgsl;

use super::Access::{Read, ReadWrite};
use super::WgslKernel;
pub(super) use cuda::CUDA;
pub(super) use general::CUDA as GENERAL_CUDA;

/// `kernels/attention/$file` after `common.wgsl`.
macro_rules! with_common {
    ($file:literal) => {
        concat!(
            include_str!("../../kernels/attention/common.wgsl"),
            include_str!(concat!("../../kernels/attention/", $file))
        )
    };
}

/// Bytes of `Params` in common.wgsl.
const PARAMS: usize = 240;
/// Bytes of a tile of 2 × 16 lines of nine vec4; the tile of weights has the same size.
const TILE: u32 = 2 * 16 * 9 * 16;
const REDUCTION: u32 = 64 * 16;

pub(crate) static WGSL_PLAN: WgslKernel = WgslKernel {
    entry: "attention_plan",
    file: "attention/plan.wgsl",
    source: include_str!("../../kernels/attention/plan.wgsl"),
    constants: &[],
    workgroup: [64, 1, 1],
    bindings: &[
        ("kv_len", Read),
        ("query_offset", Read),
        ("counts", Read),
        ("order", Read),
        ("kv_order", Read),
        ("active_flags", Read),
        ("plan", ReadWrite),
        ("status", ReadWrite),
    ],
    params: 72,
    workgroup_bytes: 0,
    uses_subgroups: false,
};

pub(crate) static WGSL_BACKWARD_ROWS: WgslKernel = WgslKernel {
    entry: "attention_backward_rows",
    file: "attention/backward_rows.wgsl",
    source: with_common!("backward_rows.wgsl"),
    constants: &[],
    workgroup: [64, 1, 1],
    bindings: &[
        ("o", Read),
        ("grad_o", Read),
        ("lse", Read),
        ("grad_lse", Read),
        ("row_scale", Read),
        ("plan", Read),
        ("rows", ReadWrite),
    ],
    params: PARAMS,
    workgroup_bytes: 0,
    uses_subgroups: false,
};

const fn forward(entry: &'static str, constants: &'static [(&'static str, u32)]) -> WgslKernel {
    WgslKernel {
        entry,
        file: "attention/forward.wgsl",
        source: with_common!("forward.wgsl"),
        constants,
        workgroup: [64, 1, 1],
        bindings: &[
            ("q", Read),
            ("k", Read),
            ("v", Read),
            ("row_scale", Read),
            ("plan", Read),
            ("o", ReadWrite),
            ("lse", ReadWrite),
        ],
        params: PARAMS,
        workgroup_bytes: 2 * TILE + REDUCTION,
        uses_subgroups: false,
    }
}

const fn backward_q(entry: &'static str, constants: &'static [(&'static str, u32)]) -> WgslKernel {
    WgslKernel {
        entry,
        file: "attention/backward_q.wgsl",
        source: with_common!("backward_q.wgsl"),
        constants,
        workgroup: [64, 1, 1],
        bindings: &[
            ("q", Read),
            ("k", Read),
            ("v", Read),
            ("grad_o", Read),
            ("rows", Read),
            ("plan", Read),
            ("dq", ReadWrite),
            ("drow_scale", ReadWrite),
        ],
        params: PARAMS,
        workgroup_bytes: 2 * TILE + REDUCTION,
        uses_subgroups: false,
    }
}

const fn backward_kv(entry: &'static str, constants: &'static [(&'static str, u32)]) -> WgslKernel {
    WgslKernel {
        entry,
        file: "attention/backward_kv.wgsl",
        source: with_common!("backward_kv.wgsl"),
        constants,
        workgroup: [64, 1, 1],
        bindings: &[
            ("q", Read),
            ("k", Read),
            ("v", Read),
            ("grad_o", Read),
            ("rows", Read),
            ("plan", Read),
            ("out", ReadWrite),
        ],
        params: PARAMS,
        workgroup_bytes: 2 * TILE,
        uses_subgroups: false,
    }
}

/// Variants by the width of the accumulated output: 32, 64, 128.
pub(crate) static WGSL_FORWARD: [WgslKernel; 3] = [
    forward("attention_forward_32", &[("OUT", 1)]),
    forward("attention_forward_64", &[("OUT", 2)]),
    forward("attention_forward_128", &[("OUT", 4)]),
];
pub(crate) static WGSL_BACKWARD_Q: [WgslKernel; 3] = [
    backward_q("attention_backward_q_32", &[("OUT", 1)]),
    backward_q("attention_backward_q_64", &[("OUT", 2)]),
    backward_q("attention_backward_q_128", &[("OUT", 4)]),
];
pub(crate) static WGSL_BACKWARD_KV: [WgslKernel; 3] = [
    backward_kv("attention_backward_kv_32", &[("OUT", 1)]),
    backward_kv("attention_backward_kv_64", &[("OUT", 2)]),
    backward_kv("attention_backward_kv_128", &[("OUT", 4)]),
];

pub(super) static WGSL: &[&WgslKernel] = &[
    &WGSL_PLAN,
    &WGSL_BACKWARD_ROWS,
    &WGSL_FORWARD[0],
    &WGSL_FORWARD[1],
    &WGSL_FORWARD[2],
    &WGSL_BACKWARD_Q[0],
    &WGSL_BACKWARD_Q[1],
    &WGSL_BACKWARD_Q[2],
    &WGSL_BACKWARD_KV[0],
    &WGSL_BACKWARD_KV[1],
    &WGSL_BACKWARD_KV[2],
    &general_wgsl::PACK,
    &general_wgsl::PACK_MASK,
    &general_wgsl::PLAN,
    &general_wgsl::FORWARD,
    &general_wgsl::COMBINE,
    &general_wgsl::ROWS,
    &general_wgsl::BACKWARD_Q,
    &general_wgsl::BACKWARD_KV,
    &general_wgsl::BIAS,
    &general_wgsl::SUM,
    &general_wgsl::SCATTER,
    &general_wgsl::WEIGHTS,
    &general_wgsl::ENTROPY,
    &general_wgsl::APPEND,
];
