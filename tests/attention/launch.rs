//! One attention problem on one device: inputs with traps in their gaps, outputs poisoned and guarded.

use crate::support::attention_case::{Data, Offset, Stream};
use crate::support::compare::close;
use crate::support::guarded::{Guarded, Inner, Strided, random_layout};
use crate::support::oracle::{Attention, Forward, Gradients};
use crate::support::random::Random;
use crate::support::tolerance;
use gatewarp::attention::{
    ActiveHeads, AttentionGradientViews, AttentionOptions, AttentionSaved, QueryOffset, WantGradients,
    Workspace, attention_backward_into, attention_forward_into,
};
use gatewarp::{DType, Device, Layout, Tensor, TensorRef};

/// Inputs on a device.
pub struct Launch {
    device: Device,
    seed: u64,
    problem: Attention,
    scale: Option<f32>,
    q: Strided,
    k: Strided,
    v: Strided,
    grad_o: Strided,
    grad_lse: Strided,
    offset: Option<Integers>,
    fixed_offset: Option<i64>,
    kv_len: Option<Integers>,
    heads: Option<Heads>,
}

/// The list of active heads, on the device.
struct Heads {
    order: Tensor,
    kv_order: Tensor,
    counts: Tensor,
    active: Tensor,
    row_scale: Strided,
}

/// Outputs of a forward pass, as values and as the memory a backward pass reads.
pub struct ForwardRun {
    pub o: Vec<f32>,
    pub lse: Vec<f32>,
    o_memory: Guarded,
    lse_memory: Guarded,
}

/// Outputs of a backward pass: those asked for.
#[derive(Debug, Default)]
pub struct GradientRun {
    pub dq: Option<Vec<f32>>,
    pub dk: Option<Vec<f32>>,
    pub dv: Option<Vec<f32>>,
    pub drow_scale: Option<Vec<f32>>,
}

/// `[batch]` integers in memory of their own, with gaps.
pub struct Integers {
    memory: Tensor,
    layout: Layout,
}

impl Integers {
    /// In a random type and stride, in the host's memory or the device's.
    pub fn anywhere(device: &Device, values: &[i64], random: &mut Random) -> Self {
        let place = if random.one_in(2) { Device::cpu() } else { device.clone() };
        let fits_u32 = values.iter().all(|&x| u32::try_from(x).is_ok());
        let kinds = [DType::I64, DType::I32, if fits_u32 { DType::U32 } else { DType::I32 }];
        Self::new(&place, values, kinds[random.below(3)], random)
    }

    /// In a random stride. What lies between the elements is no legal length.
    pub fn new(device: &Device, values: &[i64], dtype: DType, random: &mut Random) -> Self {
        let (stride, offset) = (1 + random.below(3), random.below(3));
        let layout = Layout::new(&[values.len()], &[stride], offset).expect("a layout of integers");
        let mut words = vec![-7; layout.end().max(1)];
        for (b, &value) in values.iter().enumerate() {
            words[offset + b * stride] = value;
        }
        let shape = [words.len()];
        let memory = match dtype {
            DType::U32 => {
                Tensor::from_slice(device, &words.iter().map(|&x| x as u32).collect::<Vec<_>>(), &shape)
            }
            DType::I32 => {
                Tensor::from_slice(device, &words.iter().map(|&x| x as i32).collect::<Vec<_>>(), &shape)
            }
            _ => Tensor::from_slice(device, &words, &shape),
        };
        Self { memory: memory.expect("a list of integers"), layout }
    }

    fn view(&self) -> TensorRef<'_> {
        self.memory.view().with_layout(self.layout).expect("the layout fits its allocation")
    }
}

fn unsigned(device: &Device, values: &[usize], shape: &[usize]) -> Tensor {
    let words: Vec<u32> = values.iter().map(|&x| x as u32).collect();
    Tensor::from_slice(device, &words, shape).expect("a list of heads")
}

/// The indices where `active` holds, ascending, then the others; and how many hold.
fn partition(active: &[bool]) -> (Vec<usize>, usize) {
    let (on, off): (Vec<usize>, Vec<usize>) = (0..active.len()).partition(|&i| active[i]);
    let count = on.len();
    (on.into_iter().chain(off).collect(), count)
}

