//! The CPU: rows in parallel, sums over rows in order in f64.

use super::gradients::{CHUNK, GradientSimilarityViews};
use super::loss::{Loss, LossViews};
use super::metrics::{Average, ClassMetricsViews, RegressionMetricsViews};
use super::rows::{Labels, Row, Rows};
use super::{NO_TASK, Reduction};
use crate::error::Result;
use crate::host::{elements, elements_mut};
use crate::tensor::{Layout, TensorMut, TensorRef};
use rayon::prelude::*;

/// Fewest elements worth handing to another thread.
const PARALLEL_ELEMENTS: usize = 1 << 14;
/// Partial results of a row: wide enough for the vector units, and a fixed order whatever their width.
const LANES: usize = 16;

pub(super) fn loss(loss: &Loss<'_>, out: &mut LossViews<'_>) -> Result<()> {
    let rows = &loss.rows;
    let host = rows.host()?;
    mark(&host, &mut out.workspace)?;
    let counts = elements_mut::<u32>(&mut out.counts)?;
    count(&host, counts);
    let weights = loss.weights.as_ref().map(elements::<f32>).transpose()?;
    let weight = |task: usize| weights.map_or(1.0, |weights| weights[task]);
    let factor = |task: usize| match loss.reduction {
        Reduction::Mean => weight(task) / counts[task] as f32,
        Reduction::Sum => weight(task),
    };

    let gradient = out.gradient.as_mut().map(|view| RowsMut::new(view, rows.columns));
    let row_losses = elements_mut::<f32>(&mut out.row_losses)?;
    let least = PARALLEL_ELEMENTS.div_ceil(rows.width.max(1));
    row_losses.par_iter_mut().with_min_len(least).enumerate().for_each(|(at, row_loss)| {
        let mut gradient = gradient.as_ref().map(|gradient| gradient.row(at));
        let Some(task) = host[at].task else {
            gradient.into_iter().for_each(|gradient| gradient.fill(0.0));
            *row_loss = 0.0;
            return;
        };
        let (values, width) = (row(&loss.values, at, rows.columns), rows.width_of(task));
        if let Some(gradient) = &mut gradient {
            gradient[width..].fill(0.0);
        }
        let target =
            Target { factor: factor(task), gradient: gradient.map(|gradient| &mut gradient[..width]) };
        *row_loss = match (&rows.labels, loss.smoothing) {
            (Labels::Targets { targets, .. }, _) => {
                squared_error(&values[..width], &row(targets, at, rows.columns)[..width], target)
            }
            (_, smoothing) => {
                cross_entropy(&values[..width], host[at].label, smoothing.unwrap_or(0.0), target)
            }
        };
    });

    let mut sums = vec![0.0f64; rows.tasks];
    for (row, &loss) in host.iter().zip(&*row_losses) {
        if let Some(task) = row.task {
            sums[task] += f64::from(loss);
        }
    }
    let losses = elements_mut::<f32>(&mut out.losses)?;
    let mut total = 0.0f64;
    for (task, sum) in sums.into_iter().enumerate() {
        let divisor = if loss.reduction == Reduction::Mean { counts[task].max(1) } else { 1 };
        let task_loss = sum / f64::from(divisor);
        losses[task] = task_loss as f32;
        // Not even a NaN of a task that does not count.
        if weight(task) != 0.0 {
            total += f64::from(weight(task)) * task_loss;
        }
    }
    elements_mut::<f32>(&mut out.total)?[0] = total as f32;
    Ok(())
}

/// Where a row's gradient goes and what it is multiplied by.
struct Target<'a> {
    factor: f32,
    gradient: Option<&'a mut [f32]>,
}

