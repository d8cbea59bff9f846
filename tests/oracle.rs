//! The oracles and the comparison are themselves checked: against definitions written another way, against central
//! differences, and against values known by hand.

mod support;

use num_complex::Complex64 as C;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use support::attention_case::{Case, Offset, any_case, widen};
use support::compare::{close, close_norm, same_bits};
use support::oracle::{Attention, central_difference};
use support::oracle_statevec::{self as gates, Operation, Pauli};
use support::oracle_task_heads::{Activation, gates as task_gates, logit_gradient, sum_by_task};
use support::random::Random;
use support::tolerance::{CENTRAL_DIFFERENCE, CENTRAL_DIFFERENCE_STEP};

fn small_case(seed: u64) -> Case {
    Case {
        batch: 2,
        kv_heads: 2,
        group: 2,
        q_len: 3,
        kv_slots: 5,
        head_dim: 3,
        value_dim: 2,
        causal: seed.is_multiple_of(2),
        scale: None,
        offset: Offset::PerSample,
        own_lengths: true,
        logits: 1.5,
        seed,
    }
}

fn assert_near(got: f64, want: f64, what: &str) {
    assert!(
        (got - want).abs() <= CENTRAL_DIFFERENCE * want.abs().max(1.0),
        "{what}: {got} instead of {want}"
    );
}

#[test]
fn attention_of_two_keys_by_hand() {
    // Scores 0 and ln 3: weights 1/4 and 3/4.
    let problem = Attention {
        batch: 1,
        q_heads: 1,
        kv_heads: 1,
        q_len: 2,
        kv_slots: 3,
        head_dim: 1,
        value_dim: 1,
        scale: 1.0,
        causal: true,
        offset: vec![-1],
        kv_len: vec![2],
        q: vec![f64::NAN, 1.0],
        k: vec![0.0, f64::NAN, f64::NAN],
        v: vec![5.0, f64::INFINITY, f64::NAN],
        row_scale: None,
        active: None,
    };
    let out = problem.forward();
    assert_eq!(
        (out.o, out.lse),
        (vec![0.0, 5.0], vec![f64::NEG_INFINITY, 0.0]),
        "row 0 sees nothing, row 1 one key"
    );
    let both = Attention {
        offset: vec![1],
        q: vec![1.0, 1.0],
        k: vec![0.0, 3f64.ln(), f64::NAN],
        v: vec![4.0, 8.0, f64::NAN],
        ..problem
    };
    let out = both.forward();
    for row in 0..2 {
        assert_near(out.o[row], 7.0, "o");
        assert_near(out.lse[row], 4f64.ln(), "lse");
    }
}

#[test]
fn attention_gradients_are_central_differences() {
    for seed in 0..6 {
        let mut data = small_case(seed).data();
        let rows = data.grad_lse.len();
        data.problem.row_scale = Some(widen(&Random::new(seed, 99).values(rows, 1.0)));
        let (grad_o, grad_lse) = (widen(&data.grad_o), widen(&data.grad_lse));
        let loss = |problem: &Attention| -> f64 {
            let out = problem.forward();
            let o: f64 = out.o.iter().zip(&grad_o).map(|(x, g)| x * g).sum();
            // A row without keys has lse = −∞ whatever the inputs: no derivative.
            let lse = out.lse.iter().zip(&grad_lse).filter(|(x, _)| x.is_finite()).map(|(x, g)| x * g);
            o + lse.sum::<f64>()
        };
        let want = data.problem.backward(&grad_o, Some(&grad_lse));
        let check = |what: &str, x: &[f64], gradient: &[f64], with: &dyn Fn(&[f64]) -> Attention| {
            assert_eq!(x.len(), gradient.len());
            for at in 0..x.len() {
                let slope = central_difference(x, at, CENTRAL_DIFFERENCE_STEP, |x| loss(&with(x)));
                assert_near(gradient[at], slope, &format!("{what}[{at}] of seed {seed}"));
            }
        };
        let p = &data.problem;
        check("dq", &p.q, &want.dq, &|x| Attention { q: x.to_vec(), ..p.clone() });
        check("dk", &p.k, &want.dk, &|x| Attention { k: x.to_vec(), ..p.clone() });
        check("dv", &p.v, &want.dv, &|x| Attention { v: x.to_vec(), ..p.clone() });
        let scales = p.row_scale.clone().unwrap();
        check("drow_scale", &scales, &want.drow_scale, &|x| Attention {
            row_scale: Some(x.to_vec()),
            ..p.clone()
        });
    }
}

