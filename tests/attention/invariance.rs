//! Bits: they depend on the sample alone, not on neighbours, threads, schedules, or what else was asked for.

use crate::launch::{ForwardRun, GradientRun, Launch};
use crate::support::attention_case::{Case, Data, Offset, Stream, any_case, non_empty_case};
use crate::support::compare::same_bits;
use crate::support::devices::TestDevice;
use crate::support::property::{CASES, check};
use gatewarp::attention::{
    AttentionOptions, AttentionSaved, QueryOffset, WantGradients, attention_backward, attention_forward,
};
use gatewarp::{Backend, Device, Tensor};
use proptest::strategy::Strategy;
use rayon::{ThreadPool, ThreadPoolBuilder};

type Both = (ForwardRun, GradientRun);

/// Sample `b` of `[batch, …]` values.
fn sample(values: &[f32], batch: usize, b: usize) -> &[f32] {
    let size = values.len() / batch;
    &values[b * size..][..size]
}

/// Name and values of every output.
fn outputs(run: &Both) -> [(&'static str, &[f32]); 5] {
    [
        ("o", &run.0.o),
        ("lse", &run.0.lse),
        ("dq", run.1.dq.as_deref().unwrap_or(&[])),
        ("dk", run.1.dk.as_deref().unwrap_or(&[])),
        ("dv", run.1.dv.as_deref().unwrap_or(&[])),
    ]
}

pub fn a_sample_does_not_see_its_batch(device: &TestDevice) -> Result<(), String> {
    let strategy = (non_empty_case(), 2usize..=4).prop_map(|(mut case, batch)| {
        if case.batch < 2 && !case.spans_three_tiles() {
            case.batch = batch;
        }
        case
    });
    check("a_sample_does_not_see_its_batch", device, CASES, &strategy, |handle, case| {
        let data = case.data();
        let mut random = case.random(Stream::Places);
        let chosen = random.below(case.batch);
        // Alone, and between two copies of another sample.
        let other = random.below(case.batch);
        let whole = Launch::new(handle, &data, case.seed).both()?;
        for order in [vec![chosen], vec![other, chosen, other]] {
            let part = Launch::new(handle, &data.samples(&order), case.seed ^ 1).both()?;
            let place = order.len() / 2;
            for ((name, got), (_, want)) in outputs(&part).into_iter().zip(outputs(&whole)) {
                let what = format!("{name} of sample {chosen} in {order:?}");
                same_bits(&what, sample(got, order.len(), place), sample(want, case.batch, chosen))?;
            }
        }
        Ok(())
    })
}

fn compare(what: &str, again: &Both, first: &Both) -> Result<(), String> {
    let pairs = outputs(again).into_iter().zip(outputs(first));
    pairs.into_iter().try_for_each(|((name, got), (_, want))| same_bits(&format!("{name} {what}"), got, want))
}

/// A run inside a pool of its own, which `install` hands over whole.
fn in_pool(pool: &ThreadPool, device: &Device, data: &Data, seed: u64) -> Result<Both, String> {
    pool.install(|| Launch::new(device, data, seed).both())
}

/// Twice on the same device; on the CPU with other numbers of threads, on the emulator under another schedule.
pub fn the_same_bits_every_time(device: &TestDevice) -> Result<(), String> {
    let pool =
        |threads: usize| ThreadPoolBuilder::new().num_threads(threads).build().map_err(|e| e.to_string());
    let pools = [1, 2, 3, 7].into_iter().map(pool).collect::<Result<Vec<_>, _>>()?;
    check("the_same_bits_every_time", device, CASES, &any_case(), |handle, case| {
        let data = case.data();
        let first = Launch::new(handle, &data, case.seed).both()?;
        if device.backend() == Backend::Cpu {
            let pool = &pools[case.random(Stream::Places).below(pools.len())];
            let again = in_pool(pool, handle, &data, case.seed)?;
            return compare(&format!("with {} threads", pool.current_num_threads()), &again, &first);
        }
        let turn = case.random(Stream::Places).below(device.handles.len().max(2));
        let again = Launch::new(device.handle(turn), &data, case.seed).both()?;
        compare(&format!("on {} after {}", device.handle(turn).name(), handle.name()), &again, &first)
    })
}

pub fn gradients_not_asked_for_change_nothing(device: &TestDevice) -> Result<(), String> {
    check("gradients_not_asked_for_change_nothing", device, CASES, &any_case(), |handle, case| {
        let launch = Launch::new(handle, &case.data(), case.seed);
        let forward = launch.forward()?;
        let all = launch.backward(&forward, WantGradients::default())?;
        let choice = 1 + case.random(Stream::Places).below(6);
        let want = WantGradients {
            dq: choice & 1 != 0,
            dk: choice & 2 != 0,
            dv: choice & 4 != 0,
            ..WantGradients::NONE
        };
        let some = launch.backward(&forward, want)?;
        let pairs = [
            ("dq", want.dq, &some.dq, &all.dq),
            ("dk", want.dk, &some.dk, &all.dk),
            ("dv", want.dv, &some.dv, &all.dv),
        ];
        for (name, wanted, got, whole) in pairs {
            match (wanted, got, whole) {
                (true, Some(got), Some(whole)) => same_bits(&format!("{name} of {want:?}"), got, whole)?,
                (false, None, _) => {}
                _ => return Err(format!("{name} of {want:?} is there: {}", got.is_some())),
            }
        }
        Ok(())
    })
}

/// The allocating calls give what the `_into` calls write.
pub fn allocating_calls_give_the_same_bits(device: &TestDevice) -> Result<(), String> {
    let small = any_case().prop_map(|mut case| {
        // The one way to say where queries stand that needs no list.
        case.offset = Offset::At(1);
        case.own_lengths = false;
        case
    });
    check("allocating_calls_give_the_same_bits", device, CASES, &small, |handle, case| {
        let data = case.data();
        let into = Launch::new(handle, &data, case.seed).both()?;
        let allocated = allocate(handle, case, &data).map_err(|error| error.to_string())?;
        for ((name, want), got) in outputs(&into).into_iter().zip(&allocated) {
            same_bits(name, got, want)?;
        }
        Ok(())
    })
}

fn allocate(device: &Device, case: &Case, data: &Data) -> gatewarp::Result<[Vec<f32>; 5]> {
    let p = &data.problem;
    let tensor = |values: &[f32], shape: &[usize]| Tensor::from_slice(device, values, shape);
    let q = tensor(&data.q, &[p.batch, p.q_heads, p.q_len, p.head_dim])?;
    let k = tensor(&data.k, &[p.batch, p.kv_heads, p.kv_slots, p.head_dim])?;
    let v = tensor(&data.v, &[p.batch, p.kv_heads, p.kv_slots, p.value_dim])?;
    let grad_o = tensor(&data.grad_o, &[p.batch, p.q_heads, p.q_len, p.value_dim])?;
    let grad_lse = tensor(&data.grad_lse, &[p.batch, p.q_heads, p.q_len])?;
    let options = AttentionOptions {
        scale: case.scale.map(f64::from),
        causal: case.causal,
        query_offset: QueryOffset::At(1),
        ..AttentionOptions::default()
    };
    let (q, k, v) = (q.view(), k.view(), v.view());
    let out = attention_forward(&q, &k, &v, &options)?;
    let saved = AttentionSaved {
        o: out.o.view(),
        lse: out.lse.view(),
        grad_o: grad_o.view(),
        grad_lse: Some(grad_lse.view()),
    };
    let grads = attention_backward(&q, &k, &v, &saved, &options, WantGradients::default())?;
    let values = |gradient: &Option<Tensor>| gradient.as_ref().map_or(Ok(Vec::new()), Tensor::to_vec);
    Ok([out.o.to_vec()?, out.lse.to_vec()?, values(&grads.dq)?, values(&grads.dk)?, values(&grads.dv)?])
}
