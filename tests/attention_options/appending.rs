//! New keys and values behind those of a cache.

use crate::limits::lacking;
use crate::support::devices::TestDevice;
use crate::support::guarded::{Inner, element_indices, random_layout};
use crate::support::property::{CASES, check};
use crate::support::random::Random;
use gatewarp::attention::{AttentionOptions, Sequences, attention_append, attention_forward};
use gatewarp::{Backend, DType, Device, Error, Layout, Result, Tensor, TensorRef};
use half::{bf16, f16};
use proptest::prelude::*;

/// Elements by their bits, every one of them random: those of a view, and what lies around it.
struct Bits {
    memory: Tensor,
    layout: Layout,
    bits: Vec<u64>,
}

fn upload(device: &Device, dtype: DType, bits: &[u64]) -> Result<Tensor> {
    let shape = [bits.len()];
    match dtype {
        DType::F16 => {
            let values: Vec<f16> = bits.iter().map(|&x| f16::from_bits(x as u16)).collect();
            Tensor::from_slice(device, &values, &shape)
        }
        DType::BF16 => {
            let values: Vec<bf16> = bits.iter().map(|&x| bf16::from_bits(x as u16)).collect();
            Tensor::from_slice(device, &values, &shape)
        }
        DType::F64 => {
            let values: Vec<f64> = bits.iter().map(|&x| f64::from_bits(x)).collect();
            Tensor::from_slice(device, &values, &shape)
        }
        _ => {
            let values: Vec<f32> = bits.iter().map(|&x| f32::from_bits(x as u32)).collect();
            Tensor::from_slice(device, &values, &shape)
        }
    }
}

fn download(memory: &Tensor) -> Result<Vec<u64>> {
    Ok(match memory.dtype() {
        DType::F16 => memory.to_vec::<f16>()?.iter().map(|x| x.to_bits().into()).collect(),
        DType::BF16 => memory.to_vec::<bf16>()?.iter().map(|x| x.to_bits().into()).collect(),
        DType::F64 => memory.to_vec::<f64>()?.iter().map(|x| x.to_bits()).collect(),
        _ => memory.to_vec::<f32>()?.iter().map(|x| x.to_bits().into()).collect(),
    })
}

impl Bits {
    fn new(device: &Device, dtype: DType, shape: &[usize], random: &mut Random) -> Result<Self> {
        let layout = random_layout(shape, Inner::Contiguous, random);
        let mask = u64::MAX >> (64 - 8 * dtype.size());
        let bits: Vec<u64> = (0..layout.end() + 5).map(|_| random.word() & mask).collect();
        Ok(Self { memory: upload(device, dtype, &bits)?, layout, bits })
    }

    fn view(&self) -> Result<TensorRef<'_>> {
        self.memory.view().with_layout(self.layout)
    }

    /// Place in memory of row (b, h, i), column 0.
    fn at(&self, [b, h, i]: [usize; 3]) -> usize {
        let layout = &self.layout;
        let step =
            |dim: usize, at: usize| if layout.shape()[dim] > 1 { at * layout.strides()[dim] } else { 0 };
        layout.offset() + step(0, b) + step(1, h) + step(2, i)
    }
}

/// Integers on the device or on the host, in any type, every second word of their memory.
struct Integers {
    memory: Tensor,
    layout: Layout,
}

impl Integers {
    fn new(device: &Device, values: &[i64], shape: &[usize], random: &mut Random) -> Result<Self> {
        let host = Device::cpu();
        let on = if random.one_in(3) { &host } else { device };
        let mut strides = vec![2; shape.len()];
        for dim in (1..shape.len()).rev() {
            strides[dim - 1] = strides[dim] * shape[dim].max(1);
        }
        let layout = Layout::new(shape, &strides, 1)?;
        let mut spread = vec![-9i64; layout.end() + 1];
        element_indices(&layout).iter().zip(values).for_each(|(&at, &value)| spread[at] = value);
        let size = [spread.len()];
        let memory = match random.below(3) {
            0 => Tensor::from_slice(on, &spread, &size)?,
            1 => Tensor::from_slice(on, &spread.iter().map(|&x| x as u32).collect::<Vec<_>>(), &size)?,
            _ => Tensor::from_slice(on, &spread.iter().map(|&x| x as i32).collect::<Vec<_>>(), &size)?,
        };
        Ok(Self { memory, layout })
    }

