//! Sixteen states at a time, a sample to a lane. The whole circuit of a block runs without leaving its core.

use super::coefficients::Table;
use super::lanes::{Chunk, Float, Lanes, WIDTH};
use super::{Call, Cotangent, Gradient, Gradients, Initial, Output, adjoint, readout, stored_bits, sweep};
use rayon::prelude::*;

/// Lends a block's memory, contents undefined.
fn with_scratch<F: Float, R>(chunks: usize, f: impl FnOnce(&mut [Chunk<F>]) -> R) -> R {
    F::scratch().with(|scratch| {
        // A task that rayon runs while this one waits would find the memory taken; none of the blocks below waits.
        let mut scratch = scratch.borrow_mut();
        if scratch.len() < chunks {
            scratch.resize(chunks, Chunk::ZERO);
        }
        f(&mut scratch[..chunks])
    })
}

/// The samples of a block's lanes. Lanes past the end repeat the last sample.
fn samples_of(block: usize, batch: usize) -> [usize; WIDTH] {
    std::array::from_fn(|lane| (block * WIDTH + lane).min(batch - 1))
}

/// Runs the circuit for one block.
fn run<F: Float>(call: &Call<'_>, table: &mut Table<F>, samples: &[usize; WIDTH], state: &mut [Chunk<F>]) {
    let factor = table.specialise(call.forward, call.lowered, &call.values, samples);
    state.fill(Chunk::ZERO);
    match &call.initial {
        Initial::Zero => state[0] = factor,
        Initial::Basis(states) => {
            for (lane, &sample) in samples.iter().enumerate() {
                let chunk = &mut state[states[sample] as usize];
                (chunk.re.0[lane], chunk.im.0[lane]) = (factor.re.0[lane], factor.im.0[lane]);
            }
        }
        initial => {
            for (index, chunk) in state[..1 << call.qubits].iter_mut().enumerate() {
                (chunk.re.0, chunk.im.0) = initial.lanes(samples, index);
                *chunk = chunk.times_rounded(factor);
            }
        }
    }
    for trip in &call.forward.trips {
        sweep::run(state, &trip.sweeps, &table.lanes, 0);
    }
}

pub(super) fn forward<F: Float>(call: &Call<'_>, output: Output<'_, F>) {
    let (states, chunks) = (1usize << call.qubits, 1usize << stored_bits(call.qubits));
    let arch = pulp::Arch::new();
    let table = Table::new(call.forward, call.lowered, &call.values);
    let stored = call.lowered.frame.stored_indices(states);
    match output {
        Output::States(out, step) => {
            let block = |table: &mut Table<F>, (i, out): (usize, &mut [[F; 2]])| {
                with_scratch(chunks, |state| {
                    run(call, table, &samples_of(i, call.batch), state);
                    for (row, out) in out.chunks_mut(step).enumerate() {
                        for (amplitude, &at) in out[..states].iter_mut().zip(&stored) {
                            let chunk = &state[at as usize];
                            *amplitude = [chunk.re.0[row], chunk.im.0[row]];
                        }
                    }
                });
            };
            out.par_chunks_mut(WIDTH * step).enumerate().for_each_init(|| table.clone(), block);
        }
        Output::Probabilities(out, step) => {
            let block = |table: &mut Table<F>, (i, out): (usize, &mut [F])| {
                with_scratch(chunks, |state| {
                    run(call, table, &samples_of(i, call.batch), state);
                    for (row, out) in out.chunks_mut(step).enumerate() {
                        for (probability, &at) in out[..states].iter_mut().zip(&stored) {
                            let chunk = &state[at as usize];
                            let (re, im) = (chunk.re.0[row], chunk.im.0[row]);
                            *probability = re * re + im * im;
                        }
                    }
                });
            };
            out.par_chunks_mut(WIDTH * step).enumerate().for_each_init(|| table.clone(), block);
        }
        Output::Expectations { out, row_step, observables, groups } => {
            let block = |(table, values, sums): &mut Local<F>, (i, out): (usize, &mut [F])| {
                with_scratch(chunks, |state| {
                    run(call, table, &samples_of(i, call.batch), state);
                    sums.fill(0.0);
                    for group in groups {
                        let leaf = |string: usize, value: Lanes<F>| {
                            let string = &group.strings[string];
                            let sums = &mut sums[string.observable * WIDTH..][..WIDTH];
                            for lane in 0..WIDTH {
                                sums[lane] += string.coefficient * value.0[lane].wide();
                            }
                        };
                        arch.dispatch(readout::Measure {
                            state,
                            group,
                            lane_bits: 0,
                            first: 0,
                            values,
                            leaf,
                        });
                    }
                    for (row, out) in out.chunks_mut(row_step).enumerate() {
                        for (observable, out) in out[..observables].iter_mut().enumerate() {
                            *out = F::of(sums[observable * WIDTH + row]);
                        }
                    }
                });
            };
            let init = || (table.clone(), vec![Lanes::ZERO; chunks], vec![0.0; observables * WIDTH]);
            out.par_chunks_mut(WIDTH * row_step).enumerate().for_each_init(init, block);
        }
    }
}

/// A worker's coefficients, readout values and sums per observable and lane.
type Local<F> = (Table<F>, Vec<Lanes<F>>, Vec<f64>);

