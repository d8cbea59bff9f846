//! Kernels of `multitask`.

use super::Access::{Read, ReadWrite};
use super::{CudaKernel, Twin, TwinRow, WgslKernel};

macro_rules! twin {
    (
        $(#[$doc:meta])* $name:ident = $entry:literal in $stem:literal, block $block:literal,
        pointers $pointers:expr, bindings $bindings:expr, params $params:expr, shared $shared:expr
    ) => {
        $(#[$doc])*
        pub(crate) static $name: Twin = Twin::new(&TwinRow {
            entry: $entry,
            cuda: (
                concat!("multitask/", $stem, ".cu"),
                include_str!(concat!("../../kernels/multitask/", $stem, ".cu")),
            ),
            wgsl: (
                concat!("multitask/", $stem, ".wgsl"),
                concat!(
                    include_str!("../../kernels/multitask/common.wgsl"),
                    include_str!(concat!("../../kernels/multitask/", $stem, ".wgsl"))
                ),
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
    /// Task and label of each row, checked.
    ROWS = "multitask_rows" in "rows", block 128,
    pointers &["ids", "labels", "widths", "rows", "zeroed", "status"],
    bindings &[
        ("ids", Read), ("labels", Read), ("widths", Read), ("rows", ReadWrite), ("zeroed", ReadWrite), ("status", ReadWrite),
    ],
    params (3, 12), shared (0, 0)
}

twin! {
    /// Rows of each task.
    COUNT = "multitask_count" in "count", block 256,
    pointers &["rows", "counts"],
    bindings &[("rows", ReadWrite), ("counts", ReadWrite)],
    params (0, 3), shared (1024, 1024)
}

twin! {
    /// Loss of each row and its gradient.
    CROSS_ENTROPY = "multitask_cross_entropy_f32" in "cross_entropy", block 128,
    pointers &["logits", "rows", "counts", "weights", "widths", "dlogits", "row_losses"],
    bindings &[
        ("logits", Read), ("rows", Read), ("counts", Read), ("weights", Read), ("widths", Read), ("dlogits", ReadWrite),
        ("row_losses", ReadWrite),
    ],
    params (4, 8), shared (0, 1568)
}

twin! {
    /// Loss of each row and its gradient.
    SQUARED_ERROR = "multitask_squared_error_f32" in "squared_error", block 128,
    pointers &["values", "targets", "rows", "counts", "weights", "widths", "gradient", "row_losses"],
    bindings &[
        ("values", Read), ("targets", Read), ("rows", Read), ("counts", Read), ("weights", Read), ("widths", Read),
        ("gradient", ReadWrite), ("row_losses", ReadWrite),
    ],
    params (6, 7), shared (0, 512)
}

twin! {
    /// Loss of each task.
    REDUCE = "multitask_reduce_f32" in "reduce", block 256,
    pointers &["rows", "row_losses", "counts", "losses"],
    bindings &[("rows", Read), ("row_losses", Read), ("counts", Read), ("losses", ReadWrite)],
    params (0, 4), shared (32, 1028)
}

twin! {
    /// Σ w x over tasks.
    WEIGHTED_SUM = "multitask_weighted_sum_f32" in "weighted_sum", block 32,
    pointers &["values", "weights", "counts", "rows", "total"],
    bindings &[("values", Read), ("weights", Read), ("counts", Read), ("rows", Read), ("total", ReadWrite)],
    params (1, 5), shared (0, 0)
}

twin! {
    /// Partial inner products of gradients.
    GRADIENT_GRAM = "multitask_gradient_gram_f32" in "gradient_gram", block 128,
    pointers &["gradients", "partial"],
    bindings &[("gradients", Read), ("partials", ReadWrite)],
    params (2, 2), shared (256, 2048)
}

twin! {
    /// Norms and cosines.
    GRADIENT_COSINES = "multitask_gradient_cosines_f32" in "gradient_cosines", block 128,
    pointers &["partial", "norms", "cosines"],
    bindings &[("partials", Read), ("norms", ReadWrite), ("cosines", ReadWrite)],
    params (0, 2), shared (0, 0)
}

twin! {
    /// Right, predicted and labelled rows of each class.
    CLASS_COUNTS = "multitask_class_counts_f32" in "class_counts", block 128,
    pointers &["logits", "rows", "widths", "counts"],
    bindings &[("logits", Read), ("rows", Read), ("widths", Read), ("counts", ReadWrite)],
    params (2, 4), shared (0, 1024)
}

twin! {
    /// Precision, recall, F1 and accuracy.
    CLASS_METRICS = "multitask_class_metrics_f32" in "class_metrics", block 128,
    pointers &["class_counts", "per_class", "per_task", "overall"],
    bindings &[("class_counts", Read), ("per_class", ReadWrite), ("per_task", ReadWrite), ("overall", ReadWrite)],
    params (0, 4), shared (2560, 2560)
}

twin! {
    /// Mean absolute and squared error, R².
    REGRESSION_METRICS = "multitask_regression_metrics_f32" in "regression_metrics", block 256,
    pointers &["values", "targets", "rows", "counts", "per_task"],
    bindings &[("values", Read), ("targets", Read), ("rows", Read), ("counts", Read), ("per_task", ReadWrite)],
    params (4, 3), shared (32, 4100)
}

pub(super) const CUDA: &[&CudaKernel] = &[
    &ROWS.cuda,
    &COUNT.cuda,
    &CROSS_ENTROPY.cuda,
    &SQUARED_ERROR.cuda,
    &REDUCE.cuda,
    &WEIGHTED_SUM.cuda,
    &GRADIENT_GRAM.cuda,
    &GRADIENT_COSINES.cuda,
    &CLASS_COUNTS.cuda,
    &CLASS_METRICS.cuda,
    &REGRESSION_METRICS.cuda,
];
pub(super) const WGSL: &[&WgslKernel] = &[
    &ROWS.wgsl,
    &COUNT.wgsl,
    &CROSS_ENTROPY.wgsl,
    &SQUARED_ERROR.wgsl,
    &REDUCE.wgsl,
    &WEIGHTED_SUM.wgsl,
    &GRADIENT_GRAM.wgsl,
    &GRADIENT_COSINES.wgsl,
    &CLASS_COUNTS.wgsl,
    &CLASS_METRICS.wgsl,
    &REGRESSION_METRICS.wgsl,
];
