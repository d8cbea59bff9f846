//! `cargo xtask kernels`: compiles every CUDA source for every architecture we promise, and looks at what it takes.

use crate::nvrtc::Nvrtc;
use crate::occupancy::resident_blocks;
use crate::{Outcome, ptxas, workspace};
use gatewarp::manifest::{self, CudaKernel};
use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What becomes of the portable PTX.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ptx {
    /// Checked for, then dropped.
    Discard,
    /// Written to `target/ptx/`, where the published crate takes it from.
    Write,
}

/// Real architectures: machine code is made and its resources are counted.
const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_90a", "sm_100"];
/// PTX for this one runs on every later GPU, whereas that of `sm_90a` runs on no other.
const PORTABLE: &str = "compute_80";

/// Folders with CUDA sources. The second holds those that test single primitives.
const FOLDERS: [&str; 2] = ["kernels", "emulator/tests/kernels"];

/// Compiles all, prints the table, and fails on errors, spills and notices.
pub fn run(library: &Path, ptx: Ptx) -> Outcome {
    let nvrtc = Nvrtc::load(library)?;
    let (major, minor) = nvrtc.version()?;
    println!("NVRTC {major}.{minor}, {}", library.display());
    let mut faults = Vec::new();
    let mut entries = 0;
    for (name, compiled) in compile_all(&nvrtc, &sources()?, ptx) {
        println!("{name}");
        match compiled {
            Ok(reports) => {
                entries += print_table(&name, &reports);
                faults.extend(faults_of(&name, &reports));
                faults.extend(unlike_manifest(&name, &reports));
            }
            Err(message) => faults.push(message),
        }
    }
    let missing = manifest::cuda().filter(|row| !workspace::root().join("kernels").join(row.file).is_file());
    faults.extend(
        missing.map(|row| {
            format!("the manifest puts {} into kernels/{}, which is not there", row.entry, row.file)
        }),
    );
    if entries == 0 {
        faults.push("no kernel was compiled".to_owned());
    }
    if faults.is_empty() {
        println!("{entries} kernels, no spills, no notices");
        return Ok(());
    }
    Err(format!("{} faults in CUDA kernels:\n  {}", faults.len(), faults.join("\n  ")))
}

/// Compiles all sources, several at a time; what came of each, by name, in order.
fn compile_all(nvrtc: &Nvrtc, sources: &[Source], ptx: Ptx) -> Vec<(String, Outcome<Reports>)> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
            let reports =
                source.compile(nvrtc).and_then(|reports| source.portable(nvrtc, ptx).map(|()| reports));
            done.push((source.name.clone(), reports));
        }
        done
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        // A worker panics only where this program is wrong, and then takes it down as it would have alone.
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    });
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// Every `.cu` below [`FOLDERS`].
fn sources() -> Outcome<Vec<Source>> {
    let mut files = Vec::new();
    for folder in FOLDERS.map(|folder| workspace::root().join(folder)) {
        if folder.is_dir() {
            collect(&folder, &mut files)
                .map_err(|error| format!("cannot list {}: {error}", folder.display()))?;
        }
    }
    files.iter().map(|file| Source::read(file)).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for item in std::fs::read_dir(folder)? {
        let path = item?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "cu") {
            files.push(path);
        }
    }
    Ok(())
}

/// One CUDA source.
struct Source {
    /// Path below the repository's root.
    name: String,
    text: String,
}

