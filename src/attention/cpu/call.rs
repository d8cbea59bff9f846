//! What all passes of one call share: tensors by heads, what each sample sees, options in the engine's units.

use super::grade::Grade;
use super::kind::Kind;
use super::lanes::Real;
use super::sight::Sight;
use super::source::{Head, Pages, Source};
use super::stage::{Drop, Grid, Stage};
use crate::attention::problem::{Offset, Storage};
use crate::attention::{Problem, Score, Seed, Window};
use crate::error::{Error, Result};
use crate::tensor::TensorRef;
use pulp::Arch;
use rayon::prelude::*;
use std::f64::consts::LOG2_E;

/// Where a sample's rows are, and what they see.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Its place in the batch dimension of q and of k, and its first row there.
    pub(super) q_at: (usize, usize),
    pub(super) k_at: (usize, usize),
    pub(super) q_len: usize,
    pub(super) sight: Sight,
}

/// Which score it is, without what differs from head to head.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Dot,
    Cosine,
    Gaussian,
    Fidelity,
    Additive,
}

pub(super) struct Call<'a, T> {
    pub(super) arch: Arch,
    pub(super) q_heads: usize,
    pub(super) kv_heads: usize,
    pub(super) group: usize,
    pub(super) head_dim: usize,
    pub(super) value_dim: usize,
    pub(super) q: Source<'a, T>,
    pub(super) k: Source<'a, T>,
    pub(super) v: Source<'a, T>,
    pub(super) samples: Vec<Sample>,
    /// The (sample, head) pairs to compute, ascending.
    pub(super) pairs: Vec<(usize, usize)>,
    /// Whether the caller chose them.
    pub(super) chosen: bool,
    pub(super) row_scale: Option<Source<'a, T>>,
    pub(super) scale: T,
    /// In base 2.
    pub(super) scale2: T,
    pub(super) slopes: Option<Vec<T>>,
    pub(super) sinks: Option<Vec<T>>,
    score: Form,
    /// `[heads|1][head_dim]`
    weights: Vec<T>,
    softcap: Option<T>,
    bias: Option<Grid<'a>>,
    mask: Option<Grid<'a>>,
    /// Seed, offset, threshold and factor.
    dropout: Option<(u64, u64, u32, T)>,
    /// Logical sizes of the dropout's index.
    q_len: usize,
    kv_slots: usize,
    packed: bool,
    /// `[batch][pages a sample]`, and keys a page.
    pages: Option<(Vec<usize>, usize, usize)>,
    /// Norm terms of each (sample, key head) pair.
    key_norms: Vec<Vec<T>>,
}

impl<'a, T: Real> Call<'a, T> {
    pub(super) fn new(arch: Arch, problem: &Problem<'a>) -> Result<Self> {
        let mut call = Self::without_norms(arch, problem)?;
        call.key_norms = call.all_key_norms();
        Ok(call)
    }

