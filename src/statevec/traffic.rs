//! The emulator's counters against the plan's bytes.

use super::*;
use crate::statevec::{Batch, Circuit, Parameter, PauliSum, Program, observables};
use crate::{Complex32, DType, Device, Schedule};

const SIZES: [(usize, usize); 7] = [(1, 1), (3, 33), (4, 300), (7, 31), (10, 5), (12, 2), (13, 1)];

/// Rotations, a relabelling ring, controlled and dense gates: every kind of record.
fn circuit(n: usize) -> Result<Program> {
    let mut c = Circuit::with_parameters(n, 3, n)?;
    for layer in 0..2 {
        for q in 0..n {
            c.ry(q, Parameter::Input(q))?.rz(q, Parameter::Theta(layer))?.h(q)?;
        }
        for q in 1..n {
            c.cx(q - 1, q)?.rzz(q - 1, q, Parameter::Theta(2))?.phase(q, Parameter::Theta(1))?;
        }
        if n > 1 {
            c.iswap(0, n - 1)?.cphase(0, n - 1, 0.3)?;
        }
        if n > 2 {
            c.ccx(0, 1, n - 1)?;
        }
    }
    c.compile()
}

/// What a batch of `samples` states of n qubits may start from.
struct Starts {
    rows: Tensor,
    real: Tensor,
    complex: Tensor,
    numbers: Tensor,
}

impl Starts {
    fn new(device: &Device, n: usize, samples: usize) -> Result<Self> {
        let mut amplitudes = vec![Complex32::ZERO; samples << n];
        amplitudes.iter_mut().step_by(1 << n).for_each(|first| *first = Complex32::ONE);
        // As narrow as one amplitude is left out.
        let width = (1usize << n) - 1;
        let real = vec![0.5f32; samples * width];
        let complex = vec![Complex32::new(0.5, -2.0); samples * width];
        Ok(Self {
            rows: Tensor::from_slice(device, &amplitudes, &[samples, 1 << n])?,
            real: Tensor::from_slice(device, &real, &[samples, width])?,
            complex: Tensor::from_slice(device, &complex, &[samples, width])?,
            numbers: Tensor::from_slice(device, &vec![1u32; samples], &[samples])?,
        })
    }

    fn batches<'a>(&'a self, plain: &Batch<'a>) -> [Batch<'a>; 5] {
        [
            plain.clone(),
            plain.clone().initial(&self.rows),
            plain.clone().amplitudes(&self.real),
            plain.clone().amplitudes(&self.complex),
            plain.clone().basis_states(&self.numbers),
        ]
    }
}

fn observables_of(n: usize) -> Result<Vec<PauliSum>> {
    (0..n).map(|q| PauliSum::z(q)?.plus(0.5, &[('X', q), ('Y', (q + 1) % n.max(2))][..n.min(2)])).collect()
}

#[test]
fn a_launch_moves_the_bytes_of_its_plan() -> Result<()> {
    let device = Device::cuda_emulated(Schedule::Reversed)?;
    let crate::device::Kind::Cuda(cuda) = &device.0 else { panic!("not a CUDA device") };
    for (n, samples) in SIZES {
        let program = circuit(n)?;
        let theta = Tensor::from_slice(&device, &[0.1f32, 0.2, 0.3], &[3])?;
        let inputs = Tensor::from_slice(&device, &vec![0.4f32; samples * n], &[samples, n])?;
        let starts = Starts::new(&device, n, samples)?;
        let sums = observables_of(n)?;
        let groups = observables::groups(&program.lowered.frame, &sums);
        for batch in starts.batches(&Batch::new(&device, samples).theta(&theta).inputs(&inputs)) {
            let problem = Problem::new("statevec_run", &program, &batch)?;
            for readout in [
                Readout::States,
                Readout::Probabilities,
                Readout::Expectations { groups: &groups, observables: n },
            ] {
                let plan = GpuPlan::new(&program, samples, Opening::of(&problem), readout);
                match readout {
                    Readout::States => drop(program.run(&batch)?),
                    Readout::Probabilities => drop(program.probabilities(&batch)?),
                    Readout::Expectations { .. } => drop(program.expectations(&batch, &sums)?),
                }
                if n > 12 && matches!(readout, Readout::Expectations { .. }) {
                    continue; // the last launch is the combining one
                }
                if n <= 12 {
                    assert_eq!(plan.launches.len(), 1, "n = {n} is one launch");
                }
                let launch = &plan.launches[plan.launches.len() - 1];
                let planned = plan.traffic(launch, samples as u64, n, n as u64);
                let moved = cuda.last_launch().expect("the emulator counts");
                let what = format!("n = {n}, {samples} samples, {:?}", problem.start);
                assert_eq!((moved.bytes_loaded, moved.bytes_stored), planned, "{what}");
            }
        }
    }
    Ok(())
}

