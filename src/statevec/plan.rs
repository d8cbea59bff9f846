//! Where every step of a program runs: passes of tiles, sweeps of registers, and each step as seen from its registers.

use super::lower::{Parity, Step};
use super::schedule::{self, Group};
use super::subspace::{Subspace, complement, coordinates, pull_back};

/// How a backend holds a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Bits of the stored index.
    pub(crate) bits: usize,
    /// Lowest bits, which lie across the lanes of a vector (0 where lanes are samples or threads).
    pub(crate) lane_bits: usize,
    /// Bits above the lanes that a tile always contains, so that it is read in runs.
    pub(crate) run_bits: usize,
    /// Bits of a tile above the lanes; `bits − lane_bits` if the whole state is one tile.
    pub(crate) tile_bits: usize,
    /// Amplitudes (or vectors of them) in registers: `2^register_bits`.
    pub(crate) register_bits: usize,
}

/// One trip of the state through fast memory: a coset of `tile` at a time.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    /// Direction of each local index bit, in stored-index words.
    pub(crate) tile: Vec<u32>,
    /// Directions that lead from tile to tile.
    pub(crate) outer: Vec<u32>,
    pub(crate) sweeps: Vec<Sweep>,
}

/// Steps applied to `2^registers` elements at a time, in local coordinates of the pass.
#[derive(Clone, Debug)]
pub(crate) struct Sweep {
    /// Local XOR of each register bit.
    pub(crate) registers: Vec<u32>,
    /// Local XORs that lead to the other register sets.
    pub(crate) bases: Vec<u32>,
    pub(crate) ops: Vec<Placed>,
}

/// A step as a sweep sees it.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    /// Index of the step.
    pub(crate) step: usize,
    /// One per direction of the step.
    pub(crate) flips: Vec<Flip>,
    pub(crate) roles: Vec<Seen>,
    pub(crate) controls: Vec<Seen>,
}

/// A direction: XOR of the register number and of the lane number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flip {
    pub(crate) register: u32,
    pub(crate) lane: u32,
}

/// A parity, split into the part each level of the index contributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Over register bits.
    pub(crate) register: u32,
    /// Over lane bits.
    pub(crate) lane: u32,
    /// Over the local index of the register set's base.
    pub(crate) base: u32,
    /// Over the stored index of the tile's base.
    pub(crate) tile: u32,
    pub(crate) odd: bool,
}

/// Cuts the steps, in execution order, into passes and sweeps.
pub(crate) fn passes(steps: &[Step], shape: Shape) -> Vec<Pass> {
    let all: Vec<usize> = (0..steps.len()).collect();
    let units = |range: std::ops::Range<usize>| range.map(|bit| 1u32 << bit).collect::<Vec<_>>();
    let chunk_bits = shape.bits - shape.lane_bits;
    if shape.tile_bits >= chunk_bits {
        let tile = units(shape.lane_bits..shape.bits);
        return vec![pass(steps, &all, shape, tile)];
    }
    let low = units(0..shape.lane_bits + shape.run_bits);
    let groups = schedule::group(steps, &all, &low, shape.tile_bits - shape.run_bits);
    let place = |group: &Group| {
        let mut space = Subspace::of(low.iter().copied());
        let mut tile = low[shape.lane_bits..].to_vec();
        let padding = units(shape.lane_bits..shape.bits);
        for direction in group.directions.iter().copied().chain(padding) {
            if tile.len() < shape.tile_bits && space.insert(direction) {
                tile.push(direction);
            }
        }
        pass(steps, &group.steps, shape, tile)
    };
    groups.iter().map(place).collect()
}

fn pass(steps: &[Step], order: &[usize], shape: Shape, tile: Vec<u32>) -> Pass {
    let lanes: Vec<u32> = (0..shape.lane_bits).map(|bit| 1u32 << bit).collect();
    let basis: Vec<u32> = lanes.iter().chain(&tile).copied().collect();
    let outer = complement(&basis, shape.bits, std::iter::empty());
    let lane_mask = (1u32 << shape.lane_bits) - 1;
    let k = shape.register_bits.min(tile.len());
    let groups = schedule::group(steps, order, &lanes, k);
    let sweeps = groups.iter().map(|group| {
        // A matrix wider than the registers has a sweep, and more registers, to itself.
        let k = k.max(group.directions.len());
        // Every direction of the group is in the tile: the coordinates exist.
        let local = |direction| coordinates(&basis, direction).unwrap_or_default();
        let mut registers: Vec<u32> = Vec::with_capacity(k);
        let mut space = Subspace::default();
        let padding = (0..tile.len()).map(|bit| 1u32 << bit);
        for vector in group.directions.iter().map(|&d| local(d) >> shape.lane_bits).chain(padding) {
            if registers.len() < k && space.insert(vector) {
                registers.push(vector);
            }
        }
        let parities = |pick: fn(&Step) -> &[Parity]| {
            let of_group = group.steps.iter().flat_map(move |&step| pick(&steps[step]));
            of_group.map(|parity| pull_back(&tile, parity.mask))
        };
        let preferred = parities(|step| &step.roles).chain(parities(|step| &step.controls));
        let bases = complement(&registers, tile.len(), preferred);
        let seen = |parity: &Parity| {
            let (lane, base) = (parity.mask & lane_mask, pull_back(&tile, parity.mask));
            let moves = bases.iter().any(|&b| super::lower::odd_bits(base & b));
            let across = outer.iter().any(|&b| super::lower::odd_bits(parity.mask & b));
            Seen {
                register: pull_back(&registers, base),
                lane,
                base: if moves { base } else { 0 },
                tile: if across { parity.mask } else { 0 },
                odd: parity.odd,
            }
        };
        let flip = |&direction: &u32| {
            let at = local(direction);
            let register = coordinates(&registers, at >> shape.lane_bits).unwrap_or_default();
            Flip { register, lane: at & lane_mask }
        };
        let place = |&step: &usize| Placed {
            step,
            flips: steps[step].directions.iter().map(flip).collect(),
            roles: steps[step].roles.iter().map(seen).collect(),
            controls: steps[step].controls.iter().map(seen).collect(),
        };
        Sweep { ops: group.steps.iter().map(place).collect(), registers, bases }
    });
    let sweeps = sweeps.collect();
    Pass { tile, outer, sweeps }
}