    /// Without reading q, k or v.
    pub(super) fn without_norms(arch: Arch, problem: &Problem<'a>) -> Result<Self> {
        let op = problem.op;
        let head_source = |arg, tensor| Source::<T>::new(op, arg, tensor);
        let heads = problem.heads.as_ref();
        let base2 = |x: &Vec<T>| x.iter().map(|x| T::of(x.wide() * LOG2_E)).collect::<Vec<T>>();
        let vector = |tensor: &Option<TensorRef<'a>>| -> Result<Option<Vec<T>>> {
            Ok(tensor.as_ref().map(|tensor| tensor.to_vec::<T>()).transpose()?.as_ref().map(base2))
        };
        let (score, weights) = match &problem.score {
            Score::Dot | Score::ComplexDot => (Form::Dot, Vec::new()),
            Score::Cosine => (Form::Cosine, Vec::new()),
            Score::Gaussian { .. } => (Form::Gaussian, Vec::new()),
            Score::Fidelity => (Form::Fidelity, Vec::new()),
            Score::Additive { w } => (Form::Additive, w.to_vec::<T>()?),
        };
        Ok(Self {
            arch,
            q_heads: problem.q_heads,
            kv_heads: problem.kv_heads,
            group: problem.group().max(1),
            head_dim: problem.head_dim,
            value_dim: problem.value_dim,
            q: head_source("q", &problem.q)?,
            k: head_source("k", &problem.k)?,
            v: head_source("v", &problem.v)?,
            samples: samples(problem)?,
            pairs: active_pairs(problem)?,
            chosen: heads.is_some(),
            row_scale: heads.map(|heads| head_source("heads.row_scale", &heads.row_scale)).transpose()?,
            scale: T::of(problem.scale),
            scale2: T::of(problem.scale * LOG2_E),
            slopes: vector(&problem.alibi)?,
            sinks: vector(&problem.sinks)?,
            score,
            weights,
            softcap: problem.softcap.map(|cap| T::of(cap * LOG2_E)),
            bias: problem.bias.as_ref().map(|tensor| Grid::new(op, "bias", tensor)).transpose()?,
            mask: problem.mask.as_ref().map(|tensor| Grid::new(op, "mask", tensor)).transpose()?,
            dropout: dropout(problem)?,
            q_len: problem.q_len,
            kv_slots: problem.kv_slots,
            packed: problem.is_packed(),
            pages: pages(problem)?,
            key_norms: Vec::new(),
        })
    }

    /// Whether samples lie end to end, with as many key rows as keys.
    pub(super) fn is_packed(&self) -> bool {
        self.packed
    }

    /// Queries of a sample, the most there are when packed.
    pub(super) fn queries(&self) -> usize {
        self.q_len
    }

    /// Key slots of a sample, the most there are when packed.
    pub(super) fn kv_slots(&self) -> usize {
        self.kv_slots
    }

    /// Norm terms of the keys that some active query head reads.
    fn all_key_norms(&self) -> Vec<Vec<T>> {
        if !self.kind(0).has_norms() {
            return Vec::new();
        }
        let mut read = vec![false; self.samples.len() * self.kv_heads];
        self.pairs.iter().for_each(|&(b, h)| read[b * self.kv_heads + h / self.group] = true);
        let norms = |(index, &read): (usize, &bool)| {
            let (b, h) = (index / self.kv_heads, index % self.kv_heads);
            let mut norms = vec![T::ZERO; if read { self.samples[b].sight.keys } else { 0 }];
            if read {
                self.kind(0).norms(&self.key_head(b, h), &mut norms);
            }
            norms
        };
        read.par_iter().enumerate().map(norms).collect()
    }

    pub(super) fn kind(&self, h: usize) -> Kind<'_, T> {
        match self.score {
            Form::Dot => Kind::Dot,
            Form::Cosine => Kind::Cosine,
            Form::Gaussian => Kind::Gaussian,
            Form::Fidelity => Kind::Fidelity,
            Form::Additive => {
                let own = self.weights.len() > self.head_dim;
                Kind::Additive(&self.weights[if own { h * self.head_dim } else { 0 }..][..self.head_dim])
            }
        }
    }

    pub(super) fn query_head(&self, b: usize, h: usize) -> Head<'_, T> {
        self.rows_of(&self.q, b, h)
    }

    /// A sample's rows of any tensor with as many as the queries.
    pub(super) fn rows_of<'s>(&self, source: &Source<'s, T>, b: usize, h: usize) -> Head<'s, T> {
        let Sample { q_at: (batch, start), q_len, .. } = self.samples[b];
        source.head(batch, h).range(start, q_len)
    }

    /// A sample's keys that exist.
    pub(super) fn key_head(&self, b: usize, kv: usize) -> Head<'_, T> {
        self.keys_of(&self.k, b, kv)
    }

    pub(super) fn value_head(&self, b: usize, kv: usize) -> Head<'_, T> {
        self.keys_of(&self.v, b, kv)
    }

    fn keys_of<'s>(&'s self, source: &Source<'s, T>, b: usize, kv: usize) -> Head<'s, T> {
        let Sample { k_at: (batch, start), sight, .. } = self.samples[b];
        match &self.pages {
            None => source.head(batch, kv).range(start, sight.keys),
            Some((numbers, per_sample, size)) => {
                let used = sight.keys.div_ceil(*size);
                let numbers = &numbers[b * per_sample..][..used];
                source.paged(Pages { numbers, size: *size }, kv, sight.keys)
            }
        }
    }

    pub(super) fn key_norms(&self, b: usize, kv: usize) -> &[T] {
        self.key_norms.get(b * self.kv_heads + kv).map_or(&[], |norms| norms)
    }

    /// A pair's score and options from query 0 on; of heads `h..h + heads`, one row each, if there are several.
    /// Whether the additive score's weights differ from head to head.
    pub(super) fn has_weights_by_head(&self) -> bool {
        matches!(self.score, Form::Additive) && self.weights.len() > self.head_dim
    }

    pub(super) fn grade(&self, b: usize, h: usize, heads: usize) -> Grade<'_, T> {
        let by_head = heads > 1;
        let dropout = self.dropout.map(|(seed, offset, below, keep)| Drop {
            seed,
            offset,
            below,
            keep,
            index: ((b * self.q_heads + h) as u64 * self.q_len as u64).wrapping_mul(self.kv_slots as u64),
            step: (self.kv_slots as u64).wrapping_mul(if by_head { self.q_len as u64 } else { 1 }),
        });
        let stage = Stage {
            softcap: self.softcap,
            bias: self.bias.map(|grid| grid.of(b, h, by_head)),
            mask: self.mask.map(|grid| grid.of(b, h, by_head)),
            slopes: self.slopes.as_ref().map(|slopes| &slopes[h..h + heads]),
            position: self.samples[b].sight.from,
            by_head,
            dropout,
        };
        Grade { kind: self.kind(h), scale: self.scale, scale2: self.scale2, stage }
    }
}

