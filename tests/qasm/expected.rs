//! What each corpus file means, written down gate by gate as dense matrices.

use crate::support::oracle_statevec::{
    Operation, h, inverse, phase, rx, rxx, ry, rz, rzz, s, swap, sx, t, u3, x, y, z,
};
use gatewarp::Complex64 as C;
use std::f64::consts::{E, FRAC_PI_2, PI};

/// A matrix on targets.
fn on(matrix: Vec<C>, targets: &[usize]) -> Operation {
    Operation::new(matrix, targets)
}

/// A matrix on a target, under controls on 1.
fn under(controls: &[usize], matrix: Vec<C>, targets: &[usize]) -> Operation {
    controls.iter().fold(on(matrix, targets), |operation, &qubit| operation.controlled(qubit, true))
}

/// e^{iφ} of everything.
fn global(angle: f64) -> Operation {
    let factor = C::from_polar(1.0, angle);
    on(vec![factor, C::ZERO, C::ZERO, factor], &[0])
}

/// e^{iφ} where the qubits have these values.
fn global_where(controls: &[(usize, bool)], angle: f64) -> Operation {
    let (&(target, value), rest) = controls.split_first().expect("a control");
    let factor = C::from_polar(1.0, angle);
    let entries = if value { [C::ONE, factor] } else { [factor, C::ONE] };
    let matrix = vec![entries[0], C::ZERO, C::ZERO, entries[1]];
    rest.iter().fold(on(matrix, &[target]), |operation, &(qubit, value)| operation.controlled(qubit, value))
}

/// A program's gates for given inputs, and its number of qubits; `None` if what happens depends on measurements.
pub fn gates(file: &str, inputs: &[f64]) -> Option<(usize, Vec<Operation>)> {
    Some(match file {
        "qelib1" => (5, qelib1()),
        "relative_toffoli" => (3, relative_toffoli()),
        "builtins" => (3, vec![on(h(), &[0]), under(&[0], x(), &[1]), under(&[1], x(), &[2]), on(t(), &[2])]),
        "definitions" => (3, definitions()),
        "expressions" => (2, expressions()),
        "broadcast" => (5, broadcast()),
        "opaque" => (1, vec![on(h(), &[0])]),
        "stdgates" => (3, stdgates()),
        "modifiers" => (4, modifiers()),
        "loops" => (5, loops()),
        "values" => (4, values()),
        "inputs" => (3, with_inputs(inputs)),
        "qft" => (4, qft()),
        "conditions_unmeasured" => (2, vec![on(x(), &[0])]),
        "teleport" | "reset" | "measurements" | "nested" => return None,
        other => panic!("{other}.qasm has no expected circuit; write it down here"),
    })
}

fn qelib1() -> Vec<Operation> {
    vec![
        on(u3(0.3, 0.5, -0.7), &[0]),
        on(u3(FRAC_PI_2, 0.4, 1.1), &[1]),
        on(phase(0.9), &[0]),
        on(u3(1.2, -0.2, 0.6), &[2]),
        on(phase(0.8), &[2]),
        on(h(), &[3]),
        on(x(), &[4]),
        on(y(), &[0]),
        on(z(), &[1]),
        on(s(), &[2]),
        on(inverse(&s()), &[3]),
        on(t(), &[3]),
        on(inverse(&t()), &[1]),
        on(sx(), &[4]),
        on(inverse(&sx()), &[2]),
        on(rx(0.7), &[0]),
        on(ry(-1.3), &[1]),
        on(rz(2.1), &[2]),
        under(&[0], x(), &[1]),
        under(&[1], y(), &[2]),
        under(&[2], z(), &[3]),
        under(&[3], h(), &[4]),
        under(&[4], sx(), &[0]),
        on(swap(), &[0, 3]),
        under(&[1], swap(), &[2, 4]),
        under(&[0, 1], x(), &[2]),
        under(&[0], rx(0.35), &[2]),
        under(&[2], ry(1.7), &[4]),
        under(&[4], rz(-0.45), &[1]),
        under(&[1], phase(0.65), &[3]),
        under(&[0], phase(-0.85), &[4]),
        under(&[3], u3(0.15, 0.25, 0.55), &[2]),
        under(&[2], u3(0.95, 1.05, -0.6), &[0]),
        on(phase(0.75), &[2]),
        on(rxx(0.44), &[1, 4]),
        on(rzz(-0.66), &[0, 3]),
        under(&[0, 1, 2], x(), &[3]),
        under(&[1, 2, 3], sx(), &[4]),
        under(&[0, 1, 2, 3], x(), &[4]),
    ]
}

