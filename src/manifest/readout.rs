//! Kernels of `statevec` that work on states and probabilities: readout, sampling, measurement.

use super::Access::{self, Read, ReadWrite};
use super::{CudaKernel, GpuKernel, WgslKernel};

macro_rules! source {
    ($name:literal) => {
        include_str!(concat!("../../kernels/", $name))
    };
}

const fn cuda(
    entry: &'static str,
    file: &'static str,
    source: &'static str,
    block: u32,
    pointers: &'static [&'static str],
    words: usize,
    shared_bytes: u32,
) -> CudaKernel {
    CudaKernel { entry, file, source, block, pointers, params: 4 * words, shared_bytes }
}

const fn wgsl(
    entry: &'static str,
    file: &'static str,
    source: &'static str,
    workgroup: u32,
    bindings: &'static [(&'static str, Access)],
    words: usize,
    workgroup_bytes: u32,
) -> WgslKernel {
    let workgroup = [workgroup, 1, 1];
    let (constants, params): (&[(&str, u32)], usize) = (&[], 4 * words);
    WgslKernel {
        entry,
        file,
        source,
        constants,
        workgroup,
        bindings,
        params,
        workgroup_bytes,
        uses_subgroups: false,
    }
}

/// Σ conj(a)·b over groups of amplitudes.
pub(crate) static INNER: GpuKernel = GpuKernel { cuda: &INNER_CUDA, wgsl: &INNER_WGSL };
static INNER_CUDA: CudaKernel = cuda(
    "statevec_inner_c64",
    "statevec/inner.cu",
    source!("statevec/inner.cu"),
    256,
    &["a", "b", "places", "out"],
    14,
    2048,
);
static INNER_WGSL: WgslKernel = wgsl(
    "statevec_inner_c64",
    "statevec/inner.wgsl",
    source!("statevec/inner.wgsl"),
    256,
    &[("a", Read), ("b", Read), ("places", Read), ("result", ReadWrite)],
    14,
    2048,
);

/// Gram matrices, and reduced density matrices.
pub(crate) static GRAM: GpuKernel = GpuKernel { cuda: &GRAM_CUDA, wgsl: &GRAM_WGSL };
static GRAM_CUDA: CudaKernel = cuda(
    "statevec_gram_c64",
    "statevec/gram.cu",
    source!("statevec/gram.cu"),
    256,
    &["a", "b", "qubits", "out"],
    20,
    8448,
);
static GRAM_WGSL: WgslKernel = wgsl(
    "statevec_gram_c64",
    "statevec/gram.wgsl",
    source!("statevec/gram.wgsl"),
    256,
    &[("a", Read), ("b", Read), ("qubits", Read), ("result", ReadWrite)],
    20,
    8448,
);

/// Adds up the splits of [`INNER`] and [`GRAM`].
pub(crate) static JOIN: GpuKernel = GpuKernel { cuda: &JOIN_CUDA, wgsl: &JOIN_WGSL };
static JOIN_CUDA: CudaKernel =
    cuda("statevec_join_c64", "statevec/join.cu", source!("statevec/join.cu"), 128, &["parts", "out"], 5, 0);
static JOIN_WGSL: WgslKernel = wgsl(
    "statevec_join_c64",
    "statevec/join.wgsl",
    source!("statevec/join.wgsl"),
    128,
    &[("parts", Read), ("result", ReadWrite)],
    5,
    0,
);

/// Sums of runs of probabilities.
pub(crate) static MASS: GpuKernel = GpuKernel { cuda: &MASS_CUDA, wgsl: &MASS_WGSL };
static MASS_CUDA: CudaKernel = cuda(
    "statevec_mass",
    "statevec/mass.cu",
    source!("statevec/mass.cu"),
    256,
    &["probabilities", "exponents", "masses"],
    6,
    2048,
);
static MASS_WGSL: WgslKernel = wgsl(
    "statevec_mass",
    "statevec/mass.wgsl",
    concat!(source!("random/philox.wgsl"), source!("statevec/wide.wgsl"), source!("statevec/mass.wgsl")),
    256,
    &[("probabilities", Read), ("exponents", Read), ("masses", ReadWrite)],
    6,
    2048,
);

/// Exclusive sums of the runs.
pub(crate) static SCAN: GpuKernel = GpuKernel { cuda: &SCAN_CUDA, wgsl: &SCAN_WGSL };
static SCAN_CUDA: CudaKernel = cuda(
    "statevec_scan",
    "statevec/scan.cu",
    source!("statevec/scan.cu"),
    256,
    &["masses", "totals", "exponents", "status"],
    6,
    2048,
);
static SCAN_WGSL: WgslKernel = wgsl(
    "statevec_scan",
    "statevec/scan.wgsl",
    concat!(source!("random/philox.wgsl"), source!("statevec/wide.wgsl"), source!("statevec/scan.wgsl")),
    256,
    &[("masses", ReadWrite), ("totals", ReadWrite), ("exponents", ReadWrite), ("status", ReadWrite)],
    6,
    2048,
);

