//! What the oracles say a case gives, with the magnitudes that bound its rounding errors.

use crate::case::{GateCase, GateData};
use crate::support::oracle::{Attention, Forward, Gradients};
use crate::support::oracle_task_heads::{self as oracle, Activation as Formula};
use crate::support::tolerance::{self, TINY, U};
use gatewarp::task_heads::{Activation, NoTask, SoftmaxScale, ZeroGateGrad};

/// Gates of every pair, and the attention under them.
pub struct WantForward {
    /// `[batch, heads]`.
    pub gates: Vec<f64>,
    pub gate_tolerance: Vec<f64>,
    /// The attention problem with the gates as row scale and the zero gates inactive.
    pub problem: Attention,
    pub forward: Forward,
    pub y_tolerance: Vec<f64>,
}

/// Gradients of everything.
pub struct WantBackward {
    pub gradients: Gradients,
    pub dq_tolerance: Vec<f64>,
    pub dk_tolerance: Vec<f64>,
    pub dv_tolerance: Vec<f64>,
    /// Like the logits; of z, `[batch, heads]`, for dynamic gates.
    pub dgate: Vec<f64>,
    pub dgate_tolerance: Vec<f64>,
    /// dx, dweights and dbias, each with its tolerance.
    pub dynamic: Option<[(Vec<f64>, Vec<f64>); 3]>,
}

/// The activation as the oracle knows it.
pub fn formula(activation: Activation) -> Formula {
    match activation {
        Activation::Identity => Formula::Identity,
        Activation::Sigmoid => Formula::Sigmoid,
        Activation::Softmax { scale: SoftmaxScale::One } => Formula::SoftmaxOne,
        Activation::Softmax { scale: SoftmaxScale::Heads } => Formula::SoftmaxHeads,
        Activation::TopK { k, renormalise, shared_heads: shared, .. } => {
            Formula::TopK { k, renormalise, shared }
        }
        Activation::TopP { p } => Formula::TopP { p: p.into() },
        Activation::Threshold { t } => Formula::Threshold { t: t.into() },
        other => unreachable!("{other:?} has no formula here"),
    }
}

/// The largest |logit| of a sample: the exponential's relative error grows with it.
fn reach(z: &[f64]) -> f64 {
    z.iter().fold(0.0, |size, z| z.abs().max(size))
}

/// Relative error of a sample's gates, in units of 16u.
fn growth(case: &GateCase, data: &GateData, sample: usize) -> f64 {
    match (case.activation, data.z(sample)) {
        (Activation::Identity, _) | (_, None) => 0.0,
        (_, Some(z)) => 1.0 + reach(&z),
    }
}

/// Gates of a sample.
pub fn gates_of(case: &GateCase, data: &GateData, sample: usize) -> Vec<f64> {
    match data.z(sample) {
        Some(z) => oracle::gates(&z, formula(case.activation)),
        None => vec![if case.no_task == NoTask::Full { 1.0 } else { 0.0 }; case.heads()],
    }
}

/// Repeats per-pair values over rows of `size`.
fn repeat(values: &[f64], size: usize) -> impl Iterator<Item = f64> + '_ {
    values.iter().flat_map(move |&x| std::iter::repeat_n(x, size))
}

