//! Values in device memory, of any type and layout.

use crate::device::Device;
use crate::dtype::{DType, Element};
use crate::tensor::{Layout, Tensor, TensorMut, TensorRef};
use half::{bf16, f16};
use std::iter;

/// Elements after a tensor, which nothing may write.
const GUARD: usize = 9;

/// A tensor of `values` in row-major order of the layout.
fn place_as<T: Element>(device: &Device, layout: &Layout, values: &[f64], make: impl Fn(f64) -> T) -> Tensor {
    let mut memory = vec![make(f64::NAN); layout.end() + GUARD];
    layout.indices().zip(values).for_each(|(at, &x)| memory[at] = make(x));
    Tensor::from_slice(device, &memory, &[memory.len()]).unwrap()
}

pub(super) struct Placed {
    tensor: Tensor,
    pub(super) layout: Layout,
}

impl Placed {
    pub(super) fn new(device: &Device, dtype: DType, layout: Layout, values: &[f64]) -> Self {
        assert_eq!(layout.len(), values.len());
        let tensor = match dtype {
            DType::F16 => place_as(device, &layout, values, f16::from_f64),
            DType::BF16 => place_as(device, &layout, values, bf16::from_f64),
            DType::F64 => place_as(device, &layout, values, |x| x),
            DType::U8 => place_as(device, &layout, values, |x| x as u8),
            _ => place_as(device, &layout, values, |x| x as f32),
        };
        Self { tensor, layout }
    }

    pub(super) fn plain(device: &Device, dtype: DType, shape: &[usize], values: &[f64]) -> Self {
        Self::new(device, dtype, Layout::contiguous(shape).unwrap(), values)
    }

    pub(super) fn output(device: &Device, dtype: DType, layout: Layout) -> Self {
        Self::new(device, dtype, layout, &vec![f64::NAN; layout.len()])
    }

    pub(super) fn view(&self) -> TensorRef<'_> {
        self.tensor.view().with_layout(self.layout).unwrap()
    }

    pub(super) fn view_mut(&mut self) -> TensorMut<'_> {
        self.tensor.view_mut().with_layout(self.layout).unwrap()
    }

    pub(super) fn read(&self) -> Vec<f64> {
        let memory: Vec<f64> = match self.tensor.dtype() {
            DType::F16 => self.tensor.to_vec::<f16>().unwrap().into_iter().map(f64::from).collect(),
            DType::BF16 => self.tensor.to_vec::<bf16>().unwrap().into_iter().map(f64::from).collect(),
            DType::F64 => self.tensor.to_vec::<f64>().unwrap(),
            _ => self.tensor.to_vec::<f32>().unwrap().into_iter().map(f64::from).collect(),
        };
        let mut untouched = vec![true; memory.len()];
        self.layout.indices().for_each(|at| untouched[at] = false);
        let overrun = (0..memory.len()).find(|&at| untouched[at] && !memory[at].is_nan());
        assert_eq!(overrun, None, "written outside the layout");
        self.layout.indices().map(|at| memory[at]).collect()
    }
}

/// The rows of `values` (`[batch, head, row, dim]`) that exist, as `[1, head, Σ rows, dim]`.
pub(super) fn packed(values: &[f64], [batch, heads, len, dim]: [usize; 4], lens: &[usize]) -> Vec<f64> {
    let row = |b: usize, h: usize, i: usize| &values[((b * heads + h) * len + i) * dim..][..dim];
    (0..heads)
        .flat_map(|h| (0..batch).flat_map(move |b| (0..lens[b]).map(move |i| (b, h, i))))
        .flat_map(|(b, h, i)| row(b, h, i).to_vec())
        .collect()
}

/// First rows of packed samples.
pub(super) fn cumulative(lens: &[usize]) -> Vec<i64> {
    let sums = lens.iter().scan(0, |sum, &len| {
        *sum += len as i64;
        Some(*sum)
    });
    iter::once(0).chain(sums).collect()
}
