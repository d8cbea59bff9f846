//! Packed and paged sequences, decoding, wide vectors, appending, looking inside: against dense calls and plain loops.

use super::formulas::{random, with_threads};
use crate::attention::*;
use crate::device::Device;
use crate::tensor::{Layout, Tensor, TensorMut, TensorRef};

fn tensor(data: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(&Device::cpu(), data, shape).unwrap()
}

fn noise(shape: &[usize], seed: u64) -> Tensor {
    tensor(&random(shape.iter().product(), seed, 1.0), shape)
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.to_vec::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
}

/// Rows `start..start + len` of dimension 2, all batches.
fn part(t: &Tensor, start: usize, len: usize) -> Vec<u32> {
    t.view().narrow(2, start, len).unwrap().to_vec::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
}

const Q_LENGTHS: [usize; 5] = [3, 0, 70, 1, 65];
const K_LENGTHS: [usize; 5] = [9, 4, 70, 130, 0];

fn starts(lengths: &[usize]) -> Vec<i32> {
    let mut at = 0;
    let ends = lengths.iter().map(|n| {
        at += *n as i32;
        at
    });
    std::iter::once(0).chain(ends.collect::<Vec<_>>()).collect()
}

#[test]
fn packed_samples_are_dense_samples_to_the_bit() {
    let (cu_q, cu_k) = (starts(&Q_LENGTHS), starts(&K_LENGTHS));
    // Two rows at either end that belong to nobody.
    let (q_rows, k_rows) = (cu_q[5] as usize + 2, cu_k[5] as usize + 2);
    let (q, k, v) =
        (noise(&[1, 4, q_rows, 12], 1), noise(&[1, 2, k_rows, 12], 2), noise(&[1, 2, k_rows, 7], 3));
    let grad = noise(&[1, 4, q_rows, 7], 4);
    let sequences = Sequences::Packed {
        cu_q: TensorRef::from_slice(&cu_q, &[6]).unwrap(),
        cu_k: TensorRef::from_slice(&cu_k, &[6]).unwrap(),
        max_q: 70,
        max_k: 130,
    };
    for causal in [false, true] {
        let options = AttentionOptions { causal, sequences: sequences.clone(), ..Default::default() };
        let out = attention_forward(&q.view(), &k.view(), &v.view(), &options).unwrap();
        let kept =
            AttentionSaved { o: out.o.view(), lse: out.lse.view(), grad_o: grad.view(), grad_lse: None };
        let g =
            attention_backward(&q.view(), &k.view(), &v.view(), &kept, &options, WantGradients::default())
                .unwrap();
        for b in 0..5 {
            let (q_at, k_at, q_len, k_len) = (cu_q[b] as usize, cu_k[b] as usize, Q_LENGTHS[b], K_LENGTHS[b]);
            let cut = |t: &Tensor, at: usize, len: usize| {
                let view = t.view().narrow(2, at, len).unwrap();
                tensor(&view.to_vec::<f32>().unwrap(), view.shape())
            };
            let (q, k, v) = (cut(&q, q_at, q_len), cut(&k, k_at, k_len), cut(&v, k_at, k_len));
            let grad = cut(&grad, q_at, q_len);
            let dense = AttentionOptions { causal, ..Default::default() };
            let want = attention_forward(&q.view(), &k.view(), &v.view(), &dense).unwrap();
            assert_eq!(part(&out.o, q_at, q_len), bits(&want.o), "o of sample {b}");
            assert_eq!(part(&out.lse, q_at, q_len), bits(&want.lse), "lse of sample {b}");
            let kept = AttentionSaved {
                o: want.o.view(),
                lse: want.lse.view(),
                grad_o: grad.view(),
                grad_lse: None,
            };
            let want =
                attention_backward(&q.view(), &k.view(), &v.view(), &kept, &dense, WantGradients::default())
                    .unwrap();
            assert_eq!(part(g.dq.as_ref().unwrap(), q_at, q_len), bits(&want.dq.unwrap()), "dq of {b}");
            assert_eq!(part(g.dk.as_ref().unwrap(), k_at, k_len), bits(&want.dk.unwrap()), "dk of {b}");
            assert_eq!(part(g.dv.as_ref().unwrap(), k_at, k_len), bits(&want.dv.unwrap()), "dv of {b}");
        }
        let rest = out.o.view().narrow(2, q_rows - 2, 2).unwrap().to_vec::<f32>().unwrap();
        assert!(rest.iter().all(|&x| x == 0.0), "rows of no sample");
    }
}