pub fn forward(case: &GateCase, data: &GateData) -> WantForward {
    let mut problem = data.attention.problem.clone();
    let (q_len, value_dim) = (problem.q_len, problem.value_dim);
    let samples = 0..problem.batch;
    let gates: Vec<f64> = samples.clone().flat_map(|b| gates_of(case, data, b)).collect();
    let sample_growth = samples.map(|b| growth(case, data, b));
    let gate_growth: Vec<f64> = sample_growth.flat_map(|g| std::iter::repeat_n(g, case.heads())).collect();
    let gate_tolerance =
        gates.iter().zip(&gate_growth).map(|(g, growth)| 16.0 * U * growth * g.abs() + TINY).collect();
    problem.row_scale = Some(repeat(&gates, q_len).collect());
    problem.active = Some(gates.iter().map(|&g| g != 0.0).collect());
    let mut forward = problem.forward();
    for (lse, gate) in forward.lse.iter_mut().zip(repeat(&gates, q_len)) {
        if gate == 0.0 {
            *lse = f64::NEG_INFINITY;
        }
    }
    let from_gates: Vec<f64> = repeat(&gate_growth, q_len * value_dim).collect();
    let of_attention = tolerance::attention_o(&forward);
    let y_tolerance = of_attention.iter().zip(&forward.o_terms).zip(from_gates);
    let y_tolerance = y_tolerance.map(|((bound, terms), growth)| bound + 16.0 * U * growth * terms).collect();
    WantForward { gates, gate_tolerance, problem, forward, y_tolerance }
}

/// ⟨dy, o⟩ summed over each pair's rows, and its terms: for the active pairs, or for all (exact derivatives of zero gates).
fn gate_gradients(want: &WantForward, grad_y: &[f64], all: bool) -> (Vec<f64>, Vec<f64>) {
    let mut problem = want.problem.clone();
    problem.row_scale = None;
    if all {
        problem.active = None;
    }
    let gradients = problem.backward(grad_y, None);
    let pairs = problem.batch * problem.q_heads;
    let sum = |rows: &[f64]| -> Vec<f64> {
        (0..pairs).map(|pair| rows[pair * problem.q_len..][..problem.q_len].iter().sum()).collect()
    };
    (sum(&gradients.drow_scale), sum(&gradients.drow_scale_terms))
}

/// The Jacobian's magnitude as the subtraction `δ − p·Σδ` rounds: both sides added.
fn jacobian_terms(z: &[f64], activation: Activation, gate_terms: &[f64]) -> Vec<f64> {
    if let Activation::TopK { shared_heads, .. } = activation
        && shared_heads > 0
    {
        let routed = without_shared(activation);
        return [
            vec![0.0; shared_heads],
            jacobian_terms(&z[shared_heads..], routed, &gate_terms[shared_heads..]),
        ]
        .concat();
    }
    let (g, p) = (oracle::gates(z, formula(activation)), oracle::gates(z, Formula::SoftmaxOne));
    let heads = z.len() as f64;
    // Weight of a gate's derivative, and of the mean that every logit receives.
    let weights: Vec<(f64, f64)> = (0..z.len())
        .map(|h| match activation {
            Activation::Identity => (1.0, 0.0),
            Activation::Sigmoid | Activation::Threshold { .. } => (g[h], 0.0),
            Activation::Softmax { scale: SoftmaxScale::Heads } => (heads * p[h], p[h]),
            Activation::TopK { renormalise: true, straight_through: false, .. } => (g[h], g[h]),
            _ => (p[h], p[h]),
        })
        .collect();
    let total: f64 = weights.iter().zip(gate_terms).map(|((w, _), terms)| w * terms).sum();
    weights.iter().zip(gate_terms).map(|((w, mean), terms)| w * terms + mean * total).collect()
}

/// The gate over the routed heads alone.
fn without_shared(activation: Activation) -> Activation {
    match activation {
        Activation::TopK { k, renormalise, straight_through, noise, .. } => {
            Activation::TopK { k, renormalise, straight_through, shared_heads: 0, noise }
        }
        other => other,
    }
}

/// z's gradient of one sample, and its terms.
fn logit_gradient(case: &GateCase, z: &[f64], gate: &[f64], terms: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let gradient = match case.activation {
        // The dense softmax, skipped heads contributing 0.
        Activation::TopK { k, straight_through: true, shared_heads: shared, .. } => {
            let kept = oracle::selected(&z[shared..], k);
            let routed: Vec<f64> =
                gate[shared..].iter().zip(kept).map(|(&x, on)| if on { x } else { 0.0 }).collect();
            [vec![0.0; shared], oracle::logit_gradient(&z[shared..], Formula::SoftmaxOne, &routed)].concat()
        }
        other => oracle::logit_gradient(z, formula(other), gate),
    };
    (gradient, jacobian_terms(z, case.activation, terms))
}

