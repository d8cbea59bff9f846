//! What happens to scores between the product and the softmax: soft cap, bias, mask, ALiBi; and to weights after it: dropout.
//!
//! Everything is in base 2, as the exponents are, and laid out as the score tile is. Bias, mask and random words are read along
//! their rows (queries) and transposed where the tile has queries across its columns.

use super::lanes::{Real, outlined, tanh, vectors, vectors_mut};
use super::pack::pack_columns;
use super::sight::{Streamed, Tile};
use super::views::Rows;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Memory, TensorRef};
use half::{bf16, f16};
use pulp::Simd;
use std::marker::PhantomData;

/// Most queries or keys of a tile that go through [`Stage`].
pub(super) const TILE: usize = 128;

/// A `[batch|1, heads|1, queries|1, keys|1]` tensor.
#[derive(Clone, Copy)]
pub(super) struct Grid<'a> {
    base: *const u8,
    dtype: DType,
    steps: [usize; 4],
    shape: [usize; 4],
    borrow: PhantomData<&'a [u8]>,
}

// SAFETY: stands for a slice that is only read.
unsafe impl Send for Grid<'_> {}
// SAFETY: as above.
unsafe impl Sync for Grid<'_> {}

impl<'a> Grid<'a> {
    /// `tensor`: rank 4, in host memory, f32, f64, f16, bf16 or bytes.
    pub(super) fn new(op: &'static str, arg: &'static str, tensor: &TensorRef<'a>) -> Result<Self> {
        let (layout, dtype) = (tensor.layout(), tensor.dtype());
        let shape: [usize; 4] = layout
            .shape()
            .try_into()
            .map_err(|_| Error::shape(op, arg, "four dimensions", tensor.shape()))?;
        match tensor.memory() {
            Memory::Cpu { base, .. } => Ok(Self {
                base: base.wrapping_add(layout.offset() * dtype.size()).cast_const(),
                dtype,
                steps: std::array::from_fn(|i| layout.step(i)),
                shape,
                borrow: PhantomData,
            }),
            // Validation lets only tensors of one device through, so this is not seen by callers.
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            _ => Err(Error::argument(op, arg, "is not in host memory")),
        }
    }

    /// The part of one pair; rows are heads, all at query 0, if `by_head`.
    pub(super) fn of(&self, b: usize, h: usize, by_head: bool) -> Slice<'a> {
        let at = b * self.steps[0] + h * self.steps[1];
        let row = if by_head { 1 } else { 2 };
        Slice {
            base: self.base.wrapping_add(at * self.dtype.size()),
            dtype: self.dtype,
            steps: [self.steps[row], self.steps[3]],
            rows: if self.shape[row] == 1 { usize::MAX } else { self.shape[row] },
            keys: if self.shape[3] == 1 { usize::MAX } else { self.shape[3] },
            start: if by_head { h } else { 0 },
            borrow: PhantomData,
        }
    }
}

/// Rows and keys of a [`Grid`] for one tile of queries.
#[derive(Clone, Copy)]
pub(super) struct Slice<'a> {
    base: *const u8,
    dtype: DType,
    steps: [usize; 2],
    rows: usize,
    keys: usize,
    start: usize,
    borrow: PhantomData<&'a [u8]>,
}

