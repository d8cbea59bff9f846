//! Kernels of `task_heads`.

use super::Access::{Read, ReadWrite};
use super::{Access, CudaKernel, WgslKernel};

macro_rules! source {
    ($name:literal) => {
        include_str!(concat!("../../kernels/task_heads/", $name))
    };
}

const fn cuda(
    entry: &'static str,
    file: &'static str,
    source: &'static str,
    block: u32,
    pointers: &'static [&'static str],
    params: usize,
    shared_bytes: u32,
) -> CudaKernel {
    CudaKernel { entry, file, source, block, pointers, params, shared_bytes }
}

const fn wgsl(
    entry: &'static str,
    file: &'static str,
    source: &'static str,
    workgroup: u32,
    bindings: &'static [(&'static str, Access)],
    params: usize,
    workgroup_bytes: u32,
) -> WgslKernel {
    let workgroup = [workgroup, 1, 1];
    WgslKernel {
        entry,
        file,
        source,
        constants: &[],
        workgroup,
        bindings,
        params,
        workgroup_bytes,
        uses_subgroups: false,
    }
}

/// Gates and probabilities.
pub(crate) static GATE_CUDA: CudaKernel = cuda(
    "task_heads_gate_f32",
    "task_heads/gate.cu",
    source!("gate.cu"),
    128,
    &["values", "ids", "gates", "probabilities", "status"],
    64,
    0,
);

/// Lists of active pairs.
pub(crate) static COMPACT_CUDA: CudaKernel = cuda(
    "task_heads_compact_f32",
    "task_heads/compact.cu",
    source!("compact.cu"),
    256,
    &["gates", "order", "kv_order", "counts", "active"],
    16,
    1024,
);

/// Rows of skipped pairs.
pub(crate) static FILL_CUDA: CudaKernel = cuda(
    "task_heads_fill_f32",
    "task_heads/fill.cu",
    source!("fill.cu"),
    256,
    &["target", "order", "counts", "gates"],
    56,
    0,
);

/// δ per pair.
pub(crate) static DELTA_CUDA: CudaKernel = cuda(
    "task_heads_delta_f32",
    "task_heads/delta.cu",
    source!("delta.cu"),
    256,
    &["a", "b", "mask", "gates", "delta"],
    72,
    32,
);

/// The activation's derivative.
pub(crate) static GATE_BACKWARD_CUDA: CudaKernel = cuda(
    "task_heads_gate_backward_f32",
    "task_heads/gate_backward.cu",
    source!("gate_backward.cu"),
    128,
    &["delta", "gates", "probabilities", "dz"],
    12,
    0,
);

/// Gradient of the logits.
pub(crate) static SUM_BY_TASK_CUDA: CudaKernel = cuda(
    "task_heads_sum_by_task_f32",
    "task_heads/sum_by_task.cu",
    source!("sum_by_task.cu"),
    128,
    &["dz", "ids", "out"],
    24,
    0,
);

/// Gates and probabilities.
pub(crate) static GATE_WGSL: WgslKernel = wgsl(
    "task_heads_gate_f32",
    "task_heads/gate.wgsl",
    source!("gate.wgsl"),
    128,
    &[
        ("values", Read),
        ("ids", Read),
        ("gates", ReadWrite),
        ("probabilities", ReadWrite),
        ("status", ReadWrite),
    ],
    68,
    0,
);

/// Lists of active pairs.
pub(crate) static COMPACT_WGSL: WgslKernel = wgsl(
    "task_heads_compact_f32",
    "task_heads/compact.wgsl",
    source!("compact.wgsl"),
    256,
    &[
        ("gates", Read),
        ("order", ReadWrite),
        ("kv_order", ReadWrite),
        ("counts", ReadWrite),
        ("active_pairs", ReadWrite),
    ],
    36,
    1024,
);

/// Rows of skipped pairs.
pub(crate) static FILL_WGSL: WgslKernel = wgsl(
    "task_heads_fill_f32",
    "task_heads/fill.wgsl",
    source!("fill.wgsl"),
    256,
    &[("target_rows", ReadWrite), ("order", Read), ("counts", Read), ("gates", Read)],
    60,
    0,
);

/// δ per pair.
pub(crate) static DELTA_WGSL: WgslKernel = wgsl(
    "task_heads_delta_f32",
    "task_heads/delta.wgsl",
    source!("delta.wgsl"),
    256,
    &[("a", Read), ("b", Read), ("mask", Read), ("gates", Read), ("delta", ReadWrite)],
    68,
    1024,
);

/// The activation's derivative.
pub(crate) static GATE_BACKWARD_WGSL: WgslKernel = wgsl(
    "task_heads_gate_backward_f32",
    "task_heads/gate_backward.wgsl",
    source!("gate_backward.wgsl"),
    128,
    &[("delta", Read), ("gates", Read), ("probabilities", Read), ("dz", ReadWrite)],
    28,
    0,
);

/// Gradient of the logits.
pub(crate) static SUM_BY_TASK_WGSL: WgslKernel = wgsl(
    "task_heads_sum_by_task_f32",
    "task_heads/sum_by_task.wgsl",
    source!("sum_by_task.wgsl"),
    128,
    &[("dz", Read), ("ids", Read), ("sums", ReadWrite)],
    32,
    0,
);

pub(super) const CUDA: &[&CudaKernel] =
    &[&GATE_CUDA, &COMPACT_CUDA, &FILL_CUDA, &DELTA_CUDA, &GATE_BACKWARD_CUDA, &SUM_BY_TASK_CUDA];
pub(super) const WGSL: &[&WgslKernel] =
    &[&GATE_WGSL, &COMPACT_WGSL, &FILL_WGSL, &DELTA_WGSL, &GATE_BACKWARD_WGSL, &SUM_BY_TASK_WGSL];
