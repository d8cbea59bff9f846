//! The output projection on the CPU: rows of weights added up, heads whose gate is 0 left out.

use super::project::{OutProjectionGradients, Project};
use crate::error::Result;
use crate::host::{elements, elements_mut};
use crate::tensor::{Layout, TensorMut, TensorRef};
use rayon::prelude::*;

/// Rows of the output a thread takes at a time: their partial sums stay in its cache while weights pass by.
const ROWS: usize = 16;
/// Partial sums of a dot product: wide enough for the vector units, and a fixed order whatever their width.
const LANES: usize = 16;

/// The last dimension at these indices of a validated f32 tensor on the CPU.
#[allow(unsafe_code)]
fn row<'a>(view: &TensorRef<'a>, index: &[usize]) -> &'a [f32] {
    let layout = view.layout();
    let Some(base) = view.cpu_ptr::<f32>().filter(|_| !layout.is_empty()) else { return &[] };
    let at: usize = index.iter().enumerate().map(|(i, &n)| n * layout.step(i)).sum();
    // SAFETY: the indices are below the shape (callers iterate over it), and the last dimension is contiguous.
    unsafe { std::slice::from_raw_parts(base.add(at), layout.shape()[index.len()]) }
}

/// Rows `[batch, rows, width]` that threads write, each by one thread.
struct OutRows<'a> {
    base: *mut f32,
    layout: Layout,
    _borrow: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: no two indices of a writable view name the same element, and no two threads ask for the same row.
#[allow(unsafe_code)]
unsafe impl Sync for OutRows<'_> {}

impl OutRows<'_> {
    /// Row `s` of sample `b`, which no other borrow may be of.
    #[allow(unsafe_code, clippy::mut_from_ref)]
    fn row(&self, b: usize, s: usize) -> &mut [f32] {
        let at = b * self.layout.step(0) + s * self.layout.step(1);
        // SAFETY: inside the layout, which the view's construction has checked against its memory, and contiguous; each row is
        // asked for once at a time, by the one thread that owns it.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(at), self.layout.shape()[2]) }
    }
}

fn add_scaled(sum: &mut [f32], x: f32, row: &[f32]) {
    sum.iter_mut().zip(row).for_each(|(sum, w)| *sum += x * w);
}

fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for (x, y) in x.chunks(LANES).zip(y.chunks(LANES)) {
        for (lane, (x, y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane += x * y;
        }
    }
    lanes.iter().sum()
}

pub(super) fn forward(project: &Project<'_>, out: &mut TensorMut<'_>) -> Result<()> {
    let layout = *out.as_ref().layout();
    let Some(base) = out.cpu_ptr::<f32>().filter(|_| !layout.is_empty()) else { return Ok(()) };
    let rows = OutRows { base, layout, _borrow: std::marker::PhantomData };
    let (tasks, gates) = (project.host_tasks()?, elements::<f32>(&project.gates)?);
    let blocks = project.rows.div_ceil(ROWS);
    (0..project.batch * blocks).into_par_iter().for_each(|block| {
        let (b, first) = (block / blocks, block % blocks * ROWS);
        let own = first..(first + ROWS).min(project.rows);
        own.clone().for_each(|s| rows.row(b, s).fill(0.0));
        let Some(task) = tasks[b] else { return };
        for h in (0..project.heads).filter(|h| gates[b * project.heads + h] != 0.0) {
            for d in 0..project.depth {
                let weights = row(&project.weights, &[task, h * project.depth + d]);
                for s in own.clone() {
                    add_scaled(rows.row(b, s), row(&project.y, &[b, h, s])[d], weights);
                }
            }
        }
    });
    Ok(())
}

pub(super) fn backward(
    project: &Project<'_>,
    grad_out: &TensorRef<'_>,
    out: &mut OutProjectionGradients,
) -> Result<()> {
    let (tasks, gates) = (project.host_tasks()?, elements::<f32>(&project.gates)?);
    let (heads, depth) = (project.heads, project.depth);
    if let Some(dy) = &mut out.dy {
        let mut dy = dy.view_mut();
        let per_pair = project.rows * depth;
        elements_mut::<f32>(&mut dy)?.par_chunks_mut(per_pair.max(1)).enumerate().for_each(|(pair, dy)| {
            let (b, h) = (pair / heads, pair % heads);
            let Some(task) = tasks[b].filter(|_| gates[pair] != 0.0) else { return };
            for (s, dy) in dy.chunks_mut(depth).enumerate() {
                let grad = row(grad_out, &[b, s]);
                for (d, dy) in dy.iter_mut().enumerate() {
                    *dy = dot(grad, row(&project.weights, &[task, h * depth + d]));
                }
            }
        });
    }
    if let Some(dweights) = &mut out.dweights {
        let mut dweights = dweights.view_mut();
        let per_head = depth * project.width;
        elements_mut::<f32>(&mut dweights)?.par_chunks_mut(per_head.max(1)).enumerate().for_each(
            |(at, dw)| {
                let (task, h) = (at / heads, at % heads);
                let is_mine = |b: &usize| tasks[*b] == Some(task) && gates[b * heads + h] != 0.0;
                for b in (0..project.batch).filter(is_mine) {
                    for s in 0..project.rows {
                        let (y, grad) = (row(&project.y, &[b, h, s]), row(grad_out, &[b, s]));
                        for (dw, &y) in dw.chunks_mut(project.width).zip(y) {
                            add_scaled(dw, y, grad);
                        }
                    }
                }
            },
        );
    }
    Ok(())
}
