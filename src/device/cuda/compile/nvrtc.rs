//! NVRTC: finding the library, and the dozen functions of it that we call.
#![allow(unsafe_code)]

use super::super::driver::cuda_major;
use crate::device::Backend;
use crate::error::{Error, Result};
use libloading::Library;
use std::ffi::{CStr, CString, OsString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::OnceLock;

/// Environment variable that names the library or its folder.
const VARIABLE: &str = "GATEWARP_NVRTC";

/// Names the system's loader may know.
const SYSTEM_NAMES: &[&str] = &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

/// Where NVIDIA's wheels put the library below `site-packages`, newest first.
const WHEEL_FOLDERS: &[&str] = &["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"];

type Code = c_int;
type Program = *mut c_void;
type Size = unsafe extern "C" fn(Program, *mut usize) -> Code;
type Text = unsafe extern "C" fn(Program, *mut c_char) -> Code;

/// NVRTC's functions. The library stays loaded for the life of the process.
pub(super) struct Nvrtc {
    version: (c_int, c_int),
    architectures: Vec<c_int>,
    error_string: unsafe extern "C" fn(Code) -> *const c_char,
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Code,
    destroy: unsafe extern "C" fn(*mut Program) -> Code,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Code,
    log: (Size, Text),
    ptx: (Size, Text),
    cubin: (Size, Text),
}

/// A program that is destroyed whatever happens.
struct Session<'a> {
    nvrtc: &'a Nvrtc,
    program: Program,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // SAFETY: created by nvrtcCreateProgram, destroyed once.
        unsafe { (self.nvrtc.destroy)(&mut self.program) };
    }
}

