//! The states a run starts from.

use super::coefficients::Reals;
use super::lanes::{Float, WIDTH};

/// Where the amplitudes of each sample's first state come from.
pub(crate) enum Initial<'a> {
    /// |0…0⟩.
    Zero,
    /// A basis state for each sample.
    Basis(Vec<u32>),
    Rows(Rows<'a>),
}

/// Rows of amplitudes in host memory.
pub(crate) struct Rows<'a> {
    /// Real and imaginary parts in turn, or real amplitudes.
    pub(crate) values: Reals<'a>,
    pub(crate) complex: bool,
    /// Amplitudes from row to row, and given in each; the rest of the state is 0.
    pub(crate) step: usize,
    pub(crate) width: usize,
    /// Row of each sample.
    pub(crate) row: Vec<usize>,
    /// Factor of each row; none where all are 1.
    pub(crate) scale: Vec<f64>,
}

impl Rows<'_> {
    /// Amplitude `index` of a row.
    #[inline(always)]
    pub(crate) fn amplitude(&self, row: usize, index: usize) -> [f64; 2] {
        if index >= self.width {
            return [0.0; 2];
        }
        let at = row * self.step + index;
        let [re, im] = if self.complex {
            [self.values.at(2 * at), self.values.at(2 * at + 1)]
        } else {
            [self.values.at(at), 0.0]
        };
        match self.scale.get(row) {
            Some(scale) => [re * scale, im * scale],
            None => [re, im],
        }
    }
}

impl Initial<'_> {
    /// Amplitude `index` of the samples, one to a lane.
    #[inline(always)]
    pub(crate) fn lanes<F: Float>(&self, samples: &[usize; WIDTH], index: usize) -> ([F; WIDTH], [F; WIDTH]) {
        let (mut re, mut im) = ([F::ZERO; WIDTH], [F::ZERO; WIDTH]);
        for lane in 0..WIDTH {
            let value = self.amplitude(samples[lane], index);
            (re[lane], im[lane]) = (F::of(value[0]), F::of(value[1]));
        }
        (re, im)
    }

    /// Amplitude `index` of a sample.
    #[inline(always)]
    pub(crate) fn amplitude(&self, sample: usize, index: usize) -> [f64; 2] {
        match self {
            Self::Zero => [f64::from(u8::from(index == 0)), 0.0],
            Self::Basis(states) => [f64::from(u8::from(states[sample] as usize == index)), 0.0],
            Self::Rows(rows) => rows.amplitude(rows.row[sample], index),
        }
    }
}