impl Slice<'_> {
    /// Whether every row is the same.
    fn one_row(&self) -> bool {
        self.steps[0] == 0
    }

    /// The same from row `row` on.
    #[inline(always)]
    fn at_row(&self, row: usize) -> Self {
        let base = self.base.wrapping_add(row * self.steps[0] * self.dtype.size());
        Self { base, start: self.start + row, ..*self }
    }

    /// Pointer to key `key` of row `row`, `count` keys of which are inside.
    #[inline(always)]
    fn at(&self, row: usize, key: usize, count: usize) -> *const u8 {
        assert!(self.start + row < self.rows && key + count <= self.keys);
        self.base.wrapping_add((row * self.steps[0] + key * self.steps[1]) * self.dtype.size())
    }

    /// A bias in base 2: `out[n] = log2(e) · self[row][key + n]`.
    #[inline(always)]
    fn read<T: Real>(&self, row: usize, key: usize, out: &mut [T]) {
        let (at, step) = (self.at(row, key, out.len()), self.steps[1]);
        let factor = T::of(std::f64::consts::LOG2_E);
        // Only −∞ itself hides: a large finite bias must not become it.
        let convert = |x: T| if x == T::NEG_INFINITY { x } else { larger(x * factor, T::LOWEST) };
        // SAFETY: `at` has checked that the keys are inside the tensor, whose layout is inside its memory.
        unsafe {
            match self.dtype {
                DType::F32 => each(at.cast::<f32>(), step, out, |_, x| convert(T::of(x.into()))),
                DType::F64 => each(at.cast::<f64>(), step, out, |_, x| convert(T::of(x))),
                DType::F16 => each(at.cast::<f16>(), step, out, |_, x| convert(T::of(x.to_f64()))),
                _ => each(at.cast::<bf16>(), step, out, |_, x| convert(T::of(x.to_f64()))),
            }
        }
    }

    /// A mask: −∞ where it is 0.
    #[inline(always)]
    fn hide<T: Real>(&self, row: usize, key: usize, out: &mut [T]) {
        let at = self.at(row, key, out.len());
        // SAFETY: as in `read`.
        unsafe { each(at, self.steps[1], out, |old, x: u8| if x == 0 { T::NEG_INFINITY } else { old }) };
    }

    /// Whether some, and whether all, of a mask's bytes are 0.
    #[inline(always)]
    fn hides(&self, rows: usize, key: usize, count: usize) -> (bool, bool) {
        let (mut least, mut most) = (u8::MAX, 0);
        for row in 0..if self.one_row() { 1 } else { rows } {
            let at = self.at(row, key, count);
            if self.steps[1] == 1 {
                // SAFETY: as in `read`.
                let bytes = unsafe { std::slice::from_raw_parts(at, count) };
                for &byte in bytes {
                    least = least.min(byte);
                    most = most.max(byte);
                }
            } else {
                for n in 0..if self.steps[1] == 0 { 1 } else { count } {
                    // SAFETY: as in `read`.
                    let byte = unsafe { at.add(n * self.steps[1]).read() };
                    least = least.min(byte);
                    most = most.max(byte);
                }
            }
        }
        (least == 0, most == 0)
    }
}

/// `a` if it is larger than `b` or NaN, else `b`.
#[inline(always)]
fn larger<T: Real>(a: T, b: T) -> T {
    if a < b { b } else { a }
}

/// `out[n] = f(out[n], from[n · step])`
///
/// # Safety
/// As many elements are readable, aligned, from `from` on.
#[inline(always)]
unsafe fn each<X: Copy, T: Real>(from: *const X, step: usize, out: &mut [T], f: impl Fn(T, X) -> T) {
    // SAFETY: the caller's promise.
    unsafe {
        match step {
            1 => {
                let from = std::slice::from_raw_parts(from, out.len());
                out.iter_mut().zip(from).for_each(|(out, &x)| *out = f(*out, x));
            }
            0 => {
                let x = from.read();
                out.iter_mut().for_each(|out| *out = f(*out, x));
            }
            _ => out.iter_mut().enumerate().for_each(|(n, out)| *out = f(*out, from.add(n * step).read())),
        }
    }
}

/// Dropout of one pair's weights.
#[derive(Clone, Copy)]
pub(super) struct Drop<T> {
    pub(super) seed: u64,
    pub(super) offset: u64,
    /// Words below this drop.
    pub(super) below: u32,
    /// 1/(1 − p)
    pub(super) keep: T,
    /// Logical index of (first query of the tile, key 0), and from a query to the next.
    pub(super) index: u64,
    pub(super) step: u64,
}

/// All of it for one tile of queries (or for all queries of a pair, from 0).
#[derive(Clone, Copy)]
pub(super) struct Stage<'a, T> {
    /// Base 2.
    pub(super) softcap: Option<T>,
    pub(super) bias: Option<Slice<'a>>,
    pub(super) mask: Option<Slice<'a>>,
    /// ALiBi slopes in base 2: one, or one a row if rows are heads.
    pub(super) slopes: Option<&'a [T]>,
    /// Position of the first query; rows that are heads all stand there.
    pub(super) position: i64,
    pub(super) by_head: bool,
    pub(super) dropout: Option<Drop<T>>,
}

