//! The kernels under the emulator, against f64, in the ways they could be wrong.

mod banks;
mod capture;
mod device_values;
mod formulas;
mod general;
mod inspect;
mod mma;
mod placed;
mod reference;

use crate::attention::*;
use crate::device::{Device, Schedule};
use crate::tensor::{Layout, Tensor, TensorMut, TensorRef};
use crate::{DType, Error};
use reference::{Bounded, Case, Expected, compare};

const SCHEDULES: [Schedule; 3] = [Schedule::InOrder, Schedule::Reversed, Schedule::Random(3)];

/// How a tensor lies in memory.
#[derive(Clone, Copy, Debug)]
enum Storage {
    /// Row-major, with misleading strides on dimensions of size 1.
    Plain,
    /// `[batch, row, head, dim]`.
    HeadsInside,
    /// Rows that start at odd addresses and have gaps.
    Odd,
}

impl Storage {
    fn layout(self, shape: &[usize]) -> Layout {
        let last = shape.len() - 1;
        match self {
            Self::Plain => {
                let mut strides = Layout::contiguous(shape).unwrap().strides().to_vec();
                for (stride, &size) in strides.iter_mut().zip(shape) {
                    *stride = if size == 1 { 1_000_003 } else { *stride };
                }
                Layout::new(shape, &strides, 0).unwrap()
            }
            Self::HeadsInside => {
                let mut order: Vec<usize> = (0..shape.len()).collect();
                order.swap(1, 2);
                let stored: Vec<usize> = order.iter().map(|&i| shape[i]).collect();
                Layout::contiguous(&stored).unwrap().permute(&order).unwrap()
            }
            Self::Odd => {
                let mut stored = shape.to_vec();
                stored[last] += 3;
                Layout::contiguous(&stored).unwrap().narrow(last, 1, shape[last]).unwrap()
            }
        }
    }
}

/// A tensor in some storage. Elements that the layout does not reach are NaN, before and after.
struct Stored {
    tensor: Tensor,
    layout: Layout,
}

impl Stored {
    fn new(device: &Device, storage: Storage, shape: &[usize], data: &[f32]) -> Self {
        let layout = storage.layout(shape);
        assert_eq!(layout.len(), data.len());
        let mut memory = vec![f32::NAN; layout.end() + 2];
        layout.indices().zip(data).for_each(|(at, &x)| memory[at] = x);
        Self { tensor: Tensor::from_slice(device, &memory, &[memory.len()]).unwrap(), layout }
    }

    fn output(device: &Device, storage: Storage, shape: &[usize]) -> Self {
        Self::new(device, storage, shape, &vec![f32::NAN; shape.iter().product()])
    }

    fn view(&self) -> TensorRef<'_> {
        self.tensor.view().with_layout(self.layout).unwrap()
    }

    fn view_mut(&mut self) -> TensorMut<'_> {
        self.tensor.view_mut().with_layout(self.layout).unwrap()
    }

    fn read(&self) -> Vec<f32> {
        let memory = self.tensor.to_vec::<f32>().unwrap();
        let mut untouched = vec![true; memory.len()];
        self.layout.indices().for_each(|at| untouched[at] = false);
        let overrun = (0..memory.len()).find(|&at| untouched[at] && !memory[at].is_nan());
        assert_eq!(overrun, None, "written outside the layout");
        self.layout.indices().map(|at| memory[at]).collect()
    }
}

/// The lists of [`ActiveHeads`] in device memory.
struct Lists {
    order: Tensor,
    kv_order: Tensor,
    counts: Tensor,
    active: Tensor,
    row_scale: Stored,
}

