//! Strided tensors of any element type, with traps around them: what an operation must not read is NaN, what it must not write is
//! a guard pattern, and outputs start as a pattern no computation produces.

use super::guarded::element_indices;
use gatewarp::{DType, Device, Element, Layout, Tensor, TensorMut, TensorRef};
use half::{bf16, f16};

/// Elements before and after the view.
const MARGIN: usize = 67;

/// A value rounded to an element type, as f64.
pub fn rounded(dtype: DType, value: f64) -> f64 {
    match dtype {
        DType::F16 => f16::from_f64(value).to_f64(),
        DType::BF16 => bf16::from_f64(value).to_f64(),
        DType::F64 => value,
        _ => f64::from(value as f32),
    }
}

/// Bits of the poison (`true`) and of the guard pattern: NaNs of their own.
fn pattern(dtype: DType, poison: bool) -> u64 {
    match (dtype, poison) {
        (DType::F16, true) => 0x7e5a,
        (DType::F16, false) => 0x7f3c,
        (DType::BF16, true) => 0x7fda,
        (DType::BF16, false) => 0x7fe5,
        (DType::F64, true) => 0x7ff8_0000_0000_dead,
        (DType::F64, false) => 0x7ffe_5a5a_5a5a_5a5a,
        (_, true) => 0x7fc0_dead,
        (_, false) => 0x7fe5_a5a5,
    }
}

fn bits_of(dtype: DType, value: f64) -> u64 {
    match dtype {
        DType::F16 => f16::from_f64(value).to_bits().into(),
        DType::BF16 => bf16::from_f64(value).to_bits().into(),
        DType::F64 => value.to_bits(),
        _ => (value as f32).to_bits().into(),
    }
}

fn value_of(dtype: DType, bits: u64) -> f64 {
    match dtype {
        DType::F16 => f16::from_bits(bits as u16).to_f64(),
        DType::BF16 => bf16::from_bits(bits as u16).to_f64(),
        DType::F64 => f64::from_bits(bits),
        _ => f32::from_bits(bits as u32).into(),
    }
}

fn upload(device: &Device, dtype: DType, bits: &[u64]) -> Tensor {
    fn as_type<T: Element>(device: &Device, bits: &[u64], of: impl Fn(u64) -> T) -> Tensor {
        let values: Vec<T> = bits.iter().map(|&bits| of(bits)).collect();
        Tensor::from_slice(device, &values, &[values.len()]).expect("test memory")
    }
    match dtype {
        DType::F16 => as_type(device, bits, |bits| f16::from_bits(bits as u16)),
        DType::BF16 => as_type(device, bits, |bits| bf16::from_bits(bits as u16)),
        DType::F64 => as_type(device, bits, f64::from_bits),
        _ => as_type(device, bits, |bits| f32::from_bits(bits as u32)),
    }
}

fn download(memory: &Tensor) -> Result<Vec<u64>, String> {
    let text = |error: gatewarp::Error| error.to_string();
    Ok(match memory.dtype() {
        DType::F16 => memory.to_vec::<f16>().map_err(text)?.iter().map(|x| x.to_bits().into()).collect(),
        DType::BF16 => memory.to_vec::<bf16>().map_err(text)?.iter().map(|x| x.to_bits().into()).collect(),
        DType::F64 => memory.to_vec::<f64>().map_err(text)?.iter().map(|x| x.to_bits()).collect(),
        _ => memory.to_vec::<f32>().map_err(text)?.iter().map(|x| x.to_bits().into()).collect(),
    })
}

/// An input behind a strided view.
pub struct Input {
    memory: Tensor,
    layout: Layout,
}

impl Input {
    /// `values` in row-major order of `layout`, rounded to `dtype`.
    pub fn new(device: &Device, dtype: DType, values: &[f64], layout: Layout) -> Self {
        assert_eq!(values.len(), layout.len(), "values do not fill {layout:?}");
        let mut bits = vec![pattern(dtype, false); layout.end() + MARGIN];
        for (&at, &value) in element_indices(&layout).iter().zip(values) {
            bits[at] = bits_of(dtype, value);
        }
        Self { memory: upload(device, dtype, &bits), layout }
    }

    /// The view to pass to an operation.
    pub fn view(&self) -> TensorRef<'_> {
        self.memory.view().with_layout(self.layout).expect("the layout fits its allocation")
    }
}

/// An output in the middle of a larger allocation.
pub struct Output {
    memory: Tensor,
    layout: Layout,
}

impl Output {
    /// A poisoned output.
    pub fn new(device: &Device, dtype: DType, layout: Layout) -> Self {
        let mut bits = vec![pattern(dtype, false); layout.end() + MARGIN];
        for at in element_indices(&layout) {
            bits[at] = pattern(dtype, true);
        }
        Self { memory: upload(device, dtype, &bits), layout }
    }

    /// The view to pass to an operation.
    pub fn view_mut(&mut self) -> TensorMut<'_> {
        self.memory.view_mut().with_layout(self.layout).expect("the layout fits its allocation")
    }

    /// The view, for an operation that reads what another wrote.
    pub fn view(&self) -> TensorRef<'_> {
        self.memory.view().with_layout(self.layout).expect("the layout fits its allocation")
    }

    /// The elements, all of which must have been written, and nothing else.
    ///
    /// # Errors
    /// A message naming an element that was not written, or a guard that was.
    pub fn read(&self, what: &str) -> Result<Vec<f64>, String> {
        let (dtype, bits) = (self.memory.dtype(), download(&self.memory)?);
        let indices = element_indices(&self.layout);
        let mut inside = vec![false; bits.len()];
        indices.iter().for_each(|&at| inside[at] = true);
        if let Some(at) = (0..bits.len()).find(|&at| !inside[at] && bits[at] != pattern(dtype, false)) {
            return Err(format!("{what}: wrote outside its elements, at {at} of {:?}", self.layout));
        }
        if let Some(index) = indices.iter().position(|&at| bits[at] == pattern(dtype, true)) {
            return Err(format!("{what}[{index}] was not written"));
        }
        Ok(indices.iter().map(|&at| value_of(dtype, bits[at])).collect())
    }
}
