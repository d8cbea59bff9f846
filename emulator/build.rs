//! Compiles the emulator's C++ runtime and every `.cu` kernel into one static library.
//!
//! Each kernel file becomes a translation unit of its own inside an unnamed namespace, as NVRTC compiles each on its
//! own: two files may use the same names for different helpers.
//!
//! `GATEWARP_EMULATOR_UCONTEXT=1` builds the portable context switch in place of the assembly, to test it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let crate_dir = PathBuf::from(required("CARGO_MANIFEST_DIR"));
    let out_dir = PathBuf::from(required("OUT_DIR"));
    let root = crate_dir.parent().unwrap_or(&crate_dir).to_path_buf();

    let mut sources = Vec::new();
    for dir in [root.join("kernels"), crate_dir.join("tests/kernels")] {
        println!("cargo::rerun-if-changed={}", dir.display());
        find("cu", &dir, &mut sources)?;
    }
    for dir in ["src", "include"] {
        println!("cargo::rerun-if-changed={}", crate_dir.join(dir).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=GATEWARP_EMULATOR_UCONTEXT");

    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        // Kernels run in every profile's tests; unoptimised they are twenty times slower.
        .opt_level(2)
        .flag("-fno-strict-aliasing")
        // CUDA contracts a * b + c by default, so the emulator does too; without FMA hardware it cannot, and results
        // differ in the last bit. `gw::fma` is exact everywhere.
        .flag("-ffp-contract=fast")
        .flag("-Wno-unknown-pragmas")
        // A note about structures aligned to 64 bytes, which no other compiler's code takes.
        .flag_if_supported("-Wno-psabi")
        .define("GATEWARP_EMULATOR", None)
        .include(crate_dir.join("include"))
        .include(root.join("kernels"))
        .warnings(true)
        .extra_warnings(true);
    // An uninitialised local is a large negative number here, never a lucky zero (GCC 12, Clang 8).
    println!("cargo::rustc-check-cfg=cfg(emulator_patterns_locals)");
    if build.is_flag_supported("-ftrivial-auto-var-init=pattern").unwrap_or(false) {
        build.flag("-ftrivial-auto-var-init=pattern");
        println!("cargo::rustc-cfg=emulator_patterns_locals");
    }
    if host_runs_x86_64_v3() {
        build.flag("-march=x86-64-v3");
    }
    if env::var_os("GATEWARP_EMULATOR_UCONTEXT").is_some_and(|value| value == "1") {
        build.define("GATEWARP_EMULATOR_UCONTEXT", None);
    }

    let mut runtime = Vec::new();
    find("cpp", &crate_dir.join("src"), &mut runtime)?;
    build.files(runtime);

    let mut anchors = String::from("// Written by build.rs.\n");
    let mut calls = String::new();
    for (index, source) in sources.iter().enumerate() {
        let name = source.strip_prefix(&root).unwrap_or(source).display().to_string();
        let unit = out_dir.join(format!("unit_{index}.cpp"));
        let text = format!(
            "// Written by build.rs.\n#define GATEWARP_EMULATOR_SOURCE \"{name}\"\n#include \"device.cuh\"\n\
             namespace {{\n#include \"{}\"\n}}\nextern \"C\" void gatewarp_emulator_unit_{index}() {{}}\n",
            source.display()
        );
        write_if_changed(&unit, &text)?;
        build.file(unit);
        let _ = writeln!(anchors, "extern \"C\" void gatewarp_emulator_unit_{index}();");
        let _ = writeln!(calls, "    gatewarp_emulator_unit_{index}();");
    }
    // A static library's object is linked only if something refers to it; registration alone does not.
    let _ = write!(anchors, "extern \"C\" void gatewarp_emulator_link_kernels() {{\n{calls}}}\n");
    let anchor_file = out_dir.join("link_kernels.cpp");
    write_if_changed(&anchor_file, &anchors)?;
    build.file(anchor_file);

    build.try_compile("gatewarp_emulator").map_err(io::Error::other)
}

fn required(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}

/// Collects files with an extension below `dir`, sorted, so that builds repeat. A missing folder has none.
fn find(extension: &str, dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    let mut entries =
        fs::read_dir(dir)?.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            find(extension, &path, found)?;
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    Ok(())
}

fn write_if_changed(path: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) { Ok(()) } else { fs::write(path, text) }
}

/// Whether this machine both is the target and has AVX2 and FMA.
fn host_runs_x86_64_v3() -> bool {
    #[cfg(target_arch = "x86_64")]
    if required("HOST") == required("TARGET") {
        return std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("bmi1")
            && std::is_x86_feature_detected!("bmi2")
            && std::is_x86_feature_detected!("f16c")
            && std::is_x86_feature_detected!("fma")
            && std::is_x86_feature_detected!("lzcnt")
            && std::is_x86_feature_detected!("movbe");
    }
    false
}
