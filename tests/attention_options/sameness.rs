//! Results that must be the same however the data is stored or the call is cut.

use crate::case::{Case, case, option};
use crate::launch::Launch;
use crate::limits::lacking;
use crate::support::devices::TestDevice;
use crate::support::oracle_attention::Score;
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use gatewarp::attention::{
    AttentionOptions, AttentionOutput, QueryOffset, Sequences, Window, attention_forward,
};
use gatewarp::{Backend, DType, Device, Error, Layout, Result, Tensor};

fn tensor(device: &Device, random: &mut Random, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_slice(device, &random.values(shape.iter().product(), 1.0), shape)
}

fn same(what: &str, got: &[f32], want: &[f32]) -> std::result::Result<(), String> {
    crate::support::compare::same_bits(what, got, want)
}

/// A window that hides nothing. CUDA's faster kernels take plain dense calls only and add up in another order; with a window
/// both calls of a comparison run in the kernels that take every storage.
fn same_kernels(handle: &Device) -> Option<Window> {
    let all = Window { left: Window::UNLIMITED, right: Window::UNLIMITED };
    (handle.backend() == Backend::Cuda).then_some(all)
}

/// Packed sequences give the bits of one call for each sequence.
pub fn packed_is_each_sequence_alone(device: &TestDevice) -> std::result::Result<(), String> {
    let strategy = case(&[Score::Dot], option::PACKED, option::CAUSAL);
    check("packed_is_each_sequence_alone", device, CASES / 4, &strategy, |handle, case| {
        if lacking(handle.backend(), case, DType::F32) {
            return Ok(());
        }
        let data = case.data(DType::F32);
        let run = Launch::new(handle, DType::F32, case, &data).forward()?;
        let p = &data.problem;
        let floats = |values: &[f64]| -> Vec<f32> { values.iter().map(|&x| x as f32).collect() };
        let (q, k, v) = (floats(&p.q), floats(&p.k), floats(&p.v));
        for b in 0..p.batch {
            let part = |values: &[f32], heads: usize, slots: usize, len: usize, dim: usize| {
                let all = &values[b * heads * slots * dim..][..heads * slots * dim];
                let rows = |h: usize| all[h * slots * dim..][..len * dim].to_vec();
                Tensor::from_slice(
                    handle,
                    &(0..heads).flat_map(rows).collect::<Vec<_>>(),
                    &[1, heads, len, dim],
                )
            };
            let alone = || -> Result<AttentionOutput> {
                let q = part(&q, p.q_heads, p.q_slots, p.q_len[b], p.head_dim)?;
                let k = part(&k, p.kv_heads, p.kv_slots, p.kv_len[b], p.head_dim)?;
                let v = part(&v, p.kv_heads, p.kv_slots, p.kv_len[b], p.value_dim)?;
                let window = same_kernels(handle);
                let options = AttentionOptions { causal: p.causal, window, ..Default::default() };
                attention_forward(&q.view(), &k.view(), &v.view(), &options)
            };
            let alone = alone().map_err(|error| error.to_string())?;
            let got: Vec<f32> = (0..p.q_heads)
                .flat_map(|h| {
                    let first = p.row(b, h, 0) * p.value_dim;
                    floats(&run.o[first..][..p.q_len[b] * p.value_dim])
                })
                .collect();
            let want = alone.o.to_vec::<f32>().map_err(|error| error.to_string())?;
            same(&format!("sample {b}"), &got, &want)?;
        }
        Ok(())
    })
}

/// Keys in shuffled pages, some shared between samples, give the bits of the dense cache.
pub fn pages_are_the_dense_cache(device: &TestDevice) -> std::result::Result<(), String> {
    let run = |handle: &Device, seed: u64| -> Result<std::result::Result<(), String>> {
        let mut random = Random::new(seed, 1);
        let (batch, heads, group, size) =
            (1 + random.below(3), 1 + random.below(2), 1 + random.below(3), 16 << random.below(2));
        let (per_sample, dim, value_dim) = (1 + random.below(4), 1 + random.below(70), 1 + random.below(70));
        let q_len = if random.one_in(2) { 1 } else { 1 + random.below(20) };
        let pages = batch * per_sample + 3;
        let q = tensor(handle, &mut random, &[batch, heads * group, q_len, dim])?;
        let k = tensor(handle, &mut random, &[pages, heads, size, dim])?;
        let v = tensor(handle, &mut random, &[pages, heads, size, value_dim])?;
        let order = random.permutation(pages);
        // The first page of every sample is the same one: a shared prefix.
        let table: Vec<usize> =
            (0..batch * per_sample).map(|i| if i % per_sample == 0 { order[0] } else { order[i] }).collect();
        let lengths: Vec<i32> = (0..batch).map(|_| random.below(per_sample * size + 1) as i32).collect();
        let gather = |pool: &Tensor, dim: usize| -> Result<Tensor> {
            let values = pool.to_vec::<f32>()?;
            let mut dense = Vec::new();
            for b in 0..batch {
                for h in 0..heads {
                    for j in 0..per_sample * size {
                        let page = table[b * per_sample + j / size];
                        let row = (page * heads + h) * size + j % size;
                        dense.extend_from_slice(&values[row * dim..][..dim]);
                    }
                }
            }
            Tensor::from_slice(handle, &dense, &[batch, heads, per_sample * size, dim])
        };
        // Entries beyond a sample's length name no page.
        let words: Vec<i32> = (0..batch * per_sample)
            .map(|i| {
                let used = (lengths[i / per_sample] as usize).div_ceil(size);
                if i % per_sample < used { table[i] as i32 } else { -77 }
            })
            .collect();
        let words = Tensor::from_slice(handle, &words, &[batch, per_sample])?;
        let lengths = Tensor::from_slice(handle, &lengths, &[batch])?;
        let (window, kv_len) = (same_kernels(handle), Some(lengths.view()));
        let dense = AttentionOptions { causal: true, window, kv_len, ..Default::default() };
        let paged = AttentionOptions { sequences: Sequences::Paged { table: words.view() }, ..dense.clone() };
        let got = match attention_forward(&q.view(), &k.view(), &v.view(), &paged) {
            Err(Error::Unsupported { .. }) if crate::limits::paged_lacking(handle.backend()) => {
                return Ok(Ok(()));
            }
            other => other?,
        };
        let (k, v) = (gather(&k, dim)?, gather(&v, value_dim)?);
        let want = attention_forward(&q.view(), &k.view(), &v.view(), &dense)?;
        handle.synchronize()?;
        let compared = same("o", &got.o.to_vec()?, &want.o.to_vec()?).and(same(
            "lse",
            &got.lse.to_vec::<f32>()?,
            &want.lse.to_vec::<f32>()?,
        ));
        Ok(compared.map_err(|error| format!("seed {seed}: {error}")))
    };
    for seed in 0..48 {
        run(device.handle(seed as usize), seed).map_err(|error| format!("seed {seed}: {error}"))??;
    }
    Ok(())
}

