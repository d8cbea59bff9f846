//! The parts of a call that are not attention, each one launch on a GPU. Forward and backward are the same sequence of steps
//! on every backend.

use super::problem::{Problem, Sizes};
use super::rows::Starts;
use crate::device::{Device, Kind};
use crate::error::Result;
use crate::tensor::{TensorMut, TensorRef};

/// Which pairs a list is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Select {
    /// Gate neither 0 nor NaN: the pairs to compute.
    Active = 0,
    /// Gate exactly 0: the pairs whose ungated output an exact gate derivative needs.
    Zero = 1,
}

/// Where a list of pairs is written; fields as in [`crate::attention::ActiveHeads`].
pub(super) struct ListViews<'a> {
    pub(super) order: TensorMut<'a>,
    pub(super) kv_order: TensorMut<'a>,
    pub(super) counts: TensorMut<'a>,
    pub(super) active: TensorMut<'a>,
}

/// Whose rows a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Owner {
    /// (sample, head): `order` and `counts[0]`.
    Head = 0,
    /// (sample, key head): `kv_order` and `counts[1]`.
    KeyHead = 1,
}

/// The rows attention was not launched over.
pub(super) struct Fill<'a> {
    pub(super) owner: Owner,
    /// `order` or `kv_order`.
    pub(super) order: TensorRef<'a>,
    pub(super) counts: TensorRef<'a>,
    pub(super) gates: TensorRef<'a>,
    /// What rows whose gates are 0 hold; those with a NaN gate hold NaN.
    pub(super) value: f32,
    /// The target is freshly zeroed, so zeros need not be written.
    pub(super) zeroed: bool,
    /// Which rows are a sample's, if the target's are packed.
    pub(super) starts: Option<&'a Starts<'a>>,
}

/// What is summed over a pair's rows.
#[derive(Clone)]
pub(super) enum RowSum<'a> {
    /// Σ over rows and columns of `a·b`, both `[batch, heads, rows, columns]`; or a with a dimension of tasks after the batch, all of
    /// which share b.
    Products(TensorRef<'a>, TensorRef<'a>),
    /// Σ over rows, `[batch, heads, rows]`.
    Rows(TensorRef<'a>),
}

/// Which of the pairs whose `mask` is 1 are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Among {
    /// All.
    Masked = 0,
    /// Those whose gate is neither 0 nor NaN.
    Active = 1,
    /// Those whose gate is not NaN.
    Numbers = 2,
}

/// δ of the pairs with `mask` 1.
pub(super) struct Delta<'a> {
    pub(super) sum: RowSum<'a>,
    /// `[batch, heads]` u32: without the tasks.
    pub(super) mask: TensorRef<'a>,
    pub(super) among: Among,
    pub(super) gates: TensorRef<'a>,
    /// The sums are still to be multiplied by the gates.
    pub(super) times_gate: bool,
    /// Other pairs are left as they are; otherwise they become 0, or NaN where the gate is NaN.
    pub(super) keep_others: bool,
    /// Which rows are a sample's, if they are packed.
    pub(super) starts: Option<&'a Starts<'a>>,
}

impl Delta<'_> {
    /// Tasks that share what is summed: 1 unless `a` has a dimension of them.
    pub(super) fn tasks(&self) -> usize {
        match &self.sum {
            RowSum::Products(a, _) if a.shape().len() == 5 => a.shape()[1],
            _ => 1,
        }
    }

    /// Rows, at most, and columns of a pair.
    pub(super) fn shape(&self) -> [usize; 2] {
        let [rows, columns] = match &self.sum {
            RowSum::Products(_, b) => [b.shape()[2], b.shape()[3]],
            RowSum::Rows(rows) => [rows.shape()[2], 1],
        };
        [self.starts.map_or(rows, |starts| starts.most), columns]
    }

    /// Steps of `a` along batch, tasks, heads and rows.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(super) fn a_steps(&self) -> [usize; 4] {
        let (RowSum::Products(a, _) | RowSum::Rows(a)) = &self.sum;
        let step = |i: usize| a.layout().step(i);
        if a.shape().len() == 5 {
            [step(0), step(1), step(2), step(3)]
        } else {
            [step(0), 0, step(1), step(2)]
        }
    }
}

/// One implementation per backend. Tensors named `gates`, `probabilities`, `delta`, `dz` are contiguous `[batch, heads]` f32.
pub(super) trait Steps {
    /// Gates and probabilities of every pair, from `scores` `[batch, heads]` if z was computed, otherwise from the source. A sample
    /// with a bad task id gets NaN, and the device's status word is set.
    fn gate(
        &self,
        problem: &Problem<'_>,
        scores: Option<&TensorRef<'_>>,
        gates: &mut TensorMut<'_>,
        probabilities: &mut TensorMut<'_>,
    ) -> Result<()>;

    /// The stable list of the selected pairs. A key head is listed if one of its group is and none of the group's gates is NaN:
    /// its gradients are then NaN without being computed.
    fn compact(
        &self,
        sizes: &Sizes,
        select: Select,
        gates: &TensorRef<'_>,
        list: &mut ListViews<'_>,
    ) -> Result<()>;

    /// Writes the rows `[batch, owners, rows, columns]`, of any type that attention writes, of the pairs after the first `counts` in
    /// the list.
    fn fill(&self, sizes: &Sizes, fill: &Fill<'_>, target: &mut TensorMut<'_>) -> Result<()>;

    /// Sums over each masked pair's rows, in an order that depends on nothing but their number.
    fn delta(&self, sizes: &Sizes, delta: &Delta<'_>, out: &mut TensorMut<'_>) -> Result<()>;

    /// Derivative by z of every pair.
    fn gate_backward(
        &self,
        problem: &Problem<'_>,
        delta: &TensorRef<'_>,
        gates: &TensorRef<'_>,
        probabilities: &TensorRef<'_>,
        dz: &mut TensorMut<'_>,
    ) -> Result<()>;

    /// `out[t,h] = Σ_b dz[b,h]` over the samples of task t, in ascending order. Needs a static source.
    fn sum_by_task(&self, problem: &Problem<'_>, dz: &TensorRef<'_>, out: &mut TensorMut<'_>) -> Result<()>;
}

/// The steps of a device.
pub(super) fn steps(device: &Device) -> Box<dyn Steps + '_> {
    match &device.0 {
        Kind::Cpu => Box::new(super::cpu::CpuSteps),
        #[cfg(feature = "wgpu")]
        Kind::Wgpu(device) => Box::new(super::wgpu::WgpuSteps(device)),
        #[cfg(feature = "cuda")]
        Kind::Cuda(device) => Box::new(super::cuda::CudaSteps(device)),
    }
}
