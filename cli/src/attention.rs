//! `gatewarp attention`: tensors of a safetensors file in, outputs and gradients out.

use crate::tensors::{self, File};
use crate::{Outcome, json};
use gatewarp::attention::{
    AttentionGradientViews, AttentionOptions, AttentionSaved, QueryOffset, Score, Window, Workspace,
    attention_backward_into, attention_backward_workspace, attention_forward_into,
    attention_forward_workspace, attention_plan,
};
use gatewarp::{DType, Device, Tensor, TensorMut, TensorRef};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// What to call a score on the command line.
#[derive(Clone, Copy, clap::ValueEnum)]
enum ScoreName {
    Dot,
    Cosine,
    ComplexDot,
    Fidelity,
    Gaussian,
    Additive,
}

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Tensors q [batch, heads, length, dim], k, v and, if they are there, bias, mask, kv_len, query_offset, sinks, alibi, w
    /// (additive score), do and dlse (gradients of o and lse)
    #[arg(value_name = "IN.safetensors")]
    input: PathBuf,
    /// Where o and lse go and, if `do` is there, dq, dk, dv and the gradients of bias, sinks, alibi and w
    #[arg(value_name = "OUT.safetensors")]
    output: PathBuf,
    /// Query i sees keys up to its position
    #[arg(long)]
    causal: bool,
    /// Factor of the scores [default: as the score has it, 1/√dim for dot]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    scale: Option<f64>,
    /// Keys before and after the position that a query sees, inf for all
    #[arg(long, value_name = "L,R", value_parser = window, allow_hyphen_values = true)]
    window: Option<Window>,
    /// Position of the first query, 0 as PyTorch's is_causal [default: the last query stands at the last key]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    query_offset: Option<i64>,
    /// Bounds the scores smoothly
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    softcap: Option<f64>,
    /// How a query and a key are compared
    #[arg(long, value_enum, default_value_t = ScoreName::Dot, value_name = "NAME")]
    score: ScoreName,
    /// Inverse squared width of the Gaussian score
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    gamma: f64,
    /// The gradient of the scale too (of γ for gaussian), as dscale
    #[arg(long)]
    dscale: bool,
    /// Device to run on: cpu, wgpu:N, cuda:N, cuda-emulated [default: GATEWARP_DEVICE, else the best there is]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Time so many runs after a warm-up and report medians
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    repeat: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    device: String,
    plan: String,
    repeat: u64,
    forward_s: f64,
    forward_flops: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    backward_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backward_flops: Option<u64>,
}

fn window(text: &str) -> Result<Window, String> {
    let side = |text: &str| match text.trim() {
        "inf" => Ok(Window::UNLIMITED),
        text => text.parse().map_err(|_| format!("`{text}` is neither a number of keys nor inf")),
    };
    let (left, right) = text.split_once(',').ok_or("expected two numbers, as in 128,0")?;
    Ok(Window { left: side(left)?, right: side(right)? })
}

/// Tensors of the file on the device, by name.
struct Inputs {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Option<Tensor>,
    mask: Option<Tensor>,
    kv_len: Option<Tensor>,
    query_offset: Option<Tensor>,
    sinks: Option<Tensor>,
    alibi: Option<Tensor>,
    w: Option<Tensor>,
    grad_o: Option<Tensor>,
    grad_lse: Option<Tensor>,
}

impl Inputs {
    fn read(file: &File, device: &Device) -> Result<Self, String> {
        let needed = |name: &str| file.tensor(name, device)?.ok_or_else(|| file.lacks(name));
        let optional = |name: &str| file.tensor(name, device);
        Ok(Self {
            q: needed("q")?,
            k: needed("k")?,
            v: needed("v")?,
            bias: optional("bias")?,
            mask: optional("mask")?,
            kv_len: optional("kv_len")?,
            query_offset: optional("query_offset")?,
            sinks: optional("sinks")?,
            alibi: optional("alibi")?,
            w: optional("w")?,
            grad_o: optional("do")?,
            grad_lse: optional("dlse")?,
        })
    }