#[test]
fn attention_terms_bound_their_values() {
    for seed in 0..20 {
        let data = small_case(seed).data();
        let out = data.problem.forward();
        let grads = data.problem.backward(&widen(&data.grad_o), Some(&widen(&data.grad_lse)));
        let pairs = [
            (&out.o, &out.o_terms),
            (&grads.dq, &grads.dq_terms),
            (&grads.dk, &grads.dk_terms),
            (&grads.dv, &grads.dv_terms),
            (&grads.drow_scale, &grads.drow_scale_terms),
        ];
        for (values, terms) in pairs {
            assert!(values.iter().zip(terms).all(|(x, t)| x.abs() <= t * (1.0 + 1e-12)), "seed {seed}");
        }
    }
}

#[test]
fn attention_cases_cover_what_they_promise() {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[3; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let cases: Vec<Case> = (0..512).map(|_| any_case().new_tree(&mut runner).unwrap().current()).collect();
    let share = |what: &str, least: f64, holds: &dyn Fn(&Case) -> bool| {
        let share = cases.iter().filter(|case| holds(case)).count() as f64 / cases.len() as f64;
        assert!(share >= least, "{what}: {share} of the cases, promised {least}");
    };
    share("three tiles in both directions", 0.2, &Case::spans_three_tiles);
    share("a sample without keys", 0.1, &|c| c.kv_slots > 0 && c.kv_len().contains(&0));
    share("grouped queries", 0.3, &|c| c.group > 1);
    share("head and value dimensions differ", 0.5, &|c| c.head_dim != c.value_dim);
    share("a head dimension above 64", 0.1, &|c| c.head_dim > 64);
    share("causal", 0.3, &|c| c.causal);
    share("a query before every key", 0.05, &|c| c.causal && c.offsets().iter().any(|&o| o < 0));
    share("scores of ten thousand", 0.05, &|c| c.logits > 1e3);
    share("a dimension of 0", 0.02, &|c| c.batch * c.q_len * c.kv_slots == 0);
    share("keys shared by the batch", 0.02, &|c| c.batch > 1 && c.data().shared_keys);
}

#[test]
fn task_gate_gradients_are_central_differences() {
    let activations = [
        Activation::Identity,
        Activation::Sigmoid,
        Activation::SoftmaxOne,
        Activation::SoftmaxHeads,
        Activation::TopK { k: 2, renormalise: true, shared: 0 },
        Activation::TopK { k: 3, renormalise: false, shared: 0 },
    ];
    for (seed, activation) in (0..).zip(activations) {
        let mut random = Random::new(seed, 0);
        let (z, weight) = (widen(&random.values(5, 2.0)), widen(&random.values(5, 1.0)));
        let gradient = logit_gradient(&z, activation, &weight);
        let loss = |z: &[f64]| task_gates(z, activation).iter().zip(&weight).map(|(g, w)| g * w).sum();
        for head in 0..5 {
            let slope = central_difference(&z, head, CENTRAL_DIFFERENCE_STEP, loss);
            assert_near(gradient[head], slope, &format!("{activation:?} head {head}"));
        }
    }
}

#[test]
fn task_gates_by_hand() {
    let near =
        |got: Vec<f64>, want: &[f64]| got.iter().zip(want).for_each(|(&g, &w)| assert_near(g, w, "gate"));
    let z = [2f64.ln(), 0.0, 2f64.ln(), 0.0];
    near(task_gates(&z, Activation::SoftmaxOne), &[1.0 / 3.0, 1.0 / 6.0, 1.0 / 3.0, 1.0 / 6.0]);
    near(task_gates(&z, Activation::SoftmaxHeads), &[4.0 / 3.0, 2.0 / 3.0, 4.0 / 3.0, 2.0 / 3.0]);
    near(
        task_gates(&z, Activation::TopK { k: 3, renormalise: false, shared: 0 }),
        &[1.0 / 3.0, 1.0 / 6.0, 1.0 / 3.0, 0.0],
    );
    near(task_gates(&z, Activation::TopK { k: 3, renormalise: true, shared: 0 }), &[0.4, 0.2, 0.4, 0.0]);
    near(task_gates(&[0.0], Activation::Sigmoid), &[0.5]);
    assert_eq!(
        sum_by_task(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0], 2, 3, &[2, -1, 2]),
        [0.0, 0.0, 0.0, 0.0, 17.0, 34.0]
    );
}