fn cross_entropy(z: &[f32], label: usize, smoothing: f32, target: Target<'_>) -> f32 {
    let max = maximum(z);
    let mut unused = [];
    let (factor, gradient) = (target.factor, target.gradient.unwrap_or(&mut unused));
    // The gradient's memory holds e^(z − max) meanwhile: one exponential a logit.
    let (sum, shifted) =
        if gradient.is_empty() { exponentials(z, max, None) } else { exponentials(z, max, Some(gradient)) };
    let sum = if sum == 0.0 { f32::NAN } else { sum };
    let even = smoothing / z.len() as f32;
    if factor == 0.0 {
        gradient.fill(0.0);
    } else if !gradient.is_empty() {
        let scale = 1.0 / sum;
        let own = gradient[label];
        gradient.iter_mut().for_each(|g| *g = factor * (*g * scale - even));
        gradient[label] = factor * (own * scale - (1.0 - smoothing + even));
    }
    let loss = sum.ln() - (1.0 - smoothing) * (z[label] - max);
    // −∞ logits make the even part infinite; without smoothing it is not there at all.
    if smoothing > 0.0 { loss - smoothing * shifted / z.len() as f32 } else { loss }
}

fn squared_error(x: &[f32], y: &[f32], target: Target<'_>) -> f32 {
    if x.is_empty() {
        return 0.0;
    }
    let mut lanes = [0.0f32; LANES];
    for (x, y) in x.chunks(LANES).zip(y.chunks(LANES)) {
        for (lane, (x, y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane += (x - y) * (x - y);
        }
    }
    if let Some(gradient) = target.gradient {
        let factor = 2.0 * target.factor / x.len() as f32;
        for ((g, x), y) in gradient.iter_mut().zip(x).zip(y) {
            *g = if target.factor == 0.0 { 0.0 } else { factor * (x - y) };
        }
    }
    lanes.iter().sum::<f32>() / x.len() as f32
}

/// The largest element; a NaN is passed over, it comes in by the sum.
fn maximum(z: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in z.chunks(LANES) {
        for (lane, &z) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, z);
        }
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, larger)
}

/// Σ e^(z − max) and Σ (z − max); the exponentials go to `out`.
fn exponentials(z: &[f32], max: f32, out: Option<&mut [f32]>) -> (f32, f32) {
    let mut sums = [[0.0f32; LANES]; 2];
    let mut buffer = [0.0f32; LANES];
    let mut out = out.map(|out| out.chunks_mut(LANES));
    for chunk in z.chunks(LANES) {
        let to = match out.as_mut().and_then(Iterator::next) {
            Some(out) => out,
            None => &mut buffer[..chunk.len()],
        };
        for (lane, (to, &z)) in to.iter_mut().zip(chunk).enumerate() {
            let x = z - max;
            *to = exp_of_nonpositive(x);
            sums[0][lane] += *to;
            sums[1][lane] += x;
        }
    }
    (sums[0].iter().sum(), sums[1].iter().sum())
}

/// e^x for x ≤ 0, within 2 ulp; 0 where that is below the normal numbers, NaN for NaN. Without branches, so that the loops around it
/// are vectorised.
///
/// x = k·ln 2 + r with |r| ≤ ln 2/2, e^r by a Taylor polynomial of degree 7 (relative error 3e-9), 2^k by its exponent bits.
fn exp_of_nonpositive(x: f32) -> f32 {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5·2^23 rounds to the nearest integer, and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2^−126.
    const LEAST: f32 = -87.336_54;
    let clamped = if x < LEAST { LEAST } else { x };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = clamped - k * LN_2_HIGH - k * LN_2_LOW;
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    let power = f32::from_bits((shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23);
    if x < LEAST { 0.0 } else { p * power }
}

// ------------------------------------------------------------------------------------------------------------- rows

/// The workspace as the kernels leave it, so that an output does not depend on where it was computed.
fn mark(rows: &[Row], workspace: &mut TensorMut<'_>) -> Result<()> {
    let words = elements_mut::<u32>(workspace)?;
    for (at, row) in rows.iter().enumerate() {
        words[at] = row.task.map_or(NO_TASK as u32, |task| task as u32);
        words[rows.len() + at] = row.label as u32;
    }
    words[2 * rows.len()] = 0;
    Ok(())
}

fn count(rows: &[Row], counts: &mut [u32]) {
    counts.fill(0);
    rows.iter().filter_map(|row| row.task).for_each(|task| counts[task] += 1);
}

fn offset(layout: &Layout, at: usize, columns: usize) -> usize {
    if layout.shape().len() == 2 {
        at * layout.step(0)
    } else {
        at / columns * layout.step(0) + at % columns * layout.step(1)
    }
}

/// Row `at` of a validated f32 tensor `[batch, width]` or `[batch, columns, width]` on the CPU.
#[allow(unsafe_code)]
pub(super) fn row<'a>(view: &TensorRef<'a>, at: usize, columns: usize) -> &'a [f32] {
    let layout = view.layout();
    let Some(base) = view.cpu_ptr::<f32>().filter(|_| !layout.is_empty()) else { return &[] };
    // SAFETY: `at` is below the number of rows, and the last dimension is contiguous.
    unsafe {
        std::slice::from_raw_parts(
            base.add(offset(layout, at, columns)),
            layout.shape()[layout.shape().len() - 1],
        )
    }
}

