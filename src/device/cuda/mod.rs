//! CUDA: one device type and one launch path over two drivers, NVIDIA's and the emulator.
//!
//! Everything above [`Driver`] (argument checks, packing, status words) is the same code for both.
#![allow(unsafe_code)]

mod compile;
#[cfg(all(test, feature = "emulator"))]
pub(crate) mod counting;
mod driver;
#[cfg(feature = "emulator")]
mod emulator;
pub(crate) mod tensor_map;

use super::{STATUS_WORDS, Status, Traffic};
#[cfg(feature = "emulator")]
use crate::device::Schedule;
use crate::error::{Error, Result};
use crate::manifest::CudaKernel;
use std::collections::HashMap;
use std::ffi::c_void;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tensor_map::{TENSOR_MAP, Tiled};

/// Largest grid in x (2³¹ − 1) and in y, z; the same on every NVIDIA device since sm_30.
const GRID_LIMIT: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];
/// Most threads in a block.
const BLOCK_LIMIT: u32 = 1024;

/// What a CUDA driver offers. Calls are ordered as if on one stream; only `copy_out` and `synchronize` wait.
trait Driver: Send + Sync {
    /// Device and driver, for reports.
    fn name(&self) -> String;
    /// Streaming multiprocessors.
    fn multiprocessors(&self) -> u32;
    /// Largest dynamic shared memory of a block, in bytes.
    fn shared_limit(&self) -> u32;
    /// Whether it runs the kernels for compute capability 9.0: loads of whole tiles, products by warpgroups.
    fn has_asynchronous_units(&self) -> bool;
    /// The description of a tensor for such a load. Waits for nothing and allocates nothing on the device.
    fn tensor_map(&self, address: u64, tiled: &Tiled) -> Result<[u8; TENSOR_MAP]>;
    /// `bytes > 0` bytes of device memory, contents unspecified, aligned to at least 256.
    fn allocate(&self, bytes: usize) -> Result<u64>;
    /// Releases what `allocate` returned. A failure is reported by the next `synchronize`.
    fn free(&self, address: u64);
    /// Copies to device memory; `data` may be reused on return.
    fn copy_in(&self, address: u64, data: &[u8]) -> Result<()>;
    /// Waits for all earlier work, then copies to the host.
    fn copy_out(&self, address: u64, out: &mut [u8]) -> Result<()>;
    /// Sets every byte of a range.
    fn fill(&self, address: u64, bytes: usize, value: u8) -> Result<()>;
    /// Waits for all earlier work.
    fn synchronize(&self) -> Result<()>;
    /// Starts a kernel. [`CudaDevice::launch`] is the only caller and has checked every number against the row.
    ///
    /// # Safety
    /// `arguments` point to the values of the kernel's arguments, in order and aligned; device pointers among them are
    /// valid for what the kernel does with them.
    unsafe fn launch(
        &self,
        kernel: &'static CudaKernel,
        grid: [u32; 3],
        arguments: &mut [*mut c_void],
    ) -> Result<()>;
    /// Bytes that kernels have moved to and from one allocation since it was made or reset, where this is counted.
    fn traffic(&self, _address: u64) -> Option<Traffic> {
        None
    }
    /// Zeroes the count of [`Driver::traffic`].
    fn reset_traffic(&self, _address: u64) {}
    /// Bytes moved by the last launch of the calling thread, where this is counted.
    fn last_launch(&self) -> Option<Traffic> {
        None
    }
}

/// The name of each NVIDIA device, or why it cannot be used; or why there are none.
pub(crate) fn devices() -> std::result::Result<Vec<std::result::Result<String, String>>, String> {
    driver::device_names()
}

/// A CUDA device: its driver and the status words its kernels report to.
pub(crate) struct CudaDevice {
    driver: Arc<dyn Driver>,
    status: CudaBuffer,
    /// Held while a launch is queued, and while the status words are read and cleared.
    status_order: Mutex<()>,
}

/// Devices by what tells them apart.
type Devices<K> = Mutex<Option<HashMap<K, Arc<CudaDevice>>>>;

/// Owned CUDA memory, freed on drop in stream order.
pub(crate) struct CudaBuffer {
    driver: Arc<dyn Driver>,
    address: u64,
    bytes: usize,
}

