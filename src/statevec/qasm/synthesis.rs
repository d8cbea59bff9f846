//! Any unitary matrix as controlled one-qubit gates, for languages that have no matrices.

use num_complex::Complex64 as C;

/// One factor of a unitary on k qubits. Bits of an index are those of the matrix's targets.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Factor {
    /// Multiplies basis state `index` by e^{i·angle}.
    Phase { index: usize, angle: f64 },
    /// A 2 × 2 unitary on bit `bit`, where all other bits are those of `index`.
    Pair { index: usize, bit: usize, matrix: [C; 4] },
}

/// `U = e^{iα}·U3(θ, φ, λ)` as [α, θ, φ, λ].
pub(super) fn euler(u: [C; 4]) -> [f64; 4] {
    let arg = |z: C| if z.norm() > 1e-300 { z.arg() } else { 0.0 };
    let theta = 2.0 * u[2].norm().atan2(u[0].norm());
    let alpha = arg(u[0]);
    // Phases of the larger two entries are taken from them; a small entry's phase is noise that only multiplies itself.
    if u[0].norm() >= u[2].norm() {
        let phi = arg(u[2]) - alpha;
        return [alpha, theta, phi, arg(u[3]) - alpha - phi];
    }
    [alpha, theta, arg(u[2]) - alpha, arg(-u[1]) - alpha]
}

/// Factors of a unitary, first applied first. Each acts on two basis states that differ in one bit, or on one.
///
/// # Source
/// Reck, Zeilinger, Bernstein & Bertani, PRL 73, 58 (1994), with rows in Gray-code order as in Vartiainen, Möttönen &
/// Salomaa, arXiv:quant-ph/0312218.
pub(super) fn factors(unitary: &[C]) -> Vec<Factor> {
    let side = unitary.len().isqrt();
    let mut rest = unitary.to_vec();
    let gray = |i: usize| i ^ (i >> 1);
    let mut undone = Vec::new();
    for column in 0..side {
        for place in (column + 1..side).rev() {
            let (upper, lower) = (gray(place - 1), gray(place));
            let (a, b) = (rest[upper * side + gray(column)], rest[lower * side + gray(column)]);
            let norm = a.norm().hypot(b.norm());
            if b.norm() <= 1e-16 * norm.max(1.0) {
                continue;
            }
            // The unitary (a*, b*; −b, a)/norm moves the column's weight to the upper row.
            let (a, b) = (a / norm, b / norm);
            for k in 0..side {
                let (x, y) = (rest[upper * side + k], rest[lower * side + k]);
                rest[upper * side + k] = a.conj() * x + b.conj() * y;
                rest[lower * side + k] = a * y - b * x;
            }
            // Its inverse (a, −b*; b, a*), in the order of the bit's values.
            let bit = (upper ^ lower).trailing_zeros() as usize;
            let matrix =
                if upper < lower { [a, -b.conj(), b, a.conj()] } else { [a.conj(), b, -b.conj(), a] };
            undone.push(Factor::Pair { index: upper & lower, bit, matrix });
        }
    }
    // What is left is diagonal.
    let phases = (0..side).map(|index| Factor::Phase { index, angle: rest[index * side + index].arg() });
    let kept = phases.filter(|factor| !matches!(factor, Factor::Phase { angle, .. } if angle.abs() < 1e-16));
    kept.chain(undone.into_iter().rev()).collect()
}

/// A permutation of basis states as flips of one bit where all others have the bits of an index: (index, bit), in order.
pub(super) fn flips(table: &[u32]) -> Vec<(usize, usize)> {
    let mut out = Vec::new();
    let mut done = vec![false; table.len()];
    for start in 0..table.len() {
        // The cycle start → a → b → … is the exchanges (start a)(start b)…, the first one first.
        let mut next = table[start] as usize;
        while next != start && !done[next] {
            exchange(start, next, &mut out);
            done[next] = true;
            next = table[next] as usize;
        }
        done[start] = true;
    }
    out
}

