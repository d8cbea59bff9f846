//! CPU memory: 64-byte aligned, so that every vector width loads whole cache lines.

use crate::error::{Error, Result};

const LINE: usize = 64;

/// One cache line; a `Vec` of these is aligned without any `unsafe`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

// SAFETY: a plain byte array whose alignment equals its size, so there is no padding.
#[allow(unsafe_code)]
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above; every bit pattern is valid and there are no interior pointers.
#[allow(unsafe_code)]
unsafe impl bytemuck::Pod for Line {}

/// Owned CPU memory.
pub(crate) struct CpuBuffer {
    lines: Vec<Line>,
    bytes: usize,
}

impl CpuBuffer {
    /// Zeroed memory of `bytes` bytes.
    pub(crate) fn new(bytes: usize) -> Result<Self> {
        let out_of_memory = |_| Error::OutOfMemory { requested: bytes as u64, available: 0 };
        let count = bytes.div_ceil(LINE);
        let mut lines = Vec::new();
        lines.try_reserve_exact(count).map_err(out_of_memory)?;
        lines.resize(count, Line([0; LINE]));
        Ok(Self { lines, bytes })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.bytes]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.bytes]
    }
}
