//! What a call will do, before it does it: tiles, work, bytes.

use super::{AttentionOptions, Problem};
use crate::device::{Backend, Kind};
use crate::error::Result;
use crate::tensor::TensorRef;
use std::fmt;

/// What a forward call, and the backward call for the gradients of q, k and v, will do.
///
/// ```
/// # fn main() -> gatewarp::Result<()> {
/// use gatewarp::attention::{AttentionOptions, attention_plan};
/// use gatewarp::{DType, Device, Tensor};
/// let x = Tensor::zeros(&Device::cpu(), DType::F32, &[1, 2, 1024, 64])?;
/// let causal = AttentionOptions { causal: true, ..Default::default() };
/// let plan = attention_plan(&x.view(), &x.view(), &x.view(), &causal)?;
/// assert!(plan.tiles_visited < plan.tiles_total);
/// println!("{plan}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AttentionPlan {
    /// Where it runs.
    pub backend: Backend,
    /// What the forward pass is made of.
    pub variant: String,
    /// Queries and keys of a tile.
    pub tile: [usize; 2],
    /// Tiles of scores the forward pass computes: the others are hidden from every query of theirs.
    pub tiles_visited: u64,
    /// Tiles there are.
    pub tiles_total: u64,
    /// Floating-point operations of the forward pass: `2·(head_dim + value_dim)` for each score in a visited tile (twice the head
    /// dimension for a fidelity; the exponentials, and the tanh of an additive score, not counted).
    pub forward_flops: u64,
    /// Of the backward pass: `2·(3·head_dim + 2·value_dim)` a score.
    pub backward_flops: u64,
    /// Bytes the forward pass cannot avoid: q, k, v, o and lse once, and the bias or mask once.
    pub bytes: u64,
    /// What [`super::attention_forward_workspace`] and [`super::attention_backward_workspace`] say.
    pub workspace: [usize; 2],
}

impl AttentionPlan {
    /// The plan in words, a line each.
    pub fn explain(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for AttentionPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [queries, keys] = self.tile;
        let share = 100.0 * self.tiles_visited as f64 / self.tiles_total.max(1) as f64;
        writeln!(f, "{}: {}", self.backend, self.variant)?;
        writeln!(
            f,
            "tiles of {queries} queries × {keys} keys: {} of {} visited ({share:.1}%)",
            self.tiles_visited, self.tiles_total
        )?;
        writeln!(
            f,
            "forward {:.3} GFLOP, backward {:.3} GFLOP",
            self.forward_flops as f64 * 1e-9,
            self.backward_flops as f64 * 1e-9
        )?;
        writeln!(f, "inputs and outputs once: {:.3} MB", self.bytes as f64 * 1e-6)?;
        write!(f, "workspace: forward {} B, backward {} B", self.workspace[0], self.workspace[1])
    }
}

/// Tiles of one call, as a backend counts them.
pub(super) struct Tiles {
    pub(super) variant: String,
    pub(super) tile: [usize; 2],
    pub(super) visited: u64,
    pub(super) total: u64,
}

