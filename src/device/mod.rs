//! Devices: memory, compilation and launch. Nothing here names an operation.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod probe;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod status;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

pub(crate) use cpu::CpuBuffer;
pub use probe::{Candidate, DeviceReport};
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub(crate) use status::{STATUS_WORDS, Status};

use crate::error::{Error, Result};
use crate::manifest::CudaKernel;
use crate::tensor::Tensor;
use std::fmt;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use std::sync::Arc;

/// A family of devices that run the same kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// The CPU: SIMD over all cores, always there.
    Cpu,
    /// WGSL through wgpu: Vulkan, Metal, DirectX 12, browsers.
    Wgpu,
    /// CUDA, sm_80 and up.
    Cuda,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Wgpu => "wgpu",
            Self::Cuda => "cuda",
        })
    }
}

/// Order in which the CUDA emulator runs blocks and threads. A correct kernel gives the same bits under each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Schedule {
    /// Ascending.
    InOrder,
    /// Descending.
    Reversed,
    /// Seeded pseudo-random.
    Random(u64),
}

/// Bytes that kernels moved between global memory and the device. Counted by the CUDA emulator, for tests.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes read.
    pub bytes_loaded: u64,
    /// Bytes written.
    pub bytes_stored: u64,
}

/// A device that tensors live on and operations run on. Cheap to clone; clones are the same device.
#[derive(Clone)]
pub struct Device(pub(crate) Kind);

#[derive(Clone)]
pub(crate) enum Kind {
    Cpu,
    #[cfg(feature = "wgpu")]
    Wgpu(Arc<wgpu::WgpuDevice>),
    #[cfg(feature = "cuda")]
    Cuda(Arc<cuda::CudaDevice>),
}

/// Owned device memory.
pub(crate) enum Buffer {
    Cpu(CpuBuffer),
    #[cfg(feature = "wgpu")]
    Wgpu(wgpu::WgpuBuffer),
    #[cfg(feature = "cuda")]
    Cuda(cuda::CudaBuffer),
}

impl Device {
    /// The CPU.
    pub fn cpu() -> Self {
        Self(Kind::Cpu)
    }

    /// The `index`-th wgpu adapter, in the order of [`Device::list`]; software adapters come last.
    ///
    /// # Errors
    /// [`Error::BackendUnavailable`] if there is no such adapter, no driver, or the crate was built without `wgpu`.
    pub fn wgpu(index: usize) -> Result<Self> {
        #[cfg(feature = "wgpu")]
        return Ok(Self(Kind::Wgpu(wgpu::WgpuDevice::shared(index)?)));
        #[cfg(not(feature = "wgpu"))]
        Err(not_built(Backend::Wgpu, index, "wgpu"))
    }

    /// The `index`-th CUDA device. Shares the primary context with PyTorch and candle.
    ///
    /// # Errors
    /// [`Error::BackendUnavailable`] if there is no such device, no driver, or the crate was built without `cuda`.
    pub fn cuda(index: usize) -> Result<Self> {
        #[cfg(feature = "cuda")]
        return Ok(Self(Kind::Cuda(cuda::CudaDevice::nvidia(index)?)));
        #[cfg(not(feature = "cuda"))]
        Err(not_built(Backend::Cuda, index, "cuda"))
    }

    /// The CUDA backend run on the CPU with fault detection, for tests: the same host code, the same `.cu` sources.
    ///
    /// # Errors
    /// [`Error::BackendUnavailable`] if the crate was built without the feature `emulator`.
    pub fn cuda_emulated(schedule: Schedule) -> Result<Self> {
        #[cfg(feature = "emulator")]
        return Ok(Self(Kind::Cuda(cuda::CudaDevice::emulated(schedule, false)?)));
        #[cfg(not(feature = "emulator"))]
        Err(not_built(Backend::Cuda, schedule, "emulator"))
    }

    /// The same of a device of compute capability 9.0, on which tensor loads and products by warpgroups are taken.
    ///
    /// # Errors
    /// As [`Device::cuda_emulated`].
    pub fn cuda_emulated_sm90(schedule: Schedule) -> Result<Self> {
        #[cfg(feature = "emulator")]
        return Ok(Self(Kind::Cuda(cuda::CudaDevice::emulated(schedule, true)?)));
        #[cfg(not(feature = "emulator"))]
        Err(not_built(Backend::Cuda, schedule, "emulator"))
    }

