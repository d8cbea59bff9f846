//! Each primitive of `kernels/device.cuh` on the emulator, under every schedule.
//!
//! The cases know nothing of the emulator: `tests/primitives.rs` of the library runs the same ones on NVIDIA devices.

#[path = "support/primitives.rs"]
mod cases;
mod support;

use cases::{Call, Launcher};
use gatewarp_emulator::{Schedule, TensorMap};
use std::ffi::c_void;
use support::{Argument, Buffer, SCHEDULES};

/// The emulator under one schedule, on two workers.
struct Emulated(Schedule);

/// A parameter struct at the alignment of the strictest one, a tensor map.
struct Params(Vec<Line>);

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code, reason = "the kernel reads it")] [u8; 64]);

impl Params {
    fn new(bytes: &[u8]) -> Self {
        let lines = bytes.chunks(64).map(|part| {
            let mut line = [0; 64];
            line[..part.len()].copy_from_slice(part);
            Line(line)
        });
        Self(lines.collect())
    }
}

impl Argument for Params {
    fn pointer(&self) -> *const c_void {
        self.0.as_ptr().cast()
    }
}

impl Launcher for Emulated {
    fn name(&self) -> String {
        format!("{:?}", self.0)
    }

    fn launch(&self, call: &Call) -> Result<Vec<Vec<u8>>, String> {
        let buffers: Vec<Buffer<u8>> = call.memory.iter().map(|bytes| Buffer::new(bytes)).collect();
        let mapped = call.tensor.as_ref().map(|tensor| (tensor, Buffer::<u8>::new(&tensor.memory)));
        let mut bytes = Vec::new();
        if let Some((tensor, buffer)) = &mapped {
            let map = TensorMap::new(buffer.address(), tensor.sizes, tensor.strides, tensor.rows)?;
            bytes.extend(map.bytes());
        }
        bytes.extend(&call.params);
        let params = Params::new(&bytes);
        let mut arguments: Vec<&dyn Argument> =
            buffers.iter().map(|buffer| buffer as &dyn Argument).collect();
        if !bytes.is_empty() {
            arguments.push(&params);
        }
        let shared = call.shared_bytes as usize;
        support::launch(call.entry, call.grid, call.block, shared, &arguments, self.0, 2)
            .map_err(|fault| fault.to_string())?;
        Ok(buffers.iter().map(Buffer::read).collect())
    }
}

/// Says under which schedule a case failed.
struct Under(Schedule);

impl Drop for Under {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("under {:?}", self.0);
        }
    }
}

macro_rules! tests {
    ($($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                for schedule in SCHEDULES {
                    let _under = Under(schedule);
                    cases::$case(&Emulated(schedule));
                }
            }
        )*
    };
}
cases::for_each_case!(tests);

mod asynchronous {
    use super::cases::asynchronous as cases;
    use super::support::SCHEDULES;
    use super::{Emulated, Under};

    cases::for_each_asynchronous_case!(tests);
}

/// The library launches no block of more than one dimension, so this is no case.
#[test]
fn blocks_of_three_dimensions() {
    let params = Params::new(&[(1u64 << 40).to_le_bytes(), 3u64.to_le_bytes()].concat());
    for schedule in SCHEDULES {
        let out = Buffer::<u64>::poisoned(2 * 3 * 5 * 96);
        let pointers = [out.pointer(), params.pointer()];
        // SAFETY: a buffer's address and a structure laid out as the kernel's.
        let ended = unsafe {
            gatewarp_emulator::launch("primitive_indices", [2, 3, 5], [8, 4, 3], 0, &pointers, schedule, 2)
        };
        ended.unwrap();
        for (i, value) in out.read().into_iter().enumerate() {
            assert_eq!(value, (1 << 40) + 3 * i as u64, "{schedule:?}");
        }
    }
}