impl CudaBuffer {
    /// Zeroed memory.
    fn new(driver: &Arc<dyn Driver>, bytes: usize) -> Result<Self> {
        // No driver allocates zero bytes, and nothing is ever read or written there.
        let address = if bytes == 0 { 0 } else { driver.allocate(bytes)? };
        let buffer = Self { driver: Arc::clone(driver), address, bytes };
        if bytes > 0 {
            driver.fill(address, bytes, 0)?;
        }
        Ok(buffer)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn upload(&self, offset: usize, data: &[u8]) -> Result<()> {
        if offset.checked_add(data.len()).is_none_or(|end| end > self.bytes) {
            let reason = format!("writes {} bytes at {offset} of {}", data.len(), self.bytes);
            return Err(Error::argument("upload", "data", reason));
        }
        if data.is_empty() {
            return Ok(());
        }
        self.driver.copy_in(self.address + offset as u64, data)
    }

    /// Kernel traffic of this allocation, on the emulator.
    pub(crate) fn traffic(&self) -> Option<Traffic> {
        self.driver.traffic(self.address)
    }

    pub(crate) fn reset_traffic(&self) {
        self.driver.reset_traffic(self.address);
    }
}

impl Drop for CudaBuffer {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.driver.free(self.address);
        }
    }
}

impl CudaDevice {
    fn new(driver: Arc<dyn Driver>) -> Result<Arc<Self>> {
        let status = CudaBuffer::new(&driver, STATUS_WORDS * size_of::<u32>())?;
        Ok(Arc::new(Self { driver, status, status_order: Mutex::new(()) }))
    }

    /// The `index`-th NVIDIA device; every call returns the same one.
    pub(crate) fn nvidia(index: usize) -> Result<Arc<Self>> {
        static DEVICES: Devices<usize> = Mutex::new(None);
        shared(&DEVICES, index, || Self::new(Arc::new(driver::NvidiaDriver::new(index)?)))
    }

    /// The emulator under a schedule, of a device with or without what came with compute capability 9.0; every call returns the
    /// same one.
    #[cfg(feature = "emulator")]
    pub(crate) fn emulated(schedule: Schedule, is_sm90: bool) -> Result<Arc<Self>> {
        static DEVICES: Devices<(Schedule, bool)> = Mutex::new(None);
        let make = || Self::new(Arc::new(emulator::EmulatorDriver::new(schedule, is_sm90)));
        shared(&DEVICES, (schedule, is_sm90), make)
    }

    pub(crate) fn name(&self) -> String {
        self.driver.name()
    }

    /// Waits for all work and returns, once, what kernels reported about values in device memory.
    pub(crate) fn synchronize(&self) -> Result<()> {
        self.driver.synchronize()?;
        self.check_status()
    }

    pub(crate) fn allocate(&self, bytes: usize) -> Result<CudaBuffer> {
        CudaBuffer::new(&self.driver, bytes)
    }

    /// Waits for all work, copies from device memory, and reports as [`Self::synchronize`] does.
    pub(crate) fn download(&self, address: u64, out: &mut [u8]) -> Result<()> {
        if !out.is_empty() {
            self.driver.copy_out(address, out)?;
        }
        self.check_status()
    }

    fn check_status(&self) -> Result<()> {
        // Sync: a launch between the copy and the fill could set a word that the fill would erase unseen.
        let _quiet = lock(&self.status_order);
        let mut words = [0u32; STATUS_WORDS];
        self.driver.copy_out(self.status.address, bytemuck::cast_slice_mut(&mut words))?;
        let Some(error) = Status::error(&words) else { return Ok(()) };
        self.driver.fill(self.status.address, self.status.bytes, 0)?;
        Err(error)
    }

    /// Address of the device's status words (device/status.rs).
    pub(crate) fn status(&self) -> u64 {
        self.status.address
    }

    /// Streaming multiprocessors, for sizing persistent grids.
    pub(crate) fn multiprocessors(&self) -> u32 {
        self.driver.multiprocessors()
    }

    /// Whether kernels for compute capability 9.0 run here.
    pub(crate) fn has_asynchronous_units(&self) -> bool {
        self.driver.has_asynchronous_units()
    }

