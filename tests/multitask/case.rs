//! Random batches of tasks.

use crate::support::guarded::{Inner, Strided, random_layout};
use crate::support::oracle_multitask::Row;
use crate::support::random::Random;
use gatewarp::multitask::{Reduction, TaskAxis};
use gatewarp::{Device, Tensor};
use proptest::prelude::*;

/// Sizes and options; everything else follows from the seed.
#[derive(Clone, Debug)]
pub struct Case {
    pub mixed: bool,
    pub batch: usize,
    pub tasks: usize,
    pub width: usize,
    pub has_widths: bool,
    pub has_weights: bool,
    pub mean: bool,
    pub smoothing: f32,
    pub size: f32,
    pub seed: u64,
}

pub const IGNORE: i64 = -100;
const STREAM: u64 = 300;

/// Values of a case.
#[derive(Clone, Debug)]
pub struct Data {
    /// `[batch, columns, width]`; what must not be read is NaN.
    pub values: Vec<f32>,
    pub targets: Vec<f32>,
    /// Per row.
    pub labels: Vec<i64>,
    /// Per sample; −1 is no task. Empty unless mixed.
    pub ids: Vec<i64>,
    pub widths: Vec<usize>,
    pub weights: Vec<f32>,
}

pub fn case() -> impl Strategy<Value = Case> {
    let batch = prop::sample::select(vec![0usize, 1, 2, 3, 5, 7, 31, 33, 64, 257]);
    let width = prop::sample::select(vec![1usize, 2, 3, 5, 10, 31, 32, 33, 65, 100]);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let smoothing = prop::sample::select(vec![0.0f32, 0.0, 0.1, 0.5]);
    let size = prop::sample::select(vec![1.0f32, 3.0, 50.0]);
    (batch, 1usize..=5, width, flags, smoothing, size, any::<u64>()).prop_map(
        |(batch, tasks, width, (mixed, has_widths, has_weights, mean), smoothing, size, seed)| Case {
            mixed,
            batch,
            tasks,
            width,
            has_widths,
            has_weights,
            mean,
            smoothing,
            size,
            seed,
        },
    )
}

impl Case {
    pub fn columns(&self) -> usize {
        if self.mixed { 1 } else { self.tasks }
    }

    pub fn rows(&self) -> usize {
        self.batch * self.columns()
    }

    pub fn reduction(&self) -> Reduction {
        if self.mean { Reduction::Mean } else { Reduction::Sum }
    }

    pub fn random(&self, stream: u64) -> Random {
        Random::new(self.seed, STREAM + stream)
    }

    /// Shape of the values.
    pub fn shape(&self) -> Vec<usize> {
        if self.mixed { vec![self.batch, self.width] } else { vec![self.batch, self.tasks, self.width] }
    }

    pub fn row_shape(&self) -> Vec<usize> {
        if self.mixed { vec![self.batch] } else { vec![self.batch, self.tasks] }
    }

    pub fn data(&self) -> Data {
        let mut random = self.random(0);
        let widths: Vec<usize> = (0..self.tasks)
            .map(|_| if self.has_widths { 1 + random.below(self.width) } else { self.width })
            .collect();
        let weights: Vec<f32> = (0..self.tasks)
            .map(|_| match random.below(4) {
                _ if !self.has_weights => 1.0,
                0 => 0.0,
                1 => -0.5,
                _ => random.unit() as f32 * 3.0,
            })
            .collect();
        // Often a task without rows.
        let most = if random.one_in(2) { self.tasks } else { self.tasks.div_ceil(2) };
        let ids: Vec<i64> = if self.mixed {
            (0..self.batch).map(|_| if random.one_in(6) { -1 } else { random.below(most) as i64 }).collect()
        } else {
            Vec::new()
        };
        let mut data = Data {
            values: random.values(self.rows() * self.width, self.size),
            targets: random.values(self.rows() * self.width, self.size),
            labels: Vec::new(),
            ids,
            widths,
            weights,
        };
        for row in 0..self.rows() {
            let task = if self.mixed { data.ids[row] } else { (row % self.tasks) as i64 };
            let ignored = random.one_in(5) || (!self.mixed && task as usize >= most);
            let width = if task < 0 { 0 } else { data.widths[task as usize] };
            data.labels.push(match (task, ignored) {
                // Not looked at without a task.
                (-1, _) => random.between(-500, 500),
                (_, true) => IGNORE,
                _ => random.below(width) as i64,
            });
            let unread = if task < 0 || ignored { 0 } else { width };
            data.values[row * self.width..][..self.width][unread..].fill(f32::NAN);
            data.targets[row * self.width..][..self.width][width..].fill(f32::NAN);
            if ignored && width > 0 {
                let at = row * self.width + random.below(width);
                data.targets[at] = f32::NAN;
            }
            // Equal logits: the first is the prediction.
            if unread > 1 && random.one_in(3) {
                let (from, to) = (random.below(unread), random.below(unread));
                data.values[row * self.width + to] = data.values[row * self.width + from];
            }
        }
        data
    }
}