pub(super) fn gradient<F: Float>(call: &Call<'_>, request: &Gradient<'_, F>) -> Gradients {
    let (states, chunks) = (1usize << call.qubits, 1usize << stored_bits(call.qubits));
    let angles = request.exec.gradients.len();
    let width = if request.initial { states } else { 0 };
    let phases = if request.phase { call.batch } else { 0 };
    let mut out = Gradients::zeros(call.batch * angles, call.batch * width, phases);
    if angles == 0 && width == 0 && phases == 0 {
        return out;
    }
    let tables = (
        Table::<F>::new(call.forward, call.lowered, &call.values),
        Table::<F>::new(request.exec, call.lowered, &call.values),
    );
    let stored = call.lowered.frame.stored_indices(states);
    let block = |(forward, backward): &mut (Table<F>, Table<F>), i: usize, out: Block<'_>| {
        let samples = samples_of(i, call.batch);
        with_scratch(2 * chunks, |scratch| {
            let (psi, lambda) = scratch.split_at_mut(chunks);
            run(call, forward, &samples, psi);
            cotangent(&request.cotangent, &samples, &stored, psi, lambda);
            if !out.phase.is_empty() {
                phase_gradient(psi, lambda, out.phase);
            }
            let factor = backward.specialise(request.exec, call.lowered, &call.values, &samples);
            let mut sums = vec![Lanes::ZERO; angles];
            for trip in request.exec.trips.iter().rev() {
                adjoint::undo(psi, lambda, &trip.sweeps, &backward.lanes, 0, &mut sums);
            }
            for (row, out) in out.angles.chunks_mut(angles.max(1)).enumerate() {
                out.iter_mut().zip(&sums).for_each(|(out, sum)| *out = sum.0[row].wide());
            }
            for (row, out) in out.initial.chunks_mut(width.max(1)).enumerate() {
                for (out, lambda) in out.iter_mut().zip(&*lambda) {
                    *out = initial_gradient(lambda, &factor, row);
                }
            }
        });
    };
    // Chunks of a slice that may be empty: as many as there are blocks.
    let blocks = call.batch.div_ceil(WIDTH);
    let mut parts: Vec<Block<'_>> =
        (0..blocks).map(|_| Block { angles: &mut [], initial: &mut [], phase: &mut [] }).collect();
    if angles > 0 {
        let rows = out.angles.chunks_mut(WIDTH * angles);
        parts.iter_mut().zip(rows).for_each(|(part, rows)| part.angles = rows);
    }
    if width > 0 {
        let rows = out.initial.chunks_mut(WIDTH * width);
        parts.iter_mut().zip(rows).for_each(|(part, rows)| part.initial = rows);
    }
    parts.iter_mut().zip(out.phase.chunks_mut(WIDTH)).for_each(|(part, rows)| part.phase = rows);
    let init = || tables.clone();
    parts.into_par_iter().enumerate().for_each_init(init, |tables, (i, part)| block(tables, i, part));
    out
}

/// Where a block's gradients go.
struct Block<'a> {
    angles: &'a mut [f64],
    initial: &'a mut [[f64; 2]],
    phase: &'a mut [f64],
}

/// ∂ψ = iψ of a global phase: 2·Re⟨λ|iψ⟩, in f64.
fn phase_gradient<F: Float>(psi: &[Chunk<F>], lambda: &[Chunk<F>], out: &mut [f64]) {
    for (a, u) in psi.iter().zip(lambda) {
        for (lane, out) in out.iter_mut().enumerate() {
            *out += 2.0 * turned(a, u, lane);
        }
    }
}

/// Re(conj(λ)·iψ) in one lane.
pub(super) fn turned<F: Float>(psi: &Chunk<F>, lambda: &Chunk<F>, lane: usize) -> f64 {
    lambda.im.0[lane].wide() * psi.re.0[lane].wide() - lambda.re.0[lane].wide() * psi.im.0[lane].wide()
}

/// λ: half the gradient of the final amplitudes, so that 2·Re⟨λ|∂ψ⟩ is the derivative.
fn cotangent<F: Float>(
    given: &Cotangent<'_, F>,
    samples: &[usize; WIDTH],
    stored: &[u32],
    psi: &[Chunk<F>],
    lambda: &mut [Chunk<F>],
) {
    match *given {
        Cotangent::Observables { groups, observables, weights, step } => {
            let weight = |observable: usize| Lanes(samples.map(|sample| weights[sample * step + observable]));
            let weights: Vec<Lanes<F>> = (0..observables).map(weight).collect();
            pulp::Arch::new().dispatch(readout::ApplyObservables {
                state: psi,
                groups,
                weights: &weights,
                lane_bits: 0,
                first: 0,
                out: lambda,
            });
        }
        Cotangent::States { rows, step } => {
            lambda.fill(Chunk::ZERO);
            let half = F::of(0.5);
            for (index, &at) in stored.iter().enumerate() {
                let chunk = &mut lambda[at as usize];
                for (lane, &sample) in samples.iter().enumerate() {
                    let [re, im] = rows[sample * step + index];
                    (chunk.re.0[lane], chunk.im.0[lane]) = (half * re, half * im);
                }
            }
        }
    }
}

/// 2·conj(factor)·λ in one lane: the gradient of an initial amplitude that the run multiplied by `factor`.
pub(super) fn initial_gradient<F: Float>(lambda: &Chunk<F>, factor: &Chunk<F>, lane: usize) -> [f64; 2] {
    let (re, im) = (lambda.re.0[lane].wide(), lambda.im.0[lane].wide());
    let (c, s) = (factor.re.0[lane].wide(), factor.im.0[lane].wide());
    [2.0 * (c * re + s * im), 2.0 * (c * im - s * re)]
}
