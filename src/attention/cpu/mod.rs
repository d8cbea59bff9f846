//! Attention on the CPU: SIMD over query or key tiles, rayon over (pair, tile) items.
//!
//! Numerics: f32 accumulation, base-2 exponents, weights below 2^-126 are 0. A query's bits do not
//! depend on its tile, its neighbours, the batch or the number of threads.
//! Memory: one scratch per thread, below 256 KiB; the backward pass keeps two or three floats a query row.
//!
//! What was slower: packing keys and values; the `gemm` (0.93–1.5 × the time) and `matrixmultiply` crates; 8 × 2 and 12 × 2
//! register tiles.
//!
//! # Source
//! Dao, FlashAttention-2, arXiv:2307.08691. Register blocking: Goto & van de Geijn, doi:10.1145/1356052.1356053.
#![allow(unsafe_code)] // Output rows are shared out between threads, and the micro-kernel reads without bounds checks.

mod backward;
mod forward;
mod lanes;
mod pack;
mod product;
mod sight;
mod views;

#[cfg(test)]
mod tests;

use super::features::Capabilities;
use super::problem::Offset;
use super::{Backward, Forward, Problem};
use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Error, Result};
use backward::{KeyTile, QueryTile, Terms, dot};
use forward::ForwardTile;
use lanes::Scratch;
use pulp::Arch;
use rayon::prelude::*;
use sight::Sight;
use std::f32::consts::LOG2_E;
use views::{HeadsMut, HeadsRef, Rows};

/// What these kernels can do.
pub(super) const CAPABILITIES: Capabilities =
    Capabilities { backend: Backend::Cpu, dtypes: &[DType::F32], dim: 128, features: &[] };

/// Below this many multiplications a call runs on the caller's thread: waking others costs more.
const INLINE_BELOW: u64 = 1 << 21;

/// Runs `item` for every index below `count`, each with a scratch of its thread.
fn for_each(count: usize, multiplications: u64, item: impl Fn(usize, &mut Scratch) + Sync) {
    if count <= 1 || multiplications < INLINE_BELOW || rayon::current_num_threads() == 1 {
        let mut scratch = Scratch::default();
        (0..count).for_each(|i| item(i, &mut scratch));
    } else {
        (0..count).into_par_iter().for_each_init(Scratch::default, |scratch, i| item(i, scratch));
    }
}

/// What the queries of each sample see.
fn sights(problem: &Problem<'_>) -> Result<Vec<Sight>> {
    let lengths = problem.kv_len.as_ref().map(|ids| ids.host()).transpose()?;
    let offsets = match &problem.offset {
        Offset::PerSample(ids) if problem.causal => Some(ids.host()?),
        _ => None,
    };
    let sight = |b: usize| {
        // Validation has checked the lengths; the clamp keeps a broken promise from becoming a wild read.
        let keys =
            lengths.as_ref().map_or(problem.kv_slots, |l| l[b].clamp(0, problem.kv_slots as i64) as usize);
        let from = match (&problem.offset, &offsets) {
            (_, Some(offsets)) => offsets[b].clamp(i32::MIN.into(), i32::MAX.into()),
            (Offset::At(at), _) => i64::from(*at),
            _ => keys as i64 - problem.q_len as i64,
        };
        Sight { keys, causal_from: problem.causal.then_some(from) }
    };
    Ok((0..problem.batch).map(sight).collect())
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

/// Multiplications of one product of scores and vectors, for all pairs; a causal mask is not looked at.
fn multiplications(problem: &Problem<'_>, pairs: usize, dims: usize) -> u64 {
    [problem.q_len, problem.kv_slots, dims]
        .iter()
        .fold(pairs as u64, |product, &n| product.saturating_mul(n as u64))
}

/// Scratch is a few hundred KiB a thread, on the host's heap: there is nothing to hand in.
pub(super) fn forward_workspace(_: &Problem<'_>) -> usize {
    0
}

/// As [`forward_workspace`].
pub(super) fn backward_workspace(_: &Problem<'_>) -> usize {
    0
}

pub(super) fn forward(problem: &Problem<'_>, call: &mut Forward<'_>) -> Result<()> {
    forward_on(Arch::new(), problem, call)
}

fn forward_on(arch: Arch, problem: &Problem<'_>, call: &mut Forward<'_>) -> Result<()> {
    let op = problem.op;
    let (q, k, v) = inputs(problem)?;
    let row_scale = row_scale(problem)?;
    let (sights, pairs) = (sights(problem)?, active_pairs(problem)?);
    let (o, lse) = (HeadsMut::new(op, "o", &mut call.o)?, HeadsMut::new(op, "lse", &mut call.lse)?);
    let group = problem.group();
    let tiles = problem.q_len.div_ceil(forward::QUERY_TILE);
    let work = multiplications(problem, pairs.len(), problem.head_dim + problem.value_dim);
    for_each(pairs.len() * tiles, work, |item, scratch| {
        let (b, h) = pairs[item / tiles];
        let query = item % tiles * forward::QUERY_TILE;
        let count = forward::QUERY_TILE.min(problem.q_len - query);
        // SAFETY: pairs are distinct, and so are the tiles of a pair: no other item uses these rows.
        let (mut o, mut lse) = unsafe { (o.head(b, h), lse.head(b, h)) };
        arch.dispatch(ForwardTile {
            q: q.head(b, h).range(query, count),
            k: k.head(b, h / group),
            v: v.head(b, h / group),
            query,
            sight: sights[b],
            scale: problem.scale as f32,
            row_scale: row_scale.map(|r| r.head(b, h).range(query, count)),
            o: o.range(query, count),
            lse: lse.range(query, count),
            scratch,
        });
    });
    Ok(())
}

fn inputs<'a>(problem: &Problem<'a>) -> Result<(HeadsRef<'a>, HeadsRef<'a>, HeadsRef<'a>)> {
    let op = problem.op;
    Ok((
        HeadsRef::new(op, "q", &problem.q)?,
        HeadsRef::new(op, "k", &problem.k)?,
        HeadsRef::new(op, "v", &problem.v)?,
    ))
}

