//! One row per kernel: what it is called, where its text is, and what a launch must bring.
//!
//! The launch paths check every call against its row; tests reflect every shader and kernel against its row; `cargo xtask`
//! compiles the rows. Rows are data and are there whatever features are on.

pub(crate) mod attention;
pub(crate) mod density;
pub(crate) mod device;
pub(crate) mod multitask;
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

/// A kernel and its shader, which take the same arguments in the same order.
#[derive(Debug)]
pub(crate) struct Twin {
    pub(crate) cuda: CudaKernel,
    pub(crate) wgsl: WgslKernel,
}

/// What a pair of twins is, for [`Twin::new`].
pub(crate) struct TwinRow {
    /// Name of both.
    pub(crate) entry: &'static str,
    /// `.cu` path below `kernels/`, and text.
    pub(crate) cuda: (&'static str, &'static str),
    /// `.wgsl` path below `kernels/`, and text.
    pub(crate) wgsl: (&'static str, &'static str),
    /// Threads of a block, invocations of a workgroup.
    pub(crate) block: u32,
    /// Names of the CUDA kernel's pointers.
    pub(crate) pointers: &'static [&'static str],
    /// Names and use of the shader's buffers, in the same order.
    pub(crate) bindings: &'static [(&'static str, Access)],
    /// Sizes, and words after them.
    pub(crate) params: (usize, usize),
    /// Dynamic shared memory of a block, workgroup memory, in bytes.
    pub(crate) shared: (u32, u32),
}

impl Twin {
    /// The two rows. Parameter structs as [`crate::call`] packs them.
    pub(crate) const fn new(row: &TwinRow) -> Self {
        let (sizes, words) = row.params;
        let mut indices = row.bindings.len();
        let mut at = 0;
        while at < row.bindings.len() {
            // The status words are the only buffer without an index.
            if is_status(row.bindings[at].0) {
                indices -= 1;
            }
            at += 1;
        }
        let cuda_words = if sizes > 0 { words.next_multiple_of(2) } else { words };
        Self {
            cuda: CudaKernel {
                entry: row.entry,
                file: row.cuda.0,
                source: row.cuda.1,
                block: row.block,
                pointers: row.pointers,
                params: 8 * sizes + 4 * cuda_words,
                shared_bytes: row.shared.0,
            },
            wgsl: WgslKernel {
                entry: row.entry,
                file: row.wgsl.0,
                source: row.wgsl.1,
                constants: &[],
                workgroup: [row.block, 1, 1],
                bindings: row.bindings,
                params: 4 * (indices + sizes + words),
                workgroup_bytes: row.shared.1,
                uses_subgroups: false,
            },
        }
    }
}

const fn is_status(name: &str) -> bool {
    let (name, status) = (name.as_bytes(), b"status");
    let mut same = name.len() == status.len();
    let mut at = 0;
    while same && at < status.len() {
        same = name[at] == status[at];
        at += 1;
    }
    same
}

/// A kernel in both languages, for [`crate::launch`].
#[derive(Debug)]
#[cfg_attr(not(all(feature = "wgpu", feature = "cuda")), allow(dead_code))]
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
    ("attention/call.cuh", include_str!("../../kernels/attention/call.cuh")),
    ("attention/compare.cuh", include_str!("../../kernels/attention/compare.cuh")),
    ("attention/differentiate.cuh", include_str!("../../kernels/attention/differentiate.cuh")),
    ("attention/tile.cuh", include_str!("../../kernels/attention/tile.cuh")),
    ("statevec/norm.cuh", include_str!("../../kernels/statevec/norm.cuh")),
    ("statevec/registers.cuh", include_str!("../../kernels/statevec/registers.cuh")),
    ("multitask/common.cuh", include_str!("../../kernels/multitask/common.cuh")),
    ("task_heads/rows.cuh", include_str!("../../kernels/task_heads/rows.cuh")),
    ("task_heads/project.cuh", include_str!("../../kernels/task_heads/project.cuh")),
    ("density/qubit.cuh", include_str!("../../kernels/density/qubit.cuh")),
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
    [
        random::CUDA,
        attention::CUDA,
        attention::GENERAL_CUDA,
        task_heads::CUDA,
        multitask::CUDA,
        statevec::CUDA,
        readout::CUDA,
        density::CUDA,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// Every WGSL kernel.
pub fn wgsl() -> impl Iterator<Item = &'static WgslKernel> {
    [
        device::WGSL,
        random::WGSL,
        attention::WGSL,
        task_heads::WGSL,
        multitask::WGSL,
        statevec::WGSL,
        readout::WGSL,
        density::WGSL,
    ]
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
