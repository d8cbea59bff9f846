//! The adjoint's part of a program: the cotangent, and the way back.

use super::super::gate::inverse_table;
use super::super::lower::{Action, Lowered, Parity, Step, odd_bits};
use super::super::observables::StringGroup;
use super::super::plan::Pass;
use super::{
    DIFFERENTIATED, Derivative, DeviceProgram, Encoder, HEADER, IMAGINARY, Kind, ON_CHIP_BITS, Open, PAIRS,
    PLANE_WORDS, REGISTER_BITS, SEGMENT_WORDS, THREAD_BITS, parity_words, phases,
};

/// What the gradient starts from.
#[derive(Clone, Copy)]
pub(crate) enum Arriving<'a> {
    /// Weights of observables.
    Observables(&'a [StringGroup]),
    /// A gradient of the states.
    States,
}

/// Encodes a scheduled circuit, what its gradient starts from, and the way back: as far as a variable angle needs it, or to the
/// `start`.
pub(crate) fn encode_adjoint(
    lowered: &Lowered,
    passes: &[Pass],
    qubits: usize,
    arriving: Arriving<'_>,
    start: bool,
) -> DeviceProgram {
    // The upper half of the plane holds partial gradients, unless a thread holds a whole state.
    let half = if qubits > REGISTER_BITS { PLANE_WORDS / 2 } else { PLANE_WORDS };
    let mut encoder = Encoder::new(lowered, qubits, half);
    encoder.forward(passes);
    match arriving {
        Arriving::Observables(groups) => {
            if encoder.last.is_none() && encoder.bits > ON_CHIP_BITS {
                // Applying reads a large state from memory: one that nothing is done to must get there.
                let mapping = encoder.mapping_with(0);
                encoder.push(&mapping, Open::default(), Kind::Run, 0, 0);
            }
            encoder.apply(groups);
        }
        Arriving::States => encoder.load(lowered),
    }
    let differentiated = |step: usize| lowered.steps[step].angle().is_some_and(|angle| angle.of.is_some());
    let sweeps = passes.iter().flat_map(|pass| &pass.sweeps);
    let mut left = sweeps.clone().flat_map(|sweep| &sweep.ops).filter(|op| differentiated(op.step)).count();
    for sweep in sweeps.rev() {
        if left == 0 && !start {
            break;
        }
        left -= sweep.ops.iter().filter(|op| differentiated(op.step)).count();
        encoder.sweep(sweep, true);
    }
    encoder.finish()
}

impl Encoder<'_> {
    /// Weighted strings a segment may have: a word each for every state of a block.
    fn most_weights(&self) -> usize {
        let states = 1usize << THREAD_BITS.saturating_sub(self.bits - REGISTER_BITS);
        (PLANE_WORDS / states).min((SEGMENT_WORDS - HEADER) / 4)
    }

    /// Strings of a weighted sum of observables, by direction.
    fn apply(&mut self, groups: &[StringGroup]) {
        // Where the state is; a large one is read from memory, neighbouring threads neighbouring amplitudes.
        let mapping = match &self.last {
            Some(last) if self.bits <= ON_CHIP_BITS => last.clone(),
            _ => self.mapping_with(0),
        };
        for group in groups {
            let direction = group.direction;
            let pairs = if direction == 0 { 0 } else { PAIRS };
            let flags = pairs | if group.imaginary { IMAGINARY } else { 0 };
            for strings in group.strings.chunks(self.most_weights()) {
                let mut open = Open { count: strings.len() as u32, direction, ..Open::default() };
                for string in strings {
                    // (Oψ)(x) = σ(x ⊕ d)·ψ(x ⊕ d), times −i where the imaginary part is measured; the kernel has σ(x) and i.
                    let swapped = odd_bits(string.mask & direction);
                    let sign = if swapped ^ group.imaginary { -1.0 } else { 1.0 };
                    open.ops.extend(parity_words(&mapping, Parity { mask: string.mask, odd: false }));
                    open.ops
                        .extend([((sign * string.coefficient) as f32).to_bits(), string.observable as u32]);
                }
                self.push(&mapping, open, Kind::Apply(direction != 0), flags, 0);
            }
        }
    }

    /// A gradient of the states in logical order, and the way back over the global phase, which they have.
    fn load(&mut self, lowered: &Lowered) {
        let mapping = self.logical_mapping(&lowered.frame);
        let forward = phases(&lowered.global_phase, 1.0);
        forward.into_iter().for_each(|open| self.push(&mapping, open, Kind::Run, 0, 0));
        self.push(&mapping, Open::default(), Kind::Load, 0, 0);
        let mut wanted = lowered.global_phase.iter().any(|angle| angle.of.is_some());
        for mut open in phases(&lowered.global_phase, -1.0).into_iter().rev() {
            let first = self.out.gradients.len() as u32;
            // Undoing a phase leaves its derivative as it is: one is that of all.
            if std::mem::take(&mut wanted) {
                open.ops[0] |= DIFFERENTIATED;
                open.gradients.push(Derivative::GlobalPhase);
            }
            self.push(&mapping, open, Kind::Undo, 0, first);
        }
    }
}

/// The inverse of a unitary step.
pub(super) fn inverse(step: &Step) -> Step {
    let action = match &step.action {
        Action::RotateReal(angle) => Action::RotateReal(angle.scaled(-1.0)),
        Action::RotateImag(angle) => Action::RotateImag(angle.scaled(-1.0)),
        Action::Phase(angle) => Action::Phase(angle.scaled(-1.0)),
        Action::Matrix(entries) => {
            let side = entries.len().isqrt();
            Action::Matrix(
                (0..entries.len()).map(|at| entries[at % side * side + at / side].conj()).collect(),
            )
        }
        Action::Diagonal(entries) => Action::Diagonal(entries.iter().map(|entry| entry.conj()).collect()),
        Action::Permutation(table) => Action::Permutation(inverse_table(table).into()),
        Action::SampleMatrix { slot, adjoint } => Action::SampleMatrix { slot: *slot, adjoint: !adjoint },
    };
    Step { action, ..step.clone() }
}