/// Shots.
pub(crate) static DRAW: GpuKernel = GpuKernel { cuda: &DRAW_CUDA, wgsl: &DRAW_WGSL };
static DRAW_CUDA: CudaKernel = cuda(
    "statevec_draw",
    "statevec/draw.cu",
    source!("statevec/draw.cu"),
    128,
    &["stream", "probabilities", "before", "totals", "exponents", "shots"],
    9,
    0,
);
static DRAW_WGSL: WgslKernel = wgsl(
    "statevec_draw",
    "statevec/draw.wgsl",
    concat!(source!("random/philox.wgsl"), source!("statevec/wide.wgsl"), source!("statevec/draw.wgsl")),
    128,
    &[
        ("source", Read),
        ("probabilities", Read),
        ("before", Read),
        ("totals", Read),
        ("exponents", Read),
        ("shots", ReadWrite),
    ],
    9,
    0,
);

/// Copies rows.
pub(crate) static ROWS: GpuKernel = GpuKernel { cuda: &ROWS_CUDA, wgsl: &ROWS_WGSL };
static ROWS_CUDA: CudaKernel = cuda(
    "statevec_rows",
    "statevec/rows.cu",
    source!("statevec/rows.cu"),
    256,
    &["source", "index", "out"],
    16,
    0,
);
static ROWS_WGSL: WgslKernel = wgsl(
    "statevec_rows",
    "statevec/rows.wgsl",
    source!("statevec/rows.wgsl"),
    256,
    &[("source", Read), ("index", Read), ("result", ReadWrite)],
    16,
    0,
);

/// Outcomes of one qubit.
pub(crate) static MEASURE: GpuKernel = GpuKernel { cuda: &MEASURE_CUDA, wgsl: &MEASURE_WGSL };
static MEASURE_CUDA: CudaKernel = cuda(
    "statevec_measure",
    "statevec/measure.cu",
    source!("statevec/measure.cu"),
    128,
    &["stream", "weights", "ids", "decisions", "status"],
    6,
    0,
);
static MEASURE_WGSL: WgslKernel = wgsl(
    "statevec_measure",
    "statevec/measure.wgsl",
    concat!(source!("random/philox.wgsl"), source!("statevec/wide.wgsl"), source!("statevec/measure.wgsl")),
    128,
    &[("source", Read), ("weights", Read), ("ids", Read), ("decisions", ReadWrite), ("status", ReadWrite)],
    6,
    0,
);

/// Projection on an outcome.
pub(crate) static COLLAPSE: GpuKernel = GpuKernel { cuda: &COLLAPSE_CUDA, wgsl: &COLLAPSE_WGSL };
static COLLAPSE_CUDA: CudaKernel = cuda(
    "statevec_collapse",
    "statevec/collapse.cu",
    source!("statevec/collapse.cu"),
    256,
    &["states", "decisions"],
    6,
    0,
);
static COLLAPSE_WGSL: WgslKernel = wgsl(
    "statevec_collapse",
    "statevec/collapse.wgsl",
    source!("statevec/collapse.wgsl"),
    256,
    &[("states", ReadWrite), ("decisions", Read)],
    6,
    0,
);

/// States times a factor each.
pub(crate) static SCALE_ROWS: GpuKernel = GpuKernel { cuda: &SCALE_ROWS_CUDA, wgsl: &SCALE_ROWS_WGSL };
static SCALE_ROWS_CUDA: CudaKernel = cuda(
    "statevec_scale_rows_c64",
    "statevec/scale_rows.cu",
    source!("statevec/scale_rows.cu"),
    256,
    &["states", "grads", "overlaps", "out"],
    10,
    0,
);
static SCALE_ROWS_WGSL: WgslKernel = wgsl(
    "statevec_scale_rows_c64",
    "statevec/scale_rows.wgsl",
    source!("statevec/scale_rows.wgsl"),
    256,
    &[("states", Read), ("grads", Read), ("overlaps", Read), ("result", ReadWrite)],
    10,
    0,
);

pub(super) const CUDA: &[&CudaKernel] = &[
    &INNER_CUDA,
    &GRAM_CUDA,
    &JOIN_CUDA,
    &MASS_CUDA,
    &SCAN_CUDA,
    &DRAW_CUDA,
    &ROWS_CUDA,
    &MEASURE_CUDA,
    &COLLAPSE_CUDA,
    &SCALE_ROWS_CUDA,
];
pub(super) const WGSL: &[&WgslKernel] = &[
    &INNER_WGSL,
    &GRAM_WGSL,
    &JOIN_WGSL,
    &MASS_WGSL,
    &SCAN_WGSL,
    &DRAW_WGSL,
    &ROWS_WGSL,
    &MEASURE_WGSL,
    &COLLAPSE_WGSL,
    &SCALE_ROWS_WGSL,
];
