//! What stands for the driver's description of a tensor that the asynchronous loads of compute capability 9.0 read.

/// A four-dimensional tensor of 16-bit elements, and the tile that a load brings of it.
///
/// A kernel takes it by value in a structure aligned to 64 bytes, where a device takes the driver's `CUtensorMap` of the same
/// size.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct TensorMap {
    magic: u64,
    address: u64,
    sizes: [u64; 4],
    strides: [u64; 3],
    tile: [u32; 4],
    unused: [u64; 5],
}

/// `TensorMap::MAGIC` in include/emulator.hpp.
const MAGIC: u64 = 0x7061_6d72_6f73_6e74;
/// Elements of a row of a tile: 128 bytes.
const COLUMNS: u32 = 64;
/// Most rows of a tile.
const MOST_ROWS: u32 = 256;
const _: () = assert!(size_of::<TensorMap>() == 128);

impl TensorMap {
    /// `sizes`: elements by dimension, innermost first; `strides`: bytes from element to element of dimensions 1 to 3; a load
    /// brings `rows` rows (dimension 1) of 64 elements.
    ///
    /// # Errors
    /// What the driver refuses: an address or stride that is no multiple of 16 bytes, a size of 0 or above 2³², no rows or
    /// more than 256.
    pub fn new(address: u64, sizes: [u64; 4], strides: [u64; 3], rows: u32) -> Result<Self, String> {
        if !address.is_multiple_of(16) {
            return Err(format!("the address {address:#x} is not a multiple of 16 bytes"));
        }
        if let Some(stride) = strides.iter().find(|&&stride| !stride.is_multiple_of(16) || stride >= 1 << 40)
        {
            return Err(format!("a stride of {stride} bytes is not a multiple of 16 below 2^40"));
        }
        if let Some(size) = sizes.iter().find(|&&size| size == 0 || size > 1 << 32) {
            return Err(format!("a size of {size} is not in 1 to 2^32"));
        }
        if rows == 0 || rows > MOST_ROWS {
            return Err(format!("a tile of {rows} rows: 1 to {MOST_ROWS} are possible"));
        }
        Ok(Self { magic: MAGIC, address, sizes, strides, tile: [COLUMNS, rows, 1, 1], unused: [0; 5] })
    }

    /// Its bytes, as a kernel's parameters hold them.
    pub fn bytes(&self) -> [u8; 128] {
        let words = [
            &[self.magic, self.address][..],
            &self.sizes,
            &self.strides,
            &[
                u64::from(self.tile[0]) | u64::from(self.tile[1]) << 32,
                u64::from(self.tile[2]) | u64::from(self.tile[3]) << 32,
            ],
            &self.unused,
        ]
        .concat();
        let mut bytes = [0; 128];
        bytes.chunks_exact_mut(8).zip(words).for_each(|(out, word)| out.copy_from_slice(&word.to_le_bytes()));
        bytes
    }
}
