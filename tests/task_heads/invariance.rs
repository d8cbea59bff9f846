//! Bits: what must not change them.

use crate::case::{GateCase, GateData, GateStream, gated, has_no_gradient};
use crate::launch::{GradientRun, Launch, Run, tensor};
use crate::support::attention_case::non_empty_case;
use crate::support::compare::same_bits;
use crate::support::devices::TestDevice;
use crate::support::property::{CASES, check};
use gatewarp::attention::{AttentionSaved, WantGradients, attention_backward, attention_forward};
use gatewarp::task_heads::{
    Activation, GateSource, NoTask, TaskHeadsOptions, WantTaskHeadsGradients, task_heads_backward,
    task_heads_forward,
};
use gatewarp::{Device, Tensor};

/// Ways to say "all gates are 1".
fn all_ones(case: &GateCase, handle: &Device) -> (Tensor, Option<Tensor>, Activation) {
    let (batch, heads) = (case.attention.batch, case.heads());
    let equal = Activation::Softmax { scale: gatewarp::task_heads::SoftmaxScale::Heads };
    match case.attention.seed % 3 {
        0 => (tensor(handle, &vec![1.0; batch * heads], &[batch, heads]), None, Activation::Identity),
        // Nobody has a task; the logits would say otherwise.
        1 => {
            let tasks = Tensor::from_slice(handle, &vec![-1i32; batch], &[batch]).expect("ids");
            (tensor(handle, &vec![-3.0; 2 * heads], &[2, heads]), Some(tasks), Activation::Sigmoid)
        }
        // 1/(1 + e^−40) rounds to 1; the softmax of one head is 1.
        _ if heads == 1 => (tensor(handle, &vec![0.7; batch], &[batch, 1]), None, equal),
        _ => (tensor(handle, &vec![40.0; batch * heads], &[batch, heads]), None, Activation::Sigmoid),
    }
}

pub fn gate_one_is_attention(device: &TestDevice) -> Result<(), String> {
    check("gate_one_is_attention", device, CASES, &gated(non_empty_case()), |handle, case| {
        let data = case.data();
        let launch = Launch::new(handle, case, &data);
        let [q, k, v] = launch.inputs().map(|input| input.view());
        let (values, tasks, activation) = all_ones(case, handle);
        let gate = match &tasks {
            Some(tasks) => GateSource::Static { logits: values.view(), tasks: tasks.view() },
            None => GateSource::Provided { values: values.view() },
        };
        let mut options = TaskHeadsOptions::new(gate, activation);
        options.no_task = NoTask::Full;
        options.attention = launch.attention_options();
        let p = &data.attention.problem;
        let grad_y = tensor(handle, &data.attention.grad_o, &[p.batch, p.q_heads, p.q_len, p.value_dim]);
        let say = |error: gatewarp::Error| error.to_string();

        let gated = task_heads_forward(&q, &k, &v, &options).map_err(say)?;
        let plain = attention_forward(&q, &k, &v, &options.attention).map_err(say)?;
        let read = |tensor: &Tensor| tensor.to_vec::<f32>().map_err(say);
        same_bits("y", &read(&gated.y)?, &read(&plain.o)?)?;
        same_bits("lse", &read(&gated.lse)?, &read(&plain.lse)?)?;

        let want = WantTaskHeadsGradients::default();
        let gradients =
            task_heads_backward(&q, &k, &v, &gated.saved(), &grad_y.view(), &options, want).map_err(say)?;
        let saved = AttentionSaved {
            o: plain.o.view(),
            lse: plain.lse.view(),
            grad_o: grad_y.view(),
            grad_lse: None,
        };
        let want = WantGradients::default();
        let of_attention = attention_backward(&q, &k, &v, &saved, &options.attention, want).map_err(say)?;
        let pairs = [
            ("dq", &gradients.dq, &of_attention.dq),
            ("dk", &gradients.dk, &of_attention.dk),
            ("dv", &gradients.dv, &of_attention.dv),
        ];
        for (name, got, want) in pairs {
            let (got, want) = (got.as_ref().ok_or("asked for")?, want.as_ref().ok_or("asked for")?);
            same_bits(name, &read(got)?, &read(want)?)?;
        }
        Ok(())
    })
}

type Both = (Run, GradientRun);

fn both(handle: &Device, case: &GateCase, data: &GateData) -> Result<Both, String> {
    let launch = Launch::new(handle, case, data);
    let run = launch.forward()?;
    let gradients = launch.backward(&run)?;
    Ok((run, gradients))
}

/// Whether sample `b` of `got` has the bits of sample `order[b]` of `want`.
fn same_samples(name: &str, got: &[f32], want: &[f32], batch: usize, order: &[usize]) -> Result<(), String> {
    let size = want.len() / batch;
    if got.len() != size * order.len() {
        return Err(format!("{name}: {} elements for {} samples of {size}", got.len(), order.len()));
    }
    order.iter().enumerate().try_for_each(|(b, &from)| {
        let what = format!("{name} of sample {from}, now {b}");
        same_bits(&what, &got[b * size..][..size], &want[from * size..][..size])
    })
}

