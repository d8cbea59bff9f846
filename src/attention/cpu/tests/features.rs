//! Every score, mask and option against plain loops in f64: values directly, gradients by central differences of the loops.

use super::formulas::random;
use crate::attention::*;
use crate::device::Device;
use crate::dtype::Element;
use crate::random::word;
use crate::tensor::{Tensor, TensorRef};
use half::{bf16, f16};

/// One call. Tensors are dense; `None` leaves an option out.
#[derive(Clone, Debug)]
struct Case {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    q_len: usize,
    keys: usize,
    dim: usize,
    value_dim: usize,
    score: &'static str,
    scale: Option<f64>,
    softcap: Option<f64>,
    causal: bool,
    window: Option<Window>,
    offset: Option<i64>,
    lengths: Option<Vec<i64>>,
    /// Shapes with 1 where they repeat.
    mask: Option<[usize; 4]>,
    bias: Option<[usize; 4]>,
    alibi: bool,
    sinks: bool,
    dropout: Option<f64>,
    /// Additive weights of each head.
    own_weights: bool,
    seed: u64,
}

impl Case {
    fn new(score: &'static str, q_len: usize, keys: usize) -> Self {
        Self {
            batch: 2,
            heads: 4,
            kv_heads: 2,
            q_len,
            keys,
            dim: 6,
            value_dim: 5,
            score,
            scale: None,
            softcap: None,
            causal: false,
            window: None,
            offset: None,
            lengths: None,
            mask: None,
            bias: None,
            alibi: false,
            sinks: false,
            dropout: None,
            own_weights: false,
            seed: 1,
        }
    }

    fn data(&self) -> Data {
        let n = |seed: u64, shape: &[usize], size: f32| -> Vec<f64> {
            // Exact in every type, so that all engines compute the same problem.
            let count = shape.iter().product();
            random(count, self.seed * 31 + seed, size)
                .iter()
                .map(|&x| (f64::from(x) * 32.0).round() / 32.0)
                .collect()
        };
        let (b, h, hk, i, j) = (self.batch, self.heads, self.kv_heads, self.q_len, self.keys);
        let mask = self.mask.unwrap_or([1; 4]);
        let mask: Vec<u8> =
            random(mask.iter().product(), self.seed + 77, 1.0).iter().map(|&x| u8::from(x > -0.3)).collect();
        let mut bias = n(5, &self.bias.unwrap_or([1; 4]), 1.5);
        if self.bias.is_some_and(|shape| shape[3] > 1) {
            for x in bias.iter_mut().step_by(7) {
                *x = f64::NEG_INFINITY;
            }
        }
        Data {
            inputs: [
                n(1, &[b, h, i, self.dim], 1.5),
                n(2, &[b, hk, j, self.dim], 1.5),
                n(3, &[b, hk, j, self.value_dim], 1.0),
                bias,
                n(6, &[h], 1.0),
                n(7, &[h], 2.0),
                n(8, &[if self.own_weights { h } else { 1 }, self.dim], 1.0),
                vec![self.scale.unwrap_or(0.75)],
            ],
            mask,
            grad: n(9, &[b, h, i, self.value_dim], 1.0),
            grad_lse: n(10, &[b, h, i], 1.0),
        }
    }

    fn sees(&self, data: &Data, b: usize, h: usize, i: usize, j: usize) -> bool {
        let keys = self.lengths.as_ref().map_or(self.keys, |l| l[b] as usize);
        let position = self.position(b, i);
        let distance = j as i64 - position;
        j < keys
            && (!self.causal || distance <= 0)
            && self.window.is_none_or(|w| {
                (w.left == Window::UNLIMITED || -distance <= w.left)
                    && (w.right == Window::UNLIMITED || distance <= w.right)
            })
            && self.mask.is_none_or(|shape| data.mask[at(shape, [b, h, i, j])] != 0)
            && self.bias.is_none_or(|shape| data.inputs[3][at(shape, [b, h, i, j])] != f64::NEG_INFINITY)
    }

    fn position(&self, b: usize, i: usize) -> i64 {
        let keys = self.lengths.as_ref().map_or(self.keys as i64, |l| l[b]);
        self.offset.unwrap_or(keys - self.q_len as i64) + i as i64
    }

