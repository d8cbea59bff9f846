//! Tensors that own their memory, and borrowed views of anybody's.

#[cfg(feature = "cuda")]
use crate::device::Kind;
use crate::device::{Buffer, Device};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
pub use crate::layout::{Layout, MAX_RANK};
use crate::validate;
use std::fmt;
use std::marker::PhantomData;

/// A row-major tensor that owns its memory on one device.
pub struct Tensor {
    buffer: Buffer,
    device: Device,
    dtype: DType,
    layout: Layout,
}

/// A borrowed, read-only view: base, shape, strides in elements, element type, device.
#[derive(Clone)]
pub struct TensorRef<'a> {
    memory: Memory<'a>,
    device: Device,
    dtype: DType,
    layout: Layout,
}

/// A borrowed view that an operation may write through. No two indices name the same element.
pub struct TensorMut<'a> {
    view: TensorRef<'a>,
    _exclusive: PhantomData<&'a mut [u8]>,
}

/// Where a view's element 0 of the underlying allocation is.
#[derive(Clone, Copy)]
pub(crate) enum Memory<'a> {
    Cpu {
        base: *mut u8,
        bytes: usize,
        borrow: PhantomData<&'a [u8]>,
    },
    #[cfg(feature = "wgpu")]
    Wgpu(&'a crate::device::wgpu::WgpuBuffer),
    #[cfg(feature = "cuda")]
    Cuda {
        address: u64,
        bytes: usize,
        borrow: PhantomData<&'a [u8]>,
    },
}

// SAFETY: a view is a borrow of plain bytes. Reads through `TensorRef` follow the rules of `&[u8]`, writes happen only
// through `TensorMut`, which is not `Clone` and borrows exclusively.
#[allow(unsafe_code)]
unsafe impl Send for Memory<'_> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Memory<'_> {}

impl Memory<'_> {
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Cpu { bytes, .. } => *bytes,
            #[cfg(feature = "wgpu")]
            Self::Wgpu(buffer) => buffer.bytes(),
            #[cfg(feature = "cuda")]
            Self::Cuda { bytes, .. } => *bytes,
        }
    }

    /// Copies `out.len()` bytes from byte `offset` to the host, waiting for the device.
    fn download(&self, device: &Device, offset: usize, out: &mut [u8]) -> Result<()> {
        match (self, &device.0) {
            (Self::Cpu { base, .. }, _) => {
                // SAFETY: construction has checked that every byte the layout reaches is inside the borrow.
                #[allow(unsafe_code)]
                let source = unsafe { std::slice::from_raw_parts(base.add(offset), out.len()) };
                out.copy_from_slice(source);
                Ok(())
            }
            #[cfg(feature = "wgpu")]
            (Self::Wgpu(buffer), _) => buffer.download(offset, out),
            #[cfg(feature = "cuda")]
            (Self::Cuda { address, .. }, Kind::Cuda(cuda)) => cuda.download(*address + offset as u64, out),
            #[cfg(feature = "cuda")]
            (Self::Cuda { .. }, _) => Err(mixed_memory(device)),
        }
    }
}

/// A view whose memory is not its device's cannot be built; this is the error if one ever were.
#[cfg(feature = "cuda")]
fn mixed_memory(device: &Device) -> Error {
    Error::Device { op: "tensor", arg: "memory", expected: device.name(), got: "another device".into() }
}

/// Host memory for a copy; its size is the caller's, so running out is an error.
fn zeros<T: Element>(count: usize) -> Result<Vec<T>> {
    let bytes = (count as u64).saturating_mul(size_of::<T>() as u64);
    let mut out = Vec::new();
    out.try_reserve_exact(count).map_err(|_| Error::OutOfMemory { requested: bytes, available: 0 })?;
    out.resize(count, T::zeroed());
    Ok(out)
}

impl Tensor {
    /// A tensor of zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::InvalidArgument`] if the size overflows; [`Error::Unsupported`] if the device
    /// cannot address a buffer of that size.
    pub fn zeros(device: &Device, dtype: DType, shape: &[usize]) -> Result<Self> {
        let layout = Layout::contiguous(shape)?;
        let buffer = device.allocate(layout.len() * dtype.size())?;
        Ok(Self { buffer, device: device.clone(), dtype, layout })
    }

    /// A tensor holding a copy of `data` in row-major order.
    ///
    /// # Errors
    /// [`Error::Shape`] if `data` does not have as many elements as `shape`; otherwise as [`Tensor::zeros`].
    pub fn from_slice<T: Element>(device: &Device, data: &[T], shape: &[usize]) -> Result<Self> {
        let layout = Layout::contiguous(shape)?;
        if layout.len() != data.len() {
            return Err(Error::shape(
                "Tensor::from_slice",
                "data",
                format!("{} elements", layout.len()),
                &[data.len()],
            ));
        }
        let mut tensor = Self::zeros(device, T::DTYPE, shape)?;
        if !data.is_empty() {
            tensor.buffer.upload(0, bytemuck::cast_slice(data))?;
        }
        Ok(tensor)
    }