fn row_scale<'a>(problem: &Problem<'a>) -> Result<Option<HeadsRef<'a>>> {
    let heads = problem.heads.as_ref();
    heads.map(|heads| HeadsRef::new(problem.op, "heads.row_scale", &heads.row_scale)).transpose()
}

pub(super) fn backward(problem: &Problem<'_>, call: &mut Backward<'_>) -> Result<()> {
    backward_on(Arch::new(), problem, call)
}

fn backward_on(arch: Arch, problem: &Problem<'_>, call: &mut Backward<'_>) -> Result<()> {
    let op = problem.op;
    let (q, k, v) = inputs(problem)?;
    let grad = HeadsRef::new(op, "grad_o", &call.saved.grad_o)?;
    let (sights, pairs) = (sights(problem)?, active_pairs(problem)?);
    let gradients = &mut call.gradients;
    let dq = gradients.dq.as_mut().map(|t| HeadsMut::new(op, "dq", t)).transpose()?;
    let dk = gradients.dk.as_mut().map(|t| HeadsMut::new(op, "dk", t)).transpose()?;
    let dv = gradients.dv.as_mut().map(|t| HeadsMut::new(op, "dv", t)).transpose()?;
    let drow_scale = gradients.drow_scale.as_mut().map(|t| HeadsMut::new(op, "drow_scale", t)).transpose()?;
    let saved = SavedRows::new(problem, &call.saved, dq.is_some() || dk.is_some(), &pairs)?;
    let pass = BackwardPass { arch, problem, q, k, v, grad, sights, pairs, saved, dq, dk, dv, drow_scale };
    pass.run();
    Ok(())
}

/// δ, lse in base 2 and row scale of every row of the active pairs.
struct SavedRows {
    numbers: Vec<f32>,
    q_len: usize,
    scaled: bool,
}

