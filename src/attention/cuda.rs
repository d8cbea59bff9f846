//! CUDA.
use super::{Backward, Forward, Problem};
use crate::device::cuda::CudaDevice;
use crate::error::Result;
pub(super) fn forward(_device: &CudaDevice, _problem: &Problem<'_>, _call: &mut Forward<'_>) -> Result<()> {
    unimplemented!()
}
pub(super) fn backward(_device: &CudaDevice, _problem: &Problem<'_>, _call: &mut Backward<'_>) -> Result<()> {
    unimplemented!()
}
