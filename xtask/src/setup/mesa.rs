//! The software Vulkan driver: Mesa's lavapipe, which the shader tests run on.

use super::packages::major;
use crate::{Outcome, process};
use std::path::PathBuf;
use std::process::Command;

/// Oldest Mesa the tests accept. Mesa 22 (Debian 12) stops every loop after 65,535 iterations of an invocation, silently;
/// 25.0 is the oldest release seen to count on.
const MESA_MAJOR: u32 = 25;

const DRIVER_FOLDERS: [&str; 2] = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"];

/// Whether the Vulkan loader can be loaded, which is what wgpu will try.
pub fn loader_present() -> bool {
    // SAFETY: the loader's initialisers take no arguments and have no precondition; nothing of it is called or kept.
    unsafe { libloading::Library::new("libvulkan.so.1") }.is_ok()
}

/// Whether there is a lavapipe, new enough as far as the package database can tell.
pub fn driver_suffices() -> bool {
    // Elsewhere than on Debian and its kin the version stays unknown, and the library's guard test has the last word.
    manifest().is_some()
        && package_version().is_none_or(|version| major(&version).is_none_or(|major| major >= MESA_MAJOR))
}

/// The driver's manifest, for `VK_DRIVER_FILES`.
pub fn driver() -> Outcome<PathBuf> {
    if !driver_suffices() {
        let found = package_version().map_or("none".to_owned(), |version| format!("Mesa {version}"));
        return Err(format!("the shader tests need Mesa's lavapipe {MESA_MAJOR} or later, found {found}"));
    }
    manifest().ok_or_else(|| format!("no lvp_icd*.json in {}", DRIVER_FOLDERS.join(" or ")))
}

/// `lvp_icd.json`, or `lvp_icd.x86_64.json` as some distributions name it.
fn manifest() -> Option<PathBuf> {
    let files = DRIVER_FOLDERS.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    files.map(|file| file.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("lvp_icd") && name.ends_with(".json")
    })
}

fn package_version() -> Option<String> {
    let query = ["-W", "-f=${Version}", "mesa-vulkan-drivers"];
    process::probe(Command::new("dpkg-query").args(query)).filter(|version| !version.is_empty())
}
