//! A caller's workspace: the same bits, nothing allocated, nothing written beside it.

use super::scratch;
use super::tests::Random;
use crate::attention::*;
use crate::device::wgpu::tests;
use crate::device::{Device, Kind};
use crate::dtype::DType;
use crate::error::Error;
use crate::tensor::Tensor;
use std::sync::Arc;

const GUARD: u8 = 0xa5;
/// Bytes before the view: no boundary.
const BEFORE: usize = 77;

/// `bytes` bytes between guards.
struct Memory(Tensor, usize);

impl Memory {
    fn new(device: &Device, bytes: usize) -> Self {
        let all = vec![GUARD; BEFORE + bytes + 99];
        Self(Tensor::from_slice(device, &all, &[all.len()]).unwrap(), bytes)
    }

    fn workspace(&mut self) -> Workspace<'_> {
        Workspace::Given(self.0.view_mut().narrow(0, BEFORE, self.1).unwrap())
    }

    fn check(&self) {
        let all = self.0.to_vec::<u8>().unwrap();
        let beside = all[..BEFORE].iter().chain(&all[BEFORE + self.1..]);
        assert!(beside.into_iter().all(|&byte| byte == GUARD), "something was written beside the workspace");
    }
}

/// Forward and backward of one shape, with every workspace there is; outputs as bits.
struct Calls<'a> {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lens: Tensor,
    options: AttentionOptions<'a>,
    forward: Memory,
    backward: Memory,
    /// o, lse, grad_o, dq, dk, dv, dscale.
    outputs: [Tensor; 7],
}

impl Calls<'_> {
    fn run(&mut self, given: bool) -> Vec<u32> {
        let options = AttentionOptions { kv_len: Some(self.lens.view()), ..self.options.clone() };
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        let [o, lse, grad_o, dq, dk, dv, dscale] = &mut self.outputs;
        let workspace = if given { self.forward.workspace() } else { Workspace::Allocate };
        attention_forward_into(&q, &k, &v, &options, &mut o.view_mut(), &mut lse.view_mut(), workspace)
            .unwrap();
        let saved = AttentionSaved { o: o.view(), lse: lse.view(), grad_o: grad_o.view(), grad_lse: None };
        let views = AttentionGradientViews {
            dq: Some(dq.view_mut()),
            dk: Some(dk.view_mut()),
            dv: Some(dv.view_mut()),
            dscale: Some(dscale.view_mut()),
            ..Default::default()
        };
        let workspace = if given { self.backward.workspace() } else { Workspace::Allocate };
        attention_backward_into(&q, &k, &v, &saved, &options, views, workspace).unwrap();
        let read = |tensor: &Tensor| tensor.to_vec::<f32>().unwrap();
        self.outputs.iter().flat_map(read).map(f32::to_bits).collect()
    }
}

fn calls<'a>(device: &Device, q_len: usize, slots: usize, options: AttentionOptions<'a>) -> Calls<'a> {
    let mut r = Random(11);
    let (batch, heads, dim) = (2, 2, 20);
    let mut make = |len: usize| {
        let shape = [batch, heads, len, dim];
        Tensor::from_slice(device, &r.values(shape.iter().product()), &shape).unwrap()
    };
    let (q, k, v, grad_o) = (make(q_len), make(slots), make(slots), make(q_len));
    let lens = Tensor::from_slice(device, &[slots as i32, slots as i32 - 9], &[batch]).unwrap();
    let zeros = |shape: &[usize]| Tensor::zeros(device, DType::F32, shape).unwrap();
    let options_with = AttentionOptions { kv_len: Some(lens.view()), ..options.clone() };
    let (views, rows) = ((q.view(), k.view(), v.view()), [batch, heads, q_len]);
    let bytes = [
        attention_forward_workspace(&views.0, &views.1, &views.2, &options_with).unwrap(),
        attention_backward_workspace(&views.0, &views.1, &views.2, &options_with).unwrap(),
    ];
    let [forward, backward] = bytes.map(|bytes| Memory::new(device, bytes));
    let outputs = [
        zeros(q.shape()),
        zeros(&rows),
        grad_o,
        zeros(q.shape()),
        zeros(k.shape()),
        zeros(v.shape()),
        zeros(&[1]),
    ];
    Calls { q, k, v, lens, options, forward, backward, outputs }
}

