//! Dense matrices of constant gates, and their principal powers.

use crate::statevec::circuit::Instruction;
use crate::statevec::gate::Gate;
use crate::statevec::parameter::{Angle, Parameter};
use num_complex::Complex64 as C;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_PI_4, PI};

fn phase(angle: f64) -> C {
    C::from_polar(1.0, angle)
}

fn value(parameter: Parameter) -> Option<f64> {
    let angle = Angle::from(parameter);
    angle.of.is_none().then_some(angle.offset)
}

fn rotation(angle: f64, x: bool, y: bool) -> [C; 4] {
    let (s, c) = (angle / 2.0).sin_cos();
    match (x, y) {
        (true, _) => [C::from(c), C::new(0.0, -s), C::new(0.0, -s), C::from(c)],
        (_, true) => [C::from(c), C::from(-s), C::from(s), C::from(c)],
        _ => [phase(-angle / 2.0), C::ZERO, C::ZERO, phase(angle / 2.0)],
    }
}

/// The 2 × 2 matrix of a constant gate on one qubit.
fn single(gate: &Gate) -> Option<[C; 4]> {
    let (o, l) = (C::ZERO, C::ONE);
    let r = C::from(FRAC_1_SQRT_2);
    let (p, m) = (C::new(0.5, 0.5), C::new(0.5, -0.5));
    Some(match gate {
        Gate::X => [o, l, l, o],
        Gate::Y => [o, -C::I, C::I, o],
        Gate::Z => [l, o, o, -l],
        Gate::H => [r, r, r, -r],
        Gate::S => [l, o, o, C::I],
        Gate::Sdg => [l, o, o, -C::I],
        Gate::T => [l, o, o, phase(FRAC_PI_4)],
        Gate::Tdg => [l, o, o, phase(-FRAC_PI_4)],
        Gate::Sx => [p, m, m, p],
        Gate::Sxdg => [m, p, p, m],
        Gate::Rx(a) => rotation(value(*a)?, true, false),
        Gate::Ry(a) => rotation(value(*a)?, false, true),
        Gate::Rz(a) => rotation(value(*a)?, false, false),
        Gate::Phase(a) => [l, o, o, phase(value(*a)?)],
        Gate::U3(theta, phi, lambda) => {
            let (theta, phi, lambda) = (value(*theta)?, value(*phi)?, value(*lambda)?);
            let (s, c) = (theta / 2.0).sin_cos();
            [C::from(c), -phase(lambda) * s, phase(phi) * s, phase(phi + lambda) * c]
        }
        Gate::Matrix(entries) => entries.as_slice().try_into().ok()?,
        Gate::Diagonal(entries) => match entries[..] {
            [a, b] => [a, o, o, b],
            _ => return None,
        },
        _ => return None,
    })
}

/// What a constant gate without controls makes of basis state `index`: a list of (basis state, amplitude).
fn image(gate: &Gate, targets: &[usize], index: usize) -> Option<Vec<(usize, C)>> {
    let bit = |q: usize| index >> q & 1;
    if let Some(matrix) = single(gate) {
        let t = targets[0];
        let column = bit(t);
        return Some(vec![(index & !(1 << t), matrix[column]), (index | 1 << t, matrix[2 + column])]);
    }
    let swapped = |a: usize, b: usize| {
        if bit(a) == bit(b) { index } else { index ^ (1 << a) ^ (1 << b) }
    };
    // exp(−iθP/2) = cos(θ/2) − i·sin(θ/2)·P, and P|index⟩ is one basis state.
    let pauli = |x: usize, z: usize, angle: f64| {
        let (s, c) = (angle / 2.0).sin_cos();
        let sign = if (z & index).count_ones() & 1 == 1 { -1.0 } else { 1.0 };
        let factor = C::I.powu((x & z).count_ones()) * sign;
        vec![(index, C::from(c)), (index ^ x, factor * C::new(0.0, -s))]
    };
    Some(match gate {
        Gate::Swap => vec![(swapped(targets[0], targets[1]), C::ONE)],
        Gate::ISwap | Gate::ISwapDg => {
            let sign = if *gate == Gate::ISwap { 1.0 } else { -1.0 };
            let differ = bit(targets[0]) != bit(targets[1]);
            vec![(swapped(targets[0], targets[1]), if differ { C::new(0.0, sign) } else { C::ONE })]
        }
        Gate::Rxx(a) | Gate::Ryy(a) | Gate::Rzz(a) => {
            let both = 1 << targets[0] | 1 << targets[1];
            let (x, z) = match gate {
                Gate::Rxx(_) => (both, 0),
                Gate::Ryy(_) => (both, both),
                _ => (0, both),
            };
            pauli(x, z, value(*a)?)
        }
        Gate::PauliRotation(string, a) => pauli(string.x as usize, string.z as usize, value(*a)?),
        Gate::Matrix(entries) => {
            let side = 1 << targets.len();
            let at = |pattern: usize| {
                targets.iter().enumerate().fold(index, |i, (k, &q)| (i & !(1 << q)) | (pattern >> k & 1) << q)
            };
            let column: usize = targets.iter().enumerate().map(|(k, &q)| bit(q) << k).sum();
            (0..side).map(|row| (at(row), entries[row * side + column])).collect()
        }
        Gate::Diagonal(entries) => {
            let at: usize = targets.iter().enumerate().map(|(k, &q)| bit(q) << k).sum();
            vec![(index, entries[at])]
        }
        _ => return None,
    })
}