    /// The description of a tensor of 16-bit elements at `address`, for the parameters of such a kernel.
    ///
    /// # Errors
    /// [`Error::Launch`] for what the driver refuses: an address or stride that is not a multiple of 16 bytes, a size of 0.
    pub(crate) fn tensor_map(&self, address: u64, tiled: &Tiled) -> Result<[u8; TENSOR_MAP]> {
        self.driver.tensor_map(address, tiled)
    }

    /// Bytes moved by the last launch of the calling thread, on the emulator.
    pub(crate) fn last_launch(&self) -> Option<Traffic> {
        self.driver.last_launch()
    }

    /// Starts a kernel. `pointers` in the row's order (0 = null), then the parameter struct.
    ///
    /// # Errors
    /// [`Error::Launch`] if the call does not fit the row or the device's limits, and what the driver reports.
    pub(crate) fn launch(
        &self,
        kernel: &'static CudaKernel,
        grid: [u32; 3],
        pointers: &[u64],
        params: &[u8],
    ) -> Result<()> {
        check_launch(kernel, grid, pointers, params, self.driver.shared_limit())
            .map_err(|code| Error::Launch { kernel: kernel.entry.into(), code })?;
        let _quiet = lock(&self.status_order);
        let mut addresses = pointers.to_vec();
        let mut aligned = Lines::new(params);
        let mut arguments: Vec<*mut c_void> =
            addresses.iter_mut().map(|address| std::ptr::from_mut(address).cast()).collect();
        if !params.is_empty() {
            arguments.push(aligned.0.as_mut_ptr().cast());
        }
        // SAFETY: one pointer to a live, aligned value per argument of the row. That the device pointers are valid for the
        // kernel is what the operations' validation (shapes, strides, ranges) establishes before it comes here.
        unsafe { self.driver.launch(kernel, grid, &mut arguments) }
    }
}

/// A copy of a parameter struct where the emulator can read it in place: 64 bytes, for a description of a tensor, is the most
/// that a kernel argument asks for.
struct Lines(Vec<Line>);

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Lines {
    fn new(bytes: &[u8]) -> Self {
        let lines = bytes.chunks(64).map(|part| {
            let mut line = Line([0; 64]);
            line.0[..part.len()].copy_from_slice(part);
            line
        });
        Self(lines.collect())
    }
}

/// What is wrong with a launch, in words.
fn check_launch(
    kernel: &CudaKernel,
    grid: [u32; 3],
    pointers: &[u64],
    params: &[u8],
    shared_limit: u32,
) -> std::result::Result<(), String> {
    if pointers.len() != kernel.pointers.len() {
        return Err(format!("takes {} pointers, got {}", kernel.pointers.len(), pointers.len()));
    }
    if params.len() != kernel.params {
        return Err(format!("takes {} bytes of parameters, got {}", kernel.params, params.len()));
    }
    let grid_fits = grid.iter().zip(GRID_LIMIT).all(|(&size, limit)| (1..=limit).contains(&size));
    if !grid_fits {
        return Err(format!("grid {grid:?} is outside 1..={GRID_LIMIT:?}"));
    }
    if !(1..=BLOCK_LIMIT).contains(&kernel.block) {
        return Err(format!("block of {} threads is outside 1..={BLOCK_LIMIT}", kernel.block));
    }
    if kernel.shared_bytes > shared_limit {
        let needed = kernel.shared_bytes;
        return Err(format!("needs {needed} bytes of shared memory, the device has {shared_limit} a block"));
    }
    Ok(())
}

/// The entry of a process-wide table, made on first use. A failure is not remembered: the cause may be repaired.
fn shared<K: Eq + Hash, V: Clone>(
    table: &Mutex<Option<HashMap<K, V>>>,
    key: K,
    make: impl FnOnce() -> Result<V>,
) -> Result<V> {
    let mut table = lock(table);
    let table = table.get_or_insert_default();
    if let Some(value) = table.get(&key) {
        return Ok(value.clone());
    }
    let value = make()?;
    table.insert(key, value.clone());
    Ok(value)
}