/// Rows of an f32 tensor that threads write, each row by one thread.
struct RowsMut<'a> {
    base: *mut f32,
    layout: Layout,
    columns: usize,
    _borrow: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: no two indices of a writable view name the same element, and no two threads ask for the same row.
#[allow(unsafe_code)]
unsafe impl Sync for RowsMut<'_> {}

impl<'a> RowsMut<'a> {
    fn new(view: &'a mut TensorMut<'_>, columns: usize) -> Self {
        let layout = *view.as_ref().layout();
        let base = view.cpu_ptr::<f32>().filter(|_| !layout.is_empty()).unwrap_or(std::ptr::null_mut());
        Self { base, layout, columns, _borrow: std::marker::PhantomData }
    }

    /// Row `at`, which no other borrow may be of.
    #[allow(unsafe_code, clippy::mut_from_ref)]
    fn row(&self, at: usize) -> &mut [f32] {
        if self.base.is_null() {
            return &mut [];
        }
        let width = self.layout.shape()[self.layout.shape().len() - 1];
        // SAFETY: inside the layout, which the view's construction has checked against its memory, and contiguous; each row is
        // asked for once.
        unsafe {
            std::slice::from_raw_parts_mut(self.base.add(offset(&self.layout, at, self.columns)), width)
        }
    }
}

// ---------------------------------------------------------------------------------------------------------- gradients

pub(super) fn gradient_similarity(
    gradients: &TensorRef<'_>,
    out: &mut GradientSimilarityViews<'_>,
) -> Result<()> {
    let (tasks, parameters) = (gradients.shape()[0], gradients.shape()[1]);
    let rows: Vec<&[f32]> = (0..tasks).map(|task| row(gradients, task, 1)).collect();
    let upper = |i: usize| i * tasks;
    // Chunks in parallel, small enough that all tasks' parts stay in a core's cache; added in order.
    let partial: Vec<Vec<f64>> = (0..parameters.div_ceil(CHUNK))
        .into_par_iter()
        .map(|chunk| {
            let range = chunk * CHUNK..parameters.min((chunk + 1) * CHUNK);
            let mut products = vec![0.0; tasks * tasks];
            for i in 0..tasks {
                for j in i..tasks {
                    products[upper(i) + j] = dot(&rows[i][range.clone()], &rows[j][range.clone()]);
                }
            }
            products
        })
        .collect();
    let mut gram = vec![0.0f64; tasks * tasks];
    for products in &partial {
        gram.iter_mut().zip(products).for_each(|(sum, product)| *sum += product);
    }
    let norm = |i: usize| gram[upper(i) + i].sqrt();
    let norms = elements_mut::<f32>(&mut out.norms)?;
    norms.iter_mut().enumerate().for_each(|(i, out)| *out = norm(i) as f32);
    let cosines = elements_mut::<f32>(&mut out.cosines)?;
    for (at, out) in cosines.iter_mut().enumerate() {
        let (i, j) = (at / tasks, at % tasks);
        *out = match norm(i) * norm(j) {
            0.0 => 0.0,
            product if i == j && product.is_finite() => 1.0,
            product => (gram[upper(i.min(j)) + i.max(j)] / product).clamp(-1.0, 1.0) as f32,
        };
    }
    Ok(())
}

