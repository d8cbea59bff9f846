//! The oracle of attention's options against itself: its gradients are central differences of its forward pass.

#[path = "attention_options/case.rs"]
#[allow(dead_code)]
mod case;
#[path = "support/mod.rs"]
mod support;

use case::{Case, option};
use gatewarp::DType;
use support::oracle::central_difference;
use support::oracle_attention::{General, SCORES, Score};
use support::tolerance::{CENTRAL_DIFFERENCE, CENTRAL_DIFFERENCE_STEP};

/// ⟨grad_o, o⟩ + ⟨grad_lse, lse⟩ over the rows that see something.
fn loss(problem: &General, grad_o: &[f64], grad_lse: &[f64]) -> f64 {
    let out = problem.forward();
    let o: f64 = out.o.values.iter().zip(grad_o).map(|(o, g)| o * g).sum();
    let rows = problem.rows().map(|(b, h, i)| problem.row(b, h, i)).filter(|&row| out.lse[row].is_finite());
    o + rows.map(|row| out.lse[row] * grad_lse[row]).sum::<f64>()
}

type Get = fn(&mut General) -> Option<&mut Vec<f64>>;

#[test]
fn gradients_are_central_differences() {
    let inputs: [(&str, Get); 6] = [
        ("dq", |p| Some(&mut p.q)),
        ("dk", |p| Some(&mut p.k)),
        ("dv", |p| Some(&mut p.v)),
        ("dsinks", |p| p.sinks.as_mut()),
        ("dalibi", |p| p.alibi.as_mut()),
        ("dbias", |p| p.bias.as_mut().map(|bias| &mut bias.values)),
    ];
    for seed in 0..120u64 {
        let score = SCORES[seed as usize % SCORES.len()];
        let options = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32 & option::ALL;
        let (q_len, kv_len) = (1 + seed as usize % 4, 1 + seed as usize % 5);
        let case = Case {
            batch: 2,
            kv_heads: 1,
            group: 2,
            q_len,
            kv_len,
            head_dim: 4,
            value_dim: 3,
            score,
            options,
            seed,
        };
        let data = case.data(DType::F64);
        let p = &data.problem;
        let want = p.backward(&data.grad_o, &data.grad_lse);
        let near = |what: &str, got: f64, want: f64| {
            let size = 1.0f64.max(want.abs()) * 40.0;
            assert!(
                (got - want).abs() <= size * CENTRAL_DIFFERENCE,
                "{what} of {case:?}: {got}, expected {want}"
            );
        };
        for (number, (name, get)) in inputs.iter().enumerate() {
            let mut moved = p.clone();
            let Some(values) = get(&mut moved).map(|values| values.clone()) else { continue };
            let gradient = [&want.dq, &want.dk, &want.dv, &want.dsinks, &want.dalibi, &want.dbias][number];
            for at in (0..values.len()).step_by(1 + values.len() / 7) {
                if !values[at].is_finite() {
                    continue;
                }
                let difference = central_difference(&values, at, CENTRAL_DIFFERENCE_STEP, |values| {
                    let mut moved = p.clone();
                    if let Some(slot) = get(&mut moved) {
                        *slot = values.to_vec();
                    }
                    loss(&moved, &data.grad_o, &data.grad_lse)
                });
                near(&format!("{name}[{at}]"), gradient.values[at], difference);
                assert!(
                    gradient.terms[at] + 1e-300 >= gradient.values[at].abs() * 0.99,
                    "{name}[{at}]: terms"
                );
            }
        }
        let scaled = |x: &[f64]| {
            let moved = General { scale: x[0], ..p.clone() };
            loss(&moved, &data.grad_o, &data.grad_lse)
        };
        near(
            "dscale",
            want.dscale.values[0],
            central_difference(&[p.scale], 0, CENTRAL_DIFFERENCE_STEP, scaled),
        );
        if score == Score::Additive {
            for at in 0..p.w.len() {
                let moved = |w: &[f64]| {
                    let moved = General { w: w.to_vec(), ..p.clone() };
                    loss(&moved, &data.grad_o, &data.grad_lse)
                };
                near("dw", want.dw.values[at], central_difference(&p.w, at, CENTRAL_DIFFERENCE_STEP, moved));
            }
        }
    }
}