#[test]
fn packed_options_are_indexed_within_the_sample() {
    let (cu_q, cu_k) = (starts(&Q_LENGTHS), starts(&K_LENGTHS));
    let (q_rows, k_rows) = (cu_q[5] as usize, cu_k[5] as usize);
    let (q, k, v) =
        (noise(&[1, 4, q_rows, 8], 1), noise(&[1, 2, k_rows, 8], 2), noise(&[1, 2, k_rows, 8], 3));
    // The same samples in slots of 70 queries and 130 keys.
    let pad = |t: &Tensor, starts: &[i32], slots: usize| {
        let (heads, data) = (t.shape()[1], t.to_vec::<f32>().unwrap());
        let mut out = vec![0.0; 5 * heads * slots * 8];
        for b in 0..5 {
            let (at, len) = (starts[b] as usize, (starts[b + 1] - starts[b]) as usize);
            for h in 0..heads {
                let rows = &data[(h * t.shape()[2] + at) * 8..][..len * 8];
                out[(b * heads + h) * slots * 8..][..len * 8].copy_from_slice(rows);
            }
        }
        tensor(&out, &[5, heads, slots, 8])
    };
    let lengths: Vec<i64> = K_LENGTHS.iter().map(|&n| n as i64).collect();
    let (bias, slopes) = (noise(&[5, 4, 70, 130], 4), noise(&[4], 5));
    let mask: Vec<u8> = random(70 * 130, 6, 1.0).iter().map(|&x| u8::from(x > -0.5)).collect();
    let offsets: Vec<i64> = (0..5).map(|b| lengths[b] - Q_LENGTHS[b] as i64).collect();
    let dense = AttentionOptions {
        kv_len: Some(TensorRef::from_slice(&lengths, &[5]).unwrap()),
        query_offset: QueryOffset::PerSample(TensorRef::from_slice(&offsets, &[5]).unwrap()),
        window: Some(Window { left: 60, right: 9 }),
        bias: Some(bias.view()),
        mask: Some(TensorRef::from_slice(&mask, &[1, 1, 70, 130]).unwrap()),
        alibi: Some(slopes.view()),
        dropout: Some(Dropout { p: 0.3, seed: Seed::Host { seed: 9, offset: 1 << 40 } }),
        ..Default::default()
    };
    let packed = AttentionOptions {
        kv_len: None,
        query_offset: QueryOffset::BottomRight,
        sequences: Sequences::Packed {
            cu_q: TensorRef::from_slice(&cu_q, &[6]).unwrap(),
            cu_k: TensorRef::from_slice(&cu_k, &[6]).unwrap(),
            max_q: 70,
            max_k: 130,
        },
        ..dense.clone()
    };
    let (qs, ks, vs) = (pad(&q, &cu_q, 70), pad(&k, &cu_k, 130), pad(&v, &cu_k, 130));
    let want = attention_forward(&qs.view(), &ks.view(), &vs.view(), &dense).unwrap();
    let got = attention_forward(&q.view(), &k.view(), &v.view(), &packed).unwrap();
    for b in 0..5 {
        let (at, len) = (cu_q[b] as usize, Q_LENGTHS[b]);
        let want = want.o.view().narrow(0, b, 1).unwrap().narrow(2, 0, len).unwrap().to_vec::<f32>().unwrap();
        let want: Vec<u32> = want.iter().map(|x| x.to_bits()).collect();
        assert_eq!(part(&got.o, at, len), want, "sample {b}");
    }
}

