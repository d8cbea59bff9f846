//! The words every backend draws.

use crate::states::say;
use crate::support::devices::TestDevice;
use crate::support::property::{CASES, check};
use gatewarp::random::{self, Stream};
use gatewarp::{Error, Tensor};
use proptest::prelude::*;

/// Philox4x32-10 as the paper states it, word by word; shares nothing with `src/`.
fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter.map(u64::from), key.map(u64::from));
    for _ in 0..10 {
        let (p0, p1) = (0xd251_1f53 * c[0], 0xcd9e_8d57 * c[2]);
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xffff_ffff, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xffff_ffff];
        k = [(k[0] + 0x9e37_79b9) & 0xffff_ffff, (k[1] + 0xbb67_ae85) & 0xffff_ffff];
    }
    c.map(|word| word as u32)
}

pub fn random_words_are_the_same_everywhere(device: &TestDevice) -> Result<(), String> {
    let first = prop_oneof![0u64..1000, Just(u64::MAX - 300), Just((1 << 32) - 9), any::<u64>()];
    let strategy = (any::<u64>(), any::<u64>(), first, 0usize..700);
    check("random_words_are_the_same_everywhere", device, CASES, &strategy, |device, case| {
        let &(seed, offset, first, count) = case;
        let halves = |x: u64| [x as u32, (x >> 32) as u32];
        let want: Vec<u32> = (0..count as u64)
            .map(|i| {
                let (index, [a, b], [c, d]) = (first.wrapping_add(i), halves(offset), halves(seed));
                let [x, y] = halves(index / 4);
                philox([x, y, a, b], [c, d])[(index % 4) as usize]
            })
            .collect();
        let got = random::words(device, Stream::Value { seed, offset }, first, count).map_err(say)?;
        let got = got.to_vec::<u32>().map_err(say)?;
        let ([a, b], [c, d]) = (halves(seed), halves(offset));
        let stream = Tensor::from_slice(device, &[9, a, b, c, d], &[5]).map_err(say)?;
        let stream = Stream::Device(stream.view().narrow(0, 1, 4).map_err(say)?);
        let replayed = random::words(device, stream, first, count).map_err(say)?;
        if got != want || replayed.to_vec::<u32>().map_err(say)? != want {
            return Err(format!("{count} words from {first} differ: {got:x?}"));
        }
        let short = Tensor::from_slice(device, &[1u32; 3], &[3]).map_err(say)?;
        match random::words(device, Stream::Device(short.view()), first, count) {
            Err(Error::Shape { .. }) => Ok(()),
            other => Err(format!("a stream of three words: {other:?}")),
        }
    })
}
