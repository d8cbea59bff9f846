//! Attention between quantum states: encode, apply each task's circuits, attend by state overlap, mix, measure.
//!
//! A batch of sequences `x [batch, length, features]` becomes `batch · length` states three times over, by a circuit for queries,
//! one for keys and one for values; each circuit reads x as its inputs and the sample's task picks its row of angles. A query state
//! then attends to the key states of its sequence, and what it sees is measured:
//!
//! 1. `ψ_Q, ψ_K, ψ_V`: three launches for the whole batch, of all tasks at once;
//! 2. weights `a_ij = softmax_j(τ·score(ψ_Q,i, ψ_K,j))`, by the fused attention kernels: no `length × length` matrix in memory;
//! 3. mixture of the values' expectations `Σ_j a_ij ⟨O⟩_j`, or of their amplitudes `Σ_j a_ij |ψ_V,j⟩`, renormalised;
//! 4. expectations `y [batch, length, observables]`, or shots of the outcome distribution.
//!
//! [`QuantumAttention::backward`] gives the gradients of x, of every task's angles and of τ.
//!
//! ```
//! # fn main() -> gatewarp::Result<()> {
//! use gatewarp::quantum_attention::{Mix, QuantumAttention, StateScore, Thetas};
//! use gatewarp::statevec::{Axis, Circuit, Parameter, PauliSum};
//! use gatewarp::{Device, Tensor};
//! let mut circuit = Circuit::new(2)?;
//! circuit.angle_encoding(Axis::Y)?.rz(0, Parameter::Theta(0))?.cx(0, 1)?.ry(1, Parameter::Theta(1))?;
//! let layer = QuantumAttention::new([&circuit; 3], StateScore::Fidelity, Mix::Values, vec![PauliSum::z(0)?])?;
//!
//! let device = Device::cpu();
//! let x = Tensor::from_slice(&device, &[0.1f32, 0.2, 0.3, 0.4, 0.5, 0.6], &[1, 3, 2])?; // three tokens of two features
//! let theta = Tensor::from_slice(&device, &[0.5f32, 0.1, -0.4, 0.7], &[2, 2])?; // two tasks
//! let thetas = Thetas { query: theta.view(), key: theta.view(), value: theta.view() };
//! let out = layer.forward_task(&x.view(), 1, &thetas)?;
//! assert_eq!(out.y.shape(), [1, 3, 1]);
//! # Ok(())
//! # }
//! ```
//!
//! # Source
//! Self-attention with a circuit for each role: Li, Zhao & Wang, arXiv:2205.05625 (Gaussian projected self-attention); complex
//! similarities of states: Chen et al., arXiv:2503.18599 (QCSAM).

mod backward;
mod distribution;
mod roles;

pub use backward::QuantumAttentionGradients;

use crate::attention::{AttentionOptions, QueryOffset, Score, Workspace, attention_forward_into};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::statevec::{Batch, Circuit, PauliSum, Program};
use crate::tensor::{Tensor, TensorMut, TensorRef};
use roles::{Role, Roles, Sizes, as_heads};

/// How a query state and a key state are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateScore {
    /// `Re⟨q|k⟩`: sees phases.
    ComplexDot,
    /// `|⟨q|k⟩|²`: sees all but a global phase.
    Fidelity,
    /// `−‖⟨Z⟩_q − ⟨Z⟩_k‖²` of the vectors of every qubit's ⟨Z⟩; τ is the inverse squared width. Blind to phases.
    Gaussian,
    /// The dot product of those vectors.
    Features,
}

/// What the weights mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mix {
    /// The expectations of the value states.
    Values,
    /// The amplitudes of the value states; the mixture is divided by its norm, and then measured.
    Amplitudes,
}

/// Angles of the three circuits, each `[thetas]` for all tasks or `[tasks, thetas]`; f32.
#[derive(Clone, Debug)]
pub struct Thetas<'a> {
    /// Of the query circuit.
    pub query: TensorRef<'a>,
    /// Of the key circuit.
    pub key: TensorRef<'a>,
    /// Of the value circuit.
    pub value: TensorRef<'a>,
}

/// A layer of quantum attention: three compiled circuits, a score, and what is measured. It holds no parameters.
#[derive(Debug)]
pub struct QuantumAttention {
    query: Program,
    key: Program,
    value: Program,
    /// Measures mixed amplitudes.
    identity: Program,
    score: StateScore,
    mix: Mix,
    observables: Vec<PauliSum>,
    /// ⟨Z⟩ of every qubit.
    features: Vec<PauliSum>,
    tau: f64,
    causal: bool,
}

