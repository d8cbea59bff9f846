//! Random problems with any mixture of options.

use crate::support::elements::rounded;
use crate::support::oracle_attention::{Dropout, General, SCORES, Score, Table};
use crate::support::random::Random;
use gatewarp::DType;
use proptest::prelude::*;

/// Options as bits, so that a failing case shrinks to the options that matter.
pub mod option {
    pub const CAUSAL: u32 = 1;
    pub const WINDOW: u32 = 2;
    pub const LENGTHS: u32 = 4;
    pub const OFFSET: u32 = 8;
    pub const MASK: u32 = 16;
    pub const BIAS: u32 = 32;
    pub const ALIBI: u32 = 64;
    pub const SINKS: u32 = 128;
    pub const SOFTCAP: u32 = 256;
    pub const DROPOUT: u32 = 512;
    pub const SCALE: u32 = 1024;
    pub const PACKED: u32 = 2048;
    pub const ALL: u32 = 4095;
}

/// Sizes, score and options; everything else follows from the seed.
#[derive(Clone, Debug)]
pub struct Case {
    pub batch: usize,
    pub kv_heads: usize,
    pub group: usize,
    pub q_len: usize,
    pub kv_len: usize,
    pub head_dim: usize,
    pub value_dim: usize,
    pub score: Score,
    pub options: u32,
    pub seed: u64,
}

/// Streams of [`Random`], one for each tensor.
#[derive(Clone, Copy)]
enum Stream {
    Query = 1,
    Key,
    Value,
    GradO,
    GradLse,
    Lengths,
    Masks,
    Numbers,
    Weights,
}

/// A problem with its upstream gradients, all values already rounded to the element type.
#[derive(Clone, Debug)]
pub struct Data {
    pub problem: General,
    pub grad_o: Vec<f64>,
    pub grad_lse: Vec<f64>,
}

impl Case {
    pub fn has(&self, option: u32) -> bool {
        self.options & option != 0
    }

    pub fn q_heads(&self) -> usize {
        self.kv_heads * self.group
    }

    fn random(&self, stream: Stream) -> Random {
        Random::new(self.seed, stream as u64)
    }

    fn work(&self) -> usize {
        self.batch * self.q_heads() * self.q_len * self.kv_len * (self.head_dim + self.value_dim)
    }

    /// Small enough for an emulated device; lengths are kept as long as anything else can give.
    fn affordable(mut self) -> Self {
        if matches!(self.score, Score::ComplexDot | Score::Fidelity) {
            self.head_dim = self.head_dim.next_multiple_of(2);
        }
        while self.work() > 1 << 18 {
            if self.batch > 2 {
                self.batch -= 1;
            } else if self.group > 1 {
                self.group -= 1;
            } else if self.kv_heads > 1 {
                self.kv_heads -= 1;
            } else if self.head_dim + self.value_dim > 8 {
                self.head_dim = self.head_dim.div_ceil(2).next_multiple_of(2);
                self.value_dim = self.value_dim.div_ceil(2);
            } else {
                self.q_len = self.q_len.div_ceil(2);
            }
        }
        self
    }

    /// Sizes of a table broadcast along some dimensions.
    fn table_shape(&self, random: &mut Random) -> [usize; 4] {
        [self.batch, self.q_heads(), self.q_len, self.kv_len].map(|n| if random.one_in(3) { 1 } else { n })
    }

