//! The forward kernels on tensor cores under the emulator, against f64: sizes, options, and what they must not let through.

use super::SCHEDULES;
use super::formulas::{Call, Kind, Results};
use super::general::{Run, Shape, Stored, check_on, check_run, rounded, run, wide};
use crate::attention::*;
use crate::device::{Device, Schedule};
use crate::dtype::DType;
use crate::manifest::attention::mma::VARIANTS;
use crate::tensor::Tensor;

const TYPES: [DType; 2] = [DType::F16, DType::BF16];
/// Head and value dimensions of each variant and either side of it; the last of each kernel has unequal ones.
const DIMS: [[usize; 2]; 12] = [
    [1, 1],
    [8, 8],
    [40, 64],
    [64, 64],
    [65, 65],
    [80, 80],
    [128, 128],
    [7, 128],
    [136, 192],
    [192, 40],
    [256, 256],
    [129, 1],
];

fn forward(shape: Shape, dtype: DType, seed: u64) -> Call {
    Call::of(shape, Kind::Dot, dtype, seed).with(|c| c.forward_only = true)
}

fn check(call: &Call, dtype: DType, stored: Stored) {
    check_on(&[Schedule::Random(7)], call, dtype, stored);
}

fn shape(heads: [usize; 3], lens: [usize; 2], dims: [usize; 2]) -> Shape {
    Shape { heads, lens, dims }
}

/// Rows and keys around blocks of 16, tiles of 32, 64 and 128, and none at all; rows at multiples of 16 bytes and elsewhere.
#[test]
fn sizes_around_blocks_and_tiles() {
    let lens = [0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 130];
    for (n, &q_len) in lens.iter().enumerate() {
        for (m, dims) in DIMS.into_iter().enumerate() {
            // Each length meets each dimension; the numbers of keys go round.
            let kv_len = lens[(5 * n + 7 * m) % lens.len()];
            if q_len.max(kv_len) > 65 && dims[0].max(dims[1]) > 128 && (n + m) % 3 > 0 {
                continue; // slow to emulate; a third is left
            }
            let dtype = TYPES[(n + m) % 2];
            let call = forward(shape([1, 1, 1], [q_len, kv_len], dims), dtype, 1000 + (20 * n + m) as u64)
                .with(|c| c.causal = (n + m / 2) % 2 == 0);
            check(&call, dtype, if (n / 2 + m) % 2 == 0 { Stored::Dense } else { Stored::HeadsInside });
        }
    }
}

/// Several samples and heads, shared keys, under every schedule.
#[test]
fn schedules_change_no_bit() {
    for (n, dims) in [[64, 64], [128, 72], [192, 256]].into_iter().enumerate() {
        for dtype in TYPES {
            let call = forward(shape([2, 4, 2], [70, 90], dims), dtype, 1300 + n as u64)
                .lengths(&[70, 70], &[90, 33])
                .with(|c| c.causal = true);
            check_on(&SCHEDULES, &call, dtype, Stored::Dense);
            let options = call.biased([false, true, true, true], dtype, 1310).with(|c| {
                c.dropout = Some((0.2, 5, 6));
                c.sinks = Some(vec![0.5, -3.0, 2.0, 0.0]);
            });
            check_on(&SCHEDULES, &options, dtype, Stored::HeadsInside);
        }
    }
}

/// Every option alone, then all of them, in every variant.
#[test]
fn every_option_in_every_variant() {
    type Change = fn(Call, DType) -> Call;
    let options: [(&str, Change); 14] = [
        ("complex", |c, _| c.with(|c| (c.kind, c.causal) = (Kind::ComplexDot, true))),
        ("window", |c, _| c.with(|c| (c.window, c.offsets) = (Some([20, 9]), vec![-3, 30]))),
        ("one-sided window", |c, _| c.with(|c| (c.window, c.causal) = (Some([17, 1000]), true))),
        ("negative scale", |c, _| c.with(|c| (c.coefficient, c.causal) = (-0.75, true))),
        ("no scale", |c, _| c.with(|c| c.coefficient = 0.0)),
        ("softcap", |c, _| c.with(|c| c.softcap = Some(1.5))),
        ("mask", |c, _| c.masked([true, true, true, true], 1401)),
        ("mask of keys", |c, _| c.masked([true, false, false, true], 1402)),
        ("bias", |c, dtype| c.biased([true, true, true, true], dtype, 1403)),
        ("slopes", |c, _| c.with(|c| c.alibi = Some(vec![0.5, 0.25, 0.125, 0.0625]))),
        ("sinks", |c, _| c.with(|c| c.sinks = Some(vec![0.5, f64::NEG_INFINITY, 2.0, 4.0]))),
        ("dropout", |c, _| c.with(|c| (c.dropout, c.causal) = (Some((0.3, 0x1234_5678_9abc, 7)), true))),
        ("heads", |c, _| {
            c.with(|c| {
                c.active = Some((0..8).map(|pair| pair % 3 == 1).collect());
                let scales = wide(9, 8 * c.q_len, 1.0).into_iter();
                c.row_scale = Some(scales.map(|x| f64::from(x as f32)).collect());
            })
        }),
        ("all", |c, dtype| {
            c.masked([false, true, true, true], 1404).biased([true, false, true, true], dtype, 1405).with(
                |c| {
                    (c.softcap, c.causal, c.window) = (Some(2.0), true, Some([25, 25]));
                    c.alibi = Some(vec![0.5, 0.25, 0.125, 0.0625]);
                    c.sinks = Some(vec![0.5, -3.0, 2.0, 0.0]);
                    c.dropout = Some((0.25, 8, 9));
                },
            )
        }),
    ];
    for (n, (name, change)) in options.into_iter().enumerate() {
        for (m, dims) in [[64, 40], [88, 128], [200, 144]].into_iter().enumerate() {
            let dtype = TYPES[(n + m) % 2];
            let call = forward(shape([2, 4, 2], [37, 68], dims), dtype, 1400 + n as u64);
            let call = change(call.lengths(&[37, 37], &[68, 41]), dtype);
            println!("{name}, {dims:?}");
            check(&call, dtype, [Stored::Dense, Stored::HeadsInside][m % 2]);
        }
    }
}

