//! The steps on the CPU: the same lists as the GPU kernels build, in plain Rust.

use super::Activation;
use super::problem::{GateDerivative, Problem, Sizes};
use super::rows::Starts;
use super::steps::{Among, Delta, Fill, ListViews, Owner, RowSum, Select, Steps};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::host::{elements, elements_mut};
use crate::tensor::{Layout, TensorMut, TensorRef};
use half::{bf16, f16};
use rayon::prelude::*;
use std::ops::Range;

/// Stateless: the tensors are ordinary memory.
pub(super) struct CpuSteps;

/// Fewest elements worth handing to another thread.
pub(super) const PARALLEL_ELEMENTS: usize = 1 << 15;
/// Partial sums of a dot product: wide enough for the vector units, and a fixed order whatever their width.
const LANES: usize = 16;

impl Steps for CpuSteps {
    fn gate(
        &self,
        problem: &Problem<'_>,
        scores: Option<&TensorRef<'_>>,
        gates: &mut TensorMut<'_>,
        probabilities: &mut TensorMut<'_>,
    ) -> Result<()> {
        let heads = problem.sizes.heads;
        if heads == 0 {
            return Ok(());
        }
        let mut rows = tasks_of_samples(problem)?;
        let by_sample = scores.is_some() || problem.source.ids.is_none();
        if by_sample {
            rows.iter_mut().enumerate().for_each(|(sample, row)| *row = row.map(|_| sample));
        }
        let values = scores.unwrap_or(&problem.source.values).to_vec::<f32>()?;
        let shared = problem.activation.shared_heads();
        let (gates, probabilities) = (elements_mut::<f32>(gates)?, elements_mut::<f32>(probabilities)?);
        let outputs = gates.chunks_exact_mut(heads).zip(probabilities.chunks_exact_mut(heads));
        for (row, (gates, probabilities)) in rows.into_iter().zip(outputs) {
            match row {
                Some(row) => {
                    let z = &values[row * heads..(row + 1) * heads];
                    gates[..shared].fill(1.0);
                    probabilities[..shared].fill(1.0);
                    let routed = (&mut gates[shared..], &mut probabilities[shared..]);
                    activate(problem.activation, problem.softmax_scale(), &z[shared..], routed.0, routed.1);
                }
                None => {
                    gates.fill(problem.no_task_gate());
                    probabilities.fill(0.0);
                }
            }
        }
        Ok(())
    }

    fn compact(
        &self,
        sizes: &Sizes,
        select: Select,
        gates: &TensorRef<'_>,
        list: &mut ListViews<'_>,
    ) -> Result<()> {
        let gates = elements::<f32>(gates)?;
        let active = elements_mut::<u32>(&mut list.active)?;
        for (flag, &gate) in active.iter_mut().zip(gates) {
            *flag = u32::from(match select {
                Select::Active => gate != 0.0 && !gate.is_nan(),
                Select::Zero => gate == 0.0,
            });
        }
        let group = sizes.heads / sizes.kv_heads.max(1);
        let key_head = |pair: usize| {
            let members = pair * group..(pair + 1) * group;
            active[members.clone()].contains(&1) && !gates[members].iter().any(|gate| gate.is_nan())
        };
        let counts = elements_mut::<u32>(&mut list.counts)?;
        counts[0] = partition(elements_mut(&mut list.order)?, |pair| active[pair] == 1);
        counts[1] = partition(elements_mut(&mut list.kv_order)?, key_head);
        Ok(())
    }

    fn fill(&self, sizes: &Sizes, fill: &Fill<'_>, target: &mut TensorMut<'_>) -> Result<()> {
        let layout = *target.as_ref().layout();
        if layout.is_empty() {
            return Ok(());
        }
        let owners = if fill.owner == Owner::Head { sizes.heads } else { sizes.kv_heads };
        let per_owner = sizes.heads / owners;
        let gates = elements::<f32>(&fill.gates)?;
        let count = elements::<u32>(&fill.counts)?[fill.owner as usize] as usize;
        let order = elements::<u32>(&fill.order)?;
        // The lists are the caller's to keep. Two entries of one pair would write the same rows from two threads.
        let suffix = order.get(count..).filter(|suffix| {
            suffix.windows(2).all(|w| w[0] < w[1])
                && suffix.last().is_none_or(|&p| (p as usize) < order.len())
        });
        let suffix = suffix.ok_or_else(|| {
            let reason = format!("and `counts` are not a list of active pairs: {count} of {}", order.len());
            Error::argument("task_heads", "order", reason)
        })?;
        let ranges = fill.starts.map(Starts::host_ranges).transpose()?;
        match target.as_ref().dtype() {
            DType::F16 => {
                fill_pairs::<f16>(suffix, gates, (owners, per_owner), fill, ranges.as_deref(), target)
            }
            DType::BF16 => {
                fill_pairs::<bf16>(suffix, gates, (owners, per_owner), fill, ranges.as_deref(), target)
            }
            _ => fill_pairs::<f32>(suffix, gates, (owners, per_owner), fill, ranges.as_deref(), target),
        }
    }

