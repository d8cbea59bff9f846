//! Weights and entropies of query rows, for looking at what a head attends to.

use super::call::Call;
use super::grade::{Buffers, Grade, WantSums};
use super::kind::{Kind, Packed};
use super::lanes::{Real, Scratch};
use super::pack::pack_columns;
use super::schedule::{for_each, multiplications};
use super::sight::{Sight, Streamed, Tile};
use super::source::{Head, Source};
use crate::attention::{AttentionRow, Problem};
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::{Tensor, TensorRef};
use pulp::{Arch, Simd, WithSimd};
use std::f64::consts::LOG2_E;
use std::sync::{Mutex, PoisonError};

/// Queries of a work item.
const QUERY_TILE: usize = 64;
/// Keys of a tile.
const KEY_TILE: usize = 64;

/// What is made of the weights of a tile's rows.
enum Found<'a, T> {
    /// `[rows][slots]`, zeros before.
    Weights { out: &'a mut [T], slots: usize },
    /// −Σ p·ln p of each row, zeros before.
    Entropy(&'a mut [T]),
}

/// Rows `query..query + q.rows()` of one pair.
struct InspectTile<'a, T> {
    q: Head<'a, T>,
    lse: Head<'a, T>,
    k: Head<'a, T>,
    key_norms: &'a [T],
    query: usize,
    sight: Sight,
    /// Starts at the tile's first query.
    grade: Grade<'a, T>,
    found: Found<'a, T>,
    scratch: &'a mut Scratch,
}

impl<T: Real> WithSimd for InspectTile<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (count, head_dim, grade) = (self.q.rows(), self.q.dim(), self.grade);
        let step = count.next_multiple_of(T::lanes::<S>());
        let complex = grade.kind.is_complex();
        let sizes = grade.sizes(KEY_TILE * step, WantSums::default());
        let [queries, turned, norms, shift, p, room, raw, slope, keep, re, im, grid, extra] =
            self.scratch.parts([
                head_dim * step,
                if complex { head_dim * step } else { 0 },
                step,
                step,
                KEY_TILE * step,
                self.q.room(count).max(self.k.room(KEY_TILE)),
                sizes[0],
                sizes[1],
                sizes[2],
                sizes[3],
                sizes[4],
                sizes[5],
                sizes[6],
            ]);
        let mut buffers = Buffers { raw, slope, keep, re, im, grid };
        let q = self.q.tile(0, count, room);
        pack_columns(simd, q, T::ONE, queries, step);
        if complex {
            Kind::turn(Streamed::Keys, queries, turned, step);
        }
        for i in 0..step {
            (norms[i], shift[i]) = (T::ZERO, T::ZERO);
            if i < count {
                let lse = self.lse.number(i);
                shift[i] = if lse == T::NEG_INFINITY { T::ZERO } else { T::of(lse.wide() * LOG2_E) };
                if grade.kind.has_norms() {
                    norms[i] = grade.kind.norm(q.row(i));
                }
            }
        }
        let packed = Packed { plain: queries, turned, terms: norms };
        let seen = self.sight.visible_to(self.query..self.query + count);
        for key in (seen.start / KEY_TILE * KEY_TILE..seen.end).step_by(KEY_TILE) {
            let rows = KEY_TILE.min(seen.end - key);
            let mut tile = Tile {
                sight: self.sight,
                streamed: Streamed::Keys,
                key,
                query: self.query,
                rows,
                cols: count,
                hidden: None,
            };
            let (p, k) = (&mut p[..rows * step], self.k.tile(key, rows, room));
            let key_norms = self.key_norms.get(key..key + rows).unwrap_or(&[]);
            let seen = grade.weights::<S, false>(
                simd,
                &mut tile,
                k,
                key_norms,
                packed,
                shift,
                p,
                extra,
                &mut buffers,
                step,
            );
            if !seen {
                continue;
            }
            for (row, p) in p.chunks_exact(step).enumerate() {
                for (col, &p) in p[..count].iter().enumerate() {
                    match &mut self.found {
                        Found::Weights { out, slots } => out[col * *slots + key + row] = p,
                        Found::Entropy(out) if p != T::ZERO => out[col] += -(p * p.log()),
                        Found::Entropy(_) => {}
                    }
                }
            }
        }
    }
}

