//! The kernels for compute capability 9.0 under the emulator, against f64.

use super::SCHEDULES;
use super::formulas::{Call, Kind};
use super::general::{Stored, check_run, run, wide};
use super::mma::{Poisoned, forward, shape};
use crate::attention::*;
use crate::device::{Device, Schedule};
use crate::dtype::DType;
use crate::manifest::attention::sm90::{TILE, VARIANTS};
use crate::tensor::Tensor;

const TYPES: [DType; 2] = [DType::F16, DType::BF16];

fn device(schedule: Schedule) -> Device {
    Device::cuda_emulated_sm90(schedule).unwrap()
}

fn check(call: &Call, dtype: DType, stored: Stored) {
    let run = run(&device(Schedule::Random(11)), call, dtype, stored).unwrap();
    check_run(call, dtype, stored, &run, &call.results());
}

/// The kernel that a call takes, by its name in the plan.
fn variant(dtype: DType, lens: [usize; 2], dims: [usize; 2], options: &AttentionOptions<'_>) -> String {
    let device = device(Schedule::InOrder);
    let tensor = |len, dim| Tensor::zeros(&device, dtype, &[1, 2, len, dim]).unwrap();
    let (q, k, v) = (tensor(lens[0], dims[0]), tensor(lens[1], dims[0]), tensor(lens[1], dims[1]));
    let plan = attention_plan(&q.view(), &k.view(), &v.view(), options).unwrap();
    if plan.variant.contains("sm90_") {
        assert_eq!(plan.tile, TILE);
    }
    plan.variant
}

#[test]
fn plans_name_the_kernel() {
    let default = AttentionOptions::default();
    for variant_of_dim in &VARIANTS {
        let dims = [variant_of_dim.dim, variant_of_dim.dim - 8];
        let name = variant(DType::F16, [130, 130], dims, &default);
        assert!(name.contains(variant_of_dim.f16.entry), "{name}");
        let name = variant(DType::BF16, [130, 130], dims, &default);
        assert!(name.contains(variant_of_dim.bf16.entry), "{name}");
    }
    // Rows that are no multiple of 16 bytes, other types and dimensions, options, few queries over many keys.
    let capped = AttentionOptions { softcap: Some(1.0), ..Default::default() };
    let turned = AttentionOptions { scale: Some(-1.0), ..Default::default() };
    for name in [
        variant(DType::F16, [130, 130], [60, 64], &default),
        variant(DType::F32, [130, 130], [64, 64], &default),
        variant(DType::BF16, [130, 130], [136, 64], &default),
        variant(DType::BF16, [130, 130], [64, 64], &capped),
        variant(DType::BF16, [130, 130], [64, 64], &turned),
        variant(DType::BF16, [1, 4000], [64, 64], &default),
    ] {
        assert!(!name.contains("sm90_"), "{name}");
    }
}

/// Rows and keys around products of 64, tiles of 128 and rings of two tiles, and none at all.
#[test]
fn sizes_around_tiles() {
    let q_lens = [0, 1, 63, 64, 65, 127, 128, 129, 200];
    let kv_lens = [0, 1, 127, 128, 129, 256, 257, 385];
    for (n, &q_len) in q_lens.iter().enumerate() {
        for (m, dims) in [[64, 64], [40, 64], [128, 128], [8, 120], [72, 16]].into_iter().enumerate() {
            let (kv_len, dtype) = (kv_lens[(3 * n + 5 * m) % kv_lens.len()], TYPES[(n + m) % 2]);
            let call = forward(shape([1, 1, 1], [q_len, kv_len], dims), dtype, 2000 + (10 * n + m) as u64)
                .with(|c| c.causal = (n + m / 2) % 2 == 0);
            check(&call, dtype, if (n / 2 + m) % 2 == 0 { Stored::Dense } else { Stored::HeadsInside });
        }
    }
}

/// Several items a block, whose rings go on from item to item; shared keys, samples of unequal length, some of them empty.
#[test]
fn schedules_change_no_bit() {
    for (n, dims) in [[64, 64], [128, 72]].into_iter().enumerate() {
        let dtype = TYPES[n];
        let call = forward(shape([3, 4, 2], [150, 300], dims), dtype, 2100 + n as u64)
            .lengths(&[150, 150, 150], &[300, 0, 129])
            .with(|c| c.causal = true);
        let want = call.results();
        let mut bits: Option<Vec<Vec<u64>>> = None;
        for schedule in SCHEDULES {
            let run = run(&device(schedule), &call, dtype, Stored::Dense).unwrap();
            check_run(&call, dtype, Stored::Dense, &run, &want);
            let own: Vec<Vec<u64>> =
                run.0.iter().map(|(_, x)| x.iter().map(|x| x.to_bits()).collect()).collect();
            assert!(*bits.get_or_insert_with(|| own.clone()) == own, "{dims:?} {schedule:?}");
        }
    }
}