    /// Whether two handles name the same device, so that tensors of one can be used with the other.
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Kind::Cpu, Kind::Cpu) => true,
            #[cfg(feature = "wgpu")]
            (Kind::Wgpu(a), Kind::Wgpu(b)) => Arc::ptr_eq(a, b),
            #[cfg(feature = "cuda")]
            (Kind::Cuda(a), Kind::Cuda(b)) => Arc::ptr_eq(a, b),
            #[cfg(any(feature = "wgpu", feature = "cuda"))]
            _ => false,
        }
    }

    /// The device's backend.
    pub fn backend(&self) -> Backend {
        match &self.0 {
            Kind::Cpu => Backend::Cpu,
            #[cfg(feature = "wgpu")]
            Kind::Wgpu(_) => Backend::Wgpu,
            #[cfg(feature = "cuda")]
            Kind::Cuda(_) => Backend::Cuda,
        }
    }

    /// Name of the device and its driver, for reports.
    pub fn name(&self) -> String {
        match &self.0 {
            Kind::Cpu => format!("CPU, {} threads", rayon::current_num_threads()),
            #[cfg(feature = "wgpu")]
            Kind::Wgpu(device) => device.name(),
            #[cfg(feature = "cuda")]
            Kind::Cuda(device) => device.name(),
        }
    }

    /// Waits until all work submitted so far is done, and reports bad values that kernels met in device memory.
    ///
    /// # Errors
    /// [`Error::DeviceValue`], [`Error::Launch`] or [`Error::DeviceLost`] from work submitted earlier.
    pub fn synchronize(&self) -> Result<()> {
        match &self.0 {
            Kind::Cpu => Ok(()),
            #[cfg(feature = "wgpu")]
            Kind::Wgpu(device) => device.synchronize(),
            #[cfg(feature = "cuda")]
            Kind::Cuda(device) => device.synchronize(),
        }
    }

    /// What kernels have read and written in `tensor`'s memory since it was made or reset; `None` off the emulator.
    #[doc(hidden)]
    pub fn emulated_traffic(tensor: &Tensor) -> Option<Traffic> {
        match tensor.buffer() {
            #[cfg(feature = "cuda")]
            Buffer::Cuda(buffer) => buffer.traffic(),
            _ => None,
        }
    }

    /// Zeroes the counts of [`Device::emulated_traffic`].
    #[doc(hidden)]
    pub fn reset_emulated_traffic(tensor: &Tensor) {
        #[cfg(feature = "cuda")]
        if let Buffer::Cuda(buffer) = tensor.buffer() {
            buffer.reset_traffic();
        }
        #[cfg(not(feature = "cuda"))]
        let _ = tensor;
    }

    /// What the last kernel launched by this thread has read and written in all; `None` off the emulator.
    #[doc(hidden)]
    pub fn emulated_last_launch(&self) -> Option<Traffic> {
        match &self.0 {
            #[cfg(feature = "cuda")]
            Kind::Cuda(device) => device.last_launch(),
            _ => None,
        }
    }

    /// Starts a CUDA kernel that no operation owns, for tests of single primitives. Its arguments are the memory of each of
    /// `tensors`, null for an empty one, then `params`. Devices keep what they compile by `kernel.file` and `kernel.entry`,
    /// so each must name one text only.
    ///
    /// # Errors
    /// [`Error::Unsupported`] off CUDA; [`Error::Device`] for a tensor that lives elsewhere; [`Error::Launch`] if the call does
    /// not fit the row; [`Error::BackendUnavailable`] and [`Error::Compile`] from compiling it.
    ///
    /// # Safety
    /// With this grid and these parameters the kernel must touch no global memory but the tensors'.
    #[doc(hidden)]
    #[allow(unsafe_code)]
    pub unsafe fn launch_cuda(
        &self,
        kernel: &'static CudaKernel,
        grid: [u32; 3],
        tensors: &mut [Tensor],
        params: &[u8],
    ) -> Result<()> {
        const OP: &str = "Device::launch_cuda";
        if let Some(other) = tensors.iter().map(Tensor::device).find(|device| !device.is_same(self)) {
            let (expected, got) = (self.name(), other.name());
            return Err(Error::Device { op: OP, arg: "tensors", expected, got });
        }
        match &self.0 {
            #[cfg(feature = "cuda")]
            Kind::Cuda(device) => {
                let addresses = tensors.iter().map(|tensor| match tensor.buffer() {
                    Buffer::Cuda(buffer) => buffer.address(),
                    _ => 0, // not on this device, which was refused above
                });
                device.launch(kernel, grid, &addresses.collect::<Vec<_>>(), params)
            }
            _ => {
                let _ = (grid, params); // unused without the feature `cuda`
                let (what, limit, got) = ("a CUDA kernel", Backend::Cuda.to_string(), kernel.entry.into());
                Err(Error::Unsupported { op: OP, backend: self.backend(), what, limit, got })
            }
        }
    }

    /// Whether this device runs kernels for compute capability 9.0.
    #[doc(hidden)]
    pub fn has_asynchronous_units(&self) -> bool {
        match &self.0 {
            #[cfg(feature = "cuda")]
            Kind::Cuda(device) => device.has_asynchronous_units(),
            _ => false,
        }
    }

    /// The description of `tensor`'s memory, taken as 16-bit elements, for a kernel's asynchronous loads: elements by dimension
    /// from the innermost of four, bytes between elements of the outer three, rows of a tile of 64 columns.
    ///
    /// # Errors
    /// [`Error::Unsupported`] off CUDA; [`Error::Launch`] for what the driver refuses.
    #[doc(hidden)]
    pub fn tensor_map(
        &self,
        tensor: &Tensor,
        sizes: [u64; 4],
        strides: [u64; 3],
        rows: u32,
    ) -> Result<[u8; 128]> {
        match (&self.0, tensor.buffer()) {
            #[cfg(feature = "cuda")]
            (Kind::Cuda(device), Buffer::Cuda(buffer)) => {
                device.tensor_map(buffer.address(), &cuda::tensor_map::Tiled { sizes, strides, rows })
            }
            _ => {
                let _ = (sizes, strides, rows); // unused without the feature `cuda`
                let (what, limit) = ("a description of a tensor", Backend::Cuda.to_string());
                let got = self.backend().to_string();
                Err(Error::Unsupported {
                    op: "Device::tensor_map",
                    backend: self.backend(),
                    what,
                    limit,
                    got,
                })
            }
        }
    }

    /// Memory of `bytes` bytes. Zeroed on every backend, so that no call can leak another's data.
    pub(crate) fn allocate(&self, bytes: usize) -> Result<Buffer> {
        match &self.0 {
            Kind::Cpu => Ok(Buffer::Cpu(CpuBuffer::new(bytes)?)),
            #[cfg(feature = "wgpu")]
            Kind::Wgpu(device) => Ok(Buffer::Wgpu(device.allocate(bytes)?)),
            #[cfg(feature = "cuda")]
            Kind::Cuda(device) => Ok(Buffer::Cuda(device.allocate(bytes)?)),
        }
    }
}

#[cfg(not(all(feature = "cuda", feature = "wgpu", feature = "emulator")))]
fn not_built(backend: Backend, wanted: impl fmt::Debug, feature: &str) -> Error {
    let reason = format!("{wanted:?} was asked for, but gatewarp was built without the feature `{feature}`");
    Error::BackendUnavailable { backend, reason }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.backend(), self.name())
    }
}

impl Buffer {
    /// Copies `data` to byte `offset`. Both are multiples of 4 except at the end of the buffer.
    pub(crate) fn upload(&mut self, offset: usize, data: &[u8]) -> Result<()> {
        match self {
            Self::Cpu(buffer) => {
                buffer.bytes_mut()[offset..offset + data.len()].copy_from_slice(data);
                Ok(())
            }
            #[cfg(feature = "wgpu")]
            Self::Wgpu(buffer) => buffer.upload(offset, data),
            #[cfg(feature = "cuda")]
            Self::Cuda(buffer) => buffer.upload(offset, data),
        }
    }
}
