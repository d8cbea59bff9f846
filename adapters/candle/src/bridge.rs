//! Between candle's CPU storage and gatewarp's views.

use candle_core::{CpuStorage, Layout, Result, Shape, Storage, Tensor};
use gatewarp::{Device, TensorRef};

/// gatewarp's errors as candle's.
pub(crate) fn wrap(error: gatewarp::Error) -> candle_core::Error {
    candle_core::Error::wrap(error)
}

/// An operation's input: the candle tensor itself on the CPU, a copy elsewhere.
pub(crate) enum Input<'a> {
    InPlace(TensorRef<'a>),
    Copied(gatewarp::Tensor),
}

impl<'a> Input<'a> {
    pub(crate) fn new(device: &Device, storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let strides = layout.stride();
        let place =
            gatewarp::Layout::new(layout.shape().dims(), strides, layout.start_offset()).map_err(wrap)?;
        let view = TensorRef::strided(storage.as_slice::<f32>()?, place).map_err(wrap)?;
        if device.is_same(&Device::cpu()) {
            return Ok(Self::InPlace(view));
        }
        let data = view.to_vec::<f32>().map_err(wrap)?;
        Ok(Self::Copied(gatewarp::Tensor::from_slice(device, &data, view.shape()).map_err(wrap)?))
    }

    pub(crate) fn view(&self) -> TensorRef<'_> {
        match self {
            Self::InPlace(view) => view.clone(),
            Self::Copied(tensor) => tensor.view(),
        }
    }
}

/// Calls `f` with the tensors as gatewarp views on `device`.
pub(crate) fn with_inputs<const N: usize, R>(
    device: &Device,
    tensors: [&Tensor; N],
    f: impl FnOnce([TensorRef<'_>; N]) -> Result<R>,
) -> Result<R> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut inputs = Vec::with_capacity(N);
    for (storage, layout) in &guards {
        let Storage::Cpu(cpu) = &**storage else {
            candle_core::bail!(
                "gatewarp-candle takes candle tensors on the CPU; choose the gatewarp device instead"
            )
        };
        inputs.push(Input::new(device, cpu, layout)?);
    }
    f(std::array::from_fn(|i| inputs[i].view()))
}

/// The last dimension adjacent, as every operation needs it; a copy only if it is not.
pub(crate) fn rows(tensor: &Tensor) -> Result<Tensor> {
    let adjacent =
        tensor.stride().last().is_none_or(|&stride| stride == 1) || tensor.dims().last() == Some(&1);
    if adjacent { Ok(tensor.clone()) } else { tensor.contiguous() }
}

/// The contiguous tensor of `shape` that begins at element `offset` of a contiguous view.
pub(crate) fn part<'a>(whole: &TensorRef<'a>, shape: &[usize], offset: usize) -> Result<TensorRef<'a>> {
    let strides = gatewarp::Layout::contiguous(shape).map_err(wrap)?;
    let place = gatewarp::Layout::new(shape, strides.strides(), whole.layout().offset() + offset);
    whole.with_layout(place.map_err(wrap)?).map_err(wrap)
}

/// A gatewarp result as candle storage.
pub(crate) fn storage(tensor: &gatewarp::Tensor) -> Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(tensor.to_vec().map_err(wrap)?), Shape::from(tensor.shape())))
}

/// A gatewarp result as a candle tensor.
pub(crate) fn tensor(tensor: &gatewarp::Tensor) -> Result<Tensor> {
    Tensor::from_vec(tensor.to_vec::<f32>().map_err(wrap)?, tensor.shape(), &candle_core::Device::Cpu)
}
