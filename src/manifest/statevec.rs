//! Kernels of `statevec`.

use super::Access::{Read, ReadWrite};
use super::{CudaKernel, WgslKernel};

/// The compiled program's interpreter.
pub(crate) static CIRCUIT_CUDA: CudaKernel = CudaKernel {
    entry: "statevec_circuit_f32",
    file: "statevec/circuit.cu",
    source: include_str!("../../kernels/statevec/circuit.cu"),
    block: 256,
    pointers: &["program", "theta", "inputs", "initial", "state", "out", "status"],
    params: 80,
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

/// [`CIRCUIT_CUDA`]'s twin.
pub(crate) static CIRCUIT_WGSL: WgslKernel = WgslKernel {
    entry: "statevec_circuit_f32",
    file: "statevec/circuit.wgsl",
    source: include_str!("../../kernels/statevec/circuit.wgsl"),
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
    params: 80,
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

pub(super) const CUDA: &[&CudaKernel] = &[&CIRCUIT_CUDA, &COMBINE_CUDA];
pub(super) const WGSL: &[&WgslKernel] = &[&CIRCUIT_WGSL, &COMBINE_WGSL];
