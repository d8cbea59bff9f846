//! The backward pass cut into work items, and the gradients of options put together from them.

use super::backward::{KEY_TILE, KeyTile, QUERY_TILE, QueryTile, Reader};
use super::bias;
use super::call::Call;
use super::grade::{Sums, Terms, WantSums};
use super::lanes::{Real, Scratch};
use super::schedule::{INLINE_BELOW, for_each, multiplications, uncovered};
use super::source::{HeadMut, Sink, Source};
use super::views::RowsMut;
use crate::attention::{AttentionGradientViews, AttentionSaved, Backward, Problem, Score};
use crate::error::{Error, Result};
use pulp::Arch;
use rayon::prelude::*;
use std::f64::consts::LOG2_E;
use std::sync::{Mutex, PoisonError};

/// Sums of key gradients in the engine's type are kept beside the outputs if all threads' fit into the bytes of q and this.
const ASIDE: usize = 24 << 20;

pub(super) fn run<T: Real>(arch: Arch, problem: &Problem<'_>, outputs: &mut Backward<'_>) -> Result<()> {
    let op = problem.op;
    let call = Call::<T>::new(arch, problem)?;
    let grad = Source::new(op, "grad_o", &outputs.saved.grad_o)?;
    let gradients = &mut outputs.gradients;
    let want = WantSums {
        scale: gradients.dscale.is_some(),
        slope: gradients.dalibi.is_some(),
        weights: gradients.dw.is_some(),
    };
    let dq = gradients.dq.as_mut().map(|t| Sink::new(op, "dq", t)).transpose()?;
    let dk = gradients.dk.as_mut().map(|t| Sink::new(op, "dk", t)).transpose()?;
    let dv = gradients.dv.as_mut().map(|t| Sink::new(op, "dv", t)).transpose()?;
    let drow_scale = gradients.drow_scale.as_mut().map(|t| Sink::new(op, "drow_scale", t)).transpose()?;
    let saved = SavedRows::new(problem, &call, &outputs.saved)?;
    let pass = Pass { call: &call, grad, saved, want, dq, dk, dv, drow_scale };
    uncovered(problem, &call, |batch, h, row, rows| {
        // SAFETY: no item writes these rows.
        dq.into_iter().for_each(|dq| unsafe { dq.head(batch, h).part(row, rows).fill(T::ZERO) });
    });
    let sums = pass.run(problem);
    if let Some(dbias) = &mut gradients.dbias {
        bias::run(&call, &pass.grad, &pass.saved, dbias.as_ref(), op)?;
    }
    let saved = pass.saved;
    options(problem, &call, &saved, &sums, gradients)
}

/// δ, lse in base 2, row scale and norm term of every row of the active pairs.
pub(super) struct SavedRows<T> {
    numbers: Vec<Vec<T>>,
    scaled: bool,
    normed: bool,
}

impl<T: Real> SavedRows<T> {
    fn new(problem: &Problem<'_>, call: &Call<'_, T>, saved: &AttentionSaved<'_>) -> Result<Self> {
        let op = problem.op;
        let lse = Source::<T>::new(op, "lse", &saved.lse)?;
        let (o, grad) =
            (Source::<T>::new(op, "o", &saved.o)?, Source::<T>::new(op, "grad_o", &saved.grad_o)?);
        let grad_lse = saved.grad_lse.as_ref().map(|t| Source::<T>::new(op, "grad_lse", t)).transpose()?;
        let normed = call.kind(0).has_norms();
        let of_pair = |&(b, h): &(usize, usize)| {
            let q_len = call.samples[b].q_len;
            let mut numbers = vec![T::ZERO; 4 * q_len];
            let [shift, delta, factor, norms] = split(&mut numbers, q_len);
            let (lse, o, grad) =
                (call.rows_of(&lse, b, h), call.rows_of(&o, b, h), call.rows_of(&grad, b, h));
            let grad_lse = grad_lse.map(|source| call.rows_of(&source, b, h));
            let row_scale = call.row_scale.map(|source| call.rows_of(&source, b, h));
            let (mut o_room, mut grad_room) = (vec![T::ZERO; o.room(1)], vec![T::ZERO; grad.room(1)]);
            for i in 0..q_len {
                let lse = lse.number(i);
                shift[i] = if lse == T::NEG_INFINITY { T::ZERO } else { T::of(lse.wide() * LOG2_E) };
                let (o, grad) = (o.tile(i, 1, &mut o_room), grad.tile(i, 1, &mut grad_room));
                delta[i] = dot(o.row(0), grad.row(0)) - grad_lse.map_or(T::ZERO, |rows| rows.number(i));
                if let Some(row_scale) = row_scale {
                    factor[i] = row_scale.number(i);
                }
            }
            if normed {
                call.kind(h).norms(&call.query_head(b, h), norms);
            }
            numbers
        };
        let rows = call.pairs.iter().map(|&(b, _)| call.samples[b].q_len as u64).sum::<u64>();
        let numbers = if rows.saturating_mul((call.value_dim + call.head_dim) as u64) < INLINE_BELOW {
            call.pairs.iter().map(of_pair).collect()
        } else {
            call.pairs.par_iter().map(of_pair).collect()
        };
        Ok(Self { numbers, scaled: call.row_scale.is_some(), normed })
    }