    /// The elements in row-major order, copied to the host. Waits for the device.
    ///
    /// # Errors
    /// [`Error::DType`] if `T` is not the element type; device errors of work submitted earlier.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.view().to_vec()
    }

    /// A copy on another device.
    ///
    /// # Errors
    /// As [`Tensor::zeros`] and [`Tensor::to_vec`].
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let mut out = Self::zeros(device, self.dtype, self.shape())?;
        if !self.layout.is_empty() {
            let mut bytes = zeros::<u32>((self.layout.len() * self.dtype.size()).div_ceil(4))?;
            let bytes = &mut bytemuck::cast_slice_mut(&mut bytes)[..self.layout.len() * self.dtype.size()];
            self.view().memory.download(&self.device, 0, bytes)?;
            out.buffer.upload(0, bytes)?;
        }
        Ok(out)
    }

    /// The whole tensor as a read-only view.
    pub fn view(&self) -> TensorRef<'_> {
        let memory = match &self.buffer {
            Buffer::Cpu(buffer) => Memory::Cpu {
                base: buffer.bytes().as_ptr().cast_mut(),
                bytes: buffer.bytes().len(),
                borrow: PhantomData,
            },
            #[cfg(feature = "wgpu")]
            Buffer::Wgpu(buffer) => Memory::Wgpu(buffer),
            #[cfg(feature = "cuda")]
            Buffer::Cuda(buffer) => {
                Memory::Cuda { address: buffer.address(), bytes: buffer.bytes(), borrow: PhantomData }
            }
        };
        TensorRef { memory, device: self.device.clone(), dtype: self.dtype, layout: self.layout }
    }

    /// The whole tensor as a view that can be written.
    pub fn view_mut(&mut self) -> TensorMut<'_> {
        let memory = match &mut self.buffer {
            Buffer::Cpu(buffer) => {
                let bytes = buffer.bytes_mut();
                Memory::Cpu { base: bytes.as_mut_ptr(), bytes: bytes.len(), borrow: PhantomData }
            }
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            _ => self.view().memory,
        };
        let view = TensorRef { memory, device: self.device.clone(), dtype: self.dtype, layout: self.layout };
        TensorMut { view, _exclusive: PhantomData }
    }

    /// Sizes of the dimensions.
    pub fn shape(&self) -> &[usize] {
        self.layout.shape()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the tensor lives.
    pub fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn buffer(&self) -> &Buffer {
        &self.buffer
    }
}

impl<'a> TensorRef<'a> {
    /// A row-major view of a CPU slice.
    ///
    /// # Errors
    /// [`Error::Shape`] if the slice has another number of elements than `shape`.
    pub fn from_slice<T: Element>(data: &'a [T], shape: &[usize]) -> Result<Self> {
        let layout = Layout::contiguous(shape)?;
        if layout.len() != data.len() {
            return Err(Error::shape(
                "TensorRef::from_slice",
                "data",
                format!("{} elements", layout.len()),
                &[data.len()],
            ));
        }
        Self::strided(data, layout)
    }

    /// A view of a CPU slice with any layout.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the layout reaches outside the slice.
    pub fn strided<T: Element>(data: &'a [T], layout: Layout) -> Result<Self> {
        let memory = Memory::Cpu {
            base: data.as_ptr().cast::<u8>().cast_mut(),
            bytes: size_of_val(data),
            borrow: PhantomData,
        };
        Self::new(memory, Device::cpu(), T::DTYPE, layout)
    }

    /// A view of CUDA memory that somebody else owns: how frameworks hand over their tensors without a copy.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the layout reaches past `bytes` or `device` is not a CUDA device.
    ///
    /// # Safety
    /// Calls only queue work on the device's own stream. `address..address + bytes` must stay allocated on `device`, and not be
    /// written by others, until [`Device::synchronize`] has returned after the last call that uses the view, which may be
    /// after `'a`; and whatever wrote it must be complete, or the other stream synchronised, before the first call.
    #[cfg(feature = "cuda")]
    #[allow(unsafe_code)]
    pub unsafe fn from_cuda(
        device: &Device,
        address: u64,
        bytes: usize,
        dtype: DType,
        layout: Layout,
    ) -> Result<Self> {
        if !matches!(device.0, Kind::Cuda(_)) {
            return Err(Error::argument(
                "TensorRef::from_cuda",
                "device",
                format!("is {device:?}, not a CUDA device"),
            ));
        }
        Self::new(Memory::Cuda { address, bytes, borrow: PhantomData }, device.clone(), dtype, layout)
    }

