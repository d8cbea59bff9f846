//! Memory that a call passes between its kernels: parts of the caller's workspace, or buffers of the device's pool.

use crate::attention::options;
use crate::device::wgpu::{Binding, WgpuBuffer, WgpuDevice, Workspace};
use crate::error::{Error, Result};
use crate::tensor::Memory;

/// Where a part of a workspace starts: WebGPU lets no device ask for a larger offset of a binding.
const ALIGNMENT: usize = 256;

/// Bytes that a caller's workspace must have: the parts, each from a boundary, wherever the view starts.
pub(super) fn bytes(parts: &[usize]) -> usize {
    let rounded = |&part: &usize| part.checked_next_multiple_of(ALIGNMENT).unwrap_or(usize::MAX);
    let total = parts.iter().map(rounded).fold(0usize, usize::saturating_add);
    if total == 0 { 0 } else { total.saturating_add(ALIGNMENT) }
}

/// Memory of one call. Dropped once its kernels are queued.
pub(super) enum Part<'a> {
    /// Of no bytes.
    Empty,
    Pooled(Workspace<'a>),
    Given(Binding<'a>),
}

impl Part<'_> {
    pub(super) fn binding(&self) -> Option<Binding<'_>> {
        match self {
            Self::Empty => None,
            Self::Pooled(workspace) => workspace.binding(),
            Self::Given(binding) => Some(*binding),
        }
    }
}

/// Parts of `sizes` bytes, of which a caller's workspace has `bytes(sizes)`.
///
/// # Errors
/// [`Error::InvalidArgument`] for a workspace of the caller's that is too small.
pub(super) fn parts<'a, const N: usize>(
    device: &'a WgpuDevice,
    op: &'static str,
    workspace: &'a options::Workspace<'_>,
    sizes: [usize; N],
) -> Result<[Part<'a>; N]> {
    let mut given = given(op, workspace, bytes(&sizes))?;
    let mut parts = [const { Part::Empty }; N];
    for (part, size) in parts.iter_mut().zip(sizes).filter(|(_, size)| *size > 0) {
        *part = match &mut given {
            None => Part::Pooled(device.workspace(size)?),
            Some((buffer, at)) => {
                let here = *at;
                *at += size.next_multiple_of(ALIGNMENT);
                Part::Given(Binding::part(buffer, here as u64, size.next_multiple_of(4) as u64))
            }
        };
    }
    Ok(parts)
}

/// Buffer of the caller's workspace and its first boundary.
fn given<'a>(
    op: &'static str,
    workspace: &'a options::Workspace<'_>,
    needed: usize,
) -> Result<Option<(&'a WgpuBuffer, usize)>> {
    let options::Workspace::Given(memory) = workspace else { return Ok(None) };
    let layout = memory.as_ref().layout();
    if layout.len() < needed {
        let reason = format!("has {} bytes, the call needs {needed}", layout.len());
        return Err(Error::argument(op, "workspace", reason));
    }
    match memory.as_ref().memory() {
        Memory::Wgpu(buffer) => Ok(Some((buffer, layout.offset().next_multiple_of(ALIGNMENT)))),
        // Of no bytes, or on another device, which validation refuses.
        _ => Ok(None),
    }
}