    fn delta(&self, sizes: &Sizes, delta: &Delta<'_>, out: &mut TensorMut<'_>) -> Result<()> {
        let (mask, gates) = (elements::<u32>(&delta.mask)?, elements::<f32>(&delta.gates)?);
        let out = elements_mut::<f32>(out)?;
        let (tasks, [rows, columns]) = (delta.tasks(), delta.shape());
        let ranges = delta.starts.map(Starts::host_ranges).transpose()?;
        let sum = |b: usize, task: usize, h: usize| {
            let (place, own) = match &ranges {
                Some(ranges) => (0, ranges[b].clone()),
                None => (b, 0..rows),
            };
            match &delta.sum {
                RowSum::Products(x, y) => match x.dtype() {
                    DType::F16 => products::<f16>(x, y, [place, task, h], own),
                    DType::BF16 => products::<bf16>(x, y, [place, task, h], own),
                    _ => products::<f32>(x, y, [place, task, h], own),
                },
                // Contiguous: it is our own workspace.
                RowSum::Rows(rows) => {
                    row_of::<f32>(rows, &[place, h])[own].iter().map(|&x| f64::from(x)).sum()
                }
            }
        };
        let least = PARALLEL_ELEMENTS.div_ceil((rows * columns).max(1));
        out.par_iter_mut().with_min_len(least).enumerate().for_each(|(pair, out)| {
            let (sample, h, gate) = (pair / sizes.heads, pair % sizes.heads, gates[pair]);
            let (b, task) = (sample / tasks, sample % tasks);
            let is_chosen = match delta.among {
                Among::Masked => true,
                Among::Active => gate != 0.0 && !gate.is_nan(),
                Among::Numbers => !gate.is_nan(),
            };
            if is_chosen && mask[b * sizes.heads + h] == 1 {
                let total = if rows * columns > 0 { sum(b, task, h) } else { 0.0 };
                *out = if delta.times_gate { total * f64::from(gate) } else { total } as f32;
            } else if !delta.keep_others {
                *out = if gate.is_nan() { f32::NAN } else { 0.0 };
            }
        });
        Ok(())
    }

    fn gate_backward(
        &self,
        problem: &Problem<'_>,
        delta: &TensorRef<'_>,
        gates: &TensorRef<'_>,
        probabilities: &TensorRef<'_>,
        dz: &mut TensorMut<'_>,
    ) -> Result<()> {
        let heads = problem.sizes.heads.max(1);
        let (derivative, shared) = (problem.derivative(), problem.activation.shared_heads());
        let inputs = elements::<f32>(delta)?
            .chunks_exact(heads)
            .zip(elements::<f32>(gates)?.chunks_exact(heads))
            .zip(elements::<f32>(probabilities)?.chunks_exact(heads));
        for (dz, ((delta, gates), probabilities)) in
            elements_mut::<f32>(dz)?.chunks_exact_mut(heads).zip(inputs)
        {
            let total: f32 = delta[shared..].iter().sum();
            let routed = probabilities.iter().zip(gates).skip(shared);
            let kept: f32 = routed.filter(|&(_, &g)| g != 0.0).map(|(p, _)| p).sum();
            // A shared head's gate is a constant.
            dz[..shared].fill(0.0);
            for h in shared..heads {
                dz[h] = match derivative {
                    GateDerivative::Identity => delta[h],
                    GateDerivative::Sigmoid => delta[h] * (1.0 - gates[h]),
                    GateDerivative::Probabilities => delta[h] - probabilities[h] * total,
                    GateDerivative::Gates => delta[h] - gates[h] * total,
                    GateDerivative::StraightThrough => kept * (delta[h] - probabilities[h] * total),
                };
            }
        }
        Ok(())
    }

