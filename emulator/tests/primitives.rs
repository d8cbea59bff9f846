//! Each primitive of `kernels/device.cuh` against a plain statement of what it should do, under every schedule.
//!
//! The kernels and their buffers know nothing of the emulator: the same ones, run on a device, test the instructions.

mod support;

use support::{Argument, Buffer, Plain, Random, SCHEDULES, launch};

/// Launches under every schedule with fresh outputs from `output`, and passes what each wrote to `check`.
fn under_every_schedule<T: Plain>(
    entry: &str,
    grid: u32,
    block: u32,
    shared_bytes: usize,
    output_len: usize,
    arguments: &dyn for<'a> Fn(&'a Buffer<T>) -> Vec<&'a dyn Argument>,
    check: &dyn Fn(&[T]),
) {
    for schedule in SCHEDULES {
        let output = Buffer::<T>::poisoned(output_len);
        launch(entry, [grid, 1, 1], block, shared_bytes, &arguments(&output), schedule, 2)
            .unwrap_or_else(|fault| panic!("{schedule:?}: {fault}"));
        check(&output.read());
    }
}