#[test]
fn pages_are_a_dense_cache_to_the_bit() {
    let (pages, size, lengths) = (40, 16, [150i64, 0, 33]);
    // Out of order, two pages shared by two samples, and rubbish beyond the lengths.
    let mut table = vec![i32::MAX; 3 * 12];
    for page in 0..10 {
        table[page] = ((page * 7 + 3) % pages) as i32;
    }
    (table[24], table[25], table[26]) = (3, 39, 10);
    let (k_pages, v_pages) = (noise(&[pages, 2, size, 9], 1), noise(&[pages, 2, size, 20], 2));
    let gather = |t: &Tensor| -> Tensor {
        let [_, heads, _, dim]: [usize; 4] = t.shape().try_into().unwrap();
        let data = t.to_vec::<f32>().unwrap();
        let mut out = vec![f32::NAN; 3 * heads * 192 * dim];
        for b in 0..3 {
            for (h, j) in (0..heads).flat_map(|h| (0..lengths[b] as usize).map(move |j| (h, j))) {
                let page = table[b * 12 + j / size] as usize;
                let from = ((page * heads + h) * size + j % size) * dim;
                out[((b * heads + h) * 192 + j) * dim..][..dim].copy_from_slice(&data[from..from + dim]);
            }
        }
        tensor(&out, &[3, heads, 192, dim])
    };
    let (k, v) = (gather(&k_pages), gather(&v_pages));
    let kv_len = TensorRef::from_slice(&lengths, &[3]).unwrap();
    let sequences = Sequences::Paged { table: TensorRef::from_slice(&table, &[3, 12]).unwrap() };
    for q_len in [1, 5, 40] {
        let q = noise(&[3, 6, q_len, 9], 3);
        let dense = AttentionOptions { causal: true, kv_len: Some(kv_len.clone()), ..Default::default() };
        let paged = AttentionOptions { sequences: sequences.clone(), ..dense.clone() };
        let want = attention_forward(&q.view(), &k.view(), &v.view(), &dense).unwrap();
        let got = attention_forward(&q.view(), &k_pages.view(), &v_pages.view(), &paged).unwrap();
        assert_eq!((bits(&got.o), bits(&got.lse)), (bits(&want.o), bits(&want.lse)), "{q_len} queries");
    }
}

/// o and lse in f64, for f32 inputs `[1, h, n, d]` of one key head.
fn loops(q: &[f32], k: &[f32], v: &[f32], dims: [usize; 2], sink: Option<f64>) -> (Vec<f64>, Vec<f64>) {
    let scale = 1.0 / (dims[0] as f64).sqrt();
    let (mut o, mut lse) = (Vec::new(), Vec::new());
    for q in q.chunks_exact(dims[0]) {
        let score =
            |k: &[f32]| scale * q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum::<f64>();
        let z: Vec<f64> = k.chunks_exact(dims[0]).map(score).collect();
        let sum: f64 = z.iter().map(|z| z.exp()).sum::<f64>() + sink.map_or(0.0, f64::exp);
        lse.push(sum.ln());
        for e in 0..dims[1] {
            o.push(z.iter().enumerate().map(|(j, z)| z.exp() / sum * f64::from(v[j * dims[1] + e])).sum());
        }
    }
    (o, lse)
}

fn close(got: &Tensor, want: &[f64], bound: f64) {
    let got = got.to_vec::<f32>().unwrap();
    assert_eq!(got.len(), want.len());
    for (n, (&got, &want)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(got) - want).abs() <= bound, "[{n}] = {got}, want {want}");
    }
}

#[test]
fn decoding_is_the_formula_whatever_the_threads_and_the_batch() {
    for (heads, q_len, keys) in [(6, 1, 2500), (1, 1, 1025), (3, 4, 3000), (70, 1, 1100)] {
        let (q, k, v) =
            (noise(&[1, heads, q_len, 16], 1), noise(&[1, 1, keys, 16], 2), noise(&[1, 1, keys, 8], 3));
        let sinks = noise(&[heads], 4);
        for sink in [false, true] {
            let options = AttentionOptions { sinks: sink.then(|| sinks.view()), ..Default::default() };
            let run = || attention_forward(&q.view(), &k.view(), &v.view(), &options).unwrap();
            let got = with_threads(1, run);
            let (data, k, v) = (q.to_vec::<f32>().unwrap(), k.to_vec().unwrap(), v.to_vec().unwrap());
            let mut want = (Vec::new(), Vec::new());
            for h in 0..heads {
                let sink = sink.then(|| f64::from(sinks.to_vec::<f32>().unwrap()[h]));
                let (o, lse) = loops(&data[h * q_len * 16..][..q_len * 16], &k, &v, [16, 8], sink);
                want.0.extend(o);
                want.1.extend(lse);
            }
            close(&got.o, &want.0, 2e-6);
            close(&got.lse, &want.1, 3e-6);
            for threads in [2, 5] {
                let again = with_threads(threads, run);
                assert_eq!((bits(&again.o), bits(&again.lse)), (bits(&got.o), bits(&got.lse)));
            }
        }
    }
}

