//! The kernels on tensor cores: which calls they take, and what their launches get. kernels/attention/forward_mma.cuh.

use super::general::{self, Call};
use super::scratch::Scratch;
use super::{address, grid, vectors};
use crate::attention::options::Score;
use crate::attention::problem::{Forward, Problem};
use crate::device::cuda::CudaDevice;
use crate::dtype::DType;
use crate::error::Result;
use crate::manifest::CudaKernel;
use crate::manifest::attention::mma::{self, VARIANTS, Variant};
use crate::tensor::TensorRef;

/// Elements of a row that are moved at once: 16 bytes.
const CHUNK: usize = 8;

/// `bit` if every row of `view` starts at a multiple of 16 bytes.
fn row_bit(bit: u32, view: &TensorRef<'_>) -> u32 {
    let layout = view.layout();
    let aligned = address(view).is_multiple_of(16) && (0..3).all(|i| layout.step(i).is_multiple_of(CHUNK));
    if aligned { bit } else { 0 }
}

/// The smallest variant that takes the dimensions.
fn variant(problem: &Problem<'_>) -> Option<&'static Variant> {
    let dim = problem.head_dim.max(problem.value_dim);
    VARIANTS.iter().find(|variant| dim <= variant.dim)
}

/// Whether the logits are the scores times a positive number, and keys are hidden by length and position alone.
fn is_plain(problem: &Problem<'_>) -> bool {
    // As the kernel rounds it: what is too small for f32 is no positive number there.
    (problem.scale * std::f64::consts::LOG2_E) as f32 > 0.0
        && problem.softcap.is_none()
        && problem.mask.is_none()
        && problem.bias.is_none()
        && problem.alibi.is_none()
        && problem.dropout.as_ref().is_none_or(|dropout| dropout.p == 0.0)
}

/// The kernels for a forward call on tensor cores: 16-bit tensors, dot products, and not few queries over many keys, whose keys are
/// split between blocks.
pub(super) fn forward_kernels(problem: &Problem<'_>) -> Option<&'static mma::Forward> {
    let products = matches!(problem.score, Score::Dot | Score::ComplexDot);
    let halves = matches!(problem.dtype, DType::F16 | DType::BF16);
    let taken = products && halves && general::decode(problem).is_none();
    let variant = variant(problem).filter(|_| taken)?;
    Some(if is_plain(problem) { &variant.plain } else { &variant.options })
}

/// What a plan calls them.
pub(super) fn name(problem: &Problem<'_>, kernels: &'static mma::Forward) -> String {
    let kernel = kernel(problem, kernels);
    let (threads, shared) = (kernel.block, kernel.shared_bytes / 1024);
    let score = problem.score_name();
    format!(
        "{score} scores of {}, tensor cores, {} ({threads} threads and {shared} KiB a block)",
        problem.dtype, kernel.entry
    )
}

fn kernel(problem: &Problem<'_>, kernels: &'static mma::Forward) -> &'static CudaKernel {
    if problem.dtype == DType::BF16 { &kernels.bf16 } else { &kernels.f16 }
}

pub(super) fn forward(
    device: &CudaDevice,
    problem: &Problem<'_>,
    call: &mut Forward<'_>,
    kernels: &'static mma::Forward,
) -> Result<()> {
    if problem.batch * problem.q_len == 0 {
        return Ok(()); // packed rows of no sample
    }
    let (o, lse) = (call.o.as_ref(), call.lse.as_ref());
    let rows_of_16_bytes = row_bit(vectors::Q, &problem.q)
        | row_bit(vectors::K, &problem.k)
        | row_bit(vectors::V, &problem.v)
        | row_bit(vectors::O, o);
    let params = Call::new(problem, 1, o, lse)?.with_vectors(rows_of_16_bytes);
    let scratch = Scratch::new(device, problem.op, &call.workspace, &general::forward_parts(problem))?;
    let [spans, _] = scratch.parts();
    general::plan(device, problem, spans)?;
    let pointers =
        [address(&problem.q), address(&problem.k), address(&problem.v), address(o), address(lse), spans];
    let items = problem.batch * problem.q_heads * problem.q_len.div_ceil(kernels.tile[0]);
    let grid = grid(device, items, problem.heads.is_some());
    device.launch(kernel(problem, kernels), grid, &pointers, bytemuck::bytes_of(&params))
}
