//! What no call may accept: a typed error that names the argument, before anything is launched; inputs untouched, outputs not
//! written, the device usable afterwards. And what looks wrong but is legal.

mod support;

use gatewarp::attention::{
    ActiveHeads, AttentionGradientViews, AttentionOptions, AttentionSaved, QueryOffset, WantGradients,
    Workspace, attention_backward, attention_backward_into, attention_forward, attention_forward_into,
};
use gatewarp::{Backend, DType, Device, Error, Layout, Result, Tensor, TensorMut, TensorRef};
use std::process::ExitCode;
use support::devices::{Test, TestDevice, run};
use support::guarded::{Guarded, Strided};

static TESTS: &[Test] = &[
    Test::new("attention_forward_refuses", attention_forward_refuses),
    Test::new("attention_backward_refuses", attention_backward_refuses),
    Test::new("active_heads_refuse", active_heads_refuse),
    Test::new("tensors_refuse", tensors_refuse),
    Test::new("sizes_that_overflow_are_refused", sizes_that_overflow_are_refused),
    Test::new("nothing_to_do_is_legal", nothing_to_do_is_legal),
    Test::new("device_names_are_checked", device_names_are_checked),
];

fn main() -> ExitCode {
    run(TESTS).exit_code()
}

const BATCH: usize = 2;
const Q_HEADS: usize = 4;
const KV_HEADS: usize = 2;
const Q_LEN: usize = 3;
const SLOTS: usize = 5;
const DIM: usize = 4;
const VALUE_DIM: usize = 6;

const Q: [usize; 4] = [BATCH, Q_HEADS, Q_LEN, DIM];
const K: [usize; 4] = [BATCH, KV_HEADS, SLOTS, DIM];
const V: [usize; 4] = [BATCH, KV_HEADS, SLOTS, VALUE_DIM];
const O: [usize; 4] = [BATCH, Q_HEADS, Q_LEN, VALUE_DIM];
const LSE: [usize; 3] = [BATCH, Q_HEADS, Q_LEN];