impl SavedRows {
    fn new(
        problem: &Problem<'_>,
        saved: &super::AttentionSaved<'_>,
        wants_delta: bool,
        pairs: &[(usize, usize)],
    ) -> Result<Self> {
        let (op, q_len) = (problem.op, problem.q_len);
        let lse = HeadsRef::new(op, "lse", &saved.lse)?;
        let (o, grad) = (HeadsRef::new(op, "o", &saved.o)?, HeadsRef::new(op, "grad_o", &saved.grad_o)?);
        let grad_lse = saved.grad_lse.as_ref().map(|t| HeadsRef::new(op, "grad_lse", t)).transpose()?;
        let row_scale = row_scale(problem)?;
        let mut numbers = vec![0.0; pairs.len() * 3 * q_len];
        let fill = |(&(b, h), numbers): (&(usize, usize), &mut [f32])| {
            let (shift, rest) = numbers.split_at_mut(q_len);
            let (delta, factor) = rest.split_at_mut(q_len);
            let (lse, o, grad) = (lse.head(b, h), o.head(b, h), grad.head(b, h));
            for i in 0..q_len {
                shift[i] = lse.row(i)[0] * LOG2_E;
                if wants_delta {
                    delta[i] = dot(o.row(i), grad.row(i)) - grad_lse.map_or(0.0, |t| t.head(b, h).row(i)[0]);
                }
                if let Some(row_scale) = row_scale {
                    factor[i] = row_scale.head(b, h).row(i)[0];
                }
            }
        };
        let work = multiplications(problem, pairs.len(), 1).min((numbers.len() * problem.value_dim) as u64);
        if work < INLINE_BELOW {
            pairs.iter().zip(numbers.chunks_exact_mut((3 * q_len).max(1))).for_each(fill);
        } else {
            pairs.par_iter().zip(numbers.par_chunks_exact_mut(3 * q_len)).for_each(fill);
        }
        Ok(Self { numbers, q_len, scaled: row_scale.is_some() })
    }

    /// Terms of the `index`-th active pair.
    fn of(&self, index: usize) -> Terms<'_> {
        let numbers = &self.numbers[index * 3 * self.q_len..][..3 * self.q_len];
        let (shift, rest) = numbers.split_at(self.q_len);
        let (delta, factor) = rest.split_at(self.q_len);
        Terms { shift, delta, factor: self.scaled.then_some(factor) }
    }
}

/// A backward call, ready to be cut into work items.
struct BackwardPass<'a, 'p> {
    arch: Arch,
    problem: &'p Problem<'a>,
    q: HeadsRef<'a>,
    k: HeadsRef<'a>,
    v: HeadsRef<'a>,
    grad: HeadsRef<'p>,
    sights: Vec<Sight>,
    pairs: Vec<(usize, usize)>,
    saved: SavedRows,
    dq: Option<HeadsMut<'p>>,
    dk: Option<HeadsMut<'p>>,
    dv: Option<HeadsMut<'p>>,
    drow_scale: Option<HeadsMut<'p>>,
}

impl BackwardPass<'_, '_> {
    fn run(&self) {
        let problem = self.problem;
        let by_key_head = self.pairs_by_key_head();
        let active = by_key_head.iter().filter(|pairs| !pairs.is_empty()).count();
        self.zero_inactive(&by_key_head);
        let wants_queries = self.dq.is_some() || self.drow_scale.is_some();
        let wants_keys = self.dk.is_some() || self.dv.is_some();
        let work = multiplications(problem, self.pairs.len(), 2 * (problem.head_dim + problem.value_dim));
        let threads = if work < INLINE_BELOW { 1 } else { rayon::current_num_threads() };
        // Five products a head on one thread, or seven on as many as there are tiles.
        let one_by_one = 5 * active.div_ceil(threads) * threads <= 7 * active;
        if wants_queries && wants_keys && one_by_one {
            for_each(by_key_head.len(), work, |kv, scratch| self.key_head(kv, &by_key_head[kv], scratch));
            return;
        }
        let (query_tiles, key_tiles) =
            (problem.q_len.div_ceil(backward::QUERY_TILE), problem.kv_slots.div_ceil(backward::KEY_TILE));
        let query_items = if wants_queries { self.pairs.len() * query_tiles } else { 0 };
        let key_items = if wants_keys { by_key_head.len() * key_tiles } else { 0 };
        for_each(query_items + key_items, work, |item, scratch| match item.checked_sub(query_items) {
            None => {
                self.query_tile(item / query_tiles, item % query_tiles * backward::QUERY_TILE, None, scratch)
            }
            Some(item) => {
                let kv = item / key_tiles;
                self.key_tile(kv, item % key_tiles * backward::KEY_TILE, &by_key_head[kv], scratch);
            }
        });
    }

    /// Positions in `self.pairs` of the query heads that read each (sample, key head) pair.
    fn pairs_by_key_head(&self) -> Vec<Vec<usize>> {
        let (kv_heads, group) = (self.problem.kv_heads, self.problem.group());
        let mut by_key_head = vec![Vec::new(); self.problem.batch * kv_heads];
        for (index, &(b, h)) in self.pairs.iter().enumerate() {
            by_key_head[b * kv_heads + h / group].push(index);
        }
        by_key_head
    }