    fn view(&self) -> Result<TensorRef<'_>> {
        self.memory.view().with_layout(self.layout)
    }
}

/// Every bit of the caches' memory: new rows where they belong, all else as before. Odd widths of 16-bit elements share words.
pub fn appended_rows_are_copied_bit_by_bit(device: &TestDevice) -> std::result::Result<(), String> {
    let seeds = any::<u64>().no_shrink();
    check("appended_rows_are_copied_bit_by_bit", device, CASES, &seeds, |handle, &seed| {
        copied(handle, seed).map_err(|error| error.to_string())?
    })
}

fn copied(handle: &Device, seed: u64) -> Result<std::result::Result<(), String>> {
    let mut random = Random::new(seed, 1);
    let types = [DType::F32, DType::F16, DType::BF16, DType::F64];
    let types = types.into_iter().filter(|&dtype| !lacking(handle.backend(), dtype)).collect::<Vec<_>>();
    let dtype = types[random.below(types.len())];
    let (batch, heads, new) = (1 + random.below(3), 1 + random.below(3), random.below(6));
    let dims = [1 + random.below(9), [1, 3, 8, 33, 64, 65, 129][random.below(7)]];
    let paged = random.one_in(2);
    let (per_sample, size) = (1 + random.below(3), 1 + random.below(20));
    let (entries, rows, slots) =
        if paged { (batch * per_sample + 2, size, per_sample * size) } else { (batch, size + 5, size + 5) };
    let new = new.min(slots);
    let lengths: Vec<i64> = (0..batch).map(|_| random.below(slots - new + 1) as i64).collect();
    // No page belongs to two samples; those that are not written may have any number.
    let order = random.permutation(entries.max(batch * per_sample));
    let table: Vec<i64> = (0..batch * per_sample)
        .map(|i| {
            let (first, b) = ((i % per_sample * size) as i64, i / per_sample);
            let written = first + size as i64 > lengths[b] && first < lengths[b] + new as i64;
            if written { order[i] as i64 } else { [-5, 1 << 30, order[i] as i64][random.below(3)] }
        })
        .collect();
    let kv_len = Integers::new(handle, &lengths, &[batch], &mut random)?;
    let pages = Integers::new(handle, &table, &[batch, per_sample], &mut random)?;
    let sequences = if paged { Sequences::Paged { table: pages.view()? } } else { Sequences::Dense };
    let mut caches = Vec::new();
    let mut fresh = Vec::new();
    for dim in dims {
        caches.push(Bits::new(handle, dtype, &[entries, heads, rows, dim], &mut random)?);
        fresh.push(Bits::new(handle, dtype, &[batch, heads, new, dim], &mut random)?);
    }
    {
        let [k_cache, v_cache] = &mut caches[..] else { unreachable!("two caches") };
        let mut k_view = k_cache.memory.view_mut().with_layout(k_cache.layout)?;
        let mut v_view = v_cache.memory.view_mut().with_layout(v_cache.layout)?;
        let (k, v) = (fresh[0].view()?, fresh[1].view()?);
        attention_append(&mut k_view, &mut v_view, &k, &v, &kv_len.view()?, &sequences)?;
    }
    handle.synchronize()?;
    for (name, (cache, from), dim) in
        [("k_cache", (&caches[0], &fresh[0]), dims[0]), ("v_cache", (&caches[1], &fresh[1]), dims[1])]
    {
        let mut want = cache.bits.clone();
        for (b, h, n) in (0..batch * heads * new).map(|i| (i / (heads * new), i / new % heads, i % new)) {
            let key = lengths[b] as usize + n;
            let place = if paged {
                [table[b * per_sample + key / size] as usize, h, key % size]
            } else {
                [b, h, key]
            };
            let (to, start) = (cache.at(place), from.at([b, h, n]));
            want[to..to + dim].copy_from_slice(&from.bits[start..start + dim]);
        }
        let got = download(&cache.memory)?;
        if let Some(at) = (0..got.len().max(want.len())).find(|&at| got.get(at) != want.get(at)) {
            let text = format!(
                "{name} of {dtype}, paged {paged}, lengths {lengths:?}, new {new}: element {at} is {:x?}, want {:x?}, was {:x}; {:?}",
                got.get(at),
                want.get(at),
                cache.bits[at],
                cache.layout
            );
            return Ok(Err(text));
        }
    }
    Ok(Ok(()))
}

