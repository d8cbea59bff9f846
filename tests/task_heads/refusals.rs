//! Bad values: refused before a launch where the host sees them, confined to their sample where only the device does.

use crate::case::{GateCase, gated, has_no_gradient};
use crate::launch::{GradientRun, Launch, Run, integers, tensor};
use crate::support::attention_case::non_empty_case;
use crate::support::compare::same_bits;
use crate::support::devices::TestDevice;
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use gatewarp::attention::{ActiveHeads, AttentionOptions};
use gatewarp::task_heads::{
    Activation, GateSource, NO_TASK, TaskHeadsOptions, WantTaskHeadsGradients, task_heads_backward,
    task_heads_forward,
};
use gatewarp::{Backend, DType, Device, Error, Tensor};
use proptest::prelude::*;

fn static_case() -> impl Strategy<Value = GateCase> {
    gated(non_empty_case()).prop_map(|mut case| {
        case.tasks = Some(case.tasks.unwrap_or(3));
        case
    })
}

/// Ids with sample `bad` holding no task's number, and that number.
fn spoiled(place: &Device, ids: &[i64], bad: usize, tasks: usize, random: &mut Random) -> (Tensor, i64) {
    let mut ids = ids.to_vec();
    // The low words of the last ones are a legal id and NO_TASK.
    let narrow = [tasks as i64, tasks as i64 + 1, i32::MAX.into()];
    let wide = [i64::MIN, i64::MAX, 1 << 32, -(1 << 32), u32::MAX.into()];
    match random.below(4) {
        0 => {
            ids[bad] = wide[random.below(wide.len())];
            (Tensor::from_slice(place, &ids, &[ids.len()]).expect("ids"), ids[bad])
        }
        1 => {
            // Below NO_TASK, as i32 or i64.
            ids[bad] = [-2, i32::MIN.into()][random.below(2)];
            let narrow: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
            (Tensor::from_slice(place, &narrow, &[ids.len()]).expect("ids"), ids[bad])
        }
        _ => {
            ids[bad] = narrow[random.below(narrow.len())];
            (integers(place, &ids, random), ids[bad])
        }
    }
}

pub fn bad_host_ids_are_refused(device: &TestDevice) -> Result<(), String> {
    check("bad_host_ids_are_refused", device, CASES, &static_case(), |handle, case| {
        let data = case.data();
        let mut random = Random::new(case.attention.seed, 55);
        let bad = random.below(data.tasks.len());
        let (ids, value) = spoiled(&Device::cpu(), &data.tasks, bad, case.rows(), &mut random);
        let mut launch = Launch::new(handle, case, &data);
        launch.set_tasks(ids);
        let mut memory = launch.outputs();
        match launch.launch_forward(&mut memory) {
            Err(Error::TaskId { got, tasks, .. }) if got == value && tasks == case.rows() => {}
            other => return Err(format!("id {value} of {} tasks gave {other:?}", case.rows())),
        }
        memory.check_untouched()
    })
}

/// Whether sample `bad` is NaN throughout and the others have the bits of `want`.
fn only_one_spoiled(name: &str, got: &[f32], want: &[f32], batch: usize, bad: usize) -> Result<(), String> {
    let mut want = want.to_vec();
    let size = want.len() / batch;
    want[bad * size..][..size].fill(f32::NAN);
    same_bits(name, got, &want)
}

fn reported(device: &Device) -> Result<(), String> {
    match device.synchronize() {
        Err(Error::DeviceValue { .. }) => {
            device.synchronize().map_err(|error| format!("reported twice: {error}"))
        }
        other => Err(format!("a bad id was reported as {other:?}")),
    }
}

