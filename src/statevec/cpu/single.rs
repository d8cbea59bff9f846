//! One large state at a time, sixteen amplitudes to a vector: passes over tiles that fit the second-level cache.
#![allow(unsafe_code)]

use super::batched::{initial_gradient, turned};
use super::coefficients::Table;
use super::exec::Trip;
use super::lanes::{Chunk, Float, Lanes, WIDTH};
use super::vector::{Complex, Isa, Routine, dispatch};
use super::{
    Call, Cotangent, Gradient, Gradients, Initial, LANE_BITS, Output, RUN_BITS, adjoint, readout, sweep,
};
use crate::error::{Error, Result};
use crate::statevec::lower::odd_bits;
use crate::statevec::observables::StringGroup;
use rayon::prelude::*;

/// Log₂ of the chunks that one readout task reduces.
const READOUT_BITS: usize = 10;

/// The chunks of a state, written by tasks that own disjoint cosets of a tile.
struct Shared<F> {
    base: *mut Chunk<F>,
    chunks: usize,
}

impl<F> Clone for Shared<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Shared<F> {}

// SAFETY: plain numbers; tasks touch disjoint chunks, see `Shared::get`.
unsafe impl<F: Float> Send for Shared<F> {}
// SAFETY: as above.
unsafe impl<F: Float> Sync for Shared<F> {}

impl<F: Float> Shared<F> {
    fn new(state: &mut [Chunk<F>]) -> Self {
        Self { base: state.as_mut_ptr(), chunks: state.len() }
    }

    /// # Safety
    /// No other task may use chunk `at` meanwhile. Holds when each task keeps to its own coset of the pass's tile.
    unsafe fn get(&self, at: usize) -> *mut Chunk<F> {
        debug_assert!(at < self.chunks);
        // SAFETY: stored indices are below 2^qubits, the number of amplitudes; the caller has the chunk to itself.
        unsafe { self.base.add(at) }
    }
}

/// Chunks of every tile that are neighbours in the state.
const RUN: usize = 1 << RUN_BITS;

/// Copies the tile at `base` of a state into `buffer`, or back. A routine, because lanes may have to change places.
struct CopyTile<'a, F> {
    state: Shared<F>,
    trip: &'a Trip,
    base: u32,
    buffer: &'a mut [Chunk<F>],
    back: bool,
}

impl<F: Float> Routine for CopyTile<'_, F> {
    type F = F;

    #[inline(always)]
    fn run<S: Isa<F = F>>(self, isa: S) {
        let (mut at, mut local) = (self.base, 0usize);
        for step in 1..=1usize << (self.trip.bits - RUN_BITS) {
            let (first, flip) = ((at >> LANE_BITS) as usize, at & ((1 << LANE_BITS) - 1));
            for (i, slot) in self.buffer[local..local + RUN].iter_mut().enumerate() {
                // SAFETY: the task owns this coset of the tile. A run differs from its first chunk in the low bits only.
                let chunk = unsafe { &mut *self.state.get(first ^ i) };
                let (from, to) = if self.back { (&*slot, chunk) } else { (&*chunk, slot) };
                *to = Complex::load(isa, from).flipped(flip).store();
            }
            // Gray code over the tile's directions above the run.
            let bit = RUN_BITS + step.trailing_zeros() as usize;
            if bit < self.trip.bits {
                at ^= self.trip.tile[bit];
                local ^= 1 << bit;
            }
        }
    }
}

fn tile_base(trip: &Trip, tile: usize) -> u32 {
    let set = trip.outer.iter().enumerate().filter(|(i, _)| tile >> i & 1 == 1);
    set.fold(0, |base, (_, &direction)| base ^ direction)
}

/// Copies a tile in, works on it, copies it out.
fn through_tile<F: Float, const STATES: usize>(
    states: [Shared<F>; STATES],
    trip: &Trip,
    base: u32,
    work: impl FnOnce(&mut [Chunk<F>]),
) {
    let chunks = 1usize << trip.bits;
    F::scratch().with(|scratch| {
        let mut scratch = scratch.borrow_mut();
        if scratch.len() < STATES * chunks {
            scratch.resize(STATES * chunks, Chunk::ZERO);
        }
        let buffer = &mut scratch[..STATES * chunks];
        for (&state, part) in states.iter().zip(buffer.chunks_mut(chunks)) {
            dispatch(CopyTile { state, trip, base, buffer: part, back: false });
        }
        work(buffer);
        for (&state, part) in states.iter().zip(buffer.chunks_mut(chunks)) {
            dispatch(CopyTile { state, trip, base, buffer: part, back: true });
        }
    });
}

