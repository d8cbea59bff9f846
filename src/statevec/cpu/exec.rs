//! A plan turned into what the CPU's inner loop reads: flat operations with coefficient slots.

use super::lanes::WIDTH;
use crate::statevec::gate::inverse_table;
use crate::statevec::lower::{Action, Step, odd_bits};
use crate::statevec::plan::{Pass, Placed, Seen};
use std::ops::Range;

/// Most registers of a sweep: eight complex vectors are half of AVX-512's register file.
pub(crate) const MAX_REGISTERS: usize = 8;

/// Bit j is the parity of `mask & j`, for register number j.
const fn parities(mask: u32) -> u32 {
    let (mut bits, mut j) = (0, 0);
    while j < MAX_REGISTERS as u32 {
        bits |= ((mask & j).count_ones() & 1) << j;
        j += 1;
    }
    bits
}

/// Most registers of a sweep that one wide matrix or permutation has to itself.
pub(crate) const LONE_REGISTERS: usize = 1 << crate::statevec::MAX_MATRIX_QUBITS;

/// A parity of the index, for each register at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bits {
    /// Over (tile base << 32 | register set base).
    mask: u64,
    /// Bit j: what register j's number adds.
    registers: u32,
    /// Over the lane number.
    pub(crate) lane: u32,
    /// Over the register number, where there may be more registers than `registers` has bits for.
    number: u32,
}

impl Bits {
    fn new(seen: &Seen) -> Self {
        let odd = if seen.odd { !0 } else { 0 };
        Self {
            mask: u64::from(seen.tile) << 32 | u64::from(seen.base),
            registers: parities(seen.register) ^ odd,
            lane: seen.lane,
            number: seen.register,
        }
    }

    /// The parity for register j in lane 0, of any number of registers.
    #[inline(always)]
    pub(crate) fn of(&self, at: u64, j: usize) -> bool {
        // The register numbers of `registers` are those of the low three bits; the rest of `number` is added.
        let high = j & !(MAX_REGISTERS - 1);
        let low = self.at(at) >> (j & (MAX_REGISTERS - 1)) & 1 == 1;
        low ^ odd_bits(self.number & high as u32)
    }

    /// Whether the parity changes from register set to register set.
    #[inline(always)]
    fn moves(&self) -> bool {
        self.mask != 0
    }

    /// Bit j: the parity for register j in lane 0, at `at` = (tile base << 32 | register set base).
    #[inline(always)]
    pub(crate) fn at(&self, at: u64) -> u32 {
        // 0 or all ones.
        self.registers ^ ((self.mask & at).count_ones() & 1).wrapping_neg()
    }

    /// Lanes whose own part of the parity is 1.
    #[inline(always)]
    pub(crate) fn lane_ones(&self) -> u32 {
        LANE_PARITY[self.lane as usize]
    }

    /// Lanes in which register j's parity is 1.
    #[inline(always)]
    pub(crate) fn lanes(&self, registers: u32, j: usize) -> u32 {
        self.lane_ones() ^ (registers >> j & 1).wrapping_neg() & ALL_LANES
    }
}

pub(crate) const ALL_LANES: u32 = (1 << WIDTH) - 1;

/// Bit l of entry m: the parity of `m & l`, for lane number l.
const LANE_PARITY: [u32; WIDTH] = {
    let (mut table, mut m) = ([0; WIDTH], 0);
    while m < WIDTH {
        let mut l = 0;
        while l < WIDTH {
            table[m] |= ((m & l).count_ones() & 1) << l;
            l += 1;
        }
        m += 1;
    }
    table
};

/// What an operation does, and the layout of its coefficients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// Real rotation by three shears; `[tan, sin]` for role 0, then for role 1.
    RotateReal,
    /// Imaginary rotation by three shears; the same.
    RotateImag,
    /// Real rotation, then a phase on the element whose role is 1; `[tan, sin, phase re, im]`.
    RealThenPhase,
    /// Phase on the registers whose controls hold, or (with a lane in it) on both values of its one parity:
    /// `[re, im]` where it is 0, then where it is 1.
    Phase,
    /// Dense 2×2 on one register bit; `[m00, m01, m10, m11]` complex for role 0, then for role 1.
    Matrix,
    /// Real or imaginary rotation with controls or along lanes; `[cos, sin]`.
    WideReal,
    /// See [`Code::WideReal`].
    WideImag,
    /// Phase under controls that lanes take part in; `[re, im]`.
    WidePhase,
    /// Any dense matrix: factor of each flipped partner, for each role; complex.
    WideMatrix,
    /// Any diagonal: factor for each role; complex.
    WideDiagonal,
    /// Exchange of a register pair under controls without lanes. No coefficients.
    Exchange,
    /// Any permutation. No coefficients.
    WidePermutation,
}

