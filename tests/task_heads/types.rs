//! Types of elements, and packed sequences: what attention makes of them, times the gate, to the bit.

use crate::launch::tensor;
use crate::support::compare::close;
use crate::support::devices::TestDevice;
use crate::support::elements::{Input, Output, rounded};
use crate::support::guarded::{Inner, random_layout};
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use crate::support::tolerance::{self, U};
use gatewarp::attention::{
    AttentionOptions, AttentionSaved, Sequences, WantGradients, attention_backward, attention_forward,
};
use gatewarp::task_heads::{
    Activation, EveryTaskGate, EveryTaskOptions, GateSource, TaskHeadsOptions, TaskHeadsSaved,
    TaskHeadsViews, WantTaskHeadsGradients, task_heads_backward, task_heads_forward,
    task_heads_forward_every_task, task_heads_forward_into,
};
use gatewarp::{DType, Device, Error, Layout, Tensor};
use half::{bf16, f16};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct TypedCase {
    dtype: DType,
    packed: bool,
    /// Queries and keys of each sample; those of the first are everybody's unless packed.
    lengths: Vec<(usize, usize)>,
    kv_heads: usize,
    group: usize,
    head_dim: usize,
    value_dim: usize,
    causal: bool,
    seed: u64,
}

fn typed_case() -> impl Strategy<Value = TypedCase> {
    let length = || prop::sample::select(vec![0usize, 1, 2, 7, 31, 32, 33, 63, 65, 70]);
    let dim = || prop::sample::select(vec![1usize, 3, 8, 17, 32, 40]);
    let kind = prop::sample::select(vec![
        (DType::F32, true),
        (DType::F16, true),
        (DType::F16, false),
        (DType::BF16, true),
        (DType::BF16, false),
    ]);
    let sizes = (prop::collection::vec((length(), length()), 1..=4), 1usize..=2, 1usize..=3, dim(), dim());
    (kind, sizes, any::<bool>(), any::<u64>().no_shrink()).prop_map(
        |((dtype, packed), (lengths, kv_heads, group, head_dim, value_dim), causal, seed)| TypedCase {
            dtype,
            packed,
            lengths,
            kv_heads,
            group,
            head_dim,
            value_dim,
            causal,
            seed,
        },
    )
}

impl TypedCase {
    fn heads(&self) -> usize {
        self.kv_heads * self.group
    }

    /// Samples and rows of the tensors of queries and keys.
    fn places(&self) -> (usize, [usize; 2]) {
        let sum = |of: fn(&(usize, usize)) -> usize| self.lengths.iter().map(of).sum::<usize>();
        if self.packed {
            (1, [sum(|l| l.0), sum(|l| l.1)])
        } else {
            (self.lengths.len(), [self.lengths[0].0, self.lengths[0].1])
        }
    }

    /// First rows.
    fn starts(&self, of: fn(&(usize, usize)) -> usize) -> Vec<i64> {
        let mut at = 0;
        let ends = self.lengths.iter().map(|length| {
            at += of(length) as i64;
            at
        });
        std::iter::once(0).chain(ends.collect::<Vec<_>>()).collect()
    }

    /// The sample of each row of each place in the tensor of queries.
    fn samples(&self) -> Vec<usize> {
        let (batch, rows) = (self.lengths.len(), self.places().1[0]);
        if !self.packed {
            return (0..batch).flat_map(|b| std::iter::repeat_n(b, rows)).collect();
        }
        (0..batch).flat_map(|b| std::iter::repeat_n(b, self.lengths[b].0)).collect()
    }

    /// Of each element `[place, head, row, column]`, its row's gate.
    fn by_element(&self, gates: &[f64], columns: usize) -> Vec<f64> {
        let (places, [rows, _]) = self.places();
        let (heads, samples) = (self.heads(), self.samples());
        let mut out = Vec::with_capacity(places * heads * rows * columns);
        for (place, head, row) in
            (0..places).flat_map(|p| (0..heads).flat_map(move |h| (0..rows).map(move |r| (p, h, r))))
        {
            let gate = gates[samples[place * rows + row] * heads + head];
            out.extend(std::iter::repeat_n(gate, columns));
        }
        out
    }
}

fn say(error: Error) -> String {
    error.to_string()
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>, String> {
    Ok(match tensor.dtype() {
        DType::F16 => tensor.to_vec::<f16>().map_err(say)?.iter().map(|x| x.to_f64()).collect(),
        DType::BF16 => tensor.to_vec::<bf16>().map_err(say)?.iter().map(|x| x.to_f64()).collect(),
        _ => tensor.to_vec::<f32>().map_err(say)?.iter().map(|&x| x.into()).collect(),
    })
}

/// Equal numbers: the sign of a zero is not looked at.
fn equal(what: &str, got: &[f64], want: &[f64]) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{what}: {} elements, expected {}", got.len(), want.len()));
    }
    match (0..got.len()).find(|&i| got[i] != want[i]) {
        Some(at) => Err(format!("{what}[{at}] = {:e}, expected {:e}", got[at], want[at])),
        None => Ok(()),
    }
}

