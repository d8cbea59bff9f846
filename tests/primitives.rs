//! Each primitive of `kernels/device.cuh` through the library's CUDA backend: on the emulator under every schedule, which
//! proves the cases, and on NVIDIA devices, which prove that the instructions do what their twins say.
//!
//! The kernels' text is part of this program, so it runs on a machine without this repository.

#[path = "../emulator/tests/support/primitives.rs"]
mod cases;
#[path = "support/devices.rs"]
#[allow(dead_code)] // This program needs the list of devices only.
mod devices;

use cases::{Call, Launcher};
use devices::{Test, TestDevice, run_where};
use gatewarp::manifest::CudaKernel;
use gatewarp::{Backend, Device, Error, Schedule, Tensor};
use std::process::ExitCode;

/// The files of the kernels, by how their entries begin.
const FILES: [(&str, &str, &str); 2] = [
    (
        "primitive_",
        "emulator/tests/kernels/primitives.cu",
        include_str!("../emulator/tests/kernels/primitives.cu"),
    ),
    (
        "async_",
        "emulator/tests/kernels/asynchronous_sm90.cu",
        include_str!("../emulator/tests/kernels/asynchronous_sm90.cu"),
    ),
];

/// Names for the pointers of a row; launches count them, nothing reads them.
static POINTERS: [&str; 16] = ["memory"; 16];

struct OnDevice<'a>(&'a Device);

impl Launcher for OnDevice<'_> {
    fn name(&self) -> String {
        self.0.name()
    }

    fn launch(&self, call: &Call) -> Result<Vec<Vec<u8>>, String> {
        let mut tensors =
            call.memory.iter().map(|bytes| upload(self.0, bytes)).collect::<Result<Vec<_>, _>>()?;
        let mapped = call.tensor.as_ref().map(|mapped| {
            let tensor = upload(self.0, &mapped.memory)?;
            let map = self.0.tensor_map(&tensor, mapped.sizes, mapped.strides, mapped.rows);
            Ok::<_, String>((map.map_err(|error| error.to_string())?, tensor))
        });
        let mapped = mapped.transpose()?;
        let mut params: Vec<u8> = mapped.iter().flat_map(|(map, _)| *map).collect();
        params.extend(&call.params);
        let row = row(call.entry, call.block, call.memory.len(), params.len(), call.shared_bytes);
        // SAFETY: the cases give each kernel the memory, the grid and the parameters that it is written for.
        #[allow(unsafe_code)]
        unsafe { self.0.launch_cuda(row, call.grid, &mut tensors, &params) }
            .map_err(|error| error.to_string())?;
        let words = tensors
            .iter()
            .map(Tensor::to_vec::<u32>)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| e.to_string())?;
        Ok(words.iter().map(|words| bytemuck::cast_slice(words).to_vec()).collect())
    }
}

fn upload(device: &Device, bytes: &[u8]) -> Result<Tensor, String> {
    if !bytes.len().is_multiple_of(size_of::<u32>()) {
        return Err(format!("{} bytes are not whole words", bytes.len()));
    }
    let words: Vec<u32> = bytemuck::pod_collect_to_vec(bytes);
    Tensor::from_slice(device, &words, &[words.len()]).map_err(|error| error.to_string())
}

/// A row that lives as long as the program, as those of the manifest do. Leaks a few bytes a launch.
fn row(
    entry: &'static str,
    block: u32,
    pointers: usize,
    params: usize,
    shared_bytes: u32,
) -> &'static CudaKernel {
    let pointers = &POINTERS[..pointers];
    let of_entry = FILES.iter().find(|(prefix, ..)| entry.starts_with(prefix));
    let &(_, file, source) = of_entry.expect("every test kernel is in one of the files");
    Box::leak(Box::new(CudaKernel { entry, file, source, block, pointers, params, shared_bytes }))
}

/// Says on which device, and under which schedule, a case failed.
struct On(String);

impl Drop for On {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("on {}", self.0);
        }
    }
}

fn on_every_handle(device: &TestDevice, case: fn(&dyn Launcher)) {
    for handle in &device.handles {
        let _on = On(handle.name());
        case(&OnDevice(handle));
    }
}

