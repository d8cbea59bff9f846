//! From a kernel's text to something a driver loads: shipped PTX, else the disk cache, else NVRTC.
//!
//! NVRTC is loaded at run time through bindings of our own, because the PyPI wheel keeps it where no loader looks.
#![allow(unsafe_code)]

mod cache;
mod nvrtc;

use crate::error::{Error, Result};
use crate::manifest::{CUDA_HEADERS, CudaKernel, fnv1a};
use cache::Cache;
use nvrtc::Nvrtc;
use std::fmt;
use std::path::Path;

/// Folder of PTX made beforehand, `<file stem>.<arch>.ptx`, for machines without NVRTC.
const SHIPPED_VARIABLE: &str = "GATEWARP_KERNELS";

/// What NVRTC lacks an architecture for is compiled to PTX for this one, and the driver does the rest.
const FALLBACK: &str = "compute_80";

/// A device's compute capability.
#[derive(Clone, Copy)]
pub(super) struct Architecture {
    pub(super) major: u32,
    pub(super) minor: u32,
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Plain sm_90 refuses wgmma and setmaxnreg.
        let suffix = if (self.major, self.minor) == (9, 0) { "a" } else { "" };
        write!(f, "sm_{}{}{suffix}", self.major, self.minor)
    }
}

/// The module of `kernel`'s file for a device: a cubin, or PTX with a trailing NUL.
///
/// # Errors
/// [`Error::BackendUnavailable`] if there is no NVRTC, saying how to get it; [`Error::Compile`] with its log.
pub(super) fn image(kernel: &CudaKernel, architecture: Architecture) -> Result<Vec<u8>> {
    let shipped = std::env::var_os(SHIPPED_VARIABLE).and_then(|folder| {
        let folder = Path::new(&folder);
        let targets = [architecture.to_string(), FALLBACK.into()];
        targets.iter().find_map(|target| shipped_ptx(folder, kernel, target))
    });
    match shipped {
        Some(ptx) => Ok(ptx),
        None => compiled(kernel, architecture, Nvrtc::shared()?, Cache::of_user().as_ref()),
    }
}

/// Whether kernels can be had at all: compiled beforehand, or by NVRTC.
///
/// # Errors
/// How to get NVRTC.
pub(super) fn check() -> std::result::Result<(), String> {
    if std::env::var_os(SHIPPED_VARIABLE).is_some() {
        return Ok(());
    }
    match Nvrtc::shared() {
        Ok(_) => Ok(()),
        Err(Error::BackendUnavailable { reason, .. }) => Err(reason),
        Err(error) => Err(error.to_string()),
    }
}

/// PTX of this very source from the folder: its first line is `// gatewarp FINGERPRINT`.
fn shipped_ptx(folder: &Path, kernel: &CudaKernel, target: &str) -> Option<Vec<u8>> {
    let stem = kernel.file.strip_suffix(".cu").unwrap_or(kernel.file);
    let text = std::fs::read_to_string(folder.join(format!("{stem}.{target}.ptx"))).ok()?;
    let written_for = text.lines().next()?.strip_prefix("// gatewarp ")?;
    let current = written_for == format!("{:016x}", kernel.fingerprint());
    current.then(|| [text.as_bytes(), b"\0"].concat())
}

fn compiled(
    kernel: &CudaKernel,
    architecture: Architecture,
    nvrtc: &Nvrtc,
    cache: Option<&Cache>,
) -> Result<Vec<u8>> {
    let supported = nvrtc.supports(architecture.major * 10 + architecture.minor);
    let target = if supported { architecture.to_string() } else { FALLBACK.into() };
    let options = [format!("--gpu-architecture={target}"), "--std=c++17".into()];
    let how = format!("{} {}", nvrtc.version(), options.join(" "));
    let key = fnv1a([how.as_bytes(), &kernel.fingerprint().to_le_bytes()].concat());
    let name = format!("{}-{target}-{key:016x}", kernel.file.replace(['/', '.'], "-"));
    if let Some(image) = cache.and_then(|cache| cache.read(&name)) {
        return Ok(image);
    }
    let image = nvrtc
        .compile(kernel.file, kernel.source, CUDA_HEADERS, &options, supported)
        .map_err(|log| Error::Compile { kernel: kernel.entry.into(), arch: target, log })?;
    if let Some(cache) = cache {
        cache.write(&name, &image);
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: CudaKernel = CudaKernel {
        entry: "doubled",
        file: "probe/doubled.cu",
        source: "#include \"device.cuh\"\nextern \"C\" __global__ void doubled(float* x) { x[threadIdx.x] *= 2.0f; }\n",
        block: 32,
        pointers: &["x"],
        params: 0,
        shared_bytes: 0,
    };

    #[test]
    fn hopper_is_compiled_for_its_own_instructions() {
        assert_eq!(Architecture { major: 9, minor: 0 }.to_string(), "sm_90a");
        assert_eq!(Architecture { major: 8, minor: 6 }.to_string(), "sm_86");
    }

    #[test]
    fn shipped_ptx_of_another_source_is_not_used() {
        let folder = cache::tests::scratch("shipped");
        let file = folder.join("probe/doubled.compute_80.ptx");
        std::fs::create_dir_all(folder.join("probe")).unwrap();
        std::fs::write(&file, "// gatewarp 0123456789abcdef\n.version 8.0\n").unwrap();
        assert_eq!(shipped_ptx(&folder, &ROW, FALLBACK), None);
        let current = ROW.fingerprint();
        let text = format!("// gatewarp {current:016x}\n.version 8.0\n");
        std::fs::write(&file, &text).unwrap();
        assert_eq!(shipped_ptx(&folder, &ROW, FALLBACK), Some([text.as_bytes(), b"\0"].concat()));
        assert_eq!(shipped_ptx(&folder, &ROW, "sm_86"), None);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    #[ignore = "needs NVRTC (a toolkit, the PyPI wheel, or GATEWARP_NVRTC)"]
    fn nvrtc_compiles_and_the_cache_answers_the_second_time() {
        let folder = cache::tests::scratch("nvrtc");
        let (nvrtc, cache) = (Nvrtc::shared().unwrap(), Cache::at(folder.clone()));
        let hopper = Architecture { major: 9, minor: 0 };
        let cubin = compiled(&ROW, hopper, nvrtc, Some(&cache)).unwrap();
        assert_eq!(&cubin[..4], b"\x7fELF");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        assert_eq!(compiled(&ROW, hopper, nvrtc, Some(&cache)).unwrap(), cubin);
        let future = compiled(&ROW, Architecture { major: 99, minor: 0 }, nvrtc, None).unwrap();
        assert!(std::str::from_utf8(&future).unwrap().contains(".target sm_80"));
        assert_eq!((future[future.len() - 1], future[future.len() - 2] == 0), (0, false));
        let broken = CudaKernel { source: "this is not CUDA", ..ROW };
        let error = compiled(&broken, hopper, nvrtc, Some(&cache)).unwrap_err();
        assert!(matches!(&error, Error::Compile { log, .. } if log.contains("doubled.cu")), "{error}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
