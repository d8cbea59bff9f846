//! Buffers: zeroed memory on the device, and copies to and from it.

use super::{Core, STATUS_BYTES, WgpuDevice, lock};
use crate::device::Backend;
use crate::error::{Error, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

/// What every buffer may be used for.
pub(super) const USAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

/// Smallest allocation: WebGPU refuses to bind an empty buffer.
pub(super) const MIN_BYTES: u64 = 16;

/// Size of a read-back buffer; longer copies go in pieces. The status words have the last bytes.
const STAGING_BYTES: u64 = 4 << 20;
const PIECE: usize = (STAGING_BYTES - STATUS_BYTES) as usize;

/// Owned device memory, freed on drop (by wgpu, once no queued work uses it).
pub(crate) struct WgpuBuffer {
    core: Arc<Core>,
    raw: wgpu::Buffer,
    bytes: usize,
    id: u64,
}

impl WgpuBuffer {
    pub(super) fn new(core: &Arc<Core>, bytes: usize) -> Result<Self> {
        core.check_lost()?;
        // Copies and bindings are whole words.
        let size = (bytes as u64).next_multiple_of(4).max(MIN_BYTES);
        if size > core.limits.max_buffer_size {
            return Err(Error::Unsupported {
                op: "Tensor",
                backend: Backend::Wgpu,
                what: "buffer size in bytes",
                limit: core.limits.max_buffer_size.to_string(),
                got: bytes.to_string(),
            });
        }
        let descriptor =
            wgpu::BufferDescriptor { label: None, size, usage: USAGE, mapped_at_creation: false };
        let (raw, error) = core.scoped(|| core.create_buffer(&descriptor));
        match error {
            None => Ok(Self::wrap(core.clone(), raw, bytes)),
            Some(wgpu::Error::OutOfMemory { .. }) => {
                Err(Error::OutOfMemory { requested: size, available: 0 })
            }
            Some(error) => Err(Error::Launch { kernel: "allocate".into(), code: error.to_string() }),
        }
    }

    pub(super) fn wrap(core: Arc<Core>, raw: wgpu::Buffer, bytes: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self { core, raw, bytes, id: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    pub(super) fn raw(&self) -> &wgpu::Buffer {
        &self.raw
    }

    pub(super) fn is_on(&self, core: &Core) -> bool {
        std::ptr::eq(Arc::as_ptr(&self.core), core)
    }

    /// Size as asked for.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Unique per buffer.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Copies `data` to byte `offset`, after the work queued so far. Both are multiples of 4 except at the end.
    pub(crate) fn upload(&self, offset: usize, data: &[u8]) -> Result<()> {
        self.check_range("upload", offset, data.len())?;
        if !offset.is_multiple_of(4) || (!data.len().is_multiple_of(4) && offset + data.len() != self.bytes) {
            let reason = format!("{offset}..+{} is not whole words", data.len());
            return Err(Error::argument("upload", "range", reason));
        }
        // Queue writes overtake a recorded batch, so the batch goes first.
        self.core.flush()?;
        let whole = data.len() / 4 * 4;
        let ((), error) = self.core.scoped(|| {
            if whole > 0 {
                self.core.queue.write_buffer(&self.raw, offset as u64, &data[..whole]);
            }
            if whole < data.len() {
                let mut word = [0; 4];
                word[..data.len() - whole].copy_from_slice(&data[whole..]);
                self.core.queue.write_buffer(&self.raw, (offset + whole) as u64, &word);
            }
        });
        match error {
            None => self.core.check_lost(),
            Some(wgpu::Error::OutOfMemory { .. }) => {
                Err(Error::OutOfMemory { requested: data.len() as u64, available: 0 })
            }
            Some(error) => Err(Error::Launch { kernel: "upload".into(), code: error.to_string() }),
        }
    }

    /// Copies `out.len()` bytes from byte `offset` to the host, once all queued work is done.
    ///
    /// # Errors
    /// What [`WgpuDevice::synchronize`] would return; a second call then gets the bytes.
    pub(crate) fn download(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        self.check_range("download", offset, out.len())?;
        let mut done = 0;
        while done < out.len() {
            let first = offset + done;
            // A piece starts on a word; `first % 4` bytes before it are read and dropped.
            let count = (out.len() - done).min(PIECE - 4);
            self.core.read_back(Some(&self.raw), first, &mut out[done..done + count])?;
            done += count;
        }
        if out.is_empty() { self.core.read_back(None, 0, &mut []) } else { Ok(()) }
    }

    fn check_range(&self, op: &'static str, offset: usize, len: usize) -> Result<()> {
        if offset.checked_add(len).is_some_and(|end| end <= self.bytes) {
            return Ok(());
        }
        let reason = format!("{offset}..+{len} is outside the buffer of {} bytes", self.bytes);
        Err(Error::argument(op, "range", reason))
    }
}

/// A pooled buffer; goes back to its device's pool when dropped.
pub(crate) struct Workspace<'a> {
    device: &'a WgpuDevice,
    /// `None` only while being dropped.
    buffer: Option<WgpuBuffer>,
}

impl<'a> Workspace<'a> {
    /// Unused bytes a device's pool keeps; beyond, the oldest are freed.
    const POOL_BYTES: usize = 256 << 20;

    pub(super) fn new(device: &'a WgpuDevice, bytes: usize) -> Result<Self> {
        // Few sizes, so that calls of similar sizes share buffers.
        let rounded = bytes.max(MIN_BYTES as usize).checked_next_power_of_two();
        let size = rounded.filter(|&size| size as u64 <= device.max_binding_bytes()).unwrap_or(bytes);
        let mut pool = lock(&device.workspaces);
        let found = pool.iter().position(|buffer| buffer.bytes() == size);
        let found = found.map(|at| pool.swap_remove(at));
        drop(pool);
        let buffer = found.map_or_else(|| device.allocate(size), Ok)?;
        Ok(Self { device, buffer: Some(buffer) })
    }

    /// The buffer to bind.
    pub(crate) fn buffer(&self) -> Option<&WgpuBuffer> {
        self.buffer.as_ref()
    }

    /// All of it, for a launch.
    pub(crate) fn binding(&self) -> Option<Binding<'_>> {
        self.buffer().map(Binding::from)
    }
}

impl Drop for Workspace<'_> {
    fn drop(&mut self) {
        let mut pool = lock(&self.device.workspaces);
        pool.extend(self.buffer.take());
        let mut bytes: usize = pool.iter().map(WgpuBuffer::bytes).sum();
        while bytes > Self::POOL_BYTES {
            bytes -= pool.remove(0).bytes();
        }
    }
}