/// Row-major matrix of gates on `qubits` qubits; `None` if one has parameters.
pub(super) fn matrix(gates: &[Instruction], qubits: usize) -> Option<Vec<C>> {
    let side = 1 << qubits;
    let mut out = vec![C::ZERO; side * side];
    for column in 0..side {
        let mut state = vec![C::ZERO; side];
        state[column] = C::ONE;
        for instruction in gates {
            let mut next = vec![C::ZERO; side];
            for (index, &amplitude) in state.iter().enumerate() {
                let acts = instruction.controls.iter().all(|c| (index >> c.qubit & 1 == 1) == c.value);
                if !acts {
                    next[index] += amplitude;
                    continue;
                }
                for (to, factor) in image(&instruction.gate, &instruction.targets, index)? {
                    next[to] += factor * amplitude;
                }
            }
            state = next;
        }
        state.into_iter().enumerate().for_each(|(row, amplitude)| out[row * side + column] = amplitude);
    }
    Some(out)
}

fn multiply(a: &[C], b: &[C]) -> Vec<C> {
    let side = a.len().isqrt();
    let entry = |at: usize| (0..side).map(|k| a[at / side * side + k] * b[k * side + at % side]).sum();
    (0..a.len()).map(entry).collect()
}

fn adjoint(a: &[C]) -> Vec<C> {
    let side = a.len().isqrt();
    (0..a.len()).map(|at| a[at % side * side + at / side].conj()).collect()
}

/// Eigenvectors (columns) of a Hermitian matrix, by Jacobi rotations.
fn eigenvectors(mut h: Vec<C>) -> Vec<C> {
    let side = h.len().isqrt();
    let mut vectors: Vec<C> =
        (0..h.len()).map(|at| C::from(f64::from(u8::from(at / side == at % side)))).collect();
    // Quadratic convergence: a handful of sweeps reaches rounding, and the bound only stops a NaN.
    for _ in 0..60 {
        let off: f64 = (0..h.len()).filter(|at| at / side != at % side).map(|at| h[at].norm_sqr()).sum();
        if !(off > 1e-30) {
            break;
        }
        for p in 0..side {
            for q in p + 1..side {
                let pivot = h[p * side + q];
                if pivot.norm() < 1e-300 {
                    continue;
                }
                let turn = pivot / pivot.norm();
                let gap = h[q * side + q].re - h[p * side + p].re;
                let angle = 0.5 * (2.0 * pivot.norm() / gap).atan();
                let (s, c) = angle.sin_cos();
                // Columns p and q of the rotation: (c, −s·conj(turn)) and (s·turn, c).
                let rotate_columns = |m: &mut [C]| {
                    for row in 0..side {
                        let (a, b) = (m[row * side + p], m[row * side + q]);
                        m[row * side + p] = a * c - b * turn.conj() * s;
                        m[row * side + q] = a * turn * s + b * c;
                    }
                };
                rotate_columns(&mut h);
                rotate_columns(&mut vectors);
                for column in 0..side {
                    let (a, b) = (h[p * side + column], h[q * side + column]);
                    h[p * side + column] = a * c - b * turn * s;
                    h[q * side + column] = a * turn.conj() * s + b * c;
                }
            }
        }
    }
    vectors
}

/// A whole power, by squaring: what is exact in the matrix stays exact.
fn whole_power(unitary: &[C], exponent: f64) -> Vec<C> {
    let side = unitary.len().isqrt();
    let mut square = if exponent < 0.0 { adjoint(unitary) } else { unitary.to_vec() };
    let mut out: Vec<C> =
        (0..side * side).map(|at| C::from(f64::from(u8::from(at / side == at % side)))).collect();
    let mut left = exponent.abs() as u64;
    while left > 0 {
        if left & 1 == 1 {
            out = multiply(&out, &square);
        }
        square = multiply(&square, &square);
        left >>= 1;
    }
    out
}

