//! CUDA.
use crate::device::Schedule;
use crate::error::{Error, Result};
use crate::manifest::CudaKernel;
use std::sync::Arc;
pub(crate) fn devices() -> std::result::Result<Vec<String>, String> {
    Err("unwritten".into())
}
pub(crate) struct CudaDevice {}
pub(crate) struct CudaBuffer {}
impl CudaBuffer {
    pub(crate) fn bytes(&self) -> usize {
        0
    }
    pub(crate) fn address(&self) -> u64 {
        0
    }
    pub(crate) fn upload(&self, _offset: usize, _data: &[u8]) -> Result<()> {
        unimplemented!()
    }
}
impl CudaDevice {
    pub(crate) fn nvidia(_index: usize) -> Result<Arc<Self>> {
        Err(Error::BackendUnavailable { backend: crate::Backend::Cuda, reason: "unwritten".into() })
    }
    #[cfg(feature = "emulator")]
    pub(crate) fn emulated(_schedule: Schedule) -> Result<Arc<Self>> {
        unimplemented!()
    }
    pub(crate) fn name(&self) -> String {
        String::new()
    }
    pub(crate) fn synchronize(&self) -> Result<()> {
        Ok(())
    }
    pub(crate) fn allocate(&self, _bytes: usize) -> Result<CudaBuffer> {
        unimplemented!()
    }
    pub(crate) fn download(&self, _address: u64, _out: &mut [u8]) -> Result<()> {
        unimplemented!()
    }
    /// Address of the device's status words (device/status.rs).
    pub(crate) fn status(&self) -> u64 {
        unimplemented!()
    }
    /// Streaming multiprocessors, for sizing persistent grids.
    pub(crate) fn multiprocessors(&self) -> u32 {
        1
    }
    /// Pointers in the row's order (0 = null), then the parameter struct.
    pub(crate) fn launch(
        &self,
        _kernel: &'static CudaKernel,
        _grid: [u32; 3],
        _pointers: &[u64],
        _params: &[u8],
    ) -> Result<()> {
        unimplemented!()
    }
}
