//! The inner loop: a sweep applies its operations to 8 registers of the state at a time.

use super::exec::{ALL_LANES, Code, MAX_REGISTERS, Op, Sweep};
use super::lanes::{Chunk, Lanes};
use super::lone;
use super::vector::{Coefficients, Complex, Isa, Real, Routine, dispatch};

/// Calls a generic function with a register XOR as a constant, so that every array index is known to the compiler.
macro_rules! with_flip {
    ($flip:expr, $name:ident::<$s:ident, $n:ident>($($arg:expr),*)) => {
        match $flip {
            1 => $name::<$s, $n, 1>($($arg),*),
            2 => $name::<$s, $n, 2>($($arg),*),
            3 => $name::<$s, $n, 3>($($arg),*),
            4 => $name::<$s, $n, 4>($($arg),*),
            5 => $name::<$s, $n, 5>($($arg),*),
            6 => $name::<$s, $n, 6>($($arg),*),
            _ => $name::<$s, $n, 7>($($arg),*),
        }
    };
}
pub(super) use with_flip;

/// Applies sweeps to a tile. `tile` is the stored index of its base.
///
/// The one place that compiles the loop, once per instruction set: it is large.
#[inline(never)]
pub(crate) fn run(state: &mut [Chunk], sweeps: &[Sweep], table: &[Lanes], tile: u32) {
    dispatch(Run { state, sweeps, table, tile });
}

/// The arguments of [`run`]. Not a closure: one would not be inlined, and would miss the instruction set.
struct Run<'a> {
    state: &'a mut [Chunk],
    sweeps: &'a [Sweep],
    table: &'a [Lanes],
    tile: u32,
}

impl Routine for Run<'_> {
    #[inline(always)]
    fn run<S: Isa>(self, isa: S) {
        for sweep in self.sweeps {
            match sweep.registers {
                MAX_REGISTERS => {
                    run_sweep::<S, MAX_REGISTERS>(isa, self.state, sweep, self.table, self.tile);
                }
                _ => lone::run(isa, self.state, sweep, self.table, self.tile, false),
            }
        }
    }
}

#[inline(always)]
fn run_sweep<S: Isa, const N: usize>(isa: S, state: &mut [Chunk], sweep: &Sweep, table: &[Lanes], tile: u32) {
    let mut base = 0u32;
    for set in 1..=1usize << sweep.bases.len() {
        let mut a = [Complex::zero(isa); N];
        for j in 0..N {
            a[j] = Complex::load(isa, &state[(base ^ sweep.offsets[j]) as usize]);
        }
        let at = u64::from(tile) << 32 | u64::from(base);
        for op in &sweep.ops {
            apply(&mut a, sweep, op, Coefficients { isa, lanes: &table[op.slot as usize..] }, at);
        }
        for j in 0..N {
            state[(base ^ sweep.offsets[j]) as usize] = a[j].store();
        }
        // Gray code: one direction changes from set to set.
        base ^= sweep.bases.get(set.trailing_zeros() as usize).copied().unwrap_or(0);
    }
}

#[inline(always)]
fn apply<S: Isa, const N: usize>(
    a: &mut [Complex<S>; N],
    sweep: &Sweep,
    op: &Op,
    c: Coefficients<'_, S>,
    at: u64,
) {
    match op.code {
        Code::RotateReal => with_flip!(op.register, rotate_real::<S, N>(a, c, roles(op, at), op.lane)),
        Code::RotateImag => with_flip!(op.register, rotate_imag::<S, N>(a, c, roles(op, at), op.lane)),
        Code::RealThenPhase => with_flip!(op.register, real_then_phase::<S, N>(a, c)),
        Code::Phase => phase(a, sweep, op, c, at),
        Code::Matrix => {
            let active = sweep.active(op, at);
            with_flip!(op.register, matrix::<S, N>(a, c, roles(op, at), active));
        }
        // Copies, so that their computed indices do not force `a` out of the registers.
        Code::WideReal | Code::WideImag => *a = wide_rotation(*a, sweep, op, c, at, false),
        Code::WidePhase => *a = wide_phase(*a, sweep, op, c, at),
        Code::WideMatrix => *a = wide_matrix(*a, sweep, op, c, at),
        Code::WideDiagonal => *a = wide_diagonal(*a, sweep, op, c, at),
        Code::Exchange => exchange(a, op.register, sweep.active(op, at)),
        Code::WidePermutation => *a = wide_permutation(*a, sweep, op, at, false),
    }
}

/// Bit j: the role of register j in lane 0.
#[inline(always)]
pub(super) fn roles(op: &Op, at: u64) -> u32 {
    op.role.map_or(0, |role| role.at(at))
}

