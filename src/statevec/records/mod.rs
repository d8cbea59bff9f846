//! The program as GPU kernels read it: segments of 32-bit words.
//!
//! A segment is a mapping of (thread, register) to stored indices and either operations, with the slots of their variable
//! angles, or strings to measure. `kernels/statevec/circuit.{cu,wgsl}` interpret the words; their offsets are fixed here:
//!
//! ```text
//! 0 words  1 flags  2 slots  3 operations or strings  4 direction of the strings, or gradients  5 where they start
//! 6 first string or gradient  7 words of the next
//! 8..40   stored index of (thread, register): {origin, 5 register bits, thread bits}
//! 22..36, 36..50  on the chip: shared addresses of the last mapping and of this one, {origin, 5 register bits, 8 thread bits}
//! 50.. slots    {first term, terms, constant, quadrant}   then terms {source, factor high, factor low}
//!      operation {opcode | differentiated << 7 | flip << 8 | roles << 16 | controls << 24, slot, cos, sin}, parities, matrix
//!                entries
//!      string    {thread mask, register mask | odd << 31, coefficient, observable | last << 31}
//! ```
//!
//! A parity is {thread mask, register mask | odd << 31}; a source is the index of a parameter, with the top bit for inputs.
//! An angle is Σ factor·parameter + constant + quadrant·π/2 with |constant| ≤ π/4, so that no rounding grows with its size.

mod adjoint;

pub(crate) use adjoint::{Arriving, encode_adjoint};

use super::lower::{Action, Frame, Lowered, Parity, Step, odd_bits};
use super::observables::StringGroup;
use super::parameter::{Angle, Variable};
use super::plan::{self, Pass, Shape, Sweep};
use super::subspace::{complement, coordinates, pull_back};
use super::swizzle::{LANE_BITS, Swizzle};
use std::f64::consts::FRAC_PI_2;

/// Log₂ of the amplitudes a thread holds.
const REGISTER_BITS: usize = 4;
/// Most bits of a state that stays on the chip: 256 threads of 16 amplitudes.
pub(crate) const ON_CHIP_BITS: usize = 12;
/// Threads of a block, and words of its exchange plane.
const THREAD_BITS: usize = 8;
const PLANE_WORDS: usize = 4096;
/// Words of a segment, at most: what a CUDA block stages in shared memory.
const SEGMENT_WORDS: usize = 2048;
/// Strings reduced together.
const STRINGS: usize = 16;

const HEADER: usize = 50;
/// Tables of a header.
const MAPPING: usize = 8;
pub(super) const WRITE: usize = 22;
pub(super) const READ: usize = 36;
/// Words of a table before its thread bits: the origin, and as many register bits as any kernel has.
pub(super) const TABLE_THREADS: usize = 6;
const NO_SLOT: u32 = u32::MAX;
pub(super) const EXCHANGE: u32 = 1;
const MEASURE: u32 = 2;
const IMAGINARY: u32 = 4;
const PAIRS: u32 = 8;
const APPLY: u32 = 16;
const UNDO: u32 = 32;
const LOAD: u32 = 64;
/// In an operation's first word: its angle's derivative is wanted.
const DIFFERENTIATED: u32 = 1 << 7;
/// Gradients of a segment: rows of partial sums in shared memory.
const GRADIENTS: usize = 8;

/// Where the words of one segment are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) first: u32,
    pub(crate) words: u32,
    /// Parameter values it reads for each sample and block.
    pub(crate) terms: u64,
    pub(crate) kind: Kind,
    /// Operations or strings.
    pub(crate) count: u32,
    /// Differentiated operations.
    pub(crate) gradients: u32,
}

/// What a segment does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Operations on the state.
    Run,
    /// Strings to measure.
    Measure,
    /// Strings of a weighted observable O, to form λ = Oψ; true if they flip amplitudes.
    Apply(bool),
    /// λ is read from a gradient of the states.
    Load,
    /// Operations to undo on ψ and λ.
    Undo,
}

/// What an angle differentiated by the adjoint belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Derivative {
    Step(usize),
    /// The angles of the global phase, all alike.
    GlobalPhase,
}

/// A program for one kind of result.
#[derive(Debug)]
pub(crate) struct DeviceProgram {
    pub(crate) words: Vec<u32>,
    pub(crate) segments: Vec<Segment>,
    /// Bits of the stored index: the qubits, padded to a full set of registers.
    pub(crate) bits: usize,
    /// `{coefficient, observable | last << 31}` of every measured string.
    pub(crate) strings: Vec<u32>,
    /// What is differentiated, in the order the kernel meets it.
    pub(crate) gradients: Vec<Derivative>,
}