    /// The values, rounded to `dtype`.
    pub fn data(&self, dtype: DType) -> Data {
        let round =
            |values: Vec<f64>| -> Vec<f64> { values.into_iter().map(|x| rounded(dtype, x)).collect() };
        let accumulator = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let (rows, keys) =
            (self.batch * self.q_heads() * self.q_len, self.batch * self.kv_heads * self.kv_len);
        let values = |stream: Stream, n: usize, size: f64| -> Vec<f64> {
            let mut random = self.random(stream);
            round((0..n).map(|_| f64::from(random.signed()) * size).collect())
        };
        let mut numbers = self.random(Stream::Numbers);
        // Scores of a few units, now and then of hundreds.
        let reach: f64 = if numbers.one_in(8) { 30.0 } else { 1.5 };
        let (softcap, dropout) = ([0.7, 3.0, 30.0][numbers.below(3)], [0.0, 0.1, 0.5, 0.9][numbers.below(4)]);
        let window = |random: &mut Random| match random.below(4) {
            0 => i64::MAX,
            _ => random.between(0, self.kv_len as i64 / 2 + 2),
        };
        let window = (window(&mut numbers), window(&mut numbers));
        let scale = [0.5, -0.37, 1.0, 0.0, 2.0][numbers.below(5)];
        let default = match self.score {
            Score::Dot => 1.0 / (self.head_dim as f64).sqrt(),
            Score::ComplexDot => 1.0 / (self.head_dim as f64 / 2.0).sqrt(),
            Score::Gaussian => [0.3, 1.0, 2.5][numbers.below(3)] / self.head_dim as f64,
            _ => 1.0,
        };
        let scale = if self.has(option::SCALE) && self.score != Score::Gaussian { scale } else { default };
        let mut lengths = self.random(Stream::Lengths);
        let mut length = |most: usize, own: bool| match lengths.below(5) {
            _ if !own => most,
            0 => 0,
            1 => most,
            _ => lengths.below(most + 1),
        };
        let packed = self.has(option::PACKED);
        let q_len: Vec<usize> = (0..self.batch).map(|_| length(self.q_len, packed)).collect();
        let kv_len: Vec<usize> =
            (0..self.batch).map(|_| length(self.kv_len, packed || self.has(option::LENGTHS))).collect();
        let offset = (0..self.batch)
            .map(|b| match self.has(option::OFFSET) {
                true => lengths.between(-(self.q_len as i64) - 3, self.kv_len as i64 + 3),
                false => kv_len[b] as i64 - q_len[b] as i64,
            })
            .collect();
        let mut masks = self.random(Stream::Masks);
        let shape = self.table_shape(&mut masks);
        let mask = Table { shape, values: (0..shape.iter().product()).map(|_| !masks.one_in(3)).collect() };
        let shape = self.table_shape(&mut masks);
        let element = |random: &mut Random| match random.below(12) {
            0 => f64::NEG_INFINITY,
            _ => rounded(dtype, f64::from(random.signed()) * 3.0),
        };
        let bias =
            Table { shape, values: (0..shape.iter().product()).map(|_| element(&mut masks)).collect() };
        let mut weights = self.random(Stream::Weights);
        let mut numbers = |n: usize, size: f64| -> Vec<f64> {
            (0..n).map(|_| rounded(accumulator, f64::from(weights.signed()) * size)).collect()
        };
        let heads = self.q_heads();
        let (alibi, sinks) = (numbers(heads, 0.5), numbers(heads, 3.0));
        // One row of weights for all heads, or one a head.
        let shared = self.seed.is_multiple_of(2);
        let mut w = numbers(if shared { 1 } else { heads } * self.head_dim, 1.0);
        if shared {
            w = w.repeat(heads);
        }
        // Additive scores grow with D; cosine scores do not with q.
        let (q_reach, k_reach) = match self.score {
            Score::Fidelity => (reach.min(4.0) / (self.head_dim as f64).sqrt(), 1.0),
            Score::Additive => (1.0, 1.0),
            _ => (reach, 1.0),
        };
        Data {
            problem: General {
                batch: self.batch,
                q_heads: heads,
                kv_heads: self.kv_heads,
                q_slots: self.q_len,
                kv_slots: self.kv_len,
                head_dim: self.head_dim,
                value_dim: self.value_dim,
                score: self.score,
                scale,
                softcap: self.has(option::SOFTCAP).then_some(softcap),
                causal: self.has(option::CAUSAL),
                window: self.has(option::WINDOW).then_some(window),
                offset,
                q_len,
                kv_len,
                mask: self.has(option::MASK).then_some(mask),
                bias: self.has(option::BIAS).then_some(bias),
                alibi: self.has(option::ALIBI).then_some(alibi),
                sinks: self.has(option::SINKS).then_some(sinks),
                w,
                dropout: self.has(option::DROPOUT).then_some(Dropout {
                    p: dropout,
                    seed: self.seed,
                    offset: 3,
                }),
                q: values(Stream::Query, rows * self.head_dim, q_reach),
                k: values(Stream::Key, keys * self.head_dim, k_reach),
                v: values(Stream::Value, keys * self.value_dim, 2.0),
                store: |x| x,
            },
            grad_o: values(Stream::GradO, rows * self.value_dim, 1.0),
            grad_lse: {
                let mut random = self.random(Stream::GradLse);
                (0..rows).map(|_| f64::from(random.signed())).collect()
            },
        }
    }
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        3 => 1usize..=9,
        4 => prop::sample::select(vec![13usize, 15, 16, 17, 31, 32, 33, 63, 64, 65, 67, 97, 127, 128, 129, 160]),
        1 => Just(0usize),
    ]
}

fn dim() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 1usize..=20,
        3 => prop::sample::select(vec![24usize, 31, 32, 33, 63, 64, 65, 96, 127, 128, 129]),
        1 => prop::sample::select(vec![144usize, 192, 256, 257, 320]),
    ]
}

/// Problems with the given scores, whose options are all of `always` and some of `sometimes`.
pub fn case(scores: &'static [Score], always: u32, sometimes: u32) -> impl Strategy<Value = Case> {
    // Each option in a quarter of the cases: most cases mix a few.
    let options = (any::<u32>(), any::<u32>()).prop_map(move |(a, b)| (a & b & sometimes) | always);
    let sizes = (0usize..=3, 1usize..=2, 1usize..=3, length(), length(), dim(), dim());
    (prop::sample::select(scores), options, sizes, any::<u64>().no_shrink()).prop_map(
        |(score, options, (batch, kv_heads, group, q_len, kv_len, head_dim, value_dim), seed)| {
            let case =
                Case { batch, kv_heads, group, q_len, kv_len, head_dim, value_dim, score, options, seed };
            case.affordable()
        },
    )
}

/// Any score, any options.
pub fn any_case() -> impl Strategy<Value = Case> {
    case(&SCORES, 0, option::ALL)
}
