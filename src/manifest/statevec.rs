//! Kernels of `statevec`.
#![cfg_attr(not(any(feature = "wgpu", feature = "cuda")), allow(dead_code))] // Nothing launches them then.

use super::Access::{Read, ReadWrite};
use super::readout::{cuda, wgsl};
use super::{CudaKernel, GpuKernel, WgslKernel};

/// `kernels/statevec/$file` after `norm.wgsl` and `running_norm.wgsl`.
macro_rules! with_norm {
    ($file:literal) => {
        concat!(
            include_str!("../../kernels/statevec/norm.wgsl"),
            include_str!("../../kernels/statevec/running_norm.wgsl"),
            include_str!(concat!("../../kernels/statevec/", $file))
        )
    };
}

/// `kernels/statevec/$file` after `norm.wgsl` and `registers.wgsl`.
macro_rules! with_registers {
    ($file:literal) => {
        concat!(
            include_str!("../../kernels/statevec/norm.wgsl"),
            include_str!("../../kernels/statevec/registers.wgsl"),
            include_str!(concat!("../../kernels/statevec/", $file))
        )
    };
}

/// The compiled program's interpreter.
pub(crate) static CIRCUIT_CUDA: CudaKernel = CudaKernel {
    entry: "statevec_circuit_f32",
    file: "statevec/circuit.cu",
    source: include_str!("../../kernels/statevec/circuit.cu"),
    block: 256,
    pointers: &["program", "theta", "inputs", "initial", "state", "out", "status"],
    params: 104,
    // A plane of 4096 words and a segment of 2048.
    shared_bytes: 24 << 10,
};

/// Adds up what the blocks of a state measured.
pub(crate) static COMBINE_CUDA: CudaKernel = CudaKernel {
    entry: "statevec_combine_f32",
    file: "statevec/combine.cu",
    source: include_str!("../../kernels/statevec/combine.cu"),
    block: 64,
    pointers: &["table", "partials", "out"],
    params: 24,
    shared_bytes: 0,
};

/// The circuit, the observables, and the way back with the gradients.
pub(crate) static ADJOINT_CUDA: CudaKernel = CudaKernel {
    entry: "statevec_adjoint_f32",
    file: "statevec/adjoint.cu",
    source: include_str!("../../kernels/statevec/adjoint.cu"),
    block: 256,
    pointers: &["program", "theta", "inputs", "initial", "weights", "state", "lambda", "slots", "status"],
    params: 104,
    // As CIRCUIT_CUDA: partial gradients share the plane with the coefficients.
    shared_bytes: 24 << 10,
};

/// [`CIRCUIT_CUDA`]'s twin.
pub(crate) static CIRCUIT_WGSL: WgslKernel = WgslKernel {
    entry: "statevec_circuit_f32",
    file: "statevec/circuit.wgsl",
    source: with_registers!("circuit.wgsl"),
    constants: &[],
    workgroup: [256, 1, 1],
    bindings: &[
        ("program", Read),
        ("theta", Read),
        ("inputs", Read),
        ("initial", Read),
        ("state", ReadWrite),
        ("result", ReadWrite),
        ("status", ReadWrite),
    ],
    params: 100,
    // The plane; a segment of the program is read through the cache.
    workgroup_bytes: 16 << 10,
    uses_subgroups: false,
};

/// [`COMBINE_CUDA`]'s twin.
pub(crate) static COMBINE_WGSL: WgslKernel = WgslKernel {
    entry: "statevec_combine_f32",
    file: "statevec/combine.wgsl",
    source: include_str!("../../kernels/statevec/combine.wgsl"),
    constants: &[],
    workgroup: [64, 1, 1],
    bindings: &[("table", Read), ("partials", Read), ("result", ReadWrite)],
    params: 32,
    workgroup_bytes: 0,
    uses_subgroups: false,
};

/// [`ADJOINT_CUDA`]'s twin. ψ and λ share a buffer: devices bind eight storage buffers.
pub(crate) static ADJOINT_WGSL: WgslKernel = WgslKernel {
    entry: "statevec_adjoint_f32",
    file: "statevec/adjoint.wgsl",
    source: with_registers!("adjoint.wgsl"),
    constants: &[],
    workgroup: [256, 1, 1],
    bindings: &[
        ("program", Read),
        ("theta", Read),
        ("inputs", Read),
        ("initial", Read),
        ("weights", Read),
        ("state", ReadWrite),
        ("slots", ReadWrite),
        ("status", ReadWrite),
    ],
    params: 100,
    workgroup_bytes: 16 << 10,
    uses_subgroups: false,
};

