//! Tensors in safetensors files.

use gatewarp::{DType, Device, Tensor, TensorRef};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};

/// A file of named tensors, read whole.
pub(crate) struct File {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl File {
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let file = Self { path: path.to_owned(), bytes };
        file.parsed()?;
        Ok(file)
    }

    fn parsed(&self) -> Result<SafeTensors<'_>, String> {
        SafeTensors::deserialize(&self.bytes)
            .map_err(|error| format!("{}: not a safetensors file: {error}", self.path.display()))
    }

    /// What to say of a tensor that is needed and not there.
    pub(crate) fn lacks(&self, name: &str) -> String {
        let names = self.parsed().map(|file| file.names().into_iter().map(str::to_owned).collect::<Vec<_>>());
        format!("{}: there is no tensor `{name}` among {:?}", self.path.display(), names.unwrap_or_default())
    }

    /// What to say of a tensor of another shape than it should have.
    pub(crate) fn ill_shaped(&self, name: &str, got: &[usize], expected: &[usize]) -> String {
        format!("{}: tensor `{name}` has shape {got:?}, expected {expected:?}", self.path.display())
    }

    /// The tensor of that name on `device`, if there is one.
    pub(crate) fn tensor(&self, name: &str, device: &Device) -> Result<Option<Tensor>, String> {
        let file = self.parsed()?;
        let Ok(view) = file.tensor(name) else { return Ok(None) };
        let say = |error: String| format!("{}: tensor `{name}`: {error}", self.path.display());
        read(&view, device).map(Some).map_err(say)
    }
}

/// Little-endian elements of `N` bytes.
fn elements<const N: usize, T>(bytes: &[u8], of: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|&chunk| of(chunk)).collect()
}

fn read(view: &TensorView<'_>, device: &Device) -> Result<Tensor, String> {
    let (shape, bytes) = (view.shape(), view.data());
    let tensor = match view.dtype() {
        Dtype::F32 => Tensor::from_slice(device, &elements(bytes, f32::from_le_bytes), shape),
        Dtype::F16 => Tensor::from_slice(device, &elements(bytes, f16::from_le_bytes), shape),
        Dtype::BF16 => Tensor::from_slice(device, &elements(bytes, bf16::from_le_bytes), shape),
        Dtype::F64 => Tensor::from_slice(device, &elements(bytes, f64::from_le_bytes), shape),
        Dtype::I32 => Tensor::from_slice(device, &elements(bytes, i32::from_le_bytes), shape),
        Dtype::U32 => Tensor::from_slice(device, &elements(bytes, u32::from_le_bytes), shape),
        Dtype::I64 => Tensor::from_slice(device, &elements(bytes, i64::from_le_bytes), shape),
        Dtype::U8 | Dtype::BOOL => Tensor::from_slice(device, bytes, shape),
        other => return Err(format!("is {other:?}, which no operation takes")),
    };
    tensor.map_err(|error| error.to_string())
}

fn bytes_of(tensor: &TensorRef<'_>) -> Result<(Dtype, Vec<u8>), String> {
    let text = |error: gatewarp::Error| error.to_string();
    Ok(match tensor.dtype() {
        DType::F32 => {
            (Dtype::F32, tensor.to_vec::<f32>().map_err(text)?.iter().flat_map(|x| x.to_le_bytes()).collect())
        }
        DType::F16 => {
            (Dtype::F16, tensor.to_vec::<f16>().map_err(text)?.iter().flat_map(|x| x.to_le_bytes()).collect())
        }
        DType::BF16 => (
            Dtype::BF16,
            tensor.to_vec::<bf16>().map_err(text)?.iter().flat_map(|x| x.to_le_bytes()).collect(),
        ),
        DType::F64 => {
            (Dtype::F64, tensor.to_vec::<f64>().map_err(text)?.iter().flat_map(|x| x.to_le_bytes()).collect())
        }
        other => return Err(format!("is {other}, which is not written")),
    })
}

/// Writes named tensors, replacing the file only once everything is written.
pub(crate) fn write(path: &Path, tensors: &[(&str, TensorRef<'_>)]) -> Result<(), String> {
    let data = tensors
        .iter()
        .map(|(name, tensor)| {
            let (dtype, bytes) = bytes_of(tensor).map_err(|error| format!("tensor `{name}`: {error}"))?;
            Ok((*name, dtype, tensor.shape().to_vec(), bytes))
        })
        .collect::<Result<Vec<_>, String>>()?;
    let say = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let views = data
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            TensorView::new(*dtype, shape.clone(), bytes)
                .map(|view| (*name, view))
                .map_err(|error| say(&error))
        })
        .collect::<Result<Vec<_>, String>>()?;
    let bytes = safetensors::serialize(views, None).map_err(|error| say(&error))?;
    let partial = path.with_extension("partial");
    std::fs::write(&partial, bytes).map_err(|error| say(&error))?;
    std::fs::rename(&partial, path).map_err(|error| say(&error))
}
