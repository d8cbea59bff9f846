//! `cargo xtask gpu-bundle`: a folder to carry to a machine with a GPU, where `run.sh` tests CUDA and Vulkan for real.
//!
//! The machine needs neither Rust nor this repository: the folder holds stripped release builds of the test programs, of the
//! command line and of this program, which does the running.

mod devices;
mod junit;
pub mod runner;

use crate::{Outcome, process, suites, workspace};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// What the folder may weigh, so that it can be mailed about.
const LIMIT: u64 = 64 << 20;

/// Hardware only: the emulator is no part of what is tested there.
const SELECTION: &str =
    "--release --benches -p gatewarp -p gatewarp-cli -p xtask --features gatewarp/cuda,gatewarp/wgpu";

/// Link-time optimisation would be done anew for every test program, and symbols are most of a program's size.
const PROFILE: [&str; 4] =
    ["--config", "profile.release.lto=\"off\"", "--config", "profile.release.strip=\"symbols\""];

/// Programs go here, and from here into [`ARCHIVE`].
const PROGRAM_FOLDERS: [&str; 3] = ["bin", "tests", "benches"];
/// Compressed, the programs take a third of the room; `run.sh` unpacks them.
const ARCHIVE: &str = "programs.tar.gz";

/// Builds and fills `target/gpu-bundle/`.
pub fn make() -> Outcome {
    let programs = suites::build(&SELECTION.split(' ').chain(PROFILE).collect::<Vec<_>>())?;
    let folder = workspace::target().join("gpu-bundle");
    let cannot = |error: std::io::Error| format!("cannot fill {}: {error}", folder.display());
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(cannot)?;
    }
    for inner in PROGRAM_FOLDERS {
        std::fs::create_dir_all(folder.join(inner)).map_err(cannot)?;
    }
    let tests = programs.suites.iter().filter(|suite| tests_devices(&suite.executable));
    let tests = tests.map(|suite| ("tests", suite.name.replace('/', "-"), &suite.executable));
    let binaries = programs.binaries.iter().map(|(name, path)| ("bin", name.clone(), path));
    let benches = programs.benches.iter().map(|(name, path)| ("benches", name.clone(), path));
    for (inner, name, path) in tests.chain(binaries).chain(benches) {
        println!("{inner}/{name}");
        std::fs::copy(path, folder.join(inner).join(name)).map_err(cannot)?;
    }
    process::run(
        Command::new("tar")
            .arg("-C")
            .arg(&folder)
            .args(["-czf"])
            .arg(folder.join(ARCHIVE))
            .args(PROGRAM_FOLDERS),
    )?;
    for inner in PROGRAM_FOLDERS {
        std::fs::remove_dir_all(folder.join(inner)).map_err(cannot)?;
    }
    copy_tree(&workspace::root().join("kernels"), &folder.join("kernels")).map_err(cannot)?;
    std::fs::write(folder.join("revision"), revision()).map_err(cannot)?;
    let script = folder.join("run.sh");
    std::fs::write(&script, include_str!("run.sh")).map_err(cannot)?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).map_err(cannot)?;

    let bytes = size(&folder).map_err(cannot)?;
    println!("{}: {:.1} MiB", folder.display(), bytes as f64 / f64::from(1 << 20));
    if bytes > LIMIT { Err(format!("the bundle is larger than {} MiB", LIMIT >> 20)) } else { Ok(()) }
}

/// Whether a test program has tests for a GPU backend: listed for the device, or for the device that is missing here.
fn tests_devices(program: &Path) -> bool {
    let list = process::probe(Command::new(program).arg("--list")).unwrap_or_default();
    list.lines().any(|line| runner::BACKENDS.iter().any(|backend| line.contains(&format!("{backend}:"))))
}

/// What was built: the commit, and whether the tree had changes.
fn revision() -> String {
    let arguments = ["describe", "--always", "--dirty", "--abbrev=12"];
    let mut command = Command::new("git");
    let described = process::probe(command.current_dir(workspace::root()).args(arguments));
    described.unwrap_or_else(|| "unknown".to_owned())
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for item in std::fs::read_dir(from)? {
        let item = item?;
        let target = to.join(item.file_name());
        if item.path().is_dir() {
            copy_tree(&item.path(), &target)?;
        } else {
            std::fs::copy(item.path(), target)?;
        }
    }
    Ok(())
}

fn size(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for item in std::fs::read_dir(folder)? {
        let item = item?;
        bytes += if item.path().is_dir() { size(&item.path())? } else { item.metadata()?.len() };
    }
    Ok(bytes)
}
