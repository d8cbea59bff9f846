//! wgpu.
use crate::error::{Error, Result};
use crate::manifest::WgslKernel;
use std::sync::Arc;
pub(crate) struct AdapterSummary {
    pub(crate) name: String,
    pub(crate) software: bool,
}
/// Adapters, hardware first.
pub(crate) fn adapters() -> std::result::Result<Vec<AdapterSummary>, String> {
    Err("unwritten".into())
}
pub(crate) struct WgpuDevice {}
pub(crate) struct WgpuBuffer {}
impl WgpuBuffer {
    pub(crate) fn bytes(&self) -> usize {
        0
    }
    /// Unique per buffer.
    pub(crate) fn id(&self) -> u64 {
        0
    }
    pub(crate) fn upload(&self, _offset: usize, _data: &[u8]) -> Result<()> {
        unimplemented!()
    }
    pub(crate) fn download(&self, _offset: usize, _out: &mut [u8]) -> Result<()> {
        unimplemented!()
    }
}
impl WgpuDevice {
    pub(crate) fn shared(_index: usize) -> Result<Arc<Self>> {
        Err(Error::BackendUnavailable { backend: crate::Backend::Wgpu, reason: "unwritten".into() })
    }
    pub(crate) fn name(&self) -> String {
        String::new()
    }
    pub(crate) fn synchronize(&self) -> Result<()> {
        Ok(())
    }
    pub(crate) fn allocate(&self, _bytes: usize) -> Result<WgpuBuffer> {
        unimplemented!()
    }
    /// The device's status words (device/status.rs), bound by kernels that check device values.
    pub(crate) fn status(&self) -> &WgpuBuffer {
        unimplemented!()
    }
    /// Bindings in the row's order; `None` binds a small dummy buffer.
    pub(crate) fn launch(
        &self,
        _kernel: &'static WgslKernel,
        _bindings: &[Option<&WgpuBuffer>],
        _params: &[u8],
        _workgroups: [u32; 3],
    ) -> Result<()> {
        unimplemented!()
    }
}
