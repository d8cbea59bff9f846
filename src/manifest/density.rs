//! Kernels of density matrices.
#![cfg_attr(not(any(feature = "wgpu", feature = "cuda")), allow(dead_code))] // Nothing launches them then.

use super::Access::{Read, ReadWrite};
use super::readout::{cuda, wgsl};
use super::{CudaKernel, GpuKernel, WgslKernel};

macro_rules! source {
    ($name:literal) => {
        include_str!(concat!("../../kernels/", $name))
    };
}

/// Expectations and diagonals.
pub(crate) static READ: GpuKernel = GpuKernel { cuda: &READ_CUDA, wgsl: &READ_WGSL };
static READ_CUDA: CudaKernel = cuda(
    "density_read_c64",
    "density/read.cu",
    source!("density/read.cu"),
    128,
    &["rho", "table", "out"],
    9,
    512,
);
static READ_WGSL: WgslKernel = wgsl(
    "density_read_c64",
    "density/read.wgsl",
    source!("density/read.wgsl"),
    128,
    &[("rho", Read), ("table", Read), ("result", ReadWrite)],
    9,
    512,
);

/// A weighted sum of observables as a matrix.
pub(crate) static OBSERVABLE: GpuKernel = GpuKernel { cuda: &OBSERVABLE_CUDA, wgsl: &OBSERVABLE_WGSL };
static OBSERVABLE_CUDA: CudaKernel = cuda(
    "density_observable_c64",
    "density/observable.cu",
    source!("density/observable.cu"),
    128,
    &["weights", "table", "out"],
    8,
    0,
);
static OBSERVABLE_WGSL: WgslKernel = wgsl(
    "density_observable_c64",
    "density/observable.wgsl",
    source!("density/observable.wgsl"),
    128,
    &[("weights", Read), ("table", Read), ("result", ReadWrite)],
    8,
    0,
);

/// Sequences of one qubit.
pub(crate) static QUBIT_FORWARD: GpuKernel =
    GpuKernel { cuda: &QUBIT_FORWARD_CUDA, wgsl: &QUBIT_FORWARD_WGSL };
static QUBIT_FORWARD_CUDA: CudaKernel = cuda(
    "density_qubit_forward",
    "density/qubit_forward.cu",
    source!("density/qubit_forward.cu"),
    64,
    &["program", "theta", "x", "initial", "out", "status"],
    15,
    0,
);
static QUBIT_FORWARD_WGSL: WgslKernel = wgsl(
    "density_qubit_forward",
    "density/qubit_forward.wgsl",
    concat!(source!("density/qubit.wgsl"), source!("density/qubit_forward.wgsl")),
    64,
    &[
        ("program", Read),
        ("theta", Read),
        ("inputs", Read),
        ("initial", Read),
        ("result", ReadWrite),
        ("status", ReadWrite),
    ],
    15,
    0,
);

/// Their gradients.
pub(crate) static QUBIT_BACKWARD: GpuKernel =
    GpuKernel { cuda: &QUBIT_BACKWARD_CUDA, wgsl: &QUBIT_BACKWARD_WGSL };
static QUBIT_BACKWARD_CUDA: CudaKernel = cuda(
    "density_qubit_backward",
    "density/qubit_backward.cu",
    source!("density/qubit_backward.cu"),
    64,
    &["program", "theta", "x", "states", "grads", "work", "dx", "dinitial"],
    17,
    0,
);
static QUBIT_BACKWARD_WGSL: WgslKernel = wgsl(
    "density_qubit_backward",
    "density/qubit_backward.wgsl",
    concat!(source!("density/qubit.wgsl"), source!("density/qubit_backward.wgsl")),
    64,
    &[
        ("program", Read),
        ("theta", Read),
        ("inputs", Read),
        ("states", Read),
        ("grads", Read),
        ("work", ReadWrite),
        ("dx", ReadWrite),
        ("dinitial", ReadWrite),
    ],
    17,
    0,
);

/// Sums of the shared parameters' gradients.
pub(crate) static QUBIT_THETA: GpuKernel = GpuKernel { cuda: &QUBIT_THETA_CUDA, wgsl: &QUBIT_THETA_WGSL };
static QUBIT_THETA_CUDA: CudaKernel = cuda(
    "density_qubit_theta",
    "density/qubit_theta.cu",
    source!("density/qubit_theta.cu"),
    64,
    &["program", "work", "out"],
    6,
    0,
);
static QUBIT_THETA_WGSL: WgslKernel = wgsl(
    "density_qubit_theta",
    "density/qubit_theta.wgsl",
    source!("density/qubit_theta.wgsl"),
    64,
    &[("program", Read), ("work", Read), ("result", ReadWrite)],
    6,
    0,
);

pub(super) const CUDA: &[&CudaKernel] =
    &[&READ_CUDA, &OBSERVABLE_CUDA, &QUBIT_FORWARD_CUDA, &QUBIT_BACKWARD_CUDA, &QUBIT_THETA_CUDA];
pub(super) const WGSL: &[&WgslKernel] =
    &[&READ_WGSL, &OBSERVABLE_WGSL, &QUBIT_FORWARD_WGSL, &QUBIT_BACKWARD_WGSL, &QUBIT_THETA_WGSL];
