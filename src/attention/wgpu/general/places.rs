//! Where everything is in the plan, and how much there is.

use super::{CHUNK, COUNTS, DECODE_QUERIES, PART_WORDS, SAMPLE_WORDS, SUMS, TILE};
use crate::attention::problem::Storage;
use crate::attention::{Problem, Score, Seed};
use crate::tensor::TensorRef;

/// Where the parts of the plan are, in words.
#[derive(Clone, Copy)]
pub(super) struct Places {
    pub(super) order: usize,
    pub(super) kv_order: usize,
    pub(super) active: usize,
    pub(super) rows: usize,
    pub(super) alibi: usize,
    pub(super) sinks: usize,
    pub(super) w: usize,
    pub(super) seed: usize,
    pub(super) cu: usize,
    pub(super) table: usize,
    pub(super) mask: usize,
    pub(super) any: usize,
    pub(super) words: usize,
}

/// How a mask is packed: words of a line, tiles of lines.
pub(super) struct MaskShape {
    pub(super) shape: [usize; 4],
    pub(super) words: usize,
    pub(super) lines: usize,
}

impl MaskShape {
    pub(super) fn of(mask: &TensorRef<'_>) -> Self {
        let shape: [usize; 4] = std::array::from_fn(|i| mask.shape()[i]);
        Self { shape, words: shape[3].div_ceil(TILE), lines: shape[2].div_ceil(TILE) }
    }
    pub(super) fn mask_words(&self) -> usize {
        self.shape[0] * self.shape[1] * self.shape[2] * self.words
    }
    pub(super) fn tiles(&self) -> usize {
        self.shape[0] * self.shape[1] * self.lines * self.words
    }
    /// Strides of something stored `[shape 0, shape 1, lines, words]`, 0 where a dimension is repeated.
    pub(super) fn strides(&self, lines: usize) -> [u32; 4] {
        let steps = [self.shape[1] * lines * self.words, lines * self.words, self.words, 1];
        std::array::from_fn(|i| if self.shape[i] > 1 { steps[i] as u32 } else { 0 })
    }
}

/// Whether a forward pass splits the cache. A sample with no more than two chunks gets the same bits either way.
pub(in crate::attention::wgpu) fn is_split(problem: &Problem<'_>) -> bool {
    (1..=DECODE_QUERIES).contains(&problem.q_len) && problem.kv_slots > 2 * CHUNK
}

/// (parts of a row, rows of all parts) of a split pass.
pub(super) fn parts(problem: &Problem<'_>) -> (usize, usize) {
    let splits = problem.kv_slots.div_ceil(CHUNK);
    (
        splits,
        problem.batch.saturating_mul(problem.q_heads).saturating_mul(splits).saturating_mul(problem.q_len),
    )
}

/// Bytes of a split forward pass's values, and of its peaks and sums; none of another.
pub(in crate::attention::wgpu) fn forward_parts(problem: &Problem<'_>) -> [usize; 2] {
    let rows = if is_split(problem) { parts(problem).1 } else { 0 };
    [problem.value_dim, PART_WORDS].map(|words| rows.saturating_mul(4 * words))
}

/// Bytes of the sums that a backward pass makes.
pub(in crate::attention::wgpu) fn sum_bytes(problem: &Problem<'_>) -> usize {
    (SUMS * lines(problem)).saturating_add(partials(problem)).saturating_mul(4)
}

/// Words of a query row in a forward pass: its row scale.
pub(super) fn forward_row_words(problem: &Problem<'_>) -> usize {
    usize::from(problem.heads.is_some())
}

pub(super) fn lines(problem: &Problem<'_>) -> usize {
    problem.lse_shape().iter().product()
}

/// Words of the additive weights' gradient, one list for each tile of queries.
pub(super) fn partials(problem: &Problem<'_>) -> usize {
    match problem.score {
        Score::Additive { .. } => {
            problem.batch * problem.q_heads * problem.q_len.div_ceil(TILE) * problem.head_dim
        }
        _ => 0,
    }
}

impl Places {
    pub(super) fn of(problem: &Problem<'_>, row_words: usize) -> Self {
        let (pairs, kv_pairs) = (problem.batch * problem.q_heads, problem.batch * problem.kv_heads);
        let mut words = COUNTS + SAMPLE_WORDS * problem.batch;
        let mut place = |count: usize| {
            words += count;
            words - count
        };
        let (order, kv_order, active) = (place(pairs), place(kv_pairs), place(pairs));
        let rows = place(row_words * lines(problem));
        let heads = |there: bool| if there { problem.q_heads } else { 0 };
        let (alibi, sinks) = (place(heads(problem.alibi.is_some())), place(heads(problem.sinks.is_some())));
        let w = match &problem.score {
            Score::Additive { w } => w.shape().iter().product(),
            _ => 0,
        };
        let (cu, table) = match &problem.storage {
            Storage::Dense => (0, 0),
            Storage::Packed { .. } => (2 * (problem.batch + 1), 0),
            Storage::Paged { page_size, .. } => (0, problem.batch * (problem.kv_slots / page_size)),
        };
        let seed =
            usize::from(matches!(&problem.dropout, Some(dropout) if matches!(dropout.seed, Seed::Device(_))));
        let mask = problem.mask.as_ref().map(MaskShape::of);
        Self {
            order,
            kv_order,
            active,
            rows,
            alibi,
            sinks,
            w: place(w),
            seed: place(4 * seed),
            cu: place(cu),
            table: place(table),
            mask: place(mask.as_ref().map_or(0, MaskShape::mask_words)),
            any: place(mask.as_ref().map_or(0, MaskShape::tiles)),
            words,
        }
    }
}

/// Bytes of the plan of a backward pass, the larger one.
#[cfg(test)]
pub(in crate::attention::wgpu) fn plan_bytes(problem: &Problem<'_>) -> usize {
    4 * Places::of(problem, super::ROW_WORDS).words
}
