//! Pages and boundaries that only the device sees: never used as an index, that sample NaN, reported once.

use super::reference::numbers;
use crate::attention::*;
use crate::device::{Device, Schedule};
use crate::dtype::DType;
use crate::tensor::Tensor;

/// A device of this test's own: another's synchronising call would receive the report.
fn device(seed: u64) -> Device {
    Device::cuda_emulated(Schedule::Random(seed)).unwrap()
}

fn floats(device: &Device, seed: u64, shape: &[usize]) -> Tensor {
    Tensor::from_slice(device, &numbers(seed, shape.iter().product()), shape).unwrap()
}

fn ids(device: &Device, values: &[i64], shape: &[usize]) -> Tensor {
    Tensor::from_slice(device, values, shape).unwrap()
}

fn finite(tensor: &Tensor) -> Vec<bool> {
    tensor.to_vec::<f32>().unwrap().into_iter().map(f32::is_finite).collect()
}

#[test]
fn a_page_outside_the_cache() {
    let device = device(7701);
    for (q_len, seed) in [(1, 1), (70, 2)] {
        // Long enough that one query is decoded by splits.
        let (q, k) = (floats(&device, seed, &[2, 2, q_len, 4]), floats(&device, 3, &[3, 1, 16, 4]));
        let pages: Vec<i64> = (0..40).map(|page| if page == 21 { 3 } else { page % 3 }).collect();
        let table = ids(&device, &pages, &[2, 20]);
        for (length, is_read) in [(20, true), (16, false)] {
            let lens = ids(&device, &[300, length], &[2]);
            let options = AttentionOptions {
                kv_len: Some(lens.view()),
                sequences: Sequences::Paged { table: table.view() },
                ..Default::default()
            };
            let mut o = floats(&device, 4, &[2, 2, q_len, 4]);
            let mut lse = floats(&device, 4, &[2, 2, q_len]);
            let (o_view, lse_view) = (&mut o.view_mut(), &mut lse.view_mut());
            attention_forward_into(
                &q.view(),
                &k.view(),
                &k.view(),
                &options,
                o_view,
                lse_view,
                Workspace::Allocate,
            )
            .unwrap();
            let reported = device.synchronize();
            assert_eq!(matches!(reported, Err(crate::Error::DeviceValue { .. })), is_read, "{reported:?}");
            assert_eq!(device.synchronize(), Ok(()));
            for (values, each) in [(finite(&o), 8 * q_len), (finite(&lse), 2 * q_len)] {
                assert!(values[..each].iter().all(|&is_finite| is_finite), "the sample beside it");
                assert!(values[each..].iter().all(|&is_finite| is_finite != is_read), "its own rows");
            }
        }
    }
}

#[test]
fn boundaries_that_fall() {
    let device = device(7702);
    let (q, k) = (floats(&device, 1, &[1, 2, 9, 4]), floats(&device, 2, &[1, 1, 12, 4]));
    let (cu_q, cu_k) = (ids(&device, &[0, 4, 9], &[3]), ids(&device, &[0, 7, 5], &[3]));
    let options = AttentionOptions {
        sequences: Sequences::Packed { cu_q: cu_q.view(), cu_k: cu_k.view(), max_q: 6, max_k: 8 },
        ..Default::default()
    };
    let (mut o, mut lse) = (floats(&device, 4, &[1, 2, 9, 4]), floats(&device, 4, &[1, 2, 9]));
    let (o_view, lse_view) = (&mut o.view_mut(), &mut lse.view_mut());
    attention_forward_into(&q.view(), &k.view(), &k.view(), &options, o_view, lse_view, Workspace::Allocate)
        .unwrap();
    assert!(device.synchronize().is_err());
    let check = |tensor: &Tensor, dim: usize| {
        for (at, is_finite) in finite(tensor).into_iter().enumerate() {
            assert_eq!(is_finite, at / dim % 9 < 4, "element {at}");
        }
    };
    check(&o, 4);
    check(&lse, 1);
    let saved = AttentionSaved { o: o.view(), lse: lse.view(), grad_o: q.view(), grad_lse: None };
    let mut dq = floats(&device, 4, &[1, 2, 9, 4]);
    let mut dv = Tensor::zeros(&device, DType::F32, &[1, 1, 12, 4]).unwrap();
    let gradients =
        AttentionGradientViews { dq: Some(dq.view_mut()), dv: Some(dv.view_mut()), ..Default::default() };
    attention_backward_into(
        &q.view(),
        &k.view(),
        &k.view(),
        &saved,
        &options,
        gradients,
        Workspace::Allocate,
    )
    .unwrap();
    assert!(device.synchronize().is_err());
    check(&dq, 4);
    assert!(finite(&dv).into_iter().all(|is_finite| is_finite), "keys of the sample beside it");
}
