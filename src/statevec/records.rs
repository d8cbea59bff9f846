//! The program as GPU kernels read it: segments of 32-bit words.
//!
//! A segment is a mapping of (thread, register) to stored indices and either operations, with the slots of their variable
//! angles, or strings to measure. `kernels/statevec/circuit.{cu,wgsl}` interpret the words; their offsets are fixed here:
//!
//! ```text
//! 0 words  1 flags  2 slots  3 operations or strings  4 origin  5 where they start  6 first string  7 words of the next
//! 8..12 XOR of each register bit  12..40 XOR of each thread bit
//! 40.. slots    {first term, terms, constant, quadrant}   then terms {source, factor high, factor low}
//!      operation {opcode | flip << 8 | roles << 16 | controls << 24, slot, cos, sin}, parities, matrix entries
//!      string    {thread mask, register mask | odd << 31, coefficient, observable | last << 31}
//! ```
//!
//! A parity is {thread mask, register mask | odd << 31}; a source is the index of a parameter, with the top bit for inputs.
//! An angle is Σ factor·parameter + constant + quadrant·π/2 with |constant| ≤ π/4, so that no rounding grows with its size.

use super::lower::{Action, Frame, Lowered, Parity, Step, odd_bits};
use super::observables::StringGroup;
use super::parameter::{Angle, Variable};
use super::plan::{self, Pass, Shape, Sweep};
use super::subspace::{complement, coordinates, pull_back};
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

const HEADER: usize = 40;
const NO_SLOT: u32 = u32::MAX;
const EXCHANGE: u32 = 1;
const MEASURE: u32 = 2;
const IMAGINARY: u32 = 4;
const PAIRS: u32 = 8;

/// Where the words of one segment are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) first: u32,
    pub(crate) words: u32,
    /// Parameter values it reads for each sample and block.
    pub(crate) terms: u64,
    pub(crate) measures: bool,
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
struct Mapping {
    origin: u32,
    registers: Vec<u32>,
    threads: Vec<u32>,
}

struct Encoder<'a> {
    steps: &'a [Step],
    bits: usize,
    out: DeviceProgram,
    last: Option<Mapping>,
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

impl Slot {
    fn words(&self) -> usize {
        SLOT_WORDS + TERM_WORDS * self.terms.len()
    }
}

/// A segment being filled.
#[derive(Default)]
struct Open {
    slots: Vec<Slot>,
    ops: Vec<u32>,
    count: u32,
}

impl Open {
    fn words(&self) -> usize {
        HEADER + self.slots.iter().map(Slot::words).sum::<usize>() + self.ops.len()
    }
}

/// Encodes a scheduled circuit and its readout.
pub(crate) fn encode(lowered: &Lowered, passes: &[Pass], qubits: usize, ending: Ending<'_>) -> DeviceProgram {
    let bits = qubits.max(REGISTER_BITS);
    let out = DeviceProgram { words: Vec::new(), segments: Vec::new(), bits, strings: Vec::new() };
    let mut encoder = Encoder { steps: &lowered.steps, bits, out, last: None };
    for sweep in passes.iter().flat_map(|pass| &pass.sweeps) {
        encoder.sweep(sweep);
    }
    match ending {
        Ending::States => encoder.logical(&lowered.frame, &lowered.global_phase),
        Ending::Probabilities => encoder.logical(&lowered.frame, &[]),
        Ending::Expectations(groups, observables) => encoder.measure(groups, observables),
    }
    let lengths: Vec<u32> = encoder.out.segments.iter().map(|segment| segment.words).collect();
    for (segment, next) in encoder.out.segments.iter().zip(lengths.iter().skip(1).chain([&0])) {
        encoder.out.words[segment.first as usize + 7] = *next;
    }
    encoder.out
}