    /// Terms of the `index`-th active pair.
    pub(super) fn of(&self, index: usize) -> Terms<'_, T> {
        let numbers = &self.numbers[index];
        let q_len = numbers.len() / 4;
        let part = |n: usize| &numbers[n * q_len..][..q_len];
        Terms {
            shift: part(0),
            delta: part(1),
            factor: self.scaled.then_some(part(2)),
            norms: if self.normed { part(3) } else { &[] },
        }
    }
}

fn split<T>(numbers: &mut [T], size: usize) -> [&mut [T]; 4] {
    let (a, rest) = numbers.split_at_mut(size);
    let (b, rest) = rest.split_at_mut(size);
    let (c, d) = rest.split_at_mut(size);
    [a, b, c, d]
}

/// Σ x·y in a fixed order that vectorises.
fn dot<T: Real>(x: &[T], y: &[T]) -> T {
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<16>(), y.as_chunks::<16>());
    let mut sums = [T::ZERO; 16];
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..16 {
            sums[i] += x[i] * y[i];
        }
    }
    let rest: T = x_rest.iter().zip(y_rest).map(|(&x, &y)| x * y).sum();
    sums.iter().copied().sum::<T>() + rest
}

/// A backward call, ready to be cut into work items.
struct Pass<'a, 'c, T> {
    call: &'c Call<'a, T>,
    grad: Source<'c, T>,
    saved: SavedRows<T>,
    want: WantSums,
    dq: Option<Sink<'c, T>>,
    dk: Option<Sink<'c, T>>,
    dv: Option<Sink<'c, T>>,
    drow_scale: Option<Sink<'c, T>>,
}

/// Sums of key gradients in place or aside.
type Keys<'k, T> = (Option<RowsMut<'k, T>>, Option<RowsMut<'k, T>>);

