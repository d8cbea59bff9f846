//! Random attention problems: shapes that break kernels, masks of every kind, and the data that follows from a seed.

use super::oracle::Attention;
use super::random::Random;
use proptest::prelude::*;

/// Where query 0 stands, as the caller says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offset {
    /// The default: the last query sees the last key.
    BottomRight,
    /// The same for all samples: negative, inside, or beyond the keys.
    At(i64),
    /// One number a sample, drawn from the seed.
    PerSample,
}

/// A problem's sizes and options; its data follow from `seed`.
#[derive(Clone, Debug)]
pub struct Case {
    pub batch: usize,
    pub kv_heads: usize,
    /// Query heads to a key head.
    pub group: usize,
    pub q_len: usize,
    pub kv_slots: usize,
    pub head_dim: usize,
    pub value_dim: usize,
    pub causal: bool,
    pub scale: Option<f32>,
    pub offset: Offset,
    /// Whether samples have lengths of their own, of which a fifth are 0.
    pub own_lengths: bool,
    /// Typical size of a score.
    pub logits: f32,
    pub seed: u64,
}

/// Streams of [`Random`], so that each tensor's values depend on the seed alone.
#[derive(Clone, Copy)]
pub enum Stream {
    Query = 1,
    Key,
    Value,
    GradO,
    GradLse,
    Lengths,
    Offsets,
    Layouts,
    Places,
    Heads,
    RowScale,
}

/// The values of a case.
#[derive(Clone, Debug)]
pub struct Data {
    /// The problem as the oracle takes it.
    pub problem: Attention,
    /// The scale as the caller gives it.
    pub scale: Option<f32>,
    /// The offset as the caller gives it.
    pub offset: Offset,
    /// Whether the caller gives lengths.
    pub own_lengths: bool,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub grad_o: Vec<f32>,
    pub grad_lse: Vec<f32>,
    /// Whether k and v are the same for every sample, to be passed with a batch stride of 0.
    pub shared_keys: bool,
}

/// Multiply-adds of the scores and outputs above which a case is made smaller.
const WORK: usize = 1 << 20;

impl Case {
    /// Random numbers of one stream.
    pub fn random(&self, stream: Stream) -> Random {
        Random::new(self.seed, stream as u64)
    }

    pub fn q_heads(&self) -> usize {
        self.kv_heads * self.group
    }

    /// The scale in force.
    pub fn scale_value(&self) -> f32 {
        self.scale.unwrap_or(1.0 / (self.head_dim as f32).sqrt())
    }

    /// Whether the problem covers three tiles of 64 along queries and along keys.
    pub fn spans_three_tiles(&self) -> bool {
        self.q_len > 128 && self.kv_slots > 128
    }

    fn work(&self) -> usize {
        self.batch * self.q_heads() * self.q_len * self.kv_slots * (self.head_dim + self.value_dim)
    }

    /// The same kind of problem, small enough for an emulated device. Sequence lengths are kept.
    fn affordable(mut self) -> Self {
        while self.work() > WORK {
            if self.head_dim + self.value_dim > 24 {
                self.head_dim = self.head_dim.div_ceil(2);
                self.value_dim = self.value_dim.div_ceil(2);
            } else if self.batch > 1 {
                self.batch -= 1;
            } else if self.group > 1 {
                self.group -= 1;
            } else if self.kv_heads > 1 {
                self.kv_heads -= 1;
            } else {
                self.head_dim = self.head_dim.div_ceil(2);
                self.value_dim = self.value_dim.div_ceil(2);
            }
        }
        self
    }

    /// Keys of each sample.
    pub fn kv_len(&self) -> Vec<usize> {
        let mut random = self.random(Stream::Lengths);
        let mut one = || match random.below(5) {
            0 => 0,
            1 => self.kv_slots,
            _ => random.below(self.kv_slots + 1),
        };
        (0..self.batch).map(|_| if self.own_lengths { one() } else { self.kv_slots }).collect()
    }

    /// Position of query 0 of each sample.
    pub fn offsets(&self) -> Vec<i64> {
        let mut random = self.random(Stream::Offsets);
        let (q_len, kv_slots) = (self.q_len as i64, self.kv_slots as i64);
        let lengths = self.kv_len();
        let one = |b: usize| match self.offset {
            Offset::BottomRight => lengths[b] as i64 - q_len,
            Offset::At(at) => at,
            Offset::PerSample => random.between(-q_len - 3, kv_slots + 3),
        };
        (0..self.batch).map(one).collect()
    }

    /// The values.
    pub fn data(&self) -> Data {
        let rows = self.batch * self.q_heads() * self.q_len;
        let keys = self.batch * self.kv_heads * self.kv_slots;
        let scale = self.scale_value();
        // A dot product of D uniform pairs deviates by √D/3.
        let spread = scale.abs() * (self.head_dim as f32).sqrt() / 3.0;
        let reach = if spread > 0.0 { self.logits / spread } else { 1.0 };
        let q = self.random(Stream::Query).values(rows * self.head_dim, reach);
        let mut k = self.random(Stream::Key).values(keys * self.head_dim, 1.0);
        let mut v = self.random(Stream::Value).values(keys * self.value_dim, 2.0);
        let shared_keys = self.batch > 1 && self.random(Stream::Layouts).one_in(8);
        if shared_keys {
            repeat_first(&mut k, self.batch);
            repeat_first(&mut v, self.batch);
        }
        let grad_o = self.random(Stream::GradO).values(rows * self.value_dim, 1.0);
        let grad_lse = self.random(Stream::GradLse).values(rows, 1.0);
        let mut data = Data {
            problem: Attention {
                batch: self.batch,
                q_heads: self.q_heads(),
                kv_heads: self.kv_heads,
                q_len: self.q_len,
                kv_slots: self.kv_slots,
                head_dim: self.head_dim,
                value_dim: self.value_dim,
                scale: scale.into(),
                causal: self.causal,
                offset: self.offsets(),
                kv_len: self.kv_len(),
                q: Vec::new(),
                k: Vec::new(),
                v: Vec::new(),
                row_scale: None,
                active: None,
            },
            scale: self.scale,
            offset: self.offset,
            own_lengths: self.own_lengths,
            q,
            k,
            v,
            grad_o,
            grad_lse,
            shared_keys,
        };
        data.refresh();
        data
    }
}

