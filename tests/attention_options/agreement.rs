//! Every mixture of options against the f64 oracle.

use crate::case::{Case, Data, any_case, case, option};
use crate::launch::{GradientRun, Launch};
use crate::limits::lacking;
use crate::support::devices::TestDevice;
use crate::support::elements::rounded;
use crate::support::oracle_attention::{General, Gradients, SCORES, Score, Summed};
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use crate::support::tolerance;
use gatewarp::{Backend, DType, Device, Error};
use proptest::strategy::Strategy;

/// Compares element by element: the class of each, then the difference.
pub fn close(what: &str, got: &[f64], want: &[f64], allowed: impl Fn(usize) -> f64) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{what}: {} elements, expected {}", got.len(), want.len()));
    }
    let fails = |&i: &usize| {
        let same_class = got[i].is_nan() == want[i].is_nan()
            && (got[i].is_finite() == want[i].is_finite())
            && (got[i].is_finite() || got[i].is_nan() || got[i] == want[i]);
        !same_class || (got[i].is_finite() && !((got[i] - want[i]).abs() <= allowed(i)))
    };
    let failing: Vec<usize> = (0..got.len()).filter(fails).collect();
    let Some(&first) = failing.first() else { return Ok(()) };
    Err(format!(
        "{what}[{first}] = {:e}, expected {:e} within {:e} ({} of {} elements fail)",
        got[first],
        want[first],
        allowed(first),
        failing.len(),
        got.len()
    ))
}

/// The unfused algorithm with everything it stores in `dtype`.
fn plain(problem: &General, dtype: DType) -> General {
    let store = match dtype {
        DType::F16 => |x: f64| rounded(DType::F16, x),
        _ => |x: f64| rounded(DType::BF16, x),
    };
    General { store, ..problem.clone() }
}

/// Checks one tensor: within the bound of its terms for f32 and f64, within twice the unfused algorithm's error for 16 bits.
fn compare(
    what: &str,
    dtype: DType,
    got: &[f64],
    want: &Summed,
    plain: Option<&Summed>,
    factor: f64,
) -> Result<(), String> {
    match plain {
        None => {
            let (unit, tiny) = tolerance::attention_unit(dtype);
            close(what, got, &want.values, |i| factor * unit * want.terms[i] + tiny)
        }
        Some(plain) => {
            let error = |at: usize| {
                let error = (plain.values[at] - want.values[at]).abs();
                if error.is_finite() { error } else { 0.0 }
            };
            let worst = (0..want.values.len()).map(error).fold(0.0, f64::max);
            let (rule, unit) = tolerance::attention_16_bits(dtype);
            close(what, got, &want.values, |i| rule * worst + 1e-5 + unit * want.values[i].abs())
        }
    }
}

/// Forward and, if `gradients`, backward of one case on one device.
pub fn agree(device: &Device, case: &Case, data: &Data, dtype: DType, gradients: bool) -> Result<(), String> {
    let launch = Launch::new(device, dtype, case, data);
    let p = &data.problem;
    if lacking(device.backend(), dtype) {
        return match launch.try_forward() {
            Err(Error::Unsupported { .. }) => Ok(()),
            Err(error) => Err(format!("should be refused as Unsupported, was refused as {error}")),
            Ok(_) => Err("is listed in limits.rs and works: remove it from the list".into()),
        };
    }
    let narrow = matches!(dtype, DType::F16 | DType::BF16);
    let unfused = narrow.then(|| plain(p, dtype));
    let want = p.forward();
    let run = launch.forward()?;
    compare("o", dtype, &run.o, &want.o, unfused.as_ref().map(General::forward).as_ref().map(|o| &o.o), 1.0)?;
    let (unit, tiny) = tolerance::attention_unit(if dtype == DType::F64 { dtype } else { DType::F32 });
    close("lse", &run.lse, &want.lse, |row| {
        let size = if want.lse[row].is_finite() { want.lse[row].abs() } else { 0.0 };
        unit * (want.growth[row] + size) + tiny
    })?;
    if !gradients {
        return Ok(());
    }
    let got = launch.backward(&run)?;
    let want = p.backward(&data.grad_o, &data.grad_lse);
    let unfused = unfused.map(|p| p.backward(&data.grad_o, &data.grad_lse));
    for (name, pick_got, pick) in GRADIENTS {
        let mut want = pick(&want).clone();
        if name == "dw" && case.seed.is_multiple_of(2) {
            want = summed_over_heads(&want, p.head_dim);
        }
        // Gradients of what the call does not have are not asked for.
        let is_absent = match name {
            "dw" => p.score != Score::Additive,
            "dbias" => p.bias.is_none(),
            "dsinks" => p.sinks.is_none(),
            "dalibi" => p.alibi.is_none(),
            _ => false,
        };
        if is_absent {
            continue;
        }
        // Sums over a whole call, or over the rows a bias is repeated along, carry the roundings of what was added up, o among
        // it; the bound of terms is for those. The unfused algorithm's error at one or two such sums is luck.
        let all = p.batch * p.q_heads * p.q_slots * p.kv_slots;
        let sum = matches!(name, "dsinks" | "dalibi" | "dw" | "dscale")
            || (name == "dbias" && want.values.len() < all);
        let plain = unfused.as_ref().map(pick);
        let plain_sum = plain.map(|plain| {
            if name == "dw" && case.seed.is_multiple_of(2) {
                summed_over_heads(plain, p.head_dim)
            } else {
                plain.clone()
            }
        });
        if sum && narrow {
            let unit = if dtype == DType::F16 { 1.0 / 2048.0 } else { 1.0 / 256.0 };
            close(name, pick_got(&got), &want.values, |i| 4.0 * unit * want.terms[i] + 1e-5)?;
            continue;
        }
        compare(name, dtype, pick_got(&got), &want, plain_sum.as_ref(), 4.0)?;
    }
    Ok(())
}

