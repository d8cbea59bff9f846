//! What a pass over every task reads, and what does not change its bits.

use crate::case::{GateCase, GateStream, gated};
use crate::every_task::Asked;
use crate::launch::tensor;
use crate::support::attention_case::non_empty_case;
use crate::support::compare::same_bits;
use crate::support::devices::TestDevice;
use crate::support::property::{CASES, check};
use gatewarp::attention::{ActiveHeads, AttentionOptions};
use gatewarp::task_heads::{
    Activation, EveryTaskGate, EveryTaskOptions, EveryTaskViews, WantTaskHeadsGradients, ZeroGateGrad,
    task_heads_backward_every_task, task_heads_forward_every_task, task_heads_forward_every_task_into,
};
use gatewarp::{Device, Error, Layout, Tensor, TensorMut};
use proptest::prelude::*;

fn say(error: Error) -> String {
    error.to_string()
}

/// Cases in which some heads are used by no task.
fn sparse() -> impl Strategy<Value = GateCase> {
    gated(non_empty_case()).prop_map(|mut case| {
        case.ties = true;
        case.zero_gate_grad = ZeroGateGrad::Zero;
        if matches!(case.activation, Activation::Sigmoid | Activation::Softmax { .. }) {
            case.logit_size = 400.0;
        }
        case
    })
}

fn spoil(values: &mut [f32], size: usize, chosen: impl Iterator<Item = bool>) {
    for (row, _) in chosen.enumerate().filter(|(_, on)| *on) {
        values[row * size..][..size].fill(f32::NAN);
    }
}

pub fn what_no_task_uses_may_hold_anything(device: &TestDevice) -> Result<(), String> {
    check("what_no_task_uses_may_hold_anything", device, CASES, &sparse(), |handle, case| {
        let mut asked = Asked::new(case);
        let every = asked.on(handle);
        let want = every.forward(handle)?;
        let want_gradients = every.backward(&want)?;

        let (heads, tasks) = (case.heads(), asked.tasks());
        let unused = || want.used.iter().map(|&used| used == 0.0);
        for (task, data) in asked.per_task.iter_mut().enumerate() {
            let p = data.attention.problem.clone();
            let a = &mut data.attention;
            a.shared_keys = false;
            spoil(&mut a.q, p.q_len * p.head_dim, unused());
            let keys = || want.used.chunks(case.attention.group).map(|used| used.iter().all(|&x| x == 0.0));
            spoil(&mut a.k, p.kv_slots * p.head_dim, keys());
            spoil(&mut a.v, p.kv_slots * p.value_dim, keys());
            let gate = |pair: usize| want.gates[(pair / heads * tasks + task) * heads + pair % heads];
            spoil(&mut a.grad_o, p.q_len * p.value_dim, (0..want.used.len()).map(|pair| gate(pair) == 0.0));
        }
        let spoilt = asked.on(handle);
        let got = spoilt.forward(handle)?;
        let gradients = spoilt.backward(&got)?;
        same_bits("y", &got.y, &want.y)?;
        same_bits("o", &got.o, &want.o)?;
        same_bits("lse", &got.lse, &want.lse)?;
        for (i, (got, want)) in gradients.iter().zip(&want_gradients).enumerate() {
            same_bits(&format!("gradient {i}"), got, want)?;
        }
        if got.y.iter().any(|y| y.is_nan()) {
            return Err("NaN in y".into());
        }
        Ok(())
    })
}

/// (batch, tasks, kv_heads, group, q_len, kv_len, dim)
type Sizes = (usize, usize, usize, usize, usize, usize, usize);

