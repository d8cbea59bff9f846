//! Checks every operation makes on its tensors before anything is launched.

use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Memory, TensorRef};

/// The four sizes of a rank-4 tensor.
pub(crate) fn rank4(op: &'static str, arg: &'static str, tensor: &TensorRef<'_>) -> Result<[usize; 4]> {
    tensor.shape().try_into().map_err(|_| Error::shape(op, arg, "four dimensions", tensor.shape()))
}

pub(crate) fn shape(
    op: &'static str,
    arg: &'static str,
    tensor: &TensorRef<'_>,
    expected: &[usize],
) -> Result<()> {
    if tensor.shape() == expected {
        return Ok(());
    }
    Err(Error::shape(op, arg, format!("{expected:?}"), tensor.shape()))
}

/// Element type and device.
pub(crate) fn tensor(
    op: &'static str,
    arg: &'static str,
    tensor: &TensorRef<'_>,
    dtype: DType,
    device: &Device,
) -> Result<()> {
    if tensor.dtype() != dtype {
        return Err(Error::DType { op, arg, expected: dtype.to_string(), got: tensor.dtype() });
    }
    if !tensor.device().is_same(device) {
        let (expected, got) = (format!("{device:?}"), format!("{:?}", tensor.device()));
        return Err(Error::Device { op, arg, expected, got });
    }
    Ok(())
}

pub(crate) fn last_contiguous(op: &'static str, arg: &'static str, tensor: &TensorRef<'_>) -> Result<()> {
    if tensor.layout().is_empty() || tensor.layout().last_is_contiguous() {
        return Ok(());
    }
    let reason =
        format!("must be contiguous in its last dimension, has strides {:?}", tensor.layout().strides());
    Err(Error::argument(op, arg, reason))
}

pub(crate) fn contiguous(op: &'static str, arg: &'static str, tensor: &TensorRef<'_>) -> Result<()> {
    if tensor.layout().is_contiguous() {
        return Ok(());
    }
    let reason = format!("must be contiguous, has strides {:?}", tensor.layout().strides());
    Err(Error::argument(op, arg, reason))
}

/// No output shares memory with an input or with another output.
///
/// Interleaved views of one allocation (heads of one output buffer) are told apart only by their ranges, except that two
/// views with equal strides whose offsets differ by less than a stride are compared exactly along the last dimension.
pub(crate) fn disjoint(
    op: &'static str,
    outputs: &[(&'static str, &TensorRef<'_>)],
    inputs: &[(&'static str, &TensorRef<'_>)],
) -> Result<()> {
    for (i, (arg, output)) in outputs.iter().enumerate() {
        for (other, tensor) in inputs.iter().chain(&outputs[i + 1..]) {
            if overlap(output, tensor) {
                return Err(Error::argument(op, arg, format!("shares memory with `{other}`")));
            }
        }
    }
    Ok(())
}

fn overlap(a: &TensorRef<'_>, b: &TensorRef<'_>) -> bool {
    if a.layout().is_empty() || b.layout().is_empty() {
        return false;
    }
    let (Some(range_a), Some(range_b)) = (byte_range(a), byte_range(b)) else { return false };
    range_a.0 == range_b.0 && range_a.1 < range_b.2 && range_b.1 < range_a.2 && !interleaved(a, b)
}