/// Whether `j` is the lower register of its pair under `flip`.
#[inline(always)]
pub(super) const fn is_lower(j: usize, flip: usize) -> bool {
    j & (flip & flip.wrapping_neg()) == 0
}

#[inline(always)]
fn rotate_real<S: Isa, const N: usize, const FLIP: usize>(
    a: &mut [Complex<S>; N],
    c: Coefficients<'_, S>,
    roles: u32,
    lane: u32,
) {
    for j in 0..N {
        if is_lower(j, FLIP) && j ^ FLIP < N {
            let set = 2 * (roles >> j & 1) as usize;
            let y = a[j ^ FLIP].flipped(lane);
            let (x, y) = shear_real(a[j], y, c.real(set), c.real(set + 1));
            (a[j], a[j ^ FLIP]) = (x, y.flipped(lane));
        }
    }
}

/// (x, y) → (c·x − s·y, s·x + c·y) by three shears; t = tan(θ/4), s = sin(θ/2).
#[inline(always)]
pub(super) fn shear_real<S: Isa>(
    mut x: Complex<S>,
    mut y: Complex<S>,
    t: Real<S>,
    s: Real<S>,
) -> (Complex<S>, Complex<S>) {
    x.re = t.fnma(y.re, x.re);
    x.im = t.fnma(y.im, x.im);
    y.re = s.fma(x.re, y.re);
    y.im = s.fma(x.im, y.im);
    x.re = t.fnma(y.re, x.re);
    x.im = t.fnma(y.im, x.im);
    (x, y)
}

#[inline(always)]
fn rotate_imag<S: Isa, const N: usize, const FLIP: usize>(
    a: &mut [Complex<S>; N],
    c: Coefficients<'_, S>,
    roles: u32,
    lane: u32,
) {
    for j in 0..N {
        if is_lower(j, FLIP) && j ^ FLIP < N {
            let set = 2 * (roles >> j & 1) as usize;
            let y = a[j ^ FLIP].flipped(lane);
            let (x, y) = shear_imag(a[j], y, c.real(set), c.real(set + 1));
            (a[j], a[j ^ FLIP]) = (x, y.flipped(lane));
        }
    }
}

/// (x, y) → (c·x − is·y, c·y − is·x): the real rotation of (x, iy).
#[inline(always)]
pub(super) fn shear_imag<S: Isa>(
    mut x: Complex<S>,
    mut y: Complex<S>,
    t: Real<S>,
    s: Real<S>,
) -> (Complex<S>, Complex<S>) {
    x.re = t.fma(y.im, x.re);
    x.im = t.fnma(y.re, x.im);
    y.re = s.fma(x.im, y.re);
    y.im = s.fnma(x.re, y.im);
    x.re = t.fma(y.im, x.re);
    x.im = t.fnma(y.re, x.im);
    (x, y)
}

#[inline(always)]
fn real_then_phase<S: Isa, const N: usize, const FLIP: usize>(
    a: &mut [Complex<S>; N],
    c: Coefficients<'_, S>,
) {
    let factor = c.complex(2);
    for j in 0..N {
        if is_lower(j, FLIP) && j ^ FLIP < N {
            let (x, y) = shear_real(a[j], a[j ^ FLIP], c.real(0), c.real(1));
            (a[j], a[j ^ FLIP]) = (x, y.times(factor));
        }
    }
}

#[inline(always)]
fn phase<S: Isa, const N: usize>(
    a: &mut [Complex<S>; N],
    sweep: &Sweep,
    op: &Op,
    c: Coefficients<'_, S>,
    at: u64,
) {
    let active = sweep.active(op, at);
    // With lanes in it, both values of the parity have a factor. One that changes from set to set would be mispredicted
    // every other time: multiplying by 1 costs less.
    if sweep.first_control_lanes(op) != 0 || sweep.first_control_moves(op) {
        for j in 0..N {
            a[j] = a[j].times(c.complex(2 * (active >> j & 1) as usize));
        }
        return;
    }
    let factor = c.complex(2);
    for j in 0..N {
        if active >> j & 1 == 1 {
            a[j] = a[j].times(factor);
        }
    }
}

#[inline(always)]
fn matrix<S: Isa, const N: usize, const FLIP: usize>(
    a: &mut [Complex<S>; N],
    c: Coefficients<'_, S>,
    roles: u32,
    active: u32,
) {
    for j in 0..N {
        if is_lower(j, FLIP) && j ^ FLIP < N && active >> j & 1 == 1 {
            let set = 8 * (roles >> j & 1) as usize;
            let m = |i: usize| c.complex(set + 2 * i);
            let (x, y) = (a[j], a[j ^ FLIP]);
            (a[j], a[j ^ FLIP]) = (x.times(m(0)).plus_times(m(1), y), x.times(m(2)).plus_times(m(3), y));
        }
    }
}