fn run<F: Float>(call: &Call<'_>, table: &Table<F>, factor: Chunk<F>, sample: usize, state: &mut [Chunk<F>]) {
    let basis = match &call.initial {
        Initial::Zero => Some(0),
        Initial::Basis(states) => Some(states[sample] as usize),
        Initial::Rows(_) => None,
    };
    match basis {
        Some(index) => {
            // The first sample finds fresh, zeroed memory.
            if sample > 0 {
                state.par_chunks_mut(1 << READOUT_BITS).for_each(|part| part.fill(Chunk::ZERO));
            }
            let chunk = &mut state[index / WIDTH];
            let lane = index % WIDTH;
            (chunk.re.0[lane], chunk.im.0[lane]) = (factor.re.0[lane], factor.im.0[lane]);
        }
        None => state.par_iter_mut().enumerate().for_each(|(i, chunk)| {
            for lane in 0..WIDTH {
                let [re, im] = call.initial.amplitude(sample, i * WIDTH + lane);
                (chunk.re.0[lane], chunk.im.0[lane]) = (F::of(re), F::of(im));
            }
            *chunk = chunk.times_rounded(factor);
        }),
    }
    for trip in &call.forward.trips {
        if trip.outer.is_empty() {
            sweep::run(state, &trip.sweeps, &table.lanes, 0);
            continue;
        }
        let shared = Shared::new(state);
        (0..1usize << trip.outer.len()).into_par_iter().for_each(|tile| {
            let base = tile_base(trip, tile);
            through_tile([shared], trip, base, |tile| sweep::run(tile, &trip.sweeps, &table.lanes, base));
        });
    }
}

/// Calls `f(row of a sample, its state)` for every sample in order. Each sample's work is parallel inside.
fn for_samples<F: Float>(call: &Call<'_>, mut f: impl FnMut(usize, &mut [Chunk<F>])) -> Result<()> {
    let mut state = allocate(call.qubits)?;
    let mut table = Table::new(call.forward, call.lowered, &call.values);
    for sample in 0..call.batch {
        let factor = table.specialise(call.forward, call.lowered, &call.values, &[sample; WIDTH]);
        run(call, &table, factor, sample, &mut state);
        f(sample, &mut state);
    }
    Ok(())
}

/// Memory of one state, zeroed: fresh pages, which the threads that first use them touch.
fn allocate<F: Float>(qubits: usize) -> Result<Box<[Chunk<F>]>> {
    let chunks = 1usize << (qubits - LANE_BITS);
    let requested = (chunks * size_of::<Chunk<F>>()) as u64;
    bytemuck::allocation::try_zeroed_slice_box(chunks)
        .map_err(|()| Error::OutOfMemory { requested, available: 0 })
}

pub(super) fn forward<F: Float>(call: &Call<'_>, output: Output<'_, F>) -> Result<()> {
    let amplitudes = 1usize << call.qubits;
    let stored = call.lowered.frame.stored_map();
    let amplitude = |state: &[Chunk<F>], index: usize| {
        let at = stored.at(index as u32) as usize;
        let chunk = &state[at / WIDTH];
        [chunk.re.0[at % WIDTH], chunk.im.0[at % WIDTH]]
    };
    match output {
        Output::States(out, step) => for_samples(call, |sample, state| {
            let row = &mut out[sample * step..][..amplitudes];
            row.par_iter_mut().enumerate().for_each(|(index, out)| *out = amplitude(state, index));
        }),
        Output::Probabilities(out, step) => for_samples(call, |sample, state| {
            let row = &mut out[sample * step..][..amplitudes];
            row.par_iter_mut().enumerate().for_each(|(index, out)| {
                let [re, im] = amplitude(state, index);
                *out = re * re + im * im;
            });
        }),
        Output::Expectations { out, row_step, observables, groups } => for_samples(call, |sample, state| {
            let mut sums = vec![0.0f64; observables];
            for group in groups {
                for (string, value) in group.strings.iter().zip(measure::<F>(state, group)) {
                    sums[string.observable] += string.coefficient * value;
                }
            }
            let row = &mut out[sample * row_step..][..observables];
            row.iter_mut().zip(sums).for_each(|(out, sum)| *out = F::of(sum));
        }),
    }
}

/// Each string's Σ_x (−1)^{parity(mask & x)}·part(x): pairwise inside blocks, blocks in f64 in order.
fn measure<F: Float>(state: &[Chunk<F>], group: &StringGroup) -> Vec<f64> {
    let arch = pulp::Arch::new();
    let block = state.len().min(1 << READOUT_BITS);
    let blocks = (0..state.len() / block).into_par_iter().map(|i| {
        let mut values = vec![Lanes::ZERO; block];
        let mut sums = vec![0.0; group.strings.len()];
        let leaf = |string: usize, sum: Lanes<F>| {
            let mask = group.strings[string].mask;
            let value = readout::signed_sum(sum, mask).wide();
            let odd = odd_bits(mask >> LANE_BITS & (i * block) as u32);
            sums[string] = if odd { -value } else { value };
        };
        let (first, values) = (i * block, values.as_mut_slice());
        arch.dispatch(readout::Measure { state, group, lane_bits: LANE_BITS, first, values, leaf });
        sums
    });
    let blocks: Vec<Vec<f64>> = blocks.collect();
    (0..group.strings.len()).map(|string| blocks.iter().map(|sums| sums[string]).sum()).collect()
}

