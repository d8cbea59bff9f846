//! One row per kernel: what it is called, where its text is, and what a launch must bring.
//!
//! The launch paths check every call against its row; tests reflect every shader and kernel against its row; `cargo xtask`
//! compiles the rows. Rows are data and are there whatever features are on.

mod attention;
pub(crate) mod device;
mod statevec;
mod task_heads;

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

/// The header every CUDA source includes as `"../device.cuh"`.
pub const DEVICE_CUH: &str = include_str!("../../kernels/device.cuh");

/// The helpers put in front of every shader.
pub const PRELUDE_WGSL: &str = include_str!("../../kernels/prelude.wgsl");

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
    [attention::CUDA, task_heads::CUDA, statevec::CUDA].into_iter().flatten().copied()
}

/// Every WGSL kernel.
pub fn wgsl() -> impl Iterator<Item = &'static WgslKernel> {
    [device::WGSL, attention::WGSL, task_heads::WGSL, statevec::WGSL].into_iter().flatten().copied()
}
