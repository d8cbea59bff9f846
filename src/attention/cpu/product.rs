//! The matrix product of small tiles that every pass is made of: one register-blocked micro-kernel.
//!
//! The left operand is only ever broadcast element by element, so queries, keys and values are read where the caller has
//! them, with any row stride; the right operand and the result run along the lanes.

use super::lanes::Real;
use super::views::{Rows, RowsMut};
use pulp::{Simd, WithSimd};

/// The left operand A of a product.
#[derive(Clone, Copy)]
pub(super) enum Left<'a, T> {
    /// Row `i` holds A[i][..].
    Rows(Rows<'a, T>),
    /// Row `k` holds A[..][k].
    Columns(Rows<'a, T>),
}

/// What becomes of the product.
#[derive(Clone, Copy)]
pub(super) enum Write<'a, T> {
    /// C = A·B
    Set,
    /// C += A·B
    Add,
    /// C = C·w + A·B with a weight per column
    Scale(&'a [T]),
}

/// C[i][j] = Σ_k A[i][k]·B[k][j] for `cols` columns.
///
/// `b` has rows of `cols` rounded up to the vector width, `c` of `cols`. Every sum runs over k in order and starts at 0, so an
/// element's bits depend on nothing but its own row and column.
pub(super) struct Product<'a, T> {
    pub(super) a: Left<'a, T>,
    pub(super) b: Rows<'a, T>,
    pub(super) c: RowsMut<'a, T>,
    pub(super) cols: usize,
    pub(super) write: Write<'a, T>,
}

/// Runs a product. One compiled function for each instruction set and side, however often it is called.
#[inline(always)]
pub(super) fn product<S: Simd, T: Real>(simd: S, product: Product<'_, T>) {
    simd.vectorize(product);
}

/// Pointers and steps of a product whose extents have been checked.
#[derive(Clone, Copy)]
struct Raw<'a, T> {
    a: *const T,
    a_step: usize,
    b: *const T,
    b_step: usize,
    c: *mut T,
    c_step: usize,
    depth: usize,
    write: Write<'a, T>,
}

impl<T: Real> WithSimd for Product<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (Left::Rows(a) | Left::Columns(a)) = self.a;
        let by_columns = matches!(self.a, Left::Columns(_));
        let (rows, depth) = if by_columns { (a.dim(), a.rows()) } else { (a.rows(), a.dim()) };
        assert!(self.b.rows() >= depth && self.b.dim() >= self.cols.next_multiple_of(T::lanes::<S>()));
        assert!(self.c.rows() >= rows && self.c.dim() >= self.cols);
        if let Write::Scale(weights) = self.write {
            assert!(weights.len() >= self.cols.next_multiple_of(T::lanes::<S>()));
        }
        let raw = Raw {
            a: a.as_ptr(),
            a_step: a.step(),
            b: self.b.as_ptr(),
            b_step: self.b.step(),
            c: self.c.as_mut_ptr(),
            c_step: self.c.step(),
            depth,
            write: self.write,
        };
        // SAFETY: the assertions are the contract: `a` covers rows × depth, `b` depth × whole vectors, `c` rows × cols.
        unsafe {
            if by_columns {
                all_columns::<S, T, true>(simd, raw, rows, self.cols);
            } else {
                all_columns::<S, T, false>(simd, raw, rows, self.cols);
            }
        }
    }
}

/// # Safety
/// `raw.a` covers `rows × raw.depth`, `raw.b` `raw.depth` rows of `cols` rounded up to whole vectors, `raw.c` `rows × cols`.
#[inline(always)]
unsafe fn all_columns<S: Simd, T: Real, const BY_COLUMNS: bool>(
    simd: S,
    raw: Raw<'_, T>,
    rows: usize,
    cols: usize,
) {
    let lanes = T::lanes::<S>();
    let mut j = 0;
    // SAFETY: each block of columns lies inside the extents the caller promises; the last one says how much of it is real.
    unsafe {
        // 6 rows × 4 vectors and their operands fill 32 registers, 6 × 2 fill 16.
        while S::REGISTER_COUNT >= 32 && cols >= j + 4 * lanes {
            all_rows::<S, T, 6, 4, BY_COLUMNS, true>(simd, raw, rows, j, cols);
            j += 4 * lanes;
        }
        while cols >= j + 2 * lanes {
            all_rows::<S, T, 6, 2, BY_COLUMNS, true>(simd, raw, rows, j, cols);
            j += 2 * lanes;
        }
        if cols >= j + lanes {
            all_rows::<S, T, 8, 1, BY_COLUMNS, true>(simd, raw, rows, j, cols);
            j += lanes;
        }
        if cols > j {
            all_rows::<S, T, 8, 1, BY_COLUMNS, false>(simd, raw, rows, j, cols);
        }
    }
}

