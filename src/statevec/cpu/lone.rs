//! A matrix or permutation on more directions than a sweep has registers: its elements are gathered beside each other in
//! the first-level cache, where the operation has them to itself.

use super::exec::{ALL_LANES, Code, LONE_REGISTERS, Op, Sweep};
use super::lanes::{Chunk, Lanes};
use super::vector::{Coefficients, Complex, Isa};

/// Applies the sweep's one operation to a tile, or undoes it.
#[inline(always)]
pub(super) fn run<S: Isa>(
    isa: S,
    state: &mut [Chunk],
    sweep: &Sweep,
    table: &[Lanes],
    tile: u32,
    backward: bool,
) {
    let offsets = &sweep.lone_offsets[..];
    let mut old = [Chunk::ZERO; LONE_REGISTERS];
    let mut base = 0u32;
    for set in 1..=1usize << sweep.bases.len() {
        let at = u64::from(tile) << 32 | u64::from(base);
        // The scheduler leaves one operation in such a sweep.
        for op in &sweep.ops {
            for (slot, &offset) in old.iter_mut().zip(offsets) {
                *slot = state[(base ^ offset) as usize];
            }
            let lone = Lone { isa, sweep, op, at, old: &old };
            if op.code == Code::WidePermutation {
                lone.permutation(state, base, backward);
            } else {
                let c = Coefficients { isa, lanes: &table[op.slot as usize..] };
                lone.matrix(state, base, c, backward);
            }
        }
        base ^= sweep.bases.get(set.trailing_zeros() as usize).copied().unwrap_or(0);
    }
}

struct Lone<'a, S: Isa> {
    isa: S,
    sweep: &'a Sweep,
    op: &'a Op,
    at: u64,
    /// The elements of one register set before the operation.
    old: &'a [Chunk; LONE_REGISTERS],
}

impl<S: Isa> Lone<'_, S> {
    #[inline(always)]
    fn role(&self, j: usize) -> usize {
        let bits = self.sweep.wides[self.op.wide as usize].roles.iter().enumerate();
        bits.fold(0, |number, (i, role)| number | usize::from(role.of(self.at, j)) << i)
    }

    #[inline(always)]
    fn element(&self, j: usize) -> Complex<S> {
        Complex::load(self.isa, &self.old[j & (LONE_REGISTERS - 1)])
    }

    #[inline(always)]
    fn permutation(&self, state: &mut [Chunk], base: u32, backward: bool) {
        let moves = &self.sweep.wides[self.op.wide as usize].moves[usize::from(backward)];
        for (j, &offset) in self.sweep.lone_offsets.iter().enumerate() {
            let active = self.sweep.lone_active_lanes(self.op, self.at, j);
            let mut new = self.element(j);
            for step in moves.of(self.role(j)) {
                let from = self.element(j ^ step.register as usize).flipped(step.lane);
                new = from.select(step.mask & active, new);
            }
            state[(base ^ offset) as usize] = new.store();
        }
    }

    /// Four rows at a time: their sums hide each other's latency and share the columns they load.
    #[inline(always)]
    fn matrix(&self, state: &mut [Chunk], base: u32, c: Coefficients<'_, S>, backward: bool) {
        const ROWS: usize = 4;
        let flips = &self.sweep.wides[self.op.wide as usize].flips;
        let offsets = &self.sweep.lone_offsets;
        for first in (0..offsets.len()).step_by(ROWS) {
            let mut rows = [0; ROWS];
            let mut sums = [Complex::zero(self.isa); ROWS];
            for i in 0..ROWS {
                rows[i] = self.role(first + i);
            }
            for (b, &(register, lane)) in flips.iter().enumerate() {
                for i in 0..ROWS {
                    let from = self.element((first + i) ^ register as usize).flipped(lane);
                    let factor = if backward {
                        // M†[role, role ⊕ b] is the conjugate of the partner's factor for this element.
                        c.complex(2 * ((rows[i] ^ b) * flips.len() + b)).conj()
                    } else {
                        c.complex(2 * (rows[i] * flips.len() + b))
                    };
                    sums[i] = sums[i].plus_times(factor, from);
                }
            }
            for i in 0..ROWS {
                let j = first + i;
                let active = self.sweep.lone_active_lanes(self.op, self.at, j);
                let new = if active == ALL_LANES { sums[i] } else { sums[i].select(active, self.element(j)) };
                state[(base ^ offsets[j]) as usize] = new.store();
            }
        }
    }
}
