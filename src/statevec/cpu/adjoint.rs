//! The adjoint sweep: undoes operations on ψ and λ together and collects ∂/∂angle of Re⟨λ|ψ⟩ on the way.

use super::exec::{Code, Op, Sweep};
use super::lanes::{Chunk, Lanes};
use super::lone;
use super::sweep::{
    exchange, is_lower, role_number, roles, shear_imag, shear_real, wide_permutation, wide_rotation,
    with_flip,
};
use super::vector::{Coefficients, Complex, Isa, Real, Routine, dispatch};

/// Undoes sweeps, last first, on ψ and λ. `gradients[accumulator]` gains ∂E/∂angle per lane, E = ⟨ψ|O|ψ⟩, λ = Oψ.
///
/// The one place that compiles the loop, once per instruction set: it is large.
#[inline(never)]
pub(crate) fn undo(
    psi: &mut [Chunk],
    lambda: &mut [Chunk],
    sweeps: &[Sweep],
    table: &[Lanes],
    tile: u32,
    gradients: &mut [Lanes],
) {
    dispatch(Undo { psi, lambda, sweeps, table, tile, gradients });
}

/// The arguments of [`undo`]. Not a closure: one would not be inlined, and would miss the instruction set.
struct Undo<'a> {
    psi: &'a mut [Chunk],
    lambda: &'a mut [Chunk],
    sweeps: &'a [Sweep],
    table: &'a [Lanes],
    tile: u32,
    gradients: &'a mut [Lanes],
}

impl Routine for Undo<'_> {
    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        let Self { psi, lambda, sweeps, table, tile, gradients } = self;
        for sweep in sweeps.iter().rev() {
            match sweep.registers {
                N => undo_sweep(isa, psi, lambda, sweep, table, tile, gradients),
                _ => {
                    lone::run(isa, psi, sweep, table, tile, true);
                    lone::run(isa, lambda, sweep, table, tile, true);
                }
            }
        }
    }
}

/// Registers of ψ and of λ.
struct Pair<S: Isa, const N: usize> {
    psi: [Complex<S>; N],
    lambda: [Complex<S>; N],
}

/// Registers of each of the two states: together they fill the register file.
const N: usize = 1 << super::ADJOINT_REGISTER_BITS;

#[inline(always)]
fn undo_sweep<S: Isa>(
    isa: S,
    psi: &mut [Chunk],
    lambda: &mut [Chunk],
    sweep: &Sweep,
    table: &[Lanes],
    tile: u32,
    gradients: &mut [Lanes],
) {
    let mut base = 0u32;
    for set in 1..=1usize << sweep.bases.len() {
        let index = |j: usize| (base ^ sweep.offsets[j]) as usize;
        let mut pair = Pair { psi: [Complex::zero(isa); N], lambda: [Complex::zero(isa); N] };
        for j in 0..N {
            pair.psi[j] = Complex::load(isa, &psi[index(j)]);
            pair.lambda[j] = Complex::load(isa, &lambda[index(j)]);
        }
        let at = u64::from(tile) << 32 | u64::from(base);
        for op in sweep.ops.iter().rev() {
            let c = Coefficients { isa, lanes: &table[op.slot as usize..] };
            undo_op(&mut pair, sweep, op, c, at, gradients);
        }
        for j in 0..N {
            psi[index(j)] = pair.psi[j].store();
            lambda[index(j)] = pair.lambda[j].store();
        }
        base ^= sweep.bases.get(set.trailing_zeros() as usize).copied().unwrap_or(0);
    }
}