impl Launch {
    /// Uploads a problem with random strides.
    pub fn new(device: &Device, data: &Data, seed: u64) -> Self {
        let p = &data.problem;
        let mut random = Random::new(seed, Stream::Layouts as u64);
        let (b, hq, hk) = (p.batch, p.q_heads, p.kv_heads);
        let mut strided = |values: &[f32], shape: &[usize], inner| {
            Strided::new(device, values, random_layout(shape, inner, &mut random))
        };
        let q = strided(&data.q, &[b, hq, p.q_len, p.head_dim], Inner::Contiguous);
        let grad_o = strided(&data.grad_o, &[b, hq, p.q_len, p.value_dim], Inner::Contiguous);
        let grad_lse = strided(&data.grad_lse, &[b, hq, p.q_len], Inner::Free);
        let mut keys = |values: &[f32], dim: usize| {
            let shape = [b, hk, p.kv_slots, dim];
            if !data.shared_keys {
                return strided(values, &shape, Inner::Contiguous);
            }
            let one = random_layout(&[1, hk, p.kv_slots, dim], Inner::Contiguous, &mut Random::new(seed, 0));
            let mut strides = one.strides().to_vec();
            strides[0] = 0;
            Strided::new(
                device,
                values,
                Layout::new(&shape, &strides, one.offset()).expect("a broadcast layout"),
            )
        };
        let (k, v) = (keys(&data.k, p.head_dim), keys(&data.v, p.value_dim));
        let mut places = Random::new(seed, Stream::Places as u64);
        let lengths: Vec<i64> = p.kv_len.iter().map(|&n| n as i64).collect();
        let (offset, fixed_offset) = match data.offset {
            Offset::BottomRight => (None, None),
            Offset::At(at) => (None, Some(at)),
            Offset::PerSample => (Some(Integers::anywhere(device, &p.offset, &mut places)), None),
        };
        let kv_len = data.own_lengths.then(|| Integers::anywhere(device, &lengths, &mut places));
        let heads = p.active.as_ref().map(|active| Self::heads(device, p, active, seed));
        let (device, problem, scale) = (device.clone(), p.clone(), data.scale);
        Self { device, seed, problem, scale, q, k, v, grad_o, grad_lse, offset, fixed_offset, kv_len, heads }
    }

    fn heads(device: &Device, p: &Attention, active: &[bool], seed: u64) -> Heads {
        let group = p.q_heads / p.kv_heads;
        let kv_active: Vec<bool> = active.chunks(group).map(|chunk| chunk.contains(&true)).collect();
        let ((order, count), (kv_order, kv_count)) = (partition(active), partition(&kv_active));
        let flags: Vec<usize> = active.iter().map(|&on| usize::from(on)).collect();
        let rows = p.batch * p.q_heads * p.q_len;
        let scales = p.row_scale.clone().unwrap_or_else(|| vec![1.0; rows]);
        let scales: Vec<f32> = scales.iter().map(|&x| x as f32).collect();
        let mut random = Random::new(seed, Stream::RowScale as u64);
        let layout = random_layout(&[p.batch, p.q_heads, p.q_len], Inner::Free, &mut random);
        Heads {
            order: unsigned(device, &order, &[order.len()]),
            kv_order: unsigned(device, &kv_order, &[kv_order.len()]),
            counts: unsigned(device, &[count, kv_count], &[2]),
            active: unsigned(device, &flags, &[p.batch, p.q_heads]),
            row_scale: Strided::new(device, &scales, layout),
        }
    }

    /// Replaces the lengths by these, in device memory, unchecked.
    pub fn set_lengths(&mut self, lengths: Integers) {
        self.kv_len = Some(lengths);
    }

