//! The NVIDIA driver, through cudarc's bindings: primary context (shared with PyTorch and candle), one stream of our own.
//!
//! cudarc's thin `result` layer is used, not its safe one: that tracks an event per buffer, which forbids graph capture.
#![allow(unsafe_code)]

use super::compile::{self, Architecture};
use super::tensor_map::{self, TENSOR_MAP, Tiled};
use super::{Driver, lock};
use crate::device::Backend;
use crate::error::{Error, Result};
use crate::manifest::CudaKernel;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{CUcontext, CUdevice, CUfunction, CUmodule, CUresult, CUstream};
use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUfunction_attribute as FunctionAttribute};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Mutex, OnceLock};

/// Names under which cudarc looks for the driver, most common first.
pub(super) const LIBRARIES: &[&str] = &["libcuda.so.1", "libcuda.so", "nvcuda.dll"];

/// Every driver function called below. cudarc panics where one is missing, so all are looked up before the first call.
const SYMBOLS: &[&str] = &[
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRetain",
    "cuDriverGetVersion",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAllocAsync",
    "cuMemAlloc_v2",
    "cuMemFreeAsync",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuStreamCreate",
    "cuStreamSynchronize",
];

/// Shared memory a block may have without asking for more.
const SHARED_WITHOUT_OPT_IN: u32 = 48 << 10;

/// Uploads up to this size go through memory of our own, so that they need not wait for the stream.
const STAGED_UPLOAD_BYTES: usize = 64 << 10;

/// The name of each device, or why it cannot be used; or why there are none.
pub(super) fn device_names() -> std::result::Result<Vec<std::result::Result<String, String>>, String> {
    initialise()?;
    let count = result::device::get_count().map_err(describe)?;
    if count == 0 {
        return Err("the NVIDIA driver reports no device".into());
    }
    let look = |index| {
        let properties = Properties::read(index).map_err(describe)?;
        properties.check()?;
        compile::check()?;
        Ok(properties.to_string())
    };
    Ok((0..count).map(look).collect())
}

/// Major version of CUDA that the driver can run code of, if there is a driver.
pub(super) fn cuda_major() -> Option<i32> {
    initialise().ok()?;
    let mut version = 0;
    // SAFETY: writes one integer.
    unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) }.result().ok()?;
    Some(version / 1000)
}

/// Finds the driver library and initialises it, once.
fn initialise() -> std::result::Result<(), String> {
    static STATE: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    STATE
        .get_or_init(|| {
            probe_library()?;
            result::init().map_err(|error| format!("the NVIDIA driver does not start: {}", describe(error)))
        })
        .clone()
}

fn probe_library() -> std::result::Result<(), String> {
    let open = |name: &&str| {
        // SAFETY: loading the driver runs its initialisers, as cudarc's own loading is about to.
        unsafe { libloading::Library::new(*name) }.ok()
    };
    let library = LIBRARIES.iter().find_map(open).ok_or_else(|| {
        format!("no NVIDIA driver: none of {} can be loaded (is this a GPU machine?)", LIBRARIES.join(", "))
    })?;
    let missing = SYMBOLS.iter().find(|symbol| {
        // SAFETY: the symbol is only looked up, never called through this type.
        unsafe { library.get::<*const c_void>(symbol.as_bytes()) }.is_err()
    });
    match missing {
        Some(symbol) => Err(format!("the NVIDIA driver is too old or broken: it lacks {symbol}")),
        None => Ok(()),
    }
}

/// `NAME: description`.
fn describe(error: DriverError) -> String {
    let text = |s: std::result::Result<&std::ffi::CStr, DriverError>| {
        s.map_or_else(|_| format!("error {}", error.0 as u32), |s| s.to_string_lossy().into_owned())
    };
    format!("{}: {}", text(error.error_name()), text(error.error_string()))
}

/// Errors after which the context, shared with the whole process, refuses every further call.
fn is_sticky(code: CUresult) -> bool {
    matches!(
        code,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
            | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
            | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUresult::CUDA_ERROR_DEINITIALIZED
            | CUresult::CUDA_ERROR_UNKNOWN
    )
}

/// Whether kernels for 9.0 alone may run: `GATEWARP_SM90=0` keeps to those of 8.0, to compare the two.
fn is_allowed() -> bool {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    *ALLOWED.get_or_init(|| std::env::var_os("GATEWARP_SM90").is_none_or(|value| value != "0"))
}

/// What is asked of a device before it is used.
struct Properties {
    name: String,
    capability: (u32, u32),
    driver_version: i32,
    multiprocessors: u32,
    shared_limit: u32,
    has_memory_pools: bool,
}

impl Properties {
    fn read(index: i32) -> std::result::Result<Self, DriverError> {
        let device = result::device::get(index)?;
        let attribute = |which: Attribute| {
            // SAFETY: `device` is what the driver returned for this index.
            unsafe { result::device::get_attribute(device, which) }.map(|value| value.max(0) as u32)
        };
        let mut driver_version = 0;
        // SAFETY: writes one integer.
        unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut driver_version) }.result()?;
        Ok(Self {
            name: result::device::get_name(device)?,
            capability: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            driver_version,
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_limit: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            has_memory_pools: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? > 0,
        })
    }
}