#[inline(always)]
fn undo_op<S: Isa, const N: usize>(
    pair: &mut Pair<S, N>,
    sweep: &Sweep,
    op: &Op,
    c: Coefficients<'_, S>,
    at: u64,
    gradients: &mut [Lanes],
) {
    let mut add = |which: usize, value: Real<S>| {
        if let Some(sum) = gradients.get_mut(op.gradient[which] as usize) {
            *sum = Real::load(c.isa, sum).add(value).store();
        }
    };
    match op.code {
        Code::RotateReal => {
            let term = with_flip!(op.register, undo_real::<S, N>(pair, c, roles(op, at), op.lane));
            add(0, signed_by_lane(op, term));
        }
        Code::RotateImag => {
            let term = with_flip!(op.register, undo_imag::<S, N>(pair, c, roles(op, at), op.lane));
            add(0, signed_by_lane(op, term));
        }
        Code::RealThenPhase => {
            let (rotation, phase) = with_flip!(op.register, undo_real_then_phase::<S, N>(pair, c));
            add(0, rotation);
            add(1, phase);
        }
        Code::Phase => add(0, undo_phase(pair, sweep, op, c, at)),
        Code::Matrix => {
            let active = sweep.active(op, at);
            with_flip!(op.register, undo_matrix::<S, N>(pair, c, roles(op, at), active));
        }
        Code::WideReal | Code::WideImag => add(0, undo_wide_rotation(pair, sweep, op, c, at)),
        Code::WidePhase => add(0, undo_wide_phase(pair, sweep, op, c, at)),
        Code::WideMatrix => {
            pair.psi = undo_wide_matrix(pair.psi, sweep, op, c, at);
            pair.lambda = undo_wide_matrix(pair.lambda, sweep, op, c, at);
        }
        Code::WideDiagonal => {
            pair.psi = undo_wide_diagonal(pair.psi, sweep, op, c, at);
            pair.lambda = undo_wide_diagonal(pair.lambda, sweep, op, c, at);
        }
        Code::Exchange => {
            let active = sweep.active(op, at);
            exchange(&mut pair.psi, op.register, active);
            exchange(&mut pair.lambda, op.register, active);
        }
        Code::WidePermutation => {
            pair.psi = wide_permutation(pair.psi, sweep, op, at, true);
            pair.lambda = wide_permutation(pair.lambda, sweep, op, at, true);
        }
    }
}

/// The gradient of a rotation whose role lanes take part in: the other sign where their own parity is 1.
#[inline(always)]
fn signed_by_lane<S: Isa>(op: &Op, term: Real<S>) -> Real<S> {
    match op.role {
        Some(role) if role.lane != 0 => term.negated().select(role.lane_ones(), term),
        _ => term,
    }
}

/// Re(conj(u)·a)
#[inline(always)]
fn dot<S: Isa>(u: Complex<S>, a: Complex<S>, sum: Real<S>) -> Real<S> {
    u.im.fma(a.im, u.re.fma(a.re, sum))
}

/// −Im(conj(u)·a), added: what a phase in front of `a` changes.
#[inline(always)]
fn minus_cross<S: Isa>(u: Complex<S>, a: Complex<S>, sum: Real<S>) -> Real<S> {
    u.im.fma(a.re, u.re.fnma(a.im, sum))
}

/// Re⟨λ|−iYψ⟩ of a pair: dE/dθ = 2·Re⟨λ|−(i/2)Yψ⟩, and −iY = [[0, −1], [1, 0]].
#[inline(always)]
fn real_gradient<S: Isa>(
    x: Complex<S>,
    y: Complex<S>,
    u: Complex<S>,
    w: Complex<S>,
    zero: Real<S>,
) -> Real<S> {
    dot(w, x, dot(u, y, zero).negated())
}

#[inline(always)]
fn undo_real<S: Isa, const N: usize, const FLIP: usize>(
    pair: &mut Pair<S, N>,
    c: Coefficients<'_, S>,
    roles: u32,
    lane: u32,
) -> Real<S> {
    let zero = Real::zero(c.isa);
    let mut sum = zero;
    for j in 0..N {
        if is_lower(j, FLIP) && j ^ FLIP < N {
            let k = j ^ FLIP;
            (pair.psi[k], pair.lambda[k]) = (pair.psi[k].flipped(lane), pair.lambda[k].flipped(lane));
            let role = roles >> j & 1;
            // The other role's coefficients are this rotation's inverse.
            let (t, s) = (c.real(2 * (role ^ 1) as usize), c.real(2 * (role ^ 1) as usize + 1));
            let term = real_gradient(pair.psi[j], pair.psi[k], pair.lambda[j], pair.lambda[k], zero);
            sum = if role == 1 { sum.sub(term) } else { sum.add(term) };
            (pair.psi[j], pair.psi[k]) = shear_real(pair.psi[j], pair.psi[k], t, s);
            (pair.lambda[j], pair.lambda[k]) = shear_real(pair.lambda[j], pair.lambda[k], t, s);
            (pair.psi[k], pair.lambda[k]) = (pair.psi[k].flipped(lane), pair.lambda[k].flipped(lane));
        }
    }
    sum
}