/// One operation of a sweep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    pub(crate) code: Code,
    /// Register number XOR of the (first) direction.
    pub(crate) register: u32,
    /// Lane number XOR of the same.
    pub(crate) lane: u32,
    /// The (first) role.
    pub(crate) role: Option<Bits>,
    /// First coefficient in the table.
    pub(crate) slot: u32,
    /// Where its controls are in the sweep's list.
    controls: (u32, u32),
    /// Where its wide description is in the sweep's list.
    pub(crate) wide: u32,
    /// Accumulators of its gradient and, for [`Code::RealThenPhase`], of its phase's.
    pub(crate) gradient: [u32; 2],
}

/// Roles and flips of an operation on several directions or lanes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wide {
    pub(crate) roles: Vec<Bits>,
    /// Register and lane XOR of every combination of directions.
    pub(crate) flips: Vec<(u32, u32)>,
    /// Of a permutation: forward, then backward.
    pub(crate) moves: [Moves; 2],
}

/// Where a permutation takes the element of each role from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moves {
    /// Of role r in lane 0: the moves from `starts[r]` to `starts[r + 1]`.
    pub(crate) starts: Vec<u32>,
    pub(crate) moves: Vec<Move>,
}

/// The lanes of `mask` take the element `register` and `lane` XORs away.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) register: u32,
    pub(crate) lane: u32,
    pub(crate) mask: u32,
}

impl Moves {
    /// `source[r]`: the role whose element role r receives.
    fn new(source: &[u32], roles: &[Bits], flips: &[(u32, u32)]) -> Self {
        let mut all = Self { starts: vec![0], moves: Vec::new() };
        let of_lane = |lane: u32| {
            let bits = roles.iter().enumerate();
            bits.fold(0, |role, (i, bit)| role | u32::from(odd_bits(bit.lane & lane)) << i)
        };
        for first in 0..source.len() as u32 {
            // Lanes by the combination of directions they look along.
            let mut along = vec![0u32; source.len()];
            for lane in 0..WIDTH as u32 {
                let role = first ^ of_lane(lane);
                along[(role ^ source[role as usize]) as usize] |= 1 << lane;
            }
            let used = along.iter().zip(flips).filter(|&(&mask, _)| mask != 0);
            all.moves.extend(used.map(|(&mask, &(register, lane))| Move { register, lane, mask }));
            all.starts.push(all.moves.len() as u32);
        }
        all
    }

    #[inline(always)]
    pub(crate) fn of(&self, role: usize) -> &[Move] {
        &self.moves[self.starts[role] as usize..self.starts[role + 1] as usize]
    }
}

/// A sweep ready to run.
#[derive(Clone, Debug)]
pub(crate) struct Sweep {
    /// Local XOR of each register.
    pub(crate) offsets: [u32; MAX_REGISTERS],
    /// The same, where one matrix has more registers to itself.
    pub(crate) lone_offsets: Vec<u32>,
    pub(crate) registers: usize,
    pub(crate) bases: Vec<u32>,
    pub(crate) ops: Vec<Op>,
    controls: Vec<Bits>,
    pub(crate) wides: Vec<Wide>,
}

impl Sweep {
    /// Bit j: whether every control holds for register j (in lane 0).
    #[inline(always)]
    pub(crate) fn active(&self, op: &Op, at: u64) -> u32 {
        let controls = &self.controls[op.controls.0 as usize..op.controls.1 as usize];
        controls.iter().fold(!0, |active, control| active & control.at(at))
    }

    /// Whether the first control changes from register set to register set.
    #[inline(always)]
    pub(crate) fn first_control_moves(&self, op: &Op) -> bool {
        self.controls[op.controls.0 as usize].moves()
    }

    /// Lanes whose own part of the first control is 1.
    #[inline(always)]
    pub(crate) fn first_control_lanes(&self, op: &Op) -> u32 {
        self.controls[op.controls.0 as usize].lane_ones()
    }

    /// Lanes in which every control holds for register j.
    #[inline(always)]
    pub(crate) fn active_lanes(&self, op: &Op, at: u64, j: usize) -> u32 {
        let controls = &self.controls[op.controls.0 as usize..op.controls.1 as usize];
        controls.iter().fold(ALL_LANES, |active, control| active & control.lanes(control.at(at), j))
    }

