//! Philox4x32-10 once more, from the paper's description, so that `src/random.rs` is checked by something else than itself.
//!
//! # Source
//! Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, §3.3.

/// Word `index` of the stream named by `seed` (the key) and `offset` (the upper half of the counter).
pub fn philox_word(seed: u64, offset: u64, index: u64) -> u32 {
    let block = u128::from(index / 4) | u128::from(offset) << 64;
    let mut words: Vec<u64> = (0..4).map(|i| (block >> (32 * i)) as u64 & 0xffff_ffff).collect();
    let (mut low, mut high) = (seed & 0xffff_ffff, seed >> 32);
    for _ in 0..10 {
        let (first, second) = (words[0] * 0xD2511F53, words[2] * 0xCD9E8D57);
        words = vec![
            (second >> 32) ^ words[1] ^ low,
            second & 0xffff_ffff,
            (first >> 32) ^ words[3] ^ high,
            first & 0xffff_ffff,
        ];
        low = (low + 0x9E3779B9) & 0xffff_ffff;
        high = (high + 0xBB67AE85) & 0xffff_ffff;
    }
    words[(index % 4) as usize] as u32
}
