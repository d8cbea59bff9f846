//! A zero gate costs nothing: nothing of its head is read, and nothing it holds gets out.

use crate::case::{GateCase, GateData, gated};
use crate::launch::{GradientRun, Launch, tensor};
use crate::support::attention_case::non_empty_case;
use crate::support::compare::same_bits;
use crate::support::devices::TestDevice;
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use gatewarp::task_heads::{
    Activation, GateSource, NoTask, TaskHeadsOptions, WantTaskHeadsGradients, ZeroGateGrad,
    task_heads_backward, task_heads_forward,
};
use gatewarp::{Device, Tensor};
use proptest::prelude::*;

/// Cases in which many gates are 0, from all kinds of causes.
fn sparse() -> impl Strategy<Value = GateCase> {
    gated(non_empty_case()).prop_map(|mut case| {
        case.ties = true;
        case.zero_gate_grad = ZeroGateGrad::Zero;
        if matches!(case.activation, Activation::Sigmoid | Activation::Softmax { .. })
            && case.features.is_none()
        {
            // Most underflow: e^−200 is 0 in f32.
            case.logit_size = 400.0;
        }
        case
    })
}

fn fill_rows(values: &mut [f32], size: usize, chosen: impl Iterator<Item = bool>, with: f32) {
    for (row, _) in chosen.enumerate().filter(|(_, on)| *on) {
        values[row * size..][..size].fill(with);
    }
}

/// Fills with NaN what only skipped heads would read.
fn spoil_skipped(data: &GateData, gates: &[f32]) -> GateData {
    let mut data = data.clone();
    let p = data.attention.problem.clone();
    let group = p.q_heads / p.kv_heads;
    let skipped = || gates.iter().map(|&gate| gate == 0.0);
    let key_skipped = || gates.chunks(group).map(|gates| gates.iter().all(|&gate| gate == 0.0));
    let a = &mut data.attention;
    a.shared_keys = false;
    fill_rows(&mut a.q, p.q_len * p.head_dim, skipped(), f32::NAN);
    fill_rows(&mut a.grad_o, p.q_len * p.value_dim, skipped(), f32::NAN);
    fill_rows(&mut a.k, p.kv_slots * p.head_dim, key_skipped(), f32::NAN);
    fill_rows(&mut a.v, p.kv_slots * p.value_dim, key_skipped(), f32::NAN);
    data
}

fn all_are(name: &str, values: &[f32], size: usize, chosen: &[bool], want: f32) -> Result<(), String> {
    for (row, _) in chosen.iter().enumerate().filter(|(_, on)| **on) {
        same_bits(&format!("{name} of pair {row}"), &values[row * size..][..size], &vec![want; size])?;
    }
    Ok(())
}

pub fn a_skipped_head_may_hold_anything(device: &TestDevice) -> Result<(), String> {
    check("a_skipped_head_may_hold_anything", device, CASES, &sparse(), |handle, case| {
        let data = case.data();
        let clean = Launch::new(handle, case, &data);
        let want = clean.forward()?;
        let want_gradients = clean.backward(&want)?;
        let spoilt = Launch::new(handle, case, &spoil_skipped(&data, &want.gates));
        let got = spoilt.forward()?;
        let gradients = spoilt.backward(&got)?;
        same_bits("gates", &got.gates, &want.gates)?;
        same_bits("y", &got.y, &want.y)?;
        same_bits("lse", &got.lse, &want.lse)?;
        same_gradients(&gradients, &want_gradients)?;

        let p = &data.attention.problem;
        let skipped: Vec<bool> = got.gates.iter().map(|&gate| gate == 0.0).collect();
        let key_skipped: Vec<bool> =
            skipped.chunks(case.attention.group).map(|s| !s.contains(&false)).collect();
        all_are("y", &got.y, p.q_len * p.value_dim, &skipped, 0.0)?;
        all_are("lse", &got.lse, p.q_len, &skipped, f32::NEG_INFINITY)?;
        let (dq, dk, dv) = (gradients.dq, gradients.dk, gradients.dv);
        all_are("dq", &dq.ok_or("asked for")?, p.q_len * p.head_dim, &skipped, 0.0)?;
        all_are("dk", &dk.ok_or("asked for")?, p.kv_slots * p.head_dim, &key_skipped, 0.0)?;
        all_are("dv", &dv.ok_or("asked for")?, p.kv_slots * p.value_dim, &key_skipped, 0.0)
    })
}