    /// The same, of any number of registers.
    #[inline(always)]
    pub(crate) fn lone_active_lanes(&self, op: &Op, at: u64, j: usize) -> u32 {
        let controls = &self.controls[op.controls.0 as usize..op.controls.1 as usize];
        controls.iter().fold(ALL_LANES, |active, control| {
            active & (control.lane_ones() ^ u32::from(control.of(at, j)).wrapping_neg() & ALL_LANES)
        })
    }
}

/// A trip of the state through fast memory.
#[derive(Clone, Debug)]
pub(crate) struct Trip {
    /// Local index bits.
    pub(crate) bits: usize,
    /// Stored-index direction of each local bit, and from tile to tile.
    pub(crate) tile: Vec<u32>,
    pub(crate) outer: Vec<u32>,
    pub(crate) sweeps: Vec<Sweep>,
}

/// How the coefficients of one operation are made.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) code: Code,
    /// Steps it carries out (two for [`Code::RealThenPhase`]).
    pub(crate) steps: Vec<usize>,
    pub(crate) slot: usize,
    /// Lane part of each role.
    pub(crate) role_lanes: Vec<u32>,
}

/// A plan ready to run on the CPU.
#[derive(Clone, Debug)]
pub(crate) struct Exec {
    pub(crate) trips: Vec<Trip>,
    pub(crate) recipes: Vec<Recipe>,
    /// Vectors in a coefficient table.
    pub(crate) table: usize,
    /// Step of each gradient accumulator.
    pub(crate) gradients: Vec<usize>,
}

impl Exec {
    pub(crate) fn new(steps: &[Step], passes: &[Pass]) -> Self {
        let mut exec = Self { trips: Vec::new(), recipes: Vec::new(), table: 0, gradients: Vec::new() };
        for pass in passes {
            let sweeps = pass.sweeps.iter().map(|sweep| exec.sweep(steps, sweep)).collect();
            let (tile, outer) = (pass.tile.clone(), pass.outer.clone());
            exec.trips.push(Trip { bits: tile.len(), tile, outer, sweeps });
        }
        exec
    }

    fn sweep(&mut self, steps: &[Step], plan: &crate::statevec::plan::Sweep) -> Sweep {
        let mut sweep = Sweep {
            offsets: [0; MAX_REGISTERS],
            lone_offsets: Vec::new(),
            registers: 1 << plan.registers.len(),
            bases: plan.bases.clone(),
            ops: Vec::new(),
            controls: Vec::new(),
            wides: Vec::new(),
        };
        let offset = |j: usize| {
            let set = plan.registers.iter().enumerate().filter(|(i, _)| j >> i & 1 == 1);
            set.fold(0, |at, (_, &register)| at ^ register)
        };
        (0..sweep.registers.min(MAX_REGISTERS)).for_each(|j| sweep.offsets[j] = offset(j));
        // An adjoint sweep of a three-qubit matrix is alone too.
        sweep.lone_offsets = (0..sweep.registers).map(offset).collect();
        let mut fused = vec![false; plan.ops.len()];
        for (i, placed) in plan.ops.iter().enumerate() {
            if fused[i] {
                continue;
            }
            let phase = phase_after(steps, &plan.ops, i).filter(|&at| !fused[at]);
            if let Some(at) = phase {
                fused[at] = true;
            }
            self.op(steps, &mut sweep, placed, phase.map(|at| plan.ops[at].step));
        }
        sweep
    }

