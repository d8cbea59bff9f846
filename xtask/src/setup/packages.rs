//! System packages on Debian and Ubuntu: finds what is lacking, and installs it or says how.

use super::{is_root, may_install, mesa, nvrtc, tint};
use crate::{Outcome, process};
use std::path::Path;
use std::process::Command;

const BACKPORTS_FILE: &str = "/etc/apt/sources.list.d/gatewarp-backports.sources";
const BACKPORTS: &str = "Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";

/// Oldest Node.js that loads the Dawn binding and knows `await` at a module's top level.
const NODE_MAJOR: u32 = 18;

/// Makes sure that a compiler, a Vulkan loader and driver, pip and Node.js are there.
pub fn ensure() -> Outcome {
    let lacking = lacking();
    if lacking.is_empty() {
        return Ok(());
    }
    let release = release();
    let plan = plan(&lacking, &release);
    let script = plan.join("\n  ");
    if !may_install() || process::probe(Command::new("apt-get").arg("--version")).is_none() {
        return Err(format!(
            "this machine lacks {}. As root on Debian or Ubuntu, run:\n  {script}",
            lacking.join(", ")
        ));
    }
    println!("installing {}", lacking.join(", "));
    for line in &plan {
        let mut command = if is_root() { Command::new("sh") } else { Command::new("sudo") };
        // Hosted CI runs as a user who may become root without a password.
        let words = if is_root() { &["-c", line][..] } else { &["--non-interactive", "sh", "-c", line] };
        process::run(command.args(words))?;
    }
    let still = self::lacking();
    if still.is_empty() {
        Ok(())
    } else {
        Err(format!("installed, and yet the machine lacks {}", still.join(", ")))
    }
}

/// Names of the packages, as Debian and Ubuntu call them, whose content is not found.
fn lacking() -> Vec<&'static str> {
    let mut lacking = Vec::new();
    if process::probe(Command::new("c++").arg("--version")).is_none() {
        lacking.push("g++");
    }
    if !mesa::loader_present() {
        lacking.push("libvulkan1");
    }
    if !mesa::driver_suffices() {
        lacking.push("mesa-vulkan-drivers");
    }
    if !nvrtc::present() && process::probe(Command::new("python3").args(["-m", "pip", "--version"])).is_none()
    {
        lacking.push("python3-pip");
    }
    let node = process::probe(Command::new("node").arg("--version"));
    if node.as_deref().and_then(major).is_none_or(|version| version < NODE_MAJOR) {
        lacking.push("nodejs");
    }
    if !tint::present() && process::probe(Command::new("npm").arg("--version")).is_none() {
        lacking.push("npm");
    }
    lacking
}

/// First number of a version such as `v20.20.2`, `25.0.7-2~bpo12+1` or `1:14.0`.
pub fn major(version: &str) -> Option<u32> {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest).trim_start_matches('v');
    let digits = version.find(|c: char| !c.is_ascii_digit()).map_or(version, |end| &version[..end]);
    digits.parse().ok()
}

/// The distribution, from `/etc/os-release`: identifier and version, as in `debian 12`.
fn release() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().trim_matches('"').to_owned()
    };
    format!("{} {}", field("ID"), field("VERSION_ID"))
}

/// The shell lines that install `packages` on `release`.
fn plan(packages: &[&str], release: &str) -> Vec<String> {
    // Debian 12's own Mesa miscounts loops (see `mesa`); its backports have one that does not.
    let (backported, plain): (Vec<&str>, Vec<&str>) = packages.iter().partition(|package| {
        release == "debian 12" && ["mesa-vulkan-drivers", "libvulkan1"].contains(package)
    });
    let mut lines = Vec::new();
    if !backported.is_empty() && !Path::new(BACKPORTS_FILE).exists() {
        lines.push(format!("printf '{}' > {BACKPORTS_FILE}", BACKPORTS.replace('\n', "\\n")));
    }
    // Another program may hold the package database for a while on a machine that has just started.
    let apt = "DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600";
    lines.push(format!("{apt} update -qq"));
    if !plain.is_empty() {
        lines.push(format!("{apt} install -y -qq --no-install-recommends {}", plain.join(" ")));
    }
    if !backported.is_empty() {
        let names = backported.join(" ");
        lines.push(format!("{apt} install -y -qq --no-install-recommends -t bookworm-backports {names}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_reads_the_versions_that_tools_print() {
        assert_eq!(major("v20.20.2"), Some(20));
        assert_eq!(major("25.0.7-2~bpo12+1"), Some(25));
        assert_eq!(major("1:14.0-55"), Some(14));
        assert_eq!(major("unknown"), None);
    }

    #[test]
    fn only_debian_12_takes_mesa_from_backports() {
        let packages = ["g++", "mesa-vulkan-drivers"];
        let bookworm = plan(&packages, "debian 12").join("\n");
        assert!(bookworm.contains("-t bookworm-backports mesa-vulkan-drivers"), "{bookworm}");
        assert!(bookworm.contains("--no-install-recommends g++"), "{bookworm}");
        let noble = plan(&packages, "ubuntu 24.04").join("\n");
        assert!(!noble.contains("backports"), "{noble}");
        assert!(noble.contains("--no-install-recommends g++ mesa-vulkan-drivers"), "{noble}");
    }
}
