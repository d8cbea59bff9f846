//! Gradients on the matrix units under the emulator, against f64: the backward pass alone, from the f64 results of the forward
//! one, so that what is wrong is wrong here.

use super::super::banks::conflicts;
use super::*;

const TYPES: [DType; 2] = [DType::F16, DType::BF16];
const SCHEDULES: [Schedule; 3] = [Schedule::InOrder, Schedule::Reversed, Schedule::Random(3)];

/// How rows lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// One after the other.
    Dense,
    /// `[batch, row, head, dim]`, each row at a multiple of 16 bytes and with gaps.
    Wide,
    /// … of 4 bytes.
    Even,
    /// … of 2 bytes.
    Odd,
    /// Samples end to end.
    Packed,
}

impl Rows {
    fn layout(self, shape: [usize; 4]) -> Layout {
        let [batch, heads, rows, dim] = shape;
        let (before, width) = match self {
            Self::Dense | Self::Packed => return Layout::contiguous(&shape).unwrap(),
            Self::Wide => (8, dim.next_multiple_of(8) + 16),
            Self::Even => (2, dim.next_multiple_of(2) + 4),
            Self::Odd => (1, dim.next_multiple_of(2) + 3),
        };
        let stored = Layout::contiguous(&[batch, rows, heads, width]).unwrap();
        stored.narrow(3, before, dim).unwrap().permute(&[0, 2, 1, 3]).unwrap()
    }
}

/// Memory of NaN around and between the rows, which must stay NaN.
struct Fenced {
    memory: Placed,
    layout: Layout,
}

impl Fenced {
    fn new(device: &Device, dtype: DType, layout: Layout) -> Self {
        let words = layout.end() + 16;
        Self { memory: Placed::plain(device, dtype, &[words], &vec![f64::NAN; words]), layout }
    }

    fn view_mut(&mut self) -> TensorMut<'_> {
        self.memory.view_mut().with_layout(self.layout).unwrap()
    }

    fn read(&self) -> Vec<f64> {
        let memory = self.memory.read();
        let mut untouched = vec![true; memory.len()];
        self.layout.indices().for_each(|at| untouched[at] = false);
        let overrun = (0..memory.len()).find(|&at| untouched[at] && !memory[at].is_nan());
        assert_eq!(overrun, None, "written outside the layout");
        self.layout.indices().map(|at| memory[at]).collect()
    }
}