impl Properties {
    fn check(&self) -> std::result::Result<(), String> {
        if self.capability.0 < 8 {
            return Err(format!("{self} is older than compute capability 8.0"));
        }
        Ok(())
    }
}

impl std::fmt::Display for Properties {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor) = self.capability;
        let (cuda, point) = (self.driver_version / 1000, self.driver_version % 1000 / 10);
        write!(f, "{} (compute capability {major}.{minor}, driver for CUDA {cuda}.{point})", self.name)
    }
}

/// A driver handle that any thread may use.
#[derive(Clone, Copy)]
struct Handle<T>(T);

// SAFETY: the driver API is thread-safe; contexts, streams, modules and functions may be used from any thread whose current
// context is theirs, which every method below sets first.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Handle<T> {}

/// One NVIDIA device. Lives as long as the process, so nothing is ever unloaded under running work.
pub(super) struct NvidiaDriver {
    properties: Properties,
    context: Handle<CUcontext>,
    stream: Handle<CUstream>,
    /// Compiled files by path below `kernels/`.
    modules: Mutex<HashMap<&'static str, Handle<CUmodule>>>,
    /// Loaded kernels by entry.
    functions: Mutex<HashMap<&'static str, Handle<CUfunction>>>,
    /// Entry of the last kernel started: the likely cause of an asynchronous error.
    last_kernel: Mutex<&'static str>,
    /// A failure where it could not be returned.
    deferred: Mutex<Option<Error>>,
}

impl NvidiaDriver {
    pub(super) fn new(index: usize) -> Result<Self> {
        let unavailable = |reason| Error::BackendUnavailable { backend: Backend::Cuda, reason };
        let failed = |error| unavailable(describe(error));
        initialise().map_err(unavailable)?;
        let count = result::device::get_count().map_err(failed)?;
        let ordinal = i32::try_from(index).ok().filter(|&ordinal| ordinal < count);
        let ordinal =
            ordinal.ok_or_else(|| unavailable(format!("there is no device {index} among {count}")))?;
        let properties = Properties::read(ordinal).map_err(failed)?;
        properties.check().map_err(unavailable)?;
        let device: CUdevice = result::device::get(ordinal).map_err(failed)?;
        // SAFETY: `device` is what the driver returned.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed)?;
        // SAFETY: `context` has just been retained and is never released.
        unsafe { result::ctx::set_current(context) }.map_err(failed)?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(failed)?;
        Ok(Self {
            properties,
            context: Handle(context),
            stream: Handle(stream),
            modules: Mutex::default(),
            functions: Mutex::default(),
            last_kernel: Mutex::new(""),
            deferred: Mutex::default(),
        })
    }

    /// Makes the context current on this thread: calls may come from any.
    fn bind(&self) -> Result<()> {
        // SAFETY: the primary context is retained for the life of the process.
        unsafe { result::ctx::set_current(self.context.0) }.map_err(|error| self.error(error))
    }

    /// The crate's error for a driver error outside a launch.
    fn error(&self, error: DriverError) -> Error {
        let last = *lock(&self.last_kernel);
        let reason = describe(error);
        if is_sticky(error.0) {
            let blame = if last.is_empty() { "".into() } else { format!(" (last kernel started: `{last}`)") };
            return Error::DeviceLost { reason: format!("{reason}{blame}") };
        }
        Error::Launch { kernel: last.into(), code: reason }
    }

    fn function(&self, kernel: &'static CudaKernel) -> Result<CUfunction> {
        if let Some(function) = lock(&self.functions).get(kernel.entry) {
            return Ok(function.0);
        }
        let refused = |error| Error::Launch { kernel: kernel.entry.into(), code: describe(error) };
        let module = self.module(kernel)?;
        let entry = CString::new(kernel.entry)
            .map_err(|_| Error::Launch { kernel: kernel.entry.into(), code: "entry holds a NUL".into() })?;
        // SAFETY: the module is loaded and never unloaded.
        let function = unsafe { result::module::get_function(module, entry) }.map_err(refused)?;
        if kernel.shared_bytes > SHARED_WITHOUT_OPT_IN {
            let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function was just found. The size is within `shared_limit`, so it fits an i32.
            unsafe {
                result::function::set_function_attribute(function, attribute, kernel.shared_bytes as i32)
            }
            .map_err(refused)?;
        }
        lock(&self.functions).insert(kernel.entry, Handle(function));
        Ok(function)
    }