#[test]
fn sequences_end_to_end_and_in_pages() {
    for (n, dims) in [[64, 64], [72, 128], [256, 136]].into_iter().enumerate() {
        for (dtype, option) in [(DType::F16, false), (DType::BF16, true)] {
            let seed = 1500 + n as u64;
            let call = forward(shape([4, 4, 2], [70, 75], dims), dtype, seed)
                .lengths(&[70, 0, 7, 65], &[75, 5, 0, 34])
                .with(|c| (c.causal, c.softcap) = (true, option.then_some(3.0)));
            check(&call, dtype, Stored::Packed);
            let call = call.lengths(&[70; 4], &[75, 1, 0, 64]);
            check(&call, dtype, Stored::Paged);
        }
    }
}

/// Logits of ±1e4, and rows of one logit far above the others.
#[test]
fn extreme_logits() {
    for (n, dims) in [[64, 64], [128, 128], [256, 256]].into_iter().enumerate() {
        for (dtype, softcap) in [(DType::F16, None), (DType::BF16, None), (DType::BF16, Some(500.0))] {
            let call = forward(shape([1, 2, 1], [33, 70], dims), dtype, 1600 + n as u64)
                .with(|c| (c.coefficient, c.softcap) = (8000.0, softcap));
            check(&call, dtype, Stored::Dense);
        }
    }
}

/// How a key is hidden from some queries and not from others.
const HIDING: [&str; 8] = ["causal", "window", "mask", "bias", "length", "dropout", "packed", "slots"];

/// One key's value is NaN or infinite: rows that see it say so, and the others stay as they would be. Its key likewise.
#[test]
fn what_is_not_finite_stays_behind_every_mask() {
    for (n, hiding) in HIDING.into_iter().enumerate() {
        for (m, dims) in [[64, 64], [128, 80], [200, 256]].into_iter().enumerate() {
            let (dtype, seed) = (TYPES[(n + m) % 2], 1700 + (10 * n + m) as u64);
            let clean =
                forward(shape([2, 2, 1], [40, 70], dims), dtype, seed).with(|c| c.offsets = vec![20, 20]);
            let clean = match hiding {
                "causal" => clean.with(|c| c.causal = true),
                "window" => clean.with(|c| c.window = Some([15, 12])),
                "mask" => clean.masked([true, true, true, true], seed).with(|c| {
                    let scales = wide(seed, 160, 0.4).into_iter().map(|x| f64::from((1.0 + x) as f32));
                    (c.active, c.row_scale) = (Some(vec![true; 4]), Some(scales.collect()));
                }),
                "bias" => clean.biased([false, true, true, true], dtype, seed),
                "length" | "packed" => clean.lengths(&[40, 40], &[36, 70]).with(|c| c.causal = true),
                "dropout" => clean.with(|c| c.dropout = Some((0.5, 3, 4))),
                _ => clean.lengths(&[40, 40], &[30, 60]),
            };
            let stored = if hiding == "packed" { Stored::Packed } else { Stored::Dense };
            let poison = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][(n + m) % 3];
            let want = clean.results();
            let poisoned = Poisoned { clean: &clean, want: &want, dtype, stored };
            for key in [33, 36, 69] {
                let what = format!("{hiding} {dims:?} {key}");
                poisoned.check(key, Some(poison), &what);
                // With dropout every row sees the key, and drops its value.
                if hiding != "dropout" {
                    poisoned.check(key, None, &what);
                }
            }
        }
    }
}

