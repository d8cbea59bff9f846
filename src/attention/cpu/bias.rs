//! The gradient of the bias: gradients by the logits, summed over whatever the bias is repeated along.
//!
//! A pass of its own, two products for each pair: tiles of the bias are independent, and each sums its pairs, and its tiles
//! of queries and keys where those are repeated, in order.

use super::backward::{KEY_TILE, QUERY_TILE};
use super::call::Call;
use super::grade::{Buffers, Grade, Terms, WantSums, add_rows};
use super::gradients::SavedRows;
use super::kind::{Kind, Packed, outer};
use super::lanes::{Real, Scratch, vectors, vectors_mut};
use super::pack::pack_columns;
use super::schedule::{for_each, multiplications};
use super::sight::{Sight, Streamed, Tile};
use super::source::{Head, Source};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Memory, TensorRef};
use half::{bf16, f16};
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// A pair that reads a part of the bias.
struct Reader<'a, T> {
    q: Head<'a, T>,
    grad: Head<'a, T>,
    terms: Terms<'a, T>,
    k: Head<'a, T>,
    v: Head<'a, T>,
    key_norms: &'a [T],
    sight: Sight,
    /// Starts at query 0.
    grade: Grade<'a, T>,
}

/// Some rows and columns of one head's bias.
struct BiasTile<'a, T> {
    readers: &'a [Reader<'a, T>],
    /// All queries if the bias is the same for all, else those of a tile; the keys likewise.
    queries: Range<usize>,
    keys: Range<usize>,
    one_key: bool,
    /// `[KEY_TILE][QUERY_TILE]`, zeros: sums by key and lane.
    sums: &'a mut [T],
    scratch: &'a mut Scratch,
}

impl<T: Real> WithSimd for BiasTile<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for reader in self.readers {
            let end = self.queries.end.min(reader.q.rows());
            for query in (self.queries.start..end).step_by(QUERY_TILE) {
                let count = QUERY_TILE.min(end - query);
                pair::<S, T>(simd, reader, query, count, &self.keys, self.one_key, self.sums, self.scratch);
            }
        }
    }
}

/// Adds one tile of queries of one pair.
#[inline(always)]
fn pair<S: Simd, T: Real>(
    simd: S,
    reader: &Reader<'_, T>,
    query: usize,
    count: usize,
    keys: &Range<usize>,
    one_key: bool,
    sums: &mut [T],
    scratch: &mut Scratch,
) {
    let seen = reader.sight.visible_to(query..query + count);
    let (start, end) = (keys.start.max(seen.start / KEY_TILE * KEY_TILE), keys.end.min(seen.end));
    if start >= end {
        return;
    }
    let step = count.next_multiple_of(T::lanes::<S>());
    let (head_dim, value_dim) = (reader.q.dim(), reader.v.dim());
    let (grade, complex) = (reader.grade.at_query(query), reader.grade.kind.is_complex());
    let sizes = grade.sizes(KEY_TILE * step, WantSums::default());
    let turned_size = if complex { head_dim * step } else { 0 };
    let [
        queries,
        turned,
        norms,
        grads,
        p,
        ds,
        k_room,
        v_room,
        shift,
        delta,
        factor,
        raw,
        slope,
        keep,
        re,
        im,
        grid,
        extra,
    ] = scratch.parts([
        head_dim * step,
        turned_size,
        step,
        value_dim * step,
        KEY_TILE * step,
        KEY_TILE * step,
        reader.q.room(count).max(reader.k.room(KEY_TILE)),
        reader.grad.room(count).max(reader.v.room(KEY_TILE)),
        step,
        step,
        step,
        sizes[0],
        sizes[1],
        sizes[2],
        sizes[3],
        sizes[4],
        sizes[5],
        sizes[6],
    ]);
    let mut buffers = Buffers { raw, slope, keep, re, im, grid };
    pack_columns(simd, reader.q.tile(query, count, k_room), T::ONE, queries, step);
    pack_columns(simd, reader.grad.tile(query, count, v_room), T::ONE, grads, step);
    if complex {
        Kind::turn(Streamed::Keys, queries, turned, step);
    }
    let terms = reader.terms.range(query, count);
    for (padded, values) in [
        (&mut *shift, terms.shift),
        (&mut *delta, terms.delta),
        (&mut *norms, terms.norms),
        (&mut *factor, terms.factor.unwrap_or(&[])),
    ] {
        padded.fill(T::ZERO);
        padded[..values.len()].copy_from_slice(values);
    }
    let padded = Terms { shift, delta, factor: terms.factor.map(|_| &*factor), norms: &[] };
    let packed = Packed { plain: queries, turned, terms: norms };
    for key in (start..end).step_by(KEY_TILE) {
        let rows = KEY_TILE.min(end - key);
        let mut tile = Tile {
            sight: reader.sight,
            streamed: Streamed::Keys,
            key,
            query,
            rows,
            cols: count,
            hidden: None,
        };
        let (p, ds) = (&mut p[..rows * step], &mut ds[..rows * step]);
        let key_norms = reader.key_norms.get(key..key + rows).unwrap_or(&[]);
        let (k, v) = (reader.k.tile(key, rows, k_room), reader.v.tile(key, rows, v_room));
        let seen = grade.weights::<S, false>(
            simd,
            &mut tile,
            k,
            key_norms,
            packed,
            padded.shift,
            p,
            extra,
            &mut buffers,
            step,
        );
        if !seen {
            continue;
        }
        outer(simd, v, grads, ds, step);
        grade.drop(simd, ds, &buffers);
        grade.by_logit::<S, false>(simd, &tile, p, ds, padded, step);
        // Padding must not reach sums over lanes.
        ds.chunks_exact_mut(step).for_each(|row| row[count..].fill(T::ZERO));
        if one_key {
            add_rows::<S, T>(simd, ds, step, &mut sums[..step]);
            continue;
        }
        for (row, ds) in ds.chunks_exact(step).enumerate() {
            let at = (key - keys.start + row) * QUERY_TILE;
            let sums = vectors_mut::<S, T>(&mut sums[at..at + step]).iter_mut();
            sums.zip(vectors::<S, T>(ds)).for_each(|(sum, &ds)| *sum = T::vadd(simd, *sum, ds));
        }
    }
}