    fn options<'a>(&'a self, arguments: &Arguments, file: &File) -> Result<AttentionOptions<'a>, String> {
        let view = |tensor: &'a Option<Tensor>| tensor.as_ref().map(Tensor::view);
        let score = match arguments.score {
            ScoreName::Dot => Score::Dot,
            ScoreName::Cosine => Score::Cosine,
            ScoreName::ComplexDot => Score::ComplexDot,
            ScoreName::Fidelity => Score::Fidelity,
            ScoreName::Gaussian => Score::Gaussian { gamma: arguments.gamma },
            ScoreName::Additive => Score::Additive { w: view(&self.w).ok_or_else(|| file.lacks("w"))? },
        };
        let query_offset = match (&self.query_offset, arguments.query_offset) {
            (Some(_), Some(_)) => {
                return Err("--query-offset and a tensor query_offset are both given".into());
            }
            (Some(offsets), None) => QueryOffset::PerSample(offsets.view()),
            (None, Some(at)) => QueryOffset::At(at),
            (None, None) => QueryOffset::BottomRight,
        };
        Ok(AttentionOptions {
            score,
            scale: arguments.scale,
            softcap: arguments.softcap,
            causal: arguments.causal,
            window: arguments.window,
            query_offset,
            kv_len: view(&self.kv_len),
            mask: view(&self.mask),
            bias: view(&self.bias),
            alibi: view(&self.alibi),
            sinks: view(&self.sinks),
            ..Default::default()
        })
    }
}

/// Output tensors of the backward pass, by the names they are written under.
struct Gradients(Vec<(&'static str, Tensor)>);

impl Gradients {
    fn new(inputs: &Inputs, device: &Device, arguments: &Arguments) -> gatewarp::Result<Self> {
        let additive = matches!(arguments.score, ScoreName::Additive);
        let like = [
            ("dq", Some(&inputs.q)),
            ("dk", Some(&inputs.k)),
            ("dv", Some(&inputs.v)),
            ("dbias", inputs.bias.as_ref()),
            ("dsinks", inputs.sinks.as_ref()),
            ("dalibi", inputs.alibi.as_ref()),
            ("dw", inputs.w.as_ref().filter(|_| additive)),
        ];
        let mut all = Vec::new();
        for (name, tensor) in like.into_iter().filter_map(|(name, tensor)| Some((name, tensor?))) {
            all.push((name, Tensor::zeros(device, tensor.dtype(), tensor.shape())?));
        }
        if arguments.dscale {
            let accumulator = accumulator(inputs.q.dtype());
            all.push(("dscale", Tensor::zeros(device, accumulator, &[1])?));
        }
        Ok(Self(all))
    }

    fn views(&mut self) -> AttentionGradientViews<'_> {
        let mut views = AttentionGradientViews::default();
        for (name, tensor) in &mut self.0 {
            let slot: &mut Option<TensorMut<'_>> = match *name {
                "dq" => &mut views.dq,
                "dk" => &mut views.dk,
                "dv" => &mut views.dv,
                "dbias" => &mut views.dbias,
                "dsinks" => &mut views.dsinks,
                "dalibi" => &mut views.dalibi,
                "dw" => &mut views.dw,
                _ => &mut views.dscale,
            };
            *slot = Some(tensor.view_mut());
        }
        views
    }
}

