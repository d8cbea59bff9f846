//! Strided tensors with traps around them: inputs whose gaps hold NaN, outputs filled with poison and fenced by guard words.

use super::random::Random;
use gatewarp::{Device, Layout, Tensor, TensorMut, TensorRef};

/// What an output element holds before a launch: a NaN no computation produces, so an unwritten element is seen.
pub const POISON: u32 = 0x7fc0_dead;
/// What every other word of an output's allocation holds: an overrun changes one.
const GUARD: u32 = 0x7fe5_a5a5;
/// Words before and after the view.
const MARGIN: usize = 67;
/// A stride nobody may step by.
const CORRUPT: usize = 1 << 20;

/// How memory is laid out behind a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// Elements of the last dimension are adjacent, as every operand must have it.
    Contiguous,
    /// Any stride in the last dimension (log-sum-exp and row scales).
    Free,
}

/// A random layout of `shape`: dimensions stored in any order with gaps between them, an unaligned start, and a corrupt stride
/// on every dimension of size 1.
pub fn random_layout(shape: &[usize], inner: Inner, random: &mut Random) -> Layout {
    let rank = shape.len();
    let fixed = usize::from(inner == Inner::Contiguous && rank > 0);
    let mut order = random.permutation(rank - fixed);
    // From the innermost outwards.
    let mut inwards: Vec<usize> = (rank - fixed..rank).collect();
    inwards.append(&mut order);
    let mut strides = vec![0; rank];
    let mut step = 1;
    for (place, &dim) in inwards.iter().enumerate() {
        let gap = if random.one_in(2) && (place > 0 || inner == Inner::Free) { random.below(4) } else { 0 };
        step += gap;
        strides[dim] = if shape[dim] == 1 && dim + fixed != rank { CORRUPT + random.below(9) } else { step };
        step *= shape[dim].max(1);
    }
    if fixed == 1 && shape[rank - 1] == 1 && random.one_in(2) {
        strides[rank - 1] = CORRUPT + 1;
    }
    let offset = MARGIN + random.below(4);
    Layout::new(shape, &strides, offset).expect("a random layout is legal")
}

/// Index in memory of every element, in row-major order.
pub fn element_indices(layout: &Layout) -> Vec<usize> {
    let (shape, strides) = (layout.shape(), layout.strides());
    let mut at = vec![0; shape.len()];
    let mut out = Vec::with_capacity(layout.len());
    for _ in 0..layout.len() {
        let steps = at.iter().zip(strides).zip(shape).filter(|&(_, &n)| n > 1);
        out.push(layout.offset() + steps.map(|((i, s), _)| i * s).sum::<usize>());
        for dim in (0..shape.len()).rev() {
            at[dim] += 1;
            if at[dim] < shape[dim] {
                break;
            }
            at[dim] = 0;
        }
    }
    out
}

/// An input tensor behind a strided view. What lies between its elements is NaN.
pub struct Strided {
    memory: Tensor,
    layout: Layout,
    before: Vec<u32>,
}

impl Strided {
    /// `values` in row-major order of `layout`. Where strides of 0 repeat an element, its values must be equal.
    pub fn new(device: &Device, values: &[f32], layout: Layout) -> Self {
        let mut memory = vec![f32::from_bits(GUARD); layout.end() + MARGIN];
        assert_eq!(values.len(), layout.len(), "values do not fill {layout:?}");
        for (&at, &value) in element_indices(&layout).iter().zip(values) {
            memory[at] = value;
        }
        let before = memory.iter().map(|x| x.to_bits()).collect();
        let memory = Tensor::from_slice(device, &memory, &[memory.len()]).expect("input allocation");
        Self { memory, layout, before }
    }

    /// The view to pass to an operation.
    pub fn view(&self) -> TensorRef<'_> {
        self.memory.view().with_layout(self.layout).expect("the layout fits its allocation")
    }

    /// # Errors
    /// A message if a launch wrote anywhere in the allocation.
    pub fn check_untouched(&self, what: &str) -> Result<(), String> {
        let now: Vec<f32> = self.memory.to_vec().map_err(|error| format!("{what}: {error}"))?;
        match (0..now.len()).find(|&i| now[i].to_bits() != self.before[i]) {
            Some(at) => Err(format!("input {what} was written at word {at}")),
            None => Ok(()),
        }
    }
}

/// An output in the middle of a larger allocation: its elements poisoned, everything around them guard words.
pub struct Guarded {
    memory: Tensor,
    layout: Layout,
}

impl Guarded {
    /// A poisoned output of that layout.
    pub fn new(device: &Device, layout: Layout) -> Self {
        let mut memory = vec![f32::from_bits(GUARD); layout.end() + MARGIN];
        for at in element_indices(&layout) {
            memory[at] = f32::from_bits(POISON);
        }
        let memory = Tensor::from_slice(device, &memory, &[memory.len()]).expect("output allocation");
        Self { memory, layout }
    }

    /// The view to pass to an operation.
    pub fn view_mut(&mut self) -> TensorMut<'_> {
        self.memory.view_mut().with_layout(self.layout).expect("the layout fits its allocation")
    }

    /// The view, for an operation that reads what another wrote.
    pub fn view(&self) -> TensorRef<'_> {
        self.memory.view().with_layout(self.layout).expect("the layout fits its allocation")
    }

    /// The elements, of which `written` (row-major index) must have been written and the others not.
    ///
    /// # Errors
    /// A message if a guard word changed, an element was not written, or one was that should not have been.
    pub fn read_where(&self, what: &str, written: impl Fn(usize) -> bool) -> Result<Vec<f32>, String> {
        let memory: Vec<f32> = self.memory.to_vec().map_err(|error| format!("{what}: {error}"))?;
        let indices = element_indices(&self.layout);
        let mut inside = vec![false; memory.len()];
        indices.iter().for_each(|&at| inside[at] = true);
        if let Some(at) = (0..memory.len()).find(|&at| !inside[at] && memory[at].to_bits() != GUARD) {
            let layout = self.layout;
            return Err(format!(
                "{what}: wrote {:e} outside its elements, at word {at} of {layout:?}",
                memory[at]
            ));
        }
        let values: Vec<f32> = indices.iter().map(|&at| memory[at]).collect();
        for (index, value) in values.iter().enumerate() {
            match (value.to_bits() == POISON, written(index)) {
                (true, true) => return Err(format!("{what}[{index}] was not written")),
                (false, false) => return Err(format!("{what}[{index}] was written: {value:e}")),
                _ => {}
            }
        }
        Ok(values)
    }

    /// The elements, all of which must have been written.
    ///
    /// # Errors
    /// As [`Guarded::read_where`].
    pub fn read(&self, what: &str) -> Result<Vec<f32>, String> {
        self.read_where(what, |_| true)
    }
}