#[test]
fn a_decoded_sample_does_not_see_its_batch() {
    let (q, k, v) = (noise(&[3, 4, 1, 16], 1), noise(&[3, 2, 2600, 16], 2), noise(&[3, 2, 2600, 16], 3));
    let lengths = [2600i64, 1300, 7];
    let options = |lengths: &'static [i64]| AttentionOptions {
        kv_len: Some(TensorRef::from_slice(lengths, &[lengths.len()]).unwrap()),
        window: Some(Window { left: 1500, right: 0 }),
        ..Default::default()
    };
    let all: &'static [i64] = Box::leak(Box::new(lengths));
    let got = attention_forward(&q.view(), &k.view(), &v.view(), &options(all)).unwrap();
    for b in 0..3 {
        let cut = |t: &Tensor| {
            let view = t.view().narrow(0, b, 1).unwrap();
            tensor(&view.to_vec::<f32>().unwrap(), view.shape())
        };
        let (q, k, v) = (cut(&q), cut(&k), cut(&v));
        let one = attention_forward(&q.view(), &k.view(), &v.view(), &options(&all[b..b + 1])).unwrap();
        assert_eq!(bits(&cut(&got.o)), bits(&one.o), "sample {b}");
        assert_eq!(bits(&cut(&got.lse)), bits(&one.lse), "sample {b}");
    }
}

#[test]
fn wide_vectors_match_the_formula() {
    for (dim, value_dim, magnitude) in [(512, 8, 1.0), (1000, 1000, 1.0), (1025, 3, 0.5), (16_384, 300, 0.2)]
    {
        let q = tensor(&random(5 * dim, 1, magnitude), &[1, 1, 5, dim]);
        let k = tensor(&random(7 * dim, 2, magnitude), &[1, 1, 7, dim]);
        let v = noise(&[1, 1, 7, value_dim], 3);
        let out = attention_forward(&q.view(), &k.view(), &v.view(), &AttentionOptions::default()).unwrap();
        let data = |t: &Tensor| t.to_vec::<f32>().unwrap();
        let (o, lse) = loops(&data(&q), &data(&k), &data(&v), [dim, value_dim], None);
        close(&out.o, &o, 1e-4);
        close(&out.lse, &lse, 1e-4);
    }
}

#[test]
fn appending_in_steps_is_one_cache() {
    let (k, v) = (noise(&[2, 2, 40, 6], 1), noise(&[2, 2, 40, 5], 2));
    for paged in [false, true] {
        let table = [4i32, 0, 2, 3, 5, 1];
        let (k_shape, v_shape) =
            if paged { ([6, 2, 16, 6], [6, 2, 16, 5]) } else { ([2, 2, 48, 6], [2, 2, 48, 5]) };
        let mut k_cache = vec![f32::NAN; k_shape.iter().product()];
        let mut v_cache = vec![f32::NAN; v_shape.iter().product()];
        let sequences = if paged {
            Sequences::Paged { table: TensorRef::from_slice(&table, &[2, 3]).unwrap() }
        } else {
            Sequences::Dense
        };
        for (at, new) in [(0, 3), (3, 0), (3, 20), (23, 17)] {
            let lengths = [at as i64; 2];
            attention_append(
                &mut TensorMut::from_slice(&mut k_cache, &k_shape).unwrap(),
                &mut TensorMut::from_slice(&mut v_cache, &v_shape).unwrap(),
                &k.view().narrow(2, at, new).unwrap(),
                &v.view().narrow(2, at, new).unwrap(),
                &TensorRef::from_slice(&lengths, &[2]).unwrap(),
                &sequences,
            )
            .unwrap();
        }
        let q = noise(&[2, 4, 3, 6], 3);
        let lengths = [40i64; 2];
        let options = AttentionOptions {
            kv_len: Some(TensorRef::from_slice(&lengths, &[2]).unwrap()),
            sequences,
            ..Default::default()
        };
        let (k_view, v_view) = (
            TensorRef::from_slice(&k_cache, &k_shape).unwrap(),
            TensorRef::from_slice(&v_cache, &v_shape).unwrap(),
        );
        let got = attention_forward(&q.view(), &k_view, &v_view, &options).unwrap();
        let want = attention_forward(&q.view(), &k.view(), &v.view(), &AttentionOptions::default()).unwrap();
        assert_eq!((bits(&got.o), bits(&got.lse)), (bits(&want.o), bits(&want.lse)), "paged {paged}");
        // No room, and a page that does not exist.
        let full = [47i64, 0];
        let error = attention_append(
            &mut TensorMut::from_slice(&mut k_cache, &k_shape).unwrap(),
            &mut TensorMut::from_slice(&mut v_cache, &v_shape).unwrap(),
            &k.view().narrow(2, 0, 2).unwrap(),
            &v.view().narrow(2, 0, 2).unwrap(),
            &TensorRef::from_slice(&full, &[2]).unwrap(),
            &Sequences::Dense,
        );
        assert!(error.is_err(), "{error:?}");
    }
}