/// What the program ends in.
#[derive(Clone, Copy)]
pub(crate) enum Ending<'a> {
    /// States in logical order, global phase included.
    States,
    /// The same without the phase.
    Probabilities,
    Expectations(&'a [StringGroup], usize),
}

/// The schedule on a GPU; the same for every ending.
pub(crate) fn schedule(lowered: &Lowered, qubits: usize) -> Vec<Pass> {
    let bits = qubits.max(REGISTER_BITS);
    let shape = Shape { bits, lane_bits: 0, run_bits: 0, tile_bits: bits, register_bits: REGISTER_BITS };
    plan::passes(&lowered.steps, shape)
}

/// Which stored index each thread and register holds.
#[derive(Clone, PartialEq)]
pub(super) struct Mapping {
    pub(super) origin: u32,
    pub(super) registers: Vec<u32>,
    pub(super) threads: Vec<u32>,
}

pub(super) struct Encoder<'a> {
    steps: &'a [Step],
    pub(super) bits: usize,
    pub(super) out: DeviceProgram,
    pub(super) last: Option<Mapping>,
    /// Words of the plane that coefficients may use.
    coefficient_words: usize,
}

/// A variable angle.
struct Slot {
    constant: f64,
    /// (source, factor)
    terms: Vec<(u32, f64)>,
}

/// Words of a slot and of a term.
const SLOT_WORDS: usize = 4;
const TERM_WORDS: usize = 3;

impl Mapping {
    /// The mapping followed by a linear one.
    fn mapped(&self, addresses: &Swizzle) -> Self {
        let all = |vectors: &[u32]| vectors.iter().map(|&vector| addresses.of(vector)).collect();
        Self {
            origin: addresses.of(self.origin),
            registers: all(&self.registers),
            threads: all(&self.threads),
        }
    }
}

impl Slot {
    fn words(&self) -> usize {
        SLOT_WORDS + TERM_WORDS * self.terms.len()
    }
}

/// A segment being filled.
#[derive(Default)]
pub(super) struct Open {
    slots: Vec<Slot>,
    pub(super) ops: Vec<u32>,
    pub(super) count: u32,
    gradients: Vec<Derivative>,
    /// Of the strings.
    pub(super) direction: u32,
}

impl Open {
    fn words(&self) -> usize {
        HEADER + self.slots.iter().map(Slot::words).sum::<usize>() + self.ops.len()
    }
}

/// Encodes a scheduled circuit and its readout.
pub(crate) fn encode(lowered: &Lowered, passes: &[Pass], qubits: usize, ending: Ending<'_>) -> DeviceProgram {
    let mut encoder = Encoder::new(lowered, qubits, PLANE_WORDS);
    encoder.forward(passes);
    match ending {
        Ending::States => encoder.logical(&lowered.frame, &lowered.global_phase),
        Ending::Probabilities => encoder.logical(&lowered.frame, &[]),
        Ending::Expectations(groups, observables) => encoder.measure(groups, observables),
    }
    encoder.finish()
}

impl<'a> Encoder<'a> {
    fn new(lowered: &'a Lowered, qubits: usize, coefficient_words: usize) -> Self {
        let bits = qubits.max(REGISTER_BITS);
        let out = DeviceProgram {
            words: Vec::new(),
            segments: Vec::new(),
            bits,
            strings: Vec::new(),
            gradients: Vec::new(),
        };
        Encoder { steps: &lowered.steps, bits, out, last: None, coefficient_words }
    }

    fn forward(&mut self, passes: &[Pass]) {
        passes.iter().flat_map(|pass| &pass.sweeps).for_each(|sweep| self.sweep(sweep, false));
    }

    fn finish(mut self) -> DeviceProgram {
        let lengths: Vec<u32> = self.out.segments.iter().map(|segment| segment.words).collect();
        for (segment, next) in self.out.segments.iter().zip(lengths.iter().skip(1).chain([&0])) {
            self.out.words[segment.first as usize + 7] = *next;
        }
        self.out
    }
}