/// What a launch binds: a buffer, or a part of one.
#[derive(Clone, Copy)]
pub(crate) struct Binding<'a> {
    pub(super) buffer: &'a WgpuBuffer,
    /// First byte and bytes of a part.
    pub(super) part: Option<(u64, u64)>,
}

impl<'a> Binding<'a> {
    /// `bytes` bytes, whole words, from byte `offset`, a multiple of 256 (no device asks for more).
    pub(crate) fn part(buffer: &'a WgpuBuffer, offset: u64, bytes: u64) -> Self {
        Self { buffer, part: Some((offset, bytes)) }
    }

    /// First byte and end.
    pub(super) fn range(&self) -> (u64, u64) {
        self.part
            .map_or((0, self.buffer.raw.size()), |(offset, bytes)| (offset, offset.saturating_add(bytes)))
    }
}

impl<'a> From<&'a WgpuBuffer> for Binding<'a> {
    fn from(buffer: &'a WgpuBuffer) -> Self {
        Self { buffer, part: None }
    }
}

impl Core {
    /// Every buffer is made here, and counted.
    pub(super) fn create_buffer(&self, descriptor: &wgpu::BufferDescriptor<'_>) -> wgpu::Buffer {
        self.buffers.fetch_add(1, Ordering::Relaxed);
        self.device.create_buffer(descriptor)
    }

    /// Copies `out.len()` bytes from byte `offset` of `source`, and the status words, in one wait.
    pub(super) fn read_back(
        &self,
        source: Option<&wgpu::Buffer>,
        offset: usize,
        out: &mut [u8],
    ) -> Result<()> {
        self.check_lost()?;
        let skip = offset % 4;
        let words = ((skip + out.len()) as u64).next_multiple_of(4);
        let staging = lock(&self.staging).pop();
        let (staging, error) = match staging {
            Some(buffer) => (buffer, None),
            None => self.scoped(|| {
                self.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("read-back"),
                    size: STAGING_BYTES,
                    usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            }),
        };
        if error.is_some() {
            return Err(Error::OutOfMemory { requested: STAGING_BYTES, available: 0 });
        }
        let submission = self.submit(|encoder| {
            if let Some(source) = source {
                encoder.copy_buffer_to_buffer(source, (offset - skip) as u64, &staging, 0, words);
            }
            encoder.copy_buffer_to_buffer(&self.status, 0, &staging, words, STATUS_BYTES);
            // In the same submission, so that no flag set by another thread's kernel falls between the two.
            encoder.clear_buffer(&self.status, 0, None);
        })?;
        let range = 0..words + STATUS_BYTES;
        let (sender, mapped) = mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, range.clone(), move |result| {
            // The receiver is gone only if the wait below failed, which is reported there.
            let _ = sender.send(result);
        });
        self.wait(submission)?;
        // Another thread's poll may be the one that runs the callback; a dropped callback ends the wait too.
        if !matches!(mapped.recv(), Ok(Ok(()))) {
            self.check_lost()?;
            return Err(Error::Launch {
                kernel: "read-back".into(),
                code: "the buffer could not be mapped".into(),
            });
        }
        let status = match staging.get_mapped_range(range) {
            Ok(view) => {
                out.copy_from_slice(&view[skip..skip + out.len()]);
                view[words as usize..].to_vec()
            }
            Err(error) => {
                return Err(Error::Launch { kernel: "read-back".into(), code: error.to_string() });
            }
        };
        staging.unmap();
        lock(&self.staging).push(staging);
        self.take_error(&status)
    }
}