impl Lists {
    fn new(device: &Device, case: &Case, storage: Storage) -> Option<Self> {
        let (active, row_scale) = case.heads.as_ref()?;
        let group = case.q_heads / case.kv_heads;
        let kv_active: Vec<bool> = active.chunks(group).map(|heads| heads.contains(&true)).collect();
        let ordered = |active: &[bool]| -> Vec<u32> {
            let which = |wanted| (0..active.len()).filter(move |&i| active[i] == wanted).map(|i| i as u32);
            which(true).chain(which(false)).collect()
        };
        let count = |active: &[bool]| active.iter().filter(|&&a| a).count() as u32;
        let upload = |words: &[u32], shape: &[usize]| Tensor::from_slice(device, words, shape).unwrap();
        let rows = [case.batch, case.q_heads, case.q_len];
        Some(Self {
            order: upload(&ordered(active), &[active.len()]),
            kv_order: upload(&ordered(&kv_active), &[kv_active.len()]),
            counts: upload(&[count(active), count(&kv_active)], &[2]),
            active: upload(&active.iter().map(|&a| a.into()).collect::<Vec<_>>(), &rows[..2]),
            row_scale: Stored::new(device, storage, &rows, row_scale),
        })
    }

    fn heads(&self) -> ActiveHeads<'_> {
        ActiveHeads {
            order: self.order.view(),
            kv_order: self.kv_order.view(),
            counts: self.counts.view(),
            active: self.active.view(),
            row_scale: self.row_scale.view(),
        }
    }
}

/// A case in device memory, with what it computes.
struct Run {
    q: Stored,
    k: Stored,
    v: Stored,
    o: Stored,
    lse: Stored,
    dq: Stored,
    dk: Stored,
    dv: Stored,
    drow_scale: Stored,
}

#[derive(Clone, Copy)]
struct Want {
    dq: bool,
    dk: bool,
    dv: bool,
    drow_scale: bool,
}

impl Run {
    fn new(device: &Device, case: &Case, storage: Storage, want: Want) -> Result<Self> {
        let Case { batch, q_heads, kv_heads, q_len, kv_slots, head_dim, value_dim, .. } = *case;
        let (q_shape, o_shape) = ([batch, q_heads, q_len, head_dim], [batch, q_heads, q_len, value_dim]);
        let (k_shape, v_shape) =
            ([batch, kv_heads, kv_slots, head_dim], [batch, kv_heads, kv_slots, value_dim]);
        let rows = [batch, q_heads, q_len];
        let input = |shape: &[usize], data: &[f32]| Stored::new(device, storage, shape, data);
        let output = |shape: &[usize]| Stored::output(device, storage, shape);
        let mut run = Self {
            q: input(&q_shape, &case.q),
            k: input(&k_shape, &case.k),
            v: input(&v_shape, &case.v),
            o: output(&o_shape),
            lse: output(&rows),
            dq: output(&q_shape),
            dk: output(&k_shape),
            dv: output(&v_shape),
            drow_scale: output(&rows),
        };
        let lists = Lists::new(device, case, storage);
        // i64 words, the lengths with a stride; `integers_of_every_type` has the others.
        let lens: Option<Vec<i64>> =
            case.kv_len.as_ref().map(|lens| lens.iter().flat_map(|&len| [len, -1]).collect());
        let lens = lens.map(|lens| Tensor::from_slice(device, &lens, &[batch, 2]).unwrap());
        let offsets = case.offsets.as_ref().map(|o| Tensor::from_slice(device, o, &[batch]).unwrap());
        let strided = Layout::new(&[batch], &[2], 0).unwrap();
        let options = AttentionOptions {
            scale: Some(case.scale.into()),
            causal: case.causal,
            query_offset: offsets
                .as_ref()
                .map_or(QueryOffset::BottomRight, |o| QueryOffset::PerSample(o.view())),
            kv_len: lens.as_ref().map(|lens| lens.view().with_layout(strided).unwrap()),
            heads: lists.as_ref().map(Lists::heads),
            ..Default::default()
        };
        let (q, k, v) = (run.q.view(), run.k.view(), run.v.view());
        attention_forward_into(
            &q,
            &k,
            &v,
            &options,
            &mut run.o.view_mut(),
            &mut run.lse.view_mut(),
            Workspace::Allocate,
        )?;
        let grad_o = input(&o_shape, &case.grad_o);
        let grad_lse = case.grad_lse.as_ref().map(|g| input(&rows, g));
        let saved = AttentionSaved {
            o: run.o.view(),
            lse: run.lse.view(),
            grad_o: grad_o.view(),
            grad_lse: grad_lse.as_ref().map(Stored::view),
        };
        let gradients = AttentionGradientViews {
            dq: want.dq.then(|| run.dq.view_mut()),
            dk: want.dk.then(|| run.dk.view_mut()),
            dv: want.dv.then(|| run.dv.view_mut()),
            drow_scale: (want.drow_scale && lists.is_some()).then(|| run.drow_scale.view_mut()),
            ..Default::default()
        };
        attention_backward_into(&q, &k, &v, &saved, &options, gradients, Workspace::Allocate)?;
        device.synchronize()?;
        Ok(run)
    }