    fn sum_by_task(&self, problem: &Problem<'_>, dz: &TensorRef<'_>, out: &mut TensorMut<'_>) -> Result<()> {
        let heads = problem.sizes.heads.max(1);
        let out = elements_mut::<f32>(out)?;
        out.fill(0.0);
        for (task, dz) in tasks_of_samples(problem)?.into_iter().zip(elements::<f32>(dz)?.chunks_exact(heads))
        {
            let Some(task) = task else { continue };
            for (sum, dz) in out[task * heads..(task + 1) * heads].iter_mut().zip(dz) {
                *sum += dz;
            }
        }
        Ok(())
    }
}

/// Task of each sample, `None` for samples without one. Without ids every sample is of task 0.
pub(super) fn tasks_of_samples(problem: &Problem<'_>) -> Result<Vec<Option<usize>>> {
    match &problem.source.ids {
        Some(ids) => ids.host_tasks(),
        None => Ok(vec![Some(0); problem.sizes.batch]),
    }
}

/// Gates and probabilities of one sample.
fn activate(activation: Activation, scale: f32, z: &[f32], gates: &mut [f32], probabilities: &mut [f32]) {
    match activation {
        Activation::Identity => gates.copy_from_slice(z),
        Activation::Sigmoid => gates.iter_mut().zip(z).for_each(|(gate, &z)| *gate = sigmoid(z)),
        Activation::Threshold { t } => {
            for ((gate, p), &z) in gates.iter_mut().zip(probabilities).zip(z) {
                *p = sigmoid(z);
                // A NaN is not below.
                *gate = if *p < t { 0.0 } else { *p };
            }
            return;
        }
        Activation::TopP { p: share } => {
            // As in top-k, `probabilities` first hold e^(z−max).
            let total = exponentials(z, probabilities);
            for head in 0..z.len() {
                let is_in = share >= 1.0 || sum_before(z, probabilities, head) < share * total;
                gates[head] = if is_in || total.is_nan() { ratio(probabilities[head], total) } else { 0.0 };
            }
            probabilities.iter_mut().for_each(|p| *p = ratio(*p, total));
            return;
        }
        Activation::Softmax { .. } => {
            softmax(z, probabilities);
            for (gate, &p) in gates.iter_mut().zip(&*probabilities) {
                *gate = p * scale;
            }
            return;
        }
        Activation::TopK { k, renormalise, .. } => {
            // Here `probabilities` first holds e^(z−max): renormalised gates divide by the kept part of the sum, so that a
            // single kept head has the gate 1 exactly.
            let total = exponentials(z, probabilities);
            let mut kept = 0.0;
            gates.fill(0.0);
            let mut last = None;
            for _ in 0..k {
                last = next_best(z, last);
                let Some(head) = last else { break };
                kept += probabilities[head];
                gates[head] = probabilities[head];
            }
            let divisor = if renormalise { kept } else { total };
            for (gate, p) in gates.iter_mut().zip(probabilities.iter_mut()) {
                *gate = ratio(*gate, divisor);
                *p = ratio(*p, total);
            }
            return;
        }
    }
    probabilities.copy_from_slice(gates);
}

fn sigmoid(z: f32) -> f32 {
    // e^−|z| never overflows.
    let e = (-z.abs()).exp();
    if z >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}

/// Sum of the exponentials of the heads before `head` when heads are sorted by z, largest first, ties by index; added in the
/// order of heads, so that a lower rank never has a smaller sum.
fn sum_before(z: &[f32], e: &[f32], head: usize) -> f32 {
    let own = sort_key(z[head]);
    let is_before = |j: usize| sort_key(z[j]) > own || (sort_key(z[j]) == own && j < head);
    (0..z.len()).filter(|&j| is_before(j)).map(|j| e[j]).sum()
}

fn softmax(z: &[f32], p: &mut [f32]) {
    let total = exponentials(z, p);
    p.iter_mut().for_each(|p| *p = ratio(*p, total));
}

/// e^(z − max z) and their sum. The maximum of a row of −∞ is taken as 0, so that the row's exponentials are 0.
fn exponentials(z: &[f32], e: &mut [f32]) -> f32 {
    let mut max = f32::NEG_INFINITY;
    for &z in z {
        max = if z > max { z } else { max };
    }
    let max = if max == f32::NEG_INFINITY { 0.0 } else { max };
    let mut sum = 0.0;
    for (e, &z) in e.iter_mut().zip(z) {
        *e = (z - max).exp();
        sum += *e;
    }
    sum
}

