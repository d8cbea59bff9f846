//! Circuits that encode classical data: an input per qubit, read again by every layer.

use super::circuit::Circuit;
use super::parameter::{Parameter, Variable};
use crate::error::Result;

/// Axis of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// RX.
    X,
    /// RY.
    Y,
    /// RZ.
    Z,
}

impl Circuit {
    /// Appends a rotation of every qubit q by `inputs[sample, q]` about the axis. About Z it follows a Hadamard on every qubit:
    /// alone it would leave |0…0⟩ as it is.
    ///
    /// # Errors
    /// As [`Circuit::controlled`]: fewer inputs were declared than there are qubits.
    pub fn angle_encoding(&mut self, axis: Axis) -> Result<&mut Self> {
        self.whole(|circuit| {
            for q in 0..circuit.qubits() {
                match axis {
                    Axis::X => circuit.rx(q, Parameter::Input(q))?,
                    Axis::Y => circuit.ry(q, Parameter::Input(q))?,
                    Axis::Z => circuit.h(q)?.rz(q, Parameter::Input(q))?,
                };
            }
            Ok(())
        })
    }

    /// Appends `layers` layers of an instantaneous quantum polynomial encoding: Hadamards, then the diagonal
    /// `exp(i Σ_q x_q Z_q + i Σ_{p<q} x_p x_q Z_p Z_q)` of the inputs x.
    ///
    /// A product of inputs is not an affine angle: the caller appends the products to each sample's inputs, so that a row holds
    /// x_0 … x_{n−1}, then x_p·x_q for p < q in the order (0,1), (0,2), …, (n−2, n−1): n(n+1)/2 values.
    /// [`iqp_inputs`](Self::iqp_inputs) does so.
    ///
    /// # Errors
    /// As [`Circuit::controlled`]: fewer inputs were declared than the n(n+1)/2 that are read.
    ///
    /// # Source
    /// Havlíček et al., arXiv:1804.11326, Eq. 1 with second-order terms.
    pub fn iqp_encoding(&mut self, layers: usize) -> Result<&mut Self> {
        let minus_twice =
            |input: usize| Parameter::Affine { scale: -2.0, of: Variable::Input(input), offset: 0.0 };
        self.whole(|circuit| {
            let n = circuit.qubits();
            for _ in 0..layers {
                for q in 0..n {
                    circuit.h(q)?;
                }
                for q in 0..n {
                    circuit.rz(q, minus_twice(q))?;
                }
                let pairs = (0..n).flat_map(|p| (p + 1..n).map(move |q| (p, q)));
                for (product, (p, q)) in pairs.enumerate() {
                    circuit.rzz(p, q, minus_twice(n + product))?;
                }
            }
            Ok(())
        })
    }

    /// The row of inputs that [`Circuit::iqp_encoding`] reads for the data x of one sample: x, then the products x_p·x_q, p < q.
    pub fn iqp_inputs(x: &[f32]) -> Vec<f32> {
        let products = (0..x.len()).flat_map(|p| x[p + 1..].iter().map(move |&other| x[p] * other));
        x.iter().copied().chain(products).collect()
    }

    /// Appends all or, on an error, nothing.
    fn whole(&mut self, build: impl FnOnce(&mut Self) -> Result<()>) -> Result<&mut Self> {
        let before = self.clone();
        match build(self) {
            Ok(()) => Ok(self),
            Err(error) => {
                *self = before;
                Err(error)
            }
        }
    }
}
