//! wgpu: one shared device per adapter, created on first use.
//!
//! Errors never panic and are never dropped: what a call can see is returned by it, what wgpu reports later (uncaptured
//! errors, a lost device, status words) is returned by the next call that waits.

mod buffer;
mod launch;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use buffer::{Binding, WgpuBuffer, Workspace};

use super::{Backend, STATUS_WORDS, Status};
use crate::error::{Error, Result};
use crate::manifest::WgslKernel;
use crate::manifest::device::LOOP_GUARD;
use launch::{Batch, Pipelines};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Bytes of the status buffer.
const STATUS_BYTES: u64 = 4 * STATUS_WORDS as u64;

/// One adapter, for reports.
pub(crate) struct AdapterSummary {
    pub(crate) name: String,
    pub(crate) software: bool,
}

/// A wgpu device with its queue, pipelines and status words.
pub(crate) struct WgpuDevice {
    core: Arc<Core>,
    status: WgpuBuffer,
    /// Workspaces not in use.
    workspaces: Mutex<Vec<WgpuBuffer>>,
}

/// What buffers share with their device.
struct Core {
    name: String,
    device: wgpu::Device,
    queue: wgpu::Queue,
    limits: wgpu::Limits,
    status: wgpu::Buffer,
    pipelines: Pipelines,
    batch: Mutex<Batch>,
    /// Read-back buffers not in use, each of `buffer::STAGING_BYTES`.
    staging: Mutex<Vec<wgpu::Buffer>>,
    /// The first error wgpu reported outside any call of ours.
    pending: Arc<Mutex<Option<Error>>>,
    /// Set once, by the device-lost callback.
    lost: Arc<OnceLock<String>>,
    launches: AtomicU64,
    /// Buffers made since the device was opened.
    buffers: AtomicU64,
}

/// A panic while a lock was held leaves plain data that is still valid; later calls go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unavailable(reason: String) -> Error {
    Error::BackendUnavailable { backend: Backend::Wgpu, reason }
}

/// Every adapter of the process, hardware first; found once.
fn all_adapters() -> &'static [wgpu::Adapter] {
    static ADAPTERS: OnceLock<Vec<wgpu::Adapter>> = OnceLock::new();
    ADAPTERS.get_or_init(|| {
        // A driver that makes wgpu panic while it is looked at counts as absent.
        let found = catch_unwind(|| {
            let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
            descriptor.flags = wgpu::InstanceFlags::empty();
            let instance = wgpu::Instance::new(descriptor);
            pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()))
        });
        let mut adapters = found.unwrap_or_default();
        adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
            wgpu::DeviceType::DiscreteGpu => 0,
            wgpu::DeviceType::IntegratedGpu => 1,
            wgpu::DeviceType::VirtualGpu => 2,
            wgpu::DeviceType::Other => 3,
            wgpu::DeviceType::Cpu => 4,
        });
        adapters
    })
}

fn describe(info: &wgpu::AdapterInfo) -> String {
    format!("{}, {} {} ({})", info.name, info.driver, info.driver_info, info.backend)
}

/// Adapters, hardware first, or why there is none.
pub(crate) fn adapters() -> std::result::Result<Vec<AdapterSummary>, String> {
    let adapters = all_adapters();
    if adapters.is_empty() {
        return Err(no_adapter());
    }
    let summary = |adapter: &wgpu::Adapter| {
        let info = adapter.get_info();
        AdapterSummary { name: describe(&info), software: info.device_type == wgpu::DeviceType::Cpu }
    };
    Ok(adapters.iter().map(summary).collect())
}

fn no_adapter() -> String {
    "no Vulkan, Metal or DirectX 12 driver was found (on Debian and Ubuntu: libvulkan1 and the GPU's driver, or \
     mesa-vulkan-drivers 23.1 or newer for software Vulkan)"
        .into()
}

impl WgpuDevice {
    /// The device of the `index`-th adapter, one per process.
    pub(crate) fn shared(index: usize) -> Result<Arc<Self>> {
        type Slot = Arc<OnceLock<Result<Arc<WgpuDevice>>>>;
        static DEVICES: Mutex<Vec<Slot>> = Mutex::new(Vec::new());
        let adapters = all_adapters();
        let Some(adapter) = adapters.get(index) else {
            let count = adapters.len();
            return Err(unavailable(match count {
                0 => no_adapter(),
                _ => format!("adapter {index} was asked for, there are {count}"),
            }));
        };
        // Only the slot is made under the lock: opening one device does not hold up another.
        let slot = {
            let mut devices = lock(&DEVICES);
            let count = devices.len().max(index + 1);
            devices.resize_with(count, Slot::default);
            devices[index].clone()
        };
        slot.get_or_init(|| Self::open(adapter).map(Arc::new)).clone()
    }

