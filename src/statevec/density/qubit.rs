//! ρ(t+1) = S(ρ(t), x(t)) of one qubit.

use super::kraus::KrausChannel;
use super::qubit_run;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::statevec::parameter::{Angle, Parameter, Variable};
use crate::tensor::{Layout, Tensor, TensorRef};
use crate::validate;

const OP: &str = "QubitChannel";

/// Most operations of one step.
const MAX_OPERATIONS: usize = 1 << 12;

/// What an operation does to the Bloch vector; the numbers are `Code` in qubit.cuh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Code {
    RotateX = 0,
    RotateY = 1,
    RotateZ = 2,
    Depolarize = 3,
    KeepX = 4,
    KeepY = 5,
    KeepZ = 6,
    Amplitude = 7,
    Phase = 8,
    Affine = 9,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Operation {
    pub(super) code: Code,
    pub(super) angle: Angle,
    /// Rows of (M, c): r → M·r + trace·c.
    pub(super) affine: [[f64; 4]; 3],
}

/// One step S(ρ, x) of one qubit: rotations and channels in order, with parameters that are constants, shared `theta`, or the
/// step's inputs.
///
/// ```
/// # fn main() -> gatewarp::Result<()> {
/// use gatewarp::statevec::{Parameter, QubitChannel, QubitSequences};
/// use gatewarp::{Complex32, Device, Tensor};
/// let mut step = QubitChannel::new();
/// step.rx(Parameter::Input(0))?.amplitude_damping(0.5)?;
/// let x = Tensor::from_slice(&Device::cpu(), &[std::f32::consts::PI, 0.0], &[1, 2, 1])?;
/// let rho = step.iterate(&QubitSequences::new(x.view()))?.to_vec::<Complex32>()?;
/// // Excited populations: 0, then a half of 1, then a quarter.
/// assert!((rho[7].re - 0.5).abs() < 1e-6 && (rho[11].re - 0.25).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QubitChannel {
    pub(super) operations: Vec<Operation>,
    thetas: usize,
    inputs: usize,
}

/// Sequences of inputs, and where they start.
#[derive(Clone, Debug)]
pub struct QubitSequences<'a> {
    /// `[batch, steps, inputs]` f32: one row of inputs a step.
    pub x: TensorRef<'a>,
    /// `[thetas]` f32, contiguous, on x's device.
    pub theta: Option<TensorRef<'a>>,
    /// `[batch | 1, 2, 2]` c64, contiguous, on x's device; |0⟩⟨0| if absent. Its Hermitian part is taken.
    pub initial: Option<TensorRef<'a>>,
}

impl<'a> QubitSequences<'a> {
    /// Sequences that start from |0⟩⟨0|, without shared parameters.
    pub fn new(x: impl Into<TensorRef<'a>>) -> Self {
        Self { x: x.into(), theta: None, initial: None }
    }

    /// Sets the shared parameters.
    pub fn theta(self, theta: impl Into<TensorRef<'a>>) -> Self {
        Self { theta: Some(theta.into()), ..self }
    }

    /// Sets ρ(0).
    pub fn initial(self, initial: impl Into<TensorRef<'a>>) -> Self {
        Self { initial: Some(initial.into()), ..self }
    }
}

/// Gradients of a whole sequence.
#[derive(Debug)]
pub struct QubitGradients {
    /// `[batch, steps, inputs]` f32.
    pub x: Tensor,
    /// `[thetas]` f32, summed over the batch in order.
    pub theta: Tensor,
    /// `[batch, 2, 2]` c64: ∂/∂Re + i·∂/∂Im of the entries of each sequence's ρ(0).
    pub initial: Tensor,
}

/// A checked call.
pub(super) struct Call<'a> {
    pub(super) op: &'static str,
    pub(super) channel: &'a QubitChannel,
    pub(super) given: &'a QubitSequences<'a>,
    pub(super) device: &'a Device,
    pub(super) batch: usize,
    pub(super) steps: usize,
    pub(super) inputs: usize,
    pub(super) thetas: usize,
}