/// Locks tables and caches whose entries are complete before they are inserted, so a panic elsewhere leaves them valid.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: CudaKernel = CudaKernel {
        entry: "probe",
        file: "probe.cu",
        source: "",
        block: 128,
        pointers: &["x", "y"],
        params: 8,
        shared_bytes: 1024,
    };

    #[test]
    fn a_launch_that_does_not_fit_its_row_is_refused() {
        let check = |grid, pointers: &[u64], params: &[u8]| check_launch(&ROW, grid, pointers, params, 1024);
        assert_eq!(check([1, 1, 1], &[0, 0], &[0; 8]), Ok(()));
        assert_eq!(check([i32::MAX as u32, 65_535, 65_535], &[0, 0], &[0; 8]), Ok(()));
        let refused = [
            (check([1, 1, 1], &[0], &[0; 8]), "pointers"),
            (check([1, 1, 1], &[0, 0], &[0; 4]), "parameters"),
            (check([0, 1, 1], &[0, 0], &[0; 8]), "grid"),
            (check([1 << 31, 1, 1], &[0, 0], &[0; 8]), "grid"),
            (check([1, 65_536, 1], &[0, 0], &[0; 8]), "grid"),
            (check([1, 1, 65_536], &[0, 0], &[0; 8]), "grid"),
            (check_launch(&ROW, [1, 1, 1], &[0, 0], &[0; 8], 1023), "shared memory"),
            (check_launch(&CudaKernel { block: 1025, ..ROW }, [1; 3], &[0, 0], &[0; 8], 1024), "block"),
        ];
        for (result, word) in refused {
            let message = result.expect_err(word);
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn probing_without_a_device_gives_a_reason() {
        match devices() {
            Ok(names) => assert!(!names.is_empty()),
            Err(reason) => assert!(!reason.is_empty()),
        }
        // An index no machine has: an error that says so, never a panic.
        assert!(matches!(CudaDevice::nvidia(usize::MAX), Err(Error::BackendUnavailable { .. })));
    }

    #[cfg(feature = "emulator")]
    #[test]
    fn memory_starts_zeroed_and_holds_what_it_is_given() {
        let device = CudaDevice::emulated(Schedule::Random(71), false).unwrap();
        let buffer = device.allocate(12).unwrap();
        let mut bytes = [1u8; 12];
        device.download(buffer.address(), &mut bytes).unwrap();
        assert_eq!(bytes, [0; 12]);
        buffer.upload(4, &[5; 8]).unwrap();
        device.download(buffer.address() + 4, &mut bytes[..8]).unwrap();
        assert_eq!(bytes[..8], [5; 8]);
        assert!(matches!(buffer.upload(5, &[0; 8]), Err(Error::InvalidArgument { .. })));
        assert!(matches!(buffer.upload(usize::MAX, &[0; 8]), Err(Error::InvalidArgument { .. })));
        assert_eq!(device.allocate(0).unwrap().bytes(), 0);
        assert!(matches!(device.allocate(usize::MAX / 2), Err(Error::OutOfMemory { .. })));
    }

    #[cfg(feature = "emulator")]
    #[test]
    fn a_status_word_is_reported_once() {
        let device = CudaDevice::emulated(Schedule::Random(72), false).unwrap();
        let length = device.status() + 4 * Status::Length as u64;
        device.driver.copy_in(length, &1u32.to_le_bytes()).unwrap();
        assert!(matches!(device.synchronize(), Err(Error::DeviceValue { .. })));
        assert_eq!(device.synchronize(), Ok(()));
    }

    #[cfg(feature = "emulator")]
    #[test]
    fn a_kernel_that_was_not_built_is_an_error() {
        let device = CudaDevice::emulated(Schedule::InOrder, false).unwrap();
        let refused = device.launch(&ROW, [1, 1, 1], &[0, 0], &[0; 8]);
        assert!(matches!(&refused, Err(Error::Launch { kernel, .. }) if kernel == "probe"), "{refused:?}");
        let refused = device.launch(&ROW, [1, 1, 1], &[0], &[0; 8]);
        assert!(
            matches!(&refused, Err(Error::Launch { code, .. }) if code.contains("pointers")),
            "{refused:?}"
        );
    }
}
