//! Gates of `task_heads` in f64, written as the formulas say. Shares nothing with `src/`.

/// How logits become gates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// g = z.
    Identity,
    /// g = 1/(1 + e^{−z}).
    Sigmoid,
    /// g = e^z / Σ e^z.
    SoftmaxOne,
    /// g = H·e^z / Σ e^z.
    SoftmaxHeads,
    /// Softmax over all heads, then 0 but on the k largest logits (ties go to the lower head); with `renormalise` the
    /// selected ones are divided by their sum.
    TopK {
        /// Heads selected.
        k: usize,
        /// Whether the selected gates add up to 1.
        renormalise: bool,
    },
}

fn softmax(z: &[f64]) -> Vec<f64> {
    let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = z.iter().map(|z| (z - largest).exp()).sum();
    z.iter().map(|z| (z - largest).exp() / total).collect()
}

/// Whether each head is among the k largest; of equal logits the lower head comes first.
pub fn selected(z: &[f64], k: usize) -> Vec<bool> {
    let beaten_by =
        |h: usize| (0..z.len()).filter(|&other| z[other] > z[h] || (z[other] == z[h] && other < h)).count();
    (0..z.len()).map(|h| beaten_by(h) < k).collect()
}

/// Gates of one sample's heads from its logits.
pub fn gates(z: &[f64], activation: Activation) -> Vec<f64> {
    let heads = z.len() as f64;
    match activation {
        Activation::Identity => z.to_vec(),
        Activation::Sigmoid => z.iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect(),
        Activation::SoftmaxOne => softmax(z),
        Activation::SoftmaxHeads => softmax(z).iter().map(|p| heads * p).collect(),
        Activation::TopK { k, renormalise } => {
            let (p, chosen) = (softmax(z), selected(z, k));
            let masked: Vec<f64> = p.iter().zip(&chosen).map(|(&p, &on)| if on { p } else { 0.0 }).collect();
            let total: f64 = masked.iter().sum();
            if renormalise { masked.iter().map(|p| p / total).collect() } else { masked }
        }
    }
}

/// Gradient of the logits from the gradient of the gates: the transposed Jacobian, entry by entry. The selection of the k
/// largest is a constant.
pub fn logit_gradient(z: &[f64], activation: Activation, grad_gates: &[f64]) -> Vec<f64> {
    let heads = z.len();
    let jacobian = |gate: usize, logit: usize| -> f64 {
        let same = if gate == logit { 1.0 } else { 0.0 };
        match activation {
            Activation::Identity => same,
            Activation::Sigmoid => {
                let g = 1.0 / (1.0 + (-z[gate]).exp());
                same * g * (1.0 - g)
            }
            Activation::SoftmaxOne | Activation::SoftmaxHeads => {
                let p = softmax(z);
                let factor = if activation == Activation::SoftmaxHeads { heads as f64 } else { 1.0 };
                factor * p[gate] * (same - p[logit])
            }
            Activation::TopK { k, renormalise } => {
                let chosen = selected(z, k);
                if !chosen[gate] {
                    0.0
                } else if !renormalise {
                    let p = softmax(z);
                    p[gate] * (same - p[logit])
                } else if chosen[logit] {
                    let g = gates(z, activation);
                    g[gate] * (same - g[logit])
                } else {
                    0.0
                }
            }
        }
    };
    (0..heads).map(|logit| (0..heads).map(|gate| jacobian(gate, logit) * grad_gates[gate]).sum()).collect()
}

/// Rows of `[samples, width]` added up by task: `[tasks, width]`. A negative task adds to none.
pub fn sum_by_task(rows: &[f64], width: usize, tasks: usize, task_of: &[i64]) -> Vec<f64> {
    let mut out = vec![0.0; tasks * width];
    for (sample, &task) in task_of.iter().enumerate() {
        for column in 0..width {
            if task >= 0 {
                out[task as usize * width + column] += rows[sample * width + column];
            }
        }
    }
    out
}
