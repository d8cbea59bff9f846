//! Gate parameters: constants, shared trainable values, per-sample inputs, and affine uses of them.

/// Where a variable parameter's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Variable {
    /// `theta[i]`, shared by every sample of the batch.
    Theta(usize),
    /// `inputs[sample, i]`: data, one value per sample.
    Input(usize),
}

/// A gate parameter, usually an angle in radians.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Parameter {
    /// The same value in every run.
    Constant(f64),
    /// `theta[i]`.
    Theta(usize),
    /// `inputs[sample, i]`.
    Input(usize),
    /// `scale · variable + offset`.
    Affine {
        /// Factor of the variable.
        scale: f64,
        /// The variable.
        of: Variable,
        /// Added constant.
        offset: f64,
    },
}

impl Parameter {
    /// `factor ·` this parameter.
    pub fn scaled(self, factor: f64) -> Self {
        match Angle::from(self) {
            Angle { of: None, offset, .. } => Self::Constant(factor * offset),
            Angle { of: Some(of), scale, offset } => {
                Self::Affine { scale: factor * scale, of, offset: factor * offset }
            }
        }
    }

    /// This parameter `+ amount`.
    pub fn shifted(self, amount: f64) -> Self {
        match Angle::from(self) {
            Angle { of: None, offset, .. } => Self::Constant(offset + amount),
            Angle { of: Some(of), scale, offset } => Self::Affine { scale, of, offset: offset + amount },
        }
    }
}

impl From<f64> for Parameter {
    fn from(value: f64) -> Self {
        Self::Constant(value)
    }
}

/// `scale · variable + offset`, the one form the compiler and the kernels know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Angle {
    pub(crate) of: Option<Variable>,
    pub(crate) scale: f64,
    pub(crate) offset: f64,
}

impl Angle {
    pub(crate) const fn constant(value: f64) -> Self {
        Self { of: None, scale: 0.0, offset: value }
    }

    pub(crate) fn scaled(self, factor: f64) -> Self {
        Self { of: self.of, scale: self.scale * factor, offset: self.offset * factor }
    }

    /// The sum, if it is still affine in at most one variable.
    pub(crate) fn plus(self, other: Self) -> Option<Self> {
        let of = match (self.of, other.of) {
            (Some(a), Some(b)) if a != b => return None,
            (a, b) => a.or(b),
        };
        let scale = self.scale + other.scale;
        // A variable that cancels is gone: keeping it would read a parameter for nothing.
        let of = of.filter(|_| scale != 0.0);
        Some(Self { of, scale, offset: self.offset + other.offset })
    }

    pub(crate) fn is_zero(self) -> bool {
        self.of.is_none() && self.offset == 0.0
    }
}

impl From<Parameter> for Angle {
    fn from(parameter: Parameter) -> Self {
        match parameter {
            Parameter::Constant(value) => Self::constant(value),
            Parameter::Theta(i) => Self { of: Some(Variable::Theta(i)), scale: 1.0, offset: 0.0 },
            Parameter::Input(i) => Self { of: Some(Variable::Input(i)), scale: 1.0, offset: 0.0 },
            Parameter::Affine { scale, of, offset } => Self { of: Some(of), scale, offset },
        }
    }
}