    /// o and lse.
    fn forward(&self, data: &Data) -> (Vec<f64>, Vec<f64>) {
        let [q, k, v, bias, slopes, sinks, w, scale] = &data.inputs;
        let (mut o, mut lse) = (Vec::new(), Vec::new());
        let group = self.heads / self.kv_heads;
        for (b, h, i) in rows(self.batch, self.heads, self.q_len) {
            let query = &q[((b * self.heads + h) * self.q_len + i) * self.dim..][..self.dim];
            let kv = (b * self.kv_heads + h / group) * self.keys;
            let mut scores = Vec::new();
            for j in (0..self.keys).filter(|&j| self.sees(data, b, h, i, j)) {
                let key = &k[(kv + j) * self.dim..][..self.dim];
                let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
                let mut z = scale[0]
                    * match self.score {
                        "dot" | "complex" => dot(query, key),
                        "cosine" => {
                            let norms = (dot(query, query) * dot(key, key)).sqrt();
                            if norms == 0.0 { 0.0 } else { dot(query, key) / norms }
                        }
                        "gaussian" => -query.iter().zip(key).map(|(x, y)| (x - y) * (x - y)).sum::<f64>(),
                        "fidelity" => {
                            let im: f64 = query
                                .chunks_exact(2)
                                .zip(key.chunks_exact(2))
                                .map(|(q, k)| q[0] * k[1] - q[1] * k[0])
                                .sum();
                            dot(query, key).powi(2) + im * im
                        }
                        _ => {
                            let w = &w[if self.own_weights { h * self.dim } else { 0 }..];
                            (0..self.dim).map(|d| w[d] * (query[d] + key[d]).tanh()).sum()
                        }
                    };
                if let Some(cap) = self.softcap {
                    z = cap * (z / cap).tanh();
                }
                if let Some(shape) = self.bias {
                    z += bias[at(shape, [b, h, i, j])];
                }
                if self.alibi {
                    z -= slopes[h] * (self.position(b, i) - j as i64).abs() as f64;
                }
                scores.push((j, z));
            }
            let sink = if self.sinks { sinks[h] } else { f64::NEG_INFINITY };
            let top = scores.iter().map(|s| s.1).fold(sink, f64::max);
            let sum = scores.iter().map(|s| (s.1 - top).exp()).sum::<f64>() + (sink - top).exp();
            let nothing = top == f64::NEG_INFINITY;
            lse.push(if nothing { top } else { top + sum.ln() });
            for e in 0..self.value_dim {
                o.push(
                    scores
                        .iter()
                        .map(|&(j, z)| {
                            let index = ((b * self.heads + h) * self.q_len + i) * self.keys + j;
                            let keep = self.dropout.map_or(1.0, |p| {
                                let drops = word(11, 3, index as u64) < (p * 4_294_967_296.0) as u32;
                                if drops { 0.0 } else { 1.0 / (1.0 - p) }
                            });
                            keep * (z - top).exp() / sum * v[(kv + j) * self.value_dim + e]
                        })
                        .sum(),
                );
            }
        }
        (o, lse)
    }

    fn loss(&self, data: &Data) -> f64 {
        let (o, lse) = self.forward(data);
        let lse = lse.iter().zip(&data.grad_lse).filter(|(lse, _)| lse.is_finite());
        o.iter().zip(&data.grad).map(|(o, g)| o * g).sum::<f64>() + lse.map(|(l, g)| l * g).sum::<f64>()
    }
}

fn rows(batch: usize, heads: usize, rows: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..batch * heads * rows).map(move |n| (n / rows / heads, n / rows % heads, n % rows))
}

fn at(shape: [usize; 4], index: [usize; 4]) -> usize {
    (0..4).fold(0, |at, d| at * shape[d] + if shape[d] == 1 { 0 } else { index[d] })
}

/// q, k, v, bias, slopes, sinks, additive weights, scale; and the rest.
#[derive(Clone)]
struct Data {
    inputs: [Vec<f64>; 8],
    mask: Vec<u8>,
    grad: Vec<f64>,
    grad_lse: Vec<f64>,
}

/// o, lse, and the gradients in the order of the inputs.
type Results = (Vec<f64>, Vec<f64>, [Option<Vec<f64>>; 8]);

trait Stored: Element {
    type Wide: Element;
    fn store(x: f64) -> Self;
    fn load(self) -> f64;
    fn wide(x: f64) -> Self::Wide;
    fn unwide(x: Self::Wide) -> f64;
}

macro_rules! stored {
    ($($t:ty, $wide:ty, $store:expr, $load:expr);*) => {$(
        impl Stored for $t {
            type Wide = $wide;
            fn store(x: f64) -> Self { $store(x) }
            fn load(self) -> f64 { $load(self) }
            fn wide(x: f64) -> $wide { x as $wide }
            fn unwide(x: $wide) -> f64 { x as f64 }
        }
    )*};
}
stored!(f32, f32, |x| x as f32, f64::from; f64, f64, |x| x, |x| x; f16, f32, f16::from_f64, f16::to_f64; bf16, f32, bf16::from_f64, bf16::to_f64);