/// q, k, v and dy.
struct Typed {
    q: Input,
    k: Input,
    v: Input,
    dy: Vec<f64>,
    dy_layout: Layout,
}

/// Outputs of a forward pass, poisoned before it.
struct Outputs {
    y: Output,
    lse: Output,
    flat: [Tensor; 2],
    lists: [Tensor; 4],
}

impl Outputs {
    fn new(device: &Device, case: &TypedCase, random: &mut Random) -> Result<Self, String> {
        let (places, [rows, _]) = case.places();
        let (batch, heads) = (case.lengths.len(), case.heads());
        let mut output =
            |dtype, shape: &[usize], inner| Output::new(device, dtype, random_layout(shape, inner, random));
        let make = |dtype, shape: &[usize]| Tensor::zeros(device, dtype, shape).map_err(say);
        Ok(Self {
            y: output(case.dtype, &[places, heads, rows, case.value_dim], Inner::Contiguous),
            lse: output(DType::F32, &[places, heads, rows], Inner::Free),
            flat: [make(DType::F32, &[batch, heads])?, make(DType::F32, &[batch, heads])?],
            lists: [
                make(DType::U32, &[batch * heads])?,
                make(DType::U32, &[batch * case.kv_heads])?,
                make(DType::U32, &[2])?,
                make(DType::U32, &[batch, heads])?,
            ],
        })
    }

    fn views(&mut self) -> TaskHeadsViews<'_> {
        let [gates, probabilities] = &mut self.flat;
        let [order, kv_order, counts, active] = &mut self.lists;
        TaskHeadsViews {
            y: self.y.view_mut(),
            lse: self.lse.view_mut(),
            gates: gates.view_mut(),
            probabilities: probabilities.view_mut(),
            order: order.view_mut(),
            kv_order: kv_order.view_mut(),
            counts: counts.view_mut(),
            active: active.view_mut(),
            z: None,
        }
    }

    fn saved(&self) -> TaskHeadsSaved<'_> {
        let [order, kv_order, counts, active] = &self.lists;
        TaskHeadsSaved {
            y: self.y.view(),
            lse: self.lse.view(),
            gates: self.flat[0].view(),
            probabilities: self.flat[1].view(),
            order: order.view(),
            kv_order: kv_order.view(),
            counts: counts.view(),
            active: active.view(),
        }
    }
}

/// Σ dy·y of each (sample, head), and of its terms' magnitudes.
fn products(case: &TypedCase, dy: &[f64], y: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (heads, (places, [rows, _])) = (case.heads(), case.places());
    let (samples, columns) = (case.samples(), case.value_dim);
    let mut sums = (vec![0.0; case.lengths.len() * heads], vec![0.0; case.lengths.len() * heads]);
    for (at, (dy, y)) in dy.iter().zip(y).enumerate() {
        let (row, head) = (at / columns % rows, at / columns / rows % heads);
        let place = at / columns / rows / heads;
        assert!(place < places);
        let pair = samples[place * rows + row] * heads + head;
        sums.0[pair] += dy * y;
        sums.1[pair] += (dy * y).abs();
    }
    sums
}