impl<T: Real> Pass<'_, '_, T> {
    /// Writes dq, dk, dv and drow_scale; returns the sums of each tile of queries, in the order of pairs and tiles.
    fn run(&self, problem: &Problem<'_>) -> Vec<Mutex<Sums>> {
        let call = self.call;
        let by_key_head = self.pairs_by_key_head();
        let active = by_key_head.iter().filter(|pairs| !pairs.is_empty()).count();
        self.zero_inactive(&by_key_head);
        let wants_sums = self.want.scale || self.want.slope || self.want.weights;
        let wants_queries = self.dq.is_some() || self.drow_scale.is_some() || wants_sums;
        let wants_keys = self.dk.is_some() || self.dv.is_some();
        let work = multiplications(call, 2 * (call.head_dim + call.value_dim));
        let threads = if work < INLINE_BELOW { 1 } else { rayon::current_num_threads() };
        // Tiles of queries, pair by pair.
        let mut tiles = Vec::new();
        let mut first_tile = vec![0; call.pairs.len()];
        for (pair, &(b, _)) in call.pairs.iter().enumerate() {
            first_tile[pair] = tiles.len();
            tiles.extend((0..call.samples[b].q_len).step_by(QUERY_TILE).map(|query| (pair, query)));
        }
        let sums: Vec<Mutex<Sums>> =
            if wants_sums { tiles.iter().map(|_| Mutex::default()).collect() } else { Vec::new() };
        // Five products a head on one thread, or seven on as many as there are tiles.
        let few_idle = 5 * active.div_ceil(threads) * threads <= 7 * active;
        let longest = call.samples.iter().map(|sample| sample.sight.keys).max().unwrap_or(0);
        let aside = longest * (call.head_dim + call.value_dim) * size_of::<T>() * threads.min(active.max(1));
        let in_place = [self.dk, self.dv].iter().flatten().all(Sink::in_place);
        let q_bytes = problem.q.layout().len() * problem.dtype.size();
        let fits = in_place || aside <= ASIDE + q_bytes;
        if wants_queries && wants_keys && call.kind(0).is_dot() && few_idle && fits {
            for_each(by_key_head.len(), work, |kv, scratch| {
                self.key_head(kv, &by_key_head[kv], &first_tile, &sums, scratch);
            });
            return sums;
        }
        let query_items = if wants_queries { tiles.len() } else { 0 };
        let mut key_tiles = Vec::new();
        if wants_keys {
            for kv in 0..by_key_head.len() {
                let slots = self.key_rows(kv / call.kv_heads);
                key_tiles.extend((0..slots).step_by(KEY_TILE).map(|key| (kv, key)));
            }
        }
        for_each(query_items + key_tiles.len(), work, |item, scratch| match item.checked_sub(query_items) {
            None => {
                let (pair, query) = tiles[item];
                self.query_tile(pair, query, sums.get(item), (None, None), scratch);
            }
            Some(item) => {
                let (kv, key) = key_tiles[item];
                self.key_tile(kv, key, &by_key_head[kv], scratch);
            }
        });
        sums
    }

    /// Rows of a sample's key gradients: its own when packed, else all slots.
    fn key_rows(&self, b: usize) -> usize {
        if self.call.is_packed() { self.call.samples[b].sight.keys } else { self.call.kv_slots() }
    }

    /// Positions in the list of pairs of the query heads that read each (sample, key head) pair.
    fn pairs_by_key_head(&self) -> Vec<Vec<usize>> {
        let (kv_heads, group) = (self.call.kv_heads, self.call.group);
        let mut by_key_head = vec![Vec::new(); self.call.samples.len() * kv_heads];
        for (index, &(b, h)) in self.call.pairs.iter().enumerate() {
            by_key_head[b * kv_heads + h / group].push(index);
        }
        by_key_head
    }

    /// Rows no work item writes.
    fn zero_inactive(&self, by_key_head: &[Vec<usize>]) {
        let call = self.call;
        if let Some(dq) = self.dq {
            let mut active = call.pairs.iter().peekable();
            for pair in 0..call.samples.len() * call.q_heads {
                let (b, h) = (pair / call.q_heads, pair % call.q_heads);
                if active.next_if_eq(&&(b, h)).is_none() {
                    let sample = call.samples[b];
                    // SAFETY: work items have not started.
                    unsafe { dq.head(sample.q_at.0, h) }.part(sample.q_at.1, sample.q_len).fill(T::ZERO);
                }
            }
        }
        for gradient in [self.dk, self.dv].into_iter().flatten() {
            for (kv, _) in by_key_head.iter().enumerate().filter(|(_, pairs)| pairs.is_empty()) {
                // SAFETY: as above.
                unsafe { self.key_gradient(gradient, kv) }.fill(T::ZERO);
            }
            // Key rows of a packed tensor that belong to no sample.
            let covered = call.samples.last().map_or(0, |sample| sample.k_at.1 + sample.sight.keys);
            for h in (0..call.kv_heads).filter(|_| call.is_packed()) {
                // SAFETY: as above.
                let mut head = unsafe { gradient.head(0, h) };
                let rows = head.rows();
                head.range(covered, rows - covered).fill(T::ZERO);
            }
        }
    }