impl Nvrtc {
    /// The library, found on first use. A failure is not remembered: it can be installed meanwhile.
    pub(super) fn shared() -> Result<&'static Self> {
        static NVRTC: OnceLock<Nvrtc> = OnceLock::new();
        if let Some(nvrtc) = NVRTC.get() {
            return Ok(nvrtc);
        }
        let nvrtc =
            Self::find().map_err(|reason| Error::BackendUnavailable { backend: Backend::Cuda, reason })?;
        Ok(NVRTC.get_or_init(|| nvrtc))
    }

    fn find() -> std::result::Result<Self, String> {
        if let Some(place) = std::env::var_os(VARIABLE).filter(|place| !place.is_empty()) {
            let place = PathBuf::from(place);
            let opened = if place.is_dir() { open_in(&place) } else { open_file(&place) };
            let opened =
                opened.ok_or_else(|| format!("{VARIABLE} is {}: no NVRTC there", place.display()))?;
            return Self::bind(opened);
        }
        let open_name = |name: &&str| {
            // SAFETY: loading NVRTC runs its initialisers, which have no requirements.
            unsafe { Library::new(*name) }.ok()
        };
        let variable = |name: &str| std::env::var_os(name);
        let (toolkits, wheels) = (toolkit_folders(variable), wheel_folders(&site_packages(variable)));
        let found = SYSTEM_NAMES.iter().filter_map(open_name);
        let found = found.chain(toolkits.iter().filter_map(|folder| open_in(folder)));
        let found = found.chain(wheels.iter().filter_map(|folder| open_in(folder)));
        let driver = cuda_major();
        let mut first = None;
        for library in found {
            let bound = Self::bind(library);
            // A driver refuses code of a CUDA newer than its own, so a library that fits it comes before the newest.
            if bound.as_ref().is_ok_and(|nvrtc| driver.is_none_or(|driver| nvrtc.version.0 <= driver)) {
                return bound;
            }
            first = first.or(Some(bound));
        }
        first.unwrap_or_else(|| {
            Err(format!(
                "kernels are compiled on first use, and NVRTC was not found. Install the CUDA toolkit, or run \
                 `pip install nvidia-cuda-nvrtc` (nvidia-cuda-nvrtc-cu12 for a driver of CUDA 12) in the active Python \
                 environment, or set {VARIABLE} to the folder of libnvrtc.so"
            ))
        })
    }

    fn bind(library: Library) -> std::result::Result<Self, String> {
        // The functions below are called as long as the process lives.
        let library: &'static Library = Box::leak(Box::new(library));
        fn symbol<T: Copy>(library: &'static Library, name: &str) -> std::result::Result<T, String> {
            // SAFETY: every caller below names the function's C type as nvrtc.h declares it.
            unsafe { library.get::<T>(name.as_bytes()) }
                .map(|symbol| *symbol)
                .map_err(|_| format!("NVRTC is too old: it lacks {name}"))
        }
        let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Code = symbol(library, "nvrtcVersion")?;
        let count: unsafe extern "C" fn(*mut c_int) -> Code = symbol(library, "nvrtcGetNumSupportedArchs")?;
        let list: unsafe extern "C" fn(*mut c_int) -> Code = symbol(library, "nvrtcGetSupportedArchs")?;
        let mut nvrtc = Self {
            version: (0, 0),
            architectures: Vec::new(),
            error_string: symbol(library, "nvrtcGetErrorString")?,
            create: symbol(library, "nvrtcCreateProgram")?,
            destroy: symbol(library, "nvrtcDestroyProgram")?,
            compile: symbol(library, "nvrtcCompileProgram")?,
            log: (symbol(library, "nvrtcGetProgramLogSize")?, symbol(library, "nvrtcGetProgramLog")?),
            ptx: (symbol(library, "nvrtcGetPTXSize")?, symbol(library, "nvrtcGetPTX")?),
            cubin: (symbol(library, "nvrtcGetCUBINSize")?, symbol(library, "nvrtcGetCUBIN")?),
        };
        let mut architectures: c_int = 0;
        // SAFETY: both write integers to the places given.
        let codes =
            unsafe { [version(&mut nvrtc.version.0, &mut nvrtc.version.1), count(&mut architectures)] };
        codes.into_iter().try_for_each(|code| nvrtc.check(code))?;
        let mut known = vec![0; architectures.max(0) as usize];
        // SAFETY: writes as many integers as it has just counted.
        nvrtc.check(unsafe { list(known.as_mut_ptr()) })?;
        nvrtc.architectures = known;
        Ok(nvrtc)
    }

    pub(super) fn version(&self) -> String {
        format!("NVRTC {}.{}", self.version.0, self.version.1)
    }

    /// Whether it compiles for compute capability `capability / 10 . capability % 10`.
    pub(super) fn supports(&self, capability: u32) -> bool {
        self.architectures.iter().any(|&known| u32::try_from(known) == Ok(capability))
    }

    /// Compiles `source`, which may include each of `headers` by its name, to a cubin or to PTX with its trailing NUL.
    ///
    /// # Errors
    /// The compiler's log.
    pub(super) fn compile(
        &self,
        name: &str,
        source: &str,
        headers: &[(&str, &str)],
        options: &[String],
        cubin: bool,
    ) -> std::result::Result<Vec<u8>, String> {
        let text = |s: &str| CString::new(s).map_err(|_| format!("{name}: a text holds a NUL byte"));
        let (source, title) = (text(source)?, text(name)?);
        let texts =
            |strings: Vec<&str>| strings.into_iter().map(text).collect::<std::result::Result<Vec<_>, _>>();
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let include_names = texts(headers.iter().map(|&(name, _)| name).collect())?;
        let header_texts = texts(headers.iter().map(|&(_, text)| text).collect())?;
        let options = texts(options.iter().map(String::as_str).collect())?;
        let mut program = ptr::null_mut();
        let (text_pointers, name_pointers) = (pointers(&header_texts), pointers(&include_names));
        // SAFETY: NUL-terminated strings that live to the end of this function, as many of each list as said.
        self.check(unsafe {
            (self.create)(
                &mut program,
                source.as_ptr(),
                title.as_ptr(),
                headers.len() as c_int,
                text_pointers.as_ptr(),
                name_pointers.as_ptr(),
            )
        })?;
        let session = Session { nvrtc: self, program };
        // SAFETY: a live program, and as many options as said.
        let code =
            unsafe { (self.compile)(session.program, options.len() as c_int, pointers(&options).as_ptr()) };
        if let Err(error) = self.check(code) {
            let log = self.output(&session, self.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            return Err(format!("{error}\n{}", log.trim_end_matches(['\0', '\n'])));
        }
        self.output(&session, if cubin { self.cubin } else { self.ptx })
    }

    fn output(
        &self,
        session: &Session<'_>,
        (size, text): (Size, Text),
    ) -> std::result::Result<Vec<u8>, String> {
        let mut bytes = 0;
        // SAFETY: a live program; writes one size.
        self.check(unsafe { size(session.program, &mut bytes) })?;
        let mut output = vec![0u8; bytes];
        // SAFETY: writes the number of bytes it has just said, the trailing NUL of a text included.
        self.check(unsafe { text(session.program, output.as_mut_ptr().cast()) })?;
        Ok(output)
    }

    fn check(&self, code: Code) -> std::result::Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: returns a static string for every code.
        let text = unsafe { CStr::from_ptr((self.error_string)(code)) };
        Err(format!("{} {}", self.version(), text.to_string_lossy()))
    }
}