/// By architecture, in the order compiled.
type Reports = Vec<(&'static str, ptxas::Report)>;

impl Source {
    fn read(path: &Path) -> Outcome<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let name = path.strip_prefix(workspace::root()).unwrap_or(path).to_string_lossy().into_owned();
        Ok(Self { name, text })
    }

    /// Machine code for each architecture this file is for.
    fn compile(&self, nvrtc: &Nvrtc) -> Outcome<Reports> {
        let mut reports = Reports::new();
        for architecture in architectures(&self.name) {
            let target = format!("--gpu-architecture={architecture}");
            let options = [target.as_str(), "--std=c++17", "--ptxas-options=-v"];
            let compiled = nvrtc
                .compile(&self.name, &self.text, &options)
                .map_err(|message| format!("{architecture}: {message}"))?;
            if compiled.cubin_bytes == 0 {
                return Err(format!("{} for {architecture}: no machine code came out", self.name));
            }
            reports.push((architecture, ptxas::parse(&compiled.log)));
        }
        Ok(reports)
    }

    /// PTX that later GPUs can run too, or that of the one architecture this file is for.
    fn portable(&self, nvrtc: &Nvrtc, ptx: Ptx) -> Outcome {
        let targets = architectures(&self.name);
        let target = if targets.len() == 1 { targets[0] } else { PORTABLE };
        let options = [&format!("--gpu-architecture={target}"), "--std=c++17"];
        let compiled = nvrtc.compile(&self.name, &self.text, &options)?;
        if !compiled.ptx.contains(".entry") {
            return Err(format!("{} for {target}: the PTX holds no entry", self.name));
        }
        if let Some(missing) = lacks_matrix_units(&self.name, &compiled.ptx) {
            return Err(format!("{} for {target}: the PTX holds no {missing}", self.name));
        }
        // The test kernels have no rows and are not part of what is published.
        let row = manifest::cuda().find(|row| self.name.strip_prefix("kernels/") == Some(row.file));
        if let (Ptx::Write, Some(row)) = (ptx, row) {
            let path = workspace::target().join("ptx").join(row.file).with_extension(format!("{target}.ptx"));
            let text = format!("// gatewarp {:016x}\n{}", row.fingerprint(), compiled.ptx);
            std::fs::create_dir_all(path.parent().unwrap_or(&path))
                .and_then(|()| std::fs::write(&path, text))
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
        Ok(())
    }
}

/// What a file for tensor cores (`…_mma.cu`, `…_mma_….cu`) must hold and does not.
fn lacks_matrix_units(name: &str, ptx: &str) -> Option<&'static str> {
    let stem = name.trim_end_matches(".cu");
    let for_them = stem.ends_with("_mma") || stem.contains("_mma_");
    let needed = ["mma.sync.aligned.m16n8k16", "ldmatrix.sync.aligned.m8n8.x4"];
    needed.into_iter().find(|instruction| for_them && !ptx.contains(instruction))
}

/// A file whose stem ends in an architecture's number uses what only that one has.
fn architectures(name: &str) -> &'static [&'static str] {
    let stem = name.trim_end_matches(".cu");
    if stem.ends_with("_sm90") {
        &["sm_90a"]
    } else if stem.ends_with("_sm100") {
        &["sm_100a"]
    } else {
        &ARCHITECTURES
    }
}

/// Prints a row per entry and returns the number of entries.
///
/// Columns: registers a thread, bytes of shared memory (static and, where the manifest has the entry, dynamic), bytes of
/// stack, bytes spilled, and blocks that fit on a multiprocessor at once.
fn print_table(name: &str, reports: &Reports) -> usize {
    let mut rows: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (column, (architecture, report)) in reports.iter().enumerate() {
        for usage in &report.entries {
            let row = row_of(name, &usage.entry);
            let shared = usage.shared + row.map_or(0, |row| row.shared_bytes);
            let blocks = row.and_then(|row| resident_blocks(architecture, usage, row));
            let blocks = blocks.map_or("-".to_owned(), |blocks| blocks.to_string());
            // An entry may exist for some architectures only.
            let cells = rows.entry(&usage.entry).or_default();
            cells.resize(column, String::new());
            cells.push(format!(
                "{:>4} {shared:>6} {:>5} {:>6} {blocks:>6}",
                usage.registers, usage.stack, usage.spills
            ));
        }
    }
    let width = rows.keys().map(|entry| entry.len()).max().unwrap_or(0).max(24);
    let heading: String = reports.iter().map(|(name, _)| format!(" | {name:<31}")).collect();
    println!("  {:width$}{heading}", "");
    println!("  {:width$}{}", "entry", " | regs shared stack spills blocks".repeat(reports.len()));
    for (entry, cells) in &rows {
        let cells: String = cells.iter().map(|cell| format!(" | {cell:<31}")).collect();
        println!("  {entry:width$}{cells}");
    }
    rows.len()
}