fn values(device: &Device, random: &mut Random, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_slice(device, &random.values(shape.iter().product(), 1.0), shape)
}

/// A cache filled in steps, in slots or in pages, is attended to as the keys and values it was filled with.
pub fn appending_then_attending_is_one_shot(device: &TestDevice) -> std::result::Result<(), String> {
    for seed in 0..24 {
        one_shot(device.handle(seed as usize), seed)
            .map_err(|error| format!("seed {seed}: {error}"))?
            .map_err(|error| format!("seed {seed}: {error}"))?;
    }
    Ok(())
}

fn one_shot(handle: &Device, seed: u64) -> Result<std::result::Result<(), String>> {
    let mut random = Random::new(seed, 2);
    let (batch, heads, group) = (1 + random.below(2), 1 + random.below(2), 1 + random.below(2));
    let (dim, value_dim, len) = (1 + random.below(20), 1 + random.below(20), 1 + random.below(48));
    let queries = 1 + random.below(4);
    let q = values(handle, &mut random, &[batch, heads * group, queries, dim])?;
    let k = values(handle, &mut random, &[batch, heads, len, dim])?;
    let v = values(handle, &mut random, &[batch, heads, len, value_dim])?;
    let paged = seed.is_multiple_of(2);
    let (per_sample, size) = if paged { (4, 16) } else { (1, 64) };
    // What is beyond the keys must not be looked at.
    let entries = batch * per_sample;
    let cache = |dim: usize| {
        Tensor::from_slice(
            handle,
            &vec![f32::NAN; entries * heads * size * dim],
            &[entries, heads, size, dim],
        )
    };
    let (mut k_cache, mut v_cache) = (cache(dim)?, cache(value_dim)?);
    let order: Vec<i32> = random.permutation(entries).into_iter().map(|page| page as i32).collect();
    let order = Tensor::from_slice(handle, &order, &[batch, per_sample])?;
    let sequences = if paged { Sequences::Paged { table: order.view() } } else { Sequences::Dense };
    let mut done = 0;
    while done < len {
        let step = (1 + random.below(9)).min(len - done);
        let kv_len = Tensor::from_slice(handle, &vec![done as i32; batch], &[batch])?;
        attention_append(
            &mut k_cache.view_mut(),
            &mut v_cache.view_mut(),
            &k.view().narrow(2, done, step)?,
            &v.view().narrow(2, done, step)?,
            &kv_len.view(),
            &sequences,
        )?;
        done += step;
    }
    let kv_len = Tensor::from_slice(handle, &vec![len as i32; batch], &[batch])?;
    let options =
        AttentionOptions { causal: true, kv_len: Some(kv_len.view()), sequences, ..Default::default() };
    let got = attention_forward(&q.view(), &k_cache.view(), &v_cache.view(), &options)?;
    let plain = AttentionOptions { causal: true, ..Default::default() };
    let want = attention_forward(&q.view(), &k.view(), &v.view(), &plain)?;
    for (name, got, want) in [("o", &got.o, &want.o), ("lse", &got.lse, &want.lse)] {
        let (got, want) = (got.to_vec::<f32>()?, want.to_vec::<f32>()?);
        // Two orders of summation of values of a few units.
        let differs = |at: &usize| !(got[*at] == want[*at] || (got[*at] - want[*at]).abs() <= 8e-6);
        if let Some(at) = (0..want.len()).find(differs) {
            return Ok(Err(format!("{name}[{at}] is {:e}, in one shot {:e}", got[at], want[at])));
        }
    }
    Ok(Ok(()))
}

