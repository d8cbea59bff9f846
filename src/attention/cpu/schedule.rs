//! The forward pass cut into work items: tiles of queries, and parts of long caches for the few queries of decoding.

use super::call::Call;
use super::forward::{ForwardTile, KEY_TILE, Output, QUERY_TILE, combine};
use super::lanes::{Real, Scratch};
use super::source::Sink;
use crate::attention::plan::Tiles;
use crate::attention::{Forward, Problem};
use crate::dtype::DType;
use crate::error::Result;
use pulp::Arch;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Below this many multiplications a call runs on the caller's thread: waking others costs more.
pub(super) const INLINE_BELOW: u64 = 1 << 21;

/// A sample with at most so many queries and more than `PART_KEYS` keys has its keys cut into parts, so that all threads work
/// on one head. Both numbers are part of the result's definition: it depends on the sample's own lengths and nothing else.
const FEW_QUERIES: usize = 8;
/// Keys of a part.
const PART_KEYS: usize = 1024;

/// Runs `item` for every index below `count`, each with a scratch of its thread.
pub(super) fn for_each(count: usize, multiplications: u64, item: impl Fn(usize, &mut Scratch) + Sync) {
    if count <= 1 || multiplications < INLINE_BELOW || rayon::current_num_threads() == 1 {
        let mut scratch = Scratch::default();
        (0..count).for_each(|i| item(i, &mut scratch));
    } else {
        (0..count).into_par_iter().for_each_init(Scratch::default, |scratch, i| item(i, scratch));
    }
}

/// Multiplications of one product of scores and vectors of `dims` elements, for all pairs; masks are not looked at.
pub(super) fn multiplications<T: Real>(call: &Call<'_, T>, dims: usize) -> u64 {
    let of = |&(b, _): &(usize, usize)| {
        let sample = &call.samples[b];
        (sample.q_len as u64).saturating_mul(sample.sight.keys as u64)
    };
    call.pairs.iter().map(of).fold(0, u64::saturating_add).saturating_mul(dims as u64)
}

/// Some queries of one pair, or the only query of several, over some of their keys.
struct Item {
    b: usize,
    h: usize,
    /// More than 1: one query each.
    heads: usize,
    query: usize,
    count: usize,
    keys: Range<usize>,
    /// Where its partial result goes, if the keys are cut.
    part: Option<usize>,
}

/// Rows whose keys are cut: the parts of row r of `rows` start at `start + r·(2 + value_dim)` and are `stride` apart.
struct Cut {
    b: usize,
    h: usize,
    heads: usize,
    rows: usize,
    start: usize,
    stride: usize,
    parts: usize,
}

fn plan<T: Real>(call: &Call<'_, T>) -> (Vec<Item>, Vec<Cut>, usize) {
    let (mut items, mut cuts, mut room) = (Vec::new(), Vec::new(), 0);
    let mut next = 0;
    while let Some(&(b, h)) = call.pairs.get(next) {
        let (q_len, keys) = (call.samples[b].q_len, call.samples[b].sight.keys);
        // The one query of each head of a group reads the same keys: they share a tile, unless each has weights of its own.
        let heads = if q_len == 1 && !call.chosen && !call.has_weights_by_head() {
            call.group.min(QUERY_TILE).min(call.group - h % call.group)
        } else {
            1
        };
        next += heads;
        let rows = if heads > 1 { heads } else { q_len };
        if q_len > FEW_QUERIES || keys <= PART_KEYS {
            for query in (0..rows).step_by(QUERY_TILE) {
                let count = QUERY_TILE.min(rows - query);
                let query = if heads > 1 { 0 } else { query };
                items.push(Item { b, h, heads, query, count, keys: 0..keys, part: None });
            }
            continue;
        }
        let (parts, stride) = (keys.div_ceil(PART_KEYS), rows * (2 + call.value_dim));
        for part in 0..parts {
            let keys = part * PART_KEYS..keys.min((part + 1) * PART_KEYS);
            items.push(Item { b, h, heads, query: 0, count: rows, keys, part: Some(room + part * stride) });
        }
        cuts.push(Cut { b, h, heads, rows, start: room, stride, parts });
        room += parts * stride;
    }
    (items, cuts, room)
}

