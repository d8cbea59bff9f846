//! Kernels by which the device layer examines a driver.

use super::{Access, WgslKernel};

/// Counts a loop, to recognise drivers that leave long loops early.
pub static LOOP_GUARD: WgslKernel = WgslKernel {
    entry: "device_loop_guard",
    file: "device/loop_guard.wgsl",
    source: include_str!("../../kernels/device/loop_guard.wgsl"),
    constants: &[],
    workgroup: [1, 1, 1],
    bindings: &[("count", Access::ReadWrite)],
    params: 4,
    workgroup_bytes: 0,
    uses_subgroups: false,
};

pub(super) const WGSL: &[&WgslKernel] = &[&LOOP_GUARD];
