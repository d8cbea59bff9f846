//! What a backend refuses: SPEC's own limits, and nothing else.

use gatewarp::{Backend, DType};

/// Whether a call is refused as `Unsupported`: f64 is for cpu and cuda.
pub fn lacking(backend: Backend, dtype: DType) -> bool {
    backend == Backend::Wgpu && dtype == DType::F64
}
