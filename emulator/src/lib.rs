//! Runs gatewarp's CUDA kernels on the CPU and finds what they do wrong.
//!
//! The same `.cu` files that NVRTC compiles for a device are compiled here by the host's C++ compiler (`build.rs`); only
//! `kernels/device.cuh` knows the difference. Every CUDA thread is a fiber, so barriers and warp collectives behave as
//! on a device, in an order that a [`Schedule`] chooses. Shared and device memory start poisoned with `0xFF` (NaN).
//!
//! Misuse is a [`Fault`] that names kernel, block and thread: access out of bounds or misaligned, divergent barrier or
//! collective, deadlock, asynchronous copy, load or product not waited for. The process and later launches are unharmed.
//!
//! What it cannot know: whether the PTX in `device.cuh` does what its twin does, and how fast anything is. A kernel that
//! spins until another thread writes never ends here: threads change places only at barriers and collectives.
//!
//! Unix only; the context switch is assembly on x86-64 ELF and `ucontext` elsewhere.
//!
//! ```
//! use gatewarp_emulator::{Schedule, allocate, copy_in, copy_out, free, launch};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // primitive_reverse(const float* in, float* out): 128 floats through shared memory, backwards.
//! let input = allocate(512).ok_or("out of device memory")?;
//! let output = allocate(516).ok_or("out of device memory")?;
//! copy_in(input + 508, &1.5_f32.to_le_bytes())?;
//! let arguments = [(&raw const input).cast(), (&raw const output).cast()];
//! // SAFETY: both arguments are addresses, as the kernel declares.
//! unsafe { launch("primitive_reverse", [1, 1, 1], [128, 1, 1], 512, &arguments, Schedule::Random(7), 1)? };
//! let mut first = [0; 4];
//! copy_out(output, &mut first)?;
//! assert_eq!(f32::from_le_bytes(first), 1.5);
//! free(input)?;
//! free(output)?;
//! # Ok(())
//! # }
//! ```

mod ffi;
mod tensor_map;

pub use tensor_map::TensorMap;

use std::ffi::c_void;
use std::fmt;

/// The order in which blocks, and the ready threads of a block, run.
///
/// A kernel that synchronises correctly gives the same result under all; so each finds bugs that another hides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Schedule {
    /// Lowest block and thread first; all warps of a block stay abreast.
    InOrder,
    /// Highest first; the highest warp runs as far ahead of the others as barriers allow.
    Reversed,
    /// Any ready thread, chosen by a generator with this seed. The same seed gives the same order.
    Random(u64),
}

/// A kernel that the emulator can launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// The name given to `GW_EXPORT`.
    pub entry: &'static str,
    /// The size of every argument in bytes, in order.
    pub argument_sizes: Vec<usize>,
    /// The file that holds it, relative to the repository root: `kernels/…`, or `emulator/tests/kernels/…`.
    pub source: &'static str,
}

/// Global memory traffic. Atomics count as a load and a store, an asynchronous copy as a load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Bytes read.
    pub bytes_loaded: u64,
    /// Bytes written.
    pub bytes_stored: u64,
    /// Load operations, one for each thread and access.
    pub loads: u64,
    /// Store operations, one for each thread and access.
    pub stores: u64,
}

/// Why a launch ended early. Memory that it wrote until then stays written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kernel's entry.
    pub kernel: String,
    /// Block index; zero if the launch was refused before it began.
    pub block: [u32; 3],
    /// Thread index in the block; zero if the launch was refused before it began.
    pub thread: [u32; 3],
    /// What it did wrong.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {} block {:?} thread {:?}: {}", self.kernel, self.block, self.thread, self.message)
    }
}

impl std::error::Error for Fault {}

/// What is wrong with an address given by the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// No allocation holds this address (for [`free`]: begins at it).
    UnknownAddress {
        /// The address given.
        address: u64,
    },
    /// The span begins in an allocation and leaves it.
    OutOfBounds {
        /// Where the span begins.
        address: u64,
        /// Its length.
        bytes: usize,
    },
    /// Something wrote just outside the allocation, found when it was freed.
    GuardOverwritten {
        /// The allocation.
        address: u64,
        /// The first byte written, relative to the address: negative, or at least the allocation's size.
        offset: isize,
    },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownAddress { address } => write!(f, "{address:#x} is not in emulated device memory"),
            Self::OutOfBounds { address, bytes } => {
                write!(f, "{bytes} bytes at {address:#x} leave their allocation")
            }
            Self::GuardOverwritten { address, offset } => {
                write!(
                    f,
                    "the allocation at {address:#x} was overrun: its guard is overwritten at byte {offset}"
                )
            }
        }
    }
}