/// Operations. Each fails as [`QubitChannel::rx`].
#[allow(clippy::missing_errors_doc)]
impl QubitChannel {
    /// The identity, to add operations to.
    pub fn new() -> Self {
        Self::default()
    }

    /// ρ → e^{−iθX/2} ρ e^{iθX/2}.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a constant is not finite (for a channel: outside 0 to 1), an index is 2³⁰ or above, or there
    /// are 4096 operations.
    pub fn rx(&mut self, angle: impl Into<Parameter>) -> Result<&mut Self> {
        self.push(Code::RotateX, angle.into())
    }

    /// ρ → e^{−iθY/2} ρ e^{iθY/2}.
    pub fn ry(&mut self, angle: impl Into<Parameter>) -> Result<&mut Self> {
        self.push(Code::RotateY, angle.into())
    }

    /// ρ → e^{−iθZ/2} ρ e^{iθZ/2}.
    pub fn rz(&mut self, angle: impl Into<Parameter>) -> Result<&mut Self> {
        self.push(Code::RotateZ, angle.into())
    }

    /// ρ → (1−p)ρ + p·Tr ρ/2.
    pub fn depolarizing(&mut self, p: impl Into<Parameter>) -> Result<&mut Self> {
        self.push(Code::Depolarize, p.into())
    }

    /// X with probability p.
    pub fn bit_flip(&mut self, p: impl Into<Parameter>) -> Result<&mut Self> {
        self.push(Code::KeepX, p.into())
    }

    /// Y with probability p.
    pub fn bit_phase_flip(&mut self, p: impl Into<Parameter>) -> Result<&mut Self> {
        self.push(Code::KeepY, p.into())
    }

    /// Z with probability p.
    pub fn phase_flip(&mut self, p: impl Into<Parameter>) -> Result<&mut Self> {
        self.push(Code::KeepZ, p.into())
    }

    /// |1⟩ decays to |0⟩ with probability γ. At γ = 1 the derivative of the coherence, which is vertical there, counts as 0.
    pub fn amplitude_damping(&mut self, gamma: impl Into<Parameter>) -> Result<&mut Self> {
        self.push(Code::Amplitude, gamma.into())
    }

    /// Coherence shrinks by √(1−λ). At λ = 1 as [`QubitChannel::amplitude_damping`].
    pub fn phase_damping(&mut self, lambda: impl Into<Parameter>) -> Result<&mut Self> {
        self.push(Code::Phase, lambda.into())
    }

    /// Any constant channel on one qubit, unitaries among them.
    pub fn kraus(&mut self, channel: &KrausChannel) -> Result<&mut Self> {
        let Some(affine) = channel.bloch() else {
            return Err(Error::argument(
                OP,
                "channel",
                format!("acts on {} qubits, not on one", channel.qubits()),
            ));
        };
        self.add(Operation { code: Code::Affine, angle: Angle::constant(0.0), affine })
    }

    fn push(&mut self, code: Code, parameter: Parameter) -> Result<&mut Self> {
        self.add(Operation { code, angle: parameter.into(), affine: [[0.0; 4]; 3] })
    }

    fn add(&mut self, operation: Operation) -> Result<&mut Self> {
        let Angle { of, scale, offset } = operation.angle;
        let is_rotation = (operation.code as u32) <= Code::RotateZ as u32;
        if !scale.is_finite() || !offset.is_finite() {
            return Err(Error::argument(OP, "parameter", format!("{:?} is not finite", operation.angle)));
        }
        if of.is_none() && !is_rotation && !(0.0..=1.0).contains(&offset) {
            return Err(Error::argument(OP, "parameter", format!("{offset} is not a probability")));
        }
        let count = match of {
            Some(Variable::Theta(i) | Variable::Input(i)) if i >= 1 << 30 => {
                return Err(Error::argument(OP, "parameter", format!("index {i} is out of range")));
            }
            Some(Variable::Theta(i)) => (i + 1, 0),
            Some(Variable::Input(i)) => (0, i + 1),
            None => (0, 0),
        };
        if self.operations.len() >= MAX_OPERATIONS {
            return Err(Error::argument(OP, "operations", format!("are more than {MAX_OPERATIONS}")));
        }
        (self.thetas, self.inputs) = (self.thetas.max(count.0), self.inputs.max(count.1));
        self.operations.push(operation);
        Ok(self)
    }
}