/// What [`Stage::addend`] found.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Addend {
    /// Nothing to add.
    Nothing,
    /// Finite numbers.
    Plain,
    /// Some are −∞.
    Hides,
    /// The mask hides the whole tile.
    HidesAll,
}

impl<T: Real> Stage<'_, T> {
    /// The same from a later query on.
    pub(super) fn at_query(self, query: usize) -> Self {
        Self {
            bias: self.bias.map(|bias| bias.at_row(query)),
            mask: self.mask.map(|mask| mask.at_row(query)),
            position: self.position + query as i64,
            dropout: self.dropout.map(|drop| Drop { index: drop.index + query as u64 * drop.step, ..drop }),
            ..self
        }
    }

    /// Whether scores reach the softmax unchanged.
    pub(super) fn keeps_scores(&self) -> bool {
        self.softcap.is_none() && self.bias.is_none() && self.mask.is_none() && self.slopes.is_none()
    }

    /// Whether the mask hides `count` keys from `key` on from the first `rows` rows.
    pub(super) fn mask_hides(&self, rows: usize, key: usize, count: usize) -> bool {
        self.mask.is_some_and(|mask| mask.hides(rows, key, count).1)
    }

    /// Whether bias or mask hides a key from row `row`, counted from where `self` starts.
    pub(super) fn hides(&self, row: usize, key: usize) -> bool {
        let mut value = [T::ZERO];
        if let Some(bias) = self.bias {
            bias.read(row, key, &mut value);
        }
        if let Some(mask) = self.mask {
            mask.hide(row, key, &mut value);
        }
        value[0] == T::NEG_INFINITY
    }

    /// Bias and mask of a tile into `extra`, as the tile is laid out. `room`: `TILE · TILE`.
    #[inline(always)]
    pub(super) fn addend<S: Simd>(
        &self,
        simd: S,
        tile: &Tile<'_, T>,
        extra: &mut [T],
        step: usize,
        room: &mut [T],
    ) -> Addend {
        let mut found = Addend::Nothing;
        simd.vectorize(Adding { stage: *self, tile: *tile, extra, step, room, found: &mut found });
        found
    }

    #[inline(always)]
    fn find_addend<S: Simd>(
        &self,
        simd: S,
        tile: &Tile<'_, T>,
        extra: &mut [T],
        step: usize,
        room: &mut [T],
    ) -> Addend {
        let (queries, keys) = match tile.streamed {
            Streamed::Keys => (tile.cols, tile.rows),
            Streamed::Queries => (tile.rows, tile.cols),
        };
        // `self` starts at the tile's first query, or at query 0 when queries are streamed.
        let first = if tile.streamed == Streamed::Keys { 0 } else { tile.query };
        let mask = self.mask.map(|mask| mask.at_row(first));
        let (hides, hides_all) = mask.map_or((false, false), |mask| mask.hides(queries, tile.key, keys));
        if hides_all {
            return Addend::HidesAll;
        }
        let mask = mask.filter(|_| hides);
        let bias = self.bias.map(|bias| bias.at_row(first));
        if mask.is_none() && bias.is_none() {
            return Addend::Nothing;
        }
        let one = [bias, mask].into_iter().flatten().all(|slice| slice.one_row());
        let row = |i: usize, out: &mut [T]| {
            match bias {
                Some(bias) => bias.read(i, tile.key, out),
                None => out.fill(T::ZERO),
            }
            if let Some(mask) = mask {
                mask.hide(i, tile.key, out);
            }
        };
        if tile.streamed == Streamed::Queries {
            for (i, out) in extra.chunks_exact_mut(step).take(queries).enumerate() {
                row(i, &mut out[..keys]);
                out[keys..].fill(T::ZERO);
            }
        } else if one {
            let values = &mut room[..keys];
            row(0, values);
            extra.chunks_exact_mut(step).zip(values).for_each(|(out, &mut x)| out.fill(x));
        } else {
            for (i, out) in room.chunks_exact_mut(keys).take(queries).enumerate() {
                row(i, out);
            }
            pack_columns(simd, Rows::of(room, queries, keys, keys), T::ONE, extra, step);
        }
        let hides = hides || (bias.is_some() && extra.contains(&T::NEG_INFINITY));
        if hides { Addend::Hides } else { Addend::Plain }
    }

    /// Scores times `factor`, in base 2, become logits. `slope`: d capped / d score, if there is a cap and somebody asks.
    #[inline(always)]
    pub(super) fn apply<S: Simd>(
        &self,
        simd: S,
        tile: &Tile<'_, T>,
        scores: &mut [T],
        factor: T,
        extra: Option<&[T]>,
        step: usize,
        slope: Option<&mut [T]>,
    ) {
        simd.vectorize(Applying { stage: *self, tile: *tile, scores, factor, extra, step, slope });
    }

    #[inline(always)]
    fn apply_inline<S: Simd>(
        &self,
        simd: S,
        tile: &Tile<'_, T>,
        scores: &mut [T],
        factor: T,
        extra: Option<&[T]>,
        step: usize,
        mut slope: Option<&mut [T]>,
    ) {
        let lanes = T::lanes::<S>();
        let splat = |x: T| T::splat(simd, x);
        let c = splat(factor);
        let cap = self.softcap.map(|cap| (splat(cap), splat(T::ONE / cap)));
        for (i, row) in vectors_mut::<S, T>(scores).chunks_exact_mut(step / lanes).enumerate() {
            if let Some((cap, inverse)) = cap {
                for (j, z) in row.iter_mut().enumerate() {
                    let t = tanh::<S, T>(simd, T::vmul(simd, T::vmul(simd, c, *z), inverse));
                    *z = T::vmul(simd, cap, t);
                    if let Some(slope) = &mut slope {
                        let t = T::mul_add(simd, T::negative(simd, t), t, splat(T::ONE));
                        vectors_mut::<S, T>(slope)[i * (step / lanes) + j] = t;
                    }
                }
            } else if factor != T::ONE {
                row.iter_mut().for_each(|z| *z = T::vmul(simd, c, *z));
            }
            if self.slopes.is_some() {
                let mut terms = [T::ZERO; TILE];
                self.distances(tile, i, &mut terms[..step], true);
                for (z, term) in row.iter_mut().zip(vectors::<S, T>(&terms[..step])) {
                    *z = T::vsub(simd, *z, *term);
                }
            }
            if let Some(extra) = extra {
                let extra = &vectors::<S, T>(&extra[i * step..][..step]);
                for (z, x) in row.iter_mut().zip(*extra) {
                    let sum = T::vadd(simd, *z, *x);
                    *z = T::select_less(simd, *x, splat(T::LOWEST), *x, sum);
                }
            }
        }
    }

    /// `|position − key|` of each column of row `row`, times its slope if `sloped`.
    #[inline(always)]
    pub(super) fn distances(&self, tile: &Tile<'_, T>, row: usize, out: &mut [T], sloped: bool) {
        let slopes = self.slopes.unwrap_or(&[]);
        let slope = |head: usize| if sloped { slopes[head] } else { T::ONE };
        match tile.streamed {
            Streamed::Keys => {
                let relative = T::of((self.position - (tile.key + row) as i64) as f64);
                if self.by_head {
                    let distance = if relative < T::ZERO { -relative } else { relative };
                    for (col, out) in out.iter_mut().enumerate() {
                        *out = slope(col.min(slopes.len().saturating_sub(1))) * distance;
                    }
                } else {
                    let slope = slope(0);
                    for (col, out) in out.iter_mut().enumerate() {
                        let at = relative + T::of(f64::from(col as u32));
                        *out = slope * if at < T::ZERO { -at } else { at };
                    }
                }
            }
            Streamed::Queries => {
                let position = self.position + (tile.query + row) as i64;
                let (slope, relative) = (slope(0), T::of((position - tile.key as i64) as f64));
                for (col, out) in out.iter_mut().enumerate() {
                    let at = relative - T::of(f64::from(col as u32));
                    *out = slope * if at < T::ZERO { -at } else { at };
                }
            }
        }
    }

    /// What dropout multiplies each weight by, as the tile is laid out. `room`: `TILE · TILE`.
    #[inline(always)]
    pub(super) fn keep<S: Simd>(
        &self,
        simd: S,
        tile: &Tile<'_, T>,
        keep: &mut [T],
        step: usize,
        room: &mut [T],
    ) {
        simd.vectorize(Keeping { stage: *self, tile: *tile, keep, step, room });
    }

    #[inline(always)]
    fn keep_inline<S: Simd>(&self, simd: S, tile: &Tile<'_, T>, keep: &mut [T], step: usize, room: &mut [T]) {
        let Some(drop) = self.dropout else { return };
        let index = |i: usize| drop.index + i as u64 * drop.step + tile.key as u64;
        match tile.streamed {
            Streamed::Keys => {
                for (i, out) in room.chunks_exact_mut(tile.rows).take(tile.cols).enumerate() {
                    drop.row(index(i), out);
                }
                pack_columns(simd, Rows::of(room, tile.cols, tile.rows, tile.rows), T::ONE, keep, step);
            }
            Streamed::Queries => {
                for (i, out) in keep.chunks_exact_mut(step).take(tile.rows).enumerate() {
                    drop.row(index(tile.query + i), &mut out[..tile.cols]);
                    out[tile.cols..].fill(T::ZERO);
                }
            }
        }
    }
}