/// `x / total`, 0 where nothing was summed. A NaN total gives NaN even for x = 0.
fn ratio(x: f32, total: f32) -> f32 {
    if total == 0.0 { 0.0 } else { x / total }
}

/// The head that follows `last` when heads are sorted by z, largest first, ties by index.
fn next_best(z: &[f32], last: Option<usize>) -> Option<usize> {
    let before = |a: usize, b: usize| {
        let (key_a, key_b) = (sort_key(z[a]), sort_key(z[b]));
        key_a > key_b || (key_a == key_b && a < b)
    };
    let mut best = None;
    for head in 0..z.len() {
        let follows = last.is_none_or(|last| before(last, head));
        if follows && best.is_none_or(|best| before(head, best)) {
            best = Some(head);
        }
    }
    best
}

/// Monotone in z; −0 equals +0, and every NaN is above +∞. The kernels compare the same words.
fn sort_key(z: f32) -> u32 {
    const SIGN: u32 = 1 << 31;
    match z.to_bits() {
        _ if z.is_nan() => u32::MAX,
        _ if z == 0.0 => SIGN,
        bits if bits & SIGN != 0 => !bits,
        bits => bits | SIGN,
    }
}

/// Writes the indices with `selected`, ascending, then the others; returns how many are selected.
fn partition(order: &mut [u32], selected: impl Fn(usize) -> bool) -> u32 {
    let count = (0..order.len()).filter(|&i| selected(i)).count();
    let (mut front, mut back) = (0, count);
    for i in 0..order.len() {
        let slot = if selected(i) { &mut front } else { &mut back };
        order[*slot] = i as u32;
        *slot += 1;
    }
    count as u32
}

/// Writes the rows of these pairs, `(owners, gates an owner has)`; with `ranges` those of packed samples.
fn fill_pairs<T: Stored>(
    pairs: &[u32],
    gates: &[f32],
    (owners, per_owner): (usize, usize),
    fill: &Fill<'_>,
    ranges: Option<&[Range<usize>]>,
    target: &mut TensorMut<'_>,
) -> Result<()> {
    let all = 0..target.as_ref().shape()[2];
    let rows = RowsMut::<T>::new(target)?;
    pairs.par_iter().with_min_len(PARALLEL_ELEMENTS.div_ceil(rows.elements)).for_each(|&pair| {
        let pair = pair as usize;
        let nan = gates[pair * per_owner..(pair + 1) * per_owner].iter().any(|gate| gate.is_nan());
        let value = if nan { f32::NAN } else { fill.value };
        if value == 0.0 && fill.zeroed {
            return;
        }
        let (sample, owner) = (pair / owners, pair % owners);
        let (place, own) = ranges.map_or((sample, all.clone()), |ranges| (0, ranges[sample].clone()));
        rows.each_row(&[place, owner], own, |_, row| row.fill(T::from_f32(value)));
    });
    Ok(())
}

/// Element types of attention, as the f32 they are computed in.
pub(super) trait Stored: Element + Into<f32> {
    fn from_f32(x: f32) -> Self;
}

impl Stored for f32 {
    fn from_f32(x: f32) -> Self {
        x
    }
}

impl Stored for f16 {
    fn from_f32(x: f32) -> Self {
        Self::from_f32(x)
    }
}

impl Stored for bf16 {
    fn from_f32(x: f32) -> Self {
        Self::from_f32(x)
    }
}

/// Σ over these rows of x·y, at sample, task and head: x has a dimension of tasks, or not.
fn products<T: Stored>(
    x: &TensorRef<'_>,
    y: &TensorRef<'_>,
    [b, task, h]: [usize; 3],
    rows: Range<usize>,
) -> f64 {
    let has_tasks = x.shape().len() == 5;
    let x_row = |row| if has_tasks { row_of::<T>(x, &[b, task, h, row]) } else { row_of(x, &[b, h, row]) };
    rows.map(|row| f64::from(dot(x_row(row), row_of::<T>(y, &[b, h, row])))).sum()
}

