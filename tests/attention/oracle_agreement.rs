//! Against the f64 oracle.

use crate::launch::{Launch, check_backward, check_forward};
use crate::support::attention_case::{Case, Data, Offset, Stream, any_case, masked_case, widen};
use crate::support::devices::TestDevice;
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use gatewarp::Device;

fn forward(device: &Device, data: &Data, seed: u64) -> Result<(), String> {
    let run = Launch::new(device, data, seed).forward()?;
    check_forward(&run, &data.problem, &data.problem.forward())
}

fn both(device: &Device, data: &Data, seed: u64) -> Result<(), String> {
    let (run, gradients) = Launch::new(device, data, seed).both()?;
    check_forward(&run, &data.problem, &data.problem.forward())?;
    let want = data.problem.backward(&widen(&data.grad_o), Some(&widen(&data.grad_lse)));
    check_backward(&gradients, &data.problem, &want)
}

pub fn forward_is_the_formula(device: &TestDevice) -> Result<(), String> {
    check("forward_is_the_formula", device, CASES, &any_case(), |handle, case| {
        forward(handle, &case.data(), case.seed)
    })
}

pub fn backward_is_the_formula(device: &TestDevice) -> Result<(), String> {
    check("backward_is_the_formula", device, CASES, &any_case(), |handle, case| {
        both(handle, &case.data(), case.seed)
    })
}

/// Whether no query of sample `b` sees key `j`.
fn unseen(data: &Data, b: usize, j: usize) -> bool {
    (0..data.problem.q_len).all(|i| !data.problem.visible(b, i, j))
}

/// Every (sample, key head, key) with its row number.
fn key_rows(data: &Data) -> Vec<(usize, usize, usize)> {
    let p = &data.problem;
    let all = 0..p.batch * p.kv_heads * p.kv_slots;
    all.map(|row| (row, row / p.kv_slots / p.kv_heads, row % p.kv_slots)).collect()
}

pub fn a_key_nobody_sees_may_hold_anything(device: &TestDevice) -> Result<(), String> {
    check("a_key_nobody_sees_may_hold_anything", device, CASES, &masked_case(), |handle, case| {
        let mut data = case.data();
        data.shared_keys = false;
        let mut random = case.random(Stream::Places);
        let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX];
        for (row, b, j) in key_rows(&data) {
            if unseen(&data, b, j) {
                let (key, value) = (bad[random.below(4)], bad[random.below(4)]);
                data.k[row * case.head_dim..][..case.head_dim].fill(key);
                data.v[row * case.value_dim..][..case.value_dim].fill(value);
            }
        }
        data.refresh();
        both(handle, &data, case.seed)
    })
}

pub fn nan_reaches_the_rows_that_see_it(device: &TestDevice) -> Result<(), String> {
    check("nan_reaches_the_rows_that_see_it", device, CASES, &masked_case(), |handle, case| {
        let mut data = case.data();
        data.shared_keys = false;
        let mut random = case.random(Stream::Places);
        let spoil = |values: &mut Vec<f32>, random: &mut Random| {
            let at = random.below(values.len());
            values[at] = f32::NAN;
        };
        for _ in 0..1 + random.below(3) {
            match random.below(5) {
                0 | 1 => spoil(&mut data.k, &mut random),
                2 | 3 => spoil(&mut data.v, &mut random),
                _ => spoil(&mut data.q, &mut random),
            }
        }
        if random.one_in(8) {
            spoil(&mut data.grad_o, &mut random);
        }
        data.refresh();
        both(handle, &data, case.seed)
    })
}

/// A plain problem to vary by hand.
fn plain(head_dim: usize, value_dim: usize) -> Case {
    Case {
        batch: 2,
        kv_heads: 1,
        group: 2,
        q_len: 5,
        kv_slots: 7,
        head_dim,
        value_dim,
        causal: true,
        scale: None,
        offset: Offset::BottomRight,
        own_lengths: false,
        logits: 1.0,
        seed: 11,
    }
}

/// Offsets whose sum with a position, or whose narrowing to 32 bits, would wrap.
pub fn offsets_beyond_every_length(device: &TestDevice) -> Result<(), String> {
    let far = [i64::MIN, i64::MAX, 1 << 32, -(1 << 32), (1 << 32) + 1, i32::MAX.into(), i32::MIN.into()];
    for (number, at) in far.into_iter().enumerate() {
        let data = Case { offset: Offset::At(at), ..plain(4, 4) }.data();
        both(device.handle(number), &data, 11).map_err(|error| format!("offset {at}: {error}"))?;
        for seed in 0..4 {
            let mut data = data.clone();
            data.offset = Offset::PerSample;
            // Large numbers fit i64 alone; the list's type and place vary with the seed.
            data.problem.offset = vec![at.clamp(i32::MIN.into(), i32::MAX.into()), 1];
            both(device.handle(number), &data, seed)
                .map_err(|error| format!("offsets [{at}, 1]: {error}"))?;
        }
    }
    Ok(())
}

/// 1 to 128, for keys and for values: no width is padded wrongly.
pub fn every_head_dim(device: &TestDevice) -> Result<(), String> {
    for dim in 1..=128 {
        let data = plain(dim, 129 - dim).data();
        both(device.handle(dim), &data, dim as u64).map_err(|error| format!("head dim {dim}: {error}"))?;
    }
    Ok(())
}