fn faults_of(name: &str, reports: &Reports) -> Vec<String> {
    let mut faults = Vec::new();
    for (architecture, report) in reports {
        let at = format!("{name} for {architecture}");
        faults.extend(report.notices.iter().map(|notice| format!("{at}: {notice}")));
        let spilling = report.entries.iter().filter(|usage| usage.spills > 0);
        faults.extend(spilling.map(|usage| format!("{at}: {} spills {} bytes", usage.entry, usage.spills)));
        if report.entries.is_empty() {
            faults.push(format!("{at}: no kernel entry"));
        }
    }
    faults
}

/// Where the file and the manifest's rows for it disagree: entries without a row, rows without an entry, and blocks that
/// take more than a multiprocessor has.
fn unlike_manifest(name: &str, reports: &Reports) -> Vec<String> {
    // The test kernels have no rows.
    let Some(file) = name.strip_prefix("kernels/") else { return Vec::new() };
    let mut faults = Vec::new();
    for (architecture, report) in reports {
        for usage in &report.entries {
            match row_of(name, &usage.entry).map(|row| resident_blocks(architecture, usage, row)) {
                None => faults.push(format!("{name}: {} has no row in the manifest", usage.entry)),
                Some(Some(0)) => {
                    faults
                        .push(format!("{name} for {architecture}: a block of {} does not fit", usage.entry));
                }
                Some(_) => (),
            }
        }
    }
    let compiled =
        |entry| reports.iter().any(|(_, report)| report.entries.iter().any(|usage| usage.entry == entry));
    let orphans = manifest::cuda().filter(|row| row.file == file && !compiled(row.entry));
    faults.extend(orphans.map(|row| format!("{name} lacks the manifest's entry {}", row.entry)));
    faults.sort();
    faults.dedup();
    faults
}

/// The manifest's row for an entry of a file.
fn row_of(name: &str, entry: &str) -> Option<&'static CudaKernel> {
    let file = name.strip_prefix("kernels/")?;
    manifest::cuda().find(|row| row.file == file && row.entry == entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_for_tensor_cores_must_use_them() {
        let both = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 … mma.sync.aligned.m16n8k16.row.col";
        assert_eq!(lacks_matrix_units("kernels/attention/forward_mma.cu", both), None);
        assert_eq!(lacks_matrix_units("kernels/attention/forward_general.cu", ""), None);
        let without =
            lacks_matrix_units("kernels/attention/forward_mma_options.cu", "ldmatrix.sync.aligned.m8n8.x4");
        assert_eq!(without, Some("mma.sync.aligned.m16n8k16"));
    }

    #[test]
    fn a_stem_names_the_architecture_it_needs() {
        assert_eq!(architectures("kernels/attention/forward.cu"), ARCHITECTURES);
        assert_eq!(architectures("kernels/attention/forward_sm90.cu"), ["sm_90a"]);
    }

    #[test]
    fn spills_notices_and_empty_files_are_faults() {
        let usage = ptxas::Usage { entry: "a".into(), spills: 8, ..Default::default() };
        let spilling = ptxas::Report { entries: vec![usage], notices: vec!["(C7508)".into()] };
        let reports = vec![("sm_80", spilling), ("sm_90a", ptxas::Report::default())];
        let faults = faults_of("f.cu", &reports);
        assert_eq!(
            faults,
            [
                "f.cu for sm_80: (C7508)",
                "f.cu for sm_80: a spills 8 bytes",
                "f.cu for sm_90a: no kernel entry"
            ]
        );
    }
}
