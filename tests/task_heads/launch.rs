//! One gated problem on one device: inputs with traps in their gaps, outputs poisoned and guarded.

use crate::case::{GateCase, GateData, GateStream};
use crate::support::attention_case::Offset;
use crate::support::guarded::{Guarded, Inner, Strided, random_layout};
use crate::support::random::Random;
use gatewarp::attention::{AttentionOptions, QueryOffset};
use gatewarp::task_heads::{
    GateSource, TaskHeadsOptions, TaskHeadsSaved, TaskHeadsViews, WantTaskHeadsGradients,
    task_heads_backward, task_heads_forward_into,
};
use gatewarp::{DType, Device, Layout, Tensor};

/// What the lists hold before a launch; no index and no count.
const UNWRITTEN: u32 = 0xdead_beef;

/// Inputs on a device.
pub struct Launch {
    device: Device,
    case: GateCase,
    batch: usize,
    scale: Option<f32>,
    q: Strided,
    k: Strided,
    v: Strided,
    grad_y: Strided,
    logits: Strided,
    tasks: Option<Tensor>,
    offset: QueryOffsetData,
    kv_len: Option<Tensor>,
}

enum QueryOffsetData {
    BottomRight,
    At(i64),
    PerSample(Tensor),
}

/// Outputs of a forward pass, as values and as the memory a backward pass reads.
pub struct Run {
    pub y: Vec<f32>,
    pub lse: Vec<f32>,
    pub gates: Vec<f32>,
    pub probabilities: Vec<f32>,
    pub order: Vec<u32>,
    pub kv_order: Vec<u32>,
    pub counts: Vec<u32>,
    pub active: Vec<u32>,
    memory: Memory,
}

/// Outputs of a forward pass before they are read.
pub struct Memory {
    y: Guarded,
    lse: Guarded,
    gates: Guarded,
    probabilities: Guarded,
    order: Tensor,
    kv_order: Tensor,
    counts: Tensor,
    active: Tensor,
}

impl Memory {
    /// # Errors
    /// A message if a refused launch wrote something.
    pub fn check_untouched(&self) -> Result<(), String> {
        let floats = [
            ("y", &self.y),
            ("lse", &self.lse),
            ("gates", &self.gates),
            ("probabilities", &self.probabilities),
        ];
        floats.iter().try_for_each(|(name, output)| output.read_where(name, |_| false).map(drop))?;
        for list in [&self.order, &self.kv_order, &self.counts, &self.active] {
            let words: Vec<u32> = list.to_vec().map_err(|error| error.to_string())?;
            if words.iter().any(|&word| word != UNWRITTEN) {
                return Err(format!("a list was written: {words:?}"));
            }
        }
        Ok(())
    }
}

/// Outputs of a backward pass: those asked for.
#[derive(Debug)]
pub struct GradientRun {
    pub dq: Option<Vec<f32>>,
    pub dk: Option<Vec<f32>>,
    pub dv: Option<Vec<f32>>,
    pub dgate: Option<Vec<f32>>,
}

/// Task ids in a random integer type and place.
pub fn task_ids(device: &Device, tasks: &[i64], random: &mut Random) -> Tensor {
    let place = if random.one_in(2) { Device::cpu() } else { device.clone() };
    integers(&place, tasks, random)
}

/// Integers in a random type. −1 becomes `u32::MAX` in u32.
pub fn integers(place: &Device, values: &[i64], random: &mut Random) -> Tensor {
    let shape = [values.len()];
    let tensor = match random.below(3) {
        0 => Tensor::from_slice(place, values, &shape),
        1 => Tensor::from_slice(place, &values.iter().map(|&x| x as u32).collect::<Vec<_>>(), &shape),
        _ => Tensor::from_slice(place, &values.iter().map(|&x| x as i32).collect::<Vec<_>>(), &shape),
    };
    tensor.expect("a list of integers")
}

