//! The adjoint gradient on a GPU: which launches it needs, what each moves, and how gradients of angles become gradients of
//! parameters.

use super::gpu::{Launch, Sink, Source};
use super::observables::StringGroup;
use super::parameter::Variable;
use super::problem::Problem;
use super::program::Program;
use super::records::{self, DeviceProgram, Kind, ON_CHIP_BITS, Segment};

/// Samples whose gradients by `theta` are added up first, in order; then those sums are.
pub(crate) const CHUNK: usize = 64;

/// Words of angle gradients kept at a time, unless one chunk of samples needs more.
const MOST_SLOTS: u64 = 16 << 20;

/// `Source` in adjoint.{cu,wgsl}.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum AdjointSource {
    ZeroState = 0,
    Initial = 1,
    State = 2,
    Both = 3,
}

/// `Sink` in adjoint.{cu,wgsl}.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum AdjointSink {
    Nothing = 0,
    Lambda = 1,
    Both = 2,
}

/// One launch of the adjoint kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdjointLaunch {
    pub(crate) first: u32,
    /// Words of the first segment.
    pub(crate) words: u32,
    pub(crate) segments: u32,
    pub(crate) source: AdjointSource,
    pub(crate) sink: AdjointSink,
}

/// Which gradients of operations make the gradient of each parameter: `{first, count}` of every parameter, then
/// `{operation, factor}`.
pub(crate) struct SumTable {
    pub(crate) words: Vec<u32>,
    pub(crate) parameters: usize,
}

/// Everything a backend needs to differentiate a program.
pub(crate) struct AdjointPlan {
    pub(crate) program: DeviceProgram,
    /// Launches of the circuit kernel, which leave ψ in memory; none where a state stays on the chip.
    pub(crate) forward: Vec<Launch>,
    pub(crate) launches: Vec<AdjointLaunch>,
    /// Blocks that share a state.
    pub(crate) blocks_per_state: u64,
    /// Samples of one round of launches.
    pub(crate) samples: usize,
    pub(crate) theta: SumTable,
    pub(crate) inputs: SumTable,
}

impl AdjointPlan {
    /// `None` if no angle depends on a parameter.
    pub(crate) fn new(problem: &Problem<'_>, groups: &[StringGroup]) -> Option<Self> {
        let (program, samples) = (problem.program, problem.samples);
        let given_states = problem.initial.is_some();
        let encoded =
            records::encode_adjoint(&program.lowered, program.gpu_passes(), program.qubits(), groups);
        if encoded.gradients.is_empty() {
            return None;
        }
        let segment = |at: usize| -> &Segment { &encoded.segments[at] };
        let total = encoded.segments.len();
        let single = |at: usize, source, sink| AdjointLaunch {
            first: segment(at).first,
            words: segment(at).words,
            segments: 1,
            source,
            sink,
        };
        let mut forward = Vec::new();
        let mut launches = Vec::new();
        if encoded.bits <= ON_CHIP_BITS {
            let source = if given_states { AdjointSource::Initial } else { AdjointSource::ZeroState };
            launches
                .push(AdjointLaunch { segments: total as u32, ..single(0, source, AdjointSink::Nothing) });
        } else {
            let run = encoded.segments.iter().take_while(|segment| segment.kind == Kind::Run).count();
            let apply =
                encoded.segments.iter().filter(|segment| matches!(segment.kind, Kind::Apply(_))).count();
            let start = if given_states { Source::Initial } else { Source::ZeroState };
            forward.extend((0..run).map(|at| Launch {
                first: segment(at).first,
                words: segment(at).words,
                segments: 1,
                source: if at == 0 { start } else { Source::State },
                sink: Sink::BackToState,
            }));
            let (source, sink) = (AdjointSource::State, AdjointSink::Lambda);
            launches.push(AdjointLaunch { segments: apply as u32, ..single(run, source, sink) });
            launches.extend((run + apply..total).map(|at| {
                let sink = if at + 1 == total { AdjointSink::Nothing } else { AdjointSink::Both };
                single(at, AdjointSource::Both, sink)
            }));
        }
        let blocks_per_state = 1u64 << encoded.bits.saturating_sub(ON_CHIP_BITS);
        let of_chunk = (CHUNK as u64 * encoded.gradients.len() as u64) * blocks_per_state;
        let chunks = (MOST_SLOTS / of_chunk).max(1).min(samples.div_ceil(CHUNK).max(1) as u64);
        let table = |count: usize, pick: fn(Variable) -> Option<usize>| {
            SumTable::new(program, &encoded.gradients, count, pick)
        };
        let theta = table(program.thetas(), |variable| match variable {
            Variable::Theta(i) => Some(i),
            Variable::Input(_) => None,
        });
        let inputs = table(program.inputs(), |variable| match variable {
            Variable::Input(i) => Some(i),
            Variable::Theta(_) => None,
        });
        // A task's samples are wherever they are: all in one round.
        let samples =
            if problem.theta_tasks.is_some() { samples } else { samples.min(chunks as usize * CHUNK) };
        Some(Self { program: encoded, forward, launches, blocks_per_state, samples, theta, inputs })
    }

