//! What the classical bits of every shot read.

use std::collections::BTreeMap;

/// Classical bits of every shot, on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shots {
    samples: usize,
    shots: usize,
    bits: usize,
    /// `[samples, shots, words]`, bit 0 the least significant of word 0.
    words: Vec<u64>,
}

/// Bits of a word.
const WIDTH: usize = 64;

impl Shots {
    pub(super) fn new(samples: usize, shots: usize, bits: usize) -> Self {
        Self { samples, shots, bits, words: vec![0; samples * shots * words_of(bits)] }
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Shots of each sample.
    pub fn shots(&self) -> usize {
        self.shots
    }

    /// Classical bits of a shot.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Words of a shot: `⌈bits / 64⌉`, at least 1.
    pub fn words_per_shot(&self) -> usize {
        words_of(self.bits)
    }

    /// All words, `[samples, shots, words_per_shot]`; bit 0 is the least significant of a shot's first word.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// A classical bit of a shot; `false` out of range.
    pub fn bit(&self, sample: usize, shot: usize, bit: usize) -> bool {
        let inside = sample < self.samples && shot < self.shots && bit < self.bits;
        inside
            && self.words[(sample * self.shots + shot) * self.words_per_shot() + bit / WIDTH] >> (bit % WIDTH)
                & 1
                == 1
    }

    /// A shot as text, the highest bit first.
    pub fn bitstring(&self, sample: usize, shot: usize) -> String {
        (0..self.bits).rev().map(|bit| if self.bit(sample, shot, bit) { '1' } else { '0' }).collect()
    }

    /// How often each text of [`Shots::bitstring`] came up in a sample.
    pub fn counts(&self, sample: usize) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        let mut shots: Vec<&[u64]> = Vec::new();
        if sample < self.samples {
            let row = &self.words[sample * self.shots * self.words_per_shot()..];
            shots.extend(row.chunks(self.words_per_shot()).take(self.shots));
        }
        let mut kinds: BTreeMap<&[u64], (usize, u64)> = BTreeMap::new();
        for (shot, words) in shots.into_iter().enumerate() {
            kinds.entry(words).or_insert((shot, 0)).1 += 1;
        }
        for (shot, count) in kinds.into_values() {
            counts.insert(self.bitstring(sample, shot), count);
        }
        counts
    }

    /// Sets a bit of trajectory `sample · shots + shot`.
    pub(super) fn set(&mut self, trajectory: usize, bit: usize, value: bool) {
        let at = trajectory * self.words_per_shot() + bit / WIDTH;
        let mask = 1u64 << (bit % WIDTH);
        self.words[at] = if value { self.words[at] | mask } else { self.words[at] & !mask };
    }

    /// The number that some bits of a trajectory read, the first listed least significant.
    pub(super) fn value(&self, trajectory: usize, bits: &[usize]) -> u64 {
        let word =
            |bit: usize| self.words[trajectory * self.words_per_shot() + bit / WIDTH] >> (bit % WIDTH) & 1;
        bits.iter().enumerate().map(|(i, &bit)| word(bit) << i).sum()
    }
}

fn words_of(bits: usize) -> usize {
    bits.div_ceil(WIDTH).max(1)
}