/// The error wanted: its variant, and the argument (or limited quantity) it names.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Want {
    Shape(&'static str),
    DType(&'static str),
    Device(&'static str),
    Argument(&'static str),
    Unsupported(&'static str),
}
use Want::{Argument, Shape, Unsupported};

fn kind(error: &Error) -> Option<Want> {
    Some(match error {
        Error::Shape { arg, .. } => Shape(arg),
        Error::DType { arg, .. } => Want::DType(arg),
        Error::Device { arg, .. } => Want::Device(arg),
        Error::InvalidArgument { arg, .. } => Argument(arg),
        Error::Unsupported { what, .. } => Unsupported(what),
        _ => return None,
    })
}

fn refused<T>(what: &str, result: Result<T>, want: Want) -> std::result::Result<(), String> {
    match result {
        Ok(_) => Err(format!("{what} was accepted")),
        Err(error) if kind(&error) == Some(want) => {
            // A message a person can act on names what is wrong.
            let name = match want {
                Shape(name) | Want::DType(name) | Want::Device(name) | Argument(name) | Unsupported(name) => {
                    name
                }
            };
            if error.to_string().contains(name) {
                Ok(())
            } else {
                Err(format!("{what}: {error} does not say `{name}`"))
            }
        }
        Err(error) => Err(format!("{what}: {error:?}, expected {want:?}")),
    }
}

fn numbers(count: usize, step: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * step).sin()).collect()
}

fn tensor(device: &Device, shape: &[usize]) -> Tensor {
    Tensor::from_slice(device, &numbers(shape.iter().product(), 0.7), shape).expect("a tensor of the test")
}

fn strided(device: &Device, shape: &[usize], step: f32) -> Strided {
    let dense = Layout::contiguous(shape).expect("a shape of the test");
    Strided::new(device, &numbers(dense.len(), step), dense)
}

/// Good inputs and poisoned outputs.
struct Scene {
    device: Device,
    q: Strided,
    k: Strided,
    v: Strided,
    o: Guarded,
    lse: Guarded,
}

impl Scene {
    fn new(device: &Device) -> Self {
        let output =
            |shape: &[usize]| Guarded::new(device, Layout::contiguous(shape).expect("a shape of the test"));
        Self {
            device: device.clone(),
            q: strided(device, &Q, 0.3),
            k: strided(device, &K, 0.5),
            v: strided(device, &V, 0.9),
            o: output(&O),
            lse: output(&LSE),
        }
    }

    /// A forward call with the good inputs, but these options.
    fn forward(&mut self, options: &AttentionOptions<'_>) -> Result<()> {
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        attention_forward_into(
            &q,
            &k,
            &v,
            options,
            &mut self.o.view_mut(),
            &mut self.lse.view_mut(),
            Workspace::Allocate,
        )
    }

    /// Nothing was written, nothing was changed, and the device still computes.
    fn check_usable(&mut self) -> std::result::Result<(), String> {
        self.device.synchronize().map_err(|error| format!("after refusals: {error}"))?;
        self.o.read_where("o after refusals", |_| false)?;
        self.lse.read_where("lse after refusals", |_| false)?;
        for (name, input) in [("q", &self.q), ("k", &self.k), ("v", &self.v)] {
            input.check_untouched(name)?;
        }
        // All queries see the first key alone when it is the only one: o is its value.
        let one =
            Tensor::from_slice(&self.device, &[1i32; BATCH], &[BATCH]).map_err(|error| error.to_string())?;
        let options = AttentionOptions { kv_len: Some(one.view()), ..AttentionOptions::default() };
        self.forward(&options).map_err(|error| format!("a good call after refusals: {error}"))?;
        let o = self.o.read("o")?;
        let v = numbers(V.iter().product(), 0.9);
        for (at, &got) in o.iter().enumerate() {
            let (row, d) = (at / VALUE_DIM, at % VALUE_DIM);
            let (b, h) = (row / Q_LEN / Q_HEADS, row / Q_LEN % Q_HEADS);
            let want = v[(b * KV_HEADS + h / 2) * SLOTS * VALUE_DIM + d];
            if (got - want).abs() > 1e-6 || got.is_nan() {
                return Err(format!("o[{at}] = {got} instead of {want} after refusals"));
            }
        }
        Ok(())
    }
}

/// Another device than `device`, if this machine has one: the CPU, or an emulated GPU for the CPU itself.
fn another(device: &Device) -> Option<Device> {
    if device.backend() != Backend::Cpu {
        return Some(Device::cpu());
    }
    Device::cuda_emulated(gatewarp::Schedule::InOrder).ok()
}

fn attention_forward_refuses(device: &TestDevice) -> std::result::Result<(), String> {
    let device = &device.handles[0];
    let mut scene = Scene::new(device);
    let plain = AttentionOptions::default();

    // Shapes and types of one input, the others being right.
    let with = |arg: &str, other: &TensorRef<'_>, scene: &mut Scene| -> Result<()> {
        let q = if arg == "q" { other.clone() } else { scene.q.view() };
        let k = if arg == "k" { other.clone() } else { scene.k.view() };
        let v = if arg == "v" { other.clone() } else { scene.v.view() };
        attention_forward_into(
            &q,
            &k,
            &v,
            &plain,
            &mut scene.o.view_mut(),
            &mut scene.lse.view_mut(),
            Workspace::Allocate,
        )?;
        attention_forward(&q, &k, &v, &plain).map(|_| ())
    };
    let shapes: &[(&str, &[usize], Want)] = &[
        ("q", &[Q_HEADS, Q_LEN, DIM], Shape("q")),
        ("k", &[BATCH, KV_HEADS, SLOTS, DIM, 1], Shape("k")),
        ("v", &[SLOTS, VALUE_DIM], Shape("v")),
        ("k", &[BATCH + 1, KV_HEADS, SLOTS, DIM], Shape("k")),
        ("k", &[BATCH, KV_HEADS, SLOTS, DIM + 1], Shape("k")),
        ("v", &[BATCH, KV_HEADS, SLOTS + 1, VALUE_DIM], Shape("v")),
        ("v", &[BATCH, KV_HEADS + 1, SLOTS, VALUE_DIM], Shape("v")),
        ("q", &[BATCH, Q_HEADS + 1, Q_LEN, DIM], Argument("q")),
        ("q", &[BATCH, Q_HEADS, Q_LEN, 0], Shape("k")),
        ("v", &[BATCH, KV_HEADS, SLOTS, 0], Unsupported("value dimension")),
        ("v", &[BATCH, KV_HEADS, SLOTS, 129], Unsupported("value dimension")),
    ];
    for (arg, shape, want) in shapes {
        let other = tensor(device, shape);
        refused(&format!("{arg} {shape:?}"), with(arg, &other.view(), &mut scene), *want)?;
    }
    let wide =
        [tensor(device, &[BATCH, Q_HEADS, Q_LEN, 129]), tensor(device, &[BATCH, KV_HEADS, SLOTS, 129])];
    let result = attention_forward(&wide[0].view(), &wide[1].view(), &scene.v.view(), &plain);
    refused("a head dimension of 129", result, Unsupported("head dimension"))?;
    let result = attention_forward(
        &scene.q.view(),
        &tensor(device, &[BATCH, 0, SLOTS, DIM]).view(),
        &tensor(device, &[BATCH, 0, SLOTS, VALUE_DIM]).view(),
        &plain,
    );
    refused("queries without key heads", result, Argument("q"))?;

    for (arg, shape) in [("q", Q), ("k", K), ("v", V)] {
        let double = Tensor::zeros(device, DType::F64, &shape).map_err(|error| error.to_string())?;
        refused(&format!("{arg} f64"), with(arg, &double.view(), &mut scene), Want::DType(arg))?;
        // Stored with the last dimension outermost.
        let stored = tensor(device, &[shape[3], shape[0], shape[1], shape[2]]);
        let turned = stored.view().permute(&[1, 2, 3, 0]).map_err(|error| error.to_string())?;
        refused(
            &format!("{arg} with gaps in its last dimension"),
            with(arg, &turned, &mut scene),
            Argument(arg),
        )?;
        if let Some(elsewhere) = another(device) {
            let elsewhere = tensor(&elsewhere, &shape);
            let named = if arg == "q" { "k" } else { arg };
            let result = with(arg, &elsewhere.view(), &mut scene);
            refused(&format!("{arg} on another device"), result, Want::Device(named))?;
        }
    }

    for (name, scale) in [("NaN", f32::NAN), ("∞", f32::INFINITY), ("−∞", f32::NEG_INFINITY)] {
        let options = AttentionOptions { scale: Some(scale.into()), ..AttentionOptions::default() };
        refused(&format!("scale {name}"), scene.forward(&options), Argument("scale"))?;
    }
    lists_are_checked(&mut scene)?;
    outputs_are_checked(device, &scene)?;
    scene.check_usable()
}

/// `kv_len` and `query_offset`.
fn lists_are_checked(scene: &mut Scene) -> std::result::Result<(), String> {
    let cpu = Device::cpu();
    for bad in [-1i64, SLOTS as i64 + 1, i64::MIN, i64::MAX, 1 << 32] {
        let list = Tensor::from_slice(&cpu, &[0, bad], &[BATCH]).map_err(|error| error.to_string())?;
        let options = AttentionOptions { kv_len: Some(list.view()), ..AttentionOptions::default() };
        refused(&format!("kv_len {bad}"), scene.forward(&options), Argument("kv_len"))?;
    }
    let device = scene.device.clone();
    for place in [&cpu, &device] {
        let lists = [
            (Tensor::from_slice(place, &[1i32; BATCH + 1], &[BATCH + 1]), false),
            (Tensor::from_slice(place, &[1i32; BATCH], &[BATCH, 1]), false),
            (Tensor::from_slice(place, &[1.0f32; BATCH], &[BATCH]), true),
        ];
        for (list, wrong_type) in lists {
            let list = list.map_err(|error| error.to_string())?;
            let want = |arg| if wrong_type { Want::DType(arg) } else { Shape(arg) };
            let lengths = AttentionOptions { kv_len: Some(list.view()), ..AttentionOptions::default() };
            refused(&format!("kv_len {list:?}"), scene.forward(&lengths), want("kv_len"))?;
            let query_offset = QueryOffset::PerSample(list.view());
            let offsets = AttentionOptions { causal: true, query_offset, ..AttentionOptions::default() };
            refused(&format!("query_offset {list:?}"), scene.forward(&offsets), want("query_offset"))?;
        }
    }
    // A list on a device that is neither the host nor the inputs' own.
    if let Some(third) =
        Device::cuda_emulated(gatewarp::Schedule::Reversed).ok().filter(|third| !third.is_same(&device))
    {
        let list = Tensor::from_slice(&third, &[1i32; BATCH], &[BATCH]).map_err(|error| error.to_string())?;
        let options = AttentionOptions { kv_len: Some(list.view()), ..AttentionOptions::default() };
        refused("kv_len on a third device", scene.forward(&options), Want::Device("kv_len"))?;
    }
    Ok(())
}

fn outputs_are_checked(device: &Device, scene: &Scene) -> std::result::Result<(), String> {
    let plain = AttentionOptions::default();
    let into = |o: &mut TensorMut<'_>, lse: &mut TensorMut<'_>| {
        attention_forward_into(
            &scene.q.view(),
            &scene.k.view(),
            &scene.v.view(),
            &plain,
            o,
            lse,
            Workspace::Allocate,
        )
    };
    let (mut o, mut lse) = (tensor(device, &O), tensor(device, &LSE));
    let mut long = tensor(device, &[BATCH, Q_HEADS, Q_LEN + 1, VALUE_DIM]);
    refused("a longer o", into(&mut long.view_mut(), &mut lse.view_mut()), Shape("o"))?;
    let mut flat = tensor(device, &[BATCH * Q_HEADS * Q_LEN]);
    refused("a flat lse", into(&mut o.view_mut(), &mut flat.view_mut()), Shape("lse"))?;
    let mut double = Tensor::zeros(device, DType::F64, &O).map_err(|error| error.to_string())?;
    refused("o f64", into(&mut double.view_mut(), &mut lse.view_mut()), Want::DType("o"))?;
    let mut stored = tensor(device, &[VALUE_DIM, BATCH, Q_HEADS, Q_LEN]);
    let mut turned = stored.view_mut().permute(&[1, 2, 3, 0]).map_err(|error| error.to_string())?;
    refused("o with gaps in its last dimension", into(&mut turned, &mut lse.view_mut()), Argument("o"))?;
    if let Some(elsewhere) = another(device) {
        let mut elsewhere = tensor(&elsewhere, &LSE);
        let result = into(&mut o.view_mut(), &mut elsewhere.view_mut());
        refused("lse on another device", result, Want::Device("lse"))?;
    }
    if o.to_vec::<f32>().map_err(|error| error.to_string())? != numbers(O.iter().product(), 0.7) {
        return Err("a refused call wrote o".into());
    }
    Ok(())
}

fn attention_backward_refuses(device: &TestDevice) -> std::result::Result<(), String> {
    let device = &device.handles[0];
    let mut scene = Scene::new(device);
    let plain = AttentionOptions::default();
    let good_o = tensor(device, &O);
    let good_rows = tensor(device, &LSE);
    let wrong_o = tensor(device, &[BATCH, Q_HEADS, Q_LEN, VALUE_DIM + 1]);
    let wrong_rows = tensor(device, &[BATCH, Q_HEADS, Q_LEN + 1]);
    let double = Tensor::zeros(device, DType::F64, &O).map_err(|error| error.to_string())?;
    let backward = |saved: &AttentionSaved<'_>, views: AttentionGradientViews<'_>| {
        attention_backward_into(
            &scene.q.view(),
            &scene.k.view(),
            &scene.v.view(),
            saved,
            &plain,
            views,
            Workspace::Allocate,
        )
    };
    let saved = || AttentionSaved {
        o: good_o.view(),
        lse: good_rows.view(),
        grad_o: good_o.view(),
        grad_lse: Some(good_rows.view()),
    };
    let wrong = [
        ("o", AttentionSaved { o: wrong_o.view(), ..saved() }, Shape("o")),
        ("grad_o", AttentionSaved { grad_o: wrong_o.view(), ..saved() }, Shape("grad_o")),
        ("lse", AttentionSaved { lse: wrong_rows.view(), ..saved() }, Shape("lse")),
        ("grad_lse", AttentionSaved { grad_lse: Some(wrong_rows.view()), ..saved() }, Shape("grad_lse")),
        ("grad_o f64", AttentionSaved { grad_o: double.view(), ..saved() }, Want::DType("grad_o")),
    ];
    for (name, saved, want) in wrong {
        let mut dq = tensor(device, &Q);
        let views = AttentionGradientViews { dq: Some(dq.view_mut()), ..Default::default() };
        refused(name, backward(&saved, views), want)?;
    }
    let mut gradients = [tensor(device, &V), tensor(device, &V), tensor(device, &K), tensor(device, &LSE)];
    let [a, b, c, d] = gradients.each_mut().map(|tensor| Some(tensor.view_mut()));
    let wrong = [
        ("dq shaped as v", AttentionGradientViews { dq: a, ..Default::default() }, Shape("dq")),
        ("dk shaped as v", AttentionGradientViews { dk: b, ..Default::default() }, Shape("dk")),
        ("dv shaped as k", AttentionGradientViews { dv: c, ..Default::default() }, Shape("dv")),
        (
            "drow_scale without heads",
            AttentionGradientViews { drow_scale: d, ..Default::default() },
            Argument("drow_scale"),
        ),
    ];
    for (name, views, want) in wrong {
        refused(name, backward(&saved(), views), want)?;
    }
    let options = AttentionOptions { scale: Some(f64::NAN), ..AttentionOptions::default() };
    let (q, k, v) = (scene.q.view(), scene.k.view(), scene.v.view());
    let result = attention_backward(&q, &k, &v, &saved(), &options, WantGradients::default());
    refused("scale NaN", result, Argument("scale"))?;
    scene.check_usable()
}

fn active_heads_refuse(device: &TestDevice) -> std::result::Result<(), String> {
    let device = &device.handles[0];
    let mut scene = Scene::new(device);
    let words = |count: usize, shape: &[usize]| {
        Tensor::from_slice(device, &(0..count as u32).collect::<Vec<_>>(), shape).expect("a list of the test")
    };
    let (pairs, kv_pairs) = (BATCH * Q_HEADS, BATCH * KV_HEADS);
    let (order, kv_order, counts) = (words(pairs, &[pairs]), words(kv_pairs, &[kv_pairs]), words(2, &[2]));
    let (active, scales) = (words(pairs, &[BATCH, Q_HEADS]), tensor(device, &LSE));
    let good = || ActiveHeads {
        order: order.view(),
        kv_order: kv_order.view(),
        counts: counts.view(),
        active: active.view(),
        row_scale: scales.view(),
    };
    let (three, flags) = (words(3, &[3]), tensor(device, &[BATCH, Q_HEADS]));
    let wrong = [
        ("order", ActiveHeads { order: kv_order.view(), ..good() }, Shape("heads.order")),
        ("kv_order", ActiveHeads { kv_order: order.view(), ..good() }, Shape("heads.kv_order")),
        ("counts", ActiveHeads { counts: three.view(), ..good() }, Shape("heads.counts")),
        ("active", ActiveHeads { active: order.view(), ..good() }, Shape("heads.active")),
        ("active f32", ActiveHeads { active: flags.view(), ..good() }, Want::DType("heads.active")),
        ("row_scale", ActiveHeads { row_scale: flags.view(), ..good() }, Shape("heads.row_scale")),
    ];
    for (name, heads, want) in wrong {
        let options = AttentionOptions { heads: Some(heads), ..AttentionOptions::default() };
        refused(name, scene.forward(&options), want)?;
    }
    if let Some(elsewhere) = another(device) {
        let elsewhere =
            Tensor::from_slice(&elsewhere, &[0u32; 2], &[2]).map_err(|error| error.to_string())?;
        let heads = ActiveHeads { counts: elsewhere.view(), ..good() };
        let options = AttentionOptions { heads: Some(heads), ..AttentionOptions::default() };
        refused("counts on another device", scene.forward(&options), Want::Device("heads.counts"))?;
    }
    scene.check_usable()
}

fn tensors_refuse(device: &TestDevice) -> std::result::Result<(), String> {
    let device = &device.handles[0];
    let data = [1.0f32; 6];
    refused("six elements as [2, 2]", Tensor::from_slice(device, &data, &[2, 2]), Shape("data"))?;
    refused("nine dimensions", Tensor::zeros(device, DType::F32, &[1; 9]), Argument("shape"))?;
    let mut tensor = Tensor::from_slice(device, &data, &[2, 3]).map_err(|error| error.to_string())?;
    refused("f32 read as f64", tensor.to_vec::<f64>(), Want::DType("self"))?;
    refused("a repeated dimension", tensor.view().permute(&[0, 0]), Argument("order"))?;
    refused("a missing dimension", tensor.view().permute(&[0]), Argument("order"))?;
    refused("a range beyond the end", tensor.view().narrow(1, 2, 2), Argument("range"))?;
    refused("a range of a missing dimension", tensor.view().narrow(2, 0, 1), Argument("range"))?;
    refused("a range that wraps", tensor.view().narrow(1, usize::MAX, 2), Argument("range"))?;
    refused("strides of another rank", Layout::new(&[2, 3], &[3], 0), Argument("strides"))?;
    let layout = |shape: &[usize], strides: &[usize], offset| {
        Layout::new(shape, strides, offset).expect("a layout of the test")
    };
    for outside in [
        layout(&[2, 3], &[3, 1], 1),
        layout(&[2, 3], &[4, 1], 0),
        layout(&[7], &[1], 0),
        layout(&[1], &[1], 6),
    ] {
        refused(
            &format!("{outside:?} of six elements"),
            tensor.view().with_layout(outside),
            Argument("layout"),
        )?;
    }
    for twice in [layout(&[2, 3], &[0, 1], 0), layout(&[2, 2], &[1, 1], 0)] {
        refused(&format!("writing {twice:?}"), tensor.view_mut().with_layout(twice), Argument("layout"))?;
        tensor.view().with_layout(twice).map_err(|error| format!("reading {twice:?}: {error}"))?;
    }
    if tensor.to_vec::<f32>().map_err(|error| error.to_string())? == data {
        Ok(())
    } else {
        Err("the tensor changed".into())
    }
}

fn sizes_that_overflow_are_refused(device: &TestDevice) -> std::result::Result<(), String> {
    let device = &device.handles[0];
    let big = 1usize << 40;
    for shape in [[usize::MAX, 2, 1, 1], [big, big, 1, 1], [usize::MAX, 0, usize::MAX, 1], [1 << 62, 1, 1, 1]]
    {
        refused(&format!("{shape:?}"), Tensor::zeros(device, DType::F32, &shape), Argument("shape"))?;
    }
    let layouts = [
        ([2, 2], [usize::MAX, 1], "strides"),
        ([2, big], [1 << 60, 1], "strides"),
        ([big, big], [0, 0], "shape"),
        ([0, usize::MAX], [1, 2], "shape"),
    ];
    for (shape, strides, arg) in layouts {
        refused(&format!("{shape:?} by {strides:?}"), Layout::new(&shape, &strides, 0), Argument(arg))?;
    }
    refused("an offset at the end", Layout::new(&[2], &[1], usize::MAX), Argument("strides"))?;
    // A petabyte: representable, and nobody has it.
    match Tensor::zeros(device, DType::F32, &[1 << 48]) {
        Err(Error::OutOfMemory { .. } | Error::Unsupported { .. }) => {}
        other => return Err(format!("a petabyte gave {other:?}")),
    }
    // A view that repeats one element until no output could hold the result.
    let one = Tensor::from_slice(device, &[1.0f32], &[1]).map_err(|error| error.to_string())?;
    let repeated = |shape: &[usize; 4]| {
        Layout::new(shape, &[0, 0, 0, 1], 0)
            .and_then(|layout| one.view().with_layout(layout))
            .map_err(|error| error.to_string())
    };
    for shape in [[1 << 20, 1 << 20, 1 << 10, 1], [1 << 31, 1, 1, 1], [1, 1, 1 << 31, 1], [1, 1 << 31, 1, 1]]
    {
        let view = repeated(&shape)?;
        match attention_forward(&view, &view, &view, &AttentionOptions::default()) {
            Err(Error::Unsupported { .. } | Error::InvalidArgument { .. } | Error::OutOfMemory { .. }) => {}
            other => return Err(format!("attention of {shape:?} gave {other:?}")),
        }
    }
    Scene::new(device).check_usable()
}

fn nothing_to_do_is_legal(device: &TestDevice) -> std::result::Result<(), String> {
    let device = &device.handles[0];
    let shapes: [[usize; 5]; 5] =
        [[0, 2, 2, 3, 4], [2, 0, 0, 3, 4], [2, 2, 1, 0, 4], [2, 2, 1, 3, 0], [0, 0, 0, 0, 0]];
    for [batch, heads, kv_heads, q_len, slots] in shapes {
        let what = format!("batch {batch}, heads {heads}/{kv_heads}, lengths {q_len}/{slots}");
        let run = || -> Result<_> {
            let q = Tensor::zeros(device, DType::F32, &[batch, heads, q_len, 8])?;
            let k = Tensor::zeros(device, DType::F32, &[batch, kv_heads, slots, 8])?;
            let (q, k) = (q.view(), k.view());
            let options = AttentionOptions { causal: true, ..AttentionOptions::default() };
            let out = attention_forward(&q, &k, &k, &options)?;
            let saved = AttentionSaved {
                o: out.o.view(),
                lse: out.lse.view(),
                grad_o: out.o.view(),
                grad_lse: Some(out.lse.view()),
            };
            let grads = attention_backward(&q, &k, &k, &saved, &options, WantGradients::default())?;
            device.synchronize()?;
            let read = |gradient: Option<Tensor>| gradient.map_or(Ok(Vec::new()), |g| g.to_vec::<f32>());
            let gradients = [read(grads.dq)?, read(grads.dk)?, read(grads.dv)?].concat();
            Ok((out.o.to_vec::<f32>()?, out.lse.to_vec::<f32>()?, gradients))
        };
        let (o, lse, gradients) = run().map_err(|error| format!("{what}: {error}"))?;
        if o.len() != batch * heads * q_len * 8 || lse.len() != batch * heads * q_len {
            return Err(format!("{what}: {} and {} elements", o.len(), lse.len()));
        }
        if o.iter().chain(&gradients).any(|&x| x != 0.0) || lse.iter().any(|&x| x != f32::NEG_INFINITY) {
            return Err(format!("{what}: o {o:?}, lse {lse:?}, gradients {gradients:?}"));
        }
    }
    Scene::new(device).check_usable()
}

fn device_names_are_checked(device: &TestDevice) -> std::result::Result<(), String> {
    for spec in ["", "gpu", "cpu:0", "cuda:", "cuda:x", "wgpu:-1", "cuda-emulated:fast", "CPU"] {
        refused(&format!("device `{spec}`"), spec.parse::<Device>(), Argument("device"))?;
    }
    for spec in ["wgpu:4096", "cuda:4096"] {
        match spec.parse::<Device>() {
            Err(Error::BackendUnavailable { .. }) => {}
            other => return Err(format!("device `{spec}` gave {other:?}")),
        }
    }
    Scene::new(&device.handles[0]).check_usable()
}