/// Gradients, those that `wanted` names and the call has.
fn gradients(device: &Device, c: &Call, dtype: DType, rows: Rows, want: &Results, wanted: &[&str]) -> Run {
    let shape = |heads: usize, len: usize, lens: &[usize], dim: usize| match rows {
        Rows::Packed => [1, heads, lens.iter().sum(), dim],
        _ => [c.batch, heads, len, dim],
    };
    let of = |values: &[f64], heads: usize, len: usize, lens: &[usize], dim: usize| match rows {
        Rows::Packed => packed(values, [c.batch, heads, len, dim], lens),
        _ => values.to_vec(),
    };
    let q_shape = |dim: usize| shape(c.q_heads, c.q_len, &c.q_lens, dim);
    let k_shape = |dim: usize| shape(c.kv_heads, c.kv_slots, &c.kv_lens, dim);
    let query = |values: &[f64], dim: usize| of(values, c.q_heads, c.q_len, &c.q_lens, dim);
    let key = |values: &[f64], dim: usize| of(values, c.kv_heads, c.kv_slots, &c.kv_lens, dim);
    let by_query = |values: &[f64], dim: usize| {
        Placed::new(device, dtype, rows.layout(q_shape(dim)), &query(values, dim))
    };
    let by_key =
        |values: &[f64], dim: usize| Placed::new(device, dtype, rows.layout(k_shape(dim)), &key(values, dim));
    let of_rows = |values: &[f64]| Placed::plain(device, DType::F32, &q_shape(1)[..3], &query(values, 1));
    let upload = |values: &[i64]| Tensor::from_slice(device, values, &[values.len()]).unwrap();
    let small = |values: &[f64]| Placed::plain(device, DType::F32, &[values.len()], values);

    let (q, k) = (by_query(&c.q, c.head_dim), by_key(&c.k, c.head_dim));
    let (v, grad_o) = (by_key(&c.v, c.value_dim), by_query(&c.grad_o, c.value_dim));
    let (o, lse) = (by_query(&want.o.value, c.value_dim), of_rows(&want.lse.value));
    let grad_lse = c.grad_lse.as_ref().map(|g| of_rows(g));
    let lens = upload(&c.kv_lens.iter().map(|&len| len as i64).collect::<Vec<_>>());
    let offsets = upload(&c.offsets);
    let (cu_q, cu_k) = (upload(&cumulative(&c.q_lens)), upload(&cumulative(&c.kv_lens)));
    let (alibi, sinks) = (c.alibi.as_deref().map(small), c.sinks.as_deref().map(small));
    let mask = c.mask.as_ref().map(|m| Placed::plain(device, DType::U8, &m.shape, &m.values));
    let bias = c.bias.as_ref().map(|b| Placed::plain(device, dtype, &b.shape, &b.values));
    let lists = c.active.as_ref().map(|active| {
        let ordered = |flags: &[bool]| -> Vec<u32> {
            let which = |on| (0..flags.len()).filter(move |&i| flags[i] == on).map(|i| i as u32);
            which(true).chain(which(false)).collect()
        };
        let kv: Vec<bool> =
            active.chunks(c.q_heads / c.kv_heads).map(|heads| heads.contains(&true)).collect();
        let count = |flags: &[bool]| flags.iter().filter(|&&on| on).count() as u32;
        let words = |words: &[u32], shape: &[usize]| Tensor::from_slice(device, words, shape).unwrap();
        let flags: Vec<u32> = active.iter().map(|&on| on.into()).collect();
        (
            words(&ordered(active), &[active.len()]),
            words(&ordered(&kv), &[kv.len()]),
            words(&[count(active), count(&kv)], &[2]),
            words(&flags, &[c.batch, c.q_heads]),
            of_rows(c.row_scale.as_ref().unwrap()),
        )
    });
    let options = AttentionOptions {
        score: if c.kind == Kind::ComplexDot { Score::ComplexDot } else { Score::Dot },
        scale: Some(c.coefficient),
        softcap: c.softcap,
        causal: c.causal,
        window: c.window.map(|[left, right]| Window { left, right }),
        query_offset: QueryOffset::PerSample(offsets.view()),
        kv_len: (rows != Rows::Packed).then(|| lens.view()),
        mask: mask.as_ref().map(Placed::view),
        bias: bias.as_ref().map(Placed::view),
        alibi: alibi.as_ref().map(Placed::view),
        sinks: sinks.as_ref().map(Placed::view),
        dropout: c.dropout.map(|(p, seed, offset)| Dropout { p, seed: Seed::Host { seed, offset } }),
        sequences: match rows {
            Rows::Packed => {
                Sequences::Packed { cu_q: cu_q.view(), cu_k: cu_k.view(), max_q: c.q_len, max_k: c.kv_slots }
            }
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
    let output = |shape| Fenced::new(device, dtype, rows.layout(shape));
    let mut dq = output(q_shape(c.head_dim));
    let (mut dk, mut dv) = (output(k_shape(c.head_dim)), output(k_shape(c.value_dim)));
    let mut drow_scale = Fenced::new(device, DType::F32, Layout::contiguous(&q_shape(1)[..3]).unwrap());
    let vector = |len: usize| Fenced::new(device, DType::F32, Layout::contiguous(&[len]).unwrap());
    let (mut dscale, mut dsinks, mut dalibi) = (vector(1), vector(c.q_heads), vector(c.q_heads));
    let is_wanted = |name| {
        let has = match name {
            "drow_scale" => lists.is_some(),
            "dsinks" => sinks.is_some(),
            "dalibi" => alibi.is_some(),
            _ => true,
        };
        has && wanted.contains(&name)
    };
    let views = AttentionGradientViews {
        dq: is_wanted("dq").then(|| dq.view_mut()),
        dk: is_wanted("dk").then(|| dk.view_mut()),
        dv: is_wanted("dv").then(|| dv.view_mut()),
        drow_scale: is_wanted("drow_scale").then(|| drow_scale.view_mut()),
        dscale: is_wanted("dscale").then(|| dscale.view_mut()),
        dsinks: is_wanted("dsinks").then(|| dsinks.view_mut()),
        dalibi: is_wanted("dalibi").then(|| dalibi.view_mut()),
        ..Default::default()
    };
    let saved = AttentionSaved {
        o: o.view(),
        lse: lse.view(),
        grad_o: grad_o.view(),
        grad_lse: grad_lse.as_ref().map(Placed::view),
    };
    let workspace = Workspace::Allocate;
    attention_backward_into(&q.view(), &k.view(), &v.view(), &saved, &options, views, workspace).unwrap();
    device.synchronize().unwrap();
    let all = [&dq, &dk, &dv, &drow_scale, &dscale, &dsinks, &dalibi];
    let computed = ALL.into_iter().zip(all).filter(|(name, _)| is_wanted(name));
    Run(computed.map(|(name, at)| (name, at.read())).collect())
}

const ALL: [&str; 7] = ["dq", "dk", "dv", "drow_scale", "dscale", "dsinks", "dalibi"];

fn bits(run: &Run) -> Vec<Vec<u64>> {
    run.0.iter().map(|(_, values)| values.iter().map(|x| x.to_bits()).collect()).collect()
}

fn emulated(schedule: Schedule) -> Device {
    Device::cuda_emulated(schedule).unwrap()
}

/// Compares with `want`, which need not be what `call` gives by the formulas: what is hidden may be anything.
fn check_gradients(call: &Call, dtype: DType, rows: Rows, want: &Results) {
    let stored = if rows == Rows::Packed { Stored::Packed } else { Stored::Dense };
    let run = gradients(&emulated(Schedule::Random(7)), call, dtype, rows, want, &ALL);
    check_run(call, dtype, stored, &run, want);
}

fn check_call(call: &Call, dtype: DType, rows: Rows) {
    check_gradients(call, dtype, rows, &call.results());
}

fn one(lens: [usize; 2], dims: [usize; 2]) -> Shape {
    Shape { heads: [1, 2, 1], lens, dims }
}

#[test]
fn every_length_around_tiles_and_every_dimension_around_variants() {
    let lens = [0, 1, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 130];
    let dims = [1, 8, 16, 40, 63, 64, 65, 80, 127, 128, 129, 200, 255, 256];
    let storage = [Rows::Dense, Rows::Wide, Rows::Even, Rows::Odd];
    for n in 0..lens.len() {
        for (step, dtype) in TYPES.into_iter().enumerate() {
            // Every length on either side, every dimension, every storage, in both types.
            let shape = one(
                [lens[n], lens[(3 * n + 5 * step + 2) % lens.len()]],
                [dims[n % dims.len()], dims[(7 * n + 3 * step) % dims.len()]],
            );
            let call = Call::of(shape, Kind::Dot, dtype, 2000 + n as u64).with(|c| c.causal = n % 3 == 0);
            check_call(&call, dtype, storage[(n + step) % storage.len()]);
        }
    }
}

#[test]
fn windows_and_offsets_at_every_corner_of_a_tile() {
    for (n, offset) in [-70, -1, 0, 1, 31, 32, 63, 64, 200].into_iter().enumerate() {
        let dtype = TYPES[n % 2];
        let dims = if n % 2 == 0 { [40, 64] } else { [72, 16] };
        let call = Call::of(one([130, 131], dims), Kind::ComplexDot, dtype, 2100 + n as u64).with(|c| {
            c.offsets = vec![offset];
            c.causal = n % 2 == 0;
            c.window = (n % 3 > 0).then_some([n as i64 * 9, 17]);
        });
        check_call(&call, dtype, Rows::Dense);
    }
}

#[test]
fn samples_of_every_length_share_key_heads() {
    for dtype in TYPES {
        let shape = Shape { heads: [4, 6, 2], lens: [35, 70], dims: [24, 33] };
        let call = Call::of(shape, Kind::Dot, dtype, 2200).lengths(&[35; 4], &[0, 1, 64, 70]);
        check_call(&call, dtype, Rows::Wide);
        check_call(&call.with(|c| c.causal = true), dtype, Rows::Odd);
        let shape = Shape { heads: [3, 4, 2], lens: [66, 40], dims: [66, 100] };
        let call = Call::of(shape, Kind::Dot, dtype, 2201).lengths(&[66, 0, 9], &[5, 40, 0]);
        check_call(&call.with(|c| c.causal = true), dtype, Rows::Packed);
    }
}

#[test]
fn every_option_alone_and_all_at_once() {
    let over = [true, false, true, true];
    for (n, dims) in [[40, 24], [72, 128]].into_iter().enumerate() {
        let dtype = TYPES[n];
        let seed = 2300 + n as u64;
        let shape = Shape { heads: [2, 4, 2], lens: [37, 67], dims };
        let plain = Call::of(shape, Kind::Dot, dtype, seed);
        // Flat enough that no gradient falls below the least f16, which no bound of its terms allows for.
        let slopes = vec![0.0625, 0.03125, 0.015625, 0.0078125];
        let sinks = vec![0.5, -3.0, f64::NEG_INFINITY, 2.0];
        let drop = (0.3, 0x1234_5678_9abc, 7);
        let each = [
            plain.clone().with(|c| c.softcap = Some(1.5)),
            plain.clone().masked(over, seed),
            plain.clone().biased(over, dtype, seed),
            plain.clone().with(|c| c.alibi = Some(slopes.clone())),
            plain.clone().with(|c| c.sinks = Some(sinks.clone())),
            plain.clone().with(|c| c.dropout = Some(drop)),
            plain.clone().with(|c| c.grad_lse = None),
            plain.masked(over, seed).biased([false, true, true, true], dtype, seed + 9).with(|c| {
                (c.softcap, c.alibi, c.sinks) = (Some(2.0), Some(slopes), Some(sinks));
                (c.dropout, c.causal, c.window) = (Some(drop), true, Some([30, 4]));
            }),
        ];
        for (m, call) in each.iter().enumerate() {
            check_call(call, dtype, [Rows::Dense, Rows::Odd, Rows::Wide][m % 3]);
        }
    }
}

#[test]
fn listed_heads_and_row_scales() {
    for (n, dtype) in TYPES.into_iter().enumerate() {
        let shape = Shape { heads: [3, 4, 2], lens: [35, 40], dims: [20, 90] };
        let call = Call::of(shape, Kind::Dot, dtype, 2400).with(|c| {
            c.active = Some((0..12).map(|pair| pair % 5 == n || pair > 8).collect());
            c.row_scale = Some(wide(9, 12 * 35, 1.0));
            c.causal = true;
            c.dropout = (n == 1).then_some((0.2, 5, 6));
        });
        check_call(&call, dtype, Rows::Even);
        check_call(&call.with(|c| c.active = Some(vec![false; 12])), dtype, Rows::Dense);
    }
}

#[test]
fn logits_of_ten_thousand() {
    for dtype in TYPES {
        let call =
            Call::of(one([40, 70], [16, 16]), Kind::Dot, dtype, 2500).with(|c| c.coefficient = -3000.0);
        // Weights are 0 or 1 almost everywhere; the terms of a gradient grow with the logits, and so does its bound.
        check_call(&call, dtype, Rows::Dense);
    }
}

/// Rows behind masks hold anything: keys no query sees, queries that see no key, and rows beyond lengths, inside tiles.
#[test]
fn what_is_masked_may_be_nan() {
    for (n, poison) in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY].into_iter().enumerate() {
        for (m, dims) in [[40, 24], [80, 128], [136, 40]].into_iter().enumerate() {
            let dtype = TYPES[(n + m) % 2];
            let shape = Shape { heads: [2, 2, 1], lens: [42, 90], dims };
            let seed = 2600 + n as u64;
            let plain = Call::of(shape, Kind::Dot, dtype, seed).lengths(&[42, 42], &[90, 77]);
            let by_position = plain.clone().with(|c| (c.causal, c.offsets) = (true, vec![10, -20]));
            // One tensor hides keys from all queries or queries from all keys, one element at a time.
            let keys = plain.clone().masked([true, false, false, true], seed);
            let queries = plain.masked([true, false, true, false], seed);
            for clean in [by_position, keys, queries] {
                let want = clean.results();
                let mut call = clean.clone();
                for b in 0..2 {
                    for j in (0..90).filter(|&j| !(0..42).any(|i| clean.sees(b, 0, i, j))) {
                        let row = clean.key_row(b, 0, j);
                        call.k[row * dims[0]..][..dims[0]].fill(poison);
                        call.v[row * dims[1]..][..dims[1]].fill(poison);
                    }
                    for (h, i) in (0..2).flat_map(|h| (0..42).map(move |i| (h, i))) {
                        if (0..90).any(|j| clean.sees(b, h, i, j)) {
                            continue;
                        }
                        let row = clean.row(b, h, i);
                        call.q[row * dims[0]..][..dims[0]].fill(poison);
                        call.grad_o[row * dims[1]..][..dims[1]].fill(poison);
                    }
                }
                check_gradients(&call, dtype, Rows::Wide, &want);
            }
        }
    }
}

/// A key that some queries see and some do not: its NaN reaches the rows that see it, whatever tile they share.
#[test]
fn an_unmasked_nan_reaches_what_sees_it_and_no_more() {
    for dtype in TYPES {
        let clean = Call::of(one([100, 100], [16, 72]), Kind::Dot, dtype, 2700).with(|c| c.causal = true);
        let want = clean.results();
        let mut call = clean.clone();
        call.k[80 * 16 + 3] = f64::NAN;
        let run =
            gradients(&emulated(Schedule::Random(5)), &call, dtype, Rows::Dense, &want, &["dq", "dk", "dv"]);
        let [dq, dk, dv] = [0, 1, 2].map(|which| &run.0[which].1);
        for (at, &x) in dq.iter().enumerate() {
            assert_eq!(x.is_nan(), at / 16 % 100 >= 80, "dq[{at}] is {x}");
        }
        for (at, &x) in dk.iter().enumerate() {
            assert_eq!(x.is_nan(), at / 16 == 80, "dk[{at}] is {x}");
        }
        for (at, &x) in dv.iter().enumerate() {
            assert_eq!(x.is_nan(), at / 72 == 80, "dv[{at}] is {x}");
        }
        // A NaN query and its upstream gradient: keys up to its position.
        let mut call = clean.clone();
        call.q[30 * 16 + 1] = f64::NAN;
        call.grad_o[130 * 72..131 * 72].fill(f64::INFINITY);
        let run =
            gradients(&emulated(Schedule::InOrder), &call, dtype, Rows::Dense, &want, &["dq", "dk", "dv"]);
        let [dq, dk, dv] = [0, 1, 2].map(|which| &run.0[which].1);
        for (at, &x) in dq.iter().enumerate() {
            assert_eq!(!x.is_finite(), matches!(at / 16, 30 | 130), "dq[{at}] is {x}");
        }
        for (at, &x) in dk.iter().enumerate() {
            assert_eq!(!x.is_finite(), at / 16 <= 30, "dk[{at}] is {x}");
        }
        for (at, &x) in dv.iter().enumerate() {
            assert_eq!(!x.is_finite(), at / 72 <= 30, "dv[{at}] is {x}");
        }
    }
}

/// Weights beyond the largest f16 are not an error of the result: rows that overflow are computed once more, in f32.
#[test]
fn weights_beyond_f16_do_not_overflow() {
    let shape = Shape { heads: [1, 2, 1], lens: [20, 3], dims: [8, 8] };
    let call = Call::of(shape, Kind::Dot, DType::F16, 2800).with(|c| {
        c.active = Some(vec![true; 2]);
        c.row_scale = Some(vec![3e5; 40]);
        c.grad_o.iter_mut().for_each(|x| *x = rounded(DType::F16, *x * 1e-3));
        c.v.iter_mut().for_each(|x| *x = rounded(DType::F16, *x * 1e-2));
    });
    let want = call.results();
    assert!(want.dv.value.iter().all(|x| x.abs() < 6e4));
    check_gradients(&call, DType::F16, Rows::Dense, &want);
}

#[test]
fn the_same_bits_every_time_and_under_every_schedule() {
    for (dims, options) in
        [([40, 64], false), ([128, 70], false), ([256, 9], false), ([24, 64], true), ([80, 80], true)]
    {
        for dtype in TYPES {
            let shape = Shape { heads: [1, 4, 2], lens: [70, 140], dims };
            let call = Call::of(shape, Kind::Dot, dtype, 2900).with(|c| {
                c.causal = true;
                c.dropout = options.then_some((0.1, 1, 2));
            });
            let want = call.results();
            let first = bits(&gradients(&emulated(SCHEDULES[0]), &call, dtype, Rows::Odd, &want, &ALL));
            for schedule in SCHEDULES.into_iter().chain((0..4).map(Schedule::Random)) {
                let again = gradients(&emulated(schedule), &call, dtype, Rows::Odd, &want, &ALL);
                assert_eq!(bits(&again), first, "{schedule:?} changes bits");
            }
        }
    }
}

#[test]
fn twenty_repeats_give_the_same_bits() {
    let call = Call::of(one([33, 65], [64, 64]), Kind::Dot, DType::BF16, 2950);
    let (device, want) = (emulated(Schedule::Random(1)), call.results());
    let run = || bits(&gradients(&device, &call, DType::BF16, Rows::Dense, &want, &ALL));
    let first = run();
    assert!((0..20).all(|_| run() == first));
}

/// Each request gets the bits that it gets beside all others, and nothing else is written.
#[test]
fn gradients_on_the_matrix_units_do_not_depend_on_which_are_asked_for() {
    for (n, dims) in [[24, 64], [72, 40], [16, 160]].into_iter().enumerate() {
        let dtype = TYPES[n % 2];
        let shape = Shape { heads: [2, 2, 1], lens: [20, 40], dims };
        let call = Call::of(shape, Kind::Dot, dtype, 3000).with(|c| {
            (c.active, c.row_scale) = (Some(vec![true; 4]), Some(wide(9, 4 * 20, 1.0)));
            // The last query sees it; rows that do not are computed once more.
            c.causal = true;
            c.k[39 * dims[0] + 1] = f64::INFINITY;
            c.softcap = (n == 1).then_some(2.0);
            c.sinks = Some(vec![0.5, -1.0]);
            c.alibi = (n == 1).then(|| vec![0.0625, 0.03125]);
        });
        let (device, want) = (emulated(Schedule::InOrder), call.results());
        let all = gradients(&device, &call, dtype, Rows::Dense, &want, &ALL);
        for mask in 0..1u32 << ALL.len() {
            let names = ALL.into_iter().enumerate();
            let wanted: Vec<&str> =
                names.filter(|(bit, _)| mask >> bit & 1 == 1).map(|(_, name)| name).collect();
            let run = gradients(&device, &call, dtype, Rows::Dense, &want, &wanted);
            let of_all = Run(all.0.iter().filter(|(name, _)| wanted.contains(name)).cloned().collect());
            assert_eq!(bits(&run), bits(&of_all), "{wanted:?}");
        }
    }
}

/// A sample's bits do not depend on its neighbours.
#[test]
fn a_sample_alone_has_the_bits_it_has_in_a_batch() {
    let shape = Shape { heads: [2, 2, 1], lens: [40, 70], dims: [40, 40] };
    let both = Call::of(shape, Kind::Dot, DType::BF16, 3100).lengths(&[40, 40], &[70, 33]);
    let device = emulated(Schedule::Reversed);
    let together = gradients(&device, &both, DType::BF16, Rows::Dense, &both.results(), &ALL);
    for b in 0..2 {
        let part = |values: &[f64]| values[b * values.len() / 2..(b + 1) * values.len() / 2].to_vec();
        let alone = both.clone().with(|c| {
            c.batch = 1;
            (c.q_lens, c.kv_lens, c.offsets) = (vec![40], vec![both.kv_lens[b]], vec![both.offsets[b]]);
            (c.q, c.k, c.v) = (part(&both.q), part(&both.k), part(&both.v));
            (c.grad_o, c.grad_lse) = (part(&both.grad_o), both.grad_lse.as_ref().map(|g| part(g)));
        });
        let run = gradients(&device, &alone, DType::BF16, Rows::Dense, &alone.results(), &ALL);
        // The scale's gradient is a sum over samples.
        for ((name, one), (_, many)) in
            run.0.iter().zip(&together.0).filter(|((name, _), _)| *name != "dscale")
        {
            assert_eq!(*one, part(many), "{name} of sample {b}");
        }
    }
}

/// Terms of queries and a thread's products; tiles are tested where their header is.
#[test]
fn no_access_pattern_of_gradients_on_the_matrix_units_has_conflicts() {
    for (n, x) in (0..8).flat_map(|n| [(n, 0), (n, 1)]) {
        assert_eq!(conflicts(4, |thread| 8 * n + thread % 4 * 2 + x), 1, "terms of columns");
        assert_eq!(
            conflicts(4, |thread| thread / 32 * 32 + 8 * (n % 4) + thread % 32 / 4),
            1,
            "terms of rows"
        );
        assert_eq!(conflicts(8, |thread| (2 * n + x) * 128 + thread), 1, "products");
    }
}