/// Runs a case of the asynchronous units, unless the device has none.
fn on_every_sm90(device: &TestDevice, case: fn(&dyn Launcher)) -> Result<(), String> {
    if device.name == "cuda-emulated" {
        for schedule in [Schedule::InOrder, Schedule::Reversed, Schedule::Random(9)] {
            let handle = Device::cuda_emulated_sm90(schedule).map_err(|error| error.to_string())?;
            let _on = On(handle.name());
            case(&OnDevice(&handle));
        }
    } else if device.handle(0).has_asynchronous_units() {
        on_every_handle(device, case);
    } else {
        eprintln!("{}: not of compute capability 9.0, nothing to test", device.name);
    }
    Ok(())
}

/// Every wrong launch is a typed error, and the device works afterwards.
fn wrong_launches_are_refused(device: &TestDevice) -> Result<(), String> {
    let handle = device.handle(0);
    let launch = |row, memory: &mut [Tensor], params: &[u8]| {
        // SAFETY: refused before anything runs, which is what is tested.
        #[allow(unsafe_code)]
        unsafe {
            handle.launch_cuda(row, [1, 1, 1], memory, params)
        }
    };
    let (input, output) = (upload(handle, &[0; 512])?, upload(handle, &[0; 516])?);
    let mut memory = [input, output];
    let few = launch(row("primitive_reverse", 128, 1, 0, 512), &mut memory, &[]);
    assert!(matches!(&few, Err(Error::Launch { kernel, .. }) if kernel == "primitive_reverse"), "{few:?}");
    let extra = launch(row("primitive_reverse", 128, 2, 0, 512), &mut memory, &[0; 4]);
    assert!(matches!(extra, Err(Error::Launch { .. })), "{extra:?}");
    let unknown = launch(row("primitive_unknown", 32, 2, 0, 0), &mut memory, &[]);
    assert!(
        matches!(&unknown, Err(Error::Launch { kernel, .. }) if kernel == "primitive_unknown"),
        "{unknown:?}"
    );
    let mut elsewhere = [upload(&Device::cpu(), &[0; 512])?, upload(&Device::cpu(), &[0; 516])?];
    let mixed = launch(row("primitive_reverse", 128, 2, 0, 512), &mut elsewhere, &[]);
    assert!(matches!(mixed, Err(Error::Device { .. })), "{mixed:?}");
    // SAFETY: as above.
    #[allow(unsafe_code)]
    let on_cpu = unsafe {
        Device::cpu().launch_cuda(row("primitive_reverse", 128, 2, 0, 512), [1, 1, 1], &mut elsewhere, &[])
    };
    assert!(matches!(on_cpu, Err(Error::Unsupported { backend: Backend::Cpu, .. })), "{on_cpu:?}");
    cases::shared_memory_passes_values_across_the_block(&OnDevice(handle));
    Ok(())
}

macro_rules! tests {
    ($($case:ident)*) => {
        &[
            $(Test::new(stringify!($case), |device| {
                on_every_handle(device, cases::$case);
                Ok(())
            }),)*
            Test::new("wrong_launches_are_refused", wrong_launches_are_refused),
        ]
    };
}
static TESTS: &[Test] = cases::for_each_case!(tests);

/// The cases of the asynchronous units: nothing to test where a device has none.
macro_rules! asynchronous_tests {
    ($($case:ident)*) => {
        &[
            $(Test::new(concat!("asynchronous::", stringify!($case)), |device| {
                on_every_sm90(device, cases::asynchronous::$case)
            }),)*
        ]
    };
}
static ASYNCHRONOUS_TESTS: &[Test] = cases::asynchronous::for_each_asynchronous_case!(asynchronous_tests);

fn main() -> ExitCode {
    let all = TESTS.iter().chain(ASYNCHRONOUS_TESTS);
    let all: Vec<Test> = all.map(|&Test { name, body, alone }| Test { name, body, alone }).collect();
    run_where(|name| name.starts_with("cuda"), all.leak()).exit_code()
}