/// Σ x·y, products exact in f64.
fn dot(x: &[f32], y: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    for (x, y) in x.chunks(LANES).zip(y.chunks(LANES)) {
        for (lane, (&x, &y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane += f64::from(x) * f64::from(y);
        }
    }
    lanes.iter().sum()
}

// ------------------------------------------------------------------------------------------------------------ metrics

/// Monotone in x; −0 equals +0, and every NaN is above +∞. The kernels compare the same words.
fn sort_key(x: f32) -> u32 {
    const SIGN: u32 = 1 << 31;
    match x.to_bits() {
        _ if x.is_nan() => u32::MAX,
        _ if x == 0.0 => SIGN,
        bits if bits & SIGN != 0 => !bits,
        bits => bits | SIGN,
    }
}

fn largest(z: &[f32]) -> usize {
    let mut best = (0, 0);
    for (class, &z) in z.iter().enumerate() {
        let key = sort_key(z);
        if key > best.0 {
            best = (key, class);
        }
    }
    best.1
}

fn quotient(part: u32, whole: u32) -> f32 {
    if whole == 0 { 0.0 } else { (f64::from(part) / f64::from(whole)) as f32 }
}

/// Precision, recall, F1.
fn scores([right, predicted, labelled]: [u32; 3]) -> [f32; 3] {
    [quotient(right, predicted), quotient(right, labelled), quotient(2 * right, predicted + labelled)]
}

/// 0 over nothing.
fn mean(sums: [f32; 4], count: usize) -> [f32; 4] {
    sums.map(|sum| if count == 0 { 0.0 } else { sum / count as f32 })
}

pub(super) fn class_metrics(
    rows: &Rows<'_>,
    logits: &TensorRef<'_>,
    average: Average,
    out: &mut ClassMetricsViews<'_>,
) -> Result<()> {
    let host = rows.host()?;
    mark(&host, &mut out.workspace)?;
    count(&host, elements_mut(&mut out.counts)?);
    let least = PARALLEL_ELEMENTS.div_ceil(rows.width.max(1));
    let predicted: Vec<usize> = host
        .par_iter()
        .with_min_len(least)
        .enumerate()
        .map(|(at, own)| {
            own.task.map_or(0, |task| largest(&row(logits, at, rows.columns)[..rows.width_of(task)]))
        })
        .collect();
    let class_counts = elements_mut::<u32>(&mut out.class_counts)?;
    class_counts.fill(0);
    for (row, predicted) in host.iter().zip(predicted) {
        let Some(task) = row.task else { continue };
        let of_class = |class: usize| (task * rows.width + class) * 3;
        class_counts[of_class(row.label)] += u32::from(predicted == row.label);
        class_counts[of_class(predicted) + 1] += 1;
        class_counts[of_class(row.label) + 2] += 1;
    }

    let (per_class, per_task) =
        (elements_mut::<f32>(&mut out.per_class)?, elements_mut::<f32>(&mut out.per_task)?);
    let (mut pool, mut accurate, mut all_rows) = ([0u32; 3], 0, 0);
    let (mut sums, mut with_rows) = ([0.0f32; 4], 0);
    for task in 0..rows.tasks {
        let (mut right, mut count, mut own, mut occurring) = (0, 0, [0.0f32; 4], 0);
        for class in 0..rows.width {
            let at = (task * rows.width + class) * 3;
            let counts = [class_counts[at], class_counts[at + 1], class_counts[at + 2]];
            let scores = scores(counts);
            per_class[at..at + 3].copy_from_slice(&scores);
            right += counts[0];
            count += counts[2];
            let counted = match average {
                Average::Macro => counts[1] + counts[2] > 0,
                Average::OneClass(positive) => class == positive,
            };
            if counted {
                occurring += 1;
                (0..3).for_each(|i| own[i + 1] += scores[i]);
                (0..3).for_each(|i| pool[i] += counts[i]);
            }
        }
        own = mean(own, occurring);
        own[0] = quotient(right, count);
        per_task[4 * task..4 * task + 4].copy_from_slice(&own);
        accurate += right;
        all_rows += count;
        if count > 0 {
            with_rows += 1;
            (0..4).for_each(|i| sums[i] += own[i]);
        }
    }
    let overall = elements_mut::<f32>(&mut out.overall)?;
    overall[..4].copy_from_slice(&mean(sums, with_rows));
    overall[4] = quotient(accurate, all_rows);
    overall[5..].copy_from_slice(&scores(pool));
    Ok(())
}

pub(super) fn regression_metrics(
    rows: &Rows<'_>,
    values: &TensorRef<'_>,
    out: &mut RegressionMetricsViews<'_>,
) -> Result<()> {
    let host = rows.host()?;
    mark(&host, &mut out.workspace)?;
    let counts = elements_mut::<u32>(&mut out.counts)?;
    count(&host, counts);
    let Labels::Targets { targets, .. } = &rows.labels else { return Ok(()) };
    let of_task = |at: usize| {
        let task = host[at].task?;
        Some((
            task,
            f64::from(row(values, at, rows.columns)[0]),
            f64::from(row(targets, at, rows.columns)[0]),
        ))
    };
    let divisor = |task: usize| f64::from(counts[task].max(1));
    // From the first target, so that equal targets have no spread.
    let mut pivots = vec![None; rows.tasks];
    let mut means = vec![0.0f64; rows.tasks];
    for (task, _, y) in (0..host.len()).filter_map(of_task) {
        means[task] += y - *pivots[task].get_or_insert(y);
    }
    for (task, mean) in means.iter_mut().enumerate() {
        *mean = pivots[task].unwrap_or(0.0) + *mean / divisor(task);
    }
    // |e|, e², squares about the mean.
    let mut sums = vec![[0.0f64; 3]; rows.tasks];
    for (task, x, y) in (0..host.len()).filter_map(of_task) {
        let terms = [(x - y).abs(), (x - y) * (x - y), (y - means[task]) * (y - means[task])];
        sums[task].iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
    }
    let per_task = elements_mut::<f32>(&mut out.per_task)?;
    for (task, [absolute, squared, spread]) in sums.into_iter().enumerate() {
        let r2 = if spread != 0.0 {
            1.0 - squared / spread
        } else if squared == 0.0 && counts[task] > 0 {
            1.0
        } else {
            0.0
        };
        let own = [absolute / divisor(task), squared / divisor(task), r2];
        per_task[3 * task..3 * task + 3].copy_from_slice(&own.map(|x| x as f32));
    }
    Ok(())
}

pub(super) fn composite_score(
    scores: &TensorRef<'_>,
    counts: &TensorRef<'_>,
    weights: Option<&TensorRef<'_>>,
    out: &mut TensorMut<'_>,
) -> Result<()> {
    let (scores, counts) = (scores.to_vec::<f32>()?, elements::<u32>(counts)?);
    let weights = weights.map(elements::<f32>).transpose()?;
    let (mut sum, mut weight_sum) = (0.0f64, 0.0f64);
    for (task, &score) in scores.iter().enumerate() {
        let weight = weights.map_or(1.0, |weights| weights[task]);
        if weight != 0.0 && counts[task] > 0 {
            sum += f64::from(weight) * f64::from(score);
            weight_sum += f64::from(weight);
        }
    }
    elements_mut::<f32>(out)?[0] = if weight_sum == 0.0 { 0.0 } else { (sum / weight_sum) as f32 };
    Ok(())
}
