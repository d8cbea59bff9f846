//! Pauli sums as every backend measures them: strings grouped by what they flip, in stored-index words.

use super::lower::Frame;
use super::pauli::PauliSum;

/// Strings that flip the same amplitudes and read the same part of conj(ψ(x ⊕ d))·ψ(x).
#[derive(Clone, Debug)]
pub(crate) struct StringGroup {
    /// Stored-index XOR of the strings' X parts.
    pub(crate) direction: u32,
    /// Whether the imaginary part is read (an odd number of Y factors).
    pub(crate) imaginary: bool,
    /// ⟨string⟩ = `coefficient`·Σ_x (−1)^{parity(mask & x)}·part(x), coefficient included; sorted by mask.
    pub(crate) strings: Vec<MeasuredString>,
}

/// One string of a [`StringGroup`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct MeasuredString {
    pub(crate) mask: u32,
    pub(crate) observable: usize,
    pub(crate) coefficient: f64,
}

/// Groups the strings of all observables; strings of one observable that measure the same are added up.
pub(crate) fn groups(frame: &Frame, observables: &[PauliSum]) -> Vec<StringGroup> {
    let mut groups: Vec<StringGroup> = Vec::new();
    for (observable, sum) in observables.iter().enumerate() {
        for &(coefficient, string) in &sum.terms {
            let (direction, parity) = frame.string(string);
            let y = string.y_count();
            let imaginary = y & 1 == 1;
            // Re(i^y (u + iv)) is u, −v, −u, v.
            let sign = if (y & 3 == 1) ^ (y & 3 == 2) ^ parity.odd { -1.0 } else { 1.0 };
            let at = groups.iter().position(|g| g.direction == direction && g.imaginary == imaginary);
            let at = at.unwrap_or_else(|| {
                groups.push(StringGroup { direction, imaginary, strings: Vec::new() });
                groups.len() - 1
            });
            let strings = &mut groups[at].strings;
            let same = strings.iter_mut().find(|s| s.mask == parity.mask && s.observable == observable);
            match same {
                Some(same) => same.coefficient += sign * coefficient,
                None => strings.push(MeasuredString {
                    mask: parity.mask,
                    observable,
                    coefficient: sign * coefficient,
                }),
            }
        }
    }
    for group in &mut groups {
        group.strings.sort_by_key(|string| (string.mask, string.observable));
    }
    groups
}