/// A circuit of one sweep: its first launch is its last one, also where a state spans blocks.
#[test]
fn a_start_is_read_once() -> Result<()> {
    let device = Device::cuda_emulated(Schedule::InOrder)?;
    let crate::device::Kind::Cuda(cuda) = &device.0 else { panic!("not a CUDA device") };
    for n in [3usize, 12, 14] {
        let program = Circuit::new(n)?.compile()?;
        let starts = Starts::new(&device, n, 3)?;
        for batch in starts.batches(&Batch::new(&device, 3)) {
            let problem = Problem::new("statevec_run", &program, &batch)?;
            let opening = Opening::of(&problem);
            let plan = GpuPlan::new(&program, 3, opening, Readout::States);
            assert_eq!(plan.launches.len(), 1);
            program.run(&batch)?;
            let moved = cuda.last_launch().expect("the emulator counts");
            let words = u64::from(plan.launches[0].words);
            let loads = opening.loads(3, plan.program.bits) + 4 * words * plan.blocks;
            assert_eq!((moved.bytes_loaded, moved.bytes_stored), (loads, 24 << n), "{:?}", problem.start);
        }
    }
    Ok(())
}

/// The same for every launch of the adjoint, and one launch while a state stays on the chip.
#[test]
fn an_adjoint_moves_the_bytes_of_its_plan() -> Result<()> {
    let device = Device::cuda_emulated(Schedule::Random(5))?;
    let crate::device::Kind::Cuda(cuda) = &device.0 else { panic!("not a CUDA device") };
    for (n, samples) in SIZES {
        let program = circuit(n)?;
        let theta = Tensor::from_slice(&device, &[0.1f32, 0.2, 0.3], &[3])?;
        let inputs = Tensor::from_slice(&device, &vec![0.4f32; samples * n], &[samples, n])?;
        let starts = Starts::new(&device, n, samples)?;
        let sums = observables_of(n)?;
        let groups = observables::groups(&program.lowered.frame, &sums);
        let weights = Tensor::from_slice(&device, &vec![0.5f32; n], &[n])?;
        let cotangent = Tensor::zeros(&device, DType::C64, &[samples, 1 << n])?;
        for batch in starts.batches(&Batch::new(&device, samples).theta(&theta).inputs(&inputs)) {
            let problem = Problem::new("statevec_gradient", &program, &batch)?;
            for (kind, arriving) in
                [(Arriving::Observables(&groups), &weights), (Arriving::States, &cotangent)]
            {
                let plan = AdjointPlan::new(&problem, kind).expect("angles depend on parameters");
                if n <= 12 {
                    assert_eq!((plan.forward.len(), plan.launches.len()), (0, 1), "n = {n} is one launch");
                }
                let mut count = 0;
                let mut check = |launch: &AdjointLaunch| {
                    let moved = cuda.last_launch().expect("the emulator counts");
                    let planned = plan.traffic(launch, samples, n);
                    let what = format!("n = {n}, {:?}, {launch:?}", problem.start);
                    assert_eq!((moved.bytes_loaded, moved.bytes_stored), planned, "{what}");
                    count += 1;
                };
                observed_gradient(cuda, &problem, kind, &arriving.view(), &mut check)?;
                assert_eq!(count, plan.launches.len());
            }
        }
    }
    Ok(())
}
