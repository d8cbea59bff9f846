//! What a call asks for and what a backend's kernels can do: anything else is refused before a launch.

use super::problem::Storage;
use super::{AttentionGradientViews, Problem, Score};
use crate::device::Backend;
use crate::dtype::DType;
use crate::error::{Error, Result};

/// Something a call may ask for beyond masks by length and position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feature {
    Cosine,
    ComplexDot,
    Fidelity,
    Gaussian,
    Additive,
    Softcap,
    Window,
    Mask,
    Bias,
    Alibi,
    Sinks,
    Dropout,
    Packed,
    Paged,
    /// A gradient other than those of q, k, v and the row scale.
    OptionGradients,
}

/// The limits of a backend.
pub(crate) struct Capabilities {
    pub(crate) backend: Backend,
    pub(crate) dtypes: &'static [DType],
    /// Largest head and value dimension.
    pub(crate) dim: usize,
    pub(crate) features: &'static [Feature],
}

impl Feature {
    fn name(self) -> &'static str {
        match self {
            Self::Cosine => "a cosine score",
            Self::ComplexDot => "a score of complex vectors",
            Self::Fidelity => "a fidelity score",
            Self::Gaussian => "a Gaussian score",
            Self::Additive => "an additive score",
            Self::Softcap => "a soft cap",
            Self::Window => "a window",
            Self::Mask => "a boolean mask",
            Self::Bias => "a bias",
            Self::Alibi => "ALiBi slopes",
            Self::Sinks => "sinks",
            Self::Dropout => "dropout",
            Self::Packed => "packed sequences",
            Self::Paged => "a paged cache",
            Self::OptionGradients => "a gradient of bias, sinks, slopes, weights or scale",
        }
    }
}

impl Problem<'_> {
    fn features(&self, gradients: Option<&AttentionGradientViews<'_>>) -> impl Iterator<Item = Feature> {
        let score = match &self.score {
            Score::Dot => None,
            Score::Cosine => Some(Feature::Cosine),
            Score::ComplexDot => Some(Feature::ComplexDot),
            Score::Fidelity => Some(Feature::Fidelity),
            Score::Gaussian { .. } => Some(Feature::Gaussian),
            Score::Additive { .. } => Some(Feature::Additive),
        };
        let storage = match self.storage {
            Storage::Dense => None,
            Storage::Packed { .. } => Some(Feature::Packed),
            Storage::Paged { .. } => Some(Feature::Paged),
        };
        let options = [
            (self.softcap.is_some(), Feature::Softcap),
            (self.window.is_some(), Feature::Window),
            (self.mask.is_some(), Feature::Mask),
            (self.bias.is_some(), Feature::Bias),
            (self.alibi.is_some(), Feature::Alibi),
            (self.sinks.is_some(), Feature::Sinks),
            (self.dropout.is_some(), Feature::Dropout),
            (gradients.is_some_and(AttentionGradientViews::wants_options), Feature::OptionGradients),
        ];
        let options = options.into_iter().filter_map(|(asked, feature)| asked.then_some(feature));
        score.into_iter().chain(storage).chain(options)
    }

    /// Refuses what `can` does not list.
    pub(crate) fn within(
        &self,
        can: &Capabilities,
        gradients: Option<&AttentionGradientViews<'_>>,
    ) -> Result<()> {
        let refuse = |what, limit: String, got: String| {
            Err(Error::Unsupported { op: self.op, backend: can.backend, what, limit, got })
        };
        if !can.dtypes.contains(&self.dtype) {
            let names: Vec<String> = can.dtypes.iter().map(DType::to_string).collect();
            return refuse("element type", names.join(", "), self.dtype.to_string());
        }
        for (what, dim) in [("head dimension", self.head_dim), ("value dimension", self.value_dim)] {
            if dim > can.dim {
                return refuse(what, format!("1..={}", can.dim), dim.to_string());
            }
        }
        match self.features(gradients).find(|feature| !can.features.contains(feature)) {
            None => Ok(()),
            Some(feature) => refuse(feature.name(), "other calls".into(), feature.name().into()),
        }
    }
}