/// The Kronecker product of one 2×2 matrix for each qubit; the last qubit is the most significant.
fn kronecker(factors: &[Vec<C>]) -> Vec<C> {
    let size = 1usize << factors.len();
    let entry = |row: usize, column: usize| {
        factors.iter().enumerate().map(|(q, m)| m[(row >> q & 1) * 2 + (column >> q & 1)]).product::<C>()
    };
    (0..size * size).map(|at| entry(at / size, at % size)).collect()
}

#[test]
fn statevec_operations_are_kronecker_products() {
    let identity = || vec![C::ONE, C::ZERO, C::ZERO, C::ONE];
    let u = gates::u3(0.7, -1.1, 2.3);
    for target in 0..3 {
        let factors: Vec<_> = (0..3).map(|q| if q == target { u.clone() } else { identity() }).collect();
        let dense = kronecker(&factors);
        let operation = Operation::new(u.clone(), &[target]);
        for at in 0..64 {
            assert_eq!(operation.entry(at / 8, at % 8), dense[at]);
        }
    }
    // A controlled gate is |0⟩⟨0| ⊗ 1 + |1⟩⟨1| ⊗ U, and the other way round for a control on 0.
    let (off, on) = (
        gates::phase(0.0).iter().zip([1.0, 0.0, 0.0, 0.0]).map(|(a, b)| a * b).collect::<Vec<_>>(),
        vec![C::ZERO, C::ZERO, C::ZERO, C::ONE],
    );
    for (value, idle, active) in [(true, &off, &on), (false, &on, &off)] {
        let dense: Vec<C> = kronecker(&[identity(), identity(), idle.clone()])
            .iter()
            .zip(kronecker(&[u.clone(), identity(), active.clone()]))
            .map(|(a, b)| a + b)
            .collect();
        let operation = Operation::new(u.clone(), &[0]).controlled(2, value);
        for at in 0..64 {
            assert_eq!(operation.entry(at / 8, at % 8), dense[at]);
        }
    }
    // The first target is the least significant bit: a product matrix on (2, 0) is its factors on 2 and on 0.
    let pair = kronecker(&[u.clone(), gates::sx()]);
    let state: Vec<C> = (0..8).map(|i| C::new(i as f64, 1.0 - i as f64)).collect();
    let at_once = Operation::new(pair, &[2, 0]).apply(&state);
    let one_by_one = gates::run(&[Operation::new(u, &[2]), Operation::new(gates::sx(), &[0])], &state);
    let distance: f64 = at_once.iter().zip(&one_by_one).map(|(a, b)| (a - b).norm()).sum();
    assert!(distance < 1e-13, "{distance}");
}

#[test]
fn statevec_gates_are_the_textbook_ones() {
    let all = [
        gates::x(),
        gates::y(),
        gates::z(),
        gates::h(),
        gates::s(),
        gates::t(),
        gates::sx(),
        gates::phase(0.4),
        gates::rx(0.4),
        gates::ry(0.4),
        gates::rz(0.4),
        gates::u3(0.4, 1.0, -2.0),
        gates::swap(),
        gates::iswap(),
        gates::rxx(0.4),
        gates::ryy(0.4),
        gates::rzz(0.4),
    ];
    let product = |a: &[C], b: &[C]| -> Vec<C> {
        let n = a.len().isqrt();
        (0..n * n).map(|at| (0..n).map(|k| a[at / n * n + k] * b[k * n + at % n]).sum()).collect()
    };
    let near = |a: &[C], b: &[C]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).norm() < 1e-14);
    for (number, gate) in all.iter().enumerate() {
        let n = gate.len().isqrt();
        let identity: Vec<C> = (0..n * n).map(|at| if at / n == at % n { C::ONE } else { C::ZERO }).collect();
        assert!(near(&product(gate, &gates::inverse(gate)), &identity), "gate {number} is not unitary");
    }
    assert!(near(&product(&gates::sx(), &gates::sx()), &gates::x()));
    assert!(near(&product(&gates::t(), &gates::t()), &gates::s()));
    assert!(near(&product(&gates::s(), &gates::s()), &gates::z()));
    assert!(near(&gates::u3(std::f64::consts::FRAC_PI_2, 0.0, std::f64::consts::PI), &gates::h()));
    assert!(near(&gates::u3(0.9, 0.0, 0.0), &gates::ry(0.9)));
    let rotation = |p: &[C]| -> Vec<C> { p.iter().map(|&a| -C::I * a).collect() };
    assert!(near(&gates::rx(std::f64::consts::PI), &rotation(&gates::x())));
    assert!(near(&gates::rzz(std::f64::consts::PI), &rotation(&kronecker(&[gates::z(), gates::z()]))));
    assert!(near(&gates::ryy(std::f64::consts::PI), &rotation(&kronecker(&[gates::y(), gates::y()]))));
}

