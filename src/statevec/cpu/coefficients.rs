//! Coefficient tables: the sines, cosines and matrix entries of every operation, one value per lane.

use super::exec::{Code, Exec, Recipe};
use super::lanes::{Chunk, Lanes, WIDTH, sin_cos};
use crate::statevec::lower::{Action, Lowered, odd_bits};
use crate::statevec::parameter::{Angle, Variable};
use num_complex::{Complex32, Complex64};

/// Parameter values in host memory.
#[derive(Clone)]
pub(crate) struct Values<'a> {
    pub(crate) theta: &'a [f32],
    pub(crate) theta_step: usize,
    /// Task of each sample and the step from task to task, if theta has a row for each.
    pub(crate) tasks: Option<(Vec<usize>, usize)>,
    /// From sample 0's first value on.
    pub(crate) inputs: &'a [f32],
    pub(crate) sample_step: usize,
    pub(crate) input_step: usize,
    /// By slot.
    pub(crate) matrices: Vec<Matrices<'a>>,
}

/// Row-major matrices, one a sample.
#[derive(Clone, Copy, Default)]
pub(crate) struct Matrices<'a> {
    pub(crate) values: &'a [Complex32],
    pub(crate) sample_step: usize,
    pub(crate) row_step: usize,
}

impl Values<'_> {
    /// The angle in each of sixteen lanes; lane l belongs to sample `samples(l)`.
    #[inline(always)]
    fn angles(&self, angle: Angle, samples: &[usize; WIDTH]) -> [f64; WIDTH] {
        match angle.of {
            None => [angle.offset; WIDTH],
            Some(Variable::Theta(i)) => {
                if let Some((tasks, step)) = &self.tasks {
                    let mut out = [0.0; WIDTH];
                    for l in 0..WIDTH {
                        let value = f64::from(self.theta[tasks[samples[l]] * step + i * self.theta_step]);
                        out[l] = angle.scale.mul_add(value, angle.offset);
                    }
                    return out;
                }
                let value = f64::from(self.theta[i * self.theta_step]);
                [angle.scale.mul_add(value, angle.offset); WIDTH]
            }
            Some(Variable::Input(i)) => {
                let mut out = [0.0; WIDTH];
                for l in 0..WIDTH {
                    let value = f64::from(self.inputs[samples[l] * self.sample_step + i * self.input_step]);
                    out[l] = angle.scale.mul_add(value, angle.offset);
                }
                out
            }
        }
    }
}

/// The coefficients of one block of samples (or of one sample).
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) lanes: Vec<Lanes>,
    /// Sign that the shears' range reduction has taken out of the state.
    sign: Lanes,
}

impl Table {
    /// Everything that does not depend on the sample.
    pub(crate) fn new(exec: &Exec, lowered: &Lowered, values: &Values<'_>) -> Self {
        let mut table = Self { lanes: vec![Lanes::ZERO; exec.table], sign: Lanes::ONE };
        table.fill_where(exec, lowered, values, &[0; WIDTH], false);
        table
    }

    /// The coefficients of the samples `samples`, one per lane; returns the factor of their states (sign, global phase).
    pub(crate) fn specialise(
        &mut self,
        exec: &Exec,
        lowered: &Lowered,
        values: &Values<'_>,
        samples: &[usize; WIDTH],
    ) -> Chunk {
        let shared = self.sign;
        self.fill_where(exec, lowered, values, samples, true);
        let sign = std::mem::replace(&mut self.sign, shared);
        let mut phase = [0.0; WIDTH];
        for &angle in &lowered.global_phase {
            let term = values.angles(angle, samples);
            for l in 0..WIDTH {
                phase[l] += term[l];
            }
        }
        let (sin, cos) = sin_cos(&phase);
        Chunk { re: cos.mul(sign), im: sin.mul(sign) }
    }

    /// The recipes that vary from sample to sample, or those that do not.
    #[inline(never)]
    fn fill_where(
        &mut self,
        exec: &Exec,
        lowered: &Lowered,
        values: &Values<'_>,
        samples: &[usize; WIDTH],
        varying: bool,
    ) {
        pulp::Arch::new().dispatch(Fill { table: self, exec, lowered, values, samples, varying });
    }

