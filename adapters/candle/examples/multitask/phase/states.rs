//! Phase recall: eight pairs of a key state and a value, then a query state. Keys differ only in phase.

use anyhow::Result;
use candle_core::{Device, Tensor};
use gatewarp::quantum_attention::{Mix, QuantumAttention as Layer, StateScore};
use gatewarp::statevec::{Circuit, Parameter, PauliSum};
use gatewarp_candle::QuantumAttention;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand_distr::{Distribution, Normal};
use std::f32::consts::{FRAC_PI_2, PI, TAU};

pub const QUBITS: usize = 4;
const PAIRS: usize = 8;
/// Pairs and the query.
pub const LENGTH: usize = PAIRS + 1;
/// The values of a sequence are a permutation of these: their mean says nothing of the answer.
pub const CLASSES: usize = PAIRS;
/// Phases and tilts of the query, phases and tilts of the key, angles of the value.
const FEATURES: usize = 5 * QUBITS;
pub const TASKS: [&str; 2] = ["same phases", "turned phases"];
/// What a query of the second task lacks against its key, in each qubit's phase. The circuits have to learn it.
const TURN: [f32; QUBITS] = [FRAC_PI_2, -FRAC_PI_2, FRAC_PI_2, FRAC_PI_2];
/// Deviation of the noise on every phase, in radians.
pub const PHASE_NOISE: f32 = 0.3;
/// Deviation of every qubit's tilt out of the equator, in radians.
pub const TILT_NOISE: f32 = 0.1;

/// Sequences as inputs of the circuits.
pub struct Sequences {
    /// `[count, LENGTH, FEATURES]`.
    pub x: Tensor,
    pub tasks: Vec<u32>,
    pub labels: Vec<u32>,
}

/// Draws sequences. With `signs`, every state has an arbitrary sign, which no measurement shows: its first phase is a full turn on.
///
/// # Errors
/// candle's.
pub fn sequences(count: usize, signs: bool, random: &mut StdRng) -> Result<Sequences> {
    let mut x = vec![0f32; count * LENGTH * FEATURES];
    let (mut tasks, mut labels) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let (phase_noise, tilt_noise) = (Normal::new(0.0, PHASE_NOISE)?, Normal::new(0.0, TILT_NOISE)?);
    for sequence in x.chunks_exact_mut(LENGTH * FEATURES) {
        // Bit q of a pattern says whether qubit q is in |+⟩ or |−⟩: sixteen states, equal in every probability.
        let mut patterns: Vec<u32> = (0..1 << QUBITS).collect();
        patterns.shuffle(random);
        let mut values: Vec<u32> = (0..CLASSES as u32).collect();
        values.shuffle(random);
        let (task, asked) = (random.random_range(0..TASKS.len()), random.random_range(0..PAIRS));
        let mut state = |into: &mut [f32], pattern: u32, turn: [f32; QUBITS]| {
            for q in 0..QUBITS {
                into[q] = PI * (pattern >> q & 1) as f32 - turn[q] + phase_noise.sample(random);
                into[QUBITS + q] = tilt_noise.sample(random);
            }
            if signs && random.random::<bool>() {
                into[0] += TAU;
            }
        };
        for (pair, token) in sequence.chunks_exact_mut(FEATURES).enumerate() {
            let (query, rest) = token.split_at_mut(2 * QUBITS);
            let (key, value) = rest.split_at_mut(2 * QUBITS);
            // The query's own key is a ninth pattern, and its value shows nothing.
            state(key, patterns[pair], [0.0; QUBITS]);
            value.fill(FRAC_PI_2);
            if pair == PAIRS {
                state(query, patterns[asked], if task == 1 { TURN } else { [0.0; QUBITS] });
            } else {
                for q in 0..QUBITS {
                    value[q] = PI * (values[pair] >> q & 1) as f32;
                }
            }
        }
        tasks.push(task as u32);
        labels.push(values[asked]);
    }
    let x = Tensor::from_vec(x, (count, LENGTH, FEATURES), &Device::Cpu)?;
    Ok(Sequences { x, tasks, labels })
}

/// A state on the equator from inputs `at…`: Hadamard, tilt, phase, then the task's own phase; and, where the basis is learned, the task's
/// own rotation of what Z shows.
fn encoder(at: usize, learned_basis: bool) -> gatewarp::Result<Circuit> {
    let mut circuit = Circuit::new(QUBITS)?;
    for q in 0..QUBITS {
        circuit.h(q)?.ry(q, Parameter::Input(at + QUBITS + q))?.rz(q, Parameter::Input(at + q))?;
        circuit.rz(q, Parameter::Theta(q))?;
        if learned_basis {
            circuit.ry(q, Parameter::Theta(QUBITS + q))?;
        }
    }
    Ok(circuit)
}

/// The layer, and the number of angles of its three circuits.
///
/// # Errors
/// gatewarp's.
pub fn layer(score: StateScore, learned_basis: bool) -> gatewarp::Result<(QuantumAttention, [usize; 3])> {
    let (query, key) = (encoder(0, learned_basis)?, encoder(2 * QUBITS, learned_basis)?);
    let mut value = Circuit::new(QUBITS)?;
    for q in 0..QUBITS {
        value.rx(q, Parameter::Input(4 * QUBITS + q))?.ry(q, Parameter::Theta(q))?;
    }
    let observables = (0..QUBITS).map(PauliSum::z).collect::<gatewarp::Result<_>>()?;
    let layer = Layer::new([&query, &key, &value], score, Mix::Values, observables)?;
    let thetas = [query.thetas(), key.thetas(), value.thetas()];
    Ok((QuantumAttention::new(layer, gatewarp::Device::cpu()), thetas))
}