    fn outputs(&self) -> [(&'static str, Vec<f32>); 6] {
        let all = [
            ("o", &self.o),
            ("lse", &self.lse),
            ("dq", &self.dq),
            ("dk", &self.dk),
            ("dv", &self.dv),
            ("drow_scale", &self.drow_scale),
        ];
        all.map(|(name, stored)| (name, stored.read()))
    }

    fn bits(&self) -> Vec<Vec<u32>> {
        self.outputs().map(|(_, values)| values.into_iter().map(f32::to_bits).collect()).to_vec()
    }
}

type Result<T> = crate::Result<T>;

const ALL: Want = Want { dq: true, dk: true, dv: true, drow_scale: true };

fn emulated(schedule: Schedule) -> Device {
    Device::cuda_emulated(schedule).unwrap()
}

/// Runs a case under all schedules: the first is compared with f64, the others must give its bits.
fn check_against(case: &Case, storage: Storage, expected: &Expected) {
    let mut first: Option<Vec<Vec<u32>>> = None;
    for schedule in SCHEDULES {
        let run = Run::new(&emulated(schedule), case, storage, ALL).unwrap();
        if let Some(first) = &first {
            assert_eq!(run.bits(), *first, "{schedule:?} changes bits");
            continue;
        }
        let Expected { o, lse, dq, dk, dv, drow_scale } = expected;
        let no_gate = vec![None; drow_scale.len()];
        let drow_scale = if case.heads.is_some() { drow_scale } else { &no_gate };
        for ((name, got), want) in run.outputs().iter().zip([o, lse, dq, dk, dv, drow_scale]) {
            compare(name, got, want);
        }
        first = Some(run.bits());
    }
}

fn check(case: &Case, storage: Storage) {
    check_against(case, storage, &case.expected());
}

#[test]
fn every_variant_at_sizes_around_its_tiles() {
    // dims 1..=32, ..=64, ..=128; lengths 1, prime, tile ± 1, tile; query and value dimensions differ.
    check(&Case::new([1, 1, 1], [1, 1], [1, 1], 1), Storage::Plain);
    check(&Case::new([2, 2, 2], [63, 65], [8, 32], 2), Storage::Plain);
    check(&Case::new([1, 2, 1], [65, 130], [32, 20], 3), Storage::HeadsInside);
    check(&Case::new([1, 1, 1], [67, 129], [40, 64], 4), Storage::Plain);
    check(&Case::new([1, 2, 1], [64, 64], [33, 7], 5), Storage::Odd);
    check(&Case::new([1, 1, 1], [33, 97], [128, 72], 6), Storage::Plain);
    check(&Case::new([1, 2, 2], [66, 31], [65, 127], 7), Storage::Odd);
}

#[test]
fn causal_masks_at_every_alignment() {
    check(&Case::new([1, 1, 1], [130, 130], [16, 16], 10).causal(None), Storage::Plain);
    check(&Case::new([2, 1, 1], [70, 140], [16, 24], 11).causal(Some(vec![0, 69])), Storage::HeadsInside);
    check(&Case::new([3, 2, 1], [65, 70], [4, 3], 12).causal(Some(vec![-40, -65, 1 << 40])), Storage::Odd);
    // More queries than keys: the first rows see nothing.
    check(&Case::new([1, 1, 1], [90, 35], [72, 100], 13).causal(None), Storage::Plain);
    // The diagonal one step before and one after a tile's corner.
    for offset in [-1, 1, 63] {
        check(&Case::new([1, 1, 1], [130, 130], [4, 4], 15).causal(Some(vec![offset])), Storage::Plain);
        check(&Case::new([1, 1, 1], [66, 66], [128, 4], 16).causal(Some(vec![offset])), Storage::Plain);
    }
    check(&Case::new([1, 1, 1], [7, 5], [8, 8], 14).causal(Some(vec![-1 << 40])), Storage::Plain);
}

#[test]
fn lengths_of_samples() {
    let case = Case::new([4, 2, 1], [20, 130], [12, 40], 20).kv_len(&[0, 1, 64, 130]);
    check(&case, Storage::Plain);
    check(&case.clone().causal(None), Storage::HeadsInside);
    check(&case.causal(Some(vec![5, 0, 70, 128])), Storage::Odd);
}

#[test]
fn grouped_heads_large_scores_and_no_lse_gradient() {
    let mut case = Case::new([2, 6, 2], [9, 11], [16, 8], 30).causal(None);
    case.scale = -300.0;
    case.grad_lse = None;
    check(&case, Storage::Plain);
}

#[test]
fn listed_heads() {
    let case = Case::new([3, 4, 2], [70, 33], [16, 12], 40).heads(|pair| pair % 3 == 1).causal(None);
    check(&case, Storage::Plain);
    check(&Case::new([2, 4, 2], [5, 6], [68, 68], 41).heads(|_| false), Storage::Odd);
    // More work items than blocks: the persistent loop turns.
    check(&Case::new([30, 4, 2], [65, 3], [4, 4], 42).heads(|pair| pair % 7 != 0), Storage::HeadsInside);
}

#[test]
fn empty_tensors() {
    check(&Case::new([2, 2, 1], [3, 0], [4, 4], 50), Storage::Plain);
    check(&Case::new([2, 2, 1], [0, 3], [4, 4], 51), Storage::Plain);
    check(&Case::new([0, 2, 1], [3, 3], [4, 4], 52), Storage::Plain);
}

/// Poisons keys that no query sees: a tail past kv_len and keys past the last position, inside tiles that are read.
#[test]
fn a_masked_nan_never_enters() {
    for poison in [f32::NAN, f32::INFINITY] {
        for dims in [[8, 8], [64, 48], [80, 128]] {
            let mut case =
                Case::new([2, 2, 1], [42, 90], dims, 60).causal(Some(vec![10, 47])).kv_len(&[90, 77]);
            let expected = case.expected();
            for (b, j) in (0..2).flat_map(|b| (0..90).map(move |j| (b, j))) {
                if (0..42).any(|i| case.sees(b, i, j)) {
                    continue;
                }
                let key = case.key(b, 0, j);
                case.k[key * dims[0]..][..dims[0]].fill(poison);
                case.v[key * dims[1]..][..dims[1]].fill(poison);
            }
            check_against(&case, Storage::Plain, &expected);
        }
    }
}

/// One NaN key reaches exactly the rows that see it; one NaN query exactly the keys it sees.
#[test]
fn an_unmasked_nan_reaches_what_sees_it_and_no_more() {
    let nan = Some(Bounded { value: f64::NAN, bound: 0.0 });
    let clean = Case::new([1, 1, 1], [100, 100], [16, 16], 70).causal(None);
    let device = emulated(Schedule::Random(5));
    let mut case = clean.clone();
    case.k[80 * 16 + 3] = f32::NAN;
    case.v[70 * 16 + 5] = f32::NAN;
    let run = Run::new(&device, &case, Storage::Plain, ALL).unwrap();
    let mut expected = clean.expected();
    expected.lse[80..].fill(nan);
    expected.o[80 * 16..].fill(nan);
    (70..80).for_each(|row| expected.o[row * 16 + 5] = nan);
    expected.dq[70 * 16..].fill(nan);
    compare("o", &run.o.read(), &expected.o);
    compare("lse", &run.lse.read(), &expected.lse);
    compare("dq", &run.dq.read(), &expected.dq);

    // A NaN value that only the first row of a tile does not see.
    let corner = Case::new([1, 1, 1], [64, 128], [16, 16], 71).causal(Some(vec![62]));
    let mut case = corner.clone();
    case.v[63 * 16..64 * 16].fill(f32::NAN);
    let run = Run::new(&device, &case, Storage::Plain, ALL).unwrap();
    let mut expected = corner.expected();
    expected.o[16..].fill(nan);
    expected.dq[16..].fill(nan);
    compare("o", &run.o.read(), &expected.o);
    compare("dq", &run.dq.read(), &expected.dq);

    // Query 30 sees keys up to 30, or all of them, and never those past kv_len.
    for (offset, seen) in [(0, 31), (100, 95)] {
        let clean = clean.clone().kv_len(&[95]).causal(Some(vec![offset]));
        let mut case = clean.clone();
        case.q[30 * 16..][..16].fill(f32::NAN);
        case.grad_o[30 * 16..][..16].fill(f32::NAN);
        let run = Run::new(&device, &case, Storage::Plain, ALL).unwrap();
        let mut expected = clean.expected();
        expected.o[30 * 16..31 * 16].fill(nan);
        expected.dq[30 * 16..31 * 16].fill(nan);
        expected.dk[..seen * 16].fill(nan);
        expected.dv[..seen * 16].fill(nan);
        compare("o", &run.o.read(), &expected.o);
        compare("dq", &run.dq.read(), &expected.dq);
        compare("dk", &run.dk.read(), &expected.dk);
        compare("dv", &run.dv.read(), &expected.dv);
    }
}

#[test]
fn a_length_out_of_range_is_reported_and_spares_the_other_samples() {
    for bad in [-1, 12, i64::MAX, i64::MIN, (1 << 32) + 3] {
        let good = Case::new([3, 2, 1], [5, 11], [8, 4], 80).kv_len(&[11, 3, 7]);
        let mut case = good.clone();
        case.kv_len = Some(vec![11, bad, 7]);
        let device = emulated(Schedule::Random(80)); // of its own: status words are the device's
        let reported = Run::new(&device, &case, Storage::Plain, ALL).map(|_| ());
        assert!(matches!(reported, Err(Error::DeviceValue { .. })), "{bad}: {reported:?}");

        let q = Stored::new(&device, Storage::Plain, &[3, 2, 5, 8], &case.q);
        let k = Stored::new(&device, Storage::Plain, &[3, 1, 11, 8], &case.k);
        let v = Stored::new(&device, Storage::Plain, &[3, 1, 11, 4], &case.v);
        let kv_len = Tensor::from_slice(&device, &[11, bad, 7], &[3]).unwrap();
        let options = AttentionOptions { kv_len: Some(kv_len.view()), ..Default::default() };
        let out = attention_forward(&q.view(), &k.view(), &v.view(), &options).unwrap();
        assert!(out.o.to_vec::<f32>().is_err());
        let mut expected = good.expected();
        expected.o[2 * 5 * 4..4 * 5 * 4].fill(None); // None: NaN
        expected.lse[2 * 5..4 * 5].fill(None);
        compare("o", &out.o.to_vec::<f32>().unwrap(), &expected.o);
        compare("lse", &out.lse.to_vec::<f32>().unwrap(), &expected.lse);
    }
}

#[test]
fn integers_of_every_type() {
    let device = emulated(Schedule::Random(81)); // of its own: status words are the device's
    let case = Case::new([2, 1, 1], [6, 9], [4, 4], 85).causal(None);
    let [q, k, v] = [(6, &case.q), (9, &case.k), (9, &case.v)]
        .map(|(len, data)| Stored::new(&device, Storage::Plain, &[2, 1, len, 4], data));
    let attend = |options: &AttentionOptions<'_>| {
        attention_forward(&q.view(), &k.view(), &v.view(), options).unwrap().o.to_vec::<f32>()
    };
    let expect = |lens: &[i64], offsets: &[i64]| {
        let case = case.clone().kv_len(lens).causal(Some(offsets.to_vec()));
        case.expected().o
    };
    let far = [i64::from(u32::MAX), 1];
    let lens = [
        Tensor::from_slice(&device, &[9i32, 4], &[2]).unwrap(),
        Tensor::from_slice(&device, &[9u32, 4], &[2]).unwrap(),
        Tensor::from_slice(&device, &[9i64, 4], &[2]).unwrap(),
    ];
    let offsets = [
        (Tensor::from_slice(&device, &[-3i32, 1], &[2]).unwrap(), [-3, 1]),
        (Tensor::from_slice(&device, &[u32::MAX, 1], &[2]).unwrap(), far),
        (Tensor::from_slice(&device, &far, &[2]).unwrap(), far),
        (Tensor::from_slice(&device, &[-1i64 << 33, 1], &[2]).unwrap(), [-1 << 33, 1]),
    ];
    for (lens, (offsets, numbers)) in lens.iter().flat_map(|lens| offsets.iter().map(move |o| (lens, o))) {
        let options = AttentionOptions {
            causal: true,
            query_offset: QueryOffset::PerSample(offsets.view()),
            kv_len: Some(lens.view()),
            ..Default::default()
        };
        compare("o", &attend(&options).unwrap(), &expect(&[9, 4], numbers));
    }
    let bad = Tensor::from_slice(&device, &[u32::MAX, 1], &[2]).unwrap();
    let refused = attend(&AttentionOptions { kv_len: Some(bad.view()), ..Default::default() });
    assert!(matches!(refused, Err(Error::DeviceValue { .. })), "{refused:?}");
}