#[test]
fn statevec_readouts_of_a_bell_pair() {
    let circuit = [Operation::new(gates::h(), &[0]), Operation::new(gates::x(), &[1]).controlled(0, true)];
    let state = gates::run(&circuit, &gates::zero_state(2));
    let expected = [0.5, 0.0, 0.0, 0.5];
    gates::probabilities(&state)
        .iter()
        .zip(expected)
        .for_each(|(&p, want)| assert_near(p, want, "probability"));
    assert_near(gates::pauli_expectation(&state, &[(0, Pauli::Z)]), 0.0, "Z");
    assert_near(gates::pauli_expectation(&state, &[(0, Pauli::Z), (1, Pauli::Z)]), 1.0, "ZZ");
    assert_near(gates::pauli_expectation(&state, &[(0, Pauli::X), (1, Pauli::X)]), 1.0, "XX");
    assert_near(gates::pauli_expectation(&state, &[(0, Pauli::Y), (1, Pauli::Y)]), -1.0, "YY");
    assert_near(gates::pauli_expectation(&state, &[]), 1.0, "norm");
}

#[test]
fn comparison_rejects_what_a_difference_would_let_pass() {
    let one = [1.0];
    assert!(close("x", &[f32::NAN], &one, &one).is_err());
    assert!(close("x", &[1.0], &[f64::NAN], &one).is_err());
    assert!(close("x", &[f32::INFINITY], &[f64::NEG_INFINITY], &one).is_err());
    assert!(close("x", &[1.0], &[1.0, 1.0], &[1.0, 1.0]).is_err());
    assert!(close("x", &[1.5], &one, &[0.1]).is_err());
    assert!(close("x", &[1.5], &one, &[f64::NAN]).is_err());
    assert!(close("x", &[1.5], &one, &[0.0]).is_err());
    assert!(same_bits("x", &[0.0], &[-0.0]).is_err());
    assert!(same_bits("x", &[], &[1.0]).is_err());
    assert!(close_norm("x", &[f32::NAN], &one, 1.0).is_err());
    assert!(close_norm("x", &[3.0, 4.0], &[0.0, 0.0], 4.9).is_err());
    assert!(close_norm("x", &[3.0], &[3.0, 0.0], 1.0).is_err());
}

#[test]
fn comparison_accepts_equal_classes_and_small_differences() {
    assert_eq!(close("x", &[f32::NAN, f32::INFINITY], &[f64::NAN, f64::INFINITY], &[0.0, 0.0]), Ok(0.0));
    assert_eq!(close("x", &[1.25], &[1.0], &[0.5]), Ok(0.5));
    assert_eq!(close::<f32>("x", &[], &[], &[]), Ok(0.0));
    assert_eq!(same_bits("x", &[f32::NAN, 2.0], &[-f32::NAN, 2.0]), Ok(()));
    assert_eq!(close_norm("x", &[3.0, 4.0], &[0.0, 0.0], 5.0), Ok(1.0));
}

#[test]
fn comparison_names_the_worst_element() {
    let message = close("x", &[1.0, 3.0, 2.0], &[1.0; 3], &[0.5; 3]).unwrap_err();
    assert!(message.contains("x[1]") && message.contains("2 of 3"), "{message}");
}