impl QubitChannel {
    /// Fewest shared parameters a call must give.
    pub fn thetas(&self) -> usize {
        self.thetas
    }

    /// Fewest inputs a step must have.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Every ρ(t), `[batch, steps + 1, 2, 2]` c64, ρ(0) first: one launch, a sequence a thread.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DType`], [`Error::Device`] or [`Error::InvalidArgument`] naming the argument, also for a parameter
    /// in host memory that is not finite, or no probability where one is needed. In device memory such a parameter makes the
    /// sequence NaN from that step on, and the next synchronising call returns [`Error::DeviceValue`].
    pub fn iterate(&self, sequences: &QubitSequences<'_>) -> Result<Tensor> {
        qubit_run::forward(&self.check("density_qubit_iterate", sequences)?)
    }

    /// Gradients from those of every ρ(t).
    ///
    /// `states`: what [`QubitChannel::iterate`] returned; `grads [batch, steps + 1, 2, 2]` c64, ∂L/∂Re + i·∂L/∂Im of each entry;
    /// both contiguous. States are recomputed within each step; nothing but `states` is kept between the passes.
    ///
    /// # Errors
    /// As [`QubitChannel::iterate`].
    pub fn iterate_backward(
        &self,
        sequences: &QubitSequences<'_>,
        states: &TensorRef<'_>,
        grads: &TensorRef<'_>,
    ) -> Result<QubitGradients> {
        let call = self.check("density_qubit_backward", sequences)?;
        for (arg, tensor) in [("states", states), ("grads", grads)] {
            validate::shape(call.op, arg, tensor, &[call.batch, call.steps + 1, 2, 2])?;
            validate::tensor(call.op, arg, tensor, DType::C64, call.device)?;
            validate::contiguous(call.op, arg, tensor)?;
        }
        qubit_run::backward(&call, states, grads)
    }

    fn check<'a>(&'a self, op: &'static str, given: &'a QubitSequences<'a>) -> Result<Call<'a>> {
        let device = given.x.device();
        let &[batch, steps, inputs] = given.x.shape() else {
            return Err(Error::shape(op, "x", "[batch, steps, inputs]", given.x.shape()));
        };
        if inputs < self.inputs {
            return Err(Error::shape(op, "x", format!("at least {} inputs", self.inputs), given.x.shape()));
        }
        validate::tensor(op, "x", &given.x, DType::F32, device)?;
        let thetas = match &given.theta {
            None if self.thetas == 0 => 0,
            None => return Err(Error::argument(op, "theta", format!("is missing: [{}]", self.thetas))),
            Some(theta) => {
                let &[thetas] = theta.shape() else {
                    return Err(Error::shape(op, "theta", "[thetas]", theta.shape()));
                };
                if thetas < self.thetas {
                    return Err(Error::shape(
                        op,
                        "theta",
                        format!("at least [{}]", self.thetas),
                        theta.shape(),
                    ));
                }
                validate::tensor(op, "theta", theta, DType::F32, device)?;
                validate::contiguous(op, "theta", theta)?;
                thetas
            }
        };
        if let Some(initial) = &given.initial {
            if initial.shape() != [batch, 2, 2] && initial.shape() != [1, 2, 2] {
                return Err(Error::shape(op, "initial", format!("[{batch} or 1, 2, 2]"), initial.shape()));
            }
            validate::tensor(op, "initial", initial, DType::C64, device)?;
            validate::contiguous(op, "initial", initial)?;
        }
        // The states' layout is checked here, so that no size overflows later.
        Layout::contiguous(&[batch, steps.saturating_add(1), 2, 2])?;
        Ok(Call { op, channel: self, given, device, batch, steps, inputs, thetas })
    }
}