fn dot<T: Stored>(x: &[T], y: &[T]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (x_chunks, y_chunks) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let product = |x: T, y: T| x.into() * y.into();
    let tail: f32 = x_chunks.remainder().iter().zip(y_chunks.remainder()).map(|(x, y)| product(*x, *y)).sum();
    for (x, y) in x_chunks.zip(y_chunks) {
        for lane in 0..LANES {
            lanes[lane] += product(x[lane], y[lane]);
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// Writes `[1, heads, rows]`, contiguous, the gate of each row's sample.
pub(super) fn expand(
    sizes: &Sizes,
    starts: &Starts<'_>,
    gates: &TensorRef<'_>,
    out: &mut TensorMut<'_>,
) -> Result<()> {
    let (gates, out) = (elements::<f32>(gates)?, elements_mut::<f32>(out)?);
    for (sample, own) in starts.host_ranges()?.into_iter().enumerate() {
        for head in 0..sizes.heads {
            out[head * starts.rows..][own.clone()].fill(gates[sample * sizes.heads + head]);
        }
    }
    Ok(())
}

// ------------------------------------------------------------------------------------------- elements of CPU tensors

fn not_cpu(dtype: DType) -> Error {
    Error::Device {
        op: "task_heads",
        arg: "memory",
        expected: "cpu".into(),
        got: format!("{dtype} elsewhere"),
    }
}

/// The last dimension of a validated tensor on the CPU, at these indices of the others.
#[allow(unsafe_code)]
pub(super) fn row_of<'a, T: Element>(view: &TensorRef<'a>, index: &[usize]) -> &'a [T] {
    let layout = view.layout();
    let is_inside =
        index.len() + 1 == layout.shape().len() && index.iter().zip(layout.shape()).all(|(i, n)| i < n);
    assert!(is_inside, "row {index:?} of {:?}", layout.shape());
    let Some(base) = view.cpu_ptr::<T>() else { return &[] };
    let at: usize = index.iter().enumerate().map(|(i, &at)| at * layout.step(i)).sum();
    // SAFETY: the indices are below the shape, and the last dimension is contiguous.
    unsafe { std::slice::from_raw_parts(base.add(at), layout.shape()[index.len()]) }
}

/// One element of a validated f32 tensor on the CPU, of any strides.
#[allow(unsafe_code)]
pub(super) fn element_of<'a>(view: &TensorRef<'a>, index: &[usize]) -> &'a f32 {
    let layout = view.layout();
    let is_inside =
        index.len() == layout.shape().len() && index.iter().zip(layout.shape()).all(|(i, n)| i < n);
    assert!(is_inside, "element {index:?} of {:?}", layout.shape());
    let Some(base) = view.cpu_ptr::<f32>() else { return &f32::NAN };
    let at: usize = index.iter().enumerate().map(|(i, &at)| at * layout.step(i)).sum();
    // SAFETY: the indices are below the shape, which construction of the view has checked against its memory.
    unsafe { &*base.add(at) }
}

/// Rows of a tensor `[…, rows, columns]` that threads write, those of one index of the other dimensions by one thread.
pub(super) struct RowsMut<'a, T> {
    base: *mut T,
    layout: Layout,
    /// Of one index.
    elements: usize,
    _borrow: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: no two indices of a writable view name the same element, and no two calls of `each_row` name the same index.
#[allow(unsafe_code)]
unsafe impl<T: Send> Sync for RowsMut<'_, T> {}

impl<'a, T: Element> RowsMut<'a, T> {
    pub(super) fn new(view: &'a mut TensorMut<'_>) -> Result<Self> {
        let layout = *view.as_ref().layout();
        let base = view.cpu_ptr::<T>().ok_or_else(|| not_cpu(view.as_ref().dtype()))?;
        let elements = layout.shape().iter().rev().take(2).product::<usize>().max(1);
        Ok(Self { base, layout, elements, _borrow: std::marker::PhantomData })
    }

    /// Calls `write` with the number and the elements of each of these rows. No two threads may name the same.
    #[allow(unsafe_code)]
    pub(super) fn each_row(&self, index: &[usize], rows: Range<usize>, write: impl Fn(usize, &mut [T])) {
        let shape = self.layout.shape();
        let is_inside = index.len() + 2 == shape.len() && index.iter().zip(shape).all(|(i, n)| i < n);
        assert!(is_inside && rows.end <= shape[index.len()], "rows {index:?} of {shape:?}");
        let first: usize = index.iter().enumerate().map(|(i, &at)| at * self.layout.step(i)).sum();
        for row in rows {
            let at = first + row * self.layout.step(index.len());
            // SAFETY: inside the layout, which construction of the view has checked against its memory, and the last dimension
            // is contiguous; see `Sync` for exclusiveness.
            write(row, unsafe { std::slice::from_raw_parts_mut(self.base.add(at), shape[index.len() + 1]) });
        }
    }
}
