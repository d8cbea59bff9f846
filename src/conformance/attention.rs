//! Cases of `attention`: masks, grouped queries, strides, active heads, empty rows.

use super::compare::{Comparison, Expected, Output};
use super::random::Random;
use super::{Checked, Failure, Operation};
use crate::attention::{
    ActiveHeads, AttentionGradientViews, AttentionOptions, AttentionSaved, QueryOffset, Workspace,
    attention_backward_into, attention_forward_into,
};
use crate::device::Device;
use crate::error::Result;
use crate::tensor::{Tensor, TensorRef};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation { name: "attention_forward", check: forward },
    Operation { name: "attention_backward", check: backward },
];

/// Unit roundoff of f32.
pub(super) const U: f64 = 1.0 / (1u32 << 24) as f64;
/// Added to probabilities in bounds: an f32 exponential below 2⁻¹²⁵ = 16u·2⁻¹⁰⁵ may be flushed to zero.
pub(super) const FLUSHED: f64 = 1.0 / (1u128 << 105) as f64;

/// A problem, drawn from a seed.
pub(super) struct Case {
    pub(super) batch: usize,
    pub(super) q_heads: usize,
    pub(super) kv_heads: usize,
    pub(super) q_len: usize,
    pub(super) kv_slots: usize,
    pub(super) head_dim: usize,
    pub(super) value_dim: usize,
    pub(super) causal: bool,
    /// Storage is `[batch, length, heads, dim]`, as frameworks keep it, seen through a permuted view.
    pub(super) heads_inside: bool,
    /// One number a sample; `None` is bottom-right.
    pub(super) offset: Option<Vec<i32>>,
    pub(super) kv_len: Option<Vec<u32>>,
    /// Which (sample, query head) pairs take part, if the launch is restricted.
    pub(super) active: Option<Vec<bool>>,
    /// `[batch, q_heads, q_len]`; 1 where the launch is not restricted.
    pub(super) row_scale: Vec<f32>,
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    pub(super) grad_o: Vec<f32>,
    pub(super) grad_lse: Vec<f32>,
}

impl Case {
    pub(super) fn new(number: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        // Every third problem covers three tiles of 64 in both directions.
        let spanning = number.is_multiple_of(3);
        let edges = [1, 2, 7, 16, 31, 32, 33, 63, 64, 65, 127, 129];
        let length =
            |random: &mut Random| if spanning { random.between(129, 200) } else { random.choose(&edges) };
        let (q_len, kv_slots) = (length(&mut random), length(&mut random));
        let dims: &[usize] =
            if spanning { &[1, 4, 5, 8, 13] } else { &[1, 3, 8, 16, 17, 32, 40, 63, 64, 65, 128] };
        let (head_dim, value_dim) = (random.choose(dims), random.choose(dims));
        let kv_heads = if spanning { 1 } else { random.between(1, 2) };
        let q_heads = kv_heads * random.between(1, if spanning { 2 } else { 3 });
        let batch = if spanning { 1 } else { random.between(1, 3) };
        let causal = random.one_in(2);
        let kv_len: Option<Vec<u32>> = random.one_in(2).then(|| {
            let one =
                |random: &mut Random| if random.one_in(5) { 0 } else { random.between(0, kv_slots) as u32 };
            (0..batch).map(|_| one(&mut random)).collect()
        });
        let offset: Option<Vec<i32>> = random.one_in(3).then(|| {
            let mut one = || random.between(0, q_len + kv_slots) as i32 - q_len as i32;
            (0..batch).map(|_| one()).collect()
        });
        let rows = batch * q_heads * q_len;
        let keys = batch * kv_heads * kv_slots;
        let active: Option<Vec<bool>> =
            random.one_in(3).then(|| (0..batch * q_heads).map(|_| random.one_in(2)).collect());
        let row_scale = if active.is_some() { random.values(rows, 2.0) } else { vec![1.0; rows] };
        // Scores of about ±1, or so large that a softmax without the running maximum overflows.
        let size = random.choose(&[1.5, 1.5, 1.5, 1e4]) * 2.0;
        let mut k = random.values(keys * head_dim, 1.0);
        let mut v = random.values(keys * value_dim, 2.0);
        // Keys beyond a sample's length do not exist, whatever is stored there.
        if let Some(lengths) = &kv_len {
            for row in 0..keys {
                if row % kv_slots >= lengths[row / (kv_heads * kv_slots)] as usize {
                    k[row * head_dim..][..head_dim].fill(f32::NAN);
                    v[row * value_dim..][..value_dim].fill(f32::INFINITY);
                }
            }
        }
        Self {
            batch,
            q_heads,
            kv_heads,
            q_len,
            kv_slots,
            head_dim,
            value_dim,
            causal,
            heads_inside: random.one_in(2),
            offset,
            kv_len,
            active,
            row_scale,
            q: random.values(rows * head_dim, size),
            k,
            v,
            grad_o: random.values(rows * value_dim, 1.0),
            grad_lse: random.values(rows, 1.0),
        }
    }