/// A call, what it computes, and how it is run.
struct Poisoned<'a> {
    clean: &'a Call,
    want: &'a Results,
    dtype: DType,
    stored: Stored,
}

impl Poisoned<'_> {
    /// Runs with the value of key `key` poisoned, or with the key itself NaN.
    fn check(&self, key: usize, poison: Option<f64>, what: &str) {
        let clean = self.clean;
        let mut call = clean.clone();
        for row in (0..2).map(|b| b * 70 + key) {
            match poison {
                Some(poison) => call.v[row * clean.value_dim..][..clean.value_dim].fill(poison),
                None => call.k[row * clean.head_dim..][..clean.head_dim].fill(f64::NAN),
            }
        }
        let device = Device::cuda_emulated(Schedule::InOrder).unwrap();
        let Run(mut got) = run(&device, &call, self.dtype, self.stored).unwrap();
        let mut want = self.want.clone();
        let (mut hidden, mut row) = (0, 0);
        for (b, h, i) in (0..4).flat_map(|pair| (0..40).map(move |i| (pair / 2, pair % 2, i))) {
            // A dropped key has no value, but its score takes part in the sum.
            let sees = clean.sees(b, h, i, key) && (poison.is_none() || clean.keep(b, h, i, key) != 0.0);
            let at = if self.stored == Stored::Packed { (h * 2 + b) * 40 + i } else { row };
            row += 1;
            hidden += usize::from(!sees);
            if !sees {
                continue;
            }
            let dim = clean.value_dim;
            let o = &mut got[0].1[at * dim..][..dim];
            assert!(o.iter().all(|x| !x.is_finite()), "{what}: row {row} sees it, and is finite");
            // Looked at: what is left is compared with what is expected without it.
            o.fill(0.0);
            let place = (b * 2 + h) * 40 + i;
            want.o.value[place * dim..][..dim].fill(0.0);
            if poison.is_none() {
                assert!(got[1].1[at].is_nan(), "{what}: lse of row {row}");
                (got[1].1[at], want.lse.value[place]) = (0.0, 0.0);
            }
        }
        assert!(hidden > 0, "{what}: hidden from no row");
        check_run(clean, self.dtype, self.stored, &Run(got), &want);
    }
}

/// A sample's bits do not depend on its neighbours.
#[test]
fn a_sample_alone_has_the_bits_it_has_among_others() {
    for (n, dims) in [[64, 64], [128, 128], [256, 192]].into_iter().enumerate() {
        for (dtype, softcap) in [(DType::F16, None), (DType::BF16, Some(2.0))] {
            let lens = [[70, 50], [20, 90], [70, 90]];
            let together = forward(shape([3, 2, 1], [70, 90], dims), dtype, 1800 + n as u64)
                .lengths(&lens.map(|[q, _]| q), &lens.map(|[_, k]| k))
                .with(|c| (c.causal, c.softcap) = (true, softcap));
            let device = Device::cuda_emulated(Schedule::Reversed).unwrap();
            let Run(all) = run(&device, &together, dtype, Stored::Packed).unwrap();
            let [o, _] = [&all[0].1, &all[1].1];
            let rows: usize = lens.iter().map(|[q, _]| q).sum();
            let mut first = 0;
            for (b, [q_len, kv_len]) in lens.into_iter().enumerate() {
                let mut alone =
                    forward(shape([1, 2, 1], [q_len, kv_len], dims), dtype, 1).with(|c| c.causal = true);
                alone.softcap = softcap;
                for h in 0..2 {
                    let from = ((b * 2 + h) * 70) * dims[0];
                    let size = q_len * dims[0];
                    alone.q[h * size..][..size].copy_from_slice(&together.q[from..][..size]);
                }
                alone.k.copy_from_slice(&together.k[b * 90 * dims[0]..][..kv_len * dims[0]]);
                alone.v.copy_from_slice(&together.v[b * 90 * dims[1]..][..kv_len * dims[1]]);
                let Run(one) = run(&device, &alone, dtype, Stored::Dense).unwrap();
                for h in 0..2 {
                    let size = q_len * dims[1];
                    let among = &o[(h * rows + first) * dims[1]..][..size];
                    let alone = &one[0].1[h * size..][..size];
                    let bits = |x: &[f64]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(among), bits(alone), "sample {b}, head {h}, {dims:?}");
                }
                first += q_len;
            }
        }
    }
}

