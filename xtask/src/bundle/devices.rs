//! Reads the table of `gatewarp devices`.

/// What the machine has of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Hardware, by the name that `--device` takes.
    Found(String),
    /// None, and why.
    Missing(String),
}

/// The first hardware device of `backend` (`cuda`, `wgpu`) in the table, or why there is none.
///
/// A line is a mark for the device taken, the device's spec (without an index if there is none), its name, and a remark in
/// brackets if it is software or cannot be used.
pub fn find(table: &str, backend: &str) -> Presence {
    let mut reason = format!("`gatewarp devices` lists no {backend}");
    for line in table.lines() {
        let line = line.trim_start_matches(['*', ' ']);
        let (spec, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (kind, index) = spec.split_once(':').map_or((spec, None), |(kind, index)| (kind, Some(index)));
        if kind != backend {
            continue;
        }
        let is_usable = index.is_some() && !rest.contains("(software") && !rest.contains("(not taken");
        if is_usable {
            return Presence::Found(spec.to_owned());
        }
        reason = rest.trim().to_owned();
    }
    Presence::Missing(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  cuda     no cuda device (not taken: libcuda.so.1 is not there)
  wgpu:0   llvmpipe (LLVM 15.0.6, 256 bits), Mesa 25.0.7 (software: only when asked for, GATEWARP_DEVICE=wgpu:0)
* cpu      CPU, 2 threads
";

    #[test]
    fn software_and_missing_devices_are_not_hardware() {
        let Presence::Missing(reason) = find(TABLE, "cuda") else { panic!("no GPU here") };
        assert!(reason.contains("libcuda.so.1 is not there"), "{reason}");
        assert!(matches!(find(TABLE, "wgpu"), Presence::Missing(reason) if reason.contains("llvmpipe")));
    }

    #[test]
    fn hardware_is_found_by_its_spec() {
        let table = format!("* cuda:0   NVIDIA H200\n  wgpu:0   NVIDIA H200 (Vulkan)\n{TABLE}");
        assert_eq!(find(&table, "cuda"), Presence::Found("cuda:0".to_owned()));
        assert_eq!(find(&table, "wgpu"), Presence::Found("wgpu:0".to_owned()));
        assert!(matches!(find("", "cuda"), Presence::Missing(_)));
    }
}