fn same_gradients(got: &GradientRun, want: &GradientRun) -> Result<(), String> {
    let none = Vec::new();
    let pairs = [
        ("dq", &got.dq, &want.dq),
        ("dk", &got.dk, &want.dk),
        ("dv", &got.dv, &want.dv),
        ("dgate", &got.dgate, &want.dgate),
    ];
    pairs.iter().try_for_each(|(name, got, want)| {
        same_bits(name, got.as_ref().unwrap_or(&none), want.as_ref().unwrap_or(&none))
    })?;
    let concat = |run: &GradientRun| run.dynamic.as_ref().map(|parts| parts.concat()).unwrap_or_default();
    same_bits("gradients of a dynamic gate", &concat(got), &concat(want))
}

/// Sizes of a counting test: (batch, kv_heads, group, q_len, kv_len, dim)
type Sizes = (usize, usize, usize, usize, usize, usize);

/// Bytes read from q, k, v and grad_y by a forward and backward pass with these gates, where they are counted.
fn bytes_read(device: &Device, sizes: Sizes, gates: &[f32]) -> Result<Option<[u64; 4]>, String> {
    let (batch, kv_heads, group, q_len, kv_len, dim) = sizes;
    let heads = kv_heads * group;
    let mut random = Random::new(1, 2);
    let mut make = |shape: [usize; 4]| tensor(device, &random.values(shape.iter().product(), 1.0), &shape);
    let (q, grad_y) = (make([batch, heads, q_len, dim]), make([batch, heads, q_len, dim]));
    let (k, v) = (make([batch, kv_heads, kv_len, dim]), make([batch, kv_heads, kv_len, dim]));
    let values = tensor(device, gates, &[batch, heads]);
    let options = TaskHeadsOptions::new(GateSource::Provided { values: values.view() }, Activation::Identity);
    let say = |error: gatewarp::Error| error.to_string();
    let counted = [&q, &k, &v, &grad_y];
    counted.iter().for_each(|tensor| Device::reset_emulated_traffic(tensor));
    let out = task_heads_forward(&q.view(), &k.view(), &v.view(), &options).map_err(say)?;
    let want = WantTaskHeadsGradients::default();
    let saved = out.saved();
    let gradients =
        task_heads_backward(&q.view(), &k.view(), &v.view(), &saved, &grad_y.view(), &options, want)
            .map_err(say)?;
    // Reads happen on the device; these wait for it, and show that skipped heads are 0 on devices that count nothing.
    let y: Vec<f32> = out.y.to_vec().map_err(say)?;
    let dq: Vec<f32> = gradients.dq.as_ref().ok_or("asked for")?.to_vec().map_err(say)?;
    let skipped: Vec<bool> = gates.iter().map(|&gate| gate == 0.0).collect();
    all_are("y", &y, q_len * dim, &skipped, 0.0)?;
    all_are("dq", &dq, q_len * dim, &skipped, 0.0)?;
    let read = |tensor: &Tensor| Device::emulated_traffic(tensor).map(|traffic| traffic.bytes_loaded);
    Ok(match counted.map(read) {
        [Some(q), Some(k), Some(v), Some(grad)] => Some([q, k, v, grad]),
        _ => None,
    })
}