fn summed_over_heads(all: &Summed, dim: usize) -> Summed {
    let sum =
        |values: &[f64]| -> Vec<f64> { (0..dim).map(|d| values.iter().skip(d).step_by(dim).sum()).collect() };
    Summed { values: sum(&all.values), terms: sum(&all.terms) }
}

type Pick<T, U> = fn(&T) -> &U;

type Named = (&'static str, Pick<GradientRun, Vec<f64>>, Pick<Gradients, Summed>);

/// Name, result, oracle's value of each gradient.
const GRADIENTS: [Named; 8] = [
    ("dq", |g| &g.dq, |g| &g.dq),
    ("dk", |g| &g.dk, |g| &g.dk),
    ("dv", |g| &g.dv, |g| &g.dv),
    ("dbias", |g| &g.dbias, |g| &g.dbias),
    ("dsinks", |g| &g.dsinks, |g| &g.dsinks),
    ("dalibi", |g| &g.dalibi, |g| &g.dalibi),
    ("dw", |g| &g.dw, |g| &g.dw),
    ("dscale", |g| &g.dscale, |g| &g.dscale),
];

fn property<S: Strategy<Value = Case>>(
    name: &str,
    device: &TestDevice,
    cases: u32,
    strategy: &S,
    dtype: DType,
) -> Result<(), String> {
    check(name, device, cases, strategy, |handle, case| agree(handle, case, &case.data(dtype), dtype, true))
}

pub fn any_options_are_the_formula(device: &TestDevice) -> Result<(), String> {
    property("any_options_are_the_formula", device, CASES, &any_case(), DType::F32)
}

pub fn every_score_is_its_formula(device: &TestDevice) -> Result<(), String> {
    for score in &SCORES {
        let scores = std::slice::from_ref(score);
        property(
            &format!("every_score {score:?}"),
            device,
            CASES / 4,
            &case(scores, 0, option::SCALE),
            DType::F32,
        )
        .map_err(|error| format!("{score:?}: {error}"))?;
    }
    Ok(())
}

pub fn every_option_is_its_formula(device: &TestDevice) -> Result<(), String> {
    for bit in 0..12 {
        let strategy = case(&[Score::Dot], 1 << bit, option::CAUSAL | option::LENGTHS);
        property(&format!("every_option {bit}"), device, CASES / 4, &strategy, DType::F32)
            .map_err(|error| format!("option {:#b}: {error}", 1 << bit))?;
    }
    Ok(())
}

pub fn f16_is_as_good_as_unfused(device: &TestDevice) -> Result<(), String> {
    property("f16_is_as_good_as_unfused", device, CASES, &any_case(), DType::F16)
}

pub fn bf16_is_as_good_as_unfused(device: &TestDevice) -> Result<(), String> {
    property("bf16_is_as_good_as_unfused", device, CASES, &any_case(), DType::BF16)
}

pub fn f64_is_the_formula(device: &TestDevice) -> Result<(), String> {
    if device.backend() == Backend::Wgpu {
        // SPEC: f64 on cpu and cuda.
        let case = Case {
            batch: 1,
            kv_heads: 1,
            group: 1,
            q_len: 2,
            kv_len: 2,
            head_dim: 2,
            value_dim: 2,
            score: Score::Dot,
            options: 0,
            seed: 1,
        };
        let data = case.data(DType::F32);
        let zeros = gatewarp::Tensor::zeros(device.handle(0), DType::F64, &[1, 1, 2, 2]);
        let refused = zeros.and_then(|x| {
            gatewarp::attention::attention_forward(&x.view(), &x.view(), &x.view(), &Default::default())
        });
        drop(data);
        return match refused {
            Err(Error::Unsupported { .. }) => Ok(()),
            other => Err(format!("f64 on wgpu: {other:?}")),
        };
    }
    property("f64_is_the_formula", device, CASES, &any_case(), DType::F64)
}

/// NaN and ∞ in keys and values that no query sees, under any mask.
pub fn hidden_keys_may_hold_anything(device: &TestDevice) -> Result<(), String> {
    let sometimes = option::ALL & !option::PACKED;
    let strategy = case(&SCORES, option::CAUSAL, sometimes);
    check("hidden_keys_may_hold_anything", device, CASES, &strategy, |handle, case| {
        let mut data = case.data(DType::F32);
        let p = &mut data.problem;
        let bad = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::from(f32::MAX)];
        let mut random = Random::new(case.seed, 77);
        for b in 0..p.batch {
            for kv in 0..p.kv_heads {
                for j in 0..p.kv_slots {
                    let group = p.q_heads / p.kv_heads;
                    let mut heads = kv * group..(kv + 1) * group;
                    if heads.any(|h| (0..p.q_len[b]).any(|i| p.visible(b, h, i, j))) {
                        continue;
                    }
                    let row = (b * p.kv_heads + kv) * p.kv_slots + j;
                    p.k[row * p.head_dim..][..p.head_dim].fill(bad[random.below(4)]);
                    p.v[row * p.value_dim..][..p.value_dim].fill(bad[random.below(4)]);
                }
            }
        }
        agree(handle, case, &data, DType::F32, true)
    })
}