fn tile<'a, T: Real>(
    call: &'a Call<'_, T>,
    lse: &Source<'a, T>,
    (b, h): (usize, usize),
    (query, count): (usize, usize),
    found: Found<'a, T>,
    scratch: &'a mut Scratch,
) {
    let (kv, sample) = (h / call.group, call.samples[b]);
    T::dispatch(
        call.arch,
        InspectTile {
            q: call.query_head(b, h).range(query, count),
            lse: call.rows_of(lse, b, h).range(query, count),
            k: call.key_head(b, kv),
            key_norms: call.key_norms(b, kv),
            query,
            sight: sample.sight,
            grade: call.grade(b, h, 1).without_dropout().at_query(query),
            found,
            scratch,
        },
    );
}

/// `[rows, key slots]`; validation has checked that the rows exist.
pub(in crate::attention) fn weights(
    problem: &Problem<'_>,
    lse: &TensorRef<'_>,
    rows: &[AttentionRow],
) -> Result<Tensor> {
    match problem.accumulator {
        DType::F64 => weights_of::<f64>(problem, lse, rows),
        _ => weights_of::<f32>(problem, lse, rows),
    }
}

fn weights_of<T: Real>(problem: &Problem<'_>, lse: &TensorRef<'_>, rows: &[AttentionRow]) -> Result<Tensor> {
    let call = Call::<T>::new(Arch::new(), problem)?;
    let lse = Source::new(problem.op, "lse", lse)?;
    let slots = problem.kv_slots;
    let mut out = vec![T::ZERO; rows.len() * slots];
    let places: Vec<_> = out.chunks_exact_mut(slots.max(1)).map(Mutex::new).collect();
    let work = (rows.len() * slots).saturating_mul(problem.head_dim) as u64;
    for_each(places.len(), work, |index, scratch| {
        let AttentionRow { sample, head, query } = rows[index];
        // Rows beyond a packed sample's own length, and of pairs that do not take part, have no weights.
        if query < call.samples[sample].q_len && call.pairs.binary_search(&(sample, head)).is_ok() {
            let mut place = places[index].lock().unwrap_or_else(PoisonError::into_inner);
            let found = Found::Weights { out: &mut place, slots };
            tile(&call, &lse, (sample, head), (query, 1), found, scratch);
        }
    });
    drop(places);
    Tensor::from_slice(problem.q.device(), &out, &[rows.len(), slots])
}

/// Of lse's shape.
pub(in crate::attention) fn entropy(problem: &Problem<'_>, lse: &TensorRef<'_>) -> Result<Tensor> {
    match problem.accumulator {
        DType::F64 => entropy_of::<f64>(problem, lse),
        _ => entropy_of::<f32>(problem, lse),
    }
}

fn entropy_of<T: Real>(problem: &Problem<'_>, lse: &TensorRef<'_>) -> Result<Tensor> {
    let call = Call::<T>::new(Arch::new(), problem)?;
    let source = Source::new(problem.op, "lse", lse)?;
    let [_, heads, rows] = problem.lse_shape();
    let mut out = vec![T::ZERO; problem.lse_shape().iter().product()];
    let mut items = Vec::new();
    for &(b, h) in &call.pairs {
        items.extend((0..call.samples[b].q_len).step_by(QUERY_TILE).map(|query| (b, h, query)));
    }
    let results: Vec<Mutex<Vec<T>>> = items.iter().map(|_| Mutex::default()).collect();
    for_each(items.len(), multiplications(&call, call.head_dim), |index, scratch| {
        let (b, h, query) = items[index];
        let mut sums = vec![T::ZERO; QUERY_TILE.min(call.samples[b].q_len - query)];
        let count = sums.len();
        tile(&call, &source, (b, h), (query, count), Found::Entropy(&mut sums), scratch);
        *results[index].lock().unwrap_or_else(PoisonError::into_inner) = sums;
    });
    for ((b, h, query), sums) in items.into_iter().zip(results) {
        let (batch, start) = call.samples[b].q_at;
        let sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
        out[(batch * heads + h) * rows + start + query..][..sums.len()].copy_from_slice(&sums);
    }
    Tensor::from_slice(problem.q.device(), &out, &problem.lse_shape())
}