/// Maslov's relative-phase Toffoli (arXiv:1508.03273, figure 3): a Toffoli whose target's exchange carries ±i, and a sign on
/// one other basis state.
fn relative_toffoli() -> Vec<Operation> {
    let mut matrix = vec![C::ZERO; 64];
    for (row, column, entry) in [
        (0, 0, C::ONE),
        (1, 1, C::ONE),
        (2, 2, C::ONE),
        (4, 4, C::ONE),
        (6, 6, C::ONE),
        (5, 5, -C::ONE),
        (3, 7, -C::I),
        (7, 3, C::I),
    ] {
        matrix[row * 8 + column] = entry;
    }
    vec![
        on(u3(0.3, 0.5, -0.7), &[0]),
        on(u3(1.3, -0.5, 0.7), &[1]),
        on(u3(2.3, 0.2, 0.4), &[2]),
        on(matrix, &[0, 1, 2]),
    ]
}

fn definitions() -> Vec<Operation> {
    let turn =
        |theta: f64, phi: f64, q: usize| [on(rz(phi), &[q]), on(ry(theta / 2.0), &[q]), on(rz(-phi), &[q])];
    let mut list = vec![on(h(), &[2]), under(&[2], x(), &[0])];
    list.extend(turn(0.4, 0.8, 0));
    list.extend(turn(-0.4f64.powi(2), 0.4f64.sin(), 2));
    list.extend([under(&[0], x(), &[1]), on(h(), &[1])]);
    list
}

fn expressions() -> Vec<Operation> {
    vec![
        on(rx(7.0), &[0]),
        on(rx(9.0), &[0]),
        on(ry(-4.0), &[0]),
        on(ry(5.12), &[0]),
        on(ry(0.5), &[1]),
        on(rx(3.5), &[1]),
        on(rx(1.0), &[1]),
        on(ry(1.0), &[1]),
        on(rx(1.0), &[0]),
        on(ry(0.5f64.exp() - 2.5f64.ln() + 2.0f64.sqrt()), &[0]),
        on(rx(5.0), &[1]),
        on(ry(0.125), &[1]),
    ]
}

fn broadcast() -> Vec<Operation> {
    vec![
        on(ry(0.6), &[0]),
        on(ry(0.6), &[1]),
        on(h(), &[2]),
        on(h(), &[3]),
        under(&[0], x(), &[2]),
        under(&[1], x(), &[3]),
        under(&[4], x(), &[0]),
        under(&[4], x(), &[1]),
        under(&[1], z(), &[2]),
        under(&[1], z(), &[3]),
        under(&[0, 2], x(), &[4]),
        under(&[1, 3], x(), &[4]),
        on(rx(0.2), &[4]),
    ]
}

fn stdgates() -> Vec<Operation> {
    vec![
        on(u3(0.3, 0.5, -0.7), &[0]),
        on(u3(0.6, -0.2, 0.1), &[1]),
        on(u3(FRAC_PI_2, 0.4, 1.1), &[2]),
        on(phase(0.9), &[0]),
        on(phase(0.8), &[2]),
        on(phase(-0.3), &[1]),
        on(x(), &[0]),
        on(y(), &[1]),
        on(z(), &[2]),
        on(h(), &[0]),
        on(s(), &[1]),
        on(inverse(&s()), &[2]),
        on(t(), &[0]),
        on(inverse(&t()), &[1]),
        on(sx(), &[2]),
        on(rx(0.7), &[0]),
        on(ry(-1.3), &[1]),
        on(rz(2.1), &[2]),
        under(&[0], x(), &[1]),
        under(&[1], x(), &[2]),
        under(&[2], y(), &[0]),
        under(&[0], z(), &[2]),
        under(&[1], h(), &[0]),
        under(&[0], phase(0.35), &[1]),
        under(&[2], phase(-0.6), &[1]),
        under(&[2], rx(0.45), &[0]),
        under(&[0], ry(0.55), &[2]),
        under(&[1], rz(0.65), &[2]),
        on(swap(), &[0, 2]),
        under(&[2, 1], x(), &[0]),
        under(&[1], swap(), &[0, 2]),
        under(&[2], u3(0.95, 1.05, -0.6), &[0]),
        on(phase(0.75), &[2]),
        global(0.5),
    ]
}

