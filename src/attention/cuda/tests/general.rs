//! The general kernels under the emulator, against f64: every score, mask, layout, type and dimension.

mod mma_backward;

use super::formulas::{Bounded, Broadcast, Call, Kind, Results};
use super::placed::{Placed, cumulative, packed};
use super::reference::numbers;
use crate::attention::*;
use crate::device::{Device, Schedule};
use crate::dtype::DType;
use crate::tensor::{Layout, Tensor};
use half::{bf16, f16};

/// A case's shape in short.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) heads: [usize; 3],
    pub(super) lens: [usize; 2],
    pub(super) dims: [usize; 2],
}

/// How tensors are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Dense,
    /// `[batch, row, head, dim]` in memory.
    HeadsInside,
    Packed,
    /// Pages of 16 keys, the last page first.
    Paged,
}

const KINDS: [Kind; 6] =
    [Kind::Dot, Kind::ComplexDot, Kind::Cosine, Kind::Fidelity, Kind::Gaussian, Kind::Additive];

pub(super) fn wide(seed: u64, count: usize, reach: f64) -> Vec<f64> {
    numbers(seed, count).iter().map(|&x| f64::from(x) * reach).collect()
}

/// `x` as an element of the type holds it.
pub(super) fn rounded(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F16 => f16::from_f64(x).into(),
        DType::BF16 => bf16::from_f64(x).into(),
        DType::F64 => x,
        _ => f64::from(x as f32),
    }
}

impl Call {
    pub(super) fn of(shape: Shape, kind: Kind, dtype: DType, seed: u64) -> Self {
        let ([batch, q_heads, kv_heads], [q_len, kv_slots], [head_dim, value_dim]) =
            (shape.heads, shape.lens, shape.dims);
        let (rows, keys) = (batch * q_heads * q_len, batch * kv_heads * kv_slots);
        // Scores of order 1 whatever the dimension.
        let reach = match kind {
            Kind::Cosine | Kind::Additive => 1.0,
            _ => 1.5 / (head_dim as f64).powf(0.25),
        };
        let of = |offset: u64, count: usize, reach: f64| -> Vec<f64> {
            wide(seed * 16 + offset, count, reach).into_iter().map(|x| rounded(dtype, x)).collect()
        };
        let accumulator = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let exact =
            |values: Vec<f64>| values.into_iter().map(|x| rounded(accumulator, x)).collect::<Vec<_>>();
        Self {
            batch,
            q_heads,
            kv_heads,
            q_len,
            kv_slots,
            head_dim,
            value_dim,
            kind,
            coefficient: 0.75,
            softcap: None,
            causal: false,
            window: None,
            q_lens: vec![q_len; batch],
            kv_lens: vec![kv_slots; batch],
            offsets: vec![kv_slots as i64 - q_len as i64; batch],
            mask: None,
            bias: None,
            alibi: None,
            sinks: None,
            w: if kind == Kind::Additive { exact(wide(seed * 16 + 7, head_dim, 1.0)) } else { Vec::new() },
            dropout: None,
            active: None,
            row_scale: None,
            q: of(1, rows * head_dim, reach),
            k: of(2, keys * head_dim, reach),
            v: of(3, keys * value_dim, 1.0),
            grad_o: of(4, rows * value_dim, 1.0),
            grad_lse: Some(exact(wide(seed * 16 + 5, rows, 1.0))),
            forward_only: false,
        }
    }

    pub(super) fn full(&self) -> [usize; 4] {
        [self.batch, self.q_heads, self.q_len, self.kv_slots]
    }

    /// A mask over the dimensions marked, hiding about a third.
    pub(super) fn masked(mut self, over: [bool; 4], seed: u64) -> Self {
        let shape = std::array::from_fn(|i| if over[i] { self.full()[i] } else { 1 });
        let values = wide(seed, shape.iter().product(), 1.0);
        let values = values.into_iter().map(|x| f64::from(u8::from(x > -0.3))).collect();
        self.mask = Some(Broadcast { shape, values });
        self
    }

