//! The devices a suite runs on. A missing one makes its tests listed as ignored, with the reason; `GATEWARP_REQUIRE=wgpu,cuda`
//! turns its absence into a failure.

use gatewarp::{Backend, Device, Schedule};
use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use std::sync::{Arc, RwLock};

/// Names the devices that must be there: `wgpu`, `cuda-emulated`, `cuda`, separated by commas.
const REQUIRE_VARIABLE: &str = "GATEWARP_REQUIRE";

/// A device under test.
pub struct TestDevice {
    /// First part of its tests' names.
    pub name: String,
    /// One, or the same emulated device under each schedule: a suite spreads its cases over them.
    pub handles: Vec<Device>,
    /// Held for reading by every test, for writing by one that makes the device report an error: another test's
    /// synchronising call would receive it.
    pub reports: RwLock<()>,
}

/// A device that was looked for.
pub enum Slot {
    /// It is there.
    Found(Arc<TestDevice>),
    /// It is not, and why.
    Missing {
        /// First part of its tests' names.
        name: &'static str,
        /// Why it is not there.
        reason: String,
    },
}

impl TestDevice {
    fn slot(name: String, handles: Vec<Device>) -> Slot {
        Slot::Found(Arc::new(Self { name, handles, reports: RwLock::new(()) }))
    }

    /// The handle that case number `case` runs on.
    pub fn handle(&self, case: usize) -> &Device {
        &self.handles[case % self.handles.len()]
    }

    /// The device's backend.
    pub fn backend(&self) -> Backend {
        self.handles[0].backend()
    }
}

/// Looks for the CPU, every wgpu adapter (software ones too), the CUDA emulator under its three schedules, and CUDA hardware.
pub fn all() -> Vec<Slot> {
    let mut slots = vec![TestDevice::slot("cpu".into(), vec![Device::cpu()])];
    let report = Device::list();
    for (backend, name) in [(Backend::Wgpu, "wgpu"), (Backend::Cuda, "cuda")] {
        let mut reason = format!("no {name} device");
        let before = slots.len();
        for candidate in report.candidates.iter().filter(|c| c.backend == backend) {
            match (&candidate.unavailable, candidate.spec.parse()) {
                (None, Ok(device)) => slots.push(TestDevice::slot(candidate.spec.clone(), vec![device])),
                (None, Err(error)) => reason = error.to_string(),
                (Some(why), _) => reason.clone_from(why),
            }
        }
        if slots.len() == before {
            slots.push(Slot::Missing { name, reason });
        }
    }
    let schedules = [Schedule::InOrder, Schedule::Reversed, Schedule::Random(7)];
    match schedules.into_iter().map(Device::cuda_emulated).collect::<Result<Vec<_>, _>>() {
        Ok(handles) => slots.push(TestDevice::slot("cuda-emulated".into(), handles)),
        Err(error) => slots.push(Slot::Missing { name: "cuda-emulated", reason: error.to_string() }),
    }
    slots
}

/// A test body: runs on one device, and says what went wrong.
pub type Body = fn(&TestDevice) -> Result<(), String>;

/// A named test that runs on every device.
pub struct Test {
    /// Its name, a property that can be said aloud.
    pub name: &'static str,
    /// What it does.
    pub body: Body,
    /// Whether it makes the device report an error, so that nothing else may run on the device meanwhile.
    pub alone: bool,
}

impl Test {
    /// A test that can share its device.
    pub const fn new(name: &'static str, body: Body) -> Self {
        Self { name, body, alone: false }
    }

    /// A test that needs its device for itself.
    pub const fn alone(name: &'static str, body: Body) -> Self {
        Self { name, body, alone: true }
    }
}

fn required(name: &str) -> bool {
    let list = std::env::var(REQUIRE_VARIABLE).unwrap_or_default();
    list.split(',').any(|item| item.trim() == name)
}

fn trial(test: &'static Test, slot: &Slot) -> Trial {
    match slot {
        Slot::Found(device) => {
            let device = Arc::clone(device);
            Trial::test(format!("{}::{}", device.name, test.name), move || {
                // A panic in another test poisons the lock and says nothing about the device.
                let outcome = if test.alone {
                    let _alone = device.reports.write().unwrap_or_else(|poisoned| poisoned.into_inner());
                    (test.body)(&device)
                } else {
                    let _shared = device.reports.read().unwrap_or_else(|poisoned| poisoned.into_inner());
                    (test.body)(&device)
                };
                outcome.map_err(Failed::from)
            })
        }
        Slot::Missing { name, reason } => {
            let message = format!("{name} is not there: {reason}");
            Trial::test(format!("{name}::{}", test.name), move || Err(Failed::from(message)))
                .with_kind("missing")
                .with_ignored_flag(!required(name))
        }
    }
}

/// Runs every test on every device, as `libtest` would.
pub fn run(tests: &'static [Test]) -> Conclusion {
    run_where(|_| true, tests)
}

/// Runs every test on the devices, missing ones too, whose name `is_wanted`: `cpu`, `wgpu:0`, `cuda`, `cuda-emulated`.
pub fn run_where(is_wanted: fn(&str) -> bool, tests: &'static [Test]) -> Conclusion {
    let arguments = Arguments::from_args();
    let mut slots = all();
    slots.retain(|slot| match slot {
        Slot::Found(device) => is_wanted(&device.name),
        Slot::Missing { name, .. } => is_wanted(name),
    });
    for slot in &slots {
        match slot {
            Slot::Found(device) => eprintln!("{}: {}", device.name, device.handles[0].name()),
            Slot::Missing { name, reason } => eprintln!("{name}: ignored, {reason}"),
        }
    }
    let mut trials: Vec<Trial> =
        slots.iter().flat_map(|slot| tests.iter().map(move |test| trial(test, slot))).collect();
    trials.extend(unknown_requirements());
    libtest_mimic::run(&arguments, trials)
}

/// A requirement nobody checks would be worse than none: a misspelt name fails.
fn unknown_requirements() -> Option<Trial> {
    let list = std::env::var(REQUIRE_VARIABLE).ok()?;
    let known = ["cpu", "wgpu", "cuda", "cuda-emulated"];
    let unknown: Vec<String> = list
        .split(',')
        .map(|item| item.trim().to_owned())
        .filter(|item| !item.is_empty() && !known.contains(&item.as_str()))
        .collect();
    (!unknown.is_empty()).then(|| {
        Trial::test(REQUIRE_VARIABLE, move || {
            Err(Failed::from(format!("{unknown:?} is not among {known:?}")))
        })
    })
}
