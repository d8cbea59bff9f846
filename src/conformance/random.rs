//! Seeded numbers for conformance cases.

/// SplitMix64: a case is its seed and nothing else, on every machine.
///
/// # Source
/// Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `low..=high`.
    pub(super) fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.word() % (high - low + 1) as u64) as usize
    }

    /// True once in `n`.
    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.word().is_multiple_of(n)
    }

    /// One of `choices`, which is not empty.
    pub(super) fn choose<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.between(0, choices.len() - 1)]
    }

    /// `n` values uniform in `[-size, size)`.
    pub(super) fn values(&mut self, n: usize, size: f32) -> Vec<f32> {
        let signed = |word: u64| (word >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
        (0..n).map(|_| signed(self.word()) * size).collect()
    }
}
