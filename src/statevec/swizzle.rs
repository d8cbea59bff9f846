//! Where amplitudes lie in shared memory while they move from one mapping to another.
//!
//! A warp's 32 lanes reach shared memory in one cycle if their words lie in 32 different banks. The lanes of a mapping differ by
//! the XORs of its first five thread bits, so a linear map of indices to addresses is free of conflicts for it if the bank bits
//! of those five images are independent. Two mappings meet in an exchange, and one linear map always serves both.

use super::lower::odd_bits;
use super::subspace::{Subspace, kernel};

/// Log₂ of the lanes of a warp, and of the banks of shared memory.
pub(crate) const LANE_BITS: usize = 5;

/// An invertible linear map of indices to addresses; the low [`LANE_BITS`] bits of an address are its bank.
#[derive(Debug)]
pub(crate) struct Swizzle {
    /// Bit i of an address is the parity of its index with mask i.
    masks: Vec<u32>,
}

impl Swizzle {
    /// A map for `bits`-bit indices without conflicts among lanes that differ by `from`, nor among lanes that differ by `to`
    /// ([`LANE_BITS`] independent vectors each).
    ///
    /// With I the intersection of the two spans, `from` = I ⊕ U and `to` = I ⊕ V, the sums of U's and V's basis vectors and
    /// whatever lies outside both spans make a common complement C. Bank bits that vanish on C alone tell lanes apart.
    pub(crate) fn new(from: &[u32], to: &[u32], bits: usize) -> Self {
        let common = intersection(from, to);
        let beyond = |vectors: &[u32]| {
            let mut space = Subspace::of(common.iter().copied());
            vectors.iter().copied().filter(|&vector| space.insert(vector)).collect::<Vec<u32>>()
        };
        let sums = beyond(from).into_iter().zip(beyond(to)).map(|(u, v)| u ^ v);
        let mut all = Subspace::of(from.iter().chain(to).copied());
        let outside = (0..bits).map(|bit| 1u32 << bit).filter(|&unit| all.insert(unit));
        let complement: Vec<u32> = sums.chain(outside).collect();
        let mut masks = kernel(&complement, bits);
        let mut independent = Subspace::of(masks.iter().copied());
        masks.extend((0..bits).map(|bit| 1u32 << bit).filter(|&unit| independent.insert(unit)));
        Self { masks }
    }

    /// The address of an index.
    pub(crate) fn of(&self, index: u32) -> u32 {
        self.masks.iter().enumerate().fold(0, |at, (i, &mask)| at | u32::from(odd_bits(mask & index)) << i)
    }
}

/// A basis of the intersection of two spans.
fn intersection(a: &[u32], b: &[u32]) -> Vec<u32> {
    // (vector of a or b, what of a went into it): where the first part vanishes, the second lies in both.
    let mut rows: Vec<(u32, u32)> = Vec::new();
    let mut common = Subspace::default();
    let mut found = Vec::new();
    for (mut vector, mut of_a) in a.iter().map(|&v| (v, v)).chain(b.iter().map(|&v| (v, 0))) {
        for &(row, part) in &rows {
            if vector ^ row < vector {
                (vector, of_a) = (vector ^ row, of_a ^ part);
            }
        }
        if vector != 0 {
            rows.push((vector, of_a));
            rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.0));
        } else if common.insert(of_a) {
            found.push(of_a);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(state: &mut u64) -> u32 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) as u32
    }

    fn lanes(state: &mut u64, bits: usize, shared: &[u32]) -> Vec<u32> {
        let mut space = Subspace::default();
        let mut found: Vec<u32> = shared.iter().copied().filter(|&v| space.insert(v)).collect();
        while found.len() < LANE_BITS {
            let vector = word(state) & ((1 << bits) - 1);
            if space.insert(vector) {
                found.push(vector);
            }
        }
        found
    }

    #[test]
    fn thirty_two_lanes_meet_thirty_two_banks() {
        let mut state = 7;
        for case in 0..2000 {
            let bits = 8 + case % 6;
            let from = lanes(&mut state, bits, &[]);
            let shared = word(&mut state) as usize % (LANE_BITS + 1);
            let to = lanes(&mut state, bits, &from[..shared]);
            let map = Swizzle::new(&from, &to, bits);
            assert_eq!(map.masks.len(), bits, "case {case} is invertible");
            let mut seen = vec![false; 1 << bits];
            (0..1u32 << bits).for_each(|index| seen[map.of(index) as usize] = true);
            assert!(seen.iter().all(|&hit| hit), "case {case} is a permutation");
            for lanes in [&from, &to] {
                let image = Subspace::of(lanes.iter().map(|&lane| map.of(lane) % 32));
                assert!((0..LANE_BITS).all(|bit| image.contains(1 << bit)), "case {case} conflicts");
            }
        }
    }
}
