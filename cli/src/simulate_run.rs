//! What `gatewarp simulate` computes: the whole batch in each call, nothing sample by sample.

use crate::histogram::bitstring;
use crate::npy;
use crate::simulate::Precision;
use gatewarp::statevec::qasm::{Operation, Qasm};
use gatewarp::statevec::{Batch, PauliSum, Program, Shots, readout};
use gatewarp::{Complex32, Complex64, DType, Device, Element, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

/// An amplitude, for printing.
trait Wide {
    fn wide(&self) -> Complex64;
}

impl Wide for Complex32 {
    fn wide(&self) -> Complex64 {
        Complex64::new(self.re.into(), self.im.into())
    }
}

impl Wide for Complex64 {
    fn wide(&self) -> Complex64 {
        *self
    }
}

/// Values of the inputs.
pub(crate) struct Samples {
    pub(crate) count: usize,
    /// Whether a file gave them; results of a program without inputs have no batch dimension.
    pub(crate) given: bool,
    pub(crate) values: npy::Reals,
}

/// Seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) median: f64,
    pub(crate) least: f64,
}

pub(crate) struct Job<'a> {
    pub(crate) program: &'a Qasm,
    pub(crate) device: &'a Device,
    pub(crate) precision: Precision,
    pub(crate) samples: &'a Samples,
    pub(crate) observables: &'a [PauliSum],
    pub(crate) shots: Option<u64>,
    pub(crate) seed: u64,
    pub(crate) states: Option<&'a Path>,
    pub(crate) probabilities: Option<&'a Path>,
    pub(crate) expectations: Option<&'a Path>,
    pub(crate) gradients: Option<&'a Path>,
    pub(crate) repeat: Option<u64>,
    pub(crate) explain: bool,
    /// Whether anything is computed at all.
    pub(crate) runs: bool,
    /// Whether the state itself is what the user gets to see.
    pub(crate) shows_state: bool,
}

#[derive(Default)]
pub(crate) struct Results {
    pub(crate) plan: Option<String>,
    pub(crate) state: Option<String>,
    /// By sample, unless they went to a file.
    pub(crate) expectations: Option<Vec<Vec<f64>>>,
    /// By sample.
    pub(crate) counts: Option<Vec<BTreeMap<String, u64>>>,
    pub(crate) run: Option<Timing>,
    pub(crate) expectation: Option<Timing>,
    pub(crate) gradient: Option<Timing>,
}