#[test]
fn a_given_workspace_gives_the_same_bits_and_allocates_nothing() {
    let Some(gpu) = tests::private_device() else { return };
    let gpu = Arc::new(gpu);
    let device = Device(Kind::Wgpu(gpu.clone()));
    let capped = AttentionOptions { softcap: Some(20.0), ..Default::default() };
    // Plain kernels but for the gradient of the scale; general ones; a cache that is split.
    for (q_len, slots, options) in
        [(35, 40, AttentionOptions::default()), (35, 40, capped.clone()), (2, 1100, capped)]
    {
        let mut calls = calls(&device, q_len, slots, options);
        assert_eq!(calls.forward.1 > 0, slots > 1024, "only a split pass has parts");
        let want = calls.run(false);
        assert_eq!(calls.run(true), want, "{q_len} queries, {slots} keys");
        let (buffers, launches) = (gpu.buffers(), gpu.launches());
        assert_eq!(calls.run(true), want);
        assert_eq!(gpu.buffers(), buffers, "a second call allocated");
        assert!(gpu.launches() > launches);
        calls.forward.check();
        calls.backward.check();
    }
}

#[test]
fn the_caller_s_memory_is_used_and_too_little_of_it_refused() {
    let Some(gpu) = tests::private_device() else { return };
    let device = Device(Kind::Wgpu(Arc::new(gpu)));
    let mut calls = calls(&device, 2, 1100, AttentionOptions::default());
    calls.run(true);
    for memory in [&calls.forward, &calls.backward] {
        let all = memory.0.to_vec::<u8>().unwrap();
        assert!(all.iter().any(|&byte| byte != GUARD), "the pool was used instead");
    }
    calls.forward.1 -= 1;
    let options = AttentionOptions { kv_len: Some(calls.lens.view()), ..calls.options.clone() };
    let (q, k, v) = (calls.q.view(), calls.k.view(), calls.v.view());
    let [o, lse, ..] = &mut calls.outputs;
    let mut forward = |workspace: Workspace<'_>| {
        attention_forward_into(&q, &k, &v, &options, &mut o.view_mut(), &mut lse.view_mut(), workspace)
    };
    let refused = forward(calls.forward.workspace());
    assert!(matches!(refused, Err(Error::InvalidArgument { arg: "workspace", .. })), "{refused:?}");
}

#[test]
fn parts_start_at_boundaries_wherever_the_view_does() {
    assert_eq!(scratch::bytes(&[0, 0]), 0);
    assert_eq!(scratch::bytes(&[1, 0, 256]), 3 * 256);
    assert_eq!(scratch::bytes(&[usize::MAX - 3, 8]), usize::MAX);
}

/// Plan and sums together: at 32,768 queries and keys at most twice the bytes of q and 32 MiB.
#[test]
fn plan_and_sums_are_linear() {
    let Some(gpu) = tests::device() else { return };
    let device = Device(Kind::Wgpu(gpu));
    let x = Tensor::zeros(&device, DType::F16, &[1, 1, 32_768, 64]).unwrap();
    let w = Tensor::zeros(&device, DType::F32, &[64]).unwrap();
    for score in [Score::Dot, Score::Additive { w: w.view() }] {
        let options = AttentionOptions { score, ..Default::default() };
        let x = x.view();
        let problem = Problem::new("test", &x, &x, &x, &options).unwrap();
        let backward = attention_backward_workspace(&x, &x, &x, &options).unwrap();
        let bytes = super::general::plan_bytes(&problem) + backward;
        assert!(bytes <= 4 * 32_768 * 64 + (32 << 20), "{bytes} bytes");
    }
}
