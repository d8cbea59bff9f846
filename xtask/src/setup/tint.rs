//! Tint, the shader compiler of Chromium, inside Dawn's Node.js binding (npm package `webgpu`).

use crate::{Outcome, process, workspace};
use std::path::PathBuf;
use std::process::Command;

/// Pinned, so that a new Tint release cannot turn a green tree red by itself.
const PACKAGE: &str = "webgpu@0.6.2";

fn folder() -> PathBuf {
    workspace::target().join("tint")
}

/// Whether the pinned package is installed already.
pub fn present() -> bool {
    let installed = std::fs::read_to_string(folder().join("requirement")).unwrap_or_default();
    installed == PACKAGE && folder().join("node_modules/webgpu/index.js").is_file()
}

/// Folder whose `node_modules` holds the package; installs it into `target/tint/` first if need be.
pub fn obtain() -> Outcome<PathBuf> {
    if !present() {
        let cannot = |error: std::io::Error| format!("cannot write to {}: {error}", folder().display());
        std::fs::create_dir_all(folder()).map_err(cannot)?;
        // The package's only script serves macOS' quarantine; it is not run.
        let options = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-save", "--prefix"];
        process::run(Command::new("npm").args(options).arg(folder()).arg(PACKAGE))?;
        std::fs::write(folder().join("requirement"), PACKAGE).map_err(cannot)?;
    }
    if present() { Ok(folder()) } else { Err(format!("npm installed {PACKAGE}, which holds no index.js")) }
}
