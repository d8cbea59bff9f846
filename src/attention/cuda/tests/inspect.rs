//! Weights, entropies and appending, by what they must agree with: the output, each other, a plain copy.

use super::super::inspect;
use super::reference::numbers;
use crate::attention::append::Append;
use crate::attention::*;
use crate::device::{Device, Kind, Schedule};
use crate::ids::Ids;
use crate::tensor::Tensor;

const HEADS: usize = 4;
const QUERIES: usize = 37;
const KEYS: usize = 70;

fn floats(device: &Device, seed: u64, shape: &[usize]) -> Tensor {
    Tensor::from_slice(device, &numbers(seed, shape.iter().product()), shape).unwrap()
}

/// Σ_j p_ij v_j is o_i, and −Σ_j p_ij ln p_ij the entropy.
#[test]
fn weights_give_the_output_and_the_entropy() {
    let device = Device::cuda_emulated(Schedule::Random(21)).unwrap();
    let Kind::Cuda(cuda) = &device.0 else { panic!("not a CUDA device") };
    let w = floats(&device, 9, &[6]);
    let slopes = floats(&device, 8, &[HEADS]);
    for score in [Score::Dot, Score::Cosine, Score::Fidelity, Score::Additive { w: w.view() }] {
        let (q, k) = (floats(&device, 1, &[2, HEADS, QUERIES, 6]), floats(&device, 2, &[2, 2, KEYS, 6]));
        let v = floats(&device, 3, &[2, 2, KEYS, 3]);
        let lens = Tensor::from_slice(&device, &[70i64, 20], &[2]).unwrap();
        let options = AttentionOptions {
            score,
            scale: Some(1.5),
            causal: true,
            window: Some(Window { left: 30, right: 5 }),
            alibi: Some(slopes.view()),
            sinks: Some(slopes.view()),
            kv_len: Some(lens.view()),
            ..Default::default()
        };
        let output = attention_forward(&q.view(), &k.view(), &v.view(), &options).unwrap();
        let (q_view, k_view) = (q.view(), k.view());
        let problem = Problem::new("attention_weights", &q_view, &k_view, &k_view, &options).unwrap();
        let rows: Vec<[usize; 3]> = (0..2 * HEADS * QUERIES)
            .map(|row| [row / (HEADS * QUERIES), row / QUERIES % HEADS, row % QUERIES])
            .collect();
        let weights = inspect::weights(cuda, &problem, &output.lse.view(), &rows).unwrap();
        let entropy = inspect::entropy(cuda, &problem, &output.lse.view()).unwrap();
        let (weights, entropy) = (weights.to_vec::<f32>().unwrap(), entropy.to_vec::<f32>().unwrap());
        let (o, v) = (output.o.to_vec::<f32>().unwrap(), v.to_vec::<f32>().unwrap());
        for (row, &[b, h, i]) in rows.iter().enumerate() {
            let p = &weights[row * KEYS..][..KEYS];
            for d in 0..3 {
                let value = |j: usize| v[((b * 2 + h / 2) * KEYS + j) * 3 + d];
                let sum: f32 = (0..KEYS).map(|j| p[j] * value(j)).sum();
                let got = o[row * 3 + d];
                assert!((sum - got).abs() < 1e-5, "row {b} {h} {i}: {got} is not {sum}");
            }
            let want: f32 = p.iter().filter(|&&p| p > 0.0).map(|p| -p * p.ln()).sum();
            assert!((entropy[row] - want).abs() < 1e-4, "row {b} {h} {i}: {} is not {want}", entropy[row]);
            assert!(p[[70, 20][b]..].iter().all(|&p| p == 0.0), "a key that does not exist");
        }
    }
}

#[test]
fn appended_rows_lie_behind_the_old_ones() {
    let device = Device::cuda_emulated(Schedule::Random(22)).unwrap();
    let Kind::Cuda(cuda) = &device.0 else { panic!("not a CUDA device") };
    // Rows of 5 and of 8 floats: copied by 4 and by 16 bytes. Two pages a sample, or two slots of 16 keys.
    for paged in [true, false] {
        let (entries, rows) = if paged { (5, 16) } else { (2, 32) };
        let k_cache = floats(&device, 1, &[entries, 2, rows, 5]);
        let v_cache = floats(&device, 2, &[entries, 2, rows, 8]);
        let (k, v) = (floats(&device, 3, &[2, 2, 3, 5]), floats(&device, 4, &[2, 2, 3, 8]));
        let pages = [4i64, 0, 2, 1];
        let table = Tensor::from_slice(&device, &pages, &[2, 2]).unwrap();
        let table = Ids::new("test", "table", &table.view(), &[2, 2], &device, |_| Ok(())).unwrap();
        let lens = Tensor::from_slice(&device, &[14i32, 29], &[2]).unwrap();
        let lens = Ids::new("test", "kv_len", &lens.view(), &[2], &device, |_| Ok(())).unwrap();
        let before = [&k_cache, &v_cache].map(|cache| cache.to_vec::<f32>().unwrap());
        let call = Append {
            op: "attention_append",
            k_cache: &k_cache.view(),
            v_cache: &v_cache.view(),
            k: &k.view(),
            v: &v.view(),
            kv_len: &lens,
            table: paged.then_some(&table),
            slots: 32,
        };
        inspect::append(cuda, &call).unwrap();
        device.synchronize().unwrap();
        for (cache, new, mut want, dim) in
            [(&k_cache, &k, before[0].clone(), 5), (&v_cache, &v, before[1].clone(), 8)]
        {
            let new = new.to_vec::<f32>().unwrap();
            for (row, from) in new.chunks(dim).enumerate() {
                let (b, h, key) = (row / 6, row / 3 % 2, [14, 29][row / 6] + row % 3);
                let (entry, at) = if paged { (pages[b * 2 + key / 16] as usize, key % 16) } else { (b, key) };
                want[((entry * 2 + h) * rows + at) * dim..][..dim].copy_from_slice(from);
            }
            assert_eq!(cache.to_vec::<f32>().unwrap(), want);
        }
        // One row more than fits sample 1: reported, nothing of it written.
        let lens = Tensor::from_slice(&device, &[0i32, 30], &[2]).unwrap();
        let lens = Ids::new("test", "kv_len", &lens.view(), &[2], &device, |_| Ok(())).unwrap();
        let before = v_cache.to_vec::<f32>().unwrap();
        inspect::append(cuda, &Append { kv_len: &lens, ..call }).unwrap();
        assert!(matches!(device.synchronize(), Err(crate::Error::DeviceValue { .. })));
        let after = v_cache.to_vec::<f32>().unwrap();
        let changed: Vec<usize> = (0..after.len()).filter(|&at| after[at] != before[at]).collect();
        assert!(!changed.is_empty(), "sample 0 has room");
        let first_entry = if paged { 4 } else { 0 };
        assert!(changed.iter().all(|at| at / (2 * rows * 8) == first_entry), "{changed:?}");
    }
}
