//! Small per-sample integers (lengths, offsets, task ids): given on the host or in device memory, in any integer type.

use crate::device::{Backend, Device};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, TensorRef};

/// One integer per sample, on the device the operation runs on.
///
/// Kernels read them as 32-bit words: `kind` 0 = i32, 1 = u32, 2 = i64 (low word first), saturated to i32.
pub(crate) enum Ids<'a> {
    /// The caller's tensor.
    Borrowed(TensorRef<'a>),
    /// A host tensor copied to the device, and its values.
    Uploaded(Tensor, Vec<i64>),
}

impl<'a> Ids<'a> {
    /// Checks `ids` (of `shape`, integer, on `device` or the host), checks its values with `valid` if the host can see them,
    /// and brings them to `device`.
    pub(crate) fn new(
        op: &'static str,
        arg: &'static str,
        ids: &TensorRef<'a>,
        shape: &[usize],
        device: &Device,
        valid: impl Fn(i64) -> Result<()>,
    ) -> Result<Self> {
        if ids.shape() != shape {
            return Err(Error::shape(op, arg, format!("{shape:?}"), ids.shape()));
        }
        if !ids.dtype().is_integer() {
            return Err(Error::DType { op, arg, expected: "i32, u32 or i64".into(), got: ids.dtype() });
        }
        if ids.device().backend() == Backend::Cpu {
            let values = host_values(ids)?;
            values.iter().try_for_each(|&value| valid(value))?;
            if device.backend() == Backend::Cpu {
                return Ok(Self::Borrowed(ids.clone()));
            }
            // Saturation keeps the meaning: every use compares against sizes below 2³¹.
            let narrow: Vec<i32> =
                values.iter().map(|&v| v.clamp(i32::MIN.into(), i32::MAX.into()) as i32).collect();
            return Ok(Self::Uploaded(Tensor::from_slice(device, &narrow, shape)?, values));
        }
        if !ids.device().is_same(device) {
            let (expected, got) = (device.name(), ids.device().name());
            return Err(Error::Device { op, arg, expected, got });
        }
        Ok(Self::Borrowed(ids.clone()))
    }

    /// The ids as a tensor on the operation's device.
    pub(crate) fn view(&self) -> TensorRef<'_> {
        match self {
            Self::Borrowed(view) => view.clone(),
            Self::Uploaded(tensor, _) => tensor.view(),
        }
    }

    /// The values in row-major order, if the caller gave them in host memory.
    pub(crate) fn visible(&self) -> Result<Option<Vec<i64>>> {
        match self {
            Self::Uploaded(_, values) => Ok(Some(values.clone())),
            Self::Borrowed(view) if view.device().backend() == Backend::Cpu => host_values(view).map(Some),
            Self::Borrowed(_) => Ok(None),
        }
    }

    /// The values, where they are in host memory.
    pub(crate) fn host(&self) -> Result<Vec<i64>> {
        host_values(&self.view())
    }

    /// The code kernels use for the integer type.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(crate) fn kind(&self) -> u32 {
        match self.view().dtype() {
            DType::U32 => 1,
            DType::I64 => 2,
            _ => 0,
        }
    }
}

fn host_values(ids: &TensorRef<'_>) -> Result<Vec<i64>> {
    Ok(match ids.dtype() {
        DType::U32 => ids.to_vec::<u32>()?.into_iter().map(i64::from).collect(),
        DType::I64 => ids.to_vec::<i64>()?,
        _ => ids.to_vec::<i32>()?.into_iter().map(i64::from).collect(),
    })
}