    fn op(&mut self, steps: &[Step], sweep: &mut Sweep, placed: &Placed, phase: Option<usize>) {
        let step = &steps[placed.step];
        let code = match step.action {
            Action::RotateReal(_) if phase.is_some() => Code::RealThenPhase,
            Action::RotateReal(_) if is_plain(placed) => Code::RotateReal,
            Action::RotateReal(_) => Code::WideReal,
            Action::RotateImag(_) if is_plain(placed) => Code::RotateImag,
            Action::RotateImag(_) => Code::WideImag,
            Action::Phase(_) if placed.controls.len() == 1 || lane_free(placed) => Code::Phase,
            Action::Phase(_) => Code::WidePhase,
            Action::Matrix(_) | Action::SampleMatrix { .. } if is_narrow(placed) => Code::Matrix,
            Action::Matrix(_) | Action::SampleMatrix { .. } => Code::WideMatrix,
            Action::Diagonal(_) => Code::WideDiagonal,
            Action::Permutation(_) if is_narrow(placed) => Code::Exchange,
            Action::Permutation(_) => Code::WidePermutation,
        };
        let roles: Vec<Bits> = placed.roles.iter().map(Bits::new).collect();
        let first = sweep.controls.len() as u32;
        sweep.controls.extend(placed.controls.iter().map(Bits::new));
        let combinations = 0..1usize << placed.flips.len();
        let flips = combinations.map(|b| {
            let set = placed.flips.iter().enumerate().filter(|(i, _)| b >> i & 1 == 1);
            set.fold((0, 0), |at, (_, flip)| (at.0 ^ flip.register, at.1 ^ flip.lane))
        });
        let mut accumulator = |step: usize| match steps[step].angle() {
            Some(angle) if angle.of.is_some() => {
                self.gradients.push(step);
                self.gradients.len() as u32 - 1
            }
            _ => u32::MAX,
        };
        let gradient = [accumulator(placed.step), phase.map_or(u32::MAX, &mut accumulator)];
        sweep.ops.push(Op {
            code,
            register: placed.flips.first().map_or(0, |flip| flip.register),
            lane: placed.flips.first().map_or(0, |flip| flip.lane),
            role: roles.first().copied(),
            slot: self.table as u32,
            controls: (first, sweep.controls.len() as u32),
            wide: sweep.wides.len() as u32,
            gradient,
        });
        let wide = matches!(
            code,
            Code::WideReal | Code::WideImag | Code::WideMatrix | Code::WideDiagonal | Code::WidePermutation
        );
        if wide {
            let flips: Vec<(u32, u32)> = flips.collect();
            let moves = match &step.action {
                Action::Permutation(table) => {
                    let back = inverse_table(table);
                    [Moves::new(&back, &roles, &flips), Moves::new(table, &roles, &flips)]
                }
                _ => <[Moves; 2]>::default(),
            };
            sweep.wides.push(Wide { roles, flips, moves });
        }
        if matches!(code, Code::Exchange | Code::WidePermutation) {
            return;
        }
        // A phase with one parity tells its lanes apart like a role.
        let parities = if code == Code::Phase { &placed.controls[..1] } else { &placed.roles };
        self.recipes.push(Recipe {
            code,
            steps: [placed.step].into_iter().chain(phase).collect(),
            slot: self.table,
            role_lanes: parities.iter().map(|parity| parity.lane).collect(),
        });
        self.table += match code {
            Code::RotateReal | Code::RotateImag | Code::RealThenPhase | Code::Phase => 4,
            Code::Matrix => 16,
            Code::WideReal | Code::WideImag | Code::WidePhase => 2,
            Code::WideMatrix => 2 << (2 * placed.roles.len()),
            Code::WideDiagonal => 2 << placed.roles.len(),
            Code::Exchange | Code::WidePermutation => 0,
        };
    }
}

/// A register direction (which may exchange lanes too) without controls.
fn is_plain(placed: &Placed) -> bool {
    placed.controls.is_empty() && placed.flips[0].register != 0
}

/// One register direction, and no lane in it or in what it reads.
fn is_narrow(placed: &Placed) -> bool {
    placed.flips.len() == 1 && placed.flips[0].lane == 0 && lane_free(placed)
}

fn lane_free(placed: &Placed) -> bool {
    placed.controls.iter().chain(&placed.roles).all(|seen| seen.lane == 0)
}

/// The phase right behind a real rotation on the same qubit, if the two can share a loop.
fn phase_after(steps: &[Step], ops: &[Placed], at: usize) -> Option<usize> {
    let rotation = &ops[at];
    if !matches!(steps[rotation.step].action, Action::RotateReal(_))
        || !is_plain(rotation)
        || rotation.flips[0].lane != 0
    {
        return None;
    }
    let role = rotation.roles[0];
    // The element with the lower register number must always be the role-0 one.
    let flip = rotation.flips[0].register;
    let lowest = flip & flip.wrapping_neg();
    let lower_is_zero = (0..MAX_REGISTERS as u32).all(|j| j & lowest != 0 || !odd_bits(role.register & j));
    if role.base != 0 || role.tile != 0 || role.lane != 0 || role.odd || !lower_is_zero {
        return None;
    }
    let later: Range<usize> = at + 1..ops.len();
    for next in later {
        let step = &steps[ops[next].step];
        if matches!(step.action, Action::Phase(_)) && ops[next].controls == [role] {
            return Some(next);
        }
        // The phase is moved back over what lies between, which must not touch its qubit.
        let reads = |directions: &[u32]| {
            directions.iter().any(|&direction| odd_bits(steps[rotation.step].roles[0].mask & direction))
        };
        if reads(&step.directions) {
            return None;
        }
    }
    None
}
