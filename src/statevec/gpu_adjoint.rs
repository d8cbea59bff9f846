//! The adjoint gradient on a GPU: which launches it needs, what each moves, and how gradients of angles become gradients of
//! parameters.

use super::batch::Start;
use super::gpu::{Launch, Sink, Source};
use super::gpu_tables::Opening;
use super::parameter::Variable;
use super::problem::Problem;
use super::program::Program;
use super::records::{self, Arriving, Derivative, DeviceProgram, Kind, ON_CHIP_BITS, Segment};

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
    /// ψ is not needed.
    Nothing = 4,
}

/// `Sink` in adjoint.{cu,wgsl}.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum AdjointSink {
    Nothing = 0,
    Lambda = 1,
    Both = 2,
    /// Twice λ, taken back to the start, as rows of 2^qubits.
    StartGradient = 3,
}

/// One launch of the adjoint kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdjointLaunch {
    pub(crate) first: u32,
    /// Words of the first segment.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "shaders do not stage them"))]
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
    pub(crate) opening: Opening,
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
    /// `None` if no angle depends on a parameter and the start is not differentiated.
    pub(crate) fn new(problem: &Problem<'_>, arriving: Arriving<'_>) -> Option<Self> {
        let by_task = problem.theta_tasks.is_some() || problem.start == Start::TaskStates;
        let (opening, start) = (Opening::of(problem), problem.differentiates_start());
        Self::of(problem.program, problem.samples, arriving, opening, start, by_task)
    }

    /// The same of any problem. `start`: whether what states start from is differentiated.
    pub(crate) fn of(
        program: &Program,
        samples: usize,
        arriving: Arriving<'_>,
        opening: Opening,
        start: bool,
        by_task: bool,
    ) -> Option<Self> {
        let passes = program.gpu_passes();
        let encoded = records::encode_adjoint(&program.lowered, passes, program.qubits(), arriving, start);
        if encoded.gradients.is_empty() && !start {
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
        let end = if start { AdjointSink::StartGradient } else { AdjointSink::Nothing };
        let mut forward = Vec::new();
        let mut launches = Vec::new();
        if encoded.bits <= ON_CHIP_BITS {
            let source = match Source::of(opening) {
                Source::ZeroState => AdjointSource::ZeroState,
                _ => AdjointSource::Initial,
            };
            launches.push(AdjointLaunch { segments: total as u32, ..single(0, source, end) });
        } else {
            let run = encoded.segments.iter().take_while(|segment| segment.kind == Kind::Run).count();
            let arrive = encoded
                .segments
                .iter()
                .filter(|segment| matches!(segment.kind, Kind::Apply(_) | Kind::Load))
                .count();
            forward.extend((0..run).map(|at| Launch {
                first: segment(at).first,
                words: segment(at).words,
                segments: 1,
                source: if at == 0 { Source::of(opening) } else { Source::State },
                sink: Sink::BackToState,
            }));
            let source = match arriving {
                Arriving::Observables(_) => AdjointSource::State,
                Arriving::States => AdjointSource::Nothing,
            };
            let sink = if run + arrive == total { end } else { AdjointSink::Lambda };
            launches.push(AdjointLaunch { segments: arrive as u32, ..single(run, source, sink) });
            launches.extend((run + arrive..total).map(|at| {
                let sink = if at + 1 == total { end } else { AdjointSink::Both };
                single(at, AdjointSource::Both, sink)
            }));
        }
        let blocks_per_state = 1u64 << encoded.bits.saturating_sub(ON_CHIP_BITS);
        // Derivatives of operations, and numbers of the start's gradient.
        let of_sample = (encoded.gradients.len() as u64 * blocks_per_state).max(if start {
            2 << program.qubits()
        } else {
            1
        });
        let of_chunk = CHUNK as u64 * of_sample;
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
        let samples = if by_task { samples } else { samples.min(chunks as usize * CHUNK) };
        Some(Self { program: encoded, opening, forward, launches, blocks_per_state, samples, theta, inputs })
    }

    /// Blocks that run `samples` samples.
    pub(crate) fn blocks(&self, samples: usize) -> u64 {
        match self.blocks_per_state {
            1 => (samples as u64).div_ceil(1 << (ON_CHIP_BITS - self.program.bits)),
            several => samples as u64 * several,
        }
    }

    /// Bytes that one launch of the adjoint kernel for `samples` samples loads and stores on CUDA.
    pub(crate) fn traffic(&self, launch: &AdjointLaunch, samples: usize, qubits: usize) -> (u64, u64) {
        let (count, blocks) = (samples as u64, self.blocks(samples));
        let segments = self.program.segments.iter().skip_while(|segment| segment.first != launch.first);
        let states = (8 * count) << self.program.bits;
        let logical = (8 * count) << qubits;
        let mut loads = match launch.source {
            AdjointSource::ZeroState | AdjointSource::Initial => self.opening.loads(count, self.program.bits),
            AdjointSource::State => states,
            AdjointSource::Both => 2 * states,
            AdjointSource::Nothing => 0,
        };
        let mut stores = match launch.sink {
            AdjointSink::Nothing => 0,
            AdjointSink::Lambda => states,
            AdjointSink::Both => 2 * states,
            AdjointSink::StartGradient => logical,
        };
        for segment in segments.take(launch.segments as usize) {
            let (words, terms) = (u64::from(segment.words), segment.terms);
            let weights = if matches!(segment.kind, Kind::Apply(_)) { u64::from(segment.count) } else { 0 };
            loads += 4 * (words * blocks + (terms + weights) * count * self.blocks_per_state);
            loads += if segment.kind == Kind::Load { logical } else { 0 };
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
        gradients: &[Derivative],
        parameters: usize,
        pick: fn(Variable) -> Option<usize>,
    ) -> Self {
        let mut terms: Vec<Vec<[u32; 2]>> = vec![Vec::new(); parameters];
        for (slot, derivative) in gradients.iter().enumerate() {
            let one = match derivative {
                Derivative::Step(step) => program.lowered.steps[*step].angle(),
                Derivative::GlobalPhase => None,
            };
            let all = match derivative {
                Derivative::Step(_) => &[],
                Derivative::GlobalPhase => program.lowered.global_phase.as_slice(),
            };
            for angle in all.iter().copied().chain(one) {
                if let Some(parameter) = angle.of.and_then(pick) {
                    terms[parameter].push([slot as u32, (angle.scale as f32).to_bits()]);
                }
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
}