#[test]
fn gradients_do_not_depend_on_which_are_asked_for() {
    let case = Case::new([2, 4, 2], [70, 40], [20, 36], 90).causal(None).heads(|pair| pair != 2);
    let device = emulated(Schedule::InOrder);
    let all = Run::new(&device, &case, Storage::Plain, ALL).unwrap().bits();
    for mask in 0..16u32 {
        let [dq, dk, dv, drow_scale] = [0, 1, 2, 3].map(|bit| mask >> bit & 1 == 1);
        let run = Run::new(&device, &case, Storage::Plain, Want { dq, dk, dv, drow_scale }).unwrap();
        for (index, wanted) in [dq, dk, dv, drow_scale].into_iter().enumerate() {
            let got = &run.bits()[2 + index];
            if wanted {
                assert_eq!(*got, all[2 + index], "output {index} of request {mask:04b}");
            } else {
                assert!(got.iter().all(|&bits| f32::from_bits(bits).is_nan()), "{index} was not asked for");
            }
        }
    }
}

#[test]
fn a_sample_does_not_depend_on_its_neighbours() {
    let batch = Case::new([3, 2, 1], [70, 100], [24, 24], 100).causal(None).kv_len(&[100, 33, 71]);
    let device = emulated(Schedule::Reversed);
    let together = Run::new(&device, &batch, Storage::Plain, ALL).unwrap().bits();
    for b in 0..3 {
        let part = |data: &[f32]| data[b * data.len() / 3..(b + 1) * data.len() / 3].to_vec();
        let mut alone = Case::new([1, 2, 1], [70, 100], [24, 24], 0).causal(None);
        alone.kv_len = batch.kv_len.as_ref().map(|lens| vec![lens[b]]);
        alone.grad_lse = batch.grad_lse.as_ref().map(|g| part(g));
        (alone.q, alone.k, alone.v) = (part(&batch.q), part(&batch.k), part(&batch.v));
        alone.grad_o = part(&batch.grad_o);
        let alone = Run::new(&device, &alone, Storage::Plain, ALL).unwrap().bits();
        for (one, many) in alone.iter().zip(&together) {
            assert_eq!(one[..], many[b * many.len() / 3..(b + 1) * many.len() / 3]);
        }
    }
}