/// The principal root of a matrix whose square is the identity: eigenvalues ±1 become 1 and e^{iπ·exponent}.
fn root(matrix: Vec<C>, exponent: f64) -> Vec<C> {
    let side = matrix.len().isqrt();
    let factor = C::from_polar(1.0, PI * exponent);
    let entry = |at: usize| {
        let one = if at / side == at % side { C::ONE } else { C::ZERO };
        (one + matrix[at]) * 0.5 + (one - matrix[at]) * 0.5 * factor
    };
    (0..matrix.len()).map(entry).collect()
}

fn modifiers() -> Vec<Operation> {
    let mut list: Vec<Operation> = (0..4).map(|q| on(h(), &[q])).collect();
    // pair(a) = gphase(a), ry(a) on its first qubit, a controlled rz(2a); under a control the phase is the control's.
    let pair = |a: f64, q: usize, r: usize, control: Option<usize>| {
        let first = match control {
            None => global(a),
            Some(c) => on(phase(a), &[c]),
        };
        let controls: Vec<usize> = control.into_iter().collect();
        let both: Vec<usize> = control.into_iter().chain([q]).collect();
        [first, under(&controls, ry(a), &[q]), under(&both, rz(2.0 * a), &[r])]
    };
    let reversed = |mut list: Vec<Operation>| {
        list.reverse();
        list.iter_mut().for_each(|operation| operation.matrix = inverse(&operation.matrix));
        list
    };
    list.push(under(&[0], x(), &[1]));
    list.push(on(rx(0.3), &[2]).controlled(1, false));
    list.push(under(&[3, 0], y(), &[1]).controlled(2, false));
    list.push(on(inverse(&s()), &[0]));
    list.extend(reversed(pair(0.4, 0, 1, None).to_vec()));
    list.extend(pair(0.7, 3, 0, Some(2)));
    list.extend(reversed(pair(0.2, 2, 3, Some(1)).to_vec()));
    list.push(under(&[3], inverse(&sx()), &[0]));
    list.push(on(s(), &[1]));
    list.push(on(inverse(&t()), &[2]));
    list.push(on(sx(), &[0]));
    list.push(on(s(), &[1]));
    list.push(on(root(swap(), 0.5), &[2, 3]));
    list.push(under(&[0], root(y(), 1.0 / 3.0), &[3]));
    list.push(under(&[1], root(x(), 0.25), &[0]).controlled(2, false));
    (0..3).for_each(|_| list.extend(pair(0.1, 3, 1, None)));
    list.push(on(rz(-0.75), &[2]));
    list.push(on(x(), &[0]));
    list.push(on(phase(PI / 4.0), &[0]));
    list.push(global_where(&[(1, false), (2, false)], 0.3));
    list.push(global(0.5));
    list
}

fn loops() -> Vec<Operation> {
    let step = PI / 8.0;
    let mut list = vec![on(h(), &[0])];
    for i in 0..4 {
        list.push(under(&[i], x(), &[i + 1]));
        list.push(on(ry(i as f64 * step), &[i]));
    }
    for j in [4, 2, 0] {
        list.push(on(rx(j as f64 / 2.0), &[j]));
    }
    for (a, b) in [(3, 4), (4, 0), (1, 2), (2, 3)] {
        list.push(under(&[a], z(), &[b]));
    }
    list.push(on(x(), &[4]));
    list.push(on(y(), &[0]));
    (1..=3).for_each(|q| list.push(on(h(), &[q])));
    [0, 2, 4].into_iter().for_each(|q| list.push(on(s(), &[q])));
    // start:step:stop, so `::2` leaves out the first two.
    [0, 1, 2].into_iter().for_each(|q| list.push(on(t(), &[q])));
    [3, 2].into_iter().for_each(|q| list.push(on(z(), &[q])));
    [0, 4].into_iter().for_each(|q| list.push(on(sx(), &[q])));
    [1, 3, 0].into_iter().for_each(|q| list.push(on(rx(0.3), &[q])));
    list.push(under(&[1], x(), &[0]));
    list.push(on(rz(0.2), &[2]));
    for k in 1..=3 {
        list.push(on(rz(f64::from(k) * 0.1), &[0]));
        list.push(under(&[0], x(), &[2]));
    }
    for k in [4.0, 2.0] {
        list.push(under(&[2], phase(0.1 / k), &[4]));
    }
    list
}

