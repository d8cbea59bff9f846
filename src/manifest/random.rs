//! Kernels of `random`.

use super::Access::{Read, ReadWrite};
use super::{CudaKernel, GpuKernel, WgslKernel};

/// Words of a stream.
pub(crate) static WORDS: GpuKernel = GpuKernel { cuda: &WORDS_CUDA, wgsl: &WORDS_WGSL };

static WORDS_CUDA: CudaKernel = CudaKernel {
    entry: "random_words",
    file: "random/words.cu",
    source: include_str!("../../kernels/random/words.cu"),
    block: 256,
    pointers: &["stream", "words"],
    params: 20,
    shared_bytes: 0,
};

static WORDS_WGSL: WgslKernel = WgslKernel {
    entry: "random_words",
    file: "random/words.wgsl",
    source: concat!(
        include_str!("../../kernels/random/philox.wgsl"),
        include_str!("../../kernels/random/words.wgsl")
    ),
    constants: &[],
    workgroup: [256, 1, 1],
    bindings: &[("source", Read), ("words", ReadWrite)],
    params: 20,
    workgroup_bytes: 0,
    uses_subgroups: false,
};

pub(super) const CUDA: &[&CudaKernel] = &[&WORDS_CUDA];
pub(super) const WGSL: &[&WgslKernel] = &[&WORDS_WGSL];