/// Bytes read from q, k, v and grad_y by a forward and backward pass, where they are counted.
fn bytes_read(device: &Device, sizes: Sizes, gates: &[f32]) -> Result<Option<[u64; 4]>, String> {
    let (batch, tasks, kv_heads, group, q_len, kv_len, dim) = sizes;
    let heads = kv_heads * group;
    let wave =
        |count: usize, step: f32| -> Vec<f32> { (0..count).map(|i| (i as f32 * step).sin()).collect() };
    let make = |step: f32, shape: &[usize]| tensor(device, &wave(shape.iter().product(), step), shape);
    let q = make(0.3, &[batch, heads, q_len, dim]);
    let (k, v) = (make(0.7, &[batch, kv_heads, kv_len, dim]), make(0.9, &[batch, kv_heads, kv_len, dim]));
    let grad_y = make(1.1, &[batch, tasks, heads, q_len, dim]);
    let values = tensor(device, gates, &[batch, tasks, heads]);
    let options =
        EveryTaskOptions::new(EveryTaskGate::Provided { values: values.view() }, Activation::Sigmoid);
    // A sigmoid of −∞ is 0.
    let out = task_heads_forward_every_task(&q.view(), &k.view(), &v.view(), &options).map_err(say)?;
    let gradients = task_heads_backward_every_task(
        &q.view(),
        &k.view(),
        &v.view(),
        &out.saved(),
        &grad_y.view(),
        &options,
        WantTaskHeadsGradients::default(),
    )
    .map_err(say)?;
    // These wait for the device, and show that unused heads are 0 on devices that count nothing.
    let y: Vec<f32> = out.y.to_vec().map_err(say)?;
    let dq: Vec<f32> = gradients.dq.as_ref().ok_or("asked for")?.to_vec().map_err(say)?;
    for (pair, rows) in y.chunks(q_len * dim).enumerate() {
        if (gates[pair] == f32::NEG_INFINITY) != rows.iter().all(|&y| y == 0.0) {
            return Err(format!("y of (sample, task, head) {pair} under logit {}", gates[pair]));
        }
    }
    for (pair, rows) in dq.chunks(q_len * dim).enumerate() {
        let own = (0..tasks).map(|task| gates[(pair / heads * tasks + task) * heads + pair % heads]);
        if own.clone().all(|z| z == f32::NEG_INFINITY) != rows.iter().all(|&dq| dq == 0.0) {
            return Err(format!("dq of pair {pair}"));
        }
    }
    let read = |tensor: &Tensor| Device::emulated_traffic(tensor).map(|traffic| traffic.bytes_loaded);
    Ok(match [read(&q), read(&k), read(&v), read(&grad_y)] {
        [Some(q), Some(k), Some(v), Some(grad)] => Some([q, k, v, grad]),
        _ => None,
    })
}

pub fn a_head_is_read_once_for_all_tasks(device: &TestDevice) -> Result<(), String> {
    for sizes in [(1, 3, 8, 1, 70, 70, 16), (2, 2, 2, 4, 5, 130, 8), (1, 5, 1, 8, 64, 64, 64)] {
        let (batch, tasks, kv_heads, group, ..) = sizes;
        let heads = kv_heads * group;
        let one_task = (batch, 1, kv_heads, group, sizes.4, sizes.5, sizes.6);
        for (number, handle) in device.handles.iter().enumerate() {
            let (off, on) = (f32::NEG_INFINITY, 0.3);
            let dense = bytes_read(handle, sizes, &vec![on; batch * tasks * heads])?;
            let nothing = bytes_read(handle, sizes, &vec![off; batch * tasks * heads])?;
            let alone = bytes_read(handle, one_task, &vec![on; batch * heads])?;
            let Some(dense) = dense else { continue };
            if nothing != Some([0; 4]) {
                return Err(format!("{sizes:?}: {nothing:?} bytes are read for heads that nobody uses"));
            }
            let alone = alone.ok_or("counted before")?;
            if dense[..3] != alone[..3] || dense[3] != alone[3] * tasks as u64 {
                return Err(format!("{sizes:?}: {dense:?} bytes for {tasks} tasks, {alone:?} for one"));
            }
            // Task t of every sample uses head t, another one first under each schedule: no head twice.
            let mut gates = vec![off; batch * tasks * heads];
            for (b, t) in (0..batch).flat_map(|b| (0..tasks).map(move |t| (b, t))) {
                gates[(b * tasks + t) * heads + (t + number) % heads] = on;
            }
            let some = bytes_read(handle, sizes, &gates)?.ok_or("counted before")?;
            for (name, at, parts) in [("q", 0, tasks), ("grad_y", 3, 1)] {
                if some[at] * heads as u64 != dense[at] * parts as u64 {
                    return Err(format!("{sizes:?}: {name} has {} of {} bytes read", some[at], dense[at]));
                }
            }
            for (name, at) in [("k", 1), ("v", 2)] {
                if group == 1 && some[at] * heads as u64 != dense[at] * tasks as u64 {
                    return Err(format!("{sizes:?}: {name} has {} of {} bytes read", some[at], dense[at]));
                }
            }
        }
    }
    Ok(())
}

