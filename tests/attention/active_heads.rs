//! A launch over some (sample, head) pairs, with its rows scaled.

use crate::launch::{Launch, check_backward, check_forward};
use crate::support::attention_case::{Case, Data, Stream, masked_case, non_empty_case, widen};
use crate::support::compare::same_bits;
use crate::support::devices::TestDevice;
use crate::support::property::{CASES, check};

/// Makes about half the pairs of `data` inactive (now and then all or none), and fills what only they would read with NaN.
fn deactivate(data: &mut Data, case: &Case) {
    let mut random = case.random(Stream::Heads);
    let style = random.below(8);
    let p = &mut data.problem;
    let active: Vec<bool> = (0..p.batch * p.q_heads)
        .map(|_| match style {
            0 => true,
            1 => false,
            _ => random.one_in(2),
        })
        .collect();
    data.shared_keys = false;
    let (query_size, group) = (p.q_len * p.head_dim, p.q_heads / p.kv_heads);
    for (pair, _) in active.iter().enumerate().filter(|(_, on)| !**on) {
        data.q[pair * query_size..][..query_size].fill(f32::NAN);
        data.grad_o[pair * p.q_len * p.value_dim..][..p.q_len * p.value_dim].fill(f32::NAN);
        data.grad_lse[pair * p.q_len..][..p.q_len].fill(f32::NAN);
    }
    for (pair, _) in active.chunks(group).enumerate().filter(|(_, heads)| !heads.contains(&true)) {
        data.k[pair * p.kv_slots * p.head_dim..][..p.kv_slots * p.head_dim].fill(f32::NAN);
        data.v[pair * p.kv_slots * p.value_dim..][..p.kv_slots * p.value_dim].fill(f32::NAN);
    }
    p.active = Some(active);
    data.refresh();
}

/// The runs of `size` elements that belong to the pairs of which `chosen` holds.
fn parts(values: &[f32], size: usize, chosen: &[bool]) -> Vec<f32> {
    let runs = chosen.iter().enumerate().filter(|(_, on)| **on);
    runs.flat_map(|(pair, _)| values[pair * size..][..size].iter().copied()).collect()
}

pub fn active_heads_are_the_dense_rows(device: &TestDevice) -> Result<(), String> {
    check("active_heads_are_the_dense_rows", device, CASES, &non_empty_case(), |handle, case| {
        let dense_data = case.data();
        let mut data = dense_data.clone();
        deactivate(&mut data, case);
        let (dense, dense_gradients) = Launch::new(handle, &dense_data, case.seed).both()?;
        let (some, some_gradients) = Launch::new(handle, &data, case.seed).both()?;
        let p = &data.problem;
        let active = p.active.as_ref().ok_or("deactivate sets the list")?;
        // A key head's gradient is the dense one only where every query head of its group takes part.
        let whole_group: Vec<bool> = active.chunks(case.group).map(|heads| !heads.contains(&false)).collect();
        let (none, queries, keys) = (Vec::new(), p.q_len * p.head_dim, p.kv_slots * p.head_dim);
        let checks = [
            ("o", &some.o, &dense.o, p.q_len * p.value_dim, active),
            ("lse", &some.lse, &dense.lse, p.q_len, active),
            (
                "dq",
                some_gradients.dq.as_ref().unwrap_or(&none),
                dense_gradients.dq.as_ref().unwrap_or(&none),
                queries,
                active,
            ),
            (
                "dk",
                some_gradients.dk.as_ref().unwrap_or(&none),
                dense_gradients.dk.as_ref().unwrap_or(&none),
                keys,
                &whole_group,
            ),
            (
                "dv",
                some_gradients.dv.as_ref().unwrap_or(&none),
                dense_gradients.dv.as_ref().unwrap_or(&none),
                p.kv_slots * p.value_dim,
                &whole_group,
            ),
        ];
        checks.into_iter().try_for_each(|(name, got, want, size, chosen)| {
            same_bits(
                &format!("{name} of active heads"),
                &parts(got, size, chosen),
                &parts(want, size, chosen),
            )
        })
    })
}

pub fn row_scales_multiply_active_rows(device: &TestDevice) -> Result<(), String> {
    check("row_scales_multiply_active_rows", device, CASES, &masked_case(), |handle, case| {
        let mut data = case.data();
        deactivate(&mut data, case);
        let rows = data.grad_lse.len();
        let mut random = case.random(Stream::RowScale);
        let mut scales = random.values(rows, 1.5);
        for scale in &mut scales {
            if random.one_in(6) {
                *scale = 0.0;
            }
        }
        data.problem.row_scale = Some(widen(&scales));
        if random.one_in(2) {
            // A value that some rows see and others do not: the derivative by the row scale must not mix them up.
            let at = random.below(data.v.len());
            data.v[at] = f32::NAN;
            data.refresh();
        }
        let (run, gradients) = Launch::new(handle, &data, case.seed).both()?;
        check_forward(&run, &data.problem, &data.problem.forward())?;
        let want = data.problem.backward(&widen(&data.grad_o), Some(&widen(&data.grad_lse)));
        check_backward(&gradients, &data.problem, &want)
    })
}