/// Whole numbers up to here have no neighbours in f64 that are meant instead.
const MAX_WHOLE: f64 = (1u64 << 53) as f64;

/// The principal power of a unitary: eigenvalues e^{iφ}, −π < φ ≤ π, become e^{iφ·exponent}. `None` if the matrix is not
/// unitary, or the exponent is above 2⁵³.
///
/// # Source
/// OpenQASM 3.0, "Quantum gate modifiers".
pub(super) fn power(unitary: &[C], exponent: f64) -> Option<Vec<C>> {
    let side = unitary.len().isqrt();
    if !(exponent.abs() <= MAX_WHOLE) {
        return None;
    }
    if exponent == exponent.trunc() {
        return Some(whole_power(unitary, exponent));
    }
    let conjugate = adjoint(unitary);
    // cos α·(U + U†)/2 + sin α·(U − U†)/2i is Hermitian and shares U's eigenvectors; its eigenvalues are cos(φ − α). Two
    // different φ give the same one only if their mean is α or α + π: then another α will do.
    for alpha in [0.7310, 1.9177, 0.1234] {
        let (s, c) = f64::sin_cos(alpha);
        let mix = |(u, v): (&C, &C)| (u + v) * (0.5 * c) + (u - v) * C::new(0.0, -0.5 * s);
        let vectors = eigenvectors(unitary.iter().zip(&conjugate).map(mix).collect());
        let turned = multiply(&multiply(&adjoint(&vectors), unitary), &vectors);
        let off: f64 =
            (0..turned.len()).filter(|at| at / side != at % side).map(|at| turned[at].norm_sqr()).sum();
        let unit = (0..side).all(|i| (turned[i * side + i].norm() - 1.0).abs() < 1e-9);
        if !(off < 1e-20 && unit) {
            continue;
        }
        let mut scaled = vectors.clone();
        for column in 0..side {
            let mut angle = turned[column * side + column].arg();
            // −1 is e^{iπ} whichever side rounding leaves it on.
            if angle < 1e-9 - PI {
                angle = PI;
            }
            let factor = phase(angle * exponent);
            (0..side).for_each(|row| scaled[row * side + column] *= factor);
        }
        return Some(multiply(&scaled, &adjoint(&vectors)));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statevec::circuit::Control;

    fn near(a: &[C], b: &[C]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).norm() < 1e-12)
    }

    fn of(gate: Gate, targets: &[usize], controls: &[(usize, bool)]) -> Instruction {
        let controls = controls.iter().map(|&(qubit, value)| Control { qubit, value }).collect();
        Instruction { gate, targets: targets.to_vec(), controls }
    }

    #[test]
    fn roots_multiply_to_the_gate() {
        let constant = Parameter::Constant;
        let gates = [
            vec![of(Gate::X, &[0], &[])],
            vec![of(Gate::Z, &[0], &[])],
            vec![of(Gate::H, &[1], &[(0, false)])],
            vec![of(Gate::Swap, &[2, 0], &[]), of(Gate::Rzz(constant(1.3)), &[0, 1], &[(2, true)])],
            vec![
                of(Gate::U3(constant(0.3), constant(-2.0), constant(1.1)), &[1], &[]),
                of(Gate::ISwap, &[0, 2], &[]),
            ],
            vec![],
        ];
        for gates in gates {
            let Some(whole) = matrix(&gates, 3) else { panic!("constant gates have a matrix") };
            let Some(third) = power(&whole, 1.0 / 3.0) else { panic!("unitary") };
            assert!(near(&multiply(&multiply(&third, &third), &third), &whole), "{gates:?}");
            let Some(inverse) = power(&whole, -1.0) else { panic!("unitary") };
            assert!(near(&inverse, &adjoint(&whole)), "{gates:?}");
        }
    }

    #[test]
    fn principal_roots_are_the_named_gates() {
        let root = |gate| matrix(&[of(gate, &[0], &[])], 1).and_then(|whole| power(&whole, 0.5));
        let single = |gate| matrix(&[of(gate, &[0], &[])], 1);
        for (gate, root_gate) in
            [(Gate::X, Gate::Sx), (Gate::Z, Gate::S), (Gate::S, Gate::T), (Gate::Sdg, Gate::Tdg)]
        {
            let (got, want) = (root(gate.clone()), single(root_gate));
            assert!(near(&got.unwrap_or_default(), &want.unwrap_or_default()), "{gate:?}");
        }
        assert_eq!(power(&[C::ONE, C::ONE, C::ZERO, C::ONE], 0.5), None);
    }
}