    #[inline(always)]
    fn fill(&mut self, lowered: &Lowered, recipe: &Recipe, values: &Values<'_>, samples: &[usize; WIDTH]) {
        let step = &lowered.steps[recipe.steps[0]];
        let out = &mut self.lanes[recipe.slot..];
        match (&step.action, recipe.code) {
            (Action::RotateReal(angle) | Action::RotateImag(angle), Code::WideReal | Code::WideImag) => {
                let (sin, cos) = turned(values, *angle, samples, 0.5);
                (out[0], out[1]) = (cos, sin.mul(lane_signs(recipe.role_lanes[0])));
            }
            (Action::RotateReal(angle) | Action::RotateImag(angle), _) => {
                let (mut sin, mut cos) = turned(values, *angle, samples, 0.5);
                // Shears amplify rounding without bound as θ/2 nears ±π: rotate by θ/2 ∓ π and keep the sign aside.
                for l in 0..WIDTH {
                    if cos.0[l] < 0.0 {
                        (sin.0[l], cos.0[l]) = (-sin.0[l], -cos.0[l]);
                        self.sign.0[l] = -self.sign.0[l];
                    }
                }
                let mut tan = Lanes::ZERO;
                for l in 0..WIDTH {
                    tan.0[l] = sin.0[l] / (1.0 + cos.0[l]);
                }
                let signs = lane_signs(recipe.role_lanes[0]);
                (out[0], out[1]) = (tan.mul(signs), sin.mul(signs));
                (out[2], out[3]) = (Lanes::ZERO.sub(out[0]), Lanes::ZERO.sub(out[1]));
                if let Some(Action::Phase(angle)) = recipe.steps.get(1).map(|&s| &lowered.steps[s].action) {
                    let (sin, cos) = turned(values, *angle, samples, 1.0);
                    (out[2], out[3]) = (cos, sin);
                }
            }
            (Action::Phase(angle), Code::WidePhase) => {
                let (sin, cos) = turned(values, *angle, samples, 1.0);
                (out[0], out[1]) = (cos, sin);
            }
            (Action::Phase(angle), _) => {
                let (sin, cos) = turned(values, *angle, samples, 1.0);
                let ones = lane_mask(recipe.role_lanes.first().copied().unwrap_or(0));
                // Where the parity of the rest is 0, the phase acts in the lanes whose own parity is 1.
                (out[0], out[1]) = (cos.select(ones, Lanes::ONE), sin.select(ones, Lanes::ZERO));
                (out[2], out[3]) = (Lanes::ONE.select(ones, cos), Lanes::ZERO.select(ones, sin));
            }
            (Action::Matrix(_) | Action::SampleMatrix { .. }, code) => {
                let k = recipe.role_lanes.len();
                let side = 1usize << k;
                for base in 0..side {
                    if code == Code::Matrix && base > 1 {
                        break;
                    }
                    for (at, partner) in (0..side * if code == Code::Matrix { side } else { 1 }).enumerate() {
                        let entry = |lane: usize| {
                            let role = base ^ lane_roles(&recipe.role_lanes, lane);
                            let (row, column) = match code {
                                // Rows and columns as the pair sees them: exchanged where the roles are.
                                Code::Matrix => (partner >> 1 ^ role, partner & 1 ^ role),
                                _ => (role, role ^ partner),
                            };
                            match &step.action {
                                Action::Matrix(entries) => entries[row * side + column],
                                Action::SampleMatrix { slot, adjoint } => {
                                    values.matrices[*slot].entry(samples[lane], row, column, *adjoint)
                                }
                                _ => Complex64::ZERO,
                            }
                        };
                        let per_set = if code == Code::Matrix { side * side } else { side };
                        put(out, base * per_set + at, entry);
                    }
                }
            }
            // Has no coefficients, hence no recipe.
            (Action::Permutation(_), _) => {}
            (Action::Diagonal(entries), _) => {
                for base in 0..entries.len() {
                    put(out, base, |lane| entries[base ^ lane_roles(&recipe.role_lanes, lane)]);
                }
            }
        }
    }
}

/// The arguments of [`Table::fill_where`]. Not a closure: one would not be inlined, and would miss the instruction set.
struct Fill<'a> {
    table: &'a mut Table,
    exec: &'a Exec,
    lowered: &'a Lowered,
    values: &'a Values<'a>,
    samples: &'a [usize; WIDTH],
    varying: bool,
}

impl pulp::NullaryFnOnce for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for recipe in &self.exec.recipes {
            if varies(self.lowered, recipe, self.values.tasks.is_some()) == self.varying {
                self.table.fill(self.lowered, recipe, self.values, self.samples);
            }
        }
    }
}

fn varies(lowered: &Lowered, recipe: &Recipe, theta_varies: bool) -> bool {
    recipe.steps.iter().any(|&step| match lowered.steps[step].action {
        Action::SampleMatrix { .. } => true,
        _ => match lowered.steps[step].angle().and_then(|angle| angle.of) {
            Some(Variable::Input(_)) => true,
            Some(Variable::Theta(_)) => theta_varies,
            None => false,
        },
    })
}

impl Matrices<'_> {
    fn entry(&self, sample: usize, row: usize, column: usize, adjoint: bool) -> Complex64 {
        let (row, column) = if adjoint { (column, row) } else { (row, column) };
        let entry = self.values[sample * self.sample_step + row * self.row_step + column];
        let entry = Complex64::new(entry.re.into(), entry.im.into());
        if adjoint { entry.conj() } else { entry }
    }
}

/// Sine and cosine of `factor ·` an angle.
#[inline(always)]
fn turned(values: &Values<'_>, angle: Angle, samples: &[usize; WIDTH], factor: f64) -> (Lanes, Lanes) {
    let mut angles = values.angles(angle, samples);
    for angle in &mut angles {
        *angle *= factor;
    }
    sin_cos(&angles)
}

/// −1 in the lanes whose number has odd parity with `mask`.
#[inline(always)]
fn lane_signs(mask: u32) -> Lanes {
    Lanes(std::array::from_fn(|lane| if odd_bits(mask & lane as u32) { -1.0 } else { 1.0 }))
}

/// Lanes whose number has odd parity with `mask`.
fn lane_mask(mask: u32) -> u32 {
    (0..WIDTH as u32).fold(0, |bits, lane| bits | u32::from(odd_bits(mask & lane)) << lane)
}

fn lane_roles(masks: &[u32], lane: usize) -> usize {
    let bit = |(i, &mask): (usize, &u32)| usize::from(odd_bits(mask & lane as u32)) << i;
    masks.iter().enumerate().map(bit).sum()
}

fn put(out: &mut [Lanes], at: usize, entry: impl Fn(usize) -> Complex64) {
    for lane in 0..WIDTH {
        let value = entry(lane);
        (out[2 * at].0[lane], out[2 * at + 1].0[lane]) = (value.re as f32, value.im as f32);
    }
}
