//! Each primitive of `kernels/device.cuh` on the emulator, under every schedule.
//!
//! The cases know nothing of the emulator: `tests/primitives.rs` of the library runs the same ones on NVIDIA devices.

#[path = "support/primitives.rs"]
mod cases;
mod support;

use cases::{Call, Launcher};
use gatewarp_emulator::Schedule;
use std::ffi::c_void;
use support::{Argument, Buffer, SCHEDULES};

/// The emulator under one schedule, on two workers.
struct Emulated(Schedule);

/// A parameter struct at the alignment of the strictest one.
struct Params(Vec<u128>);

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
        let mut params = vec![0u128; call.params.len().div_ceil(size_of::<u128>())];
        bytemuck::cast_slice_mut(&mut params)[..call.params.len()].copy_from_slice(&call.params);
        let params = Params(params);
        let mut arguments: Vec<&dyn Argument> =
            buffers.iter().map(|buffer| buffer as &dyn Argument).collect();
        if !call.params.is_empty() {
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

/// The library launches no block of more than one dimension, so this is no case.
#[test]
fn blocks_of_three_dimensions() {
    let params = Params(vec![3 << 64 | 1 << 40]);
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
