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
        /// The first ones have gate 1; the others are selected from.
        shared: usize,
    },
    /// Softmax, then 0 but on the largest whose sum reaches `p`.
    TopP {
        /// Share kept.
        p: f64,
    },
    /// Sigmoid, 0 below `t`.
    Threshold {
        /// Smallest gate.
        t: f64,
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

/// Whether each head is among the largest whose probabilities reach `p`: those before it do not.
fn within(z: &[f64], p: f64) -> Vec<bool> {
    let probabilities = softmax(z);
    let mut order: Vec<usize> = (0..z.len()).collect();
    order.sort_by(|&a, &b| z[b].total_cmp(&z[a]).then(a.cmp(&b)));
    let (mut kept, mut sum) = (vec![false; z.len()], 0.0);
    for head in order {
        kept[head] = sum < p || p >= 1.0;
        sum += probabilities[head];
    }
    kept
}

/// Which gates are not 0 by selection.
fn chosen(z: &[f64], activation: Activation) -> Vec<bool> {
    match activation {
        Activation::TopK { k, .. } => selected(z, k),
        Activation::TopP { p } => within(z, p),
        Activation::Threshold { t } => z.iter().map(|z| 1.0 / (1.0 + (-z).exp()) >= t).collect(),
        _ => vec![true; z.len()],
    }
}

fn masked(values: &[f64], mask: &[bool]) -> Vec<f64> {
    values.iter().zip(mask).map(|(&x, &on)| if on { x } else { 0.0 }).collect()
}

/// Gates of one sample's heads from its logits.
pub fn gates(z: &[f64], activation: Activation) -> Vec<f64> {
    let heads = z.len() as f64;
    match activation {
        Activation::Identity => z.to_vec(),
        Activation::Sigmoid => z.iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect(),
        Activation::SoftmaxOne => softmax(z),
        Activation::SoftmaxHeads => softmax(z).iter().map(|p| heads * p).collect(),
        Activation::TopK { shared, k, renormalise } if shared > 0 => {
            let routed = gates(&z[shared..], Activation::TopK { shared: 0, k, renormalise });
            [vec![1.0; shared], routed].concat()
        }
        Activation::TopK { renormalise, .. } => {
            let kept = masked(&softmax(z), &chosen(z, activation));
            let total: f64 = kept.iter().sum();
            if renormalise { kept.iter().map(|p| p / total).collect() } else { kept }
        }
        Activation::TopP { .. } => masked(&softmax(z), &chosen(z, activation)),
        Activation::Threshold { .. } => masked(&gates(z, Activation::Sigmoid), &chosen(z, activation)),
    }
}

/// Gradient of the logits from the gradient of the gates: the transposed Jacobian, entry by entry. The selection of the k
/// largest is a constant.
pub fn logit_gradient(z: &[f64], activation: Activation, grad_gates: &[f64]) -> Vec<f64> {
    if let Activation::TopK { shared, k, renormalise } = activation
        && shared > 0
    {
        let routed = Activation::TopK { shared: 0, k, renormalise };
        return [vec![0.0; shared], logit_gradient(&z[shared..], routed, &grad_gates[shared..])].concat();
    }
    let heads = z.len();
    let chosen = chosen(z, activation);
    let jacobian = |gate: usize, logit: usize| -> f64 {
        let same = if gate == logit { 1.0 } else { 0.0 };
        match activation {
            Activation::Identity => same,
            Activation::Threshold { .. } if !chosen[gate] => 0.0,
            Activation::Sigmoid | Activation::Threshold { .. } => {
                let g = 1.0 / (1.0 + (-z[gate]).exp());
                same * g * (1.0 - g)
            }
            Activation::TopP { .. } => {
                let p = softmax(z);
                if chosen[gate] { p[gate] * (same - p[logit]) } else { 0.0 }
            }
            Activation::SoftmaxOne | Activation::SoftmaxHeads => {
                let p = softmax(z);
                let factor = if activation == Activation::SoftmaxHeads { heads as f64 } else { 1.0 };
                factor * p[gate] * (same - p[logit])
            }
            Activation::TopK { renormalise, .. } => {
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

/// Noise of deviation 1 of an element: four 24-bit uniform numbers, less their mean, over the root of their variance.
pub fn noise(seed: u64, offset: u64, element: u64) -> f64 {
    let word = |i| super::philox::philox_word(seed, offset, 4 * element + i);
    let sum: f64 = (0..4).map(|i| f64::from(word(i) >> 8) / f64::from(1u32 << 24)).sum();
    (sum - 2.0) * 3f64.sqrt()
}
