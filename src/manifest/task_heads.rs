//! Kernels of `task_heads`.

use super::Access::{Read, ReadWrite};
use super::{Access, CudaKernel, Twin, TwinRow, WgslKernel};

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

macro_rules! twin {
    (
        $(#[$doc:meta])* $name:ident = $entry:literal in $stem:literal, $(after $header:literal,)? block $block:literal,
        pointers $pointers:expr, bindings $bindings:expr, params $params:expr, shared $shared:expr
    ) => {
        $(#[$doc])*
        pub(crate) static $name: Twin = Twin::new(&TwinRow {
            entry: $entry,
            cuda: (concat!("task_heads/", $stem, ".cu"), include_str!(concat!("../../kernels/task_heads/", $stem, ".cu"))),
            wgsl: (
                concat!("task_heads/", $stem, ".wgsl"),
                concat!($(include_str!(concat!("../../kernels/", $header)),)? include_str!(concat!("../../kernels/task_heads/", $stem, ".wgsl"))),
            ),
            block: $block,
            pointers: $pointers,
            bindings: $bindings,
            params: $params,
            shared: $shared,
        });
    };
}

twin! {
    /// z of dynamic and noisy gates.
    SCORES = "task_heads_scores_f32" in "scores", after "random/philox.wgsl", block 128,
    pointers &["values", "x", "bias", "ids", "stream", "z"],
    bindings &[("values", Read), ("x", Read), ("bias", Read), ("ids", Read), ("stream", Read), ("z", ReadWrite)],
    params (6, 10), shared (0, 512)
}

twin! {
    /// Gradient of a dynamic gate's weights and bias.
    DYNAMIC_WEIGHTS = "task_heads_dynamic_weights_f32" in "dynamic_weights", block 128,
    pointers &["dz", "x", "ids", "out"],
    bindings &[("dz", Read), ("x", Read), ("ids", Read), ("sums", ReadWrite)],
    params (2, 8), shared (0, 0)
}

twin! {
    /// Gradient of a dynamic gate's inputs.
    DYNAMIC_INPUTS = "task_heads_dynamic_inputs_f32" in "dynamic_inputs", block 128,
    pointers &["dz", "weights", "ids", "dx"],
    bindings &[("dz", Read), ("weights", Read), ("ids", Read), ("dx", ReadWrite)],
    params (3, 7), shared (0, 0)
}

twin! {
    /// Fraction selected and mean probability.
    STATISTICS = "task_heads_statistics_f32" in "statistics", block 128,
    pointers &["gates", "probabilities", "ids", "selected", "mean_probability", "counts"],
    bindings &[
        ("gates", Read), ("probabilities", Read), ("ids", Read), ("selected_share", ReadWrite), ("mean_probability", ReadWrite),
        ("counts", ReadWrite),
    ],
    params (1, 5), shared (0, 0)
}

twin! {
    /// Balance, entropy and active fraction.
    BALANCE = "task_heads_balance_f32" in "balance", block 128,
    pointers &["selected", "mean_probability", "summary"],
    bindings &[("selected_share", Read), ("mean_probability", Read), ("summary", ReadWrite)],
    params (0, 3), shared (0, 0)
}

twin! {
    /// Gradient of the balance.
    BALANCE_BACKWARD = "task_heads_balance_backward_f32" in "balance_backward", block 128,
    pointers &["probabilities", "selected", "counts", "weights", "ids", "dz"],
    bindings &[
        ("probabilities", Read), ("selected_share", Read), ("counts", Read), ("weights", Read), ("ids", Read), ("dz", ReadWrite),
    ],
    params (1, 7), shared (0, 0)
}

twin! {
    /// The output projection.
    PROJECT = "task_heads_project_f32" in "project", after "task_heads/project_common.wgsl", block 256,
    pointers &["y", "w", "gates", "ids", "out"],
    bindings &[("left", Read), ("right", Read), ("gates", Read), ("ids", Read), ("result", ReadWrite)],
    params (8, 8), shared (8320, 4224)
}

twin! {
    /// The output projection and its gradients.
    PROJECT_GRAD_Y = "task_heads_project_grad_y_f32" in "project_grad_y", after "task_heads/project_common.wgsl", block 256,
    pointers &["dout", "w", "gates", "ids", "dy"],
    bindings &[("left", Read), ("right", Read), ("gates", Read), ("ids", Read), ("result", ReadWrite)],
    params (8, 8), shared (8320, 4224)
}

twin! {
    /// The output projection and its gradients.
    PROJECT_GRAD_W = "task_heads_project_grad_w_f32" in "project_grad_w", after "task_heads/project_common.wgsl", block 256,
    pointers &["y", "dout", "gates", "ids", "dw"],
    bindings &[("left", Read), ("right", Read), ("gates", Read), ("ids", Read), ("result", ReadWrite)],
    params (8, 8), shared (8320, 4224)
}

twin! {
    /// Rows of skipped pairs.
    FILL = "task_heads_fill" in "fill", after "task_heads/rows.wgsl", block 256,
    pointers &["target", "order", "counts", "gates", "starts"],
    bindings &[("target_rows", ReadWrite), ("order", Read), ("counts", Read), ("gates", Read), ("starts", Read)],
    params (4, 12), shared (0, 0)
}

twin! {
    /// δ per pair.
    DELTA = "task_heads_delta" in "delta", after "task_heads/rows.wgsl", block 256,
    pointers &["a", "b", "mask", "gates", "delta", "starts"],
    bindings &[("a", Read), ("b", Read), ("mask", Read), ("gates", Read), ("delta", ReadWrite), ("starts", Read)],
    params (8, 13), shared (32, 1024)
}

twin! {
    /// Gates by rows of packed sequences.
    EXPAND = "task_heads_expand_f32" in "expand", after "task_heads/rows.wgsl", block 256,
    pointers &["gates", "starts", "out"],
    bindings &[("gates", Read), ("starts", Read), ("expanded", ReadWrite)],
    params (1, 6), shared (0, 0)
}

twin! {
    /// Heads that some task uses.
    USED = "task_heads_used_f32" in "used", block 128,
    pointers &["gates", "used"],
    bindings &[("gates", Read), ("used", ReadWrite)],
    params (0, 3), shared (0, 0)
}

twin! {
    /// A head's output for every task.
    SPREAD = "task_heads_spread_f32" in "spread", block 256,
    pointers &["o", "gates", "used", "lse", "y"],
    bindings &[("o", Read), ("gates", Read), ("used", Read), ("lse", Read), ("y", ReadWrite)],
    params (10, 6), shared (0, 0)
}

twin! {
    /// What every task asks of a head's output.
    GATHER = "task_heads_gather_f32" in "gather", block 256,
    pointers &["dy", "gates", "order", "counts", "grad_o"],
    bindings &[("dy", Read), ("gates", Read), ("order", Read), ("counts", Read), ("grad_o", ReadWrite)],
    params (4, 5), shared (0, 0)
}

/// Gates and probabilities.
pub(crate) static GATE_CUDA: CudaKernel = cuda(
    "task_heads_gate_f32",
    "task_heads/gate.cu",
    source!("gate.cu"),
    128,
    &["values", "ids", "gates", "probabilities", "status"],
    72,
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

/// The activation's derivative.
pub(crate) static GATE_BACKWARD_CUDA: CudaKernel = cuda(
    "task_heads_gate_backward_f32",
    "task_heads/gate_backward.cu",
    source!("gate_backward.cu"),
    128,
    &["delta", "gates", "probabilities", "dz"],
    16,
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
    76,
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

/// The activation's derivative.
pub(crate) static GATE_BACKWARD_WGSL: WgslKernel = wgsl(
    "task_heads_gate_backward_f32",
    "task_heads/gate_backward.wgsl",
    source!("gate_backward.wgsl"),
    128,
    &[("delta", Read), ("gates", Read), ("probabilities", Read), ("dz", ReadWrite)],
    32,
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

pub(super) const CUDA: &[&CudaKernel] = &[
    &GATE_CUDA,
    &COMPACT_CUDA,
    &FILL.cuda,
    &DELTA.cuda,
    &EXPAND.cuda,
    &GATE_BACKWARD_CUDA,
    &SUM_BY_TASK_CUDA,
    &SCORES.cuda,
    &DYNAMIC_WEIGHTS.cuda,
    &DYNAMIC_INPUTS.cuda,
    &STATISTICS.cuda,
    &BALANCE.cuda,
    &BALANCE_BACKWARD.cuda,
    &PROJECT.cuda,
    &PROJECT_GRAD_Y.cuda,
    &PROJECT_GRAD_W.cuda,
    &USED.cuda,
    &SPREAD.cuda,
    &GATHER.cuda,
];
pub(super) const WGSL: &[&WgslKernel] = &[
    &GATE_WGSL,
    &COMPACT_WGSL,
    &FILL.wgsl,
    &DELTA.wgsl,
    &EXPAND.wgsl,
    &GATE_BACKWARD_WGSL,
    &SUM_BY_TASK_WGSL,
    &SCORES.wgsl,
    &DYNAMIC_WEIGHTS.wgsl,
    &DYNAMIC_INPUTS.wgsl,
    &STATISTICS.wgsl,
    &BALANCE.wgsl,
    &BALANCE_BACKWARD.wgsl,
    &PROJECT.wgsl,
    &PROJECT_GRAD_Y.wgsl,
    &PROJECT_GRAD_W.wgsl,
    &USED.wgsl,
    &SPREAD.wgsl,
    &GATHER.wgsl,
];