/// Writes the gradient of the bias to `dbias`, of the bias's shape.
pub(super) fn run<T: Real>(
    call: &Call<'_, T>,
    grad: &Source<'_, T>,
    saved: &SavedRows<T>,
    dbias: &TensorRef<'_>,
    op: &'static str,
) -> Result<()> {
    let out = Out::new(op, dbias)?;
    let [batch, heads, rows, keys] = out.shape;
    let (row_tiles, key_tiles) = (rows.div_ceil(QUERY_TILE), keys.div_ceil(KEY_TILE));
    let items = batch * heads * row_tiles * key_tiles;
    let work = multiplications(call, call.head_dim + call.value_dim);
    // Whether a dimension of the bias stands for all of the call's.
    let all = |size: usize, whole: usize| size == 1 && whole != 1;
    let (one_row, one_key) = (all(rows, call.queries()), all(keys, call.kv_slots()));
    for_each(items, work, |item, scratch| {
        let (key, row) = (item % key_tiles * KEY_TILE, item / key_tiles % row_tiles * QUERY_TILE);
        let (b, h) = (item / (key_tiles * row_tiles) / heads, item / (key_tiles * row_tiles) % heads);
        let pairs = call
            .pairs
            .iter()
            .enumerate()
            .filter(|(_, pair)| (batch == 1 || pair.0 == b) && (heads == 1 || pair.1 == h));
        let reader = |(index, &(b, h)): (usize, &(usize, usize))| Reader {
            q: call.query_head(b, h),
            grad: call.rows_of(grad, b, h),
            terms: saved.of(index),
            k: call.key_head(b, h / call.group),
            v: call.value_head(b, h / call.group),
            key_norms: call.key_norms(b, h / call.group),
            sight: call.samples[b].sight,
            grade: call.grade(b, h, 1),
        };
        let readers: Vec<Reader<'_, T>> = pairs.map(reader).collect();
        let mut sums = vec![T::ZERO; QUERY_TILE * KEY_TILE];
        T::dispatch(
            call.arch,
            BiasTile {
                readers: &readers,
                queries: if one_row { 0..call.queries() } else { row..(row + QUERY_TILE).min(rows) },
                keys: if one_key { 0..call.kv_slots() } else { key..(key + KEY_TILE).min(keys) },
                one_key,
                sums: &mut sums,
                scratch,
            },
        );
        for (j, sums) in sums.chunks_exact(QUERY_TILE).enumerate().take(keys - key) {
            if one_row {
                // SAFETY: items name disjoint elements.
                unsafe { out.write(b, h, 0, key + j, sums.iter().copied().sum::<T>()) };
                continue;
            }
            for (i, &sum) in sums.iter().enumerate().take(rows - row) {
                // SAFETY: as above.
                unsafe { out.write(b, h, row + i, key + j, sum) };
            }
        }
    });
    Ok(())
}

/// The tensor to write, of any strides and element type.
struct Out {
    base: *mut u8,
    dtype: DType,
    shape: [usize; 4],
    steps: [usize; 4],
}

// SAFETY: stands for a mutable slice; `write`'s contract keeps threads apart.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
    fn new(op: &'static str, tensor: &TensorRef<'_>) -> Result<Self> {
        let (layout, dtype) = (tensor.layout(), tensor.dtype());
        let shape = layout
            .shape()
            .try_into()
            .map_err(|_| Error::shape(op, "dbias", "four dimensions", layout.shape()))?;
        match tensor.memory() {
            Memory::Cpu { base, .. } => Ok(Self {
                base: base.wrapping_add(layout.offset() * dtype.size()),
                dtype,
                shape,
                steps: std::array::from_fn(|i| layout.step(i)),
            }),
            // Validation lets only tensors of one device through, so this is not seen by callers.
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            _ => Err(Error::argument(op, "dbias", "is not in host memory")),
        }
    }

    /// # Safety
    /// No other thread writes this element at the same time.
    unsafe fn write<T: Real>(&self, b: usize, h: usize, i: usize, j: usize, value: T) {
        let [batch, heads, rows, keys] = self.shape;
        assert!(b < batch && h < heads && i < rows && j < keys);
        let at = b * self.steps[0] + h * self.steps[1] + i * self.steps[2] + j * self.steps[3];
        let at = self.base.wrapping_add(at * self.dtype.size());
        let value = value.wide();
        // SAFETY: an element of the layout, which lies inside the memory that the caller of `run` borrowed exclusively.
        unsafe {
            match self.dtype {
                DType::F32 => at.cast::<f32>().write(value as f32),
                DType::F64 => at.cast::<f64>().write(value),
                DType::F16 => at.cast::<f16>().write(f16::from_f64(value)),
                _ => at.cast::<bf16>().write(bf16::from_f64(value)),
            }
        }
    }
}