impl Launch {
    /// Uploads a problem with random strides.
    pub fn new(device: &Device, case: &GateCase, data: &GateData) -> Self {
        let p = &data.attention.problem;
        let mut layouts = case.random(GateStream::Layouts);
        let (b, hq, hk) = (p.batch, p.q_heads, p.kv_heads);
        let mut strided = |values: &[f32], shape: &[usize], inner| {
            Strided::new(device, values, random_layout(shape, inner, &mut layouts))
        };
        let mut places = case.random(GateStream::Places);
        let rows = data.logits.len() / hq;
        Self {
            q: strided(&data.attention.q, &[b, hq, p.q_len, p.head_dim], Inner::Contiguous),
            k: strided(&data.attention.k, &[b, hk, p.kv_slots, p.head_dim], Inner::Contiguous),
            v: strided(&data.attention.v, &[b, hk, p.kv_slots, p.value_dim], Inner::Contiguous),
            grad_y: strided(&data.attention.grad_o, &[b, hq, p.q_len, p.value_dim], Inner::Contiguous),
            logits: strided(&data.logits, &[rows, hq], Inner::Free),
            tasks: case.tasks.map(|_| task_ids(device, &data.tasks, &mut places)),
            offset: match data.attention.offset {
                Offset::BottomRight => QueryOffsetData::BottomRight,
                Offset::At(at) => QueryOffsetData::At(at),
                Offset::PerSample => QueryOffsetData::PerSample(integers_i64(device, &p.offset)),
            },
            kv_len: data.attention.own_lengths.then(|| {
                let lengths: Vec<i64> = p.kv_len.iter().map(|&n| n as i64).collect();
                integers_i64(device, &lengths)
            }),
            device: device.clone(),
            case: case.clone(),
            batch: b,
            scale: data.attention.scale,
        }
    }

    /// Replaces the task ids by these, unchecked.
    pub fn set_tasks(&mut self, tasks: Tensor) {
        self.tasks = Some(tasks);
    }

