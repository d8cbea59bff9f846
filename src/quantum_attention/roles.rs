//! What the three circuits of a layer are run on.

use super::{QuantumAttention, Thetas};
use crate::device::{Backend, Device};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::statevec::Batch;
use crate::tensor::{Layout, Tensor, TensorRef};
use crate::validate;

/// Sequences and tokens of a sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) length: usize,
}

impl Sizes {
    /// States of each role.
    pub(super) fn samples(self) -> usize {
        self.batch * self.length
    }

    /// `[batch · length, width]`, contiguous.
    pub(super) fn flat(self, width: usize) -> Result<Layout> {
        Layout::contiguous(&[self.samples(), width])
    }
}

/// `[batch · length, width]` as attention takes it, `[batch, 1, length, width]`; complex elements as two real ones.
pub(super) fn as_heads<'a>(rows: &'a Tensor, sizes: Sizes) -> Result<TensorRef<'a>> {
    let view = if rows.dtype() == DType::F32 { rows.view() } else { rows.view().as_real()? };
    let width = view.shape()[1];
    view.with_layout(Layout::contiguous(&[sizes.batch, 1, sizes.length, width])?)
}

/// One of the three circuits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Query,
    Key,
    Value,
}

/// A call's inputs, validated, from which each circuit's batch is made.
pub(super) struct Roles<'a> {
    pub(super) device: Device,
    pub(super) sizes: Sizes,
    pub(super) features: usize,
    x: TensorRef<'a>,
    /// `[batch · length]`: the task of every token.
    tasks: Tensor,
    thetas: &'a Thetas<'a>,
    /// Inputs that each circuit reads.
    inputs: [usize; 3],
}

impl<'a> Roles<'a> {
    pub(super) fn new(
        op: &'static str,
        layer: &QuantumAttention,
        x: &TensorRef<'a>,
        tasks: &TensorRef<'_>,
        thetas: &'a Thetas<'a>,
    ) -> Result<Self> {
        let &[batch, length, features] = x.shape() else {
            return Err(Error::shape(op, "x", "[batch, length, features]", x.shape()));
        };
        let device = x.device().clone();
        validate::tensor(op, "x", x, DType::F32, &device)?;
        validate::contiguous(op, "x", x)?;
        let sizes = Sizes { batch, length };
        let inputs = [&layer.query, &layer.key, &layer.value].map(|program| program.inputs());
        if let Some(&most) = inputs.iter().max().filter(|&&most| most > features) {
            return Err(Error::shape(op, "x", format!("[batch, length, {most} or more]"), x.shape()));
        }
        let ids = task_of_every_token(op, tasks, sizes)?;
        let tasks = Tensor::from_slice(&Device::cpu(), &ids, &[ids.len()])?;
        Ok(Self { device, sizes, features, x: x.clone(), tasks, thetas, inputs })
    }

    /// What the circuit of a role is run on.
    pub(super) fn batch(&self, role: Role) -> Result<Batch<'_>> {
        let (theta, inputs) = match role {
            Role::Query => (&self.thetas.query, self.inputs[0]),
            Role::Key => (&self.thetas.key, self.inputs[1]),
            Role::Value => (&self.thetas.value, self.inputs[2]),
        };
        let strides = [self.features, 1];
        let layout = Layout::new(&[self.sizes.samples(), inputs], &strides, self.x.layout().offset())?;
        let batch = Batch::new(&self.device, self.sizes.samples()).theta(theta.clone()).tasks(&self.tasks);
        Ok(batch.inputs(self.x.with_layout(layout)?))
    }
}

/// The task of every token, from the task of every sequence.
fn task_of_every_token(op: &'static str, tasks: &TensorRef<'_>, sizes: Sizes) -> Result<Vec<i64>> {
    validate::shape(op, "tasks", tasks, &[sizes.batch])?;
    if tasks.device().backend() != Backend::Cpu {
        let (expected, got) = ("the host".into(), tasks.device().name());
        return Err(Error::Device { op, arg: "tasks", expected, got });
    }
    let ids: Vec<i64> = match tasks.dtype() {
        DType::I32 => tasks.to_vec::<i32>()?.into_iter().map(i64::from).collect(),
        DType::U32 => tasks.to_vec::<u32>()?.into_iter().map(i64::from).collect(),
        DType::I64 => tasks.to_vec::<i64>()?,
        got => return Err(Error::DType { op, arg: "tasks", expected: "i32, u32 or i64".into(), got }),
    };
    Ok(ids.into_iter().flat_map(|id| std::iter::repeat_n(id, sizes.length)).collect())
}
