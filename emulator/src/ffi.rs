//! The C interface of the runtime (`interface.cpp`): the only unsafe code of this crate.

use std::ffi::{CStr, c_char, c_void};

use crate::{Counters, Fault, KernelInfo, MemoryError, Schedule};

/// `KernelOut` in `interface.cpp`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawKernel {
    entry: *const c_char,
    source: *const c_char,
    argument_sizes: *const usize,
    argument_count: usize,
}

const MESSAGE_BYTES: usize = 640;

/// `FaultOut` in `interface.cpp`.
#[repr(C)]
struct RawFault {
    block: [u32; 3],
    thread: [u32; 3],
    message: [c_char; MESSAGE_BYTES],
}

unsafe extern "C" {
    fn gatewarp_emulator_kernels(out: *mut RawKernel, capacity: usize) -> usize;
    fn gatewarp_emulator_allocate(bytes: usize) -> u64;
    fn gatewarp_emulator_free(address: u64, offset: *mut isize) -> u32;
    fn gatewarp_emulator_check_span(address: u64, bytes: usize) -> u32;
    fn gatewarp_emulator_traffic(address: u64, counters: *mut Counters) -> u32;
    fn gatewarp_emulator_reset_traffic(address: u64) -> u32;
    fn gatewarp_emulator_launch(
        entry: *const c_char,
        entry_bytes: usize,
        grid: *const [u32; 3],
        block: *const [u32; 3],
        shared_bytes: usize,
        arguments: *const *const c_void,
        argument_count: usize,
        order: u32,
        seed: u64,
        threads: usize,
        counters: *mut Counters,
        fault: *mut RawFault,
    ) -> bool;
}

pub(crate) fn kernels() -> Vec<KernelInfo> {
    // SAFETY: with capacity 0 nothing is written.
    let count = unsafe { gatewarp_emulator_kernels(std::ptr::null_mut(), 0) };
    let empty = RawKernel {
        entry: std::ptr::null(),
        source: std::ptr::null(),
        argument_sizes: std::ptr::null(),
        argument_count: 0,
    };
    let mut raw = vec![empty; count];
    // SAFETY: `raw` has room for `count` kernels, and the list does not change after static initialisation.
    unsafe { gatewarp_emulator_kernels(raw.as_mut_ptr(), count) };
    raw.iter()
        .map(|kernel| KernelInfo {
            entry: static_str(kernel.entry),
            source: static_str(kernel.source),
            // SAFETY: the sizes are a static array of that length, never null.
            argument_sizes: unsafe {
                std::slice::from_raw_parts(kernel.argument_sizes, kernel.argument_count)
            }
            .to_vec(),
        })
        .collect()
}

/// A C++ identifier or file name, from a string literal in the kernel library.
fn static_str(text: *const c_char) -> &'static str {
    // SAFETY: callers pass the non-null, NUL-terminated literals of a registered kernel.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap_or("(not UTF-8)")
}

pub(crate) fn allocate(bytes: usize) -> Option<u64> {
    // SAFETY: no preconditions.
    let address = unsafe { gatewarp_emulator_allocate(bytes) };
    (address != 0).then_some(address)
}

pub(crate) fn free(address: u64) -> Result<(), MemoryError> {
    let mut offset = 0;
    // SAFETY: any address may be asked about; `offset` outlives the call.
    let status = unsafe { gatewarp_emulator_free(address, &mut offset) };
    check(status, address, 0, offset)
}

pub(crate) fn copy_in(address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
    check_span(address, bytes.len())?;
    // SAFETY: the span lies in one allocation, which the slice cannot overlap: the host holds no slices of it.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
    Ok(())
}

pub(crate) fn copy_out(address: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
    check_span(address, bytes.len())?;
    // SAFETY: as in `copy_in`; allocations are initialised when made.
    unsafe { std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len()) };
    Ok(())
}

pub(crate) fn copy_within(to: u64, from: u64, bytes: usize) -> Result<(), MemoryError> {
    check_span(to, bytes)?;
    check_span(from, bytes)?;
    // SAFETY: both spans lie in allocations; `copy` allows them to overlap.
    unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
    Ok(())
}

pub(crate) fn fill(address: u64, value: u8, bytes: usize) -> Result<(), MemoryError> {
    check_span(address, bytes)?;
    // SAFETY: the span lies in one allocation.
    unsafe { std::ptr::write_bytes(address as *mut u8, value, bytes) };
    Ok(())
}

pub(crate) fn traffic(address: u64) -> Result<Counters, MemoryError> {
    let mut counters = Counters::default();
    // SAFETY: any address may be asked about; `counters` has the layout of its C++ twin.
    let status = unsafe { gatewarp_emulator_traffic(address, &mut counters) };
    check(status, address, 0, 0).map(|()| counters)
}

pub(crate) fn reset_traffic(address: u64) -> Result<(), MemoryError> {
    // SAFETY: any address may be asked about.
    check(unsafe { gatewarp_emulator_reset_traffic(address) }, address, 0, 0)
}

fn check_span(address: u64, bytes: usize) -> Result<(), MemoryError> {
    // SAFETY: any address may be asked about.
    check(unsafe { gatewarp_emulator_check_span(address, bytes) }, address, bytes, 0)
}

/// Turns a `MemoryStatus` of the runtime into its error.
fn check(status: u32, address: u64, bytes: usize, offset: isize) -> Result<(), MemoryError> {
    match status {
        0 => Ok(()),
        1 => Err(MemoryError::UnknownAddress { address }),
        2 => Err(MemoryError::OutOfBounds { address, bytes }),
        _ => Err(MemoryError::GuardOverwritten { address, offset }),
    }
}

/// # Safety
/// Each element of `arguments` must point to a readable value of the kernel's argument type.
pub(crate) unsafe fn launch(
    entry: &str,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: usize,
    arguments: &[*const c_void],
    schedule: Schedule,
    threads: usize,
) -> Result<Counters, Fault> {
    let (order, seed) = match schedule {
        Schedule::InOrder => (0, 0),
        Schedule::Reversed => (1, 0),
        Schedule::Random(seed) => (2, seed),
    };
    let mut counters = Counters::default();
    let mut fault = RawFault { block: [0; 3], thread: [0; 3], message: [0; MESSAGE_BYTES] };
    // SAFETY: the references outlive the call and have the layouts of their C++ twins; the number of arguments is
    // checked against the kernel, and the caller vouches for what they point to.
    let ended = unsafe {
        gatewarp_emulator_launch(
            entry.as_ptr().cast(),
            entry.len(),
            &grid,
            &block,
            shared_bytes,
            arguments.as_ptr(),
            arguments.len(),
            order,
            seed,
            threads,
            &mut counters,
            &mut fault,
        )
    };
    if ended {
        return Ok(counters);
    }
    // SAFETY: the runtime ends the message with a NUL inside the array.
    let message = unsafe { CStr::from_ptr(fault.message.as_ptr()) }.to_string_lossy().into_owned();
    Err(Fault { kernel: entry.to_owned(), block: fault.block, thread: fault.thread, message })
}