    /// A sample's rows of dk or dv.
    ///
    /// # Safety
    /// As [`Sink::head`].
    unsafe fn key_gradient<'s>(&self, sink: Sink<'s, T>, kv: usize) -> HeadMut<'s, T> {
        let (b, h) = (kv / self.call.kv_heads, kv % self.call.kv_heads);
        let (batch, start) = self.call.samples[b].k_at;
        // SAFETY: the caller's promise.
        unsafe { sink.head(batch, h) }.part(start, self.key_rows(b))
    }

    /// All gradients of one key head and the query heads that read it.
    fn key_head(
        &self,
        kv: usize,
        pairs: &[usize],
        first_tile: &[usize],
        sums: &[Mutex<Sums>],
        scratch: &mut Scratch,
    ) {
        if pairs.is_empty() {
            return;
        }
        let keys = self.call.samples[kv / self.call.kv_heads].sight.keys;
        // SAFETY: one item per key head, and this is the only part of it that runs.
        let mut heads =
            [self.dk, self.dv].map(|sink| sink.map(|sink| unsafe { self.key_gradient(sink, kv) }));
        let mut aside: [Vec<T>; 2] = Default::default();
        for (head, aside) in heads.iter_mut().zip(&mut aside) {
            let Some(head) = head else { continue };
            match head.in_place() {
                Some(mut rows) => rows.zero(),
                None => *aside = vec![T::ZERO; keys * head.dim()],
            }
        }
        for &pair in pairs {
            let (b, _) = self.call.pairs[pair];
            for (n, query) in (0..self.call.samples[b].q_len).step_by(QUERY_TILE).enumerate() {
                let [dk, dv] = &mut heads;
                let [dk_aside, dv_aside] = &mut aside;
                let targets = (target(dk, dk_aside, keys), target(dv, dv_aside, keys));
                self.query_tile(pair, query, sums.get(first_tile[pair] + n), targets, scratch);
            }
        }
        for (head, aside) in heads.iter_mut().zip(&aside) {
            let Some(head) = head.as_mut().filter(|_| !aside.is_empty() || keys == 0) else { continue };
            let (dim, rows) = (head.dim(), head.rows());
            aside.chunks_exact(dim).enumerate().for_each(|(i, row)| head.write(i, row));
            head.range(keys, rows - keys).fill(T::ZERO);
        }
    }

    /// One tile of queries of an active pair. Adds to `keys`, which then must be this item's alone.
    fn query_tile(
        &self,
        pair: usize,
        query: usize,
        sums: Option<&Mutex<Sums>>,
        keys: Keys<'_, T>,
        scratch: &mut Scratch,
    ) {
        let call = self.call;
        let (b, h) = call.pairs[pair];
        let (sample, kv) = (call.samples[b], h / call.group);
        let count = QUERY_TILE.min(sample.q_len - query);
        let (batch, first) = (sample.q_at.0, sample.q_at.1 + query);
        // SAFETY: pairs are distinct and so are the tiles of a pair.
        let [dq, drow_scale] =
            [self.dq, self.drow_scale].map(|sink| Some(unsafe { sink?.head(batch, h) }.part(first, count)));
        let mut nothing = Sums::default();
        let mut guard = sums.map(|sums| sums.lock().unwrap_or_else(PoisonError::into_inner));
        T::dispatch(
            call.arch,
            QueryTile {
                q: call.query_head(b, h).range(query, count),
                grad: call.rows_of(&self.grad, b, h).range(query, count),
                terms: self.saved.of(pair).range(query, count),
                k: call.key_head(b, kv),
                v: call.value_head(b, kv),
                key_norms: call.key_norms(b, kv),
                query,
                sight: sample.sight,
                grade: call.grade(b, h, 1).at_query(query),
                dq,
                drow_scale,
                want: self.want,
                sums: guard.as_deref_mut().unwrap_or(&mut nothing),
                dk: keys.0,
                dv: keys.1,
                scratch,
            },
        );
    }

    /// One tile of keys.
    fn key_tile(&self, kv: usize, key: usize, pairs: &[usize], scratch: &mut Scratch) {
        let call = self.call;
        let (b, kv_head) = (kv / call.kv_heads, kv % call.kv_heads);
        if pairs.is_empty() {
            return;
        }
        let slots = KEY_TILE.min(self.key_rows(b) - key);
        let count = call.samples[b].sight.keys.saturating_sub(key).min(slots);
        // SAFETY: the tiles of a key head are distinct: no other item uses these rows.
        let [mut dk, mut dv] =
            [self.dk, self.dv].map(|sink| Some(unsafe { self.key_gradient(sink?, kv) }.part(key, slots)));
        for gradient in [&mut dk, &mut dv].into_iter().flatten() {
            gradient.range(count, slots - count).fill(T::ZERO);
        }
        if count == 0 {
            return;
        }
        let reader = |&pair: &usize| {
            let h = call.pairs[pair].1;
            Reader {
                q: call.query_head(b, h),
                grad: call.rows_of(&self.grad, b, h),
                terms: self.saved.of(pair),
                grade: call.grade(b, h, 1),
            }
        };
        let readers: Vec<Reader<'_, T>> = pairs.iter().map(reader).collect();
        T::dispatch(
            call.arch,
            KeyTile {
                k: call.key_head(b, kv_head).range(key, count),
                v: call.value_head(b, kv_head).range(key, count),
                key_norms: call.key_norms(b, kv_head).get(key..key + count).unwrap_or(&[]),
                key,
                sight: call.samples[b].sight,
                readers: &readers,
                dk: dk.map(|head| head.part(0, count)),
                dv: dv.map(|head| head.part(0, count)),
                scratch,
            },
        );
    }
}