    /// Opens an adapter with all the limits it has, and checks that a software driver can be trusted.
    fn open(adapter: &wgpu::Adapter) -> Result<Self> {
        let info = adapter.get_info();
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("gatewarp"),
            required_features: adapter.features() & wgpu::Features::SUBGROUP,
            required_limits: adapter.limits(),
            ..Default::default()
        };
        let opened =
            catch_unwind(AssertUnwindSafe(|| pollster::block_on(adapter.request_device(&descriptor))));
        let (device, queue) = opened
            .map_err(|_| unavailable(format!("{}: wgpu panicked while opening it", info.name)))?
            .map_err(|error| unavailable(format!("{}: {error}", info.name)))?;

        let pending = Arc::new(Mutex::new(None));
        let first = pending.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            lock(&first).get_or_insert(launch_error("(unknown)", &error));
        }));
        let lost = Arc::new(OnceLock::new());
        let flag = lost.clone();
        device.set_device_lost_callback(move |reason, message| {
            // Only the first reason matters; a second loss adds nothing.
            let _ = flag.set(format!("{reason:?}: {message}"));
        });

        let status = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("status"),
            size: STATUS_BYTES,
            usage: buffer::USAGE,
            mapped_at_creation: false,
        });
        let core = Arc::new(Core {
            name: describe(&info),
            batch: Mutex::new(Batch::new(&device)),
            limits: device.limits(),
            device,
            queue,
            status: status.clone(),
            pipelines: Pipelines::default(),
            staging: Mutex::default(),
            pending,
            lost,
            launches: AtomicU64::new(0),
            buffers: AtomicU64::new(0),
        });
        let status = WgpuBuffer::wrap(core.clone(), status, STATUS_BYTES as usize);
        let device = Self { core, status, workspaces: Mutex::default() };
        if info.device_type == wgpu::DeviceType::Cpu {
            device.check_long_loops(&LOOP_GUARD, 70_000)?;
        }
        Ok(device)
    }

    /// Refuses drivers on which `guard` does not count to `iterations`.
    fn check_long_loops(&self, guard: &'static WgslKernel, iterations: u32) -> Result<()> {
        let count = self.allocate(4)?;
        self.launch(guard, &[Some(&count)], &iterations.to_le_bytes(), [1, 1, 1])?;
        let mut counted = [0; 4];
        count.download(0, &mut counted)?;
        let counted = u32::from_le_bytes(counted);
        if counted == iterations {
            return Ok(());
        }
        Err(unavailable(format!(
            "{} counted a loop of {iterations} to {counted}. The lavapipe of Mesa 22 (Debian 12) stops loops after 65,535 \
             iterations; install Mesa 23.1 or newer (Debian 12: apt-get install -t bookworm-backports \
             mesa-vulkan-drivers, Mesa 25.0.7)",
            self.core.name
        )))
    }

    /// Adapter, driver and API.
    pub(crate) fn name(&self) -> String {
        self.core.name.clone()
    }

    /// Waits for all submitted work; returns and clears what went wrong since the last call that waited.
    pub(crate) fn synchronize(&self) -> Result<()> {
        self.core.read_back(None, 0, &mut [])
    }

    /// A zeroed buffer of at least `bytes` bytes.
    pub(crate) fn allocate(&self, bytes: usize) -> Result<WgpuBuffer> {
        WgpuBuffer::new(&self.core, bytes)
    }

    /// A buffer of at least `bytes` bytes with unspecified contents, for what one call passes between its kernels.
    ///
    /// Comes from a pool, so that a repeated call allocates nothing. It may be dropped as soon as the kernels are queued: one
    /// queue runs everything in order, so whoever gets the buffer next writes it later.
    pub(crate) fn workspace(&self, bytes: usize) -> Result<Workspace<'_>> {
        Workspace::new(self, bytes)
    }

    /// Largest buffer a kernel can use, in bytes.
    pub(crate) fn max_binding_bytes(&self) -> u64 {
        self.core.limits.max_storage_buffer_binding_size
    }

    /// The device's status words (device/status.rs), bound by kernels that check device values.
    pub(crate) fn status(&self) -> &WgpuBuffer {
        &self.status
    }

    /// Queues one kernel. Bindings in the row's order; `None` binds a small dummy buffer.
    ///
    /// The row is a `static`: its address names the compiled pipeline. Launches run in the order of the calls, at the latest
    /// when something waits for them; their buffers may be dropped at once.
    ///
    /// A dispatch of zero workgroups is legal and does nothing.
    ///
    /// # Errors
    /// [`Error::Unsupported`] beyond a limit of the device; [`Error::Launch`] if the arguments are not the row's;
    /// [`Error::Compile`] on the first launch of a kernel that does not compile; [`Error::DeviceLost`].
    pub(crate) fn launch(
        &self,
        kernel: &'static WgslKernel,
        bindings: &[Option<&WgpuBuffer>],
        params: &[u8],
        workgroups: [u32; 3],
    ) -> Result<()> {
        let bindings: Vec<_> = bindings.iter().map(|bound| bound.map(Binding::from)).collect();
        self.core.launch(kernel, &bindings, params, workgroups)
    }

    /// As [`launch`](Self::launch), of buffers or parts of them. Parts of one buffer may be bound several times if all are read,
    /// or all are written and no two overlap: WebGPU has no more.
    pub(crate) fn launch_parts(
        &self,
        kernel: &'static WgslKernel,
        bindings: &[Option<Binding<'_>>],
        params: &[u8],
        workgroups: [u32; 3],
    ) -> Result<()> {
        self.core.launch(kernel, bindings, params, workgroups)
    }

    /// Most workgroups a persistent kernel asks for: enough to fill any device, few enough to be cheap on a small one.
    pub(crate) fn persistent_workgroups(&self) -> u32 {
        const MANY: u32 = 4096;
        MANY.min(self.core.limits.max_compute_workgroups_per_dimension)
    }

    /// Kernels queued so far, so that tests can see that a path launched nothing.
    #[cfg_attr(not(test), expect(dead_code, reason = "read by tests"))]
    pub(crate) fn launches(&self) -> u64 {
        self.core.launches.load(Ordering::Relaxed)
    }

    /// Buffers made so far, so that tests can see that a call allocated nothing.
    #[cfg_attr(not(test), expect(dead_code, reason = "read by tests"))]
    pub(crate) fn buffers(&self) -> u64 {
        self.core.buffers.load(Ordering::Relaxed)
    }
}