#[test]
fn weights_rebuild_the_output_and_their_entropy() {
    let (q, k, v) = (noise(&[2, 4, 30, 8], 1), noise(&[2, 2, 150, 8], 2), noise(&[2, 2, 150, 5], 3));
    // Slopes below 1/40, so that scores and their rounding stay small.
    let (slopes, sinks) = (tensor(&random(4, 4, 0.025), &[4]), noise(&[4], 5));
    for score in [Score::Dot, Score::Cosine, Score::Fidelity] {
        let options = AttentionOptions {
            score,
            causal: true,
            softcap: Some(1.5),
            alibi: Some(slopes.view()),
            sinks: Some(sinks.view()),
            ..Default::default()
        };
        let out = attention_forward(&q.view(), &k.view(), &v.view(), &options).unwrap();
        let rows: Vec<AttentionRow> = [(0, 0, 0), (1, 3, 29), (0, 2, 17)]
            .map(|(sample, head, query)| AttentionRow { sample, head, query })
            .to_vec();
        let p = attention_weights(&q.view(), &k.view(), &out.lse.view(), &options, &rows).unwrap();
        let entropy = attention_entropy(&q.view(), &k.view(), &out.lse.view(), &options).unwrap();
        let (p, entropy) = (p.to_vec::<f32>().unwrap(), entropy.to_vec::<f32>().unwrap());
        let (o, values) = (out.o.to_vec::<f32>().unwrap(), v.to_vec::<f32>().unwrap());
        for (p, row) in p.chunks_exact(150).zip(&rows) {
            let at = (row.sample * 4 + row.head) * 30 + row.query;
            for e in 0..5 {
                let value = |j: usize| values[((row.sample * 2 + row.head / 2) * 150 + j) * 5 + e];
                let sum: f32 = p.iter().enumerate().map(|(j, p)| p * value(j)).sum();
                assert!((sum - o[at * 5 + e]).abs() < 2e-6, "{row:?}");
            }
            let want: f32 = p.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
            assert!((entropy[at] - want).abs() < 2e-5 && p[121 + row.query..].iter().all(|&p| p == 0.0));
        }
    }
    let bad = [AttentionRow { sample: 0, head: 4, query: 0 }];
    let lse = noise(&[2, 4, 30], 6);
    let options = AttentionOptions::default();
    assert!(attention_weights(&q.view(), &k.view(), &lse.view(), &options, &bad).is_err());
}

#[test]
fn plans_count_what_masks_skip() {
    let x = noise(&[1, 2, 512, 8], 1);
    let plan =
        |options: &AttentionOptions<'_>| attention_plan(&x.view(), &x.view(), &x.view(), options).unwrap();
    let full = plan(&AttentionOptions::default());
    // 8 tiles of queries by 4 tiles of keys, for each head.
    assert_eq!((full.tiles_visited, full.tiles_total), (64, 64));
    let causal = plan(&AttentionOptions { causal: true, ..Default::default() });
    assert_eq!((causal.tiles_visited, causal.tiles_total), (40, 64));
    let window = Some(Window { left: 63, right: 0 });
    assert_eq!(plan(&AttentionOptions { window, ..Default::default() }).tiles_visited, 2 * (8 + 3));
    // The first half of the keys, for everybody.
    let mask: Vec<u8> = (0..512).map(|j| u8::from(j < 256)).collect();
    let mask = TensorRef::from_slice(&mask, &[1, 1, 1, 512]).unwrap();
    let half = plan(&AttentionOptions { mask: Some(mask), ..Default::default() });
    assert_eq!(half.tiles_visited, 32);
    assert!(half.explain().contains("32 of 64 visited (50.0%)"), "{}", half.explain());
}

#[test]
fn strided_options_are_read_where_they_are() {
    let (q, k) = (noise(&[1, 2, 66, 8], 1), noise(&[1, 2, 130, 8], 2));
    // A bias stored [key][query], and one head's for both.
    let bias = random(130 * 66, 3, 2.0);
    let turned: Vec<f32> = (0..66 * 130).map(|n| bias[n % 130 * 66 + n / 130]).collect();
    let run = |bias: TensorRef<'_>| {
        let options = AttentionOptions { bias: Some(bias), ..Default::default() };
        bits(&attention_forward(&q.view(), &k.view(), &k.view(), &options).unwrap().o)
    };
    let strided = Layout::new(&[1, 2, 66, 130], &[0, 0, 1, 66], 0).unwrap();
    let dense = TensorRef::from_slice(&turned, &[1, 1, 66, 130]).unwrap();
    assert_eq!(run(TensorRef::strided(&bias, strided).unwrap()), run(dense));
}