pub(super) fn gradient<F: Float>(call: &Call<'_>, request: &Gradient<'_, F>) -> Result<Gradients> {
    let angles = request.exec.gradients.len();
    let width = if request.initial { 1usize << call.qubits } else { 0 };
    let phases = if request.phase { call.batch } else { 0 };
    let mut out = Gradients::zeros(call.batch * angles, call.batch * width, phases);
    if angles == 0 && width == 0 && phases == 0 {
        return Ok(out);
    }
    let mut backward = Table::<F>::new(request.exec, call.lowered, &call.values);
    let mut lambda = allocate::<F>(call.qubits)?;
    for_samples(call, |sample, psi: &mut [Chunk<F>]| {
        cotangent(call, &request.cotangent, sample, psi, &mut lambda);
        if let Some(out) = out.phase.get_mut(sample) {
            *out = phase_gradient(psi, &lambda);
        }
        let factor = backward.specialise(request.exec, call.lowered, &call.values, &[sample; WIDTH]);
        let row = &mut out.angles[sample * angles..][..angles];
        for trip in request.exec.trips.iter().rev() {
            let (psi, lambda) = (Shared::new(psi), Shared::new(&mut lambda));
            let tiles = (0..1usize << trip.outer.len()).into_par_iter().map(|tile| {
                let base = tile_base(trip, tile);
                let mut sums = vec![Lanes::ZERO; angles];
                through_tile([psi, lambda], trip, base, |buffer| {
                    let (psi, lambda) = buffer.split_at_mut(1 << trip.bits);
                    adjoint::undo(psi, lambda, &trip.sweeps, &backward.lanes, base, &mut sums);
                });
                sums.iter().map(|&sum| sum.sum().wide()).collect::<Vec<f64>>()
            });
            let tiles: Vec<Vec<f64>> = tiles.collect();
            for sums in tiles {
                row.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
            }
        }
        let row = &mut out.initial[sample * width..][..width];
        row.par_chunks_mut(WIDTH).zip(&lambda[..]).for_each(|(out, lambda)| {
            out.iter_mut().enumerate().for_each(|(lane, out)| *out = initial_gradient(lambda, &factor, lane));
        });
    })?;
    Ok(out)
}

/// ∂ψ = iψ of a global phase: 2·Re⟨λ|iψ⟩, in f64, blocks in order.
fn phase_gradient<F: Float>(psi: &[Chunk<F>], lambda: &[Chunk<F>]) -> f64 {
    let (psi, lambda) = (psi.par_chunks(1 << READOUT_BITS), lambda.par_chunks(1 << READOUT_BITS));
    let blocks = psi.zip(lambda).map(|(psi, lambda)| {
        let lanes = |(a, u)| (0..WIDTH).map(|lane| turned(a, u, lane)).sum::<f64>();
        psi.iter().zip(lambda).map(lanes).sum::<f64>()
    });
    let blocks: Vec<f64> = blocks.collect();
    2.0 * blocks.iter().sum::<f64>()
}

/// λ: half the gradient of the final amplitudes, so that 2·Re⟨λ|∂ψ⟩ is the derivative.
fn cotangent<F: Float>(
    call: &Call<'_>,
    given: &Cotangent<'_, F>,
    sample: usize,
    psi: &[Chunk<F>],
    lambda: &mut [Chunk<F>],
) {
    match *given {
        Cotangent::Observables { groups, observables, weights, step } => {
            let weights: Vec<Lanes<F>> =
                (0..observables).map(|o| Lanes::splat(weights[sample * step + o])).collect();
            let block = lambda.len().min(1 << READOUT_BITS);
            lambda.par_chunks_mut(block).enumerate().for_each(|(i, out)| {
                pulp::Arch::new().dispatch(readout::ApplyObservables {
                    state: psi,
                    groups,
                    weights: &weights,
                    lane_bits: LANE_BITS,
                    first: i * block,
                    out,
                });
            });
        }
        Cotangent::States { rows, step } => {
            let logical = call.lowered.frame.logical_map();
            let (row, half) = (&rows[sample * step..], F::of(0.5));
            lambda.par_iter_mut().enumerate().for_each(|(i, chunk)| {
                for lane in 0..WIDTH {
                    let [re, im] = row[logical.at((i * WIDTH + lane) as u32) as usize];
                    (chunk.re.0[lane], chunk.im.0[lane]) = (half * re, half * im);
                }
            });
        }
    }
}