    pub(super) fn describe(&self) -> String {
        let mut text = format!(
            "batch {} heads {}/{} queries {} keys {} dims {}/{}",
            self.batch, self.q_heads, self.kv_heads, self.q_len, self.kv_slots, self.head_dim, self.value_dim
        );
        let options = [
            (self.causal, " causal"),
            (self.offset.is_some(), " offset"),
            (self.kv_len.is_some(), " kv_len"),
            (self.active.is_some(), " active heads"),
            (self.heads_inside, " [B,S,H,D]"),
        ];
        options.iter().filter(|(on, _)| *on).for_each(|(_, name)| text.push_str(name));
        text
    }

    pub(super) fn active(&self, pair: usize) -> bool {
        self.active.as_ref().is_none_or(|active| active[pair])
    }

    pub(super) fn visible(&self, b: usize, i: usize, j: usize) -> bool {
        let length = self.kv_len.as_ref().map_or(self.kv_slots, |lengths| lengths[b] as usize);
        let first =
            self.offset.as_ref().map_or(length as i64 - self.q_len as i64, |offsets| offsets[b].into());
        j < length && (!self.causal || j as i64 <= first + i as i64)
    }

    fn scale(&self) -> f64 {
        f64::from(1.0 / (self.head_dim as f32).sqrt())
    }
}

/// Tensors of a case on the device, and the list of active heads.
pub(super) struct Placed {
    pub(super) q: Tensor,
    pub(super) k: Tensor,
    pub(super) v: Tensor,
    pub(super) grad_o: Tensor,
    grad_lse: Tensor,
    heads_inside: bool,
    offset: Option<Tensor>,
    kv_len: Option<Tensor>,
    lists: Option<[Tensor; 5]>,
    causal: bool,
}

/// `[b, h, s, d]` values stored as `[b, s, h, d]`.
fn interleave(values: &[f32], [b, h, s, d]: [usize; 4]) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for bi in 0..b {
        for si in 0..s {
            for hi in 0..h {
                out.extend_from_slice(&values[((bi * h + hi) * s + si) * d..][..d]);
            }
        }
    }
    out
}

/// Indices where `on` holds, then the others, and how many hold: the form kernels take lists of heads in.
fn active_first(on: &[bool]) -> (Vec<u32>, u32) {
    let part = |value: bool| (0..on.len() as u32).filter(move |&i| on[i as usize] == value);
    (part(true).chain(part(false)).collect(), part(true).count() as u32)
}