/// Exchanges two basis states: down the path of single flips between them, and back but for the last.
fn exchange(from: usize, to: usize, out: &mut Vec<(usize, usize)>) {
    let mut at = from;
    let mut path = Vec::new();
    for bit in (0..usize::BITS as usize).filter(|bit| (from ^ to) >> bit & 1 == 1) {
        path.push((at & !(1 << bit), bit));
        at ^= 1 << bit;
    }
    out.extend(&path);
    out.extend(path.iter().rev().skip(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flips_multiply_to_the_permutation() {
        for table in
            [vec![0, 1], vec![1, 0], vec![3, 0, 1, 2], vec![0, 2, 1, 3], vec![5, 3, 7, 0, 4, 1, 6, 2]]
        {
            for (index, &want) in table.iter().enumerate() {
                let flip = |state: usize, (held, bit): (usize, usize)| {
                    if state & !(1 << bit) == held { state ^ 1 << bit } else { state }
                };
                assert_eq!(flips(&table).into_iter().fold(index, flip), want as usize, "{table:?}");
            }
        }
    }

    /// Fixed pseudo-random unitaries: products of reflections.
    fn sample(side: usize, seed: u64) -> Vec<C> {
        let mut word = seed;
        let mut next = || {
            word = word.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (word >> 11) as f64 / (1u64 << 53) as f64 - 0.5
        };
        let mut out: Vec<C> =
            (0..side * side).map(|at| C::from(f64::from(u8::from(at / side == at % side)))).collect();
        for _ in 0..3 {
            let v: Vec<C> = (0..side).map(|_| C::new(next(), next())).collect();
            let norm: f64 = v.iter().map(C::norm_sqr).sum();
            for column in 0..side {
                let overlap: C = (0..side).map(|row| v[row].conj() * out[row * side + column]).sum();
                (0..side).for_each(|row| out[row * side + column] -= v[row] * overlap * (2.0 / norm));
            }
        }
        out
    }

    #[test]
    fn factors_multiply_to_the_matrix() {
        for (side, seed) in [(2, 1), (4, 2), (4, 3), (8, 4), (16, 5), (64, 6)] {
            let unitary = sample(side, seed);
            for column in 0..side {
                let mut state = vec![C::ZERO; side];
                state[column] = C::ONE;
                for factor in factors(&unitary) {
                    match factor {
                        Factor::Phase { index, angle } => state[index] *= C::from_polar(1.0, angle),
                        Factor::Pair { index, bit, matrix } => {
                            let [alpha, theta, phi, lambda] = euler(matrix);
                            let (s, c) = (theta / 2.0).sin_cos();
                            let p = |angle: f64| C::from_polar(1.0, angle + alpha);
                            let u = [p(0.0) * c, -p(lambda) * s, p(phi) * s, p(phi + lambda) * c];
                            let (x, y) = (state[index], state[index | 1 << bit]);
                            state[index] = u[0] * x + u[1] * y;
                            state[index | 1 << bit] = u[2] * x + u[3] * y;
                        }
                    }
                }
                for row in 0..side {
                    let wrong = (state[row] - unitary[row * side + column]).norm();
                    assert!(wrong < 1e-12, "side {side}, entry {row},{column}: off by {wrong}");
                }
            }
        }
    }

    #[test]
    fn angles_of_extreme_matrices() {
        let (o, l) = (C::ZERO, C::ONE);
        for u in [
            [l, o, o, l],
            [o, l, l, o],
            [o, -C::I, C::I, o],
            [C::I, o, o, -l],
            [C::from(1e-13), -l, l, C::from(1e-13)],
        ] {
            let [alpha, theta, phi, lambda] = euler(u);
            let (s, c) = (theta / 2.0).sin_cos();
            let p = |angle: f64| C::from_polar(1.0, angle + alpha);
            let got = [p(0.0) * c, -p(lambda) * s, p(phi) * s, p(phi + lambda) * c];
            assert!(got.iter().zip(&u).all(|(a, b)| (a - b).norm() < 1e-12), "{u:?}: {got:?}");
        }
    }
}