#[test]
fn inactive_heads_are_never_read() {
    let device = emulated(Schedule::InOrder);
    let none = Case::new([2, 4, 2], [10, 12], [8, 8], 110).heads(|_| false);
    let run = Run::new(&device, &none, Storage::Plain, ALL).unwrap();
    for (name, stored) in [("q", &run.q), ("k", &run.k), ("v", &run.v)] {
        let traffic = Device::emulated_traffic(&stored.tensor).unwrap();
        assert_eq!((traffic.bytes_loaded, traffic.bytes_stored), (0, 0), "{name}");
    }
    // Pairs 0 and 1 share the first key head of sample 0: a quarter of the queries, a quarter of the keys.
    let some = Case::new([2, 4, 2], [10, 12], [8, 8], 110).heads(|pair| pair < 2);
    let run = Run::new(&device, &some, Storage::Plain, ALL).unwrap();
    let read = |stored: &Stored| Device::emulated_traffic(&stored.tensor).unwrap().bytes_loaded;
    // Once in each of: forward, dq, and dk and dv together.
    assert_eq!(read(&run.q), 3 * 2 * 10 * 8 * 4);
    assert_eq!(read(&run.k), (2 + 2 + 1) * 12 * 8 * 4);
}

/// Lists are device memory that the host never sees: wrong ones must not become addresses.
#[test]
fn pairs_out_of_range_are_skipped() {
    let device = emulated(Schedule::InOrder);
    let case = Case::new([1, 2, 1], [5, 6], [4, 4], 115).heads(|_| true);
    let mut lists = Lists::new(&device, &case, Storage::Plain).unwrap();
    lists.order = Tensor::from_slice(&device, &[u32::MAX - 1, 1], &[2]).unwrap();
    lists.kv_order = Tensor::from_slice(&device, &[7u32], &[1]).unwrap();
    lists.counts = Tensor::from_slice(&device, &[u32::MAX, u32::MAX], &[2]).unwrap();
    let input = |shape: &[usize], data: &[f32]| Stored::new(&device, Storage::Plain, shape, data);
    let (q, k) = (input(&[1, 2, 5, 4], &case.q), input(&[1, 1, 6, 4], &case.k));
    let options = AttentionOptions { heads: Some(lists.heads()), ..Default::default() };
    let [mut o, mut dq, mut dk] = [[1, 2, 5, 4], [1, 2, 5, 4], [1, 1, 6, 4]]
        .map(|shape| Stored::output(&device, Storage::Plain, &shape));
    let mut lse = Stored::output(&device, Storage::Plain, &[1, 2, 5]);
    let (q, k) = (q.view(), k.view());
    attention_forward_into(&q, &k, &k, &options, &mut o.view_mut(), &mut lse.view_mut(), Workspace::Allocate)
        .unwrap();
    let saved = AttentionSaved { o: o.view(), lse: lse.view(), grad_o: q.clone(), grad_lse: None };
    let gradients =
        AttentionGradientViews { dq: Some(dq.view_mut()), dk: Some(dk.view_mut()), ..Default::default() };
    attention_backward_into(&q, &k, &k, &saved, &options, gradients, Workspace::Allocate).unwrap();
    let written = |stored: &Stored| -> Vec<bool> { stored.read().iter().map(|x| !x.is_nan()).collect() };
    assert_eq!(written(&o), [[false; 20], [true; 20]].concat());
    assert_eq!(written(&dq), [[false; 20], [true; 20]].concat());
    assert_eq!(written(&dk), [false; 24]);
}