    /// Rows no work item writes.
    fn zero_inactive(&self, by_key_head: &[Vec<usize>]) {
        if let Some(dq) = self.dq {
            let mut active = self.pairs.iter().peekable();
            for pair in 0..self.problem.batch * self.problem.q_heads {
                let (b, h) = (pair / self.problem.q_heads, pair % self.problem.q_heads);
                if active.next_if_eq(&&(b, h)).is_none() {
                    // SAFETY: work items have not started.
                    unsafe { dq.head(b, h) }.zero();
                }
            }
        }
        for (kv, _) in by_key_head.iter().enumerate().filter(|(_, pairs)| pairs.is_empty()) {
            for gradient in [self.dk, self.dv].into_iter().flatten() {
                // SAFETY: as above.
                unsafe { gradient.head(kv / self.problem.kv_heads, kv % self.problem.kv_heads) }.zero();
            }
        }
    }

    /// All gradients of one key head and the query heads that read it.
    fn key_head(&self, kv: usize, pairs: &[usize], scratch: &mut Scratch) {
        if pairs.is_empty() {
            return;
        }
        for gradient in [self.dk, self.dv].into_iter().flatten() {
            // SAFETY: one item per key head, and this is the only part of it that runs.
            unsafe { gradient.head(kv / self.problem.kv_heads, kv % self.problem.kv_heads) }.zero();
        }
        for &pair in pairs {
            for query in (0..self.problem.q_len).step_by(backward::QUERY_TILE) {
                self.query_tile(pair, query, Some(kv), scratch);
            }
        }
    }

    /// One tile of queries of an active pair. With `kv`, which then must be this item's alone, dk and dv as well.
    fn query_tile(&self, pair: usize, query: usize, kv: Option<usize>, scratch: &mut Scratch) {
        let (b, h) = self.pairs[pair];
        let kv_head = h / self.problem.group();
        let count = backward::QUERY_TILE.min(self.problem.q_len - query);
        // SAFETY: pairs are distinct and so are the tiles of a pair; the gradients of a key head are touched only by the one
        // item that owns it.
        let (mut dq, mut drow_scale, dk, dv) = unsafe {
            (
                self.dq.map(|t| t.head(b, h)),
                self.drow_scale.map(|t| t.head(b, h)),
                self.dk.filter(|_| kv.is_some()).map(|t| t.head(b, kv_head)),
                self.dv.filter(|_| kv.is_some()).map(|t| t.head(b, kv_head)),
            )
        };
        self.arch.dispatch(QueryTile {
            q: self.q.head(b, h).range(query, count),
            grad: self.grad.head(b, h).range(query, count),
            terms: self.saved.of(pair).range(query, count),
            k: self.k.head(b, kv_head),
            v: self.v.head(b, kv_head),
            query,
            sight: self.sights[b],
            scale: self.problem.scale as f32,
            dq: dq.as_mut().map(|t| t.range(query, count)),
            drow_scale: drow_scale.as_mut().map(|t| t.range(query, count)),
            dk,
            dv,
            scratch,
        });
    }

    /// One tile of keys.
    fn key_tile(&self, kv: usize, key: usize, pairs: &[usize], scratch: &mut Scratch) {
        let (b, kv_head) = (kv / self.problem.kv_heads, kv % self.problem.kv_heads);
        if pairs.is_empty() {
            return;
        }
        let slots = backward::KEY_TILE.min(self.problem.kv_slots - key);
        let count = self.sights[b].keys.saturating_sub(key).min(slots);
        // SAFETY: the tiles of a key head are distinct: no other item uses these rows.
        let (mut dk, mut dv) =
            unsafe { (self.dk.map(|t| t.head(b, kv_head)), self.dv.map(|t| t.head(b, kv_head))) };
        for gradient in [&mut dk, &mut dv].into_iter().flatten() {
            gradient.range(key + count, slots - count).zero();
        }
        if count == 0 {
            return;
        }
        let heads: Vec<(Rows<'_>, Rows<'_>, Terms<'_>)> = pairs
            .iter()
            .map(|&pair| {
                let h = self.pairs[pair].1;
                (self.q.head(b, h), self.grad.head(b, h), self.saved.of(pair))
            })
            .collect();
        self.arch.dispatch(KeyTile {
            k: self.k.head(b, kv_head).range(key, count),
            v: self.v.head(b, kv_head).range(key, count),
            key,
            sight: self.sights[b],
            scale: self.problem.scale as f32,
            heads: &heads,
            dk: dk.as_mut().map(|t| t.range(key, count)),
            dv: dv.as_mut().map(|t| t.range(key, count)),
            scratch,
        });
    }
}