outlined! {
    Adding {
        stage: Stage<'a, T>,
        tile: Tile<'a, T>,
        extra: &'a mut [T],
        step: usize,
        room: &'a mut [T],
        found: &'a mut Addend,
    }
    |simd| *found = stage.find_addend(simd, &tile, extra, step, room)
}

outlined! {
    Applying {
        stage: Stage<'a, T>,
        tile: Tile<'a, T>,
        scores: &'a mut [T],
        factor: T,
        extra: Option<&'a [T]>,
        step: usize,
        slope: Option<&'a mut [T]>,
    }
    |simd| stage.apply_inline(simd, &tile, scores, factor, extra, step, slope)
}

outlined! {
    Keeping { stage: Stage<'a, T>, tile: Tile<'a, T>, keep: &'a mut [T], step: usize, room: &'a mut [T] }
    |simd| stage.keep_inline(simd, &tile, keep, step, room)
}

impl<T: Real> Drop<T> {
    /// Factors of the elements from logical index `first` on.
    #[inline(always)]
    fn row(&self, first: u64, out: &mut [T]) {
        const AT_ONCE: usize = 16;
        let mut words = [0u32; 4 * AT_ONCE];
        let skip = (first & 3) as usize;
        let (mut block, mut done, mut from) = (first >> 2, 0, skip);
        while done < out.len() {
            draw(self.seed, self.offset, block, &mut words);
            let count = (words.len() - from).min(out.len() - done);
            for (out, &word) in out[done..done + count].iter_mut().zip(&words[from..]) {
                *out = if word < self.below { T::ZERO } else { self.keep };
            }
            (block, done, from) = (block + AT_ONCE as u64, done + count, 0);
        }
    }
}