pub(super) fn run<T: Real>(arch: Arch, problem: &Problem<'_>, outputs: &mut Forward<'_>) -> Result<()> {
    let op = problem.op;
    let call = Call::<T>::new(arch, problem)?;
    let (o, lse) = (Sink::new(op, "o", &mut outputs.o)?, Sink::new(op, "lse", &mut outputs.lse)?);
    let (items, cuts, room) = plan(&call);
    let mut parts = vec![T::ZERO; room];
    let mut places: Vec<Mutex<&mut [T]>> = Vec::new();
    let mut rest = parts.as_mut_slice();
    for item in items.iter() {
        let size = if item.part.is_some() { item.count * (2 + call.value_dim) } else { 0 };
        let (place, tail) = std::mem::take(&mut rest).split_at_mut(size);
        places.push(Mutex::new(place));
        rest = tail;
    }
    let rows = |b: usize, h: usize, heads: usize, query: usize, count: usize| {
        let (batch, start) = call.samples[b].q_at;
        // SAFETY: items and cuts name disjoint rows, and cuts start when the items are done.
        unsafe {
            if heads > 1 {
                (o.across_heads(batch, h, heads, start), lse.across_heads(batch, h, heads, start))
            } else {
                (o.head(batch, h).part(start + query, count), lse.head(batch, h).part(start + query, count))
            }
        }
    };
    let row_scale = |b: usize, h: usize| call.row_scale.map(|source| call.rows_of(&source, b, h));
    let work = multiplications(&call, call.head_dim + call.value_dim);
    for_each(items.len(), work, |index, scratch| {
        let Item { b, h, heads, query, count, ref keys, part } = items[index];
        let sample = call.samples[b];
        let mut sight = sample.sight;
        if heads > 1 || part.is_some() {
            let all = sight;
            (sight.first, sight.keys) = (keys.start, keys.end);
            if heads > 1 {
                // All rows stand where query 0 does.
                let seen = all.visible(0);
                let end = seen.end.clamp(keys.start, keys.end);
                (sight.first, sight.keys) = (seen.start.clamp(keys.start, end), end);
                (sight.left, sight.right) = (None, None);
            }
        }
        let q = if heads > 1 {
            call.q.across_heads(sample.q_at.0, h, heads, sample.q_at.1)
        } else {
            call.query_head(b, h).range(query, count)
        };
        let mut place = places[index].lock().unwrap_or_else(PoisonError::into_inner);
        let output = if part.is_some() {
            Output::Part(&mut place)
        } else {
            let (o, lse) = rows(b, h, heads, query, count);
            Output::Rows { o, lse }
        };
        let (kv, grade) = (h / call.group, call.grade(b, h, heads));
        T::dispatch(
            call.arch,
            ForwardTile {
                q,
                k: call.key_head(b, kv),
                v: call.value_head(b, kv),
                query,
                sight,
                kind: grade.kind,
                scale: grade.scale2,
                key_terms: call.key_norms(b, kv),
                stage: grade.stage.at_query(query),
                // Of a cut row, the sink is seen when the parts are joined.
                sinks: call.sinks.as_ref().filter(|_| part.is_none()).map(|sinks| &sinks[h..h + heads]),
                row_scale: row_scale(b, h).map(|rows| rows.range(query, count)).filter(|_| part.is_none()),
                output,
                scratch,
            },
        );
    });
    drop(places);
    for_each(cuts.len(), (room as u64).saturating_mul(4), |index, _| {
        let Cut { b, h, heads, rows: count, start, stride, parts: number } = cuts[index];
        let (mut o, mut lse) = rows(b, h, heads, 0, count);
        let mut out = vec![T::ZERO; call.value_dim];
        for row in 0..count {
            let sink = call.sinks.as_ref().map(|sinks| sinks[h + if heads > 1 { row } else { 0 }]);
            let factor = row_scale(b, h).map_or(T::ONE, |rows| rows.number(row));
            let parts = &parts[start + row * (2 + call.value_dim)..];
            lse.set(row, combine(parts, stride, number, sink, factor, &mut out));
            o.write(row, &out);
        }
    });
    uncovered(problem, &call, |batch, h, row, rows| {
        // SAFETY: no item writes these rows.
        unsafe {
            o.head(batch, h).part(row, rows).fill(T::ZERO);
            lse.head(batch, h).part(row, rows).fill(T::NEG_INFINITY);
        }
    });
    Ok(())
}

/// The forward pass's tiles: all there are, and those some query sees.
pub(in crate::attention) fn tiles(problem: &Problem<'_>) -> Result<Tiles> {
    match problem.accumulator {
        DType::F64 => tiles_of::<f64>(problem),
        _ => tiles_of::<f32>(problem),
    }
}

fn tiles_of<T: Real>(problem: &Problem<'_>) -> Result<Tiles> {
    let call = Call::<T>::without_norms(Arch::new(), problem)?;
    let (items, cuts, _) = plan(&call);
    let (mut visited, mut total) = (0, 0);
    for item in &items {
        let all = call.samples[item.b].sight;
        let rows = if item.heads > 1 { 1 } else { item.count };
        let seen = all.visible_to(item.query..item.query + rows);
        let (start, end) = (seen.start.max(item.keys.start), seen.end.min(item.keys.end));
        total += item.keys.len().div_ceil(KEY_TILE) as u64;
        let stage = call.grade(item.b, item.h, item.heads).stage.at_query(item.query);
        for key in (start / KEY_TILE * KEY_TILE..end).step_by(KEY_TILE) {
            visited += u64::from(!stage.mask_hides(item.count, key, KEY_TILE.min(end - key)));
        }
    }
    let name = problem.score_name();
    let mut variant =
        format!("{name} scores of {}, {:?}, {} work items", problem.dtype, call.arch, items.len());
    if !cuts.is_empty() {
        variant.push_str(&format!(", caches in parts of {PART_KEYS} keys"));
    }
    if items.iter().any(|item| item.heads > 1) {
        variant.push_str(", heads of a group in one tile");
    }
    Ok(Tiles { variant, tile: [QUERY_TILE, KEY_TILE], visited, total })
}

/// Calls `zero` for rows of a packed query tensor that belong to no sample: they attend to nothing.
pub(super) fn uncovered<T: Real>(
    problem: &Problem<'_>,
    call: &Call<'_, T>,
    zero: impl Fn(usize, usize, usize, usize),
) {
    let rows = problem.q.shape()[2];
    let covered = call.samples.last().map_or(0, |sample| sample.q_at.1 + sample.q_len);
    if problem.is_packed() && covered < rows {
        (0..call.q_heads).for_each(|h| zero(0, h, covered, rows - covered));
    }
}
