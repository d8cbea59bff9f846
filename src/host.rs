//! Tensors in host memory as slices.

use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::tensor::{TensorMut, TensorRef};

/// Validation has compared the devices; this is the error if it ever had not.
fn not_host(dtype: DType) -> Error {
    let got = format!("{dtype} elsewhere, or not contiguous");
    Error::Device { op: "cpu", arg: "memory", expected: "contiguous host memory".into(), got }
}

/// All elements of a contiguous CPU tensor.
#[allow(unsafe_code)]
pub(crate) fn elements<'a, T: Element>(view: &TensorRef<'a>) -> Result<&'a [T]> {
    let len = view.layout().len();
    if len == 0 {
        return Ok(&[]);
    }
    let base = view.cpu_ptr::<T>().filter(|_| view.layout().is_contiguous());
    let base = base.ok_or_else(|| not_host(view.dtype()))?;
    // SAFETY: a contiguous view's elements are the `len` that follow its first, all inside the borrow `'a`.
    Ok(unsafe { std::slice::from_raw_parts(base, len) })
}

/// All elements of a contiguous CPU tensor, for writing.
#[allow(unsafe_code)]
pub(crate) fn elements_mut<'a, T: Element>(view: &'a mut TensorMut<'_>) -> Result<&'a mut [T]> {
    let layout = *view.as_ref().layout();
    if layout.is_empty() {
        return Ok(&mut []);
    }
    let base = view.cpu_ptr::<T>().filter(|_| layout.is_contiguous());
    let base = base.ok_or_else(|| not_host(view.as_ref().dtype()))?;
    // SAFETY: as in `elements`; the view borrows them exclusively, and is itself borrowed exclusively for `'a`.
    Ok(unsafe { std::slice::from_raw_parts_mut(base, layout.len()) })
}