    /// A bias over the dimensions marked; a tenth is −∞.
    pub(super) fn biased(mut self, over: [bool; 4], dtype: DType, seed: u64) -> Self {
        let shape = std::array::from_fn(|i| if over[i] { self.full()[i] } else { 1 });
        let values = wide(seed, shape.iter().product(), 1.0).into_iter();
        let values = values.map(|x| if x > 0.8 { f64::NEG_INFINITY } else { rounded(dtype, x) }).collect();
        self.bias = Some(Broadcast { shape, values });
        self
    }

    pub(super) fn lengths(mut self, q_lens: &[usize], kv_lens: &[usize]) -> Self {
        (self.q_lens, self.kv_lens) = (q_lens.to_vec(), kv_lens.to_vec());
        self.offsets = q_lens.iter().zip(kv_lens).map(|(&q, &k)| k as i64 - q as i64).collect();
        self
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// What a run computed, each in the order of [`Results`]; empty where it was not asked for.
pub(super) struct Run(pub(super) Vec<(&'static str, Vec<f64>)>);

pub(super) fn run(device: &Device, call: &Call, dtype: DType, stored: Stored) -> Result<Run> {
    let c = call;
    let accumulator = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let is_packed = stored == Stored::Packed;
    let layout = |shape: &[usize]| {
        if stored != Stored::HeadsInside {
            return Layout::contiguous(shape).unwrap();
        }
        let inside = [shape[0], shape[2], shape[1], shape.get(3).map_or(1, |&dim| dim + 3)];
        let all = Layout::contiguous(&inside).unwrap();
        if shape.len() == 4 {
            all.narrow(3, 1, shape[3]).unwrap().permute(&[0, 2, 1, 3]).unwrap()
        } else {
            let strides = [inside[1] * inside[2], 1, inside[2]];
            Layout::new(shape, &strides, 0).unwrap()
        }
    };
    let shape_of = |heads: usize, len: usize, lens: &[usize], dim: usize| {
        if is_packed { [1, heads, lens.iter().sum(), dim] } else { [c.batch, heads, len, dim] }
    };
    let rows = |values: &[f64], heads: usize, len: usize, lens: &[usize], dim: usize| {
        if is_packed { packed(values, [c.batch, heads, len, dim], lens) } else { values.to_vec() }
    };
    let [q_shape, o_shape] =
        [c.head_dim, c.value_dim].map(|dim| shape_of(c.q_heads, c.q_len, &c.q_lens, dim));
    let [k_shape, v_shape] =
        [c.head_dim, c.value_dim].map(|dim| shape_of(c.kv_heads, c.kv_slots, &c.kv_lens, dim));
    let query = |values: &[f64], dim: usize| rows(values, c.q_heads, c.q_len, &c.q_lens, dim);
    let keys = |values: &[f64], dim: usize| rows(values, c.kv_heads, c.kv_slots, &c.kv_lens, dim);
    let q = Placed::new(device, dtype, layout(&q_shape), &query(&c.q, c.head_dim));
    let page = 16;
    let pages_each = c.kv_slots.div_ceil(page);
    // Page p of sample b is the p·batch + b from the end.
    let page_of = |b: usize, p: usize| c.batch * pages_each - 1 - (p * c.batch + b);
    let in_pages = |values: &[f64], dim: usize| {
        let mut out = vec![f64::NAN; c.batch * pages_each * c.kv_heads * page * dim];
        for (b, h, j) in (0..c.batch)
            .flat_map(|b| (0..c.kv_heads).flat_map(move |h| (0..c.kv_slots).map(move |j| (b, h, j))))
        {
            let to = ((page_of(b, j / page) * c.kv_heads + h) * page + j % page) * dim;
            let from = ((b * c.kv_heads + h) * c.kv_slots + j) * dim;
            out[to..to + dim].copy_from_slice(&values[from..from + dim]);
        }
        out
    };
    let [k, v] = [(&c.k, k_shape, c.head_dim), (&c.v, v_shape, c.value_dim)].map(|(values, shape, dim)| {
        if stored == Stored::Paged {
            let shape = [c.batch * pages_each, c.kv_heads, page, dim];
            return Placed::plain(device, dtype, &shape, &in_pages(values, dim));
        }
        Placed::new(device, dtype, layout(&shape), &keys(values, dim))
    });
    let mut o = Placed::output(device, dtype, layout(&o_shape));
    let mut lse = Placed::output(device, accumulator, layout(&q_shape[..3]));
    let upload = |values: &[i64]| Tensor::from_slice(device, values, &[values.len()]).unwrap();
    let lens: Vec<i64> = c.kv_lens.iter().map(|&len| len as i64).collect();
    let (lens, offsets) = (upload(&lens), upload(&c.offsets));
    let (cu_q, cu_k) = (upload(&cumulative(&c.q_lens)), upload(&cumulative(&c.kv_lens)));
    let table: Vec<i32> =
        (0..c.batch).flat_map(|b| (0..pages_each).map(move |p| page_of(b, p) as i32)).collect();
    let table = Tensor::from_slice(device, &table, &[c.batch, pages_each]).unwrap();
    let accumulated = |values: &Option<Vec<f64>>| {
        values.as_ref().map(|values| Placed::plain(device, accumulator, &[values.len()], values))
    };
    let (alibi, sinks) = (accumulated(&c.alibi), accumulated(&c.sinks));
    let w_shape = if c.w.len() == c.head_dim { vec![c.head_dim] } else { vec![c.q_heads, c.head_dim] };
    let w = (!c.w.is_empty()).then(|| Placed::plain(device, accumulator, &w_shape, &c.w));
    let mask = c.mask.as_ref().map(|m| Placed::plain(device, DType::U8, &m.shape, &m.values));
    let bias = c.bias.as_ref().map(|b| Placed::plain(device, dtype, &b.shape, &b.values));
    let seed = c.dropout.map(|(_, seed, offset)| upload(&[seed as i64, offset as i64]));
    let lists = c.active.as_ref().map(|active| {
        let order = |flags: &[bool]| -> Vec<u32> {
            let which = |on| (0..flags.len()).filter(move |&i| flags[i] == on).map(|i| i as u32);
            which(true).chain(which(false)).collect()
        };
        let kv: Vec<bool> =
            active.chunks(c.q_heads / c.kv_heads).map(|heads| heads.contains(&true)).collect();
        let count = |flags: &[bool]| flags.iter().filter(|&&on| on).count() as u32;
        let upload = |words: &[u32], shape: &[usize]| Tensor::from_slice(device, words, shape).unwrap();
        let flags: Vec<u32> = active.iter().map(|&on| on.into()).collect();
        let scales = c.row_scale.as_ref().unwrap();
        (
            upload(&order(active), &[active.len()]),
            upload(&order(&kv), &[kv.len()]),
            upload(&[count(active), count(&kv)], &[2]),
            upload(&flags, &[c.batch, c.q_heads]),
            Placed::new(device, accumulator, layout(&q_shape[..3]), &query(scales, 1)),
        )
    });
    let options = AttentionOptions {
        score: match c.kind {
            Kind::Dot => Score::Dot,
            Kind::ComplexDot => Score::ComplexDot,
            Kind::Cosine => Score::Cosine,
            Kind::Fidelity => Score::Fidelity,
            Kind::Gaussian => Score::Gaussian { gamma: c.coefficient },
            Kind::Additive => Score::Additive { w: w.as_ref().unwrap().view() },
        },
        scale: (c.kind != Kind::Gaussian).then_some(c.coefficient),
        softcap: c.softcap,
        causal: c.causal,
        window: c.window.map(|[left, right]| Window { left, right }),
        query_offset: QueryOffset::PerSample(offsets.view()),
        kv_len: (!is_packed).then(|| lens.view()),
        mask: mask.as_ref().map(Placed::view),
        bias: bias.as_ref().map(Placed::view),
        alibi: alibi.as_ref().map(Placed::view),
        sinks: sinks.as_ref().map(Placed::view),
        dropout: c.dropout.map(|(p, ..)| Dropout { p, seed: Seed::Device(seed.as_ref().unwrap().view()) }),
        sequences: match stored {
            Stored::Packed => {
                Sequences::Packed { cu_q: cu_q.view(), cu_k: cu_k.view(), max_q: c.q_len, max_k: c.kv_slots }
            }
            Stored::Paged => Sequences::Paged { table: table.view() },
            _ => Sequences::Dense,
        },
        heads: lists.as_ref().map(|(order, kv_order, counts, active, row_scale)| ActiveHeads {
            order: order.view(),
            kv_order: kv_order.view(),
            counts: counts.view(),
            active: active.view(),
            row_scale: row_scale.view(),
        }),
    };
    let (q_view, k_view, v_view) = (q.view(), k.view(), v.view());
    attention_forward_into(
        &q_view,
        &k_view,
        &v_view,
        &options,
        &mut o.view_mut(),
        &mut lse.view_mut(),
        Workspace::Allocate,
    )?;
    let mut results = vec![("o", o.read()), ("lse", lse.read())];
    if stored == Stored::Paged || c.forward_only {
        device.synchronize()?;
        return Ok(Run(results));
    }
    let grad_o = Placed::new(device, dtype, layout(&o_shape), &query(&c.grad_o, c.value_dim));
    let grad_lse =
        c.grad_lse.as_ref().map(|g| Placed::new(device, accumulator, layout(&q_shape[..3]), &query(g, 1)));
    let saved = AttentionSaved {
        o: o.view(),
        lse: lse.view(),
        grad_o: grad_o.view(),
        grad_lse: grad_lse.as_ref().map(Placed::view),
    };
    let mut dq = Placed::output(device, dtype, layout(&q_shape));
    let mut dk = Placed::output(device, dtype, layout(&k_shape));
    let mut dv = Placed::output(device, dtype, layout(&v_shape));
    let mut drow_scale = Placed::output(device, accumulator, layout(&q_shape[..3]));
    let like = |dtype, view: &Option<Placed>| {
        view.as_ref()
            .map(|placed| Placed::output(device, dtype, Layout::contiguous(placed.layout.shape()).unwrap()))
    };
    let (mut dbias, mut dsinks) = (like(dtype, &bias), like(accumulator, &sinks));
    let (mut dalibi, mut dw) = (like(accumulator, &alibi), like(accumulator, &w));
    let mut dscale = Placed::output(device, accumulator, Layout::contiguous(&[1]).unwrap());
    let gradients = AttentionGradientViews {
        dq: Some(dq.view_mut()),
        dk: Some(dk.view_mut()),
        dv: Some(dv.view_mut()),
        dbias: dbias.as_mut().map(Placed::view_mut),
        dsinks: dsinks.as_mut().map(Placed::view_mut),
        dalibi: dalibi.as_mut().map(Placed::view_mut),
        dw: dw.as_mut().map(Placed::view_mut),
        dscale: Some(dscale.view_mut()),
        drow_scale: lists.is_some().then(|| drow_scale.view_mut()),
    };
    attention_backward_into(&q_view, &k_view, &v_view, &saved, &options, gradients, Workspace::Allocate)?;
    device.synchronize()?;
    results.extend([("dq", dq.read()), ("dk", dk.read()), ("dv", dv.read()), ("dscale", dscale.read())]);
    let optional = [("dbias", dbias), ("dsinks", dsinks), ("dalibi", dalibi), ("dw", dw)];
    results.extend(optional.into_iter().filter_map(|(name, placed)| Some((name, placed?.read()))));
    if lists.is_some() {
        results.push(("drow_scale", drow_scale.read()));
    }
    Ok(Run(results))
}

impl Results {
    fn named(&self, name: &str) -> &Bounded {
        match name {
            "o" => &self.o,
            "lse" => &self.lse,
            "dq" => &self.dq,
            "dk" => &self.dk,
            "dv" => &self.dv,
            "dbias" => &self.dbias,
            "dsinks" => &self.dsinks,
            "dalibi" => &self.dalibi,
            "dw" => &self.dw,
            "dscale" => &self.dscale,
            _ => &self.drow_scale,
        }
    }
}

/// Compares what exists and takes part; elsewhere dq, dk and dv are 0 and o, lse stay as they were.
pub(super) fn check_run(call: &Call, dtype: DType, stored: Stored, run: &Run, want: &Results) {
    // Rounding of the sums, 64 times over (4 × 16, as the tolerance of gradients), and of 16-bit tensors on the way in and out.
    let (sums, stores) = match dtype {
        DType::F64 => (64.0 * 2f64.powi(-53), 0.0),
        DType::F16 => (64.0 * 2f64.powi(-24), 4.0 * 2f64.powi(-11)),
        DType::BF16 => (64.0 * 2f64.powi(-24), 4.0 * 2f64.powi(-8)),
        _ => (64.0 * 2f64.powi(-24), 0.0),
    };
    for (name, got) in &run.0 {
        let want = want.named(name);
        let by_query = |dim: usize| (call.q_heads, call.q_len, &call.q_lens, dim);
        let by_key = |dim: usize| (call.kv_heads, call.kv_slots, &call.kv_lens, dim);
        let rows = match *name {
            "o" => Some(by_query(call.value_dim)),
            "dq" => Some(by_query(call.head_dim)),
            "lse" | "drow_scale" => Some(by_query(1)),
            "dk" => Some(by_key(call.head_dim)),
            "dv" => Some(by_key(call.value_dim)),
            _ => None,
        };
        let pick = |values: &[f64]| match rows {
            Some((heads, len, lens, dim)) if stored == Stored::Packed => {
                packed(values, [call.batch, heads, len, dim], lens)
            }
            _ => values.to_vec(),
        };
        let (value, terms) = (pick(&want.value), pick(&want.terms));
        assert_eq!(got.len(), value.len(), "{name}");
        // Rows of inactive pairs are not written.
        let unwritten = |at: usize| {
            let per_query = matches!(*name, "o" | "lse" | "drow_scale");
            let (Some(active), Some((heads, len, _, dim)), true) = (&call.active, rows, per_query) else {
                return false;
            };
            !active[at / (dim * len) % (call.batch * heads)]
        };
        for (at, &got) in got.iter().enumerate() {
            if unwritten(at) {
                assert!(got.is_nan(), "{name}[{at}] of an inactive head is written");
                continue;
            }
            let (value, bound) = (value[at], (sums + stores) * terms[at] + 1e-30);
            let same = got == value || (got - value).abs() <= bound;
            assert!(
                same,
                "{name}[{at}] is {got}, not {value} ± {bound:e} ({:?} {dtype} {stored:?})",
                call.kind
            );
        }
    }
}

/// Runs a call under the schedules: compared with f64 once, the same bits from the others.
pub(super) fn check_on(schedules: &[Schedule], call: &Call, dtype: DType, stored: Stored) {
    let want = call.results();
    let mut first: Option<Vec<Vec<u64>>> = None;
    for &schedule in schedules {
        let run = run(&Device::cuda_emulated(schedule).unwrap(), call, dtype, stored).unwrap();
        let bits: Vec<Vec<u64>> =
            run.0.iter().map(|(_, values)| values.iter().map(|x| x.to_bits()).collect()).collect();
        match &first {
            Some(first) => assert_eq!(&bits, first, "{schedule:?} changes bits"),
            None => check_run(call, dtype, stored, &run, &want),
        }
        first = first.or(Some(bits));
    }
}

fn check(call: &Call, dtype: DType, stored: Stored) {
    check_on(&[Schedule::Random(11)], call, dtype, stored);
}

const SMALL: Shape = Shape { heads: [2, 4, 2], lens: [19, 37], dims: [10, 7] };

#[test]
fn every_score_in_every_type() {
    for (n, kind) in KINDS.into_iter().enumerate() {
        for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
            let call = Call::of(SMALL, kind, dtype, 100 + n as u64).with(|c| c.causal = n % 2 == 0);
            check(&call, dtype, if n % 2 == 0 { Stored::Dense } else { Stored::HeadsInside });
        }
    }
}

#[test]
fn every_score_spans_tiles_and_keeps_its_bits() {
    let shape = Shape { heads: [1, 2, 1], lens: [67, 131], dims: [6, 5] };
    for (n, kind) in KINDS.into_iter().enumerate() {
        let call = Call::of(shape, kind, DType::F64, 150 + n as u64).with(|c| c.window = Some([50, 9]));
        check(&call, DType::F64, Stored::Dense);
        let call = Call::of(shape, kind, DType::F32, 160 + n as u64)
            .with(|c| (c.window, c.softcap, c.sinks) = (Some([50, 9]), Some(2.0), Some(vec![0.5, -1.0])));
        let schedules = [Schedule::InOrder, Schedule::Reversed, Schedule::Random(3)];
        check_on(&schedules, &call, DType::F32, Stored::Dense);
    }
}

#[test]
fn wide_vectors_are_cut_into_chunks() {
    for (n, (kind, dims)) in [
        (Kind::Dot, [300, 200]),
        (Kind::Fidelity, [130, 129]),
        (Kind::Cosine, [257, 1]),
        (Kind::Gaussian, [66, 300]),
        (Kind::Additive, [150, 3]),
    ]
    .into_iter()
    .enumerate()
    {
        let shape = Shape { heads: [1, 2, 1], lens: [5, 9], dims };
        for dtype in [DType::F64, DType::F32] {
            let call = Call::of(shape, kind, dtype, 200 + n as u64).with(|c| {
                if kind == Kind::Additive {
                    c.w = wide(9, 2 * dims[0], 1.0).into_iter().map(|x| rounded(DType::F32, x)).collect();
                }
            });
            check(&call, dtype, Stored::HeadsInside);
        }
    }
}

#[test]
fn masks_biases_and_slopes_combine() {
    let over = [
        [true, true, true, true],
        [false, true, true, true],
        [false, false, true, true],
        [true, false, false, true],
        [true, true, true, false],
        [false, true, false, false],
        [false, false, false, false],
        [false, false, false, true],
    ];
    for (n, over) in over.into_iter().enumerate() {
        let seed = 300 + n as u64;
        let kind = KINDS[n % KINDS.len()];
        let dtype = if n % 2 == 0 { DType::F64 } else { DType::F32 };
        let shape = Shape { lens: [35, 70], ..SMALL };
        let call = Call::of(shape, kind, dtype, seed)
            .masked(over, seed)
            .biased(over, dtype, seed + 50)
            .lengths(&[35, 35], &[61, 70])
            .with(|c| {
                c.alibi = Some(vec![0.5, 0.25, 0.125, 0.0625]);
                c.sinks = Some(vec![0.5, -3.0, 2.0, 0.0]);
                c.softcap = (n % 3 == 0).then_some(1.5);
                c.window = Some([20 + n as i64, 3]);
                c.offsets = vec![5, 40];
            });
        check(&call, dtype, Stored::Dense);
    }
}

#[test]
fn empty_rows_and_sinks() {
    let call =
        Call::of(SMALL, Kind::Dot, DType::F32, 400).lengths(&[19, 19], &[0, 11]).with(|c| c.causal = true);
    check(&call, DType::F32, Stored::Dense);
    check(&call.clone().with(|c| c.softcap = Some(3.0)), DType::F32, Stored::HeadsInside);
    let with_sinks = call.with(|c| c.sinks = Some(vec![1.0, f64::NEG_INFINITY, -2.0, 60.0]));
    check(&with_sinks, DType::F32, Stored::Dense);
}

#[test]
fn dropout_draws_the_same_words_forward_and_backward() {
    for (dtype, seed) in [(DType::F64, 500), (DType::F32, 501)] {
        let call = Call::of(SMALL, Kind::Dot, dtype, seed)
            .with(|c| (c.dropout, c.causal) = (Some((0.3, 0x1234_5678_9abc, 7)), true));
        check(&call, dtype, Stored::Dense);
    }
}

#[test]
fn packed_sequences_lie_end_to_end() {
    let shape = Shape { heads: [4, 4, 2], lens: [40, 70], dims: [9, 12] };
    for (dtype, seed) in [(DType::F64, 600), (DType::F32, 601), (DType::F16, 602)] {
        let call = Call::of(shape, Kind::Dot, dtype, seed)
            .lengths(&[40, 0, 7, 33], &[70, 5, 0, 34])
            .biased([false, true, true, true], dtype, seed)
            .with(|c| (c.causal, c.dropout) = (true, Some((0.1, 3, 4))));
        check(&call, dtype, Stored::Packed);
    }
}

#[test]
fn listed_heads_in_the_general_kernels() {
    let call = Call::of(SMALL, Kind::Cosine, DType::F32, 700).with(|c| {
        c.active = Some((0..8).map(|pair| pair % 3 == 1).collect());
        c.row_scale = Some(wide(9, 8 * 19, 1.0).into_iter().map(|x| f64::from(x as f32)).collect());
        c.sinks = Some(vec![0.5, -3.0, 2.0, 0.0]);
    });
    check(&call, DType::F32, Stored::Dense);
}

#[test]
fn decode_splits_keys() {
    for (n, lens) in [[1, 300], [3, 515], [1, 1025]].into_iter().enumerate() {
        let shape = Shape { heads: [3, 6, 2], lens, dims: [12, 9] };
        for (dtype, stored) in
            [(DType::F32, Stored::Dense), (DType::F64, Stored::Paged), (DType::F16, Stored::Paged)]
        {
            let seed = 800 + n as u64;
            let call =
                Call::of(shape, KINDS[n], dtype, seed).lengths(&[lens[0]; 3], &[lens[1], 0, 257]).with(|c| {
                    c.sinks = (n > 0).then(|| vec![0.5, -3.0, 2.0, 0.0, 1.0, 9.0]);
                    c.causal = true;
                    c.window = (n == 1).then_some([100, 0]);
                    c.softcap = (n == 2).then_some(2.0);
                });
            check(&call, dtype, stored);
        }
    }
}

#[test]
fn a_masked_nan_never_enters_the_general_kernels() {
    for kind in KINDS {
        let shape = Shape { heads: [1, 2, 1], lens: [19, 40], dims: [6, 5] };
        let clean = Call::of(shape, kind, DType::F32, 900).masked([false, false, false, true], 901);
        let want = clean.results();
        let mut call = clean.clone();
        for j in (0..40).filter(|&j| !clean.sees(0, 0, 0, j)) {
            call.k[j * 6..][..6].fill(f64::NAN);
            call.v[j * 5..][..5].fill(f64::INFINITY);
        }
        let run = run(&Device::cuda_emulated(Schedule::InOrder).unwrap(), &call, DType::F32, Stored::Dense)
            .unwrap();
        check_run(&clean, DType::F32, Stored::Dense, &run, &want);
    }
}

#[test]
fn a_workspace_too_small_is_refused() {
    let device = Device::cuda_emulated(Schedule::InOrder).unwrap();
    let call = Call::of(SMALL, Kind::Cosine, DType::F32, 950);
    let shape = [2, 4, 19, 10];
    let q = Placed::plain(&device, DType::F32, &shape, &call.q);
    let k = Placed::plain(&device, DType::F32, &[2, 2, 37, 10], &call.k);
    let options = AttentionOptions { score: Score::Cosine, ..Default::default() };
    let needed = attention_forward_workspace(&q.view(), &k.view(), &k.view(), &options).unwrap();
    let (mut o, mut lse) = (
        Tensor::zeros(&device, DType::F32, &shape).unwrap(),
        Tensor::zeros(&device, DType::F32, &shape[..3]).unwrap(),
    );
    let mut forward = |bytes: usize| {
        let mut memory = Tensor::zeros(&device, DType::U8, &[bytes]).unwrap();
        attention_forward_into(
            &q.view(),
            &k.view(),
            &k.view(),
            &options,
            &mut o.view_mut(),
            &mut lse.view_mut(),
            Workspace::Given(memory.view_mut()),
        )
    };
    assert_eq!(forward(needed), Ok(()));
    let refused = forward(needed - 1);
    assert!(matches!(refused, Err(crate::Error::InvalidArgument { arg: "workspace", .. })), "{refused:?}");
}
