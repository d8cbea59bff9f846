//! One small kernel on whichever GPU a call is on: arguments are packed alike for both languages.
//!
//! The parameter struct is `u32` words, first the element offset of each operand but the status words (shaders index from
//! there; CUDA's pointers include the offset already), then the kernel's own. Every such kernel strides over its work, so any
//! number of blocks is right.

use crate::device::{Device, Kind};
use crate::error::{Error, Result};
use crate::manifest::GpuKernel;
use crate::tensor::{Memory, TensorRef};

/// What a pointer or binding of a kernel gets.
#[derive(Clone, Copy)]
pub(crate) enum Operand<'a> {
    Tensor(&'a TensorRef<'a>),
    /// Null, or a few bytes that are not read.
    Absent,
    /// The device's status words.
    Status,
}

/// Blocks that fill a multiprocessor, with some to spare.
#[cfg(feature = "cuda")]
const BLOCKS_PER_MULTIPROCESSOR: u64 = 8;

/// A 64-bit number as two parameter words, low word first.
pub(crate) fn wide(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// Starts a kernel on at most `blocks` blocks, as many as there is work for.
pub(crate) fn launch(
    device: &Device,
    op: &'static str,
    kernel: &GpuKernel,
    operands: &[Operand<'_>],
    params: &[u32],
    blocks: u64,
) -> Result<()> {
    if blocks == 0 {
        return Ok(());
    }
    match &device.0 {
        Kind::Cpu => Err(elsewhere(op, device)),
        #[cfg(feature = "wgpu")]
        Kind::Wgpu(gpu) => {
            let (mut words, mut buffers) = (Vec::new(), Vec::new());
            for operand in operands {
                match operand {
                    Operand::Status => buffers.push(Some(gpu.status())),
                    Operand::Absent => {
                        words.push(0);
                        buffers.push(None);
                    }
                    Operand::Tensor(view) if view.layout().is_empty() => {
                        words.push(0);
                        buffers.push(None);
                    }
                    Operand::Tensor(view) => {
                        let Memory::Wgpu(buffer) = view.memory() else { return Err(elsewhere(op, device)) };
                        // Shaders count words: the view's last word must have a 32-bit index.
                        let end = view.layout().end() as u64 * (view.dtype().size() as u64).div_ceil(4);
                        if end > u64::from(u32::MAX) {
                            return Err(Error::Unsupported {
                                op,
                                backend: crate::Backend::Wgpu,
                                what: "words of a tensor",
                                limit: u32::MAX.to_string(),
                                got: end.to_string(),
                            });
                        }
                        words.push(view.layout().offset() as u32);
                        buffers.push(Some(buffer));
                    }
                }
            }
            words.extend_from_slice(params);
            let workgroups = blocks.min(gpu.persistent_workgroups().into()) as u32;
            gpu.launch(kernel.wgsl, &buffers, bytemuck::cast_slice(&words), [workgroups, 1, 1])
        }
        #[cfg(feature = "cuda")]
        Kind::Cuda(gpu) => {
            let (mut words, mut pointers) = (Vec::new(), Vec::new());
            for operand in operands {
                match operand {
                    Operand::Status => pointers.push(gpu.status()),
                    Operand::Absent => {
                        words.push(0);
                        pointers.push(0);
                    }
                    Operand::Tensor(view) => {
                        words.push(0);
                        pointers.push(match view.memory() {
                            _ if view.layout().is_empty() => 0,
                            Memory::Cuda { address, .. } => {
                                address + (view.layout().offset() * view.dtype().size()) as u64
                            }
                            _ => return Err(elsewhere(op, device)),
                        });
                    }
                }
            }
            words.extend_from_slice(params);
            let most = u64::from(gpu.multiprocessors()).max(1) * BLOCKS_PER_MULTIPROCESSOR;
            let grid = [blocks.min(most) as u32, 1, 1];
            gpu.launch(kernel.cuda, grid, &pointers, bytemuck::cast_slice(&words))
        }
    }
}

/// Validation has compared the devices; this is the error if it had not.
fn elsewhere(op: &'static str, device: &Device) -> Error {
    Error::Device { op, arg: "memory", expected: device.name(), got: "another device".into() }
}