/// What a forward pass returns: the output, and what backward needs.
#[derive(Debug)]
pub struct QuantumAttentionOutput {
    /// `[batch, length, observables]` f32.
    pub y: Tensor,
    /// `[batch, 1, length]` f32: logarithm of the sum of the exponentials of a query's scores.
    pub lse: Tensor,
    /// Query states `[batch · length, 2^qubits]` c64, or their features `[batch · length, qubits]` f32.
    queries: Tensor,
    /// Key states or features.
    keys: Tensor,
    /// Value states c64 (amplitudes are mixed) or expectations `[batch · length, observables]` f32.
    values: Tensor,
    /// `[batch, 1, length, 2^(qubits+1)]` f32: mixed amplitudes, before they are renormalised and measured.
    amplitudes: Option<Tensor>,
    sizes: Sizes,
}

impl QuantumAttention {
    /// A layer of the circuits for query, key and value, which read x as their inputs and may have angles of their own.
    ///
    /// τ is `1/√(2^qubits)`, which is nearly flat on normalised states: see [`QuantumAttention::with_tau`].
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the circuits differ in qubits, or an observable acts on a qubit they do not have.
    pub fn new(
        circuits: [&Circuit; 3],
        score: StateScore,
        mix: Mix,
        observables: Vec<PauliSum>,
    ) -> Result<Self> {
        const OP: &str = "QuantumAttention::new";
        let qubits = circuits[0].qubits();
        if let Some(other) = circuits.iter().find(|circuit| circuit.qubits() != qubits) {
            let reason = format!("have {qubits} and {} qubits", other.qubits());
            return Err(Error::argument(OP, "circuits", reason));
        }
        // Named here: a mistake should not wait for the first batch.
        for observable in &observables {
            if observable.qubits() > qubits {
                let reason = format!("act on qubit {}, the circuits have {qubits}", observable.qubits() - 1);
                return Err(Error::argument(OP, "observables", reason));
            }
        }
        let [query, key, value] = circuits;
        Ok(Self {
            query: query.compile()?,
            key: key.compile()?,
            value: value.compile()?,
            identity: Circuit::new(qubits)?.compile()?,
            score,
            mix,
            observables,
            features: (0..qubits).map(PauliSum::z).collect::<Result<_>>()?,
            tau: 1.0 / ((1u64 << qubits) as f64).sqrt(),
            causal: false,
        })
    }

    /// Sets τ, the factor of the scores. Fidelities lie in [0, 1]: a τ of 10 or more tells states apart.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it is not finite.
    pub fn with_tau(mut self, tau: f64) -> Result<Self> {
        self.set_tau(tau)?;
        Ok(self)
    }

    /// Sets τ of the calls that follow, where it is learned. [`backward`](Self::backward) needs the τ of its forward pass.
    ///
    /// # Errors
    /// As [`QuantumAttention::with_tau`]; τ stays as it was.
    pub fn set_tau(&mut self, tau: f64) -> Result<()> {
        if !tau.is_finite() {
            return Err(Error::argument(
                "QuantumAttention::with_tau",
                "tau",
                format!("is {tau}, not finite"),
            ));
        }
        self.tau = tau;
        Ok(())
    }

    /// Lets a token attend only to itself and what came before.
    pub fn causal(self, causal: bool) -> Self {
        Self { causal, ..self }
    }

    /// Number of qubits of a state.
    pub fn qubits(&self) -> usize {
        self.query.qubits()
    }

    /// What is measured.
    pub fn observables(&self) -> &[PauliSum] {
        &self.observables
    }

    /// The factor of the scores.
    pub fn tau(&self) -> f64 {
        self.tau
    }