pub fn backward(case: &GateCase, data: &GateData, want: &WantForward) -> WantBackward {
    let grad_y: Vec<f64> = data.attention.grad_o.iter().map(|&x| x.into()).collect();
    let gradients = want.problem.backward(&grad_y, None);
    let exact = case.activation == Activation::Identity && case.zero_gate_grad == ZeroGateGrad::Exact;
    let (gate, gate_terms) = gate_gradients(want, &grad_y, exact);

    let (heads, batch) = (case.heads(), want.problem.batch);
    let (mut dz, mut dz_terms) = (Vec::new(), Vec::new());
    let mut largest = 0.0f64;
    for b in 0..batch {
        let own = b * heads..(b + 1) * heads;
        let Some(z) = data.z(b) else {
            dz.extend(vec![0.0; heads]);
            dz_terms.extend(vec![0.0; heads]);
            continue;
        };
        let (gradient, terms) = logit_gradient(case, &z, &gate[own.clone()], &gate_terms[own]);
        dz.extend(gradient);
        dz_terms.extend(terms);
        largest = largest.max(growth(case, data, b));
    }
    let by_z = (dz.clone(), dz_terms.clone());
    if let (Some(tasks), None) = (case.tasks, case.features) {
        dz = oracle::sum_by_task(&dz, heads, tasks, &data.tasks);
        dz_terms = oracle::sum_by_task(&dz_terms, heads, tasks, &data.tasks);
    }
    // Attention's 4 × 16u on its own terms, once more for the gate that scales the row and that p is made of.
    let bound = |terms: &[f64]| -> Vec<f64> {
        terms.iter().map(|terms| 16.0 * U * (4.0 + 2.0 * largest) * terms + TINY).collect()
    };
    let dynamic = data.dynamic.as_ref().map(|_| {
        let of_terms = dynamic_gradients(case, data, &by_z.1, f64::abs);
        let mut tolerances = of_terms.map(|terms| bound(&terms)).into_iter();
        // Exact factors: the sums over heads and samples round as the others do.
        dynamic_gradients(case, data, &by_z.0, |x| x)
            .map(|want| (want, tolerances.next().unwrap_or_default()))
    });
    WantBackward {
        dynamic,
        dq_tolerance: bound(&gradients.dq_terms),
        dk_tolerance: bound(&gradients.dk_terms),
        dv_tolerance: bound(&gradients.dv_terms),
        dgate_tolerance: bound(&dz_terms),
        dgate: dz,
        gradients,
    }
}

/// dx, dweights and dbias from z's gradient, the factors passed through `of`.
fn dynamic_gradients(case: &GateCase, data: &GateData, dz: &[f64], of: fn(f64) -> f64) -> [Vec<f64>; 3] {
    let Some(d) = &data.dynamic else { return [Vec::new(), Vec::new(), Vec::new()] };
    let (heads, features) = (case.heads(), d.features);
    let mut out = [vec![0.0; d.x.len()], vec![0.0; d.weights.len()], vec![0.0; d.bias.len()]];
    for (b, &task) in data.tasks.iter().enumerate() {
        let Ok(task) = usize::try_from(task) else { continue };
        for h in 0..heads {
            let (row, dz) = (task * heads + h, dz[b * heads + h]);
            for f in 0..features {
                out[0][b * features + f] += dz * of(d.weights[row * features + f].into());
                out[1][row * features + f] += dz * of(d.x[b * features + f].into());
            }
            if let Some(dbias) = out[2].get_mut(row) {
                *dbias += dz;
            }
        }
    }
    out
}