pub fn permuting_tasks_permutes_outputs(device: &TestDevice) -> Result<(), String> {
    check("permuting_tasks_permutes_outputs", device, CASES, &gated(non_empty_case()), |handle, case| {
        // A linear function's weights are permuted as logits are.
        let case = GateCase { features: None, ..case.clone() };
        let mut asked = Asked::new(&case);
        let (tasks, heads) = (asked.tasks(), case.heads());
        let first = asked.on(handle).forward(handle)?;
        let order = case.random(GateStream::Order).permutation(tasks);
        if case.tasks.is_some() {
            let logits = asked.per_task[0].logits.clone();
            let row = |&task: &usize| logits[task * heads..][..heads].to_vec();
            let moved: Vec<f32> = order.iter().flat_map(row).collect();
            asked.per_task.iter_mut().for_each(|data| data.logits = moved.clone());
        }
        let grads: Vec<_> = asked.per_task.iter().map(|data| data.attention.grad_o.clone()).collect();
        let logits: Vec<_> = asked.per_task.iter().map(|data| data.logits.clone()).collect();
        for (task, data) in asked.per_task.iter_mut().enumerate() {
            data.attention.grad_o = grads[order[task]].clone();
            if case.tasks.is_none() {
                data.logits = logits[order[task]].clone();
            }
        }
        let second = asked.on(handle).forward(handle)?;
        same_bits("o", &second.o, &first.o)?;
        same_bits("lse", &second.lse, &first.lse)?;
        let size = first.y.len() / (case.attention.batch * tasks);
        for (b, t) in (0..case.attention.batch).flat_map(|b| (0..tasks).map(move |t| (b, t))) {
            let (got, want) =
                (&second.y[(b * tasks + t) * size..], &first.y[(b * tasks + order[t]) * size..]);
            same_bits("y", &got[..size], &want[..size])?;
        }
        Ok(())
    })
}

pub fn every_task_bits_are_the_same_every_time(device: &TestDevice) -> Result<(), String> {
    check("every_task_bits_are_the_same_every_time", device, CASES, &gated(non_empty_case()), |_, case| {
        let asked = Asked::new(case);
        let pass = |handle: &Device| {
            let every = asked.on(handle);
            let run = every.forward(handle)?;
            let gradients = every.backward(&run)?;
            Ok::<_, String>((run, gradients))
        };
        let (first, gradients) = pass(device.handle(0))?;
        for again in [1, 2] {
            let (run, others) = pass(device.handle(again))?;
            same_bits("y", &run.y, &first.y)?;
            for (i, (got, want)) in others.iter().zip(&gradients).enumerate() {
                same_bits(&format!("gradient {i}"), got, want)?;
            }
        }
        // A sample does not see its batch.
        let one = case.random(GateStream::Order).below(case.attention.batch);
        let mut alone = Asked::new(case);
        alone.per_task.iter_mut().for_each(|data| *data = data.samples(&[one]));
        alone.case.attention.batch = 1;
        let handle = device.handle(0);
        let every = alone.on(handle);
        let run = every.forward(handle)?;
        let own = |all: &[f32], got: &[f32]| all[one * got.len()..][..got.len()].to_vec();
        same_bits("y of one sample", &run.y, &own(&first.y, &run.y))?;
        let of_one = every.backward(&run)?;
        for (name, i) in [("dq", 0), ("dk", 1), ("dv", 2)] {
            same_bits(&format!("{name} of one sample"), &of_one[i], &own(&gradients[i], &of_one[i]))?;
        }
        Ok(())
    })
}

pub fn no_task_at_all(device: &TestDevice) -> Result<(), String> {
    for handle in &device.handles {
        let x = tensor(handle, &[f32::NAN; 2 * 3 * 5 * 4], &[2, 3, 5, 4]);
        let logits = Tensor::zeros(handle, gatewarp::DType::F32, &[0, 3]).map_err(say)?;
        let gate = EveryTaskGate::Static { logits: logits.view() };
        let options = EveryTaskOptions::new(gate, Activation::Sigmoid);
        let out = task_heads_forward_every_task(&x.view(), &x.view(), &x.view(), &options).map_err(say)?;
        if out.y.shape() != [2, 0, 3, 5, 4] || out.counts.to_vec::<u32>().map_err(say)? != [0, 0] {
            return Err(format!("y {:?}, counts {:?}", out.y.shape(), out.counts.to_vec::<u32>()));
        }
        same_bits("o", &out.o.to_vec().map_err(say)?, &[0.0; 120])?;
        same_bits("lse", &out.lse.to_vec().map_err(say)?, &[f32::NEG_INFINITY; 30])?;
        let grad_y = Tensor::zeros(handle, gatewarp::DType::F32, out.y.shape()).map_err(say)?;
        let gradients = task_heads_backward_every_task(
            &x.view(),
            &x.view(),
            &x.view(),
            &out.saved(),
            &grad_y.view(),
            &options,
            WantTaskHeadsGradients::default(),
        )
        .map_err(say)?;
        for gradient in [&gradients.dq, &gradients.dk, &gradients.dv] {
            let gradient = gradient.as_ref().ok_or("asked for")?.to_vec().map_err(say)?;
            same_bits("a gradient", &gradient, &[0.0; 120])?;
        }
        if gradients.dgate.ok_or("asked for")?.shape() != [0, 3] {
            return Err("dgate of no logits".into());
        }
    }
    Ok(())
}