/// The plan of a call, without making it. Reads lengths and masks, not q, k or v; on a GPU only what the host can see, so that
/// nothing is waited for: lengths and offsets in device memory count as the longest they may be.
///
/// # Errors
/// As [`attention_forward`](super::attention_forward).
pub fn attention_plan(
    q: &TensorRef<'_>,
    k: &TensorRef<'_>,
    v: &TensorRef<'_>,
    options: &AttentionOptions<'_>,
) -> Result<AttentionPlan> {
    let problem = Problem::new("attention_plan", q, k, v, options)?;
    let tiles = match &q.device().0 {
        Kind::Cpu => super::cpu::tiles(&problem)?,
        #[cfg(feature = "cuda")]
        Kind::Cuda(device) => super::cuda::tiles(device, &problem)?,
        #[cfg(feature = "wgpu")]
        Kind::Wgpu(_) => super::wgpu::tiles(&problem)?,
    };
    let workspace = [
        super::attention_forward_workspace(q, k, v, options)?,
        super::attention_backward_workspace(q, k, v, options)?,
    ];
    Ok(problem.plan(tiles, workspace))
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
impl Problem<'_> {
    /// Tiles of `queries` × `keys` that length, causal mask and window leave to compute, from what the host knows.
    pub(super) fn tiles_in_sight(&self, variant: String, tile: [usize; 2]) -> Result<Tiles> {
        use super::problem::{Offset, Storage};
        let [queries, keys] = tile;
        let host = |ids: Option<&crate::ids::Ids<'_>>| {
            ids.map(crate::ids::Ids::visible).transpose().map(Option::flatten)
        };
        let (cu_q, cu_k) = match &self.storage {
            Storage::Packed { cu_q, cu_k, .. } => (host(Some(cu_q))?, host(Some(cu_k))?),
            _ => (None, None),
        };
        let kv_len = host(self.kv_len.as_ref())?;
        let offsets = match &self.offset {
            Offset::PerSample(ids) => Some(ids.visible()?),
            _ => None,
        };
        let length = |cumulative: &Option<Vec<i64>>, b: usize, most: usize| {
            cumulative.as_ref().map_or(most as i64, |at| at[b + 1] - at[b])
        };
        let (mut visited, mut total) = (0, 0);
        for b in 0..self.batch {
            let q_len = length(&cu_q, b, self.q_len);
            let kv_len = kv_len.as_ref().map_or(length(&cu_k, b, self.kv_slots), |lengths| lengths[b]);
            let offset = match (&self.offset, &offsets) {
                (Offset::At(at), _) => Some(i64::from(*at)),
                (Offset::BottomRight, _) => Some(kv_len - q_len),
                (_, Some(Some(offsets))) => Some(offsets[b]),
                _ => None,
            };
            for first in (0..q_len).step_by(queries) {
                let last = (first + queries as i64).min(q_len) - 1;
                let (mut start, mut end) = (0, kv_len);
                if let Some(offset) = offset {
                    if self.causal {
                        end = end.min(offset.saturating_add(last + 1));
                    }
                    if let Some(window) = self.window {
                        start = offset.saturating_add(first).saturating_sub(window.left).max(0);
                        end = end.min(offset.saturating_add(last + 1).saturating_add(window.right));
                    }
                }
                total += kv_len.max(0).unsigned_abs().div_ceil(keys as u64);
                if start < end {
                    let keys = keys as i64;
                    visited += ((end - 1) / keys - start / keys + 1).unsigned_abs();
                }
            }
        }
        let heads = self.q_heads as u64;
        Ok(Tiles { variant, tile, visited: visited * heads, total: total * heads })
    }
}

impl Problem<'_> {
    /// What the score is called in a plan.
    pub(super) fn score_name(&self) -> &'static str {
        use super::Score;
        match self.score {
            Score::Dot => "dot",
            Score::ComplexDot => "complex dot",
            Score::Cosine => "cosine",
            Score::Gaussian { .. } => "Gaussian",
            Score::Fidelity => "fidelity",
            Score::Additive { .. } => "additive",
        }
    }

    fn plan(&self, tiles: Tiles, workspace: [usize; 2]) -> AttentionPlan {
        let scores = tiles.visited.saturating_mul((tiles.tile[0] * tiles.tile[1]) as u64);
        let twice = if matches!(self.score, super::Score::Fidelity) { 2 } else { 1 };
        let (head_dim, value_dim) = ((twice * self.head_dim) as u64, self.value_dim as u64);
        let bytes = |tensor: &TensorRef<'_>| (tensor.layout().len() * tensor.dtype().size()) as u64;
        let rows = self.lse_shape().iter().product::<usize>() as u64;
        let outputs = rows * value_dim * self.dtype.size() as u64 + rows * self.accumulator.size() as u64;
        let tables: u64 = [&self.bias, &self.mask].into_iter().flatten().map(bytes).sum();
        AttentionPlan {
            backend: self.q.device().backend(),
            variant: tiles.variant,
            tile: tiles.tile,
            tiles_visited: tiles.visited,
            tiles_total: tiles.total,
            forward_flops: scores.saturating_mul(2 * (head_dim + value_dim)),
            backward_flops: scores.saturating_mul(2 * (3 * head_dim + 2 * value_dim)),
            bytes: bytes(&self.q) + bytes(&self.k) + bytes(&self.v) + outputs + tables,
            workspace,
        }
    }
}
