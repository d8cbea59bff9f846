//! Attention's memory beyond its inputs and outputs does not grow with the square of the sequence.

use gatewarp::attention::{
    AttentionGradientViews, AttentionOptions, AttentionSaved, Workspace, attention_backward_into,
    attention_forward_into,
};
use gatewarp::{DType, Device, Tensor};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Counts the bytes in use, and the most there ever were.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn grow(bytes: usize) {
    let now = IN_USE.fetch_add(bytes, SeqCst) + bytes;
    MOST.fetch_max(now, SeqCst);
}

// SAFETY: every call is handed to the system allocator as it came; counting touches no memory of the caller's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MIB: f64 = (1 << 20) as f64;
/// The figure promised: MiB beyond inputs and outputs at S = 16,384, D = 64.
const PROMISED: f64 = 32.0;

/// Runs `work` and returns how far memory rose above where it was, in MiB.
fn rise<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let before = IN_USE.load(SeqCst);
    MOST.store(before, SeqCst);
    let result = work();
    (result, (MOST.load(SeqCst) - before) as f64 / MIB)
}

#[test]
fn attention_needs_no_more_than_its_tiles() {
    // The counter itself: 8 MiB that are held for a moment.
    let (_, seen) = rise(|| std::hint::black_box(vec![1u8; 8 << 20]).len());
    assert!((8.0..9.0).contains(&seen), "8 MiB were counted as {seen}");

    let cpu = Device::cpu();
    let (length, dim) = (16_384, 64);
    let values = |step: f32| -> Tensor {
        let data: Vec<f32> = (0..length * dim).map(|i| (i as f32 * step).sin()).collect();
        Tensor::from_slice(&cpu, &data, &[1, 1, length, dim]).unwrap()
    };
    let (q, k, v, grad_o) = (values(0.11), values(0.13), values(0.17), values(0.19));
    let zeros = |shape: &[usize]| Tensor::zeros(&cpu, DType::F32, shape).unwrap();
    let (mut o, mut lse) = (zeros(&[1, 1, length, dim]), zeros(&[1, 1, length]));
    let (mut dq, mut dk, mut dv) = (zeros(o.shape()), zeros(o.shape()), zeros(o.shape()));
    let options = AttentionOptions { causal: true, ..AttentionOptions::default() };
    let (q, k, v) = (q.view(), k.view(), v.view());

    let (result, forward) = rise(|| {
        attention_forward_into(
            &q,
            &k,
            &v,
            &options,
            &mut o.view_mut(),
            &mut lse.view_mut(),
            Workspace::Allocate,
        )
    });
    result.unwrap();
    let saved = AttentionSaved { o: o.view(), lse: lse.view(), grad_o: grad_o.view(), grad_lse: None };
    let gradients = AttentionGradientViews {
        dq: Some(dq.view_mut()),
        dk: Some(dk.view_mut()),
        dv: Some(dv.view_mut()),
        drow_scale: None,
        ..Default::default()
    };
    let (result, backward) =
        rise(|| attention_backward_into(&q, &k, &v, &saved, &options, gradients, Workspace::Allocate));
    result.unwrap();

    println!(
        "S = {length}, D = {dim}: forward {forward:.2} MiB, backward {backward:.2} MiB beyond inputs and outputs"
    );
    assert!(forward <= PROMISED && backward <= PROMISED, "forward {forward} MiB, backward {backward} MiB");
    let last = o.to_vec::<f32>().unwrap();
    assert!(last.iter().all(|x| x.is_finite()), "the run did not compute attention");
}