pub fn a_bad_device_id_spoils_its_sample_alone(device: &TestDevice) -> Result<(), String> {
    if device.backend() == Backend::Cpu {
        // The host sees every id there.
        return bad_host_ids_are_refused(device);
    }
    check("a_bad_device_id_spoils_its_sample_alone", device, CASES, &static_case(), |handle, case| {
        let data = case.data();
        let mut random = Random::new(case.attention.seed, 56);
        let bad = random.below(data.tasks.len());
        // The same batch with no task there: what the others must get, and what the logits' gradient sums.
        let mut without = data.clone();
        without.tasks[bad] = NO_TASK.into();
        let good = Launch::new(handle, case, &without);
        let (want, want_gradients) = both(&good)?;

        let mut launch = Launch::new(handle, case, &data);
        launch.set_tasks(spoiled(handle, &data.tasks, bad, case.rows(), &mut random).0);
        let mut memory = launch.outputs();
        launch.launch_forward(&mut memory).map_err(|error| error.to_string())?;
        reported(handle)?;
        let run = launch.read(memory)?;
        let gradients = launch.backward(&run)?;

        let batch = case.attention.batch;
        let none = Vec::new();
        let checks = [
            ("y", &run.y, &want.y),
            ("lse", &run.lse, &want.lse),
            ("gates", &run.gates, &want.gates),
            ("dq", gradients.dq.as_ref().unwrap_or(&none), want_gradients.dq.as_ref().unwrap_or(&none)),
            ("dk", gradients.dk.as_ref().unwrap_or(&none), want_gradients.dk.as_ref().unwrap_or(&none)),
            ("dv", gradients.dv.as_ref().unwrap_or(&none), want_gradients.dv.as_ref().unwrap_or(&none)),
        ];
        checks.iter().try_for_each(|(name, got, want)| only_one_spoiled(name, got, want, batch, bad))?;
        let (got, want) = (&gradients.dgate, &want_gradients.dgate);
        same_bits("dgate", got.as_ref().unwrap_or(&none), want.as_ref().unwrap_or(&none))?;
        let (Some([dx, dweights, dbias]), Some([want_dx, want_dweights, want_dbias])) =
            (&gradients.dynamic, &want_gradients.dynamic)
        else {
            return Ok(());
        };
        only_one_spoiled("dx", dx, want_dx, batch, bad)?;
        same_bits("dweights", dweights, want_dweights)?;
        same_bits("dbias", dbias, want_dbias)
    })
}

fn both(launch: &Launch) -> Result<(Run, GradientRun), String> {
    let run = launch.forward()?;
    let gradients = launch.backward(&run)?;
    Ok((run, gradients))
}

pub fn constant_gates_have_no_gradient(device: &TestDevice) -> Result<(), String> {
    let strategy = gated(non_empty_case()).prop_map(|mut case| {
        case.activation = top_k(1);
        case
    });
    check("constant_gates_have_no_gradient", device, CASES / 4, &strategy, |handle, case| {
        assert!(has_no_gradient(case.activation), "the strategy makes these");
        let launch = Launch::new(handle, case, &case.data());
        let run = launch.forward()?;
        match launch.launch_backward(&run, WantTaskHeadsGradients::default()) {
            Err(Error::InvalidArgument { arg: "activation", .. }) => {}
            other => return Err(format!("the gradient of a constant gate gave {other:?}")),
        }
        // The others are well defined.
        launch.backward(&run)?.dq.map(drop).ok_or_else(|| "dq was asked for".to_owned())
    })
}

/// One call with one thing wrong.
struct Inputs {
    q: Tensor,
    k: Tensor,
    logits: Tensor,
    tasks: Tensor,
}

impl Inputs {
    fn new(device: &Device) -> Self {
        let ids = Tensor::from_slice(device, &[0i32, 1], &[2]).expect("ids");
        Self {
            q: tensor(device, &[0.5; 2 * 4 * 3 * 2], &[2, 4, 3, 2]),
            k: tensor(device, &[0.5; 2 * 2 * 3 * 2], &[2, 2, 3, 2]),
            logits: tensor(device, &[0.1; 3 * 4], &[3, 4]),
            tasks: ids,
        }
    }