#[inline(always)]
fn undo_imag<S: Isa, const N: usize, const FLIP: usize>(
    pair: &mut Pair<S, N>,
    c: Coefficients<'_, S>,
    roles: u32,
    lane: u32,
) -> Real<S> {
    let zero = Real::zero(c.isa);
    let mut sum = zero;
    for j in 0..N {
        if is_lower(j, FLIP) && j ^ FLIP < N {
            let k = j ^ FLIP;
            (pair.psi[k], pair.lambda[k]) = (pair.psi[k].flipped(lane), pair.lambda[k].flipped(lane));
            let role = roles >> j & 1;
            let (t, s) = (c.real(2 * (role ^ 1) as usize), c.real(2 * (role ^ 1) as usize + 1));
            let term = minus_cross(pair.lambda[j], pair.psi[k], zero);
            let term = minus_cross(pair.lambda[k], pair.psi[j], term);
            sum = if role == 1 { sum.add(term) } else { sum.sub(term) };
            (pair.psi[j], pair.psi[k]) = shear_imag(pair.psi[j], pair.psi[k], t, s);
            (pair.lambda[j], pair.lambda[k]) = shear_imag(pair.lambda[j], pair.lambda[k], t, s);
            (pair.psi[k], pair.lambda[k]) = (pair.psi[k].flipped(lane), pair.lambda[k].flipped(lane));
        }
    }
    sum
}

#[inline(always)]
fn undo_real_then_phase<S: Isa, const N: usize, const FLIP: usize>(
    pair: &mut Pair<S, N>,
    c: Coefficients<'_, S>,
) -> (Real<S>, Real<S>) {
    let factor = c.complex(2);
    let zero = Real::zero(c.isa);
    let (t, s) = (c.real(0).negated(), c.real(1).negated());
    let (mut rotation, mut phase) = (zero, zero);
    for j in 0..N {
        if is_lower(j, FLIP) && j ^ FLIP < N {
            let k = j ^ FLIP;
            let (x, u) = (pair.psi[j], pair.lambda[j]);
            let (y, w) = (pair.psi[k].times_conj(factor), pair.lambda[k].times_conj(factor));
            phase = minus_cross(w, y, phase);
            rotation = rotation.add(real_gradient(x, y, u, w, zero));
            (pair.psi[j], pair.psi[k]) = shear_real(x, y, t, s);
            (pair.lambda[j], pair.lambda[k]) = shear_real(u, w, t, s);
        }
    }
    (rotation, phase.add(phase))
}

#[inline(always)]
fn undo_phase<S: Isa, const N: usize>(
    pair: &mut Pair<S, N>,
    sweep: &Sweep,
    op: &Op,
    c: Coefficients<'_, S>,
    at: u64,
) -> Real<S> {
    let active = sweep.active(op, at);
    let lanes = sweep.first_control_lanes(op);
    let zero = Real::zero(c.isa);
    let mut sum = zero;
    for j in 0..N {
        let one = active >> j & 1 == 1;
        if !one && lanes == 0 {
            continue;
        }
        let factor = if one { c.complex(2) } else { c.complex(0) };
        let term = minus_cross(pair.lambda[j], pair.psi[j], zero);
        // In the lanes whose own parity is 1 the rest must be 0.
        sum = sum.add(term.select(if one { !lanes } else { lanes }, zero));
        pair.psi[j] = pair.psi[j].times_conj(factor);
        pair.lambda[j] = pair.lambda[j].times_conj(factor);
    }
    sum.add(sum)
}

