//! NaN-safe comparison, and outputs that show what was not written and what was written beside them.

use super::Failure;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::{Layout, Tensor, TensorMut, TensorRef};
use num_complex::Complex32;

/// Fills outputs before a launch: a NaN that no computation produces.
const POISON: u32 = 0x7fc1_2345;
/// Fills the allocation around them.
const GUARD: u32 = 0x7fe6_789a;
/// Words before and after an output. Odd, so that no output starts at an aligned address.
const MARGIN: usize = 35;

/// A row-major output in the middle of a larger allocation.
pub(super) struct Output {
    memory: Tensor,
    layout: Layout,
}

impl Output {
    /// An f32 output.
    pub(super) fn new(device: &Device, shape: &[usize]) -> Result<Self> {
        Self::of(device, DType::F32, shape)
    }

    /// An output of f32 or c64 elements.
    pub(super) fn of(device: &Device, dtype: DType, shape: &[usize]) -> Result<Self> {
        let dense = Layout::contiguous(shape)?;
        let layout = Layout::new(shape, dense.strides(), MARGIN)?;
        let (words, count) = (dtype.size() / size_of::<f32>(), dense.len() + 2 * MARGIN);
        let mut memory = vec![f32::from_bits(GUARD); count * words];
        memory[MARGIN * words..(MARGIN + dense.len()) * words].fill(f32::from_bits(POISON));
        let memory = if dtype == DType::C64 {
            Tensor::from_slice::<Complex32>(device, bytemuck::cast_slice(&memory), &[count])?
        } else {
            Tensor::from_slice(device, &memory, &[count])?
        };
        Ok(Self { memory, layout })
    }

    pub(super) fn view(&self) -> Result<TensorRef<'_>> {
        self.memory.view().with_layout(self.layout)
    }

    pub(super) fn view_mut(&mut self) -> Result<TensorMut<'_>> {
        self.memory.view_mut().with_layout(self.layout)
    }

    /// The elements (re and im of complex ones), after checking that nothing was written around them. An unwritten one is still poison, which
    /// [`Comparison::check`] recognises.
    pub(super) fn read(&self, name: &str) -> std::result::Result<Vec<f32>, Failure> {
        let memory: Vec<f32> = if self.memory.dtype() == DType::C64 {
            bytemuck::cast_slice(&self.memory.to_vec::<Complex32>()?).to_vec()
        } else {
            self.memory.to_vec()?
        };
        let words = self.memory.dtype().size() / size_of::<f32>();
        let (start, end) = (MARGIN * words, (MARGIN + self.layout.len()) * words);
        match (0..start).chain(end..memory.len()).find(|&at| memory[at].to_bits() != GUARD) {
            Some(at) => Err(Failure::Wrong(format!(
                "{name}: word {at} of the allocation, outside {start}..{end}, was written"
            ))),
            None => Ok(memory[start..end].to_vec()),
        }
    }
}

/// The expected value of an element and how far off it may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) value: f64,
    pub(super) tolerance: f64,
}

/// The worst error seen, as a share of what is allowed.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) worst: f64,
}

impl Comparison {
    /// Compares lengths, then the class of each element (NaN, +∞, −∞, finite), then the difference. `None` marks an element
    /// that must not have been written.
    pub(super) fn check(
        &mut self,
        name: &str,
        got: &[f32],
        want: &[Option<Expected>],
    ) -> std::result::Result<(), Failure> {
        if got.len() != want.len() {
            return Err(Failure::Wrong(format!("{name}: {} elements, expected {}", got.len(), want.len())));
        }
        for (at, (&got, want)) in got.iter().zip(want).enumerate() {
            let wrong = |reason: String| Err(Failure::Wrong(format!("{name}[{at}] {reason}")));
            match (want, got.to_bits() == POISON) {
                (None, true) => continue,
                (None, false) => {
                    return wrong(format!("was written ({got:e}), though nothing belongs there"));
                }
                (Some(_), true) => return wrong("was not written".into()),
                (Some(want), false) => {
                    let share = share_of_tolerance(got.into(), *want);
                    // Negated, so that a NaN share fails.
                    if !(share <= 1.0) {
                        return wrong(format!(
                            "is {got:e}, expected {:e} within {:e}",
                            want.value, want.tolerance
                        ));
                    }
                    self.worst = self.worst.max(share);
                }
            }
        }
        Ok(())
    }
}

