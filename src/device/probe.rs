//! Which devices this machine has, which one is taken, and why the others are not.

use super::{Backend, Device, Schedule};
use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// Environment variable that chooses the device of [`Device::best`].
const DEVICE_VARIABLE: &str = "GATEWARP_DEVICE";

/// One device that was looked for.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// How to ask for it: `cpu`, `wgpu:0`, `cuda:0`.
    pub spec: String,
    /// Its backend.
    pub backend: Backend,
    /// Device and driver, or what was looked for.
    pub name: String,
    /// A CPU pretending to be a GPU; used only when asked for by name.
    pub software: bool,
    /// Why it cannot be used, if it cannot.
    pub unavailable: Option<String>,
}

/// Every device that was looked for, and the one [`Device::best`] takes.
#[derive(Clone, Debug)]
pub struct DeviceReport {
    /// In order of preference.
    pub candidates: Vec<Candidate>,
    /// Index of the candidate taken.
    pub taken: usize,
}

impl Candidate {
    /// Whether it may be taken unasked.
    fn is_usable(&self) -> bool {
        self.unavailable.is_none() && !self.software
    }
}

impl Device {
    /// The device of `GATEWARP_DEVICE` if that is set, else the first usable of CUDA, hardware wgpu, CPU.
    ///
    /// # Errors
    /// [`Error::BackendUnavailable`] or [`Error::InvalidArgument`] if `GATEWARP_DEVICE` names a device that cannot be had.
    pub fn best() -> Result<Self> {
        if let Ok(spec) = std::env::var(DEVICE_VARIABLE) {
            return spec.parse();
        }
        // A device that was found may still refuse to open; the next one is then the best.
        let open = |candidate: &Candidate| candidate.spec.parse().ok();
        let report = Self::list();
        Ok(report.candidates.iter().filter(|c| c.is_usable()).find_map(open).unwrap_or_else(Self::cpu))
    }

    /// Looks for every device. Never panics, whatever drivers are missing or broken.
    pub fn list() -> DeviceReport {
        let mut candidates = cuda_candidates();
        candidates.extend(wgpu_candidates());
        candidates.push(Candidate {
            spec: "cpu".into(),
            backend: Backend::Cpu,
            name: Self::cpu().name(),
            software: false,
            unavailable: None,
        });
        let taken = candidates.iter().position(Candidate::is_usable).unwrap_or(candidates.len() - 1);
        DeviceReport { candidates, taken }
    }
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn found(backend: Backend, index: usize, name: String, software: bool) -> Candidate {
    Candidate { spec: format!("{backend}:{index}"), backend, name, software, unavailable: None }
}

fn missing(backend: Backend, reason: String) -> Candidate {
    let name = format!("no {backend} device");
    Candidate { spec: backend.to_string(), backend, name, software: false, unavailable: Some(reason) }
}

#[cfg(feature = "cuda")]
fn cuda_candidates() -> Vec<Candidate> {
    match super::cuda::devices() {
        Ok(names) => {
            let with_index = names.into_iter().enumerate();
            with_index
                .map(|(index, device)| match device {
                    Ok(name) => found(Backend::Cuda, index, name, false),
                    Err(reason) => {
                        let refused = found(Backend::Cuda, index, "refused".into(), false);
                        Candidate { unavailable: Some(reason), ..refused }
                    }
                })
                .collect()
        }
        Err(reason) => vec![missing(Backend::Cuda, reason)],
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda_candidates() -> Vec<Candidate> {
    vec![missing(Backend::Cuda, "gatewarp was built without the feature `cuda`".into())]
}

#[cfg(feature = "wgpu")]
fn wgpu_candidates() -> Vec<Candidate> {
    match super::wgpu::adapters() {
        Ok(adapters) => {
            let with_index = adapters.into_iter().enumerate();
            with_index.map(|(index, a)| found(Backend::Wgpu, index, a.name, a.software)).collect()
        }
        Err(reason) => vec![missing(Backend::Wgpu, reason)],
    }
}

#[cfg(not(feature = "wgpu"))]
fn wgpu_candidates() -> Vec<Candidate> {
    vec![missing(Backend::Wgpu, "gatewarp was built without the feature `wgpu`".into())]
}

impl FromStr for Device {
    type Err = Error;

    /// Parses `cpu`, `wgpu[:N]`, `cuda[:N]` or `cuda-emulated[-sm90][:in-order|:reversed|:SEED]`.
    fn from_str(spec: &str) -> Result<Self> {
        let (kind, rest) = spec.split_once(':').map_or((spec, None), |(kind, rest)| (kind, Some(rest)));
        let unknown = || {
            let reason = format!("`{spec}` is not one of cpu, wgpu:N, cuda:N, cuda-emulated");
            Error::argument("Device", "device", reason)
        };
        let index = || rest.unwrap_or("0").parse::<usize>().map_err(|_| unknown());
        match kind {
            "cpu" if rest.is_none() => Ok(Self::cpu()),
            "wgpu" => Self::wgpu(index()?),
            "cuda" => Self::cuda(index()?),
            "cuda-emulated" | "cuda-emulated-sm90" => {
                let schedule = match rest {
                    None | Some("in-order") => Schedule::InOrder,
                    Some("reversed") => Schedule::Reversed,
                    Some(seed) => Schedule::Random(seed.parse().map_err(|_| unknown())?),
                };
                if kind.ends_with("sm90") {
                    Self::cuda_emulated_sm90(schedule)
                } else {
                    Self::cuda_emulated(schedule)
                }
            }
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for DeviceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, candidate) in self.candidates.iter().enumerate() {
            let mark = if index == self.taken { '*' } else { ' ' };
            write!(f, "{mark} {:<8} {}", candidate.spec, candidate.name)?;
            match (&candidate.unavailable, candidate.software) {
                (Some(reason), _) => writeln!(f, " (not taken: {reason})")?,
                (None, true) => {
                    writeln!(f, " (software: only when asked for, {DEVICE_VARIABLE}={})", candidate.spec)?
                }
                (None, false) => writeln!(f)?,
            }
        }
        Ok(())
    }
}