impl Placed {
    pub(super) fn new(device: &Device, case: &Case) -> Result<Self> {
        let heads = |values: &[f32], shape: [usize; 4]| {
            let [b, h, s, d] = shape;
            if case.heads_inside {
                Tensor::from_slice(device, &interleave(values, shape), &[b, s, h, d])
            } else {
                Tensor::from_slice(device, values, &shape)
            }
        };
        let (b, hq, hk) = (case.batch, case.q_heads, case.kv_heads);
        let lists = case.active.as_ref().map(|active| -> Result<_> {
            let kv_active: Vec<bool> = active.chunks(hq / hk).map(|group| group.contains(&true)).collect();
            let ((order, count), (kv_order, kv_count)) = (active_first(active), active_first(&kv_active));
            let flags: Vec<u32> = active.iter().map(|&on| on.into()).collect();
            Ok([
                Tensor::from_slice(device, &order, &[b * hq])?,
                Tensor::from_slice(device, &kv_order, &[b * hk])?,
                Tensor::from_slice(device, &[count, kv_count], &[2])?,
                Tensor::from_slice(device, &flags, &[b, hq])?,
                Tensor::from_slice(device, &case.row_scale, &[b, hq, case.q_len])?,
            ])
        });
        Ok(Self {
            q: heads(&case.q, [b, hq, case.q_len, case.head_dim])?,
            k: heads(&case.k, [b, hk, case.kv_slots, case.head_dim])?,
            v: heads(&case.v, [b, hk, case.kv_slots, case.value_dim])?,
            grad_o: heads(&case.grad_o, [b, hq, case.q_len, case.value_dim])?,
            grad_lse: Tensor::from_slice(device, &case.grad_lse, &[b, hq, case.q_len])?,
            heads_inside: case.heads_inside,
            offset: case.offset.as_ref().map(|list| Tensor::from_slice(device, list, &[b])).transpose()?,
            kv_len: case.kv_len.as_ref().map(|list| Tensor::from_slice(device, list, &[b])).transpose()?,
            lists: lists.transpose()?,
            causal: case.causal,
        })
    }

    pub(super) fn view<'a>(&self, tensor: &'a Tensor) -> Result<TensorRef<'a>> {
        if self.heads_inside { tensor.view().permute(&[0, 2, 1, 3]) } else { Ok(tensor.view()) }
    }

    pub(super) fn options(&self) -> AttentionOptions<'_> {
        AttentionOptions {
            causal: self.causal,
            query_offset: self
                .offset
                .as_ref()
                .map_or(QueryOffset::BottomRight, |t| QueryOffset::PerSample(t.view())),
            kv_len: self.kv_len.as_ref().map(Tensor::view),
            heads: self.lists.as_ref().map(|[order, kv_order, counts, active, row_scale]| ActiveHeads {
                order: order.view(),
                kv_order: kv_order.view(),
                counts: counts.view(),
                active: active.view(),
                row_scale: row_scale.view(),
            }),
            ..AttentionOptions::default()
        }
    }
}

/// Expected outputs. `None` marks rows of pairs that take no part; their gradients are 0.
pub(super) struct Want {
    pub(super) o: Vec<Option<Expected>>,
    pub(super) lse: Vec<Option<Expected>>,
    pub(super) dq: Vec<Option<Expected>>,
    pub(super) dk: Vec<Option<Expected>>,
    pub(super) dv: Vec<Option<Expected>>,
    pub(super) drow_scale: Vec<Option<Expected>>,
}

/// One query row's softmax over all key slots: probabilities (0 where masked), its lse, and how much larger than u a
/// score's error can be.
pub(super) struct Softmax {
    pub(super) p: Vec<f64>,
    pub(super) lse: f64,
    pub(super) growth: f64,
}

pub(super) fn softmax(case: &Case, b: usize, row: usize, keys: usize, i: usize) -> Softmax {
    let d = case.head_dim;
    let mut z = vec![f64::NEG_INFINITY; case.kv_slots];
    let mut growth = 1.0f64;
    for j in 0..case.kv_slots {
        if case.visible(b, i, j) {
            let (mut dot, mut size) = (0.0, 0.0);
            for x in 0..d {
                let product = f64::from(case.q[row * d + x]) * f64::from(case.k[(keys + j) * d + x]);
                dot += product;
                size += product.abs();
            }
            z[j] = case.scale() * dot;
            growth = growth.max(1.0 + case.scale() * size);
        }
    }
    let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if top == f64::NEG_INFINITY {
        return Softmax { p: vec![0.0; case.kv_slots], lse: top, growth };
    }
    let sum: f64 = z.iter().map(|z| (z - top).exp()).sum();
    Softmax { p: z.iter().map(|z| (z - top).exp() / sum).collect(), lse: top + sum.ln(), growth }
}