    /// Options as a caller writes them.
    pub fn options(&self) -> AttentionOptions<'_> {
        AttentionOptions {
            scale: self.scale.map(f64::from),
            causal: self.problem.causal,
            query_offset: match (&self.offset, self.fixed_offset) {
                (Some(list), _) => QueryOffset::PerSample(list.view()),
                (None, Some(at)) => QueryOffset::At(at),
                (None, None) => QueryOffset::BottomRight,
            },
            kv_len: self.kv_len.as_ref().map(Integers::view),
            heads: self.heads.as_ref().map(|heads| ActiveHeads {
                order: heads.order.view(),
                kv_order: heads.kv_order.view(),
                counts: heads.counts.view(),
                active: heads.active.view(),
                row_scale: heads.row_scale.view(),
            }),
            ..Default::default()
        }
    }

    fn output(&self, shape: &[usize], inner: Inner, stream: u64) -> Guarded {
        let mut random = Random::new(self.seed ^ 0x5eed, stream);
        Guarded::new(&self.device, random_layout(shape, inner, &mut random))
    }

    fn say(&self, error: impl std::fmt::Display) -> String {
        format!("{}: {error}", self.device.name())
    }

    fn check_inputs(&self) -> Result<(), String> {
        let inputs = [
            ("q", &self.q),
            ("k", &self.k),
            ("v", &self.v),
            ("grad_o", &self.grad_o),
            ("grad_lse", &self.grad_lse),
        ];
        inputs.iter().try_for_each(|(name, input)| input.check_untouched(name))
    }

    /// Poisoned outputs of a forward pass.
    pub fn outputs(&self) -> (Guarded, Guarded) {
        let p = &self.problem;
        let o = self.output(&[p.batch, p.q_heads, p.q_len, p.value_dim], Inner::Contiguous, 1);
        (o, self.output(&[p.batch, p.q_heads, p.q_len], Inner::Free, 2))
    }

    /// Launches a forward pass, whatever comes of it.
    pub fn launch_forward(&self, o: &mut Guarded, lse: &mut Guarded) -> gatewarp::Result<()> {
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        attention_forward_into(
            &q,
            &k,
            &v,
            &self.options(),
            &mut o.view_mut(),
            &mut lse.view_mut(),
            Workspace::Allocate,
        )
    }

    /// A forward pass: every row of an active head written, no other, nothing outside, inputs untouched.
    pub fn forward(&self) -> Result<ForwardRun, String> {
        let (mut o_memory, mut lse_memory) = self.outputs();
        self.launch_forward(&mut o_memory, &mut lse_memory).map_err(|error| self.say(error))?;
        self.device.synchronize().map_err(|error| self.say(error))?;
        self.read_forward(o_memory, lse_memory)
    }

    /// Reads what a forward pass left.
    pub fn read_forward(&self, o_memory: Guarded, lse_memory: Guarded) -> Result<ForwardRun, String> {
        let p = &self.problem;
        let active = |row: usize| {
            let pair = row / p.q_len;
            p.is_active(pair / p.q_heads, pair % p.q_heads)
        };
        let o = o_memory.read_where("o", |at| active(at / p.value_dim)).map_err(|error| self.say(error))?;
        let lse = lse_memory.read_where("lse", active).map_err(|error| self.say(error))?;
        self.check_inputs().map_err(|error| self.say(error))?;
        Ok(ForwardRun { o, lse, o_memory, lse_memory })
    }

    /// Launches a backward pass into poisoned outputs, whatever comes of it: dq, dk, dv, drow_scale.
    pub fn launch_backward(
        &self,
        saved: &ForwardRun,
        want: WantGradients,
    ) -> gatewarp::Result<[Option<Guarded>; 4]> {
        let p = &self.problem;
        let queries = [p.batch, p.q_heads, p.q_len, p.head_dim];
        let keys = [p.batch, p.kv_heads, p.kv_slots, p.head_dim];
        let values = [p.batch, p.kv_heads, p.kv_slots, p.value_dim];
        let rows = [p.batch, p.q_heads, p.q_len];
        let make =
            |wanted: bool, shape: &[usize], inner, stream| wanted.then(|| self.output(shape, inner, stream));
        let mut outputs = [
            make(want.dq, &queries, Inner::Contiguous, 3),
            make(want.dk, &keys, Inner::Contiguous, 4),
            make(want.dv, &values, Inner::Contiguous, 5),
            make(self.heads.is_some(), &rows, Inner::Free, 6),
        ];
        let saved = AttentionSaved {
            o: saved.o_memory.view(),
            lse: saved.lse_memory.view(),
            grad_o: self.grad_o.view(),
            grad_lse: Some(self.grad_lse.view()),
        };
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        let [dq, dk, dv, drow_scale] =
            outputs.each_mut().map(|output| output.as_mut().map(Guarded::view_mut));
        let views = AttentionGradientViews { dq, dk, dv, drow_scale, ..Default::default() };
        attention_backward_into(&q, &k, &v, &saved, &self.options(), views, Workspace::Allocate)?;
        Ok(outputs)
    }

    /// A backward pass from what `saved` holds, checked like [`Launch::forward`].
    pub fn backward(&self, saved: &ForwardRun, want: WantGradients) -> Result<GradientRun, String> {
        let outputs = self.launch_backward(saved, want).map_err(|error| self.say(error))?;
        self.device.synchronize().map_err(|error| self.say(error))?;
        self.read_backward(&outputs)
    }

    /// Reads what a backward pass left: gradients everywhere (0 for heads that take no part), row-scale derivatives for the
    /// rows of active heads.
    pub fn read_backward(&self, outputs: &[Option<Guarded>; 4]) -> Result<GradientRun, String> {
        let p = &self.problem;
        let active = |row: usize| p.is_active(row / p.q_len / p.q_heads, row / p.q_len % p.q_heads);
        let [dq, dk, dv, drow_scale] = outputs;
        let read = |name: &str, output: &Option<Guarded>| {
            output.as_ref().map(|output| output.read(name)).transpose().map_err(|error| self.say(error))
        };
        let rows = drow_scale.as_ref().map(|output| output.read_where("drow_scale", active));
        let run = GradientRun {
            dq: read("dq", dq)?,
            dk: read("dk", dk)?,
            dv: read("dv", dv)?,
            drow_scale: rows.transpose().map_err(|error| self.say(error))?,
        };
        self.check_inputs().map_err(|error| self.say(error))?;
        Ok(run)
    }

    /// Forward and all gradients.
    pub fn both(&self) -> Result<(ForwardRun, GradientRun), String> {
        let forward = self.forward()?;
        let gradients = self.backward(&forward, WantGradients::default())?;
        Ok((forward, gradients))
    }
}