fn values() -> Vec<Operation> {
    vec![
        on(ry(14.0), &[0]),
        on(ry(3.0), &[0]),
        on(rx(5.12), &[1]),
        on(rx(-4.0), &[1]),
        on(ry(4.0), &[2]),
        on(ry(2.0 * 2.0f64.sqrt()), &[2]),
        on(rx(PI / 6.0 + 0.25f64.acos() + 2.0f64.atan()), &[3]),
        on(rz(2.5f64.ln() + 0.1f64.exp() + 0.3f64.sin() + 0.2f64.cos() + 0.1f64.tan()), &[3]),
        on(rx(FRAC_PI_2 + PI - 2.0 * PI + E), &[0]),
        on(ry(5.0), &[1]),
        on(rx(26.0), &[2]),
        on(h(), &[3]),
    ]
}

fn with_inputs(v: &[f64]) -> Vec<Operation> {
    let (a, f, w) = (v[0], v[1], &v[2..5]);
    let mut list =
        vec![on(ry(a), &[0]), on(rx(2.0 * a + FRAC_PI_2), &[1]), on(rz(-f / 3.0 - 0.5), &[2]), on(h(), &[2])];
    let encode = |a: f64, b: f64| [ry(a), u3(a, b, -2.0 * a)];
    list.extend(encode(w[0], w[1]).map(|matrix| on(matrix, &[0])));
    list.extend(encode(f, a).map(|matrix| under(&[0], matrix, &[1])));
    let [first, second] = encode(w[2], 0.3);
    list.extend([on(inverse(&second), &[2]), on(inverse(&first), &[2])]);
    for i in 0..3 {
        list.push(under(&[i], ry((i + 1) as f64 * w[i] - i as f64), &[(i + 1) % 3]));
    }
    list.push(on(rz(a + 2.0 * f - w[1]), &[1]));
    list.push(on(u3(a + w[2], f - a, w[0] + w[1] + 0.1), &[2]));
    list.push(on(rx(2.0 * w[1]), &[0]));
    list.push(global(a / 2.0 + f));
    list.push(on(rx(0.7), &[1]));
    list
}

fn qft() -> Vec<Operation> {
    // The quantum Fourier transform of |5⟩ in one formula.
    let state: Vec<C> = (0..16).map(|k| C::from_polar(0.25, 2.0 * PI * 5.0 * f64::from(k) / 16.0)).collect();
    let mut matrix = vec![C::ZERO; 256];
    state.iter().enumerate().for_each(|(row, &amplitude)| matrix[row * 16] = amplitude);
    vec![on(matrix, &[0, 1, 2, 3])]
}

/// Probabilities of the values of all classical bits, the first bit least significant, where a measurement matters.
pub fn distribution(file: &str) -> Option<Vec<(usize, f64)>> {
    let (one, zero) = (0.4f64.sin().powi(2), 0.4f64.cos().powi(2));
    Some(match file {
        // Bits 0 and 1 are even coins, and bit 2 is the state that was sent.
        "teleport" => (0..8).map(|bits| (bits, 0.25 * if bits & 4 == 0 { zero } else { one })).collect(),
        // Half the time nothing but 0; else c becomes 3 and d is flipped on the freshly reset qubit.
        "reset" => vec![(0, 0.5), (7, 0.5)],
        "measurements" => {
            // flag = 1 with sin²(0.55): then a is 1, c = 2, h on a, last even; q[1] stays 1 and c[0] takes it.
            // flag = 0: y on a, c = 0, last = 1, c[0] = 0.  Bits: c[0] c[1] flag last.
            let p = 0.55f64.sin().powi(2);
            vec![(0b0111, p / 2.0), (0b1111, p / 2.0), (0b1000, 1.0 - p)]
        }
        // c[0] = 1: q[0] is reset, x on q[1]; c = 3, r = 0. c[0] = 0: x on q[0]; r = 1. Bits: c[0] c[1] r.
        "nested" => vec![(0b011, 0.5), (0b100, 0.5)],
        _ => return None,
    })
}
