//! Gradients that are sums over rows, in order.

use super::records::SumParams;
use super::{Call, ROW_WORDS, SUMS, TILE, buffers, kernels};
use crate::attention::wgpu::scratch::Part;
use crate::attention::{Backward, Score};
use crate::device::wgpu::{Binding, Workspace};
use crate::error::Result;
use crate::tensor::TensorRef;

/// A sum over lists of rows: `count` terms `step` words apart.
#[derive(Clone, Copy)]
struct Terms {
    count: usize,
    step: usize,
}

impl Call<'_> {
    /// Gradients that are sums over rows.
    pub(super) fn sums(&self, call: &Backward<'_>, plan: &Workspace<'_>, sums: &Part<'_>) -> Result<()> {
        let problem = self.problem;
        let [batch, heads, rows] = problem.lse_shape();
        let gradients = &call.gradients;
        let over = |words: usize| {
            let outer = Terms { count: batch, step: words * heads * rows };
            (outer, Terms { count: rows, step: words }, words * rows)
        };
        if let Some(out) = &gradients.dalibi {
            let (outer, inner, head) = over(SUMS);
            self.sum(sums.binding(), out.as_ref(), [1, heads], [1, head, 0], [outer, inner], 1.0)?;
        }
        if let Some(out) = &gradients.dsinks {
            let (outer, inner, head) = over(ROW_WORDS);
            self.sum(
                plan.binding(),
                out.as_ref(),
                [1, heads],
                [self.places.rows + 3, head, 0],
                [outer, inner],
                1.0,
            )?;
        }
        if let Some(out) = &gradients.dscale {
            // The kernels derive by the factor of the square, −gamma.
            let factor = if matches!(problem.score, Score::Gaussian { .. }) { -1.0 } else { 1.0 };
            let terms = [Terms { count: 1, step: 0 }, Terms { count: self.lines, step: SUMS }];
            self.sum(sums.binding(), out.as_ref(), [1, 1], [2, 0, 0], terms, factor)?;
        }
        if let Some(out) = gradients.dw.as_ref().map(|view| view.as_ref()) {
            let (dim, tiles) = (problem.head_dim, problem.q_len.div_ceil(TILE));
            let inner = Terms { count: tiles, step: dim };
            let first = SUMS * self.lines;
            if out.shape().len() == 2 {
                let outer = Terms { count: problem.batch, step: heads * tiles * dim };
                self.sum(sums.binding(), out, [heads, dim], [first, tiles * dim, 1], [outer, inner], 1.0)?;
            } else {
                let outer = Terms { count: self.pairs, step: tiles * dim };
                self.sum(sums.binding(), out, [1, dim], [first, 0, 1], [outer, inner], 1.0)?;
            }
        }
        Ok(())
    }

    /// out[i, j] = factor · Σ Σ source[first + i·step + j·step + …]. For a list of heads, `shape` is `[1, heads]`.
    fn sum(
        &self,
        source: Option<Binding<'_>>,
        out: &TensorRef<'_>,
        shape: [usize; 2],
        steps: [usize; 3],
        terms: [Terms; 2],
        factor: f32,
    ) -> Result<()> {
        let layout = out.layout();
        self.limited("elements of one buffer", layout.end(), u32::MAX as usize)?;
        let (rows, row) =
            if out.shape().len() == 2 { (layout.step(0), layout.step(1)) } else { (0, layout.step(0)) };
        // A list of heads steps by its first step, the weights by both.
        let (first, a, b) = (steps[0], steps[1], steps[2]);
        let (a, b) = if b == 0 { (0, a) } else { (a, b) };
        let params = SumParams {
            shape: [1, shape[0] as u32, shape[1] as u32, 0],
            steps: [first as u32, 0, a as u32, b as u32],
            out: [layout.offset() as u32, 0, rows as u32, row as u32],
            outer: terms[0].count as u32,
            outer_step: terms[0].step as u32,
            inner: terms[1].count as u32,
            inner_step: terms[1].step as u32,
            factor,
            unused: [0; 3],
        };
        let [out] = buffers([Some(out)])?;
        let groups = self.workgroups(shape[0] * shape[1]);
        let bindings = [source, out];
        self.device.launch_parts(&kernels::SUM, &bindings, bytemuck::bytes_of(&params), [groups, 1, 1])
    }
}
