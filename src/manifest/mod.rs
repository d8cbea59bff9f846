//! One row per kernel: what it is called, where its text is, and what a launch must bring.
//!
//! The launch paths check every call against its row; tests reflect every shader and kernel against its row; `cargo xtask`
//! compiles the rows. Rows are data and are there whatever features are on.

pub(crate) mod attention;
pub(crate) mod device;
pub(crate) mod random;
pub(crate) mod readout;
pub(crate) mod statevec;
pub(crate) mod task_heads;

/// A CUDA kernel entry. Arguments are device pointers followed by one plain-data parameter struct, by value.
#[derive(Debug)]
pub struct CudaKernel {
    /// `extern "C"` name.
    pub entry: &'static str,
    /// Path below `kernels/`.
    pub file: &'static str,
    /// Text of the file.
    pub source: &'static str,
    /// Threads per block, one dimension.
    pub block: u32,
    /// Pointer arguments by name, in order.
    pub pointers: &'static [&'static str],
    /// Size in bytes of the parameter struct after the pointers.
    pub params: usize,
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
}

/// A WGSL entry point. Binding 0..n-1 of group 0 are storage buffers in order; binding n is the uniform parameter struct.
#[derive(Debug)]
pub struct WgslKernel {
    /// Unique name of this row: the file's operation and variant.
    pub entry: &'static str,
    /// Path below `kernels/`.
    pub file: &'static str,
    /// Text of the file, before the prelude and constants are put in front.
    pub source: &'static str,
    /// `const NAME: u32 = VALUE;` lines that make this variant.
    pub constants: &'static [(&'static str, u32)],
    /// Invocations per workgroup.
    pub workgroup: [u32; 3],
    /// Storage buffers by name, in order.
    pub bindings: &'static [(&'static str, Access)],
    /// Size in bytes of the uniform parameter struct.
    pub params: usize,
    /// Workgroup memory in bytes.
    pub workgroup_bytes: u32,
    /// Whether the text uses subgroup operations (Tint wants `enable subgroups;`).
    pub uses_subgroups: bool,
}

/// A kernel in both languages, for [`crate::launch`].
#[derive(Debug)]
pub(crate) struct GpuKernel {
    pub(crate) cuda: &'static CudaKernel,
    pub(crate) wgsl: &'static WgslKernel,
}

/// How a shader uses a storage buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    ReadWrite,
}

/// Name of every shader's entry point; rows are told apart by [`WgslKernel::entry`].
pub const WGSL_ENTRY_POINT: &str = "main";

/// The language of the CUDA sources: every hardware primitive beside its emulated twin.
pub const DEVICE_CUH: &str = include_str!("../../kernels/device.cuh");

/// What a CUDA source may include, by the name it includes it by, with the text.
pub const CUDA_HEADERS: &[(&str, &str)] = &[
    ("device.cuh", DEVICE_CUH),
    ("attention/tile.cuh", include_str!("../../kernels/attention/tile.cuh")),
    ("random/philox.cuh", include_str!("../../kernels/random/philox.cuh")),
    ("statevec/mass.cuh", include_str!("../../kernels/statevec/mass.cuh")),
];

/// The helpers put in front of every shader.
pub const PRELUDE_WGSL: &str = include_str!("../../kernels/prelude.wgsl");

impl CudaKernel {
    /// A number that changes with the text that is compiled. Compiled forms carry it, so that none outlives its source:
    /// PTX made beforehand starts with the line `// gatewarp` and this in 16 hexadecimal digits.
    pub fn fingerprint(&self) -> u64 {
        let texts = || [self.source].into_iter().chain(CUDA_HEADERS.iter().map(|&(_, text)| text));
        let lengths = texts().flat_map(|text| (text.len() as u64).to_le_bytes());
        fnv1a(lengths.chain(texts().flat_map(str::bytes)))
    }
}

/// FNV-1a: stable between runs and builds, which the standard hasher is not.
pub(crate) fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let mix = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

impl WgslKernel {
    /// The complete shader text: constants, prelude, source.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(self.source.len() + PRELUDE_WGSL.len() + 256);
        for (name, value) in self.constants {
            text.push_str(&format!("const {name}: u32 = {value}u;\n"));
        }
        text.push_str(PRELUDE_WGSL);
        text.push_str(self.source);
        text
    }
}

/// Every CUDA kernel.
pub fn cuda() -> impl Iterator<Item = &'static CudaKernel> {
    [random::CUDA, attention::CUDA, task_heads::CUDA, statevec::CUDA, readout::CUDA]
        .into_iter()
        .flatten()
        .copied()
}

/// Every WGSL kernel.
pub fn wgsl() -> impl Iterator<Item = &'static WgslKernel> {
    [device::WGSL, random::WGSL, attention::WGSL, task_heads::WGSL, statevec::WGSL, readout::WGSL]
        .into_iter()
        .flatten()
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv1a_is_the_published_one() {
        assert_eq!(fnv1a(*b"a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn a_fingerprint_follows_the_source() {
        let row = |source| CudaKernel {
            entry: "x",
            file: "x.cu",
            source,
            block: 32,
            pointers: &[],
            params: 0,
            shared_bytes: 0,
        };
        assert_eq!(row("a").fingerprint(), row("a").fingerprint());
        assert_ne!(row("a").fingerprint(), row("b").fingerprint());
    }
}