impl Encoder<'_> {
    /// Slots a segment may have: two words each for every state of a block must fit the plane.
    fn most_slots(&self) -> usize {
        let states = 1usize << THREAD_BITS.saturating_sub(self.bits - REGISTER_BITS);
        self.coefficient_words / 2 / states
    }

    /// A sweep, or, to `undo` it, the inverses of its steps in reverse order.
    fn sweep(&mut self, sweep: &Sweep, undo: bool) {
        let mut mapping =
            Mapping { origin: 0, registers: sweep.registers.clone(), threads: sweep.bases.clone() };
        let mut open = Open::default();
        let mut order: Vec<usize> = sweep.ops.iter().map(|placed| placed.step).collect();
        if undo {
            order.reverse();
        }
        let kind = if undo { Kind::Undo } else { Kind::Run };
        for number in order {
            let step = &self.steps[number];
            if step.directions.len() > 1 {
                // Kernels hold a wide matrix's directions in the lowest register bits.
                let turned = front(&mapping.registers, &step.directions);
                if turned != mapping.registers {
                    self.close(&mapping, &mut open, kind);
                    mapping.registers = turned;
                }
            }
            let mut next = Open::default();
            if undo {
                self.op(&adjoint::inverse(step), &mapping, &mut next);
                if step.angle().is_some_and(|angle| angle.of.is_some()) {
                    next.ops[0] |= DIFFERENTIATED;
                    next.gradients.push(Derivative::Step(number));
                }
            } else {
                self.op(step, &mapping, &mut next);
            }
            let too_long = open.words() + next.words() - HEADER > SEGMENT_WORDS;
            let too_many = open.slots.len() + next.slots.len() > self.most_slots()
                || open.gradients.len() + next.gradients.len() > GRADIENTS;
            if too_long || too_many {
                self.close(&mapping, &mut open, kind);
            }
            if let Some(slot) = next.slots.pop() {
                next.ops[1] = open.slots.len() as u32;
                open.slots.push(slot);
            }
            open.ops.append(&mut next.ops);
            open.gradients.append(&mut next.gradients);
            open.count += 1;
        }
        self.close(&mapping, &mut open, kind);
    }

    fn op(&self, step: &Step, mapping: &Mapping, open: &mut Open) {
        let flip = match step.directions.as_slice() {
            [direction] => coordinates(&mapping.registers, *direction).unwrap_or_default(),
            _ => 0,
        };
        // Rotations turn by half their angle. Halving is exact.
        let (opcode, turn): (u32, Option<Angle>) = match &step.action {
            Action::RotateReal(angle) => (0, Some(angle.scaled(0.5))),
            Action::RotateImag(angle) => (1, Some(angle.scaled(0.5))),
            Action::Phase(angle) => (2, Some(*angle)),
            // A permutation goes as its matrix. Per-sample matrices have been refused.
            Action::Matrix(_) | Action::Permutation(_) | Action::SampleMatrix { .. } => {
                (2 + step.directions.len() as u32, None)
            }
            Action::Diagonal(_) => (6, None),
        };
        let (mut slot, mut constant) = (NO_SLOT, (1.0, 0.0));
        match turn {
            Some(Angle { of: None, offset, .. }) => constant = (offset.cos() as f32, offset.sin() as f32),
            Some(angle) => {
                slot = 0;
                open.slots.push(Slot { constant: angle.offset, terms: vec![term(angle)] });
            }
            None => {}
        }
        let (roles, controls) = (step.roles.len() as u32, step.controls.len() as u32);
        open.ops.extend([
            opcode | flip << 8 | roles << 16 | controls << 24,
            slot,
            constant.0.to_bits(),
            constant.1.to_bits(),
        ]);
        for parity in step.roles.iter().chain(&step.controls) {
            open.ops.extend(parity_words(mapping, *parity));
        }
        let dense = step.action.dense_permutation();
        let entries = match &step.action {
            Action::Matrix(entries) | Action::Diagonal(entries) => Some(&entries[..]),
            _ => dense.as_deref(),
        };
        if let Some(entries) = entries {
            let words = entries.iter().flat_map(|entry| [entry.re as f32, entry.im as f32]);
            open.ops.extend(words.map(f32::to_bits));
        }
    }

    /// Ends a segment; one without operations only changes the mapping and is left out.
    fn close(&mut self, mapping: &Mapping, open: &mut Open, kind: Kind) {
        let open = std::mem::take(open);
        if open.count > 0 {
            let first = self.out.gradients.len() as u32;
            self.push(mapping, open, kind, 0, first);
        }
    }

    /// Appends a segment. `first`: number of its first string or gradient.
    pub(super) fn push(&mut self, mapping: &Mapping, mut open: Open, kind: Kind, flags: u32, first: u32) {
        let moved = self.last.as_ref().filter(|last| *last != mapping);
        let kind_flag = match kind {
            Kind::Run => 0,
            Kind::Measure => MEASURE,
            Kind::Apply(_) => APPLY,
            Kind::Load => LOAD,
            Kind::Undo => UNDO,
        };
        let number = first;
        let first = self.out.words.len();
        let mut words = vec![0u32; HEADER];
        let terms: usize = open.slots.iter().map(|slot| slot.terms.len()).sum();
        let mut term_at = HEADER + SLOT_WORDS * open.slots.len();
        words[1] = flags | kind_flag | if moved.is_some() { EXCHANGE } else { 0 };
        words[2] = open.slots.len() as u32;
        words[3] = open.count;
        words[5] = (term_at + TERM_WORDS * terms) as u32;
        words[6] = number;
        let mut table = |at: usize, mapping: &Mapping| {
            words[at] = mapping.origin;
            words[at + 1..][..mapping.registers.len()].copy_from_slice(&mapping.registers);
            words[at + TABLE_THREADS..][..mapping.threads.len()].copy_from_slice(&mapping.threads);
        };
        table(MAPPING, mapping);
        if self.bits <= ON_CHIP_BITS {
            if let Some(last) = moved {
                let (from, to) = (self.in_block(last), self.in_block(mapping));
                let addresses =
                    Swizzle::new(&from.threads[..LANE_BITS], &to.threads[..LANE_BITS], ON_CHIP_BITS);
                table(WRITE, &from.mapped(&addresses));
                table(READ, &to.mapped(&addresses));
            } else if let Kind::Apply(true) = kind {
                // Written and read by the same threads; the strings' direction becomes an address too.
                let own = self.in_block(mapping);
                let addresses =
                    Swizzle::new(&own.threads[..LANE_BITS], &own.threads[..LANE_BITS], ON_CHIP_BITS);
                table(WRITE, &own.mapped(&addresses));
                open.direction = addresses.of(open.direction);
            }
        }
        words[4] = if kind == Kind::Undo { open.gradients.len() as u32 } else { open.direction };
        for slot in &open.slots {
            let quadrant = (slot.constant / FRAC_PI_2).round();
            let rest = (slot.constant - quadrant * FRAC_PI_2) as f32;
            let quadrant = quadrant.rem_euclid(4.0) as u32;
            words.extend([term_at as u32, slot.terms.len() as u32, rest.to_bits(), quadrant]);
            term_at += TERM_WORDS * slot.terms.len();
        }
        for (source, factor) in open.slots.iter().flat_map(|slot| &slot.terms) {
            // Twelve bits, so that their product with twelve bits of the parameter is exact.
            let high = f32::from_bits((*factor as f32).to_bits() & 0xffff_f000);
            words.extend([*source, high.to_bits(), ((factor - f64::from(high)) as f32).to_bits()]);
        }
        words.extend(open.ops);
        words[0] = words.len() as u32;
        self.out.segments.push(Segment {
            first: first as u32,
            words: words[0],
            terms: terms as u64,
            kind,
            count: open.count,
            gradients: open.gradients.len() as u32,
        });
        self.out.gradients.extend(open.gradients);
        self.out.words.extend(words);
        self.last = Some(mapping.clone());
    }

    /// The mapping of a whole block, whose upper index bits number its states.
    fn in_block(&self, mapping: &Mapping) -> Mapping {
        let states = (self.bits..ON_CHIP_BITS).map(|bit| 1u32 << bit);
        let threads = mapping.threads.iter().copied().chain(states).collect();
        Mapping { threads, ..mapping.clone() }
    }

    /// The mapping in which (thread, register) numbers the basis states.
    fn logical_mapping(&self, frame: &Frame) -> Mapping {
        let units = (frame.directions.len()..self.bits).map(|bit| 1u32 << bit);
        let directions: Vec<u32> = frame.directions.iter().copied().chain(units).collect();
        let (threads, registers) = directions.split_at(self.bits - REGISTER_BITS);
        Mapping { origin: frame.origin, registers: registers.to_vec(), threads: threads.to_vec() }
    }

    /// That mapping, and the global phase.
    fn logical(&mut self, frame: &Frame, global_phase: &[Angle]) {
        let mapping = self.logical_mapping(frame);
        let mut phases = phases(global_phase, 1.0);
        // Even without a phase the segment is there: its mapping is where the kernel stores from.
        if phases.is_empty() {
            phases.push(Open::default());
        }
        phases.into_iter().for_each(|open| self.push(&mapping, open, Kind::Run, 0, 0));
    }

    /// Strings in the order of their observables, those that read the same part of the state together.
    fn measure(&mut self, groups: &[StringGroup], observables: usize) {
        let all = groups.iter().enumerate().flat_map(|(g, group)| group.strings.iter().map(move |s| (g, *s)));
        let mut strings: Vec<_> = all.collect();
        strings.sort_by_key(|(group, string)| (string.observable, *group));
        // An observable without strings is 0: a coefficient of nothing.
        let mut list: Vec<(u32, bool, u32, f64, usize, bool)> = Vec::new();
        for observable in 0..observables {
            let own: Vec<_> = strings.iter().filter(|(_, string)| string.observable == observable).collect();
            for (i, (group, string)) in own.iter().enumerate() {
                let group = &groups[*group];
                let last = i + 1 == own.len();
                list.push((
                    group.direction,
                    group.imaginary,
                    string.mask,
                    string.coefficient,
                    observable,
                    last,
                ));
            }
            if own.is_empty() {
                list.push((0, false, 0, 0.0, observable, true));
            }
        }
        let mut rest = list.as_slice();
        while let Some(&(direction, imaginary, ..)) = rest.first() {
            let same = rest.iter().take(STRINGS).take_while(|s| (s.0, s.1) == (direction, imaginary)).count();
            let (now, later) = rest.split_at(same);
            rest = later;
            let mapping = match &self.last {
                Some(last) if direction == 0 => last.clone(),
                _ => self.mapping_with(direction),
            };
            let mut open = Open { count: same as u32, ..Open::default() };
            let first_string = (self.out.strings.len() / 2) as u32;
            for &(_, _, mask, coefficient, observable, last) in now {
                let target = observable as u32 | u32::from(last) << 31;
                open.ops.extend(parity_words(&mapping, Parity { mask, odd: false }));
                open.ops.extend([(coefficient as f32).to_bits(), target]);
                self.out.strings.extend([(coefficient as f32).to_bits(), target]);
            }
            let pairs = if direction == 0 { 0 } else { PAIRS };
            let flags = pairs | if imaginary { IMAGINARY } else { 0 };
            self.push(&mapping, open, Kind::Measure, flags, first_string);
        }
    }

    /// Some mapping whose register bit 0 is `direction` (any, if that is 0).
    fn mapping_with(&self, direction: u32) -> Mapping {
        let wanted: Vec<u32> = if direction == 0 { vec![] } else { vec![direction] };
        let units: Vec<u32> = (0..self.bits).rev().map(|bit| 1u32 << bit).collect();
        let mut registers = front(&units, &wanted);
        registers.truncate(REGISTER_BITS);
        let threads = complement(&registers, self.bits, std::iter::empty());
        Mapping { origin: 0, registers, threads }
    }
}

