//! Against the formulas in f64, at the sizes and values that break tiles.

mod formulas;

use super::super::*;
use crate::tensor::{Layout, TensorRef};
use formulas::{Case, Data, Inputs, Outputs};
use formulas::{check, compare, inputs, random, run, run_on, same_bits, with_threads};

#[test]
fn lengths_around_tile_edges_match_the_formulas() {
    for q_len in [1, 2, 15, 16, 17, 63, 64, 65, 130] {
        for slots in [0, 1, 5, 63, 64, 65, 129, 200] {
            for (causal, strided) in [(false, false), (true, true)] {
                check(Case { causal, strided, ..Case::new(1, 1, 1, q_len, slots, 8) });
            }
        }
    }
}

#[test]
fn every_head_dimension_matches_the_formulas() {
    for dim in 1..=128 {
        let value_dim = (dim * 37) % 128 + 1;
        check(Case { value_dim, causal: true, strided: dim % 2 == 0, ..Case::new(1, 2, 1, 19, 70, dim) });
    }
}

#[test]
fn every_instruction_set_matches_the_formulas() {
    #[allow(unused_mut)]
    let mut sets = vec![pulp::Arch::Scalar, pulp::Arch::new()];
    #[cfg(target_arch = "x86_64")]
    sets.extend(pulp::x86::V3::try_new().map(pulp::Arch::V3));
    for arch in sets {
        for (dim, value_dim) in [(5, 12), (33, 17), (64, 64)] {
            let active = Some(vec![true, false, true, true]);
            let case =
                Case { value_dim, causal: true, strided: true, active, ..Case::new(2, 2, 1, 67, 141, dim) };
            let x = inputs(&case);
            compare(&case, &x, &run_on(arch, &case, &x));
        }
    }
}

#[test]
fn options_match_the_formulas() {
    let base = Case { strided: true, ..Case::new(3, 6, 2, 70, 131, 12) };
    for offset in [None, Some(0), Some(-3), Some(-69), Some(-1000), Some(64), Some(i64::MAX), Some(i64::MIN)]
    {
        for lengths in [None, Some(vec![0, 64, 131])] {
            for active in [None, Some((0..18).map(|i| i % 3 == 1 || i > 14).collect())] {
                check(Case {
                    causal: true,
                    offset,
                    lengths: lengths.clone(),
                    active,
                    grad_lse: true,
                    value_dim: 20,
                    ..base.clone()
                });
            }
        }
    }
    check(Case { lengths: Some(vec![1, 65, 130]), ..base.clone() });
    check(Case { active: Some(vec![false; 18]), ..base.clone() });
    for scale in [0.0, -0.7, 3.0] {
        check(Case { scale: Some(scale), ..base.clone() });
    }
}

#[test]
fn extreme_scores_match_the_formulas() {
    for magnitude in [1e-30, 1e2, 1e4] {
        check(Case { magnitude, scale: Some(1.0), causal: true, ..Case::new(1, 2, 2, 66, 133, 16) });
    }
}

#[test]
fn a_query_that_sees_nothing_is_zero_whatever_keys_and_values_hold() {
    let case = Case { causal: true, offset: Some(-70), grad_lse: true, ..Case::new(1, 1, 1, 80, 66, 9) };
    let mut x = inputs(&case);
    x.k.memory.fill(f32::NAN);
    x.v.memory.fill(f32::INFINITY);
    let got = run(&case, &x);
    for i in 0..70 {
        assert_eq!(got.lse.get(&[0, 0, i]), f64::NEG_INFINITY);
        assert!(
            (0..9).all(|d| got.o.get(&[0, 0, i, d]) == 0.0 && got.dq.get(&[0, 0, i, d]) == 0.0),
            "row {i}"
        );
    }
    assert!((70..80).all(|i| got.o.get(&[0, 0, i, 0]).is_nan()));
    for j in 10..66 {
        assert!(
            (0..9).all(|d| got.dk.get(&[0, 0, j, d]) == 0.0 && got.dv.get(&[0, 0, j, d]) == 0.0),
            "key {j}"
        );
    }
}

/// Which elements of each output are NaN or infinite, and the bits of the others.
fn finite_bits(data: &Data) -> Vec<Option<u32>> {
    data.layout.indices().map(|i| data.memory[i]).map(|x| x.is_finite().then_some(x.to_bits())).collect()
}

