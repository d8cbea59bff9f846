//! How the gradients of tasks relate.

use super::{cpu, gpu};
use crate::device::{Backend, Device};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, TensorMut, TensorRef};
use crate::validate;

const OP: &str = "gradient_similarity";
/// Parameters of one partial sum.
pub(super) const CHUNK: usize = 4096;
/// Most tasks: pairs of them are counted in 32 bits.
const MAX_TASKS: usize = (1 << 15) - 1;

/// What [`gradient_similarity`] returns.
#[derive(Debug)]
pub struct GradientSimilarity {
    /// `[tasks]`: Euclidean norm of each task's gradient.
    pub norms: Tensor,
    /// `[tasks, tasks]`: cosine of the angle between two gradients; 0 where one of them is 0.
    pub cosines: Tensor,
}

/// Where [`gradient_similarity_into`] writes, all contiguous.
#[derive(Debug)]
pub struct GradientSimilarityViews<'a> {
    /// `[tasks]` f32.
    pub norms: TensorMut<'a>,
    /// `[tasks, tasks]` f32.
    pub cosines: TensorMut<'a>,
    /// `[gradient_similarity_workspace(tasks, parameters)]` f32.
    pub workspace: TensorMut<'a>,
}

/// Elements of the workspace of [`gradient_similarity_into`].
pub fn gradient_similarity_workspace(tasks: usize, parameters: usize) -> usize {
    tasks.saturating_mul(tasks).saturating_mul(parameters.div_ceil(CHUNK))
}

fn check<'a>(gradients: &'a TensorRef<'_>) -> Result<(&'a Device, usize, usize)> {
    let [tasks, parameters] = *gradients.shape() else {
        return Err(Error::shape(OP, "gradients", "[tasks, parameters]", gradients.shape()));
    };
    let device = gradients.device();
    validate::tensor(OP, "gradients", gradients, DType::F32, device)?;
    validate::last_contiguous(OP, "gradients", gradients)?;
    for (what, got, most) in [("number of tasks", tasks, MAX_TASKS), ("parameters", parameters, CHUNK << 30)]
    {
        if got > most {
            let (limit, got) = (most.to_string(), got.to_string());
            return Err(Error::Unsupported { op: OP, backend: device.backend(), what, limit, got });
        }
    }
    Ok((device, tasks, parameters))
}

/// Norms of the tasks' gradients and cosines between them: what GradNorm balances and PCGrad projects by.
///
/// `gradients [tasks, parameters]` f32, a row per task, the last dimension contiguous. Sums run over chunks of 4096 parameters in
/// order. A gradient that is not finite has a NaN norm on some backends, an infinite one on others, and NaN cosines.
/// Traffic: each gradient once (up to four tasks on CUDA, two on wgpu; beyond that once per tile of tasks).
///
/// # Errors
/// [`Error::Shape`], [`Error::DType`], [`Error::InvalidArgument`]; [`Error::Unsupported`] for 2¹⁵ tasks and more.
///
/// # Source
/// Chen et al., GradNorm, arXiv:1711.02257; Yu et al., PCGrad, arXiv:2001.06782.
pub fn gradient_similarity(gradients: &TensorRef<'_>) -> Result<GradientSimilarity> {
    let (device, tasks, parameters) = check(gradients)?;
    let make = |shape: &[usize]| Tensor::zeros(device, DType::F32, shape);
    let mut out = GradientSimilarity { norms: make(&[tasks])?, cosines: make(&[tasks, tasks])? };
    let mut workspace = make(&[gradient_similarity_workspace(tasks, parameters)])?;
    let views = GradientSimilarityViews {
        norms: out.norms.view_mut(),
        cosines: out.cosines.view_mut(),
        workspace: workspace.view_mut(),
    };
    gradient_similarity_into(gradients, views)?;
    Ok(out)
}

/// [`gradient_similarity`] into views of the caller's.
///
/// # Errors
/// As [`gradient_similarity`]; [`Error::InvalidArgument`] if an output overlaps another tensor.
pub fn gradient_similarity_into(
    gradients: &TensorRef<'_>,
    mut out: GradientSimilarityViews<'_>,
) -> Result<()> {
    let (device, tasks, parameters) = check(gradients)?;
    let workspace = gradient_similarity_workspace(tasks, parameters);
    let results: [(&'static str, &TensorRef<'_>, &[usize]); 3] = [
        ("norms", out.norms.as_ref(), &[tasks]),
        ("cosines", out.cosines.as_ref(), &[tasks, tasks]),
        ("workspace", out.workspace.as_ref(), &[workspace]),
    ];
    for (arg, tensor, shape) in results {
        validate::shape(OP, arg, tensor, shape)?;
        validate::tensor(OP, arg, tensor, DType::F32, device)?;
        validate::contiguous(OP, arg, tensor)?;
    }
    let outputs = results.map(|(arg, tensor, _)| (arg, tensor));
    validate::disjoint(OP, &outputs, &[("gradients", gradients)])?;
    match device.backend() {
        Backend::Cpu => cpu::gradient_similarity(gradients, &mut out),
        _ => gpu::gradient_similarity(OP, gradients, &mut out),
    }
}