    fn call(&self, activation: Activation, attention: AttentionOptions<'_>) -> gatewarp::Result<Tensor> {
        let gate = GateSource::Static { logits: self.logits.view(), tasks: self.tasks.view() };
        let options = TaskHeadsOptions { attention, ..TaskHeadsOptions::new(gate, activation) };
        Ok(task_heads_forward(&self.q.view(), &self.k.view(), &self.k.view(), &options)?.y)
    }

    fn plain(&self) -> gatewarp::Result<Tensor> {
        self.call(Activation::Sigmoid, AttentionOptions::default())
    }
}

fn top_k(k: usize) -> Activation {
    Activation::top_k(k, true)
}

pub fn bad_arguments_are_refused(device: &TestDevice) -> Result<(), String> {
    let handle = &device.handles[0];
    let good = Inputs::new(handle);
    good.plain().map_err(|error| error.to_string())?;
    let expect = |what: &str, result: gatewarp::Result<Tensor>, want: &str| match result {
        Err(error) if error.to_string().contains(want) => Ok(()),
        other => Err(format!("{what}: expected an error with {want:?}, got {other:?}")),
    };
    for k in [0, 5, usize::MAX] {
        expect("k", good.call(top_k(k), AttentionOptions::default()), "`k`")?;
    }
    for k in [1, 4] {
        good.call(top_k(k), AttentionOptions::default()).map_err(|error| error.to_string())?;
    }
    let routed = |k, shared_heads, noise| Activation::TopK {
        k,
        renormalise: false,
        straight_through: false,
        shared_heads,
        noise,
    };
    let call = |activation| good.call(activation, AttentionOptions::default());
    expect("k of the others", call(routed(2, 3, 0.0)), "`k`")?;
    expect("shared heads", call(routed(1, 5, 0.0)), "`shared_heads`")?;
    for noise in [-1.0, f32::NAN, f32::INFINITY] {
        expect("noise", call(routed(1, 0, noise)), "`noise`")?;
    }
    for share in [-0.1, 1.1, f32::NAN] {
        expect("p", call(Activation::TopP { p: share }), "`p`")?;
        expect("t", call(Activation::Threshold { t: share }), "`t`")?;
    }
    expect("p", call(Activation::TopP { p: 0.0 }), "`p`")?;
    dynamic_gates_are_checked(handle, &good)?;
    let odd = |make: &dyn Fn(&mut Inputs)| {
        let mut inputs = Inputs::new(handle);
        make(&mut inputs);
        inputs.plain()
    };
    let zeros = |dtype, shape: &[usize]| Tensor::zeros(handle, dtype, shape).expect("zeros");
    expect("heads of logits", odd(&|i| i.logits = zeros(DType::F32, &[3, 5])), "`logits`")?;
    expect("rank of logits", odd(&|i| i.logits = zeros(DType::F32, &[12])), "`logits`")?;
    expect("type of logits", odd(&|i| i.logits = zeros(DType::F64, &[3, 4])), "`logits`")?;
    expect("number of ids", odd(&|i| i.tasks = zeros(DType::I32, &[3])), "`tasks`")?;
    expect("type of ids", odd(&|i| i.tasks = zeros(DType::F32, &[2])), "`tasks`")?;
    expect("heads of q", odd(&|i| i.q = zeros(DType::F32, &[2, 3, 3, 2])), "`q`")?;
    if handle.backend() != Backend::Cpu {
        expect("device", odd(&|i| i.logits = i.logits.to_device(&Device::cpu()).expect("copy")), "`logits`")?;
    }

    let list = |shape: &[usize]| zeros(DType::U32, shape);
    let (order, kv_order, counts, active) = (list(&[8]), list(&[4]), list(&[2]), list(&[2, 4]));
    let row_scale = zeros(DType::F32, &[2, 4, 3]);
    let heads = ActiveHeads {
        order: order.view(),
        kv_order: kv_order.view(),
        counts: counts.view(),
        active: active.view(),
        row_scale: row_scale.view(),
    };
    let taken = AttentionOptions { heads: Some(heads), ..AttentionOptions::default() };
    expect("heads", good.call(Activation::Sigmoid, taken), "attention.heads")?;

    saved_of_another_shape(handle, &good)
}