#[test]
fn masks_by_position_lists_of_heads_and_packed_rows() {
    type Change = fn(Call) -> Call;
    let options: [(&str, Change); 7] = [
        ("complex", |c| c.with(|c| (c.kind, c.causal) = (Kind::ComplexDot, true))),
        ("window", |c| c.with(|c| (c.window, c.offsets) = (Some([20, 9]), vec![-3, 150]))),
        ("one-sided window", |c| c.with(|c| (c.window, c.causal) = (Some([170, 1000]), true))),
        ("beyond the keys", |c| c.with(|c| (c.causal, c.offsets) = (true, vec![-400, -1]))),
        ("small scale", |c| c.with(|c| c.coefficient = 1e-3)),
        ("extreme logits", |c| c.with(|c| c.coefficient = 8000.0)),
        ("heads", |c| {
            c.with(|c| {
                c.active = Some((0..8).map(|pair| pair % 3 == 1).collect());
                let scales = wide(9, 8 * c.q_len, 1.0).into_iter();
                c.row_scale = Some(scales.map(|x| f64::from(x as f32)).collect());
            })
        }),
    ];
    for (n, (name, change)) in options.into_iter().enumerate() {
        for (m, dims) in [[64, 40], [88, 128]].into_iter().enumerate() {
            let dtype = TYPES[(n + m) % 2];
            let call = forward(shape([2, 4, 2], [137, 268], dims), dtype, 2200 + n as u64);
            let call = change(call.lengths(&[137, 137], &[268, 141]));
            println!("{name}, {dims:?}");
            check(&call, dtype, [Stored::Dense, Stored::HeadsInside][m % 2]);
        }
    }
    for (n, dims) in [[64, 64], [72, 128]].into_iter().enumerate() {
        let call = forward(shape([4, 4, 2], [170, 275], dims), TYPES[n], 2300 + n as u64)
            .lengths(&[170, 0, 7, 165], &[275, 5, 0, 134])
            .with(|c| c.causal = true);
        check(&call, TYPES[n], Stored::Packed);
    }
}

/// One key's value is NaN or infinite: rows that see it say so, and the others stay as they would be. Its key likewise.
#[test]
fn what_is_not_finite_stays_behind_every_mask() {
    for (n, hiding) in ["causal", "window", "length", "packed", "slots"].into_iter().enumerate() {
        for (m, dims) in [[64, 64], [128, 80]].into_iter().enumerate() {
            let (dtype, seed) = (TYPES[(n + m) % 2], 2400 + (10 * n + m) as u64);
            let clean =
                forward(shape([2, 2, 1], [40, 70], dims), dtype, seed).with(|c| c.offsets = vec![20, 20]);
            let clean = match hiding {
                "causal" => clean.with(|c| c.causal = true),
                "window" => clean.with(|c| c.window = Some([15, 12])),
                "length" | "packed" => clean.lengths(&[40, 40], &[36, 70]).with(|c| c.causal = true),
                _ => clean.lengths(&[40, 40], &[30, 60]),
            };
            let stored = if hiding == "packed" { Stored::Packed } else { Stored::Dense };
            let poison = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][(n + m) % 3];
            let (device, want) = (device(Schedule::InOrder), clean.results());
            let poisoned = Poisoned { device: &device, clean: &clean, want: &want, dtype, stored };
            for key in [33, 36, 69] {
                let what = format!("{hiding} {dims:?} key {key}");
                poisoned.check(key, Some(poison), &what);
                poisoned.check(key, None, &what);
            }
        }
    }
}

/// Tiles are loaded once for each tile of queries, and hidden ones never.
#[test]
fn tiles_out_of_sight_are_not_loaded() {
    let device = device(Schedule::InOrder);
    let tensor = || Tensor::zeros(&device, DType::F16, &[1, 1, 512, 64]).unwrap();
    let (q, k, v) = (tensor(), tensor(), tensor());
    let options = AttentionOptions { causal: true, ..Default::default() };
    attention_forward(&q.view(), &k.view(), &v.view(), &options).unwrap();
    let tile = (128 * 64 * 2) as u64;
    for (tensor, tiles) in [(&q, 4), (&k, 1 + 2 + 3 + 4), (&v, 1 + 2 + 3 + 4)] {
        assert_eq!(Device::emulated_traffic(tensor).unwrap().bytes_loaded, tiles * tile);
    }
}
