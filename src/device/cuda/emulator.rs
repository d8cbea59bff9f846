//! The emulator as a driver: the same kernels on the CPU, with fault detection and counted memory traffic.
#![allow(unsafe_code)]

use super::tensor_map::{TENSOR_MAP, Tiled};
use super::{Driver, lock};
use crate::device::{Schedule, Traffic};
use crate::error::{Error, Result};
use crate::manifest::CudaKernel;
use gatewarp_emulator as emulated;
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::{Mutex, OnceLock};

/// Shared memory of a block on sm_86, sm_89 and sm_120, the least of all we target: a kernel that needs more must not pass
/// here.
const SHARED_LIMIT: u32 = 99 << 10;
/// The same on sm_90.
const SHARED_LIMIT_SM90: u32 = 227 << 10;

/// Multiprocessors reported: few, so that persistent grids loop even at test sizes.
const MULTIPROCESSORS: u32 = 3;

thread_local! {
    /// Launches run to their end on the calling thread, so the count of the last one is the thread's own.
    static LAST_LAUNCH: Cell<Option<Traffic>> = const { Cell::new(None) };
}

/// The emulator under one schedule.
pub(super) struct EmulatorDriver {
    schedule: Schedule,
    /// Stands for a device of compute capability 9.0.
    is_sm90: bool,
    threads: usize,
    /// A failure where it could not be returned.
    deferred: Mutex<Option<Error>>,
}

impl EmulatorDriver {
    pub(super) fn new(schedule: Schedule, is_sm90: bool) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { schedule, is_sm90, threads, deferred: Mutex::default() }
    }
}

/// Kernels the emulator was built with. Their list never changes.
fn kernels() -> &'static [emulated::KernelInfo] {
    static KERNELS: OnceLock<Vec<emulated::KernelInfo>> = OnceLock::new();
    KERNELS.get_or_init(emulated::kernels)
}

/// What the compiled kernel and its row disagree about.
fn mismatch(kernel: &CudaKernel) -> Option<String> {
    let Some(built) = kernels().iter().find(|built| built.entry == kernel.entry) else {
        return Some("is not among the emulator's kernels (no GW_EXPORT?)".into());
    };
    let mut sizes = vec![size_of::<u64>(); kernel.pointers.len()];
    sizes.extend((kernel.params > 0).then_some(kernel.params));
    let differs = built.argument_sizes != sizes;
    differs.then(|| format!("has arguments of {:?} bytes, its row says {sizes:?}", built.argument_sizes))
}

/// The host named memory that is not the emulator's: a bug of ours, reported like a refused launch.
fn memory_error(error: emulated::MemoryError) -> Error {
    Error::Launch { kernel: "memory access by the host".into(), code: error.to_string() }
}

fn traffic(counters: emulated::Counters) -> Traffic {
    Traffic { bytes_loaded: counters.bytes_loaded, bytes_stored: counters.bytes_stored }
}

impl Driver for EmulatorDriver {
    fn name(&self) -> String {
        let what = if self.is_sm90 { " of sm_90" } else { "" };
        format!("CUDA emulator{what}, schedule {:?}, {} threads", self.schedule, self.threads)
    }

    fn multiprocessors(&self) -> u32 {
        MULTIPROCESSORS
    }

    fn shared_limit(&self) -> u32 {
        if self.is_sm90 { SHARED_LIMIT_SM90 } else { SHARED_LIMIT }
    }

    fn has_asynchronous_units(&self) -> bool {
        self.is_sm90
    }

    fn tensor_map(&self, address: u64, tiled: &Tiled) -> Result<[u8; TENSOR_MAP]> {
        emulated::TensorMap::new(address, tiled.sizes, tiled.strides, tiled.rows)
            .map(|map| map.bytes())
            .map_err(|code| Error::Launch { kernel: "a description of a tensor".into(), code })
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        emulated::allocate(bytes).ok_or(Error::OutOfMemory { requested: bytes as u64, available: 0 })
    }

    fn free(&self, address: u64) {
        if let Err(error) = emulated::free(address) {
            lock(&self.deferred).get_or_insert(memory_error(error));
        }
    }

    fn copy_in(&self, address: u64, data: &[u8]) -> Result<()> {
        emulated::copy_in(address, data).map_err(memory_error)
    }

    fn copy_out(&self, address: u64, out: &mut [u8]) -> Result<()> {
        emulated::copy_out(address, out).map_err(memory_error)
    }

    fn fill(&self, address: u64, bytes: usize, value: u8) -> Result<()> {
        emulated::fill(address, value, bytes).map_err(memory_error)
    }

    fn synchronize(&self) -> Result<()> {
        lock(&self.deferred).take().map_or(Ok(()), Err)
    }

    unsafe fn launch(
        &self,
        kernel: &'static CudaKernel,
        grid: [u32; 3],
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        if let Some(code) = mismatch(kernel) {
            return Err(Error::Launch { kernel: kernel.entry.into(), code });
        }
        let schedule = match self.schedule {
            Schedule::InOrder => emulated::Schedule::InOrder,
            Schedule::Reversed => emulated::Schedule::Reversed,
            Schedule::Random(seed) => emulated::Schedule::Random(seed),
        };
        let arguments: Vec<*const c_void> = arguments.iter().map(|argument| argument.cast_const()).collect();
        let (block, shared) = ([kernel.block, 1, 1], kernel.shared_bytes as usize);
        // SAFETY: the sizes of the arguments were compared with the kernel's above, the rest is the caller's promise.
        let counters = unsafe {
            emulated::launch(kernel.entry, grid, block, shared, &arguments, schedule, self.threads)
        }
        .map_err(|fault| Error::Launch {
            kernel: kernel.entry.into(),
            code: format!("block {:?} thread {:?}: {}", fault.block, fault.thread, fault.message),
        })?;
        LAST_LAUNCH.set(Some(traffic(counters)));
        Ok(())
    }

    fn traffic(&self, address: u64) -> Option<Traffic> {
        (address != 0).then(|| traffic(emulated::traffic(address)))
    }

    fn reset_traffic(&self, address: u64) {
        if let Err(error) = emulated::reset_traffic(address) {
            lock(&self.deferred).get_or_insert(memory_error(error));
        }
    }

    fn last_launch(&self) -> Option<Traffic> {
        LAST_LAUNCH.get()
    }
}