    fn options(&self) -> AttentionOptions<'static> {
        let (score, scale) = match self.score {
            StateScore::ComplexDot => (Score::ComplexDot, Some(self.tau)),
            StateScore::Fidelity => (Score::Fidelity, Some(self.tau)),
            StateScore::Gaussian => (Score::Gaussian { gamma: self.tau }, None),
            StateScore::Features => (Score::Dot, Some(self.tau)),
        };
        AttentionOptions {
            score,
            scale,
            causal: self.causal,
            query_offset: QueryOffset::At(0),
            ..Default::default()
        }
    }

    fn attends_to_states(&self) -> bool {
        matches!(self.score, StateScore::ComplexDot | StateScore::Fidelity)
    }

    /// Attention of a batch that mixes tasks.
    ///
    /// `x [batch, length, features]` f32, contiguous; a circuit with fewer inputs reads the first ones of each token.
    /// `tasks [batch]` i32, u32 or i64 on the host: which row of each `[tasks, thetas]` a sequence uses.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DType`], [`Error::Device`], [`Error::InvalidArgument`], [`Error::TaskId`] naming the argument,
    /// as [`Program::run`] and [`attention_forward`](crate::attention::attention_forward) have them. Amplitudes that mix to zero
    /// are [`Error::InvalidArgument`] on the CPU, on GPUs NaN in `y` and [`Error::DeviceValue`] at the next synchronising call.
    pub fn forward(
        &self,
        x: &TensorRef<'_>,
        tasks: &TensorRef<'_>,
        thetas: &Thetas<'_>,
    ) -> Result<QuantumAttentionOutput> {
        self.run(&Roles::new("quantum_attention_forward", self, x, tasks, thetas)?)
    }

    /// [`QuantumAttention::forward`] of sequences that are all of one task.
    ///
    /// # Errors
    /// As [`QuantumAttention::forward`].
    pub fn forward_task(
        &self,
        x: &TensorRef<'_>,
        task: usize,
        thetas: &Thetas<'_>,
    ) -> Result<QuantumAttentionOutput> {
        let op = "quantum_attention_forward_task";
        let id = i64::try_from(task)
            .map_err(|_| Error::argument(op, "task", format!("is {task}, which no table has")))?;
        let batch = x.shape().first().copied().unwrap_or(0);
        let tasks = Tensor::from_slice(&crate::Device::cpu(), &vec![id; batch], &[batch])?;
        self.run(&Roles::new(op, self, x, &tasks.view(), thetas)?)
    }

    /// [`QuantumAttention::forward`] with every sequence asked every task: one output for each.
    ///
    /// # Errors
    /// As [`QuantumAttention::forward`].
    pub fn forward_all_tasks(
        &self,
        x: &TensorRef<'_>,
        tasks: usize,
        thetas: &Thetas<'_>,
    ) -> Result<Vec<QuantumAttentionOutput>> {
        (0..tasks).map(|task| self.forward_task(x, task, thetas)).collect()
    }

    fn run(&self, roles: &Roles<'_>) -> Result<QuantumAttentionOutput> {
        let (sizes, device) = (roles.sizes, &roles.device);
        let seen = |program: &Program, batch: &Batch<'_>| match self.attends_to_states() {
            true => program.run(batch),
            false => program.expectations(batch, &self.features),
        };
        let queries = seen(&self.query, &roles.batch(Role::Query)?)?;
        let keys = seen(&self.key, &roles.batch(Role::Key)?)?;
        let values = match self.mix {
            Mix::Values => self.value.expectations(&roles.batch(Role::Value)?, &self.observables)?,
            Mix::Amplitudes => self.value.run(&roles.batch(Role::Value)?)?,
        };
        let mut y = Tensor::zeros(device, DType::F32, &[sizes.batch, sizes.length, self.observables.len()])?;
        let mut lse = Tensor::zeros(device, DType::F32, &[sizes.batch, 1, sizes.length])?;
        let (q, k, v) = (as_heads(&queries, sizes)?, as_heads(&keys, sizes)?, as_heads(&values, sizes)?);
        let amplitudes = match self.mix {
            Mix::Values => {
                let mut o = y.view_mut().with_layout(*v.layout())?;
                self.attend([&q, &k, &v], &mut o, &mut lse)?;
                None
            }
            Mix::Amplitudes => {
                let mut mixed = Tensor::zeros(device, DType::F32, v.shape())?;
                self.attend([&q, &k, &v], &mut mixed.view_mut(), &mut lse)?;
                let mut out = y.view_mut().with_layout(sizes.flat(self.observables.len())?)?;
                self.identity.expectations_into(
                    &self.mixed_batch(&mixed, sizes)?,
                    &self.observables,
                    &mut out,
                )?;
                Some(mixed)
            }
        };
        Ok(QuantumAttentionOutput { y, lse, queries, keys, values, amplitudes, sizes })
    }

    fn attend(&self, [q, k, v]: [&TensorRef<'_>; 3], o: &mut TensorMut<'_>, lse: &mut Tensor) -> Result<()> {
        attention_forward_into(q, k, v, &self.options(), o, &mut lse.view_mut(), Workspace::Allocate)
    }

    /// The batch that starts from mixed amplitudes, renormalised.
    fn mixed_batch<'a>(&self, mixed: &'a Tensor, sizes: Sizes) -> Result<Batch<'a>> {
        let amplitudes = mixed.view().as_complex()?.with_layout(sizes.flat(1 << self.qubits())?)?;
        Ok(Batch::new(mixed.device(), sizes.samples()).amplitudes(amplitudes))
    }
}