impl Comparison {
    /// Compares a state, given as (re, im) pairs, by ‖got − want‖₂. `want` is finite.
    pub(super) fn check_norm(
        &mut self,
        name: &str,
        got: &[f32],
        want: &[f64],
        tolerance: f64,
    ) -> std::result::Result<(), Failure> {
        if got.len() != want.len() {
            return Err(Failure::Wrong(format!("{name}: {} numbers, expected {}", got.len(), want.len())));
        }
        // Poison and any other number that is not finite make the sum so too.
        let square: f64 = got.iter().zip(want).map(|(&got, want)| (f64::from(got) - want).powi(2)).sum();
        let share = square.sqrt() / tolerance;
        if share <= 1.0 {
            self.worst = self.worst.max(share);
            return Ok(());
        }
        Err(Failure::Wrong(format!("{name} is off by {:e} in norm, allowed {tolerance:e}", square.sqrt())))
    }
}

fn share_of_tolerance(got: f64, want: Expected) -> f64 {
    if got.is_finite() && want.value.is_finite() {
        let error = (got - want.value).abs();
        return if error == 0.0 { 0.0 } else { error / want.tolerance };
    }
    let same_class = (got.is_nan() && want.value.is_nan()) || got == want.value;
    if same_class { 0.0 } else { f64::INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(got: f32, value: f64, tolerance: f64) -> bool {
        Comparison::default().check("x", &[got], &[Some(Expected { value, tolerance })]).is_ok()
    }

    #[test]
    fn classes_come_before_differences() {
        assert!(accepts(1.5, 1.0, 0.5) && !accepts(1.5, 1.0, 0.4));
        assert!(
            !accepts(f32::NAN, 1.0, 1.0) && !accepts(1.0, f64::NAN, 1.0) && accepts(f32::NAN, f64::NAN, 0.0)
        );
        assert!(
            !accepts(f32::INFINITY, f64::NEG_INFINITY, 1.0) && accepts(f32::INFINITY, f64::INFINITY, 0.0)
        );
        assert!(!accepts(f32::INFINITY, 1.0, f64::INFINITY) && !accepts(1.5, 1.0, f64::NAN));
        assert!(Comparison::default().check("x", &[1.0], &[]).is_err());
    }

    #[test]
    fn states_are_compared_in_norm() {
        let accepts = |got: &[f32], tolerance| {
            Comparison::default().check_norm("x", got, &[0.0, 0.0], tolerance).is_ok()
        };
        assert!(accepts(&[3.0, 4.0], 5.0) && !accepts(&[3.0, 4.0], 4.9));
        assert!(
            !accepts(&[f32::NAN, 0.0], 5.0) && !accepts(&[f32::INFINITY, 0.0], 5.0) && !accepts(&[0.0], 5.0)
        );
        let poison = Output::of(&Device::cpu(), DType::C64, &[1]).unwrap().read("x").unwrap();
        assert!(poison.len() == 2 && !accepts(&poison, 5.0));
    }

    #[test]
    fn poison_and_guards_are_seen() {
        let mut output = Output::new(&Device::cpu(), &[2, 2]).unwrap();
        let poison = output.read("x").unwrap();
        let zero = Some(Expected { value: 0.0, tolerance: 1.0 });
        assert!(Comparison::default().check("x", &poison, &[None; 4]).is_ok());
        assert!(Comparison::default().check("x", &poison, &[None, None, None, zero]).is_err());
        assert!(Comparison::default().check("x", &[0.0; 4], &[zero, zero, zero, None]).is_err());
        let wider = Layout::new(&[1], &[1], MARGIN + 4).unwrap();
        output.layout = wider;
        assert!(
            matches!(output.read("x"), Err(Failure::Wrong(_))),
            "poison beside an element is not a guard word"
        );
    }
}
