//! The six NVRTC functions that compiling needs, loaded at run time.

use crate::Outcome;
use gatewarp::manifest::CUDA_HEADERS;
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

type Program = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Fill = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;

/// What came out of one compilation.
pub struct Compiled {
    /// Warnings, and what ptxas says with `-v`.
    pub log: String,
    /// The PTX text.
    pub ptx: String,
    /// Bytes of machine code; 0 for a virtual architecture (`compute_80`).
    pub cubin_bytes: usize,
}

/// A loaded NVRTC.
pub struct Nvrtc {
    library: Library,
    // NVRTC opens this one by its bare name, which succeeds only if it is loaded already.
    _builtins: Option<Library>,
}

impl Nvrtc {
    /// Loads the library at `path`, and first the builtins beside it.
    pub fn load(path: &Path) -> Outcome<Self> {
        let builtins = builtins_beside(path);
        let open = |path: &Path| {
            // SAFETY: both are NVIDIA's compiler libraries, whose initialisers only set up their own state.
            unsafe { Library::new(path) }.map_err(|error| format!("cannot load {}: {error}", path.display()))
        };
        Ok(Self { _builtins: builtins.map(|path| open(&path)).transpose()?, library: open(path)? })
    }

    /// Version as `(major, minor)`.
    pub fn version(&self) -> Outcome<(i32, i32)> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the signature is nvrtc.h's, and both pointers are valid for writing.
        let code = unsafe { self.function::<Version>(c"nvrtcVersion")?(&mut major, &mut minor) };
        if code == 0 { Ok((major, minor)) } else { Err(format!("nvrtcVersion returned {code}")) }
    }

    /// Compiles `source`, called `name` in messages, with the headers that it finds at run time and no others.
    pub fn compile(&self, name: &str, source: &str, options: &[&str]) -> Outcome<Compiled> {
        let program = Handle::create(self, name, source)?;
        let options = options.iter().map(|option| c_string(option)).collect::<Outcome<Vec<_>>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).map_err(|_| "too many options".to_owned())?;
        // SAFETY: the program is alive, and `pointers` holds `count` NUL-terminated strings that outlive the call.
        let code = unsafe {
            self.function::<Compile>(c"nvrtcCompileProgram")?(program.raw, count, pointers.as_ptr())
        };
        let log = program.text(c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog")?;
        if code != 0 {
            return Err(format!("{name} does not compile (NVRTC code {code}):\n{log}"));
        }
        let ptx = program.text(c"nvrtcGetPTXSize", c"nvrtcGetPTX")?;
        Ok(Compiled { log, ptx, cubin_bytes: program.size(c"nvrtcGetCUBINSize")? })
    }

    fn function<T: Copy>(&self, name: &CStr) -> Outcome<T> {
        // SAFETY: callers name a function of nvrtc.h together with its own signature, `T`; it is copied out as a plain
        // pointer and used only while `self.library` is loaded.
        let symbol = unsafe { self.library.get::<T>(name.to_bytes_with_nul()) };
        symbol.map(|symbol| *symbol).map_err(|error| format!("NVRTC lacks {name:?}: {error}"))
    }
}

/// A program, destroyed when dropped.
struct Handle<'a> {
    nvrtc: &'a Nvrtc,
    raw: Program,
}

impl<'a> Handle<'a> {
    fn create(nvrtc: &'a Nvrtc, name: &str, source: &str) -> Outcome<Self> {
        let (name, source) = (c_string(name)?, c_string(source)?);
        let names = CUDA_HEADERS.iter().map(|(name, _)| c_string(name)).collect::<Outcome<Vec<_>>>()?;
        let texts = CUDA_HEADERS.iter().map(|(_, text)| c_string(text)).collect::<Outcome<Vec<_>>>()?;
        let name_pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        let text_pointers: Vec<_> = texts.iter().map(|text| text.as_ptr()).collect();
        let count = c_int::try_from(names.len()).map_err(|_| "too many headers".to_owned())?;
        let create = nvrtc.function::<Create>(c"nvrtcCreateProgram")?;
        let mut raw = ptr::null_mut();
        // SAFETY: all strings are NUL-terminated, both arrays hold `count` of them, and all outlive the call, which copies.
        let code = unsafe {
            create(
                &mut raw,
                source.as_ptr(),
                name.as_ptr(),
                count,
                text_pointers.as_ptr(),
                name_pointers.as_ptr(),
            )
        };
        if code == 0 { Ok(Self { nvrtc, raw }) } else { Err(format!("nvrtcCreateProgram returned {code}")) }
    }

    fn size(&self, function: &CStr) -> Outcome<usize> {
        let mut size = 0;
        // SAFETY: the program is alive and `size` is valid for writing.
        let code = unsafe { self.nvrtc.function::<Size>(function)?(self.raw, &mut size) };
        if code == 0 { Ok(size) } else { Err(format!("{function:?} returned {code}")) }
    }

    /// A text of the program, without the NUL that NVRTC counts into its size.
    fn text(&self, size: &CStr, fill: &CStr) -> Outcome<String> {
        let mut bytes = vec![0_u8; self.size(size)?.max(1)];
        // SAFETY: `bytes` has the size that the program asked for.
        let code = unsafe { self.nvrtc.function::<Fill>(fill)?(self.raw, bytes.as_mut_ptr().cast()) };
        if code != 0 {
            return Err(format!("{fill:?} returned {code}"));
        }
        let text = CStr::from_bytes_until_nul(&bytes).map_err(|error| format!("{fill:?}: {error}"))?;
        Ok(text.to_string_lossy().into_owned())
    }
}

impl Drop for Handle<'_> {
    fn drop(&mut self) {
        if let Ok(destroy) = self.nvrtc.function::<Destroy>(c"nvrtcDestroyProgram") {
            // SAFETY: the program is alive and is not used again.
            unsafe { destroy(&mut self.raw) };
        }
    }
}

fn c_string(text: &str) -> Outcome<CString> {
    CString::new(text).map_err(|_| "a NUL character in text for NVRTC".to_owned())
}

/// `libnvrtc-builtins.so.*` in the folder of `library`.
fn builtins_beside(library: &Path) -> Option<std::path::PathBuf> {
    let files = std::fs::read_dir(library.parent()?).ok()?.flatten();
    files.map(|file| file.path()).find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libnvrtc-builtins.so"))
    })
}