/// A page outside the cache, in device memory: the same error for an append and for a forward pass, and none for a good one
/// after it. On the host it is refused, and names the table.
pub fn a_bad_page_is_called_one_everywhere(device: &TestDevice) -> std::result::Result<(), String> {
    let handle = device.handle(0);
    let run = || -> Result<std::result::Result<(), String>> {
        let mut random = Random::new(3, 3);
        let (heads, dim, size) = (2, 5, 16);
        let q = values(handle, &mut random, &[2, heads, 1, dim])?;
        let pool = values(handle, &mut random, &[4, heads, size, dim])?;
        let fresh = values(handle, &mut random, &[2, heads, 2, dim])?;
        let kv_len = Tensor::from_slice(handle, &[20i32, 17], &[2])?;
        for bad in [-1i32, 4, i32::MAX, i32::MIN] {
            let table = Tensor::from_slice(handle, &[0, 1, 2, bad], &[2, 2])?;
            let sequences = Sequences::Paged { table: table.view() };
            let options = AttentionOptions {
                kv_len: Some(kv_len.view()),
                sequences: sequences.clone(),
                ..Default::default()
            };
            let forward = attention_forward(&q.view(), &pool.view(), &pool.view(), &options).map(drop);
            let forward = (forward, handle.synchronize());
            let mut caches =
                [values(handle, &mut random, pool.shape())?, values(handle, &mut random, pool.shape())?];
            let before = [caches[0].to_vec::<f32>()?, caches[1].to_vec::<f32>()?];
            let [k_cache, v_cache] = &mut caches;
            let appended = attention_append(
                &mut k_cache.view_mut(),
                &mut v_cache.view_mut(),
                &fresh.view(),
                &fresh.view(),
                &kv_len.view(),
                &sequences,
            );
            let appended = (appended, handle.synchronize());
            for (what, outcome) in [("forward", forward), ("append", appended)] {
                let is_right = match (handle.backend(), &outcome) {
                    (Backend::Cpu, (Err(Error::InvalidArgument { arg: "page_table", .. }), Ok(()))) => true,
                    (Backend::Cpu, _) => false,
                    (_, (Ok(()), Err(Error::DeviceValue { what }))) => {
                        *what == "a page number outside the cache"
                    }
                    _ => false,
                };
                if !is_right {
                    return Ok(Err(format!("{what} with page {bad}: {outcome:?}")));
                }
            }
            // Sample 1's page is the bad one: of it nothing is written. Sample 0 writes on a GPU, whose host sees no table.
            let size = heads * size * dim;
            for (cache, before) in caches.iter().zip(&before) {
                let after = cache.to_vec::<f32>()?;
                let changed: Vec<usize> = (0..4)
                    .filter(|page| after[page * size..][..size] != before[page * size..][..size])
                    .collect();
                let want: &[usize] = if handle.backend() == Backend::Cpu { &[] } else { &[1] };
                if changed != want {
                    return Ok(Err(format!("page {bad}: pages {changed:?} were written")));
                }
            }
            // Seen by the host together with the lengths, it is refused before the launch on every backend.
            let host = TensorRef::from_slice(&[20i32, 17], &[2])?;
            let entries = [0, 1, 2, bad];
            let table = TensorRef::from_slice(&entries, &[2, 2])?;
            let [k_cache, v_cache] = &mut caches;
            let outcome = attention_append(
                &mut k_cache.view_mut(),
                &mut v_cache.view_mut(),
                &fresh.view(),
                &fresh.view(),
                &host,
                &Sequences::Paged { table },
            );
            if !matches!(outcome, Err(Error::InvalidArgument { arg: "page_table", .. })) {
                return Ok(Err(format!("a host's page {bad}: {outcome:?}")));
            }
        }
        // A length without room is a length.
        let kv_len = Tensor::from_slice(handle, &[15i32, 3], &[2])?;
        let mut cache = [
            values(handle, &mut random, &[2, heads, 16, dim])?,
            values(handle, &mut random, &[2, heads, 16, dim])?,
        ];
        let before = cache[0].to_vec::<f32>()?;
        let [k_cache, v_cache] = &mut cache;
        let outcome = attention_append(
            &mut k_cache.view_mut(),
            &mut v_cache.view_mut(),
            &fresh.view(),
            &fresh.view(),
            &kv_len.view(),
            &Sequences::Dense,
        );
        let outcome = (outcome, handle.synchronize());
        let is_right = match &outcome {
            (Err(Error::InvalidArgument { arg: "kv_len", .. }), Ok(())) => handle.backend() == Backend::Cpu,
            (Ok(()), Err(Error::DeviceValue { what })) => what.contains("length"),
            _ => false,
        };
        let half = before.len() / 2;
        if !is_right || cache[0].to_vec::<f32>()?[..half] != before[..half] {
            return Ok(Err(format!("a length without room: {outcome:?}")));
        }
        Ok(Ok(()))
    };
    run().map_err(|error| error.to_string())?
}
