//! Counter-based random words: the same on every backend, from any thread, in any order.
//!
//! A *stream* is named by a 64-bit seed and a 64-bit offset. Block `index` of a stream is Philox4x32-10 of the counter
//! `{index, offset}` under the key `seed`, each low word first; word `i` is word `i mod 4` of block `i / 4`. Shots, dropout
//! and noise number their logical elements and draw from there, so the words depend neither on the batch nor on the launch.
//! [`words`] gives the words themselves.
//!
//! # Source
//! Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, doi:10.1145/2063384.2063405.

use crate::device::{Backend, Device};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, TensorRef};
use crate::validate;
use rayon::prelude::*;

/// Philox4x32-10 of a 128-bit counter under a 64-bit key, low words first.
pub const fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut x, mut y, mut z, mut w], [mut key_0, mut key_1]) = (counter, key);
    let mut round = 0;
    while round < 10 {
        let a = 0xd251_1f53u64 * x as u64;
        let b = 0xcd9e_8d57u64 * z as u64;
        (x, y, z, w) = ((b >> 32) as u32 ^ y ^ key_0, b as u32, (a >> 32) as u32 ^ w ^ key_1, a as u32);
        key_0 = key_0.wrapping_add(0x9e37_79b9);
        key_1 = key_1.wrapping_add(0xbb67_ae85);
        round += 1;
    }
    [x, y, z, w]
}

/// Block `index` of the stream (`seed`, `offset`).
pub const fn block(seed: u64, offset: u64, index: u64) -> [u32; 4] {
    let counter = [index as u32, (index >> 32) as u32, offset as u32, (offset >> 32) as u32];
    philox4x32_10(counter, [seed as u32, (seed >> 32) as u32])
}

/// Word `index` of the stream (`seed`, `offset`).
pub const fn word(seed: u64, offset: u64, index: u64) -> u32 {
    block(seed, offset, index >> 2)[(index & 3) as usize]
}

/// Names a stream of random words: by value, or by device memory that a captured graph reads afresh on every replay.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Stream<'a> {
    /// Given by the host.
    Value {
        /// The key.
        seed: u64,
        /// The upper half of the counter.
        offset: u64,
    },
    /// `[4]` u32 on the call's device: seed and offset, low words first. Contiguous.
    Device(TensorRef<'a>),
}

impl Stream<'_> {
    /// The stream of a seed with offset 0.
    pub const fn new(seed: u64) -> Self {
        Self::Value { seed, offset: 0 }
    }

    /// The four words on `device`: the caller's, or an upload.
    pub(crate) fn on(&self, op: &'static str, device: &Device) -> Result<Placed<'_>> {
        match self {
            Self::Value { seed, offset } => {
                let words = [*seed as u32, (seed >> 32) as u32, *offset as u32, (offset >> 32) as u32];
                Ok(Placed::Own(Tensor::from_slice(device, &words, &[4])?))
            }
            Self::Device(view) => {
                validate::shape(op, "stream", view, &[4])?;
                validate::tensor(op, "stream", view, DType::U32, device)?;
                validate::contiguous(op, "stream", view)?;
                Ok(Placed::Given(view.clone()))
            }
        }
    }

    /// Seed and offset, for the CPU backend.
    pub(crate) fn values(&self, op: &'static str) -> Result<(u64, u64)> {
        match self {
            Self::Value { seed, offset } => Ok((*seed, *offset)),
            Self::Device(_) => {
                let words = self.on(op, &Device::cpu())?.view().to_vec::<u32>()?;
                let pair = |i: usize| u64::from(words[i + 1]) << 32 | u64::from(words[i]);
                Ok((pair(0), pair(2)))
            }
        }
    }
}

impl From<u64> for Stream<'_> {
    fn from(seed: u64) -> Self {
        Self::new(seed)
    }
}

/// A stream's words where the call runs.
pub(crate) enum Placed<'a> {
    Own(Tensor),
    Given(TensorRef<'a>),
}

impl Placed<'_> {
    pub(crate) fn view(&self) -> TensorRef<'_> {
        match self {
            Self::Own(tensor) => tensor.view(),
            Self::Given(view) => view.clone(),
        }
    }
}

/// Words `first..first + count` of a stream, `[count]` u32 on `device`: the words that shots and dropout draw.
///
/// ```
/// # fn main() -> gatewarp::Result<()> {
/// use gatewarp::{Device, random};
/// let words = random::words(&Device::cpu(), random::Stream::new(7), 2, 3)?.to_vec::<u32>()?;
/// assert_eq!(words[1], random::word(7, 0, 3));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Shape`], [`Error::DType`], [`Error::Device`] or [`Error::InvalidArgument`] for a stream in memory that is not four
/// u32 words on `device`; [`Error::OutOfMemory`]; [`Error::Unsupported`] from 2³¹ words on, on a GPU.
pub fn words<'a>(device: &Device, stream: impl Into<Stream<'a>>, first: u64, count: usize) -> Result<Tensor> {
    let (op, stream) = ("random_words", stream.into());
    if device.backend() == Backend::Cpu {
        let (seed, offset) = stream.values(op)?;
        let draw = |i: usize| word(seed, offset, first.wrapping_add(i as u64));
        return Tensor::from_slice(
            device,
            &(0..count).into_par_iter().map(draw).collect::<Vec<u32>>(),
            &[count],
        );
    }
    let words = on_gpu(device, op, &stream, first, count)?;
    Ok(words)
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn on_gpu(
    device: &Device,
    op: &'static str,
    stream: &Stream<'_>,
    first: u64,
    count: usize,
) -> Result<Tensor> {
    use crate::launch::{Operand, launch, wide};
    if count >= 1 << 31 {
        let (what, limit, got) = ("words of one call", (1u64 << 31).to_string(), count.to_string());
        return Err(Error::Unsupported { op, backend: device.backend(), what, limit, got });
    }
    let placed = stream.on(op, device)?;
    let out = Tensor::zeros(device, DType::U32, &[count])?;
    let (source, words) = (placed.view(), out.view());
    let [low, high] = wide(first);
    let operands = [Operand::Tensor(&source), Operand::Tensor(&words)];
    let blocks = (count as u64).div_ceil(256);
    launch(device, op, &crate::manifest::random::WORDS, &operands, &[low, high, count as u32], blocks)?;
    drop(words);
    Ok(out)
}

#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
fn on_gpu(device: &Device, op: &'static str, _: &Stream<'_>, _: u64, _: usize) -> Result<Tensor> {
    Err(Error::Device { op, arg: "device", expected: "cpu".into(), got: device.name() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that Salmon et al. publish with their implementation.
    #[test]
    fn philox_gives_the_published_answers() {
        let pi = ([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        let known = [
            (([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            (([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]),
        ];
        for ((counter, key), answer) in known {
            assert_eq!(philox4x32_10(counter, key), answer, "{counter:x?} {key:x?}");
        }
    }

    #[test]
    fn counters_and_keys_are_low_word_first() {
        let (seed, offset, index) = (0x299f_31d0_a409_3822, 0x0370_7344_1319_8a2e, 0x85a3_08d3_243f_6a88);
        assert_eq!(block(seed, offset, index), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
        assert_eq!(word(seed, offset, 6), block(seed, offset, 1)[2]);
    }
}
