//! Kernels of `statevec`.

use super::Access::{Read, ReadWrite};
use super::{CudaKernel, WgslKernel};

/// `kernels/statevec/$file` after `registers.wgsl`.
macro_rules! with_registers {
    ($file:literal) => {
        concat!(
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
    params: 88,
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
    params: 88,
    // As CIRCUIT_CUDA: partial gradients share the plane with the coefficients.
    shared_bytes: 24 << 10,
};

/// Adds up gradients of operations.
pub(crate) static GRADIENT_SUM_CUDA: CudaKernel = CudaKernel {
    entry: "statevec_gradient_sum_f32",
    file: "statevec/gradient_sum.cu",
    source: include_str!("../../kernels/statevec/gradient_sum.cu"),
    block: 64,
    pointers: &["table", "slots", "tasks", "out"],
    params: 48,
    shared_bytes: 0,
};

/// Checks task ids.
pub(crate) static TASKS_CUDA: CudaKernel = CudaKernel {
    entry: "statevec_tasks",
    file: "statevec/tasks.cu",
    source: include_str!("../../kernels/statevec/tasks.cu"),
    block: 256,
    pointers: &["ids", "rows", "status"],
    params: 24,
    shared_bytes: 0,
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
    params: 96,
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
    params: 80,
    workgroup_bytes: 16 << 10,
    uses_subgroups: false,
};

/// [`GRADIENT_SUM_CUDA`]'s twin.
pub(crate) static GRADIENT_SUM_WGSL: WgslKernel = WgslKernel {
    entry: "statevec_gradient_sum_f32",
    file: "statevec/gradient_sum.wgsl",
    source: include_str!("../../kernels/statevec/gradient_sum.wgsl"),
    constants: &[],
    workgroup: [64, 1, 1],
    bindings: &[("table", Read), ("slots", Read), ("tasks", Read), ("result", ReadWrite)],
    params: 48,
    workgroup_bytes: 0,
    uses_subgroups: false,
};

/// [`TASKS_CUDA`]'s twin.
pub(crate) static TASKS_WGSL: WgslKernel = WgslKernel {
    entry: "statevec_tasks",
    file: "statevec/tasks.wgsl",
    source: include_str!("../../kernels/statevec/tasks.wgsl"),
    constants: &[],
    workgroup: [256, 1, 1],
    bindings: &[("ids", Read), ("rows", ReadWrite), ("status", ReadWrite)],
    params: 32,
    workgroup_bytes: 0,
    uses_subgroups: false,
};

pub(super) const CUDA: &[&CudaKernel] =
    &[&CIRCUIT_CUDA, &COMBINE_CUDA, &ADJOINT_CUDA, &GRADIENT_SUM_CUDA, &TASKS_CUDA];
pub(super) const WGSL: &[&WgslKernel] =
    &[&CIRCUIT_WGSL, &COMBINE_WGSL, &ADJOINT_WGSL, &GRADIENT_SUM_WGSL, &TASKS_WGSL];