/// Where the sums of a key head's gradients are kept.
fn target<'s, T: Real>(
    head: &'s mut Option<HeadMut<'_, T>>,
    aside: &'s mut [T],
    keys: usize,
) -> Option<RowsMut<'s, T>> {
    let head = head.as_mut()?;
    let dim = head.dim();
    Some(if head.is_in_place() { head.in_place()? } else { RowsMut::of(aside, keys, dim, dim) })
}

/// Gradients of sinks, slopes, additive weights and scale: sums over tiles in order.
fn options<T: Real>(
    problem: &Problem<'_>,
    call: &Call<'_, T>,
    saved: &SavedRows<T>,
    sums: &[Mutex<Sums>],
    gradients: &mut AttentionGradientViews<'_>,
) -> Result<()> {
    let op = problem.op;
    let tiles =
        call.pairs.iter().flat_map(|&(b, h)| (0..call.samples[b].q_len).step_by(QUERY_TILE).map(move |_| h));
    let (mut scale, mut slopes) = (0.0, vec![0.0; call.q_heads]);
    let own = gradients.dw.as_ref().is_some_and(|dw| dw.view().shape().len() == 2);
    let mut weights = vec![0.0; if own { call.q_heads } else { 1 } * call.head_dim];
    for (h, sums) in tiles.zip(sums) {
        let sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
        scale += sums.scale;
        slopes[h] += sums.slope;
        let weights = &mut weights[if own { h * call.head_dim } else { 0 }..];
        weights.iter_mut().zip(&sums.weights).for_each(|(w, x)| *w += x);
    }
    let mut sinks = vec![0.0; call.q_heads];
    if let Some(values) = call.sinks.as_ref().filter(|_| gradients.dsinks.is_some()) {
        for (index, &(_, h)) in call.pairs.iter().enumerate() {
            let terms = saved.of(index);
            let sink = values[h].wide();
            for (shift, delta) in terms.shift.iter().zip(terms.delta) {
                // A sink of −∞ has no weight, whatever the row is.
                if sink != f64::NEG_INFINITY {
                    sinks[h] -= (sink - shift.wide()).exp2() * delta.wide();
                }
            }
        }
    }
    let minus = matches!(problem.score, Score::Gaussian { .. });
    let scale = [if minus { -scale } else { scale }];
    for (arg, tensor, values) in [
        ("dscale", &mut gradients.dscale, &scale[..]),
        ("dalibi", &mut gradients.dalibi, &slopes),
        ("dw", &mut gradients.dw, &weights),
        ("dsinks", &mut gradients.dsinks, &sinks),
    ] {
        let Some(tensor) = tensor else { continue };
        let layout = *tensor.as_ref().layout();
        let base = tensor
            .cpu_ptr::<T>()
            .ok_or_else(|| Error::argument(op, arg, "is not in host memory in the accumulator's type"))?;
        for (index, &value) in layout.indices().zip(values) {
            let at = base.wrapping_add(index - layout.offset());
            // SAFETY: an index of the layout, whose memory is borrowed exclusively.
            unsafe { at.write(T::of(value)) };
        }
    }
    Ok(())
}