impl Data {
    /// The rows that count.
    pub fn row(&self, case: &Case, at: usize) -> Option<Row<'_>> {
        let task = if case.mixed { usize::try_from(self.ids[at]).ok()? } else { at % case.tasks };
        if self.labels[at] == IGNORE {
            return None;
        }
        let width = self.widths[task];
        let of = |values: &'_ [f32]| -> std::ops::Range<usize> {
            debug_assert!(values.len() >= (at + 1) * case.width);
            at * case.width..at * case.width + width
        };
        Some(Row {
            task,
            values: &self.values[of(&self.values)],
            label: self.labels[at] as usize,
            targets: &self.targets[of(&self.targets)],
        })
    }

    pub fn counts(&self, case: &Case) -> Vec<u32> {
        let mut counts = vec![0; case.tasks];
        (0..case.rows()).filter_map(|at| self.row(case, at)).for_each(|row| counts[row.task] += 1);
        counts
    }

    /// The batch made of these samples, in this order.
    pub fn samples(&self, case: &Case, order: &[usize]) -> (Case, Self) {
        let per_sample = case.columns() * case.width;
        let take = |values: &[f32]| {
            order.iter().flat_map(|&b| values[b * per_sample..][..per_sample].to_vec()).collect()
        };
        let data = Self {
            values: take(&self.values),
            targets: take(&self.targets),
            labels: order
                .iter()
                .flat_map(|&b| self.labels[b * case.columns()..][..case.columns()].to_vec())
                .collect(),
            ids: if case.mixed { order.iter().map(|&b| self.ids[b]).collect() } else { Vec::new() },
            ..self.clone()
        };
        (Case { batch: order.len(), ..case.clone() }, data)
    }
}

/// Inputs on a device.
pub struct Inputs {
    pub values: Strided,
    pub targets: Strided,
    pub labels: Tensor,
    pub ids: Option<Tensor>,
    pub weights: Option<Tensor>,
}

/// Integers in a random type, on the device or the host. Negative ones need a signed type.
pub fn integers(device: &Device, values: &[i64], shape: &[usize], random: &mut Random) -> Tensor {
    let place = if random.one_in(2) { Device::cpu() } else { device.clone() };
    let tensor = match random.below(2) {
        0 => Tensor::from_slice(&place, values, shape),
        _ => Tensor::from_slice(&place, &values.iter().map(|&x| x as i32).collect::<Vec<_>>(), shape),
    };
    tensor.expect("a list of integers")
}

impl Inputs {
    pub fn new(device: &Device, case: &Case, data: &Data) -> Self {
        let mut random = case.random(1);
        let mut strided = |values: &[f32]| {
            Strided::new(device, values, random_layout(&case.shape(), Inner::Contiguous, &mut random))
        };
        let (values, targets) = (strided(&data.values), strided(&data.targets));
        let labels = integers(device, &data.labels, &case.row_shape(), &mut random);
        // u32 as well: NO_TASK is its largest number.
        let ids = case.mixed.then(|| {
            if random.one_in(3) {
                let words: Vec<u32> = data.ids.iter().map(|&id| id as u32).collect();
                return Tensor::from_slice(device, &words, &[case.batch]).expect("ids");
            }
            integers(device, &data.ids, &[case.batch], &mut random)
        });
        let weights = case
            .has_weights
            .then(|| Tensor::from_slice(device, &data.weights, &[case.tasks]).expect("weights"));
        Self { values, targets, labels, ids, weights }
    }

    pub fn axis(&self, case: &Case) -> TaskAxis<'_> {
        match &self.ids {
            Some(ids) => TaskAxis::Mixed { tasks: ids.view(), count: case.tasks },
            None => TaskAxis::All,
        }
    }
}
