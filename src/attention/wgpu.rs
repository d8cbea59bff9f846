//! WGSL.
use super::{Backward, Forward, Problem};
use crate::device::wgpu::WgpuDevice;
use crate::error::Result;
pub(super) fn forward(_device: &WgpuDevice, _problem: &Problem<'_>, _call: &mut Forward<'_>) -> Result<()> {
    unimplemented!()
}
pub(super) fn backward(_device: &WgpuDevice, _problem: &Problem<'_>, _call: &mut Backward<'_>) -> Result<()> {
    unimplemented!()
}