    fn new(memory: Memory<'a>, device: Device, dtype: DType, layout: Layout) -> Result<Self> {
        let needed = if layout.is_empty() { 0 } else { layout.end() * dtype.size() };
        if needed > memory.bytes() {
            let reason = format!("{layout:?} needs {needed} bytes, the memory has {}", memory.bytes());
            return Err(Error::argument("TensorRef", "layout", reason));
        }
        Ok(Self { memory, device, dtype, layout })
    }

    /// The same memory under another layout; the element type stays.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the layout reaches outside the memory.
    pub fn with_layout(&self, layout: Layout) -> Result<Self> {
        Self::new(self.memory, self.device.clone(), self.dtype, layout)
    }

    /// Complex elements as pairs of real ones (re, im): the last dimension, which is contiguous, becomes twice as long.
    ///
    /// # Errors
    /// [`Error::DType`] if the elements are not complex; [`Error::InvalidArgument`] if the last dimension is not contiguous.
    pub fn as_real(&self) -> Result<Self> {
        let dtype = match self.dtype {
            DType::C64 => DType::F32,
            DType::C128 => DType::F64,
            got => {
                return Err(Error::DType { op: "as_real", arg: "self", expected: "c64 or c128".into(), got });
            }
        };
        self.rescaled("as_real", dtype, |n| Some(2 * n))
    }

    /// Pairs of real elements (re, im) as complex ones: the last dimension, which is contiguous and even, becomes half as long.
    ///
    /// # Errors
    /// [`Error::DType`] if the elements are not f32 or f64; [`Error::InvalidArgument`] if the last dimension is odd or not
    /// contiguous, or a stride or the offset is odd.
    pub fn as_complex(&self) -> Result<Self> {
        let dtype = match self.dtype {
            DType::F32 => DType::C64,
            DType::F64 => DType::C128,
            got => {
                return Err(Error::DType {
                    op: "as_complex",
                    arg: "self",
                    expected: "f32 or f64".into(),
                    got,
                });
            }
        };
        self.rescaled("as_complex", dtype, |n| n.is_multiple_of(2).then_some(n / 2))
    }

    /// The same bytes as elements of another size, by what a number of elements becomes.
    fn rescaled(
        &self,
        op: &'static str,
        dtype: DType,
        convert: impl Fn(usize) -> Option<usize>,
    ) -> Result<Self> {
        validate::last_contiguous(op, "self", self)?;
        let odd = || Error::argument(op, "self", format!("has no whole pairs: {:?}", self.layout));
        let (mut shape, rank) = (self.layout.shape().to_vec(), self.layout.shape().len());
        let Some(last) = shape.last_mut() else { return Err(odd()) };
        *last = convert(*last).ok_or_else(odd)?;
        let mut strides = vec![1; rank];
        for (i, stride) in strides.iter_mut().enumerate().take(rank - 1) {
            *stride = convert(self.layout.step(i)).ok_or_else(odd)?;
        }
        let layout = Layout::new(&shape, &strides, convert(self.layout.offset()).ok_or_else(odd)?)?;
        Self::new(self.memory, self.device.clone(), dtype, layout)
    }

    /// Dimensions reordered: dimension `i` of the result is dimension `order[i]`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `order` is not a permutation.
    pub fn permute(&self, order: &[usize]) -> Result<Self> {
        Ok(Self { layout: self.layout.permute(order)?, ..self.clone() })
    }

    /// The range `start..start + len` of dimension `dim`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the range is outside the dimension.
    pub fn narrow(&self, dim: usize, start: usize, len: usize) -> Result<Self> {
        Ok(Self { layout: self.layout.narrow(dim, start, len)?, ..self.clone() })
    }

    /// The elements in row-major order of this view, copied to the host. Waits for the device.
    ///
    /// # Errors
    /// [`Error::DType`] if `T` is not the element type; device errors of work submitted earlier.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if T::DTYPE != self.dtype {
            let expected = T::DTYPE.to_string();
            return Err(Error::DType { op: "to_vec", arg: "self", expected, got: self.dtype });
        }
        if self.layout.is_empty() {
            self.device.synchronize()?;
            return Ok(Vec::new());
        }
        let first = self.layout.offset();
        let mut span = zeros::<T>(self.layout.end() - first)?;
        self.memory.download(&self.device, first * size_of::<T>(), bytemuck::cast_slice_mut(&mut span))?;
        if self.layout.is_contiguous() {
            return Ok(span);
        }
        let mut out = zeros::<T>(self.layout.len())?;
        out.iter_mut().zip(self.layout.indices()).for_each(|(out, i)| *out = span[i - first]);
        Ok(out)
    }

    /// Sizes of the dimensions.
    pub fn shape(&self) -> &[usize] {
        self.layout.shape()
    }

    /// Shape, strides and offset.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the memory is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn memory(&self) -> Memory<'a> {
        self.memory
    }

    /// Pointer to the first element of the view. Null-free for non-empty CPU views, `None` on other devices.
    pub(crate) fn cpu_ptr<T: Element>(&self) -> Option<*const T> {
        match self.memory {
            Memory::Cpu { base, .. } if T::DTYPE == self.dtype => {
                Some(base.cast::<T>().wrapping_add(self.layout.offset()).cast_const())
            }
            _ => None,
        }
    }
}

