//! Workspace of a call: the caller's, or one of its own, divided into parts.

use super::address;
use crate::attention::options::Workspace;
use crate::device::cuda::{CudaBuffer, CudaDevice};
use crate::error::{Error, Result};

/// Where a part starts: what every vector load is content with.
const ALIGNMENT: usize = 256;

/// Memory of a call in parts. Memory of its own is freed in stream order on drop, after the kernels that use it.
pub(super) struct Scratch<const N: usize> {
    _own: Option<CudaBuffer>,
    parts: [u64; N],
}

/// Bytes that a caller's workspace must have: the parts, each from a boundary, wherever the memory starts.
pub(super) fn bytes(parts: &[usize]) -> usize {
    let total: usize = parts.iter().map(|&part| part.next_multiple_of(ALIGNMENT)).sum();
    if total == 0 { 0 } else { total + ALIGNMENT }
}

impl<const N: usize> Scratch<N> {
    /// # Errors
    /// [`Error::InvalidArgument`] for a workspace of the caller's that is too small; [`Error::OutOfMemory`].
    pub(super) fn new(
        device: &CudaDevice,
        op: &'static str,
        workspace: &Workspace<'_>,
        parts: &[usize; N],
    ) -> Result<Self> {
        let needed = bytes(parts);
        let (own, start) = match workspace {
            Workspace::Given(memory) => {
                let got = memory.as_ref().layout().len();
                if got < needed {
                    let reason = format!("has {got} bytes, the call needs {needed}");
                    return Err(Error::argument(op, "workspace", reason));
                }
                (None, address(memory.as_ref()))
            }
            Workspace::Allocate if needed == 0 => (None, 0),
            Workspace::Allocate => {
                let buffer = device.allocate(needed)?;
                let start = buffer.address();
                (Some(buffer), start)
            }
        };
        let mut at = start.next_multiple_of(ALIGNMENT as u64);
        let parts = parts.map(|part| {
            let here = at;
            at += part.next_multiple_of(ALIGNMENT) as u64;
            if part == 0 { 0 } else { here }
        });
        Ok(Self { _own: own, parts })
    }

    /// Addresses of the parts; 0 for an empty one.
    pub(super) fn parts(&self) -> [u64; N] {
        self.parts
    }
}