fn accumulator(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// A counter on the terminal of something long; nothing where nobody watches.
struct Progress {
    what: &'static str,
    total: u64,
    shown: Option<Instant>,
}

impl Progress {
    fn new(what: &'static str, total: u64, quiet: bool) -> Self {
        let watched = !quiet && total > 1 && std::io::stderr().is_terminal();
        Self { what, total, shown: watched.then(Instant::now) }
    }

    fn done(&mut self, count: u64) {
        if self.shown.is_some_and(|shown| shown.elapsed().as_millis() >= 200 || count == self.total) {
            self.shown = Some(Instant::now());
            let end = if count == self.total { '\n' } else { '\r' };
            eprint!("{}: {count} of {}{end}", self.what, self.total);
        }
    }
}

/// Runs `once` to warm up, then `repeat` times, and gives the median in seconds.
fn median(
    repeat: u64,
    mut progress: Progress,
    mut once: impl FnMut() -> gatewarp::Result<()>,
) -> Result<f64, String> {
    let mut timed = || -> gatewarp::Result<f64> {
        let start = Instant::now();
        once()?;
        Ok(start.elapsed().as_secs_f64())
    };
    timed().map_err(|error| error.to_string())?;
    let mut seconds = Vec::new();
    for count in 1..=repeat {
        seconds.push(timed().map_err(|error| error.to_string())?);
        progress.done(count);
    }
    seconds.sort_by(f64::total_cmp);
    let middle = seconds.len() / 2;
    Ok(if seconds.len() % 2 == 1 { seconds[middle] } else { 0.5 * (seconds[middle - 1] + seconds[middle]) })
}

/// Memory for a workspace; at least one byte, since nothing can be bound to none.
fn workspace(device: &Device, bytes: usize) -> gatewarp::Result<Tensor> {
    Tensor::zeros(device, DType::U8, &[bytes.max(1)])
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let text = |error: gatewarp::Error| error.to_string();
    let file = File::open(&arguments.input)?;
    let device = match &arguments.device {
        Some(name) => name.parse::<Device>().map_err(text)?,
        None => Device::best().map_err(text)?,
    };
    let inputs = Inputs::read(&file, &device)?;
    let options = inputs.options(arguments, &file)?;
    let (q, k, v) = (inputs.q.view(), inputs.k.view(), inputs.v.view());
    // Validates the call before anything is allocated.
    let plan = attention_plan(&q, &k, &v, &options).map_err(text)?;

    let mut o_shape = q.shape().to_vec();
    let rows_shape = o_shape[..3].to_vec();
    o_shape[3] = v.shape()[3];
    // The library knows these by other names.
    let given = [("do", &inputs.grad_o, &o_shape), ("dlse", &inputs.grad_lse, &rows_shape)];
    for (name, tensor, shape) in given {
        if let Some(tensor) = tensor.as_ref().filter(|tensor| tensor.shape() != shape.as_slice()) {
            return Err(file.ill_shaped(name, tensor.shape(), shape));
        }
    }
    let mut o = Tensor::zeros(&device, q.dtype(), &o_shape).map_err(text)?;
    let mut lse = Tensor::zeros(&device, accumulator(q.dtype()), &rows_shape).map_err(text)?;
    let bytes = attention_forward_workspace(&q, &k, &v, &options).map_err(text)?;
    let mut memory = workspace(&device, bytes).map_err(text)?;
    let progress = Progress::new("forward", arguments.repeat, arguments.json);
    let forward_s = median(arguments.repeat, progress, || {
        let workspace = Workspace::Given(memory.view_mut());
        attention_forward_into(&q, &k, &v, &options, &mut o.view_mut(), &mut lse.view_mut(), workspace)?;
        device.synchronize()
    })?;

    let mut results: Vec<(&'static str, Tensor)> = Vec::new();
    let mut backward_s = None;
    if let Some(grad_o) = &inputs.grad_o {
        let mut gradients = Gradients::new(&inputs, &device, arguments).map_err(text)?;
        let bytes = attention_backward_workspace(&q, &k, &v, &options).map_err(text)?;
        let mut memory = workspace(&device, bytes).map_err(text)?;
        let saved = AttentionSaved {
            o: o.view(),
            lse: lse.view(),
            grad_o: grad_o.view(),
            grad_lse: inputs.grad_lse.as_ref().map(Tensor::view),
        };
        let progress = Progress::new("backward", arguments.repeat, arguments.json);
        backward_s = Some(median(arguments.repeat, progress, || {
            let workspace = Workspace::Given(memory.view_mut());
            attention_backward_into(&q, &k, &v, &saved, &options, gradients.views(), workspace)?;
            device.synchronize()
        })?);
        results = gradients.0;
    }
    let mut written: Vec<(&str, TensorRef<'_>)> = vec![("o", o.view()), ("lse", lse.view())];
    written.extend(results.iter().map(|(name, tensor)| (*name, tensor.view())));
    tensors::write(&arguments.output, &written)?;

    let report = Report {
        device: device.name(),
        plan: plan.explain(),
        repeat: arguments.repeat,
        forward_s,
        forward_flops: plan.forward_flops,
        backward_s,
        backward_flops: backward_s.map(|_| plan.backward_flops),
    };
    let printed = if arguments.json { json(&report)? } else { summary(&report, &written, arguments) };
    Ok((printed, ExitCode::SUCCESS))
}

fn summary(report: &Report, written: &[(&str, TensorRef<'_>)], arguments: &Arguments) -> String {
    let mut text = format!("{}\n{}\n", report.device, report.plan);
    let passes = [
        ("forward", Some(report.forward_s), Some(report.forward_flops)),
        ("backward", report.backward_s, report.backward_flops),
    ];
    // Writing to a String cannot fail.
    for (name, seconds, flops) in passes {
        let (Some(seconds), Some(flops)) = (seconds, flops) else { continue };
        let rate = flops as f64 / seconds.max(1e-12) * 1e-9;
        let _ = writeln!(text, "{name:<8} {:>10.3} ms {rate:>9.1} GFLOP/s", seconds * 1e3);
    }
    let names: Vec<String> = written
        .iter()
        .map(|(name, tensor)| format!("{name} {} {:?}", tensor.dtype(), tensor.shape()))
        .collect();
    let _ = writeln!(text, "{}: {}", arguments.output.display(), names.join(", "));
    text
}