/// Two slices of one packed tensor (`[…, 3, heads, dim]` and the like): same strides, and the gap between their starts is
/// stepped over by every outer dimension.
fn interleaved(a: &TensorRef<'_>, b: &TensorRef<'_>) -> bool {
    let (la, lb) = (a.layout(), b.layout());
    if a.dtype() != b.dtype() || la.shape().len() != lb.shape().len() {
        return false;
    }
    let rank = la.shape().len();
    let same_strides = (0..rank).all(|i| la.step(i) == lb.step(i) || la.step(i) == 0 || lb.step(i) == 0);
    if !same_strides {
        return false;
    }
    // Of addresses, not of offsets: frameworks hand over slices of one allocation with an address each.
    let (Some((_, first_a, _)), Some((_, first_b, _))) = (byte_range(a), byte_range(b)) else { return false };
    let gap = (first_a.abs_diff(first_b) / a.dtype().size() as u64) as usize;
    // Dimensions stepped by less than the gap must stay inside it; the others must step over both slices.
    let inner = |l: &crate::tensor::Layout| -> usize {
        (0..rank).filter(|&i| l.step(i) <= gap).map(|i| (l.shape()[i] - 1) * l.step(i)).sum()
    };
    let reach = inner(la).max(inner(lb));
    let mut outer: Vec<(usize, usize)> = (0..rank)
        .map(|i| (la.step(i).max(lb.step(i)), la.shape()[i].max(lb.shape()[i])))
        .filter(|&(step, _)| step > gap)
        .collect();
    outer.sort_unstable();
    // Nested outer steps: no combination of them comes closer to another row than the smallest step.
    let nested = outer.windows(2).all(|w| w[0].0.saturating_mul(w[0].1) <= w[1].0);
    reach < gap && nested && outer.first().is_none_or(|&(step, _)| step > gap + reach)
}

/// (allocation, first byte, end byte) of a view's span.
fn byte_range(t: &TensorRef<'_>) -> Option<(u64, u64, u64)> {
    let size = t.dtype().size() as u64;
    let (first, end) = (t.layout().offset() as u64 * size, t.layout().end() as u64 * size);
    Some(match t.memory() {
        Memory::Cpu { base, .. } => (0, base as u64 + first, base as u64 + end),
        #[cfg(feature = "wgpu")]
        Memory::Wgpu(buffer) => (buffer.id(), first, end),
        #[cfg(feature = "cuda")]
        Memory::Cuda { address, .. } => (1, address + first, address + end),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Layout, Tensor};

    fn view<'a>(tensor: &'a Tensor, shape: &[usize], strides: &[usize], offset: usize) -> TensorRef<'a> {
        tensor.view().with_layout(Layout::new(shape, strides, offset).unwrap()).unwrap()
    }

    fn accepted(output: &TensorRef<'_>, input: &TensorRef<'_>) -> bool {
        disjoint("op", &[("out", output)], &[("in", input)]).is_ok()
    }

    #[test]
    fn views_that_share_an_element_are_refused() {
        let memory = Tensor::zeros(&Device::cpu(), DType::F32, &[64]).unwrap();
        let whole = memory.view();
        let (front, back, middle) =
            (view(&memory, &[32], &[1], 0), view(&memory, &[32], &[1], 32), view(&memory, &[8], &[1], 28));
        assert!(accepted(&front, &back) && accepted(&back, &front));
        for (a, b) in [(&whole, &whole), (&front, &whole), (&front, &middle), (&back, &middle)] {
            assert!(!accepted(a, b) && !accepted(b, a), "{a:?} and {b:?}");
        }
        let error = disjoint("op", &[("o", &front), ("lse", &middle)], &[("q", &back)]);
        assert!(
            matches!(error, Err(Error::InvalidArgument { arg: "o", .. })),
            "outputs are compared with each other: {error:?}"
        );
        let elsewhere = Tensor::zeros(&Device::cpu(), DType::F32, &[64]).unwrap();
        assert!(accepted(&elsewhere.view(), &whole));
        let empty = view(&memory, &[0, 4], &[4, 1], 0);
        assert!(accepted(&empty, &whole) && accepted(&whole, &empty));
    }

    #[test]
    fn slices_of_a_packed_tensor_are_told_apart() {
        // [rows 4, three 3, width 4]: q, k and v of each row side by side.
        let memory = Tensor::zeros(&Device::cpu(), DType::F32, &[64]).unwrap();
        let slice = |which: usize| view(&memory, &[4, 4], &[12, 1], 4 * which);
        assert!(accepted(&slice(0), &slice(1)) && accepted(&slice(2), &slice(0)));
        let shifted = view(&memory, &[4, 4], &[12, 1], 2);
        assert!(!accepted(&shifted, &slice(0)) && !accepted(&slice(1), &view(&memory, &[4, 4], &[12, 1], 6)));
        // Rows of 12 and of 8 meet somewhere, whatever their starts.
        assert!(!accepted(&slice(0), &view(&memory, &[4, 4], &[8, 1], 4)));
    }
}