/// Adds up gradients of operations, or of starts.
pub(crate) static GRADIENT_SUM: GpuKernel = GpuKernel { cuda: &GRADIENT_SUM_CUDA, wgsl: &GRADIENT_SUM_WGSL };
static GRADIENT_SUM_CUDA: CudaKernel = cuda(
    "statevec_gradient_sum_f32",
    "statevec/gradient_sum.cu",
    include_str!("../../kernels/statevec/gradient_sum.cu"),
    64,
    &["table", "slots", "tasks", "out"],
    16,
    0,
);
static GRADIENT_SUM_WGSL: WgslKernel = wgsl(
    "statevec_gradient_sum_f32",
    "statevec/gradient_sum.wgsl",
    include_str!("../../kernels/statevec/gradient_sum.wgsl"),
    64,
    &[("table", Read), ("slots", Read), ("tasks", Read), ("result", ReadWrite)],
    16,
    0,
);

/// Checks task ids and numbers of basis states.
pub(crate) static TASKS: GpuKernel = GpuKernel { cuda: &TASKS_CUDA, wgsl: &TASKS_WGSL };
static TASKS_CUDA: CudaKernel = cuda(
    "statevec_tasks",
    "statevec/tasks.cu",
    include_str!("../../kernels/statevec/tasks.cu"),
    256,
    &["ids", "rows", "status"],
    8,
    0,
);
static TASKS_WGSL: WgslKernel = wgsl(
    "statevec_tasks",
    "statevec/tasks.wgsl",
    include_str!("../../kernels/statevec/tasks.wgsl"),
    256,
    &[("ids", Read), ("rows", ReadWrite), ("status", ReadWrite)],
    8,
    0,
);

/// What rows of amplitudes are multiplied by to be normalised.
pub(crate) static NORMS: GpuKernel = GpuKernel { cuda: &NORMS_CUDA, wgsl: &NORMS_WGSL };
static NORMS_CUDA: CudaKernel = cuda(
    "statevec_norms_f32",
    "statevec/norms.cu",
    include_str!("../../kernels/statevec/norms.cu"),
    256,
    &["rows", "out", "status"],
    7,
    2048,
);
static NORMS_WGSL: WgslKernel = wgsl(
    "statevec_norms_f32",
    "statevec/norms.wgsl",
    with_norm!("norms.wgsl"),
    256,
    &[("rows", Read), ("result", ReadWrite), ("status", ReadWrite)],
    7,
    2048,
);

/// From the gradient of normalised rows to that of the rows.
pub(crate) static NORM_GRADIENT: GpuKernel =
    GpuKernel { cuda: &NORM_GRADIENT_CUDA, wgsl: &NORM_GRADIENT_WGSL };
static NORM_GRADIENT_CUDA: CudaKernel = cuda(
    "statevec_norm_gradient_f32",
    "statevec/norm_gradient.cu",
    include_str!("../../kernels/statevec/norm_gradient.cu"),
    256,
    &["rows", "gradients", "out"],
    10,
    2048,
);
static NORM_GRADIENT_WGSL: WgslKernel = wgsl(
    "statevec_norm_gradient_f32",
    "statevec/norm_gradient.wgsl",
    with_norm!("norm_gradient.wgsl"),
    256,
    &[("rows", Read), ("gradients", Read), ("result", ReadWrite)],
    10,
    2048,
);

pub(super) const CUDA: &[&CudaKernel] = &[
    &CIRCUIT_CUDA,
    &COMBINE_CUDA,
    &ADJOINT_CUDA,
    &GRADIENT_SUM_CUDA,
    &TASKS_CUDA,
    &NORMS_CUDA,
    &NORM_GRADIENT_CUDA,
];
pub(super) const WGSL: &[&WgslKernel] = &[
    &CIRCUIT_WGSL,
    &COMBINE_WGSL,
    &ADJOINT_WGSL,
    &GRADIENT_SUM_WGSL,
    &TASKS_WGSL,
    &NORMS_WGSL,
    &NORM_GRADIENT_WGSL,
];
