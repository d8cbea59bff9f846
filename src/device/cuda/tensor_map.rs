//! Descriptions of tensors for the asynchronous loads of compute capability 9.0: `gw::TensorMap` in kernels/device.cuh.

use super::driver::LIBRARIES;
use std::ffi::{c_int, c_uint, c_void};
use std::sync::OnceLock;

/// Bytes of a map, aligned to 64 in a kernel's parameters.
pub(crate) const TENSOR_MAP: usize = 128;

/// Columns of a tile: 128 bytes of 16-bit elements, the widest row whose chunks the hardware exchanges.
const COLUMNS: u32 = 64;

/// A tensor of 16-bit elements and the tile that one load brings of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiled {
    /// Elements by dimension, innermost first: columns, rows, heads, samples.
    pub(crate) sizes: [u64; 4],
    /// Bytes from row to row, head to head, sample to sample; multiples of 16.
    pub(crate) strides: [u64; 3],
    /// Rows of a tile, at most 256.
    pub(crate) rows: u32,
}

/// `cuTensorMapEncodeTiled`, whose signature CUDA 12.0 has fixed.
type Encode = unsafe extern "C" fn(
    map: *mut c_void,
    data_type: c_int,
    rank: c_uint,
    address: *mut c_void,
    sizes: *const u64,
    strides: *const u64,
    tile: *const u32,
    element_strides: *const u32,
    interleave: c_int,
    swizzle: c_int,
    promotion: c_int,
    fill: c_int,
) -> c_int;

// Values of the driver's enumerations, in the order of its arguments.
const UINT16: c_int = 1;
const NO_INTERLEAVE: c_int = 0;
const SWIZZLE_128_BYTES: c_int = 3;
const PROMOTE_TO_128_BYTES: c_int = 2;
const FILL_WITH_ZEROS: c_int = 0;

/// Looked up by name: cudarc's bindings have it for some CUDA versions only, and panic where a driver lacks it.
fn encode() -> Option<Encode> {
    static ENCODE: OnceLock<Option<Encode>> = OnceLock::new();
    *ENCODE.get_or_init(|| {
        LIBRARIES.iter().find_map(|name| {
            // SAFETY: the driver is loaded already: its initialisers have run.
            let library = unsafe { libloading::Library::new(*name) }.ok()?;
            // SAFETY: the type is that of the driver's header.
            let found =
                unsafe { library.get::<Encode>(b"cuTensorMapEncodeTiled") }.ok().map(|symbol| *symbol);
            std::mem::forget(library); // the function is kept
            found
        })
    })
}

/// Whether the driver can encode maps.
pub(super) fn is_available() -> bool {
    encode().is_some()
}

/// The map of a tensor at a device address, as the NVIDIA driver encodes it.
pub(super) fn nvidia(address: u64, tiled: &Tiled) -> Result<[u8; TENSOR_MAP], String> {
    /// What the driver asks of the address it writes to.
    #[repr(C, align(64))]
    struct Aligned([u8; TENSOR_MAP]);

    let encode = encode().ok_or("the NVIDIA driver lacks cuTensorMapEncodeTiled")?;
    let mut map = Aligned([0; TENSOR_MAP]);
    let (tile, element_strides) = ([COLUMNS, tiled.rows, 1, 1], [1u32; 4]);
    // SAFETY: pointers to as many elements as the rank says; the address is only written down.
    let code = unsafe {
        encode(
            map.0.as_mut_ptr().cast(),
            UINT16,
            4,
            address as *mut c_void,
            tiled.sizes.as_ptr(),
            tiled.strides.as_ptr(),
            tile.as_ptr(),
            element_strides.as_ptr(),
            NO_INTERLEAVE,
            SWIZZLE_128_BYTES,
            PROMOTE_TO_128_BYTES,
            FILL_WITH_ZEROS,
        )
    };
    if code == 0 { Ok(map.0) } else { Err(format!("error {code} from cuTensorMapEncodeTiled for {tiled:?}")) }
}
