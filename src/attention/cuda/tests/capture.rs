//! What a CUDA graph capture needs: with lengths in device memory and a workspace of the caller's, a call only launches.

use super::reference::numbers;
use crate::attention::*;
use crate::device::cuda::CudaDevice;
use crate::device::cuda::counting::Counted;
use crate::device::{Device, Kind, Schedule};
use crate::dtype::DType;
use crate::tensor::Tensor;

/// Launches of a call: planned, computed, combined.
fn launches(counted: &Counted) -> usize {
    let Counted { memory, transfers, waits, launches } = counted;
    assert_eq!((*memory, *transfers, *waits), (0, 0, 0), "{counted:?}");
    *launches
}

#[test]
fn calls_with_their_own_workspace_only_launch() {
    let (device, counts) = CudaDevice::counted(Schedule::InOrder).unwrap();
    let device = Device(Kind::Cuda(device));
    let tensor = |seed: u64, shape: &[usize]| {
        Tensor::from_slice(&device, &numbers(seed, shape.iter().product()), shape).unwrap()
    };
    let lens = Tensor::from_slice(&device, &[300i64, 77], &[2]).unwrap();
    let seed = Tensor::from_slice(&device, &[5i64, 6], &[2]).unwrap();
    let zeros = |shape: &[usize]| Tensor::zeros(&device, DType::F32, shape).unwrap();
    let dropout = || Some(Dropout { p: 0.25, seed: Seed::Device(seed.view()) });
    // The fast kernels, the general ones, and decoding.
    for (q_len, window, expected) in
        [(70, None, [1, 3]), (70, Some(Window { left: 9, right: 9 }), [2, 4]), (2, None, [3, 4])]
    {
        let (q, k, v) =
            (tensor(1, &[2, 4, q_len, 8]), tensor(2, &[2, 2, 300, 8]), tensor(3, &[2, 2, 300, 8]));
        let options = AttentionOptions {
            window,
            dropout: window.and_then(|_| dropout()),
            // Decoding in the general kernels needs their backward pass too.
            softcap: (q_len == 2).then_some(5.0),
            causal: true,
            kv_len: Some(lens.view()),
            ..Default::default()
        };
        let (q_view, k_view, v_view) = (q.view(), k.view(), v.view());
        let bytes = [
            attention_forward_workspace(&q_view, &k_view, &v_view, &options).unwrap(),
            attention_backward_workspace(&q_view, &k_view, &v_view, &options).unwrap(),
        ];
        let [mut forward, mut backward] =
            bytes.map(|bytes| Tensor::zeros(&device, DType::U8, &[bytes.max(1)]).unwrap());
        let (mut o, mut lse) = (zeros(&[2, 4, q_len, 8]), zeros(&[2, 4, q_len]));
        counts.take();
        attention_forward_into(
            &q_view,
            &k_view,
            &v_view,
            &options,
            &mut o.view_mut(),
            &mut lse.view_mut(),
            Workspace::Given(forward.view_mut()),
        )
        .unwrap();
        assert_eq!(launches(&counts.take()), expected[0], "forward, {q_len} queries, {window:?}");
        let (mut dq, mut dk, mut dv) =
            (zeros(&[2, 4, q_len, 8]), zeros(&[2, 2, 300, 8]), zeros(&[2, 2, 300, 8]));
        let saved = AttentionSaved { o: o.view(), lse: lse.view(), grad_o: q.view(), grad_lse: None };
        counts.take();
        let gradients = AttentionGradientViews {
            dq: Some(dq.view_mut()),
            dk: Some(dk.view_mut()),
            dv: Some(dv.view_mut()),
            ..Default::default()
        };
        let workspace = Workspace::Given(backward.view_mut());
        attention_backward_into(&q_view, &k_view, &v_view, &saved, &options, gradients, workspace).unwrap();
        assert_eq!(launches(&counts.take()), expected[1], "backward, {q_len} queries, {window:?}");
    }
}