    /// Blocks that run `samples` samples.
    pub(crate) fn blocks(&self, samples: usize) -> u64 {
        match self.blocks_per_state {
            1 => (samples as u64).div_ceil(1 << (ON_CHIP_BITS - self.program.bits)),
            several => samples as u64 * several,
        }
    }

    /// Bytes that one launch of the adjoint kernel for `samples` samples loads and stores on CUDA.
    #[cfg(all(test, feature = "emulator", feature = "cuda"))]
    pub(crate) fn traffic(&self, launch: &AdjointLaunch, samples: usize, qubits: usize) -> (u64, u64) {
        let (count, blocks) = (samples as u64, self.blocks(samples));
        let segments = self.program.segments.iter().skip_while(|segment| segment.first != launch.first);
        let states = (8 * count) << self.program.bits;
        let (mut loads, mut stores) = match (launch.source, launch.sink) {
            (AdjointSource::ZeroState, _) => (0, 0),
            (AdjointSource::Initial, _) => ((8 * count) << qubits, 0),
            (AdjointSource::State, _) => (states, states),
            (AdjointSource::Both, AdjointSink::Both) => (2 * states, 2 * states),
            (AdjointSource::Both, _) => (2 * states, 0),
        };
        for segment in segments.take(launch.segments as usize) {
            let (words, terms) = (u64::from(segment.words), segment.terms);
            let weights = if matches!(segment.kind, Kind::Apply(_)) { u64::from(segment.count) } else { 0 };
            loads += 4 * (words * blocks + (terms + weights) * count * self.blocks_per_state);
            stores += 4 * u64::from(segment.gradients) * count * self.blocks_per_state;
            // A large state's flipped amplitudes are read from memory.
            let gathers = segment.kind == Kind::Apply(true) && self.program.bits > ON_CHIP_BITS;
            loads += if gathers { states } else { 0 };
        }
        (loads, stores)
    }
}

impl SumTable {
    fn new(
        program: &Program,
        gradients: &[usize],
        parameters: usize,
        pick: fn(Variable) -> Option<usize>,
    ) -> Self {
        let mut terms: Vec<Vec<[u32; 2]>> = vec![Vec::new(); parameters];
        for (slot, &step) in gradients.iter().enumerate() {
            let Some(angle) = program.lowered.steps[step].angle() else { continue };
            if let Some(parameter) = angle.of.and_then(pick) {
                terms[parameter].push([slot as u32, (angle.scale as f32).to_bits()]);
            }
        }
        let mut words = Vec::with_capacity(2 * (parameters + gradients.len()));
        let mut first = parameters as u32;
        for list in &terms {
            words.extend([first, list.len() as u32]);
            first += list.len() as u32;
        }
        words.extend(terms.iter().flatten().flatten());
        Self { words, parameters }
    }

    /// A table that adds up `parameters` columns as they are.
    pub(crate) fn columns(parameters: usize) -> Self {
        let words = (0..parameters as u32).flat_map(|i| [parameters as u32 + i, 1]);
        let terms = (0..parameters as u32).flat_map(|i| [i, 1f32.to_bits()]);
        Self { words: words.chain(terms).collect(), parameters }
    }
}
