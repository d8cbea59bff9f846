//! Makes a machine ready for `cargo xtask test`.
//!
//! System packages are installed when this runs as root or with `CI=true`; otherwise the exact commands are printed and the
//! setup fails. What needs no rights (the NVRTC wheel, the Tint package) is fetched into the target directory either way.
//! Everything is done at most once: a second run finds it and takes milliseconds.

pub mod mesa;
pub mod nvrtc;
pub mod packages;
pub mod tint;

use crate::{Outcome, process, workspace};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// What the later steps need to know about the machine.
pub struct Environment {
    /// `libnvrtc.so` to compile CUDA kernels with.
    pub nvrtc: PathBuf,
    /// Folder whose `node_modules` holds Dawn's Node.js binding.
    pub tint: PathBuf,
    variables: Vec<(&'static str, OsString)>,
}

impl Environment {
    /// Sets what the tests need on `command`: the software Vulkan driver, NVRTC, caches that outlive the run.
    pub fn apply<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.envs(self.variables.iter().map(|(name, value)| (name, value)))
    }
}

/// Installs what is lacking, or says what to install.
pub fn prepare() -> Outcome<Environment> {
    // Both at once, so that a person is told of everything in one go.
    let lacks: Vec<String> =
        [rust_components(), packages::ensure()].into_iter().filter_map(Result::err).collect();
    if !lacks.is_empty() {
        return Err(lacks.join("\n"));
    }
    let driver = mesa::driver()?;
    let nvrtc = nvrtc::obtain()?;
    let tint = tint::obtain()?;

    let mut variables = vec![("GATEWARP_NVRTC", nvrtc.clone().into_os_string())];
    // A person's own choice of driver stands; otherwise the tests run on the driver they were written against,
    // whatever GPU the machine has.
    if std::env::var_os("VK_DRIVER_FILES").is_none() {
        variables.push(("VK_DRIVER_FILES", driver.into_os_string()));
    }
    // Pipelines take most of the shader tests' time; Mesa keeps compiled ones here.
    variables.push(("MESA_SHADER_CACHE_DIR", folder("mesa-cache")?));
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        variables.push(("XDG_RUNTIME_DIR", private_folder("run")?));
    }
    for (name, value) in &variables {
        println!("{name}={}", value.to_string_lossy());
    }
    Ok(Environment { nvrtc, tint, variables })
}

/// Whether this run may change the machine.
pub fn may_install() -> bool {
    is_root() || std::env::var_os("CI").is_some_and(|value| value == "true")
}

fn is_root() -> bool {
    process::probe(Command::new("id").arg("-u")).is_some_and(|user| user == "0")
}

fn rust_components() -> Outcome {
    let lacking: Vec<&str> = [("fmt", "rustfmt"), ("clippy", "clippy")]
        .into_iter()
        .filter(|(command, _)| {
            process::probe(Command::new(workspace::cargo()).args([command, "--version"])).is_none()
        })
        .map(|(_, component)| component)
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    if !may_install() {
        return Err(format!(
            "the Rust toolchain lacks components; run: rustup component add {}",
            lacking.join(" ")
        ));
    }
    process::run(Command::new("rustup").args(["component", "add"]).args(lacking))
}

/// A folder of this name in the target directory, made if need be.
fn folder(name: &str) -> Outcome<OsString> {
    let path = workspace::target().join(name);
    std::fs::create_dir_all(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
    Ok(path.into_os_string())
}

/// As [`folder`], readable by its owner only: what the XDG specification asks of a runtime folder.
fn private_folder(name: &str) -> Outcome<OsString> {
    let path = folder(name)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))
            .map_err(|error| format!("cannot protect {}: {error}", path.to_string_lossy()))?;
    }
    Ok(path)
}