fn run<T: Stored>(case: &Case, data: &Data) -> Results {
    let cpu = Device::cpu();
    let t = |x: &[f64], shape: &[usize]| {
        Tensor::from_slice(&cpu, &x.iter().map(|&x| T::store(x)).collect::<Vec<T>>(), shape).unwrap()
    };
    let w = |x: &[f64], shape: &[usize]| {
        Tensor::from_slice(&cpu, &x.iter().map(|&x| T::wide(x)).collect::<Vec<T::Wide>>(), shape).unwrap()
    };
    let (b, h, hk, i, j) = (case.batch, case.heads, case.kv_heads, case.q_len, case.keys);
    let q = t(&data.inputs[0], &[b, h, i, case.dim]);
    let k = t(&data.inputs[1], &[b, hk, j, case.dim]);
    let v = t(&data.inputs[2], &[b, hk, j, case.value_dim]);
    let bias = case.bias.map(|shape| w(&data.inputs[3], &shape));
    let mask = case.mask.map(|shape| Tensor::from_slice(&cpu, &data.mask, &shape).unwrap());
    let (slopes, sinks) = (w(&data.inputs[4], &[h]), w(&data.inputs[5], &[h]));
    let own = [h, case.dim];
    let weights = w(&data.inputs[6], if case.own_weights { &own } else { &own[1..] });
    let scale = data.inputs[7][0];
    let options = AttentionOptions {
        score: match case.score {
            "dot" => Score::Dot,
            "complex" => Score::ComplexDot,
            "cosine" => Score::Cosine,
            "gaussian" => Score::Gaussian { gamma: scale },
            "fidelity" => Score::Fidelity,
            _ => Score::Additive { w: weights.view() },
        },
        scale: (case.score != "gaussian").then_some(scale),
        softcap: case.softcap,
        causal: case.causal,
        window: case.window,
        query_offset: case.offset.map_or(QueryOffset::BottomRight, QueryOffset::At),
        kv_len: case.lengths.as_ref().map(|l| TensorRef::from_slice(l, &[b]).unwrap()),
        mask: mask.as_ref().map(Tensor::view),
        bias: bias.as_ref().map(Tensor::view),
        alibi: case.alibi.then(|| slopes.view()),
        sinks: case.sinks.then(|| sinks.view()),
        dropout: case.dropout.map(|p| Dropout { p, seed: Seed::Host { seed: 11, offset: 3 } }),
        ..Default::default()
    };
    let out = attention_forward(&q.view(), &k.view(), &v.view(), &options).unwrap();
    let (grad, grad_lse) = (t(&data.grad, &[b, h, i, case.value_dim]), w(&data.grad_lse, &[b, h, i]));
    let saved = AttentionSaved {
        o: out.o.view(),
        lse: out.lse.view(),
        grad_o: grad.view(),
        grad_lse: Some(grad_lse.view()),
    };
    let want = WantGradients {
        dq: true,
        dk: true,
        dv: true,
        dbias: case.bias.is_some(),
        dsinks: case.sinks,
        dalibi: case.alibi,
        dw: case.score == "additive",
        dscale: true,
    };
    let g = attention_backward(&q.view(), &k.view(), &v.view(), &saved, &options, want).unwrap();
    let stored = |x: &Option<Tensor>| {
        x.as_ref().map(|x| x.to_vec::<T>().unwrap().into_iter().map(T::load).collect::<Vec<f64>>())
    };
    let wide = |x: &Option<Tensor>| {
        x.as_ref().map(|x| x.to_vec::<T::Wide>().unwrap().into_iter().map(T::unwide).collect::<Vec<f64>>())
    };
    let gradients = [
        stored(&g.dq),
        stored(&g.dk),
        stored(&g.dv),
        wide(&g.dbias),
        wide(&g.dalibi),
        wide(&g.dsinks),
        wide(&g.dw),
        wide(&g.dscale),
    ];
    let lse = out.lse.to_vec::<T::Wide>().unwrap().into_iter().map(T::unwide).collect();
    (out.o.to_vec::<T>().unwrap().into_iter().map(T::load).collect(), lse, gradients)
}