pub fn gated_types_and_layouts_are_attention(device: &TestDevice) -> Result<(), String> {
    check("gated_types_and_layouts_are_attention", device, CASES, &typed_case(), |handle, case| {
        let mut random = Random::new(case.seed, 1);
        let (places, [q_rows, kv_rows]) = case.places();
        let (batch, heads, dtype) = (case.lengths.len(), case.heads(), case.dtype);
        let mut values = |count: usize| -> Vec<f64> {
            random.values(count, 1.0).iter().map(|&x| rounded(dtype, x.into())).collect()
        };
        let q = values(places * heads * q_rows * case.head_dim);
        let k = values(places * case.kv_heads * kv_rows * case.head_dim);
        let v = values(places * case.kv_heads * kv_rows * case.value_dim);
        let dy = values(places * heads * q_rows * case.value_dim);
        let mut random = Random::new(case.seed, 2);
        let mut layout = |shape: &[usize]| random_layout(shape, Inner::Contiguous, &mut random);
        let q_layout = layout(&[places, heads, q_rows, case.head_dim]);
        let k_layout = layout(&[places, case.kv_heads, kv_rows, case.head_dim]);
        let v_layout = layout(&[places, case.kv_heads, kv_rows, case.value_dim]);
        let typed = Typed {
            q: Input::new(handle, dtype, &q, q_layout),
            k: Input::new(handle, dtype, &k, k_layout),
            v: Input::new(handle, dtype, &v, v_layout),
            dy,
            dy_layout: layout(&[places, heads, q_rows, case.value_dim]),
        };
        // Powers of two scale exactly; in 16 bits only what does not reach subnormals.
        let choices: &[f32] =
            if dtype == DType::F32 { &[0.0, 1.0, 0.5, 2.0, -1.0] } else { &[0.0, 1.0, 1.0] };
        let gates: Vec<f32> = (0..batch * heads).map(|_| choices[random.below(choices.len())]).collect();
        let starts = [case.starts(|l| l.0), case.starts(|l| l.1)].map(|starts| {
            let place = if case.seed % 2 == 0 { Device::cpu() } else { handle.clone() };
            Tensor::from_slice(&place, &starts, &[starts.len()]).expect("a list")
        });
        let longest = |of: fn(&(usize, usize)) -> usize| case.lengths.iter().map(of).max().unwrap_or(0);
        let sequences = if case.packed {
            let (cu_q, cu_k) = (starts[0].view(), starts[1].view());
            Sequences::Packed { cu_q, cu_k, max_q: longest(|l| l.0), max_k: longest(|l| l.1) }
        } else {
            Sequences::Dense
        };
        let attention = AttentionOptions { causal: case.causal, sequences, ..Default::default() };
        whole_gates(handle, case, &typed, &gates, &attention)?;
        products_make_the_gradient(handle, case, &typed, &attention)
    })
}

/// Gates that scale exactly give attention's numbers times the gate, forward and backward.
fn whole_gates(
    handle: &Device,
    case: &TypedCase,
    typed: &Typed,
    gates: &[f32],
    attention: &AttentionOptions<'_>,
) -> Result<(), String> {
    let (q, k, v) = (typed.q.view(), typed.k.view(), typed.v.view());
    let plain = attention_forward(&q, &k, &v, attention).map_err(say)?;
    let (o, plain_lse) = (numbers(&plain.o)?, numbers(&plain.lse)?);
    let values = tensor(handle, gates, &[case.lengths.len(), case.heads()]);
    let options = TaskHeadsOptions {
        attention: attention.clone(),
        ..TaskHeadsOptions::new(GateSource::Provided { values: values.view() }, Activation::Identity)
    };
    let mut out = Outputs::new(handle, case, &mut Random::new(case.seed, 3))?;
    task_heads_forward_into(&q, &k, &v, &options, out.views()).map_err(say)?;
    let wide: Vec<f64> = gates.iter().map(|&gate| gate.into()).collect();
    let by_element = case.by_element(&wide, case.value_dim);
    let scaled: Vec<f64> = o.iter().zip(&by_element).map(|(o, gate)| o * gate).collect();
    equal("y", &out.y.read("y")?, &scaled)?;
    let by_row = case.by_element(&wide, 1);
    let lse: Vec<f64> = plain_lse
        .iter()
        .zip(&by_row)
        .map(|(&lse, &g)| if g == 0.0 { f64::NEG_INFINITY } else { lse })
        .collect();
    equal("lse", &out.lse.read("lse")?, &lse)?;
    // Fresh memory needs no zeros written.
    let fresh = task_heads_forward(&q, &k, &v, &options).map_err(say)?;
    equal("allocated y", &numbers(&fresh.y)?, &scaled)?;
    equal("allocated lse", &numbers(&fresh.lse)?, &lse)?;

    let dy = Input::new(handle, case.dtype, &typed.dy, typed.dy_layout);
    let want = WantTaskHeadsGradients::default();
    let got = task_heads_backward(&q, &k, &v, &out.saved(), &dy.view(), &options, want).map_err(say)?;
    let scaled_dy: Vec<f64> = typed.dy.iter().zip(&by_element).map(|(dy, gate)| dy * gate).collect();
    let scaled_dy = Input::new(handle, case.dtype, &scaled_dy, typed.dy_layout);
    let saved =
        AttentionSaved { o: plain.o.view(), lse: plain.lse.view(), grad_o: scaled_dy.view(), grad_lse: None };
    let want = attention_backward(&q, &k, &v, &saved, attention, WantGradients::default()).map_err(say)?;
    let pairs = [("dq", &got.dq, &want.dq), ("dk", &got.dk, &want.dk), ("dv", &got.dv, &want.dv)];
    for (name, got, want) in pairs {
        let (got, want) = (got.as_ref().ok_or("asked for")?, want.as_ref().ok_or("asked for")?);
        equal(name, &numbers(got)?, &numbers(want)?)?;
    }
    // ⟨dy, o⟩ as the weights' sums make it, o as it was stored: |o| is at most the largest |v|.
    let (sums, _) = products(case, &typed.dy, &o);
    let ones = vec![1.0; o.len()];
    let (_, reach) = products(case, &typed.dy, &ones);
    let unit = if case.dtype == DType::F32 { U } else { tolerance::attention_16_bits(case.dtype).1 };
    let want: Vec<f64> =
        sums.iter().zip(gates).map(|(sum, &gate)| if gate == 0.0 { 0.0 } else { *sum }).collect();
    let allowed: Vec<f64> = reach
        .iter()
        .map(|&terms| tolerance::inner_product(4.0 * terms, o.len()) + 8.0 * unit * terms)
        .collect();
    let dgate: Vec<f32> = got.dgate.as_ref().ok_or("asked for")?.to_vec().map_err(say)?;
    close("dgate", &dgate, &want, &allowed).map(drop)
}