/// The definitions, row by row in f64. A gradient's bound is four times the forward bound on its own terms.
pub(super) fn reference(case: &Case) -> Want {
    let (d, e) = (case.head_dim, case.value_dim);
    let rows = case.batch * case.q_heads * case.q_len;
    let keys_total = case.batch * case.kv_heads * case.kv_slots;
    let group = case.q_heads / case.kv_heads;
    let none = Some(Expected { value: 0.0, tolerance: f64::from(f32::MIN_POSITIVE) });
    let mut want = Want {
        o: vec![None; rows * e],
        lse: vec![None; rows],
        dq: vec![none; rows * d],
        dk: vec![none; keys_total * d],
        dv: vec![none; keys_total * e],
        drow_scale: vec![None; rows],
    };
    let add = |slot: &mut Option<Expected>, value: f64, size: f64| {
        let sum = slot.get_or_insert(Expected { value: 0.0, tolerance: f64::from(f32::MIN_POSITIVE) });
        sum.value += value;
        sum.tolerance += 64.0 * U * size;
    };
    for pair in (0..case.batch * case.q_heads).filter(|&pair| case.active(pair)) {
        let b = pair / case.q_heads;
        let keys = (b * case.kv_heads + pair % case.q_heads / group) * case.kv_slots;
        for i in 0..case.q_len {
            let row = pair * case.q_len + i;
            let Softmax { p, lse, growth } = softmax(case, b, row, keys, i);
            let gate = f64::from(case.row_scale[row]);
            let value = |j: usize, x: usize| f64::from(case.v[(keys + j) * e + x]);
            let seen: Vec<usize> = (0..case.kv_slots).filter(|&j| case.visible(b, i, j)).collect();
            for x in 0..e {
                let sum: f64 = seen.iter().map(|&j| p[j] * value(j, x)).sum();
                let size: f64 = seen.iter().map(|&j| (p[j] + FLUSHED) * value(j, x).abs()).sum();
                let tolerance = 16.0 * U * growth * size * gate.abs() + f64::from(f32::MIN_POSITIVE);
                want.o[row * e + x] = Some(Expected { value: gate * sum, tolerance });
            }
            let size = if lse.is_finite() { growth + lse.abs() } else { growth };
            want.lse[row] = Some(Expected { value: lse, tolerance: 16.0 * U * size });

            let upstream = |x: usize| f64::from(case.grad_o[row * e + x]);
            let products: Vec<f64> =
                seen.iter().map(|&j| (0..e).map(|x| upstream(x) * value(j, x)).sum()).collect();
            let sizes: Vec<f64> =
                seen.iter().map(|&j| (0..e).map(|x| (upstream(x) * value(j, x)).abs()).sum()).collect();
            let mean: f64 = seen.iter().zip(&products).map(|(&j, product)| p[j] * product).sum();
            let mean_size: f64 = seen.iter().zip(&sizes).map(|(&j, size)| p[j] * size).sum();
            add(&mut want.drow_scale[row], mean, growth * mean_size);
            let dlse = f64::from(case.grad_lse[row]);
            for (place, &j) in seen.iter().enumerate() {
                let dz = case.scale() * p[j] * (gate * (products[place] - mean) + dlse);
                let terms = gate.abs() * (sizes[place] + mean_size) + dlse.abs();
                let dz_size = case.scale() * growth * (p[j] + FLUSHED) * terms;
                for x in 0..d {
                    let (q_at, k_at) = (row * d + x, (keys + j) * d + x);
                    let (q, k) = (f64::from(case.q[q_at]), f64::from(case.k[k_at]));
                    add(&mut want.dq[q_at], dz * k, dz_size * k.abs());
                    add(&mut want.dk[k_at], dz * q, dz_size * q.abs());
                }
                for x in 0..e {
                    let flow = gate * upstream(x);
                    add(
                        &mut want.dv[(keys + j) * e + x],
                        p[j] * flow,
                        growth * (p[j] + FLUSHED) * flow.abs(),
                    );
                }
            }
        }
    }
    want
}