/// Replaces what was not computed (and is not to be looked at) by what the oracle has there.
fn where_written(got: &[f32], want: &[f64], written: impl Fn(usize) -> bool) -> Vec<f32> {
    got.iter().zip(want).enumerate().map(|(at, (&g, &w))| if written(at) { g } else { w as f32 }).collect()
}

/// Compares a forward pass with the oracle.
pub fn check_forward(run: &ForwardRun, problem: &Attention, want: &Forward) -> Result<(), String> {
    let p = problem;
    let active = |row: usize| p.is_active(row / p.q_len / p.q_heads, row / p.q_len % p.q_heads);
    let o = where_written(&run.o, &want.o, |at| active(at / p.value_dim));
    let lse = where_written(&run.lse, &want.lse, active);
    close("o", &o, &want.o, &tolerance::attention_o(want))?;
    close("lse", &lse, &want.lse, &tolerance::attention_lse(want))?;
    Ok(())
}

/// Compares the gradients that were asked for with the oracle.
pub fn check_backward(run: &GradientRun, problem: &Attention, want: &Gradients) -> Result<(), String> {
    let p = problem;
    let allowed = tolerance::attention_gradients(want);
    let checks = [
        ("dq", &run.dq, &want.dq, &allowed.dq),
        ("dk", &run.dk, &want.dk, &allowed.dk),
        ("dv", &run.dv, &want.dv, &allowed.dv),
    ];
    for (name, got, want, allowed) in checks {
        if let Some(got) = got {
            close(name, got, want, allowed)?;
        }
    }
    if let Some(got) = &run.drow_scale {
        let active = |row: usize| p.is_active(row / p.q_len / p.q_heads, row / p.q_len % p.q_heads);
        let got = where_written(got, &want.drow_scale, active);
        close("drow_scale", &got, &want.drow_scale, &allowed.drow_scale)?;
    }
    Ok(())
}