/// c·x ∓ s·P·x element by element, with controls and shuffles; `backward` undoes it.
#[inline(always)]
pub(super) fn wide_rotation<S: Isa, const N: usize>(
    old: [Complex<S>; N],
    sweep: &Sweep,
    op: &Op,
    c: Coefficients<'_, S>,
    at: u64,
    backward: bool,
) -> [Complex<S>; N] {
    let wide = &sweep.wides[op.wide as usize];
    let (register, lane) = wide.flips[1];
    let roles = wide.roles[0].at(at);
    let mut new = old;
    for j in 0..N {
        let partner = old[j ^ register as usize & (N - 1)].flipped(lane);
        let minus = (roles >> j & 1 == 1) ^ backward;
        let s = if minus { c.real(1).negated() } else { c.real(1) };
        let turned = match op.code {
            Code::WideReal => Complex {
                re: s.fnma(partner.re, c.real(0).mul(old[j].re)),
                im: s.fnma(partner.im, c.real(0).mul(old[j].im)),
            },
            _ => Complex {
                re: s.fma(partner.im, c.real(0).mul(old[j].re)),
                im: s.fnma(partner.re, c.real(0).mul(old[j].im)),
            },
        };
        new[j] = turned.select(sweep.active_lanes(op, at, j), old[j]);
    }
    new
}

#[inline(always)]
pub(super) fn wide_phase<S: Isa, const N: usize>(
    old: [Complex<S>; N],
    sweep: &Sweep,
    op: &Op,
    c: Coefficients<'_, S>,
    at: u64,
) -> [Complex<S>; N] {
    let factor = c.complex(0);
    let mut new = old;
    for j in 0..N {
        new[j] = old[j].times(factor).select(sweep.active_lanes(op, at, j), old[j]);
    }
    new
}

/// Number whose bit i is role i of register j, in lane 0.
#[inline(always)]
pub(super) fn role_number(sweep: &Sweep, op: &Op, at: u64, j: usize) -> usize {
    let bits = sweep.wides[op.wide as usize].roles.iter().enumerate();
    bits.fold(0, |number, (i, role)| number | ((role.at(at) >> j & 1) as usize) << i)
}

#[inline(always)]
fn wide_matrix<S: Isa, const N: usize>(
    old: [Complex<S>; N],
    sweep: &Sweep,
    op: &Op,
    c: Coefficients<'_, S>,
    at: u64,
) -> [Complex<S>; N] {
    let flips = &sweep.wides[op.wide as usize].flips;
    let mut new = old;
    for j in 0..N {
        let row = role_number(sweep, op, at, j) * 2 * flips.len();
        let mut sum = Complex::zero(c.isa);
        for (b, &(register, lane)) in flips.iter().enumerate() {
            let factor = c.complex(row + 2 * b);
            sum = sum.plus_times(factor, old[j ^ register as usize & (N - 1)].flipped(lane));
        }
        new[j] = sum.select(sweep.active_lanes(op, at, j), old[j]);
    }
    new
}

#[inline(always)]
fn wide_diagonal<S: Isa, const N: usize>(
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
        new[j] = old[j].times(factor).select(sweep.active_lanes(op, at, j), old[j]);
    }
    new
}

/// Exchanges the active pairs along a register direction.
#[inline(always)]
pub(super) fn exchange<S: Isa, const N: usize>(a: &mut [Complex<S>; N], flip: u32, active: u32) {
    with_flip!(flip, exchange_pairs::<S, N>(a, active));
}

#[inline(always)]
fn exchange_pairs<S: Isa, const N: usize, const FLIP: usize>(a: &mut [Complex<S>; N], active: u32) {
    for j in 0..N {
        if is_lower(j, FLIP) && j ^ FLIP < N && active >> j & 1 == 1 {
            a.swap(j, j ^ FLIP);
        }
    }
}

/// Moves elements between registers and lanes; `backward` undoes it.
#[inline(always)]
pub(super) fn wide_permutation<S: Isa, const N: usize>(
    old: [Complex<S>; N],
    sweep: &Sweep,
    op: &Op,
    at: u64,
    backward: bool,
) -> [Complex<S>; N] {
    let moves = &sweep.wides[op.wide as usize].moves[usize::from(backward)];
    let mut new = old;
    for j in 0..N {
        let active = sweep.active_lanes(op, at, j);
        for step in moves.of(role_number(sweep, op, at, j)) {
            let from = old[j ^ step.register as usize & (N - 1)];
            let mask = step.mask & active;
            new[j] = if mask == ALL_LANES {
                from.flipped(step.lane)
            } else if mask != 0 {
                from.flipped(step.lane).select(mask, new[j])
            } else {
                new[j]
            };
        }
    }
    new
}