fn forward(device: &Device, number: usize, seed: u64) -> Checked {
    let case = Case::new(number, seed);
    let run = || -> std::result::Result<f64, Failure> {
        let placed = Placed::new(device, &case)?;
        let (o, lse) = launch_forward(device, &case, &placed)?;
        let want = reference(&case);
        let mut comparison = Comparison::default();
        comparison.check("o", &o.read("o")?, &want.o)?;
        comparison.check("lse", &lse.read("lse")?, &want.lse)?;
        Ok(comparison.worst)
    };
    Checked { problem: case.describe(), worst: run() }
}

pub(super) fn launch_forward(device: &Device, case: &Case, placed: &Placed) -> Result<(Output, Output)> {
    let mut o = Output::new(device, &[case.batch, case.q_heads, case.q_len, case.value_dim])?;
    let mut lse = Output::new(device, &[case.batch, case.q_heads, case.q_len])?;
    let (q, k, v) = (placed.view(&placed.q)?, placed.view(&placed.k)?, placed.view(&placed.v)?);
    attention_forward_into(
        &q,
        &k,
        &v,
        &placed.options(),
        &mut o.view_mut()?,
        &mut lse.view_mut()?,
        Workspace::Allocate,
    )?;
    device.synchronize()?;
    Ok((o, lse))
}

fn backward(device: &Device, number: usize, seed: u64) -> Checked {
    let case = Case::new(number, seed);
    let run = || -> std::result::Result<f64, Failure> {
        let placed = Placed::new(device, &case)?;
        let (o, lse) = launch_forward(device, &case, &placed)?;
        let mut dq = Output::new(device, &[case.batch, case.q_heads, case.q_len, case.head_dim])?;
        let mut dk = Output::new(device, &[case.batch, case.kv_heads, case.kv_slots, case.head_dim])?;
        let mut dv = Output::new(device, &[case.batch, case.kv_heads, case.kv_slots, case.value_dim])?;
        let mut drow_scale = Output::new(device, &[case.batch, case.q_heads, case.q_len])?;
        let saved = AttentionSaved {
            o: o.view()?,
            lse: lse.view()?,
            grad_o: placed.view(&placed.grad_o)?,
            grad_lse: Some(placed.grad_lse.view()),
        };
        let views = AttentionGradientViews {
            dq: Some(dq.view_mut()?),
            dk: Some(dk.view_mut()?),
            dv: Some(dv.view_mut()?),
            drow_scale: case.active.is_some().then(|| drow_scale.view_mut()).transpose()?,
            ..Default::default()
        };
        let (q, k, v) = (placed.view(&placed.q)?, placed.view(&placed.k)?, placed.view(&placed.v)?);
        attention_backward_into(&q, &k, &v, &saved, &placed.options(), views, Workspace::Allocate)?;
        device.synchronize()?;
        let want = reference(&case);
        let mut comparison = Comparison::default();
        comparison.check("dq", &dq.read("dq")?, &want.dq)?;
        comparison.check("dk", &dk.read("dk")?, &want.dk)?;
        comparison.check("dv", &dv.read("dv")?, &want.dv)?;
        if case.active.is_some() {
            comparison.check("drow_scale", &drow_scale.read("drow_scale")?, &want.drow_scale)?;
        }
        Ok(comparison.worst)
    };
    Checked { problem: case.describe(), worst: run() }
}
