//! The crate's one error type: every failure names the operation, the argument and what would have been right.

use crate::device::Backend;
use crate::dtype::DType;

/// Result of every fallible call in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. A failed call leaves its inputs untouched and the device usable, unless it is [`Error::DeviceLost`].
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// An argument's shape does not fit the operation or the other arguments.
    #[error("{op}: `{arg}` has shape {got}, expected {expected}")]
    Shape {
        /// Public operation.
        op: &'static str,
        /// Argument name as in the operation's signature.
        arg: &'static str,
        /// The shape or rule that would have been accepted.
        expected: String,
        /// The shape given.
        got: String,
    },
    /// An argument's element type is not the one the operation needs.
    #[error("{op}: `{arg}` is {got}, expected {expected}")]
    DType {
        /// Public operation.
        op: &'static str,
        /// Argument name.
        arg: &'static str,
        /// Accepted element types.
        expected: String,
        /// The element type given.
        got: DType,
    },
    /// Arguments live on different devices.
    #[error("{op}: `{arg}` is on {got}, the other arguments are on {expected}")]
    Device {
        /// Public operation.
        op: &'static str,
        /// Argument name.
        arg: &'static str,
        /// Device of the first argument.
        expected: String,
        /// Device of this argument.
        got: String,
    },
    /// The call is legal but this backend or device cannot do it.
    #[error("{op} on {backend}: {what} is limited to {limit}, got {got}")]
    Unsupported {
        /// Public operation.
        op: &'static str,
        /// Backend that refused.
        backend: Backend,
        /// The limited quantity.
        what: &'static str,
        /// Largest accepted value, or what is accepted.
        limit: String,
        /// The value asked for.
        got: String,
    },
    /// A value (not a shape) is outside the operation's domain.
    #[error("{op}: `{arg}` {reason}")]
    InvalidArgument {
        /// Public operation.
        op: &'static str,
        /// Argument name.
        arg: &'static str,
        /// What is wrong with it, with the value.
        reason: String,
    },
    /// A task id is neither a known task nor the `NO_TASK` value.
    #[error("{op}: task id {got} is not below the number of tasks {tasks}")]
    TaskId {
        /// Public operation.
        op: &'static str,
        /// The id found.
        got: i64,
        /// Number of tasks.
        tasks: usize,
    },
    /// A kernel met a bad value in device memory; the sample's output is NaN. Reported by the next synchronising call.
    #[error("a kernel found {what} in device memory; the affected samples are NaN")]
    DeviceValue {
        /// What was found.
        what: &'static str,
    },
    /// Memory could not be had.
    #[error("out of memory: {requested} bytes requested, {available} available")]
    OutOfMemory {
        /// Bytes asked for.
        requested: u64,
        /// Bytes known to be available, 0 where the backend does not say.
        available: u64,
    },
    /// A backend cannot be used on this machine.
    #[error("{backend} is not available: {reason}")]
    BackendUnavailable {
        /// The backend.
        backend: Backend,
        /// Why, and what would help.
        reason: String,
    },
    /// A kernel did not compile.
    #[error("kernel `{kernel}` does not compile for {arch}:\n{log}")]
    Compile {
        /// Kernel entry.
        kernel: String,
        /// Target architecture or shading language.
        arch: String,
        /// Compiler output.
        log: String,
    },
    /// A kernel was refused or failed while running.
    #[error("kernel `{kernel}` failed: {code}")]
    Launch {
        /// Kernel entry.
        kernel: String,
        /// The driver's error code or message.
        code: String,
    },
    /// The device is gone; its tensors are lost.
    #[error("the device was lost: {reason}")]
    DeviceLost {
        /// What the driver said.
        reason: String,
    },
    /// A text could not be parsed.
    #[error("{file}:{line}:{column}: {message}")]
    Parse {
        /// File name as given.
        file: String,
        /// 1-based line.
        line: usize,
        /// 1-based column.
        column: usize,
        /// What is wrong.
        message: String,
    },
}

impl Error {
    pub(crate) fn shape(op: &'static str, arg: &'static str, expected: impl ToString, got: &[usize]) -> Self {
        Self::Shape { op, arg, expected: expected.to_string(), got: format!("{got:?}") }
    }

    pub(crate) fn argument(op: &'static str, arg: &'static str, reason: impl ToString) -> Self {
        Self::InvalidArgument { op, arg, reason: reason.to_string() }
    }
}