/// The same seed gives the same bits, another seed others, and p = 0 is no dropout at all.
pub fn dropout_draws_the_same_words(device: &TestDevice) -> std::result::Result<(), String> {
    let handle = device.handle(0);
    let case = Case {
        batch: 2,
        kv_heads: 2,
        group: 1,
        q_len: 33,
        kv_len: 47,
        head_dim: 8,
        value_dim: 8,
        score: Score::Dot,
        options: option::DROPOUT,
        seed: 5,
    };
    if lacking(handle.backend(), &case, DType::F32) {
        return Ok(());
    }
    let mut data = case.data(DType::F32);
    let mut run = |p: f64, seed: u64| {
        data.problem.dropout = Some(crate::support::oracle_attention::Dropout { p, seed, offset: 0 });
        let run = Launch::new(handle, DType::F32, &case, &data).forward();
        run.map(|run| run.o.iter().map(|&x| x as f32).collect::<Vec<_>>())
    };
    let first = run(0.5, 1)?;
    same("the same seed", &run(0.5, 1)?, &first)?;
    if run(0.5, 2)? == first {
        return Err("another seed gives the same output".into());
    }
    let none = run(0.0, 1)?;
    let plain = Case { options: 0, ..case.clone() };
    let data = plain.data(DType::F32);
    let want = Launch::new(handle, DType::F32, &plain, &data).forward()?.o;
    same("p = 0", &none, &want.iter().map(|&x| x as f32).collect::<Vec<_>>())
}

/// One query at a time against the cache so far is the row of the causal prefill.
pub fn decode_is_prefill_row_by_row(device: &TestDevice) -> std::result::Result<(), String> {
    let run = |handle: &Device, seed: u64| -> Result<std::result::Result<(), String>> {
        let mut random = Random::new(seed, 2);
        let len = if seed == 0 { 700 } else { 1 + random.below(90) };
        let (heads, group, dim) = (1 + random.below(2), 1 + random.below(4), [8, 40, 64][random.below(3)]);
        let q = tensor(handle, &mut random, &[1, heads * group, len, dim])?;
        let k = tensor(handle, &mut random, &[1, heads, len, dim])?;
        let v = tensor(handle, &mut random, &[1, heads, len, dim])?;
        let prefill =
            AttentionOptions { causal: true, query_offset: QueryOffset::At(0), ..Default::default() };
        let whole = attention_forward(&q.view(), &k.view(), &v.view(), &prefill)?.o.to_vec::<f32>()?;
        let mut places: Vec<usize> = (0..4).map(|_| random.below(len)).collect();
        places.push(len - 1);
        for i in places {
            let strides = q.view().layout().strides().to_vec();
            let row = Layout::new(&[1, heads * group, 1, dim], &strides, i * dim)?;
            let length = Tensor::from_slice(handle, &[i as i32 + 1], &[1])?;
            let step = AttentionOptions { kv_len: Some(length.view()), ..Default::default() };
            let one = attention_forward(&q.view().with_layout(row)?, &k.view(), &v.view(), &step)?;
            let got = one.o.to_vec::<f32>()?;
            for h in 0..heads * group {
                for d in 0..dim {
                    let (got, want) = (got[h * dim + d], whole[(h * len + i) * dim + d]);
                    // Two orders of summation of values below 1.
                    if !((got - want).abs() <= 4e-6) {
                        return Ok(Err(format!(
                            "seed {seed} row {i} head {h}: {got:e}, prefill has {want:e}"
                        )));
                    }
                }
            }
        }
        Ok(Ok(()))
    };
    for seed in 0..12 {
        run(device.handle(seed as usize), seed).map_err(|error| format!("seed {seed}: {error}"))??;
    }
    Ok(())
}