#[test]
fn tiles_that_no_query_sees_are_skipped() {
    let device = emulated(Schedule::InOrder);
    let read = |case: &Case| {
        let (q, k) = (
            Stored::new(&device, Storage::Plain, &[1, 1, 256, 8], &case.q),
            Stored::new(&device, Storage::Plain, &[1, 1, 256, 8], &case.k),
        );
        let options = AttentionOptions { causal: case.causal, ..Default::default() };
        attention_forward(&q.view(), &k.view(), &q.view(), &options).unwrap();
        let tile = 64 * 8 * 4;
        let read = |stored: &Stored| Device::emulated_traffic(&stored.tensor).unwrap().bytes_loaded / tile;
        (read(&k), device.emulated_last_launch().unwrap().bytes_stored)
    };
    let stored = 256 * (8 + 1) * 4;
    let full = Case::new([1, 1, 1], [256, 256], [8, 8], 120);
    assert_eq!(read(&full), (16, stored));
    assert_eq!(read(&full.clone().causal(None)), (10, stored));
}

#[test]
fn a_host_list_of_lengths_is_checked_before_launch() {
    let device = emulated(Schedule::InOrder);
    let x = Tensor::zeros(&device, DType::F32, &[1, 1, 4, 8]).unwrap();
    let options = AttentionOptions {
        kv_len: Some(TensorRef::from_slice(&[5i32], &[1]).unwrap()),
        ..Default::default()
    };
    let refused = attention_forward(&x.view(), &x.view(), &x.view(), &options);
    assert!(matches!(refused, Err(Error::InvalidArgument { arg: "kv_len", .. })));
}
