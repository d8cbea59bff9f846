//! Sixteen states at a time, a sample to a lane. The whole circuit of a block runs without leaving its core.

use super::coefficients::Table;
use super::lanes::{Chunk, Lanes, WIDTH};
use super::{AngleGradients, Call, Gradient, Output, adjoint, readout, stored_bits, sweep};
use num_complex::Complex32;
use rayon::prelude::*;
use std::cell::RefCell;

thread_local! {
    /// The states, λ and readout values of one block, kept from call to call.
    static SCRATCH: RefCell<Vec<Chunk>> = const { RefCell::new(Vec::new()) };
}

/// Lends a block's memory, contents undefined.
fn with_scratch<R>(chunks: usize, f: impl FnOnce(&mut [Chunk]) -> R) -> R {
    SCRATCH.with(|scratch| {
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
fn run(call: &Call<'_>, table: &mut Table, samples: &[usize; WIDTH], state: &mut [Chunk]) {
    let factor = table.specialise(call.forward, call.lowered, &call.values, samples);
    match call.initial {
        None => {
            state.fill(Chunk::ZERO);
            state[0] = factor;
        }
        Some((initial, step)) => {
            state.fill(Chunk::ZERO);
            for (i, chunk) in state[..1 << call.qubits].iter_mut().enumerate() {
                for lane in 0..WIDTH {
                    let amplitude = initial[samples[lane] * step + i];
                    (chunk.re.0[lane], chunk.im.0[lane]) = (amplitude.re, amplitude.im);
                }
                *chunk = chunk.times_rounded(factor);
            }
        }
    }
    for trip in &call.forward.trips {
        sweep::run(state, &trip.sweeps, &table.lanes, 0);
    }
}

pub(super) fn forward(call: &Call<'_>, output: Output<'_>) {
    let (states, chunks) = (1usize << call.qubits, 1usize << stored_bits(call.qubits));
    let arch = pulp::Arch::new();
    let table = Table::new(call.forward, call.lowered, &call.values);
    let stored: Vec<u32> = (0..states as u32).map(|index| call.lowered.frame.stored(index)).collect();
    match output {
        Output::States(out, step) => {
            let block = |table: &mut Table, (i, out): (usize, &mut [Complex32])| {
                with_scratch(chunks, |state| {
                    run(call, table, &samples_of(i, call.batch), state);
                    for (row, out) in out.chunks_mut(step).enumerate() {
                        for (amplitude, &at) in out[..states].iter_mut().zip(&stored) {
                            let chunk = &state[at as usize];
                            *amplitude = Complex32::new(chunk.re.0[row], chunk.im.0[row]);
                        }
                    }
                });
            };
            out.par_chunks_mut(WIDTH * step).enumerate().for_each_init(|| table.clone(), block);
        }
        Output::Probabilities(out, step) => {
            let block = |table: &mut Table, (i, out): (usize, &mut [f32])| {
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
            let block = |(table, values, sums): &mut Local, (i, out): (usize, &mut [f32])| {
                with_scratch(chunks, |state| {
                    run(call, table, &samples_of(i, call.batch), state);
                    sums.fill(0.0);
                    for group in groups {
                        let leaf = |string: usize, value: Lanes| {
                            let string = &group.strings[string];
                            let sums = &mut sums[string.observable * WIDTH..][..WIDTH];
                            for lane in 0..WIDTH {
                                sums[lane] += string.coefficient * f64::from(value.0[lane]);
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
                            *out = sums[observable * WIDTH + row] as f32;
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
type Local = (Table, Vec<Lanes>, Vec<f64>);

pub(super) fn gradient(call: &Call<'_>, request: &Gradient<'_>) -> AngleGradients {
    let chunks = 1usize << stored_bits(call.qubits);
    let arch = pulp::Arch::new();
    let angles = request.exec.gradients.len();
    let mut out = vec![0.0; call.batch * angles];
    if angles == 0 {
        return out;
    }
    let tables = (
        Table::new(call.forward, call.lowered, &call.values),
        Table::new(request.exec, call.lowered, &call.values),
    );
    let block = |(forward, backward): &mut (Table, Table), (i, out): (usize, &mut [f64])| {
        let samples = samples_of(i, call.batch);
        with_scratch(2 * chunks, |scratch| {
            let (psi, lambda) = scratch.split_at_mut(chunks);
            run(call, forward, &samples, psi);
            let weight = |observable: usize| {
                Lanes(samples.map(|sample| request.weights[sample * request.weight_step + observable]))
            };
            let weights: Vec<Lanes> = (0..request.observables).map(weight).collect();
            arch.dispatch(readout::ApplyObservables {
                state: psi,
                groups: request.groups,
                weights: &weights,
                lane_bits: 0,
                first: 0,
                out: lambda,
            });
            backward.specialise(request.exec, call.lowered, &call.values, &samples);
            let mut sums = vec![Lanes::ZERO; angles];
            for trip in request.exec.trips.iter().rev() {
                adjoint::undo(psi, lambda, &trip.sweeps, &backward.lanes, 0, &mut sums);
            }
            for (row, out) in out.chunks_mut(angles).enumerate() {
                out.iter_mut().zip(&sums).for_each(|(out, sum)| *out = f64::from(sum.0[row]));
            }
        });
    };
    out.par_chunks_mut(WIDTH * angles).enumerate().for_each_init(|| tables.clone(), block);
    out
}