impl Core {
    fn check_lost(&self) -> Result<()> {
        match self.lost.get() {
            Some(reason) => Err(Error::DeviceLost { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Runs `work` and returns the first error wgpu raises in it. Scopes are thread-local, so threads do not mix.
    fn scoped<T>(&self, work: impl FnOnce() -> T) -> (T, Option<wgpu::Error>) {
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let value = work();
        // Popped in reverse order; the memory error comes first because the others follow from it.
        let validation = pollster::block_on(validation.pop());
        let memory = pollster::block_on(memory.pop());
        let internal = pollster::block_on(internal.pop());
        (value, memory.or(internal).or(validation))
    }

    /// Waits for `submission`. wgpu panics here if the device is lost, which must not reach the caller.
    fn wait(&self, submission: wgpu::SubmissionIndex) -> Result<()> {
        let poll = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
        let polled = catch_unwind(AssertUnwindSafe(|| self.device.poll(poll)));
        let reason = match polled {
            Ok(Ok(_)) => return self.check_lost(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "wgpu failed while waiting for it".into(),
        };
        // wgpu does not always call the device-lost callback, so every later call is refused from here.
        self.lost.get_or_init(|| reason);
        self.check_lost()
    }

    /// The first thing that went wrong since the last wait: an error wgpu reported, then a status word.
    fn take_error(&self, status: &[u8]) -> Result<()> {
        let words: Vec<u32> =
            status.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect();
        match lock(&self.pending).take().or(Status::error(&words)) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

fn launch_error(kernel: &str, error: &wgpu::Error) -> Error {
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory { requested: 0, available: 0 },
        _ => Error::Launch { kernel: kernel.to_owned(), code: error.to_string() },
    }
}