    /// The module of the kernel's file. The lock is held while compiling, so each file is compiled once.
    fn module(&self, kernel: &'static CudaKernel) -> Result<CUmodule> {
        let mut modules = lock(&self.modules);
        if let Some(module) = modules.get(kernel.file) {
            return Ok(module.0);
        }
        let (major, minor) = self.properties.capability;
        let architecture = Architecture { major, minor };
        let image = compile::image(kernel, architecture)?;
        // SAFETY: a cubin, or PTX with a trailing NUL, complete as checked by `compile`.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(|error| {
            let log = format!(
                "{} (on {}; an NVRTC newer than the driver makes modules it refuses)",
                describe(error),
                self.properties
            );
            Error::Compile { kernel: kernel.entry.into(), arch: architecture.to_string(), log }
        })?;
        modules.insert(kernel.file, Handle(module));
        Ok(module)
    }
}

impl Driver for NvidiaDriver {
    fn name(&self) -> String {
        self.properties.to_string()
    }

    fn multiprocessors(&self) -> u32 {
        self.properties.multiprocessors
    }

    fn shared_limit(&self) -> u32 {
        self.properties.shared_limit
    }

    fn has_asynchronous_units(&self) -> bool {
        // The code for 9.0 runs on no other, later ones included.
        self.properties.capability == (9, 0) && is_allowed() && tensor_map::is_available()
    }

    fn tensor_map(&self, address: u64, tiled: &Tiled) -> Result<[u8; TENSOR_MAP]> {
        tensor_map::nvidia(address, tiled)
            .map_err(|code| Error::Launch { kernel: "a description of a tensor".into(), code })
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.bind()?;
        let address = if self.properties.has_memory_pools {
            // SAFETY: the memory is only used on our stream, or after it is synchronised.
            unsafe { result::malloc_async(self.stream.0, bytes) }
        } else {
            // SAFETY: the contents are set before they are read.
            unsafe { result::malloc_sync(bytes) }
        };
        address.map_err(|error| {
            if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
                let available = result::mem_get_info().map_or(0, |(free, _)| free as u64);
                return Error::OutOfMemory { requested: bytes as u64, available };
            }
            self.error(error)
        })
    }

    fn free(&self, address: u64) {
        let freed = self.bind().and_then(|()| {
            if self.properties.has_memory_pools {
                // SAFETY: allocated by `malloc_async`, freed once, after all work of the stream that uses it.
                unsafe { result::free_async(address, self.stream.0) }
            } else {
                // SAFETY: allocated by `malloc_sync`, freed once; cuMemFree waits for running work.
                unsafe { result::free_sync(address) }
            }
            .map_err(|error| self.error(error))
        });
        if let Err(error) = freed {
            lock(&self.deferred).get_or_insert(error);
        }
    }

    fn copy_in(&self, address: u64, data: &[u8]) -> Result<()> {
        self.bind()?;
        let staged = (data.len() <= STAGED_UPLOAD_BYTES).then(|| data.to_vec());
        let source = staged.as_deref().unwrap_or(data);
        // SAFETY: the range was checked by the caller; the source outlives the copy, as said below.
        unsafe { result::memcpy_htod_async(address, source, self.stream.0) }
            .map_err(|error| self.error(error))?;
        // From pageable memory the driver has read everything on return, and a fresh Vec is pageable. The caller's memory
        // may be pinned, and is then read later.
        if staged.is_none() {
            // SAFETY: our stream, never destroyed.
            unsafe { result::stream::synchronize(self.stream.0) }.map_err(|error| self.error(error))?;
        }
        Ok(())
    }

    fn copy_out(&self, address: u64, out: &mut [u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: the range was checked by the caller; `out` is borrowed until the stream has been waited for.
        let copied = unsafe { result::memcpy_dtoh_async(out, address, self.stream.0) };
        // Waits even after a failure: `out` must not be written once this returns.
        // SAFETY: our stream, never destroyed.
        let waited = unsafe { result::stream::synchronize(self.stream.0) };
        copied.and(waited).map_err(|error| self.error(error))
    }

    fn fill(&self, address: u64, bytes: usize, value: u8) -> Result<()> {
        self.bind()?;
        // SAFETY: the range was checked by the caller.
        unsafe { result::memset_d8_async(address, value, bytes, self.stream.0) }
            .map_err(|error| self.error(error))
    }

    fn synchronize(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: our stream, never destroyed.
        unsafe { result::stream::synchronize(self.stream.0) }.map_err(|error| self.error(error))?;
        lock(&self.deferred).take().map_or(Ok(()), Err)
    }

    unsafe fn launch(
        &self,
        kernel: &'static CudaKernel,
        grid: [u32; 3],
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        self.bind()?;
        let function = self.function(kernel)?;
        let [x, y, z] = grid;
        // SAFETY: the caller's promise; the driver copies the argument values before it returns.
        let started = unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (kernel.block, 1, 1),
                kernel.shared_bytes,
                self.stream.0,
                arguments,
            )
        };
        started.map_err(|error| {
            if is_sticky(error.0) {
                return self.error(error); // of an earlier kernel
            }
            Error::Launch { kernel: kernel.entry.into(), code: describe(error) }
        })?;
        *lock(&self.last_kernel) = kernel.entry;
        Ok(())
    }
}
