//! One launch of a kernel that exists as CUDA and WGSL twins, written once for both.
//!
//! The twins agree on the order of their arguments: the tensors, then the sizes (strides and counts that may pass 2³¹), then
//! plain words. A CUDA kernel takes addresses of first elements and a struct of its sizes as i64 and its words as u32; a shader
//! takes whole buffers and a struct of u32: the index of each tensor's first element, then sizes, then words.

#![cfg_attr(
    not(any(feature = "cuda", feature = "wgpu")),
    allow(dead_code, reason = "nothing is launched without a GPU")
)]

use crate::device::{Device, Kind};
use crate::error::{Error, Result};
use crate::manifest::Twin;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::tensor::Memory;
use crate::tensor::TensorRef;

/// What a tensor argument is.
#[derive(Clone, Copy)]
pub(crate) enum Operand<'a> {
    /// A view; an empty one is not bound.
    View(&'a TensorRef<'a>),
    /// An optional tensor that is not there.
    Absent,
    /// The device's status words. Shaders take no index for it.
    Status,
}

/// A launch.
pub(crate) struct Call<'a> {
    /// Public name of the operation, for errors.
    pub(crate) op: &'static str,
    pub(crate) kernel: &'static Twin,
    pub(crate) operands: &'a [Operand<'a>],
    pub(crate) sizes: &'a [usize],
    pub(crate) words: &'a [u32],
}

/// Blocks a multiprocessor gets in a persistent grid.
#[cfg(feature = "cuda")]
const BLOCKS_PER_MULTIPROCESSOR: u64 = 8;

impl Call<'_> {
    /// Launches a persistent grid: a block for every `work`, up to what fills the device. No work is no launch.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an index that a shader's u32 cannot hold; otherwise those of the device's launch.
    pub(crate) fn run(&self, device: &Device, work: usize) -> Result<()> {
        #[cfg(not(any(feature = "cuda", feature = "wgpu")))]
        let _ = work;
        match &device.0 {
            // Operations branch to their CPU path before they come here.
            Kind::Cpu => Err(self.elsewhere("a GPU", device.name())),
            #[cfg(feature = "wgpu")]
            Kind::Wgpu(wgpu) => {
                let mut buffers = Vec::with_capacity(self.operands.len());
                let mut params =
                    Vec::with_capacity(self.operands.len() + self.sizes.len() + self.words.len());
                for operand in self.operands {
                    let (buffer, offset) = match operand {
                        Operand::Status => (Some(wgpu.status()), None),
                        Operand::View(view) if !view.layout().is_empty() => {
                            let Memory::Wgpu(buffer) = view.memory() else {
                                return Err(self.elsewhere("wgpu", format!("{view:?}")));
                            };
                            // Shaders count words: the view's last word must have a 32-bit index.
                            self.index(view.layout().end().saturating_mul(view.dtype().size().div_ceil(4)))?;
                            (Some(buffer), Some(self.index(view.layout().offset())?))
                        }
                        _ => (None, Some(0)),
                    };
                    buffers.push(buffer);
                    params.extend(offset);
                }
                for &size in self.sizes {
                    params.push(self.index(size)?);
                }
                params.extend_from_slice(self.words);
                let workgroups = work.min(wgpu.persistent_workgroups() as usize) as u32;
                wgpu.launch(&self.kernel.wgsl, &buffers, bytemuck::cast_slice(&params), [workgroups, 1, 1])
            }
            #[cfg(feature = "cuda")]
            Kind::Cuda(cuda) => {
                let mut pointers = Vec::with_capacity(self.operands.len());
                for operand in self.operands {
                    pointers.push(match operand {
                        Operand::Status => cuda.status(),
                        Operand::View(view) if !view.layout().is_empty() => {
                            let Memory::Cuda { address, .. } = view.memory() else {
                                return Err(self.elsewhere("cuda", format!("{view:?}")));
                            };
                            address + (view.layout().offset() * view.dtype().size()) as u64
                        }
                        _ => 0,
                    });
                }
                let mut params: Vec<u8> = Vec::with_capacity(8 * self.sizes.len() + 4 * self.words.len() + 4);
                self.sizes.iter().for_each(|&size| params.extend((size as i64).to_ne_bytes()));
                self.words.iter().for_each(|word| params.extend(word.to_ne_bytes()));
                if !self.sizes.is_empty() {
                    params.resize(params.len().next_multiple_of(8), 0);
                }
                let most = u64::from(cuda.multiprocessors()) * BLOCKS_PER_MULTIPROCESSOR;
                match (work as u64).min(most.max(1)) as u32 {
                    0 => Ok(()),
                    blocks => cuda.launch(&self.kernel.cuda, [blocks, 1, 1], &pointers, &params),
                }
            }
        }
    }

    /// Validation has compared the devices; this is the error if it ever had not.
    fn elsewhere(&self, expected: &str, got: String) -> Error {
        Error::Device { op: self.op, arg: "memory", expected: expected.into(), got }
    }

    #[cfg(feature = "wgpu")]
    fn index(&self, value: usize) -> Result<u32> {
        u32::try_from(value).map_err(|_| Error::Unsupported {
            op: self.op,
            backend: crate::device::Backend::Wgpu,
            what: "elements of a tensor",
            limit: u32::MAX.to_string(),
            got: value.to_string(),
        })
    }
}