impl Encoder<'_> {
    /// Slots a segment may have: two words each for every state of a block must fit the plane.
    fn most_slots(&self) -> usize {
        let states = 1usize << THREAD_BITS.saturating_sub(self.bits - REGISTER_BITS);
        PLANE_WORDS / 2 / states
    }

    fn sweep(&mut self, sweep: &Sweep) {
        let mut mapping =
            Mapping { origin: 0, registers: sweep.registers.clone(), threads: sweep.bases.clone() };
        let mut open = Open::default();
        for placed in &sweep.ops {
            let step = &self.steps[placed.step];
            if step.directions.len() > 1 {
                // Kernels hold a wide matrix's directions in the lowest register bits.
                let turned = front(&mapping.registers, &step.directions);
                if turned != mapping.registers {
                    self.close(&mapping, &mut open);
                    mapping.registers = turned;
                }
            }
            let mut next = Open::default();
            self.op(step, &mapping, &mut next);
            let too_long = open.words() + next.words() - HEADER > SEGMENT_WORDS;
            if too_long || open.slots.len() + next.slots.len() > self.most_slots() {
                self.close(&mapping, &mut open);
            }
            if let Some(slot) = next.slots.pop() {
                next.ops[1] = open.slots.len() as u32;
                open.slots.push(slot);
            }
            open.ops.append(&mut next.ops);
            open.count += 1;
        }
        self.close(&mapping, &mut open);
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
    fn close(&mut self, mapping: &Mapping, open: &mut Open) {
        let open = std::mem::take(open);
        if open.count > 0 {
            self.push(mapping, open, 0, 0);
        }
    }

    fn push(&mut self, mapping: &Mapping, open: Open, flags: u32, first_string: u32) {
        let exchange = self.last.as_ref().is_some_and(|last| last != mapping);
        let first = self.out.words.len();
        let mut words = vec![0u32; HEADER];
        let terms: usize = open.slots.iter().map(|slot| slot.terms.len()).sum();
        let mut term_at = HEADER + SLOT_WORDS * open.slots.len();
        words[1] = flags | if exchange { EXCHANGE } else { 0 };
        words[2] = open.slots.len() as u32;
        words[3] = open.count;
        words[4] = mapping.origin;
        words[5] = (term_at + TERM_WORDS * terms) as u32;
        words[6] = first_string;
        words[8..8 + mapping.registers.len()].copy_from_slice(&mapping.registers);
        words[12..12 + mapping.threads.len()].copy_from_slice(&mapping.threads);
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
            measures: flags & MEASURE != 0,
        });
        self.out.words.extend(words);
        self.last = Some(mapping.clone());
    }

    /// The mapping in which (thread, register) numbers the basis states, and the global phase.
    fn logical(&mut self, frame: &Frame, global_phase: &[Angle]) {
        let units = (frame.directions.len()..self.bits).map(|bit| 1u32 << bit);
        let directions: Vec<u32> = frame.directions.iter().copied().chain(units).collect();
        let (threads, registers) = directions.split_at(self.bits - REGISTER_BITS);
        let mapping =
            Mapping { origin: frame.origin, registers: registers.to_vec(), threads: threads.to_vec() };
        let constant: f64 = global_phase.iter().map(|angle| angle.offset).sum();
        let variable: Vec<(u32, f64)> =
            global_phase.iter().filter(|angle| angle.of.is_some()).map(|&angle| term(angle)).collect();
        let mut phases: Vec<Open> = Vec::new();
        let phase = |slot: u32, turn: f64| {
            vec![2, slot, (turn.cos() as f32).to_bits(), (turn.sin() as f32).to_bits()]
        };
        if constant != 0.0 {
            phases.push(Open { slots: Vec::new(), ops: phase(NO_SLOT, constant), count: 1 });
        }
        for terms in variable.chunks((SEGMENT_WORDS - HEADER - 8) / TERM_WORDS) {
            let slot = Slot { constant: 0.0, terms: terms.to_vec() };
            phases.push(Open { slots: vec![slot], ops: phase(0, 0.0), count: 1 });
        }
        // Even without a phase the segment is there: its mapping is where the kernel stores from.
        if phases.is_empty() {
            phases.push(Open::default());
        }
        phases.into_iter().for_each(|open| self.push(&mapping, open, 0, 0));
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
            let flags = MEASURE | pairs | if imaginary { IMAGINARY } else { 0 };
            self.push(&mapping, open, flags, first_string);
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
