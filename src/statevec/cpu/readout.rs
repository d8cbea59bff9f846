//! Pauli sums of a state, and λ = Oψ, on chunks.

use super::lanes::{Chunk, Float, Lanes, WIDTH};
use crate::statevec::lower::odd_bits;
use crate::statevec::observables::StringGroup;

/// Sums of a group's strings over some chunks of a state.
pub(crate) struct Measure<'a, F, L> {
    /// All chunks.
    pub(crate) state: &'a [Chunk<F>],
    pub(crate) group: &'a StringGroup,
    pub(crate) lane_bits: usize,
    /// The chunks from this one on are measured, as many as `values` has room for.
    pub(crate) first: usize,
    pub(crate) values: &'a mut [Lanes<F>],
    /// Is given (string, Σ_x (−1)^{parity(mask & x)}·part(x)), x being the chunk number counted from `first`, and only the
    /// masks' bits from `lane_bits` to `values`' length.
    pub(crate) leaf: L,
}

impl<F: Float, L: FnMut(usize, Lanes<F>)> pulp::NullaryFnOnce for Measure<'_, F, L> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        parts(self.state, self.group, self.lane_bits, self.first, self.values);
        transform(self.values, self.group, self.lane_bits, self.leaf);
    }
}

/// What a group of strings reads of each amplitude: |ψ|², or a part of conj(ψ(x ⊕ d))·ψ(x).
#[inline(always)]
fn parts<F: Float>(
    state: &[Chunk<F>],
    group: &StringGroup,
    lane_bits: usize,
    first: usize,
    out: &mut [Lanes<F>],
) {
    let chunk = (group.direction >> lane_bits) as usize;
    let lane = group.direction & ((1 << lane_bits) - 1);
    for (i, part) in out.iter_mut().enumerate() {
        let a = state[first + i];
        *part = if group.direction == 0 {
            a.norm()
        } else {
            let b = state[(first + i) ^ chunk].flipped(lane);
            if group.imaginary { b.im.fnma(a.re, b.re.mul(a.im)) } else { b.im.fma(a.im, b.re.mul(a.re)) }
        };
    }
}

/// A Walsh–Hadamard transform pruned to the masks wanted: about log₂(strings) + 2 additions a value, summed pairwise.
/// `values` is used up.
#[inline(always)]
fn transform<F: Float>(
    values: &mut [Lanes<F>],
    group: &StringGroup,
    lane_bits: usize,
    mut leaf: impl FnMut(usize, Lanes<F>),
) {
    let bits = values.len().trailing_zeros() as usize;
    let low = |string: usize| group.strings[string].mask >> lane_bits & ((1u32 << bits) - 1);
    let mut order: Vec<usize> = (0..group.strings.len()).collect();
    order.sort_unstable_by_key(|&string| low(string));
    // (first value, bits left, strings that share the bits above)
    let mut stack = vec![(0usize, bits, 0usize, order.len())];
    while let Some((at, bits, from, to)) = stack.pop() {
        if bits == 0 {
            for &string in &order[from..to] {
                leaf(string, values[at]);
            }
            continue;
        }
        let half = 1usize << (bits - 1);
        let split = from + order[from..to].partition_point(|&string| low(string) as usize & half == 0);
        let (lo, hi) = values[at..at + 2 * half].split_at_mut(half);
        match (split > from, split < to) {
            (true, false) => lo.iter_mut().zip(hi).for_each(|(a, b)| *a = a.add(*b)),
            (false, true) => lo.iter_mut().zip(hi).for_each(|(a, b)| *b = a.sub(*b)),
            _ => lo.iter_mut().zip(hi).for_each(|(a, b)| (*a, *b) = (a.add(*b), a.sub(*b))),
        }
        if split < to {
            stack.push((at + half, bits - 1, split, to));
        }
        if split > from {
            stack.push((at, bits - 1, from, split));
        }
    }
}

/// Σ over lanes of a value, with the sign of a mask's lane part. Pairwise.
pub(crate) fn signed_sum<F: Float>(value: Lanes<F>, mask: u32) -> F {
    Lanes(std::array::from_fn(|l| if odd_bits(mask & l as u32) { -value.0[l] } else { value.0[l] })).sum()
}

/// λ = Σ weight·(string)·ψ for the chunks from `first` on.
pub(crate) struct ApplyObservables<'a, F> {
    /// All chunks of ψ.
    pub(crate) state: &'a [Chunk<F>],
    pub(crate) groups: &'a [StringGroup],
    /// One value per lane for each observable.
    pub(crate) weights: &'a [Lanes<F>],
    pub(crate) lane_bits: usize,
    pub(crate) first: usize,
    pub(crate) out: &'a mut [Chunk<F>],
}

impl<F: Float> pulp::NullaryFnOnce for ApplyObservables<'_, F> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        apply(self.state, self.groups, self.weights, self.lane_bits, self.first, self.out);
    }
}

#[inline(always)]
fn apply<F: Float>(
    state: &[Chunk<F>],
    groups: &[StringGroup],
    weights: &[Lanes<F>],
    lane_bits: usize,
    first: usize,
    out: &mut [Chunk<F>],
) {
    let lanes = (1u32 << lane_bits) - 1;
    out.fill(Chunk::ZERO);
    for group in groups {
        let (chunk, lane) = ((group.direction >> lane_bits) as usize, group.direction & lanes);
        for (i, lambda) in out.iter_mut().enumerate() {
            let from = (first + i) ^ chunk;
            let mut factor = Lanes::ZERO;
            for string in &group.strings {
                // The string's parity is read where the amplitude comes from.
                let odd = odd_bits(string.mask >> lane_bits & from as u32);
                let c = F::of(if odd { -string.coefficient } else { string.coefficient });
                let weight = weights[string.observable];
                factor = if string.mask & lanes == 0 {
                    weight.fma(Lanes::splat(c), factor)
                } else {
                    let sign =
                        |l: usize| if odd_bits(string.mask & lanes & (l as u32 ^ lane)) { -c } else { c };
                    weight.fma(Lanes(std::array::from_fn::<_, WIDTH, _>(sign)), factor)
                };
            }
            let b = state[from].flipped(lane);
            if group.imaginary {
                // The coefficient carries the sign of Re(i^y·iv) = ∓v for y = 1, 3: i^y·b is −coefficient·i·b.
                lambda.re = factor.fma(b.im, lambda.re);
                lambda.im = factor.fnma(b.re, lambda.im);
            } else {
                lambda.re = factor.fma(b.re, lambda.re);
                lambda.im = factor.fma(b.im, lambda.im);
            }
        }
    }
}