pub fn bad_every_task_arguments_are_refused(device: &TestDevice) -> Result<(), String> {
    let handle = device.handle(0);
    let x = tensor(handle, &[0.5; 2 * 2 * 3 * 4], &[2, 2, 3, 4]);
    let values = tensor(handle, &[0.5; 64], &[64]);
    let view = |shape: &[usize], strides: &[usize]| {
        values.view().with_layout(Layout::new(shape, strides, 0).expect("legal")).expect("fits")
    };
    let good = view(&[2, 3, 2], &[6, 2, 1]);
    let provided = |values| EveryTaskOptions::new(EveryTaskGate::Provided { values }, Activation::Identity);
    let run = |options: &EveryTaskOptions<'_>| {
        task_heads_forward_every_task(&x.view(), &x.view(), &x.view(), options)
    };
    let refused = |what: &str, wanted: &str, got: gatewarp::Result<()>| match got {
        Err(Error::InvalidArgument { arg, .. } | Error::Shape { arg, .. } | Error::DType { arg, .. })
            if arg == wanted =>
        {
            Ok(())
        }
        other => Err(format!("{what}: expected an error about `{wanted}`, got {other:?}")),
    };
    // Tasks in steps of 2, samples in steps of 7: no one stride.
    refused("strides", "values", run(&provided(view(&[2, 3, 2], &[7, 2, 1]))).map(drop))?;
    refused("heads", "values", run(&provided(view(&[2, 3, 3], &[9, 3, 1]))).map(drop))?;
    refused("batch", "values", run(&provided(view(&[3, 3, 2], &[6, 2, 1]))).map(drop))?;
    refused("rank", "values", run(&provided(view(&[2, 2], &[2, 1]))).map(drop))?;
    let logits = EveryTaskGate::Static { logits: view(&[3, 3], &[3, 1]) };
    refused("logits", "logits", run(&EveryTaskOptions::new(logits, Activation::Sigmoid)).map(drop))?;
    let linear = |x, weights| {
        EveryTaskOptions::new(EveryTaskGate::Dynamic { x, weights, bias: None }, Activation::Sigmoid)
    };
    let weights = view(&[3, 2, 2], &[4, 2, 1]);
    refused("x", "x", run(&linear(view(&[2, 3], &[3, 1]), weights.clone())).map(drop))?;
    refused("balance", "balance", {
        let mut options = provided(good.clone());
        options.balance = Some(view(&[3], &[1]));
        run(&options).map(drop)
    })?;
    let out = run(&provided(good.clone())).map_err(say)?;
    refused("heads given", "attention.heads", {
        let mut options = provided(good.clone());
        options.attention = AttentionOptions {
            heads: Some(ActiveHeads {
                order: out.order.view(),
                kv_order: out.kv_order.view(),
                counts: out.counts.view(),
                active: out.active.view(),
                row_scale: out.lse.view(),
            }),
            ..Default::default()
        };
        run(&options).map(drop)
    })?;
    let grad_y = Tensor::zeros(handle, gatewarp::DType::F32, &[2, 2, 3, 4]).map_err(say)?;
    let backward = |options: &EveryTaskOptions<'_>, grad_y: &Tensor| {
        let (x, want) = (x.view(), WantTaskHeadsGradients::default());
        task_heads_backward_every_task(&x, &x, &x, &out.saved(), &grad_y.view(), options, want).map(drop)
    };
    refused("grad_y", "grad_y", backward(&provided(good.clone()), &grad_y))?;
    let mut constant = provided(good.clone());
    constant.activation = Activation::top_k(1, true);
    refused("a constant gate", "activation", backward(&constant, &out.y))?;

    // Outputs of the wrong shape, or missing.
    let mut own = run(&provided(good.clone())).map_err(say)?;
    let mut shared = Tensor::zeros(handle, gatewarp::DType::F32, &[200]).map_err(say)?;
    let mut into = |options: &EveryTaskOptions<'_>, y: Option<TensorMut<'_>>| {
        let views = EveryTaskViews {
            y: y.unwrap_or(own.y.view_mut()),
            o: own.o.view_mut(),
            lse: own.lse.view_mut(),
            gates: own.gates.view_mut(),
            probabilities: own.probabilities.view_mut(),
            used: own.used.view_mut(),
            order: own.order.view_mut(),
            kv_order: own.kv_order.view_mut(),
            counts: own.counts.view_mut(),
            active: own.active.view_mut(),
            z: None,
        };
        let x = x.view();
        task_heads_forward_every_task_into(&x, &x, &x, options, views)
    };
    refused("no z", "z", into(&linear(view(&[2, 2], &[2, 1]), weights), None))?;
    let wrong = Layout::contiguous(&[2, 3, 2, 3, 5]).expect("legal");
    let y = shared.view_mut().with_layout(wrong).map_err(say)?;
    refused("the shape of y", "y", into(&provided(good), Some(y)))
}