/// # Safety
/// As [`all_columns`]; covers the `V` vectors from column `j` on, all below `cols` if `WHOLE`. Otherwise columns from `cols` on
/// are not written; that way is slow, the sums go through memory.
#[inline(always)]
unsafe fn all_rows<
    S: Simd,
    T: Real,
    const M: usize,
    const V: usize,
    const BY_COLUMNS: bool,
    const WHOLE: bool,
>(
    simd: S,
    raw: Raw<'_, T>,
    rows: usize,
    j: usize,
    cols: usize,
) {
    let mut i = 0;
    // SAFETY: rows i..i + height stay below `rows`.
    unsafe {
        macro_rules! blocks {
            ($height:expr) => {
                while rows - i >= $height {
                    block::<S, T, { $height }, V, BY_COLUMNS, WHOLE>(simd, raw, i, j, cols);
                    i += $height;
                }
            };
        }
        blocks!(M);
        blocks!(4);
        blocks!(2);
        blocks!(1);
    }
}

/// The micro-kernel: `M` rows × `V` vectors of sums in registers.
///
/// # Safety
/// As [`all_rows`], for rows `i..i + M`.
#[inline(always)]
unsafe fn block<
    S: Simd,
    T: Real,
    const M: usize,
    const V: usize,
    const BY_COLUMNS: bool,
    const WHOLE: bool,
>(
    simd: S,
    raw: Raw<'_, T>,
    i: usize,
    j: usize,
    cols: usize,
) {
    let lanes = T::lanes::<S>();
    let mut sums = [[T::splat(simd, T::ZERO); V]; M];
    // SAFETY: the caller promises that rows i..i + M, all depths and V whole vectors of B from column j are readable, and
    // rows i..i + M of C from column j to `cols` are writable.
    unsafe {
        let mut a = raw.a.add(if BY_COLUMNS { i } else { i * raw.a_step });
        let mut b = raw.b.add(j);
        // B comes from scratch or dense copies: unaligned loads cost nothing where it is aligned.
        // A macro, because a closure would be compiled without the instruction set this function is inlined into.
        macro_rules! step {
            ($k:expr) => {{
                let mut right = [T::splat(simd, T::ZERO); V];
                for v in 0..V {
                    right[v] = b.add($k * raw.b_step + v * lanes).cast::<T::Vector<S>>().read_unaligned();
                }
                for m in 0..M {
                    let at = if BY_COLUMNS { m + $k * raw.a_step } else { m * raw.a_step + $k };
                    let left = T::splat(simd, *a.add(at));
                    for v in 0..V {
                        sums[m][v] = T::mul_add(simd, left, right[v], sums[m][v]);
                    }
                }
            }};
        }
        let a_next = if BY_COLUMNS { raw.a_step } else { 1 };
        for _ in 0..raw.depth / 4 {
            step!(0);
            step!(1);
            step!(2);
            step!(3);
            a = a.wrapping_add(4 * a_next);
            b = b.wrapping_add(4 * raw.b_step);
        }
        for _ in 0..raw.depth % 4 {
            step!(0);
            a = a.wrapping_add(a_next);
            b = b.wrapping_add(raw.b_step);
        }
        let c = raw.c.add(i * raw.c_step + j);
        if !WHOLE {
            write_some::<S, T, M, V>(raw, c, j, cols - j, &sums);
            return;
        }
        let at = |m: usize, v: usize| c.add(m * raw.c_step + v * lanes).cast::<T::Vector<S>>();
        // Three loops, not one with three arms: only small bodies are unrolled, and sums that are indexed live in memory.
        match raw.write {
            Write::Set => {
                for m in 0..M {
                    for v in 0..V {
                        at(m, v).write_unaligned(sums[m][v]);
                    }
                }
            }
            Write::Add => {
                for m in 0..M {
                    for v in 0..V {
                        at(m, v).write_unaligned(T::vadd(simd, at(m, v).read_unaligned(), sums[m][v]));
                    }
                }
            }
            Write::Scale(weights) => {
                let mut scale = [T::splat(simd, T::ZERO); V];
                for v in 0..V {
                    scale[v] = weights.as_ptr().add(j + v * lanes).cast::<T::Vector<S>>().read_unaligned();
                }
                for m in 0..M {
                    for v in 0..V {
                        let old = at(m, v).read_unaligned();
                        at(m, v).write_unaligned(T::mul_add(simd, old, scale[v], sums[m][v]));
                    }
                }
            }
        }
    }
}