impl std::error::Error for MemoryError {}

/// Every exported kernel, sorted by entry.
pub fn kernels() -> Vec<KernelInfo> {
    let mut all = ffi::kernels();
    all.sort_by_key(|kernel| kernel.entry);
    all
}

/// Allocates emulated device memory and returns its address, which is also its host address.
///
/// 256-byte aligned, filled with `0xFF`, guarded on both sides. Zero bytes are allowed. `None` if the 4 GiB of emulated
/// memory, or the host's, are exhausted.
pub fn allocate(bytes: usize) -> Option<u64> {
    ffi::allocate(bytes)
}

/// Frees an allocation.
///
/// # Errors
/// [`MemoryError::UnknownAddress`], or [`MemoryError::GuardOverwritten`] if something wrote outside it (it is freed
/// all the same).
pub fn free(address: u64) -> Result<(), MemoryError> {
    ffi::free(address)
}

/// Copies from the host to `address`, anywhere in an allocation.
///
/// # Errors
/// [`MemoryError::UnknownAddress`] or [`MemoryError::OutOfBounds`]; nothing is copied.
pub fn copy_in(address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
    ffi::copy_in(address, bytes)
}

/// Copies to the host from `address`, anywhere in an allocation.
///
/// # Errors
/// [`MemoryError::UnknownAddress`] or [`MemoryError::OutOfBounds`]; nothing is copied.
pub fn copy_out(address: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
    ffi::copy_out(address, bytes)
}

/// Copies within emulated device memory; the spans may overlap.
///
/// # Errors
/// [`MemoryError::UnknownAddress`] or [`MemoryError::OutOfBounds`]; nothing is copied.
pub fn copy_within(to: u64, from: u64, bytes: usize) -> Result<(), MemoryError> {
    ffi::copy_within(to, from, bytes)
}

/// Sets `bytes` bytes from `address` to `value`.
///
/// # Errors
/// [`MemoryError::UnknownAddress`] or [`MemoryError::OutOfBounds`]; nothing is written.
pub fn fill(address: u64, value: u8, bytes: usize) -> Result<(), MemoryError> {
    ffi::fill(address, value, bytes)
}

/// What kernels have read and written in the allocation that holds `address`, since it was made or [`reset_traffic`].
///
/// # Panics
/// If no allocation holds the address: a wrong one must not look like memory that was never read.
pub fn traffic(address: u64) -> Counters {
    ffi::traffic(address).unwrap_or_else(|error| panic!("traffic: {error}"))
}

/// Sets the counters of the allocation that holds `address` to zero.
///
/// # Errors
/// [`MemoryError::UnknownAddress`].
pub fn reset_traffic(address: u64) -> Result<(), MemoryError> {
    ffi::reset_traffic(address)
}

/// Runs a kernel to its end on at most `threads` OS threads, and returns its traffic.
///
/// `arguments` holds a pointer to each argument's value, as `cuLaunchKernel` takes them; [`kernels`] tells their number
/// and sizes. Launches from several threads at once are independent, so long as their memory is.
///
/// # Errors
/// The first [`Fault`] of any thread, or one that says why the launch was refused: unknown entry, wrong number of
/// arguments, dimensions beyond a device's limits, a block that is not whole warps.
///
/// # Safety
/// Each element of `arguments` must point to a readable value of the kernel's argument type. Device pointers among them
/// may be wrong: accesses are checked.
pub unsafe fn launch(
    entry: &str,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: usize,
    arguments: &[*const c_void],
    schedule: Schedule,
    threads: usize,
) -> Result<Counters, Fault> {
    // SAFETY: the caller's promise is the one that ffi::launch asks for.
    unsafe { ffi::launch(entry, grid, block, shared_bytes, arguments, schedule, threads) }
}
