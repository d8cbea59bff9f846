//! The device's status words: where kernels report bad values that only they could see.
//!
//! Kernels set word [`Status`] to a nonzero value. The next synchronising call reads the words, clears them and returns the
//! first as [`Error::DeviceValue`].

use crate::error::Error;

/// Number of `u32` status words a device keeps.
pub(crate) const STATUS_WORDS: usize = 8;

/// Index of a status word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Status {
    /// A sequence length is negative or larger than the tensor.
    Length = 0,
    /// A task id is not below the number of tasks.
    TaskId = 1,
    /// An angle or gate coefficient is NaN or infinite.
    Parameter = 2,
    /// A class label is not below the number of classes.
    Label = 3,
    /// The norm of a state is zero, infinite or NaN.
    Norm = 4,
    /// A page number is outside the cache.
    Page = 5,
    /// The number of a basis state is not below 2^qubits.
    Basis = 6,
}

impl Status {
    /// The error for the first word that is set.
    pub(crate) fn error(words: &[u32]) -> Option<Error> {
        let all = [
            (Self::Length, "a length that is negative or exceeds its tensor"),
            (Self::TaskId, "a task id that is not below the number of tasks"),
            (Self::Parameter, "a NaN or infinite parameter"),
            (Self::Label, "a label that is not below the number of classes"),
            (Self::Page, "a page number outside the cache"),
            (Self::Basis, "the number of a basis state that the circuit does not have"),
            (Self::Norm, "a state whose norm is zero, infinite or NaN"),
        ];
        let set = |status: Self| words.get(status as usize).is_some_and(|&word| word != 0);
        all.into_iter().find(|&(status, _)| set(status)).map(|(_, what)| Error::DeviceValue { what })
    }
}