impl<'a> TensorMut<'a> {
    /// A row-major view of a CPU slice.
    ///
    /// # Errors
    /// [`Error::Shape`] if the slice has another number of elements than `shape`.
    pub fn from_slice<T: Element>(data: &'a mut [T], shape: &[usize]) -> Result<Self> {
        let layout = Layout::contiguous(shape)?;
        if layout.len() != data.len() {
            return Err(Error::shape(
                "TensorMut::from_slice",
                "data",
                format!("{} elements", layout.len()),
                &[data.len()],
            ));
        }
        Self::strided(data, layout)
    }

    /// A view of a CPU slice with any layout that does not overlap itself.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the layout reaches outside the slice or names an element twice.
    pub fn strided<T: Element>(data: &'a mut [T], layout: Layout) -> Result<Self> {
        let memory =
            Memory::Cpu { base: data.as_mut_ptr().cast(), bytes: size_of_val(data), borrow: PhantomData };
        Self::new(TensorRef::new(memory, Device::cpu(), T::DTYPE, layout)?)
    }

    /// A writable view of CUDA memory that somebody else owns.
    ///
    /// # Errors
    /// As [`TensorRef::from_cuda`], and if the layout names an element twice.
    ///
    /// # Safety
    /// As [`TensorRef::from_cuda`], and nothing else may read the memory either until the device has been synchronised.
    #[cfg(feature = "cuda")]
    #[allow(unsafe_code)]
    pub unsafe fn from_cuda(
        device: &Device,
        address: u64,
        bytes: usize,
        dtype: DType,
        layout: Layout,
    ) -> Result<Self> {
        // SAFETY: the caller's promise.
        Self::new(unsafe { TensorRef::from_cuda(device, address, bytes, dtype, layout) }?)
    }

    fn new(view: TensorRef<'a>) -> Result<Self> {
        if view.layout.overlaps_itself() {
            let reason = format!("{:?} names an element twice, which cannot be written", view.layout);
            return Err(Error::argument("TensorMut", "layout", reason));
        }
        Ok(Self { view, _exclusive: PhantomData })
    }

    /// The same memory under another layout.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the layout reaches outside the memory or names an element twice.
    pub fn with_layout(self, layout: Layout) -> Result<Self> {
        Self::new(self.view.with_layout(layout)?)
    }

    /// Dimensions reordered: dimension `i` of the result is dimension `order[i]`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `order` is not a permutation.
    pub fn permute(self, order: &[usize]) -> Result<Self> {
        Self::new(self.view.permute(order)?)
    }

    /// The range `start..start + len` of dimension `dim`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the range is outside the dimension.
    pub fn narrow(self, dim: usize, start: usize, len: usize) -> Result<Self> {
        Self::new(self.view.narrow(dim, start, len)?)
    }

    /// The same view, for reading, while `self` is not written through.
    ///
    /// ```compile_fail
    /// # use gatewarp::TensorMut;
    /// let mut data = [0.0f32; 4];
    /// let mut out = TensorMut::from_slice(&mut data, &[4]).unwrap();
    /// let seen = out.view();
    /// let again = out.reborrow(); // `out` is still borrowed by `seen`
    /// drop((seen, again));
    /// ```
    pub fn view(&self) -> TensorRef<'_> {
        self.view.clone()
    }

    /// The same view, borrowed for no longer than `self`.
    pub(crate) fn as_ref(&self) -> &TensorRef<'_> {
        &self.view
    }

    /// A shorter borrow of the same view.
    pub fn reborrow(&mut self) -> TensorMut<'_> {
        TensorMut { view: self.view.clone(), _exclusive: PhantomData }
    }

    /// Pointer to the first element of the view, `None` off the CPU or for another element type.
    pub(crate) fn cpu_ptr<T: Element>(&self) -> Option<*mut T> {
        self.view.cpu_ptr::<T>().map(<*const T>::cast_mut)
    }
}

impl<'a> From<&'a Tensor> for TensorRef<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        tensor.view()
    }
}

impl<'a> From<&'a mut Tensor> for TensorMut<'a> {
    fn from(tensor: &'a mut Tensor) -> Self {
        tensor.view_mut()
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view().fmt(f)
    }
}

impl fmt::Debug for TensorRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} on {:?}", self.dtype, self.layout, self.device)
    }
}

impl fmt::Debug for TensorMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view.fmt(f)
    }
}