/// What the queries of each sample see, and where they are.
fn samples(problem: &Problem<'_>) -> Result<Vec<Sample>> {
    let lengths = problem.kv_len.as_ref().map(|ids| ids.host()).transpose()?;
    let offsets = match &problem.offset {
        Offset::PerSample(ids) => Some(ids.host()?),
        _ => None,
    };
    let bounds = match &problem.storage {
        Storage::Packed { cu_q, cu_k, q_rows, kv_rows } => {
            Some((cu_q.host()?, cu_k.host()?, *q_rows as i64, *kv_rows as i64))
        }
        _ => None,
    };
    let side = |size: i64| (size != Window::UNLIMITED).then(|| size.min(1 << 40));
    let window = problem.window;
    let left = window.and_then(|window| side(window.left));
    let right = match (window.and_then(|window| side(window.right)), problem.causal) {
        (_, true) => Some(0),
        (right, false) => right,
    };
    let sample = |b: usize| {
        // Validation has checked lengths and bounds; the clamps keep a broken promise from becoming a wild read.
        let (q_at, k_at, q_len, keys) = match &bounds {
            Some((cu_q, cu_k, q_rows, kv_rows)) => {
                let part = |cu: &[i64], rows: i64| {
                    let (start, end) = (cu[b].clamp(0, rows), cu[b + 1].clamp(0, rows));
                    (start as usize, (end - start).max(0) as usize)
                };
                let ((q_start, q_len), (k_start, keys)) = (part(cu_q, *q_rows), part(cu_k, *kv_rows));
                ((0, q_start), (0, k_start), q_len, keys)
            }
            None => {
                let slots = problem.kv_slots;
                let keys = lengths.as_ref().map_or(slots, |l| l[b].clamp(0, slots as i64) as usize);
                ((b, 0), (b, 0), problem.q_len, keys)
            }
        };
        let from = match (&problem.offset, &offsets) {
            (_, Some(offsets)) => offsets[b].clamp(i32::MIN.into(), i32::MAX.into()),
            (Offset::At(at), _) => i64::from(*at),
            _ => keys as i64 - q_len as i64,
        };
        Sample { q_at, k_at, q_len, sight: Sight { first: 0, keys, from, left, right } }
    };
    Ok((0..problem.batch).map(sample).collect())
}

/// The (sample, head) pairs to compute, ascending.
fn active_pairs(problem: &Problem<'_>) -> Result<Vec<(usize, usize)>> {
    let (op, pairs) = (problem.op, problem.batch * problem.q_heads);
    let split = |pair: usize| (pair / problem.q_heads, pair % problem.q_heads);
    let Some(heads) = &problem.heads else { return Ok((0..pairs).map(split).collect()) };
    let order = heads.order.to_vec::<u32>()?;
    let count = heads.counts.to_vec::<u32>()?[0] as usize;
    if count > pairs {
        return Err(Error::argument(op, "heads.counts", format!("holds {count} active pairs of {pairs}")));
    }
    let order = &order[..count];
    // Two items of one pair would write the same rows.
    let ascending =
        order.windows(2).all(|w| w[0] < w[1]) && order.last().is_none_or(|&p| (p as usize) < pairs);
    if !ascending {
        return Err(Error::argument(
            op,
            "heads.order",
            format!("is not ascending below {pairs} in its first {count}"),
        ));
    }
    Ok(order.iter().map(|&pair| split(pair as usize)).collect())
}

fn dropout<T: Real>(problem: &Problem<'_>) -> Result<Option<(u64, u64, u32, T)>> {
    let Some(dropout) = &problem.dropout else { return Ok(None) };
    let (seed, offset) = match &dropout.seed {
        Seed::Host { seed, offset } => (*seed, *offset),
        Seed::Device(words) => {
            let words = words.to_vec::<i64>()?;
            (words[0] as u64, words[1] as u64)
        }
    };
    let below = (dropout.p * 4_294_967_296.0).floor() as u32;
    Ok(Some((seed, offset, below, T::of(1.0 / (1.0 - dropout.p)))))
}

/// Page numbers, pages a sample, and keys a page. Numbers of keys that do not exist may be anything, and are 0 here.
fn pages(problem: &Problem<'_>) -> Result<Option<(Vec<usize>, usize, usize)>> {
    let Storage::Paged { table, page_size, pages } = &problem.storage else { return Ok(None) };
    let number = |page: i64| usize::try_from(page).ok().filter(|page| page < pages).unwrap_or(0);
    let numbers = table.host()?.into_iter().map(number).collect();
    Ok(Some((numbers, problem.kv_slots / page_size, *page_size)))
}