/// Words `4·block..` of the stream: Philox4x32-10 with blocks side by side, so that the rounds vectorise.
///
/// # Source
/// Salmon et al., SC 2011, doi:10.1145/2063384.2063405.
#[inline(always)]
fn draw<const N: usize>(seed: u64, offset: u64, block: u64, words: &mut [u32; N]) {
    const LANES: usize = 16;
    let index: [u64; LANES] = std::array::from_fn(|n| block.wrapping_add(n as u64));
    let mut x: [u32; LANES] = index.map(|index| index as u32);
    let mut y: [u32; LANES] = index.map(|index| (index >> 32) as u32);
    let (mut z, mut w) = ([offset as u32; LANES], [(offset >> 32) as u32; LANES]);
    let (mut key_0, mut key_1) = (seed as u32, (seed >> 32) as u32);
    for _ in 0..10 {
        for n in 0..LANES {
            let a = 0xd251_1f53u64 * u64::from(x[n]);
            let b = 0xcd9e_8d57u64 * u64::from(z[n]);
            (x[n], y[n], z[n], w[n]) =
                ((b >> 32) as u32 ^ y[n] ^ key_0, b as u32, (a >> 32) as u32 ^ w[n] ^ key_1, a as u32);
        }
        key_0 = key_0.wrapping_add(0x9e37_79b9);
        key_1 = key_1.wrapping_add(0xbb67_ae85);
    }
    for (n, words) in words.chunks_exact_mut(4).take(LANES).enumerate() {
        words.copy_from_slice(&[x[n], y[n], z[n], w[n]]);
    }
}
