//! A driver double that counts calls, for tests of what a graph capture forbids: allocating and waiting.

use super::emulator::EmulatorDriver;
use super::tensor_map::{TENSOR_MAP, Tiled};
use super::{CudaDevice, Driver};
use crate::device::{Schedule, Traffic};
use crate::error::Result;
use crate::manifest::CudaKernel;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls since the device was made or [`Counts::take`].
#[derive(Debug, Default)]
pub(crate) struct Counts {
    memory: AtomicUsize,
    transfers: AtomicUsize,
    waits: AtomicUsize,
    launches: AtomicUsize,
}

/// What was counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Allocations and frees.
    pub(crate) memory: usize,
    /// Copies from the host, and fills.
    pub(crate) transfers: usize,
    /// Copies to the host, and waits.
    pub(crate) waits: usize,
    pub(crate) launches: usize,
}

impl Counts {
    fn count(counter: &AtomicUsize) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts, which start again from 0.
    pub(crate) fn take(&self) -> Counted {
        let take = |counter: &AtomicUsize| counter.swap(0, Ordering::Relaxed);
        Counted {
            memory: take(&self.memory),
            transfers: take(&self.transfers),
            waits: take(&self.waits),
            launches: take(&self.launches),
        }
    }
}

/// The emulator, with its calls counted.
struct CountingDriver {
    inner: EmulatorDriver,
    counts: Arc<Counts>,
}

impl CudaDevice {
    /// An emulated device of its own, and the counts of its driver's calls.
    pub(crate) fn counted(schedule: Schedule) -> Result<(Arc<Self>, Arc<Counts>)> {
        let counts = Arc::new(Counts::default());
        let driver =
            CountingDriver { inner: EmulatorDriver::new(schedule, false), counts: Arc::clone(&counts) };
        Ok((Self::new(Arc::new(driver))?, counts))
    }
}

impl Driver for CountingDriver {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn multiprocessors(&self) -> u32 {
        self.inner.multiprocessors()
    }

    fn shared_limit(&self) -> u32 {
        self.inner.shared_limit()
    }

    fn has_asynchronous_units(&self) -> bool {
        self.inner.has_asynchronous_units()
    }

    fn tensor_map(&self, address: u64, tiled: &Tiled) -> Result<[u8; TENSOR_MAP]> {
        self.inner.tensor_map(address, tiled)
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        Counts::count(&self.counts.memory);
        self.inner.allocate(bytes)
    }

    fn free(&self, address: u64) {
        Counts::count(&self.counts.memory);
        self.inner.free(address);
    }

    fn copy_in(&self, address: u64, data: &[u8]) -> Result<()> {
        Counts::count(&self.counts.transfers);
        self.inner.copy_in(address, data)
    }

    fn copy_out(&self, address: u64, out: &mut [u8]) -> Result<()> {
        Counts::count(&self.counts.waits);
        self.inner.copy_out(address, out)
    }

    fn fill(&self, address: u64, bytes: usize, value: u8) -> Result<()> {
        Counts::count(&self.counts.transfers);
        self.inner.fill(address, bytes, value)
    }

    fn synchronize(&self) -> Result<()> {
        Counts::count(&self.counts.waits);
        self.inner.synchronize()
    }

    unsafe fn launch(
        &self,
        kernel: &'static CudaKernel,
        grid: [u32; 3],
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        Counts::count(&self.counts.launches);
        // SAFETY: the caller's promise is the one that the emulator asks for.
        unsafe { self.inner.launch(kernel, grid, arguments) }
    }

    fn traffic(&self, address: u64) -> Option<Traffic> {
        self.inner.traffic(address)
    }

    fn reset_traffic(&self, address: u64) {
        self.inner.reset_traffic(address);
    }

    fn last_launch(&self) -> Option<Traffic> {
        self.inner.last_launch()
    }
}