#[test]
fn a_bad_value_reaches_exactly_the_rows_that_see_it() {
    // The split and the sequential schedule take different paths through the tiles.
    for threads in [1, 3] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 5, 63, 64, 70, 129] {
                let case = Case {
                    causal: true,
                    offset: Some(0),
                    active: (at == 70).then(|| vec![true; 2]),
                    ..Case::new(1, 2, 1, 130, 150, 33)
                };
                let clean = inputs(&case);
                let want = run(&case, &clean);
                let bits = |out: &Outputs, name: &str| {
                    finite_bits(match name {
                        "o" => &out.o,
                        "dq" => &out.dq,
                        "dk" => &out.dk,
                        _ => &out.dv,
                    })
                };
                for input in ["q", "k", "v", "grad"] {
                    let mut x = clean.clone();
                    match input {
                        "q" => x.q.set(&[0, 1, at, 3], bad),
                        "k" => x.k.set(&[0, 0, at, 3], bad),
                        "v" => x.v.set(&[0, 0, at, 3], bad),
                        _ => x.grad.set(&[0, 1, at, 3], bad),
                    }
                    let got = with_threads(threads, || run(&case, &x));
                    let by_key = matches!(input, "k" | "v");
                    // Rows that may differ: queries that see the key; or the one query, and the keys it sees.
                    for (name, heads, rows) in [("o", 2, 130), ("dq", 2, 130), ("dk", 1, 150), ("dv", 1, 150)]
                    {
                        let (got, want) = (bits(&got, name), bits(&want, name));
                        for (index, (got, want)) in got.iter().zip(&want).enumerate() {
                            let (h, row) = (index / 33 / rows % heads, index / 33 % rows);
                            let touched = match (name, by_key) {
                                ("o" | "dq", true) => row >= at,
                                ("o" | "dq", false) => h == 1 && row == at,
                                // A bad key or value spoils every row that sees it, and with them the keys those rows see.
                                (_, true) => row < 130,
                                (_, false) => row <= at,
                            };
                            assert!(
                                touched || got == want,
                                "{bad} in {input}[{at}] leaks to {name} head {h} row {row}"
                            );
                        }
                    }
                    let spoiled =
                        |name: &str, row: usize| bits(&got, name)[(130 + row) * 33..][..33].contains(&None);
                    let seen = match input {
                        // A score of −∞ is a weight of 0, which is a fine thing to be.
                        "k" if bad.is_infinite() => true,
                        "k" | "v" => (at..130).all(|row| spoiled("o", row) && spoiled("dq", row)),
                        "q" => spoiled("o", at) && spoiled("dq", at),
                        _ => spoiled("dq", at) && bits(&got, "dv")[..33].contains(&None),
                    };
                    assert!(seen, "{bad} in {input}[{at}] was lost");
                }
            }
        }
    }
}

#[test]
fn keys_beyond_the_length_are_never_looked_at() {
    let case = Case { lengths: Some(vec![70, 0]), strided: true, ..Case::new(2, 2, 2, 66, 140, 20) };
    let (x, want) = check(case.clone());
    let mut poisoned = x.clone();
    for b in 0..2 {
        for j in case.length(b)..140 {
            for (h, d) in (0..2).flat_map(|h| (0..20).map(move |d| (h, d))) {
                poisoned.k.set(&[b, h, j, d], f32::NAN);
                poisoned.v.set(&[b, h, j, d], f32::INFINITY);
            }
        }
    }
    assert!(same_bits(&run(&case, &poisoned), &want));
}

#[test]
fn inactive_heads_are_not_read() {
    let active = vec![true, false, false, false, false, true, false, false];
    let case = Case { active: Some(active), ..Case::new(2, 4, 2, 70, 90, 16) };
    let (x, want) = check(case.clone());
    let mut poisoned = x.clone();
    for (b, h) in [(0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)] {
        for (i, d) in (0..70).flat_map(|i| (0..16).map(move |d| (i, d))) {
            poisoned.q.set(&[b, h, i, d], f32::NAN);
            poisoned.grad.set(&[b, h, i, d], f32::NAN);
        }
    }
    for (j, d) in (0..90).flat_map(|j| (0..16).map(move |d| (j, d))) {
        for (b, h) in [(0, 1), (1, 1)] {
            poisoned.k.set(&[b, h, j, d], f32::NAN);
            poisoned.v.set(&[b, h, j, d], f32::NAN);
        }
    }
    assert!(same_bits(&run(&case, &poisoned), &want));
}

#[test]
fn threads_and_schedules_change_no_bit() {
    for causal in [false, true] {
        for active in [None, Some(vec![true, true, false, true])] {
            let case = Case { causal, active, grad_lse: true, ..Case::new(1, 4, 2, 300, 333, 40) };
            let x = inputs(&case);
            let want = with_threads(1, || run(&case, &x));
            for threads in [2, 3, 5, 8] {
                assert!(
                    same_bits(&with_threads(threads, || run(&case, &x)), &want),
                    "{threads} threads, {case:?}"
                );
            }
        }
    }
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let case = Case { causal: true, ..Case::new(5, 2, 1, 130, 140, 24) };
    let x = inputs(&case);
    let all = run(&case, &x);
    let alone = Case { batch: 1, ..case.clone() };
    for b in 0..5 {
        let part = |data: &Data| {
            let size = data.layout.len() / 5;
            let layout = Layout::contiguous(&[&[1], &data.layout.shape()[1..]].concat()).unwrap();
            Data { memory: data.memory[b * size..(b + 1) * size].to_vec(), layout }
        };
        let one = Inputs {
            q: part(&x.q),
            k: part(&x.k),
            v: part(&x.v),
            grad: part(&x.grad),
            grad_lse: part(&x.grad_lse),
            row_scale: part(&x.row_scale),
        };
        let got = run(&alone, &one);
        for (all, one) in [(&all.o, &got.o), (&all.dq, &got.dq), (&all.dk, &got.dk), (&all.dv, &got.dv)] {
            assert_eq!(part(all).bits(), one.bits());
        }
    }
}