#[inline(always)]
fn undo_matrix<S: Isa, const N: usize, const FLIP: usize>(
    pair: &mut Pair<S, N>,
    c: Coefficients<'_, S>,
    roles: u32,
    active: u32,
) {
    for a in [&mut pair.psi, &mut pair.lambda] {
        for j in 0..N {
            if is_lower(j, FLIP) && j ^ FLIP < N && active >> j & 1 == 1 {
                let set = 8 * (roles >> j & 1) as usize;
                // Conjugate transpose.
                let m = |i: usize| c.complex(set + 2 * i).conj();
                let (x, y) = (a[j], a[j ^ FLIP]);
                (a[j], a[j ^ FLIP]) = (x.times(m(0)).plus_times(m(2), y), x.times(m(1)).plus_times(m(3), y));
            }
        }
    }
}

#[inline(always)]
fn undo_wide_rotation<S: Isa, const N: usize>(
    pair: &mut Pair<S, N>,
    sweep: &Sweep,
    op: &Op,
    c: Coefficients<'_, S>,
    at: u64,
) -> Real<S> {
    let wide = &sweep.wides[op.wide as usize];
    let (register, lane) = wide.flips[1];
    let role = wide.roles[0];
    let roles = role.at(at);
    let zero = Real::zero(c.isa);
    let mut sum = zero;
    for j in 0..N {
        let partner = pair.psi[j ^ register as usize & (N - 1)].flipped(lane);
        let term = match op.code {
            // (−iYψ)(x) = −σ·partner, (−iXψ)(x) = −iσ·partner.
            Code::WideReal => dot(pair.lambda[j], partner, zero).negated(),
            _ => minus_cross(pair.lambda[j], partner, zero).negated(),
        };
        let minus = term.negated();
        let signed = minus.select(role.lanes(roles, j), term);
        sum = sum.add(signed.select(sweep.active_lanes(op, at, j), zero));
    }
    pair.psi = wide_rotation(pair.psi, sweep, op, c, at, true);
    pair.lambda = wide_rotation(pair.lambda, sweep, op, c, at, true);
    sum
}

#[inline(always)]
fn undo_wide_phase<S: Isa, const N: usize>(
    pair: &mut Pair<S, N>,
    sweep: &Sweep,
    op: &Op,
    c: Coefficients<'_, S>,
    at: u64,
) -> Real<S> {
    let factor = c.complex(0);
    let zero = Real::zero(c.isa);
    let mut sum = zero;
    for j in 0..N {
        let lanes = sweep.active_lanes(op, at, j);
        let (a, u) = (pair.psi[j], pair.lambda[j]);
        sum = sum.add(minus_cross(u, a, zero).select(lanes, zero));
        pair.psi[j] = a.times_conj(factor).select(lanes, a);
        pair.lambda[j] = u.times_conj(factor).select(lanes, u);
    }
    sum.add(sum)
}

#[inline(always)]
fn undo_wide_matrix<S: Isa, const N: usize>(
    old: [Complex<S>; N],
    sweep: &Sweep,
    op: &Op,
    c: Coefficients<'_, S>,
    at: u64,
) -> [Complex<S>; N] {
    let flips = &sweep.wides[op.wide as usize].flips;
    let mut new = old;
    for j in 0..N {
        let role = role_number(sweep, op, at, j);
        let mut sum = Complex::zero(c.isa);
        for (b, &(register, lane)) in flips.iter().enumerate() {
            // M†[role, role ⊕ b] is the conjugate of the partner's factor for this element.
            let at = 2 * ((role ^ b) * flips.len() + b);
            let factor = c.complex(at).conj();
            sum = sum.plus_times(factor, old[j ^ register as usize & (N - 1)].flipped(lane));
        }
        new[j] = sum.select(sweep.active_lanes(op, at, j), old[j]);
    }
    new
}

#[inline(always)]
fn undo_wide_diagonal<S: Isa, const N: usize>(
    old: [Complex<S>; N],
    sweep: &Sweep,
    op: &Op,
    c: Coefficients<'_, S>,
    at: u64,
) -> [Complex<S>; N] {
    let mut new = old;
    for j in 0..N {
        let at_role = 2 * role_number(sweep, op, at, j);
        let factor = c.complex(at_role);
        new[j] = old[j].times_conj(factor).select(sweep.active_lanes(op, at, j), old[j]);
    }
    new
}