/// Writes the first `count` columns of a block, `c` being its first element and `j` its first column.
///
/// # Safety
/// `c` covers `M` rows of `count` floats.
#[inline(always)]
unsafe fn write_some<S: Simd, T: Real, const M: usize, const V: usize>(
    raw: Raw<'_, T>,
    c: *mut T,
    j: usize,
    count: usize,
    sums: &[[T::Vector<S>; V]; M],
) {
    for (m, sums) in sums.iter().enumerate() {
        let sums: &[T] = bytemuck::cast_slice(sums);
        for (col, sum) in sums.iter().take(count).enumerate() {
            // SAFETY: the caller's promise.
            let c = unsafe { &mut *c.add(m * raw.c_step + col) };
            *c = match raw.write {
                Write::Set => *sum,
                Write::Add => *c + *sum,
                Write::Scale(weights) => *c * weights[j + col] + *sum,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulp::Arch;

    /// Integers, so that every order of summation gives the same float.
    fn integers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7 + seed * 13) % 17) as f32 - 8.0).collect()
    }

    fn check(arch: Arch, rows: usize, cols: usize, depth: usize, by_columns: bool, write: u8) {
        let b_step = cols.next_multiple_of(16);
        let (a_rows, a_dim) = if by_columns { (depth, rows) } else { (rows, depth) };
        let (a_step, c_step) = (a_dim + 3, cols + 5);
        let a = integers(a_rows * a_step, 1);
        let b = integers(depth * b_step, 2);
        let weights = integers(b_step, 3);
        let before = integers(rows * c_step, 4);
        let mut c = before.clone();
        let view = Rows::of(&a, a_rows, a_step, a_dim);
        arch.dispatch(Product {
            a: if by_columns { Left::Columns(view) } else { Left::Rows(view) },
            b: Rows::of(&b, depth, b_step, b_step),
            c: RowsMut::of(&mut c, rows, c_step, cols),
            cols,
            write: [Write::Set, Write::Add, Write::Scale(&weights)][write as usize],
        });
        for i in 0..rows {
            for j in 0..c_step {
                let old = before[i * c_step + j];
                let sum: f32 = (0..depth)
                    .map(|k| {
                        a[if by_columns { k * a_step + i } else { i * a_step + k }]
                            * b[k * b_step + j.min(b_step - 1)]
                    })
                    .sum();
                let want = match write {
                    _ if j >= cols => old,
                    0 => sum,
                    1 => old + sum,
                    _ => old * weights[j] + sum,
                };
                let got = c[i * c_step + j];
                assert_eq!(
                    got, want,
                    "[{i}][{j}] of {rows}×{cols}×{depth}, columns {by_columns}, write {write}"
                );
            }
        }
    }

    #[test]
    fn products_of_every_shape_are_exact_on_integers() {
        for arch in [Arch::new(), Arch::Scalar] {
            for rows in [0, 1, 2, 3, 5, 6, 7, 8, 13, 17] {
                for cols in [1, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 80, 127] {
                    for depth in [0, 1, 3, 4, 5, 9] {
                        for write in 0..3 {
                            check(arch, rows, cols, depth, false, write);
                            check(arch, rows, cols, depth, true, write);
                        }
                    }
                }
            }
        }
    }
}