pub fn nothing_is_read_for_skipped_heads(device: &TestDevice) -> Result<(), String> {
    for sizes in [(1, 8, 1, 70, 70, 16), (2, 2, 4, 5, 130, 8), (1, 1, 8, 64, 64, 64)] {
        let (batch, kv_heads, group, ..) = sizes;
        let heads = kv_heads * group;
        let pairs = batch * heads;
        for (number, handle) in device.handles.iter().enumerate() {
            let dense = bytes_read(handle, sizes, &vec![0.5; pairs])?;
            let nothing = bytes_read(handle, sizes, &vec![0.0; pairs])?;
            let Some(dense) = dense else { continue };
            if nothing != Some([0; 4]) {
                return Err(format!(
                    "{sizes:?}: with no active head {nothing:?} bytes of q, k, v, grad_y are read"
                ));
            }
            for active in [1, 2, pairs / 2] {
                // Every (pairs/active)-th pair, another one first under each schedule.
                let mut gates = vec![0.0; pairs];
                let stride = pairs / active;
                (0..active).for_each(|i| gates[(i * stride + number) % pairs] = 0.5);
                let some = bytes_read(handle, sizes, &gates)?.ok_or("counted before")?;
                // Queries and their gradients: the active fraction, to the byte.
                for (name, at) in [("q", 0), ("grad_y", 3)] {
                    if some[at] * pairs as u64 != dense[at] * active as u64 {
                        let (got, all) = (some[at], dense[at]);
                        return Err(format!(
                            "{sizes:?}: {name} has {got} of {all} bytes read for {active} of {pairs} pairs"
                        ));
                    }
                }
                // Keys and values: by the forward and dq passes for each active head, by the dk and dv pass for each group.
                for (name, at) in [("k", 1), ("v", 2)] {
                    if group == 1 && some[at] * pairs as u64 != dense[at] * active as u64 {
                        let (got, all) = (some[at], dense[at]);
                        return Err(format!(
                            "{sizes:?}: {name} has {got} of {all} bytes read for {active} of {pairs} pairs"
                        ));
                    }
                    if some[at] == 0 || some[at] > dense[at] {
                        return Err(format!(
                            "{sizes:?}: {name} has {} bytes read, {} when dense",
                            some[at], dense[at]
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}

pub fn a_nan_gate_spoils_its_rows_alone(device: &TestDevice) -> Result<(), String> {
    let strategy = gated(non_empty_case()).prop_map(|mut case| {
        (case.tasks, case.features) = (None, None);
        (case.activation, case.no_task) = (Activation::Identity, NoTask::Full);
        case
    });
    check("a_nan_gate_spoils_its_rows_alone", device, CASES, &strategy, |handle, case| {
        let mut data = case.data();
        let p = data.attention.problem.clone();
        let pair = Random::new(case.attention.seed, 77).below(p.batch * p.q_heads);
        data.logits[pair] = 0.0;
        let without = Launch::new(handle, case, &data);
        let want = without.forward()?;
        let want_gradients = without.backward(&want)?;
        data.logits[pair] = f32::NAN;
        let with = Launch::new(handle, case, &data);
        let got = with.forward()?;
        let gradients = with.backward(&got)?;
        let key_pair = pair / case.attention.group;
        let none = Vec::new();
        let checks = [
            ("y", &got.y, &want.y, pair, p.q_len * p.value_dim),
            ("lse", &got.lse, &want.lse, pair, p.q_len),
            (
                "dq",
                gradients.dq.as_ref().unwrap_or(&none),
                want_gradients.dq.as_ref().unwrap_or(&none),
                pair,
                p.q_len * p.head_dim,
            ),
            (
                "dk",
                gradients.dk.as_ref().unwrap_or(&none),
                want_gradients.dk.as_ref().unwrap_or(&none),
                key_pair,
                p.kv_slots * p.head_dim,
            ),
            (
                "dv",
                gradients.dv.as_ref().unwrap_or(&none),
                want_gradients.dv.as_ref().unwrap_or(&none),
                key_pair,
                p.kv_slots * p.value_dim,
            ),
            (
                "dgate",
                gradients.dgate.as_ref().unwrap_or(&none),
                want_gradients.dgate.as_ref().unwrap_or(&none),
                pair,
                1,
            ),
        ];
        checks.iter().try_for_each(|(name, got, want, spoilt, size)| {
            let mut want = (*want).clone();
            want[spoilt * size..][..*size].fill(f32::NAN);
            same_bits(name, got, &want)
        })
    })
}