/// Median and least seconds of `repeat` calls after one that warms up.
fn time(
    device: &Device,
    repeat: u64,
    mut call: impl FnMut() -> gatewarp::Result<()>,
) -> Result<Timing, String> {
    let mut seconds = Vec::new();
    for round in 0..=repeat {
        let start = Instant::now();
        call().and_then(|()| device.synchronize()).map_err(|error| error.to_string())?;
        if round > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let middle = seconds.len() / 2;
    let median =
        if seconds.len() % 2 == 1 { seconds[middle] } else { 0.5 * (seconds[middle - 1] + seconds[middle]) };
    Ok(Timing { median, least: seconds[0] })
}

/// Amplitudes listed when nothing else is asked for.
const LISTED: usize = 32;

impl Job<'_> {
    pub(crate) fn run(&self) -> Result<Results, String> {
        let mut results = Results::default();
        let failed = |error: gatewarp::Error| error.to_string();
        let needs_circuit = self.explain
            || self.shows_state
            || self.states.is_some()
            || self.probabilities.is_some()
            || !self.observables.is_empty()
            || self.repeat.is_some();
        let compiled = match self.program.circuit() {
            Ok(_) if !needs_circuit => None,
            Ok(circuit) => Some(circuit.compile().map_err(failed)?),
            // With shots alone the program may measure wherever it likes.
            Err(_) if self.shots.is_some() && !needs_circuit => None,
            Err(_) if self.shows_state && !self.samples.given => None,
            Err(error) => {
                return Err(format!(
                    "{error}; such a program has no one final state, but it can be run with --shots"
                ));
            }
        };
        if let Some(compiled) = &compiled {
            results.plan = self.explain.then(|| compiled.explain());
            if self.runs {
                let shape = [self.samples.count, compiled.inputs()];
                let batch = Batch::new(self.device, self.samples.count);
                if self.precision == Precision::C128 {
                    let values = self.samples.values.double();
                    let inputs = Tensor::from_slice(self.device, &values, &shape).map_err(failed)?;
                    let batch = batch.dtype(DType::C128).inputs(&inputs);
                    self.outputs::<Complex64, f64>(compiled, &batch, 1.0, &mut results)?;
                } else {
                    let values = self.samples.values.single();
                    let inputs = Tensor::from_slice(self.device, &values, &shape).map_err(failed)?;
                    self.outputs::<Complex32, f32>(compiled, &batch.inputs(&inputs), 1.0, &mut results)?;
                }
            }
        } else if self.shots.is_none() {
            results.state = Some("The program measures in between; --shots N runs it.".into());
        }
        if let Some(shots) = self.shots {
            results.counts = Some(self.counts(&self.inputs()?, shots)?);
        }
        Ok(results)
    }

    /// The values of the inputs on the device, `[samples, inputs]`.
    fn inputs(&self) -> Result<Tensor, String> {
        let values = self.samples.values.single();
        let width = self.program.inputs().iter().map(|register| register.len).sum();
        let shape = [self.samples.count, width];
        Tensor::from_slice(self.device, &values, &shape).map_err(|error| error.to_string())
    }

    fn shape<'s>(&self, both: &'s [usize; 2]) -> &'s [usize] {
        if self.samples.given { both } else { &both[1..] }
    }

    /// Everything but shots, with amplitudes `C` of numbers `R`, of which `one` is 1.
    fn outputs<C, R>(
        &self,
        program: &Program,
        batch: &Batch<'_>,
        one: R,
        results: &mut Results,
    ) -> Result<(), String>
    where
        C: Element + npy::Number + Wide,
        R: Element + npy::Number + Into<f64>,
    {
        let failed = |error: gatewarp::Error| error.to_string();
        let samples = self.samples.count;
        let states = [samples, 1 << program.qubits()];
        if self.states.is_some() || self.shows_state {
            let values = program.run(batch).and_then(|states| states.to_vec::<C>()).map_err(failed)?;
            if let Some(path) = self.states {
                npy::write(path, self.shape(&states), &values)?;
            }
            if self.shows_state {
                results.state = {
                    let first: Vec<Complex64> =
                        values.iter().take(1 << program.qubits()).map(|amplitude| amplitude.wide()).collect();
                    Some(self.listing(program.qubits(), &first))
                };
            }
        }
        if let Some(path) = self.probabilities {
            let values = program.probabilities(batch).and_then(|p| p.to_vec::<R>()).map_err(failed)?;
            npy::write(path, self.shape(&states), &values)?;
        }
        let wants = !self.observables.is_empty();
        if wants && (self.expectations.is_some() || (self.gradients.is_none() && self.repeat.is_none())) {
            let values = program
                .expectations(batch, self.observables)
                .and_then(|e| e.to_vec::<R>())
                .map_err(failed)?;
            match self.expectations {
                Some(path) => npy::write(path, &[samples, self.observables.len()], &values)?,
                None => {
                    let rows = values.chunks(self.observables.len());
                    results.expectations =
                        Some(rows.map(|row| row.iter().copied().map(Into::into).collect()).collect());
                }
            }
        }
        let weights = vec![one; self.observables.len()];
        let weights = Tensor::from_slice(self.device, &weights, &[weights.len()]).map_err(failed)?;
        if let Some(path) = self.gradients {
            let found = program.gradient(batch, self.observables, &weights.view());
            let values = found.and_then(|gradients| gradients.inputs.to_vec::<R>()).map_err(failed)?;
            npy::write(path, &[samples, program.inputs()], &values)?;
        }
        let Some(repeat) = self.repeat else { return Ok(()) };
        let mut out = Tensor::zeros(self.device, C::DTYPE, &states).map_err(failed)?;
        results.run = Some(time(self.device, repeat, || program.run_into(batch, &mut out.view_mut()))?);
        drop(out);
        if wants {
            let shape = [samples, self.observables.len()];
            let mut out = Tensor::zeros(self.device, R::DTYPE, &shape).map_err(failed)?;
            let call = || program.expectations_into(batch, self.observables, &mut out.view_mut());
            results.expectation = Some(time(self.device, repeat, call)?);
        }
        if wants && program.inputs() > 0 {
            let call = || program.gradient(batch, self.observables, &weights.view()).map(drop);
            results.gradient = match time(self.device, repeat, call) {
                Ok(timing) => Some(timing),
                // A backend without gradients has been timed for what it can do, unless gradients were asked for.
                Err(message) if self.gradients.is_some() => return Err(message),
                Err(_) => None,
            };
        }
        Ok(())
    }

    /// The likeliest basis states of the first sample.
    fn listing(&self, qubits: usize, values: &[Complex64]) -> String {
        let mut text = String::new();
        let Some(state) = values.get(..1 << qubits) else { return text };
        let mut order: Vec<usize> =
            (0..state.len()).filter(|&index| state[index].norm_sqr() > 1e-12).collect();
        order.sort_by(|&a, &b| state[b].norm_sqr().total_cmp(&state[a].norm_sqr()).then(a.cmp(&b)));
        let hidden = order.split_off(order.len().min(LISTED));
        order.sort_unstable();
        // Writing to a String cannot fail.
        let _ =
            writeln!(text, "{:>qubits$}  {:>22}  probability", "state", "amplitude", qubits = qubits.max(5));
        for index in order {
            let bits: String =
                (0..qubits).rev().map(|q| if index >> q & 1 == 1 { '1' } else { '0' }).collect();
            let amplitude = state[index];
            let shown = format!("{:.6}{:+.6}i", amplitude.re, amplitude.im);
            let _ = writeln!(
                text,
                "{bits:>width$}  {shown:>22}  {:.6}",
                amplitude.norm_sqr(),
                width = qubits.max(5)
            );
        }
        if !hidden.is_empty() {
            let _ = writeln!(text, "and {} more; --statevector OUT.npy writes all", hidden.len());
        }
        if self.samples.count > 1 {
            let _ = writeln!(text, "of sample 0 of {}", self.samples.count);
        }
        text
    }

    /// Classical bits of every shot, by sample. A program that measures nothing is measured as a whole, at its end.
    fn counts(&self, inputs: &Tensor, shots: u64) -> Result<Vec<BTreeMap<String, u64>>, String> {
        let failed = |error: gatewarp::Error| error.to_string();
        let shots = usize::try_from(shots).map_err(|error| format!("--shots: {error}"))?;
        let batch = Batch::new(self.device, self.samples.count).inputs(inputs);
        if !measures(self.program.operations()) {
            let program = self.program.circuit().and_then(|circuit| circuit.compile()).map_err(failed)?;
            let outcomes = program.sample(&batch, shots, self.seed).map_err(failed)?;
            let counts = readout::counts(&outcomes.view()).map_err(failed)?;
            let named = |counts: BTreeMap<u32, u64>| {
                let name = |(outcome, count)| (readout::bitstring(outcome, program.qubits()), count);
                counts.into_iter().map(name).collect()
            };
            return Ok(counts.into_iter().map(named).collect());
        }
        let program = self.program.dynamic().and_then(|circuit| circuit.compile()).map_err(failed)?;
        let found = program.sample(&batch, shots, self.seed).map_err(failed)?;
        Ok((0..self.samples.count).map(|sample| self.counted(&found, sample)).collect())
    }

    /// Equal shots of a sample, by their words, named once each.
    fn counted(&self, found: &Shots, sample: usize) -> BTreeMap<String, u64> {
        let width = found.words_per_shot();
        let first = sample * found.shots();
        let words = &found.words()[first * width..(first + found.shots()) * width];
        let mut kinds: HashMap<&[u64], u64> = HashMap::new();
        words.chunks(width).for_each(|shot| *kinds.entry(shot).or_insert(0) += 1);
        let mut counts = BTreeMap::new();
        for (shot, count) in kinds {
            let name = bitstring(self.program.bits(), |bit| shot[bit / 64] >> (bit % 64) & 1 == 1);
            // Results that are not kept are no part of the name, so shots that differ in them meet here.
            *counts.entry(name).or_insert(0) += count;
        }
        counts
    }
}

/// Whether anything is measured.
fn measures(operations: &[Operation]) -> bool {
    operations.iter().any(|operation| match operation {
        Operation::Measure { .. } => true,
        Operation::If { then, otherwise, .. } => measures(then) || measures(otherwise),
        _ => false,
    })
}
