//! Linear algebra over GF(2) on index words: the language of residency.

use super::lower::odd_bits;

/// A subspace of index words, as an echelon basis.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subspace {
    /// Reduced vectors; each has a leading bit that no later-inserted vector keeps.
    echelon: Vec<u32>,
}

impl Subspace {
    pub(crate) fn of(vectors: impl IntoIterator<Item = u32>) -> Self {
        let mut space = Self::default();
        for vector in vectors {
            space.insert(vector);
        }
        space
    }

    /// The vector modulo the subspace; 0 if it is inside.
    pub(crate) fn reduce(&self, vector: u32) -> u32 {
        self.echelon.iter().fold(vector, |v, &b| v.min(v ^ b))
    }

    /// Adds a vector; whether that made the subspace larger.
    pub(crate) fn insert(&mut self, vector: u32) -> bool {
        let rest = self.reduce(vector);
        if rest == 0 {
            return false;
        }
        self.echelon.push(rest);
        // `reduce` eliminates leading bits from the top down.
        self.echelon.sort_unstable_by(|a, b| b.cmp(a));
        true
    }

    pub(crate) fn contains(&self, vector: u32) -> bool {
        self.reduce(vector) == 0
    }
}

/// Coordinates of `vector` in `basis` (independent vectors), bit i for basis vector i; `None` if it is outside the span.
pub(crate) fn coordinates(basis: &[u32], vector: u32) -> Option<u32> {
    // Eliminate while carrying along which basis vectors were used.
    let mut rows: Vec<(u32, u32)> = Vec::with_capacity(basis.len());
    let reduce = |rows: &[(u32, u32)], mut v: u32, mut used: u32| {
        for &(row, from) in rows {
            if v ^ row < v {
                v ^= row;
                used ^= from;
            }
        }
        (v, used)
    };
    for (i, &b) in basis.iter().enumerate() {
        let row = reduce(&rows, b, 1 << i);
        rows.push(row);
        rows.sort_unstable_by(|a, b| b.cmp(a));
    }
    let (rest, used) = reduce(&rows, vector, 0);
    (rest == 0).then_some(used)
}

/// Bit i is the parity of `mask` along basis vector i: the functional in the basis's coordinates.
pub(crate) fn pull_back(basis: &[u32], mask: u32) -> u32 {
    basis.iter().enumerate().fold(0, |bits, (i, &b)| bits | u32::from(odd_bits(mask & b)) << i)
}

/// Complements `basis` in the space of `bits`-bit words: vectors on which as many of `functionals` as possible vanish, given
/// in the order of preference, sorted by size.
///
/// The complement is the common kernel of as many functionals as `basis` has vectors, chosen independent on its span, so it
/// meets the span only in 0.
pub(crate) fn complement(basis: &[u32], bits: usize, functionals: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut on_basis = Subspace::default();
    let mut rows: Vec<u32> = Vec::with_capacity(basis.len());
    // Unit functionals finish what is missing; the high ones first, so that the kernel keeps the low bits.
    for mask in functionals.chain((0..bits).rev().map(|bit| 1 << bit)) {
        if rows.len() == basis.len() {
            break;
        }
        if on_basis.insert(pull_back(basis, mask)) {
            rows.push(mask);
        }
    }
    kernel(&rows, bits)
}

/// Basis of the words on which every functional of `rows` (independent) has parity 0.
pub(crate) fn kernel(rows: &[u32], bits: usize) -> Vec<u32> {
    // Reduced echelon form with pivots at the highest bits.
    let mut reduced: Vec<(u32, u32)> = Vec::new(); // (row, pivot bit)
    for &mask in rows {
        let mut row = mask;
        for &(other, pivot) in &reduced {
            if row & pivot != 0 {
                row ^= other;
            }
        }
        if row == 0 {
            continue;
        }
        let pivot = 1 << (31 - row.leading_zeros());
        for (other, _) in &mut reduced {
            if *other & pivot != 0 {
                *other ^= row;
            }
        }
        reduced.push((row, pivot));
    }
    let pivots = reduced.iter().fold(0, |all, &(_, pivot)| all | pivot);
    let free = (0..bits).map(|bit| 1u32 << bit).filter(|bit| bit & pivots == 0);
    let solve = |bit: u32| reduced.iter().filter(|(row, _)| row & bit != 0).fold(bit, |v, &(_, p)| v ^ p);
    let mut basis: Vec<u32> = free.map(solve).collect();
    basis.sort_unstable();
    basis
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complement_spans_the_rest_and_meets_the_span_in_zero() {
        let mut word = 1u32;
        let mut random = move || {
            word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            word >> 8
        };
        for case in 0..400 {
            let bits = 1 + case % 12;
            let mut space = Subspace::default();
            let mut basis = Vec::new();
            for _ in 0..4 {
                let vector = random() & ((1 << bits) - 1);
                if space.insert(vector) {
                    basis.push(vector);
                }
            }
            let masks: Vec<u32> = (0..3).map(|_| random() & ((1 << bits) - 1)).collect();
            let rest = complement(&basis, bits, masks.into_iter());
            assert_eq!(basis.len() + rest.len(), bits);
            let all = Subspace::of(basis.iter().chain(&rest).copied());
            assert_eq!(all.echelon.len(), bits);
            let combination = basis.iter().enumerate().filter(|(i, _)| case >> i & 1 == 1);
            let vector = combination.clone().fold(0, |v, (_, &b)| v ^ b);
            let wanted = combination.fold(0, |bits, (i, _)| bits | 1 << i);
            assert_eq!(coordinates(&basis, vector), Some(wanted));
        }
    }
}
