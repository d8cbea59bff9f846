//! What CUDA and WGSL have in common: which launches a program needs, and what each moves.

use super::gpu_tables::{Opening, StartKind};
use super::program::{Program, Readout};
use super::records::{self, DeviceProgram, Ending, Kind, ON_CHIP_BITS, Segment};

/// `Source` in the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Source {
    ZeroState = 0,
    Initial = 1,
    State = 2,
}

impl Source {
    pub(crate) fn of(opening: Opening) -> Self {
        if opening.kind == StartKind::Zero { Self::ZeroState } else { Self::Initial }
    }
}

/// `Sink` in the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Sink {
    States = 0,
    Probabilities = 1,
    Expectations = 2,
    BackToState = 3,
    Partials = 4,
}

/// One launch of the circuit kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch {
    pub(crate) first: u32,
    /// Words of the first segment.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "shaders do not stage them"))]
    pub(crate) words: u32,
    pub(crate) segments: u32,
    pub(crate) source: Source,
    pub(crate) sink: Sink,
}

/// Everything a backend needs to run a program.
#[derive(Debug)]
pub(crate) struct GpuPlan {
    pub(crate) program: DeviceProgram,
    opening: Opening,
    pub(crate) launches: Vec<Launch>,
    pub(crate) blocks: u64,
    /// Blocks that share a state.
    pub(crate) blocks_per_state: u64,
    /// Strings measured in several blocks, to be combined.
    pub(crate) partial_strings: u64,
}

impl GpuPlan {
    /// The launches for `samples` samples.
    pub(crate) fn new(program: &Program, samples: usize, opening: Opening, readout: Readout<'_>) -> Self {
        let (lowered, qubits) = (&program.lowered, program.qubits());
        let ending = match readout {
            Readout::States => Ending::States,
            Readout::Probabilities => Ending::Probabilities,
            Readout::Expectations { groups, observables } => Ending::Expectations(groups, observables),
        };
        let program = records::encode(lowered, program.gpu_passes(), qubits, ending);
        let start = Source::of(opening);
        let end = match readout {
            Readout::States => Sink::States,
            Readout::Probabilities => Sink::Probabilities,
            Readout::Expectations { .. } => Sink::Expectations,
        };
        let samples = samples as u64;
        if program.bits <= ON_CHIP_BITS {
            let states = 1u64 << (ON_CHIP_BITS - program.bits);
            let first = program.segments[0];
            let whole = Launch {
                first: first.first,
                words: first.words,
                segments: program.segments.len() as u32,
                source: start,
                sink: end,
            };
            let blocks = samples.div_ceil(states);
            return Self {
                program,
                opening,
                launches: vec![whole],
                blocks,
                blocks_per_state: 1,
                partial_strings: 0,
            };
        }
        // One launch a segment: the exchange is a trip through global memory.
        let last = program.segments.len() - 1;
        let single = |(i, segment): (usize, &Segment)| Launch {
            first: segment.first,
            words: segment.words,
            segments: 1,
            source: if i == 0 { start } else { Source::State },
            sink: match (segment.kind == Kind::Measure, i == last) {
                (true, _) => Sink::Partials,
                (false, true) => end,
                (false, false) => Sink::BackToState,
            },
        };
        let mut launches: Vec<Launch> = program.segments.iter().enumerate().map(single).collect();
        // Measuring does not store the state, so one that starts from nothing must store it first.
        if launches[0].sink == Sink::Partials {
            launches.iter_mut().skip(1).for_each(|launch| launch.source = start);
        }
        let blocks_per_state = 1u64 << (program.bits - ON_CHIP_BITS);
        let partial_strings = if end == Sink::Expectations { program.strings.len() as u64 / 2 } else { 0 };
        Self {
            blocks: samples * blocks_per_state,
            program,
            opening,
            launches,
            blocks_per_state,
            partial_strings,
        }
    }

    /// Whether a buffer for the states is needed.
    pub(crate) fn needs_state(&self) -> bool {
        let touches = |launch: &Launch| launch.source == Source::State || launch.sink == Sink::BackToState;
        self.launches.iter().any(touches)
    }

    /// Bytes that one launch of the circuit kernel loads from and stores to global memory on CUDA.
    pub(crate) fn traffic(
        &self,
        launch: &Launch,
        samples: u64,
        qubits: usize,
        observables: u64,
    ) -> (u64, u64) {
        launch.traffic(&self.program, self.opening, samples, qubits, observables)
    }
}

impl Launch {
    /// Bytes that it loads from and stores to global memory on CUDA, of a program that starts as said.
    pub(crate) fn traffic(
        &self,
        program: &DeviceProgram,
        opening: Opening,
        samples: u64,
        qubits: usize,
        observables: u64,
    ) -> (u64, u64) {
        let blocks_per_state = 1u64 << program.bits.saturating_sub(ON_CHIP_BITS);
        let blocks = (samples * blocks_per_state).div_ceil(1 << ON_CHIP_BITS.saturating_sub(program.bits));
        let segments = program.segments.iter().skip_while(|segment| segment.first != self.first);
        let (mut words, mut terms, mut measured) = (0, 0, 0);
        for segment in segments.take(self.segments as usize) {
            words += u64::from(segment.words);
            terms += segment.terms;
            measured += if segment.kind == Kind::Measure { u64::from(segment.count) } else { 0 };
        }
        let states = (8 * samples) << program.bits;
        let logical = (8 * samples) << qubits;
        let loads = match self.source {
            Source::ZeroState | Source::Initial => opening.loads(samples, program.bits),
            Source::State => states,
        };
        let stores = match self.sink {
            Sink::States => logical,
            Sink::Probabilities => logical / 2,
            Sink::Expectations => 4 * samples * observables,
            Sink::BackToState => states,
            Sink::Partials => 4 * measured * blocks,
        };
        (loads + 4 * (words * blocks + terms * samples * blocks_per_state), stores)
    }
}