/// What a plan says runs; few queries over many keys, other scores, wide vectors and f32 do not.
#[test]
fn plans_name_the_kernel() {
    let device = Device::cuda_emulated(Schedule::InOrder).unwrap();
    let plan = |dtype, dims: usize, lens: [usize; 2], options: &AttentionOptions<'_>| {
        let q = Tensor::zeros(&device, dtype, &[1, 2, lens[0], dims]).unwrap();
        let k = Tensor::zeros(&device, dtype, &[1, 2, lens[1], dims]).unwrap();
        attention_plan(&q.view(), &k.view(), &k.view(), options).unwrap()
    };
    let default = AttentionOptions::default();
    for variant in &VARIANTS {
        let plain = plan(DType::F16, variant.dim, [130, 130], &default);
        assert!(plain.variant.contains(variant.plain.f16.entry), "{plain}");
        assert_eq!(plain.tile, variant.plain.tile);
        let options = AttentionOptions { softcap: Some(1.0), ..Default::default() };
        let options = plan(DType::BF16, variant.dim - 63, [130, 130], &options);
        assert!(options.variant.contains(variant.options.bf16.entry), "{options}");
        assert_eq!(options.tile, variant.options.tile);
    }
    let others = [
        plan(DType::F32, 64, [130, 130], &default),
        plan(DType::BF16, 264, [130, 130], &default),
        plan(DType::BF16, 64, [1, 4000], &default),
        plan(DType::BF16, 64, [130, 130], &AttentionOptions { score: Score::Cosine, ..Default::default() }),
    ];
    for plan in others {
        assert!(!plan.variant.contains("tensor cores"), "{plan}");
    }
}

/// Rounding of weights to 16 bits is no bias: weights that no 16-bit number holds still sum to 1.
#[test]
fn weights_sum_to_one() {
    for dtype in TYPES {
        let call = forward(shape([1, 1, 1], [16, 129], [64, 64]), dtype, 1900).with(|c| c.v.fill(1.0));
        let device = Device::cuda_emulated(Schedule::InOrder).unwrap();
        let Run(got) = run(&device, &call, dtype, Stored::Dense).unwrap();
        let ulp = if dtype == DType::F16 { 2f64.powi(-10) } else { 2f64.powi(-7) };
        let worst = got[0].1.iter().map(|x| (x - 1.0).abs()).fold(0.0, f64::max);
        assert!(worst <= ulp && rounded(dtype, 1.0) == 1.0, "{dtype}: {worst}");
    }
}

/// Any mixture of sizes, layouts and options.
#[test]
fn any_mixture() {
    let cases = std::env::var("GATEWARP_TEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(256);
    for n in 0..cases {
        let draws = wide(20_000 + n, 24, 1.0);
        let below =
            |at: usize, count: usize| (((draws[at] + 1.0) / 2.0 * count as f64) as usize).min(count - 1);
        let chance = |at: usize| below(at, 4) == 0;
        let (kv_heads, group) = (1 + below(0, 2), 1 + below(1, 3));
        let dim = |at: usize| {
            [1 + below(at, 64), 64, 1 + below(at, 128), 128, 1 + below(at, 256)][below(at + 1, 5)]
        };
        let stored = [Stored::Dense, Stored::HeadsInside, Stored::Paged][below(13, 3)];
        // Masks of paged keys are as wide as the pages.
        let keys = if stored == Stored::Paged { 16 * (1 + below(4, 8)) } else { below(4, 141) };
        let dims = [dim(5), dim(7)];
        let shape = shape([1 + below(2, 2), kv_heads * group, kv_heads], [below(3, 71), keys], dims);
        let dtype = TYPES[below(9, 2)];
        let (batch, heads, [q_len, kv_len]) = (shape.heads[0], shape.heads[1], shape.lens);
        let per_head = |seed: u64, reach: f64| {
            wide(seed, heads, reach).into_iter().map(|x| f64::from(x as f32)).collect()
        };
        let mut call = forward(shape, dtype, 21_000 + n);
        if q_len > 0 && kv_len > 0 {
            let lens =
                |at: usize, most: usize| (0..batch).map(|b| below(at + b, most + 1)).collect::<Vec<_>>();
            call = call.lengths(&vec![q_len; batch], &lens(10, kv_len));
        }
        if chance(12) {
            call = call.masked([chance(13), true, true, true], 22_000 + n);
        }
        if chance(14) {
            call = call.biased([true, chance(15), true, true], dtype, 23_000 + n);
        }
        call.causal = below(16, 2) == 0;
        call.window = chance(17).then(|| [below(18, 40) as i64, below(19, 40) as i64]);
        call.softcap = chance(20).then_some(2.5);
        call.alibi = chance(21).then(|| per_head(24_000 + n, 0.05));
        call.sinks = chance(22).then(|| per_head(25_000 + n, 1.0));
        call.dropout = chance(23).then_some((0.25, n, 3));
        println!("case {n}: {shape:?} {dtype} {stored:?}");
        check_on(&[SCHEDULES[n as usize % 3]], &call, dtype, stored);
    }
}