#[test]
fn each_gradient_alone_has_the_same_bits() {
    let case = Case { causal: true, ..Case::new(1, 2, 1, 90, 100, 24) };
    let (x, got) = check(case);
    let options = AttentionOptions { causal: true, ..Default::default() };
    let saved =
        AttentionSaved { o: got.o.view(), lse: got.lse.view(), grad_o: x.grad.view(), grad_lse: None };
    for mask in 0..8 {
        let want =
            WantGradients { dq: mask & 1 != 0, dk: mask & 2 != 0, dv: mask & 4 != 0, ..WantGradients::NONE };
        let gradients =
            attention_backward(&x.q.view(), &x.k.view(), &x.v.view(), &saved, &options, want).unwrap();
        for (wanted, gradient, all) in [
            (want.dq, gradients.dq, &got.dq),
            (want.dk, gradients.dk, &got.dk),
            (want.dv, gradients.dv, &got.dv),
        ] {
            assert_eq!(gradient.is_some(), wanted);
            if let Some(gradient) = gradient {
                let bits: Vec<u32> = gradient.to_vec::<f32>().unwrap().iter().map(|x| x.to_bits()).collect();
                assert_eq!(bits, all.bits(), "{want:?}");
            }
        }
    }
}

#[test]
fn repeated_inputs_need_no_copy() {
    // One key head and one row scale for the whole batch, by strides of 0.
    let (k, r) = (random(70 * 8, 2, 1.0), [0.5f32]);
    let q = random(2 * 3 * 20 * 8, 1, 1.0);
    let shape = [2, 3, 70, 8];
    let repeated = TensorRef::strided(&k, Layout::new(&shape, &[0, 0, 8, 1], 0).unwrap()).unwrap();
    let copied: Vec<f32> = k.iter().copied().cycle().take(6 * 70 * 8).collect();
    let dense = TensorRef::from_slice(&copied, &shape).unwrap();
    let q = TensorRef::from_slice(&q, &[2, 3, 20, 8]).unwrap();
    let options = AttentionOptions::default();
    let a = attention_forward(&q, &repeated, &repeated, &options).unwrap();
    let b = attention_forward(&q, &dense, &dense, &options).unwrap();
    assert_eq!(a.o.to_vec::<f32>().unwrap(), b.o.to_vec::<f32>().unwrap());
    let (order, kv_order, counts, active) =
        ([0u32, 1, 2, 3, 4, 5], [0u32, 1, 2, 3, 4, 5], [6u32, 6], [1u32; 6]);
    let heads = ActiveHeads {
        order: TensorRef::from_slice(&order, &[6]).unwrap(),
        kv_order: TensorRef::from_slice(&kv_order, &[6]).unwrap(),
        counts: TensorRef::from_slice(&counts, &[2]).unwrap(),
        active: TensorRef::from_slice(&active, &[2, 3]).unwrap(),
        row_scale: TensorRef::strided(&r, Layout::new(&[2, 3, 20], &[0, 0, 0], 0).unwrap()).unwrap(),
    };
    let halved =
        attention_forward(&q, &dense, &dense, &AttentionOptions { heads: Some(heads), ..options }).unwrap();
    let want: Vec<f32> = b.o.to_vec::<f32>().unwrap().iter().map(|x| x * 0.5).collect();
    assert_eq!(halved.o.to_vec::<f32>().unwrap(), want);
}

#[test]
fn a_broken_list_of_heads_is_an_error() {
    let data = vec![0.5f32; 4 * 8];
    let x = TensorRef::from_slice(&data, &[1, 4, 1, 8]).unwrap();
    let (kv_order, active, r) = ([0u32, 1, 2, 3], [1u32; 4], [1f32; 4]);
    for (order, count) in [([0u32, 0, 1, 2], 2), ([1, 0, 2, 3], 2), ([0, 1, 2, 4], 4), ([0, 1, 2, 3], 5)] {
        let counts = [count, 4u32];
        let heads = ActiveHeads {
            order: TensorRef::from_slice(&order, &[4]).unwrap(),
            kv_order: TensorRef::from_slice(&kv_order, &[4]).unwrap(),
            counts: TensorRef::from_slice(&counts, &[2]).unwrap(),
            active: TensorRef::from_slice(&active, &[1, 4]).unwrap(),
            row_scale: TensorRef::from_slice(&r, &[1, 4, 1]).unwrap(),
        };
        let options = AttentionOptions { heads: Some(heads), ..Default::default() };
        let error = attention_forward(&x, &x, &x, &options).unwrap_err();
        assert!(matches!(error, crate::Error::InvalidArgument { .. }), "{error}");
    }
}