/// One query a head, where heads of a group may share a tile but not what belongs to each of them.
pub fn one_query_of_each_head_keeps_its_own(device: &TestDevice) -> Result<(), String> {
    let strategy =
        case(&SCORES, 0, option::ALIBI | option::SINKS | option::BIAS | option::MASK | option::DROPOUT);
    check("one_query_of_each_head_keeps_its_own", device, CASES / 2, &strategy, |handle, case| {
        let case = Case { q_len: 1, group: 1 + case.group % 4, batch: case.batch.max(1), ..case.clone() };
        agree(handle, &case, &case.data(DType::F32), DType::F32, true)
    })
}

/// FlashAttention's grid of odd lengths, and dimensions beyond the fast kernels.
pub fn odd_lengths_and_large_dims(device: &TestDevice) -> Result<(), String> {
    let small = [
        (1, 1, 64, 64),
        (239, 1, 32, 32),
        (113, 203, 40, 59),
        (3, 7, 512, 512),
        (2, 5, 1000, 24),
        (5, 3, 8, 1000),
    ];
    let large = [(799, 3, 64, 64), (1023, 1024, 16, 16)];
    let sizes = if device.backend() == Backend::Cpu { [&small[..], &large].concat() } else { small.to_vec() };
    for (number, &(q_len, kv_len, head_dim, value_dim)) in sizes.iter().enumerate() {
        for options in [0, option::CAUSAL, option::CAUSAL | option::WINDOW | option::BIAS] {
            let score = if head_dim == 512 { Score::Fidelity } else { Score::Dot };
            let seed = number as u64 + 5;
            let case = Case {
                batch: 1,
                kv_heads: 1,
                group: 1,
                q_len,
                kv_len,
                head_dim,
                value_dim,
                score,
                options,
                seed,
            };
            agree(device.handle(number), &case, &case.data(DType::F32), DType::F32, true)
                .map_err(|error| format!("{case:?}: {error}"))?;
        }
    }
    Ok(())
}
