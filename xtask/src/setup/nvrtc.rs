//! NVRTC, NVIDIA's run-time compiler, from its PyPI wheel: compiles kernels on a machine without a GPU or a toolkit.

use crate::{Outcome, process, workspace};
use std::path::PathBuf;
use std::process::Command;

/// Pinned, because register counts and ptxas notices are compared with it. The wheel holds compiler and assembler both, so
/// nothing else of the toolkit is fetched.
const REQUIREMENT: &str = "nvidia-cuda-nvrtc==13.0.88";
const LIBRARY: &str = "nvidia/cu13/lib/libnvrtc.so.13";

fn folder() -> PathBuf {
    workspace::target().join("nvrtc")
}

/// Whether the pinned wheel is unpacked already, or a library is named by `GATEWARP_NVRTC`.
pub fn present() -> bool {
    named().is_some() || (folder().join(LIBRARY).is_file() && installed() == REQUIREMENT)
}

/// The library that `GATEWARP_NVRTC` names, itself or by its folder, as the library reads that variable.
fn named() -> Option<PathBuf> {
    let place = std::env::var_os("GATEWARP_NVRTC").filter(|place| !place.is_empty()).map(PathBuf::from)?;
    let files = std::fs::read_dir(&place).into_iter().flatten().flatten();
    let inside = files
        .map(|file| file.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libnvrtc.so")));
    Some(inside.unwrap_or(place))
}

fn installed() -> String {
    std::fs::read_to_string(folder().join("requirement")).unwrap_or_default()
}

/// Path of the library; fetches the wheel into `target/nvrtc/` first if need be.
pub fn obtain() -> Outcome<PathBuf> {
    if let Some(library) = named() {
        return if library.is_file() {
            Ok(library)
        } else {
            Err(format!("GATEWARP_NVRTC names {}, which is no file", library.display()))
        };
    }
    if !present() {
        fetch()?;
    }
    Ok(folder().join(LIBRARY))
}

fn fetch() -> Outcome {
    let cannot = |what: &str, error: std::io::Error| format!("cannot {what} for NVRTC: {error}");
    // Unpacked beside its place and then renamed: an interrupted download never looks finished.
    let partial = workspace::target().join("nvrtc.partial");
    for stale in [&partial, &folder()] {
        if stale.exists() {
            std::fs::remove_dir_all(stale).map_err(|error| cannot("clear the folder", error))?;
        }
    }
    process::run(
        Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--target"])
            .arg(&partial)
            .arg(REQUIREMENT),
    )?;
    std::fs::write(partial.join("requirement"), REQUIREMENT)
        .map_err(|error| cannot("write the marker", error))?;
    std::fs::rename(&partial, folder()).map_err(|error| cannot("rename the folder", error))?;
    if present() { Ok(()) } else { Err(format!("{REQUIREMENT} holds no {LIBRARY}")) }
}
