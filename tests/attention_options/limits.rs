//! What a backend still refuses. SPEC's own limit is f64 on wgpu; every other line is a known issue, and a test that finds one
//! working fails until the line is gone.

use crate::case::{Case, option};
use crate::support::oracle_attention::Score;
use gatewarp::{Backend, DType};

/// Whether a call is refused as `Unsupported`.
pub fn lacking(backend: Backend, case: &Case, dtype: DType) -> bool {
    const OPTIONS: u32 = option::WINDOW
        | option::MASK
        | option::BIAS
        | option::ALIBI
        | option::SINKS
        | option::SOFTCAP
        | option::DROPOUT
        | option::PACKED;
    match backend {
        Backend::Cpu | Backend::Wgpu => {
            dtype != DType::F32
                || case.head_dim.max(case.value_dim) > 128
                || case.score != Score::Dot
                || case.has(OPTIONS)
        }
        _ => false,
    }
}

/// Whether the backend has no gradients of options yet.
pub fn gradients_lacking(backend: Backend) -> bool {
    backend != Backend::Cuda
}

/// Whether the backend refuses paged caches.
pub fn paged_lacking(backend: Backend) -> bool {
    backend != Backend::Cuda
}
