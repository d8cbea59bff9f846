//! Typed device buffers and launches for this crate's tests.
#![allow(dead_code, unused_imports, reason = "every test binary uses another part")]

mod random;

pub use random::Random;

use std::ffi::c_void;
use std::marker::PhantomData;

use gatewarp_emulator::{Counters, Fault, Schedule};

/// One of each schedule, and a second seed.
pub const SCHEDULES: [Schedule; 4] =
    [Schedule::InOrder, Schedule::Reversed, Schedule::Random(1), Schedule::Random(0x5eed)];

/// Numbers and vectors that kernels read and write as plain bytes.
pub trait Plain: Copy + 'static {}
macro_rules! plain {
    ($($t:ty),*) => { $(impl Plain for $t {} impl<const N: usize> Plain for [$t; N] {})* };
}
plain!(u8, u16, u32, i32, u64, i64, f32, f64);

/// A device allocation of `len` elements.
pub struct Buffer<T: Plain> {
    address: u64,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Plain> Buffer<T> {
    /// Left as it was allocated: every byte 0xFF.
    pub fn poisoned(len: usize) -> Self {
        let address = gatewarp_emulator::allocate(len * size_of::<T>()).expect("device memory");
        Self { address, len, element: PhantomData }
    }

    pub fn new(values: &[T]) -> Self {
        let buffer = Self::poisoned(values.len());
        // SAFETY: plain numbers have no padding.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
        gatewarp_emulator::copy_in(buffer.address, bytes).expect("within the allocation");
        buffer
    }

    pub fn zeroed(len: usize) -> Self {
        let buffer = Self::poisoned(len);
        gatewarp_emulator::fill(buffer.address, 0, len * size_of::<T>()).expect("within the allocation");
        buffer
    }

    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn read(&self) -> Vec<T> {
        let mut values = Vec::<T>::with_capacity(self.len);
        // SAFETY: the allocation holds `len` elements, for which every bit pattern is valid; all bytes are written
        // before the length is set.
        unsafe {
            let bytes =
                std::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<u8>(), self.len * size_of::<T>());
            gatewarp_emulator::copy_out(self.address, bytes).expect("within the allocation");
            values.set_len(self.len);
        }
        values
    }

    pub fn traffic(&self) -> Counters {
        gatewarp_emulator::traffic(self.address)
    }
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        let freed = gatewarp_emulator::free(self.address);
        if !std::thread::panicking() {
            freed.expect("a test's kernel stays inside its buffers");
        }
    }
}

/// A kernel argument: a buffer's address or a number.
pub trait Argument {
    fn pointer(&self) -> *const c_void;
}
impl<T: Plain> Argument for Buffer<T> {
    fn pointer(&self) -> *const c_void {
        (&raw const self.address).cast()
    }
}
macro_rules! numbers {
    ($($t:ty),*) => { $(impl Argument for $t {
        fn pointer(&self) -> *const c_void { std::ptr::from_ref(self).cast() }
    })* };
}
numbers!(u32, i32, u64, i64, f32, f64);

/// Launches with arguments whose types the test vouches for.
pub fn launch(
    entry: &str,
    grid: [u32; 3],
    block: u32,
    shared_bytes: usize,
    arguments: &[&dyn Argument],
    schedule: Schedule,
    threads: usize,
) -> Result<Counters, Fault> {
    let pointers: Vec<_> = arguments.iter().map(|argument| argument.pointer()).collect();
    // SAFETY: every pointer refers to a live buffer address or number; tests pass them as the kernel declares them.
    unsafe {
        gatewarp_emulator::launch(entry, grid, [block, 1, 1], shared_bytes, &pointers, schedule, threads)
    }
}