/// Opens the newest NVRTC of a folder.
fn open_in(folder: &Path) -> Option<Library> {
    libraries(folder, "libnvrtc.so").iter().find_map(|path| open_file(path))
}

/// Opens NVRTC, after its builtins: NVRTC asks the loader for those by name alone, and finds them once they are loaded.
fn open_file(path: &Path) -> Option<Library> {
    for builtins in libraries(path.parent()?, "libnvrtc-builtins.so") {
        // SAFETY: as for NVRTC itself. Never unloaded, since NVRTC keeps using it.
        if let Ok(library) = unsafe { Library::new(builtins) } {
            std::mem::forget(library);
        }
    }
    // SAFETY: loading NVRTC runs its initialisers, which have no requirements.
    unsafe { Library::new(path) }.ok()
}

/// Files of a folder whose names start with `prefix`, highest version first.
fn libraries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let named = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
    };
    let mut found: Vec<PathBuf> = entries.filter(named).collect();
    found.sort_by(|a, b| b.cmp(a));
    found
}

/// Library folders of CUDA toolkits.
fn toolkit_folders(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let named = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"].into_iter().filter_map(variable).map(PathBuf::from);
    let usual = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda"].map(PathBuf::from);
    let roots = named.filter(|root| root.is_absolute()).chain(usual);
    roots.flat_map(|root| [root.join("lib64"), root.join("lib")]).collect()
}

/// Folders of Python packages: of the active environment first, then the user's, then the system's.
fn site_packages(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let path = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let mut folders: Vec<PathBuf> =
        variable("PYTHONPATH").iter().flat_map(|paths| std::env::split_paths(paths)).collect();
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(path);
    let user = path("HOME").map(|home| home.join(".local"));
    let system = ["/usr/local", "/usr"].map(PathBuf::from);
    for prefix in environments.chain(user).chain(system) {
        let pythons = libraries(&prefix.join("lib"), "python3"); // the version is part of the folder's name
        let both = |python: PathBuf| [python.join("site-packages"), python.join("dist-packages")];
        folders.extend(pythons.into_iter().flat_map(both));
    }
    folders
}

fn wheel_folders(site_packages: &[PathBuf]) -> Vec<PathBuf> {
    site_packages.iter().flat_map(|site| WHEEL_FOLDERS.iter().map(|folder| site.join(folder))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::cache::tests::scratch;
    use super::*;

    #[test]
    fn the_active_python_comes_first() {
        let root = scratch("python");
        for version in ["python3.9", "python3.12"] {
            std::fs::create_dir_all(root.join("lib").join(version)).unwrap();
        }
        let variable = |name: &str| (name == "VIRTUAL_ENV").then(|| root.clone().into_os_string());
        let folders = wheel_folders(&site_packages(variable));
        let environment: Vec<_> = folders.iter().filter(|folder| folder.starts_with(&root)).collect();
        assert_eq!(environment.len(), 8, "two versions, two folders of packages, two wheels");
        assert!(folders[0].starts_with(&root) && folders[0].ends_with("site-packages/nvidia/cu13/lib"));
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_folder_without_a_library_opens_nothing() {
        let folder = scratch("no-nvrtc");
        assert!(open_in(&folder).is_none());
        std::fs::write(folder.join("libnvrtc.so.13"), b"not a library").unwrap();
        assert!(open_in(&folder).is_none());
        assert!(open_in(&folder.join("missing")).is_none());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_highest_version_is_tried_first() {
        let folder = scratch("versions");
        for name in ["libnvrtc.so.12", "libnvrtc.so", "libnvrtc.so.13", "libnvrtc-builtins.so.13.0"] {
            std::fs::write(folder.join(name), b"").unwrap();
        }
        let expected = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"].map(|name| folder.join(name));
        assert_eq!(libraries(&folder, "libnvrtc.so"), expected);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
