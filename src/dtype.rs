//! Element types of tensors.

use half::{bf16, f16};
use num_complex::{Complex32, Complex64};
use std::fmt;

/// Element type of a tensor. Complex elements are interleaved (re, im).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    BF16,
    /// IEEE binary64 (cpu and cuda).
    F64,
    /// Two `f32`: re, im.
    C64,
    /// Two `f64`: re, im (cpu and cuda).
    C128,
    /// Signed 32-bit ids and lengths.
    I32,
    /// Unsigned 32-bit ids and lengths.
    U32,
    /// Signed 64-bit ids and lengths.
    I64,
    /// Bytes: boolean masks (0 is false) and workspaces.
    U8,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::BF16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::C64 | Self::I64 => 8,
            Self::C128 => 16,
        }
    }

    /// Whether the type may hold ids and lengths.
    pub const fn is_integer(self) -> bool {
        matches!(self, Self::I32 | Self::U32 | Self::I64)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::F64 => "f64",
            Self::C64 => "c64",
            Self::C128 => "c128",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::I64 => "i64",
            Self::U8 => "u8",
        })
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that can be the element of a tensor.
pub trait Element: bytemuck::Pod + sealed::Sealed + fmt::Debug + Send + Sync {
    /// The matching [`DType`].
    const DTYPE: DType;
}

macro_rules! element {
    ($($rust:ty => $dtype:ident),*) => {$(
        impl sealed::Sealed for $rust {}
        impl Element for $rust { const DTYPE: DType = DType::$dtype; }
    )*};
}
element!(f32 => F32, f16 => F16, bf16 => BF16, f64 => F64, Complex32 => C64, Complex64 => C128, i32 => I32, u32 => U32, i64 => I64, u8 => U8);
