//! NaN-safe comparison, and outputs that show what was not written and what was written beside them.

use super::Failure;
use crate::device::Device;
use crate::error::Result;
use crate::tensor::{Layout, Tensor, TensorMut, TensorRef};

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
    pub(super) fn new(device: &Device, shape: &[usize]) -> Result<Self> {
        let dense = Layout::contiguous(shape)?;
        let layout = Layout::new(shape, dense.strides(), MARGIN)?;
        let mut words = vec![f32::from_bits(GUARD); dense.len() + 2 * MARGIN];
        words[MARGIN..MARGIN + dense.len()].fill(f32::from_bits(POISON));
        Ok(Self { memory: Tensor::from_slice(device, &words, &[words.len()])?, layout })
    }

    pub(super) fn view(&self) -> Result<TensorRef<'_>> {
        self.memory.view().with_layout(self.layout)
    }

    pub(super) fn view_mut(&mut self) -> Result<TensorMut<'_>> {
        self.memory.view_mut().with_layout(self.layout)
    }

    /// The elements, after checking that nothing was written around them. An unwritten one is still poison, which
    /// [`Comparison::check`] recognises.
    pub(super) fn read(&self, name: &str) -> std::result::Result<Vec<f32>, Failure> {
        let memory: Vec<f32> = self.memory.to_vec()?;
        let end = MARGIN + self.layout.len();
        let outside = (0..MARGIN).chain(end..memory.len());
        match outside.into_iter().find(|&at| memory[at].to_bits() != GUARD) {
            Some(at) => Err(Failure::Wrong(format!(
                "{name}: word {at} of the allocation, outside {MARGIN}..{end}, was written"
            ))),
            None => Ok(memory[MARGIN..end].to_vec()),
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
