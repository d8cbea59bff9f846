//! Reads what `gatewarp devices --json` prints.

use crate::Outcome;
use serde_json::Value;

/// What the machine has of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Hardware, by the name that `--device` takes.
    Found(String),
    /// None, and why.
    Missing(String),
}

/// The first hardware device of `backend` (`cuda`, `wgpu`) in the list, or why there is none.
///
/// # Errors
/// If `list` is not the JSON array that the command prints.
pub fn find(list: &str, backend: &str) -> Outcome<Presence> {
    let unexpected = || format!("`gatewarp devices --json` printed: {list}");
    let list: Value = serde_json::from_str(list).map_err(|_| unexpected())?;
    let mut reason = format!("`gatewarp devices` lists no {backend}");
    for candidate in list.as_array().ok_or_else(unexpected)? {
        let text = |key: &str| candidate[key].as_str();
        if text("backend") != Some(backend) {
            continue;
        }
        let (device, name) = (text("device").ok_or_else(unexpected)?, text("name").ok_or_else(unexpected)?);
        match (text("unavailable"), candidate["software"].as_bool()) {
            (Some(why), _) => reason = format!("{name}: {why}"),
            (None, Some(false)) => return Ok(Presence::Found(device.to_owned())),
            (None, _) => reason = format!("{name} is software"),
        }
    }
    Ok(Presence::Missing(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"[
        {"device": "cuda", "backend": "cuda", "name": "no cuda device", "software": false, "taken": false,
         "unavailable": "libcuda.so.1 is not there"},
        {"device": "wgpu:0", "backend": "wgpu", "name": "llvmpipe", "software": true, "taken": false,
         "unavailable": null},
        {"device": "cpu", "backend": "cpu", "name": "CPU, 2 threads", "software": false, "taken": true,
         "unavailable": null}
    ]"#;

    #[test]
    fn software_and_missing_devices_are_not_hardware() {
        let missing = |backend| find(LIST, backend).unwrap();
        assert_eq!(missing("cuda"), Presence::Missing("no cuda device: libcuda.so.1 is not there".into()));
        assert_eq!(missing("wgpu"), Presence::Missing("llvmpipe is software".into()));
        assert_eq!(missing("metal"), Presence::Missing("`gatewarp devices` lists no metal".into()));
    }

    #[test]
    fn hardware_is_found_by_its_spec() {
        let list = LIST.replace("true", "false");
        assert_eq!(find(&list, "wgpu"), Ok(Presence::Found("wgpu:0".into())));
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        assert!(find("", "cuda").is_err());
        assert!(find(r#"{"backend": "cuda"}"#, "cuda").is_err());
        assert!(find(r#"[{"backend": "cuda"}]"#, "cuda").is_err());
    }
}