impl Data {
    /// Brings the oracle's copy up to date after `q`, `k` or `v` were changed.
    pub fn refresh(&mut self) {
        self.problem.q = widen(&self.q);
        self.problem.k = widen(&self.k);
        self.problem.v = widen(&self.v);
    }

    /// The problem made of these samples, in this order.
    pub fn samples(&self, order: &[usize]) -> Self {
        let pick = |values: &[f32]| -> Vec<f32> {
            let sample = values.len() / self.problem.batch;
            order.iter().flat_map(|&b| values[b * sample..][..sample].iter().copied()).collect()
        };
        let p = &self.problem;
        let mut data = Self {
            q: pick(&self.q),
            k: pick(&self.k),
            v: pick(&self.v),
            grad_o: pick(&self.grad_o),
            grad_lse: pick(&self.grad_lse),
            shared_keys: false,
            problem: Attention {
                batch: order.len(),
                offset: order.iter().map(|&b| p.offset[b]).collect(),
                kv_len: order.iter().map(|&b| p.kv_len[b]).collect(),
                ..p.clone()
            },
            ..*self
        };
        data.refresh();
        data
    }
}

/// Every sample gets the first one's values.
fn repeat_first(values: &mut [f32], batch: usize) {
    let sample = values.len() / batch;
    for b in 1..batch {
        values.copy_within(..sample, b * sample);
    }
}

/// f32 values as the oracle takes them.
pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| x.into()).collect()
}

/// Lengths around the tiles of every kernel, primes and 0.
fn edge_length() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![
        1, 0, 2, 3, 5, 7, 13, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 97, 127, 128, 129,
    ])
}

fn dim() -> impl Strategy<Value = usize> {
    prop_oneof![
        prop::sample::select(vec![1usize, 2, 3, 4, 7, 8, 9, 16, 31, 32, 33, 63, 64, 65, 96, 127, 128]),
        1usize..=128,
    ]
}

/// (batch, kv_heads, group, q_len, kv_slots, head_dim, value_dim)
type Sizes = (usize, usize, usize, usize, usize, usize, usize);

fn spanning() -> impl Strategy<Value = Sizes> {
    (1usize..=2, 1usize..=2, 1usize..=2, 129usize..=200, 129usize..=200, 1usize..=17, 1usize..=17)
}

fn edges() -> impl Strategy<Value = Sizes> {
    // Once in sixteen there is no sample at all.
    let batch = (0usize..48).prop_map(|n| if n < 3 { 0 } else { n % 3 + 1 });
    (batch, 1usize..=3, 1usize..=4, edge_length(), edge_length(), dim(), dim())
}

fn small() -> impl Strategy<Value = Sizes> {
    (1usize..=5, 1usize..=3, 1usize..=3, 0usize..=9, 0usize..=9, dim(), dim())
}

fn scale() -> impl Strategy<Value = Option<f32>> {
    prop_oneof![
        4 => Just(None),
        1 => prop::sample::select(vec![Some(1.0f32), Some(0.37), Some(-0.5), Some(0.0), Some(3.0)]),
    ]
}

fn case_of(sizes: impl Strategy<Value = Sizes>) -> impl Strategy<Value = Case> {
    let logits = prop::sample::select(vec![1.0f32, 1.0, 1.0, 0.01, 8.0, 60.0, 1e4]);
    (sizes, any::<bool>(), scale(), 0u32..4, any::<bool>(), logits, any::<u64>().no_shrink()).prop_map(
        |(sizes, causal, scale, offset, own_lengths, logits, seed)| {
            let (batch, kv_heads, group, q_len, kv_slots, head_dim, value_dim) = sizes;
            let offset = match offset {
                0 | 1 => Offset::BottomRight,
                2 => {
                    let (before, beyond) = (q_len as i64 + 3, kv_slots as i64 + 3);
                    Offset::At(Random::new(seed, Stream::Offsets as u64).between(-before, beyond))
                }
                _ => Offset::PerSample,
            };
            let case = Case {
                batch,
                kv_heads,
                group,
                q_len,
                kv_slots,
                head_dim,
                value_dim,
                causal,
                scale,
                offset,
                own_lengths,
                logits,
                seed,
            };
            case.affordable()
        },
    )
}

/// Any problem; more than a fifth span three tiles along queries and along keys.
pub fn any_case() -> impl Strategy<Value = Case> {
    case_of(prop_oneof![3 => spanning().boxed(), 4 => edges().boxed(), 3 => small().boxed()])
}

/// A problem of at least one sample, query and key.
pub fn non_empty_case() -> impl Strategy<Value = Case> {
    let at_least_one = |(b, hk, g, q, k, d, dv): Sizes| (b.max(1), hk, g, q.max(1), k.max(1), d, dv);
    case_of(prop_oneof![
        3 => spanning().boxed(),
        4 => edges().prop_map(at_least_one).boxed(),
        3 => small().prop_map(at_least_one).boxed(),
    ])
}

/// Problems where some query does not see some key.
pub fn masked_case() -> impl Strategy<Value = Case> {
    non_empty_case().prop_map(|mut case| {
        case.causal |= !case.own_lengths;
        case
    })
}