/// δ of a sigmoid gate is the sum of the products of y, as it was stored, and dy.
fn products_make_the_gradient(
    handle: &Device,
    case: &TypedCase,
    typed: &Typed,
    attention: &AttentionOptions<'_>,
) -> Result<(), String> {
    let (q, k, v) = (typed.q.view(), typed.k.view(), typed.v.view());
    let mut random = Random::new(case.seed, 4);
    let pairs = case.lengths.len() * case.heads();
    let mut logit = |_| if random.one_in(4) { f32::NEG_INFINITY } else { random.values(1, 2.0)[0] };
    let logits: Vec<f32> = (0..pairs).map(&mut logit).collect();
    let values = tensor(handle, &logits, &[case.lengths.len(), case.heads()]);
    let options = TaskHeadsOptions {
        attention: attention.clone(),
        ..TaskHeadsOptions::new(GateSource::Provided { values: values.view() }, Activation::Sigmoid)
    };
    let mut out = Outputs::new(handle, case, &mut Random::new(case.seed, 5))?;
    task_heads_forward_into(&q, &k, &v, &options, out.views()).map_err(say)?;
    let dy = Input::new(handle, case.dtype, &typed.dy, typed.dy_layout);
    let want = WantTaskHeadsGradients::default();
    let got = task_heads_backward(&q, &k, &v, &out.saved(), &dy.view(), &options, want).map_err(say)?;
    let y = out.y.read("y")?;
    let (sums, terms) = products(case, &typed.dy, &y);
    let gates = numbers(&out.flat[0])?;
    let want: Vec<f64> = sums.iter().zip(&gates).map(|(sum, gate)| sum * (1.0 - gate)).collect();
    let allowed: Vec<f64> = terms.iter().map(|&terms| tolerance::inner_product(terms, y.len())).collect();
    let dgate: Vec<f32> = got.dgate.as_ref().ok_or("asked for")?.to_vec().map_err(say)?;
    close("dgate by products", &dgate, &want, &allowed).map(drop)
}

pub fn other_types_are_refused_before_anything_runs(device: &TestDevice) -> Result<(), String> {
    let handle = device.handle(0);
    let values = tensor(handle, &[0.5; 4], &[1, 2, 2]);
    let options = |values| TaskHeadsOptions::new(GateSource::Provided { values }, Activation::Identity);
    let flat = values.view().with_layout(Layout::contiguous(&[1, 2]).map_err(say)?).map_err(say)?;
    let wide = Tensor::from_slice(handle, &[0.5f64; 8], &[1, 2, 2, 2]).map_err(say)?;
    match task_heads_forward(&wide.view(), &wide.view(), &wide.view(), &options(flat)) {
        Err(Error::DType { arg: "q", .. }) => {}
        other => return Err(format!("f64 gave {other:?}")),
    }
    let every = |attention| EveryTaskOptions {
        attention,
        ..EveryTaskOptions::new(EveryTaskGate::Provided { values: values.view() }, Activation::Identity)
    };
    let halves = Tensor::from_slice(handle, &[f16::ONE; 8], &[1, 2, 2, 2]).map_err(say)?;
    let view = halves.view();
    match task_heads_forward_every_task(&view, &view, &view, &every(AttentionOptions::default())) {
        Err(Error::DType { arg: "q", .. }) => {}
        other => return Err(format!("f16 for every task gave {other:?}")),
    }
    let x = tensor(handle, &[0.5; 8], &[1, 2, 2, 2]);
    let starts = Tensor::from_slice(&Device::cpu(), &[0i64, 2], &[2]).map_err(say)?;
    let sequences = Sequences::Packed { cu_q: starts.view(), cu_k: starts.view(), max_q: 2, max_k: 2 };
    let packed = every(AttentionOptions { sequences, ..Default::default() });
    match task_heads_forward_every_task(&x.view(), &x.view(), &x.view(), &packed) {
        Err(Error::InvalidArgument { arg: "attention.sequences", .. }) => Ok(()),
        other => Err(format!("packed sequences for every task gave {other:?}")),
    }
}