/// Everything per sample is the same bits as in the batch the samples were taken from.
fn same_as_in(whole: &Both, part: &Both, batch: usize, order: &[usize]) -> Result<(), String> {
    let none = Vec::new();
    let outputs = [
        ("y", &part.0.y, &whole.0.y),
        ("lse", &part.0.lse, &whole.0.lse),
        ("gates", &part.0.gates, &whole.0.gates),
        ("probabilities", &part.0.probabilities, &whole.0.probabilities),
        ("dq", part.1.dq.as_ref().unwrap_or(&none), whole.1.dq.as_ref().unwrap_or(&none)),
        ("dk", part.1.dk.as_ref().unwrap_or(&none), whole.1.dk.as_ref().unwrap_or(&none)),
        ("dv", part.1.dv.as_ref().unwrap_or(&none), whole.1.dv.as_ref().unwrap_or(&none)),
    ];
    outputs.iter().try_for_each(|(name, got, want)| same_samples(name, got, want, batch, order))
}

pub fn permuting_samples_permutes_outputs(device: &TestDevice) -> Result<(), String> {
    check("permuting_samples_permutes_outputs", device, CASES, &gated(non_empty_case()), |handle, case| {
        let data = case.data();
        let batch = case.attention.batch;
        let order = case.random(GateStream::Order).permutation(batch);
        let whole = both(handle, case, &data)?;
        let permuted = both(handle, case, &data.samples(&order))?;
        same_as_in(&whole, &permuted, batch, &order)?;
        if case.tasks.is_none() && !has_no_gradient(case.activation) {
            let (got, want) = (permuted.1.dgate.ok_or("asked for")?, whole.1.dgate.ok_or("asked for")?);
            same_samples("dgate", &got, &want, batch, &order)?;
        }
        Ok(())
    })
}

pub fn a_sample_does_not_see_its_batch(device: &TestDevice) -> Result<(), String> {
    check("a_gated_sample_does_not_see_its_batch", device, CASES, &gated(non_empty_case()), |handle, case| {
        let data = case.data();
        let batch = case.attention.batch;
        let one = case.random(GateStream::Order).below(batch);
        let whole = both(handle, case, &data)?;
        let alone = both(handle, case, &data.samples(&[one]))?;
        same_as_in(&whole, &alone, batch, &[one])
    })
}

pub fn the_same_bits_every_time(device: &TestDevice) -> Result<(), String> {
    check("gated_bits_are_the_same_every_time", device, CASES, &gated(non_empty_case()), |_, case| {
        let data = case.data();
        let batch = case.attention.batch;
        let all: Vec<usize> = (0..batch).collect();
        // Every schedule of the emulator; elsewhere twice on the same device.
        let first = both(device.handle(0), case, &data)?;
        for again in [1, 2] {
            let second = both(device.handle(again), case, &data)?;
            same_as_in(&first, &second, batch, &all)?;
            let none = Vec::new();
            let (got, want) = (&second.1.dgate, &first.1.dgate);
            same_bits("dgate", got.as_ref().unwrap_or(&none), want.as_ref().unwrap_or(&none))?;
            let concat =
                |both: &Both| both.1.dynamic.as_ref().map(|parts| parts.concat()).unwrap_or_default();
            same_bits("gradients of a dynamic gate", &concat(&second), &concat(&first))?;
        }
        // What allocates its outputs and knows that they are zero gives them too.
        let launch = Launch::new(device.handle(0), case, &data);
        let [q, k, v] = launch.inputs().map(|input| input.view());
        let say = |error: gatewarp::Error| error.to_string();
        let out = task_heads_forward(&q, &k, &v, &launch.options()).map_err(say)?;
        same_bits("allocated y", &out.y.to_vec().map_err(say)?, &first.0.y)?;
        same_bits("allocated lse", &out.lse.to_vec().map_err(say)?, &first.0.lse)
    })
}

pub fn gradients_not_asked_for_change_nothing(device: &TestDevice) -> Result<(), String> {
    check("gate_gradients_not_asked_for", device, CASES, &gated(non_empty_case()), |handle, case| {
        let data = case.data();
        let launch = Launch::new(handle, case, &data);
        let run = launch.forward()?;
        let all = launch.backward(&run)?;
        let mut random = case.random(GateStream::Order);
        let mut flag = || random.one_in(2);
        let want = WantTaskHeadsGradients {
            dq: flag(),
            dk: flag(),
            dv: flag(),
            dgate: flag() && !has_no_gradient(case.activation),
        };
        let some = launch.launch_backward(&run, want).map_err(|error| error.to_string())?;
        let checks = [
            ("dq", want.dq, &some.dq, &all.dq),
            ("dk", want.dk, &some.dk, &all.dk),
            ("dv", want.dv, &some.dv, &all.dv),
            ("dgate", want.dgate && case.features.is_none(), &some.dgate, &all.dgate),
        ];
        match (want.dgate && case.features.is_some(), &some.dynamic, &all.dynamic) {
            (true, Some(some), Some(all)) => {
                same_bits("gradients of a dynamic gate", &some.concat(), &all.concat())?
            }
            (false, None, _) => {}
            (wanted, some, _) => return Err(format!("dynamic: wanted {wanted}, got {}", some.is_some())),
        }
        for (name, wanted, some, all) in checks {
            match (wanted, some, all) {
                (true, Some(some), Some(all)) => same_bits(name, some, all)?,
                (false, None, _) => {}
                _ => return Err(format!("{name}: wanted {wanted}, got {}", some.is_some())),
            }
        }
        Ok(())
    })
}