/// Segments that multiply a state by e^{i·sign·Σ angles}: the constant ones, then the others.
fn phases(angles: &[Angle], sign: f64) -> Vec<Open> {
    let constant: f64 = sign * angles.iter().map(|angle| angle.offset).sum::<f64>();
    let variable = angles.iter().filter(|angle| angle.of.is_some());
    let variable: Vec<(u32, f64)> = variable.map(|angle| term(angle.scaled(sign))).collect();
    let phase =
        |slot: u32, turn: f64| vec![2, slot, (turn.cos() as f32).to_bits(), (turn.sin() as f32).to_bits()];
    let mut phases = Vec::new();
    if constant != 0.0 {
        phases.push(Open { ops: phase(NO_SLOT, constant), count: 1, ..Open::default() });
    }
    for terms in variable.chunks((SEGMENT_WORDS - HEADER - 8) / TERM_WORDS) {
        let slot = Slot { constant: 0.0, terms: terms.to_vec() };
        phases.push(Open { slots: vec![slot], ops: phase(0, 0.0), count: 1, ..Open::default() });
    }
    phases
}

/// A basis of the span of `basis` that starts with `vectors`.
fn front(basis: &[u32], vectors: &[u32]) -> Vec<u32> {
    let mut space = super::subspace::Subspace::default();
    let all = vectors.iter().chain(basis).copied();
    all.filter(|&vector| space.insert(vector)).collect()
}

fn term(angle: Angle) -> (u32, f64) {
    let source = match angle.of {
        Some(Variable::Input(i)) => i as u32 | 1 << 31,
        Some(Variable::Theta(i)) => i as u32,
        None => 0,
    };
    (source, angle.scale)
}

fn parity_words(mapping: &Mapping, parity: Parity) -> [u32; 2] {
    let odd = parity.odd ^ odd_bits(parity.mask & mapping.origin);
    [
        pull_back(&mapping.threads, parity.mask),
        pull_back(&mapping.registers, parity.mask) | u32::from(odd) << 31,
    ]
}