fn dynamic_gates_are_checked(handle: &Device, good: &Inputs) -> Result<(), String> {
    let zeros = |shape: &[usize]| Tensor::zeros(handle, DType::F32, shape).expect("zeros");
    let (x, weights, bias) = (zeros(&[2, 5]), zeros(&[3, 4, 5]), zeros(&[3, 4]));
    let refused = |what: &str, [x, weights, bias]: [&Tensor; 3], with_tasks: bool, want: &str| {
        let gate = GateSource::Dynamic {
            x: x.view(),
            weights: weights.view(),
            bias: Some(bias.view()),
            tasks: with_tasks.then(|| good.tasks.view()),
        };
        let options = TaskHeadsOptions::new(gate, Activation::Sigmoid);
        match task_heads_forward(&good.q.view(), &good.k.view(), &good.k.view(), &options) {
            Err(error) if error.to_string().contains(want) => Ok(()),
            other => Err(format!("{what}: expected an error with {want:?}, got {other:?}")),
        }
    };
    refused("samples of x", [&zeros(&[3, 5]), &weights, &bias], true, "`x`")?;
    refused("features of x", [&zeros(&[2, 6]), &weights, &bias], true, "`x`")?;
    refused("heads of weights", [&x, &zeros(&[3, 5, 5]), &bias], true, "`weights`")?;
    refused("rank of weights", [&x, &zeros(&[12, 5]), &bias], true, "`weights`")?;
    refused("tasks of bias", [&x, &weights, &zeros(&[2, 4])], true, "`bias`")?;
    refused("no tasks", [&x, &weights, &bias], false, "`tasks`")?;
    // One task's weights need no ids.
    let (weights, bias) = (zeros(&[1, 4, 5]), zeros(&[1, 4]));
    let gate =
        GateSource::Dynamic { x: x.view(), weights: weights.view(), bias: Some(bias.view()), tasks: None };
    let options = TaskHeadsOptions::new(gate, Activation::Sigmoid);
    let out = task_heads_forward(&good.q.view(), &good.k.view(), &good.k.view(), &options);
    let gates = out.and_then(|out| out.gates.to_vec::<f32>()).map_err(|error| error.to_string())?;
    if gates == [0.5; 8] { Ok(()) } else { Err(format!("gates {gates:?} of z = 0")) }
}

fn saved_of_another_shape(handle: &Device, good: &Inputs) -> Result<(), String> {
    let gate = GateSource::Static { logits: good.logits.view(), tasks: good.tasks.view() };
    let options = TaskHeadsOptions::new(gate, Activation::Sigmoid);
    let say = |error: Error| error.to_string();
    let (q, k) = (good.q.view(), good.k.view());
    let out = task_heads_forward(&q, &k, &k, &options).map_err(say)?;
    let grad_y = tensor(handle, &[1.0; 2 * 4 * 3 * 2], &[2, 4, 3, 2]);
    let short = tensor(handle, &[1.0; 4 * 3 * 2], &[1, 4, 3, 2]);
    let want = WantTaskHeadsGradients::default();
    let mut saved = out.saved();
    match task_heads_backward(&q, &k, &k, &saved, &short.view(), &options, want) {
        Err(Error::Shape { arg: "grad_y", .. }) => {}
        other => return Err(format!("a short grad_y gave {other:?}")),
    }
    saved.gates = short.view();
    match task_heads_backward(&q, &k, &k, &saved, &grad_y.view(), &options, want) {
        Err(Error::Shape { arg: "gates", .. }) => Ok(()),
        other => Err(format!("gates of another shape gave {other:?}")),
    }
}