    pub fn attention_options(&self) -> AttentionOptions<'_> {
        AttentionOptions {
            scale: self.scale.map(f64::from),
            causal: self.case.attention.causal,
            query_offset: match &self.offset {
                QueryOffsetData::BottomRight => QueryOffset::BottomRight,
                QueryOffsetData::At(at) => QueryOffset::At(*at),
                QueryOffsetData::PerSample(list) => QueryOffset::PerSample(list.view()),
            },
            kv_len: self.kv_len.as_ref().map(Tensor::view),
            heads: None,
            ..Default::default()
        }
    }

    /// Options as a caller writes them.
    pub fn options(&self) -> TaskHeadsOptions<'_> {
        let gate = match &self.tasks {
            Some(tasks) => GateSource::Static { logits: self.logits.view(), tasks: tasks.view() },
            None => GateSource::Provided { values: self.logits.view() },
        };
        TaskHeadsOptions {
            no_task: self.case.no_task,
            zero_gate_grad: self.case.zero_gate_grad,
            attention: self.attention_options(),
            ..TaskHeadsOptions::new(gate, self.case.activation)
        }
    }

    pub fn inputs(&self) -> [&Strided; 3] {
        [&self.q, &self.k, &self.v]
    }

    fn check_inputs(&self) -> Result<(), String> {
        let inputs = [
            ("q", &self.q),
            ("k", &self.k),
            ("v", &self.v),
            ("grad_y", &self.grad_y),
            ("logits", &self.logits),
        ];
        inputs.iter().try_for_each(|(name, input)| input.check_untouched(name))
    }

    fn say(&self, error: impl std::fmt::Display) -> String {
        format!("{}: {error}", self.device.name())
    }

    /// Poisoned outputs.
    pub fn outputs(&self) -> Memory {
        let a = &self.case.attention;
        let (b, h) = (self.batch, self.case.heads());
        let mut random = Random::new(a.seed ^ 0x5eed, 1);
        let mut strided =
            |shape: &[usize], inner| Guarded::new(&self.device, random_layout(shape, inner, &mut random));
        let y = strided(&[b, h, a.q_len, a.value_dim], Inner::Contiguous);
        let lse = strided(&[b, h, a.q_len], Inner::Free);
        // Contiguous, at an offset no vector unit likes.
        let flat = |offset| {
            Guarded::new(&self.device, Layout::new(&[b, h], &[h, 1], offset).expect("a contiguous layout"))
        };
        let list = |shape: &[usize]| {
            let words = vec![UNWRITTEN; shape.iter().product()];
            Tensor::from_slice(&self.device, &words, shape).expect("a list")
        };
        Memory {
            y,
            lse,
            gates: flat(3),
            probabilities: flat(5),
            order: list(&[b * h]),
            kv_order: list(&[b * a.kv_heads]),
            counts: list(&[2]),
            active: list(&[b, h]),
        }
    }

    /// Launches a forward pass, whatever comes of it.
    pub fn launch_forward(&self, memory: &mut Memory) -> gatewarp::Result<()> {
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        let views = TaskHeadsViews {
            y: memory.y.view_mut(),
            lse: memory.lse.view_mut(),
            gates: memory.gates.view_mut(),
            probabilities: memory.probabilities.view_mut(),
            order: memory.order.view_mut(),
            kv_order: memory.kv_order.view_mut(),
            counts: memory.counts.view_mut(),
            active: memory.active.view_mut(),
        };
        task_heads_forward_into(&q, &k, &v, &self.options(), views)
    }

    /// A forward pass: every element written, nothing outside, inputs untouched.
    pub fn forward(&self) -> Result<Run, String> {
        let mut memory = self.outputs();
        self.launch_forward(&mut memory).map_err(|error| self.say(error))?;
        self.device.synchronize().map_err(|error| self.say(error))?;
        self.read(memory)
    }

    /// Reads what a forward pass left.
    pub fn read(&self, memory: Memory) -> Result<Run, String> {
        let read = |name: &str, output: &Guarded| output.read(name).map_err(|error| self.say(error));
        let list = |name: &str, tensor: &Tensor| -> Result<Vec<u32>, String> {
            let words: Vec<u32> = tensor.to_vec().map_err(|error| self.say(error))?;
            match words.iter().position(|&word| word == UNWRITTEN) {
                Some(at) => Err(self.say(format!("{name}[{at}] was not written"))),
                None => Ok(words),
            }
        };
        let run = Run {
            y: read("y", &memory.y)?,
            lse: read("lse", &memory.lse)?,
            gates: read("gates", &memory.gates)?,
            probabilities: read("probabilities", &memory.probabilities)?,
            order: list("order", &memory.order)?,
            kv_order: list("kv_order", &memory.kv_order)?,
            counts: list("counts", &memory.counts)?,
            active: list("active", &memory.active)?,
            memory,
        };
        self.check_inputs().map_err(|error| self.say(error))?;
        Ok(run)
    }

    /// A backward pass from what `run` holds.
    pub fn launch_backward(&self, run: &Run, want: WantTaskHeadsGradients) -> gatewarp::Result<GradientRun> {
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        let memory = &run.memory;
        let saved = TaskHeadsSaved {
            y: memory.y.view(),
            lse: memory.lse.view(),
            gates: memory.gates.view(),
            probabilities: memory.probabilities.view(),
            order: memory.order.view(),
            kv_order: memory.kv_order.view(),
            counts: memory.counts.view(),
            active: memory.active.view(),
        };
        let out = task_heads_backward(&q, &k, &v, &saved, &self.grad_y.view(), &self.options(), want)?;
        self.device.synchronize()?;
        let read = |tensor: Option<Tensor>| tensor.map(|tensor| tensor.to_vec::<f32>()).transpose();
        Ok(GradientRun { dq: read(out.dq)?, dk: read(out.dk)?, dv: read(out.dv)?, dgate: read(out.dgate)? })
    }

    /// All gradients; the gate's only where there is one.
    pub fn backward(&self, run: &Run) -> Result<GradientRun, String> {
        let dgate = !crate::case::has_no_gradient(self.case.activation);
        let want = WantTaskHeadsGradients { dgate, ..WantTaskHeadsGradients::default() };
        let out = self.launch_backward(run, want).map_err(|error| self.say(error))?;
        self.check_inputs().map_err(|error| self.say(error))?;
        Ok(out)
    }
}

fn integers_i64(device: &Device, values: &[i64]) -> Tensor {
    Tensor::from_slice(device, values, &[values.len()]).expect("a list of integers")
}

/// A contiguous f32 tensor.
pub fn tensor(device: &Device, values: &[f32], shape: &[usize]) -> Tensor {
    assert_eq!(
        values.len(),
        shape.iter().product::<usize>(),
        "values do not fill {shape:?} of {}",
        DType::F32
    );
    Tensor::from_slice(device, values, shape).expect("an f32 tensor")
}