fn close(got: &[f64], want: &[f64], bound: f64, what: &str, case: &Case) {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().filter(|x| x.is_finite()).fold(1.0f64, |a, x| a.max(x.abs()));
    for (n, (&got, &want)) in got.iter().zip(want).enumerate() {
        let fine = (got - want).abs() <= bound * largest || got == want;
        assert!(fine, "{what}[{n}] = {got}, want {want}\n{case:?}");
    }
}

/// f64 against the loops, the other types against f64.
fn check(case: &Case) {
    let data = case.data();
    let (o, lse) = case.forward(&data);
    let exact = run::<f64>(case, &data);
    close(&exact.0, &o, 1e-12, "o", case);
    close(&exact.1, &lse, 1e-12, "lse", case);
    let names = ["dq", "dk", "dv", "dbias", "dalibi", "dsinks", "dw", "dscale"];
    for (n, (name, got)) in names.iter().zip(&exact.2).enumerate() {
        let Some(got) = got else { continue };
        let size = data.inputs[n].len();
        // All of a small input, a few elements of a large one.
        for index in (0..size).step_by((size / 5).max(1)) {
            let (mut up, mut down) = (data.clone(), data.clone());
            up.inputs[n][index] += 1e-4;
            down.inputs[n][index] -= 1e-4;
            let want = if data.inputs[n][index].is_finite() {
                (case.loss(&up) - case.loss(&down)) / 2e-4
            } else {
                0.0
            };
            let bound = 2e-6 * (1.0 + want.abs());
            assert!(
                (got[index] - want).abs() <= bound,
                "{name}[{index}] = {}, want {want}\n{case:?}",
                got[index]
            );
        }
    }
    for (dtype, results, bound) in [
        ("f32", run::<f32>(case, &data), 2e-5),
        ("f16", run::<f16>(case, &data), 6e-3),
        ("bf16", run::<bf16>(case, &data), 5e-2),
    ] {
        close(&results.0, &exact.0, bound, &format!("{dtype} o"), case);
        close(&results.1, &exact.1, bound, &format!("{dtype} lse"), case);
        for (name, (got, want)) in names.iter().zip(results.2.iter().zip(&exact.2)) {
            assert_eq!(got.is_some(), want.is_some());
            if let (Some(got), Some(want)) = (got, want) {
                close(got, want, bound * 4.0, &format!("{dtype} {name}"), case);
            }
        }
    }
}

const SCORES: [&str; 6] = ["dot", "complex", "cosine", "gaussian", "fidelity", "additive"];

#[test]
fn every_score_alone() {
    for score in SCORES {
        for (q_len, keys) in [(3, 5), (1, 1)] {
            check(&Case::new(score, q_len, keys));
        }
        check(&Case { batch: 1, heads: 2, kv_heads: 1, ..Case::new(score, 70, 131) });
    }
}

#[test]
fn every_score_with_everything() {
    for (n, score) in SCORES.into_iter().enumerate() {
        for (q_len, keys) in [(9, 12), (66, 134)] {
            check(&Case {
                dim: 4,
                value_dim: 3,
                softcap: Some(2.0),
                window: Some(Window { left: 40, right: 3 }),
                offset: Some(4),
                lengths: Some(vec![keys as i64 - 2, 3]),
                mask: Some([1, 4, q_len, keys]),
                bias: Some([2, 1, q_len, keys]),
                alibi: true,
                sinks: true,
                dropout: Some(0.25),
                own_weights: n % 2 == 1,
                seed: n as u64 + 5,
                ..Case::new(score, q_len, keys)
            });
        }
    }
}

#[test]
fn every_option_alone_and_every_broadcast() {
    let base = || Case { dim: 2, value_dim: 2, heads: 2, kv_heads: 1, ..Case::new("dot", 67, 131) };
    check(&Case { softcap: Some(0.8), ..base() });
    check(&Case { alibi: true, causal: true, ..base() });
    check(&Case { alibi: true, offset: Some(-20), ..base() });
    check(&Case { sinks: true, causal: true, offset: Some(-30), ..base() });
    check(&Case { dropout: Some(0.5), ..base() });
    check(&Case { window: Some(Window { left: 5, right: Window::UNLIMITED }), ..base() });
    check(&Case { window: Some(Window { left: 20, right: 0 }), causal: true, offset: Some(70), ..base() });
    for bits in 0..16 {
        let shape = std::array::from_fn(|d| if bits >> d & 1 == 1 { 1 } else { [2, 2, 67, 131][d] });
        check(&Case { bias: Some(shape), seed: bits as u64, ..base() });
        check(&Case { mask: Some(shape), causal: bits % 2 == 0, seed: bits as u64, ..base() });
    }
}
